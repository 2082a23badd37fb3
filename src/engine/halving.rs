//! The rungs of a stage as the store knows them: what an engine begins with, and whether each decision is the one that follows.
//!
//! Both take one pass over the rows of the stage, and none where it does not halve. Nothing here may decide otherwise than
//! [`Ladder`] does.

use super::draft::Draft;
use crate::journal::{JournalError, Snapshot};
use crate::model::halving::Ladder;
use crate::model::{StageRow, StageStatus, TrialId, TrialRow, TrialState};
use crate::plan::Lineage;
use crate::study_file::{HalvingSpec, Spec};

/// The rungs of the open stage, where it halves, and the rows of trials that wait for them.
pub(crate) type Rungs = (Option<Ladder>, Vec<TrialRow>);

/// The rungs of the open stage with all that is recorded of them, and the rows of trials that wait for a decision.
///
/// # Errors
/// [`JournalError`] from reading them.
pub(super) fn known(snapshot: &Snapshot, spec: &Spec, draft: &Draft) -> Result<Rungs, JournalError> {
    let Some((stage, _)) = draft.open_stage() else { return Ok((None, Vec::new())) };
    let halving = spec.stages.get(stage.index as usize).and_then(|stage| stage.halving.as_ref());
    let Some(halving) = halving else { return Ok((None, Vec::new())) };
    let (mut ladder, mut waiting) = (Ladder::new(halving.rule()), Vec::new());
    if injected_fault!(RungsForgotten) {
        return Ok((Some(ladder), waiting));
    }
    for row in snapshot.trials(stage.first_trial, stage.end())? {
        let row = row?;
        feed(&mut ladder, halving, place(stage, row.trial), &row, true);
        if row.awaits_decision() {
            waiting.push(row);
        }
    }
    Ok((Some(ladder), waiting))
}

/// How a recorded decision of a stage's rungs is not the one that its trials' values give, in words.
///
/// # Errors
/// [`JournalError`] from reading them.
pub(crate) fn differs(
    snapshot: &Snapshot,
    spec: &Spec,
    stages: &[StageRow],
    stage: &StageRow,
) -> Result<Option<String>, JournalError> {
    let Some(halving) = spec.stages.get(stage.index as usize).and_then(|of| of.halving.as_ref()) else {
        return Ok(None);
    };
    let mut ladder = Ladder::new(halving.rule());
    let mut recorded = std::collections::BTreeSet::new();
    for row in snapshot.trials(stage.first_trial, stage.end())? {
        let row = row?;
        let place = place(stage, row.trial);
        feed(&mut ladder, halving, place, &row, false);
        for (rung, shown) in (0_u32..).zip(row.rungs()) {
            recorded.extend(shown.verdict.map(|verdict| (place, rung, verdict.keep)));
        }
    }
    let found = ladder.settle().into_iter().map(|decided| (decided.place, decided.rung, decided.keep));
    let found: std::collections::BTreeSet<_> = found.collect();
    let words = |keep: bool| if keep { "goes on" } else { "is pruned" };
    let case = |place| Lineage::new(spec, stages).case(stage.index, place);
    let wrong = recorded.difference(&found).next().map(|(place, rung, keep)| {
        let given = found.iter().find(|(at, of, _)| (at, of) == (place, rung));
        let given = given.map_or("says nothing yet", |(_, _, keep)| words(*keep));
        format!(
            "rung {rung} says that `{}` {}, what trials showed there gives: {given}",
            case(*place),
            words(*keep)
        )
    });
    let missing = || {
        found.difference(&recorded).next().map(|(place, rung, keep)| {
            format!(
                "rung {rung} has not said that `{}` {}, as what trials showed there gives",
                case(*place),
                words(*keep)
            )
        })
    };
    // While an earlier stage is open again, nothing is decided here.
    let is_held_back = stages.iter().any(|other| other.index < stage.index && other.status == StageStatus::Open);
    Ok(wrong.or_else(|| if is_held_back { None } else { missing() }))
}

/// Tells what a row has of its trial. Who has failed for good shows nothing more, also if it was made to run again.
fn feed(ladder: &mut Ladder, halving: &HalvingSpec, place: u64, row: &TrialRow, with_decisions: bool) {
    for (shown, rung) in row.rungs().iter().zip(0..) {
        ladder.show(place, rung, halving.cost(shown.value), shown.judged);
        if let Some(verdict) = shown.verdict.filter(|_| with_decisions) {
            ladder.recorded(place, rung, verdict.keep);
        }
    }
    let runs = matches!(row.state, TrialState::Pending | TrialState::Running);
    if !runs || !row.may_show_rungs() {
        ladder.end(place);
    }
}

fn place(stage: &StageRow, trial: TrialId) -> u64 {
    trial.0.saturating_sub(stage.first_trial.0)
}
