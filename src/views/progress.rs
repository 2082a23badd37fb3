//! `progress`: what a trial reported while it ran, and what running trials said last.
//!
//! Read from the trial's files when somebody asks, and at no other time. What is shown of a running trial costs the same
//! however much it reports; the list is written as it is read, so that a flood of reports takes no memory.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use super::text::{Screen, clean, reported};
use super::{StudyView, ViewError};
use crate::journal::Snapshot;
use crate::model::reports::{Extent, MAX_BYTES, Report};
use crate::model::words::bytes;
use crate::model::{AttemptNo, TrialId, TrialState};
use crate::study_file::progress::{Printed, Which, each_report, each_report_of_parts, last_report};
use crate::sys::opened::Below;

/// A report of a trial that runs.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LastReport {
    /// The step.
    pub step: u64,
    /// What it measured; `null`: no finite number.
    pub metrics: BTreeMap<String, Option<f64>>,
}

impl LastReport {
    /// What a running attempt said last. Looking fails for nobody: what cannot be read is not shown.
    pub(super) fn of(view: &StudyView, trial: TrialId, attempt: AttemptNo) -> Option<Self> {
        let place = Place::of(view, trial).ok()??;
        let case = place.case.open().ok()?;
        let Report { step, metrics } = last_report(&case, place.which(attempt, false)).ok()??;
        Some(Self { step, metrics })
    }

    /// In a few words.
    pub(super) fn words(&self) -> String {
        let mut words = format!("step {}", self.step);
        for (name, value) in &self.metrics {
            words.push_str(&format!("  {}", measured(name, *value)));
        }
        words
    }
}

fn measured(name: &str, value: Option<f64>) -> String {
    format!("{} {}", clean(name), reported(value))
}

/// The reports of a trial, for views that draw them. Looking fails for nobody: what cannot be read is not shown.
pub(super) struct Reports {
    place: Option<Place>,
    attempt: AttemptNo,
    ended: bool,
}

impl Reports {
    /// Those of its attempts up to this one.
    pub(super) fn of(view: &StudyView, trial: TrialId, attempt: AttemptNo, ended: bool) -> Self {
        Self { place: Place::of(view, trial).ok().flatten(), attempt, ended }
    }

    /// Reads them, of many bytes evenly spread parts; see [`each_report_of_parts`].
    pub(super) fn each_of_parts(&self, most: u64, each: impl FnMut(Report)) {
        let Some(place) = &self.place else { return };
        let Ok(case) = place.case.open() else { return };
        drop(each_report_of_parts(&case, place.which(self.attempt, self.ended), most, each));
    }
}

/// Where a trial's reports are.
struct Place {
    case: Below,
    printed: Option<Printed>,
}

impl Place {
    fn of(view: &StudyView, trial: TrialId) -> Result<Option<Self>, ViewError> {
        let lineage = view.lineage();
        let Some((stage, index)) = lineage.locate(trial) else { return Ok(None) };
        let progress = view.spec.stages.get(stage as usize).map(|stage| Printed::new(&stage.progress));
        let printed = progress.transpose().map_err(|error| ViewError::Spec(error.to_string()))?.flatten();
        let place = |row| view.attempt_place(row, &lineage.case(stage, index), 1).above();
        Ok(view.stage(stage).map(|row| Self { case: place(row), printed }))
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
    let report = LastReport { step: report.step, metrics: report.metrics };
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
