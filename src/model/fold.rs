//! What each event does to the state: the only definition of it.
//!
//! The engine folds events into its write set before a commit, `verify` and `dump --at` fold the whole journal into
//! an empty store, the simulation does both. The function is pure: the same rows and event give the same rows. An
//! event that does not fit the rows is refused, and nothing may be half applied by the caller after that.

use super::event::{AttemptEnd, Event, Next, Record, RunEnd, StageDecl, StudyCreated, Verdict};
use super::ids::{AttemptNo, ReadyKey, Seq, StageIndex, TrialId, UnixMs};
use super::keeping::Tidied;
use super::reuse::IndexedResult;
use super::rows::{
    Accepted, Accounting, Approval, AttemptOutcome, AttemptRow, BaseRow, LaterStages, OutputHash, Parent,
    Proposing, RemoteJob, Replicas, RunningRow, Severity, StageCounters, StageHead, StageRow, StageStatus,
    StudyProgress, StudyRow, StudyStatus, TrialRow, TrialState,
};
use super::value::{Metrics, Value};

/// Access to the rows, whatever keeps them.
pub trait Rows {
    /// What reading can fail with.
    type Error: From<FoldError>;

    /// The study, unless nothing was created yet.
    fn study(&mut self) -> Result<Option<StudyRow>, Self::Error>;
    /// Replaces the study row.
    fn put_study(&mut self, row: StudyRow) -> Result<(), Self::Error>;
    /// The study's progress; the default before the first event.
    fn progress(&mut self) -> Result<StudyProgress, Self::Error>;
    /// Replaces it.
    fn put_progress(&mut self, row: StudyProgress) -> Result<(), Self::Error>;
    /// A stage.
    fn stage(&mut self, index: StageIndex) -> Result<Option<StageRow>, Self::Error>;
    /// The small part of a stage; every transition of a trial asks for it.
    fn stage_head(&mut self, index: StageIndex) -> Result<Option<StageHead>, Self::Error> {
        Ok(self.stage(index)?.map(|stage| stage.head()))
    }
    /// A stage's name; empty where there is none.
    fn stage_name(&mut self, index: StageIndex) -> Result<String, Self::Error> {
        Ok(self.stage(index)?.map_or_else(String::new, |stage| stage.name))
    }
    /// Replaces a stage.
    fn put_stage(&mut self, row: StageRow) -> Result<(), Self::Error>;
    /// A stage's counters; the default if never written.
    fn counters(&mut self, index: StageIndex) -> Result<StageCounters, Self::Error>;
    /// Replaces them.
    fn put_counters(&mut self, index: StageIndex, row: StageCounters) -> Result<(), Self::Error>;
    /// The stage a trial belongs to.
    fn stage_of(&mut self, trial: TrialId) -> Result<Option<StageIndex>, Self::Error>;
    /// A trial, if it ever started.
    fn trial(&mut self, trial: TrialId) -> Result<Option<TrialRow>, Self::Error>;
    /// The same, to be changed and put back: whoever keeps rows in memory need not copy it.
    fn take_trial(&mut self, trial: TrialId) -> Result<Option<TrialRow>, Self::Error> {
        self.trial(trial)
    }
    /// Replaces a trial.
    fn put_trial(&mut self, row: TrialRow) -> Result<(), Self::Error>;
    /// Keeps what a proposer said of a trial: the values of its own sweep.
    fn put_proposal(&mut self, trial: TrialId, values: Vec<(String, Value)>) -> Result<(), Self::Error>;
    /// Lets a result be found by its identity, by [`IndexedResult::add_to`].
    fn put_result(&mut self, result: IndexedResult) -> Result<(), Self::Error>;
    /// Adds to the ready queue.
    fn add_ready(&mut self, key: ReadyKey) -> Result<(), Self::Error>;
    /// Takes from the ready queue; it must be there.
    fn remove_ready(&mut self, key: ReadyKey) -> Result<(), Self::Error>;
    /// Records a running attempt.
    fn add_running(&mut self, row: RunningRow) -> Result<(), Self::Error>;
    /// Forgets it; it must be there.
    fn remove_running(&mut self, trial: TrialId) -> Result<(), Self::Error>;
    /// Forgets a stage and its counters, if they are there.
    fn remove_stage(&mut self, index: StageIndex) -> Result<(), Self::Error>;
    /// Forgets every trial from `first` on and before `end`, also in the ready queue and among the proposals, none of which
    /// may run; returns how many of them had failed for good as catastrophic.
    fn remove_trials(&mut self, first: TrialId, end: TrialId) -> Result<u64, Self::Error>;
}

