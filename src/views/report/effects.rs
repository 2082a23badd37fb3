//! What each value of each param did to the first objective: a table for every study, whatever its params mean.
//!
//! Numbers of more than [`VALUES_MAX`] different values are put into quarters. It shows what went together, not what
//! caused what; the trials' own choice of values may hide or feign an effect.

use super::axis::number_of;
use super::gather::{StageData, TrialData};
use crate::model::Value;
use crate::views::number;

/// Most values of one param that get rows of their own.
const VALUES_MAX: usize = 8;

/// One value, or one quarter of the values.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Effect {
    /// The value or the quarter's bounds.
    pub(super) value: String,
    /// Trials that have it, and a value of the objective.
    pub(super) trials: usize,
    pub(super) survivors: usize,
    pub(super) median: f64,
    pub(super) best: f64,
    /// Beside the trials' parents, where both have a value.
    pub(super) gain: Option<Gain>,
}

/// What became of parents.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Gain {
    /// Trials that have a parent to compare with.
    pub(super) trials: usize,
    /// Those that are better than it.
    pub(super) better: usize,
    /// For each objective, the median of how much a trial's value is above its parent's.
    pub(super) medians: Vec<Option<f64>>,
}

/// The rows of one param, in the values' order; none where it does not vary.
pub(super) fn effects(stage: &StageData, param: &str) -> Vec<Effect> {
    let mut trials: Vec<(&Value, &TrialData, f64)> =
        stage.valued().filter_map(|(trial, value)| Some((trial.params.get(param)?, trial, value))).collect();
    let numeric = trials.iter().all(|(value, ..)| number_of(value).is_some());
    let key = |value: &Value| number_of(value).unwrap_or(0.0);
    match numeric {
        true => trials.sort_by(|(a, ..), (b, ..)| key(a).total_cmp(&key(b))),
        false => trials.sort_by_cached_key(|(value, ..)| value.to_string()),
    }
    let mut groups: Vec<Vec<(&Value, &TrialData, f64)>> =
        trials.chunk_by(|(a, ..), (b, ..)| a == b).map(<[_]>::to_vec).collect();
    if groups.len() < 2 {
        return Vec::new();
    }
    if groups.len() > VALUES_MAX {
        if !numeric {
            groups.sort_by_key(|group| std::cmp::Reverse(group.len()));
            groups.truncate(VALUES_MAX);
        } else {
            groups = quarters(groups);
        }
    }
    groups.iter().filter_map(|group| effect(stage, group)).collect()
}

/// Neighbouring groups put together until there are at most four of about the same size.
fn quarters<T>(groups: Vec<Vec<T>>) -> Vec<Vec<T>> {
    let total: usize = groups.iter().map(Vec::len).sum();
    let mut found: Vec<(usize, Vec<T>)> = Vec::new();
    let mut taken = 0;
    for group in groups {
        // By where its middle lies.
        let quarter = (taken * 2 + group.len()) * 2 / total.max(1);
        taken += group.len();
        match found.last_mut() {
            Some((last, members)) if *last == quarter => members.extend(group),
            _ => found.push((quarter, group)),
        }
    }
    found.into_iter().map(|(_, members)| members).collect()
}

fn effect(stage: &StageData, group: &[(&Value, &TrialData, f64)]) -> Option<Effect> {
    let (first, last) = (group.first()?, group.last()?);
    let mut values: Vec<f64> = group.iter().map(|(.., value)| *value).collect();
    values.sort_by(f64::total_cmp);
    let (low, high) = (*values.first()?, *values.last()?);
    let shown = |value: &Value| number_of(value).map_or_else(|| value.to_string(), number);
    Some(Effect {
        value: match first.0 == last.0 {
            true => shown(first.0),
            false => format!("{} to {}", shown(first.0), shown(last.0)),
        },
        trials: group.len(),
        survivors: group.iter().filter(|(_, trial, _)| trial.survivor).count(),
        median: *values.get(values.len() / 2)?,
        best: if stage.better(low, high) { low } else { high },
        gain: gain(stage, group),
    })
}

fn gain(stage: &StageData, group: &[(&Value, &TrialData, f64)]) -> Option<Gain> {
    // Of one objective, sorted.
    let above = |number: usize| {
        let mut above: Vec<f64> =
            group.iter().filter_map(|(_, trial, _)| *trial.above_parent.get(number)?).collect();
        above.sort_by(f64::total_cmp);
        above
    };
    let above: Vec<Vec<f64>> = (0..stage.spec.objectives.len()).map(above).collect();
    let first = above.first().filter(|first| !first.is_empty())?;
    let better = first.iter().filter(|above| stage.better(**above, 0.0)).count();
    let medians = above.iter().map(|above| above.get(above.len() / 2).copied()).collect();
    Some(Gain { trials: first.len(), better, medians })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quarters_keep_order_and_everything() {
        let groups: Vec<Vec<u32>> = (0..20).map(|n| vec![n]).collect();
        let found = quarters(groups);
        assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [5, 5, 5, 5]);
        assert_eq!(found.concat(), (0..20).collect::<Vec<_>>());
        // One value that most trials have is not torn.
        let groups = vec![vec![0; 1], vec![1; 90], vec![2; 3], vec![3; 3], vec![4; 3]];
        let found = quarters(groups);
        assert_eq!(found.concat().len(), 100);
        assert!(found.len() <= 4 && found.iter().any(|group| group.iter().filter(|n| **n == 1).count() == 90));
    }
}
