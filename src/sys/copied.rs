//! Files and directories copied from what is held open into what is held open, by a reflink where the file system can.
//!
//! Nothing is followed on the way: a link is copied as the link it is, and what is neither file, directory nor link is refused. What a copy is worth is
//! told by its hash alone, which whoever asked for it has to take.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, fchmod, fstat, ioctl_ficlone, mkdirat, openat, readlinkat, statat,
    symlinkat,
};
use rustix::io::Errno;

use super::tree_hash::{HashWatch, MAX_DEPTH};

/// Which side of a copy failed.
#[derive(Debug)]
pub(crate) enum CopyError {
    /// What was to be copied.
    Source(io::Error),
    /// Where it was to go.
    Target(io::Error),
}

fn source(error: impl Into<io::Error>) -> CopyError {
    CopyError::Source(error.into())
}

fn target(error: impl Into<io::Error>) -> CopyError {
    CopyError::Target(error.into())
}

/// Bytes that are copied between two looks at whoever wants to end it.
const BYTES_A_LOOK: u64 = 16 << 20;

/// Copies an open file or directory, under a name that is free, into an open directory. `watch` is asked now and then.
///
/// # Errors
/// [`CopyError`]; what is there of the copy then is anything.
pub(crate) fn copy_into(
    from: &File,
    dir: BorrowedFd<'_>,
    name: &OsStr,
    watch: HashWatch<'_>,
) -> Result<(), CopyError> {
    copy(from, dir, name, 0, watch)
}

fn copy(
    from: &File,
    dir: BorrowedFd<'_>,
    name: &OsStr,
    depth: usize,
    watch: HashWatch<'_>,
) -> Result<(), CopyError> {
    watch().map_err(source)?;
    let stat = fstat(from).map_err(source)?;
    let mode = Mode::from_raw_mode(stat.st_mode & 0o777);
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let to = File::from(openat(dir, name, flags, Mode::from_raw_mode(0o600)).map_err(target)?);
            contents(from, &to, watch)?;
            fchmod(&to, mode).map_err(target)
        }
        FileType::Directory if depth < MAX_DEPTH => {
            mkdirat(dir, name, Mode::from_raw_mode(0o700)).map_err(target)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let to = openat(dir, name, flags, Mode::empty()).map_err(target)?;
            for entry in Dir::read_from(from).map_err(source)? {
                let entry = entry.map_err(source)?;
                let name = entry.file_name().to_bytes();
                if !matches!(name, b"." | b"..") {
                    copy_entry(from.as_fd(), to.as_fd(), OsStr::from_bytes(name), depth, watch)?;
                }
            }
            fchmod(&to, mode).map_err(target)
        }
        _ => Err(source(io::Error::new(
            io::ErrorKind::InvalidData,
            "is neither a file nor a directory, or too deep",
        ))),
    }
}

fn copy_entry(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    name: &OsStr,
    depth: usize,
    watch: HashWatch<'_>,
) -> Result<(), CopyError> {
    let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW).map_err(source)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
        let leads_to = readlinkat(from, name, Vec::new()).map_err(source)?;
        return symlinkat(leads_to, to, name).map_err(target);
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let entry = File::from(openat(from, name, flags, Mode::empty()).map_err(source)?);
    copy(&entry, to, name, depth + 1, watch)
}

/// All bytes of a file: shared with it where the file system can do that.
fn contents(mut from: &File, mut to: &File, watch: HashWatch<'_>) -> Result<(), CopyError> {
    match ioctl_ficlone(to, from) {
        Ok(()) => return Ok(()),
        // Not here, or not from there.
        Err(
            Errno::OPNOTSUPP
            | Errno::XDEV
            | Errno::INVAL
            | Errno::NOTTY
            | Errno::NOSYS
            | Errno::PERM
            | Errno::TXTBSY,
        ) => {}
        Err(errno) => return Err(target(errno)),
    }
    loop {
        watch().map_err(source)?;
        // In the kernel, where it can be; then which side failed is told by the error alone.
        let copied = io::copy(&mut io::Read::take(&mut from, BYTES_A_LOOK), &mut to).map_err(blamed)?;
        if copied < BYTES_A_LOOK {
            return Ok(());
        }
    }
}

fn blamed(error: io::Error) -> CopyError {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG | libc::EROFS) => CopyError::Target(error),
        _ => CopyError::Source(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::sys::opened::Opened;
    use crate::sys::tree_hash::to_the_end;

    #[test]
    fn a_copy_has_the_hash_of_what_it_is_of() {
        let root = tempfile::tempdir().unwrap();
        let (from, to) = (root.path().join("from"), root.path().join("to"));
        fs::create_dir_all(from.join("tree/sub/empty")).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("tree/run.sh"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(from.join("tree/run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(from.join("tree/sub/large"), vec![7; (BYTES_A_LOOK + 5) as usize]).unwrap();
        symlink("../run.sh", from.join("tree/sub/link")).unwrap();
        symlink("nowhere", from.join("tree/dangling")).unwrap();
        let (opened, into) = (Opened::dir(&from).unwrap(), Opened::dir(&to).unwrap());
        for name in ["tree", "tree/sub/large", "tree/run.sh"] {
            let what = opened.open(name.as_ref()).unwrap();
            let copy = OsStr::new(name.rsplit('/').next().unwrap());
            copy_into(what.file().unwrap(), into.file().unwrap().as_fd(), copy, &to_the_end).unwrap();
            let made = into.open(copy.as_ref()).unwrap();
            assert_eq!(made.hash(false, &to_the_end).unwrap(), what.hash(false, &to_the_end).unwrap(), "{name}");
        }
        let mode = fs::metadata(to.join("run.sh")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        // Nothing is replaced.
        let what = opened.open("tree".as_ref()).unwrap();
        let again = copy_into(what.file().unwrap(), into.file().unwrap().as_fd(), OsStr::new("tree"), &to_the_end);
        assert!(matches!(again, Err(CopyError::Target(error)) if error.kind() == io::ErrorKind::AlreadyExists));
    }

    #[test]
    fn a_copy_can_be_ended_and_refuses_what_has_no_end() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("tree")).unwrap();
        let made = std::process::Command::new("mkfifo").arg(root.path().join("tree/pipe")).status().unwrap();
        assert!(made.success());
        let opened = Opened::dir(root.path()).unwrap();
        let tree = opened.open("tree".as_ref()).unwrap();
        let into = |name: &str, watch: HashWatch<'_>| {
            copy_into(tree.file().unwrap(), opened.file().unwrap().as_fd(), OsStr::new(name), watch)
        };
        assert!(
            matches!(into("a", &to_the_end), Err(CopyError::Source(error)) if error.kind() == io::ErrorKind::InvalidData)
        );
        assert!(matches!(into("b", &|| Err(io::Error::other("enough"))), Err(CopyError::Source(_))));
    }
}
