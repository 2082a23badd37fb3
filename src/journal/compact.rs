//! A store written anew without its free space: for archives and for copying, never unasked.
//!
//! The records go, byte for byte and in key order, into a file of another name, whose pages redb then fills to the brim;
//! that file is compared with the store, synced, and renamed over it. Meanwhile the store is locked, so no engine can
//! start on it. A crash at any moment leaves the old store or the new one, and at most the unfinished file, which the
//! next call removes. Nothing may be dropped here, and nothing that does not fit its checksum or the hash chain be
//! passed on as if it did. (redb's own compaction moves pages inside the one file, by commits without quick repair.)

use std::fs::{self, File};
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use redb::{Database, Durability, Key, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, Value};

use super::codec::{Stored, chain_after};
use super::create::remove_leftovers;
use super::error::{JournalError, OpenError};
use super::read::Snapshot;
use super::records::{Proposal, Results};
use super::storage::builder;
use super::tables::{self, RecordTable, decoded};
use super::write::{Journal, sync_directory_of};
use crate::model::{Record, RunningRow, StageCounters, StageRow, StudyProgress, StudyRow, TrialRow};
use crate::sys::temporary::{Access, Temporary};

/// What a compaction did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compacted {
    /// Size of the store before, bytes.
    pub before_bytes: u64,
    /// And now.
    pub after_bytes: u64,
}

