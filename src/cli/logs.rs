//! `piton logs`.

use std::path::Path;

use piton::model::{AttemptNo, TrialId};
use piton::program::sys::opened::Below;
use piton::views::logs::{self, Followable, Followed, Position, Stream};
use piton::views::{StudyView, ViewError};
use piton::{Error, Look, Reader};

use super::args::LogsArgs;
use super::sink::{self, Content};
use super::terminal;

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
        planned.ok_or_else(|| ViewError::NotStarted { case: self.view.lineage().name_of(self.trial) })
    }

    fn attempt_begins(&mut self, attempt: AttemptNo) {
        if attempt > 1 {
            terminal::note(&format!("attempt {attempt}"));
        }
    }
}
