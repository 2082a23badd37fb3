//! What trials share, and who has what of it: taken when a trial is handed out, given back when its attempt has ended.
//!
//! Pure accounting. It never gives more than there is, all of what a trial needs or nothing, and no item to two; what an attempt of an
//! earlier run has counts as taken, whatever there is by now.

use std::collections::{BTreeMap, HashMap};

use crate::model::{Given, TrialId};
use crate::study_file::{Needs, Pool};

/// The account.
#[derive(Debug, Default)]
pub(crate) struct Pools {
    /// A pool that is not here has no bound.
    there: BTreeMap<String, Pool>,
    /// Of pools without items: how much is taken.
    used: BTreeMap<String, u64>,
    /// Of pools with items: which are taken, by pool, and how often: attempts of an earlier run may say anything.
    taken: BTreeMap<String, BTreeMap<String, u32>>,
    held: HashMap<TrialId, Vec<Given>>,
}

impl Pools {
    /// All of this is free.
    #[must_use]
    pub(crate) fn new(there: BTreeMap<String, Pool>) -> Self {
        Self { there, ..Self::default() }
    }

    /// Whether a trial that needs this can have all of it now.
    #[must_use]
    pub(crate) fn fits(&self, needs: &Needs) -> bool {
        needs.iter().all(|(pool, need)| match self.there.get(pool) {
            None => true,
            Some(Pool::Count(all)) => {
                let used = self.used.get(pool).copied().unwrap_or(0);
                used.checked_add(*need).is_some_and(|used| used <= *all)
            }
            Some(Pool::Items(items)) => {
                let need = usize::try_from(*need).unwrap_or(usize::MAX);
                self.free(pool, items).take(need).count() == need
            }
        })
    }

    /// Items that nobody has, in their order.
    fn free<'a>(&'a self, pool: &str, items: &'a [String]) -> impl Iterator<Item = &'a String> {
        let taken = self.taken.get(pool);
        items.iter().filter(move |item| !taken.is_some_and(|taken| taken.contains_key(*item)))
    }

    /// Gives a trial what it needs, which must fit; of items the first that are free.
    pub(crate) fn take(&mut self, trial: TrialId, needs: &Needs) {
        let given = |(pool, amount): (&String, &u64)| {
            let items = match self.there.get(pool) {
                Some(Pool::Items(items)) => {
                    self.free(pool, items).zip(0..*amount).map(|(item, _)| item.clone()).collect()
                }
                Some(Pool::Count(_)) | None => Vec::new(),
            };
            Given { pool: pool.clone(), amount: *amount, items }
        };
        let given: Vec<Given> = needs.iter().map(given).collect();
        self.hold(trial, given);
    }

    /// An attempt of an earlier run has what is recorded of it. Where nothing is, no item was given to it, and of all else it counts as having what its
    /// like needs by now.
    pub(crate) fn adopt(&mut self, trial: TrialId, recorded: Vec<Given>, needs: &Needs) {
        let counted = |(pool, _): &(&String, &u64)| !matches!(self.there.get(*pool), Some(Pool::Items(_)));
        let given = match recorded.is_empty() {
            true => needs
                .iter()
                .filter(counted)
                .map(|(pool, amount)| Given { pool: pool.clone(), amount: *amount, items: Vec::new() })
                .collect(),
            false => recorded,
        };
        self.hold(trial, given);
    }

    fn hold(&mut self, trial: TrialId, given: Vec<Given>) {
        if given.is_empty() {
            return;
        }
        self.give_back(trial);
        for Given { pool, amount, items } in &given {
            let used = self.used.entry(pool.clone()).or_default();
            *used = used.saturating_add(*amount);
            let taken = self.taken.entry(pool.clone()).or_default();
            for item in items {
                *taken.entry(item.clone()).or_default() += 1;
            }
        }
        self.held.insert(trial, given);
    }

    /// Its attempt has ended, or will not begin.
    pub(crate) fn give_back(&mut self, trial: TrialId) {
        for Given { pool, amount, items } in self.held.remove(&trial).unwrap_or_default() {
            if let Some(used) = self.used.get_mut(&pool) {
                *used = used.saturating_sub(amount);
            }
            let Some(taken) = self.taken.get_mut(&pool) else { continue };
            for item in items {
                match taken.get_mut(&item) {
                    Some(times) if *times > 1 => *times -= 1,
                    _ => drop(taken.remove(&item)),
                }
            }
        }
    }

