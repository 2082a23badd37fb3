//! Where trials run: the interface between the engine and whatever starts, watches and kills them.
//!
//! An executor gets jobs to run and reports what became of them, as messages. It never touches the journal, never
//! decides what becomes of a trial after an attempt, and never reports a success whose outputs are not durable.

mod beside;
mod failure_rules;
pub(crate) mod inherited;
pub(crate) mod local;
#[cfg(feature = "cluster")]
pub(crate) mod remote;
pub(crate) mod reporting;
pub(crate) mod watching;

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::Sender;

use local::keeper::KeeperClient;

use crate::model::artifacts::PROGRESS_FILE;
use crate::model::{
    AttemptNo, Exit, Given, OutputHash, Params, ProcessId, RemoteJob, StageIndex, StudyId, TrialId, UnixMs, Usage,
    Value, Verdict,
};
use crate::study_file::progress::Printed;
use crate::study_file::watching::{Lookout, Showing};
use crate::study_file::{
    BaseSpec, ExecutorSpec, MEMORY, MetricRule, Part, Proposer, Spec, StageSpec, Template, Work,
};
use crate::sys::opened::Below;

pub(crate) use beside::Beside;
pub(crate) use failure_rules::CompiledFailure;
pub(crate) use failure_rules::CompiledMatch;
pub(crate) use inherited::Inherited;
pub use inherited::ParentDiffers;

/// What a remote executor works with.
#[cfg_attr(not(feature = "cluster"), expect(dead_code, reason = "what runs there is left out"))]
pub(crate) struct RemoteSetup {
    /// The study's spec; its `[run]` names the cluster.
    pub(crate) spec: Arc<Spec>,
    pub(crate) study: StudyId,
    /// `artifacts/<study>`, absolute.
    pub(crate) study_artifacts: PathBuf,
    /// The piton program, to be copied to where the nodes find it, unless the spec names one.
    pub(crate) program: Option<PathBuf>,
    /// Starts what the study needs for itself.
    pub(crate) keeper: Option<KeeperClient>,
    /// Attempts that an earlier run left running: control directories of others are removed.
    pub(crate) left: Vec<(TrialId, AttemptNo)>,
    /// Where to report.
    pub(crate) events: Sender<ExecutorEvent>,
}

/// An executor whose trials are jobs of a cluster.
///
/// # Errors
/// Why the cluster cannot be used, in words.
#[cfg(feature = "cluster")]
pub(crate) fn on_cluster(setup: RemoteSetup) -> Result<Box<dyn Executor>, String> {
    Ok(Box::new(remote::RemoteExecutor::new(setup)?))
}

/// Likewise, where there is none.
#[cfg(not(feature = "cluster"))]
pub(crate) fn on_cluster(_: RemoteSetup) -> Result<Box<dyn Executor>, String> {
    Err("this program was built without the feature `cluster`".to_owned())
}

/// Removes what runs on a cluster have left on this machine that nobody uses.
pub(crate) fn remove_cluster_leftovers(executor: &ExecutorSpec) {
    #[cfg(feature = "cluster")]
    remote::remove_leftovers(executor);
    #[cfg(not(feature = "cluster"))]
    let _ = executor;
}

/// The environment variable by which a trial's processes are recognised, wherever they went.
pub(crate) const ATTEMPT_KEY_VAR: &str = "PITON_ATTEMPT_KEY";

/// What names one attempt, among all studies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttemptKey {
    pub study: StudyId,
    pub trial: TrialId,
    /// The attempt, from 1.
    pub attempt: AttemptNo,
}

impl fmt::Display for AttemptKey {
    /// `<study, hex>.<trial>.<attempt>`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.study, self.trial, self.attempt)
    }
}

