//! Every decision of the engine, as a pure function: state and input give events (in the draft) and actions.
//!
//! No I/O, no clock, no randomness beyond the study's seed: time comes in with [`Now`], what the disk knows comes in
//! as an [`Input`]. The loop commits the draft first and acts second. This file must never learn to do either.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::draft::Draft;
use super::halving::Rungs;
use super::pools::Pools;
use super::ready::{Offered, ReadyWindow, WINDOW};
use super::room::{Room, RoomFor};
use super::survivors::Comes;
use crate::executor::{AttemptReport, Differs, ExecutorEvent};
use crate::journal::{JournalError, Snapshot};
use crate::model::halving::Ladder;
use crate::model::{
    Abort, AttemptEnd, AttemptNo, AttemptRow, EngineId, Event, ExecutorKind, FoldError, Given, IdentityHash, Next,
    REUSED, Rail, ReadyKey, RunEnd, RunningRow, StageIndex, StageRow, StageStatus, StudyStatus, TrialId, TrialRow,
    TrialState, UnixMs, Usage, Verdict,
};
use crate::plan::{self, Judge, Lineage, RoundOver, Ruled};
use crate::study_file::{Needs, Spec, StageSpec};
use rails::base_failed;
pub(crate) use reusing::Hit;
use reusing::Reusing;
use slots::Slots;
pub(crate) use watching::as_pruned;

/// When an input is handled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Now {
    /// Wall clock, Unix milliseconds.
    pub at_ms: UnixMs,
    /// Milliseconds this run has lasted, by a steady clock that stops with the engine.
    pub run_ms: u64,
}

/// What the loop passes to the state.
#[derive(Debug)]
pub(crate) enum Input {
    /// Something happened to an attempt.
    Executor(ExecutorEvent),
    /// Stop dequeuing, let running trials finish.
    Drain {
        by: String,
        /// Terminate them after this long, milliseconds.
        limit_ms: Option<u64>,
    },
    /// Terminate running trials now.
    Force { by: String },
    /// What the stage comes to that asked by [`Action::Select`]: another round of its race, or its survivors.
    Selected {
        /// Its stage's index, from 0.
        stage: StageIndex,
        comes: Comes,
    },
    /// What a stage's recorded results decide before all are there, asked for by [`Action::Judge`].
    Judged {
        /// Its stage's index, from 0.
        stage: StageIndex,
        /// The rail that they break, or that the stage ends; `None`: nothing.
        ruled: Option<Ruled>,
    },
    /// The head of the ready queue, asked for by [`Action::Refill`].
    Refilled {
        /// Entries in order, with their trial's row where it has one.
        entries: Vec<(ReadyKey, Option<TrialRow>)>,
        /// Whether others follow in the store.
        more: bool,
    },
    /// What is known of a trial that [`Action::LookUp`] asked about.
    LookedUp {
        trial: TrialId,
        /// What its result depends on; `None`: not all of that is recorded.
        identity: Option<IdentityHash>,
        /// Results of that identity, in the order in which they are to be tried.
        hits: Vec<Hit>,
    },
    /// What an attempt of an earlier run depends on, asked for by [`Action::Identify`].
    Identified {
        trial: TrialId,
        identity: Option<IdentityHash>,
        /// Results of that identity, where some are checked.
        hits: Vec<Hit>,
    },
    /// The rows and the rails as the store has them, asked for by [`Action::Settle`] and [`Action::Discard`].
    Settled(Box<(Draft, Judge, Rungs)>),
    /// Time passed.
    Tick,
}

/// What the loop does once the draft is committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Hand an attempt to the executor.
    Submit {
        /// The trial's number in the study, from 0.
        trial: TrialId,
        /// The attempt's number, from 1.
        attempt: AttemptNo,
        /// The slot it has, if that is recorded already: on a cluster, before it is submitted.
        slot: u32,
    },
    /// Have the executor take over an attempt of an earlier run, whatever became of it.
    Adopt {
        /// The trial's number in the study, from 0.
        trial: TrialId,
        /// The attempt's number, from 1.
        attempt: AttemptNo,
        slot: u32,
    },
    /// Look for a result that a trial may take, and answer with [`Input::LookedUp`].
    LookUp(TrialId),
    /// Say what a running trial depends on, and answer with [`Input::Identified`].
    Identify(TrialId),
    /// Have the executor copy the outputs of [`State::hit`]; it reports as if attempt [`REUSED`] had ended.
    Take(TrialId),
    /// Tell the executor to start no trial from this one on: they cannot matter any more.
    Withdraw(TrialId),
    /// Have the executor end a trial that is pruned.
    Prune(TrialId),
    /// Tell the executor to start nothing more.
    Drain,
    /// Tell it to terminate what runs (TERM, then KILL after the grace).
    Terminate,
    /// Say what a stage comes to whose trials have all ended, and answer with [`Input::Selected`].
    Select(StageIndex),
    /// Say which rail a stage's recorded results break and answer with [`Input::Judged`].
    Judge(StageIndex),
    /// Ask the proposer of a stage for a trial; it answers with [`ExecutorEvent::Proposed`].
    Ask {
        /// Its stage's index, from 0.
        stage: StageIndex,
        /// The trial's place in the stage: the next one.
        index: u64,
    },
    /// A stage that was opened again has closed, and stages after it have begun: have them planned anew where they are to be
    /// ([`plan::mend`]), and answer with [`Input::Settled`].
    Settle,
    /// Directories are to be discarded by the study's `keep`: record that, remove them, and answer with [`Input::Settled`].
    Discard,
    /// Read the head of the ready queue and answer with [`Input::Refilled`].
    Refill,
    /// A stage has closed: bring the exports up to date.
    Export(StageIndex),
    /// The run is over.
    Finish(RunEnd),
}

