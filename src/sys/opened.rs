//! Files and directories that are held open, and what lies below them, one name at a time.
//!
//! Below a directory that is held, nothing leads elsewhere: a link in the place of a directory is refused, whoever put it
//! there and whenever. This needs no `openat2`: a single name opened without following links cannot leave.
//!
//! A directory's entry (its name in the directory above) is durable once the directory above was synced after the entry
//! was made. Whether that happened cannot be seen, so it is remembered by [`Id`].

use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags, fstat, openat, renameat, statat, statx, syncfs};
use rustix::io::Errno;

use super::copied::{CopyError, copy_into};
use super::files::start_writeback;
use super::grant_read::{let_owner_in_at, let_owner_in_below};
use super::hash_cache::Memory;
use super::links::resolve;
use super::removal::{self, Removing, Taken};
#[cfg(test)]
use super::simulated::{Kind, Machine};
use super::tree_hash::{HashWatch, TreeHash, hash_tree, hash_tree_again, kind_of, open_beneath};

/// A file or directory, open.
#[derive(Debug)]
pub struct Opened(Inner);

#[derive(Debug)]
enum Inner {
    Real {
        file: File,
        /// A directory that may be entered, but neither listed nor synced.
        only_entered: bool,
    },
    #[cfg(test)]
    Simulated(PathBuf),
}

/// What is in a file.
#[derive(Debug)]
pub enum Contents<'a> {
    /// The file itself.
    Real(&'a File),
    /// What is in one of a simulated machine.
    #[cfg(test)]
    Simulated(io::Cursor<Vec<u8>>),
}

impl Read for Contents<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Real(file) => file.read(out),
            #[cfg(test)]
            Self::Simulated(bytes) => bytes.read(out),
        }
    }
}

impl Seek for Contents<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match self {
            Self::Real(file) => file.seek(to),
            #[cfg(test)]
            Self::Simulated(bytes) => bytes.seek(to),
        }
    }
}

/// Which file or directory it is: another one that is made later in its place has another, as far as the file system
/// says when it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Id {
    dev: (u32, u32),
    ino: u64,
    born: (i64, u32),
}

/// A place below a directory that is the user's: what leads to that directory is followed, what is below it is not, whoever
/// put links there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Below {
    root: PathBuf,
    below: PathBuf,
}

impl Below {
    /// The directory itself.
    #[must_use]
    pub(crate) const fn root(root: PathBuf) -> Self {
        Self { root, below: PathBuf::new() }
    }

    /// A place below this one.
    #[must_use]
    pub fn join(&self, name: impl AsRef<Path>) -> Self {
        Self { root: self.root.clone(), below: self.below.join(name) }
    }

    /// What it is in; what is not below its directory stays there.
    #[must_use]
    pub fn above(&self) -> Self {
        let below = self.below.parent().map_or_else(PathBuf::new, Path::to_path_buf);
        Self { root: self.root.clone(), below }
    }

    /// For messages, and for calls that need a name alone.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        match self.below.as_os_str().is_empty() {
            true => self.root.clone(),
            false => self.root.join(&self.below),
        }
    }

    /// Opens it, for looking.
    ///
    /// # Errors
    /// As for `open_beneath`.
    pub fn open(&self) -> io::Result<Opened> {
        Opened::dir(&self.root)?.open(&self.below)
    }

    /// Opens it, if it is a regular file.
    ///
    /// # Errors
    /// As for [`Below::open`], and [`io::ErrorKind::InvalidData`] for anything else.
    pub(crate) fn open_file(&self) -> io::Result<File> {
        let opened = self.open()?;
        match opened.kind()? {
            FileType::RegularFile => opened.file()?.try_clone(),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "it is not a regular file")),
        }
    }
}

/// The machine this thread simulates, where it must be there.
#[cfg(test)]
fn machine() -> io::Result<std::rc::Rc<dyn Machine>> {
    super::simulated::machine().ok_or_else(|| io::Error::other("no simulation runs on this thread"))
}

/// Does the one on a real machine and the other on a simulated one.
macro_rules! on {
    ($opened:expr, |$file:ident| $real:expr, |$machine:ident, $path:ident| $simulated:expr) => {
        match &$opened.0 {
            Inner::Real { file: $file, .. } => $real,
            #[cfg(test)]
            Inner::Simulated($path) => {
                let $machine = machine()?;
                $simulated
            }
        }
    };
}

