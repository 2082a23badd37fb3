//! Trials as jobs of a cluster that exists already: Slurm, or Ray.
//!
//! One thread owns everything ([`watcher`]): it submits what it is handed, asks the cluster for the list of jobs (one
//! call, however many there are), and reports what became of them. What decides is never the cluster's word alone but the
//! attempt's control directory ([`control`]). A job runs this same program ([`crate::engine::attempt`]), which runs the trial
//! as on this machine and leaves its result there.
//!
//! Jobs outlive the engine, and the next engine adopts them. So nothing here may end a job because the engine ends, nor
//! call an attempt over that might still run.

pub(crate) mod control;
mod ray;
mod refusals;
mod slurm;
mod watcher;
pub(crate) mod wire;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};

use super::{Executor, ExecutorError, Job};
use crate::executor::RemoteSetup;
use crate::executor::watching::ReportWatcher;
use crate::model::{AttemptNo, StudyId, TrialId};
use crate::study_file::{ExecutorSpec, LOST_AFTER_LEAST_MS, Spec, StageSpec};
use crate::sys::files::replace_atomically;
use crate::sys::temporary::{Access, remove_leftovers_in};
use crate::sys::waiting::CONTROL_DIR;
use crate::sys::words::{io_words, shell_quoted};
use watcher::{Command, Watcher};

#[derive(Clone, Debug)]
struct Submission {
    /// Its attempt's key: the job's name.
    key: String,
    /// The attempt's control directory.
    control: PathBuf,
    /// What the job prints itself goes here.
    log: PathBuf,
    /// What people are to read of it in the cluster's own lists: `study/stage/case`.
    about: String,
    /// The study's directory: where `setup` begins.
    study_dir: PathBuf,
}

/// What a job's script or entrypoint says by its exit code when a line of `setup` failed.
const NOT_SET_UP: i32 = 93;

/// The lines of `setup` as a part of a script of shell: they begin in the study's directory, and the first that fails ends the script.
fn setup_script(setup: &[String], study_dir: &Path) -> String {
    if setup.is_empty() {
        return String::new();
    }
    let mut script = format!("cd {} || exit {NOT_SET_UP}\n", shell_quoted(&study_dir.to_string_lossy()));
    for line in setup {
        // The line's own end comes first: it may close with a comment.
        script.push_str(&format!(
            "{{ {line}\n}} || {{ echo {} >&2; exit {NOT_SET_UP}; }}\n",
            shell_quoted(&format!("setup failed: {line}"))
        ));
    }
    script
}

/// What a cluster says of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Listed {
    /// The attempt's key.
    key: String,
    id: String,
    state: JobState,
    /// Where it runs or ran.
    node: Option<String>,
    /// By what the cluster knows that place, when jobs are to avoid it.
    place: Option<String>,
    /// What the cluster says of it.
    said: Option<String>,
    /// Why it waits, in the cluster's words.
    waits: Option<String>,
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum JobState {
    Queued,
    /// It waits, and ran before: the cluster put it back into its queue.
    Requeued,
    /// Likewise, and it stays there until somebody lets it go.
    Held,
    Running,
    /// What it ran has ended, and the cluster tidies up.
    Ending,
    /// It will not run any more, for this reason.
    Over(Why),
}

impl JobState {
    /// Whether it is in the queue, for whatever reason.
    const fn waits(self) -> bool {
        matches!(self, Self::Queued | Self::Requeued | Self::Held)
    }
}

/// Why a job is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// It ended by itself, well or not.
    Ended,
    /// Its time limit at the cluster.
    TimedOut,
    /// Its memory limit there.
    OutOfMemory,
    NodeFailed,
    /// Another job needed its place.
    Preempted,
    /// Somebody cancelled it.
    Cancelled,
    /// The cluster found no place for it in time.
    NotPlaced,
    /// The cluster put it back into its queue.
    Requeued,
    /// The cluster knows nothing of it.
    Unknown,
}

impl Why {
    const fn words(self) -> &'static str {
        match self {
            Self::Ended => "its job ended without leaving a result",
            Self::TimedOut => "its job reached the cluster's time limit",
            Self::OutOfMemory => "its job reached the cluster's memory limit",
            Self::NodeFailed => "its node failed",
            Self::Preempted => "its job was preempted",
            Self::Cancelled => "its job was cancelled",
            Self::NotPlaced => "the cluster found no place for its job in time",
            Self::Requeued => "the cluster put its job back into the queue",
            Self::Unknown => "the cluster does not know its job any more",
        }
    }
}

