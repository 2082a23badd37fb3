//! Permission to read what attempts left, for the user whose it is.
//!
//! A trial may take from its own user what that user needs to read its log or its results. Such files and directories are
//! that user's, so that what they hold need not stay unknown. Only the owner's own bits are ever added, only to what
//! belongs to this process's user, and nothing is reached through a link.

use std::fs::{Permissions, set_permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, openat, statat};
use rustix::process::geteuid;

use super::tree_hash::MAX_DEPTH;

/// What its owner lacks to read it (a directory: to list and to enter it), if that is this process's user.
fn lacks(stat: &Stat) -> u32 {
    let needs = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => 0o500,
        FileType::RegularFile => 0o400,
        _ => 0,
    };
    if stat.st_uid == geteuid().as_raw() { needs & !stat.st_mode } else { 0 }
}

/// Lets its owner read what is open, be it opened as a place alone.
pub(super) fn let_owner_in(opened: BorrowedFd<'_>) -> io::Result<()> {
    let stat = fstat(opened)?;
    match lacks(&stat) {
        0 => Ok(()),
        lacking => {
            let way = format!("/proc/self/fd/{}", opened.as_raw_fd());
            set_permissions(way, Permissions::from_mode(stat.st_mode & 0o7777 | lacking))
        }
    }
}

/// The same for what has this name in a directory, and for that directory.
pub(super) fn let_owner_in_at(dir: BorrowedFd<'_>, name: impl rustix::path::Arg) -> io::Result<()> {
    let_owner_in(dir)?;
    let_owner_in(openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?.as_fd())
}

/// Lets its owner change what is in an open directory, if that is this process's user.
pub(super) fn let_owner_change(dir: BorrowedFd<'_>) -> io::Result<()> {
    let stat = fstat(dir)?;
    let is_own = stat.st_uid == geteuid().as_raw();
    if !is_own || stat.st_mode & 0o700 == 0o700 {
        return Ok(());
    }
    let way = format!("/proc/self/fd/{}", dir.as_raw_fd());
    set_permissions(way, Permissions::from_mode(stat.st_mode & 0o7777 | 0o700))
}

/// The same for a directory of this name in another one.
pub(super) fn let_owner_change_at(dir: BorrowedFd<'_>, name: impl rustix::path::Arg) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let_owner_change(openat(dir, name, flags, Mode::empty())?.as_fd())
}

/// The same for a directory and all that is below it, as far as that is possible.
pub(super) fn let_owner_in_below(dir: BorrowedFd<'_>, depth: usize) -> io::Result<()> {
    let_owner_in(dir)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = openat(dir, ".", flags, Mode::empty())?;
    for entry in Dir::read_from(&dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        // What cannot be opened in the end is an error of the caller that needs it.
        let Ok(stat) = statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        if lacks(&stat) != 0
            && let Err(error) = let_owner_in_at(dir.as_fd(), name)
        {
            log::debug!("`{}` stays closed: {error}", name.to_string_lossy());
        }
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory
            && depth < MAX_DEPTH
            && let Ok(below) = openat(&dir, name, flags, Mode::empty())
        {
            let_owner_in_below(below.as_fd(), depth + 1)?;
        }
    }
    Ok(())
}
