//! Every version of every record on disk: structs of their own, so that the model can change without old bytes changing
//! their meaning.
//!
//! What is read becomes one of these; what is written goes from the model to its bytes without a copy ([`Disk::put`]), in the
//! same fields and order. A field is never added, removed or reordered here: a new shape is a new struct with a new tag in the codec, and
//! the old one stays readable for ever. Bincode knows no defaults, so nothing here may use serde's.

use std::collections::BTreeMap;

use serde::ser::{SerializeStruct, SerializeStructVariant, SerializeTuple};
use serde::{Deserialize, Serialize, Serializer};

use crate::model::{
    Abort, Accepted, AcceptedChange, Accounting, Approval, AttemptEnd, AttemptOutcome, AttemptRow, BaseRow, Best,
    DirectoriesDiscarded, DiscardRun, Discarded, Doubt, EngineId, Event, ExecutorKind, Exit, Extension, Failure,
    FailureKind, FirstObjective, Given, ImportSource, Imported, IndexedResult, InputEntry, InputHash, InputList,
    Kept, LaterStages, LeftCase, Metric, Next, Origin, OutputHash, Parent, ProcessId, Proposing, Rail, Record,
    RemoteJob, Replicas, Reread, ResultDifference, ResultPart, ResultsTold, Reused, Rounds, RunEnd, RungRow,
    RungVerdict, RunningRow, Segment, Severity, SpecAmended, StageCounters, StageDecl, StageReplanned, StageRow,
    StageStatus, StopIfMet, StudyCreated, StudyId, StudyProgress, StudyRow, StudyStatus, Tidied, ToldResult,
    ToolVersion, TrialId, TrialImport, TrialRow, TrialState, Usage, Value, Verdict, Watched,
};

/// A disk form and the model type it stands for.
pub(super) trait Disk: Sized {
    /// What it stands for.
    type Model;
    /// Writes a value in its disk form.
    fn put<S: Serializer>(model: &Self::Model, to: S) -> Result<S::Ok, S::Error>;
    fn into_model(self) -> Self::Model;
}

/// A value that is to be written in its disk form.
pub(super) struct As<'a, D: Disk>(pub(super) &'a D::Model);

impl<D: Disk> Serialize for As<'_, D> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        D::put(self.0, to)
    }
}

/// Types whose disk form is themselves.
macro_rules! itself {
    ($($type:ty),*) => {$(
        impl Disk for $type {
            type Model = $type;
            fn put<S: Serializer>(model: &Self, to: S) -> Result<S::Ok, S::Error> { model.serialize(to) }
            fn into_model(self) -> Self { self }
        }
    )*};
}
itself!(u8, u32, u64, i32, i64, f64, bool, String, [u8; 16], [u8; 32]);

impl<T: Disk> Disk for Vec<T> {
    type Model = Vec<T::Model>;
    fn put<S: Serializer>(model: &Self::Model, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(model.iter().map(As::<T>))
    }
    fn into_model(self) -> Self::Model {
        self.into_iter().map(T::into_model).collect()
    }
}

impl<T: Disk> Disk for Option<T> {
    type Model = Option<T::Model>;
    fn put<S: Serializer>(model: &Self::Model, to: S) -> Result<S::Ok, S::Error> {
        match model {
            Some(value) => to.serialize_some(&As::<T>(value)),
            None => to.serialize_none(),
        }
    }
    fn into_model(self) -> Self::Model {
        self.map(T::into_model)
    }
}

/// A map on disk: its entries in order. Bincode writes the same bytes for it as for a map, and this is faster to make.
#[derive(Deserialize)]
pub(super) struct MapV1<T>(Vec<(String, T)>);

impl<T: Disk> Disk for MapV1<T> {
    type Model = BTreeMap<String, T::Model>;
    fn put<S: Serializer>(model: &Self::Model, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(model.iter().map(|(key, value)| (key, As::<T>(value))))
    }
    fn into_model(self) -> Self::Model {
        self.0.into_iter().map(|(key, value)| (key, value.into_model())).collect()
    }
}

impl<A: Disk, B: Disk> Disk for (A, B) {
    type Model = (A::Model, B::Model);
    fn put<S: Serializer>(model: &Self::Model, to: S) -> Result<S::Ok, S::Error> {
        let mut to = to.serialize_tuple(2)?;
        to.serialize_element(&As::<A>(&model.0))?;
        to.serialize_element(&As::<B>(&model.1))?;
        to.end()
    }
    fn into_model(self) -> Self::Model {
        (self.0.into_model(), self.1.into_model())
    }
}

/// What a proposer said of a trial, on disk.
#[derive(Deserialize)]
pub(super) struct ProposalV1(Vec<(String, ValueV1)>);

impl Disk for ProposalV1 {
    type Model = Proposal;
    fn put<S: Serializer>(model: &Proposal, to: S) -> Result<S::Ok, S::Error> {
        Vec::<(String, ValueV1)>::put(&model.0, to)
    }
    fn into_model(self) -> Proposal {
        Proposal(self.0.into_model())
    }
}

/// The values of a proposed trial's own sweep, as one record.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Proposal(pub(super) Vec<(String, Value)>);

impl Disk for TrialIdV1 {
    type Model = TrialId;
    fn put<S: Serializer>(model: &TrialId, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(model.0)
    }
    fn into_model(self) -> TrialId {
        TrialId(self.0)
    }
}

