//! All studies below a directory.
//!
//! Every store is only read, and not even mended. What is wrong with one is said of that one, and never ends the list.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Look;
use crate::claim::{CLAIM_FILE, is_of_study};
use crate::error::Error;
use crate::journal::{self, Reader};
use crate::model::UnixMs;
use crate::sys::clock::unix_ms;
use crate::sys::opened::Opened;
use crate::sys::stamp::{SETTLED_AFTER_MS, Stamp};
use crate::views::{Listed, ListedStudy, Listing, StudyView};

/// How a store's name ends.
const STORE_ENDING: &str = "redb";
/// At most so many stores are read at once.
const MAX_THREADS: usize = 8;
/// Most directories above each other that are looked into.
const MAX_DEPTH: usize = 64;

/// Lists the studies whose stores lie below a directory, by their paths: files that end in `.redb`. Links, hidden directories and the artifacts of
/// studies are not looked into. With `disk` what lies in each study's artifacts directory is counted, which takes a look at every file.
///
/// # Errors
/// [`Error::File`] when the directory itself cannot be read.
pub fn list(dir: &Path, disk: bool) -> Result<Listing, Error> {
    let found = Stores::below(dir).look(|Look { view, snapshot }| {
        let study = ListedStudy::load(view, snapshot, unix_ms())?;
        Ok((study, disk.then(|| artifacts_bytes(view))))
    })?;
    let listed = |FoundStore { path, bytes, read }: FoundStore<(_, Option<u64>)>| {
        let store = path.display().to_string();
        match read {
            Ok((study, artifacts)) => Listed {
                disk_bytes: artifacts.map(|artifacts| artifacts.saturating_add(bytes)),
                ..Listed::readable(store, study, bytes)
            },
            Err(reason) => Listed::unreadable(store, reason, bytes),
        }
    };
    let studies = found.stores.into_iter().map(listed).collect();
    Ok(Listing::of(studies, found.unreadable.iter().map(|path| path.display().to_string()).collect()))
}

/// The stores below a directory, looked at again and again: one that has not changed since, and that no engine has open, is not read again.
#[derive(Debug)]
pub struct Stores<T> {
    dir: PathBuf,
    known: HashMap<PathBuf, Known<T>>,
}

/// What was read of a store that then was in that state.
#[derive(Clone, Debug)]
struct Known<T> {
    state: Stamp,
    read: Result<T, String>,
}

/// What one look found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Found<T> {
    /// By their paths.
    pub stores: Vec<FoundStore<T>>,
    /// Directories that could not be read.
    pub unreadable: Vec<PathBuf>,
}

/// What lies at a path that looks like a store's.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FoundStore<T> {
    /// Its path: that of the directory, and below.
    pub path: PathBuf,
    /// Its size on disk.
    pub bytes: u64,
    /// What was read, or in one line why nothing could be.
    pub read: Result<T, String>,
}

impl<T> Stores<T> {
    /// Those below `dir`; nothing is read yet.
    #[must_use]
    pub fn below(dir: &Path) -> Self {
        Self { dir: dir.into(), known: HashMap::new() }
    }
}

