//! The page itself: its sections in the order people ask. Escaping is the template's, for every value.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::charts::{self, short};
use super::effects::effects;
use super::gather::{StageData, anchor};
use super::timeline::{ends, timeline};
use super::{Options, Report, Winner, curves, rungs, table};
use crate::model::{StageStatus, StudyStatus, UnixMs};
use crate::views::dump::accepted_words;
use crate::views::text::{counted, duration};
use crate::views::what_if::RetentionOut;
use crate::views::words::{FROM_OTHERS, ended_words, taken_words, timestamp};
use crate::views::{StudyView, number};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
const LIVE: &str = include_str!("live.js");
/// What every page needs that a server keeps up to date.
pub(super) const LIVE_COMMON: &str = include_str!("live_common.js");

/// Most kinds of failure of a stage that are listed.
const KINDS_MAX: usize = 100;

/// Most inputs that are listed.
const INPUTS_MAX: usize = 200;

pub(super) fn page(report: &Report<'_>, options: &Options) -> Markup {
    let body = html! {
        a .skip href="#main" { "to the study" }
        @if let Some(studies) = &options.studies_link { nav aria-label="studies" { a href=(studies) { "all studies" } } }
        (header(report, options))
        main #main {
            (story(report))
            @for stage in &report.gathered.stages { (stage_section(report.view, stage)) }
            (failures(report))
            (workers(report))
            (ancestry(report))
            (provenance(report))
            (trials(report, options))
        }
        footer { (made(options.now_ms)) }
    };
    let scripts: &[&str] = if options.live { &[SCRIPT, LIVE_COMMON, LIVE] } else { &[SCRIPT] };
    document(&report.view.study.name, &options.nonce, options.live, &body, scripts)
}

/// A whole page, with a policy that lets its own style and scripts count and nothing else.
pub(super) fn document(title: &str, nonce: &str, live: bool, body: &Markup, scripts: &[&str]) -> Markup {
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'{}",
        if live { "; connect-src 'self'" } else { "" }
    );
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(policy);
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) " · piton" }
                style nonce=(nonce) { (PreEscaped(STYLE)) }
            }
            body {
                (body)
                @for script in scripts { script nonce=(nonce) { (PreEscaped(script)) } }
            }
        }
    }
}

pub(super) fn made(at_ms: UnixMs) -> Markup {
    html! { "made by piton " (env!("CARGO_PKG_VERSION")) " at " (time(at_ms)) }
}

/// A moment: the script shows it in the reader's time zone.
fn time(at_ms: UnixMs) -> Markup {
    let at = timestamp(at_ms);
    html! { time datetime=(at) { (at) } }
}

fn header(report: &Report<'_>, options: &Options) -> Markup {
    let view = report.view;
    let study = &view.study;
    let facts = [
        ("running time", html! { (duration(view.runtime_us())) }),
        ("created", time(study.created_ms)),
        ("runs", html! { (ends(&report.gathered.runs, view.liveness.alive)) }),
        ("attempts", html! { (report.gathered.attempts) }),
        ("seed", html! { (study.seed) }),
        ("store", html! { (view.place.store) }),
    ];
    html! {
        header {
            div #top {
                h1 { (study.name) " " span class={ "status " (view.status().name()) } { (view.status().name()) } }
                @if let Some(description) = &view.spec.study.description { p .lead { (description) } }
                @if let Some(reason) = &study.abort_reason { p .alarm { "Aborted: " (reason) } }
                @for (_, doubt) in view.doubts() { p .alarm { "Doubtful: " (doubt) } }
                @for (at_ms, stage, read) in &report.gathered.reread {
                    p .note { "What " (counted(*read, "finished trial")) " of stage " (view.stages.get(*stage as usize).map_or("", |stage| &stage.name)) " left was read again by rules that an amendment changed, " (time(*at_ms)) "." }
                }
                @for words in crate::views::abort_words(study, &view.stages, &view.lineage()) { p .note { (words) } }
                @if let Some(winner) = report.winners.first() { (best(report, winner)) }
                @if let Some(stage) = view.waits_for_approval() { p .alarm { "Stage " (stage) " waits for approval." } }
                dl .facts { @for (name, value) in &facts { div { dt { (name) } dd { (value) } } } }
                nav aria-label="sections" {
                    @for stage in &report.gathered.stages { a href={ "#" (anchor(stage.row.index)) } { (stage.row.name) } }
                    @if report.gathered.stages.iter().any(|stage| !stage.failures.is_empty()) { a href="#failures" { "failures" } }
                    a href="#workers" { "workers" }
                    @if !report.winners.is_empty() { a href="#lineage" { "lineage" } }
                    a href="#trials" { "all trials" }
                }
            }
            @if options.live { (live(report)) } @else if view.liveness.alive { p .note { "The study was running when this page was made (" (time(options.now_ms)) ")." } }
        }
    }
}

