//! What the trials of a stage reported while they ran: a chart a metric, a line a trial.
//!
//! Which trials are read, and what of their reports is drawn, is a function of the results; those that run come to it as they are
//! now. However many trials there are and however much they report, a page reads and draws a bounded part.

use std::cmp::Ordering;
use std::collections::HashMap;

use maud::{Markup, html};

use super::axis::Axis;
use super::charts::{Area, LINES_MAX, at, frame, picture};
use super::gather::{StageData, TrialData, anchor};
use crate::model::{TrialId, TrialState};
use crate::views::curve::Curve;
use crate::views::progress::Reports;
use crate::views::{StudyView, counted, number};

/// Lines of all stages of a page together, about, in each of their charts.
const LINES_ALL: usize = 1_000;
/// A stage has so many in any case.
const LINES_LEAST: usize = 25;

/// Of the reports of a stage about so many bytes are read,
const BYTES_ALL: u64 = 16 << 20;
/// of a trial that reports more at least so many, spread over all that there is,
const BYTES_LEAST: u64 = 64 << 10;
/// and at most so many.
const BYTES_MOST: u64 = 256 << 10;

/// Most metrics that are read of a stage's reports,
const METRICS_READ: usize = 12;
/// and most that are drawn.
const METRICS_DRAWN: usize = 5;

/// Most names of others that are listed.
const NAMES_MAX: usize = 20;

/// The curves of a stage.
#[derive(Debug, Default)]
pub(super) struct Curves {
    /// By metric: those that tell most first.
    metrics: Vec<(String, Vec<Line>)>,
    /// Whether trials reported others, beyond those that are read.
    others: bool,
    /// Whether reports were left out of some.
    thinned: bool,
    /// Trials of whose output only the beginning was read.
    cut: usize,
    /// Trials that began.
    begun: usize,
    /// Of those, how many were asked for their reports.
    asked: usize,
}

/// A trial's curve.
#[derive(Debug)]
struct Line {
    case: String,
    end: End,
    points: Vec<(u64, f64)>,
}

/// What became of a trial, in the order in which they are drawn: the last ones on top.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Pruned,
    Cut,
    Ended,
    Running,
    Survivor,
}

impl End {
    const ALL: [Self; 5] = [Self::Survivor, Self::Running, Self::Ended, Self::Pruned, Self::Cut];

    fn of(trial: &TrialData) -> Self {
        match trial.state {
            _ if trial.survivor => Self::Survivor,
            TrialState::Pruned => Self::Pruned,
            TrialState::Running => Self::Running,
            TrialState::Succeeded | TrialState::Undecided => Self::Ended,
            TrialState::Failed | TrialState::Cancelled | TrialState::Pending => Self::Cut,
        }
    }

    fn class(self) -> &'static str {
        match self {
            Self::Pruned => "pruned",
            Self::Cut => "off",
            Self::Ended => "ended",
            Self::Running => "runs",
            Self::Survivor => "s",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Pruned => "pruned",
            Self::Cut => "failed or cut off",
            Self::Ended => "ended by itself",
            Self::Running => "runs",
            Self::Survivor => "survivor",
        }
    }

    /// What marks the end of a line, so that none is known by its colour alone.
    fn mark(self, x: f64, y: f64) -> Markup {
        match self {
            Self::Survivor => html! { circle .(self.class()) cx=(at(x)) cy=(at(y)) r="4" {} },
            Self::Running => html! { circle .(self.class()) cx=(at(x)) cy=(at(y)) r="3.5" {} },
            Self::Pruned => {
                let (left, top) = (at(x - 3.0), at(y - 3.0));
                html! { path .mark .(self.class()) d={ "M" (left) " " (top) "l6 6m0 -6l-6 6" } {} }
            }
            Self::Cut | Self::Ended => html! {},
        }
    }
}

