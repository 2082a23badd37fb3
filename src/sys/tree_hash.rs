//! Hashing and syncing what a trial left behind, without trusting any of it.
//!
//! Everything is opened below a directory that is already open, one component at a time, never through a symbolic
//! link, never blocking on a FIFO: a trial may have put anything anywhere, and may still be changing it. Links that
//! stay below that directory are followed by `links::resolve` alone, by their text.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, SeekFrom, fstat, openat, readlinkat, seek, statat};
use rustix::io::{Errno, pread};

use super::hash_cache::Memory;

/// How deep a directory may be: open descriptors grow with it.
pub(super) const MAX_DEPTH: usize = 64;

/// How a file or directory hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeHash {
    /// Bytes of the file, or of all files below the directory.
    pub bytes: u64,
    /// blake3 of the file's bytes; for a directory of its entries in the byte order of their names: for each a line
    /// `<kind> <name's length> <name> <hash of the file, directory or link's target, hex>`, kind being
    /// `f`, `x` (an executable file), `d` or `l`.
    pub blake3: [u8; 32],
}

/// Opens a directory to look below it; a link in its place is refused.
///
/// # Errors
/// What the kernel says.
pub(crate) fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    #[cfg(test)]
    faults::met(path)?;
    Ok(rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// Opens what `path` names below `dir`, for reading. Never leaves `dir`: `..`, absolute paths and symbolic links
/// on the way or at the end are refused. Never blocks.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] for a path that could lead out, otherwise what the kernel says.
pub(crate) fn open_beneath(dir: BorrowedFd<'_>, path: &Path) -> io::Result<File> {
    let mut names: Vec<&OsStr> = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name),
            Component::CurDir => {}
            _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "leads out of the attempt's directory")),
        }
    }
    let last = names.pop().unwrap_or(OsStr::new("."));
    let at = enter(dir, names)?;
    Ok(open_entry(at.as_ref().map_or(dir, AsFd::as_fd), last)?.into())
}

/// The directory these names lead to from `dir`, one after the other and never through a link; `None` for none of them.
pub(super) fn enter<'a>(
    dir: BorrowedFd<'_>,
    names: impl IntoIterator<Item = &'a OsStr>,
) -> io::Result<Option<OwnedFd>> {
    let mut at: Option<OwnedFd> = None;
    for name in names {
        let from = at.as_ref().map_or(dir, AsFd::as_fd);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        at = Some(openat(from, name, flags, Mode::empty())?);
    }
    Ok(at)
}

fn open_entry(dir: BorrowedFd<'_>, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    #[cfg(test)]
    faults::met_below(dir, &name)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    openat(dir, name, flags, Mode::empty())
}

/// What an open file is.
///
/// # Errors
/// What the kernel says.
pub(crate) fn kind_of(file: impl AsFd) -> io::Result<FileType> {
    Ok(FileType::from_raw_mode(fstat(file)?.st_mode))
}

/// Asked now and then while something is hashed; an error ends the hashing, as it is.
pub(crate) type HashWatch<'a> = &'a dyn Fn() -> io::Result<()>;

/// Why a hash is not whole: its watcher ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its hashing was cut off")]
pub(crate) struct CutOff;

/// Whether an error is [`CutOff`].
#[must_use]
pub(crate) fn is_cut_off(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<CutOff>())
}

/// What failed below a directory that is hashed.
#[derive(Debug, thiserror::Error)]
#[error("`{name}` in it: {cause}")]
struct Within {
    name: String,
    cause: io::Error,
}

/// The system's number of an error, also of one of [`hash_tree`] that says where below a directory it was met.
#[must_use]
pub(crate) fn errno_of(error: &io::Error) -> Option<i32> {
    let within = || error.get_ref()?.downcast_ref::<Within>();
    error.raw_os_error().or_else(|| errno_of(&within()?.cause))
}

/// For callers that may be kept waiting, or are ended by a signal.
///
/// # Errors
/// Never.
pub(crate) const fn to_the_end() -> io::Result<()> {
    Ok(())
}

