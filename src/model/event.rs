//! The closed vocabulary of the journal: everything that can happen to a study.

use serde::{Deserialize, Serialize};

use super::failure::Failure;
use super::given::Given;
use super::ids::{AttemptNo, StageIndex, StudyId, TrialId, UnixMs};
use super::imported::{ResultsTold, TrialImport};
use super::keeping::DirectoriesDiscarded;
use super::named::named;
use super::reread::Reread;
use super::reuse::{Doubt, IdentityHash, Origin, Reused};
use super::rows::{
    Abort, AcceptedChange, AttemptOutcome, Best, EngineId, ExecutorKind, Exit, FirstObjective, InputHash,
    InputList, LaterStages, LeftCase, OutputHash, Parent, ProcessId, RemoteJob, Segment, ToolVersion, Usage,
};
use super::value::{Metrics, Value};
use super::watched::{RungVerdict, StopIfMet};

/// One entry of the journal. Its sequence number is its key there.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Wall clock when the engine decided it. For people; order comes from the sequence number.
    pub at_ms: UnixMs,
    /// Milliseconds of running time of this run of the engine (a steady clock, stopped while the engine is
    /// stopped); 0 for events recorded while no engine runs.
    pub run_ms: u64,
    /// What happened.
    pub event: Event,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Always the first event, and only that.
    StudyCreated(Box<StudyCreated>),
    /// An engine opened the study.
    RunStarted {
        /// Which process.
        engine: EngineId,
        /// How many trials it runs at once.
        workers: u32,
        /// How long what happened may wait for its commit, milliseconds; see [`StudyRow::sync_interval_ms`](super::StudyRow).
        sync_interval_ms: u64,
    },
    /// The engine was asked to stop dequeuing and let running trials finish.
    DrainStarted {
        /// Who asked: a signal's name, `stop`, `library`, or a rail.
        by: String,
    },
    /// A stage's trials are planned; they may start.
    StageOpened {
        /// Its stage's index, from 0.
        stage: StageIndex,
        /// Survivors of the stage before, best first; empty for stage 0.
        parents: Vec<Parent>,
        /// How many trials each parent gets, in the parents' order; one entry for stage 0.
        shares: Vec<u64>,
    },
    /// A proposer said what the next trial of its stage tries.
    TrialProposed {
        /// The trial: the number after the stage's last one.
        trial: TrialId,
        /// The values of its own sweep, in the sweep's order.
        values: Vec<(String, Value)>,
        /// Proposals before this one that repeated an earlier case of the stage, and were not run again.
        merged: u32,
    },
    /// A stage gets no further trials from its proposer.
    ProposalsEnded {
        /// Its stage's index, from 0.
        stage: StageIndex,
        /// Why, in words.
        reason: String,
    },
    /// A trial's process or closure runs; or, on a cluster, is about to be submitted: the intent, under which it is found
    /// again after a crash, whatever became of the submission.
    AttemptStarted {
        /// The trial's number in the study, from 0.
        trial: TrialId,
        /// Which attempt, from 1.
        attempt: AttemptNo,
        /// Worker slot, from 0.
        slot: u32,
        /// The process, for a command on this machine.
        process: Option<ProcessId>,
        /// Where it runs.
        executor: ExecutorKind,
    },
    /// The cluster has a running attempt's job, or more is known of it. Its trial may be [`TrialId::BASE`].
    AttemptPlaced {
        /// The trial's number in the study, from 0.
        trial: TrialId,
        /// The attempt's number, from 1.
        attempt: AttemptNo,
        /// All that is known by now.
        job: RemoteJob,
    },
    /// What an attempt has that has just begun, where trials of its stage are given items. In the commit of its start.
    ResourcesGiven {
        /// The trial's number in the study, from 0.
        trial: TrialId,
        /// Which attempt, from 1.
        attempt: AttemptNo,
        /// All that it has.
        given: Vec<Given>,
    },
    /// The cluster cannot be asked any more, or can again.
    ClusterChanged {
        /// Why it cannot, in words.
        trouble: Option<String>,
    },
    /// The attempt ended, or is known to be gone.
    AttemptEnded(Box<AttemptEnd>),
    /// The base command runs.
    BaseStarted {
        /// Which attempt, from 1.
        attempt: AttemptNo,
        /// Worker slot, from 0.
        slot: u32,
        /// Its process, on this machine.
        process: Option<ProcessId>,
        /// Where it runs.
        executor: ExecutorKind,
    },
    /// The base command ended; its trial is [`TrialId::BASE`].
    BaseEnded(Box<AttemptEnd>),
    /// A person let a stage begin (`piton approve`).
    StageApproved {
        /// Its stage's index, from 0.
        stage: StageIndex,
        /// Who, as they say.
        by: String,
        /// What they add.
        note: String,
    },
    /// The study was changed by a person (`piton amend`).
    SpecAmended(Box<SpecAmended>),
    /// A failed trial of the open stage was made pending again by a person (`piton retry`).
    TrialReset {
        /// The trial's number in the study, from 0.
        trial: TrialId,
    },
    /// Nothing of the stage is pending or running; its survivors are chosen, and those that explore stand after them.
    StageClosed {
        /// Its stage's index, from 0.
        stage: StageIndex,
        /// Best first.
        survivors: Vec<Parent>,
    },
    /// The last stage closed with survivors.
    StudyCompleted,
    /// A rail, or no survivors: the study ends here. Older engines wrote this, without what counts; none does any
    /// more.
    StudyAborted {
        /// In words.
        reason: String,
        /// The trials that broke the rail, if it names any.
        violating: Vec<TrialId>,
    },
    /// A rail, or no survivors: the study ends here, by the lowest-numbered trials that suffice.
    StudyAbortedBy {
        /// By what, and what counts.
        abort: Abort,
        /// In words.
        reason: String,
        /// All trials that broke the rail, of those that count.
        violating: Vec<TrialId>,
    },
    /// All after this was made by `piton salvage` of the rows of a store that had lost events.
    Rebuilt {
        /// Events the damaged store is known to have had.
        known: u64,
        /// Of these, how many could not be read.
        lost: u64,
    },
    /// The engine closed the study in good order.
    RunEnded {
        /// Why it stopped.
        how: RunEnd,
    },
    /// What is in the input directories whose hashes [`StudyCreated`] or [`SpecAmended`] has, right after it: so that a
    /// change can be described by its files.
    InputsListed {
        /// Each directory.
        lists: Vec<InputList>,
    },
    /// What the result depends on that the event before recorded: it is found by that from now on.
    ResultIdentified {
        /// Which trial.
        trial: TrialId,
        /// Which attempt.
        attempt: AttemptNo,
        /// All it depends on.
        identity: IdentityHash,
    },
    /// A trial takes the result of an equal one, and makes no attempt.
    TrialReused(Box<Reused>),
    /// A result was found for a trial and could not be taken.
    ReuseMissed {
        /// Which trial.
        trial: TrialId,
        /// Whose result.
        origin: Origin,
        /// Why not, in words.
        reason: String,
    },
    /// A trial that was run to check a result that it could have taken came to another one: its stage takes none from now on. Right
    /// after the end of its attempt, in the same commit.
    ReuseDiffered(Box<Doubt>),
    /// What the finished trials of a stage left was read again, since its rules have changed; what came of it follows.
    StageReread {
        /// Its stage's index, from 0.
        stage: StageIndex,
        /// How many trials' files were read.
        read: u64,
        /// The best value so far of the first objective, by what was found.
        best: Option<Best>,
    },
    /// What a finished trial left gives another result by the rules that count from now on.
    ResultReread(Box<Reread>),
    /// A trial has a result that was made elsewhere (`piton import`), and makes no attempt.
    TrialImported(Box<TrialImport>),
    /// A stage's proposer is to be told of results that were made elsewhere, before its first question.
    ResultsTold(Box<ResultsTold>),
    /// A person took changed inputs as equal to what results were made with (`piton amend --accept-inputs`), right after the
    /// [`SpecAmended`] that records the new ones.
    InputsAccepted {
        /// Who, as they say.
        by: String,
        /// Why, in their words.
        note: String,
        /// Inputs, each with its hashes in hex.
        inputs: Vec<AcceptedChange>,
        /// Tools, each with its versions.
        tools: Vec<AcceptedChange>,
    },
    /// The base command has succeeded and need not run again, though the first stage is planned anew: right after the
    /// [`SpecAmended`] that changes nothing of what it saw.
    BaseKept,
    /// A person made trials of a stage pending again that had closed, or that others were planned from: it is open again
    /// (`piton retry`). The [`TrialReset`](Self::TrialReset)s come after it.
    StageReopened {
        /// Its stage's index, from 0.
        stage: StageIndex,
        /// What becomes of the stages after it if others survive.
        later: LaterStages,
    },
    /// A stage closed again with other survivors: the stages from this one on wait, and forget their trials.
    StagesDiscarded {
        /// The first of them.
        from: StageIndex,
    },
    /// The stage before closed again with other survivors: this one goes on with them.
    StageReplanned(Box<StageReplanned>),
    /// A trial has shown what counts at a rung of its stage: it never changes.
    RungReached {
        /// Which trial.
        trial: TrialId,
        /// The attempt that showed it.
        attempt: AttemptNo,
        /// Which rung, from 0.
        rung: u32,
        /// The rung's step.
        at: u64,
        /// The step of the report that counts there.
        step: u64,
        /// Its value; `None`: not finite, worse than any.
        value: Option<f64>,
        /// Whether the rung judges it: not one that succeeded before.
        judged: bool,
    },
    /// A rung decided whether a trial goes on. In the commit of whatever it was decided by, before anything is ended for it.
    RungDecided {
        /// Which trial.
        trial: TrialId,
        /// Which rung, from 0.
        rung: u32,
        /// What it decided.
        verdict: RungVerdict,
    },
    /// A trial met a rule of its own: it is ended.
    StopIfMet {
        /// Which trial.
        trial: TrialId,
        /// The attempt that met it.
        attempt: AttemptNo,
        /// Which rule, and by what.
        met: StopIfMet,
    },
    /// Directories of finished trials are discarded, or a part of what is in them. In a commit of its own, before anything is removed.
    DirectoriesDiscarded(Box<DirectoriesDiscarded>),
    /// All that was to be discarded of a stage is removed, durably.
    DiscardFinished {
        /// Its stage's index, from 0.
        stage: StageIndex,
        /// Bytes that were freed; after a crash, what was left to remove.
        bytes: u64,
        /// Files and directories that were removed, likewise.
        inodes: u64,
    },
    /// The trials of a stage are replicas of its cases: so many more rounds of those that are still there. For the first ones right after
    /// [`StageOpened`](Self::StageOpened), whose shares count cases.
    RoundsPlanned {
        /// Its stage's index, from 0.
        stage: StageIndex,
        /// How many rounds.
        count: u32,
    },
    /// A stage ends before all its trials have: so many in a row brought nothing better. It closes with what those that count came to.
    StageEndedEarly {
        /// Its stage's index, from 0.
        stage: StageIndex,
        /// The trials of the stage below this place count.
        counted: u64,
    },
    /// All that is planned of a stage's race has ended. In one commit with [`StageClosed`](Self::StageClosed) where no round follows.
    RaceRound {
        /// Its stage's index, from 0.
        stage: StageIndex,
        /// Who leaves the race by it, in the order of their derived indices.
        left: Vec<LeftCase>,
        /// How many more rounds the others run.
        more: u32,
    },
}

