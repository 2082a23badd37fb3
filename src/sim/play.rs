//! A user with a study: runs it, runs it again when it was interrupted, approves, amends, retries, until it is over.
//!
//! Everything goes through the front door, [`Study`], and the journal, as the commands do it. What the user was told is
//! written down: after a crash it must be there.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use super::random::Random;
use super::studies::{Meddled, Scenario};
use super::trials::{self, Setting};
use super::world::{INPUT, World};
use crate::engine::{CommitStep, Draft, Observer, Order, RunHost, RunOptions, RunSettings, Step, run_on};
use crate::error::Error;
use crate::journal::Reader;
use crate::model::{
    EngineId, Event, LaterStages, Next, ProcessId, Record, Seq, StageStatus, StudyStatus, TrialId, Verdict,
};
use crate::store::{Consent, Import, Retry, Store, Unmatched};
use crate::study::{Outcome, Study};
use crate::study_file::{Spec, Work};
use crate::sys::simulated::{Kind, Machine, on};

/// Where the simulated study lies.
pub(super) const DIR: &str = "/home/ada/study";

pub(super) fn store() -> PathBuf {
    Path::new(DIR).join("s.redb")
}

/// All that the user was told, in order.
pub(super) type Announced = Vec<(Seq, Record)>;

pub(super) struct User<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) world: World,
    pub(super) seed: u64,
    pub(super) told: Rc<RefCell<Announced>>,
    done: Rc<RefCell<BTreeSet<TrialId>>>,
    pruned: Rc<RefCell<BTreeSet<TrialId>>>,
    pub(super) wrong: Rc<RefCell<Vec<String>>>,
}

/// Writes down what is told.
struct Watcher {
    world: World,
    told: Rc<RefCell<Announced>>,
    done: Rc<RefCell<BTreeSet<TrialId>>>,
    pruned: Rc<RefCell<BTreeSet<TrialId>>>,
}

impl Watcher {
    fn note(&self, seq: Seq, record: &Record) {
        note_done(&mut self.done.borrow_mut(), &record.event);
        self.pruned.borrow_mut().extend(pruned_by(&record.event));
        self.told.borrow_mut().push((seq, record.clone()));
        self.world.state().told = self.told.borrow().len();
    }
}

impl Observer for Watcher {
    fn committed(&mut self, seq: Seq, record: &Record, _: &Draft) {
        self.note(seq, record);
    }
}

/// The trial that an event prunes.
fn pruned_by(event: &Event) -> Option<TrialId> {
    match event {
        Event::RungDecided { trial, verdict, .. } => (!verdict.keep).then_some(*trial),
        Event::StopIfMet { trial, .. } => Some(*trial),
        _ => None,
    }
}

/// Keeps the set of trials that must not run again.
fn note_done(done: &mut BTreeSet<TrialId>, event: &Event) {
    done.extend(pruned_by(event));
    match event {
        Event::AttemptEnded(end) if end.next == Next::Final && end.verdict != Verdict::Cancelled => {
            done.insert(end.trial);
        }
        Event::TrialReused(_) | Event::TrialImported(_) => done.extend(event.taken_by()),
        Event::TrialReset { trial } => drop(done.remove(trial)),
        Event::ResultReread(reread) => match reread.next {
            Next::Final => drop(done.insert(reread.trial)),
            Next::Again { .. } => drop(done.remove(&reread.trial)),
        },
        Event::SpecAmended(amended) if amended.discard_from.is_some() => done.clear(),
        // Those that stand are held against the journal; see `promises`.
        Event::StagesDiscarded { .. } | Event::StageReplanned(_) => done.clear(),
        _ => {}
    }
}

/// Runs in which outputs of parents are changed.
const MEDDLED_RUNS: usize = 3;

/// Runs of one study, at most.
const RUNS: usize = 40;