impl AttemptKey {
    /// Reads what [`Display`](fmt::Display) wrote; `None` if it is no such text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let (study, trial, attempt) = (parts.next()?, parts.next()?, parts.next()?);
        if study.len() != 32 || parts.next().is_some() {
            return None;
        }
        let study = StudyId(u128::from_str_radix(study, 16).ok()?.to_be_bytes());
        let key = Self { study, trial: TrialId(trial.parse().ok()?), attempt: attempt.parse().ok()? };
        // Signs, leading zeros, capitals: not ours.
        (key.to_string() == text).then_some(key)
    }
}

/// One attempt to run.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub key: AttemptKey,
    pub stage: StageIndex,
    pub case: String,
    /// The case it derives from.
    pub parent_case: String,
    /// The surviving parent's attempt directory, absolute; `None` in stage 0.
    pub parent_dir: Option<PathBuf>,
    /// What the parent left there, as recorded; `None` in stage 0.
    pub inherited: Option<Arc<Inherited>>,
    pub params: Params,
    /// Its seed, the same in every attempt.
    pub seed: u32,
    /// Which replica of its case it is, where cases are repeated.
    pub replica: Option<u32>,
    /// The slot it was given when its start was recorded; workers of this machine have their own.
    #[cfg_attr(not(feature = "cluster"), expect(dead_code, reason = "only clusters need it"))]
    pub slot: u32,
    /// What it has of what trials share, until it has ended.
    pub given: Vec<Given>,
    /// The attempt's directory, absolute; made by the executor.
    pub dir: PathBuf,
    /// The trial's scratch directory, absolute; made by the executor, kept across attempts.
    pub scratch_dir: PathBuf,
    /// When its stage opened, Unix milliseconds: what a trial reported before that was another study's.
    pub opened_ms: Option<UnixMs>,
    /// When its last attempt before this one started, Unix milliseconds.
    pub last_started_ms: Option<UnixMs>,
    /// When an input of the study last changed in any way, Unix milliseconds.
    pub inputs_changed_ms: Option<UnixMs>,
    /// What lies in the attempt's place since before this time, Unix milliseconds, is moved aside: it may be a result that an
    /// equal trial takes. `None`: it is removed.
    pub keeps_from_before_ms: Option<UnixMs>,
    /// Nothing runs: these outputs of an earlier result are put in the place of an attempt.
    pub takes: Option<Arc<Takes>>,
    /// What all of the stage's jobs share.
    pub stage_spec: Arc<StageRuntime>,
}

impl Job {
    /// What the trial reports while it runs, kept across attempts as its scratch directory is.
    pub(crate) fn progress_file(&self) -> PathBuf {
        self.scratch_dir.with_file_name(PROGRESS_FILE)
    }
}

/// Outputs of an earlier result, to be taken over as they were recorded.
#[derive(Clone, Debug)]
pub(crate) struct Takes {
    /// The directory of the attempt that left them.
    pub from: Below,
    /// They, as recorded.
    pub outputs: Vec<OutputHash>,
}

/// A stage, made ready once for all its trials.
#[derive(Debug)]
pub(crate) struct StageRuntime {
    pub study: String,
    /// The study file's directory, absolute: programs and `{study_dir}` are relative to it.
    pub study_dir: PathBuf,
    /// The artifacts directory, absolute: outputs are made durable up to it.
    pub artifacts_dir: PathBuf,
    pub name: String,
    /// What its trials run.
    pub work: Work,
    /// TERM after this long.
    pub timeout: Option<Duration>,
    /// TERM → KILL.
    pub grace: Duration,
    /// Memory that one of its trials may take, bytes.
    pub memory_limit_bytes: Option<u64>,
    /// What must exist after success, relative to the attempt's directory.
    pub outputs: Vec<String>,
    /// Metrics without which an attempt fails.
    pub needed_metrics: BTreeSet<String>,
    /// Metrics read out of files.
    pub rules: Vec<CompiledRule>,
    /// Reports read from what is printed.
    pub printed: Option<Printed>,
    /// Whether the last report of a metric is its value where there is no other.
    pub reports_count: bool,
    /// What of its reports may end a trial early, before the first of them.
    pub lookout: Option<Lookout>,
    /// How failures are named; the first that matches.
    pub failures: Vec<CompiledFailure>,
    /// `[env]`.
    pub env: Vec<(String, String)>,
    pub told: SaidOnce,
}

