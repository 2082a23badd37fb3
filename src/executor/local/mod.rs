//! Trials on this machine: a pool of worker threads, each watching one attempt at a time.
//!
//! Commands run under the [`keeper`], closures on the workers themselves. A worker never waits for the disk of the
//! journal and never holds more than its own attempt; nothing here grows with the number of trials.

mod attempt_dir;
pub(in crate::executor) mod blame;
mod cgroup;
mod classify;
pub(crate) mod closure;
mod command;
mod ended_dir;
#[doc(hidden)]
pub(crate) mod fuzz;
mod gate;
pub(crate) mod keeper;
pub(in crate::executor) mod logs;
mod memory_limit;
pub(crate) mod parents;
mod process;
pub(crate) mod proposer;
pub(crate) mod reread;
mod results;
pub(crate) mod strays;
mod syncer;
mod taking;

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, select};

use super::watching::ReportWatcher;
use super::{AttemptReport, Differs, Executor, ExecutorError, ExecutorEvent, Job};
use crate::model::words;
use crate::model::{FailureKind, ProcessId, TrialId, UnixMs, Usage, Verdict};
use crate::study_file::Work;
use crate::study_file::progress::{Which, each_watched};
use crate::study_file::watching::Showing;
use crate::sys::clock::{TrialClock, unix_ms};
use crate::sys::opened::Opened;
use crate::sys::tree_hash::CutOff;
use crate::sys::words::io_words;
use attempt_dir::Grounds;
use blame::AttemptError;
use closure::ClosureFn;
use ended_dir::EndedAttemptDir;
use gate::Gate;
use keeper::{Keeper, KeeperClient};
use memory_limit::Memory;
use parents::{Amiss, Parents};
#[cfg(feature = "cluster")]
pub(crate) use process::ENDED_WITH_ENGINE;
use syncer::{Room, Syncer, ToSync, Unsynced};
/// What results that were made elsewhere are put in place with.
pub(crate) mod placing {
    pub(crate) use super::attempt_dir::Grounds;
    pub(crate) use super::blame::AttemptError;
    pub(crate) use super::syncer::{Room, Unsynced, sync_all};
    pub(crate) use super::taking::{bring, outputs_in, take_back};
}

/// What a simulated pool shares with this one: the places of attempts, and how they become durable.
#[cfg(test)]
pub(crate) mod parts {
    pub(crate) use super::attempt_dir::{Grounds, discard_doubtful, make};
    pub(crate) use super::blame::AttemptError;
    pub(crate) use super::ended_dir::EndedAttemptDir;
    pub(crate) use super::parents::{Amiss, Parents};
    pub(crate) use super::results::{keep_outputs, reported};
    pub(crate) use super::shown_by;
    pub(crate) use super::syncer::{Room, Syncer, ToSync, Unsynced, hand_on};
    pub(crate) use super::taking::take;
}

/// Closures may recurse deeper than a thread's default stack allows; the pages are there only once touched.
const WORKER_STACK_BYTES: usize = 8 << 20;

/// How the pool ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Mode {
    Run,
    /// Nothing new starts.
    Drain,
    /// What runs gets TERM, and KILL after the grace.
    Terminate,
    /// What runs gets KILL.
    Kill,
}

/// When an attempt began, by every clock there is.
#[derive(Clone, Copy, Debug)]
struct Start {
    at_ms: UnixMs,
    instant: Instant,
    clock: Duration,
}

impl Start {
    /// When it ended, having run for so long: a wall clock that was set meanwhile, and whatever is done with what it left,
    /// change nothing about it. The time that it was stopped counts here, though not as running.
    fn end_ms(self, wall_us: u64, clock: &TrialClock) -> UnixMs {
        let stopped = self.instant.elapsed().saturating_sub(clock.now().saturating_sub(self.clock));
        let lasted = Duration::from_micros(wall_us).saturating_add(stopped);
        self.at_ms.saturating_add_unsigned(u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX))
    }
}

/// The directory of a case whose trial is watched, if it is there.
///
/// # Errors
/// What opening it fails with.
pub(in crate::executor) fn watched_case(grounds: &Grounds, job: &Job) -> io::Result<Option<Arc<Opened>>> {
    EndedAttemptDir::only_case(grounds, job).map(EndedAttemptDir::into_case).map_err(io::Error::other)
}

