//! The checked spec: plain data that `check` made sure of once, so that nobody else has to.
//!
//! Its JSON is what a store keeps. Fields are only ever added, each with a default that is not written, so that old
//! specs read for ever and keep their hash. It must never hold anything unchecked.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::cluster::ExecutorSpec;
use super::resources::Pool;
use super::rules::Rails;
use super::stage::StageSpec;
use crate::model::json::is_zero;
use crate::model::{Params, StageIndex, Value, named};

/// A whole study, checked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Spec {
    /// `[study]`.
    pub study: StudySpec,
    /// `[params]`: constants every trial sees, after `--set`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub params: BTreeMap<String, SpecValue>,
    /// `[env]`: environment for every trial.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// `[run]`: how it is run here; no part of the study's identity.
    #[serde(default)]
    pub run: RunSpec,
    /// `[rails]`: limits of the whole study.
    #[serde(default, skip_serializing_if = "Rails::is_none")]
    pub rails: Rails,
    /// `[base]`: what must succeed once before the first stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<BaseSpec>,
    /// `[[stage]]`, in order; never empty.
    pub stages: Vec<StageSpec>,
    /// How the values were read; no part of the study's identity.
    #[serde(default, skip_serializing_if = "Values::is_before")]
    pub values: Values,
}

/// How values of files of cases and of `--set` were read, and line ends inside a study file's strings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Values {
    /// As the first stores have it: cells without white space around them, and whatever TOML takes for a number is one
    /// (`1.20` is 1.2, `7e9` is 7000000000.0); a study file's strings keep their CRs.
    #[default]
    Before,
    /// As they are written: a text is a number only if that number's text is the same. A line of a string ends with LF.
    Exact,
}

impl Values {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    fn is_before(&self) -> bool {
        *self == Self::Before
    }
}

impl Spec {
    /// `[params]`: what every trial sees, unless a sweep of its own or of an ancestor says otherwise.
    #[must_use]
    pub(crate) fn constants(&self) -> Params {
        self.params.iter().map(|(name, value)| (name.clone(), value.0.clone())).collect()
    }

    /// Takes over how `given`, which is the same study, is run here.
    pub(crate) fn run_as(&mut self, given: &Self) {
        self.run = given.run.clone();
        for (stage, given) in self.stages.iter_mut().zip(&given.stages) {
            stage.run = given.run.clone();
        }
    }

    /// Whether a trial of the stage may have the result of an equal one.
    #[must_use]
    pub(crate) fn reuses(&self, stage: StageIndex) -> bool {
        self.stages.get(stage as usize).is_some_and(|stage| !stage.reuse.is_no())
    }

    /// Whether a stage's trials are told where their parent's directory is. Where results are reused, they are told only of
    /// directories in which something is declared: all else in them is nobody's to rely on, and may not be there.
    #[must_use]
    pub(crate) fn shows_parent(&self, stage: StageIndex) -> bool {
        let of = |index: StageIndex| usize::try_from(index).ok().and_then(|position| self.stages.get(position));
        let (Some(own), Some(parent)) = (of(stage), stage.checked_sub(1).and_then(of)) else { return false };
        !parent.outputs.is_empty() || (own.reuse.is_no() && parent.reuse.is_no())
    }

    /// This with what it does not give as it was settled when the study began, for the stages that `has_begun` names; `None`: it is so
    /// already. Decisions of `[stage.halving]` rest on a `keep` that is not given, though `survivor_count` has changed since; with another `eta` it
    /// is another rule.
    pub(crate) fn settled(&self, recorded: &Self, has_begun: impl Fn(&str) -> bool) -> Option<Self> {
        let keep_of = |stage: &StageSpec| {
            let given = stage.halving.as_ref().filter(|halving| halving.keep_is_preset)?;
            let before =
                recorded.stages.iter().find(|before| before.name == stage.name && has_begun(&before.name));
            let before =
                before.and_then(|before| before.halving.as_ref()).filter(|before| before.eta == given.eta)?;
            (before.keep != given.keep).then_some(before.keep)
        };
        let keeps: Vec<Option<u64>> = self.stages.iter().map(keep_of).collect();
        keeps.iter().any(Option::is_some).then(|| {
            let mut settled = self.clone();
            for (stage, keep) in settled.stages.iter_mut().zip(keeps) {
                if let Some((halving, keep)) = stage.halving.as_mut().zip(keep) {
                    halving.keep = keep;
                }
            }
            settled
        })
    }
}

