//! A disk in memory that forgets, after a crash, what was not synced: lost, kept or torn, as chance will have it.
//!
//! Files have contents as programs see them, contents that are durable, and the writes between. Directories likewise:
//! a name that was made, removed or changed may be there or not until the directory is synced, each for itself. That is
//! what POSIX allows and no file system is worse than. Nothing here knows what the files mean.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io::{Error, ErrorKind, Result};
use std::path::{Component, Path, PathBuf};

use super::content::Content;
use super::random::Random;
use crate::sys::simulated::Kind;

/// An inode's number.
pub(super) type Id = usize;

const ROOT: Id = 0;

/// What a disk never tears: a sector, by the bytes.
const SECTOR: usize = 512;

#[derive(Clone, Debug)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    SetLen(usize),
    Link { name: OsString, id: Id },
    Unlink { name: OsString },
    Rename { from: OsString, to: OsString, id: Id },
}

#[derive(Clone, Debug)]
enum Node {
    File { now: Content, durable: Content },
    Dir { now: BTreeMap<OsString, Id>, durable: BTreeMap<OsString, Id> },
}

#[derive(Clone, Debug)]
struct Inode {
    node: Node,
    /// What is not durable yet, in order, each with its place among all changes of the disk.
    pending: Vec<(u64, Change)>,
    /// Whether changes were given up: they are seen, and no later sync makes them durable.
    gave_up: bool,
}

/// What a crash does to changes that were not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// Nothing: the engine was killed, the machine runs on.
    Nothing,
    /// All of them.
    All,
    /// Those after a moment: the disk works in order.
    After,
    /// Those before a moment: it worked in the opposite order.
    Before,
    /// Each has its own chance, and writes may be torn.
    Any,
}

#[derive(Clone, Debug)]
pub(super) struct Files {
    inodes: Vec<Inode>,
    changes: u64,
    /// Hashes of contents that were synced whole; a file that is replaced atomically is one of them.
    pub(super) synced: BTreeSet<[u8; 32]>,
    /// Files that somebody else changed behind the study's back, and what they were.
    pub(super) meddled: BTreeMap<PathBuf, Vec<u8>>,
    /// All that somebody else ever changed.
    pub(super) touched: BTreeSet<PathBuf>,
}

fn missing() -> Error {
    ErrorKind::NotFound.into()
}

impl Files {
    /// An empty disk with one durable directory.
    pub(super) fn new(dir: &Path) -> Self {
        let root = Inode {
            node: Node::Dir { now: BTreeMap::new(), durable: BTreeMap::new() },
            pending: Vec::new(),
            gave_up: false,
        };
        let mut files = Self {
            inodes: vec![root],
            changes: 0,
            synced: BTreeSet::new(),
            meddled: BTreeMap::new(),
            touched: BTreeSet::new(),
        };
        let mut ancestors: Vec<_> = dir.ancestors().collect();
        ancestors.pop();
        for made in ancestors.iter().rev() {
            files.create_dir(made).unwrap();
            files.sync(files.find(made.parent().unwrap()).unwrap());
        }
        files
    }

    /// The inode at a path.
    pub(super) fn find(&self, path: &Path) -> Option<Id> {
        let mut at = ROOT;
        for part in path.components() {
            match (part, &self.inodes[at].node) {
                (Component::RootDir, _) => {}
                (Component::Normal(name), Node::Dir { now, .. }) => at = *now.get(name)?,
                _ => return None,
            }
        }
        Some(at)
    }

