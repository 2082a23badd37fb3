//! The engine: one loop thread that owns every decision and the only write handle of the store.
//!
//! [`step`] decides and is pure; the loop around it commits first and acts second, in one place. Memory does not grow
//! with finished trials, and neither does the cost of going on after a crash. It must never acknowledge what is not
//! on disk, and never trust a store handle that failed once.

#[cfg(feature = "cluster")]
pub mod attempt;
pub(crate) mod discard;
mod draft;
mod halving;
pub(crate) mod hooks;
pub(crate) mod importing;
mod inputs;
mod jobs;
mod library;
pub(crate) mod pools;
#[cfg(feature = "cluster")]
pub mod probe;
mod proposer;
mod rails;
mod ready;
pub(crate) mod replay;
pub mod resume;
pub(crate) mod room;
mod run;
mod scratch;
mod shutdown;
pub(crate) mod step;
pub(crate) mod stop;
mod survivors;
mod timing;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};

pub use draft::Draft;
pub(crate) use draft::parents_proposals;
pub(crate) use halving::differs as rungs_differ;
pub(crate) use inputs::WatchedInputs;
pub(crate) use jobs::JobMaker;
pub(crate) use library::Library;
pub(crate) use proposer::told_values;
#[cfg(test)]
pub(crate) use rails::ruled;
pub(crate) use run::Order;
#[cfg(test)]
pub(crate) use run::{CommitStep, Step};
pub(crate) use scratch::clear_scratch;
pub(crate) use shutdown::Control;
pub use shutdown::ShutdownHandle;
#[cfg(test)]
pub(crate) use survivors::choose;
pub(crate) use survivors::race_differs;
pub(crate) use timing::Timing;

pub(crate) use crate::executor::ParentDiffers;
use crate::executor::local::LocalExecutor;
use crate::executor::local::closure::ClosureFn;
use crate::executor::local::keeper::{Keeper, KeeperClient};
use crate::executor::local::strays::{KilledStray, ancestors_of_trials, kill_strays};
use crate::executor::{AttemptReport, Beside, Executor, ExecutorEvent, RemoteSetup, on_cluster};
use crate::journal::{self, Journal, JournalError, OpenError, Reader, Snapshot};
use crate::model::{
    Accounting, AttemptEnd, EngineId, ExecutorKind, FoldError, Record, RunEnd, RunningRow, Seq, StageIndex,
    StudyRow, StudyStatus,
};
use crate::paths::StudyPaths;
use crate::study_file::Spec;
use crate::sys::clock::{self, TrialClock};
use crate::sys::process::{is_alive, this_process};
use crate::sys::signals::{SignalEvent, SignalWatch};
use crate::sys::words::io_words;

/// Watches a run. It is called on the engine's thread, after the commit of what it hears, and must not block.
pub trait Observer {
    /// An event is on disk; `draft` is the state after it (or later).
    fn committed(&mut self, _seq: Seq, _record: &Record, _draft: &Draft) {}
    /// Processes of an engine that died were found alive and killed.
    fn killed_strays(&mut self, _strays: &[KilledStray]) {}
    /// A first signal came while `running` attempts run.
    fn draining(&mut self, _running: usize) {}
    /// A second one came: they are being terminated.
    fn forcing(&mut self, _running: usize) {}
    /// A stage closed; the snapshot shows it.
    fn stage_closed(&mut self, _stage: StageIndex, _snapshot: Snapshot) {}
    /// The run is over; nothing changes after this snapshot.
    fn ended(&mut self, _snapshot: &Snapshot) {}
}

/// Signals to the process, as requests to a study's engine. It outlives the run, so that a signal which comes while
/// the end is reported is one more request and not the end of the process.
#[derive(Debug)]
pub(crate) struct Watched {
    watch: SignalWatch,
    /// Set before the engine's loop gets round to it.
    asked_to_end: Arc<AtomicBool>,
}

impl Watched {
    /// From now on, until it is dropped.
    ///
    /// # Errors
    /// [`EngineError::System`] when handlers or the thread cannot be made.
    pub(crate) fn start(shutdown: &ShutdownHandle) -> Result<Self, EngineError> {
        let asked_to_end = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&asked_to_end);
        let watch = SignalWatch::start(shutdown.sender(), move |signal| {
            // The workers know before the engine's loop gets round to it.
            if signal.asks_to_end() {
                flag.store(true, Ordering::SeqCst);
            }
            Control::Signal(signal)
        });
        let watch = watch.map_err(|cause| EngineError::System { what: "watch signals", cause })?;
        Ok(Self { watch, asked_to_end })
    }
}

