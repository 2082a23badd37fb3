//! From a trial's number to all that running it needs: its params, its parent's directory, its own.
//!
//! Everything is derived from the spec, the stages and the number, but for what a parent left, which is looked up once;
//! nothing is kept per trial.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::EngineError;
use super::draft::Draft;
use super::scratch;
use crate::executor::{AttemptKey, Inherited, Job, StageRuntime, StudyRuntime};
use crate::journal::{JournalError, Snapshot};
use crate::model::{AttemptNo, Event, Parent, StageIndex, StageRow, StudyId, TrialId, TrialRow, UnixMs};
use crate::paths::{SCRATCH_DIR, StudyPaths, attempt_dir_in, scratch_dir_in};
use crate::plan::{KnownBy, Lineage, StageIdentity, keep};
use crate::study_file::{Spec, StageSpec};
use crate::sys::words::io_words;

/// Most survivors whose outputs are remembered; more are looked up again.
const KNOWN_MAX: usize = 10_000;

#[derive(Debug)]
pub(crate) struct JobMaker {
    spec: Arc<Spec>,
    paths: StudyPaths,
    runtimes: Vec<Arc<StageRuntime>>,
    /// Where the cases of each stage lie: put together once, not for every trial.
    stage_dirs: Vec<PathBuf>,
    base: Option<Arc<StageRuntime>>,
    inputs_changed_ms: Option<UnixMs>,
    /// What the survivors left whose children were made last.
    inherited: HashMap<TrialId, Arc<Inherited>>,
    /// What the trials of a stage have in common, of stages that reuse.
    identities: HashMap<StageIndex, Option<StageIdentity>>,
}

impl JobMaker {
    /// For one study.
    ///
    /// # Errors
    /// [`EngineError::Executor`] when a stage of the stored spec cannot be prepared.
    pub(crate) fn new(spec: Arc<Spec>, paths: StudyPaths) -> Result<Self, EngineError> {
        let study = StudyRuntime::new(&spec, &paths.study_dir, &paths.artifacts);
        let runtimes = spec
            .stages
            .iter()
            .map(|stage| StageRuntime::new(&study, stage).map(Arc::new))
            .collect::<Result<_, _>>()
            .map_err(|error| EngineError::Executor(error.to_string()))?;
        let base = spec.base.as_ref().map(|base| Arc::new(StageRuntime::of_base(&study, base)));
        let (inherited, identities) = (HashMap::new(), HashMap::new());
        let stage_dirs = (0..).zip(&spec.stages).map(|(stage, _)| paths.stage_dir(&spec, stage)).collect();
        Ok(Self { spec, paths, runtimes, stage_dirs, base, inputs_changed_ms: None, inherited, identities })
    }

    /// For a run whose inputs last changed at this time.
    pub(super) fn with_inputs_of(self, inputs_changed_ms: Option<UnixMs>) -> Self {
        Self { inputs_changed_ms, ..self }
    }

    /// The spec jobs are made from.
    #[must_use]
    pub(super) fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Where the study's things lie.
    #[must_use]
    pub(super) const fn paths(&self) -> &StudyPaths {
        &self.paths
    }

    /// The job of one attempt.
    ///
    /// # Errors
    /// [`EngineError::Inconsistent`] when the trial is not planned.
    pub(super) fn job(&self, draft: &Draft, trial: TrialId, attempt: AttemptNo) -> Result<Job, EngineError> {
        if trial == TrialId::BASE {
            return self.base_job(draft, attempt);
        }
        let lineage = Lineage::new(&self.spec, draft.stages()).with_proposals(draft.proposals());
        self.job_of(draft.study_row().study_id, &lineage, trial, attempt)
    }

