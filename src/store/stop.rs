//! Asking a running engine to stop, and waiting until it has.
//!
//! The lock on the store shows whether an engine runs, and which process here it is; only that process is signalled, through
//! a pidfd, and only if it listens. An engine in another PID namespace or on another host is asked by a file beside the
//! store. No wait is for something that cannot happen.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Signal, geteuid};

use super::Store;
use crate::engine::stop::{RunName, StopError, request, request_path, withdraw};
use crate::error::Error;
use crate::journal::{OpenError, Reader, is_locked, writers};
use crate::model::{EngineId, ExecutorKind, ProcessId, StudyRow};
use crate::sys::clock::{boot_id, host_name};
use crate::sys::process::{Stat, handles, lives, signal_exactly, user_of, wait_gone};
use crate::views::clean;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a process that has a store open without a run may take to begin or end one.
const SETTLING: Duration = Duration::from_secs(5);
/// How long an engine may take to take a request by file: it looks once a second.
const TAKING: Duration = Duration::from_secs(20);
/// How long a stopped engine may take to be continued.
const CONTINUING: Duration = Duration::from_secs(5);
/// How often the caller hears that the engine is still waited for.
const SAYING: Duration = Duration::from_secs(30);
/// How long an engine that has let go of the store is waited for: it may have something to report yet.
const LEAVING: Duration = Duration::from_secs(5);

/// What becomes of the trials that run when an engine stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stop {
    /// They finish first.
    Drain,
    /// They are terminated, and run again some day.
    Terminate,
}

/// An engine that was asked to stop.
#[derive(Debug)]
#[must_use = "it may take long to stop"]
#[non_exhaustive]
pub struct Stopping {
    store: PathBuf,
    engine: EngineId,
    run: RunName,
    /// Its process as it is seen from here, if it was signalled.
    process: Option<ProcessId>,
    how: Stop,
}

impl Store {
    /// Asks the engine that has the store open to stop, and waits until it has. Whether there was one.
    ///
    /// # Errors
    /// [`Error::Stop`] when it cannot be stopped from here.
    pub fn stop(&self, how: Stop) -> Result<bool, Error> {
        match self.ask_to_stop(how)? {
            Some(stopping) => stopping.wait(&mut |_| {}).map(|()| true),
            None => Ok(false),
        }
    }

