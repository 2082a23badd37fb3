//! The rows the engine holds in memory, and what the next commit must write.
//!
//! It holds the study, its stages and counters, and only those trials that run or are about to: never all trials.
//! Events are folded here by the same function that replays a journal. Nothing here does I/O; a trial the engine
//! folds an event for must have been loaded, or have no row yet.

use std::collections::{BTreeSet, HashMap};

use crate::journal::{JournalError, Snapshot, WriteSet};
use crate::model::{
    Event, FoldError, IndexedResult, Proposals, Proposing, ReadyKey, Record, Rows, RunningRow, StageCounters,
    StageHead, StageIndex, StageRow, StageStatus, StudyProgress, StudyRow, TrialId, TrialRow, TrialState, UnixMs,
    Value, fold,
};
use crate::plan::{Lineage, StageSummary};
use crate::study_file::Spec;

/// See the module.
#[derive(Debug)]
pub struct Draft {
    study: StudyRow,
    progress: StudyProgress,
    stages: Vec<StageRow>,
    counters: Vec<StageCounters>,
    trials: HashMap<TrialId, TrialRow>,
    /// Of the open stage, and of every survivor.
    proposals: Proposals,
    /// Trials of the open stage that its proposer proposed and that are not final.
    unfinished: BTreeSet<TrialId>,
    /// Those of them that the next commit must write.
    changed: BTreeSet<TrialId>,
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
        let mut proposals = parents_proposals(snapshot, &stages)?;
        let mut unfinished = BTreeSet::new();
        let open = stages.iter().find(|stage| stage.status == StageStatus::Open);
        if let Some(stage) = open.filter(|stage| stage.proposing != Proposing::No) {
            let end = stage.end();
            proposals.extend(snapshot.proposals(stage.first_trial, end)?);
            unfinished = unfinished_of(snapshot, stage)?;
        }
        Ok(Self {
            study: snapshot.study()?,
            progress: snapshot.progress()?,
            stages,
            counters,
            proposals,
            unfinished,
            trials: HashMap::new(),
            changed: BTreeSet::new(),
            set: WriteSet::default(),
        })
    }

    /// The lowest trial of the open stage that its proposer proposed and that is not final.
    #[must_use]
    pub(crate) fn first_unfinished(&self) -> Option<TrialId> {
        self.unfinished.first().copied()
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

    /// Takes what the next commit must write. Trials that will not start again are in memory no longer.
    pub fn take(&mut self) -> WriteSet {
        for trial in std::mem::take(&mut self.changed) {
            let row = match self.trials.get(&trial) {
                Some(row) if row.state.is_final() => self.trials.remove(&trial),
                row => row.cloned(),
            };
            self.set.trials.extend(row.map(|row| (trial, row)));
        }
        let mut set = std::mem::take(&mut self.set);
        set.progress = Some(self.progress);
        set
    }

    /// Events not taken yet, in order.
    pub(super) fn untaken_events(&self) -> impl Iterator<Item = &Event> {
        self.set.events.iter().map(|(_, record)| &record.event)
    }

    /// Forgets the trials of a committed set that will not start again.
    pub fn forget_final(&mut self, set: &WriteSet) {
        for (trial, row) in &set.trials {
            if row.state.is_final() {
                self.trials.remove(trial);
            }
        }
    }

    /// Takes in the trials that run, or ran when their engine died. Which attempts those are.
    ///
    /// # Errors
    /// [`JournalError`].
    pub(crate) fn hold_running(&mut self, snapshot: &Snapshot) -> Result<Vec<RunningRow>, JournalError> {
        let running = snapshot.running()?;
        for row in &running {
            if let Some(trial) = snapshot.trial(row.trial)? {
                self.hold(trial);
            }
        }
        Ok(if injected_fault!(LeftRunning) { Vec::new() } else { running })
    }

    /// Takes in trials that wait for a decision about what they have shown.
    pub(crate) fn hold_waiting(&mut self, rows: Vec<TrialRow>) {
        for row in rows {
            let is_asked = self.open_stage().is_some_and(|(stage, _)| stage.proposing != Proposing::No);
            if is_asked && row.state == TrialState::Undecided {
                self.unfinished.insert(row.trial);
            }
            self.hold(row);
        }
    }

    /// Forgets a pending trial that has to be loaded again before it starts. One that waits for a decision stays.
    pub(crate) fn release(&mut self, trial: TrialId) {
        if self.trials.get(&trial).is_some_and(TrialRow::awaits_decision) {
            return;
        }
        let row = self.trials.remove(&trial);
        if self.changed.remove(&trial) {
            self.set.trials.extend(row.map(|row| (trial, row)));
        }
    }

    /// The study.
    #[must_use]
    pub fn study_row(&self) -> &StudyRow {
        &self.study
    }

    /// Its progress as of the last emitted event.
    #[must_use]
    pub(crate) fn progress_row(&self) -> StudyProgress {
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

    /// A stage summed up.
    #[must_use]
    pub fn summary<'a>(&'a self, spec: &'a Spec, index: StageIndex) -> Option<StageSummary<'a>> {
        let row = self.stages.get(index as usize)?;
        let lineage = Lineage::new(spec, &self.stages).with_proposals(&self.proposals);
        Some(StageSummary::new(lineage, row, self.stage_counters(index)))
    }

    /// A trial in memory.
    #[must_use]
    pub(crate) fn trial_row(&self, trial: TrialId) -> Option<&TrialRow> {
        self.trials.get(&trial)
    }

    /// A place that comes and goes within one commit, or goes and comes, is as it was.
    fn change_ready(&mut self, key: ReadyKey, add: bool) {
        match self.set.ready.get(&key) {
            Some(before) if *before != add => drop(self.set.ready.remove(&key)),
            _ => drop(self.set.ready.insert(key, add)),
        }
    }

    /// Amendments are folded straight into a store that no engine has open.
    fn not_while_running(&self, why: String) -> FoldError {
        FoldError { seq: self.progress.last_seq, what: "spec_amended", why }
    }

    /// What proposers said of the open stage's trials and of every survivor.
    #[must_use]
    pub fn proposals(&self) -> &Proposals {
        &self.proposals
    }

    /// How many trials are in memory.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.trials.len()
    }
}

