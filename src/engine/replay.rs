//! One trial run again, somewhere else, with nothing recorded: what `piton replay` does.
//!
//! It runs what the engine would run (command, params, seed, environment, parent's directory), through the same executor,
//! in directories of its own. It takes no store at all, so it can change none, and an engine may be running meanwhile. The
//! attempt's key is of a study that does not exist: a search for strays of the real one does not find this one, and
//! this one's keeper never ends processes of the real one.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam_channel::{Receiver, after, never, select};

use super::EngineError;
use super::jobs::JobMaker;
use crate::executor::local::LocalExecutor;
use crate::executor::local::keeper::Keeper;
use crate::executor::local::parents;
use crate::executor::{AttemptReport, Differs, Executor, ExecutorEvent, Job};
use crate::model::{AttemptNo, Given, Proposals, StageRow, StudyId, TrialId, TrialRow, Verdict};
use crate::paths::StudyPaths;
use crate::plan::Lineage;
use crate::study_file::Spec;
use crate::sys::clock::TrialClock;
use crate::sys::disk;
use crate::sys::signals::{SignalEvent, SignalWatch, stop_self};

/// Where and as what a trial is run again.
#[derive(Clone, Debug)]
pub(crate) struct ReplayTarget {
    /// The attempt's directory, absolute. It is made anew: whatever it held is gone.
    pub dir: PathBuf,
    /// The trial's scratch directory, absolute.
    pub scratch_dir: PathBuf,
    /// The number of the attempt, as the trial sees it.
    pub attempt: AttemptNo,
    /// What it had, as far as that is recorded.
    pub given: Vec<Given>,
}

/// How a replay ended.
#[derive(Clone, Debug)]
pub(crate) struct Replayed {
    /// As an engine would have recorded it; `None` when a signal came before it began.
    pub report: Option<AttemptReport>,
    /// The signal that ended it early, if one did. Without one the report is there, and is a success or a failure.
    pub interrupted_by: Option<SignalEvent>,
}

/// Prepares a trial of a study for another place; `parent` is the row of the survivor that it derives from.
///
/// # Errors
/// [`EngineError::Inconsistent`] when the trial is not planned, [`EngineError::Executor`] when its stage cannot be
/// prepared, [`EngineError::System`] without random bytes.
pub(crate) fn prepare(
    spec: Spec,
    paths: StudyPaths,
    (stages, proposals): (&[StageRow], &Proposals),
    (trial, parent): (TrialId, Option<&TrialRow>),
    place: ReplayTarget,
) -> Result<Job, EngineError> {
    let id = disk::random().map_err(|cause| EngineError::System { what: "get random bytes", cause })?;
    let spec = Arc::new(spec);
    let lineage = Lineage::new(&spec, stages).with_proposals(proposals);
    let jobs = JobMaker::new(Arc::clone(&spec), paths)?;
    let job = jobs.job_of(StudyId(id), &lineage, trial, place.attempt)?;
    let inherited = parent.and_then(|row| jobs.left_by(&lineage, row.clone())).map(Arc::new);
    let given = match place.given.is_empty() {
        true => spec.first_given(job.stage),
        false => place.given,
    };
    Ok(Job { dir: place.dir, scratch_dir: place.scratch_dir, inherited, given, ..job })
}

/// How what the job's parent left differs from what is recorded of it, in lines; empty: not at all. A replay records
/// nothing, so that it runs all the same: without what was recorded, nothing is held against that.
#[must_use]
pub(crate) fn take_parent_as_it_is(job: &mut Job) -> Vec<String> {
    let differs = parents::words_of(job);
    job.inherited = None;
    differs
}

/// Runs a job to its end, on the given worker slot. `idle` is called every `every` while it runs, and once after it ended.
///
/// A first SIGINT, SIGTERM or SIGHUP to the process ends the trial (TERM, and KILL after the grace), a second one kills it,
/// a third one ends the process; SIGTSTP stops the trial along.
///
/// # Errors
/// [`EngineError::Executor`] when it cannot be run, [`EngineError::System`] when signals cannot be watched.
pub(crate) fn run(
    job: Job,
    slot: u32,
    keeper: Keeper,
    every: Duration,
    idle: &mut dyn FnMut(),
) -> Result<Replayed, EngineError> {
    let (signalled, signals) = crossbeam_channel::bounded(16);
    let asked_to_end = Arc::new(AtomicBool::new(false));
    let asked_by = Arc::new(OnceLock::new());
    let (flag, by) = (Arc::clone(&asked_to_end), Arc::clone(&asked_by));
    let watch = SignalWatch::start(signalled, move |signal| {
        // The worker knows before this loop gets round to it: a trial that the same signal ended did not fail.
        if signal.asks_to_end() {
            by.get_or_init(|| signal);
            flag.store(true, Ordering::SeqCst);
        }
        signal
    });
    let watch = watch.map_err(|cause| EngineError::System { what: "watch signals", cause })?;
    let (sender, events) = crossbeam_channel::unbounded();
    let executor = LocalExecutor::for_one(slot, keeper, TrialClock::new(), asked_to_end, sender);
    let mut executor = executor.map_err(|error| EngineError::Executor(error.to_string()))?;
    executor.submit(job).map_err(|error| EngineError::Executor(error.to_string()))?;
    let ended = watch_over(&mut executor, &events, &signals, &watch, every, idle);
    let ended = ended.and_then(|report| concluded(report, asked_by.get().copied()));
    executor.shutdown();
    idle();
    ended
}

