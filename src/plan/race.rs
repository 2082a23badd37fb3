//! Who leaves a race after a round, and whether another one follows.
//!
//! A case leaves when the evidence of [`evidence()`] says that it is not among those that survive: in each round that two cases have both
//! run, the one with the smaller cost wins. Rounds are whole before anybody looks at them, so all of it is a function of the spec, the
//! stage's row and recorded metrics alone, in whatever order they come. It must never look at a round that is not over.
//!
//! Why the best are safe: at most `survivor_count` - 1 cases beat one of the true best more often than not, and without the largest
//! evidences of so many others the mean of the rest is at most 1 in expectation, however often one looks. So one of the true
//! best is ever dropped with a probability of at most 1 - `confidence` (Ville, and a union over the best).

use std::collections::HashMap;

use super::bounds::unmet;
use super::evidence::{as_float, evidence};
use super::select::cost;
use crate::model::{LeftCase, Metrics, StageRow};
use crate::study_file::{RaceSpec, StageSpec};

/// What a round of a race comes to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RoundOver {
    /// Who leaves, in the order of their derived indices.
    pub left: Vec<LeftCase>,
    /// How many more rounds follow; 0: the race is over.
    pub more: u32,
}

/// A race after the rounds that are planned, whose trials have all ended.
#[derive(Debug)]
pub(crate) struct Race<'a> {
    spec: &'a StageSpec,
    race: &'a RaceSpec,
    row: &'a StageRow,
    /// Of each case, by replica: its cost, `None` where none has succeeded.
    costs: Vec<Vec<Option<f64>>>,
}

impl<'a> Race<'a> {
    /// The race of a stage; `None` where there is none.
    #[must_use]
    pub(crate) fn new(spec: &'a StageSpec, row: &'a StageRow) -> Option<Self> {
        let race = spec.race.as_ref().filter(|_| row.is_replicated())?;
        let rounds = row.rounds() as usize;
        let cases = usize::try_from(row.cases()).unwrap_or(usize::MAX).min(RaceSpec::CASES_MAX);
        Some(Self { spec, race, row, costs: vec![vec![None; rounds]; cases] })
    }

    /// Offers the succeeded trial at this place, each once, in any order.
    pub(crate) fn offer(&mut self, place: u64, metrics: &Metrics) {
        let Some((case, replica)) = self.row.replica_of(place) else { return };
        // What could not survive is worse than what could, and no better than its like.
        let cost = match unmet(&self.spec.require, metrics) {
            Some(_) => f64::INFINITY,
            None => cost(&self.race.objective, metrics).unwrap_or(f64::INFINITY),
        };
        let of_case = usize::try_from(case).ok().and_then(|case| self.costs.get_mut(case));
        if let Some(place) = of_case.and_then(|costs| costs.get_mut(replica as usize)) {
            *place = Some(cost);
        }
    }

    /// What the last round that is planned comes to.
    #[must_use]
    pub(crate) fn finish(self) -> RoundOver {
        let (rounds, survivors) =
            (self.row.rounds(), usize::try_from(self.spec.survivor_count).unwrap_or(usize::MAX));
        let cases = self.costs.len();
        let standings: Vec<Standing> = (0..cases).map(|case| self.standing(case)).collect();
        let last = rounds.saturating_sub(1);
        let failed = |(case, is): (usize, &Standing)| {
            let left = LeftCase { case: case as u64, round: last, evidence: None };
            is.failed_now.then_some(left)
        };
        let mut left: Vec<LeftCase> = standings.iter().enumerate().filter_map(failed).collect();
        let racing: Vec<usize> =
            (0..cases).filter(|case| standings.get(*case).is_some_and(|is| is.racing)).collect();
        let enough = rounds >= self.race.min;
        let mut still = racing.len();
        if enough && still > survivors {
            let mut against = self.against(&racing, &standings, survivors);
            let level = self.race.level(self.spec.survivor_count);
            against.retain(|(_, evidence)| *evidence >= level);
            // Most evidence first; of equal ones the higher number.
            against.sort_by(|(a, much), (b, more)| more.total_cmp(much).then(b.cmp(a)));
            against.truncate(still.saturating_sub(survivors));
            still = still.saturating_sub(against.len());
            let dropped = |(case, evidence): (usize, f64)| LeftCase {
                case: case as u64,
                round: last,
                evidence: Some(evidence),
            };
            left.extend(against.into_iter().map(dropped));
        }
        left.sort_by_key(|left| left.case);
        let over = still == 0 || (enough && still <= survivors) || rounds >= self.race.max;
        RoundOver { left, more: u32::from(!over) }
    }