/// What proposers said of survivors and parents: what the trials after them inherit.
pub(crate) fn parents_proposals(snapshot: &Snapshot, stages: &[StageRow]) -> Result<Proposals, JournalError> {
    let mut proposals = Proposals::new();
    if stages.iter().all(|stage| stage.proposing == Proposing::No) {
        return Ok(proposals);
    }
    // A stage that was opened again has none, or others than its children's.
    for parent in stages.iter().flat_map(|stage| stage.survivors.iter().chain(&stage.parents)) {
        if !proposals.contains_key(&parent.trial) {
            proposals.extend(snapshot.proposal(parent.trial)?.map(|values| (parent.trial, values)));
        }
    }
    Ok(proposals)
}

/// Trials of a stage that are not final: those that wait, those that run, and those that never began.
fn unfinished_of(snapshot: &Snapshot, stage: &StageRow) -> Result<BTreeSet<TrialId>, JournalError> {
    let begun = snapshot.counters(stage.index)?.next_index;
    let mut found: BTreeSet<TrialId> =
        (begun..stage.planned()).map(|index| TrialId(stage.first_trial.0.saturating_add(index))).collect();
    let ready = snapshot.ready(None, usize::MAX)?.into_iter().map(|(_, trial)| trial);
    let running = snapshot.running()?.into_iter().map(|row| row.trial);
    found.extend(ready.chain(running).filter(|trial| stage.contains(*trial)));
    Ok(found)
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
    fn stage_name(&mut self, index: StageIndex) -> Result<String, FoldError> {
        Ok(self.stages.get(index as usize).map_or_else(String::new, |stage| stage.name.clone()))
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
    /// After an event that does not fit nothing of this draft counts any more, so nobody misses the row.
    fn take_trial(&mut self, trial: TrialId) -> Result<Option<TrialRow>, FoldError> {
        Ok(self.trials.remove(&trial))
    }
    fn put_trial(&mut self, row: TrialRow) -> Result<(), FoldError> {
        self.changed.insert(row.trial);
        if row.state.is_final() {
            self.unfinished.remove(&row.trial);
        }
        self.trials.insert(row.trial, row);
        Ok(())
    }
    fn put_proposal(&mut self, trial: TrialId, values: Vec<(String, Value)>) -> Result<(), FoldError> {
        self.set.proposals.insert(trial, values.clone());
        self.proposals.insert(trial, values);
        self.unfinished.insert(trial);
        Ok(())
    }
    fn put_result(&mut self, result: IndexedResult) -> Result<(), FoldError> {
        self.set.results.push(result);
        Ok(())
    }
    fn add_ready(&mut self, key: ReadyKey) -> Result<(), FoldError> {
        self.change_ready(key, true);
        Ok(())
    }
    fn remove_ready(&mut self, key: ReadyKey) -> Result<(), FoldError> {
        if !injected_fault!(ReadyKept) {
            self.change_ready(key, false);
        }
        Ok(())
    }
    fn add_running(&mut self, row: RunningRow) -> Result<(), FoldError> {
        self.set.running.insert(row.trial, Some(row));
        Ok(())
    }
    fn remove_running(&mut self, trial: TrialId) -> Result<(), FoldError> {
        // A first attempt that begins and ends within one commit was never in the store.
        match self.set.running.get(&trial) {
            Some(Some(row)) if row.attempt == 1 => drop(self.set.running.remove(&trial)),
            _ => drop(self.set.running.insert(trial, None)),
        }
        Ok(())
    }
    fn remove_stage(&mut self, index: StageIndex) -> Result<(), FoldError> {
        Err(self.not_while_running(format!("stage {index} cannot be removed while an engine runs")))
    }
    fn remove_trials(&mut self, first: TrialId, _: TrialId) -> Result<u64, FoldError> {
        Err(self.not_while_running(format!("trials from {first} on cannot be removed while an engine runs")))
    }
}
