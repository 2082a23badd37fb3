//! What becomes of processes whose keeper died: they come to this process, if it asked for that, and end here.
//!
//! Being the one that orphans come to is an attribute of the whole process, and a program that embeds piton may rely on
//! not having it: so a program asks for it by [`adopt`], before it starts a keeper. Without that, what left its group
//! *and* cleared its environment outlives a keeper that is killed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, set_child_subreaper, waitpid};

use super::process::{Stat, all_processes, signal_exactly};

/// What resists SIGKILL longer sits in an uninterruptible system call: it never runs a line of its own code again.
const LIMIT: Duration = Duration::from_secs(20);

/// Children that are not adopted: keepers, and whatever was there before. `None`: nothing comes to this process.
static OWN: Mutex<Option<BTreeSet<u32>>> = Mutex::new(None);

fn own() -> MutexGuard<'static, Option<BTreeSet<u32>>> {
    OWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on orphans among the descendants of this process come to it. For programs, before they start anything.
///
/// # Errors
/// What the kernel says.
pub fn adopt() -> io::Result<()> {
    let mut own = own();
    let me = std::process::id();
    // A shell that became this program may have left it some.
    let here = all_processes()?.iter().filter(|stat| stat.parent == me).map(|stat| stat.pid).collect();
    set_child_subreaper(Some(rustix::process::getpid()))?;
    own.get_or_insert(here);
    Ok(())
}

/// Starts a child that sessions of its own descend from, and that is not to be taken for an orphan.
pub(crate) fn not_adopted(start: impl FnOnce() -> io::Result<u32>) -> io::Result<u32> {
    let mut own = own();
    let pid = start()?;
    if let Some(own) = own.as_mut() {
        own.insert(pid);
    }
    Ok(pid)
}

/// Such a child is gone, and reaped.
pub(crate) fn forget(pid: u32) {
    if let Some(own) = own().as_mut() {
        own.remove(&pid);
    }
}

/// Kills what came to this process and all that descends from it, and waits until it is dead. Whatever is in this process's
/// own session is not of a keeper's: it cannot have come from another one.
///
/// # Errors
/// If `/proc` cannot be read, or something does not die within 20 seconds.
pub(crate) fn end_adopted() -> io::Result<()> {
    let own = own();
    let Some(own) = own.as_ref() else { return Ok(()) };
    let me = std::process::id();
    let begun = Instant::now();
    loop {
        let processes = all_processes()?;
        let session = processes.iter().find(|stat| stat.pid == me).map(|stat| stat.session);
        let by_pid: BTreeMap<u32, &Stat> = processes.iter().map(|stat| (stat.pid, stat)).collect();
        // One that forked and ended while the list was read shows here as dead, and its child not at all: the last look is
        // one that found nothing, dead or alive.
        let mut found = None;
        for stat in &processes {
            let root = root_below(stat, me, &by_pid);
            let Some(root) = root.filter(|root| !own.contains(&root.pid) && Some(root.session) != session) else {
                continue;
            };
            if !stat.dead {
                // One that may not be killed (a set-user-id program) is not ours to wait for.
                if signal_exactly(stat.id(), Signal::KILL).unwrap_or(false) {
                    found = Some(stat.pid);
                }
            } else {
                found = found.or(Some(stat.pid));
                if stat.pid == root.pid {
                    reap(stat.pid);
                }
            }
        }
        match found {
            None => return Ok(()),
            Some(pid) if begun.elapsed() > LIMIT => {
                let words = format!("process {pid}, which a trial left, does not die");
                return Err(io::Error::new(io::ErrorKind::TimedOut, words));
            }
            Some(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

/// The child of `me` that a process descends from, or is.
fn root_below<'a>(stat: &'a Stat, me: u32, by_pid: &BTreeMap<u32, &'a Stat>) -> Option<&'a Stat> {
    let mut at = stat;
    // Bounded: a table read while processes come and go may hold a ring.
    for _ in 0..=by_pid.len() {
        if at.parent == me {
            return Some(at);
        }
        at = by_pid.get(&at.parent)?;
    }
    None
}

fn reap(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    // Should it be somebody else's child after all, it is reaped already.
    let _ = waitpid(pid, WaitOptions::NOHANG);
}
