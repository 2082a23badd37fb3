//! A new store from what can still be read of a damaged one.
//!
//! The events are the truth: everything else folds from them. They are looked for where a link with a good checksum leads
//! to them, and then, if anything on that way is damaged, in every page of the file, each by its own checksum. What
//! is taken is the longest run of events from the first on; where pages of the past hold other versions of an event
//! (a crash takes back what was not committed), the hash chain that was stored beside the events decides, and where
//! nothing decides, the run ends before it. The damaged file is only read, and an existing file is never
//! replaced. Memory grows with the number of events, not with their bytes.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::os::unix::fs::FileExt;
use std::path::Path;

use redb::backends::FileBackend;
use redb::{Database, StorageBackend};

use super::codec::{Stored, chain_after, decode};
use super::create::make;
use super::error::{JournalError, OpenError};
use super::guard::guarded;
use super::pages::{HEADER_BYTES, Header, Link, PAGE_BYTES, Page, Slot, Tree, u64_at};
use super::rebuild::Kept;
use super::records::Proposal;
use super::write::{initialise_with, transaction};
use crate::model::{
    Event, Next, Record, Seq, StageRow, StudyCreated, StudyProgress, StudyRow, TrialId, TrialRow, TrialState,
};

/// Longest page that is read: a record of the codec's largest size.
const LIMIT_BYTES: u64 = 80 << 20;
/// Events folded in one transaction.
const BATCH: u64 = 10_000;
/// Versions of the past that are followed side by side.
const VERSIONS_MAX: usize = 64;
/// The lock that redb holds on a file that it writes.
const WRITER_LOCK: Bound<u64> = Bound::Included(1 << 62);

/// What was recovered and what was not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Salvaged {
    /// Events in the new store: all from the first to this one.
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
    if is_written(&file).map_err(unreadable)? {
        return Err(OpenError::Locked { path: damaged.into() });
    }
    let mut found = Found::new(&file).map_err(unreadable)?;
    found.search().map_err(unreadable)?;
    let mut run = found.longest_run().map_err(unreadable)?;
    let first =
        run.first().map_or(Ok(None), |spot| found.bytes(spot.offset, spot.len.into())).map_err(unreadable)?;
    let first = first.and_then(|bytes| decode::<Record>(1, &bytes).ok());
    let first = first.filter(|first| matches!(first.event, Event::StudyCreated(_)));
    let known = found.known();
    let lost = known.saturating_sub(found.events.len() as u64);
    let mut report = Salvaged { known, lost, ..Default::default() };
    if first.is_none() || (run.len() as Seq) < known || found.why.is_some() {
        found.ask_events().map_err(unreadable)?;
        if let Some(records) = found.kept.records(first.clone(), known, lost) {
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
        return Err(OpenError::Nothing { path: damaged.into() });
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

/// Whether every page that the newest commit links to is as it was written. Decodes nothing.
pub(super) fn is_whole(path: &Path) -> io::Result<bool> {
    let file = File::open(path)?;
    let mut found = Found { reads_on: false, ..Found::new(&file)? };
    let header = found.bytes(0, HEADER_BYTES as u64)?.and_then(|bytes| Header::parse(&bytes));
    let Some(header) = header else { return Ok(false) };
    let slots = [header.primary, header.secondary];
    let newest = slots.into_iter().filter(|slot| slot.intact).max_by_key(|slot| slot.transaction);
    let Some(root) = newest.and_then(|slot| slot.user) else { return Ok(false) };
    for (_, tree, link) in found.tables(&header, root)? {
        found.walk(&header, link, tree, &mut |_, _, _| {})?;
    }
    Ok(!found.is_torn)
}

/// Whether an engine has the file open for writing.
fn is_written(file: &File) -> io::Result<bool> {
    let backend = FileBackend::new(file.try_clone()?).map_err(io::Error::other)?;
    // A system without such locks has no engine that holds one.
    Ok(backend.query_lock_range(WRITER_LOCK, WRITER_LOCK).unwrap_or(false))
}

/// A record in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Spot {
    offset: u64,
    len: u32,
    /// The record's hash, shortened: versions of it differ in it.
    hash: u64,
    /// Whether links with good checksums lead to it.
    certain: bool,
}

/// Everything found in a damaged file.
struct Found<'a> {
    file: &'a File,
    len: u64,
    events: BTreeMap<Seq, Vec<Spot>>,
    /// Hash chains after events, as progress rows of all ages have them.
    chains: BTreeMap<Seq, Vec<[u8; 32]>>,
    /// The last event by the newest commit, where its progress row is intact.
    committed: Option<StudyProgress>,
    /// Trials with a result by intact pages.
    results: BTreeSet<TrialId>,
    /// Rows that intact pages hold.
    kept: Kept,
    /// Whether a link led to a damaged page.
    is_torn: bool,
    /// Whether what the disk cannot read is passed over as damage, and is no error.
    reads_on: bool,
    /// Pages left to visit: links of a damaged file may share pages, but lead to no more than there are.
    budget: u64,
    confirmed: Seq,
    why: Option<String>,
}

