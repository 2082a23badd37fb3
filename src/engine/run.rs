//! The loop: the one thread that decides, and the only one that writes the store.
//!
//! It gathers what waits, lets [`State`] decide, commits everything in one transaction, and only then acts. An action
//! before its commit, or a second place that commits, would be the end of crash safety. The order of those steps is a value,
//! [`Order`], so that the simulation can show what another one costs.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;

use super::draft::Draft;
use super::inputs::Looker;
use super::library::Library;
use super::proposer::Proposers;
use super::room::Room;
use super::shutdown::{Control, ShutdownHandle};
use super::step::{Action, Hit, Input, State, refilled};
use super::timing::Timing;
use super::{CommitError, EngineError, Observer, RunReport, discard, halving, jobs::JobMaker, rails, survivors};
use crate::executor::{AttemptReport, Differs, Executor, ExecutorEvent, Job, ParentDiffers, Takes};
use crate::journal::{Journal, JournalError, OpenError, Reader, Snapshot, WriteSet};
use crate::model::{AttemptNo, EngineId, Event, IdentityHash, REUSED, Record, RunEnd, TrialId, Usage, Verdict};
use crate::plan::{self, KnownBy};
use crate::sys::removal::Removing;
use crate::sys::reserve::Reserve;
use crate::sys::signals::{SignalEvent, SignalWatch, exit_at_once, stop_self};

/// Most inputs decided on before a commit.
const BATCH: usize = 5_000;

/// Most jobs made before they are handed to the executor: handed out one by one, each would wake a worker that has just fallen
/// asleep for want of it.
const JOBS_AT_ONCE: usize = 64;

/// While the workers have trials to go on with, a commit waits so long for more to happen, milliseconds: trials that end
/// together share one, and commits of very short trials cost less than these. Nothing is acknowledged before it is on disk.
const LINGER: Duration = Duration::from_millis(5);

/// How soon, and how often at most, it is looked whether the workers have run out of trials meanwhile: closures may need less
/// than a microsecond each.
const LINGER_LOOK: Duration = Duration::from_micros(300);

/// Everything one run needs.
pub(super) struct Loop<'a> {
    pub(super) journal: Journal,
    pub(super) executor: Box<dyn Executor>,
    pub(super) events: Receiver<ExecutorEvent>,
    pub(super) shutdown: &'a ShutdownHandle,
    pub(super) signals: Option<&'a SignalWatch>,
    pub(super) drain_limit: Option<Duration>,
    pub(super) jobs: JobMaker,
    pub(super) library: Library,
    pub(super) looker: Looker,
    pub(super) proposers: Proposers,
    pub(super) timing: Box<dyn Timing>,
    pub(super) order: Order,
    pub(super) observer: &'a mut dyn Observer,
    pub(super) state: State,
    /// Whether a signal asked to stop already: the next one forces.
    pub(super) signalled: bool,
    /// News for the observer, for when it is known what runs.
    pub(super) to_announce: Option<Announcement>,
    /// The signal that forced the end, if one did.
    pub(super) forced_by: Option<SignalEvent>,
    /// What a full disk needs, and did.
    pub(super) outage: Outage,
    /// What the study's directory takes, where that has a limit.
    pub(super) room: Option<Room>,
}

/// In which order the loop does what must be done in one order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    /// One turn of the loop, once all is decided.
    pub(crate) turn: [Step; 2],
    pub(crate) commit: [CommitStep; 2],
}

/// A step of a turn.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    Commit,
    Act,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum CommitStep {
    Write,
    Tell,
}

impl Order {
    /// The one that is safe: what is on disk may be told and acted on.
    pub(crate) const SAFE: Self =
        Self { turn: [Step::Commit, Step::Act], commit: [CommitStep::Write, CommitStep::Tell] };
}

/// Whether nothing but a commit follows from an event: a start, or a success. A failure may abort the study.
fn can_wait(event: &ExecutorEvent) -> bool {
    match event {
        ExecutorEvent::Started { .. } | ExecutorEvent::Placed { .. } | ExecutorEvent::Cluster { .. } => true,
        ExecutorEvent::Ended(report) | ExecutorEvent::Looked(report) => {
            matches!(report.verdict, Verdict::Succeeded { .. })
        }
        ExecutorEvent::Returned { .. }
        | ExecutorEvent::Shown { .. }
        | ExecutorEvent::Proposed(_)
        | ExecutorEvent::Differs(_)
        | ExecutorEvent::Broken(_) => false,
    }
}

