//! `[stage.sweep]`: choices and ranges.

use std::collections::HashSet;

use crate::model::Value;
use crate::study_file::diagnostics::{Diagnostic, Location, shown};
use crate::study_file::keys::{Least, Preset, REQUIRED, Section, Takes, key, put};
use crate::study_file::raw::{Entry, Kind, Node};
use crate::study_file::types::{Domain, SpecValue};
use crate::study_file::walk::{COUNT_MAX, Checker, Field, Table};

use super::stage::SweepParts;

/// A range of `[stage.sweep]`.
#[rustfmt::skip] // Entry by entry: what it is, what it is for, how it is read, how it changes.
pub(in crate::study_file) static RANGE: Section<RangeParts> = Section::new(
    "a range",
    "A range of a param's values, both ends included.",
    &[
        key("min", Takes::Number(Least::Any), REQUIRED,
            "The lower end.",
            |_, n, p, d| put(&mut d.min, Some(Some((n.clone(), p.clone()))))),
        key("max", Takes::Number(Least::Any), REQUIRED,
            "The upper end.",
            |_, n, p, d| put(&mut d.max, Some(Some((n.clone(), p.clone()))))),
        key("steps", Takes::Integer(2, COUNT_MAX), Preset::Words("every integer"),
            "Points on a grid, both ends counted; a range of floats needs it there, random sampling has no use for it.",
            |c, n, p, d| d.steps.put(c.steps(n, p), p)),
        key("type", Takes::Word(|| RANGE_TYPES.map(|(name, _)| name).to_vec()), Preset::Value("\"float\""),
            "What it counts in.",
            |c, n, p, d| d.kind.put(c.one_of(n, p, &RANGE_TYPES), p)),
        key("log", Takes::Flag, Preset::Value("false"),
            "Even on a log scale; `min` is above 0 then.",
            |c, n, p, d| d.log.put(c.boolean(n, p), p)),
    ],
);

const RANGE_TYPES: [(&str, RangeType); 2] = [("float", RangeType::Float), ("int", RangeType::Int)];

/// What a range says; its ends are read once it is known what it counts in.
#[derive(Default)]
pub(in crate::study_file) struct RangeParts {
    min: Option<(Node, Location)>,
    max: Option<(Node, Location)>,
    steps: Field<u64>,
    kind: Field<RangeType>,
    log: Field<bool>,
}

/// The lower and the upper end of a range, each with its place.
type Ends = (Option<(Node, Location)>, Option<(Node, Location)>);

#[derive(Clone, Copy, PartialEq, Eq)]
enum RangeType {
    Float,
    Int,
}