/// How one run goes about.
pub(crate) struct RunOptions<'a> {
    /// Trials at once, at least 1.
    pub workers: u32,
    /// Bound on the wait for running trials after a first signal.
    pub drain_limit: Option<Duration>,
    /// Signals to the process, where they are the engine's. A program that embeds it decides.
    pub signals: Option<&'a Watched>,
    /// Requests to stop.
    pub shutdown: &'a ShutdownHandle,
    /// Parent of the trials' processes; started before anything else was. `None`: no stage runs commands.
    pub keeper: Option<Keeper>,
    /// The piton program, for jobs on a cluster: a copy of it is what they run.
    pub program: Option<PathBuf>,
    /// Whether a drain leaves what runs on a cluster there, for the next run to adopt.
    pub detach: bool,
    /// Closures by stage name.
    pub closures: HashMap<String, ClosureFn>,
    /// The inputs, as they were found unchanged.
    pub inputs: Option<WatchedInputs>,
    /// Who watches.
    pub observer: &'a mut dyn Observer,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunReport {
    /// Why it ended.
    pub how: RunEnd,
    /// Where the study stands.
    pub status: StudyStatus,
    /// The signal to die by, if one forced the end.
    pub forced_by: Option<SignalEvent>,
}

/// Why a run could not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// What was decided could not be made durable.
    #[error(transparent)]
    Commit(Box<CommitError>),
    /// The store could not be read.
    #[error("cannot read the store")]
    Journal(#[from] JournalError),
    /// The engine's idea of the study broke; nothing of it was committed.
    #[error("the store contradicts itself")]
    Fold(#[from] FoldError),
    /// The same, found while preparing a trial.
    #[error("the store contradicts itself: {0}")]
    Inconsistent(String),
    /// The store is a copy of one that an engine runs.
    #[error("the engine this store names, process {pid}, runs: this is a copy of its store")]
    Copied {
        /// The process number of that engine.
        pid: u32,
    },
    /// Trials run on a cluster that the study is not to use any more.
    #[error("{count} of its trials still run on {}: the study goes on there", executor.name())]
    Elsewhere {
        /// Where the trials run that it left.
        executor: ExecutorKind,
        /// How many attempts run there.
        count: usize,
    },
    /// The store's file was removed or replaced while the engine had it open.
    #[error("the store `{}` was removed or replaced while the study ran", store.display())]
    StoreGone {
        /// Path of the store's file.
        store: PathBuf,
    },
    /// Inputs of the study changed while its trials ran.
    #[error("inputs of the study changed while its trials ran")]
    InputsChanged(Vec<String>),
    /// What a survivor left is not what its children were to begin with.
    #[error("{0}")]
    ParentChanged(Box<ParentDiffers>),
    /// A cluster refuses a job like the study's before any is submitted.
    #[error("the cluster would not take the study's jobs: {0}")]
    NotTaken(String),
    /// Trials cannot be run.
    #[error("cannot run trials: {0}")]
    Executor(String),
    /// Processes, signals or threads cannot be had.
    #[error("cannot {what}")]
    System {
        /// What failed.
        what: &'static str,
        /// Why.
        #[source]
        cause: io::Error,
    },
}

/// A commit that failed: in doubt, so nothing is acknowledged and the handle is not trusted again.
#[derive(Debug, thiserror::Error)]
#[error("cannot record the progress of the study in `{}`", store.display())]
#[non_exhaustive]
pub struct CommitError {
    /// The disk's or the store's answer.
    #[source]
    pub cause: JournalError,
    /// Path of the store's file.
    pub store: PathBuf,
    /// What a fresh look at the store counts, if it can be had.
    pub safe: Option<Accounting>,
}

/// Runs a study from where its store stands until it is finished or asked to stop.
///
/// # Errors
/// [`EngineError`]; the store is as good as its last commit.
pub(crate) fn run(
    journal: Journal,
    spec: Arc<Spec>,
    paths: StudyPaths,
    options: RunOptions<'_>,
) -> Result<RunReport, EngineError> {
    let RunOptions {
        workers,
        drain_limit,
        signals,
        shutdown,
        keeper,
        program,
        detach,
        closures,
        inputs,
        observer,
    } = options;
    let asked_to_end = signals.map(|watched| Arc::clone(&watched.asked_to_end)).unwrap_or_default();
    let snapshot = journal.snapshot()?;
    let study = snapshot.study()?;
    let boot_id = this_boot()?;
    // This store is ours alone, but it may be a copy of one whose engine lives: its trials are not ours to kill.
    if let Some(pid) = runs_elsewhere(&study).map_err(unseen)? {
        return Err(EngineError::Copied { pid });
    }
    let same_boot = study.engine.as_ref().is_some_and(|engine| engine.boot_id == boot_id);
    let left = snapshot.running()?;
    let kind = spec.run.executor.kind();
    refuse_elsewhere(&left, kind)?;
    let strays = kill_strays(study.study_id, &left, same_boot)
        .map_err(|cause| EngineError::System { what: "end the processes of an engine that died", cause })?;
    drop(snapshot);
    if !strays.is_empty() {
        observer.killed_strays(&strays);
    }
    let clock = TrialClock::new();
    let (sender, events) = crossbeam_channel::unbounded();
    let keeper_client = keeper.as_ref().map(Keeper::client);
    let (answers, sender_for_taking) = (sender.clone(), sender.clone());
    let mut keeper = keeper;
    let executor: Box<dyn Executor> = match kind {
        ExecutorKind::Local => {
            let local = LocalExecutor::new(workers, keeper.take(), closures, clock.clone(), asked_to_end, sender);
            let cannot = |error| EngineError::Executor(format!("cannot start threads: {}", io_words(&error)));
            Box::new(local.map_err(cannot)?)
        }
        ExecutorKind::Ray | ExecutorKind::Slurm => {
            let remote = on_cluster(RemoteSetup {
                spec: Arc::clone(&spec),
                study: study.study_id,
                study_artifacts: paths.study_artifacts(&study.name),
                program,
                keeper: keeper_client.clone(),
                left: left.iter().map(|row| (row.trial, row.attempt)).collect(),
                events: sender,
            });
            let trials = remote.map_err(EngineError::Executor)?;
            let takes = spec.stages.iter().any(|stage| !stage.reuse.is_no() && !stage.outputs.is_empty());
            match takes {
                true => {
                    let closures = HashMap::new();
                    let taking =
                        LocalExecutor::new(TAKING, None, closures, clock.clone(), asked_to_end, sender_for_taking);
                    let cannot =
                        |error| EngineError::Executor(format!("cannot start threads: {}", io_words(&error)));
                    Box::new(Beside { trials, taking: taking.map_err(cannot)? })
                }
                false => trials,
            }
        }
    };
    let engine = EngineId { process: this_process(), boot_id, host: clock::host_name() };
    let run = stop::RunName { study: study.study_id, run: study.runs.saturating_add(1) };
    let _requests = stop::Watcher::start(journal.path(), run, shutdown);
    let on = RunHost {
        engine,
        executor,
        keeper: keeper_client,
        answers,
        events,
        timing: Box::new(timing::RealTime(clock)),
        order: Order::SAFE,
        signals: signals.map(|watched| &watched.watch),
    };
    let manner = RunSettings { workers, drain_limit, detach, shutdown, inputs, observer };
    let report = run_on(on, journal, spec, paths, manner);
    // The pool has taken it; otherwise proposers and a head node were its children, and have ended.
    drop(keeper);
    if shutdown.is_requested() || matches!(&report, Ok(report) if is_early(report.how)) {
        shutdown.run_callbacks();
    }
    report
}

/// Threads that copy outputs beside trials that run elsewhere.
const TAKING: u32 = 4;

/// What a run happens on: this machine, or a simulated one.
pub(crate) struct RunHost<'a> {
    /// Who runs it.
    pub(crate) engine: EngineId,
    /// Who runs its trials.
    pub(crate) executor: Box<dyn Executor>,
    /// Starts proposers.
    pub(crate) keeper: Option<KeeperClient>,
    /// Where they answer: the other end of `events`.
    pub(crate) answers: Sender<ExecutorEvent>,
    /// What the executor reports.
    pub(crate) events: Receiver<ExecutorEvent>,
    pub(crate) timing: Box<dyn Timing>,
    /// What comes first: committing, telling, acting.
    pub(crate) order: Order,
    pub(crate) signals: Option<&'a SignalWatch>,
}

