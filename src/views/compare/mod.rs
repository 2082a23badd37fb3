//! `compare`: whether a study got worse than a baseline, case by case. A gate for continuous integration.
//!
//! Each trial of the baseline that has a result is looked up in the study by its case's name. A case that is gone, that
//! has no result, that fails though it did not, that has other params, or a metric that moved for the worse by more than
//! is allowed, is a regression. Trials are compared as they are read, neither side is held, unless cases have replicas or are
//! matched by params (`replicas.rs`). Nothing here may let a comparison of nothing pass.

mod baseline;
mod json;
mod limits;
mod record;
mod replicas;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use serde::Serialize;

use super::dump::value_text;
use super::text::{clean, counted};
use super::{StudyView, TrialSummary, ViewError};
use crate::journal::Snapshot;
use crate::model::{Params, StageRow, TrialState, Value};
use baseline::{BaselineTrial, metric_names, numbers};

pub use baseline::{Baseline, is_store, save_baseline, write_baseline};
#[cfg(test)]
pub(super) use json::Compared;
pub use limits::{Limits, Moved, Tolerance};
pub use record::{Difference, differences};
pub use replicas::{Between, Replicas};

/// What one line of a comparison comes to.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Finding {
    /// The metric is what it was, or within what is allowed.
    Same,
    /// The metric moved for the better by more than the tolerance.
    Better,
    /// The metric moved for the worse by more than the tolerance.
    Worse,
    /// The metric moved by more than the tolerance, and has no direction.
    Changed,
    /// The metric was there, and is not any more.
    MetricMissing,
    /// The metric was not there before.
    MetricNew,
    /// The case failed, and does not any more.
    Fixed,
    /// The case did not fail, and does now.
    Failing,
    /// The case failed before, and does now.
    StillFailing,
    /// The case has no result yet, or was cancelled.
    Unfinished,
    /// The case is not planned any more.
    Missing,
    /// The case has other params: its metrics say nothing about the baseline's.
    OtherParams,
    /// The case was not in the baseline.
    New,
    /// The replicas say that the metric moved by no more than is allowed.
    Equivalent,
    /// The replicas are too few, or too mixed, to say anything.
    Inconclusive,
}

impl Finding {
    /// In words, for a table.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Better => "better",
            Self::Worse => "worse",
            Self::Changed => "changed",
            Self::MetricMissing => "metric missing",
            Self::MetricNew => "new metric",
            Self::Fixed => "fixed",
            Self::Failing => "fails now",
            Self::StillFailing => "still fails",
            Self::Unfinished => "no result",
            Self::Missing => "missing",
            Self::OtherParams => "other params",
            Self::New => "new case",
            Self::Equivalent => "equivalent",
            Self::Inconclusive => "inconclusive",
        }
    }

    /// Whether it fails the gate.
    #[must_use]
    pub const fn is_regression(self, allow_missing: bool) -> bool {
        match self {
            Self::Worse | Self::Changed | Self::Failing => true,
            Self::MetricMissing | Self::Unfinished | Self::Missing | Self::OtherParams => !allow_missing,
            Self::Same | Self::Better | Self::MetricNew | Self::Fixed | Self::StillFailing | Self::New => false,
            Self::Equivalent | Self::Inconclusive => false,
        }
    }

    /// Whether something got better.
    #[must_use]
    pub const fn is_improvement(self) -> bool {
        matches!(self, Self::Better | Self::Fixed)
    }
}

impl From<Moved> for Finding {
    fn from(moved: Moved) -> Self {
        match moved {
            Moved::Within => Self::Same,
            Moved::Better => Self::Better,
            Moved::Worse => Self::Worse,
            Moved::Changed => Self::Changed,
        }
    }
}

/// One line of a comparison: a metric of a case, or a case as a whole.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Row {
    /// `<base_case>_<stage_index>_<derived_index>`, the same in both.
    pub case: String,
    /// The metric; `None` for what is said of the whole case.
    pub metric: Option<String>,
    /// `None`: the baseline has no such metric or case.
    pub baseline: Option<f64>,
    /// `None`: the study has no such metric or case.
    pub now: Option<f64>,
    /// `now - baseline`.
    pub delta: Option<f64>,
    /// The larger of the absolute and the relative tolerance, as a difference of the metric.
    pub allowed: Option<f64>,
    /// What it comes to.
    pub finding: Finding,
    /// Whether it fails the gate.
    pub regression: bool,
    /// What else there is to say.
    pub detail: Option<String>,
    /// How the replicas compare, where both sides have some. Then `baseline` and `now` are what those in pairs come to together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<Replicas>,
}

