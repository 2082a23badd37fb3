//! Simulated trials: an executor and a clock in one thread. Hours pass as soon as nobody has anything to do.
//!
//! What comes of a trial follows from its case and its attempt alone, so that the result of a study does not depend on
//! crashes; when it ends is chance. It must never report what the contract of an executor forbids, but for reports of
//! attempts that are over, which a fence has to stop.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::random::Random;
use super::world::{INPUT, World};
use crate::engine::step::Now;
use crate::engine::{Control, ShutdownHandle, Timing};
use crate::executor::local::parts::{
    Amiss, AttemptError, EndedAttemptDir, Grounds, Parents, Room, Syncer, ToSync, Unsynced, discard_doubtful,
    hand_on, keep_outputs, make, reported, shown_by, take,
};
use crate::executor::{AttemptReport, Differs, Executor, ExecutorError, ExecutorEvent, Job};
use crate::model::halving::Shown;
use crate::model::{
    AttemptNo, ExecutorKind, Exit, Failure, FailureKind, Metric, Metrics, OutputHash, RemoteJob, Severity,
    TrialId, UnixMs, Usage, Verdict,
};
use crate::study_file::Needs;
use crate::study_file::watching::Showing;
use crate::sys::append::LEVELS;
use crate::sys::simulated::Machine;
use crate::sys::tree_hash::to_the_end;

/// What comes of an attempt that nobody cuts off.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fate {
    /// It succeeds, with this for its metric `m`.
    Good(f64),
    /// It fails.
    Bad { retryable: bool, severity: Severity },
    /// It does not end by itself.
    Hangs,
}

/// How the trials of a study fare.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Nature {
    /// Of a hundred cases so many fail for ever.
    pub(super) bad_percent: u64,
    /// Of a hundred cases so many fail at first, up to attempt `flaky`.
    pub(super) flaky_percent: u64,
    pub(super) flaky: AttemptNo,
    /// Whether only cases of the first stage do.
    pub(super) first_only: bool,
    /// Of a hundred cases so many hang, and run into their timeout.
    pub(super) hanging_percent: u64,
    /// Whether some trials do not end when they are terminated.
    pub(super) stubborn: bool,
    /// Whether reports of attempts come a second time, late.
    pub(super) late_reports: bool,
    /// Whether failures are catastrophic.
    pub(super) catastrophic: bool,
    /// Whether trials leave a note in their scratch directories, and go on from what they find there.
    pub(super) scratch: bool,
    /// Whether equal trials come to different results, which none that reuses may.
    pub(super) unequal: bool,
    /// How often a trial reports while it runs.
    pub(super) reports: u64,
}

/// A number that stands for a trial's case, whatever the attempt.
fn case_number(job: &Job) -> u64 {
    let replica = job.replica.map_or_else(String::new, |replica| format!(" r{replica}"));
    let text = format!("{} {:?}{replica}", job.stage_spec.name, job.params);
    let hash = blake3::hash(text.as_bytes());
    u64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap())
}

impl Nature {
    pub(super) fn fate(&self, job: &Job) -> Fate {
        let mut random = Random::new(case_number(job));
        let mut value = random.below(4_096) as f64 / 8.0;
        if self.unequal {
            value += (job.key.trial.0 * 64 + u64::from(job.key.attempt)) as f64;
        }
        let severity = if self.catastrophic { Severity::Catastrophic } else { Severity::Medium };
        let sort = random.below(100);
        let (bad, flaky) = (self.bad_percent, self.bad_percent + self.flaky_percent);
        if job.key.trial == TrialId::BASE {
            return Fate::Good(0.0);
        }
        match sort {
            sort if sort < bad => Fate::Bad { retryable: sort % 2 == 0, severity },
            sort if sort < flaky && self.is_flaky(job) => Fate::Bad { retryable: true, severity },
            sort if sort >= flaky && sort < flaky + self.hanging_percent => Fate::Hangs,
            _ => Fate::Good(value),
        }
    }
}

impl Nature {
    fn is_flaky(self, job: &Job) -> bool {
        job.key.attempt <= self.flaky && (job.stage == 0 || !self.first_only)
    }
}

/// What a trial puts into a declared output.
pub(super) fn output_of(job: &Job, name: &str) -> Vec<u8> {
    let text = format!("{} {name} {}\n", job.stage_spec.name, case_number(job));
    text.repeat(1 + (case_number(job) % 90) as usize).into_bytes()
}

#[derive(Debug)]
struct Running {
    job: Job,
    ends_ms: i64,
    started_ms: i64,
    slot: u32,
    /// It was terminated.
    cut: bool,
    /// What it saw of its inputs or its parent is not what was recorded of them.
    tainted: bool,
    /// Reports so far.
    reported: u64,
}