/// What an end means. Whatever is cut off, other than by a signal to this process, is no result and must not look like one.
fn concluded(report: Option<AttemptReport>, asked_by: Option<SignalEvent>) -> Result<Replayed, EngineError> {
    let cut_off = match report.as_ref().map(|report| &report.verdict) {
        Some(Verdict::Succeeded { .. } | Verdict::Failed(_)) => {
            return Ok(Replayed { report, interrupted_by: None });
        }
        Some(Verdict::Interrupted { reason }) => reason.clone(),
        Some(Verdict::Cancelled) | None => "it did not begin".to_owned(),
    };
    match asked_by {
        Some(signal) => Ok(Replayed { report, interrupted_by: Some(signal) }),
        None => Err(EngineError::Executor(cut_off)),
    }
}

/// The attempt's end; `None` when it came back unstarted.
fn watch_over(
    executor: &mut LocalExecutor,
    events: &Receiver<ExecutorEvent>,
    signals: &Receiver<SignalEvent>,
    watch: &SignalWatch,
    every: Duration,
    idle: &mut dyn FnMut(),
) -> Result<Option<AttemptReport>, EngineError> {
    let mut asked = false;
    let never = never();
    let mut signals = signals;
    loop {
        select! {
            recv(events) -> event => match event {
                Ok(
                    ExecutorEvent::Started { .. }
                    | ExecutorEvent::Placed { .. }
                    | ExecutorEvent::Cluster { .. }
                    | ExecutorEvent::Proposed(_)
                    | ExecutorEvent::Shown { .. }
                    | ExecutorEvent::Differs(Differs::Inputs(_)),
                ) => {}
                Ok(ExecutorEvent::Differs(Differs::Parent(parent))) => {
                    return Err(EngineError::ParentChanged(parent));
                }
                Ok(ExecutorEvent::Ended(report) | ExecutorEvent::Looked(report)) => return Ok(Some(*report)),
                Ok(ExecutorEvent::Returned { .. }) => return Ok(None),
                Ok(ExecutorEvent::Broken(why)) => return Err(EngineError::Executor(why)),
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
                Ok(signal) if signal.asks_to_end() && !asked => {
                    asked = true;
                    executor.terminate();
                }
                Ok(signal) if signal.asks_to_end() => {
                    watch.arm_immediate_exit();
                    executor.kill();
                }
                Ok(_) => {}
                // Nobody sends any more: waiting for it would be a busy loop.
                Err(_) => signals = &never,
            },
            recv(after(every)) -> _ => idle(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Failure, FailureKind, Metrics, Usage};

    fn report(verdict: Verdict) -> Option<AttemptReport> {
        let usage = Usage::default();
        Some(AttemptReport {
            trial: TrialId(0),
            attempt: 1,
            ended_ms: 0,
            exit: None,
            usage,
            verdict,
            shown: Default::default(),
        })
    }

    #[test]
    fn only_a_result_counts_as_one() {
        let succeeded = report(Verdict::Succeeded { metrics: Metrics::new(), outputs: Vec::new() });
        let failed = report(Verdict::Failed(Failure::new(FailureKind::Timeout, "late")));
        let cut = report(Verdict::Interrupted { reason: "the trial keeper died".into() });
        // A signal that came as the trial ended by itself takes nothing from its result.
        for asked_by in [None, Some(SignalEvent::Int)] {
            for result in [&succeeded, &failed] {
                let replayed = concluded(result.clone(), asked_by).unwrap();
                assert_eq!((&replayed.report, replayed.interrupted_by), (result, None));
            }
        }
        assert_eq!(
            concluded(cut.clone(), Some(SignalEvent::Term)).unwrap().interrupted_by,
            Some(SignalEvent::Term)
        );
        assert_eq!(concluded(None, Some(SignalEvent::Int)).unwrap().interrupted_by, Some(SignalEvent::Int));
        assert!(matches!(concluded(cut, None), Err(EngineError::Executor(why)) if why == "the trial keeper died"));
        assert!(concluded(None, None).is_err());
    }
}
