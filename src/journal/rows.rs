//! The rows inside a write transaction, for folding events straight into a store: replay, and changes made while no
//! engine runs. (The engine folds into memory first; see `engine`.)

use std::ops::Bound;

use redb::{Database, Durability, WriteTransaction};

use super::codec::chain_after;
use super::error::JournalError;
use super::records::{Proposal, Results};
use super::tables::{self, ONLY, get, put};
use super::write_set::WriteSet;
use crate::model::{
    IndexedResult, ReadyKey, Record, Rows, RunningRow, Seq, Severity, StageCounters, StageIndex, StageRow,
    StageStatus, StudyProgress, StudyRow, TrialId, TrialRow, TrialState, Value, fold,
};

/// One durable transaction with quick repair.
pub(super) fn transaction<T>(
    db: &Database,
    body: impl FnOnce(&mut TxRows<'_>) -> Result<T, JournalError>,
) -> Result<T, JournalError> {
    let mut tx = db.begin_write()?;
    tx.set_durability(Durability::Immediate)?;
    tx.set_quick_repair(true);
    let result = {
        let mut rows = TxRows::open(&tx)?;
        body(&mut rows)?
    };
    tx.commit()?;
    Ok(result)
}

/// Makes the tables of a new store, its layout version and its first event, in one transaction.
pub(super) fn initialise(db: &Database, first: &[Record]) -> Result<(), JournalError> {
    initialise_with(db, 0, |rows| (1..).zip(first).try_for_each(|(seq, record)| rows.fold(seq, record)))
}

/// The same, with what `first` puts there, for a store that had lost so many events.
pub(super) fn initialise_with(
    db: &Database,
    lost: u64,
    first: impl FnOnce(&mut TxRows<'_>) -> Result<(), JournalError>,
) -> Result<(), JournalError> {
    let mut tx = db.begin_write()?;
    tx.set_durability(Durability::Immediate)?;
    tx.set_quick_repair(true);
    tx.open_table(tables::META)?.insert(tables::SCHEMA_KEY, tables::SCHEMA)?;
    if lost > 0 {
        tx.open_table(tables::META)?.insert(tables::LOST_KEY, lost)?;
    }
    first(&mut TxRows::open(&tx)?)?;
    tx.commit()?;
    Ok(())
}

/// Open tables of one write transaction.
pub(super) struct TxRows<'txn> {
    study: redb::Table<'txn, u64, &'static [u8]>,
    progress: redb::Table<'txn, u64, &'static [u8]>,
    events: redb::Table<'txn, u64, &'static [u8]>,
    stages: redb::Table<'txn, u64, &'static [u8]>,
    counters: redb::Table<'txn, u64, &'static [u8]>,
    trials: redb::Table<'txn, u64, &'static [u8]>,
    proposals: redb::Table<'txn, u64, &'static [u8]>,
    ready: redb::Table<'txn, (i64, u64), ()>,
    running: redb::Table<'txn, u64, &'static [u8]>,
    /// Made by the first result that is to be found again.
    results: Option<redb::Table<'txn, u64, &'static [u8]>>,
    tx: &'txn WriteTransaction,
}

impl<'txn> TxRows<'txn> {
    pub(super) fn open(tx: &'txn WriteTransaction) -> Result<Self, JournalError> {
        Ok(Self {
            study: tx.open_table(tables::STUDY)?,
            progress: tx.open_table(tables::PROGRESS)?,
            events: tx.open_table(tables::EVENTS)?,
            stages: tx.open_table(tables::STAGES)?,
            counters: tx.open_table(tables::COUNTERS)?,
            trials: tx.open_table(tables::TRIALS)?,
            proposals: tx.open_table(tables::PROPOSALS)?,
            ready: tx.open_table(tables::READY)?,
            running: tx.open_table(tables::RUNNING)?,
            results: None,
            tx,
        })
    }

    /// Appends events whose rows are written by [`TxRows::write`], after the event `last`; the chain after them.
    pub(super) fn append(
        &mut self,
        last: Seq,
        events: &[(Seq, Record)],
        mut chain: [u8; 32],
    ) -> Result<[u8; 32], JournalError> {
        // All at one place: redb goes there once, and fills its pages.
        let mut end = self.events.upper_bound_mut(Bound::<u64>::Unbounded)?;
        for ((seq, record), expected) in events.iter().zip(last + 1..) {
            if *seq != expected {
                return Err(JournalError::Missing { table: "event", key: expected });
            }
            let bytes = tables::encoded(*seq, record)?;
            chain = chain_after(&chain, &bytes);
            end.insert_before(*seq, bytes.as_slice())?;
        }
        end.close()?;
        Ok(chain)
    }

    /// Appends an event and folds it into the rows.
    pub(super) fn fold(&mut self, seq: Seq, record: &Record) -> Result<(), JournalError> {
        self.fold_bytes(seq, record, &tables::encoded(seq, record)?)
    }

    /// Appends an event by its bytes as they are, and folds it into the rows.
    pub(super) fn fold_bytes(&mut self, seq: Seq, record: &Record, bytes: &[u8]) -> Result<(), JournalError> {
        self.events.insert(seq, bytes)?;
        let chain = chain_after(&self.progress()?.chain, bytes);
        fold(self, seq, record)?;
        let mut progress = self.progress()?;
        progress.chain = chain;
        self.put_progress(progress)
    }

    /// Writes rows that were folded elsewhere.
    pub(super) fn write(&mut self, set: &WriteSet, chain: [u8; 32]) -> Result<(), JournalError> {
        if let Some(study) = &set.study {
            put(&mut self.study, ONLY, study)?;
        }
        if let Some(progress) = set.progress {
            self.put_progress(StudyProgress { chain, ..progress })?;
        }
        for (index, stage) in &set.stages {
            put(&mut self.stages, (*index).into(), stage)?;
        }
        for (index, counters) in &set.counters {
            self.put_counters(*index, *counters)?;
        }
        for (trial, row) in &set.trials {
            put(&mut self.trials, trial.0, row)?;
        }
        for (trial, values) in &set.proposals {
            put(&mut self.proposals, trial.0, &Proposal(values.clone()))?;
        }
        self.write_results(set)?;
        for ((due_ms, trial), add) in &set.ready {
            if *add {
                self.ready.insert((*due_ms, trial.0), ())?;
            } else {
                self.ready.remove((*due_ms, trial.0))?;
            }
        }
        for (trial, row) in &set.running {
            match row {
                Some(row) => put(&mut self.running, trial.0, row)?,
                None => drop(self.running.remove(trial.0)?),
            }
        }
        Ok(())
    }
}

impl TxRows<'_> {
    /// Lets the results of a set be found.
    pub(super) fn write_results(&mut self, set: &WriteSet) -> Result<(), JournalError> {
        set.results.iter().try_for_each(|result| self.put_result(result.clone()))
    }
}

