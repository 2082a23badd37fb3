//! Scales: from values to places on a line, with ticks people read.
//!
//! Pure arithmetic on finite numbers; whatever the values, a place is within 0 and 1.

use crate::model::Value;
use crate::views::text::short_number;

/// How values lie on a line.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Axis {
    /// Evenly.
    Linear { min: f64, max: f64 },
    /// By their logarithm; all above zero.
    Log { min: f64, max: f64 },
    /// One place a word, in this order.
    Words(Vec<String>),
}

/// Most words an axis keeps apart.
const WORDS_MAX: usize = 24;

impl Axis {
    /// For numbers; `None` without any.
    pub(super) fn of_numbers(numbers: impl Iterator<Item = f64>) -> Option<Self> {
        let (mut min, mut max) = (f64::INFINITY, f64::NEG_INFINITY);
        for number in numbers.filter(|number| number.is_finite()) {
            (min, max) = (min.min(number), max.max(number));
        }
        if min > max {
            return None;
        }
        if min > 0.0 && max / min >= 1e3 {
            return Some(Self::Log { min, max });
        }
        let margin = match max - min {
            0.0 => max.abs().max(1.0) * 0.05,
            range => range * 0.04,
        };
        Some(Self::Linear { min: min - margin, max: max + margin })
    }

    /// For a param's values: a scale if all are numbers, else words.
    pub(super) fn of_values<'v>(values: impl Iterator<Item = &'v Value> + Clone) -> Option<Self> {
        // A cell that is empty says nothing of what the others are.
        let values = values.filter(|value| !matches!(value, Value::Str(text) if text.trim().is_empty()));
        if values.clone().all(|value| number_of(value).is_some()) {
            return Self::of_numbers(values.filter_map(number_of));
        }
        let mut words: Vec<String> = Vec::new();
        for value in values {
            let word = value.to_string();
            if !words.contains(&word) && words.len() < WORDS_MAX {
                words.push(word);
            }
        }
        words.sort();
        (!words.is_empty()).then_some(Self::Words(words))
    }

    /// Where a number lies, from 0 to 1.
    pub(super) fn place(&self, number: f64) -> f64 {
        let share = match self {
            Self::Linear { min, max } => (number - min) / (max - min),
            Self::Log { min, max } => (number.max(f64::MIN_POSITIVE) / min).ln() / (max / min).ln(),
            Self::Words(_) => 0.5,
        };
        if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.5 }
    }

    /// Where a param's value lies; `None` for a word beyond those kept.
    #[expect(clippy::cast_precision_loss, reason = "a few words")]
    pub(super) fn place_of(&self, value: &Value) -> Option<f64> {
        match self {
            Self::Words(words) => {
                let word = value.to_string();
                let position = words.iter().position(|known| *known == word)?;
                Some((position as f64 + 0.5) / words.len() as f64)
            }
            _ => Some(self.place(number_of(value)?)),
        }
    }

    /// Places and their labels.
    pub(super) fn ticks(&self) -> Vec<(f64, String)> {
        match self {
            Self::Linear { min, max } => {
                linear_ticks(*min, *max).into_iter().map(|at| (self.place(at), short_number(at))).collect()
            }
            Self::Log { min, max } => {
                let decades = (min.log10().ceil() as i32)..=(max.log10().floor() as i32);
                let step = decades.clone().count().div_ceil(6).max(1);
                let powers = decades.step_by(step).map(|power| 10_f64.powi(power));
                powers.map(|at| (self.place(at), short_number(at))).collect()
            }
            #[expect(clippy::cast_precision_loss, reason = "a few words")]
            Self::Words(words) => {
                let place = |position: usize| (position as f64 + 0.5) / words.len() as f64;
                words.iter().enumerate().map(|(position, word)| (place(position), word.clone())).collect()
            }
        }
    }
}

/// A param's value as a number, if it is one.
#[expect(clippy::cast_precision_loss, reason = "places need no more")]
pub(super) fn number_of(value: &Value) -> Option<f64> {
    match value {
        Value::Int(number) => Some(*number as f64),
        Value::Float(number) => Some(*number),
        Value::Str(_) | Value::Bool(_) => None,
    }
}

/// Round numbers between two bounds, about five of them (1, 2 or 5 times a power of ten apart).
fn linear_ticks(min: f64, max: f64) -> Vec<f64> {
    let rough = (max - min) / 5.0;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|times| times * power).find(|step| *step >= rough);
    let Some(step) = step.filter(|step| step.is_finite() && *step > 0.0) else { return vec![min] };
    let first = (min / step).ceil();
    let ticks = (0..12).map(|n| (first + f64::from(n)) * step).take_while(|at| *at <= max);
    // -0, and the last digits of 0.30000000000000004.
    ticks.map(|at| if at.abs() < step * 1e-9 { 0.0 } else { at }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<String> {
        axis.ticks().into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn ticks_are_round_numbers() {
        let axis = Axis::of_numbers([0.0, 10.0].into_iter()).unwrap();
        assert_eq!(labels(&axis), ["0", "5", "10"]);
        assert_eq!(labels(&Axis::Linear { min: -0.35, max: 0.35 }), ["-0.2", "0", "0.2"]);
        assert_eq!(labels(&Axis::Linear { min: 0.1, max: 0.5 }), ["0.1", "0.2", "0.3", "0.4", "0.5"]);
        let log = Axis::of_numbers([1e-5, 1.0].into_iter()).unwrap();
        assert_eq!(labels(&log), ["0.00001", "0.0001", "0.001", "0.01", "0.1", "1"]);
        assert!((log.place(1e-5), log.place(1.0)) == (0.0, 1.0) && (log.place(1e-3) - 0.4).abs() < 1e-9);
    }

    #[test]
    fn whatever_the_values_a_place_is_on_the_line() {
        assert_eq!(Axis::of_numbers([f64::NAN, f64::INFINITY].into_iter()), None);
        for numbers in
            [vec![5.0], vec![0.0], vec![f64::MAX, -f64::MAX], vec![f64::MIN_POSITIVE, f64::MAX], vec![-1.0, 1e300]]
        {
            let axis = Axis::of_numbers(numbers.iter().copied()).unwrap();
            for number in numbers.iter().copied().chain([0.0, -1.0, f64::NAN, f64::INFINITY]) {
                let place = axis.place(number);
                assert!((0.0..=1.0).contains(&place), "{numbers:?} {number} {place}");
            }
            assert!(axis.ticks().len() <= 13, "{numbers:?}");
        }
    }

    #[test]
    fn an_empty_cell_makes_no_words_of_numbers() {
        let cells = ["", "1.5", "  "].map(|text| match text.parse() {
            Ok(number) => Value::Float(number),
            Err(_) => Value::Str(text.into()),
        });
        let axis = Axis::of_values(cells.iter()).unwrap();
        assert!(matches!(axis, Axis::Linear { .. }), "{axis:?}");
        assert_eq!(cells.each_ref().map(|cell| axis.place_of(cell).is_some()), [false, true, false]);
        assert_eq!(Axis::of_values([Value::Str(String::new())].iter()), None);
    }

    #[test]
    fn words_have_places_of_their_own() {
        let values = [Value::Str("b".into()), Value::Int(1), Value::Str("a".into()), Value::Str("b".into())];
        let axis = Axis::of_values(values.iter()).unwrap();
        assert_eq!(labels(&axis), ["1", "a", "b"]);
        assert_eq!(axis.place_of(&Value::Str("a".into())), Some(0.5));
        assert_eq!(axis.place_of(&Value::Str("zzz".into())), None);
    }
}
