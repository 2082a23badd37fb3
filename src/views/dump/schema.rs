//! The dump's JSON, schema 1: its keys, their order and their types. A contract; keys are only ever added.
//!
//! Every key is always there. Numbers are finite; integers and floats stay apart. Times are RFC 3339 in UTC. `signal`
//! is a name such as `SIGKILL`. A trial's `failure` is there only while its state is `failed`. `aborted_by` of the study and
//! `outside` of a trial are there only where they say something.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use crate::model::{
    AttemptOutcome, AttemptRow, ExecutorKind, Failure, FailureKind, Metric, Metrics, OutputHash, Params, Severity,
    StageRow, StageStatus, StudyStatus, ToolVersion, TrialId, TrialState, Value,
};
use crate::paths::attempt_name;
use crate::plan::Lineage;
use crate::views::words::{self, hex, micros, seconds, timestamp};
use crate::views::{AbortedBy, PlannedTrial, StudyView, duration};

/// `study`.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Debug, Serialize)]
pub struct StudyOut<'a> {
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
        }
    }
}

/// Versions by tool.
pub(in crate::views) fn versions_out(versions: &[ToolVersion]) -> BTreeMap<&str, &str> {
    versions.iter().map(|tool| (tool.tool.as_str(), tool.version.as_str())).collect()
}

/// One of `stages`.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Debug, Serialize)]
pub struct StageOut<'a> {
    index: u32,
    name: &'a str,
    status: StageStatus,
    trial_budget: u64,
    survivor_count: u64,
    planned: u64,
    pending: u64,
    running: u64,
    succeeded: u64,
    failed: u64,
    /// Planned, and never run: the study was aborted before.
    cancelled: u64,
    survivors: Vec<String>,
    opened_at: Option<String>,
    closed_at: Option<String>,
}

impl<'a> StageOut<'a> {
    pub(super) fn new(view: &StudyView, lineage: &Lineage<'_>, stage: &'a StageRow) -> Self {
        let counters = view.counters_of(stage.index);
        let pending = view.pending(stage);
        let counted = counters.finished() + counters.running + pending;
        let aborted = view.study.status == StudyStatus::Aborted;
        Self {
            cancelled: if aborted { stage.planned().saturating_sub(counted) } else { 0 },
            index: stage.index,
            name: &stage.name,
            status: stage.status,
            trial_budget: stage.trial_budget,
            survivor_count: stage.survivor_count,
            planned: stage.planned(),
            pending,
            running: counters.running,
            succeeded: counters.succeeded,
            failed: counters.failed,
            survivors: survivor_cases(view, lineage, stage),
            opened_at: stage.opened_ms.map(timestamp),
            closed_at: stage.closed_ms.map(timestamp),
        }
    }
}

/// The cases of a stage's survivors, best first.
pub(in crate::views) fn survivor_cases(view: &StudyView, lineage: &Lineage<'_>, stage: &StageRow) -> Vec<String> {
    stage.survivors.iter().map(|parent| view.case_of(lineage, parent.trial)).collect()
}

/// What all trials of a stage share.
pub(super) struct StageScope<'a> {
    pub(super) view: &'a StudyView,
    pub(super) lineage: &'a Lineage<'a>,
    pub(super) stage: &'a StageRow,
    pub(super) survivors: HashSet<TrialId>,
    /// The directory of its cases, as it is shown.
    dir: String,
}

impl<'a> StageScope<'a> {
    pub(super) fn new(view: &'a StudyView, lineage: &'a Lineage<'a>, stage: &'a StageRow) -> Self {
        let dir = view.stage_dir(stage).display().to_string();
        Self { view, lineage, stage, survivors: StudyView::survivors(stage), dir }
    }
}

/// One of `trials`.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Debug, Serialize)]
pub struct TrialOut<'a> {
    id: u64,
    stage: u32,
    case: String,
    parent: String,
    params: ParamsOut,
    state: TrialState,
    /// There where it is true: it has no part in what its study was aborted by.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    outside: bool,
    metrics: MetricsOut<'a>,
    failure: Option<FailureOut<'a>>,
    survivor: bool,
    attempts: Vec<AttemptOut>,
    outputs: OutputsOut<'a>,
}

impl<'a> TrialOut<'a> {
    pub(super) fn new(scope: &StageScope<'_>, planned: &'a PlannedTrial) -> Self {
        let (lineage, index) = (scope.lineage, planned.index);
        let case = lineage.case(planned.stage, index);
        let row = planned.row.as_ref();
        let attempts = row.map_or(&[][..], |row| &row.attempts);
        let attempts = attempts.iter().map(|attempt| AttemptOut::new(&scope.dir, &case, attempt));
        Self {
            id: planned.trial.0,
            stage: planned.stage,
            parent: lineage.parent_case(planned.stage, index).unwrap_or_default(),
            params: ParamsOut(lineage.params(planned.stage, index).unwrap_or_default()),
            state: planned.state,
            outside: planned.ended_outside(),
            metrics: MetricsOut(row.map_or(NO_METRICS, |row| &row.metrics)),
            failure: final_failure(planned).map(FailureOut::new),
            survivor: scope.survivors.contains(&planned.trial),
            attempts: attempts.collect(),
            outputs: OutputsOut(row.map_or(&[][..], |row| &row.outputs)),
            case,
        }
    }
}

const NO_METRICS: &Metrics = &Metrics::new();

/// The failure of a trial that failed for good.
pub(in crate::views) fn final_failure(planned: &PlannedTrial) -> Option<&Failure> {
    if planned.state != TrialState::Failed {
        return None;
    }
    planned.row.as_ref().and_then(|row| row.failure.as_ref())
}

/// A trial's `failure`.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Debug, Serialize)]
pub struct FailureOut<'a> {
    kind: &'a FailureKind,
    severity: Severity,
    reason: &'a str,
    log_excerpt: &'a str,
}

impl<'a> FailureOut<'a> {
    pub(in crate::views) fn new(failure: &'a Failure) -> Self {
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
pub struct AttemptOut {
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
    /// Only of attempts on a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    remote: Option<RemoteOut>,
}

/// An attempt's job on a cluster.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Serialize)]
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
    pub(in crate::views) fn new(stage_dir: &str, case: &str, attempt: &AttemptRow) -> Self {
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
            remote: RemoteOut::of(attempt),
        }
    }

    /// The attempt's directory.
    pub(in crate::views) fn dir(&self) -> &str {
        &self.dir
    }

    /// Its job, if it runs or ran on a cluster.
    pub(in crate::views) fn remote(&self) -> Option<&RemoteOut> {
        self.remote.as_ref()
    }
}

/// Params by name, each of its own type.
#[derive(Debug)]
pub struct ParamsOut(pub(in crate::views) Params);

impl Serialize for ParamsOut {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, ValueOut(value))))
    }
}

/// The values a proposer said, by name.
#[derive(Clone, Copy, Debug)]
pub struct ProposedOut<'a>(pub(in crate::views) &'a [(String, Value)]);

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
pub struct MetricsOut<'a>(pub(in crate::views) &'a Metrics);

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
/// float no longer tells one integer from the next.
fn whole(number: f64) -> Option<i64> {
    let integral = number.trunc().total_cmp(&number).is_eq() && number.abs() < 9_007_199_254_740_992.0;
    let negative_zero = number == 0.0 && number.is_sign_negative();
    (integral && !negative_zero).then_some(number as i64)
}

/// Outputs by path, in the spec's order.
#[derive(Clone, Copy, Debug)]
pub struct OutputsOut<'a>(pub(in crate::views) &'a [OutputHash]);

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
