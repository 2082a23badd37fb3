//! The checks: raw tree in, checked [`Spec`] or every mistake out.
//!
//! Study files and builders go through the same code. A check must never be skipped because another one failed,
//! unless what it needs is missing.

mod cluster;
mod cross;
mod rules;
mod stage;
mod sweep;

pub(super) use self::sweep::identity;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use self::stage::{StageParts, WorkParts};
use super::cases::KnownParams;
use super::diagnostics::{Diagnostic, Place, names_help, shown};
use super::inputs::pattern_mistake;
use super::raw::{Kind, Node};
use super::rules::Rails;
use super::template::{BUILTIN_PLACEHOLDERS, is_name};
use super::types::{BaseSpec, RunSpec, Spec, SpecValue, StudySpec, Values};
use super::walk::{Checker, Field, Keys, Table};

const ROOT_KEYS: Keys = &["study", "params", "env", "run", "rails", "base", "defaults", "stage"];
/// Keys of `[study]`.
pub(super) const STUDY_KEYS: Keys =
    &["name", "base_case", "seed", "description", "author", "tags", "inputs", "inputs_ignore", "versions"];
/// Keys of `[run]`.
pub(super) const RUN_KEYS: Keys = &["workers", "executor", "grace", "sync_interval", "on_event", "ray", "slurm"];
/// Keys of `[rails]`.
pub(super) const RAILS_KEYS: Keys = &["max_runtime", "catastrophic_failures"];
/// Keys of `[stage.rails]`.
pub(super) const STAGE_RAILS_KEYS: Keys = &["abort_if", "max_failure_rate"];
const BASE_KEYS: Keys = &["command", "timeout"];
/// Keys of `[[stage]]` and `[defaults]`.
pub(super) const STAGE_KEYS: Keys = &[
    "name",
    "command",
    "trial_budget",
    "survivor_count",
    "sampling",
    "selection",
    "timeout",
    "retries",
    "outputs",
    "sweep",
    "objective",
    "metrics",
    "memory_limit",
    "rails",
    "failure",
    "failures",
    "approve",
];

/// No more trials at once than this.
const WORKERS_MAX: i128 = 65_536;

/// `[params]`; `None` for one whose value is bad: the param exists all the same.
type Constants = BTreeMap<String, Option<SpecValue>>;

/// `[base]`: its command and its timeout in milliseconds.
type BaseParts = (Field<WorkParts>, Option<u64>);

/// Checks a whole raw tree. `source` is the study file's text, for places inside strings; files of cases are read
/// from `study_dir`, if it is given, and as `values` says.
pub(crate) fn check(
    source: &str,
    root: &Node,
    overrides: &[(String, String)],
    (study_dir, values): (Option<&Path>, Values),
) -> Result<Spec, Vec<Diagnostic>> {
    let mut checker = Checker { source, study_dir, values, gaps: BTreeMap::new(), found: Vec::new() };
    let spec = checker.spec(root, overrides);
    match spec {
        Some(spec) if checker.found.is_empty() => Ok(spec),
        _ if checker.found.is_empty() => Err(vec![Diagnostic::at(&Place::default(), "the study is incomplete")]),
        _ => Err(checker.found),
    }
}

