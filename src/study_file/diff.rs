//! What differs between two specs, in words.
//!
//! Both specs are laid out as a list of settings with their values as a study file would write them, by the entries of their
//! keys; the lists are compared. Two specs of different identity must never seem equal here.

use std::collections::{BTreeMap, BTreeSet};

use super::check::rules::RAILS;
use super::check::{BASE, ROOT, RUN, STUDY};
use super::keys::{Amend, Section, Settings};
use super::progress::ProgressSpec;
use super::replicas::RaceSpec;
use super::resources::Pool;
use super::rules::{Bound, FailureMatch, FailureRule, MetricBound};
use super::stage::{Reuse, STAGE, StageSpec};
use super::types::{
    CaseFile, CaseList, Domain, MetricRule, Objective, Retries, Sampling, Spec, SpecValue, SweepParam, Work,
};
use super::watching::{HalvingSpec, StopIf, StopWhen};
use crate::model::words::counted;
use crate::model::{Keep, Value};

/// One setting that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// Such as `stage "place".trial_budget`.
    pub path: String,
    /// Its value before; `None`: it was not set.
    pub old: Option<String>,
    /// Its value now; `None`: it is not set.
    pub new: Option<String>,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.old, &self.new) {
            (Some(old), Some(new)) => write!(f, "{}: {old} in the store, {new} now", self.path),
            (Some(old), None) => write!(f, "{}: {old} in the store, not set now", self.path),
            (None, Some(new)) => write!(f, "{}: not set in the store, {new} now", self.path),
            (None, None) => write!(f, "{}", self.path),
        }
    }
}

/// What a difference is about.
#[derive(Clone, Copy)]
pub(crate) enum Subject<'a> {
    /// A key outside the stages.
    Study(Amend),
    /// The order of the stages.
    Order,
    /// A whole stage.
    Stage(&'a str),
    /// A key of a stage.
    Key(&'a str, Amend),
}

/// The differences that keep a store from going on with another spec: everything but how it is run here. Stages are matched by
/// name. Empty exactly when the identities are equal.
#[must_use]
pub fn diff(old: &Spec, new: &Spec) -> Vec<Change> {
    differences(old, new).into_iter().map(|(change, _)| change).collect()
}

/// [`diff`], each difference with what it is about.
#[must_use]
pub(crate) fn differences<'a>(old: &'a Spec, new: &'a Spec) -> Vec<(Change, Subject<'a>)> {
    let mut changes = Vec::new();
    compare(&mut changes, "", head(old, false), head(new, false), Subject::Study);
    let order = |spec: &Spec| list(spec.stages.iter().map(|stage| quote(&stage.name)));
    if order(old) != order(new) {
        let change = Change { path: "stages".into(), old: Some(order(old)), new: Some(order(new)) };
        changes.push((change, Subject::Order));
    }
    for stage in &old.stages {
        let (name, path) = (stage.name.as_str(), format!("stage {:?}", stage.name));
        let settings = |stage| stage_settings(stage, false);
        match new.stages.iter().find(|other| other.name == stage.name) {
            Some(other) => {
                let about = |amend| Subject::Key(name, amend);
                compare(&mut changes, &format!("{path}."), settings(stage), settings(other), about);
            }
            None => changes.push((Change { path, old: Some(summary(stage)), new: None }, Subject::Stage(name))),
        }
    }
    for stage in &new.stages {
        if !old.stages.iter().any(|other| other.name == stage.name) {
            let path = format!("stage {:?}", stage.name);
            changes.push((Change { path, old: None, new: Some(summary(stage)) }, Subject::Stage(&stage.name)));
        }
    }
    if changes.is_empty() && old.identity_json() != new.identity_json() {
        let hash = |spec: &Spec| Some(format!("hash {}", spec.spec_hash()));
        let change = Change { path: "spec".into(), old: hash(old), new: hash(new) };
        changes.push((change, Subject::Study(Amend::Results)));
    }
    changes
}

/// What differs in how it is run here, which is no part of what a resume must match: in `[run]`, in `[resources]`, then in stages that both have. Settings of the
/// executor's own come last.
#[must_use]
pub(crate) fn run_differences(old: &Spec, new: &Spec) -> Vec<Change> {
    let mut changes = Vec::new();
    compare(&mut changes, "run.", RUN.settings(&old.run), RUN.settings(&new.run), Subject::Study);
    compare(&mut changes, "", head(old, true), head(new, true), Subject::Study);
    for stage in &old.stages {
        if let Some(other) = new.stages.iter().find(|other| other.name == stage.name) {
            let prefix = format!("stage {:?}.", stage.name);
            let (old, new) = (stage_settings(stage, true), stage_settings(other, true));
            compare(&mut changes, &prefix, old, new, Subject::Study);
        }
    }
    let mut changes: Vec<Change> = changes.into_iter().map(|(change, _)| change).collect();
    let (before, now) = (executor_settings(old), executor_settings(new));
    let names: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    changes.extend(names.into_iter().filter(|name| before.get(*name) != now.get(*name)).map(|name| Change {
        path: name.clone(),
        old: before.get(name).cloned(),
        new: now.get(name).cloned(),
    }));
    changes
}

