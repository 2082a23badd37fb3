//! A journal made of rows, for a store whose own has lost events.
//!
//! The rows of the newest commit are the state; what is made here are events that fold to them, so far as they are there. Where a
//! trial's row is gone its events stand in for it, if they cannot be of a trial that was discarded since. The first event
//! after the study's own says that all of it was rebuilt. Nothing is invented: what is not known of an attempt is said to be lost,
//! and a trial without row and events runs again.

use std::collections::BTreeMap;

use crate::model::{
    Accepted, AttemptEnd, AttemptOutcome, AttemptRow, DirectoriesDiscarded, DiscardRun, Discarded, EngineId,
    Event, Extension, Failure, FailureKind, Imported, LaterStages, LeftCase, Metrics, Next, OutputHash, ProcessId,
    Proposals, Proposing, Record, ResultsTold, Reused, RunEnd, RungRow, Segment, Seq, SpecAmended, StageDecl,
    StageIndex, StageRow, StageStatus, StudyCreated, StudyProgress, StudyRow, StudyStatus, Tidied, TrialId,
    TrialImport, TrialRow, TrialState, Verdict,
};

/// What is said of an attempt whose end is not known any more.
const LOST: &str = "what became of it was lost with a damaged part of the store";

fn names(stages: &[StageDecl]) -> Vec<String> {
    stages.iter().map(|stage| stage.name.clone()).collect()
}

/// The rows that were found.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) study: Option<StudyRow>,
    pub(super) stages: BTreeMap<u32, StageRow>,
    /// Of the newest commit.
    pub(super) trials: BTreeMap<TrialId, TrialRow>,
    /// Of an older commit, and of events: used where the newest is gone.
    pub(super) older: BTreeMap<TrialId, TrialRow>,
    /// When trials of `older` took the result of another one.
    reused_ms: BTreeMap<TrialId, i64>,
    /// What the proposers of stages were to be told of, with when it was imported. Each has its stage's index of now.
    told: Vec<(i64, ResultsTold)>,
    /// Names of the stages, as of the events so far.
    stage_names: Vec<String>,
    pub(super) proposals: Proposals,
    pub(super) progress: Option<StudyProgress>,
}

impl Kept {
    /// Whether what every trial hangs on is there.
    pub(super) fn is_enough(&self) -> bool {
        self.study.as_ref().is_some_and(|study| {
            let known = |(index, stage): (u32, &StageRow)| stage.index == index;
            self.stages.len() as u64 == u64::from(study.stage_count) && (0..).zip(self.stages.values()).all(known)
        })
    }

