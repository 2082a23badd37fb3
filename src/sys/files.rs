//! Durable files: old or new, never torn.
//!
//! A file is replaced by write, fsync, rename, fsync of the directory, in this order and always all of it. Nothing
//! here may report success before the data would survive a power cut.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::disk;
use super::opened::Opened;
use super::temporary::{Access, Temporary, parent_of};

/// Replaces a file's contents, or makes it. After `Ok` the new contents survive a power cut; after an error the old
/// contents are there, whole (or, if only the last step failed, the new ones).
///
/// # Errors
/// Whatever `write` or the file system says; the temporary file is removed.
pub fn replace_atomically(
    path: &Path,
    access: Access,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    if injected_fault!(ExportInPlace) {
        return Temporary::in_place(path, false)?.write(true, write);
    }
    let temporary = Temporary::beside(path, access)?;
    temporary.write(!injected_fault!(ExportNotSynced), write)?;
    temporary.replace()?;
    sync_entry(path)
}

/// Links that are followed on one way, at most: as the kernel has it.
pub(super) const MAX_LINKS: usize = 40;

/// Writes a file that a person named. A link there is that person's and stays: what it leads to is replaced, as in
/// [`replace_atomically`]. What is no regular file (a pipe, a device) is written to, and stays what it is. A store is never
/// replaced: nothing that is written so could be worth it.
///
/// # Errors
/// As for [`replace_atomically`].
pub fn replace_asked(
    path: &Path,
    access: Access,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    simulated!(|_machine| replace_atomically(path, access, write));
    // The kernel follows the links first: it refuses those that others planted in a directory that all may write to.
    match path.metadata() {
        Ok(meta) if !meta.is_file() => {
            let file = File::options().write(true).custom_flags(libc::O_NOCTTY).open(path)?;
            let mut out = io::BufWriter::new(file);
            write(&mut out)?;
            return out.flush();
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(_) if is_store(path).unwrap_or_default() => {
            return Err(io::Error::other("it is a store, and stays one"));
        }
        _ => {}
    }
    let mut target = path.to_path_buf();
    for _ in 0..MAX_LINKS {
        match std::fs::read_link(&target) {
            Ok(next) => target = parent_of(&target).join(next),
            Err(_) => return replace_atomically(&target, access, write),
        }
    }
    Err(Errno::LOOP.into())
}

/// How a redb file begins.
const STORE_MAGIC: &[u8] = b"redb";

/// Whether a file is a store, by its first bytes. What is no regular file is none, and nothing of it is read.
///
/// # Errors
/// Whatever reading it fails with.
pub fn is_store(path: &Path) -> io::Result<bool> {
    if !path.is_file() {
        return Ok(false);
    }
    let mut head = Vec::new();
    File::open(path)?.take(STORE_MAGIC.len() as u64).read_to_end(&mut head)?;
    Ok(head == STORE_MAGIC)
}

/// Whether two paths lead to the same file; one that leads to none is not.
#[must_use]
pub fn is_same(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| path.metadata().ok().map(|meta| (meta.dev(), meta.ino()));
    identity(one).is_some_and(|one| Some(one) == identity(other))
}

/// Asks the kernel to begin writing what is dirty of a file, without waiting: a hint that makes a sync of many files
/// cheaper, and promises nothing.
pub fn start_writeback(file: &File) {
    // SAFETY: the descriptor is open as long as `file` is borrowed; the call takes no pointer.
    unsafe {
        libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE);
    }
}

/// Makes the entry that leads to `path` durable. Where its directory cannot be synced for want of permission, all of the
/// file system is.
///
/// # Errors
/// Whatever the file system says; what it cannot do at all is said so.
pub fn sync_entry(path: &Path) -> io::Result<()> {
    let parent = parent_of(path);
    simulated!(|machine| machine.sync(parent));
    let dir = Opened::dir(parent)?;
    if !dir.is_only_entered() {
        return dir.sync();
    }
    let child = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    Ok(rustix::fs::syncfs(child)?)
}

