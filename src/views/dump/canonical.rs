//! `--canonical`: what must not depend on timing, crashes or the number of workers.
//!
//! It is the same byte for byte for a study that ran through and for one that was killed a hundred times, given
//! trials that are functions of their params and seed. So it has no times, processes, hosts, directories, attempts,
//! log texts or reasons of failures (they quote logs), nothing of `[run]`, and no difference between what runs, what
//! was interrupted and what waits. Keys are sorted; trials are in order of their numbers, which follow from the plan.
//!
//! Of an aborted study it says what follows from the trials that count ([`Abort`](crate::model::Abort)): all others are
//! cancelled, whatever became of them, and proposals beyond them are left out. After `max_runtime` none of the open stage
//! counts; which stage was open is a matter of time, and the only thing here that is.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};

use serde::Serialize;

use super::cases::CaseOut;
use super::schema::{AcceptanceOut, MetricsOut, ParamsOut, SourceOut, acceptances_out, versions_out};
use super::{List, ViewError};
use crate::journal::Snapshot;
use crate::model::json::is_zero;
use crate::model::{
    ImportSource, Metrics, OutputHash, Proposing, Pruned, ResultsTold, RungRow, StageRow, StudyStatus, TrialState,
};
use crate::plan::Lineage;
use crate::views::words::hex;
use crate::views::{StudyView, TrialSummary};

// The fields of every struct here are in the order of their names.

#[derive(Serialize)]
struct Study<'a> {
    abort_reason: Option<&'a str>,
    aborted: bool,
    inputs: Vec<Input<'a>>,
    /// Its results are not those of a study that ran everything: whoever compares is to see that.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    inputs_accepted: Vec<AcceptanceOut<'a>>,
    name: &'a str,
    seed: u64,
    spec_hash: &'a str,
    status: &'static str,
    versions: BTreeMap<&'a str, &'a str>,
    violating: Vec<String>,
}

#[derive(Serialize)]
struct Input<'a> {
    blake3: &'a str,
    bytes: u64,
    path: &'a str,
}

#[derive(Serialize)]
struct Stage<'a> {
    cancelled: u64,
    /// How many of its trials count, where it ended before all of them had.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_after: Option<u64>,
    /// Cases that went on to explore, though they did not survive.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    explorers: Vec<String>,
    failed: u64,
    index: u32,
    name: &'a str,
    planned: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pruned: u64,
    status: &'static str,
    succeeded: u64,
    survivor_count: u64,
    survivors: Vec<String>,
    /// Where the results come from that its proposer heard of first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    told: Vec<Told>,
    trial_budget: u64,
}

#[derive(Serialize)]
struct Told {
    blake3: String,
    by: String,
    file: String,
    results: usize,
}

#[derive(Serialize)]
struct Trial<'a> {
    case: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    explorer: bool,
    failure: Option<&'a str>,
    id: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    imported: Option<SourceOut<'a>>,
    metrics: MetricsOut<'a>,
    outputs: BTreeMap<&'a str, Output>,
    params: ParamsOut,
    parent: String,
    /// Not how many were better: that depends on how early it was known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pruned: Option<PrunedAs>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rungs: Vec<Rung>,
    stage: u32,
    state: &'static str,
    survivor: bool,
}

#[derive(Serialize)]
struct PrunedAs {
    rule: &'static str,
    step: u64,
    value: Option<f64>,
}

#[derive(Serialize)]
struct Rung {
    at: u64,
    step: u64,
    value: Option<f64>,
}

#[derive(Serialize)]
struct Output {
    blake3: String,
    bytes: u64,
}

/// Writes the canonical dump: one JSON value, one trial a line.
///
/// # Errors
/// [`ViewError::Journal`], [`ViewError::Output`].
pub fn canonical(view: &StudyView, snapshot: &Snapshot, out: &mut dyn Write) -> Result<(), ViewError> {
    let out: &mut dyn Write = &mut BufWriter::new(out);
    let lineage = view.lineage();
    // A JSON map sorts its keys.
    let spec = view.spec.identity_tree()?;
    out.write_all(b"{\"canonical\":1,\n")?;
    if view.has_replicas() {
        out.write_all(b"\"cases\":[")?;
        let mut list = List::default();
        for stage in &view.stages {
            for case in view.whole_cases(snapshot, stage) {
                list.item(out, &CaseOut::canonical(&case?))?;
            }
        }
        list.end(out)?;
        out.write_all(b",\n")?;
    }
    out.write_all(b"\"spec\":")?;
    serde_json::to_writer(&mut *out, &spec)?;
    out.write_all(b",\n\"stages\":[")?;
    let mut list = List::default();
    for stage in &view.stages {
        list.item(out, &stage_of(view, snapshot, stage)?)?;
    }
    list.end(out)?;
    out.write_all(b",\n\"study\":")?;
    serde_json::to_writer(&mut *out, &study_of(view, &lineage))?;
    out.write_all(b",\n\"trials\":[")?;
    let mut list = List::default();
    for stage in &view.stages {
        for trial in view.trials_from(snapshot, stage, 0, planned_of(view, stage))? {
            list.item(out, &trial_of(view, &trial?))?;
        }
    }
    list.end(out)?;
    out.write_all(b"}\n")?;
    Ok(out.flush()?)
}

