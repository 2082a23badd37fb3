use crate::{Stage, Study};
use proptest::prelude::*;

use super::*;

use crate::model::Metric;
use crate::study_file::{Bound, Objective};

/// A stage with these objectives: goal and weight.
fn stage(selection: Selection, survivors: u64, objectives: &[(Goal, Option<f64>)]) -> StageSpec {
    let mut stage = Stage::unbound("s").budget(1_000).survivors(survivors).selection(selection);
    for (position, (goal, weight)) in objectives.iter().enumerate() {
        let metric = format!("m{position}");
        stage = stage.objective(Objective { metric, goal: *goal, weight: *weight });
    }
    Study::builder("t").stage(stage).spec().unwrap().stages.remove(0)
}

fn metrics(values: &[f64]) -> Metrics {
    let named = values.iter().enumerate();
    named.map(|(position, value)| (format!("m{position}"), Metric::Number(*value))).collect()
}

fn rank(stage: &StageSpec, candidates: &[Vec<f64>]) -> Vec<Ranked> {
    let mut selector = Selector::new(stage);
    // Backwards, for the order of offers must not matter.
    for (index, values) in (0..).zip(candidates).collect::<Vec<_>>().into_iter().rev() {
        assert!(selector.offer(index, &metrics(values)));
    }
    selector.finish()
}

fn chosen(stage: &StageSpec, candidates: &[&[f64]]) -> Vec<u64> {
    let candidates: Vec<Vec<f64>> = candidates.iter().map(|values| values.to_vec()).collect();
    rank(stage, &candidates).into_iter().map(|ranked| ranked.index).collect()
}

const MAX: (Goal, Option<f64>) = (Goal::Maximize, None);
const MIN: (Goal, Option<f64>) = (Goal::Minimize, None);

#[test]
fn top_ranks_by_the_one_objective_and_ties_go_to_the_lower_index() {
    let candidates: &[&[f64]] = &[&[1.0], &[3.0], &[-0.0], &[3.0], &[0.0]];
    assert_eq!(chosen(&stage(Selection::Top, 9, &[MAX]), candidates), [1, 3, 0, 2, 4]);
    assert_eq!(chosen(&stage(Selection::Top, 3, &[MIN]), candidates), [2, 4, 0]);
    assert_eq!(chosen(&stage(Selection::Top, 2, &[]), candidates), [0, 1]);
    let ranked = rank(&stage(Selection::Top, 1, &[MAX]), &[vec![1.5], vec![2.5]]);
    assert_eq!(ranked, [Ranked { index: 1, values: vec![2.5], score: None, equals: Vec::new() }]);
}

#[test]
fn lexicographic_ranks_by_the_objectives_in_order() {
    let candidates: &[&[f64]] = &[&[1.0, 5.0], &[2.0, 9.0], &[2.0, 7.0], &[2.0, 7.0]];
    assert_eq!(chosen(&stage(Selection::Lexicographic, 3, &[MAX, MIN]), candidates), [2, 3, 1]);
}

#[test]
fn a_candidate_without_a_finite_number_never_survives() {
    for selection in [Selection::Top, Selection::Pareto] {
        let mut selector = Selector::new(&stage(selection, 5, &[MIN]));
        assert!(!selector.offer(0, &Metrics::new()));
        assert!(!selector.offer(1, &metrics(&[f64::NAN])));
        assert!(!selector.offer(2, &metrics(&[f64::NEG_INFINITY])));
        assert!(!selector.offer(3, &Metrics::from([("m0".into(), Metric::Label("1".into()))])));
        assert!(selector.offer(4, &metrics(&[7.0])));
        assert_eq!(selector.finish().iter().map(|ranked| ranked.index).collect::<Vec<_>>(), [4]);
    }
}

