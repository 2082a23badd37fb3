//! Hashes of the files and directories a study says it depends on.
//!
//! Reading must end on whatever the path names: a pipe or device is refused, a ring of symbolic links is walked
//! once. It must never follow anything it has not looked at through the open file itself.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::model::InputHash;

/// An input that cannot be hashed.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the input `{input}`{}", within.as_ref().map(|path| format!(" (at `{}`)", path.display())).unwrap_or_default())]
pub struct InputError {
    /// As the spec names it.
    pub input: String,
    /// Where inside it, if it is a directory.
    pub within: Option<PathBuf>,
    /// Why.
    pub source: io::Error,
}

/// Hashes the inputs, in order; relative paths are taken from `study_dir`.
///
/// A directory's hash covers the sorted relative paths and the contents of everything below it. Symbolic links are
/// followed; a directory met a second time counts as a reference to the first. Pipes, sockets and devices inside a
/// directory count by name alone, as do links that lead nowhere.
///
/// # Errors
/// An input is missing, cannot be read, or is neither file nor directory.
pub fn hash_inputs(study_dir: &Path, inputs: &[String]) -> Result<Vec<InputHash>, InputError> {
    inputs.iter().map(|input| hash_input(study_dir, input)).collect()
}

fn hash_input(study_dir: &Path, input: &str) -> Result<InputHash, InputError> {
    let path = study_dir.join(input);
    let failed = |source| InputError { input: input.to_owned(), within: None, source };
    let metadata = fs::metadata(&path).map_err(failed)?;
    let (bytes, blake3) = if metadata.is_dir() {
        let mut walk = Walk { root: &path, hasher: blake3::Hasher::new(), bytes: 0, seen: HashMap::new() };
        walk.run(&metadata).map_err(|(within, source)| InputError {
            input: input.to_owned(),
            within: Some(within),
            source,
        })?;
        (walk.bytes, walk.hasher.finalize())
    } else {
        hash_file(&path).map_err(failed)?
    };
    Ok(InputHash { path: input.to_owned(), bytes, blake3: blake3.to_hex().to_string() })
}

/// A file's size and hash. Opening does not wait for a pipe's other end.
fn hash_file(path: &Path) -> io::Result<(u64, blake3::Hash)> {
    const BUFFER_BYTES: usize = 256 * 1024;
    let not_a_file = || io::Error::new(io::ErrorKind::InvalidInput, "neither a file nor a directory");
    if !fs::metadata(path)?.is_file() {
        return Err(not_a_file());
    }
    let mut file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(not_a_file());
    }
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut bytes = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((bytes, hasher.finalize())),
            Ok(length) => {
                hasher.update(buffer.get(..length).unwrap_or_default());
                bytes += u64::try_from(length).unwrap_or(u64::MAX);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
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
struct Walk<'a> {
    root: &'a Path,
    hasher: blake3::Hasher,
    bytes: u64,
    /// Directories by device and inode, with the relative path they were first met under.
    seen: HashMap<(u64, u64), PathBuf>,
}

type WalkError = (PathBuf, io::Error);

impl Walk<'_> {
    fn run(&mut self, metadata: &fs::Metadata) -> Result<(), WalkError> {
        self.seen.insert((metadata.dev(), metadata.ino()), PathBuf::new());
        let mut waiting = self.children(Path::new(""))?;
        while let Some(relative) = waiting.pop() {
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
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) => {
                let link = fs::symlink_metadata(&path)?;
                if !link.is_symlink() {
                    return Err(error);
                }
                let target = fs::read_link(&path)?;
                self.add(EntryKind::Dangling, relative, target.as_os_str().as_bytes());
                return Ok(false);
            }
        };
        if metadata.is_dir() {
            let key = (metadata.dev(), metadata.ino());
            if let Some(first) = self.seen.get(&key).cloned() {
                self.add(EntryKind::Again, relative, first.as_os_str().as_bytes());
                return Ok(false);
            }
            self.seen.insert(key, relative.to_owned());
            self.add(EntryKind::Directory, relative, b"");
            return Ok(true);
        }
        if metadata.is_file() {
            let (bytes, hash) = hash_file(&path)?;
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
    }
}

