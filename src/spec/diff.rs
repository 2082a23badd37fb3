//! What differs between two specs, in words.
//!
//! Both specs are laid out as a list of settings with their values as a study file would write them; the lists are
//! compared. Two specs of different identity must never seem equal here.

use std::collections::BTreeMap;

use super::rules::{AbortRule, Bound, FailureMatch, FailureRule};
use super::types::{
    CaseFile, CaseList, Domain, MetricRule, Objective, Retries, Sampling, Spec, SpecValue, StageSpec, SweepParam,
    Work,
};
use crate::model::Value;

/// One setting that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Such as `stage "explore".trial_budget`.
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

/// The differences that keep a store from going on with another spec: everything but `[run]`. Stages are matched by
/// name. Empty exactly when the identities are equal.
#[must_use]
pub fn diff(old: &Spec, new: &Spec) -> Vec<Change> {
    let mut changes = Vec::new();
    compare(&mut changes, "", &head(old), &head(new));
    let order = |spec: &Spec| list(spec.stages.iter().map(|stage| quote(&stage.name)));
    if order(old) != order(new) {
        changes.push(Change { path: "stages".into(), old: Some(order(old)), new: Some(order(new)) });
    }
    for stage in &old.stages {
        let path = format!("stage {:?}", stage.name);
        match new.stages.iter().find(|other| other.name == stage.name) {
            Some(other) => compare(&mut changes, &format!("{path}."), &settings(stage), &settings(other)),
            None => changes.push(Change { path, old: Some(summary(stage)), new: None }),
        }
    }
    for stage in &new.stages {
        if !old.stages.iter().any(|other| other.name == stage.name) {
            let path = format!("stage {:?}", stage.name);
            changes.push(Change { path, old: None, new: Some(summary(stage)) });
        }
    }
    if changes.is_empty() && old.identity_json() != new.identity_json() {
        let hash = |spec: &Spec| Some(format!("hash {}", spec.spec_hash()));
        changes.push(Change { path: "spec".into(), old: hash(old), new: hash(new) });
    }
    changes
}

