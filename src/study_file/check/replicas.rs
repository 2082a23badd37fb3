//! `repeats`, and what it asks of the rest of a stage.

use crate::study_file::diagnostics::Diagnostic;
use crate::study_file::stage::{StageParts, Survivors};
use crate::study_file::types::Sampling;
use crate::study_file::walk::{Checker, Field};

impl StageParts {
    /// How many replicas each case has at most, where that can be read.
    pub(super) fn replicas(&self) -> u64 {
        self.repeats.good().copied().unwrap_or(1).max(1)
    }

    /// How many cases the budget is for.
    pub(super) fn cases(&self) -> Option<u64> {
        Some(self.trial_budget.good()? / self.replicas())
    }
}

impl Checker<'_> {
    /// Whether the budget is enough for as many cases as are to survive, each with all its replicas.
    pub(super) fn budget(&mut self, parts: &StageParts) {
        let (Field::Good(budget, budget_place), replicas) = (&parts.trial_budget, parts.replicas()) else {
            return;
        };
        let cases = budget / replicas;
        let each = if replicas > 1 { format!(", at {replicas} trials a case") } else { String::new() };
        if cases == 0 {
            let message = format!("`trial_budget` {budget} is not enough for one case{each}");
            self.report(Diagnostic::at(budget_place, message).label(format!("expected at least {replicas}")));
            return;
        }
        if let Field::Good(Survivors::AtMost(survivors), place) = &parts.survivor_count
            && *survivors > cases
        {
            let message = match replicas {
                1 => format!("`survivor_count` {survivors} is above `trial_budget` {budget}"),
                _ => format!(
                    "`survivor_count` {survivors} is above the {cases} cases of `trial_budget` {budget}{each}"
                ),
            };
            self.report(Diagnostic::at(place, message).label(format!("expected at most {cases}")));
        }
    }

    /// What replicas do not go with.
    pub(super) fn replicas_suit(&mut self, parts: &StageParts) {
        let Field::Good(_, place) = &parts.repeats else { return };
        if parts.replicas() < 2 {
            return;
        }
        if !matches!(parts.halving, Field::Absent) {
            let message = "`repeats` does not go with `halving`: a rung compares trials, and here they are replicas of cases";
            self.report(Diagnostic::at(place, message).label("remove one of both"));
        }
        if matches!(parts.sampling.good(), Some(Sampling::Ask(_))) {
            let message = "`repeats` does not go with a proposer yet";
            let help = "repeat the measurement within the trial, or choose another `sampling`";
            self.report(Diagnostic::at(place, message).label("not with `ask`").help(help));
        }
    }
}
