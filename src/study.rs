//! A study as a program uses it: opened or made, run, stopped, gone on with.
//!
//! This is the crate's front door and the one place where spec, store, engine and exports meet. It never touches
//! terminal or environment; what people see is the business of `cli`.

mod found;
mod making;
mod outcome;
mod over;
mod way_on;

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::claim;
use crate::engine::hooks::Hooks;
use crate::engine::resume::{ResumeDecision, decide};
use crate::engine::{self, EngineError, Observer, RunOptions, RunReport, ShutdownHandle, Watched, WatchedInputs};
use crate::error::Error;
use crate::executor;
use crate::executor::local::closure::{ClosureFn, IntoMetrics, TrialContext, TrialError, closure_fn};
use crate::executor::local::keeper::Keeper;
use crate::exporting::Exporting;
use crate::inputs_now;
use crate::journal::{Journal, OpenError};
use crate::model::{ExecutorKind, StudyStatus};
use crate::paths::StudyPaths;
use crate::preflight;
use crate::study_file::{self, Spec, Values};
use crate::sys::files::is_store;
use crate::sys::reserve::Reserve;
use crate::views::survivors;
use found::told_to_wait;

pub use outcome::Outcome;

/// A study and how it is to be run here.
///
/// ```
/// use piton::{Range, Stage, Study};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let dir = tempfile::tempdir()?;
/// let explore = Stage::closure("explore", |trial| Ok([("y", (trial.float("x")? - 1.0).powi(2))]))
///     .budget(9)
///     .survivors(2)
///     .range("x", Range::float(-2.0..=2.0).steps(9))
///     .minimize("y");
/// let study = Study::builder("parabola").seed(7).stage(explore).build()?;
/// let outcome = study.store(dir.path().join("parabola.redb")).run()?;
/// assert!(outcome.is_completed());
/// assert_eq!(outcome.survivors[0].params["x"].to_string(), "1.0");
/// // Run again on the same store: it is finished, nothing runs twice.
/// # Ok(())
/// # }
/// ```
pub struct Study {
    spec: Option<Spec>,
    source: Option<Source>,
    store: PathBuf,
    artifacts: Option<PathBuf>,
    study_dir: PathBuf,
    study_file: String,
    workers: Option<u32>,
    drain_limit: Option<Duration>,
    watch_signals: bool,
    closures: HashMap<String, ClosureFn>,
    shutdown: ShutdownHandle,
    keeper: Option<Keeper>,
    program: Option<PathBuf>,
    detach: bool,
    /// What runs it in place of [`engine::run`]: the simulation.
    pub(crate) backend: Option<Backend>,
}

/// A study file as it was read.
struct Source {
    path: PathBuf,
    bytes: Vec<u8>,
    overrides: Vec<(String, String)>,
    dir: PathBuf,
}

/// Runs a study that is ready to run. It has no keeper and no hooks: nothing of it is a process.
pub(crate) type Backend =
    Box<dyn FnOnce(Journal, Arc<Spec>, StudyPaths, RunOptions<'_>) -> Result<RunReport, EngineError>>;

impl std::fmt::Debug for Study {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Study").field("store", &self.store).finish_non_exhaustive()
    }
}

impl Study {
    /// A study from a checked spec. Its store is `<name>.redb` in the current directory unless [`Study::store`] says
    /// otherwise; programs and inputs are relative to the current directory.
    #[must_use]
    pub fn new(spec: Spec) -> Self {
        let store = PathBuf::from(format!("{}.redb", spec.study.name));
        Self::with(Some(spec), store, PathBuf::from("."), String::new())
    }

    /// A study from a study file, with `overrides` of its params (`--set`). Its store is `<stem>.redb` beside the
    /// file.
    ///
    /// # Errors
    /// [`Error::StudyFile`] when it cannot be read, [`Error::StoreForStudyFile`] when it is a store, [`Error::Spec`] with
    /// every mistake in it.
    pub fn from_file(path: &Path, overrides: &[(String, String)]) -> Result<Self, Error> {
        if is_store(path).unwrap_or_default() {
            return Err(Error::StoreForStudyFile { path: path.into() });
        }
        let bytes = std::fs::read(path).map_err(|cause| Error::StudyFile { path: path.into(), cause })?;
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // What comes from a descriptor lies in the caller's current directory.
        let dir = if dir.starts_with("/dev") || dir.starts_with("/proc") { Path::new(".") } else { dir };
        let name = path.display().to_string();
        let spec = study_file::parse_study(&name, &bytes, overrides, dir)
            .map_err(|diagnostics| Error::Spec(Box::new(diagnostics)))?;
        let file = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let source = Source { path: path.into(), bytes, overrides: overrides.to_vec(), dir: dir.into() };
        let study = Self::with(Some(spec), path.with_extension("redb"), dir.into(), file);
        Ok(Self { source: Some(source), ..study })
    }

