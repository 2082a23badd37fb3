//! Making a store so that a crash at any moment leaves either no store or a whole one.
//!
//! redb's own creation is not crash-safe: a kill inside it leaves a file that is refused for ever. So the store is
//! built under another name, closed, synced, and only then renamed; the directory is synced before anyone hears of it.
//! It must never replace an existing store.

use std::io;
use std::path::Path;

use redb::Database;

use super::error::{JournalError, OpenError, damaged_or_io, open_error};
use super::rows::initialise;
use super::storage::create_database;
use super::write::{Journal, sync_directory_of};
use crate::model::Record;
use crate::sys::disk;
use crate::sys::temporary::{self, Access, Temporary};

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

/// Makes a store that `fill` puts everything into, whole or not at all. The study's environment is in it, so that it is
/// closed to other users until its owner opens it.
pub(super) fn make(path: &Path, fill: &dyn Fn(&Database) -> Result<(), JournalError>) -> Result<(), OpenError> {
    let io_error = |error: io::Error| match error.kind() {
        io::ErrorKind::AlreadyExists => OpenError::Exists { path: path.into() },
        _ => OpenError::Io { path: path.into(), cause: JournalError::Io(error) },
    };
    if disk::is_taken(path) {
        return Err(OpenError::Exists { path: path.into() });
    }
    remove_leftovers(path);
    let unfinished = if injected_fault!(CreatedInPlace) {
        Temporary::in_place(path, true)
    } else {
        Temporary::beside(path, Access::Own)
    };
    // Locked until it has its name: nobody may take it for a leftover. redb's own lock ends before that.
    let unfinished = unfinished.map_err(io_error)?;
    unfinished.is_locked().map_err(io_error)?;
    let db = create_database(unfinished.path()).map_err(|error| open_error(path, error))?;
    fill(&db).map_err(|cause| damaged_or_io(path, cause))?;
    db.close().map_err(|error| open_error(path, error))?;
    disk::sync(unfinished.path()).map_err(io_error)?;
    unfinished.place_new().map_err(io_error)?;
    sync_directory_of(path).map_err(io_error)
}

/// Removes what killed creations and compactions of this store left, those of earlier versions too: `<store>.new`,
/// `<store>.<16 digits>.new` and `<store>.compact.new`. What is still being made is locked and stays.
pub(crate) fn remove_leftovers(path: &Path) {
    temporary::remove_leftovers_of(path);
    let Some(name) = path.file_name() else { return };
    let prefix = format!("{}.", name.to_string_lossy());
    let is_old = |name: &str| {
        name.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix("new")).is_some_and(|rest| {
            let random = rest.strip_suffix('.').unwrap_or_default();
            let is_random = random.len() == 16 && random.bytes().all(|byte| byte.is_ascii_hexdigit());
            rest.is_empty() || rest == "compact." || is_random
        })
    };
    let dir = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // A directory that cannot be listed is an error where it matters.
    drop(temporary::remove_leftovers(dir, is_old));
}
