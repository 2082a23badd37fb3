//! A new store from what can still be read of a damaged one.
//!
//! The events are the truth: everything else folds from them. They are looked for where a link with a good checksum leads
//! to them, and then, if anything on that way is damaged, in every page of the file, each by its own checksum. What
//! is taken is the longest run of events from the first on; where pages of the past hold other versions of an event
//! (a crash takes back what was not committed), the hash chain that was stored beside the events decides, and where
//! nothing decides, the run ends before it. The damaged file is only read, and an existing file is never
//! replaced. Memory grows with the number of events, not with their bytes.

mod fill;
mod found;
mod rebuild;
mod runs;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::Path;

use super::create::make;
use super::error::OpenError;
use super::guard::guarded;
use super::lock::is_held;
use super::read::Reader;
use crate::model::{Event, Next, Seq, StudyCreated, TrialId};
use fill::{fill, fill_made};
use found::{Found, Spot, has_result};

/// What was recovered and what was not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Salvaged {
    /// Events in the new store: all from the first to this one. Where it was rebuilt, one of them is of salvage's own and says so.
    pub events: Seq,
    /// The last event the damaged store is known to have had.
    pub known: Seq,
    /// Events that can be read beyond a gap, and so cannot be applied.
    pub beyond_gap: u64,
    /// Recovered events that no intact page and no hash chain vouches for, only their own checksums.
    pub unconfirmed: u64,
    /// Trials whose result was recorded after the last recovered event: they run again. Complete as far as they can
    /// still be read.
    pub lost_results: BTreeSet<TrialId>,
    /// Why the last recovered event is the last, when it is not the last there was.
    pub stopped: Option<String>,
    /// Whether the events of the new store were made of the rows of the damaged one, since its own have gaps.
    pub rebuilt: bool,
    /// Events that cannot be read any more.
    pub lost: u64,
}

/// Builds the store `new` from what can be read of `damaged`. `moved` adapts the places in the study's first event to the new
/// store's directory.
///
/// # Errors
/// [`OpenError::Nothing`] when not even the first event can be read, [`OpenError::Exists`] when `new` is there,
/// [`OpenError::Locked`] while an engine writes the store, [`OpenError::Newer`], and what the disk says.
pub(crate) fn salvage(
    damaged: &Path,
    new: &Path,
    moved: impl Fn(&mut StudyCreated),
) -> Result<Salvaged, OpenError> {
    if new.symlink_metadata().is_ok() {
        return Err(OpenError::Exists { path: new.into() });
    }
    let unreadable = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => OpenError::Missing { path: damaged.into() },
        _ => OpenError::Io { path: damaged.into(), cause: error.into() },
    };
    let file = File::open(damaged).map_err(unreadable)?;
    // A system without such locks has no engine that holds one.
    if is_held(file.try_clone().map_err(unreadable)?).unwrap_or(false) {
        return Err(OpenError::Locked { path: damaged.into() });
    }
    let mut found = Found::new(&file).map_err(unreadable)?;
    found.search().map_err(unreadable)?;
    let mut run = found.longest_run().map_err(unreadable)?;
    let first = run.first().map_or(Ok(None), |spot| found.record(1, *spot)).map_err(unreadable)?;
    let first = first.filter(|first| matches!(first.event, Event::StudyCreated(_)));
    let known = found.known();
    let lost = known.saturating_sub(found.records.events.len() as u64);
    let mut report = Salvaged { known, lost, ..Default::default() };
    if first.is_none() || (run.len() as Seq) < known || found.why.is_some() {
        found.ask_events().map_err(unreadable)?;
        if let Some(records) = found.records.kept.records(first.clone(), known, lost) {
            let filled = Cell::new((0, None));
            make(new, &|db| {
                filled.set(guarded(|| fill_made(db, &records, lost, &moved))?);
                Ok(())
            })?;
            (report.events, report.stopped) = filled.take();
            report.rebuilt = true;
            found.conclude(&run, new, &mut report)?;
            return Ok(report);
        }
    }
    if first.is_none() {
        let why = match known {
            0 => "no page of it holds a record of a study",
            _ => {
                "its first event, which has the study file, cannot be read, and neither can all the rows that would \
                 stand in for it"
            }
        };
        return Err(OpenError::Nothing { path: damaged.into(), why });
    }
    found.refuse_replaced(&mut run).map_err(unreadable)?;
    let filled = Cell::new((0, None));
    make(new, &|db| {
        filled.set(guarded(|| fill(db, &found, &run, &moved))?);
        Ok(())
    })?;
    (report.events, report.stopped) = filled.take();
    report.lost = known.saturating_sub(report.events);
    found.conclude(&run, new, &mut report)?;
    Ok(report)
}

impl Found<'_> {
    /// Says what is missing from the new store.
    fn conclude(&self, run: &[Spot], new: &Path, report: &mut Salvaged) -> Result<(), OpenError> {
        let unreadable = |cause| OpenError::Io { path: new.into(), cause };
        let snapshot = Reader::open(new)?.snapshot().map_err(unreadable)?;
        let unconfirmed = |(at, spot): (usize, &Spot)| !spot.certain && at as Seq >= self.confirmed;
        let taken = run.iter().take(usize::try_from(report.events).unwrap_or(usize::MAX));
        report.unconfirmed = taken.enumerate().filter(|item| unconfirmed(*item)).count() as u64;
        let mut results = self.records.results.clone();
        let from = if report.rebuilt { 1 } else { report.events + 1 };
        for (seq, spots) in self.records.events.range(from..) {
            report.beyond_gap += u64::from(!report.rebuilt);
            for spot in spots {
                let record = self.record(*seq, *spot).map_err(|error| unreadable(error.into()))?;
                let event = record.map(|record| record.event);
                if let Some(Event::AttemptEnded(end)) = event.as_ref()
                    && end.next == Next::Final
                {
                    results.insert(end.trial);
                }
                results.extend(event.as_ref().and_then(Event::taken_by));
            }
        }
        // What the newest commit says to wait was made pending again since.
        let waits = |trial: &TrialId| report.rebuilt && self.records.kept.trials.contains_key(trial);
        results.retain(|trial| !waits(trial));
        for trial in results {
            if !snapshot.trial(trial).map_err(unreadable)?.as_ref().is_some_and(has_result) {
                report.lost_results.insert(trial);
            }
        }
        if report.rebuilt {
            report.unconfirmed = 0;
        } else if report.events < report.known {
            let unreadable = || format!("event {} cannot be read", report.events + 1);
            report.stopped = report.stopped.take().or_else(|| self.why.clone()).or_else(|| Some(unreadable()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