/// What a comparison comes to.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Totals {
    /// Cases of the baseline that have a result there.
    pub cases: u64,
    /// Those of them that have a result here too, with the same params.
    pub compared: u64,
    /// Lines that fail the gate.
    pub regressions: u64,
    /// Lines that got better.
    pub improvements: u64,
    /// All other lines.
    pub unchanged: u64,
    /// Lines that are inconclusive, and pass.
    pub undecided: u64,
    /// Lines of which both sides have replicas: evidence judges them.
    pub paired: u64,
    /// Lines of which only one side has replicas: the tolerance alone judges them.
    pub without_replicas: u64,
}

impl Totals {
    fn add(&mut self, row: &Row) {
        if row.regression {
            self.regressions += 1;
        } else if row.finding.is_improvement() {
            self.improvements += 1;
        } else if row.finding == Finding::Inconclusive {
            self.undecided += 1;
        } else {
            self.unchanged += 1;
        }
    }
}

/// A study's stage beside a baseline's.
#[derive(Debug)]
pub struct Comparison<'a> {
    view: &'a StudyView,
    snapshot: &'a Snapshot,
    stage: &'a StageRow,
    baseline: &'a Baseline<'a>,
    limits: Limits,
}

/// The stage of that name; the last one if none is given.
///
/// # Errors
/// [`ViewError::Request`] with the nearest name there is.
pub fn stage_of<'a>(view: &'a StudyView, name: Option<&str>) -> Result<&'a StageRow, ViewError> {
    let names = || view.stages.iter().map(|stage| stage.name.as_str());
    let found = match name {
        None => view.stages.last(),
        Some(name) => view.stages.iter().find(|stage| stage.name == name),
    };
    found.ok_or_else(|| ViewError::Request(unknown("the study has no stage", name.unwrap_or(""), names())))
}

/// Refuses names of metrics that no trial of these stages has as a number; and, of those that are to be compared alone,
/// the ones that the baseline does not have: comparing them would compare nothing.
///
/// # Errors
/// [`ViewError::Request`] with the nearest name there is, and whatever reading fails with.
pub fn check_metrics(
    view: &StudyView,
    snapshot: &Snapshot,
    stages: &[&StageRow],
    baseline: Option<&Baseline<'_>>,
    limits: &Limits,
) -> Result<(), ViewError> {
    if limits.named().next().is_none() {
        return Ok(());
    }
    let (mut here, mut there) = (BTreeSet::new(), BTreeSet::new());
    for stage in stages {
        if let Some(spec) = view.spec.stages.get(stage.index as usize) {
            here.extend(spec.objectives.iter().map(|objective| objective.metric.clone()));
            here.extend(spec.metrics.keys().cloned());
        }
        let end = stage.end();
        for row in snapshot.trials(stage.first_trial, end)? {
            let row = row?;
            here.extend(numbers(&row.metrics).into_keys().map(str::to_owned));
        }
        if let Some(baseline) = baseline {
            metric_names(baseline, &stage.name, &mut there)?;
        }
    }
    let known = || here.union(&there).map(String::as_str);
    let nowhere = limits.named().filter(|name| !here.contains(*name) && !there.contains(*name));
    let mut wrong: Vec<String> =
        nowhere.map(|name| unknown("no trial has a number called", name, known())).collect();
    let new =
        limits.only.iter().filter(|name| baseline.is_some() && here.contains(*name) && !there.contains(*name));
    wrong.extend(new.map(|name| {
        unknown("no trial of the baseline has a number called", name, there.iter().map(String::as_str))
    }));
    if wrong.is_empty() { Ok(()) } else { Err(ViewError::Request(wrong.join("; "))) }
}

/// `… no stage `x`; did you mean `y`?`, or what there is.
fn unknown<'n>(what: &str, name: &str, valid: impl Iterator<Item = &'n str>) -> String {
    const LISTED: usize = 12;
    let valid: Vec<&str> = valid.collect();
    let similarity = |candidate: &str| strsim::normalized_damerau_levenshtein(name, candidate);
    let nearest = valid.iter().copied().max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
    let mut text = format!("{what} `{}`", clean(name));
    match nearest.filter(|nearest| similarity(nearest) > 0.5) {
        Some(nearest) => text += &format!("; did you mean `{}`?", clean(nearest)),
        None if valid.is_empty() => {}
        None => {
            let listed: Vec<String> = valid.iter().take(LISTED).map(|name| format!("`{}`", clean(name))).collect();
            let more = if valid.len() > LISTED { ", …" } else { "" };
            text += &format!("; there is {}{more}", listed.join(", "));
        }
    }
    text
}

impl<'a> Comparison<'a> {
    /// The study's name, and the stage's.
    #[must_use]
    pub fn names(&self) -> (&str, &str) {
        (&self.view.study.name, &self.stage.name)
    }