/// The settings of a stage that say how it is run here, or all others.
fn stage_settings(stage: &StageSpec, run: bool) -> Vec<Setting> {
    only(STAGE.settings(stage), run)
}

fn only(mut settings: Vec<Setting>, run: bool) -> Vec<Setting> {
    settings.retain(|(_, _, amend)| matches!(amend, Amend::Run) == run);
    settings
}

/// The settings of an executor's table by their names. Its own name is shown already.
fn executor_settings(spec: &Spec) -> BTreeMap<String, String> {
    fn add(settings: &mut BTreeMap<String, String>, name: &str, value: &serde_json::Value) {
        match value {
            serde_json::Value::Object(table) => {
                table.iter().for_each(|(key, value)| add(settings, &format!("{name}.{key}"), value));
            }
            serde_json::Value::Null => {}
            value => drop(settings.insert(name.to_owned(), value.to_string())),
        }
    }
    let mut settings = BTreeMap::new();
    if let Ok(table @ serde_json::Value::Object(_)) = serde_json::to_value(&spec.run.executor) {
        add(&mut settings, "run", &table);
    }
    settings
}

/// How far a spec is from another: its differences, then the cases of files that do not keep their numbers.
#[must_use]
pub(crate) fn distance(old: &Spec, new: &Spec) -> (usize, usize) {
    let moved = |stage: &StageSpec| {
        let Some(old) = cases_of(old, &stage.name) else { return 0 };
        let Some(new) = cases_of(new, &stage.name).filter(|new| new.names == old.names) else {
            return old.rows.len();
        };
        (0..old.rows.len()).filter(|place| old.rows.get(*place) != new.rows.get(*place)).count()
    };
    (diff(old, new).len(), old.stages.iter().map(moved).sum())
}

fn cases_of<'a>(spec: &'a Spec, stage: &str) -> Option<&'a CaseList> {
    match &spec.stages.iter().find(|other| other.name == stage)?.sampling {
        Sampling::File(file) => file.cases.as_ref(),
        _ => None,
    }
}

/// A setting by its name, its value, and what amending it means.
type Setting = (String, String, Amend);

fn compare<'a>(
    changes: &mut Vec<(Change, Subject<'a>)>,
    prefix: &str,
    old: Vec<Setting>,
    new: Vec<Setting>,
    about: impl Fn(Amend) -> Subject<'a>,
) {
    let values = |settings: &[Setting]| -> BTreeMap<String, String> {
        settings.iter().map(|(name, value, _)| (name.clone(), value.clone())).collect()
    };
    let (old_values, new_values) = (values(&old), values(&new));
    let added = new.into_iter().filter(|(name, ..)| !old_values.contains_key(name));
    for (name, _, amend) in old.into_iter().chain(added) {
        let (old, new) = (old_values.get(&name).cloned(), new_values.get(&name).cloned());
        if old != new {
            changes.push((Change { path: format!("{prefix}{name}"), old, new }, about(amend)));
        }
    }
}

/// Everything outside the stages and `[run]` that says how it is run here, or all else.
fn head(spec: &Spec, run: bool) -> Vec<Setting> {
    let in_table = |table: &'static str, told: Vec<Setting>| {
        told.into_iter().map(move |(name, value, amend)| (format!("{table}.{name}"), value, amend))
    };
    let base = spec.base.as_ref().map(|base| BASE.settings(base)).unwrap_or_default();
    let all = in_table("study", STUDY.settings(&spec.study))
        .chain(ROOT.settings(spec))
        .chain(in_table("rails", RAILS.settings(&spec.rails)))
        .chain(in_table("base", base));
    only(all.collect(), run)
}

/// The settings of a table within another.
pub(super) fn within<D, S>(section: &'static Section<D, S>, of: &S) -> Settings {
    section.settings(of).into_iter().map(|(name, value, _)| (name, value)).collect()
}

/// A table of free keys, each a setting.
pub(super) fn each<T>(of: &BTreeMap<String, T>, value: impl Fn(&T) -> String) -> Settings {
    of.iter().map(|(name, one)| (name.clone(), value(one))).collect()
}