/// All that a trial has reported by the end of its attempt and that may end trials early.
///
/// # Errors
/// Why its reports cannot be read: that is no trial's fault.
pub(crate) fn shown_by(grounds: &Grounds, job: &Job, succeeded: bool) -> Result<Showing, String> {
    let Some(mut lookout) = job.stage_spec.lookout.clone() else { return Ok(Showing::default()) };
    let failed = |error: &io::Error| format!("cannot read what `{}` reported: {}", job.case, io_words(error));
    let case = watched_case(grounds, job).map_err(|error| failed(&error))?;
    if let Some(case) = case {
        let which = Which { printed: job.stage_spec.printed.as_ref(), attempt: job.key.attempt, ended: succeeded };
        each_watched(&case, which, |report| lookout.take(report)).map_err(|error| failed(&error))?;
    }
    Ok(lookout.finish(succeeded))
}

struct Shared {
    mode: AtomicU8,
    /// Trials from this number on do not start.
    withdrawn_from: AtomicU64,
    /// Trials that are to end, or not to start.
    pruned: Mutex<BTreeSet<TrialId>>,
    /// Made for the first trial that is watched.
    reports: OnceLock<Option<ReportWatcher>>,
    /// The process was asked to end; the engine may not have got round to it. Set from outside.
    asked_to_end: Arc<AtomicBool>,
    clock: TrialClock,
    closures: HashMap<String, ClosureFn>,
    keeper: Option<KeeperClient>,
    /// The engine's own environment when the pool was made.
    environment: Vec<(OsString, OsString)>,
    memory: Memory,
    events: Sender<ExecutorEvent>,
    told_broken: Arc<AtomicBool>,
    /// Reports go this way whose attempts left something that must be durable first.
    to_sync: Sender<ToSync>,
    /// When what runs began.
    starts: Mutex<HashMap<TrialId, Start>>,
    /// Reports that the syncer has not passed on yet.
    unsynced: Arc<AtomicUsize>,
    room: Arc<Room>,
    grounds: Arc<Grounds>,
    parents: Parents,
    gate: Gate,
    /// Attempts that never run beside another: the only one of a keeper is to blame for its death at once.
    single: bool,
}

impl Shared {
    fn mode(&self) -> Mode {
        match self.mode.load(Ordering::SeqCst) {
            0 if self.asked_to_end.load(Ordering::SeqCst) => Mode::Drain,
            0 => Mode::Run,
            1 => Mode::Drain,
            2 => Mode::Terminate,
            _ => Mode::Kill,
        }
    }

    fn starts(&self, job: &Job) -> bool {
        let wanted = job.key.trial.0 < self.withdrawn_from.load(Ordering::SeqCst) && !self.is_pruned(job);
        self.mode() == Mode::Run && wanted
    }

    /// A job that does not start.
    fn give_back(&self, job: &Job, made: bool) {
        self.let_go(job);
        if made {
            attempt_dir::unmake(&self.grounds, job);
        }
        self.tell(ExecutorEvent::Returned { trial: job.key.trial });
    }

    fn give_back_all(&self, prepared: &Receiver<Queued>) {
        for Queued { job, .. } in prepared.try_iter() {
            self.give_back(&job, true);
        }
    }

    /// Events are for the engine; if it is gone nobody wants them.
    fn tell(&self, event: ExecutorEvent) {
        let _ = self.events.send(event);
    }

    fn tell_started(&self, job: &Job, slot: u32, process: Option<ProcessId>) {
        let (trial, attempt) = (job.key.trial, job.key.attempt);
        let start = Start { at_ms: unix_ms(), instant: Instant::now(), clock: self.clock.now() };
        self.starts.lock().unwrap_or_else(PoisonError::into_inner).insert(trial, start);
        self.tell(ExecutorEvent::Started { trial, attempt, slot, process, at_ms: start.at_ms });
        if let Some(watcher) = self.watcher(job) {
            watcher.watch(job);
        }
    }

