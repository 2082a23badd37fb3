//! `status`: one screen on how a study stands.
//!
//! It reads the rows that seldom change, what runs, and a bounded number of the last events: its cost must never grow
//! with the trials, so that it can be asked every second of a study of millions.

mod queue;

use std::io::Write;

use serde::Serialize;

use super::dump::RemoteOut;
use super::pace::{Lately, Pace};
use super::text::{Paint, Screen, clean, columns, counted, duration, number, pad, range_of_durations, wrapped};
use super::words::{local_time, micros, seconds, timestamp};
use queue::{remote_words, waiting};

pub use queue::ClusterQueue;

use super::{AbortedBy, StudyView, ViewError, abort_words, decision, shell_quoted};
use crate::journal::{JournalError, Snapshot};
use crate::model::{
    AttemptEnd, Event, FailureKind, RunningRow, StageCounters, StageRow, StageStatus, StudyStatus, UnixMs, Verdict,
};
use crate::paths::{PROPOSER_DIR, STDERR_LOG};
use crate::plan::Lineage;
use crate::spec::{Sampling, Work};
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
    /// Failed attempts among the last 200 events, newest first; at most five.
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
    /// again. 0: nothing does that was told to have finished.
    pub sync_interval_s: f64,
}

/// How a stage stands.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stage {
    /// Its position.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// As in a dump.
    pub status: StageStatus,
    /// Trials planned; 0 while it waits.
    pub planned: u64,
    /// Trials that wait.
    pub pending: u64,
    /// Trials that run.
    pub running: u64,
    /// Trials that succeeded.
    pub succeeded: u64,
    /// Trials that failed.
    pub failed: u64,
    /// Survivors, once closed.
    pub survivors: u64,
    /// Whether no trial still to come can change who survives; `null` while the stage waits.
    pub survivors_decided: Option<bool>,
    /// Attempts that end in a minute at the present pace; `null` before the first ended.
    pub per_minute: Option<f64>,
    /// Time left in this stage, seconds, from and to; `null` where nobody can know.
    pub eta_s: Option<[f64; 2]>,
    /// The best value so far.
    pub best: Option<BestOut>,
}

/// The best value of a stage so far.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BestOut {
    /// Of the first objective.
    pub metric: String,
    /// The value.
    pub value: f64,
    /// Who has it.
    pub case: String,
}

/// A trial that runs.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Serialize)]
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

/// A failed attempt.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Serialize)]
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
        let (last_failures, run_times, lately) = lately(view, snapshot, &lineage)?;
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
                .stages
                .iter()
                .map(|stage| stage_out(view, snapshot, &lineage, stage, &lately, now_ms))
                .collect::<Result<_, JournalError>>()?,
            running,
            running_not_shown: rows.len().saturating_sub(RUNNING_SHOWN) as u64,
            last_failures,
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
        let done = self.succeeded + self.failed;
        let name = pad(&super::text::fit(&clean(&self.name), name_width), name_width);
        let head = format!("{name}  {:<7}", self.status);
        if self.planned == 0 {
            return Ok(writeln!(out, "{}", screen.line(head.trim_end()))?);
        }
        let tail = format!("  {done} of {} done", self.planned);
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
        let whole = self.succeeded + self.failed + self.running >= self.planned;
        for (count, letter) in [(self.failed, "!"), (self.running, ">"), (self.succeeded, "#")] {
            let share = scaled(count, self.planned, width);
            let share = share.max(usize::from(count > 0)).min(left);
            // What rounding left of a bar that is full.
            let last =
                letter == "#" || (letter == ">" && self.succeeded == 0) || self.succeeded + self.running == 0;
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
        let mut counts = vec![format!("{} succeeded", self.succeeded)];
        for (count, word) in [(self.failed, "failed"), (self.running, "running"), (self.pending, "pending")] {
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
            && self.planned > self.succeeded + self.failed
        {
            pieces.push("survivors decided: no pending trial can change them".to_owned());
        }
        if self.survivors > 0 {
            pieces.push(counted(self.survivors, "survivor"));
        }
        pieces
    }
}