/// `[study]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StudySpec {
    /// `[A-Za-z0-9_-]{1,64}`.
    pub name: String,
    /// Cases are `<base_case>_<stage_index>_<derived_index>`.
    pub base_case: String,
    /// Drives every random choice.
    pub seed: u64,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// For people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Files or directories, relative to the study file, hashed at creation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<String>,
    /// Patterns of what is left out of input directories.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs_ignore: Vec<String>,
    /// Tools whose versions belong to the study, each with the program and arguments that print it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub versions: BTreeMap<String, Vec<String>>,
}

/// `[run]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RunSpec {
    /// Trials at once; `None`: the number of CPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<u32>,
    /// TERM → KILL, milliseconds.
    pub grace_ms: u64,
    /// How long what happened may wait for its commit, milliseconds.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub sync_interval_ms: u64,
    /// Program and arguments of what hears when a stage closes and a run ends; empty: nothing does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub on_event: Vec<String>,
    /// Where trials run.
    #[serde(default, skip_serializing_if = "ExecutorSpec::is_local")]
    pub executor: ExecutorSpec,
    /// Stores of other studies whose results are reused, relative to the study file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reuse_from: Vec<String>,
    /// The share of trials that are run although they could take a result, to compare both.
    #[serde(default, skip_serializing_if = "is_no_share")]
    pub reuse_check: f64,
    /// What the study's directory may take, bytes: nothing starts that there is no room for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_limit_bytes: Option<u64>,
    /// `[resources]`: what trials share, by its name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub resources: BTreeMap<String, Pool>,
}

impl Default for RunSpec {
    fn default() -> Self {
        Self {
            workers: None,
            grace_ms: 10_000,
            sync_interval_ms: 0,
            on_event: Vec::new(),
            executor: ExecutorSpec::Local,
            reuse_from: Vec::new(),
            reuse_check: 0.0,
            disk_limit_bytes: None,
            resources: BTreeMap::new(),
        }
    }
}

/// `[base]`: a command that runs once, before the first stage. If it fails the study is aborted before any trial.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BaseSpec {
    /// What runs; never a closure. Its params are the constants.
    pub work: Work,
    /// TERM after this long, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// What a trial runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Work {
    /// argv with placeholders, no shell; never empty.
    Argv(Vec<Template>),
    /// A line for `sh -c`, with placeholders.
    Shell(Template),
    /// A closure of the embedding program, registered under the stage's name.
    #[default]
    Closure,
}

/// Text with placeholders, already split; every placeholder is known to have a value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Template {
    /// Side by side they are the word.
    pub parts: Vec<Part>,
}

/// A piece of a [`Template`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Part {
    /// As it is, `{{` and `}}` already resolved.
    Text(String),
    /// A param's name.
    Param(String),
    /// `{case}`.
    Case,
    /// `{parent_dir}`; refused by the check in stage 0.
    ParentDir,
    /// `{study_dir}`.
    StudyDir,
    /// `{seed}`.
    Seed,
    /// `{attempt}`.
    Attempt,
    /// `{slot}`.
    Slot,
}

/// Where a stage's values come from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sampling {
    /// Every combination in order, the first key slowest, cut to the budget.
    #[default]
    Grid,
    /// Independent draws, seeded; without a range of floats no case twice.
    Random,
    /// A Sobol' sequence, scrambled by the seed; without a range of floats no case twice.
    Sobol,
    /// Cases listed in a file, in its order, cut to the budget.
    File(CaseFile),
    /// Cases that a program proposes one by one, knowing what became of those before.
    Ask(Proposer),
}

