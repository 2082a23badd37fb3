//! What a study came to: the survivors of the last stage that closed, each with its params and metrics.

use std::path::Path;

use super::telemetry::engines_view;
use super::{StudyView, TrialSummary, ViewError};
use crate::journal::Snapshot;
use crate::model::{Metrics, Params, StageRow};

/// A case that survived.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Survivor {
    /// `<base_case>_<stage_index>_<derived_index>`.
    pub case: String,
    /// All its params: the study's, those of its forebears, its own.
    pub params: Params,
    /// The metrics of the attempt that counts.
    pub metrics: Metrics,
}

impl From<TrialSummary<'_>> for Survivor {
    fn from(trial: TrialSummary<'_>) -> Self {
        let (case, params) = (trial.case(), trial.params());
        Self { case, params, metrics: trial.row.map_or_else(Metrics::new, |row| row.metrics) }
    }
}

/// The survivors of the last closed stage, best first; none before a stage has closed.
///
/// # Errors
/// [`ViewError::Journal`] and [`ViewError::Spec`].
pub fn survivors(snapshot: &Snapshot) -> Result<Vec<Survivor>, ViewError> {
    let view = engines_view(snapshot, Path::new(""))?;
    view.last_closed().map_or_else(|| Ok(Vec::new()), |last| survivors_of(&view, snapshot, last, usize::MAX))
}

/// The first `most` survivors of a stage, best first.
///
/// # Errors
/// [`ViewError::Journal`].
pub fn survivors_of(
    view: &StudyView,
    snapshot: &Snapshot,
    stage: &StageRow,
    most: usize,
) -> Result<Vec<Survivor>, ViewError> {
    let trials = stage.survivors.iter().take(most).map(|parent| view.trial(snapshot, parent.trial));
    trials.filter_map(Result::transpose).map(|trial| Ok(trial?.into())).collect()
}
