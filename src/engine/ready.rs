//! The head of the ready queue in memory: a bounded window on the table of that name.
//!
//! It holds the earliest entries and knows whether later ones exist on disk only. It must never hold them all: a
//! million trials made pending at once stay in the store until their turn.

use std::collections::BTreeSet;

use crate::model::{ReadyKey, TrialId, UnixMs};

/// Entries loaded at once; at most twice as many are held.
pub(super) const WINDOW: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct ReadyWindow {
    entries: BTreeSet<ReadyKey>,
    /// Whether entries after the window's last one may exist on disk.
    more: bool,
}

/// What became of an entry offered to the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offered {
    /// It is in the window.
    Held,
    /// It lies beyond the window; only the store knows it.
    Beyond,
    /// It is in the window, and this one had to leave for it.
    Displaced(TrialId),
}

impl ReadyWindow {
    /// Entries just read from the store, in order; `more` says whether others follow there.
    pub(super) fn fill(&mut self, entries: impl IntoIterator<Item = ReadyKey>, more: bool) {
        self.entries = entries.into_iter().collect();
        self.more = more;
    }

    /// An entry that the store has or gets with the next commit.
    pub(super) fn offer(&mut self, key: ReadyKey) -> Offered {
        if self.more && self.entries.last().is_none_or(|last| key > *last) {
            return Offered::Beyond;
        }
        self.entries.insert(key);
        if self.entries.len() > 2 * WINDOW
            && let Some((_, trial)) = self.entries.pop_last()
        {
            self.more = true;
            return if (key.1) == trial { Offered::Beyond } else { Offered::Displaced(trial) };
        }
        Offered::Held
    }

    /// Takes the first entry that may start now. A due time further off than `longest_ms` can only come from a clock
    /// that was set back since, and counts as due.
    pub(super) fn take_due(&mut self, now_ms: UnixMs, longest_ms: u64) -> Option<ReadyKey> {
        let first = *self.entries.first()?;
        if self.wait_ms(now_ms, longest_ms)? > 0 {
            return None;
        }
        self.entries.remove(&first);
        Some(first)
    }

    /// Takes an entry out that will not start; it need not be there.
    pub(super) fn remove(&mut self, key: ReadyKey) {
        self.entries.remove(&key);
    }

    /// Lets go of the trials from `limit` on; the store keeps them. Which they were.
    pub(super) fn keep_below(&mut self, limit: TrialId) -> Vec<TrialId> {
        let gone: Vec<ReadyKey> = self.entries.iter().filter(|(_, trial)| *trial >= limit).copied().collect();
        for key in &gone {
            self.entries.remove(key);
        }
        gone.into_iter().map(|(_, trial)| trial).collect()
    }

    /// Milliseconds until the first entry may start.
    #[must_use]
    pub(super) fn wait_ms(&self, now_ms: UnixMs, longest_ms: u64) -> Option<u64> {
        let (due_ms, _) = self.entries.first()?;
        let wait = u64::try_from(due_ms.saturating_sub(now_ms)).unwrap_or(0);
        Some(if wait > longest_ms { 0 } else { wait })
    }

    /// Whether it is empty while the store has entries.
    #[must_use]
    pub(super) fn needs_refill(&self) -> bool {
        self.entries.is_empty() && self.more
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_entries_come_in_order() {
        let mut window = ReadyWindow::default();
        window.offer((50, TrialId(1)));
        window.offer((0, TrialId(9)));
        assert_eq!(window.take_due(10, 1000), Some((0, TrialId(9))));
        assert_eq!(window.take_due(10, 1000), None);
        assert_eq!(window.wait_ms(10, 1000), Some(40));
        assert_eq!(window.take_due(50, 1000), Some((50, TrialId(1))));
        assert_eq!(window.wait_ms(50, 1000), None);
    }

    #[test]
    fn what_cannot_matter_is_let_go_of_and_the_rest_is_there() {
        let mut window = ReadyWindow::default();
        window.fill([(0, TrialId(9)), (0, TrialId(1)), (7, TrialId(4)), (8, TrialId(3))], true);
        assert_eq!(window.keep_below(TrialId(4)), [TrialId(9), TrialId(4)]);
        assert_eq!(window.take_due(9, 9), Some((0, TrialId(1))));
        assert_eq!(window.take_due(9, 9), Some((8, TrialId(3))));
        assert!(window.needs_refill());
    }

    #[test]
    fn a_clock_set_back_does_not_park_a_trial() {
        let mut window = ReadyWindow::default();
        window.offer((10_000_000, TrialId(1)));
        assert_eq!(window.take_due(0, 60_000), Some((10_000_000, TrialId(1))));
    }

    #[test]
    fn it_stays_bounded_and_remembers_that_there_is_more() {
        let mut window = ReadyWindow::default();
        for trial in 0..(2 * WINDOW as u64) {
            assert_eq!(window.offer((10, TrialId(trial))), Offered::Held);
        }
        assert_eq!(window.offer((99, TrialId(7_000_000))), Offered::Beyond);
        assert_eq!(window.offer((5, TrialId(7_000_001))), Offered::Displaced(TrialId(2 * WINDOW as u64 - 1)));
        assert_eq!(window.offer((10, TrialId(9_000_000))), Offered::Beyond);
        for _ in 0..(2 * WINDOW) {
            assert!(window.take_due(10, 0).is_some());
        }
        assert!(window.needs_refill());
        window.fill([(10, TrialId(9_000_000))], false);
        assert!(!window.needs_refill());
    }
}
