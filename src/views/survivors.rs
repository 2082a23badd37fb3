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
    /// The metrics of the attempt that counts; of a case that is repeated the aggregates.
    pub metrics: Metrics,
}

impl Survivor {
    fn new(view: &StudyView, snapshot: &Snapshot, trial: TrialSummary<'_>) -> Result<Self, ViewError> {
        let (case, params) = (view.lineage().whole_case_of(trial.trial), trial.params());
        let stage = view.stage(trial.stage.index);
        let whole = match stage.and_then(|stage| Some((stage, stage.replica_of(trial.index)?))) {
            Some((stage, (case, _))) => view.whole_case(snapshot, stage, case)?,
            None => None,
        };
        let own = trial.row.map_or_else(Metrics::new, |row| row.metrics);
        Ok(Self { case, params, metrics: whole.map_or(own, |case| case.whole.metrics) })
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
    let trials = stage.winners().iter().take(most).map(|parent| view.trial(snapshot, parent.trial));
    trials.filter_map(Result::transpose).map(|trial| Survivor::new(view, snapshot, trial?)).collect()
}
