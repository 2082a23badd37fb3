//! What a trial leaves behind: processes that left its group (daemons) or are still dying when it ends.
//!
//! The keeper is subreaper, so whatever loses its parent becomes the keeper's child. The attempt key in
//! its environment says which trial it belonged to; if it cleared that, it may live as long as any trial it could belong
//! to. A trial counts as ended only when nothing attributable to it is alive. Never kill what may belong to a trial
//! that runs, and never a number: only a process seen just now, with its start time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::protocol::Exited;
use super::trial::Trial;
use crate::executor::ATTEMPT_KEY_VAR;
use crate::model::ProcessId;
use crate::sys::process::{Environ, Stat, all_processes, read_kernel_file, signal_exactly};

/// What resists SIGKILL this long sits in an uninterruptible system call and will never run its own code again; the
/// trial's end is reported without it.
const RESIST_LIMIT: Duration = Duration::from_secs(10);

/// A process in the middle of its `execve`, or of its end, shows no environment for a moment; so long the trials that
/// end wait for it to show one or be gone.
const EXEC_LIMIT: Duration = Duration::from_millis(50);

/// Nobody starts processes faster than this for long; bounds how soon pids can wrap round.
const MAX_FORKS_PER_S: u128 = 50_000;

/// A trial whose own process ended.
#[derive(Debug)]
pub(super) struct Ending {
    pid: u32,
    trial: Trial,
    exited: Exited,
    since: Instant,
}

impl Ending {
    pub(super) fn new(pid: u32, trial: Trial, exited: Exited) -> Self {
        Self { pid, trial, exited, since: Instant::now() }
    }
}

/// A pid and its start time.
type ProcessKey = (u32, u64);

/// An orphan that does not say whose it is.
#[derive(Debug)]
struct Suspect {
    /// The trials it may belong to; when the last of them ends, so does it.
    owners: BTreeSet<u64>,
    since: Instant,
}

/// Finds and ends what ended trials left behind.
#[derive(Debug)]
pub(super) struct Orphans {
    me: u32,
    pid_max: u32,
    ending: Vec<Ending>,
    /// Orphans that do not say whose they are.
    suspects: BTreeMap<ProcessKey, Suspect>,
    /// Something was killed that may leave further orphans.
    look_again: bool,
    /// Looks since something changed, for the pauses between them.
    looks: u32,
}

enum Owner {
    /// The ending trial at this place.
    Ended(usize),
    Running,
    /// A trial that ended long ago (it was missed then), or a piton within a trial, whose keeper died.
    Gone,
    /// It does not say.
    Unknown {
        /// It shows no environment at all.
        bare: bool,
    },
}

impl Orphans {
    pub(super) fn new(me: u32) -> Self {
        let pid_max =
            fs::read_to_string("/proc/sys/kernel/pid_max").ok().and_then(|text| text.trim().parse().ok());
        Self {
            me,
            pid_max: pid_max.unwrap_or(32_768),
            ending: Vec::new(),
            suspects: BTreeMap::new(),
            look_again: false,
            looks: 0,
        }
    }

    /// A trial's own process ended and its group was killed.
    pub(super) fn trial_ended(&mut self, ending: Ending) {
        self.ending.push(ending);
        self.looks = 0;
    }

    /// How long to sleep at most before [`Self::settle`] must look again (a dying child wakes the keeper sooner);
    /// `None`: nothing to wait for.
    pub(super) fn look_again_in(&self) -> Option<Duration> {
        let due = !self.ending.is_empty() || self.look_again;
        due.then(|| Duration::from_millis(50.min(1 << self.looks.min(6))))
    }

