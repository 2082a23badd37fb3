//! The writer: opening the store for writing, and the group commit.
//!
//! One transaction per call, quick repair always (redb then commits in two phases), so that opening after a crash
//! costs milliseconds at any size. After any error of a commit the handle is in doubt: the transaction may or may not be
//! there. The caller must stop and drop the handle; the next open finds out.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use redb::{Builder, Database, DatabaseError, ReadableDatabase};

use super::error::{JournalError, OpenError, damaged_or_io, open_error};
use super::guard::guarded;
use super::pages::is_whole;
use super::read::{Reader, Snapshot, check_schema};
use super::rows::{TxRows, transaction};
use super::storage;
use super::write_set::WriteSet;
use crate::model::{Record, Rows, Seq};
use crate::sys::disk;
use crate::sys::files::sync_entry;

/// The store, open for writing. At most one in the world per store.
#[derive(Debug)]
pub struct Journal {
    db: Database,
    path: PathBuf,
    /// The file as this handle left it; `None` over other storage.
    file: Option<Trace>,
    chain: [u8; 32],
    last_seq: Seq,
}

/// The pages of a store up to this size are all read once more when it is closed: some 0.1 s.
const READ_AT_END_BYTES: u64 = 256 << 20;

/// How often, and how far apart, a store is tried again that is locked while no engine seems to live.
const OPEN_RETRIES: u32 = 40;
const OPEN_PAUSE: Duration = Duration::from_millis(25);

/// Whether the engine that a locked store names is one that holds the lock: then it will stay.
fn has_live_engine(path: &Path) -> bool {
    let study = || {
        storage::open_read_only(path).ok().and_then(|db| {
            let snapshot = guarded(|| Snapshot::new(db.begin_read()?)).ok()?;
            snapshot.study().ok()
        })
    };
    let holds = |process| super::writers(path).is_ok_and(|writers| writers.contains(&process));
    study().is_some_and(|study| study.open_engine().is_some_and(|engine| holds(engine.process)))
}

/// Makes the name of a file durable.
pub(super) fn sync_directory_of(path: &Path) -> std::io::Result<()> {
    if injected_fault!(DirectoryNotSynced) {
        return Ok(());
    }
    sync_entry(path)
}

