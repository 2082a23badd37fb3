//! What ends a study that goes wrong: the rails, asked as results come in, and the running time.
//!
//! Which results break a rail is `plan`'s to say. From the moment an abort is certain, trials that cannot matter are not
//! started any more, while those below still run to their end, since one of them may be what decides. What decides is
//! committed before the abort, and the abort says what the store says; nothing here may end a study for any other reason.

use super::{Action, Now, Phase, State};
use crate::model::{Abort, Event, Failure, FoldError, Rail, StageIndex, StageStatus, StudyStatus, TrialId};
use crate::plan::{self, Judge, Ruled};

/// Why a study ends whose base command failed.
pub(super) fn base_failed(failure: &Failure) -> String {
    format!("the base command failed: {} ({})", failure.reason, failure.kind)
}

impl State {
    /// Ends the study: what runs may finish, nothing else starts, and the reason is recorded now, so that no crash
    /// can take it back. So many trials of the open stage count.
    pub(super) fn abort(
        &mut self,
        now: Now,
        rail: Rail,
        counted: u64,
        reason: String,
        violating: Vec<TrialId>,
    ) -> Result<Vec<Action>, FoldError> {
        let over = |status| matches!(status, StudyStatus::Aborted | StudyStatus::Completed);
        if over(self.draft.study_row().status) {
            return Ok(Vec::new());
        }
        let stages = self.draft.stages();
        let stage = stages.iter().find(|stage| stage.status != StageStatus::Closed).map_or(0, |stage| stage.index);
        let abort = Abort { rail, stage, counted };
        self.emit(now, Event::StudyAbortedBy { abort, reason, violating })?;
        if self.phase == Phase::Running {
            self.phase = Phase::Draining { limit_ms: None };
        }
        Ok(vec![Action::Drain])
    }

    /// A stage begins: nothing is known of its trials.
    pub(super) fn judge_stage(&mut self, stage: StageIndex) {
        let Some(spec) = self.spec.stages.get(stage as usize) else { return };
        self.judge = Judge::new(&spec.rails, &self.spec.rails, self.draft.progress_row().catastrophic);
        self.withdrawn_from = None;
        self.plan_judge();
    }

    /// The open stage may have more trials than before.
    pub(super) fn plan_judge(&mut self) {
        let planned = self.draft.open_stage().map_or(0, |(stage, _)| stage.planned());
        self.judge.plan(planned);
    }

    /// A trial's attempt has ended: the rails get the result if it is final.
    pub(super) fn note_result(&mut self, trial: TrialId) {
        let Some((stage, _)) = self.draft.open_stage().filter(|(stage, _)| stage.contains(trial)) else { return };
        let known = self.spec.stages.get(stage.index as usize).zip(self.draft.trial_row(trial));
        let Some(outcome) = known.and_then(|(spec, row)| plan::outcome(&spec.rails, row)) else { return };
        let worth = known.and_then(|(spec, row)| plan::worth(spec, row));
        let place = match injected_fault!(RailsByArrival) {
            true => self.judge.next(),
            false => trial.0 - stage.first_trial.0,
        };
        self.judge.offer(place, outcome, worth);
    }

    /// The first trial of the open stage that cannot matter any more, since an abort is certain, or the stage ends without it.
    #[must_use]
    pub(crate) fn limit(&self) -> Option<TrialId> {
        let limit = self.judge.limit()?;
        let (stage, _) = self.draft.open_stage()?;
        Some(TrialId(stage.first_trial.0.saturating_add(limit)))
    }

    /// Whether a trial is not to start now: an abort is certain without it, or it belongs to a stage after the open one, which
    /// was opened again.
    pub(super) fn cannot_matter(&self, trial: TrialId) -> bool {
        trial != TrialId::BASE && self.starts_below().is_some_and(|limit| trial >= limit)
    }

    /// The first trial that is not to start now.
    #[must_use]
    fn starts_below(&self) -> Option<TrialId> {
        let end = self.draft.open_stage().map(|(stage, _)| stage.end());
        let end = end.filter(|_| !injected_fault!(LaterStagesGoOn));
        [self.limit(), end].into_iter().flatten().min()
    }

    /// The trials that may wait for their start: from the open stage's first one on, and below the first that is not to start now.
    #[must_use]
    pub(crate) fn startable(&self) -> (TrialId, Option<TrialId>) {
        let first = self.draft.open_stage().map_or(TrialId(0), |(stage, _)| stage.first_trial);
        (first, self.starts_below())
    }

    /// Takes back what cannot matter, once more of it does not.
    pub(super) fn withdraw(&mut self, actions: &mut Vec<Action>) {
        let Some(limit) = self.limit().filter(|limit| self.withdrawn_from.is_none_or(|from| *limit < from)) else {
            return;
        };
        self.withdrawn_from = Some(limit);
        for trial in self.ready.keep_below(limit) {
            self.draft.release(trial);
        }
        let (running, submitted) = (&self.running, &self.submitted);
        let under_way = |trial| running.contains_key(&trial) || submitted.contains_key(&trial);
        for trial in self.reusing.withdraw(limit, under_way) {
            self.draft.release(trial);
        }
        actions.push(Action::Withdraw(limit));
    }

    /// Whether the open stage is to end early, and that is not recorded yet.
    pub(super) fn ends_early(&self) -> bool {
        let open = self.draft.open_stage();
        self.judge.ended().is_some() && open.is_some_and(|(stage, _)| stage.ended_after.is_none())
    }

    /// What was withdrawn of a stage that ended early is over with it: trials of others may start.
    pub(super) fn admit(&self) -> Option<Action> {
        self.withdrawn_from.map(|_| Action::Withdraw(TrialId::BASE))
    }

    /// Ends the study, or the stage, by what the store says of its results.
    pub(super) fn judged(
        &mut self,
        now: Now,
        stage: StageIndex,
        ruled: Option<Ruled>,
    ) -> Result<Vec<Action>, FoldError> {
        self.asked = false;
        let broken = match ruled {
            Some(Ruled::Ended(counted)) if self.judge.ended() == Some(counted) => {
                self.emit(now, Event::StageEndedEarly { stage, counted })?;
                return Ok(Vec::new());
            }
            Some(Ruled::Ended(counted)) => {
                let ended = self.judge.ended();
                let why = format!("stage {stage} ends after {counted} trials in the store, {ended:?} here");
                let seq = self.draft.progress_row().last_seq + 1;
                return Err(FoldError { seq, what: "stage_ended_early", why });
            }
            Some(Ruled::Broken(broken)) => Some(broken),
            None => None,
        };
        let told = broken.as_ref().map(|broken| (broken.rail, broken.counted));
        match (broken, self.judge.verdict()) {
            (Some(broken), Some(_)) if injected_fault!(RailsByArrival) => {
                let counted = self.judge.next();
                self.abort(now, broken.rail, counted, broken.reason, broken.violating)
            }
            (Some(broken), verdict) if told == verdict => {
                self.abort(now, broken.rail, broken.counted, broken.reason, broken.violating)
            }
            (_, verdict) => {
                let why = format!("the results of stage {stage} break {told:?} in the store, {verdict:?} here");
                Err(FoldError { seq: self.draft.progress_row().last_seq + 1, what: "study_aborted", why })
            }
        }
    }

    /// Milliseconds until `max_runtime` is used up; `None` without that rail.
    pub(super) fn runtime_left_ms(&self, now: Now) -> Option<u64> {
        let ran_ms = self.draft.progress_row().earlier_runs_ms.saturating_add(now.run_ms);
        self.spec.rails.max_runtime_ms.map(|most| most.saturating_sub(ran_ms))
    }
}
