//! Grids: the combination with a given number.
//!
//! Combinations are counted like an odometer: the first key of the sweep turns slowest. A range has both its ends
//! exactly. Between them people expect decimals: five steps from 0.4 to 0.8 are 0.4, 0.5, 0.6, 0.7 and 0.8, never
//! 0.6000000000000001. So each point is also rounded to 12 significant digits (of the range's larger end on a linear
//! scale, of the point itself on a log scale), and the rounded one is taken if it is within the error the computation has
//! anyway: 4 units in the last place of that scale, on a log scale 4 (2 + |ln|) of them. Logarithms come from
//! `libm`, never from the platform.

use crate::model::Value;
use crate::study_file::{Domain, SweepParam};

/// How many combinations the sweep has; `None` where a range of floats without steps has no number of points, or
/// 64 bits cannot count them.
pub(super) fn combinations(sweep: &[SweepParam]) -> Option<u64> {
    let exact = |domain: &Domain| match domain {
        Domain::Float { steps: None, .. } => None,
        Domain::Int { min, max, steps: None, .. } => Some(u128::from(max.abs_diff(*min)) + 1),
        other => Some(u128::from(points(other))),
    };
    let product = sweep.iter().try_fold(1_u128, |product, swept| product.checked_mul(exact(&swept.domain)?));
    product.and_then(|product| u64::try_from(product).ok())
}

/// The positions of a combination's values in their domains, in the sweep's order.
pub(super) fn positions(sweep: &[SweepParam], combination: u64) -> Option<Vec<u64>> {
    let mut left = combination;
    let mut positions = Vec::with_capacity(sweep.len());
    for swept in sweep.iter().rev() {
        let count = points(&swept.domain);
        positions.push(left.checked_rem(count)?);
        left /= count;
    }
    positions.reverse();
    (left == 0).then_some(positions)
}

/// The leading keys that stay at their first value in the first `count` combinations, though they have others.
pub(super) fn unvaried(sweep: &[SweepParam], count: u64) -> Vec<&str> {
    let last = count.checked_sub(1).and_then(|last| positions(sweep, last)).unwrap_or_default();
    let leading = sweep.iter().zip(last).take_while(|(_, position)| *position == 0).map(|(swept, _)| swept);
    leading.filter(|swept| points(&swept.domain) > 1).map(|swept| swept.name.as_str()).collect()
}

/// How many points one domain has, at most `u64::MAX`.
fn points(domain: &Domain) -> u64 {
    match domain {
        Domain::Choices(values) => u64::try_from(values.len()).unwrap_or(u64::MAX),
        Domain::Float { steps, .. } => steps.unwrap_or(1),
        Domain::Int { steps: Some(steps), .. } => *steps,
        Domain::Int { min, max, steps: None, .. } => max.abs_diff(*min).saturating_add(1),
    }
}

/// The values of a combination, in the sweep's order; `None` beyond the last one.
pub(super) fn values(sweep: &[SweepParam], combination: u64) -> Option<Vec<(String, Value)>> {
    let positions = positions(sweep, combination)?;
    let value =
        |(swept, position): (&SweepParam, u64)| Some((swept.name.clone(), point(&swept.domain, position)?));
    sweep.iter().zip(positions).map(value).collect()
}

pub(super) fn point(domain: &Domain, position: u64) -> Option<Value> {
    Some(match domain {
        Domain::Choices(values) => values.get(usize::try_from(position).ok()?)?.0.clone(),
        Domain::Float { min, max, steps, log } => {
            let last = steps.unwrap_or(1).saturating_sub(1);
            Value::Float(match (position, log) {
                (0, _) => *min,
                _ if position >= last => *max,
                (_, false) => linear(*min, *max, position, last),
                (_, true) => logarithmic(*min, *max, position, last),
            })
        }
        // Every integer is there, whatever the scale.
        Domain::Int { min, steps: None, .. } => Value::Int(min.checked_add_unsigned(position)?),
        Domain::Int { min, max, steps: Some(steps), log } => {
            let last = steps.saturating_sub(1);
            Value::Int(match (position, log) {
                (0, _) => *min,
                _ if position >= last => *max,
                (_, false) => linear_int(*min, *max, position, last)?,
                (_, true) => logarithmic_int(*min, *max, position, last)?,
            })
        }
    })
}

