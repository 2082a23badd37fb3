//! What a finished attempt left, read again when the rules of its stage have changed.
//!
//! It is read by the code that reads it when an attempt ends, so that the answer is the one the rules would have given then. It is
//! taken only if the *old* rules still find in it what is recorded, and declared outputs that the new rules read have their recorded hashes:
//! files that somebody removed or changed since are no evidence. Nothing here decides what becomes of a trial, or runs anything.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use super::attempt_dir::Grounds;
use super::blame::AttemptError;
use super::classify::{by_rules, with_last_lines};
use super::ended_dir::EndedAttemptDir;
use super::process::by_exit;
use super::results::{keep_named, keep_outputs, reported};
use super::syncer::{Room, Syncer, ToSync, Unsynced, hand_on};
use crate::executor::{AttemptReport, CompiledRule, ExecutorEvent, Job, StageRuntime};
use crate::model::FailureKind::{ExitCode, KilledKeeper, OutOfMemory, Signal, Timeout};
use crate::model::{AttemptRow, Exit, Failure, Metrics, TrialRow, TrialState, Usage, Verdict};
use crate::study_file::Work;
use crate::study_file::progress::Printed;
use crate::sys::tree_hash::to_the_end;

/// What reading it again came to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Found {
    /// The verdict is what it was.
    Same,
    /// It is another one.
    Other(Verdict),
    /// It cannot be read as it was, in words.
    Unread(String),
}

/// Reads attempts again, one after the other.
pub(crate) struct Rereader {
    grounds: Arc<Grounds>,
    room: Arc<Room>,
}

/// What is known of a result besides what was left.
struct Recorded<'a> {
    row: &'a TrialRow,
    attempt: &'a AttemptRow,
}

/// By one set of rules.
enum Judged {
    Succeeded(Metrics),
    Failed(Failure),
}

impl Rereader {
    pub(crate) fn new() -> Self {
        Self { grounds: Arc::default(), room: Room::of_process() }
    }

    /// The result of a finished trial by the rules of `new`, a job of the attempt that counts, as `old` is by the rules so far.
    /// Outputs of an attempt that counts as a success only now are durable after that.
    ///
    /// # Errors
    /// In words, if the machine cannot read what was left: then nothing is known.
    pub(crate) fn read(&self, old: &Job, new: &Job, row: &TrialRow) -> Result<Found, String> {
        if row.reused_from.is_some() {
            return self.taken(old, new, row);
        }
        let Some(attempt) = row.attempts.last() else {
            return Ok(Found::Unread("nothing is recorded of its attempts".to_owned()));
        };
        if new.stage_spec.work == Work::Closure {
            return Ok(Found::Unread("a closure reported it, and not in a file".to_owned()));
        }
        let remains = EndedAttemptDir::of(&self.grounds, new)?;
        let recorded = Recorded { row, attempt };
        match row.state {
            TrialState::Succeeded => self.success(old, new, &remains, row),
            _ => self.failure(old, new, &remains, recorded),
        }
    }

    /// One that was taken over has the declared outputs and nothing else: it can be read where all that it reports is read from those.
    fn taken(&self, old: &Job, new: &Job, row: &TrialRow) -> Result<Found, String> {
        let unread = || Ok(Found::Unread("it was taken over, and its logs and other files were not".to_owned()));
        let outputs = &new.stage_spec.outputs;
        let is_there = |file: &str| outputs.iter().any(|output| Path::new(file).starts_with(output));
        if new.stage_spec.work == Work::Closure
            || ![old, new].iter().all(|job| read_from(&job.stage_spec).all(is_there))
        {
            return unread();
        }
        let remains = EndedAttemptDir::of(&self.grounds, new)?;
        if remains.dir().is_some()
            && !matches!(judged(old, &remains, Exit::Code(0))?, Judged::Succeeded(metrics) if metrics == row.metrics)
        {
            return unread();
        }
        Ok(match self.success(old, new, &remains, row)? {
            Found::Other(Verdict::Failed(failure)) => Found::Unread(failure.reason),
            other => other,
        })
    }

