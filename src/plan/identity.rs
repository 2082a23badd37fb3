//! The identity of a trial's result: equal identities have equal results, if the study file is right in saying `reuse`.
//!
//! An identity is blake3 over named parts. They are what the trial sees, and what makes its record of what it leaves; not
//! where, when or under which name it runs. What a stage's trials have in common is taken up once. A part must never be left
//! out because it seldom matters, and no part may depend on the machine: `docs/reference/reuse.md` lists them. Whatever is
//! changed here needs another version in `PURPOSE`, or results of older stores would stand for what they are not.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use super::draw::{Draw, Uniform as _};
use crate::model::{
    Accepted, Doubt, IdentityHash, InputHash, OutputHash, Params, StageIndex, StudyRow, ToolVersion, TrialId,
    Value, float_text, named,
};
use crate::study_file::{ProgressSpec, Reuse, Spec, StageSpec, Work, is_case_file, same_path};

/// With its version: identities of another one are never equal.
const PURPOSE: &str = "piton identity 1: result of a trial";
const CHECK_PURPOSE: &str = "piton identity 1: whether a hit is checked";
const SEED_PURPOSE: &str = "piton identity 1: seed of a trial";

/// What a result is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ResultId(pub [u8; 32]);

impl std::fmt::Display for ResultId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What of a trial a part is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum PartKind {
    /// The study's seed.
    Seed,
    /// What runs, its placeholders not filled in.
    Command,
    /// What the study file says in `reuse`.
    Version,
    /// What must have succeeded before.
    Base,
    /// A constant that it saw.
    BaseParam,
    /// A variable of `[env]`.
    Env,
    /// An input's hash.
    Input,
    /// A tool's version.
    Tool,
    /// How a metric is read out of a file.
    Metric,
    /// How reports are read from what is printed, and whether they count.
    Progress,
    /// A file that is kept.
    Output,
    /// A param that the trial sees.
    Param,
    /// A hash of what the parent left.
    Parent,
    /// Which replica of its case, where cases are repeated.
    Replica,
}

named!(pub(crate) PartKind {
    Seed => "seed",
    Command => "command",
    Version => "version",
    Base => "base",
    BaseParam => "base param",
    Env => "env",
    Input => "input",
    Tool => "tool",
    Metric => "metric",
    Progress => "progress",
    Output => "output",
    Param => "param",
    Parent => "parent",
    Replica => "replica",
});

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct IdentityPart {
    pub kind: PartKind,
    /// Which one of its kind; may be empty.
    pub name: String,
    /// What that is: text as a study file or JSON writes it, or a hash in hex.
    pub value: String,
}

/// What a study's results are made with, as it is recorded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MadeWith<'a> {
    pub inputs: &'a [InputHash],
    pub versions: &'a [ToolVersion],
    /// Inputs and tools of which what there is stands for what it was before, as a person said.
    pub accepted: &'a [Accepted],
}

impl<'a> From<&'a StudyRow> for MadeWith<'a> {
    fn from(study: &'a StudyRow) -> Self {
        Self { inputs: &study.inputs, versions: &study.versions, accepted: &study.accepted }
    }
}

impl MadeWith<'_> {
    /// The same with each acceptance undone, the last one first, where that makes a difference.
    #[must_use]
    pub(crate) fn before(self) -> Vec<(Vec<InputHash>, Vec<ToolVersion>)> {
        let (mut inputs, mut versions) = (self.inputs.to_vec(), self.versions.to_vec());
        let mut before = Vec::new();
        for accepted in self.accepted.iter().rev() {
            if accepted.undo(&mut inputs, &mut versions) {
                before.push((inputs.clone(), versions.clone()));
            }
        }
        before
    }
}

/// What a result is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KnownBy {
    pub identity: IdentityHash,
    /// What that has in common with all of its stage.
    pub shared: IdentityHash,
}

/// What the identities of a stage's trials have in common.
#[derive(Clone, Debug)]
pub(crate) struct StageIdentity {
    parts: Vec<IdentityPart>,
    taken_up: blake3::Hasher,
    shared: IdentityHash,
    uses: Option<BTreeSet<String>>,
    /// The same with each acceptance undone, the last one first: results of these identities may be taken, too.
    accepted: Vec<Self>,
}

impl StageIdentity {
    /// `None`: the stage does not reuse, or something that it depends on is not recorded.
    #[must_use]
    pub(crate) fn of(spec: &Spec, stage: StageIndex, made_with: MadeWith<'_>) -> Option<Self> {
        let stage_spec = spec.stages.get(stage as usize).filter(|stage| !stage.reuse.is_no())?;
        let parts = common(spec, stage_spec, made_with)?;
        let mut taken_up = blake3::Hasher::new_derive_key(PURPOSE);
        parts.iter().for_each(|part| take_up(&mut taken_up, part.kind, &part.name, &part.value));
        let shared = *taken_up.finalize().as_bytes();
        let before = made_with.before();
        let accepted = before.iter().filter_map(|(inputs, versions)| {
            let before = Self::of(spec, stage, MadeWith { inputs, versions, accepted: &[] })?;
            (before.parts != parts).then_some(before)
        });
        let accepted = accepted.collect();
        Some(Self { parts, taken_up, shared, uses: stage_spec.uses.clone(), accepted })
    }

