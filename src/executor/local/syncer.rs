//! What an attempt leaves is on disk before anybody hears that it ended.
//!
//! A worker notes which small files its attempt left ([`Unsynced`]) and goes on to its next trial; one thread, the
//! [`Syncer`], makes them durable and passes the report on. All attempts that ended during one round are the next
//! round: their writeback is started together, then every file and directory is synced, so that most of them find their
//! file system's journal written already. Large files are synced by the worker itself: they must not hold up the results
//! of others. An attempt that left nothing costs nothing.
//!
//! A file is there only if every directory on the way to it is: each of them is an entry of the one above. The directories
//! that get an entry with most attempts, the case's and the stage's, are synced in every round. Those above are synced when
//! one of their entries is *new*: not seen before by this run, whoever made it, or another one than was seen.
//!
//! An error of a sync is final: the kernel may have dropped the pages, so that asking again would be answered with a
//! lie. The attempt is not accepted but interrupted, and runs again in a directory of its own; no later attempt is
//! accepted either, and the run ends.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use rustix::fs::FileType;
use rustix::process::{Resource, getrlimit};

use super::attempt_dir::{Entry, Grounds, Way, enter_own};
use super::blame::failure;
use super::ended_dir::EndedAttemptDir;
use crate::executor::{AttemptReport, ExecutorEvent, Job};
use crate::model::artifacts::{METRICS_FILE, PARAMS_FILE, STDERR_LOG, STDOUT_LOG};
use crate::model::{FailureKind, Verdict};
use crate::sys::opened::Opened;
use crate::sys::parallel::each;
use crate::sys::words::io_words;

/// Files up to this size are left to the syncer.
const SMALL_BYTES: u64 = 1 << 20;
/// Files that wait for the syncer, open, at most: those of two rounds of attempts that left a little, one being synced.
const MAX_HELD: usize = 8_192;
/// Who waits for one of these places does so no longer than this.
const ROOM_WAIT: Duration = Duration::from_secs(10);
/// Until it asks again whether it is to end.
const ROOM_LOOK: Duration = Duration::from_millis(100);
/// Of the files a process may open, so many are never taken for that.
const OTHER_FILES: usize = 128;
/// Attempts in one round at most.
const ROUND: usize = 1_024;
/// Reports that wait at most: beyond it, workers wait for the disk.
pub(super) const WAITING: usize = 1024;
/// Threads that sync at the same time: they mostly wait, and the device merges flushes that are under way together.
const THREADS: usize = 64;
/// A thread more is worth its start for so many syncs.
const SYNCS_A_THREAD: usize = 8;

/// The files of an attempt that matter only if there is something in them.
const TELLING: [&str; 3] = [STDOUT_LOG, STDERR_LOG, METRICS_FILE];

/// How many files may still be left open for the syncer.
#[derive(Debug)]
pub(crate) struct Room {
    left: Mutex<usize>,
    /// There is more of it.
    more: Condvar,
    of: usize,
}

