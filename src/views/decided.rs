//! Whether the survivors of a stage are decided before all its trials are finished.
//!
//! With objectives any trial still to come may turn out best, so nothing is decided before the last one; without any, the
//! first cases that succeed survive, and later ones cannot change that. It is never guessed from values seen so far.

use crate::journal::{JournalError, Snapshot};
use crate::model::{StageRow, StageStatus, TrialId, TrialState};
use crate::views::StudyView;

/// How far a stage's survivors are decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SurvivorsDecided {
    /// No trial still to come can change them.
    pub decided: bool,
    /// Trials still to come, or that never were.
    pub left: u64,
}

/// Looks at a stage that has begun. Reads at most as many trials as survive, one after the other from the first, and
/// those that failed between them.
///
/// # Errors
/// [`JournalError`].
pub fn decision(
    view: &StudyView,
    snapshot: &Snapshot,
    stage: &StageRow,
) -> Result<SurvivorsDecided, JournalError> {
    let left = view.summary(stage).unfinished();
    if left == 0 || stage.status == StageStatus::Closed {
        return Ok(SurvivorsDecided { decided: true, left: 0 });
    }
    let spec = view.spec.stages.get(stage.index as usize);
    if stage.is_replicated() || spec.is_none_or(|spec| !spec.objectives.is_empty()) {
        return Ok(SurvivorsDecided { decided: false, left });
    }
    let (mut next, mut succeeded) = (stage.first_trial, 0);
    let end = stage.end();
    for row in snapshot.trials(stage.first_trial, end)? {
        let row = row?;
        match row.state {
            TrialState::Succeeded if row.trial == next => succeeded += 1,
            TrialState::Failed | TrialState::Pruned if row.trial == next => {}
            _ => break,
        }
        if succeeded == stage.survivor_count {
            return Ok(SurvivorsDecided { decided: true, left });
        }
        next = TrialId(next.0.saturating_add(1));
    }
    Ok(SurvivorsDecided { decided: false, left })
}