    /// Asks the engine that has the store open to stop; `None`: none has, or it is just gone.
    ///
    /// # Errors
    /// As [`Store::stop`].
    pub fn ask_to_stop(&self, how: Stop) -> Result<Option<Stopping>, Error> {
        let begun = Instant::now();
        loop {
            let study = study_of(&self.path)?;
            if !locked(&self.path)? {
                return Ok(None);
            }
            let settling = begun.elapsed() < SETTLING;
            match study.open_engine() {
                Some(engine) => {
                    if let Some(stopping) = ask(&self.path, &study, engine, how, settling)? {
                        return Ok(Some(stopping));
                    }
                }
                None if !settling => return Err(OpenError::Locked { path: self.path.clone() }.into()),
                None => {}
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// The cluster that attempts of the study run on as far as is recorded, and how many; `None`: none does.
    ///
    /// # Errors
    /// [`Error`] when the store cannot be read.
    pub fn running_on_cluster(&self) -> Result<Option<(ExecutorKind, u64)>, Error> {
        let running = Reader::open(&self.path)?.snapshot().and_then(|snapshot| snapshot.running());
        let running = running.map_err(|cause| self.unreadable(cause))?;
        let mut remote = running.iter().map(|row| row.executor).filter(|executor| executor.is_remote());
        Ok(remote.next().map(|first| (first, 1 + remote.count() as u64)))
    }
}

impl Stopping {
    /// Which engine, in words.
    #[must_use]
    pub fn words(&self) -> String {
        match self.process {
            Some(process) => format!("engine {}", process.pid),
            None => format!("the engine {}", whereabouts(&self.engine)),
        }
    }

    /// Waits until it has stopped. Now and then `still` hears how many attempts still run.
    ///
    /// # Errors
    /// [`Error::Stop`] when it will not.
    pub fn wait(self, still: &mut dyn FnMut(u64)) -> Result<(), Error> {
        let begun = Instant::now();
        let (mut said_at, mut stopped_since) = (begun, None);
        while self.runs()? {
            std::thread::sleep(PAUSE);
            // One that cannot be looked at for a moment is looked at again.
            let is_stopped_now = |pid| matches!(Stat::of(pid), Ok(Some(stat)) if stat.stopped);
            let stopped = self.process.filter(|process| is_stopped_now(process.pid));
            stopped_since = stopped.map(|_| stopped_since.unwrap_or_else(Instant::now));
            if let (Some(process), Some(since)) = (stopped, stopped_since) {
                if self.how == Stop::Terminate {
                    // It takes the signal that waits for it as it goes on.
                    signal_exactly(process, Signal::CONT)
                        .map_err(|cause| Error::System { what: "continue the engine", cause })?;
                } else if since.elapsed() > CONTINUING {
                    return Err(StopError::Suspended { store: self.store, pid: process.pid }.into());
                }
            }
            if self.process.is_none() && begun.elapsed() > TAKING && request_path(&self.store).exists() {
                let withdrawn = withdraw(&self.store);
                return Err(
                    StopError::NotTaken { engine: self.words(), waited_s: TAKING.as_secs(), withdrawn }.into()
                );
            }
            if said_at.elapsed() > SAYING {
                said_at = Instant::now();
                still(running(&self.store).unwrap_or(0));
            }
        }
        match self.process {
            None => drop(withdraw(&self.store)),
            // It has closed the store. A program that embeds piton goes on.
            Some(process) => drop(
                wait_gone(process, Some(LEAVING))
                    .map_err(|cause| Error::System { what: "wait for the engine", cause })?,
            ),
        }
        Ok(())
    }

    /// Whether the run that was asked to stop still has the store.
    fn runs(&self) -> Result<bool, Error> {
        if !locked(&self.store)? {
            return Ok(false);
        }
        // An engine that has said goodbye still writes exports.
        match self.process {
            Some(process) => lives(process).map_err(|cause| Error::System { what: "look at the engine", cause }),
            None => {
                study_of(&self.store).map(|study| study.runs == self.run.run && study.study_id == self.run.study)
            }
        }
    }
}

/// Asks the process that holds the lock, or, where that is not seen, whatever engine the store names. `None`: it is seen, but
/// does not listen yet.
fn ask(
    store: &Path,
    study: &StudyRow,
    engine: &EngineId,
    how: Stop,
    settling: bool,
) -> Result<Option<Stopping>, Error> {
    // Not SIGTERM: a second request must not count as a second signal, and terminating leaves the exit code at 75.
    let signal = if how == Stop::Terminate { Signal::USR2 } else { Signal::USR1 };
    let run = RunName { study: study.study_id, run: study.runs };
    let cannot = |cause| Error::System { what: "look for the engine", cause };
    let found = writers(store).map_err(cannot)?;
    let mut listening = Vec::new();
    for process in &found {
        if handles(*process, signal).map_err(cannot)? {
            listening.push(*process);
        }
    }
    if settling && !found.is_empty() && listening.is_empty() {
        return Ok(None);
    }
    // Between a fork of the engine and what it becomes there may be two: the engine is the older one.
    listening.sort_by_key(|process| (*process != engine.process, process.start_ticks));
    let stopping = |process| Stopping { store: store.into(), engine: engine.clone(), run, process, how };
    let process = listening.into_iter().next();
    if let Some(process) = process
        && signal_exactly(process, signal).map_err(|cause| Error::System { what: "signal the engine", cause })?
    {
        return Ok(Some(stopping(Some(process))));
    }
    if let Some(uid) = user_elsewhere(engine).map_err(cannot)? {
        return Err(StopError::OtherUser { uid }.into());
    }
    request(store, run, how == Stop::Terminate).map_err(|cause| {
        let (whereabouts, path) = (whereabouts(engine), request_path(store));
        Error::from(StopError::NoRequest { whereabouts, path, cause })
    })?;
    Ok(Some(stopping(None)))
}

/// Whose an engine is that runs here, if that is somebody else who hears neither a signal nor a request of this user.
fn user_elsewhere(engine: &EngineId) -> std::io::Result<Option<u32>> {
    let here = boot_id().is_ok_and(|boot| boot == engine.boot_id) && lives(engine.process)?;
    let user = if here { user_of(engine.process.pid)? } else { None };
    let own = geteuid();
    Ok(user.filter(|user| *user != own.as_raw() && !own.is_root()))
}

/// Where an engine is that is not seen from here.
fn whereabouts(engine: &EngineId) -> String {
    let host = clean(&engine.host);
    if boot_id().is_ok_and(|boot| boot == engine.boot_id) {
        format!("with the number {} in another PID namespace of this machine", engine.process.pid)
    } else if engine.host == host_name() {
        format!("with the number {} on another machine that is called `{host}`, too", engine.process.pid)
    } else {
        format!("with the number {} on `{host}`", engine.process.pid)
    }
}

fn locked(store: &Path) -> Result<bool, Error> {
    is_locked(store).map_err(|cause| Error::File { what: "ask for the lock of", path: store.into(), cause })
}

fn study_of(store: &Path) -> Result<StudyRow, Error> {
    Reader::open(store)?
        .snapshot()
        .and_then(|snapshot| snapshot.study())
        .map_err(|cause| Error::Journal { store: store.into(), cause })
}

fn running(store: &Path) -> Option<u64> {
    Some(Reader::open(store).ok()?.snapshot().ok()?.running().ok()?.len() as u64)
}
