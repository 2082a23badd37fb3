//! Removing what trials left, and measuring it: whatever they made of it, and however much that is.
//!
//! Nothing is reached through a link, and nothing of another file system that somebody mounted there is touched. A directory that its
//! owner may not change is opened for him first, as far as it is this process's user's. Names are passed on as they are read, and what is
//! nested too deep for as many open directories moves up, so that neither memory nor descriptors grow with what is removed.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, openat, renameat, stat, statat, unlinkat};
use rustix::io::Errno;

use super::grant_read::{let_owner_change, let_owner_change_at};
use super::opened::Opened;
use super::tree_hash::MAX_DEPTH;

/// What something takes on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Bytes of its blocks.
    pub(crate) bytes: u64,
    /// Files and directories.
    pub(crate) inodes: u64,
}

impl Taken {
    pub(crate) fn add(&mut self, other: Self) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.inodes = self.inodes.saturating_add(other.inodes);
    }

    /// Counts what has these names still and is freed with the last of them.
    fn count(&mut self, stat: &Stat) {
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if is_dir || stat.st_nlink <= 1 {
            let bytes = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
            self.add(Self { bytes, inodes: 1 });
        }
    }
}

/// What a directory takes, with all below it, as far as it can be looked at. Its own path may lead through links, as a user has laid
/// them.
pub(crate) fn measured(path: &Path) -> Taken {
    let mut taken = Taken::default();
    let Ok(dir) = Opened::dir(path) else { return taken };
    let _ = dir.each_name(&mut |name| {
        // What goes meanwhile, and what is closed, is as if it were not there.
        let _ = dir.remove_counted(name, Removing::OnlyCounted, &mut taken);
        Ok(())
    });
    if let Ok(stat) = stat(path) {
        taken.count(&stat);
    }
    taken
}

/// Whether something is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Removing {
    Really,
    /// It is looked what that would free.
    OnlyCounted,
}

/// What a removal goes by.
struct Removal<'a> {
    how: Removing,
    taken: &'a mut Taken,
    /// Where things that are nested too deep move to.
    top: BorrowedFd<'a>,
    device: u64,
    moved: u64,
}

/// What a name begins with that something nested too deep gets.
const DEEP: &str = ".piton-deep-";

/// Removes what has this name in a directory, with all below it, and counts that.
pub(super) fn remove(dir: BorrowedFd<'_>, name: &OsStr, how: Removing, taken: &mut Taken) -> io::Result<()> {
    let mut removal = Removal { how, taken, top: dir, device: fstat(dir)?.st_dev, moved: 0 };
    removal.entry(dir, name, 0)?;
    // What moved up may move more up.
    let mut next = 0;
    while next < removal.moved {
        let name = format!("{DEEP}{next}");
        removal.entry(dir, OsStr::new(&name), 0)?;
        next += 1;
    }
    Ok(())
}

impl Removal<'_> {
    fn entry(&mut self, dir: BorrowedFd<'_>, name: &OsStr, depth: usize) -> io::Result<()> {
        let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            self.unlink(dir, name, AtFlags::empty())?;
            self.taken.count(&stat);
            return Ok(());
        }
        if stat.st_dev != self.device {
            let words = format!("another file system is mounted at `{}`", name.to_string_lossy());
            return Err(io::Error::other(words));
        }
        if depth >= MAX_DEPTH {
            if self.how == Removing::Really {
                self.move_up(dir, name)?;
            }
            return Ok(());
        }
        let below = match open_dir(dir, name) {
            Err(Errno::ACCESS) => {
                if self.how == Removing::OnlyCounted {
                    // It is as it is until it is removed.
                    self.taken.count(&stat);
                    return Ok(());
                }
                let_owner_change_at(dir, name)?;
                open_dir(dir, name)?
            }
            other => other?,
        };
        if self.how == Removing::Really {
            let_owner_change(below.as_fd())?;
        }
        self.below(&below, depth)?;
        drop(below);
        self.unlink(dir, name, AtFlags::REMOVEDIR)?;
        self.taken.count(&stat);
        Ok(())
    }

    /// Empties a directory. All that can be removed is; the first error is told.
    fn below(&mut self, dir: &OwnedFd, depth: usize) -> io::Result<()> {
        loop {
            let (mut seen, mut failed) = (0_u64, None);
            each_name(dir.as_fd(), &mut |name| {
                seen += 1;
                match self.entry(dir.as_fd(), name, depth + 1) {
                    // Somebody else was faster.
                    Err(error) if error.kind() != io::ErrorKind::NotFound => drop(failed.get_or_insert(error)),
                    _ => {}
                }
                Ok(())
            })?;
            match failed {
                Some(error) => return Err(error),
                // A file system may pass over names while others go.
                None if seen == 0 || self.how == Removing::OnlyCounted => return Ok(()),
                None => {}
            }
        }
    }

    fn unlink(&self, dir: BorrowedFd<'_>, name: &OsStr, flags: AtFlags) -> io::Result<()> {
        if self.how == Removing::OnlyCounted {
            return Ok(());
        }
        match unlinkat(dir, name, flags) {
            Err(Errno::ACCESS | Errno::PERM) => {
                let_owner_change(dir)?;
                Ok(unlinkat(dir, name, flags)?)
            }
            other => Ok(other?),
        }
    }

    fn move_up(&mut self, dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
        let up = format!("{DEEP}{}", self.moved);
        // One may be left from a removal that was cut off.
        if statat(self.top, up.as_str(), AtFlags::SYMLINK_NOFOLLOW).is_err() {
            renameat(dir, name, self.top, up.as_str())?;
        }
        self.moved += 1;
        Ok(())
    }
}

