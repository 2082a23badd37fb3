//! Sobol' sequences: cases that fill the space of the sweep evenly, however many are taken.
//!
//! Point `i` of a parent's share is point `i` of the Sobol' sequence (direction numbers of Joe and Kuo, "Constructing
//! Sobol sequences with better two-dimensional projections", 2008: `new-joe-kuo-6`), a dimension for each param in the
//! sweep's order, Owen-scrambled to 32 bits by the hash of `sobol_burley` 0.5 (after Burley, "Practical hash-based Owen
//! scrambling", 2020). The scramble of dimension `d` is the upper half of the generator's word `d` at the share's
//! coordinates, so each parent has a sequence of its own.

use sobol_burley::NUM_DIMENSIONS;
use sobol_burley::parts::{owen_scramble_rev, sobol_rev};

use crate::model::Value;
use crate::study_file::{SOBOL_CASES_MAX, SweepParam};

use super::draw::{Draw, Uniform};
use super::random;

const PURPOSE: &str = "piton plan 2: scramble of a Sobol sequence";

/// A sequence of points in as many dimensions as the sweep has params.
pub(super) struct Sequence<'a> {
    sweep: &'a [SweepParam],
    scrambles: Vec<u32>,
}

impl<'a> Sequence<'a> {
    /// The sequence at these bytes of coordinates; `None` for more params than it has dimensions.
    pub(super) fn new(sweep: &'a [SweepParam], coordinates: &[u8]) -> Option<Self> {
        let dimensions = u32::try_from(sweep.len()).ok().filter(|dimensions| *dimensions <= NUM_DIMENSIONS)?;
        let mut draw = Draw::new(PURPOSE, coordinates);
        Some(Self { sweep, scrambles: (0..dimensions).map(|_| draw.half_word()).collect() })
    }

    /// The values of a point, in the sweep's order; `None` beyond the last one.
    pub(super) fn values(&self, point: u64) -> Option<Vec<(String, Value)>> {
        let mut coordinates = self.coordinates(point)?;
        self.sweep
            .iter()
            .map(|swept| Some((swept.name.clone(), random::value(&swept.domain, &mut coordinates.next()?)?)))
            .collect()
    }

    /// The same as positions in the params' domains; `None` also where one is a range of floats.
    pub(super) fn positions(&self, point: u64) -> Option<Vec<u64>> {
        let mut coordinates = self.coordinates(point)?;
        self.sweep.iter().map(|swept| random::position(&swept.domain, &mut coordinates.next()?)).collect()
    }

    fn coordinates(&self, point: u64) -> Option<impl Iterator<Item = Coordinate>> {
        let index = u32::try_from(point).ok().filter(|_| point < SOBOL_CASES_MAX)?;
        let scrambled = move |(dimension, scramble): (u32, &u32)| {
            let plain = sobol_rev(index.reverse_bits(), dimension);
            Coordinate(owen_scramble_rev(plain, *scramble).reverse_bits())
        };
        Some((0..).zip(&self.scrambles).map(scrambled))
    }
}

/// A coordinate in `[0, 1)`, in units of 2^-32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Coordinate(u32);

impl Uniform for Coordinate {
    fn unit(&mut self) -> f64 {
        f64::from(self.0) / f64::from(1 << 16) / f64::from(1 << 16)
    }

