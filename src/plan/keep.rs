//! What of a study's directories is to be discarded, by its `keep`: pure, over the spec and the rows.
//!
//! Only of trials that are finished, whose stage has closed, and whose directory no trial to come is to see. It changes no result.

use std::collections::HashSet;

use crate::model::{
    AttemptNo, DiscardRun, Keep, Kept, StageIndex, StageRow, StageStatus, Tidied, TrialId, TrialRow, TrialState,
};
use crate::study_file::Spec;

/// Stages that have closed and whose `keep` is not applied as far as it could be, with how far that is.
#[must_use]
pub(crate) fn due(spec: &Spec, stages: &[StageRow]) -> Vec<(StageIndex, Tidied)> {
    let mut due = Vec::new();
    for (stage, at) in stages.iter().zip(0_usize..) {
        let keep = spec.stages.get(at).map_or_else(Keep::default, |stage| stage.keep);
        if stage.status != StageStatus::Closed || keep.is_everything() {
            continue;
        }
        let next = stages.get(at.saturating_add(1));
        let heirs_are_done = next.is_none_or(|next| next.status == StageStatus::Closed);
        let is_safe = heirs_are_done || injected_fault!(DiscardedWhileNeeded);
        let others = !keep.others.is_all() || !keep.failed.is_all();
        let goal = match is_safe && !keep.survivors.is_all() {
            true => Tidied::All,
            false if others => Tidied::Others,
            false => Tidied::No,
        };
        if stage.tidied < goal {
            due.push((stage.index, goal));
        }
    }
    due
}

/// Trials whose directories others that are to run may see.
#[must_use]
pub(crate) fn needed(stages: &[StageRow]) -> HashSet<TrialId> {
    let mut needed = HashSet::new();
    if injected_fault!(DiscardedWhileNeeded) {
        return needed;
    }
    let mut before: Option<&StageRow> = None;
    for stage in stages {
        match stage.status {
            StageStatus::Open | StageStatus::Aborted => {
                needed.extend(stage.parents.iter().map(|parent| parent.trial));
            }
            StageStatus::Waiting => {
                needed.extend(before.iter().flat_map(|before| &before.survivors).map(|parent| parent.trial));
            }
            StageStatus::Closed => {}
        }
        before = Some(stage);
    }
    needed
}

/// What a trial's directory counts as; `None`: it may still matter.
fn part_of(keep: Keep, stage: &StageRow, survivors: &HashSet<TrialId>, row: &TrialRow) -> Option<Kept> {
    match row.state {
        _ if survivors.contains(&row.trial) => Some(keep.survivors),
        TrialState::Failed => Some(keep.failed),
        TrialState::Pruned | TrialState::Cancelled => Some(keep.others),
        TrialState::Succeeded if stage.status == StageStatus::Closed => Some(keep.others),
        TrialState::Succeeded | TrialState::Pending | TrialState::Running | TrialState::Undecided => None,
    }
}

/// What `keep` does not keep of a stage's trials and is there still, as far as is recorded. `to`: of all of them, or of those alone that
/// do not survive.
///
/// # Errors
/// What `rows` fails with.
pub(crate) fn discards<E>(
    stage: &StageRow,
    keep: Keep,
    needed: &HashSet<TrialId>,
    to: Tidied,
    rows: impl Iterator<Item = Result<TrialRow, E>>,
) -> Result<Vec<DiscardRun>, E> {
    let survivors: HashSet<TrialId> = stage.survivors.iter().map(|parent| parent.trial).collect();
    let mut runs: Vec<DiscardRun> = Vec::new();
    for row in rows {
        let row = row?;
        let trial = row.trial;
        if needed.contains(&trial) || (to != Tidied::All && survivors.contains(&trial)) {
            continue;
        }
        let last = AttemptNo::try_from(row.attempts.len()).unwrap_or(AttemptNo::MAX);
        let Some(keeps) = part_of(keep, stage, &survivors, &row).filter(|keeps| *keeps > row.kept_of(last)) else {
            continue;
        };
        match runs.last_mut() {
            Some(run) if run.keeps == keeps && run.first.0.saturating_add(run.count) == trial.0 => run.count += 1,
            _ => runs.push(DiscardRun { first: trial, count: 1, keeps }),
        }
    }
    Ok(runs)
}

