//! The system's answers in words people read, and words as its shell reads them. Nothing is decided by these words.

use std::io;

/// What an error says, in lower case and without its number.
#[must_use]
pub fn io_words(error: &io::Error) -> String {
    plain(&error.to_string())
}

/// The same for the text of any error that may be the system's.
#[must_use]
pub fn plain(text: &str) -> String {
    let text = text.split(" (os error").next().unwrap_or(text);
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

/// A lock that the file system cannot give: said in words, since no number would say what to do. Other errors stay as they
/// are.
#[must_use]
pub fn unlockable(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::ENOLCK | libc::ENOSYS | libc::EOPNOTSUPP) => io::Error::new(
            io::ErrorKind::Unsupported,
            "this file system cannot lock files, so that two engines could write one store; put the store on a local file \
             system such as ext4, xfs or btrfs",
        ),
        _ => error,
    }
}

/// The text as one word for a POSIX shell.
#[must_use]
pub fn shell_quoted(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./:=@%+,".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// Why a helper that is asked in lines may seem silent, and what to do about it.
pub const FLUSH_HINT: &str = "A program whose output is a pipe may keep its lines back: it must flush each one (in Python: \
     print(..., flush=True), or PYTHONUNBUFFERED=1)";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_capital_and_no_number() {
        assert_eq!(io_words(&io::Error::from_raw_os_error(28)), "no space left on device");
        assert_eq!(io_words(&io::Error::other("")), "");
    }

    #[test]
    fn shell_words_read_back() {
        assert_eq!(shell_quoted("runs/gcd.redb"), "runs/gcd.redb");
        assert_eq!(shell_quoted("my runs/it's.redb"), "'my runs/it'\\''s.redb'");
        assert_eq!(shell_quoted(""), "''");
    }
}
