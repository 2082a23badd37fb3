//! When a rail is broken: pure questions the engine asks after each trial.

use crate::model::{Metric, Metrics};
use crate::spec::{AbortRule, Bound};

/// With fewer finished trials a failure rate says nothing yet.
pub const FAILURE_RATE_AFTER: u64 = 5;

/// How a succeeded trial's metrics break an `abort_if` rule, in words; `None` if they do not. The bound itself is
/// still good, and a metric that is not there breaks nothing.
#[must_use]
pub fn abort_violation(rule: &AbortRule, metrics: &Metrics) -> Option<String> {
    let value = metrics.get(&rule.metric).and_then(Metric::number)?;
    let (broken, side, bound) = match rule.bound {
        Bound::Below(bound) => (value < bound, "below", bound),
        Bound::Above(bound) => (value > bound, "above", bound),
    };
    broken.then(|| format!("`{}` {value} is {side} {bound}", rule.metric))
}

/// Whether more than `max`, a share in `(0, 1]`, of the `finished` trials have `failed`; never with fewer than
/// [`FAILURE_RATE_AFTER`] finished.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "no stage has 2^53 trials")]
pub fn failure_rate_exceeded(max: f64, failed: u64, finished: u64) -> bool {
    // Divided, not multiplied: 29 of 100 is exactly the 0.29 that people write, and 0.29 * 100 is less than 29.
    finished >= FAILURE_RATE_AFTER && failed as f64 / finished as f64 > max
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_crossed_or_not() {
        let metrics = Metrics::from([
            ("wns".to_owned(), Metric::Number(-5_000.5)),
            ("label".to_owned(), Metric::Label("x".into())),
        ]);
        let violation =
            |metric: &str, bound| abort_violation(&AbortRule { metric: metric.into(), bound }, &metrics);
        assert_eq!(violation("wns", Bound::Below(-5_000.0)).as_deref(), Some("`wns` -5000.5 is below -5000"));
        assert_eq!(violation("wns", Bound::Above(-1e4)).as_deref(), Some("`wns` -5000.5 is above -10000"));
        for bound in [Bound::Below(-5_000.5), Bound::Above(-5_000.5), Bound::Above(0.0)] {
            assert_eq!(violation("wns", bound), None, "{bound:?}");
        }
        for metric in ["label", "none"] {
            assert_eq!(violation(metric, Bound::Below(1e300)), None, "{metric}");
        }
    }

    #[test]
    fn a_failure_rate_is_exceeded_only_by_more_and_only_after_five() {
        for (max, failed, finished, exceeded) in [
            (0.5, 4, 4, false),
            (0.5, 2, 5, false),
            (0.5, 3, 5, true),
            (0.5, 3, 6, false),
            (1.0, 9, 9, false),
            (0.01, 0, 1_000, false),
            (0.01, 11, 1_000, true),
            (0.5, 0, 0, false),
        ] {
            assert_eq!(
                failure_rate_exceeded(max, failed, finished),
                exceeded,
                "{failed} of {finished} over {max}"
            );
        }
        // Every share of a hundred that a person may write is exceeded by one more failure, and not before.
        for failed in 1..100 {
            let written: f64 = format!("0.{failed:02}").parse().unwrap();
            assert!(!failure_rate_exceeded(written, failed, 100), "{failed}");
            assert!(failure_rate_exceeded(written, failed + 1, 100), "{failed}");
        }
    }
}
