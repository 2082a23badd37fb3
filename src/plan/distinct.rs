//! One parent's share of a sampled stage, without a case twice.
//!
//! - A sweep with a range of floats: random cases are independent draws, Sobol' cases the sequence's points. That two of
//!   them are equal does not happen in practice.
//! - Choices and integers, random, each value equally likely: the combinations in a seeded order, the first ones.
//! - Choices and integers, Sobol', or random with integers on a log scale: the sequence's points (for random
//!   ones: independent draws, numbered within the share) in order, those passed over that fall on an earlier case; after
//!   [`SOBOL_CASES_MAX`] points the combinations still missing, in a seeded order. A larger share begins with the
//!   smaller one's cases.
//!
//! The last kind has to be listed to be known. The latest few lists are kept in memory; a list is a pure function of
//! its key, so that no outcome shows it.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use crate::model::{StageIndex, Value};
use crate::study_file::{Domain, SOBOL_CASES_MAX, SweepParam};

use super::permutation::Permutation;
use super::sobol::Sequence;
use super::{grid, random};

/// Lists kept; each takes at most 1 MiB.
const KEPT: usize = 8;

/// One parent's share of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    pub seed: u64,
    pub stage: StageIndex,
    /// Position among the survivors of the stage before; 0 in stage 0.
    pub parent: u64,
    /// Cases in it.
    pub size: u64,
}

impl Share {
    /// A random case: the one at `place` in the share, `index` in the stage.
    pub(super) fn random(&self, sweep: &[SweepParam], place: u64, index: u64) -> Option<Vec<(String, Value)>> {
        if listed(sweep) {
            return self.listed(Source::Random, sweep, place);
        }
        match grid::combinations(sweep) {
            Some(count) => grid::values(sweep, self.order(count).at(place)?),
            // A range of floats, or more than 2^64 equally likely combinations.
            None => random::values(sweep, self.seed, self.stage, index),
        }
    }

    /// The case at `place` in a Sobol' share.
    pub(super) fn sobol(&self, sweep: &[SweepParam], place: u64) -> Option<Vec<(String, Value)>> {
        if sweep.iter().any(is_float) {
            return Sequence::new(sweep, &self.coordinates())?.values(place);
        }
        self.listed(Source::Sobol, sweep, place)
    }

    /// Little-endian, fixed width. The size is no part of it: a larger share begins with the smaller one.
    fn coordinates(&self) -> Vec<u8> {
        [&self.seed.to_le_bytes()[..], &self.stage.to_le_bytes(), &self.parent.to_le_bytes()].concat()
    }

    fn order(&self, count: u64) -> Permutation {
        Permutation::new(&self.coordinates(), count)
    }

    fn listed(&self, source: Source, sweep: &[SweepParam], place: u64) -> Option<Vec<(String, Value)>> {
        let picks = kept(*self, source, sweep)?;
        let positions = match picks.get(usize::try_from(place).ok()?)? {
            Pick::Point(point) => source.points(self, sweep)?.positions(*point)?,
            Pick::Combination(number) => grid::positions(sweep, *number)?,
        };
        let value = |(swept, position): (&SweepParam, u64)| {
            Some((swept.name.clone(), grid::point(&swept.domain, position)?))
        };
        sweep.iter().zip(positions).map(value).collect()
    }

    fn list(&self, source: Source, sweep: &[SweepParam]) -> Option<Vec<Pick>> {
        let size = usize::try_from(self.size.min(SOBOL_CASES_MAX)).ok()?;
        let points = source.points(self, sweep)?;
        let mut seen = HashSet::new();
        let mut picks = Vec::new();
        for point in 0..SOBOL_CASES_MAX {
            if picks.len() == size {
                return Some(picks);
            }
            if seen.insert(points.positions(point)?) {
                picks.push(Pick::Point(point));
            }
        }
        let order = self.order(grid::combinations(sweep).unwrap_or(u64::MAX));
        let mut left = (0..).map_while(|place| order.at(place));
        while picks.len() < size {
            let Some(number) = left.next() else { break };
            if seen.insert(grid::positions(sweep, number)?) {
                picks.push(Pick::Combination(number));
            }
        }
        Some(picks)
    }
}