/// How far the end has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Trials start.
    Running,
    /// No trial starts any more; running ones finish, until `limit` (run time, milliseconds) at most.
    Draining {
        /// When they are terminated.
        limit_ms: Option<u64>,
    },
    /// Running trials are being terminated; whatever still runs at `give_up_ms` (run time) is recorded as
    /// interrupted without waiting longer.
    Terminating {
        /// Whether a second request, not the drain's limit, did it.
        forced: bool,
        /// When to wait no longer.
        give_up_ms: u64,
    },
    /// The run is over.
    Over,
}

/// What came of looking for the next stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opened {
    Stage,
    /// The base command has to succeed first.
    Base,
    /// It waits for a person's approval.
    Parked,
    /// There is none; the study is completed.
    Completed,
    /// The run is being stopped.
    Nothing,
}

/// Most trials ever handed out and not started.
const QUEUE_MAX: usize = 2048;

/// How long after the grace a terminated trial may take to be reported, milliseconds.
const GIVE_UP_AFTER_GRACE_MS: u64 = 5_000;

/// The same on a cluster, which may be slow to answer, besides the time after which a silent trial counts as lost.
const GIVE_UP_REMOTE_MS: u64 = 30_000;

/// All the engine knows.
#[derive(Debug)]
pub(crate) struct State {
    spec: Arc<Spec>,
    draft: Draft,
    phase: Phase,
    ready: ReadyWindow,
    /// Planned cases of the open stage below this were handed out in this run or an earlier one.
    cursor: u64,
    /// Handed to the executor, not started.
    submitted: BTreeMap<TrialId, AttemptNo>,
    /// Of those that were handed out: pruned since. What they do counts for nothing.
    doomed: BTreeMap<TrialId, AttemptNo>,
    /// Started and not ended: trials with their attempts.
    running: BTreeMap<TrialId, AttemptNo>,
    /// Most trials handed out and not started.
    queue_limit: usize,
    /// Trials at once.
    workers: usize,
    /// Where they run. On a cluster, an attempt counts as running from the moment it is about to be submitted.
    executor: ExecutorKind,
    /// Which slots those on a cluster have.
    slots: Slots,
    /// Whether a drain leaves running attempts to the cluster and to the next run, instead of waiting for them.
    detach: bool,
    /// Attempts started when the queue last grew: it grows once it has been emptied whole, not at a start.
    started_when_adapted: u64,
    /// Whether an answer to `Select`, `Refill` or `Judge` is awaited.
    asked: bool,
    /// Whether an answer to `Ask` is awaited.
    asks: bool,
    /// Why the executor cannot go on.
    broken: Option<String>,
    /// The rails over the open stage.
    judge: Judge,
    /// Trials from here on were withdrawn.
    withdrawn_from: Option<TrialId>,
    /// What trials depend on and is not what is recorded.
    differs: Option<Differs>,
    /// Trials of the open stage that are looked up before they start.
    reusing: Reusing,
    /// The open stage is another one than that whose trials are in memory.
    stale: bool,
    /// The rungs of the open stage, where it halves.
    ladder: Option<Ladder>,
    /// How many trials there is room for on the disk, where that has a limit.
    room: Option<RoomFor>,
    /// Who has what of what trials share.
    pools: Pools,
}

impl State {
    /// The state of a store as it was found; nothing is decided yet. `judge` knows the results of the open stage.
    #[must_use]
    pub(crate) fn new(spec: Arc<Spec>, draft: Draft, judge: Judge, workers: u32) -> Self {
        let off = u64::from(injected_fault!(CursorOffByOne));
        let cursor = draft.open_stage().map_or(0, |(_, counters)| counters.next_index + off);
        let mut ready = ReadyWindow::default();
        ready.fill([], true);
        let started_when_adapted = draft.progress_row().accounting.attempts_started;
        Self {
            spec,
            draft,
            phase: Phase::Running,
            ready,
            cursor,
            submitted: BTreeMap::new(),
            doomed: BTreeMap::new(),
            running: BTreeMap::new(),
            queue_limit: (workers as usize).saturating_mul(4).clamp(8, QUEUE_MAX),
            workers: workers as usize,
            executor: ExecutorKind::Local,
            slots: Slots::default(),
            detach: false,
            started_when_adapted,
            asked: false,
            asks: false,
            broken: None,
            judge,
            withdrawn_from: None,
            differs: None,
            reusing: Reusing::default(),
            stale: false,
            ladder: None,
            room: None,
            pools: Pools::default(),
        }
    }

    /// The same where this is there to be shared.
    #[must_use]
    pub(crate) fn sharing(mut self, pools: Pools) -> Self {
        self.pools = pools;
        self
    }

    /// The same with the rungs of the open stage, and the rows of trials that wait for them.
    #[must_use]
    pub(crate) fn climbing(mut self, rungs: Rungs) -> Self {
        self.know_rungs(rungs);
        self
    }

