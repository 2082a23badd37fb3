//! Links that a trial left, followed by their text as long as they stay below its directory.
//!
//! What is found is opened without links afterwards (see [`open_beneath`](super::tree_hash::open_beneath)): nothing here may
//! be the only reason that nothing leads out.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{fstat, readlinkat, stat};
use rustix::io::Errno;

use super::files::MAX_LINKS;
use super::tree_hash::enter;

/// What `path` really names below `dir`, without links, and the directories whose entries lead there, those of links
/// included. A link may lead anywhere below `dir`, by a relative path or by an absolute one to the same directory.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] for a way that leaves `dir`, in words; otherwise what the kernel says. What it names
/// need not be there.
pub(super) fn resolve(dir: BorrowedFd<'_>, path: &Path) -> io::Result<(PathBuf, Vec<PathBuf>)> {
    let leaves = |words: String| io::Error::new(io::ErrorKind::InvalidInput, words);
    // What is left to go, the next name last.
    let mut left: Vec<PathBuf> = parts(path);
    let (mut real, mut dirs, mut links) = (PathBuf::new(), Vec::new(), 0);
    while let Some(part) = left.pop() {
        match part.components().next() {
            Some(Component::ParentDir) => {
                if !real.pop() {
                    return Err(leaves("leads out of the attempt's directory".to_owned()));
                }
                continue;
            }
            Some(Component::Normal(_)) => {}
            Some(Component::CurDir) | None => continue,
            Some(_) => return Err(leaves("leads out of the attempt's directory".to_owned())),
        }
        let next = real.join(&part);
        // Strictly: each directory before it was seen to be no link.
        let above = enter(dir, real.iter())?;
        let target = match readlinkat(above.as_ref().map_or(dir, AsFd::as_fd), &part, Vec::new()) {
            Ok(target) => PathBuf::from(OsStr::from_bytes(target.as_bytes())),
            // No link.
            Err(Errno::INVAL) => {
                if !left.is_empty() {
                    dirs.push(next.clone());
                }
                real = next;
                continue;
            }
            Err(errno) => return Err(errno.into()),
        };
        links += 1;
        if links > MAX_LINKS {
            return Err(Errno::LOOP.into());
        }
        if !real.as_os_str().is_empty() {
            dirs.push(real.clone());
        }
        let shown = target.display().to_string();
        let (from, target) = match target.is_absolute() {
            true => match below(dir, &target)? {
                Some(below) => (PathBuf::new(), below),
                None => {
                    return Err(leaves(format!(
                        "is a symbolic link out of the attempt's directory, to `{shown}`"
                    )));
                }
            },
            false => match staying(dir, real, &target)? {
                Some(stays) => stays,
                None => {
                    return Err(leaves(format!(
                        "is a symbolic link out of the attempt's directory, to `{shown}`"
                    )));
                }
            },
        };
        // From where the link lies.
        real = from;
        left.extend(parts(&target));
    }
    dirs.sort_by_key(|dir: &PathBuf| std::cmp::Reverse(dir.components().count()));
    dirs.dedup();
    Ok((if real.as_os_str().is_empty() { ".".into() } else { real }, dirs))
}

/// Where a relative path from `real` below `dir` begins, and how it goes on from there, if it stays below `dir`. It may climb
/// above it as long as it comes back by the directory's own name.
fn staying(dir: BorrowedFd<'_>, real: PathBuf, path: &Path) -> io::Result<Option<(PathBuf, PathBuf)>> {
    let (mut from, mut rest) = (real, PathBuf::new());
    let mut deep = from.components().count();
    let mut outside: Option<PathBuf> = None;
    for part in path.components() {
        match (&mut outside, part) {
            (Some(at), Component::ParentDir) => drop(at.pop()),
            (Some(at), Component::Normal(name)) => {
                at.push(name);
                if leads_to(dir, at)? {
                    (outside, from, rest, deep) = (None, PathBuf::new(), PathBuf::new(), 0);
                } else if at.is_symlink() {
                    return Ok(None);
                }
            }
            (None, Component::ParentDir) if deep == 0 => {
                let own = std::fs::read_link(format!("/proc/self/fd/{}", dir.as_raw_fd()))?;
                outside = own.parent().map(Path::to_path_buf);
            }
            (None, Component::ParentDir) => {
                deep -= 1;
                rest.push("..");
            }
            (None, Component::Normal(name)) => {
                deep += 1;
                rest.push(name);
            }
            _ => {}
        }
    }
    Ok(outside.is_none().then_some((from, rest)))
}

