//! In-order halving: which trials a stage ends at its rungs, as a pure function of what the trials showed there.
//!
//! A trial is judged at a rung against trials of lower number only, so neither timing nor the number of workers decides. `fates` is
//! the definition; [`Ladder`] is what an engine holds: it is fed in any order, and knows each decision as soon as what is
//! missing cannot change it. Nothing here may look at anything but numbers, rungs and values.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// What a trial showed at a rung.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Shown {
    /// Which rung, from 0.
    pub rung: u32,
    /// The rung's step.
    pub at: u64,
    /// The step of the report that counts there.
    pub step: u64,
    /// Its value; `None`: not finite, worse than any.
    pub value: Option<f64>,
    /// Whether the rung judges it. One that succeeded before the rung only fills its place there.
    pub judged: bool,
}

/// A trial's way up: its reports in their order, each step above the one before.
#[derive(Clone, Debug)]
pub(crate) struct Climb {
    rungs: Vec<u64>,
    next: usize,
    last: Option<(u64, Option<f64>)>,
}

impl Climb {
    /// Before the first report; the rungs' steps grow.
    pub(crate) fn new(rungs: &[u64]) -> Self {
        Self { rungs: rungs.to_vec(), next: 0, last: None }
    }

    /// Takes up the next report: the rungs that it reaches. What counts there is the last report at or before the rung;
    /// without one so early, the first of all.
    pub(crate) fn take(&mut self, step: u64, value: Option<f64>) -> Vec<Shown> {
        let mut shown = Vec::new();
        while let Some(at) = self.rungs.get(self.next).copied().filter(|at| step >= *at) {
            let (step, value) = match self.last {
                Some(last) if step > at => last,
                _ => (step, value),
            };
            shown.push(Shown { rung: self.rung(), at, step, value, judged: true });
            self.next += 1;
        }
        self.last = Some((step, value));
        shown
    }

    /// What it shows at the rungs that it did not reach, having succeeded.
    pub(crate) fn rest(&mut self) -> Vec<Shown> {
        let mut shown = Vec::new();
        while let (Some(at), Some((step, value))) = (self.rungs.get(self.next).copied(), self.last) {
            shown.push(Shown { rung: self.rung(), at, step, value, judged: false });
            self.next += 1;
        }
        shown
    }

    /// Whether every rung is reached.
    pub(crate) fn is_over(&self) -> bool {
        self.next >= self.rungs.len()
    }

    fn rung(&self) -> u32 {
        u32::try_from(self.next).unwrap_or(u32::MAX)
    }
}

/// A value as something of which less is better; what is not finite is worst, and ties with its like.
#[must_use]
pub(crate) fn cost(value: Option<f64>, maximize: bool) -> f64 {
    match value.filter(|value| value.is_finite()) {
        Some(value) if maximize => 0.0 - value,
        Some(value) => value + 0.0,
        None => f64::INFINITY,
    }
}

/// How many go on at a rung.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// How many rungs there are.
    pub rungs: u32,
    /// About the best of so many go on; at least 2.
    pub eta: u64,
    /// One among the best so many goes on always.
    pub keep: u64,
}

impl Rule {
    /// Of so many trials how many may go on: it grows by 0 or 1 with them.
    #[must_use]
    pub fn allowed(self, of: u64) -> u64 {
        self.keep.max(of.div_ceil(self.eta.max(1)))
    }
}

/// The rung that ends each trial, by what all of them showed: `trials` in the order of their numbers, each with its cost and whether
/// it is judged, from rung 0 on; where its list ends it showed nothing.
#[cfg(test)]
#[must_use]
pub(crate) fn fates(rule: Rule, trials: &[Vec<(f64, bool)>]) -> Vec<Option<u32>> {
    let mut columns: Vec<Vec<f64>> = vec![Vec::new(); rule.rungs as usize];
    let mut fates = Vec::with_capacity(trials.len());
    for trial in trials {
        let mut fate = None;
        for ((column, (cost, judged)), rung) in columns.iter_mut().zip(trial).zip(0..) {
            let better = column.iter().filter(|other| *other < cost).count() as u64;
            column.push(*cost);
            if *judged && better >= rule.allowed(column.len() as u64) {
                fate = Some(rung);
                break;
            }
        }
        fates.push(fate);
    }
    fates
}

/// A decision, and what it rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decided {
    /// The trial's place in its stage, from 0.
    pub place: u64,
    /// Which rung, from 0.
    pub rung: u32,
    /// Whether the trial goes on.
    pub keep: bool,
    /// So many of lower number were better, as far as was known.
    pub better: u64,
    /// Of so many, itself among them.
    pub of: u64,
    /// Of lower number, so many were not known, and could not change it.
    pub unknown: u64,
}