/// An event that does not fit the state: a damaged journal or a bug, never a normal course of things.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("event {seq} ({what}) does not fit the state: {why}")]
pub struct FoldError {
    /// The event's sequence number.
    pub seq: Seq,
    /// Which kind of event.
    pub what: &'static str,
    /// What does not fit.
    pub why: String,
}

impl Event {
    /// The event's name, as dumps and messages show it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::StudyCreated(_) => "study_created",
            Self::RunStarted { .. } => "run_started",
            Self::DrainStarted { .. } => "drain_started",
            Self::StageOpened { .. } => "stage_opened",
            Self::TrialProposed { .. } => "trial_proposed",
            Self::ProposalsEnded { .. } => "proposals_ended",
            Self::AttemptStarted { .. } => "attempt_started",
            Self::AttemptPlaced { .. } => "attempt_placed",
            Self::ClusterChanged { .. } => "cluster_changed",
            Self::AttemptEnded(_) => "attempt_ended",
            Self::BaseStarted { .. } => "base_started",
            Self::BaseEnded(_) => "base_ended",
            Self::StageApproved { .. } => "stage_approved",
            Self::SpecAmended(_) => "spec_amended",
            Self::TrialReset { .. } => "trial_reset",
            Self::StageClosed { .. } => "stage_closed",
            Self::StudyCompleted => "study_completed",
            Self::StudyAborted { .. } | Self::StudyAbortedBy { .. } => "study_aborted",
            Self::RunEnded { .. } => "run_ended",
            Self::Rebuilt { .. } => "rebuilt",
            Self::InputsListed { .. } => "inputs_listed",
            Self::ResultIdentified { .. } => "result_identified",
            Self::TrialReused(_) => "trial_reused",
            Self::ReuseMissed { .. } => "reuse_missed",
            Self::ReuseDiffered(_) => "reuse_differed",
            Self::StageReread { .. } => "stage_reread",
            Self::ResultReread(_) => "result_reread",
            Self::TrialImported(_) => "trial_imported",
            Self::ResultsTold(_) => "results_told",
            Self::InputsAccepted { .. } => "inputs_accepted",
            Self::BaseKept => "base_kept",
            Self::StageReopened { .. } => "stage_reopened",
            Self::StagesDiscarded { .. } => "stages_discarded",
            Self::StageReplanned(_) => "stage_replanned",
            Self::RungReached { .. } => "rung_reached",
            Self::RungDecided { .. } => "rung_decided",
            Self::StopIfMet { .. } => "stop_if_met",
            Self::DirectoriesDiscarded(_) => "directories_discarded",
            Self::DiscardFinished { .. } => "discard_finished",
            Self::RoundsPlanned { .. } => "rounds_planned",
            Self::StageEndedEarly { .. } => "stage_ended_early",
            Self::RaceRound { .. } => "race_round",
            Self::ResourcesGiven { .. } => "resources_given",
        }
    }
}

impl Event {
    /// The trial that has a result by this event, and made no attempt.
    #[must_use]
    pub(crate) fn taken_by(&self) -> Option<TrialId> {
        match self {
            Self::TrialReused(reused) => Some(reused.trial),
            Self::TrialImported(import) => Some(import.trial),
            _ => None,
        }
    }
}

