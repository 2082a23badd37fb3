//! A study as every view needs it: the rows that seldom change, the spec, and all trials in order.
//!
//! A trial that never started has no row; it is made up here from the plan, so that views see every planned trial. The
//! trials come one by one; nothing here may hold all of them.

use std::collections::HashSet;
use std::iter::Peekable;
use std::path::{Path, PathBuf};

use super::ViewError;
use crate::journal::{self, JournalError, Snapshot};
use crate::model::{
    Abort, AttemptNo, Proposals, Rail, StageCounters, StageIndex, StageRow, StageStatus, StudyProgress, StudyRow,
    StudyStatus, TrialId, TrialRow, TrialState,
};
use crate::paths::{StudyPaths, attempt_name, stage_name};
use crate::plan::Lineage;
use crate::spec::Spec;
use crate::sys::opened::Below;

/// Whether an engine has the store open, as the caller found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Liveness {
    /// True while the engine named in the study row lives.
    pub alive: bool,
}

impl Liveness {
    /// Whether the engine that a study names has the store open: the lock tells, wherever the engine runs. Where a file
    /// system knows no locks there is none.
    ///
    /// # Errors
    /// If the machine cannot ask now.
    pub fn of(store: &Path, study: &StudyRow) -> std::io::Result<Self> {
        if study.open_engine().is_none() {
            return Ok(Self { alive: false });
        }
        match journal::is_locked(store) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM)) => {
                Err(error)
            }
            asked => Ok(Self { alive: asked.unwrap_or(false) }),
        }
    }
}

/// Where a study's files are, as the caller found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The store as the user named it, for commands to copy.
    pub store: String,
    /// The artifacts directory. Absolute, or directories are shown relative to the caller's.
    pub artifacts_dir: PathBuf,
    /// The study file's directory, likewise.
    pub study_dir: PathBuf,
}

impl Place {
    /// The place of a store as the user named it, with absolute directories.
    ///
    /// # Errors
    /// When the current directory cannot be told.
    pub fn new(store: &Path, study: &StudyRow) -> std::io::Result<Self> {
        let paths = StudyPaths::of(store, study)?;
        Ok(Self { store: store.display().to_string(), artifacts_dir: paths.artifacts, study_dir: paths.study_dir })
    }
}

/// A study, loaded once per snapshot. Its size does not grow with the trials, but for the survivors.
#[derive(Debug)]
pub struct StudyView {
    /// The study row.
    pub study: StudyRow,
    /// Its progress.
    pub progress: StudyProgress,
    /// All stages, in order.
    pub stages: Vec<StageRow>,
    /// Their counters, in the same order.
    pub counters: Vec<StageCounters>,
    /// What proposers said; of all their trials, since any may be looked at.
    pub proposals: Proposals,
    /// The checked spec.
    pub spec: Spec,
    /// Where its files are.
    pub place: Place,
    /// Whether its engine lives.
    pub liveness: Liveness,
}

impl StudyView {
    /// Reads a study from a snapshot.
    ///
    /// # Errors
    /// [`ViewError::Journal`] and [`ViewError::Spec`].
    pub fn load(snapshot: &Snapshot, place: Place, liveness: Liveness) -> Result<Self, ViewError> {
        let study = snapshot.study()?;
        let spec = Spec::from_json(&study.spec).map_err(|error| ViewError::Spec(error.to_string()))?;
        let stages = snapshot.stages()?;
        let counters =
            stages.iter().map(|stage| snapshot.counters(stage.index)).collect::<Result<_, JournalError>>()?;
        let proposals = snapshot.proposals(TrialId(0), TrialId(u64::MAX))?;
        Ok(Self { study, progress: snapshot.progress()?, stages, counters, proposals, spec, place, liveness })
    }

    /// The status for people: a study whose engine is gone is interrupted, whatever its row still says.
    #[must_use]
    pub fn status(&self) -> StudyStatus {
        match self.study.status {
            StudyStatus::Running if !self.liveness.alive => StudyStatus::Interrupted,
            status => status,
        }
    }

    /// The stage that cannot begin before a person approves it, when nothing else is left to do before it.
    #[must_use]
    pub fn waits_for_approval(&self) -> Option<&str> {
        let next = self.stages.iter().find(|stage| stage.status != StageStatus::Closed)?;
        let spec = self.spec.stages.get(next.index as usize)?;
        let waits = spec.approve && next.approval.is_none() && next.status == StageStatus::Waiting;
        let base = self.study.base.as_ref().is_some_and(|base| base.state == TrialState::Succeeded);
        if next.index == 0 && self.spec.base.is_some() && !base {
            return None;
        }
        let over = matches!(self.study.status, StudyStatus::Completed | StudyStatus::Aborted);
        (waits && !over && !self.liveness.alive).then_some(next.name.as_str())
    }