/// Why something could not be done on a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
enum ClusterError {
    /// The cluster cannot be reached or is busy: it is asked again, for as long as it takes. What was asked for may have
    /// happened.
    Unreachable(String),
    /// It may be none: if nothing there ever answered this run, a refusal once that has lasted so long. Otherwise as if it
    /// were unreachable.
    Stranger(String, Duration),
    /// It refuses, and would again.
    Refused(String),
    /// It is no more, and nothing of what ran there is.
    Gone(String),
}

impl ClusterError {
    fn words(self) -> String {
        match self {
            Self::Unreachable(why) | Self::Stranger(why, _) | Self::Refused(why) | Self::Gone(why) => why,
        }
    }
}

/// A cluster. No call may last longer than some 20 s.
trait Cluster: Send {
    /// Submits jobs, a few hundred at most; for each its id, if it is known at once, or why not. A key that is there already is no error.
    fn submit(&mut self, jobs: &[Submission]) -> Vec<Result<Option<String>, ClusterError>>;
    /// All jobs of the study that it knows.
    fn list(&mut self) -> Result<Vec<Listed>, ClusterError>;
    /// Of cancelled jobs, by their ids, who cancelled them, where the cluster says so. Only words depend on it: it takes a few
    /// seconds a run at most, however often it is asked.
    fn cancelled_by(&mut self, _ids: &[String]) -> HashMap<String, String> {
        HashMap::new()
    }
    /// Cancels jobs; those that run get a TERM, and KILL after a time of the cluster's own.
    fn cancel(&mut self, jobs: &[(String, Option<String>)]) -> Result<(), ClusterError>;
    /// What it says to a job like the study's that is not submitted: where and when it would run, if there is such a question.
    fn asked_about(&mut self) -> Result<Option<String>, ClusterError> {
        Ok(None)
    }
    /// From now on no job of the study's runs there, as far as the cluster can see to it; whether another place may be left.
    fn avoid(&mut self, place: &str) -> bool;
    /// Lets it forget jobs that are over.
    fn forget(&mut self, _ids: &[String]) {}
    /// Ends what was started for the study alone.
    fn close(&mut self) {}
}

/// Runs attempts on a cluster. Dropping it leaves them there.
pub(crate) struct RemoteExecutor {
    commands: Sender<Command>,
    thread: Option<JoinHandle<()>>,
    /// Reads what trials report, on the file system that the nodes share; where a stage is watched.
    reports: Option<ReportWatcher>,
}

impl RemoteExecutor {
    /// Ready to submit; nothing is asked of the cluster yet, but for a local one, which is started.
    ///
    /// # Errors
    /// What cannot be made, found or started, in words.
    pub(crate) fn new(setup: RemoteSetup) -> Result<Self, String> {
        let RemoteSetup { spec, study, study_artifacts, program, keeper, left, events } = setup;
        let root = study_artifacts.join(CONTROL_DIR);
        let cannot =
            |error: &io::Error| format!("cannot make `{}` for you alone: {}", root.display(), io_words(error));
        control::make_root(&root).map_err(|error| cannot(&error))?;
        // Of the program's copy; what jobs wrote lies in their own directories.
        drop(remove_leftovers_in(&root));
        if root.to_str().is_none() {
            return Err(format!("`{}` is not UTF-8: jobs cannot be told of it", root.display()));
        }
        let program = match (spec.run.executor.program(), program) {
            (Some(named), _) => named.to_owned(),
            (None, Some(own)) => copy_program(&own, &root)?,
            (None, None) => {
                return Err("the program that the jobs run is not known: name it by `program`".to_owned());
            }
        };
        let (cluster, lost_after_ms): (Box<dyn Cluster>, u64) = match &spec.run.executor {
            ExecutorSpec::Slurm(slurm) => {
                let cluster = slurm::Slurm::new(slurm, study, &root, &program);
                (Box::new(cluster), slurm.lost_after_ms)
            }
            ExecutorSpec::Ray(ray) => {
                let cluster = ray::Ray::new(ray, study, &root, &program, keeper, &left)?;
                // Jobs of the study's own head node are processes of this machine: there is no network to wait for.
                let longest_ms = if ray.address == "local" { LOST_AFTER_LEAST_MS } else { u64::MAX };
                (Box::new(cluster), ray.lost_after_ms.min(longest_ms))
            }
            ExecutorSpec::Local => return Err("trials on this machine need no cluster".to_owned()),
        };
        // A store of an earlier piton may say less than a study file can.
        let lost_after = Duration::from_millis(lost_after_ms.max(LOST_AFTER_LEAST_MS));
        control::remove_others(&root, study, &left);
        let (commands, inbox): (_, Receiver<Command>) = crossbeam_channel::unbounded();
        let is_watched = spec.stages.iter().any(StageSpec::is_watched);
        let reports = is_watched.then(|| ReportWatcher::start(false, events.clone())).transpose();
        let reports = reports.map_err(|error| format!("cannot start a thread: {error}"))?;
        let watcher = Watcher::new(cluster, spec, root, study, lost_after, inbox, events);
        let thread = std::thread::Builder::new().name("cluster".into()).spawn(move || watcher.run());
        let thread = thread.map_err(|error| format!("cannot start a thread: {error}"))?;
        Ok(Self { commands, thread: Some(thread), reports })
    }