fn study_of<'a>(view: &'a StudyView, lineage: &Lineage<'_>) -> Study<'a> {
    let study = &view.study;
    let mut violating = study.violating.clone();
    violating.sort_unstable();
    Study {
        abort_reason: study.abort_reason.as_deref(),
        aborted: study.status == StudyStatus::Aborted,
        inputs: study
            .inputs
            .iter()
            .map(|input| Input { blake3: &input.blake3, bytes: input.bytes, path: &input.path })
            .collect(),
        inputs_accepted: acceptances_out(&study.accepted),
        name: &study.name,
        seed: study.seed,
        spec_hash: &study.spec_hash,
        status: match study.status {
            over @ (StudyStatus::Completed | StudyStatus::Aborted) => over.name(),
            // Whether it was ever run, runs, or was cut off is a matter of timing.
            StudyStatus::Created | StudyStatus::Running | StudyStatus::Interrupted => {
                StudyStatus::Interrupted.name()
            }
        },
        versions: versions_out(&study.versions),
        violating: violating.into_iter().map(|trial| lineage.name_of(trial)).collect(),
    }
}

/// Trials planned: how far a proposer had come beyond those that count is chance.
fn planned_of(view: &StudyView, stage: &StageRow) -> u64 {
    match view.study.abort {
        Some(abort) if abort.stage == stage.index && stage.proposing != Proposing::No => {
            stage.planned().min(abort.counted)
        }
        _ => stage.planned(),
    }
}

fn stage_of<'a>(view: &StudyView, snapshot: &Snapshot, stage: &'a StageRow) -> Result<Stage<'a>, ViewError> {
    let summary = view.summary(stage);
    let (succeeded, failed, pruned) = match view.counted(stage) {
        Some(counted) => view.results_of_first(snapshot, stage, counted)?,
        None => (summary.trials.succeeded, summary.trials.failed, summary.trials.pruned),
    };
    let planned = planned_of(view, stage);
    let cancelled = match view.study.status {
        _ if stage.ended_after.is_some() => planned.saturating_sub(succeeded + failed + pruned),
        StudyStatus::Aborted => planned.saturating_sub(succeeded + failed + pruned),
        _ => 0,
    };
    Ok(Stage {
        cancelled,
        ended_after: stage.ended_after,
        explorers: summary.explorers().collect(),
        failed,
        index: stage.index,
        name: &stage.name,
        planned,
        pruned,
        status: stage.status.name(),
        succeeded,
        survivor_count: stage.survivor_count,
        survivors: summary.survivors().collect(),
        told: told_of(snapshot, stage)?,
        trial_budget: stage.trial_budget,
    })
}

fn told_of(snapshot: &Snapshot, stage: &StageRow) -> Result<Vec<Told>, ViewError> {
    let told = |told: ResultsTold| {
        let ImportSource { file, blake3, by } = told.source;
        Told { blake3: hex(&blake3), by, file, results: told.results.len() }
    };
    Ok(snapshot.told(stage.index)?.into_iter().map(told).collect())
}

fn trial_of<'a>(view: &StudyView, trial: &'a TrialSummary<'_>) -> Trial<'a> {
    const NO_METRICS: &Metrics = &Metrics::new();
    let aborted = view.study.status == StudyStatus::Aborted;
    let counts = !aborted || view.study.abort.is_none_or(|abort| abort.counts(trial.stage.index, trial.index));
    let counts = counts && !trial.stage.is_outside(trial.index);
    let state = match trial.state {
        _ if !counts => TrialState::Cancelled,
        TrialState::Running if aborted => TrialState::Cancelled,
        TrialState::Running | TrialState::Undecided => TrialState::Pending,
        state => state,
    };
    let counts = counts && trial.state != TrialState::Undecided;
    let rungs = trial.rungs().iter().filter(|_| counts && state.is_final());
    Trial {
        case: trial.case(),
        explorer: trial.explores(),
        failure: trial.failure().filter(|_| counts).map(|failure| failure.kind.name()),
        id: trial.trial.0,
        imported: trial.imported().filter(|_| counts).map(|imported| SourceOut::new(&imported.source)),
        metrics: MetricsOut(if counts { trial.metrics() } else { NO_METRICS }),
        outputs: trial.outputs().iter().filter(|_| counts).map(output_of).collect(),
        params: ParamsOut(trial.params()),
        parent: trial.parent(),
        pruned: trial.pruned().filter(|_| counts).map(|Pruned { rule, step, value, .. }| PrunedAs {
            rule: rule.name(),
            step,
            value,
        }),
        rungs: rungs.map(|RungRow { at, step, value, .. }| Rung { at: *at, step: *step, value: *value }).collect(),
        stage: trial.stage.index,
        state: state.name(),
        survivor: trial.survived(),
    }
}

fn output_of(output: &OutputHash) -> (&str, Output) {
    (&output.path, Output { blake3: hex(&output.blake3), bytes: output.bytes })
}
