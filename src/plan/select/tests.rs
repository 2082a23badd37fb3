use proptest::prelude::*;

use super::*;
use crate::model::Metric;
use crate::spec::{Spec, StageBuilder};

/// A stage with these objectives: goal and weight.
fn stage(selection: Selection, survivors: u64, objectives: &[(Goal, Option<f64>)]) -> StageSpec {
    let mut stage = StageBuilder::closure("s").budget(1_000).survivors(survivors).selection(selection);
    for (position, (goal, weight)) in objectives.iter().enumerate() {
        stage = stage.objective(&format!("m{position}"), *goal, *weight);
    }
    Spec::builder("t").stage(stage).build().unwrap().stages.remove(0)
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
    assert_eq!(ranked, [Ranked { index: 1, values: vec![2.5], score: None }]);
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
    // 1: (2 - 0) / 10 + (10 - 4) / 10 = 0.8;  2: (10 - 1) / 10 + (5 - 0) / 10 = 1.4.
    assert_eq!(
        scores,
        [
            (0, score(0, f64::INFINITY)),
            (3, score(0, f64::INFINITY)),
            (2, score(0, 0.9 + 0.5)),
            (1, score(0, 0.2 + 0.6)),
            (4, score(1, f64::INFINITY)),
            (5, score(2, f64::INFINITY)),
        ]
    );
    let few = stage(Selection::Pareto, 3, &[MIN, MIN]);
    assert_eq!(rank(&few, &candidates), ranked[..3]);
}

#[test]
fn equal_points_share_a_front_and_go_by_index() {
    let candidates: &[&[f64]] = &[&[1.0, 1.0], &[1.0, 1.0], &[1.0, 1.0], &[1.0, 2.0]];
    assert_eq!(chosen(&stage(Selection::Pareto, 4, &[MIN, MIN]), candidates), [0, 1, 2, 3]);
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

fn brute_crowding(costs: &[Vec<f64>], front: &[usize], at: usize) -> f64 {
    if front.len() <= 2 {
        return f64::INFINITY;
    }
    let mut sum = 0.0;
    for (objective, value) in costs[at].iter().copied().enumerate() {
        let mut column: Vec<(f64, usize)> =
            front.iter().map(|member| (costs[*member][objective], *member)).collect();
        column.sort_by(|a, b| a.partial_cmp(b).unwrap());
        let (min, max) = (column[0].0, column[column.len() - 1].0);
        if min == max {
            continue;
        }
        if value == min || value == max {
            return f64::INFINITY;
        }
        let place = column.iter().position(|(_, member)| *member == at).unwrap();
        sum += (column[place + 1].0 - column[place - 1].0) / (max - min);
    }
    sum
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
        let front_of = brute_fronts(&costs);
        let crowding: Vec<f64> = (0..costs.len())
            .map(|at| {
                let front: Vec<usize> = (0..costs.len()).filter(|other| front_of[*other] == front_of[at]).collect();
                brute_crowding(&costs, &front, at)
            })
            .collect();
        let mut expected: Vec<usize> = (0..costs.len()).collect();
        expected.sort_by(|a, b| {
            front_of[*a].cmp(&front_of[*b]).then(crowding[*b].partial_cmp(&crowding[*a]).unwrap()).then(a.cmp(b))
        });
        expected.truncate(usize::try_from(survivors).unwrap());
        let ranked = rank(&stage(Selection::Pareto, survivors, &goals[..objectives]), &candidates);
        let given: Vec<_> = ranked
            .iter()
            .map(|ranked| (usize::try_from(ranked.index).unwrap(), ranked.score.unwrap()))
            .collect();
        let expected: Vec<_> = expected
            .into_iter()
            .map(|at| (at, Score::Pareto { front: front_of[at], crowding: crowding[at] }))
            .collect();
        prop_assert_eq!(given, expected);
    }
}