impl Room {
    /// Half of what the process may open at most, so that a small limit means more syncs, not failures.
    pub(crate) fn of_process() -> Arc<Self> {
        let limit = getrlimit(Resource::Nofile).current.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(0));
        let of = (limit.saturating_sub(OTHER_FILES) / 2).min(MAX_HELD);
        Arc::new(Self { left: Mutex::new(of), more: Condvar::new(), of })
    }

    fn take(&self) -> bool {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let less = left.checked_sub(1);
        *left = less.unwrap_or(0);
        less.is_some()
    }

    fn give_back(&self, count: usize) {
        if count > 0 {
            *self.left.lock().unwrap_or_else(PoisonError::into_inner) += count;
            self.more.notify_all();
        }
    }

    /// Waits until so much is left, for a while and until `gives_up`; whether it is. Only for who holds none of it: others wait in the syncer,
    /// which gives theirs back. Whoever waits in vain goes on, and syncs by itself what there is no room for.
    pub(super) fn wait_for(&self, count: usize, gives_up: &dyn Fn() -> bool) -> bool {
        let (count, begun) = (count.min(self.of), Instant::now());
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        while *left < count && begun.elapsed() < ROOM_WAIT && !gives_up() {
            left = self.more.wait_timeout(left, ROOM_LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
        *left >= count
    }
}

/// What of one attempt has yet to be made durable.
#[derive(Debug)]
pub(crate) struct Unsynced {
    room: Arc<Room>,
    /// Files and directories, the very ones that were hashed, with what to call them.
    held: Vec<(String, Opened)>,
    /// The way to the attempt's directory, if that matters.
    way: Option<Way>,
    /// Whether anything was kept, here or by the worker: then the way to it matters.
    something: bool,
}

impl Drop for Unsynced {
    fn drop(&mut self) {
        self.room.give_back(self.held.len());
    }
}

impl Unsynced {
    pub(crate) fn new(room: &Arc<Room>) -> Self {
        Self { room: Arc::clone(room), held: Vec::new(), way: None, something: false }
    }

    /// Makes a file or directory durable: later if it is small and there is room, otherwise now.
    ///
    /// # Errors
    /// What syncing it fails with.
    pub(super) fn keep(&mut self, name: &str, file: Opened) -> io::Result<()> {
        self.something = true;
        let (kind, bytes) = file.kind_and_bytes()?;
        let small = kind == FileType::Directory || bytes <= SMALL_BYTES;
        if small && self.room.take() {
            self.held.push((name.to_owned(), file));
            return Ok(());
        }
        file.sync()
    }

    pub(super) fn forget(&mut self) {
        *self = Self::new(&self.room);
    }

    /// Says that something was kept that the worker synced itself.
    pub(super) fn kept_elsewhere(&mut self) {
        self.something = true;
    }

    /// Adds what every attempt leaves (its logs, its metrics, its params), and the way to all of it. Logs that are
    /// empty are as good as none.
    ///
    /// # Errors
    /// What a file cannot be opened or synced with, in words.
    pub(crate) fn keep_rest(&mut self, job: &Job, remains: &EndedAttemptDir) -> Result<(), (String, io::Error)> {
        let Some(dir) = remains.dir() else { return Ok(()) };
        for name in TELLING {
            self.keep_file(remains, dir, name)?;
        }
        self.keep_params(job, remains)
    }

    /// Adds what a directory has that nothing ran in: its params, and the way to all of it.
    ///
    /// # Errors
    /// As for [`Unsynced::keep_rest`].
    pub(super) fn keep_params(&mut self, job: &Job, remains: &EndedAttemptDir) -> Result<(), (String, io::Error)> {
        let Some(dir) = remains.dir() else { return Ok(()) };
        if !self.something {
            return Ok(());
        }
        // Follows from the spec: worth a sync only along with others.
        self.keep_file(remains, dir, PARAMS_FILE)?;
        let named = |error| ("the attempt's directory".to_owned(), error);
        let own = remains.open_real(Path::new(".")).map_err(named)?;
        self.keep("the attempt's directory", own).map_err(named)?;
        self.way = Some(Way::to(&job.dir, job));
        Ok(())
    }

    fn keep_file(
        &mut self,
        remains: &EndedAttemptDir,
        dir: &Opened,
        name: &str,
    ) -> Result<(), (String, io::Error)> {
        // What is no file is none of ours.
        let bytes = dir.length_of(name).map_err(|error| (format!("`{name}`"), error))?;
        if bytes.unwrap_or(0) == 0 || self.held.iter().any(|(held, _)| held == name) {
            return Ok(());
        }
        let file = remains.open_real(Path::new(name)).and_then(|file| match file.kind()? {
            FileType::RegularFile => self.keep(name, file),
            _ => Ok(()),
        });
        file.map_err(|error| (format!("`{name}`"), error))
    }

    fn is_empty(&self) -> bool {
        !self.something
    }
}

pub(crate) enum ToSync {
    Ended(Box<AttemptReport>, Unsynced),
    /// Answer once everything before this has been reported.
    Flush(Sender<()>),
}

/// Passes a report on to its next reader. Reports keep their order: one that has nothing to sync (a failure
/// without a word, say) must not overtake those before it, or rails would count failures before successes.
pub(crate) fn hand_on(
    report: Box<AttemptReport>,
    unsynced: Unsynced,
    syncer: &Sender<ToSync>,
    waiting: &AtomicUsize,
    events: &Sender<ExecutorEvent>,
) {
    if unsynced.is_empty() && waiting.load(Ordering::Acquire) == 0 {
        let _ = events.send(ExecutorEvent::Ended(report));
        return;
    }
    waiting.fetch_add(1, Ordering::AcqRel);
    if let Err(refused) = syncer.send(ToSync::Ended(report, unsynced))
        && let ToSync::Ended(report, _) = refused.into_inner()
    {
        // The thread is gone, which is a bug: nothing is known to be durable.
        let _ = events.send(ExecutorEvent::Ended(not_accepted(report, "it could not be made durable")));
    }
}

fn not_accepted(mut report: Box<AttemptReport>, why: &str) -> Box<AttemptReport> {
    report.verdict = Verdict::Interrupted { reason: why.to_owned() };
    report
}

/// A success without what it had to leave is none; logs and metrics that somebody removed are not missed.
fn without_outputs(mut report: Box<AttemptReport>, why: &str) -> Box<AttemptReport> {
    if matches!(&report.verdict, Verdict::Succeeded { outputs, .. } if !outputs.is_empty()) {
        report.verdict = Verdict::Failed(failure(FailureKind::MissingOutput, why));
    }
    report
}

pub(crate) struct Syncer {
    /// Reports that were handed to it and not passed on yet.
    pub(crate) waiting: Arc<AtomicUsize>,
    pub(crate) inbox: Receiver<ToSync>,
    pub(crate) events: Sender<ExecutorEvent>,
    pub(crate) told_broken: Arc<AtomicBool>,
    pub(crate) grounds: Arc<Grounds>,
    /// Why nothing is accepted any more.
    failed: Option<String>,
}

/// Why something could not be made durable.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Failed {
    /// Somebody removed a directory.
    Gone(String),
    /// The machine's fault, and final.
    Machine(String),
}