/// Whether a random share of this sweep has to be listed: no range of floats, and some values are likelier than
/// others.
pub(super) fn listed(sweep: &[SweepParam]) -> bool {
    let uneven = |swept: &SweepParam| matches!(swept.domain, Domain::Int { log: true, .. });
    sweep.iter().any(uneven) && !sweep.iter().any(is_float)
}

fn is_float(swept: &SweepParam) -> bool {
    matches!(swept.domain, Domain::Float { .. })
}

/// A case of a listed share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pick {
    Point(u64),
    /// A combination that no point of the sequence fell on.
    Combination(u64),
}

/// What a listed share is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Random,
    Sobol,
}

enum Points<'a> {
    Random { sweep: &'a [SweepParam], share: Share },
    Sobol(Sequence<'a>),
}

impl Source {
    fn points<'a>(self, share: &Share, sweep: &'a [SweepParam]) -> Option<Points<'a>> {
        Some(match self {
            Self::Random => Points::Random { sweep, share: *share },
            Self::Sobol => Points::Sobol(Sequence::new(sweep, &share.coordinates())?),
        })
    }
}

impl Points<'_> {
    fn positions(&self, point: u64) -> Option<Vec<u64>> {
        match self {
            Self::Random { sweep, share } => random::positions(sweep, &share.coordinates(), point),
            Self::Sobol(sequence) => sequence.positions(point),
        }
    }
}

/// A list and what it is a function of.
struct Kept {
    share: Share,
    source: Source,
    sweep: Vec<SweepParam>,
    picks: Arc<[Pick]>,
}

/// The latest lists, the last used first.
static LISTS: Mutex<Vec<Kept>> = Mutex::new(Vec::new());

