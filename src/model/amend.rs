//! What an amendment does to the state: the part of the fold for [`SpecAmended`].
//!
//! It never changes a trial that is kept: trials either stay as they are or go with their whole stage.

use super::event::{Extension, SpecAmended};
use super::fold::{Fold, Rows, waiting};
use super::ids::StageIndex;
use super::rows::{Approval, StageRow, StageStatus, StudyStatus, TrialState};

impl Fold {
    pub(super) fn amended<R: Rows>(&self, rows: &mut R, amended: &SpecAmended) -> Result<(), R::Error> {
        let mut study = self.study(rows)?;
        if let Some(from) = amended.discard_from {
            self.discard(rows, from, study.stage_count)?;
        }
        let mut kept = 0;
        while kept < study.stage_count && rows.stage(kept)?.is_some_and(|s| s.status != StageStatus::Waiting) {
            kept += 1;
        }
        let approvals = self.take_waiting(rows, kept, study.stage_count)?;
        self.declare(rows, amended, kept, &approvals)?;
        if let Some(extension) = &amended.extended {
            if extension.stage.checked_add(1) != Some(kept) {
                return Err(self.misfit(format!("stage {} is not the last that has begun", extension.stage)));
            }
            self.extend(rows, extension)?;
        }
        study.spec.clone_from(&amended.spec);
        study.spec_hash.clone_from(&amended.spec_hash);
        study.seed = amended.seed;
        study.inputs.clone_from(&amended.inputs);
        study.stage_count = u32::try_from(amended.stages.len()).unwrap_or(u32::MAX);
        if amended.reopen {
            for index in 0..kept {
                self.unabort(rows, index)?;
            }
            if matches!(study.status, StudyStatus::Completed | StudyStatus::Aborted) {
                study.status = StudyStatus::Interrupted;
            }
            study.abort_reason = None;
            study.violating.clear();
        }
        if let Some(base) = &mut study.base {
            let again = base.state == TrialState::Failed && amended.reopen;
            let anew = base.state != TrialState::Running && amended.discard_from == Some(0);
            if again || anew {
                base.state = TrialState::Pending;
                base.failure = None;
            }
        }
        rows.put_study(study)
    }

    /// Forgets the stages from one on, with their trials.
    fn discard<R: Rows>(&self, rows: &mut R, from: StageIndex, count: StageIndex) -> Result<(), R::Error> {
        let mut first = None;
        for index in from..count {
            let Some(stage) = rows.stage(index)? else {
                return Err(self.misfit(format!("there is no stage {index}")));
            };
            if rows.counters(index)?.running > 0 {
                return Err(self.misfit(format!("trials of stage {index} run")));
            }
            if stage.status != StageStatus::Waiting && first.is_none() {
                first = Some(stage.first_trial);
            }
            rows.remove_stage(index)?;
            rows.put_stage(StageRow { status: StageStatus::Waiting, approval: None, ..stage })?;
        }
        if let Some(first) = first {
            let catastrophic = rows.remove_trials(first)?;
            let mut progress = rows.progress()?;
            progress.catastrophic = progress.catastrophic.saturating_sub(catastrophic);
            rows.put_progress(progress)?;
        }
        Ok(())
    }

    /// Removes the stages that wait, and gives the approvals they had.
    fn take_waiting<R: Rows>(
        &self,
        rows: &mut R,
        kept: StageIndex,
        count: StageIndex,
    ) -> Result<Vec<(String, Approval)>, R::Error> {
        let mut approvals = Vec::new();
        for index in kept..count {
            if let Some(stage) = rows.stage(index)? {
                approvals.extend(stage.approval.map(|approval| (stage.name, approval)));
            }
            rows.remove_stage(index)?;
        }
        Ok(approvals)
    }

    /// Writes what the stages are from now on: those that have begun keep where they stand, the others wait.
    fn declare<R: Rows>(
        &self,
        rows: &mut R,
        amended: &SpecAmended,
        kept: StageIndex,
        approvals: &[(String, Approval)],
    ) -> Result<(), R::Error> {
        if u32::try_from(amended.stages.len()).unwrap_or(u32::MAX) < kept {
            return Err(self.misfit("a stage that has begun is missing".into()));
        }
        // Who approved a stage had seen the survivors before it: other survivors are to be seen again.
        let anew = amended.extended.is_some().then_some(kept);
        for (index, decl) in (0..).zip(&amended.stages) {
            if index >= kept {
                let mut stage = waiting(index, decl);
                let given = approvals.iter().find(|(name, _)| *name == stage.name && anew != Some(index));
                stage.approval = given.map(|(_, approval)| approval.clone());
                rows.put_stage(stage)?;
                continue;
            }
            match rows.stage(index)? {
                Some(stage) if stage.name == decl.name => rows.put_stage(StageRow {
                    trial_budget: decl.trial_budget,
                    survivor_count: decl.survivor_count,
                    objective: decl.objective.clone(),
                    ..stage
                })?,
                _ => return Err(self.misfit(format!("stage {index} has begun under another name"))),
            }
        }
        Ok(())
    }

    /// Opens the stage again, with more trials if there are any.
    fn extend<R: Rows>(&self, rows: &mut R, extension: &Extension) -> Result<(), R::Error> {
        let Some(mut stage) = rows.stage(extension.stage)? else {
            return Err(self.misfit(format!("there is no stage {}", extension.stage)));
        };
        for segment in &extension.more {
            let position = usize::try_from(segment.parent).unwrap_or(usize::MAX);
            if position >= stage.shares.len() || segment.count == 0 || segment.offset != stage.share_at(position) {
                return Err(self.misfit(format!("stage {} cannot be extended so", stage.index)));
            }
            stage.more.push(*segment);
            stage.planned = stage.planned.saturating_add(segment.count);
        }
        stage.status = StageStatus::Open;
        stage.survivors.clear();
        stage.closed_ms = None;
        rows.put_stage(stage)
    }

    /// Takes back that a stage was aborted.
    fn unabort<R: Rows>(&self, rows: &mut R, index: StageIndex) -> Result<(), R::Error> {
        match rows.stage(index)? {
            Some(stage) if stage.status == StageStatus::Aborted => {
                rows.put_stage(StageRow { status: StageStatus::Open, closed_ms: None, ..stage })
            }
            _ => Ok(()),
        }
    }
}