impl Failed {
    fn of(name: &str, error: &io::Error) -> Self {
        let why = format!("cannot make {name} durable: {}", io_words(error));
        match error.kind() {
            io::ErrorKind::NotFound => Self::Gone(why),
            _ => Self::Machine(why),
        }
    }
}

/// One thing to sync.
enum Item<'a> {
    Held(&'a str, &'a Opened),
    /// A directory with a new entry, and what that leads to where it matters.
    Dir {
        path: PathBuf,
        dir: Arc<Opened>,
        entry: Option<Arc<Opened>>,
    },
}

impl Item<'_> {
    fn sync(&self) -> Result<(), Failed> {
        match self {
            Self::Held(_, file)
                if injected_fault!(OutputsNotSynced)
                    && file.kind().is_ok_and(|kind| kind != FileType::Directory) =>
            {
                Ok(())
            }
            Self::Dir { .. } if injected_fault!(OutputsWayNotSynced) => Ok(()),
            Self::Held(name, file) => {
                file.sync().map_err(|error| Failed::of(&format!("`{name}` of an attempt"), &error))
            }
            Self::Dir { path, dir, entry } => {
                let synced = match entry {
                    Some(entry) => dir.sync_entry_of(entry),
                    None => dir.sync(),
                };
                synced.map_err(|error| Failed::of(&format!("`{}`", path.display()), &error))
            }
        }
    }
}

/// The directories of a round, each once, and who needs them.
#[derive(Default)]
struct Dirs<'a> {
    items: BTreeMap<PathBuf, (Item<'a>, Vec<usize>)>,
    /// Entries that are durable once all is synced.
    new: Vec<Entry>,
    /// What leads to the directories that were added: most of a round are in a few.
    above: BTreeMap<Way, Above>,
}

/// A directory, and what of those above it is synced in this round, for all that lie in it.
struct Above {
    dir: Arc<Opened>,
    items: Vec<PathBuf>,
}

