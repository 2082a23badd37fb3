//! What is left in a damaged file: events with their places, and the rows and hash chains beside them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;

use super::super::codec::{Stored, decode};
use super::super::pages::{Commit, Page, Pages, u64_at};
use super::super::records::Proposal;
use super::rebuild::Kept;
use crate::model::{Record, Seq, StageRow, StudyProgress, StudyRow, TrialId, TrialRow, TrialState};

/// A record in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) offset: u64,
    pub(super) len: u32,
    /// The record's hash, shortened: versions of it differ in it.
    pub(super) hash: u64,
    /// Whether links with good checksums lead to it.
    pub(super) certain: bool,
}

/// Everything found in a damaged file.
pub(super) struct Found<'a> {
    pub(super) pages: Pages<'a>,
    pub(super) records: Records,
    /// The last event that a stored hash chain vouches for.
    pub(super) confirmed: Seq,
    /// Why the run of events ends where it does, if something speaks against the next.
    pub(super) why: Option<String>,
}

/// The records on its pages.
#[derive(Default)]
pub(super) struct Records {
    pub(super) events: BTreeMap<Seq, Vec<Spot>>,
    /// Hash chains after events, as progress rows of all ages have them.
    pub(super) chains: BTreeMap<Seq, Vec<[u8; 32]>>,
    /// The last event by the newest commit, where its progress row is intact.
    pub(super) committed: Option<StudyProgress>,
    /// Trials with a result by intact pages.
    pub(super) results: BTreeSet<TrialId>,
    /// Rows that intact pages hold.
    pub(super) kept: Kept,
}

impl<'a> Found<'a> {
    pub(super) fn new(file: &'a File) -> io::Result<Self> {
        Ok(Self { pages: Pages::new(file)?, records: Records::default(), confirmed: 0, why: None })
    }

    /// The record at a place, if it can still be read.
    pub(super) fn record(&self, seq: Seq, spot: Spot) -> io::Result<Option<Record>> {
        let bytes = self.pages.bytes(spot.offset, spot.len.into())?;
        Ok(bytes.and_then(|bytes| decode::<Record>(seq, &bytes).ok()))
    }

    /// Looks along the links, and everywhere else if they do not lead everywhere.
    pub(super) fn search(&mut self) -> io::Result<()> {
        // The older commit is of use only where the newer is damaged.
        for (commit, is_newest) in self.pages.commits()?.into_iter().zip([true, false]) {
            self.follow(commit, is_newest)?;
            if !self.pages.is_torn() {
                return Ok(());
            }
        }
        let records = &mut self.records;
        self.pages.scan(&mut |page, offset| {
            records.take_events(page, offset, false);
            records.take_chains(page);
        })
    }

    fn follow(&mut self, commit: Commit, is_newest: bool) -> io::Result<()> {
        let tables = self.pages.tables(commit)?;
        let is_first = self.records.committed.is_none();
        let records = &mut self.records;
        for table in tables {
            let take: &mut dyn FnMut(Page<'_>, u64) = match table.name.as_slice() {
                b"events" => &mut |page, offset| records.take_events(page, offset, true),
                b"progress" => &mut |page, _| {
                    let progress = records.take_chains(page);
                    records.kept.progress = records.kept.progress.or(progress);
                    if is_first {
                        records.committed = progress;
                    }
                },
                b"trials" => &mut |page, _| {
                    for row in rows_of::<TrialRow>(page).map(|(key, row)| TrialRow { trial: TrialId(key), ..row })
                    {
                        if is_first && has_result(&row) {
                            records.results.insert(row.trial);
                        }
                        let rows = if is_newest { &mut records.kept.trials } else { &mut records.kept.older };
                        rows.insert(row.trial, row);
                    }
                },
                b"study" => &mut |page, _| {
                    for (_, row) in rows_of::<StudyRow>(page) {
                        records.kept.study.get_or_insert(row);
                    }
                },
                b"stages" => &mut |page, _| {
                    for (_, row) in rows_of::<StageRow>(page) {
                        records.kept.stages.entry(row.index).or_insert(row);
                    }
                },
                b"proposals" => &mut |page, _| {
                    for (key, Proposal(values)) in rows_of::<Proposal>(page) {
                        records.kept.proposals.entry(TrialId(key)).or_insert(values);
                    }
                },
                _ => continue,
            };
            self.pages.walk(&table, take)?;
        }
        Ok(())
    }

    /// Lets events stand in for rows that are gone: those of which there is one version only.
    pub(super) fn ask_events(&mut self) -> io::Result<()> {
        let known = self.known();
        // After this one nothing is lost.
        let mut whole_from = known.saturating_add(1);
        while whole_from > 1 && self.records.events.contains_key(&(whole_from - 1)) {
            whole_from -= 1;
        }
        let seqs: Vec<Seq> = self.records.events.keys().copied().collect();
        for seq in seqs {
            let Some([spot]) = self.choices(seq).map(<[Spot; 1]>::try_from).and_then(Result::ok) else { continue };
            if let Some(record) = self.record(seq, spot)? {
                self.records.kept.take(&record, seq >= whole_from);
            }
        }
        Ok(())
    }

    pub(super) fn known(&self) -> Seq {
        let committed = self.records.committed.map_or(0, |progress| progress.last_seq);
        let read = self.records.events.last_key_value().map_or(0, |(seq, _)| *seq);
        let told = self.records.chains.last_key_value().map_or(0, |(seq, _)| *seq);
        committed.max(read).max(told)
    }

    /// The versions of an event to choose from: where intact pages hold one, the others are of the past.
    pub(super) fn choices(&self, seq: Seq) -> Option<Vec<Spot>> {
        let spots = self.records.events.get(&seq)?;
        let certain = spots.iter().any(|spot| spot.certain);
        Some(spots.iter().filter(|spot| spot.certain || !certain).copied().collect())
    }
}

impl Records {
    fn take_events(&mut self, page: Page<'_>, offset: u64, certain: bool) {
        for (key, value, at) in page.records() {
            let Some(seq) = u64_at(key, 0).filter(|seq| decode::<Record>(*seq, value).is_ok()) else { continue };
            let Ok(len) = u32::try_from(value.len()) else { continue };
            let hash = u64_at(blake3::hash(value).as_bytes(), 0).unwrap_or_default();
            let spots = self.events.entry(seq).or_default();
            match spots.iter_mut().find(|spot| spot.hash == hash) {
                Some(spot) => spot.certain |= certain,
                None => spots.push(Spot { offset: offset + at as u64, len, hash, certain }),
            }
        }
    }

    fn take_chains(&mut self, page: Page<'_>) -> Option<StudyProgress> {
        let rows = page.pairs().filter_map(|(key, value)| decode::<StudyProgress>(u64_at(key, 0)?, value).ok());
        let mut last = None;
        for row in rows {
            let chains = self.chains.entry(row.last_seq).or_default();
            if !chains.contains(&row.chain) {
                chains.push(row.chain);
            }
            last = Some(row);
        }
        last
    }
}

/// The records of one kind on a page, with their keys.
fn rows_of<'p, T: Stored + 'p>(page: Page<'p>) -> impl Iterator<Item = (u64, T)> + 'p {
    let rows: Vec<(u64, T)> = page
        .pairs()
        .filter_map(|(key, value)| {
            let key = u64_at(key, 0)?;
            Some((key, decode::<T>(key, value).ok()?))
        })
        .collect();
    rows.into_iter()
}

/// Whether a trial has its final result.
pub(super) fn has_result(row: &TrialRow) -> bool {
    matches!(row.state, TrialState::Succeeded | TrialState::Failed | TrialState::Pruned)
}
