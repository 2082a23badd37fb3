//! The rows that events fold to. What can be derived from other rows or from the plan is not stored: a case's
//! name and params, its parent, and whether it survived.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::failure::Failure;
use super::given::Given;
use super::ids::{AttemptNo, Micros, StageIndex, StudyId, TrialId, UnixMs};
use super::imported::Imported;
use super::keeping::Discarded;
use super::named::named;
use super::reuse::{Doubt, IdentityHash, Origin};
use super::value::{Metrics, Value};
use super::watched::Watched;

mod replicas;
mod stages;

pub use replicas::{LeftCase, Replicas, Rounds};
pub(crate) use stages::cut;
pub use stages::{Best, FirstObjective, Segment, StageCounters, StageHead, StageRow};

/// Where a study stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StudyStatus {
    /// Made, never run.
    Created,
    /// An engine has it open, or died with it open.
    Running,
    /// Stopped early, resumable.
    Interrupted,
    /// Every stage is closed.
    Completed,
    /// Ended by a rail or for want of survivors.
    Aborted,
}

named!(StudyStatus {
    Created => "created",
    Running => "running",
    Interrupted => "interrupted",
    Completed => "completed",
    Aborted => "aborted",
});

/// Where a stage stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StageStatus {
    /// An earlier stage is not closed yet.
    Waiting,
    /// Its trials run.
    Open,
    /// Its survivors are chosen.
    Closed,
    /// The study was aborted while it was open.
    Aborted,
}

named!(StageStatus {
    Waiting => "waiting",
    Open => "open",
    Closed => "closed",
    Aborted => "aborted",
});

/// What becomes of the stages after one that `piton retry` opened again, if it closes with other survivors than they began
/// with. The same survivors change nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LaterStages {
    /// Nobody was asked: they stay as they are.
    #[default]
    Stand,
    /// They stay as they are: so a person wants it.
    Keep,
    /// Children of those that survive no more go, and what is planned anew runs: so a person wants it, or nothing is lost by it.
    Discard,
}

named!(LaterStages {
    Stand => "stand",
    Keep => "keep",
    Discard => "discard",
});

/// Where a trial stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TrialState {
    /// Waits for its first or next attempt.
    Pending,
    /// An attempt runs.
    Running,
    /// Final.
    Succeeded,
    /// Final, unless `piton retry` makes it pending again.
    Failed,
    /// Its study was aborted first.
    Cancelled,
    /// Final: ended early, by its stage's halving or by a rule of its own. No failure, and never a survivor.
    Pruned,
    /// It has ended, and a rung has still to decide whether that counts: not final.
    Undecided,
}

named!(TrialState {
    Pending => "pending",
    Running => "running",
    Succeeded => "succeeded",
    Failed => "failed",
    Cancelled => "cancelled",
    Pruned => "pruned",
    Undecided => "undecided",
});

impl TrialState {
    /// Whether a trial in this state will not start again, unless a person asks for it.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled | Self::Pruned)
    }
}

/// How one attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AttemptOutcome {
    /// Accepted.
    Succeeded,
    /// Failed by itself.
    Failed,
    /// Cut off by shutdown, crash or power loss.
    Interrupted,
    /// Terminated because its study was aborted, or its trial was pruned.
    Cancelled,
}

named!(AttemptOutcome {
    Succeeded => "succeeded",
    Failed => "failed",
    Interrupted => "interrupted",
    Cancelled => "cancelled",
});

/// Where the proposer of a stage stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proposing {
    /// There is none: the plan says what the trials try.
    No,
    /// It is asked for trials as long as the stage has room.
    Open,
    /// It has said that it has no more.
    Ended,
}

/// How bad a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Expected now and then.
    Low,
    /// The usual.
    Medium,
    /// Worth a look.
    High,
    /// Counts towards `rails.catastrophic_failures`.
    Catastrophic,
}

named!(Severity {
    Low => "low",
    Medium => "medium",
    High => "high",
    Catastrophic => "catastrophic",
});

/// What aborts a study. Of rails that the same result breaks the first of these counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Rail {
    /// The base command failed.
    Base,
    /// A trial's metric lies beyond a bound of `abort_if`.
    AbortIf,
    /// `max_failure_rate`.
    MaxFailureRate,
    /// `catastrophic_failures`.
    CatastrophicFailures,
    /// None of a stage's trials succeeded.
    NoSurvivors,
    /// `max_runtime`: the only one that is a matter of time, not of results.
    MaxRuntime,
}

