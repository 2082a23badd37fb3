//! How often each case of a stage runs, and what its replicas come to together.
//!
//! The words and the numbers alone; which trials they make is the plan's to say.

use serde::{Deserialize, Serialize};

use super::stage::StageSpec;
use super::types::Objective;
use crate::model::named;

/// One value for those of all replicas of a case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Aggregate {
    /// Their sum in the order of the replicas, divided.
    #[default]
    Mean,
    /// The middle one; of an even number the mean of the middle two.
    Median,
    /// The mean of those in the middle: a quarter of the replicas, rounded down, is left out at each end.
    Midmean,
    /// The worst, by the goal of the objective; of a metric that is none the mean.
    Worst,
}

named!(Aggregate {
    Mean => "mean",
    Median => "median",
    Midmean => "midmean",
    Worst => "worst",
});

impl Aggregate {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    pub(crate) fn is_mean(&self) -> bool {
        *self == Self::Mean
    }
}

/// `[stage.race]`: cases run in rounds of a replica each, and leave when the evidence says that they are not among the survivors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RaceSpec {
    /// So many rounds run before anybody leaves, at least 1.
    pub min: u32,
    /// No more rounds than this, at least `min`.
    pub max: u32,
    /// One of the true best survivors leaves with a probability of at most 1 less this.
    pub confidence: f64,
    /// What each replica is compared by.
    pub objective: Objective,
}

impl RaceSpec {
    /// So much evidence that it is not among so many survivors ends a case's race.
    pub(crate) fn level(&self, survivors: u64) -> f64 {
        let survivors = u32::try_from(survivors).unwrap_or(u32::MAX);
        f64::from(survivors) / (1.0 - self.confidence)
    }

    /// `min` where it is not given, and not above `max`.
    pub(crate) const MIN: u32 = 3;
    /// `max` where it is not given.
    pub(crate) const MAX: u32 = 30;
    /// `confidence` where it is not given.
    pub(crate) const CONFIDENCE: f64 = 0.95;
    /// No race has more cases: each is compared with each, after each round.
    pub(crate) const CASES_MAX: usize = 4_096;
}

/// More replicas than this of one case tell nothing.
pub(crate) const REPLICAS_MAX: u32 = 1_000;

impl StageSpec {
    /// How many replicas a case can have at most; `None` where each trial is a case.
    #[must_use]
    pub fn replicas(&self) -> Option<u32> {
        self.race.as_ref().map(|race| race.max).or(self.repeats)
    }

    /// How many rounds of replicas are planned when the stage opens; `None` where each trial is a case.
    #[must_use]
    pub(crate) fn first_rounds(&self) -> Option<u32> {
        self.race.as_ref().map(|race| race.min).or(self.repeats)
    }

    /// How many cases its budget is for.
    #[must_use]
    pub fn case_budget(&self) -> u64 {
        self.trial_budget / u64::from(self.replicas().unwrap_or(1).max(1))
    }
}
