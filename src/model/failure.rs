//! Why trials fail: kinds of failures, and what is recorded of one.

use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::names::clean;
use super::rows::{AttemptOutcome, Severity};

/// Makes [`FailureKind`] from the table of its names.
macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident => $name:literal,)+) => {
        /// What a failure is called. On disk, in JSON and everywhere else outside it is its name alone.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[cfg_attr(test, derive(schemars::JsonSchema), schemars(with = "String"))]
        #[serde(from = "String", into = "String")]
        #[non_exhaustive]
        pub enum FailureKind {
            $($(#[$doc])* $variant,)+
            /// A kind of the study's own: of its failure rules, or of its closures. [`FailureKind::from`] makes it, so
            /// that it is none of the names above, and has nothing that could steer a terminal.
            Own(String),
        }

        impl FailureKind {
            /// Piton's own kinds.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Its name.
            #[must_use]
            pub fn name(&self) -> &str {
                match self {
                    $(Self::$variant => $name,)+
                    Self::Own(name) => name,
                }
            }
        }
    };
}

kinds! {
    /// It exited with another code than 0.
    ExitCode => "exit_code",
    /// A signal ended it.
    Signal => "signal",
    /// It ran longer than it may.
    Timeout => "timeout",
    /// It used more memory than it may, or than there was.
    OutOfMemory => "out_of_memory",
    /// There is no such program.
    CommandNotFound => "command_not_found",
    /// It did not report what is needed.
    MissingMetric => "missing_metric",
    /// What it reported cannot be read.
    BadMetrics => "bad_metrics",
    /// It did not leave what is declared.
    MissingOutput => "missing_output",
    /// Its program could not be started.
    SpawnFailed => "spawn_failed",
    /// It killed the process that all trials are children of.
    KilledKeeper => "killed_keeper",
    /// A closure that did not say more.
    Error => "error",
    /// A closure met an error of the system.
    Io => "io",
    /// A closure asked for a param that there is not.
    BadParam => "bad_param",
    /// A closure panicked.
    Panic => "panic",
    /// Nobody recorded it.
    Unknown => "unknown",
}

impl FailureKind {
    /// Whether no failure rule may claim this name: those of what piton alone sees, and those of ends that are no failures. A
    /// rule may well name `timeout`, `out_of_memory` or `command_not_found`: a tool can report them in its log.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        match self {
            Self::ExitCode
            | Self::Signal
            | Self::MissingMetric
            | Self::BadMetrics
            | Self::MissingOutput
            | Self::SpawnFailed
            | Self::KilledKeeper => true,
            Self::Own(name) => Self::NO_FAILURES.iter().any(|outcome| outcome.name() == name),
            _ => false,
        }
    }

    /// Whether it says nothing of the work: a limit, or the machine. Somewhere else, or at another time, it may well succeed.
    #[must_use]
    pub(crate) const fn is_of_the_site(&self) -> bool {
        matches!(
            self,
            Self::Timeout
                | Self::OutOfMemory
                | Self::Signal
                | Self::CommandNotFound
                | Self::SpawnFailed
                | Self::KilledKeeper
                | Self::Io
                | Self::Unknown
        )
    }

    /// Ends that are no failures.
    const NO_FAILURES: [AttemptOutcome; 2] = [AttemptOutcome::Interrupted, AttemptOutcome::Cancelled];

    /// The names that no failure rule may claim.
    pub(crate) fn reserved() -> Vec<&'static str> {
        let own = Self::ALL.iter().filter(|kind| kind.is_reserved()).map(Self::name);
        own.chain(Self::NO_FAILURES.iter().map(|outcome| outcome.name())).collect()
    }

    /// How bad it usually is, and whether a retry could help.
    const fn usually(&self) -> (Severity, bool) {
        match self {
            // The next attempt would find the same.
            Self::CommandNotFound | Self::KilledKeeper => (Severity::High, false),
            Self::SpawnFailed | Self::OutOfMemory => (Severity::High, true),
            _ => (Severity::Medium, true),
        }
    }
}

impl From<&str> for FailureKind {
    fn from(name: &str) -> Self {
        Self::ALL.iter().find(|kind| kind.name() == name).cloned().unwrap_or_else(|| Self::Own(clean(name)))
    }
}

impl From<String> for FailureKind {
    fn from(name: String) -> Self {
        Self::from(name.as_str())
    }
}

impl From<FailureKind> for String {
    fn from(kind: FailureKind) -> Self {
        match kind {
            FailureKind::Own(name) => name,
            kind => kind.name().to_owned(),
        }
    }
}

/// By name, as lists of kinds are sorted.
impl Ord for FailureKind {
    fn cmp(&self, other: &Self) -> Ordering {
        self.name().cmp(other.name())
    }
}

impl PartialOrd for FailureKind {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Why a trial failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// What it is called.
    pub kind: FailureKind,
    /// How bad.
    #[serde(with = "severity")]
    pub severity: Severity,
    /// Whether a retry could help.
    pub retryable: bool,
    /// One line for people.
    pub reason: String,
    /// A few lines of the log that say most; may be empty.
    pub log_excerpt: String,
}

impl Failure {
    /// A failure as those of its kind usually are.
    #[must_use]
    pub fn new(kind: FailureKind, reason: impl Into<String>) -> Self {
        let (severity, retryable) = kind.usually();
        Self { kind, severity, retryable, reason: reason.into(), log_excerpt: String::new() }
    }
}

/// A severity between engine and job: with the capital letter that it has always had there.
mod severity {
    use serde::{Deserialize as _, Deserializer, Serializer};

    use crate::model::{Named as _, Severity, unknown_name};

    pub(super) fn serialize<S: Serializer>(severity: &Severity, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{severity:?}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Severity, D::Error> {
        let name = String::deserialize(deserializer)?;
        Severity::by_name(&name.to_ascii_lowercase()).ok_or_else(|| unknown_name::<Severity, _>(&name))
    }
}

#[cfg(test)]
mod tests {
    use super::FailureKind::{self, Own};

    #[test]
    fn names_lead_back_and_what_is_none_is_the_studys_own() {
        for kind in FailureKind::ALL {
            assert_eq!(FailureKind::from(kind.name()), *kind);
            let json = serde_json::to_string(kind).unwrap();
            assert_eq!(json, format!("\"{kind}\""));
            assert_eq!(serde_json::from_str::<FailureKind>(&json).unwrap(), *kind);
        }
        for (name, shown) in
            [("licence", "licence"), ("", ""), ("Exit_Code", "Exit_Code"), ("a\u{1b}[2J\n", "a\\u{1b}[2J\\n")]
        {
            let kind = FailureKind::from(name);
            assert_eq!(kind, Own(shown.into()));
            // What was cleaned stays as it is.
            assert_eq!(FailureKind::from(kind.name()), kind);
        }
    }

    #[test]
    fn what_piton_alone_sees_is_no_rules_to_claim() {
        let reserved = FailureKind::reserved();
        let own = "exit_code signal missing_metric bad_metrics missing_output spawn_failed killed_keeper";
        assert_eq!(reserved.join(" "), format!("{own} interrupted cancelled"));
        let names = FailureKind::ALL.iter().map(FailureKind::name).chain([
            "interrupted",
            "cancelled",
            "failed",
            "licence",
        ]);
        for name in names {
            assert_eq!(FailureKind::from(name).is_reserved(), reserved.contains(&name), "{name}");
        }
    }
}
