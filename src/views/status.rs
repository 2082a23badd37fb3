//! `status`: one screen on how a study stands.
//!
//! It reads the rows that seldom change, what runs, and a bounded number of the last events: its cost must never grow
//! with the trials, so that it can be asked every second of a study of millions.

mod queue;

use std::collections::HashSet;
use std::io::Write;

use serde::Serialize;

use super::dump::RemoteOut;
use super::pace::{Lately, Pace};
use super::text::{Paint, Screen, clean, columns, counted, duration, number, pad, range_of_durations, wrapped};
use super::words::{local_time, micros, seconds, timestamp};
use queue::{remote_words, waiting};

pub use queue::ClusterQueue;

use super::{AbortedBy, StudyView, TrialSummary, ViewError, abort_words, decision, shell_quoted};
use crate::journal::{JournalError, Snapshot};
use crate::model::{
    AttemptOutcome, AttemptRow, Event, FailureKind, RunEnd, RunningRow, StageStatus, StudyStatus, TrialId, UnixMs,
    Verdict,
};
use crate::paths::{PROPOSER_DIR, STDERR_LOG};
use crate::plan::{BestTrial, Lineage, StageSummary, StageTrials};
use crate::study_file::{Sampling, StageSpec, Work};
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
    #[serde(skip_serializing_if = "is_none")]
    pub lost_events: u64,
    /// The last engine.
    pub engine: Option<Engine>,
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

