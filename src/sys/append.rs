//! Lines that are added to a file, and durable once that is said.
//!
//! A line is written by one call, at the end of the file, so that the lines of writers that do not know of each other do not mix.
//! One that a crash left without its end spoils none that follows. Nothing here may follow a link to another file, or wait for a reader.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::files::sync_entry;

/// The directories that a case's file is in and that a run makes: case, stage and study.
pub(crate) const LEVELS: usize = 3;

/// How a file is opened for [`append_line`] that may not be there yet.
const FLAGS: i32 = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;

/// Adds a line, which has its end already. After `Ok` a power cut cannot take it, nor the file, nor the directories that lead to
/// it, `levels` of them.
///
/// # Errors
/// What the file system says; what is no regular file is refused.
pub(crate) fn append_line(path: &Path, line: &[u8], levels: usize) -> io::Result<()> {
    let mut file = File::options().read(true).append(true).create(true).custom_flags(FLAGS).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut last = [b'\n'];
    if let Some(before) = meta.len().checked_sub(1) {
        // A file that was cut meanwhile has no such place. Another writer may be half done: an empty line too many does no harm.
        let _ = file.read_at(&mut last, before)?;
    }
    let mut bytes = Vec::with_capacity(line.len() + 1);
    if last != *b"\n" {
        bytes.push(b'\n');
    }
    bytes.extend_from_slice(line);
    let written = loop {
        match file.write(&bytes) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => break other?,
        }
    };
    if written < bytes.len() {
        // The rest could come behind another's line.
        return Err(io::Error::new(io::ErrorKind::StorageFull, "only a part of the line could be written"));
    }
    file.sync_all()?;
    sync_entry(path)?;
    sync_entries(path.parent().unwrap_or(path), levels)
}

/// Makes a directory's entry durable, and those of `levels - 1` directories above it.
///
/// # Errors
/// What the file system says.
pub(crate) fn sync_entries(dir: &Path, levels: usize) -> io::Result<()> {
    // Whoever made one of them may have died before its entry was durable.
    for entry in dir.ancestors().take(levels) {
        if entry.parent().is_none_or(|parent| parent.as_os_str().is_empty()) {
            break;
        }
        sync_entry(entry)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn lines_are_added_whole_behind_whatever_is_there() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a.jsonl");
        append_line(&path, b"1\n", 0).unwrap();
        append_line(&path, b"2\n", 1).unwrap();
        fs::write(&path, "1\n2\n{\"torn").unwrap();
        append_line(&path, b"3\n", 1).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"1\n2\n{\"torn\n3\n");
    }

    #[test]
    fn writers_do_not_mix() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a.jsonl");
        std::thread::scope(|scope| {
            for writer in 0..4_u8 {
                let path = &path;
                scope.spawn(move || {
                    let line = [vec![b'a' + writer; 3_000], vec![b'\n']].concat();
                    (0..25).for_each(|_| append_line(path, &line, 0).unwrap());
                });
            }
        });
        let text = fs::read_to_string(&path).unwrap();
        // Who looks while another's line is half there adds an end too many.
        let lines: Vec<&[u8]> = text.lines().map(str::as_bytes).filter(|line| !line.is_empty()).collect();
        assert_eq!(lines.len(), 100);
        assert!(
            lines.iter().all(|line| line.len() == 3_000 && line.iter().all(|byte| line.first() == Some(byte)))
        );
    }

    #[test]
    fn what_is_no_file_of_its_own_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a.jsonl");
        let precious = root.path().join("precious");
        fs::write(&precious, "kept").unwrap();
        std::os::unix::fs::symlink(&precious, &path).unwrap();
        assert!(append_line(&path, b"1\n", 0).is_err());
        assert_eq!(fs::read(&precious).unwrap(), b"kept");
        fs::remove_file(&path).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).unwrap();
        assert!(append_line(&path, b"1\n", 0).is_err(), "and nobody waits for a reader");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(append_line(&path, b"1\n", 0).is_err());
    }
}