/// [`TrialId`] on disk.
#[derive(Deserialize)]
pub(super) struct TrialIdV1(u64);

impl Disk for StudyIdV1 {
    type Model = StudyId;
    fn put<S: Serializer>(model: &StudyId, to: S) -> Result<S::Ok, S::Error> {
        model.0.serialize(to)
    }
    fn into_model(self) -> StudyId {
        StudyId(self.0)
    }
}

/// [`StudyId`] on disk.
#[derive(Deserialize)]
pub(super) struct StudyIdV1([u8; 16]);

impl Disk for FailureKindV1 {
    type Model = FailureKind;
    fn put<S: Serializer>(model: &FailureKind, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(model.name())
    }
    fn into_model(self) -> FailureKind {
        self.0.into()
    }
}

/// [`FailureKind`] on disk: its name.
#[derive(Deserialize)]
pub(super) struct FailureKindV1(String);

/// A disk struct with the same fields, each with its own disk form.
macro_rules! mirror_struct {
    ($($disk:ident = $model:ident { $($field:ident: $type:ty),* $(,)? })*) => {$(
        #[doc = concat!("[`", stringify!($model), "`] on disk.")]
        #[derive(Deserialize)]
        pub(super) struct $disk { $($field: $type),* }
        impl Disk for $disk {
            type Model = $model;
            fn put<S: Serializer>(model: &$model, to: S) -> Result<S::Ok, S::Error> {
                let mut to = to.serialize_struct(stringify!($disk), [$(stringify!($field)),*].len())?;
                $(to.serialize_field(stringify!($field), &As::<$type>(&model.$field))?;)*
                to.end()
            }
            fn into_model(self) -> $model { $model { $($field: self.$field.into_model()),* } }
        }
    )*};
}

/// A disk struct as it was written before fields were added: what it had, the form that followed it, and what such a record says of those fields.
macro_rules! older {
    ($($old:ident => $new:ident { $($field:ident: $type:ty),* $(,)? } adds { $($added:ident: $absent:expr),* $(,)? })*) => {$(
        #[doc = concat!("What became [`", stringify!($new), "`].")]
        #[derive(Deserialize)]
        pub(super) struct $old { $($field: $type),* }
        impl From<$old> for $new {
            fn from(old: $old) -> Self { Self { $($field: old.$field.into(),)* $($added: $absent),* } }
        }
    )*};
}

/// A disk enum with the same variants, without fields.
macro_rules! mirror_states {
    ($($disk:ident = $model:ident { $($variant:ident),* $(,)? })*) => {$(
        #[doc = concat!("[`", stringify!($model), "`] on disk.")]
        #[derive(Deserialize)]
        pub(super) enum $disk { $($variant),* }
        impl Disk for $disk {
            type Model = $model;
            fn put<S: Serializer>(model: &$model, to: S) -> Result<S::Ok, S::Error> {
                let at = match model { $($model::$variant => Self::$variant),* } as u32;
                to.serialize_unit_variant(stringify!($disk), at, "")
            }
            fn into_model(self) -> $model { match self { $(Self::$variant => $model::$variant),* } }
        }
    )*};
}

mirror_states! {
    StudyStatusV1 = StudyStatus { Created, Running, Interrupted, Completed, Aborted }
    StageStatusV1 = StageStatus { Waiting, Open, Closed, Aborted }
    TrialStateV1 = TrialState { Pending, Running, Succeeded, Failed, Cancelled, Pruned, Undecided }
    AttemptOutcomeV1 = AttemptOutcome { Succeeded, Failed, Interrupted, Cancelled }
    SeverityV1 = Severity { Low, Medium, High, Catastrophic }
    ProposingV1 = Proposing { No, Open, Ended }
    LaterStagesV1 = LaterStages { Stand, Keep, Discard }
    KeptV1 = Kept { All, Outputs, Logs, Nothing }
    TidiedV1 = Tidied { No, Others, All }
    ExecutorKindV1 = ExecutorKind { Local, Ray, Slurm }
    RunEndV1 = RunEnd { Completed, Aborted, Drained, Forced, Failed, Waiting }
    ResultPartV1 = ResultPart { Metric, Output, State }
    RailV1 = Rail { Base, AbortIf, MaxFailureRate, CatastrophicFailures, NoSurvivors, MaxRuntime }
}