#[test]
fn weighted_sum_normalises_over_what_was_offered() {
    let objectives = [(Goal::Maximize, Some(0.75)), (Goal::Minimize, Some(0.25))];
    // Normalised: (0, 1), (1, 0), (0.5, 0.5), so 0.25, 0.75, 0.5.
    let candidates = [vec![10.0, 100.0], vec![20.0, 300.0], vec![15.0, 200.0]];
    let ranked = rank(&stage(Selection::WeightedSum, 3, &objectives), &candidates);
    let scores: Vec<_> = ranked.iter().map(|ranked| (ranked.index, ranked.score)).collect();
    let score = |score| Some(Score::WeightedSum(score));
    assert_eq!(scores, [(1, score(0.75)), (2, score(0.5)), (0, score(0.25))]);
    // A constant objective decides nothing; extremes do not overflow.
    let candidates: &[&[f64]] = &[&[7.0, f64::MAX], &[7.0, f64::MIN], &[7.0, 0.0]];
    assert_eq!(chosen(&stage(Selection::WeightedSum, 3, &objectives), candidates), [1, 2, 0]);
}

/// Fronts by hand: {0, 1, 2, 3}, then {4}, then {5}; in the first 0 and 3 are its ends.
#[test]
fn pareto_ranks_by_front_then_crowding() {
    let candidates =
        [vec![0.0, 10.0], vec![1.0, 5.0], vec![2.0, 4.0], vec![10.0, 0.0], vec![3.0, 6.0], vec![4.0, 7.0]];
    let ranked = rank(&stage(Selection::Pareto, 9, &[MIN, MIN]), &candidates);
    let scores: Vec<_> = ranked.iter().map(|ranked| (ranked.index, ranked.score)).collect();
    let score = |front, crowding| Some(Score::Pareto { front, crowding });
    // 1 leaves first: (2 - 0) / 10 + (10 - 4) / 10 = 0.8, against (10 - 1) / 10 + (5 - 0) / 10 = 1.4 of 2, which then has
    // (10 - 0) / 10 + (10 - 0) / 10 = 2.
    assert_eq!(
        scores,
        [
            (0, score(0, f64::INFINITY)),
            (3, score(0, f64::INFINITY)),
            (2, score(0, 2.0)),
            (1, score(0, 0.8)),
            (4, score(1, f64::INFINITY)),
            (5, score(2, f64::INFINITY)),
        ]
    );
    let few = stage(Selection::Pareto, 3, &[MIN, MIN]);
    assert_eq!(rank(&few, &candidates), ranked[..3]);
}

/// Distances taken once would leave 1, 2 and 3, side by side, out together: those of a curve evenly filled are near equal.
#[test]
fn crowding_is_taken_anew_as_points_go() {
    let curve: Vec<Vec<f64>> = (0..=16).map(|x| vec![f64::from(x), f64::from(16 - x)]).collect();
    let kept = |survivors| {
        let mut kept: Vec<u64> = rank(&stage(Selection::Pareto, survivors, &[MIN, MIN]), &curve)
            .iter()
            .map(|ranked| ranked.index)
            .collect();
        kept.sort_unstable();
        kept
    };
    assert_eq!((kept(2), kept(3).len(), kept(9)), (vec![0, 16], 3, (0..=16).step_by(2).collect()));
    let five = kept(5);
    assert!(five.windows(2).all(|pair| pair[1] - pair[0] >= 2), "{five:?}");
}

#[test]
fn of_equal_points_the_first_counts_and_names_the_others() {
    let candidates =
        [vec![2.0, 2.0], vec![1.0, 1.0], vec![1.0, 1.0], vec![-0.0, 2.0], vec![1.0, 1.0], vec![0.0, 2.0]];
    let ranked = rank(&stage(Selection::Pareto, 6, &[MIN, MIN]), &candidates);
    let found: Vec<_> = ranked.into_iter().map(|ranked| (ranked.index, ranked.equals)).collect();
    assert_eq!(found, [(1, vec![2, 4]), (3, vec![5]), (0, vec![])]);
}