    fn know_rungs(&mut self, (ladder, waiting): Rungs) {
        self.ladder = ladder;
        self.draft.hold_waiting(waiting);
    }

    /// The same for trials that run there. With `detach`, a drain does not wait for those on a cluster.
    #[must_use]
    pub(crate) fn on(mut self, executor: ExecutorKind, detach: bool) -> Self {
        self.executor = executor;
        self.detach = detach && executor.is_remote();
        self
    }

    /// Begins a run: says who runs it, and settles what an engine that died or left them left running (rows `left`, whose
    /// trials' rows must be held by the draft): those on this machine are interrupted, those on the cluster adopted.
    /// [`State::advance`] then says what to do next.
    ///
    /// # Errors
    /// [`FoldError`]: the store contradicts itself.
    pub(crate) fn begin(
        &mut self,
        now: Now,
        engine: EngineId,
        workers: u32,
        left: &[RunningRow],
    ) -> Result<Vec<Action>, FoldError> {
        let sync_interval_ms = self.spec.run.sync_interval_ms;
        self.emit(now, Event::RunStarted { engine, workers, sync_interval_ms })?;
        let mut actions = Vec::new();
        for row in left {
            if !row.executor.is_remote() || row.executor != self.executor {
                self.end(now, left_behind(now.at_ms, row))?;
                continue;
            }
            let RunningRow { trial, attempt, .. } = *row;
            let slot = self.attempts(trial).last().map_or(0, |attempt| attempt.slot);
            self.slots.adopt(trial, slot);
            let given = self.draft.trial_row(trial).map_or(&[][..], |row| row.given(attempt)).to_vec();
            if let Some(needs) = self.needs_of(trial).filter(|_| !injected_fault!(AdoptedHaveNothing)) {
                self.pools.adopt(trial, given, &needs);
            }
            self.running.insert(trial, attempt);
            actions.push(Action::Adopt { trial, attempt, slot });
            if self.draft.trial_row(trial).is_some_and(TrialRow::is_sealed) {
                actions.push(Action::Prune(trial));
            }
            if trial != TrialId::BASE && self.stage_reuses() {
                actions.push(Action::Identify(trial));
            }
        }
        Ok(actions)
    }

    /// Handles one input. Call [`State::advance`] after a batch of them.
    ///
    /// # Errors
    /// [`FoldError`]: a bug or a damaged store; nothing of the draft may be committed.
    pub(crate) fn step(&mut self, now: Now, input: Input) -> Result<Vec<Action>, FoldError> {
        match input {
            Input::Executor(event) => self.executor_event(now, event),
            Input::Drain { by, limit_ms } => self.drain(now, by, limit_ms),
            Input::Force { by } => self.force(now, by),
            Input::Selected { stage, comes } => self.selected(now, stage, comes),
            Input::Judged { stage, ruled } => self.judged(now, stage, ruled),
            Input::Refilled { entries, more } => {
                self.refilled(entries, more);
                Ok(Vec::new())
            }
            Input::LookedUp { trial, identity, hits } => self.looked_up(now, trial, identity, hits),
            Input::Identified { trial, identity, hits } => {
                self.identified(trial, identity, hits);
                Ok(Vec::new())
            }
            Input::Settled(settled) => {
                self.settled(*settled);
                Ok(Vec::new())
            }
            Input::Tick => Ok(Vec::new()),
        }
    }

    fn executor_event(&mut self, now: Now, event: ExecutorEvent) -> Result<Vec<Action>, FoldError> {
        match event {
            ExecutorEvent::Started { trial, attempt, slot, process, at_ms } => {
                if self.submitted.get(&trial) == Some(&attempt) {
                    let executor = ExecutorKind::Local;
                    // The time is that of the one that started it, not of this commit.
                    let then = Now { at_ms, ..now };
                    self.started(then, RunningRow { trial, attempt, process, executor }, slot)?;
                }
                Ok(Vec::new())
            }
            ExecutorEvent::Cluster { trouble } => {
                self.emit(now, Event::ClusterChanged { trouble })?;
                Ok(Vec::new())
            }
            ExecutorEvent::Placed { trial, attempt, job } => {
                if self.running.get(&trial) == Some(&attempt) {
                    self.emit(now, Event::AttemptPlaced { trial, attempt, job })?;
                }
                Ok(Vec::new())
            }
            ExecutorEvent::Ended(report) | ExecutorEvent::Looked(report) => self.attempt_ended(now, *report),
            ExecutorEvent::Shown { trial, attempt, shown, .. } => self.shown(now, trial, attempt, *shown),
            ExecutorEvent::Returned { trial } => {
                self.submitted.remove(&trial);
                self.doomed.remove(&trial);
                self.pools.give_back(trial);
                self.reusing.let_go(trial);
                if self.cannot_matter(trial) {
                    self.draft.release(trial);
                }
                Ok(Vec::new())
            }
            ExecutorEvent::Differs(differs) => self.differ(now, differs),
            ExecutorEvent::Proposed(answer) => self.proposed(now, *answer),
            ExecutorEvent::Broken(why) => {
                self.broken.get_or_insert_with(|| why.clone());
                // What runs on a cluster is none the worse for it.
                let limit_ms = (!self.executor.is_remote()).then_some(0);
                self.drain(now, why, limit_ms)
            }
        }
    }

