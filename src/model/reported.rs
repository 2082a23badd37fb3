//! What a trial reports in `metrics.json`.
//!
//! A metric is a number or a label. Whatever else stands there is left out, with words for what it is: whether that
//! matters depends on whether anything needs it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::json::{RawObject, without_bom};
use super::number::read_measured;
use super::value::{Metric, Metrics};

/// The metrics of a report, and what is none.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Reported {
    /// Numbers, all finite, and labels of any length.
    pub metrics: Metrics,
    /// What the others are, in words: `null`, `a list`, …
    pub left_out: BTreeMap<String, String>,
    /// Names that stand there more than once.
    pub repeated: BTreeSet<String>,
}

/// Reads the text of `metrics.json`. Of two values for one name the last counts.
///
/// # Errors
/// Why it is no report at all, in words that follow the file's name.
pub(crate) fn read_metrics(text: &[u8]) -> Result<Reported, String> {
    let text = without_bom(text);
    if text.trim_ascii().is_empty() {
        return Err("is empty".to_owned());
    }
    let text = std::str::from_utf8(text).map_err(|error| format!("is not JSON: {error}"))?;
    let text = finite(text);
    let object: RawObject<'_> = serde_json::from_str(&text).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => "is not an object".to_owned(),
        _ => format!("is not JSON: {error}"),
    })?;
    let mut reported = Reported::default();
    for (name, value) in object.0 {
        if reported.metrics.contains_key(&name) || reported.left_out.contains_key(&name) {
            reported.repeated.insert(name.clone());
        }
        match metric(value.get()) {
            Ok(metric) => {
                reported.left_out.remove(&name);
                reported.metrics.insert(name, metric);
            }
            Err(what) => {
                reported.metrics.remove(&name);
                reported.left_out.insert(name, what);
            }
        }
    }
    Ok(reported)
}

/// A label has at most so many bytes.
pub(crate) const MAX_LABEL_BYTES: usize = 1 << 10;
/// A record of the journal holds all of a trial's metrics, and records are bounded.
const MAX_METRICS_BYTES: usize = 32 << 10;

/// A label as it is recorded.
pub(crate) fn label_of(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_LABEL_BYTES));
    text
}

/// Whether a record holds them, names included.
pub(crate) fn metrics_fit(metrics: &Metrics) -> bool {
    let size = |(name, metric): (&String, &Metric)| {
        name.len() + 16 + if let Metric::Label(label) = metric { label.len() } else { 0 }
    };
    metrics.iter().map(size).sum::<usize>() <= MAX_METRICS_BYTES
}

/// What stands for `NaN` and `Infinity`, which are no JSON: a number that is no float.
const NOT_FINITE: &str = "1e9999999";
/// What such a number is called among what is left out.
pub(crate) const NAN_OR_INFINITE: &str = "NaN or infinite";
/// And `null`.
const NULL: &str = "null";

impl Reported {
    /// Of what is left out, the names of what stands for a number that is not finite: programs write NaN as `null`, too.
    pub(crate) fn not_finite(&self) -> impl Iterator<Item = &str> {
        let odd = self.left_out.iter().filter(|(_, what)| matches!(what.as_str(), NAN_OR_INFINITE | NULL));
        odd.map(|(name, _)| name.as_str())
    }
}

fn metric(text: &str) -> Result<Metric, String> {
    let what = match text.bytes().next() {
        Some(b'"') => match serde_json::from_str(text) {
            Ok(label) => return Ok(Metric::Label(label)),
            Err(error) => return Err(format!("text that cannot be read ({error})")),
        },
        Some(b'n') => NULL,
        Some(b't' | b'f') => "a boolean",
        Some(b'[') => "a list",
        Some(b'{') => "an object",
        _ if text.trim_start_matches('-') == NOT_FINITE => NAN_OR_INFINITE,
        _ => match read_measured(text) {
            Ok(number) => return Ok(Metric::Number(number)),
            Err(Some(lost)) => return Err(format!("{text}, which {lost}")),
            Err(None) => "no number",
        },
    };
    Err(what.to_owned())
}

/// The text with what programs write for numbers that are not finite replaced, outside strings. What is only a part of
/// something else, as in `5nan`, stays: words for it must quote what stands there.
fn finite(text: &str) -> Cow<'_, str> {
    let mut out = String::new();
    let (mut copied, mut at) = (0, 0);
    let bytes = text.as_bytes();
    let mut in_string = false;
    while let Some(byte) = bytes.get(at) {
        at += match byte {
            b'\\' if in_string => 2,
            b'"' => {
                in_string = !in_string;
                1
            }
            letter if letter.is_ascii_alphabetic() && !in_string => {
                let rest = bytes.get(at..).unwrap_or_default();
                let length = rest.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
                let word = text.get(at..at + length).unwrap_or_default();
                let known = ["nan", "inf", "infinity"].iter().any(|known| word.eq_ignore_ascii_case(known));
                if known && begins_value(bytes.get(..at)) && ends_value(rest.get(length)) {
                    // A plus is no JSON either.
                    let before = text.get(copied..at).unwrap_or_default();
                    out.push_str(before.strip_suffix('+').unwrap_or(before));
                    out.push_str(NOT_FINITE);
                    copied = at + length;
                }
                length
            }
            _ => 1,
        };
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(text.get(copied..).unwrap_or_default());
    Cow::Owned(out)
}

