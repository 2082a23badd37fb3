//! Reads what running trials report, where that may end them early: one thread for all of them.
//!
//! It follows files that grow and says what counts of them. The system tells of writes to local files; where it may not, and on
//! file systems that other machines write to, it looks once a second. Whatever a trial writes, and however fast: it is read in bounded pieces, some
//! twenty times a second at most, and the engine hears of rungs and rules alone. What it has not read when an attempt ends is read
//! then, so that no outcome hangs on how fast it is: nothing here may decide anything.

use std::collections::{BTreeMap, HashMap};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, unbounded};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use super::local::parents::Parents;
use super::local::placing::Grounds;
use super::local::watched_case;
use super::{ExecutorEvent, Job};
use crate::model::TrialId;
use crate::study_file::progress::Tail;
use crate::study_file::watching::{Lookout, Showing};
use crate::sys::opened::Opened;
use crate::sys::tree_hash::to_the_end;
use crate::sys::words::io_words;

/// Between two looks at a file whose writes the system tells of.
const PAUSE: Duration = Duration::from_millis(50);
/// Between two looks at one that it may not tell of.
const POLL: Duration = Duration::from_secs(1);
/// News of writes taken before trials have their turn.
const TOLD_AT_ONCE: usize = 1_000;
/// Read of one trial before it is another's turn, bytes.
const TURN_BYTES: u64 = 1 << 20;

/// Watches trials, in a thread that ends with it.
pub(crate) struct ReportWatcher {
    orders: Option<Sender<Order>>,
    bell: Arc<OwnedFd>,
}

enum Order {
    Watch(Box<Job>),
    Look(TrialId),
    Forget(TrialId),
}

impl ReportWatcher {
    /// `tells`: whether the system tells of all writes; not where other machines run the trials.
    ///
    /// # Errors
    /// If a thread or descriptors cannot be had.
    pub(crate) fn start(tells: bool, events: Sender<ExecutorEvent>) -> std::io::Result<Self> {
        let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        // Without it everything is looked at once a second.
        let inotify = tells.then(|| inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok()).flatten();
        let (orders, inbox) = unbounded();
        let watching = Watching {
            inbox,
            bell: Arc::clone(&bell),
            inotify,
            grounds: Grounds::default(),
            parents: Parents::default(),
            events,
            trials: BTreeMap::new(),
            places: HashMap::new(),
        };
        std::thread::Builder::new().name("reports".into()).spawn(move || watching.run())?;
        Ok(Self { orders: Some(orders), bell })
    }

    /// Watches a job that has started, if its stage is watched.
    pub(crate) fn watch(&self, job: &Job) {
        if job.stage_spec.lookout.is_some() {
            self.order(Order::Watch(Box::new(job.clone())));
        }
    }

    /// The trial has just reported.
    pub(crate) fn look(&self, trial: TrialId) {
        self.order(Order::Look(trial));
    }

    /// Its attempt has ended.
    pub(crate) fn forget(&self, trial: TrialId) {
        self.order(Order::Forget(trial));
    }

    fn order(&self, order: Order) {
        if let Some(orders) = &self.orders {
            let _ = orders.send(order);
            self.ring();
        }
    }

    fn ring(&self) {
        // A bell that rings already is heard.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }
}

impl Drop for ReportWatcher {
    fn drop(&mut self) {
        self.orders = None;
        self.ring();
    }
}

/// A trial that is watched.
struct Watched {
    job: Box<Job>,
    /// Once it is there.
    case: Option<Arc<Opened>>,
    tail: Option<Tail>,
    lookout: Lookout,
    /// As much of what it showed as was told: rungs, and whether it met a rule.
    told: (usize, bool),
    /// The directory that the system tells of.
    place: Option<i32>,
    /// Whether it has to be looked at without being told.
    polled: bool,
    /// Something was written since the last look.
    stirred: bool,
    looked: Option<Instant>,
}

struct Watching {
    inbox: Receiver<Order>,
    bell: Arc<OwnedFd>,
    inotify: Option<OwnedFd>,
    grounds: Grounds,
    parents: Parents,
    events: Sender<ExecutorEvent>,
    trials: BTreeMap<TrialId, Watched>,
    /// Whose directory it is.
    places: HashMap<i32, TrialId>,
}

impl Watching {
    fn run(mut self) {
        while self.obey() {
            let now = Instant::now();
            let due: Vec<TrialId> = self
                .trials
                .iter()
                .filter(|(_, watched)| watched.wait(now) == Some(Duration::ZERO))
                .map(|(t, _)| *t)
                .collect();
            for trial in due {
                self.look(trial, now);
            }
            self.wait();
        }
    }

