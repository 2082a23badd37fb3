//! `status`: one screen on how a study stands.
//!
//! It reads the rows that seldom change, what runs, and a bounded number of the last events: its cost must never grow
//! with the trials, so that it can be asked every second of a study of millions.

mod queue;
mod screen;

use std::collections::HashSet;
use std::io::Write;

use serde::Serialize;

use super::dump::RemoteOut;
use super::pace::{Lately, Pace};
use super::progress::{Course, LastReport};
use super::words::{seconds, timestamp};
use queue::waiting;

pub use queue::ClusterQueue;

use super::{AbortedBy, StudyView, TrialSummary, ViewError, abort_words, decision, shell_quoted};
use crate::journal::{JournalError, Snapshot};
use crate::model::json::is_zero;
use crate::model::{
    AttemptOutcome, AttemptRow, Event, FailureKind, Kept, RunEnd, RunningRow, StageStatus, StudyStatus, TrialId,
    UnixMs, Verdict,
};
use crate::paths::{PROPOSER_DIR, STDERR_LOG};
use crate::plan::{BestTrial, Lineage, StageSummary, StageTrials};
use crate::study_file::{Sampling, StageSpec, Work};
use crate::sys::removal::{Taken, measured};
use crate::sys::waiting::Waiting;
use crate::sys::words::FLUSH_HINT;

/// How many running trials are listed.
const RUNNING_SHOWN: usize = 10;
/// How many failures are listed.
const FAILURES_SHOWN: usize = 5;
/// How many of the last events are searched for them.
const EVENTS_SEARCHED: u64 = 200;

/// How a study stands; also the shape of `status --json`.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Status {
    /// The study's name.
    pub study: String,
    /// As in a dump: `created`, `running`, `interrupted`, `completed`, `aborted`.
    pub status: StudyStatus,
    /// Why it was aborted.
    pub abort_reason: Option<String>,
    /// What the abort rests on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aborted_by: Option<AbortedBy>,
    /// The same for people, a line each.
    #[serde(skip)]
    pub abort_words: Vec<String>,
    /// Whether the running engine starts nothing more.
    pub draining: bool,
    /// Events that were lost with a damaged store, before this one was made of what was left.
    #[serde(skip_serializing_if = "is_zero")]
    pub lost_events: u64,
    /// The last engine.
    pub engine: Option<Engine>,
    /// Stages of which it was found that equal trials come to different results, in words; there where any were.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub doubts: Vec<String>,
    /// What is wrong with the cluster that trials run on, or was when the last run ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_trouble: Option<String>,
    /// Why jobs wait in the cluster's queue, as it last said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_queue: Option<ClusterQueue>,
    /// Runs so far.
    pub runs: u32,
    /// When the last run began, RFC 3339 in UTC; `null` before the first.
    pub run_started_at: Option<String>,
    /// When it ended; `null` while it runs, and after an engine that died.
    pub run_ended_at: Option<String>,
    /// The same for people.
    #[serde(skip)]
    run_times: Option<RunTimes>,
    /// Running time over all runs, seconds.
    pub runtime_s: f64,
    /// Events so far.
    pub events: u64,
    /// The stages, in order.
    pub stages: Vec<Stage>,
    /// Trials that run (or ran when their engine died); the first ten.
    pub running: Vec<Running>,
    /// How many more.
    pub running_not_shown: u64,
    /// Trials whose last attempt failed among the last 200 events, newest first; at most five. What has succeeded since is none.
    pub last_failures: Vec<LastFailure>,
    /// The stage that waits for a person's approval.
    pub waits_for_approval: Option<String>,
    /// The stage whose proposer has yet to answer, and has taken some seconds by now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waits_for_proposer: Option<ProposerWait>,
    /// The command that goes on, when nothing runs and work is left.
    pub next_command: Option<String>,
    /// What the study's directory takes, if that was asked for: it costs a look at every file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskUse>,
}

/// What a study's directory takes.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DiskUse {
    /// Bytes of blocks.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
    /// `[run] disk_limit`, as the store has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_bytes: Option<u64>,
}

/// A proposer that has yet to answer.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ProposerWait {
    /// Its stage.
    pub stage: String,
    /// How long nothing has happened, seconds.
    pub since_s: f64,
    /// What it says beside its answers.
    pub log: String,
    /// What it may lack.
    pub hint: &'static str,
}

