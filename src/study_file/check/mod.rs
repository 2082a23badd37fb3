//! The checks: raw tree in, checked [`Spec`] or every mistake out.
//!
//! Study files and builders go through the same code. A check must never be skipped because another one failed,
//! unless what it needs is missing.

pub(super) mod cluster;
mod cross;
mod exploring;
mod improving;
pub(super) mod keeping;
pub(super) mod progress;
pub(super) mod replicas;
mod resources;
mod reuse;
pub(super) mod rules;
pub(super) mod stage;
pub(super) mod sweep;
pub(super) mod watching;

pub(super) use self::sweep::identity;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use self::stage::WorkParts;
use super::cases::KnownParams;
use super::cluster::{ExecutorSpec, RaySpec, SlurmSpec};
use super::diagnostics::{Diagnostic, Location, names_help, shown};
use super::diff::{self, quote};
use super::inputs::pattern_mistake;
use super::keys::{Amend, Key, Least, NONE, Preset, REQUIRED, Section, Takes, put};
use super::raw::{Entry, Kind, Node};
use super::rules::Rails;
use super::stage::{POOL, STAGE, StageParts, StageSpec};
use super::template::{BUILTIN_PLACEHOLDERS, PARAM_PATTERN, is_name};
use super::types::{BaseSpec, RunSpec, Spec, SpecValue, StudySpec, Values};
use super::walk::{COUNT_MAX, Checker, Field};
use super::watching::StopIf;
use crate::model::{ExecutorKind, names_of};

/// No more trials at once than this.
pub(super) const WORKERS_MAX: i128 = 65_536;

/// `[params]`; `None` for one whose value is bad: the param exists all the same.
type Constants = BTreeMap<String, Option<SpecValue>>;

/// What the whole study file says, before what its tables say together is checked.
#[derive(Default)]
pub(super) struct RootParts {
    study: Option<StudySpec>,
    params: Constants,
    env: BTreeMap<String, String>,
    run: RunSpec,
    resources: resources::Pools,
    rails: Rails,
    base: Field<BaseParts>,
    defaults: StageParts,
    stages: Vec<StageParts>,
}

/// What `[run]` says, with its executors' tables.
#[derive(Default)]
pub(super) struct RunParts {
    run: RunSpec,
    executor: Option<ExecutorKind>,
    ray: RaySpec,
    slurm: SlurmSpec,
}

/// What `[base]` says.
#[derive(Clone, Default)]
pub(super) struct BaseParts {
    work: Field<WorkParts>,
    timeout_ms: Option<u64>,
}

/// A name that can be part of a file's.
pub(super) const NAME: Takes = Takes::Form("^[A-Za-z0-9_-]{1,64}$", "name of 1 to 64 of `A-Z a-z 0-9 _ -`");
pub(super) const PARAM_NAME: Takes =
    Takes::But(&Takes::Form(PARAM_PATTERN, "param"), || BUILTIN_PLACEHOLDERS.to_vec());
/// A metric's name, or another.
pub(super) const ANY_NAME: Takes = Takes::Filled("name");
/// A path below the attempt's directory.
pub(super) const INNER_PATH: Takes = Takes::Form(r"^(?!\.\.(/|$)|\.$)[^/]", "path in the attempt's directory");
/// A program with its arguments.
pub(super) const WORDS: Takes = Takes::List(&Takes::Text, 1);
/// The same, or a line for the shell.
pub(super) const COMMAND: Takes = Takes::Either(&[WORDS, Takes::Form(r"\S", "line for `sh -c`")]);
/// The same, of what is no trial.
const UNTEMPLATED: Takes = Takes::Either(&[WORDS, Takes::Text]);

/// A pool: its items, or how much there is of it.
const SHARED: Takes = Takes::Map(
    &POOL,
    &Takes::Either(&[Takes::Set(&Takes::Filled("item"), 1), Takes::Integer(1, COUNT_MAX), Takes::Size]),
    0,
);

type RootKey = Key<RootParts, Spec>;

