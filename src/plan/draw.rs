//! The seeded generator behind every random choice of a study.
//!
//! It is counter-based: BLAKE3 in its key-derivation mode, the purpose as the context string, the coordinates of the
//! wanted draw as the key material, and the extended output read as little-endian 64-bit words. There is no state to
//! save: a draw depends on its coordinates alone.

/// A source of numbers that spread evenly over what is asked for.
pub(super) trait Uniform {
    /// A float in `[0, 1)`.
    fn unit(&mut self) -> f64;

    /// A whole number up to and including `last`.
    fn up_to(&mut self, last: u64) -> u64;
}

/// A stream of draws for one set of coordinates.
pub(super) struct Draw {
    words: blake3::OutputReader,
}

impl Draw {
    /// The stream for `purpose` (unique in this crate) at these bytes of coordinates.
    pub(super) fn new(purpose: &str, coordinates: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(purpose);
        hasher.update(coordinates);
        Self { words: hasher.finalize_xof() }
    }

    /// The next 64 bits.
    pub(super) fn word(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.words.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// The next 32 bits: the upper half of 64; a word's halves are equally good.
    pub(super) fn half_word(&mut self) -> u32 {
        u32::try_from(self.word() >> 32).unwrap_or(u32::MAX)
    }
}

impl Uniform for Draw {
    /// One of 2^53 equally likely multiples of 2^-53.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit a float exactly")]
    fn unit(&mut self) -> f64 {
        (self.word() >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
    }

    /// Each equally likely: words beyond the last full multiple of the count are drawn again.
    fn up_to(&mut self, last: u64) -> u64 {
        let Some(count) = last.checked_add(1) else { return self.word() };
        // 2^64 modulo the count, without 2^64.
        let surplus = (u64::MAX % count + 1) % count;
        let accepted = u64::MAX - surplus;
        loop {
            let word = self.word();
            if word <= accepted {
                return word % count;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_blake3s_extended_output() {
        let mut draw = Draw::new("piton test", b"abc");
        // python3 -c "import blake3; d = blake3.blake3(b'abc', derive_key_context='piton test').digest(length=24);
        //   print([hex(int.from_bytes(d[i:i+8], 'little')) for i in (0, 8, 16)])"
        let known = [0xe2dd_ff7b_2e97_27a7, 0xb44d_5a15_7e8f_a8ba, 0x1bc8_86a7_a10c_07ef];
        assert_eq!([draw.word(), draw.word(), draw.word()], known);
    }

    #[test]
    fn up_to_reaches_both_ends_and_no_further() {
        let mut draw = Draw::new("piton test", b"ends");
        let mut seen = [0_u32; 3];
        for _ in 0..3_000 {
            seen[usize::try_from(draw.up_to(2)).unwrap()] += 1;
        }
        // 3,000 draws of probability 1/3: six standard deviations are 155.
        assert!(seen.iter().all(|count| count.abs_diff(1_000) < 155), "{seen:?}");
        assert_eq!(draw.up_to(0), 0);
        // Of 2^64 words only the first 2^63 + 1 make a full multiple: the two above are drawn again.
        assert_eq!(Draw::new("piton test", b"abc").up_to(1 << 63), 0x1bc8_86a7_a10c_07ef);
        let mut whole = Draw::new("piton test", b"abc");
        assert_eq!(whole.up_to(u64::MAX), Draw::new("piton test", b"abc").word());
    }
}
