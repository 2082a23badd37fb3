//! What an attempt leaves is on disk before anybody hears that it ended.
//!
//! A worker notes which small files its attempt left ([`Unsynced`]) and goes on to its next trial; one thread, the
//! [`Syncer`], makes them durable and passes the report on. All attempts that ended during one round are the next
//! round: their writeback is started together, then every file and directory is synced, so that most of them find their
//! file system's journal written already. Large files are synced by the worker itself: they must not hold up the results
//! of others. An attempt that left nothing costs nothing.
//!
//! An error of a sync is final: the kernel may have dropped the pages, so that asking again would be answered with a
//! lie. The attempt is not accepted but interrupted, and runs again in a directory of its own; no later attempt is
//! accepted either, and the run ends.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender};
use rustix::fs::{AtFlags, FileType, statat};
use rustix::process::{Resource, getrlimit};

use super::failure::failure;
use super::results::{METRICS_FILE, Remains};
use crate::executor::{AttemptReport, ExecutorEvent, Job};
use crate::model::Verdict;
use crate::sys::files::start_writeback;
use crate::sys::parallel::each;
use crate::sys::tree_hash::{kind_of, open_dir};
use crate::sys::words::io_words;

/// Files up to this size are left to the syncer.
const SMALL_BYTES: u64 = 1 << 20;
/// Files that wait for the syncer, open, at most.
const MAX_HELD: usize = 512;
/// Of the files a process may open, so many are never taken for that.
const OTHER_FILES: usize = 128;
/// Attempts in one round at most.
const ROUND: usize = 256;
/// Reports that wait at most: beyond it, workers wait for the disk.
pub(super) const WAITING: usize = 1024;
/// Threads that sync at the same time: the device merges flushes that are under way together.
const THREADS: usize = 8;
/// A thread more is worth its start for so many syncs.
const SYNCS_A_THREAD: usize = 8;

/// The files of an attempt that matter only if there is something in them.
const TELLING: [&str; 3] = ["stdout.log", "stderr.log", METRICS_FILE];
/// Follows from the spec: worth a sync only along with others.
const PARAMS_FILE: &str = "params.json";

/// How many files may still be left open for the syncer.
#[derive(Debug)]
pub(super) struct Room(AtomicUsize);

impl Room {
    /// Half of what the process may open at most, so that a small limit means more syncs, not failures.
    pub(super) fn of_process() -> Arc<Self> {
        let limit = getrlimit(Resource::Nofile).current.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(0));
        Arc::new(Self(AtomicUsize::new((limit.saturating_sub(OTHER_FILES) / 2).min(MAX_HELD))))
    }

    fn take(&self) -> bool {
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1)).is_ok()
    }
}

/// What of one attempt has yet to be made durable.
#[derive(Debug)]
pub(super) struct Unsynced {
    room: Arc<Room>,
    /// Files and directories, the very ones that were hashed, with what to call them.
    held: Vec<(String, File)>,
    /// Directories with a new entry that other attempts share or may share, innermost first.
    shared_dirs: Vec<PathBuf>,
    /// Whether anything was kept, here or by the worker: then the way to it matters.
    something: bool,
}

impl Drop for Unsynced {
    fn drop(&mut self) {
        self.room.0.fetch_add(self.held.len(), Ordering::AcqRel);
    }
}

impl Unsynced {
    pub(super) fn new(room: &Arc<Room>) -> Self {
        Self { room: Arc::clone(room), held: Vec::new(), shared_dirs: Vec::new(), something: false }
    }

    /// Makes a file or directory durable: later if it is small and there is room, otherwise now.
    ///
    /// # Errors
    /// What syncing it fails with.
    pub(super) fn keep(&mut self, name: &str, file: File) -> io::Result<()> {
        self.something = true;
        let meta = file.metadata()?;
        if (meta.is_dir() || meta.len() <= SMALL_BYTES) && self.room.take() {
            self.held.push((name.to_owned(), file));
            return Ok(());
        }
        file.sync_all()
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
    pub(super) fn keep_rest(&mut self, job: &Job, remains: &Remains) -> Result<(), (String, io::Error)> {
        let Some(dir) = remains.dir() else { return Ok(()) };
        for name in TELLING {
            self.keep_file(dir, remains, name)?;
        }
        if !self.something {
            return Ok(());
        }
        self.keep_file(dir, remains, PARAMS_FILE)?;
        let named = |error| ("the attempt's directory".to_owned(), error);
        let own = remains.open(".").map_err(named)?;
        self.keep("the attempt's directory", own).map_err(named)?;
        self.shared_dirs = way_to(&job.dir, &job.stage_spec.artifacts_dir);
        Ok(())
    }

    fn keep_file(&mut self, dir: &OwnedFd, remains: &Remains, name: &str) -> Result<(), (String, io::Error)> {
        let empty = match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            // What is no file is none of ours.
            Ok(stat) => stat.st_size == 0 || FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile,
            Err(rustix::io::Errno::NOENT) => true,
            Err(error) => return Err((format!("`{name}`"), error.into())),
        };
        if empty || self.held.iter().any(|(held, _)| held == name) {
            return Ok(());
        }
        let file = remains.open(name).and_then(|file| match kind_of(&file)? {
            FileType::RegularFile => self.keep(name, file),
            _ => Ok(()),
        });
        match file {
            // Its permissions are the trial's: what nobody can read, nobody misses.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            other => other.map_err(|error| (format!("`{name}`"), error)),
        }
    }

    fn is_empty(&self) -> bool {
        !self.something
    }
}

