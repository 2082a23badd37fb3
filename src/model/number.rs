//! Numbers between their text and their value.
//!
//! A value reaches commands, `params.json`, tables and dumps as one text: [`float_text`] and an integer's digits. What
//! a 64-bit float cannot hold is found here, so that no reader rounds without a word.

use std::fmt;

/// A finite float as text: the shortest digits that read back to the same bits, and seen to be a float (`0.1`, `2.0`,
/// `1e-300`, `2.5e20`).
#[must_use]
pub fn float_text(number: f64) -> String {
    // JSON writers of serde_json say the same with a plus: `2.5e+20`.
    let json = serde_json::Number::from_f64(number).map(|number| number.to_string());
    json.map_or_else(|| number.to_string(), |text| text.replace("e+", "e"))
}

/// What a 64-bit float makes of a number that it cannot hold as it is written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Lost {
    /// It is larger than every float.
    TooLarge,
    /// It is not zero, but smaller than every float above zero.
    TooSmall,
    /// It has more digits than a float has: this is the nearest one.
    Digits(f64),
}

impl fmt::Display for Lost {
    /// What is wrong, after the number as its subject.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge => f.write_str("is too large for a 64-bit float"),
            Self::TooSmall => f.write_str("is too small for a 64-bit float: it would become 0"),
            Self::Digits(_) => f.write_str("cannot be held exactly by a 64-bit float"),
        }
    }
}

impl Lost {
    /// What to write instead, where text would do as well.
    #[must_use]
    pub(crate) fn instead(self) -> String {
        let quoted = "in quotes it is passed on as text";
        match self {
            Self::Digits(nearest) => format!("the nearest float is {}; {quoted}", float_text(nearest)),
            Self::TooLarge | Self::TooSmall => quoted.to_owned(),
        }
    }
}

/// Reads a decimal number that is to be kept as it is written: its digits come back when the float is written with as
/// many of them. So `0.1` and `0.10000000000000001` are kept, `0.1234567890123456789` is not.
///
/// # Errors
/// What is lost. `None` if it is no decimal number (`inf`, `0x1F`, `1_000`).
pub fn read_exactly(text: &str) -> Result<f64, Option<Lost>> {
    let (number, decimal) = nearest(text)?;
    let kept = written(number, decimal.digits.len()).as_ref() == Some(&decimal) || is_shortest(number, &decimal);
    if kept { Ok(number) } else { Err(Some(Lost::Digits(number))) }
}

/// Reads a decimal number that was measured: the nearest float stands for it, unless it is an integer, which has no
/// nearest one. An integer is kept if it is a float's exact value, or its shortest digits filled up with zeros.
///
/// # Errors
/// As for [`read_exactly`].
pub fn read_measured(text: &str) -> Result<f64, Option<Lost>> {
    let (number, decimal) = nearest(text)?;
    let kept = !is_integer(text) || holds(number, &decimal);
    if kept { Ok(number) } else { Err(Some(Lost::Digits(number))) }
}

/// An integer as a float.
///
/// # Errors
/// The nearest float, if there is none of that value.
pub fn float_of_integer(integer: i128) -> Result<f64, Lost> {
    #[expect(clippy::cast_precision_loss, reason = "what is lost is looked for")]
    let number = integer as f64;
    // Powers of two beyond the largest integer would come back as that.
    let decimal = Decimal::parse(&integer.to_string());
    if decimal.is_some_and(|decimal| holds(number, &decimal)) { Ok(number) } else { Err(Lost::Digits(number)) }
}

/// Whether it is written without an exponent, and nothing but zeros follow its point.
fn is_integer(text: &str) -> bool {
    let fraction = text.split_once('.').map_or("", |(_, fraction)| fraction);
    !text.contains(['e', 'E']) && fraction.bytes().all(|byte| byte == b'0')
}

fn holds(number: f64, decimal: &Decimal) -> bool {
    let exact = Decimal::parse(&format!("{number:.0}"));
    exact.as_ref() == Some(decimal) || is_shortest(number, decimal)
}

