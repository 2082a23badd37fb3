//! What a job of a cluster does: one attempt, once, as a trial of this machine, and its result left for the engine.
//!
//! It knows nothing but its control directory. If another job, or the engine, claimed the attempt first, it runs nothing.
//! It never ends without a result as long as it can write one.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::{EngineError, replay};
use crate::executor::local::keeper::Keeper;
use crate::executor::remote::control::Control;
pub use crate::executor::remote::wire::AttemptEnded;
use crate::executor::remote::wire::{Begun, Outcome};
use crate::sys::clock::{host_name, unix_ms};
use crate::sys::signals::terminate_self;
use crate::sys::words::io_words;

/// How often it looks whether it is to end.
const LOOK: Duration = Duration::from_millis(500);
/// It gives a sign of life once in so many looks.
const LOOKS_A_BEAT: u64 = 10;

/// Runs the attempt of this control directory.
///
/// # Errors
/// [`EngineError::System`] if the directory cannot be read or written.
pub fn run(control: &Path, keeper: Keeper) -> Result<AttemptEnded, EngineError> {
    let system = |what| move |cause: io::Error| EngineError::System { what, cause };
    let control = Control::at(control);
    let Some(task) = control.task().map_err(system("read what the job has to do"))? else {
        return Ok(AttemptEnded::NotOurs);
    };
    if !control.claim().map_err(system("claim the attempt"))? {
        return Ok(AttemptEnded::NotOurs);
    }
    let begun = Begun { node: node_name(), at_ms: unix_ms() };
    control.begin(&begun).map_err(system("say that the job runs"))?;
    let outcome = match task.into_job() {
        Ok(job) => attempt(&control, job, keeper),
        Err(error) => {
            let why = format!("the job cannot be read: {}", io_words(&error));
            Outcome::interrupted(unix_ms(), why.clone(), Some(why))
        }
    };
    let ended = outcome.ended();
    control.end(&outcome).map_err(system("leave the result"))?;
    Ok(ended)
}

/// What Slurm calls this node, elsewhere its host's name.
fn node_name() -> String {
    std::env::var("SLURMD_NODENAME").unwrap_or_else(|_| host_name())
}

fn attempt(control: &Control, job: crate::executor::Job, keeper: Keeper) -> Outcome {
    let slot = job.slot;
    let mut looks = 0_u64;
    let mut asked = false;
    let mut idle = || {
        if looks.is_multiple_of(LOOKS_A_BEAT)
            && let Err(error) = control.beat(looks)
        {
            log::warn!("cannot give a sign of life: {}", io_words(&error));
        }
        looks += 1;
        if !asked && control.is_cancelled() {
            asked = true;
            terminate_self();
        }
    };
    idle();
    match replay::run(job, slot, keeper, LOOK, &mut idle) {
        Ok(replay::Replayed { report: Some(report), .. }) => Outcome::of(report),
        Ok(replay::Replayed { report: None, .. }) => {
            Outcome::interrupted(unix_ms(), "it was stopped before it began".to_owned(), None)
        }
        Err(EngineError::ParentChanged(parent)) => Outcome::refused(unix_ms(), *parent),
        Err(error) => {
            let why = error.to_string();
            Outcome::interrupted(unix_ms(), why.clone(), Some(why))
        }
    }
}
