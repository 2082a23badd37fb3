//! `[[stage]]`: a stage as it is checked and stored, and the entries of its keys.
//!
//! A key is a field of [`StageSpec`], with a default that is not written, and an entry of [`STAGE`]. What several keys say
//! together is checked elsewhere. No key may be known anywhere but here and where something is done with it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::check::keeping::KEEP;
use super::check::progress::PROGRESS;
use super::check::replicas::{RACE, RaceParts};
use super::check::stage::{METRIC, OBJECTIVE, ObjectiveParts, RETRIES, SAMPLING, SweepParts, WorkParts};
use super::check::sweep::RANGE;
use super::check::watching::{HALVING, HalvingParts, STOP_IF, StopParts};
use super::check::{ANY_NAME, COMMAND, INNER_PATH, NAME, PARAM_NAME, WORKERS_MAX, rules};
use super::diagnostics::Location;
use super::diff::{self, list, word};
use super::failure_sets::FAILURE_SETS;
use super::keys::{Amend, Key, NONE, Preset, REQUIRED, Section, Takes, put};
use super::progress::ProgressSpec;
use super::replicas::{Aggregate, REPLICAS_MAX, RaceSpec};
use super::resources::{POOL_PATTERN, StageRun};
use super::rules::{FailureRule, MetricBound, StageRails};
use super::types::{MetricRule, Objective, Retries, Sampling, Selection, SweepParam, Work};
use super::walk::{COUNT_MAX, Checker, Field, Table};
use super::watching::{HalvingSpec, StopIf};
use crate::model::json::is_zero;
use crate::model::{Keep, Metrics, Params, names_of};

/// `[[stage]]`, with `[defaults]` already applied.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StageSpec {
    /// Unique, `[A-Za-z0-9_-]{1,64}`.
    pub name: String,
    /// What a trial runs.
    pub work: Work,
    /// At most this many trials, at least 1.
    pub trial_budget: u64,
    /// At most this many survive, at least 1, at most the budget.
    pub survivor_count: u64,
    /// Whether all survive, as many as there are: the count is the budget then, and grows with it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all_survive: bool,
    /// Where trials' values come from.
    pub sampling: Sampling,
    /// How survivors are chosen.
    pub selection: Selection,
    /// TERM after this long, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// What happens after a failed attempt.
    #[serde(default, skip_serializing_if = "Retries::is_none")]
    pub retries: Retries,
    /// Files that must exist after success, relative to the attempt's directory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<String>,
    /// What each case derives from its parent, in the order of the study file; empty: one case a parent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sweep: Vec<SweepParam>,
    /// In the order of the study file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub objectives: Vec<Objective>,
    /// `[[stage.require]]`: what a case must meet to survive.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub require: Vec<MetricBound>,
    /// `[stage.metrics]`: numbers read out of files the trial wrote.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, MetricRule>,
    /// `[stage.progress]`: reports read from what a trial prints, and whether they count at its end.
    #[serde(default, skip_serializing_if = "ProgressSpec::is_none")]
    pub progress: ProgressSpec,
    /// Memory one trial may take, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit_bytes: Option<u64>,
    /// `[stage.rails]`.
    #[serde(default, skip_serializing_if = "StageRails::is_none")]
    pub rails: StageRails,
    /// `[[stage.failure]]`, in order: the first match names the failure.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<FailureRule>,
    /// Whether the study waits for `piton approve` before this stage.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub approve: bool,
    /// Whether a result that was found once stands for every trial of the same identity.
    #[serde(default, skip_serializing_if = "Reuse::is_no")]
    pub reuse: Reuse,
    /// All params that its trials see; `None`: every one there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses: Option<BTreeSet<String>>,
    /// Files or directories that only this stage's results, and what follows from them, depend on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<String>,
    /// `[stage.halving]`: trials that others are better than end at its rungs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub halving: Option<HalvingSpec>,
    /// `[[stage.stop_if]]`: trials end by their own reports; the first rule that is met counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stop_if: Vec<StopIf>,
    /// How much stays of what its trials left.
    #[serde(default, skip_serializing_if = "Keep::is_everything")]
    pub keep: Keep,
    /// How often each case runs; `None`: once, and each trial is a case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeats: Option<u32>,
    /// `[stage.race]`: instead of `repeats`, cases run until it is known who survives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub race: Option<RaceSpec>,
    /// What its replicas come to together.
    #[serde(default, skip_serializing_if = "Aggregate::is_mean")]
    pub aggregate: Aggregate,
    /// How many cases go on to explore, of those that could have survived and did not.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub explore: u64,
    /// How its trials are run here; no part of the study's identity.
    #[serde(default, skip_serializing_if = "StageRun::is_none")]
    pub run: StageRun,
}