mirror_struct! {
    ProcessIdV1 = ProcessId { pid: u32, start_ticks: u64 }
    EngineIdV1 = EngineId { process: ProcessIdV1, boot_id: String, host: String }
    UsageV1 = Usage { wall_us: u64, cpu_us: u64, peak_rss_bytes: u64 }
    FailureV1 = Failure { kind: FailureKindV1, severity: SeverityV1, retryable: bool, reason: String, log_excerpt: String }
    ToolVersionV1 = ToolVersion { tool: String, version: String }
    InputHashV1 = InputHash { path: String, bytes: u64, blake3: String }
    InputEntryV1 = InputEntry { path: Vec<u8>, kind: u8, content: [u8; 32] }
    InputListV1 = InputList { input: String, blake3: String, entries: Vec<InputEntryV1> }
    OutputHashV1 = OutputHash { path: String, bytes: u64, blake3: [u8; 32] }
    ParentV1 = Parent { trial: TrialIdV1, attempt: u32 }
    FirstObjectiveV1 = FirstObjective { metric: String, maximize: bool }
    BestV1 = Best { value: f64, trial: TrialIdV1 }
    StageDeclV1 = StageDecl {
        name: String, trial_budget: u64, survivor_count: u64, objective: Option<FirstObjectiveV1>, proposed: bool,
    }
    OriginV1 = Origin { study: String, study_id: StudyIdV1, case: String, attempt: u32 }
    IndexedResultV1 = IndexedResult {
        identity: [u8; 32], seq: u64, stage: u32, stage_name: String, index: u64, attempt: u32,
    }
    ReusedV1 = Reused {
        trial: TrialIdV1, identity: [u8; 32], origin: OriginV1, metrics: MapV1<MetricV1>, outputs: Vec<OutputHashV1>,
    }
    RereadV1 = Reread { trial: TrialIdV1, attempt: u32, verdict: VerdictV1, next: NextV1 }
    ImportSourceV1 = ImportSource { file: String, blake3: [u8; 32], by: String }
    ImportedV1 = Imported { source: ImportSourceV1, at_ms: i64 }
    TrialImportV1 = TrialImport {
        trial: TrialIdV1, source: ImportSourceV1, metrics: MapV1<MetricV1>, outputs: Vec<OutputHashV1>,
    }
    ToldResultV1 = ToldResult { values: Vec<(String, ValueV1)>, metrics: MapV1<MetricV1> }
    ResultsToldV1 = ResultsTold { stage: u32, source: ImportSourceV1, results: Vec<ToldResultV1> }
    AccountingV3 = Accounting {
        attempts_started: u64, succeeded: u64, failed: u64, interrupted: u64, running: u64, reused: u64, imported: u64,
    }
    StudyProgressV3 = StudyProgress {
        last_seq: u64, earlier_runs_ms: u64, this_run_ms: u64, last_event_ms: i64, accounting: AccountingV3,
        catastrophic: u64,
        chain: [u8; 32],
    }
    StageCountersV4 = StageCounters {
        next_index: u64, running: u64, succeeded: u64, failed: u64, cancelled: u64, ended_wall_us: u64,
        ended_attempts: u64, best: Option<BestV1>, reused: u64, imported: u64, told: u64, told_from: u64,
        pruned: u64, undecided: u64,
    }
    RungVerdictV1 = RungVerdict { keep: bool, better: u64, of: u64, unknown: u64 }
    RungRowV1 = RungRow { at: u64, step: u64, value: Option<f64>, judged: bool, verdict: Option<RungVerdictV1> }
    StopIfMetV1 = StopIfMet { rule: u32, metric: String, step: u64, value: Option<f64> }
    WatchedV1 = Watched { rungs: Vec<RungRowV1>, stop_if: Option<StopIfMetV1> }
    RoundsV1 = Rounds { first_case: u64, cases: u64, first: u32, count: u32, by_case: bool }
    LeftCaseV1 = LeftCase { case: u64, round: u32, evidence: Option<f64> }
    ReplicasV1 = Replicas { rounds: Vec<RoundsV1>, left: Vec<LeftCaseV1> }
    StageRowV5 = StageRow {
        index: u32, name: String, trial_budget: u64, survivor_count: u64, objective: Option<FirstObjectiveV1>,
        status: StageStatusV1,
        first_trial: TrialIdV1, parents: Vec<ParentV1>, shares: Vec<u64>, more: Vec<SegmentV1>, planned: u64,
        proposing: ProposingV1,
        survivors: Vec<ParentV1>, approval: Option<ApprovalV1>,
        opened_ms: Option<i64>, closed_ms: Option<i64>, later: LaterStagesV1, tidied: TidiedV1, discarding: bool,
        replicas: ReplicasV1, ended_after: Option<u64>,
    }
    GivenV1 = Given { pool: String, amount: u64, items: Vec<String> }
    DiscardedV1 = Discarded { up_to: u32, keeps: KeptV1 }
    DiscardRunV1 = DiscardRun { first: TrialIdV1, count: u64, keeps: KeptV1 }
    DirectoriesDiscardedV1 = DirectoriesDiscarded { stage: u32, tidied: TidiedV1, runs: Vec<DiscardRunV1> }
    StageReplannedV1 = StageReplanned {
        stage: u32, parents: Vec<ParentV1>, shares: Vec<u64>, more: Vec<SegmentV1>, anew: Vec<(u64, u64)>,
    }
    AbortV1 = Abort { rail: RailV1, stage: u32, counted: u64 }
    AcceptedChangeV1 = AcceptedChange { name: String, old: String, new: String }
    AcceptedV1 = Accepted {
        by: String, note: String, at_ms: i64, inputs: Vec<AcceptedChangeV1>, tools: Vec<AcceptedChangeV1>,
    }
    StudyRowV4 = StudyRow {
        study_id: StudyIdV1, name: String, base_case: String, seed: u64, spec: String, spec_hash: String,
        inputs: Vec<InputHashV1>, versions: Vec<ToolVersionV1>, study_dir: String, artifacts_dir: String, study_file: String, plan_version: u32,
        stage_count: u32, created_ms: i64, status: StudyStatusV1, abort_reason: Option<String>,
        violating: Vec<TrialIdV1>, abort: Option<AbortV1>, engine: Option<EngineIdV1>, engine_closed: bool, runs: u32, workers: u32,
        sync_interval_ms: u64,
        draining: bool, cluster_trouble: Option<String>, base: Option<BaseRowV1>, doubts: Vec<DoubtV1>,
        accepted: Vec<AcceptedV1>,
    }
    DoubtV1 = Doubt {
        stage: u32, trial: TrialIdV1, case: String, attempt: u32, shared: [u8; 32], origin: OriginV1, differs: Vec<ResultDifferenceV1>,
    }
    ResultDifferenceV1 = ResultDifference { part: ResultPartV1, name: String, earlier: Option<String>, now: Option<String> }
    BaseRowV1 = BaseRow { state: TrialStateV1, attempts: Vec<AttemptRowV1>, failure: Option<FailureV1> }
    ApprovalV1 = Approval { by: String, note: String, at_ms: i64 }
    RunningRowV1 = RunningRow {
        trial: TrialIdV1, attempt: u32, process: Option<ProcessIdV1>, executor: ExecutorKindV1,
    }
    RemoteJobV1 = RemoteJob { executor: ExecutorKindV1, id: String, node: Option<String>, started_ms: Option<i64> }
    StudyCreatedV1 = StudyCreated {
        study_id: StudyIdV1, piton_version: String, name: String, base_case: String, seed: u64, spec: String,
        spec_hash: String, inputs: Vec<InputHashV1>, versions: Vec<ToolVersionV1>, study_dir: String, artifacts_dir: String, study_file: String,
        plan_version: u32, stages: Vec<StageDeclV1>,
    }
    SegmentV1 = Segment { parent: u32, offset: u64, count: u64 }
    ExtensionV1 = Extension { stage: u32, more: Vec<SegmentV1> }
    SpecAmendedV1 = SpecAmended {
        spec: String, spec_hash: String, seed: u64, inputs: Vec<InputHashV1>, versions: Vec<ToolVersionV1>, stages: Vec<StageDeclV1>,
        discard_from: Option<u32>, extended: Option<ExtensionV1>, reopen: bool,
    }
}

