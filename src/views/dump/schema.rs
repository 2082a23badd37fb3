//! The dump's JSON, schema 1: its keys, their order and their types. A contract; keys are only ever added.
//!
//! Every key is always there. Numbers are finite; integers and floats stay apart. Times are RFC 3339 in UTC. `signal`
//! is a name such as `SIGKILL`. A trial's `failure` is there only while its state is `failed`. `aborted_by` of the study and
//! `outside` of a trial are there only where they say something.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use crate::model::json::is_zero;
use crate::model::{
    Accepted, AcceptedChange, AttemptOutcome, AttemptRow, Doubt, ExecutorKind, Failure, FailureKind, ImportSource,
    Imported, Kept, Metric, Metrics, Origin, OutputHash, Params, PruneRule, Pruned, RungRow, Severity,
    StageStatus, StudyId, StudyStatus, ToolVersion, TrialState, Value,
};
use crate::paths::attempt_name;
use crate::plan::{StageSummary, StageTrials};
use crate::views::words::{self, hex, micros, seconds, timestamp};
use crate::views::{AbortedBy, StudyView, TrialSummary, duration};

/// `study`.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Debug, Serialize)]
pub(super) struct StudyOut<'a> {
    name: &'a str,
    status: StudyStatus,
    aborted: bool,
    abort_reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aborted_by: Option<AbortedBy>,
    seed: u64,
    spec_hash: &'a str,
    created_at: String,
    runtime_s: f64,
    engine: EngineOut,
    /// What each tool of `[study] versions` said, for every trial of the study.
    versions: BTreeMap<&'a str, &'a str>,
    /// What checks of reused results have found to differ; there where they have.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    doubts: Vec<DoubtOut<'a>>,
    /// Changed inputs and tools that a person took for what results were made with.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    inputs_accepted: Vec<AcceptanceOut<'a>>,
}

/// What a person said of changed inputs and tools.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Debug, Serialize)]
pub(in crate::views) struct AcceptanceOut<'a> {
    at: String,
    by: &'a str,
    inputs: Vec<AcceptedOut<'a>>,
    note: &'a str,
    tools: Vec<AcceptedOut<'a>>,
}

/// An input by its hashes, or a tool by its versions.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Debug, Serialize)]
pub(in crate::views) struct AcceptedOut<'a> {
    name: &'a str,
    new: &'a str,
    old: &'a str,
}

pub(in crate::views) fn changes_out(changes: &[AcceptedChange]) -> Vec<AcceptedOut<'_>> {
    changes.iter().map(|AcceptedChange { name, old, new }| AcceptedOut { name, new, old }).collect()
}

pub(in crate::views) fn acceptances_out(accepted: &[Accepted]) -> Vec<AcceptanceOut<'_>> {
    let mut out = Vec::new();
    for Accepted { by, note, at_ms, inputs, tools } in accepted {
        let (inputs, tools) = (changes_out(inputs), changes_out(tools));
        out.push(AcceptanceOut { at: timestamp(*at_ms), by, inputs, note, tools });
    }
    out
}

/// In one line, not yet cleaned.
pub(in crate::views) fn accepted_words<'a>(
    by: &str,
    note: &str,
    changes: impl Iterator<Item = &'a AcceptedChange>,
) -> String {
    let short = |text: &str| text.chars().take(12).collect::<String>();
    let changes: Vec<String> = changes
        .map(|change| format!("{} {} -> {}", change.name, short(&change.old), short(&change.new)))
        .collect();
    format!("{by} takes for equal: {}: {note}", changes.join(", "))
}

#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Debug, Serialize)]
struct EngineOut {
    /// Of the last engine; `null` before the first.
    pid: Option<u32>,
    alive: bool,
}