/// How a run goes about, wherever it happens; see [`RunOptions`].
pub(crate) struct RunSettings<'a> {
    pub(crate) workers: u32,
    pub(crate) drain_limit: Option<Duration>,
    pub(crate) detach: bool,
    pub(crate) shutdown: &'a ShutdownHandle,
    pub(crate) inputs: Option<WatchedInputs>,
    pub(crate) observer: &'a mut dyn Observer,
}

/// The run itself, once nothing of an earlier engine is left.
pub(crate) fn run_on(
    on: RunHost<'_>,
    mut journal: Journal,
    spec: Arc<Spec>,
    paths: StudyPaths,
    manner: RunSettings<'_>,
) -> Result<RunReport, EngineError> {
    let RunHost { engine, executor, keeper, answers, events, timing, order, signals } = on;
    let RunSettings { workers, drain_limit, detach, shutdown, inputs, observer } = manner;
    discard::finish_left(&mut journal, &spec, &paths, &|| !shutdown.receiver().is_empty())?;
    let snapshot = journal.snapshot()?;
    let draft = Draft::load(&snapshot)?;
    let judge = rails::known(&snapshot, &spec, &draft)?;
    let rungs = halving::known(&snapshot, &spec, &draft)?;
    drop(snapshot);
    let state = step::State::new(Arc::clone(&spec), draft, judge, workers).on(spec.run.executor.kind(), detach);
    let state = state.climbing(rungs).sharing(pools::Pools::new(spec.shared()));
    let study_id = state.draft().study_row().study_id;
    let library = Library::open(&spec, &paths, state.draft().study_row());
    let adopted = inputs::adopted(&journal.snapshot()?, spec.run.executor.kind())?;
    let inputs_changed_ms = inputs.as_ref().map(|watched| watched.inputs.changed_ms());
    let looker = inputs::Looker::start(inputs, &spec, adopted, answers.clone())
        .map_err(|cause| EngineError::System { what: "start a thread that looks at inputs", cause })?;
    let room = room::Room::of(&spec, &paths, (state.draft().stages(), &journal.snapshot()?.running()?));
    let proposers = proposer::Proposers::new(Arc::clone(&spec), paths.clone(), study_id, keeper, answers);
    let jobs = JobMaker::new(spec, paths)?.with_inputs_of(inputs_changed_ms);
    run::Loop {
        journal,
        executor,
        events,
        shutdown,
        signals,
        drain_limit,
        jobs,
        library,
        looker,
        proposers,
        timing,
        order,
        observer,
        state,
        signalled: false,
        to_announce: None,
        forced_by: None,
        outage: run::Outage::default(),
        room,
    }
    .run(engine, workers)
}