impl Sampling {
    /// Those that are a word in a study file.
    pub(crate) const WORDS: [(&'static str, Self); 3] =
        [("grid", Self::Grid), ("random", Self::Random), ("sobol", Self::Sobol)];
}

/// `sampling = { ask = ["python3", "proposer.py"], parallel = 4 }`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Proposer {
    /// argv, no shell, no placeholders; never empty. It runs in the study file's directory.
    pub command: Vec<String>,
    /// It is asked for a case once all but this many cases before it are finished and their results sent (1: all of them). What it
    /// knows at each question, and so what it answers, depends on nothing else.
    pub parallel: u32,
}

/// Most params that a Sobol' sequence can sweep.
pub(crate) const SOBOL_PARAMS_MAX: usize = 256;

/// Most cases that random sampling can draw without repetition from choices and integers where some of them are on a
/// log scale: they have to be listed.
pub(crate) const RANDOM_LOG_CASES_MAX: u64 = 65_536;

/// Most cases that a Sobol' sequence can give.
pub(crate) const SOBOL_CASES_MAX: u64 = 65_536;

/// `sampling = { file = "cases.csv" }`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CaseFile {
    /// The file, relative to the study file's directory; ends in `.csv` or `.jsonl`.
    pub path: String,
    /// Params of other names than their columns: by column.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rename: BTreeMap<String, String>,
    /// What it says; `None` until it is read. A store's spec always has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cases: Option<CaseList>,
}

/// The cases of a [`CaseFile`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CaseList {
    /// The params, in the order of the file; never empty.
    pub names: Vec<String>,
    /// Their values, a case each, in the order of the file; never empty, no case twice. A case without a value of its own
    /// has what its parent or `[params]` gives it, if anything.
    pub rows: Vec<Vec<Option<SpecValue>>>,
    /// Rows of the file that said what an earlier one says, and were left out.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub merged: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_no_share(share: &f64) -> bool {
    *share == 0.0
}

/// How survivors are chosen; see `plan::select`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Selection {
    /// By the one objective (none: by case order).
    #[default]
    Top,
    /// By the objectives in order.
    Lexicographic,
    /// By min-max-normalised values, weighted.
    WeightedSum,
    /// By non-dominated fronts, then crowding distance.
    Pareto,
}

named!(Selection {
    Top => "top",
    Lexicographic => "lexicographic",
    WeightedSum => "weighted_sum",
    Pareto => "pareto",
});

/// `retries`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Retries {
    /// Further attempts after failed ones.
    pub count: u32,
    /// How the delay grows.
    pub backoff: Backoff,
    /// Before the first retry, milliseconds.
    pub delay_ms: u64,
    /// Never longer than this, milliseconds.
    pub max_delay_ms: u64,
    /// Spread each delay over its upper half, from the trial's seed.
    pub jitter: bool,
}

impl Retries {
    /// Whether there are none.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.count == 0
    }

    /// Without retries the rest of the policy means nothing: one spelling of it, one hash.
    pub(super) fn or_none(self) -> Self {
        if self.is_none() { Self::default() } else { self }
    }
}

impl Default for Retries {
    fn default() -> Self {
        Self { count: 0, backoff: Backoff::Exponential, delay_ms: 1_000, max_delay_ms: 60_000, jitter: true }
    }
}

/// How a retry's delay grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Backoff {
    /// `delay` each time.
    Constant,
    /// One more `delay` each time.
    Linear,
    /// `delay`, doubled with each attempt.
    Exponential,
}

named!(Backoff {
    Constant => "constant",
    Linear => "linear",
    Exponential => "exponential",
});

/// One key of `[stage.sweep]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SweepParam {
    /// `[A-Za-z_][A-Za-z0-9_]*`.
    pub name: String,
    /// Its values.
    pub domain: Domain,
}

/// The values a param can take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Domain {
    /// One of these, in order; never empty, no value twice.
    Choices(Vec<SpecValue>),
    /// A range of floats, `min < max`; `steps` (at least 2, both ends included) is there on a grid.
    Float {
        /// Lower end, included.
        min: f64,
        /// Upper end, included.
        max: f64,
        /// Points on a grid.
        steps: Option<u64>,
        /// Even on a log scale; `min > 0` then.
        log: bool,
    },
    /// A range of integers, `min <= max`; on a grid without `steps` every one.
    Int {
        /// Lower end, included.
        min: i64,
        /// Upper end, included.
        max: i64,
        /// Points on a grid; at most as many as there are integers.
        steps: Option<u64>,
        /// Even on a log scale; `min > 0` then.
        log: bool,
    },
}