impl<'a> StudyOut<'a> {
    pub(super) fn new(view: &'a StudyView) -> Self {
        let study = &view.study;
        Self {
            name: &study.name,
            status: view.status(),
            aborted: study.status == StudyStatus::Aborted,
            abort_reason: study.abort_reason.as_deref(),
            aborted_by: AbortedBy::of(study, &view.lineage()),
            seed: study.seed,
            spec_hash: &study.spec_hash,
            created_at: timestamp(study.created_ms),
            runtime_s: seconds(view.runtime_us()),
            engine: EngineOut {
                pid: study.engine.as_ref().map(|engine| engine.process.pid),
                alive: view.liveness.alive,
            },
            versions: versions_out(&study.versions),
            doubts: study.doubts.iter().map(DoubtOut::new).collect(),
            inputs_accepted: acceptances_out(&study.accepted),
        }
    }
}

pub(in crate::views) fn versions_out(versions: &[ToolVersion]) -> BTreeMap<&str, &str> {
    versions.iter().map(|tool| (tool.tool.as_str(), tool.version.as_str())).collect()
}

/// One of `stages`.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Debug, Serialize)]
pub(super) struct StageOut<'a> {
    index: u32,
    name: &'a str,
    status: StageStatus,
    trial_budget: u64,
    survivor_count: u64,
    #[serde(flatten)]
    trials: StageTrials,
    /// Of those that succeeded, how many took the result of an equal trial; there where any did.
    #[serde(skip_serializing_if = "is_zero")]
    reused: u64,
    /// Of those that succeeded, how many have a result that was made elsewhere; there where any have.
    #[serde(skip_serializing_if = "is_zero")]
    imported: u64,
    /// Imported results that its proposer hears of before its first question; there where there are any.
    #[serde(skip_serializing_if = "is_zero")]
    told: u64,
    survivors: Vec<String>,
    /// How many of its trials count, those below that place; there where it ended before all of them had. The others are outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_after: Option<u64>,
    /// Cases that went on to explore, though they did not survive; there where any did.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    explorers: Vec<String>,
    /// There where it is true: it was planned from other cases than survive the stage before it now, and was to stay so.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    from_other_survivors: bool,
    opened_at: Option<String>,
    closed_at: Option<String>,
}

impl<'a> From<StageSummary<'a>> for StageOut<'a> {
    fn from(summary: StageSummary<'a>) -> Self {
        let stage = summary.row;
        Self {
            index: stage.index,
            name: &stage.name,
            status: stage.status,
            trial_budget: stage.trial_budget,
            survivor_count: stage.survivor_count,
            trials: summary.trials,
            reused: summary.counters.reused,
            imported: summary.counters.imported,
            told: summary.counters.told,
            survivors: summary.survivors().collect(),
            ended_after: stage.ended_after,
            explorers: summary.explorers().collect(),
            from_other_survivors: summary.is_kept(),
            opened_at: stage.opened_ms.map(timestamp),
            closed_at: stage.closed_ms.map(timestamp),
        }
    }
}

/// One of `trials`.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Debug, Serialize)]
pub(super) struct TrialOut<'a> {
    id: u64,
    stage: u32,
    case: String,
    parent: String,
    params: ParamsOut,
    state: TrialState,
    /// Which replica of its case it is, from 0; there where its stage repeats its cases.
    #[serde(skip_serializing_if = "Option::is_none")]
    replica: Option<u32>,
    /// There where it is true: it has no part in what its study was aborted by, or in its stage, which ended early.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    outside: bool,
    metrics: MetricsOut<'a>,
    failure: Option<FailureOut<'a>>,
    survivor: bool,
    /// There where it is true: it went on to explore, though it did not survive.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    explorer: bool,
    attempts: Vec<AttemptOut>,
    outputs: OutputsOut<'a>,
    #[serde(flatten)]
    taken: TakenOut<'a>,
    /// How it was pruned, if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pruned: Option<PrunedOut>,
    /// What it showed at the rungs of its stage, from the lowest on; there where it showed anything.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rungs: Vec<RungOut>,
}

