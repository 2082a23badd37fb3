//! What a case comes to whose trials are replicas: one value of each metric out of those of all replicas.
//!
//! Pure, with `+ - * /` and the square root alone, in a fixed order, so that the bits are the same everywhere. A metric that a replica
//! does not have as a finite number is none of the case's: nothing here may make up a value, or leave out a replica.

use std::collections::BTreeMap;

use crate::model::{Metric, Metrics};
use crate::study_file::{Aggregate, Goal, StageSpec};

/// What the replicas of a case come to together.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Aggregated {
    /// The aggregates; of labels those that all replicas agree on.
    pub metrics: Metrics,
    /// Of each number the sample standard deviation over the replicas; none of a single one.
    pub spread: BTreeMap<String, f64>,
    /// How many replicas.
    pub n: u32,
}

/// What the results of a case's replicas, in the order of their numbers, come to.
#[must_use]
pub(crate) fn aggregated(stage: &StageSpec, replicas: &[&Metrics]) -> Aggregated {
    let mut whole = Aggregated { n: u32::try_from(replicas.len()).unwrap_or(u32::MAX), ..Aggregated::default() };
    let Some((first, others)) = replicas.split_first() else { return whole };
    for (name, metric) in *first {
        match metric {
            Metric::Label(_) if others.iter().all(|other| other.get(name) == Some(metric)) => {
                whole.metrics.insert(name.clone(), metric.clone());
            }
            Metric::Label(_) => {}
            Metric::Number(_) => {
                let finite = |metrics: &&Metrics| metrics.get(name)?.number().filter(|number| number.is_finite());
                let values: Option<Vec<f64>> = replicas.iter().map(finite).collect();
                let Some(values) = values else { continue };
                let goal = stage.objectives.iter().find(|objective| objective.metric == *name);
                let value = aggregate(stage.aggregate, goal.map(|objective| objective.goal), &values);
                whole.metrics.insert(name.clone(), Metric::Number(value));
                whole.spread.extend(spread(&values).map(|spread| (name.clone(), spread)));
            }
        }
    }
    whole
}

/// Which of a case's replicas its children derive from: the one whose value of the first objective is nearest to the aggregate, of equally
/// near ones the lowest.
#[must_use]
pub(crate) fn nearest(stage: &StageSpec, whole: &Metrics, replicas: &[&Metrics]) -> usize {
    let number = |metrics: &Metrics| {
        stage.objectives.first().and_then(|objective| metrics.get(&objective.metric)).and_then(Metric::number)
    };
    let Some(goal) = number(whole) else { return 0 };
    let mut best: Option<(f64, usize)> = None;
    for (position, replica) in replicas.iter().enumerate() {
        let Some(value) = number(replica) else { continue };
        let away = (value - goal).abs();
        if best.is_none_or(|(least, _)| away < least) {
            best = Some((away, position));
        }
    }
    best.map_or(0, |(_, position)| position)
}

/// One value for several, which are in the order of the replicas and finite.
#[expect(clippy::cast_precision_loss, reason = "there are 1,000 replicas at most")]
fn aggregate(how: Aggregate, goal: Option<Goal>, values: &[f64]) -> f64 {
    let mean = |values: &[f64]| values.iter().fold(0.0, |sum, value| sum + value) / values.len() as f64;
    let sorted = || {
        let mut sorted = values.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        sorted
    };
    let middle = |sorted: &[f64], cut: usize| {
        mean(sorted.get(cut..sorted.len().saturating_sub(cut)).filter(|rest| !rest.is_empty()).unwrap_or(sorted))
    };
    match (how, goal) {
        (Aggregate::Median, _) => {
            let sorted = sorted();
            middle(&sorted, sorted.len().saturating_sub(1) / 2)
        }
        (Aggregate::Midmean, _) => {
            let sorted = sorted();
            middle(&sorted, sorted.len() / 4)
        }
        (Aggregate::Worst, Some(Goal::Minimize)) => sorted().last().copied().unwrap_or(f64::NAN),
        (Aggregate::Worst, Some(Goal::Maximize)) => sorted().first().copied().unwrap_or(f64::NAN),
        // Of a metric that is no objective nobody says which way is worse.
        (Aggregate::Mean, _) | (Aggregate::Worst, None) => mean(values),
    }
}