/// What was said already: of thousands of equal things one is said.
#[derive(Debug, Default)]
pub(crate) struct SaidOnce(Mutex<BTreeSet<String>>);

impl SaidOnce {
    /// Whether this is to be said; from now on it was. Of very many different things no more are said.
    pub(crate) fn is_new(&self, what: &str) -> bool {
        /// More than people read.
        const MOST: usize = 100;
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.len() < MOST && !told.contains(what) && told.insert(what.to_owned())
    }
}

/// One entry of `[stage.metrics]`, compiled.
#[derive(Clone, Debug)]
pub(crate) struct CompiledRule {
    pub metric: String,
    /// Relative to the attempt's directory.
    pub file: String,
    /// Over bytes: files are what they are.
    pub regex: regex::bytes::Regex,
    /// The number read is multiplied by this.
    pub scale: f64,
}

impl CompiledRule {
    /// Compiles a rule.
    ///
    /// # Errors
    /// If the expression is not valid; the check refuses those.
    pub(crate) fn new(metric: &str, rule: &MetricRule) -> Result<Self, regex::Error> {
        let regex = regex::bytes::Regex::new(&rule.regex)?;
        Ok(Self { metric: metric.to_owned(), file: rule.file.clone(), regex, scale: rule.scale })
    }
}

/// What the stages of a study share, for [`StageRuntime::new`].
#[derive(Clone, Debug)]
pub(crate) struct StudyRuntime {
    pub study: String,
    /// The study file's directory, absolute.
    pub study_dir: PathBuf,
    /// The artifacts directory, absolute.
    pub artifacts_dir: PathBuf,
    /// TERM → KILL.
    pub grace: Duration,
    /// `[env]`.
    pub env: Vec<(String, String)>,
}

impl StudyRuntime {
    /// A study as its spec has it, in these directories, absolute.
    #[must_use]
    pub(crate) fn new(spec: &Spec, study_dir: &Path, artifacts_dir: &Path) -> Self {
        Self {
            study: spec.study.name.clone(),
            study_dir: study_dir.to_owned(),
            artifacts_dir: artifacts_dir.to_owned(),
            grace: Duration::from_millis(spec.run.grace_ms),
            env: spec.env.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        }
    }
}

impl StageRuntime {
    /// The base command made ready: a stage without params, metrics or outputs of its own.
    #[must_use]
    pub(crate) fn of_base(study: &StudyRuntime, base: &BaseSpec) -> Self {
        Self {
            study: study.study.clone(),
            study_dir: study.study_dir.clone(),
            artifacts_dir: study.artifacts_dir.clone(),
            name: "base".into(),
            work: base.work.clone(),
            timeout: base.timeout_ms.map(Duration::from_millis),
            grace: study.grace,
            memory_limit_bytes: None,
            outputs: Vec::new(),
            needed_metrics: BTreeSet::new(),
            rules: Vec::new(),
            printed: None,
            reports_count: true,
            lookout: None,
            failures: Vec::new(),
            env: study.env.clone(),
            told: SaidOnce::default(),
        }
    }

    /// A stage's proposer made ready, as a command without placeholders.
    #[must_use]
    pub(crate) fn of_proposer(study: &StudyRuntime, stage: &str, proposer: &Proposer) -> Self {
        let words = proposer.command.iter().map(|word| Template { parts: vec![Part::Text(word.clone())] });
        let work = Work::Argv(words.collect());
        let bare = Self::of_base(study, &BaseSpec { work, timeout_ms: None });
        Self { name: stage.to_owned(), ..bare }
    }

