//! `--events`: the journal itself, event by event, in the order of their sequence numbers.
//!
//! JSON: `seq`, `at` (RFC 3339), `type`, the event's own fields, and `run_s` (running time of that engine run). The
//! same lines are exported as `telemetry.jsonl`.

use std::io::Write;

use serde::Serialize;

use super::schema::{FailureOut, MetricsOut, OutputsOut};
use super::{List, Screen, line};
use crate::journal::Snapshot;
use crate::model::{AttemptEnd, Event, Next, Parent, Record, Seq, StudyCreated, TrialId, Verdict};
use crate::plan::Lineage;
use crate::views::text::{clean, duration, pad, pad_left};
use crate::views::words::{self, seconds, timestamp};
use crate::views::{StudyView, ViewError};

#[derive(Serialize)]
struct EventOut<'a> {
    seq: Seq,
    at: String,
    #[serde(flatten)]
    body: Body<'a>,
    run_s: f64,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Body<'a> {
    StudyCreated(Box<CreatedOut<'a>>),
    RunStarted { pid: u32, host: &'a str, boot_id: &'a str, workers: u32 },
    DrainStarted { by: &'a str },
    StageOpened { stage: u32, stage_name: &'a str, parents: Vec<ParentOut>, shares: &'a [u64] },
    AttemptStarted { trial: u64, case: String, attempt: u32, slot: u32, pid: Option<u32> },
    AttemptEnded(Box<EndOut<'a>>),
    TrialReset { trial: u64, case: String },
    BaseStarted { attempt: u32, slot: u32, pid: Option<u32> },
    BaseEnded(Box<EndOut<'a>>),
    StageApproved { stage: u32, stage_name: &'a str, by: &'a str, note: &'a str },
    StageClosed { stage: u32, stage_name: &'a str, survivors: Vec<ParentOut> },
    StudyCompleted {},
    StudyAborted { reason: &'a str, violating: Vec<String> },
    RunEnded { how: &'static str },
}

#[derive(Serialize)]
struct CreatedOut<'a> {
    study_id: String,
    piton_version: &'a str,
    name: &'a str,
    base_case: &'a str,
    seed: u64,
    /// As JSON; as text if it is none.
    spec: serde_json::Value,
    spec_hash: &'a str,
    inputs: Vec<InputOut<'a>>,
    study_dir: &'a str,
    artifacts_dir: &'a str,
    study_file: &'a str,
    plan_version: u32,
}

#[derive(Serialize)]
struct InputOut<'a> {
    path: &'a str,
    bytes: u64,
    blake3: &'a str,
}

#[derive(Serialize)]
struct ParentOut {
    trial: u64,
    case: String,
    attempt: u32,
}

#[derive(Serialize)]
struct EndOut<'a> {
    trial: u64,
    case: String,
    attempt: u32,
    outcome: &'static str,
    ended_at: String,
    exit_code: Option<i32>,
    signal: Option<String>,
    wall_s: f64,
    cpu_s: f64,
    peak_rss_bytes: u64,
    metrics: Option<MetricsOut<'a>>,
    outputs: Option<OutputsOut<'a>>,
    failure: Option<FailureOut<'a>>,
    /// By what it was interrupted.
    reason: Option<&'a str>,
    /// `final`, or `again` at `due_at` (`null`: at once).
    next: &'static str,
    due_at: Option<String>,
}

struct Names<'a> {
    view: &'a StudyView,
    lineage: Lineage<'a>,
}

impl<'a> Names<'a> {
    fn new(view: &'a StudyView) -> Self {
        Self { view, lineage: view.lineage() }
    }

    fn case(&self, trial: TrialId) -> String {
        if trial == TrialId::BASE {
            return self.view.study.base_case.clone();
        }
        self.view.case_of(&self.lineage, trial)
    }

    fn stage(&self, stage: u32) -> &'a str {
        self.view.stage(stage).map_or("", |stage| &stage.name)
    }

    fn parents(&self, parents: &[Parent]) -> Vec<ParentOut> {
        let parent = |parent: &Parent| ParentOut {
            trial: parent.trial.0,
            case: self.case(parent.trial),
            attempt: parent.attempt,
        };
        parents.iter().map(parent).collect()
    }

    fn event<'e>(&'e self, seq: Seq, record: &'e Record) -> EventOut<'e> {
        EventOut {
            seq,
            at: timestamp(record.at_ms),
            body: self.body(&record.event),
            run_s: seconds(record.run_ms.saturating_mul(1_000)),
        }
    }

    fn body<'e>(&'e self, event: &'e Event) -> Body<'e> {
        match event {
            Event::StudyCreated(created) => Body::StudyCreated(Box::new(created_out(created))),
            Event::RunStarted { engine, workers } => Body::RunStarted {
                pid: engine.process.pid,
                host: &engine.host,
                boot_id: &engine.boot_id,
                workers: *workers,
            },
            Event::DrainStarted { by } => Body::DrainStarted { by },
            Event::StageOpened { stage, parents, shares } => Body::StageOpened {
                stage: *stage,
                stage_name: self.stage(*stage),
                parents: self.parents(parents),
                shares,
            },
            Event::AttemptStarted { trial, attempt, slot, process } => Body::AttemptStarted {
                trial: trial.0,
                case: self.case(*trial),
                attempt: *attempt,
                slot: *slot,
                pid: process.map(|process| process.pid),
            },
            Event::AttemptEnded(end) => Body::AttemptEnded(Box::new(self.end(end))),
            Event::BaseStarted { attempt, slot, process } => {
                Body::BaseStarted { attempt: *attempt, slot: *slot, pid: process.map(|process| process.pid) }
            }
            Event::BaseEnded(end) => Body::BaseEnded(Box::new(self.end(end))),
            Event::StageApproved { stage, by, note } => {
                Body::StageApproved { stage: *stage, stage_name: self.stage(*stage), by, note }
            }
            Event::TrialReset { trial } => Body::TrialReset { trial: trial.0, case: self.case(*trial) },
            Event::StageClosed { stage, survivors } => Body::StageClosed {
                stage: *stage,
                stage_name: self.stage(*stage),
                survivors: self.parents(survivors),
            },
            Event::StudyCompleted => Body::StudyCompleted {},
            Event::StudyAborted { reason, violating } => {
                Body::StudyAborted { reason, violating: violating.iter().map(|trial| self.case(*trial)).collect() }
            }
            Event::RunEnded { how } => Body::RunEnded { how: words::run_end(*how) },
        }
    }

    fn end<'e>(&self, end: &'e AttemptEnd) -> EndOut<'e> {
        let mut out = EndOut {
            trial: end.trial.0,
            case: self.case(end.trial),
            attempt: end.attempt,
            outcome: outcome(&end.verdict),
            ended_at: timestamp(end.ended_ms),
            exit_code: words::exit_code(end.exit),
            signal: words::exit_signal(end.exit),
            wall_s: seconds(end.usage.wall_us),
            cpu_s: seconds(end.usage.cpu_us),
            peak_rss_bytes: end.usage.peak_rss_bytes,
            metrics: None,
            outputs: None,
            failure: None,
            reason: None,
            next: "final",
            due_at: None,
        };
        match &end.verdict {
            Verdict::Succeeded { metrics, outputs } => {
                out.metrics = Some(MetricsOut(metrics));
                out.outputs = Some(OutputsOut(outputs));
            }
            Verdict::Failed(failure) => out.failure = Some(FailureOut::new(failure)),
            Verdict::Interrupted { reason } => out.reason = Some(reason),
            Verdict::Cancelled => {}
        }
        if let Next::Again { due_ms } = end.next {
            out.next = "again";
            out.due_at = (due_ms != 0).then(|| timestamp(due_ms));
        }
        out
    }

    /// The trial, case and attempt an event is about.
    fn subject(&self, event: &Event) -> Option<(TrialId, String, Option<u32>)> {
        match event {
            Event::AttemptStarted { trial, attempt, .. } => Some((*trial, self.case(*trial), Some(*attempt))),
            Event::AttemptEnded(end) | Event::BaseEnded(end) => {
                Some((end.trial, self.case(end.trial), Some(end.attempt)))
            }
            Event::TrialReset { trial } => Some((*trial, self.case(*trial), None)),
            _ => None,
        }
    }

    /// The rest of an event, in words.
    fn detail(&self, event: &Event) -> String {
        let cases = |parents: &[Parent]| {
            parents.iter().map(|parent| self.case(parent.trial)).collect::<Vec<_>>().join(" ")
        };
        match event {
            Event::StudyCreated(created) => format!("{} by piton {}", created.name, created.piton_version),
            Event::RunStarted { engine, workers } => {
                format!("pid {} on {}, {workers} workers", engine.process.pid, engine.host)
            }
            Event::DrainStarted { by } => format!("by {by}"),
            Event::StageOpened { stage, parents, shares } => {
                let trials: u64 = shares.iter().sum();
                let from = if parents.is_empty() { String::new() } else { format!(" from {}", cases(parents)) };
                format!("{}: {trials} trials{from}", self.stage(*stage))
            }
            Event::AttemptStarted { slot, process, .. } | Event::BaseStarted { slot, process, .. } => {
                match process {
                    Some(process) => format!("slot {slot}, pid {}", process.pid),
                    None => format!("slot {slot}"),
                }
            }
            Event::AttemptEnded(end) | Event::BaseEnded(end) => end_detail(end),
            Event::StageApproved { stage, by, note } => {
                let note = if note.is_empty() { String::new() } else { format!(": {note}") };
                format!("{} by {by}{note}", self.stage(*stage))
            }
            Event::TrialReset { .. } => "pending again".into(),
            Event::StageClosed { stage, survivors } if survivors.is_empty() => {
                format!("{}: no survivors", self.stage(*stage))
            }
            Event::StageClosed { stage, survivors } => {
                format!("{}: survivors {}", self.stage(*stage), cases(survivors))
            }
            Event::StudyCompleted => String::new(),
            Event::StudyAborted { reason, .. } => reason.clone(),
            Event::RunEnded { how } => words::run_end(*how).into(),
        }
    }
}

