//! The file operations that crash safety hangs on, in one place, so that a simulation can stand in for each.
//!
//! Each is what its name says and nothing more; what makes a sequence of them safe is the caller's, above all that of
//! [`super::files`] and of the journal's creation. Nothing here may sync or rename on its own account.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};

/// Whether something is there, also a link that leads nowhere.
#[must_use]
pub fn is_taken(path: &Path) -> bool {
    simulated!(|machine| machine.kind(path).is_some());
    path.symlink_metadata().is_ok()
}

/// Whether a file or directory is there.
#[must_use]
pub fn exists(path: &Path) -> bool {
    simulated!(|machine| machine.kind(path).is_some());
    path.exists()
}

/// Whether a directory is there.
#[must_use]
pub fn is_dir(path: &Path) -> bool {
    simulated!(|machine| machine.kind(path) == Some(super::simulated::Kind::Dir));
    path.is_dir()
}

/// All of a file.
///
/// # Errors
/// Whatever the file system says; so for all here.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    simulated!(|machine| machine.read(path));
    fs::read(path)
}

/// The names in a directory, in no order.
///
/// # Errors
/// As for [`read`].
pub fn names(dir: &Path) -> io::Result<Vec<OsString>> {
    simulated!(|machine| machine.names(dir));
    fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name())).collect()
}

/// Makes a directory in one that is there.
///
/// # Errors
/// As for [`read`].
pub fn create_dir(path: &Path) -> io::Result<()> {
    simulated!(|machine| machine.create_dir(path));
    fs::create_dir(path)
}

/// Renames, replacing what is there.
///
/// # Errors
/// As for [`read`].
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    simulated!(|machine| machine.rename(from, to));
    fs::rename(from, to)
}

/// Renames without replacing. File systems that cannot do that in one step get a hard link instead, which refuses
/// an existing name just as well.
///
/// # Errors
/// As for [`read`]; [`io::ErrorKind::AlreadyExists`] when the name is taken.
pub fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    simulated!(|machine| {
        if machine.kind(to).is_some() {
            Err(io::ErrorKind::AlreadyExists.into())
        } else {
            machine.rename(from, to)
        }
    });
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
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
pub fn remove_file(path: &Path) -> io::Result<()> {
    simulated!(|machine| machine.remove_file(path));
    fs::remove_file(path)
}

/// Makes a file's contents, or a directory's entries, durable.
///
/// # Errors
/// As for [`read`].
pub fn sync(path: &Path) -> io::Result<()> {
    simulated!(|machine| machine.sync(path));
    File::open(path)?.sync_all()
}

/// Writes a file, never through a link; with `sync` its contents are durable after `Ok` (not its name).
///
/// # Errors
/// As for [`read`], and whatever `write` says.
pub fn write_file(
    path: &Path,
    sync: bool,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    simulated!(|machine| {
        let mut bytes = Vec::new();
        machine.create(path, false)?;
        write(&mut bytes)?;
        bytes.chunks(8 << 10).try_for_each(|chunk| machine.append(path, chunk))?;
        if sync { machine.sync(path) } else { Ok(()) }
    });
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
    let mut buffered = io::BufWriter::new(file);
    write(&mut buffered)?;
    let file = buffered.into_inner().map_err(io::IntoInnerError::into_error)?;
    if sync { file.sync_all() } else { Ok(()) }
}

/// A file that was made and is locked, until this is dropped.
#[derive(Debug)]
pub struct Claimed {
    _file: Option<File>,
}

/// Makes a file that is not there, empty, and marks it as being in use.
///
/// # Errors
/// As for [`read`].
pub fn create_claimed(path: &Path) -> io::Result<Claimed> {
    simulated!(|machine| machine.create(path, true).map(|()| Claimed { _file: None }));
    let file = File::create_new(path)?;
    let locked = flock(&file, FlockOperation::NonBlockingLockShared).map_err(io::Error::from);
    locked.map_err(super::words::unlockable)?;
    Ok(Claimed { _file: Some(file) })
}

/// Removes a file unless somebody has it in use.
///
/// # Errors
/// When it is free and cannot be removed.
pub fn remove_unclaimed(path: &Path) -> io::Result<()> {
    simulated!(|machine| machine.remove_file(path));
    let free = File::open(path).is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok());
    if free { fs::remove_file(path) } else { Ok(()) }
}

/// Random bytes from the kernel.
///
/// # Errors
/// What the kernel says.
pub fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    simulated!(|machine| {
        machine.random(&mut bytes);
        Ok(bytes)
    });
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(bytes)
}