impl Checker<'_> {
    /// All of a stage's sweep, in the order of the text.
    pub(in crate::study_file) fn sweep(&mut self, node: &Node, place: &Location) -> Option<Vec<SweepParts>> {
        let table = self.open_table(node, place, "`[stage.sweep]`")?;
        if table.entries.is_empty() {
            let mistake = Diagnostic::at(place, "the sweep is empty").label("expected at least one param");
            self.report(mistake.help("without `[stage.sweep]` each parent has one case"));
            return None;
        }
        let mut sweep = Vec::with_capacity(table.entries.len());
        for entry in table.entries {
            let named = self.param_name(&entry.key, &table.key_place(entry));
            let place = table.place.below(&entry.key, entry.node.span.clone());
            let (domain, steps) = match self.domain(entry, &place) {
                Some((domain, steps)) => (Some(domain).filter(|_| named), steps),
                None => (None, None),
            };
            sweep.push(SweepParts { name: entry.key.clone(), domain, place, steps });
        }
        Some(sweep)
    }

    fn domain(&mut self, entry: &Entry, place: &Location) -> Option<(Domain, Option<Location>)> {
        match &entry.node.kind {
            Kind::Array(_) => self.choices(&entry.node, place).map(|domain| (domain, None)),
            Kind::Table(_) => self.range(&entry.node, place),
            _ => {
                let help = "[1, 2, 4] or { min = 1, max = 8, type = \"int\" }; constants belong in `[params]`";
                self.wrong_type(&entry.node, place, "a list of choices or a range", Some(help.into()));
                None
            }
        }
    }

    fn choices(&mut self, node: &Node, place: &Location) -> Option<Domain> {
        let items = self.items(node, place, "choices")?;
        if items.is_empty() {
            self.report(Diagnostic::at(place, "no choices").label("expected at least one value"));
            return None;
        }
        let count = items.len();
        let mut seen = HashSet::new();
        let mut values: Vec<SpecValue> = Vec::with_capacity(count);
        for (node, place) in items {
            let Some(value) = self.value(node, &place) else { continue };
            if seen.insert(identity(&value.0)) {
                values.push(value);
            } else {
                let message = format!("the choice {} is there twice", shown(&value.0.to_string()));
                self.report(Diagnostic::at(&place, message).label("a choice from before"));
            }
        }
        (values.len() == count).then_some(Domain::Choices(values))
    }

    fn range(&mut self, node: &Node, place: &Location) -> Option<(Domain, Option<Location>)> {
        let mut parts = RangeParts::default();
        let table = self.section(&RANGE, node, place, &mut parts)?;
        let RangeParts { min, max, steps, kind, log } = parts;
        let steps_place = table.get("steps").map(|(_, place)| place);
        let bad = matches!(kind, Field::Bad) || matches!(log, Field::Bad) || matches!(steps, Field::Bad);
        let log = log.or_default(false);
        let domain = match kind.or_default(RangeType::Float) {
            RangeType::Int => self.int_range(&table, (min, max), &steps, log),
            RangeType::Float => self.float_range(&table, (min, max), &steps, log),
        }?;
        (!bad).then_some((domain, steps_place))
    }

    fn end<T>(
        &mut self,
        end: Option<(Node, Location)>,
        read: impl FnOnce(&mut Self, &Node, &Location) -> Option<T>,
    ) -> Field<T> {
        let mut field = Field::Absent;
        if let Some((node, place)) = end {
            field.put(read(self, &node, &place), &place);
        }
        field
    }

    fn steps(&mut self, node: &Node, place: &Location) -> Option<u64> {
        let steps = self.count(node, place, 0)?;
        if steps >= 2 {
            return Some(steps);
        }
        let mistake = Diagnostic::at(place, "a range needs at least 2 steps").label("expected 2 or more");
        self.report(mistake.help("steps count both ends; one value belongs in `[params]`"));
        None
    }

    fn float_range(
        &mut self,
        table: &Table<'_>,
        (min, max): Ends,
        steps: &Field<u64>,
        log: bool,
    ) -> Option<Domain> {
        let min = self.end(min, |c, n, p| c.exact_float(n, p));
        let max = self.end(max, |c, n, p| c.exact_float(n, p));
        let positive = self.log_minimum(&min, log, |min| *min > 0.0);
        let (min, max) = (*min.good()?, *max.good()?);
        if !self.ordered(table, min < max, min == max) || !positive {
            return None;
        }
        let steps_place = steps.place();
        let steps = steps.good().copied();
        if let (Some(steps), Some(place)) = (steps, steps_place)
            && !points_distinct(min, max, steps, log)
        {
            let message = "more steps than the range has distinct values";
            self.report(Diagnostic::at(place, message).label("too many for so narrow a range"));
            return None;
        }
        Some(Domain::Float { min, max, steps, log })
    }

    fn int_range(&mut self, table: &Table<'_>, (min, max): Ends, steps: &Field<u64>, log: bool) -> Option<Domain> {
        let all = i128::from(i64::MIN)..=i128::from(i64::MAX);
        let min = self.end(min, |c, n, p| c.integer(n, p, all.clone()));
        let max = self.end(max, |c, n, p| c.integer(n, p, all));
        let positive = self.log_minimum(&min, log, |min| *min > 0);
        let (min, max) = (*min.good()?, *max.good()?);
        if !self.ordered(table, min <= max, false) || !positive {
            return None;
        }
        let integers = max - min + 1;
        if let Field::Good(steps, place) = steps
            && i128::from(*steps) > integers
        {
            let message = format!("{steps} steps, but the range has only {integers} integers");
            self.report(Diagnostic::at(place, message).label(format!("expected at most {integers}")));
            return None;
        }
        let (min, max) = (i64::try_from(min).ok()?, i64::try_from(max).ok()?);
        Some(Domain::Int { min, max, steps: steps.good().copied(), log })
    }

    fn log_minimum<T>(&mut self, min: &Field<T>, log: bool, positive: impl Fn(&T) -> bool) -> bool {
        match min {
            Field::Good(value, place) if log && !positive(value) => {
                let mistake = Diagnostic::at(place, "a log range needs a `min` above 0");
                self.report(mistake.label("expected more than 0"));
                false
            }
            _ => true,
        }
    }

    fn ordered(&mut self, table: &Table<'_>, good: bool, equal: bool) -> bool {
        if good {
            return true;
        }
        let place = table.get("max").map_or_else(|| table.place.clone(), |(_, place)| place);
        let mistake = if equal {
            let help = "a single value belongs in `[params]`, or in a list of choices";
            Diagnostic::at(&place, "`min` and `max` are equal").label("expected more than `min`").help(help)
        } else {
            Diagnostic::at(&place, "`max` is below `min`").label("expected more than `min`")
        };
        self.report(mistake);
        false
    }
}

/// Equal for values that are the same choice: `1` and `1.0` are.
pub(in crate::study_file) fn identity(value: &Value) -> (u8, String) {
    match value {
        Value::Str(text) => (0, text.clone()),
        Value::Bool(flag) => (1, flag.to_string()),
        Value::Int(number) => (2, number.to_string()),
        // Adding 0 makes -0.0 the 0.0 it equals.
        Value::Float(number) => (2, (number + 0.0).to_string()),
    }
}

/// Whether neighbouring points are far enough apart to stay distinct after rounding.
#[expect(clippy::cast_precision_loss, reason = "only the magnitude matters")]
fn points_distinct(min: f64, max: f64, steps: u64, log: bool) -> bool {
    const ROUNDINGS: f64 = 64.0;
    let gaps = steps.saturating_sub(1).max(1) as f64;
    if log {
        let (low, high) = (libm::log(min), libm::log(max));
        (high - low) / gaps > ROUNDINGS * f64::EPSILON * (1.0 + low.abs().max(high.abs()))
    } else {
        let gap = max / gaps - min / gaps;
        gap > ROUNDINGS * f64::EPSILON * min.abs().max(max.abs())
    }
}
