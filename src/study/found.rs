//! What lies at a study's place, held against the study at hand: nothing is written here.

use super::Study;
use crate::engine::resume::{Found, ResumeDecision, SpecMatch, decide};
use crate::error::Error;
use crate::inputs_now::{self, Looked};
use crate::journal::{JournalError, OpenError, Reader, Snapshot};
use crate::model::{Event, RunEnd, StudyRow};
use crate::paths::{self, StudyPaths};
use crate::plan;
use crate::study_file::{self, CaseFiles, Spec, Work};

impl Study {
    /// What the store says, if there is one, and whether that is still that a person is waited for.
    pub(super) fn look(&self) -> Result<Option<(StudyRow, Spec, bool)>, Error> {
        let reader = match Reader::open(&self.store) {
            Ok(reader) => reader,
            Err(OpenError::Missing { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let seen = reader.snapshot().and_then(|snapshot| Ok((snapshot.study()?, told_to_wait(&snapshot)?)));
        let (row, told_to_wait) = seen.map_err(|cause| self.unreadable(cause))?;
        let spec = self.stored_spec(&row)?;
        Ok(Some((row, spec, told_to_wait)))
    }

    /// What is found where there is no store.
    pub(super) fn nothing_found(&self) -> Found {
        Found { status: None, spec: self.spec_match(None), inputs_same: true, told_to_wait: false }
    }

    pub(super) fn stored_paths(&self, row: &StudyRow) -> Result<StudyPaths, Error> {
        StudyPaths::of(&self.store, row).map_err(Error::no_current_dir)
    }

    pub(super) fn unreadable(&self, cause: JournalError) -> Error {
        Error::Journal { store: self.store.clone(), cause }
    }

    pub(super) fn stored_spec(&self, row: &StudyRow) -> Result<Spec, Error> {
        if let Some(why) = plan::other_version(row) {
            return Err(Error::StoredSpec { store: self.store.clone(), why });
        }
        Spec::from_json(&row.spec)
            .map_err(|error| Error::StoredSpec { store: self.store.clone(), why: error.to_string() })
    }

    /// The study's spec as it runs: how is no part of the study, so the file at hand decides that.
    pub(super) fn spec_to_run(&self, row: &StudyRow) -> Result<Spec, Error> {
        let mut spec = self.stored_spec(row)?;
        if let Some(given) = &self.spec {
            spec.run_as(given);
        }
        Ok(spec)
    }

    pub(super) fn spec_match(&self, stored: Option<&StudyRow>) -> SpecMatch {
        match (&self.spec, stored) {
            (None, _) => SpecMatch::NotGiven,
            (Some(given), Some(row)) if given.spec_hash() == row.spec_hash => SpecMatch::Same,
            (Some(_), Some(_)) => SpecMatch::Differs,
            (Some(_), None) => SpecMatch::Same,
        }
    }

    pub(super) fn decide(
        &self,
        row: &StudyRow,
        spec: &Spec,
        told_to_wait: bool,
    ) -> Result<(ResumeDecision, Option<Looked>), Error> {
        let spec_match = self.spec_match(Some(row));
        // What is refused anyway runs nothing of the store, not even what prints a version.
        let looked = match spec_match {
            SpecMatch::Differs => None,
            SpecMatch::Same | SpecMatch::NotGiven => Some(self.look_at_inputs(row, spec)?),
        };
        let inputs_same = looked.as_ref().is_none_or(|looked| looked.changes.is_empty());
        Ok((decide(Found { status: Some(row.status), spec: spec_match, inputs_same, told_to_wait }), looked))
    }

    /// The inputs and the tools against the record.
    pub(super) fn look_at_inputs(&self, row: &StudyRow, spec: &Spec) -> Result<Looked, Error> {
        let paths = self.stored_paths(row)?;
        let lists = || Reader::open(&self.store).ok()?.snapshot().ok()?.identities().ok();
        let looked = inputs_now::look((spec, self.case_files()), &paths, row, || {
            inputs_now::lists_of(lists().unwrap_or_default())
        });
        let mut looked = looked.map_err(Error::Input)?;
        looked.changes.extend(study_file::changed_tools(&paths.study_dir, spec, &row.versions));
        Ok(looked)
    }

    /// Whether the spec at hand, with its files of cases, was read just now or long ago.
    pub(super) fn case_files(&self) -> CaseFiles {
        if self.spec.is_some() { CaseFiles::JustRead } else { CaseFiles::AreInputs }
    }

    /// What a run would find now, without touching anything. Inputs are not looked at.
    ///
    /// # Errors
    /// [`Error`] when there is a store and it cannot be read.
    pub fn found_status(&self) -> Result<Found, Error> {
        Ok(match self.look()? {
            Some((row, stored, told_to_wait)) => {
                let same = self.spec_beside(&stored).is_none_or(|given| given.spec_hash() == row.spec_hash);
                let spec = match self.spec {
                    None => SpecMatch::NotGiven,
                    Some(_) if same => SpecMatch::Same,
                    Some(_) => SpecMatch::Differs,
                };
                Found { status: Some(row.status), spec, inputs_same: true, told_to_wait }
            }
            None => self.nothing_found(),
        })
    }

    /// Refuses what the executor cannot do. A simulation runs closures wherever it is said that they run.
    pub(super) fn refuse_executor(&self, spec: &Spec) -> Result<(), Error> {
        let executor = &spec.run.executor;
        if self.detach {
            executor.can_be_left().map_err(|why| Error::Usage(why.to_owned()))?;
        }
        match spec.stages.iter().find(|stage| stage.work == Work::Closure) {
            Some(stage) if !executor.is_local() && self.backend.is_none() => Err(Error::Usage(format!(
                "stage `{}` is a closure of this program, which {} cannot run",
                stage.name,
                executor.kind().name()
            ))),
            _ => Ok(()),
        }
    }

    /// Refuses another artifacts directory than the study has, also where nothing is left to run.
    pub(super) fn refuse_artifacts(&self, row: &StudyRow) -> Result<(), Error> {
        let Some(given) = &self.artifacts else { return Ok(()) };
        let given = std::path::absolute(given).map_err(Error::no_current_dir)?;
        let paths = self.stored_paths(row)?;
        if paths::clean(&given) == paths.artifacts {
            return Ok(());
        }
        Err(Error::Usage(format!(
            "the study in `{}` has its artifacts in `{}`, not in `{}`",
            self.store.display(),
            paths.artifacts.display(),
            given.display()
        )))
    }

    /// Refuses a stage that needs a closure nobody gave, and a closure that no stage needs.
    pub(super) fn refuse_unmatched_closures(&self, spec: &Spec) -> Result<(), Error> {
        let stages: Vec<&str> = spec.stages.iter().filter(|s| s.work == Work::Closure).map(|s| &*s.name).collect();
        if let Some(missing) = stages.iter().find(|stage| !self.closures.contains_key(**stage)) {
            return Err(Error::NoClosure((*missing).to_owned()));
        }
        let mut given: Vec<&String> = self.closures.keys().collect();
        given.sort_unstable();
        match given.into_iter().find(|name| !stages.contains(&name.as_str())) {
            Some(name) => Err(Error::NoClosureStage {
                given: name.clone(),
                stages: stages.into_iter().map(str::to_owned).collect(),
            }),
            None => Ok(()),
        }
    }
}

/// Whether the newest event says that a run ended since a stage waits for approval: nothing has changed since then, and
/// all who want to know of it have heard.
pub(super) fn told_to_wait(snapshot: &Snapshot) -> Result<bool, JournalError> {
    let newest = snapshot.events(snapshot.progress()?.last_seq)?.last().transpose()?;
    Ok(newest.is_some_and(|(_, record)| record.event == Event::RunEnded { how: RunEnd::Waiting }))
}
