//! From a study file's text to a checked spec.
//!
//! Syntax errors and mistakes are reported together, as far as a syntax error leaves the rest trustworthy. Any bytes
//! may come in; it must never panic, and never read another file unless its caller says where the study's files are.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::Path;

use toml::de::DeTable;

use super::check::check;
use super::diagnostics::{Diagnostic, Diagnostics, Location};
use super::raw::{Kind, Node};
use super::types::{Spec, Values};
use crate::model::ExecutorKind;

/// [`parse_bytes`] of text.
///
/// # Errors
/// As for [`parse_bytes`].
#[cfg(test)]
pub(crate) fn parse(source_name: &str, text: &str, overrides: &[(String, String)]) -> Result<Spec, Diagnostics> {
    parse_text(source_name, text, overrides, (None, Values::Exact))
}

fn parse_text(
    source_name: &str,
    text: &str,
    overrides: &[(String, String)],
    (study_dir, values): (Option<&Path>, Values),
) -> Result<Spec, Diagnostics> {
    // TOML lets a reader choose the line ends of its strings: a shell must see the same whatever editor wrote them.
    let text = &*match values {
        Values::Exact if text.contains("\r\n") => Cow::Owned(text.replace("\r\n", "\n")),
        _ => Cow::Borrowed(text),
    };
    let (table, errors) = DeTable::parse_recoverable(text);
    let root = Node { kind: Kind::Table(Node::entries(table.get_ref())), span: Some(0..0) };
    let checked = check(text, &root, overrides, (study_dir, values));
    if errors.is_empty() {
        return checked.map_err(|found| Diagnostics::new(source_name, text, found));
    }
    let syntax: Vec<Diagnostic> = errors.iter().map(|error| syntax_error(error, text)).collect();
    let lines = Lines::new(text);
    let mut found = first_of_each_line(&lines, unclosed_array(text, &root, syntax));
    if let Err(mistakes) = checked
        && found.iter().all(|error| is_local(error, &lines))
    {
        let spoilt: BTreeSet<usize> = found.iter().filter_map(|error| lines.number(error)).collect();
        // A value the parser made up has no bytes.
        let beside = |mistake: &Diagnostic| {
            mistake.span != Some(0..0) && lines.number(mistake).is_none_or(|line| !spoilt.contains(&line))
        };
        found.extend(mistakes.into_iter().filter(|mistake| !mistake.absence && beside(mistake)));
    }
    Err(Diagnostics::new(source_name, text, found))
}

/// Reads and checks a study file.
///
/// `source_name` is the file's name for messages. `overrides` are `--set name=value` pairs: each replaces a
/// constant of `[params]`, or gives one that a command's placeholder asks for and nothing else defines. A value
/// is a boolean, integer or float if it is written as that is printed (`true`, `12`, `0.5`), and plain text otherwise
/// (`007`, `1.20`, `7e9`); in TOML's quotes it is the text between them. Of two for one name the last counts.
///
/// # Errors
/// Every mistake, each with its place; the first byte that is not UTF-8 is one, and then the only one.
pub fn parse_bytes(source_name: &str, bytes: &[u8], overrides: &[(String, String)]) -> Result<Spec, Diagnostics> {
    parse_any(source_name, bytes, overrides, (None, Values::Exact))
}

/// [`parse_bytes`], and the files of cases that the study file names are read from `study_dir`: only then is it known
/// what they sweep, and so what a placeholder can mean.
///
/// # Errors
/// Every mistake, also in those files.
pub fn parse_study(
    source_name: &str,
    bytes: &[u8],
    overrides: &[(String, String)],
    study_dir: &Path,
) -> Result<Spec, Diagnostics> {
    parse_study_as(source_name, bytes, overrides, study_dir, Values::Exact)
}

/// [`parse_study`], with values read as another version of piton read them.
///
/// # Errors
/// As for [`parse_study`].
pub fn parse_study_as(
    source_name: &str,
    bytes: &[u8],
    overrides: &[(String, String)],
    study_dir: &Path,
    values: Values,
) -> Result<Spec, Diagnostics> {
    parse_any(source_name, bytes, overrides, (Some(study_dir), values))
}

