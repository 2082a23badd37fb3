//! What is recorded of a trial that is watched: what it showed at its stage's rungs, what they decided, which rule of its own it met.
//!
//! Who is pruned follows from these rows alone. A trial may end before it is known whether it counts: it is undecided then, and
//! nothing may take that for a final state.

use serde::{Deserialize, Serialize};

use super::event::Event;
use super::fold::{Fold, Rows};
use super::halving::Shown;
use super::ids::{AttemptNo, TrialId};
use super::named::named;
use super::rows::{AttemptOutcome, Severity, StageCounters, StudyProgress, TrialRow, TrialState};

/// What a watched trial has shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Watched {
    /// Its rungs, from the lowest on.
    pub rungs: Vec<RungRow>,
    /// The rule of its own that it met.
    pub stop_if: Option<StopIfMet>,
}

/// What a trial showed at a rung. It never changes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RungRow {
    /// The rung's step.
    pub at: u64,
    /// The step of the report that counts there.
    pub step: u64,
    /// Its value; `None`: not finite, worse than any.
    pub value: Option<f64>,
    /// Whether the rung judges it: not one that succeeded before.
    pub judged: bool,
    /// What the rung decided, once it has.
    pub verdict: Option<RungVerdict>,
}

/// What a rung decided of a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RungVerdict {
    /// Whether the trial goes on.
    pub keep: bool,
    /// So many of lower number were better, as far as was known.
    pub better: u64,
    /// Of so many, itself among them.
    pub of: u64,
    /// Of lower number, so many were not known, and could not change it.
    pub unknown: u64,
}

/// A trial met a rule of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StopIfMet {
    /// The rule's place in the study file, from 0.
    pub rule: u32,
    /// Its metric.
    pub metric: String,
    /// The step of the report that met it.
    pub step: u64,
    /// The value there; `None`: not finite.
    pub value: Option<f64>,
}

/// What ended a trial that is pruned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PruneRule {
    /// A rung of its stage.
    Halving,
    /// A rule of its own.
    StopIf,
}

named!(PruneRule {
    Halving => "halving",
    StopIf => "stop_if",
});

/// How a trial was pruned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pruned {
    /// By what.
    pub rule: PruneRule,
    /// The rung's step, or that of the report that met the rule.
    pub step: u64,
    /// The value there; `None`: not finite.
    pub value: Option<f64>,
    /// What the rung decided it by.
    pub verdict: Option<RungVerdict>,
}

impl Watched {
    /// The rung that ended the trial.
    fn ended_at(&self) -> Option<(&RungRow, RungVerdict)> {
        self.rungs
            .iter()
            .find_map(|rung| rung.verdict.filter(|verdict| !verdict.keep).map(|verdict| (rung, verdict)))
    }

    /// Whether a rung has still to decide.
    fn awaits(&self) -> bool {
        self.ended_at().is_none() && self.rungs.iter().any(|rung| rung.judged && rung.verdict.is_none())
    }
}

impl TrialRow {
    /// What it showed at its stage's rungs, up to the one that ended it: nothing above that exists.
    #[must_use]
    pub fn rungs(&self) -> &[RungRow] {
        let rungs = self.watched.as_ref().map_or(&[][..], |watched| &watched.rungs);
        let ended = rungs.iter().position(|rung| rung.verdict.is_some_and(|verdict| !verdict.keep));
        ended.and_then(|ended| rungs.get(..=ended)).unwrap_or(rungs)
    }

    /// Whether a rung has still to decide about it.
    #[must_use]
    pub(crate) fn awaits_decision(&self) -> bool {
        self.watched.as_ref().is_some_and(|watched| watched.awaits())
    }

    /// Whether it is or will be pruned, whatever its attempt comes to.
    #[must_use]
    pub(crate) fn is_sealed(&self) -> bool {
        self.watched.as_ref().is_some_and(|watched| watched.stop_if.is_some() || watched.ended_at().is_some())
    }

    /// Whether it may reach further rungs. What it had not shown when it failed for good stays unshown though `piton retry` made it run
    /// again: decisions rest on that.
    #[must_use]
    pub(crate) fn may_show_rungs(&self) -> bool {
        let failed =
            self.attempts.iter().filter(|attempt| attempt.outcome == Some(AttemptOutcome::Failed)).count();
        let was_reset = failed as u64 > u64::from(self.failures);
        !was_reset && self.watched.as_ref().is_none_or(|watched| watched.stop_if.is_none())
    }

    /// What pruned it, or will; `None` while a rung may still decide otherwise.
    #[must_use]
    pub fn pruned(&self) -> Option<Pruned> {
        let watched = self.watched.as_ref()?;
        if let Some((rung, verdict)) = watched.ended_at() {
            let (step, value) = (rung.at, rung.value);
            return Some(Pruned { rule: PruneRule::Halving, step, value, verdict: Some(verdict) });
        }
        let met = watched.stop_if.as_ref().filter(|_| !watched.awaits())?;
        Some(Pruned { rule: PruneRule::StopIf, step: met.step, value: met.value, verdict: None })
    }

    /// Its state once no attempt runs and none follows, given how the last one ended.
    pub(super) fn ended_as(&self, outcome: AttemptOutcome) -> TrialState {
        match outcome {
            _ if self.awaits_decision() && !injected_fault!(UndecidedCounts) => TrialState::Undecided,
            _ if self.is_sealed() => TrialState::Pruned,
            AttemptOutcome::Succeeded => TrialState::Succeeded,
            AttemptOutcome::Failed => TrialState::Failed,
            AttemptOutcome::Interrupted | AttemptOutcome::Cancelled => TrialState::Cancelled,
        }
    }

