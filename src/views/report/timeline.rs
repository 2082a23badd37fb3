//! The workers over time: a row a worker, a bar an attempt, one run of the engine after the other.
//!
//! Time between two runs is cut out, and the cut marked: a study that went on after a week is no wider for it.

use maud::{Markup, html};

use super::charts::{Area, as_f64, at, picture};
use super::gather::{Bar, Gathered, Run};
use crate::model::words::counted;
use crate::model::{AttemptOutcome, RunEnd, UnixMs};
use crate::views::text::duration;

/// Most workers drawn.
const SLOTS_MAX: u32 = 64;

/// Up to so many bars say what they are; more are drawn together.
const NAMED_MAX: usize = 500;

/// Between two runs, units of the picture.
const GAP: f64 = 6.0;

/// The picture; `None` if nothing ran.
pub(super) fn timeline(gathered: &Gathered, alive: bool) -> Option<Markup> {
    let slots = gathered.bars.iter().map(|bar| bar.slot + 1).max()?.min(SLOTS_MAX);
    let total_ms: f64 = gathered.runs.iter().map(length).sum();
    if total_ms <= 0.0 {
        return None;
    }
    let row = if slots <= 8 { 18.0 } else { 10.0 };
    let top = 20.0;
    let area = Area {
        width: 760.0,
        height: top + row * f64::from(slots) + 26.0,
        left: 62.0,
        right: 10.0,
        top,
        bottom: 26.0,
    };
    let gaps = GAP * as_f64(gathered.runs.len().saturating_sub(1)).min(60.0);
    let scale = (area.width - area.left - area.right - gaps) / total_ms;
    let step = gaps / as_f64(gathered.runs.len().saturating_sub(1).max(1));
    let mut starts = Vec::with_capacity(gathered.runs.len());
    let mut x = area.left;
    for run in &gathered.runs {
        starts.push(x);
        x += length(run) * scale + step;
    }
    let place = |ms: UnixMs| -> Option<f64> {
        let number = gathered.runs.iter().rposition(|run| run.from_ms <= ms).unwrap_or(0);
        let (run, start) = (gathered.runs.get(number)?, starts.get(number)?);
        Some(start + (since(run.from_ms, ms)).min(length(run)) * scale)
    };
    // Where a bar lies: left end, middle line, width.
    let bar = |bar: &Bar| -> Option<(f64, f64, f64)> {
        let (from, to) = (place(bar.from_ms)?, place(bar.to_ms)?);
        Some((from, top + row * (f64::from(bar.slot) + 0.5), (to - from).max(0.8)))
    };
    let bars: Vec<_> = gathered
        .bars
        .iter()
        .filter(|bar| bar.slot < slots)
        .filter_map(|shown| Some((shown, bar(shown)?)))
        .collect();
    let height = row - 2.0;
    let named = |(shown, (x, y, width)): &(&Bar, (f64, f64, f64))| {
        let took = u64::try_from(shown.to_ms.saturating_sub(shown.from_ms)).unwrap_or(0).saturating_mul(1_000);
        html! {
            rect class=(class(shown.outcome)) x=(at(*x)) y=(at(y - height / 2.0)) width=(at(*width)) height=(at(height)) {
                title { (shown.case) ", attempt " (shown.n) ": " (word(shown.outcome)) ", " (duration(took)) }
            }
        }
    };
    let together = |wanted: &str| {
        let of_class = bars.iter().filter(|(shown, _)| class(shown.outcome) == wanted);
        of_class
            .map(|(_, (x, y, width))| format!("M{} {}h{}", at(*x), at(*y), at(*width)))
            .collect::<Vec<_>>()
            .concat()
    };
    let body = html! {
        @for slot in 0..slots {
            @if slots <= 16 || slot % 8 == 0 {
                text .tick x=(at(area.left - 6.0)) y=(at(top + row * (f64::from(slot) + 0.5) + 4.0)) text-anchor="end" { "worker " (slot) }
            }
        }
        @if bars.len() <= NAMED_MAX {
            @for shown in &bars { (named(shown)) }
        } @else {
            // What went wrong on top.
            @for class in ["ok", "now", "cut", "bad"] {
                path class=(class) d=(together(class)) stroke-width=(at(height)) fill="none" {}
            }
        }
        @for (number, (run, start)) in gathered.runs.iter().zip(&starts).enumerate() {
            line class=(if run.how.is_none() { "run killed" } else { "run" }) x1=(at(*start - 1.0)) x2=(at(*start - 1.0)) y1="6" y2=(at(area.height - area.bottom)) {
                title { "run " (number + 1) }
            }
            @if gathered.runs.len() <= 12 || number == 0 {
                text .tick x=(at(*start + 2.0)) y="14" { "run " (number + 1) }
            }
        }
        text .axis x=(at(area.x(0.5))) y=(at(area.height - 6.0)) text-anchor="middle" {
            (duration(micros(total_ms))) " of running time"
        }
    };
    let told = ends(&gathered.runs, alive);
    Some(picture(&area, "Workers over time", &told, &body))
}

/// How the runs ended, in words.
pub(super) fn ends(runs: &[Run], alive: bool) -> String {
    let killed = runs.iter().filter(|run| run.how.is_none()).count().saturating_sub(usize::from(alive));
    let how =
        |wanted: &[RunEnd]| runs.iter().filter(|run| run.how.is_some_and(|how| wanted.contains(&how))).count();
    let mut parts = vec![counted(runs.len(), "run")];
    for (count, words) in [
        (killed, "killed or cut off"),
        (how(&[RunEnd::Drained]), RunEnd::Drained.name()),
        (how(&[RunEnd::Forced]), RunEnd::Forced.name()),
        (how(&[RunEnd::Failed]), RunEnd::Failed.name()),
        (how(&[RunEnd::Waiting]), "waiting for approval"),
    ] {
        if count > 0 {
            parts.push(format!("{count} {words}"));
        }
    }
    parts.join(", ")
}

fn since(from: UnixMs, to: UnixMs) -> f64 {
    as_f64(usize::try_from(to.saturating_sub(from)).unwrap_or(0))
}

/// Milliseconds; a run of one event still has a width.
fn length(run: &Run) -> f64 {
    since(run.from_ms, run.to_ms).max(1.0)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
fn micros(ms: f64) -> u64 {
    (ms * 1_000.0) as u64
}

fn class(outcome: Option<AttemptOutcome>) -> &'static str {
    match outcome {
        Some(AttemptOutcome::Succeeded) => "ok",
        Some(AttemptOutcome::Failed) => "bad",
        Some(AttemptOutcome::Interrupted | AttemptOutcome::Cancelled) => "cut",
        None => "now",
    }
}

fn word(outcome: Option<AttemptOutcome>) -> &'static str {
    outcome.map_or("running", AttemptOutcome::name)
}