/// An answer that takes longer is told of.
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
    let is_asked = view.pending(stage) == 0 && !running.iter().any(holds_up);
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
    lineage: &Lineage<'_>,
    stage: &StageRow,
    lately: &Lately,
    now_ms: UnixMs,
) -> Result<Stage, JournalError> {
    let counters = view.counters_of(stage.index);
    let pending = view.pending(stage);
    // What a proposer has yet to propose takes its time as well, and it is not asked for more at once than it allows.
    let still = if stage.status == StageStatus::Open {
        stage.expected().saturating_sub(counters.finished() + counters.running)
    } else {
        pending
    };
    let pace = pace(view, stage, counters, lately, now_ms);
    let runs = view.liveness.alive && stage.status == StageStatus::Open && !view.study.draining;
    let decided = match stage.status {
        StageStatus::Waiting => None,
        _ => Some(decision(view, snapshot, stage)?.decided),
    };
    Ok(Stage {
        index: stage.index,
        name: stage.name.clone(),
        status: stage.status,
        planned: stage.expected(),
        pending,
        running: counters.running,
        succeeded: counters.succeeded,
        failed: counters.failed,
        survivors: stage.survivors.len() as u64,
        survivors_decided: decided,
        per_minute: pace.map(Pace::per_minute),
        eta_s: pace
            .filter(|_| runs)
            .and_then(|pace| pace.eta_us(counters, still))
            .map(|(from, to)| [seconds(from), seconds(to)]),
        best: counters.best.zip(stage.objective.as_ref()).map(|(best, objective)| BestOut {
            metric: objective.metric.clone(),
            value: best.value,
            case: view.case_of(lineage, best.trial),
        }),
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
        case: view.case_of(lineage, row.trial),
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
}

/// How fast a stage's trials end. On a cluster, where many more may run at once than there are trials, no more than these
/// count, and what was seen lately tells of the time that they wait.
fn pace(
    view: &StudyView,
    stage: &StageRow,
    counters: StageCounters,
    lately: &Lately,
    now_ms: UnixMs,
) -> Option<Pace> {
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

/// What the last events tell: failures, when the last run was, and how fast attempts ended.
fn lately(
    view: &StudyView,
    snapshot: &Snapshot,
    lineage: &Lineage<'_>,
) -> Result<(Vec<LastFailure>, Option<RunTimes>, Lately), ViewError> {
    let (mut run, mut pace) = (None, Lately::default());
    let from = view.progress.last_seq.saturating_sub(EVENTS_SEARCHED) + 1;
    let mut failures = Vec::new();
    for event in snapshot.events(from)? {
        let record = event?.1;
        pace.note(&record);
        // What a command records between two runs has no time in one.
        let began_ms = record.at_ms.saturating_sub_unsigned(record.run_ms);
        match record.event {
            Event::RunStarted { .. } => run = Some(RunTimes { began_ms: record.at_ms, ended_ms: None }),
            Event::RunEnded { .. } => {
                let began_ms = run.map_or(began_ms, |run| run.began_ms);
                run = Some(RunTimes { began_ms, ended_ms: Some(record.at_ms) });
            }
            _ if run.is_none() && record.run_ms > 0 => run = Some(RunTimes { began_ms, ended_ms: None }),
            _ => {}
        }
        match record.event {
            Event::AttemptEnded(end) => failures.extend(failure_out(view, lineage, &end)),
            // The numbers of discarded trials may be other cases' now.
            Event::SpecAmended(amended) if amended.discard_from.is_some() => failures.clear(),
            _ => {}
        }
    }
    failures.reverse();
    failures.truncate(FAILURES_SHOWN);
    Ok((failures, run, pace))
}

fn failure_out(view: &StudyView, lineage: &Lineage<'_>, end: &AttemptEnd) -> Option<LastFailure> {
    let Verdict::Failed(failure) = &end.verdict else { return None };
    let (stage, index) = lineage.locate(end.trial)?;
    let case = lineage.case(stage, index);
    let dir = view.attempt_dir(view.stage(stage)?, &case, end.attempt);
    let closure = view.spec.stages.get(stage as usize).is_some_and(|stage| stage.work == Work::Closure);
    Some(LastFailure {
        attempt: end.attempt,
        kind: failure.kind.clone(),
        reason: failure.reason.clone(),
        log: (!closure).then(|| dir.join(STDERR_LOG).display().to_string()),
        case,
    })
}

#[cfg(test)]
mod tests;