    /// Takes what an event says about its trial.
    pub(super) fn take(&mut self, record: &Record, is_last_word: bool) {
        match &record.event {
            Event::AttemptStarted { trial, attempt, slot, .. } => {
                let row = self.older.entry(*trial).or_insert_with(|| TrialRow::new(*trial, 0));
                if *attempt == 1 {
                    *row = TrialRow::new(*trial, 0);
                }
                fill_up(row, attempt.saturating_sub(1), record.at_ms);
                row.attempts.push(AttemptRow::begun(*attempt, *slot, record.at_ms));
                row.state = TrialState::Running;
            }
            Event::AttemptPlaced { trial, attempt, job } => {
                let row = self.older.get_mut(trial);
                if let Some(last) = row.and_then(|row| row.attempts.last_mut()).filter(|last| last.n == *attempt) {
                    last.remote = Some(job.clone());
                }
            }
            Event::ResourcesGiven { trial, attempt, given } => {
                if let Some(row) = self.older.get_mut(trial).filter(|row| row.given(*attempt).is_empty()) {
                    row.given.push((*attempt, given.clone()));
                }
            }
            Event::AttemptEnded(end) => {
                let row = self.older.entry(end.trial).or_insert_with(|| TrialRow::new(end.trial, 0));
                ended(row, end, is_last_word);
            }
            Event::TrialReset { trial } => {
                if let Some(row) = self.older.get_mut(trial) {
                    (row.state, row.failures, row.failure) = (TrialState::Pending, 0, None);
                }
            }
            Event::ResultIdentified { trial, identity, .. } => {
                if let Some(row) = self.older.get_mut(trial) {
                    row.identity = Some(*identity);
                }
            }
            Event::ResultReread(reread) => {
                if let Some(row) = self.older.get_mut(&reread.trial)
                    && let Some(again) = row.read_again(reread)
                {
                    *row = again;
                }
            }
            Event::TrialReused(reused) => {
                let row = self.given(reused.trial, &reused.metrics, &reused.outputs);
                (row.identity, row.reused_from) = (Some(reused.identity), Some(reused.origin.clone()));
                self.reused_ms.insert(reused.trial, record.at_ms);
            }
            Event::RungReached { trial, at, step, value, judged, rung, .. } => {
                let Some(row) = self.older.get_mut(trial) else { return };
                let rungs = &mut row.watched.get_or_insert_default().rungs;
                if rungs.len() as u64 == u64::from(*rung) {
                    rungs.push(RungRow { at: *at, step: *step, value: *value, judged: *judged, verdict: None });
                }
            }
            Event::RungDecided { trial, rung, verdict } => {
                let watched = self.older.get_mut(trial).and_then(|row| row.watched.as_mut());
                if let Some(rung) = watched.and_then(|watched| watched.rungs.get_mut(*rung as usize)) {
                    rung.verdict = Some(*verdict);
                }
            }
            Event::StopIfMet { trial, met, .. } => {
                if let Some(row) = self.older.get_mut(trial) {
                    row.watched.get_or_insert_default().stop_if.get_or_insert_with(|| met.clone());
                }
            }
            Event::TrialImported(import) => {
                let row = self.given(import.trial, &import.metrics, &import.outputs);
                row.imported = Some(Imported { source: import.source.clone(), at_ms: record.at_ms });
            }
            Event::ResultsTold(told) => self.told.push((record.at_ms, (**told).clone())),
            Event::StudyCreated(created) => self.stage_names = names(&created.stages),
            Event::SpecAmended(amended) => {
                let before = std::mem::replace(&mut self.stage_names, names(&amended.stages));
                self.told.retain_mut(|(_, told)| {
                    let name = before.get(told.stage as usize);
                    let now = name.map_or(Some(told.stage), |name| amended.index_of(name));
                    told.stage = now.unwrap_or(told.stage);
                    now.is_some()
                });
            }
            Event::TrialProposed { trial, values, .. } => {
                self.proposals.entry(*trial).or_insert_with(|| values.clone());
            }
            Event::DirectoriesDiscarded(discarded) => {
                for run in &discarded.runs {
                    let end = TrialId(run.first.0.saturating_add(run.count));
                    self.older
                        .range_mut(run.first..end.max(run.first))
                        .for_each(|(_, row)| row.discard(run.keeps));
                }
            }
            _ => {}
        }
    }

    /// The row of a trial that has a result without an attempt. One that has a result already was another generation's of the same number.
    fn given(&mut self, trial: TrialId, metrics: &Metrics, outputs: &[OutputHash]) -> &mut TrialRow {
        let row = self.older.entry(trial).or_insert_with(|| TrialRow::new(trial, 0));
        if row.state == TrialState::Succeeded {
            *row = TrialRow::new(trial, 0);
        }
        (row.state, row.due_ms, row.failure) = (TrialState::Succeeded, 0, None);
        (row.metrics, row.outputs) = (metrics.clone(), outputs.to_vec());
        row
    }

    /// The best that is known of a trial of this stage.
    fn trial(&self, stage: &StageRow, trial: TrialId) -> Option<&TrialRow> {
        self.trials.get(&trial).or_else(|| {
            let row = self.older.get(&trial)?;
            // Before its stage opened, the number was another trial's, whose directory may be replaced by now.
            let reused_ms = self.reused_ms.get(&trial).copied().filter(|_| row.reused_from.is_some());
            let imported_ms = row.imported.as_ref().map(|imported| imported.at_ms);
            let began_ms = row.attempts.first().map(|first| first.started_ms).or(reused_ms).or(imported_ms)?;
            stage.opened_ms.is_some_and(|opened_ms| began_ms >= opened_ms).then_some(row)
        })
    }

