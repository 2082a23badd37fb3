//! Looking into a store at any moment, also while an engine writes it, without changing a healthy one.
//!
//! A reader beside a running engine shares the file; a store that a crash left is repaired first (by a moment of
//! writing, or in memory where the file cannot be written). One [`Snapshot`] is one consistent state. It pins the
//! pages it sees, so nobody should keep one longer than one pass over what they need.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use redb::{Database, DatabaseError, ReadOnlyDatabase, ReadTransaction, ReadableDatabase, TableError};

use super::codec::Stored;
use super::error::{JournalError, OpenError, damaged_or_io, open_error};
use super::guard::{Guarded, guarded};
use super::pages::Overlay;
use super::records::{Proposal, Results};
use super::storage;
use super::tables::{self, ONLY, RecordTable, SCHEMA, decoded, get};
use crate::model::{
    Event, Identity, IdentityHash, IndexedResult, Proposals, ReadyKey, Record, ResultsTold, RunningRow, Seq,
    StageCounters, StageIndex, StageRow, StudyProgress, StudyRow, TrialId, TrialRow, Value, Verdict,
};
use crate::sys::disk;

/// An open store, for looking.
pub struct Reader {
    source: Source,
}

enum Source {
    /// Shares the file with its writer.
    Shared(ReadOnlyDatabase),
    /// A view of its own: repaired in memory, or replayed.
    Private(Box<Database>),
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reader")
    }
}

/// How often a store is tried again that another process is just repairing or closing.
const RETRIES: u32 = 40;

impl Reader {
    /// Opens a store for looking.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        Self::opened(path, repair)
    }

    /// The same for a store that is not the caller's to mend: what a crash left is repaired in memory. Such a view stays what it was; whoever
    /// writes the store meanwhile may take the pages under it, and then reading fails.
    ///
    /// # Errors
    /// [`OpenError`].
    pub(crate) fn open_untouched(path: &Path) -> Result<Self, OpenError> {
        Self::opened(path, repair_in_memory)
    }

    /// Whether it was repaired in memory, or never was a file.
    pub(crate) const fn is_private(&self) -> bool {
        matches!(self.source, Source::Private(_))
    }

    fn opened(path: &Path, repair: fn(&Path) -> Result<Repair, OpenError>) -> Result<Self, OpenError> {
        if !disk::exists(path) {
            return Err(OpenError::Missing { path: path.into() });
        }
        // A pipe would be waited for.
        if path.metadata().is_ok_and(|meta| !meta.is_file()) {
            return Err(damaged_or_io(path, JournalError::from(io::Error::other("it is no regular file"))));
        }
        let mut withheld = false;
        for _ in 0..RETRIES {
            let opened = storage::open_read_only(path);
            withheld = matches!(opened, Err(DatabaseError::DatabaseAlreadyOpen));
            match opened {
                Ok(db) => return Self::checked(Source::Shared(db), path),
                Err(DatabaseError::RepairAborted) => match repair(path)? {
                    Repair::Done => {}
                    Repair::InMemory(db) => return Self::checked(Source::Private(Box::new(db)), path),
                    // Somebody is at it; they take milliseconds.
                    Repair::Busy => std::thread::sleep(Duration::from_millis(25)),
                },
                // Engines let others look; but who just made the file holds it for a moment.
                Err(DatabaseError::DatabaseAlreadyOpen) => std::thread::sleep(Duration::from_millis(25)),
                Err(error) => return Err(open_error(path, error)),
            }
        }
        let path = path.into();
        Err(if withheld { OpenError::Withheld { path } } else { OpenError::Locked { path } })
    }

    /// Opens a store that is no file but bytes in memory; `name` is what errors call it. What a crash left is repaired
    /// in memory.
    ///
    /// # Errors
    /// [`OpenError`], as for a file.
    pub fn from_bytes(bytes: Vec<u8>, name: &Path) -> Result<Self, OpenError> {
        Self::over(&Overlay::of_bytes(bytes.into()), name)
    }

    /// Opens a view of a store; what a repair changes is not seen in it.
    pub(crate) fn over(overlay: &Overlay, name: &Path) -> Result<Self, OpenError> {
        match storage::read_overlay(overlay) {
            Ok(db) => Self::checked(Source::Shared(db), name),
            Err(DatabaseError::RepairAborted) => {
                let db = storage::open_over(overlay.copy()).map_err(|error| open_error(name, error))?;
                Self::checked(Source::Private(Box::new(db)), name)
            }
            Err(error) => Err(open_error(name, error)),
        }
    }

    /// A reader over a database nobody else sees.
    pub(super) fn private(db: Database) -> Self {
        Self { source: Source::Private(Box::new(db)) }
    }

    fn checked(source: Source, path: &Path) -> Result<Self, OpenError> {
        match &source {
            Source::Shared(db) => check_schema(db, path)?,
            Source::Private(db) => check_schema(&**db, path)?,
        }
        Ok(Self { source })
    }

    /// The state as of the last commit.
    ///
    /// # Errors
    /// [`JournalError`] from the disk.
    pub fn snapshot(&self) -> Result<Snapshot, JournalError> {
        guarded(|| {
            let tx = match &self.source {
                Source::Shared(db) => db.begin_read(),
                Source::Private(db) => db.begin_read(),
            };
            Snapshot::new(tx?)
        })
    }
}