/// The whole study file.
#[rustfmt::skip] // Entry by entry: what it is, what it is for, how it is read, how it changes.
pub(super) static ROOT: Section<RootParts, Spec> = Section::new(
    "the study file",
    "A study file is TOML.",
    &[
        RootKey::new("study", Takes::Table(&STUDY), Preset::Required(Some("start with `[study]` and its `name`")),
            "The study itself.",
            |c, n, p, d| put(&mut d.study, c.study(n, p).map(Some))),
        RootKey::new("params", Takes::Map(&PARAM_NAME, &Takes::Value, 0), NONE,
            "Constants that every trial sees; `--set NAME=VALUE` overrides one when the study is made.",
            |c, n, p, d| put(&mut d.params, c.constants(n, p)))
            .below(|spec| diff::each(&spec.params, diff::literal)),
        RootKey::new("env", Takes::Map(&Takes::Form(r"^(?!PITON_)[^=\s]+$", "variable"), &Takes::Text, 0), NONE,
            "The environment of every trial, besides piton's own.",
            |c, n, p, d| put(&mut d.env, c.env(n, p)))
            .below(|spec| diff::each(&spec.env, |value| quote(value))),
        RootKey::new("run", Takes::Table(&RUN), NONE,
            "How the study is run here.",
            |c, n, p, d| put(&mut d.run, c.run(n, p))),
        RootKey::new("resources", SHARED, NONE,
            "What trials share: things by their names, or how many there are. `cpus` and `memory` are the machine's, or the cgroup's, unless they are said; \
             no part of the study itself, so it can be changed at any time.",
            |c, n, p, d| put(&mut d.resources, c.shared_resources(n, p)))
            .below(|spec| diff::each(&spec.run.resources, diff::pool)).amended(Amend::Run),
        RootKey::new("rails", Takes::Table(&rules::RAILS), NONE,
            "Limits of the whole study.",
            |c, n, p, d| c.section(&rules::RAILS, n, p, &mut d.rails).map(drop)),
        RootKey::new("base", Takes::Table(&BASE), NONE,
            "What must succeed once before the first stage.",
            |c, n, p, d| d.base.put(c.base(n, p), p)),
        RootKey::new("defaults", Takes::Defaults(&STAGE), NONE,
            "Keys of every stage that has none of its own.",
            |c, n, p, d| put(&mut d.defaults, c.defaults(n, p))),
        RootKey::new("stage", Takes::List(&Takes::Table(&STAGE), 1), Preset::Required(Some("a study needs at least one `[[stage]]`")),
            "The stages, in order.",
            |c, n, p, d| put(&mut d.stages, c.stage_tables(n, p, &d.defaults))),
    ],
);

type StudyKey = Key<StudySpec, StudySpec>;

/// `[study]`.
#[rustfmt::skip] // Entry by entry: what it is, what it is for, how it is read, how it changes.
pub(super) static STUDY: Section<StudySpec, StudySpec> = Section::new(
    "`[study]`",
    "The study itself.",
    &[
        StudyKey::new("name", NAME, REQUIRED,
            "What the study is called.",
            |c, n, p, d| put(&mut d.name, c.file_name(n, p)))
            .shown(|study| Some(quote(&study.name))).amended(Amend::Identity),
        StudyKey::new("base_case", NAME, Preset::Words("the study's name"),
            "What cases are derived from: they are called `<base_case>_<stage>_<number>`.",
            |c, n, p, d| put(&mut d.base_case, c.file_name(n, p)))
            .shown(|study| Some(quote(&study.base_case))).amended(Amend::Identity),
        StudyKey::new("seed", Takes::Integer(0, u64::MAX as i128), Preset::Value("0"),
            "Every random choice follows from it.",
            |c, n, p, d| put(&mut d.seed, c.whole(n, p, 0..=u64::MAX.into())))
            .shown(|study| Some(study.seed.to_string())),
        StudyKey::new("description", Takes::Text, NONE,
            "For people.",
            |c, n, p, d| put(&mut d.description, c.text(n, p).map(Some)))
            .shown(|study| study.description.as_deref().map(quote)).amended(Amend::People),
        StudyKey::new("author", Takes::Text, NONE,
            "For people.",
            |c, n, p, d| put(&mut d.author, c.text(n, p).map(Some)))
            .shown(|study| study.author.as_deref().map(quote)).amended(Amend::People),
        StudyKey::new("tags", Takes::Set(&Takes::Filled("word"), 0), Preset::Value("[]"),
            "For people.",
            |c, n, p, d| put(&mut d.tags, c.texts(n, p, |c, n, p| c.non_empty_text(n, p))))
            .shown(|study| diff::texts(&study.tags)).amended(Amend::People),
        StudyKey::new("inputs", Takes::Set(&Takes::Filled("path"), 0), Preset::Value("[]"),
            "Files and directories that results depend on, relative to the study file; a changed one stops the study.",
            |c, n, p, d| put(&mut d.inputs, c.texts(n, p, |c, n, p| c.non_empty_text(n, p))))
            .shown(|study| diff::texts(&study.inputs)).amended(Amend::Inputs),
        StudyKey::new("inputs_ignore", Takes::Set(&Takes::Filled("pattern of paths"), 0), Preset::Value("[]"),
            "What is left out of directories among the inputs.",
            |c, n, p, d| put(&mut d.inputs_ignore, c.texts(n, p, |c, n, p| c.path_pattern(n, p))))
            .shown(|study| diff::texts(&study.inputs_ignore)).amended(Amend::Ignored),
        StudyKey::new("versions", Takes::Map(&NAME, &UNTEMPLATED, 0), NONE,
            "Tools whose versions belong to the study, each with the command that tells it.",
            |c, n, p, d| put(&mut d.versions, c.versions(n, p)))
            .below(|study| diff::each(&study.versions, |command| diff::texts(command).unwrap_or_default()))
            .amended(Amend::Tools),
    ],
);