    fn watch(&self, job: &Job) {
        if let Some(reports) = &self.reports {
            reports.watch(job);
        }
    }

    fn send(&self, command: Command) -> Result<(), ExecutorError> {
        // Nobody listens any more once the thread has ended.
        self.commands.send(command).map_err(|_| ExecutorError::Closed)
    }
}

/// What the study's cluster says to a job that is only asked about; `None` where there is no such question, or nobody answers it now.
///
/// # Errors
/// What it refuses, in its words.
pub(crate) fn asked_about(spec: &Spec) -> Result<Option<String>, String> {
    let ExecutorSpec::Slurm(slurm) = &spec.run.executor else { return Ok(None) };
    let nowhere = Path::new("/");
    match slurm::Slurm::new(slurm, StudyId([0; 16]), nowhere, "true").asked_about() {
        Ok(words) => Ok(words),
        Err(ClusterError::Refused(why)) => Err(why),
        Err(trouble) => Ok(Some(format!("cannot be asked now: {}", trouble.words()))),
    }
}

/// Removes what killed engines left of clusters of their own.
pub(crate) fn remove_leftovers(executor: &ExecutorSpec) {
    if matches!(executor, ExecutorSpec::Ray(ray) if ray.address == "local") {
        ray::remove_leftovers();
    }
}

/// Lays the program where the nodes find it: under a name of its content, so that jobs of an older one go on with theirs.
fn copy_program(own: &Path, root: &Path) -> Result<String, String> {
    let cannot = |error: &io::Error| format!("cannot copy `{}` to `{}`: {error}", own.display(), root.display());
    let bytes = std::fs::read(own).map_err(|error| cannot(&error))?;
    let hash = blake3::hash(&bytes).to_hex();
    let path = root.join(format!("piton-{}", hash.get(..16).unwrap_or_default()));
    // What has the name is not taken for it: a crash or a trial may have left anything there.
    if !control::holds(root, &path, &bytes) {
        replace_atomically(&path, Access::Program, |file| file.write_all(&bytes))
            .map_err(|error| cannot(&error))?;
    }
    path.to_str().map(str::to_owned).ok_or_else(|| format!("`{}` is not UTF-8", path.display()))
}

impl Executor for RemoteExecutor {
    fn submit(&mut self, job: Job) -> Result<(), ExecutorError> {
        self.watch(&job);
        self.send(Command::Submit(Box::new(job)))
    }

    fn adopt(&mut self, job: Job) -> Result<(), ExecutorError> {
        self.watch(&job);
        self.send(Command::Adopt(Box::new(job)))
    }

    fn forget(&mut self, trial: TrialId, attempt: AttemptNo) {
        if let Some(reports) = &self.reports {
            reports.forget(trial);
        }
        let _ = self.send(Command::Forget(trial, attempt));
    }

    fn withdraw(&mut self, from: TrialId) {
        let _ = self.send(Command::Withdraw(from));
    }

    fn prune(&mut self, trial: TrialId) {
        let _ = self.send(Command::Prune(trial));
    }

    fn drain(&mut self) {
        let _ = self.send(Command::Drain);
    }

    fn terminate(&mut self) {
        let _ = self.send(Command::Terminate);
    }

    /// Leaves all that runs to the next engine.
    fn kill(&mut self) {
        let _ = self.send(Command::Leave);
    }

    /// The cluster's jobs go on while the engine is stopped.
    fn pause(&mut self) {}

    fn resume(&mut self) {}

    fn shutdown(&mut self) {
        let _ = self.send(Command::Leave);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the thread that watches the cluster failed unexpectedly");
        }
    }
}

impl Drop for RemoteExecutor {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// Jobs by their attempts' keys; of several with one key, the one that may still run.
fn by_key(listed: Vec<Listed>) -> HashMap<String, Listed> {
    let mut jobs: HashMap<String, Listed> = HashMap::new();
    for job in listed {
        let rank = |state: JobState| match state {
            JobState::Over(_) => 0,
            JobState::Held => 1,
            JobState::Requeued => 2,
            JobState::Queued => 3,
            JobState::Ending => 4,
            JobState::Running => 5,
        };
        match jobs.get(&job.key) {
            Some(other) if rank(other.state) >= rank(job.state) => {}
            _ => drop(jobs.insert(job.key.clone(), job)),
        }
    }
    jobs
}