impl Running {
    /// When it reports next, if it does.
    fn reports_ms(&self, nature: &Nature) -> Option<i64> {
        // Who fails does so half way: the next attempt shows what this one did not.
        let most = match nature.fate(&self.job) {
            Fate::Bad { .. } => nature.reports / 2,
            Fate::Good(_) | Fate::Hangs => nature.reports,
        };
        let due = self.reported < most && !self.cut && self.job.stage_spec.lookout.is_some();
        let lasts = (self.ends_ms - self.started_ms).min(1_000);
        let share = (self.reported + 1) as i64;
        due.then(|| self.started_ms + lasts * share / (nature.reports + 1) as i64)
    }
}

/// The pool of items that simulated studies share.
pub(super) const CARDS: &str = "card";

/// What a trial reports as its metric that saw something else than is recorded.
pub(super) const TAINTED: f64 = 1.0e6;

/// Requests that come from outside, and when: milliseconds after the run began.
pub(super) type Requests = Vec<(i64, Request)>;

/// A request to stop.
#[derive(Clone, Copy, Debug)]
pub(super) enum Request {
    Drain,
    DrainFor(u64),
    Terminate,
}

/// What the pool and its clock share.
struct Shared {
    world: World,
    random: Random,
    nature: Nature,
    workers: u32,
    /// Whether trials outlive the engine.
    remote: bool,
    needs: Vec<Needs>,
    began_ms: i64,
    queue: VecDeque<Job>,
    running: BTreeMap<TrialId, Running>,
    late: Vec<(i64, AttemptReport)>,
    /// Results that are to be taken over, and when that is done.
    taking: Vec<(i64, Job)>,
    /// Reports of attempts that are over, and when they come.
    late_shown: Vec<(i64, ExecutorEvent)>,
    /// Trials of which it was told that they are pruned.
    pruned: Rc<RefCell<BTreeSet<TrialId>>>,
    /// Whether what is taken over is changed before.
    meddles_taken: bool,
    /// What becomes durable, and when the thread for it gets to the next round.
    grounds: Arc<Grounds>,
    room: Arc<Room>,
    to_sync: Sender<ToSync>,
    syncer: Syncer,
    unsynced: Arc<AtomicUsize>,
    sync_at_ms: Option<i64>,
    closed: bool,
    parents: Parents,
    meddles: bool,
    /// Trials from here on were withdrawn.
    withdrawn_from: Option<TrialId>,
    events: Sender<ExecutorEvent>,
    requests: VecDeque<(i64, Request)>,
    shutdown: ShutdownHandle,
    /// Trials whose final result was acknowledged: they must not run again.
    done: Rc<RefCell<BTreeSet<TrialId>>>,
    wrong: Rc<RefCell<Vec<String>>>,
}

/// The executor.
pub(super) struct Pool(Rc<RefCell<Shared>>);

pub(super) struct Clock(Rc<RefCell<Shared>>);

/// What a pool needs to know.
pub(super) struct Setting {
    pub(super) world: World,
    pub(super) seed: u64,
    pub(super) nature: Nature,
    pub(super) workers: u32,
    pub(super) remote: bool,
    /// What a trial of each stage needs.
    pub(super) needs: Vec<Needs>,
    pub(super) requests: Requests,
    /// Whether outputs of parents are changed before children start.
    pub(super) meddles: bool,
    /// Whether results are changed before they are taken over.
    pub(super) meddles_taken: bool,
    pub(super) shutdown: ShutdownHandle,
    pub(super) done: Rc<RefCell<BTreeSet<TrialId>>>,
    pub(super) pruned: Rc<RefCell<BTreeSet<TrialId>>>,
    pub(super) wrong: Rc<RefCell<Vec<String>>>,
}

/// A pool with its clock, and where it reports.
pub(super) fn pool(setting: Setting) -> (Pool, Clock, Receiver<ExecutorEvent>) {
    let (events, receiver) = unbounded();
    let (to_sync, inbox) = unbounded();
    let (grounds, unsynced) = (Arc::new(Grounds::default()), Arc::<AtomicUsize>::default());
    let syncer = Syncer::new(inbox, events.clone(), Arc::clone(&unsynced), Arc::default(), Arc::clone(&grounds));
    let began_ms = setting.world.state().now_ms;
    let shared = Rc::new(RefCell::new(Shared {
        world: setting.world,
        random: Random::of(&[setting.seed, 7]),
        nature: setting.nature,
        workers: setting.workers,
        remote: setting.remote,
        needs: setting.needs,
        began_ms,
        queue: VecDeque::new(),
        running: BTreeMap::new(),
        late: Vec::new(),
        taking: Vec::new(),
        late_shown: Vec::new(),
        pruned: setting.pruned,
        meddles_taken: setting.meddles_taken,
        grounds,
        room: Room::of_process(),
        to_sync,
        syncer,
        unsynced,
        sync_at_ms: None,
        closed: false,
        parents: Parents::default(),
        meddles: setting.meddles,
        withdrawn_from: None,
        events,
        requests: setting.requests.into(),
        shutdown: setting.shutdown,
        done: setting.done,
        wrong: setting.wrong,
    }));
    (Pool(Rc::clone(&shared)), Clock(shared), receiver)
}