    /// Makes a stage ready. Objectives' metrics are the needed ones.
    ///
    /// # Errors
    /// If a rule's expression is not valid; the check refuses those.
    pub(crate) fn new(study: &StudyRuntime, stage: &StageSpec) -> Result<Self, regex::Error> {
        let rules = stage.metrics.iter().map(|(metric, rule)| CompiledRule::new(metric, rule));
        // What a closure takes is its program's: nothing holds it to that.
        let needed = stage.run.needs.get(MEMORY).copied().filter(|_| stage.work != Work::Closure);
        Ok(Self {
            study: study.study.clone(),
            study_dir: study.study_dir.clone(),
            artifacts_dir: study.artifacts_dir.clone(),
            name: stage.name.clone(),
            work: stage.work.clone(),
            timeout: stage.timeout_ms.map(Duration::from_millis),
            grace: study.grace,
            memory_limit_bytes: stage.memory_limit_bytes.or(needed),
            outputs: stage.outputs.clone(),
            needed_metrics: stage.needed_metrics().map(str::to_owned).collect(),
            rules: rules.collect::<Result<_, _>>()?,
            printed: Printed::new(&stage.progress)?,
            reports_count: !stage.progress.only_watched,
            lookout: Lookout::new(stage),
            failures: stage.failures.iter().map(CompiledFailure::new).collect::<Result<_, _>>()?,
            env: study.env.clone(),
            told: SaidOnce::default(),
        })
    }
}

/// What an executor reports.
#[derive(Debug)]
#[cfg_attr(not(feature = "cluster"), expect(dead_code, reason = "only clusters need it"))]
pub(crate) enum ExecutorEvent {
    /// An attempt started. Comes before its end, always.
    Started {
        /// The trial's number in the study, from 0.
        trial: TrialId,
        /// The attempt's number, from 1.
        attempt: AttemptNo,
        /// Worker slot, from 0.
        slot: u32,
        /// Its process; `None` for a closure, and for a command that could not be started.
        process: Option<ProcessId>,
        at_ms: UnixMs,
    },
    /// A cluster has an attempt's job, or knows more of it.
    Placed {
        /// The trial's number in the study, from 0.
        trial: TrialId,
        /// The attempt's number, from 1.
        attempt: AttemptNo,
        /// All that is known by now.
        job: RemoteJob,
    },
    /// A running attempt has reported something that may end trials early.
    Shown {
        /// The trial's number in the study, from 0.
        trial: TrialId,
        /// The attempt's number, from 1.
        attempt: AttemptNo,
        /// What was not told yet.
        shown: Box<Showing>,
        /// Whether the inputs were found unchanged after that.
        looked: bool,
    },
    /// An attempt ended; nothing it started is alive.
    Ended(Box<AttemptReport>),
    /// A job came back unstarted after [`Executor::drain`] or [`Executor::withdraw`].
    Returned {
        /// The trial's number in the study, from 0.
        trial: TrialId,
    },
    /// A proposer answered.
    Proposed(Box<Answer>),
    /// The cluster cannot be asked, in words, or can again. Whatever runs there goes on.
    Cluster {
        /// Why not; `None`: it answers.
        trouble: Option<String>,
    },
    /// An attempt ended, and the inputs were found unchanged after that, or it counts as interrupted.
    Looked(Box<AttemptReport>),
    /// What trials depend on is not what is recorded: nothing more of it can be relied on.
    Differs(Differs),
    /// The executor itself cannot go on; in words. Running attempts still end, as interrupted.
    Broken(String),
}

/// What trials depend on, and is not what is recorded any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Differs {
    /// Inputs, each in words.
    Inputs(Vec<String>),
    /// What a survivor left, whose children were about to start or have run.
    Parent(Box<ParentDiffers>),
}

impl Differs {
    /// In one line.
    #[must_use]
    pub(crate) fn words(&self) -> String {
        match self {
            Self::Inputs(changes) => changes.join("; "),
            Self::Parent(parent) => parent.to_string(),
        }
    }
}

