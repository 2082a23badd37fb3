//! Files of the study's artifacts, for whoever may see the page: regular files below that directory and nothing else.
//!
//! A trial may have put anything there. Whatever it is, a browser gets it as plain text that may do nothing.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use percent_encoding::percent_decode_str;
use piton::sys::tree_hash::{kind_of, open_beneath, open_dir};
use rustix::fs::FileType;

use super::http::Head;

/// The path that an address names below the artifacts; `None` for one that no link of the page leads to.
pub fn path_of(address: &str) -> Option<PathBuf> {
    let mut path = PathBuf::new();
    for part in address.split('/') {
        let name = percent_decode_str(part).decode_utf8().ok()?;
        if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
            return None;
        }
        path.push(name.as_ref());
    }
    Some(path)
}

/// Opens a regular file below `artifacts`, following no link.
///
/// # Errors
/// What the kernel says; [`io::ErrorKind::InvalidData`] for what is no regular file.
pub fn open(artifacts: &Path, path: &Path) -> io::Result<File> {
    let file = open_beneath(open_dir(artifacts)?.as_fd(), path)?;
    match kind_of(&file)? {
        FileType::RegularFile => Ok(file),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Sends as much of it as it has now.
pub fn send(file: File, head_only: bool, out: &mut impl Write) -> io::Result<()> {
    let length = file.metadata()?.len();
    let head = Head { length: Some(length), ..Head::text(200) };
    head.send(out)?;
    if !head_only {
        // A file that shrinks meanwhile ends the connection early, which tells.
        io::copy(&mut file.take(length), out)?;
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_address_leads_out() {
        assert_eq!(path_of("0_s/case%20x/attempt_1/stdout.log"), Some("0_s/case x/attempt_1/stdout.log".into()));
        for bad in ["", "..", "a/../b", "a//b", "%2e%2e/x", "a%2fb", "a/%00", "/etc/passwd", "a/", "%ff", "./a"] {
            assert_eq!(path_of(bad), None, "{bad}");
        }
    }

    #[test]
    fn links_and_what_is_no_file_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let artifacts = dir.path().join("artifacts");
        std::fs::create_dir_all(artifacts.join("sub")).unwrap();
        std::fs::write(dir.path().join("secret"), "s").unwrap();
        std::fs::write(artifacts.join("sub/log"), "l").unwrap();
        std::os::unix::fs::symlink(dir.path(), artifacts.join("out")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("secret"), artifacts.join("link")).unwrap();
        for bad in ["out/secret", "link", "sub", "none"] {
            assert!(open(&artifacts, Path::new(bad)).is_err(), "{bad}");
        }
        assert!(open(&artifacts, Path::new("sub/log")).is_ok());
    }
}
