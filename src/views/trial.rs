//! A trial as it is shown: what the plan says and, once it started, what is recorded.
//!
//! Dumps, tables, the report, JUnit, `why`, comparisons and the results of a run are made of it, and none of them works out anything of a
//! trial itself. A trial that never started has no row; it is made up here from the plan. What only some need is worked
//! out when it is asked for: there may be millions. They come one by one; nothing here may hold all of them.

use std::iter::Peekable;

use super::StudyView;
use crate::journal::{JournalError, Snapshot};
use crate::model::{
    AttemptNo, AttemptRow, Failure, Given, Imported, Kept, Metrics, Origin, OutputHash, Params, Pruned, RungRow,
    StageRow, StudyStatus, TrialId, TrialRow, TrialState, Usage,
};

type Rows = Box<dyn Iterator<Item = Result<TrialRow, JournalError>>>;

/// A planned trial.
#[derive(Clone, Debug)]
pub struct TrialSummary<'a> {
    view: &'a StudyView,
    /// Its stage.
    pub stage: &'a StageRow,
    /// Unique in the study, over all stages.
    pub trial: TrialId,
    /// Its place in the stage.
    pub index: u64,
    /// Where it stands: in an aborted study, and in a stage that ended early, what waited is cancelled.
    pub state: TrialState,
    /// Whether it has no part in what the study was aborted by, or in its stage, which ended early: whatever became of it is chance, and counts for nothing.
    pub outside: bool,
    /// Its row, if it ever started.
    pub row: Option<TrialRow>,
}

impl<'a> TrialSummary<'a> {
    fn new(view: &'a StudyView, stage: &'a StageRow, index: u64, row: Option<TrialRow>) -> Self {
        let state = match row.as_ref().map_or(TrialState::Pending, |row| row.state) {
            TrialState::Pending | TrialState::Undecided
                if view.study.status == StudyStatus::Aborted || stage.is_outside(index) =>
            {
                TrialState::Cancelled
            }
            state => state,
        };
        let (trial, outside) = (TrialId(stage.first_trial.0 + index), view.is_outside(stage.index, index));
        Self { view, stage, trial, index, state, outside, row }
    }

    /// `<base_case>_<stage_index>_<derived_index>`, of a replica with `.r<replica>`.
    #[must_use]
    pub fn case(&self) -> String {
        self.view.lineage().case(self.stage.index, self.index)
    }

    /// Which replica of its case it is, from 0; `None` where each trial is a case.
    #[must_use]
    pub fn replica(&self) -> Option<u32> {
        self.stage.replica_of(self.index).map(|(_, replica)| replica)
    }

    /// The case it derives from.
    #[must_use]
    pub fn parent(&self) -> String {
        self.view.lineage().parent_case(self.stage.index, self.index).unwrap_or_default()
    }

    /// All its params: the study's, those of its forebears, its own.
    #[must_use]
    pub fn params(&self) -> Params {
        self.view.lineage().params(self.stage.index, self.index).unwrap_or_default()
    }

    /// Whether it survived its stage.
    #[must_use]
    pub fn survived(&self) -> bool {
        self.view.survives(self.trial)
    }

    /// Whether it went on to explore, though it did not survive its stage.
    #[must_use]
    pub fn explores(&self) -> bool {
        self.view.explores(self.trial)
    }

    /// Whether it ended, and counts for nothing.
    #[must_use]
    pub(crate) fn ended_outside(&self) -> bool {
        self.outside && self.state != TrialState::Cancelled
    }

    /// Where it stands as far as that counts: what is outside is cancelled, whatever became of it.
    #[must_use]
    pub(crate) fn counted_state(&self) -> TrialState {
        if self.outside { TrialState::Cancelled } else { self.state }
    }

    /// Whether it came to a result that counts.
    #[must_use]
    pub fn has_result(&self) -> bool {
        matches!(self.counted_state(), TrialState::Succeeded | TrialState::Failed)
    }

    /// Its attempts, in order.
    #[must_use]
    pub fn attempts(&self) -> &[AttemptRow] {
        self.row.as_ref().map_or(&[], |row| &row.attempts)
    }

    /// What an attempt has or had of what trials share, where that is recorded.
    #[must_use]
    pub(crate) fn given(&self, attempt: AttemptNo) -> &[Given] {
        self.row.as_ref().map_or(&[], |row| row.given(attempt))
    }

    /// How much is kept of an attempt's directory.
    #[must_use]
    pub(crate) fn kept_of(&self, attempt: AttemptNo) -> Kept {
        self.row.as_ref().map_or(Kept::All, |row| row.kept_of(attempt))
    }

