//! What trials printed, byte for byte, once or for as long as they run.

use std::io::Write;
use std::path::Path;

use super::{Look, Store};
use crate::error::Error;
use crate::journal::Reader;
use crate::model::{AttemptNo, TrialId};
use crate::sys::opened::Below;
use crate::views::logs::{self, Followable, Followed, Position, Stream};
use crate::views::{StudyView, ViewError};

/// The logs of one case: `stdout.log` of its last attempt, unless something else is asked for. Made by [`Store::logs`].
///
/// ```no_run
/// use piton::Store;
///
/// let store = Store::at("study.redb");
/// let mut printed = Vec::new();
/// store.logs("gcd_0_3").stderr().attempt(1).copy(&mut printed)?;
/// // As long as the trial runs, and for each of its attempts.
/// store.logs("gcd_0_4").follow(&mut std::io::stdout(), &mut |attempt| eprintln!("attempt {attempt}"))?;
/// # Ok::<(), piton::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use = "nothing is read before `copy` or `follow`"]
pub struct Logs<'a> {
    store: &'a Path,
    case: &'a str,
    stream: Stream,
    attempt: Option<AttemptNo>,
}

impl Store {
    /// What a case's trial printed.
    pub fn logs<'a>(&'a self, case: &'a str) -> Logs<'a> {
        Logs { store: &self.path, case, stream: Stream::Stdout, attempt: None }
    }
}

impl Logs<'_> {
    /// `stderr.log` instead.
    pub fn stderr(mut self) -> Self {
        self.stream = Stream::Stderr;
        self
    }

    /// Of this attempt, from 1.
    pub fn attempt(mut self, attempt: AttemptNo) -> Self {
        self.attempt = Some(attempt);
        self
    }

    /// Writes what is there now.
    ///
    /// # Errors
    /// [`Error::View`] when there is no such case, attempt or file, [`Error::Output`], and when the store cannot be read.
    pub fn copy(self, out: &mut dyn Write) -> Result<(), Error> {
        let (_reader, look) = Look::at_store(self.store)?;
        let log = logs::locate(&look.view, &look.snapshot, self.case, self.attempt, self.stream)?;
        Ok(logs::copy(&log, out)?)
    }

    /// Writes what is there and whatever is added, until the trial has ended; of one attempt, until that has. `begins` is
    /// called with each attempt's number before its output.
    ///
    /// # Errors
    /// As [`Logs::copy`].
    pub fn follow(self, out: &mut dyn Write, begins: &mut dyn FnMut(AttemptNo)) -> Result<Followed, Error> {
        let (reader, Look { snapshot, view }) = Look::at_store(self.store)?;
        // A snapshot pins what it sees, and following may take days.
        drop(snapshot);
        let trial = view.find_case(self.case)?;
        let mut following =
            Following { reader: &reader, store: self.store, view, trial, stream: self.stream, begins };
        Ok(logs::follow(&mut following, self.attempt, out)?)
    }
}

/// A trial that is followed: every answer from a fresh snapshot.
struct Following<'a> {
    reader: &'a Reader,
    store: &'a Path,
    view: StudyView,
    trial: TrialId,
    stream: Stream,
    begins: &'a mut dyn FnMut(AttemptNo),
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
        (self.begins)(attempt);
    }
}
