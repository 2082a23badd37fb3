//! A little room on the disk, kept for when there is none left.
//!
//! A study whose disk is full must still be able to record how it ended. So a file of a fixed size lies beside the store
//! while an engine runs; removing it gives the last commits their room. It holds nothing: it may be removed at any time,
//! and nothing depends on its being there.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};

/// Ten commits and the opening of a store take less.
pub(crate) const RESERVE_BYTES: u64 = 1 << 20;

/// The file; it goes with this.
#[derive(Debug)]
pub(crate) struct Reserve {
    path: PathBuf,
}

impl Reserve {
    fn of(store: &Path) -> Option<Self> {
        let mut name = OsString::from(store.file_name()?);
        name.push(".reserve");
        Some(Self { path: store.with_file_name(name) })
    }

    /// Removes what an engine left that died just after its study was over: no other takes it over.
    pub(crate) fn remove_leftover(store: &Path) {
        if let Some(reserve) = Self::of(store) {
            let is_one = fs::symlink_metadata(&reserve.path)
                .is_ok_and(|meta| meta.is_file() && meta.len() == RESERVE_BYTES);
            // What is none stays.
            if !is_one {
                std::mem::forget(reserve);
            }
        }
    }

    /// The reserve of a store, `<store>.reserve`: made, or taken over from an engine that died. `None` where there is no
    /// room for it, or the file system cannot set any aside.
    #[must_use]
    pub(crate) fn beside(store: &Path) -> Option<Self> {
        let reserve = Self::of(store)?;
        // If it cannot be had whole, what there is of it goes when `reserve` does.
        match reserve.fill() {
            Ok(()) => Some(reserve),
            Err(error) => {
                log::debug!("no reserve is kept in `{}`: {error}", reserve.path.display());
                None
            }
        }
    }

    fn fill(&self) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let file: File = options.open(&self.path)?;
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        if meta.blocks().saturating_mul(512) < RESERVE_BYTES {
            fallocate(&file, FallocateFlags::empty(), 0, RESERVE_BYTES)?;
        }
        Ok(())
    }

    /// Gives the room back to the disk.
    pub(crate) fn release(self) {
        drop(self);
    }
}

impl Drop for Reserve {
    fn drop(&mut self) {
        // One that cannot be removed is found by the next engine.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_its_room_and_gives_it_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.redb.reserve");
        let reserve = Reserve::beside(&dir.path().join("s.redb")).unwrap();
        assert!(fs::metadata(&path).unwrap().blocks() * 512 >= RESERVE_BYTES);
        // An engine that died left it: the next one has it, and no second one.
        std::mem::forget(reserve);
        Reserve::beside(&dir.path().join("s.redb")).unwrap().release();
        assert!(!path.exists());
        assert!(Reserve::beside(&dir.path().join("no/s.redb")).is_none());
        // One of an engine that died after its study was over goes; a file of somebody else's stays.
        let store = dir.path().join("s.redb");
        std::mem::forget(Reserve::beside(&store).unwrap());
        Reserve::remove_leftover(&store);
        assert!(!path.exists());
        fs::write(&path, "mine").unwrap();
        Reserve::remove_leftover(&store);
        assert!(path.exists());
    }
}
