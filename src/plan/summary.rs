//! A stage as it is shown: its trials by where they stand, its best one, its survivors.
//!
//! Dumps, the status, reports, telemetry, hooks and the terminal show parts of it. None of them may count anything itself, so
//! that no two of them differ.

use serde::Serialize;

use super::Lineage;
use crate::model::json::is_zero;
use crate::model::{StageCounters, StageRow, StageStatus};

/// A stage's trials by where they stand: `planned` is the sum of all others.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StageTrials {
    /// Trials planned; 0 while the stage waits.
    pub planned: u64,
    /// Trials that wait for an attempt.
    pub pending: u64,
    /// Trials that run.
    pub running: u64,
    /// Trials that succeeded.
    pub succeeded: u64,
    /// Trials that failed for good.
    pub failed: u64,
    /// Trials that never come to a result: the study was aborted, or the stage ended, before.
    pub cancelled: u64,
    /// Trials that were ended early. There where there are any.
    #[serde(skip_serializing_if = "is_zero")]
    pub pruned: u64,
    /// Trials that have ended, and a rung has still to decide whether that counts. There where there are any.
    #[serde(skip_serializing_if = "is_zero")]
    pub undecided: u64,
}

impl StageTrials {
    /// Trials with a result, and those that were ended early.
    #[must_use]
    pub fn finished(&self) -> u64 {
        self.succeeded + self.failed + self.pruned
    }
}

/// The best value of a stage's first objective so far.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct BestTrial {
    /// Of the first objective.
    pub metric: String,
    /// The value.
    pub value: f64,
    /// Who has it.
    pub case: String,
}

#[derive(Clone, Copy, Debug)]
pub struct StageSummary<'a> {
    /// Name, status, limits and times.
    pub row: &'a StageRow,
    /// Its trials by where they stand.
    pub trials: StageTrials,
    /// What rates are made of.
    pub counters: StageCounters,
    lineage: Lineage<'a>,
}

impl<'a> StageSummary<'a> {
    /// Sums up a stage.
    #[must_use]
    pub fn new(lineage: Lineage<'a>, row: &'a StageRow, counters: StageCounters) -> Self {
        let planned = row.planned();
        let StageCounters { running, succeeded, failed, pruned, .. } = counters;
        let is_open = row.status == StageStatus::Open;
        let pending = if is_open { counters.pending(planned) } else { 0 };
        let undecided = if is_open { counters.undecided } else { 0 };
        let cancelled = planned.saturating_sub(pending + running + succeeded + failed + pruned + undecided);
        let trials = StageTrials { planned, pending, running, succeeded, failed, cancelled, pruned, undecided };
        Self { row, trials, counters, lineage }
    }