/// Applies one record to the rows.
///
/// # Errors
/// Whatever the rows' access fails with, and [`FoldError`] when the record does not fit.
pub fn fold<R: Rows>(rows: &mut R, seq: Seq, record: &Record) -> Result<(), R::Error> {
    let fold = Fold { seq, at_ms: record.at_ms, what: record.event.name() };
    let mut progress = rows.progress()?;
    if seq != progress.last_seq + 1 {
        return Err(fold.misfit(format!("event {} came before it", progress.last_seq)));
    }
    progress.last_seq = seq;
    progress.last_event_ms = record.at_ms;
    if let Event::RunStarted { .. } = record.event {
        progress.earlier_runs_ms += progress.this_run_ms;
        progress.this_run_ms = 0;
    }
    progress.this_run_ms = progress.this_run_ms.max(record.run_ms);
    rows.put_progress(progress)?;
    match &record.event {
        Event::StudyCreated(created) => fold.created(rows, created),
        Event::AttemptStarted { trial, attempt, slot, process, executor } => {
            let row = RunningRow { trial: *trial, attempt: *attempt, process: *process, executor: *executor };
            fold.attempt_started(rows, row, *slot)
        }
        Event::AttemptEnded(end) => fold.attempt_ended(rows, end),
        Event::AttemptPlaced { trial, attempt, job } => fold.attempt_placed(rows, *trial, *attempt, job),
        Event::BaseStarted { attempt, slot, process, executor } => {
            let (trial, executor) = (TrialId::BASE, *executor);
            let row = RunningRow { trial, attempt: *attempt, process: *process, executor };
            fold.base_started(rows, row, *slot)
        }
        Event::BaseEnded(end) => fold.base_ended(rows, end),
        Event::StageApproved { stage, by, note } => fold.stage_approved(rows, *stage, by, note),
        Event::SpecAmended(amended) => fold.amended(rows, amended),
        Event::TrialReset { trial } => fold.trial_reset(rows, *trial),
        Event::StageOpened { stage, parents, shares } => fold.stage_opened(rows, *stage, parents, shares),
        Event::TrialProposed { trial, values, .. } => fold.trial_proposed(rows, *trial, values),
        Event::ProposalsEnded { stage, .. } => fold.proposals_ended(rows, *stage),
        Event::StageEndedEarly { stage, counted } => fold.ended_early(rows, *stage, *counted),
        Event::StageClosed { stage, survivors } => fold.stage_closed(rows, *stage, survivors),
        Event::StageReopened { stage, later } => fold.stage_reopened(rows, *stage, *later),
        Event::StagesDiscarded { from } => fold.stages_discarded(rows, *from),
        Event::StageReplanned(replanned) => fold.stage_replanned(rows, replanned),
        // For callers that ask what changed: no row needs it.
        Event::InputsListed { .. } => fold.study(rows).map(drop),
        Event::ResultIdentified { .. }
        | Event::TrialReused(_)
        | Event::ReuseMissed { .. }
        | Event::ReuseDiffered(_) => fold.reuse(rows, &record.event),
        Event::StageReread { .. } | Event::ResultReread(_) => fold.read_again(rows, &record.event),
        Event::TrialImported(_) | Event::ResultsTold(_) => fold.import(rows, &record.event),
        Event::RungReached { .. } | Event::RungDecided { .. } | Event::StopIfMet { .. } => {
            fold.watched(rows, &record.event)
        }
        Event::DirectoriesDiscarded(_) | Event::DiscardFinished { .. } => fold.keeping(rows, &record.event),
        Event::RoundsPlanned { .. } => fold.rounds(rows, &record.event),
        Event::RaceRound { stage, left, more } => fold.race_round(rows, *stage, left, *more),
        Event::ResourcesGiven { trial, attempt, given } => fold.given(rows, (*trial, *attempt), given),
        other => fold.study_changed(rows, other),
    }
}

/// A stage as it is declared, before it opens.
pub(crate) fn waiting(index: StageIndex, decl: &StageDecl) -> StageRow {
    StageRow {
        index,
        name: decl.name.clone(),
        trial_budget: decl.trial_budget,
        survivor_count: decl.survivor_count,
        objective: decl.objective.clone(),
        status: StageStatus::Waiting,
        first_trial: TrialId(0),
        parents: Vec::new(),
        shares: Vec::new(),
        more: Vec::new(),
        planned: 0,
        proposing: if decl.proposed { Proposing::Open } else { Proposing::No },
        survivors: Vec::new(),
        approval: None,
        opened_ms: None,
        closed_ms: None,
        later: LaterStages::Stand,
        tidied: Tidied::No,
        discarding: false,
        replicas: Default::default(),
        ended_after: None,
    }
}

/// What every step of a fold needs to know of its record.
pub(super) struct Fold {
    pub(super) seq: Seq,
    pub(super) at_ms: UnixMs,
    what: &'static str,
}