/// Who won, or leads, with what, and with which params: what most people open the page for.
fn best(report: &Report<'_>, winner: &Winner) -> Markup {
    let completed = report.view.study.status == StudyStatus::Completed;
    let word = if completed { "Winner" } else { "Best of the last stage that closed" };
    let values = winner.steps.last().map(|step| step.metrics.as_str()).unwrap_or_default();
    html! {
        p .lead #winner {
            (word) ": " strong { (winner.case) } @if !values.is_empty() { " " (values) }
            @if !winner.params.is_empty() { br; code { (winner.params) } }
        }
    }
}

/// What the script keeps up to date, and the button that asks the engine to stop.
fn live(report: &Report<'_>) -> Markup {
    html! {
        section #live data-events=(report.view.progress.last_seq) data-status=(report.view.status().name()) aria-label="how it stands now" {
            noscript { p .note { "The page is kept up to date by JavaScript; without it, load it again." } }
        }
        button #stop type="button" hidden { "Stop…" }
        (stop_dialog())
    }
}

/// Asks before an engine is asked to stop.
pub(super) fn stop_dialog() -> Markup {
    html! {
        dialog #stop-dialog aria-labelledby="stop-title" {
            form method="dialog" {
                h2 #stop-title { "Stop " span #stop-name { "the study" } "?" }
                p { "Trials that run now may finish; nothing more starts. Everything that has ended is recorded, and the study can go on at any time." }
                div .controls {
                    button value="stop" { "Let them finish and stop" }
                    button value="" autofocus { "Keep it running" }
                }
            }
        }
    }
}

/// The funnel: what each stage tried, what of that succeeded, and what survived.
fn story(report: &Report<'_>) -> Markup {
    let view = report.view;
    let most = view.summaries().map(|summary| summary.trials.planned).max().unwrap_or(1).max(1);
    let bar = |count: u64, class: &str, words: &str| {
        // In steps of a fiftieth, because the policy lets no element have a style of its own.
        let fiftieths = if count == 0 { 0 } else { (count.saturating_mul(50) / most).max(1) };
        html! { div .bar { span class={ "fill " (class) " w" (fiftieths) } {} span { (count) " " (words) } } }
    };
    html! {
        section aria-labelledby="story" {
            h2 #story { "What happened" }
            (report.gathered.saved.section())
            @for summary in view.summaries() {
                @let (stage, trials) = (summary.row, summary.trials);
                div .stage {
                    h3 {
                        @if trials.planned > 0 { a href={ "#" (anchor(stage.index)) } { (stage.name) } } @else { (stage.name) }
                        " " span class={ "status " (stage.status.name()) } { (stage.status.name()) }
                    }
                    @if trials.planned > 0 {
                        (bar(trials.planned, "planned", "planned"))
                        (bar(trials.succeeded, "ok", "succeeded"))
                        @if trials.failed > 0 { (bar(trials.failed, "bad", "failed")) }
                        @if trials.pruned > 0 { (bar(trials.pruned, "cut", "pruned")) }
                        @if stage.status == StageStatus::Closed { (bar(summary.survived(), "s", "survived")) }
                    } @else { p .note { "not begun" } }
                }
            }
        }
    }
}

