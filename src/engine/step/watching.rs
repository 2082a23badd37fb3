//! What trials show at rungs and by rules of their own, and what follows from it.
//!
//! What was shown and what was decided is recorded first; only then is a trial ended for it. A rung's decision follows from what
//! trials of lower number have shown, whenever it is known; nothing here may decide by who came first, and no end counts before
//! its trial's rungs have decided.

use super::{Action, Now, State};
use crate::model::halving::{Decided, Ladder};
use crate::model::{
    AttemptEnd, AttemptNo, Event, FoldError, Next, RungVerdict, StageIndex, StageRow, StageStatus, TrialId,
    TrialRow, TrialState, Verdict,
};
use crate::study_file::StageSpec;
use crate::study_file::watching::Showing;

/// The end of an attempt whose trial is pruned: no attempt follows, and one that was cut off was so for that.
pub(crate) fn as_pruned(end: AttemptEnd, row: Option<&TrialRow>) -> AttemptEnd {
    if !row.is_some_and(TrialRow::is_sealed) {
        return end;
    }
    let verdict = match end.verdict {
        Verdict::Interrupted { .. } => Verdict::Cancelled,
        other => other,
    };
    AttemptEnd { verdict, next: Next::Final, ..end }
}

impl State {
    /// A stage begins: nothing is known of its rungs.
    pub(super) fn watch_stage(&mut self, stage: StageIndex) {
        let halving = self.spec.stages.get(stage as usize).and_then(|spec| spec.halving.as_ref());
        self.ladder = halving.map(|halving| Ladder::new(halving.rule()));
    }

    /// The stage of a trial that runs. It need not be the open one: an earlier one may have been opened again.
    fn watched_stage(&self, trial: TrialId) -> Option<&StageSpec> {
        let begun = |stage: &&StageRow| stage.status != StageStatus::Waiting && stage.contains(trial);
        let stage = self.draft.stages().iter().find(begun)?;
        self.spec.stages.get(stage.index as usize).filter(|spec| spec.is_watched())
    }

    /// The rungs that a trial comes to, and its place there; of a stage that is not open nothing is decided yet.
    fn ladder_of(&mut self, trial: TrialId) -> Option<(&mut Ladder, u64)> {
        let (stage, _) = self.draft.open_stage().filter(|(stage, _)| stage.contains(trial))?;
        let place = trial.0 - stage.first_trial.0;
        self.ladder.as_mut().map(|ladder| (ladder, place))
    }

    /// A running attempt has shown this, besides what is recorded. Whoever says it may say anything: what the stage has no rung or
    /// rule for is nothing.
    pub(super) fn shown(
        &mut self,
        now: Now,
        trial: TrialId,
        attempt: AttemptNo,
        said: Showing,
    ) -> Result<Vec<Action>, FoldError> {
        let runs = self.running.get(&trial);
        if runs != Some(&attempt) && !(injected_fault!(LateShownAccepted) && runs.is_some()) {
            return Ok(Vec::new());
        }
        let ends = self.note_shown(now, trial, attempt, said)?;
        Ok(if ends { vec![Action::Prune(trial)] } else { Vec::new() })
    }

    /// Records what a trial has shown; whether it ends by that.
    pub(super) fn note_shown(
        &mut self,
        now: Now,
        trial: TrialId,
        attempt: AttemptNo,
        said: Showing,
    ) -> Result<bool, FoldError> {
        let Some(spec) = self.watched_stage(trial) else { return Ok(false) };
        let halving = spec.halving.clone();
        let met = said.met.filter(|met| {
            let rule = spec.stop_if.get(met.rule as usize);
            rule.is_some_and(|rule| rule.metric == met.metric)
        });
        for shown in said.rungs {
            let row = self.draft.trial_row(trial);
            let is_next = row.is_some_and(|row| {
                !row.is_sealed() && row.may_show_rungs() && row.rungs().len() as u64 == u64::from(shown.rung)
            });
            let Some(halving) = &halving else { break };
            if halving.rungs.get(shown.rung as usize) != Some(&shown.at) {
                break;
            }
            if !is_next {
                continue;
            }
            let (rung, at, step, judged) = (shown.rung, shown.at, shown.step, shown.judged);
            let value = shown.value.filter(|value| value.is_finite());
            self.emit(now, Event::RungReached { trial, attempt, rung, at, step, value, judged })?;
            if let Some((ladder, place)) = self.ladder_of(trial) {
                ladder.show(place, rung, halving.cost(value), judged);
            }
        }
        let may_end = self.draft.trial_row(trial).is_some_and(|row| !row.is_sealed());
        let Some(met) = met.filter(|_| may_end) else { return Ok(false) };
        self.emit(now, Event::StopIfMet { trial, attempt, met })?;
        self.shows_no_more(trial);
        Ok(true)
    }

    /// A trial has shown all that it ever will.
    pub(super) fn shows_no_more(&mut self, trial: TrialId) {
        if let Some((ladder, place)) = self.ladder_of(trial) {
            ladder.end(place);
        }
    }

    /// Records all that can be decided by now.
    pub(super) fn decide(&mut self, now: Now, actions: &mut Vec<Action>) -> Result<(), FoldError> {
        let Some(ladder) = &mut self.ladder else { return Ok(()) };
        let decided = ladder.settle();
        let first = self.draft.open_stage().map_or(0, |(stage, _)| stage.first_trial.0);
        for Decided { place, rung, keep, better, of, unknown } in decided {
            let trial = TrialId(first.saturating_add(place));
            let before = self.draft.trial_row(trial).map(|row| (row.state, row.due_ms));
            let verdict = RungVerdict { keep, better, of, unknown };
            self.emit(now, Event::RungDecided { trial, rung, verdict })?;
            match before {
                Some((TrialState::Running, _)) if !keep => actions.push(Action::Prune(trial)),
                Some((TrialState::Pending, due_ms)) if !keep => {
                    self.ready.remove((due_ms, trial));
                    if let Some(attempt) = self.submitted.remove(&trial) {
                        self.doomed.insert(trial, attempt);
                        actions.push(Action::Prune(trial));
                    }
                    self.note_result(trial);
                }
                Some((TrialState::Undecided, _)) => self.note_result(trial),
                _ => {}
            }
        }
        Ok(())
    }
}
