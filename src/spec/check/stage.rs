//! One `[[stage]]` table, or `[defaults]`: every key by itself.
//!
//! What two keys say together is checked in `cross`, once the defaults are applied; so a mistake in `[defaults]` is
//! met here once.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::spec::cases::{CaseFormat, read_cases};
use crate::spec::diagnostics::{Diagnostic, Place, shown};
use crate::spec::raw::{Kind, Node};
use crate::spec::rules::{FailureRule, StageRails};
use crate::spec::template::{BraceError, split};
use crate::spec::types::{
    CaseFile, Domain, Goal, MetricRule, Part, Proposer, Retries, Sampling, Selection, Template, Work,
};
use crate::spec::walk::{Checker, Field, Keys, Table};

const SAMPLING_KEYS: Keys = &["file", "rename", "ask", "parallel"];
const RETRY_KEYS: Keys = &["count", "backoff", "delay", "max_delay", "jitter"];
const OBJECTIVE_KEYS: Keys = &["metric", "goal", "weight"];
const METRIC_KEYS: Keys = &["file", "regex", "scale"];

/// What a stage's table says, key by key.
#[derive(Clone)]
pub(super) struct StageParts {
    pub place: Place,
    pub name: Field<String>,
    pub work: Field<WorkParts>,
    pub trial_budget: Field<u64>,
    pub survivor_count: Field<u64>,
    pub sampling: Field<Sampling>,
    pub selection: Field<Selection>,
    pub timeout_ms: Field<u64>,
    pub retries: Field<Retries>,
    pub outputs: Field<Vec<String>>,
    pub sweep: Field<Vec<SweepParts>>,
    pub objectives: Field<Vec<ObjectiveParts>>,
    pub metrics: Field<BTreeMap<String, MetricRule>>,
    /// Bytes.
    pub memory_limit: Field<u64>,
    pub rails: Field<StageRails>,
    pub failures: Field<Vec<FailureRule>>,
    /// The rules of built-in sets.
    pub failure_sets: Field<Vec<FailureRule>>,
    pub approve: Field<bool>,
}

/// A command, and where its placeholders stand.
#[derive(Clone)]
pub(super) struct WorkParts {
    /// `None` for a bad one: its placeholders are checked all the same.
    pub work: Option<Work>,
    pub holes: Vec<Hole>,
}

/// A placeholder.
#[derive(Clone)]
pub(super) struct Hole {
    pub part: Part,
    pub place: Place,
}

/// A key of `[stage.sweep]`.
#[derive(Clone)]
pub(super) struct SweepParts {
    pub name: String,
    /// `None` for a bad one: the param exists all the same.
    pub domain: Option<Domain>,
    pub place: Place,
    pub steps: Option<Place>,
}

/// A `[[stage.objective]]`.
#[derive(Clone)]
pub(super) struct ObjectiveParts {
    pub metric: Field<String>,
    pub goal: Option<Goal>,
    pub weight: Field<f64>,
    pub place: Place,
}

impl WorkParts {
    /// Names of the params it asks for.
    pub fn placeholders(&self) -> impl Iterator<Item = &str> {
        self.holes.iter().filter_map(|hole| match &hole.part {
            Part::Param(name) => Some(name.as_str()),
            _ => None,
        })
    }
}

impl StageParts {
    /// Nothing said.
    pub fn absent() -> Self {
        Self {
            place: Place::default(),
            name: Field::Absent,
            work: Field::Absent,
            trial_budget: Field::Absent,
            survivor_count: Field::Absent,
            sampling: Field::Absent,
            selection: Field::Absent,
            timeout_ms: Field::Absent,
            retries: Field::Absent,
            outputs: Field::Absent,
            sweep: Field::Absent,
            objectives: Field::Absent,
            metrics: Field::Absent,
            memory_limit: Field::Absent,
            rails: Field::Absent,
            failures: Field::Absent,
            failure_sets: Field::Absent,
            approve: Field::Absent,
        }
    }

