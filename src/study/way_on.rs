//! Why a study is refused as it is, and the command that leads on.

use std::path::{Path, PathBuf};

use super::Study;
use crate::engine::resume::ResumeDecision;
use crate::error::Error;
use crate::inputs_now;
use crate::journal::{OpenError, Reader};
use crate::model::{StageStatus, StudyRow};
use crate::next_command::{HowToAmend, overrides_of};
use crate::paths;
use crate::study_file::{self, Spec};

impl Study {
    pub(super) fn refusal(
        self,
        decision: ResumeDecision,
        found: Option<(StudyRow, Spec)>,
        inputs: Vec<String>,
    ) -> Error {
        let Some((row, stored)) = found else { return Error::Open(OpenError::Missing { path: self.store }) };
        if decision == ResumeDecision::InputsChanged {
            let way_on = self.way_on(&row, &stored);
            return Error::InputsChanged { store: self.store, changes: inputs, way_on, meanwhile: false };
        }
        let changes = self.spec.as_ref().map_or_else(Vec::new, |given| study_file::diff(&stored, given));
        let amend = Box::new(self.how_to_amend(&self.store, None));
        Error::SpecDiffers { store: self.store, changes, amend }
    }

    /// How the study in a store is amended to the one at hand, with the results from a stage on discarded.
    pub(crate) fn how_to_amend(&self, store: &Path, from: Option<&str>) -> HowToAmend {
        let source = self.source.as_ref();
        HowToAmend {
            store: store.into(),
            study_file: source.map_or_else(|| PathBuf::from("STUDY.toml"), |source| source.path.clone()),
            overrides: source.map_or_else(Vec::new, |source| source.overrides.clone()),
            discard_from: from.map(str::to_owned),
        }
    }

    /// What takes the inputs of a study as they are now.
    pub(super) fn way_on(&self, row: &StudyRow, spec: &Spec) -> Option<Box<HowToAmend>> {
        let stages = Reader::open(&self.store).ok()?.snapshot().ok()?.stages().ok()?;
        let from = self.changed_from(row, spec);
        let begun = stages.get(from).is_some_and(|stage| stage.status != StageStatus::Waiting);
        let ran = begun || (from == 0 && row.base.as_ref().is_some_and(|base| !base.attempts.is_empty()));
        let from = spec.stages.get(from).filter(|_| ran).map(|stage| stage.name.as_str());
        self.way_on_from(row, from)
    }

    /// The first stage whose results depend on what has changed. Only where stages have inputs of their own it has to be asked.
    pub(super) fn changed_from(&self, row: &StudyRow, spec: &Spec) -> usize {
        if spec.stages.iter().all(|stage| stage.inputs.is_empty()) {
            return 0;
        }
        let Ok(paths) = self.stored_paths(row) else { return 0 };
        if !study_file::changed_tools(&paths.study_dir, spec, &row.versions).is_empty() {
            return 0;
        }
        let looked = inputs_now::look((spec, self.case_files()), &paths, row, Vec::new).ok();
        looked.filter(|looked| !looked.changes.is_empty()).map_or(0, |looked| looked.from as usize)
    }

    /// What amends the study to what its file says, with the results from a stage on discarded.
    pub(crate) fn way_on_from(&self, row: &StudyRow, from: Option<&str>) -> Option<Box<HowToAmend>> {
        if self.source.is_some() {
            return Some(Box::new(self.how_to_amend(&self.store, from)));
        }
        if row.study_file.is_empty() {
            return None;
        }
        let paths = self.stored_paths(row).ok()?;
        let study_file = paths::seen_from_here(&paths.study_dir.join(&row.study_file));
        let overrides = overrides_of(row, &study_file);
        Some(Box::new(HowToAmend { study_file, overrides, ..self.how_to_amend(&self.store, from) }))
    }
}