/// A stage that goes on with other parents; what stays as it was keeps its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageReplanned {
    /// Its stage's index, from 0.
    pub stage: StageIndex,
    /// The survivors of the stage before: those that were there keep their places, others have the places of those that are gone.
    pub parents: Vec<Parent>,
    /// How many trials each parent gets, in the parents' order.
    pub shares: Vec<u64>,
    /// Trials that amendments added, if they stay.
    pub more: Vec<Segment>,
    /// Trials that run anew, as places in the stage: the first, and how many. They forget what they were.
    pub anew: Vec<(u64, u64)>,
}

impl StageReplanned {
    /// How many trials run anew.
    #[must_use]
    pub fn anew_count(&self) -> u64 {
        self.anew.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    /// Whether parents of it were taken out of their stage, and it is not known yet who survives that.
    #[must_use]
    pub fn is_orphaned(&self) -> bool {
        self.parents.iter().any(|parent| parent.attempt == Parent::GONE)
    }
}

/// Everything a study is, fixed at creation.
#[derive(Clone, Debug, PartialEq)]
pub struct StudyCreated {
    /// Random identity.
    pub study_id: StudyId,
    /// Version of the program that made it.
    pub piton_version: String,
    /// The study's name.
    pub name: String,
    /// Cases are `<base_case>_<stage_index>_<derived_index>`.
    pub base_case: String,
    /// Drives every random choice.
    pub seed: u64,
    /// The checked spec in its canonical text; only `spec` reads it.
    pub spec: String,
    /// blake3 of the part of the spec that a resume must match, in hex.
    pub spec_hash: String,
    /// Hashes of the inputs the spec names.
    pub inputs: Vec<InputHash>,
    /// Versions of the tools the spec names, by tool.
    pub versions: Vec<ToolVersion>,
    /// The study file's directory, relative to the store's where possible.
    pub study_dir: String,
    /// The artifacts directory, relative to the store's where possible.
    pub artifacts_dir: String,
    /// The study file's name, for hints; empty for a study built in code.
    pub study_file: String,
    /// Version of the planner whose numbers this study uses; see `plan`.
    pub plan_version: u32,
    /// The stages, in order.
    pub stages: Vec<StageDecl>,
}

#[cfg(test)]
impl StudyCreated {
    /// A study without stages, for tests that need any.
    pub(crate) fn of_nothing() -> Self {
        Self {
            study_id: StudyId([1; 16]),
            piton_version: "0.1.0".into(),
            name: "s".into(),
            base_case: "s".into(),
            seed: 0,
            spec: String::new(),
            spec_hash: String::new(),
            inputs: Vec::new(),
            versions: Vec::new(),
            study_dir: ".".into(),
            artifacts_dir: "artifacts".into(),
            study_file: String::new(),
            plan_version: 1,
            stages: Vec::new(),
        }
    }
}

/// What a study is from now on. Everything it does happens at once.
#[derive(Clone, Debug, PartialEq)]
pub struct SpecAmended {
    /// The checked spec in its canonical text; only `spec` reads it.
    pub spec: String,
    /// blake3 of the part of the spec that a resume must match, in hex.
    pub spec_hash: String,
    /// Drives every random choice.
    pub seed: u64,
    /// Hashes of the inputs the spec names.
    pub inputs: Vec<InputHash>,
    /// Versions of the tools the spec names, by tool.
    pub versions: Vec<ToolVersion>,
    /// The stages, in order; those that have begun and are not discarded keep their names.
    pub stages: Vec<StageDecl>,
    /// Stages from here on wait again, and forget their trials. Applied before all else.
    pub discard_from: Option<StageIndex>,
    /// The last stage that has begun gets more trials, or chooses its survivors anew.
    pub extended: Option<Extension>,
    /// A study that is over goes on.
    pub reopen: bool,
}

impl SpecAmended {
    /// Where the stage of this name is from now on.
    pub(crate) fn index_of(&self, name: &str) -> Option<StageIndex> {
        (0..).zip(&self.stages).find(|(_, stage)| stage.name == name).map(|(index, _)| index)
    }
}

/// What [`SpecAmended`] adds to a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    /// Which stage: the last that has begun.
    pub stage: StageIndex,
    /// Trials for its parents; none: it only chooses its survivors anew.
    pub more: Vec<Segment>,
}