    /// Takes what was asked for; whether to go on.
    fn obey(&mut self) -> bool {
        loop {
            match self.inbox.try_recv() {
                Ok(Order::Watch(job)) => {
                    let Some(lookout) = job.stage_spec.lookout.clone() else { continue };
                    let (trial, told) = (job.key.trial, (0, false));
                    self.forget(trial);
                    let watched = Watched {
                        job,
                        case: None,
                        tail: None,
                        lookout,
                        told,
                        place: None,
                        polled: true,
                        stirred: true,
                        looked: None,
                    };
                    self.trials.insert(trial, watched);
                }
                Ok(Order::Look(trial)) => {
                    if let Some(watched) = self.trials.get_mut(&trial) {
                        watched.stirred = true;
                    }
                }
                Ok(Order::Forget(trial)) => self.forget(trial),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn forget(&mut self, trial: TrialId) {
        let Some(place) = self.trials.remove(&trial).and_then(|watched| watched.place) else { return };
        self.places.remove(&place);
        if let Some(inotify) = &self.inotify {
            let _ = inotify::remove_watch(inotify, place);
        }
    }

    /// Reads what a trial has written since, and tells what counts of it.
    fn look(&mut self, trial: TrialId, now: Instant) {
        let Some(watched) = self.trials.get_mut(&trial) else { return };
        (watched.stirred, watched.looked) = (false, Some(now));
        match watched.read(&self.grounds, self.inotify.as_ref()) {
            Ok(()) => {}
            Err(error) => {
                // It is read once more when the attempt has ended.
                log::warn!("cannot read what `{}` reports: {}", watched.job.case, io_words(&error));
                return self.forget(trial);
            }
        }
        self.places.extend(watched.place.map(|place| (place, trial)));
        let seen = watched.lookout.seen();
        let (rungs, met) = watched.told;
        let news = Showing {
            rungs: seen.rungs.get(rungs..).unwrap_or_default().to_vec(),
            met: seen.met.clone().filter(|_| !met),
        };
        // What a trial shows on what its parent did not leave says nothing; its executor will say so.
        let is_well = || self.parents.look(&watched.job, &to_the_end).is_ok();
        if !news.is_nothing() && is_well() {
            watched.told = (seen.rungs.len(), seen.met.is_some());
            let attempt = watched.job.key.attempt;
            let _ =
                self.events.send(ExecutorEvent::Shown { trial, attempt, shown: Box::new(news), looked: false });
        }
        if watched.lookout.is_over() {
            self.forget(trial);
        }
    }

    /// Waits until something is written, asked for or due.
    fn wait(&mut self) {
        let now = Instant::now();
        let wait = self.trials.values().filter_map(|watched| watched.wait(now)).min();
        let limit = wait.and_then(|wait| Timespec::try_from(wait).ok());
        let mut fds = vec![PollFd::new(&*self.bell, PollFlags::IN)];
        fds.extend(self.inotify.as_ref().map(|inotify| PollFd::new(inotify, PollFlags::IN)));
        if poll(&mut fds, limit.as_ref()).is_err() {
            // It was interrupted; whatever else it is, nothing may spin.
            std::thread::sleep(PAUSE);
        }
        let mut rings = [0; 8];
        let _ = rustix::io::read(&*self.bell, &mut rings);
        self.listen();
    }

    /// What the system tells of.
    fn listen(&mut self) {
        let Some(inotify) = &self.inotify else { return };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut told = inotify::Reader::new(inotify, &mut buffer);
        // A flood of writes is told of again; others have their turn first.
        for _ in 0..TOLD_AT_ONCE {
            let Ok(event) = told.next() else { break };
            if event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW) {
                self.trials.values_mut().for_each(|watched| watched.stirred = true);
            }
            if let Some(watched) = self.places.get(&event.wd()).and_then(|trial| self.trials.get_mut(trial)) {
                watched.stirred = true;
                // Its directory is gone, or another lies there.
                watched.polled |= event.events().contains(inotify::ReadFlags::IGNORED);
            }
        }
    }
}

impl Watched {
    /// How long until it has to be looked at; `None`: not before something is told of it.
    fn wait(&self, now: Instant) -> Option<Duration> {
        let Some(looked) = self.looked else { return Some(Duration::ZERO) };
        let every = match (self.stirred, self.polled) {
            (true, _) => PAUSE,
            (false, true) => POLL,
            (false, false) => return None,
        };
        Some(every.saturating_sub(now.saturating_duration_since(looked)))
    }

    fn read(&mut self, grounds: &Grounds, inotify: Option<&OwnedFd>) -> std::io::Result<()> {
        if self.case.is_none() {
            self.case = watched_case(grounds, &self.job)?;
        }
        let Some(case) = self.case.clone() else { return Ok(()) };
        let tail = match &mut self.tail {
            Some(tail) => tail,
            None => {
                let (printed, attempt) = (self.job.stage_spec.printed.as_ref(), self.job.key.attempt);
                let lookout = &mut self.lookout;
                self.tail.insert(Tail::new(&case, printed, attempt, |report| lookout.take(report))?)
            }
        };
        // Before it is read: what is written after that is told of.
        if let Some(inotify) = inotify.filter(|_| self.place.is_none()) {
            self.place = place_of(inotify, &case, tail.path());
            self.polled = self.place.is_none();
        }
        let lookout = &mut self.lookout;
        self.stirred |= tail.read_on(&case, TURN_BYTES, |report| lookout.take(report))?;
        Ok(())
    }
}

/// Has the system tell of writes to what lies in the directory of a file; `None` if it may not tell of all.
fn place_of(inotify: &OwnedFd, case: &Opened, file: &Path) -> Option<i32> {
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty());
    let opened = match dir {
        Some(dir) => Some(case.open(&case.resolve(dir).ok()?.0).ok()?),
        None => None,
    };
    let dir = opened.as_ref().unwrap_or(case);
    if is_shared(dir) {
        return None;
    }
    let flags = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
    inotify::add_watch(inotify, dir.path_now(), flags).ok()
}

/// Whether other machines may write there, of which this one is not told: by the numbers that statfs(2) gives to file systems.
fn is_shared(dir: &Opened) -> bool {
    const LOCAL: [u64; 12] = [
        0xef53,      // ext2, ext3, ext4
        0x5846_5342, // xfs
        0x9123_683e, // btrfs
        0x0102_1994, // tmpfs
        0x8584_58f6, // ramfs
        0x794c_7630, // overlayfs
        0x2fc1_2fc1, // zfs
        0xf2f5_2010, // f2fs
        0xca45_1a4e, // bcachefs
        0x5265_4973, // reiserfs
        0x3153_464a, // jfs
        0x4d44,      // fat
    ];
    let kind = rustix::fs::statfs(dir.path_now()).map(|system| system.f_type);
    // What is not known may be anything.
    kind.map_or(true, |kind| !LOCAL.contains(&u64::try_from(kind).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_file_systems_are_known_and_others_are_looked_at() {
        let root = tempfile::tempdir().unwrap();
        assert!(!is_shared(&Opened::dir(root.path()).unwrap()), "tests run on one of the list");
        assert!(is_shared(&Opened::dir(Path::new("/proc")).unwrap()));
    }
}
