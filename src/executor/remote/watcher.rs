//! The thread that submits, lists and reports. The table of what follows from what:
//!
//! | the cluster says | control directory | then |
//! | --- | --- | --- |
//! | queued, running | | wait |
//! | over, tidying up, in the queue again, or knows nothing | `exit.json` | that is the result, whatever the cluster says |
//! | knows nothing | no claim | the same key is submitted again, less and less often |
//! | over, or held after a node failed to start it | no claim | claimed here, so that it can never run; interrupted, and where the job could not start that place is avoided |
//! | knows nothing | claim, signs of life | it runs |
//! | over | claim, signs of life | it is asked to end |
//! | over, held, or knows nothing | claim, silent for `lost_after` | lost, and asked to end should it live after all |
//! | shows none of several jobs that it took | no claim | wait for `lost_after`, and report it: a list can be wrong |
//! | cannot be asked | `exit.json` | that is the result |
//! | cannot be asked | | wait: a list that failed is not an empty list |
//!
//! An attempt is reported once, and only when it can run no more. Silence is measured by this machine's clock alone.

mod look;
mod note;
mod outages;
mod starts;
mod verdicts;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeBounds;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::control::{Control, remove_others};
use super::wire::{Outcome, Task};
use super::{Cluster, ClusterError, JobState, Listed, Submission, Why, by_key};
use crate::executor::local::blame::failure;
use crate::executor::local::logs::excerpt_of;
use crate::executor::{AttemptKey, AttemptReport, Differs, ExecutorEvent, Job};
use crate::model::{AttemptNo, ExecutorKind, RemoteJob, StudyId, TrialId, Usage, Verdict};
use crate::study_file::Spec;
use crate::sys::clock::unix_ms;
use note::Noted;
use outages::Outages;
use starts::Starts;

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
/// A job that stays missing is submitted again at least this often.
const MISSING_MAX: Duration = Duration::from_secs(1_800);
/// From so many jobs on, a list that shows none of them is not believed.
const SEVERAL: usize = 2;

pub(super) enum Command {
    Submit(Box<Job>),
    Adopt(Box<Job>),
    Forget(TrialId, AttemptNo),
    /// Take back what has not begun of the trials from this one on.
    Withdraw(TrialId),
    /// End this one, or take it back.
    Prune(TrialId),
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
    /// It may have been taken: the list shows whether it was.
    Perhaps,
    /// It was, at this time.
    At(Instant),
}

struct Flight {
    job: Box<Job>,
    control: Control,
    sent: Sent,
    /// When it was submitted last, or was taken over.
    submitted: Instant,
    /// How often it was submitted.
    times: u32,
    /// When it was submitted or listed last.
    seen: Instant,
    told: RemoteJob,
    /// As much of that as the engine knows.
    known: RemoteJob,
    /// The cluster's name for where it is or was.
    place: Option<String>,
    /// What the cluster last said of it.
    said: Option<String>,
    /// Why it waits, as the cluster last said.
    waits: Option<String>,
    /// Who cancelled it, where the cluster says so.
    by: Option<String>,
    /// Whether piton asked it to end, in this run or in one before: then it is nobody else who cancelled it.
    asked_to_end: bool,
    /// Its last sign of life, and when that was new.
    beat: Option<(Option<Vec<u8>>, Instant)>,
    /// Since when its job tidies up.
    ending: Option<Instant>,
}

/// How the watching ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Mode {
    Run,
    Drain,
    Terminate,
}