    fn up_to(&mut self, last: u64) -> u64 {
        let scaled = u128::from(self.0) * (u128::from(last) + 1);
        u64::try_from(scaled >> 32).unwrap_or(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::random::tests::sweep;
    use crate::study_file::{Domain, SOBOL_PARAMS_MAX};

    fn share(seed: u64, stage: u32, parent: u64) -> Vec<u8> {
        [&seed.to_le_bytes()[..], &stage.to_le_bytes(), &parent.to_le_bytes()].concat()
    }

    /// Expected values from scipy 1.17, `scipy.stats.qmc.Sobol(256, scramble=False)`, whose point `k` is the
    /// sequence's point `k ^ (k >> 1)`.
    #[test]
    fn the_sequence_is_sobols_before_the_scramble() {
        let plain = |point: u32, dimension: u32| {
            Coordinate(sobol_rev(point.reverse_bits(), dimension).reverse_bits()).unit()
        };
        let points: [[f64; 5]; 6] = [
            [0.0, 0.0, 0.0, 0.0, 0.0],
            [0.5, 0.5, 0.5, 0.5, 0.5],
            [0.25, 0.75, 0.75, 0.75, 0.25],
            [0.75, 0.25, 0.25, 0.25, 0.75],
            [0.125, 0.625, 0.375, 0.125, 0.125],
            [0.625, 0.125, 0.875, 0.625, 0.625],
        ];
        for (point, expected) in (0..).zip(points) {
            assert_eq!([0, 1, 2, 3, 4].map(|dimension| plain(point, dimension)), expected, "point {point}");
        }
        let last = [0, 1, 5, 100, 255].map(|dimension| plain(63, dimension));
        assert_eq!(last, [0.984_375, 0.328_125, 0.484_375, 0.171_875, 0.140_625]);
    }

    /// Expected values from an independent program in Python: scipy's points as above, scrambled by the published
    /// hash, with the upper halves of the words of
    /// `blake3.blake3(struct.pack('<QIQ', seed, stage, parent), derive_key_context=PURPOSE)`.
    #[test]
    fn known_points() {
        let sweep = sweep();
        let (small, large) = (share(7, 0, 0), share(u64::MAX, 3, 5));
        let sequence = Sequence::new(&sweep, &small).unwrap();
        let known = [
            (0, -0.363_742_019_049_823_3, 3, "a", 0.001_600_727_650_194_954_4, 2, -529_984_477_401_710_592),
            (1, 0.712_339_821_271_598_3, 9, "b", 0.000_921_988_477_366_602_6, 557, 7_922_527_121_224_761_344),
            (2, -0.700_604_522_135_108_7, 8, "c", 5.071_627_731_704_856e-5, 6, -8_383_266_903_224_745_984),
            (63, 0.109_208_190_813_660_62, 2, "a", 0.000_157_875_344_745_433_7, 16, -5_846_109_050_076_397_568),
        ];
        for (point, float, int, choice, log_float, log_int, wide) in known {
            let found: Vec<Value> = sequence.values(point).unwrap().into_iter().map(|named| named.1).collect();
            assert_eq!(found[..3], [Value::Float(float), Value::Int(int), Value::Str(choice.into())], "{point}");
            // Another implementation's logarithm may differ in the last place.
            let Value::Float(number) = found[3] else { panic!("{found:?}") };
            assert!((number / log_float - 1.0).abs() < 1e-14, "{number}");
            assert_eq!(found[4..], [Value::Int(log_int), Value::Int(wide)], "{point}");
        }
        let other = Sequence::new(&sweep, &large).unwrap();
        let coordinates: Vec<u32> = other.coordinates(17).unwrap().map(|coordinate| coordinate.0).collect();
        let expected = [2_920_165_230, 4_021_919_047, 4_179_545_159, 3_651_901_933, 4_116_238_105, 2_664_691_705];
        assert_eq!(coordinates, expected);
    }

    #[test]
    fn each_prefix_of_a_power_of_two_covers_every_dimension_evenly() {
        let domain = Domain::Float { min: 0.0, max: 1.0, steps: None, log: false };
        let sweep: Vec<SweepParam> =
            (0..SOBOL_PARAMS_MAX).map(|n| SweepParam { name: format!("p{n}"), domain: domain.clone() }).collect();
        let coordinates = share(1, 2, 3);
        let sequence = Sequence::new(&sweep, &coordinates).unwrap();
        for bits in [1, 4, 8] {
            for dimension in [0, 1, 2, 17, 255] {
                let cell = |point| sequence.coordinates(point).unwrap().nth(dimension).unwrap().0 >> (32 - bits);
                let mut cells: Vec<u32> = (0..1 << bits).map(cell).collect();
                cells.sort_unstable();
                assert!(cells.into_iter().eq(0..1 << bits), "dimension {dimension}, {bits} bits");
            }
        }
    }

    #[test]
    fn limits_are_the_crates_and_kept() {
        assert_eq!(usize::try_from(NUM_DIMENSIONS).unwrap(), SOBOL_PARAMS_MAX);
        let one = sweep()[..1].to_vec();
        let coordinates = share(0, 0, 0);
        let sequence = Sequence::new(&one, &coordinates).unwrap();
        assert!(sequence.values(SOBOL_CASES_MAX - 1).is_some());
        assert!(sequence.values(SOBOL_CASES_MAX).is_none() && sequence.values(1 << 32).is_none());
        let many: Vec<SweepParam> = one.iter().cycle().take(SOBOL_PARAMS_MAX + 1).cloned().collect();
        assert!(Sequence::new(&many, &coordinates).is_none());
    }
}