/// Weights and values as people write them, in decimals: sums that are equal on paper are equal here.
#[test]
fn weighted_sums_of_the_same_worth_tie() {
    let objectives = [(Goal::Maximize, Some(0.3)), (Goal::Maximize, Some(0.7))];
    let survivors = |candidates: &[&[f64]]| chosen(&stage(Selection::WeightedSum, 9, &objectives), candidates);
    // Both objectives span 0 to 10: 0.3 * 0.2 + 0.7 * 0.4 = 0.34 = 0.3 * 0.9 + 0.7 * 0.1, and so on.
    assert_eq!(survivors(&[&[0.0, 10.0], &[10.0, 0.0], &[2.0, 4.0], &[9.0, 1.0]]), [0, 2, 3, 1]);
    assert_eq!(survivors(&[&[0.0, 10.0], &[10.0, 0.0], &[9.0, 1.0], &[2.0, 4.0]]), [0, 2, 3, 1]);
    // Tenths are no floats, and far from zero they lie differently.
    assert_eq!(
        survivors(&[&[1e6, 1e6 + 0.1], &[1e6 + 0.1, 1e6], &[1e6 + 0.02, 1e6 + 0.04], &[1e6 + 0.09, 1e6 + 0.01]]),
        [0, 2, 3, 1]
    );
}

/// The definition, word for word: the fronts by peeling off what nothing left dominates.
fn brute_fronts(costs: &[Vec<f64>]) -> Vec<usize> {
    let beats = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| a <= b) && a != b;
    let mut front_of = vec![usize::MAX; costs.len()];
    for front in 0..costs.len() {
        let left: Vec<usize> = (0..costs.len()).filter(|at| front_of[*at] == usize::MAX).collect();
        for at in &left {
            if !left.iter().any(|other| beats(&costs[*other], &costs[*at])) {
                front_of[*at] = front;
            }
        }
    }
    front_of
}

/// Crowding over the members left of a front, over the common denominator of all spans; `None` is infinite.
fn brute_crowding(costs: &[Vec<f64>], left: &[usize], at: usize) -> Option<(i64, i64)> {
    let whole = |value: f64| value as i64;
    if left.len() <= 2 {
        return None;
    }
    let (mut sum, mut denominator) = (0, 1);
    for (objective, value) in costs[at].iter().map(|value| whole(*value)).enumerate() {
        let mut column: Vec<(i64, usize)> =
            left.iter().map(|member| (whole(costs[*member][objective]), *member)).collect();
        column.sort_unstable();
        let (min, max) = (column[0].0, column[column.len() - 1].0);
        if min == max {
            continue;
        }
        if value == min || value == max {
            return None;
        }
        let place = column.iter().position(|(_, member)| *member == at).unwrap();
        sum = sum * (max - min) + (column[place + 1].0 - column[place - 1].0) * denominator;
        denominator *= max - min;
    }
    Some((sum, denominator))
}

/// All candidates that count, best first: front and crowding.
fn brute_pareto(costs: &[Vec<f64>]) -> Vec<(usize, usize, f64)> {
    let front_of = brute_fronts(costs);
    let counts = |at: &usize| !costs[..*at].contains(&costs[*at]);
    let mut ranked = Vec::new();
    for front in 0..costs.len() {
        let mut left: Vec<usize> = (0..costs.len()).filter(|at| front_of[*at] == front).filter(counts).collect();
        let mut gone = Vec::new();
        while !left.is_empty() {
            // The most crowded, of equally crowded ones the last.
            let key = |at: &usize| {
                brute_crowding(costs, &left, *at).map_or((1, 0), |(sum, whole)| (0, sum * 100_000_000 / whole))
            };
            let least = left.iter().map(key).min().unwrap();
            let out = left.iter().copied().filter(|at| key(at) == least).max().unwrap();
            let crowding =
                brute_crowding(costs, &left, out).map_or(f64::INFINITY, |(sum, whole)| sum as f64 / whole as f64);
            gone.push((out, front, crowding));
            left.retain(|at| *at != out);
        }
        ranked.extend(gone.into_iter().rev());
    }
    ranked
}

fn few_values(objectives: usize) -> impl Strategy<Value = Vec<Vec<f64>>> {
    let value = (-4..5_i8).prop_map(f64::from);
    prop::collection::vec(prop::collection::vec(value, objectives), 1..40)
}