older! {
    // Trials were not reused.
    AccountingV1 => AccountingV2 {
        attempts_started: u64, succeeded: u64, failed: u64, interrupted: u64, running: u64,
    } adds { reused: 0 }
    StudyProgressV1 => StudyProgressV2 {
        last_seq: u64, earlier_runs_ms: u64, this_run_ms: u64, last_event_ms: i64, accounting: AccountingV1, catastrophic: u64, chain: [u8; 32],
    } adds {}
    StageCountersV1 => StageCountersV2 {
        next_index: u64, running: u64, succeeded: u64, failed: u64, cancelled: u64, ended_wall_us: u64, ended_attempts: u64,
        best: Option<BestV1>,
    } adds { reused: 0 }
    TrialRowV1 => TrialRowV2 {
        stage: u32, state: TrialStateV1, due_ms: i64, failures: u32, attempts: Vec<AttemptRowV1>, metrics: MapV1<MetricV1>,
        failure: Option<FailureV1>, outputs: Vec<OutputHashV1>,
    } adds { identity: None, reused_from: None }
    // Results were not imported.
    AccountingV2 => AccountingV3 {
        attempts_started: u64, succeeded: u64, failed: u64, interrupted: u64, running: u64, reused: u64,
    } adds { imported: 0 }
    StudyProgressV2 => StudyProgressV3 {
        last_seq: u64, earlier_runs_ms: u64, this_run_ms: u64, last_event_ms: i64, accounting: AccountingV2, catastrophic: u64, chain: [u8; 32],
    } adds {}
    StageCountersV2 => StageCountersV3 {
        next_index: u64, running: u64, succeeded: u64, failed: u64, cancelled: u64, ended_wall_us: u64, ended_attempts: u64,
        best: Option<BestV1>, reused: u64,
    } adds { imported: 0, told: 0, told_from: 0 }
    TrialRowV2 => TrialRowV3 {
        stage: u32, state: TrialStateV1, due_ms: i64, failures: u32, attempts: Vec<AttemptRowV1>, metrics: MapV1<MetricV1>,
        failure: Option<FailureV1>, outputs: Vec<OutputHashV1>, identity: Option<[u8; 32]>, reused_from: Option<OriginV1>,
    } adds { imported: None }
    // Trials were not watched.
    StageCountersV3 => StageCountersV4 {
        next_index: u64, running: u64, succeeded: u64, failed: u64, cancelled: u64, ended_wall_us: u64, ended_attempts: u64,
        best: Option<BestV1>, reused: u64, imported: u64, told: u64, told_from: u64,
    } adds { pruned: 0, undecided: 0 }
    TrialRowV3 => TrialRowV4 {
        stage: u32, state: TrialStateV1, due_ms: i64, failures: u32, attempts: Vec<AttemptRowV1>, metrics: MapV1<MetricV1>,
        failure: Option<FailureV1>, outputs: Vec<OutputHashV1>, identity: Option<[u8; 32]>, reused_from: Option<OriginV1>,
        imported: Option<ImportedV1>,
    } adds { watched: None }
    // Nothing of directories was discarded.
    TrialRowV4 => TrialRowV5 {
        stage: u32, state: TrialStateV1, due_ms: i64, failures: u32, attempts: Vec<AttemptRowV1>, metrics: MapV1<MetricV1>,
        failure: Option<FailureV1>, outputs: Vec<OutputHashV1>, identity: Option<[u8; 32]>, reused_from: Option<OriginV1>,
        imported: Option<ImportedV1>, watched: Option<Box<WatchedV1>>,
    } adds { discarded: Vec::new() }
    // Trials were given nothing.
    TrialRowV5 => TrialRowV6 {
        stage: u32, state: TrialStateV1, due_ms: i64, failures: u32, attempts: Vec<AttemptRowV1>, metrics: MapV1<MetricV1>,
        failure: Option<FailureV1>, outputs: Vec<OutputHashV1>, identity: Option<[u8; 32]>, reused_from: Option<OriginV1>,
        imported: Option<ImportedV1>, watched: Option<Box<WatchedV1>>, discarded: Vec<DiscardedV1>,
    } adds { given: Vec::new() }
    // It was not said what counts of an aborted study.
    StudyRowV1 => StudyRowV2 {
        study_id: StudyIdV1, name: String, base_case: String, seed: u64, spec: String, spec_hash: String, inputs: Vec<InputHashV1>,
        versions: Vec<ToolVersionV1>, study_dir: String, artifacts_dir: String, study_file: String, plan_version: u32, stage_count: u32,
        created_ms: i64, status: StudyStatusV1, abort_reason: Option<String>, violating: Vec<TrialIdV1>, engine: Option<EngineIdV1>,
        engine_closed: bool, runs: u32, workers: u32, sync_interval_ms: u64, draining: bool, cluster_trouble: Option<String>,
        base: Option<BaseRowV1>,
    } adds { abort: None }
    // Results were not checked.
    StudyRowV2 => StudyRowV3 {
        study_id: StudyIdV1, name: String, base_case: String, seed: u64, spec: String, spec_hash: String, inputs: Vec<InputHashV1>,
        versions: Vec<ToolVersionV1>, study_dir: String, artifacts_dir: String, study_file: String, plan_version: u32, stage_count: u32,
        created_ms: i64, status: StudyStatusV1, abort_reason: Option<String>, violating: Vec<TrialIdV1>, abort: Option<AbortV1>,
        engine: Option<EngineIdV1>, engine_closed: bool, runs: u32, workers: u32, sync_interval_ms: u64, draining: bool,
        cluster_trouble: Option<String>, base: Option<BaseRowV1>,
    } adds { doubts: Vec::new() }
    // Inputs could not be accepted.
    StudyRowV3 => StudyRowV4 {
        study_id: StudyIdV1, name: String, base_case: String, seed: u64, spec: String, spec_hash: String, inputs: Vec<InputHashV1>,
        versions: Vec<ToolVersionV1>, study_dir: String, artifacts_dir: String, study_file: String, plan_version: u32, stage_count: u32,
        created_ms: i64, status: StudyStatusV1, abort_reason: Option<String>, violating: Vec<TrialIdV1>, abort: Option<AbortV1>,
        engine: Option<EngineIdV1>, engine_closed: bool, runs: u32, workers: u32, sync_interval_ms: u64, draining: bool,
        cluster_trouble: Option<String>, base: Option<BaseRowV1>, doubts: Vec<DoubtV1>,
    } adds { accepted: Vec::new() }
    // A stage that had closed could not be opened again.
    StageRowV1 => StageRowV2 {
        index: u32, name: String, trial_budget: u64, survivor_count: u64, objective: Option<FirstObjectiveV1>, status: StageStatusV1,
        first_trial: TrialIdV1, parents: Vec<ParentV1>, shares: Vec<u64>, more: Vec<SegmentV1>, planned: u64, proposing: ProposingV1,
        survivors: Vec<ParentV1>, approval: Option<ApprovalV1>, opened_ms: Option<i64>, closed_ms: Option<i64>,
    } adds { later: LaterStagesV1::Stand }
    // Nothing of directories was discarded.
    StageRowV2 => StageRowV3 {
        index: u32, name: String, trial_budget: u64, survivor_count: u64, objective: Option<FirstObjectiveV1>, status: StageStatusV1,
        first_trial: TrialIdV1, parents: Vec<ParentV1>, shares: Vec<u64>, more: Vec<SegmentV1>, planned: u64, proposing: ProposingV1,
        survivors: Vec<ParentV1>, approval: Option<ApprovalV1>, opened_ms: Option<i64>, closed_ms: Option<i64>, later: LaterStagesV1,
    } adds { tidied: TidiedV1::No, discarding: false }
    // Each trial was a case.
    StageRowV3 => StageRowV4 {
        index: u32, name: String, trial_budget: u64, survivor_count: u64, objective: Option<FirstObjectiveV1>, status: StageStatusV1,
        first_trial: TrialIdV1, parents: Vec<ParentV1>, shares: Vec<u64>, more: Vec<SegmentV1>, planned: u64, proposing: ProposingV1,
        survivors: Vec<ParentV1>, approval: Option<ApprovalV1>, opened_ms: Option<i64>, closed_ms: Option<i64>, later: LaterStagesV1,
        tidied: TidiedV1, discarding: bool,
    } adds { replicas: ReplicasV1 { rounds: Vec::new(), left: Vec::new() } }
    // A stage did not end before all its trials had.
    StageRowV4 => StageRowV5 {
        index: u32, name: String, trial_budget: u64, survivor_count: u64, objective: Option<FirstObjectiveV1>, status: StageStatusV1,
        first_trial: TrialIdV1, parents: Vec<ParentV1>, shares: Vec<u64>, more: Vec<SegmentV1>, planned: u64, proposing: ProposingV1,
        survivors: Vec<ParentV1>, approval: Option<ApprovalV1>, opened_ms: Option<i64>, closed_ms: Option<i64>, later: LaterStagesV1,
        tidied: TidiedV1, discarding: bool, replicas: ReplicasV1,
    } adds { ended_after: None }
}

