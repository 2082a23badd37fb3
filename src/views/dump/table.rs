//! `--format csv`: one row a trial, for spreadsheets and data frames.
//!
//! Columns: `id, stage, stage_name, case, parent, state, survivor, attempts, wall_s, cpu_s, peak_rss_bytes,
//! failure_kind, outside`, then `param.<name>` and `metric.<name>` in order of name. Times and memory are those of the trial's
//! last attempt. Metric names are found in a first pass; only names are kept.

use std::collections::BTreeSet;
use std::io::Write;

use super::schema::{StageScope, final_failure};
use crate::journal::Snapshot;
use crate::model::{Metric, TrialId, Value, float_text};
use crate::views::words::seconds;
use crate::views::{PlannedTrial, StudyView, ViewError};

const FIXED: [&str; 13] = [
    "id",
    "stage",
    "stage_name",
    "case",
    "parent",
    "state",
    "survivor",
    "attempts",
    "wall_s",
    "cpu_s",
    "peak_rss_bytes",
    "failure_kind",
    "outside",
];

pub(super) fn trials(view: &StudyView, snapshot: &Snapshot, out: &mut dyn Write) -> Result<(), ViewError> {
    let mut table = csv::Writer::from_writer(out);
    let params = param_names(view);
    let metrics = metric_names(snapshot)?;
    let header = FIXED.iter().map(|name| (*name).to_owned());
    let header = header.chain(params.iter().map(|name| format!("param.{name}")));
    table.write_record(header.chain(metrics.iter().map(|name| format!("metric.{name}"))))?;
    let lineage = view.lineage();
    for stage in &view.stages {
        let scope = StageScope::new(view, &lineage, stage);
        for trial in view.trials(snapshot, stage)? {
            table.write_record(row(&scope, &trial?, &params, &metrics))?;
        }
    }
    Ok(table.flush()?)
}

fn row(
    scope: &StageScope<'_>,
    planned: &PlannedTrial,
    params: &BTreeSet<String>,
    metrics: &BTreeSet<String>,
) -> Vec<String> {
    let (lineage, stage, index) = (scope.lineage, planned.stage, planned.index);
    let attempts = planned.row.as_ref().map_or(&[][..], |row| &row.attempts);
    let usage = attempts.last().map(|attempt| attempt.usage);
    let mut cells = vec![
        planned.trial.to_string(),
        stage.to_string(),
        scope.stage.name.clone(),
        lineage.case(stage, index),
        lineage.parent_case(stage, index).unwrap_or_default(),
        planned.state.name().to_owned(),
        scope.survivors.contains(&planned.trial).to_string(),
        attempts.len().to_string(),
        usage.map_or_else(String::new, |usage| seconds(usage.wall_us).to_string()),
        usage.map_or_else(String::new, |usage| seconds(usage.cpu_us).to_string()),
        usage.map_or_else(String::new, |usage| usage.peak_rss_bytes.to_string()),
        final_failure(planned).map_or_else(String::new, |failure| failure.kind.to_string()),
        planned.ended_outside().to_string(),
    ];
    let values = lineage.params(stage, index).unwrap_or_default();
    cells.extend(params.iter().map(|name| values.get(name).map_or_else(String::new, Value::to_string)));
    let row = planned.row.as_ref();
    let metric = |name| row.and_then(|row| row.metrics.get(name)).map_or_else(String::new, metric_cell);
    cells.extend(metrics.iter().map(metric));
    cells
}

fn metric_cell(metric: &Metric) -> String {
    match metric {
        Metric::Number(number) => float_text(*number),
        Metric::Label(text) => text.clone(),
    }
}

/// Every param that any stage has.
fn param_names(view: &StudyView) -> BTreeSet<String> {
    let own = view.spec.stages.iter().flat_map(crate::spec::own_names).map(str::to_owned);
    let proposed = view.proposals.values().flatten().map(|(name, _)| name.clone());
    view.spec.params.keys().cloned().chain(own).chain(proposed).collect()
}

fn metric_names(snapshot: &Snapshot) -> Result<BTreeSet<String>, ViewError> {
    let mut names = BTreeSet::new();
    for trial in snapshot.trials(TrialId(0), TrialId(u64::MAX))? {
        for name in trial?.metrics.into_keys() {
            names.insert(name);
        }
    }
    Ok(names)
}