    /// How a case stands after the rounds so far, before anybody leaves.
    fn standing(&self, case: usize) -> Standing {
        let rounds = self.row.rounds() as usize;
        let run = match self.row.left(case as u64) {
            Some(left) => left.round as usize + 1,
            None => rounds,
        };
        let costs = self.costs.get(case).map_or(&[][..], Vec::as_slice);
        let succeeded = costs.iter().take(run).take_while(|cost| cost.is_some()).count();
        let has_left = self.row.left(case as u64).is_some();
        Standing {
            counted: succeeded,
            racing: !has_left && succeeded == rounds,
            failed_now: !has_left && succeeded < rounds,
        }
    }

    /// The evidence that each of those still racing is not among the best so many.
    fn against(&self, racing: &[usize], standings: &[Standing], survivors: usize) -> Vec<(usize, f64)> {
        let mut known: HashMap<(u32, u32), f64> = HashMap::new();
        let cases = self.costs.len();
        let counted = |case: usize| standings.get(case).map_or(0, |standing| standing.counted);
        let mut found = Vec::with_capacity(racing.len());
        for case in racing {
            let Some(own) = self.costs.get(*case) else { continue };
            let mut others: Vec<f64> = Vec::with_capacity(cases);
            for (other, costs) in self.costs.iter().enumerate().filter(|(other, _)| other != case) {
                let (mut wins, mut losses) = (0_u32, 0_u32);
                for (theirs, own) in costs.iter().zip(own).take(counted(other)) {
                    wins += u32::from(theirs < own);
                    losses += u32::from(own < theirs);
                }
                others.push(*known.entry((wins, losses)).or_insert_with(|| evidence(wins, losses)));
            }
            others.sort_by(|a, b| b.total_cmp(a));
            let rest = others.iter().skip(survivors.saturating_sub(1)).fold(0.0, |sum, evidence| sum + evidence);
            found.push((*case, rest / as_float(cases.saturating_sub(survivors))));
        }
        found
    }
}