/// Results by one key, on disk.
#[derive(Deserialize)]
pub(super) struct ResultsV1(Vec<IndexedResultV1>);

impl Disk for ResultsV1 {
    type Model = Results;
    fn put<S: Serializer>(model: &Results, to: S) -> Result<S::Ok, S::Error> {
        Vec::<IndexedResultV1>::put(&model.0, to)
    }
    fn into_model(self) -> Results {
        Results(self.0.into_model())
    }
}

/// The results whose identities have one key, as one record.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Results(pub(super) Vec<IndexedResult>);

/// [`AttemptRow`] on disk. Its end is stored as how long it lasted, since that is a small number.
#[derive(Deserialize)]
pub(super) struct AttemptRowV1 {
    n: u32,
    outcome: Option<AttemptOutcomeV1>,
    slot: u32,
    started_ms: i64,
    /// Wall clock at its end less that at its start, modulo 2^64.
    lasted_ms: Option<i64>,
    exit: Option<ExitV1>,
    usage: UsageV1,
    remote: Option<RemoteJobV1>,
}

impl Disk for AttemptRowV1 {
    type Model = AttemptRow;
    fn put<S: Serializer>(model: &AttemptRow, to: S) -> Result<S::Ok, S::Error> {
        let lasted_ms = model.ended_ms.map(|ended_ms| ended_ms.wrapping_sub(model.started_ms));
        let mut to = to.serialize_struct("AttemptRowV1", 8)?;
        to.serialize_field("n", &model.n)?;
        to.serialize_field("outcome", &As::<Option<AttemptOutcomeV1>>(&model.outcome))?;
        to.serialize_field("slot", &model.slot)?;
        to.serialize_field("started_ms", &model.started_ms)?;
        to.serialize_field("lasted_ms", &lasted_ms)?;
        to.serialize_field("exit", &As::<Option<ExitV1>>(&model.exit))?;
        to.serialize_field("usage", &As::<UsageV1>(&model.usage))?;
        to.serialize_field("remote", &As::<Option<RemoteJobV1>>(&model.remote))?;
        to.end()
    }
    fn into_model(self) -> AttemptRow {
        AttemptRow {
            n: self.n,
            outcome: self.outcome.into_model(),
            slot: self.slot,
            started_ms: self.started_ms,
            ended_ms: self.lasted_ms.map(|lasted_ms| self.started_ms.wrapping_add(lasted_ms)),
            exit: self.exit.into_model(),
            usage: self.usage.into_model(),
            remote: self.remote.into_model(),
        }
    }
}