/// Bytes that are hashed between two questions whether to end.
const BYTES_A_LOOK: u64 = 16 << 20;

/// Hashes an opened file or directory (with everything below it), and makes it durable if `sync` is set. `watch` is asked
/// after each so many bytes, and before each file of a directory.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] for what is neither file, directory nor link, or nested too deep; what `watch` says;
/// otherwise what the kernel says.
pub(crate) fn hash_tree(file: File, sync: bool, watch: HashWatch<'_>) -> io::Result<TreeHash> {
    hash_opened(file, &mut Hashing { sync, watch, memory: None }, 0)
}

/// The same, with files that are known and were left alone since not read again. `path` is what it is known by.
///
/// # Errors
/// As for [`hash_tree`].
pub(crate) fn hash_tree_again(
    file: File,
    path: &Path,
    memory: &mut Memory,
    watch: HashWatch<'_>,
) -> io::Result<TreeHash> {
    hash_opened(file, &mut Hashing { sync: false, watch, memory: Some((memory, path.to_owned())) }, 0)
}

/// How something is hashed.
struct Hashing<'a> {
    sync: bool,
    watch: HashWatch<'a>,
    /// What is known of files, and where this one is.
    memory: Option<(&'a mut Memory, PathBuf)>,
}

fn hash_opened(file: File, hashing: &mut Hashing<'_>, depth: usize) -> io::Result<TreeHash> {
    match kind_of(&file)? {
        FileType::RegularFile => hash_file(&file, hashing),
        FileType::Directory if depth < MAX_DEPTH => hash_dir(&file, hashing, depth),
        FileType::Directory => Err(io::Error::new(io::ErrorKind::InvalidData, "is nested too deep")),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "is neither a file nor a directory")),
    }
}