    fn attempt_ended(&mut self, now: Now, report: AttemptReport) -> Result<Vec<Action>, FoldError> {
        let (trial, attempt) = (report.trial, report.attempt);
        if attempt == REUSED {
            return self.taken(now, report);
        }
        if self.doomed.remove(&trial).is_some() {
            self.pools.give_back(trial);
            return Ok(Vec::new());
        }
        if self.submitted.get(&trial) == Some(&attempt) {
            // It could not even be started: the start is recorded with its end.
            let executor = ExecutorKind::Local;
            let then = Now { at_ms: report.ended_ms, ..now };
            self.started(then, RunningRow { trial, attempt, process: None, executor }, 0)?;
        }
        // A report of an attempt that was given up comes too late: its end is recorded already. Another one of the
        // same trial may run by now.
        let runs = self.running.get(&trial);
        if runs != Some(&attempt) && !(injected_fault!(LateReportAccepted) && runs.is_some()) {
            return Ok(Vec::new());
        }
        // What it shows by having succeeded is shown by nobody else.
        let (mut shown, succeeded) = (report.shown, matches!(report.verdict, Verdict::Succeeded { .. }));
        shown.rungs.retain(|shown| shown.judged || succeeded);
        self.note_shown(now, trial, attempt, shown)?;
        let attempt = self.running.remove(&trial).unwrap_or(attempt);
        self.slots.give_back(trial);
        self.pools.give_back(trial);
        let next = self.next(now, trial, &report.verdict);
        let end = AttemptEnd {
            trial,
            attempt,
            ended_ms: report.ended_ms,
            exit: report.exit,
            usage: report.usage,
            verdict: report.verdict,
            next,
        };
        let base_failure = match &end.verdict {
            Verdict::Failed(failure) if trial == TrialId::BASE => Some(base_failed(failure)),
            _ => None,
        };
        let made = matches!(end.verdict, Verdict::Succeeded { .. });
        let is_final = end.next == Next::Final;
        let doubt = self.doubt(trial, attempt, &end.verdict).filter(|_| is_final);
        let unchecked = self.unchecked(trial, &end.verdict).filter(|_| is_final);
        self.end(now, end)?;
        if let Some(identity) = self.reusing.identity(trial).filter(|_| made) {
            self.emit(now, Event::ResultIdentified { trial, attempt, identity })?;
        }
        if let Some(doubt) = doubt {
            self.doubted(now, doubt)?;
        }
        if let Some(unchecked) = unchecked {
            self.emit(now, unchecked)?;
        }
        if is_final {
            self.reusing.release(trial);
        }
        self.note_result(trial);
        match base_failure {
            Some(reason) => self.abort(now, Rail::Base, 0, reason, vec![trial]),
            None => Ok(Vec::new()),
        }
    }

    fn started(&mut self, now: Now, row: RunningRow, slot: u32) -> Result<(), FoldError> {
        let RunningRow { trial, attempt, process, executor } = row;
        self.submitted.remove(&trial);
        self.running.insert(trial, attempt);
        self.emit(
            now,
            match trial {
                TrialId::BASE => Event::BaseStarted { attempt, slot, process, executor },
                _ => Event::AttemptStarted { trial, attempt, slot, process, executor },
            },
        )?;
        let given = self.pools.given(trial);
        match given.iter().any(|given| !given.items.is_empty()) {
            true => self.emit(now, Event::ResourcesGiven { trial, attempt, given: given.to_vec() }),
            false => Ok(()),
        }
    }

    /// What becomes of a trial: interrupted attempts run again and take no retry; retryable failures as long as
    /// there are retries.
    fn next(&self, now: Now, trial: TrialId, verdict: &Verdict) -> Next {
        match verdict {
            Verdict::Succeeded { .. } | Verdict::Cancelled => Next::Final,
            Verdict::Interrupted { .. } => Next::Again { due_ms: 0 },
            Verdict::Failed(failure) => {
                let row = self.draft.trial_row(trial);
                let failures = row.map_or(0, |row| row.failures);
                let stage = row.and_then(|row| self.spec.stages.get(row.stage as usize));
                match stage {
                    Some(stage) if plan::is_retried(&stage.retries, failures, failure) => {
                        let delay_ms = plan::delay_ms(&stage.retries, failures + 1, self.jitter_seed(trial));
                        Next::Again { due_ms: now.at_ms.saturating_add_unsigned(delay_ms) }
                    }
                    _ => Next::Final,
                }
            }
        }
    }

    fn jitter_seed(&self, trial: TrialId) -> u32 {
        let lineage = Lineage::new(&self.spec, self.draft.stages());
        lineage.locate(trial).map_or(0, |(stage, index)| lineage.place_seed(stage, index))
    }

    fn end(&mut self, now: Now, end: AttemptEnd) -> Result<(), FoldError> {
        // A clock that was set back, or another machine's, does not end it before it began.
        let began = self.attempts(end.trial).iter().find(|attempt| attempt.n == end.attempt);
        let began_ms = began.map_or(end.ended_ms, |attempt| attempt.started_ms);
        let end = AttemptEnd { ended_ms: end.ended_ms.max(began_ms), ..end };
        let row = self.draft.trial_row(end.trial);
        let end = as_pruned(end, row);
        let (trial, next) = (end.trial, end.next);
        self.emit(now, end_event(end))?;
        if next == Next::Final {
            self.shows_no_more(trial);
        }
        if trial != TrialId::BASE
            && let Next::Again { due_ms } = next
        {
            if self.cannot_matter(trial) {
                self.reusing.release(trial);
                self.draft.release(trial);
                return Ok(());
            }
            match self.ready.offer((due_ms, trial)) {
                Offered::Held => {}
                Offered::Beyond => self.draft.release(trial),
                Offered::Displaced(other) => self.draft.release(other),
            }
        }
        Ok(())
    }

