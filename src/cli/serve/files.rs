//! Files of the study's artifacts, for those who may see the page: regular files below that directory and nothing else. The
//! directory has to be this very study's by its own word, since a store can name any; and what piton itself keeps in it
//! (exports, control files) is not shown, for the study's environment is in some of that: only what lies below a stage is.
//!
//! A trial may have put anything there. Whatever it is, a browser gets it as plain text that may do nothing.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use percent_encoding::percent_decode_str;
use piton::model::StudyId;
use piton::program::sys::opened::Opened;
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
        // Of piton's own, not of a trial.
        if path.as_os_str().is_empty() && name.starts_with('.') {
            return None;
        }
        path.push(name.as_ref());
    }
    (path.components().count() > 1).then_some(path)
}

/// Opens a regular file below the artifacts of a study, following no link below them.
///
/// # Errors
/// What the kernel says; [`io::ErrorKind::InvalidData`] for what is no regular file, and
/// [`io::ErrorKind::PermissionDenied`] for a directory that is not the study's.
pub fn open(artifacts: &Path, study: StudyId, path: &Path) -> io::Result<File> {
    let dir = Opened::dir(artifacts)?;
    if !piton::is_of_study(dir.file()?.as_fd(), study) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let opened = dir.open(path)?;
    match opened.kind()? {
        FileType::RegularFile => opened.file()?.try_clone(),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Sends as much of it as it has now.
pub fn send(file: File, head_only: bool, out: &mut impl Write) -> io::Result<()> {
    let length = file.metadata()?.len();
    let head = Head { length: Some(length), ..Head::text(200) };
    head.send(out)?;
    if !head_only {
        // What is added meanwhile is not sent. A file that shrinks meanwhile ends the connection early, which the client notices.
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
        for bad in [
            "",
            "..",
            "a/../b",
            "a//b",
            "%2e%2e/x",
            "a%2fb",
            "a/%00",
            "/etc/passwd",
            "a/",
            "%ff",
            "./a",
            ".remote/x/job.json",
            "%2eremote/x",
            ".piton-study.json",
        ] {
            assert_eq!(path_of(bad), None, "{bad}");
        }
    }

    const STUDY: StudyId = StudyId([7; 16]);

    fn claim(dir: &Path, study: StudyId) {
        let words = format!("{{\"study_id\": \"{study}\", \"store\": \"s.redb\"}}");
        std::fs::write(dir.join(".piton-study.json"), words).unwrap();
    }

    #[test]
    fn links_and_what_is_no_file_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let artifacts = dir.path().join("artifacts");
        std::fs::create_dir_all(artifacts.join("sub")).unwrap();
        claim(&artifacts, STUDY);
        std::fs::write(dir.path().join("secret"), "s").unwrap();
        std::fs::write(artifacts.join("sub/log"), "l").unwrap();
        std::os::unix::fs::symlink(dir.path(), artifacts.join("out")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("secret"), artifacts.join("link")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, artifacts.join("fifo"), rustix::fs::Mode::RUSR).unwrap();
        for bad in ["out/secret", "link", "sub", "none", "fifo"] {
            assert!(open(&artifacts, STUDY, Path::new(bad)).is_err(), "{bad}");
        }
        assert!(open(&artifacts, STUDY, Path::new("sub/log")).is_ok());
        // What leads to them is the user's.
        std::os::unix::fs::symlink(&artifacts, dir.path().join("through")).unwrap();
        assert!(open(&dir.path().join("through"), STUDY, Path::new("sub/log")).is_ok());
    }

    #[test]
    fn a_directory_that_is_not_the_studys_is_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("passwd"), "s").unwrap();
        let asked = || open(dir.path(), STUDY, Path::new("passwd")).map_err(|error| error.kind());
        assert_eq!(asked().unwrap_err(), io::ErrorKind::PermissionDenied);
        claim(dir.path(), StudyId([8; 16]));
        assert_eq!(asked().unwrap_err(), io::ErrorKind::PermissionDenied);
        for claimed in ["", "{}", "[", "{\"study_id\": 7}"] {
            std::fs::write(dir.path().join(".piton-study.json"), claimed).unwrap();
            assert_eq!(asked().unwrap_err(), io::ErrorKind::PermissionDenied, "{claimed}");
        }
        claim(dir.path(), STUDY);
        assert!(asked().is_ok());
    }
}
