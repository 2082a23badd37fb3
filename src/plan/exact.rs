//! Sums of fractions, compared without rounding.
//!
//! Selection adds up parts of spans: `Σ weight · difference / span`. In floats two sums of the same worth may differ in
//! their last place, and the order of the cases would hang on it. So every number is taken for the decimal it is written as
//! (the shortest that reads back as the same float), and sums over common denominators are compared as whole
//! numbers. Nothing here may round before it compares.

use num_bigint::BigInt;

/// A finite float as `digits * 10^exponent`.
struct Decimal {
    digits: BigInt,
    exponent: i32,
}

impl Decimal {
    /// Rust prints the shortest digits that read back as the same float. What is not finite counts as 0.
    fn of(value: f64) -> Self {
        let text = format!("{value:e}");
        let (number, exponent) = text.split_once('e').unwrap_or(("0", "0"));
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits: BigInt = format!("{whole}{fraction}").parse().unwrap_or_default();
        let places = i32::try_from(fraction.len()).unwrap_or(0);
        Self { digits, exponent: exponent.parse::<i32>().unwrap_or(0) - places }
    }

    /// In units of `10^exponent`, which must not be above its own.
    fn in_units_of(self, exponent: i32) -> BigInt {
        self.digits * ten_to(self.exponent.saturating_sub(exponent))
    }
}

fn ten_to(exponent: i32) -> BigInt {
    BigInt::from(10).pow(u32::try_from(exponent).unwrap_or(0))
}

/// Floats as whole multiples of one power of ten, `10^exponent`.
pub(super) struct Column {
    pub values: Vec<BigInt>,
    exponent: i32,
}

impl Column {
    pub(super) fn of(values: impl Iterator<Item = f64>) -> Self {
        let decimals: Vec<Decimal> = values.map(Decimal::of).collect();
        let exponent = decimals.iter().map(|decimal| decimal.exponent).min().unwrap_or(0);
        Self { values: decimals.into_iter().map(|decimal| decimal.in_units_of(exponent)).collect(), exponent }
    }
}

/// What turns `Σ weight · difference / span` into a whole number: `Σ factor · difference`, divided by `whole`.
pub(super) struct Scale {
    factors: Vec<BigInt>,
    whole: BigInt,
}

impl Scale {
    /// For sums of one difference for each span; differences and spans of a column are in the same unit. A span of 0 adds
    /// nothing. Weights are not negative.
    pub(super) fn new(weights: impl Iterator<Item = f64>, spans: &[BigInt]) -> Self {
        let weights = Column::of(weights);
        let counts = |span: &BigInt| *span > BigInt::ZERO;
        let mut whole: BigInt = spans.iter().filter(|span| counts(span)).product();
        let factor = |(weight, span): (&BigInt, &BigInt)| match counts(span) {
            true => weight * (&whole / span) * ten_to(weights.exponent.max(0)),
            false => BigInt::ZERO,
        };
        let factors = weights.values.iter().zip(spans).map(factor).collect();
        whole *= ten_to(weights.exponent.saturating_neg().max(0));
        Self { factors, whole }
    }

    /// The sum of these differences, in order; comparable with others of the same scale.
    pub(super) fn sum(&self, differences: impl Iterator<Item = BigInt>) -> BigInt {
        self.factors.iter().zip(differences).map(|(factor, difference)| factor * difference).sum()
    }

    /// A sum as a number for people, equal for equal sums; right to the last place for sums below 2^63.
    #[expect(clippy::cast_precision_loss, reason = "rounded once, for people")]
    pub(super) fn shown(&self, sum: &BigInt) -> f64 {
        let fixed = (sum << 64_u32) / &self.whole;
        u128::try_from(fixed).map_or(f64::MAX, |fixed| fixed as f64 / 2_f64.powi(64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_the_decimals_they_are_written_as() {
        for (value, digits, exponent) in
            [(0.1, 1, -1), (-2.5e20, -25, 19), (0.0, 0, 0), (1e-300, 1, -300), (12.0, 12, 0), (5e-324, 5, -324)]
        {
            let decimal = Decimal::of(value);
            // `12` may be said as 12 * 10^0 or 1.2 * 10^1: what counts is the product.
            let shift = exponent.min(decimal.exponent);
            let said = Decimal { digits: digits.into(), exponent };
            assert_eq!(decimal.in_units_of(shift), said.in_units_of(shift), "{value}");
        }
        let column = Column::of([0.3, 20.0, -0.07].into_iter());
        assert_eq!(column.values, [30, 2_000, -7].map(BigInt::from));
    }

    #[test]
    fn sums_of_the_same_worth_are_equal() {
        let spans = [10, 0, 7].map(BigInt::from);
        let scale = Scale::new([0.3, 0.2, 0.7].into_iter(), &spans);
        let sum = |differences: [i32; 3]| scale.sum(differences.into_iter().map(BigInt::from));
        // 0.3 * 7 / 10 = 0.21 = 0.7 * 2.1 / 7: of whole differences, 0.3 * 10 / 10 = 0.7 * 3 / 7.
        assert_eq!(sum([10, 99, 0]), sum([0, -5, 3]));
        assert!(sum([9, 0, 0]) < sum([0, 0, 3]));
        assert_eq!((scale.shown(&sum([10, 0, 0])), scale.shown(&sum([0, 0, 7]))), (0.3, 0.7));
        assert_eq!(scale.shown(&BigInt::ZERO), 0.0);
    }
}