impl<'a> User<'a> {
    pub(super) fn new(scenario: &'a Scenario, world: World, seed: u64, told: Announced) -> Self {
        let mut done = BTreeSet::new();
        told.iter().for_each(|(_, record)| note_done(&mut done, &record.event));
        world.state().told = told.len();
        let pruned = told.iter().filter_map(|(_, record)| pruned_by(&record.event)).collect();
        let (told, done) = (Rc::new(RefCell::new(told)), Rc::new(RefCell::new(done)));
        Self { scenario, world, seed, told, done, pruned: Rc::new(RefCell::new(pruned)), wrong: Rc::default() }
    }

    /// Runs the study to its end.
    pub(super) fn play(&self) -> Result<StudyStatus, Error> {
        on(Rc::new(self.world.clone()), || {
            self.import()?;
            for run in 0..RUNS {
                let outcome = match self.run(run) {
                    Err(error) if error.exit_code() == 6 && self.world.state().files.put_back() => continue,
                    // The last crash came after its input had changed.
                    Err(error) if error.exit_code() == 6 && self.scenario.accepts => {
                        self.amend()?;
                        continue;
                    }
                    other => other?,
                };
                let status = outcome.status;
                let goes_on = match status {
                    StudyStatus::Completed | StudyStatus::Interrupted if self.mend(status)? => true,
                    StudyStatus::Completed => self.amend()? || self.gc()?,
                    StudyStatus::Aborted => self.retry()?,
                    StudyStatus::Created | StudyStatus::Running | StudyStatus::Interrupted => {
                        if outcome.waits_for_approval() {
                            self.ask_again(run)?;
                        }
                        self.approve()?;
                        true
                    }
                };
                if !goes_on {
                    return Ok(status);
                }
            }
            self.wrong.borrow_mut().push(format!("hang: it is not over after {RUNS} runs"));
            Ok(StudyStatus::Interrupted)
        })
    }

    /// `piton import`, before the first run; after a crash again, unless it is there.
    fn import(&self) -> Result<(), Error> {
        if self.scenario.imported.is_empty() {
            return Ok(());
        }
        Study::new(self.scenario.spec.clone()).store(store()).make_store()?;
        let failed = |cause| Error::Journal { store: store(), cause };
        let snapshot = Reader::open(&store())?.snapshot().map_err(failed)?;
        let imported = snapshot.progress().map_err(failed)?.accounting.imported > 0;
        drop(snapshot);
        if !imported {
            let store = Store::at(store());
            let plan = store.import(&Import::of_rows(self.scenario.imported.clone(), "a").by("ada"))?;
            self.noted(plan.applied(Unmatched::Refuse)?);
        }
        Ok(())
    }

    /// The same command while a person is waited for: nothing is recorded.
    fn ask_again(&self, run: usize) -> Result<(), Error> {
        let before = self.told.borrow().len();
        let again = self.run(run)?;
        if !again.waits_for_approval() || self.told.borrow().len() != before {
            self.wrong.borrow_mut().push(format!("asking again was no matter of course: {again:?}"));
        }
        Ok(())
    }

    /// `piton run`, with the study file as it was, or as it was changed.
    fn run(&self, run: usize) -> Result<Outcome, Error> {
        match (self.run_as(run, self.scenario.spec.clone()), &self.scenario.amended) {
            (Err(Error::SpecDiffers { .. }), Some((spec, _))) => self.run_as(run, spec.clone()),
            (other, _) => other,
        }
    }

