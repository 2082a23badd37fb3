//! Sizes such as `4GiB`, in bytes.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SizeError {
    /// No number, or no unit of ours.
    NoSize,
    /// More than 64 bits can count.
    TooLarge,
}

/// Units with their bytes: those of IEC 80000-13, and the decimal ones. Single letters are refused: `4G` means one
/// thing to some tools and another to others.
const UNITS: [(&str, u64); 10] = [
    ("", 1),
    ("b", 1),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
];

/// Digits after the point that count; further ones are refused rather than rounded.
const DECIMALS_MAX: usize = 9;

/// The bytes of a size: a decimal number and a unit in any case, white space between them or not. A fraction of a
/// byte is cut off.
pub(super) fn parse_size(text: &str) -> Result<u64, SizeError> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end).ok_or(SizeError::NoSize)?;
    let unit = unit.trim_start().to_ascii_lowercase();
    let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit).ok_or(SizeError::NoSize)?;
    let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(decimals) || decimals.len() > DECIMALS_MAX {
        return Err(SizeError::NoSize);
    }
    let whole: u128 = whole.parse().map_err(|_| SizeError::TooLarge)?;
    let decimals: u128 = format!("{decimals:0<DECIMALS_MAX$}").parse().map_err(|_| SizeError::NoSize)?;
    let scale = u128::from(*scale);
    let fraction = decimals * scale / 10_u128.pow(DECIMALS_MAX as u32);
    let bytes = whole.checked_mul(scale).and_then(|bytes| bytes.checked_add(fraction));
    bytes.and_then(|bytes| u64::try_from(bytes).ok()).ok_or(SizeError::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_counted_in_bytes() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4_096),
            ("7b", 7),
            ("1KiB", 1_024),
            ("1 kb", 1_000),
            ("4GiB", 4_294_967_296),
            (" 4gib ", 4_294_967_296),
            ("1.5MiB", 1_572_864),
            ("0.1KB", 100),
            ("2TB", 2_000_000_000_000),
            ("16777215TiB", 18_446_742_974_197_923_840),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn other_texts_are_no_sizes() {
        for text in
            ["", "GiB", "4G", "4 GiBs", "-1", "1e3", "1.", ".5GiB", "1.5.2GB", "1,5GB", "1.0000000001GB", "é"]
        {
            assert_eq!(parse_size(text), Err(SizeError::NoSize), "{text}");
        }
        for text in ["16777216TiB", "18446744073709551616", "9999999999999999999999999999999999999999999GB"] {
            assert_eq!(parse_size(text), Err(SizeError::TooLarge), "{text}");
        }
    }
}
