//! The readers of a stage's keys, and the tables within some of them: every key by itself.
//!
//! What two keys say together is checked in `cross`, once the defaults are applied; so a mistake in `[defaults]` is
//! met here once.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::model::names_of;
use crate::study_file::cases::{CaseFormat, read_cases};
use crate::study_file::diagnostics::{Diagnostic, Location, shown};
use crate::study_file::keys::{Least, NONE, Preset, REQUIRED, Section, Takes, key, put};
use crate::study_file::raw::{Kind, Node};
use crate::study_file::stage::StageParts;
use crate::study_file::template::{BraceError, split};
use crate::study_file::types::{
    Backoff, CaseFile, Domain, Goal, MetricRule, Part, Proposer, Retries, Sampling, Template, Work,
};
use crate::study_file::walk::{COUNT_MAX, Checker, Field};

use super::{ANY_NAME, INNER_PATH, PARAM_NAME, WORDS};

const CASES: Takes = Takes::Form(
    r"\.([Cc][Ss][Vv]|[Jj][Ss][Oo][Nn][Ll]|[Nn][Dd][Jj][Ss][Oo][Nn])$",
    "path of a `.csv` or `.jsonl`",
);

/// `sampling`, as a table.
#[rustfmt::skip] // Entry by entry: what it is, what it is for, how it is read, how it changes.
pub(in crate::study_file) static SAMPLING: Section<SamplingParts> = Section::with_one_of(
    "`sampling`",
    "Cases of a file, or of a program that proposes them.",
    &["file", "ask"],
    &[
        key("file", CASES, NONE,
            "The cases of a file, relative to the study file; read when the study is made.",
            |c, n, p, d| d.file.put(c.case_file(n, p), p)),
        key("rename", Takes::Map(&Takes::Text, &PARAM_NAME, 0), NONE,
            "Params of other names than the file's columns.",
            |c, n, p, d| d.rename.put(c.renamed(n, p), p)),
        key("ask", WORDS, NONE,
            "The program that proposes each case; it runs in the study file's directory.",
            |c, n, p, d| d.ask.put(c.words(n, p, "the proposer's command"), p)),
        key("parallel", Takes::Integer(1, COUNT_MAX), Preset::Value("1"),
            "It is asked once all but so many of the cases before are finished; 1 is all of them.",
            |c, n, p, d| d.parallel.put(c.count(n, p, 1), p)),
    ],
);

/// `retries`, as a table.
#[rustfmt::skip] // Entry by entry: what it is, what it is for, how it is read, how it changes.
pub(in crate::study_file) static RETRIES: Section<RetryParts> = Section::new(
    "`retries`",
    "How failed attempts are tried again.",
    &[
        key("count", Takes::Integer(0, u32::MAX as i128), REQUIRED,
            "Further attempts after failed ones.",
            |c, n, p, d| d.count.put(c.integer(n, p, 0..=i128::from(u32::MAX)), p)),
        key("backoff", Takes::Word(names_of::<Backoff>), Preset::Value("\"exponential\""),
            "How the delay grows.",
            |c, n, p, d| put(&mut d.policy.backoff, c.named(n, p))),
        key("delay", Takes::DurationOrZero, Preset::Value("\"1s\""),
            "Before the first retry.",
            |c, n, p, d| d.delay.put(c.duration(n, p, true), p)),
        key("max_delay", Takes::DurationOrZero, Preset::Value("\"1m\""),
            "No delay is longer.",
            |c, n, p, d| d.max_delay.put(c.duration(n, p, true), p)),
        key("jitter", Takes::Flag, Preset::Value("true"),
            "Each delay is spread over its upper half.",
            |c, n, p, d| put(&mut d.policy.jitter, c.boolean(n, p))),
    ],
);

/// `[[stage.objective]]`.
#[rustfmt::skip] // Entry by entry: what it is, what it is for, how it is read, how it changes.
pub(in crate::study_file) static OBJECTIVE: Section<ObjectiveParts> = Section::new(
    "`[[stage.objective]]`",
    "What is best.",
    &[
        key("metric", ANY_NAME, REQUIRED,
            "The metric; a trial without it fails.",
            |c, n, p, d| d.metric.put(c.non_empty_text(n, p), p)),
        key("goal", Takes::Word(names_of::<Goal>), Preset::Required(Some("\"maximize\" or \"minimize\"")),
            "Which way is better.",
            |c, n, p, d| put(&mut d.goal, c.named(n, p).map(Some))),
        key("weight", Takes::Number(Least::Above), NONE,
            "For `selection = \"weighted_sum\"` alone, which needs it; the weights sum to 1.",
            |c, n, p, d| d.weight.put(c.weight(n, p), p)),
    ],
);