type RunKey = Key<RunParts, RunSpec>;

/// `[run]`.
#[rustfmt::skip] // Entry by entry: what it is, what it is for, how it is read, how it changes.
pub(super) static RUN: Section<RunParts, RunSpec> = Section::new(
    "`[run]`",
    "How the study is run here; no part of the study itself, so it can be changed at any time.",
    &[
        RunKey::new("workers", Takes::Integer(1, WORKERS_MAX), Preset::Words("the number of CPUs"),
            "Trials at once.",
            |c, n, p, d| put(&mut d.run.workers, c.whole(n, p, 1..=WORKERS_MAX).map(Some)))
            .shown(|run| run.workers.map(|workers| workers.to_string())),
        RunKey::new("executor", Takes::Word(names_of::<ExecutorKind>), Preset::Value("\"local\""),
            "Where trials run: on this machine, or as jobs of a cluster that is there already.",
            |c, n, p, d| put(&mut d.executor, c.named(n, p).map(Some)))
            .shown(|run| Some(run.executor.kind().name().to_owned())),
        RunKey::new("grace", Takes::DurationOrZero, Preset::Value("\"10s\""),
            "Time for a trial between TERM and KILL.",
            |c, n, p, d| put(&mut d.run.grace_ms, c.duration(n, p, true)))
            .shown(|run| Some(format!("{} ms", run.grace_ms))),
        RunKey::new("sync_interval", Takes::DurationOrZero, Preset::Value("\"0s\""),
            "Finished trials may wait so long for the commit that they share.",
            |c, n, p, d| put(&mut d.run.sync_interval_ms, c.duration(n, p, true)))
            .shown(|run| Some(format!("{} ms", run.sync_interval_ms))),
        RunKey::new("on_event", UNTEMPLATED, NONE,
            "A command that is told, as JSON, when a stage closes and a run ends.",
            |c, n, p, d| put(&mut d.run.on_event, c.untemplated(n, p, "the command of `on_event`")))
            .shown(|run| (!run.on_event.is_empty()).then(|| run.on_event.join(" "))),
        RunKey::new("reuse_from", Takes::Set(&Takes::Filled("path of a store"), 0), Preset::Value("[]"),
            "Stores of other studies whose results are taken, too, where a stage says `reuse`; relative to the study file.",
            |c, n, p, d| put(&mut d.run.reuse_from, c.texts(n, p, |c, n, p| c.non_empty_text(n, p))))
            .shown(|run| diff::texts(&run.reuse_from)),
        RunKey::new("reuse_check", Takes::Number(Least::ShareOrZero), Preset::Value("0"),
            "The share of trials that are run although they could take a result, to see whether it is the same.",
            |c, n, p, d| put(&mut d.run.reuse_check, c.share(n, p)))
            .shown(|run| (run.reuse_check > 0.0).then(|| format!("{:?}", run.reuse_check))),
        RunKey::new("disk_limit", Takes::Size, NONE,
            "No trial starts that the study's directory would be larger with than this: the run drains, and exits with 75.",
            |c, n, p, d| put(&mut d.run.disk_limit_bytes, c.disk_limit(n, p).map(Some)))
            .shown(|run| run.disk_limit_bytes.map(|bytes| bytes.to_string())),
        RunKey::new("ray", Takes::Table(&cluster::RAY), NONE,
            "Settings of Ray's jobs.",
            |c, n, p, d| c.section(&cluster::RAY, n, p, &mut d.ray).map(drop)),
        RunKey::new("slurm", Takes::Table(&cluster::SLURM), NONE,
            "Settings of Slurm's jobs.",
            |c, n, p, d| c.section(&cluster::SLURM, n, p, &mut d.slurm).map(drop)),
    ],
);

