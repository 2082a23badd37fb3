//! The whole of a store, written for people or programs.

use std::io::Write;

use super::{Look, Store};
use crate::error::Error;
use crate::journal;
use crate::model::Seq;
use crate::views::dump::{self, Format};

/// What of a store is dumped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dump {
    /// The study, its stages and its trials.
    State(Format),
    /// Every event, from the first on.
    Events(Format),
    /// What must not depend on timing, crashes and the number of workers, as JSON: the same bytes for equal results.
    Canonical,
}

impl Store {
    /// Writes what the store holds; trials and events are written as they are read. `at`: as it was after that event,
    /// from 1 to the last.
    ///
    /// ```no_run
    /// use piton::views::dump::Format;
    /// use piton::{Dump, Store};
    ///
    /// let store = Store::at("study.redb");
    /// store.dump(Dump::State(Format::Csv), None, &mut std::fs::File::create("trials.csv").unwrap())?;
    /// # Ok::<(), piton::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Usage`] when there is no such event, [`Error::Output`], and when the store cannot be read.
    pub fn dump(&self, what: Dump, at: Option<Seq>, out: &mut dyn Write) -> Result<(), Error> {
        let (_reader, mut look) = Look::at_store(&self.path)?;
        let past;
        if let Some(seq) = at {
            let last = look.view.progress.last_seq;
            if seq == 0 || seq > last {
                return Err(Error::Usage(format!("there is no event {seq}: the journal has 1 to {last}")));
            }
            past = journal::replayed(&look.snapshot, seq).map_err(|cause| self.unreadable(cause))?;
            look = Look::again(&past, &self.path)?;
        }
        let Look { view, snapshot } = &look;
        match what {
            Dump::State(format) => dump::state(view, snapshot, format, out)?,
            Dump::Events(format) => dump::events(view, snapshot, format, out)?,
            Dump::Canonical => dump::canonical(view, snapshot, out)?,
        }
        Ok(())
    }
}