named!(Rail {
    Base => "base",
    AbortIf => "abort_if",
    MaxFailureRate => "max_failure_rate",
    CatastrophicFailures => "catastrophic_failures",
    NoSurvivors => "no_survivors",
    MaxRuntime => "max_runtime",
});

/// How a study was aborted, and what of it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abort {
    /// The rail that was broken.
    pub rail: Rail,
    /// The stage it was aborted in.
    pub stage: StageIndex,
    /// The trials of that stage below this place count: they decided it. What else had ended is kept and outside.
    pub counted: u64,
}

impl Abort {
    /// Whether a trial counts, given its stage and its place there.
    #[must_use]
    pub(crate) const fn counts(&self, stage: StageIndex, place: u64) -> bool {
        stage < self.stage || (stage == self.stage && place < self.counted)
    }
}

/// Which process an engine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineId {
    /// The process and when it started.
    pub process: ProcessId,
    /// Kernel boot the pid belongs to.
    pub boot_id: String,
    /// Host name, for people.
    pub host: String,
}

/// A process that cannot be confused with a later one of the same number (within one boot).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessId {
    /// Process id; for a trial also its process group's.
    pub pid: u32,
    /// Start time in clock ticks since boot (field 22 of `/proc/<pid>/stat`).
    pub start_ticks: u64,
}

/// Where attempts run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExecutorKind {
    /// On the engine's own machine: they end with it.
    #[default]
    Local,
    /// As jobs of a Ray cluster.
    Ray,
    /// As jobs of Slurm.
    Slurm,
}

named!(ExecutorKind {
    Local => "local",
    Ray => "ray",
    Slurm => "slurm",
});

impl ExecutorKind {
    /// Whether attempts outlive the engine, and the next one adopts them.
    #[must_use]
    pub const fn is_remote(self) -> bool {
        !matches!(self, Self::Local)
    }
}

/// What is known of an attempt's job on a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteJob {
    /// Which cluster.
    pub executor: ExecutorKind,
    /// The job's id there; empty while it is not known.
    pub id: String,
    /// Where it runs or ran.
    pub node: Option<String>,
    /// When it began to run there, by the node's clock; before, it was queued.
    pub started_ms: Option<UnixMs>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// It exited with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

/// What proposers said of trials: the values of the trials' own sweeps, in the sweep's order.
pub type Proposals = BTreeMap<TrialId, Vec<(String, Value)>>;

/// What an attempt used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Wall time, without the time the engine was stopped by SIGTSTP.
    pub wall_us: Micros,
    /// User plus system time of the trial's process and the descendants it waited for.
    pub cpu_us: Micros,
    /// Largest resident set of any one of them, bytes.
    pub peak_rss_bytes: u64,
}

/// An input file or directory as it was at creation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputHash {
    /// As the spec names it.
    pub path: String,
    /// Total bytes.
    pub bytes: u64,
    /// blake3, hex; for a directory over its sorted relative paths and contents.
    pub blake3: String,
}

/// What is in an input directory, so that a change of it can be described by its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputList {
    /// The directory, as the spec names it.
    pub input: String,
    /// Its hash, hex: the list is of the [`InputHash`] that has this one.
    pub blake3: String,
    /// Everything below it that is not left out; empty where that is too much to record.
    pub entries: Vec<InputEntry>,
}

/// Something below an input directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputEntry {
    /// Relative to the directory, as the file system has it.
    pub path: Vec<u8>,
    /// What it is: `f` a file, `d` a directory, `a` one met before, `s` pipe, socket or device, `l` a link that leads nowhere.
    pub kind: u8,
    /// blake3 of a file's contents, or of where a link leads.
    pub content: [u8; 32],
}

/// What a study's inputs and tools were for a time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Hashes of the inputs.
    pub inputs: Vec<InputHash>,
    /// What was in those that are directories, as far as it was recorded.
    pub lists: Vec<InputList>,
    /// Versions of the tools.
    pub versions: Vec<ToolVersion>,
    /// What of them was taken for what it is now: they are told as that is.
    pub accepted: Vec<AcceptedChange>,
    /// Attempts that succeeded or failed in that time and were not discarded since, by stage; the base command's are the first's.
    pub results: BTreeMap<StageIndex, u64>,
}