/// The last engine of a study.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Engine {
    /// Its process.
    pub pid: u32,
    /// Its host.
    pub host: String,
    /// Whether it lives.
    pub alive: bool,
    /// How many trials it runs at once.
    pub workers: u32,
    /// How long finished trials may wait for their commit, seconds: what ended in the last so long before a crash runs
    /// again. With 0, nothing runs again that was shown as finished.
    pub sync_interval_s: f64,
}

/// How a stage stands.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Stage {
    /// Its position.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// As in a dump.
    pub status: StageStatus,
    /// Its trials by where they stand.
    #[serde(flatten)]
    pub trials: StageTrials,
    /// Of those that succeeded, how many took the result of an equal trial; there where any did.
    #[serde(skip_serializing_if = "is_zero")]
    pub reused: u64,
    /// Of those that succeeded, how many have a result that was made elsewhere; there where any have.
    #[serde(skip_serializing_if = "is_zero")]
    pub imported: u64,
    /// Imported results that its proposer hears of before its first question; there where there are any.
    #[serde(skip_serializing_if = "is_zero")]
    pub told: u64,
    /// Trials it will have as far as is known: those planned, and what its proposer may still propose.
    pub expected: u64,
    /// Survivors, once closed.
    pub survivors: u64,
    /// How many of its trials count; there where it ended before all of them had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_after: Option<u64>,
    /// Cases that went on to explore, though they did not survive; there where any did.
    #[serde(skip_serializing_if = "is_zero")]
    pub explorers: u64,
    /// Whether no trial still to come can change who survives; `null` while the stage waits.
    pub survivors_decided: Option<bool>,
    /// Attempts that end in a minute at the present pace; `null` before the first ended.
    pub per_minute: Option<f64>,
    /// Time left in this stage, seconds, from and to; `null` where nobody can know.
    pub eta_s: Option<[f64; 2]>,
    /// The best value so far.
    pub best: Option<BestTrial>,
    /// There where it is true: it was planned from other cases than survive the stage before it now, and was to stay so.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub from_other_survivors: bool,
}

/// A trial that runs.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Running {
    /// Its case.
    pub case: String,
    /// Which attempt.
    pub attempt: u32,
    /// Its process, for a command on this machine.
    pub pid: Option<u32>,
    /// Its job, on a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote: Option<RemoteOut>,
    /// Why that waits, in the cluster's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending_reason: Option<String>,
    /// Time since its start by the wall clock, seconds.
    pub elapsed_s: f64,
    /// What it reported last, as its files say now; there where it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_report: Option<LastReport>,
    #[serde(skip)]
    trial: TrialId,
    /// How it went so far, once somebody looked.
    #[serde(skip)]
    course: Option<Course>,
}

/// A failure that stands: its trial failed for good, or is to run again.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct LastFailure {
    /// Its case.
    pub case: String,
    /// Which attempt.
    pub attempt: u32,
    /// The kind of failure.
    pub kind: FailureKind,
    /// In words.
    pub reason: String,
    /// Its error output; `null` for a closure, which has none, and where it was discarded.
    pub log: Option<String>,
    /// Whether what the attempt left was discarded.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub discarded: bool,
}

impl Status {
    /// Reads how a study stands at `now_ms` by the wall clock.
    ///
    /// # Errors
    /// [`ViewError::Journal`].
    pub fn load(view: &StudyView, snapshot: &Snapshot, now_ms: UnixMs) -> Result<Self, ViewError> {
        Self::load_listing(view, snapshot, now_ms, RUNNING_SHOWN)
    }