/// Whether a value may begin after these bytes; it may have a sign already.
fn begins_value(before: Option<&[u8]>) -> bool {
    let before = before.unwrap_or_default();
    let before = before.strip_suffix(b"-").or(before.strip_suffix(b"+")).unwrap_or(before);
    before.last().is_none_or(|byte| matches!(byte, b':' | b',' | b'[') || byte.is_ascii_whitespace())
}

/// Whether a value may end before this byte.
fn ends_value(next: Option<&u8>) -> bool {
    next.is_none_or(|byte| matches!(byte, b',' | b']' | b'}') || byte.is_ascii_whitespace())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn left_out(text: &str) -> String {
        let reported = read_metrics(text.as_bytes()).unwrap();
        reported.left_out.into_iter().map(|(name, what)| format!("{name}: {what}")).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn numbers_and_labels_are_read_and_the_rest_is_left_out() {
        let reported = read_metrics(
            b"\xef\xbb\xbf {\"a\": 1, \"b\": -2.5e3, \"c\": \"NaN, 1e999\", \"d\": NaN, \"e\": [NaN, -Infinity], \"f\": null,\r\n\"g\": true, \"h\": {\"x\": inf}, \"i\": -Infinity, \"j\": +inf, \"k\": nan} ",
        )
        .unwrap();
        let expected = Metrics::from([
            ("a".into(), Metric::Number(1.0)),
            ("b".into(), Metric::Number(-2_500.0)),
            ("c".into(), Metric::Label("NaN, 1e999".into())),
        ]);
        assert_eq!(reported.metrics, expected);
        let what: Vec<&str> = reported.left_out.values().map(String::as_str).collect();
        let odd = "NaN or infinite";
        assert_eq!(what, [odd, "a list", "null", "a boolean", "an object", odd, odd, odd]);
    }

    #[test]
    fn integers_that_a_float_rounds_are_none() {
        assert_eq!(
            left_out("{\"a\": 9007199254740993, \"b\": 9007199254740992, \"c\": 1e400, \"d\": -1e-400}"),
            "a: 9007199254740993, which cannot be held exactly by a 64-bit float; c: 1e400, which is too large for a \
             64-bit float; d: -1e-400, which is too small for a 64-bit float: it would become 0"
        );
        // Measured numbers may have more digits than there are.
        assert_eq!(left_out("{\"a\": 0.1234567890123456789, \"b\": 6.02214076e23, \"c\": 1.50}"), "");
    }

    #[test]
    fn of_two_values_for_a_name_the_last_counts() {
        assert_eq!(left_out("{\"a\": 1, \"a\": null}"), "a: null");
        let again = read_metrics(b"{\"a\": null, \"a\": 1}").unwrap();
        assert_eq!((again.metrics.len(), again.left_out.len()), (1, 0));
    }

    #[test]
    fn what_is_no_report_is_said() {
        for (text, words) in [
            (&b""[..], "is empty"),
            (b"\xef\xbb\xbf\n", "is empty"),
            (b"[1]", "is not an object"),
            (b"\"NaN\"", "is not an object"),
            (b"{\"a\": \"\xff\"}", "is not JSON: "),
            (b"{\"a\": 1", "is not JSON: "),
            (b"{\"a\": 1} x", "is not JSON: "),
            (b"{\"a\": nana}", "is not JSON: "),
            (b"{\"a\": \"\\ud800\"", "is not JSON: "),
        ] {
            let why = read_metrics(text).unwrap_err();
            assert!(why.starts_with(words), "{why}");
        }
        // A part of something else is no number of its own: what is said of it is said of what stands there.
        for (text, column) in
            [("5nan", 8), ("5+inf", 8), ("-5Infinity", 9), ("1.nan", 9), ("nan5", 8), ("inf-1", 7)]
        {
            let why = read_metrics(format!("{{\"y\": {text}}}").as_bytes()).unwrap_err();
            assert!(
                why.starts_with("is not JSON: ") && why.ends_with(&format!("column {column}")),
                "{text}: {why}"
            );
        }
        assert!(read_metrics(&[b'['; 1 << 20]).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..40), text in "(\\{|\\}|\"|a|:|,|-|\\+|nan|Inf|[0-9]|\\\\| |é){0,20}") {
            for bytes in [&bytes[..], text.as_bytes()] {
                if let Ok(reported) = read_metrics(bytes) {
                    prop_assert!(reported.metrics.values().all(|metric| metric.number().is_none_or(f64::is_finite)));
                }
            }
        }

        /// What a program reports of a number is what it is.
        #[test]
        fn a_reported_number_is_that_number(number in any::<f64>().prop_filter("finite", |n| n.is_finite())) {
            for text in [format!("{number:e}"), format!("{number:?}"), number.to_string(), serde_json::json!(number).to_string()] {
                let reported = read_metrics(format!("{{\"m\": {text}}}").as_bytes()).unwrap();
                prop_assert_eq!(reported.metrics.get("m"), Some(&Metric::Number(number)), "{}", text);
            }
        }
    }
}