impl Identity {
    /// One that nothing was made with yet.
    #[must_use]
    pub fn new(inputs: Vec<InputHash>, versions: Vec<ToolVersion>) -> Self {
        Self { inputs, versions, ..Self::default() }
    }

    /// Takes for equal what a person did; `lists` are of the inputs as they are now.
    pub(crate) fn accept(&mut self, inputs: &[AcceptedChange], tools: &[AcceptedChange], lists: &[InputList]) {
        for change in inputs {
            for input in self.inputs.iter_mut().filter(|i| i.path == change.name && i.blake3 == change.old) {
                input.blake3.clone_from(&change.new);
                self.accepted.push(change.clone());
            }
            let now = lists.iter().filter(|list| list.input == change.name && list.blake3 == change.new);
            self.lists.extend(now.cloned());
        }
        for change in tools {
            for tool in self.versions.iter_mut().filter(|t| t.tool == change.name && t.version == change.old) {
                tool.version.clone_from(&change.new);
                self.accepted.push(change.clone());
            }
        }
    }

    /// Whether there are results of this stage or of later ones.
    #[must_use]
    pub(crate) fn has_results(&self, from: StageIndex) -> bool {
        self.results.range(from..).next().is_some()
    }
}

/// What a tool said of its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolVersion {
    /// As the spec names it.
    pub tool: String,
    /// Its words.
    pub version: String,
}

/// A declared output of an accepted attempt. What a job of a cluster says of it is path, bytes and blake3 in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(String, u64, [u8; 32])", into = "(String, u64, [u8; 32])")]
pub struct OutputHash {
    /// As the spec names it, relative to the attempt's directory.
    pub path: String,
    /// Total bytes.
    pub bytes: u64,
    /// blake3 of its contents.
    pub blake3: [u8; 32],
}

impl From<(String, u64, [u8; 32])> for OutputHash {
    fn from((path, bytes, blake3): (String, u64, [u8; 32])) -> Self {
        Self { path, bytes, blake3 }
    }
}

impl From<OutputHash> for (String, u64, [u8; 32]) {
    fn from(output: OutputHash) -> Self {
        (output.path, output.bytes, output.blake3)
    }
}

/// A survivor: the trial that children derive from, and the attempt whose directory they see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    /// The surviving trial.
    pub trial: TrialId,
    /// Its accepted attempt.
    pub attempt: AttemptNo,
}

impl Parent {
    /// In place of an attempt: the trial was taken out of its stage, and its number may be another's.
    pub const GONE: AttemptNo = AttemptNo::MAX;
}

/// How the base command stands.
#[derive(Clone, Debug, PartialEq)]
pub struct BaseRow {
    /// Pending after an interruption, running, succeeded or failed.
    pub state: TrialState,
    /// All attempts, in order.
    pub attempts: Vec<AttemptRow>,
    /// Why it failed.
    pub failure: Option<Failure>,
}

/// A person's approval of a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    /// Who, as they say.
    pub by: String,
    /// What they added; may be empty.
    pub note: String,
    /// When.
    pub at_ms: UnixMs,
}

/// The study, as far as it seldom changes.
#[derive(Clone, Debug, PartialEq)]
pub struct StudyRow {
    /// Random identity.
    pub study_id: StudyId,
    /// The study's name.
    pub name: String,
    /// Cases are `<base_case>_<stage_index>_<derived_index>`.
    pub base_case: String,
    /// Drives every random choice.
    pub seed: u64,
    /// The checked spec in its canonical text.
    pub spec: String,
    /// blake3 of what a resume must match, hex.
    pub spec_hash: String,
    /// Hashes of the inputs.
    pub inputs: Vec<InputHash>,
    /// Versions of the tools that the spec names, by tool: those of every trial, since no other ones go on.
    pub versions: Vec<ToolVersion>,
    /// The study file's directory, relative to the store's where possible.
    pub study_dir: String,
    /// The artifacts directory, relative to the store's where possible.
    pub artifacts_dir: String,
    /// The study file's name; empty for a study built in code.
    pub study_file: String,
    /// Planner version.
    pub plan_version: u32,
    /// Number of stages.
    pub stage_count: u32,
    /// When it was created.
    pub created_ms: UnixMs,
    /// Where it stands.
    pub status: StudyStatus,
    /// Why it was aborted.
    pub abort_reason: Option<String>,
    /// The trials that broke a rail.
    pub violating: Vec<TrialId>,
    /// What of an aborted study counts. `None` also in one that was aborted by a piton that did not say so: there, whatever
    /// had ended counts.
    pub abort: Option<Abort>,
    /// The last engine that opened it, and whether it said goodbye.
    pub engine: Option<EngineId>,
    /// False while an engine runs and after it died without `RunEnded`.
    pub engine_closed: bool,
    /// Runs so far.
    pub runs: u32,
    /// Workers of the last run.
    pub workers: u32,
    /// How long, in the last run, what happened could wait for its commit, milliseconds: what ended in the last so many
    /// before a crash runs again. 0: not at all.
    pub sync_interval_ms: u64,
    /// Set while the running engine drains.
    pub draining: bool,
    /// Why the cluster that trials run on cannot be asked; they go on meanwhile.
    pub cluster_trouble: Option<String>,
    /// The base command, once it started.
    pub base: Option<BaseRow>,
    /// What was found to be no function of what its results are known by; the first of each.
    pub doubts: Vec<Doubt>,
    /// Changed inputs that count as equal, in the order in which that was said.
    pub accepted: Vec<Accepted>,
}

