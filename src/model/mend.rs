//! What mending does to the state: the part of the fold for a stage that is opened again, and for those after it.
//!
//! A stage that is opened again keeps every trial. Stages after it change only by an event of their own, after it has closed.

use super::event::{StageDecl, StageReplanned};
use super::fold::{Fold, Rows, waiting};
use super::ids::{StageIndex, TrialId};
use super::rows::{LaterStages, Proposing, StageCounters, StageRow, StageStatus, StudyStatus, TrialState};

impl Fold {
    /// A study that was over goes on: stages that an abort ended are open again, and so are they judged again.
    pub(super) fn go_on<R: Rows>(&self, rows: &mut R) -> Result<(), R::Error> {
        let mut study = self.study(rows)?;
        for index in 0..study.stage_count {
            self.unabort(rows, index)?;
        }
        if matches!(study.status, StudyStatus::Completed | StudyStatus::Aborted) {
            study.status = StudyStatus::Interrupted;
        }
        study.forget_abort();
        rows.put_study(study)
    }

    pub(super) fn stage_reopened<R: Rows>(
        &self,
        rows: &mut R,
        index: StageIndex,
        later: LaterStages,
    ) -> Result<(), R::Error> {
        let mut stage = self.begun_stage(rows, index)?;
        stage.status = StageStatus::Open;
        stage.survivors.clear();
        stage.ended_after = None;
        stage.closed_ms = None;
        stage.later = later;
        rows.put_stage(stage)?;
        // Who approved the next one had seen other survivors.
        if let Some(next) = rows.stage(index.saturating_add(1))?
            && next.status == StageStatus::Waiting
            && next.approval.is_some()
        {
            rows.put_stage(StageRow { approval: None, ..next })?;
        }
        self.go_on(rows)
    }

    fn begun_stage<R: Rows>(&self, rows: &mut R, index: StageIndex) -> Result<StageRow, R::Error> {
        match rows.stage(index)? {
            Some(stage) if stage.status != StageStatus::Waiting => Ok(stage),
            Some(_) => Err(self.misfit(format!("stage {index} has not begun"))),
            None => Err(self.misfit(format!("there is no stage {index}"))),
        }
    }

    /// A stage that has begun and has parents.
    fn derived_stage<R: Rows>(&self, rows: &mut R, index: StageIndex) -> Result<StageRow, R::Error> {
        match index {
            0 => Err(self.misfit("no survivors come before stage 0".into())),
            _ => self.begun_stage(rows, index),
        }
    }

    pub(super) fn stages_discarded<R: Rows>(&self, rows: &mut R, from: StageIndex) -> Result<(), R::Error> {
        self.derived_stage(rows, from)?;
        let count = self.study(rows)?.stage_count;
        self.discard(rows, from, count)?;
        for index in from..count {
            let Some(stage) = rows.stage(index)? else { continue };
            let decl = StageDecl {
                name: stage.name,
                trial_budget: stage.trial_budget,
                survivor_count: stage.survivor_count,
                objective: stage.objective,
                proposed: stage.proposing != Proposing::No,
            };
            rows.put_stage(waiting(index, &decl))?;
        }
        Ok(())
    }

    pub(super) fn stage_replanned<R: Rows>(
        &self,
        rows: &mut R,
        replanned: &StageReplanned,
    ) -> Result<(), R::Error> {
        let stage = self.derived_stage(rows, replanned.stage)?;
        let counters = rows.counters(stage.index)?;
        let fits = replanned.shares.len() == replanned.parents.len() && !replanned.parents.is_empty();
        if !fits || stage.proposing != Proposing::No || stage.is_replicated() || counters.running > 0 {
            return Err(self.misfit(format!("stage {} cannot be planned so", stage.index)));
        }
        let mut now = StageRow {
            status: StageStatus::Open,
            parents: replanned.parents.clone(),
            shares: replanned.shares.clone(),
            more: replanned.more.clone(),
            survivors: Vec::new(),
            // Who gave up the children of this stage's parents gave up theirs along.
            later: LaterStages::Discard,
            opened_ms: Some(self.at_ms),
            closed_ms: None,
            ended_after: None,
            ..stage.clone()
        };
        now.planned = now.room();
        let after = rows.stage(stage.index.saturating_add(1))?;
        if now.planned != stage.planned && after.is_some_and(|after| after.status != StageStatus::Waiting) {
            return Err(self.misfit(format!("the stage after {} has its numbers", stage.index)));
        }
        let place = |place: u64| TrialId(stage.first_trial.0.saturating_add(place.min(stage.planned)));
        let beyond = (now.planned, stage.planned.saturating_sub(now.planned));
        let mut catastrophic = 0;
        for (first, count) in replanned.anew.iter().chain([&beyond]) {
            catastrophic += rows.remove_trials(place(*first), place(first.saturating_add(*count)))?;
        }
        let mut progress = rows.progress()?;
        progress.catastrophic = progress.catastrophic.saturating_sub(catastrophic);
        rows.put_progress(progress)?;
        let counters = self.counted_anew(rows, &now, counters)?;
        rows.put_counters(stage.index, counters)?;
        rows.put_stage(now)
    }

    /// The counters of a stage some of whose trials are gone. Those that wait between others that began are in the queue.
    fn counted_anew<R: Rows>(
        &self,
        rows: &mut R,
        stage: &StageRow,
        before: StageCounters,
    ) -> Result<StageCounters, R::Error> {
        let StageCounters { ended_wall_us, ended_attempts, next_index, told, told_from, .. } = before;
        let mut counters =
            StageCounters { ended_wall_us, ended_attempts, told, told_from, ..StageCounters::default() };
        let head = stage.head();
        // Runs of places without a row.
        let mut passed_over: Vec<(u64, u64)> = Vec::new();
        for index in 0..next_index.min(stage.planned) {
            let trial = TrialId(stage.first_trial.0.saturating_add(index));
            let Some(row) = rows.trial(trial)? else {
                match passed_over.last_mut() {
                    Some((_, end)) if *end == index => *end = index + 1,
                    _ => passed_over.push((index, index + 1)),
                }
                continue;
            };
            counters.next_index = index + 1;
            match row.state {
                TrialState::Succeeded => {
                    counters.succeeded += 1;
                    counters.reused += u64::from(row.reused_from.is_some());
                    counters.imported += u64::from(row.imported.is_some());
                    counters.best = head.better(counters.best, trial, &row.metrics);
                }
                TrialState::Failed => counters.failed += 1,
                TrialState::Cancelled => counters.cancelled += 1,
                TrialState::Pruned => counters.pruned += 1,
                TrialState::Undecided => counters.undecided += 1,
                TrialState::Pending | TrialState::Running => {}
            }
        }
        let number = |index: u64| TrialId(stage.first_trial.0.saturating_add(index));
        for (first, end) in passed_over {
            rows.remove_trials(number(first), number(end))?;
            for index in first..end.min(counters.next_index) {
                rows.add_ready((0, number(index)))?;
            }
        }
        Ok(counters)
    }
}
