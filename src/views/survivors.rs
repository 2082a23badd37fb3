//! What a study came to: the survivors of the last stage that closed, each with its params and metrics.

use super::ViewError;
use crate::journal::Snapshot;
use crate::model::{Metrics, Params, StageRow, StageStatus, TrialId};
use crate::plan::Lineage;
use crate::spec::Spec;

/// A case that survived.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Survivor {
    /// Its name.
    pub case: String,
    /// All its params: the study's, those of its forebears, its own.
    pub params: Params,
    /// What it came to.
    pub metrics: Metrics,
}

/// The survivors of the last closed stage, best first; none before a stage has closed.
///
/// # Errors
/// [`ViewError::Journal`] and [`ViewError::Spec`].
pub fn survivors(snapshot: &Snapshot) -> Result<Vec<Survivor>, ViewError> {
    let spec = Spec::from_json(&snapshot.study()?.spec).map_err(|error| ViewError::Spec(error.to_string()))?;
    let stages = snapshot.stages()?;
    let Some(last) = stages.iter().rev().find(|stage| stage.status == StageStatus::Closed) else {
        return Ok(Vec::new());
    };
    let proposals = snapshot.proposals(TrialId(0), TrialId(u64::MAX))?;
    let lineage = Lineage::new(&spec, &stages).with_proposals(&proposals);
    survivors_of(snapshot, &lineage, last, usize::MAX)
}

/// The first `most` survivors of a stage, best first.
///
/// # Errors
/// [`ViewError::Journal`].
pub fn survivors_of(
    snapshot: &Snapshot,
    lineage: &Lineage<'_>,
    stage: &StageRow,
    most: usize,
) -> Result<Vec<Survivor>, ViewError> {
    let mut survivors = Vec::new();
    for parent in stage.survivors.iter().take(most) {
        let (row, place) = (snapshot.trial(parent.trial)?, lineage.locate(parent.trial));
        if let (Some(row), Some((stage, derived))) = (row, place) {
            let params = lineage.params(stage, derived).unwrap_or_default();
            survivors.push(Survivor { case: lineage.case(stage, derived), params, metrics: row.metrics });
        }
    }
    Ok(survivors)
}
