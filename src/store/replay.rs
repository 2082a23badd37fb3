//! One trial run again, nothing recorded, and whether it does the same.
//!
//! The store is read first and closed again: it is never opened for writing, and an engine may be at work on it. The
//! directory it runs in is a new one.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::FileType;

use super::{Look, Store};
use crate::engine::replay::{self, ReplayTarget};
use crate::error::Error;
use crate::executor::local::keeper::Keeper;
use crate::executor::{AttemptReport, Job};
use crate::inputs_now;
use crate::model::{AttemptNo, Kept, TrialRow, Verdict};
use crate::paths::{SCRATCH_DIR, STDERR_LOG, STDOUT_LOG, StudyPaths};
use crate::study_file::{self, CaseFiles, Work};
use crate::sys::opened::Opened;
use crate::sys::signals::SignalEvent;
use crate::sys::temporary::TemporaryDir;
use crate::views::compare::{Difference, Limits, check_metrics, differences};
use crate::views::logs::Stream;

/// How often what the trial printed can be passed on.
const EVERY: Duration = Duration::from_millis(50);

/// Most bytes of a log read at once: signals are heard in between.
const AT_ONCE_BYTES: u64 = 1 << 20;

/// How a trial is run again.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ReplayOptions {
    /// How far metrics may be from what is recorded, and which count.
    pub limits: Limits,
    /// The directory it runs in, which stays; nothing may be in it. Otherwise a temporary one.
    pub dir: Option<PathBuf>,
    /// Whether a temporary one stays.
    pub keep: bool,
}

/// A trial that is ready to run again.
#[derive(Debug)]
pub struct Replay {
    job: Job,
    slot: u32,
    case: String,
    attempt: AttemptNo,
    recorded: Option<TrialRow>,
    limits: Limits,
    ground: Ground,
    notes: Vec<String>,
}

/// How a replay ended. Its directory goes with this, unless it was to stay.
#[derive(Debug)]
#[non_exhaustive]
pub struct ReplayEnd {
    /// The case.
    pub case: String,
    /// The number of the attempt, as the trial saw it.
    pub attempt: AttemptNo,
    /// What an engine would have recorded of it; `None` when it was cut off.
    pub report: Option<AttemptReport>,
    /// The signal that cut it off.
    pub interrupted_by: Option<SignalEvent>,
    /// What is recorded of the trial.
    pub recorded: Option<TrialRow>,
    /// How it ended otherwise than is recorded; `None` when there is no result to compare with.
    pub differences: Option<Vec<Difference>>,
    /// What was compared, and how.
    pub limits: Limits,
    ground: Ground,
}

impl ReplayEnd {
    /// The directory it ran in, if that stays.
    #[must_use]
    pub fn kept_dir(&self) -> Option<&Path> {
        self.ground.stays.then_some(self.ground.dir.as_path())
    }
}