    /// What reads the reports of a job whose stage is watched.
    fn watcher(&self, job: &Job) -> Option<&ReportWatcher> {
        job.stage_spec.lookout.as_ref()?;
        let start = || match ReportWatcher::start(true, self.events.clone()) {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                log::warn!("trials are read when they have ended, and none ends early: {}", io_words(&error));
                None
            }
        };
        self.reports.get_or_init(start).as_ref()
    }

    fn is_pruned(&self, job: &Job) -> bool {
        job.stage_spec.lookout.is_some() && self.pruned().contains(&job.key.trial)
    }

    fn pruned(&self) -> MutexGuard<'_, BTreeSet<TrialId>> {
        self.pruned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its attempt is over, or never was. A job whose stage is not watched costs nothing.
    fn let_go(&self, job: &Job) {
        if job.stage_spec.lookout.is_none() {
            return;
        }
        self.pruned().remove(&job.key.trial);
        if let Some(Some(watcher)) = self.reports.get() {
            watcher.forget(job.key.trial);
        }
    }

    /// Reports an end; its outputs, logs and metrics are durable before the engine hears of it, and what its parent left was
    /// looked at again.
    fn tell_ended(
        &self,
        job: &Job,
        exit: Option<crate::model::Exit>,
        usage: Usage,
        verdict: Verdict,
        unsynced: Unsynced,
    ) {
        let (trial, attempt) = (job.key.trial, job.key.attempt);
        let (verdict, amiss) = self.parents.vouch(job, verdict, &|| match self.mode() {
            Mode::Run | Mode::Drain => Ok(()),
            _ => Err(io::Error::other(CutOff)),
        });
        let unwell = amiss.is_some();
        if let Some(amiss) = amiss {
            self.refuse(amiss);
        }
        let (verdict, shown) = match shown_by(&self.grounds, job, matches!(verdict, Verdict::Succeeded { .. })) {
            // What was shown on what its parent did not leave says nothing.
            Ok(_) if unwell => (verdict, Showing::default()),
            Ok(shown) => (verdict, shown),
            Err(why) => (self.machine_failed(why), Showing::default()),
        };
        self.let_go(job);
        let start = self.starts.lock().unwrap_or_else(PoisonError::into_inner).remove(&trial);
        let ended_ms = start.map_or_else(unix_ms, |start| start.end_ms(usage.wall_us, &self.clock));
        let report = AttemptReport { trial, attempt, ended_ms, exit, usage, verdict, shown };
        syncer::hand_on(Box::new(report), unsynced, &self.to_sync, &self.unsynced, &self.events);
    }

    /// Notes what has to be durable of an attempt whose end counts. If even that cannot be had, it does not count.
    fn keep_rest(
        &self,
        job: &Job,
        verdict: Verdict,
        remains: &EndedAttemptDir,
        unsynced: &mut Unsynced,
    ) -> Verdict {
        if !matches!(verdict, Verdict::Succeeded { .. } | Verdict::Failed(_)) {
            return verdict;
        }
        match unsynced.keep_rest(job, remains) {
            Ok(()) => verdict,
            Err((what, error)) => self.machine_failed(format!("cannot make {what} durable: {}", io_words(&error))),
        }
    }

    /// Ends the hashing of what an attempt left once its time is up, or the engine has to end.
    fn may_go_on(&self, job: &Job, started_at: Duration) -> io::Result<()> {
        let ran = self.clock.now().saturating_sub(started_at);
        let over = job.stage_spec.timeout.is_some_and(|timeout| ran >= timeout);
        if over || self.mode() >= Mode::Terminate { Err(io::Error::other(CutOff)) } else { Ok(()) }
    }

    /// The verdict on an attempt whose outputs could not be hashed to their end.
    fn cut_off(&self, job: &Job) -> Verdict {
        if self.mode() >= Mode::Terminate {
            return Verdict::Interrupted { reason: process::SHUT_DOWN_HASHING.into() };
        }
        let limit = words::limit(job.stage_spec.timeout.unwrap_or_default());
        Verdict::Failed(blame::failure(
            FailureKind::Timeout,
            format!("its outputs were still being hashed after {limit}"),
        ))
    }

    /// Whether a child may start on what its parent left, and on what its trial kept. A look ends when the engine has to end.
    fn look_at_parent(&self, job: &Job) -> Result<(), Amiss> {
        let parent_changed_ms = self.parents.look(job, &|| match self.mode() {
            Mode::Run => Ok(()),
            _ => Err(io::Error::other(CutOff)),
        })?;
        attempt_dir::discard_doubtful(&self.grounds, job, parent_changed_ms).map_err(Amiss::Machine)
    }

    /// Says why a child does not start, or does not count.
    fn refuse(&self, amiss: Amiss) {
        match amiss {
            Amiss::Differs(parent) => {
                self.tell(ExecutorEvent::Differs(Differs::Parent(parent)));
                // Nor do others, until the engine has heard of it.
                self.withdrawn_from.store(0, Ordering::SeqCst);
            }
            Amiss::Machine(why) => self.tell_broken(&why),
            Amiss::CutOff => {}
        }
    }

    /// The machine failed an attempt: it counts as interrupted, and nothing else starts.
    fn machine_failed(&self, why: String) -> Verdict {
        self.tell_broken(&why);
        Verdict::Interrupted { reason: why }
    }

    /// Once, however many workers find out.
    fn tell_broken(&self, why: &str) {
        if !self.told_broken.swap(true, Ordering::SeqCst) {
            self.tell(ExecutorEvent::Broken(why.to_owned()));
        }
    }
}