/// Reads the curves of a stage; `stages`: how many have a part in the page.
pub(super) fn read(view: &StudyView, stage: &StageData, stages: usize) -> Curves {
    let most = LINES_MAX.min((LINES_ALL / stages.max(1)).max(LINES_LEAST));
    let (chosen, begun) = chosen(stage, most);
    let mut found = Curves { begun, asked: chosen.len(), ..Curves::default() };
    let rungs = stage.spec.halving.as_ref().map_or(&[][..], |halving| &halving.rungs);
    let mut names: Vec<String> = stage.spec.telling_metrics().into_iter().map(str::to_owned).collect();
    let telling = names.len();
    let mut lines: HashMap<String, Vec<Line>> = HashMap::new();
    let bytes = (BYTES_ALL / chosen.len().max(1) as u64).clamp(BYTES_LEAST, BYTES_MOST);
    for trial in chosen {
        let mut curves: HashMap<String, Curve> = HashMap::new();
        let id = TrialId(stage.row.first_trial.0.saturating_add(trial.index));
        let reports = Reports::of(view, id, trial.attempts, trial.state != TrialState::Running);
        let cut = reports.each_of_parts(bytes, |report| {
            if trial.counts_until.is_some_and(|until| report.step > until) {
                return;
            }
            for (name, value) in report.metrics {
                if !names.contains(&name) {
                    if names.len() >= telling + METRICS_READ {
                        found.others = true;
                        continue;
                    }
                    names.push(name.clone());
                }
                curves.entry(name).or_insert_with(|| Curve::new(rungs)).take(report.step, value);
            }
        });
        found.cut += usize::from(cut);
        // What is recorded of it is there when its files are gone.
        if let Some(halving) = &stage.spec.halving
            && curves.is_empty()
        {
            let mut curve = Curve::new(rungs);
            trial.rungs.iter().for_each(|rung| curve.take(rung.step, rung.value));
            curves.insert(halving.metric.clone(), curve);
        }
        for (name, curve) in curves {
            found.thinned |= curve.is_thinned();
            let points = curve.points();
            if !points.is_empty() {
                let line = Line { case: trial.case.clone(), end: End::of(trial), points };
                lines.entry(name).or_default().push(line);
            }
        }
    }
    let first = |name: &String| names.iter().take(telling).position(|known| known == name).unwrap_or(telling);
    found.metrics = lines.into_iter().collect();
    found.metrics.sort_by(|(a, of_a), (b, of_b)| {
        first(a).cmp(&first(b)).then(of_b.len().cmp(&of_a.len())).then_with(|| a.cmp(b))
    });
    found
}

/// The trials that are asked for their reports, and how many began. Of each kind the best have a share of the places, and what
/// one kind does not need the others get.
fn chosen(stage: &StageData, most: usize) -> (Vec<&TrialData>, usize) {
    let mut kinds: [Vec<&TrialData>; 5] = End::ALL.map(|_| Vec::new());
    for trial in stage.trials.iter().filter(|trial| trial.attempts > 0) {
        let kind = End::ALL.iter().position(|end| *end == End::of(trial));
        if let Some(kind) = kind.and_then(|kind| kinds.get_mut(kind)) {
            kind.push(trial);
        }
    }
    let begun = kinds.iter().map(Vec::len).sum();
    for kind in &mut kinds {
        kind.sort_by(|a, b| better_first(stage, a, b));
    }
    // In the order of `End::ALL`.
    let shares = [3, 2, 2, 2, 1].map(|tenths| most * tenths / 10);
    let mut taken = [0; 5];
    let mut left = most;
    for shares in [shares, [most; 5]] {
        for ((kind, share), taken) in kinds.iter().zip(shares).zip(&mut taken) {
            let more = share.min(kind.len()).saturating_sub(*taken).min(left);
            (*taken, left) = (*taken + more, left - more);
        }
    }
    (kinds.iter().zip(taken).flat_map(|(kind, taken)| kind.iter().take(taken).copied()).collect(), begun)
}

/// Those with better values of the first objective first; then those that came further, and were better there.
fn better_first(stage: &StageData, a: &TrialData, b: &TrialData) -> Ordering {
    let value = |trial: &TrialData| trial.number(&stage.objective()?.metric);
    let by_value = match (value(a), value(b)) {
        (Some(a), Some(b)) if stage.better(a, b) => Ordering::Less,
        (Some(a), Some(b)) if stage.better(b, a) => Ordering::Greater,
        (a, b) => b.is_some().cmp(&a.is_some()),
    };
    let rung = |trial: &TrialData| {
        let last = trial.rungs.last()?;
        Some((last.at, stage.spec.halving.as_ref().map_or(0.0, |halving| halving.cost(last.value))))
    };
    let by_rung = match (rung(a), rung(b)) {
        (Some((at, cost)), Some((other_at, other))) => other_at.cmp(&at).then(cost.total_cmp(&other)),
        (a, b) => b.is_some().cmp(&a.is_some()),
    };
    by_value.then(by_rung).then(a.index.cmp(&b.index))
}

