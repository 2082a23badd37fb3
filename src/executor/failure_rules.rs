//! A study's own failure rules, compiled once for a stage.
//!
//! They name failures and nothing else: no rule ever turns a success into a failure.

use regex::bytes::Regex;

use crate::model::{Exit, FailureKind, Severity};
use crate::study_file::{FailureMatch, FailureRule, signal_number};

/// One `[[stage.failure]]`, compiled.
#[derive(Clone, Debug)]
pub(crate) struct CompiledFailure {
    /// What the failures it names are called.
    pub kind: FailureKind,
    /// How bad they are.
    pub severity: Severity,
    /// Whether a retry could help.
    pub retryable: bool,
    pub when: CompiledMatch,
}

/// Which failures a rule names.
#[derive(Clone, Debug)]
pub(crate) enum CompiledMatch {
    /// Those whose error output, or output, matches.
    Log(Regex),
    ExitCode(i32),
    /// Those ended by this signal, by its number; `None` (this machine has no such signal) names none.
    Signal(Option<i32>),
}

impl CompiledFailure {
    /// Compiles a rule.
    ///
    /// # Errors
    /// If its expression is not valid; the check refuses those.
    pub(crate) fn new(rule: &FailureRule) -> Result<Self, regex::Error> {
        let when = match (&rule.when, rule.compile()?) {
            (_, Some(regex)) => CompiledMatch::Log(regex),
            (FailureMatch::ExitCode(code), None) => CompiledMatch::ExitCode(*code),
            (FailureMatch::Signal(name), None) => CompiledMatch::Signal(signal_number(name)),
            // `compile` gives every log rule its expression.
            (FailureMatch::Log(_), None) => CompiledMatch::Signal(None),
        };
        Ok(Self { kind: rule.kind.clone(), severity: rule.severity, retryable: rule.retryable, when })
    }
}

impl CompiledMatch {
    /// Whether the way a process ended is enough to decide. A shell that exits with 128 + n says that a command of its
    /// own was ended by signal n.
    #[must_use]
    pub(crate) fn names(&self, exit: Exit) -> bool {
        match (self, exit) {
            (Self::ExitCode(wanted), Exit::Code(code)) => *wanted == code,
            (Self::Signal(Some(wanted)), Exit::Signal(signal)) => *wanted == signal,
            (Self::Signal(Some(wanted)), Exit::Code(code)) => code - 128 == *wanted,
            (Self::Log(_) | Self::ExitCode(_) | Self::Signal(_), _) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_signals_are_told_apart_but_for_a_shell_that_tells_of_a_signal() {
        let segv = CompiledMatch::Signal(Some(11));
        assert!(segv.names(Exit::Signal(11)) && segv.names(Exit::Code(139)));
        assert!(!segv.names(Exit::Code(11)) && !segv.names(Exit::Signal(9)));
        let three = CompiledMatch::ExitCode(3);
        assert!(three.names(Exit::Code(3)));
        assert!(!three.names(Exit::Signal(3)) && !three.names(Exit::Code(131)));
        assert!(!CompiledMatch::Signal(None).names(Exit::Code(128)));
        assert!(!CompiledMatch::Log(Regex::new("").unwrap()).names(Exit::Code(0)));
    }

    #[test]
    fn rules_keep_what_they_say() {
        let rule = |when| FailureRule { kind: "own".into(), when, severity: Severity::High, retryable: false };
        let compiled = CompiledFailure::new(&rule(FailureMatch::Signal("SIGSEGV".into()))).unwrap();
        assert_eq!((compiled.kind.name(), compiled.severity, compiled.retryable), ("own", Severity::High, false));
        assert!(matches!(compiled.when, CompiledMatch::Signal(Some(11))));
        let unknown = CompiledFailure::new(&rule(FailureMatch::Signal("SIGNONE".into()))).unwrap();
        assert!(matches!(unknown.when, CompiledMatch::Signal(None)));
        assert!(CompiledFailure::new(&rule(FailureMatch::Log("(".into()))).is_err());
    }
}