    fn interrupt(
        &mut self,
        now: Now,
        trial: TrialId,
        attempt: AttemptNo,
        reason: String,
    ) -> Result<(), FoldError> {
        self.end(now, interrupted(now.at_ms, trial, attempt, reason))
    }

    fn selected(&mut self, now: Now, stage: StageIndex, comes: Comes) -> Result<Vec<Action>, FoldError> {
        self.asked = false;
        let Comes { round, survivors } = comes;
        if let Some(round) = round.filter(|round| round.more > 0 || !survivors.is_empty()) {
            let RoundOver { left, more } = round;
            self.emit(now, Event::RaceRound { stage, left, more })?;
            if more > 0 {
                return Ok(Vec::new());
            }
        }
        if survivors.is_empty() {
            // The stage stays as it is: `piton retry` can still make its failed trials pending again.
            let name = self.draft.stages().get(stage as usize).map_or_else(String::new, |s| s.name.clone());
            let requires = self.spec.stages.get(stage as usize).is_some_and(|spec| !spec.require.is_empty());
            let why = match requires && self.draft.stage_counters(stage).succeeded > 0 {
                true => "none of those that succeeded meets what `require` asks",
                false => "none of its trials succeeded",
            };
            let reason = format!("stage `{name}` has no survivors: {why}");
            let counted = self.draft.stages().get(stage as usize).map_or(0, StageRow::planned);
            let abort = Abort { rail: Rail::NoSurvivors, stage, counted };
            self.emit(now, Event::StudyAbortedBy { abort, reason, violating: Vec::new() })?;
        } else {
            self.emit(now, Event::StageClosed { stage, survivors })?;
            self.stale = self.draft.open_stage().is_some();
        }
        Ok(vec![Action::Export(stage)])
    }

    /// Whether a stage has closed after which others had begun, of which it is not settled yet what they are now.
    fn is_unsettled(&self) -> bool {
        self.stale || plan::mend::unsettled(self.draft.stages()).is_some()
    }

    /// Goes on with what the store says. Nothing ran or was handed out.
    fn settled(&mut self, (draft, judge, rungs): (Draft, Judge, Rungs)) {
        self.asked = false;
        self.stale = false;
        self.draft = draft;
        self.judge = judge;
        self.withdrawn_from = None;
        self.reusing = Reusing::default();
        self.cursor = self.draft.open_stage().map_or(0, |(_, counters)| counters.next_index);
        self.ready = ReadyWindow::default();
        self.ready.fill([], true);
        self.know_rungs(rungs);
    }

    fn refilled(&mut self, entries: Vec<(ReadyKey, Option<TrialRow>)>, more: bool) {
        self.asked = false;
        let under_way = |trial: &TrialId| {
            self.submitted.contains_key(trial) || self.running.contains_key(trial) || self.reusing.holds(*trial)
        };
        // What was decided since it was read is known here alone.
        let waits = |trial| self.draft.trial_row(trial).is_none_or(|row| row.state == TrialState::Pending);
        let wanted = |trial: &TrialId| !under_way(trial) && !self.cannot_matter(*trial) && waits(*trial);
        let fresh: Vec<_> = entries.into_iter().filter(|((_, trial), _)| wanted(trial)).collect();
        self.ready.fill(fresh.iter().map(|(key, _)| *key), more);
        for row in fresh.into_iter().filter_map(|(_, row)| row) {
            if self.draft.trial_row(row.trial).is_none() {
                self.draft.hold(row);
            }
        }
    }