    fn success(&self, old: &Job, new: &Job, remains: &EndedAttemptDir, row: &TrialRow) -> Result<Found, String> {
        if remains.dir().is_none() {
            return Ok(Found::Unread("the attempt's directory is gone".to_owned()));
        }
        match judged(old, remains, Exit::Code(0))? {
            Judged::Succeeded(metrics) if metrics == row.metrics => {}
            Judged::Succeeded(_) => {
                return Ok(Found::Unread("its files do not say any more what they said".to_owned()));
            }
            Judged::Failed(failure) => return Ok(Found::Unread(failure.reason)),
        }
        if let Some(why) = self.changed_output(new, remains, row)? {
            return Ok(Found::Unread(why));
        }
        if let Some(why) = gone(&old.stage_spec, &new.stage_spec, remains) {
            return Ok(Found::Unread(why));
        }
        Ok(match judged(new, remains, Exit::Code(0))? {
            Judged::Succeeded(metrics) if metrics == row.metrics => Found::Same,
            Judged::Succeeded(metrics) => {
                Found::Other(Verdict::Succeeded { metrics, outputs: row.outputs.clone() })
            }
            Judged::Failed(failure) => Found::Other(Verdict::Failed(failure)),
        })
    }

    /// How a declared output that the rules read is not what is recorded.
    fn changed_output(
        &self,
        new: &Job,
        remains: &EndedAttemptDir,
        row: &TrialRow,
    ) -> Result<Option<String>, String> {
        let stage = &new.stage_spec;
        let read = |output: &str| stage.rules.iter().any(|rule| Path::new(&rule.file).starts_with(output));
        for output in row.outputs.iter().filter(|output| read(&output.path)) {
            let mut unsynced = Unsynced::new(&self.room);
            match keep_named(std::slice::from_ref(&output.path), remains, &mut unsynced, &to_the_end) {
                Ok(hashed) if hashed.first() == Some(output) => {}
                Ok(_) => return Ok(Some(format!("`{}` is not what was recorded", output.path))),
                Err(AttemptError::Trial(failure)) => return Ok(Some(failure.reason)),
                Err(AttemptError::Machine(why)) => return Err(why),
                Err(AttemptError::CutOff) => return Err("it was cut off".to_owned()),
            }
        }
        Ok(None)
    }

    fn failure(
        &self,
        old: &Job,
        new: &Job,
        remains: &EndedAttemptDir,
        recorded: Recorded<'_>,
    ) -> Result<Found, String> {
        let (Some(exit), Some(was)) = (recorded.attempt.exit, &recorded.row.failure) else {
            // It never started, or its end was not seen: no rule was asked.
            return Ok(Found::Same);
        };
        match judged(old, remains, exit)? {
            Judged::Failed(failure) if failure == *was => {}
            // Piton's own doing, which no rule is asked about.
            _ if matches!(was.kind, Timeout | KilledKeeper) => return Ok(Found::Same),
            // The kernel's: rules are asked first, and what names no rule keeps its name.
            Judged::Failed(_) if was.kind == OutOfMemory => {
                return Ok(match judged(new, remains, exit)? {
                    Judged::Failed(failure) if !matches!(failure.kind, ExitCode | Signal) => {
                        Found::Other(Verdict::Failed(failure))
                    }
                    _ => Found::Same,
                });
            }
            _ => return Ok(Found::Unread("its files do not say any more what they said".to_owned())),
        }
        match judged(new, remains, exit)? {
            Judged::Failed(failure) if failure == *was => Ok(Found::Same),
            Judged::Failed(failure) => Ok(Found::Other(Verdict::Failed(failure))),
            Judged::Succeeded(metrics) => self.succeeds(new, remains, metrics),
        }
    }

