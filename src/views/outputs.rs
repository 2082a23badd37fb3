//! Whether the outputs of accepted trials are still what was recorded: the part of `verify` outside the store.
//!
//! Every declared output of every succeeded trial is hashed again. It only reads, and goes on after a difference.

use std::io;
use std::path::Path;

use super::{StudyView, ViewError};
use crate::journal::Snapshot;
use crate::model::{Kept, OutputHash, TrialState};
use crate::sys::opened::Opened;
use crate::sys::tree_hash::to_the_end;
use crate::sys::words::io_words;

/// Differences kept; the rest are counted.
const KEPT: usize = 100;

/// How the outputs in place compare with those on record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutputsCheck {
    /// Outputs hashed or looked for.
    pub checked: u64,
    /// Outputs that were discarded, by `keep` or by hand: neither looked for nor lost.
    pub discarded: u64,
    /// Outputs that are gone or others.
    pub differing: u64,
    /// The first of them, in words.
    pub differences: Vec<String>,
}

/// Hashes all outputs again.
///
/// # Errors
/// [`ViewError::Journal`] from reading the store; what is wrong with an output is a difference, not an error.
pub(crate) fn check(view: &StudyView, snapshot: &Snapshot) -> Result<OutputsCheck, ViewError> {
    let mut found = OutputsCheck::default();
    for stage in &view.stages {
        for trial in view.started(snapshot, stage)? {
            let trial = trial?;
            if trial.state != TrialState::Succeeded || trial.outputs().is_empty() {
                continue;
            }
            if trial.kept_of(trial.accepted()) > Kept::Outputs {
                found.discarded += trial.outputs().len() as u64;
                continue;
            }
            let case = trial.case();
            let dir = view.attempt_place(stage, &case, trial.accepted()).open();
            for output in trial.outputs() {
                found.checked += 1;
                if let Err(why) = compare(dir.as_ref(), output) {
                    found.differing += 1;
                    if found.differences.len() < KEPT {
                        found.differences.push(format!("output `{}` of `{case}` {why}", output.path));
                    }
                }
            }
        }
    }
    Ok(found)
}

fn compare(dir: Result<&Opened, &io::Error>, output: &OutputHash) -> Result<(), String> {
    let dir = dir.map_err(unreadable)?;
    let hash =
        dir.resolve(Path::new(&output.path)).and_then(|(real, _)| dir.open(&real)?.hash(false, &to_the_end));
    match hash {
        Ok(hash) if hash.blake3 == output.blake3 && hash.bytes == output.bytes => Ok(()),
        Ok(hash) if hash.bytes != output.bytes => {
            Err(format!("has {} bytes; {} were recorded", hash.bytes, output.bytes))
        }
        Ok(_) => Err("has another content than was recorded".into()),
        Err(error) => Err(unreadable(&error)),
    }
}

fn unreadable(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "is gone".into(),
        _ => format!("cannot be read: {}", io_words(error)),
    }
}