    /// This stage's keys over the defaults'.
    pub fn over(self, defaults: &Self) -> Self {
        Self {
            place: self.place,
            name: self.name.or_else(&defaults.name),
            work: self.work.or_else(&defaults.work),
            trial_budget: self.trial_budget.or_else(&defaults.trial_budget),
            survivor_count: self.survivor_count.or_else(&defaults.survivor_count),
            sampling: self.sampling.or_else(&defaults.sampling),
            selection: self.selection.or_else(&defaults.selection),
            timeout_ms: self.timeout_ms.or_else(&defaults.timeout_ms),
            retries: self.retries.or_else(&defaults.retries),
            outputs: self.outputs.or_else(&defaults.outputs),
            sweep: self.sweep.or_else(&defaults.sweep),
            objectives: self.objectives.or_else(&defaults.objectives),
            metrics: self.metrics.or_else(&defaults.metrics),
            memory_limit: self.memory_limit.or_else(&defaults.memory_limit),
            rails: self.rails.or_else(&defaults.rails),
            failures: self.failures.or_else(&defaults.failures),
            failure_sets: self.failure_sets.or_else(&defaults.failure_sets),
            approve: self.approve.or_else(&defaults.approve),
        }
    }

    /// Names of the params its command asks for.
    pub fn placeholders(&self) -> impl Iterator<Item = &str> {
        self.work.good().into_iter().flat_map(WorkParts::placeholders)
    }

    /// Whether the names of the params it sweeps are known: those of a file are only once it is read.
    pub fn names_known(&self) -> bool {
        match &self.sampling {
            Field::Good(Sampling::File(file), _) => file.cases.is_some(),
            Field::Bad => !matches!(self.sweep, Field::Absent),
            _ => true,
        }
    }

    /// Names of the params it sweeps.
    pub fn swept(&self) -> impl Iterator<Item = &str> {
        let sweep = self.sweep.good().map(Vec::as_slice).unwrap_or_default();
        let listed = match self.sampling.good() {
            Some(Sampling::File(CaseFile { cases: Some(cases), .. })) => cases.names.as_slice(),
            _ => &[],
        };
        sweep.iter().map(|sweep| sweep.name.as_str()).chain(listed.iter().map(String::as_str))
    }
}

