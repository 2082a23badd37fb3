//! Durable files: old or new, never torn.
//!
//! A file is replaced by write, fsync, rename, fsync of the directory, in this order and always all of it. Nothing
//! here may report success before the data would survive a power cut.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::disk;
use super::opened::Opened;

/// What the temporary files of [`replace_atomically`] end in. One that is left over after a crash is harmless.
pub const TEMP_SUFFIX: &str = ".piton-tmp";

/// Replaces a file's contents, or makes it. After `Ok` the new contents survive a power cut; after an error the old
/// contents are there, whole (or, if only the last step failed, the new ones).
///
/// # Errors
/// Whatever `write` or the file system says; the temporary file is removed.
pub fn replace_atomically(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let Some(name) = path.file_name() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("`{}` names no file", path.display())));
    };
    if planted!(ExportInPlace) {
        return disk::write_file(path, true, write);
    }
    let mut temp_name = std::ffi::OsString::from(".");
    temp_name.push(name);
    temp_name.push(format!(".{}-{}{TEMP_SUFFIX}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    let temp = path.with_file_name(temp_name);
    let sync = !planted!(ExportNotSynced);
    let done = disk::write_file(&temp, sync, write).and_then(|()| disk::rename(&temp, path));
    if let Err(error) = done {
        // The first error is the one to tell; a leftover is harmless.
        let _ = disk::remove_file(&temp);
        return Err(error);
    }
    sync_entry(path)
}

/// Removes what crashed calls of [`replace_atomically`] left in `dir`: temporary files of this process, and of processes
/// that are gone. How many.
///
/// # Errors
/// If the directory cannot be listed. A leftover that cannot be removed stays: it is harmless.
pub fn remove_leftover_temps(dir: &Path) -> io::Result<usize> {
    let mut removed = 0;
    for name in disk::names(dir)? {
        let abandoned = name
            .to_str()
            .and_then(temp_owner)
            .is_some_and(|pid| pid == std::process::id() || !Path::new("/proc").join(pid.to_string()).exists());
        if abandoned && disk::remove_file(&dir.join(&name)).is_ok() {
            removed += 1;
        }
    }
    Ok(removed)
}

/// The process that made a temporary file of [`replace_atomically`], by its name `.<name>.<pid>-<number><suffix>`.
fn temp_owner(name: &str) -> Option<u32> {
    let (_, owner) = name.strip_prefix('.')?.strip_suffix(TEMP_SUFFIX)?.rsplit_once('.')?;
    owner.split_once('-')?.0.parse().ok()
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
            if !planted!(DirectoriesNotDurable) && !is_top(ancestor) {
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
        if !planted!(DirectoriesNotDurable) {
            sync_entry(made)?;
        }
    }
    Ok(())
}

/// Whether a directory is the top of a file system, or a link to wherever: then it is no entry that anybody made just now.
fn is_top(dir: &Path) -> bool {
    // For artifacts beside the store, syncing here does what the store's own creation does.
    simulated!(|_machine| dir.parent().is_none() || planted!(DirectoryNotSynced));
    let device =
        |path: &Path| path.symlink_metadata().ok().filter(std::fs::Metadata::is_dir).map(|meta| meta.dev());
    let own = device(dir);
    dir.parent().is_none() || own.is_none() || own != parent_of(dir).metadata().ok().map(|meta| meta.dev())
}

/// The directory a path lies in; the current one for a bare name.
fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => path,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn replaces_and_leaves_nothing_beside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("view.json");
        replace_atomically(&path, |out| out.write_all(b"one")).unwrap();
        replace_atomically(&path, |out| out.write_all(b"two")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(names(dir.path()), ["view.json"]);
    }

    #[test]
    fn a_failed_write_keeps_the_old_contents_and_no_temp() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("view.json");
        fs::write(&path, b"old").unwrap();
        let failed = replace_atomically(&path, |out| {
            out.write_all(b"half")?;
            Err(io::Error::from(io::ErrorKind::StorageFull))
        });
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(dir.path()), ["view.json"]);
    }

    #[test]
    fn leftovers_are_recognised_and_others_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        // Beyond the largest pid there can be; this process; one that lives for ever.
        let ours = format!(".view.json.{}-0.piton-tmp", std::process::id());
        for name in [".view.json.4194305-0.piton-tmp", &ours, ".view.json.1-0.piton-tmp", "mine.piton-tmp"] {
            fs::write(dir.path().join(name), b"").unwrap();
        }
        assert_eq!(remove_leftover_temps(dir.path()).unwrap(), 2);
        assert_eq!(names(dir.path()), [".view.json.1-0.piton-tmp", "mine.piton-tmp"]);
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
