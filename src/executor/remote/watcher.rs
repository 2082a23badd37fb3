//! The thread that submits, lists and reports. The table of what follows from what:
//!
//! | the cluster says | control directory | then |
//! | --- | --- | --- |
//! | queued, running | | wait |
//! | over, or knows nothing | `exit.json` | that is the result, whatever the cluster says |
//! | knows nothing | no claim | the same key is submitted again |
//! | over | no claim | claimed here, so that it can never run; failed if the job could not start, otherwise interrupted |
//! | over, or knows nothing | claim, no `exit.json` | lost, once no sign of life came for `lost_after` |
//! | cannot be asked | `exit.json` | that is the result |
//! | cannot be asked | | wait: a list that failed is not an empty list |
//!
//! An attempt is reported once, and only when it can run no more.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::control::{Control, remove_others};
use super::wire::{Outcome, Task};
use super::{Cluster, JobState, Listed, Submission, Trouble, Why, by_key};
use crate::executor::local::failure::failure;
use crate::executor::local::logs::excerpt_of;
use crate::executor::{AttemptKey, AttemptReport, Differs, ExecutorEvent, Job};
use crate::model::{AttemptNo, ExecutorKind, Failure, RemoteJob, StudyId, TrialId, Usage, Verdict};
use crate::spec::Spec;
use crate::sys::clock::unix_ms;
use crate::sys::words::io_words;

/// The list is asked for this often at most, and takes a tenth of the time at most.
const POLL_MIN: Duration = Duration::from_secs(1);
/// While nothing changes, it is asked for less and less often.
const POLL_MAX: Duration = Duration::from_secs(15);
/// An unreachable cluster is tried again at least this often.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Jobs submitted before the list is looked at again; no more than a job array may have, of which Slurm takes 1,001.
const SUBMIT_AT_ONCE: usize = 500;
/// A job that was just submitted may not be listed yet.
const LIST_LAG: Duration = Duration::from_secs(10);

/// What the engine asks for.
pub(super) enum Command {
    Submit(Box<Job>),
    Adopt(Box<Job>),
    Forget(TrialId, AttemptNo),
    /// Take back what has not begun of the trials from this one on.
    Withdraw(TrialId),
    Drain,
    Terminate,
    /// Watch no longer, and leave everything as it is.
    Leave,
}

/// How far a flight has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    /// It has yet to be submitted.
    No,
    /// It may have been: the list tells.
    Perhaps,
    /// It was, at this time.
    At(Instant),
}

/// An attempt under way.
struct Flight {
    job: Box<Job>,
    control: Control,
    sent: Sent,
    /// What was last told of it.
    told: RemoteJob,
    /// Its last sign of life, and when that was new.
    beat: Option<(Option<Vec<u8>>, Instant)>,
}

/// How the watching ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Mode {
    Run,
    Drain,
    Terminate,
}

/// See the module.
pub(super) struct Watcher {
    cluster: Box<dyn Cluster>,
    kind: ExecutorKind,
    spec: Arc<Spec>,
    root: PathBuf,
    study: StudyId,
    lost_after: Duration,
    /// How long a job that was submitted may be missing from the list.
    list_lag: Duration,
    inbox: Receiver<Command>,
    events: Sender<ExecutorEvent>,
    mode: Mode,
    flights: BTreeMap<TrialId, Flight>,
    /// Ids of reported attempts whose record is awaited.
    reported: HashMap<(TrialId, AttemptNo), (Control, String)>,
    /// When to ask next, and how long after that again.
    poll_at: Instant,
    interval: Duration,
    /// The cluster cannot be asked.
    unreachable: bool,
    told_broken: bool,
    /// When those that were asked to end are cancelled by the cluster's means.
    cancel_at: Option<Instant>,
}

impl Watcher {
    pub(super) fn new(
        cluster: Box<dyn Cluster>,
        spec: Arc<Spec>,
        root: PathBuf,
        study: StudyId,
        lost_after: Duration,
        inbox: Receiver<Command>,
        events: Sender<ExecutorEvent>,
    ) -> Self {
        let kind = spec.run.executor.kind();
        Self {
            cluster,
            kind,
            spec,
            root,
            study,
            lost_after,
            list_lag: LIST_LAG,
            inbox,
            events,
            mode: Mode::Run,
            flights: BTreeMap::new(),
            reported: HashMap::new(),
            poll_at: Instant::now(),
            interval: POLL_MIN,
            unreachable: false,
            told_broken: false,
            cancel_at: None,
        }
    }