#[expect(clippy::cast_precision_loss, reason = "there are 1,000 replicas at most")]
fn spread(values: &[f64]) -> Option<f64> {
    let n = values.len() as f64;
    let mean = values.iter().fold(0.0, |sum, value| sum + value) / n;
    let squares = values.iter().fold(0.0, |sum, value| sum + (value - mean) * (value - mean));
    (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt()).filter(|spread| spread.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Stage, Study};

    fn stage(aggregate: Aggregate, goal: Goal) -> StageSpec {
        let stage = Stage::unbound("s").budget(10).survivors(1).repeats(5).aggregate(aggregate);
        let stage = match goal {
            Goal::Minimize => stage.minimize("t"),
            Goal::Maximize => stage.maximize("t"),
        };
        Study::builder("t").stage(stage).spec().unwrap().stages.remove(0)
    }

    fn metrics(values: &[f64]) -> Vec<Metrics> {
        let of = |value: &f64| Metrics::from([("t".into(), Metric::Number(*value))]);
        values.iter().map(of).collect()
    }

    fn value(how: Aggregate, goal: Goal, values: &[f64]) -> f64 {
        let metrics = metrics(values);
        let whole = aggregated(&stage(how, goal), &metrics.iter().collect::<Vec<_>>());
        whole.metrics["t"].number().unwrap()
    }

    /// By hand: of 8 1 4 2 100 the midmean leaves out one at each end, and of eight two.
    #[test]
    fn aggregates() {
        let five = [8.0, 1.0, 4.0, 2.0, 100.0];
        for (how, least, most) in [
            (Aggregate::Mean, 23.0, 23.0),
            (Aggregate::Median, 4.0, 4.0),
            (Aggregate::Midmean, 14.0 / 3.0, 14.0 / 3.0),
            (Aggregate::Worst, 100.0, 1.0),
        ] {
            assert_eq!(value(how, Goal::Minimize, &five).to_bits(), f64::to_bits(least), "{how:?}");
            assert_eq!(value(how, Goal::Maximize, &five).to_bits(), f64::to_bits(most), "{how:?}");
        }
        let eight = [5.0, 1.0, 2.0, 3.0, 4.0, 6.0, 7.0, 80.0];
        assert_eq!(value(Aggregate::Midmean, Goal::Minimize, &eight).to_bits(), f64::to_bits(4.5));
        assert_eq!(value(Aggregate::Median, Goal::Minimize, &eight).to_bits(), f64::to_bits(4.5));
        // Equal to the mean of up to three.
        let three = [0.1, 0.7, 0.4];
        let mean = value(Aggregate::Mean, Goal::Minimize, &three);
        assert!((value(Aggregate::Midmean, Goal::Minimize, &three) - mean).abs() < 1e-15);
        for how in [Aggregate::Mean, Aggregate::Median, Aggregate::Midmean, Aggregate::Worst] {
            assert_eq!(value(how, Goal::Minimize, &[7.5]).to_bits(), f64::to_bits(7.5));
        }
    }

    #[test]
    fn the_nearest_replica_is_the_lowest_of_equally_near_ones() {
        let stage = stage(Aggregate::Mean, Goal::Minimize);
        let near = |values: &[f64]| {
            let metrics = metrics(values);
            let replicas: Vec<&Metrics> = metrics.iter().collect();
            nearest(&stage, &aggregated(&stage, &replicas).metrics, &replicas)
        };
        assert_eq!(near(&[1.0, 9.0, 5.5]), 2);
        assert_eq!(near(&[4.0, 6.0, 4.0]), 0);
        assert_eq!(near(&[9.0, 1.0, 4.0, 6.0]), 2);
    }

    #[test]
    fn spread_is_that_of_a_sample_and_what_is_missing_is_left_out() {
        let stage = stage(Aggregate::Mean, Goal::Minimize);
        let mut given = metrics(&[2.0, 4.0, 4.0, 6.0]);
        given[0].insert("only".into(), Metric::Number(1.0));
        for metrics in &mut given {
            metrics.insert("same".into(), Metric::Label("x".into()));
        }
        given[3].insert("odd".into(), Metric::Label("x".into()));
        let whole = aggregated(&stage, &given.iter().collect::<Vec<_>>());
        assert_eq!(whole.metrics.keys().collect::<Vec<_>>(), ["same", "t"]);
        assert_eq!((whole.n, whole.spread["t"].to_bits()), (4, (8.0_f64 / 3.0).sqrt().to_bits()));
        let one = aggregated(&stage, &[&given[0]]);
        assert!(one.spread.is_empty());
        assert_eq!(aggregated(&stage, &[]), Aggregated::default());
    }
}