    /// Whether it was planned from other cases than survive now, and stays so; see [`Lineage::is_kept`].
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.lineage.is_kept(self.row.index)
    }

    /// Trials that are to start yet, with what a proposer may still propose.
    #[must_use]
    pub fn to_start(self) -> u64 {
        match self.row.status {
            StageStatus::Open => self.counters.pending(self.row.expected()),
            StageStatus::Waiting | StageStatus::Closed | StageStatus::Aborted => 0,
        }
    }

    /// Trials without a result, with what a proposer may still propose.
    #[must_use]
    pub fn unfinished(&self) -> u64 {
        self.row.expected().saturating_sub(self.trials.finished())
    }

    /// The best so far, if the stage has an objective and any trial a value of it.
    #[must_use]
    pub fn best(&self) -> Option<BestTrial> {
        let (best, objective) = self.counters.best.zip(self.row.objective.as_ref())?;
        // What has no part in the stage is not its best, and which else is is not counted.
        if self.row.is_outside(best.trial.0.saturating_sub(self.row.first_trial.0)) {
            return None;
        }
        let case = self.lineage.name_of(best.trial);
        Some(BestTrial { metric: objective.metric.clone(), value: best.value, case })
    }

    /// The cases of its survivors, best first.
    pub fn survivors(&self) -> impl Iterator<Item = String> + use<'a> {
        let lineage = self.lineage;
        self.row.winners().iter().map(move |parent| lineage.whole_case_of(parent.trial))
    }

    /// How many survived.
    #[must_use]
    pub fn survived(&self) -> u64 {
        self.row.winners().len() as u64
    }

    /// The cases that go on to explore, and did not survive.
    pub fn explorers(&self) -> impl Iterator<Item = String> + use<'a> {
        let lineage = self.lineage;
        self.row.explorers().iter().map(move |parent| lineage.whole_case_of(parent.trial))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Best, FirstObjective, Parent, Proposing, TrialId};
    use crate::study_file::Spec;
    use crate::{Range, Stage, Study};

    fn spec() -> Spec {
        let stage = Stage::unbound("s").budget(10).survivors(2).range("n", Range::int(1..=10));
        Study::builder("t").stage(stage).spec().unwrap()
    }

    /// A stage of ten trials, of which a proposer has proposed eight.
    fn row(status: StageStatus, proposing: Proposing) -> StageRow {
        StageRow {
            index: 0,
            name: "s".into(),
            trial_budget: 10,
            survivor_count: 2,
            objective: Some(FirstObjective { metric: "m".into(), maximize: true }),
            status,
            first_trial: TrialId(0),
            parents: Vec::new(),
            shares: vec![10],
            more: Vec::new(),
            planned: 8,
            proposing,
            survivors: [5, 9].map(|trial| Parent { trial: TrialId(trial), attempt: 1 }).to_vec(),
            approval: None,
            opened_ms: None,
            closed_ms: None,
            later: Default::default(),
            tidied: Default::default(),
            discarding: false,
            replicas: Default::default(),
            ended_after: None,
        }
    }

    #[test]
    fn the_parts_are_the_whole_wherever_the_stage_stands() {
        let spec = spec();
        let ended = StageCounters { succeeded: 2, failed: 1, cancelled: 1, pruned: 2, ..Default::default() };
        let counters = StageCounters { running: 1, undecided: 1, ..ended };
        for status in [StageStatus::Open, StageStatus::Closed, StageStatus::Aborted] {
            let rows = [row(status, Proposing::Ended)];
            let trials = StageSummary::new(Lineage::new(&spec, &rows), &rows[0], counters).trials;
            let StageTrials { planned, pending, running, succeeded, failed, cancelled, pruned, undecided } =
                trials;
            let ended = succeeded + failed + cancelled + pruned + undecided;
            assert_eq!(pending + running + ended, planned, "{status}: {trials:?}");
            assert_eq!((pruned, undecided), (2, u64::from(status == StageStatus::Open)), "{status}");
            assert_eq!(cancelled, if status == StageStatus::Open { 1 } else { 2 }, "{status}");
        }
    }

    #[test]
    fn what_a_proposer_may_still_say_is_to_come_and_not_planned() {
        let spec = spec();
        let counters = StageCounters { running: 1, succeeded: 2, failed: 1, ..Default::default() };
        for (proposing, left) in [(Proposing::Open, 2), (Proposing::Ended, 0)] {
            let rows = [row(StageStatus::Open, proposing)];
            let summary = StageSummary::new(Lineage::new(&spec, &rows), &rows[0], counters);
            assert_eq!((summary.trials.planned, summary.trials.pending), (8, 4));
            assert_eq!((summary.to_start(), summary.unfinished()), (4 + left, 5 + left));
        }
    }

    #[test]
    fn the_best_and_the_survivors_have_names() {
        let (spec, rows) = (spec(), [row(StageStatus::Closed, Proposing::No)]);
        let best = Some(Best { value: 2.5, trial: TrialId(3) });
        let counters = StageCounters { best, ..Default::default() };
        let summary = StageSummary::new(Lineage::new(&spec, &rows), &rows[0], counters);
        let best = BestTrial { metric: "m".into(), value: 2.5, case: "t_0_3".into() };
        assert_eq!(summary.best(), Some(best));
        // A trial that is not planned keeps its number.
        assert_eq!(summary.survivors().collect::<Vec<_>>(), ["t_0_5", "#9"]);
    }
}