    fn run_as(&self, run: usize, spec: Spec) -> Result<Outcome, Error> {
        let mut random = Random::of(&[self.seed, 11, run as u64]);
        if random.percent(self.scenario.clock_percent) {
            self.world.state().now_ms += random.below(7_200_000) as i64 - 3_600_000;
        }
        let requests = self.scenario.requests.get(run).cloned().unwrap_or_default();
        let mut nature = self.scenario.nature;
        if self.scenario.mended.is_some() && self.is_mended()? {
            nature.flaky = 0;
        }
        let world = self.world.clone();
        let (done, pruned, wrong) = (Rc::clone(&self.done), Rc::clone(&self.pruned), Rc::clone(&self.wrong));
        let (seed, remote) = (random.next(), !spec.run.executor.is_local());
        // He tires of it, or the study would never end.
        let meddles = self.scenario.meddled == Meddled::Parents && run < MEDDLED_RUNS;
        let meddles_taken = self.scenario.meddled == Meddled::Taken && run < MEDDLED_RUNS;
        let closures =
            spec.stages.iter().filter(|stage| stage.work == Work::Closure).map(|stage| stage.name.clone());
        let closures: Vec<_> = closures.collect();
        let mut study = Study::new(spec).store(store()).workers(self.scenario.workers);
        for stage in closures {
            study = study
                .closure(stage, |_| -> Result<crate::Metrics, _> { unreachable!("a simulated pool runs it") });
        }
        study.backend = Some(Box::new(move |journal, spec, paths, options| {
            let RunOptions { workers, inputs, shutdown, observer, .. } = options;
            let shutdown_too = shutdown.clone();
            let setting = Setting {
                world,
                seed,
                nature,
                workers,
                remote,
                needs: spec.stages.iter().map(|stage| stage.run.needs.clone()).collect(),
                requests,
                meddles,
                meddles_taken,
                shutdown: shutdown_too,
                done,
                pruned,
                wrong,
            };
            let (pool, clock, events) = trials::pool(setting);
            let process = ProcessId { pid: 4_194_400, start_ticks: 1 };
            let engine = EngineId { process, boot_id: "simulated".into(), host: "simulated".into() };
            let (executor, timing) = (Box::new(pool), Box::new(clock));
            // No simulated study has a proposer.
            let (answers, _) = crossbeam_channel::unbounded();
            let on =
                RunHost { engine, executor, keeper: None, answers, events, timing, order: order(), signals: None };
            run_on(
                on,
                journal,
                Arc::clone(&spec),
                paths,
                RunSettings { workers, drain_limit: None, detach: false, shutdown, inputs, observer },
            )
        }));
        study.run_observed(&mut self.watcher())
    }

    fn watcher(&self) -> Watcher {
        let (told, done, pruned) = (Rc::clone(&self.told), Rc::clone(&self.done), Rc::clone(&self.pruned));
        Watcher { world: self.world.clone(), told, done, pruned }
    }

    /// `piton approve`, when a stage waits for it and nothing else.
    fn approve(&self) -> Result<bool, Error> {
        if !self.scenario.spec.stages.iter().any(|stage| stage.approve) {
            return Ok(false);
        }
        let failed = |cause| Error::Journal { store: store(), cause };
        let snapshot = Reader::open(&store())?.snapshot().map_err(failed)?;
        let stages = snapshot.stages().map_err(failed)?;
        drop(snapshot);
        let next = stages.iter().find(|stage| stage.status != StageStatus::Closed);
        let waits = next.is_some_and(|stage| {
            let needs = self.scenario.spec.stages[stage.index as usize].approve;
            needs && stage.approval.is_none() && stage.status == StageStatus::Waiting
        });
        match waits {
            true => Ok(self.noted(Store::at(store()).approved(None, "ada", "")?.1)),
            false => Ok(false),
        }
    }

    /// Is told what a command recorded.
    fn noted(&self, recorded: Vec<(Seq, Record)>) -> bool {
        let watcher = self.watcher();
        recorded.iter().for_each(|(seq, record)| watcher.note(*seq, record));
        !recorded.is_empty()
    }

