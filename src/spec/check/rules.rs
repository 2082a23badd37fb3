//! `[rails]`, `[stage.rails]`, `[[stage.failure]]` and `memory_limit`.

use std::collections::HashSet;

use crate::model::Severity;
use crate::spec::diagnostics::{Diagnostic, Place, names_help, shown};
use crate::spec::failure_sets::{FAILURE_SETS, FailureSet};
use crate::spec::raw::{Kind, Node};
use crate::spec::rules::{AbortRule, Bound, FailureMatch, FailureRule, Rails, SIGNALS, StageRails, log_regex};
use crate::spec::size::{SizeError, parse_size};
use crate::spec::walk::{Checker, Field, Keys, Table};

use super::{RAILS_KEYS, STAGE_RAILS_KEYS};

const ABORT_KEYS: Keys = &["metric", "below", "above"];
const FAILURE_KEYS: Keys = &["kind", "log", "exit_code", "signal", "severity", "retryable"];

/// Kinds that say how piton itself saw a failure, which no rule may claim. A rule may well name `timeout`,
/// `out_of_memory` or `command_not_found`: a tool can tell of them in its log.
const RESERVED_KINDS: [&str; 9] = [
    "exit_code",
    "signal",
    "missing_metric",
    "bad_metrics",
    "missing_output",
    "spawn_failed",
    "killed_keeper",
    "interrupted",
    "cancelled",
];

const KIND_LENGTH_MAX: usize = 64;

/// No program starts in less.
const MEMORY_LIMIT_MIN_BYTES: u64 = 1 << 20;