/// Whether these are a float's shortest digits. Where two decimals are as near, one writer rounds up and the other to the even
/// digit: -1860594112223586.25 is `….3` or `….2`.
fn is_shortest(number: f64, decimal: &Decimal) -> bool {
    [float_text(number), number.to_string()].iter().any(|text| Decimal::parse(text).as_ref() == Some(decimal))
}

fn nearest(text: &str) -> Result<(f64, Decimal), Option<Lost>> {
    let decimal = Decimal::parse(text).ok_or(None)?;
    let number: f64 = text.parse().map_err(|_| None)?;
    if number.is_infinite() {
        return Err(Some(Lost::TooLarge));
    }
    if number == 0.0 && !decimal.digits.is_empty() {
        return Err(Some(Lost::TooSmall));
    }
    Ok((number, decimal))
}

/// No float has more digits than this in full.
const DIGITS_MAX: usize = 800;

/// The float with so many digits, rounded to the nearest.
fn written(number: f64, digits: usize) -> Option<Decimal> {
    if digits > DIGITS_MAX {
        return None;
    }
    Decimal::parse(&format!("{number:.*e}", digits.saturating_sub(1)))
}

/// A decimal number's value: `0.digits × 10^exponent`, without its sign.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Decimal {
    /// Without zeros at either end; empty for zero.
    digits: Vec<u8>,
    exponent: i64,
}

impl Decimal {
    /// A sign, digits, a point with digits, an exponent: what JSON, TOML and people write. `None` for anything else.
    fn parse(text: &str) -> Option<Self> {
        let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
        let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent_of(exponent)?),
            None => (unsigned, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if (whole.is_empty() && fraction.is_empty()) || !all_digits(whole) || !all_digits(fraction) {
            return None;
        }
        let digits = || whole.bytes().chain(fraction.bytes());
        let leading = digits().take_while(|digit| *digit == b'0').count();
        let mut kept: Vec<u8> = digits().skip(leading).collect();
        let end = kept.iter().rposition(|digit| *digit != b'0').map_or(0, |last| last + 1);
        kept.truncate(end);
        let point = i64::try_from(whole.len()).ok()?.saturating_sub(i64::try_from(leading).ok()?);
        let exponent = if kept.is_empty() { 0 } else { exponent.saturating_add(point) };
        Some(Self { digits: kept, exponent })
    }
}

