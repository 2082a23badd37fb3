//! `piton replay`: one trial run again, nothing recorded, and whether it does the same.
//!
//! The store is read first and closed again: it is never opened for writing, and an engine may be at work on it. The
//! directory it runs in is a new one.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use piton::engine::replay::{self, Place, Replayed};
use piton::model::{
    AttemptNo, AttemptOutcome, Exit, Metric, Metrics, Proposals, StageRow, TrialId, TrialRow, TrialState, Verdict,
};
use piton::paths::{SCRATCH_DIR, STDERR_LOG, STDOUT_LOG, StudyPaths};
use piton::spec::{self, CaseFiles, Spec, Work};
use piton::sys::opened::Opened;
use piton::sys::signals::{SignalEvent, die_by};
use piton::sys::temporary::TemporaryDir;
use piton::views::compare::{Difference, Limits, check_metrics, differences};
use piton::views::{clean, counted, duration, number, signal_name};
use piton::{Error, Look, identity};
use rustix::fs::FileType;

use super::args::ReplayArgs;
use super::compare::tolerances;
use super::result::{print_json, print_line};
use super::sink::{self, Sink};
use super::terminal::{hint, note, say};

/// How often what the trial printed is passed on.
const EVERY: Duration = Duration::from_millis(50);

/// Most bytes of a log passed on at once: signals are heard in between.
const AT_ONCE_BYTES: u64 = 1 << 20;

/// Exit codes, besides 0: as the contract has 3 for a study that did not work out, and 4 for a difference.
const FAILED: u8 = 3;
const DIFFERS: u8 = 4;

/// Runs a trial again.
pub fn replay(args: &ReplayArgs) -> Result<u8, Error> {
    // Before any thread or file: the keeper is a fork of this process.
    let keeper = super::keeper()?;
    let limits = Limits {
        tolerances: tolerances(&args.tolerance),
        only: args.metric.iter().cloned().collect(),
        ..Limits::default()
    };
    let scene = {
        let _host = keeper.client().hosts_helpers();
        Scene::load(args, &limits)?
    };
    let slot = scene.slot;
    let ground = Ground::make(args)?;
    let place = Place { dir: ground.dir.clone(), scratch_dir: ground.scratch.clone(), attempt: scene.attempt };
    let rows = (scene.stages.as_slice(), &scene.proposals);
    let mut job = replay::prepare(scene.spec, scene.paths, rows, (scene.trial, scene.parent.as_ref()), place)?;
    if let Some(parent) = job.parent_dir.as_ref().filter(|parent| !parent.is_dir()) {
        note(&format!("the directory of the case it derives from is gone: `{}`", parent.display()));
        job.inherited = None;
    }
    for line in replay::take_parent_as_it_is(&mut job) {
        note(&format!("not everything is what it was when its parent was chosen: {line}"));
    }
    say(&format!("running `{}` (attempt {}) in `{}`", scene.case, scene.attempt, ground.dir.display()));
    let mut tails = [Tail::of(&ground, STDOUT_LOG, !args.json), Tail::of(&ground, STDERR_LOG, false)];
    let replayed =
        replay::run(job, slot, keeper, EVERY, &mut || tails.iter_mut().for_each(|tail| tail.pass_on()))?;
    tails.iter_mut().for_each(Tail::pass_on_rest);
    let ending = Ending::of(scene.row.as_ref(), &replayed, &limits);
    let code = match ending {
        Some(ending) => ending.tell(args, &scene.case, scene.attempt, &ground)?,
        None => 0,
    };
    let stays = ground.stays;
    let dir = ground.dir.clone();
    drop(ground);
    if stays {
        note(&format!("its directory stays: {}", piton::shell_word(&dir)));
    }
    if let Some(signal) = replayed.interrupted_by {
        interrupted(signal);
    }
    tails.into_iter().find_map(|tail| tail.failed).map_or(Ok(code), |error| Err(Error::Output(error)))
}

fn interrupted(signal: SignalEvent) -> ! {
    say(&format!("{} ended it; there is nothing to compare", signal.name()));
    die_by(signal)
}

/// All that is to be known of the trial before it runs.
struct Scene {
    spec: Spec,
    paths: StudyPaths,
    stages: Vec<StageRow>,
    proposals: Proposals,
    trial: TrialId,
    row: Option<TrialRow>,
    /// The case it derives from, if that is a trial.
    parent: Option<TrialRow>,
    case: String,
    /// Of its last attempt, if it had one.
    attempt: AttemptNo,
    slot: u32,
}