    /// The same for trials that are this replica of their cases; where each trial is a case, this one.
    #[must_use]
    pub(crate) fn of_replica(&self, replica: Option<u32>) -> Cow<'_, Self> {
        let Some(replica) = replica else { return Cow::Borrowed(self) };
        let mut own = self.clone();
        for one in [&mut own.parts].into_iter().chain(own.accepted.iter_mut().map(|one| &mut one.parts)) {
            one.push(IdentityPart { kind: PartKind::Replica, name: String::new(), value: replica.to_string() });
        }
        take_up(&mut own.taken_up, PartKind::Replica, "", &replica.to_string());
        for one in &mut own.accepted {
            take_up(&mut one.taken_up, PartKind::Replica, "", &replica.to_string());
        }
        Cow::Owned(own)
    }

    /// Whether results of other identities may be taken, too.
    #[must_use]
    pub(crate) fn has_accepted(&self) -> bool {
        !self.accepted.is_empty()
    }

    /// What the results are known by that the trial may take: its own, then those that a person accepted for it.
    #[must_use]
    pub(crate) fn taken_by(&self, params: &Params, parent: &[OutputHash]) -> Vec<KnownBy> {
        let known_by = |one: &Self| KnownBy { identity: one.trial(params, parent).0, shared: one.shared };
        [self].into_iter().chain(&self.accepted).map(known_by).collect()
    }

    /// What all trials of the stage depend on: by it a stage is known whose results have turned out to differ.
    #[must_use]
    pub(crate) const fn shared(&self) -> IdentityHash {
        self.shared
    }

    /// The first of these doubts that is about such a stage, or about one that a person accepted for it.
    #[must_use]
    pub(crate) fn doubt_among<'a>(&self, doubts: &'a [Doubt]) -> Option<&'a Doubt> {
        doubts.iter().find(|doubt| [self].into_iter().chain(&self.accepted).any(|one| one.shared == doubt.shared))
    }

    /// The identity of a trial's result, from its case's params and the outputs of its parent's accepted attempt (none in the
    /// first stage). What the trial does not see may be there, and counts for nothing.
    #[must_use]
    pub(crate) fn trial(&self, params: &Params, parent: &[OutputHash]) -> ResultId {
        let mut hasher = self.taken_up.clone();
        self.each_own(params, parent, |kind, name, value| take_up(&mut hasher, kind, name, &value));
        ResultId(*hasher.finalize().as_bytes())
    }

    /// What [`StageIdentity::trial`] is made of, in its order.
    #[must_use]
    pub(crate) fn parts(&self, params: &Params, parent: &[OutputHash]) -> Vec<IdentityPart> {
        let mut parts = self.parts.clone();
        self.each_own(params, parent, |kind, name, value| {
            parts.push(IdentityPart { kind, name: name.to_owned(), value });
        });
        parts
    }

    /// The parts that differ between the stage's trials.
    fn each_own(&self, params: &Params, parent: &[OutputHash], mut each: impl FnMut(PartKind, &str, String)) {
        for (name, value) in params {
            if self.uses.as_ref().is_none_or(|uses| uses.contains(name)) {
                each(PartKind::Param, name, literal(value));
            }
        }
        let mut outputs: Vec<&OutputHash> = parent.iter().collect();
        outputs.sort_by(|a, b| a.path.cmp(&b.path));
        for output in outputs {
            each(PartKind::Parent, &output.path, blake3::Hash::from_bytes(output.blake3).to_hex().to_string());
        }
    }
}

/// Whether a trial is run although a result of this identity was found: so many of all, and of one study always the same.
#[must_use]
pub(crate) fn is_checked(study_seed: u64, share: f64, identity: &IdentityHash, trial: TrialId) -> bool {
    let mut bytes = study_seed.to_le_bytes().to_vec();
    bytes.extend(identity);
    bytes.extend(trial.0.to_le_bytes());
    share > 0.0 && Draw::new(CHECK_PURPOSE, &bytes).unit() < share
}

/// The first of the doubts of a study that is about a stage of it as it is now, or as it was with what counts as equal to that.
#[must_use]
pub(crate) fn doubt_of<'a>(study: &'a StudyRow, spec: &Spec, stage: StageIndex) -> Option<&'a Doubt> {
    if study.doubts.is_empty() {
        return None;
    }
    StageIdentity::of(spec, stage, study.into())?.doubt_among(&study.doubts)
}