type BaseKey = Key<BaseParts, BaseSpec>;

/// `[base]`.
#[rustfmt::skip] // Entry by entry: what it is, what it is for, how it is read, how it changes.
pub(super) static BASE: Section<BaseParts, BaseSpec> = Section::new(
    "`[base]`",
    "A command that must succeed once before the first stage; it sees the constants.",
    &[
        BaseKey::new("command", COMMAND, REQUIRED,
            "What runs.",
            |c, n, p, d| d.work.put(c.command(n, p), p))
            .shown(|base| Some(diff::command(&base.work))).amended(Amend::BaseCommand),
        BaseKey::new("timeout", Takes::Duration, NONE,
            "It is terminated after this long.",
            |c, n, p, d| put(&mut d.timeout_ms, c.duration(n, p, false).map(Some)))
            .shown(|base| base.timeout_ms.map(diff::duration)).amended(Amend::Base),
    ],
);

/// Checks a whole raw tree. `source` is the study file's text, for places inside strings; files of cases are read
/// from `study_dir`, if it is given, and as `values` says.
pub(crate) fn check(
    source: &str,
    root: &Node,
    overrides: &[(String, String)],
    (study_dir, values): (Option<&Path>, Values),
) -> Result<Spec, Vec<Diagnostic>> {
    let mut checker =
        Checker { source, study_dir, values, gaps: BTreeMap::new(), found: Vec::new(), incomplete: false };
    let spec = checker.spec(root, overrides);
    match spec {
        Some(spec) if checker.found.is_empty() && !checker.incomplete => Ok(spec),
        _ if checker.found.is_empty() => {
            Err(vec![Diagnostic::at(&Location::default(), "the study is incomplete")])
        }
        _ => Err(checker.found),
    }
}

/// Checks the rules of `stop_if` in a text of its own, as those of this stage.
pub(crate) fn check_choice(source: &str, root: &Node, stage: &StageSpec) -> Result<Vec<StopIf>, Vec<Diagnostic>> {
    let values = Values::Exact;
    let mut checker =
        Checker { source, study_dir: None, values, gaps: BTreeMap::new(), found: Vec::new(), incomplete: false };
    let rules = checker.only_rules(root, stage);
    match rules {
        Some(rules) if checker.found.is_empty() && !checker.incomplete => Ok(rules),
        _ => Err(checker.found),
    }
}