impl Scene {
    /// Reads it, and lets go of the store.
    fn load(args: &ReplayArgs, limits: &Limits) -> Result<Self, Error> {
        let store = &args.store.store;
        let (_reader, look) = Look::at_store(store)?;
        let (view, snapshot) = (&look.view, &look.snapshot);
        let trial = view.find_case(&args.case)?;
        let stage = view.stages.iter().find(|stage| stage.contains(trial));
        let work = stage.and_then(|stage| view.spec.stages.get(stage.index as usize));
        if let Some(closure) = work.filter(|stage| stage.work == Work::Closure) {
            return Err(Error::NoClosure(closure.name.clone()));
        }
        check_metrics(view, snapshot, &stage.into_iter().collect::<Vec<_>>(), None, limits)?;
        let row_of = |trial| snapshot.trial(trial).map_err(|cause| Error::Journal { store: store.clone(), cause });
        let row = row_of(trial)?;
        let lineage = view.lineage();
        let parent = lineage.locate(trial).and_then(|(stage, index)| lineage.parent(stage, index));
        let parent = parent.map(|parent| row_of(parent.trial)).transpose()?.flatten();
        let paths = StudyPaths::of(store, &view.study).map_err(Error::no_current_dir)?;
        let study = &view.study;
        let looked = identity::look((&view.spec, CaseFiles::AreInputs), &paths, study, || {
            identity::lists_of(snapshot.identities().unwrap_or_default())
        });
        let inputs = looked.map_or_else(|error| vec![error.words()], |looked| looked.changes);
        let tools = spec::changed_tools(&paths.study_dir, &view.spec, &study.versions);
        for change in inputs.into_iter().chain(tools) {
            note(&format!("not everything is what it was when the study was created: {change}"));
        }
        let last = row.as_ref().and_then(|row| row.attempts.last());
        let (attempt, slot) = last.map_or((1, 0), |attempt| (attempt.n, attempt.slot));
        Ok(Self {
            attempt,
            slot,
            spec: view.spec.clone(),
            stages: view.stages.clone(),
            proposals: view.proposals.clone(),
            case: args.case.clone(),
            paths,
            trial,
            row,
            parent,
        })
    }
}

/// Where it runs. The directories go when this does, unless they are to stay.
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
    fn make(args: &ReplayArgs) -> Result<Self, Error> {
        let chosen = args.attempt_dir.as_deref().map(chosen_dir).transpose()?;
        let root = make_root(if args.keep { KEPT_PREFIX } else { PREFIX })?;
        let dir = chosen.clone().unwrap_or_else(|| root.path().join("attempt"));
        let scratch = root.path().join(SCRATCH_DIR);
        let parent = dir.parent().unwrap_or(Path::new("/"));
        let above = Opened::dir(parent).map(Arc::new);
        let above = above.map_err(|cause| Error::File { what: "open", path: parent.into(), cause })?;
        Ok(Self {
            root: Some(root),
            scratch,
            above,
            dir,
            stays: args.keep || chosen.is_some(),
            keep_root: args.keep,
        })
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

/// One of the trial's logs, passed on as it grows. It is the trial's own: it may be gone, or anything.
struct Tail {
    above: Arc<Opened>,
    /// Below it.
    log: PathBuf,
    out: Sink<Box<dyn Write>>,
    file: Option<File>,
    failed: Option<io::Error>,
}

impl Tail {
    fn of(ground: &Ground, name: &'static str, to_stdout: bool) -> Self {
        let out = sink::shared(sink::Content::Printed, to_stdout);
        let log = Path::new(ground.dir.file_name().unwrap_or_default()).join(name);
        Self { above: Arc::clone(&ground.above), log, out, file: None, failed: None }
    }

    fn pass_on(&mut self) {
        self.pass_on_some();
    }

    /// To its end: nobody writes any more.
    fn pass_on_rest(&mut self) {
        while self.pass_on_some() == AT_ONCE_BYTES {}
    }

    /// How many bytes.
    fn pass_on_some(&mut self) -> u64 {
        if self.failed.is_some() {
            return 0;
        }
        if self.file.is_none() {
            let opened = self.above.open(&self.log).ok();
            let opened = opened.filter(|log| log.kind().is_ok_and(|kind| kind == FileType::RegularFile));
            self.file = opened.and_then(|log| log.file().ok()?.try_clone().ok());
        }
        let Some(file) = &mut self.file else { return 0 };
        // A log that was cut is begun anew.
        if let (Ok(at), Ok(metadata)) = (file.stream_position(), file.metadata())
            && metadata.len() < at
        {
            drop(file.seek(SeekFrom::Start(0)));
        }
        let mut text = Vec::new();
        drop(file.take(AT_ONCE_BYTES).read_to_end(&mut text));
        self.failed = self.out.write_all(&text).and_then(|()| self.out.flush()).err();
        text.len() as u64
    }
}

/// How it ended, beside what is recorded.
struct Ending<'a> {
    verdict: &'a Verdict,
    report: &'a piton::executor::AttemptReport,
    recorded: Option<&'a TrialRow>,
    /// `None`: there is nothing to compare with.
    differences: Option<Vec<Difference>>,
    limits: &'a Limits,
}

impl<'a> Ending<'a> {
    /// `None` when it was cut off.
    fn of(recorded: Option<&'a TrialRow>, replayed: &'a Replayed, limits: &'a Limits) -> Option<Self> {
        let report = replayed.report.as_ref()?;
        let differences = recorded.and_then(|row| differences(row, &report.verdict, limits));
        match &report.verdict {
            Verdict::Interrupted { .. } | Verdict::Cancelled => None,
            verdict => Some(Self { verdict, report, recorded, differences, limits }),
        }
    }