impl Opened {
    /// Opens a directory by its path. What lies above it is the user's: links are followed, and it is enough that it may
    /// be entered.
    ///
    /// # Errors
    /// What the kernel says; so for all here.
    pub fn dir(path: &Path) -> io::Result<Self> {
        simulated!(|machine| match machine.kind(path) {
            Some(Kind::Dir) => Ok(Self(Inner::Simulated(path.into()))),
            Some(Kind::File) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        });
        let open = |how| rustix::fs::open(path, how | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let (fd, only_entered) = match open(OFlags::RDONLY) {
            Err(Errno::ACCESS) => (open(OFlags::PATH)?, true),
            other => (other?, false),
        };
        Ok(Self(Inner::Real { file: fd.into(), only_entered }))
    }

    /// Whether it is a directory that may be entered, but neither listed nor synced.
    #[must_use]
    pub(crate) const fn is_only_entered(&self) -> bool {
        matches!(self.0, Inner::Real { only_entered: true, .. })
    }

    fn real(file: File) -> Self {
        Self(Inner::Real { file, only_entered: false })
    }

    /// Opens a directory in this one.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotADirectory`] for anything else, a link above all.
    pub(crate) fn enter(&self, name: &OsStr) -> io::Result<Self> {
        if Path::new(name).components().count() != 1 || matches!(name.as_encoded_bytes(), b"." | b"..") {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "is no single name"));
        }
        on!(
            self,
            |file| {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                match openat(file, name, flags, Mode::empty()) {
                    Ok(fd) => Ok(Self::real(fd.into())),
                    Err(Errno::LOOP) => Err(Errno::NOTDIR.into()),
                    Err(errno) => Err(errno.into()),
                }
            },
            |_machine, path| Self::dir(&path.join(name))
        )
    }

    /// Lets this process's user read what has this name in it, if it is that user's: a trial may have forbidden it.
    ///
    /// # Errors
    /// As for [`Opened::dir`].
    pub(crate) fn let_owner_in_at(&self, name: &OsStr) -> io::Result<()> {
        on!(self, |file| let_owner_in_at(file.as_fd(), name), |_machine, _path| Ok(()))
    }

    /// Lets this process's user read this directory and all that is below it, as far as it is that user's.
    ///
    /// # Errors
    /// As for [`Opened::dir`].
    pub(crate) fn let_owner_in(&self) -> io::Result<()> {
        on!(self, |file| let_owner_in_below(file.as_fd(), 0), |_machine, _path| Ok(()))
    }

    /// Makes a directory in this one.
    ///
    /// # Errors
    /// As for [`Opened::dir`].
    pub(crate) fn make(&self, name: &OsStr) -> io::Result<()> {
        on!(
            self,
            |file| {
                let name = c_name(name)?;
                // SAFETY: the descriptor is open as long as `file` is borrowed; the name ends in NUL and outlives the call.
                // Through libc, where tests let it fail.
                match unsafe { libc::mkdirat(file.as_raw_fd(), name.as_ptr(), 0o777) } {
                    0 => Ok(()),
                    _ => Err(io::Error::last_os_error()),
                }
            },
            |machine, path| machine.create_dir(&path.join(name))
        )
    }

    /// Opens what `path` names below this directory, never through a link.
    ///
    /// # Errors
    /// As for `open_beneath`.
    pub fn open(&self, path: &Path) -> io::Result<Self> {
        on!(self, |file| Ok(Self::real(open_beneath(file.as_fd(), path)?)), |machine, own| {
            let path = own
                .join(path.components().filter(|part| *part != std::path::Component::CurDir).collect::<PathBuf>());
            machine.kind(&path).map(|_| Self(Inner::Simulated(path))).ok_or_else(|| io::ErrorKind::NotFound.into())
        })
    }

    /// What `path` really names below this directory: links that stay in it are followed. See `sys::links`.
    ///
    /// # Errors
    /// As for `links::resolve`: what leaves the directory, and what the kernel says.
    pub fn resolve(&self, path: &Path) -> io::Result<(PathBuf, Vec<PathBuf>)> {
        on!(self, |file| resolve(file.as_fd(), path), |_machine, _own| {
            Ok((
                path.into(),
                path.ancestors().skip(1).filter(|dir| dir.file_name().is_some()).map(Into::into).collect(),
            ))
        })
    }

    /// Writes a new file in this directory.
    ///
    /// # Errors
    /// As for [`Opened::dir`].
    pub(crate) fn write_new(&self, name: &OsStr, bytes: &[u8]) -> io::Result<()> {
        on!(
            self,
            |file| {
                let name = c_name(name)?;
                let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_CLOEXEC;
                // SAFETY: as for `mkdirat` above; with O_CREAT the mode is there.
                let fd = unsafe { libc::openat(file.as_raw_fd(), name.as_ptr(), flags, 0o666) };
                if fd < 0 {
                    return Err(io::Error::last_os_error());
                }
                // SAFETY: the descriptor was just opened, and nobody else knows it.
                let new = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
                (&new).write_all(bytes)
            },
            |machine, path| {
                machine.create(&path.join(name), true)?;
                machine.append(&path.join(name), bytes)
            }
        )
    }

    /// Copies this file or directory into another directory, where the name must be free. See `copy_into`.
    ///
    /// # Errors
    /// As for `copy_into`.
    pub(crate) fn copy_into(&self, dir: &Self, name: &OsStr, watch: HashWatch<'_>) -> Result<(), CopyError> {
        match (&self.0, &dir.0) {
            (Inner::Real { file, .. }, Inner::Real { file: dir, .. }) => copy_into(file, dir.as_fd(), name, watch),
            #[cfg(test)]
            (Inner::Simulated(path), Inner::Simulated(dir)) => {
                let machine = machine().map_err(CopyError::Source)?;
                let bytes = machine.read(path).map_err(CopyError::Source)?;
                let to = dir.join(name);
                machine.create(&to, true).and_then(|()| machine.append(&to, &bytes)).map_err(CopyError::Target)
            }
            #[cfg(test)]
            _ => Err(CopyError::Source(io::ErrorKind::Unsupported.into())),
        }
    }

    /// The names in this directory, in no order.
    ///
    /// # Errors
    /// As for [`Opened::dir`].
    pub fn names(&self) -> io::Result<Vec<OsString>> {
        on!(
            self,
            |_file| fs::read_dir(self.path_now())?.map(|entry| Ok(entry?.file_name())).collect(),
            |machine, path| machine.names(path)
        )
    }

    /// When its contents, or its entries, last changed, Unix milliseconds. On a simulated machine that was long ago.
    ///
    /// # Errors
    /// As for [`Opened::dir`].
    pub(crate) fn modified_ms(&self) -> io::Result<i64> {
        on!(
            self,
            |file| {
                let stat = fstat(file)?;
                Ok(stat
                    .st_mtime
                    .saturating_mul(1_000)
                    .saturating_add(i64::try_from(stat.st_mtime_nsec / 1_000_000).unwrap_or(0)))
            },
            |_machine, _path| Ok(0)
        )
    }

    /// Removes what has this name in it, whatever it is; a directory with all in it. Links are not followed.
    ///
    /// # Errors
    /// As for [`Opened::dir`].
    pub fn remove(&self, name: &OsStr) -> io::Result<()> {
        on!(
            self,
            |_file| {
                let path = self.path_now().join(name);
                if fs::symlink_metadata(&path)?.is_dir() {
                    fs::remove_dir_all(path)
                } else {
                    fs::remove_file(path)
                }
            },
            |machine, path| machine.remove_file(&path.join(name))
        )
    }

    /// Removes what has this name in it, whatever it is and as much as it is, and counts what that frees; or counts alone. Links are not
    /// followed. See `sys::removal`.
    ///
    /// # Errors
    /// As for [`Opened::dir`].
    pub(crate) fn remove_counted(&self, name: &OsStr, how: Removing, taken: &mut Taken) -> io::Result<()> {
        on!(self, |file| removal::remove(file.as_fd(), name, how, taken), |machine, path| {
            let path = path.join(name);
            let below = machine.names(&path).unwrap_or_default();
            let opened = Self(Inner::Simulated(path.clone()));
            below.iter().try_for_each(|name| opened.remove_counted(name, how, taken))?;
            let bytes = machine.read(&path).map_or(0, |bytes| bytes.len() as u64);
            taken.add(Taken { bytes, inodes: 1 });
            match how {
                Removing::Really => machine.remove_file(&path),
                Removing::OnlyCounted => Ok(()),
            }
        })
    }

    /// Passes on the names in this directory, in no order, as they are read: what is removed meanwhile may be among them.
    ///
    /// # Errors
    /// As for [`Opened::dir`]; what `act` says.
    pub(crate) fn each_name(&self, act: &mut dyn FnMut(&OsStr) -> io::Result<()>) -> io::Result<()> {
        on!(self, |file| removal::each_name(file.as_fd(), act), |machine, path| {
            machine.names(path)?.iter().try_for_each(|name| act(name))
        })
    }

    /// Removes a directory in it that has nothing in it.
    ///
    /// # Errors
    /// As for [`Opened::dir`].
    pub(crate) fn remove_empty(&self, name: &OsStr) -> io::Result<()> {
        on!(self, |file| Ok(rustix::fs::unlinkat(file, name, AtFlags::REMOVEDIR)?), |machine, path| {
            let path = path.join(name);
            match machine.names(&path)?.is_empty() {
                true => machine.remove_file(&path),
                false => Err(io::ErrorKind::DirectoryNotEmpty.into()),
            }
        })
    }

    /// Gives what is in it another name in it.
    ///
    /// # Errors
    /// As for [`Opened::dir`].
    pub fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        on!(self, |file| Ok(renameat(file, from, file, to)?), |machine, path| {
            machine.rename(&path.join(from), &path.join(to))
        })
    }

    /// How long the regular file of this name in it is; `None` for what is no such file.
    ///
    /// # Errors
    /// As for [`Opened::dir`].
    pub(crate) fn length_of(&self, name: &str) -> io::Result<Option<u64>> {
        on!(
            self,
            |file| match statat(file, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
                    Ok(u64::try_from(stat.st_size).ok())
                }
                Ok(_) | Err(Errno::NOENT) => Ok(None),
                Err(errno) => Err(errno.into()),
            },
            |machine, path| Ok(machine.read(&path.join(name)).ok().map(|bytes| bytes.len() as u64))
        )
    }

    /// What it is.
    ///
    /// # Errors
    /// As for [`Opened::dir`].
    pub fn kind(&self) -> io::Result<FileType> {
        on!(self, |file| kind_of(file), |machine, path| match machine.kind(path) {
            Some(Kind::Dir) => Ok(FileType::Directory),
            Some(Kind::File) => Ok(FileType::RegularFile),
            None => Err(io::ErrorKind::NotFound.into()),
        })
    }

    /// What it is, and bytes in it.
    ///
    /// # Errors
    /// As for [`Opened::dir`].
    pub(crate) fn kind_and_bytes(&self) -> io::Result<(FileType, u64)> {
        on!(
            self,
            |file| {
                let stat = fstat(file)?;
                Ok((FileType::from_raw_mode(stat.st_mode), u64::try_from(stat.st_size).unwrap_or(0)))
            },
            |_machine, _path| Ok((self.kind()?, self.bytes()?))
        )
    }

    /// Bytes in it.
    ///
    /// # Errors
    /// As for [`Opened::dir`].
    pub fn bytes(&self) -> io::Result<u64> {
        on!(self, |file| Ok(file.metadata()?.len()), |machine, path| {
            Ok(machine.read(path).map_or(0, |bytes| bytes.len() as u64))
        })
    }

    /// Which one it is.
    ///
    /// # Errors
    /// As for [`Opened::dir`].
    pub fn id(&self) -> io::Result<Id> {
        on!(
            self,
            |file| {
                let wanted = StatxFlags::INO | StatxFlags::BTIME;
                match statx(file, c"", AtFlags::EMPTY_PATH, wanted) {
                    Ok(found) => {
                        let born = match found.stx_mask & StatxFlags::BTIME.bits() {
                            0 => (0, 0),
                            _ => (found.stx_btime.tv_sec, found.stx_btime.tv_nsec),
                        };
                        Ok(Id { dev: (found.stx_dev_major, found.stx_dev_minor), ino: found.stx_ino, born })
                    }
                    // Forbidden by an old container's filter.
                    Err(Errno::NOSYS | Errno::PERM) => {
                        let found = fstat(file)?;
                        let dev = (rustix::fs::major(found.st_dev), rustix::fs::minor(found.st_dev));
                        Ok(Id { dev, ino: found.st_ino, born: (0, 0) })
                    }
                    Err(errno) => Err(errno.into()),
                }
            },
            |machine, path| Ok(Id { dev: (0, 0), ino: machine.identity(path)?, born: (0, 0) })
        )
    }

    /// Makes a file's contents, or a directory's entries, durable.
    ///
    /// # Errors
    /// As for [`Opened::dir`]; what a file system cannot do at all is said so, as [`io::ErrorKind::Unsupported`].
    pub fn sync(&self) -> io::Result<()> {
        on!(self, |file| file.sync_all().map_err(|error| unsupported(file, error)), |machine, path| machine
            .sync(path))
    }

    /// Makes all that is on its file system durable.
    ///
    /// # Errors
    /// As for [`Opened::dir`].
    pub(crate) fn sync_file_system(&self) -> io::Result<()> {
        on!(self, |file| Ok(syncfs(file)?), |machine, path| {
            let below = machine.names(path)?.into_iter().map(|name| path.join(name));
            let dirs = below.filter(|path| machine.kind(path) == Some(Kind::Dir));
            dirs.into_iter().try_for_each(|dir| Self(Inner::Simulated(dir)).sync_file_system())?;
            machine.sync(path)
        })
    }

    /// Makes the entry that leads from this directory to `child` durable. Where this directory cannot be synced for want
    /// of permission, all of the file system is.
    ///
    /// # Errors
    /// As for [`Opened::sync`].
    pub(crate) fn sync_entry_of(&self, child: &Self) -> io::Result<()> {
        match (&self.0, &child.0) {
            (Inner::Real { only_entered: true, .. }, Inner::Real { only_entered: false, .. }) => {
                child.sync_file_system()
            }
            // Nothing was made by anybody who may only enter both.
            (Inner::Real { only_entered: true, .. }, _) => Ok(()),
            // The top of another file system: how it comes to be there is no entry.
            (Inner::Real { .. }, Inner::Real { .. }) if self.id()?.dev != child.id()?.dev => Ok(()),
            _ => self.sync(),
        }
    }

    /// Hashes it, and makes all of it durable if `sync` is set. See `hash_tree`.
    ///
    /// # Errors
    /// As for `hash_tree`.
    pub fn hash(&self, sync: bool, watch: HashWatch<'_>) -> io::Result<TreeHash> {
        on!(self, |file| hash_tree(file.try_clone()?, sync, watch), |machine, path| {
            let bytes = machine.read(path)?;
            if sync {
                machine.sync(path)?;
            }
            Ok(TreeHash { bytes: bytes.len() as u64, blake3: *blake3::hash(&bytes).as_bytes() })
        })
    }

    /// Hashes it, but for files that are known and were left alone since; `path` is what it is known by. See
    /// `hash_tree_again`.
    ///
    /// # Errors
    /// As for `hash_tree`.
    pub(crate) fn hash_again(
        &self,
        path: &Path,
        memory: &mut Memory,
        watch: HashWatch<'_>,
    ) -> io::Result<TreeHash> {
        on!(self, |file| hash_tree_again(file.try_clone()?, path, memory, watch), |machine, own| {
            memory.changed_ms = memory.changed_ms.max(machine.changed_ms(own));
            self.hash(false, watch)
        })
    }

    /// Asks the kernel to begin writing what is dirty of it.
    pub(crate) fn start_writeback(&self) {
        match &self.0 {
            Inner::Real { file, .. } => start_writeback(file),
            #[cfg(test)]
            Inner::Simulated(_) => {}
        }
    }

    /// The file itself.
    ///
    /// # Errors
    /// On a simulated machine there is none.
    pub fn file(&self) -> io::Result<&File> {
        on!(self, |file| Ok(file), |_machine, _path| Err(io::ErrorKind::Unsupported.into()))
    }

    /// To read the file from its beginning, or wherever it was read to last.
    ///
    /// # Errors
    /// What a simulated machine says.
    pub(crate) fn contents(&self) -> io::Result<Contents<'_>> {
        on!(self, |file| Ok(Contents::Real(file)), |machine, path| {
            Ok(Contents::Simulated(io::Cursor::new(machine.read(path)?)))
        })
    }

    /// A path that leads to this very file or directory for as long as it is open, wherever it was moved.
    #[must_use]
    pub(crate) fn path_now(&self) -> PathBuf {
        match &self.0 {
            Inner::Real { file, .. } => format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()).into(),
            #[cfg(test)]
            Inner::Simulated(path) => path.clone(),
        }
    }
}

fn c_name(name: &OsStr) -> io::Result<CString> {
    Ok(CString::new(name.as_encoded_bytes())?)
}

/// A directory that its file system cannot sync: said in words, since no number would say what to do.
pub(super) fn unsupported(file: &File, error: io::Error) -> io::Error {
    let refused = matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP));
    if !refused || !file.metadata().is_ok_and(|meta| meta.is_dir()) {
        return error;
    }
    io::Error::new(
        io::ErrorKind::Unsupported,
        "this file system cannot make a directory's entries durable (fsync is refused), so that results could be lost; \
         put store and artifacts on a local file system such as ext4, xfs or btrfs",
    )
}
