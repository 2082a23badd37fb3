//! The new store's events, folded one after another: as many as fit, and nothing after the first that does not.

use redb::Database;

use super::super::error::JournalError;
use super::super::rows::{initialise_with, transaction};
use super::super::tables::{decoded, encoded};
use super::found::{Found, Spot};
use crate::model::{Event, Record, Seq, StudyCreated};

/// Events folded in one transaction.
const BATCH: u64 = 10_000;

/// Folds the run into an empty database, as far as it folds: how far, and why no further.
pub(super) fn fill(
    db: &Database,
    found: &Found<'_>,
    run: &[Spot],
    moved: &dyn Fn(&mut StudyCreated),
) -> Result<(Seq, Option<String>), JournalError> {
    let event = |seq: Seq| -> Result<Option<(Record, Vec<u8>)>, JournalError> {
        let spot = usize::try_from(seq - 1).ok().and_then(|at| run.get(at));
        let Some(spot) = spot else { return Ok(None) };
        let missing = JournalError::Missing { table: "event", key: seq };
        let bytes = found.pages.bytes(spot.offset, spot.len.into())?.ok_or(missing)?;
        let mut record = decoded::<Record>(seq, &bytes)?;
        let before = record.event.clone();
        if let Event::StudyCreated(created) = &mut record.event {
            moved(created);
        }
        // A study that stays where it is keeps its events byte for byte.
        let bytes = if record.event == before { bytes } else { encoded(seq, &record)? };
        Ok(Some((record, bytes)))
    };
    let first = event(1)?.ok_or(JournalError::Missing { table: "event", key: 1 })?;
    let lost = found.known().saturating_sub(run.len() as u64);
    initialise_with(db, lost, |rows| rows.fold_bytes(1, &first.0, &first.1))?;
    let (mut done, mut end, mut why) = (1, run.len() as Seq, None);
    while done < end {
        let last = end.min(done + BATCH);
        let mut at = done;
        let folded = transaction(db, |rows| {
            while at < last {
                let Some((record, bytes)) = event(at + 1)? else { break };
                rows.fold_bytes(at + 1, &record, &bytes)?;
                at += 1;
            }
            Ok(())
        });
        match folded {
            Ok(()) => done = last,
            // The transaction is taken back: what came before the event that does not fit is folded again.
            Err(error) if error.is_damage() && at >= done => {
                why = Some(error.to_string());
                end = at;
            }
            Err(error) => return Err(error),
        }
    }
    Ok((done, why))
}

/// Folds made events into an empty database, as far as they fold: how far, and why no further.
pub(super) fn fill_made(
    db: &Database,
    records: &[Record],
    lost: u64,
    moved: &dyn Fn(&mut StudyCreated),
) -> Result<(Seq, Option<String>), JournalError> {
    let Some((first, others)) = records.split_first() else {
        return Err(JournalError::Missing { table: "event", key: 1 });
    };
    let mut first = first.clone();
    if let Event::StudyCreated(created) = &mut first.event {
        moved(created);
    }
    initialise_with(db, lost, |rows| rows.fold(1, &first))?;
    let mut done: Seq = 1;
    let mut left = others;
    while !left.is_empty() {
        let batch = left.get(..left.len().min(usize::try_from(BATCH).unwrap_or(usize::MAX))).unwrap_or(left);
        let mut fits = 0;
        let folded = transaction(db, |rows| {
            for (record, seq) in batch.iter().zip(done + 1..) {
                rows.fold(seq, record)?;
                fits += 1;
            }
            Ok(())
        });
        match folded {
            Ok(()) => {
                done += batch.len() as u64;
                left = left.get(batch.len()..).unwrap_or_default();
            }
            // The transaction is taken back: what fits is folded again, and nothing after it.
            Err(error) if error.is_damage() => {
                let fitting = batch.get(..fits).unwrap_or_default();
                transaction(db, |rows| {
                    fitting.iter().zip(done + 1..).try_for_each(|(record, seq)| rows.fold(seq, record))
                })?;
                return Ok((done + fits as u64, Some(error.to_string())));
            }
            Err(error) => return Err(error),
        }
    }
    Ok((done, None))
}
