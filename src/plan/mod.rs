//! The plan: which trials a stage has, what each one's params are, and which survive.
//!
//! Everything here is a pure function of the checked spec, the stage rows and recorded metrics: no I/O, no clock, the
//! same bits on every machine. Nothing of the size of all trials is held (selection keeps objective values where
//! its definition needs them); any trial's values are found from its index alone. A change to any number this module
//! gives needs a new [`VERSION`].

pub mod amend;
mod draw;
mod grid;
mod lineage;
mod listed;
mod rails;
mod random;
mod retry;
mod select;

use crate::model::{FirstObjective, StageDecl};
use crate::spec::{Goal, Sampling, Spec, StageSpec};

pub use lineage::Lineage;
pub use rails::{FAILURE_RATE_AFTER, abort_violation, failure_rate_exceeded};
pub use retry::delay_ms;
pub use select::{Ranked, Score, Selector};

/// Version of the numbers this module gives; a store keeps the one its study began with.
pub const VERSION: u32 = 1;

/// How many trials each survivor of the stage before gets, best first; one entry for stage 0 (`parents` is 0).
///
/// The budget is cut evenly, the best get what is left over. No parent gets more than the sweep has combinations (on
/// a grid) or more than one without a sweep. A parent beyond the budget keeps an entry of 0.
#[must_use]
pub fn shares(stage: &StageSpec, parents: usize) -> Vec<u64> {
    let count = u64::try_from(parents.max(1)).unwrap_or(u64::MAX);
    let (even, left) = (stage.trial_budget / count, stage.trial_budget % count);
    let most = share_max(stage);
    (0..count).map(|position| (even + u64::from(position < left)).min(most)).collect()
}

/// The stages as the journal knows them.
#[must_use]
pub fn declared(spec: &Spec) -> Vec<StageDecl> {
    let stages = spec.stages.iter().map(|stage| StageDecl {
        name: stage.name.clone(),
        trial_budget: stage.trial_budget,
        survivor_count: stage.survivor_count,
        objective: stage.objectives.first().map(|objective| FirstObjective {
            metric: objective.metric.clone(),
            maximize: objective.goal == Goal::Maximize,
        }),
    });
    stages.collect()
}

/// The most different cases one parent can have.
fn share_max(stage: &StageSpec) -> u64 {
    match &stage.sampling {
        Sampling::File(file) => listed::count(file),
        _ if stage.sweep.is_empty() => 1,
        Sampling::Grid => grid::combinations(&stage.sweep),
        Sampling::Random | Sampling::Sobol => u64::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Spec, StageBuilder};

    fn stage(build: impl FnOnce(StageBuilder) -> StageBuilder) -> StageSpec {
        let stage = build(StageBuilder::closure("s").survivors(1));
        Spec::builder("t").stage(stage).build().unwrap().stages.remove(0)
    }

    #[test]
    fn the_budget_is_cut_evenly_and_the_best_get_the_rest() {
        let wide = stage(|s| s.budget(11).int("n", 1, 100, None));
        assert_eq!(shares(&wide, 0), [11]);
        assert_eq!(shares(&wide, 1), [11]);
        assert_eq!(shares(&wide, 4), [3, 3, 3, 2]);
        assert_eq!(shares(&wide, 13), [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0]);
    }

    #[test]
    fn no_parent_gets_more_than_there_are_combinations() {
        let grid = stage(|s| s.budget(100).choices("a", [1, 2, 3]).float("f", 0.0, 1.0, Some(2)));
        assert_eq!(shares(&grid, 0), [6]);
        assert_eq!(shares(&grid, 3), [6, 6, 6]);
        let random = stage(|s| s.budget(100).sampling(Sampling::Random).choices("a", [1, 2, 3]));
        assert_eq!(shares(&random, 3), [34, 33, 33]);
        for sampling in [Sampling::Grid, Sampling::Random] {
            let bare = stage(|s| s.budget(100).sampling(sampling));
            assert_eq!(shares(&bare, 0), [1]);
            assert_eq!(shares(&bare, 3), [1, 1, 1]);
        }
    }
}
