//! Naming failures: kinds, reasons a person can read, and the few lines of log that tell most.
//!
//! Logs are the trial's: of any size, in any bytes. They are never read whole, and nothing of them that could control a
//! terminal gets through.

use std::borrow::Cow;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use rustix::fs::FileType;

use crate::model::{Failure, Severity};
use crate::sys::tree_hash::{kind_of, open_beneath, open_dir};
use crate::sys::words::io_words;

/// Of the log's end this much is looked at.
const TAIL_BYTES: i64 = 16 * 1024;
const MAX_EXCERPT_LINES: usize = 10;
const MAX_EXCERPT_BYTES: usize = 2 * 1024;
/// A reason is one line; the journal bounds what a record may hold.
const MAX_REASON_BYTES: usize = 1024;

/// A failure by its kind, with the kind's usual severity and whether a retry could help.
pub(super) fn failure(kind: &str, reason: impl Into<String>) -> Failure {
    let (severity, retryable) = match kind {
        // The next attempt would find the same.
        "command_not_found" => (Severity::High, false),
        "spawn_failed" => (Severity::High, true),
        _ => (Severity::Medium, true),
    };
    let reason = shorten(one_line(&reason.into()), MAX_REASON_BYTES);
    Failure { kind: kind.to_owned(), severity, retryable, reason, log_excerpt: String::new() }
}

/// Why an attempt does not count as succeeded.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The trial's own fault, or its program's.
    Trial(Failure),
    /// The machine's (a full disk, no more files or processes): no trial is to blame, and none should run before it
    /// is mended.
    Machine(String),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Trial(failure)
    }
}

impl Trouble {
    /// What `error` is to blame on, when piton itself (not the trial) asked for what failed.
    pub(super) fn of(kind: &str, what: &str, error: &io::Error) -> Self {
        let why = format!("{what}: {}", io_words(error));
        match error.raw_os_error() {
            Some(
                libc::ENOSPC
                | libc::EDQUOT
                | libc::EROFS
                | libc::EIO
                | libc::EFBIG
                | libc::EMFILE
                | libc::ENFILE
                | libc::EAGAIN
                | libc::ENOMEM,
            ) => Self::Machine(why),
            _ => Self::Trial(failure(kind, why)),
        }
    }
}

/// `SIGSEGV`, or `signal 40`.
pub(super) fn signal_name(signal: i32) -> Cow<'static, str> {
    signal_hook::low_level::signal_name(signal).map_or_else(|| format!("signal {signal}").into(), Cow::Borrowed)
}

/// A duration as a person would write it: `90 ms`, `2.5 s`, `30 min`.
pub(super) fn duration_words(duration: Duration) -> String {
    let ms = duration.as_millis();
    match ms {
        0..1_000 => format!("{ms} ms"),
        _ if ms.is_multiple_of(60_000) => format!("{} min", ms / 60_000),
        _ => format!("{} s", duration.as_secs_f64()),
    }
}

/// The last lines of the attempt's standard error, or of its output if it wrote no error.
pub(super) fn log_excerpt(dir: &Path) -> String {
    let excerpt = |name| tail(dir, name).map(|bytes| excerpt_of(&bytes)).unwrap_or_default();
    let of_stderr = excerpt("stderr.log");
    if of_stderr.is_empty() { excerpt("stdout.log") } else { of_stderr }
}

fn tail(dir: &Path, name: &str) -> io::Result<Vec<u8>> {
    let mut file = open_beneath(open_dir(dir)?.as_fd(), Path::new(name))?;
    if kind_of(&file)? != FileType::RegularFile {
        return Ok(Vec::new());
    }
    if file.seek(SeekFrom::End(-TAIL_BYTES)).is_err() {
        file.rewind()?;
    }
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES.unsigned_abs()).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn excerpt_of(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<String> = text
        .lines()
        .map(printable)
        .filter(|line| !line.is_empty())
        .map(|line| shorten(line, MAX_EXCERPT_BYTES))
        .collect();
    let mut kept: Vec<&str> = Vec::new();
    let mut room = MAX_EXCERPT_BYTES;
    for line in lines.iter().rev().take(MAX_EXCERPT_LINES) {
        let Some(left) = room.checked_sub(line.len() + usize::from(!kept.is_empty())) else { break };
        room = left;
        kept.push(line);
    }
    kept.reverse();
    kept.join("\n")
}

