//! `status`, `dump`, `logs` and `why`: thin over the library's views.

use std::io::Write;
use std::path::Path;

use piton::journal::replayed;
use piton::model::{AttemptNo, TrialId};
use piton::sys::clock::unix_ms;
use piton::sys::opened::Below;
use piton::views::logs::{self, Followable, Followed, Position, Stream};
use piton::views::{StudyView, ViewError, dump, status, why};
use piton::{Error, Look, Reader};

use super::args::{DumpArgs, DumpFormat, LogsArgs, StatusArgs, WhyArgs};
use super::sink::{self, Content};
use super::terminal;

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
    let mut out = sink::stdout(Content::Text);
    status::Status::load(&look.view, &look.snapshot, unix_ms())?.write_text(terminal::screen(), &mut out)?;
    out.flush().map_err(Error::Output)?;
    Ok(0)
}

/// The state as JSON.
pub fn print_status_json(store: &Path) -> Result<(), Error> {
    let (_reader, look) = Look::at_store(store)?;
    let mut out = sink::stdout(Content::Json);
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
    let content = match format {
        _ if args.canonical => Content::Json,
        dump::Format::Text(_) => Content::Text,
        dump::Format::Json | dump::Format::Jsonl => Content::Json,
        dump::Format::Csv => Content::Table,
    };
    let mut out = sink::stdout(content);
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
    let mut out = sink::stdout(if args.json { Content::Json } else { Content::Text });
    if args.json {
        why.write_json(&mut out)?
    } else {
        why.write_text(terminal::screen(), &mut out)?
    }
    out.flush().map_err(Error::Output)?;
    Ok(0)
}

/// `piton logs`.
pub fn logs(args: &LogsArgs) -> Result<u8, Error> {
    let store = &args.store.store;
    let (reader, look) = Look::at_store(store)?;
    let stream = if args.stderr { Stream::Stderr } else { Stream::Stdout };
    let mut out = sink::stdout(Content::Printed);
    if !args.follow {
        let log = logs::locate(&look.view, &look.snapshot, &args.case, args.attempt, stream)?;
        logs::copy(&log, &mut out)?;
        return Ok(0);
    }
    let Look { snapshot, view } = look;
    // A snapshot pins what it sees, and following may take days.
    drop(snapshot);
    let trial = view.find_case(&args.case)?;
    let mut following = Following { reader: &reader, store, view, trial, stream };
    match logs::follow(&mut following, args.attempt, &mut out)? {
        Followed::Ended => {}
        Followed::NoEngine => terminal::note(&format!("`{}` has not started, and no engine runs", args.case)),
    }
    Ok(0)
}

/// A trial that is followed: every answer from a fresh snapshot.
struct Following<'a> {
    reader: &'a Reader,
    store: &'a Path,
    view: StudyView,
    trial: TrialId,
    stream: Stream,
}

impl Followable for Following<'_> {
    fn position(&mut self) -> Result<Position, ViewError> {
        let (snapshot, liveness) = Look::at_rest(self.reader, self.store)?;
        Position::of(&snapshot, self.trial, liveness).map_err(Into::into)
    }

    fn log(&mut self, attempt: AttemptNo) -> Result<Below, ViewError> {
        let planned = logs::place_of(&self.view, self.trial, attempt, self.stream);
        planned.ok_or_else(|| ViewError::NotStarted { case: self.view.case_of(&self.view.lineage(), self.trial) })
    }

    fn attempt_begins(&mut self, attempt: AttemptNo) {
        if attempt > 1 {
            terminal::note(&format!("attempt {attempt}"));
        }
    }
}