/// Why a store was not compacted; it is as it was.
#[derive(Debug, thiserror::Error)]
pub enum CompactError {
    /// It cannot be opened, or an engine has it open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It cannot be read, or does not fit itself.
    #[error("cannot read the store")]
    Store(#[from] JournalError),
    /// The new file cannot be written.
    #[error("cannot write `{}`", path.display())]
    Copy {
        /// The new file.
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
}

/// Writes the store anew, without free space, and puts it in its place.
///
/// # Errors
/// [`CompactError`]; the store is as it was.
pub(crate) fn compact(store: &Path) -> Result<Compacted, CompactError> {
    // The file itself: a rename must not replace a link to it.
    let path = fs::canonicalize(store).map_err(|_| OpenError::Missing { path: store.into() })?;
    let journal = Journal::open_unread(&path).map_err(|error| named(error, store))?;
    let snapshot = journal.snapshot()?;
    remove_leftovers(&path);
    let made = Temporary::beside(&path, Access::Own);
    let made = made.map_err(|cause| CompactError::Copy { path: path.clone(), cause })?;
    let unfinished = made.path().to_owned();
    let failed = |cause| CompactError::Copy { path: unfinished.clone(), cause };
    let before_bytes = fs::metadata(&path).map_err(failed)?.len();
    copy(&snapshot, &unfinished).map_err(|error| blamed(error, &unfinished))?;
    let file = File::open(&unfinished).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    let after_bytes = file.metadata().map_err(failed)?.len();
    if !journal.is_in_place() {
        return Err(failed(io::Error::other("the store was removed or replaced meanwhile")));
    }
    made.replace().map_err(failed)?;
    sync_directory_of(&path).map_err(failed)?;
    Ok(Compacted { before_bytes, after_bytes })
}

/// By the name the user gave it.
fn named(error: OpenError, store: &Path) -> OpenError {
    match error {
        OpenError::Locked { .. } => OpenError::Locked { path: store.into() },
        OpenError::Damaged { cause, .. } => OpenError::Damaged { path: store.into(), cause },
        OpenError::Newer { found, .. } => OpenError::Newer { path: store.into(), found },
        OpenError::Io { cause, .. } => OpenError::Io { path: store.into(), cause },
        other => other,
    }
}

/// A copy that failed, by whose fault.
enum CopyError {
    Store(JournalError),
    /// The new file's.
    Copy(JournalError),
}

fn blamed(error: CopyError, unfinished: &Path) -> CompactError {
    match error {
        CopyError::Store(cause) => CompactError::Store(cause),
        CopyError::Copy(JournalError::Io(cause)) => CompactError::Copy { path: unfinished.into(), cause },
        CopyError::Copy(other) => {
            CompactError::Copy { path: unfinished.into(), cause: io::Error::other(other.to_string()) }
        }
    }
}

/// Blames the new file.
fn to<E: Into<JournalError>>(error: E) -> CopyError {
    CopyError::Copy(error.into())
}

/// Blames the store.
fn from<E: Into<JournalError>>(error: E) -> CopyError {
    CopyError::Store(error.into())
}

fn copy(snapshot: &Snapshot, unfinished: &Path) -> Result<(), CopyError> {
    let mut db = builder().create(unfinished).map_err(to)?;
    fill(snapshot, &db)?;
    // The file grew by doubling; this gives back what lies behind the last page.
    db.compact().map_err(|error| to(JournalError::Store(error.to_string())))?;
    // The last commit is one of the usual kind, so that opening it after a crash is quick.
    let mut tx = db.begin_write().map_err(to)?;
    tx.set_durability(Durability::Immediate).map_err(to)?;
    tx.set_quick_repair(true);
    tx.commit().map_err(to)?;
    db.close().map_err(to)?;
    let db = builder().open(unfinished).map_err(to)?;
    compare(snapshot, &db)?;
    db.close().map_err(to)
}

/// All tables, in one transaction.
fn fill(snapshot: &Snapshot, db: &Database) -> Result<(), CopyError> {
    let source = snapshot.transaction();
    let mut tx = db.begin_write().map_err(to)?;
    tx.set_durability(Durability::Immediate).map_err(to)?;
    tx.set_quick_repair(true);
    each(source, tables::META, |key, value, copy| copy.insert_before(key, value).map_err(to), &tx)?;
    records::<StudyRow>(source, tables::STUDY, &tx)?;
    records::<StudyProgress>(source, tables::PROGRESS, &tx)?;
    records::<StageRow>(source, tables::STAGES, &tx)?;
    records::<StageCounters>(source, tables::COUNTERS, &tx)?;
    records::<TrialRow>(source, tables::TRIALS, &tx)?;
    records::<Proposal>(source, tables::PROPOSALS, &tx)?;
    records::<RunningRow>(source, tables::RUNNING, &tx)?;
    if snapshot.has_results().map_err(CopyError::Store)? {
        records::<Results>(source, tables::RESULTS, &tx)?;
    }
    each(source, tables::READY, |key, value, copy| copy.insert_before(key, value).map_err(to), &tx)?;
    events(snapshot, &tx)?;
    tx.commit().map_err(to)
}

type Cursor<'a, K, V> = redb::CursorMut<'a, K, V>;

/// Passes every entry of a table on.
fn each<K: Key + 'static, V: Value + 'static>(
    source: &ReadTransaction,
    table: TableDefinition<'_, K, V>,
    mut pass: impl FnMut(K::SelfType<'_>, V::SelfType<'_>, &mut Cursor<'_, K, V>) -> Result<(), CopyError>,
    tx: &redb::WriteTransaction,
) -> Result<(), CopyError> {
    let mut copy = tx.open_table(table).map_err(to)?;
    let mut end = copy.upper_bound_mut(Bound::<K::SelfType<'_>>::Unbounded).map_err(to)?;
    for entry in source.open_table(table).map_err(from)?.iter().map_err(from)? {
        let (key, value) = entry.map_err(from)?;
        pass(key.value(), value.value(), &mut end)?;
    }
    end.close().map_err(to)
}

/// Likewise for records, each of which must fit its checksum.
fn records<T: Stored>(
    source: &ReadTransaction,
    table: RecordTable,
    tx: &redb::WriteTransaction,
) -> Result<(), CopyError> {
    let pass = |key: u64, bytes: &[u8], end: &mut Cursor<'_, u64, &'static [u8]>| {
        decoded::<T>(key, bytes).map_err(CopyError::Store)?;
        end.insert_before(key, bytes).map_err(to)
    };
    each(source, table, pass, tx)
}

/// The events, which must be gap-free and give the stored hash chain.
fn events(snapshot: &Snapshot, tx: &redb::WriteTransaction) -> Result<(), CopyError> {
    let progress = snapshot.progress().map_err(CopyError::Store)?;
    let (mut chain, mut last) = ([0; 32], 0);
    let pass = |seq: u64, bytes: &[u8], end: &mut Cursor<'_, u64, &'static [u8]>| {
        decoded::<Record>(seq, bytes).map_err(CopyError::Store)?;
        if seq != last + 1 {
            return Err(from(JournalError::Missing { table: "event", key: last + 1 }));
        }
        (chain, last) = (chain_after(&chain, bytes), seq);
        end.insert_before(seq, bytes).map_err(to)
    };
    each(snapshot.transaction(), tables::EVENTS, pass, tx)?;
    if last != progress.last_seq || chain != progress.chain {
        return Err(from(JournalError::Corrupted("its events do not give its hash chain".into())));
    }
    Ok(())
}

/// Everything is there, byte for byte, and nothing else.
fn compare(snapshot: &Snapshot, db: &Database) -> Result<(), CopyError> {
    let copy = db.begin_read().map_err(to)?;
    let source = snapshot.transaction();
    let tables = [
        tables::STUDY,
        tables::PROGRESS,
        tables::STAGES,
        tables::COUNTERS,
        tables::TRIALS,
        tables::PROPOSALS,
        tables::RUNNING,
        tables::EVENTS,
    ];
    same(source, &copy, tables::META)?;
    same(source, &copy, tables::READY)?;
    if snapshot.has_results().map_err(CopyError::Store)? {
        same(source, &copy, tables::RESULTS)?;
    }
    tables.into_iter().try_for_each(|table| same(source, &copy, table))
}

fn same<K: Key + 'static, V: Value + 'static>(
    source: &ReadTransaction,
    copy: &ReadTransaction,
    table: TableDefinition<'_, K, V>,
) -> Result<(), CopyError> {
    let source = source.open_table(table).map_err(from)?;
    let copy = copy.open_table(table).map_err(to)?;
    let (mut left, mut right) = (source.iter().map_err(from)?, copy.iter().map_err(to)?);
    loop {
        let (left, right) = (left.next().transpose().map_err(from)?, right.next().transpose().map_err(to)?);
        let equal = match (&left, &right) {
            (None, None) => return Ok(()),
            (Some((key, value)), Some((key2, value2))) => {
                K::as_bytes(&key.value()).as_ref() == K::as_bytes(&key2.value()).as_ref()
                    && V::as_bytes(&value.value()).as_ref() == V::as_bytes(&value2.value()).as_ref()
            }
            _ => false,
        };
        if !equal {
            return Err(CopyError::Copy(JournalError::Corrupted("the copy is not what was written".into())));
        }
    }
}
