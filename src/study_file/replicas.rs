//! How often each case of a stage runs, and what its replicas come to together.
//!
//! The words and the numbers alone; which trials they make is the plan's to say.

use super::stage::StageSpec;
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

/// More replicas than this of one case tell nothing.
pub(crate) const REPLICAS_MAX: u32 = 1_000;

impl StageSpec {
    /// How many replicas a case can have; `None` where each trial is a case.
    #[must_use]
    pub fn replicas(&self) -> Option<u32> {
        self.repeats
    }

    /// How many rounds of replicas are planned when the stage opens; `None` where each trial is a case.
    #[must_use]
    pub(crate) fn first_rounds(&self) -> Option<u32> {
        self.repeats
    }

    /// How many cases its budget is for.
    #[must_use]
    pub fn case_budget(&self) -> u64 {
        self.trial_budget / u64::from(self.replicas().unwrap_or(1).max(1))
    }
}
