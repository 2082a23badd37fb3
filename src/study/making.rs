//! Opening a study's store, or making it with its first events.

use std::path::Path;

use super::Study;
use crate::engine::WatchedInputs;
use crate::engine::resume::ResumeDecision;
use crate::error::Error;
use crate::inputs_now::{self, Looked};
use crate::journal::{self, Journal, OpenError};
use crate::model::words::counted;
use crate::model::{Event, InputHash, Record, StudyCreated, StudyId, ToolVersion};
use crate::paths::{self, StudyPaths};
use crate::plan;
use crate::preflight;
use crate::study_file::{self, Spec};
use crate::sys::clock::unix_ms;
use crate::sys::disk;

impl Study {
    /// Opens the store, or makes it; with the inputs as they were found to be as recorded.
    pub(super) fn open(
        &self,
        decision: ResumeDecision,
        looked: Option<Looked>,
    ) -> Result<(Journal, WatchedInputs), Error> {
        if decision != ResumeDecision::Create {
            let Looked { inputs, found, .. } =
                looked.ok_or_else(|| Error::Open(OpenError::Missing { path: self.store.clone() }))?;
            return Ok((Journal::open(&self.store)?, WatchedInputs { inputs, found }));
        }
        let Some(spec) = &self.spec else {
            return Err(Error::Open(OpenError::Missing { path: self.store.clone() }));
        };
        let paths = self.planned_paths()?;
        let dir = paths.store.parent().unwrap_or(Path::new("/"));
        if !disk::is_dir(dir)
            && let Err(cause) = std::fs::metadata(dir)
        {
            return Err(Error::File { what: "make a store in", path: dir.into(), cause });
        }
        preflight::refuse_taken(&paths, &spec.study.name, None)?;
        for stage in spec.stages.iter().filter(|stage| plan::merged(stage) > 0) {
            let rows = counted(plan::merged(stage), "repeated row");
            log::warn!("stage `{}`: {rows} left out of its file of cases", stage.name);
        }
        let (inputs, found) = inputs_now::inputs_now(spec, &paths, &self.study_file).map_err(Error::Input)?;
        let versions = study_file::tool_versions(&paths.study_dir, spec).map_err(Error::Version)?;
        let created = created(spec, &paths, (found.hashes.clone(), versions), &self.study_file)?;
        let listed = (!found.lists.is_empty()).then(|| Event::InputsListed { lists: found.lists.clone() });
        let at_ms = unix_ms();
        let events = std::iter::once(Event::StudyCreated(Box::new(created))).chain(listed);
        let first: Vec<Record> = events.map(|event| Record { at_ms, run_ms: 0, event }).collect();
        let journal = match journal::create_with(&self.store, &first) {
            // Another process was faster: the lock decides who runs it.
            Err(OpenError::Exists { .. }) => Journal::open(&self.store)?,
            other => other?,
        };
        Ok((journal, WatchedInputs { inputs, found }))
    }
}

/// The first event of a new study.
fn created(
    spec: &Spec,
    paths: &StudyPaths,
    (inputs, versions): (Vec<InputHash>, Vec<ToolVersion>),
    study_file: &str,
) -> Result<StudyCreated, Error> {
    let id = disk::random().map_err(|cause| Error::System { what: "get random bytes", cause })?;
    let base = paths.store.parent().unwrap_or(Path::new("/"));
    let relative = |path: &Path| {
        let words = || Error::Usage(format!("the path `{}` is not UTF-8", path.display()));
        paths::relative(path, base).to_str().map(str::to_owned).ok_or_else(words)
    };
    Ok(StudyCreated {
        study_id: StudyId(id),
        piton_version: env!("CARGO_PKG_VERSION").into(),
        name: spec.study.name.clone(),
        base_case: spec.study.base_case.clone(),
        seed: spec.study.seed,
        spec: spec.to_json(),
        spec_hash: spec.spec_hash(),
        inputs,
        versions,
        study_dir: relative(&paths.study_dir)?,
        artifacts_dir: relative(&paths.artifacts)?,
        study_file: study_file.into(),
        plan_version: plan::VERSION,
        stages: plan::declared(spec),
    })
}
