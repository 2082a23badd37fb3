//! Naming failures: kinds, and reasons that a person can read.
//!
//! Much of what is quoted is the trial's: nothing of it that could control a terminal gets through.

use std::borrow::Cow;
use std::io;

use crate::model::plain::plain;
use crate::model::{Failure, FailureKind};
use crate::sys::tree_hash::{errno_of, is_cut_off};
use crate::sys::words::io_words;

/// A reason is one line; the journal bounds what a record may hold.
const MAX_REASON_BYTES: usize = 1024;

/// A failure as those of its kind usually are.
pub(in crate::executor) fn failure(kind: FailureKind, reason: impl Into<String>) -> Failure {
    Failure::new(kind, reason_of(&reason.into()))
}

/// A text as a reason: one line, and not a long one.
pub(super) fn reason_of(text: &str) -> String {
    shorten(one_line(text), MAX_REASON_BYTES)
}

/// Why an attempt does not count as succeeded.
#[derive(Debug)]
pub(crate) enum AttemptError {
    /// The trial's own fault, or its program's.
    Trial(Failure),
    /// The machine's (a full disk, no more files or processes): no trial is to blame, and none should run before it
    /// is mended.
    Machine(String),
    /// Its outputs were still being hashed when its time was up, or the engine had to end.
    CutOff,
}

impl From<Failure> for AttemptError {
    fn from(failure: Failure) -> Self {
        Self::Trial(failure)
    }
}

impl AttemptError {
    /// What `error` is to blame on, when piton itself (not the trial) asked for what failed.
    pub(super) fn of(kind: FailureKind, what: &str, error: &io::Error) -> Self {
        let why = format!("{what}: {}", io_words(error));
        match errno_of(error) {
            Some(
                libc::ENOSPC
                | libc::EDQUOT
                | libc::EROFS
                | libc::EIO
                | libc::EFBIG
                | libc::EMFILE
                | libc::ENFILE
                | libc::EAGAIN
                | libc::ENOMEM
                | libc::ESTALE
                | libc::ETIMEDOUT
                | libc::EHOSTDOWN
                | libc::EREMOTEIO
                | libc::ENOTCONN
                // Somebody has the program open for writing.
                | libc::ETXTBSY,
            ) => Self::Machine(why),
            _ => Self::Trial(failure(kind, why)),
        }
    }

    /// What `error` is to blame on, met when something that an attempt left was opened or read. Its trial answers for
    /// what it can bring about by what it leaves there, and for nothing else.
    pub(super) fn of_left(kind: FailureKind, what: &str, error: &io::Error) -> Self {
        if is_cut_off(error) {
            return Self::CutOff;
        }
        let why = format!("{what}: {}", io_words(error));
        if is_of_trial(error) { Self::Trial(failure(kind, why)) } else { Self::Machine(why) }
    }
}

/// Whether a trial can bring this error about by what it leaves in its directory: nothing, a link, a directory, a
/// socket. Any other is the machine's: a disk that cannot be read, too many open files, no memory; and what is still forbidden
/// after its owner was let in (see [`super::ended_dir::EndedAttemptDir`]): what is not known is not taken for nothing.
pub(super) fn is_of_trial(error: &io::Error) -> bool {
    // An error without a number is one that piton made for what it found, or for what the file system cannot do.
    errno_of(error).map_or(error.kind() != io::ErrorKind::Unsupported, |errno| {
        matches!(
            errno,
            libc::ENOENT
                | libc::ENOTDIR
                | libc::EISDIR
                | libc::ELOOP
                | libc::ENXIO
                | libc::ENODEV
                | libc::ENAMETOOLONG
        )
    })
}

/// `SIGSEGV`, or `signal 40`.
pub(super) fn signal_name(signal: i32) -> Cow<'static, str> {
    signal_hook::low_level::signal_name(signal).map_or_else(|| format!("signal {signal}").into(), Cow::Borrowed)
}

/// A line without escape sequences and control characters, as a terminal would have shown it in the end: a progress bar
/// that returns to the line's start overwrites it.
pub(super) fn printable(line: &str) -> String {
    let shown = line.trim_end_matches('\r').rsplit('\r').next().unwrap_or(line);
    String::from_utf8_lossy(&plain(shown.as_bytes()).bytes).trim_end().to_owned()
}

fn one_line(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(printable).filter(|line| !line.is_empty()).collect();
    lines.join(" ").replace('\t', " ")
}

/// At most `bytes` of it, at a character's border.
pub(super) fn shorten(mut text: String, bytes: usize) -> String {
    text.truncate(text.floor_char_boundary(bytes));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_words() {
        let of =
            |errno| AttemptError::of(FailureKind::SpawnFailed, "cannot x", &io::Error::from_raw_os_error(errno));
        assert!(
            matches!(of(libc::ENOSPC), AttemptError::Machine(why) if why == "cannot x: no space left on device")
        );
        assert!(matches!(of(libc::ETXTBSY), AttemptError::Machine(_)));
        assert!(
            matches!(of(libc::EACCES), AttemptError::Trial(failure) if failure.kind == FailureKind::SpawnFailed)
        );
        let left = |errno| {
            AttemptError::of_left(FailureKind::MissingOutput, "cannot x", &io::Error::from_raw_os_error(errno))
        };
        for errno in [libc::ENOENT, libc::ELOOP, libc::ENOTDIR, libc::ENXIO] {
            assert!(matches!(left(errno), AttemptError::Trial(_)), "{errno}");
        }
        for errno in [
            libc::EIO,
            libc::EACCES,
            libc::EPERM,
            libc::EMFILE,
            libc::ENOMEM,
            libc::ESTALE,
            libc::EBADMSG,
            libc::EUCLEAN,
        ] {
            assert!(matches!(left(errno), AttemptError::Machine(_)), "{errno}");
        }
        assert_eq!(signal_name(libc::SIGSEGV), "SIGSEGV");
        assert_eq!(signal_name(40), "signal 40");
        assert_eq!(failure(FailureKind::ExitCode, "a\nb\x1b[1m").reason, "a b");
    }
}
