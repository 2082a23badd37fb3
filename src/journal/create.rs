//! Making a store so that a crash at any moment leaves either no store or a whole one.
//!
//! redb's own creation is not crash-safe: a kill inside it leaves a file that is refused for ever. So the store is
//! built under another name, closed, synced, and only then renamed; the directory is synced before anyone is told.
//! It must never replace an existing store.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};

use super::error::{JournalError, OpenError};
use super::write::{Journal, builder, damaged_or_io, initialise, open_error};
use crate::model::Record;

/// Ending of a store that is still being made.
const UNFINISHED: &str = ".new";

/// Makes a store with its first event and opens it.
///
/// # Errors
/// [`OpenError::Exists`] when a store is there (also when another process was faster), otherwise what the disk says;
/// no store is there then.
pub fn create(path: &Path, first: &Record) -> Result<Journal, OpenError> {
    let io_error = |error: io::Error| OpenError::Io { path: path.into(), cause: JournalError::Io(error) };
    if path.symlink_metadata().is_ok() {
        return Err(OpenError::Exists { path: path.into() });
    }
    remove_leftovers(path);
    let unfinished = unfinished_name(path).map_err(io_error)?;
    let made = build(&unfinished, path, first);
    if made.is_err() {
        // Best effort: a leftover is harmless and goes with the next creation.
        drop(fs::remove_file(&unfinished));
    }
    made?;
    Journal::open(path)
}

fn build(unfinished: &Path, path: &Path, first: &Record) -> Result<(), OpenError> {
    let io_error = |error: io::Error| OpenError::Io { path: path.into(), cause: JournalError::Io(error) };
    let db = builder().create(unfinished).map_err(|error| open_error(path, error))?;
    initialise(&db, first).map_err(|cause| damaged_or_io(path, cause))?;
    db.close().map_err(|error| open_error(path, error))?;
    File::open(unfinished).and_then(|file| file.sync_all()).map_err(io_error)?;
    publish(unfinished, path).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => OpenError::Exists { path: path.into() },
        _ => io_error(error),
    })?;
    File::open(directory(path)).and_then(|dir| dir.sync_all()).map_err(io_error)
}

/// Renames without replacing. File systems that cannot do that in one step get a hard link instead, which refuses
/// an existing name just as well.
fn publish(unfinished: &Path, path: &Path) -> io::Result<()> {
    match renameat_with(CWD, unfinished, CWD, path, RenameFlags::NOREPLACE) {
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            fs::hard_link(unfinished, path)?;
            fs::remove_file(unfinished)
        }
        other => Ok(other?),
    }
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// `.<store>.<random>.new`, in the store's directory, so that two processes never build in the same file.
fn unfinished_name(path: &Path) -> io::Result<PathBuf> {
    let mut random = [0; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    let mut name = OsString::from(path.file_name().ok_or(io::ErrorKind::InvalidInput)?);
    name.push(format!(".{:016x}{UNFINISHED}", u64::from_le_bytes(random)));
    Ok(directory(path).join(name))
}

/// Removes what killed creations of this store left; one that is still being made is locked and stays.
fn remove_leftovers(path: &Path) {
    let (Some(name), Ok(entries)) = (path.file_name(), fs::read_dir(directory(path))) else { return };
    let prefix = format!("{}.", name.to_string_lossy());
    for entry in entries.flatten() {
        let entry_name = entry.file_name().to_string_lossy().into_owned();
        if !entry_name.strip_prefix(&prefix).is_some_and(is_unfinished) {
            continue;
        }
        // redb holds this same lock while it builds.
        let free = File::open(entry.path())
            .is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok());
        if free && let Err(error) = fs::remove_file(entry.path()) {
            log::warn!("cannot remove the leftover `{entry_name}`: {error}");
        }
    }
}

/// Whether the rest of a name, after the store's, is that of an unfinished store: 16 hex digits and the ending.
fn is_unfinished(rest: &str) -> bool {
    rest == UNFINISHED.trim_start_matches('.')
        || rest
            .strip_suffix(UNFINISHED)
            .is_some_and(|random| random.len() == 16 && random.bytes().all(|byte| byte.is_ascii_hexdigit()))
}
