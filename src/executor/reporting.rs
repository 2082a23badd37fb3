//! `piton progress`, as a trial calls it: one report, durable in the trial's file before the command ends.

use std::io;
use std::path::Path;

use crate::model::reports::{Report, whole};
use crate::study_file::progress::value;
use crate::sys::append::{LEVELS, append_line};

/// Why a report was not written.
#[derive(Debug)]
pub enum NotReported {
    /// It is none, in words.
    Malformed(String),
    /// Its file cannot be written.
    File(io::Error),
}

/// Adds a report to a trial's file: the step, and values as `METRIC=VALUE`.
///
/// # Errors
/// [`NotReported`]; a reader sees nothing of it then, but after a failed sync.
pub fn append_report(file: &Path, step: &str, values: &[String]) -> Result<(), NotReported> {
    let malformed = NotReported::Malformed;
    let number = value(step).flatten().and_then(whole);
    let step =
        number.ok_or_else(|| malformed(format!("the step is a whole number from 0 on, and not `{step}`")))?;
    let metrics = values.iter().map(|word| {
        let (name, text) =
            word.split_once('=').ok_or_else(|| malformed(format!("`{word}` is not METRIC=VALUE")))?;
        let value = value(text).ok_or_else(|| malformed(format!("`{text}` in `{word}` is not a number")))?;
        Ok((name.to_owned(), value))
    });
    let report = Report { step, metrics: metrics.collect::<Result<_, _>>()? };
    let line = report.line().map_err(malformed)?;
    append_line(file, &line, LEVELS).map_err(NotReported::File)
}