    fn code(&self) -> u8 {
        match (&self.differences, self.verdict) {
            (Some(differences), _) if !differences.is_empty() => DIFFERS,
            (_, Verdict::Succeeded { .. }) => 0,
            _ => FAILED,
        }
    }

    /// Prints it; the exit code.
    fn tell(&self, args: &ReplayArgs, case: &str, attempt: AttemptNo, ground: &Ground) -> Result<u8, Error> {
        if args.json {
            print_json(&self.json(case, attempt, ground))?;
        } else {
            self.text(case)?;
        }
        if self.code() != 0 && !ground.stays {
            hint("`--keep` keeps the directory it ran in");
        }
        Ok(self.code())
    }

    fn text(&self, case: &str) -> Result<(), Error> {
        let took = duration(self.report.usage.wall_us);
        let outcome = match self.verdict {
            Verdict::Failed(failure) => {
                format!("failed after {took}: {}: {}", failure.kind, clean(&failure.reason))
            }
            _ => format!("succeeded in {took}"),
        };
        match (&self.differences, self.verdict) {
            (None, Verdict::Succeeded { metrics, .. }) => {
                print_line(&format!("`{case}` {outcome}; no result of it is recorded to compare with"))?;
                metrics
                    .iter()
                    .try_for_each(|(name, metric)| print_line(&format!("  {}", metric_text(name, metric))))
            }
            (None, _) => print_line(&format!("`{case}` {outcome}; no result of it is recorded to compare with")),
            (Some(differences), _) if differences.is_empty() => {
                print_line(&format!("`{case}` {outcome}, as recorded{}", self.what_is_the_same()))
            }
            (Some(differences), _) => {
                print_line(&format!("`{case}` {outcome}, but not as recorded:"))?;
                differences
                    .iter()
                    .try_for_each(|d| print_line(&format!("  {}: recorded {}, now {}", d.what, d.recorded, d.now)))
            }
        }
    }

    /// ` (2 metrics, 1 output)`
    fn what_is_the_same(&self) -> String {
        let Verdict::Succeeded { metrics, outputs } = self.verdict else { return String::new() };
        let metrics = metrics.keys().filter(|name| self.limits.includes(name)).count();
        let found = [(metrics, "metric"), (outputs.len(), "output")].into_iter().filter(|(count, _)| *count > 0);
        let words: Vec<String> = found.map(|(count, noun)| counted(count, noun)).collect();
        if words.is_empty() { String::new() } else { format!(" ({})", words.join(", ")) }
    }

    fn json(&self, case: &str, attempt: AttemptNo, ground: &Ground) -> serde_json::Value {
        let no_metrics = Metrics::new();
        let (outcome, metrics, failure) = match self.verdict {
            Verdict::Failed(failure) => (AttemptOutcome::Failed.name(), &no_metrics, Some(failure)),
            Verdict::Succeeded { metrics, .. } => (AttemptOutcome::Succeeded.name(), metrics, None),
            Verdict::Interrupted { .. } | Verdict::Cancelled => {
                (AttemptOutcome::Interrupted.name(), &no_metrics, None)
            }
        };
        let recorded = self.recorded.and_then(|row| match row.state {
            TrialState::Succeeded | TrialState::Failed => Some(row.state.name()),
            TrialState::Pending | TrialState::Running | TrialState::Cancelled => None,
        });
        let metrics: serde_json::Map<String, serde_json::Value> =
            metrics.iter().map(|(name, metric)| (name.clone(), metric_json(metric))).collect();
        let (exit_code, signal) = match self.report.exit {
            Some(Exit::Code(code)) => (Some(code), None),
            Some(Exit::Signal(number)) => (None, Some(signal_name(number))),
            None => (None, None),
        };
        let usage = self.report.usage;
        serde_json::json!({
            "schema": 1,
            "case": case,
            "attempt": attempt,
            "outcome": outcome,
            "recorded": recorded,
            "same": self.differences.as_ref().map(Vec::is_empty),
            "differences": self.differences.as_deref().unwrap_or_default(),
            "metrics": metrics,
            "failure": failure.map(|f| serde_json::json!({ "kind": f.kind, "reason": f.reason, "log_excerpt": f.log_excerpt })),
            "exit_code": exit_code,
            "signal": signal,
            "wall_s": usage.wall_us as f64 / 1e6,
            "cpu_s": usage.cpu_us as f64 / 1e6,
            "peak_rss_bytes": usage.peak_rss_bytes,
            "dir": ground.stays.then(|| ground.dir.display().to_string()),
        })
    }
}

fn metric_text(name: &str, metric: &Metric) -> String {
    match metric {
        Metric::Number(value) => format!("{} {}", clean(name), number(*value)),
        Metric::Label(label) => format!("{} {}", clean(name), clean(label)),
    }
}

fn metric_json(metric: &Metric) -> serde_json::Value {
    match metric {
        Metric::Number(value) => (*value).into(),
        Metric::Label(label) => label.as_str().into(),
    }
}