/// An entry of `[stage.metrics]`.
#[rustfmt::skip] // Entry by entry: what it is, what it is for, how it is read, how it changes.
pub(in crate::study_file) static METRIC: Section<MetricParts> = Section::new(
    "`[stage.metrics]`",
    "A number that is read out of a file.",
    &[
        key("file", INNER_PATH, REQUIRED,
            "Where the number stands.",
            |c, n, p, d| put(&mut d.file, c.inner_path(n, p).map(Some))),
        key("regex", Takes::Filled("regular expression"), REQUIRED,
            "The last match's first group is the number.",
            |c, n, p, d| put(&mut d.regex, c.regex(n, p).map(Some))),
        key("scale", Takes::Number(Least::Any), Preset::Value("1.0"),
            "It is multiplied by this.",
            |c, n, p, d| put(&mut d.scale, c.float(n, p).map(Some))),
    ],
);

/// What a table of `sampling` says.
#[derive(Default)]
pub(in crate::study_file) struct SamplingParts {
    file: Field<String>,
    rename: Field<BTreeMap<String, String>>,
    ask: Field<Vec<String>>,
    parallel: Field<u64>,
}

/// What a table of `retries` says.
#[derive(Default)]
pub(in crate::study_file) struct RetryParts {
    count: Field<i128>,
    delay: Field<u64>,
    max_delay: Field<u64>,
    policy: Retries,
}

/// What an entry of `[stage.metrics]` says.
#[derive(Default)]
pub(in crate::study_file) struct MetricParts {
    file: Option<String>,
    regex: Option<String>,
    scale: Option<f64>,
}

/// A command, and where its placeholders stand.
#[derive(Clone)]
pub(in crate::study_file) struct WorkParts {
    /// `None` for a bad one: its placeholders are checked all the same.
    pub work: Option<Work>,
    pub holes: Vec<Hole>,
}

#[derive(Clone)]
pub(in crate::study_file) struct Hole {
    pub part: Part,
    pub place: Location,
}

/// A key of `[stage.sweep]`.
#[derive(Clone)]
pub(in crate::study_file) struct SweepParts {
    pub name: String,
    /// `None` for a bad one: the param exists all the same.
    pub domain: Option<Domain>,
    pub place: Location,
    pub steps: Option<Location>,
}

/// A `[[stage.objective]]`.
#[derive(Clone, Default)]
pub(in crate::study_file) struct ObjectiveParts {
    pub metric: Field<String>,
    pub goal: Option<Goal>,
    pub weight: Field<f64>,
    pub place: Location,
}

impl WorkParts {
    /// Names of the params it asks for.
    pub(crate) fn placeholders(&self) -> impl Iterator<Item = &str> {
        self.holes.iter().filter_map(|hole| match &hole.part {
            Part::Param(name) => Some(name.as_str()),
            _ => None,
        })
    }
}

impl StageParts {
    /// Names of the params its command asks for.
    pub(crate) fn placeholders(&self) -> impl Iterator<Item = &str> {
        self.work.good().into_iter().flat_map(WorkParts::placeholders)
    }

    /// Whether the names of the params it sweeps are known: those of a file are only once it is read.
    pub(crate) fn names_known(&self) -> bool {
        match &self.sampling {
            Field::Good(Sampling::File(file), _) => file.cases.is_some(),
            Field::Bad => !matches!(self.sweep, Field::Absent),
            _ => true,
        }
    }

    /// Names of the params it sweeps.
    pub(crate) fn swept(&self) -> impl Iterator<Item = &str> {
        let sweep = self.sweep.good().map(Vec::as_slice).unwrap_or_default();
        let listed = match self.sampling.good() {
            Some(Sampling::File(CaseFile { cases: Some(cases), .. })) => cases.names.as_slice(),
            _ => &[],
        };
        sweep.iter().map(|sweep| sweep.name.as_str()).chain(listed.iter().map(String::as_str))
    }
}