    /// Makes sure that there is something to compare. A metric that is an objective of the stage has the direction of
    /// its goal, unless `limits` say otherwise.
    ///
    /// # Errors
    /// [`ViewError::Request`] for a stage that the baseline does not have and for unknown metrics, and whatever reading
    /// fails with.
    pub fn new(
        view: &'a StudyView,
        snapshot: &'a Snapshot,
        stage: &'a StageRow,
        baseline: &'a Baseline<'a>,
        mut limits: Limits,
    ) -> Result<Self, ViewError> {
        if !baseline.has_stage(&stage.name) {
            let why = unknown("the baseline has no stage", &stage.name, baseline.stage_names());
            return Err(ViewError::Request(why));
        }
        check_metrics(view, snapshot, &[stage], Some(baseline), &limits)?;
        let objectives = view.spec.stages.get(stage.index as usize).map_or(&[][..], |stage| &stage.objectives);
        for objective in objectives {
            limits.directions.entry(objective.metric.clone()).or_insert(objective.goal);
        }
        Ok(Self { view, snapshot, stage, baseline, limits })
    }

    /// What [`Comparison::new`] has accepted before, with the limits that it made.
    pub(crate) fn of_known(
        view: &'a StudyView,
        snapshot: &'a Snapshot,
        stage: &'a StageRow,
        baseline: &'a Baseline<'a>,
        limits: &Limits,
    ) -> Self {
        Self { view, snapshot, stage, baseline, limits: limits.clone() }
    }

    #[cfg(feature = "report")]
    pub(super) const fn view(&self) -> &'a StudyView {
        self.view
    }

    /// The state of it that is compared.
    #[cfg(feature = "report")]
    pub(super) const fn snapshot(&self) -> &'a Snapshot {
        self.snapshot
    }

    /// The limits, with the objectives' directions.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Compares; `each` gets every line, those of one case together.
    ///
    /// # Errors
    /// [`ViewError::Request`] when nothing could be compared, whatever `each` fails with, and whatever reading fails
    /// with.
    pub fn run(&self, each: &mut dyn FnMut(&Row) -> Result<(), ViewError>) -> Result<Totals, ViewError> {
        if self.is_gathered()? {
            return self.run_gathered(each);
        }
        let mut totals = Totals::default();
        let mut seen = Seen::of(self.stage.planned());
        self.baseline.for_each(&self.stage.name, &mut |old| {
            totals.cases += 1;
            self.case(&old, &mut seen, &mut totals, each)
        })?;
        self.something(&totals)?;
        self.new_cases(&seen, &mut totals, each)?;
        Ok(totals)
    }

    /// Refuses a comparison of nothing.
    fn something(&self, totals: &Totals) -> Result<(), ViewError> {
        if totals.cases == 0 {
            let stage = clean(&self.stage.name);
            return Err(ViewError::Request(format!("the baseline has no result of stage `{stage}`")));
        }
        if totals.compared == 0 && totals.regressions == 0 {
            let cases = counted(totals.cases, "case");
            return Err(ViewError::Request(format!("none of the baseline's {cases} can be compared")));
        }
        Ok(())
    }

    fn case(
        &self,
        old: &BaselineTrial,
        seen: &mut Seen,
        totals: &mut Totals,
        each: &mut dyn FnMut(&Row) -> Result<(), ViewError>,
    ) -> Result<(), ViewError> {
        let mut tell = |row: Row| {
            totals.add(&row);
            each(&row)
        };
        let trial = self.view.lineage().find_case(&old.case).filter(|trial| self.stage.contains(*trial));
        let planned = match trial {
            Some(trial) => self.view.trial(self.snapshot, trial)?,
            None => None,
        };
        let Some(now) = planned else { return tell(self.whole(&old.case, Finding::Missing, None)) };
        if !seen.insert(now.index) {
            return Err(self.baseline.wrong(format!("has the case `{}` twice", clean(&old.case))));
        }
        if let Some(detail) = params_differ(&old.params, &now.params()) {
            return tell(self.whole(&old.case, Finding::OtherParams, Some(detail)));
        }
        let finding = match (&old.failure, now.counted_state()) {
            (
                _,
                TrialState::Pending
                | TrialState::Running
                | TrialState::Cancelled
                | TrialState::Pruned
                | TrialState::Undecided,
            ) => {
                let state = now.counted_state().name().to_owned();
                return tell(self.whole(&old.case, Finding::Unfinished, Some(state)));
            }
            (None, TrialState::Succeeded) => None,
            (None, TrialState::Failed) => Some((Finding::Failing, failure_of(&now))),
            (Some(kind), TrialState::Succeeded) => Some((Finding::Fixed, Some(format!("was {}", clean(kind))))),
            (Some(_), TrialState::Failed) => Some((Finding::StillFailing, failure_of(&now))),
        };
        if let Some((finding, detail)) = finding {
            tell(self.whole(&old.case, finding, detail))?;
        } else {
            self.metrics(old, &now, &mut tell)?;
        }
        totals.compared += 1;
        Ok(())
    }

    fn metrics(
        &self,
        old: &BaselineTrial,
        now: &TrialSummary<'_>,
        tell: &mut dyn FnMut(Row) -> Result<(), ViewError>,
    ) -> Result<(), ViewError> {
        let here = numbers(now.metrics());
        let names: BTreeSet<&str> = old.metrics.keys().map(String::as_str).chain(here.keys().copied()).collect();
        for name in names.into_iter().filter(|name| self.limits.includes(name)) {
            let (before, after) = (old.metrics.get(name).copied(), here.get(name).copied());
            let finding = match (before, after) {
                (Some(before), Some(after)) => self.limits.judge(name, before, after).into(),
                (Some(_), None) => Finding::MetricMissing,
                (None, _) => Finding::MetricNew,
            };
            tell(Row {
                metric: Some(name.to_owned()),
                baseline: before,
                now: after,
                delta: before.zip(after).map(|(before, after)| after - before),
                allowed: before.map(|before| self.limits.allowed(name, before)),
                ..self.whole(&old.case, finding, None)
            })?;
        }
        Ok(())
    }

    /// The cases with a result that the baseline does not have.
    fn new_cases(
        &self,
        seen: &Seen,
        totals: &mut Totals,
        each: &mut dyn FnMut(&Row) -> Result<(), ViewError>,
    ) -> Result<(), ViewError> {
        for trial in self.view.trials(self.snapshot, self.stage)? {
            let trial = trial?;
            if trial.has_result() && !seen.contains(trial.index) {
                let row = self.whole(&trial.case(), Finding::New, failure_of(&trial));
                totals.add(&row);
                each(&row)?;
            }
        }
        Ok(())
    }

    fn whole(&self, case: &str, finding: Finding, detail: Option<String>) -> Row {
        Row {
            case: case.to_owned(),
            metric: None,
            baseline: None,
            now: None,
            delta: None,
            allowed: None,
            finding,
            regression: finding.is_regression(self.limits.allow_missing),
            detail,
            replicas: None,
        }
    }
}

