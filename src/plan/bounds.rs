//! Bounds of metrics: what `abort_if` and `[[stage.require]]` say of a result, in words.
//!
//! The bound itself is on the good side of both.

use crate::model::{Metric, Metrics, float_text};
use crate::study_file::{Bound, MetricBound};

/// How a succeeded trial's metrics lie beyond a bound, in words; `None` if they do not. The bound itself is
/// still good, and a metric that is not there breaks nothing.
#[must_use]
pub(super) fn violation(rule: &MetricBound, metrics: &Metrics) -> Option<String> {
    let value = metrics.get(&rule.metric).and_then(Metric::number)?;
    let (broken, side, bound) = match rule.bound {
        Bound::Below(bound) => (value < bound, "below", bound),
        Bound::Above(bound) => (value > bound, "above", bound),
    };
    broken.then(|| format!("`{}` {} is {side} {}", rule.metric, float_text(value), float_text(bound)))
}

/// What of what is required these metrics do not meet, in words. The bound itself meets it.
#[must_use]
pub(crate) fn unmet(require: &[MetricBound], metrics: &Metrics) -> Option<String> {
    let is_there = |rule: &MetricBound| metrics.get(&rule.metric).and_then(Metric::number).is_some();
    require.iter().find_map(|rule| match is_there(rule) {
        true => violation(rule, metrics),
        false => Some(format!("`{}` is no number", rule.metric)),
    })
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
        let violation = |metric: &str, bound| violation(&MetricBound { metric: metric.into(), bound }, &metrics);
        assert_eq!(violation("wns", Bound::Below(-5_000.0)).as_deref(), Some("`wns` -5000.5 is below -5000.0"));
        assert_eq!(violation("wns", Bound::Above(-1e4)).as_deref(), Some("`wns` -5000.5 is above -10000.0"));
        assert_eq!(violation("wns", Bound::Above(-1e300)).as_deref(), Some("`wns` -5000.5 is above -1e300"));
        for bound in [Bound::Below(-5_000.5), Bound::Above(-5_000.5), Bound::Above(0.0)] {
            assert_eq!(violation("wns", bound), None, "{bound:?}");
        }
        for metric in ["label", "none"] {
            assert_eq!(violation(metric, Bound::Below(1e300)), None, "{metric}");
        }
    }
}
