//! The terminal: how wide it is, who asks and answers there, and how lines of ours begin.

use std::io::{BufRead, IsTerminal, Write};

use anstyle::{AnsiColor, Style};
use piton::Error;
use piton::views::clean;
use rustix::termios::{LocalModes, OptionalActions, Termios};

use super::sink::{self, colour};

/// Bold, for `caused by:` and `note:`.
pub const NOTE: Style = Style::new().bold();
/// Bold cyan, for `hint:`.
const HINT: Style = AnsiColor::Cyan.on_default().bold();

/// Columns of the terminal `stream` is; a usual width when it is none.
pub fn width(stream: &impl std::os::fd::AsFd) -> u16 {
    let columns = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    columns
        .or_else(|| rustix::termios::tcgetwinsize(stream).ok().map(|size| size.ws_col))
        .filter(|columns| *columns > 0)
        .unwrap_or(100)
}

/// Whether somebody is there to answer.
pub fn can_ask() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Asks on a terminal; the error is a no, or that nobody can answer. `yes` is the option that answers beforehand.
pub fn ask(what: &str, yes: &str) -> Result<(), Error> {
    if !can_ask() {
        return Err(Error::Usage(format!("nothing was changed: {yes}")));
    }
    let mut stderr = std::io::stderr();
    write!(stderr, "{what}? [y/N] ").and_then(|()| stderr.flush()).map_err(Error::Output)?;
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    read.map_err(|cause| Error::System { what: "read the answer", cause })?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Error::Usage("nothing was changed".into())),
    }
}

/// How views are to be drawn on stdout: cut to a terminal's width, whole in a file or a pipe.
pub fn screen() -> piton::views::Screen {
    let stdout = std::io::stdout();
    let bounded = stdout.is_terminal() || std::env::var_os("COLUMNS").is_some();
    let width = if bounded { width(&stdout) } else { 0 };
    piton::views::Screen { width, color: colour(&stdout), unicode: speaks_unicode() }
}

/// Whether the locale says that the terminal speaks UTF-8.
pub fn speaks_unicode() -> bool {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let locale = set("LC_ALL").or_else(|| set("LC_CTYPE")).or_else(|| set("LANG")).unwrap_or_default();
    let locale = locale.to_ascii_uppercase();
    locale.contains("UTF-8") || locale.contains("UTF8")
}

/// Lines of the terminal `stream` is, if it is one that can be drawn on.
pub fn height(stream: &(impl std::os::fd::AsFd + IsTerminal)) -> Option<usize> {
    let dumb = std::env::var("TERM").is_ok_and(|term| term == "dumb");
    let size = rustix::termios::tcgetwinsize(stream).ok().filter(|_| !dumb && stream.is_terminal())?;
    Some(usize::from(size.ws_row).max(2))
}

/// While it lives, the terminal does not echo `^C`: that would push whatever is drawn there a line down, and a copy of it
/// would stay. Who kills this process with KILL leaves it so; shells put it back.
#[derive(Debug)]
pub struct NoEcho(Termios);

impl NoEcho {
    /// `None` where there is nothing to do: no terminal, not ours to change, or silent already.
    pub fn begin() -> Option<Self> {
        let stderr = std::io::stderr();
        // A process in the background is stopped for changing its terminal.
        let ours = rustix::termios::tcgetpgrp(&stderr).is_ok_and(|group| group == rustix::process::getpgrp());
        let before = rustix::termios::tcgetattr(&stderr).ok().filter(|_| ours)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHOCTL);
        let changed = before.local_modes.contains(LocalModes::ECHOCTL)
            && rustix::termios::tcsetattr(&stderr, OptionalActions::Now, &silent).is_ok();
        changed.then_some(Self(before))
    }
}

impl Drop for NoEcho {
    fn drop(&mut self) {
        let _ = rustix::termios::tcsetattr(std::io::stderr(), OptionalActions::Now, &self.0);
    }
}

/// One line on stderr; there is nowhere to report a failure of that.
pub fn say(line: &str) {
    begun("", line);
}

/// A command to the CI system that reads stderr, as [`super::github`] makes them.
pub fn command(line: &str) {
    drop(writeln!(std::io::stderr(), "{}", clean(line)));
}

/// One line that begins with a word of our own, perhaps in colour.
pub fn begun(beginning: &str, line: &str) {
    sink::to_stderr(&format!("{beginning}{}\n", clean(line)));
}

/// `note:` on stderr.
pub fn note(line: &str) {
    begun(&format!("{NOTE}note:{NOTE:#} "), line);
}

/// `hint:` on stderr.
pub fn hint(line: &str) {
    begun(&format!("{HINT}hint:{HINT:#} "), line);
}
