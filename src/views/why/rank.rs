//! Where a trial stands among the succeeded ones of its stage, by the same selection that chooses the survivors.
//!
//! It is recomputed from the recorded metrics, never read from anywhere: what is said here anyone can check. One pass
//! over the stage; the objectives' values of all its succeeded trials are held.

use serde::Serialize;

use crate::journal::Snapshot;
use crate::model::{StageRow, TrialId, TrialState};
use crate::plan::{Ranked, Score, Selector};
use crate::study_file::{Goal, Selection, StageSpec};
use crate::views::{StudyView, ViewError, decision};

/// Pareto fronts of more trials than this are worked out only as far as the survivors need them: it takes the square
/// of their number.
const PARETO_RANKED: u64 = 20_000;

/// A trial's rank.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Rank {
    /// From 1, the best; `null` when it is beyond what was worked out.
    pub rank: Option<u64>,
    /// How many succeeded trials have a finite number for every objective.
    pub of: u64,
    /// `top`, `lexicographic`, `weighted_sum` or `pareto`.
    pub selection: Selection,
    /// The objectives in order, with both values.
    pub objectives: Vec<Compared>,
    /// The weighted sum, for `weighted_sum`.
    pub weighted_sum: Option<f64>,
    /// The non-dominated front, from 0, for `pareto`.
    pub front: Option<u64>,
    /// The crowding distance, for `pareto`; `null` when infinite.
    pub crowding: Option<f64>,
    /// Cases with the same value of every objective, which do not count beside this one, for `pareto`.
    pub equals: Vec<String>,
    /// The case of lower index with the same value of every objective, beside which this one does not count.
    pub same_as: Option<String>,
    /// The worst that survives (or would, were the stage closed now); `null` if that is this trial.
    pub last_survivor: Option<String>,
    /// Its rank.
    pub last_survivor_rank: u64,
    /// Whether no trial still to come can change who survives.
    pub decided: bool,
    /// Trials of the stage that have not finished.
    pub unfinished: u64,
}

/// One objective's values.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Compared {
    /// Its name in `metrics.json` or `[stage.metrics]`.
    pub metric: String,
    /// Which way is better.
    pub goal: Goal,
    /// The trial's.
    pub value: f64,
    /// The last survivor's.
    pub last_survivor: Option<f64>,
}

/// The rank of a succeeded trial; `None` when it is no candidate: an objective's metric is missing or not finite.
pub(super) fn rank_of(
    view: &StudyView,
    snapshot: &Snapshot,
    stage: &StageRow,
    trial: TrialId,
) -> Result<Option<Rank>, ViewError> {
    let Some(spec) = view.spec.stages.get(stage.index as usize) else { return Ok(None) };
    let succeeded = view.summary(stage).trials.succeeded;
    let whole = spec.selection != Selection::Pareto || succeeded <= PARETO_RANKED;
    let most = if whole { u64::MAX } else { spec.survivor_count };
    let mut selector = Selector::new(&StageSpec { survivor_count: most, ..spec.clone() });
    let (first, mut of, mut mine) = (stage.first_trial, 0, None);
    for other in view.started(snapshot, stage)? {
        let other = other?;
        if other.counted_state() == TrialState::Succeeded && selector.offer(other.index, other.metrics()) {
            of += 1;
            if other.trial == trial {
                mine = other.row.map(|row| row.metrics);
            }
        }
    }
    let Some(metrics) = mine else { return Ok(None) };
    let decision = decision(view, snapshot, stage)?;
    let ranked = selector.finish();
    let index = trial.0.saturating_sub(first.0);
    let position = ranked.iter().position(|ranked| ranked.index == index);
    let case = |index: u64| view.lineage().case(stage.index, index);
    let equals = position.and_then(|position| ranked.get(position)).map_or(&[][..], |mine| &mine.equals);
    let same_as = ranked.iter().find(|ranked| ranked.equals.contains(&index));
    let survivors = usize::try_from(spec.survivor_count).unwrap_or(usize::MAX).min(ranked.len());
    let last = survivors.checked_sub(1).and_then(|last| ranked.get(last)).filter(|last| last.index != index);
    let compared = spec.objectives.iter().enumerate().map(|(at, objective)| Compared {
        metric: objective.metric.clone(),
        goal: objective.goal,
        value: metrics.get(&objective.metric).and_then(|metric| metric.number()).unwrap_or(0.0),
        last_survivor: last.and_then(|last| last.values.get(at).copied()),
    });
    let score = position.and_then(|position| ranked.get(position)).and_then(|ranked: &Ranked| ranked.score);
    Ok(Some(Rank {
        rank: position.map(|position| position as u64 + 1),
        of,
        selection: spec.selection,
        objectives: compared.collect(),
        weighted_sum: match score {
            Some(Score::WeightedSum(sum)) => Some(sum),
            _ => None,
        },
        front: match score {
            Some(Score::Pareto { front, .. }) => Some(front as u64),
            _ => None,
        },
        crowding: match score {
            Some(Score::Pareto { crowding, .. }) => Some(crowding).filter(|crowding| crowding.is_finite()),
            _ => None,
        },
        equals: equals.iter().map(|other| case(*other)).collect(),
        same_as: same_as.map(|first| case(first.index)),
        last_survivor: last.map(|last| case(last.index)),
        last_survivor_rank: survivors as u64,
        decided: decision.decided,
        unfinished: decision.left,
    }))
}