fn created_out(created: &StudyCreated) -> CreatedOut<'_> {
    CreatedOut {
        study_id: created.study_id.to_string(),
        piton_version: &created.piton_version,
        name: &created.name,
        base_case: &created.base_case,
        seed: created.seed,
        spec: serde_json::from_str(&created.spec).unwrap_or_else(|_| created.spec.clone().into()),
        spec_hash: &created.spec_hash,
        inputs: created
            .inputs
            .iter()
            .map(|input| InputOut { path: &input.path, bytes: input.bytes, blake3: &input.blake3 })
            .collect(),
        study_dir: &created.study_dir,
        artifacts_dir: &created.artifacts_dir,
        study_file: &created.study_file,
        plan_version: created.plan_version,
    }
}

fn outcome(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Succeeded { .. } => "succeeded",
        Verdict::Failed(_) => "failed",
        Verdict::Interrupted { .. } => "interrupted",
        Verdict::Cancelled => "cancelled",
    }
}

fn end_detail(end: &AttemptEnd) -> String {
    let took = format!("{} after {}", outcome(&end.verdict), duration(end.usage.wall_us));
    let again = match end.next {
        Next::Again { .. } => ", runs again",
        Next::Final => "",
    };
    match &end.verdict {
        Verdict::Succeeded { .. } | Verdict::Cancelled => took,
        Verdict::Failed(failure) => format!("{took}: {}: {}{again}", failure.kind, failure.reason),
        Verdict::Interrupted { reason } => format!("{took}: {reason}{again}"),
    }
}