impl StudyRow {
    /// Takes back that it was aborted.
    pub(crate) fn forget_abort(&mut self) {
        self.abort_reason = None;
        self.violating.clear();
        self.abort = None;
    }

    /// The engine that has not closed the study: it runs, or it died.
    #[must_use]
    pub(crate) fn open_engine(&self) -> Option<&EngineId> {
        self.engine.as_ref().filter(|_| !self.engine_closed)
    }
}

/// An input or a tool that is another one, and counts as the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedChange {
    /// The input as the spec names it, or the tool.
    pub name: String,
    /// Its hash or version before.
    pub old: String,
    /// The one that counts as equal.
    pub new: String,
}

/// That a person said of changed inputs that results made with the old ones stand for those of the new.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Who, as they say.
    pub by: String,
    /// Why, in their words.
    pub note: String,
    /// When.
    pub at_ms: UnixMs,
    /// Inputs, each with its hashes in hex.
    pub inputs: Vec<AcceptedChange>,
    /// Tools, each with its versions.
    pub tools: Vec<AcceptedChange>,
}

impl Accepted {
    /// Makes inputs and tools what they were before it; whether any of them is one that it concerns.
    pub(crate) fn undo(&self, inputs: &mut [InputHash], versions: &mut [ToolVersion]) -> bool {
        let mut undone = false;
        for change in &self.inputs {
            for input in inputs.iter_mut().filter(|input| input.path == change.name && input.blake3 == change.new)
            {
                input.blake3.clone_from(&change.old);
                undone = true;
            }
        }
        for change in &self.tools {
            for tool in versions.iter_mut().filter(|tool| tool.tool == change.name && tool.version == change.new) {
                tool.version.clone_from(&change.old);
                undone = true;
            }
        }
        undone
    }
}

/// The study, as far as every event changes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StudyProgress {
    /// Sequence number of the last event.
    pub last_seq: u64,
    /// Running time of all earlier runs, milliseconds.
    pub earlier_runs_ms: u64,
    /// Running time of the last run as of its last event, milliseconds.
    pub this_run_ms: u64,
    /// Wall clock of the last event.
    pub last_event_ms: UnixMs,
    /// Attempts by how they ended; always `started = succeeded + failed + interrupted + cancelled + running`.
    pub accounting: Accounting,
    /// Trials that failed for good with severity catastrophic.
    pub catastrophic: u64,
    /// Hash chain over every event so far: `blake3(chain before || event's bytes)`. Set by the journal.
    pub chain: [u8; 32],
}

/// Attempts of the whole study.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Accounting {
    /// Attempts recorded as started.
    pub attempts_started: u64,
    /// Accepted.
    pub succeeded: u64,
    /// Failed by themselves.
    pub failed: u64,
    /// Cut off by shutdown, crash, power loss or an abort, or ended because their trials were pruned.
    pub interrupted: u64,
    /// Running now.
    pub running: u64,
    /// Trials that took the result of an equal one: no attempts.
    pub reused: u64,
    /// Trials whose result was made elsewhere and imported: no attempts.
    pub imported: u64,
}