enum Repair {
    Done,
    InMemory(Database),
    Busy,
}

fn repair(path: &Path) -> Result<Repair, OpenError> {
    match storage::open(path) {
        Ok(db) => {
            guarded(|| Ok(db.close()?)).map_err(|cause| damaged_or_io(path, cause))?;
            Ok(Repair::Done)
        }
        Err(DatabaseError::DatabaseAlreadyOpen) => Ok(Repair::Busy),
        Err(DatabaseError::Storage(redb::StorageError::Io(error)))
            if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) =>
        {
            repair_in_memory(path)
        }
        Err(error) => Err(open_error(path, error)),
    }
}

fn repair_in_memory(path: &Path) -> Result<Repair, OpenError> {
    let io_error = |error| OpenError::Io { path: path.into(), cause: JournalError::Io(error) };
    let overlay = File::open(path).and_then(Overlay::new).map_err(io_error)?;
    let db = storage::open_over(overlay).map_err(|error| open_error(path, error))?;
    Ok(Repair::InMemory(db))
}

/// Refuses what is no store of ours, or of a later layout.
pub(super) fn check_schema(db: &impl ReadableDatabase, path: &Path) -> Result<(), OpenError> {
    let version = || -> Result<Option<u64>, JournalError> {
        let tx = db.begin_read()?;
        match tx.open_table(tables::META) {
            Ok(table) => Ok(table.get(tables::SCHEMA_KEY)?.map(|version| version.value())),
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    };
    match guarded(version).map_err(|cause| damaged_or_io(path, cause))? {
        Some(found) if found > SCHEMA => Err(OpenError::Newer { path: path.into(), found }),
        Some(_) => Ok(()),
        None => Err(OpenError::Damaged {
            path: path.into(),
            cause: JournalError::Corrupted("it has no layout version".into()),
        }),
    }
}

/// An event, its number and the bytes it is stored as.
pub(super) type EventBytes = (Seq, Record, Vec<u8>);

/// One consistent state of a study.
pub struct Snapshot {
    tx: ReadTransaction,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Snapshot")
    }
}

impl Snapshot {
    pub(super) fn new(tx: ReadTransaction) -> Result<Self, JournalError> {
        Ok(Self { tx })
    }

    /// What it reads from.
    pub(super) fn transaction(&self) -> &ReadTransaction {
        &self.tx
    }

    fn one<T: Stored>(&self, table: RecordTable, key: u64) -> Result<Option<T>, JournalError> {
        guarded(|| get(&self.tx.open_table(table)?, key))
    }

