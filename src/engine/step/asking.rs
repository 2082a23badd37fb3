//! Deciding on a stage whose trials a proposer proposes.
//!
//! Trial `n` is asked for when all trials before `n - parallel + 1` are final, in their order, and one question is under
//! way at a time. So what a proposer knows when it answers depends on results alone, never on which of them came first:
//! the trials are the same with one worker or many, and after any crash. Nothing here may ask earlier or later, but not at
//! all once a rail's abort is certain.

use super::{Action, Now, State};
use crate::executor::{Answer, Said};
use crate::model::{Event, FoldError, StageRow, TrialId};
use crate::study_file::Sampling;

impl State {
    /// Asks for the next trial, if it may be asked for.
    pub(super) fn ask(&mut self, actions: &mut Vec<Action>) {
        // A certain abort needs no further trial.
        if self.asks || self.judge.limit().is_some() {
            return;
        }
        let Some((stage, _)) = self.draft.open_stage().filter(|(stage, _)| stage.takes_proposals()) else {
            return;
        };
        let spec = self.spec.stages.get(stage.index as usize);
        let Some(Sampling::Ask(proposer)) = spec.map(|spec| &spec.sampling) else { return };
        let index = stage.planned();
        let first = self.draft.first_unfinished().map_or(index, |trial| trial.0 - stage.first_trial.0);
        if index - first < u64::from(proposer.parallel) {
            actions.push(Action::Ask { stage: stage.index, index });
            self.asks = true;
        }
    }

    /// Records an answer, unless the study has moved on: then the question is asked again when it goes on.
    pub(super) fn proposed(&mut self, now: Now, answer: Answer) -> Result<Vec<Action>, FoldError> {
        self.asks = false;
        let asked_for = |stage: &StageRow| {
            stage.takes_proposals() && stage.index == answer.stage && stage.planned() == answer.index
        };
        let Some((stage, _)) = self.draft.open_stage().filter(|(stage, _)| asked_for(stage)) else {
            return Ok(Vec::new());
        };
        let trial = TrialId(stage.first_trial.0 + stage.planned());
        match answer.said {
            Said::Values { values, merged } => {
                self.emit(now, Event::TrialProposed { trial, values, merged })?;
                self.plan_judge();
                Ok(Vec::new())
            }
            Said::NoMore(reason) => {
                self.emit(now, Event::ProposalsEnded { stage: answer.stage, reason })?;
                Ok(Vec::new())
            }
            // What runs may finish: its results are good.
            Said::Failed(why) => {
                self.broken.get_or_insert_with(|| why.clone());
                self.drain(now, why, None)
            }
        }
    }
}
