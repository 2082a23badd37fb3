//! Ending what a dead engine's trials left, before any of them runs again.
//!
//! The keeper leaves nothing unless it was killed together with the engine. What leads to what is left then is the attempt
//! key in a process's environment. A number that a store names is trusted no further: the group of a recorded process is
//! killed as a whole if that very process shows the key. Never kills this process, its ancestors or its own children (the
//! keeper among them).

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::cgroup::{CGROUP_VAR, Parent};
use crate::executor::{ATTEMPT_KEY_VAR, AttemptKey};
use crate::model::{AttemptNo, ProcessId, RunningRow, StudyId, TrialId};
use crate::sys::process::{Environ, Stat, all_processes, signal_exactly, signal_group_exactly, wait_gone};

/// What resists SIGKILL longer sits in an uninterruptible system call: running its trial again would not be safe.
const LIMIT: Duration = Duration::from_secs(20);

/// A process in the middle of its `execve` shows no environment for a moment; as long as some process shows none, look
/// again, this long.
const EXEC_LIMIT: Duration = Duration::from_millis(50);

/// The parent of all kernel threads, which never have an environment.
const KERNEL_THREADS: u32 = 2;

/// A process that was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KilledStray {
    /// The process that was killed.
    pub process: ProcessId,
    /// The attempt whose environment it had.
    pub key: AttemptKey,
}

/// Kills every process of the study's trials that is still alive, and waits until they are dead. `running` are the
/// attempts recorded as running; their pids mean something only if they were noted during this boot. Those on a cluster
/// are spared: a node of it may be this machine.
///
/// # Errors
/// If `/proc` cannot be read, or something does not die within 20 seconds.
pub(crate) fn kill_strays(
    study: StudyId,
    running: &[RunningRow],
    same_boot: bool,
) -> io::Result<Vec<KilledStray>> {
    // No trial of a simulated study is a process.
    simulated!(|_machine| Ok(Vec::new()));
    let mut killed = Vec::new();
    for row in running.iter().filter(|_| same_boot) {
        let Some(process) = row.process else { continue };
        let key = AttemptKey { study, trial: row.trial, attempt: row.attempt };
        let environ = Environ::of(process.pid)?;
        let says = environ.as_ref().and_then(|environ| environ.value(ATTEMPT_KEY_VAR));
        let owned = says.is_some_and(|says| says == key.to_string().as_bytes());
        if owned && signal_group_exactly(process, Signal::KILL)? {
            killed.push(KilledStray { process, key });
        }
    }
    let remote: HashSet<(TrialId, AttemptNo)> =
        running.iter().filter(|row| row.executor.is_remote()).map(|row| (row.trial, row.attempt)).collect();
    kill_by_key(&mut killed, |key| key.study == study && !remote.contains(&(key.trial, key.attempt)))?;
    remove_cgroups(study);
    Ok(killed)
}

/// The processes that show a key of the study, and all they descend from: nearest first, each once.
///
/// # Errors
/// If `/proc` cannot be read.
pub(crate) fn ancestors_of_trials(study: StudyId) -> io::Result<Vec<ProcessId>> {
    simulated!(|_machine| Ok(Vec::new()));
    let processes = all_processes()?;
    let by_pid: BTreeMap<u32, &Stat> = processes.iter().map(|stat| (stat.pid, stat)).collect();
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for stat in processes.iter().filter(|stat| !stat.dead) {
        if !key_of(stat.pid)?.is_some_and(|key| key.study == study) {
            continue;
        }
        let mut at = Some(stat);
        while let Some(stat) = at.filter(|stat| seen.insert(stat.pid)) {
            found.push(stat.id());
            at = by_pid.get(&stat.parent).copied();
        }
    }
    Ok(found)
}

/// The key that a process shows; none of one that is gone or somebody else's.
fn key_of(pid: u32) -> io::Result<Option<AttemptKey>> {
    Ok(Environ::of(pid)?.as_ref().and_then(key_in))
}

fn key_in(environ: &Environ) -> Option<AttemptKey> {
    AttemptKey::parse(std::str::from_utf8(environ.value(ATTEMPT_KEY_VAR)?).ok()?)
}

/// Their cgroups, empty now. One that stays costs next to nothing, so this is no reason not to start.
fn remove_cgroups(study: StudyId) {
    // What is wrong with a named one is an error once a trial is to be limited.
    let parents = Parent::candidates(std::env::var_os(CGROUP_VAR).as_deref()).unwrap_or_default();
    for parent in parents {
        if let Err(error) = parent.remove_leftovers(study) {
            log::warn!("cannot look for cgroups that an earlier run left: {error}");
        }
    }
}

/// Likewise for one attempt, found by its key alone.
pub(in crate::executor) fn kill_attempt(attempt: &AttemptKey) -> io::Result<Vec<KilledStray>> {
    let mut killed = Vec::new();
    kill_by_key(&mut killed, |key| key == attempt)?;
    Ok(killed)
}