    /// Events that fold to these rows. `created`: the study's own first event, if that is still there.
    pub(super) fn records(&self, created: Option<Record>, known: Seq, lost: u64) -> Option<Vec<Record>> {
        let study = self.study.as_ref().filter(|_| self.is_enough())?;
        let mut made = Made {
            records: Vec::new(),
            at_ms: study.created_ms,
            reopened: Vec::new(),
            after: Vec::new(),
            discards: false,
        };
        let first = StudyCreated { stages: self.decls(), ..created_of(study, created) };
        made.tell(study.created_ms, Event::StudyCreated(Box::new(first)));
        made.tell(study.created_ms, Event::Rebuilt { known, lost });
        for accepted in &study.accepted {
            let Accepted { by, note, at_ms, inputs, tools } = accepted.clone();
            made.tell(at_ms, Event::InputsAccepted { by, note, inputs, tools });
        }
        if study.runs > 0 {
            let nobody = || EngineId {
                process: ProcessId { pid: 0, start_ticks: 0 },
                boot_id: String::new(),
                host: String::new(),
            };
            made.tell(
                study.created_ms,
                Event::RunStarted {
                    engine: study.engine.clone().unwrap_or_else(nobody),
                    workers: study.workers,
                    sync_interval_ms: study.sync_interval_ms,
                },
            );
        }
        self.base(study, &mut made);
        let mut complete = true;
        for stage in self.stages.values() {
            if let Some(approval) = &stage.approval {
                let (by, note) = (approval.by.clone(), approval.note.clone());
                made.tell(approval.at_ms, Event::StageApproved { stage: stage.index, by, note });
            }
            for (at_ms, told) in
                self.told.iter().filter(|(_, told)| told.stage == stage.index && stage.hears_results())
            {
                made.tell(*at_ms, Event::ResultsTold(Box::new(told.clone())));
            }
            complete &= stage.status == StageStatus::Closed;
            if stage.status == StageStatus::Waiting {
                continue;
            }
            if !self.stage(study, stage, &mut made) {
                complete = false;
                break;
            }
        }
        made.reopen();
        for doubt in &study.doubts {
            made.tell(made.at_ms, Event::ReuseDiffered(Box::new(doubt.clone())));
        }
        let (last_ms, run_ms) = self.progress.map_or((made.at_ms, 0), |progress| {
            (progress.last_event_ms, progress.earlier_runs_ms.saturating_add(progress.this_run_ms))
        });
        let how = match study.status {
            StudyStatus::Completed if complete => {
                made.tell(last_ms, Event::StudyCompleted);
                RunEnd::Completed
            }
            StudyStatus::Aborted => {
                let reason = study.abort_reason.clone().unwrap_or_default();
                let violating = study.violating.clone();
                made.tell(
                    last_ms,
                    match study.abort {
                        Some(abort) => Event::StudyAbortedBy { abort, reason, violating },
                        None => Event::StudyAborted { reason, violating },
                    },
                );
                RunEnd::Aborted
            }
            _ => RunEnd::Drained,
        };
        if study.runs > 0 {
            made.records.push(Record { at_ms: last_ms, run_ms, event: Event::RunEnded { how } });
        }
        Some(made.records)
    }

    fn decls(&self) -> Vec<StageDecl> {
        let decl = |stage: &StageRow| StageDecl {
            name: stage.name.clone(),
            trial_budget: stage.trial_budget,
            survivor_count: stage.survivor_count,
            objective: stage.objective.clone(),
            proposed: stage.proposing != Proposing::No,
        };
        self.stages.values().map(decl).collect()
    }

    fn base(&self, study: &StudyRow, made: &mut Made) {
        let Some(base) = &study.base else { return };
        for attempt in &base.attempts {
            made.tell(
                attempt.started_ms,
                Event::BaseStarted {
                    attempt: attempt.n,
                    slot: attempt.slot,
                    process: None,
                    executor: executor_of(attempt),
                },
            );
            let Some(outcome) = attempt.outcome else { continue };
            let is_last = base.attempts.last().is_some_and(|last| last.n == attempt.n);
            let verdict = match outcome {
                AttemptOutcome::Succeeded => {
                    Verdict::Succeeded { metrics: Default::default(), outputs: Vec::new() }
                }
                AttemptOutcome::Failed if is_last => {
                    Verdict::Failed(base.failure.clone().unwrap_or_else(lost_failure))
                }
                // One that failed and was tried again after an amendment, or was cut off: both ran again.
                AttemptOutcome::Failed | AttemptOutcome::Interrupted | AttemptOutcome::Cancelled => {
                    Verdict::Interrupted { reason: LOST.into() }
                }
            };
            made.end(TrialId::BASE, attempt, verdict, Next::Final);
        }
    }