fn stage_section(view: &StudyView, stage: &StageData) -> Markup {
    let title = anchor(stage.row.index);
    let summary = view.summary(&stage.row);
    html! {
        section aria-labelledby=(title) {
            h2 #(title) { "Stage " (stage.row.index) ": " (stage.row.name) }
            @if summary.is_kept() { p .note { (FROM_OTHERS) } }
            p {
                (counted(summary.trials.planned, "trial")) ": " (summary.trials.succeeded) " succeeded"
                (taken_words(summary.counters.reused, summary.counters.imported))
                ", " (summary.trials.failed) " failed"
                @if summary.trials.pruned > 0 { ", " (summary.trials.pruned) " pruned" }
                @if summary.survived() > 0 { ", " (summary.survived()) " survived" }
                @if !stage.row.explorers().is_empty() { ", " (stage.row.explorers().len()) " went on to explore" }
                ". "
                @if let (Some(best), Some(objective)) = (summary.best(), stage.objective()) {
                    "Best " (charts::objective_words(objective)) ": " strong { (number(best.value)) }
                    " by " code { (best.case) } "."
                }
            }
            @if let Some(words) = ended_words(&view.spec, &stage.row) { p .note { "It " (words) "." } }
            (rungs::section(stage))
            @if stage.left_out > 0 {
                p .note { "The charts and the table show " (stage.trials.len()) " of its trials: the survivors (the best of them, if they are very many), and the others evenly thinned out." }
            }
            (curves::section(stage))
            @if let Some(picture) = charts::progress(stage) { figure tabindex="0" { figcaption { "The first objective as the trials ended; the line is the best so far" } (picture) } }
            @if let Some(picture) = charts::pareto(stage) { figure tabindex="0" { figcaption { "The first two objectives; the line joins the trials that no other beats in both" } (picture) } }
            @if let Some(picture) = charts::parallel(stage) { figure tabindex="0" { figcaption { "Params and metrics, a line a trial; survivors are bold" } (picture) } }
            @let scatters: Vec<_> = stage.params.iter().take(8).filter_map(|param| charts::scatter(stage, param)).collect();
            @if !scatters.is_empty() {
                figure tabindex="0" {
                    figcaption { "Each param against the first objective; survivors are large" }
                    div .grid2 { @for picture in &scatters { (picture) } }
                }
            }
            (effects_table(stage))
        }
    }
}