/// One event a line, as JSON.
pub(in crate::views) fn jsonl(
    view: &StudyView,
    snapshot: &Snapshot,
    out: &mut dyn Write,
) -> Result<(), ViewError> {
    let names = Names::new(view);
    for event in snapshot.events(1)? {
        let (seq, record) = event?;
        line(out, &names.event(seq, &record))?;
    }
    Ok(())
}

pub(super) fn json(view: &StudyView, snapshot: &Snapshot, out: &mut dyn Write) -> Result<(), ViewError> {
    let names = Names::new(view);
    out.write_all(b"[")?;
    let mut list = List::default();
    for event in snapshot.events(1)? {
        let (seq, record) = event?;
        list.item(out, &names.event(seq, &record))?;
    }
    list.end(out)?;
    Ok(out.write_all(b"\n")?)
}

pub(super) fn csv(view: &StudyView, snapshot: &Snapshot, out: &mut dyn Write) -> Result<(), ViewError> {
    let names = Names::new(view);
    let mut table = csv::Writer::from_writer(out);
    table.write_record(["seq", "at", "type", "trial", "case", "attempt", "detail"])?;
    for event in snapshot.events(1)? {
        let (seq, record) = event?;
        let (trial, case, attempt) = match names.subject(&record.event) {
            Some((trial, case, attempt)) => (trial.to_string(), case, attempt.map(|n| n.to_string())),
            None => Default::default(),
        };
        table.write_record([
            seq.to_string(),
            timestamp(record.at_ms),
            record.event.name().to_owned(),
            trial,
            case,
            attempt.unwrap_or_default(),
            names.detail(&record.event),
        ])?;
    }
    Ok(table.flush()?)
}

pub(super) fn text(
    view: &StudyView,
    snapshot: &Snapshot,
    screen: Screen,
    out: &mut dyn Write,
) -> Result<(), ViewError> {
    let names = Names::new(view);
    let digits = view.progress.last_seq.to_string().len();
    for event in snapshot.events(1)? {
        let (seq, record) = event?;
        let subject = match names.subject(&record.event) {
            Some((_, case, Some(attempt))) => format!("{case} #{attempt}: "),
            Some((_, case, None)) => format!("{case}: "),
            None => String::new(),
        };
        let head = format!(
            "{}  {}  {}  ",
            pad_left(&seq.to_string(), digits),
            timestamp(record.at_ms),
            pad(record.event.name(), "attempt_started".len()),
        );
        let text = format!("{head}{subject}{}", clean(&names.detail(&record.event)));
        writeln!(out, "{}", screen.line(text.trim_end()))?;
    }
    Ok(())
}
