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