proptest! {
    #[test]
    fn lexicographic_is_a_sort_cut_short(candidates in few_values(2), survivors in 1..50_u64) {
        let mut expected: Vec<usize> = (0..candidates.len()).collect();
        expected.sort_by(|a, b| {
            let (a, b) = (&candidates[*a], &candidates[*b]);
            b[0].partial_cmp(&a[0]).unwrap().then(a[1].partial_cmp(&b[1]).unwrap())
        });
        expected.truncate(usize::try_from(survivors).unwrap());
        let ranked = rank(&stage(Selection::Lexicographic, survivors, &[MAX, MIN]), &candidates);
        let indices: Vec<usize> = ranked.iter().map(|ranked| usize::try_from(ranked.index).unwrap()).collect();
        prop_assert_eq!(indices, expected);
        for one in ranked {
            prop_assert_eq!(&one.values, &candidates[usize::try_from(one.index).unwrap()]);
        }
    }

    #[test]
    fn weighted_sum_is_its_definition(candidates in few_values(2), survivors in 1..50_u64) {
        let column = |at: usize| candidates.iter().map(move |values| values[at]);
        let normal = |at: usize, value: f64| {
            let (min, max) = (column(at).fold(f64::INFINITY, f64::min), column(at).fold(f64::NEG_INFINITY, f64::max));
            if min == max { 0.0 } else { (value - min) / (max - min) }
        };
        // Eighths are exact: no rounding can hide a wrong order.
        let worst_is_constant = column(1).all(|value| value == candidates[0][1]);
        let score = |values: &[f64]| {
            let second = if worst_is_constant { 0.0 } else { 1.0 - normal(1, values[1]) };
            0.25 * normal(0, values[0]) + 0.75 * second
        };
        let objectives = [(Goal::Maximize, Some(0.25)), (Goal::Minimize, Some(0.75))];
        let ranked = rank(&stage(Selection::WeightedSum, survivors, &objectives), &candidates);
        let kept = candidates.len().min(usize::try_from(survivors).unwrap());
        prop_assert_eq!(ranked.len(), kept);
        let mut best: Vec<f64> = candidates.iter().map(|values| score(values)).collect();
        best.sort_by(|a, b| b.partial_cmp(a).unwrap());
        for (one, best) in ranked.iter().zip(best) {
            let Some(Score::WeightedSum(given)) = one.score else { panic!("no score") };
            let own = score(&candidates[usize::try_from(one.index).unwrap()]);
            prop_assert!((given - own).abs() < 1e-12 && (given - best).abs() < 1e-12);
        }
        prop_assert!(ranked.windows(2).all(|pair| pair[0].score != pair[1].score || pair[0].index < pair[1].index));
    }

    /// In whole numbers, over the common denominator: tenths of weights, spans of values.
    #[test]
    fn weighted_sums_tie_exactly_when_they_are_equal(candidates in few_values(3), tenths in (1..5_i64, 1..5_i64)) {
        let weights = [tenths.0, tenths.1, 10 - tenths.0 - tenths.1];
        let column = |at: usize| candidates.iter().map(move |values| values[at] as i64);
        let span = |at: usize| column(at).max().unwrap() - column(at).min().unwrap();
        let score = |values: &[f64]| -> i64 {
            let part = |at: usize| {
                let others: i64 = (0..3).filter(|other| *other != at).map(|other| span(other).max(1)).product();
                if span(at) == 0 { 0 } else { weights[at] * (values[at] as i64 - column(at).min().unwrap()) * others }
            };
            (0..3).map(part).sum()
        };
        let mut expected: Vec<usize> = (0..candidates.len()).collect();
        expected.sort_by_key(|at| (-score(&candidates[*at]), *at));
        let weighted = |tenth: i64| (Goal::Maximize, Some(tenth as f64 / 10.0));
        // Tenths of tenths: 0.1, 0.2, 0.3 and so on are no sums of powers of two.
        let scaled: Vec<Vec<f64>> =
            candidates.iter().map(|values| values.iter().map(|value| value / 10.0).collect()).collect();
        let stage = stage(Selection::WeightedSum, 1_000, &weights.map(weighted));
        let found: Vec<usize> = rank(&stage, &scaled).iter().map(|ranked| ranked.index as usize).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn pareto_is_its_definition(
        (objectives, candidates) in (1..4_usize).prop_flat_map(|n| (Just(n), few_values(n))),
        survivors in 1..50_u64,
    ) {
        let goals = [MIN, MAX, MIN];
        let costs: Vec<Vec<f64>> = candidates
            .iter()
            .map(|values| values.iter().enumerate().map(|(at, v)| if at == 1 { 0.0 - v } else { *v }).collect())
            .collect();
        let mut expected = brute_pareto(&costs);
        expected.truncate(usize::try_from(survivors).unwrap());
        let ranked = rank(&stage(Selection::Pareto, survivors, &goals[..objectives]), &candidates);
        let given: Vec<_> = ranked
            .iter()
            .map(|ranked| (usize::try_from(ranked.index).unwrap(), ranked.score.unwrap()))
            .collect();
        let expected: Vec<_> =
            expected.into_iter().map(|(at, front, crowding)| (at, Score::Pareto { front, crowding })).collect();
        prop_assert_eq!(given, expected);
    }
}

/// The bound itself is good; what is no number, or beyond a bound, does not survive, however well it ranks.
#[test]
fn who_does_not_meet_what_is_required_does_not_survive() {
    let bound = |metric: &str, bound| MetricBound { metric: metric.into(), bound };
    let mut of = stage(Selection::Top, 3, &[MIN]);
    of.require = vec![bound("slack", Bound::Below(0.0)), bound("slack", Bound::Above(9.0))];
    for require in [of.require.clone(), Vec::new()] {
        of.require = require;
        let mut selector = Selector::new(&of);
        for (index, slack) in [-0.5, 0.0, 9.0, 9.5].into_iter().enumerate() {
            let metrics = Metrics::from([
                ("m0".into(), Metric::Number(index as f64)),
                ("slack".into(), Metric::Number(slack)),
            ]);
            assert_eq!(selector.offer(index as u64, &metrics), of.require.is_empty() || (1..3).contains(&index));
        }
        let kept: Vec<u64> = selector.finish().iter().map(|ranked| ranked.index).collect();
        assert_eq!(kept, if of.require.is_empty() { vec![0, 1, 2] } else { vec![1, 2] });
    }
    of.require = vec![bound("slack", Bound::Below(0.0))];
    let label = Metrics::from([("m0".into(), Metric::Number(1.0)), ("slack".into(), Metric::Label("ok".into()))]);
    assert_eq!(unmet(&of.require, &label).as_deref(), Some("`slack` is no number"));
}

/// Whoever could have survived and did not may explore; of equal cases those beside a survivor of `pareto` could not.
#[test]
fn who_explores_is_drawn_from_those_that_did_not_survive() {
    let values: Vec<Vec<f64>> = [5.0, 1.0, 3.0, f64::NAN, 2.0, 4.0].map(|value| vec![value]).to_vec();
    let drawn = |selection, survivors, most| {
        let weight = (selection == Selection::WeightedSum).then_some(1.0);
        let of = stage(selection, survivors, &[(Goal::Minimize, weight)]);
        let mut selector = Selector::new(&of).exploring(7, 0, most);
        for (index, values) in (0..).zip(&values) {
            selector.offer(index, &metrics(values));
        }
        selector.finish().iter().map(|ranked| ranked.index).collect::<Vec<u64>>()
    };
    for selection in [Selection::Top, Selection::Lexicographic, Selection::WeightedSum, Selection::Pareto] {
        assert_eq!(drawn(selection, 2, 9), [1, 4, 0, 2, 5], "{selection:?}");
        let two = drawn(selection, 2, 2);
        assert_eq!((&two[..2], two.len()), (&[1, 4][..], 4));
        assert_eq!(two, drawn(Selection::Top, 2, 2), "the same ones, however it is chosen");
        assert_eq!(drawn(selection, 2, 0), [1, 4]);
        assert_eq!(drawn(selection, 9, 2), [1, 4, 2, 5, 0], "nobody is left");
    }
    let of = stage(Selection::Pareto, 2, &[MIN, MIN]);
    let mut selector = Selector::new(&of).exploring(7, 0, 9);
    for (index, values) in (0..).zip([[1.0, 2.0], [2.0, 1.0], [2.0, 1.0], [3.0, 3.0], [3.0, 3.0]]) {
        selector.offer(index, &metrics(&values));
    }
    let ranked = selector.finish();
    assert_eq!(ranked.iter().map(|ranked| ranked.index).collect::<Vec<_>>(), [0, 1, 3, 4]);
    assert_eq!((&ranked[2].values, ranked[2].score), (&vec![3.0, 3.0], None));
}