/// A param value with its JSON form: a string, boolean, integer or float, distinguished by JSON itself
/// (a float always has a point or an exponent).
#[derive(Clone, Debug, PartialEq)]
pub struct SpecValue(pub Value);

impl From<&str> for SpecValue {
    fn from(text: &str) -> Self {
        Self(Value::Str(text.to_owned()))
    }
}

impl From<String> for SpecValue {
    fn from(text: String) -> Self {
        Self(Value::Str(text))
    }
}

impl From<bool> for SpecValue {
    fn from(flag: bool) -> Self {
        Self(Value::Bool(flag))
    }
}

impl From<i64> for SpecValue {
    fn from(number: i64) -> Self {
        Self(Value::Int(number))
    }
}

impl From<i32> for SpecValue {
    fn from(number: i32) -> Self {
        Self(Value::Int(number.into()))
    }
}

impl From<u32> for SpecValue {
    fn from(number: u32) -> Self {
        Self(Value::Int(number.into()))
    }
}

impl From<f64> for SpecValue {
    fn from(number: f64) -> Self {
        Self(Value::Float(number))
    }
}

impl Serialize for SpecValue {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Value::Str(text) => serializer.serialize_str(text),
            Value::Bool(flag) => serializer.serialize_bool(*flag),
            Value::Int(number) => serializer.serialize_i64(*number),
            Value::Float(number) => serializer.serialize_f64(*number),
        }
    }
}

impl<'de> Deserialize<'de> for SpecValue {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(text) => Value::Str(text),
            serde_json::Value::Bool(flag) => Value::Bool(flag),
            serde_json::Value::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(integer), _) => Value::Int(integer),
                (None, Some(float)) if !number.is_u64() => Value::Float(float),
                _ => return Err(serde::de::Error::custom("a number out of range")),
            },
            _ => return Err(serde::de::Error::custom("neither text, boolean nor number")),
        };
        Ok(Self(value))
    }
}

/// `[[stage.objective]]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Objective {
    /// Its name in `metrics.json` or `[stage.metrics]`.
    pub metric: String,
    /// Which way is better.
    pub goal: Goal,
    /// For `weighted_sum`; they sum to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
}

impl Objective {
    /// The smaller, the better.
    #[must_use]
    pub fn minimize(metric: &str) -> Self {
        Self { metric: metric.to_owned(), goal: Goal::Minimize, weight: None }
    }

    /// The larger, the better.
    #[must_use]
    pub fn maximize(metric: &str) -> Self {
        Self { metric: metric.to_owned(), goal: Goal::Maximize, weight: None }
    }

    /// How much it counts, for [`Selection::WeightedSum`] alone.
    #[must_use]
    pub fn weight(self, weight: f64) -> Self {
        Self { weight: Some(weight), ..self }
    }
}

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// The larger value is better.
    Maximize,
    /// The smaller value is better.
    Minimize,
}

named!(Goal {
    Maximize => "maximize",
    Minimize => "minimize",
});

/// One entry of `[stage.metrics]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MetricRule {
    /// Relative to the attempt's directory.
    pub file: String,
    /// Valid, with at least one capture group; the last match counts, its first group is the number.
    pub regex: String,
    /// The number read is multiplied by this.
    pub scale: f64,
}

impl MetricRule {
    /// Reads the first group of the regex's last match in this file.
    #[must_use]
    pub fn regex(file: &str, regex: &str) -> Self {
        Self { file: file.to_owned(), regex: regex.to_owned(), scale: 1.0 }
    }

    /// Multiplies what was read.
    #[must_use]
    pub fn scale(self, scale: f64) -> Self {
        Self { scale, ..self }
    }

    /// The rule's regex, ready for logs that need not be UTF-8.
    ///
    /// # Errors
    /// Never for a checked spec, unless its regex outgrew this version's limits.
    pub fn compile(&self) -> Result<regex::bytes::Regex, regex::Error> {
        regex::bytes::Regex::new(&self.regex)
    }
}
