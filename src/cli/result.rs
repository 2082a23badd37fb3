//! What a run ends with: the survivors, what failed and why, where everything lies; and how results are printed.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use comfy_table::{ContentArrangement, Table, presets};
use piton::model::{
    Metric, Params, Parent, Proposals, StageRow, StageStatus, StudyStatus, TrialId, TrialRow, TrialState,
};
use piton::paths::StudyPaths;
use piton::plan::Lineage;
use piton::spec::Spec;
use piton::views::{abort_words, clean, columns as width_of, counted, number};
use piton::{Error, JournalError, Snapshot};

use super::sink::{self, Content};
use super::terminal;

/// Most survivors shown; `piton dump` shows them all.
const SHOWN_SURVIVORS: usize = 20;

/// Most failures shown.
const SHOWN_FAILURES: usize = 5;

/// Most trials looked at to find failures to show, so that the end of a huge study stays quick.
const SEARCHED_FOR_FAILURES: usize = 10_000;

/// One line on stdout.
pub fn print_line(line: &str) -> Result<(), Error> {
    print_text(&format!("{}\n", clean(line)))
}

/// Text of several lines on stdout.
pub fn print_text(text: &str) -> Result<(), Error> {
    let mut out = sink::stdout(Content::Text);
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Error::Output)
}

/// A JSON document on stdout.
pub fn print_json(value: &serde_json::Value) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Error::Output(error.into()))?;
    let mut out = sink::stdout(Content::Json);
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(Error::Output)
}

/// All that is needed to name a study's trials.
struct Context<'a> {
    snapshot: &'a Snapshot,
    store: &'a Path,
    spec: Spec,
    stages: Vec<StageRow>,
    proposals: Proposals,
}

impl<'a> Context<'a> {
    fn load(snapshot: &'a Snapshot, store: &'a Path) -> Result<Self, Error> {
        let wrong = |cause| Error::Journal { store: store.into(), cause };
        let study = snapshot.study().map_err(wrong)?;
        let spec = Spec::from_json(&study.spec)
            .map_err(|error| Error::StoredSpec { store: store.into(), why: error.to_string() })?;
        let proposals = snapshot.proposals(TrialId(0), TrialId(u64::MAX)).map_err(wrong)?;
        Ok(Self { snapshot, store, spec, stages: snapshot.stages().map_err(wrong)?, proposals })
    }

    fn wrong(&self, cause: JournalError) -> Error {
        Error::Journal { store: self.store.into(), cause }
    }

    fn lineage(&self) -> Lineage<'_> {
        Lineage::new(&self.spec, &self.stages).with_proposals(&self.proposals)
    }
}

/// The result table and what belongs under it, on stdout.
pub fn print_result(snapshot: &Snapshot, store: &Path) -> Result<(), Error> {
    let context = Context::load(snapshot, store)?;
    let study = snapshot.study().map_err(|cause| context.wrong(cause))?;
    if study.status == StudyStatus::Completed
        && let Some(stage) = context.stages.iter().rev().find(|stage| stage.status == StageStatus::Closed)
    {
        print_survivors(&context, stage)?;
    }
    if let Some(reason) = &study.abort_reason {
        print_line(&format!("aborted: {reason}"))?;
        for words in abort_words(&study, &context.stages, &context.lineage()) {
            print_line(&words)?;
        }
    }
    print_failures(&context)?;
    let paths = StudyPaths::of(store, &study).map_err(Error::no_current_dir)?;
    print_line(&format!("store      {}", store.display()))?;
    print_line(&format!("artifacts  {}", paths.study_artifacts(&study.name).display()))
}

/// The survivors of a stage as a table: a header, the rows, and how many more there are.
pub struct Survivors {
    pub header: Vec<String>,
    pub rows: Vec<Vec<String>>,
    pub more: usize,
}

fn survivors(context: &Context<'_>, stage: &StageRow) -> Result<Survivors, Error> {
    let lineage = context.lineage();
    let shown: Vec<&Parent> = stage.survivors.iter().take(SHOWN_SURVIVORS).collect();
    let mut rows = Vec::new();
    for parent in &shown {
        let row = context.snapshot.trial(parent.trial).map_err(|cause| context.wrong(cause))?;
        let place = lineage.locate(parent.trial);
        if let (Some(row), Some((index, derived))) = (row, place) {
            rows.push((lineage.case(index, derived), lineage.params(index, derived).unwrap_or_default(), row));
        }
    }
    let params: BTreeSet<&String> = rows.iter().flat_map(|(_, params, _)| params.keys()).collect();
    let metrics = metric_columns(context, stage, &rows);
    let names = params.iter().chain(&metrics).map(|name| clean(name));
    let header = std::iter::once("survivor".to_owned()).chain(names).collect();
    let cells = rows.iter().map(|(case, values, row)| {
        let values =
            params.iter().map(|name| values.get(*name).map_or_else(String::new, |v| clean(&v.to_string())));
        let numbers = metrics.iter().map(|name| row.metrics.get(*name).map_or_else(String::new, metric_cell));
        std::iter::once(case.clone()).chain(values).chain(numbers).collect()
    });
    Ok(Survivors { header, rows: cells.collect(), more: stage.survivors.len().saturating_sub(shown.len()) })
}

