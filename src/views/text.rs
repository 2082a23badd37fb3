//! Text for people: harmless whatever it was made from, and sized to a screen.
//!
//! Names, reasons and logs come from trials and may hold anything; nothing here may let a control character through.

use anstyle::{AnsiColor, Style};

pub use crate::model::names::{clean, steers_or_hides};
pub use crate::model::words::{bytes, counted, duration, freed};

/// What the output is shown on, as the caller found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Screen {
    /// Columns; 0: no limit (a file, a pipe).
    pub width: u16,
    /// Whether ANSI colours are wanted.
    pub color: bool,
    /// Whether it shows more than ASCII.
    pub unicode: bool,
}

impl Screen {
    /// A file or pipe: lines as long as they need to be, no colour.
    pub const PLAIN: Self = Self { width: 0, color: false, unicode: false };

    /// Columns to use: never fewer than can hold anything.
    pub(super) fn columns(self) -> usize {
        match self.width {
            0 => usize::MAX,
            width => usize::from(width).max(20),
        }
    }

    pub(super) fn paint(self, color: Paint, text: &str) -> String {
        let style = match color {
            Paint::Good => Style::new().fg_color(Some(AnsiColor::Green.into())),
            Paint::Bad => Style::new().fg_color(Some(AnsiColor::Red.into())),
            Paint::Busy => Style::new().fg_color(Some(AnsiColor::Yellow.into())),
            Paint::Bold => Style::new().bold(),
            Paint::Faint => Style::new().dimmed(),
        };
        if self.color { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }

    /// A line that fits, its end marked where it was cut.
    pub(super) fn line(self, text: &str) -> String {
        fit(text, self.columns())
    }
}

/// What a colour means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Paint {
    Good,
    Bad,
    Busy,
    Bold,
    Faint,
}

/// Columns a terminal gives the text; near enough for alignment.
#[must_use]
pub fn columns(text: &str) -> usize {
    text.chars().map(letter_columns).sum()
}

