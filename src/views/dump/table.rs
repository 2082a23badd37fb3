//! `--format csv`: one row a trial, for spreadsheets and data frames.
//!
//! Columns: `id, stage, stage_name, case, parent, state, survivor, attempts, wall_s, cpu_s, peak_rss_bytes,
//! failure_kind, outside, reused_from, imported`, then `param.<name>` and `metric.<name>` in order of name. Times and memory are those of the trial's
//! last attempt, and empty where nobody knows them. `reused_from` is `<study>/<case>/<attempt>`, whose result the trial took. Metric names are found in a first pass; only names are kept.
//!
//! Where a stage repeats its cases there is a column `replica` after `imported`, and after the stage's trials a row for each such case: without `id`
//! and `replica`, with the aggregates as its metrics. Whoever reads trials alone takes the rows that have an `id`.
//!
//! Where a stage explores there is a column `explorer` before the params: `true` for cases that went on though they did not survive.

use std::collections::BTreeSet;
use std::io::Write;

use crate::journal::Snapshot;
use crate::model::{Metric, Origin, TrialId, Usage, Value, float_text};
use crate::views::words::seconds;
use crate::views::{CaseSummary, StudyView, TrialSummary, ViewError};

const FIXED: [&str; 15] = [
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
    "reused_from",
    "imported",
];

pub(super) fn trials(view: &StudyView, snapshot: &Snapshot, out: &mut dyn Write) -> Result<(), ViewError> {
    let mut table = csv::Writer::from_writer(out);
    let params = param_names(view);
    let metrics = metric_names(snapshot)?;
    let replicas = view.has_replicas();
    let header = FIXED.iter().copied().chain(replicas.then_some("replica")).map(str::to_owned);
    let explores = view.spec.stages.iter().any(|stage| stage.explore > 0);
    let header = header.chain(explores.then(|| "explorer".to_owned()));
    let header = header.chain(params.iter().map(|name| format!("param.{name}")));
    table.write_record(header.chain(metrics.iter().map(|name| format!("metric.{name}"))))?;
    for stage in &view.stages {
        for trial in view.trials(snapshot, stage)? {
            let trial = trial?;
            let replica = trial.replica().map_or_else(String::new, |replica| replica.to_string());
            let explorer = explores.then(|| trial.explores().to_string());
            table.write_record(row(&trial, [replicas.then_some(replica), explorer], &params, &metrics))?;
        }
        for case in view.whole_cases(snapshot, stage) {
            table.write_record(case_row(&case?, explores, &params, &metrics))?;
        }
    }
    Ok(table.flush()?)
}

fn row(
    trial: &TrialSummary<'_>,
    optional: [Option<String>; 2],
    params: &BTreeSet<String>,
    metrics: &BTreeSet<String>,
) -> Vec<String> {
    let usage = trial.usage();
    let cell = |of: fn(Usage) -> String| usage.map_or_else(String::new, of);
    let mut cells = vec![
        trial.trial.to_string(),
        trial.stage.index.to_string(),
        trial.stage.name.clone(),
        trial.case(),
        trial.parent(),
        trial.state.name().to_owned(),
        trial.survived().to_string(),
        trial.attempts().len().to_string(),
        cell(|usage| seconds(usage.wall_us).to_string()),
        cell(|usage| seconds(usage.cpu_us).to_string()),
        cell(|usage| usage.peak_rss_bytes.to_string()),
        trial.failure().map_or_else(String::new, |failure| failure.kind.to_string()),
        trial.ended_outside().to_string(),
        trial.reused_from().map_or_else(String::new, origin_cell),
        trial.imported().map_or_else(String::new, |imported| imported.source.file.clone()),
    ];
    cells.extend(optional.into_iter().flatten());
    let values = trial.params();
    cells.extend(params.iter().map(|name| values.get(name).map_or_else(String::new, Value::to_string)));
    cells.extend(metrics.iter().map(|name| trial.metrics().get(name).map_or_else(String::new, metric_cell)));
    cells
}

/// A case that runs several times: no number, and no replica.
fn case_row(
    case: &CaseSummary<'_>,
    explores: bool,
    params: &BTreeSet<String>,
    metrics: &BTreeSet<String>,
) -> Vec<String> {
    let mut cells = vec![String::new(); FIXED.len().saturating_add(1)];
    let said = [
        ("stage", case.stage.index.to_string()),
        ("stage_name", case.stage.name.clone()),
        ("case", case.name()),
        ("parent", case.parent()),
        ("state", case.state().name().to_owned()),
        ("survivor", case.survived().to_string()),
    ];
    for (name, value) in said {
        let cell = FIXED.iter().zip(&mut cells).find(|(column, _)| **column == name);
        cell.into_iter().for_each(|(_, cell)| cell.clone_from(&value));
    }
    cells.extend(explores.then(|| case.explores().to_string()));
    let values = case.params();
    cells.extend(params.iter().map(|name| values.get(name).map_or_else(String::new, Value::to_string)));
    cells.extend(metrics.iter().map(|name| case.whole.metrics.get(name).map_or_else(String::new, metric_cell)));
    cells
}

/// Names of studies and cases have no `/`.
fn origin_cell(origin: &Origin) -> String {
    format!("{}/{}/{}", origin.study, origin.case, origin.attempt)
}

fn metric_cell(metric: &Metric) -> String {
    match metric {
        Metric::Number(number) => float_text(*number),
        Metric::Label(text) => text.clone(),
    }
}

/// Every param that any stage has.
fn param_names(view: &StudyView) -> BTreeSet<String> {
    let own = view.spec.stages.iter().flat_map(crate::study_file::own_names).map(str::to_owned);
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
