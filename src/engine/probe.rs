//! One small job on a study's cluster, to learn before hours of trials whether they can run there: `piton check --probe`.
//!
//! It goes the way of every trial: submitted, claimed, run by this same program on a node, its result left on the shared
//! file system. So what it finds, trials will find. It has a directory of its own beside the study's, which is gone
//! afterwards, and takes no store.

use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, never, select, tick};

use super::EngineError;
use crate::executor::RemoteSetup;
use crate::executor::local::keeper::KeeperClient;
use crate::executor::remote::{self, RemoteExecutor};
use crate::executor::{AttemptKey, AttemptReport, Executor, ExecutorEvent, Job, StageRuntime, StudyRuntime};
use crate::model::{Params, RemoteJob, StudyId, TrialId, UnixMs, Verdict};
use crate::paths::{SCRATCH_DIR, STDOUT_LOG, StudyPaths};
use crate::study_file::{BaseSpec, Part, Spec, Template, Work};
use crate::sys::clock::unix_ms;
use crate::sys::disk;
use crate::sys::files::create_dir_all_durable;
use crate::sys::signals::SignalEvent;
use crate::sys::temporary::TemporaryDir;
use crate::sys::tree_hash::{open_beneath, open_dir};
use crate::sys::words::shell_quoted;

/// The job's time limit of its own: what it does takes seconds.
const LIMIT: Duration = Duration::from_secs(300);

/// How much of what it printed is read, bytes.
const SAID_BYTES: u64 = 1 << 16;

/// How often a cancelled probe is waited for, in seconds, before it is left to the cluster.
const CANCEL_S: u64 = 30;

/// News of a probe that waits or runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeEvent {
    /// The cluster has its job, or knows more of it.
    Placed(RemoteJob),
    /// The cluster cannot be asked, in words; `None`: it answers again.
    Trouble(Option<String>),
}

/// What a probe found.
#[derive(Clone, Debug)]
pub struct Probed {
    /// Its job, as far as it is known.
    pub job: Option<RemoteJob>,
    /// How long it waited from its submission until it began, by this machine's clock as far as it is known, milliseconds.
    pub waited_ms: i64,
    /// How far the node's clock is from this one's at least, milliseconds; 0 where they may agree.
    pub clock_off_ms: i64,
    /// What it found wanting, in words: empty if trials can run there.
    pub wanting: Vec<String>,
    /// Versions that tools printed there, as `tool: version`.
    pub versions: Vec<String>,
}

/// What the cluster says to a job of this study that it is only asked about: where and when it would run. `None`: it has no
/// such question, or trials run on this machine.
///
/// # Errors
/// [`EngineError::Executor`] for what it refuses, in its words.
pub fn asked_about(spec: &Spec) -> Result<Option<String>, EngineError> {
    remote::asked_about(spec).map_err(EngineError::NotTaken)
}

/// Submits a probe and waits for it, however long it queues. A request to end by `signals` takes the job back.
///
/// # Errors
/// [`EngineError::Executor`] for what the cluster refuses, in its words; [`EngineError::System`] from the disk.
pub fn run(
    spec: &Spec,
    paths: &StudyPaths,
    (program, keeper): (PathBuf, KeeperClient),
    signals: &Receiver<SignalEvent>,
    tell: &mut dyn FnMut(ProbeEvent),
) -> Result<Option<Probed>, EngineError> {
    let system = |what| move |cause| EngineError::System { what, cause };
    let id: [u8; 16] = disk::random().map_err(system("get random bytes"))?;
    let study = StudyId(id);
    let missing = first_missing(&paths.artifacts);
    create_dir_all_durable(&paths.artifacts).map_err(system("make the directory of the artifacts"))?;
    // One that a killed probe left goes when the next is made.
    let own = TemporaryDir::new_in(&paths.artifacts, ".piton-probe-");
    let own = own.map_err(system("make a directory for the probe"))?;
    let probed = probe(spec, paths, own.path(), study, (program, keeper), signals, tell);
    let removed = own.remove();
    // Also the directories above that were made for it; whatever somebody else put there meanwhile stays.
    for dir in
        paths.artifacts.ancestors().take_while(|dir| missing.as_ref().is_some_and(|top| dir.starts_with(top)))
    {
        drop(fs::remove_dir(dir));
    }
    let probed = probed?;
    removed.map_err(system("remove the directory of the probe"))?;
    Ok(probed)
}

