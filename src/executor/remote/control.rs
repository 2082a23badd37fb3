//! The control directory of one attempt on a cluster: how engine and job speak with each other, whatever happens to
//! either of them or to the cluster.
//!
//! It lies beside the artifacts, on a file system that the cluster's nodes share. Whoever makes `claim` first owns the
//! attempt: a job that finds it runs nothing, and the engine makes it itself to be sure that no job ever will. The last
//! thing a job does is to leave `exit.json`, whole and durable. Nothing here may be decided by what a cluster says of a
//! job, and an attempt's key is never used again.

use std::collections::HashSet;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use super::wire::{Begun, Outcome, Task};
use crate::executor::AttemptKey;
use crate::model::{AttemptNo, StudyId, TrialId};
use crate::sys::files::{create_dir_all_durable, fsync_dir, replace_atomically};

const TASK: &str = "job.json";
const CLAIM: &str = "claim";
const BEGUN: &str = "started.json";
const BEAT: &str = "beat";
const CANCEL: &str = "cancel";
const EXIT: &str = "exit.json";
/// What the job itself prints; next to nothing, unless it cannot start.
const LOG: &str = "job.log";
/// In a batch's directory: the keys of its tasks, a line each.
pub(super) const BATCH_KEYS: &str = "keys";

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    dir: PathBuf,
}

impl Control {
    /// An attempt's, below the study's directory for them.
    pub(super) fn of(root: &Path, key: &AttemptKey) -> Self {
        Self { dir: root.join(key.to_string()) }
    }

    /// The one a job was told of.
    pub(crate) fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn log(&self) -> PathBuf {
        self.dir.join(LOG)
    }

    /// Makes it, with what the job has to do. What is there already stays: a job may have begun.
    pub(super) fn prepare(&self, task: &Task) -> io::Result<()> {
        if self.dir.join(TASK).exists() {
            return Ok(());
        }
        create_dir_all_durable(&self.dir)?;
        self.write(TASK, task)
    }

    /// What the job has to do.
    pub(crate) fn task(&self) -> io::Result<Option<Task>> {
        self.read(TASK)
    }

    /// Makes the attempt the caller's; whether that came first.
    pub(crate) fn claim(&self) -> io::Result<bool> {
        match std::fs::create_dir(self.dir.join(CLAIM)) {
            Ok(()) => {
                fsync_dir(&self.dir)?;
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes sure that no job will ever run the attempt; whether none does. Where nothing was prepared there is nothing
    /// that one could run.
    pub(super) fn take_back(&self) -> io::Result<bool> {
        match self.claim() {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
            other => other,
        }
    }

    pub(super) fn is_claimed(&self) -> io::Result<bool> {
        self.dir.join(CLAIM).try_exists()
    }

    /// Says that the job runs, and where.
    pub(crate) fn begin(&self, begun: &Begun) -> io::Result<()> {
        self.write(BEGUN, begun)
    }

    pub(super) fn begun(&self) -> Option<Begun> {
        self.read(BEGUN).ok().flatten()
    }

    /// A sign of life, another one each time.
    pub(crate) fn beat(&self, count: u64) -> io::Result<()> {
        std::fs::write(self.dir.join(BEAT), count.to_string())
    }

    /// The last sign of life.
    pub(super) fn last_beat(&self) -> Option<Vec<u8>> {
        std::fs::read(self.dir.join(BEAT)).ok()
    }

    /// Asks the job to end its trial as a signal would.
    pub(super) fn cancel(&self) -> io::Result<()> {
        match std::fs::write(self.dir.join(CANCEL), b"") {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.dir.join(CANCEL).exists()
    }

    /// The job's last word.
    pub(crate) fn end(&self, outcome: &Outcome) -> io::Result<()> {
        self.write(EXIT, outcome)
    }

    /// It, if it was spoken.
    pub(super) fn outcome(&self) -> io::Result<Option<Outcome>> {
        self.read(EXIT)
    }

    /// Removes all of it: the attempt's end is recorded. What cannot be removed is harmless.
    pub(super) fn remove(&self) {
        if let Err(error) = std::fs::remove_dir_all(&self.dir)
            && error.kind() != ErrorKind::NotFound
        {
            log::warn!("cannot remove `{}`: {error}", self.dir.display());
        }
    }

    fn write(&self, name: &str, what: &impl serde::Serialize) -> io::Result<()> {
        replace_atomically(&self.dir.join(name), |file| Ok(serde_json::to_writer(file, what)?))
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> io::Result<Option<T>> {
        match std::fs::read(self.dir.join(name)) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Removes the control directories of attempts that do not run any more, and of batches of such: their ends are recorded.
pub(super) fn remove_others(root: &Path, study: StudyId, left: &[(TrialId, AttemptNo)]) {
    let Ok(entries) = std::fs::read_dir(root) else { return };
    let left: HashSet<(TrialId, AttemptNo)> = left.iter().copied().collect();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let over = |key: AttemptKey| key.study == study && !left.contains(&(key.trial, key.attempt));
        let keys = match name.to_str().and_then(AttemptKey::parse) {
            Some(key) => vec![Some(key)],
            // Of a batch, all its tasks count.
            None => match std::fs::read_to_string(entry.path().join(BATCH_KEYS)) {
                Ok(keys) => keys.lines().map(AttemptKey::parse).collect(),
                Err(_) => continue,
            },
        };
        if keys.into_iter().all(|key| key.is_some_and(over)) {
            Control::at(&entry.path()).remove();
        }
    }
}
