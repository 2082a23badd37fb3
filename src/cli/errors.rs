//! How errors look on stderr.

use std::io::IsTerminal;

use annotate_snippets::renderer::DEFAULT_TERM_WIDTH;
use anstyle::{AnsiColor, Style};
use piton::Error;
use piton::program::sys::words::plain;

use super::hints::hints;
use super::sink::{self, colour};
use super::terminal::{NOTE, begun, hint, note, width};

/// Bold red, for `error:`.
const ERROR: Style = AnsiColor::Red.on_default().bold();

/// What failed, each cause once, what is safe, what helps.
pub fn print_error(error: &Error) {
    if let Error::Spec(diagnostics) | Error::Results(diagnostics) = error {
        let stderr = std::io::stderr();
        let columns = if stderr.is_terminal() { usize::from(width(&stderr)) } else { DEFAULT_TERM_WIDTH };
        let text = diagnostics.render(colour(&stderr), Some(columns));
        sink::to_stderr(&format!("{}\n\n", text.trim_end()));
    }
    begun(&format!("{ERROR}error:{ERROR:#} "), &error.to_string());
    let mut said = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        let text = plain(&next.to_string());
        if !text.is_empty() && !said.ends_with(&text) {
            begun(&format!("{NOTE}caused by:{NOTE:#} "), &text);
        }
        said = text;
        cause = next.source();
    }
    error.notes().iter().for_each(|line| note(line));
    hints(error).iter().for_each(|line| hint(line));
}

/// Whether the reader of our output went away, as `head` does.
pub fn is_closed_pipe(error: &Error) -> bool {
    matches!(error, Error::Output(cause) if cause.kind() == std::io::ErrorKind::BrokenPipe)
}