impl Checker<'_> {
    /// `[rails]`.
    pub(super) fn rails(&mut self, node: &Node, place: &Place) -> Option<Rails> {
        let table = self.table(node, place, "`[rails]`", RAILS_KEYS)?;
        let max_runtime = self.field(&table, "max_runtime", |c, n, p| c.duration(n, p, false));
        let catastrophic = self.field(&table, "catastrophic_failures", |c, n, p| c.count(n, p, 1));
        Some(Rails { max_runtime_ms: max_runtime.into_good(), catastrophic_failures: catastrophic.into_good() })
    }

    /// `[stage.rails]`.
    pub(super) fn stage_rails(&mut self, node: &Node, place: &Place) -> Option<StageRails> {
        let table = self.table(node, place, "`[stage.rails]`", STAGE_RAILS_KEYS)?;
        let abort_if = self.field(&table, "abort_if", |c, n, p| c.abort_rules(n, p));
        let rate = self.field(&table, "max_failure_rate", |c, n, p| c.failure_rate(n, p));
        Some(StageRails { abort_if: abort_if.or_default(Vec::new()), max_failure_rate: rate.into_good() })
    }

    fn failure_rate(&mut self, node: &Node, place: &Place) -> Option<f64> {
        let rate = self.float(node, place)?;
        if rate > 0.0 && rate <= 1.0 {
            return Some(rate);
        }
        let message = "`max_failure_rate` must be above 0 and at most 1";
        let mistake = Diagnostic::at(place, message).label("expected a share, such as 0.5");
        self.report(mistake.help("it is the share of failed trials among the finished ones"));
        None
    }

    fn abort_rules(&mut self, node: &Node, place: &Place) -> Option<Vec<AbortRule>> {
        let mut rules: Vec<AbortRule> = Vec::new();
        let mut seen = HashSet::new();
        for (node, place) in self.items(node, place, "tables")? {
            let Some(rule) = self.abort_rule(node, &place) else { continue };
            let below = matches!(rule.bound, Bound::Below(_));
            if !seen.insert((rule.metric.clone(), below)) {
                let side = if below { "below" } else { "above" };
                let message = format!("{} has its `{side}` already", shown(&rule.metric));
                self.report(Diagnostic::at(&place, message).label("named before"));
            }
            rules.push(rule);
        }
        Some(rules)
    }

    fn abort_rule(&mut self, node: &Node, place: &Place) -> Option<AbortRule> {
        let table = self.table(node, place, "`abort_if`", ABORT_KEYS)?;
        let metric = self.field(&table, "metric", |c, n, p| c.non_empty_text(n, p));
        if matches!(metric, Field::Absent) {
            self.missing(&table, "metric", None);
        }
        let below = self.field(&table, "below", |c, n, p| c.float(n, p));
        let above = self.field(&table, "above", |c, n, p| c.float(n, p));
        self.exactly_one(&table, &["below", "above"], "write two entries for two bounds");
        let bound = below.into_good().map(Bound::Below).or(above.into_good().map(Bound::Above));
        Some(AbortRule { metric: metric.into_good()?, bound: bound? })
    }

    /// Reports a table that has none, or more than one, of these keys.
    fn exactly_one(&mut self, table: &Table<'_>, keys: &[&str], help: &str) {
        let there: Vec<Place> =
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
    pub(super) fn failure_rules(&mut self, node: &Node, place: &Place) -> Option<Vec<FailureRule>> {
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
    pub(super) fn failure_set(&mut self, node: &Node, place: &Place) -> Option<Vec<FailureRule>> {
        if !matches!(node.kind, Kind::Str(_)) {
            let help = "rules of the study's own are `[[stage.failure]]`";
            self.wrong_type(node, place, "the name of a set of failure rules", Some(help.into()));
            return None;
        }
        self.one_of(node, place, &FAILURE_SETS).map(FailureSet::rules)
    }

    fn failure_rule(&mut self, node: &Node, place: &Place) -> Option<FailureRule> {
        let table = self.table(node, place, "`[[stage.failure]]`", FAILURE_KEYS)?;
        let kind = self.field(&table, "kind", |c, n, p| c.failure_kind(n, p));
        if matches!(kind, Field::Absent) {
            self.missing(&table, "kind", None);
        }
        let log = self.field(&table, "log", |c, n, p| c.log_pattern(n, p));
        let exit_code = self.field(&table, "exit_code", |c, n, p| c.integer(n, p, 1..=255));
        let signal = self.field(&table, "signal", |c, n, p| c.signal(n, p));
        self.exactly_one(&table, &["log", "exit_code", "signal"], "write one `[[stage.failure]]` for each");
        let severity = self.field(&table, "severity", |c, n, p| c.named(n, p));
        let retryable = self.field(&table, "retryable", |c, n, p| c.boolean(n, p));
        let exit_code = exit_code.into_good().and_then(|code| i32::try_from(code).ok());
        let when = log.into_good().map(FailureMatch::Log);
        let when = when.or(exit_code.map(FailureMatch::ExitCode));
        let when = when.or(signal.into_good().map(FailureMatch::Signal));
        Some(FailureRule {
            kind: kind.into_good()?,
            when: when?,
            severity: severity.or_default(Severity::Medium),
            retryable: retryable.or_default(true),
        })
    }

    fn failure_kind(&mut self, node: &Node, place: &Place) -> Option<String> {
        let kind = self.non_empty_text(node, place)?;
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if !kind.starts_with(|c: char| c.is_ascii_lowercase()) || !kind.chars().all(plain) {
            let message = format!("{} is no kind of failure", shown(&kind));
            let help = "a kind is a lower-case letter, then lower-case letters, digits or `_`";
            self.report(Diagnostic::at(place, message).label("not a name").help(help));
        } else if kind.len() > KIND_LENGTH_MAX {
            let message = format!("the kind has {} characters, {KIND_LENGTH_MAX} at most", kind.len());
            self.report(Diagnostic::at(place, message).label("too long"));
        } else if RESERVED_KINDS.contains(&kind.as_str()) {
            let message = format!("{} is a kind of piton's own", shown(&kind));
            self.report(Diagnostic::at(place, message).label("taken").help("choose another name"));
        } else {
            return Some(kind);
        }
        None
    }

    fn log_pattern(&mut self, node: &Node, place: &Place) -> Option<String> {
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
    fn signal(&mut self, node: &Node, place: &Place) -> Option<String> {
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
    pub(super) fn memory_limit(&mut self, node: &Node, place: &Place) -> Option<u64> {
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
            Ok(bytes) if bytes >= MEMORY_LIMIT_MIN_BYTES && i64::try_from(bytes).is_ok() => return Some(bytes),
            Ok(bytes) if bytes < MEMORY_LIMIT_MIN_BYTES => ("too small for any program", "expected at least 1MiB"),
            Ok(_) | Err(SizeError::TooLarge) => ("too large", "no machine has that much"),
            Err(SizeError::NoSize) => ("no size", "expected a number and its unit"),
        };
        let name = place.path.rsplit('.').next().unwrap_or_default();
        self.report(Diagnostic::at(place, format!("`{name}` is {message}")).label(label).help(HELP));
        None
    }
}