impl Shared {
    fn now_ms(&self) -> i64 {
        self.world.state().now_ms
    }

    fn tell(&self, event: ExecutorEvent) {
        self.events.send(event).unwrap();
    }

    fn start_more(&mut self) {
        while self.running.len() < self.workers as usize {
            // Workers take jobs in order, but the one that was first may be the second to say so.
            let turn = if self.queue.len() > 1 && self.random.percent(25) { 1 } else { 0 };
            let Some(job) = self.queue.remove(turn) else { return };
            let (trial, attempt) = (job.key.trial, job.key.attempt);
            if !self.parent_is_well(&job) || !self.make_place(&job) {
                self.tell(ExecutorEvent::Returned { trial });
                continue;
            }
            let slot = (0..).find(|slot| self.running.values().all(|running| running.slot != *slot)).unwrap_or(0);
            let at_ms = self.now_ms();
            self.tell(ExecutorEvent::Started { trial, attempt, slot, process: None, at_ms });
            self.start(job, slot);
        }
    }

    /// What the real executor asks before a child starts; somebody may just have changed an output of its parent.
    fn parent_is_well(&mut self, job: &Job) -> bool {
        let (Some(dir), Some(inherited)) = (&job.parent_dir, &job.inherited) else {
            return self.kept_is_well(job, Ok(None));
        };
        let meddles = self.meddles && !inherited.outputs.is_empty() && self.random.percent(25);
        if meddles {
            self.meddles = false;
            let which = self.random.below(inherited.outputs.len() as u64) as usize;
            self.world.state().files.meddle(&dir.join(&inherited.outputs[which].path));
        }
        let looked = self.parents.look(job, &to_the_end);
        self.kept_is_well(job, looked)
    }

    /// What the real executor does before a child starts, once its parent was looked at.
    fn kept_is_well(&self, job: &Job, looked: Result<Option<UnixMs>, Amiss>) -> bool {
        let looked =
            looked.and_then(|changed_ms| discard_doubtful(&self.grounds, job, changed_ms).map_err(Amiss::Machine));
        looked.map_err(|amiss| self.tell_amiss(amiss)).is_ok()
    }

    fn tell_amiss(&self, amiss: Amiss) {
        match amiss {
            Amiss::Differs(parent) => self.tell(ExecutorEvent::Differs(Differs::Parent(parent))),
            Amiss::Machine(why) => self.tell(ExecutorEvent::Broken(why)),
            Amiss::CutOff => panic!("nobody cut it off"),
        }
    }

    /// Whether a trial that looks now sees another input than what is recorded.
    fn sees_other_input(&self) -> bool {
        self.world.state().files.meddled.contains_key(Path::new(INPUT))
    }

    /// Likewise of what its parent left.
    fn sees_other_parent(&self, job: &Job) -> bool {
        let is_parents = |path: &PathBuf| job.parent_dir.as_ref().is_some_and(|dir| path.starts_with(dir));
        self.world.state().files.meddled.keys().any(is_parents)
    }

    /// Leaves a note in its scratch directory, of what it sees; whether one that was there is its own, and says what it should.
    fn uses_scratch(&self, job: &Job) -> bool {
        let (note, own) = (job.scratch_dir.join("note"), case_number(job).to_le_bytes());
        let sees_other = self.sees_other_input() || self.sees_other_parent(job);
        let noted = if sees_other { own.map(|byte| !byte) } else { own };
        if let Ok(found) = self.world.read(&note).as_deref() {
            return found.is_empty() || found == own;
        }
        let above: Vec<&Path> = note.ancestors().skip(1).collect();
        let missing = above.into_iter().rev().filter(|dir| self.world.kind(dir).is_none());
        // Whatever fails ends the run; the trial has no part in it.
        let made = missing.into_iter().try_for_each(|dir| self.world.create_dir(dir));
        let _ = made.and_then(|()| self.world.create(&note, true)).and_then(|()| self.world.append(&note, &noted));
        true
    }

