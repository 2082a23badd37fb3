//! Discarding by hand: what `piton gc` does.
//!
//! A plan first, made while nobody else can change the store, or of a snapshot to look at alone. It is recorded before anything is removed;
//! if that is cut off, the next start of the study, or the next `piton gc`, finishes it. Nothing is removed in a directory that does not
//! say itself that it is this study's.

use std::collections::HashSet;

use super::Store;
use crate::claim::{self, Owner};
use crate::engine::discard::{self, Ground};
use crate::error::Error;
use crate::journal::{Journal, Reader, Snapshot};
use crate::model::{DiscardRun, Event, Keep, Kept, StageRow, StageStatus, StudyRow, Tidied, TrialId, TrialState};
use crate::paths::StudyPaths;
use crate::plan::keep;
use crate::study_file::Spec;
use crate::sys::clock::unix_ms;
use crate::sys::removal::{Removing, Taken};

/// What is discarded of a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StageDiscard {
    /// The stage's name.
    pub stage: String,
    /// What is kept of its trials.
    pub keep: Keep,
    /// Trials that survived of whose directories something goes.
    pub survivors: u64,
    /// The same of those that neither survived nor failed.
    pub others: u64,
    /// The same of those that failed.
    pub failed: u64,
}

/// What was removed, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Freed {
    /// Bytes of blocks.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
    /// Of these, bytes of what an earlier discard had left that was cut off.
    pub left_before: u64,
    /// Stages of which something could not be removed: it is tried again at the next start.
    pub unfinished: Vec<String>,
}

/// What discarding would do. While it lives nobody else can change the store, unless it is a preview.
#[derive(Debug)]
pub struct GcPlan<'a> {
    store: &'a Store,
    journal: Option<Journal>,
    events: Vec<Event>,
    stages: Vec<StageDiscard>,
    spec: Spec,
    paths: StudyPaths,
    needed: u64,
}

impl Store {
    /// What is to be discarded of what the study's trials left, by its own `keep` or another one, as a plan: nothing is removed yet.
    ///
    /// Of a stage that has closed everything that `keep` does not keep, but for directories that trials to come may see; of an open one
    /// what can survive no more.
    ///
    /// # Errors
    /// [`Error::Open`] while an engine runs, [`Error::Usage`] where the directory is another store's, and when the store cannot be read.
    pub fn plan_gc(&self, keep: Option<Keep>) -> Result<GcPlan<'_>, Error> {
        let (journal, snapshot, spec) = self.open()?;
        self.gc_plan(keep, Some(journal), &snapshot, spec)
    }

    /// The same plan to be looked at alone, also while an engine runs. It cannot be applied.
    ///
    /// # Errors
    /// As for [`Store::plan_gc`], but for the first.
    pub fn preview_gc(&self, keep: Option<Keep>) -> Result<GcPlan<'_>, Error> {
        let snapshot = Reader::open(&self.path)?.snapshot().map_err(|cause| self.unreadable(cause))?;
        let study = snapshot.study().map_err(|cause| self.unreadable(cause))?;
        let spec = self.stored_spec(&study)?;
        self.gc_plan(keep, None, &snapshot, spec)
    }

    fn gc_plan(
        &self,
        keep: Option<Keep>,
        journal: Option<Journal>,
        snapshot: &Snapshot,
        spec: Spec,
    ) -> Result<GcPlan<'_>, Error> {
        let unreadable = |cause| self.unreadable(cause);
        let study = snapshot.study().map_err(unreadable)?;
        let paths = StudyPaths::of(&self.path, &study).map_err(Error::no_current_dir)?;
        let is_own = self.refuse_foreign(&paths, &study)?;
        let rows = snapshot.stages().map_err(unreadable)?;
        let needed = keep::needed(&rows);
        let (mut events, mut stages) = (Vec::new(), Vec::new());
        let begun = |stage: &&StageRow| stage.status != StageStatus::Waiting;
        for (row, of) in rows.iter().zip(&spec.stages).filter(|(row, _)| is_own && begun(row)) {
            let keep = keep.unwrap_or(of.keep);
            let trials = snapshot.trials(row.first_trial, row.end()).map_err(unreadable)?;
            let runs = keep::discards(row, keep, &needed, Tidied::All, trials).map_err(unreadable)?;
            if !runs.is_empty() {
                stages.push(counted(row, keep, &runs, snapshot).map_err(unreadable)?);
                events.push(discard::recorded(row.index, Tidied::No, runs));
            }
        }
        Ok(GcPlan { store: self, journal, events, stages, spec, paths, needed: needed.len() as u64 })
    }

    /// Whether the study's directory is this store's, and anything can be in it.
    fn refuse_foreign(&self, paths: &StudyPaths, study: &StudyRow) -> Result<bool, Error> {
        let dir = paths.study_artifacts(&study.name);
        match claim::owner(paths, &study.name, study.study_id) {
            Ok(Owner::Own) => Ok(true),
            Ok(Owner::Nobody) => Ok(false),
            Ok(Owner::Other(owner)) => Err(Error::Usage(format!(
                "`{}` is the directory of the store `{}`: nothing in it is discarded by another one",
                dir.display(),
                owner.display()
            ))),
            Err(cause) => Err(Error::File { what: "look into the artifacts directory", path: dir, cause }),
        }
    }
}

