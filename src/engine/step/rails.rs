//! What ends a study that goes wrong: the rails, asked after each result, and the running time.
//!
//! An abort is recorded the moment a rail breaks, so that no crash can take it back; nothing here may end a study for any
//! other reason.

use super::{Action, Now, Phase, State};
use crate::model::{AttemptEnd, Event, FoldError, StudyStatus, TrialId, TrialState, Verdict};
use crate::plan::{self, Lineage};

impl State {
    /// Ends the study: what runs may finish, nothing else starts, and the reason is recorded now, so that no crash
    /// can take it back.
    pub(super) fn abort(
        &mut self,
        now: Now,
        reason: String,
        violating: Vec<TrialId>,
    ) -> Result<Vec<Action>, FoldError> {
        let over = |status| matches!(status, StudyStatus::Aborted | StudyStatus::Completed);
        if over(self.draft.study_row().status) {
            return Ok(Vec::new());
        }
        self.emit(now, Event::StudyAborted { reason, violating })?;
        if self.phase == Phase::Running {
            self.phase = Phase::Draining { limit_ms: None };
        }
        Ok(vec![Action::Drain])
    }

    /// The rails that one result alone can break: `abort_if`, and the base command.
    pub(super) fn broken_rail(&self, end: &AttemptEnd) -> Option<String> {
        if end.trial == TrialId::BASE {
            let Verdict::Failed(failure) = &end.verdict else { return None };
            return Some(format!("the base command failed: {} ({})", failure.reason, failure.kind));
        }
        let Verdict::Succeeded { metrics, .. } = &end.verdict else { return None };
        let lineage = Lineage::new(&self.spec, self.draft.stages());
        let (stage, index) = lineage.locate(end.trial)?;
        let rules = &self.spec.stages.get(stage as usize)?.rails.abort_if;
        let words = rules.iter().find_map(|rule| plan::abort_violation(rule, metrics))?;
        Some(format!("`{}`: {words}", lineage.case(stage, index)))
    }

    /// The rails that count: failures of the stage, catastrophic ones of the study. Asked after the result is folded.
    pub(super) fn broken_count_rail(&self, trial: TrialId) -> Option<String> {
        let row = self.draft.trial_row(trial).filter(|row| row.state == TrialState::Failed)?;
        let counters = self.draft.stage_counters(row.stage);
        let stage = self.spec.stages.get(row.stage as usize)?;
        if let Some(max) = stage.rails.max_failure_rate
            && plan::failure_rate_exceeded(max, counters.failed, counters.finished())
        {
            return Some(format!(
                "stage `{}`: {} of {} finished trials failed, more than the rate of {max} allows",
                stage.name,
                counters.failed,
                counters.finished()
            ));
        }
        let catastrophic = self.draft.progress_row().catastrophic;
        let most = self.spec.rails.catastrophic_failures.filter(|most| catastrophic >= *most)?;
        let failures = if catastrophic == 1 { "failure" } else { "failures" };
        Some(format!("{catastrophic} catastrophic {failures}, and the limit is {most}"))
    }

    /// Milliseconds until `max_runtime` is used up; `None` without that rail.
    pub(super) fn runtime_left_ms(&self, now: Now) -> Option<u64> {
        let ran_ms = self.draft.progress_row().earlier_runs_ms.saturating_add(now.run_ms);
        self.spec.rails.max_runtime_ms.map(|most| most.saturating_sub(ran_ms))
    }
}