    fn start(&mut self, job: Job, slot: u32) {
        let (trial, now_ms) = (job.key.trial, self.now_ms());
        if self.remote && self.random.percent(50) {
            let executor = ExecutorKind::Slurm;
            let placed = RemoteJob { executor, id: "7".into(), node: None, started_ms: Some(now_ms) };
            self.tell(ExecutorEvent::Placed { trial, attempt: job.key.attempt, job: placed });
        }
        let mut ends_ms = now_ms + 1 + self.random.below(50) as i64;
        if self.nature.fate(&job) == Fate::Hangs {
            let timeout = job.stage_spec.timeout.map_or(1_000_000_000, |timeout| timeout.as_millis() as i64);
            ends_ms = now_ms + timeout;
        }
        let scratched = self.nature.scratch && !self.uses_scratch(&job);
        let tainted = scratched || self.sees_other_input() || self.sees_other_parent(&job);
        let running = Running { job, ends_ms, started_ms: now_ms, slot, cut: false, tainted, reported: 0 };
        self.running.insert(trial, running);
    }

    /// What a case measures at a step: it comes nearer to something of its own.
    fn curve(job: &Job, step: u64) -> f64 {
        let number = case_number(job);
        let noise = Random::of(&[number, step]).below(200) as f64;
        (number % 512) as f64 + noise / step as f64
    }

    /// Reports, as `piton progress` does. Then the engine may hear of it.
    fn report_due(&mut self, now_ms: i64) {
        let nature = self.nature;
        let due = |running: &&Running| running.reports_ms(&nature).is_some_and(|at_ms| at_ms <= now_ms);
        while let Some(trial) = self.running.values().find(due).map(|running| running.job.key.trial) {
            let Some(running) = self.running.get_mut(&trial) else { return };
            running.reported += 1;
            let (job, step, tainted) = (running.job.clone(), running.reported, running.tainted);
            let sees_other = tainted || self.sees_other_input() || self.sees_other_parent(&job);
            let value = if sees_other { TAINTED } else { Self::curve(&job, step) };
            self.write_report(&job, step, value);
            let (trial, attempt) = (job.key.trial, job.key.attempt);
            if self.random.percent(70)
                && let Ok(shown) = shown_by(&self.grounds, &job, false)
                && !shown.is_nothing()
                // As the one that reads reports asks.
                && self.parents.look(&job, &to_the_end).is_ok()
            {
                self.tell(ExecutorEvent::Shown { trial, attempt, shown: Box::new(shown), looked: false });
            }
            if self.nature.late_reports && self.random.percent(30) {
                let rungs = [2, 4, 6].into_iter().zip(0..);
                let rungs =
                    rungs.map(|(at, rung)| Shown { rung, at, step: at, value: Some(-1.0e6), judged: true });
                let shown = Box::new(Showing { rungs: rungs.collect(), met: None });
                let event = ExecutorEvent::Shown { trial, attempt, shown, looked: false };
                self.late_shown.push((now_ms + 1 + self.random.below(30) as i64, event));
            }
        }
    }

    fn write_report(&self, job: &Job, step: u64, value: f64) {
        let path = job.progress_file();
        let above: Vec<&Path> = path.ancestors().skip(1).collect();
        let missing = above.into_iter().rev().filter(|dir| self.world.kind(dir).is_none());
        let made = missing.into_iter().try_for_each(|dir| self.world.create_dir(dir));
        let before = self.world.read(&path).unwrap_or_default();
        let begun = if before.is_empty() || before.ends_with(b"\n") { "" } else { "\n" };
        let line = format!("{begun}{{\"step\":{step},\"m\":{value:?}}}\n");
        // Whatever fails ends the run; the trial has no part in it.
        let is_new = self.world.kind(&path).is_none();
        let made = if is_new { made.and_then(|()| self.world.create(&path, true)) } else { made };
        let written = made.and_then(|()| self.world.append(&path, line.as_bytes()));
        let entries = path.ancestors().skip(1).take(if is_new { LEVELS } else { 0 });
        let _ = std::iter::once(path.as_path())
            .chain(entries)
            .fold(written, |written, path| written.and_then(|()| self.world.sync(path)));
    }

    /// On a cluster: a node that cannot make the place is as good as lost.
    fn start_remote(&mut self, job: Job) {
        if self.parent_is_well(&job) && self.make_place(&job) {
            return self.start(job, 0);
        }
        let verdict = Verdict::Interrupted { reason: "its node could not run it".into() };
        let (trial, attempt, ended_ms) = (job.key.trial, job.key.attempt, self.now_ms());
        let (usage, shown) = (Usage::default(), Showing::default());
        let report = AttemptReport { trial, attempt, ended_ms, exit: None, usage, verdict, shown };
        self.tell(ExecutorEvent::Ended(Box::new(report)));
    }