/// Between `min` and `max`, weighted so that no intermediate value overflows.
#[expect(clippy::cast_precision_loss, reason = "positions beyond 2^53 need no exact weight")]
fn linear(min: f64, max: f64, position: u64, last: u64) -> f64 {
    let (up, down) = (position as f64 / last as f64, (last - position) as f64 / last as f64);
    let exact = min * down + max * up;
    let scale = min.abs().max(max.abs());
    let decimals = 11 - decimal_exponent(scale);
    let rounded = usize::try_from(decimals).ok().and_then(|decimals| format!("{exact:.decimals$}").parse().ok());
    nearer(exact, rounded, 4.0 * f64::EPSILON * scale).clamp(min, max)
}

#[expect(clippy::cast_precision_loss, reason = "positions beyond 2^53 need no exact weight")]
fn logarithmic(min: f64, max: f64, position: u64, last: u64) -> f64 {
    let (low, high) = (libm::log(min), libm::log(max));
    let (up, down) = (position as f64 / last as f64, (last - position) as f64 / last as f64);
    let exact = libm::exp(low * down + high * up);
    let rounded = format!("{exact:.11e}").parse().ok();
    let error = 4.0 * f64::EPSILON * (2.0 + low.abs().max(high.abs())) * exact;
    nearer(exact, rounded, error).clamp(min, max)
}

/// The rounded value if it is as good as the exact one; never minus zero.
fn nearer(exact: f64, rounded: Option<f64>, error: f64) -> f64 {
    match rounded {
        Some(rounded) if (rounded - exact).abs() <= error => rounded + 0.0,
        _ => exact,
    }
}

/// The power of ten a positive float is at least, out of its decimal text: exact, unlike a logarithm.
fn decimal_exponent(number: f64) -> i32 {
    let text = format!("{number:e}");
    text.split_once('e').and_then(|(_, exponent)| exponent.parse().ok()).unwrap_or(0)
}

/// `min + round(position / last * (max - min))` in whole numbers, halves up. Points are distinct because there are no
/// more steps than integers, so neighbours are at least 1 apart before rounding.
fn linear_int(min: i64, max: i64, position: u64, last: u64) -> Option<i64> {
    let (span, position, last) = (u128::from(max.abs_diff(min)), u128::from(position), u128::from(last));
    // Both factors are below 2^64; only their doubled product may not fit, so double nothing.
    let (whole, rest) = (span * position / last, span * position % last);
    let offset = whole + u128::from(rest >= last - rest);
    min.checked_add_unsigned(u64::try_from(offset).ok()?)
}

