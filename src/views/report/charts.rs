//! The charts, as SVG that needs no script: they print, scale and can be read aloud.
//!
//! Every text goes through the template's escaping. A chart of more points than [`POINTS_MAX`] draws every n-th, and all
//! survivors.

use maud::{Markup, html};

use super::axis::Axis;
use super::gather::{StageData, TrialData};
use crate::study_file::{Goal, Objective};
use crate::views::number;

/// Most points in one chart, survivors apart.
const POINTS_MAX: usize = 1_200;

/// Most lines in a chart: of parallel coordinates survivors apart, of curves in all.
pub(super) const LINES_MAX: usize = 250;

/// A drawing area in a picture of its own units.
pub(super) struct Area {
    pub(super) width: f64,
    pub(super) height: f64,
    pub(super) left: f64,
    pub(super) right: f64,
    pub(super) top: f64,
    pub(super) bottom: f64,
}

impl Area {
    /// A chart of its own line.
    pub(super) const WIDE: Self =
        Self { width: 760.0, height: 280.0, left: 72.0, right: 16.0, top: 14.0, bottom: 42.0 };
    /// One of several beside each other.
    pub(super) const SMALL: Self =
        Self { width: 370.0, height: 240.0, left: 66.0, right: 12.0, top: 12.0, bottom: 42.0 };

    pub(super) fn x(&self, place: f64) -> f64 {
        self.left + place * (self.width - self.left - self.right)
    }

    pub(super) fn y(&self, place: f64) -> f64 {
        self.height - self.bottom - place * (self.height - self.top - self.bottom)
    }
}

/// Coordinates with one decimal: a pixel's tenth is less than anyone sees.
pub(super) fn at(coordinate: f64) -> String {
    let text = format!("{coordinate:.1}");
    text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
}

/// A picture with its name and what it says, for those who cannot see it.
pub(super) fn picture(area: &Area, name: &str, told: &str, body: &Markup) -> Markup {
    html! {
        svg class=(if area.width > 500.0 { "wide" } else { "small" }) role="img" aria-label={ (name) ". " (told) } viewBox={ "0 0 " (at(area.width)) " " (at(area.height)) } {
            (body)
        }
    }
}

/// Grid lines, ticks and the axes' names.
pub(super) fn frame(area: &Area, x: (&Axis, &str), y: (&Axis, &str)) -> Markup {
    let crowded = x.0.ticks().iter().map(|(_, label)| label.chars().count()).sum::<usize>() > 44;
    html! {
        @for (place, label) in y.0.ticks() {
            line .grid x1=(at(area.left)) x2=(at(area.width - area.right)) y1=(at(area.y(place))) y2=(at(area.y(place))) {}
            text .tick x=(at(area.left - 6.0)) y=(at(area.y(place) + 4.0)) text-anchor="end" { (short(&label, 10)) }
        }
        @for (number, (place, label)) in x.0.ticks().into_iter().enumerate() {
            line .grid x1=(at(area.x(place))) x2=(at(area.x(place))) y1=(at(area.top)) y2=(at(area.height - area.bottom)) {}
            @if !crowded || number % 2 == 0 {
                text .tick x=(at(area.x(place))) y=(at(area.height - area.bottom + 16.0)) text-anchor="middle" { (short(&label, 14)) }
            }
        }
        text .axis x=(at(area.x(0.5))) y=(at(area.height - 6.0)) text-anchor="middle" { (short(x.1, 60)) }
        text .axis transform={ "translate(13 " (at(area.y(0.5))) ") rotate(-90)" } text-anchor="middle" { (short(y.1, 36)) }
    }
}

/// A text that fits, its end marked where it was cut.
pub(super) fn short(text: &str, letters: usize) -> String {
    crate::views::text::fit(text, letters)
}

/// An objective's name and direction.
pub(super) fn objective_words(objective: &Objective) -> String {
    format!("{} ({})", objective.metric, goal_words(objective.goal))
}

pub(super) fn goal_words(goal: Goal) -> &'static str {
    if goal == Goal::Maximize { "larger is better" } else { "smaller is better" }
}

fn tooltip(trial: &TrialData, value: f64) -> String {
    format!("{}: {}", trial.case, number(value))
}

/// Those of a stage's valued trials that are drawn: every survivor, and of the others every n-th.
fn drawn<'d>(trials: &[(&'d TrialData, f64)], most: usize) -> Vec<(usize, &'d TrialData, f64)> {
    let stride = trials.len().div_ceil(most).max(1);
    let kept = trials.iter().enumerate().filter(|(place, (trial, _))| place % stride == 0 || trial.survivor);
    kept.map(|(place, (trial, value))| (place, *trial, *value)).collect()
}