impl Checker<'_> {
    /// Reads every key of a stage's table.
    pub(super) fn stage_parts(&mut self, table: &Table<'_>) -> StageParts {
        StageParts {
            place: table.place.clone(),
            name: self.field(table, "name", |c, n, p| c.file_name(n, p)),
            work: self.field(table, "command", |c, n, p| c.command(n, p)),
            trial_budget: self.field(table, "trial_budget", |c, n, p| c.count(n, p, 1)),
            survivor_count: self.field(table, "survivor_count", |c, n, p| c.count(n, p, 1)),
            sampling: self.field(table, "sampling", |c, n, p| c.sampling_kind(n, p)),
            selection: self.field(table, "selection", |c, n, p| c.named(n, p)),
            timeout_ms: self.field(table, "timeout", |c, n, p| c.duration(n, p, false)),
            retries: self.field(table, "retries", |c, n, p| c.retries(n, p)),
            outputs: self.field(table, "outputs", |c, n, p| c.texts(n, p, |c, n, p| c.inner_path(n, p))),
            sweep: self.field(table, "sweep", |c, n, p| c.sweep(n, p)),
            objectives: self.field(table, "objective", |c, n, p| c.objectives(n, p)),
            metrics: self.field(table, "metrics", |c, n, p| c.metric_rules(n, p)),
            memory_limit: self.field(table, "memory_limit", |c, n, p| c.memory_limit(n, p)),
            rails: self.field(table, "rails", |c, n, p| c.stage_rails(n, p)),
            failures: self.field(table, "failure", |c, n, p| c.failure_rules(n, p)),
            failure_sets: self.field(table, "failures", |c, n, p| c.failure_set(n, p)),
            approve: self.field(table, "approve", |c, n, p| c.boolean(n, p)),
        }
    }

    /// A word, or a table that names a file.
    fn sampling_kind(&mut self, node: &Node, place: &Place) -> Option<Sampling> {
        const HELP: &str =
            "sampling = \"grid\", \"random\", \"sobol\", { file = \"cases.csv\" } or { ask = [\"program\"] }";
        match &node.kind {
            Kind::Str(_) => {
                let words: [(&str, u8); 3] = [("grid", 0), ("random", 1), ("sobol", 2)];
                Some(match self.one_of(node, place, &words)? {
                    0 => Sampling::Grid,
                    1 => Sampling::Random,
                    _ => Sampling::Sobol,
                })
            }
            Kind::Table(_) => {
                let table = self.table(node, place, "`sampling`", SAMPLING_KEYS)?;
                let file = self.field(&table, "file", |c, n, p| c.case_file(n, p));
                let rename = self.field(&table, "rename", |c, n, p| c.renamed(n, p));
                let ask = self.field(&table, "ask", |c, n, p| c.proposer(n, p));
                let parallel = self.field(&table, "parallel", |c, n, p| c.count(n, p, 1));
                let stray = table.get("ask").or(table.get("parallel"));
                if let (None, Some((_, place))) = (table.get("file"), table.get("rename")) {
                    self.report(
                        Diagnostic::at(&place, "only a file of cases has columns to rename").label("not used"),
                    );
                    return None;
                }
                match (table.get("file"), stray) {
                    (None, None) => {
                        self.missing(&table, "file", Some("or ask = [\"program\"]".into()));
                        None
                    }
                    (Some(_), Some((_, place))) => {
                        self.report(Diagnostic::at(&place, "a file of cases has no proposer").label("not used"));
                        None
                    }
                    (Some((_, place)), None) => {
                        let bad = matches!(rename, Field::Bad);
                        let rename = rename.or_default(BTreeMap::new());
                        let file = CaseFile { path: file.into_good()?, rename, cases: None };
                        if bad { None } else { self.listed_cases(file, place) }
                    }
                    (None, Some(_)) => {
                        if matches!(ask, Field::Absent) {
                            self.missing(&table, "ask", None);
                        }
                        let parallel = u32::try_from(parallel.or_default(1)).unwrap_or(u32::MAX);
                        Some(Sampling::Ask(Proposer { command: ask.into_good()?, parallel }))
                    }
                }
            }
            _ => {
                self.wrong_type(node, place, "a string or a table", Some(HELP.into()));
                None
            }
        }
    }

    /// Reads the file where it is known where it lies.
    fn listed_cases(&mut self, mut file: CaseFile, place: Place) -> Option<Sampling> {
        match self.study_dir.map(|dir| read_cases(dir, &file, self.values)) {
            None => {}
            Some(Ok(read)) => {
                file.cases = Some(read.list);
                self.gaps.insert((file.path.clone(), file.rename.clone()), read.gaps);
            }
            Some(Err(mistakes)) => {
                self.found.extend(mistakes.into_iter().map(|mistake| mistake.diagnostic(&file.path, &place)));
                return None;
            }
        }
        Some(Sampling::File(file))
    }

    /// `rename`: params by column.
    fn renamed(&mut self, node: &Node, place: &Place) -> Option<BTreeMap<String, String>> {
        let table = self.open_table(node, place, "`rename`")?;
        let mut renamed = BTreeMap::new();
        for entry in table.entries {
            let place = table.place.below(&entry.key, entry.node.span.clone());
            let name = self.text(&entry.node, &place)?;
            if !self.param_name(&name, &place) {
                return None;
            }
            renamed.insert(entry.key.clone(), name);
        }
        Some(renamed)
    }

    fn proposer(&mut self, node: &Node, place: &Place) -> Option<Vec<String>> {
        self.words(node, place, "the proposer's command")
    }

    /// A program and its arguments, as they are: what serves no single trial has no placeholders.
    pub(super) fn words(&mut self, node: &Node, place: &Place, what: &str) -> Option<Vec<String>> {
        let items = self.items(node, place, "strings")?;
        if items.is_empty() {
            self.report(Diagnostic::at(place, format!("{what} is empty")).label("expected a program"));
            return None;
        }
        let count = items.len();
        let first_empty = |index: usize, text: &str| index == 0 && text.trim().is_empty();
        let mut words = Vec::with_capacity(count);
        for (index, (node, place)) in items.into_iter().enumerate() {
            match self.text(node, &place) {
                Some(text) if first_empty(index, &text) => {
                    self.report(Diagnostic::at(&place, "the program's name is empty").label("empty"));
                }
                text => words.extend(text),
            }
        }
        (words.len() == count).then_some(words)
    }

    fn case_file(&mut self, node: &Node, place: &Place) -> Option<String> {
        let path = self.non_empty_text(node, place)?;
        if CaseFormat::of(&path).is_some() {
            return Some(path);
        }
        let message = format!("{} is no file of cases", shown(&path));
        let mistake = Diagnostic::at(place, message).label("expected `….csv` or `….jsonl`");
        self.report(
            mistake.help("a table with a header line as `.csv`, or one flat JSON object a line as `.jsonl`"),
        );
        None
    }

    pub(super) fn command(&mut self, node: &Node, place: &Place) -> Option<WorkParts> {
        let mut holes = Vec::new();
        match &node.kind {
            Kind::Closure => Some(WorkParts { work: Some(Work::Closure), holes }),
            Kind::Str(text) if text.trim().is_empty() => {
                self.report(Diagnostic::at(place, "the command is empty").label("expected a line for `sh -c`"));
                None
            }
            Kind::Str(_) => {
                let line = self.template(node, place, true, &mut holes);
                Some(WorkParts { work: line.map(Work::Shell), holes })
            }
            Kind::Array(items) if items.is_empty() => {
                self.report(Diagnostic::at(place, "the command is empty").label("expected a program"));
                None
            }
            Kind::Array(_) => {
                let items = self.items(node, place, "strings")?;
                let count = items.len();
                let mut words = Vec::with_capacity(count);
                for (index, (node, place)) in items.into_iter().enumerate() {
                    if index == 0 && matches!(&node.kind, Kind::Str(text) if text.trim().is_empty()) {
                        self.report(Diagnostic::at(&place, "the program's name is empty").label("empty"));
                    } else {
                        words.extend(self.template(node, &place, false, &mut holes));
                    }
                }
                let work = (words.len() == count).then_some(Work::Argv(words));
                Some(WorkParts { work, holes })
            }
            _ => {
                let help = "[\"program\", \"{param}\"] runs without a shell; a string goes to `sh -c`";
                self.wrong_type(node, place, "a list of strings or a string", Some(help.into()));
                None
            }
        }
    }

    fn template(&mut self, node: &Node, place: &Place, shell: bool, holes: &mut Vec<Hole>) -> Option<Template> {
        let text = self.text(node, place)?;
        let split = split(&text);
        for (range, error) in &split.errors {
            let at = self.part_of(node, place, range.clone());
            self.brace_error(&at, &text, range, error);
        }
        let template = split.template;
        let hazards = if shell { template.shell_hazards() } else { Vec::new() };
        for (position, range) in split.holes {
            let place = self.part_of(node, place, range);
            let Some(part) = template.parts.get(position).cloned() else { continue };
            if let Some((_, why)) = hazards.iter().find(|(at, _)| *at == position) {
                let own = matches!(&part, Part::Param(_)) && *why == "right after `$`";
                let help = match &part {
                    Part::Param(name) if own => {
                        format!("`${{{{{name}}}}}` is the shell's own variable, `{{{name}}}` the param")
                    }
                    _ => "put it elsewhere in the line, or pass it to a script as an argument".to_owned(),
                };
                let message = format!("a placeholder cannot be quoted safely {why}");
                self.report(Diagnostic::at(&place, message).label("not safe here").help(help));
            } else {
                holes.push(Hole { part, place });
            }
        }
        split.errors.is_empty().then_some(template)
    }

    fn brace_error(&mut self, place: &Place, text: &str, range: &Range<usize>, error: &BraceError) {
        let braces = "write `{{` and `}}` for braces";
        let (message, label, help) = match error {
            BraceError::Unclosed => ("`{` without its `}`".to_owned(), "never closed", braces.to_owned()),
            BraceError::Unopened => ("`}` without its `{`".to_owned(), "never opened", braces.to_owned()),
            BraceError::NoName(shell) => {
                let hole = text.get(range.clone()).unwrap_or_default();
                let inside = hole.trim_start_matches('{').trim_end_matches('}').trim();
                let help = if *shell {
                    format!("`${{{{{inside}}}}}` is the shell's own `${{{inside}}}`")
                } else {
                    format!("a placeholder is `{{name}}`; {braces}")
                };
                (format!("{} is no placeholder", shown(hole)), "not a name", help)
            }
        };
        self.report(Diagnostic::at(place, message).label(label).help(help));
    }

    fn retries(&mut self, node: &Node, place: &Place) -> Option<Retries> {
        let most = 0..=i128::from(u32::MAX);
        if matches!(node.kind, Kind::Int(_)) {
            let count = u32::try_from(self.integer(node, place, most)?).ok()?;
            return Some(Retries { count, ..Retries::default() });
        }
        if !matches!(node.kind, Kind::Table(_)) {
            let help = "retries = 2, or retries = { count = 2, delay = \"1s\" }";
            self.wrong_type(node, place, "an integer or a table", Some(help.into()));
            return None;
        }
        let table = self.table(node, place, "`retries`", RETRY_KEYS)?;
        let count = self.field(&table, "count", |c, n, p| c.integer(n, p, most));
        if matches!(count, Field::Absent) {
            self.missing(&table, "count", None);
        }
        let backoff = self.field(&table, "backoff", |c, n, p| c.named(n, p));
        let delay = self.field(&table, "delay", |c, n, p| c.duration(n, p, true));
        let max_delay = self.field(&table, "max_delay", |c, n, p| c.duration(n, p, true));
        let jitter = self.field(&table, "jitter", |c, n, p| c.boolean(n, p));
        let default = Retries::default();
        let delay_ms = delay.good().copied().unwrap_or(match max_delay.good() {
            Some(most) => default.delay_ms.min(*most),
            None => default.delay_ms,
        });
        if let (Some(most), Field::Good(delay_ms, _)) = (max_delay.good(), &delay)
            && delay_ms > most
            && let Some(place) = max_delay.place()
        {
            let message = "`max_delay` is shorter than `delay`";
            self.report(Diagnostic::at(place, message).label("expected at least the delay"));
        }
        let count = u32::try_from(*count.good()?).ok()?;
        Some(Retries {
            count,
            backoff: backoff.or_default(default.backoff),
            delay_ms,
            max_delay_ms: max_delay.or_default(default.max_delay_ms.max(delay_ms)),
            jitter: jitter.or_default(default.jitter),
        })
    }

    fn objectives(&mut self, node: &Node, place: &Place) -> Option<Vec<ObjectiveParts>> {
        if matches!(node.kind, Kind::Table(_)) {
            let help = "write `[[stage.objective]]`, with two brackets";
            self.wrong_type(node, place, "a list of tables", Some(help.into()));
            return None;
        }
        let mut objectives = Vec::new();
        let mut good = true;
        for (node, place) in self.items(node, place, "tables")? {
            let Some(table) = self.table(node, &place, "`[[stage.objective]]`", OBJECTIVE_KEYS) else {
                good = false;
                continue;
            };
            let metric = self.field(&table, "metric", |c, n, p| c.non_empty_text(n, p));
            let goal = self.field(&table, "goal", |c, n, p| c.named(n, p));
            let weight = self.field(&table, "weight", |c, n, p| c.weight(n, p));
            if matches!(metric, Field::Absent) {
                self.missing(&table, "metric", None);
            }
            if matches!(goal, Field::Absent) {
                self.missing(&table, "goal", Some("\"maximize\" or \"minimize\"".into()));
            }
            objectives.push(ObjectiveParts { metric, goal: goal.into_good(), weight, place });
        }
        good.then_some(objectives)
    }

    fn weight(&mut self, node: &Node, place: &Place) -> Option<f64> {
        let weight = self.float(node, place)?;
        if weight > 0.0 {
            return Some(weight);
        }
        self.report(Diagnostic::at(place, "a weight must be above 0").label("expected more than 0"));
        None
    }

    fn metric_rules(&mut self, node: &Node, place: &Place) -> Option<BTreeMap<String, MetricRule>> {
        let outer = self.open_table(node, place, "`[stage.metrics]`")?;
        let mut rules = BTreeMap::new();
        for entry in outer.entries {
            let key_place = outer.key_place(entry);
            if entry.key.is_empty() {
                self.report(Diagnostic::at(&key_place, "a metric needs a name").label("empty"));
            }
            let title = format!("the metric {}", shown(&entry.key));
            let place = key_place.with_span(entry.node.span.clone());
            let Some(table) = self.table(&entry.node, &place, &title, METRIC_KEYS) else { continue };
            let file = self.field(&table, "file", |c, n, p| c.inner_path(n, p));
            let regex = self.field(&table, "regex", |c, n, p| c.regex(n, p));
            let scale = self.field(&table, "scale", |c, n, p| c.float(n, p));
            if matches!(file, Field::Absent) {
                self.missing(&table, "file", None);
            }
            if matches!(regex, Field::Absent) {
                self.missing(&table, "regex", None);
            }
            if let (Field::Good(file, _), Field::Good(regex, _)) = (file, regex) {
                rules.insert(entry.key.clone(), MetricRule { file, regex, scale: scale.or_default(1.0) });
            }
        }
        Some(rules)
    }

    fn regex(&mut self, node: &Node, place: &Place) -> Option<String> {
        let text = self.non_empty_text(node, place)?;
        match regex::bytes::Regex::new(&text) {
            Ok(regex) if regex.captures_len() > 1 => return Some(text),
            Ok(_) => {
                let mistake = Diagnostic::at(place, "the regex has no capture group");
                let help = "put the number in parentheses, such as `wns\\s+(-?[0-9.]+)`";
                self.report(mistake.label("expected `( … )` around the number").help(help));
            }
            Err(error) => self.bad_regex(node, place, &text, &error),
        }
        None
    }

    pub(super) fn bad_regex(&mut self, node: &Node, place: &Place, text: &str, error: &regex::Error) {
        let mistake = match error {
            regex::Error::CompiledTooBig(_) => {
                Diagnostic::at(place, "the regex is too large").label("compiles to more than 10 MiB")
            }
            error => {
                let (why, range) = regex_error(&error.to_string(), text);
                let place = range.map_or_else(|| place.clone(), |range| self.part_of(node, place, range));
                Diagnostic::at(&place, format!("bad regex: {why}")).label(why)
            }
        };
        self.report(mistake);
    }
}