impl Fold {
    pub(super) fn misfit<E: From<FoldError>>(&self, why: String) -> E {
        FoldError { seq: self.seq, what: self.what, why }.into()
    }

    pub(super) fn study<R: Rows>(&self, rows: &mut R) -> Result<StudyRow, R::Error> {
        rows.study()?.ok_or_else(|| self.misfit("no study was created".into()))
    }

    fn open_stage<R: Rows>(&self, rows: &mut R, index: StageIndex) -> Result<StageRow, R::Error> {
        match rows.stage(index)? {
            Some(row) if row.status == StageStatus::Open => Ok(row),
            Some(row) => Err(self.misfit(format!("stage {index} is {:?}", row.status).to_lowercase())),
            None => Err(self.misfit(format!("there is no stage {index}"))),
        }
    }

    fn created<R: Rows>(&self, rows: &mut R, created: &StudyCreated) -> Result<(), R::Error> {
        if self.seq != 1 || rows.study()?.is_some() {
            return Err(self.misfit("a study can be created once".into()));
        }
        let created = created.clone();
        for (index, stage) in (0..).zip(created.stages.iter()) {
            rows.put_stage(waiting(index, stage))?;
        }
        rows.put_study(StudyRow {
            study_id: created.study_id,
            name: created.name,
            base_case: created.base_case,
            seed: created.seed,
            spec: created.spec,
            spec_hash: created.spec_hash,
            inputs: created.inputs,
            versions: created.versions,
            study_dir: created.study_dir,
            artifacts_dir: created.artifacts_dir,
            study_file: created.study_file,
            plan_version: created.plan_version,
            stage_count: u32::try_from(created.stages.len()).unwrap_or(u32::MAX),
            created_ms: self.at_ms,
            status: StudyStatus::Created,
            abort_reason: None,
            violating: Vec::new(),
            abort: None,
            engine: None,
            engine_closed: true,
            runs: 0,
            workers: 0,
            sync_interval_ms: 0,
            draining: false,
            cluster_trouble: None,
            base: None,
            doubts: Vec::new(),
            accepted: Vec::new(),
        })
    }

    /// Events that touch the study row alone.
    fn study_changed<R: Rows>(&self, rows: &mut R, event: &Event) -> Result<(), R::Error> {
        let mut study = self.study(rows)?;
        match event {
            Event::RunStarted { .. } if matches!(study.status, StudyStatus::Completed | StudyStatus::Aborted) => {
                return Err(self.misfit("the study is over".into()));
            }
            Event::RunStarted { engine, workers, sync_interval_ms } => {
                study.status = StudyStatus::Running;
                study.engine = Some(engine.clone());
                study.engine_closed = false;
                study.runs += 1;
                study.workers = *workers;
                study.sync_interval_ms = *sync_interval_ms;
                study.draining = false;
                study.cluster_trouble = None;
            }
            Event::ClusterChanged { trouble } => study.cluster_trouble.clone_from(trouble),
            Event::DrainStarted { .. } => study.draining = true,
            Event::InputsAccepted { by, note, inputs, tools } => {
                let (by, note, inputs, tools) = (by.clone(), note.clone(), inputs.clone(), tools.clone());
                study.accepted.push(Accepted { by, note, at_ms: self.at_ms, inputs, tools });
            }
            Event::BaseKept => self.base_kept(&mut study)?,
            // What follows says all there is to say.
            Event::Rebuilt { .. } => {}
            Event::StudyCompleted => study.status = StudyStatus::Completed,
            Event::StudyAborted { reason, violating } => {
                self.aborted(rows, &mut study, reason, violating)?;
            }
            Event::StudyAbortedBy { abort, .. } if abort.stage >= study.stage_count => {
                return Err(self.misfit(format!("there is no stage {}", abort.stage)));
            }
            Event::StudyAbortedBy { abort, reason, violating } => {
                self.aborted(rows, &mut study, reason, violating)?;
                study.abort = Some(*abort);
            }
            Event::RunEnded { how } => {
                study.engine_closed = true;
                study.draining = false;
                if matches!(how, RunEnd::Drained | RunEnd::Forced | RunEnd::Failed | RunEnd::Waiting)
                    && study.status == StudyStatus::Running
                {
                    study.status = StudyStatus::Interrupted;
                }
            }
            _ => return Err(self.misfit("not an event of the study row".into())),
        }
        rows.put_study(study)
    }

