//! `[rails]`, `[stage.rails]`, `[[stage.failure]]` and `memory_limit`.

use std::collections::HashSet;

use crate::model::{FailureKind, Severity, names_of};
use crate::study_file::diagnostics::{Diagnostic, Location, names_help, shown};
use crate::study_file::diff::{self, list};
use crate::study_file::failure_sets::{FAILURE_SETS, FailureSet};
use crate::study_file::keys::{Amend, Key, Least, NONE, Preset, REQUIRED, Section, Takes, key, put};
use crate::study_file::raw::{Kind, Node};
use crate::study_file::rules::{
    Bound, FailureMatch, FailureRule, MetricBound, Rails, SIGNALS, StageRails, log_regex,
};
use crate::study_file::size::{SizeError, parse_size};
use crate::study_file::walk::{COUNT_MAX, Checker, Table};

type RailsKey = Key<Rails, Rails>;

/// `[rails]`.
#[rustfmt::skip] // Entry by entry: what it is, what it is for, how it is read, how it changes.
pub(in crate::study_file) static RAILS: Section<Rails, Rails> = Section::new(
    "`[rails]`",
    "Limits of the whole study: beyond one it is aborted.",
    &[
        RailsKey::new("max_runtime", Takes::Duration, NONE,
            "Wall time, summed over all runs of the study.",
            |c, n, p, d| put(&mut d.max_runtime_ms, c.duration(n, p, false).map(Some)))
            .shown(|rails| rails.max_runtime_ms.map(diff::duration)).amended(Amend::StudyRails),
        RailsKey::new("catastrophic_failures", Takes::Integer(1, COUNT_MAX), NONE,
            "So many failed trials of that severity abort the study.",
            |c, n, p, d| put(&mut d.catastrophic_failures, c.count(n, p, 1).map(Some)))
            .shown(|rails| rails.catastrophic_failures.map(|count| count.to_string())).amended(Amend::StudyRails),
    ],
);

type StageRailsKey = Key<StageRails, StageRails>;

/// `[stage.rails]`.
#[rustfmt::skip] // Entry by entry: what it is, what it is for, how it is read, how it changes.
pub(in crate::study_file) static STAGE_RAILS: Section<StageRails, StageRails> = Section::new(
    "`[stage.rails]`",
    "When a stage aborts the study, or ends early.",
    &[
        StageRailsKey::new("abort_if", Takes::List(&Takes::Table(&ABORT_IF), 0), Preset::Value("[]"),
            "A trial beyond one of these bounds aborts the study.",
            |c, n, p, d| put(&mut d.abort_if, c.abort_rules(n, p)))
            .shown(|rails| (!rails.abort_if.is_empty()).then(|| list(rails.abort_if.iter().map(diff::abort_rule)))),
        StageRailsKey::new("max_failure_rate", Takes::Number(Least::Share), NONE,
            "More failed trials than this share of the first n abort the study, for any n from 5 on.",
            |c, n, p, d| put(&mut d.max_failure_rate, c.failure_rate(n, p).map(Some)))
            .shown(|rails| rails.max_failure_rate.map(|rate| format!("{rate:?}"))),
        StageRailsKey::new("improve_within", Takes::Integer(1, COUNT_MAX), NONE,
            "The stage ends, and its best survive, after so many finished trials in a row, in the order of their numbers, that brought nothing better.",
            |c, n, p, d| put(&mut d.improve_within, c.count(n, p, 1).map(Some)))
            .shown(|rails| rails.improve_within.map(|count| count.to_string())),
    ],
);

/// An entry of `abort_if`.
#[rustfmt::skip] // Entry by entry: what it is, what it is for, how it is read, how it changes.
pub(in crate::study_file) static ABORT_IF: Section<BoundParts> = Section::with_one_of(
    "`abort_if`",
    "A bound; two bounds of a metric are two entries.",
    &["below", "above"],
    &[
        key("metric", Takes::Filled("name"), REQUIRED,
            "The metric; a trial without it fails.",
            |c, n, p, d| put(&mut d.metric, c.non_empty_text(n, p).map(Some))),
        key("below", Takes::Number(Least::Any), NONE,
            "Abort below this; the bound itself is still good.",
            |c, n, p, d| put(&mut d.bound, c.float(n, p).map(|bound| Some(Bound::Below(bound))))),
        key("above", Takes::Number(Least::Any), NONE,
            "Abort above this; the bound itself is still good.",
            |c, n, p, d| put(&mut d.bound, c.float(n, p).map(|bound| Some(Bound::Above(bound))))),
    ],
);

