//! Rows in ordinary maps: what the fold is held against in tests and by the fuzzer. No program keeps its rows here.

use std::collections::{BTreeMap, BTreeSet};

use super::fold::{FoldError, Rows};
use super::ids::{ReadyKey, StageIndex, TrialId};
use super::reuse::IndexedResult;
use super::rows::{
    Proposals, RunningRow, Severity, StageCounters, StageRow, StageStatus, StudyProgress, StudyRow, TrialRow,
    TrialState,
};
use super::value::Value;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    /// The study, once it is created.
    pub study: Option<StudyRow>,
    pub progress: StudyProgress,
    pub stages: BTreeMap<StageIndex, StageRow>,
    pub counters: BTreeMap<StageIndex, StageCounters>,
    /// Trials that started.
    pub trials: BTreeMap<TrialId, TrialRow>,
    /// What proposers said.
    pub proposals: Proposals,
    /// The ready queue.
    pub ready: BTreeSet<ReadyKey>,
    pub running: BTreeMap<TrialId, RunningRow>,
    /// Results by the keys of their identities.
    pub results: BTreeMap<u64, Vec<IndexedResult>>,
}

fn missing() -> FoldError {
    FoldError { seq: 0, what: "model", why: "it is not there".into() }
}

impl Rows for Memory {
    type Error = FoldError;

    fn study(&mut self) -> Result<Option<StudyRow>, FoldError> {
        Ok(self.study.clone())
    }
    fn put_study(&mut self, row: StudyRow) -> Result<(), FoldError> {
        self.study = Some(row);
        Ok(())
    }
    fn progress(&mut self) -> Result<StudyProgress, FoldError> {
        Ok(self.progress)
    }
    fn put_progress(&mut self, row: StudyProgress) -> Result<(), FoldError> {
        self.progress = row;
        Ok(())
    }
    fn stage(&mut self, index: StageIndex) -> Result<Option<StageRow>, FoldError> {
        Ok(self.stages.get(&index).cloned())
    }
    fn put_stage(&mut self, row: StageRow) -> Result<(), FoldError> {
        self.stages.insert(row.index, row);
        Ok(())
    }
    fn counters(&mut self, index: StageIndex) -> Result<StageCounters, FoldError> {
        Ok(self.counters.get(&index).copied().unwrap_or_default())
    }
    fn put_counters(&mut self, index: StageIndex, row: StageCounters) -> Result<(), FoldError> {
        self.counters.insert(index, row);
        Ok(())
    }
    fn stage_of(&mut self, trial: TrialId) -> Result<Option<StageIndex>, FoldError> {
        let begun = |stage: &&StageRow| stage.status != StageStatus::Waiting && stage.contains(trial);
        Ok(self.stages.values().rev().find(begun).map(|stage| stage.index))
    }
    fn trial(&mut self, trial: TrialId) -> Result<Option<TrialRow>, FoldError> {
        Ok(self.trials.get(&trial).cloned())
    }
    fn put_trial(&mut self, row: TrialRow) -> Result<(), FoldError> {
        self.trials.insert(row.trial, row);
        Ok(())
    }
    fn put_proposal(&mut self, trial: TrialId, values: Vec<(String, Value)>) -> Result<(), FoldError> {
        self.proposals.insert(trial, values);
        Ok(())
    }
    fn put_result(&mut self, result: IndexedResult) -> Result<(), FoldError> {
        result.clone().add_to(self.results.entry(IndexedResult::key_of(&result.identity)).or_default());
        Ok(())
    }
    fn add_ready(&mut self, key: ReadyKey) -> Result<(), FoldError> {
        self.ready.insert(key);
        Ok(())
    }
    fn remove_ready(&mut self, key: ReadyKey) -> Result<(), FoldError> {
        if self.ready.remove(&key) { Ok(()) } else { Err(missing()) }
    }
    fn add_running(&mut self, row: RunningRow) -> Result<(), FoldError> {
        self.running.insert(row.trial, row);
        Ok(())
    }
    fn remove_running(&mut self, trial: TrialId) -> Result<(), FoldError> {
        self.running.remove(&trial).map(|_| ()).ok_or_else(missing)
    }
    fn remove_stage(&mut self, index: StageIndex) -> Result<(), FoldError> {
        self.stages.remove(&index);
        self.counters.remove(&index);
        Ok(())
    }
    fn remove_trials(&mut self, first: TrialId, end: TrialId) -> Result<u64, FoldError> {
        let is_kept = |trial: &TrialId| *trial < first || *trial >= end;
        let mut gone = self.trials.split_off(&first);
        self.trials.append(&mut gone.split_off(&end));
        self.proposals.retain(|trial, _| is_kept(trial));
        self.ready.retain(|(_, trial)| is_kept(trial));
        let worst = |row: &&TrialRow| {
            row.state == TrialState::Failed
                && row.failure.as_ref().is_some_and(|failure| failure.severity == Severity::Catastrophic)
        };
        Ok(gone.values().filter(worst).count() as u64)
    }
}