    /// Nothing of what it came to after it was pruned counts.
    pub(super) fn prune(&mut self) {
        self.state = TrialState::Pruned;
        self.due_ms = 0;
        self.metrics.clear();
        self.outputs.clear();
        self.failure = None;
    }
}

impl Fold {
    /// A trial is in this state from now on, for good or until its rungs have decided.
    pub(super) fn settle<R: Rows>(
        &self,
        rows: &mut R,
        row: &mut TrialRow,
        counters: &mut StageCounters,
        progress: &mut StudyProgress,
        state: TrialState,
    ) -> Result<(), R::Error> {
        row.state = state;
        row.due_ms = 0;
        match state {
            TrialState::Undecided => counters.undecided += 1,
            TrialState::Succeeded => {
                if let Some(stage) = rows.stage_head(row.stage)? {
                    counters.best = stage.better(counters.best, row.trial, &row.metrics);
                }
                counters.succeeded += 1;
            }
            TrialState::Failed => {
                counters.failed += 1;
                let catastrophic = row.failure.as_ref().is_some_and(|f| f.severity == Severity::Catastrophic);
                progress.catastrophic += u64::from(catastrophic);
            }
            TrialState::Cancelled => counters.cancelled += 1,
            TrialState::Pruned => {
                row.prune();
                counters.pruned += 1;
            }
            TrialState::Pending | TrialState::Running => {
                return Err(self.misfit(format!("trial {} has not ended", row.trial)));
            }
        }
        Ok(())
    }

    /// What a watched trial shows, and what follows from it.
    pub(super) fn watched<R: Rows>(&self, rows: &mut R, event: &Event) -> Result<(), R::Error> {
        match event {
            Event::RungReached { trial, attempt, rung, at, step, value, judged } => {
                let shown = Shown { rung: *rung, at: *at, step: *step, value: *value, judged: *judged };
                self.rung_reached(rows, *trial, *attempt, shown)
            }
            Event::RungDecided { trial, rung, verdict } => self.rung_decided(rows, *trial, *rung, *verdict),
            Event::StopIfMet { trial, attempt, met } => {
                let mut row = self.shows(rows, *trial, *attempt)?;
                let watched = row.watched.get_or_insert_default();
                if watched.stop_if.is_some() {
                    return Err(self.misfit(format!("trial {trial} has met a rule already")));
                }
                watched.stop_if = Some(met.clone());
                rows.put_trial(row)
            }
            _ => Err(self.misfit("nothing that a trial shows".into())),
        }
    }

    /// The row of a trial whose attempt runs, or has just ended.
    fn shows<R: Rows>(&self, rows: &mut R, trial: TrialId, attempt: AttemptNo) -> Result<TrialRow, R::Error> {
        let runs = |row: &TrialRow| {
            row.state == TrialState::Running && row.attempts.last().is_some_and(|last| last.n == attempt)
        };
        match rows.trial(trial)? {
            Some(row) if runs(&row) => Ok(row),
            _ => Err(self.misfit(format!("attempt {attempt} of trial {trial} does not run"))),
        }
    }

    fn rung_reached<R: Rows>(
        &self,
        rows: &mut R,
        trial: TrialId,
        attempt: AttemptNo,
        shown: Shown,
    ) -> Result<(), R::Error> {
        let mut row = self.shows(rows, trial, attempt)?;
        let watched = row.watched.get_or_insert_default();
        let Shown { at, step, value, judged, rung } = shown;
        let is_next = watched.rungs.len() as u64 == u64::from(rung) && watched.stop_if.is_none();
        if !is_next || watched.ended_at().is_some() {
            return Err(self.misfit(format!("rung {rung} is not the next of trial {trial}")));
        }
        watched.rungs.push(RungRow { at, step, value, judged, verdict: None });
        rows.put_trial(row)
    }

    fn rung_decided<R: Rows>(
        &self,
        rows: &mut R,
        trial: TrialId,
        rung: u32,
        verdict: RungVerdict,
    ) -> Result<(), R::Error> {
        let Some(mut row) = rows.trial(trial)? else {
            return Err(self.misfit(format!("trial {trial} never started")));
        };
        let rungs = row.watched.as_mut().map_or(&mut [][..], |watched| &mut watched.rungs);
        let (below, from) = rungs.split_at_mut(rungs.len().min(rung as usize));
        let is_next = below.iter().all(|rung| !rung.judged || rung.verdict.is_some_and(|verdict| verdict.keep));
        match from.first_mut().filter(|rung| is_next && rung.judged && rung.verdict.is_none()) {
            Some(rung) => rung.verdict = Some(verdict),
            None => return Err(self.misfit(format!("rung {rung} has nothing to decide of trial {trial}"))),
        }
        let mut counters = rows.counters(row.stage)?;
        let mut progress = rows.progress()?;
        let state = match row.state {
            TrialState::Pending if !verdict.keep => {
                rows.remove_ready((row.due_ms, trial))?;
                TrialState::Pruned
            }
            TrialState::Undecided if !row.awaits_decision() => {
                counters.undecided = counters.undecided.saturating_sub(1);
                let last = row.attempts.last().and_then(|last| last.outcome);
                row.ended_as(last.unwrap_or(AttemptOutcome::Cancelled))
            }
            TrialState::Pending | TrialState::Running | TrialState::Undecided => return rows.put_trial(row),
            _ => return Err(self.misfit(format!("trial {trial} is {}", row.state.name()))),
        };
        self.settle(rows, &mut row, &mut counters, &mut progress, state)?;
        rows.put_progress(progress)?;
        rows.put_counters(row.stage, counters)?;
        rows.put_trial(row)
    }
}
