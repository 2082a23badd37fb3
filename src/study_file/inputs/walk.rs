//! Hashing one input: a file, or a directory with everything below it.
//!
//! Reading must end on whatever the path names: a pipe or device is refused, a ring of symbolic links is walked
//! once. It must never follow anything it has not looked at through the open file itself.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::leave::{Entry, LeaveBelow};
use crate::model::InputEntry;
use crate::sys::hash_cache::Memory;
use crate::sys::tree_hash::HashWatch;

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
    /// Whether directories count in which nothing counts.
    every_directory: bool,
    /// Directories in which nothing that counts was met yet, each in the one before it.
    pending: Vec<PathBuf>,
    /// Directories by device and inode, with the relative path they were first met under.
    seen: HashMap<(u64, u64), PathBuf>,
}

pub(super) struct Walked {
    pub(super) bytes: u64,
    pub(super) hash: blake3::Hash,
    pub(super) entries: Vec<InputEntry>,
}

type WalkError = (PathBuf, io::Error);

impl<'a> Walk<'a> {
    /// Through the directory `root`, which the study names `shown`. Pitons before this one counted every directory.
    pub(super) fn through(
        (root, shown): (&'a Path, &'a Path),
        every_directory: bool,
        leave: Option<&'a LeaveBelow<'a>>,
        memory: &'a mut Memory,
        watch: HashWatch<'a>,
    ) -> Result<Walked, WalkError> {
        let (hasher, entries, seen) = (blake3::Hasher::new(), Vec::new(), HashMap::new());
        let pending = Vec::new();
        let mut walk =
            Self { root, shown, leave, memory, watch, hasher, bytes: 0, entries, every_directory, pending, seen };
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
            self.pending.retain(|dir| relative.starts_with(dir));
            self.pending.push(relative.to_owned());
            if self.every_directory {
                self.add_pending(relative);
            }
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

    /// What counts, after the directories it lies in.
    fn add(&mut self, kind: EntryKind, relative: &Path, content: &[u8]) {
        self.add_pending(relative);
        self.add_one(kind, relative, content);
    }

    fn add_pending(&mut self, relative: &Path) {
        for dir in std::mem::take(&mut self.pending) {
            if relative.starts_with(&dir) {
                self.add_one(EntryKind::Directory, &dir, b"");
            }
        }
    }

    /// Every field with its length, so that no two trees give the same bytes.
    fn add_one(&mut self, kind: EntryKind, relative: &Path, content: &[u8]) {
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
