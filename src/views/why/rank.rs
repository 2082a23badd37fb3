//! Where a trial stands among the succeeded ones of its stage, by the same selection that chooses the survivors.
//!
//! It is recomputed from the recorded metrics, never read from anywhere: what is said here anyone can check. One pass
//! over the stage; the objectives' values of all its succeeded trials are held.

use serde::Serialize;

use crate::journal::Snapshot;
use crate::model::{StageRow, StageStatus, TrialId, TrialState};
use crate::plan::{Choice, Chosen, Ranked, Score};
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
    /// How many succeeded trials have a finite number for every objective; of a race, how many cases began it.
    pub of: u64,
    /// How the stage's race went; `None` without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub race: Option<RaceSoFar>,
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

/// How a race went, or goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RaceSoFar {
    /// How many cases have left it.
    pub left: u64,
    /// How many have not.
    pub racing: u64,
    /// The round, from 1, after which it was over; `null` while it is not.
    pub over_after: Option<u32>,
    /// Whether it is over because no more are in it than survive, not because of `max`.
    pub decided: bool,
}

impl RaceSoFar {
    fn of(stage: &StageRow, spec: &StageSpec) -> Option<Self> {
        spec.race.as_ref().filter(|_| stage.is_replicated())?;
        let racing = stage.racing();
        let over_after = (stage.status == StageStatus::Closed).then(|| stage.rounds());
        let decided = over_after.is_some() && racing <= spec.survivor_count;
        Some(Self { left: stage.cases().saturating_sub(racing), racing, over_after, decided })
    }
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

/// The succeeded cases of a stage that can survive it, best first as far as that is worked out, and how many there are.
fn candidates(
    view: &StudyView,
    snapshot: &Snapshot,
    stage: &StageRow,
    spec: &StageSpec,
) -> Result<(Vec<Chosen>, u64), ViewError> {
    let succeeded = view.summary(stage).trials.succeeded;
    let whole = spec.selection != Selection::Pareto || succeeded <= PARETO_RANKED;
    let most = if whole { u64::MAX } else { spec.survivor_count };
    let spec = StageSpec { survivor_count: most, ..spec.clone() };
    let mut choice = Choice::new(&spec, stage);
    for trial in view.started(snapshot, stage)? {
        let trial = trial?;
        if trial.counted_state() == TrialState::Succeeded {
            choice.offer(trial.index, trial.metrics());
        }
    }
    Ok(choice.counted())
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
    let (ranked, _) = candidates(view, snapshot, stage, spec)?;
    Ok(ranked.first().map(|best| TrialId(stage.first_trial.0.saturating_add(best.place))))
}

/// The rank of a succeeded trial, or of the case that it is a replica of; `None` when that is no candidate: an objective's metric is missing
/// or not finite, or a replica has not succeeded.
pub(in crate::views) fn rank_of(
    view: &StudyView,
    snapshot: &Snapshot,
    stage: &StageRow,
    trial: TrialId,
) -> Result<Option<Rank>, ViewError> {
    let Some(spec) = view.spec.stages.get(stage.index as usize) else { return Ok(None) };
    let (ranked, of) = candidates(view, snapshot, stage, spec)?;
    let ranked: Vec<Ranked> = ranked.into_iter().map(|chosen| chosen.ranked).collect();
    let place = trial.0.saturating_sub(stage.first_trial.0);
    let Some(index) = stage.case_of(place) else { return Ok(None) };
    let position = ranked.iter().position(|ranked| ranked.index == index);
    let values: Vec<f64> = match position.and_then(|position| ranked.get(position)) {
        Some(mine) => mine.values.clone(),
        None if stage.is_replicated() => return Ok(None),
        // Beyond those that were worked out.
        None => {
            let own = view.trial(snapshot, trial)?.filter(|own| own.counted_state() == TrialState::Succeeded);
            let Some(own) = own else { return Ok(None) };
            let number = |metric: &str| own.metrics().get(metric)?.number().filter(|value| value.is_finite());
            let values = spec.objectives.iter().map(|objective| number(&objective.metric));
            match values.collect::<Option<Vec<f64>>>() {
                Some(values) => values,
                None => return Ok(None),
            }
        }
    };
    let decision = decision(view, snapshot, stage)?;
    let race = RaceSoFar::of(stage, spec);
    let case = |index: u64| view.lineage().case_name(stage.index, index);
    let equals = position.and_then(|position| ranked.get(position)).map_or(&[][..], |mine| &mine.equals);
    let same_as = ranked.iter().find(|ranked| ranked.equals.contains(&index));
    let survivors = usize::try_from(spec.survivor_count).unwrap_or(usize::MAX).min(ranked.len());
    let last = survivors.checked_sub(1).and_then(|last| ranked.get(last)).filter(|last| last.index != index);
    let compared = spec.objectives.iter().enumerate().map(|(at, objective)| Compared {
        metric: objective.metric.clone(),
        goal: objective.goal,
        value: values.get(at).copied().unwrap_or(0.0),
        last_survivor: last.and_then(|last| last.values.get(at).copied()),
    });
    let score = position.and_then(|position| ranked.get(position)).and_then(|ranked: &Ranked| ranked.score);
    Ok(Some(Rank {
        rank: position.map(|position| position as u64 + 1),
        // Those that left a race, or failed in it, come after all that are still in it.
        of: if race.is_some() { stage.cases() } else { of },
        race,
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
