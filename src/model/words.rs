//! Quantities in words for people: counts, durations, bytes. Nothing reads these words back.

use std::fmt::Display;
use std::time::Duration;

/// A count with its noun: `1 trial`, `2 trials`.
#[must_use]
pub fn counted<N: Display + PartialEq + From<u8>>(count: N, noun: &str) -> String {
    let plural = if count == N::from(1) { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// A duration in its two largest units.
#[must_use]
pub fn duration(us: u64) -> String {
    let seconds = us / 1_000_000;
    match seconds {
        0 => format!("{} ms", us / 1_000),
        1..10 => format!("{}.{} s", seconds, us / 100_000 % 10),
        10..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// A limit as a person would write it: `90 ms`, `2.5 s`, `30 min`.
#[must_use]
pub(crate) fn limit(duration: Duration) -> String {
    let ms = duration.as_millis();
    match ms {
        0..1_000 => format!("{ms} ms"),
        _ if ms.is_multiple_of(60_000) => format!("{} min", ms / 60_000),
        _ => format!("{} s", duration.as_secs_f64()),
    }
}

/// Bytes in binary units.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "shown with one digit after the point")]
pub fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    for unit in ["KiB", "MiB", "GiB"] {
        value /= 1024.0;
        if value < 1024.0 {
            return format!("{value:.1} {unit}");
        }
    }
    format!("{:.1} TiB", value / 1024.0)
}

/// What a removal freed: `1.2 MiB in 40 files and directories`.
#[must_use]
pub fn freed(freed: u64, inodes: u64) -> String {
    format!("{} in {inodes} files and directories", bytes(freed))
}

/// A limit of bytes as a person would write it: `4 GiB`, `1.5 MiB`.
#[must_use]
pub(crate) fn limit_of_bytes(limit: u64) -> String {
    bytes(limit).replace(".0 ", " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_read_as_they_are_written() {
        assert_eq!(limit(Duration::from_secs(1_800)), "30 min");
        assert_eq!(limit(Duration::from_millis(2_500)), "2.5 s");
        assert_eq!(limit_of_bytes(4 << 30), "4 GiB");
        assert_eq!((limit_of_bytes(1_572_864), limit_of_bytes(999)), ("1.5 MiB".into(), "999 B".into()));
        assert_eq!((counted(1_u32, "trial"), counted(0_usize, "trial")), ("1 trial".into(), "0 trials".into()));
    }
}