    /// The study.
    ///
    /// # Errors
    /// [`JournalError`], also when it is missing.
    pub fn study(&self) -> Result<StudyRow, JournalError> {
        self.one(tables::STUDY, ONLY)?.ok_or(JournalError::Missing { table: "study", key: ONLY })
    }

    /// How many events of the study were lost with a damaged store before this one was made of what was left.
    ///
    /// # Errors
    /// [`JournalError`].
    pub(crate) fn lost_events(&self) -> Result<u64, JournalError> {
        guarded(|| match self.tx.open_table(tables::META) {
            Ok(table) => Ok(table.get(tables::LOST_KEY)?.map_or(0, |lost| lost.value())),
            // A replay in memory has none.
            Err(TableError::TableDoesNotExist(_)) => Ok(0),
            Err(error) => Err(error.into()),
        })
    }

    /// Its progress.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn progress(&self) -> Result<StudyProgress, JournalError> {
        Ok(self.one(tables::PROGRESS, ONLY)?.unwrap_or_default())
    }

    /// All stages, in order.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn stages(&self) -> Result<Vec<StageRow>, JournalError> {
        self.records(tables::STAGES, 0, u64::MAX)?.map(|row| row.map(|(_, stage)| stage)).collect()
    }

    /// A stage's counters.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn counters(&self, stage: StageIndex) -> Result<StageCounters, JournalError> {
        Ok(self.one(tables::COUNTERS, stage.into())?.unwrap_or_default())
    }

    /// A trial, if it ever started.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn trial(&self, trial: TrialId) -> Result<Option<TrialRow>, JournalError> {
        self.one(tables::TRIALS, trial.0)
    }

    /// The trials that started, with numbers from `from` to before `to`, in order, read as they are asked for.
    ///
    /// # Errors
    /// [`JournalError`], also for each item.
    pub fn trials(
        &self,
        from: TrialId,
        to: TrialId,
    ) -> Result<impl Iterator<Item = Result<TrialRow, JournalError>> + use<>, JournalError> {
        Ok(self.records(tables::TRIALS, from.0, to.0)?.map(|row| row.map(|(_, trial)| trial)))
    }

    /// What proposers said of the trials with numbers from `from` to before `to`.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn proposals(&self, from: TrialId, to: TrialId) -> Result<Proposals, JournalError> {
        let records = self.records::<Proposal>(tables::PROPOSALS, from.0, to.0)?;
        records.map(|record| record.map(|(trial, Proposal(values))| (TrialId(trial), values))).collect()
    }

    /// What the proposer of its stage said of one trial.
    ///
    /// # Errors
    /// [`JournalError`].
    pub(crate) fn proposal(&self, trial: TrialId) -> Result<Option<Vec<(String, Value)>>, JournalError> {
        Ok(self.one::<Proposal>(tables::PROPOSALS, trial.0)?.map(|Proposal(values)| values))
    }

    /// The results that were recorded with this identity, in the order they came: hints, which their events have to bear out.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn results(&self, identity: &IdentityHash) -> Result<Vec<IndexedResult>, JournalError> {
        let key = IndexedResult::key_of(identity);
        let found = guarded(|| match self.tx.open_table(tables::RESULTS) {
            Ok(table) => get::<Results>(&table, key),
            // Nothing was ever to be found.
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(error.into()),
        })?;
        let mut results = found.unwrap_or_default().0;
        results.retain(|result| result.identity == *identity);
        Ok(results)
    }

    /// Whether any result can be found by its identity.
    ///
    /// # Errors
    /// [`JournalError`].
    pub(crate) fn has_results(&self) -> Result<bool, JournalError> {
        guarded(|| match self.tx.open_table(tables::RESULTS) {
            Ok(_) => Ok(true),
            Err(TableError::TableDoesNotExist(_)) => Ok(false),
            Err(error) => Err(error.into()),
        })
    }

    /// One event.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn event(&self, seq: Seq) -> Result<Option<Record>, JournalError> {
        self.one(tables::EVENTS, seq)
    }

    /// Events from sequence number `from` on, in order, read as they are asked for.
    ///
    /// # Errors
    /// [`JournalError`], also for each item.
    pub fn events(
        &self,
        from: Seq,
    ) -> Result<impl Iterator<Item = Result<(Seq, Record), JournalError>> + use<>, JournalError> {
        self.records(tables::EVENTS, from, u64::MAX)
    }

    /// What was imported for a stage's proposer, in the order in which it is told. Reads nothing where there is nothing, and all
    /// events since the first of it otherwise.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn told(&self, stage: StageIndex) -> Result<Vec<ResultsTold>, JournalError> {
        let counters = self.counters(stage)?;
        let (mut left, mut found) = (counters.told, Vec::new());
        if left == 0 {
            return Ok(found);
        }
        let name =
            self.stages()?.into_iter().find(|row| row.index == stage).map(|row| row.name).unwrap_or_default();
        // Its index when that was recorded: an amendment may have moved it since. The first of them is its own.
        let mut then = None;
        for event in self.events(counters.told_from)? {
            match event?.1.event {
                Event::ResultsTold(told) if then.is_none_or(|then| then == told.stage) => {
                    then = Some(told.stage);
                    left = left.saturating_sub(told.results.len() as u64);
                    found.push(*told);
                }
                Event::SpecAmended(amended) => then = amended.index_of(&name).or(then),
                _ => {}
            }
            if left == 0 {
                break;
            }
        }
        Ok(found)
    }

    /// What the study's inputs and tools were, from its beginning on: a new one with each amendment. Reads every event.
    ///
    /// # Errors
    /// [`JournalError`].
    pub(crate) fn identities(&self) -> Result<Vec<Identity>, JournalError> {
        let mut found: Vec<Identity> = Vec::new();
        let stages = self.stages()?;
        let mut opened = 0;
        // What was not discarded has the number that it had. Where a number was given anew, the earlier stage is meant: its
        // results are kept for longer.
        let stage_of = |trial: TrialId, opened: StageIndex| {
            stages.iter().find(|row| row.contains(trial)).map_or(opened, |row| row.index.min(opened))
        };
        for event in self.events(1)? {
            let event = event?.1.event;
            let trial_taken = event.taken_by();
            match event {
                Event::StudyCreated(created) => found.push(Identity::new(created.inputs, created.versions)),
                Event::SpecAmended(amended) => {
                    if let Some(from) = amended.discard_from {
                        opened = opened.min(from);
                        found.iter_mut().for_each(|identity| drop(identity.results.split_off(&from)));
                    }
                    found.push(Identity::new(amended.inputs, amended.versions));
                }
                Event::InputsListed { lists } => {
                    if let Some(identity) = found.last_mut() {
                        identity.lists = lists;
                    }
                }
                Event::InputsAccepted { inputs, tools, .. } => {
                    let lists = found.last().map_or_else(Vec::new, |identity| identity.lists.clone());
                    found.iter_mut().for_each(|identity| identity.accept(&inputs, &tools, &lists));
                }
                // What it was made with is what is recorded now.
                Event::BaseKept => {
                    if let Some(identity) = found.last_mut() {
                        *identity.results.entry(0).or_default() += 1;
                    }
                }
                Event::StageOpened { stage, .. } => opened = stage,
                Event::StagesDiscarded { from } => {
                    opened = opened.min(from.saturating_sub(1));
                    found.iter_mut().for_each(|identity| drop(identity.results.split_off(&from)));
                }
                Event::AttemptEnded(end) | Event::BaseEnded(end)
                    if matches!(end.verdict, Verdict::Succeeded { .. } | Verdict::Failed(_)) =>
                {
                    let stage = if end.trial == TrialId::BASE { 0 } else { stage_of(end.trial, opened) };
                    if let Some(identity) = found.last_mut() {
                        *identity.results.entry(stage).or_default() += 1;
                    }
                }
                _ => {
                    if let Some((identity, trial)) = found.last_mut().zip(trial_taken) {
                        *identity.results.entry(stage_of(trial, opened)).or_default() += 1;
                    }
                }
            }
        }
        Ok(found)
    }

    /// The bytes of all events up to `to`, in order, each checked.
    pub(super) fn event_bytes(
        &self,
        to: Seq,
    ) -> Result<impl Iterator<Item = Result<EventBytes, JournalError>> + use<>, JournalError> {
        let range = guarded(|| Ok::<_, JournalError>(self.tx.open_table(tables::EVENTS)?.range(..=to)?))?;
        Ok(Guarded::new(range.map(|entry| {
            let (key, bytes) = entry?;
            let record = decoded(key.value(), bytes.value())?;
            Ok((key.value(), record, bytes.value().to_vec()))
        })))
    }

    /// Records of one table with keys from `from` to before `to`, in order.
    pub(super) fn records<T: Stored>(
        &self,
        table: RecordTable,
        from: u64,
        to: u64,
    ) -> Result<impl Iterator<Item = Result<(u64, T), JournalError>> + use<T>, JournalError> {
        let may_lack = T::KIND == Results::KIND;
        let range = guarded(|| match self.tx.open_table(table) {
            Ok(table) => Ok::<_, JournalError>(Some(table.range(from..to.max(from))?)),
            Err(TableError::TableDoesNotExist(_)) if may_lack => Ok(None),
            Err(error) => Err(error.into()),
        })?;
        let range = range.into_iter().flatten();
        Ok(Guarded::new(range.map(|entry| {
            let (key, bytes) = entry?;
            Ok((key.value(), decoded(key.value(), bytes.value())?))
        })))
    }

    /// Reads everything there is, each page and record against its checksum.
    ///
    /// # Errors
    /// [`JournalError`], for the first that is not as it was written.
    pub(super) fn read_all(&self) -> Result<(), JournalError> {
        self.study()?;
        self.stages()?;
        self.running()?;
        self.records::<StageCounters>(tables::COUNTERS, 0, u64::MAX)?.try_for_each(|row| row.map(drop))?;
        self.records::<TrialRow>(tables::TRIALS, 0, u64::MAX)?.try_for_each(|row| row.map(drop))?;
        self.records::<Proposal>(tables::PROPOSALS, 0, u64::MAX)?.try_for_each(|row| row.map(drop))?;
        self.records::<Record>(tables::EVENTS, 0, u64::MAX)?.try_for_each(|row| row.map(drop))?;
        self.records::<Results>(tables::RESULTS, 0, u64::MAX)?.try_for_each(|row| row.map(drop))?;
        guarded(|| {
            let table = self.tx.open_table(tables::READY)?;
            table.range::<(i64, u64)>(..)?.try_for_each(|entry| Ok(entry.map(drop)?))
        })
    }

    /// The first `limit` places of the ready queue after `after`.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn ready(&self, after: Option<ReadyKey>, limit: usize) -> Result<Vec<ReadyKey>, JournalError> {
        guarded(|| {
            let table = self.tx.open_table(tables::READY)?;
            let range = match after {
                None => table.range::<(i64, u64)>(..)?,
                Some((due_ms, trial)) => table.range((due_ms, trial.0.saturating_add(1))..)?,
            };
            let keys = range.take(limit).map(|entry| {
                let (due_ms, trial) = entry?.0.value();
                Ok((due_ms, TrialId(trial)))
            });
            keys.collect()
        })
    }

    /// The attempts that run, or ran when their engine died.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn running(&self) -> Result<Vec<RunningRow>, JournalError> {
        self.records(tables::RUNNING, 0, u64::MAX)?.map(|row| row.map(|(_, running)| running)).collect()
    }
}