/// Whether a stage takes results over instead of running their like again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reuse {
    /// Every trial runs.
    #[default]
    No,
    /// A trial whose identity has a result takes that.
    Yes,
    /// The same; these words of the user's are part of the identity. They stand for what piton cannot see: a closure's code.
    Version(String),
}

impl Reuse {
    /// Whether every trial runs.
    #[must_use]
    pub fn is_no(&self) -> bool {
        *self == Self::No
    }
}

#[derive(Clone, Copy)]
pub(super) enum Survivors {
    All,
    AtMost(u64),
}

impl StageSpec {
    /// Of a case's params those that its trial sees.
    #[must_use]
    pub fn seen(&self, mut params: Params) -> Params {
        if let Some(uses) = &self.uses {
            params.retain(|name, _| uses.contains(name));
        }
        params
    }

    /// What of it is part of the study: all but how its trials are run here.
    pub(super) fn identity(&self) -> Cow<'_, Self> {
        match self.run.is_none() {
            true => Cow::Borrowed(self),
            false => Cow::Owned(Self { run: StageRun::default(), ..self.clone() }),
        }
    }

    /// Whether its trials' reports are read while they run, since they may end by them.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.halving.is_some() || !self.stop_if.is_empty()
    }

    /// Whether other rules of `[stage.progress]` make nothing but other metrics of what trials printed: no trial has ended, or ends, by
    /// its reports.
    pub(crate) fn only_measures(&self, other: &Self) -> bool {
        !self.is_watched() && !other.is_watched()
    }

    /// The metrics that selection reads: those of objectives, of what is required and of what is raced by.
    pub(crate) fn selected_by(&self) -> impl Iterator<Item = &str> {
        let objectives = self.objectives.iter().map(|objective| objective.metric.as_str());
        let raced = self.race.iter().map(|race| race.objective.metric.as_str());
        objectives.chain(self.require.iter().map(|rule| rule.metric.as_str())).chain(raced)
    }

    /// The metrics without which a trial has not succeeded: those that selection and rails read.
    pub fn needed_metrics(&self) -> impl Iterator<Item = &str> {
        self.selected_by().chain(self.rails.abort_if.iter().map(|rule| rule.metric.as_str()))
    }

    /// Whether a trial that reported these metrics has what selection and rails need. They are no part of a result's
    /// identity: a result that lacks one is none for this stage.
    #[must_use]
    pub fn is_met_by(&self, metrics: &Metrics) -> bool {
        self.needed_metrics().all(|name| metrics.get(name).is_some_and(|metric| metric.number().is_some()))
    }
}

/// What a stage's table says, before what its keys say together is checked.
#[derive(Clone, Default)]
pub(super) struct StageParts {
    pub place: Location,
    /// The keys that are there.
    pub said: Vec<&'static str>,
    /// Keys that are good by themselves.
    pub spec: StageSpec,
    pub name: Field<String>,
    pub work: Field<WorkParts>,
    pub trial_budget: Field<u64>,
    pub survivor_count: Field<Survivors>,
    pub sampling: Field<Sampling>,
    pub selection: Field<Selection>,
    pub sweep: Field<Vec<SweepParts>>,
    pub objectives: Field<Vec<ObjectiveParts>>,
    pub reuse: Field<Reuse>,
    pub uses: Field<Vec<(String, Location)>>,
    pub halving: Field<HalvingParts>,
    pub stop_if: Field<Vec<StopParts>>,
    pub repeats: Field<u64>,
    pub explore: Field<u64>,
    pub race: Field<RaceParts>,
    pub needs: Field<Vec<(String, u64, Location)>>,
    /// The rules of built-in sets.
    pub failure_sets: Vec<FailureRule>,
}

