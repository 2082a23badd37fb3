//! Files and directories that are not yet what they are to become, and what is left of those whose makers died.
//!
//! A temporary file lies beside its target, `.<target>.<random>.piton-tmp`: made new, whoever else may write there; closed
//! to other users until it has the mode it is to have; and locked as long as its maker lives. So the kernel says
//! which file is a leftover, and no number of a process does, which another process may have by now. Where a
//! file system knows no locks, what is left stays: it is harmless. The same holds for directories of a prefix in a place of
//! temporary ones. Nothing here may remove what is locked, or what somebody else called so.
//!
//! The crate `tempfile` makes such names as well, but knows no leftovers: it has no lock, what it removes it removes in its
//! own process alone, its names are from a generator that a simulation could not repeat, and it syncs nothing. What would
//! be left of it is the loop around `O_EXCL`.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, Metadata, Permissions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::disk::{self, Claimed};
use super::tree_hash::open_dir;
use super::words::unlockable;

/// What the names of temporary files end in.
pub(crate) const TEMP_SUFFIX: &str = ".piton-tmp";

/// Digits of a random name.
const DIGITS: usize = 10;

/// How often another name is tried.
const TRIES: u32 = 32;

/// Who may do what with a file that is made. The umask narrows it further. One that replaces another has its mode instead,
/// and its owner and group as far as that is allowed, but for a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The study's user alone: what holds a study's environment, or may come to.
    Own,
    /// Whoever the umask lets.
    Usual,
    /// A program for the study's user alone, whatever was there before.
    Program,
}

impl Access {
    const fn mode(self) -> u32 {
        match self {
            Self::Own => 0o600,
            Self::Usual => 0o666,
            Self::Program => 0o700,
        }
    }
}

/// Digits that nobody else has, for a name.
///
/// # Errors
/// What the kernel says.
pub(crate) fn random_digits() -> io::Result<String> {
    Ok(disk::random::<{ DIGITS / 2 }>()?.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn are_digits(text: &str) -> bool {
    text.len() == DIGITS && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// A file that will be another one's, or go.
#[derive(Debug)]
pub(crate) struct Temporary {
    path: PathBuf,
    target: PathBuf,
    file: Claimed,
    /// Whether it has its name.
    placed: bool,
}

impl Temporary {
    /// Makes an empty one beside its target, and removes what others left that had the same target and are gone.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn beside(target: &Path, access: Access) -> io::Result<Self> {
        let Some(name) = target.file_name() else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("`{}` names no file", target.display()),
            ));
        };
        remove_leftovers_of(target);
        let replaced = replaced(target).filter(|_| access != Access::Program);
        // Closed, until it is what its target is.
        let mode = if replaced.is_some() { Access::Own.mode() } else { access.mode() };
        let mut tries = 0;
        loop {
            tries += 1;
            let mut own = OsString::from(".");
            own.push(name);
            own.push(format!(".{}{TEMP_SUFFIX}", random_digits()?));
            let path = target.with_file_name(own);
            match disk::create_claimed(&path, mode) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && tries < TRIES => {}
                // Somebody took it for a leftover before it was locked.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && tries < TRIES => {}
                Err(error) => return Err(error),
                Ok(file) => {
                    let made = Self { path, target: target.into(), file, placed: false };
                    if let (Some(replaced), Some(file)) = (replaced, made.file.real()) {
                        become_like(file, &replaced)?;
                    }
                    return Ok(made);
                }
            }
        }
    }

    /// The target itself, written over: the fault that this module is there against.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn in_place(target: &Path, new: bool) -> io::Result<Self> {
        let file = if new { disk::create_claimed(target, 0o600)? } else { disk::create_over(target)? };
        Ok(Self { path: target.into(), target: target.into(), file, placed: true })
    }

    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is locked. Without, it works as well, but is no place for a store.
    ///
    /// # Errors
    /// That the file system cannot do it, in words.
    pub(crate) fn is_locked(&self) -> io::Result<()> {
        self.file.lock_error().map_or(Ok(()), |errno| Err(unlockable(errno.into())))
    }

    /// Writes all of it; with `sync` its contents are durable after `Ok` (not its name).
    ///
    /// # Errors
    /// What the file system says, and whatever `write` does.
    pub(crate) fn write(
        &self,
        sync: bool,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        self.file.write(sync, write)
    }

    /// Gives it its target's name, in the place of whatever had it. Its name is not durable yet.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn replace(mut self) -> io::Result<()> {
        if !self.placed {
            disk::rename(&self.path, &self.target)?;
            self.placed = true;
        }
        Ok(())
    }

    /// Gives it its target's name, if nothing has it.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`], and what the file system says.
    pub(crate) fn place_new(mut self) -> io::Result<()> {
        if !self.placed {
            disk::rename_new(&self.path, &self.target)?;
            self.placed = true;
        }
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.placed {
            // The first error is the one to report; a leftover is harmless.
            let _ = disk::remove_file(&self.path);
        }
    }
}

