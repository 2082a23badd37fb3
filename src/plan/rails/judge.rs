//! The rails of one stage while its results come in, in any order.
//!
//! A result counts in its turn: once all trials before it are final. What came early waits here, and is all that is held.
//! Long before its turn a result can make an abort certain, whatever is still missing: from then on [`Judge::limit`] says
//! which trials cannot matter any more. It never rises.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use crate::model::Rail;
use crate::study_file::{Rails, StageRails};

/// With fewer finished trials a failure rate says nothing yet.
const FAILURE_RATE_AFTER: u64 = 5;

/// Whether more than `max`, a share in `(0, 1]`, of the `finished` trials have `failed`; never with fewer than
/// [`FAILURE_RATE_AFTER`] finished.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "no stage has 2^53 trials")]
fn failure_rate_exceeded(max: f64, failed: u64, finished: u64) -> bool {
    // Divided, not multiplied: 29 of 100 is exactly the 0.29 that people write, and 0.29 * 100 is less than 29.
    finished >= FAILURE_RATE_AFTER && failed as f64 / finished as f64 > max
}

/// What a final result means to the rails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It succeeded within all bounds.
    Fine,
    /// It succeeded beyond a bound of `abort_if`.
    OutOfBounds,
    Failed,
    /// It failed catastrophically.
    Catastrophic,
}

