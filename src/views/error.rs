//! What can go wrong while looking. It must keep apart what the store, the output and the user are to blame for.

use std::io;
use std::path::PathBuf;

use crate::journal::JournalError;
use crate::model::AttemptNo;

/// A view that cannot be shown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ViewError {
    /// The store cannot be read.
    #[error("cannot read the store")]
    Journal(#[from] JournalError),
    /// The spec in the store cannot be read.
    #[error("cannot read the spec in the store: {0}")]
    Spec(String),
    /// The output cannot be written. A broken pipe is [`io::ErrorKind::BrokenPipe`], which is no failure of ours.
    #[error("cannot write the output")]
    Output(#[from] io::Error),
    /// No such case is planned.
    #[error("{}", unknown_case(case, nearest.as_deref()))]
    UnknownCase {
        /// As it was asked for; hostile until it is cleaned.
        case: String,
        /// The most similar case there is.
        nearest: Option<String>,
    },
    /// The case runs several times, and one of its trials has to be named.
    #[error("case `{case}` is {replicas} trials: name one of `{case}.r0` to `{case}.r{}`", replicas.saturating_sub(1))]
    Replicas {
        /// The case's name.
        case: String,
        /// How many there are.
        replicas: u32,
    },
    /// The case is planned, but the attempt never started.
    #[error("case `{case}` has no attempt {attempt}; it has {attempts}")]
    UnknownAttempt {
        /// The case's name, as the user gave it.
        case: String,
        /// From 1.
        attempt: u32,
        /// How many attempts there are.
        attempts: usize,
    },
    /// The case has not started yet.
    #[error("case `{case}` has not started yet")]
    NotStarted {
        /// The case's name, as the user gave it.
        case: String,
    },
    /// The case ran nothing: it took an equal trial's result.
    #[error("case `{case}` has no log: it ran nothing, and took the result of {origin}")]
    RanNothing {
        /// The case's name, as the user gave it.
        case: String,
        /// Whose result, in words.
        origin: String,
    },
    /// What an attempt left is discarded, by the study's `keep` or by `piton gc`.
    #[error(
        "what attempt {attempt} of `{case}` left was discarded, its logs, too: `keep` says so, or `piton gc` was told so"
    )]
    Discarded {
        /// Its case.
        case: String,
        /// Which attempt.
        attempt: AttemptNo,
    },
    /// A trial's log is not there. Of a log without a byte, a power cut may leave nothing.
    #[error("there is no file `{}`: it was removed, or nothing was written to it", path.display())]
    LogGone {
        /// Path of the file.
        path: PathBuf,
    },
    /// What was asked for makes no sense for this study; in words.
    #[error("{0}")]
    Request(String),
    /// A file that was given as a baseline is none.
    #[error("`{}` {why}", path.display())]
    Baseline {
        /// Path of the file.
        path: PathBuf,
        /// Follows the path in a sentence: `is not a baseline: …`.
        why: String,
    },
    /// A file of a trial, or an export, cannot be read or written.
    #[error("cannot {what} `{}`", path.display())]
    File {
        /// `read` or `write`.
        what: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
}

impl From<serde_json::Error> for ViewError {
    /// Values here always have a JSON form, so what fails is the writer beneath.
    fn from(error: serde_json::Error) -> Self {
        Self::Output(error.into())
    }
}

impl From<csv::Error> for ViewError {
    fn from(error: csv::Error) -> Self {
        let text = error.to_string();
        match error.into_kind() {
            csv::ErrorKind::Io(error) => Self::Output(error),
            _ => Self::Output(io::Error::other(text)),
        }
    }
}

fn unknown_case(case: &str, nearest: Option<&str>) -> String {
    let case = super::text::clean(case);
    match nearest {
        Some(nearest) => format!("there is no case `{case}`; did you mean `{nearest}`?"),
        None => format!("there is no case `{case}`"),
    }
}