fn exponent_of(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // More than that is infinite or nothing anyway.
    let size = digits.parse::<i64>().unwrap_or(i64::MAX / 4);
    Some(if text.starts_with('-') { -size } else { size })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn floats_have_one_text() {
        let texts = [0.1, 2.0, 1e-300, 2.5e20, 1e5, -0.0, 1e-5, 5e-324, 1e16, 123_456.75].map(float_text);
        let expected =
            ["0.1", "2.0", "1e-300", "2.5e20", "100000.0", "-0.0", "0.00001", "5e-324", "1e16", "123456.75"];
        assert_eq!(texts, expected);
    }

    #[test]
    fn a_number_is_kept_as_it_is_written_or_told() {
        for kept in [
            "0.1",
            "0.10000000000000001",
            "0.10000000000000000555",
            "1.20",
            "-0.0",
            "+1.5",
            "1e5",
            "1E-300",
            "9007199254740992",
            "4.9e-324",
            "1.7976931348623157e308",
            "0.30000000000000004",
            "0e99999999999999999999",
        ] {
            assert_eq!(read_exactly(kept), Ok(kept.parse().unwrap()), "{kept}");
        }
        for lost in ["0.1234567890123456789", "3.14159265358979323846", "9007199254740993", "3e-324"] {
            assert_eq!(read_exactly(lost), Err(Some(Lost::Digits(lost.parse().unwrap()))), "{lost}");
        }
        assert_eq!(read_exactly("1e400"), Err(Some(Lost::TooLarge)));
        assert_eq!(read_exactly("-1e-400"), Err(Some(Lost::TooSmall)));
        assert_eq!(read_exactly("1e-99999999999999999999"), Err(Some(Lost::TooSmall)));
        assert_eq!(read_exactly(&format!("1.{}1", "0".repeat(5_000))), Err(Some(Lost::Digits(1.0))));
        for none in ["", "-", ".", "e5", "1e", "1e+", "inf", "NaN", "0x1F", "1_000", " 1", "1 ", "1.2.3", "--1"] {
            assert_eq!(read_exactly(none), Err(None), "{none:?}");
        }
    }

    #[test]
    fn a_measured_number_is_rounded_and_an_integer_is_not() {
        assert_eq!(read_measured("0.1234567890123456789"), Ok(0.123_456_789_012_345_68));
        assert_eq!(read_measured("6.02214076e23"), Ok(6.022_140_76e23));
        // What programs print that fill a float's shortest digits up with zeros, and what those print that do not.
        assert_eq!(read_measured("123456789012345680000"), Ok(123_456_789_012_345_680_000.0));
        assert_eq!(read_measured("123456789012345683968"), Ok(123_456_789_012_345_680_000.0));
        assert_eq!(read_measured("18446744073709551616"), Ok(18_446_744_073_709_551_616.0));
        for lost in ["9007199254740993", "-9007199254740993.0", "18446744073709551615", "123456789012345680001"] {
            assert_eq!(read_measured(lost), Err(Some(Lost::Digits(lost.parse().unwrap()))), "{lost}");
        }
        assert_eq!(read_measured("1e400"), Err(Some(Lost::TooLarge)));
        assert_eq!(read_measured("1e-400"), Err(Some(Lost::TooSmall)));
        assert_eq!(float_of_integer(1 << 60), Ok(1_152_921_504_606_846_976.0));
        assert_eq!(float_of_integer((1 << 53) + 1), Err(Lost::Digits(9_007_199_254_740_992.0)));
        assert_eq!(float_of_integer(i64::MAX.into()), Err(Lost::Digits(9_223_372_036_854_775_808.0)));
        assert_eq!(float_of_integer(0), Ok(0.0));
    }

    #[test]
    fn a_float_half_way_between_two_decimals_is_kept_as_either() {
        for text in ["-1860594112223586.2", "-1860594112223586.3", "-1860594112223586.25"] {
            assert_eq!(read_exactly(text), Ok(-7_442_376_448_894_345.0 / 4.0), "{text}");
        }
        assert_eq!(read_exactly("-1860594112223586.1").unwrap_err(), Some(Lost::Digits(-1_860_594_112_223_586.0)));
    }

    proptest! {
        /// Whatever a program prints of its floats is kept, in every usual way of printing them.
        #[test]
        fn what_is_printed_of_a_float_is_kept(number in any::<f64>().prop_filter("finite", |n| n.is_finite())) {
            for text in [
                float_text(number),
                number.to_string(),
                format!("{number:?}"),
                format!("{number:e}"),
                format!("{number:.16e}"),
                format!("{number:.30e}"),
            ] {
                prop_assert_eq!(read_exactly(&text).map(f64::to_bits), Ok(number.to_bits()), "{}", text);
                prop_assert_eq!(read_measured(&text).map(f64::to_bits), Ok(number.to_bits()), "{}", text);
            }
        }

        #[test]
        fn small_integers_are_kept(integer in -(1_i64 << 53)..=(1_i64 << 53)) {
            #[expect(clippy::cast_precision_loss, reason = "they are within 53 bits")]
            let float = integer as f64;
            prop_assert_eq!(float_of_integer(integer.into()), Ok(float));
            prop_assert_eq!(read_measured(&integer.to_string()), Ok(float));
        }

        #[test]
        fn any_text_is_survived(text in "[-+0-9.eE]{0,12}|.{0,12}") {
            let _ = (read_exactly(&text), read_measured(&text));
        }
    }
}