fn kept(share: Share, source: Source, sweep: &[SweepParam]) -> Option<Arc<[Pick]>> {
    {
        let mut lists = LISTS.lock().unwrap_or_else(PoisonError::into_inner);
        let found =
            lists.iter().position(|kept| kept.share == share && kept.source == source && kept.sweep == sweep);
        if let Some(position) = found {
            let kept = lists.remove(position);
            let picks = Arc::clone(&kept.picks);
            lists.insert(0, kept);
            return Some(picks);
        }
    }
    let picks: Arc<[Pick]> = share.list(source, sweep)?.into();
    let mut lists = LISTS.lock().unwrap_or_else(PoisonError::into_inner);
    lists.truncate(KEPT - 1);
    lists.insert(0, Kept { share, source, sweep: sweep.to_vec(), picks: Arc::clone(&picks) });
    Some(picks)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn int(min: i64, max: i64, log: bool) -> Domain {
        Domain::Int { min, max, steps: None, log }
    }

    fn choices(count: i64) -> Domain {
        Domain::Choices((0..count).map(Into::into).collect())
    }

    fn sweep(domains: &[Domain]) -> Vec<SweepParam> {
        domains.iter().map(|domain| SweepParam { name: "p".into(), domain: domain.clone() }).collect()
    }

    fn share(seed: u64, size: u64) -> Share {
        Share { seed, stage: 0, parent: 0, size }
    }

    fn ints(values: Option<Vec<(String, Value)>>) -> Vec<i64> {
        let int = |(_, value)| match value {
            Value::Int(number) => number,
            other => panic!("{other:?}"),
        };
        values.unwrap().into_iter().map(int).collect()
    }

    fn sobol(share: Share, sweep: &[SweepParam]) -> Vec<Vec<i64>> {
        (0..share.size).map(|place| ints(share.sobol(sweep, place))).collect()
    }

    fn random(share: Share, sweep: &[SweepParam]) -> Vec<Vec<i64>> {
        (0..share.size).map(|place| ints(share.random(sweep, place, 1_000 + place))).collect()
    }

    /// Expected values from an independent program in Python that lists the sequence's points and leaves out repeated
    /// ones.
    #[test]
    fn known_lists() {
        let mixed = sweep(&[choices(3), int(1, 2, false)]);
        assert_eq!(sobol(share(7, 6), &mixed), [[0, 1], [2, 2], [0, 2], [1, 1], [1, 2], [2, 1]]);
        let log = sweep(&[int(1, 40, true)]);
        let expected = [
            2, 22, 1, 8, 3, 33, 6, 15, 12, 4, 28, 5, 19, 10, 39, 7, 17, 11, 26, 9, 14, 13, 29, 18, 37, 25, 21, 35,
            27, 20, 40, 23, 32, 30, 36, 16, 24, 34, 38, 31,
        ];
        assert_eq!(sobol(share(7, 40), &log).concat(), expected);
        let log = sweep(&[int(1, 20, true)]);
        let expected = [19, 1, 11, 5, 2, 10, 3, 18, 16, 4, 12, 7, 6, 9, 14, 15, 8, 13, 17, 20];
        assert_eq!(random(share(7, 20), &log).concat(), expected);
        // A shuffle of the combinations; see `permutation` for the order.
        let thousand = sweep(&[choices(10), int(0, 99, false)]);
        let third = Share { stage: 1, parent: 2, ..share(7, 1_000) };
        assert_eq!(ints(third.random(&thousand, 0, 0)), [5, 95]);
        assert_eq!(ints(third.random(&thousand, 999, 0)), [2, 63]);
        assert_eq!(third.random(&thousand, 1_000, 0), None);
    }

    #[test]
    fn what_no_point_falls_on_comes_last_in_a_seeded_order() {
        // The rarest pair has a probability of 4 in a hundred million.
        let skewed = sweep(&[int(1, 500, true), int(1, 500, true)]);
        let all = share(3, SOBOL_CASES_MAX);
        let list = all.list(Source::Sobol, &skewed).unwrap();
        let points = list.iter().take_while(|pick| matches!(pick, Pick::Point(_))).count();
        assert!(points > 10_000 && points < list.len(), "{points}");
        assert!(list[points..].iter().all(|pick| matches!(pick, Pick::Combination(_))));
        assert_eq!(list.len(), 65_536);
        let distinct: HashSet<Vec<i64>> = sobol(all, &skewed).into_iter().collect();
        assert_eq!(distinct.len(), 65_536);
        let smaller = share(3, 20_000).list(Source::Sobol, &skewed).unwrap();
        assert_eq!(smaller, list[..20_000], "a larger share begins with the smaller one");
    }

    #[test]
    fn parents_and_seeds_have_their_own_cases() {
        let wide = sweep(&[int(0, 999, false), choices(2)]);
        let first = share(1, 50);
        for other in [Share { parent: 1, ..first }, Share { stage: 1, ..first }, Share { seed: 2, ..first }] {
            assert_ne!(random(first, &wide), random(other, &wide));
            assert_ne!(sobol(first, &wide), sobol(other, &wide));
        }
        assert_eq!(random(first, &wide), random(first, &wide));
        assert_eq!(sobol(first, &wide), sobol(first, &wide));
    }

    #[test]
    fn a_range_of_floats_takes_every_point() {
        let domain = Domain::Float { min: 0.0, max: 1.0, steps: None, log: false };
        let mixed = sweep(&[choices(2), domain]);
        let share = share(1, 100);
        let points: HashSet<String> = (0..100).map(|place| format!("{:?}", share.sobol(&mixed, place))).collect();
        assert_eq!(points.len(), 100);
        assert!(share.sobol(&mixed, SOBOL_CASES_MAX).is_none());
    }

    fn domain() -> impl Strategy<Value = Domain> {
        prop_oneof![
            (1..5_i64).prop_map(choices),
            (-9..9_i64, 0..6_i64).prop_map(|(min, width)| int(min, min + width, false)),
            (1..9_i64, 0..30_i64).prop_map(|(min, width)| int(min, min + width, true)),
        ]
    }

    proptest! {
        #[test]
        fn no_case_comes_twice_and_each_is_in_its_domain(
            domains in prop::collection::vec(domain(), 1..4), seed: u64, part in 1..=4_u64,
        ) {
            let sweep = sweep(&domains);
            let count = grid::combinations(&sweep).unwrap();
            let share = share(seed, count.div_ceil(part));
            for cases in [sobol(share, &sweep), random(share, &sweep)] {
                for case in &cases {
                    for (domain, value) in domains.iter().zip(case) {
                        let inside = match domain {
                            Domain::Choices(values) => values.contains(&(*value).into()),
                            Domain::Int { min, max, .. } => (min..=max).contains(&value),
                            Domain::Float { .. } => false,
                        };
                        prop_assert!(inside, "{} in {:?}", value, domain);
                    }
                }
                let distinct: HashSet<Vec<i64>> = cases.into_iter().collect();
                prop_assert_eq!(distinct.len() as u64, share.size);
            }
        }
    }
}