fn open_dir(dir: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    openat(dir, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Passes on the names in a directory, in no order, as they are read.
pub(super) fn each_name(dir: BorrowedFd<'_>, act: &mut dyn FnMut(&OsStr) -> io::Result<()>) -> io::Result<()> {
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            act(OsStr::from_bytes(name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn removed(root: &Path, name: &str, how: Removing) -> (io::Result<()>, Taken) {
        let mut taken = Taken::default();
        let result = Opened::dir(root).unwrap().remove_counted(OsStr::new(name), how, &mut taken);
        (result, taken)
    }

    #[test]
    fn links_are_removed_and_not_followed_and_what_is_freed_is_counted() {
        let root = tempfile::tempdir().unwrap();
        let (precious, case) = (root.path().join("precious"), root.path().join("case"));
        fs::create_dir_all(case.join("a/b")).unwrap();
        fs::create_dir(&precious).unwrap();
        fs::write(precious.join("file"), b"x").unwrap();
        symlink(&precious, case.join("a/out")).unwrap();
        symlink(precious.join("file"), case.join("a/b/file")).unwrap();
        fs::hard_link(precious.join("file"), case.join("same")).unwrap();
        fs::write(case.join("a/big"), vec![7; 20_000]).unwrap();
        let (counted, would) = removed(root.path(), "case", Removing::OnlyCounted);
        counted.unwrap();
        assert!(case.join("a/big").exists());
        let (done, is) = removed(root.path(), "case", Removing::Really);
        done.unwrap();
        assert_eq!(would, is);
        // The case, `a`, `b`, two links and `big`; the file that has another name stays.
        assert!(is.inodes == 6 && is.bytes >= 20_000, "{is:?}");
        assert!(!case.exists());
        assert_eq!(fs::read(precious.join("file")).unwrap(), b"x");
        // A link in the place of a directory goes itself.
        symlink(&precious, &case).unwrap();
        removed(root.path(), "case", Removing::Really).0.unwrap();
        assert!(fs::symlink_metadata(&case).is_err() && precious.join("file").exists());
    }

    #[test]
    fn locked_deep_and_crowded_directories_go() {
        let root = tempfile::tempdir().unwrap();
        let case = root.path().join("case");
        fs::create_dir_all(case.join("locked/in")).unwrap();
        fs::write(case.join("locked/in/file"), b"").unwrap();
        for (path, mode) in [("locked/in", 0o000), ("locked", 0o500)] {
            fs::set_permissions(case.join(path), fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::create_dir(case.join("crowd")).unwrap();
        for number in 0..3_000 {
            fs::write(case.join(format!("crowd/{number}")), b"").unwrap();
        }
        // Deeper than a path can be, and than a process may hold directories open.
        let mut at = Opened::dir(&case).unwrap();
        for _ in 0..2_000 {
            at.make(OsStr::new("deeper")).unwrap();
            at = at.enter(OsStr::new("deeper")).unwrap();
        }
        at.write_new(OsStr::new("end"), b"").unwrap();
        drop(at);
        let (done, is) = removed(root.path(), "case", Removing::Really);
        done.unwrap();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
        assert_eq!(is.inodes, 1 + 3 + 3_001 + 2_001);
    }
}
