//! Room on the disk: what the study's directory takes, held against `[run] disk_limit`.
//!
//! The directory is measured once, before anything starts. From then on an account is kept: what an attempt left is added when it has
//! ended, before anything more is handed out, what was discarded is taken off, and nothing is measured again. No trial is handed out that there would be no room for if it
//! left as much as the largest so far. That is all it can do: which trials there are, and what comes of them, hangs on nothing here.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::Path;

use crate::model::words::{bytes, limit_of_bytes};
use crate::model::{Event, REUSED, StageRow, TrialId};
use crate::paths::StudyPaths;
use crate::plan::Lineage;
use crate::study_file::Spec;
use crate::sys::opened::Opened;
use crate::sys::removal::{Taken, measured};

/// The account, in bytes; none where there is no limit.
#[derive(Debug)]
pub(crate) struct Room {
    limit: u64,
    used: u64,
    /// What is in the scratch directories of trials that are to run again, as it was last measured.
    scratch: HashMap<TrialId, u64>,
    /// What a trial has left at most.
    largest: u64,
}

/// How many trials may be handed out or run at once, and why no more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RoomFor {
    pub(crate) trials: u64,
    pub(crate) why: String,
}

/// What the reason of a drain for want of room begins with.
const DISK_LIMIT: &str = "disk_limit";

impl Room {
    /// Measures what is there, if there is a limit: everything, and each case by itself.
    pub(super) fn of(spec: &Spec, paths: &StudyPaths) -> Option<Self> {
        let limit = spec.run.disk_limit_bytes?;
        let root = paths.study_artifacts(&spec.study.name);
        let mut largest = 0;
        for stage in names(&root) {
            let stage = root.join(stage);
            largest =
                names(&stage).iter().map(|case| measured(&stage.join(case)).bytes).max().unwrap_or(0).max(largest);
        }
        Some(Self { limit, used: measured(&root).bytes, scratch: HashMap::new(), largest })
    }

    /// Something has happened, and is on disk or will be with the next commit.
    pub(super) fn note(&mut self, event: &Event, (spec, paths, stages): (&Spec, &StudyPaths, &[StageRow])) {
        let lineage = Lineage::new(spec, stages);
        let place = |trial, attempt| {
            let (stage, index) = lineage.locate(trial)?;
            let case = lineage.case(stage, index);
            Some((paths.attempt_dir(spec, stage, &case, attempt), paths.scratch_dir(spec, stage, &case)))
        };
        match event {
            Event::AttemptStarted { trial, attempt, .. } if *attempt > 1 && !self.scratch.contains_key(trial) => {
                if let Some((_, scratch)) = place(*trial, *attempt) {
                    self.scratch.insert(*trial, measured(&scratch).bytes);
                }
            }
            Event::AttemptEnded(end) => {
                if let Some((dir, scratch)) = place(end.trial, end.attempt) {
                    let is_over = end.next == crate::model::Next::Final;
                    self.left(end.trial, &dir, &scratch, is_over);
                }
            }
            Event::TrialReused(reused) => {
                if let Some((dir, scratch)) = place(reused.trial, REUSED) {
                    self.left(reused.trial, &dir, &scratch, true);
                }
            }
            Event::DiscardFinished { bytes, .. } => self.used = self.used.saturating_sub(*bytes),
            _ => {}
        }
    }

    fn left(&mut self, trial: TrialId, dir: &Path, scratch: &Path, is_over: bool) {
        let Taken { bytes: left, .. } = measured(dir);
        let kept = measured(scratch).bytes;
        let before = if is_over { self.scratch.remove(&trial) } else { self.scratch.insert(trial, kept) };
        self.used = self.used.saturating_add(left).saturating_add(kept).saturating_sub(before.unwrap_or(0));
        self.largest = self.largest.max(left.saturating_add(kept));
    }

    /// How many trials there is room for at once. Before any has ended nobody knows what they leave: as many as there are workers.
    pub(super) fn now(&self, workers: u64) -> RoomFor {
        let left = self.limit.saturating_sub(self.used);
        let trials = match self.largest {
            _ if left == 0 => 0,
            0 => workers,
            largest => left / largest,
        };
        let next = match self.largest {
            0 => String::new(),
            largest => format!(", and a trial leaves up to {}", bytes(largest)),
        };
        let (used, of) = (bytes(self.used), limit_of_bytes(self.limit));
        let why = || format!("{DISK_LIMIT}: the study's directory takes {used} of {of}{next}");
        RoomFor { trials, why: if trials == 0 { why() } else { String::new() } }
    }
}

fn names(dir: &Path) -> Vec<std::ffi::OsString> {
    let mut found = Vec::new();
    let read = Opened::dir(dir).and_then(|dir| {
        dir.each_name(&mut |name: &OsStr| {
            found.push(name.to_owned());
            Ok(())
        })
    });
    // What cannot be listed is not measured.
    drop(read);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_as_many_as_fit_if_each_is_as_large_as_the_largest() {
        let root = tempfile::tempdir().unwrap();
        let left = |room: &mut Room, trial: u64, size: usize| {
            let dir = root.path().join(trial.to_string());
            std::fs::create_dir(&dir).unwrap();
            std::fs::write(dir.join("big"), vec![1; size]).unwrap();
            room.left(TrialId(trial), &dir, &root.path().join("none"), true);
        };
        let mut room = Room { limit: 1_000_000, used: 100_000, scratch: HashMap::new(), largest: 0 };
        assert_eq!(room.now(4).trials, 4, "nothing is known of what a trial leaves");
        left(&mut room, 0, 200_000);
        assert_eq!(room.now(4).trials, 3);
        left(&mut room, 1, 100_000);
        assert_eq!(room.now(4).trials, 2);
        left(&mut room, 2, 450_000);
        let full = room.now(4);
        assert!(full.trials == 0 && full.why.starts_with("disk_limit: the study's directory takes 8"), "{full:?}");
        room.used -= 700_000;
        assert_eq!(room.now(4).trials, 1);
        room.used = 2_000_000;
        assert_eq!(room.now(4).trials, 0);
    }
}
