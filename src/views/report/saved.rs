//! What a study did not have to compute: results that were taken over, and trials that were ended early.
//!
//! How many there are is counted. How long they would have taken is an estimate, and is called so: what the trials of their
//! stage that ran to their end took on average. A stage without such trials is left out of it.

use maud::{Markup, html};

use crate::model::TrialState;
use crate::views::TrialSummary;
use crate::views::text::{counted, duration};

/// Of one stage; sums of all of them.
#[derive(Debug, Default)]
pub(super) struct Saved {
    reused: u64,
    imported: u64,
    pruned: u64,
    /// What those that were pruned took, microseconds.
    pruned_us: u64,
    /// Trials that ran to their end, and what they took, microseconds.
    whole: u64,
    whole_us: u64,
    /// By the mean of those, microseconds; what stages before this one saved.
    spared_us: u64,
}

impl Saved {
    /// Takes a trial of the stage into account.
    pub(super) fn note(&mut self, trial: &TrialSummary<'_>) {
        self.reused += u64::from(trial.reused_from().is_some());
        self.imported += u64::from(trial.imported().is_some());
        let took_us = || trial.usage().map_or(0, |usage| usage.wall_us);
        match trial.state {
            TrialState::Pruned => {
                self.pruned += 1;
                self.pruned_us = self.pruned_us.saturating_add(took_us());
            }
            TrialState::Succeeded if !trial.attempts().is_empty() => {
                self.whole += 1;
                self.whole_us = self.whole_us.saturating_add(took_us());
            }
            _ => {}
        }
    }

    /// With what another stage saved.
    pub(super) fn and(self, stage: Self) -> Self {
        Self {
            reused: self.reused + stage.reused,
            imported: self.imported + stage.imported,
            pruned: self.pruned + stage.pruned,
            spared_us: self.spared_us.saturating_add(stage.stage_us()),
            ..Self::default()
        }
    }

    fn stage_us(&self) -> u64 {
        let Some(mean) = self.whole_us.checked_div(self.whole) else { return 0 };
        let would = mean.saturating_mul(self.reused + self.imported + self.pruned);
        would.saturating_sub(self.pruned_us)
    }

    /// A sentence; nothing where nothing was saved.
    pub(super) fn section(&self) -> Markup {
        let parts: Vec<String> = [
            (self.reused, "took the result of an equal one"),
            (self.imported, "took a result that was imported"),
            (self.pruned, "ended early, being pruned"),
        ]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, words)| format!("{} {words}", counted(count, "trial")))
        .collect();
        html! {
            @if !parts.is_empty() {
                p #saved {
                    "Not computed: " (parts.join("; ")) "."
                    @if self.spared_us > 0 {
                        " That spared about " strong { (duration(self.spared_us)) } " of the trials' running time, "
                        "by what those that ran to their end took on average."
                    }
                }
            }
        }
    }
}