    /// The directory a path lies in, and its name there.
    fn place<'a>(&self, path: &'a Path) -> Result<(Id, &'a OsStr)> {
        let name = path.file_name().ok_or(ErrorKind::InvalidInput)?;
        let dir = self.find(path.parent().ok_or(ErrorKind::InvalidInput)?).ok_or_else(missing)?;
        Ok((dir, name))
    }

    pub(super) fn kind(&self, path: &Path) -> Option<Kind> {
        Some(match self.inodes[self.find(path)?].node {
            Node::File { .. } => Kind::File,
            Node::Dir { .. } => Kind::Dir,
        })
    }

    pub(super) fn names(&self, path: &Path) -> Result<Vec<OsString>> {
        match &self.inodes[self.find(path).ok_or_else(missing)?].node {
            Node::Dir { now, .. } => Ok(now.keys().cloned().collect()),
            Node::File { .. } => Err(ErrorKind::NotADirectory.into()),
        }
    }

    /// Contents as programs see them.
    pub(super) fn content(&self, id: Id) -> Result<&Content> {
        match &self.inodes[id].node {
            Node::File { now, .. } => Ok(now),
            Node::Dir { .. } => Err(ErrorKind::IsADirectory.into()),
        }
    }

    /// Contents at a path, if a file is there.
    pub(super) fn read(&self, path: &Path) -> Option<Vec<u8>> {
        Some(self.content(self.find(path)?).ok()?.bytes())
    }

    fn change(&mut self, id: Id, change: Change) {
        apply(&mut self.inodes[id].node, &change);
        self.changes += 1;
        self.inodes[id].pending.push((self.changes, change));
    }

    fn add(&mut self, path: &Path, node: Node) -> Result<Id> {
        let (dir, name) = self.place(path)?;
        if self.find(path).is_some() {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let id = self.inodes.len();
        self.inodes.push(Inode { node, pending: Vec::new(), gave_up: false });
        self.change(dir, Change::Link { name: name.into(), id });
        Ok(id)
    }

    pub(super) fn create_dir(&mut self, path: &Path) -> Result<()> {
        self.add(path, Node::Dir { now: BTreeMap::new(), durable: BTreeMap::new() }).map(drop)
    }

    pub(super) fn create(&mut self, path: &Path, new: bool) -> Result<Id> {
        match self.find(path) {
            Some(_) if new => Err(ErrorKind::AlreadyExists.into()),
            Some(id) => self.set_len(id, 0).map(|()| id),
            None => self.add(path, Node::File { now: Content::default(), durable: Content::default() }),
        }
    }

    pub(super) fn write(&mut self, id: Id, offset: usize, bytes: &[u8]) -> Result<()> {
        self.content(id)?;
        self.change(id, Change::Write { offset, bytes: bytes.into() });
        Ok(())
    }

    pub(super) fn set_len(&mut self, id: Id, len: usize) -> Result<()> {
        self.content(id)?;
        self.change(id, Change::SetLen(len));
        Ok(())
    }

    /// Somebody else writes a whole file, and it is durable at once.
    pub(super) fn overwrite(&mut self, path: &Path, bytes: &[u8]) {
        let id = self.find(path).unwrap();
        let mut content = Content::default();
        content.write(0, bytes);
        self.inodes[id].pending.clear();
        self.inodes[id].node = Node::File { now: content.clone(), durable: content };
    }

    /// A directory that was there before the study, with those above it.
    pub(super) fn lay_dir(&mut self, path: &Path) {
        if self.kind(path).is_none() {
            let above = path.parent().unwrap();
            self.lay_dir(above);
            self.create_dir(path).unwrap();
            self.sync(self.find(above).unwrap());
        }
    }

    /// A file that was there before the study.
    pub(super) fn lay(&mut self, path: &Path, bytes: &[u8]) {
        self.create(path, true).unwrap();
        self.overwrite(path, bytes);
        self.sync(self.find(path.parent().unwrap()).unwrap());
    }

    /// Somebody changes a file behind the study's back, until it is put back.
    pub(super) fn meddle(&mut self, path: &Path) {
        let Some(was) = self.read(path).filter(|_| !self.meddled.contains_key(path)) else { return };
        let other: Vec<u8> = was.iter().map(|byte| byte ^ 1).collect();
        self.overwrite(path, &other);
        self.touched.insert(path.into());
        self.meddled.insert(path.into(), was);
    }

    /// Puts all that was changed so back as it was; whether there was anything.
    pub(super) fn put_back(&mut self) -> bool {
        let meddled = std::mem::take(&mut self.meddled);
        meddled.iter().for_each(|(path, was)| self.overwrite(path, was));
        !meddled.is_empty()
    }

    /// Renames within one directory.
    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> Result<()> {
        let ((dir, old), (other, new)) = (self.place(from)?, self.place(to)?);
        assert_eq!(dir, other, "piton renames within a directory only");
        let id = self.find(from).ok_or_else(missing)?;
        self.change(dir, Change::Rename { from: old.into(), to: new.into(), id });
        Ok(())
    }

    /// Removes a file, or a directory with all in it.
    pub(super) fn remove(&mut self, path: &Path) -> Result<()> {
        let (dir, name) = self.place(path)?;
        self.find(path).ok_or_else(missing)?;
        self.change(dir, Change::Unlink { name: name.into() });
        Ok(())
    }

    /// Makes what an inode holds durable.
    pub(super) fn sync(&mut self, id: Id) {
        let inode = &mut self.inodes[id];
        let pending = std::mem::take(&mut inode.pending);
        match &mut inode.node {
            node if inode.gave_up => pending.iter().for_each(|(_, change)| apply_to_durable(node, change)),
            Node::File { now, durable } => durable.clone_from(now),
            Node::Dir { now, durable } => durable.clone_from(now),
        }
    }

    /// What a sync of a file that fails does: what was to be written counts as clean, and is never written. Names in a
    /// directory can be synced again; nobody could be safe otherwise.
    pub(super) fn give_up(&mut self, id: Id) {
        let inode = &mut self.inodes[id];
        if matches!(inode.node, Node::Dir { .. }) {
            return;
        }
        inode.pending.clear();
        inode.gave_up = true;
    }

    /// Remembers that a file's contents are whole.
    pub(super) fn remember(&mut self, id: Id) {
        if let Ok(content) = self.content(id) {
            let hash = blake3::hash(&content.bytes());
            self.synced.insert(*hash.as_bytes());
        }
    }

    /// A hash over all that the disk holds, and over what somebody else has changed of it.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut hasher = blake3::Hasher::new();
        // Each with its length and its kind, lest two disks give the same bytes.
        let mut add = |kind: u8, bytes: &[u8]| {
            hasher.update(&[kind]).update(&bytes.len().to_le_bytes()).update(bytes);
        };
        for inode in &self.inodes {
            match &inode.node {
                Node::File { now, .. } => add(0, &now.bytes()),
                Node::Dir { now, .. } => {
                    add(1, &now.len().to_le_bytes());
                    for (name, id) in now {
                        add(2, name.as_encoded_bytes());
                        add(3, &id.to_le_bytes());
                    }
                }
            }
        }
        self.touched.iter().for_each(|path| add(4, path.as_os_str().as_encoded_bytes()));
        for (path, was) in &self.meddled {
            add(5, path.as_os_str().as_encoded_bytes());
            add(6, was);
        }
        u64::from_le_bytes(hasher.finalize().as_bytes()[..8].try_into().unwrap())
    }

    /// Whether anything would be lost by a crash.
    pub(super) fn is_durable(&self) -> bool {
        self.inodes.iter().all(|inode| inode.pending.is_empty() && !inode.gave_up)
    }

    /// The disk after a crash: all of it durable.
    pub(super) fn crashed(&self, loss: Loss, random: &mut Random) -> Self {
        let first = self.inodes.iter().filter_map(|inode| inode.pending.first()).map(|(at, _)| *at).min();
        let moment = first.map_or(0, |first| first + random.below(self.changes + 1 - first));
        let kept_percent = [15, 50, 85][random.below(3) as usize];
        let inodes = self.inodes.iter().map(|inode| {
            let mut node = match &inode.node {
                node if loss == Loss::Nothing => node.clone(),
                Node::File { durable, .. } => Node::File { now: durable.clone(), durable: Content::default() },
                Node::Dir { durable, .. } => Node::Dir { now: durable.clone(), durable: BTreeMap::new() },
            };
            let pending: &[_] = if loss == Loss::Nothing { &[] } else { &inode.pending };
            for (at, change) in pending {
                let kept = match loss {
                    Loss::Nothing => true,
                    Loss::All => false,
                    Loss::After => *at <= moment,
                    Loss::Before => *at > moment,
                    Loss::Any => random.percent(kept_percent),
                };
                if loss == Loss::Any && random.percent(30) {
                    tear(&mut node, change, random);
                } else if kept {
                    apply(&mut node, change);
                }
            }
            let node = match node {
                Node::File { now, .. } => Node::File { durable: now.clone(), now },
                Node::Dir { now, .. } => Node::Dir { durable: now.clone(), now },
            };
            Inode { node, pending: Vec::new(), gave_up: false }
        });
        let (synced, meddled, touched) = (self.synced.clone(), self.meddled.clone(), self.touched.clone());
        Self { inodes: inodes.collect(), changes: 0, synced, meddled, touched }
    }
}