const KIND: Takes =
    Takes::But(&Takes::Form("^[a-z][a-z0-9_]{0,63}$", "name of a lower-case letter, then `a-z 0-9 _`"), || {
        FailureKind::reserved()
    });

/// `[[stage.failure]]`.
#[rustfmt::skip] // Entry by entry: what it is, what it is for, how it is read, how it changes.
pub(in crate::study_file) static FAILURE: Section<FailureParts> = Section::with_one_of(
    "`[[stage.failure]]`",
    "How failures of the stage's tool are named: the first that matches counts.",
    &["log", "exit_code", "signal"],
    &[
        key("kind", KIND, REQUIRED,
            "What such failures are called; no kind that piton alone can tell, such as `exit_code`.",
            |c, n, p, d| put(&mut d.kind, c.failure_kind(n, p).map(Some))),
        key("log", Takes::Filled("regular expression"), NONE,
            "They write a line like this.",
            |c, n, p, d| put(&mut d.when, c.log_pattern(n, p).map(|log| Some(FailureMatch::Log(log))))),
        key("exit_code", Takes::Integer(1, 255), NONE,
            "They exit with this.",
            |c, n, p, d| put(&mut d.when, c.whole(n, p, 1..=255).map(|code| Some(FailureMatch::ExitCode(code))))),
        key("signal", Takes::Form("^[A-Za-z0-9]+$", "signal, such as `\"SEGV\"`"), NONE,
            "They are killed by this.",
            |c, n, p, d| put(&mut d.when, c.signal(n, p).map(|name| Some(FailureMatch::Signal(name))))),
        key("severity", Takes::Word(names_of::<Severity>), Preset::Value("\"medium\""),
            "How bad they are; `[rails] catastrophic_failures` counts the worst.",
            |c, n, p, d| put(&mut d.severity, c.named(n, p).map(Some))),
        key("retryable", Takes::Flag, Preset::Value("true"),
            "Whether `retries` may help.",
            |c, n, p, d| put(&mut d.retryable, c.boolean(n, p).map(Some))),
    ],
);

/// `[[stage.require]]`.
#[rustfmt::skip] // Entry by entry: what it is, what it is for, how it is read, how it changes.
pub(in crate::study_file) static REQUIRE: Section<BoundParts> = Section::with_one_of(
    "`[[stage.require]]`",
    "What a case must meet to survive; two bounds of a metric are two entries.",
    &["at_least", "at_most"],
    &[
        key("metric", Takes::Filled("name"), REQUIRED,
            "The metric; a trial without it fails.",
            |c, n, p, d| put(&mut d.metric, c.non_empty_text(n, p).map(Some))),
        key("at_least", Takes::Number(Least::Any), NONE,
            "This, or more.",
            |c, n, p, d| put(&mut d.bound, c.float(n, p).map(|bound| Some(Bound::Below(bound))))),
        key("at_most", Takes::Number(Least::Any), NONE,
            "This, or less.",
            |c, n, p, d| put(&mut d.bound, c.float(n, p).map(|bound| Some(Bound::Above(bound))))),
    ],
);

/// What an entry of `abort_if`, or of `[[stage.require]]`, says.
#[derive(Default)]
pub(in crate::study_file) struct BoundParts {
    metric: Option<String>,
    bound: Option<Bound>,
}

/// What a `[[stage.failure]]` says.
#[derive(Default)]
pub(in crate::study_file) struct FailureParts {
    kind: Option<FailureKind>,
    when: Option<FailureMatch>,
    severity: Option<Severity>,
    retryable: Option<bool>,
}

const KIND_LENGTH_MAX: usize = 64;

/// No program starts in less.
const MEMORY_LIMIT_MIN_BYTES: u64 = 1 << 20;
/// No study is kept in less.
const DISK_LIMIT_MIN_BYTES: u64 = 1 << 20;

