//! Retention: how many of a stage's survivors descend from the first few of an earlier stage's, so whether fewer would have done.
//!
//! Pure, over the stage rows. A case that did not survive had no children, so what it would have come to is not known, and
//! nobody may take this for an answer to that.

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
    let mut forebears: Vec<Option<TrialId>> = later.survivors.iter().map(|parent| Some(parent.trial)).collect();
    let mut found = Vec::new();
    for earlier in stages.iter().rev().skip_while(|stage| stage.index >= later.index) {
        forebears = forebears.into_iter().map(|trial| trial.and_then(up)).collect();
        let place = |trial: TrialId| {
            let place = earlier.survivors.iter().position(|parent| parent.trial == trial)?;
            Some(place as u64 + 1)
        };
        found.push(Retention {
            earlier: earlier.index,
            later: later.index,
            survivors: earlier.survivors.len() as u64,
            places: forebears.iter().map(|trial| trial.and_then(place)).collect(),
        });
    }
    found.reverse();
    found
}