/// The seed of a trial that sees these params: a function of what its identity holds, and of nothing that needs a record. So
/// it stays the same when a script or a tool changes, and what changed is all that differs.
pub(super) fn seed(study_seed: u64, stage: &StageSpec, seen: &Params, replica: Option<u32>) -> u32 {
    let mut bytes = Vec::new();
    let mut add = |kind, name: &str, value: &str| take_up(&mut bytes, kind, name, value);
    let (how, words) = command(&stage.work, &stage.name);
    add(PartKind::Seed, "", &study_seed.to_string());
    add(PartKind::Command, how, &words);
    match replica {
        None => seen.iter().for_each(|(name, value)| add(PartKind::Param, name, &literal(value))),
        // Cases are compared under equal chance.
        Some(replica) => add(PartKind::Replica, "", &replica.to_string()),
    }
    Draw::new(SEED_PURPOSE, &bytes).half_word()
}

/// The parts that all trials of a stage share, in the order in which they are taken up.
fn common(spec: &Spec, stage: &StageSpec, made_with: MadeWith<'_>) -> Option<Vec<IdentityPart>> {
    let mut parts = Vec::new();
    let mut add =
        |kind, name: &str, value: String| parts.push(IdentityPart { kind, name: name.to_owned(), value });
    add(PartKind::Seed, "", spec.study.seed.to_string());
    let (how, words) = command(&stage.work, &stage.name);
    add(PartKind::Command, how, words);
    if let Reuse::Version(version) = &stage.reuse {
        add(PartKind::Version, "", quoted(version));
    }
    if let Some(base) = &spec.base {
        let (how, words) = command(&base.work, "");
        add(PartKind::Base, how, words);
        // It saw all constants, and what it did with them a trial may find.
        spec.constants().iter().for_each(|(name, value)| add(PartKind::BaseParam, name, literal(value)));
    }
    spec.env.iter().for_each(|(name, value)| add(PartKind::Env, name, quoted(value)));
    for (path, hash) in inputs(spec, stage, made_with.inputs)? {
        add(PartKind::Input, path, hash.blake3.clone());
    }
    for tool in spec.study.versions.keys() {
        let told = made_with.versions.iter().find(|version| version.tool == *tool)?;
        add(PartKind::Tool, tool, quoted(&told.version));
    }
    for (metric, rule) in &stage.metrics {
        let [file, regex] = [&rule.file, &rule.regex].map(|text| quoted(text));
        add(PartKind::Metric, metric, format!("[{file},{regex},{}]", float_text(rule.scale)));
    }
    progress(&stage.progress, |name, value| add(PartKind::Progress, name, value));
    stage.outputs.iter().for_each(|output| add(PartKind::Output, output, String::new()));
    Some(parts)
}

/// What `[stage.progress]` adds to the metrics.
fn progress(progress: &ProgressSpec, mut add: impl FnMut(&str, String)) {
    if let Some(file) = &progress.file {
        add("file", quoted(file));
    }
    if let Some(regex) = &progress.regex {
        add("regex", quoted(regex));
    }
    progress.metrics.iter().for_each(|(metric, regex)| add(&format!("metrics.{metric}"), quoted(regex)));
    if progress.only_watched {
        add("final", "false".to_owned());
    }
}

/// The inputs of the study and of the stage, by path. What files of cases say is in the params.
fn inputs<'a>(
    spec: &'a Spec,
    stage: &'a StageSpec,
    recorded: &'a [InputHash],
) -> Option<BTreeMap<&'a str, &'a InputHash>> {
    let named = spec.study.inputs.iter().chain(&stage.inputs).filter(|input| !is_case_file(spec, input));
    let found = named.map(|input| {
        let hash = recorded.iter().find(|hash| same_path(&hash.path, input))?;
        Some((input.strip_prefix("./").unwrap_or(input), hash))
    });
    found.collect()
}

/// What runs: how, and its words as the study file has them.
fn command(work: &Work, closure: &str) -> (&'static str, String) {
    match work {
        Work::Argv(words) => {
            let words: Vec<String> = words.iter().map(|word| quoted(&word.to_string())).collect();
            ("argv", format!("[{}]", words.join(",")))
        }
        Work::Shell(line) => ("shell", quoted(&line.to_string())),
        // What it does is the user's word, which goes by the stage's name.
        Work::Closure => ("closure", quoted(closure)),
    }
}

/// A value as `params.json` has it.
fn literal(value: &Value) -> String {
    match value {
        Value::Str(text) => quoted(text),
        other => other.to_string(),
    }
}

/// Text as JSON has it.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Each text with its length, so that no two lists of parts are the same bytes.
fn take_up(into: &mut impl Write, kind: PartKind, name: &str, value: &str) {
    for text in [kind.name(), name, value] {
        // Neither memory nor a hasher refuses bytes.
        let _ = into.write_all(&(text.len() as u64).to_le_bytes());
        let _ = into.write_all(text.as_bytes());
    }
}

#[cfg(test)]
mod tests;
