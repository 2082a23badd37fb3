//! `piton stop`: asks the running engine to stop, and waits until it has.
//!
//! The lock on the store tells whether an engine runs, and which process here it is; only that process is signalled, through
//! a pidfd, and only if it listens. An engine in another PID namespace or on another host is asked by a file beside the
//! store. No wait is silent, and none is for something that cannot happen.

use std::path::Path;
use std::time::{Duration, Instant};

use piton::engine::stop::{RunName, request, request_path, withdraw};
use piton::journal::{is_locked, writers};
use piton::model::{EngineId, ProcessId, StudyRow};
use piton::sys::clock::{boot_id, host_name};
use piton::sys::process::{Stat, handles, lives, signal_exactly, user_of, wait_gone};
use piton::views::{clean, counted};
use piton::{Error, OpenError, Reader, Study};
use rustix::process::{Signal, geteuid};

use super::args::StopArgs;
use super::progress::Progress;
use super::terminal::{ask as ask_person, hint, say};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);
/// How long whoever has a store open without a run may take to begin or end one.
const SETTLING: Duration = Duration::from_secs(5);
/// How long an engine may take to take a request by file: it looks once a second.
const TAKING: Duration = Duration::from_secs(20);
/// How long a stopped engine may take to be continued.
const CONTINUING: Duration = Duration::from_secs(5);
/// After so long it is said what is waited for, and again after as long.
const SAYING: Duration = Duration::from_secs(30);
/// How long an engine that has let go of the store is waited for: it may have something to tell yet.
const LEAVING: Duration = Duration::from_secs(5);

/// An engine that was asked to stop.
#[derive(Debug)]
pub struct Asked {
    /// How it calls itself.
    pub engine: EngineId,
    run: RunName,
    /// Its process as it is seen from here, if it was signalled.
    process: Option<ProcessId>,
}

impl Asked {
    /// Which engine, in words.
    pub fn words(&self) -> String {
        match self.process {
            Some(process) => format!("engine {}", process.pid),
            None => format!("the engine {}", whereabouts(&self.engine)),
        }
    }
}

/// Stops the engine of a store.
pub fn stop(args: &StopArgs) -> Result<u8, Error> {
    let store = &args.store.store;
    let Some(asked) = ask_to_stop(store, args.now)? else {
        return without_engine(args);
    };
    let how = if args.now { "terminate its trials" } else { "let its running trials finish" };
    say(&format!("asked {} to stop and {how}; waiting for it", asked.words()));
    wait_until_stopped(store, &asked, args.now)?;
    say("the engine has stopped; everything it reported is recorded");
    hint(&format!("`piton resume {}` goes on", piton::shell_word(store)));
    Ok(0)
}

/// No engine runs: what it left on a cluster goes on, until it is taken back.
fn without_engine(args: &StopArgs) -> Result<u8, Error> {
    let store = &args.store.store;
    let left = {
        let snapshot = Reader::open(store)?.snapshot();
        let running = snapshot.and_then(|snapshot| snapshot.running());
        let running = running.map_err(|cause| Error::Journal { store: store.into(), cause })?;
        running.iter().filter(|row| row.executor.is_remote()).map(|row| row.executor).collect::<Vec<_>>()
    };
    let Some(cluster) = left.first() else {
        say(&format!("no engine runs the study in `{}`", store.display()));
        return Ok(0);
    };
    let (trials, store_word) = (counted(left.len() as u64, "trial"), piton::shell_word(store));
    say(&format!("no engine runs the study in `{}`, and {trials} may run on {cluster}", store.display()));
    if !args.now {
        hint(&format!(
            "`piton resume {store_word}` goes on with them; `piton stop {store_word} --now` takes them back"
        ));
        return Ok(0);
    }
    if !args.yes {
        ask_person(&format!("take {trials} back from {cluster}"), "`--yes` takes them back")?;
    }
    // A run that is told to end before it begins: it takes over what is there, records what has ended meanwhile, and cancels the rest.
    let study = Study::from_store(store).keeper(super::keeper()?).watch_signals(true);
    let study = match std::env::current_exe() {
        Ok(program) => study.program(program),
        Err(_) => study,
    };
    let asked = study.shutdown_handle();
    asked.drain();
    asked.terminate();
    let mut progress = Progress::start(store, &format!("piton resume {store_word}"), None, false);
    let outcome = study.run_observed(&mut progress);
    progress.finish();
    let outcome = outcome?;
    match running(store) {
        Some(0) => say("nothing of the study is left there; what was cut off will run again"),
        _ => say("the cluster has not let go of all of it yet"),
    }
    hint(&format!("`piton resume {store_word}` goes on"));
    Ok(if outcome.exit_code() == 1 { 1 } else { 0 })
}