/// Of a trial: that it did not make its result.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Debug, Serialize)]
pub(in crate::views) struct TakenOut<'a> {
    /// Whose result it took; there where it did not make it. It has no attempt of its own then.
    #[serde(skip_serializing_if = "Option::is_none")]
    reused_from: Option<OriginOut<'a>>,
    /// There where it is true: an equal trial was run, and came to another result than the one that it took.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    doubtful: bool,
    /// Where its result comes from, if it was made elsewhere and imported. It has no attempt of its own then.
    #[serde(skip_serializing_if = "Option::is_none")]
    imported: Option<ImportedOut<'a>>,
}

/// How a trial was pruned.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct PrunedOut {
    rule: PruneRule,
    /// The rung's step, or that of the report that met the rule.
    step: u64,
    /// `null`: not finite.
    value: Option<f64>,
    /// By how many of lower number the rung knew to be better when it decided; of a rule of its own there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    better: Option<u64>,
    /// Of so many, itself among them.
    #[serde(skip_serializing_if = "Option::is_none")]
    of: Option<u64>,
}

impl From<Pruned> for PrunedOut {
    fn from(Pruned { rule, step, value, verdict }: Pruned) -> Self {
        Self { rule, step, value, better: verdict.map(|by| by.better), of: verdict.map(|by| by.of) }
    }
}

/// What a trial showed at a rung.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct RungOut {
    /// The rung's step.
    at: u64,
    /// The step of the report that counts there.
    step: u64,
    /// `null`: not finite, worse than any.
    value: Option<f64>,
    /// Whether the trial went on; `null`: that is not decided, or the trial is not judged there.
    keep: Option<bool>,
}

impl From<&RungRow> for RungOut {
    fn from(rung: &RungRow) -> Self {
        Self { at: rung.at, step: rung.step, value: rung.value, keep: rung.verdict.map(|verdict| verdict.keep) }
    }
}

impl<'a> TakenOut<'a> {
    pub(in crate::views) fn new(from: Option<&'a Origin>, doubtful: bool, imported: Option<&'a Imported>) -> Self {
        Self { reused_from: from.map(OriginOut::new), doubtful, imported: imported.map(ImportedOut::new) }
    }
}

/// A trial that was run to check a result, and came to another one.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Debug, Serialize)]
pub(super) struct DoubtOut<'a> {
    stage: u32,
    trial: u64,
    case: &'a str,
    attempt: u32,
    /// Whose result it was held against.
    reused_from: OriginOut<'a>,
    differs: Vec<DifferenceOut<'a>>,
}

/// A part of a result that is another one.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Debug, Serialize)]
struct DifferenceOut<'a> {
    /// `metric`, `output` or `state`.
    part: &'static str,
    name: &'a str,
    /// `null`: it has none.
    earlier: Option<&'a str>,
    now: Option<&'a str>,
}

impl<'a> DoubtOut<'a> {
    pub(super) fn new(doubt: &'a Doubt) -> Self {
        let differs = doubt.differs.iter().map(|difference| DifferenceOut {
            part: difference.part.name(),
            name: &difference.name,
            earlier: difference.earlier.as_deref(),
            now: difference.now.as_deref(),
        });
        Self {
            stage: doubt.stage,
            trial: doubt.trial.0,
            case: &doubt.case,
            attempt: doubt.attempt,
            reused_from: OriginOut::new(&doubt.origin),
            differs: differs.collect(),
        }
    }
}

/// Where an imported result comes from.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SourceOut<'a> {
    file: &'a str,
    /// Of the file's contents; of a store, of the results that were taken.
    blake3: String,
    by: &'a str,
}

impl<'a> SourceOut<'a> {
    pub(in crate::views) fn new(source: &'a ImportSource) -> Self {
        Self { file: &source.file, blake3: hex(&source.blake3), by: &source.by }
    }
}

/// A trial's `imported`.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ImportedOut<'a> {
    #[serde(flatten)]
    source: SourceOut<'a>,
    at: String,
}

impl<'a> ImportedOut<'a> {
    pub(in crate::views) fn new(imported: &'a Imported) -> Self {
        Self { source: SourceOut::new(&imported.source), at: timestamp(imported.at_ms) }
    }
}