/// What is wrong with a pattern and where, out of the regex crate's own message: it quotes a pattern of one line
/// indented by four, marks the place with `^` below and ends with `error: …`.
fn regex_error(message: &str, pattern: &str) -> (String, Option<Range<usize>>) {
    let why = message.lines().rev().find_map(|line| line.strip_prefix("error: "));
    let why = why.unwrap_or("it cannot be read").to_owned();
    let marks = message.lines().find(|line| line.contains('^') && line.trim_matches([' ', '^']).is_empty());
    let marks = marks.filter(|_| !pattern.contains('\n')).and_then(|line| line.get(4..));
    let range = marks.and_then(|marks| {
        let first = marks.find('^')?;
        let length = marks.get(first..)?.chars().take_while(|mark| *mark == '^').count();
        let byte = |position| pattern.char_indices().map(|(at, _)| at).nth(position).unwrap_or(pattern.len());
        Some(byte(first)..byte(first + length))
    });
    (why, range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_regex_crate_still_marks_places_as_expected() {
        for (pattern, part, why) in [
            ("é(x", "(", "unclosed group"),
            ("a(b)*)", ")", "unopened group"),
            (r"x\q", r"\q", "unrecognized escape sequence"),
            ("a[b-", "[", "unclosed character class"),
        ] {
            let error = regex::Regex::new(pattern).unwrap_err().to_string();
            let (said, range) = regex_error(&error, pattern);
            assert_eq!(said, why);
            assert_eq!(&pattern[range.unwrap()], part);
        }
    }
}
