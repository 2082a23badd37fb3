//! What is stored of a stage: the row that seldom changes, and the counters that every transition of its trials changes.
//!
//! Nothing here may need another row than the stage's own.

use super::super::ids::{Seq, StageIndex, TrialId, UnixMs};
use super::super::keeping::Tidied;
use super::super::value::{Metric, Metrics};
use super::{Approval, LaterStages, Parent, Proposing, Replicas, StageStatus};

/// Trials of one parent that an amendment added to a stage; see [`StageRow::more`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Position of the parent in [`StageRow::parents`]; 0 in stage 0.
    pub parent: u32,
    /// How many trials that parent had before.
    pub offset: u64,
    /// How many it gets.
    pub count: u64,
}

/// What the best value so far of a stage is measured by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstObjective {
    /// The metric that it is read from.
    pub metric: String,
    /// Whether larger is better.
    pub maximize: bool,
}

/// The best value so far of a stage's first objective.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Best {
    /// The value.
    pub value: f64,
    /// The trial that has it; the lowest-numbered among equals.
    pub trial: TrialId,
}

/// A stage, as far as it seldom changes.
#[derive(Clone, Debug, PartialEq)]
pub struct StageRow {
    /// Position in the study.
    pub index: StageIndex,
    /// Its name.
    pub name: String,
    /// At most this many trials.
    pub trial_budget: u64,
    /// At most this many survive.
    pub survivor_count: u64,
    /// Its first objective, if it has any.
    pub objective: Option<FirstObjective>,
    /// Where it stands.
    pub status: StageStatus,
    /// Number of its first trial (meaningful once open).
    pub first_trial: TrialId,
    /// Survivors of the stage before, best first.
    pub parents: Vec<Parent>,
    /// Cases per parent; one entry for stage 0.
    pub shares: Vec<u64>,
    /// What larger budgets added since, in the order they came: numbers that were planned before keep their place.
    pub more: Vec<Segment>,
    /// The sum of both, or how many trials its proposer has proposed, times the replicas of each; 0 while waiting. Kept, because
    /// every transition asks for it.
    pub planned: u64,
    /// Whether a proposer says what its trials try.
    pub proposing: Proposing,
    /// Its own survivors, best first, once closed, and after them those that explore: see [`StageRow::winners`].
    pub survivors: Vec<Parent>,
    /// The approval it needed or got.
    pub approval: Option<Approval>,
    /// When it opened.
    pub opened_ms: Option<UnixMs>,
    /// When it closed or was aborted.
    pub closed_ms: Option<UnixMs>,
    /// What becomes of the stages after it, if it was opened again and closes with other survivors.
    pub later: LaterStages,
    /// How far its `keep` was applied since it closed.
    pub tidied: Tidied,
    /// Whether directories of it are discarded of which it is not known that they are gone.
    pub discarding: bool,
    /// Which replicas of which cases its trials are.
    pub replicas: Replicas,
    /// How many of its trials count, where it ended before all of them had: those below this place. The others are outside.
    pub ended_after: Option<u64>,
}

impl StageRow {
    /// Trials planned; 0 while waiting.
    #[must_use]
    pub fn planned(&self) -> u64 {
        self.planned
    }

    /// The number after its last trial's.
    #[must_use]
    pub fn end(&self) -> TrialId {
        TrialId(self.first_trial.0.saturating_add(self.planned))
    }

    /// Cases it may have at most: those planned, or what its proposer may still fill.
    #[must_use]
    pub fn room(&self) -> u64 {
        let shares = self.shares.iter().fold(0_u64, |sum, share| sum.saturating_add(*share));
        self.more.iter().fold(shares, |sum, segment| sum.saturating_add(segment.count))
    }

    /// Whether its proposer may propose another trial.
    #[must_use]
    pub(crate) fn takes_proposals(&self) -> bool {
        self.status == StageStatus::Open && self.proposing == Proposing::Open && self.cases() < self.room()
    }