/// A disk that is full: the reserve for it, and what came of it.
#[derive(Debug, Default)]
pub(super) struct Outage {
    reserve: Option<Reserve>,
    /// The state does not know it yet.
    untold: bool,
    /// The error of the commit that found it full.
    cause: Option<JournalError>,
}

/// Why a store is not where it was: it was removed, or something else lies there now, which may be no store at all.
fn displaced(store: &Path) -> EngineError {
    match Reader::open(store) {
        Err(OpenError::Damaged { cause, .. }) => {
            EngineError::Commit(Box::new(CommitError { cause, store: store.into(), safe: None }))
        }
        _ => EngineError::StoreGone { store: store.into() },
    }
}

/// The parent of a job, if what was discarded of it is not there.
fn discarded_parent(job: &Job) -> Option<Box<ParentDiffers>> {
    let (dir, inherited) = (job.parent_dir.as_ref()?, job.inherited.as_ref()?);
    inherited.is_discarded(dir).then(|| {
        Box::new(ParentDiffers {
            case: job.parent_case.clone(),
            stage: inherited.stage.clone(),
            dir: dir.clone(),
            outputs: Vec::new(),
            discarded: inherited.discarded,
        })
    })
}

/// An end that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Announcement {
    /// Running trials may finish.
    Draining,
    /// They are being terminated.
    Forcing,
}