    /// What a trial has nobody else has that was handed out and has not ended, and all it needs it has.
    fn shares_nothing(&self, job: &Job) {
        let others = self.queue.iter().chain(self.running.values().map(|running| &running.job));
        let taken: BTreeSet<&String> =
            others.flat_map(|other| &other.given).flat_map(|given| &given.items).collect();
        let (trial, given) = (job.key.trial, &job.given);
        let wrong = |what: &str| self.wrong.borrow_mut().push(format!("shared: trial {trial} {what}: {given:?}"));
        if given.iter().flat_map(|given| &given.items).any(|item| taken.contains(item)) {
            wrong("does not have its items alone");
        }
        let has: Needs = given.iter().map(|given| (given.pool.clone(), given.amount)).collect();
        let items = given.iter().find(|given| given.pool == CARDS).map_or(0, |given| given.items.len() as u64);
        let needs = self.needs.get(job.stage as usize).filter(|_| trial != TrialId::BASE);
        if needs.is_some_and(|needs| *needs != has) || items != has.get(CARDS).copied().unwrap_or(0) {
            wrong("does not have what it needs");
        }
    }

    /// Makes the place of an attempt that leaves something; whether that went well.
    fn make_place(&self, job: &Job) -> bool {
        if job.stage_spec.outputs.is_empty() {
            return true;
        }
        match make(&self.grounds, job) {
            Ok(_) => true,
            Err(AttemptError::Machine(why)) => {
                self.tell(ExecutorEvent::Broken(why));
                false
            }
            Err(other) => panic!("{other:?}: no place is a trial's fault"),
        }
    }

    /// What a thread of its own does, if it is its turn: one round of what waits to become durable.
    fn sync_due(&mut self) {
        if self.sync_at_ms.is_some_and(|at_ms| at_ms <= self.now_ms()) {
            self.syncer.round_now();
            self.sync_at_ms = None;
        }
        if self.sync_at_ms.is_none() && self.unsynced.load(Ordering::SeqCst) > 0 {
            self.sync_at_ms = Some(self.now_ms() + self.random.below(40) as i64);
        }
    }

    fn end_due(&mut self) {
        let now_ms = self.now_ms();
        self.report_due(now_ms);
        let due: Vec<_> =
            self.running.values().filter(|r| r.ends_ms <= now_ms).map(|r| (r.ends_ms, r.job.key.trial)).collect();
        for trial in due.into_iter().collect::<BTreeSet<_>>().into_iter().map(|(_, trial)| trial) {
            let Some(running) = self.running.remove(&trial) else { continue };
            let (report, unsynced) = self.report(&running);
            if self.nature.late_reports
                && !matches!(report.verdict, Verdict::Succeeded { .. })
                && self.random.percent(60)
            {
                let metrics = Metrics::from([("m".to_owned(), Metric::Number(-1.0e6))]);
                let verdict = Verdict::Succeeded { metrics, outputs: Vec::new() };
                let at_ms = now_ms + 1 + self.random.below(3_000) as i64;
                self.late.push((at_ms, AttemptReport { verdict, ..report.clone() }));
            }
            hand_on(Box::new(report), unsynced, &self.to_sync, &self.unsynced, &self.events);
        }
        self.take_due();
        self.sync_due();
        // Never before the report that it repeats.
        let may_come = self.unsynced.load(Ordering::SeqCst) == 0;
        let due = |(at_ms, _): &(i64, AttemptReport)| may_come && *at_ms <= now_ms;
        let (late, later) = std::mem::take(&mut self.late).into_iter().partition(due);
        self.late = later;
        let late: Vec<(i64, AttemptReport)> = late;
        for (_, report) in late {
            self.tell(ExecutorEvent::Ended(Box::new(report)));
        }
        // Once the next attempt runs: what is never said hurts nobody.
        let again = |event: &ExecutorEvent| match event {
            ExecutorEvent::Shown { trial, attempt, .. } => {
                self.running.get(trial).is_some_and(|running| running.job.key.attempt > *attempt)
            }
            _ => false,
        };
        let due = |(at_ms, event): &(i64, ExecutorEvent)| may_come && *at_ms <= now_ms && again(event);
        let (late, later) = std::mem::take(&mut self.late_shown).into_iter().partition(due);
        self.late_shown = later;
        let late: Vec<(i64, ExecutorEvent)> = late;
        late.into_iter().for_each(|(_, event)| self.tell(event));
        self.start_more();
    }

