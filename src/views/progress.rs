//! `progress`: what a trial reported while it ran, and what running trials said last.
//!
//! Read from the trial's files when somebody asks, and at no other time. What is shown of a running trial costs the same
//! however much it reports; the list is written as it is read, so that a flood of reports takes no memory.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;

use serde::Serialize;

use super::curve::Curve;
use super::sparkline::Sparkline;
use super::text::{Screen, clean, columns, reported};
use super::{StudyView, TrialSummary, ViewError};
use crate::journal::Snapshot;
use crate::model::reports::{Extent, MAX_BYTES, Report};
use crate::model::words::bytes;
use crate::model::{AttemptNo, StageIndex, TrialId, TrialState};
use crate::paths::{StudyPaths, stage_name};
use crate::study_file::progress::{Printed, Which, each_report, each_report_of_parts, each_watched, last_report};
use crate::study_file::{Spec, StageSpec};
use crate::sys::opened::Below;

/// A report of a trial that runs.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LastReport {
    /// The step.
    pub step: u64,
    /// What it measured; `null`: no finite number.
    pub metrics: BTreeMap<String, Option<f64>>,
    /// The one that says most.
    #[serde(skip)]
    first: Option<String>,
}

impl LastReport {
    fn new(report: Report, telling: &[String]) -> Self {
        let Report { step, metrics } = report;
        let first = telling.iter().find(|name| metrics.contains_key(*name)).cloned();
        Self { step, metrics, first }
    }

    /// What it measured, what says most first.
    pub fn measured(&self) -> impl Iterator<Item = (&str, Option<f64>)> {
        let first = self.first.as_ref().and_then(|first| self.metrics.get_key_value(first));
        let others = self.metrics.iter().filter(|(name, _)| self.first.as_ref() != Some(name));
        first.into_iter().chain(others).map(|(name, value)| (name.as_str(), *value))
    }

    /// What a running attempt said last. Looking fails for nobody: what cannot be read is not shown.
    pub(super) fn of(view: &StudyView, trial: TrialId, attempt: AttemptNo) -> Option<Self> {
        let place = Place::of(view, trial).ok()??;
        let case = place.case.open().ok()?;
        Some(Self::new(last_report(&case, place.which(attempt, false)).ok()??, &place.telling))
    }

    /// In a few words.
    pub(super) fn words(&self) -> String {
        self.words_with(None, "")
    }

    /// Likewise; how it went is drawn if so many columns have room for it.
    pub(super) fn words_within(&self, course: Option<&Course>, room: usize, unicode: bool) -> String {
        let words = self.words();
        let left = room.saturating_sub(columns(&words) + 1).min(COURSE_COLUMNS);
        match course.filter(|_| left >= COURSE_COLUMNS / 2) {
            Some(course) => self.words_with(Some(&course.metric), &course.line(left, unicode)),
            None => words,
        }
    }

    fn words_with(&self, drawn: Option<&str>, line: &str) -> String {
        let mut words = format!("step {}", self.step);
        for (name, value) in self.measured() {
            words.push_str(&format!("  {}", measured(name, value)));
            if drawn == Some(name) && !line.is_empty() {
                words.push_str(&format!(" {line}"));
            }
        }
        words
    }
}

fn measured(name: &str, value: Option<f64>) -> String {
    format!("{} {}", clean(name), reported(value))
}

/// Most columns of the line that shows how a trial goes; it is not drawn in less than half of them.
const COURSE_COLUMNS: usize = 16;

/// Of what a trial reports so many bytes are read for how it goes.
const GLANCE_BYTES: u64 = 256 << 10;

/// How a running trial goes, by the metric that says most: an objective that it reports, else what its stage watches, else the first
/// that it reported.
#[derive(Clone, Debug, PartialEq)]
pub struct Course {
    /// The metric.
    pub metric: String,
    /// Its values, thinned out.
    values: Vec<f64>,
}

impl Course {
    /// Of a running attempt; `None` before it reported a number.
    pub(super) fn of(view: &StudyView, trial: TrialId, attempt: AttemptNo) -> Option<Self> {
        Place::of(view, trial).ok()??.glance(attempt)?.1
    }

    /// It as a line of text; empty before there are two values.
    fn line(&self, columns: usize, unicode: bool) -> String {
        self.values.iter().copied().collect::<Sparkline>().draw(columns, unicode)
    }
}