    /// What a trial has.
    #[must_use]
    pub(crate) fn given(&self, trial: TrialId) -> &[Given] {
        self.held.get(&trial).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn there() -> BTreeMap<String, Pool> {
        let items = |names: &[&str]| Pool::Items(names.iter().map(|name| (*name).to_owned()).collect());
        [("cpus", Pool::Count(8)), ("memory", Pool::Count(u64::MAX)), ("gpu", items(&["0", "1", "b"]))]
            .map(|(name, pool)| (name.to_owned(), pool))
            .into()
    }

    fn needs(of: &[(&str, u64)]) -> Needs {
        of.iter().map(|(name, amount)| ((*name).to_owned(), *amount)).collect()
    }

    #[test]
    fn all_that_a_trial_needs_or_nothing() {
        let mut pools = Pools::new(there());
        let two = needs(&[("cpus", 3), ("gpu", 2)]);
        pools.take(TrialId(1), &two);
        assert_eq!(pools.given(TrialId(1))[1].text(), "0,1");
        assert!(!pools.fits(&two), "one card is left");
        assert!(pools.fits(&needs(&[("cpus", 5), ("gpu", 1), ("sky", 9)])));
        assert!(!pools.fits(&needs(&[("cpus", 6), ("gpu", 1)])));
        pools.take(TrialId(2), &needs(&[("gpu", 1), ("memory", u64::MAX)]));
        assert_eq!((pools.given(TrialId(2))[0].text(), pools.given(TrialId(3))), ("b".to_owned(), &[][..]));
        assert!(!pools.fits(&needs(&[("memory", 1)])) && !pools.fits(&needs(&[("gpu", 1)])));
        pools.give_back(TrialId(1));
        pools.give_back(TrialId(1));
        assert!(pools.fits(&two) && !pools.fits(&needs(&[("gpu", 3)])));
    }

    #[test]
    fn what_an_earlier_run_handed_out_counts_whatever_there_is_now() {
        let mut pools = Pools::new(there());
        let had = |items: &[&str]| {
            let items: Vec<String> = items.iter().map(|item| (*item).to_owned()).collect();
            vec![Given { pool: "gpu".into(), amount: items.len() as u64, items }]
        };
        pools.hold(TrialId(1), had(&["1", "gone"]));
        pools.hold(TrialId(2), had(&["1"]));
        let one = needs(&[("gpu", 1)]);
        pools.take(TrialId(3), &one);
        assert_eq!(pools.given(TrialId(3))[0].items, ["0"]);
        pools.give_back(TrialId(1));
        pools.take(TrialId(4), &one);
        assert_eq!(pools.given(TrialId(4))[0].items, ["b"], "the second attempt has it still");
        assert!(!pools.fits(&one));
        pools.give_back(TrialId(2));
        assert!(pools.fits(&one));
    }

    /// 100,000 random schedules of trials with mixed needs: nothing is over-used, what fits is given, what is given back is free, and an account
    /// made anew after a crash of what was held is the same.
    #[test]
    fn no_schedule_over_uses_anything() {
        let mut seed = 1_u64;
        let mut random = move |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        let all = there();
        for schedule in 0..100_000_u64 {
            let mut pools = Pools::new(all.clone());
            let mut running: Vec<TrialId> = Vec::new();
            for turn in 0..12 {
                match random(8) {
                    0..5 => {
                        let mut wanted = Needs::new();
                        for (name, most) in [("cpus", 9), ("gpu", 4), ("other", 3)] {
                            let amount = random(most);
                            wanted.extend((amount > 0).then(|| (name.to_owned(), amount)));
                        }
                        let sum = |pool: &str| -> u64 {
                            let of = |trial: &TrialId| pools.given(*trial).to_vec();
                            let given = running.iter().flat_map(of).filter(|given| given.pool == pool);
                            given.map(|given| given.amount).sum()
                        };
                        let would = |pool: &str| sum(pool) + wanted.get(pool).copied().unwrap_or(0);
                        let fits = pools.fits(&wanted);
                        assert_eq!(fits, would("cpus") <= 8 && would("gpu") <= 3, "{schedule}");
                        if fits {
                            let trial = TrialId(turn);
                            pools.take(trial, &wanted);
                            running.push(trial);
                        }
                    }
                    5..7 if !running.is_empty() => {
                        let at = usize::try_from(random(running.len() as u64)).unwrap();
                        pools.give_back(running.swap_remove(at));
                    }
                    _ => {
                        // A crash: on a cluster what runs is adopted.
                        let mut anew = Pools::new(all.clone());
                        for trial in &running {
                            anew.hold(*trial, pools.given(*trial).to_vec());
                        }
                        pools = anew;
                    }
                }
                let cards: Vec<String> = running
                    .iter()
                    .flat_map(|trial| pools.given(*trial))
                    .flat_map(|given| given.items.clone())
                    .collect();
                let different: BTreeSet<&String> = cards.iter().collect();
                assert_eq!(different.len(), cards.len(), "{schedule}: {cards:?}");
            }
            running.into_iter().for_each(|trial| pools.give_back(trial));
            assert!(pools.fits(&needs(&[("cpus", 8), ("gpu", 3)])), "{schedule}");
        }
    }
}