    /// Takes over what is due: the real executor's own code. Somebody may just have changed the result.
    fn take_due(&mut self) {
        let now_ms = self.now_ms();
        let (due, later) = std::mem::take(&mut self.taking).into_iter().partition(|(at_ms, _)| *at_ms <= now_ms);
        self.taking = later;
        let due: Vec<(i64, Job)> = due;
        for (_, job) in due {
            let takes = Arc::clone(job.takes.as_ref().unwrap());
            if self.meddles_taken && self.random.percent(40) {
                self.meddles_taken = false;
                let output = &takes.outputs[self.random.below(takes.outputs.len() as u64) as usize];
                self.world.state().files.meddle(&takes.from.path().join(&output.path));
            }
            let mut unsynced = Unsynced::new(&self.room);
            let verdict = match take(&self.grounds, &job, &takes, &mut unsynced, &to_the_end) {
                Ok(()) => Verdict::Succeeded { metrics: Metrics::new(), outputs: takes.outputs.clone() },
                Err(AttemptError::Trial(failure)) => Verdict::Failed(failure),
                Err(AttemptError::Machine(reason)) => {
                    self.tell(ExecutorEvent::Broken(reason.clone()));
                    Verdict::Interrupted { reason }
                }
                Err(AttemptError::CutOff) => panic!("nobody cut it off"),
            };
            let (trial, attempt, usage) = (job.key.trial, job.key.attempt, Usage::default());
            let shown = Showing::default();
            let report = AttemptReport { trial, attempt, ended_ms: now_ms, exit: None, usage, verdict, shown };
            hand_on(Box::new(report), unsynced, &self.to_sync, &self.unsynced, &self.events);
        }
    }

    fn report(&self, running: &Running) -> (AttemptReport, Unsynced) {
        let job = &running.job;
        let mut unsynced = Unsynced::new(&self.room);
        let (verdict, exit) = match self.nature.fate(job) {
            _ if running.cut => (Verdict::Interrupted { reason: "terminated".into() }, Some(Exit::Signal(15))),
            // It read its input and what its parent left at its start, and does so once more at its end.
            Fate::Good(_) if running.tainted || self.sees_other_input() || self.sees_other_parent(job) => {
                self.succeeded(job, TAINTED, &mut unsynced)
            }
            Fate::Good(value) => self.succeeded(job, value, &mut unsynced),
            Fate::Bad { retryable, severity } => {
                (failed(FailureKind::ExitCode, retryable, severity), Some(Exit::Code(1)))
            }
            Fate::Hangs => (failed(FailureKind::Timeout, true, Severity::Medium), Some(Exit::Signal(15))),
        };
        // What the real executor does once a child has ended.
        let (verdict, amiss) = self.parents.vouch(job, verdict, &to_the_end);
        let unwell = amiss.is_some();
        if let Some(amiss) = amiss {
            self.tell_amiss(amiss);
        }
        let shown = shown_by(&self.grounds, job, matches!(verdict, Verdict::Succeeded { .. }));
        let shown = shown.ok().filter(|_| !unwell).unwrap_or_default();
        let wall_us = u64::try_from(self.now_ms() - running.started_ms).unwrap_or(0) * 1_000;
        let report = AttemptReport {
            trial: job.key.trial,
            attempt: job.key.attempt,
            ended_ms: self.now_ms(),
            exit,
            usage: Usage { wall_us, ..Usage::default() },
            verdict,
            shown,
        };
        (report, unsynced)
    }

    /// The trial leaves its outputs; the rest is the real executor's.
    fn succeeded(&self, job: &Job, value: f64, unsynced: &mut Unsynced) -> (Verdict, Option<Exit>) {
        match self.leave_outputs(job).and_then(|()| self.keep(job, unsynced)) {
            Ok(_) if !job.stage_spec.rules.is_empty() => self.read_by_rules(job, unsynced),
            Ok(outputs) => {
                let metrics = match job.stage_spec.needed_metrics.is_empty() {
                    true => Metrics::new(),
                    false => Metrics::from([("m".to_owned(), Metric::Number(value))]),
                };
                (Verdict::Succeeded { metrics, outputs }, Some(Exit::Code(0)))
            }
            Err(why) => {
                // As the executor of this machine does: it goes on with nothing else.
                self.tell(ExecutorEvent::Broken(why.clone()));
                (Verdict::Interrupted { reason: why }, None)
            }
        }
    }

    /// The real executor's own reading of what a trial left.
    fn read_by_rules(&self, job: &Job, unsynced: &mut Unsynced) -> (Verdict, Option<Exit>) {
        let remains = EndedAttemptDir::of(&self.grounds, job).unwrap();
        let verdict = match reported(job, &remains) {
            Ok(metrics) => Verdict::Succeeded { metrics, outputs: self.keep(job, unsynced).unwrap() },
            Err(AttemptError::Trial(failure)) => {
                *unsynced = Unsynced::new(&self.room);
                Verdict::Failed(failure)
            }
            Err(other) => panic!("{other:?}: it was read just now"),
        };
        (verdict, Some(Exit::Code(0)))
    }

