//! Reading typed values out of the raw tree, collecting every mistake on the way.
//!
//! A reader never stops at the first mistake: it reports, answers "bad", and its caller goes on with the rest.

use std::collections::{BTreeMap, HashSet};
use std::ops::RangeInclusive;
use std::path::Path;

use crate::model::Named;
use crate::model::names::{self, NameFault};
use crate::model::{Lost, Value, float_of_integer, float_text};

use super::cases::Gaps;
use super::check::rules::{RAILS, STAGE_RAILS};
use super::check::{RUN, STUDY};
use super::diagnostics::{Diagnostic, Location, names_help, nearest, shown};
use super::keys::Described;
use super::raw::{Entry, Kind, Node, locate};
use super::stage::STAGE;
use super::types::{SpecValue, Values};

/// Longer durations than this are refused: a hundred years, so that sums of times never overflow.
const DURATION_MAX_MS: u128 = 100 * 366 * 86_400_000;

/// No count is above this: the trials of tens of thousands of stages still add up in 64 bits.
pub(super) const COUNT_MAX: i128 = 1_000_000_000_000_000;

/// Reports mistakes.
pub(super) struct Checker<'s> {
    pub source: &'s str,
    /// Where files of cases are; `None`: they are not read now.
    pub study_dir: Option<&'s Path>,
    pub values: Values,
    /// Of the files of cases that are read, by path and renamed columns: stages may call the same columns otherwise.
    pub gaps: BTreeMap<(String, BTreeMap<String, String>), Gaps>,
    pub found: Vec<Diagnostic>,
    /// Whether a key was bad.
    pub incomplete: bool,
}

/// A value, if it was there and good.
#[derive(Clone, Debug, Default)]
pub(super) enum Field<T> {
    #[default]
    Absent,
    /// Its mistake is reported.
    Bad,
    Good(T, Location),
}

impl<T> Field<T> {
    pub(super) fn good(&self) -> Option<&T> {
        match self {
            Self::Good(value, _) => Some(value),
            _ => None,
        }
    }

    pub(super) fn place(&self) -> Option<&Location> {
        match self {
            Self::Good(_, place) => Some(place),
            _ => None,
        }
    }

    /// The value; `default` where it was absent or bad (a bad one is reported already).
    pub(super) fn or_default(self, default: T) -> T {
        match self {
            Self::Good(value, _) => value,
            _ => default,
        }
    }

    pub(super) fn into_good(self) -> Option<T> {
        match self {
            Self::Good(value, _) => Some(value),
            _ => None,
        }
    }

    /// What was read; `None` for what is bad.
    pub(super) fn put(&mut self, value: Option<T>, place: &Location) -> Option<()> {
        *self = value.map_or(Self::Bad, |value| Self::Good(value, place.clone()));
        matches!(self, Self::Good(..)).then_some(())
    }
}

/// A table being read.
#[derive(Clone)]
pub(super) struct Table<'n> {
    pub entries: &'n [Entry],
    pub place: Location,
    /// How messages call it, backticks included where it is something one can write.
    pub title: String,
}

impl<'n> Table<'n> {
    pub(super) fn get(&self, key: &str) -> Option<(&'n Node, Location)> {
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        Some((&entry.node, self.place.below(key, entry.node.span.clone())))
    }

    pub(super) fn key_place(&self, entry: &Entry) -> Location {
        self.place.below(&entry.key, entry.key_span.clone())
    }
}

/// Where else a key could belong.
const OTHER_TABLES: [&dyn Described; 5] = [&STUDY, &RUN, &STAGE, &RAILS, &STAGE_RAILS];