/// The topmost directory on the way to `dir` that is not there yet; `None`: all are.
fn first_missing(dir: &Path) -> Option<PathBuf> {
    dir.ancestors().take_while(|dir| !dir.exists()).last().map(Path::to_path_buf)
}

fn probe(
    spec: &Spec,
    paths: &StudyPaths,
    own: &Path,
    study: StudyId,
    (program, keeper): (PathBuf, KeeperClient),
    signals: &Receiver<SignalEvent>,
    tell: &mut dyn FnMut(ProbeEvent),
) -> Result<Option<Probed>, EngineError> {
    let (sender, events) = crossbeam_channel::unbounded();
    // To the cluster it is the base command of a study that is no other than this one.
    let base = base(spec, &paths.study_dir);
    let mut executor = RemoteExecutor::new(RemoteSetup {
        spec: Arc::new(Spec { base: Some(base.clone()), ..spec.clone() }),
        study,
        study_artifacts: own.to_owned(),
        program: Some(program),
        keeper: Some(keeper),
        left: Vec::new(),
        events: sender,
    })
    .map_err(EngineError::Executor)?;
    let job = job(spec, paths, own, (study, &base));
    let dir = job.dir.clone();
    let began_ms = unix_ms();
    executor.submit(job).map_err(|error| EngineError::Executor(error.to_string()))?;
    let ended = wait(&mut executor, &events, signals, tell);
    let now_ms = unix_ms();
    if let Ok(Some((report, _))) = &ended {
        executor.forget(report.trial, report.attempt);
    }
    executor.shutdown();
    let Some((report, job)) = ended? else { return Ok(None) };
    let said = said(&dir).map_err(|cause| EngineError::System { what: "read what the probe said", cause })?;
    Ok(Some(found(&report, job, &said, began_ms..now_ms)))
}

type Ended = Option<(Box<AttemptReport>, Option<RemoteJob>)>;

/// Its end; `None` if it was taken back.
fn wait(
    executor: &mut RemoteExecutor,
    events: &Receiver<ExecutorEvent>,
    signals: &Receiver<SignalEvent>,
    tell: &mut dyn FnMut(ProbeEvent),
) -> Result<Ended, EngineError> {
    let mut placed = None;
    let (mut cancelled, mut seconds_left) = (false, CANCEL_S);
    let (ticks, quiet) = (tick(Duration::from_secs(1)), never());
    let mut signals = signals;
    loop {
        select! {
            recv(events) -> event => match event {
                Ok(ExecutorEvent::Placed { job, .. }) => {
                    tell(ProbeEvent::Placed(job.clone()));
                    placed = Some(job);
                }
                Ok(ExecutorEvent::Cluster { trouble }) => tell(ProbeEvent::Trouble(trouble)),
                Ok(ExecutorEvent::Ended(_) | ExecutorEvent::Returned { .. }) if cancelled => return Ok(None),
                Ok(ExecutorEvent::Ended(report)) => return Ok(Some((report, placed))),
                Ok(ExecutorEvent::Returned { .. }) => return Ok(None),
                Ok(ExecutorEvent::Broken(why)) => return Err(EngineError::Executor(why)),
                Ok(_) => {}
                Err(_) => return Err(EngineError::Executor("the executor is gone".into())),
            },
            recv(signals) -> signal => match signal {
                Ok(signal) if signal.asks_to_end() => {
                    cancelled = true;
                    executor.drain();
                    executor.terminate();
                }
                Ok(_) => {}
                Err(_) => signals = &quiet,
            },
            recv(ticks) -> _ => if cancelled {
                seconds_left = seconds_left.saturating_sub(1);
                if seconds_left == 0 {
                    return Ok(None);
                }
            },
        }
    }
}

/// The job: it looks for what trials need, and says what it does not find.
fn job(spec: &Spec, paths: &StudyPaths, own: &Path, (study, base): (StudyId, &BaseSpec)) -> Job {
    let runtime = StudyRuntime::new(spec, &paths.study_dir, &paths.artifacts);
    let stage = StageRuntime::of_base(&runtime, base);
    let case_dir = own.join("0_probe/probe_0_0");
    Job {
        key: AttemptKey { study, trial: TrialId::BASE, attempt: 1 },
        stage: 0,
        case: "probe_0_0".into(),
        parent_case: "probe".into(),
        parent_dir: None,
        inherited: None,
        params: Params::new(),
        seed: 0,
        replica: None,
        slot: 0,
        given: Vec::new(),
        scratch_dir: case_dir.join(SCRATCH_DIR),
        opened_ms: None,
        last_started_ms: None,
        inputs_changed_ms: None,
        keeps_from_before_ms: None,
        takes: None,
        dir: case_dir.join("attempt_1"),
        stage_spec: Arc::new(stage),
    }
}