    /// Likewise, with at most so many of the trials that run.
    ///
    /// # Errors
    /// [`ViewError::Journal`].
    pub fn load_listing(
        view: &StudyView,
        snapshot: &Snapshot,
        now_ms: UnixMs,
        most_running: usize,
    ) -> Result<Self, ViewError> {
        let (study, lineage, status) = (&view.study, view.lineage(), view.status());
        let rows = snapshot.running()?;
        let waiting = waiting(view, &rows, now_ms);
        let running = rows.iter().take(most_running);
        let running = running.map(|row| running_out(view, snapshot, &lineage, row, waiting.as_ref(), now_ms));
        let running = running.collect::<Result<Vec<_>, _>>()?;
        let (failed, run_times, lately) = lately(view, snapshot)?;
        let can_go_on = matches!(status, StudyStatus::Created | StudyStatus::Interrupted);
        Ok(Self {
            study: study.name.clone(),
            status,
            abort_reason: study.abort_reason.clone(),
            aborted_by: AbortedBy::of(study, &lineage),
            abort_words: abort_words(study, &view.stages, &lineage),
            draining: study.draining && view.liveness.alive,
            lost_events: snapshot.lost_events()?,
            doubts: view.doubts().map(|(_, words)| words).collect(),
            engine: study.engine.as_ref().map(|engine| Engine {
                pid: engine.process.pid,
                host: engine.host.clone(),
                alive: view.liveness.alive,
                workers: study.workers,
                sync_interval_s: seconds(study.sync_interval_ms.saturating_mul(1_000)),
            }),
            cluster_trouble: study
                .cluster_trouble
                .clone()
                .filter(|_| !matches!(view.status(), StudyStatus::Completed | StudyStatus::Aborted)),
            cluster_queue: waiting.map(ClusterQueue::of),
            runs: study.runs,
            run_started_at: run_times.map(|run| timestamp(run.began_ms)),
            run_ended_at: run_times.and_then(|run| run.ended_ms).map(timestamp),
            run_times,
            runtime_s: seconds(runtime_us(view, now_ms)),
            events: view.progress.last_seq,
            stages: view
                .summaries()
                .map(|summary| stage_out(view, snapshot, summary, &lately, now_ms))
                .collect::<Result<_, JournalError>>()?,
            running,
            running_not_shown: rows.len().saturating_sub(most_running) as u64,
            last_failures: standing_failures(view, snapshot, &failed)?,
            waits_for_approval: view.waits_for_approval().map(str::to_owned),
            waits_for_proposer: waits_for_proposer(view, &rows, now_ms),
            disk: None,
            next_command: (can_go_on && !view.liveness.alive).then(|| {
                let verb = if view.waits_for_approval().is_some() { "approve" } else { "resume" };
                format!("piton {verb} {}", shell_quoted(&view.place.store))
            }),
        })
    }

    /// Looks at how what runs went so far, for [`Status::write_text`] to draw it.
    #[must_use]
    pub fn with_courses(mut self, view: &StudyView) -> Self {
        for running in &mut self.running {
            running.course =
                running.last_report.as_ref().and_then(|_| Course::of(view, running.trial, running.attempt));
        }
        self
    }

    /// Looks at every file of the study's directory, as `du` does, for what it takes.
    #[must_use]
    pub(crate) fn with_disk(mut self, view: &StudyView) -> Self {
        let Taken { bytes, inodes } = measured(&view.study_artifacts_dir());
        self.disk = Some(DiskUse { bytes, inodes, limit_bytes: view.spec.run.disk_limit_bytes });
        self
    }

    /// Writes it as one JSON value.
    ///
    /// # Errors
    /// [`ViewError::Output`].
    pub fn write_json(&self, out: &mut dyn Write) -> Result<(), ViewError> {
        serde_json::to_writer(&mut *out, self)?;
        Ok(out.write_all(b"\n")?)
    }
}

/// An answer that takes longer is reported.
const PROPOSER_PATIENCE_MS: i64 = 5_000;

/// The proposer whose turn it is: nothing else is left to do, and it has been so for a while.
fn waits_for_proposer(view: &StudyView, running: &[RunningRow], now_ms: UnixMs) -> Option<ProposerWait> {
    let since_ms = now_ms.saturating_sub(view.progress.last_event_ms);
    let stage = view.stages.iter().find(|stage| stage.takes_proposals())?;
    let Some(Sampling::Ask(proposer)) = view.spec.stages.get(stage.index as usize).map(|spec| &spec.sampling)
    else {
        return None;
    };
    // It is asked for the next trial once all but the last so many before it are final.
    let must_be_final = stage.planned.saturating_add(1).saturating_sub(proposer.parallel.into());
    let holds_up = |row: &RunningRow| row.trial.0.saturating_sub(stage.first_trial.0) < must_be_final;
    let is_asked = view.summary(stage).trials.pending == 0 && !running.iter().any(holds_up);
    let runs = view.liveness.alive && view.status() == StudyStatus::Running && !view.study.draining;
    if !runs || !is_asked || since_ms < PROPOSER_PATIENCE_MS {
        return None;
    }
    let log = view.stage_dir(stage).join(PROPOSER_DIR).join(STDERR_LOG);
    Some(ProposerWait {
        stage: stage.name.clone(),
        since_s: seconds(u64::try_from(since_ms).unwrap_or(0).saturating_mul(1_000)),
        log: log.display().to_string(),
        hint: FLUSH_HINT,
    })
}

