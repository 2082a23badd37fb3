//! The journal folded again from event 1: for `dump --at` and for `verify`.
//!
//! The replay goes into a store of its own in memory, by the same fold the engine used, and never touches the one it
//! reads.

use std::fmt::Debug;

use redb::Builder;
use redb::backends::InMemoryBackend;

use super::codec::Stored;
use super::error::JournalError;
use super::read::{Reader, Snapshot};
use super::records::{Proposal, Results};
use super::rows::transaction;
use super::storage::CACHE_BYTES;
use super::tables::{self, RecordTable};
use crate::model::{Record, RunningRow, Seq, StageCounters, StageRow, StudyProgress, StudyRow, TrialRow};

/// Events folded in one transaction of a replay.
const BATCH: usize = 10_000;

/// A view of the study as of event `to`.
///
/// # Errors
/// [`JournalError`], also when an event is missing, damaged or does not fit.
pub fn replayed(snapshot: &Snapshot, to: Seq) -> Result<Reader, JournalError> {
    // Alone in its memory: the locks of a shared file are neither needed nor to be had.
    let db = Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(InMemoryBackend::new())?;
    // Makes the tables, for a replay of nothing.
    transaction(&db, |_| Ok(()))?;
    let mut events = snapshot.event_bytes(to)?.peekable();
    let mut expected = 1;
    while events.peek().is_some() {
        transaction(&db, |rows| {
            for event in events.by_ref().take(BATCH) {
                let (seq, record, bytes) = event?;
                if seq != expected {
                    return Err(JournalError::Missing { table: "event", key: expected });
                }
                rows.fold_bytes(seq, &record, &bytes)?;
                expected += 1;
            }
            Ok(())
        })?;
    }
    if expected <= to {
        return Err(JournalError::Missing { table: "event", key: expected });
    }
    Ok(Reader::private(db))
}

/// Something stored that the journal does not fold to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Difference {
    /// Which record.
    pub what: String,
    pub stored: String,
    /// What the events give.
    pub replayed: String,
}

/// What `verify` found in the store itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verification {
    /// Events replayed.
    pub events: u64,
    /// Rows compared.
    pub rows: u64,
    /// Differences; at most 100 are kept.
    pub differences: Vec<Difference>,
}

/// Replays the journal from event 1 and compares every row, and the hash chain, with what is stored.
///
/// # Errors
/// [`JournalError`] when the journal cannot be replayed at all.
pub fn verify(snapshot: &Snapshot) -> Result<Verification, JournalError> {
    let progress = snapshot.progress()?;
    let reader = replayed(snapshot, progress.last_seq)?;
    let replay = reader.snapshot()?;
    let mut found = Verification { events: progress.last_seq, ..Default::default() };
    let beyond = snapshot.records::<Record>(tables::EVENTS, progress.last_seq + 1, u64::MAX)?.count();
    if beyond > 0 {
        found.note("events".into(), format!("{beyond} after the last"), "none".into());
    }
    found.compare::<StudyRow>(snapshot, &replay, tables::STUDY)?;
    found.compare::<StudyProgress>(snapshot, &replay, tables::PROGRESS)?;
    found.compare::<StageRow>(snapshot, &replay, tables::STAGES)?;
    found.compare::<StageCounters>(snapshot, &replay, tables::COUNTERS)?;
    found.compare::<TrialRow>(snapshot, &replay, tables::TRIALS)?;
    found.compare::<Proposal>(snapshot, &replay, tables::PROPOSALS)?;
    found.compare::<RunningRow>(snapshot, &replay, tables::RUNNING)?;
    found.compare::<Results>(snapshot, &replay, tables::RESULTS)?;
    found.compare_ready(snapshot, &replay)?;
    Ok(found)
}

impl Verification {
    fn note(&mut self, what: String, stored: String, replayed: String) {
        if self.differences.len() < 100 {
            self.differences.push(Difference { what, stored, replayed });
        }
    }

    /// Walks both tables in step.
    fn compare<T: Stored + PartialEq + Debug>(
        &mut self,
        stored: &Snapshot,
        replay: &Snapshot,
        table: RecordTable,
    ) -> Result<(), JournalError> {
        let mut left = stored.records::<T>(table, 0, u64::MAX)?.peekable();
        let mut right = replay.records::<T>(table, 0, u64::MAX)?.peekable();
        loop {
            let keys = (key_of(left.peek()), key_of(right.peek()));
            let (mine, theirs) = match keys {
                (None, None) => return Ok(()),
                (Some(a), Some(b)) if a == b => (left.next(), right.next()),
                (Some(a), b) if b.is_none_or(|b| a < b) => (left.next(), None),
                _ => (None, right.next()),
            };
            let (mine, theirs) = (mine.transpose()?, theirs.transpose()?);
            self.rows += 1;
            let key = mine.as_ref().or(theirs.as_ref()).map_or(0, |(key, _)| *key);
            let (mine, theirs) = (mine.map(|(_, row)| row), theirs.map(|(_, row)| row));
            if mine != theirs {
                let words = |row: Option<T>| row.map_or_else(|| "nothing".into(), |row| format!("{row:?}"));
                self.note(format!("{} {key}", T::KIND), words(mine), words(theirs));
            }
        }
    }

    fn compare_ready(&mut self, stored: &Snapshot, replay: &Snapshot) -> Result<(), JournalError> {
        let mut after = None;
        loop {
            let (mine, theirs) = (stored.ready(after, BATCH)?, replay.ready(after, BATCH)?);
            self.rows += mine.len() as u64;
            if mine != theirs {
                let odd = mine.iter().zip(&theirs).find(|(a, b)| a != b);
                let words = odd.map_or_else(
                    || (format!("{} entries", mine.len()), format!("{} entries", theirs.len())),
                    |(a, b)| (format!("trial {}", a.1), format!("trial {}", b.1)),
                );
                self.note("ready queue".into(), words.0, words.1);
                return Ok(());
            }
            match mine.last() {
                Some(last) => after = Some(*last),
                None => return Ok(()),
            }
        }
    }
}

/// The key at the head of a walk; a damaged record counts as its head, so that its error is met.
fn key_of<T>(head: Option<&Result<(u64, T), JournalError>>) -> Option<u64> {
    head.map(|item| item.as_ref().map_or(0, |(key, _)| *key))
}