fn apply(node: &mut Node, change: &Change) {
    match (node, change) {
        (Node::File { now, .. }, Change::Write { offset, bytes }) => now.write(*offset, bytes),
        (Node::File { now, .. }, Change::SetLen(len)) => now.set_len(*len),
        (Node::Dir { now, .. }, Change::Link { name, id }) => drop(now.insert(name.clone(), *id)),
        (Node::Dir { now, .. }, Change::Unlink { name }) => drop(now.remove(name)),
        (Node::Dir { now, .. }, Change::Rename { from, to, id }) => {
            now.remove(from);
            now.insert(to.clone(), *id);
        }
        (node, change) => unreachable!("{change:?} of {node:?}"),
    }
}

/// Applies a change to what is durable, after changes before it were given up.
fn apply_to_durable(node: &mut Node, change: &Change) {
    let swap = |node: &mut Node| match node {
        Node::File { now, durable } => std::mem::swap(now, durable),
        Node::Dir { now, durable } => std::mem::swap(now, durable),
    };
    swap(node);
    apply(node, change);
    swap(node);
}

/// Applies some sectors of a write; everything else is whole or nothing.
fn tear(node: &mut Node, change: &Change, random: &mut Random) {
    let (Node::File { now, .. }, Change::Write { offset, bytes }) = (node, change) else { return };
    // The head, the tail, or any of it.
    let (manner, cut) = (random.below(3), random.below(bytes.len().div_ceil(SECTOR) as u64 + 1) as usize);
    let mut at = 0;
    let mut number = 0;
    while at < bytes.len() {
        let count = (SECTOR - (offset + at) % SECTOR).min(bytes.len() - at);
        let kept = match manner {
            0 => number < cut,
            1 => number >= cut,
            _ => random.percent(50),
        };
        if kept {
            now.write(offset + at, &bytes[at..at + count]);
        }
        (at, number) = (at + count, number + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All images of a disk that many crashes give, as what `look` sees.
    fn images<T: Ord>(files: &Files, look: impl Fn(&Files) -> T) -> BTreeSet<T> {
        (0..300).map(|seed| look(&files.crashed(Loss::Any, &mut Random::new(seed)))).collect()
    }

    fn dir() -> Files {
        Files::new(Path::new("/d"))
    }

    #[test]
    fn what_is_synced_stays_and_what_is_not_may_be_lost_kept_or_torn() {
        let mut files = dir();
        let (file, path) = (files.create(Path::new("/d/f"), true).unwrap(), Path::new("/d/f"));
        assert_eq!(files.crashed(Loss::All, &mut Random::new(1)).read(path), None, "its name is not durable");
        files.sync(files.find(Path::new("/d")).unwrap());
        files.write(file, 0, &[1; 1_024]).unwrap();
        files.sync(file);
        files.write(file, 0, &[2; 1_024]).unwrap();
        assert_eq!(files.read(path), Some(vec![2; 1_024]));
        let seen =
            images(&files, |files| files.read(path).map(|bytes| (bytes[0], bytes[511], bytes[512], bytes[1_023])));
        let expected = [(1, 1, 1, 1), (1, 1, 2, 2), (2, 2, 1, 1), (2, 2, 2, 2)].map(Some);
        assert_eq!(seen, BTreeSet::from(expected));
        assert_eq!(files.crashed(Loss::Nothing, &mut Random::new(1)).read(path), Some(vec![2; 1_024]));
    }

    #[test]
    fn a_rename_is_there_or_not_and_never_half() {
        let mut files = dir();
        for (name, text) in [("/d/old", b"1"), ("/d/new", b"2")] {
            let id = files.create(Path::new(name), true).unwrap();
            files.write(id, 0, text).unwrap();
            files.sync(id);
        }
        files.sync(files.find(Path::new("/d")).unwrap());
        files.rename(Path::new("/d/new"), Path::new("/d/old")).unwrap();
        let both = |files: &Files| (files.read(Path::new("/d/old")), files.read(Path::new("/d/new")));
        let expected = [(Some(b"1".to_vec()), Some(b"2".to_vec())), (Some(b"2".to_vec()), None)];
        assert_eq!(images(&files, both), BTreeSet::from(expected));
    }

    #[test]
    fn lengths_are_lost_and_kept_too() {
        let mut files = dir();
        let (file, path) = (files.create(Path::new("/d/f"), true).unwrap(), Path::new("/d/f"));
        files.sync(files.find(Path::new("/d")).unwrap());
        files.write(file, 0, b"abc").unwrap();
        files.sync(file);
        files.set_len(file, 1).unwrap();
        files.set_len(file, 5).unwrap();
        let expected: [&[u8]; 4] = [b"abc", b"a", b"abc\0\0", b"a\0\0\0\0"];
        assert_eq!(images(&files, |files| files.read(path).unwrap()), expected.map(Vec::from).into());
    }
}