    /// Whether its proposer hears of results before it is asked.
    #[must_use]
    pub(crate) fn hears_results(&self) -> bool {
        self.proposing != Proposing::No
    }

    /// Trials it will have, as far as is known: what its proposer may still propose counts as if it did.
    #[must_use]
    pub fn expected(&self) -> u64 {
        let each = u64::from(self.rounds().max(1));
        if self.takes_proposals() { self.room().saturating_mul(each) } else { self.planned }
    }

    /// Whether the trial at this place has no part in the stage, which ended before it.
    #[must_use]
    pub fn is_outside(&self, place: u64) -> bool {
        self.ended_after.is_some_and(|count| place >= count)
    }

    /// Those that its cut chose, best first; none before it has closed.
    #[must_use]
    pub fn winners(&self) -> &[Parent] {
        cut(&self.survivors, self.survivor_count).0
    }

    /// Those that go on to explore though the cut did not choose them, in the order of their numbers.
    #[must_use]
    pub fn explorers(&self) -> &[Parent] {
        cut(&self.survivors, self.survivor_count).1
    }

    /// Whether it began with these cases, each by this attempt; their order only says which trials are whose.
    #[must_use]
    pub(crate) fn began_with(&self, survivors: &[Parent]) -> bool {
        let key = |parent: &Parent| (parent.trial, parent.attempt * u32::from(!injected_fault!(SurvivorsByTrial)));
        let sorted = |parents: &[Parent]| {
            let mut keys: Vec<_> = parents.iter().map(key).collect();
            keys.sort_unstable();
            keys
        };
        self.parents.as_slice() == survivors || sorted(&self.parents) == sorted(survivors)
    }

    /// What every transition of a trial needs of its stage.
    #[must_use]
    pub(crate) fn head(&self) -> StageHead {
        // The luckiest replica is nobody's best: what counts is said by all of a case's, once they are there.
        let objective = self.objective.clone().filter(|_| !self.is_replicated());
        StageHead { status: self.status, first_trial: self.first_trial, objective }
    }

    /// Whether `trial` is one of this stage's.
    #[must_use]
    pub fn contains(&self, trial: TrialId) -> bool {
        trial >= self.first_trial && trial.0 - self.first_trial.0 < self.planned()
    }

    /// Which parent (position in [`StageRow::parents`]) the derived case belongs to, and its place within that
    /// parent's share, which amendments make longer at its end. `None` when the index is not planned. Stage 0 has the
    /// single share 0.
    #[must_use]
    pub(crate) fn share_of(&self, derived_index: u64) -> Option<(usize, u64)> {
        let mut left = match self.is_replicated() {
            true => self.case_of(derived_index)?,
            false => derived_index,
        };
        for (position, share) in self.shares.iter().enumerate() {
            if left < *share {
                return Some((position, left));
            }
            left -= share;
        }
        for segment in &self.more {
            if left < segment.count {
                let position = usize::try_from(segment.parent).ok()?;
                return Some((position, segment.offset.saturating_add(left)));
            }
            left -= segment.count;
        }
        None
    }

    /// How many trials the parent at this position has by now.
    #[must_use]
    pub(crate) fn share_at(&self, position: usize) -> u64 {
        let first = self.shares.get(position).copied().unwrap_or(0);
        let later = self.more.iter().filter(|segment| usize::try_from(segment.parent) == Ok(position));
        later.fold(first, |sum, segment| sum.saturating_add(segment.count))
    }
}

/// Whoever goes on from a stage, as winners of its cut and those that explore. Nobody explores where fewer than `survivor_count`
/// survive: then everyone does who could.
#[must_use]
pub(crate) fn cut(survivors: &[Parent], survivor_count: u64) -> (&[Parent], &[Parent]) {
    let winners = usize::try_from(survivor_count).unwrap_or(usize::MAX).min(survivors.len());
    survivors.split_at_checked(winners).unwrap_or((survivors, &[]))
}