    /// Kills what ended trials left behind. Gives the ends of those that have left nothing (more).
    pub(super) fn settle(&mut self, running: &BTreeMap<u32, Trial>) -> Vec<Exited> {
        if self.ending.is_empty() && !self.look_again {
            return Vec::new();
        }
        self.looks = self.looks.saturating_add(1);
        // Whatever is left descends from a child of ours that is no trial. Mostly there is none, and that takes
        // microseconds to see, however busy the machine is.
        if children_of(self.me).is_some_and(|children| children.iter().all(|pid| running.contains_key(pid))) {
            self.look_again = false;
            return self.finish(&vec![0; self.ending.len()]);
        }
        // If it cannot look, whatever ended may have left something.
        let Some(seen) = self.look(running) else { return self.finish(&vec![1; self.ending.len()]) };
        self.look_again = false;
        let parents = seen.iter().map(|stat| (stat.pid, stat.parent)).collect();
        let mut left = vec![0_usize; self.ending.len()];
        let mut undecided = false;
        let me = self.me;
        for stat in seen.iter().filter(|stat| !stat.dead && is_orphan(stat, me, running, &parents)) {
            match self.owner(stat, running) {
                Owner::Ended(index) => {
                    // What may not be killed (a set-user-id program) cannot be waited for either.
                    if signal_exactly(stat.id(), Signal::KILL).is_ok()
                        && let Some(count) = left.get_mut(index)
                    {
                        *count += 1;
                    }
                }
                Owner::Running => {}
                // Only the roots of such trees: the rest become roots when these die.
                Owner::Gone | Owner::Unknown { .. } if stat.parent != me => {}
                Owner::Gone => self.look_again |= signal_exactly(stat.id(), Signal::KILL).unwrap_or(false),
                Owner::Unknown { bare } => undecided |= self.suspect(stat, running) < EXEC_LIMIT && bare,
            }
        }
        if undecided { Vec::new() } else { self.finish(&left) }
    }

    /// Takes the ends out that left nothing.
    fn finish(&mut self, left: &[usize]) -> Vec<Exited> {
        let mut finished = Vec::new();
        let mut counts = left.iter();
        self.ending.retain(|ending| {
            let clean = counts.next().is_none_or(|count| *count == 0);
            let done = clean || ending.since.elapsed() > RESIST_LIMIT;
            if done {
                finished.push(ending.exited);
            }
            !done
        });
        let mut killed = false;
        self.suspects.retain(|(pid, start_ticks), suspect| {
            suspect.owners.retain(|id| finished.iter().all(|exited| exited.id != *id));
            if suspect.owners.is_empty() {
                let process = ProcessId { pid: *pid, start_ticks: *start_ticks };
                killed |= signal_exactly(process, Signal::KILL).unwrap_or(false);
            }
            !suspect.owners.is_empty()
        });
        self.look_again |= killed;
        finished
    }

    /// Notes an orphan that does not say whose it is. For how long it has been noted.
    fn suspect(&mut self, stat: &Stat, running: &BTreeMap<u32, Trial>) -> Duration {
        let key = (stat.pid, stat.start_ticks);
        if let Some(suspect) = self.suspects.get(&key) {
            return suspect.since.elapsed();
        }
        let trials = running.values().chain(self.ending.iter().map(|ending| &ending.trial));
        let owners: BTreeSet<u64> =
            trials.filter(|trial| trial.start_ticks <= stat.start_ticks).map(|trial| trial.id).collect();
        if owners.is_empty() {
            // Its trial ended before it was noticed.
            self.look_again |= signal_exactly(stat.id(), Signal::KILL).unwrap_or(false);
            return EXEC_LIMIT;
        }
        self.suspects.insert(key, Suspect { owners, since: Instant::now() });
        Duration::ZERO
    }

