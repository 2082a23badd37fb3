//! All studies below a directory.
//!
//! Every store is only read, and not even mended. What is wrong with one is said of that one, and never ends the list.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Look;
use crate::claim::{CLAIM_FILE, is_of_study};
use crate::error::Error;
use crate::journal::Reader;
use crate::sys::clock::unix_ms;
use crate::sys::opened::Opened;
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
    let (mut stores, mut unreadable) = (Vec::new(), Vec::new());
    gather(dir, 0, &mut stores, &mut unreadable).map_err(|cause| Error::File {
        what: "list",
        path: dir.into(),
        cause,
    })?;
    stores.sort();
    unreadable.sort();
    let threads = std::thread::available_parallelism().map_or(1, usize::from).clamp(1, MAX_THREADS);
    let next = AtomicUsize::new(0);
    let mut found: Vec<(usize, Listed)> = std::thread::scope(|running| {
        let work = || {
            let mut mine = Vec::new();
            while let Some((at, store)) = {
                let at = next.fetch_add(1, Ordering::Relaxed);
                stores.get(at).map(|store| (at, store))
            } {
                mine.push((at, listed(store, disk)));
            }
            mine
        };
        let handles: Vec<_> = (0..threads.min(stores.len())).map(|_| running.spawn(work)).collect();
        let parts = handles.into_iter().map(|handle| {
            // A mistake of ours: the caller that reports it should see it as if it had happened here.
            handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        parts.flatten().collect()
    });
    found.sort_by_key(|(at, _)| *at);
    let unreadable = unreadable.iter().map(|path| path.display().to_string()).collect();
    Ok(Listing { schema: 1, studies: found.into_iter().map(|(_, listed)| listed).collect(), unreadable })
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

fn listed(store: &Path, disk: bool) -> Listed {
    let store_bytes = fs::symlink_metadata(store).map_or(0, |meta| allocated(&meta));
    let path = store.display().to_string();
    match load(store, disk) {
        Ok((study, artifacts)) => Listed {
            store: path,
            study: Some(study),
            error: None,
            store_bytes,
            disk_bytes: artifacts.map(|artifacts| artifacts.saturating_add(store_bytes)),
        },
        Err(error) => {
            Listed { store: path, study: None, error: Some(reason(&error)), store_bytes, disk_bytes: None }
        }
    }
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

/// How it stands, and what its artifacts take if that is asked for.
fn load(store: &Path, disk: bool) -> Result<(ListedStudy, Option<u64>), Error> {
    let reader = Reader::open_untouched(store)?;
    let Look { snapshot, view } = Look::again(&reader, store)?;
    let study = ListedStudy::load(&view, &snapshot, unix_ms())?;
    drop(snapshot);
    Ok((study, disk.then(|| artifacts_bytes(&view))))
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
