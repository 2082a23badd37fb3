//! Independent draws for each param of each case, and where a number between 0 and 1 falls in a domain.
//!
//! A drawn value depends on the study's seed, the stage, the derived index and the param's position in the sweep, through
//! the generator of `draw` (BLAKE3, counter-based): on nothing that was drawn before. Floats are uniform over 2^53
//! points, integers and choices exactly uniform. On a log scale the logarithm is uniform, by `libm`; a log integer is
//! the rounding of a log float from half below `min` to half above `max`, so that the ends get their full share.

use crate::model::{StageIndex, Value};
use crate::study_file::{Domain, SweepParam};

use super::draw::{Draw, Uniform};
use super::grid;

const PURPOSE: &str = "piton plan 1: value of a swept param";
const NUMBERED_PURPOSE: &str = "piton plan 2: numbered draw of a share";

/// The values of one case, in the sweep's order.
pub(super) fn values(
    sweep: &[SweepParam],
    seed: u64,
    stage: StageIndex,
    index: u64,
) -> Option<Vec<(String, Value)>> {
    let value = |(number, swept): (u32, &SweepParam)| {
        let mut draw = Draw::new(PURPOSE, &coordinates(seed, stage, index, number));
        Some((swept.name.clone(), value(&swept.domain, &mut draw)?))
    };
    (0..).zip(sweep).map(value).collect()
}

/// The positions of a numbered draw of a share in the params' domains; `None` where one is a range of floats. They
/// depend on the share's coordinates, the draw's number and the param's position in the sweep.
pub(super) fn positions(sweep: &[SweepParam], share: &[u8], number: u64) -> Option<Vec<u64>> {
    let position = |(param, swept): (u32, &SweepParam)| {
        let coordinates = [share, &number.to_le_bytes(), &param.to_le_bytes()].concat();
        position(&swept.domain, &mut Draw::new(NUMBERED_PURPOSE, &coordinates))
    };
    (0..).zip(sweep).map(position).collect()
}

/// Little-endian, fixed width.
fn coordinates(seed: u64, stage: StageIndex, index: u64, number: u32) -> Vec<u8> {
    let fields = [&seed.to_le_bytes()[..], &stage.to_le_bytes(), &index.to_le_bytes(), &number.to_le_bytes()];
    fields.concat()
}

/// Where the source's next number falls in a domain.
pub(super) fn value(domain: &Domain, source: &mut impl Uniform) -> Option<Value> {
    match domain {
        Domain::Float { min, max, log, .. } => Some(Value::Float(float(*min, *max, *log, source))),
        _ => grid::point(domain, position(domain, source)?),
    }
}

/// The same as a place among a domain's values, in their order; `None` for floats.
pub(super) fn position(domain: &Domain, source: &mut impl Uniform) -> Option<u64> {
    match domain {
        Domain::Choices(values) => Some(source.up_to(u64::try_from(values.len()).ok()?.checked_sub(1)?)),
        Domain::Int { min, max, log: false, .. } => Some(source.up_to(max.abs_diff(*min))),
        Domain::Int { min, max, log: true, .. } => Some(log_int(*min, *max, source).abs_diff(*min)),
        Domain::Float { .. } => None,
    }
}

fn float(min: f64, max: f64, log: bool, source: &mut impl Uniform) -> f64 {
    let up = source.unit();
    let between = |low: f64, high: f64| low * (1.0 - up) + high * up;
    let drawn = if log { libm::exp(between(libm::log(min), libm::log(max))) } else { between(min, max) };
    drawn.clamp(min, max)
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "rounded, then kept in the range"
)]
fn log_int(min: i64, max: i64, source: &mut impl Uniform) -> i64 {
    let drawn = float(min as f64 - 0.5, max as f64 + 0.5, true, source);
    (drawn.round() as i64).clamp(min, max)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// One param of every kind of domain.
    pub(in crate::plan) fn sweep() -> Vec<SweepParam> {
        let domains = [
            Domain::Float { min: -1.0, max: 1.0, steps: None, log: false },
            Domain::Int { min: 1, max: 10, steps: None, log: false },
            Domain::Choices(vec!["a".into(), "b".into(), "c".into()]),
            Domain::Float { min: 1e-5, max: 1e-1, steps: None, log: true },
            Domain::Int { min: 1, max: 1_000, steps: None, log: true },
            Domain::Int { min: i64::MIN, max: i64::MAX, steps: None, log: false },
        ];
        domains.map(|domain| SweepParam { name: "p".into(), domain }).to_vec()
    }

    /// Expected values from an independent program in Python, with `pip install blake3`: for param `pos`
    /// `d = blake3.blake3(struct.pack('<QIQI', seed, stage, index, pos), derive_key_context=PURPOSE)`, words
    /// `w` from its digest, little-endian; unit `u = (w >> 11) / 2**53`; whole numbers by the first `w` below
    /// `2**64 // n * n`, modulo n; log scales by `math.log` and `math.exp`.
    #[test]
    fn known_draws() {
        let text = |text: &str| Value::Str(text.into());
        let known = [
            (
                7,
                0,
                0,
                0.946_123_830_312_444_8,
                9,
                "a",
                0.000_549_790_289_686_036_4,
                18,
                -5_358_405_776_346_615_506,
            ),
            (7, 1, 3, 0.642_429_529_157_061_4, 10, "a", 2.977_330_589_485_093e-5, 32, 7_231_469_328_626_569_396),
            (
                u64::MAX,
                2,
                1_000_000_000_000,
                -0.422_650_785_098_603_65,
                8,
                "c",
                0.014_717_724_590_069_47,
                18,
                -8_566_978_954_210_989_878,
            ),
        ];
        for (seed, stage, index, float, int, choice, log_float, log_int, wide) in known {
            let drawn: Vec<Value> =
                values(&sweep(), seed, stage, index).unwrap().into_iter().map(|v| v.1).collect();
            assert_eq!(drawn[..3], [Value::Float(float), Value::Int(int), text(choice)]);
            // Another implementation's logarithm may differ in the last place.
            let Value::Float(number) = drawn[3] else { panic!("{drawn:?}") };
            assert!((number / log_float - 1.0).abs() < 1e-14, "{number}");
            assert_eq!(drawn[4..], [Value::Int(log_int), Value::Int(wide)]);
        }
    }

    #[test]
    fn draws_stay_in_range_and_reach_the_ends() {
        let domain = Domain::Int { min: 1, max: 3, steps: None, log: true };
        let sweep = [SweepParam { name: "p".into(), domain }];
        let mut seen = [0_u32; 3];
        for index in 0..3_000 {
            let Some(Value::Int(number)) = values(&sweep, 1, 0, index).map(|values| values[0].1.clone()) else {
                panic!("no value")
            };
            seen[usize::try_from(number - 1).unwrap()] += 1;
        }
        // Shares of ln(3.5 / 0.5): 1 has ln 3, 2 has ln(2.5 / 1.5), 3 has ln(3.5 / 2.5): 1694, 788 and 519 of 3,000,
        // with standard deviations of 27, 24 and 21.
        assert!(
            seen[0].abs_diff(1_694) < 165 && seen[1].abs_diff(788) < 145 && seen[2].abs_diff(519) < 127,
            "{seen:?}"
        );
    }
}