fn kill_by_key(killed: &mut Vec<KilledStray>, ours: impl Fn(&AttemptKey) -> bool) -> io::Result<()> {
    let start = Instant::now();
    loop {
        let processes = all_processes()?;
        let spared = spared(&processes);
        let mut bare = false;
        let mut alive: Vec<ProcessId> =
            killed.iter().map(|stray| stray.process).filter(|process| is_among(*process, &processes)).collect();
        for stat in processes.iter().filter(|stat| !stat.dead && !spared.contains(&stat.pid)) {
            let Some(environ) = Environ::of(stat.pid)? else { continue };
            bare |= environ.is_bare() && stat.parent != KERNEL_THREADS;
            let Some(key) = key_in(&environ).filter(&ours) else { continue };
            if signal_exactly(stat.id(), Signal::KILL)? && !killed.iter().any(|stray| stray.process == stat.id()) {
                killed.push(KilledStray { process: stat.id(), key });
            }
            alive.push(stat.id());
        }
        let Some(first) = alive.first() else {
            if bare && start.elapsed() < EXEC_LIMIT {
                std::thread::sleep(EXEC_LIMIT / 10);
                continue;
            }
            return Ok(());
        };
        for process in &alive {
            if !wait_gone(*process, Some(LIMIT.saturating_sub(start.elapsed())))? {
                return Err(unkillable(first));
            }
        }
        // One that was just forking may have left a child: look again, but not for ever (a fork bomb).
        if start.elapsed() > LIMIT {
            return Err(unkillable(first));
        }
    }
}

fn unkillable(process: &ProcessId) -> io::Error {
    let text = format!("process {} of an earlier run does not die; its trial must not run twice", process.pid);
    io::Error::new(io::ErrorKind::TimedOut, text)
}

fn is_among(process: ProcessId, processes: &[Stat]) -> bool {
    processes.iter().any(|stat| stat.id() == process && !stat.dead)
}

/// This process, its ancestors (a shell started by a trial may have started us) and its children.
fn spared(processes: &[Stat]) -> BTreeSet<u32> {
    let parents: BTreeMap<u32, u32> = processes.iter().map(|stat| (stat.pid, stat.parent)).collect();
    let me = std::process::id();
    let mut spared: BTreeSet<u32> =
        processes.iter().filter(|stat| stat.parent == me).map(|stat| stat.pid).collect();
    let mut at = Some(me);
    while let Some(pid) = at.filter(|pid| spared.insert(*pid)) {
        at = parents.get(&pid).copied();
    }
    spared
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::model::TrialId;

    /// A shell that starts `sleep` with the key in the background, out of our children, and prints its pid.
    fn stray(key: &AttemptKey) -> ProcessId {
        let output = Command::new("setsid")
            .args(["--fork", "sh", "-c", "echo $$; exec sleep 1000 >/dev/null"])
            .env(ATTEMPT_KEY_VAR, key.to_string())
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .unwrap();
        Stat::of(String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()).unwrap().unwrap().id()
    }

    fn key(study: u8, trial: u64) -> AttemptKey {
        AttemptKey { study: StudyId([study; 16]), trial: TrialId(trial), attempt: 1 }
    }

    use crate::model::ExecutorKind;

    fn row(trial: u64, process: ProcessId) -> RunningRow {
        RunningRow { trial: TrialId(trial), attempt: 1, process: Some(process), executor: ExecutorKind::Local }
    }

    #[test]
    fn strays_die_wherever_they_went_and_others_live() {
        let mine = [stray(&key(1, 1)), stray(&key(1, 2))];
        let other = stray(&key(2, 1));
        let killed = kill_strays(StudyId([1; 16]), &[row(1, mine[0])], true).unwrap();
        let mut found: Vec<_> = killed.iter().map(|stray| (stray.key.trial, stray.process.pid)).collect();
        found.sort();
        assert_eq!(found, [(TrialId(1), mine[0].pid), (TrialId(2), mine[1].pid)]);
        assert!(!mine.into_iter().any(|process| crate::sys::process::lives(process).unwrap()));
        assert!(crate::sys::process::lives(other).unwrap());
        assert_eq!(kill_attempt(&key(2, 9)).unwrap(), []);
        assert_eq!(kill_attempt(&key(2, 1)).unwrap(), [KilledStray { process: other, key: key(2, 1) }]);
        assert!(!crate::sys::process::lives(other).unwrap());
    }

    #[test]
    fn a_recorded_number_that_means_another_process_now_is_left_alone() {
        let other = stray(&key(3, 1));
        let reused = ProcessId { start_ticks: other.start_ticks - 1, ..other };
        let study = StudyId([4; 16]);
        assert_eq!(kill_strays(study, &[row(1, reused)], true).unwrap(), []);
        assert_eq!(kill_strays(study, &[row(1, other)], false).unwrap(), [], "another boot's number");
        assert_eq!(kill_strays(study, &[row(1, other)], true).unwrap(), [], "it says it is another study's");
        assert!(crate::sys::process::lives(other).unwrap());
        kill_attempt(&key(3, 1)).unwrap();
    }

    #[test]
    fn a_recorded_process_without_the_key_is_nobodys_stray() {
        // Whatever a forged store names: one without any key, and one that shows nothing at all.
        for program in [&["sleep", "1000"][..], &["env", "-i", "sleep", "1000"]] {
            let output = Command::new("setsid")
                .args(["--fork", "sh", "-c", "echo $$; exec \"$@\" >/dev/null", "sh"])
                .args(program)
                .env_remove(ATTEMPT_KEY_VAR)
                .stdin(Stdio::null())
                .stderr(Stdio::null())
                .output()
                .unwrap();
            let pid = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
            let innocent = Stat::of(pid).unwrap().unwrap().id();
            assert_eq!(kill_strays(StudyId([6; 16]), &[row(1, innocent)], true).unwrap(), []);
            assert!(crate::sys::process::lives(innocent).unwrap());
            signal_exactly(innocent, Signal::KILL).unwrap();
        }
    }

    #[test]
    fn children_of_this_process_are_spared() {
        let mut child =
            Command::new("sleep").arg("1000").env(ATTEMPT_KEY_VAR, key(5, 1).to_string()).spawn().unwrap();
        assert_eq!(kill_strays(StudyId([5; 16]), &[], true).unwrap(), []);
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