/// What changed between the inputs as recorded and as they are now, in words; empty: nothing.
#[must_use]
pub fn changed_inputs(recorded: &[InputHash], now: &[InputHash]) -> Vec<String> {
    let mut changes = Vec::new();
    for old in recorded {
        match now.iter().find(|new| new.path == old.path) {
            None => changes.push(format!("input `{}` is no longer named", old.path)),
            Some(new) if new.blake3 == old.blake3 => {}
            Some(new) if new.bytes == old.bytes => {
                changes.push(format!("input `{}` has changed (still {} bytes)", old.path, old.bytes));
            }
            Some(new) => {
                let sizes = format!("{} bytes, was {}", new.bytes, old.bytes);
                changes.push(format!("input `{}` has changed ({sizes})", old.path));
            }
        }
    }
    for new in now.iter().filter(|new| !recorded.iter().any(|old| old.path == new.path)) {
        changes.push(format!("input `{}` is new", new.path));
    }
    changes
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn hash(dir: &Path, input: &str) -> InputHash {
        hash_inputs(dir, &[input.to_owned()]).unwrap().remove(0)
    }

    #[test]
    fn a_file_has_the_hash_b3sum_gives() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("f"), b"abc").unwrap();
        let input = hash(dir.path(), "f");
        assert_eq!(input.bytes, 3);
        // The reference value for "abc" of the BLAKE3 authors' own tool.
        assert_eq!(input.blake3, "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85");
    }

    #[test]
    fn a_directory_changes_with_contents_and_names_only() {
        let dir = tempfile::tempdir().unwrap();
        let sub = dir.path().join("d/sub");
        fs::create_dir_all(&sub).unwrap();
        fs::write(sub.join("a"), b"1").unwrap();
        fs::write(dir.path().join("d/b"), b"22").unwrap();
        let first = hash(dir.path(), "d");
        assert_eq!(first.bytes, 3);
        assert_eq!(hash(dir.path(), "d"), first);
        fs::write(sub.join("a"), b"2").unwrap();
        let content = hash(dir.path(), "d");
        fs::write(sub.join("a"), b"1").unwrap();
        assert_eq!(hash(dir.path(), "d"), first);
        fs::rename(sub.join("a"), sub.join("c")).unwrap();
        let name = hash(dir.path(), "d");
        assert!(content.blake3 != first.blake3 && name.blake3 != first.blake3 && name.blake3 != content.blake3);
        assert_eq!(
            changed_inputs(std::slice::from_ref(&first), &[content]),
            ["input `d` has changed (still 3 bytes)".to_owned()]
        );
        let other = InputHash { path: "e".into(), ..first.clone() };
        let gone = changed_inputs(std::slice::from_ref(&first), &[other]);
        assert_eq!(gone, ["input `d` is no longer named", "input `e` is new"]);
        assert!(changed_inputs(std::slice::from_ref(&first), std::slice::from_ref(&first)).is_empty());
    }

    #[test]
    fn links_are_followed_once_and_rings_end() {
        let dir = tempfile::tempdir().unwrap();
        let d = dir.path().join("d");
        fs::create_dir(&d).unwrap();
        fs::write(dir.path().join("outside"), b"x").unwrap();
        symlink("..", d.join("up")).unwrap();
        symlink(".", d.join("self")).unwrap();
        symlink("nowhere", d.join("dangling")).unwrap();
        symlink("ring2", d.join("ring1")).unwrap();
        symlink("ring1", d.join("ring2")).unwrap();
        let before = hash(dir.path(), "d");
        fs::write(dir.path().join("outside"), b"y").unwrap();
        assert_ne!(hash(dir.path(), "d").blake3, before.blake3);
    }

    #[test]
    fn a_pipe_or_device_does_not_hang() {
        let dir = tempfile::tempdir().unwrap();
        let d = dir.path().join("d");
        fs::create_dir(&d).unwrap();
        let made = std::process::Command::new("mkfifo").arg(d.join("pipe")).status().unwrap();
        assert!(made.success());
        assert_eq!(hash(dir.path(), "d").bytes, 0);
        for input in ["d/pipe", "/dev/zero"] {
            let error = hash_inputs(dir.path(), &[input.to_owned()]).unwrap_err();
            assert_eq!(error.source.to_string(), "neither a file nor a directory");
        }
    }

    #[test]
    fn a_missing_input_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = hash_inputs(dir.path(), &["rtl/gone.v".to_owned()]).unwrap_err();
        assert_eq!(error.to_string(), "cannot read the input `rtl/gone.v`");
        assert_eq!(error.source.kind(), io::ErrorKind::NotFound);
    }
}