    /// A stage that has begun; whether the stages after it can follow.
    fn stage(&self, study: &StudyRow, stage: &StageRow, made: &mut Made) -> bool {
        let index = stage.index;
        let opened_ms = stage.opened_ms.unwrap_or(made.at_ms);
        let (parents, shares) = (stage.parents.clone(), stage.shares.clone());
        made.tell(opened_ms, Event::StageOpened { stage: index, parents, shares });
        // Rounds and cases came in the order of their trials' numbers.
        let mut more = stage.more.iter().copied();
        let extend = |more: Vec<Segment>| {
            Event::SpecAmended(Box::new(SpecAmended {
                spec: study.spec.clone(),
                spec_hash: study.spec_hash.clone(),
                seed: study.seed,
                inputs: study.inputs.clone(),
                versions: study.versions.clone(),
                stages: self.decls(),
                discard_from: None,
                extended: Some(Extension { stage: index, more }),
                reopen: false,
            }))
        };
        for rounds in &stage.replicas.rounds {
            let left = left_before(stage, rounds.first);
            if rounds.first_case == 0 && !left.is_empty() {
                made.tell(opened_ms, Event::RaceRound { stage: index, left, more: rounds.count });
                continue;
            }
            if rounds.first_case == 0 {
                made.tell(opened_ms, Event::RoundsPlanned { stage: index, count: rounds.count });
                continue;
            }
            let (mut segments, mut cases) = (Vec::new(), 0_u64);
            while cases < rounds.cases
                && let Some(segment) = more.next()
            {
                cases = cases.saturating_add(segment.count);
                segments.push(segment);
            }
            made.tell(opened_ms, extend(segments));
        }
        let more: Vec<Segment> = more.collect();
        if !more.is_empty() {
            made.tell(opened_ms, extend(more));
        }
        let left = left_before(stage, stage.rounds());
        if !left.is_empty() {
            made.tell(opened_ms, Event::RaceRound { stage: index, left, more: 0 });
        }
        let mut planned = stage.planned;
        if stage.proposing != Proposing::No {
            let first = stage.first_trial.0;
            for number in 0..stage.planned {
                let trial = TrialId(first.saturating_add(number));
                let Some(values) = self.proposals.get(&trial) else {
                    planned = number;
                    break;
                };
                made.tell(opened_ms, Event::TrialProposed { trial, values: values.clone(), merged: 0 });
            }
            if stage.proposing == Proposing::Ended && planned == stage.planned {
                made.tell(opened_ms, Event::ProposalsEnded { stage: index, reason: LOST.into() });
            }
        }
        let end = TrialId(stage.first_trial.0.saturating_add(planned));
        let mut finished = 0_u64;
        let there: std::collections::BTreeSet<TrialId> = self
            .trials
            .range(stage.first_trial..end)
            .chain(self.older.range(stage.first_trial..end))
            .map(|(id, _)| *id)
            .collect();
        // Where later stages have begun it had closed, and was opened again: what runs again does so after all that is told of them.
        let next = self.stages.get(&index.saturating_add(1)).filter(|next| next.status != StageStatus::Waiting);
        let reopened = next.filter(|_| stage.status != StageStatus::Closed);
        for trial in there {
            if let Some(row) = self.trial(stage, trial) {
                let from = made.records.len();
                let is_finished = made.trial(row, index) || (reopened.is_some() && made.put_off(from));
                let counts = !stage.is_outside(trial.0.saturating_sub(stage.first_trial.0));
                finished += u64::from(is_finished && counts);
            }
        }
        if made.discards && !stage.discarding {
            made.tell(made.at_ms, Event::DiscardFinished { stage: index, bytes: 0, inodes: 0 });
        }
        made.discards = false;
        let later = stage.later;
        let survivors = match (stage.status, reopened) {
            _ if finished != stage.ended_after.unwrap_or(stage.planned) => return false,
            (StageStatus::Closed, _) => stage.survivors.clone(),
            (_, Some(next)) => {
                made.reopened.push((index, later));
                next.parents.clone()
            }
            _ => return false,
        };
        if reopened.is_none() && later != LaterStages::Stand {
            made.tell(made.at_ms, Event::StageReopened { stage: index, later });
        }
        if let Some(counted) = stage.ended_after {
            made.tell(stage.closed_ms.unwrap_or(made.at_ms), Event::StageEndedEarly { stage: index, counted });
        }
        made.tell(stage.closed_ms.unwrap_or(made.at_ms), Event::StageClosed { stage: index, survivors });
        if stage.tidied != Tidied::No {
            let discarded = DirectoriesDiscarded { stage: index, tidied: stage.tidied, runs: Vec::new() };
            made.tell(made.at_ms, Event::DirectoriesDiscarded(Box::new(discarded)));
        }
        true
    }
}

