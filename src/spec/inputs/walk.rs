//! Hashing one input: a file, or a directory with everything below it.
//!
//! Reading must end on whatever the path names: a pipe or device is refused, a ring of symbolic links is walked
//! once. It must never follow anything it has not looked at through the open file itself.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::leave::{Entry, LeaveBelow};
use crate::model::{InputEntry, UnixMs};
use crate::sys::clock::unix_ms;
use crate::sys::tree_hash::{HashWatch, hash_bytes};

/// A file is trusted to be what it was hashed as only if it had been left alone for so long before: within one tick of
/// a file system's clock, a second write leaves no trace in its times. Milliseconds.
const SETTLED_AFTER_MS: UnixMs = 10_000;

/// What the kernel says of a file; every write changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    dev: u64,
    ino: u64,
    bytes: u64,
    modified: (i64, i64),
    /// No program can set this one.
    changed: (i64, i64),
}

impl Stamp {
    fn of(meta: &fs::Metadata) -> Self {
        Self {
            dev: meta.dev(),
            ino: meta.ino(),
            bytes: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    fn changed_ms(&self) -> UnixMs {
        self.changed.0.saturating_mul(1_000).saturating_add(self.changed.1 / 1_000_000)
    }
}

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
pub(super) struct Memory {
    known: HashMap<PathBuf, Known>,
    /// When any of them last changed in any way, Unix milliseconds.
    pub(super) changed_ms: UnixMs,
    /// Files that were written since an earlier look, and say what they said.
    pub(super) rewritten: Vec<PathBuf>,
}

impl Memory {
    /// A file's size and hash. Opening does not wait for a pipe's other end.
    pub(super) fn hash_file(&mut self, path: &Path, watch: HashWatch<'_>) -> io::Result<(u64, blake3::Hash)> {
        let not_a_file = || io::Error::new(io::ErrorKind::InvalidInput, "neither a file nor a directory");
        if !fs::metadata(path)?.is_file() {
            return Err(not_a_file());
        }
        let now_ms = unix_ms();
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(not_a_file());
        }
        let stamp = Stamp::of(&meta);
        self.changed_ms = self.changed_ms.max(stamp.changed_ms());
        if let Some(known) = self.known.get(path).filter(|known| known.settled && known.stamp == stamp) {
            return Ok((known.bytes, known.hash));
        }
        let hasher = hash_bytes(&file, watch)?;
        let bytes = hasher.count();
        let hash = hasher.finalize();
        let still = Stamp::of(&file.metadata()?) == stamp;
        let settled = still && stamp.changed_ms().saturating_add(SETTLED_AFTER_MS) < now_ms;
        let before = self.known.insert(path.to_owned(), Known { stamp, settled, bytes, hash });
        let written = |known: &Known| (known.stamp.ino, known.stamp.modified) != (stamp.ino, stamp.modified);
        if before.is_some_and(|known| known.hash == hash && written(&known)) {
            self.rewritten.push(path.to_owned());
        }
        Ok((bytes, hash))
    }
}

/// What an entry of a directory is; the hash covers this byte, so none can pass for another.
#[derive(Clone, Copy)]
enum EntryKind {
    File = b'f' as isize,
    Directory = b'd' as isize,
    /// A directory met before.
    Again = b'a' as isize,
    /// Pipe, socket or device.
    Special = b's' as isize,
    /// A link that leads nowhere.
    Dangling = b'l' as isize,
}

/// A walk through a directory.
pub(super) struct Walk<'a> {
    root: &'a Path,
    /// As the study names it.
    shown: &'a Path,
    /// What is left out; `None`: nothing.
    leave: Option<&'a LeaveBelow<'a>>,
    memory: &'a mut Memory,
    watch: HashWatch<'a>,
    hasher: blake3::Hasher,
    bytes: u64,
    entries: Vec<InputEntry>,
    /// Directories by device and inode, with the relative path they were first met under.
    seen: HashMap<(u64, u64), PathBuf>,
}

/// What a walk found.
pub(super) struct Walked {
    pub(super) bytes: u64,
    pub(super) hash: blake3::Hash,
    pub(super) entries: Vec<InputEntry>,
}

