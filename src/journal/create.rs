//! Making a store so that a crash at any moment leaves either no store or a whole one.
//!
//! redb's own creation is not crash-safe: a kill inside it leaves a file that is refused for ever. So the store is
//! built under another name, closed, synced, and only then renamed; the directory is synced before anyone is told.
//! It must never replace an existing store.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use redb::Database;

use super::error::{JournalError, OpenError};
use super::write::{Journal, create_database, damaged_or_io, initialise, open_error, sync_directory_of};
use crate::model::Record;
use crate::sys::disk;

/// Ending of a store that is still being made.
const UNFINISHED: &str = ".new";

/// How often a creation is tried again whose unfinished file another process took for a leftover.
const RETRIES: u32 = 5;

/// Makes a store with its first event and opens it.
///
/// # Errors
/// [`OpenError::Exists`] when a store is there (also when another process was faster), otherwise what the disk says.
pub fn create(path: &Path, first: &Record) -> Result<Journal, OpenError> {
    create_with(path, std::slice::from_ref(first))
}

/// The same with several events, in one transaction.
///
/// # Errors
/// As for [`create`].
pub fn create_with(path: &Path, first: &[Record]) -> Result<Journal, OpenError> {
    make(path, &|db| initialise(db, first))?;
    Journal::open(path)
}

/// Makes a store that `fill` puts everything into, whole or not at all.
pub(super) fn make(path: &Path, fill: &dyn Fn(&Database) -> Result<(), JournalError>) -> Result<(), OpenError> {
    let io_error = |error: io::Error| OpenError::Io { path: path.into(), cause: JournalError::Io(error) };
    let mut tries = 0;
    loop {
        if disk::is_taken(path) {
            return Err(OpenError::Exists { path: path.into() });
        }
        remove_leftovers(path);
        let unfinished = unfinished_name(path).map_err(io_error)?;
        match build(&unfinished, path, fill) {
            Ok(()) => return Ok(()),
            Err(BuildError::Gone) if tries < RETRIES => tries += 1,
            Err(error) => {
                // Best effort: a leftover is harmless and goes with the next creation.
                drop(disk::remove_file(&unfinished));
                return Err(error.into_open_error(path));
            }
        }
    }
}

/// Why an unfinished store did not become one.
enum BuildError {
    /// Another process removed it, between its making and its lock.
    Gone,
    Open(OpenError),
    Io(io::Error),
}

impl From<io::Error> for BuildError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::NotFound { Self::Gone } else { Self::Io(error) }
    }
}

impl BuildError {
    fn into_open_error(self, path: &Path) -> OpenError {
        match self {
            Self::Open(error) => error,
            Self::Gone => Self::Io(io::ErrorKind::NotFound.into()).into_open_error(path),
            Self::Io(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                OpenError::Exists { path: path.into() }
            }
            Self::Io(error) => OpenError::Io { path: path.into(), cause: JournalError::Io(error) },
        }
    }
}

fn build(
    unfinished: &Path,
    path: &Path,
    fill: &dyn Fn(&Database) -> Result<(), JournalError>,
) -> Result<(), BuildError> {
    let unfinished = if planted!(CreatedInPlace) { path } else { unfinished };
    // Held until it has its name: nobody may take it for a leftover. redb's own lock ends before that.
    let _claimed = disk::create_claimed(unfinished)?;
    let db = create_database(unfinished);
    let db = db.map_err(|error| BuildError::Open(open_error(path, error)))?;
    fill(&db).map_err(|cause| BuildError::Open(damaged_or_io(path, cause)))?;
    db.close().map_err(|error| BuildError::Open(open_error(path, error)))?;
    disk::sync(unfinished)?;
    if unfinished != path {
        disk::rename_new(unfinished, path)?;
    }
    Ok(sync_directory_of(path)?)
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// `<store>.<random>.new`, in the store's directory, so that two processes never build in the same file.
fn unfinished_name(path: &Path) -> io::Result<PathBuf> {
    let mut name = OsString::from(path.file_name().ok_or(io::ErrorKind::InvalidInput)?);
    name.push(format!(".{:016x}{UNFINISHED}", u64::from_le_bytes(disk::random()?)));
    Ok(directory(path).join(name))
}

/// Removes what killed creations of this store left; one that is still being made is locked and stays.
fn remove_leftovers(path: &Path) {
    let (Some(name), Ok(entries)) = (path.file_name(), disk::names(directory(path))) else { return };
    let prefix = format!("{}.", name.to_string_lossy());
    for entry in entries {
        let entry_name = entry.to_string_lossy();
        if !entry_name.strip_prefix(&prefix).is_some_and(is_unfinished) {
            continue;
        }
        if let Err(error) = disk::remove_unclaimed(&directory(path).join(&entry)) {
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