impl Rows for TxRows<'_> {
    type Error = JournalError;

    fn study(&mut self) -> Result<Option<StudyRow>, JournalError> {
        get(&self.study, ONLY)
    }
    fn put_study(&mut self, row: StudyRow) -> Result<(), JournalError> {
        put(&mut self.study, ONLY, &row)
    }
    fn progress(&mut self) -> Result<StudyProgress, JournalError> {
        Ok(get(&self.progress, ONLY)?.unwrap_or_default())
    }
    fn put_progress(&mut self, row: StudyProgress) -> Result<(), JournalError> {
        put(&mut self.progress, ONLY, &row)
    }
    fn stage(&mut self, index: StageIndex) -> Result<Option<StageRow>, JournalError> {
        get(&self.stages, index.into())
    }
    fn put_stage(&mut self, row: StageRow) -> Result<(), JournalError> {
        put(&mut self.stages, row.index.into(), &row)
    }
    fn counters(&mut self, index: StageIndex) -> Result<StageCounters, JournalError> {
        Ok(get(&self.counters, index.into())?.unwrap_or_default())
    }
    fn put_counters(&mut self, index: StageIndex, row: StageCounters) -> Result<(), JournalError> {
        put(&mut self.counters, index.into(), &row)
    }
    fn stage_of(&mut self, trial: TrialId) -> Result<Option<StageIndex>, JournalError> {
        let count = self.study()?.map_or(0, |study| study.stage_count);
        for index in (0..count).rev() {
            if let Some(stage) = self.stage(index)?
                && stage.status != StageStatus::Waiting
                && stage.contains(trial)
            {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }
    fn trial(&mut self, trial: TrialId) -> Result<Option<TrialRow>, JournalError> {
        get(&self.trials, trial.0)
    }
    fn put_trial(&mut self, row: TrialRow) -> Result<(), JournalError> {
        put(&mut self.trials, row.trial.0, &row)
    }
    fn put_proposal(&mut self, trial: TrialId, values: Vec<(String, Value)>) -> Result<(), JournalError> {
        put(&mut self.proposals, trial.0, &Proposal(values))
    }
    fn put_result(&mut self, result: IndexedResult) -> Result<(), JournalError> {
        let table = match &mut self.results {
            Some(table) => table,
            none => none.insert(self.tx.open_table(tables::RESULTS)?),
        };
        let key = IndexedResult::key_of(&result.identity);
        let mut results = get::<Results>(table, key)?.unwrap_or_default();
        result.add_to(&mut results.0);
        put(table, key, &results)
    }
    fn add_ready(&mut self, (due_ms, trial): ReadyKey) -> Result<(), JournalError> {
        self.ready.insert((due_ms, trial.0), ())?;
        Ok(())
    }
    fn remove_ready(&mut self, (due_ms, trial): ReadyKey) -> Result<(), JournalError> {
        match self.ready.remove((due_ms, trial.0))? {
            Some(_) => Ok(()),
            None => Err(JournalError::Missing { table: "ready", key: trial.0 }),
        }
    }
    fn add_running(&mut self, row: RunningRow) -> Result<(), JournalError> {
        put(&mut self.running, row.trial.0, &row)
    }
    fn remove_running(&mut self, trial: TrialId) -> Result<(), JournalError> {
        match self.running.remove(trial.0)? {
            Some(_) => Ok(()),
            None => Err(JournalError::Missing { table: "running", key: trial.0 }),
        }
    }
    fn remove_stage(&mut self, index: StageIndex) -> Result<(), JournalError> {
        self.stages.remove(u64::from(index))?;
        self.counters.remove(u64::from(index))?;
        Ok(())
    }
    fn remove_trials(&mut self, first: TrialId, end: TrialId) -> Result<u64, JournalError> {
        let mut catastrophic = 0;
        for removed in self.trials.extract_from_if(first.0..end.0.max(first.0), |_, _| true)? {
            let (key, bytes) = removed?;
            let row: TrialRow = tables::decoded(key.value(), bytes.value())?;
            let failed = row.failure.filter(|_| row.state == TrialState::Failed);
            catastrophic += u64::from(failed.is_some_and(|failure| failure.severity == Severity::Catastrophic));
        }
        let is_kept = |trial: u64| trial < first.0 || trial >= end.0;
        self.proposals.retain(|trial, _| is_kept(trial))?;
        self.ready.retain(|(_, trial), ()| is_kept(trial))?;
        Ok(catastrophic)
    }
}
