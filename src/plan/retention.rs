//! Retention: how many of a stage's survivors descend from the first few of an earlier stage's, so whether fewer would have done.
//!
//! Pure, over the stage rows. A case that did not survive had no children, so what it would have come to is not known, and
//! nobody may take this for an answer to that. Where some of those went on to explore, they were drawn, so they tell something of
//! the others: of how many of them a descendant would be among the best.

use super::Lineage;
use crate::model::{StageIndex, StageRow, StageStatus, TrialId};
use crate::study_file::Spec;

/// How the survivors of the last stage that closed descend from those of one before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Retention {
    pub earlier: StageIndex,
    pub later: StageIndex,
    /// How many survived the earlier one.
    pub survivors: u64,
    /// How many went on from the earlier one to explore.
    pub explorers: u64,
    /// From how many of these at least one survivor of the later one descends.
    pub found: u64,
    /// Of each survivor of the later one, best first: the place of its forebear among those, from 1; `None`: it is not among them.
    pub places: Vec<Option<u64>>,
}

impl Retention {
    /// How many descend from the first `count`.
    pub(crate) fn within(&self, count: u64) -> u64 {
        self.places.iter().filter(|place| place.is_some_and(|place| place <= count)).count() as u64
    }

    /// The fewest of the earlier survivors from which all descend; `None` where some descend from none.
    pub(crate) fn needed(&self) -> Option<u64> {
        let places: Option<Vec<u64>> = self.places.iter().copied().collect();
        places.and_then(|places| places.into_iter().max())
    }
}

/// The share that a share of `found` of `of` that were drawn stands for: the 95 % interval of Clopper and Pearson ("The use of
/// confidence or fiducial limits illustrated in the case of the binomial", Biometrika 26, 1934), which holds however few there are. Drawn
/// without replacement it is wider than it had to be. `None` where nobody was drawn.
#[must_use]
pub(crate) fn share_of(found: u64, of: u64) -> Option<[f64; 2]> {
    if of == 0 || found > of {
        return None;
    }
    // The share with which so few, or fewer, are found with this probability: it falls as the share grows.
    let share = |found: u64, probability: f64| {
        let (mut low, mut high) = (0.0_f64, 1.0_f64);
        for _ in 0..60 {
            let middle = f64::midpoint(low, high);
            match at_most(found, of, middle) > probability {
                true => low = middle,
                false => high = middle,
            }
        }
        low
    };
    let low = found.checked_sub(1).map_or(0.0, |fewer| share(fewer, 0.975));
    let high = if found == of { 1.0 } else { share(found, 0.025) };
    Some([low, high])
}

/// The probability that of `of` at most so many are found, if each is with probability `share`, between 0 and 1.
#[expect(clippy::cast_precision_loss, reason = "no study has 2^53 survivors")]
fn at_most(found: u64, of: u64, share: f64) -> f64 {
    let (hit, miss) = (libm::log(share), libm::log1p(-share));
    let mut term = of as f64 * miss;
    let mut sum = libm::exp(term);
    for count in 1..=found {
        term += libm::log((of - count + 1) as f64 / count as f64) + hit - miss;
        sum += libm::exp(term);
    }
    sum
}

/// One for each stage before the last that closed.
pub(crate) fn retention(spec: &Spec, stages: &[StageRow]) -> Vec<Retention> {
    let Some(later) = stages.iter().rev().find(|stage| stage.status == StageStatus::Closed) else {
        return Vec::new();
    };
    let lineage = Lineage::new(spec, stages);
    let up = |trial: TrialId| {
        let (stage, index) = lineage.locate(trial)?;
        lineage.parent(stage, index).map(|parent| parent.trial)
    };
    let mut forebears: Vec<Option<TrialId>> = later.winners().iter().map(|parent| Some(parent.trial)).collect();
    let mut found = Vec::new();
    for earlier in stages.iter().rev().skip_while(|stage| stage.index >= later.index) {
        forebears = forebears.into_iter().map(|trial| trial.and_then(up)).collect();
        let place = |trial: TrialId| {
            let place = earlier.winners().iter().position(|parent| parent.trial == trial)?;
            Some(place as u64 + 1)
        };
        found.push(Retention {
            earlier: earlier.index,
            later: later.index,
            survivors: earlier.winners().len() as u64,
            explorers: earlier.explorers().len() as u64,
            found: earlier.explorers().iter().filter(|parent| forebears.contains(&Some(parent.trial))).count()
                as u64,
            places: forebears.iter().map(|trial| trial.and_then(place)).collect(),
        });
    }
    found.reverse();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected values from an independent program in Python that adds up the terms in 60 decimal digits (`decimal`) and halves the
    /// interval 50 times; of none of n the upper end is 1 - 0.025^(1/n).
    #[test]
    fn the_interval_is_the_exact_one() {
        for (found, of, low, high) in [
            (0, 1, 0.0, 0.975),
            (1, 1, 0.025, 1.0),
            (0, 2, 0.0, 1.0 - 0.025_f64.sqrt()),
            (3, 10, 0.066_739_511_177_734, 0.652_452_850_059_997),
            (7, 40, 0.073_382_729_352_085, 0.327_790_133_361_585),
            (0, 1_000, 0.0, 1.0 - 0.025_f64.powf(1e-3)),
            (1_000, 2_000, 0.477_850_554_231_109, 0.522_149_445_768_89),
        ] {
            let [is_low, is_high] = share_of(found, of).unwrap();
            assert!(
                (is_low - low).abs() < 1e-9 && (is_high - high).abs() < 1e-9,
                "{found} of {of}: {is_low} {is_high}"
            );
        }
        assert_eq!(share_of(0, 0), None);
    }
}