impl Outcome {
    const fn failed(self) -> bool {
        matches!(self, Self::Failed | Self::Catastrophic)
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Judge {
    /// Whether there is an `abort_if`.
    bounds: bool,
    max_failure_rate: Option<f64>,
    catastrophic_failures: Option<u64>,
    /// How many trials the stage has.
    planned: u64,
    /// The results of all trials below this are counted.
    next: u64,
    /// How many of those failed.
    failed: u64,
    /// Catastrophic failures among those and in the stages before.
    catastrophic: u64,
    /// Results from `next` on, as far as they can matter.
    early: BTreeMap<u64, Outcome>,
    failed_early: BTreeSet<u64>,
    /// Those of them that failed catastrophically.
    catastrophic_early: BTreeSet<u64>,
    /// Trials from here on cannot matter.
    limit: Option<u64>,
    verdict: Option<(Rail, u64)>,
    /// The stage ends after so many in a row that are no better than the best before them.
    within: Option<u64>,
    /// What the best of those below `next` came to; see [`worth`](super::worth).
    best: Option<Vec<f64>>,
    /// How many below `next`, one after the other, were no better.
    in_vain: u64,
    /// What results from `next` on came to.
    worths: BTreeMap<u64, Vec<f64>>,
    ended: Option<u64>,
}

impl Judge {
    /// For a stage with these rails, before its first result; the stages before it had so many catastrophic failures.
    #[must_use]
    pub(crate) fn new(stage: &StageRails, study: &Rails, catastrophic: u64) -> Self {
        let mut judge = Self {
            bounds: !stage.abort_if.is_empty(),
            max_failure_rate: stage.max_failure_rate,
            catastrophic_failures: study.catastrophic_failures,
            catastrophic,
            within: stage.improve_within,
            ..Self::default()
        };
        judge.look();
        judge
    }

    /// Whether there is anything that results can decide.
    #[must_use]
    pub(crate) const fn watches(&self) -> bool {
        self.bounds
            || self.max_failure_rate.is_some()
            || self.catastrophic_failures.is_some()
            || self.within.is_some()
    }

    /// A trial of an earlier stage.
    pub(super) fn before(&mut self, outcome: Option<Outcome>) {
        self.catastrophic += u64::from(outcome == Some(Outcome::Catastrophic));
        self.look();
    }

    /// The stage has so many trials; it never gets fewer.
    pub(crate) fn plan(&mut self, planned: u64) {
        self.planned = planned;
        self.foresee_rate(0);
    }

    /// The trial whose result counts next.
    #[must_use]
    pub(crate) const fn next(&self) -> u64 {
        self.next
    }

    /// Trials from this one on cannot matter: an abort is certain, and it is decided by those below.
    #[must_use]
    pub(crate) const fn limit(&self) -> Option<u64> {
        self.limit
    }

    /// The rail that is broken, and how many trials broke it: those below that number. Once there, it stays.
    #[must_use]
    pub(crate) const fn verdict(&self) -> Option<(Rail, u64)> {
        self.verdict
    }

    /// How many trials count, where the stage ends before all have finished: those below that number brought nothing better for as
    /// long as it waits, and broke no rail. Once there, it stays.
    #[must_use]
    pub(crate) fn ended(&self) -> Option<u64> {
        self.ended.filter(|count| *count < self.planned)
    }

    /// The final result of the trial at this place of the stage, and what it came to, if it can survive.
    pub(crate) fn offer(&mut self, place: u64, outcome: Outcome, worth: Option<Vec<f64>>) {
        let matters = self.limit.is_none_or(|limit| place < limit);
        let decided = self.verdict.is_some() || self.ended.is_some();
        if !self.watches() || decided || place < self.next || !matters {
            return;
        }
        if let Some(worth) = worth.filter(|_| self.within.is_some()) {
            self.worths.insert(place, worth);
        }
        self.early.insert(place, outcome);
        if outcome == Outcome::OutOfBounds {
            self.lower(place + 1);
        }
        if outcome.failed() {
            self.failed_early.insert(place);
            self.foresee_rate(place);
        }
        if outcome == Outcome::Catastrophic {
            self.catastrophic_early.insert(place);
            self.foresee_catastrophic();
        }
        while self.verdict.is_none()
            && self.ended.is_none()
            && let Some(outcome) = self.early.remove(&self.next)
        {
            self.count(outcome);
        }
    }

    /// The result whose turn it is.
    fn count(&mut self, outcome: Outcome) {
        self.failed_early.remove(&self.next);
        self.catastrophic_early.remove(&self.next);
        let worth = self.worths.remove(&self.next);
        self.next += 1;
        self.failed += u64::from(outcome.failed());
        self.catastrophic += u64::from(outcome == Outcome::Catastrophic);
        if outcome == Outcome::OutOfBounds {
            self.decide(Rail::AbortIf);
        } else if self.max_failure_rate.is_some_and(|max| failure_rate_exceeded(max, self.failed, self.next)) {
            self.decide(Rail::MaxFailureRate);
        } else {
            self.look();
        }
        if self.verdict.is_none() {
            self.compare(worth);
        }
    }

    /// Whether the last result that was counted is better than all before it; the stage ends once it was in vain for long enough.
    fn compare(&mut self, worth: Option<Vec<f64>>) {
        let Some(within) = self.within else { return };
        let is_better = match (&worth, &self.best) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(is), Some(best)) => {
                is.iter().zip(best).map(|(a, b)| a.total_cmp(b)).find(|o| o.is_ne()).is_some_and(Ordering::is_lt)
            }
        };
        if is_better {
            (self.best, self.in_vain) = (worth, 0);
            return;
        }
        self.in_vain += 1;
        if self.in_vain >= within {
            self.ended = Some(self.next);
            self.lower(self.next);
        }
    }

    /// Whether there have been too many catastrophic failures, be it before the first trial.
    fn look(&mut self) {
        if self.catastrophic_failures.is_some_and(|most| self.catastrophic >= most) {
            self.decide(Rail::CatastrophicFailures);
        }
    }

    fn decide(&mut self, rail: Rail) {
        self.verdict = Some((rail, self.next));
        self.lower(self.next);
    }

    /// The abort is certain with the trials below `limit`: what is known beyond is of no use.
    fn lower(&mut self, limit: u64) {
        if self.limit.is_some_and(|now| now <= limit) {
            return;
        }
        self.limit = Some(limit);
        drop(self.early.split_off(&limit));
        drop(self.worths.split_off(&limit));
        drop(self.failed_early.split_off(&limit));
        drop(self.catastrophic_early.split_off(&limit));
    }