/// How a case stands.
#[derive(Clone, Copy, Debug)]
struct Standing {
    /// Its rounds that are compared with those of others: up to the first that failed, or to the one it left after.
    counted: usize,
    racing: bool,
    /// It failed since the last look.
    failed_now: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Metric, StageDecl};
    use crate::{Range, Stage, Study};

    /// Runs a race over these rounds, each the costs by case, `NAN` of one that fails: who left after which round (from 1), with what
    /// evidence, and how many rounds it took.
    fn raced(min: u32, survivors: u64, rounds: &[&[f64]]) -> (Vec<(u64, u32, Option<f64>)>, u32) {
        let (cases, most) = (rounds[0].len(), rounds.len() as u32);
        raced_by((cases as u64, min, most), survivors, |round, case| rounds[round as usize][case as usize])
    }

    /// The same, of so many cases in at least and at most so many rounds, with the cost that a case has in a round.
    fn raced_by(
        (cases, min, most): (u64, u32, u32),
        survivors: u64,
        cost: impl Fn(u32, u64) -> f64,
    ) -> (Vec<(u64, u32, Option<f64>)>, u32) {
        let cases = cases as i64;
        let stage = Stage::unbound("s").budget(cases as u64 * u64::from(most)).survivors(survivors).minimize("t");
        let stage = stage.race(min, most).range("n", Range::int(1..=cases));
        let spec = Study::builder("t").stage(stage).spec().unwrap().stages.remove(0);
        let decl = StageDecl {
            name: "s".into(),
            trial_budget: 9,
            survivor_count: survivors,
            objective: None,
            proposed: false,
        };
        let mut row = StageRow { shares: vec![cases as u64], ..crate::model::waiting(0, &decl) };
        crate::plan::plan_trials(&spec, &mut row);
        let mut results: Vec<(u64, Metrics)> = Vec::new();
        let mut known = 0;
        loop {
            for place in known..row.planned {
                let (case, replica) = row.replica_of(place).unwrap();
                let cost = cost(replica, case);
                if !cost.is_nan() {
                    results.push((place, Metrics::from([("t".into(), Metric::Number(cost))])));
                }
            }
            known = row.planned;
            let mut race = Race::new(&spec, &row).unwrap();
            // In any order.
            results.iter().rev().for_each(|(place, metrics)| race.offer(*place, metrics));
            let RoundOver { left, more } = race.finish();
            assert!(row.leave(&left));
            if more == 0 {
                let left =
                    row.replicas.left.iter().map(|left| (left.case, left.round + 1, left.evidence)).collect();
                return (left, row.rounds());
            }
            assert!(row.add_rounds(more, false));
        }
    }

    fn when(min: u32, survivors: u64, rounds: &[&[f64]]) -> (Vec<(u64, u32)>, u32) {
        let (left, took) = raced(min, survivors, rounds);
        (left.into_iter().map(|(case, round, _)| (case, round)).collect(), took)
    }

    const R3: [[f64; 3]; 12] = [
        [10.0, 12.0, 15.0],
        [11.0, 13.0, 16.0],
        [9.0, 12.0, 14.0],
        [12.0, 11.0, 17.0],
        [10.0, 13.0, 15.0],
        [11.0, 12.0, 16.0],
        [10.0, 11.0, 15.0],
        [9.0, 12.0, 14.0],
        [10.0, 12.0, 16.0],
        [11.0, 13.0, 15.0],
        [10.0, 11.0, 14.0],
        [12.0, 13.0, 16.0],
    ];

    fn with(more: impl Fn(&[f64; 3]) -> Vec<f64>) -> Vec<Vec<f64>> {
        R3.iter().map(|round| [round.to_vec(), more(round)].concat()).collect()
    }

    fn slices(rounds: &[Vec<f64>]) -> Vec<&[f64]> {
        rounds.iter().map(Vec::as_slice).collect()
    }

    /// Answers of the reference to races R3 to R6 of the design, from an independent program in Python.
    #[test]
    fn known_races() {
        let r3: Vec<&[f64]> = R3.iter().map(<[f64; 3]>::as_slice).collect();
        assert_eq!(when(1, 1, &r3), (vec![(1, 12), (2, 6)], 12));
        let r4 = with(|round| vec![round[0]]);
        assert_eq!(when(1, 1, &slices(&r4)), (vec![(1, 11), (2, 6)], 12), "0 and 3 tie for ever");
        let mut r5 = R3;
        r5[3][2] = f64::NAN;
        let r5: Vec<&[f64]> = r5.iter().map(<[f64; 3]>::as_slice).collect();
        assert_eq!(when(1, 1, &r5), (vec![(1, 12), (2, 4)], 12));
        assert_eq!(raced(1, 1, &r5).0[1].2, None);
        let r6 = with(|round| vec![round[2] + 5.0]);
        assert_eq!(when(1, 2, &slices(&r6)), (vec![(2, 9), (3, 7)], 9));
    }

    /// What `confidence` says, measured: with 0.95 one of the true best leaves in at most 5 % of the races. All cases have the same median, so
    /// that nothing but noise speaks against any of them, and the first so many are as truly the best as others.
    #[test]
    fn the_true_best_hardly_ever_leaves() {
        const RACES: u64 = 500;
        const CASES: u64 = 6;
        const MOST: u32 = 30;
        type Noise = fn(u64, f64, f64) -> f64;
        let gauss: Noise = |_, u, v| (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos();
        let whole: Noise = |_, u, _| (u * 5.0).floor();
        let outliers: Noise = |_, u, v| if u < 0.07 { 1.0 + v * 9.0 } else { v * 0.02 };
        let skewed: Noise = |case, u, _| ((case + 1) as f64 * (std::f64::consts::PI * (u - 0.5)).tan()).exp();
        // One stream for all of them (splitmix64): seeds of its own for each race would have to be far apart.
        let mut seed = 18_u64;
        let mut uniform = || {
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            f64::from(((mixed ^ (mixed >> 31)) >> 32) as u32) / 4_294_967_296.0
        };
        let mut lost = 0;
        let kinds = [("gauss", 1, gauss), ("whole", 1, whole), ("outliers", 2, outliers), ("skewed", 1, skewed)];
        for (name, survivors, noise) in kinds {
            let mut dropped = 0;
            for _ in 0..RACES {
                let costs: Vec<f64> =
                    (0..u64::from(MOST) * CASES).map(|at| noise(at % CASES, uniform(), uniform())).collect();
                let cost = |round: u32, case: u64| costs[(u64::from(round) * CASES + case) as usize];
                let (left, _) = raced_by((CASES, 3, MOST), survivors, cost);
                dropped += u64::from(left.iter().any(|(case, ..)| *case < survivors));
            }
            println!("figure: noise `{name}`: one of {survivors} true best left in {dropped} of {RACES} races");
            assert!(dropped * 20 <= RACES, "{name}: {dropped} of {RACES}");
            lost += dropped;
        }
        println!("figure: true bests that left: in {lost} of {} races, with a confidence of 0.95", RACES * 4);
        // Noise does speak against them now and then: races that nobody ever leaves would show nothing.
        assert!(lost > 0);
    }

    /// How often a case was better, not by how much: six wins of each other over it leave it with the evidence of six wins.
    #[test]
    fn the_evidence_is_that_of_the_wins() {
        let r3: Vec<&[f64]> = R3.iter().map(<[f64; 3]>::as_slice).collect();
        let (left, _) = raced(1, 1, &r3);
        assert_eq!(left[1].2, Some(evidence(6, 0)));
        assert_eq!(left[0].2, Some((evidence(11, 1) + evidence(0, 6)) / 2.0));
    }

    #[test]
    fn nobody_leaves_before_the_least_rounds() {
        let r3: Vec<&[f64]> = R3.iter().map(<[f64; 3]>::as_slice).collect();
        assert_eq!(when(8, 1, &r3), (vec![(1, 12), (2, 8)], 12));
        assert_eq!(when(12, 1, &r3), (vec![(1, 12), (2, 12)], 12));
        // No more cases than survive: the least rounds, and nobody leaves.
        assert_eq!(when(4, 3, &r3), (vec![], 4));
    }

    #[test]
    fn a_race_of_which_all_fail_is_over() {
        let failing: Vec<&[f64]> = vec![&[1.0, 2.0], &[f64::NAN, f64::NAN], &[1.0, 2.0]];
        assert_eq!(when(1, 1, &failing), (vec![(0, 2), (1, 2)], 2));
        // The last two of a race that only one of them could win.
        let one: Vec<&[f64]> = vec![&[1.0, 2.0], &[f64::NAN, 2.0], &[1.0, 2.0]];
        assert_eq!(when(1, 1, &one), (vec![(0, 2)], 2));
        assert_eq!(when(3, 1, &one), (vec![(0, 3)], 3));
    }

    /// A replica that does not meet what is required is worse than each that does, whatever it took.
    #[test]
    fn what_could_not_survive_loses_its_rounds() {
        let stage =
            Stage::unbound("s").budget(20).survivors(1).minimize("t").race(6, 10).range("n", Range::int(1..=2));
        let stage = stage.require_at_least("slack", 0.0);
        let spec = Study::builder("t").stage(stage).spec().unwrap().stages.remove(0);
        let decl =
            StageDecl { name: "s".into(), trial_budget: 20, survivor_count: 1, objective: None, proposed: false };
        let mut row = StageRow { shares: vec![2], ..crate::model::waiting(0, &decl) };
        crate::plan::plan_trials(&spec, &mut row);
        let mut race = Race::new(&spec, &row).unwrap();
        for place in 0..row.planned {
            let (case, _) = row.replica_of(place).unwrap();
            let number = |name: &str, value: f64| (name.to_owned(), Metric::Number(value));
            // The faster one breaks what is required.
            let metrics = match case {
                0 => [number("t", 1.0), number("slack", -0.5)],
                _ => [number("t", 2.0), number("slack", 0.5)],
            };
            race.offer(place, &Metrics::from(metrics));
        }
        let over = race.finish();
        assert_eq!(over.more, 0);
        assert_eq!(over.left, [LeftCase { case: 0, round: 5, evidence: Some(evidence(6, 0)) }]);
    }
}