/// The regular file that will be replaced.
fn replaced(target: &Path) -> Option<Metadata> {
    simulated!(|_machine| None);
    target.symlink_metadata().ok().filter(Metadata::is_file)
}

/// Gives a file the mode of another one, and owner and group as far as that is allowed. What another group would be let in
/// by stays closed.
fn become_like(file: &File, other: &Metadata) -> io::Result<()> {
    let own = file.metadata()?;
    let mut mode = other.mode() & 0o777;
    if (own.uid(), own.gid()) != (other.uid(), other.gid()) {
        let owned = std::os::unix::fs::fchown(file, Some(other.uid()), Some(other.gid()));
        let grouped = owned.or_else(|_| std::os::unix::fs::fchown(file, None, Some(other.gid())));
        if grouped.is_err() && own.gid() != other.gid() {
            mode &= !0o070 | (mode & 0o007) << 3;
        }
    }
    file.set_permissions(Permissions::from_mode(mode))
}

/// The rest of a name behind what it begins with, if that is a temporary file's. Earlier versions put a process's number
/// where the random digits are.
fn is_temporary(name: &str) -> bool {
    let unsuffixed = name.strip_prefix('.').and_then(|name| name.strip_suffix(TEMP_SUFFIX));
    let Some((_, digits)) = unsuffixed.and_then(|name| name.rsplit_once('.')) else { return false };
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    are_digits(digits) || digits.split_once('-').is_some_and(|(pid, count)| number(pid) && number(count))
}

/// Removes all temporary files in a directory whose makers are gone. How many.
///
/// # Errors
/// If the directory cannot be listed. A leftover that cannot be removed stays: it is harmless.
pub(crate) fn remove_leftovers_in(dir: &Path) -> io::Result<usize> {
    remove_leftovers(dir, is_temporary)
}

/// Removes those of a target, and of files whose names begin with its name. What cannot be looked at stays.
pub(crate) fn remove_leftovers_of(target: &Path) {
    let Some(name) = target.file_name() else { return };
    let prefix = format!(".{}.", name.to_string_lossy());
    if let Err(error) = remove_leftovers(parent_of(target), |name| name.starts_with(&prefix) && is_temporary(name))
    {
        log::debug!("cannot look for leftovers beside `{}`: {error}", target.display());
    }
}

/// Removes the files of these names that nobody has in use. How many.
///
/// # Errors
/// If the directory cannot be listed.
pub(crate) fn remove_leftovers(dir: &Path, theirs: impl Fn(&str) -> bool) -> io::Result<usize> {
    let mut removed = 0;
    for name in disk::names(dir)? {
        if !name.to_str().is_some_and(&theirs) {
            continue;
        }
        match disk::remove_unclaimed(&dir.join(&name)) {
            Ok(true) => removed += 1,
            Ok(false) => {}
            Err(error) => log::debug!("cannot remove the leftover `{}`: {error}", name.display()),
        }
    }
    Ok(removed)
}

/// The directory a path lies in; the current one for a bare name.
pub(super) fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => path,
    }
}

/// A directory of this process's own that is closed to other users, and locked while this lives.
#[derive(Debug)]
pub(crate) struct TemporaryDir {
    path: PathBuf,
    _lock: File,
}

