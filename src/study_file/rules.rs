//! Rails and failure rules: when a study aborts itself, and what its failures are called.
//!
//! Plain data like the rest of the spec, and under the same rules: checked once, read for ever.

use serde::{Deserialize, Serialize};

use crate::model::{FailureKind, Severity};

/// `[rails]`: limits of the whole study.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Rails {
    /// The study is aborted once its runs have lasted this long together, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_runtime_ms: Option<u64>,
    /// The study is aborted at this many failed trials of [`Severity::Catastrophic`]; at least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catastrophic_failures: Option<u64>,
}

impl Rails {
    /// Whether there are none.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// `[stage.rails]`: when a stage aborts the study, or ends early.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StageRails {
    /// Any succeeded trial beyond one of these bounds aborts the study.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub abort_if: Vec<MetricBound>,
    /// More failed than this of the finished trials abort the study; in `(0, 1]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_failure_rate: Option<f64>,
    /// The stage ends after so many finished trials in a row that brought nothing better, in the order of their numbers; at least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub improve_within: Option<u64>,
}

impl StageRails {
    /// Whether there are none.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// A metric and a bound: an entry of `abort_if`, or of `[[stage.require]]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MetricBound {
    /// The metric; a trial without it fails.
    pub metric: String,
    /// What it must not cross.
    pub bound: Bound,
}

/// What a metric must not cross; the bound itself is still good.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Bound {
    /// Abort below this finite number.
    Below(f64),
    /// Abort above this finite number.
    Above(f64),
}

/// `[[stage.failure]]`: how to name failures of the stage's tool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FailureRule {
    /// `[a-z][a-z0-9_]*`.
    pub kind: FailureKind,
    /// Which failures it names.
    pub when: FailureMatch,
    /// How bad they are.
    pub severity: Severity,
    /// Whether a retry could help.
    pub retryable: bool,
}

impl FailureRule {
    /// The rule's regex, ready for logs that need not be UTF-8; `None` for a rule that has none.
    ///
    /// # Errors
    /// Never for a checked spec, unless its regex outgrew this version's limits.
    pub fn compile(&self) -> Result<Option<regex::bytes::Regex>, regex::Error> {
        match &self.when {
            FailureMatch::Log(pattern) => log_regex(pattern).map(Some),
            FailureMatch::ExitCode(_) | FailureMatch::Signal(_) => Ok(None),
        }
    }
}

/// A failure rule's regex as it is applied to a log: `^` and `$` are the ends of a line.
pub(super) fn log_regex(pattern: &str) -> Result<regex::bytes::Regex, regex::Error> {
    regex::bytes::RegexBuilder::new(pattern).multi_line(true).build()
}

/// Which failures a [`FailureRule`] names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FailureMatch {
    /// Those whose output or error output matches this valid regex.
    Log(String),
    /// Those that exited with this code, 1 to 255.
    ExitCode(i32),
    /// Those ended by this signal, such as `SIGSEGV`.
    Signal(String),
}

/// Every signal that can end a process on Linux, real-time signals aside: `signal(7)`.
pub(super) const SIGNALS: [(&str, i32); 23] = [
    ("SIGABRT", libc::SIGABRT),
    ("SIGALRM", libc::SIGALRM),
    ("SIGBUS", libc::SIGBUS),
    ("SIGFPE", libc::SIGFPE),
    ("SIGHUP", libc::SIGHUP),
    ("SIGILL", libc::SIGILL),
    ("SIGINT", libc::SIGINT),
    ("SIGIO", libc::SIGIO),
    ("SIGKILL", libc::SIGKILL),
    ("SIGPIPE", libc::SIGPIPE),
    ("SIGPROF", libc::SIGPROF),
    ("SIGPWR", libc::SIGPWR),
    ("SIGQUIT", libc::SIGQUIT),
    ("SIGSEGV", libc::SIGSEGV),
    ("SIGSTKFLT", libc::SIGSTKFLT),
    ("SIGSYS", libc::SIGSYS),
    ("SIGTERM", libc::SIGTERM),
    ("SIGTRAP", libc::SIGTRAP),
    ("SIGUSR1", libc::SIGUSR1),
    ("SIGUSR2", libc::SIGUSR2),
    ("SIGVTALRM", libc::SIGVTALRM),
    ("SIGXCPU", libc::SIGXCPU),
    ("SIGXFSZ", libc::SIGXFSZ),
];

/// The number this machine gives a signal of [`FailureMatch::Signal`].
#[must_use]
pub(crate) fn signal_number(name: &str) -> Option<i32> {
    SIGNALS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}