/// The names of a path, the first one last.
fn parts(path: &Path) -> Vec<PathBuf> {
    path.components().rev().map(|part| part.as_os_str().into()).collect()
}

/// The rest of an absolute path below `dir`, if it leads there.
fn below(dir: BorrowedFd<'_>, path: &Path) -> io::Result<Option<PathBuf>> {
    let mut above = None;
    for ancestor in path.ancestors() {
        if leads_to(dir, ancestor)? {
            above = Some(ancestor);
            break;
        }
    }
    Ok(above.and_then(|above| path.strip_prefix(above).ok()).map(Path::to_path_buf))
}

/// Whether a path leads to an open directory.
fn leads_to(dir: BorrowedFd<'_>, path: &Path) -> io::Result<bool> {
    let own = fstat(dir)?;
    Ok(stat(path).is_ok_and(|at| (at.st_dev, at.st_ino) == (own.st_dev, own.st_ino)))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::sys::tree_hash::open_dir;

    #[test]
    fn links_are_followed_as_long_as_they_stay() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("own");
        fs::create_dir_all(own.join("a/b")).unwrap();
        fs::write(own.join("a/b/file"), b"x").unwrap();
        fs::write(dir.path().join("secret"), b"y").unwrap();
        let far = own.join("a/b");
        let links: [(&str, &Path); 13] = [
            ("again", Path::new("../own/a/b/file")),
            ("a/again", Path::new("b/../../../own/./a/back/file")),
            ("twice", Path::new("../own/../own/dir/file")),
            ("beyond", Path::new("../own/../secret")),
            ("over", Path::new("../over/own/a/b/file")),
            ("near", Path::new("a/b/file")),
            ("dir", Path::new("a/../a/b")),
            ("chain", Path::new("dir/file")),
            ("a/back", Path::new("../dir")),
            ("far", &far),
            ("circle", Path::new("circle")),
            ("out", Path::new("../secret")),
            ("away", Path::new("/etc")),
        ];
        links.iter().for_each(|(name, target)| symlink(target, own.join(name)).unwrap());
        let opened = open_dir(&own).unwrap();
        let find = |name: &str| {
            resolve(opened.as_fd(), Path::new(name)).map(|(real, way)| {
                let way: Vec<_> = way.iter().map(|dir| dir.display().to_string()).collect();
                (real.display().to_string(), way.join(" "))
            })
        };
        let found = |real: &str, way: &str| (real.to_owned(), way.to_owned());
        assert_eq!(find("a/b/file").unwrap(), found("a/b/file", "a/b a"));
        assert_eq!(find("near").unwrap(), found("a/b/file", "a/b a"));
        assert_eq!(find("dir").unwrap(), found("a/b", "a"));
        assert_eq!(find("chain").unwrap(), found("a/b/file", "a/b a"));
        assert_eq!(find("a/back/file").unwrap().0, "a/b/file");
        assert_eq!(find("far/file").unwrap().0, "a/b/file");
        for name in ["again", "a/again", "twice"] {
            assert_eq!(find(name).unwrap().0, "a/b/file", "{name}");
        }
        symlink(dir.path(), dir.path().join("over")).unwrap();
        assert_eq!(find(".").unwrap(), found(".", ""));
        assert_eq!(find("circle").unwrap_err().raw_os_error(), Some(libc::ELOOP));
        assert_eq!(find("gone").unwrap_err().kind(), io::ErrorKind::NotFound);
        for name in [
            "out",
            "beyond",
            "over",
            "away/passwd",
            "../secret",
            "/etc/passwd",
            "a/../../secret",
            "a/back/../../../secret",
        ] {
            assert_eq!(find(name).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{name}");
        }
    }
}
