//! Files as they were when they were hashed, so that one that was left alone since is not read again.
//!
//! It must never call a file the same that was written meanwhile. Where what the kernel says of a file leaves a doubt, the
//! file is read again.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::clock::unix_ms;
use super::stamp::{SETTLED_AFTER_MS, Stamp};
use super::tree_hash::{HashWatch, hash_bytes};
use crate::model::UnixMs;

/// A file as it was last hashed.
#[derive(Clone, Copy, Debug)]
struct Known {
    stamp: Stamp,
    settled: bool,
    bytes: u64,
    hash: blake3::Hash,
}

/// How files hashed before, so that one that was left alone since is not read again.
///
/// What the kernel says of a file is asked through the opened file, which a network file system answers afresh. A write
/// always changes it, but for a program that goes on writing into memory it mapped before the hash.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    known: HashMap<PathBuf, Known>,
    /// When any of them last changed in any way, Unix milliseconds.
    pub changed_ms: UnixMs,
    /// Files that were touched in any way since an earlier look, be it that they were away for a while, and say what they
    /// said.
    pub rewritten: Vec<PathBuf>,
}

impl Memory {
    /// A file's size and hash. Opening does not wait for a pipe's other end.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for what is no file; what `watch` says; otherwise what the kernel says.
    pub(crate) fn hash_file(&mut self, path: &Path, watch: HashWatch<'_>) -> io::Result<(u64, blake3::Hash)> {
        simulated!(|machine| {
            let bytes = machine.read(path)?;
            self.changed_ms = self.changed_ms.max(machine.changed_ms(path));
            Ok((bytes.len() as u64, blake3::hash(&bytes)))
        });
        if !fs::metadata(path)?.is_file() {
            return Err(not_a_file());
        }
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        self.hash_opened(path, &file, watch)
    }

    /// The same of an opened file, which is remembered by this path.
    ///
    /// # Errors
    /// As for [`Memory::hash_file`].
    pub(crate) fn hash_opened(
        &mut self,
        path: &Path,
        file: &File,
        watch: HashWatch<'_>,
    ) -> io::Result<(u64, blake3::Hash)> {
        let now_ms = unix_ms();
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(not_a_file());
        }
        let stamp = Stamp::of(&meta);
        self.changed_ms = self.changed_ms.max(stamp.changed_ms());
        if let Some(known) = self.known.get(path).filter(|known| known.settled && known.stamp == stamp) {
            return Ok((known.bytes, known.hash));
        }
        let hasher = hash_bytes(file, watch)?;
        let bytes = hasher.count();
        let hash = hasher.finalize();
        let still = Stamp::of(&file.metadata()?) == stamp;
        let settled = still && stamp.changed_ms().saturating_add(SETTLED_AFTER_MS) < now_ms;
        let before = self.known.insert(path.to_owned(), Known { stamp, settled, bytes, hash });
        if before.is_some_and(|known| known.hash == hash && known.stamp != stamp) {
            self.rewritten.push(path.to_owned());
        }
        Ok((bytes, hash))
    }
}

fn not_a_file() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, NotAFile)
}

/// What lies there has no contents to hash.
#[derive(Debug, thiserror::Error)]
#[error("neither a file nor a directory")]
struct NotAFile;

/// Whether the error is that of hashing what is no file.
#[must_use]
pub(crate) fn is_not_a_file(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|error| error.is::<NotAFile>())
}
