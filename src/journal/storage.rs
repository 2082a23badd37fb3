//! Opening the file under a store: every page that is read is checked, and no damage makes redb panic or begin anew.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use redb::backends::FileBackend;
use redb::{Builder, ConcurrencyMode, Database, DatabaseError, ReadOnlyDatabase, StorageBackend, StorageError};

use super::error::JournalError;
use super::guard::guarded;
use super::pages::{Checked, HEADER_BYTES, Header, Overlay};

/// redb's page cache. Its default of 1 GiB would be most of what the engine uses.
pub(super) const CACHE_BYTES: usize = 16 << 20;

/// How often a header is read again that contradicts itself: a writer may be just about to open or close the file.
const RETRIES: u32 = 5;

pub(super) fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_concurrency_mode(ConcurrencyMode::SingleWriter).set_cache_size(CACHE_BYTES);
    builder
}

/// Makes a database in a file that is there and empty.
pub(super) fn create_database(path: &Path) -> Result<Database, DatabaseError> {
    #[cfg(test)]
    if let Some(file) = super::simulated::open_empty(path) {
        return builder().create_with_backend(file?);
    }
    builder().create(path)
}

/// Opens a store's file for writing; redb repairs what a crash left.
pub(super) fn open(path: &Path) -> Result<Database, DatabaseError> {
    #[cfg(test)]
    if let Some(file) = super::simulated::open(path) {
        let file = file?;
        consistent(&file, RETRIES)?;
        return writable(file);
    }
    let storage = FileBackend::new(File::options().read(true).write(true).open(path)?)?;
    consistent(&storage, RETRIES)?;
    writable(storage)
}

/// Opens a store's file for looking, beside its writer.
pub(super) fn open_read_only(path: &Path) -> Result<ReadOnlyDatabase, DatabaseError> {
    #[cfg(test)]
    if let Some(file) = super::simulated::open(path) {
        let file = file?;
        consistent(&file, RETRIES)?;
        return caught(|| builder().open_read_only_with_backend(Checked::over(file)));
    }
    let storage = FileBackend::new(File::open(path)?)?;
    consistent(&storage, RETRIES)?;
    caught(|| builder().open_read_only_with_backend(Checked::over(storage)))
}

/// Opens a store over other storage than a file.
pub(super) fn open_over(storage: impl StorageBackend) -> Result<Database, DatabaseError> {
    consistent(&storage, 0)?;
    writable(storage)
}

/// Reads a view of a store as it is.
pub(super) fn read_overlay(overlay: &Overlay) -> Result<ReadOnlyDatabase, DatabaseError> {
    consistent(overlay, 0)?;
    caught(|| builder().open_read_only_with_backend(Checked::over(overlay.copy())))
}

fn writable(storage: impl StorageBackend) -> Result<Database, DatabaseError> {
    let storage = Checked::alone_over(storage)?;
    caught(|| builder().create_with_backend(storage))
}

/// Refuses an empty file, in which redb would begin a new database, and a header that contradicts itself.
fn consistent(storage: &impl StorageBackend, retries: u32) -> Result<(), DatabaseError> {
    if storage.len()? < HEADER_BYTES as u64 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is cut off or empty").into());
    }
    let mut tries = 0;
    loop {
        let mut bytes = [0; HEADER_BYTES];
        storage.read(0, &mut bytes)?;
        // What is no header of this format is for redb to refuse.
        let len = storage.len()?;
        let wrong = Header::parse(&bytes).and_then(|header| header.contradiction(len));
        match wrong {
            None => return Ok(()),
            Some(words) if tries == retries => return Err(StorageError::Corrupted(words.into()).into()),
            Some(_) => {
                tries += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

/// Opens, and takes a panic for damage.
fn caught<T>(open: impl FnOnce() -> Result<T, DatabaseError>) -> Result<T, DatabaseError> {
    enum Failed {
        Refused(DatabaseError),
        Panicked(JournalError),
    }
    impl From<JournalError> for Failed {
        fn from(error: JournalError) -> Self {
            Self::Panicked(error)
        }
    }
    guarded(|| open().map_err(Failed::Refused)).map_err(|failed| match failed {
        Failed::Refused(error) => error,
        Failed::Panicked(JournalError::Corrupted(words)) => StorageError::Corrupted(words).into(),
        Failed::Panicked(other) => StorageError::Corrupted(other.to_string()).into(),
    })
}