impl Loop<'_> {
    /// Runs to the end of the run.
    pub(super) fn run(mut self, engine: EngineId, workers: u32) -> Result<RunReport, EngineError> {
        self.outage.reserve = Reserve::beside(self.journal.path());
        let how = match self.drive(engine, workers) {
            Ok(how) => how,
            Err(error) => return Err(self.fail(error)),
        };
        self.proposers.end(matches!(how, RunEnd::Forced | RunEnd::Failed));
        // Everything has ended, but for closures that did not listen: those are not waited for.
        self.executor.kill();
        self.executor.shutdown();
        let snapshot = self.journal.snapshot()?;
        self.observer.ended(&snapshot);
        drop(snapshot);
        let status = self.state.draft().study_row().status;
        let (store, safe) = (self.journal.path().to_owned(), self.state.draft().progress_row().accounting);
        if !self.journal.is_in_place() {
            return Err(displaced(&store));
        }
        if let Err(cause) = self.journal.close() {
            return Err(EngineError::Commit(Box::new(CommitError { cause, store, safe: None })));
        }
        if let Some(cause) = self.outage.cause.filter(|_| how == RunEnd::Failed) {
            return Err(EngineError::Commit(Box::new(CommitError { cause, store, safe: Some(safe) })));
        }
        match (self.state.differs(), self.state.broken()) {
            (Some(Differs::Inputs(changes)), _) if how == RunEnd::Failed => {
                Err(EngineError::InputsChanged(changes.clone()))
            }
            (Some(Differs::Parent(parent)), _) if how == RunEnd::Failed => {
                Err(EngineError::ParentChanged(parent.clone()))
            }
            (_, Some(why)) if how == RunEnd::Failed => Err(EngineError::Executor(why.to_owned())),
            _ => Ok(RunReport { how, status, forced_by: self.forced_by }),
        }
    }

    /// Ends a run that cannot go on: what runs is killed, since its result could not be recorded, and the store is
    /// opened anew to see what is safe. The handle that failed is not asked anything any more.
    fn fail(mut self, error: EngineError) -> EngineError {
        self.proposers.end(true);
        self.executor.kill();
        self.executor.shutdown();
        let path = self.journal.path().to_owned();
        self.journal.abandon();
        match error {
            // What a damaged store counts is no comfort.
            EngineError::Commit(failed) if failed.cause.is_damage() => EngineError::Commit(failed),
            EngineError::Commit(mut failed) => {
                let safe = Reader::open(&path).ok().and_then(|reader| reader.snapshot().ok()?.progress().ok());
                failed.safe = safe.map(|progress| progress.accounting);
                EngineError::Commit(failed)
            }
            other => other,
        }
    }

    fn drive(&mut self, engine: EngineId, workers: u32) -> Result<RunEnd, EngineError> {
        let left = self.state.draft_mut().hold_running(&self.journal.snapshot()?)?;
        let now = self.timing.now();
        let mut actions = self.state.begin(now, engine, workers, &left)?;
        // A request made before the run is the first thing it sees: nothing is handed out then.
        for input in self.controls() {
            actions.extend(self.state.step(now, input)?);
        }
        // What an engine that died left was measured already.
        self.state.know_room(self.room.as_ref());
        actions.extend(self.state.advance(now)?);
        loop {
            let mut inputs = Vec::new();
            let mut ended = None;
            if injected_fault!(PrunedBeforeCommit) {
                for action in actions.extract_if(.., |action| matches!(action, Action::Prune(_))) {
                    self.act(action, &mut inputs, &mut None)?;
                }
            }
            for step in self.order.turn {
                match step {
                    Step::Commit => self.commit()?,
                    Step::Act => ended = self.act_on(&mut actions, &mut inputs)?,
                }
            }
            if let Some(how) = ended {
                return Ok(how);
            }
            if inputs.is_empty() {
                self.announce();
                self.gather(&mut inputs);
            }
            let now = self.timing.now();
            for input in inputs {
                actions.extend(self.state.step(now, input)?);
            }
            self.look_for_room();
            actions.extend(self.state.advance(now)?);
        }
    }

    /// Takes what has ended since the last commit into the account of the disk, before anything more is handed out.
    fn look_for_room(&mut self) {
        let Some(room) = &mut self.room else { return };
        let draft = self.state.draft();
        for event in draft.untaken_events() {
            room.note(event, (self.jobs.spec(), self.jobs.paths(), draft.stages()));
        }
        self.state.know_room(self.room.as_ref());
    }

    /// Does all that was decided; how the run ended, if it did.
    fn act_on(
        &mut self,
        actions: &mut Vec<Action>,
        inputs: &mut Vec<Input>,
    ) -> Result<Option<RunEnd>, EngineError> {
        if std::mem::take(&mut self.outage.untold) {
            inputs.push(Input::Executor(ExecutorEvent::Broken("the disk is full".into())));
        }
        // All that is looked up now is looked up in one state: nothing is committed meanwhile.
        let mut seen = None;
        let mut jobs = Vec::new();
        for action in actions.drain(..) {
            match action {
                Action::Submit { trial, attempt, slot } => {
                    let given = self.state.given(trial).to_vec();
                    let job = Job { slot, given, ..self.job(trial, attempt)? };
                    match discarded_parent(&job) {
                        Some(parent) => {
                            inputs.push(Input::Executor(self.given_back(&job)));
                            inputs.push(Input::Executor(ExecutorEvent::Differs(Differs::Parent(parent))));
                        }
                        None => jobs.push(job),
                    }
                    if jobs.len() < JOBS_AT_ONCE {
                        continue;
                    }
                }
                Action::Finish(how) => return Ok(Some(how)),
                _ => {}
            }
            // Whatever else is to be done comes after what was handed out before it.
            self.submit(&mut jobs)?;
            self.act(action, inputs, &mut seen)?;
        }
        self.submit(&mut jobs)?;
        Ok(None)
    }

    fn submit(&mut self, jobs: &mut Vec<Job>) -> Result<(), EngineError> {
        for job in jobs.drain(..) {
            self.executor.submit(job).map_err(|error| EngineError::Executor(error.to_string()))?;
        }
        Ok(())
    }

    /// Writes what was decided, and tells of it; when it returns, it is on disk.
    fn commit(&mut self) -> Result<(), EngineError> {
        let set: WriteSet = self.state.draft_mut().take();
        if set.is_empty() {
            return Ok(());
        }
        for step in self.order.commit {
            match step {
                CommitStep::Write => self.write(&set)?,
                CommitStep::Tell => self.tell(&set),
            }
        }
        Ok(())
    }

    fn write(&mut self, set: &WriteSet) -> Result<(), EngineError> {
        if let Err(cause) =
            self.journal.commit(set).or_else(|cause| self.make_room(cause, |journal| journal.commit_anew(set)))
        {
            let store = self.journal.path().into();
            return Err(EngineError::Commit(Box::new(CommitError { cause, store, safe: None })));
        }
        if !self.journal.is_in_place() {
            return Err(displaced(self.journal.path()));
        }
        self.state.draft_mut().forget_final(set);
        self.library.look_anew();
        self.forget(set);
        Ok(())
    }

    /// The executor may drop what reported an attempt's end once that end is on disk.
    fn forget(&mut self, set: &WriteSet) {
        for (_, record) in &set.events {
            if let Event::AttemptEnded(end) | Event::BaseEnded(end) = &record.event {
                self.executor.forget(end.trial, end.attempt);
            }
        }
    }

    fn tell(&mut self, set: &WriteSet) {
        for (seq, record) in &set.events {
            self.observer.committed(*seq, record, self.state.draft());
        }
    }

    /// A commit failed. If the disk is full and there is a reserve, it is given up and the same is committed by a new
    /// handle; then the run ends in good order. Otherwise the error stands.
    fn make_room(
        &mut self,
        cause: JournalError,
        commit_anew: impl FnOnce(&mut Journal) -> Result<(), JournalError>,
    ) -> Result<(), JournalError> {
        let Some(reserve) = self.outage.reserve.take_if(|_| cause.is_full_disk()) else { return Err(cause) };
        reserve.release();
        match commit_anew(&mut self.journal) {
            Ok(()) => {
                self.outage.untold = true;
                self.outage.cause = Some(cause);
                Ok(())
            }
            Err(error) => {
                log::warn!("the reserve did not help: {error}");
                Err(cause)
            }
        }
    }

    fn job(&mut self, trial: TrialId, attempt: AttemptNo) -> Result<Job, EngineError> {
        let journal = &self.journal;
        self.jobs.heir(self.state.draft(), || journal.snapshot(), (trial, attempt))
    }

    fn identity(&mut self, trial: TrialId) -> Result<Option<IdentityHash>, EngineError> {
        Ok(self.known_by(trial)?.first().map(|own| own.identity))
    }

    /// What a trial's own result is known by, then those that it may take besides.
    fn known_by(&mut self, trial: TrialId) -> Result<Vec<KnownBy>, EngineError> {
        let journal = &self.journal;
        self.jobs.known_by(self.state.draft(), || journal.snapshot(), trial)
    }

    /// Asks what is known of a trial's like, in what was `seen` of the store if that was looked at before.
    fn look_up(
        &mut self,
        trial: TrialId,
        seen: &mut Option<Snapshot>,
    ) -> Result<(Option<IdentityHash>, Vec<Hit>), EngineError> {
        let known_by = self.known_by(trial)?;
        let hits = match self.jobs.stage_of(self.state.draft(), trial) {
            Some(stage) if !known_by.is_empty() => {
                let seen = match seen {
                    Some(seen) => seen,
                    None => seen.insert(self.journal.snapshot()?),
                };
                self.library.find(seen, &known_by, stage)?
            }
            _ => Vec::new(),
        };
        Ok((known_by.first().map(|own| own.identity), hits))
    }

    /// Has the outputs copied that a trial is to take. The job is one that nothing runs.
    fn take(&mut self, trial: TrialId) -> Result<(), EngineError> {
        let Some(hit) = self.state.hit(trial) else { return Ok(()) };
        let takes = Some(Arc::new(Takes { from: hit.from.clone(), outputs: hit.outputs.clone() }));
        let job = Job { takes, ..self.jobs.job(self.state.draft(), trial, REUSED)? };
        self.executor.submit(job).map_err(|error| EngineError::Executor(error.to_string()))
    }

    /// Does what a committed decision calls for; some actions answer with inputs at once.
    fn act(
        &mut self,
        action: Action,
        inputs: &mut Vec<Input>,
        seen: &mut Option<Snapshot>,
    ) -> Result<(), EngineError> {
        match action {
            Action::Adopt { trial, attempt, slot } => {
                let given = self.state.given(trial).to_vec();
                let job = Job { slot, given, ..self.job(trial, attempt)? };
                self.executor.adopt(job).map_err(|error| EngineError::Executor(error.to_string()))?;
            }
            Action::LookUp(trial) => {
                let (identity, hits) = self.look_up(trial, seen)?;
                inputs.push(Input::LookedUp { trial, identity, hits });
            }
            Action::Identify(trial) => {
                let (identity, hits) = match self.jobs.spec().run.reuse_check > 0.0 {
                    true => self.look_up(trial, seen)?,
                    false => (self.identity(trial)?, Vec::new()),
                };
                inputs.push(Input::Identified { trial, identity, hits });
            }
            Action::Take(trial) => self.take(trial)?,
            Action::Drain => {
                self.executor.drain();
                // What had not started is back now: from here on it is known how many still run.
                inputs.extend(self.take_events(usize::MAX).into_iter().map(Input::Executor));
            }
            Action::Terminate => {
                self.looker.hurry();
                self.executor.terminate();
            }
            Action::Prune(trial) => self.executor.prune(trial),
            Action::Withdraw(from) => {
                self.executor.withdraw(from);
                inputs.extend(self.take_events(usize::MAX).into_iter().map(Input::Executor));
            }
            Action::Select(stage) => {
                let snapshot = self.journal.snapshot()?;
                let comes = survivors::comes_to(&snapshot, self.jobs.spec(), stage)?;
                inputs.push(Input::Selected { stage, comes });
            }
            Action::Refill => {
                let (submitted, startable) = (self.state.in_hand_count(), self.state.startable());
                inputs.push(refilled(&self.journal.snapshot()?, submitted, startable)?);
            }
            Action::Settle => inputs.push(self.settle()?),
            Action::Discard => inputs.push(self.discard()?),
            Action::Judge(stage) => {
                let ruled = rails::ruled(&self.journal.snapshot()?, self.jobs.spec(), stage)?;
                inputs.push(Input::Judged { stage, ruled });
            }
            Action::Ask { stage, index } => {
                let asked = self.proposers.ask(stage, index, self.journal.snapshot()?);
                asked.map_err(|why| EngineError::Executor(format!("no proposer can be asked: {why}")))?;
            }
            Action::Export(stage) => {
                self.proposers.close(stage, self.journal.snapshot()?);
                self.observer.stage_closed(stage, self.journal.snapshot()?);
            }
            // [`Loop::act_on`] does these.
            Action::Submit { .. } | Action::Finish(_) => {}
        }
        Ok(())
    }

    /// That a job was not handed out after all. On a cluster its start is recorded by now.
    fn given_back(&self, job: &Job) -> ExecutorEvent {
        let (trial, attempt) = (job.key.trial, job.key.attempt);
        match self.jobs.spec().run.executor.kind().is_remote() {
            false => ExecutorEvent::Returned { trial },
            true => ExecutorEvent::Ended(Box::new(AttemptReport {
                trial,
                attempt,
                ended_ms: self.timing.now().at_ms,
                exit: None,
                usage: Usage::default(),
                verdict: Verdict::Interrupted { reason: "the directory of its parent was discarded".to_owned() },
                shown: Default::default(),
            })),
        }
    }

    /// Has the stages after one that has closed again planned anew where they are to be, in one transaction of its own: that
    /// the stage has closed, and with which survivors, is on disk by now.
    fn settle(&mut self) -> Result<Input, EngineError> {
        let snapshot = self.journal.snapshot()?;
        let stages = snapshot.stages()?;
        let settling = plan::mend::settling(self.jobs.spec(), &stages);
        drop(snapshot);
        // Before the commit: once more after a crash does no harm, and nothing that goes is needed.
        if !injected_fault!(SettledScratchKept) {
            self.jobs.clear_scratch(&settling, &stages)?;
        }
        self.recorded(settling, injected_fault!(SettledInPart))?;
        self.reloaded()
    }

    /// Records events that concern trials which are not in memory, in one transaction of their own, and tells of them; `apart` in one each.
    fn recorded(&mut self, events: Vec<Event>, apart: bool) -> Result<(), EngineError> {
        let now = self.timing.now();
        let record = |event| Record { at_ms: now.at_ms, run_ms: now.run_ms, event };
        let records: Vec<Record> = events.into_iter().map(record).collect();
        if records.is_empty() {
            return Ok(());
        }
        let first = self.journal.last_seq() + 1;
        let appended = match apart {
            true => records.iter().try_for_each(|record| self.journal.append(std::slice::from_ref(record))),
            false => self.journal.append(&records),
        };
        let appended = appended.or_else(|cause| self.make_room(cause, |journal| journal.append_anew(&records)));
        appended.map_err(|cause| {
            let store = self.journal.path().into();
            EngineError::Commit(Box::new(CommitError { cause, store, safe: None }))
        })?;
        if !self.journal.is_in_place() {
            return Err(displaced(self.journal.path()));
        }
        self.jobs.forget_parents();
        self.library.look_anew();
        let draft = Draft::load(&self.journal.snapshot()?)?;
        for (seq, record) in (first..).zip(&records) {
            if let Some(room) = &mut self.room {
                room.note(&record.event, (self.jobs.spec(), self.jobs.paths(), draft.stages()));
            }
            self.observer.committed(seq, record, &draft);
        }
        Ok(())
    }

    /// The rows as the store has them.
    fn reloaded(&mut self) -> Result<Input, EngineError> {
        let snapshot = self.journal.snapshot()?;
        let draft = Draft::load(&snapshot)?;
        let judge = rails::known(&snapshot, self.jobs.spec(), &draft)?;
        let rungs = halving::known(&snapshot, self.jobs.spec(), &draft)?;
        Ok(Input::Settled(Box::new((draft, judge, rungs))))
    }

    /// Discards what the study's `keep` does not keep of stages that have closed. It is recorded first; what is not removed when a request
    /// to stop comes is removed at the next start.
    fn discard(&mut self) -> Result<Input, EngineError> {
        let snapshot = self.journal.snapshot()?;
        let stages = snapshot.stages()?;
        let events = discard::due(&snapshot, self.jobs.spec(), &stages)?;
        let shutdown = self.shutdown;
        let stop = || !shutdown.receiver().is_empty();
        if injected_fault!(UnlinkedBeforeRecorded) {
            let ground = discard::Ground { spec: self.jobs.spec(), paths: self.jobs.paths(), stages: &stages };
            for event in &events {
                let rows = discard::named_by(&snapshot, event)?.into_iter().map(Ok);
                let stage = stages
                    .iter()
                    .find(|stage| matches!(event, Event::DirectoriesDiscarded(of) if of.stage == stage.index));
                if let Some(stage) = stage {
                    discard::remove(ground, stage, rows, Removing::Really, &stop)?;
                }
            }
        }
        drop(snapshot);
        let of = discard::stages_of(&events);
        self.recorded(events, false)?;
        let snapshot = self.journal.snapshot()?;
        let stages = snapshot.stages()?;
        let ground = discard::Ground { spec: self.jobs.spec(), paths: self.jobs.paths(), stages: &stages };
        let finished = discard::carry_out(&snapshot, ground, &of, &stop)?;
        drop(snapshot);
        self.recorded(finished, false)?;
        self.reloaded()
    }

    /// Tells the observer of an end that was asked for, once what runs is known.
    fn announce(&mut self) {
        let under_way = self.state.submitted_count() + self.state.running_count();
        match self.to_announce.take() {
            Some(Announcement::Draining) => self.observer.draining(under_way),
            Some(Announcement::Forcing) => self.observer.forcing(under_way),
            None => {}
        }
    }

    /// Waits for something to happen, or for the next thing due, and takes all that waits.
    fn gather(&mut self, inputs: &mut Vec<Input>) {
        let limit = self.state.wake_in_ms(self.timing.now()).map(Duration::from_millis);
        let mut events = Vec::new();
        let mut controls = self.listen(limit, &mut events);
        let interval_ms = self.jobs.spec().run.sync_interval_ms;
        if interval_ms > 0 && controls.is_empty() {
            controls = self.wait_for_more(interval_ms, &mut events);
        }
        inputs.extend(events.into_iter().map(Input::Executor));
        inputs.extend(controls);
        if inputs.is_empty() {
            inputs.push(Input::Tick);
        }
    }

    /// Waits for something to happen, `limit` at most, and takes the events that wait; what the requests mean.
    fn listen(&mut self, limit: Option<Duration>, events: &mut Vec<ExecutorEvent>) -> Vec<Input> {
        self.timing.wait(&self.events, self.shutdown.receiver(), limit);
        let mut controls = self.controls();
        if controls.is_empty() {
            self.linger();
            controls = self.controls();
        }
        let more = self.take_events(BATCH.saturating_sub(events.len()));
        events.extend(more);
        controls
    }

    /// The events that wait, so many at most. An end counts only once the inputs have been looked at after it.
    fn take_events(&mut self, most: usize) -> Vec<ExecutorEvent> {
        let waiting: Vec<ExecutorEvent> = self.events.try_iter().take(most).collect();
        let mut ready = Vec::with_capacity(waiting.len());
        for event in waiting {
            match event {
                event @ (ExecutorEvent::Ended(_) | ExecutorEvent::Shown { looked: false, .. }) => {
                    ready.extend(self.looker.look_after(event));
                }
                other => ready.push(other),
            }
        }
        ready
    }

    /// Lets more events gather if the workers have enough to go on with. A request ends it.
    fn linger(&mut self) {
        let (submitted, mut events) = (self.state.submitted_count(), self.events.len());
        // Each start leaves an event, so as many events as trials were waiting may mean that none waits any more.
        if events == 0 || events >= submitted {
            return;
        }
        // Once there are as many as starts and ends of all, nothing can come any more.
        let all = submitted.saturating_mul(2);
        let (mut left, mut pause) = (LINGER, LINGER_LOOK);
        while !left.is_zero() && events < all && self.shutdown.receiver().is_empty() {
            self.timing.linger(self.shutdown.receiver(), pause);
            left = left.saturating_sub(pause);
            let now = self.events.len();
            // At the rate of the last pause; who gathers slowly is not looked at again.
            let times = all.saturating_sub(now).checked_div(now.saturating_sub(events));
            let more = times.and_then(|times| pause.checked_mul(u32::try_from(times).ok()?));
            pause = more.map_or(left, |more| more.max(LINGER_LOOK).min(left));
            events = now;
        }
    }

    /// Lets events gather for the sync interval, as long as no worker could run out of trials and nothing came that
    /// should be decided on at once. What gathers is in no way acknowledged: after a crash it runs again.
    fn wait_for_more(&mut self, interval_ms: u64, events: &mut Vec<ExecutorEvent>) -> Vec<Input> {
        let until_ms = self.timing.now().run_ms.saturating_add(interval_ms);
        loop {
            let now = self.timing.now();
            let left_ms = until_ms.saturating_sub(now.run_ms);
            let left_ms = self.state.wake_in_ms(now).map_or(left_ms, |due_ms| left_ms.min(due_ms));
            let started = events.iter().filter(|event| matches!(event, ExecutorEvent::Started { .. })).count();
            let starving = started >= self.state.submitted_count();
            if left_ms == 0 || starving || events.len() >= BATCH || !events.iter().all(can_wait) {
                return Vec::new();
            }
            let controls = self.listen(Some(Duration::from_millis(left_ms)), events);
            if !controls.is_empty() {
                return controls;
            }
        }
    }

    /// What the waiting requests mean, in order.
    fn controls(&mut self) -> Vec<Input> {
        let waiting: Vec<Control> = self.shutdown.receiver().try_iter().collect();
        waiting.into_iter().filter_map(|control| self.control(control)).collect()
    }

    /// What a request means now. The signal table of `docs/commands.md` is this function.
    fn control(&mut self, control: Control) -> Option<Input> {
        let limit_ms =
            |limit: Option<Duration>| limit.map(|limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
        match control {
            Control::Drain { by, limit } => Some(Input::Drain { by, limit_ms: limit_ms(limit) }),
            Control::Terminate { by } => Some(Input::Force { by }),
            Control::Signal(SignalEvent::Tstp) => {
                self.pause();
                None
            }
            Control::Signal(SignalEvent::Cont) => None,
            Control::Signal(SignalEvent::Usr1) => {
                self.to_announce = Some(Announcement::Draining);
                Some(Input::Drain { by: "stop".into(), limit_ms: limit_ms(self.drain_limit) })
            }
            Control::Signal(SignalEvent::Usr2) => Some(Input::Force { by: "stop --now".into() }),
            Control::Signal(signal) if !self.signalled => {
                self.signalled = true;
                self.to_announce = Some(Announcement::Draining);
                Some(Input::Drain { by: signal.name().into(), limit_ms: limit_ms(self.drain_limit) })
            }
            // The handler does this by itself once it is armed; this one came before that.
            Control::Signal(signal) if self.forced_by.is_some() => exit_at_once(signal),
            Control::Signal(signal) => {
                self.forced_by = Some(signal);
                if let Some(signals) = self.signals {
                    signals.arm_immediate_exit();
                }
                self.to_announce = Some(Announcement::Forcing);
                Some(Input::Force { by: signal.name().into() })
            }
        }
    }

    /// Stops the trials and their clocks, then this process; returns when it is continued.
    fn pause(&mut self) {
        self.executor.pause();
        self.timing.pause();
        if let Err(error) = stop_self() {
            log::warn!("cannot stop: {error}");
        }
        self.timing.resume();
        self.executor.resume();
    }
}