    /// Who descends from whom.
    #[must_use]
    pub fn lineage(&self) -> Lineage<'_> {
        Lineage::new(&self.spec, &self.stages).with_proposals(&self.proposals)
    }

    /// Running time over all runs, microseconds.
    #[must_use]
    pub fn runtime_us(&self) -> u64 {
        (self.progress.earlier_runs_ms.saturating_add(self.progress.this_run_ms)).saturating_mul(1_000)
    }

    /// A stage by its index.
    #[must_use]
    pub fn stage(&self, index: StageIndex) -> Option<&StageRow> {
        self.stages.get(index as usize)
    }

    /// A stage's counters by its index.
    #[must_use]
    pub fn counters_of(&self, index: StageIndex) -> StageCounters {
        self.counters.get(index as usize).copied().unwrap_or_default()
    }

    /// Trials of a stage that wait for an attempt; none in an aborted study.
    #[must_use]
    pub fn pending(&self, stage: &StageRow) -> u64 {
        match stage.status {
            StageStatus::Open => self.counters_of(stage.index).pending(stage.planned()),
            StageStatus::Waiting | StageStatus::Closed | StageStatus::Aborted => 0,
        }
    }

    /// The directory of a study's artifacts: `<artifacts>/<study>`.
    #[must_use]
    pub fn study_artifacts_dir(&self) -> PathBuf {
        self.place.artifacts_dir.join(&self.study.name)
    }

    /// The directory of a stage's cases: `<artifacts>/<study>/<stage_index>_<stage>`.
    #[must_use]
    pub fn stage_dir(&self, stage: &StageRow) -> PathBuf {
        self.study_artifacts_dir().join(stage_name(stage.index, &stage.name))
    }

    /// The directory of an attempt: `<artifacts>/<study>/<stage_index>_<stage>/<case>/attempt_<n>`.
    #[must_use]
    pub fn attempt_dir(&self, stage: &StageRow, case: &str, attempt: AttemptNo) -> PathBuf {
        self.attempt_place(stage, case, attempt).path()
    }

    /// It, to be opened: trials may have put anything there.
    #[must_use]
    pub fn attempt_place(&self, stage: &StageRow, case: &str, attempt: AttemptNo) -> Below {
        let stage_dir = stage_name(stage.index, &stage.name);
        Below::root(self.study_artifacts_dir()).join(stage_dir).join(case).join(attempt_name(attempt))
    }

    /// A trial's case, or its number where the plan does not know it.
    #[must_use]
    pub fn case_of(&self, lineage: &Lineage<'_>, trial: TrialId) -> String {
        match lineage.locate(trial) {
            Some((stage, index)) => lineage.case(stage, index),
            None => format!("#{trial}"),
        }
    }

    /// Looks a case up by its name, `<base_case>_<stage_index>_<derived_index>`.
    ///
    /// # Errors
    /// [`ViewError::UnknownCase`] with the nearest name there is.
    pub fn find_case(&self, case: &str) -> Result<TrialId, ViewError> {
        self.lineage()
            .find_case(case)
            .ok_or_else(|| ViewError::UnknownCase { case: case.to_owned(), nearest: self.nearest_case(case) })
    }

    /// The most similar case, without trying them all: what reads as two numbers at the end is kept as far as it
    /// is in range.
    fn nearest_case(&self, case: &str) -> Option<String> {
        let index: u64 = case.rsplit('_').next().and_then(|digits| digits.parse().ok()).unwrap_or(0);
        let opened = self.stages.iter().filter(|stage| stage.planned() > 0);
        opened
            .map(|stage| {
                let index = index.min(stage.planned() - 1);
                let name = format!("{}_{}_{index}", self.study.base_case, stage.index);
                (strsim::normalized_damerau_levenshtein(case, &name), name)
            })
            .max_by(|(a, _), (b, _)| a.total_cmp(b))
            .filter(|(similarity, _)| *similarity > 0.4)
            .map(|(_, name)| name)
    }

    /// All trials of a stage in derived order, started or not.
    ///
    /// # Errors
    /// [`JournalError`], also for each item.
    pub fn trials(&self, snapshot: &Snapshot, stage: &StageRow) -> Result<Trials, JournalError> {
        self.trials_from(snapshot, stage, 0, u64::MAX)
    }

    /// Likewise, but only `count` of them (or as many as there are) from the derived index `from` on.
    ///
    /// # Errors
    /// [`JournalError`], also for each item.
    pub fn trials_from(
        &self,
        snapshot: &Snapshot,
        stage: &StageRow,
        from: u64,
        count: u64,
    ) -> Result<Trials, JournalError> {
        let end = from.saturating_add(count).min(stage.planned());
        let trial = |index: u64| TrialId(stage.first_trial.0.saturating_add(index));
        let rows: Rows = Box::new(snapshot.trials(trial(from), trial(end))?);
        Ok(Trials {
            stage: stage.index,
            first: stage.first_trial,
            end,
            next: from,
            every: 1,
            aborted: self.aborted(),
            rows: rows.peekable(),
        })
    }

    /// The trials of a stage that started, and of the others those whose derived index is a multiple of `every`, in
    /// derived order: a pass whose cost does not grow with what is only planned.
    ///
    /// # Errors
    /// [`JournalError`], also for each item.
    pub fn trials_thinned(
        &self,
        snapshot: &Snapshot,
        stage: &StageRow,
        every: u64,
    ) -> Result<Trials, JournalError> {
        Ok(Trials { every: every.max(1), ..self.trials(snapshot, stage)? })
    }

    /// One trial as [`StudyView::trials`] shows it; `None` when it is not planned.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn trial(&self, snapshot: &Snapshot, trial: TrialId) -> Result<Option<PlannedTrial>, JournalError> {
        let Some((stage, index)) = self.lineage().locate(trial) else { return Ok(None) };
        let row = snapshot.trial(trial)?;
        Ok(Some(PlannedTrial::new(trial, stage, index, row, self.aborted())))
    }

    /// Whether a trial has no part in what the study was aborted by, given its stage and its place there.
    #[must_use]
    pub fn is_outside(&self, stage: StageIndex, place: u64) -> bool {
        is_outside(self.aborted(), stage, place)
    }

    /// Whether the study is aborted, and what of it counts.
    fn aborted(&self) -> Aborted {
        (self.study.status == StudyStatus::Aborted).then_some(self.study.abort)
    }

    /// The survivors of a stage, to ask about one by one.
    #[must_use]
    pub fn survivors(stage: &StageRow) -> HashSet<TrialId> {
        stage.survivors.iter().map(|parent| parent.trial).collect()
    }
}

