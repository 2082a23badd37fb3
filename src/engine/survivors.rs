//! Choosing a stage's survivors from what is recorded.
//!
//! One pass over the stage's rows in the order of their numbers into the pure selection of `plan`: anyone with the store can
//! recompute it. It must depend on nothing but recorded metrics and numbers, and for those that explore on the study's seed.

use crate::journal::{JournalError, Snapshot};
use crate::model::{Parent, StageIndex, StageRow, TrialId, TrialState};
use crate::plan::Choice;
use crate::study_file::{Spec, StageSpec};

/// The survivors of a stage, best first, and after them those that explore; empty when none of its trials succeeded.
///
/// # Errors
/// [`JournalError`] from reading, also when the stage is unknown.
pub(crate) fn choose(snapshot: &Snapshot, spec: &Spec, stage: StageIndex) -> Result<Vec<Parent>, JournalError> {
    let stages = snapshot.stages()?;
    match (stages.get(stage as usize), spec.stages.get(stage as usize)) {
        (Some(row), Some(stage)) => choose_from(snapshot, stage, spec.study.seed, row),
        _ => Err(JournalError::Missing { table: "stage", key: stage.into() }),
    }
}

fn choose_from(
    snapshot: &Snapshot,
    spec: &StageSpec,
    seed: u64,
    stage: &StageRow,
) -> Result<Vec<Parent>, JournalError> {
    let mut choice = Choice::new(spec, stage).exploring(seed);
    let first = stage.first_trial.0;
    for trial in snapshot.trials(stage.first_trial, TrialId(first + stage.planned()))? {
        let trial = trial?;
        if trial.state == TrialState::Succeeded {
            choice.offer(trial.trial.0 - first, &trial.metrics);
        }
    }
    let parent = |place: u64| {
        let trial = TrialId(first + place);
        let row = snapshot.trial(trial)?.ok_or(JournalError::Missing { table: "trial", key: trial.0 })?;
        Ok(Parent { trial, attempt: row.accepted() })
    };
    choice.finish().into_iter().map(|chosen| parent(chosen.place)).collect()
}
