//! How far a metric may move, and which way is worse. Pure; it never looks at a study.

use std::collections::{BTreeMap, BTreeSet};

use super::Between;
use crate::study_file::Goal;

/// How far a metric may move for the worse. The larger of the two counts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tolerance {
    /// In the metric's own unit, at least 0.
    pub absolute: f64,
    /// As a fraction of the baseline's size, at least 0: 0.02 is 2 %.
    pub relative: f64,
}

impl Tolerance {
    /// Reads `5`, `0.25` or `2%`.
    ///
    /// # Errors
    /// In words, when it is none of these, negative, or not finite.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || "expected a tolerance such as `5` or `2%`".to_owned();
        let (number, percent) = match text.strip_suffix('%') {
            Some(number) => (number, true),
            None => (text, false),
        };
        let number: f64 = number.trim().parse().map_err(|_| wrong())?;
        if !number.is_finite() || number.is_sign_negative() {
            return Err(wrong());
        }
        Ok(match percent {
            true => Self { absolute: 0.0, relative: number / 100.0 },
            false => Self { absolute: number, relative: 0.0 },
        })
    }

    /// Both: the more generous of each kind.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { absolute: self.absolute.max(other.absolute), relative: self.relative.max(other.relative) }
    }

    /// How far a metric may move from `baseline`.
    #[must_use]
    pub fn allowed(self, baseline: f64) -> f64 {
        self.absolute.max(self.relative * baseline.abs())
    }
}

/// What is compared and how strictly.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Limits {
    /// By metric; a metric without one may not move at all.
    pub tolerances: BTreeMap<String, Tolerance>,
    /// Which way is better; a metric without one may move neither way.
    pub directions: BTreeMap<String, Goal>,
    /// Only these metrics; empty: all.
    pub only: BTreeSet<String>,
    /// Whether cases and metrics that cannot be compared pass.
    pub allow_missing: bool,
    /// Whether cases are found by their params instead of their names.
    pub match_params: bool,
    /// The two values of a param whose trials are compared, instead of a baseline's with all.
    pub between: Option<Between>,
    /// Whether what is inconclusive fails.
    pub undecided_fails: bool,
}

/// How a number compares with the baseline's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Moved {
    /// Not at all, or not further than allowed.
    Within,
    /// Further than allowed, for the better.
    Better,
    /// Further than allowed, for the worse.
    Worse,
    /// Further than allowed, and nobody said which way is better.
    Changed,
}

impl Limits {
    /// Names of metrics that somebody wrote, each once.
    pub fn named(&self) -> impl Iterator<Item = &str> {
        let all: BTreeSet<&String> =
            self.tolerances.keys().chain(self.directions.keys()).chain(&self.only).collect();
        all.into_iter().map(String::as_str)
    }

    /// Whether a metric is compared.
    #[must_use]
    pub fn includes(&self, metric: &str) -> bool {
        self.only.is_empty() || self.only.contains(metric)
    }

    /// How far a metric may move from `baseline`.
    #[must_use]
    pub fn allowed(&self, metric: &str, baseline: f64) -> f64 {
        self.tolerances.get(metric).copied().unwrap_or_default().allowed(baseline)
    }

    /// Judges one number. Both are finite.
    #[must_use]
    pub fn judge(&self, metric: &str, baseline: f64, now: f64) -> Moved {
        let (delta, allowed) = (now - baseline, self.allowed(metric, baseline));
        // `1.1 - 1.0` is a little more than 0.1: what is exactly at a limit people write in decimals is within it.
        let slack = if allowed > 0.0 { 4.0 * f64::EPSILON * baseline.abs().max(now.abs()) } else { 0.0 };
        if delta.abs() <= allowed + slack {
            return Moved::Within;
        }
        match self.directions.get(metric) {
            None => Moved::Changed,
            Some(Goal::Maximize) if delta > 0.0 => Moved::Better,
            Some(Goal::Minimize) if delta < 0.0 => Moved::Better,
            Some(_) => Moved::Worse,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(tolerances: &[(&str, &str)], directions: &[(&str, Goal)]) -> Limits {
        let tolerance = |text: &str| Tolerance::parse(text).unwrap();
        Limits {
            tolerances: tolerances.iter().map(|(name, text)| ((*name).to_owned(), tolerance(text))).collect(),
            directions: directions.iter().map(|(name, goal)| ((*name).to_owned(), *goal)).collect(),
            ..Limits::default()
        }
    }

    #[test]
    fn tolerances_are_absolute_or_relative() {
        assert_eq!(Tolerance::parse("5"), Ok(Tolerance { absolute: 5.0, relative: 0.0 }));
        assert_eq!(Tolerance::parse("50%"), Ok(Tolerance { absolute: 0.0, relative: 0.5 }));
        assert_eq!(Tolerance::parse("0"), Ok(Tolerance::default()));
        for bad in ["", "%", "-1", "-0", "nan", "inf", "1e999", "5 ps", "2%%", "-2%"] {
            assert!(Tolerance::parse(bad).is_err(), "{bad}");
        }
        let both = Tolerance::parse("3").unwrap().and(Tolerance::parse("10%").unwrap());
        assert_eq!([0.0, 10.0, 100.0, -100.0].map(|baseline| both.allowed(baseline)), [3.0, 3.0, 10.0, 10.0]);
    }

    #[test]
    fn only_the_wrong_way_is_worse() {
        let limits = limits(&[("t", "10%"), ("w", "5")], &[("t", Goal::Minimize), ("w", Goal::Maximize)]);
        let judge = |metric, baseline, now| limits.judge(metric, baseline, now);
        assert_eq!(judge("t", 100.0, 110.0), Moved::Within);
        assert_eq!(judge("t", 100.0, 110.001), Moved::Worse);
        assert_eq!(judge("t", 100.0, 89.0), Moved::Better);
        assert_eq!(judge("w", -20.0, -25.0), Moved::Within);
        assert_eq!(judge("w", -20.0, -25.5), Moved::Worse);
        assert_eq!(judge("w", -20.0, 3.0), Moved::Better);
        // Nobody said which way is better, nor how far it may go.
        assert_eq!(judge("n", 7.0, 7.0), Moved::Within);
        assert_eq!(judge("n", 7.0, 6.0), Moved::Changed);
        assert_eq!(judge("n", 7.0, 8.0), Moved::Changed);
        // A share of nothing is nothing.
        assert_eq!(judge("t", 0.0, 0.001), Moved::Worse);
    }

    #[test]
    fn the_limit_itself_is_within_however_floats_round() {
        let limits = limits(&[("t", "0.1")], &[("t", Goal::Minimize)]);
        let limit = 1.1_f64 - 1.0;
        assert!(limit > 0.1, "the test tests something");
        assert_eq!(limits.judge("t", 1.0, 1.1), Moved::Within);
        assert_eq!(limits.judge("t", 1.0, 1.100_000_1), Moved::Worse);
        // Without a tolerance the last bit counts.
        let next = f64::from_bits(1.0_f64.to_bits() + 1);
        assert_eq!(limits.judge("u", 1.0, next), Moved::Changed);
        assert_eq!(limits.judge("t", f64::MAX, -f64::MAX), Moved::Better);
    }
}
