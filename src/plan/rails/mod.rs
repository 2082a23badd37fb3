//! When a rail is broken: a function of a stage's results in the order of their numbers, and of nothing else.
//!
//! A study is aborted by the lowest-numbered trials that suffice: for the lowest `n` so that a rail is broken by the final
//! results of the trials 0 to `n` of the open stage. Of several rails that break at the same `n` the first in the order of
//! [`Rail`] counts. With `improve_within` the stage ends after the lowest `n` so that as many before it, one after the other, were no better than
//! what came before them, and a rail that only trials beyond would break is not broken. [`Judge`] is what an engine asks while results come in any order; [`broken`] says it of rows. Nothing
//! here may look at anything but results.

mod judge;

use crate::model::words;
use crate::model::{Failure, Rail, Severity, StageIndex, StageRow, TrialId, TrialRow, TrialState, float_text};
use crate::study_file::{Spec, StageRails, StageSpec};

use super::Lineage;
use super::bounds::violation;
pub(crate) use judge::{Judge, Outcome};

/// What a trial that is final means to the rails of its stage; `None` while it is not.
#[must_use]
pub(crate) fn outcome(rails: &StageRails, row: &TrialRow) -> Option<Outcome> {
    match row.state {
        TrialState::Succeeded => {
            let broken = rails.abort_if.iter().any(|rule| violation(rule, &row.metrics).is_some());
            Some(if broken { Outcome::OutOfBounds } else { Outcome::Fine })
        }
        TrialState::Failed if is_catastrophic(row.failure.as_ref()) => Some(Outcome::Catastrophic),
        TrialState::Failed => Some(Outcome::Failed),
        TrialState::Cancelled | TrialState::Pruned => Some(Outcome::Fine),
        TrialState::Pending | TrialState::Running | TrialState::Undecided => None,
    }
}

/// What a trial came to, the smaller the better, where the order of selection is that of its values; `None` if it cannot survive.
#[must_use]
pub(crate) fn worth(spec: &StageSpec, row: &TrialRow) -> Option<Vec<f64>> {
    let succeeded = spec.rails.improve_within.is_some() && row.state == TrialState::Succeeded;
    super::select::costs(spec, &row.metrics).filter(|_| succeeded)
}

fn is_catastrophic(failure: Option<&Failure>) -> bool {
    failure.is_some_and(|failure| failure.severity == Severity::Catastrophic)
}

/// A rail that is broken, by whom, and in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Broken {
    pub rail: Rail,
    /// The trials of the stage below this derived index broke it; no other counts.
    pub counted: u64,
    pub reason: String,
    /// All of those trials that broke it, in order; of a rail of the whole study those of earlier stages as well.
    pub violating: Vec<TrialId>,
}

/// Whether a stage's rows break a rail: `rows` are those of the stage and of all before it, in order of their numbers, as
/// many as have begun. `None`: no rail is broken by the trials before the first that is not final.
///
/// # Errors
/// Whatever reading a row fails with.
pub(crate) fn broken<E>(
    spec: &Spec,
    stages: &[StageRow],
    index: StageIndex,
    rows: impl Iterator<Item = Result<TrialRow, E>>,
) -> Result<Option<Broken>, E> {
    Ok(match ruled(spec, stages, index, rows)? {
        Some(Ruled::Broken(broken)) => Some(broken),
        Some(Ruled::Ended(_)) | None => None,
    })
}

/// What the results of a stage decide before all are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ruled {
    /// The study is aborted.
    Broken(Broken),
    /// The stage ends: so many of its trials count.
    Ended(u64),
}

/// The same, and whether the stage ends early.
///
/// # Errors
/// Whatever reading a row fails with.
pub(crate) fn ruled<E>(
    spec: &Spec,
    stages: &[StageRow],
    index: StageIndex,
    rows: impl Iterator<Item = Result<TrialRow, E>>,
) -> Result<Option<Ruled>, E> {
    let position = usize::try_from(index).unwrap_or(usize::MAX);
    let (Some(stage), Some(of)) = (stages.get(position), spec.stages.get(position)) else { return Ok(None) };
    let mut judge = Judge::new(&of.rails, &spec.rails, 0);
    if !judge.watches() {
        return Ok(None);
    }
    judge.plan(stage.planned());
    let (mut failed, mut catastrophic) = (Vec::new(), Vec::new());
    for row in rows {
        let row = row?;
        let outcome = outcome(&of.rails, &row);
        if row.stage < index {
            judge.before(outcome);
            catastrophic.extend((outcome == Some(Outcome::Catastrophic)).then_some(row.trial));
            continue;
        }
        let place = row.trial.0.saturating_sub(stage.first_trial.0);
        // One that has no row has not begun: then this one is not the next.
        let its_turn =
            row.stage == index && place == judge.next() && judge.verdict().is_none() && judge.ended().is_none();
        let Some(outcome) = outcome.filter(|_| its_turn) else { break };
        failed.extend(matches!(outcome, Outcome::Failed | Outcome::Catastrophic).then_some(row.trial));
        catastrophic.extend((outcome == Outcome::Catastrophic).then_some(row.trial));
        judge.offer(place, outcome, worth(of, &row));
        if let Some((Rail::AbortIf, counted)) = judge.verdict() {
            let words = of.rails.abort_if.iter().find_map(|rule| violation(rule, &row.metrics));
            let case = Lineage::new(spec, stages).case(index, place);
            let reason = format!("`{case}`: {}", words.unwrap_or_default());
            let violating = vec![row.trial];
            return Ok(Some(Ruled::Broken(Broken { rail: Rail::AbortIf, counted, reason, violating })));
        }
    }
    if let Some(counted) = judge.ended() {
        return Ok(Some(Ruled::Ended(counted)));
    }
    let broken = judge.verdict().map(|(rail, counted)| match rail {
        Rail::MaxFailureRate => {
            let max = float_text(of.rails.max_failure_rate.unwrap_or(1.0));
            let (name, failures) = (&of.name, failed.len());
            let reason = format!(
                "stage `{name}`: {failures} of {counted} finished trials failed, more than the rate of {max} allows"
            );
            Broken { rail, counted, reason, violating: failed }
        }
        _ => {
            let (count, most) = (catastrophic.len(), spec.rails.catastrophic_failures.unwrap_or(0));
            let reason = format!("{}, and the limit is {most}", words::counted(count, "catastrophic failure"));
            Broken { rail, counted, reason, violating: catastrophic }
        }
    });
    Ok(broken.map(Ruled::Broken))
}