/// `create_dir_all`, and every directory made is there after a power cut. So is the one that they are made in: whoever made
/// it may have died before its entry was durable.
///
/// # Errors
/// Whatever the file system says.
pub fn create_dir_all_durable(dir: &Path) -> io::Result<()> {
    let mut missing: Vec<PathBuf> = Vec::new();
    for ancestor in dir.ancestors() {
        if ancestor.as_os_str().is_empty() {
            break;
        }
        if disk::is_dir(ancestor) {
            if !injected_fault!(DirectoriesNotDurable) && !is_top(ancestor) {
                sync_entry(ancestor)?;
            }
            break;
        }
        missing.push(ancestor.to_path_buf());
    }
    for made in missing.iter().rev() {
        match disk::create_dir(made) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && disk::is_dir(made) => {}
            Err(error) => return Err(error),
        }
        if !injected_fault!(DirectoriesNotDurable) {
            sync_entry(made)?;
        }
    }
    Ok(())
}

/// Whether a directory is the top of a file system, or a link to wherever: then it is no entry that anybody made just now.
fn is_top(dir: &Path) -> bool {
    // For artifacts beside the store, syncing here does what the store's own creation does.
    simulated!(|_machine| dir.parent().is_none() || injected_fault!(DirectoryNotSynced));
    let device =
        |path: &Path| path.symlink_metadata().ok().filter(std::fs::Metadata::is_dir).map(|meta| meta.dev());
    let own = device(dir);
    dir.parent().is_none() || own.is_none() || own != parent_of(dir).metadata().ok().map(|meta| meta.dev())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::disk::names_in;
    use super::*;

    #[test]
    fn replaces_and_leaves_nothing_beside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("view.json");
        replace_atomically(&path, Access::Usual, |out| out.write_all(b"one")).unwrap();
        replace_atomically(&path, Access::Usual, |out| out.write_all(b"two")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(names_in(dir.path()), ["view.json"]);
    }

    #[test]
    fn a_failed_write_keeps_the_old_contents_and_no_temp() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("view.json");
        fs::write(&path, b"old").unwrap();
        let failed = replace_atomically(&path, Access::Usual, |out| {
            out.write_all(b"half")?;
            Err(io::Error::from(io::ErrorKind::StorageFull))
        });
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names_in(dir.path()), ["view.json"]);
    }

    #[test]
    fn what_was_asked_for_goes_where_its_name_leads() {
        use std::io::Read;
        use std::os::unix::fs::{FileTypeExt, symlink};
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let put = |name: &str, text: &'static str| {
            replace_asked(&at(name), Access::Usual, |out| out.write_all(text.as_bytes()))
        };
        fs::create_dir(at("there")).unwrap();
        fs::write(at("there/old"), b"old").unwrap();
        // Relative, of a link, to what is there and to what is not.
        for (link, target) in [("l", "there/old"), ("ll", "l"), ("new", "there/new")] {
            symlink(target, at(link)).unwrap();
            put(link, "text").unwrap();
            assert_eq!(fs::read_link(at(link)).unwrap(), Path::new(target));
            assert_eq!(fs::read(at(link)).unwrap(), b"text");
            fs::write(at(link), b"old").unwrap();
        }
        assert_eq!(names_in(&at("there")), ["new", "old"]);
        symlink("circle", at("circle")).unwrap();
        assert_eq!(put("circle", "x").unwrap_err().raw_os_error(), Some(libc::ELOOP));
        assert!(put("there", "x").is_err() && at("there").is_dir());
        // A pipe with a reader, by its name and by a descriptor's.
        rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe"), rustix::fs::Mode::RWXU).unwrap();
        symlink("pipe", at("to_pipe")).unwrap();
        let pipe = File::options().read(true).write(true).open(at("pipe")).unwrap();
        symlink(format!("/proc/self/fd/{}", pipe.as_raw_fd()), at("fd")).unwrap();
        for name in ["pipe", "to_pipe", "fd"] {
            put(name, "text").unwrap();
            let mut read = [0; 4];
            (&pipe).read_exact(&mut read).unwrap();
            assert_eq!(&read, b"text");
        }
        assert!(at("pipe").symlink_metadata().unwrap().file_type().is_fifo());
        // What could not be written is an error, though it was only kept to be written in the end.
        drop(pipe);
        let reader =
            rustix::fs::open(at("pipe"), rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK, 0.into());
        let failed = replace_asked(&at("pipe"), Access::Usual, |out| {
            drop(reader);
            out.write_all(b"text")
        });
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn makes_directories_however_many_are_missing() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        create_dir_all_durable(&deep).unwrap();
        create_dir_all_durable(&deep).unwrap();
        assert!(deep.is_dir());
        fs::write(dir.path().join("file"), b"").unwrap();
        assert!(create_dir_all_durable(&dir.path().join("file/x")).is_err());
    }
}