/// How far a spec is from another: its differences, then the cases of files that do not keep their numbers.
#[must_use]
pub fn distance(old: &Spec, new: &Spec) -> (usize, usize) {
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

type Settings = Vec<(String, String)>;

fn compare(changes: &mut Vec<Change>, prefix: &str, old: &Settings, new: &Settings) {
    let index = |settings: &Settings| settings.iter().cloned().collect::<BTreeMap<String, String>>();
    let (old_values, new_values) = (index(old), index(new));
    for (key, value) in old {
        let now = new_values.get(key);
        if now != Some(value) {
            let path = format!("{prefix}{key}");
            changes.push(Change { path, old: Some(value.clone()), new: now.cloned() });
        }
    }
    for (key, value) in new.iter().filter(|(key, _)| !old_values.contains_key(key)) {
        changes.push(Change { path: format!("{prefix}{key}"), old: None, new: Some(value.clone()) });
    }
}

/// Everything outside the stages.
fn head(spec: &Spec) -> Settings {
    let study = &spec.study;
    let mut settings = vec![
        ("study.name".to_owned(), quote(&study.name)),
        ("study.base_case".to_owned(), quote(&study.base_case)),
        ("study.seed".to_owned(), study.seed.to_string()),
    ];
    let mut add = |key: String, value: String| settings.push((key, value));
    if let Some(text) = &study.description {
        add("study.description".into(), quote(text));
    }
    if let Some(text) = &study.author {
        add("study.author".into(), quote(text));
    }
    if !study.tags.is_empty() {
        add("study.tags".into(), list(study.tags.iter().map(|tag| quote(tag))));
    }
    if !study.inputs.is_empty() {
        add("study.inputs".into(), list(study.inputs.iter().map(|input| quote(input))));
    }
    if !study.inputs_ignore.is_empty() {
        add("study.inputs_ignore".into(), list(study.inputs_ignore.iter().map(|pattern| quote(pattern))));
    }
    for (tool, command) in &study.versions {
        add(format!("study.versions.{tool}"), list(command.iter().map(|word| quote(word))));
    }
    for (name, value) in &spec.params {
        add(format!("params.{name}"), literal(value));
    }
    for (name, value) in &spec.env {
        add(format!("env.{name}"), quote(value));
    }
    if let Some(max_runtime_ms) = spec.rails.max_runtime_ms {
        add("rails.max_runtime".into(), duration(max_runtime_ms));
    }
    if let Some(count) = spec.rails.catastrophic_failures {
        add("rails.catastrophic_failures".into(), count.to_string());
    }
    if let Some(base) = &spec.base {
        add("base.command".into(), command(&base.work));
        if let Some(timeout_ms) = base.timeout_ms {
            add("base.timeout".into(), duration(timeout_ms));
        }
    }
    settings
}

fn settings(stage: &StageSpec) -> Settings {
    let mut settings: Settings = vec![
        ("command".into(), command(&stage.work)),
        ("trial_budget".into(), stage.trial_budget.to_string()),
        ("survivor_count".into(), stage.survivor_count.to_string()),
        ("sampling".into(), sampling(&stage.sampling)),
        ("selection".into(), word(&stage.selection)),
    ];
    let mut add = |key: String, value: String| settings.push((key, value));
    if let Some(timeout_ms) = stage.timeout_ms {
        add("timeout".into(), duration(timeout_ms));
    }
    if !stage.retries.is_none() {
        add("retries".into(), retries(&stage.retries));
    }
    if !stage.outputs.is_empty() {
        add("outputs".into(), list(stage.outputs.iter().map(|output| quote(output))));
    }
    if let Sampling::File(CaseFile { cases: Some(cases), .. }) = &stage.sampling {
        add("cases".into(), case_list(cases));
    }
    for swept in &stage.sweep {
        add(format!("sweep.{}", swept.name), domain(swept));
    }
    if stage.sweep.len() > 1 {
        // The order decides which combination has which number.
        add(
            "sweep's order".into(),
            stage.sweep.iter().map(|swept| swept.name.as_str()).collect::<Vec<_>>().join(", "),
        );
    }
    if !stage.objectives.is_empty() {
        add("objective".into(), list(stage.objectives.iter().map(objective)));
    }
    for (name, rule) in &stage.metrics {
        add(format!("metrics.{name}"), metric(rule));
    }
    if let Some(bytes) = stage.memory_limit_bytes {
        add("memory_limit".into(), bytes.to_string());
    }
    if !stage.rails.abort_if.is_empty() {
        add("rails.abort_if".into(), list(stage.rails.abort_if.iter().map(abort_rule)));
    }
    if let Some(rate) = stage.rails.max_failure_rate {
        add("rails.max_failure_rate".into(), format!("{rate:?}"));
    }
    if !stage.failures.is_empty() {
        add("failure".into(), list(stage.failures.iter().map(failure_rule)));
    }
    if stage.approve {
        add("approve".into(), "true".into());
    }
    settings
}

fn summary(stage: &StageSpec) -> String {
    format!("{} trials, {} survive, {}", stage.trial_budget, stage.survivor_count, command(&stage.work))
}

fn command(work: &Work) -> String {
    match work {
        Work::Argv(words) => list(words.iter().map(|word| quote(&word.to_string()))),
        Work::Shell(line) => quote(&line.to_string()),
        Work::Closure => "a closure".to_owned(),
    }
}

fn sampling(sampling: &Sampling) -> String {
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

/// Enough of a list of cases to tell it from another.
fn case_list(cases: &CaseList) -> String {
    let hash = blake3::hash(word(cases).as_bytes()).to_hex();
    let hash = hash.get(..12).unwrap_or_default();
    let count = if cases.rows.len() == 1 { "1 case".to_owned() } else { format!("{} cases", cases.rows.len()) };
    let names: Vec<String> = cases.names.iter().map(|name| format!("`{name}`")).collect();
    format!("{count} of {} (blake3 {hash}…)", names.join(", "))
}

fn abort_rule(rule: &AbortRule) -> String {
    let bound = match rule.bound {
        Bound::Below(bound) => format!("below = {bound:?}"),
        Bound::Above(bound) => format!("above = {bound:?}"),
    };
    format!("{{ metric = {}, {bound} }}", quote(&rule.metric))
}

fn failure_rule(rule: &FailureRule) -> String {
    let when = match &rule.when {
        FailureMatch::Log(pattern) => format!("log = {}", quote(pattern)),
        FailureMatch::ExitCode(code) => format!("exit_code = {code}"),
        FailureMatch::Signal(name) => format!("signal = {}", quote(name)),
    };
    let severity = rule.severity.name();
    format!("{{ kind = {}, {when}, severity = {severity:?}, retryable = {} }}", quote(&rule.kind), rule.retryable)
}

fn retries(retries: &Retries) -> String {
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

fn objective(objective: &Objective) -> String {
    let weight = objective.weight.map(|weight| format!(" (weight {weight:?})")).unwrap_or_default();
    format!("{} {}{weight}", objective.goal, quote(&objective.metric))
}

fn metric(rule: &MetricRule) -> String {
    format!("{{ file = {}, regex = {}, scale = {:?} }}", quote(&rule.file), quote(&rule.regex), rule.scale)
}

/// A value as a study file writes it: a float always with a point or exponent.
fn literal(value: &SpecValue) -> String {
    match &value.0 {
        Value::Str(text) => quote(text),
        other => other.to_string(),
    }
}

fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn duration(millis: u64) -> String {
    let millis = i64::try_from(millis).unwrap_or(i64::MAX);
    format!("\"{:#}\"", jiff::SignedDuration::from_millis(millis))
}

fn quote(text: &str) -> String {
    format!("{text:?}")
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}
