//! `piton status --watch`: the status, kept on the screen until the study is over.
//!
//! A commit of the engine wakes it up, a few times a second at most; while nothing happens it looks once a second, for
//! the times it shows and for an engine that died.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use piton::model::StudyStatus;
use piton::program::sys::clock::unix_ms;
use piton::views::logs::Watch;
use piton::views::status::Status;
use piton::{Error, Look, Reader};

use super::{sink, terminal};

/// Shortest time between two looks.
const PAUSE: Duration = Duration::from_millis(250);

/// Watches until the study is over.
pub fn watch(reader: &Reader, first: Look, store: &Path) -> Result<u8, Error> {
    let commits = Watch::file(store);
    let mut look = first;
    loop {
        show(&look)?;
        if matches!(look.view.study.status, StudyStatus::Completed | StudyStatus::Aborted) {
            return Ok(0);
        }
        // A snapshot pins what it sees: none is kept while nothing happens.
        drop(look);
        std::thread::sleep(PAUSE);
        commits.changed().map_err(|cause| Error::System { what: "watch the store", cause })?;
        look = Look::again(reader, store)?;
    }
}

fn show(look: &Look) -> Result<(), Error> {
    let mut text = Vec::new();
    Status::load(&look.view, &look.snapshot, unix_ms())?
        .with_courses(&look.view)
        .write_text(terminal::screen(), &mut sink::shown(&mut text))?;
    let mut out = std::io::stdout().lock();
    let text = String::from_utf8_lossy(&text);
    let screenful = match terminal::height(&out) {
        // Home; each line is cleared to its end as it is written, then the rest of the screen. What does not fit is
        // left out, since it would push the top away.
        Some(height) => {
            let lines: Vec<&str> = text.lines().take(height - 1).collect();
            format!("\x1b[H{}\x1b[K\n\x1b[J", lines.join("\x1b[K\n"))
        }
        None => format!("{text}\n"),
    };
    out.write_all(screenful.as_bytes()).and_then(|()| out.flush()).map_err(Error::Output)
}