impl TemporaryDir {
    /// Makes one in a directory that others may write, too: `<prefix><random>`. Removes those of this user whose makers are
    /// gone.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn new_in(parent: &Path, prefix: &str) -> io::Result<Self> {
        remove_leftover_dirs(parent, prefix);
        let mut tries = 0;
        loop {
            tries += 1;
            let path = parent.join(format!("{prefix}{}", random_digits()?));
            match DirBuilder::new().mode(0o700).create(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && tries < TRIES => continue,
                made => made?,
            }
            match locked_dir(&path, FlockOperation::NonBlockingLockShared) {
                Ok(lock) => return Ok(Self { path, _lock: lock }),
                // Somebody took it for a leftover before it was locked.
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::WouldBlock)
                        && tries < TRIES => {}
                Err(error) => return Err(error),
            }
        }
    }

    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it with all that is in it. Without this it goes once this process is gone and another one makes one.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn remove(self) -> io::Result<()> {
        fs::remove_dir_all(&self.path)
    }
}

/// A directory, locked if its file system can do that.
fn locked_dir(path: &Path, how: FlockOperation) -> io::Result<File> {
    let dir = File::from(open_dir(path)?);
    match flock(&dir, how) {
        Ok(()) if !is_at(&dir, path) => Err(io::ErrorKind::NotFound.into()),
        Err(Errno::WOULDBLOCK) => Err(io::ErrorKind::WouldBlock.into()),
        // For a maker; who asks whether it is a leftover must know.
        Err(errno) if how != FlockOperation::NonBlockingLockShared => Err(errno.into()),
        _ => Ok(dir),
    }
}

/// Whether a path leads to what is open.
pub(super) fn is_at(file: impl AsFd, path: &Path) -> bool {
    let id = |meta: &Metadata| (meta.dev(), meta.ino());
    let opened = file.as_fd().try_clone_to_owned().map(File::from).and_then(|file| file.metadata());
    opened.is_ok_and(|opened| path.symlink_metadata().is_ok_and(|there| id(&opened) == id(&there)))
}