fn failure_of(trial: &TrialSummary<'_>) -> Option<String> {
    trial.failure().map(|failure| format!("{}: {}", failure.kind, clean(&failure.reason)))
}

/// How params differ, in words; `None` if they do not. `1` and `1.0` are the same number.
fn params_differ(before: &Params, now: &Params) -> Option<String> {
    const SHOWN: usize = 3;
    let names: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    let different: Vec<&String> =
        names.into_iter().filter(|name| !alike(before.get(*name), now.get(*name))).collect();
    if different.is_empty() {
        return None;
    }
    let text = |value: Option<&Value>| value.map_or_else(|| "none".into(), |value| clean(&value_text(value)));
    let shown: Vec<String> = different
        .iter()
        .take(SHOWN)
        .map(|name| format!("{} {} → {}", clean(name), text(before.get(*name)), text(now.get(*name))))
        .collect();
    let more = different.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Some(format!("{}{more}", shown.join(", ")))
}

#[expect(clippy::cast_precision_loss, reason = "an integer is compared with a float as far as a float tells")]
fn alike(before: Option<&Value>, now: Option<&Value>) -> bool {
    match (before, now) {
        (Some(Value::Int(integer)), Some(Value::Float(float)))
        | (Some(Value::Float(float)), Some(Value::Int(integer))) => *integer as f64 == *float,
        (before, now) => before == now,
    }
}

/// Which cases of a stage were met: one bit each.
struct Seen(Vec<u64>);

impl Seen {
    fn of(planned: u64) -> Self {
        Self(vec![0; usize::try_from(planned.div_ceil(64)).unwrap_or(0)])
    }

    /// Whether it was not met before.
    fn insert(&mut self, index: u64) -> bool {
        let bit = 1 << (index % 64);
        let word = usize::try_from(index / 64).ok().and_then(|place| self.0.get_mut(place));
        word.is_some_and(|word| {
            let new = *word & bit == 0;
            *word |= bit;
            new
        })
    }

    fn contains(&self, index: u64) -> bool {
        let word = usize::try_from(index / 64).ok().and_then(|place| self.0.get(place));
        word.is_some_and(|word| word & (1 << (index % 64)) != 0)
    }
}
