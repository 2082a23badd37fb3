//! The fold of rounds: how a stage comes to have replicas of its cases.
//!
//! It changes the stage's row alone, and no trial: those of later rounds do not exist before their round is planned.

use super::event::Event;
use super::fold::{Fold, Rows};
use super::ids::StageIndex;
use super::rows::{LeftCase, Proposing, StageStatus};

impl Fold {
    pub(super) fn rounds<R: Rows>(&self, rows: &mut R, event: &Event) -> Result<(), R::Error> {
        let Event::RoundsPlanned { stage: index, count } = event else { return Ok(()) };
        let Some(mut stage) = rows.stage(*index)?.filter(|stage| stage.status == StageStatus::Open) else {
            return Err(self.misfit(format!("stage {index} is not open")));
        };
        let counters = rows.counters(*index)?;
        // Numbers of trials that have begun are theirs for ever.
        let begun = counters.next_index > 0 && !stage.is_replicated();
        let by_case = stage.proposing != Proposing::No;
        if begun || !stage.add_rounds(*count, by_case) {
            return Err(self.misfit(format!("stage {index} has no place for {count} rounds")));
        }
        rows.put_stage(stage)
    }

    pub(super) fn race_round<R: Rows>(
        &self,
        rows: &mut R,
        index: StageIndex,
        left: &[LeftCase],
        more: u32,
    ) -> Result<(), R::Error> {
        let Some(mut stage) = rows.stage(index)?.filter(|stage| stage.status == StageStatus::Open) else {
            return Err(self.misfit(format!("stage {index} is not open")));
        };
        if !stage.leave(left) || (more > 0 && !stage.add_rounds(more, false)) {
            return Err(self.misfit(format!("stage {index} has no such round to end")));
        }
        rows.put_stage(stage)
    }
}