    fn leave_outputs(&self, job: &Job) -> Result<(), String> {
        for name in &job.stage_spec.outputs {
            let path = job.dir.join(name);
            let bytes = output_of(job, name);
            let between = path.parent().filter(|dir| self.world.kind(dir).is_none());
            let made = between.map_or(Ok(()), |dir| self.world.create_dir(dir));
            made.and_then(|()| self.world.create(&path, false))
                .and_then(|()| self.world.append(&path, &bytes))
                .map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn keep(&self, job: &Job, unsynced: &mut Unsynced) -> Result<Vec<OutputHash>, String> {
        if job.stage_spec.outputs.is_empty() {
            return Ok(Vec::new());
        }
        let remains = EndedAttemptDir::of(&self.grounds, job)?;
        let kept = keep_outputs(&job.stage_spec, &remains, unsynced, &to_the_end);
        let kept = kept.map_err(|trouble| format!("{trouble:?}"))?;
        unsynced.keep_rest(job, &remains).map_err(|(what, error)| format!("{what}: {error}"))?;
        Ok(kept)
    }

    fn close(&mut self) {
        self.closed = true;
        let taking = std::mem::take(&mut self.taking).into_iter().map(|(_, job)| job);
        for job in std::mem::take(&mut self.queue).into_iter().chain(taking) {
            self.tell(ExecutorEvent::Returned { trial: job.key.trial });
        }
    }

    /// When something happens next.
    fn next_ms(&self) -> Option<i64> {
        let ends = self.running.values().map(|running| running.ends_ms);
        let asks = self.requests.front().map(|(after_ms, _)| self.began_ms + after_ms);
        let late = self.late.iter().map(|(at_ms, _)| *at_ms).filter(|_| self.sync_at_ms.is_none());
        let takes = self.taking.iter().map(|(at_ms, _)| *at_ms);
        let reports = self.running.values().filter_map(|running| running.reports_ms(&self.nature));
        ends.chain(late).chain(reports).chain(asks).chain(takes).chain(self.sync_at_ms).min()
    }

    fn ask_due(&mut self) {
        while let Some((after_ms, request)) = self.requests.front().copied()
            && self.began_ms + after_ms <= self.now_ms()
        {
            self.requests.pop_front();
            match request {
                Request::Drain => self.shutdown.drain(),
                Request::DrainFor(ms) => self.shutdown.drain_for(Duration::from_millis(ms)),
                Request::Terminate => self.shutdown.terminate(),
            }
        }
    }
}

fn failed(kind: FailureKind, retryable: bool, severity: Severity) -> Verdict {
    Verdict::Failed(Failure { severity, retryable, ..Failure::new(kind, "it failed") })
}

impl Executor for Pool {
    fn submit(&mut self, job: Job) -> Result<(), ExecutorError> {
        let mut shared = self.0.borrow_mut();
        let key = job.key;
        if shared.done.borrow().contains(&key.trial) {
            shared.wrong.borrow_mut().push(format!("doubled: trial {} is done and runs again", key.trial));
        }
        if shared.running.contains_key(&key.trial) || shared.queue.iter().any(|job| job.key.trial == key.trial) {
            shared.wrong.borrow_mut().push(format!("doubled: trial {} runs twice at once", key.trial));
        }
        if shared.withdrawn_from.is_some_and(|from| key.trial >= from) {
            shared.wrong.borrow_mut().push(format!("rails: trial {} starts and cannot matter", key.trial));
        }
        if shared.closed {
            return Err(ExecutorError::Closed);
        }
        if job.takes.is_some() {
            let at_ms = shared.now_ms() + shared.random.below(10) as i64;
            shared.taking.push((at_ms, job));
            return Ok(());
        }
        shared.shares_nothing(&job);
        if shared.remote {
            shared.start_remote(job);
            return Ok(());
        }
        shared.queue.push_back(job);
        shared.start_more();
        Ok(())
    }

    /// What a cluster makes of an attempt that an earlier engine meant to submit is chance: it ran on and ends now or
    /// later, or nobody knows of it any more. It ends as it would have ended anyway.
    fn adopt(&mut self, job: Job) -> Result<(), ExecutorError> {
        let mut shared = self.0.borrow_mut();
        if shared.random.percent(30) {
            let verdict = Verdict::Interrupted { reason: "its node failed".into() };
            let (trial, attempt, ended_ms) = (job.key.trial, job.key.attempt, shared.now_ms());
            let (usage, shown) = (Usage::default(), Showing::default());
            let report = AttemptReport { trial, attempt, ended_ms, exit: None, usage, verdict, shown };
            shared.tell(ExecutorEvent::Ended(Box::new(report)));
            return Ok(());
        }
        shared.shares_nothing(&job);
        shared.start_remote(job);
        Ok(())
    }

    fn withdraw(&mut self, from: TrialId) {
        let mut shared = self.0.borrow_mut();
        let (back, kept) = std::mem::take(&mut shared.queue).into_iter().partition(|job| job.key.trial >= from);
        shared.queue = kept;
        let (given_back, taking) =
            std::mem::take(&mut shared.taking).into_iter().partition(|(_, job)| job.key.trial >= from);
        shared.taking = taking;
        let given_back: Vec<(i64, Job)> = given_back;
        for (_, job) in given_back {
            shared.tell(ExecutorEvent::Returned { trial: job.key.trial });
        }
        for job in Vec::<Job>::from(back) {
            shared.tell(ExecutorEvent::Returned { trial: job.key.trial });
        }
        shared.withdrawn_from = Some(from).filter(|from| *from != TrialId::BASE);
    }

    fn prune(&mut self, trial: TrialId) {
        let mut shared = self.0.borrow_mut();
        if !shared.pruned.borrow().contains(&trial) {
            shared.wrong.borrow_mut().push(format!("pruned: trial {trial} is ended before that is recorded"));
        }
        let (back, kept) = std::mem::take(&mut shared.queue).into_iter().partition(|job| job.key.trial == trial);
        shared.queue = kept;
        for job in Vec::<Job>::from(back) {
            shared.tell(ExecutorEvent::Returned { trial: job.key.trial });
        }
        let (now_ms, stubborn) = (shared.now_ms(), shared.nature.stubborn);
        let mut random = shared.random.clone();
        // One may have ended by itself just now: then that is what is reported.
        if let Some(running) = shared.running.get_mut(&trial).filter(|running| running.ends_ms > now_ms) {
            running.cut = true;
            let listens = !stubborn || random.percent(50);
            running.ends_ms = now_ms + if listens { random.below(20) as i64 } else { 5_000 };
        }
        shared.random = random;
    }

    fn drain(&mut self) {
        self.0.borrow_mut().close();
    }

    fn terminate(&mut self) {
        let mut shared = self.0.borrow_mut();
        shared.close();
        let (now_ms, stubborn) = (shared.now_ms(), shared.nature.stubborn);
        let mut random = shared.random.clone();
        for running in shared.running.values_mut() {
            let listens = !stubborn || random.percent(50);
            // One may have ended by itself just now: then that is what is reported.
            if running.ends_ms > now_ms {
                running.cut = true;
                running.ends_ms = if listens { now_ms + random.below(20) as i64 } else { now_ms + 3_600_000 };
            }
        }
        shared.random = random;
    }

    fn kill(&mut self) {
        let mut shared = self.0.borrow_mut();
        shared.close();
        shared.running.clear();
    }

    fn pause(&mut self) {}
    fn resume(&mut self) {}

    /// What has ended is still made durable; nobody hears of it any more.
    fn shutdown(&mut self) {
        self.0.borrow_mut().syncer.round_now();
    }
}

impl Timing for Clock {
    fn now(&self) -> Now {
        let shared = self.0.borrow();
        let at_ms = shared.now_ms();
        Now { at_ms, run_ms: u64::try_from(at_ms - shared.began_ms).unwrap_or(0) }
    }

    /// What comes within a moment is taken for having come already.
    fn linger(&mut self, _: &Receiver<Control>, _: Duration) {}

    fn wait(&mut self, events: &Receiver<ExecutorEvent>, requests: &Receiver<Control>, limit: Option<Duration>) {
        let mut shared = self.0.borrow_mut();
        shared.end_due();
        shared.sync_due();
        shared.ask_due();
        if !events.is_empty() || !requests.is_empty() {
            return;
        }
        let limit_ms = limit.map(|limit| shared.now_ms().saturating_add(limit.as_millis() as i64));
        let Some(then_ms) = [shared.next_ms(), limit_ms].into_iter().flatten().min() else {
            // Nobody would ever wake it: the run is asked to end, and the study fails its checks.
            shared.wrong.borrow_mut().push("hang: the engine waits for nothing".into());
            shared.shutdown.terminate();
            return;
        };
        // Now and then more than one thing happens before anybody looks.
        let more_ms = if shared.random.percent(30) { shared.random.below(30) as i64 } else { 0 };
        let more_ms = if limit_ms == Some(then_ms) { 0 } else { more_ms };
        {
            let mut state = shared.world.state();
            state.now_ms = state.now_ms.max(then_ms + more_ms);
        }
        shared.end_due();
        shared.ask_due();
    }

    fn pause(&mut self) {}
    fn resume(&mut self) {}
}