/// The events made so far.
struct Made {
    records: Vec<Record>,
    /// Of the last one.
    at_ms: i64,
    /// Stages that had closed and were opened again, with what becomes of those after them.
    reopened: Vec<(StageIndex, LaterStages)>,
    /// What came of their trials since.
    after: Vec<Record>,
    /// Whether directories of the stage at hand are discarded.
    discards: bool,
}

impl Made {
    fn tell(&mut self, at_ms: i64, event: Event) {
        self.at_ms = at_ms;
        self.records.push(Record { at_ms, run_ms: 0, event });
    }

    /// Puts off what became of a trial since it was made pending again, among the events from one on; whether it was.
    fn put_off(&mut self, from: usize) -> bool {
        let told = self.records.get(from..).unwrap_or_default();
        let reset = told.iter().rposition(|record| matches!(record.event, Event::TrialReset { .. }));
        if let Some(reset) = reset {
            self.after.extend(self.records.drain(from + reset..));
        }
        reset.is_some()
    }

    /// Tells what was put off.
    fn reopen(&mut self) {
        for (stage, later) in std::mem::take(&mut self.reopened) {
            self.tell(self.at_ms, Event::StageReopened { stage, later });
        }
        let after = std::mem::take(&mut self.after);
        self.at_ms = after.last().map_or(self.at_ms, |last| last.at_ms);
        self.records.extend(after);
    }

    fn end(&mut self, trial: TrialId, attempt: &AttemptRow, verdict: Verdict, next: Next) {
        let ended_ms = attempt.ended_ms.unwrap_or(attempt.started_ms);
        let (exit, usage) = (attempt.exit, attempt.usage);
        let end = Box::new(AttemptEnd { trial, attempt: attempt.n, ended_ms, exit, usage, verdict, next });
        let event = if trial == TrialId::BASE { Event::BaseEnded(end) } else { Event::AttemptEnded(end) };
        self.tell(ended_ms, event);
    }

    /// What was discarded of a trial whose attempts are told up to this one, and that is finished so far.
    fn discarded(&mut self, row: &TrialRow, stage: StageIndex, up_to: u32) {
        let told = row.discarded.iter().filter(|discarded| discarded.up_to == up_to);
        for Discarded { keeps, .. } in told {
            let runs = vec![DiscardRun { first: row.trial, count: 1, keeps: *keeps }];
            let discarded = DirectoriesDiscarded { stage, tidied: Tidied::No, runs };
            self.tell(self.at_ms, Event::DirectoriesDiscarded(Box::new(discarded)));
            self.discards = true;
        }
    }

