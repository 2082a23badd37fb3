//! Worker slots of attempts that run on a cluster: there, no worker of the engine's has one. Never gives two running
//! attempts the same.

use std::collections::{BTreeSet, HashMap};

use crate::model::TrialId;

/// Which slots are taken, by whom.
#[derive(Debug, Default)]
pub(super) struct Slots {
    of: HashMap<TrialId, u32>,
    /// Below `next` and free.
    free: BTreeSet<u32>,
    next: u32,
}

impl Slots {
    /// The lowest free slot.
    pub(super) fn take(&mut self, trial: TrialId) -> u32 {
        let slot = self.free.pop_first().unwrap_or_else(|| {
            self.next = self.next.saturating_add(1);
            self.next - 1
        });
        self.of.insert(trial, slot);
        slot
    }

    /// The slot that an attempt of an earlier run has already.
    pub(super) fn adopt(&mut self, trial: TrialId, slot: u32) {
        if slot >= self.next {
            self.free.extend(self.next..slot);
            self.next = slot.saturating_add(1);
        }
        self.free.remove(&slot);
        self.of.insert(trial, slot);
    }

    /// Its trial runs no longer.
    pub(super) fn give_back(&mut self, trial: TrialId) {
        self.free.extend(self.of.remove(&trial));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_slot_is_taken_next() {
        let mut slots = Slots::default();
        slots.adopt(TrialId(9), 2);
        let taken: Vec<u32> = (0..3).map(|trial| slots.take(TrialId(trial))).collect();
        assert_eq!(taken, [0, 1, 3]);
        slots.give_back(TrialId(9));
        slots.give_back(TrialId(0));
        slots.give_back(TrialId(77));
        assert_eq!([slots.take(TrialId(10)), slots.take(TrialId(11)), slots.take(TrialId(12))], [0, 2, 4]);
    }
}