    /// The same, with what its parent left, which `snapshot` knows; each parent is looked up once.
    ///
    /// # Errors
    /// As for [`JobMaker::job`]; what reading the store fails with.
    pub(super) fn heir(
        &mut self,
        draft: &Draft,
        snapshot: impl Fn() -> Result<Snapshot, JournalError>,
        (trial, attempt): (TrialId, AttemptNo),
    ) -> Result<Job, EngineError> {
        let mut job = self.job(draft, trial, attempt)?;
        if attempt > 1 && trial != TrialId::BASE {
            let row = snapshot()?.trial(trial)?;
            let earlier = row.iter().flat_map(|row| &row.attempts).filter(|earlier| earlier.n < attempt);
            job.last_started_ms = earlier.map(|earlier| earlier.started_ms).max();
        }
        let spec = Arc::clone(&self.spec);
        let lineage = Lineage::new(&spec, draft.stages()).with_proposals(draft.proposals());
        let parent = lineage.locate(trial).and_then(|(stage, index)| lineage.parent(stage, index));
        let Some(parent) = parent.filter(|_| job.parent_dir.is_some()) else { return Ok(job) };
        let inherited = self.inherited_from(&lineage, parent.trial, snapshot)?;
        Ok(Job { inherited, ..job })
    }

    /// What a survivor left, which is looked up once.
    fn inherited_from(
        &mut self,
        lineage: &Lineage<'_>,
        parent: TrialId,
        snapshot: impl FnOnce() -> Result<Snapshot, JournalError>,
    ) -> Result<Option<Arc<Inherited>>, EngineError> {
        if let Some(known) = self.inherited.get(&parent) {
            return Ok(Some(Arc::clone(known)));
        }
        // Of a parent without a row nothing is recorded: in a store that was salvaged.
        let row = snapshot()?.trial(parent)?.unwrap_or_else(|| TrialRow::new(parent, 0));
        let Some(inherited) = self.left_by(lineage, row).map(Arc::new) else { return Ok(None) };
        if self.inherited.len() >= KNOWN_MAX {
            self.inherited.clear();
        }
        self.inherited.insert(parent, Arc::clone(&inherited));
        Ok(Some(inherited))
    }

    /// Removes the scratch directories of trials that such events take out of stages.
    ///
    /// # Errors
    /// [`EngineError::Executor`] when one cannot be removed.
    pub(crate) fn clear_scratch(&self, events: &[Event], stages: &[StageRow]) -> Result<(), EngineError> {
        scratch::clear_of(events, stages, &self.spec, &self.paths).map_err(|(dir, cause)| {
            let why =
                format!("cannot remove the scratch directories in `{}`: {}", dir.display(), io_words(&cause));
            EngineError::Executor(why)
        })
    }

    /// Forgets what survivors left: they may have run again.
    pub(crate) fn forget_parents(&mut self) {
        self.inherited.clear();
    }

    /// What the result of a trial depends on, then what those depend on that a person accepted for it; none: its stage does not reuse, or not all of
    /// it is recorded.
    ///
    /// # Errors
    /// As for [`JobMaker::heir`].
    pub(super) fn known_by(
        &mut self,
        draft: &Draft,
        snapshot: impl FnOnce() -> Result<Snapshot, JournalError>,
        trial: TrialId,
    ) -> Result<Vec<KnownBy>, EngineError> {
        let spec = Arc::clone(&self.spec);
        let lineage = Lineage::new(&spec, draft.stages()).with_proposals(draft.proposals());
        let unplanned = || EngineError::Inconsistent(format!("trial {trial} is not planned"));
        let (stage, index) = lineage.locate(trial).ok_or_else(unplanned)?;
        let inherited = match lineage.parent(stage, index) {
            Some(parent) => self.inherited_from(&lineage, parent.trial, snapshot)?,
            None => None,
        };
        let params = lineage.params(stage, index).ok_or_else(unplanned)?;
        let of_stage = self.identities.entry(stage);
        let of_stage = of_stage.or_insert_with(|| StageIdentity::of(&spec, stage, draft.study_row().into()));
        let left = inherited.as_ref().map_or(&[][..], |inherited| &inherited.outputs);
        Ok(of_stage.as_ref().map_or_else(Vec::new, |of_stage| {
            of_stage.of_replica(lineage.replica(stage, index)).taken_by(&params, left)
        }))
    }