/// A job, and how making its place went if that was done ahead.
struct Queued {
    job: Job,
    made: Option<Made>,
}

/// The attempt's directory, or why it could not be made.
type Made = Result<Arc<Opened>, AttemptError>;

struct Worker {
    slot: u32,
    jobs: Receiver<Job>,
    /// Jobs that a worker prepared while its own attempt ran; the worker that is free first takes them, before all others.
    prepared: (Sender<Queued>, Receiver<Queued>),
    /// The mode changed, or the clock was resumed.
    wake: Receiver<()>,
    in_closure: Arc<AtomicBool>,
    shared: Arc<Shared>,
}

impl Worker {
    fn work(&self) {
        while let Some(Queued { job, made }) = self.next() {
            if !self.shared.starts(&job) {
                self.shared.give_back(&job, made.is_some());
                continue;
            }
            // A panic here is a bug of ours; the attempt must not hang for it, nor the study end in silence.
            if catch_unwind(AssertUnwindSafe(|| self.run(&job, made))).is_err() {
                self.shared.tell_broken("a worker failed unexpectedly");
            }
        }
    }

    /// The next job; `None`: there will be none.
    fn next(&self) -> Option<Queued> {
        let fresh = |job| Queued { job, made: None };
        // Without a keeper all trials are closures, which nobody prepares; waiting at one queue is cheaper than at two.
        if self.shared.keeper.is_none() {
            return self.jobs.recv().ok().map(fresh);
        }
        let (_, prepared) = &self.prepared;
        let waiting = prepared.try_recv().ok().or_else(|| self.jobs.try_recv().ok().map(fresh));
        waiting.or_else(|| {
            select! {
                recv(prepared) -> queued => queued.ok(),
                recv(self.jobs) -> job => job.ok().map(fresh).or_else(|| prepared.try_recv().ok()),
            }
        })
    }

    /// Makes the place of the next job, so that no processor waits for it once a trial has ended.
    fn prepare_next(&self) {
        if self.shared.mode() > Mode::Run {
            return;
        }
        if let Ok(job) = self.jobs.try_recv() {
            // What is taken over makes its own place.
            let made = job.takes.is_none().then(|| attempt_dir::make(&self.shared.grounds, &job));
            // Cannot fail: this worker has the other end, too.
            let _ = self.prepared.0.send(Queued { job, made });
        }
        // A request to end that came meanwhile found this one in neither queue.
        if self.shared.mode() > Mode::Run {
            self.shared.give_back_all(&self.prepared.1);
        }
    }

    fn run(&self, job: &Job, made: Option<Made>) {
        if let Some(takes) = &job.takes {
            return taking::run(&self.shared, job, takes);
        }
        if let Err(amiss) = self.shared.look_at_parent(job) {
            self.shared.refuse(amiss);
            return self.shared.give_back(job, made.is_some());
        }
        match job.stage_spec.work {
            Work::Closure => {
                self.in_closure.store(true, Ordering::SeqCst);
                closure::run(&self.shared, job, self.slot);
                self.in_closure.store(false, Ordering::SeqCst);
            }
            Work::Argv(_) | Work::Shell(_) => {
                let given_up = || self.shared.mode() > Mode::Run;
                match self.shared.gate.enter(job.key.trial, given_up) {
                    Some(pass) => {
                        process::run(&self.shared, &pass, &self.wake, job, self.slot, made, || {
                            self.prepare_next();
                        });
                    }
                    None => self.shared.give_back(job, made.is_some()),
                }
            }
        }
    }
}