/// All runs; the present one until now.
fn runtime_us(view: &StudyView, now_ms: UnixMs) -> u64 {
    let since_ms = match view.status() {
        StudyStatus::Running => u64::try_from(now_ms.saturating_sub(view.progress.last_event_ms)).unwrap_or(0),
        _ => 0,
    };
    view.runtime_us().saturating_add(since_ms.saturating_mul(1_000))
}

fn stage_out(
    view: &StudyView,
    snapshot: &Snapshot,
    summary: StageSummary<'_>,
    lately: &Lately,
    now_ms: UnixMs,
) -> Result<Stage, JournalError> {
    let stage = summary.row;
    let pace = pace(view, summary, lately, now_ms);
    let runs = view.liveness.alive && stage.status == StageStatus::Open && !view.study.draining;
    let decided = match stage.status {
        StageStatus::Waiting => None,
        _ => Some(decision(view, snapshot, stage)?.decided),
    };
    Ok(Stage {
        index: stage.index,
        name: stage.name.clone(),
        status: stage.status,
        trials: summary.trials,
        reused: summary.counters.reused,
        imported: summary.counters.imported,
        told: summary.counters.told,
        expected: stage.expected(),
        survivors: summary.survived(),
        ended_after: stage.ended_after,
        explorers: summary.explorers().count() as u64,
        survivors_decided: decided,
        per_minute: pace.map(Pace::per_minute),
        eta_s: pace
            .filter(|_| runs)
            .and_then(|pace| pace.eta_us(summary.counters, summary.to_start()))
            .map(|(from, to)| [seconds(from), seconds(to)]),
        best: summary.best(),
        from_other_survivors: summary.is_kept(),
    })
}

fn running_out(
    view: &StudyView,
    snapshot: &Snapshot,
    lineage: &Lineage<'_>,
    row: &RunningRow,
    waiting: Option<&Waiting>,
    now_ms: UnixMs,
) -> Result<Running, ViewError> {
    let trial = snapshot.trial(row.trial)?;
    let base = || view.study.base.as_ref().and_then(|base| base.attempts.last().cloned());
    let attempt = trial.and_then(|mut trial| trial.attempts.pop()).or_else(base);
    let started_ms = attempt.as_ref().map(|attempt| attempt.started_ms);
    let elapsed_ms = started_ms.map_or(0, |started_ms| now_ms.saturating_sub(started_ms));
    let remote = attempt.as_ref().and_then(RemoteOut::of).or_else(|| {
        let executor = row.executor.is_remote().then_some(row.executor)?;
        Some(RemoteOut { executor, id: String::new(), node: None, started_at: None, queued_s: None })
    });
    let waits = remote.as_ref().is_some_and(|remote| remote.started_at.is_none());
    let reason = waiting.filter(|_| waits).and_then(|note| note.reason(row.trial, row.attempt));
    Ok(Running {
        case: lineage.name_of(row.trial),
        attempt: row.attempt,
        pid: row.process.map(|process| process.pid),
        remote,
        pending_reason: reason.map(str::to_owned),
        // A clock that was set back must not show a negative time.
        elapsed_s: seconds(u64::try_from(elapsed_ms).unwrap_or(0).saturating_mul(1_000)),
        last_report: LastReport::of(view, row.trial, row.attempt),
        trial: row.trial,
        course: None,
    })
}

/// When the last run began, and when it ended in good order.
#[derive(Clone, Copy, Debug, PartialEq)]
struct RunTimes {
    began_ms: UnixMs,
    ended_ms: Option<UnixMs>,
    how: Option<RunEnd>,
}