    /// An attempt that exited 0 and lacked a metric by the rules so far: its outputs are hashed and made durable now.
    fn succeeds(&self, new: &Job, remains: &EndedAttemptDir, metrics: Metrics) -> Result<Found, String> {
        let mut unsynced = Unsynced::new(&self.room);
        let outputs = match keep_outputs(&new.stage_spec, remains, &mut unsynced, &to_the_end) {
            Ok(outputs) => outputs,
            Err(AttemptError::Trial(failure)) => {
                return Ok(Found::Other(Verdict::Failed(named(
                    &new.stage_spec,
                    remains,
                    Exit::Code(0),
                    failure,
                )?)));
            }
            Err(AttemptError::Machine(why)) => return Err(why),
            Err(AttemptError::CutOff) => return Err("it was cut off".to_owned()),
        };
        unsynced
            .keep_rest(new, remains)
            .map_err(|(what, error)| format!("cannot make {what} durable: {error}"))?;
        self.made_durable(new, Verdict::Succeeded { metrics, outputs }, unsynced)
    }

    /// One round of the thread that makes what attempts leave durable.
    fn made_durable(&self, job: &Job, verdict: Verdict, unsynced: Unsynced) -> Result<Found, String> {
        let (to_sync, inbox) = crossbeam_channel::unbounded::<ToSync>();
        let (events, synced) = crossbeam_channel::unbounded();
        let waiting = Arc::new(AtomicUsize::new(0));
        let broken = Arc::new(AtomicBool::new(false));
        let mut syncer =
            Syncer::new(inbox, events.clone(), Arc::clone(&waiting), broken, Arc::clone(&self.grounds));
        let (trial, attempt, usage) = (job.key.trial, job.key.attempt, Usage::default());
        let report =
            AttemptReport { trial, attempt, ended_ms: 0, exit: None, usage, verdict, shown: Default::default() };
        hand_on(Box::new(report), unsynced, &to_sync, &waiting, &events);
        syncer.round_now();
        for event in synced.try_iter() {
            match event {
                ExecutorEvent::Ended(report) => {
                    return match report.verdict {
                        Verdict::Interrupted { reason } => Err(reason),
                        verdict => Ok(Found::Other(verdict)),
                    };
                }
                ExecutorEvent::Broken(why) => return Err(why),
                _ => {}
            }
        }
        Err("what it left cannot be made durable".to_owned())
    }
}

/// The files that rules read.
fn read_from(stage: &StageRuntime) -> impl Iterator<Item = &str> {
    let rules = stage.rules.iter().map(|rule| rule.file.as_str());
    rules.chain(stage.printed.as_ref().map(Printed::file))
}

/// A file that a new or changed rule reads and that is not there. When the attempt ended it may have been: what is not known is not taken
/// for nothing.
fn gone(old: &StageRuntime, new: &StageRuntime, remains: &EndedAttemptDir) -> Option<String> {
    let is_same = |a: &CompiledRule, b: &CompiledRule| {
        (&a.metric, &a.file, a.regex.as_str()) == (&b.metric, &b.file, b.regex.as_str())
    };
    let is_old = |rule: &CompiledRule| old.rules.iter().any(|other| is_same(rule, other));
    let is_missing = |file: &&str| remains.open(file).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    let rules = new.rules.iter().filter(|rule| !is_old(rule)).map(|rule| rule.file.as_str());
    let was_printed = old.printed.as_ref().map(Printed::file);
    let printed = new.printed.as_ref().map(Printed::file).filter(|file| was_printed != Some(*file));
    let found = rules.chain(printed).find(is_missing);
    found.map(|file| format!("`{file}` is not there"))
}

/// What an attempt that ended so by itself counts as. Of its outputs nothing is asked.
fn judged(job: &Job, remains: &EndedAttemptDir, exit: Exit) -> Result<Judged, String> {
    let stage = &*job.stage_spec;
    let failed = match exit {
        Exit::Code(0) => match reported(job, remains) {
            Ok(metrics) => return Ok(Judged::Succeeded(metrics)),
            Err(AttemptError::Trial(failure)) => failure,
            Err(AttemptError::Machine(why)) => return Err(why),
            Err(AttemptError::CutOff) => return Err("it was cut off".to_owned()),
        },
        exit => by_exit(exit, matches!(stage.work, Work::Shell(_))),
    };
    named(stage, remains, exit, failed).map(Judged::Failed)
}

fn named(stage: &StageRuntime, remains: &EndedAttemptDir, exit: Exit, failed: Failure) -> Result<Failure, String> {
    by_rules(&stage.failures, remains, exit, failed, |failed| with_last_lines(failed, remains))
}
