//! `improve_within`, and what it asks of the rest of a stage: *better* must mean one thing, whatever is still to come.

use crate::study_file::diagnostics::Diagnostic;
use crate::study_file::stage::StageParts;
use crate::study_file::types::{Sampling, Selection};
use crate::study_file::walk::{Checker, Field};

impl Checker<'_> {
    /// Whether a stage that ends when nothing gets better can tell what is better.
    pub(super) fn improving_suits(&mut self, parts: &StageParts) {
        if parts.spec.rails.improve_within.is_none() {
            return;
        }
        let by_all = matches!(parts.selection.good(), Some(Selection::WeightedSum | Selection::Pareto));
        let (message, label) = if matches!(&parts.objectives, Field::Absent)
            || parts.objectives.good().is_some_and(Vec::is_empty)
        {
            ("`improve_within` needs an objective", "nothing is better here")
        } else if by_all {
            (
                "`improve_within` goes with `top` and `lexicographic` selection: by the other two all trials together say what is better",
                "choose one of those",
            )
        } else if parts.replicas() > 1 {
            (
                "`improve_within` does not go with `repeats` or `race`: a trial is no case there",
                "remove one of both",
            )
        } else if !matches!(parts.halving, Field::Absent) {
            ("`improve_within` does not go with `halving`: both say when less is run", "remove one of both")
        } else if matches!(parts.sampling.good(), Some(Sampling::Ask(_))) {
            (
                "`improve_within` does not go with a proposer, which says itself when it has no more",
                "not with `ask`",
            )
        } else {
            return;
        };
        self.report(Diagnostic::at(&parts.place, message).label(label));
    }
}