impl Checker<'_> {
    /// `[stage.rails]`.
    pub(in crate::study_file) fn stage_rails(&mut self, node: &Node, place: &Location) -> Option<StageRails> {
        let mut rails = StageRails::default();
        self.section(&STAGE_RAILS, node, place, &mut rails)?;
        Some(rails)
    }

    fn failure_rate(&mut self, node: &Node, place: &Location) -> Option<f64> {
        let rate = self.float(node, place)?;
        if rate > 0.0 && rate <= 1.0 {
            return Some(rate);
        }
        let message = "`max_failure_rate` must be above 0 and at most 1";
        let mistake = Diagnostic::at(place, message).label("expected a share, such as 0.5");
        self.report(mistake.help("it is the share of failed trials among the finished ones"));
        None
    }

    /// `[[stage.require]]`.
    pub(in crate::study_file) fn requirements(
        &mut self,
        node: &Node,
        place: &Location,
    ) -> Option<Vec<MetricBound>> {
        if matches!(node.kind, Kind::Table(_)) {
            let help = "write `[[stage.require]]`, with two brackets";
            self.wrong_type(node, place, "a list of tables", Some(help.into()));
            return None;
        }
        self.bounds(&REQUIRE, node, place)
    }

    fn abort_rules(&mut self, node: &Node, place: &Location) -> Option<Vec<MetricBound>> {
        self.bounds(&ABORT_IF, node, place)
    }

    /// Bounds of metrics, in tables of this section: the lower ones are said by its first key, the upper ones by its second.
    fn bounds(
        &mut self,
        section: &'static Section<BoundParts>,
        node: &Node,
        place: &Location,
    ) -> Option<Vec<MetricBound>> {
        let mut rules: Vec<MetricBound> = Vec::new();
        let mut seen = HashSet::new();
        for (node, place) in self.items(node, place, "tables")? {
            let Some(rule) = self.bound(section, node, &place) else { continue };
            let below = matches!(rule.bound, Bound::Below(_));
            if !seen.insert((rule.metric.clone(), below)) {
                let side = if below { section.one_of.first() } else { section.one_of.last() };
                let side = side.copied().unwrap_or_default();
                let message = format!("{} has its `{side}` already", shown(&rule.metric));
                self.report(Diagnostic::at(&place, message).label("named before"));
            }
            rules.push(rule);
        }
        Some(rules)
    }

    fn bound(
        &mut self,
        section: &'static Section<BoundParts>,
        node: &Node,
        place: &Location,
    ) -> Option<MetricBound> {
        let mut parts = BoundParts::default();
        let table = self.section(section, node, place, &mut parts)?;
        self.exactly_one(&table, section.one_of, "write two entries for two bounds");
        Some(MetricBound { metric: parts.metric?, bound: parts.bound? })
    }

    /// Reports a table that has none, or more than one, of these keys.
    pub(super) fn exactly_one(&mut self, table: &Table<'_>, keys: &[&str], help: &str) {
        let there: Vec<Location> =
            table.entries.iter().filter(|e| keys.contains(&e.key.as_str())).map(|e| table.key_place(e)).collect();
        let list = keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
        match there.as_slice() {
            [] => {
                let message = format!("one of {list} is missing in {}", table.title);
                self.report(Diagnostic::at(&table.place, message).label("expected one of them").absence());
            }
            [_] => {}
            [_, second, ..] => {
                let message = format!("only one of {list} can stand in {}", table.title);
                self.report(Diagnostic::at(second, message).label("one too many").help(help));
            }
        }
    }

    /// `[[stage.failure]]`.
    pub(in crate::study_file) fn failure_rules(
        &mut self,
        node: &Node,
        place: &Location,
    ) -> Option<Vec<FailureRule>> {
        if matches!(node.kind, Kind::Table(_)) {
            let help = "write `[[stage.failure]]`, with two brackets";
            self.wrong_type(node, place, "a list of tables", Some(help.into()));
            return None;
        }
        let mut rules = Vec::new();
        for (node, place) in self.items(node, place, "tables")? {
            rules.extend(self.failure_rule(node, &place));
        }
        Some(rules)
    }

    /// `failures`: the rules of a built-in set.
    pub(in crate::study_file) fn failure_set(
        &mut self,
        node: &Node,
        place: &Location,
    ) -> Option<Vec<FailureRule>> {
        if !matches!(node.kind, Kind::Str(_)) {
            let help = "rules of the study's own are `[[stage.failure]]`";
            self.wrong_type(node, place, "the name of a set of failure rules", Some(help.into()));
            return None;
        }
        self.one_of(node, place, &FAILURE_SETS).map(FailureSet::rules)
    }

    fn failure_rule(&mut self, node: &Node, place: &Location) -> Option<FailureRule> {
        let mut parts = FailureParts::default();
        let table = self.section(&FAILURE, node, place, &mut parts)?;
        self.exactly_one(&table, FAILURE.one_of, "write one `[[stage.failure]]` for each");
        Some(FailureRule {
            kind: parts.kind?,
            when: parts.when?,
            severity: parts.severity.unwrap_or(Severity::Medium),
            retryable: parts.retryable.unwrap_or(true),
        })
    }

    fn failure_kind(&mut self, node: &Node, place: &Location) -> Option<FailureKind> {
        let kind = self.non_empty_text(node, place)?;
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if !kind.starts_with(|c: char| c.is_ascii_lowercase()) || !kind.chars().all(plain) {
            let message = format!("{} is no kind of failure", shown(&kind));
            let help = "a kind is a lower-case letter, then lower-case letters, digits or `_`";
            self.report(Diagnostic::at(place, message).label("not a name").help(help));
        } else if kind.len() > KIND_LENGTH_MAX {
            let message = format!("the kind has {} characters, {KIND_LENGTH_MAX} at most", kind.len());
            self.report(Diagnostic::at(place, message).label("too long"));
        } else {
            let named = FailureKind::from(kind.as_str());
            if !named.is_reserved() {
                return Some(named);
            }
            let message = format!("{} is a kind of piton's own", shown(&kind));
            self.report(Diagnostic::at(place, message).label("taken").help("choose another name"));
        }
        None
    }

    fn log_pattern(&mut self, node: &Node, place: &Location) -> Option<String> {
        let pattern = self.non_empty_text(node, place)?;
        match log_regex(&pattern) {
            Ok(regex) if regex.is_match(b"") => {
                let mistake = Diagnostic::at(place, "the regex matches every log").label("matches the empty text");
                self.report(mistake.help("ask for a text that only this failure writes"));
                None
            }
            Ok(_) => Some(pattern),
            Err(error) => {
                self.bad_regex(node, place, &pattern, &error);
                None
            }
        }
    }

    /// A signal's name, with `SIG` in front.
    fn signal(&mut self, node: &Node, place: &Location) -> Option<String> {
        let text = self.non_empty_text(node, place)?;
        let upper = text.to_ascii_uppercase();
        let name = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
        if SIGNALS.iter().any(|(known, _)| *known == name) {
            return Some(name);
        }
        let valid: Vec<&str> = SIGNALS.iter().map(|(known, _)| *known).collect();
        let message = format!("{} is no signal that ends a process", shown(&text));
        let mistake = Diagnostic::at(place, message).label("no such signal");
        self.report(mistake.maybe_help(names_help("signals", &name, &valid)));
        None
    }

    /// `memory_limit`, in bytes.
    pub(in crate::study_file) fn memory_limit(&mut self, node: &Node, place: &Location) -> Option<u64> {
        let small = ("too small for any program", "expected at least 1MiB");
        self.size(node, place, (MEMORY_LIMIT_MIN_BYTES, small))
    }

    /// `[run] disk_limit`.
    pub(in crate::study_file) fn disk_limit(&mut self, node: &Node, place: &Location) -> Option<u64> {
        self.size(node, place, (DISK_LIMIT_MIN_BYTES, ("too small for any study", "expected at least 1MiB")))
    }

    /// A size of at least so many bytes, and what is said of a smaller one.
    fn size(
        &mut self,
        node: &Node,
        place: &Location,
        (least, small): (u64, (&'static str, &'static str)),
    ) -> Option<u64> {
        const HELP: &str = "write it like \"4GiB\", \"512MiB\" or \"1.5 GB\"; a plain integer counts bytes";
        let bytes = match &node.kind {
            Kind::Int(bytes) => u64::try_from((*bytes).max(0)).map_err(|_| SizeError::TooLarge),
            Kind::Str(text) => parse_size(text),
            _ => {
                self.wrong_type(node, place, "a size in quotes", Some(HELP.into()));
                return None;
            }
        };
        let (message, label) = match bytes {
            Ok(bytes) if bytes >= least && i64::try_from(bytes).is_ok() => return Some(bytes),
            Ok(bytes) if bytes < least => small,
            Ok(_) | Err(SizeError::TooLarge) => ("too large", "no machine has that much"),
            Err(SizeError::NoSize) => ("no size", "expected a number and its unit"),
        };
        let name = place.path.rsplit('.').next().unwrap_or_default();
        self.report(Diagnostic::at(place, format!("`{name}` is {message}")).label(label).help(HELP));
        None
    }
}
