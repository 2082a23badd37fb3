//! A seeded shuffle of any size whose places are found one by one.
//!
//! A balanced Feistel network over the least even number of bits, at least 8, that holds the count, walked along its
//! cycles until it is back below the count (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002). Each of
//! its rounds adds to one half, by exclusive or, the first eight bytes, little-endian, of keyed BLAKE3 over the
//! round's number (one byte) and the other half (eight bytes, little-endian). The key is BLAKE3's, derived from the
//! coordinates. Nothing is held but the key.

const PURPOSE: &str = "piton plan 2: order of the combinations";

const ROUNDS: u8 = 8;

/// Fewer bits would leave too few networks to choose from.
const BITS_MIN: u32 = 8;

/// An order of `0..count`.
pub(super) struct Permutation {
    key: [u8; 32],
    count: u64,
    /// Of each half, at most 32.
    half_bits: u32,
}

impl Permutation {
    /// The order at these bytes of coordinates.
    pub(super) fn new(coordinates: &[u8], count: u64) -> Self {
        let bits = (u64::BITS - count.saturating_sub(1).leading_zeros()).max(BITS_MIN);
        Self { key: blake3::derive_key(PURPOSE, coordinates), count, half_bits: bits.div_ceil(2) }
    }

    /// What stands at a place; `None` beyond the last one. No two places have the same.
    pub(super) fn at(&self, place: u64) -> Option<u64> {
        if place >= self.count {
            return None;
        }
        // The network permutes a larger range: the cycle that goes through `place` comes back below the count, to
        // `place` itself at the latest.
        let mut number = self.network(place);
        while number >= self.count {
            number = self.network(number);
        }
        Some(number)
    }

    fn network(&self, number: u64) -> u64 {
        let mask = (1_u64 << self.half_bits) - 1;
        let (mut left, mut right) = (number >> self.half_bits, number & mask);
        for round in 0..ROUNDS {
            (left, right) = (right, left ^ (self.round(round, right) & mask));
        }
        (left << self.half_bits) | right
    }

    fn round(&self, round: u8, half: u64) -> u64 {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&[round]).update(&half.to_le_bytes());
        let mut word = [0; 8];
        hasher.finalize_xof().fill(&mut word);
        u64::from_le_bytes(word)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn order(coordinates: &[u8], count: u64) -> Vec<u64> {
        let permutation = Permutation::new(coordinates, count);
        (0..count).map(|place| permutation.at(place).unwrap()).collect()
    }

    /// Expected values from an independent program in Python, with `pip install blake3`: the network of the module's
    /// text, `key = blake3.blake3(coordinates, derive_key_context=PURPOSE).digest()`, a round
    /// `blake3.blake3(bytes([round]) + struct.pack('<Q', half), key=key).digest()[:8]`, little-endian.
    #[test]
    fn known_orders() {
        assert_eq!(order(b"abc", 10), [7, 4, 9, 6, 1, 5, 0, 2, 8, 3]);
        let share = [&7_u64.to_le_bytes()[..], &1_u32.to_le_bytes(), &2_u64.to_le_bytes()].concat();
        let thousand = Permutation::new(&share, 1_000);
        assert_eq!([0, 1, 999].map(|place| thousand.at(place)), [Some(595), Some(649), Some(263)]);
        assert_eq!(Permutation::new(b"abc", (1 << 40) + 1).at(5), Some(240_568_154_515));
        assert_eq!(Permutation::new(b"abc", u64::MAX).at(0), Some(2_528_850_115_523_723_814));
    }

    #[test]
    fn every_order_of_three_is_equally_likely() {
        let mut seen: BTreeMap<Vec<u64>, u32> = BTreeMap::new();
        for seed in 0..6_000_u32 {
            *seen.entry(order(&seed.to_le_bytes(), 3)).or_default() += 1;
        }
        // 6,000 orders of probability 1/6: six standard deviations are 173.
        assert_eq!(seen.len(), 6);
        assert!(seen.values().all(|count| count.abs_diff(1_000) < 173), "{seen:?}");
    }

    #[test]
    fn the_widest_range_is_walked() {
        let permutation = Permutation::new(b"wide", u64::MAX);
        let some: Vec<u64> = [0, 1, u64::MAX - 1].map(|place| permutation.at(place).unwrap()).to_vec();
        assert!(some.iter().all(|number| *number < u64::MAX));
        assert!(some[0] != some[1] && some[1] != some[2] && some[0] != some[2]);
        assert_eq!(permutation.at(u64::MAX), None);
        assert_eq!(Permutation::new(b"none", 0).at(0), None);
        assert_eq!(order(b"one", 1), [0]);
    }

    proptest! {
        #[test]
        fn it_is_a_bijection(seed: u64, count in 1..3_000_u64) {
            let mut all = order(&seed.to_le_bytes(), count);
            all.sort_unstable();
            prop_assert!(all.into_iter().eq(0..count));
        }
    }
}