impl RunTimes {
    fn words(self, runs: bool) -> String {
        let began = local_time(self.began_ms);
        match self.ended_ms {
            Some(ended_ms) => format!("last run {began} to {}", local_time(ended_ms)),
            None if runs => format!("running since {began}"),
            None => format!("last run began {began}"),
        }
    }
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
    #[serde(skip_serializing_if = "is_none")]
    pub reused: u64,
    /// Trials it will have as far as is known: those planned, and what its proposer may still propose.
    pub expected: u64,
    /// Survivors, once closed.
    pub survivors: u64,
    /// Whether no trial still to come can change who survives; `null` while the stage waits.
    pub survivors_decided: Option<bool>,
    /// Attempts that end in a minute at the present pace; `null` before the first ended.
    pub per_minute: Option<f64>,
    /// Time left in this stage, seconds, from and to; `null` where nobody can know.
    pub eta_s: Option<[f64; 2]>,
    /// The best value so far.
    pub best: Option<BestTrial>,
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
    /// Its error output; `null` for a closure, which has none.
    pub log: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_none(count: &u64) -> bool {
    *count == 0
}

impl Status {
    /// Reads how a study stands at `now_ms` by the wall clock.
    ///
    /// # Errors
    /// [`ViewError::Journal`].
    pub fn load(view: &StudyView, snapshot: &Snapshot, now_ms: UnixMs) -> Result<Self, ViewError> {
        let (study, lineage, status) = (&view.study, view.lineage(), view.status());
        let rows = snapshot.running()?;
        let waiting = waiting(view, &rows, now_ms);
        let running = rows.iter().take(RUNNING_SHOWN);
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
            running_not_shown: rows.len().saturating_sub(RUNNING_SHOWN) as u64,
            last_failures: standing_failures(view, snapshot, &failed)?,
            waits_for_approval: view.waits_for_approval().map(str::to_owned),
            waits_for_proposer: waits_for_proposer(view, &rows, now_ms),
            next_command: (can_go_on && !view.liveness.alive).then(|| {
                let verb = if view.waits_for_approval().is_some() { "approve" } else { "resume" };
                format!("piton {verb} {}", shell_quoted(&view.place.store))
            }),
        })
    }

    /// Writes it as one JSON value.
    ///
    /// # Errors
    /// [`ViewError::Output`].
    pub fn write_json(&self, out: &mut dyn Write) -> Result<(), ViewError> {
        serde_json::to_writer(&mut *out, self)?;
        Ok(out.write_all(b"\n")?)
    }

    /// Writes it for people.
    ///
    /// # Errors
    /// [`ViewError::Output`].
    pub fn write_text(&self, screen: Screen, out: &mut dyn Write) -> Result<(), ViewError> {
        self.write_header(screen, out)?;
        let name_width = self.stages.iter().map(|stage| columns(&stage.name)).max().unwrap_or(0).min(24);
        for stage in &self.stages {
            stage.write(name_width, screen, out)?;
        }
        self.write_running(screen, out)?;
        if !self.last_failures.is_empty() {
            writeln!(out, "\n{}", screen.paint(Paint::Bold, "last failures"))?;
        }
        for failure in &self.last_failures {
            let what = format!(
                "  {} #{}  {}: {}",
                clean(&failure.case),
                failure.attempt,
                failure.kind,
                clean(&failure.reason)
            );
            writeln!(out, "{}", screen.paint(Paint::Bad, &screen.line(&what)))?;
            // Whole, however long: people copy it.
            if let Some(log) = &failure.log {
                writeln!(out, "    {}", clean(log))?;
            }
        }
        if let Some(wait) = &self.waits_for_proposer {
            let since = duration(micros(wait.since_s));
            let words = format!("\nthe proposer of stage `{}` has not answered for {since}", clean(&wait.stage));
            writeln!(out, "{}", screen.paint(Paint::Busy, &words))?;
            writeln!(out, "  {}", wait.hint)?;
            writeln!(out, "  {}", clean(&wait.log))?;
        }
        if let Some(stage) = &self.waits_for_approval {
            writeln!(out, "\nstage `{}` waits for approval", clean(stage))?;
        }
        if let Some(command) = &self.next_command {
            writeln!(out, "\nto go on: {}", screen.paint(Paint::Bold, &clean(command)))?;
        }
        Ok(())
    }

    fn write_header(&self, screen: Screen, out: &mut dyn Write) -> Result<(), ViewError> {
        let (words, paint) = self.in_words();
        let name = screen.line(&clean(&self.study));
        let left = screen.columns().saturating_sub(columns(&name) + 2).max(12);
        let words = super::text::fit(&words, left);
        writeln!(out, "{}: {}", screen.paint(Paint::Bold, &name), screen.paint(paint, &words))?;
        // Whole, however long: people copy the cases.
        for words in &self.abort_words {
            writeln!(out, "{words}")?;
        }
        let mut pieces = vec![match &self.engine {
            Some(engine) if engine.alive => {
                format!("engine pid {} on {}", engine.pid, clean(&engine.host))
            }
            _ => "no engine".to_owned(),
        }];
        if let Some(engine) = self.engine.as_ref().filter(|engine| engine.alive) {
            pieces.push(counted(engine.workers, "worker"));
        }
        pieces.push(format!("ran {} in {}", duration(micros(self.runtime_s)), counted(self.runs, "run")));
        pieces.push(counted(self.events, "event"));
        if let Some(run) = self.run_times {
            pieces.push(run.words(self.status == StudyStatus::Running));
        }
        for line in wrapped(&pieces, ", ", screen.columns()) {
            writeln!(out, "{}", screen.line(&line))?;
        }
        if let Some(trouble) = &self.cluster_trouble {
            let when = match self.engine.as_ref().is_some_and(|engine| engine.alive) {
                true => "the cluster",
                false => "the cluster, when the last run ended",
            };
            let words = format!("{when}: {}", clean(trouble));
            writeln!(out, "{}", screen.paint(Paint::Bad, &screen.line(&words)))?;
        }
        if let Some(engine) = self.engine.as_ref().filter(|engine| engine.alive && engine.sync_interval_s > 0.0) {
            let window = duration(micros(engine.sync_interval_s));
            let pieces = [
                format!("recorded every {window} at the latest"),
                format!("a crash repeats what ended in the last {window}"),
            ];
            for line in wrapped(&pieces, ": ", screen.columns()) {
                writeln!(out, "{}", screen.line(&line))?;
            }
        }
        Ok(writeln!(out)?)
    }

    fn in_words(&self) -> (String, Paint) {
        match (self.status, &self.engine) {
            (StudyStatus::Created, _) => ("not started yet".into(), Paint::Busy),
            (StudyStatus::Running, _) if self.draining => {
                ("draining: what runs finishes, nothing more starts".into(), Paint::Busy)
            }
            (StudyStatus::Running, _) => ("running".into(), Paint::Good),
            (StudyStatus::Completed, _) => ("completed".into(), Paint::Good),
            (StudyStatus::Aborted, _) => {
                let why = clean(self.abort_reason.as_deref().unwrap_or("no reason recorded"));
                (format!("aborted: {why}"), Paint::Bad)
            }
            _ if self.lost_events > 0 => {
                let lost = counted(self.lost_events, "event");
                (format!("interrupted; {lost} of it were lost with a damaged store"), Paint::Bad)
            }
            _ if self.waits_for_approval.is_some() => {
                ("waits for approval; nothing finished is lost".into(), Paint::Busy)
            }
            // Nothing was cut off: a person approved, amended or took failures back since.
            _ if self
                .run_times
                .and_then(|run| run.how)
                .is_some_and(|how| matches!(how, RunEnd::Waiting | RunEnd::Completed | RunEnd::Aborted)) =>
            {
                ("ready to go on; nothing finished is lost".into(), Paint::Busy)
            }
            _ => ("interrupted; nothing finished is lost".into(), Paint::Busy),
        }
    }

    fn write_running(&self, screen: Screen, out: &mut dyn Write) -> Result<(), ViewError> {
        if self.running.is_empty() {
            return Ok(());
        }
        let alive = self.engine.as_ref().is_some_and(|engine| engine.alive);
        let left = self.running.iter().any(|running| running.remote.is_some());
        let title = match (alive, left) {
            (true, _) => "running",
            (false, false) => "ran when the engine ended; they will run again",
            (false, true) => "left on the cluster; the next run takes them over",
        };
        writeln!(out, "\n{}", screen.paint(Paint::Bold, &screen.line(title)))?;
        let width = self.running.iter().map(|running| columns(&clean(&running.case))).max().unwrap_or(0);
        for running in &self.running {
            let mut line = format!("  {} #{}", pad(&clean(&running.case), width), running.attempt);
            match &running.remote {
                Some(remote) => {
                    line.push_str(&remote_words(remote, running.elapsed_s, running.pending_reason.as_deref()));
                }
                None if alive => line.push_str(&format!("  for {}", duration(micros(running.elapsed_s)))),
                None => {}
            }
            if let Some(pid) = running.pid {
                line.push_str(&format!("  pid {pid}"));
            }
            writeln!(out, "{}", screen.line(&line))?;
        }
        if self.running_not_shown > 0 {
            writeln!(out, "  and {} more", self.running_not_shown)?;
        }
        if let Some(queue) = &self.cluster_queue {
            queue.write(screen, out)?;
        }
        Ok(())
    }
}