    /// What its last attempt used, where that is known.
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        self.attempts().last().and_then(AttemptRow::measured)
    }

    /// Its metrics; none before it succeeded.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        const NONE: &Metrics = &Metrics::new();
        self.row.as_ref().map_or(NONE, |row| &row.metrics)
    }

    /// Its declared outputs with their hashes; none before it succeeded.
    #[must_use]
    pub fn outputs(&self) -> &[OutputHash] {
        self.row.as_ref().map_or(&[], |row| &row.outputs)
    }

    /// Whose result it took, if it did not make it.
    #[must_use]
    pub fn reused_from(&self) -> Option<&Origin> {
        self.row.as_ref().and_then(|row| row.reused_from.as_ref())
    }

    /// Whether it took a result of which it was found that an equal trial comes to another one.
    #[must_use]
    pub fn is_doubtful(&self) -> bool {
        self.reused_from().is_some() && self.view.doubt(self.stage.index).is_some()
    }

    /// Where its result comes from, if it was made elsewhere.
    #[must_use]
    pub fn imported(&self) -> Option<&Imported> {
        self.row.as_ref().and_then(|row| row.imported.as_ref())
    }

    /// What it showed at its stage's rungs, up to the one that ended it.
    #[must_use]
    pub fn rungs(&self) -> &[RungRow] {
        self.row.as_ref().map_or(&[], TrialRow::rungs)
    }

    /// How it was pruned, if it was.
    #[must_use]
    pub fn pruned(&self) -> Option<Pruned> {
        self.row.as_ref().filter(|_| self.state == TrialState::Pruned).and_then(TrialRow::pruned)
    }

    /// The attempt whose directory has its outputs; see [`TrialRow::accepted`].
    #[must_use]
    pub fn accepted(&self) -> AttemptNo {
        self.row.as_ref().map_or(0, TrialRow::accepted)
    }

    /// Why it failed for good.
    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        self.last_failure().filter(|_| self.state == TrialState::Failed)
    }

    /// Why its last attempt failed, also if it is to run again.
    #[must_use]
    pub fn last_failure(&self) -> Option<&Failure> {
        self.row.as_ref().and_then(|row| row.failure.as_ref())
    }
}

/// All trials of a stage in derived order; see [`StudyView::trials`].
pub struct Trials<'a> {
    view: &'a StudyView,
    stage: &'a StageRow,
    /// Before this derived index.
    end: u64,
    next: u64,
    /// Of those that have no row, one in so many.
    every: u64,
    rows: Peekable<Rows>,
}

impl std::fmt::Debug for Trials<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let stage = self.stage.index;
        f.debug_struct("Trials").field("stage", &stage).field("next", &self.next).finish_non_exhaustive()
    }
}

impl<'a> Iterator for Trials<'a> {
    type Item = Result<TrialSummary<'a>, JournalError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (first, planned) = (self.stage.first_trial.0, self.next.checked_next_multiple_of(self.every));
        let planned = planned.unwrap_or(u64::MAX);
        let index = match self.rows.peek() {
            Some(Ok(row)) => planned.min(row.trial.0.saturating_sub(first).max(self.next)),
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
        let trial = TrialId(first + index);
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
            row => Some(Ok(TrialSummary::new(self.view, self.stage, index, row.and_then(Result::ok)))),
        }
    }
}

impl StudyView {
    /// All trials of a stage in derived order, started or not.
    ///
    /// # Errors
    /// [`JournalError`], also for each item.
    pub fn trials<'a>(&'a self, snapshot: &Snapshot, stage: &'a StageRow) -> Result<Trials<'a>, JournalError> {
        self.trials_from(snapshot, stage, 0, u64::MAX)
    }

    /// Likewise, but only `count` of them (or as many as there are) from the derived index `from` on.
    ///
    /// # Errors
    /// [`JournalError`], also for each item.
    pub(crate) fn trials_from<'a>(
        &'a self,
        snapshot: &Snapshot,
        stage: &'a StageRow,
        from: u64,
        count: u64,
    ) -> Result<Trials<'a>, JournalError> {
        let end = from.saturating_add(count).min(stage.planned());
        let trial = |index: u64| TrialId(stage.first_trial.0.saturating_add(index));
        let rows: Rows = Box::new(snapshot.trials(trial(from), trial(end))?);
        Ok(Trials { view: self, stage, end, next: from, every: 1, rows: rows.peekable() })
    }

    /// The trials of a stage that started, and of the others those whose derived index is a multiple of `every`, in
    /// derived order: a pass whose cost does not grow with what is only planned.
    ///
    /// # Errors
    /// [`JournalError`], also for each item.
    pub(crate) fn trials_thinned<'a>(
        &'a self,
        snapshot: &Snapshot,
        stage: &'a StageRow,
        every: u64,
    ) -> Result<Trials<'a>, JournalError> {
        Ok(Trials { every: every.max(1), ..self.trials(snapshot, stage)? })
    }

    /// The trials of a stage that started, in derived order; and perhaps its first one.
    ///
    /// # Errors
    /// [`JournalError`], also for each item.
    pub fn started<'a>(&'a self, snapshot: &Snapshot, stage: &'a StageRow) -> Result<Trials<'a>, JournalError> {
        self.trials_thinned(snapshot, stage, u64::MAX)
    }

    /// How many of the first `count` trials of a stage succeeded, failed and were pruned.
    ///
    /// # Errors
    /// [`JournalError`].
    pub(crate) fn results_of_first(
        &self,
        snapshot: &Snapshot,
        stage: &StageRow,
        count: u64,
    ) -> Result<(u64, u64, u64), JournalError> {
        let (mut succeeded, mut failed, mut pruned) = (0, 0, 0);
        for trial in self.trials_from(snapshot, stage, 0, count)? {
            match trial?.state {
                TrialState::Succeeded => succeeded += 1,
                TrialState::Failed => failed += 1,
                TrialState::Pruned => pruned += 1,
                TrialState::Pending | TrialState::Running | TrialState::Cancelled | TrialState::Undecided => {}
            }
        }
        Ok((succeeded, failed, pruned))
    }

    /// One trial as [`StudyView::trials`] shows it; `None` when it is not planned.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn trial(&self, snapshot: &Snapshot, trial: TrialId) -> Result<Option<TrialSummary<'_>>, JournalError> {
        let Some((stage, index)) = self.lineage().locate(trial) else { return Ok(None) };
        let row = snapshot.trial(trial)?;
        Ok(self.stage(stage).map(|stage| TrialSummary::new(self, stage, index, row)))
    }
}
