//! A study that is over: what an engine that died may have left undone is done.

use std::sync::Arc;

use super::Study;
use crate::claim::{self, Owner};
use crate::engine;
use crate::error::Error;
use crate::exporting::write_exports;
use crate::journal::{Journal, Reader};
use crate::sys::disk;
use crate::sys::temporary::remove_leftovers_in;
use crate::views::{Survivor, survivors, telemetry};

impl Study {
    /// Records as interrupted what an engine left running that died after it had aborted its study.
    pub(super) fn settle(&self) -> Result<(), Error> {
        let left = {
            let snapshot = Reader::open(&self.store)?.snapshot().map_err(|cause| self.unreadable(cause))?;
            snapshot.running().map_err(|cause| self.unreadable(cause))?
        };
        self.finish_discards()?;
        if left.is_empty() {
            return Ok(());
        }
        let mut journal = Journal::open(&self.store)?;
        let records = match left.iter().any(|row| row.executor.is_remote()) {
            false => engine::settled(&journal)?,
            true => {
                let snapshot = journal.snapshot().map_err(|cause| self.unreadable(cause))?;
                let row = snapshot.study().map_err(|cause| self.unreadable(cause))?;
                let spec = self.spec_to_run(&row)?;
                let paths = self.stored_paths(&row)?;
                engine::settled_remote(&journal, &Arc::new(spec), &paths, self.program.clone())?
            }
        };
        if !records.is_empty() {
            journal.append(&records).map_err(|cause| self.unreadable(cause))?;
        }
        journal.close().map_err(|cause| self.unreadable(cause))
    }

    /// Removes what was being discarded when the engine died.
    fn finish_discards(&self) -> Result<(), Error> {
        let seen = Reader::open(&self.store)?.snapshot().and_then(|snapshot| snapshot.stages());
        if seen.map_err(|cause| self.unreadable(cause))?.iter().all(|stage| !stage.discarding) {
            return Ok(());
        }
        let mut journal = Journal::open(&self.store)?;
        let study = journal.snapshot().and_then(|snapshot| snapshot.study());
        let study = study.map_err(|cause| self.unreadable(cause))?;
        let (spec, paths) = (self.stored_spec(&study)?, self.stored_paths(&study)?);
        match claim::owner(&paths, &study.name, study.study_id) {
            Ok(Owner::Own) => {
                engine::discard::finish_left(&mut journal, &spec, &paths, &|| self.shutdown.is_requested())?;
            }
            _ => log::warn!(
                "`{}` is not this store's: nothing in it is removed",
                paths.study_artifacts(&study.name).display()
            ),
        }
        journal.close().map_err(|cause| self.unreadable(cause))
    }

    /// Brings the exports of a finished study up to date, should its engine have died before it wrote them: why that failed,
    /// and the survivors.
    pub(super) fn mend_exports(&self) -> Result<(Option<String>, Vec<Survivor>), Error> {
        let snapshot = Reader::open(&self.store)?.snapshot().map_err(|cause| self.unreadable(cause))?;
        let row = snapshot.study().map_err(|cause| self.unreadable(cause))?;
        let survivors = survivors(&snapshot).map_err(Error::View)?;
        let paths = self.stored_paths(&row)?;
        let current =
            telemetry::is_current(&snapshot, &paths.artifacts).map_err(|cause| self.unreadable(cause))?;
        let dir = paths.study_artifacts(&row.name);
        if !disk::is_dir(&dir) || injected_fault!(ExportsNotMended) {
            return Ok((None, survivors));
        }
        if !current {
            return Ok((write_exports(&snapshot, &paths), survivors));
        }
        if let Err(error) = remove_leftovers_in(&dir) {
            // The same state may be exported twice, and a crash have come in between.
            log::warn!("cannot clean up in `{}`: {error}", dir.display());
        }
        Ok((None, survivors))
    }
}