/// Where a stage's cases come from: those of a file, or a sweep.
pub(super) fn cases_and_sweep(stage: &StageSpec) -> Vec<(String, String, Amend)> {
    let mut settings = Vec::new();
    if let Sampling::File(CaseFile { cases: Some(cases), .. }) = &stage.sampling {
        // More of them are more trials.
        settings.push(("cases".into(), case_list(cases), Amend::Trials));
    }
    settings
        .extend(stage.sweep.iter().map(|swept| (format!("sweep.{}", swept.name), domain(swept), Amend::Results)));
    if stage.sweep.len() > 1 {
        // The order decides which combination has which number.
        let names: Vec<&str> = stage.sweep.iter().map(|swept| swept.name.as_str()).collect();
        settings.push(("sweep's order".into(), names.join(", "), Amend::Results));
    }
    settings
}

/// A pool of `[resources]`.
pub(super) fn pool(pool: &Pool) -> String {
    match pool {
        Pool::Items(items) => list(items.iter().map(|item| quote(item))),
        Pool::Count(count) => count.to_string(),
    }
}

/// A list of texts; `None` for an empty one.
pub(super) fn texts(texts: &[String]) -> Option<String> {
    (!texts.is_empty()).then(|| list(texts.iter().map(|text| quote(text))))
}

fn summary(stage: &StageSpec) -> String {
    let survivors = if stage.all_survive { "all".into() } else { stage.survivor_count.to_string() };
    format!("{} trials, {survivors} survive, {}", stage.trial_budget, command(&stage.work))
}

pub(super) fn survivors(stage: &StageSpec) -> String {
    if stage.all_survive { quote("all") } else { stage.survivor_count.to_string() }
}

pub(super) fn reuse(reuse: &Reuse) -> Option<String> {
    match reuse {
        Reuse::No => None,
        Reuse::Yes => Some("true".to_owned()),
        Reuse::Version(version) => Some(quote(version)),
    }
}

pub(super) fn command(work: &Work) -> String {
    match work {
        Work::Argv(words) => list(words.iter().map(|word| quote(&word.to_string()))),
        Work::Shell(line) => quote(&line.to_string()),
        Work::Closure => "a closure".to_owned(),
    }
}

pub(super) fn sampling(sampling: &Sampling) -> String {
    match sampling {
        Sampling::File(file) if file.rename.is_empty() => format!("{{ file = {} }}", quote(&file.path)),
        Sampling::File(file) => {
            let renamed =
                file.rename.iter().map(|(column, param)| format!("{} = {}", quote(column), quote(param)));
            let renamed: Vec<String> = renamed.collect();
            format!("{{ file = {}, rename = {{ {} }} }}", quote(&file.path), renamed.join(", "))
        }
        Sampling::Ask(proposer) => {
            let command = list(proposer.command.iter().map(|word| quote(word)));
            format!("{{ ask = {command}, parallel = {} }}", proposer.parallel)
        }
        other => word(other),
    }
}

/// Enough of a list of cases to distinguish it from another.
fn case_list(cases: &CaseList) -> String {
    let hash = blake3::hash(word(cases).as_bytes()).to_hex();
    let hash = hash.get(..12).unwrap_or_default();
    let count = counted(cases.rows.len(), "case");
    let names: Vec<String> = cases.names.iter().map(|name| format!("`{name}`")).collect();
    format!("{count} of {} (blake3 {hash}…)", names.join(", "))
}

pub(super) fn abort_rule(rule: &MetricBound) -> String {
    bounded(rule, "below", "above")
}

pub(super) fn requirement(rule: &MetricBound) -> String {
    bounded(rule, "at_least", "at_most")
}

/// With the keys that say the lower and the upper bound.
fn bounded(rule: &MetricBound, below: &str, above: &str) -> String {
    let (side, bound) = match rule.bound {
        Bound::Below(bound) => (below, bound),
        Bound::Above(bound) => (above, bound),
    };
    format!("{{ metric = {}, {side} = {bound:?} }}", quote(&rule.metric))
}

pub(super) fn failure_rule(rule: &FailureRule) -> String {
    let when = match &rule.when {
        FailureMatch::Log(pattern) => format!("log = {}", quote(pattern)),
        FailureMatch::ExitCode(code) => format!("exit_code = {code}"),
        FailureMatch::Signal(name) => format!("signal = {}", quote(name)),
    };
    let severity = rule.severity.name();
    format!(
        "{{ kind = {}, {when}, severity = {severity:?}, retryable = {} }}",
        quote(rule.kind.name()),
        rule.retryable
    )
}