/// What ends, as interrupted, the attempts that a dead engine left running on this machine. Their processes are killed
/// first.
///
/// # Errors
/// [`EngineError`] when the store cannot be read, a process does not die, or some run on a cluster.
pub(crate) fn settled(journal: &Journal) -> Result<Vec<Record>, EngineError> {
    let snapshot = journal.snapshot()?;
    let (study, left) = (snapshot.study()?, snapshot.running()?);
    if runs_elsewhere(&study).map_err(unseen)?.is_some() {
        // A copy of a store whose engine still winds up.
        return Ok(Vec::new());
    }
    refuse_elsewhere(&left, ExecutorKind::Local)?;
    let boot_id = this_boot()?;
    let same_boot = study.engine.as_ref().is_some_and(|engine| engine.boot_id == boot_id);
    kill_strays(study.study_id, &left, same_boot)
        .map_err(|cause| EngineError::System { what: "end the processes of an engine that died", cause })?;
    let at_ms = clock::unix_ms();
    let record = |row: &RunningRow| {
        let end = step::as_pruned(step::left_behind(at_ms, row), snapshot.trial(row.trial)?.as_ref());
        Ok(Record { at_ms, run_ms: 0, event: step::end_event(end) })
    };
    left.iter().map(record).collect()
}

/// The same in a study that is over, for attempts on the cluster that `spec` names: they are cancelled, and end as that
/// goes. One that the cluster does not let go of in time stays as it is.
///
/// # Errors
/// [`EngineError`] when the store cannot be read, or the cluster cannot be used.
pub(crate) fn settled_remote(
    journal: &Journal,
    spec: &Arc<Spec>,
    paths: &StudyPaths,
    program: Option<PathBuf>,
) -> Result<Vec<Record>, EngineError> {
    let snapshot = journal.snapshot()?;
    let (draft, left) = (Draft::load(&snapshot)?, snapshot.running()?);
    refuse_elsewhere(&left, spec.run.executor.kind())?;
    let study = draft.study_row();
    let (sender, events) = crossbeam_channel::unbounded();
    let mut executor = on_cluster(RemoteSetup {
        spec: Arc::clone(spec),
        study: study.study_id,
        study_artifacts: paths.study_artifacts(&study.name),
        program,
        keeper: None,
        left: left.iter().map(|row| (row.trial, row.attempt)).collect(),
        events: sender,
    })
    .map_err(EngineError::Executor)?;
    let jobs = JobMaker::new(Arc::clone(spec), paths.clone())?;
    for row in &left {
        let job = jobs.job(&draft, row.trial, row.attempt)?;
        executor.adopt(job).map_err(|error| EngineError::Executor(error.to_string()))?;
    }
    executor.terminate();
    let until = Instant::now() + step::give_up_after(spec);
    let mut records = Vec::new();
    while records.len() < left.len() {
        match events.recv_deadline(until) {
            Ok(ExecutorEvent::Ended(report)) => {
                // Whatever it has to say, it counts no more.
                let AttemptReport { trial, attempt, ended_ms, exit, usage, .. } = *report;
                let reason = "its study was over".to_owned();
                let end = step::interrupted(ended_ms, trial, attempt, reason);
                let end = step::as_pruned(end, snapshot.trial(trial)?.as_ref());
                let event = step::end_event(AttemptEnd { exit, usage, ..end });
                records.push(Record { at_ms: clock::unix_ms(), run_ms: 0, event });
            }
            Ok(_) => {}
            Err(_) => break,
        }
    }
    executor.shutdown();
    Ok(records)
}

