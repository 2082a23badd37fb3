//! What a page that is kept up to date is told, whatever it shows.

use std::io;

use piton::Error;

/// What a stream tells.
pub trait Source {
    /// An event and its data, if there is news; `due`: whatever there is, because nothing was said for long.
    fn next(&mut self, due: bool) -> Option<(&'static str, String)>;
    /// Waits for what could be news, a second at most.
    fn wait(&mut self) -> io::Result<()>;
}

/// An error on one line.
pub fn in_words(error: &Error) -> String {
    error.to_string().replace(['\r', '\n'], " ")
}