fn counted(
    stage: &StageRow,
    keep: Keep,
    runs: &[DiscardRun],
    snapshot: &Snapshot,
) -> Result<StageDiscard, crate::journal::JournalError> {
    let survivors: HashSet<TrialId> = stage.survivors.iter().map(|parent| parent.trial).collect();
    let mut of = StageDiscard { stage: stage.name.clone(), keep, survivors: 0, others: 0, failed: 0 };
    for run in runs {
        for row in snapshot.trials(run.first, TrialId(run.first.0.saturating_add(run.count)))? {
            let row = row?;
            match row.state {
                _ if survivors.contains(&row.trial) => of.survivors += 1,
                TrialState::Failed => of.failed += 1,
                _ => of.others += 1,
            }
        }
    }
    Ok(of)
}

impl GcPlan<'_> {
    /// What is discarded of each stage; those of which nothing is are left out.
    #[must_use]
    pub fn stages(&self) -> &[StageDiscard] {
        &self.stages
    }

    /// How many directories stay since trials to come may see them.
    #[must_use]
    pub const fn needed(&self) -> u64 {
        self.needed
    }

    /// What it would free, as far as that can be seen.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn measure(&self) -> Result<Freed, Error> {
        let unreadable = |cause| self.store.unreadable(cause);
        let snapshot = match &self.journal {
            Some(journal) => journal.snapshot(),
            None => Reader::open(&self.store.path)?.snapshot(),
        };
        let snapshot = snapshot.map_err(unreadable)?;
        let stages = snapshot.stages().map_err(unreadable)?;
        let ground = Ground { spec: &self.spec, paths: &self.paths, stages: &stages };
        let mut taken = Taken::default();
        for event in &self.events {
            let Event::DirectoriesDiscarded(discarded) = event else { continue };
            let Some(stage) = stages.get(discarded.stage as usize) else { continue };
            let rows = discard::named_by(&snapshot, event).map_err(unreadable)?.into_iter().map(Ok);
            let outcome = discard::remove(ground, stage, rows, Removing::OnlyCounted, &|| false);
            taken.add(outcome.map_err(unreadable)?.taken);
        }
        Ok(Freed { bytes: taken.bytes, inodes: taken.inodes, ..Freed::default() })
    }

    /// Does it: records what is discarded, removes it, and records that.
    ///
    /// # Errors
    /// [`Error::Usage`] for a preview, and what reading or writing the store fails with.
    pub fn apply(self) -> Result<Freed, Error> {
        Ok(self.applied()?.0)
    }

    /// [`GcPlan::apply`], with whether anything was recorded.
    pub(crate) fn applied(self) -> Result<(Freed, bool), Error> {
        let unreadable = |cause| self.store.unreadable(cause);
        let Some(mut journal) = self.journal else {
            return Err(Error::Usage("nothing was discarded: this is a preview alone".into()));
        };
        let mut freed = Freed::default();
        let before = journal.last_seq();
        let left = discard::finish_left(&mut journal, &self.spec, &self.paths, &|| false)?;
        for event in &left {
            if let Event::DiscardFinished { bytes, inodes, .. } = event {
                freed.left_before += bytes;
                (freed.bytes, freed.inodes) = (freed.bytes + bytes, freed.inodes + inodes);
            }
        }
        let of = discard::stages_of(&self.events);
        let record = |event| crate::model::Record { at_ms: unix_ms(), run_ms: 0, event };
        let records: Vec<_> = self.events.into_iter().map(record).collect();
        if !records.is_empty() {
            journal.append(&records).map_err(unreadable)?;
        }
        let snapshot = journal.snapshot().map_err(unreadable)?;
        let stages = snapshot.stages().map_err(unreadable)?;
        let ground = Ground { spec: &self.spec, paths: &self.paths, stages: &stages };
        let finished = discard::carry_out(&snapshot, ground, &of, &|| false).map_err(unreadable)?;
        drop(snapshot);
        for event in &finished {
            if let Event::DiscardFinished { bytes, inodes, .. } = event {
                (freed.bytes, freed.inodes) = (freed.bytes + bytes, freed.inodes + inodes);
            }
        }
        let is_finished = |stage: &StageRow| {
            finished
                .iter()
                .any(|event| matches!(event, Event::DiscardFinished { stage: of, .. } if *of == stage.index))
        };
        let unfinished = stages.iter().filter(|stage| stage.discarding && !is_finished(stage));
        freed.unfinished = unfinished.map(|stage| stage.name.clone()).collect();
        let records: Vec<_> = finished.into_iter().map(record).collect();
        if !records.is_empty() {
            journal.append(&records).map_err(unreadable)?;
        }
        let changed = journal.last_seq() > before;
        journal.close().map_err(unreadable)?;
        Ok((freed, changed))
    }
}

/// How much of a kind of trials is kept, as a person says it: `survivors=all,others=outputs,failed=logs`.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_keep(text: &str) -> Result<Keep, String> {
    let mut keep = Keep::default();
    for part in text.split(',') {
        let (name, level) = part.split_once('=').ok_or_else(|| {
            format!("`{part}` is not KIND=LEVEL; write it like `survivors=all,others=outputs,failed=logs`")
        })?;
        let Some(place) = keep.part_mut(name.trim()) else {
            return Err(format!("`{name}` is no kind of trial: survivors, others or failed"));
        };
        let level = level.trim();
        *place = <Kept as crate::model::Named>::by_name(level)
            .ok_or_else(|| format!("`{level}` is not one of {}", crate::model::names_of::<Kept>().join(", ")))?;
    }
    Ok(keep)
}