/// What the journal itself needs to know of a stage.
#[derive(Clone, Debug, PartialEq)]
pub struct StageDecl {
    /// The stage's name.
    pub name: String,
    /// At most this many trials.
    pub trial_budget: u64,
    /// At most this many survive.
    pub survivor_count: u64,
    /// The first objective, so that the best value so far can be kept, not searched.
    pub objective: Option<FirstObjective>,
    /// Whether a proposer says, one by one, what its trials try.
    pub proposed: bool,
}

/// How one attempt ended.
#[derive(Clone, Debug, PartialEq)]
pub struct AttemptEnd {
    /// The trial's number in the study, from 0.
    pub trial: TrialId,
    /// Which attempt, from 1.
    pub attempt: AttemptNo,
    /// When it ended, by the wall clock of the machine that watched it.
    pub ended_ms: UnixMs,
    /// How its process ended, if there was one and it is known.
    pub exit: Option<Exit>,
    /// What it used.
    pub usage: Usage,
    /// What it counts as.
    pub verdict: Verdict,
    /// What becomes of its trial.
    pub next: Next,
}

/// What an attempt counts as. A job of a cluster says it, in the words of serde; that it was cancelled only piton can say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Verdict {
    /// Exit 0, every needed metric finite, every output there and durable.
    Succeeded {
        /// All it reported.
        metrics: Metrics,
        /// Its declared outputs, in the spec's order.
        outputs: Vec<OutputHash>,
    },
    /// It failed by itself.
    Failed(Failure),
    /// It was cut off by shutdown, crash or power loss: no failure, takes no retry.
    Interrupted {
        /// By what.
        reason: String,
    },
    /// It was terminated because its study was aborted, or its trial was pruned.
    #[serde(skip)]
    Cancelled,
}

impl Verdict {
    /// Without its particulars.
    #[must_use]
    pub const fn outcome(&self) -> AttemptOutcome {
        match self {
            Self::Succeeded { .. } => AttemptOutcome::Succeeded,
            Self::Failed(_) => AttemptOutcome::Failed,
            Self::Interrupted { .. } => AttemptOutcome::Interrupted,
            Self::Cancelled => AttemptOutcome::Cancelled,
        }
    }
}

/// What becomes of a trial after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It is finished: the verdict is the trial's.
    Final,
    /// It runs again, not before this time (`0`: at once).
    Again {
        /// Earliest start, Unix milliseconds.
        due_ms: UnixMs,
    },
}

/// Why a run of the engine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RunEnd {
    /// The study is completed.
    Completed,
    /// The study is aborted.
    Aborted,
    /// Asked to stop; running trials finished or were cut at the drain's limit.
    Drained,
    /// Asked twice; running trials were terminated.
    Forced,
    /// It could not go on (an I/O error).
    Failed,
    /// The next stage waits for a person's approval.
    Waiting,
}

named!(RunEnd {
    Completed => "completed",
    Aborted => "aborted",
    Drained => "drained",
    Forced => "forced",
    Failed => "failed",
    Waiting => "waiting",
});