/// Asks the engine that has the store open; `None`: none has, or it is just gone.
pub fn ask_to_stop(store: &Path, now: bool) -> Result<Option<Asked>, Error> {
    let begun = Instant::now();
    loop {
        let study = study_of(store)?;
        if !locked(store)? {
            return Ok(None);
        }
        let settling = begun.elapsed() < SETTLING;
        match study.open_engine() {
            Some(engine) => {
                if let Some(asked) = ask(store, &study, engine, now, settling)? {
                    return Ok(Some(asked));
                }
            }
            None if !settling => return Err(OpenError::Locked { path: store.into() }.into()),
            None => {}
        }
        std::thread::sleep(PAUSE);
    }
}

/// Asks the process that holds the lock, or, where that is not seen, whatever engine the store names. `None`: it is seen, but
/// does not listen yet.
fn ask(
    store: &Path,
    study: &StudyRow,
    engine: &EngineId,
    now: bool,
    settling: bool,
) -> Result<Option<Asked>, Error> {
    // Not SIGTERM: a second `stop` must not count as a second signal, and --now leaves the exit code at 75.
    let signal = if now { Signal::USR2 } else { Signal::USR1 };
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
    let process = listening.into_iter().next();
    if let Some(process) = process
        && signal_exactly(process, signal).map_err(|cause| Error::System { what: "signal the engine", cause })?
    {
        return Ok(Some(Asked { engine: engine.clone(), run, process: Some(process) }));
    }
    if let Some(user) = user_elsewhere(engine).map_err(cannot)? {
        let why = format!("the engine is another user's (uid {user}): they, or root, can stop it");
        return Err(Error::System { what: "stop the engine", cause: std::io::Error::other(why) });
    }
    request(store, run, now).map_err(|cause| {
        say(&format!("no signal from here reaches the engine {}: `piton stop` there works", whereabouts(engine)));
        Error::File { what: "write the request to stop", path: request_path(store), cause }
    })?;
    Ok(Some(Asked { engine: engine.clone(), run, process: None }))
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

fn wait_until_stopped(store: &Path, asked: &Asked, now: bool) -> Result<(), Error> {
    let begun = Instant::now();
    let (mut said_at, mut stopped_since) = (begun, None);
    while runs(store, asked)? {
        std::thread::sleep(PAUSE);
        // One that cannot be looked at for a moment is looked at again.
        let is_stopped_now = |pid| matches!(Stat::of(pid), Ok(Some(stat)) if stat.stopped);
        let stopped = asked.process.filter(|process| is_stopped_now(process.pid));
        stopped_since = stopped.map(|_| stopped_since.unwrap_or_else(Instant::now));
        if let (Some(process), Some(since)) = (stopped, stopped_since) {
            if now {
                // It takes the signal that waits for it as it goes on.
                signal_exactly(process, Signal::CONT)
                    .map_err(|cause| Error::System { what: "continue the engine", cause })?;
            } else if since.elapsed() > CONTINUING {
                return Err(is_stopped(store, process));
            }
        }
        if asked.process.is_none() && begun.elapsed() > TAKING && request_path(store).exists() {
            return Err(not_taken(store, asked));
        }
        if said_at.elapsed() > SAYING {
            said_at = Instant::now();
            let running = running(store).unwrap_or(0);
            say(&format!("still waiting for {}: {} still run", asked.words(), counted(running, "trial")));
        }
    }
    if asked.process.is_none() {
        withdraw(store);
    }
    if let Some(process) = asked.process {
        // It has closed the store. A program that embeds piton goes on.
        wait_gone(process, Some(LEAVING)).map_err(|cause| Error::System { what: "wait for the engine", cause })?;
    }
    Ok(())
}

/// Whether the run that was asked to stop still has the store.
fn runs(store: &Path, asked: &Asked) -> Result<bool, Error> {
    if !locked(store)? {
        return Ok(false);
    }
    // An engine that has said goodbye still writes exports.
    match asked.process {
        Some(process) => lives(process).map_err(|cause| Error::System { what: "look at the engine", cause }),
        None => study_of(store).map(|study| study.runs == asked.run.run && study.study_id == asked.run.study),
    }
}

fn is_stopped(store: &Path, process: ProcessId) -> Error {
    let (pid, store) = (process.pid, piton::shell_word(store));
    hint(&format!("`kill -CONT {pid}`, or `fg` in its shell, lets it go on, and then it stops in good order"));
    hint(&format!("`piton stop {store} --now` continues it and terminates its trials"));
    Error::System {
        what: "stop the engine",
        cause: std::io::Error::other(format!(
            "process {pid} is stopped itself (^Z or SIGSTOP): it will take the request when it is continued"
        )),
    }
}

fn not_taken(store: &Path, asked: &Asked) -> Error {
    let withdrawn = withdraw(store);
    let end = if withdrawn { "the request is withdrawn" } else { "it has just taken it" };
    Error::System {
        what: "stop the engine",
        cause: std::io::Error::other(format!(
            "{} has the store open, no signal reaches it from here, and it has not taken the request beside the store \
             within {} s: it is stopped, hangs, or is of an older piton; {end}, and `piton stop` there works",
            asked.words(),
            TAKING.as_secs()
        )),
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