struct Handle {
    thread: JoinHandle<()>,
    wake: Sender<()>,
    in_closure: Arc<AtomicBool>,
}

/// Runs attempts on this machine. Dropping it kills what runs.
pub(crate) struct LocalExecutor {
    jobs: Option<Sender<Job>>,
    /// The workers' end, to take back what is queued.
    queued: Receiver<Job>,
    prepared: Receiver<Queued>,
    workers: Vec<Handle>,
    shared: Arc<Shared>,
    /// Last: it must outlive the workers.
    _keeper: Option<Keeper>,
}

impl LocalExecutor {
    /// A pool of `workers` (at least one). `keeper` runs commands (without one they fail), `closures` are found by
    /// their stage's name. `asked_to_end` is set as soon as the process is
    /// asked to end: nothing starts from then on, even before [`Executor::drain`] is called. `events` should be unbounded: [`Executor::drain`] sends to it from the caller's thread. At
    /// most two events a submitted job are ever under way.
    ///
    /// # Errors
    /// If threads cannot be started.
    pub(crate) fn new(
        workers: u32,
        keeper: Option<Keeper>,
        closures: HashMap<String, ClosureFn>,
        clock: TrialClock,
        asked_to_end: Arc<AtomicBool>,
        events: Sender<ExecutorEvent>,
    ) -> io::Result<Self> {
        Self::with_slots((0..workers.max(1), false), keeper, closures, clock, asked_to_end, events)
    }

    /// The same for a single attempt, on this slot.
    ///
    /// # Errors
    /// If threads cannot be started.
    pub(crate) fn for_one(
        slot: u32,
        keeper: Keeper,
        clock: TrialClock,
        asked_to_end: Arc<AtomicBool>,
        events: Sender<ExecutorEvent>,
    ) -> io::Result<Self> {
        let slots = slot..slot.saturating_add(1);
        Self::with_slots((slots, true), Some(keeper), HashMap::new(), clock, asked_to_end, events)
    }

    fn with_slots(
        (slots, single): (std::ops::Range<u32>, bool),
        keeper: Option<Keeper>,
        closures: HashMap<String, ClosureFn>,
        clock: TrialClock,
        asked_to_end: Arc<AtomicBool>,
        events: Sender<ExecutorEvent>,
    ) -> io::Result<Self> {
        if let Some(keeper) = &keeper {
            keeper.widen(slots.len());
        }
        let (jobs, queued) = crossbeam_channel::unbounded();
        let prepared = crossbeam_channel::unbounded();
        let environment: Vec<(OsString, OsString)> = std::env::vars_os().collect();
        let (to_sync, inbox) = crossbeam_channel::bounded(syncer::WAITING);
        let shared = Arc::new(Shared {
            mode: AtomicU8::new(Mode::Run as u8),
            withdrawn_from: AtomicU64::new(u64::MAX),
            pruned: Mutex::default(),
            reports: OnceLock::new(),
            asked_to_end,
            clock,
            closures,
            keeper: keeper.as_ref().map(Keeper::client),
            memory: Memory::new(&environment),
            environment,
            events,
            told_broken: Arc::new(AtomicBool::new(false)),
            to_sync,
            starts: Mutex::default(),
            unsynced: Arc::default(),
            room: Room::of_process(),
            grounds: Arc::default(),
            parents: Parents::default(),
            gate: Gate::default(),
            single,
        });
        let mut pool = Self {
            jobs: Some(jobs),
            queued,
            prepared: prepared.1.clone(),
            workers: Vec::new(),
            shared,
            _keeper: keeper,
        };
        // It ends by itself when nobody is left who could report.
        let told_broken = Arc::clone(&pool.shared.told_broken);
        let (waiting, events) = (Arc::clone(&pool.shared.unsynced), pool.shared.events.clone());
        let syncer = Syncer::new(inbox, events, waiting, told_broken, Arc::clone(&pool.shared.grounds));
        std::thread::Builder::new().name("syncer".into()).spawn(move || syncer.run())?;
        for slot in slots {
            // Room for one: a second wake-up while the first waits to be seen says nothing new.
            let (wake, woken) = crossbeam_channel::bounded(1);
            let in_closure = Arc::new(AtomicBool::new(false));
            let worker = Worker {
                slot,
                jobs: pool.queued.clone(),
                prepared: prepared.clone(),
                wake: woken,
                in_closure: Arc::clone(&in_closure),
                shared: Arc::clone(&pool.shared),
            };
            let builder =
                std::thread::Builder::new().name(format!("worker-{slot}")).stack_size(WORKER_STACK_BYTES);
            let thread = builder.spawn(move || worker.work())?;
            pool.workers.push(Handle { thread, wake, in_closure });
        }
        Ok(pool)
    }

