//! `--format text`: the state for people. Lines are cut to the screen; no row is ever left out.

use std::io::Write;

use crate::journal::Snapshot;
use crate::model::{Metric, StageRow, TrialState};
use crate::plan::StageTrials;
use crate::views::text::{Paint, clean, columns, counted, duration, fit, number, pad, pad_left};
use crate::views::words::{FROM_OTHERS, local_time, pruned_words};
use crate::views::{Screen, StudyView, TrialSummary, ViewError, abort_words};

pub(super) fn state(
    view: &StudyView,
    snapshot: &Snapshot,
    screen: Screen,
    out: &mut dyn Write,
) -> Result<(), ViewError> {
    header(view, snapshot, screen, out)?;
    writeln!(out)?;
    stages(view, screen, out)?;
    for stage in view.stages.iter().filter(|stage| stage.planned() > 0) {
        writeln!(out)?;
        trials(view, snapshot, stage, screen, out)?;
    }
    Ok(())
}

fn header(view: &StudyView, snapshot: &Snapshot, screen: Screen, out: &mut dyn Write) -> Result<(), ViewError> {
    let study = &view.study;
    let title = format!("study {}: {}", clean(&study.name), view.status().name());
    writeln!(out, "{}", screen.paint(Paint::Bold, &screen.line(&title)))?;
    if let Some(reason) = &study.abort_reason {
        writeln!(out, "{}", screen.line(&format!("aborted: {}", clean(reason))))?;
        for words in abort_words(study, &view.stages, &view.lineage()) {
            writeln!(out, "{}", screen.line(&words))?;
        }
    }
    for (_, doubt) in view.doubts() {
        writeln!(out, "{}", screen.paint(Paint::Bad, &clean(&format!("doubtful: {doubt}"))))?;
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
    writeln!(out, "{}", screen.line(&format!("attempts: {}", view.attempts_words(snapshot)?)))?;
    writeln!(out, "{}", screen.line(&format!("spec {}", clean(&study.spec_hash))))?;
    Ok(())
}

fn stages(view: &StudyView, screen: Screen, out: &mut dyn Write) -> Result<(), ViewError> {
    let name_width = view.stages.iter().map(|stage| columns(&stage.name)).max().unwrap_or(0).max("stage".len());
    // Few studies have any of these.
    let has = |count: fn(&StageTrials) -> u64| view.summaries().any(|summary| count(&summary.trials) > 0);
    let (cut, undecided, cancelled) = (has(|t| t.pruned), has(|t| t.undecided), has(|t| t.cancelled));
    let rare = |what: [&dyn std::fmt::Display; 3]| -> String {
        let shown = [cut, undecided, cancelled].into_iter().zip(what).filter(|(shown, _)| *shown);
        shown.map(|(_, what)| format!("  {what:>9}")).collect()
    };
    let head = format!(
        "{}  {:<7}  {:>9}  {:>9}  {:>9}  {:>9}  {:>9}{}  {:>9}",
        pad("stage", name_width),
        "status",
        "planned",
        "pending",
        "running",
        "succeeded",
        "failed",
        rare([&"pruned", &"undecided", &"cancelled"]),
        "survivors"
    );
    writeln!(out, "{}", screen.paint(Paint::Faint, &screen.line(&head)))?;
    for summary in view.summaries() {
        let trials = summary.trials;
        let row = format!(
            "{}  {:<7}  {:>9}  {:>9}  {:>9}  {:>9}  {:>9}{}  {:>9}",
            pad(&clean(&summary.row.name), name_width),
            summary.row.status.name(),
            trials.planned,
            trials.pending,
            trials.running,
            trials.succeeded,
            trials.failed,
            rare([&trials.pruned, &trials.undecided, &trials.cancelled]),
            summary.survived(),
        );
        writeln!(out, "{}", screen.line(&row))?;
    }
    Ok(())
}

fn trials(
    view: &StudyView,
    snapshot: &Snapshot,
    stage: &StageRow,
    screen: Screen,
    out: &mut dyn Write,
) -> Result<(), ViewError> {
    let title = format!("stage {} {}", stage.index, clean(&stage.name));
    writeln!(out, "{}", screen.paint(Paint::Bold, &screen.line(&title)))?;
    if view.summary(stage).is_kept() {
        writeln!(out, "{}", screen.line(FROM_OTHERS))?;
    }
    let survivors: Vec<String> = view.summary(stage).survivors().collect();
    if !survivors.is_empty() {
        writeln!(out, "{}", screen.line(&format!("survivors, best first: {}", survivors.join(" "))))?;
    }
    let explorers: Vec<String> = view.summary(stage).explorers().collect();
    if !explorers.is_empty() {
        writeln!(out, "{}", screen.line(&format!("explore, too: {}", explorers.join(" "))))?;
    }
    // The last case has the longest name.
    let case_width = columns(&view.lineage().case(stage.index, stage.planned().saturating_sub(1)));
    for trial in view.trials(snapshot, stage)? {
        writeln!(out, "{}", trial_line(&trial?, case_width, screen))?;
    }
    Ok(())
}

fn trial_line(trial: &TrialSummary<'_>, case_width: usize, screen: Screen) -> String {
    let mark = match (trial.survived(), trial.explores()) {
        (true, _) => "*",
        (_, true) => "+",
        _ => " ",
    };
    let head = format!("{mark} {}  ", pad(&clean(&trial.case()), case_width));
    let state = pad(trial.state.name(), "succeeded".len());
    let paint = match trial.state {
        TrialState::Succeeded => Paint::Good,
        TrialState::Failed => Paint::Bad,
        TrialState::Running => Paint::Busy,
        TrialState::Pending | TrialState::Cancelled | TrialState::Pruned | TrialState::Undecided => Paint::Faint,
    };
    let rest = format!("  {}", rest_of(trial));
    let left = screen.columns().saturating_sub(columns(&head) + columns(&state));
    let line = format!("{}{}{}", head, screen.paint(paint, &state), fit(rest.trim_end(), left));
    if screen.color { line } else { screen.line(line.trim_end()) }
}

/// Attempts, time or that there was no need for one, metrics or failure, and params.
fn rest_of(trial: &TrialSummary<'_>) -> String {
    let mut words = Vec::new();
    if trial.ended_outside() {
        words.push("outside".to_owned());
    }
    if trial.reused_from().is_some() {
        words.push(pad_left(if trial.is_doubtful() { "doubtful" } else { "reused" }, 9));
    } else if !trial.attempts().is_empty() {
        words.push(pad_left(&trial.usage().map_or_else(String::new, |usage| duration(usage.wall_us)), 9));
    }
    if let many @ 2.. = trial.attempts().len() {
        words.push(format!("({many} attempts)"));
    }
    if let Some(imported) = trial.imported() {
        words.push(format!("(imported from {})", clean(&imported.source.file)));
    }
    if let Some(failure) = trial.failure() {
        words.push(format!("{}: {}", failure.kind, clean(&failure.reason)));
    }
    words.extend(trial.pruned().map(|pruned| pruned_words(&pruned)));
    for (name, metric) in trial.metrics() {
        let value = match metric {
            Metric::Number(value) => number(*value),
            Metric::Label(text) => clean(text),
        };
        words.push(format!("{}={value}", clean(name)));
    }
    let params = trial.params();
    if !params.is_empty() {
        words.push("|".into());
    }
    for (name, value) in &params {
        words.push(format!("{}={}", clean(name), clean(&super::value_text(value))));
    }
    words.join(" ")
}