    /// What a survivor left for its children.
    #[must_use]
    pub(super) fn left_by(&self, lineage: &Lineage<'_>, row: TrialRow) -> Option<Inherited> {
        let (stage, _) = lineage.locate(row.trial)?;
        let stage = self.spec.stages.get(stage as usize)?.name.clone();
        let discarded = keep::lacks(&row, row.accepted());
        Some(Inherited { stage, outputs: row.outputs, discarded })
    }

    /// The same, from what it takes.
    ///
    /// # Errors
    /// As for [`JobMaker::job`].
    pub(crate) fn job_of(
        &self,
        study: StudyId,
        lineage: &Lineage<'_>,
        trial: TrialId,
        attempt: AttemptNo,
    ) -> Result<Job, EngineError> {
        let unplanned = || EngineError::Inconsistent(format!("trial {trial} is not planned"));
        let (stage, index) = lineage.locate(trial).ok_or_else(unplanned)?;
        let runtime = self.runtimes.get(stage as usize).ok_or_else(unplanned)?;
        let case = lineage.case(stage, index);
        let case_dir = self.stage_dirs.get(stage as usize).ok_or_else(unplanned)?.join(&case);
        let shown = lineage.parent(stage, index).filter(|_| self.spec.shows_parent(stage));
        let parent_dir = shown.and_then(|parent| self.dir_of(lineage, parent));
        let params = lineage.seen_params(stage, index).ok_or_else(unplanned)?;
        Ok(Job {
            key: AttemptKey { study, trial, attempt },
            stage,
            parent_case: lineage.parent_case(stage, index).ok_or_else(unplanned)?,
            parent_dir,
            inherited: None,
            seed: lineage.trial_seed(stage, index, &params),
            replica: lineage.replica(stage, index),
            params,
            slot: 0,
            given: Vec::new(),
            dir: attempt_dir_in(&case_dir, attempt),
            scratch_dir: scratch_dir_in(&case_dir),
            opened_ms: lineage.opened_ms(stage),
            last_started_ms: None,
            inputs_changed_ms: self.inputs_changed_ms,
            keeps_from_before_ms: lineage.opened_ms(stage).filter(|_| self.spec.reuses(stage)),
            takes: None,
            case,
            stage_spec: Arc::clone(runtime),
        })
    }

    #[must_use]
    pub(super) fn stage_of(&self, draft: &Draft, trial: TrialId) -> Option<&StageSpec> {
        let (stage, _) = Lineage::new(&self.spec, draft.stages()).locate(trial)?;
        self.spec.stages.get(stage as usize)
    }

    /// The base command sees the constants, and the study's seed as a trial sees its own.
    fn base_job(&self, draft: &Draft, attempt: AttemptNo) -> Result<Job, EngineError> {
        let study = draft.study_row();
        let missing = || EngineError::Inconsistent("there is no base command".into());
        let dir = self.paths.base_dir(&study.name, attempt);
        Ok(Job {
            key: AttemptKey { study: study.study_id, trial: TrialId::BASE, attempt },
            stage: 0,
            case: study.base_case.clone(),
            parent_case: study.base_case.clone(),
            parent_dir: None,
            inherited: None,
            params: self.spec.constants(),
            seed: u32::try_from(study.seed & u64::from(u32::MAX)).unwrap_or(0),
            replica: None,
            slot: 0,
            given: Vec::new(),
            scratch_dir: dir.with_file_name(SCRATCH_DIR),
            opened_ms: None,
            last_started_ms: None,
            inputs_changed_ms: None,
            keeps_from_before_ms: None,
            takes: None,
            dir,
            stage_spec: Arc::clone(self.base.as_ref().ok_or_else(missing)?),
        })
    }

    fn dir_of(&self, lineage: &Lineage<'_>, parent: Parent) -> Option<PathBuf> {
        let (stage, index) = lineage.locate(parent.trial)?;
        Some(self.paths.attempt_dir(&self.spec, stage, &lineage.case(stage, index), parent.attempt))
    }
}