    fn owner(&self, stat: &Stat, running: &BTreeMap<u32, Trial>) -> Owner {
        if let Some(index) =
            self.ending.iter().position(|ending| ending.pid == stat.group && ending.pid != stat.pid)
        {
            return Owner::Ended(index);
        }
        // Unreadable: someone else's, or on its way out with its memory already gone.
        let Ok(Some(environ)) = Environ::of(stat.pid) else { return Owner::Unknown { bare: true } };
        let Some(key) = environ.value(ATTEMPT_KEY_VAR) else { return Owner::Unknown { bare: environ.is_bare() } };
        if let Some(index) = self.ending.iter().position(|ending| ending.trial.key == key) {
            return Owner::Ended(index);
        }
        if running.values().any(|trial| trial.key == key) { Owner::Running } else { Owner::Gone }
    }

    /// The processes among which leftovers must be. Listing all of `/proc` takes milliseconds; if few pids were given
    /// out since the first of the ended trials started, looking at just those takes microseconds. `None`: cannot look now.
    fn look(&self, running: &BTreeMap<u32, Trial>) -> Option<Vec<Stat>> {
        let Some(range) = self.young_pids() else { return all_processes().ok() };
        let strangers = range.filter(|pid| !running.contains_key(pid)).map(Stat::of);
        let strangers: Vec<Option<Stat>> = strangers.collect::<Result<_, _>>().ok()?;
        // `/proc/<number>/stat` is there for threads too; they are no processes.
        Some(
            strangers
                .into_iter()
                .flatten()
                .filter(|stat| stat.parent != self.me || leads_threads(stat.pid))
                .collect(),
        )
    }

    /// The pids given out since the first ended trial started, if that can be known and they are few.
    fn young_pids(&self) -> Option<std::ops::RangeInclusive<u32>> {
        if self.look_again {
            return None;
        }
        let (threads, last) = load_average()?;
        let oldest = self.ending.iter().map(|ending| ending.trial.spawned.elapsed()).max()?;
        let may_have_wrapped = oldest.as_millis() * MAX_FORKS_PER_S / 1_000 >= u128::from(self.pid_max);
        let first = self.ending.iter().map(|ending| ending.pid).min()?;
        let in_order = self.ending.iter().all(|ending| ending.pid <= last);
        (!may_have_wrapped && in_order && last - first <= threads.saturating_mul(2).max(64))
            .then(|| first + 1..=last)
    }
}

/// Whether the process descends from the keeper, but from no trial that runs.
fn is_orphan(stat: &Stat, me: u32, running: &BTreeMap<u32, Trial>, parents: &BTreeMap<u32, u32>) -> bool {
    let (mut at, mut parent) = (stat.pid, stat.parent);
    // Bounded: a table read while processes come and go may hold a ring.
    for _ in 0..=parents.len() {
        if running.contains_key(&at) || running.contains_key(&parent) {
            return false;
        }
        if parent == me {
            return true;
        }
        match parents.get(&parent) {
            Some(next) => (at, parent) = (parent, *next),
            None => return false,
        }
    }
    false
}

/// The children of this process, which has one thread; `None` if the kernel does not list them. The list misses nothing:
/// the kernel adds at its end, and a child leaves it only when it is reaped, which nobody but the caller does.
fn children_of(me: u32) -> Option<Vec<u32>> {
    let mut text = String::new();
    let file = fs::File::open(format!("/proc/{me}/task/{me}/children")).ok()?;
    // A limit, so that the length of a file that has none is not asked for.
    file.take(u64::MAX).read_to_string(&mut text).ok()?;
    text.split_ascii_whitespace().map(|pid| pid.parse().ok()).collect()
}

/// Number of threads in the system, and the pid given out last: the last two numbers of `/proc/loadavg`.
fn load_average() -> Option<(u32, u32)> {
    let text = String::from_utf8(read_kernel_file("/proc/loadavg").ok()?).ok()?;
    let mut fields = text.split_ascii_whitespace().skip(3);
    let (_, threads) = fields.next()?.split_once('/')?;
    Some((threads.parse().ok()?, fields.next()?.parse().ok()?))
}

fn leads_threads(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let group = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    group.is_some_and(|group| group.trim().parse() == Ok(pid))
}