/// Who made a result that a trial took.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct OriginOut<'a> {
    study: &'a str,
    #[serde(serialize_with = "shown")]
    #[cfg_attr(test, schemars(with = "String"))]
    study_id: StudyId,
    case: &'a str,
    attempt: u32,
}

fn shown<S: Serializer>(id: &StudyId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

impl<'a> OriginOut<'a> {
    pub(in crate::views) fn new(origin: &'a Origin) -> Self {
        Self { study: &origin.study, study_id: origin.study_id, case: &origin.case, attempt: origin.attempt }
    }
}

impl<'a> TrialOut<'a> {
    /// `stage_dir` is [`StudyView::stage_dir`], as it is shown.
    pub(super) fn new(stage_dir: &str, trial: &'a TrialSummary<'_>) -> Self {
        let case = trial.case();
        let attempts = trial
            .attempts()
            .iter()
            .map(|attempt| AttemptOut::new(stage_dir, &case, attempt, trial.kept_of(attempt.n)));
        Self {
            id: trial.trial.0,
            stage: trial.stage.index,
            parent: trial.parent(),
            params: ParamsOut(trial.params()),
            state: trial.state,
            replica: trial.replica(),
            outside: trial.ended_outside(),
            metrics: MetricsOut(trial.metrics()),
            failure: trial.failure().map(FailureOut::from),
            survivor: trial.survived(),
            explorer: trial.explores(),
            attempts: attempts.collect(),
            outputs: OutputsOut(trial.outputs()),
            taken: TakenOut::new(trial.reused_from(), trial.is_doubtful(), trial.imported()),
            pruned: trial.pruned().map(PrunedOut::from),
            rungs: trial.rungs().iter().map(RungOut::from).collect(),
            case,
        }
    }
}

/// A trial's `failure`.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Debug, Serialize)]
pub(crate) struct FailureOut<'a> {
    kind: &'a FailureKind,
    severity: Severity,
    reason: &'a str,
    log_excerpt: &'a str,
}

impl<'a> From<&'a Failure> for FailureOut<'a> {
    fn from(failure: &'a Failure) -> Self {
        Self {
            kind: &failure.kind,
            severity: failure.severity,
            reason: &failure.reason,
            log_excerpt: &failure.log_excerpt,
        }
    }
}

/// One of a trial's `attempts`.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Debug, Serialize)]
pub(crate) struct AttemptOut {
    n: u32,
    /// `null` while it runs.
    outcome: Option<AttemptOutcome>,
    exit_code: Option<i32>,
    signal: Option<String>,
    started_at: String,
    ended_at: Option<String>,
    wall_s: f64,
    cpu_s: f64,
    peak_rss_bytes: u64,
    dir: String,
    /// What is kept of the directory, if something of it was discarded: `outputs`, `logs` or `nothing`.
    #[serde(skip_serializing_if = "Kept::is_all")]
    kept: Kept,
    /// Only of attempts on a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    remote: Option<RemoteOut>,
}

/// An attempt's job on a cluster.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct RemoteOut {
    /// Which cluster.
    #[cfg_attr(test, schemars(with = "crate::views::schemas::Cluster"))]
    pub executor: ExecutorKind,
    /// The job's id there; empty while it is not known.
    pub id: String,
    /// Where it runs or ran.
    pub node: Option<String>,
    /// When it began to run there.
    pub started_at: Option<String>,
    /// How long it had waited for that, seconds, by two machines' clocks; `null` while it waits.
    pub queued_s: Option<f64>,
}

impl RemoteOut {
    pub(in crate::views) fn of(attempt: &AttemptRow) -> Option<Self> {
        let job = attempt.remote.as_ref()?;
        let queued_ms = job.started_ms.map(|started_ms| started_ms.saturating_sub(attempt.started_ms));
        Some(Self {
            executor: job.executor,
            id: job.id.clone(),
            node: job.node.clone(),
            started_at: job.started_ms.map(timestamp),
            queued_s: queued_ms.map(|ms| seconds(u64::try_from(ms).unwrap_or(0).saturating_mul(1_000))),
        })
    }