    /// Whether the rate will be exceeded even if all that is missing succeeds, now that the trial at `from` is known to have
    /// failed. Between two failures the rate falls, so only the trials that failed can be where it is exceeded first, and the
    /// first that it is asked of. The steps taken are the failures known beyond `from`: as many as came before their turn.
    fn foresee_rate(&mut self, from: u64) {
        let Some(max) = self.max_failure_rate else { return };
        let first = FAILURE_RATE_AFTER.saturating_sub(1);
        let (mut found, mut failed) = (None, self.failed + self.failed_early.len() as u64);
        let mut beyond_first = 0;
        for place in self.failed_early.range(from..).rev() {
            beyond_first += u64::from(*place > first);
            if failure_rate_exceeded(max, failed, place + 1) {
                found = Some(place + 1);
            }
            failed -= 1;
        }
        let known = self.failed + self.failed_early.len() as u64 - beyond_first;
        let asked_there = from.max(self.next) <= first && first < self.planned;
        if asked_there && failure_rate_exceeded(max, known, FAILURE_RATE_AFTER) {
            found = Some(FAILURE_RATE_AFTER);
        }
        if let Some(limit) = found {
            self.lower(limit);
        }
    }

    /// The same for catastrophic failures: those known suffice, or not.
    fn foresee_catastrophic(&mut self) {
        let Some(most) = self.catastrophic_failures else { return };
        let missing = most.saturating_sub(self.catastrophic).saturating_sub(1);
        let last = usize::try_from(missing).ok().and_then(|nth| self.catastrophic_early.iter().nth(nth));
        if let Some(place) = last.copied() {
            self.lower(place + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::{Config, RngSeed};

    use super::*;
    use crate::study_file::{Bound, MetricBound};

    fn rails(bounds: bool, max_failure_rate: Option<f64>, most: Option<u64>) -> (StageRails, Rails) {
        let rule = MetricBound { metric: "m".into(), bound: Bound::Above(0.0) };
        let abort_if = if bounds { vec![rule] } else { Vec::new() };
        let stage = StageRails { abort_if, max_failure_rate, improve_within: None };
        (stage, Rails { catastrophic_failures: most, ..Rails::default() })
    }

    fn judge(rails: &(StageRails, Rails), before: u64, planned: u64) -> Judge {
        let mut judge = Judge::new(&rails.0, &rails.1, before);
        judge.plan(planned);
        judge
    }

    /// The rail that the first trials break, all of them known.
    fn breaks(rails: &(StageRails, Rails), before: u64, prefix: &[Outcome]) -> Option<Rail> {
        let count = |of: &[Outcome]| prefix.iter().filter(|outcome| of.contains(outcome)).count() as u64;
        let (failed, finished) = (count(&[Outcome::Failed, Outcome::Catastrophic]), prefix.len() as u64);
        let rate = rails.0.max_failure_rate;
        if !rails.0.abort_if.is_empty() && count(&[Outcome::OutOfBounds]) > 0 {
            Some(Rail::AbortIf)
        } else if rate.is_some_and(|max| finished >= 5 && failed as f64 / finished as f64 > max) {
            Some(Rail::MaxFailureRate)
        } else {
            let burnt = before + count(&[Outcome::Catastrophic]);
            rails.1.catastrophic_failures.is_some_and(|most| burnt >= most).then_some(Rail::CatastrophicFailures)
        }
    }

    fn outcomes() -> impl Strategy<Value = Vec<Outcome>> {
        let outcome = prop_oneof![
            8 => Just(Outcome::Fine),
            1 => Just(Outcome::OutOfBounds),
            4 => Just(Outcome::Failed),
            1 => Just(Outcome::Catastrophic),
        ];
        proptest::collection::vec(outcome, 1..40)
    }

    proptest! {
        #![proptest_config(Config { cases: 500, rng_seed: RngSeed::Fixed(3), ..Config::default() })]

        /// After each result: the verdict is that of the first prefix that breaks a rail, as soon as it is known; the limit
        /// lies after the first prefix that breaks one even if all that is missing were fine.
        #[test]
        fn verdict_and_limit_are_those_of_prefixes(
            results in outcomes(),
            bounds in any::<bool>(),
            rate in proptest::option::of(prop_oneof![Just(0.1), Just(0.29), Just(0.5), Just(0.9), Just(1.0)]),
            most in proptest::option::of(1..5_u64),
            before in 0..2_u64,
            keys in proptest::collection::vec(any::<u64>(), 40),
            spread in 0..60_u64,
        ) {
            let rails = rails(bounds, rate, most);
            let results: Vec<Outcome> = results
                .into_iter()
                .map(|outcome| if outcome == Outcome::OutOfBounds && !bounds { Outcome::Fine } else { outcome })
                .collect();
            // Nearly in order, or in any.
            let mut order: Vec<usize> = (0..results.len()).collect();
            order.sort_by_key(|place| *place as u64 + keys[*place] % (spread + 1));
            let mut judge = judge(&rails, before, results.len() as u64);
            let mut known = vec![None; results.len()];
            for place in order {
                known[place] = Some(results[place]);
                judge.offer(place as u64, results[place], None);
                let whole: Vec<Outcome> = known.iter().map_while(|outcome| *outcome).collect();
                let assumed: Vec<Outcome> = known.iter().map(|outcome| outcome.unwrap_or(Outcome::Fine)).collect();
                let first = |prefixes: &[Outcome]| {
                    let broken = |n: &usize| breaks(&rails, before, &prefixes[..*n]).is_some();
                    (0..=prefixes.len()).find(broken).map(|n| n as u64)
                };
                let verdict = first(&whole).map(|n| (breaks(&rails, before, &whole[..n as usize]).unwrap(), n));
                prop_assert_eq!(judge.verdict(), verdict);
                prop_assert_eq!(judge.limit(), first(&assumed));
                prop_assert!(judge.early.keys().all(|place| *place > judge.next && known[*place as usize].is_some()));
            }
        }
    }

    #[test]
    fn a_trial_that_is_not_planned_makes_nothing_certain() {
        let rails = rails(false, Some(0.5), None);
        let mut judge = judge(&rails, 0, 4);
        (0..4).for_each(|place| judge.offer(place, Outcome::Failed, None));
        assert_eq!((judge.verdict(), judge.limit()), (None, None), "there is no fifth of which it could be asked");
        judge.plan(5);
        assert_eq!((judge.verdict(), judge.limit()), (None, Some(5)));
        judge.offer(4, Outcome::Fine, None);
        assert_eq!(judge.verdict(), Some((Rail::MaxFailureRate, 5)));
    }

    /// 10,000 results, each some places early or late, take no longer than those that wait at a time let them.
    #[test]
    fn only_what_came_early_is_held() {
        let rails = rails(true, Some(0.9), Some(9_999));
        let mut judge = judge(&rails, 0, 10_000);
        for block in 0..1_250_u64 {
            for place in (block * 8..block * 8 + 8).rev() {
                judge.offer(place, if place % 2 == 0 { Outcome::Failed } else { Outcome::Fine }, None);
                assert!(judge.early.len() < 8);
            }
            assert!(
                judge.early.is_empty() && judge.failed_early.is_empty() && judge.catastrophic_early.is_empty()
            );
        }
        assert_eq!((judge.next(), judge.limit()), (10_000, None));
    }

    #[test]
    fn a_failure_rate_is_exceeded_only_by_more_and_only_after_five() {
        for (max, failed, finished, exceeded) in [
            (0.5, 4, 4, false),
            (0.5, 2, 5, false),
            (0.5, 3, 5, true),
            (0.5, 3, 6, false),
            (1.0, 9, 9, false),
            (0.01, 0, 1_000, false),
            (0.01, 11, 1_000, true),
            (0.5, 0, 0, false),
        ] {
            assert_eq!(
                failure_rate_exceeded(max, failed, finished),
                exceeded,
                "{failed} of {finished} over {max}"
            );
        }
        // Every share of a hundred that a person may write is exceeded by one more failure, and not before.
        for failed in 1..100 {
            let written: f64 = format!("0.{failed:02}").parse().unwrap();
            assert!(!failure_rate_exceeded(written, failed, 100), "{failed}");
            assert!(failure_rate_exceeded(written, failed + 1, 100), "{failed}");
        }
    }

    /// In whatever order results come: the stage ends after the first run of so many that are no better, if no rail is broken before.
    #[test]
    fn a_stage_ends_where_nothing_got_better_for_long_enough() {
        let of = |within: u64| StageRails { improve_within: Some(within), ..StageRails::default() };
        // Smaller is better; one fails, one cannot survive.
        let results =
            [Some(5.0), Some(6.0), None, Some(4.0), Some(4.0), None, Some(9.0), Some(1.0), Some(0.5), Some(7.0)];
        for (within, ends) in [(1, Some(2)), (2, Some(3)), (3, Some(7)), (4, None), (5, None)] {
            for order in 0..500_u64 {
                let mut judge = Judge::new(&of(within), &Rails::default(), 0);
                judge.plan(10);
                let mut places: Vec<u64> = (0..10).collect();
                places.sort_by_key(|place| {
                    (place + 1).wrapping_mul(order.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1) >> 7
                });
                for place in places {
                    let worth = results[place as usize].map(|value| vec![value]);
                    let outcome = if place == 2 { Outcome::Failed } else { Outcome::Fine };
                    judge.offer(place, outcome, worth);
                    assert!(judge.worths.len() <= judge.early.len());
                }
                assert_eq!((judge.ended(), judge.verdict()), (ends, None), "{within}, order {order}");
                assert_eq!(judge.limit(), ends);
            }
        }
        // The objectives in their order; and where all have finished nothing has ended early.
        let mut judge = Judge::new(&of(2), &Rails::default(), 0);
        judge.plan(4);
        for (place, worth) in (0..).zip([[1.0, 9.0], [1.0, 8.0], [2.0, 0.0], [1.0, 8.0]]) {
            judge.offer(place, Outcome::Fine, Some(worth.to_vec()));
        }
        assert_eq!((judge.ended(), judge.limit()), (None, Some(4)));
        judge.plan(5);
        assert_eq!(judge.ended(), Some(4));
    }

    /// What lies beyond its end breaks no rail, also if it was known before; at the same trial the rail counts.
    #[test]
    fn rails_and_the_end_of_a_stage_come_in_order() {
        let rule = MetricBound { metric: "m".into(), bound: Bound::Above(0.0) };
        let rails = StageRails { abort_if: vec![rule], max_failure_rate: None, improve_within: Some(2) };
        let judged = |broken: u64| {
            let mut judge = Judge::new(&rails, &Rails::default(), 0);
            judge.plan(9);
            for place in (0..9).rev() {
                let outcome = if place == broken { Outcome::OutOfBounds } else { Outcome::Fine };
                judge.offer(place, outcome, Some(vec![place as f64]));
            }
            (judge.ended(), judge.verdict(), judge.limit())
        };
        assert_eq!(judged(1), (None, Some((Rail::AbortIf, 2)), Some(2)));
        assert_eq!(judged(2), (None, Some((Rail::AbortIf, 3)), Some(3)));
        assert_eq!(judged(3), (Some(3), None, Some(3)));
        assert_eq!(judged(8), (Some(3), None, Some(3)));
    }
}