impl Checker<'_> {
    /// Reads a stage's table over what `[defaults]` says.
    pub(super) fn stage_parts(&mut self, table: &Table<'_>, defaults: &StageParts) -> StageParts {
        let mut parts = StageParts { place: table.place.clone(), ..defaults.clone() };
        let said = self.keys(&STAGE, table, &mut parts);
        parts.said.extend(said);
        parts
    }
}

const SAMPLED: Takes = Takes::Either(&[Takes::Word(|| vec!["grid", "random", "sobol"]), Takes::Table(&SAMPLING)]);
const RETRIED: Takes = Takes::Either(&[Takes::Integer(0, u32::MAX as i128), Takes::Table(&RETRIES)]);
const SWEPT: Takes =
    Takes::Map(&PARAM_NAME, &Takes::Either(&[Takes::Set(&Takes::Value, 1), Takes::Table(&RANGE)]), 1);

const SURVIVING: Takes = Takes::Either(&[Takes::Integer(1, COUNT_MAX), Takes::Word(|| vec!["all"])]);
const REUSED: Takes = Takes::Either(&[Takes::Flag, Takes::Filled("version")]);

pub(super) const POOL: Takes = Takes::Form(POOL_PATTERN, "pool");
const NEEDED: Takes = Takes::Map(&POOL, &Takes::Either(&[Takes::Integer(1, COUNT_MAX), Takes::Size]), 0);

type StageKey = Key<StageParts, StageSpec>;

