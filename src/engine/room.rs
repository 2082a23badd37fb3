//! Room on the disk: what the study's directory takes, held against `[run] disk_limit`.
//!
//! The directory is measured once, before anything starts, with what attempts have written so far that an earlier engine left running. From then on an account is kept: what an attempt left is added when it has
//! ended, before anything more is handed out, what was discarded is taken off, and nothing is measured again. No trial is handed out that there would be no room for if it
//! left as much as the largest so far. That is all it can do: which trials there are, and what comes of them, hangs on nothing here.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::model::words::{bytes, limit_of_bytes};
use crate::model::{AttemptNo, Event, REUSED, RunningRow, StageRow, TrialId};
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
    /// What attempts that run on had left when all was measured: it counts already.
    counted: HashMap<(TrialId, AttemptNo), u64>,
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
    /// Measures what is there, if there is a limit: everything, each case by itself, and what attempts are running in.
    pub(super) fn of(
        spec: &Spec,
        paths: &StudyPaths,
        (stages, running): (&[StageRow], &[RunningRow]),
    ) -> Option<Self> {
        let limit = spec.run.disk_limit_bytes?;
        let root = paths.study_artifacts(&spec.study.name);
        let mut largest = 0;
        for stage in names(&root) {
            let stage = root.join(stage);
            largest =
                names(&stage).iter().map(|case| measured(&stage.join(case)).bytes).max().unwrap_or(0).max(largest);
        }
        let (mut scratch, mut counted) = (HashMap::new(), HashMap::new());
        for RunningRow { trial, attempt, .. } in running {
            if let Some((dir, scratch_dir)) = place((spec, paths, stages), *trial, *attempt) {
                counted.insert((*trial, *attempt), measured(&dir).bytes);
                scratch.insert(*trial, measured(&scratch_dir).bytes);
            }
        }
        // Last: what they write meanwhile counts twice at most, never not at all.
        Some(Self { limit, used: measured(&root).bytes, scratch, counted, largest })
    }

    /// Something has happened, and is on disk or will be with the next commit.
    pub(super) fn note(&mut self, event: &Event, study: (&Spec, &StudyPaths, &[StageRow])) {
        let place = |trial, attempt| place(study, trial, attempt);
        match event {
            Event::AttemptStarted { trial, attempt, .. } if *attempt > 1 && !self.scratch.contains_key(trial) => {
                if let Some((_, scratch)) = place(*trial, *attempt) {
                    self.scratch.insert(*trial, measured(&scratch).bytes);
                }
            }
            Event::AttemptEnded(end) => {
                if let Some((dir, scratch)) = place(end.trial, end.attempt) {
                    let is_over = end.next == crate::model::Next::Final;
                    self.left((end.trial, end.attempt), &dir, &scratch, is_over);
                }
            }
            Event::TrialReused(reused) => {
                if let Some((dir, scratch)) = place(reused.trial, REUSED) {
                    self.left((reused.trial, REUSED), &dir, &scratch, true);
                }
            }
            Event::DiscardFinished { bytes, .. } => self.used = self.used.saturating_sub(*bytes),
            _ => {}
        }
    }

    fn left(&mut self, (trial, attempt): (TrialId, AttemptNo), dir: &Path, scratch: &Path, is_over: bool) {
        let Taken { bytes: left, .. } = measured(dir);
        let kept = measured(scratch).bytes;
        let before = if is_over { self.scratch.remove(&trial) } else { self.scratch.insert(trial, kept) };
        let before = before.unwrap_or(0).saturating_add(self.counted.remove(&(trial, attempt)).unwrap_or(0));
        self.used = self.used.saturating_add(left).saturating_add(kept).saturating_sub(before);
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

/// The directory of an attempt, and its trial's scratch directory.
fn place(
    (spec, paths, stages): (&Spec, &StudyPaths, &[StageRow]),
    trial: TrialId,
    attempt: AttemptNo,
) -> Option<(PathBuf, PathBuf)> {
    let lineage = Lineage::new(spec, stages);
    let (stage, index) = lineage.locate(trial)?;
    let case = lineage.case(stage, index);
    Some((paths.attempt_dir(spec, stage, &case, attempt), paths.scratch_dir(spec, stage, &case)))
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

    use crate::model::{ExecutorKind, StageDecl, StageStatus, waiting};
    use crate::{Stage, Study};

    #[test]
    fn what_runs_on_from_an_earlier_engine_counts_once() {
        let root = tempfile::tempdir().unwrap();
        let stage = Stage::unbound("a").budget(2).survivors(1).choices("x", [1, 2]);
        let mut spec = Study::builder("s").stage(stage).spec().unwrap();
        spec.run.disk_limit_bytes = Some(1 << 30);
        let paths = StudyPaths {
            store: root.path().join("s.redb"),
            study_dir: root.path().into(),
            artifacts: root.path().join("artifacts"),
        };
        let decl =
            StageDecl { name: "a".into(), trial_budget: 2, survivor_count: 1, objective: None, proposed: false };
        let stages = [StageRow { status: StageStatus::Open, shares: vec![2], planned: 2, ..waiting(0, &decl) }];
        let study = (&spec, &paths, &stages[..]);
        let (dir, scratch) = place(study, TrialId(1), 1).unwrap();
        let write = |dir: &Path, name: &str, size: usize| {
            std::fs::create_dir_all(dir).unwrap();
            std::fs::write(dir.join(name), vec![1; size]).unwrap();
        };
        write(&dir, "early", 400_000);
        write(&scratch, "checkpoint", 300_000);
        let row = RunningRow { trial: TrialId(1), attempt: 1, process: None, executor: ExecutorKind::Slurm };
        let mut room = Room::of(&spec, &paths, (&stages, &[row])).unwrap();
        assert!((700_000..800_000).contains(&room.used), "{room:?}");
        write(&dir, "late", 200_000);
        room.left((TrialId(1), 1), &dir, &scratch, true);
        let all = measured(&paths.study_artifacts("s")).bytes;
        assert_eq!((room.used, room.counted.len(), room.scratch.len()), (all, 0, 0));
    }

    #[test]
    fn there_is_room_for_as_many_as_fit_if_each_is_as_large_as_the_largest() {
        let root = tempfile::tempdir().unwrap();
        let left = |room: &mut Room, trial: u64, size: usize| {
            let dir = root.path().join(trial.to_string());
            std::fs::create_dir(&dir).unwrap();
            std::fs::write(dir.join("big"), vec![1; size]).unwrap();
            room.left((TrialId(trial), 1), &dir, &root.path().join("none"), true);
        };
        let (scratch, counted) = (HashMap::new(), HashMap::new());
        let mut room = Room { limit: 1_000_000, used: 100_000, scratch, counted, largest: 0 };
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