impl Dirs<'_> {
    fn add(&mut self, path: &Path, dir: &Arc<Opened>, entry: Option<&Arc<Opened>>, owners: &[usize]) {
        let item = || Item::Dir { path: path.into(), dir: Arc::clone(dir), entry: entry.map(Arc::clone) };
        self.items.entry(path.into()).or_insert_with(|| (item(), Vec::new())).1.extend(owners);
    }

    /// Adds a directory if its entry was not durable yet; whether it did.
    fn add_new(
        &mut self,
        grounds: &Grounds,
        (path, dir): (&Path, &Arc<Opened>),
        (child_path, child): (&Path, &Arc<Opened>),
        owners: &[usize],
    ) -> io::Result<bool> {
        let entry = match injected_fault!(NewEntryNotSynced) {
            true => Entry::of(path, dir)?,
            false => Entry::of(child_path, child)?,
        };
        let is_new = !grounds.is_durable(&entry);
        if is_new {
            self.add(path, dir, Some(child), owners);
            self.new.push(entry);
        }
        Ok(is_new)
    }

    /// Adds a directory that got an entry, and those that lead to it.
    fn add_way(&mut self, grounds: &Grounds, way: &Way, owners: &[usize]) -> io::Result<()> {
        // What is made outside a study's artifacts is not to be kept.
        let Some(artifacts) = &way.artifacts else { return Ok(()) };
        let above = way.above();
        match self.above.get(&above) {
            Some(Above { items, .. }) => {
                for path in items {
                    self.items.entry(path.clone()).and_modify(|(_, of)| of.extend(owners));
                }
            }
            None => {
                let added = self.add_above(grounds, artifacts, &above, owners)?;
                self.above.insert(above.clone(), added);
            }
        }
        let Some(Above { dir, .. }) = self.above.get(&above) else { return Ok(()) };
        let (mut path, mut at) = (above.path(), Arc::clone(dir));
        if let Some(name) = way.names.last() {
            let (next_path, next) = (path.join(name), enter_own(&at, name, &path)?);
            self.add_below(grounds, (&path, &at), (&next_path, &next), way.names.len(), owners)?;
            (path, at) = (next_path, next);
        }
        self.add(&path, &at, None, owners);
        Ok(())
    }

    /// Adds the directories that lead to one, which lies in it.
    fn add_above(
        &mut self,
        grounds: &Grounds,
        artifacts: &Path,
        way: &Way,
        owners: &[usize],
    ) -> io::Result<Above> {
        let mut items = Vec::new();
        let mut at = grounds.open(&Way { names: Vec::new(), ..way.clone() })?;
        let mut path = way.root.clone();
        let above = Arc::new(Opened::dir(artifacts)?);
        if self.add_new(grounds, (artifacts, &above), (&path, &at), owners)? {
            items.push(artifacts.to_path_buf());
        }
        if let Some(parent) = artifacts.parent() {
            let top = Arc::new(Opened::dir(parent)?);
            if self.add_new(grounds, (parent, &top), (artifacts, &above), owners)? {
                items.push(parent.to_path_buf());
            }
        }
        for (name, depth) in way.names.iter().zip(1..) {
            let (next_path, next) = (path.join(name), enter_own(&at, name, &path)?);
            if self.add_below(grounds, (&path, &at), (&next_path, &next), depth, owners)? {
                items.push(path);
            }
            (path, at) = (next_path, next);
        }
        Ok(Above { dir: at, items })
    }

    /// Adds a directory of piton's for one in it, so many below the study's artifacts; whether it did.
    fn add_below(
        &mut self,
        grounds: &Grounds,
        (path, dir): (&Path, &Arc<Opened>),
        child: (&Path, &Arc<Opened>),
        depth: usize,
        owners: &[usize],
    ) -> io::Result<bool> {
        if depth == 1 {
            return self.add_new(grounds, (path, dir), child, owners);
        }
        self.add(path, dir, None, owners);
        Ok(true)
    }
}

impl Syncer {
    pub(crate) fn new(
        inbox: Receiver<ToSync>,
        events: Sender<ExecutorEvent>,
        waiting: Arc<AtomicUsize>,
        told_broken: Arc<AtomicBool>,
        grounds: Arc<Grounds>,
    ) -> Self {
        Self { waiting, inbox, events, told_broken, grounds, failed: None }
    }

    /// Runs until nobody can report any more.
    pub(super) fn run(mut self) {
        while let Ok(first) = self.inbox.recv() {
            self.round(first);
        }
    }

    /// One round, if anything waits for it.
    pub(crate) fn round_now(&mut self) {
        if let Ok(first) = self.inbox.try_recv() {
            self.round(first);
        }
    }

    /// Makes durable what waits, and passes the reports on.
    fn round(&mut self, first: ToSync) {
        let mut ended = Vec::new();
        let mut flushes = Vec::new();
        for message in std::iter::once(first).chain(self.inbox.try_iter().take(ROUND - 1)) {
            match message {
                ToSync::Ended(report, unsynced) => ended.push((report, unsynced)),
                ToSync::Flush(done) => flushes.push(done),
            }
        }
        let faults = match &self.failed {
            Some(why) => (0..ended.len()).map(|n| (n, Failed::Machine(why.clone()))).collect(),
            None => sync_round(&ended, &self.grounds),
        };
        let machine = faults.values().find_map(|fault| match fault {
            Failed::Machine(why) => Some(why),
            Failed::Gone(_) => None,
        });
        if let Some(why) = machine {
            self.failed.get_or_insert_with(|| why.clone());
            if !self.told_broken.swap(true, Ordering::SeqCst) {
                let _ = self.events.send(ExecutorEvent::Broken(why.clone()));
            }
        }
        for (n, (report, unsynced)) in ended.into_iter().enumerate() {
            drop(unsynced);
            let report = match faults.get(&n) {
                Some(Failed::Machine(why)) => not_accepted(report, why),
                Some(Failed::Gone(why)) => without_outputs(report, why),
                None => report,
            };
            let _ = self.events.send(ExecutorEvent::Ended(report));
            self.waiting.fetch_sub(1, Ordering::AcqRel);
        }
        for done in flushes {
            let _ = done.send(());
        }
    }
}