impl Store {
    /// Makes a trial ready to run again as its last attempt did. The commands that print the versions of the study's tools
    /// are run.
    ///
    /// # Errors
    /// [`Error`] when there is no such case, when it is a closure of a program, or when its directory cannot be made.
    pub fn replay(&self, case: &str, options: ReplayOptions) -> Result<Replay, Error> {
        let ReplayOptions { limits, dir, keep } = options;
        let (_reader, look) = Look::at_store(&self.path)?;
        let (view, snapshot) = (&look.view, &look.snapshot);
        let trial = view.find_case(case)?;
        let stage = view.stages.iter().find(|stage| stage.contains(trial));
        let work = stage.and_then(|stage| view.spec.stages.get(stage.index as usize));
        if let Some(closure) = work.filter(|stage| stage.work == Work::Closure) {
            return Err(Error::NoClosure(closure.name.clone()));
        }
        check_metrics(view, snapshot, &stage.into_iter().collect::<Vec<_>>(), None, &limits)?;
        let row_of = |trial| snapshot.trial(trial).map_err(|cause| self.unreadable(cause));
        let recorded = row_of(trial)?;
        let lineage = view.lineage();
        let parent = lineage.locate(trial).and_then(|(stage, index)| lineage.parent(stage, index));
        let parent = parent.map(|parent| row_of(parent.trial)).transpose()?.flatten();
        let study = &view.study;
        let paths = StudyPaths::of(&self.path, study).map_err(Error::no_current_dir)?;
        let looked = inputs_now::look((&view.spec, CaseFiles::AreInputs), &paths, study, || {
            inputs_now::lists_of(snapshot.identities().unwrap_or_default())
        });
        let inputs = looked.map_or_else(|error| vec![error.words()], |looked| looked.changes);
        let tools = study_file::changed_tools(&paths.study_dir, &view.spec, &study.versions);
        let changed =
            |change: String| format!("not everything is what it was when the study was created: {change}");
        let mut notes: Vec<String> = inputs.into_iter().chain(tools).map(changed).collect();
        let last = recorded.as_ref().and_then(|row| row.attempts.last());
        let (attempt, slot) = last.map_or((1, 0), |attempt| (attempt.n, attempt.slot));
        let ground = Ground::make(dir.as_deref(), keep)?;
        let given = recorded.as_ref().map_or(&[][..], |row| row.given(attempt)).to_vec();
        let target = ReplayTarget { dir: ground.dir.clone(), scratch_dir: ground.scratch.clone(), attempt, given };
        let rows = (view.stages.as_slice(), &view.proposals);
        let mut job = replay::prepare(view.spec.clone(), paths, rows, (trial, parent.as_ref()), target)?;
        if let Some(parent) = &job.parent_dir {
            let of = || format!("`{}`", parent.display());
            match (&job.inherited, parent.is_dir()) {
                (Some(inherited), _) if inherited.is_discarded(parent) => {
                    let kept = inherited.discarded.map_or("nothing is", Kept::words);
                    notes.push(format!(
                        "the directory of the case it derives from was discarded: of {} {kept} kept",
                        of()
                    ));
                    job.inherited = None;
                }
                (_, true) => {}
                (_, false) => {
                    notes.push(format!("the directory of the case it derives from is gone: {}", of()));
                    job.inherited = None;
                }
            }
        }
        for line in replay::take_parent_as_it_is(&mut job) {
            notes.push(format!("not everything is what it was when its parent was chosen: {line}"));
        }
        Ok(Replay { job, slot, case: case.to_owned(), attempt, recorded, limits, ground, notes })
    }
}

impl Replay {
    /// What is not as it was when the trial ran, in words.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The number of the attempt, as the trial sees it: that of its last one.
    #[must_use]
    pub fn attempt(&self) -> AttemptNo {
        self.attempt
    }

    /// The directory it runs in.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.ground.dir
    }

    /// One of its logs, to be read as it grows.
    #[must_use]
    pub fn log(&self, stream: Stream) -> ReplayLog {
        let name = match stream {
            Stream::Stdout => STDOUT_LOG,
            Stream::Stderr => STDERR_LOG,
        };
        let log = Path::new(self.ground.dir.file_name().unwrap_or_default()).join(name);
        ReplayLog { above: Arc::clone(&self.ground.above), log, file: None }
    }

    /// Runs it to its end. `idle` is called again and again meanwhile. Signals to this process end the trial.
    ///
    /// # Errors
    /// [`Error::Engine`] when it cannot be run.
    pub fn run(self, keeper: Keeper, idle: &mut dyn FnMut()) -> Result<ReplayEnd, Error> {
        let Self { job, slot, case, attempt, recorded, limits, ground, .. } = self;
        let replayed = replay::run(job, slot, keeper, EVERY, idle)?;
        let is_result =
            |report: &AttemptReport| matches!(report.verdict, Verdict::Succeeded { .. } | Verdict::Failed(_));
        let report = replayed.report.filter(is_result);
        let verdict = report.as_ref().map(|report| &report.verdict);
        let differences = recorded.as_ref().zip(verdict).and_then(|(row, now)| differences(row, now, &limits));
        let interrupted_by = replayed.interrupted_by;
        Ok(ReplayEnd { case, attempt, report, interrupted_by, recorded, differences, limits, ground })
    }
}

