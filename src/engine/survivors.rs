//! Choosing a stage's survivors, and who leaves its race, from what is recorded.
//!
//! Passes over the stage's rows in the order of their numbers into the pure selection of `plan`: anyone with the store can
//! recompute it. It must depend on nothing but recorded metrics and numbers, and for those that explore on the study's seed.

use crate::journal::{JournalError, Snapshot};
use crate::model::{LeftCase, Metrics, Parent, StageIndex, StageRow, StageStatus, TrialId, TrialState};
use crate::plan::{Choice, Race, RoundOver};
use crate::study_file::{Spec, StageSpec};

/// What a stage comes to whose trials have all ended.
#[derive(Clone, Debug)]
pub(crate) struct Comes {
    /// Of a race: what its last round comes to.
    pub round: Option<RoundOver>,
    /// The survivors, best first, and after them those that explore; none while a race goes on.
    pub survivors: Vec<Parent>,
}

/// What a stage comes to.
///
/// # Errors
/// [`JournalError`] from reading, also when the stage is unknown.
pub(crate) fn comes_to(snapshot: &Snapshot, spec: &Spec, stage: StageIndex) -> Result<Comes, JournalError> {
    let ((row, spec), seed) = (stage_of(snapshot, spec, stage)?, spec.study.seed);
    let Some(mut race) = Race::new(spec, &row) else {
        return Ok(Comes { round: None, survivors: choose_from(snapshot, (spec, seed), &row)? });
    };
    each_success(snapshot, &row, |place, metrics| race.offer(place, metrics))?;
    let round = race.finish();
    let mut after = row.clone();
    let left = after.leave(&round.left);
    let survivors =
        if round.more == 0 && left { choose_from(snapshot, (spec, seed), &after)? } else { Vec::new() };
    Ok(Comes { round: Some(round), survivors })
}

/// The survivors of a stage whose race, if it has one, is over, best first, and after them those that explore; empty when none of its trials succeeded.
///
/// # Errors
/// [`JournalError`] from reading, also when the stage is unknown.
#[cfg(test)]
pub(crate) fn choose(snapshot: &Snapshot, spec: &Spec, stage: StageIndex) -> Result<Vec<Parent>, JournalError> {
    let ((row, spec), seed) = (stage_of(snapshot, spec, stage)?, spec.study.seed);
    choose_from(snapshot, (spec, seed), &row)
}

/// What of a stage's race is not what its metrics give, in words.
///
/// # Errors
/// [`JournalError`] from reading.
pub(crate) fn race_differs(
    snapshot: &Snapshot,
    spec: &Spec,
    row: &StageRow,
) -> Result<Option<String>, JournalError> {
    let Some(spec) = spec.stages.get(row.index as usize) else { return Ok(None) };
    let Some(first) = spec.first_rounds().filter(|_| spec.race.is_some() && row.is_replicated()) else {
        return Ok(None);
    };
    let mut results: Vec<(u64, Metrics)> = Vec::new();
    each_success(snapshot, row, |place, metrics| results.push((place, metrics.clone())))?;
    // As it was when it opened; then round by round.
    let mut then = StageRow { planned: row.cases(), replicas: Default::default(), ..row.clone() };
    then.add_rounds(first, false);
    while let Some(mut race) = Race::new(spec, &then) {
        let rounds = then.rounds();
        if rounds == row.rounds() && row.status != StageStatus::Closed {
            break;
        }
        for (place, metrics) in results.iter().filter(|(place, _)| *place < then.planned) {
            race.offer(*place, metrics);
        }
        let RoundOver { left, more } = race.finish();
        let recorded = row.replicas.left.iter().filter(|left| left.round + 1 == rounds);
        let recorded: Vec<LeftCase> = recorded.copied().collect();
        if recorded != left || (more == 0) != (rounds == row.rounds()) {
            let name = &row.name;
            return Ok(Some(format!(
                "stage `{name}`, after round {rounds}: {recorded:?} left, and its metrics give {left:?} and {more} more"
            )));
        }
        if more == 0 || !then.leave(&left) || !then.add_rounds(more, false) {
            break;
        }
    }
    Ok(None)
}

fn stage_of<'a>(
    snapshot: &Snapshot,
    spec: &'a Spec,
    stage: StageIndex,
) -> Result<(StageRow, &'a StageSpec), JournalError> {
    let row = snapshot.stages()?.into_iter().nth(stage as usize);
    row.zip(spec.stages.get(stage as usize)).ok_or(JournalError::Missing { table: "stage", key: stage.into() })
}

fn each_success(
    snapshot: &Snapshot,
    stage: &StageRow,
    mut told: impl FnMut(u64, &Metrics),
) -> Result<(), JournalError> {
    for trial in snapshot.trials(stage.first_trial, stage.end())? {
        let trial = trial?;
        if trial.state == TrialState::Succeeded {
            told(trial.trial.0 - stage.first_trial.0, &trial.metrics);
        }
    }
    Ok(())
}

fn choose_from(
    snapshot: &Snapshot,
    (spec, seed): (&StageSpec, u64),
    stage: &StageRow,
) -> Result<Vec<Parent>, JournalError> {
    let mut choice = Choice::new(spec, stage).exploring(seed);
    each_success(snapshot, stage, |place, metrics| choice.offer(place, metrics))?;
    let parent = |place: u64| {
        let trial = TrialId(stage.first_trial.0 + place);
        let row = snapshot.trial(trial)?.ok_or(JournalError::Missing { table: "trial", key: trial.0 })?;
        Ok(Parent { trial, attempt: row.accepted() })
    };
    choice.finish().into_iter().map(|chosen| parent(chosen.place)).collect()
}