/// How fast a stage's trials end. On a cluster, where many more may run at once than there are trials, no more than these
/// count, and what was seen lately includes the time that they wait.
fn pace(view: &StudyView, summary: StageSummary<'_>, lately: &Lately, now_ms: UnixMs) -> Option<Pace> {
    let StageSummary { row: stage, counters, .. } = summary;
    let workers = u64::from(view.study.workers.max(1));
    let at_once = match view.spec.stages.get(stage.index as usize).map(|spec| &spec.sampling) {
        Some(Sampling::Ask(proposer)) => workers.min(proposer.parallel.into()),
        _ => workers,
    };
    if !view.spec.run.executor.kind().is_remote() {
        return Pace::of_commands(counters, at_once);
    }
    let at_once = at_once.min(stage.expected());
    let until_ms = if view.liveness.alive { now_ms } else { view.progress.last_event_ms };
    let open = stage.status == StageStatus::Open;
    let seen = open.then(|| lately.pace(until_ms, counters.running, at_once)).flatten();
    Pace::slower(Pace::of_commands(counters, at_once), seen)
}

/// What the last events say: whose attempts failed, when the last run was, and how fast attempts ended.
fn lately(view: &StudyView, snapshot: &Snapshot) -> Result<(Vec<TrialId>, Option<RunTimes>, Lately), ViewError> {
    let (mut run, mut pace) = (None, Lately::default());
    let from = view.progress.last_seq.saturating_sub(EVENTS_SEARCHED) + 1;
    let mut failed = Vec::new();
    for event in snapshot.events(from)? {
        let record = event?.1;
        pace.note(&record);
        // What a command records between two runs has no time in one.
        let began_ms = record.at_ms.saturating_sub_unsigned(record.run_ms);
        match record.event {
            Event::RunStarted { .. } => run = Some(RunTimes { began_ms: record.at_ms, ended_ms: None, how: None }),
            Event::RunEnded { how } => {
                let began_ms = run.map_or(began_ms, |run| run.began_ms);
                run = Some(RunTimes { began_ms, ended_ms: Some(record.at_ms), how: Some(how) });
            }
            _ if run.is_none() && record.run_ms > 0 => {
                run = Some(RunTimes { began_ms, ended_ms: None, how: None })
            }
            _ => {}
        }
        if let Event::AttemptEnded(end) = record.event
            && matches!(end.verdict, Verdict::Failed(_))
        {
            failed.push(end.trial);
        }
    }
    // What commands recorded since the last run may be more than that: as many events as a retry has trials.
    let mut before = from;
    while run.is_none() && before > 1 {
        let start = before.saturating_sub(EVENTS_SEARCHED).max(1);
        for event in snapshot.events(start)? {
            let (seq, record) = event?;
            if seq >= before {
                break;
            }
            let began_ms = record.at_ms.saturating_sub_unsigned(record.run_ms);
            match record.event {
                Event::RunEnded { how } => {
                    run = Some(RunTimes { began_ms, ended_ms: Some(record.at_ms), how: Some(how) });
                }
                _ if record.run_ms > 0 => run = Some(RunTimes { began_ms, ended_ms: None, how: None }),
                _ => {}
            }
        }
        before = start;
    }
    Ok((failed, run, pace))
}

/// The failures that stand, of the trials whose attempts failed lately, the last one first: what has succeeded since, or is to begin
/// anew, has none.
fn standing_failures(
    view: &StudyView,
    snapshot: &Snapshot,
    failed: &[TrialId],
) -> Result<Vec<LastFailure>, ViewError> {
    let (mut seen, mut found) = (HashSet::new(), Vec::new());
    for trial in failed.iter().rev().filter(|trial| seen.insert(**trial)) {
        if let Some(trial) = view.trial(snapshot, *trial)? {
            found.extend(LastFailure::of(view, &trial));
        }
        if found.len() == FAILURES_SHOWN {
            break;
        }
    }
    Ok(found)
}

impl LastFailure {
    fn of(view: &StudyView, trial: &TrialSummary<'_>) -> Option<Self> {
        let failure = trial.last_failure()?;
        let failed = |attempt: &&AttemptRow| attempt.outcome == Some(AttemptOutcome::Failed);
        let attempt = trial.attempts().iter().rfind(failed)?.n;
        let closure = |stage: &StageSpec| stage.work == Work::Closure;
        let has_log = !view.spec.stages.get(trial.stage.index as usize).is_some_and(closure);
        let case = trial.case();
        let log = || view.attempt_dir(trial.stage, &case, attempt).join(STDERR_LOG).display().to_string();
        let (kind, reason) = (failure.kind.clone(), failure.reason.clone());
        let discarded = trial.kept_of(attempt) == Kept::Nothing;
        Some(Self { attempt, kind, reason, log: (has_log && !discarded).then(log), discarded, case })
    }
}

#[cfg(test)]
mod tests;