/// The part of a stage that is small however many parents and survivors it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageHead {
    /// Where it stands.
    pub status: StageStatus,
    /// Number of its first trial.
    pub first_trial: TrialId,
    /// Its first objective, if it has any and each trial is a case.
    pub objective: Option<FirstObjective>,
}

impl StageHead {
    /// The better of the best so far and a newly succeeded trial.
    #[must_use]
    pub(crate) fn better(&self, best: Option<Best>, trial: TrialId, metrics: &Metrics) -> Option<Best> {
        let objective = self.objective.as_ref()?;
        let Some(value) = metrics.get(&objective.metric).and_then(Metric::number).filter(|v| v.is_finite()) else {
            return best;
        };
        let wins = best.is_none_or(|best| match value.total_cmp(&best.value) {
            std::cmp::Ordering::Equal => trial < best.trial,
            std::cmp::Ordering::Greater => objective.maximize,
            std::cmp::Ordering::Less => !objective.maximize,
        });
        if wins { Some(Best { value, trial }) } else { best }
    }
}

/// A stage's counters, changed by every transition of its trials.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StageCounters {
    /// Derived cases below this index have a trial row or a place in the ready queue; the rest are only planned.
    pub next_index: u64,
    /// Trials whose attempt runs.
    pub running: u64,
    /// Trials that succeeded.
    pub succeeded: u64,
    /// Trials that failed for good.
    pub failed: u64,
    /// Trials cancelled by an abort.
    pub cancelled: u64,
    /// Sum of wall time of the attempts that succeeded or failed, for rates.
    pub ended_wall_us: u64,
    /// Attempts that succeeded or failed.
    pub ended_attempts: u64,
    /// Best value so far of the first objective.
    pub best: Option<Best>,
    /// Of those that succeeded, how many took the result of an equal one.
    pub reused: u64,
    /// Of those that succeeded, how many have a result that was made elsewhere.
    pub imported: u64,
    /// Results that the stage's proposer is told of before its first question.
    pub told: u64,
    /// The first event that has any of them; meaningful where there are any.
    pub told_from: Seq,
    /// Trials that were ended early.
    pub pruned: u64,
    /// Trials that have ended and wait for a rung's decision.
    pub undecided: u64,
}

impl StageCounters {
    /// Trials that wait for an attempt.
    #[must_use]
    pub fn pending(&self, planned: u64) -> u64 {
        planned.saturating_sub(self.running + self.undecided + self.finished())
    }

    /// Trials with a final state.
    #[must_use]
    pub fn finished(&self) -> u64 {
        self.succeeded + self.failed + self.cancelled + self.pruned
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shares of 3 and 2, then one more each, then two more for the first.
    fn stage() -> StageRow {
        let segment = |parent, offset, count| Segment { parent, offset, count };
        StageRow {
            index: 1,
            name: "s".into(),
            trial_budget: 9,
            survivor_count: 1,
            objective: None,
            status: StageStatus::Open,
            first_trial: TrialId(6),
            parents: [4, 1].map(|trial| Parent { trial: TrialId(trial), attempt: 1 }).to_vec(),
            shares: vec![3, 2],
            more: vec![segment(0, 3, 1), segment(1, 2, 1), segment(0, 4, 2)],
            planned: 9,
            proposing: Proposing::No,
            survivors: Vec::new(),
            approval: None,
            opened_ms: None,
            closed_ms: None,
            later: LaterStages::Stand,
            tidied: Tidied::No,
            discarding: false,
            replicas: Default::default(),
            ended_after: None,
        }
    }

    #[test]
    fn added_trials_come_after_all_others_and_go_on_in_their_parents_share() {
        let stage = stage();
        let places: Vec<_> = (0..9).map(|index| stage.share_of(index).unwrap()).collect();
        assert_eq!(places, [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (0, 3), (1, 2), (0, 4), (0, 5)]);
        assert_eq!(stage.share_of(9), None);
        assert_eq!((stage.share_at(0), stage.share_at(1), stage.share_at(2)), (6, 3, 0));
    }
}
