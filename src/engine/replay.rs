//! One trial run again, somewhere else, with nothing recorded: what `piton replay` does.
//!
//! It runs what the engine would run (command, params, seed, environment, parent's directory), through the same executor,
//! in directories of its own. It takes no store at all, so it can change none, and an engine may be running meanwhile. The
//! attempt's key is of a study that does not exist: whoever looks for strays of the real one does not find this one, and
//! this one's keeper never ends processes of the real one.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, after, never, select};

use super::EngineError;
use super::jobs::JobMaker;
use crate::executor::local::LocalExecutor;
use crate::executor::local::keeper::Keeper;
use crate::executor::{AttemptReport, Executor, ExecutorEvent, Job};
use crate::model::{AttemptNo, StageRow, StudyId, TrialId};
use crate::paths::StudyPaths;
use crate::spec::Spec;
use crate::sys::clock::TrialClock;
use crate::sys::signals::{SignalEvent, SignalWatch, stop_self};

/// Where and as what a trial is run again.
#[derive(Clone, Debug)]
pub struct Place {
    /// The attempt's directory, absolute. It is made anew: whatever it held is gone.
    pub dir: PathBuf,
    /// The scratch directory the trial is told, absolute.
    pub scratch_dir: PathBuf,
    /// The attempt it is told to be.
    pub attempt: AttemptNo,
}

/// How a replay ended.
#[derive(Clone, Debug)]
pub struct Replayed {
    /// As an engine would have recorded it; `None` when a signal came before it began.
    pub report: Option<AttemptReport>,
    /// The signal that ended it early, if one did.
    pub interrupted_by: Option<SignalEvent>,
}

/// Prepares a trial of a study for another place.
///
/// # Errors
/// [`EngineError::Inconsistent`] when the trial is not planned, [`EngineError::Executor`] when its stage cannot be
/// prepared, [`EngineError::System`] without random bytes.
pub fn prepare(
    spec: Spec,
    paths: StudyPaths,
    stages: &[StageRow],
    trial: TrialId,
    place: Place,
) -> Result<Job, EngineError> {
    let mut id = [0; 16];
    rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| EngineError::System { what: "get random bytes", cause: error.into() })?;
    let job = JobMaker::new(Arc::new(spec), paths)?.job_of(StudyId(id), stages, trial, place.attempt)?;
    Ok(Job { dir: place.dir, scratch_dir: place.scratch_dir, ..job })
}

/// Runs a job to its end, on the worker slot it is told. `idle` is called every `every` while it runs, and once after it ended.
///
/// A first SIGINT, SIGTERM or SIGHUP to the process ends the trial (TERM, and KILL after the grace), a second one kills it,
/// a third one ends the process; SIGTSTP stops the trial along.
///
/// # Errors
/// [`EngineError::Executor`] when it cannot be run, [`EngineError::System`] when signals cannot be watched.
pub fn run(
    job: Job,
    slot: u32,
    keeper: Keeper,
    every: Duration,
    idle: &mut dyn FnMut(),
) -> Result<Replayed, EngineError> {
    let (signalled, signals) = crossbeam_channel::bounded(16);
    let watch = SignalWatch::start(signalled, |signal| signal)
        .map_err(|cause| EngineError::System { what: "watch signals", cause })?;
    let (sender, events) = crossbeam_channel::unbounded();
    let executor = LocalExecutor::with_slots(
        slot..slot.saturating_add(1),
        Some(keeper),
        HashMap::new(),
        TrialClock::new(),
        Arc::default(),
        sender,
    );
    let mut executor = executor.map_err(|error| EngineError::Executor(error.to_string()))?;
    executor.submit(job).map_err(|error| EngineError::Executor(error.to_string()))?;
    let ended = watch_over(&mut executor, &events, &signals, &watch, every, idle);
    executor.shutdown();
    idle();
    ended
}

fn watch_over(
    executor: &mut LocalExecutor,
    events: &Receiver<ExecutorEvent>,
    signals: &Receiver<SignalEvent>,
    watch: &SignalWatch,
    every: Duration,
    idle: &mut dyn FnMut(),
) -> Result<Replayed, EngineError> {
    let mut interrupted_by = None;
    let never = never();
    let mut signals = signals;
    loop {
        select! {
            recv(events) -> event => match event {
                Ok(ExecutorEvent::Started { .. }) => {}
                Ok(ExecutorEvent::Ended(report)) => {
                    return Ok(Replayed { report: Some(*report), interrupted_by });
                }
                Ok(ExecutorEvent::Broken(why)) => return Err(EngineError::Executor(why)),
                Ok(ExecutorEvent::Returned { .. }) if interrupted_by.is_some() => {
                    return Ok(Replayed { report: None, interrupted_by });
                }
                // `Broken`, which came before it, says why.
                Ok(ExecutorEvent::Returned { .. }) => {}
                Err(_) => return Err(EngineError::Executor("the executor is gone".into())),
            },
            recv(signals) -> signal => match signal {
                Ok(SignalEvent::Tstp) => {
                    executor.pause();
                    if let Err(error) = stop_self() {
                        log::warn!("cannot stop: {error}");
                    }
                    executor.resume();
                }
                Ok(signal) if signal.asks_to_end() => match interrupted_by {
                    None => {
                        interrupted_by = Some(signal);
                        executor.terminate();
                    }
                    Some(_) => {
                        watch.arm_immediate_exit();
                        executor.kill();
                    }
                },
                Ok(_) => {}
                // Nobody sends any more: waiting for it would be a busy loop.
                Err(_) => signals = &never,
            },
            recv(after(every)) -> _ => idle(),
        }
    }
}