    /// Decides what follows from where things stand: the next trials, the next stage, the end.
    ///
    /// # Errors
    /// [`FoldError`], as for [`State::step`].
    pub(crate) fn advance(&mut self, now: Now) -> Result<Vec<Action>, FoldError> {
        let mut actions = Vec::new();
        self.limits(now, &mut actions)?;
        self.decide(now, &mut actions)?;
        self.withdraw(&mut actions);
        if matches!(self.phase, Phase::Over) || self.asked {
            return Ok(actions);
        }
        let handed_out = self.submitted.len() + self.doomed.len() + self.reusing.under_way();
        let idle = self.running.is_empty() && handed_out == 0;
        match self.draft.study_row().status {
            StudyStatus::Completed if idle => return self.finish_after(actions, now, RunEnd::Completed),
            StudyStatus::Aborted if idle => return self.finish_after(actions, now, RunEnd::Aborted),
            StudyStatus::Completed | StudyStatus::Aborted => return Ok(actions),
            StudyStatus::Created | StudyStatus::Running | StudyStatus::Interrupted => {}
        }
        if (self.judge.verdict().is_some() || (idle && self.ends_early()))
            && let Some((stage, _)) = self.draft.open_stage()
        {
            // What decides is on disk first; then the store says what it decides.
            actions.push(Action::Judge(stage.index));
            self.asked = true;
            return Ok(actions);
        }
        let unsettled = self.is_unsettled();
        if unsettled && self.phase == Phase::Running {
            // What still runs was adopted, and is waited for.
            if idle {
                actions.extend(self.admit());
                actions.push(Action::Settle);
                self.asked = true;
            }
            return Ok(actions);
        }
        if idle && !unsettled && self.stage_is_done() && !matches!(self.phase, Phase::Terminating { .. }) {
            // A drain that finds everything finished closes the stage, and so completes a study at its end.
            if let Some((stage, _)) = self.draft.open_stage() {
                actions.push(Action::Select(stage.index));
                self.asked = true;
                return Ok(actions);
            }
            if !plan::keep::due(&self.spec, self.draft.stages()).is_empty() {
                actions.push(Action::Discard);
                self.asked = true;
                return Ok(actions);
            }
            let admit = self.admit();
            match self.open_next(now)? {
                Opened::Completed => return self.finish_after(actions, now, RunEnd::Completed),
                Opened::Parked => return self.finish_after(actions, now, RunEnd::Waiting),
                Opened::Base => {
                    actions.push(self.submit(now, TrialId::BASE)?);
                    return Ok(actions);
                }
                Opened::Stage => actions.extend(admit),
                Opened::Nothing => {}
            }
        }
        match &self.phase {
            Phase::Running if let Some(why) = self.out_of_room() => {
                actions.extend(self.drain(now, why, None)?);
                // Whatever is left is what runs.
                if idle {
                    return self.finish_after(actions, now, RunEnd::Drained);
                }
            }
            Phase::Running => {
                self.ask(&mut actions);
                self.hand_out(now, &mut actions)?;
            }
            Phase::Draining { .. } | Phase::Terminating { .. } if idle || self.detaches() => {
                let how = match self.phase {
                    _ if self.broken.is_some() || self.differs.is_some() => RunEnd::Failed,
                    Phase::Terminating { forced: true, .. } => RunEnd::Forced,
                    _ => RunEnd::Drained,
                };
                return self.finish_after(actions, now, how);
            }
            _ => {}
        }
        Ok(actions)
    }

    /// Whether the open stage, if any, has nothing left to run.
    fn stage_is_done(&self) -> bool {
        self.draft.open_stage().is_none_or(|(stage, counters)| {
            let raced = || self.spec.stages.get(stage.index as usize).is_some_and(|spec| spec.race.is_some());
            let pending = match injected_fault!(ClosedEarly) {
                true => stage.planned().saturating_sub(counters.next_index),
                false => counters.pending(stage.planned()),
            };
            let pending = match injected_fault!(RoundNotWhole) {
                true if raced() => stage.planned().saturating_sub(counters.next_index),
                _ => pending,
            };
            let under_way = counters.running + counters.undecided;
            (pending == 0 || stage.ended_after.is_some()) && under_way == 0 && !stage.takes_proposals()
        })
    }

    /// Opens the first waiting stage, unless the run is being stopped; completes the study if there is none.
    fn open_next(&mut self, now: Now) -> Result<Opened, FoldError> {
        let stages = self.draft.stages();
        let Some(next) = stages.iter().find(|stage| stage.status == StageStatus::Waiting) else {
            self.emit(now, Event::StudyCompleted)?;
            return Ok(Opened::Completed);
        };
        let index = next.index;
        let spec = self.spec.stages.get(index as usize);
        let needs_base = index == 0 && self.spec.base.is_some() && !self.base_succeeded();
        // Also at the end of a drain: nothing but the approval is left to wait for.
        if !needs_base && spec.is_some_and(|spec| spec.approve) && next.approval.is_none() {
            return Ok(Opened::Parked);
        }
        if self.phase != Phase::Running {
            return Ok(Opened::Nothing);
        }
        if needs_base {
            return Ok(Opened::Base);
        }
        let before = index.checked_sub(1).and_then(|before| stages.get(before as usize));
        let parents = before.map_or_else(Vec::new, |before| before.survivors.clone());
        let shares = spec.map_or_else(Vec::new, |spec| plan::shares(spec, parents.len()));
        let rounds = spec.and_then(StageSpec::first_rounds);
        self.emit(now, Event::StageOpened { stage: index, parents, shares })?;
        if let Some(count) = rounds {
            self.emit(now, Event::RoundsPlanned { stage: index, count })?;
        }
        self.cursor = 0;
        self.ready.fill([], false);
        self.judge_stage(index);
        self.watch_stage(index);
        Ok(Opened::Stage)
    }

    fn base_succeeded(&self) -> bool {
        self.draft.study_row().base.as_ref().is_some_and(|base| base.state == TrialState::Succeeded)
    }

    /// Hands out trials until the queue ahead of the workers is full: those that ran before first, then new ones.
    fn hand_out(&mut self, now: Now, actions: &mut Vec<Action>) -> Result<(), FoldError> {
        self.adapt_queue();
        let reuses = self.stage_reuses();
        loop {
            while self.has_room() {
                let Some(trial) = self.reusing.next_to_run() else { break };
                actions.push(self.submit(now, trial)?);
            }
            if !(if reuses { self.reusing.has_room() } else { self.has_room() }) {
                return Ok(());
            }
            if let Some(trial) = self.reusing.next_freed() {
                self.reusing.take_up(trial, actions);
                continue;
            }
            if self.ready.needs_refill() {
                self.asked = true;
                actions.push(Action::Refill);
                return Ok(());
            }
            let Some(trial) = self.next_trial(now) else { return Ok(()) };
            match reuses {
                true => self.reusing.take_up(trial, actions),
                false => actions.push(self.submit(now, trial)?),
            }
        }
    }