/// The charts; nothing where nobody reported.
pub(super) fn section(stage: &StageData) -> Markup {
    let curves = &stage.curves;
    let drawn = curves.metrics.iter().take(METRICS_DRAWN);
    let pictures: Vec<Markup> =
        drawn.enumerate().filter_map(|(n, (name, lines))| chart(stage, name, lines, n == 0)).collect();
    let Some((first, rest)) = pictures.split_first() else { return html! {} };
    let ends = |end: &End| {
        curves.metrics.iter().take(METRICS_DRAWN).any(|(_, lines)| lines.iter().any(|line| line.end == *end))
    };
    html! {
        figure .of-curves tabindex="0" id={ "curves-" (anchor(stage.row.index)) } {
            figcaption { "What trials reported while they ran, a line a trial" }
            p .legend {
                @for end in End::ALL.iter().filter(|end| ends(end)) {
                    span .curve-key {
                        svg .sample viewBox="0 0 34 12" aria-hidden="true" {
                            g .curves { path .(end.class()) d="M1 6h28" {} (end.mark(28.0, 6.0)) }
                        }
                        (end.words())
                    }
                }
                @if stage.spec.halving.is_some() {
                    span .curve-key { svg .sample viewBox="0 0 34 12" aria-hidden="true" { line .rung x1="17" x2="17" y1="0" y2="12" {} } "rung" }
                }
            }
            (first)
            @if !rest.is_empty() { div .grid2 { @for picture in rest { (picture) } } }
            p .note { (told(stage)) }
        }
    }
}

/// What is drawn, and what is not.
fn told(stage: &StageData) -> String {
    let curves = &stage.curves;
    let (begun, asked, halves) = (curves.begun, curves.asked, stage.spec.halving.is_some());
    let mut told = match curves.metrics.iter().map(|(_, lines)| lines.len()).max().unwrap_or(0) {
        lines if asked < begun => {
            let further = if halves { ", of those without a value those that came furthest" } else { "" };
            format!("{lines} of {begun} trials are drawn: of each kind the best by the first objective{further}.")
        }
        lines if lines < begun => format!("{lines} of {begun} trials have reported, and are drawn."),
        _ => format!("Drawn: {}, all that began.", counted(begun as u64, "trial")),
    };
    if curves.thinned {
        told.push_str(" Reports are thinned out evenly");
        told.push_str(if halves { ", but never those at rungs." } else { "." });
    }
    if curves.cut > 0 {
        let trials = counted(curves.cut as u64, "trial");
        told.push_str(&format!(
            " Of what {trials} printed only the beginning is read, since steps are counted there: "
        ));
        told.push_str(if curves.cut == 1 { "its curve ends early." } else { "their curves end early." });
    }
    let rest: Vec<&str> = curves.metrics.iter().skip(METRICS_DRAWN).map(|(name, _)| name.as_str()).collect();
    if !rest.is_empty() || curves.others {
        let more = if rest.len() > NAMES_MAX || curves.others { ", and more" } else { "" };
        let names = rest.get(..NAMES_MAX).unwrap_or(&rest).join(", ");
        told.push_str(&format!(" Reported as well: {names}{more}."));
    }
    told
}