impl Accounting {
    /// `26 started, 20 succeeded, 2 failed, 1 interrupted, 3 pruned`: what there was none of is left out. So many of those that were cut off
    /// are known to be pruned.
    #[must_use]
    pub fn words(&self, pruned: u64) -> String {
        let pruned = pruned.min(self.interrupted);
        let counts = [
            (self.succeeded, "succeeded"),
            (self.failed, "failed"),
            (self.interrupted - pruned, "interrupted"),
            (pruned, "pruned"),
            (self.running, "running"),
        ];
        let mut words = format!("{} started", self.attempts_started);
        for (count, word) in counts.into_iter().filter(|(count, _)| *count > 0) {
            words.push_str(&format!(", {count} {word}"));
        }
        words
    }
}

impl fmt::Display for Accounting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words(0))
    }
}

/// A trial that has started at least once.
#[derive(Clone, Debug, PartialEq)]
pub struct TrialRow {
    /// Its number.
    pub trial: TrialId,
    /// Its stage.
    pub stage: StageIndex,
    /// Where it stands.
    pub state: TrialState,
    /// While pending: its place in the ready queue.
    pub due_ms: UnixMs,
    /// Failed attempts since its creation or the last `piton retry`; retries are counted by this.
    pub failures: u32,
    /// All attempts, in order; immutable once ended.
    pub attempts: Vec<AttemptRow>,
    /// Of the accepted attempt.
    pub metrics: Metrics,
    /// Of the last failed attempt, while the trial is failed.
    pub failure: Option<Failure>,
    /// Of the accepted attempt.
    pub outputs: Vec<OutputHash>,
    /// What its result depends on, where its stage reuses.
    pub identity: Option<IdentityHash>,
    /// Whose result it took, if it did not make it.
    pub reused_from: Option<Origin>,
    /// Where its result comes from, if it was made elsewhere.
    pub imported: Option<Imported>,
    /// What it has shown, where its stage watches.
    pub watched: Option<Box<Watched>>,
    /// What was discarded of its directories.
    pub discarded: Vec<Discarded>,
    /// What its attempts have or had, by their numbers, where its stage's trials are given items.
    pub given: Vec<(AttemptNo, Vec<Given>)>,
}

impl TrialRow {
    /// A trial that has not started.
    pub(crate) fn new(trial: TrialId, stage: StageIndex) -> Self {
        Self {
            trial,
            stage,
            state: TrialState::Pending,
            due_ms: 0,
            failures: 0,
            attempts: Vec::new(),
            metrics: Metrics::default(),
            failure: None,
            outputs: Vec::new(),
            identity: None,
            reused_from: None,
            imported: None,
            watched: None,
            discarded: Vec::new(),
            given: Vec::new(),
        }
    }
}

/// One attempt of a trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptRow {
    /// Number, from 1.
    pub n: AttemptNo,
    /// `None` while it runs.
    pub outcome: Option<AttemptOutcome>,
    /// Worker slot, from 0.
    pub slot: u32,
    /// Wall clock at its start.
    pub started_ms: UnixMs,
    /// Wall clock at its end.
    pub ended_ms: Option<UnixMs>,
    /// How its process ended, if known.
    pub exit: Option<Exit>,
    /// What it used.
    pub usage: Usage,
    /// Its job, if it runs or ran on a cluster that has named it.
    pub remote: Option<RemoteJob>,
}

impl AttemptRow {
    /// An attempt that runs.
    pub(crate) fn begun(n: AttemptNo, slot: u32, started_ms: UnixMs) -> Self {
        Self {
            n,
            outcome: None,
            slot,
            started_ms,
            ended_ms: None,
            exit: None,
            usage: Usage::default(),
            remote: None,
        }
    }

    /// What it used, where that is known: not while it runs, nor of one whose end nobody saw.
    #[must_use]
    pub fn measured(&self) -> Option<Usage> {
        let seen = matches!(self.outcome, Some(AttemptOutcome::Succeeded | AttemptOutcome::Failed));
        Some(self.usage).filter(|usage| seen || *usage != Usage::default())
    }
}

/// An attempt that runs, as the next engine needs it to clean up after this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunningRow {
    /// The trial's number in the study, from 0.
    pub trial: TrialId,
    /// The attempt's number, from 1.
    pub attempt: AttemptNo,
    /// Its process, for a command on this machine.
    pub process: Option<ProcessId>,
    /// Where it runs.
    pub executor: ExecutorKind,
}