/// The directories that lead to an attempt's, innermost first, up to the one that holds the artifacts directory.
pub(super) fn way_to(dir: &Path, artifacts: &Path) -> Vec<PathBuf> {
    let mut way: Vec<PathBuf> =
        dir.ancestors().skip(1).take_while(|dir| dir.starts_with(artifacts)).map(Path::to_path_buf).collect();
    if !way.is_empty() {
        way.extend(artifacts.parent().map(Path::to_path_buf));
    }
    way
}

/// What the syncer is told.
pub(super) enum ToSync {
    /// An attempt ended.
    Ended(Box<AttemptReport>, Unsynced),
    /// Answer once everything before this has been reported.
    Flush(Sender<()>),
}

/// Passes a report on to whoever has to see it next. Reports keep their order: one that has nothing to sync (a failure
/// without a word, say) must not overtake those before it, or rails would count failures before successes.
pub(super) fn hand_on(
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
        report.verdict = Verdict::Failed(failure("missing_output", why));
    }
    report
}

/// See the module.
pub(super) struct Syncer {
    /// Reports that were handed to it and not passed on yet.
    pub(super) waiting: Arc<AtomicUsize>,
    pub(super) inbox: Receiver<ToSync>,
    pub(super) events: Sender<ExecutorEvent>,
    pub(super) told_broken: Arc<AtomicBool>,
}

/// Why something could not be made durable.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Failed {
    /// Somebody removed a directory, or put something else in its place.
    Gone(String),
    /// The machine's fault, and final.
    Machine(String),
}

impl Failed {
    fn of(name: &str, error: &io::Error) -> Self {
        let why = format!("cannot make {name} durable: {}", io_words(error));
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP) => Self::Gone(why),
            _ => Self::Machine(why),
        }
    }
}

/// One thing to sync.
enum Item<'a> {
    Held(&'a str, &'a File),
    Dir(&'a Path),
}

impl Item<'_> {
    fn sync(&self) -> Result<(), Failed> {
        match self {
            Self::Held(name, file) => {
                file.sync_all().map_err(|error| Failed::of(&format!("`{name}` of an attempt"), &error))
            }
            Self::Dir(dir) => {
                let synced = open_dir(dir).and_then(|dir| File::from(dir).sync_all());
                synced.map_err(|error| Failed::of(&format!("`{}`", dir.display()), &error))
            }
        }
    }
}

impl Syncer {
    /// Runs until nobody can report any more.
    pub(super) fn run(self) {
        // Directories above the stages' get few entries: each once is enough.
        let mut done_once: HashSet<PathBuf> = HashSet::new();
        let mut failed: Option<String> = None;
        while let Ok(first) = self.inbox.recv() {
            let mut ended = Vec::new();
            let mut flushes = Vec::new();
            for message in std::iter::once(first).chain(self.inbox.try_iter().take(ROUND - 1)) {
                match message {
                    ToSync::Ended(report, unsynced) => ended.push((report, unsynced)),
                    ToSync::Flush(done) => flushes.push(done),
                }
            }
            let faults = match &failed {
                Some(why) => (0..ended.len()).map(|n| (n, Failed::Machine(why.clone()))).collect(),
                None => sync_round(&ended, &mut done_once),
            };
            let machine = faults.values().find_map(|fault| match fault {
                Failed::Machine(why) => Some(why),
                Failed::Gone(_) => None,
            });
            if let Some(why) = machine {
                failed.get_or_insert_with(|| why.clone());
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
}

/// Makes everything of these attempts durable; whose attempts could not be, and why.
fn sync_round(
    ended: &[(Box<AttemptReport>, Unsynced)],
    done_once: &mut HashSet<PathBuf>,
) -> BTreeMap<usize, Failed> {
    let mut items: Vec<Item<'_>> = Vec::new();
    let mut owner: Vec<Vec<usize>> = Vec::new();
    let mut dirs: BTreeMap<&Path, Vec<usize>> = BTreeMap::new();
    let mut once: BTreeSet<&Path> = BTreeSet::new();
    for (n, (_, unsynced)) in ended.iter().enumerate() {
        for (name, file) in &unsynced.held {
            start_writeback(file);
            items.push(Item::Held(name, file));
            owner.push(vec![n]);
        }
        for (above, dir) in unsynced.shared_dirs.iter().enumerate() {
            // The case's and the stage's directory have a new entry with most attempts.
            if above < 2 || !done_once.contains(dir) {
                dirs.entry(dir).or_default().push(n);
            }
            if above >= 2 && !done_once.contains(dir) {
                once.insert(dir);
            }
        }
    }
    for (dir, owners) in dirs {
        items.push(Item::Dir(dir));
        owner.push(owners);
    }
    let faults = sync_items(&items);
    if faults.is_empty() {
        done_once.extend(once.into_iter().map(Path::to_path_buf));
    }
    let mut of_attempts = BTreeMap::new();
    for (item, why) in faults {
        for n in owner.get(item).into_iter().flatten() {
            // The machine's fault weighs more.
            match of_attempts.get(n) {
                Some(Failed::Machine(_)) => {}
                _ => drop(of_attempts.insert(*n, why.clone())),
            }
        }
    }
    of_attempts
}

/// Syncs them, several at a time; those that failed, and why.
fn sync_items(items: &[Item<'_>]) -> Vec<(usize, Failed)> {
    let helpers = (items.len() / SYNCS_A_THREAD).min(THREADS - 1);
    let synced = each(items, helpers, "sync", Item::sync);
    if synced.iter().any(Option::is_none) {
        let failed = || Failed::Machine("a thread failed unexpectedly".to_owned());
        return (0..items.len()).map(|n| (n, failed())).collect();
    }
    synced.into_iter().flatten().enumerate().filter_map(|(n, synced)| Some((n, synced.err()?))).collect()
}