/// One of a replay's logs. It is the trial's own: it may be gone, or anything.
#[derive(Debug)]
pub struct ReplayLog {
    above: Arc<Opened>,
    /// Below it.
    log: PathBuf,
    file: Option<File>,
}

impl ReplayLog {
    /// What came since the last look, up to a MiB; empty: nothing yet.
    #[must_use]
    pub fn read_more(&mut self) -> Vec<u8> {
        if self.file.is_none() {
            let opened = self.above.open(&self.log).ok();
            let opened = opened.filter(|log| log.kind().is_ok_and(|kind| kind == FileType::RegularFile));
            self.file = opened.and_then(|log| log.file().ok()?.try_clone().ok());
        }
        let mut text = Vec::new();
        let Some(file) = &mut self.file else { return text };
        // A log that was cut is begun anew.
        if let (Ok(at), Ok(metadata)) = (file.stream_position(), file.metadata())
            && metadata.len() < at
        {
            drop(file.seek(SeekFrom::Start(0)));
        }
        drop(file.take(AT_ONCE_BYTES).read_to_end(&mut text));
        text
    }
}

/// Where it runs. The directories go when this does, unless they are to stay.
#[derive(Debug)]
struct Ground {
    /// Gone only once this is.
    root: Option<TemporaryDir>,
    scratch: PathBuf,
    /// What the attempt's directory is made in, held: wherever its name leads by now, the logs are below this one.
    above: Arc<Opened>,
    dir: PathBuf,
    stays: bool,
    keep_root: bool,
}

/// What the names of replays' directories begin with.
const PREFIX: &str = "piton-replay-";
/// And of those that are to stay, which are no leftovers.
const KEPT_PREFIX: &str = "piton-replayed-";

impl Ground {
    fn make(chosen: Option<&Path>, keep: bool) -> Result<Self, Error> {
        let chosen = chosen.map(chosen_dir).transpose()?;
        let root = make_root(if keep { KEPT_PREFIX } else { PREFIX })?;
        let dir = chosen.clone().unwrap_or_else(|| root.path().join("attempt"));
        let scratch = root.path().join(SCRATCH_DIR);
        let parent = dir.parent().unwrap_or(Path::new("/"));
        let above = Opened::dir(parent).map(Arc::new);
        let above = above.map_err(|cause| Error::File { what: "open", path: parent.into(), cause })?;
        Ok(Self { root: Some(root), scratch, above, dir, stays: keep || chosen.is_some(), keep_root: keep })
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if self.keep_root {
            return;
        }
        let Some(root) = self.root.take() else { return };
        let path = root.path().to_owned();
        if let Err(error) = root.remove() {
            log::warn!("cannot remove `{}`: {error}", path.display());
        }
    }
}

/// A directory that nobody else can look into, where temporary files go.
fn make_root(prefix: &str) -> Result<TemporaryDir, Error> {
    let temp = std::env::temp_dir();
    let failed = |path: &Path, cause| Error::File { what: "make a directory in", path: path.into(), cause };
    let temp = std::path::absolute(&temp).map_err(|cause| failed(&temp, cause))?;
    TemporaryDir::new_in(&temp, prefix).map_err(|cause| failed(&temp, cause))
}

/// The directory somebody named, absolute and without links: the executor makes it anew, so nothing may be in it.
fn chosen_dir(dir: &Path) -> Result<PathBuf, Error> {
    let failed = |cause| Error::File { what: "make", path: dir.into(), cause };
    match fs::read_dir(dir) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                let shown = dir.display();
                return Err(Error::Usage(format!("`{shown}` is not empty: a trial begins in an empty directory")));
            }
            fs::canonicalize(dir).map_err(failed)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let absolute = std::path::absolute(dir).map_err(failed)?;
            let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
                return Err(Error::Usage(format!("`{}` names no directory", dir.display())));
            };
            fs::create_dir_all(parent).map_err(failed)?;
            fs::canonicalize(parent).map(|parent| parent.join(name)).map_err(failed)
        }
        Err(cause) => Err(failed(cause)),
    }
}