impl<T: Clone + Send + Sync> Stores<T> {
    /// Finds the stores that are there now, as [`list`] does, and reads those that need it, several at once.
    ///
    /// # Errors
    /// [`Error::File`] when the directory itself cannot be read; what was known stays known.
    pub fn look<F>(&mut self, read: F) -> Result<Found<T>, Error>
    where
        F: Fn(&Look) -> Result<T, Error> + Sync,
    {
        let (mut paths, mut unreadable) = (Vec::new(), Vec::new());
        gather(&self.dir, 0, &mut paths, &mut unreadable).map_err(|cause| Error::File {
            what: "list",
            path: self.dir.clone(),
            cause,
        })?;
        paths.sort();
        unreadable.sort();
        let threads = std::thread::available_parallelism().map_or(1, usize::from).clamp(1, MAX_THREADS);
        let (next, known, now_ms) = (AtomicUsize::new(0), &self.known, unix_ms());
        let mut found: Vec<(usize, FoundStore<T>, Option<Stamp>)> = std::thread::scope(|running| {
            let work = || {
                let mut mine = Vec::new();
                while let Some((at, path)) = {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    paths.get(at).map(|path| (at, path))
                } {
                    let (store, state) = look_at(path, known.get(path), now_ms, &read);
                    mine.push((at, store, state));
                }
                mine
            };
            let handles: Vec<_> = (0..threads.min(paths.len())).map(|_| running.spawn(work)).collect();
            let parts = handles.into_iter().map(|handle| {
                // A mistake of ours: the caller that reports it should see it as if it had happened here.
                handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            parts.flatten().collect()
        });
        found.sort_by_key(|(at, ..)| *at);
        let lasting = found.iter().filter_map(|(_, store, state)| {
            state.map(|state| (store.path.clone(), Known { state, read: store.read.clone() }))
        });
        self.known = lasting.collect();
        Ok(Found { stores: found.into_iter().map(|(_, store, _)| store).collect(), unreadable })
    }
}

/// Also in which state the file was, if what was read holds for as long as it stays in that.
fn look_at<T: Clone>(
    path: &Path,
    known: Option<&Known<T>>,
    now_ms: UnixMs,
    read: impl Fn(&Look) -> Result<T, Error>,
) -> (FoundStore<T>, Option<Stamp>) {
    let meta = fs::symlink_metadata(path);
    let bytes = meta.as_ref().map_or(0, allocated);
    // An engine may hold the store for long before it writes. Where nobody can tell, it is read.
    let free = |meta: &fs::Metadata| meta.is_file() && matches!(journal::is_locked(path), Ok(false));
    let state = meta.ok().filter(free).map(|meta| Stamp::of(&meta));
    if let Some(known) = known
        && Some(known.state) == state
    {
        return (FoundStore { path: path.into(), bytes, read: known.read.clone() }, state);
    }
    let looked = Reader::open_untouched(path).map_err(Error::from).and_then(|reader| {
        let look = Look::again(&reader, path)?;
        Ok((read(&look)?, look.view.liveness.alive))
    });
    let (read, lasts) = match looked {
        Ok((read, alive)) => (Ok(read), !alive),
        // Whatever else hindered it may be over at the next look, without a change of the file.
        Err(error) => (Err(reason(&error)), error.exit_code() == 7),
    };
    let settled =
        |state: &Stamp| state.changed_ms().max(state.modified_ms()).saturating_add(SETTLED_AFTER_MS) < now_ms;
    (FoundStore { path: path.into(), bytes, read }, state.filter(|state| lasts && settled(state)))
}

/// The stores in and below a directory.
fn gather(dir: &Path, depth: usize, stores: &mut Vec<PathBuf>, unreadable: &mut Vec<PathBuf>) -> io::Result<()> {
    let entries = fs::read_dir(dir)?.collect::<io::Result<Vec<_>>>()?;
    // It holds what trials left.
    if depth > 0 && entries.iter().any(|entry| entry.file_name() == CLAIM_FILE) {
        return Ok(());
    }
    for entry in entries {
        let (name, path) = (entry.file_name(), entry.path());
        let Ok(kind) = entry.file_type() else { continue };
        let below = kind.is_dir() && !name.as_bytes().starts_with(b".");
        if below && (depth >= MAX_DEPTH || gather(&path, depth + 1, stores, unreadable).is_err()) {
            unreadable.push(path);
        } else if kind.is_file() && path.extension().is_some_and(|ending| ending == STORE_ENDING) {
            stores.push(path.strip_prefix(".").map_or_else(|_| path.clone(), Path::to_owned));
        }
    }
    Ok(())
}

/// In one line, without the path, which stands beside it.
fn reason(error: &Error) -> String {
    use crate::journal::OpenError;
    match error {
        Error::Open(OpenError::Newer { .. }) => "written by a newer piton".to_owned(),
        Error::Open(OpenError::Missing { .. }) => "gone".to_owned(),
        Error::Open(OpenError::Locked { .. } | OpenError::Withheld { .. }) => "locked".to_owned(),
        error if error.exit_code() == 7 => "damaged, or no piton store".to_owned(),
        error => match std::error::Error::source(error) {
            Some(cause) => format!("cannot be read: {cause}"),
            None => format!("cannot be read: {error}"),
        },
    }
}

/// What the study's artifacts take on disk; nothing where they are not its own. A store may name any directory.
fn artifacts_bytes(view: &StudyView) -> u64 {
    use std::os::fd::AsFd;
    let dir = view.study_artifacts_dir();
    let id = view.study.study_id;
    let own = Opened::dir(&dir).and_then(|open| Ok(is_of_study(open.file()?.as_fd(), id)));
    if own.unwrap_or(false) { bytes_below(&dir) } else { 0 }
}

/// Each file once, however many names it has; links are not followed, and what cannot be read is not counted.
fn bytes_below(dir: &Path) -> u64 {
    let (mut total, mut left, mut seen) = (0_u64, vec![dir.to_owned()], HashSet::new());
    while let Some(dir) = left.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.nlink() > 1 && !meta.is_dir() && !seen.insert((meta.dev(), meta.ino())) {
                continue;
            }
            total = total.saturating_add(allocated(&meta));
            if meta.is_dir() {
                left.push(entry.path());
            }
        }
    }
    total
}

fn allocated(meta: &fs::Metadata) -> u64 {
    meta.blocks().saturating_mul(512)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_holds_until_the_file_changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.redb");
        fs::write(&path, "no store").unwrap();
        let now_ms = unix_ms();
        let looked = |known: Option<&Known<()>>, now_ms| look_at(&path, known, now_ms, |_| Ok(()));
        // It might be written again at the same time.
        let (fresh, state) = looked(None, now_ms);
        assert_eq!((fresh.read, state), (Err("damaged, or no piton store".to_owned()), None));
        let (_, state) = looked(None, now_ms + 2 * SETTLED_AFTER_MS);
        let known = Known { state: state.unwrap(), read: Ok(()) };
        assert_eq!(looked(Some(&known), now_ms).0.read, Ok(()), "it is not read again");
        fs::write(&path, "no store either").unwrap();
        assert!(looked(Some(&known), now_ms).0.read.is_err(), "it has changed");
        fs::remove_file(&path).unwrap();
        let (gone, state) = looked(Some(&known), now_ms + 2 * SETTLED_AFTER_MS);
        assert_eq!((gone.read, state), (Err("gone".to_owned()), None));
    }
}