    fn aborted<R: Rows>(
        &self,
        rows: &mut R,
        study: &mut StudyRow,
        reason: &str,
        violating: &[TrialId],
    ) -> Result<(), R::Error> {
        study.status = StudyStatus::Aborted;
        study.abort_reason = Some(reason.to_owned());
        study.violating = violating.to_vec();
        for index in 0..study.stage_count {
            if let Some(mut stage) = rows.stage(index)?
                && stage.status == StageStatus::Open
            {
                stage.status = StageStatus::Aborted;
                stage.closed_ms = Some(self.at_ms);
                rows.put_stage(stage)?;
            }
        }
        Ok(())
    }

    fn stage_opened<R: Rows>(
        &self,
        rows: &mut R,
        index: StageIndex,
        parents: &[Parent],
        shares: &[u64],
    ) -> Result<(), R::Error> {
        let Some(mut stage) = rows.stage(index)? else {
            return Err(self.misfit(format!("there is no stage {index}")));
        };
        if stage.status != StageStatus::Waiting || shares.len() != parents.len().max(1) {
            return Err(self.misfit(format!("stage {index} cannot open so")));
        }
        stage.first_trial = match index.checked_sub(1) {
            None => TrialId(0),
            Some(before) => match rows.stage(before)? {
                Some(row) if row.status == StageStatus::Closed => TrialId(row.first_trial.0 + row.planned()),
                _ => return Err(self.misfit(format!("stage {before} is not closed"))),
            },
        };
        stage.status = StageStatus::Open;
        stage.parents = parents.to_vec();
        stage.shares = shares.to_vec();
        stage.replicas = Replicas::default();
        stage.planned = if stage.proposing == Proposing::No { stage.room() } else { 0 };
        stage.opened_ms = Some(self.at_ms);
        rows.put_stage(stage)
    }

    /// Only the open stage gets proposals, one trial after the other.
    fn trial_proposed<R: Rows>(
        &self,
        rows: &mut R,
        trial: TrialId,
        values: &[(String, Value)],
    ) -> Result<(), R::Error> {
        let count = self.study(rows)?.stage_count;
        for index in 0..count {
            if let Some(mut stage) = rows.stage(index)?
                && stage.takes_proposals()
                && trial.0 == stage.first_trial.0 + stage.planned
            {
                stage.add_cases(1);
                rows.put_stage(stage)?;
                return rows.put_proposal(trial, values.to_vec());
            }
        }
        Err(self.misfit(format!("trial {trial} is not the next that a stage has room for")))
    }

    fn proposals_ended<R: Rows>(&self, rows: &mut R, index: StageIndex) -> Result<(), R::Error> {
        let mut stage = self.open_stage(rows, index)?;
        if stage.proposing != Proposing::Open {
            return Err(self.misfit(format!("stage {index} takes no proposals")));
        }
        stage.proposing = Proposing::Ended;
        rows.put_stage(stage)
    }

    /// Nothing runs, and nothing more of the stage will; its other trials stay as they are.
    fn ended_early<R: Rows>(&self, rows: &mut R, index: StageIndex, counted: u64) -> Result<(), R::Error> {
        let mut stage = self.open_stage(rows, index)?;
        let counters = rows.counters(index)?;
        if counters.running + counters.undecided > 0 || counted >= stage.planned() || counted > counters.next_index
        {
            return Err(self.misfit(format!("stage {index} does not end after {counted} trials")));
        }
        stage.ended_after = Some(counted);
        rows.put_stage(stage)
    }

    fn stage_closed<R: Rows>(
        &self,
        rows: &mut R,
        index: StageIndex,
        survivors: &[Parent],
    ) -> Result<(), R::Error> {
        let mut stage = self.open_stage(rows, index)?;
        let counters = rows.counters(index)?;
        let under_way = counters.running + counters.undecided;
        let waits = stage.ended_after.is_none() && counters.pending(stage.planned()) > 0;
        let unfinished = under_way > 0 || waits || stage.takes_proposals();
        if unfinished && !injected_fault!(ClosedEarly) {
            return Err(self.misfit(format!("stage {index} still has trials to run")));
        }
        stage.status = StageStatus::Closed;
        stage.survivors = if injected_fault!(SurvivorsNotStored) { Vec::new() } else { survivors.to_vec() };
        stage.closed_ms = Some(self.at_ms);
        stage.tidied = Tidied::No;
        rows.put_stage(stage)
    }