impl Checker<'_> {
    /// A word, or a table that names a file.
    pub(in crate::study_file) fn sampling_kind(&mut self, node: &Node, place: &Location) -> Option<Sampling> {
        const HELP: &str =
            "sampling = \"grid\", \"random\", \"sobol\", { file = \"cases.csv\" } or { ask = [\"program\"] }";
        match &node.kind {
            Kind::Str(_) => self.one_of(node, place, &Sampling::WORDS),
            Kind::Table(_) => {
                let mut parts = SamplingParts::default();
                let table = self.section(&SAMPLING, node, place, &mut parts)?;
                let SamplingParts { file, rename, ask, parallel } = parts;
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
    fn listed_cases(&mut self, mut file: CaseFile, place: Location) -> Option<Sampling> {
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
    fn renamed(&mut self, node: &Node, place: &Location) -> Option<BTreeMap<String, String>> {
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

    /// A program and its arguments, as they are: what serves no single trial has no placeholders.
    pub(super) fn words(&mut self, node: &Node, place: &Location, what: &str) -> Option<Vec<String>> {
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

    fn case_file(&mut self, node: &Node, place: &Location) -> Option<String> {
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

    pub(in crate::study_file) fn command(&mut self, node: &Node, place: &Location) -> Option<WorkParts> {
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

    fn template(&mut self, node: &Node, place: &Location, shell: bool, holes: &mut Vec<Hole>) -> Option<Template> {
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

    fn brace_error(&mut self, place: &Location, text: &str, range: &Range<usize>, error: &BraceError) {
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

    pub(in crate::study_file) fn retries(&mut self, node: &Node, place: &Location) -> Option<Retries> {
        let most = 0..=i128::from(u32::MAX);
        if matches!(node.kind, Kind::Int(_)) {
            let count = u32::try_from(self.integer(node, place, most)?).ok()?;
            return Some(Retries { count, ..Retries::default() }.or_none());
        }
        if !matches!(node.kind, Kind::Table(_)) {
            let help = "retries = 2, or retries = { count = 2, delay = \"1s\" }";
            self.wrong_type(node, place, "an integer or a table", Some(help.into()));
            return None;
        }
        let mut parts = RetryParts::default();
        self.section(&RETRIES, node, place, &mut parts)?;
        let RetryParts { count, delay, max_delay, policy } = parts;
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
        let max_delay_ms = max_delay.or_default(default.max_delay_ms.max(delay_ms));
        Some(Retries { count, delay_ms, max_delay_ms, ..policy }.or_none())
    }

    pub(in crate::study_file) fn objectives(
        &mut self,
        node: &Node,
        place: &Location,
    ) -> Option<Vec<ObjectiveParts>> {
        if matches!(node.kind, Kind::Table(_)) {
            let help = "write `[[stage.objective]]`, with two brackets";
            self.wrong_type(node, place, "a list of tables", Some(help.into()));
            return None;
        }
        let mut objectives = Vec::new();
        let mut good = true;
        for (node, place) in self.items(node, place, "tables")? {
            let mut parts = ObjectiveParts { place: place.clone(), ..ObjectiveParts::default() };
            good &= self.section(&OBJECTIVE, node, &place, &mut parts).map(|_| objectives.push(parts)).is_some();
        }
        good.then_some(objectives)
    }

    fn weight(&mut self, node: &Node, place: &Location) -> Option<f64> {
        let weight = self.float(node, place)?;
        if weight > 0.0 {
            return Some(weight);
        }
        self.report(Diagnostic::at(place, "a weight must be above 0").label("expected more than 0"));
        None
    }

    pub(in crate::study_file) fn metric_rules(
        &mut self,
        node: &Node,
        place: &Location,
    ) -> Option<BTreeMap<String, MetricRule>> {
        let outer = self.open_table(node, place, "`[stage.metrics]`")?;
        let mut rules = BTreeMap::new();
        for entry in outer.entries {
            let key_place = outer.key_place(entry);
            if entry.key.is_empty() {
                self.report(Diagnostic::at(&key_place, "a metric needs a name").label("empty"));
            }
            let title = format!("the metric {}", shown(&entry.key));
            let place = key_place.with_span(entry.node.span.clone());
            let mut parts = MetricParts::default();
            self.titled(&METRIC, &title, &entry.node, &place, &mut parts);
            if let MetricParts { file: Some(file), regex: Some(regex), scale } = parts {
                rules.insert(entry.key.clone(), MetricRule { file, regex, scale: scale.unwrap_or(1.0) });
            }
        }
        Some(rules)
    }

    pub(super) fn regex(&mut self, node: &Node, place: &Location) -> Option<String> {
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

    pub(super) fn bad_regex(&mut self, node: &Node, place: &Location, text: &str, error: &regex::Error) {
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