/// A point of a chart, in the picture's units.
struct Dot<'d> {
    x: f64,
    y: f64,
    trial: &'d TrialData,
    told: String,
}

/// Points in one path each: many small circles would be most of the page. Several paths, so that where many lie it is
/// darker.
const POINTS_PER_PATH: usize = 60;

/// The others as dots, then the survivors on top of them, larger and named.
fn dots(dots: &[Dot<'_>]) -> Markup {
    let (survivors, others): (Vec<_>, Vec<_>) = dots.iter().partition(|dot| dot.trial.survivor);
    let path = |dots: &[&Dot<'_>]| {
        dots.iter().map(|dot| format!("M{} {}h0", at(dot.x), at(dot.y))).collect::<Vec<_>>().concat()
    };
    // Every n-th to a path: neighbours are in different ones.
    let paths = others.len().div_ceil(POINTS_PER_PATH).max(1);
    let every = |first: usize| others.iter().skip(first).step_by(paths).copied().collect::<Vec<_>>();
    html! {
        g .points {
            @for first in 0..paths.min(others.len()) { path d=(path(&every(first))) {} }
            @for dot in survivors {
                circle .s cx=(at(dot.x)) cy=(at(dot.y)) r="5" { title { (dot.trial.case) ": " (dot.told) " (survivor)" } }
            }
        }
    }
}

/// The first objective of each trial in the order the trials ended, and the best so far.
pub(super) fn progress(stage: &StageData) -> Option<Markup> {
    let objective = stage.objective()?;
    let trials = stage.by_end();
    let y = Axis::of_numbers(trials.iter().map(|(_, value)| *value))?;
    let x = Axis::Linear { min: 0.0, max: as_f64(trials.len() + 1) };
    let area = Area::WIDE;
    let mut best: Option<f64> = None;
    let mut line = String::new();
    for (place, (_, value)) in trials.iter().enumerate() {
        let (px, improved) =
            (area.x(x.place(as_f64(place + 1))), best.is_none_or(|best| stage.better(*value, best)));
        if improved {
            let py = area.y(y.place(*value));
            line += &if best.is_none() {
                format!("M{} {}", at(px), at(py))
            } else {
                format!("H{}V{}", at(px), at(py))
            };
            best = Some(*value);
        }
    }
    line += &format!("H{}", at(area.x(x.place(as_f64(trials.len())))));
    let points: Vec<_> = drawn(&trials, POINTS_MAX)
        .into_iter()
        .map(|(place, trial, value)| Dot {
            x: area.x(x.place(as_f64(place + 1))),
            y: area.y(y.place(value)),
            trial,
            told: number(value),
        })
        .collect();
    let told = format!(
        "{} trials in the order they ended; the best value is {}",
        trials.len(),
        best.map_or_else(String::new, number)
    );
    let body = html! {
        (frame(&area, (&x, "trials in the order they ended"), (&y, &objective_words(objective))))
        (dots(&points))
        path .best d=(line) {}
    };
    Some(picture(&area, &format!("{} over time", objective.metric), &told, &body))
}

/// One param against the first objective.
pub(super) fn scatter(stage: &StageData, param: &str) -> Option<Markup> {
    let objective = stage.objective()?;
    let trials: Vec<_> = stage.valued().collect();
    let x = Axis::of_values(trials.iter().filter_map(|(trial, _)| trial.params.get(param)))?;
    let y = Axis::of_numbers(trials.iter().map(|(_, value)| *value))?;
    let area = Area::SMALL;
    let points: Vec<_> = drawn(&trials, POINTS_MAX / 2)
        .into_iter()
        .filter_map(|(place, trial, value)| {
            Some(Dot {
                x: area.x(x.place_of(trial.params.get(param)?)?) + jitter(&x, place),
                y: area.y(y.place(value)),
                trial,
                told: number(value),
            })
        })
        .collect();
    let body = html! {
        (frame(&area, (&x, param), (&y, &objective.metric)))
        (dots(&points))
    };
    let told = format!("{} trials; survivors are the large points", trials.len());
    Some(picture(&area, &format!("{} against {param}", objective.metric), &told, &body))
}

/// Words would put all points on one line: they are spread a little, always in the same way.
fn jitter(axis: &Axis, place: usize) -> f64 {
    match axis {
        Axis::Words(_) => as_f64(place * 7 % 13) * 2.0 - 12.0,
        _ => 0.0,
    }
}

/// The first two objectives against each other, with the line of those no other trial beats in both.
pub(super) fn pareto(stage: &StageData) -> Option<Markup> {
    let [first, second, ..] = stage.spec.objectives.as_slice() else { return None };
    let both = stage.trials.iter();
    let mut both: Vec<_> =
        both.filter_map(|t| Some((t, t.number(&first.metric)?, t.number(&second.metric)?))).collect();
    let x = Axis::of_numbers(both.iter().map(|(_, a, _)| *a))?;
    let y = Axis::of_numbers(both.iter().map(|(_, _, b)| *b))?;
    let area = Area::WIDE;
    let cost = |objective: &Objective, value: f64| if objective.goal == Goal::Maximize { -value } else { value };
    both.sort_by(|a, b| {
        let key = |(_, a, b): &(&TrialData, f64, f64)| (cost(first, *a), cost(second, *b));
        let (a, b) = (key(a), key(b));
        a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1))
    });
    let mut least = f64::INFINITY;
    let mut line = String::new();
    for (_, a, b) in &both {
        if cost(second, *b) < least {
            least = cost(second, *b);
            let (px, py) = (at(area.x(x.place(*a))), at(area.y(y.place(*b))));
            line += &if line.is_empty() { format!("M{px} {py}") } else { format!("L{px} {py}") };
        }
    }
    let stride = both.len().div_ceil(POINTS_MAX).max(1);
    let points: Vec<_> = both
        .iter()
        .enumerate()
        .filter(|(place, (trial, ..))| place % stride == 0 || trial.survivor)
        .map(|(_, (trial, a, b))| Dot {
            x: area.x(x.place(*a)),
            y: area.y(y.place(*b)),
            trial,
            told: format!("{}, {}", number(*a), number(*b)),
        })
        .collect();
    let body = html! {
        (frame(&area, (&x, &objective_words(first)), (&y, &objective_words(second))))
        path .best d=(line) {}
        (dots(&points))
    };
    let told = format!("{} trials; the line joins those that no other beats in both", both.len());
    Some(picture(&area, &format!("{} against {}", second.metric, first.metric), &told, &body))
}

