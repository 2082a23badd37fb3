//! What fuzzing reaches of this module: everything that reads what a trial wrote. No part of the interface.

use std::path::Path;
use std::time::Duration;

use super::blame::reason_of;
use super::ended_dir::EndedAttemptDir;
use super::logs::Logs;
use super::results::{parse_metrics, search};
use crate::executor::CompiledRule;
use crate::model::Metric;
use crate::model::reported::MAX_LABEL_BYTES;
use crate::model::reports::{Acceptance, MAX_BYTES, Report, read_reports};
use crate::study_file::ProgressSpec;
use crate::study_file::progress::Printed;

/// Reads bytes as `metrics.json`: numbers are finite, labels are bounded, reasons are one line.
pub fn metrics(text: &[u8]) {
    match parse_metrics(text) {
        Ok(reported) => {
            for metric in reported.metrics.into_values() {
                match metric {
                    Metric::Number(number) => assert!(number.is_finite()),
                    Metric::Label(label) => assert!(label.len() <= MAX_LABEL_BYTES + '…'.len_utf8()),
                }
            }
        }
        Err(failure) => assert!(!failure.reason.contains(|c: char| c.is_control()), "{:?}", failure.reason),
    }
}

/// Reads bytes as a trial's reports: their steps grow, and what is written of one reads back.
pub fn reports(text: &[u8]) {
    let (mut acceptance, mut last) = (Acceptance::default(), None);
    let read = read_reports(text, MAX_BYTES, |report| {
        if acceptance.accepts(&report) {
            assert!(last.is_none_or(|last| report.step > last) && !report.metrics.is_empty());
            last = Some(report.step);
            if let Ok(mut line) = report.line() {
                assert_eq!(line.pop(), Some(b'\n'));
                assert_eq!(Report::of_line(&line).as_ref(), Some(&report));
            }
        }
    });
    assert!(read.is_ok());
}

/// Reads bytes as what a program prints, which `[stage.progress]` reads by these expressions.
pub fn printed(pattern: &str, text: &[u8]) {
    for regex in [Some(pattern.to_owned()), None] {
        let metrics = [("m".to_owned(), pattern.to_owned())].into();
        let spec = ProgressSpec { file: Some("f".to_owned()), regex, metrics, only_watched: false };
        if let Ok(Some(printed)) = Printed::new(&spec) {
            let read = printed.read(text, MAX_BYTES, true, |report| assert!(!report.metrics.is_empty()));
            assert!(read.is_ok());
        }
    }
}

/// Searches bytes for a metric, as `[stage.metrics]` does.
pub fn rule(pattern: &str, text: &[u8]) {
    let Ok(regex) = regex::bytes::RegexBuilder::new(pattern).size_limit(1 << 20).build() else { return };
    let rule = CompiledRule { metric: "m".into(), file: "f".into(), regex, scale: 2.0 };
    match search(&rule, text, Duration::from_secs(60)) {
        Ok(number) => assert!(number.is_finite()),
        Err(failure) => assert!(!failure.reason.contains(|c: char| c.is_control()), "{:?}", failure.reason),
    }
}

/// Searches a directory's logs, as a failure rule does: what is quoted controls no terminal.
pub fn log_rule(pattern: &str, dir: &Path) {
    let Ok(regex) = regex::bytes::RegexBuilder::new(pattern).size_limit(1 << 20).build() else { return };
    let left = EndedAttemptDir::in_dir(dir);
    for logs in [Logs::read(&left), Logs::read_ends(&left)].into_iter().flatten() {
        if let Some(found) = logs.find(&regex) {
            // Tabs stay: what is shown is what the rule saw. A reason has none.
            let is_odd = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
            assert!(!found.excerpt.contains(is_odd), "{:?}", found.excerpt);
            let reason = reason_of(&found.line);
            assert!(!reason.contains(char::is_control), "{reason:?}");
        }
    }
}
