//! The store on a simulated disk. Compiled for the library's own tests alone.

use std::io;
use std::path::Path;
use std::sync::Arc;

use redb::{DatabaseError, StorageBackend};

use crate::sys::simulated::{RandomAccess, machine};

/// A simulated file as redb wants it. One engine runs in a simulation, so every lock is free.
#[derive(Debug)]
pub(super) struct Backend(Arc<dyn RandomAccess>);

/// The file at a path that is a store, if this thread simulates.
pub(super) fn open(path: &Path) -> Option<Result<Backend, DatabaseError>> {
    let file = open_empty(path)?;
    Some(file.and_then(|file| match file.0.bytes() {
        // As redb says it; over other storage than a file it would make a database of it.
        Ok(0) => Err(redb::StorageError::Io(io::ErrorKind::InvalidData.into()).into()),
        Ok(_) => Ok(file),
        Err(error) => Err(redb::StorageError::Io(error).into()),
    }))
}

/// The file at a path that is to become a store.
pub(super) fn open_empty(path: &Path) -> Option<Result<Backend, DatabaseError>> {
    let file = machine()?.open(path);
    Some(file.map(Backend).map_err(|error| redb::StorageError::Io(error).into()))
}

impl StorageBackend for Backend {
    fn len(&self) -> Result<u64, io::Error> {
        self.0.bytes()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.0.read(offset, out)
    }
    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> Result<(), io::Error> {
        if injected_fault!(CommitNotSynced) { Ok(()) } else { self.0.sync() }
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.0.write(offset, data)
    }
    super::pages::locks_are_free!();
}
