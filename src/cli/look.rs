//! `status`, `dump`, `logs` and `why`: thin over the library's views.

use std::io::{IsTerminal, Write};
use std::path::Path;

use piton::journal::replayed;
use piton::sys::clock::unix_ms;
use piton::sys::process::is_alive;
use piton::views::{Liveness, Place, StudyView, dump, status, why};
use piton::{Error, Reader, Snapshot};

use super::args::{DumpArgs, DumpFormat, StatusArgs, WhyArgs};
use super::terminal;

/// A store, opened for looking.
pub struct Look {
    pub snapshot: Snapshot,
    pub view: StudyView,
}

impl Look {
    /// At the last commit.
    pub fn at_store(store: &Path) -> Result<(Reader, Self), Error> {
        let reader = Reader::open(store)?;
        let look = Self::again(&reader, store)?;
        Ok((reader, look))
    }

    /// At the last commit, through an open reader.
    pub fn again(reader: &Reader, store: &Path) -> Result<Self, Error> {
        let snapshot = reader.snapshot().map_err(|cause| Error::Journal { store: store.into(), cause })?;
        Self::at(snapshot, store)
    }

    fn at(snapshot: Snapshot, store: &Path) -> Result<Self, Error> {
        let study = snapshot.study().map_err(|cause| Error::Journal { store: store.into(), cause })?;
        let alive = !study.engine_closed
            && study.engine.as_ref().is_some_and(|engine| is_alive(&engine.process, &engine.boot_id));
        let absolute = std::path::absolute(store)
            .map_err(|cause| Error::System { what: "tell the current directory", cause })?;
        let place = Place::new(&store.display().to_string(), &absolute, &study, None);
        let view = StudyView::load(&snapshot, place, Liveness { alive })?;
        Ok(Self { snapshot, view })
    }
}

/// `piton status`.
pub fn status(args: &StatusArgs) -> Result<u8, Error> {
    let store = &args.store.store;
    let (reader, look) = Look::at_store(store)?;
    if args.json {
        return print_status_json(store).map(|()| 0);
    }
    if args.watch {
        return super::watch::watch(&reader, look, store);
    }
    let mut out = std::io::stdout().lock();
    status::Status::load(&look.view, &look.snapshot, unix_ms())?.write_text(terminal::screen(), &mut out)?;
    out.flush().map_err(Error::Output)?;
    Ok(0)
}

/// The state as JSON.
pub fn print_status_json(store: &Path) -> Result<(), Error> {
    let (_reader, look) = Look::at_store(store)?;
    let mut out = std::io::stdout().lock();
    status::Status::load(&look.view, &look.snapshot, unix_ms())?.write_json(&mut out)?;
    out.flush().map_err(Error::Output)
}

/// `piton dump`.
pub fn dump(args: &DumpArgs) -> Result<u8, Error> {
    let store = &args.store.store;
    let (_reader, mut look) = Look::at_store(store)?;
    let past;
    if let Some(seq) = args.at {
        let last = look.view.progress.last_seq;
        if seq == 0 || seq > last {
            return Err(Error::Usage(format!("there is no event {seq}: the journal has 1 to {last}")));
        }
        past = replayed(&look.snapshot, seq).map_err(|cause| Error::Journal { store: store.clone(), cause })?;
        look = Look::again(&past, store)?;
    }
    let format = match (args.json, args.format) {
        (true, _) | (false, DumpFormat::Json) => dump::Format::Json,
        (false, DumpFormat::Text) => dump::Format::Text(terminal::screen()),
        (false, DumpFormat::Jsonl) => dump::Format::Jsonl,
        (false, DumpFormat::Csv) => dump::Format::Csv,
    };
    let mut out = std::io::stdout().lock();
    if args.canonical {
        dump::canonical(&look.view, &look.snapshot, &mut out)?;
    } else if args.events {
        dump::events(&look.view, &look.snapshot, format, &mut out)?;
    } else {
        dump::state(&look.view, &look.snapshot, format, &mut out)?;
    }
    out.flush().map_err(Error::Output)?;
    Ok(0)
}

/// `piton why`.
pub fn why(args: &WhyArgs) -> Result<u8, Error> {
    let (_reader, look) = Look::at_store(&args.store.store)?;
    let why = why::Why::load(&look.view, &look.snapshot, &args.case)?;
    let mut out = std::io::stdout().lock();
    if args.json { why.write_json(&mut out)? } else { why.write_text(terminal::screen(), &mut out)? }
    out.flush().map_err(Error::Output)?;
    Ok(0)
}

/// Whether stdout is a terminal.
pub fn on_terminal() -> bool {
    std::io::stdout().is_terminal()
}