/// A place in a rung's column.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Slot {
    Unknown,
    Absent,
    Cost(f64),
}

/// A trial that waits for a rung's decision.
#[derive(Clone, Copy, Debug)]
struct Pending {
    cost: f64,
    better: u64,
    of: u64,
    unknown: u64,
}

impl Pending {
    fn learn(&mut self, slot: Slot) {
        match slot {
            Slot::Unknown => self.unknown += 1,
            Slot::Absent => {}
            Slot::Cost(cost) => {
                self.of += 1;
                self.better += u64::from(cost < self.cost);
            }
        }
    }

    /// Whether it goes on, once what is missing cannot change that.
    fn verdict(&self, rule: Rule) -> Option<bool> {
        if injected_fault!(DecidedByArrival) {
            return Some(self.better < rule.allowed(self.of));
        }
        let allowed = rule.allowed(self.of.saturating_add(self.unknown));
        if self.better >= allowed {
            // Even if all that is missing were worse.
            Some(false)
        } else if self.better.saturating_add(self.unknown) < allowed {
            // Even if all that is missing were better.
            Some(true)
        } else {
            None
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Column {
    slots: Vec<Slot>,
    pending: BTreeMap<u64, Pending>,
}

impl Column {
    /// A trial comes to each rung once, so its place is open.
    fn fill(&mut self, place: u64, slot: Slot) {
        let Ok(position) = usize::try_from(place) else { return };
        if self.slots.len() <= position {
            self.slots.resize(position + 1, Slot::Unknown);
        }
        let Some(open) = self.slots.get_mut(position) else { return };
        *open = slot;
        for pending in self.pending.range_mut(place.saturating_add(1)..).map(|(_, pending)| pending) {
            pending.unknown = pending.unknown.saturating_sub(1);
            pending.learn(slot);
        }
    }

    fn wait(&mut self, place: u64, cost: f64) {
        let mut pending = Pending { cost, better: 0, of: 1, unknown: 0 };
        let before = usize::try_from(place).unwrap_or(usize::MAX);
        self.slots.iter().take(before).for_each(|slot| pending.learn(*slot));
        pending.unknown += place.saturating_sub(self.slots.len() as u64);
        self.pending.insert(place, pending);
    }
}

/// A trial whose last rung is not decided.
#[derive(Clone, Debug, Default)]
struct Climber {
    /// The rungs below this are behind it.
    level: u32,
    /// Whether it waits for the decision at that one.
    waits: bool,
    shown: BTreeMap<u32, (f64, bool)>,
    /// Whether it shows nothing more.
    ended: bool,
}

/// All rungs of a stage while its trials come to them, in any order.
#[derive(Clone, Debug)]
pub struct Ladder {
    rule: Rule,
    columns: Vec<Column>,
    climbers: BTreeMap<u64, Climber>,
    /// Trials whose rungs are behind them, or that a rung has ended.
    done: BTreeSet<u64>,
    /// Rungs in which something was learnt.
    stirred: BTreeSet<u32>,
}

impl Ladder {
    /// Before the first trial.
    pub fn new(rule: Rule) -> Self {
        Self {
            rule,
            columns: vec![Column::default(); rule.rungs as usize],
            climbers: BTreeMap::new(),
            done: BTreeSet::new(),
            stirred: BTreeSet::new(),
        }
    }

    /// A trial shows something at a rung, for the first time. It counts once the trial is kept at all rungs below.
    pub fn show(&mut self, place: u64, rung: u32, cost: f64, judged: bool) {
        if rung >= self.rule.rungs || self.done.contains(&place) {
            return;
        }
        let climber = self.climbers.entry(place).or_default();
        if climber.ended || rung < climber.level {
            return;
        }
        climber.shown.entry(rung).or_insert((cost, judged));
        self.climb(place);
    }

    /// A trial shows nothing more.
    pub fn end(&mut self, place: u64) {
        if !self.done.contains(&place) {
            self.climbers.entry(place).or_default().ended = true;
            self.climb(place);
        }
    }

    /// A decision that was recorded.
    pub(crate) fn recorded(&mut self, place: u64, rung: u32, keep: bool) {
        let waits = self.climbers.get(&place).is_some_and(|climber| climber.waits && climber.level == rung);
        if waits {
            self.pass(place, rung, keep);
        }
    }

    /// All decisions that can be taken by now and were not, in an order in which each rests on what is known.
    pub fn settle(&mut self) -> Vec<Decided> {
        let mut all = Vec::new();
        while let Some(rung) = self.stirred.pop_first() {
            let Some(column) = self.columns.get(rung as usize) else { continue };
            let rule = self.rule;
            let decided = |(place, pending): (&u64, &Pending)| {
                let Pending { better, of, unknown, .. } = *pending;
                pending.verdict(rule).map(|keep| Decided { place: *place, rung, keep, better, of, unknown })
            };
            let decided: Vec<Decided> = column.pending.iter().filter_map(decided).collect();
            for decided in &decided {
                self.pass(decided.place, rung, decided.keep);
            }
            all.extend(decided);
        }
        all
    }

    /// A rung is decided.
    fn pass(&mut self, place: u64, rung: u32, keep: bool) {
        if let Some(column) = self.columns.get_mut(rung as usize) {
            column.pending.remove(&place);
        }
        let Some(climber) = self.climbers.get_mut(&place) else { return };
        climber.waits = false;
        climber.level = rung.saturating_add(1);
        if !keep {
            climber.ended = true;
            climber.shown.clear();
        }
        self.climb(place);
    }

    /// Takes a trial as far up as what it has shown lets it.
    fn climb(&mut self, place: u64) {
        let Some(climber) = self.climbers.get_mut(&place) else { return };
        while !climber.waits && climber.level < self.rule.rungs {
            let rung = climber.level;
            let slot = match climber.shown.remove(&rung) {
                Some((cost, judged)) => {
                    climber.waits = judged;
                    if !judged {
                        climber.level += 1;
                    }
                    Slot::Cost(cost)
                }
                None if climber.ended => {
                    climber.level += 1;
                    Slot::Absent
                }
                None => return,
            };
            let Some(column) = self.columns.get_mut(rung as usize) else { return };
            column.fill(place, slot);
            if let (true, Slot::Cost(cost)) = (climber.waits, slot) {
                column.wait(place, cost);
            }
            self.stirred.insert(rung);
        }
        if climber.level >= self.rule.rungs {
            self.climbers.remove(&place);
            self.done.insert(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// How a trial of the vectors ends.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum End {
        Succeeded,
        Failed,
    }
    use End::{Failed, Succeeded};

    type Trial = (Vec<(u64, f64)>, End);

    /// What a trial shows, by its whole file of reports: the definition's words, not [`Climb`]'s.
    fn slots(reports: &[(u64, f64)], end: End, rungs: &[u64]) -> Vec<(f64, bool)> {
        let mut clean: Vec<(u64, f64)> = Vec::new();
        for (step, value) in reports {
            if clean.last().is_none_or(|(last, _)| step > last) {
                clean.push((*step, *value));
            }
        }
        let mut shown = Vec::new();
        for rung in rungs {
            let reached = clean.iter().any(|(step, _)| step >= rung);
            let before = clean.iter().rfind(|(step, _)| step <= rung).or(clean.first());
            match before {
                Some((_, value)) if reached || end == Succeeded => {
                    shown.push((cost(Some(*value), false), reached))
                }
                _ => break,
            }
        }
        shown
    }

    /// The same, report by report.
    fn climbed(reports: &[(u64, f64)], end: End, rungs: &[u64]) -> Vec<(f64, bool)> {
        let (mut climb, mut shown, mut last) = (Climb::new(rungs), Vec::new(), None);
        for (step, value) in reports {
            if last.is_none_or(|last| *step > last) {
                last = Some(*step);
                shown.extend(climb.take(*step, Some(*value)));
            }
        }
        if end == Succeeded {
            shown.extend(climb.rest());
        }
        assert!((0..).zip(&shown).all(|(rung, shown)| shown.rung == rung));
        shown.iter().map(|shown| (cost(shown.value, false), shown.judged)).collect()
    }

    fn vector(rungs: &[u64], eta: u64, keep: u64, trials: &[Trial]) -> Vec<Option<u64>> {
        let rule = Rule { rungs: rungs.len() as u32, eta, keep };
        let shown: Vec<_> = trials.iter().map(|(reports, end)| slots(reports, *end, rungs)).collect();
        let climbed: Vec<_> = trials.iter().map(|(reports, end)| climbed(reports, *end, rungs)).collect();
        assert_eq!(format!("{climbed:?}"), format!("{shown:?}"));
        fates(rule, &shown).into_iter().map(|fate| fate.map(|rung| rungs[rung as usize])).collect()
    }

    fn full(a: f64, b: f64, c: f64) -> Trial {
        (vec![(2, a), (4, b), (8, c)], Succeeded)
    }

    #[test]
    fn h1_basic() {
        let trials = [
            full(5., 4., 3.),
            full(6., 1., 1.),
            full(4., 5., 2.),
            full(4., 3., 2.),
            full(4.5, 2., 1.),
            full(3., 3.5, 2.),
            full(9., 0., 0.),
        ];
        assert_eq!(vector(&[2, 4], 2, 1, &trials), [None, Some(2), Some(4), None, None, None, Some(2)]);
    }

    #[test]
    fn h2_keep() {
        let trials = [
            full(5., 4., 3.),
            full(6., 5., 1.),
            full(7., 5., 2.),
            full(8., 3., 2.),
            full(4.5, 4.5, 1.),
            full(5., 3.5, 2.),
            full(5.5, 1., 0.),
        ];
        assert_eq!(vector(&[2, 4], 3, 3, &trials), [None, None, None, Some(2), None, None, Some(2)]);
    }

    #[test]
    fn h3_odd_reports() {
        let trials: [Trial; 10] = [
            (vec![(4, 1.), (8, 1.)], Succeeded),
            (vec![(3, 0.5), (5, 9.), (8, 0.9)], Succeeded),
            (vec![(6, 0.4), (9, 0.4)], Succeeded),
            (vec![(2, 3.)], Succeeded),
            (vec![(2, 0.1)], Failed),
            (vec![(4, f64::NAN), (8, 0.)], Succeeded),
            (vec![], Succeeded),
            (vec![(4, 0.5), (4, 9.), (3, 9.), (8, 0.8)], Succeeded),
            (vec![(4, 0.3), (5, 0.2)], Failed),
            (vec![(4, 2.)], Failed),
        ];
        let expected = [None, None, None, None, None, Some(4), None, None, None, Some(4)];
        assert_eq!(vector(&[4, 8], 2, 1, &trials), expected);
        let slots = |trial: usize| slots(&trials[trial].0, trials[trial].1, &[4, 8]);
        assert_eq!(slots(1), [(0.5, true), (0.9, true)]);
        assert_eq!(slots(2), [(0.4, true), (0.4, true)], "the first report");
        assert_eq!(slots(3), [(3., false), (3., false)], "not judged");
        assert_eq!((slots(4), slots(6), slots(8)), (vec![], vec![], vec![(0.3, true)]));
        assert_eq!(slots(7), [(0.5, true), (0.8, true)]);
    }

    #[test]
    fn h4_a_metric_that_says_nothing_ends_nobody() {
        let trials = [3., 1., 2., 0.].map(|last| (vec![(1, 7.), (2, last)], Succeeded));
        assert_eq!(vector(&[1], 4, 1, &trials), [None; 4]);
    }

    /// Costs of the trials before the last, `None`: not known, `Some(None)`: absent.
    fn early(known: &[Option<Option<f64>>], last: f64) -> Option<bool> {
        let mut ladder = Ladder::new(Rule { rungs: 1, eta: 3, keep: 1 });
        for (place, slot) in (0..).zip(known) {
            match slot {
                Some(Some(cost)) => ladder.show(place, 0, *cost, true),
                Some(None) => ladder.end(place),
                None => {}
            }
        }
        let place = known.len() as u64;
        ladder.show(place, 0, last, true);
        ladder.settle().iter().find(|decided| decided.place == place).map(|decided| decided.keep)
    }

    #[test]
    fn h6_decided_when_certain() {
        let some = |values: &[f64]| values.iter().map(|value| Some(Some(*value))).collect::<Vec<_>>();
        let (unknown, absent) = (None, Some(None));
        let five = [some(&[1., 2., 3., 4., 5.]), vec![unknown]].concat();
        assert_eq!(early(&five, 2.5), None);
        assert_eq!(early(&five, 3.5), Some(false));
        assert_eq!(early(&[some(&[1., 2., 3., 4.]), vec![unknown; 2]].concat(), 0.5), Some(true));
        assert_eq!(early(&[some(&[1., 2., 3., 4.]), vec![unknown, absent]].concat(), 0.5), Some(true));
        assert_eq!(early(&[unknown; 6], 0.5), None);
        assert_eq!(early(&[some(&[1., 1.5, 2.]), vec![unknown; 3]].concat(), 9.), Some(false));
        assert_eq!(early(&[some(&[1., 1.5]), vec![unknown; 4]].concat(), 9.), None);
    }

    #[test]
    fn what_is_not_finite_is_worst_and_zero_has_no_sign() {
        for odd in [None, Some(f64::NAN), Some(f64::INFINITY), Some(f64::NEG_INFINITY)] {
            assert_eq!((cost(odd, true), cost(odd, false)), (f64::INFINITY, f64::INFINITY));
        }
        assert_eq!((cost(Some(2.), true), cost(Some(2.), false)), (-2., 2.));
        assert!(cost(Some(-0.), false).is_sign_positive() && cost(Some(0.), true).is_sign_positive());
    }

    fn trial() -> impl Strategy<Value = Trial> {
        let value = prop_oneof![Just(1.), Just(2.), Just(3.), Just(f64::NAN), 0.0..4.0];
        let reports = proptest::collection::vec((0_u64..12, value), 0..10);
        (reports, prop_oneof![3 => Just(Succeeded), 1 => Just(Failed)])
    }

    proptest! {
        /// Whatever is reported, in whatever order it becomes known: what is decided is what the definition says, nothing is
        /// decided twice, everything is decided in the end, and more trials change nothing.
        #[test]
        fn a_ladder_fed_in_any_order_gives_the_fates(
            trials in proptest::collection::vec(trial(), 1..20),
            eta in 2_u64..5,
            keep in 1_u64..4,
            keys in proptest::collection::vec(any::<u32>(), 200),
            restart in any::<prop::sample::Index>(),
        ) {
            let rungs = [2, 4, 8];
            let rule = Rule { rungs: 3, eta, keep };
            let shown: Vec<_> = trials.iter().map(|(reports, end)| slots(reports, *end, &rungs)).collect();
            for (trial, shown) in trials.iter().zip(&shown) {
                prop_assert_eq!(format!("{:?}", climbed(&trial.0, trial.1, &rungs)), format!("{shown:?}"));
            }
            let fates_of = fates(rule, &shown);
            prop_assert_eq!(&fates(rule, &shown[..shown.len() / 2])[..], &fates_of[..shown.len() / 2]);
            // Each trial shows its rungs in order and then ends; the trials go on side by side.
            let mut feeds: Vec<(u32, u64, Option<u32>)> = Vec::new();
            for (place, shown) in shown.iter().enumerate() {
                let mut at: Vec<u32> = (0..=shown.len()).map(|n| keys[(place * 7 + n) % keys.len()]).collect();
                at.sort_unstable();
                let rungs = (0..shown.len() as u32).map(Some).chain([None]);
                feeds.extend(at.into_iter().zip(rungs).map(|(at, rung)| (at, place as u64, rung)));
            }
            feeds.sort_by_key(|(at, place, rung)| (*at, *place, rung.unwrap_or(u32::MAX)));
            let feed = |ladder: &mut Ladder, (_, place, rung): &(u32, u64, Option<u32>)| match rung {
                Some(rung) => {
                    let (cost, judged) = shown[*place as usize][*rung as usize];
                    ladder.show(*place, *rung, cost, judged);
                    // Once filled, never again.
                    ladder.show(*place, *rung, -1.0, judged);
                }
                None => ladder.end(*place),
            };
            let (mut ladder, mut decided) = (Ladder::new(rule), Vec::new());
            let crash = restart.index(feeds.len());
            for (n, one) in feeds.iter().enumerate() {
                if n == crash {
                    // Another engine has what is recorded, and nothing else.
                    ladder = Ladder::new(rule);
                    let mut known: Vec<_> = feeds[..n].to_vec();
                    known.sort_by_key(|(_, place, rung)| (*place, rung.unwrap_or(u32::MAX)));
                    for one in &known {
                        feed(&mut ladder, one);
                        for decided in decided.iter().filter(|decided: &&Decided| decided.place == one.1) {
                            ladder.recorded(decided.place, decided.rung, decided.keep);
                        }
                    }
                    prop_assert_eq!(ladder.settle(), vec![]);
                }
                feed(&mut ladder, one);
                decided.extend(ladder.settle());
            }
            for (place, fate) in (0_u64..).zip(&fates_of) {
                let own: Vec<_> = decided.iter().filter(|decided| decided.place == place).collect();
                prop_assert!(own.windows(2).all(|two| two[0].rung < two[1].rung && two[0].keep));
                let last = own.last().filter(|last| !last.keep).map(|last| last.rung);
                prop_assert_eq!(last, *fate);
                let judged = shown[place as usize].iter().filter(|(_, judged)| *judged).count();
                let due = fate.map_or(judged, |rung| rung as usize + 1);
                prop_assert_eq!(own.len(), due);
            }
            prop_assert!(ladder.columns.iter().all(|column| column.pending.is_empty()));
        }
    }
}