/// Hashes all bytes of a file. Holes are not read; they count as the zeros they are, so they cost their hashing.
///
/// # Errors
/// What `watch` says; otherwise what the kernel says.
pub(crate) fn hash_bytes(file: &File, watch: HashWatch<'_>) -> io::Result<blake3::Hasher> {
    const ZEROS: &[u8] = &[0; 128 * 1024];
    let mut hasher = blake3::Hasher::new();
    let mut next_look = BYTES_A_LOOK;
    let mut look = |at: u64| -> io::Result<()> {
        if at >= next_look {
            next_look = at.saturating_add(BYTES_A_LOOK);
            watch()?;
        }
        Ok(())
    };
    let stat = fstat(file)?;
    let mut buffer = vec![0_u8; usize::try_from(stat.st_size).unwrap_or(ZEROS.len()).clamp(4_096, ZEROS.len())];
    // A file without holes is not asked for them.
    let has_holes = stat.st_blocks.saturating_mul(512) < stat.st_size;
    let mut at = 0_u64;
    loop {
        // Up to here there is a hole. A file system that knows of none says so by naming the place itself.
        let data = match has_holes.then(|| seek(file, SeekFrom::Data(at))) {
            None => at,
            Some(Ok(data)) => data.max(at),
            // Nothing but a hole to the end.
            Some(Err(Errno::NXIO)) => u64::try_from(fstat(file)?.st_size).unwrap_or(0).max(at),
            Some(Err(_)) => at,
        };
        while at < data {
            let count = usize::try_from(data - at).unwrap_or(usize::MAX).min(ZEROS.len());
            hasher.update(ZEROS.get(..count).unwrap_or_default());
            at += count as u64;
            look(at)?;
        }
        let hole = if has_holes { seek(file, SeekFrom::Hole(at)).ok() } else { None };
        let hole = hole.filter(|hole| *hole > at).unwrap_or(u64::MAX);
        while at < hole {
            let most = usize::try_from(hole - at).unwrap_or(usize::MAX).min(buffer.len());
            let part = buffer.get_mut(..most).unwrap_or_default();
            match pread(file, part, at) {
                Ok(0) => return Ok(hasher),
                Ok(count) => {
                    hasher.update(buffer.get(..count).unwrap_or_default());
                    at += count as u64;
                    look(at)?;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

fn hash_file(file: &File, hashing: &mut Hashing<'_>) -> io::Result<TreeHash> {
    if let Some((memory, path)) = &mut hashing.memory {
        let (bytes, hash) = memory.hash_opened(path, file, hashing.watch)?;
        return Ok(TreeHash { bytes, blake3: *hash.as_bytes() });
    }
    let hasher = hash_bytes(file, hashing.watch)?;
    if hashing.sync {
        file.sync_all()?;
    }
    Ok(TreeHash { bytes: hasher.count(), blake3: *hasher.finalize().as_bytes() })
}

fn hash_dir(dir: &File, hashing: &mut Hashing<'_>, depth: usize) -> io::Result<TreeHash> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let name = entry?.file_name().to_owned();
        if !matches!(name.as_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    names.sort();
    let mut hasher = blake3::Hasher::new();
    let mut bytes = 0_u64;
    for name in names {
        (hashing.watch)()?;
        let stat = statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        let (kind, hash) = if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
            let target = readlinkat(dir, &name, Vec::new())?;
            (b'l', *blake3::hash(target.as_bytes()).as_bytes())
        } else {
            let child = open_entry(dir.as_fd(), &name).map_err(io::Error::from);
            if let Some((_, path)) = &mut hashing.memory {
                path.push(OsStr::from_bytes(name.as_bytes()));
            }
            let child = child.and_then(|child| hash_opened(child.into(), hashing, depth + 1));
            if let Some((_, path)) = &mut hashing.memory {
                path.pop();
            }
            let child = child.map_err(|cause| match is_cut_off(&cause) {
                true => cause,
                false => {
                    let name = name.to_string_lossy().into_owned();
                    io::Error::new(cause.kind(), Within { name, cause })
                }
            })?;
            bytes = bytes.saturating_add(child.bytes);
            let kind = match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => b'd',
                _ if stat.st_mode & 0o111 != 0 => b'x',
                _ => b'f',
            };
            (kind, child.blake3)
        };
        hasher.update(&[kind, b' ']);
        hasher.update(format!("{} ", name.as_bytes().len()).as_bytes());
        hasher.update(name.as_bytes());
        hasher.update(format!(" {}\n", blake3::Hash::from_bytes(hash).to_hex()).as_bytes());
    }
    if hashing.sync {
        dir.sync_all()?;
    }
    Ok(TreeHash { bytes, blake3: *hasher.finalize().as_bytes() })
}

/// Files that the machine does not open in a test.
#[cfg(test)]
pub(crate) mod faults {
    use std::os::fd::AsRawFd;
    use std::path::PathBuf;
    use std::sync::{Mutex, PoisonError};

    use super::*;

    static CLOSED: Mutex<Vec<(PathBuf, Errno)>> = Mutex::new(Vec::new());

    /// From now on this path, which no other test has, cannot be opened.
    pub(crate) fn close(path: PathBuf, errno: Errno) {
        CLOSED.lock().unwrap_or_else(PoisonError::into_inner).push((path, errno));
    }

    pub(super) fn met(path: &Path) -> Result<(), Errno> {
        let closed = CLOSED.lock().unwrap_or_else(PoisonError::into_inner);
        closed.iter().find(|(at, _)| at == path).map_or(Ok(()), |(_, errno)| Err(*errno))
    }

    pub(super) fn met_below(dir: BorrowedFd<'_>, name: &impl rustix::path::Arg) -> Result<(), Errno> {
        let dir = std::fs::read_link(format!("/proc/self/fd/{}", dir.as_raw_fd()));
        let name = name.to_string_lossy();
        dir.map_or(Ok(()), |dir| met(&if name == "." { dir } else { dir.join(&*name) }))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn hash_at(root: &Path, name: &str) -> io::Result<TreeHash> {
        hash_tree(open_beneath(open_dir(root)?.as_fd(), Path::new(name))?, true, &to_the_end)
    }

    #[test]
    fn a_file_hashes_to_the_blake3_of_its_bytes() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("empty"), b"").unwrap();
        let hash = hash_at(dir.path(), "empty").unwrap();
        assert_eq!(hash.bytes, 0);
        assert_eq!(
            blake3::Hash::from_bytes(hash.blake3).to_hex().as_str(),
            "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
        );
    }

    #[test]
    fn a_directory_hashes_by_names_kinds_and_contents() {
        let dir = tempfile::tempdir().unwrap();
        for (root, text) in [("a", "1"), ("b", "1"), ("c", "2")] {
            fs::create_dir_all(dir.path().join(root).join("sub")).unwrap();
            fs::write(dir.path().join(root).join("sub/file"), text).unwrap();
            symlink("nowhere", dir.path().join(root).join("link")).unwrap();
        }
        let [a, b, c] = ["a", "b", "c"].map(|root| hash_at(dir.path(), root).unwrap());
        assert_eq!((a, a.bytes), (b, 1));
        assert_ne!(a.blake3, c.blake3);
        // By hand, from the definition.
        let file = blake3::hash(b"1").to_hex();
        let sub = blake3::hash(format!("f 4 file {file}\n").as_bytes()).to_hex();
        let link = blake3::hash(b"nowhere").to_hex();
        let expected = blake3::hash(format!("l 4 link {link}\nd 3 sub {sub}\n").as_bytes());
        assert_eq!(a.blake3, *expected.as_bytes());
    }

    #[test]
    fn an_error_deep_in_a_directory_keeps_its_number() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        rustix::net::bind(
            rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM, None).unwrap(),
            &rustix::net::SocketAddrUnix::new(dir.path().join("a/b/socket")).unwrap(),
        )
        .unwrap();
        let error = hash_at(dir.path(), "a").unwrap_err();
        assert_eq!(errno_of(&error), Some(libc::ENXIO));
        assert!(error.to_string().starts_with("`b` in it: `socket` in it: "), "{error}");
        assert_eq!(errno_of(&io::Error::other("x")), None);
    }

    #[test]
    fn nothing_leads_out_and_nothing_blocks() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("in");
        fs::create_dir(&inner).unwrap();
        fs::write(dir.path().join("secret"), b"x").unwrap();
        symlink("../secret", inner.join("file")).unwrap();
        symlink("..", inner.join("up")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, inner.join("fifo"), Mode::RUSR).unwrap();
        for bad in ["file", "up/secret", "../secret", "/etc/passwd", "fifo", "missing", "up"] {
            assert!(hash_at(&inner, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn holes_count_as_the_zeros_they_are() {
        use std::os::unix::fs::FileExt;
        let dir = tempfile::tempdir().unwrap();
        for (name, parts, length) in [
            ("inner", &[(0_u64, 7_u8), (3 << 20, 8)][..], (3 << 20) + 1),
            ("ends", &[(1 << 20, 9)], 5 << 20),
            ("nothing", &[], 1 << 20),
            ("data", &[(0, 1), (1, 2), (2, 3)], 3),
        ] {
            let file = File::create_new(dir.path().join(name)).unwrap();
            file.set_len(length).unwrap();
            parts.iter().for_each(|(at, byte)| file.write_all_at(&[*byte], *at).unwrap());
            let hash = hash_at(dir.path(), name).unwrap();
            let bytes = fs::read(dir.path().join(name)).unwrap();
            assert_eq!((hash.bytes, hash.blake3), (length, *blake3::hash(&bytes).as_bytes()), "{name}");
        }
    }

    #[test]
    fn hashing_ends_when_it_is_told_to() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("in")).unwrap();
        // A terabyte of nothing.
        File::create(dir.path().join("in/huge")).unwrap().set_len(1 << 40).unwrap();
        for name in ["in/huge", "in"] {
            let file = open_beneath(open_dir(dir.path()).unwrap().as_fd(), Path::new(name)).unwrap();
            let looks = std::cell::Cell::new(0);
            let watch = || {
                looks.set(looks.get() + 1);
                if looks.get() > 2 { Err(io::Error::other(CutOff)) } else { Ok(()) }
            };
            assert!(is_cut_off(&hash_tree(file, false, &watch).unwrap_err()), "{name}");
            assert_eq!(looks.get(), 3);
        }
    }
}