/// A running trial that somebody looks at now and then, who has no store open: [`Glance::look`] costs the same however much the
/// trial reports.
#[derive(Clone, Debug)]
pub struct Glance {
    spec: Arc<Spec>,
    stage: StageIndex,
    case: Below,
    attempt: AttemptNo,
}

impl Glance {
    /// At this attempt.
    #[must_use]
    pub fn at(paths: &StudyPaths, spec: Arc<Spec>, stage: StageIndex, case: &str, attempt: AttemptNo) -> Self {
        let name = spec.stages.get(stage as usize).map_or("", |stage| stage.name.as_str());
        let root = Below::root(paths.study_artifacts(&spec.study.name));
        Self { case: root.join(stage_name(stage, name)).join(case), spec, stage, attempt }
    }

    /// What it says now; `None` before its first report.
    #[must_use]
    pub fn look(&self) -> Option<Seen> {
        let stage = self.spec.stages.get(self.stage as usize)?;
        let (last, course) = Place::at(self.case.clone(), stage).ok()?.glance(self.attempt)?;
        Some(Seen { last, course })
    }
}

/// What a running trial said last, and how it went.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    last: LastReport,
    course: Option<Course>,
}

impl Seen {
    /// In words: `step 3  loss 0.5 ▇▃▁`. Words are never cut; the line is drawn if so many columns have room for it.
    #[must_use]
    pub fn words(&self, columns: usize, unicode: bool) -> String {
        self.last.words_within(self.course.as_ref(), columns, unicode)
    }
}

/// The reports of a trial, for the views that draw all of them. Looking fails for nobody: what cannot be read is not shown.
#[cfg(feature = "report")]
pub(super) struct Reports {
    place: Option<Place>,
    attempt: AttemptNo,
    ended: bool,
}

#[cfg(feature = "report")]
impl Reports {
    /// Those of its attempts up to this one.
    pub(super) fn of(view: &StudyView, trial: TrialId, attempt: AttemptNo, ended: bool) -> Self {
        Self { place: Place::of(view, trial).ok().flatten(), attempt, ended }
    }

    /// Reads them, of many bytes evenly spread parts; see [`each_report_of_parts`]. Whether its steps are counted and only what
    /// stands first was read.
    pub(super) fn each_of_parts(&self, most: u64, each: impl FnMut(Report)) -> bool {
        let Some(place) = &self.place else { return false };
        let Ok(case) = place.case.open() else { return false };
        let extent = each_report_of_parts(&case, place.which(self.attempt, self.ended), most, each);
        matches!(extent, Ok(Extent::Cut))
    }
}

/// Reads the reports of a trial by which its stage may end it, as `spec` has the stage. How many there are; `None`: they cannot be read,
/// or nothing ran here.
pub(super) fn watched_reports(
    view: &StudyView,
    trial: &TrialSummary<'_>,
    spec: &StageSpec,
    mut each: impl FnMut(&Report),
) -> Option<u64> {
    let last = trial.attempts().last()?.n;
    let place = Place::at(view.attempt_place(trial.stage, &trial.case(), 1).above(), spec).ok()?;
    let case = place.case.open().ok()?;
    let mut count = 0;
    let ended = trial.state != TrialState::Running;
    each_watched(&case, place.which(last, ended), |report| {
        count += 1;
        each(report);
    })
    .ok()?;
    Some(count)
}

/// Where a trial's reports are.
struct Place {
    case: Below,
    printed: Option<Printed>,
    /// The metrics that say most.
    telling: Vec<String>,
}

impl Place {
    fn of(view: &StudyView, trial: TrialId) -> Result<Option<Self>, ViewError> {
        let lineage = view.lineage();
        let Some((stage, index)) = lineage.locate(trial) else { return Ok(None) };
        let spec = view.spec.stages.get(stage as usize);
        let Some((row, spec)) = view.stage(stage).zip(spec) else { return Ok(None) };
        let case = view.attempt_place(row, &lineage.case(stage, index), 1).above();
        Self::at(case, spec).map(Some)
    }

    fn at(case: Below, stage: &StageSpec) -> Result<Self, ViewError> {
        let printed = Printed::new(&stage.progress).map_err(|error| ViewError::Spec(error.to_string()))?;
        let telling = stage.telling_metrics().into_iter().map(str::to_owned).collect();
        Ok(Self { case, printed, telling })
    }