pub(super) fn retries(retries: &Retries) -> String {
    format!(
        "{{ count = {}, backoff = {}, delay = {}, max_delay = {}, jitter = {} }}",
        retries.count,
        word(&retries.backoff),
        duration(retries.delay_ms),
        duration(retries.max_delay_ms),
        retries.jitter
    )
}

fn domain(swept: &SweepParam) -> String {
    let range = |min: String, max: String, steps: &Option<u64>, kind: &str, log: bool| {
        let steps = steps.map(|steps| format!(", steps = {steps}")).unwrap_or_default();
        let log = if log { ", log = true" } else { "" };
        format!("{{ min = {min}, max = {max}{steps}{kind}{log} }}")
    };
    match &swept.domain {
        Domain::Choices(values) => list(values.iter().map(literal)),
        Domain::Float { min, max, steps, log } => range(format!("{min:?}"), format!("{max:?}"), steps, "", *log),
        Domain::Int { min, max, steps, log } => {
            range(min.to_string(), max.to_string(), steps, ", type = \"int\"", *log)
        }
    }
}

pub(super) fn objective(objective: &Objective) -> String {
    let weight = objective.weight.map(|weight| format!(" (weight {weight:?})")).unwrap_or_default();
    format!("{} {}{weight}", objective.goal, quote(&objective.metric))
}

pub(super) fn metric(rule: &MetricRule) -> String {
    format!("{{ file = {}, regex = {}, scale = {:?} }}", quote(&rule.file), quote(&rule.regex), rule.scale)
}

/// `[stage.progress]`.
pub(super) fn progress(progress: &ProgressSpec) -> Settings {
    let texts = [("file", &progress.file), ("regex", &progress.regex)];
    let texts = texts.into_iter().filter_map(|(name, text)| Some((name.to_owned(), quote(text.as_ref()?))));
    let metrics = progress.metrics.iter();
    let metrics =
        metrics.map(|(name, regex)| (format!("metrics.{name}"), format!("{{ regex = {} }}", quote(regex))));
    let last = progress.only_watched.then(|| ("final".to_owned(), "false".to_owned()));
    texts.chain(metrics).chain(last).collect()
}

/// `[stage.halving]`.
pub(super) fn halving(halving: &HalvingSpec) -> Settings {
    let HalvingSpec { rungs, metric, goal, eta, keep, keep_is_preset: _ } = halving;
    let of = |name: &str, value: String| (name.to_owned(), value);
    vec![
        of("rungs", list(rungs.iter().map(u64::to_string))),
        of("metric", quote(metric)),
        of("goal", word(goal)),
        of("eta", eta.to_string()),
        of("keep", keep.to_string()),
    ]
}

/// `[stage.race]`.
pub(super) fn race(race: &RaceSpec) -> Settings {
    let RaceSpec { min, max, confidence, objective } = race;
    let of = |name: &str, value: String| (name.to_owned(), value);
    vec![
        of("min", min.to_string()),
        of("max", max.to_string()),
        of("confidence", format!("{confidence:?}")),
        of("metric", quote(&objective.metric)),
        of("goal", word(&objective.goal)),
    ]
}

/// `keep`, as far as it keeps less than all.
pub(super) fn keep(keep: Keep) -> Settings {
    let less = keep.parts().into_iter().filter(|(_, kept)| !kept.is_all());
    less.map(|(name, kept)| (name.to_owned(), word(&kept))).collect()
}

/// An entry of `stop_if`.
pub(super) fn stop_rule(rule: &StopIf) -> String {
    let when = match &rule.when {
        StopWhen::Below(least) => format!("below = {least:?}"),
        StopWhen::Above(most) => format!("above = {most:?}"),
        StopWhen::NoBetter { steps, min_delta, goal } => {
            format!("no_better_for = {steps}, min_delta = {min_delta:?}, goal = {}", word(goal))
        }
    };
    format!("{{ metric = {}, {when}, after = {} }}", quote(&rule.metric), rule.after)
}

/// A value as a study file writes it: a float always with a point or exponent.
pub(super) fn literal(value: &SpecValue) -> String {
    match &value.0 {
        Value::Str(text) => quote(text),
        other => other.to_string(),
    }
}

pub(super) fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

pub(super) fn duration(millis: u64) -> String {
    let millis = i64::try_from(millis).unwrap_or(i64::MAX);
    format!("\"{:#}\"", jiff::SignedDuration::from_millis(millis))
}

pub(super) fn quote(text: &str) -> String {
    format!("{text:?}")
}

pub(super) fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}
