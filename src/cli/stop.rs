//! `piton stop`: asks the running engine to stop, and waits until it is gone.
//!
//! The engine is found by what the store says (pid, start time, boot), and signalled through a pidfd, so that a
//! process that only has the same number is never hit.

use piton::model::EngineId;
use piton::sys::process::{signal_exactly, wait_gone};
use piton::{Error, Reader};
use rustix::process::Signal;

use super::args::StopArgs;
use super::terminal::{hint, say};

/// Stops the engine of a store.
pub fn stop(args: &StopArgs) -> Result<u8, Error> {
    let store = &args.store.store;
    // Not SIGTERM: a second `stop` must not count as a second signal, and --now leaves the exit code at 75.
    let signal = if args.now { Signal::USR2 } else { Signal::USR1 };
    let Some(engine) = ask_to_stop(store, signal)? else {
        say(&format!("no engine runs the study in `{}`", store.display()));
        return Ok(0);
    };
    let how = if args.now { "terminate its trials" } else { "let its running trials finish" };
    say(&format!("asked engine {} to stop and {how}; waiting for it", engine.process.pid));
    wait_gone(engine.process, None).map_err(|cause| Error::System { what: "wait for the engine", cause })?;
    say("the engine has stopped; everything it reported is recorded");
    hint(&format!("`piton resume {}` goes on", piton::shell_word(store)));
    Ok(0)
}

/// Signals the engine that has the store open; `None`: none has, or it is just gone.
pub fn ask_to_stop(store: &std::path::Path, signal: Signal) -> Result<Option<EngineId>, Error> {
    let Some(engine) = running_engine(store)? else { return Ok(None) };
    let asked = signal_exactly(engine.process, signal);
    let asked = asked.map_err(|cause| Error::System { what: "signal the engine", cause })?;
    Ok(asked.then_some(engine))
}

/// The engine that has the store open, if one lives on this machine.
pub fn running_engine(store: &std::path::Path) -> Result<Option<EngineId>, Error> {
    let study = Reader::open(store)?
        .snapshot()
        .and_then(|snapshot| snapshot.study())
        .map_err(|cause| Error::Journal { store: store.into(), cause })?;
    Ok(study.engine.clone().filter(|_| super::look::liveness(&study).alive))
}