    /// The last report of a running attempt, and how it went; `None`: there is none, or it cannot be read.
    fn glance(&self, attempt: AttemptNo) -> Option<(LastReport, Option<Course>)> {
        let case = self.case.open().ok()?;
        let mut last: Option<Report> = None;
        let mut curves: Vec<(String, Curve)> =
            self.telling.iter().map(|name| (name.clone(), Curve::new(&[]))).collect();
        each_report_of_parts(&case, self.which(attempt, false), GLANCE_BYTES, |report| {
            if last.is_none()
                && let Some(first) = report.metrics.keys().next()
            {
                curves.push((first.clone(), Curve::new(&[])));
            }
            for (name, curve) in &mut curves {
                curve.take(report.step, report.metrics.get(name).copied().flatten());
            }
            last = Some(report);
        })
        .ok()?;
        let last = LastReport::new(last?, &self.telling);
        let courses = curves.into_iter().map(|(metric, curve)| Course {
            metric,
            values: curve.points().into_iter().map(|(_, value)| value).collect(),
        });
        let course = courses.into_iter().find(|course| !course.values.is_empty());
        Some((last, course))
    }

    fn which(&self, attempt: AttemptNo, ended: bool) -> Which<'_> {
        Which { printed: self.printed.as_ref(), attempt, ended }
    }
}

/// How the list is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// For people: a line a report.
    Text(Screen),
    /// One JSON document.
    Json,
}

/// Writes the accepted reports of a case, in their order. What could not be read of them, in words.
///
/// # Errors
/// [`ViewError::UnknownCase`], [`ViewError::NotStarted`], [`ViewError::RanNothing`], [`ViewError::Journal`],
/// [`ViewError::File`], [`ViewError::Output`].
pub fn write_reports(
    view: &StudyView,
    snapshot: &Snapshot,
    case: &str,
    form: Form,
    out: &mut dyn Write,
) -> Result<Option<String>, ViewError> {
    let trial = view.find_case(case)?;
    let row = snapshot.trial(trial)?;
    let (state, attempts, reused) =
        row.map_or((TrialState::Pending, Vec::new(), None), |row| (row.state, row.attempts, row.reused_from));
    let not_started = || match &reused {
        Some(origin) => ViewError::RanNothing { case: case.into(), origin: super::words::origin_words(origin) },
        None => ViewError::NotStarted { case: case.into() },
    };
    let last = attempts.last().ok_or_else(not_started)?;
    let place = Place::of(view, trial)?.ok_or_else(not_started)?;
    let which = place.which(last.n, state != TrialState::Running);
    let dir = match place.case.open() {
        Ok(dir) => Some(dir),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(cause) => return Err(unreadable(&place, cause)),
    };
    if form == Form::Json {
        let case = serde_json::to_string(case)?;
        write!(out, "{{\"case\":{case},\"reports\":[")?;
    }
    let mut written = Ok(());
    let mut count = 0_u64;
    let extent = match &dir {
        Some(dir) => each_report(dir, which, |report| {
            if written.is_ok() {
                written = write_report(report, form, count == 0, out);
                count += 1;
            }
        })
        .map_err(|cause| unreadable(&place, cause))?,
        None => Extent::Whole,
    };
    written?;
    if form == Form::Json {
        writeln!(out, "],\"whole\":{}}}", extent == Extent::Whole)?;
    }
    Ok(match (extent, count) {
        (Extent::Cut, _) => Some(format!("of each file the first {} are read", bytes(MAX_BYTES))),
        (Extent::Whole, 0) => Some(format!("`{case}` has reported nothing")),
        (Extent::Whole, _) => None,
    })
}

fn write_report(report: Report, form: Form, is_first: bool, out: &mut dyn Write) -> Result<(), ViewError> {
    let report = LastReport::new(report, &[]);
    match form {
        Form::Text(screen) => writeln!(out, "{}", screen.line(&report.words()))?,
        Form::Json => {
            if !is_first {
                out.write_all(b",")?;
            }
            serde_json::to_writer(out, &report)?;
        }
    }
    Ok(())
}

fn unreadable(place: &Place, cause: io::Error) -> ViewError {
    ViewError::File { what: "read the reports in", path: place.case.path(), cause }
}