    /// Takes in what there is room for on the disk by now.
    pub(crate) fn know_room(&mut self, room: Option<&Room>) {
        self.room = room.map(|room| room.now(self.workers as u64));
    }

    /// Why no trial of those that wait can be handed out, if the disk is why.
    fn out_of_room(&self) -> Option<String> {
        let room = self.room.as_ref().filter(|room| room.trials == 0)?;
        let (stage, counters) = self.draft.open_stage()?;
        let wait = counters.pending(stage.planned()) > self.submitted.len() as u64 || stage.takes_proposals();
        wait.then(|| room.why.clone())
    }

    /// Whether another trial may be handed out. A cluster has a queue of its own.
    fn has_room(&self) -> bool {
        if self.stage_workers().is_some_and(|most| self.may_run() >= most) {
            return false;
        }
        let open = self.draft.open_stage().and_then(|(stage, _)| self.spec.stages.get(stage.index as usize));
        if open.is_some_and(|stage| !self.pools.fits(&stage.run.needs)) {
            return false;
        }
        let in_flight = (self.submitted.len() + self.running.len()) as u64;
        if self.room.as_ref().is_some_and(|room| in_flight >= room.trials) {
            return false;
        }
        match self.executor.is_remote() {
            true => self.running.len() < self.workers,
            false => self.submitted.len() < self.queue_limit,
        }
    }

    /// Most trials of the open stage at once, where it says so.
    fn stage_workers(&self) -> Option<usize> {
        let (stage, _) = self.draft.open_stage()?;
        let most = self.spec.stages.get(stage.index as usize)?.run.workers?;
        Some(usize::try_from(most).unwrap_or(usize::MAX))
    }

    /// What a trial needs.
    fn needs_of(&self, trial: TrialId) -> Option<Needs> {
        let begun = |stage: &&StageRow| stage.status != StageStatus::Waiting && stage.contains(trial);
        let stage = self.draft.stages().iter().find(begun)?;
        self.spec.stages.get(stage.index as usize).map(|stage| stage.run.needs.clone())
    }

    /// What a trial has that is handed out or runs.
    #[must_use]
    pub(crate) fn given(&self, trial: TrialId) -> &[Given] {
        self.pools.given(trial)
    }

    /// How many trials run or may begin at any moment. One that was handed out may have begun before its executor heard that it is pruned.
    fn may_run(&self) -> usize {
        self.submitted.len() + self.doomed.len() + self.running.len()
    }

    /// Hands out a trial. On a cluster its start is recorded first: whatever a crash leaves of a submission, the next run
    /// looks for it under this attempt.
    fn submit(&mut self, now: Now, trial: TrialId) -> Result<Action, FoldError> {
        let attempt = u32::try_from(self.attempts(trial).len()).unwrap_or(u32::MAX).saturating_add(1);
        if let Some(needs) = self.needs_of(trial) {
            self.pools.take(trial, &needs);
        }
        if !self.executor.is_remote() {
            self.submitted.insert(trial, attempt);
            return Ok(Action::Submit { trial, attempt, slot: 0 });
        }
        let slot = self.slots.take(trial);
        let executor = self.executor;
        self.started(now, RunningRow { trial, attempt, process: None, executor }, slot)?;
        Ok(Action::Submit { trial, attempt, slot })
    }

    /// The attempts of a trial, or of the base command, that have started.
    fn attempts(&self, trial: TrialId) -> &[AttemptRow] {
        let attempts = match trial {
            TrialId::BASE => self.draft.study_row().base.as_ref().map(|base| &base.attempts),
            _ => self.draft.trial_row(trial).map(|row| &row.attempts),
        };
        attempts.map_or(&[], Vec::as_slice)
    }

    /// Whether the run ends now and leaves what runs to the cluster and to the next run.
    fn detaches(&self) -> bool {
        self.detach && self.broken.is_none() && matches!(self.phase, Phase::Draining { .. })
    }

    /// The queue ahead of the workers holds enough that none waits for the disk while one commit is under way, and
    /// no more, so that stopping gives little back: it doubles whenever a commit was outrun. Where commits may wait,
    /// it holds enough for as long as they do: an empty queue is what ended the wait. A stage that has workers of its own outruns nothing:
    /// its queue is empty by its own wish.
    fn adapt_queue(&mut self) {
        let started = self.draft.progress_row().accounting.attempts_started;
        let starved = self.running.len() < self.workers || self.spec.run.sync_interval_ms > 0;
        let starved = starved && self.stage_workers().is_none();
        let outrun = self.submitted.is_empty() && starved;
        if outrun && started >= self.started_when_adapted.saturating_add(self.queue_limit as u64) {
            self.queue_limit = self.queue_limit.saturating_mul(2).min(QUEUE_MAX);
            self.started_when_adapted = started;
        }
    }