impl Checker<'_> {
    fn only_rules(&mut self, root: &Node, stage: &StageSpec) -> Option<Vec<StopIf>> {
        let Kind::Table(entries) = &root.kind else { return None };
        // The one key that the text has.
        let Entry { key, node, .. } = entries.first()?;
        let place = Location { span: node.span.clone(), path: key.clone() };
        let rules = self.stop_rules(node, &place)?;
        let parts = StageParts { stop_if: Field::Good(rules, place), ..StageParts::default() };
        self.stop_rules_suit(&parts, Some(&stage.objectives))
    }

    fn spec(&mut self, root: &Node, overrides: &[(String, String)]) -> Option<Spec> {
        let mut parts = RootParts::default();
        self.section(&ROOT, root, &Location::default(), &mut parts)?;
        let RootParts { study, mut params, env, run, resources, rails, base, stages, .. } = parts;
        self.overrides(&mut params, base.good(), &stages, overrides);
        let base = self.base_gate(base, &params);
        let stages = self.stages(stages, KnownParams::new(params.keys().cloned()), &resources);
        let resources = resources.into_iter().filter_map(|(name, pool)| Some((name, pool?))).collect();
        let run = RunSpec { resources, ..run };
        let params = params.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let values = self.values;
        Some(Spec { study: study?, params, env, run, rails, base: base?, stages: stages?, values })
    }

    fn stage_tables(&mut self, node: &Node, place: &Location, defaults: &StageParts) -> Option<Vec<StageParts>> {
        let Kind::Array(items) = &node.kind else {
            let help = matches!(node.kind, Kind::Table(_)).then(|| "write `[[stage]]`, with two brackets".into());
            self.wrong_type(node, place, "a list of tables", help);
            return None;
        };
        if items.is_empty() {
            self.report(Diagnostic::at(place, "a study needs at least one stage").label("no stage here"));
        }
        let mut stages = Vec::with_capacity(items.len());
        for (index, node) in items.iter().enumerate() {
            let place = Location { span: node.span.clone(), path: stage_path(index, node) };
            let table = self.table(node, &place, STAGE.title, &STAGE);
            stages.extend(table.map(|table| self.stage_parts(&table, defaults)));
        }
        Some(stages)
    }

    fn study(&mut self, node: &Node, place: &Location) -> Option<StudySpec> {
        let mut study = StudySpec::default();
        self.section(&STUDY, node, place, &mut study)?;
        if study.base_case.is_empty() {
            study.base_case = study.name.clone();
        }
        Some(study)
    }

    fn base(&mut self, node: &Node, place: &Location) -> Option<BaseParts> {
        let mut base = BaseParts::default();
        self.section(&BASE, node, place, &mut base)?;
        Some(base)
    }

    fn defaults(&mut self, node: &Node, place: &Location) -> Option<StageParts> {
        let table = self.table(node, place, "`[defaults]`", &STAGE)?;
        if let Some(entry) = table.entries.iter().find(|entry| entry.key == "name") {
            let message = "`name` cannot stand in `[defaults]`: no two stages have the same one";
            let help = "give each `[[stage]]` its own `name`";
            self.report(Diagnostic::at(&table.key_place(entry), message).label("no default").help(help));
        }
        Some(self.stage_parts(&table, &StageParts::default()))
    }

    /// A pattern of `inputs_ignore`.
    fn path_pattern(&mut self, node: &Node, place: &Location) -> Option<String> {
        let text = self.non_empty_text(node, place)?;
        let Some(why) = pattern_mistake(&text) else { return Some(text) };
        let help = "`*` is any part of a name, `**` any directories, `?` a letter, `[ab]` one of these";
        let message = format!("{} is no pattern of paths", shown(&text));
        self.report(Diagnostic::at(place, message).label(why).help(help));
        None
    }

    /// `versions`: a command for each tool.
    fn versions(&mut self, node: &Node, place: &Location) -> Option<BTreeMap<String, Vec<String>>> {
        let table = self.open_table(node, place, "`versions`")?;
        let mut versions = BTreeMap::new();
        for entry in table.entries {
            let key_place = table.key_place(entry);
            let name = Node { kind: Kind::Str(entry.key.clone()), span: entry.key_span.clone() };
            let tool = self.file_name(&name, &key_place);
            let place = table.place.below(&entry.key, entry.node.span.clone());
            let command = self.untemplated(&entry.node, &place, "the command that tells a version");
            versions.extend(tool.zip(command));
        }
        Some(versions)
    }

    fn constants(&mut self, node: &Node, place: &Location) -> Option<Constants> {
        let table = self.open_table(node, place, "`[params]`")?;
        let mut constants = Constants::new();
        for entry in table.entries {
            let key_place = table.key_place(entry);
            let named = self.param_name(&entry.key, &key_place);
            let place = table.place.below(&entry.key, entry.node.span.clone());
            let value = self.value(&entry.node, &place).filter(|_| named);
            constants.insert(entry.key.clone(), value);
        }
        Some(constants)
    }

    pub(super) fn param_name(&mut self, name: &str, place: &Location) -> bool {
        let (message, label, help) = if BUILTIN_PLACEHOLDERS.contains(&name) {
            let label = "piton's own placeholder";
            (format!("a param cannot be called {}", shown(name)), label, "choose another name")
        } else if is_name(name) {
            return true;
        } else {
            let help = "a letter or `_`, then letters, digits or `_`";
            (format!("{} is no name for a param", shown(name)), "not a name", help)
        };
        self.report(Diagnostic::at(place, message).label(label).help(help));
        false
    }

    fn env(&mut self, node: &Node, place: &Location) -> Option<BTreeMap<String, String>> {
        let table = self.open_table(node, place, "`[env]`")?;
        let mut env = BTreeMap::new();
        for entry in table.entries {
            let (key, place) = (entry.key.as_str(), table.key_place(entry));
            let message =
                if key.is_empty() || key.contains(|c: char| c == '=' || c.is_whitespace() || c.is_control()) {
                    Some(format!("{} is no name for an environment variable", shown(key)))
                } else if key.starts_with("PITON_") {
                    Some(format!("{}: variables that begin with `PITON_` are set by piton", shown(key)))
                } else {
                    None
                };
            if let Some(message) = message {
                self.report(Diagnostic::at(&place, message).label("not allowed here"));
            }
            let place = table.place.below(key, entry.node.span.clone());
            if let Some(value) = self.text(&entry.node, &place) {
                env.insert(entry.key.clone(), value);
            }
        }
        Some(env)
    }

    /// Both tables of executors are checked whichever is used, so that `executor` alone decides.
    fn run(&mut self, node: &Node, place: &Location) -> Option<RunSpec> {
        let mut parts = RunParts::default();
        self.section(&RUN, node, place, &mut parts)?;
        let executor = match parts.executor.unwrap_or(ExecutorKind::Local) {
            ExecutorKind::Local => ExecutorSpec::Local,
            ExecutorKind::Ray => ExecutorSpec::Ray(parts.ray),
            ExecutorKind::Slurm => ExecutorSpec::Slurm(parts.slurm),
        };
        Some(RunSpec { executor, ..parts.run })
    }

    /// A program with its arguments, or a line for `sh -c`, without placeholders.
    fn untemplated(&mut self, node: &Node, place: &Location, what: &str) -> Option<Vec<String>> {
        if let Kind::Str(line) = &node.kind {
            return Some(vec!["sh".into(), "-c".into(), line.clone()]);
        }
        self.words(node, place, what)
    }

    /// The base command with its placeholders checked: it knows the constants alone. `None` for a bad one.
    fn base_gate(&mut self, base: Field<BaseParts>, params: &Constants) -> Option<Option<BaseSpec>> {
        let BaseParts { work, timeout_ms } = match base {
            Field::Absent => return Some(None),
            Field::Bad => return None,
            Field::Good(parts, _) => parts,
        };
        let work = work.into_good()?;
        let known = KnownParams::new(params.keys().cloned());
        for hole in &work.holes {
            self.placeholder(hole, "before the first stage", &known, ("base", true));
        }
        Some(Some(BaseSpec { work: work.work?, timeout_ms }))
    }

    /// Applies `--set`: it replaces a constant, or gives one that a command's placeholder still lacks.
    fn overrides(
        &mut self,
        params: &mut Constants,
        base: Option<&BaseParts>,
        parts: &[StageParts],
        overrides: &[(String, String)],
    ) {
        let of_base = base.and_then(|base| base.work.good()).into_iter().flat_map(WorkParts::placeholders);
        let of_stages = parts.iter().flat_map(StageParts::placeholders);
        let placeholders: BTreeSet<&str> = of_stages.chain(of_base).collect();
        let swept: BTreeSet<&str> = parts.iter().flat_map(StageParts::swept).collect();
        let optional: BTreeSet<String> = self.gaps.values().flat_map(|gaps| gaps.keys().cloned()).collect();
        for (name, text) in overrides {
            let place = Location { span: None, path: format!("--set {name}") };
            let known = params.contains_key(name);
            if !known && swept.contains(name.as_str()) && !optional.contains(name) {
                let message = format!("{} is swept: its values come from `[stage.sweep]`", shown(name));
                self.report(Diagnostic::at(&place, message).help("`--set` changes constants of `[params]`"));
                continue;
            }
            if !known && !placeholders.contains(name.as_str()) && !optional.contains(name) {
                let valid: BTreeSet<&str> =
                    params.keys().map(String::as_str).chain(placeholders.clone()).collect();
                let valid: Vec<&str> =
                    valid.into_iter().filter(|name| !BUILTIN_PLACEHOLDERS.contains(name)).collect();
                let mistake = Diagnostic::at(&place, format!("there is no param {}", shown(name)));
                self.report(mistake.maybe_help(names_help("params", name, &valid)));
                continue;
            }
            if !self.param_name(name, &place) {
                continue;
            }
            match Node::of_text(text, self.values) {
                Some(node) => {
                    let value = self.value(&node, &place);
                    params.insert(name.clone(), value);
                }
                None => self.report(Diagnostic::at(&place, "a NUL character cannot be passed on")),
            }
        }
    }
}

fn stage_path(index: usize, node: &Node) -> String {
    let name = match &node.kind {
        Kind::Table(entries) => entries.iter().find(|entry| entry.key == "name"),
        _ => None,
    };
    match name.map(|entry| &entry.node.kind) {
        Some(Kind::Str(name)) => format!("stage {name:?}"),
        _ => format!("stage[{index}]"),
    }
}