fn letter_columns(letter: char) -> usize {
    match u32::from(letter) {
        0x300..=0x36f | 0x1ab0..=0x1aff | 0x20d0..=0x20ff | 0xfe00..=0xfe0f | 0xfe20..=0xfe2f => 0,
        0x1100..=0x115f
        | 0x2e80..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1faff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

/// The text cut to so many columns, its end marked by `…` where it was cut.
pub(super) fn fit(text: &str, width: usize) -> String {
    if columns(text) <= width {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut used = 0;
    for letter in text.chars() {
        used += letter_columns(letter);
        if used >= width {
            break;
        }
        out.push(letter);
    }
    out.push('…');
    out
}

/// The text filled up with spaces to so many columns; longer text stays whole.
pub(super) fn pad(text: &str, width: usize) -> String {
    format!("{text}{}", " ".repeat(width.saturating_sub(columns(text))))
}

/// The same, to the right.
pub(super) fn pad_left(text: &str, width: usize) -> String {
    format!("{}{text}", " ".repeat(width.saturating_sub(columns(text))))
}

/// A number to six significant digits, for what nobody copies: ticks of an axis, differences.
#[must_use]
pub fn short_number(value: f64) -> String {
    number(format!("{value:.5e}").parse().unwrap_or(value))
}

/// What a trial reported, as people write it; `None` is no finite number.
#[must_use]
pub fn reported(value: Option<f64>) -> String {
    value.map_or_else(|| "not finite".to_owned(), number)
}

/// A number as people write it, with every digit that counts: whole ones without a point, very large and small ones with an exponent.
#[must_use]
pub fn number(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-5..1e15).contains(&size) { format!("{value:e}") } else { format!("{value}") }
}

/// A range of durations in one unit: `about 3–5 min`.
pub(super) fn range_of_durations(from_us: u64, to_us: u64) -> String {
    let (unit_s, name) = match to_us / 1_000_000 {
        0..90 => (1, "s"),
        90..5_400 => (60, "min"),
        5_400..172_800 => (3_600, "h"),
        _ => (86_400, "d"),
    };
    let (from, to) = (from_us / (unit_s * 1_000_000), to_us.div_ceil(unit_s * 1_000_000));
    match (from, to) {
        (0, to) => format!("less than {} {name}", to.max(1)),
        (from, to) if from == to => format!("about {to} {name}"),
        (from, to) => format!("about {from}–{to} {name}"),
    }
}

/// Pieces put together into as few lines as hold them. A piece longer than a line stays whole.
pub(super) fn wrapped(pieces: &[String], between: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for piece in pieces {
        match lines.last_mut() {
            Some(line) if columns(line) + columns(between) + columns(piece) < width => {
                line.push_str(between);
                line.push_str(piece);
            }
            Some(line) => {
                line.push_str(between.trim_end());
                lines.push(piece.clone());
            }
            None => lines.push(piece.clone()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_is_made_harmless() {
        assert_eq!(clean("a\u{1b}[31mb\r\n\tc\u{7}"), "a\\u{1b}[31mb\\r\\n\\tc\\u{7}");
        assert_eq!(clean("x\u{202e}y\u{200b}\u{9b}"), "x\\u{202e}y\\u{200b}\\u{9b}");
        assert_eq!(clean("größer 好 é"), "größer 好 é");
    }

    #[test]
    fn cut_text_says_so_and_fits() {
        assert_eq!(fit("abcdef", 6), "abcdef");
        assert_eq!(fit("abcdef", 5), "abcd…");
        assert_eq!(fit("好好好", 5), "好好…");
        assert_eq!(fit("好好好", 4), "好…");
        assert_eq!(fit("abc", 0), "…");
        assert_eq!(pad("好", 4), "好  ");
        assert_eq!(pad_left("7", 3), "  7");
    }

    #[test]
    fn quantities_read_well() {
        assert_eq!(duration(999_999), "999 ms");
        assert_eq!(duration(1_250_000), "1.2 s");
        assert_eq!(duration(59_900_000), "59 s");
        assert_eq!(duration(200_000_000), "3 min 20 s");
        assert_eq!(duration(7_500_000_000), "2 h 5 min");
        assert_eq!(duration(100_000_000_000), "1 d 3 h");
        assert_eq!((bytes(1023).as_str(), bytes(1536).as_str()), ("1023 B", "1.5 KiB"));
        assert_eq!(bytes(u64::MAX), "16777216.0 TiB");
        assert_eq!((number(10432.0).as_str(), number(1e300).as_str()), ("10432", "1e300"));
        assert_eq!((number(-0.25).as_str(), number(0.0).as_str()), ("-0.25", "0"));
    }

    #[test]
    fn ranges_of_time_are_told_in_one_unit() {
        let range = |from_s: u64, to_s: u64| range_of_durations(from_s * 1_000_000, to_s * 1_000_000);
        assert_eq!(range(12, 30), "about 12–30 s");
        assert_eq!(range(180, 290), "about 3–5 min");
        assert_eq!(range(30, 110), "less than 2 min");
        assert_eq!(range(7_200, 7_200), "about 2 h");
        assert_eq!(range(0, 0), "less than 1 s");
        assert_eq!(range_of_durations(u64::MAX, u64::MAX), "about 213503982–213503983 d");
    }

    #[test]
    fn pieces_are_wrapped_whole() {
        let pieces = ["aaaa", "bbbb", "cccccccccccccccc", "d"].map(str::to_owned);
        assert_eq!(wrapped(&pieces, ", ", 12), ["aaaa, bbbb,", "cccccccccccccccc,", "d"]);
        assert!(wrapped(&[], ", ", 12).is_empty());
    }

    #[test]
    fn no_colour_means_no_escape() {
        let plain = Screen { width: 80, color: false, unicode: true };
        assert_eq!(plain.paint(Paint::Bad, "x"), "x");
        let colored = Screen { width: 80, color: true, unicode: true };
        assert_eq!(colored.paint(Paint::Bad, "x"), "\u{1b}[31mx\u{1b}[0m");
        assert_eq!(Screen { width: 1, color: false, unicode: true }.columns(), 20);
    }
}