/// [`TrialRow`] on disk. Its number is its key and not written twice: who reads it must put it back.
#[derive(Deserialize)]
pub(super) struct TrialRowV6 {
    stage: u32,
    state: TrialStateV1,
    due_ms: i64,
    failures: u32,
    attempts: Vec<AttemptRowV1>,
    metrics: MapV1<MetricV1>,
    failure: Option<FailureV1>,
    outputs: Vec<OutputHashV1>,
    identity: Option<[u8; 32]>,
    reused_from: Option<OriginV1>,
    imported: Option<ImportedV1>,
    watched: Option<Box<WatchedV1>>,
    discarded: Vec<DiscardedV1>,
    given: Vec<(u32, Vec<GivenV1>)>,
}

impl Disk for TrialRowV6 {
    type Model = TrialRow;
    fn put<S: Serializer>(model: &TrialRow, to: S) -> Result<S::Ok, S::Error> {
        let mut to = to.serialize_struct("TrialRowV6", 14)?;
        to.serialize_field("stage", &model.stage)?;
        to.serialize_field("state", &As::<TrialStateV1>(&model.state))?;
        to.serialize_field("due_ms", &model.due_ms)?;
        to.serialize_field("failures", &model.failures)?;
        to.serialize_field("attempts", &As::<Vec<AttemptRowV1>>(&model.attempts))?;
        to.serialize_field("metrics", &As::<MapV1<MetricV1>>(&model.metrics))?;
        to.serialize_field("failure", &As::<Option<FailureV1>>(&model.failure))?;
        to.serialize_field("outputs", &As::<Vec<OutputHashV1>>(&model.outputs))?;
        to.serialize_field("identity", &model.identity)?;
        to.serialize_field("reused_from", &As::<Option<OriginV1>>(&model.reused_from))?;
        to.serialize_field("imported", &As::<Option<ImportedV1>>(&model.imported))?;
        to.serialize_field("watched", &As::<Option<Box<WatchedV1>>>(&model.watched))?;
        to.serialize_field("discarded", &As::<Vec<DiscardedV1>>(&model.discarded))?;
        to.serialize_field("given", &As::<Vec<(u32, Vec<GivenV1>)>>(&model.given))?;
        to.end()
    }
    fn into_model(self) -> TrialRow {
        TrialRow {
            trial: TrialId(0),
            stage: self.stage,
            state: self.state.into_model(),
            due_ms: self.due_ms,
            failures: self.failures,
            attempts: self.attempts.into_model(),
            metrics: self.metrics.into_model(),
            failure: self.failure.into_model(),
            outputs: self.outputs.into_model(),
            identity: self.identity,
            reused_from: self.reused_from.into_model(),
            imported: self.imported.into_model(),
            watched: self.watched.into_model(),
            discarded: self.discarded.into_model(),
            given: self.given.into_model(),
        }
    }
}