impl Checker<'_> {
    pub(super) fn report(&mut self, mistake: Diagnostic) {
        self.found.push(mistake);
    }

    /// A part of a string's decoded text.
    pub(super) fn part_of(&self, node: &Node, place: &Location, range: std::ops::Range<usize>) -> Location {
        match (&node.kind, &place.span) {
            (Kind::Str(text), Some(token)) => place.with_span(Some(locate(self.source, token, text, range))),
            _ => place.clone(),
        }
    }

    pub(super) fn wrong_type(&mut self, node: &Node, place: &Location, expected: &str, help: Option<String>) {
        let name = place.path.rsplit('.').next().unwrap_or_default();
        let message = format!("{} must be {expected}, not {}", shown(name), node.type_name());
        self.report(Diagnostic::at(place, message).label(format!("expected {expected}")).maybe_help(help));
    }

    /// A table, its unknown keys reported.
    pub(super) fn table<'n>(
        &mut self,
        node: &'n Node,
        place: &Location,
        title: &str,
        of: &dyn Described,
    ) -> Option<Table<'n>> {
        let keys = of.names();
        let table = self.open_table(node, place, title)?;
        for entry in table.entries {
            let key = entry.key.as_str();
            let place = table.key_place(entry);
            if !keys.contains(&key) {
                let elsewhere = OTHER_TABLES.iter().find(|other| other.names().contains(&key));
                let help = match elsewhere {
                    Some(home) if nearest(key, keys.iter().copied()).is_none() => {
                        Some(format!("it belongs in {}; valid here: {}", home.title(), list(&keys)))
                    }
                    _ => names_help("valid keys", key, &keys),
                };
                let message = format!("unknown key {} in {title}", shown(key));
                self.report(Diagnostic::at(&place, message).label("no such key").maybe_help(help));
            }
        }
        Some(table)
    }

    /// A table with free keys.
    pub(super) fn open_table<'n>(&mut self, node: &'n Node, place: &Location, title: &str) -> Option<Table<'n>> {
        match &node.kind {
            Kind::Table(entries) => {
                Some(Table { entries, place: place.with_span(node.span.clone()), title: title.to_owned() })
            }
            _ => {
                self.wrong_type(node, place, "a table", None);
                None
            }
        }
    }

    pub(super) fn missing(&mut self, table: &Table<'_>, key: &str, help: Option<String>) {
        let message = format!("missing key `{key}` in {}", table.title);
        let mistake = Diagnostic::at(&table.place, message).label(format!("`{key}` is required"));
        self.report(mistake.maybe_help(help).absence());
    }

    /// Text without NUL, which neither argv nor environment nor a path can hold.
    pub(super) fn text(&mut self, node: &Node, place: &Location) -> Option<String> {
        let Kind::Str(text) = &node.kind else {
            let is_plain = matches!(node.kind, Kind::Int(_) | Kind::Float(_) | Kind::Lost(..) | Kind::Bool(_));
            let help = self.written(node).filter(|_| is_plain).map(|written| format!("write \"{written}\""));
            self.wrong_type(node, place, "a string", help);
            return None;
        };
        if let Err(NameFault::Nul(at)) = names::no_nul(text) {
            let place = self.part_of(node, place, at..at + 1);
            self.report(Diagnostic::at(&place, "a NUL character cannot be passed on").label("remove it"));
            return None;
        }
        Some(text.clone())
    }

    /// A node's own bytes.
    fn written(&self, node: &Node) -> Option<&str> {
        self.source.get(node.span.clone()?).filter(|written| !written.is_empty())
    }

    /// A number that would not be what it says.
    fn lost(&mut self, lost: Lost, place: &Location, help: Option<String>) {
        let name = place.path.rsplit('.').next().unwrap_or_default();
        let mistake = Diagnostic::at(place, format!("{} {lost}", shown(name)));
        let label = match lost {
            Lost::Digits(nearest) => format!("the nearest float is {}", float_text(nearest)),
            Lost::TooLarge | Lost::TooSmall => "not a finite float above 0".to_owned(),
        };
        self.report(mistake.label(label).maybe_help(help));
    }

    pub(super) fn non_empty_text(&mut self, node: &Node, place: &Location) -> Option<String> {
        let text = self.text(node, place)?;
        if text.is_empty() {
            let name = place.path.rsplit('.').next().unwrap_or_default();
            let message = format!("{} must not be empty", shown(name));
            self.report(Diagnostic::at(place, message).label("expected some text"));
            return None;
        }
        Some(text)
    }

    /// A name that can be part of a file's: `[A-Za-z0-9_-]{1,64}`.
    pub(super) fn file_name(&mut self, node: &Node, place: &Location) -> Option<String> {
        let text = self.text(node, place)?;
        let Err(fault) = names::file_name(&text) else { return Some(text) };
        let (place, message) = match fault {
            NameFault::Character(c, at) => {
                let place = self.part_of(node, place, at..at + c.len_utf8());
                (place, format!("the name {} {fault}", shown(&text)))
            }
            NameFault::Empty => (place.clone(), format!("the name {fault}")),
            _ => (place.clone(), format!("the name {} {fault}", shown(&text))),
        };
        let help = "names are 1 to 64 of the characters A-Z a-z 0-9 _ -";
        self.report(Diagnostic::at(&place, message).label("not allowed in a name").help(help));
        None
    }

    pub(super) fn integer(&mut self, node: &Node, place: &Location, range: RangeInclusive<i128>) -> Option<i128> {
        let Kind::Int(number) = node.kind else {
            self.wrong_type(node, place, "an integer", None);
            return None;
        };
        if range.contains(&number) {
            return Some(number);
        }
        let name = place.path.rsplit('.').next().unwrap_or_default();
        let (message, label) = if number < *range.start() {
            (format!("{} is too small", shown(name)), format!("expected at least {}", range.start()))
        } else {
            (format!("{} is too large", shown(name)), format!("expected at most {}", range.end()))
        };
        self.report(Diagnostic::at(place, message).label(label));
        None
    }

    /// An integer of a range that its type can hold.
    pub(super) fn whole<T: TryFrom<i128>>(
        &mut self,
        node: &Node,
        place: &Location,
        range: RangeInclusive<i128>,
    ) -> Option<T> {
        T::try_from(self.integer(node, place, range)?).ok()
    }

    /// A count of at least `least`.
    pub(super) fn count(&mut self, node: &Node, place: &Location, least: u64) -> Option<u64> {
        self.whole(node, place, i128::from(least)..=COUNT_MAX)
    }

    /// A finite float that a trial gets as it is written; an integer will do.
    pub(super) fn exact_float(&mut self, node: &Node, place: &Location) -> Option<f64> {
        if let Kind::Lost(_, lost) = node.kind {
            self.lost(lost, place, None);
            return None;
        }
        self.float(node, place)
    }

    /// A finite float; an integer will do, and of more digits than a float has the nearest one is taken.
    pub(super) fn float(&mut self, node: &Node, place: &Location) -> Option<f64> {
        let number = match node.kind {
            Kind::Float(number) | Kind::Lost(_, Lost::Digits(number)) => Ok(number),
            Kind::Lost(_, lost) => Err(lost),
            Kind::Int(number) => float_of_integer(number),
            _ => {
                self.wrong_type(node, place, "a number", None);
                return None;
            }
        };
        match number {
            Ok(number) => self.finite(number, place),
            Err(lost) => {
                self.lost(lost, place, None);
                None
            }
        }
    }

    fn finite(&mut self, number: f64, place: &Location) -> Option<f64> {
        if number.is_finite() {
            return Some(number);
        }
        let name = place.path.rsplit('.').next().unwrap_or_default();
        let message = format!("{} must be a finite number", shown(name));
        self.report(Diagnostic::at(place, message).label("not finite"));
        None
    }

    pub(super) fn boolean(&mut self, node: &Node, place: &Location) -> Option<bool> {
        match node.kind {
            Kind::Bool(flag) => Some(flag),
            _ => {
                self.wrong_type(node, place, "`true` or `false`", None);
                None
            }
        }
    }

    /// One of a few words.
    pub(super) fn one_of<T: Clone>(&mut self, node: &Node, place: &Location, words: &[(&str, T)]) -> Option<T> {
        let text = self.text(node, place)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(value.clone());
        }
        let name = place.path.rsplit('.').next().unwrap_or_default();
        let valid: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let message = format!("{} is no valid {}", shown(&text), shown(name));
        let mistake = Diagnostic::at(place, message).label(format!("expected {}", alternatives(&valid)));
        self.report(mistake.maybe_help(names_help("valid", &text, &valid)));
        None
    }

    /// The name of one of a fixed set of values.
    pub(super) fn named<T: Named>(&mut self, node: &Node, place: &Location) -> Option<T> {
        let words: Vec<(&str, T)> = T::ALL.iter().map(|one| (one.name(), *one)).collect();
        self.one_of(node, place, &words)
    }

    /// A duration such as `1h30m`, in whole milliseconds.
    pub(super) fn duration(&mut self, node: &Node, place: &Location, zero_ok: bool) -> Option<u64> {
        const HELP: &str = "write it like \"90s\", \"30m\", \"1h 30m\" or \"500ms\"";
        let name = shown(place.path.rsplit('.').next().unwrap_or_default());
        let (nanoseconds, text) = match &node.kind {
            Kind::Millis(millis) => (i128::try_from(*millis).unwrap_or(i128::MAX).saturating_mul(1_000_000), None),
            Kind::Str(text) => match text.parse::<jiff::SignedDuration>() {
                Ok(duration) => (duration.as_nanos(), Some(text)),
                Err(_) => {
                    let calendar = text.contains(|c: char| c.is_ascii_digit()) && text.contains(['d', 'w', 'y']);
                    let more = if calendar { "; hours are the largest unit" } else { "" };
                    let message = format!("{name}: {} is no duration", shown(text));
                    let mistake = Diagnostic::at(place, message).label("expected a duration");
                    self.report(mistake.help(format!("{HELP}{more}")));
                    return None;
                }
            },
            _ => {
                self.wrong_type(node, place, "a duration in quotes", Some(HELP.into()));
                return None;
            }
        };
        let millis = nanoseconds / 1_000_000;
        let problem = if nanoseconds < 0 {
            "is negative"
        } else if nanoseconds == 0 && !zero_ok {
            "must be longer than zero"
        } else if nanoseconds > 0 && millis == 0 {
            "is shorter than a millisecond"
        } else if millis > i128::try_from(DURATION_MAX_MS).unwrap_or(i128::MAX) {
            "is longer than a hundred years"
        } else {
            return u64::try_from(millis).ok();
        };
        let text = text.map(|text| format!(" {}", shown(text))).unwrap_or_default();
        self.report(Diagnostic::at(place, format!("{name}{text} {problem}")).label(problem));
        None
    }

    /// The items of a list, each with its place.
    pub(super) fn items<'n>(
        &mut self,
        node: &'n Node,
        place: &Location,
        of: &str,
    ) -> Option<Vec<(&'n Node, Location)>> {
        let Kind::Array(items) = &node.kind else {
            self.wrong_type(node, place, &format!("a list of {of}"), None);
            return None;
        };
        let item = |(index, node): (usize, &'n Node)| {
            let place = Location { span: node.span.clone(), path: format!("{}[{index}]", place.path) };
            (node, place)
        };
        Some(items.iter().enumerate().map(item).collect())
    }

    /// A list of texts, each read by `read`, none twice.
    pub(super) fn texts(
        &mut self,
        node: &Node,
        place: &Location,
        mut read: impl FnMut(&mut Self, &Node, &Location) -> Option<String>,
    ) -> Option<Vec<String>> {
        let items = self.items(node, place, "strings")?;
        let mut texts: Vec<String> = Vec::with_capacity(items.len());
        let mut seen = HashSet::new();
        let mut good = true;
        for (node, place) in items {
            match read(self, node, &place) {
                Some(text) if !seen.insert(text.clone()) => {
                    let message = format!("{} is named twice", shown(&text));
                    self.report(Diagnostic::at(&place, message).label("named before"));
                    good = false;
                }
                Some(text) => texts.push(text),
                None => good = false,
            }
        }
        good.then_some(texts)
    }

    /// A param's value.
    pub(super) fn value(&mut self, node: &Node, place: &Location) -> Option<SpecValue> {
        let value = match &node.kind {
            Kind::Str(_) => Value::Str(self.text(node, place)?),
            Kind::Bool(flag) => Value::Bool(*flag),
            Kind::Int(_) => {
                let number = self.integer(node, place, i128::from(i64::MIN)..=i128::from(i64::MAX))?;
                Value::Int(i64::try_from(number).ok()?)
            }
            Kind::Float(number) => Value::Float(self.finite(*number, place)?),
            Kind::Lost(_, lost) => {
                self.lost(*lost, place, Some(lost.instead()));
                return None;
            }
            _ => {
                self.wrong_type(node, place, "a string, boolean, integer or float", None);
                return None;
            }
        };
        Some(SpecValue(value))
    }

    /// A path below the attempt's directory.
    pub(super) fn inner_path(&mut self, node: &Node, place: &Location) -> Option<String> {
        let text = self.non_empty_text(node, place)?;
        let Err(fault) = names::inner_path(&text) else { return Some(text) };
        let message = format!("{} is not inside the attempt's directory", shown(&text));
        let label = match fault {
            NameFault::Itself => "names the directory itself",
            _ => "leads out of it",
        };
        let help = "paths of outputs and metric files are relative to the attempt's directory";
        self.report(Diagnostic::at(place, message).label(label).help(help));
        None
    }
}

fn list(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

fn alternatives(words: &[&str]) -> String {
    words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(" or ")
}