/// `Some` in an aborted study: what counts, where it is known.
type Aborted = Option<Option<Abort>>;

/// What had ended when `max_runtime` struck is as good as any: only which trials that were is chance.
fn is_outside(aborted: Aborted, stage: StageIndex, place: u64) -> bool {
    let by_results = aborted.flatten().filter(|abort| abort.rail != Rail::MaxRuntime);
    by_results.is_some_and(|abort| !abort.counts(stage, place))
}

type Rows = Box<dyn Iterator<Item = Result<TrialRow, JournalError>>>;

/// A planned trial: what the plan says and, once it started, its row.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedTrial {
    /// Its number.
    pub trial: TrialId,
    /// Its stage.
    pub stage: StageIndex,
    /// Its place in the stage.
    pub index: u64,
    /// Where it stands: in an aborted study what waited is cancelled.
    pub state: TrialState,
    /// Whether it has no part in what the study was aborted by: whatever became of it is chance, and counts for nothing.
    pub outside: bool,
    /// Its row, if it ever started.
    pub row: Option<TrialRow>,
}

impl PlannedTrial {
    fn new(trial: TrialId, stage: StageIndex, index: u64, row: Option<TrialRow>, aborted: Aborted) -> Self {
        let state = match row.as_ref().map_or(TrialState::Pending, |row| row.state) {
            TrialState::Pending if aborted.is_some() => TrialState::Cancelled,
            state => state,
        };
        let outside = is_outside(aborted, stage, index);
        Self { trial, stage, index, state, outside, row }
    }

    /// Whether it ended, and counts for nothing.
    #[must_use]
    pub fn ended_outside(&self) -> bool {
        self.outside && self.state != TrialState::Cancelled
    }

    /// Where it stands as far as that counts: what is outside is cancelled, whatever became of it.
    #[must_use]
    pub fn counted_state(&self) -> TrialState {
        if self.outside { TrialState::Cancelled } else { self.state }
    }
}

/// All trials of a stage in derived order; see [`StudyView::trials`].
pub struct Trials {
    stage: StageIndex,
    first: TrialId,
    /// Before this derived index.
    end: u64,
    next: u64,
    /// Of those that have no row, one in so many.
    every: u64,
    aborted: Aborted,
    rows: Peekable<Rows>,
}

impl std::fmt::Debug for Trials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trials").field("stage", &self.stage).field("next", &self.next).finish_non_exhaustive()
    }
}

impl Iterator for Trials {
    type Item = Result<PlannedTrial, JournalError>;

    fn next(&mut self) -> Option<Self::Item> {
        let planned = self.next.checked_next_multiple_of(self.every).unwrap_or(u64::MAX);
        let index = match self.rows.peek() {
            Some(Ok(row)) => planned.min(row.trial.0.saturating_sub(self.first.0).max(self.next)),
            _ => planned,
        };
        if index >= self.end {
            self.next = self.end;
            // An error that nobody heard of yet is one of a row that should have come.
            return match self.rows.next() {
                Some(Err(error)) => Some(Err(error)),
                _ => None,
            };
        }
        let trial = TrialId(self.first.0 + index);
        self.next = index + 1;
        let here = |head: &Result<TrialRow, JournalError>| head.as_ref().map_or(true, |row| row.trial <= trial);
        match self.rows.next_if(here) {
            Some(Err(error)) => {
                self.next = self.end;
                Some(Err(error))
            }
            Some(Ok(row)) if row.trial != trial => {
                self.next = self.end;
                Some(Err(JournalError::Missing { table: "trial", key: trial.0 }))
            }
            row => {
                let row = row.and_then(Result::ok);
                Some(Ok(PlannedTrial::new(trial, self.stage, index, row, self.aborted)))
            }
        }
    }
}