/// [`Record`] on disk. When an attempt ended is stored as how long before the record that was.
#[derive(Deserialize)]
pub(super) struct RecordV1 {
    at_ms: i64,
    run_ms: u64,
    event: EventV1,
}

impl RecordV1 {
    fn end(&mut self) -> Option<&mut AttemptEndV1> {
        match &mut self.event {
            EventV1::AttemptEnded(end) | EventV1::BaseEnded(end) => Some(end),
            _ => None,
        }
    }
}

impl Disk for RecordV1 {
    type Model = Record;
    fn put<S: Serializer>(model: &Record, to: S) -> Result<S::Ok, S::Error> {
        let mut to = to.serialize_struct("RecordV1", 3)?;
        to.serialize_field("at_ms", &model.at_ms)?;
        to.serialize_field("run_ms", &model.run_ms)?;
        match &model.event {
            Event::AttemptEnded(end) | Event::BaseEnded(end) => {
                let before_ms = model.at_ms.wrapping_sub(end.ended_ms);
                to.serialize_field(
                    "event",
                    &EndedEvent { number: EventV1::number(&model.event), before_ms, end },
                )?;
            }
            event => to.serialize_field("event", &As::<EventV1>(event))?,
        }
        to.end()
    }
    fn into_model(mut self) -> Record {
        let at_ms = self.at_ms;
        if let Some(end) = self.end() {
            end.before_ms = at_ms.wrapping_sub(end.before_ms);
        }
        Record { at_ms, run_ms: self.run_ms, event: self.event.into_model() }
    }
}

/// [`AttemptEnd`] on disk.
#[derive(Deserialize)]
pub(super) struct AttemptEndV1 {
    trial: TrialIdV1,
    attempt: u32,
    /// The record's wall clock less that at its end, modulo 2^64. Only [`RecordV1`] knows the first: until then, the second.
    before_ms: i64,
    exit: Option<ExitV1>,
    usage: UsageV1,
    verdict: VerdictV1,
    next: NextV1,
}

impl Disk for AttemptEndV1 {
    type Model = AttemptEnd;
    fn put<S: Serializer>(model: &AttemptEnd, to: S) -> Result<S::Ok, S::Error> {
        put_end(model, model.ended_ms, to)
    }
    fn into_model(self) -> AttemptEnd {
        AttemptEnd {
            trial: self.trial.into_model(),
            attempt: self.attempt,
            ended_ms: self.before_ms,
            exit: self.exit.into_model(),
            usage: self.usage.into_model(),
            verdict: self.verdict.into_model(),
            next: self.next.into_model(),
        }
    }
}

fn put_end<S: Serializer>(end: &AttemptEnd, before_ms: i64, to: S) -> Result<S::Ok, S::Error> {
    let mut to = to.serialize_struct("AttemptEndV1", 7)?;
    to.serialize_field("trial", &end.trial.0)?;
    to.serialize_field("attempt", &end.attempt)?;
    to.serialize_field("before_ms", &before_ms)?;
    to.serialize_field("exit", &As::<Option<ExitV1>>(&end.exit))?;
    to.serialize_field("usage", &As::<UsageV1>(&end.usage))?;
    to.serialize_field("verdict", &As::<VerdictV1>(&end.verdict))?;
    to.serialize_field("next", &As::<NextV1>(&end.next))?;
    to.end()
}

/// The event of an end, in its record: an [`EventV1`] of this number.
struct EndedEvent<'a> {
    number: u32,
    before_ms: i64,
    end: &'a AttemptEnd,
}

impl Serialize for EndedEvent<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_newtype_variant("EventV1", self.number, "", &EndedAt(self.end, self.before_ms))
    }
}

struct EndedAt<'a>(&'a AttemptEnd, i64);

impl Serialize for EndedAt<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        put_end(self.0, self.1, to)
    }
}