impl Stage {
    fn write(&self, name_width: usize, screen: Screen, out: &mut dyn Write) -> Result<(), ViewError> {
        let done = self.trials.finished();
        let name = pad(&super::text::fit(&clean(&self.name), name_width), name_width);
        let head = format!("{name}  {:<7}", self.status);
        if self.expected == 0 {
            return Ok(writeln!(out, "{}", screen.line(head.trim_end()))?);
        }
        let tail = format!("  {done} of {} done", self.expected);
        let width = screen.columns().saturating_sub(columns(&head) + columns(&tail) + 4).min(40);
        let line =
            if width >= 5 { format!("{head}  [{}]{tail}", self.bar(width)) } else { format!("{head}{tail}") };
        writeln!(out, "{}", screen.line(&line))?;
        for line in wrapped(&self.details(), "; ", screen.columns().saturating_sub(2)) {
            writeln!(out, "{}", screen.paint(Paint::Faint, &screen.line(&format!("  {line}"))))?;
        }
        Ok(())
    }

    /// `#` succeeded, `!` failed, `>` running, `.` waiting. What is there at all gets at least one column.
    fn bar(&self, width: usize) -> String {
        let mut bar = String::new();
        let mut left = width;
        let StageTrials { running, succeeded, failed, .. } = self.trials;
        let whole = succeeded + failed + running >= self.expected;
        for (count, letter) in [(failed, "!"), (running, ">"), (succeeded, "#")] {
            let share = scaled(count, self.expected, width);
            let share = share.max(usize::from(count > 0)).min(left);
            // What rounding left of a bar that is full.
            let last = letter == "#" || (letter == ">" && succeeded == 0) || succeeded + running == 0;
            let share = if whole && last && count > 0 { left } else { share };
            left -= share;
            // Succeeded first on the screen, though the others get their column first.
            if letter == "#" {
                bar.insert_str(0, &letter.repeat(share))
            } else {
                bar.push_str(&letter.repeat(share))
            }
        }
        bar.push_str(&".".repeat(left));
        bar
    }