type WalkError = (PathBuf, io::Error);

impl<'a> Walk<'a> {
    /// Through the directory `root`, which the study names `shown`.
    pub(super) fn through(
        (root, shown): (&'a Path, &'a Path),
        leave: Option<&'a LeaveBelow<'a>>,
        memory: &'a mut Memory,
        watch: HashWatch<'a>,
    ) -> Result<Walked, WalkError> {
        let (hasher, entries, seen) = (blake3::Hasher::new(), Vec::new(), HashMap::new());
        let mut walk = Self { root, shown, leave, memory, watch, hasher, bytes: 0, entries, seen };
        walk.run()?;
        Ok(Walked { bytes: walk.bytes, hash: walk.hasher.finalize(), entries: walk.entries })
    }

    fn run(&mut self) -> Result<(), WalkError> {
        let metadata = fs::metadata(self.root).map_err(|error| (PathBuf::new(), error))?;
        self.seen.insert((metadata.dev(), metadata.ino()), PathBuf::new());
        let mut waiting = self.children(Path::new(""))?;
        while let Some(relative) = waiting.pop() {
            (self.watch)().map_err(|error| (relative.clone(), error))?;
            if self.entry(&relative).map_err(|error| (relative.clone(), error))? {
                waiting.extend(self.children(&relative)?);
            }
        }
        Ok(())
    }

    /// Relative paths of a directory's entries, the first by name last.
    fn children(&self, relative: &Path) -> Result<Vec<PathBuf>, WalkError> {
        let failed = |error| (relative.to_owned(), error);
        let mut children = Vec::new();
        for entry in fs::read_dir(self.root.join(relative)).map_err(failed)? {
            children.push(relative.join(entry.map_err(failed)?.file_name()));
        }
        children.sort_unstable_by(|a, b| b.as_os_str().as_bytes().cmp(a.as_os_str().as_bytes()));
        Ok(children)
    }

    /// Hashes one entry; whether it is a directory to walk into.
    fn entry(&mut self, relative: &Path) -> io::Result<bool> {
        let path = self.root.join(relative);
        let shown = self.shown.join(relative);
        let leaves = |is_dir, key| {
            self.leave.is_some_and(|leave| leave.leaves(&Entry { shown: &shown, path: &path, is_dir, key }))
        };
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) => {
                let link = fs::symlink_metadata(&path)?;
                if leaves(false, (link.dev(), link.ino())) {
                    return Ok(false);
                }
                if !link.is_symlink() {
                    return Err(error);
                }
                let target = fs::read_link(&path)?;
                self.add(EntryKind::Dangling, relative, target.as_os_str().as_bytes());
                return Ok(false);
            }
        };
        let key = (metadata.dev(), metadata.ino());
        if leaves(metadata.is_dir(), key) {
            return Ok(false);
        }
        if metadata.is_dir() {
            if let Some(first) = self.seen.get(&key).cloned() {
                self.add(EntryKind::Again, relative, first.as_os_str().as_bytes());
                return Ok(false);
            }
            self.seen.insert(key, relative.to_owned());
            self.add(EntryKind::Directory, relative, b"");
            return Ok(true);
        }
        if metadata.is_file() {
            let (bytes, hash) = self.memory.hash_file(&path, self.watch)?;
            self.bytes = self.bytes.saturating_add(bytes);
            self.add(EntryKind::File, relative, hash.as_bytes());
        } else {
            self.add(EntryKind::Special, relative, b"");
        }
        Ok(false)
    }

    /// Every field with its length, so that no two trees give the same bytes.
    fn add(&mut self, kind: EntryKind, relative: &Path, content: &[u8]) {
        let path = relative.as_os_str().as_bytes();
        self.hasher.update(&[kind as u8]);
        for field in [path, content] {
            self.hasher.update(&u64::try_from(field.len()).unwrap_or(u64::MAX).to_le_bytes());
            self.hasher.update(field);
        }
        let content = match kind {
            EntryKind::File => <[u8; 32]>::try_from(content).unwrap_or_default(),
            _ => *blake3::hash(content).as_bytes(),
        };
        self.entries.push(InputEntry { path: path.to_vec(), kind: kind as u8, content });
    }
}