/// A metric over steps.
fn chart(stage: &StageData, metric: &str, lines: &[Line], wide: bool) -> Option<Markup> {
    let steps = || lines.iter().flat_map(|line| &line.points).map(|(step, _)| as_f64(*step));
    let (first, last) =
        steps().fold((f64::INFINITY, 0.0_f64), |(first, last), step| (first.min(step), last.max(step)));
    if first > last {
        return None;
    }
    // From 0 on, unless that is far away.
    let first = if first * 4.0 <= last || first == last { 0.0 } else { first };
    let x = Axis::Linear { min: first, max: if last > first { last } else { first + 1.0 } };
    let (y, beyond) = scale(lines.iter().flat_map(|line| &line.points).map(|(_, value)| *value).collect())?;
    let area = if wide { Area::WIDE } else { Area::SMALL };
    let place = |(step, value): &(u64, f64)| (area.x(x.place(as_f64(*step))), area.y(y.place(*value)));
    let path = |line: &Line| {
        let mut path = String::new();
        for point in &line.points {
            let (px, py) = place(point);
            path.push_str(if path.is_empty() { "M" } else { " " });
            path.push_str(&format!("{} {}", at(px), at(py)));
        }
        // A curve of one point is a dot.
        if line.points.len() == 1 { path + "h0" } else { path }
    };
    let mut sorted: Vec<&Line> = lines.iter().collect();
    // The best of a kind, which come first, on top.
    sorted.reverse();
    sorted.sort_by_key(|line| line.end);
    let rungs = stage.spec.halving.as_ref().map_or(&[][..], |halving| &halving.rungs);
    let goal = match stage.spec.goal_of(metric) {
        Some(goal) => format!("{metric} ({})", super::charts::goal_words(goal)),
        None => metric.to_owned(),
    };
    let body = html! {
        (frame(&area, (&x, "step"), (&y, if wide { &goal } else { metric })))
        @for rung in rungs.iter().map(|rung| as_f64(*rung)).filter(|rung| (first..=last).contains(rung)) {
            line .rung x1=(at(area.x(x.place(rung)))) x2=(at(area.x(x.place(rung)))) y1=(at(area.top)) y2=(at(area.height - area.bottom)) {
                title { "rung at step " (rung) }
            }
        }
        g .curves {
            @for line in &sorted {
                path .(line.end.class()) d=(path(line)) {
                    @if let Some((step, value)) = line.points.last() { title { (line.case) ", " (line.end.words()) ": " (number(*value)) " at step " (step) } }
                }
                @if let Some(point) = line.points.last() { @let (px, py) = place(point); (line.end.mark(px, py)) }
            }
        }
    };
    let kinds: Vec<String> = End::ALL
        .iter()
        .map(|end| (end.words(), lines.iter().filter(|line| line.end == *end).count()))
        .filter(|(_, count)| *count > 0)
        .map(|(words, count)| format!("{words}: {count}"))
        .collect();
    let told = format!("{}. {}", counted(lines.len() as u64, "trial"), kinds.join(", "));
    Some(html! {
        div {
            (picture(&area, &format!("{metric} over step"), &told, &body))
            @if beyond { p .note { (metric) ": a few values lie far from all others, and are drawn at the edge." } }
        }
    })
}

/// A scale for values, and whether some lie beyond it: a few that are far from all others would leave those no room.
fn scale(mut values: Vec<f64>) -> Option<(Axis, bool)> {
    values.sort_by(f64::total_cmp);
    let (low, high) = (*values.first()?, *values.last()?);
    let place = |tenths: usize| values.get((values.len() - 1) * tenths / 20).copied();
    let (inner_low, inner_high) = (place(1)?, place(19)?);
    let reach = (inner_high - inner_low) * 10.0;
    let (from, to) = (low.max(inner_low - reach), high.min(inner_high + reach));
    let is_log = low > 0.0 && high / low < 1e12;
    if is_log || reach <= 0.0 || !reach.is_finite() || (from <= low && to >= high) {
        return Some((Axis::of_numbers(values.into_iter())?, false));
    }
    // As far as those that are near go.
    let near = values.iter().copied().filter(|value| (from..=to).contains(value));
    Some((Axis::of_numbers(near)?, true))
}

#[expect(clippy::cast_precision_loss, reason = "places on a screen")]
fn as_f64(step: u64) -> f64 {
    step as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_values_far_away_leave_the_others_their_room() {
        let many = || (0..100).map(f64::from);
        let (axis, beyond) = scale(many().chain([1e30, -1e300]).collect()).unwrap();
        assert!(beyond && axis.place(90.0) - axis.place(10.0) > 0.5, "{axis:?}");
        let (axis, beyond) = scale(many().chain([150.0]).collect()).unwrap();
        assert!(!beyond && axis.place(150.0) < 1.0, "{axis:?}");
        let (axis, beyond) = scale((0..9).map(|n| 10_f64.powi(-n)).collect()).unwrap();
        assert!(!beyond && matches!(axis, Axis::Log { .. }), "{axis:?}");
        assert!(!scale(vec![5.0; 9]).unwrap().1 && scale(Vec::new()).is_none());
    }
}
