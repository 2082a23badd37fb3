//! `piton status --watch`: the status, kept on the screen until the study is over.
//!
//! The store's file is watched, not polled: a commit wakes this up. At most a few times a second it looks again; in
//! between, and while nothing happens, it sleeps (once in ten seconds it looks all the same, for the times it shows
//! and for an engine that died).

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use piton::Error;
use piton::Reader;
use piton::model::StudyStatus;
use piton::sys::clock::unix_ms;
use piton::views::status::Status;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;

use super::look::{Look, on_terminal};
use super::terminal;

/// Shortest time between two looks.
const PAUSE: Duration = Duration::from_millis(250);

/// Longest time between two looks.
const LONGEST: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// Watches until the study is over; its exit code then says how it stands.
pub fn watch(reader: &Reader, first: Look, store: &Path) -> Result<u8, Error> {
    let system = |error: rustix::io::Errno| Error::System { what: "watch the store", cause: error.into() };
    let events = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).map_err(system)?;
    inotify::add_watch(&events, store, inotify::WatchFlags::MODIFY | inotify::WatchFlags::CLOSE_WRITE)
        .map_err(system)?;
    let mut look = first;
    loop {
        show(&look)?;
        let status = look.view.study.status;
        if matches!(status, StudyStatus::Completed | StudyStatus::Aborted) {
            return Ok(0);
        }
        // A snapshot pins what it sees: none is kept while nothing happens.
        drop(look);
        std::thread::sleep(PAUSE);
        let mut waiting = [PollFd::new(&events, PollFlags::IN)];
        poll(&mut waiting, Some(&LONGEST)).map_err(system)?;
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        let mut changes = inotify::Reader::new(&events, &mut buffer);
        while changes.next().is_ok() {}
        look = Look::again(reader, store)?;
    }
}

fn show(look: &Look) -> Result<(), Error> {
    let mut text = Vec::new();
    Status::load(&look.view, &look.snapshot, unix_ms())?.write_text(terminal::screen(), &mut text)?;
    let mut out = std::io::stdout().lock();
    if on_terminal() {
        // Home, each line cleared to its end as it is written, and the rest of the screen cleared.
        out.write_all(b"\x1b[H").map_err(Error::Output)?;
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            out.write_all(line).and_then(|()| out.write_all(b"\x1b[K\n")).map_err(Error::Output)?;
        }
        out.write_all(b"\x1b[J").map_err(Error::Output)?;
    } else {
        out.write_all(&text).and_then(|()| out.write_all(b"\n")).map_err(Error::Output)?;
    }
    out.flush().map_err(Error::Output)
}
