//! What an amendment does to the state: the part of the fold for [`SpecAmended`].
//!
//! It never changes a trial that is kept: trials either stay as they are or go with their whole stage.

use super::event::{Extension, SpecAmended};
use super::fold::{Fold, Rows, waiting};
use super::ids::{StageIndex, TrialId};
use super::rows::{
    Approval, AttemptOutcome, BaseRow, Proposing, StageCounters, StageRow, StageStatus, StudyRow, StudyStatus,
    TrialState,
};

/// What a person had said of a stage that waits, for the stage of that name.
struct Carried {
    name: String,
    approval: Option<Approval>,
    counters: StageCounters,
}

/// Of a stage's counters those of what its proposer is told of.
fn only_told(StageCounters { told, told_from, .. }: StageCounters) -> StageCounters {
    StageCounters { told, told_from, ..StageCounters::default() }
}

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
        let carried = self.take_waiting(rows, kept, study.stage_count)?;
        self.declare(rows, amended, kept, &carried)?;
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
        study.versions.clone_from(&amended.versions);
        study.stage_count = u32::try_from(amended.stages.len()).unwrap_or(u32::MAX);
        if amended.reopen {
            for index in 0..kept {
                self.unabort(rows, index)?;
            }
            if matches!(study.status, StudyStatus::Completed | StudyStatus::Aborted) {
                study.status = StudyStatus::Interrupted;
            }
            study.forget_abort();
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

    /// What an amendment made run again has its result all the same.
    pub(super) fn base_kept<E: From<super::FoldError>>(&self, study: &mut StudyRow) -> Result<(), E> {
        let succeeded = |base: &&mut BaseRow| {
            let last = base.attempts.last().and_then(|attempt| attempt.outcome);
            base.state == TrialState::Pending && last == Some(AttemptOutcome::Succeeded)
        };
        let Some(base) = study.base.as_mut().filter(succeeded) else {
            return Err(self.misfit("the base command has no result that it could keep".into()));
        };
        base.state = TrialState::Succeeded;
        Ok(())
    }

    /// Forgets the stages from one on, with their trials.
    pub(super) fn discard<R: Rows>(
        &self,
        rows: &mut R,
        from: StageIndex,
        count: StageIndex,
    ) -> Result<(), R::Error> {
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
            let counters = rows.counters(index)?;
            rows.remove_stage(index)?;
            rows.put_stage(StageRow { status: StageStatus::Waiting, approval: None, ..stage })?;
            // What was imported for its proposer is no result of the stage: it outlasts them.
            if counters.told > 0 {
                rows.put_counters(index, only_told(counters))?;
            }
        }
        if let Some(first) = first {
            let catastrophic = rows.remove_trials(first, TrialId::BASE)?;
            let mut progress = rows.progress()?;
            progress.catastrophic = progress.catastrophic.saturating_sub(catastrophic);
            rows.put_progress(progress)?;
        }
        Ok(())
    }

    /// Removes the stages that wait, and gives what a person had said of them.
    fn take_waiting<R: Rows>(
        &self,
        rows: &mut R,
        kept: StageIndex,
        count: StageIndex,
    ) -> Result<Vec<Carried>, R::Error> {
        let mut carried = Vec::new();
        for index in kept..count {
            if let Some(StageRow { name, approval, .. }) = rows.stage(index)? {
                carried.push(Carried { name, approval, counters: rows.counters(index)? });
            }
            rows.remove_stage(index)?;
        }
        Ok(carried)
    }

    /// Writes what the stages are from now on: those that have begun keep where they stand, the others wait.
    fn declare<R: Rows>(
        &self,
        rows: &mut R,
        amended: &SpecAmended,
        kept: StageIndex,
        carried: &[Carried],
    ) -> Result<(), R::Error> {
        if u32::try_from(amended.stages.len()).unwrap_or(u32::MAX) < kept {
            return Err(self.misfit("a stage that has begun is missing".into()));
        }
        // Who approved a stage had seen the survivors before it: other survivors are to be seen again.
        let anew = amended.extended.is_some().then_some(kept);
        for (index, decl) in (0..).zip(&amended.stages) {
            if index >= kept {
                let mut stage = waiting(index, decl);
                let before = carried.iter().find(|before| before.name == stage.name);
                let given = before.filter(|_| anew != Some(index));
                stage.approval = given.and_then(|before| before.approval.clone());
                // What its proposer was to be told of stays.
                if let Some(counters) = before.map(|before| before.counters)
                    && counters.told > 0
                    && stage.hears_results()
                {
                    rows.put_counters(index, only_told(counters))?;
                }
                rows.put_stage(stage)?;
                continue;
            }
            match rows.stage(index)? {
                Some(stage) if stage.name == decl.name => rows.put_stage(StageRow {
                    trial_budget: decl.trial_budget,
                    survivor_count: decl.survivor_count,
                    objective: decl.objective.clone(),
                    // One that has not closed is asked anew when it ends.
                    ended_after: stage.ended_after.filter(|_| stage.status == StageStatus::Closed),
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
        }
        let added = extension.more.iter().fold(0_u64, |sum, segment| sum.saturating_add(segment.count));
        match stage.proposing {
            _ if added == 0 => {}
            Proposing::No => stage.add_cases(added),
            // Its proposer is asked again, also if it had no more to say: the larger budget is a new question.
            Proposing::Open | Proposing::Ended => stage.proposing = Proposing::Open,
        }
        stage.status = StageStatus::Open;
        stage.survivors.clear();
        stage.ended_after = None;
        stage.closed_ms = None;
        rows.put_stage(stage)
    }

    /// Takes back that a stage was aborted.
    pub(super) fn unabort<R: Rows>(&self, rows: &mut R, index: StageIndex) -> Result<(), R::Error> {
        match rows.stage(index)? {
            Some(stage) if stage.status == StageStatus::Aborted => {
                rows.put_stage(StageRow { status: StageStatus::Open, closed_ms: None, ..stage })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::rows_in_memory::Memory;
    use crate::model::{
        AttemptEnd, EngineId, Event, ExecutorKind, Failure, FoldError, Metric, Metrics, Next, Parent, ProcessId,
        Record, RunEnd, Segment, Severity, StageDecl, StudyCreated, StudyId, StudyRow, TrialId, Usage, Verdict,
        fold,
    };

    impl Memory {
        fn apply(&mut self, event: Event) -> Result<(), FoldError> {
            let seq = self.progress.last_seq + 1;
            fold(self, seq, &Record { at_ms: 7, run_ms: 0, event })
        }

        fn tell(&mut self, event: Event) {
            self.apply(event).unwrap();
        }

        fn start(&mut self, trial: u64) {
            self.tell(Event::AttemptStarted {
                trial: TrialId(trial),
                attempt: 1,
                slot: 0,
                process: None,
                executor: ExecutorKind::Local,
            });
        }

        fn end(&mut self, trial: u64, verdict: Verdict) {
            let (trial, usage) = (TrialId(trial), Usage::default());
            let end = AttemptEnd { trial, attempt: 1, ended_ms: 7, exit: None, usage, verdict, next: Next::Final };
            self.tell(Event::AttemptEnded(Box::new(end)));
        }

        fn succeed(&mut self, trial: u64) {
            self.start(trial);
            let metrics = Metrics::from([("m".into(), Metric::Number(1.0))]);
            self.end(trial, Verdict::Succeeded { metrics, outputs: Vec::new() });
        }

        fn burn(&mut self, trial: u64) {
            self.start(trial);
            self.end(
                trial,
                Verdict::Failed(Failure {
                    severity: Severity::Catastrophic,
                    retryable: false,
                    ..Failure::new("burnt".into(), "")
                }),
            );
        }

        fn row(&self) -> &StudyRow {
            self.study.as_ref().unwrap()
        }
    }

    fn decl(name: &str, trial_budget: u64) -> StageDecl {
        StageDecl { name: name.into(), trial_budget, survivor_count: 2, objective: None, proposed: false }
    }

    fn parent(trial: u64) -> Parent {
        Parent { trial: TrialId(trial), attempt: 1 }
    }

    fn change(stages: Vec<StageDecl>) -> SpecAmended {
        SpecAmended {
            spec: "new".into(),
            spec_hash: "hash".into(),
            seed: 9,
            inputs: Vec::new(),
            versions: Vec::new(),
            stages,
            discard_from: None,
            extended: None,
            reopen: false,
        }
    }

    fn amend(rows: &mut Memory, amended: SpecAmended) -> Result<(), FoldError> {
        rows.apply(Event::SpecAmended(Box::new(amended)))
    }

    /// Stage `a` with trials 0 and 1, of which 1 then 0 survived; stage `b` with 2 to 4: two of 1's, one of 0's. Trial 4
    /// burnt. Everything is closed.
    fn finished() -> Memory {
        let mut rows = Memory::default();
        rows.tell(Event::StudyCreated(Box::new(StudyCreated {
            study_id: StudyId([1; 16]),
            piton_version: String::new(),
            name: "s".into(),
            base_case: "s".into(),
            seed: 0,
            spec: "old".into(),
            spec_hash: String::new(),
            inputs: Vec::new(),
            versions: Vec::new(),
            study_dir: String::new(),
            artifacts_dir: String::new(),
            study_file: String::new(),
            plan_version: 1,
            stages: vec![decl("a", 2), decl("b", 3)],
        })));
        let process = ProcessId { pid: 1, start_ticks: 1 };
        let engine = EngineId { process, boot_id: String::new(), host: String::new() };
        rows.tell(Event::RunStarted { engine, workers: 1, sync_interval_ms: 0 });
        rows.tell(Event::StageOpened { stage: 0, parents: Vec::new(), shares: vec![2] });
        rows.succeed(0);
        rows.succeed(1);
        rows.tell(Event::StageClosed { stage: 0, survivors: vec![parent(1), parent(0)] });
        rows.tell(Event::StageOpened { stage: 1, parents: vec![parent(1), parent(0)], shares: vec![2, 1] });
        rows.succeed(2);
        rows.succeed(3);
        rows.burn(4);
        rows.tell(Event::StageClosed { stage: 1, survivors: vec![parent(2)] });
        rows.tell(Event::StudyCompleted);
        rows.tell(Event::RunEnded { how: RunEnd::Completed });
        rows
    }

    #[test]
    fn a_harmless_change_touches_the_spec_alone() {
        let mut rows = finished();
        let (stages, trials) = (rows.stages.clone(), rows.trials.clone());
        amend(&mut rows, change(vec![decl("a", 2), decl("b", 3)])).unwrap();
        assert_eq!((rows.stages.clone(), rows.trials.clone()), (stages, trials));
        let study = rows.row();
        assert_eq!((study.spec.as_str(), study.spec_hash.as_str(), study.seed), ("new", "hash", 9));
        assert_eq!(study.status, StudyStatus::Completed);
    }

    #[test]
    fn an_extended_stage_is_open_again_and_its_new_trials_come_last() {
        let mut rows = finished();
        let more = vec![Segment { parent: 0, offset: 2, count: 1 }, Segment { parent: 1, offset: 1, count: 2 }];
        let extended = Some(Extension { stage: 1, more });
        let stages = vec![decl("a", 2), decl("b", 6)];
        amend(&mut rows, SpecAmended { extended, reopen: true, ..change(stages) }).unwrap();
        assert_eq!(rows.row().status, StudyStatus::Interrupted);
        let stage = &rows.stages[&1];
        assert_eq!((stage.status, stage.planned(), stage.trial_budget), (StageStatus::Open, 6, 6));
        assert_eq!((stage.survivors.len(), stage.closed_ms), (0, None));
        let places: Vec<_> = (0..6).map(|index| stage.share_of(index).unwrap()).collect();
        assert_eq!(places, [(0, 0), (0, 1), (1, 0), (0, 2), (1, 1), (1, 2)]);
        assert_eq!(rows.counters[&1].pending(6), 3);
        rows.succeed(5);
        rows.succeed(6);
        rows.succeed(7);
        rows.tell(Event::StageClosed { stage: 1, survivors: vec![parent(7)] });
        assert_eq!(rows.counters[&1].finished(), 6);
    }

    #[test]
    fn discarded_stages_wait_and_forget_their_trials() {
        let mut rows = finished();
        let accounting = rows.progress.accounting;
        assert_eq!(rows.progress.catastrophic, 1);
        let stages = vec![decl("a", 2), decl("c", 1), decl("d", 1)];
        amend(&mut rows, SpecAmended { discard_from: Some(1), reopen: true, ..change(stages) }).unwrap();
        assert_eq!(rows.trials.keys().map(|trial| trial.0).collect::<Vec<_>>(), [0, 1]);
        assert_eq!((rows.progress.catastrophic, rows.progress.accounting), (0, accounting));
        let names: Vec<_> = rows.stages.values().map(|stage| (stage.name.as_str(), stage.status)).collect();
        assert_eq!(names, [("a", StageStatus::Closed), ("c", StageStatus::Waiting), ("d", StageStatus::Waiting)]);
        assert_eq!((rows.row().stage_count, rows.row().status), (3, StudyStatus::Interrupted));
        assert!(!rows.counters.contains_key(&1) && rows.ready.is_empty());
        // Its trials begin anew, with their first attempt.
        rows.tell(Event::StageOpened { stage: 1, parents: vec![parent(1), parent(0)], shares: vec![1, 0] });
        rows.succeed(2);
    }

    #[test]
    fn waiting_stages_can_be_anything_and_keep_an_approval_of_what_stays() {
        let mut rows = finished();
        let stages = vec![decl("a", 2), decl("b", 3), decl("c", 1)];
        amend(&mut rows, SpecAmended { reopen: true, ..change(stages) }).unwrap();
        rows.tell(Event::StageApproved { stage: 2, by: "ada".into(), note: String::new() });
        let stages = vec![decl("a", 2), decl("b", 3), decl("c", 5), decl("d", 1)];
        amend(&mut rows, change(stages)).unwrap();
        assert_eq!((rows.stages[&2].trial_budget, rows.stages[&2].approval.is_some()), (5, true));
        // With other survivors before it, it is to be approved again.
        let extended = Some(Extension { stage: 1, more: Vec::new() });
        let stages = vec![decl("a", 2), decl("b", 3), decl("c", 5)];
        amend(&mut rows, SpecAmended { extended, ..change(stages) }).unwrap();
        assert_eq!((rows.stages.len(), rows.stages[&2].approval.clone()), (3, None));
        assert_eq!(rows.stages[&1].status, StageStatus::Open);
    }

    #[test]
    fn an_abort_is_taken_back() {
        let mut rows = finished();
        let stages = vec![decl("a", 2)];
        amend(&mut rows, SpecAmended { discard_from: Some(0), reopen: true, ..change(stages.clone()) }).unwrap();
        rows.tell(Event::StageOpened { stage: 0, parents: Vec::new(), shares: vec![2] });
        rows.succeed(0);
        rows.tell(Event::StudyAborted { reason: "rail".into(), violating: vec![TrialId(0)] });
        assert_eq!(rows.stages[&0].status, StageStatus::Aborted);
        amend(&mut rows, SpecAmended { reopen: true, ..change(stages) }).unwrap();
        assert_eq!((rows.row().status, rows.stages[&0].status), (StudyStatus::Interrupted, StageStatus::Open));
        assert_eq!((rows.row().abort_reason.clone(), rows.row().violating.len()), (None, 0));
        rows.succeed(1);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let extension = |stage, offset| {
            let more = vec![Segment { parent: 0, offset, count: 1 }];
            SpecAmended { extended: Some(Extension { stage, more }), ..change(vec![decl("a", 2), decl("b", 4)]) }
        };
        let renamed = change(vec![decl("a", 2), decl("x", 3)]);
        let missing = change(vec![decl("a", 2)]);
        for wrong in [extension(0, 2), extension(2, 2), extension(1, 1), renamed, missing] {
            assert!(amend(&mut finished(), wrong.clone()).is_err(), "{wrong:?}");
        }
        assert!(amend(&mut finished(), extension(1, 2)).is_ok());
        let mut rows = finished();
        let again = change(vec![decl("a", 2), decl("b", 3)]);
        amend(&mut rows, SpecAmended { discard_from: Some(1), reopen: true, ..again.clone() }).unwrap();
        rows.tell(Event::StageOpened { stage: 1, parents: vec![parent(1), parent(0)], shares: vec![2, 1] });
        rows.start(2);
        assert!(amend(&mut rows, SpecAmended { discard_from: Some(1), ..again }).is_err(), "a trial runs");
    }
}