    fn attempt_started<R: Rows>(&self, rows: &mut R, running: RunningRow, slot: u32) -> Result<(), R::Error> {
        let trial = running.trial;
        let Some(index) = rows.stage_of(trial)? else {
            return Err(self.misfit(format!("trial {trial} is not planned")));
        };
        // What a worker had begun when a rail aborted the study still runs to its end.
        let runs = |stage: &StageHead| matches!(stage.status, StageStatus::Open | StageStatus::Aborted);
        let Some(stage) = rows.stage_head(index)?.filter(runs) else {
            return Err(self.misfit(format!("stage {index} is not open")));
        };
        let mut counters = rows.counters(index)?;
        let mut row = match rows.take_trial(trial)? {
            Some(row) => row,
            None => TrialRow::new(trial, index),
        };
        let number = u32::try_from(row.attempts.len()).unwrap_or(u32::MAX - 1) + 1;
        if row.state != TrialState::Pending || running.attempt != number {
            return Err(self.misfit(format!("trial {trial} cannot start attempt {}", running.attempt)));
        }
        self.leave_queue(rows, &stage, &mut counters, &row)?;
        row.state = TrialState::Running;
        row.due_ms = 0;
        row.attempts.push(self.begun(number, slot));
        counters.running += 1;
        let mut progress = rows.progress()?;
        progress.accounting.attempts_started += 1;
        progress.accounting.running += 1;
        rows.put_progress(progress)?;
        rows.put_counters(index, counters)?;
        rows.put_trial(row)?;
        rows.add_running(running)
    }

    /// A trial that waits has this result, and makes no attempt for it. `note` says where it is from and counts it as that.
    pub(super) fn give_result<R: Rows>(
        &self,
        rows: &mut R,
        trial: TrialId,
        (metrics, outputs): (&Metrics, &[OutputHash]),
        note: impl FnOnce(&mut TrialRow, &mut StageCounters, &mut Accounting),
    ) -> Result<StageIndex, R::Error> {
        let Some(index) = rows.stage_of(trial)? else {
            return Err(self.misfit(format!("trial {trial} is not planned")));
        };
        let Some(stage) = rows.stage_head(index)?.filter(|stage| stage.status == StageStatus::Open) else {
            return Err(self.misfit(format!("stage {index} is not open")));
        };
        let mut counters = rows.counters(index)?;
        let mut row = rows.trial(trial)?.unwrap_or_else(|| TrialRow::new(trial, index));
        if row.state != TrialState::Pending {
            return Err(self.misfit(format!("trial {trial} does not wait")));
        }
        self.leave_queue(rows, &stage, &mut counters, &row)?;
        row.state = TrialState::Succeeded;
        row.due_ms = 0;
        row.failure = None;
        row.metrics.clone_from(metrics);
        row.outputs = outputs.to_vec();
        counters.succeeded += 1;
        counters.best = stage.better(counters.best, trial, metrics);
        let mut progress = rows.progress()?;
        note(&mut row, &mut counters, &mut progress.accounting);
        rows.put_progress(progress)?;
        rows.put_counters(index, counters)?;
        rows.put_trial(row)?;
        Ok(index)
    }

    /// Takes a trial that waits out of the ready queue, or out of what is only planned.
    fn leave_queue<R: Rows>(
        &self,
        rows: &mut R,
        stage: &StageHead,
        counters: &mut StageCounters,
        row: &TrialRow,
    ) -> Result<(), R::Error> {
        let derived = row.trial.0 - stage.first_trial.0;
        if derived < counters.next_index {
            return rows.remove_ready((row.due_ms, row.trial));
        }
        // Workers start cases out of order; those passed over wait in the queue from now on.
        let passed_over =
            if injected_fault!(PassedOverForgotten) { derived..derived } else { counters.next_index..derived };
        for passed in passed_over {
            rows.add_ready((0, TrialId(stage.first_trial.0 + passed)))?;
        }
        counters.next_index = derived + 1;
        Ok(())
    }