fn effects_table(stage: &StageData) -> Markup {
    let params: Vec<_> = stage.params.iter().map(|param| (param, effects(stage, param))).collect();
    let objective = stage.objective().map_or("", |objective| objective.metric.as_str());
    let gains = params.iter().flat_map(|(_, rows)| rows).any(|row| row.gain.is_some());
    html! {
        @if params.iter().any(|(_, rows)| !rows.is_empty()) {
            figure tabindex="0" {
                figcaption { "What went with each value: " (objective) " of the trials that had it" @if gains { "; better, and Δ, the median change, are beside their parents" } }
                div .scroll tabindex="0" role="region" aria-label={ "Effect of each param's values in " (stage.row.name) } {
                    table {
                        thead { tr { th { "param" } th { "value" } th .n { "trials" } th .n { "median" } th .n { "best" } th .n { "survived" }
                            @if gains { th .n { "better" } @for objective in &stage.spec.objectives { th .n { "Δ " (objective.metric) } } }
                        } }
                        tbody {
                            @for (param, rows) in &params {
                                @for (place, row) in rows.iter().enumerate() {
                                    tr class=(if place == 0 { "first" } else { "" }) {
                                        @if place == 0 { th scope="rowgroup" rowspan=(rows.len()) { (param) } }
                                        td .value { (short(&row.value, 40)) }
                                        td .n { (row.trials) }
                                        td .n { (number(row.median)) }
                                        td .n { (number(row.best)) }
                                        td .n { (row.survivors) }
                                        @if let Some(gain) = &row.gain {
                                            td .n { (gain.better) " of " (gain.trials) }
                                            @for median in &gain.medians { td .n { (median.map_or_else(String::new, signed)) } }
                                        } @else if gains { td {} @for _ in &stage.spec.objectives { td {} } }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A difference, with its sign.
fn signed(value: f64) -> String {
    let sign = if value > 0.0 { "+" } else { "" };
    format!("{sign}{}", number(value))
}

fn failures(report: &Report<'_>) -> Markup {
    let stages: Vec<_> = report.gathered.stages.iter().filter(|stage| !stage.failures.is_empty()).collect();
    let most = stages.iter().flat_map(|stage| stage.failures.values()).copied().max().unwrap_or(1);
    html! {
        @if !stages.is_empty() {
            section aria-labelledby="failures" {
                h2 #failures { "Failures" }
                @for stage in &stages {
                    h3 { (stage.row.name) }
                    @for (kind, count) in stage.failures.iter().take(KINDS_MAX) {
                        div .bar {
                            span class={ "fill bad w" (((*count).saturating_mul(50) / most).max(1)) } {}
                            span { (count) " " code { (kind) } }
                            @if let Some(example) = stage.trials.iter().find(|t| t.failure.as_ref().is_some_and(|(k, _)| k == kind)) {
                                span .note { "for example " code { (example.case) } ": " (short(&example.failure.as_ref().map_or_else(String::new, |(_, reason)| reason.clone()), 120)) }
                            }
                        }
                    }
                    (more(stage.failures.len(), KINDS_MAX, "kinds"))
                }
            }
        }
    }
}

/// How many are not listed.
fn more(all: usize, listed: usize, what: &str) -> Markup {
    html! { @if all > listed { p .note { "and " (all - listed) " more " (what) } } }
}

fn workers(report: &Report<'_>) -> Markup {
    html! {
        section aria-labelledby="workers" {
            h2 #workers { "Workers" }
            @match timeline(&report.gathered, report.view.liveness.alive) {
                Some(picture) => figure tabindex="0" {
                    figcaption { "A row a worker, a bar an attempt; each run of the engine begins at a line, a dashed one was cut off" }
                    (picture)
                    p .legend {
                        span .key .ok { "succeeded" } span .key .bad { "failed" } span .key .cut { "interrupted or pruned" } span .key .now { "running" }
                    }
                    @if report.gathered.bars_left_out > 0 {
                        p .note { (report.gathered.bars.len()) " of " (report.gathered.bars.len() as u64 + report.gathered.bars_left_out) " attempts are drawn." }
                    }
                },
                None => p .note { "Nothing has run yet." },
            }
        }
    }
}

fn ancestry(report: &Report<'_>) -> Markup {
    html! {
        @if !report.winners.is_empty() {
            section aria-labelledby="lineage" {
                h2 #lineage { "Where the best come from" }
                ol .winners {
                    @for winner in &report.winners {
                        li {
                            strong { (winner.case) }
                            ol .steps {
                                li { code { (report.view.study.base_case) } " (base case)" }
                                @for step in &winner.steps {
                                    li {
                                        code { (step.case) } @if step.explorer { " (an explorer, no survivor)" } " " (step.chose) @if !step.metrics.is_empty() { span .note { " → " (step.metrics) } }
                                        @if let Some(command) = &step.command { pre tabindex="0" { (command) } }
                                    }
                                }
                            }
                        }
                    }
                }
                @for retention in RetentionOut::all(report.view) { p .note { "Retention: " (retention.words()) "." } }
            }
        }
    }
}

fn provenance(report: &Report<'_>) -> Markup {
    let study = &report.view.study;
    html! {
        @if !study.versions.is_empty() || !study.inputs.is_empty() || !study.accepted.is_empty() {
            section aria-labelledby="provenance" {
                h2 #provenance { "Made with" }
                div .scroll tabindex="0" role="region" aria-label="Tools and inputs" {
                    table {
                        tbody {
                            @for tool in &study.versions { tr { th scope="row" { (tool.tool) } td { (tool.version) } } }
                            @for input in study.inputs.iter().take(INPUTS_MAX) {
                                tr { th scope="row" { code { (input.path) } } td { (counted(input.bytes, "byte")) ", blake3 " code { (input.blake3) } } }
                            }
                        }
                    }
                }
                (more(study.inputs.len(), INPUTS_MAX, "inputs"))
                @for accepted in &study.accepted {
                    p .note { (timestamp(accepted.at_ms)) ": " (accepted_words(&accepted.by, &accepted.note, accepted.inputs.iter().chain(&accepted.tools))) }
                }
                p .note { "A study goes on with these alone, so they hold for every trial. " code { "piton replay STORE CASE" } " runs one again and compares." }
            }
        }
    }
}

fn trials(report: &Report<'_>, options: &Options) -> Markup {
    html! {
        section aria-labelledby="trials" {
            h2 #trials { "All trials" }
            div #table data-case=(report.view.study.base_case) {
                noscript { p .note { "The table needs JavaScript; `piton dump` prints the same." } }
            }
            script #data type="application/json" nonce=(options.nonce) {
                (PreEscaped(table::data(&report.view.spec, &report.gathered, options.artifacts_link.as_deref())))
            }
        }
    }
}