    fn next_trial(&mut self, now: Now) -> Option<TrialId> {
        if let Some((_, trial)) = self.ready.take_due(now.at_ms, self.longest_delay_ms()) {
            return Some(trial);
        }
        let (stage, _) = self.draft.open_stage()?;
        let trial = TrialId(stage.first_trial.0 + self.cursor);
        let wanted = self.cursor < stage.planned() && !self.cannot_matter(trial);
        wanted.then(|| {
            self.cursor += 1;
            trial
        })
    }

    fn longest_delay_ms(&self) -> u64 {
        let stage = self.draft.open_stage().and_then(|(stage, _)| self.spec.stages.get(stage.index as usize));
        stage.map_or(0, |stage| stage.retries.max_delay_ms.max(stage.retries.delay_ms))
    }

    fn emit(&mut self, now: Now, event: Event) -> Result<(), FoldError> {
        self.draft.emit(now.at_ms, now.run_ms, event)
    }

    /// Milliseconds until [`Input::Tick`] could change something; `None`: nothing is due.
    #[must_use]
    pub(crate) fn wake_in_ms(&self, now: Now) -> Option<u64> {
        match self.phase {
            Phase::Running => {
                let retry = self.ready.wait_ms(now.at_ms, self.longest_delay_ms()).filter(|_| self.has_room());
                [retry, self.runtime_left_ms(now)].into_iter().flatten().min()
            }
            Phase::Draining { limit_ms } => limit_ms.map(|limit| limit.saturating_sub(now.run_ms)),
            Phase::Terminating { give_up_ms, .. } => Some(give_up_ms.saturating_sub(now.run_ms)),
            Phase::Over => None,
        }
    }

    /// Why the executor cannot go on, if it cannot.
    #[must_use]
    pub(crate) fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    /// What trials depend on and is not what is recorded, if that ended the run.
    #[must_use]
    pub(crate) fn differs(&self) -> Option<&Differs> {
        self.differs.as_ref()
    }

    /// How many attempts are handed out and not started, and results being taken.
    #[must_use]
    pub(crate) fn submitted_count(&self) -> usize {
        self.submitted.len() + self.reusing.under_way()
    }

    /// How many trials wait, and are not to be picked again.
    #[must_use]
    pub(crate) fn in_hand_count(&self) -> usize {
        self.submitted.len() + self.doomed.len() + self.reusing.in_hand()
    }

    #[must_use]
    pub(crate) fn running_count(&self) -> usize {
        self.running.len()
    }

    /// How far the end has come.
    #[cfg(test)]
    pub(crate) fn phase(&self) -> &Phase {
        &self.phase
    }

    /// The rows in memory.
    #[must_use]
    pub(crate) fn draft(&self) -> &Draft {
        &self.draft
    }

    /// The rows in memory, to commit from and to load trials into.
    pub(crate) fn draft_mut(&mut self) -> &mut Draft {
        &mut self.draft
    }
}

/// How long terminated trials of a study are waited for.
#[must_use]
pub(crate) fn give_up_after(spec: &Spec) -> Duration {
    Duration::from_millis(ending::give_up_after_ms(spec))
}

/// The end of an attempt that was cut off: it runs again at once.
#[must_use]
pub(crate) fn interrupted(at_ms: UnixMs, trial: TrialId, attempt: AttemptNo, reason: String) -> AttemptEnd {
    AttemptEnd {
        trial,
        attempt,
        ended_ms: at_ms,
        exit: None,
        usage: Usage::default(),
        verdict: Verdict::Interrupted { reason },
        next: Next::Again { due_ms: 0 },
    }
}

/// The end of an attempt whose engine died: nobody saw how it went. Its trial may be pruned, see [`as_pruned`].
#[must_use]
pub(crate) fn left_behind(at_ms: UnixMs, row: &RunningRow) -> AttemptEnd {
    let reason = "its engine ended without recording how it went".to_owned();
    interrupted(at_ms, row.trial, row.attempt, reason)
}

/// The event an attempt ends with: the base command has its own.
#[must_use]
pub(crate) fn end_event(end: AttemptEnd) -> Event {
    match end.trial {
        TrialId::BASE => Event::BaseEnded(Box::new(end)),
        _ => Event::AttemptEnded(Box::new(end)),
    }
}

/// The answer to [`Action::Refill`]: the head of the ready queue, beyond what is handed out already, of the trials from `first` on and below
/// `limit`. What waits before `first` is outside of a stage that ended early.
///
/// # Errors
/// [`JournalError`] from reading the store.
pub(crate) fn refilled(
    snapshot: &Snapshot,
    submitted: usize,
    (first, limit): (TrialId, Option<TrialId>),
) -> Result<Input, JournalError> {
    let wanted = WINDOW + submitted;
    let (mut keys, mut after, mut more) = (Vec::new(), None, true);
    while more && keys.len() < WINDOW {
        let found = snapshot.ready(after, wanted)?;
        more = found.len() >= WINDOW;
        after = found.last().copied();
        let wanted = |trial: TrialId| trial >= first && limit.is_none_or(|limit| trial < limit);
        keys.extend(found.into_iter().filter(|(_, trial)| wanted(*trial)));
    }
    let entries = keys.into_iter().map(|key| Ok((key, snapshot.trial(key.1)?)));
    Ok(Input::Refilled { entries: entries.collect::<Result<_, JournalError>>()?, more })
}

mod asking;
mod ending;
mod rails;
mod reusing;
mod slots;
#[cfg(test)]
mod tests;
mod watching;