/// Removes the directories of this user with such names whose makers are gone. How many.
pub(crate) fn remove_leftover_dirs(parent: &Path, prefix: &str) -> usize {
    let Ok(entries) = fs::read_dir(parent) else { return 0 };
    let theirs = |name: &OsStr| name.to_str().and_then(|name| name.strip_prefix(prefix)).is_some_and(are_digits);
    let mut removed = 0;
    for entry in entries.flatten().filter(|entry| theirs(&entry.file_name())) {
        let path = entry.path();
        let gone = locked_dir(&path, FlockOperation::NonBlockingLockExclusive).and_then(|dir| {
            match dir.metadata()?.uid() == geteuid().as_raw() {
                true => fs::remove_dir_all(&path),
                false => Err(io::ErrorKind::PermissionDenied.into()),
            }
        });
        match gone {
            Ok(()) => removed += 1,
            Err(error) => log::debug!("`{}` stays: {error}", path.display()),
        }
    }
    removed
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::disk::names_in;
    use super::*;

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().mode() & 0o777
    }

    #[test]
    fn leftovers_of_the_dead_go_and_what_is_in_use_stays() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("view.json");
        let used = Temporary::beside(&target, Access::Own).unwrap();
        let mut kept = vec![used.path().file_name().unwrap().to_str().unwrap().to_owned()];
        // Of processes that died; the numbers of earlier versions mean nothing, be they this process's or one's that lives.
        let dead = [
            ".view.json.0123456789.piton-tmp",
            ".view.json.4194305-0.piton-tmp",
            ".view.json.1-0.piton-tmp",
            &format!(".view.json.{}-7.piton-tmp", std::process::id()),
        ];
        let others =
            ["mine.piton-tmp", ".view.json.piton-tmp", ".view.json.x1-0.piton-tmp", "view.json.0123456789"];
        for name in dead.iter().chain(&others) {
            fs::write(dir.path().join(name), b"").unwrap();
        }
        fs::write(dir.path().join(".other.0123456789.piton-tmp"), b"").unwrap();
        kept.extend(others.map(str::to_owned));
        kept.push(".other.0123456789.piton-tmp".into());
        kept.sort();
        remove_leftovers_of(&target);
        assert_eq!(names_in(dir.path()), kept);
        assert_eq!(remove_leftovers_in(dir.path()).unwrap(), 1, "the other file's");
        drop(used);
        assert_eq!(remove_leftovers_in(dir.path()).unwrap(), 0, "who ends in good order leaves nothing");
        assert_eq!(names_in(dir.path()).len(), others.len());
    }

    /// Many at once: each has a file of its own, and none takes another's for a leftover.
    #[test]
    fn makers_at_the_same_time_do_not_disturb_one_another() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("f");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let made = Temporary::beside(&target, Access::Own).unwrap();
                        made.write(false, |out| out.write_all(b"whole")).unwrap();
                        made.replace().unwrap();
                        assert_eq!(fs::read(&target).unwrap(), b"whole");
                    }
                });
            }
        });
        assert_eq!(names_in(dir.path()), ["f"]);
    }

    #[test]
    fn nothing_is_wider_than_it_is_to_be() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for (access, most) in [(Access::Own, 0o600), (Access::Program, 0o700)] {
            let made = Temporary::beside(&at("f"), access).unwrap();
            assert_eq!(mode(made.path()), most);
        }
        let usual = Temporary::beside(&at("f"), Access::Usual).unwrap();
        fs::write(at("plain"), b"").unwrap();
        assert_eq!(mode(usual.path()), mode(&at("plain")), "as the umask lets it");
        // What is replaced keeps the mode its owner gave it.
        for kept in [0o640, 0o644, 0o400, 0o600] {
            for access in [Access::Own, Access::Usual] {
                fs::write(at("kept"), b"").unwrap();
                fs::set_permissions(at("kept"), Permissions::from_mode(kept)).unwrap();
                Temporary::beside(&at("kept"), access).unwrap().replace().unwrap();
                assert_eq!(mode(&at("kept")), kept);
                fs::remove_file(at("kept")).unwrap();
            }
        }
        // A link is no file of anybody's mode, and is not followed.
        symlink(at("plain"), at("link")).unwrap();
        Temporary::beside(&at("link"), Access::Own).unwrap().replace().unwrap();
        assert!(at("link").symlink_metadata().unwrap().is_file());
        assert_eq!(mode(&at("link")), 0o600);
    }

    #[test]
    fn a_new_file_takes_no_name_that_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("f");
        fs::write(&target, b"theirs").unwrap();
        let taken = Temporary::beside(&target, Access::Own).unwrap().place_new().unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!((fs::read(&target).unwrap(), names_in(dir.path())), (b"theirs".to_vec(), vec!["f".to_owned()]));
    }

    #[test]
    fn directories_of_the_dead_go_with_all_that_is_in_them() {
        let parent = tempfile::tempdir().unwrap();
        let used = TemporaryDir::new_in(parent.path(), "piton-x-").unwrap();
        assert_eq!(mode(used.path()), 0o700);
        fs::write(used.path().join("file"), b"").unwrap();
        let dead = parent.path().join("piton-x-0123456789");
        fs::create_dir_all(dead.join("deep/er")).unwrap();
        let outside = parent.path().join("outside");
        fs::create_dir(&outside).unwrap();
        symlink(&outside, dead.join("link")).unwrap();
        symlink(&outside, parent.path().join("piton-x-abcdefabcd")).unwrap();
        fs::create_dir(parent.path().join("piton-x-mine")).unwrap();
        let another = TemporaryDir::new_in(parent.path(), "piton-x-").unwrap();
        assert!(!dead.exists() && outside.exists() && used.path().join("file").exists());
        assert!(parent.path().join("piton-x-mine").exists() && parent.path().join("piton-x-abcdefabcd").exists());
        let left = used.path().to_owned();
        drop(used);
        assert!(left.exists(), "as after a kill");
        assert_eq!(remove_leftover_dirs(parent.path(), "piton-x-"), 1);
        assert!(!left.exists() && another.path().exists());
        another.remove().unwrap();
    }
}
