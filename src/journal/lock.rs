//! Who has a store open for writing. Its lock says so, and nothing that is written in it.
//!
//! redb holds its writer's bytes exclusively as long as a [`Journal`](super::Journal) is open. Asking who holds a lock
//! takes none, so it never makes anybody's opening fail, and a network file system answers for other hosts, too. The
//! kernel also lists the locks of a process's descriptors: so the process that holds a store's lock is found by that, and
//! a number that a store names is nobody until then.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

use super::pages::WRITERS_BYTES;
use crate::model::ProcessId;
use crate::sys::process::{all_processes, write_locked_files};

/// Whether some process, here or on another host, has the store open for writing: an engine, or for a moment a command
/// that changes or repairs it.
///
/// # Errors
/// If the file cannot be opened, or its file system knows no locks.
pub(crate) fn is_locked(store: &Path) -> io::Result<bool> {
    is_held(File::open(store)?)
}

/// The same for a file that is open already.
///
/// # Errors
/// If its file system knows no locks.
pub(super) fn is_held(file: File) -> io::Result<bool> {
    let file = FileBackend::new(file).map_err(|error| io::Error::other(error.to_string()))?;
    let (start, end) = WRITERS_BYTES;
    file.query_lock_range(start, end).map_err(|error| match error {
        BackendError::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
    })
}

/// The processes that hold the store's lock, as far as they are seen from here and may be looked into: those of the same
/// user, or all for root, in this PID namespace or below it.
///
/// # Errors
/// If the store or `/proc` cannot be read.
pub(crate) fn writers(store: &Path) -> io::Result<Vec<ProcessId>> {
    let file = file_id(&std::fs::metadata(store)?);
    let mut found = Vec::new();
    for stat in all_processes()?.iter().filter(|stat| !stat.dead) {
        if write_locked_files(stat.pid)?.iter().any(|path| is_file(path, file)) {
            found.push(stat.id());
        }
    }
    Ok(found)
}

/// The stores, and other files under such a lock, that a process writes; as names to open them by.
///
/// # Errors
/// If the process cannot be looked at.
pub(crate) fn written_by(pid: u32) -> io::Result<Vec<PathBuf>> {
    // One that it has closed meanwhile is not locked.
    let locked = |path: &PathBuf| is_locked(path).unwrap_or(false);
    Ok(write_locked_files(pid)?.into_iter().filter(locked).collect())
}

fn is_file(path: &Path, file: (u64, u64)) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| file_id(&meta) == file)
}

fn file_id(meta: &std::fs::Metadata) -> (u64, u64) {
    (meta.dev(), meta.ino())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Journal, Reader, create};
    use crate::model::{Event, Record, StudyCreated};
    use crate::sys::process::this_process;

    fn created() -> Record {
        let created = StudyCreated::of_nothing();
        Record { at_ms: 0, run_ms: 0, event: Event::StudyCreated(Box::new(created)) }
    }

    #[test]
    fn a_writer_is_seen_and_a_reader_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("study.redb");
        let journal = create(&store, &created()).unwrap();
        assert!(is_locked(&store).unwrap());
        assert_eq!(writers(&store).unwrap(), [this_process()]);
        assert_eq!(written_by(std::process::id()).unwrap().len(), 1);
        // Asking took nothing: the lock is still the writer's, and it can go on.
        assert!(Journal::open(&store).is_err());
        journal.close().unwrap();
        assert!(!is_locked(&store).unwrap());
        let reader = Reader::open(&store).unwrap();
        let _snapshot = reader.snapshot().unwrap();
        assert!(!is_locked(&store).unwrap());
        assert_eq!(writers(&store).unwrap(), []);
        assert!(is_locked(&dir.path().join("none")).is_err());
    }

    #[test]
    fn any_other_file_is_written_by_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        let open = File::create(&file).unwrap();
        assert!(!is_locked(&file).unwrap());
        assert_eq!(writers(&file).unwrap(), []);
        drop(open);
    }
}