impl<'a> Found<'a> {
    fn new(file: &'a File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        Ok(Self {
            file,
            len,
            events: BTreeMap::new(),
            chains: BTreeMap::new(),
            committed: None,
            results: BTreeSet::new(),
            kept: Kept::default(),
            is_torn: false,
            reads_on: true,
            budget: 2 * (len / PAGE_BYTES) + 2,
            confirmed: 0,
            why: None,
        })
    }

    /// Bytes of the file; `None` where it is not long enough or the disk cannot read them.
    fn bytes(&self, offset: u64, len: u64) -> io::Result<Option<Vec<u8>>> {
        if len > LIMIT_BYTES || offset.saturating_add(len) > self.len {
            return Ok(None);
        }
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        match self.file.read_exact_at(&mut bytes, offset) {
            Ok(()) => Ok(Some(bytes)),
            // A bad sector is damage like any other: around it there may be much to read.
            Err(error) if self.reads_on && error.raw_os_error() == Some(libc::EIO) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Looks along the links, and everywhere else if they do not lead everywhere.
    fn search(&mut self) -> io::Result<()> {
        let header = self.bytes(0, HEADER_BYTES as u64)?.and_then(|bytes| Header::parse(&bytes));
        match header {
            None => self.is_torn = true,
            Some(header) => {
                let mut slots = [header.primary, header.secondary];
                slots.sort_by_key(|slot| std::cmp::Reverse(slot.transaction));
                // The older commit is of use only where the newer is damaged.
                for (slot, is_newest) in slots.into_iter().zip([true, false]) {
                    self.follow(&header, slot, is_newest)?;
                    if !self.is_torn {
                        break;
                    }
                }
            }
        }
        if self.is_torn { self.scan() } else { Ok(()) }
    }

    fn follow(&mut self, header: &Header, slot: Slot, is_newest: bool) -> io::Result<()> {
        let Some(root) = slot.user.filter(|_| slot.intact) else {
            self.is_torn = true;
            return Ok(());
        };
        let tables = self.tables(header, root)?;
        let is_first = self.committed.is_none();
        for (name, tree, link) in tables {
            match name.as_slice() {
                b"events" => self.walk(header, link, tree, &mut |found, page, offset| {
                    found.take_events(page, offset, true);
                })?,
                b"progress" => self.walk(header, link, tree, &mut |found, page, _| {
                    let progress = found.take_chains(page);
                    found.kept.progress = found.kept.progress.or(progress);
                    if is_first {
                        found.committed = progress;
                    }
                })?,
                b"trials" => self.walk(header, link, tree, &mut |found, page, _| {
                    for row in rows_of::<TrialRow>(page).map(|(key, row)| TrialRow { trial: TrialId(key), ..row })
                    {
                        if is_first && has_result(&row) {
                            found.results.insert(row.trial);
                        }
                        let rows = if is_newest { &mut found.kept.trials } else { &mut found.kept.older };
                        rows.insert(row.trial, row);
                    }
                })?,
                b"study" => self.walk(header, link, tree, &mut |found, page, _| {
                    for (_, row) in rows_of::<StudyRow>(page) {
                        found.kept.study.get_or_insert(row);
                    }
                })?,
                b"stages" => self.walk(header, link, tree, &mut |found, page, _| {
                    for (_, row) in rows_of::<StageRow>(page) {
                        found.kept.stages.entry(row.index).or_insert(row);
                    }
                })?,
                b"proposals" => self.walk(header, link, tree, &mut |found, page, _| {
                    for (key, Proposal(values)) in rows_of::<Proposal>(page) {
                        found.kept.proposals.entry(TrialId(key)).or_insert(values);
                    }
                })?,
                _ => {}
            }
        }
        Ok(())
    }

    /// The tables that a commit has.
    fn tables(&mut self, header: &Header, root: Link) -> io::Result<Vec<(Vec<u8>, Tree, Link)>> {
        let mut tables = Vec::new();
        self.walk(header, root, Tree::Tables, &mut |_, page, _| {
            tables.extend(page.tables().map(|(name, tree, link)| (name.to_vec(), tree, link)));
        })?;
        Ok(tables)
    }

    /// Visits the leaves that links with good checksums lead to.
    fn walk(
        &mut self,
        header: &Header,
        root: Link,
        tree: Tree,
        visit: &mut dyn FnMut(&mut Self, Page<'_>, u64),
    ) -> io::Result<()> {
        let mut links = vec![root];
        while let Some(link) = links.pop() {
            self.budget = self.budget.saturating_sub(1);
            let place = header.layout.place(link.page).filter(|_| self.budget > 0);
            let bytes = match place {
                Some(place) => self.bytes(place.offset, place.len)?,
                None => None,
            };
            let (Some(place), Some(bytes)) = (place, bytes) else {
                self.is_torn = true;
                continue;
            };
            let page = Page::new(&bytes, tree);
            if !page.has(link.checksum) {
                self.is_torn = true;
                continue;
            }
            links.extend(page.children());
            visit(self, page, place.offset);
        }
        Ok(())
    }

    /// Looks at every page as if it were a leaf of records.
    fn scan(&mut self) -> io::Result<()> {
        for offset in (PAGE_BYTES..self.len).step_by(4096) {
            let Some(mut bytes) = self.bytes(offset, PAGE_BYTES.min(self.len - offset))? else { continue };
            let Some(needed) = Page::new(&bytes, Tree::NUMBERED).leaf_bytes() else { continue };
            if needed > bytes.len() as u64 {
                // A larger page, or nonsense. Pages lie at multiples of their size, so that noise that looks like many
                // large pages costs a few passes over the file, not one for each.
                let size = needed.min(LIMIT_BYTES).next_power_of_two();
                if !(offset - PAGE_BYTES).is_multiple_of(size) {
                    continue;
                }
                let most = needed.min(LIMIT_BYTES).min(self.len - offset);
                if let Some(more) = self.bytes(offset, most)? {
                    bytes = more;
                }
            }
            let page = Page::new(&bytes, Tree::NUMBERED);
            self.take_events(page, offset, false);
            self.take_chains(page);
        }
        Ok(())
    }

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

    /// Lets events stand in for rows that are gone: those of which there is one version only.
    fn ask_events(&mut self) -> io::Result<()> {
        let known = self.known();
        // After this one nothing is lost.
        let mut whole_from = known.saturating_add(1);
        while whole_from > 1 && self.events.contains_key(&(whole_from - 1)) {
            whole_from -= 1;
        }
        let seqs: Vec<Seq> = self.events.keys().copied().collect();
        for seq in seqs {
            let Some([spot]) = self.choices(seq).map(<[Spot; 1]>::try_from).and_then(Result::ok) else { continue };
            let bytes = self.bytes(spot.offset, spot.len.into())?;
            if let Some(record) = bytes.and_then(|bytes| decode::<Record>(seq, &bytes).ok()) {
                self.kept.take(&record, seq >= whole_from);
            }
        }
        Ok(())
    }

    /// Without rows to rebuild from: cuts a run of events off where trials begin that a later amendment discarded. Their
    /// numbers, and so the names of their directories, are other trials' by now.
    fn refuse_replaced(&mut self, run: &mut Vec<Spot>) -> io::Result<()> {
        let mut discarded: Option<u32> = None;
        let later: Vec<(Seq, Vec<Spot>)> =
            self.events.range(run.len() as Seq + 1..).map(|(s, v)| (*s, v.clone())).collect();
        for (seq, spots) in later {
            for spot in spots {
                let bytes = self.bytes(spot.offset, spot.len.into())?;
                let event = bytes.and_then(|bytes| decode::<Record>(seq, &bytes).ok()).map(|record| record.event);
                if let Some(Event::SpecAmended(amended)) = event {
                    discarded = [discarded, amended.discard_from].into_iter().flatten().min();
                }
            }
        }
        let Some(from) = discarded else { return Ok(()) };
        for at in 0..run.len() {
            let Some(spot) = run.get(at).copied() else { break };
            let bytes = self.bytes(spot.offset, spot.len.into())?;
            let event =
                bytes.and_then(|bytes| decode::<Record>(at as Seq + 1, &bytes).ok()).map(|record| record.event);
            if matches!(event, Some(Event::StageOpened { stage, .. }) if stage >= from) {
                run.truncate(at);
                self.why = Some(format!("the results of stage {from} and after were discarded later"));
                break;
            }
        }
        Ok(())
    }

    fn known(&self) -> Seq {
        let committed = self.committed.map_or(0, |progress| progress.last_seq);
        let read = self.events.last_key_value().map_or(0, |(seq, _)| *seq);
        let told = self.chains.last_key_value().map_or(0, |(seq, _)| *seq);
        committed.max(read).max(told)
    }

    /// The longest run of events from the first on that nothing speaks against.
    fn longest_run(&mut self) -> io::Result<Vec<Spot>> {
        let mut versions = vec![Version::default()];
        let mut run: Vec<Spot> = Vec::new();
        let mut confirmed = 0;
        while let Some(choices) = self.choices(run.len() as Seq + 1) {
            let seq = run.len() as Seq + 1;
            let mut next = Vec::new();
            for spot in &choices {
                let Some(bytes) = self.bytes(spot.offset, spot.len.into())? else { continue };
                next.extend(versions.iter().map(|version| version.with(&bytes, *spot, seq, choices.len() > 1)));
            }
            let Some(first) = choices.first().filter(|_| !next.is_empty()) else { break };
            run.push(*first);
            if let Some(chains) = self.chains.get(&seq) {
                let fits = |version: &Version| chains.contains(&version.chain);
                if next.iter().any(fits) {
                    next.retain(fits);
                    confirmed = seq;
                } else if self.committed.is_some_and(|progress| progress.last_seq == seq) {
                    self.why = Some("the hash chain does not fit the events".into());
                    cut(&mut run, confirmed, |_, spot| spot.certain);
                    break;
                }
            }
            next.truncate(VERSIONS_MAX);
            versions = next;
        }
        self.confirmed = confirmed;
        for (seq, spot) in versions.first().map(|version| version.picks.clone()).unwrap_or_default() {
            if let Some(place) = usize::try_from(seq - 1).ok().and_then(|at| run.get_mut(at)) {
                *place = spot;
            }
        }
        let agreed = |seq: Seq| {
            let picks: BTreeSet<_> = versions.iter().map(|v| v.picks.get(&seq).map(|spot| spot.hash)).collect();
            picks.len() < 2
        };
        let before = run.len();
        cut(&mut run, 0, |seq, _| agreed(seq));
        if run.len() < before {
            self.why = Some(format!("there are several versions of event {}", run.len() + 1));
        }
        Ok(run)
    }

    /// The versions of an event to choose from: where intact pages hold one, the others are of the past.
    fn choices(&self, seq: Seq) -> Option<Vec<Spot>> {
        let spots = self.events.get(&seq)?;
        let certain = spots.iter().any(|spot| spot.certain);
        Some(spots.iter().filter(|spot| spot.certain || !certain).copied().collect())
    }

    /// Says what is missing from the new store.
    fn conclude(&self, run: &[Spot], new: &Path, report: &mut Salvaged) -> Result<(), OpenError> {
        let unreadable = |cause| OpenError::Io { path: new.into(), cause };
        let snapshot = super::Reader::open(new)?.snapshot().map_err(unreadable)?;
        let unconfirmed = |(at, spot): (usize, &Spot)| !spot.certain && at as Seq >= self.confirmed;
        let taken = run.iter().take(usize::try_from(report.events).unwrap_or(usize::MAX));
        report.unconfirmed = taken.enumerate().filter(|item| unconfirmed(*item)).count() as u64;
        let mut results = self.results.clone();
        let from = if report.rebuilt { 1 } else { report.events + 1 };
        for (seq, spots) in self.events.range(from..) {
            report.beyond_gap += u64::from(!report.rebuilt);
            for spot in spots {
                let bytes = self.bytes(spot.offset, spot.len.into()).map_err(|error| unreadable(error.into()))?;
                let event = bytes.and_then(|bytes| decode::<Record>(*seq, &bytes).ok()).map(|record| record.event);
                if let Some(Event::AttemptEnded(end)) = event.as_ref()
                    && end.next == Next::Final
                {
                    results.insert(end.trial);
                }
                if let Some(Event::TrialReused(reused)) = event.as_ref() {
                    results.insert(reused.trial);
                }
            }
        }
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

/// Cuts a run off before the first event after `kept` that is not `fine`.
fn cut(run: &mut Vec<Spot>, kept: Seq, fine: impl Fn(Seq, &Spot) -> bool) {
    let odd = run.iter().enumerate().find(|(at, spot)| *at as Seq >= kept && !fine(*at as Seq + 1, spot));
    if let Some(end) = odd.map(|(at, _)| at) {
        run.truncate(end);
    }
}

/// One possible past: its hash chain, and what was chosen where there was a choice.
#[derive(Clone, Debug, Default)]
struct Version {
    chain: [u8; 32],
    picks: BTreeMap<Seq, Spot>,
}

impl Version {
    fn with(&self, bytes: &[u8], spot: Spot, seq: Seq, is_choice: bool) -> Self {
        let mut version = Self { chain: chain_after(&self.chain, bytes), picks: self.picks.clone() };
        if is_choice {
            version.picks.insert(seq, spot);
        }
        version
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

/// Folds made events into an empty database, as far as they fold: how far, and why no further.
fn fill_made(
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

fn has_result(row: &TrialRow) -> bool {
    matches!(row.state, TrialState::Succeeded | TrialState::Failed)
}

/// Folds the run into an empty database, as far as it folds: how far, and why no further.
fn fill(
    db: &Database,
    found: &Found<'_>,
    run: &[Spot],
    moved: &dyn Fn(&mut StudyCreated),
) -> Result<(Seq, Option<String>), JournalError> {
    let event = |seq: Seq| -> Result<Option<(Record, Vec<u8>)>, JournalError> {
        let spot = usize::try_from(seq - 1).ok().and_then(|at| run.get(at));
        let Some(spot) = spot else { return Ok(None) };
        let missing = JournalError::Missing { table: "event", key: seq };
        let bytes = found.bytes(spot.offset, spot.len.into())?.ok_or(missing)?;
        let mut record = super::tables::decoded::<Record>(seq, &bytes)?;
        let before = record.event.clone();
        if let Event::StudyCreated(created) = &mut record.event {
            moved(created);
        }
        // A study that stays where it is keeps its events byte for byte.
        let bytes = if record.event == before { bytes } else { super::tables::encoded(seq, &record)? };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Reader, create, verify};
    use crate::model::RunEnd;

    fn record(at_ms: i64, event: Event) -> Record {
        Record { at_ms, run_ms: 0, event }
    }

    /// A store whose fourth event is of this time; the others are always the same.
    fn store(dir: &Path, fourth_ms: i64) -> Vec<u8> {
        // Larger than the smallest page.
        let created = StudyCreated { spec: "x".repeat(50_000), ..StudyCreated::of_nothing() };
        let path = dir.join(format!("{fourth_ms}.redb"));
        let mut journal = create(&path, &record(1, Event::StudyCreated(Box::new(created)))).unwrap();
        for at_ms in [2, 3, fourth_ms] {
            journal.append(&[record(at_ms, Event::RunEnded { how: RunEnd::Drained })]).unwrap();
        }
        journal.close().unwrap();
        std::fs::read(path).unwrap()
    }

    /// Pages with a record of this kind at one of these keys.
    fn pages_with<T: Stored>(bytes: &[u8], keys: &[u64]) -> Vec<usize> {
        let holds = |page: &[u8]| {
            Page::new(page, Tree::NUMBERED).pairs().any(|(key, value)| {
                u64_at(key, 0).is_some_and(|key| keys.contains(&key) && decode::<T>(key, value).is_ok())
            })
        };
        (0..bytes.len()).step_by(4096).filter(|at| holds(&bytes[*at..*at + 4096])).collect()
    }

    /// Salvages bytes: the times of the events, and the report.
    fn salvaged(dir: &Path, bytes: &[u8]) -> Result<(Vec<i64>, Salvaged), OpenError> {
        let (old, new) = (dir.join("old.redb"), dir.join("new.redb"));
        std::fs::write(&old, bytes).unwrap();
        drop(std::fs::remove_file(&new));
        let report = salvage(&old, &new, |_| {})?;
        let snapshot = Reader::open(&new).unwrap().snapshot().unwrap();
        assert_eq!(verify(&snapshot).unwrap().differences, []);
        Ok((snapshot.events(1).unwrap().map(|event| event.unwrap().1.at_ms).collect(), report))
    }

    #[test]
    fn where_there_are_two_pasts_the_hash_chain_decides_or_nothing_does() {
        let dir = tempfile::tempdir().unwrap();
        let (this, other) = (store(dir.path(), 4), store(dir.path(), 40));
        // Without a header every page is looked at, and one of them is of another past.
        let ghost = pages_with::<Record>(&other, &[4]).pop().unwrap();
        let mut bytes = this.clone();
        bytes[..4096].fill(0);
        bytes.extend_from_slice(&other[ghost..ghost + 4096]);
        let (times, report) = salvaged(dir.path(), &bytes).unwrap();
        assert_eq!((times, report.events, report.known, report.stopped), (vec![1, 2, 3, 4], 4, 4, None));
        // The rows with the chain gone, nothing decides: what both pasts share is kept.
        for page in pages_with::<StudyProgress>(&bytes, &[0]) {
            bytes[page..page + 4096].fill(0);
        }
        let (times, report) = salvaged(dir.path(), &bytes).unwrap();
        assert_eq!((times, report.events, report.known, report.unconfirmed), (vec![1, 2, 3], 3, 4, 3));
        assert_eq!(report.stopped.as_deref(), Some("there are several versions of event 4"));
    }

    #[test]
    fn an_event_of_another_past_is_not_taken_for_a_lost_one() {
        let dir = tempfile::tempdir().unwrap();
        let (mut bytes, other) = (store(dir.path(), 4), store(dir.path(), 40));
        let ghost = pages_with::<Record>(&other, &[4]).pop().unwrap();
        // Every page with the true fourth event is gone; the rows are there.
        for page in pages_with::<Record>(&bytes, &[4]) {
            bytes[page..page + 4096].fill(0);
        }
        bytes.extend_from_slice(&other[ghost..ghost + 4096]);
        let (times, report) = salvaged(dir.path(), &bytes).unwrap();
        // The first event, and the one that says that the rest was rebuilt.
        assert_eq!((times, report.known, report.rebuilt), (vec![1, 1], 4, true));
    }

    #[test]
    fn a_place_moves_with_its_store_and_nothing_else_changes() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = store(dir.path(), 4);
        let (old, new) = (dir.path().join("old.redb"), dir.path().join("moved.redb"));
        std::fs::write(&old, &bytes).unwrap();
        salvage(&old, &new, |created| created.study_dir = "../elsewhere".into()).unwrap();
        let study = Reader::open(&new).unwrap().snapshot().unwrap().study().unwrap();
        assert_eq!((study.study_dir.as_str(), study.artifacts_dir.as_str()), ("../elsewhere", "artifacts"));
        assert_eq!(std::fs::read(&old).unwrap(), bytes);
        assert!(matches!(salvage(&old, &new, |_| {}), Err(OpenError::Exists { .. })));
    }
}