    fn begun(&self, n: AttemptNo, slot: u32) -> AttemptRow {
        AttemptRow::begun(n, slot, self.at_ms)
    }

    fn attempt_placed<R: Rows>(
        &self,
        rows: &mut R,
        trial: TrialId,
        attempt: AttemptNo,
        job: &RemoteJob,
    ) -> Result<(), R::Error> {
        let place = |attempts: &mut [AttemptRow]| match attempts.last_mut() {
            Some(last) if last.n == attempt && last.outcome.is_none() => {
                last.remote = Some(job.clone());
                Ok(())
            }
            _ => Err(self.misfit::<R::Error>(format!("attempt {attempt} of trial {trial} does not run"))),
        };
        if trial == TrialId::BASE {
            let mut study = self.study(rows)?;
            place(study.base.as_mut().map_or(&mut [], |base| &mut base.attempts))?;
            return rows.put_study(study);
        }
        let Some(mut row) = rows.trial(trial)? else {
            return Err(self.misfit(format!("trial {trial} never started")));
        };
        place(&mut row.attempts)?;
        rows.put_trial(row)
    }

    /// Ends the last attempt, which must be the running one.
    fn close_attempt<E: From<FoldError>>(
        &self,
        attempts: &mut [AttemptRow],
        end: &AttemptEnd,
    ) -> Result<AttemptOutcome, E> {
        let outcome = end.verdict.outcome();
        match attempts.last_mut() {
            Some(attempt) if attempt.n == end.attempt && attempt.outcome.is_none() => {
                attempt.outcome = Some(outcome);
                attempt.ended_ms = Some(end.ended_ms);
                attempt.exit = end.exit;
                attempt.usage = end.usage;
                Ok(outcome)
            }
            _ => Err(self.misfit(format!("attempt {} of trial {} does not run", end.attempt, end.trial))),
        }
    }

    fn base_started<R: Rows>(&self, rows: &mut R, running: RunningRow, slot: u32) -> Result<(), R::Error> {
        let mut study = self.study(rows)?;
        let mut base = study.base.take().unwrap_or(BaseRow {
            state: TrialState::Pending,
            attempts: Vec::new(),
            failure: None,
        });
        let number = u32::try_from(base.attempts.len()).unwrap_or(u32::MAX - 1) + 1;
        if base.state != TrialState::Pending || running.attempt != number {
            return Err(self.misfit(format!("the base command cannot start attempt {}", running.attempt)));
        }
        base.state = TrialState::Running;
        base.attempts.push(self.begun(number, slot));
        study.base = Some(base);
        rows.put_study(study)?;
        rows.add_running(running)
    }

    fn base_ended<R: Rows>(&self, rows: &mut R, end: &AttemptEnd) -> Result<(), R::Error> {
        let mut study = self.study(rows)?;
        let Some(mut base) = study.base.take() else {
            return Err(self.misfit("the base command never started".into()));
        };
        self.close_attempt::<R::Error>(&mut base.attempts, end)?;
        base.state = match &end.verdict {
            Verdict::Succeeded { .. } => TrialState::Succeeded,
            Verdict::Failed(failure) => {
                base.failure = Some(failure.clone());
                TrialState::Failed
            }
            Verdict::Interrupted { .. } | Verdict::Cancelled => TrialState::Pending,
        };
        study.base = Some(base);
        rows.put_study(study)?;
        rows.remove_running(TrialId::BASE)
    }

    fn stage_approved<R: Rows>(
        &self,
        rows: &mut R,
        index: StageIndex,
        by: &str,
        note: &str,
    ) -> Result<(), R::Error> {
        match rows.stage(index)? {
            Some(mut stage) if stage.status == StageStatus::Waiting => {
                stage.approval = Some(Approval { by: by.into(), note: note.into(), at_ms: self.at_ms });
                rows.put_stage(stage)
            }
            _ => Err(self.misfit(format!("stage {index} does not wait"))),
        }
    }

