//! The note that says why jobs wait, for commands that look. It is as fresh as the cluster's list, and goes with the watcher.

use std::path::Path;

use super::{Watcher, unix_ms};
use crate::sys::waiting::Waiting;

/// What lies there.
#[derive(Debug)]
pub(super) enum Noted {
    Nothing,
    /// An engine that was killed may have left one.
    Perhaps,
    This(Waiting),
}

impl Watcher {
    fn artifacts(&self) -> &Path {
        self.root.parent().unwrap_or(&self.root)
    }

    /// Leaves it, after a list; none where nothing waits.
    pub(super) fn note(&mut self) {
        let waiting = self.flights.values().filter_map(|flight| {
            let key = &flight.job.key;
            Some((key.trial, key.attempt, flight.waits.as_deref()?))
        });
        let note = Waiting::new(self.study, unix_ms(), waiting);
        if note.is_empty() {
            return self.take_note_away();
        }
        if matches!(&self.noted, Noted::This(last) if last.does_for(&note)) {
            return;
        }
        match note.leave(self.artifacts()) {
            Ok(()) => self.noted = Noted::This(note),
            Err(error) => log::debug!("cannot say why jobs wait: {error}"),
        }
    }

    /// Nobody will know any more.
    pub(super) fn take_note_away(&mut self) {
        if !matches!(std::mem::replace(&mut self.noted, Noted::Nothing), Noted::Nothing) {
            Waiting::remove(self.artifacts());
        }
    }
}