    /// The study of an existing store, whose spec is in it.
    #[must_use]
    pub fn from_store(store: &Path) -> Self {
        Self::with(None, store.into(), PathBuf::from("."), String::new())
    }

    fn with(spec: Option<Spec>, store: PathBuf, study_dir: PathBuf, study_file: String) -> Self {
        Self {
            spec,
            source: None,
            store,
            artifacts: None,
            study_dir,
            study_file,
            workers: None,
            drain_limit: None,
            watch_signals: false,
            closures: HashMap::new(),
            shutdown: ShutdownHandle::new(),
            keeper: None,
            program: None,
            detach: false,
            backend: None,
        }
    }

    /// The redb file.
    #[must_use]
    pub fn store(mut self, path: impl Into<PathBuf>) -> Self {
        self.store = path.into();
        self
    }

    /// Where trials' directories go; `artifacts` beside the store unless given. Counts at creation only.
    #[must_use]
    pub fn artifacts(mut self, path: impl Into<PathBuf>) -> Self {
        self.artifacts = Some(path.into());
        self
    }

    /// Trials at once, instead of what the spec says.
    #[must_use]
    pub fn workers(mut self, workers: u32) -> Self {
        self.workers = Some(workers.max(1));
        self
    }

    /// The piton program, for trials on a cluster: their jobs run a copy of it, or what the spec names instead.
    #[must_use]
    pub fn program(mut self, path: impl Into<PathBuf>) -> Self {
        self.program = Some(path.into());
        self
    }

    /// When asked to stop, leave what runs on a cluster there instead of waiting for it: the next run adopts it.
    #[must_use]
    pub fn detach(mut self, detach: bool) -> Self {
        self.detach = detach;
        self
    }

    /// Bounds the wait for running trials after a first signal.
    #[must_use]
    pub fn drain_limit(mut self, limit: Option<Duration>) -> Self {
        self.drain_limit = limit;
        self
    }

    /// Whether SIGTERM, SIGINT, SIGHUP, SIGTSTP and SIGUSR2 to the process are this study's while it runs (default:
    /// they are the program's own).
    #[must_use]
    pub fn watch_signals(mut self, watch: bool) -> Self {
        self.watch_signals = watch;
        self
    }

    /// What the trials of a closure stage do, for a study that does not come from [`Study::builder`]; see
    /// [`Stage::closure`](crate::Stage::closure).
    #[must_use]
    pub fn closure<M: IntoMetrics>(
        self,
        stage: impl Into<String>,
        run: impl Fn(&TrialContext<'_>) -> Result<M, TrialError> + Send + Sync + 'static,
    ) -> Self {
        self.with_closure(stage.into(), closure_fn(run))
    }

    pub(crate) fn with_closure(mut self, stage: String, run: ClosureFn) -> Self {
        self.closures.insert(stage, run);
        self
    }

    /// A keeper that was started early, before the program had threads. Without one, [`Study::run`] starts it.
    #[must_use]
    pub fn keeper(mut self, keeper: Keeper) -> Self {
        self.keeper = Some(keeper);
        self
    }

    /// The handle that stops it, from any thread.
    #[must_use]
    pub fn shutdown_handle(&self) -> ShutdownHandle {
        self.shutdown.clone()
    }

    /// The store's path.
    #[must_use]
    pub fn store_path(&self) -> &Path {
        &self.store
    }

    /// The spec, when it came from a file or from code.
    #[must_use]
    pub fn spec(&self) -> Option<&Spec> {
        self.spec.as_ref()
    }

    /// The spec as it is laid beside a store's. The first stores understood the values of files of cases and of `--set`
    /// otherwise than they are written: a study file that is nearer to such a store's spec when it is read in that way is
    /// read so. What it does not give is as it was settled when the study began. `None` when it came from nowhere.
    #[must_use]
    pub fn spec_beside(&self, stored: &Spec) -> Option<Cow<'_, Spec>> {
        self.spec_settled_by(stored, |_| true)
    }

