//! The rails as the store knows them: what an engine begins with, and what an abort says.
//!
//! Both take one pass over the rows of the open stage (with `catastrophic_failures`, of the study), and none where there is
//! no rail: so a rail that was amended is asked of every result, and anyone with the store can say the same.

use super::draft::Draft;
use crate::journal::{JournalError, Snapshot};
use crate::model::{StageIndex, TrialId};
use crate::plan::{self, Judge, Outcome, Ruled};
use crate::study_file::Spec;

/// The rails over the open stage, with all its final results.
///
/// # Errors
/// [`JournalError`] from reading them.
pub(super) fn known(snapshot: &Snapshot, spec: &Spec, draft: &Draft) -> Result<Judge, JournalError> {
    let Some((stage, _)) = draft.open_stage() else { return Ok(Judge::default()) };
    let Some(of) = spec.stages.get(stage.index as usize) else { return Ok(Judge::default()) };
    let (first, end) = (stage.first_trial, stage.end());
    // Those of the stage itself are counted in their turn.
    let mut before = draft.progress_row().catastrophic;
    if spec.rails.catastrophic_failures.is_some() {
        for row in snapshot.trials(first, end)? {
            let burnt = plan::outcome(&of.rails, &row?) == Some(Outcome::Catastrophic);
            before = before.saturating_sub(u64::from(burnt));
        }
    }
    let mut judge = Judge::new(&of.rails, &spec.rails, before);
    judge.plan(stage.planned());
    if judge.watches() {
        for row in snapshot.trials(first, end)? {
            let row = row?;
            if let Some(outcome) = plan::outcome(&of.rails, &row) {
                judge.offer(row.trial.0.saturating_sub(first.0), outcome, plan::worth(of, &row));
            }
        }
    }
    Ok(judge)
}

/// What the recorded results of a stage decide before all are there: the rail that they break, or that it ends early.
///
/// # Errors
/// [`JournalError`] from reading them.
pub(crate) fn ruled(snapshot: &Snapshot, spec: &Spec, stage: StageIndex) -> Result<Option<Ruled>, JournalError> {
    let stages = snapshot.stages()?;
    let Some(row) = stages.get(stage as usize) else {
        return Err(JournalError::Missing { table: "stage", key: stage.into() });
    };
    let first = match spec.rails.catastrophic_failures {
        Some(_) => TrialId(0),
        None => row.first_trial,
    };
    let end = row.end();
    plan::ruled(spec, &stages, stage, snapshot.trials(first, end)?)
}
