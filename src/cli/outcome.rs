//! What a run ends with: the survivors, what failed and why, where everything lies; and how results are printed.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use comfy_table::{ContentArrangement, Table, presets};
use piton::model::{Metric, StageRow, StageStatus, StudyStatus};
use piton::views::{
    StudyView, Survivor, ViewError, abort_words, clean, columns as width_of, counted, number, survivors_of,
};
use piton::{Error, Look};

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

/// The result table and what belongs under it, on stdout.
pub fn print_result(look: &Look, store: &Path) -> Result<(), Error> {
    let (view, study) = (&look.view, &look.view.study);
    if study.status == StudyStatus::Completed
        && let Some(stage) = view.last_closed()
    {
        print_survivors(look, stage, store)?;
    }
    if let Some(reason) = &study.abort_reason {
        print_line(&format!("aborted: {reason}"))?;
        for words in abort_words(study, &view.stages, &view.lineage()) {
            print_line(&words)?;
        }
    }
    print_failures(look, store)?;
    print_line(&format!("store      {}", store.display()))?;
    print_line(&format!("artifacts  {}", view.study_artifacts_dir().display()))
}

/// The survivors of a stage as a table: a header, the rows, and how many more there are.
pub struct Survivors {
    pub header: Vec<String>,
    pub rows: Vec<Vec<String>>,
    pub more: usize,
}

fn survivors(look: &Look, stage: &StageRow) -> Result<Survivors, Error> {
    let rows = survivors_of(&look.view, &look.snapshot, stage, SHOWN_SURVIVORS)?;
    let params: BTreeSet<&String> = rows.iter().flat_map(|row| row.params.keys()).collect();
    let metrics = metric_columns(&look.view, stage, &rows);
    let names = params.iter().chain(&metrics).map(|name| clean(name));
    let header = std::iter::once("survivor".to_owned()).chain(names).collect();
    let cells = rows.iter().map(|row| {
        let values =
            params.iter().map(|name| row.params.get(*name).map_or_else(String::new, |v| clean(&v.to_string())));
        let numbers = metrics.iter().map(|name| row.metrics.get(*name).map_or_else(String::new, metric_cell));
        std::iter::once(row.case.clone()).chain(values).chain(numbers).collect()
    });
    Ok(Survivors { header, rows: cells.collect(), more: stage.winners().len().saturating_sub(SHOWN_SURVIVORS) })
}

fn print_survivors(look: &Look, stage: &StageRow, store: &Path) -> Result<(), Error> {
    let found = survivors(look, stage)?;
    print_text(&shown(&found, usize::from(terminal::screen().width)))?;
    if found.more > 0 {
        print_line(&format!(
            "and {} more survivors; `piton dump {}` shows all",
            found.more,
            piton::shell_word(store)
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
fn metric_columns<'a>(view: &'a StudyView, stage: &StageRow, rows: &'a [Survivor]) -> Vec<&'a String> {
    let objectives = view.spec.stages.get(stage.index as usize).map_or(&[][..], |stage| &stage.objectives);
    let mut columns: Vec<&String> = objectives.iter().map(|objective| &objective.metric).collect();
    let others: BTreeSet<&String> = rows.iter().flat_map(|row| row.metrics.keys()).collect();
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

fn failures(look: &Look) -> Result<Failures, Error> {
    let view = &look.view;
    let mut found = Failures { total: 0, shown: Vec::new() };
    for summary in view.summaries() {
        let failed = summary.trials.failed;
        found.total += failed;
        if failed == 0 || found.shown.len() >= SHOWN_FAILURES {
            continue;
        }
        let trials = view.started(&look.snapshot, summary.row).map_err(ViewError::from)?;
        for trial in trials.take(SEARCHED_FOR_FAILURES) {
            let trial = trial.map_err(ViewError::from)?;
            if let Some(failure) = trial.failure().filter(|_| found.shown.len() < SHOWN_FAILURES) {
                found.shown.push((trial.case(), failure.kind.to_string(), clean(&failure.reason)));
            }
        }
    }
    Ok(found)
}

fn print_failures(look: &Look, store: &Path) -> Result<(), Error> {
    let found = failures(look)?;
    if found.total == 0 {
        return Ok(());
    }
    print_line(&format!("{} failed:", counted(found.total, "trial")))?;
    for (case, kind, reason) in &found.shown {
        print_line(&format!("  {case}  {kind}: {reason}"))?;
    }
    let store = piton::shell_word(store);
    let more = found.total.saturating_sub(found.shown.len() as u64);
    if more > 0 {
        print_line(&format!("  and {more} more; `piton dump {store}` shows all"))?;
    }
    if let Some((case, ..)) = found.shown.first() {
        print_line(&format!("  (more of one: `piton why {store} {case}`)"))?;
    }
    Ok(())
}

/// What says how a study ended elsewhere than on the terminal.
pub fn gathered(look: &Look) -> Result<(Option<Survivors>, Failures), Error> {
    Ok((look.view.last_closed().map(|stage| survivors(look, stage)).transpose()?, failures(look)?))
}

/// What a run that ended early leaves behind, in words.
pub fn what_is_safe(view: &StudyView) -> String {
    let finished: u64 = view.summaries().map(|summary| summary.trials.finished()).sum();
    let left: u64 = view.summaries().map(|summary| summary.to_start()).sum();
    let waiting = view.stages.iter().filter(|stage| stage.status == StageStatus::Waiting).count();
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
    format!("{results} safe; {left} left{stages}")
}