    pub(super) fn run(mut self) {
        while self.listen() {
            if Instant::now() >= self.poll_at {
                self.poll();
            }
            if self.may_submit() {
                self.submit();
            }
        }
        let flying = self.flights.values().map(|flight| (flight.job.key.trial, flight.job.key.attempt));
        let left: Vec<_> = flying.chain(self.reported.keys().copied()).collect();
        remove_others(&self.root, self.study, &left);
        let over: Vec<String> =
            self.reported.into_values().map(|(_, id)| id).filter(|id| !id.is_empty()).collect();
        self.cluster.forget(&over);
        self.cluster.close();
    }

    fn may_submit(&self) -> bool {
        self.mode == Mode::Run && !self.unreachable
    }

    /// Takes what the engine asks for, until the next poll is due; whether to go on.
    fn listen(&mut self) -> bool {
        loop {
            let waits = self.may_submit() && self.flights.values().any(|flight| flight.sent == Sent::No);
            let left = match () {
                () if waits => Duration::ZERO,
                () if self.flights.is_empty() => Duration::MAX,
                () => self.poll_at.saturating_duration_since(Instant::now()),
            };
            let first = match left {
                Duration::MAX => self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
                left => self.inbox.recv_timeout(left),
            };
            match first {
                Ok(command) => {
                    let mut over = Vec::new();
                    let waiting: Vec<Command> = std::iter::once(command).chain(self.inbox.try_iter()).collect();
                    for command in waiting {
                        if !self.obey(command, &mut over) {
                            return false;
                        }
                    }
                    self.cluster.forget(&over);
                }
                Err(RecvTimeoutError::Timeout) => return true,
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
    }

    /// Does what was asked for; whether to go on.
    fn obey(&mut self, command: Command, over: &mut Vec<String>) -> bool {
        match command {
            Command::Submit(job) => self.take(job, Sent::No),
            Command::Adopt(job) => {
                self.take(job, Sent::Perhaps);
                self.poll_at = Instant::now();
            }
            Command::Forget(trial, attempt) => {
                if let Some((control, id)) = self.reported.remove(&(trial, attempt)) {
                    control.remove();
                    over.extend(Some(id).filter(|id| !id.is_empty()));
                }
            }
            Command::Withdraw(from) => {
                self.recall(from);
                self.interval = POLL_MIN;
                self.poll_at = Instant::now();
            }
            Command::Drain => self.enter(Mode::Drain),
            Command::Terminate => self.enter(Mode::Terminate),
            Command::Leave => return false,
        }
        true
    }

    fn take(&mut self, job: Box<Job>, sent: Sent) {
        let control = Control::of(&self.root, &job.key);
        let told = RemoteJob { executor: self.kind, id: String::new(), node: None, started_ms: None };
        let trial = job.key.trial;
        self.flights.insert(trial, Flight { job, control, sent, told, beat: None });
        if self.mode > Mode::Run {
            self.enter(self.mode);
        }
    }

    fn enter(&mut self, mode: Mode) {
        self.mode = self.mode.max(mode);
        self.recall(TrialId(0));
        if self.mode == Mode::Terminate {
            for flight in self.flights.values() {
                if let Err(error) = flight.control.cancel() {
                    log::warn!("cannot ask trial {} to end: {error}", flight.job.key.trial);
                }
            }
            let grace = Duration::from_millis(self.spec.run.grace_ms);
            self.cancel_at.get_or_insert_with(|| Instant::now() + grace + POLL_MIN);
        }
        self.interval = POLL_MIN;
        self.poll_at = Instant::now();
    }

    /// Takes back what has not begun of the trials from `from` on: once it is claimed here, no job can run it.
    fn recall(&mut self, from: TrialId) {
        let mut recalled = Vec::new();
        for (trial, flight) in self.flights.range(from..) {
            match flight.control.take_back() {
                Ok(true) => recalled.push(*trial),
                Ok(false) => {}
                Err(error) => log::warn!("cannot take trial {trial} back: {error}"),
            }
        }
        let jobs: Vec<(String, Option<String>)> =
            recalled.iter().filter_map(|trial| self.flights.get(trial)).map(Flight::name).collect();
        if !jobs.is_empty()
            && let Err(trouble) = self.cluster.cancel(&jobs)
        {
            // They find themselves claimed and run nothing.
            log::info!("the cluster does not cancel what had not begun: {}", trouble.words());
        }
        for trial in recalled {
            self.interrupted(trial, "it was stopped before it began".to_owned());
        }
    }

    /// Submits some of what waits.
    fn submit(&mut self) {
        let waiting: Vec<TrialId> = self
            .flights
            .iter()
            .filter(|(_, flight)| flight.sent == Sent::No)
            .map(|(trial, _)| *trial)
            .take(SUBMIT_AT_ONCE)
            .collect();
        let mut jobs = Vec::new();
        let mut trials = Vec::new();
        for trial in waiting {
            let Some(flight) = self.flights.get(&trial) else { continue };
            let Some(task) = Task::of(&flight.job, &self.spec) else {
                self.broken("a trial's stage is not in the spec".to_owned());
                self.interrupted(trial, "it could not be submitted".to_owned());
                continue;
            };
            if let Err(error) = flight.control.prepare(&task) {
                let dir = flight.control.dir().display();
                self.broken(format!("cannot write in `{dir}`: {error}"));
                self.interrupted(trial, "it could not be submitted".to_owned());
                continue;
            }
            let control = flight.control.dir().to_owned();
            jobs.push(Submission { key: flight.job.key.to_string(), control, log: flight.control.log() });
            trials.push(trial);
        }
        if jobs.is_empty() {
            return;
        }
        let answers = self.cluster.submit(&jobs);
        let mut refused = Vec::new();
        for (trial, answer) in trials.into_iter().zip(answers) {
            let Some(flight) = self.flights.get_mut(&trial) else { continue };
            match answer {
                Ok(id) => {
                    flight.sent = Sent::At(Instant::now());
                    if let Some(id) = id {
                        let told = RemoteJob { id, ..flight.told.clone() };
                        flight.tell(told, &self.events);
                    }
                }
                Err(Trouble::Unreachable(why)) => {
                    flight.sent = Sent::Perhaps;
                    self.lost_sight(&why);
                }
                Err(Trouble::Refused(why)) => refused.push((trial, why)),
            }
        }
        for (trial, why) in refused {
            self.refused(trial, why);
        }
        self.interval = POLL_MIN;
        self.poll_at = self.poll_at.min(Instant::now() + POLL_MIN);
    }

    /// The cluster takes no such job; if one got through all the same, it must not run.
    fn refused(&mut self, trial: TrialId, why: String) {
        let claimed = self.flights.get(&trial).map(|flight| flight.control.take_back());
        match claimed {
            Some(Ok(true)) => {
                self.broken(format!("{} refuses the job: {why}", self.kind.name()));
                self.interrupted(trial, "it could not be submitted".to_owned());
            }
            _ => {
                if let Some(flight) = self.flights.get_mut(&trial) {
                    flight.sent = Sent::Perhaps;
                }
            }
        }
    }

    fn poll(&mut self) {
        if self.cancel_at.take_if(|at| Instant::now() >= *at).is_some() {
            let jobs: Vec<_> = self.flights.values().map(Flight::name).collect();
            if let Err(trouble) = self.cluster.cancel(&jobs) {
                log::warn!("the cluster does not cancel: {}", trouble.words());
                self.cancel_at = Some(Instant::now() + POLL_MAX);
            }
        }
        let asked = Instant::now();
        let listed = self.cluster.list();
        let took = asked.elapsed();
        let changed = match listed {
            Ok(listed) => {
                if std::mem::take(&mut self.unreachable) {
                    log::info!("{} answers again", self.kind.name());
                    let _ = self.events.send(ExecutorEvent::Cluster { trouble: None });
                }
                let jobs = by_key(listed);
                self.forget_others(&jobs);
                self.look(&jobs)
            }
            Err(trouble) => {
                self.lost_sight(&trouble.words());
                self.look_alone()
            }
        };
        let longest = if self.unreachable { RETRY_MAX } else { POLL_MAX };
        self.interval = match changed || self.mode == Mode::Terminate {
            true => POLL_MIN,
            false => self.interval.mul_f64(1.25).min(longest),
        };
        // A list that failed says nothing of how long one takes.
        let rest = if self.unreachable { Duration::ZERO } else { took.saturating_mul(10) };
        self.poll_at = Instant::now() + self.interval.max(rest);
    }

    /// Lets the cluster forget jobs that are over and whose end is recorded: those that a crash left there, and those that
    /// it brought back (Ray does, when a job is deleted before its supervisor has ended).
    fn forget_others(&mut self, jobs: &HashMap<String, Listed>) {
        let known = |key: AttemptKey| {
            let flies = self.flights.get(&key.trial).is_some_and(|flight| flight.job.key.attempt == key.attempt);
            flies || self.reported.contains_key(&(key.trial, key.attempt))
        };
        let over = jobs.values().filter(|job| matches!(job.state, JobState::Over(_)));
        let others = over.filter(|job| AttemptKey::parse(&job.key).is_some_and(|key| !known(key)));
        let others: Vec<String> = others.map(|job| job.id.clone()).collect();
        self.cluster.forget(&others);
    }

    /// Goes through all attempts with what the cluster said; whether anything changed.
    fn look(&mut self, jobs: &HashMap<String, Listed>) -> bool {
        let mut changed = false;
        let trials: Vec<TrialId> = self.flights.keys().copied().collect();
        for trial in trials {
            let Some(flight) = self.flights.get_mut(&trial) else { continue };
            let job = jobs.get(&flight.job.key.to_string());
            if let Some(job) = job {
                let mut told = RemoteJob { id: job.id.clone(), ..flight.told.clone() };
                told.node = told.node.or_else(|| job.node.clone());
                if job.state == JobState::Running
                    && told.started_ms.is_none()
                    && let Some(begun) = flight.control.begun()
                {
                    (told.node, told.started_ms) = (Some(begun.node), Some(begun.at_ms));
                }
                match job.state {
                    // Told together with its end.
                    JobState::Over(_) => flight.told = told,
                    JobState::Queued | JobState::Running => changed |= flight.tell(told, &self.events),
                }
                if flight.sent == Sent::Perhaps {
                    flight.sent = Sent::At(Instant::now());
                }
            }
            let over = match (job.map(|job| job.state), flight.sent) {
                (Some(JobState::Queued | JobState::Running), _) | (None, Sent::No) => {
                    flight.beat = None;
                    continue;
                }
                (None, Sent::At(at)) if at.elapsed() < self.list_lag => {
                    changed |= self.take_result(trial, Why::Unknown);
                    continue;
                }
                (Some(JobState::Over(why)), _) => why,
                (None, _) => Why::Unknown,
            };
            changed |= self.settle(trial, over);
        }
        changed
    }

    /// The same without a word of the cluster's: only results count.
    fn look_alone(&mut self) -> bool {
        let trials: Vec<TrialId> = self.flights.keys().copied().collect();
        let mut any = false;
        for trial in trials {
            any |= self.take_result(trial, Why::Unknown);
        }
        any
    }

    /// Reports an attempt's result, if it left one; whether it did.
    fn take_result(&mut self, trial: TrialId, why: Why) -> bool {
        let Some(flight) = self.flights.get(&trial) else { return false };
        match flight.control.outcome() {
            Ok(Some(outcome)) => {
                self.ended(trial, outcome, why);
                true
            }
            Ok(None) => false,
            // A torn or foreign file is no result; one that cannot be read now may be readable later.
            Err(error) => {
                log::warn!("cannot read the result of trial {trial}: {error}");
                false
            }
        }
    }

    /// An attempt's job is over, or unknown: finds out what became of the attempt; whether that is known now.
    fn settle(&mut self, trial: TrialId, why: Why) -> bool {
        if self.take_result(trial, why) {
            return true;
        }
        let Some(flight) = self.flights.get_mut(&trial) else { return false };
        let claimed = match flight.control.is_claimed() {
            Ok(claimed) => claimed,
            Err(error) => {
                log::warn!("cannot look at trial {trial}: {error}");
                return false;
            }
        };
        if claimed {
            let beat = flight.control.last_beat();
            let since = match &flight.beat {
                Some((last, since)) if *last == beat => *since,
                _ => Instant::now(),
            };
            flight.beat = Some((beat, since));
            if since.elapsed() < self.lost_after {
                // Should it live after all, it ends.
                let _ = flight.control.cancel();
                return false;
            }
            self.lost(trial, why);
            return true;
        }
        if why == Why::Unknown && self.mode == Mode::Run {
            flight.sent = Sent::No;
            return true;
        }
        match flight.control.take_back() {
            Ok(true) => {
                self.never_began(trial, why);
                true
            }
            Ok(false) => false,
            Err(error) => {
                log::warn!("cannot take trial {trial} back: {error}");
                false
            }
        }
    }

    /// A job is over that never claimed its attempt.
    fn never_began(&mut self, trial: TrialId, why: Why) {
        let Some(flight) = self.flights.get(&trial) else { return };
        let verdict = match why {
            Why::Ended | Why::TimedOut | Why::OutOfMemory => match flight.control.said() {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    let why = format!("cannot read the log of the job of trial {trial}: {}", io_words(&error));
                    self.broken(why.clone());
                    Verdict::Interrupted { reason: why }
                }
                log => {
                    let log = excerpt_of(&log.unwrap_or_default());
                    let failed = failure("spawn_failed", format!("the job could not start: {log}"));
                    Verdict::Failed(Failure { log_excerpt: log, ..failed })
                }
            },
            other => Verdict::Interrupted { reason: other.words().to_owned() },
        };
        self.report(trial, verdict);
    }

    /// A job is over, was silent for long, and left no result.
    fn lost(&mut self, trial: TrialId, why: Why) {
        let verdict = by_cluster(why).unwrap_or_else(|| Verdict::Interrupted { reason: why.words().to_owned() });
        self.report(trial, verdict);
    }

    fn interrupted(&mut self, trial: TrialId, reason: String) {
        self.report(trial, Verdict::Interrupted { reason });
    }

    /// A job left its result.
    fn ended(&mut self, trial: TrialId, outcome: Outcome, why: Why) {
        let Some(flight) = self.flights.get(&trial) else { return };
        let broken = outcome.broken.clone();
        if let Some(parent) = outcome.parent_differs(&flight.job) {
            let _ = self.events.send(ExecutorEvent::Differs(Differs::Parent(Box::new(parent))));
        }
        let node = flight.control.begun().map_or_else(|| "a node".to_owned(), |begun| begun.node);
        let mut report = outcome.into_report(&flight.job.key);
        if matches!(report.verdict, Verdict::Interrupted { .. }) && self.mode < Mode::Terminate {
            // What cut it off was the cluster's limit.
            report.verdict = by_cluster(why).unwrap_or(report.verdict);
        }
        if let Some(broken) = broken {
            self.broken(format!("on {node}: {broken}"));
        }
        self.pass_on(trial, report);
    }

    fn report(&mut self, trial: TrialId, verdict: Verdict) {
        let Some(flight) = self.flights.get(&trial) else { return };
        let (attempt, usage) = (flight.job.key.attempt, Usage::default());
        self.pass_on(trial, AttemptReport { trial, attempt, ended_ms: unix_ms(), exit: None, usage, verdict });
    }

    /// Reports an end, after all that is known of the job.
    fn pass_on(&mut self, trial: TrialId, report: AttemptReport) {
        let Some(mut flight) = self.flights.remove(&trial) else { return };
        if let Some(begun) = flight.control.begun() {
            let told = RemoteJob { node: Some(begun.node), started_ms: Some(begun.at_ms), ..flight.told.clone() };
            flight.tell(told, &self.events);
        }
        self.reported.insert((trial, report.attempt), (flight.control, flight.told.id));
        let _ = self.events.send(ExecutorEvent::Ended(Box::new(report)));
    }

    fn lost_sight(&mut self, why: &str) {
        if !std::mem::replace(&mut self.unreachable, true) {
            log::info!("{} does not answer; waiting for it: {why}", self.kind.name());
            let _ = self.events.send(ExecutorEvent::Cluster { trouble: Some(why.to_owned()) });
        }
    }

    /// Once: nothing more can be submitted.
    fn broken(&mut self, why: String) {
        if !std::mem::replace(&mut self.told_broken, true) {
            let _ = self.events.send(ExecutorEvent::Broken(why));
        }
    }
}

impl Flight {
    fn name(&self) -> (String, Option<String>) {
        (self.job.key.to_string(), Some(self.told.id.clone()).filter(|id| !id.is_empty()))
    }

    /// Says what is known by now, if it is more than before.
    fn tell(&mut self, told: RemoteJob, events: &Sender<ExecutorEvent>) -> bool {
        let news = told != self.told;
        if news {
            self.told = told.clone();
            let (trial, attempt) = (self.job.key.trial, self.job.key.attempt);
            let _ = events.send(ExecutorEvent::Placed { trial, attempt, job: told });
        }
        news
    }
}

/// The verdict on an attempt that a limit of the cluster's cut off: its own fault, as a limit of the study's would be.
fn by_cluster(why: Why) -> Option<Verdict> {
    let kind = match why {
        Why::TimedOut => "timeout",
        Why::OutOfMemory => "out_of_memory",
        _ => return None,
    };
    Some(Verdict::Failed(failure(kind, why.words())))
}

#[cfg(test)]
mod tests;
