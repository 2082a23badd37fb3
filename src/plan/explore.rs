//! Which cases go on to explore, though others are better: what selection would have lost is measured by them.
//!
//! Each case that could have survived and did not has a word of the study's seed, its stage and its index, and those with the smallest
//! words go on. So any set of as many is as likely as any other, whatever the cases came to, the order in which they are
//! offered says nothing, and a further case takes the place of one other at most.

use std::collections::BTreeMap;

use super::candidate::Candidate;
use super::draw::Draw;
use crate::model::StageIndex;

const PURPOSE: &str = "piton plan 2: lot of a case that may explore";

/// Draws some of those that are offered.
#[derive(Debug)]
pub(super) struct Lots {
    seed: u64,
    stage: StageIndex,
    most: usize,
    /// By lot and index: the smallest so far.
    drawn: BTreeMap<(u64, u64), Candidate>,
}

impl Lots {
    pub(super) fn new(seed: u64, stage: StageIndex, most: u64) -> Self {
        Self { seed, stage, most: usize::try_from(most).unwrap_or(usize::MAX), drawn: BTreeMap::new() }
    }

    /// Offers a case, each once, in any order.
    pub(super) fn offer(&mut self, case: Candidate) {
        if self.most == 0 {
            return;
        }
        let coordinates =
            [&self.seed.to_le_bytes()[..], &self.stage.to_le_bytes(), &case.index.to_le_bytes()].concat();
        self.drawn.insert((Draw::new(PURPOSE, &coordinates).word(), case.index), case);
        if self.drawn.len() > self.most {
            self.drawn.pop_last();
        }
    }

    /// Those that were drawn, in the order of their indices.
    pub(super) fn finish(self) -> Vec<Candidate> {
        let mut drawn: Vec<Candidate> = self.drawn.into_values().collect();
        drawn.sort_unstable_by_key(|case| case.index);
        drawn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(seed: u64, stage: StageIndex, most: u64, indices: impl Iterator<Item = u64>) -> Vec<u64> {
        let mut lots = Lots::new(seed, stage, most);
        indices.for_each(|index| lots.offer(Candidate { costs: Vec::new(), index }));
        lots.finish().iter().map(|case| case.index).collect()
    }

    /// Expected words from an independent program in Python, with `pip install blake3`: the indices of 0..10 by
    /// `blake3.blake3(struct.pack('<QIQ', seed, stage, index), derive_key_context=PURPOSE).digest()[:8]`, little-endian.
    #[test]
    fn known_lots() {
        assert_eq!(drawn(7, 0, 3, 0..10), [2, 5, 6]);
        assert_eq!(drawn(7, 1, 3, 0..10), [1, 2, 7]);
    }

    #[test]
    fn neither_order_nor_more_than_there_are_matters() {
        assert_eq!(drawn(7, 0, 3, (0..10).rev()), drawn(7, 0, 3, 0..10));
        assert_eq!(drawn(7, 0, 9, 0..3), [0, 1, 2]);
        assert_eq!(drawn(7, 0, 0, 0..3), [0_u64; 0]);
    }

    #[test]
    fn each_is_as_likely_as_any_other() {
        let mut seen = [0_u32; 5];
        for seed in 0..6_000 {
            for index in drawn(seed, 1, 2, 0..5) {
                seen[usize::try_from(index).unwrap()] += 1;
            }
        }
        // 6,000 draws of probability 2/5: six standard deviations are 228.
        assert!(seen.iter().all(|count| count.abs_diff(2_400) < 228), "{seen:?}");
    }
}
