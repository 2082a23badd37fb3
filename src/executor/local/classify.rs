//! What a failed attempt's failure is called, and which lines of its log say most.
//!
//! The study's own rules name what the trial did by itself: how it exited, and what it left undone. What piton or the
//! kernel did to it keeps its name, whatever the log says. Nothing here is ever asked about a success.

use super::blame::{reason_of, shorten};
use super::ended_dir::EndedAttemptDir;
use super::logs::{Found, Logs, last_lines};
use crate::executor::{CompiledFailure, CompiledMatch};
use crate::model::{Exit, Failure};

/// Longest part of the matching line that goes into the reason, bytes.
const MAX_LINE_BYTES: usize = 240;

/// The failure, with the name that the first matching rule gives it, and with an excerpt of the log: what matched, or
/// the last lines. `otherwise` names what no rule does.
///
/// # Errors
/// In words, if the machine cannot read a log: then nothing is known of the failure's name.
pub(super) fn by_rules(
    rules: &[CompiledFailure],
    left: &EndedAttemptDir,
    exit: Exit,
    failed: Failure,
    otherwise: impl FnOnce(Failure) -> Result<Failure, String>,
) -> Result<Failure, String> {
    // Logs are read once, and only if a rule asks for them.
    let mut logs: Option<Logs> = None;
    for rule in rules {
        let matched = match &rule.when {
            CompiledMatch::Log(regex) => {
                let logs = match &mut logs {
                    Some(logs) => logs,
                    unread => unread.insert(Logs::read(left)?),
                };
                logs.find(regex).map(Some)
            }
            when => when.names(exit).then_some(None),
        };
        let Some(found) = matched else { continue };
        let named =
            Failure { kind: rule.kind.clone(), severity: rule.severity, retryable: rule.retryable, ..failed };
        return match found {
            Some(found) => Ok(with_found(named, found)),
            None => with_last_lines(named, left),
        };
    }
    otherwise(failed)
}

/// The failure with what was found in its log.
pub(super) fn with_found(failed: Failure, found: Found) -> Failure {
    let reason = match found.line.is_empty() {
        true => failed.reason,
        false => reason_of(&format!("{}: {}", failed.reason, shorten(found.line, MAX_LINE_BYTES))),
    };
    Failure { reason, log_excerpt: found.excerpt, ..failed }
}

/// The failure with the end of its log.
///
/// # Errors
/// As for [`by_rules`].
pub(super) fn with_last_lines(failed: Failure, left: &EndedAttemptDir) -> Result<Failure, String> {
    Ok(Failure { log_excerpt: last_lines(left)?, ..failed })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::executor::local::blame::failure;
    use crate::model::{FailureKind, Severity};
    use crate::study_file::{FailureMatch, FailureRule};

    fn rule(kind: &str, when: FailureMatch) -> CompiledFailure {
        let rule = FailureRule { kind: kind.into(), when, severity: Severity::Low, retryable: false };
        CompiledFailure::new(&rule).unwrap()
    }

    fn named(rules: &[CompiledFailure], stderr: &str, exit: Exit) -> Failure {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("stderr.log"), stderr).unwrap();
        by_rules(
            rules,
            &EndedAttemptDir::in_dir(dir.path()),
            exit,
            failure(FailureKind::ExitCode, "exited with code 3"),
            |failed| with_last_lines(failed, &EndedAttemptDir::in_dir(dir.path())),
        )
        .unwrap()
    }

    #[test]
    fn the_first_rule_that_matches_names_the_failure() {
        let log = |kind: &str, regex: &str| rule(kind, FailureMatch::Log(regex.into()));
        let rules = [
            log("licence", "no licence"),
            rule("three", FailureMatch::ExitCode(3)),
            log("crash", "Segmentation"),
            rule("killed", FailureMatch::Signal("SIGKILL".into())),
        ];
        let both = named(&rules, "a\nno licence: b\nSegmentation fault\n", Exit::Code(3));
        assert_eq!((both.kind.name(), both.severity, both.retryable), ("licence", Severity::Low, false));
        assert_eq!(both.reason, "exited with code 3: no licence: b");
        assert_eq!(both.log_excerpt, "stderr.log, line 2:\na\nno licence: b\nSegmentation fault");
        let code = named(&rules, "Segmentation fault\n", Exit::Code(3));
        assert_eq!((code.kind.name(), &*code.reason), ("three", "exited with code 3"));
        assert_eq!(code.log_excerpt, "Segmentation fault");
        assert_eq!(named(&rules, "Segmentation fault\n", Exit::Code(4)).kind.name(), "crash");
        assert_eq!(named(&rules, "", Exit::Signal(9)).kind.name(), "killed");
        let none = named(&rules, "other\n", Exit::Code(9));
        assert_eq!((none.kind, none.severity, none.retryable), (FailureKind::ExitCode, Severity::Medium, true));
        assert_eq!(none.log_excerpt, "other");
    }

    #[test]
    fn a_reason_quotes_a_line_and_no_megabyte() {
        let long = format!("Error: {}\n", "x".repeat(1 << 20));
        let failure = named(&[rule("own", FailureMatch::Log("Error".into()))], &long, Exit::Code(1));
        assert_eq!(failure.reason.len(), "exited with code 3: ".len() + MAX_LINE_BYTES);
        assert!(failure.log_excerpt.len() <= 2_048);
    }
}
