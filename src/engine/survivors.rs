//! Choosing a stage's survivors from what is recorded.
//!
//! One pass over the stage's rows in case order into the pure selection of `plan`: anyone with the store can
//! recompute it. It must depend on nothing but recorded metrics and case order.

use crate::journal::{JournalError, Snapshot};
use crate::model::{Parent, StageIndex, StageRow, TrialId, TrialState};
use crate::plan::Selector;
use crate::study_file::{Spec, StageSpec};

/// The survivors of a stage, best first; empty when none of its trials succeeded.
///
/// # Errors
/// [`JournalError`] from reading, also when the stage is unknown.
pub(crate) fn choose(snapshot: &Snapshot, spec: &Spec, stage: StageIndex) -> Result<Vec<Parent>, JournalError> {
    let stages = snapshot.stages()?;
    match (stages.get(stage as usize), spec.stages.get(stage as usize)) {
        (Some(row), Some(spec)) => choose_from(snapshot, spec, row),
        _ => Err(JournalError::Missing { table: "stage", key: stage.into() }),
    }
}

fn choose_from(snapshot: &Snapshot, spec: &StageSpec, stage: &StageRow) -> Result<Vec<Parent>, JournalError> {
    let mut selector = Selector::new(spec);
    let first = stage.first_trial.0;
    for trial in snapshot.trials(stage.first_trial, TrialId(first + stage.planned()))? {
        let trial = trial?;
        if trial.state == TrialState::Succeeded {
            selector.offer(trial.trial.0 - first, &trial.metrics);
        }
    }
    let ranked = selector.finish();
    ranked
        .into_iter()
        .map(|ranked| {
            let trial = TrialId(first + ranked.index);
            let row = snapshot.trial(trial)?.ok_or(JournalError::Missing { table: "trial", key: trial.0 })?;
            Ok(Parent { trial, attempt: row.accepted() })
        })
        .collect()
}
