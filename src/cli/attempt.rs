//! `piton attempt`: what a job of a cluster runs. Nobody types it.

use std::path::Path;

use piton::Error;
use piton::program::engine::attempt::{AttemptEnded, run};

use super::keeper::keeper;

/// What a job exits with that found its attempt taken.
const NOT_OURS: u8 = 76;

/// Runs one attempt. The exit code is for people who look at the cluster's list of jobs: piton does not read it.
pub fn attempt(control: &Path) -> Result<u8, Error> {
    // Before any thread exists: the keeper is a fork of this process.
    let keeper = keeper()?;
    Ok(match run(control, keeper)? {
        AttemptEnded::Succeeded => 0,
        AttemptEnded::Failed => 1,
        AttemptEnded::Interrupted => 75,
        AttemptEnded::NotOurs => NOT_OURS,
    })
}