/// The rounded point of the log scale, pushed up where several of them round to one: the curve is convex, so such
/// points are at its low end and counting up from `min` is the least that keeps them distinct.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "rounded, then kept in the range"
)]
fn logarithmic_int(min: i64, max: i64, position: u64, last: u64) -> Option<i64> {
    let rounded = logarithmic(min as f64, max as f64, position, last).round() as i64;
    let least = min.checked_add_unsigned(position)?;
    let most = max.checked_sub_unsigned(last - position)?;
    Some(rounded.clamp(least, most.max(least)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_cut_grid_never_turns_is_known() {
        let swept = |name: &str, last| SweepParam {
            name: name.into(),
            domain: Domain::Int { min: 1, max: last, steps: None, log: false },
        };
        let sweep = [swept("a", 3), swept("only", 1), swept("b", 4), swept("c", 5)];
        assert_eq!(unvaried(&sweep, 1), ["a", "b", "c"]);
        assert_eq!(unvaried(&sweep, 5), ["a", "b"]);
        assert_eq!(unvaried(&sweep, 6), ["a"]);
        assert_eq!(unvaried(&sweep, 20), ["a"]);
        assert_eq!(unvaried(&sweep, 60), Vec::<&str>::new());
        assert_eq!((unvaried(&sweep, 0), unvaried(&[], 1)), (vec![], vec![]));
    }

    fn float(min: f64, max: f64, steps: u64, log: bool) -> Vec<f64> {
        let domain = Domain::Float { min, max, steps: Some(steps), log };
        let number = |position| match point(&domain, position) {
            Some(Value::Float(number)) => number,
            other => panic!("{other:?}"),
        };
        (0..steps).map(number).collect()
    }

    fn int(min: i64, max: i64, steps: Option<u64>, log: bool) -> Vec<i64> {
        let domain = Domain::Int { min, max, steps, log };
        let number = |position| match point(&domain, position) {
            Some(Value::Int(number)) => number,
            other => panic!("{other:?}"),
        };
        (0..points(&domain)).map(number).collect()
    }

    #[test]
    fn decimal_ranges_have_decimal_points() {
        assert_eq!(float(0.4, 0.8, 5, false), [0.4, 0.5, 0.6, 0.7, 0.8]);
        assert_eq!(float(-1.0, 1.0, 5, false), [-1.0, -0.5, 0.0, 0.5, 1.0]);
        assert_eq!(float(-0.3, 0.3, 7, false), [-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3]);
        assert!(float(-0.3, 0.3, 7, false)[3].is_sign_positive());
        assert_eq!(float(0.0, 1e-9, 11, false)[3], 3e-10);
        assert_eq!(float(0.0, 1.0, 4, false)[1], 1.0 / 3.0);
        assert_eq!(float(1e-5, 1e-1, 5, true), [1e-5, 1e-4, 1e-3, 1e-2, 1e-1]);
        assert_eq!(float(1.0, 1024.0, 11, true)[1..4], [2.0, 4.0, 8.0]);
        let hundred: Vec<f64> = (0..=100).map(|n| format!("0.{n:02}").parse().unwrap()).collect();
        assert_eq!(float(0.0, 1.0, 101, false)[..100], hundred[..100]);
    }

    #[test]
    fn extreme_ranges_stay_finite_and_in_order() {
        for (min, max, log) in [
            (-f64::MAX, f64::MAX, false),
            (5e-324, f64::MAX, true),
            (1e308, f64::MAX, false),
            (-1e-300, 1e-300, false),
        ] {
            let points = float(min, max, 9, log);
            assert!(points.iter().all(|point| point.is_finite()), "{points:?}");
            assert!(points.windows(2).all(|pair| pair[0] < pair[1]), "{points:?}");
            assert_eq!((points[0], points[8]), (min, max));
        }
    }

    #[test]
    fn integer_ranges_are_rounded_and_distinct() {
        assert_eq!(int(1, 8, None, false), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(int(0, 10, Some(5), false), [0, 3, 5, 8, 10]);
        assert_eq!(int(1, 1000, Some(4), true), [1, 10, 100, 1000]);
        assert_eq!(int(1, 8, Some(8), true), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(int(1, 16, Some(6), true), [1, 2, 3, 5, 9, 16]);
        let widest = |position| linear_int(i64::MIN, i64::MAX, position, u64::MAX);
        assert_eq!(widest(0), Some(i64::MIN));
        assert_eq!(widest(1 << 63), Some(0));
    }

    #[test]
    fn the_first_key_turns_slowest() {
        let sweep = [
            SweepParam { name: "a".into(), domain: Domain::Choices(vec!["x".into(), "y".into()]) },
            SweepParam { name: "b".into(), domain: Domain::Int { min: 1, max: 3, steps: None, log: false } },
        ];
        assert_eq!(combinations(&sweep), Some(6));
        let all: Vec<String> = (0..6)
            .map(|n| values(&sweep, n).unwrap().iter().map(|(name, value)| format!("{name}{value}")).collect())
            .collect();
        assert_eq!(all, ["axb1", "axb2", "axb3", "ayb1", "ayb2", "ayb3"]);
        assert_eq!(values(&sweep, 6), None);
        assert_eq!(values(&[], 0), Some(Vec::new()));
        assert_eq!(values(&[], 1), None);
    }

    #[test]
    fn huge_grids_do_not_overflow() {
        let every = Domain::Int { min: i64::MIN, max: i64::MAX, steps: None, log: false };
        let sweep: Vec<SweepParam> =
            ["a", "b", "c"].map(|name| SweepParam { name: name.into(), domain: every.clone() }).to_vec();
        assert_eq!(combinations(&sweep), None);
        assert_eq!(combinations(&sweep[..1]), None, "2^64 are one too many");
        assert_eq!(combinations(&[]), Some(1));
        let values = values(&sweep, u64::MAX - 1).unwrap();
        assert_eq!(values[0].1, Value::Int(i64::MIN));
        assert_eq!(values[2].1, Value::Int(i64::MAX - 1));
    }

    proptest! {
        #[test]
        fn points_are_distinct_in_order_and_end_exactly(
            min in -1e6..1e6_f64, width in 1e-3..1e6_f64, steps in 2..200_u64, log: bool,
        ) {
            let min = if log { min.abs() + 1e-6 } else { min };
            let points = float(min, min + width, steps, log);
            prop_assert_eq!((points[0], *points.last().unwrap()), (min, min + width));
            prop_assert!(points.windows(2).all(|pair| pair[0] < pair[1]));
        }

        #[test]
        fn integers_are_distinct_in_order_and_end_exactly(
            min in 1..1_000_i64, width in 1..5_000_i64, steps in 2..300_u64, log: bool,
        ) {
            let steps = steps.min(width.unsigned_abs() + 1);
            let points = int(min, min + width, Some(steps), log);
            prop_assert_eq!((points[0], *points.last().unwrap()), (min, min + width));
            prop_assert!(points.windows(2).all(|pair| pair[0] < pair[1]), "{:?}", points);
        }
    }
}