    /// A trial's attempts; whether it is finished.
    fn trial(&mut self, row: &TrialRow, stage: StageIndex) -> bool {
        let trial = row.trial;
        let failed = row.attempts.iter().filter(|attempt| attempt.outcome == Some(AttemptOutcome::Failed)).count();
        // Those before the last `piton retry` are not counted in the row.
        let mut forgiven = failed.saturating_sub(usize::try_from(row.failures).unwrap_or(usize::MAX));
        for (attempt, number) in row.attempts.iter().zip(1..) {
            self.tell(
                attempt.started_ms,
                Event::AttemptStarted {
                    trial,
                    attempt: number,
                    slot: attempt.slot,
                    process: None,
                    executor: executor_of(attempt),
                },
            );
            let given = row.given(attempt.n).to_vec();
            if !given.is_empty() {
                self.tell(attempt.started_ms, Event::ResourcesGiven { trial, attempt: number, given });
            }
            if let Some(job) = &attempt.remote {
                self.tell(attempt.started_ms, Event::AttemptPlaced { trial, attempt: number, job: job.clone() });
            }
            let is_last = number as usize == row.attempts.len();
            if is_last {
                self.watched(row, number);
            }
            let Some(outcome) = attempt.outcome else { continue };
            let due_ms = if is_last { row.due_ms } else { 0 };
            let attempt = AttemptRow { n: number, ..attempt.clone() };
            // It was pruned while it waited to run again, or cut off when it was.
            let outcome = match outcome {
                AttemptOutcome::Interrupted if is_last && row.is_sealed() => AttemptOutcome::Cancelled,
                other => other,
            };
            match outcome {
                AttemptOutcome::Succeeded => {
                    let (metrics, outputs) = (row.metrics.clone(), row.outputs.clone());
                    self.end(trial, &attempt, Verdict::Succeeded { metrics, outputs }, Next::Final);
                    if let Some(identity) = row.identity {
                        self.tell(self.at_ms, Event::ResultIdentified { trial, attempt: number, identity });
                    }
                    if row.state.is_final() {
                        self.discarded(row, stage, number);
                    }
                }
                AttemptOutcome::Failed => {
                    let of_row = row.failure.clone().filter(|_| is_last);
                    let verdict = Verdict::Failed(of_row.unwrap_or_else(lost_failure));
                    let is_reset = forgiven == 1;
                    forgiven = forgiven.saturating_sub(1);
                    let ended = row.state == TrialState::Failed || row.is_sealed() || row.awaits_decision();
                    let is_final = is_last && ended && row.state != TrialState::Pending;
                    let next = if is_final || is_reset { Next::Final } else { Next::Again { due_ms } };
                    self.end(trial, &attempt, verdict, next);
                    if is_reset || (is_final && !row.awaits_decision()) {
                        self.discarded(row, stage, number);
                    }
                    if is_reset {
                        self.tell(self.at_ms, Event::TrialReset { trial });
                    }
                }
                AttemptOutcome::Interrupted => {
                    let verdict = Verdict::Interrupted { reason: LOST.into() };
                    self.end(trial, &attempt, verdict, Next::Again { due_ms });
                }
                AttemptOutcome::Cancelled => {
                    self.end(trial, &attempt, Verdict::Cancelled, Next::Final);
                    if is_last && row.state.is_final() {
                        self.discarded(row, stage, number);
                    }
                }
            }
        }
        if let (Some(origin), Some(identity)) = (&row.reused_from, row.identity) {
            let (metrics, outputs) = (row.metrics.clone(), row.outputs.clone());
            let reused = Reused { trial, identity, origin: origin.clone(), metrics, outputs };
            self.tell(self.at_ms, Event::TrialReused(Box::new(reused)));
        }
        if let Some(Imported { source, at_ms }) = row.imported.clone() {
            let (metrics, outputs) = (row.metrics.clone(), row.outputs.clone());
            self.tell(at_ms, Event::TrialImported(Box::new(TrialImport { trial, source, metrics, outputs })));
        }
        if row.attempts.is_empty() && row.state.is_final() {
            self.discarded(row, stage, 0);
        }
        row.state.is_final()
    }

    /// What it has shown, and what was decided by it, all at its last attempt: of which one it was is not stored.
    fn watched(&mut self, row: &TrialRow, attempt: u32) {
        let (trial, Some(watched)) = (row.trial, &row.watched) else { return };
        let ended = watched.rungs.iter().position(|rung| rung.verdict.is_some_and(|verdict| !verdict.keep));
        for (RungRow { at, step, value, judged, .. }, rung) in watched.rungs.iter().zip(0..) {
            let (at, step, value, judged) = (*at, *step, *value, *judged);
            self.tell(self.at_ms, Event::RungReached { trial, attempt, rung, at, step, value, judged });
        }
        if let Some(met) = watched.stop_if.clone() {
            self.tell(self.at_ms, Event::StopIfMet { trial, attempt, met });
        }
        for (row, rung) in watched.rungs.iter().zip(0..).take(ended.map_or(usize::MAX, |ended| ended + 1)) {
            if let Some(verdict) = row.verdict {
                self.tell(self.at_ms, Event::RungDecided { trial, rung, verdict });
            }
        }
    }
}