    /// [`Study::spec_beside`], of which only the stages that have begun are settled.
    fn spec_settled_by(&self, stored: &Spec, has_begun: impl Fn(&str) -> bool) -> Option<Cow<'_, Spec>> {
        let given = self.spec.as_ref()?;
        let now = study_file::distance(stored, given);
        let before = (now > (0, 0) && stored.values == Values::Before).then_some(self.source.as_ref()).flatten();
        let before = before.and_then(|source| {
            let Source { path, bytes, overrides, dir } = source;
            study_file::parse_study_as(&path.display().to_string(), bytes, overrides, dir, Values::Before).ok()
        });
        let beside = match before.filter(|before| study_file::distance(stored, before) < now) {
            Some(before) => Cow::Owned(before),
            None => Cow::Borrowed(given),
        };
        Some(match beside.settled(stored, has_begun) {
            Some(settled) => Cow::Owned(settled),
            None => beside,
        })
    }

    /// [`Study::spec_beside`] for a study of which these stages have begun, with its files of cases read.
    pub(crate) fn whole_spec_beside(
        &self,
        stored: &Spec,
        has_begun: impl Fn(&str) -> bool,
    ) -> Result<Option<Spec>, Error> {
        let Some(beside) = self.spec_settled_by(stored, has_begun) else { return Ok(None) };
        let mut whole = beside.into_owned();
        whole.load_cases(&self.study_dir).map_err(|diagnostics| Error::Spec(Box::new(diagnostics)))?;
        Ok(Some(whole))
    }

    /// The study file's text, where there is one.
    pub(crate) fn source_bytes(&self) -> Option<&[u8]> {
        self.source.as_ref().map(|source| &*source.bytes)
    }

    /// The name of the study file; empty for a study built in code.
    #[must_use]
    pub fn study_file(&self) -> &str {
        &self.study_file
    }

    /// The places a new study of this description has.
    ///
    /// # Errors
    /// If the current directory is unknown.
    pub fn planned_paths(&self) -> Result<StudyPaths, Error> {
        let absolute = |path: &Path| std::path::absolute(path).map_err(Error::no_current_dir);
        let store = absolute(&self.store)?;
        let beside = store.parent().unwrap_or(Path::new("/")).join("artifacts");
        let artifacts = self.artifacts.as_deref().map_or(Ok(beside), absolute)?;
        Ok(StudyPaths { study_dir: absolute(&self.study_dir)?, artifacts, store })
    }

    /// Refuses places where a new study of this description cannot work: locked or dangling ones, file systems that can
    /// neither lock nor keep anything safe. Nothing is written.
    ///
    /// # Errors
    /// What cannot work, in words.
    pub fn refuse_unfit_places(&self) -> Result<(), Error> {
        match &self.spec {
            Some(spec) => preflight::refuse_unfit(spec, &self.planned_paths()?, None),
            None => Ok(()),
        }
    }

    /// Makes the store of a study that has none, as [`Study::run`] does, and runs nothing but what tells its tools' versions. `false`: it is there.
    ///
    /// # Errors
    /// As [`Study::run`].
    pub fn make_store(mut self) -> Result<bool, Error> {
        if self.look()?.is_some() {
            return Ok(false);
        }
        if let Some(spec) = &mut self.spec {
            spec.load_cases(&self.study_dir).map_err(|diagnostics| Error::Spec(Box::new(diagnostics)))?;
        }
        self.refuse_unfit_places()?;
        let (journal, _) = self.open(ResumeDecision::Create, None)?;
        journal.close().map_err(|cause| self.unreadable(cause))?;
        Ok(true)
    }

    /// Starts the study, or goes on with it, until it is finished or asked to stop.
    ///
    /// # Errors
    /// [`Error`]; what was recorded before stays recorded.
    pub fn run(self) -> Result<Outcome, Error> {
        self.run_observed(&mut Nobody)
    }

    /// Takes over what a dead engine left on a cluster, records what has ended meanwhile, and cancels the rest. Nothing
    /// is started.
    ///
    /// # Errors
    /// As [`Study::run`].
    pub fn take_back(self, observer: &mut dyn Observer) -> Result<Outcome, Error> {
        // A run that is asked to end before it begins.
        let asked = self.shutdown_handle();
        asked.drain();
        asked.terminate();
        self.run_observed(observer)
    }

    /// [`Study::run`], watched.
    ///
    /// # Errors
    /// [`Error`]; what was recorded before stays recorded.
    pub fn run_observed(mut self, observer: &mut dyn Observer) -> Result<Outcome, Error> {
        if let Some(spec) = &mut self.spec {
            spec.load_cases(&self.study_dir).map_err(|diagnostics| Error::Spec(Box::new(diagnostics)))?;
        }
        let found = self.look()?;
        if let Some((_, stored, _)) = &found
            && let Some(Cow::Owned(beside)) = self.spec_beside(stored)
        {
            if self.spec.as_ref().is_some_and(|given| given.values != beside.values) {
                log::warn!(
                    "{}: values of files of cases and of `--set` are read as when the study began, not as they are written",
                    self.study_file
                );
            }
            self.spec = Some(beside);
        }
        let runs_nothing = found.as_ref().is_some_and(|(row, spec, _)| {
            matches!(row.status, StudyStatus::Completed | StudyStatus::Aborted) && spec.study.versions.is_empty()
        });
        if self.keeper.is_none() && self.backend.is_none() && !runs_nothing {
            let failed = |cause| Error::System { what: "start the keeper of the trials", cause };
            self.keeper = Some(Keeper::start().map_err(failed)?);
        }
        // The tools are asked for their versions below.
        let _host = self.keeper.as_ref().map(|keeper| keeper.client().hosts_helpers());
        let (decision, looked) = match &found {
            Some((row, spec, told_to_wait)) => self.decide(row, spec, *told_to_wait)?,
            None => (decide(self.nothing_found()), None),
        };
        if let Some((row, ..)) = &found {
            self.refuse_artifacts(row)?;
        }
        match decision {
            ResumeDecision::NoStore => Err(Error::Open(OpenError::Missing { path: self.store })),
            ResumeDecision::AlreadyCompleted | ResumeDecision::AlreadyAborted | ResumeDecision::StillWaits => {
                self.settle()?;
                let (exports_failed, survivors) = self.mend_exports()?;
                Reserve::remove_leftover(&self.store);
                if let Some((_, spec, _)) = &found {
                    executor::remove_cluster_leftovers(&spec.run.executor);
                }
                let status = found.map_or(StudyStatus::Completed, |(row, ..)| row.status);
                Ok(Outcome { decision, status, survivors, report: None, exports_failed })
            }
            ResumeDecision::SpecDiffers | ResumeDecision::InputsChanged => {
                let changes = looked.map_or_else(Vec::new, |looked| looked.changes);
                Err(self.refusal(decision, found.map(|(row, spec, _)| (row, spec)), changes))
            }
            ResumeDecision::Create | ResumeDecision::GoOn | ResumeDecision::GoOnAfterCrash => {
                let spec = self.spec.as_ref().or(found.as_ref().map(|(_, stored, _)| stored));
                if let Some(spec) = spec {
                    self.refuse_unmatched_closures(spec)?;
                }
                match &found {
                    Some((row, ..)) => {
                        preflight::refuse_unfit(
                            &self.spec_to_run(row)?,
                            &self.stored_paths(row)?,
                            Some(row.study_id),
                        )?;
                    }
                    None => self.refuse_unfit_places()?,
                }
                let (journal, watched) = self.open(decision, looked)?;
                self.go(decision, journal, watched, observer)
            }
        }
    }

    fn go(
        mut self,
        decision: ResumeDecision,
        journal: Journal,
        mut watched: WatchedInputs,
        observer: &mut dyn Observer,
    ) -> Result<Outcome, Error> {
        let store = self.store.clone();
        let seen = journal.snapshot().and_then(|snapshot| Ok((snapshot.study()?, told_to_wait(&snapshot)?)));
        let (row, waits) = seen.map_err(|cause| Error::Journal { store: store.clone(), cause })?;
        // Decided again under the lock: another engine may have ended the study since it was looked at.
        let decision = match row.status {
            StudyStatus::Completed => ResumeDecision::AlreadyCompleted,
            StudyStatus::Aborted => ResumeDecision::AlreadyAborted,
            StudyStatus::Interrupted if waits => ResumeDecision::StillWaits,
            _ => decision,
        };
        if matches!(
            decision,
            ResumeDecision::AlreadyCompleted | ResumeDecision::AlreadyAborted | ResumeDecision::StillWaits
        ) {
            let snapshot = journal.snapshot().map_err(|cause| Error::Journal { store, cause })?;
            let survivors = survivors(&snapshot).map_err(Error::View)?;
            return Ok(Outcome { decision, status: row.status, survivors, report: None, exports_failed: None });
        }
        let spec = self.spec_to_run(&row)?;
        if let Some(given) = self.spec.as_ref().filter(|given| given.spec_hash() != row.spec_hash) {
            let changes = study_file::diff(&spec, given);
            let amend = Box::new(self.how_to_amend(&store, None));
            return Err(Error::SpecDiffers { store, changes, amend });
        }
        self.refuse_executor(&spec)?;
        let paths = self.stored_paths(&row)?;
        // Compared again under the lock: another program may have amended the study since it was looked at.
        let identities = journal.snapshot().and_then(|snapshot| snapshot.identities());
        let lists = || inputs_now::lists_of(identities.unwrap_or_default());
        let changes = match watched.found.hashes == row.inputs {
            true => Vec::new(),
            false => study_file::changed_inputs(
                (&spec, self.case_files()),
                (&row.inputs, &lists()),
                &watched.found,
                &mut watched.inputs,
            ),
        };
        if !changes.is_empty() {
            let changes = changes.iter().map(ToString::to_string).collect();
            let way_on = self.way_on(&row, &spec);
            return Err(Error::InputsChanged { store, changes, way_on, meanwhile: false });
        }
        // Another process may have made the store since it was looked for.
        self.refuse_artifacts(&row)?;
        preflight::refuse_taken(&paths, &spec.study.name, Some(row.study_id))?;
        claim::claim(&paths, &spec.study.name, row.study_id).map_err(|cause| Error::File {
            what: "make the artifacts directory",
            path: paths.study_artifacts(&spec.study.name),
            cause,
        })?;
        let cpus = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
        let workers = self.workers.or(spec.run.workers).unwrap_or(match spec.run.executor.kind() {
            // Slurm has a queue of its own, and knows its nodes.
            ExecutorKind::Slurm => SLURM_WORKERS,
            ExecutorKind::Local | ExecutorKind::Ray => cpus,
        });
        let workers = workers.max(1);
        let mut exporting = Exporting::start(paths.clone(), observer);
        let keeper = self.keeper.take();
        let client = keeper.as_ref().map(Keeper::client);
        let backend = self.backend.take();
        if backend.is_none() {
            exporting.hooks = Hooks::start(&spec, journal.path(), &paths.study_dir, client);
        }
        let signals = self.watch_signals.then(|| Watched::start(&self.shutdown)).transpose()?;
        let given = Arc::new(spec);
        let options = RunOptions {
            workers,
            drain_limit: self.drain_limit,
            signals: signals.as_ref(),
            shutdown: &self.shutdown,
            keeper: keeper.clone(),
            program: self.program.clone(),
            detach: self.detach,
            closures: std::mem::take(&mut self.closures),
            inputs: Some(watched),
            observer: &mut exporting,
        };
        let report = match backend {
            Some(run) => run(journal, Arc::clone(&given), paths, options),
            None => engine::run(journal, Arc::clone(&given), paths, options),
        };
        // Also after an error: the program hears what was recorded.
        if let Some(hooks) = exporting.hooks.take() {
            hooks.finish(&self.shutdown);
        }
        drop((signals, keeper));
        let report = report.map_err(|error| match error {
            EngineError::InputsChanged(changes) => {
                Error::InputsChanged { store, changes, way_on: self.way_on(&row, &given), meanwhile: true }
            }
            EngineError::ParentChanged(parent) => {
                let again = self.way_on_from(&row, Some(&parent.stage));
                Error::ParentChanged { store, parent, again }
            }
            other => other.into(),
        })?;
        let survivors = exporting.survivors.map_err(Error::View)?;
        let exports_failed = exporting.failed;
        Ok(Outcome { decision, status: report.status, survivors, report: Some(report), exports_failed })
    }
}

/// Jobs in Slurm's queue at once, unless the study says how many.
const SLURM_WORKERS: u32 = 1_000;

/// Watches nothing.
struct Nobody;

impl Observer for Nobody {}