impl Journal {
    /// Opens an existing store for writing, repairing what a crash left.
    ///
    /// # Errors
    /// [`OpenError`]; the file is untouched then, but for the repair.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        if !disk::exists(path) {
            return Err(OpenError::Missing { path: path.into() });
        }
        let mut tries = 0;
        let db = loop {
            let file = Trace::of(path);
            match storage::open(path) {
                // Somebody who looks at a store that a crash left repairs it, which takes milliseconds.
                Err(DatabaseError::DatabaseAlreadyOpen) if tries < OPEN_RETRIES && !has_live_engine(path) => {
                    tries += 1;
                    std::thread::sleep(OPEN_PAUSE);
                }
                // A compaction just put another file in its place; over other storage there is no other file.
                Ok(_) if tries < OPEN_RETRIES && file.is_some() && !same_file(file, Trace::of(path)) => tries += 1,
                other => break other.map_err(|error| open_error(path, error))?,
            }
        };
        // A creation that was killed may have left the store's name without its directory being synced.
        sync_directory_of(path).map_err(|error| OpenError::Io { path: path.into(), cause: error.into() })?;
        let mut journal = Self::from_database(db, path)?;
        journal.file = Trace::of(path);
        Ok(journal)
    }

    /// [`Journal::open`] for whoever has not read the store before: redb marks a file as soon as it opens it for writing, and a damaged one
    /// is refused as it is.
    ///
    /// # Errors
    /// [`OpenError`].
    pub(crate) fn open_unread(path: &Path) -> Result<Self, OpenError> {
        let progress = Reader::open(path)?.snapshot().and_then(|snapshot| snapshot.progress());
        progress.map_err(|cause| damaged_or_io(path, cause))?;
        Self::open(path)
    }

    /// Takes over an open database; for simulations over other storage than a file.
    ///
    /// # Errors
    /// [`OpenError`] as for [`Journal::open`].
    pub(crate) fn from_database(db: Database, path: &Path) -> Result<Self, OpenError> {
        check_schema(&db, path)?;
        let progress = guarded(|| Snapshot::new(db.begin_read()?)).and_then(|snapshot| snapshot.progress());
        let progress = progress.map_err(|cause| damaged_or_io(path, cause))?;
        Ok(Self { db, path: path.into(), file: None, chain: progress.chain, last_seq: progress.last_seq })
    }

    /// Whether the store's path still leads to the file that is open. A removed store swallows every commit.
    #[must_use]
    pub(crate) fn is_in_place(&self) -> bool {
        self.file.is_none() || same_file(self.file, Trace::of(&self.path))
    }

    /// Refuses a file that somebody else wrote or cut off since this handle was last at it. Costs one look at its length and
    /// times; only where those are not as they were left is the whole store read again, by nobody's cache.
    fn refuse_disturbed(&mut self) -> Result<(), JournalError> {
        let (Some(left), Some(now)) = (self.file, Trace::of(&self.path)) else { return Ok(()) };
        if left == now || !same_file(Some(left), Some(now)) {
            return Ok(());
        }
        self.read_again()?;
        // Somebody touched it.
        self.file = Some(now);
        Ok(())
    }

    fn read_again(&self) -> Result<(), JournalError> {
        // By piton's own eyes first: redb is shown no file that is in pieces.
        if !is_whole(&self.path)? {
            return Err(JournalError::Corrupted("it is not as it was written: another process changed it".into()));
        }
        let reader = Reader::open(&self.path).map_err(JournalError::from)?;
        let snapshot = reader.snapshot()?;
        self.compare(&snapshot)?;
        snapshot.read_all()
    }

    /// Whether a view shows the last commit of this handle.
    fn compare(&self, snapshot: &Snapshot) -> Result<(), JournalError> {
        let progress = snapshot.progress()?;
        match (progress.last_seq, progress.chain) == (self.last_seq, self.chain) {
            true => Ok(()),
            false => {
                Err(JournalError::Corrupted("it is not as it was written: another process changed it".into()))
            }
        }
    }

    /// The store's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Sequence number of the last committed event.
    #[must_use]
    pub fn last_seq(&self) -> Seq {
        self.last_seq
    }

    /// Commits durably: when this returns, all of it is on disk.
    ///
    /// # Errors
    /// [`JournalError`]: in doubt, see the module's opening.
    pub fn commit(&mut self, set: &WriteSet) -> Result<(), JournalError> {
        self.commit_whole(set)
            .or_else(|error| if injected_fault!(CommitErrorIgnored) { Ok(()) } else { Err(error) })
    }

    fn commit_whole(&mut self, set: &WriteSet) -> Result<(), JournalError> {
        self.refuse_disturbed()?;
        if injected_fault!(RowsApart) {
            self.transaction(|rows| rows.write(set, self.chain))?;
        }
        if injected_fault!(IndexBeforeResult) && !set.results.is_empty() {
            self.transaction(|rows| rows.write_results(set))?;
        }
        let chain = self.transaction(|rows| {
            let chain = rows.append(self.last_seq, &set.events, self.chain)?;
            rows.write(set, chain)?;
            Ok(chain)
        })?;
        self.chain = chain;
        self.last_seq += set.events.len() as u64;
        self.note_file();
        Ok(())
    }

    /// Remembers the file as this handle leaves it.
    fn note_file(&mut self) {
        if self.is_in_place() {
            self.file = self.file.and(Trace::of(&self.path));
        }
    }

    /// After [`Journal::commit`] of `set` failed for want of space, and some was found: opens the store anew, looks whether
    /// that commit is there, and makes it so. What the store says decides; the handle that failed is not asked.
    ///
    /// # Errors
    /// [`JournalError`]: this handle is of no use any more.
    pub fn commit_anew(&mut self, set: &WriteSet) -> Result<(), JournalError> {
        self.anew(&set.events, |journal| journal.commit(set))
    }

    /// [`Journal::commit_anew`] after [`Journal::append`] failed.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn append_anew(&mut self, records: &[Record]) -> Result<(), JournalError> {
        let first = self.last_seq.saturating_add(1);
        let events: Vec<(Seq, Record)> = (first..).zip(records.iter().cloned()).collect();
        self.anew(&events, |journal| journal.append(records))
    }

    fn anew(
        &mut self,
        events: &[(Seq, Record)],
        commit: impl FnOnce(&mut Self) -> Result<(), JournalError>,
    ) -> Result<(), JournalError> {
        let (before, chain) = (self.last_seq, self.chain);
        // The lock goes with the handle. What stands in for it refuses every commit.
        drop(std::mem::replace(&mut self.db, memory_database()?));
        self.last_seq = Seq::MAX - 1;
        let file = self.file;
        let opened = Self::open(&self.path).map_err(JournalError::from)?;
        if !same_file(opened.file, file) {
            return Err(JournalError::Store("the store was replaced meanwhile".into()));
        }
        *self = opened;
        if (self.last_seq, self.chain) == (before, chain) {
            return commit(self);
        }
        let snapshot = self.snapshot()?;
        let stored: Vec<_> = snapshot.events(before + 1)?.collect::<Result<_, _>>()?;
        if stored != events {
            return Err(JournalError::Store("another process changed the store meanwhile".into()));
        }
        let progress = Some(snapshot.progress()?);
        drop(snapshot);
        // It is there, as far as the page cache says. An error of a sync may have left it there only: pages that were
        // written once more, and synced, are on the disk.
        let chain = self.chain;
        self.transaction(|rows| rows.write(&WriteSet { progress, ..WriteSet::default() }, chain))?;
        self.note_file();
        Ok(())
    }

    /// Appends records and folds them inside the transaction; for changes made while no engine runs.
    ///
    /// # Errors
    /// [`JournalError`]: a record that does not fit leaves the store as it was; otherwise in doubt.
    pub fn append(&mut self, records: &[Record]) -> Result<(), JournalError> {
        let mut seq = self.last_seq;
        let chain = self.transaction(|rows| {
            for record in records {
                seq += 1;
                rows.fold(seq, record)?;
            }
            Ok(rows.progress()?.chain)
        })?;
        self.chain = chain;
        self.last_seq = seq;
        self.note_file();
        Ok(())
    }

    fn transaction<T>(
        &self,
        body: impl FnOnce(&mut TxRows<'_>) -> Result<T, JournalError>,
    ) -> Result<T, JournalError> {
        guarded(|| transaction(&self.db, body))
    }

    /// A consistent view of the last commit.
    ///
    /// # Errors
    /// [`JournalError`] from the disk.
    pub fn snapshot(&self) -> Result<Snapshot, JournalError> {
        guarded(|| Snapshot::new(self.db.begin_read()?))
    }

    /// Lets go of a handle that is not trusted any more.
    pub fn abandon(self) {
        // redb looks at its pages once more, which may be anything by now.
        let dropped = guarded(|| {
            drop(self.db);
            Ok::<_, JournalError>(())
        });
        if let Err(error) = dropped {
            log::debug!("while the store was let go: {error}");
        }
    }

    /// Closes the store in good order, and makes sure that what was committed is what lies at its path now.
    ///
    /// # Errors
    /// [`JournalError`] from the disk; every commit is safe all the same, unless it is damage.
    pub fn close(mut self) -> Result<(), JournalError> {
        self.refuse_disturbed()?;
        // Looked at under the lock: afterwards the next engine may go on.
        if let Some(file) = self.file.filter(|_| self.is_in_place()) {
            // Somebody may have written just while this handle did.
            if file.bytes <= READ_AT_END_BYTES && !is_whole(&self.path)? {
                return Err(JournalError::Corrupted("pages of it are not as they were written".into()));
            }
            let reader = Reader::open(&self.path).map_err(JournalError::from)?;
            self.compare(&reader.snapshot()?)?;
        }
        guarded(|| Ok(self.db.close()?))
    }
}

/// What stands in for a database that is closed.
fn memory_database() -> Result<Database, JournalError> {
    Ok(Builder::new().create_with_backend(redb::backends::InMemoryBackend::new())?)
}

/// A file as it was left: which it is, how long it is and when it was last written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Trace {
    device: u64,
    inode: u64,
    bytes: u64,
    written: (i64, i64),
}

impl Trace {
    fn of(path: &Path) -> Option<Self> {
        let meta = std::fs::metadata(path).ok()?;
        let written = (meta.mtime(), meta.mtime_nsec());
        Some(Self { device: meta.dev(), inode: meta.ino(), bytes: meta.len(), written })
    }
}

/// Whether both are there and the same, whatever was written since.
fn same_file(left: Option<Trace>, now: Option<Trace>) -> bool {
    left.zip(now).is_some_and(|(left, now)| (left.device, left.inode) == (now.device, now.inode))
}
