//! The one source of chance in a simulation: everything that could go otherwise asks it, and a seed repeats it all.

/// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): small, and good enough to pick faults.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Chance of its own for one part of a simulation: what others draw does not move it.
    pub(super) fn of(parts: &[u64]) -> Self {
        let mut all = Self(0x9e37_79b9_7f4a_7c15);
        for part in parts {
            all = Self(all.next() ^ *part);
        }
        Self(all.next())
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 if there is none.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next().checked_rem(end).unwrap_or(0)
    }

    /// Whether something happens that happens in so many of a hundred cases.
    pub(super) fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}
