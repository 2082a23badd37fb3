//! What the engine folded in memory and has yet to commit.

use std::collections::BTreeMap;

use crate::model::{
    IndexedResult, Proposals, ReadyKey, Record, RunningRow, Seq, StageCounters, StageIndex, StageRow,
    StudyProgress, StudyRow, TrialId, TrialRow,
};

/// What one commit writes: events, and the rows they changed, already folded.
#[derive(Debug, Default)]
pub struct WriteSet {
    /// In order, gap-free after the last committed one.
    pub events: Vec<(Seq, Record)>,
    /// The study row, if it changed.
    pub study: Option<StudyRow>,
    /// The progress row (its chain is filled in by the commit).
    pub progress: Option<StudyProgress>,
    pub stages: BTreeMap<StageIndex, StageRow>,
    pub counters: BTreeMap<StageIndex, StageCounters>,
    pub trials: BTreeMap<TrialId, TrialRow>,
    /// What proposers said of new trials.
    pub proposals: Proposals,
    /// Places in the ready queue: `true` to add, `false` to take.
    pub ready: BTreeMap<ReadyKey, bool>,
    /// Running attempts: added or forgotten.
    pub running: BTreeMap<TrialId, Option<RunningRow>>,
    /// Results that are to be found by their identities, in the order they came.
    pub results: Vec<IndexedResult>,
}

impl WriteSet {
    /// Whether there is nothing to commit.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }
}