fn base(spec: &Spec, study_dir: &Path) -> BaseSpec {
    let words = ["sh".to_owned(), "-c".to_owned(), script(spec, study_dir)];
    let words = words.map(|word| Template { parts: vec![Part::Text(word)] });
    BaseSpec { work: Work::Argv(words.into()), timeout_ms: u64::try_from(LIMIT.as_millis()).ok() }
}

const WANTS: &str = "wants: ";
const VERSION: &str = "version: ";

/// Inputs, programs and tools, as the node sees them.
fn script(spec: &Spec, study_dir: &Path) -> String {
    let quoted = |path: &Path| shell_quoted(&path.to_string_lossy());
    let wants = |words: &str| format!("echo {}", shell_quoted(&format!("{WANTS}{words}")));
    let mut lines = vec![format!("cd {} || exit 1", quoted(study_dir))];
    for input in spec.all_inputs() {
        lines.push(format!(
            "[ -r {} ] || {}",
            quoted(Path::new(input)),
            wants(&format!("the input `{input}` is not there"))
        ));
    }
    let programs = spec.stages.iter().map(|stage| &stage.work).chain(spec.base.iter().map(|base| &base.work));
    let mut seen = Vec::new();
    for name in programs.filter_map(first_word) {
        if !seen.contains(&name) {
            let words = wants(&format!("the program `{name}` is not there, or may not be run"));
            let name_quoted = shell_quoted(&name);
            let look = if name.contains('/') {
                format!("[ -x {name_quoted} ]")
            } else {
                format!("command -v {name_quoted} >/dev/null")
            };
            lines.push(format!("{look} || {words}"));
            seen.push(name);
        }
    }
    for (tool, command) in &spec.study.versions {
        let command: Vec<_> = command.iter().map(|word| shell_quoted(word).to_string()).collect();
        let words = wants(&format!("`{tool}` does not tell its version"));
        lines.push(format!(
            "said=$({} 2>&1 </dev/null) && printf '{VERSION}%s: %s\\n' {} \"$(printf '%s' \"$said\" | head -n 1)\" || {words}",
            command.join(" "),
            shell_quoted(tool),
        ));
    }
    lines.push("exit 0".to_owned());
    lines.join("\n")
}

/// The program of a command, where no param decides it.
fn first_word(work: &Work) -> Option<String> {
    let Work::Argv(words) = work else { return None };
    match &words.first()?.parts[..] {
        [Part::Text(text)] => Some(text.clone()),
        _ => None,
    }
}

/// What its standard output says. A trial's file is opened with care, and so is this one.
fn said(dir: &Path) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    let file = open_dir(dir).and_then(|dir| open_beneath(dir.as_fd(), Path::new(STDOUT_LOG)));
    match file {
        Ok(file) => drop(file.take(SAID_BYTES).read_to_end(&mut bytes)?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn found(report: &AttemptReport, job: Option<RemoteJob>, said: &str, here_ms: std::ops::Range<UnixMs>) -> Probed {
    let after =
        |prefix: &'static str| said.lines().filter_map(move |line| line.strip_prefix(prefix)).map(str::to_owned);
    let mut wanting: Vec<String> = after(WANTS).collect();
    match &report.verdict {
        Verdict::Succeeded { .. } => {}
        Verdict::Failed(failure) => wanting.push(format!("it failed there: {}: {}", failure.kind, failure.reason)),
        Verdict::Interrupted { reason } => wanting.push(format!("it could not run there: {reason}")),
        Verdict::Cancelled => wanting.push("it was cancelled".to_owned()),
    }
    let began_ms = job.as_ref().and_then(|job| job.started_ms);
    // The node's clock says when it began; that was between submission and now by this one.
    let clock_off_ms = began_ms.map_or(0, |at| at - at.clamp(here_ms.start, here_ms.end));
    let waited_ms = began_ms.map_or(0, |at| at.clamp(here_ms.start, here_ms.end) - here_ms.start);
    Probed { job, waited_ms, clock_off_ms, wanting, versions: after(VERSION).collect() }
}
