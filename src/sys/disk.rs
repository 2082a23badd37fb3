//! The file operations that crash safety hangs on, in one place, so that a simulation can stand in for each.
//!
//! Each is what its name says and nothing more; what makes a sequence of them safe is the caller's, above all that of
//! [`super::files`] and of the journal's creation. Nothing here may sync or rename on its own account.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use rustix::io::Errno;

use super::opened::Below;
use super::temporary::{is_at, parent_of};

/// Whether something is there, also a link that leads nowhere.
#[must_use]
pub(crate) fn is_taken(path: &Path) -> bool {
    simulated!(|machine| machine.kind(path).is_some());
    path.symlink_metadata().is_ok()
}

/// Whether a file or directory is there.
#[must_use]
pub(crate) fn exists(path: &Path) -> bool {
    simulated!(|machine| machine.kind(path).is_some());
    path.exists()
}

/// Whether a directory is there.
#[must_use]
pub(crate) fn is_dir(path: &Path) -> bool {
    simulated!(|machine| machine.kind(path) == Some(super::simulated::Kind::Dir));
    path.is_dir()
}

/// All of a regular file; a link in its place is not followed.
///
/// # Errors
/// Whatever the file system says; so for all here.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    simulated!(|machine| machine.read(path));
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut bytes = Vec::new();
    Below::root(parent_of(path).into()).join(name).open_file()?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The names in a directory, in no order.
///
/// # Errors
/// As for [`read`].
pub(crate) fn names(dir: &Path) -> io::Result<Vec<OsString>> {
    simulated!(|machine| machine.names(dir));
    fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name())).collect()
}

/// The names in a directory of a test, in order.
#[cfg(test)]
pub(crate) fn names_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = names(dir).unwrap().into_iter().map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

/// Makes a directory in one that is there.
///
/// # Errors
/// As for [`read`].
pub(crate) fn create_dir(path: &Path) -> io::Result<()> {
    simulated!(|machine| machine.create_dir(path));
    fs::create_dir(path)
}

/// Renames, replacing what is there.
///
/// # Errors
/// As for [`read`].
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    simulated!(|machine| machine.rename(from, to));
    fs::rename(from, to)
}

/// Renames without replacing. File systems that cannot do that in one step get a hard link instead, which refuses
/// an existing name just as well.
///
/// # Errors
/// As for [`read`]; [`io::ErrorKind::AlreadyExists`] when the name is taken.
pub(crate) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    simulated!(|machine| {
        if machine.kind(to).is_some() {
            Err(io::ErrorKind::AlreadyExists.into())
        } else {
            machine.rename(from, to)
        }
    });
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS) => {
            fs::hard_link(from, to)?;
            fs::remove_file(from)
        }
        other => Ok(other?),
    }
}

/// Removes a file.
///
/// # Errors
/// As for [`read`].
pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    simulated!(|machine| machine.remove_file(path));
    fs::remove_file(path)
}

/// Makes a file's contents, or a directory's entries, durable.
///
/// # Errors
/// As for [`read`].
pub(crate) fn sync(path: &Path) -> io::Result<()> {
    simulated!(|machine| machine.sync(path));
    File::open(path)?.sync_all()
}

/// A file that was made and is locked, until this is dropped.
#[derive(Debug)]
pub(crate) struct Claimed(Made);

#[derive(Debug)]
enum Made {
    /// With why it is not locked, if it is not.
    Real(File, Option<Errno>),
    #[cfg(test)]
    Simulated(std::path::PathBuf),
}

impl Claimed {
    /// The file, on a real machine.
    #[must_use]
    pub(crate) const fn real(&self) -> Option<&File> {
        match &self.0 {
            Made::Real(file, _) => Some(file),
            #[cfg(test)]
            Made::Simulated(_) => None,
        }
    }

    /// Why it is not locked, if it is not: its file system cannot do that.
    #[must_use]
    pub(crate) const fn lock_error(&self) -> Option<Errno> {
        match &self.0 {
            Made::Real(_, why) => *why,
            #[cfg(test)]
            Made::Simulated(_) => None,
        }
    }

    /// Writes the file; with `sync` its contents are durable after `Ok` (not its name).
    ///
    /// # Errors
    /// As for [`read`], and whatever `write` says.
    pub(crate) fn write(
        &self,
        sync: bool,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        match &self.0 {
            Made::Real(file, _) => {
                let mut buffered = io::BufWriter::new(file);
                write(&mut buffered)?;
                buffered.flush()?;
                if sync { file.sync_all() } else { Ok(()) }
            }
            #[cfg(test)]
            Made::Simulated(path) => {
                let machine = super::simulated::machine().ok_or(io::ErrorKind::NotFound)?;
                let mut bytes = Vec::new();
                write(&mut bytes)?;
                bytes.chunks(8 << 10).try_for_each(|chunk| machine.append(path, chunk))?;
                if sync { machine.sync(path) } else { Ok(()) }
            }
        }
    }
}

/// Makes a file that is not there, empty, and marks it as being in use where the file system can do that.
///
/// # Errors
/// As for [`read`]; [`io::ErrorKind::WouldBlock`] if somebody took it for a leftover at once.
pub(crate) fn create_claimed(path: &Path, mode: u32) -> io::Result<Claimed> {
    simulated!(|machine| machine.create(path, true).map(|()| Claimed(Made::Simulated(path.into()))));
    // Network file systems lock exclusively what is open for writing, and in common what is open for reading.
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(path)?;
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) if is_at(&file, path) => Ok(Claimed(Made::Real(file, None))),
        Ok(()) | Err(Errno::WOULDBLOCK) => Err(io::ErrorKind::WouldBlock.into()),
        Err(errno) => Ok(Claimed(Made::Real(file, Some(errno)))),
    }
}

/// Empties a file, or makes it: what a crash then leaves of it is anything.
///
/// # Errors
/// As for [`read`].
pub(crate) fn create_over(path: &Path) -> io::Result<Claimed> {
    simulated!(|machine| machine.create(path, false).map(|()| Claimed(Made::Simulated(path.into()))));
    Ok(Claimed(Made::Real(File::create(path)?, None)))
}

/// Removes a file unless somebody has it in use; whether it did.
///
/// # Errors
/// When it is free and cannot be removed.
pub(crate) fn remove_unclaimed(path: &Path) -> io::Result<bool> {
    simulated!(|machine| machine.remove_file(path).map(|()| true));
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let Ok(file) = options.open(path) else { return Ok(false) };
    let free = file.metadata()?.is_file() && flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
    if free && is_at(&file, path) {
        fs::remove_file(path)?;
    }
    Ok(free)
}

/// Random bytes from the kernel.
///
/// # Errors
/// What the kernel says.
pub(crate) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    simulated!(|machine| {
        machine.random(&mut bytes);
        Ok(bytes)
    });
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(bytes)
}
