//! `--format text`: the state for people. Lines are cut to the screen; no row is ever left out.

use std::io::Write;

use super::schema::{StageScope, final_failure, survivor_cases};
use crate::journal::Snapshot;
use crate::model::{Metric, StageRow, TrialState};
use crate::plan::Lineage;
use crate::views::text::{Paint, clean, columns, counted, duration, fit, number, pad, pad_left};
use crate::views::words::local_time;
use crate::views::{PlannedTrial, Screen, StudyView, ViewError, abort_words};

pub(super) fn state(
    view: &StudyView,
    snapshot: &Snapshot,
    screen: Screen,
    out: &mut dyn Write,
) -> Result<(), ViewError> {
    let lineage = view.lineage();
    header(view, screen, out)?;
    writeln!(out)?;
    stages(view, screen, out)?;
    for stage in view.stages.iter().filter(|stage| stage.planned() > 0) {
        writeln!(out)?;
        trials(view, snapshot, &lineage, stage, screen, out)?;
    }
    Ok(())
}

fn header(view: &StudyView, screen: Screen, out: &mut dyn Write) -> Result<(), ViewError> {
    let study = &view.study;
    let title = format!("study {}: {}", clean(&study.name), view.status().name());
    writeln!(out, "{}", screen.paint(Paint::Bold, &screen.line(&title)))?;
    if let Some(reason) = &study.abort_reason {
        writeln!(out, "{}", screen.line(&format!("aborted: {}", clean(reason))))?;
        for words in abort_words(study, &view.stages, &view.lineage()) {
            writeln!(out, "{}", screen.line(&words))?;
        }
    }
    let made = format!(
        "seed {}, created {}, ran {} in {}, {}",
        study.seed,
        local_time(study.created_ms),
        duration(view.runtime_us()),
        counted(study.runs, "run"),
        counted(view.progress.last_seq, "event"),
    );
    writeln!(out, "{}", screen.line(&made))?;
    let attempts = view.progress.accounting;
    let attempts = format!(
        "attempts: {} started, {} succeeded, {} failed, {} interrupted, {} running",
        attempts.attempts_started, attempts.succeeded, attempts.failed, attempts.interrupted, attempts.running
    );
    writeln!(out, "{}", screen.line(&attempts))?;
    writeln!(out, "{}", screen.line(&format!("spec {}", clean(&study.spec_hash))))?;
    Ok(())
}

fn stages(view: &StudyView, screen: Screen, out: &mut dyn Write) -> Result<(), ViewError> {
    let name_width = view.stages.iter().map(|stage| columns(&stage.name)).max().unwrap_or(0).max("stage".len());
    let head = format!(
        "{}  {:<7}  {:>9}  {:>9}  {:>9}  {:>9}  {:>9}  {:>9}",
        pad("stage", name_width),
        "status",
        "planned",
        "pending",
        "running",
        "succeeded",
        "failed",
        "survivors"
    );
    writeln!(out, "{}", screen.paint(Paint::Faint, &screen.line(&head)))?;
    for stage in &view.stages {
        let counters = view.counters_of(stage.index);
        let row = format!(
            "{}  {:<7}  {:>9}  {:>9}  {:>9}  {:>9}  {:>9}  {:>9}",
            pad(&clean(&stage.name), name_width),
            stage.status.name(),
            stage.planned(),
            view.pending(stage),
            counters.running,
            counters.succeeded,
            counters.failed,
            stage.survivors.len(),
        );
        writeln!(out, "{}", screen.line(&row))?;
    }
    Ok(())
}

fn trials(
    view: &StudyView,
    snapshot: &Snapshot,
    lineage: &Lineage<'_>,
    stage: &StageRow,
    screen: Screen,
    out: &mut dyn Write,
) -> Result<(), ViewError> {
    let title = format!("stage {} {}", stage.index, clean(&stage.name));
    writeln!(out, "{}", screen.paint(Paint::Bold, &screen.line(&title)))?;
    let survivors = survivor_cases(view, lineage, stage);
    if !survivors.is_empty() {
        writeln!(out, "{}", screen.line(&format!("survivors, best first: {}", survivors.join(" "))))?;
    }
    let scope = StageScope::new(view, lineage, stage);
    // The last case has the longest name.
    let case_width = columns(&lineage.case(stage.index, stage.planned().saturating_sub(1)));
    for trial in view.trials(snapshot, stage)? {
        let trial = trial?;
        writeln!(out, "{}", trial_line(&scope, &trial, case_width, screen))?;
    }
    Ok(())
}

fn trial_line(scope: &StageScope<'_>, trial: &PlannedTrial, case_width: usize, screen: Screen) -> String {
    let survivor = scope.survivors.contains(&trial.trial);
    let head = format!(
        "{} {}  ",
        if survivor { "*" } else { " " },
        pad(&clean(&scope.lineage.case(trial.stage, trial.index)), case_width)
    );
    let state = pad(trial.state.name(), "succeeded".len());
    let paint = match trial.state {
        TrialState::Succeeded => Paint::Good,
        TrialState::Failed => Paint::Bad,
        TrialState::Running => Paint::Busy,
        TrialState::Pending | TrialState::Cancelled => Paint::Faint,
    };
    let rest = format!("  {}", rest_of(scope, trial));
    let left = screen.columns().saturating_sub(columns(&head) + columns(&state));
    let line = format!("{}{}{}", head, screen.paint(paint, &state), fit(rest.trim_end(), left));
    if screen.color { line } else { screen.line(line.trim_end()) }
}

/// Attempts, time, metrics or failure, and params.
fn rest_of(scope: &StageScope<'_>, trial: &PlannedTrial) -> String {
    let mut words = Vec::new();
    if trial.ended_outside() {
        words.push("outside".to_owned());
    }
    let attempts = trial.row.as_ref().map_or(&[][..], |row| &row.attempts);
    match attempts {
        [] => {}
        [only] => words.push(pad_left(&duration(only.usage.wall_us), 9)),
        [.., last] => {
            words.push(pad_left(&duration(last.usage.wall_us), 9));
            words.push(format!("({} attempts)", attempts.len()));
        }
    }
    if let Some(failure) = final_failure(trial) {
        words.push(format!("{}: {}", failure.kind, clean(&failure.reason)));
    }
    for (name, metric) in trial.row.iter().flat_map(|row| &row.metrics) {
        let value = match metric {
            Metric::Number(value) => number(*value),
            Metric::Label(text) => clean(text),
        };
        words.push(format!("{}={value}", clean(name)));
    }
    let params = scope.lineage.params(trial.stage, trial.index).unwrap_or_default();
    if !params.is_empty() {
        words.push("|".into());
    }
    for (name, value) in &params {
        words.push(format!("{}={}", clean(name), clean(&super::value_text(value))));
    }
    words.join(" ")
}