/// `[[stage]]` and `[defaults]`.
#[rustfmt::skip] // Entry by entry: what it is, what it is for, how it is read, how it changes.
pub(super) static STAGE: Section<StageParts, StageSpec> = Section::new(
    "`[[stage]]`",
    "A stage: its trials, and who of them survives. Each of these keys but `name` may stand in `[defaults]`, for stages without it.",
    &[
        StageKey::new("name", NAME, REQUIRED,
            "What the stage is called; no two alike.",
            |c, n, p, d| d.name.put(c.file_name(n, p), p)),
        StageKey::new("command", COMMAND, REQUIRED,
            "What a trial runs: a program with its arguments, or a line for `sh -c`; `{param}` stands for a param's value.",
            |c, n, p, d| d.work.put(c.command(n, p), p))
            .shown(|stage| Some(diff::command(&stage.work))),
        StageKey::new("trial_budget", Takes::Integer(1, COUNT_MAX), REQUIRED,
            "At most this many trials.",
            |c, n, p, d| d.trial_budget.put(c.count(n, p, 1), p))
            .shown(|stage| Some(stage.trial_budget.to_string())).amended(Amend::Budget),
        StageKey::new("survivor_count", SURVIVING, REQUIRED,
            "At most this many cases survive; at most `trial_budget`. `\"all\"`: whoever succeeds.",
            |c, n, p, d| d.survivor_count.put(c.survivors(n, p), p))
            .shown(|stage| Some(diff::survivors(stage))).amended(Amend::Survivors),
        StageKey::new("explore", Takes::Integer(0, COUNT_MAX), Preset::Value("0"),
            "So many cases that could have survived and did not go on, too, drawn by the study's seed; they are no survivors. Not in the last stage.",
            |c, n, p, d| d.explore.put(c.count(n, p, 0), p))
            .shown(|stage| (stage.explore > 0).then(|| stage.explore.to_string())).amended(Amend::Survivors),
        StageKey::new("sampling", SAMPLED, Preset::Value("\"grid\""),
            "Which values of the sweep are tried together.",
            |c, n, p, d| d.sampling.put(c.sampling_kind(n, p), p))
            .shown(|stage| Some(diff::sampling(&stage.sampling))).amended(Amend::Trials),
        StageKey::new("selection", Takes::Word(names_of::<Selection>), Preset::Value("\"top\""),
            "How survivors are chosen by the objectives.",
            |c, n, p, d| d.selection.put(c.named(n, p), p))
            .shown(|stage| Some(word(&stage.selection))).amended(Amend::Survivors),
        StageKey::new("timeout", Takes::Duration, NONE,
            "A trial that runs longer is terminated, and fails as `timeout`.",
            |c, n, p, d| put(&mut d.spec.timeout_ms, c.duration(n, p, false).map(Some)))
            .shown(|stage| stage.timeout_ms.map(diff::duration)).amended(Amend::Limit(|stage| stage.timeout_ms)),
        StageKey::new("retries", RETRIED, Preset::Value("0"),
            "Further attempts after failed ones.",
            |c, n, p, d| put(&mut d.spec.retries, c.retries(n, p)))
            .shown(|stage| (!stage.retries.is_none()).then(|| diff::retries(&stage.retries))).amended(Amend::Failures),
        StageKey::new("outputs", Takes::Set(&INNER_PATH, 0), Preset::Value("[]"),
            "Files that must exist after a success; durable and hashed before the result counts.",
            |c, n, p, d| put(&mut d.spec.outputs, c.texts(n, p, |c, n, p| c.inner_path(n, p))))
            .shown(|stage| diff::texts(&stage.outputs)),
        StageKey::new("sweep", SWEPT, Preset::Words("none: one case a parent"),
            "The params that differ between the cases: lists of choices, or ranges.",
            |c, n, p, d| d.sweep.put(c.sweep(n, p), p))
            .parts(diff::cases_and_sweep),
        StageKey::new("objective", Takes::List(&Takes::Table(&OBJECTIVE), 0), Preset::Value("[]"),
            "What is best; in order.",
            |c, n, p, d| d.objectives.put(c.objectives(n, p), p))
            .shown(|stage| (!stage.objectives.is_empty()).then(|| list(stage.objectives.iter().map(diff::objective))))
            .amended(Amend::Objectives),
        StageKey::new("require", Takes::List(&Takes::Table(&rules::REQUIRE), 0), Preset::Value("[]"),
            "What a case must meet to survive; where fewer do than could survive, fewer do.",
            |c, n, p, d| put(&mut d.spec.require, c.requirements(n, p)))
            .shown(|stage| (!stage.require.is_empty()).then(|| list(stage.require.iter().map(diff::requirement))))
            .amended(Amend::Objectives),
        StageKey::new("metrics", Takes::Map(&ANY_NAME, &Takes::Table(&METRIC), 0), NONE,
            "Numbers read out of files that the trial wrote, besides those of `metrics.json`.",
            |c, n, p, d| put(&mut d.spec.metrics, c.metric_rules(n, p)))
            .below(|stage| diff::each(&stage.metrics, diff::metric)).amended(Amend::Metrics),
        StageKey::new("progress", Takes::Table(&PROGRESS), NONE,
            "Reports of running trials, besides those in `$PITON_PROGRESS_FILE`.",
            |c, n, p, d| put(&mut d.spec.progress, c.progress(n, p)))
            .below(|stage| diff::progress(&stage.progress)).amended(Amend::Reports),
        StageKey::new("memory_limit", Takes::Size, NONE,
            "A trial that takes more memory is ended, and fails as `out_of_memory`.",
            |c, n, p, d| put(&mut d.spec.memory_limit_bytes, c.memory_limit(n, p).map(Some)))
            .shown(|stage| stage.memory_limit_bytes.map(|bytes| bytes.to_string()))
            .amended(Amend::Limit(|stage| stage.memory_limit_bytes)),
        StageKey::new("rails", Takes::Table(&rules::STAGE_RAILS), NONE,
            "When the stage aborts the study, or ends early.",
            |c, n, p, d| put(&mut d.spec.rails, c.stage_rails(n, p)))
            .below(|stage| diff::within(&rules::STAGE_RAILS, &stage.rails)).amended(Amend::StageRails),
        StageKey::new("failure", Takes::List(&Takes::Table(&rules::FAILURE), 0), Preset::Value("[]"),
            "How failures of the stage's tool are named; the first that matches counts.",
            |c, n, p, d| put(&mut d.spec.failures, c.failure_rules(n, p)))
            .shown(|stage| (!stage.failures.is_empty()).then(|| list(stage.failures.iter().map(diff::failure_rule))))
            .amended(Amend::FailureRules),
        StageKey::new("failures", Takes::Word(|| FAILURE_SETS.iter().map(|(name, _)| *name).collect()), NONE,
            "Rules that come with piton for these tools; asked after the stage's own.",
            |c, n, p, d| put(&mut d.failure_sets, c.failure_set(n, p))),
        StageKey::new("approve", Takes::Flag, Preset::Value("false"),
            "The study waits for `piton approve` before this stage.",
            |c, n, p, d| put(&mut d.spec.approve, c.boolean(n, p)))
            .shown(|stage| stage.approve.then(|| "true".to_owned())).amended(Amend::Approval),
        StageKey::new("reuse", REUSED, Preset::Value("false"),
            "A result that was found once stands for every trial of the same identity. A text is part of the identity.",
            |c, n, p, d| d.reuse.put(c.reuse(n, p), p))
            .shown(|stage| diff::reuse(&stage.reuse)),
        StageKey::new("uses", Takes::Set(&PARAM_NAME, 0), Preset::Words("every param"),
            "All params that a trial sees.",
            |c, n, p, d| d.uses.put(c.uses(n, p), p))
            .shown(|stage| stage.uses.as_ref().map(|uses| list(uses.iter().map(|name| diff::quote(name))))),
        StageKey::new("inputs", Takes::Set(&Takes::Filled("path"), 0), Preset::Value("[]"),
            "Files and directories that results depend on from this stage on, relative to the study file.",
            |c, n, p, d| put(&mut d.spec.inputs, c.texts(n, p, |c, n, p| c.non_empty_text(n, p))))
            .shown(|stage| diff::texts(&stage.inputs)).amended(Amend::Inputs),
        StageKey::new("halving", Takes::Table(&HALVING), NONE,
            "Trials that others are better than end at its rungs: `pruned`, no failure, and never a survivor.",
            |c, n, p, d| d.halving.put(c.halving(n, p), p))
            .below(|stage| stage.halving.as_ref().map(diff::halving).unwrap_or_default()),
        StageKey::new("stop_if", Takes::List(&Takes::Table(&STOP_IF), 0), Preset::Value("[]"),
            "A trial ends by its own reports: `pruned`, no failure, and never a survivor.",
            |c, n, p, d| d.stop_if.put(c.stop_rules(n, p), p))
            .shown(|stage| (!stage.stop_if.is_empty()).then(|| list(stage.stop_if.iter().map(diff::stop_rule)))),
        StageKey::new("keep", Takes::Table(&KEEP), NONE,
            "How much stays of its trials' directories, once it has closed and no trial to come needs them; everything, unless this says less.",
            |c, n, p, d| put(&mut d.spec.keep, c.keep(n, p)))
            .below(|stage| diff::keep(stage.keep)).amended(Amend::Keep),
        StageKey::new("repeats", Takes::Integer(1, REPLICAS_MAX as i128), Preset::Value("1"),
            "How often each case runs, each time with another seed; the budget is for `trial_budget` / `repeats` cases.",
            |c, n, p, d| d.repeats.put(c.whole(n, p, 1..=i128::from(REPLICAS_MAX)), p))
            .shown(|stage| stage.repeats.map(|repeats| repeats.to_string())).amended(Amend::Repeats),
        StageKey::new("race", Takes::Table(&RACE), NONE,
            "Instead of `repeats`: cases run in rounds of a replica each, and leave once the evidence says that they are not among the survivors.",
            |c, n, p, d| d.race.put(c.race(n, p), p))
            .below(|stage| stage.race.as_ref().map(diff::race).unwrap_or_default()).amended(Amend::Repeats),
        StageKey::new("aggregate", Takes::Word(names_of::<Aggregate>), Preset::Value("\"mean\""),
            "What the replicas of a case come to together; `\"midmean\"` is advised for times.",
            |c, n, p, d| put(&mut d.spec.aggregate, c.named(n, p)))
            .shown(|stage| (!stage.aggregate.is_mean()).then(|| word(&stage.aggregate))).amended(Amend::Survivors),
        StageKey::new("workers", Takes::Integer(1, WORKERS_MAX), Preset::Words("that of `[run]`"),
            "Trials of the stage at once; no part of the study itself, so it can be changed at any time.",
            |c, n, p, d| put(&mut d.spec.run.workers, c.whole(n, p, 1..=WORKERS_MAX).map(Some)))
            .shown(|stage| stage.run.workers.map(|workers| workers.to_string())).amended(Amend::Run),
        StageKey::new("needs", NEEDED, NONE,
            "How much of each pool of `[resources]` a trial needs: it starts when all that is free, and has it until it ends. No part of the study itself.",
            |c, n, p, d| d.needs.put(c.needs(n, p), p))
            .below(|stage| diff::each(&stage.run.needs, u64::to_string)).amended(Amend::Run),
    ],
);