/// Tables of `[run]` that a study file has for an executor other than this one, by their names: they count for nothing.
#[must_use]
pub(crate) fn idle_tables(bytes: &[u8], executor: ExecutorKind) -> Vec<&'static str> {
    let Ok(text) = std::str::from_utf8(bytes) else { return Vec::new() };
    let (table, _) = DeTable::parse_recoverable(text);
    let run = table.get_ref().get("run").and_then(|run| run.get_ref().as_table());
    let idle = |kind: &ExecutorKind| *kind != executor && run.is_some_and(|run| run.contains_key(kind.name()));
    [ExecutorKind::Ray, ExecutorKind::Slurm].into_iter().filter(idle).map(ExecutorKind::name).collect()
}

fn parse_any(
    source_name: &str,
    bytes: &[u8],
    overrides: &[(String, String)],
    how: (Option<&Path>, Values),
) -> Result<Spec, Diagnostics> {
    match std::str::from_utf8(bytes) {
        Ok(text) => parse_text(source_name, text, overrides, how),
        Err(error) => {
            let at = error.valid_up_to();
            let place = Location { span: Some(at..at + '\u{fffd}'.len_utf8()), path: String::new() };
            let mistake = Diagnostic::at(&place, "the study file is not UTF-8").label("not UTF-8 from here");
            Err(Diagnostics::new(source_name, &String::from_utf8_lossy(bytes), vec![mistake]))
        }
    }
}

fn syntax_error(error: &toml::de::Error, text: &str) -> Diagnostic {
    let span = error.span().unwrap_or(text.len()..text.len());
    let place = Location { span: Some(span), path: String::new() };
    // The parser says `what is wrong, expected this`.
    match error.message().split_once(", expected ") {
        Some((wrong, expected)) => Diagnostic::at(&place, wrong).label(format!("expected {expected}")),
        None => Diagnostic::at(&place, error.message()).label("cannot be read"),
    }
}

/// An array that is never closed swallows all that follows: one error says where it begins, the rest are echoes.
fn unclosed_array(text: &str, root: &Node, mut errors: Vec<Diagnostic>) -> Vec<Diagnostic> {
    if !errors.iter().any(|error| error.message.contains("unclosed array")) {
        return errors;
    }
    let Some(start) = array_open_at(root, text.trim_end().len()) else { return errors };
    errors.retain(|error| error.span.as_ref().is_some_and(|span| span.start < start));
    let place = Location { span: Some(start..start + 1), path: String::new() };
    errors.push(Diagnostic::at(&place, "unclosed array").label("this `[` is never closed"));
    errors
}

/// Where the outermost array value begins that reaches the text's end.
fn array_open_at(node: &Node, end: usize) -> Option<usize> {
    let reaches = node.span.as_ref().filter(|span| span.end >= end && span.start < span.end);
    match (&node.kind, reaches) {
        (Kind::Array(_), Some(span)) => Some(span.start),
        (Kind::Array(items), None) => items.iter().find_map(|item| array_open_at(item, end)),
        (Kind::Table(entries), _) => entries.iter().find_map(|entry| array_open_at(&entry.node, end)),
        _ => None,
    }
}

/// One broken spot makes the parser stumble on through the rest of its line.
fn first_of_each_line(lines: &Lines<'_>, mut errors: Vec<Diagnostic>) -> Vec<Diagnostic> {
    errors.sort_by_key(|error| error.span.as_ref().map(|span| span.start));
    let mut seen = BTreeSet::new();
    errors.retain(|error| seen.insert(lines.number(error)));
    errors
}

/// Where the lines of a text begin, so that finding one costs no walk through the text.
struct Lines<'t> {
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    fn new(text: &'t str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { text, starts }
    }

    /// The line a mistake begins in, from 1.
    fn number(&self, mistake: &Diagnostic) -> Option<usize> {
        let start = mistake.span.as_ref()?.start;
        Some(self.starts.partition_point(|line| *line <= start))
    }

    /// That line, to the text's end.
    fn from(&self, mistake: &Diagnostic) -> &'t str {
        let number = self.number(mistake).unwrap_or(1);
        let start = self.starts.get(number.saturating_sub(1)).copied().unwrap_or(0);
        self.text.get(start..).unwrap_or_default()
    }
}

/// Whether a syntax error spoils no more than the value or key on its line: what follows still means what it says.
fn is_local(error: &Diagnostic, lines: &Lines<'_>) -> bool {
    let reaching = ["unclosed", "array", "table", "header", "multi-line"];
    let line = lines.from(error);
    !reaching.iter().any(|word| error.message.contains(word))
        && !line.trim_start_matches([' ', '\t']).starts_with(['[', '{'])
}

#[cfg(test)]
mod tests;