    /// `piton amend`, once.
    fn amend(&self) -> Result<bool, Error> {
        let Some((new, discard_from)) = &self.scenario.amended else { return Ok(false) };
        let (store, given) = (Store::at(store()), Study::new(new.clone()));
        if self.scenario.accepts {
            self.world.state().files.overwrite(Path::new(INPUT), b"two");
        }
        let plan = store.amend(&given)?;
        let plan = match self.scenario.accepts {
            true => plan.accepting_inputs("ada", "a comment")?,
            false => plan,
        };
        if plan.is_empty() {
            plan.close()?;
            return Ok(false);
        }
        let plan = match discard_from {
            Some(stage) => plan.discarding_from(&new.stages[*stage as usize].name)?,
            None => plan,
        };
        Ok(self.noted(plan.applied(Consent::Discard)?))
    }

    /// `piton gc`, once there is something that it discards.
    fn gc(&self) -> Result<bool, Error> {
        let Some(keep) = self.scenario.gc else { return Ok(false) };
        Ok(Store::at(store()).plan_gc(Some(keep))?.applied()?.1)
    }

    /// `piton retry --failed`, once.
    fn retry(&self) -> Result<bool, Error> {
        if !self.scenario.retry {
            return Ok(false);
        }
        let failed = |cause| Error::Journal { store: store(), cause };
        let snapshot = Reader::open(&store())?.snapshot().map_err(failed)?;
        let events: Vec<_> = snapshot.events(1).and_then(Iterator::collect).map_err(failed)?;
        drop(snapshot);
        if events.iter().any(|(_, record): &(Seq, Record)| matches!(record.event, Event::TrialReset { .. })) {
            return Ok(false);
        }
        Ok(self.noted(Store::at(store()).plan_retry(Retry::Failed)?.applied(None)?.1))
    }

    /// Whether the store says that a stage was opened again.
    fn is_mended(&self) -> Result<bool, Error> {
        if self.world.kind(&store()).is_none() {
            return Ok(false);
        }
        let failed = |cause| Error::Journal { store: store(), cause };
        let snapshot = Reader::open(&store())?.snapshot().map_err(failed)?;
        let events: Vec<_> = snapshot.events(1).and_then(Iterator::collect).map_err(failed)?;
        drop(snapshot);
        let is_mended = |(_, record): &(Seq, Record)| matches!(record.event, Event::StageReopened { .. });
        Ok(events.iter().any(is_mended))
    }

    /// `piton retry --failed --stage a`, once, when that has closed.
    fn mend(&self, status: StudyStatus) -> Result<bool, Error> {
        let Some(later) = self.scenario.mended else { return Ok(false) };
        if later == LaterStages::Keep && status != StudyStatus::Completed {
            return Ok(false);
        }
        let failed = |cause| Error::Journal { store: store(), cause };
        let snapshot = Reader::open(&store())?.snapshot().map_err(failed)?;
        let has_closed = snapshot.stages().map_err(failed)?[0].status == StageStatus::Closed;
        drop(snapshot);
        if !has_closed || self.is_mended()? {
            return Ok(false);
        }
        let store = Store::at(store());
        let plan = store.plan_retry(Retry::FailedOf("a"))?;
        Ok(self.noted(plan.applied(Some(later))?.1))
    }

    /// Names of temporary files that are left.
    pub(super) fn leftovers(&self) -> Vec<String> {
        let mut found = Vec::new();
        for dir in [PathBuf::from(DIR), Path::new(DIR).join("artifacts/s")] {
            if self.world.kind(&dir) == Some(Kind::Dir) {
                let names = self.world.names(&dir).unwrap();
                let names = names.iter().map(|name| name.to_string_lossy().into_owned());
                found.extend(names.filter(|name| name.ends_with(".new") || name.ends_with(".piton-tmp")));
            }
        }
        found
    }
}

/// The engine's order of steps, or the wrong one that is tried out.
fn order() -> Order {
    let mut order = Order::SAFE;
    if injected_fault!(ActBeforeCommit) {
        order.turn = [Step::Act, Step::Commit];
    }
    if injected_fault!(TellBeforeCommit) {
        order.commit = [CommitStep::Tell, CommitStep::Write];
    }
    order
}