/// Makes everything durable that was kept, at once.
///
/// # Errors
/// What could not be, in words.
pub(crate) fn sync_all<T>(kept: &[(T, Unsynced)], grounds: &Grounds) -> Result<(), String> {
    for round in kept.chunks(ROUND) {
        if let Some((_, Failed::Gone(why) | Failed::Machine(why))) = sync_round(round, grounds).into_iter().next()
        {
            return Err(why);
        }
    }
    Ok(())
}

/// Makes everything of these attempts durable; whose attempts could not be, and why.
fn sync_round<T>(ended: &[(T, Unsynced)], grounds: &Grounds) -> BTreeMap<usize, Failed> {
    let mut items: Vec<Item<'_>> = Vec::new();
    let mut owner: Vec<Vec<usize>> = Vec::new();
    let mut ways: BTreeMap<Way, Vec<usize>> = BTreeMap::new();
    for (n, (_, unsynced)) in ended.iter().enumerate() {
        for (name, file) in &unsynced.held {
            file.start_writeback();
            items.push(Item::Held(name, file));
            owner.push(vec![n]);
        }
        if let Some(way) = &unsynced.way {
            ways.entry(way.above()).or_default().push(n);
        }
    }
    let mut dirs = Dirs::default();
    let mut of_attempts = BTreeMap::new();
    for (way, owners) in ways {
        if let Err(error) = dirs.add_way(grounds, &way, &owners) {
            let failed = Failed::of(&format!("`{}`", way.path().display()), &error);
            of_attempts.extend(owners.into_iter().map(|n| (n, failed.clone())));
        }
    }
    for (item, owners) in dirs.items.into_values() {
        items.push(item);
        owner.push(owners);
    }
    let faults = sync_items(&items);
    if faults.is_empty() {
        grounds.remember(dirs.new);
    }
    for (item, why) in faults {
        let owners: BTreeSet<usize> = owner.get(item).into_iter().flatten().copied().collect();
        for n in owners {
            // The machine's fault weighs more.
            match of_attempts.get(&n) {
                Some(Failed::Machine(_)) => {}
                _ => drop(of_attempts.insert(n, why.clone())),
            }
        }
    }
    of_attempts
}

/// Syncs them, several at a time; those that failed, and why.
fn sync_items(items: &[Item<'_>]) -> Vec<(usize, Failed)> {
    // In any order: a simulation, which has one thread, takes them as they would be done by several.
    simulated!(|machine| {
        let mut faults = Vec::new();
        let mut left: Vec<usize> = (0..items.len()).collect();
        while !left.is_empty() {
            let mut random = [0; 8];
            machine.random(&mut random);
            let n = left.swap_remove(usize::from_le_bytes(random) % left.len());
            faults.extend(items.get(n).and_then(|item| Some((n, item.sync().err()?))));
        }
        faults
    });
    let helpers = (items.len() / SYNCS_A_THREAD).min(THREADS - 1);
    let synced = each(items, helpers, "sync", Item::sync);
    if synced.iter().any(Option::is_none) {
        let failed = || Failed::Machine("a thread failed unexpectedly".to_owned());
        return (0..items.len()).map(|n| (n, failed())).collect();
    }
    synced.into_iter().flatten().enumerate().filter_map(|(n, synced)| Some((n, synced.err()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_room_goes_on_once_there_is_some_or_it_is_to_end() {
        let room = Room { left: Mutex::new(2), more: Condvar::new(), of: 2 };
        assert!(room.wait_for(2, &|| false));
        assert!(room.take() && room.take() && !room.take());
        assert!(!room.wait_for(1, &|| true));
        std::thread::scope(|scope| {
            // More than there ever is.
            let waits = scope.spawn(|| room.wait_for(9, &|| false));
            room.give_back(2);
            assert!(waits.join().unwrap());
        });
        assert!(room.take());
    }
}
