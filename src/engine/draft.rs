//! The rows the engine holds in memory, and what the next commit must write.
//!
//! It holds the study, its stages and counters, and only those trials that run or are about to: never all trials.
//! Events are folded here by the same function that replays a journal. Nothing here does I/O; a trial the engine
//! folds an event for must have been loaded, or have no row yet.

use std::collections::HashMap;

use crate::journal::{JournalError, Snapshot, WriteSet};
use crate::model::{
    Event, FoldError, ReadyKey, Record, Rows, RunningRow, StageCounters, StageHead, StageIndex, StageRow,
    StageStatus, StudyProgress, StudyRow, TrialId, TrialRow, TrialState, UnixMs, fold,
};

/// See the module.
#[derive(Debug)]
pub struct Draft {
    study: StudyRow,
    progress: StudyProgress,
    stages: Vec<StageRow>,
    counters: Vec<StageCounters>,
    trials: HashMap<TrialId, TrialRow>,
    set: WriteSet,
}

impl Draft {
    /// The rows of a store, without any trial.
    ///
    /// # Errors
    /// [`JournalError`] from reading them.
    pub fn load(snapshot: &Snapshot) -> Result<Self, JournalError> {
        let stages = snapshot.stages()?;
        let counters = stages.iter().map(|stage| snapshot.counters(stage.index)).collect::<Result<_, _>>()?;
        Ok(Self {
            study: snapshot.study()?,
            progress: snapshot.progress()?,
            stages,
            counters,
            trials: HashMap::new(),
            set: WriteSet::default(),
        })
    }

    /// Records an event and folds it.
    ///
    /// # Errors
    /// [`FoldError`]: the engine's idea of the study is wrong; nothing of this draft may be committed any more.
    pub fn emit(&mut self, at_ms: UnixMs, run_ms: u64, event: Event) -> Result<(), FoldError> {
        let seq = self.progress.last_seq + 1;
        let record = Record { at_ms, run_ms, event };
        fold(self, seq, &record)?;
        self.set.events.push((seq, record));
        Ok(())
    }

    /// Keeps a trial's row in memory, because it may start soon.
    pub fn hold(&mut self, row: TrialRow) {
        self.trials.insert(row.trial, row);
    }

    /// Takes what the next commit must write.
    pub fn take(&mut self) -> WriteSet {
        let mut set = std::mem::take(&mut self.set);
        set.progress = Some(self.progress);
        set
    }

    /// Events not taken yet.
    #[must_use]
    pub fn untaken(&self) -> usize {
        self.set.events.len()
    }

    /// Forgets the trials of a committed set that will not start again.
    pub fn forget_final(&mut self, set: &WriteSet) {
        for (trial, row) in &set.trials {
            if matches!(row.state, TrialState::Succeeded | TrialState::Failed | TrialState::Cancelled) {
                self.trials.remove(trial);
            }
        }
    }

    /// Forgets a pending trial that has to be loaded again before it starts.
    pub fn release(&mut self, trial: TrialId) {
        self.trials.remove(&trial);
    }

    /// The study.
    #[must_use]
    pub fn study_row(&self) -> &StudyRow {
        &self.study
    }

    /// Its progress as of the last emitted event.
    #[must_use]
    pub fn progress_row(&self) -> StudyProgress {
        self.progress
    }

    /// All stages, in order.
    #[must_use]
    pub fn stages(&self) -> &[StageRow] {
        &self.stages
    }

    /// The open stage, if there is one, and its counters.
    #[must_use]
    pub fn open_stage(&self) -> Option<(&StageRow, &StageCounters)> {
        self.stages.iter().zip(&self.counters).find(|(stage, _)| stage.status == StageStatus::Open)
    }

    /// A stage's counters.
    #[must_use]
    pub fn stage_counters(&self, index: StageIndex) -> StageCounters {
        self.counters.get(index as usize).copied().unwrap_or_default()
    }

    /// A trial in memory.
    #[must_use]
    pub fn trial_row(&self, trial: TrialId) -> Option<&TrialRow> {
        self.trials.get(&trial)
    }

    /// Amendments are folded straight into a store that no engine has open.
    fn not_while_running(&self, why: String) -> FoldError {
        FoldError { seq: self.progress.last_seq, what: "spec_amended", why }
    }

    /// How many trials are in memory.
    #[must_use]
    pub fn held(&self) -> usize {
        self.trials.len()
    }
}

impl Rows for Draft {
    type Error = FoldError;

    fn study(&mut self) -> Result<Option<StudyRow>, FoldError> {
        Ok(Some(self.study.clone()))
    }
    fn put_study(&mut self, row: StudyRow) -> Result<(), FoldError> {
        self.set.study = Some(row.clone());
        self.study = row;
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
        Ok(self.stages.get(index as usize).cloned())
    }
    fn stage_head(&mut self, index: StageIndex) -> Result<Option<StageHead>, FoldError> {
        Ok(self.stages.get(index as usize).map(StageRow::head))
    }
    fn put_stage(&mut self, row: StageRow) -> Result<(), FoldError> {
        self.set.stages.insert(row.index, row.clone());
        if let Some(place) = self.stages.get_mut(row.index as usize) {
            *place = row;
        }
        Ok(())
    }
    fn counters(&mut self, index: StageIndex) -> Result<StageCounters, FoldError> {
        Ok(self.stage_counters(index))
    }
    fn put_counters(&mut self, index: StageIndex, row: StageCounters) -> Result<(), FoldError> {
        self.set.counters.insert(index, row);
        if let Some(place) = self.counters.get_mut(index as usize) {
            *place = row;
        }
        Ok(())
    }
    fn stage_of(&mut self, trial: TrialId) -> Result<Option<StageIndex>, FoldError> {
        let found = self.stages.iter().find(|s| s.status != StageStatus::Waiting && s.contains(trial));
        Ok(found.map(|stage| stage.index))
    }
    fn trial(&mut self, trial: TrialId) -> Result<Option<TrialRow>, FoldError> {
        Ok(self.trials.get(&trial).cloned())
    }
    fn put_trial(&mut self, row: TrialRow) -> Result<(), FoldError> {
        self.set.trials.insert(row.trial, row.clone());
        self.trials.insert(row.trial, row);
        Ok(())
    }
    fn add_ready(&mut self, key: ReadyKey) -> Result<(), FoldError> {
        self.set.ready.insert(key, true);
        Ok(())
    }
    fn remove_ready(&mut self, key: ReadyKey) -> Result<(), FoldError> {
        if !planted!(ReadyKept) {
            self.set.ready.insert(key, false);
        }
        Ok(())
    }
    fn add_running(&mut self, row: RunningRow) -> Result<(), FoldError> {
        self.set.running.insert(row.trial, Some(row));
        Ok(())
    }
    fn remove_running(&mut self, trial: TrialId) -> Result<(), FoldError> {
        self.set.running.insert(trial, None);
        Ok(())
    }
    fn remove_stage(&mut self, index: StageIndex) -> Result<(), FoldError> {
        Err(self.not_while_running(format!("stage {index} cannot be removed while an engine runs")))
    }
    fn remove_trials(&mut self, first: TrialId) -> Result<u64, FoldError> {
        Err(self.not_while_running(format!("trials from {first} on cannot be removed while an engine runs")))
    }
}