/// Params and metrics as parallel axes, a line a trial.
pub(super) fn parallel(stage: &StageData) -> Option<Markup> {
    let trials: Vec<_> = stage.valued().collect();
    let mut axes: Vec<(&str, Axis, bool)> = Vec::new();
    for param in stage.params.iter().take(7) {
        let values = trials.iter().filter_map(|(trial, _)| trial.params.get(param.as_str()));
        axes.extend(Axis::of_values(values).map(|axis| (param.as_str(), axis, true)));
    }
    for metric in stage.metrics.iter().take(3) {
        let numbers = trials.iter().filter_map(|(trial, _)| trial.number(metric));
        axes.extend(Axis::of_numbers(numbers).map(|axis| (metric.as_str(), axis, false)));
    }
    if axes.len() < 3 || trials.len() < 2 {
        return None;
    }
    let area = Area { left: 46.0, right: 46.0, top: 34.0, bottom: 18.0, ..Area::WIDE };
    let column = |number: usize| area.x(as_f64(number) / as_f64(axes.len() - 1));
    let line = |trial: &TrialData| {
        let mut path = String::new();
        for (number, (name, axis, is_param)) in axes.iter().enumerate() {
            let place = match is_param {
                true => trial.params.get(*name).and_then(|value| axis.place_of(value)),
                false => trial.number(name).map(|number| axis.place(number)),
            };
            let Some(place) = place else { continue };
            let letter = if path.is_empty() { 'M' } else { 'L' };
            path += &format!("{letter}{} {}", at(column(number)), at(area.y(place)));
        }
        path
    };
    let mut lines = drawn(&trials, LINES_MAX);
    // Survivors last, on top.
    lines.sort_by_key(|(_, trial, _)| trial.survivor);
    let body = html! {
        g .lines {
            @for (_, trial, value) in &lines {
                @if trial.survivor {
                    path .s d=(line(trial)) { title { (tooltip(trial, *value)) " (survivor)" } }
                } @else {
                    path d=(line(trial)) {}
                }
            }
        }
        @for (number, (name, axis, _)) in axes.iter().enumerate() {
            line .rule x1=(at(column(number))) x2=(at(column(number))) y1=(at(area.top)) y2=(at(area.height - area.bottom)) {}
            text .axis x=(at(column(number))) y="16" text-anchor="middle" { (short(name, 14)) }
            @for (place, label) in axis.ticks() {
                text .tick .halo x=(at(column(number) + 4.0)) y=(at(area.y(place) + 4.0)) { (short(&label, 9)) }
            }
        }
    };
    let told = format!("{} trials as lines over {} axes; survivors are drawn bold", trials.len(), axes.len());
    Some(picture(&area, "Params and metrics", &told, &body))
}

#[expect(clippy::cast_precision_loss, reason = "places on a screen")]
pub(super) fn as_f64(number: usize) -> f64 {
    number as f64
}
