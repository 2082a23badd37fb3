//! What lies in a study's artifacts, by name: the directories of stages and attempts, and the files that piton knows there.

use std::ffi::CStr;

use super::ids::{AttemptNo, StageIndex};

/// A trial's params, in the directory of its attempt.
pub(crate) const PARAMS_FILE: &str = "params.json";
/// What it reports, beside them.
pub(crate) const METRICS_FILE: &str = "metrics.json";
/// Its output, beside them.
pub(crate) const STDOUT_LOG: &str = text_of(STDOUT_LOG_C);
/// Its error output, beside them.
pub const STDERR_LOG: &str = text_of(STDERR_LOG_C);
/// [`STDOUT_LOG`] for a system call.
pub(crate) const STDOUT_LOG_C: &CStr = c"stdout.log";
/// [`STDERR_LOG`] for a system call.
pub(crate) const STDERR_LOG_C: &CStr = c"stderr.log";
/// Where in a stage's directory its proposer runs.
pub(crate) const PROPOSER_DIR: &str = "proposer";
/// What a trial reports while it runs, in its case's directory; kept across attempts.
pub(crate) const PROGRESS_FILE: &str = "progress.jsonl";
/// A case's directory that is kept across attempts.
pub(crate) const SCRATCH_DIR: &str = "scratch";

/// What follows the name of an attempt's directory whose result may still be taken: since then, another attempt has its place.
pub(crate) const BEFORE: &str = ".before-";

const fn text_of(name: &CStr) -> &str {
    match name.to_str() {
        Ok(text) => text,
        Err(_) => "",
    }
}

#[must_use]
pub(crate) fn stage_name(stage: StageIndex, name: &str) -> String {
    format!("{stage}_{name}")
}

#[must_use]
pub(crate) fn attempt_name(attempt: AttemptNo) -> String {
    format!("attempt_{attempt}")
}