    fn attempt_ended<R: Rows>(&self, rows: &mut R, end: &AttemptEnd) -> Result<(), R::Error> {
        let trial = end.trial;
        let Some(mut row) = rows.take_trial(trial)? else {
            return Err(self.misfit(format!("trial {trial} never started")));
        };
        let mut counters = rows.counters(row.stage)?;
        let mut progress = rows.progress()?;
        let outcome = self.close_attempt(&mut row.attempts, end)?;
        let accounting = &mut progress.accounting;
        accounting.running = accounting.running.saturating_sub(1);
        match outcome {
            AttemptOutcome::Succeeded => accounting.succeeded += 1,
            AttemptOutcome::Failed => accounting.failed += 1,
            AttemptOutcome::Interrupted | AttemptOutcome::Cancelled => {
                accounting.interrupted += u64::from(!injected_fault!(InterruptedUncounted));
            }
        }
        counters.running = counters.running.saturating_sub(1);
        // For rates: what was cut off says nothing of how long a trial takes.
        if matches!(outcome, AttemptOutcome::Succeeded | AttemptOutcome::Failed) {
            counters.ended_attempts += 1;
            counters.ended_wall_us += end.usage.wall_us;
        }
        match &end.verdict {
            Verdict::Succeeded { metrics, outputs } => {
                row.metrics.clone_from(metrics);
                row.outputs.clone_from(outputs);
                row.failure = None;
            }
            Verdict::Failed(failure) => {
                row.failures += 1;
                row.failure = Some(failure.clone());
            }
            Verdict::Interrupted { .. } | Verdict::Cancelled => {
                row.failures += u32::from(injected_fault!(InterruptedTakesRetry));
                row.failures *= u32::from(!injected_fault!(InterruptedForgetsFailures));
            }
        }
        match (outcome, end.next) {
            (AttemptOutcome::Succeeded | AttemptOutcome::Failed | AttemptOutcome::Cancelled, Next::Final) => {
                let state = row.ended_as(outcome);
                self.settle(rows, &mut row, &mut counters, &mut progress, state)?;
            }
            (AttemptOutcome::Failed | AttemptOutcome::Interrupted, Next::Again { due_ms }) if !row.is_sealed() => {
                row.state = TrialState::Pending;
                row.due_ms = due_ms;
                rows.add_ready((due_ms, trial))?;
            }
            _ => return Err(self.misfit(format!("trial {trial} cannot go on so"))),
        }
        rows.put_progress(progress)?;
        rows.put_counters(row.stage, counters)?;
        rows.put_trial(row)?;
        rows.remove_running(trial)
    }

    /// Makes the stage of a trial that is to run again open: an abort is taken back by it.
    fn reopen<R: Rows>(&self, rows: &mut R, index: StageIndex) -> Result<(), R::Error> {
        match rows.stage(index)? {
            Some(stage) if stage.status == StageStatus::Open && stage.ended_after.is_none() => Ok(()),
            // It is asked anew when it ends.
            Some(stage) if stage.status == StageStatus::Open => {
                rows.put_stage(StageRow { ended_after: None, ..stage })
            }
            Some(mut stage) if stage.status == StageStatus::Aborted => {
                stage.ended_after = None;
                stage.status = StageStatus::Open;
                stage.closed_ms = None;
                rows.put_stage(stage)?;
                self.go_on(rows)
            }
            _ => Err(self.misfit(format!("stage {index} is not open"))),
        }
    }

    fn trial_reset<R: Rows>(&self, rows: &mut R, trial: TrialId) -> Result<(), R::Error> {
        let Some(mut row) = rows.trial(trial)? else {
            return Err(self.misfit(format!("trial {trial} never started")));
        };
        if row.state != TrialState::Failed {
            return Err(self.misfit(format!("trial {trial} has not failed")));
        }
        self.reopen(rows, row.stage)?;
        // Failures that are to be mended count for no rail any more.
        if row.failure.as_ref().is_some_and(|failure| failure.severity == Severity::Catastrophic) {
            let mut progress = rows.progress()?;
            progress.catastrophic = progress.catastrophic.saturating_sub(1);
            rows.put_progress(progress)?;
        }
        let mut counters = rows.counters(row.stage)?;
        counters.failed = counters.failed.saturating_sub(1);
        row.state = TrialState::Pending;
        row.due_ms = 0;
        row.failures = 0;
        row.failure = None;
        rows.add_ready((0, trial))?;
        rows.put_counters(row.stage, counters)?;
        rows.put_trial(row)
    }
}
