//! How a run ends: the drain and its limit, termination, and the end of patience with what does not listen.
//!
//! It never undoes anything: what ran is recorded as it ended, or as interrupted.

use super::reusing::Reusing;
use super::{Action, GIVE_UP_AFTER_GRACE_MS, GIVE_UP_REMOTE_MS, Now, Phase, State};
use std::time::Duration;

use crate::executor::Differs;
use crate::model::{Event, FoldError, Rail, RunEnd};
use crate::study_file::Spec;

/// How long terminated trials are waited for, milliseconds.
pub(super) fn give_up_after_ms(spec: &Spec) -> u64 {
    let after_ms = match spec.run.executor.lost_after_ms() {
        Some(lost_after_ms) => lost_after_ms.saturating_add(GIVE_UP_REMOTE_MS),
        None => GIVE_UP_AFTER_GRACE_MS,
    };
    spec.run.grace_ms.saturating_add(after_ms)
}

impl State {
    pub(super) fn drain(&mut self, now: Now, by: String, limit_ms: Option<u64>) -> Result<Vec<Action>, FoldError> {
        if self.phase != Phase::Running {
            return Ok(Vec::new());
        }
        self.phase = Phase::Draining { limit_ms: limit_ms.map(|limit| now.run_ms.saturating_add(limit)) };
        self.emit(now, Event::DrainStarted { by })?;
        Ok(if self.detach { Vec::new() } else { vec![Action::Drain] })
    }

    pub(super) fn force(&mut self, now: Now, by: String) -> Result<Vec<Action>, FoldError> {
        let mut actions = self.drain(now, by, None)?;
        actions.extend(self.terminate(now, true));
        Ok(actions)
    }

    /// What trials depend on is not what is recorded. Nothing of a trial that saw other inputs can count, so what runs is
    /// ended. A survivor's outputs are looked at again when a child of it has ended, so what runs may finish: children of
    /// another parent count.
    pub(super) fn differ(&mut self, now: Now, differs: Differs) -> Result<Vec<Action>, FoldError> {
        let ends = matches!(differs, Differs::Inputs(_));
        let by = differs.words();
        self.differs.get_or_insert(differs);
        // Nor may it be left to the next run.
        self.detach &= !ends;
        let mut actions = self.drain(now, by, None)?;
        if ends {
            actions.extend(self.terminate(now, false));
        }
        Ok(actions)
    }

    fn terminate(&mut self, now: Now, forced: bool) -> Option<Action> {
        match &mut self.phase {
            Phase::Running | Phase::Draining { .. } => {
                let give_up_ms = now.run_ms.saturating_add(give_up_after_ms(&self.spec));
                self.phase = Phase::Terminating { forced, give_up_ms };
                Some(Action::Terminate)
            }
            Phase::Terminating { forced: was, .. } => {
                *was |= forced;
                None
            }
            Phase::Over => None,
        }
    }

    /// The study's running time, the drain's limit, and the end of patience with terminated trials.
    pub(super) fn limits(&mut self, now: Now, actions: &mut Vec<Action>) -> Result<(), FoldError> {
        if self.runtime_left_ms(now) == Some(0) && self.phase == Phase::Running {
            // Which trials had ended by then is a matter of time: of the stage that was open none counts.
            let most = Duration::from_millis(self.spec.rails.max_runtime_ms.unwrap_or(0));
            let reason = format!("the study has run as long as `max_runtime` allows: {most:?}");
            actions.extend(self.abort(now, Rail::MaxRuntime, 0, reason, Vec::new())?);
        }
        match self.phase {
            Phase::Draining { limit_ms: Some(limit) } if now.run_ms >= limit => {
                actions.extend(self.terminate(now, false));
            }
            // Whether they still run is not known: the next run finds out, and none of them runs again before that.
            Phase::Terminating { give_up_ms, .. } if now.run_ms >= give_up_ms && self.executor.is_remote() => {
                self.running.clear();
                self.doomed.clear();
                self.reusing = Reusing::default();
            }
            Phase::Terminating { give_up_ms, .. } if now.run_ms >= give_up_ms => {
                self.submitted.clear();
                self.doomed.clear();
                self.reusing = Reusing::default();
                for (trial, attempt) in std::mem::take(&mut self.running) {
                    self.interrupt(now, trial, attempt, "it did not end when it was terminated".to_owned())?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn finish_after(
        &mut self,
        mut actions: Vec<Action>,
        now: Now,
        how: RunEnd,
    ) -> Result<Vec<Action>, FoldError> {
        self.phase = Phase::Over;
        self.emit(now, Event::RunEnded { how })?;
        actions.push(Action::Finish(how));
        Ok(actions)
    }
}
