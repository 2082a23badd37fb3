//! Where a trial stands among the succeeded ones of its stage, by the same selection that chooses the survivors.
//!
//! It is recomputed from the recorded metrics, never read from anywhere: what is said here anyone can check. One pass
//! over the stage; the objectives' values of all its succeeded trials are held.

use serde::Serialize;

use crate::journal::Snapshot;
use crate::model::{StageRow, TrialId, TrialState};
use crate::plan::{Ranked, Score, Selector};
use crate::study_file::{Goal, Selection, StageSpec};
use crate::views::{StudyView, TrialSummary, ViewError, decision};

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

/// The succeeded trials of a stage that can survive it, best first as far as that is worked out; each is shown to `each`.
fn candidates(
    view: &StudyView,
    snapshot: &Snapshot,
    stage: &StageRow,
    spec: &StageSpec,
    mut each: impl FnMut(TrialSummary<'_>),
) -> Result<Vec<Ranked>, ViewError> {
    let succeeded = view.summary(stage).trials.succeeded;
    let whole = spec.selection != Selection::Pareto || succeeded <= PARETO_RANKED;
    let most = if whole { u64::MAX } else { spec.survivor_count };
    let mut selector = Selector::new(&StageSpec { survivor_count: most, ..spec.clone() });
    for trial in view.started(snapshot, stage)? {
        let trial = trial?;
        if trial.counted_state() == TrialState::Succeeded && selector.offer(trial.index, trial.metrics()) {
            each(trial);
        }
    }
    Ok(selector.finish())
}

/// The trial that ranks first in its stage: its first survivor, and before it has any the best so far.
pub(in crate::views) fn leader(
    view: &StudyView,
    snapshot: &Snapshot,
    stage: &StageRow,
) -> Result<Option<TrialId>, ViewError> {
    if let Some(first) = stage.survivors.first() {
        return Ok(Some(first.trial));
    }
    let Some(spec) = view.spec.stages.get(stage.index as usize) else { return Ok(None) };
    let ranked = candidates(view, snapshot, stage, spec, |_| {})?;
    Ok(ranked.first().map(|best| TrialId(stage.first_trial.0.saturating_add(best.index))))
}

/// The rank of a succeeded trial; `None` when it is no candidate: an objective's metric is missing or not finite.
pub(in crate::views) fn rank_of(
    view: &StudyView,
    snapshot: &Snapshot,
    stage: &StageRow,
    trial: TrialId,
) -> Result<Option<Rank>, ViewError> {
    let Some(spec) = view.spec.stages.get(stage.index as usize) else { return Ok(None) };
    let (first, mut of, mut mine) = (stage.first_trial, 0, None);
    let ranked = candidates(view, snapshot, stage, spec, |other| {
        of += 1;
        if other.trial == trial {
            mine = other.row.map(|row| row.metrics);
        }
    })?;
    let Some(metrics) = mine else { return Ok(None) };
    let decision = decision(view, snapshot, stage)?;
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