/// What time it is. A test has its own.
type Clock = Box<dyn Fn() -> Instant + Send>;

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
    /// Why the cluster cannot be asked, or takes no jobs now.
    troubles: Outages,
    /// Whether it ever answered, or holds trials of an earlier run, which must not be given up.
    known: bool,
    /// Since when it has not, if it never did.
    asked_since: Option<Instant>,
    /// When to submit again, and how long after that again.
    submit_at: Option<Instant>,
    submit_interval: Duration,
    /// Jobs that could not start.
    starts: Starts,
    /// Nodes of which that was said.
    told_starts: BTreeSet<Option<String>>,
    told_broken: bool,
    clock: Clock,
    /// When those that were asked to end are cancelled by the cluster's means.
    cancel_at: Option<Instant>,
    /// The note that lies there and says why jobs wait.
    noted: Noted,
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
            troubles: Outages::default(),
            known: false,
            asked_since: None,
            submit_at: None,
            submit_interval: POLL_MIN,
            starts: Starts::default(),
            told_starts: BTreeSet::new(),
            told_broken: false,
            clock: Box::new(Instant::now),
            cancel_at: None,
            noted: Noted::Perhaps,
        }
    }

    fn now(&self) -> Instant {
        (self.clock)()
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
        self.take_note_away();
        let over: Vec<String> =
            self.reported.into_values().map(|(_, id)| id).filter(|id| !id.is_empty()).collect();
        self.cluster.forget(&over);
        self.cluster.close();
    }

    fn may_submit(&self) -> bool {
        let due = self.submit_at.is_none_or(|at| self.now() >= at);
        self.mode == Mode::Run && self.troubles.list.is_none() && !self.told_broken && due
    }

    /// Takes what the engine asks for, until the next poll is due; whether to go on.
    fn listen(&mut self) -> bool {
        loop {
            let waits = self.may_submit() && self.flights.values().any(|flight| flight.sent == Sent::No);
            let left = match () {
                () if waits => Duration::ZERO,
                () if self.flights.is_empty() => Duration::MAX,
                () => {
                    let next = self.submit_at.map_or(self.poll_at, |at| at.min(self.poll_at).max(self.now()));
                    next.saturating_duration_since(self.now())
                }
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
                self.known = true;
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
                self.recall(from..);
                self.interval = POLL_MIN;
                self.poll_at = Instant::now();
            }
            Command::Prune(trial) => self.prune(trial),
            Command::Drain => self.enter(Mode::Drain),
            Command::Terminate => self.enter(Mode::Terminate),
            Command::Leave => return false,
        }
        true
    }

    fn take(&mut self, job: Box<Job>, sent: Sent) {
        let control = Control::of(&self.root, &job.key);
        let told = RemoteJob { executor: self.kind, id: String::new(), node: None, started_ms: None };
        let asked_to_end = control.is_cancelled();
        let trial = job.key.trial;
        let flight = Flight {
            job,
            control,
            sent,
            submitted: self.now(),
            times: 0,
            seen: self.now(),
            known: told.clone(),
            told,
            place: None,
            said: None,
            waits: None,
            by: None,
            asked_to_end,
            beat: None,
            ending: None,
        };
        self.flights.insert(trial, flight);
        if self.mode > Mode::Run {
            self.enter(self.mode);
        }
    }

    fn enter(&mut self, mode: Mode) {
        self.mode = self.mode.max(mode);
        self.recall(TrialId(0)..);
        if self.mode == Mode::Terminate {
            for flight in self.flights.values_mut() {
                flight.ask_to_end();
            }
            let grace = Duration::from_millis(self.spec.run.grace_ms);
            self.cancel_at.get_or_insert_with(|| Instant::now() + grace + POLL_MIN);
        }
        self.interval = POLL_MIN;
        self.poll_at = Instant::now();
    }

    /// Ends a trial that is pruned: one that runs is asked to, by its control directory.
    fn prune(&mut self, trial: TrialId) {
        self.recall(trial..=trial);
        if let Some(flight) = self.flights.get_mut(&trial) {
            flight.ask_to_end();
        }
        self.interval = POLL_MIN;
        self.poll_at = Instant::now();
    }

    /// Takes back what has not begun of these trials: once it is claimed here, no job can run it.
    fn recall(&mut self, trials: impl RangeBounds<TrialId>) {
        let mut recalled = Vec::new();
        for (trial, flight) in self.flights.range(trials) {
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
            let (job, stage) = (&flight.job, &flight.job.stage_spec);
            jobs.push(Submission {
                key: job.key.to_string(),
                control,
                log: flight.control.log(),
                about: format!("{}/{}/{}", stage.study, stage.name, job.case),
                study_dir: stage.study_dir.clone(),
            });
            trials.push(trial);
        }
        if jobs.is_empty() {
            return;
        }
        let answers = self.cluster.submit(&jobs);
        let now = self.now();
        let (mut refused, mut trouble) = (Vec::new(), None);
        for (trial, answer) in trials.into_iter().zip(answers) {
            let Some(flight) = self.flights.get_mut(&trial) else { continue };
            (flight.submitted, flight.seen, flight.times) = (now, now, flight.times.saturating_add(1));
            match answer {
                Ok(id) => {
                    flight.sent = Sent::At(now);
                    if let Some(id) = id {
                        let told = RemoteJob { id, ..flight.told.clone() };
                        flight.tell(told, &self.events);
                    }
                }
                Err(ClusterError::Unreachable(why) | ClusterError::Stranger(why, _)) => {
                    flight.sent = Sent::Perhaps;
                    trouble = Some(why);
                }
                Err(ClusterError::Refused(why) | ClusterError::Gone(why)) => refused.push((trial, why)),
            }
        }
        match &trouble {
            // What was not taken is tried again less and less often, while the list is looked at as before.
            Some(_) => {
                self.submit_at = Some(now + self.submit_interval);
                self.submit_interval = (self.submit_interval * 2).min(RETRY_MAX);
            }
            None => (self.submit_at, self.submit_interval) = (None, POLL_MIN),
        }
        self.troubles.submit = trouble;
        self.tell_troubles();
        for (trial, why) in refused {
            self.refused(trial, why);
        }
        self.interval = POLL_MIN;
        self.poll_at = self.poll_at.min(now + POLL_MIN);
    }

    /// The cluster takes no such job; if one got through all the same, it must not run.
    fn refused(&mut self, trial: TrialId, why: String) {
        let claimed = self.flights.get(&trial).map(|flight| flight.control.take_back());
        match claimed {
            Some(Ok(true)) => {
                let refusal = format!("{} refuses the job: {why}", self.kind.name());
                let words = self.starts.nothing_left(&refusal).unwrap_or(refusal);
                self.broken(words);
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
        if self.cancel_at.take_if(|at| (self.clock)() >= *at).is_some() {
            let jobs: Vec<_> = self.flights.values().map(Flight::name).collect();
            if let Err(trouble) = self.cluster.cancel(&jobs) {
                log::warn!("the cluster does not cancel: {}", trouble.words());
                self.cancel_at = Some(self.now() + POLL_MAX);
            }
        }
        let asked = self.now();
        let listed = self.cluster.list();
        let took = self.now().saturating_duration_since(asked);
        let changed = match listed {
            Ok(listed) => {
                if self.troubles.list.take().is_some() {
                    log::info!("{} answers again", self.kind.name());
                }
                self.known = true;
                let jobs = by_key(listed);
                self.forget_others(&jobs);
                // After the list was timed: it must not be asked for less often for this.
                self.ask_who_cancelled(&jobs);
                self.troubles.doubt = self.doubt(&jobs);
                let changed = self.look(&jobs);
                self.note();
                if self.flights.values().all(|flight| matches!(flight.sent, Sent::At(_))) {
                    self.troubles.submit = None;
                }
                self.tell_troubles();
                changed
            }
            Err(ClusterError::Gone(why)) => {
                self.broken(why);
                self.look(&HashMap::new())
            }
            Err(trouble) => {
                self.not_listed(trouble);
                self.look_alone()
            }
        };
        let longest = if self.troubles.list.is_some() { RETRY_MAX } else { POLL_MAX };
        self.interval = match changed || self.mode == Mode::Terminate {
            true => POLL_MIN,
            false => self.interval.mul_f64(1.25).min(longest),
        };
        // A list that failed says nothing of how long one takes.
        let rest = if self.troubles.list.is_some() { Duration::ZERO } else { took.saturating_mul(10) };
        self.poll_at = self.now() + self.interval.max(rest);
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

    /// Once: nothing more can be submitted.
    fn broken(&mut self, why: String) {
        if !std::mem::replace(&mut self.told_broken, true) {
            // It stays with the study until the next run.
            let _ = self.events.send(ExecutorEvent::Cluster { trouble: Some(why.clone()) });
            let _ = self.events.send(ExecutorEvent::Broken(why));
        }
    }
}

impl Flight {
    /// By its control directory, wherever it runs.
    fn ask_to_end(&mut self) {
        self.asked_to_end = true;
        if let Err(error) = self.control.cancel() {
            log::warn!("cannot ask trial {} to end: {error}", self.job.key.trial);
        }
    }

    fn name(&self) -> (String, Option<String>) {
        (self.job.key.to_string(), Some(self.told.id.clone()).filter(|id| !id.is_empty()))
    }

    /// Notes what the cluster's list says of it; whether that is news.
    fn is_listed(&mut self, job: &Listed, now: Instant, events: &Sender<ExecutorEvent>) -> bool {
        let mut told = RemoteJob { id: job.id.clone(), ..self.told.clone() };
        if told.started_ms.is_none() {
            told.node = job.node.clone().or(told.node);
            if matches!(job.state, JobState::Running | JobState::Ending)
                && let Some(begun) = self.control.begun()
            {
                (told.node, told.started_ms) = (Some(begun.node), Some(begun.at_ms));
            }
        }
        self.place = job.place.clone().or(self.place.take());
        self.said.clone_from(&job.said);
        self.waits.clone_from(&job.waits);
        if self.sent == Sent::Perhaps || matches!(self.sent, Sent::At(_)) {
            // It is there: if it goes missing, that begins then.
            self.sent = Sent::At(now);
            self.seen = now;
        }
        match job.state {
            // Told together with its end.
            JobState::Over(_) => {
                self.told = told;
                false
            }
            _ => self.tell(told, events),
        }
    }

    /// How long it has given no sign of life, by this machine's clock.
    fn silent_for(&mut self, now: Instant) -> Duration {
        let beat = self.control.last_beat();
        let since = match &self.beat {
            Some((last, since)) if *last == beat => *since,
            _ => now,
        };
        self.beat = Some((beat, since));
        now.saturating_duration_since(since)
    }

    /// Says what is known by now, if it is more than before.
    fn tell(&mut self, told: RemoteJob, events: &Sender<ExecutorEvent>) -> bool {
        self.told = told.clone();
        let news = told != self.known;
        if news {
            self.known = told.clone();
            let (trial, attempt) = (self.job.key.trial, self.job.key.attempt);
            let _ = events.send(ExecutorEvent::Placed { trial, attempt, job: told });
        }
        news
    }
}

#[cfg(test)]
mod tests;