    fn details(&self) -> Vec<String> {
        let StageTrials { pending, running, succeeded, failed, cancelled, .. } = self.trials;
        let reused = if self.reused > 0 { format!(" ({} reused)", self.reused) } else { String::new() };
        let mut counts = vec![format!("{succeeded} succeeded{reused}")];
        for (count, word) in
            [(failed, "failed"), (running, "running"), (pending, "pending"), (cancelled, "cancelled")]
        {
            if count > 0 {
                counts.push(format!("{count} {word}"));
            }
        }
        let mut pieces = vec![counts.join(", ")];
        if let Some(rate) = self.per_minute.filter(|_| self.status == StageStatus::Open) {
            pieces.push(rate_words(rate));
        }
        if let Some([from, to]) = self.eta_s {
            pieces.push(format!("{} left", range_of_durations(micros(from), micros(to))));
        }
        if let Some(best) = &self.best {
            pieces.push(format!("best {} {} ({})", clean(&best.metric), number(best.value), clean(&best.case)));
        }
        if self.survivors_decided == Some(true)
            && self.status != StageStatus::Closed
            && self.expected > self.trials.finished()
        {
            pieces.push("survivors decided: no pending trial can change them".to_owned());
        }
        if self.survivors > 0 {
            pieces.push(counted(self.survivors, "survivor"));
        }
        pieces
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

fn rate_words(per_minute: f64) -> String {
    if per_minute >= 10.0 {
        format!("{per_minute:.0} a minute")
    } else if per_minute >= 1.0 {
        format!("{per_minute:.1} a minute")
    } else if per_minute * 60.0 >= 1.0 {
        format!("{:.1} an hour", per_minute * 60.0)
    } else {
        format!("{:.1} a day", per_minute * 60.0 * 24.0)
    }
}

/// `count` of `whole` in columns, rounded down; never more than `width`.
fn scaled(count: u64, whole: u64, width: usize) -> usize {
    let share = u128::from(count) * width as u128 / u128::from(whole.max(1));
    usize::try_from(share).unwrap_or(width).min(width)
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
        expected: stage.expected(),
        survivors: summary.survived(),
        survivors_decided: decided,
        per_minute: pace.map(Pace::per_minute),
        eta_s: pace
            .filter(|_| runs)
            .and_then(|pace| pace.eta_us(summary.counters, summary.to_start()))
            .map(|(from, to)| [seconds(from), seconds(to)]),
        best: summary.best(),
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
        Some(Self { attempt, kind, reason, log: has_log.then(log), case })
    }
}

#[cfg(test)]
mod tests;