impl Checker<'_> {
    fn spec(&mut self, root: &Node, overrides: &[(String, String)]) -> Option<Spec> {
        let root = self.table(root, &Place::default(), "the study file", ROOT_KEYS)?;
        let study = self.study(&root);
        let mut params = self.field(&root, "params", |c, n, p| c.constants(n, p)).or_default(BTreeMap::new());
        let env = self.field(&root, "env", |c, n, p| c.env(n, p)).or_default(BTreeMap::new());
        let run = self.field(&root, "run", |c, n, p| c.run(n, p)).or_default(RunSpec::default());
        let rails = self.field(&root, "rails", |c, n, p| c.rails(n, p)).or_default(Rails::default());
        let base = self.field(&root, "base", |c, n, p| c.base(n, p));
        let defaults = match root.get("defaults") {
            Some((node, place)) => self
                .table(node, &place, "`[defaults]`", STAGE_KEYS)
                .map_or_else(StageParts::absent, |table| self.stage_parts(&table)),
            None => StageParts::absent(),
        };
        let parts: Vec<StageParts> =
            self.stage_tables(&root).iter().map(|table| self.stage_parts(table).over(&defaults)).collect();
        self.overrides(&mut params, base.good(), &parts, overrides);
        let base = self.base_gate(base, &params);
        let stages = self.stages(parts, KnownParams::new(params.keys().cloned()));
        let params = params.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let values = self.values;
        Some(Spec { study: study?, params, env, run, rails, base: base?, stages: stages?, values })
    }

    fn stage_tables<'n>(&mut self, root: &Table<'n>) -> Vec<Table<'n>> {
        let Some((node, place)) = root.get("stage") else {
            let help = "a study needs at least one `[[stage]]`";
            self.missing(root, "stage", Some(help.into()));
            return Vec::new();
        };
        let Kind::Array(items) = &node.kind else {
            let help = matches!(node.kind, Kind::Table(_)).then(|| "write `[[stage]]`, with two brackets".into());
            self.wrong_type(node, &place, "a list of tables", help);
            return Vec::new();
        };
        if items.is_empty() {
            self.report(Diagnostic::at(&place, "a study needs at least one stage").label("no stage here"));
        }
        let mut tables = Vec::with_capacity(items.len());
        for (index, node) in items.iter().enumerate() {
            let place = Place { span: node.span.clone(), path: stage_path(index, node) };
            tables.extend(self.table(node, &place, "`[[stage]]`", STAGE_KEYS));
        }
        tables
    }

    fn study(&mut self, root: &Table<'_>) -> Option<StudySpec> {
        let Some((node, place)) = root.get("study") else {
            self.missing(root, "study", Some("start with `[study]` and its `name`".into()));
            return None;
        };
        let table = self.table(node, &place, "`[study]`", STUDY_KEYS)?;
        let name = self.field(&table, "name", |c, n, p| c.file_name(n, p));
        if matches!(name, Field::Absent) {
            self.missing(&table, "name", None);
        }
        let base_case = self.field(&table, "base_case", |c, n, p| c.file_name(n, p)).into_good();
        let seed = self.field(&table, "seed", |c, n, p| c.integer(n, p, 0..=i128::from(u64::MAX)));
        let description = self.field(&table, "description", |c, n, p| c.text(n, p)).into_good();
        let author = self.field(&table, "author", |c, n, p| c.text(n, p)).into_good();
        let tags = self.field(&table, "tags", |c, n, p| c.texts(n, p, |c, n, p| c.non_empty_text(n, p)));
        let inputs = self.field(&table, "inputs", |c, n, p| c.texts(n, p, |c, n, p| c.non_empty_text(n, p)));
        let ignored = self.field(&table, "inputs_ignore", |c, n, p| c.texts(n, p, |c, n, p| c.path_pattern(n, p)));
        let versions = self.field(&table, "versions", |c, n, p| c.versions(n, p));
        let name = name.into_good()?;
        Some(StudySpec {
            base_case: base_case.unwrap_or_else(|| name.clone()),
            name,
            seed: seed.good().and_then(|seed| u64::try_from(*seed).ok()).unwrap_or(0),
            description,
            author,
            tags: tags.or_default(Vec::new()),
            inputs: inputs.or_default(Vec::new()),
            inputs_ignore: ignored.or_default(Vec::new()),
            versions: versions.or_default(BTreeMap::new()),
        })
    }

    /// A pattern of `inputs_ignore`.
    fn path_pattern(&mut self, node: &Node, place: &Place) -> Option<String> {
        let text = self.non_empty_text(node, place)?;
        let Some(why) = pattern_mistake(&text) else { return Some(text) };
        let help = "`*` is any part of a name, `**` any directories, `?` a letter, `[ab]` one of these";
        let message = format!("{} is no pattern of paths", shown(&text));
        self.report(Diagnostic::at(place, message).label(why).help(help));
        None
    }

    /// `versions`: a command for each tool.
    fn versions(&mut self, node: &Node, place: &Place) -> Option<BTreeMap<String, Vec<String>>> {
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

    fn constants(&mut self, node: &Node, place: &Place) -> Option<Constants> {
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

    /// Whether it may name a param.
    pub(super) fn param_name(&mut self, name: &str, place: &Place) -> bool {
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

    fn env(&mut self, node: &Node, place: &Place) -> Option<BTreeMap<String, String>> {
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

    fn run(&mut self, node: &Node, place: &Place) -> Option<RunSpec> {
        let table = self.table(node, place, "`[run]`", RUN_KEYS)?;
        let workers = self.field(&table, "workers", |c, n, p| c.integer(n, p, 1..=WORKERS_MAX));
        let executor = self.executor(&table);
        let grace = self.field(&table, "grace", |c, n, p| c.duration(n, p, true));
        let sync_interval = self.field(&table, "sync_interval", |c, n, p| c.duration(n, p, true));
        let on_event = self.field(&table, "on_event", Self::on_event);
        let default = RunSpec::default();
        Some(RunSpec {
            on_event: on_event.or_default(Vec::new()),
            executor,
            workers: workers.good().and_then(|workers| u32::try_from(*workers).ok()),
            grace_ms: grace.or_default(default.grace_ms),
            sync_interval_ms: sync_interval.or_default(default.sync_interval_ms),
        })
    }

    /// A program with its arguments, or a line for `sh -c`. It is no trial: there are no placeholders.
    fn on_event(&mut self, node: &Node, place: &Place) -> Option<Vec<String>> {
        self.untemplated(node, place, "the command of `on_event`")
    }

    /// A program with its arguments, or a line for `sh -c`, without placeholders.
    fn untemplated(&mut self, node: &Node, place: &Place, what: &str) -> Option<Vec<String>> {
        if let Kind::Str(line) = &node.kind {
            return Some(vec!["sh".into(), "-c".into(), line.clone()]);
        }
        self.words(node, place, what)
    }

    fn base(&mut self, node: &Node, place: &Place) -> Option<BaseParts> {
        let table = self.table(node, place, "`[base]`", BASE_KEYS)?;
        let work = self.field(&table, "command", |c, n, p| c.command(n, p));
        if matches!(work, Field::Absent) {
            self.missing(&table, "command", None);
        }
        let timeout = self.field(&table, "timeout", |c, n, p| c.duration(n, p, false));
        Some((work, timeout.into_good()))
    }

    /// The base command with its placeholders checked: it knows the constants alone. `None` for a bad one.
    fn base_gate(&mut self, base: Field<BaseParts>, params: &Constants) -> Option<Option<BaseSpec>> {
        let (work, timeout_ms) = match base {
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
        let of_base = base.and_then(|(work, _)| work.good()).into_iter().flat_map(WorkParts::placeholders);
        let of_stages = parts.iter().flat_map(StageParts::placeholders);
        let placeholders: BTreeSet<&str> = of_stages.chain(of_base).collect();
        let swept: BTreeSet<&str> = parts.iter().flat_map(StageParts::swept).collect();
        let optional: BTreeSet<String> = self.gaps.values().flat_map(|gaps| gaps.keys().cloned()).collect();
        for (name, text) in overrides {
            let place = Place { span: None, path: format!("--set {name}") };
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
