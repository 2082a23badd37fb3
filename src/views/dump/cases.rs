//! Cases whose trials are replicas, as dumps show them beside the trials.

use std::collections::BTreeMap;

use serde::Serialize;

use super::schema::{MetricsOut, ParamsOut};
use crate::model::{LeftCase, TrialState};
use crate::views::CaseSummary;

/// One of `cases`: there where a stage repeats them.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Debug, Serialize)]
pub(in crate::views) struct CaseOut<'a> {
    stage: u32,
    /// Its name; its trials are called `<case>.r<replica>`.
    case: String,
    parent: String,
    params: ParamsOut,
    /// `failed` if a replica has, `succeeded` once all have.
    state: TrialState,
    /// How many replicas its metrics are of: those that have succeeded.
    n: u32,
    /// What these come to together, by the stage's `aggregate`.
    metrics: MetricsOut<'a>,
    /// Of each number the sample standard deviation over them; none of a single one.
    spread: &'a BTreeMap<String, f64>,
    /// The numbers of its trials, in the order of the replicas.
    trials: Vec<u64>,
    survivor: bool,
    /// There where it is true: it went on to explore, though it did not survive.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    explorer: bool,
    /// How it left its stage's race; there where it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    left: Option<LeftRaceOut>,
    /// The trial whose directory its children get; `null` if it did not go on.
    stands_for_it: Option<u64>,
}

/// How a case left its race.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Debug, Serialize)]
pub(in crate::views) struct LeftRaceOut {
    /// How many rounds it ran.
    rounds: u32,
    /// That it is not among the survivors; `null`: a replica of it failed.
    evidence: Option<f64>,
}

impl From<&LeftCase> for LeftRaceOut {
    fn from(left: &LeftCase) -> Self {
        Self { rounds: left.round.saturating_add(1), evidence: left.evidence }
    }
}

impl<'a> CaseOut<'a> {
    pub(in crate::views) fn new(case: &'a CaseSummary<'a>) -> Self {
        Self::of(case, case.state())
    }

    /// The same where nothing is told that depends on timing.
    pub(super) fn canonical(case: &'a CaseSummary<'a>) -> Self {
        Self::of(
            case,
            match case.state() {
                TrialState::Running | TrialState::Undecided => TrialState::Pending,
                state => state,
            },
        )
    }

    fn of(case: &'a CaseSummary<'a>, state: TrialState) -> Self {
        Self {
            stage: case.stage.index,
            case: case.name(),
            parent: case.parent(),
            params: ParamsOut(case.params()),
            state,
            n: case.whole.n,
            metrics: MetricsOut(&case.whole.metrics),
            spread: &case.whole.spread,
            trials: case.replicas.iter().map(|replica| replica.trial.0).collect(),
            survivor: case.survived(),
            explorer: case.explores(),
            stands_for_it: case.stands_for_it().map(|replica| replica.trial.0),
            left: case.left().map(LeftRaceOut::from),
        }
    }
}