    /// How long it had waited, in words; `None` while it waits.
    pub(in crate::views) fn queued_words(&self) -> Option<String> {
        self.queued_s.map(|queued_s| format!("after {} in the queue", duration(micros(queued_s))))
    }
}

impl AttemptOut {
    /// `stage_dir` is [`StudyView::stage_dir`], as it is shown.
    pub(in crate::views) fn new(stage_dir: &str, case: &str, attempt: &AttemptRow, kept: Kept) -> Self {
        Self {
            n: attempt.n,
            outcome: attempt.outcome,
            exit_code: words::exit_code(attempt.exit),
            signal: words::exit_signal(attempt.exit),
            started_at: timestamp(attempt.started_ms),
            ended_at: attempt.ended_ms.map(timestamp),
            wall_s: seconds(attempt.usage.wall_us),
            cpu_s: seconds(attempt.usage.cpu_us),
            peak_rss_bytes: attempt.usage.peak_rss_bytes,
            dir: format!("{stage_dir}/{case}/{}", attempt_name(attempt.n)),
            kept,
            remote: RemoteOut::of(attempt),
        }
    }

    /// The attempt's directory, with what is kept of it.
    pub(in crate::views) fn dir_words(&self) -> String {
        match self.kept {
            Kept::All => self.dir.clone(),
            Kept::Nothing => format!("{} (discarded)", self.dir),
            kept => format!("{} (discarded but for {kept})", self.dir),
        }
    }

    /// Its job, if it runs or ran on a cluster.
    pub(in crate::views) fn remote(&self) -> Option<&RemoteOut> {
        self.remote.as_ref()
    }
}

/// Params by name, each of its own type.
#[derive(Debug)]
pub(crate) struct ParamsOut(pub(in crate::views) Params);

impl Serialize for ParamsOut {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, ValueOut(value))))
    }
}

/// The values a proposer said, by name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProposedOut<'a>(pub(in crate::views) &'a [(String, Value)]);

impl Serialize for ProposedOut<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, ValueOut(value))))
    }
}

struct ValueOut<'a>(&'a Value);

impl Serialize for ValueOut<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Str(text) => serializer.serialize_str(text),
            Value::Bool(flag) => serializer.serialize_bool(*flag),
            Value::Int(number) => serializer.serialize_i64(*number),
            Value::Float(number) => serializer.serialize_f64(*number),
        }
    }
}

/// Metrics by name: numbers, and labels as text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MetricsOut<'a>(pub(in crate::views) &'a Metrics);

impl Serialize for MetricsOut<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, metric)| (name, MetricOut(metric))))
    }
}

struct MetricOut<'a>(&'a Metric);

impl Serialize for MetricOut<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Metric::Number(number) => match whole(*number) {
                Some(whole) => serializer.serialize_i64(whole),
                None => serializer.serialize_f64(*number),
            },
            Metric::Label(text) => serializer.serialize_str(text),
        }
    }
}

/// A number that a trial most likely wrote without a point: counts and bytes read better that way. Beyond 2^53 a
/// float no longer distinguishes one integer from the next.
fn whole(number: f64) -> Option<i64> {
    let integral = number.trunc().total_cmp(&number).is_eq() && number.abs() < 9_007_199_254_740_992.0;
    let negative_zero = number == 0.0 && number.is_sign_negative();
    (integral && !negative_zero).then_some(number as i64)
}

/// Outputs by path, in the spec's order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OutputsOut<'a>(pub(in crate::views) &'a [OutputHash]);

#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Serialize)]
pub(in crate::views) struct OutputOut {
    bytes: u64,
    #[cfg_attr(test, schemars(regex(pattern = "^[0-9a-f]{64}$")))]
    blake3: String,
}

impl Serialize for OutputsOut<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for output in self.0 {
            map.serialize_entry(&output.path, &OutputOut { bytes: output.bytes, blake3: hex(&output.blake3) })?;
        }
        map.end()
    }
}
