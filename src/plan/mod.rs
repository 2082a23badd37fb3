//! The plan: which trials a stage has, what each one's params are, and which survive.
//!
//! Everything here is a pure function of the checked spec, the stage rows and recorded metrics: no I/O, no clock, the
//! same bits on every machine. Nothing of the size of all trials is held (selection keeps objective values where
//! its definition needs them, and `distinct` some short lists); any trial's values are found from its index alone. A
//! change to any number this module gives needs a new [`VERSION`].

mod aggregate;
pub(crate) mod amend;
mod bounds;
mod candidate;
mod choice;
mod distinct;
mod draw;
pub(crate) mod evidence;
mod exact;
mod explore;
pub(crate) mod forecast;
mod grid;
pub(crate) mod held;
mod identity;
pub(crate) mod keep;
mod lineage;
mod listed;
pub(crate) mod mend;
mod pareto;
mod permutation;
mod race;
mod rails;
mod random;
mod retention;
mod retry;
mod select;
mod sobol;
mod summary;
pub(crate) mod what_if;

use crate::model::{FirstObjective, Proposing, Replicas, StageDecl, StageRow, StudyRow};
use crate::study_file::{Goal, RANDOM_LOG_CASES_MAX, SOBOL_CASES_MAX, Sampling, Spec, StageSpec};

pub(crate) use aggregate::{Aggregated, aggregated};
pub(crate) use bounds::unmet;
pub(crate) use choice::{Choice, Chosen};
pub(crate) use identity::{IdentityPart, KnownBy, MadeWith, PartKind, StageIdentity, doubt_of, is_checked};
pub use lineage::Lineage;
pub(crate) use lineage::{case_name, trial_name};
pub(crate) use race::{Race, RoundOver};
pub(crate) use rails::{Judge, Outcome, Ruled, broken, outcome, ruled, worth};
pub(crate) use retention::{Retention, retention, share_of};
pub(crate) use retry::{delay_ms, is_retried};
pub(crate) use select::{Ranked, Score};
pub use summary::BestTrial;
pub(crate) use summary::{StageSummary, StageTrials};

/// Version of the numbers this module gives; a store keeps the one its study began with.
pub const VERSION: u32 = 2;

/// Why this program does not know the params of a study's trials, if it does not: another planner numbered them.
#[must_use]
pub(crate) fn other_version(study: &StudyRow) -> Option<String> {
    let words = || format!("its trials are numbered by plan {}, this piton has {VERSION}", study.plan_version);
    (study.plan_version != VERSION).then(words)
}

/// How many cases each survivor of the stage before gets, best first; one entry for stage 0 (`parents` is 0).
///
/// The budget is cut evenly, the best get what is left over. No parent gets more than there are different cases: the
/// sweep's combinations, a file's cases, one without a sweep. A parent beyond the budget keeps an entry of 0.
#[must_use]
pub fn shares(stage: &StageSpec, parents: usize) -> Vec<u64> {
    let count = u64::try_from(parents.max(1)).unwrap_or(u64::MAX);
    let (even, left) = (stage.case_budget() / count, stage.case_budget() % count);
    let most = share_max(stage);
    (0..count).map(|position| (even + u64::from(position < left)).min(most)).collect()
}

/// Plans the trials of a stage that opens, whose row has its shares already: as many rounds of replicas as are known to run.
pub fn plan_trials(stage: &StageSpec, row: &mut StageRow) {
    row.replicas = Replicas::default();
    row.planned = if matches!(stage.sampling, Sampling::Ask(_)) { 0 } else { row.room() };
    if let Some(count) = stage.first_rounds() {
        row.add_rounds(count, row.proposing != Proposing::No);
    }
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
        proposed: matches!(stage.sampling, Sampling::Ask(_)),
    });
    stages.collect()
}

/// The most different cases one parent can have.
fn share_max(stage: &StageSpec) -> u64 {
    let combinations = combinations(stage).unwrap_or(u64::MAX);
    match &stage.sampling {
        Sampling::Sobol => combinations.min(SOBOL_CASES_MAX),
        Sampling::Random if distinct::listed(&stage.sweep) => combinations.min(RANDOM_LOG_CASES_MAX),
        _ => combinations,
    }
}

/// How many different cases one parent can have: the sweep's combinations, or a file's cases. `None` where a range
/// of floats without steps has no number of points, or 64 bits cannot count them.
#[must_use]
pub fn combinations(stage: &StageSpec) -> Option<u64> {
    match &stage.sampling {
        Sampling::File(file) => Some(listed::count(file)),
        _ => grid::combinations(&stage.sweep),
    }
}

/// The keys of a grid that a budget of `share` trials for each parent leaves at their first value.
#[must_use]
pub fn unvaried(stage: &StageSpec, share: u64) -> Vec<&str> {
    match &stage.sampling {
        Sampling::Grid => grid::unvaried(&stage.sweep, share),
        _ => Vec::new(),
    }
}

/// How many cases of a stage's file said what an earlier one says, and are run once.
#[must_use]
pub fn merged(stage: &StageSpec) -> u64 {
    match &stage.sampling {
        Sampling::File(file) => file.cases.as_ref().map_or(0, |cases| cases.merged),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::{Range, Stage, Study};

    fn stage(build: impl FnOnce(Stage) -> Stage) -> StageSpec {
        let stage = build(Stage::unbound("s").survivors(1));
        Study::builder("t").stage(stage).spec().unwrap().stages.remove(0)
    }

    #[test]
    fn the_budget_is_cut_evenly_and_the_best_get_the_rest() {
        let wide = stage(|s| s.budget(11).range("n", Range::int(1..=100)));
        assert_eq!(shares(&wide, 0), [11]);
        assert_eq!(shares(&wide, 1), [11]);
        assert_eq!(shares(&wide, 4), [3, 3, 3, 2]);
        assert_eq!(shares(&wide, 13), [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0]);
    }

    #[test]
    fn no_parent_gets_more_than_there_are_combinations() {
        let grid = stage(|s| s.budget(100).choices("a", [1, 2, 3]).range("f", Range::float(0.0..=1.0).steps(2)));
        assert_eq!(shares(&grid, 0), [6]);
        assert_eq!(shares(&grid, 3), [6, 6, 6]);
        let random = stage(|s| s.budget(100).sampling(Sampling::Random).choices("a", [1, 2, 3]));
        assert_eq!(shares(&random, 3), [3, 3, 3]);
        let ranged = stage(|s| {
            s.budget(100).sampling(Sampling::Random).choices("a", [1, 2]).range("f", Range::float(0.0..=1.0))
        });
        assert_eq!(shares(&ranged, 3), [34, 33, 33]);
        let sobol = stage(|s| s.budget(100).sampling(Sampling::Sobol).choices("a", [1, 2, 3]));
        assert_eq!(shares(&sobol, 2), [3, 3]);
        for sampling in [Sampling::Grid, Sampling::Random, Sampling::Sobol] {
            let bare = stage(|s| s.budget(100).sampling(sampling));
            assert_eq!(shares(&bare, 0), [1]);
            assert_eq!(shares(&bare, 3), [1, 1, 1]);
        }
    }
}