fn print_survivors(context: &Context<'_>, stage: &StageRow) -> Result<(), Error> {
    let found = survivors(context, stage)?;
    print_text(&shown(&found, usize::from(terminal::screen().width)))?;
    if found.more > 0 {
        print_line(&format!(
            "and {} more survivors; `piton dump {}` shows all",
            found.more,
            piton::shell_word(context.store)
        ))?;
    }
    Ok(())
}

/// The table, if it fits the columns (0: any do), else each survivor's values under its name: no number is broken or cut,
/// and all can be copied.
fn shown(found: &Survivors, columns: usize) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(&found.header);
    table.add_rows(&found.rows);
    let text = table.to_string();
    if columns == 0 || text.lines().all(|line| width_of(line) <= columns) {
        return format!("{text}\n");
    }
    let mut text = String::new();
    for row in &found.rows {
        let cells = found.header.iter().zip(row);
        for (place, (name, cell)) in cells.enumerate() {
            let line = if place == 0 { format!("{name} {cell}\n") } else { format!("  {name} = {cell}\n") };
            text.push_str(&line);
        }
    }
    text
}

/// The objectives in their order, then the other metrics by name.
fn metric_columns<'a>(
    context: &'a Context<'_>,
    stage: &StageRow,
    rows: &'a [(String, Params, TrialRow)],
) -> Vec<&'a String> {
    let objectives = context.spec.stages.get(stage.index as usize).map_or(&[][..], |stage| &stage.objectives);
    let mut columns: Vec<&String> = objectives.iter().map(|objective| &objective.metric).collect();
    let others: BTreeSet<&String> = rows.iter().flat_map(|(_, _, row)| row.metrics.keys()).collect();
    columns
        .extend(others.into_iter().filter(|name| objectives.iter().all(|objective| objective.metric != **name)));
    columns
}

fn metric_cell(metric: &Metric) -> String {
    match metric {
        Metric::Number(value) => number(*value),
        Metric::Label(label) => clean(label),
    }
}

/// Trials that failed for good: how many, and some of them.
pub struct Failures {
    pub total: u64,
    /// Case, kind and reason.
    pub shown: Vec<(String, String, String)>,
}

fn failures(context: &Context<'_>) -> Result<Failures, Error> {
    let lineage = context.lineage();
    let mut found = Failures { total: 0, shown: Vec::new() };
    for stage in &context.stages {
        let failed = context.snapshot.counters(stage.index).map_err(|cause| context.wrong(cause))?.failed;
        found.total += failed;
        if failed == 0 || found.shown.len() >= SHOWN_FAILURES {
            continue;
        }
        let end = TrialId(stage.first_trial.0 + stage.planned());
        let rows = context.snapshot.trials(stage.first_trial, end).map_err(|cause| context.wrong(cause))?;
        for row in rows.take(SEARCHED_FOR_FAILURES) {
            let row = row.map_err(|cause| context.wrong(cause))?;
            if row.state == TrialState::Failed
                && found.shown.len() < SHOWN_FAILURES
                && let (Some((stage, index)), Some(failure)) = (lineage.locate(row.trial), row.failure)
            {
                found.shown.push((lineage.case(stage, index), failure.kind.to_string(), clean(&failure.reason)));
            }
        }
    }
    Ok(found)
}

fn print_failures(context: &Context<'_>) -> Result<(), Error> {
    let found = failures(context)?;
    if found.total == 0 {
        return Ok(());
    }
    print_line(&format!("{} failed:", counted(found.total, "trial")))?;
    for (case, kind, reason) in &found.shown {
        print_line(&format!("  {case}  {kind}: {reason}"))?;
    }
    if let Some((case, ..)) = found.shown.first() {
        print_line(&format!("  (more: `piton why {} {case}`)", piton::shell_word(context.store)))?;
    }
    Ok(())
}

/// What is told of a study's end elsewhere than on the terminal.
pub fn gathered(snapshot: &Snapshot, store: &Path) -> Result<(Option<Survivors>, Failures), Error> {
    let context = Context::load(snapshot, store)?;
    let closed = context.stages.iter().rev().find(|stage| stage.status == StageStatus::Closed);
    Ok((closed.map(|stage| survivors(&context, stage)).transpose()?, failures(&context)?))
}

/// What a run that ended early leaves behind, in words.
pub fn what_is_safe(snapshot: &Snapshot, store: &Path) -> Result<String, Error> {
    let context = Context::load(snapshot, store)?;
    let mut finished = 0;
    let mut left = 0;
    for stage in &context.stages {
        let counters = snapshot.counters(stage.index).map_err(|cause| context.wrong(cause))?;
        finished += counters.finished();
        left += counters.pending(stage.expected());
    }
    let waiting = context.stages.iter().filter(|stage| stage.status == StageStatus::Waiting).count();
    let results = if finished == 1 { "1 result is".into() } else { format!("{finished} results are") };
    let stages = match waiting {
        0 => String::new(),
        1 => ", and 1 stage has not begun".to_owned(),
        n => format!(", and {n} stages have not begun"),
    };
    let left = if left == 1 {
        "1 trial of the open stage is".into()
    } else {
        format!("{left} trials of the open stage are")
    };
    Ok(format!("{results} safe; {left} left{stages}"))
}