/// Who had left a race when this round of it was planned, and had not before the one before.
fn left_before(stage: &StageRow, round: u32) -> Vec<LeftCase> {
    let before = round.checked_sub(1);
    stage.replicas.left.iter().filter(|left| Some(left.round) == before).copied().collect()
}

fn created_of(study: &StudyRow, first: Option<Record>) -> StudyCreated {
    let piton_version = match first.map(|first| first.event) {
        Some(Event::StudyCreated(created)) => created.piton_version,
        _ => String::new(),
    };
    StudyCreated {
        study_id: study.study_id,
        piton_version,
        name: study.name.clone(),
        base_case: study.base_case.clone(),
        seed: study.seed,
        spec: study.spec.clone(),
        spec_hash: study.spec_hash.clone(),
        inputs: study.inputs.clone(),
        versions: study.versions.clone(),
        study_dir: study.study_dir.clone(),
        artifacts_dir: study.artifacts_dir.clone(),
        study_file: study.study_file.clone(),
        plan_version: study.plan_version,
        stages: Vec::new(),
    }
}

fn executor_of(attempt: &AttemptRow) -> crate::model::ExecutorKind {
    attempt.remote.as_ref().map(|job| job.executor).unwrap_or_default()
}

fn lost_failure() -> Failure {
    Failure::new(FailureKind::Unknown, LOST)
}

/// Most attempts of a trial whose events are lost that are stood in for: beyond it, the trial runs again.
const FILLED_MAX: u32 = 10_000;

/// Attempts up to `count`, ended; those whose events are lost count as interrupted.
fn fill_up(row: &mut TrialRow, count: u32, at_ms: i64) {
    row.attempts.truncate(usize::try_from(count).unwrap_or(usize::MAX));
    while (row.attempts.len() as u64) < u64::from(count.min(FILLED_MAX)) {
        let n = u32::try_from(row.attempts.len()).unwrap_or(u32::MAX - 1) + 1;
        row.attempts.push(AttemptRow::begun(n, 0, at_ms));
    }
    for attempt in row.attempts.iter_mut().filter(|attempt| attempt.outcome.is_none()) {
        (attempt.outcome, attempt.ended_ms) = (Some(AttemptOutcome::Interrupted), Some(attempt.started_ms));
    }
}

fn ended(row: &mut TrialRow, end: &AttemptEnd, is_last_word: bool) {
    let is_running = |last: &AttemptRow| last.n == end.attempt && last.outcome.is_none();
    if !row.attempts.last().is_some_and(is_running) {
        let started_ms = end.ended_ms.saturating_sub(i64::try_from(end.usage.wall_us / 1_000).unwrap_or(0));
        fill_up(row, end.attempt.saturating_sub(1), started_ms);
        row.attempts.push(AttemptRow::begun(end.attempt, 0, started_ms));
    }
    let Some(last) = row.attempts.last_mut() else { return };
    (last.ended_ms, last.exit, last.usage) = (Some(end.ended_ms), end.exit, end.usage);
    row.due_ms = match end.next {
        Next::Final => 0,
        Next::Again { due_ms } => due_ms,
    };
    row.state = TrialState::Pending;
    match &end.verdict {
        Verdict::Succeeded { metrics, outputs } => {
            last.outcome = Some(AttemptOutcome::Succeeded);
            row.state = TrialState::Succeeded;
            (row.metrics, row.outputs, row.failure) = (metrics.clone(), outputs.clone(), None);
        }
        Verdict::Failed(failure) => {
            last.outcome = Some(AttemptOutcome::Failed);
            row.failures += 1;
            row.failure = Some(failure.clone());
            // It may have been made to run again since, by an event that is lost.
            if end.next == Next::Final && is_last_word {
                row.state = TrialState::Failed;
            }
        }
        Verdict::Interrupted { .. } => last.outcome = Some(AttemptOutcome::Interrupted),
        Verdict::Cancelled if is_last_word => {
            last.outcome = Some(AttemptOutcome::Cancelled);
            row.state = TrialState::Cancelled;
        }
        Verdict::Cancelled => last.outcome = Some(AttemptOutcome::Interrupted),
    }
}