/// A line without escape sequences and control characters, as a terminal would have shown it in the end: a progress bar
/// that returns to the line's start overwrites it.
fn printable(line: &str) -> String {
    let shown = line.trim_end_matches('\r').rsplit('\r').next().unwrap_or(line);
    let mut out = String::new();
    let mut chars = shown.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '\u{1b}' => skip_escape(&mut chars),
            '\u{9b}' => skip_until(&mut chars, |char| ('@'..='~').contains(&char)),
            '\t' => out.push(' '),
            _ if char.is_control() => {}
            _ => out.push(char),
        }
    }
    out.trim_end().to_owned()
}

/// After ESC: `[…letter` (CSI), `]…BEL` or `]…ESC \` (OSC), or one character.
fn skip_escape(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    match chars.next() {
        Some('[') => skip_until(chars, |char| ('@'..='~').contains(&char)),
        Some(']' | 'P' | 'X' | '^' | '_') => {
            skip_until(chars, |char| matches!(char, '\u{7}' | '\u{1b}' | '\u{9c}'));
            chars.next_if_eq(&'\\');
        }
        _ => {}
    }
}

fn skip_until(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, last: impl Fn(char) -> bool) {
    for char in chars.by_ref() {
        if last(char) {
            break;
        }
    }
}

fn one_line(text: &str) -> String {
    text.lines().map(printable).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

/// At most `bytes` of it, at a character's border.
pub(super) fn shorten(mut text: String, bytes: usize) -> String {
    text.truncate(text.floor_char_boundary(bytes));
    text
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn excerpts_show_the_last_lines_and_control_nothing() {
        let log = b"one\n\x1b[31mred\x1b[0m \x07bell\n10%\r50%\r100%\n\x1b]0;title\x07after\n\xff\xfe\ta\n\n";
        assert_eq!(excerpt_of(log), "one\nred bell\n100%\nafter\n\u{fffd}\u{fffd} a");
        let many: String = (0..100).map(|n| format!("line {n}\r\n")).collect();
        assert_eq!(excerpt_of(many.as_bytes()).lines().count(), 10);
        assert!(excerpt_of(many.as_bytes()).ends_with("line 98\nline 99"));
        assert_eq!(excerpt_of(&vec![b'x'; 10_000]).len(), MAX_EXCERPT_BYTES);
        assert!(excerpt_of("ä\n".repeat(9_000).as_bytes()).starts_with('ä'));
    }

    #[test]
    fn only_the_tail_of_a_log_is_read_and_output_stands_in_for_error() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(log_excerpt(dir.path()), "");
        fs::write(dir.path().join("stdout.log"), "from stdout\n").unwrap();
        fs::write(dir.path().join("stderr.log"), "\n").unwrap();
        assert_eq!(log_excerpt(dir.path()), "from stdout");
        // Sparse: 1 TiB that cannot be read whole.
        let log = fs::File::create(dir.path().join("stderr.log")).unwrap();
        log.set_len(1 << 40).unwrap();
        assert_eq!(log_excerpt(dir.path()), "from stdout");
        fs::remove_file(dir.path().join("stderr.log")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("stderr.log")).unwrap();
        assert_eq!(log_excerpt(dir.path()), "from stdout");
    }

    #[test]
    fn errors_are_words() {
        let of = |errno| Trouble::of("spawn_failed", "cannot x", &io::Error::from_raw_os_error(errno));
        assert!(matches!(of(libc::ENOSPC), Trouble::Machine(why) if why == "cannot x: no space left on device"));
        assert!(matches!(of(libc::EACCES), Trouble::Trial(failure) if failure.kind == "spawn_failed"));
        assert_eq!(signal_name(libc::SIGSEGV), "SIGSEGV");
        assert_eq!(signal_name(40), "signal 40");
        assert_eq!(duration_words(Duration::from_secs(1_800)), "30 min");
        assert_eq!(duration_words(Duration::from_millis(2_500)), "2.5 s");
        assert_eq!(failure("exit_code", "a\nb\x1b[1m").reason, "a b");
    }
}
