//! The tables, by names a person with a redb browser can read, and typed access to them.

use redb::{ReadableTable, TableDefinition};

use super::codec::{Stored, decode, encode};
use super::error::JournalError;

/// Version of the layout below; a store with a larger one is refused, never reset.
pub(super) const SCHEMA: u64 = 1;

/// Encoded records by number.
pub(super) type RecordTable = TableDefinition<'static, u64, &'static [u8]>;

/// `schema` → layout version. Plain, so that every version of piton can read it.
pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Key of the layout version in [`META`].
pub(super) const SCHEMA_KEY: &str = "schema";
/// Key, in [`META`], of how many events a store had lost when it was salvaged; not there: none.
pub(super) const LOST_KEY: &str = "lost_events";
/// 0 → the study's row.
pub(super) const STUDY: RecordTable = TableDefinition::new("study");
/// 0 → the study's progress.
pub(super) const PROGRESS: RecordTable = TableDefinition::new("progress");
/// Sequence number → event; append-only, gap-free from 1.
pub(super) const EVENTS: RecordTable = TableDefinition::new("events");
/// Stage index → stage.
pub(super) const STAGES: RecordTable = TableDefinition::new("stages");
/// Stage index → its counters.
pub(super) const COUNTERS: RecordTable = TableDefinition::new("counters");
/// Trial → its row, once it started.
pub(super) const TRIALS: RecordTable = TableDefinition::new("trials");
/// Trial → what its stage's proposer said it tries.
pub(super) const PROPOSALS: RecordTable = TableDefinition::new("proposals");
/// (earliest start in Unix ms, trial): pending trials below the stage's `next_index`.
pub(super) const READY: TableDefinition<'_, (i64, u64), ()> = TableDefinition::new("ready");
/// Trial → its running attempt.
pub(super) const RUNNING: RecordTable = TableDefinition::new("running");

/// The beginning of an identity → the results that have it. Only in stores of studies that reuse.
pub(super) const RESULTS: RecordTable = TableDefinition::new("results");

/// Key of the single rows.
pub(super) const ONLY: u64 = 0;

pub(super) fn get<T: Stored>(
    table: &impl ReadableTable<u64, &'static [u8]>,
    key: u64,
) -> Result<Option<T>, JournalError> {
    table.get(key)?.map(|bytes| decoded(key, bytes.value())).transpose()
}

/// Decodes one record, naming it in the error.
pub(super) fn decoded<T: Stored>(key: u64, bytes: &[u8]) -> Result<T, JournalError> {
    decode(key, bytes).map_err(|cause| JournalError::Record { table: T::KIND, key, cause })
}

pub(super) fn put<T: Stored>(
    table: &mut redb::Table<'_, u64, &'static [u8]>,
    key: u64,
    value: &T,
) -> Result<(), JournalError> {
    table.insert(key, encoded(key, value)?.as_slice())?;
    Ok(())
}

/// Encodes one record, naming it in the error.
pub(super) fn encoded<T: Stored>(key: u64, value: &T) -> Result<Vec<u8>, JournalError> {
    encode(key, value).map_err(|cause| JournalError::Record { table: T::KIND, key, cause })
}