/// A disk enum with the same variants, whose fields have disk forms. Bincode writes every variant as its number and then
/// what it holds, whatever its shape.
macro_rules! mirror_enum {
    ($($disk:ident = $model:ident {
        $($variant:ident $(($content:ident: $ctype:ty))? $({ $($field:ident: $type:ty),* $(,)? })?),* $(,)?
    })*) => {$(
        #[doc = concat!("[`", stringify!($model), "`] on disk.")]
        #[derive(Deserialize)]
        pub(super) enum $disk { $($variant $(($ctype))? $({ $($field: $type),* })?),* }
        impl $disk {
            /// The number of a value's variant.
            fn number(model: &$model) -> u32 {
                enum Number { $($variant),* }
                let number = match model { $($model::$variant { .. } => Number::$variant),* };
                number as u32
            }
        }
        impl Disk for $disk {
            type Model = $model;
            fn put<S: Serializer>(model: &$model, to: S) -> Result<S::Ok, S::Error> {
                let mut to = to.serialize_struct_variant(stringify!($disk), Self::number(model), "", 0)?;
                match model {
                    $($model::$variant $(($content))? $({ $($field),* })? => {
                        $(to.serialize_field("", &As::<$ctype>($content))?;)?
                        $($(to.serialize_field("", &As::<$type>($field))?;)*)?
                    }),*
                }
                to.end()
            }
            fn into_model(self) -> $model {
                match self {
                    $(Self::$variant $(($content))? $({ $($field),* })? =>
                        $model::$variant $(($content.into_model()))? $({ $($field: $field.into_model()),* })?),*
                }
            }
        }
    )*};
}

impl<T: Disk> Disk for Box<T> {
    type Model = Box<T::Model>;
    fn put<S: Serializer>(model: &Self::Model, to: S) -> Result<S::Ok, S::Error> {
        T::put(model, to)
    }
    fn into_model(self) -> Self::Model {
        Box::new((*self).into_model())
    }
}

mirror_enum! {
    ExitV1 = Exit { Code(code: i32), Signal(signal: i32) }
    MetricV1 = Metric { Number(number: f64), Label(label: String) }
    ValueV1 = Value { Bool(flag: bool), Int(number: i64), Float(number: f64), Str(text: String) }
    NextV1 = Next { Final, Again { due_ms: i64 } }
    VerdictV1 = Verdict {
        Succeeded { metrics: MapV1<MetricV1>, outputs: Vec<OutputHashV1> },
        Failed(failure: FailureV1),
        Interrupted { reason: String },
        Cancelled,
    }
    EventV1 = Event {
        StudyCreated(created: Box<StudyCreatedV1>),
        RunStarted { engine: EngineIdV1, workers: u32, sync_interval_ms: u64 },
        DrainStarted { by: String },
        StageOpened { stage: u32, parents: Vec<ParentV1>, shares: Vec<u64> },
        AttemptStarted {
            trial: TrialIdV1, attempt: u32, slot: u32, process: Option<ProcessIdV1>, executor: ExecutorKindV1,
        },
        AttemptEnded(end: Box<AttemptEndV1>),
        TrialReset { trial: TrialIdV1 },
        StageClosed { stage: u32, survivors: Vec<ParentV1> },
        StudyCompleted,
        StudyAborted { reason: String, violating: Vec<TrialIdV1> },
        RunEnded { how: RunEndV1 },
        BaseStarted { attempt: u32, slot: u32, process: Option<ProcessIdV1>, executor: ExecutorKindV1 },
        BaseEnded(end: Box<AttemptEndV1>),
        StageApproved { stage: u32, by: String, note: String },
        SpecAmended(amended: Box<SpecAmendedV1>),
        TrialProposed { trial: TrialIdV1, values: Vec<(String, ValueV1)>, merged: u32 },
        ProposalsEnded { stage: u32, reason: String },
        AttemptPlaced { trial: TrialIdV1, attempt: u32, job: RemoteJobV1 },
        ClusterChanged { trouble: Option<String> },
        StudyAbortedBy { abort: AbortV1, reason: String, violating: Vec<TrialIdV1> },
        Rebuilt { known: u64, lost: u64 },
        InputsListed { lists: Vec<InputListV1> },
        ResultIdentified { trial: TrialIdV1, attempt: u32, identity: [u8; 32] },
        TrialReused(reused: Box<ReusedV1>),
        ReuseMissed { trial: TrialIdV1, origin: OriginV1, reason: String },
        ReuseDiffered(doubt: Box<DoubtV1>),
        StageReread { stage: u32, read: u64, best: Option<BestV1> },
        ResultReread(reread: Box<RereadV1>),
        TrialImported(import: Box<TrialImportV1>),
        ResultsTold(told: Box<ResultsToldV1>),
        InputsAccepted { by: String, note: String, inputs: Vec<AcceptedChangeV1>, tools: Vec<AcceptedChangeV1> },
        BaseKept,
        StageReopened { stage: u32, later: LaterStagesV1 },
        StagesDiscarded { from: u32 },
        StageReplanned(replanned: Box<StageReplannedV1>),
        RungReached {
            trial: TrialIdV1, attempt: u32, rung: u32, at: u64, step: u64, value: Option<f64>, judged: bool,
        },
        RungDecided { trial: TrialIdV1, rung: u32, verdict: RungVerdictV1 },
        StopIfMet { trial: TrialIdV1, attempt: u32, met: StopIfMetV1 },
        DirectoriesDiscarded(discarded: Box<DirectoriesDiscardedV1>),
        DiscardFinished { stage: u32, bytes: u64, inodes: u64 },
        RoundsPlanned { stage: u32, count: u32 },
        StageEndedEarly { stage: u32, counted: u64 },
        RaceRound { stage: u32, left: Vec<LeftCaseV1>, more: u32 },
        ResourcesGiven { trial: TrialIdV1, attempt: u32, given: Vec<GivenV1> },
    }
}