/// What is kept of a trial's accepted attempt, if that is not enough for its children: it is all of it, or all that is declared, if
/// anything is.
#[must_use]
pub(crate) fn lacks(row: &TrialRow, attempt: AttemptNo) -> Option<Kept> {
    match row.kept_of(attempt) {
        Kept::All => None,
        Kept::Outputs if !row.outputs.is_empty() => None,
        less => Some(less),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Parent;
    use crate::{Stage, Study};

    fn stages() -> (Spec, Vec<StageRow>) {
        let keep = Keep { survivors: Kept::Outputs, others: Kept::Logs, failed: Kept::Nothing };
        let of = |name: &str| Stage::unbound(name).budget(4).survivors(1).keep(keep);
        let spec = Study::builder("s").stage(of("a")).stage(of("b")).spec().unwrap();
        let row = |index: u32| StageRow {
            index,
            status: StageStatus::Closed,
            first_trial: TrialId(u64::from(index) * 4),
            planned: 4,
            survivors: vec![Parent { trial: TrialId(u64::from(index) * 4 + 1), attempt: 1 }],
            ..crate::model::waiting(
                index,
                &crate::model::StageDecl {
                    name: spec.stages[index as usize].name.clone(),
                    trial_budget: 4,
                    survivor_count: 1,
                    objective: None,
                    proposed: false,
                },
            )
        };
        let rows = vec![row(0), row(1)];
        (spec, rows)
    }

    #[test]
    fn survivors_wait_for_the_stage_after() {
        let (spec, mut stages) = stages();
        assert_eq!(due(&spec, &stages), [(0, Tidied::All), (1, Tidied::All)]);
        stages[1].status = StageStatus::Open;
        stages[1].parents = stages[0].survivors.clone();
        assert_eq!(due(&spec, &stages), [(0, Tidied::Others)]);
        assert_eq!(needed(&stages), HashSet::from([TrialId(1)]));
        stages[0].tidied = Tidied::Others;
        assert_eq!(due(&spec, &stages), []);
        stages[1].status = StageStatus::Waiting;
        stages[1].parents.clear();
        assert_eq!(needed(&stages), HashSet::from([TrialId(1)]));
    }

    #[test]
    fn what_may_still_survive_is_not_touched() {
        let (spec, mut stages) = stages();
        let keep = spec.stages[0].keep;
        let row = |trial: u64, state| TrialRow { state, ..TrialRow::new(TrialId(trial), 0) };
        let rows = [
            row(0, TrialState::Succeeded),
            row(1, TrialState::Succeeded),
            row(2, TrialState::Failed),
            row(3, TrialState::Pruned),
        ];
        let found = |stage: &StageRow, needed: &[u64], to| {
            let needed = needed.iter().map(|trial| TrialId(*trial)).collect();
            let rows = rows.iter().cloned().map(Ok::<_, ()>);
            let runs = discards(stage, keep, &needed, to, rows).unwrap();
            runs.into_iter().map(|run| (run.first.0, run.count, run.keeps)).collect::<Vec<_>>()
        };
        let (logs, nothing) = (Kept::Logs, Kept::Nothing);
        assert_eq!(found(&stages[0], &[], Tidied::Others), [(0, 1, logs), (2, 1, nothing), (3, 1, logs)]);
        let all = [(0, 1, logs), (1, 1, Kept::Outputs), (2, 1, nothing), (3, 1, logs)];
        assert_eq!(found(&stages[0], &[], Tidied::All), all);
        assert_eq!(found(&stages[0], &[0, 1], Tidied::All), all[2..]);
        stages[0].status = StageStatus::Open;
        stages[0].survivors.clear();
        assert_eq!(found(&stages[0], &[], Tidied::All), [(2, 1, nothing), (3, 1, logs)]);
    }
}