/// What came of asking a stage's proposer for a trial.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    /// Its stage's index, from 0.
    pub stage: StageIndex,
    /// Which place in it was asked for.
    pub index: u64,
    pub said: Said,
}

/// What a proposer said.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Said {
    Values {
        /// Of the stage's own sweep, in its order.
        values: Vec<(String, Value)>,
        /// How often it repeated an earlier case of the stage before.
        merged: u32,
    },
    /// It has no more, in words.
    NoMore(String),
    /// It cannot be asked, in words; the study can go on once that is mended.
    Failed(String),
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct AttemptReport {
    /// The trial's number in the study, from 0.
    pub trial: TrialId,
    /// The attempt's number, from 1.
    pub attempt: AttemptNo,
    /// When, by the wall clock.
    pub ended_ms: UnixMs,
    /// How its process ended, if there was one and it is known.
    pub exit: Option<Exit>,
    /// What it used.
    pub usage: Usage,
    /// Succeeded, failed or interrupted.
    pub verdict: Verdict,
    /// All of its trial's reports that may end trials early, told already or not.
    pub(crate) shown: Showing,
}

/// Why an executor takes no job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ExecutorError {
    /// It drains or was shut down.
    #[error("the executor takes no more trials")]
    Closed,
}

/// Something that runs attempts. Its events arrive on a channel given at its making.
pub(crate) trait Executor {
    /// Takes a job; it starts when a worker is free.
    ///
    /// # Errors
    /// [`ExecutorError`]; nothing of the job happened then.
    fn submit(&mut self, job: Job) -> Result<(), ExecutorError>;
    /// Takes over an attempt of an earlier run: it is watched if it runs, reported if it has ended, and started if it never
    /// was. Only attempts that outlive an engine can be adopted.
    ///
    /// # Errors
    /// [`ExecutorError`]; nothing of the job happened then.
    fn adopt(&mut self, job: Job) -> Result<(), ExecutorError>;
    /// The attempt's end is recorded: what reported it may go.
    fn forget(&mut self, _trial: TrialId, _attempt: AttemptNo) {}
    /// Starts no trial from this number on any more: those that wait come back as [`ExecutorEvent::Returned`], what runs goes
    /// on. None of them is submitted after that, until it is called with [`TrialId::BASE`], the highest number: then nothing is withdrawn any
    /// more.
    fn withdraw(&mut self, from: TrialId);
    /// Ends the attempt of a trial that is pruned, TERM and KILL after the grace, and reports that; one that has not started comes
    /// back as [`ExecutorEvent::Returned`].
    fn prune(&mut self, trial: TrialId);
    /// Starts nothing more: queued jobs come back as [`ExecutorEvent::Returned`], running ones go on.
    fn drain(&mut self);
    /// Drains, and ends what runs: TERM, and KILL after the grace. Those attempts end as interrupted.
    fn terminate(&mut self);
    /// Drains, and kills what runs at once; what runs on a cluster is left to the engine that adopts it.
    fn kill(&mut self);
    /// Stops the trials and their clocks.
    fn pause(&mut self);
    /// Lets them go on.
    fn resume(&mut self);
    /// Drains, and waits until everything has ended and been reported.
    fn shutdown(&mut self);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_and_nothing_else_does() {
        let key = AttemptKey { study: StudyId([0xab; 16]), trial: TrialId(17), attempt: 2 };
        let text = key.to_string();
        assert_eq!(text, format!("{}.17.2", "ab".repeat(16)));
        assert_eq!(AttemptKey::parse(&text), Some(key));
        for bad in
            ["", "ab.1.1", &text[1..], &text.to_uppercase(), &format!("{text}.1"), &text.replace("17", "+17")]
        {
            assert_eq!(AttemptKey::parse(bad), None, "{bad}");
        }
    }
}