/// Refuses to go on without the cluster that some attempts run on.
fn refuse_elsewhere(left: &[RunningRow], kind: ExecutorKind) -> Result<(), EngineError> {
    let elsewhere = |row: &&RunningRow| row.executor.is_remote() && row.executor != kind;
    let count = left.iter().filter(elsewhere).count();
    match left.iter().find(elsewhere) {
        Some(row) => Err(EngineError::Elsewhere { executor: row.executor, count }),
        None => Ok(()),
    }
}

fn this_boot() -> Result<String, EngineError> {
    clock::boot_id().map_err(|cause| EngineError::System { what: "tell this boot of the machine", cause })
}

fn unseen(cause: io::Error) -> EngineError {
    EngineError::System { what: "look for an engine that runs the same study", cause }
}

/// The engine of another store of the same study, of which this one is a copy: the process that the store names, or one
/// that trials of the study descend from, if it writes such a store.
///
/// # Errors
/// If a process that may be it cannot be looked at.
fn runs_elsewhere(study: &StudyRow) -> io::Result<Option<u32>> {
    let me = this_process();
    let mut others = ancestors_of_trials(study.study_id)?;
    if let Some(engine) = study.open_engine()
        && is_alive(&engine.process, &engine.boot_id)?
    {
        others.insert(0, engine.process);
    }
    let is_same = |store: &PathBuf| match Reader::open(store).map(|reader| reader.snapshot()?.study()) {
        Ok(Ok(other)) => Ok(other.study_id == study.study_id),
        Ok(Err(JournalError::Io(error))) | Err(OpenError::Io { cause: JournalError::Io(error), .. }) => Err(error),
        // Another file, or gone meanwhile.
        _ => Ok(false),
    };
    for process in others.into_iter().filter(|process| *process != me) {
        for store in journal::written_by(process.pid)? {
            if is_same(&store)? {
                return Ok(Some(process.pid));
            }
        }
    }
    Ok(None)
}

/// Whether a run ended because it was asked to.
fn is_early(how: RunEnd) -> bool {
    matches!(how, RunEnd::Drained | RunEnd::Forced)
}