    /// Never goes back to a milder mode.
    fn enter(&self, mode: Mode) {
        self.shared.mode.fetch_max(mode as u8, Ordering::SeqCst);
        while let Ok(job) = self.queued.try_recv() {
            self.shared.give_back(&job, false);
        }
        self.shared.give_back_all(&self.prepared);
        self.wake_all();
    }

    /// Gives back what waits and is not to start; the rest keeps its order.
    fn give_back_idle(&self) {
        let waiting: Vec<Job> = self.queued.try_iter().collect();
        for job in waiting {
            match &self.jobs {
                Some(jobs) if self.shared.starts(&job) => drop(jobs.send(job)),
                _ => self.shared.give_back(&job, false),
            }
        }
    }

    fn wake_all(&self) {
        for worker in &self.workers {
            let _ = worker.wake.try_send(());
        }
    }
}

impl Executor for LocalExecutor {
    fn submit(&mut self, job: Job) -> Result<(), ExecutorError> {
        match &self.jobs {
            // Not refused for a request to end that only the workers have seen yet: they give the job back.
            Some(jobs) if self.shared.mode.load(Ordering::SeqCst) == Mode::Run as u8 => {
                jobs.send(job).map_err(|_| ExecutorError::Closed)
            }
            _ => Err(ExecutorError::Closed),
        }
    }

    /// What ran here ended with its engine.
    fn adopt(&mut self, _: Job) -> Result<(), ExecutorError> {
        Err(ExecutorError::Closed)
    }

    /// Whatever a worker takes meanwhile it gives back by itself. What may start keeps its order.
    fn withdraw(&mut self, from: TrialId) {
        match from {
            TrialId::BASE => self.shared.withdrawn_from.store(u64::MAX, Ordering::SeqCst),
            from => drop(self.shared.withdrawn_from.fetch_min(from.0, Ordering::SeqCst)),
        }
        self.give_back_idle();
    }

    fn prune(&mut self, trial: TrialId) {
        self.shared.pruned().insert(trial);
        self.give_back_idle();
        self.wake_all();
    }

    fn drain(&mut self) {
        self.enter(Mode::Drain);
    }

    fn terminate(&mut self) {
        // A stopped trial could not hear TERM, and a stopped clock would never reach the end of the grace.
        self.resume();
        self.enter(Mode::Terminate);
    }

    fn kill(&mut self) {
        self.enter(Mode::Kill);
        self.resume();
    }

    fn pause(&mut self) {
        self.shared.clock.pause();
        if let Some(keeper) = &self.shared.keeper {
            keeper.stop_all();
        }
    }

    fn resume(&mut self) {
        if let Some(keeper) = &self.shared.keeper {
            keeper.continue_all();
        }
        self.shared.clock.resume();
        self.wake_all();
    }

    fn shutdown(&mut self) {
        self.enter(Mode::Drain);
        self.jobs = None;
        for worker in std::mem::take(&mut self.workers) {
            // A closure cannot be killed. Whoever asked for KILL does not wait for one that does not look up.
            let stuck = self.shared.mode() == Mode::Kill && worker.in_closure.load(Ordering::SeqCst);
            if !stuck && worker.thread.join().is_err() {
                self.shared.tell_broken("a worker failed unexpectedly");
            }
        }
        // What the workers have handed on is reported now, or with whatever the disk says.
        let (done, flushed) = crossbeam_channel::bounded(1);
        if self.shared.to_sync.send(ToSync::Flush(done)).is_ok() {
            let _ = flushed.recv();
        }
    }
}

impl Drop for LocalExecutor {
    fn drop(&mut self) {
        self.kill();
        self.shutdown();
    }
}

#[cfg(test)]
mod tests;
