//! What a job of a cluster does: one attempt, once, as a trial of this machine, and its result left for the engine.
//!
//! It knows nothing but its control directory. If another job, or the engine, claimed the attempt first, it runs nothing.
//! It never ends without a result as long as it can write one.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::{EngineError, replay};
use crate::executor::local::ENDED_WITH_ENGINE;
use crate::executor::local::keeper::Keeper;
use crate::executor::remote::control::Control;
pub use crate::executor::remote::wire::AttemptEnded;
use crate::executor::remote::wire::{Begun, Outcome};
use crate::model::Verdict;
use crate::study_file::BEAT_MS;
use crate::sys::clock::{host_name, unix_ms};
use crate::sys::signals::terminate_self;
use crate::sys::words::io_words;

/// How often it looks whether it is to end.
const LOOK: Duration = Duration::from_millis(500);
/// It gives a sign of life once in so many looks.
const LOOKS_A_BEAT: u64 = BEAT_MS / 500;
/// A result that cannot be left is tried again after this long, then after twice as long, and so on.
const AGAIN: Duration = Duration::from_secs(1);
/// At least this often.
const AGAIN_MAX: Duration = Duration::from_secs(30);

/// Why an attempt was cut off: the engine wanted it.
const ASKED: &str = "the engine ended its job";
/// A signal came from elsewhere.
const TERMINATED: &str = "its job was terminated";

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
    let mut signs = Signs { control: &control, looks: 0 };
    signs.look();
    let begun = Begun { node: node_name(), at_ms: unix_ms() };
    if let Err(error) = control.begin(&begun) {
        // Nothing depends on it.
        log::warn!("cannot say that the job runs: {}", io_words(&error));
    }
    let outcome = match task.into_job() {
        Ok(job) => attempt(&control, &mut signs, job, keeper),
        Err(error) => {
            let why = format!("the job cannot be read: {}", io_words(&error));
            Outcome::interrupted(unix_ms(), why.clone(), Some(why))
        }
    };
    let ended = outcome.ended();
    leave(&control, &outcome, |time| signs.wait(time)).map_err(system("leave the result"))?;
    Ok(ended)
}

/// Leaves the result. A disk that is full, or a share that is away, may be so for a moment only: as long as the job lives it
/// tries again, for the trial's work would be lost.
fn leave(control: &Control, outcome: &Outcome, mut wait: impl FnMut(Duration)) -> io::Result<()> {
    let mut again = AGAIN;
    loop {
        match control.end(outcome) {
            // Nobody asks for it any more.
            Err(error) if control.is_gone() => return Err(error),
            Err(error) => log::warn!("cannot leave the result, and try again in {again:?}: {}", io_words(&error)),
            Ok(()) => return Ok(()),
        }
        wait(again);
        again = (again * 2).min(AGAIN_MAX);
    }
}

/// The job's signs of life.
struct Signs<'a> {
    control: &'a Control,
    looks: u64,
}

impl Signs<'_> {
    /// To be called every [`LOOK`].
    fn look(&mut self) {
        if self.looks.is_multiple_of(LOOKS_A_BEAT)
            && let Err(error) = self.control.beat(self.looks)
        {
            log::warn!("cannot give a sign of life: {}", io_words(&error));
        }
        self.looks += 1;
    }

    fn wait(&mut self, time: Duration) {
        let mut left = time;
        while !left.is_zero() {
            let step = left.min(LOOK);
            std::thread::sleep(step);
            left = left.saturating_sub(step);
            self.look();
        }
    }
}

/// What Slurm calls this node, elsewhere its host's name.
fn node_name() -> String {
    std::env::var("SLURMD_NODENAME").unwrap_or_else(|_| host_name())
}

fn attempt(control: &Control, signs: &mut Signs<'_>, job: crate::executor::Job, keeper: Keeper) -> Outcome {
    let slot = job.slot;
    let asked = std::cell::Cell::new(false);
    let mut idle = || {
        signs.look();
        if !asked.get() && control.is_to_end() {
            asked.set(true);
            terminate_self();
        }
    };
    idle();
    match replay::run(job, slot, keeper, LOOK, &mut idle) {
        Ok(replay::Replayed { report: Some(mut report), .. }) => {
            name_no_engine(&mut report.verdict, asked.get());
            Outcome::of(report)
        }
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

/// No engine ends with such an attempt. The cluster alone knows who ended it, if it does.
fn name_no_engine(verdict: &mut Verdict, asked: bool) {
    if let Verdict::Interrupted { reason } = verdict
        && ENDED_WITH_ENGINE.contains(&reason.as_str())
    {
        *reason = if asked { ASKED } else { TERMINATED }.to_owned();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_on_a_node_did_not_end_with_an_engine() {
        let told = |reason: &str, asked| {
            let mut verdict = Verdict::Interrupted { reason: reason.to_owned() };
            name_no_engine(&mut verdict, asked);
            verdict
        };
        let expected = |reason: &str| Verdict::Interrupted { reason: reason.to_owned() };
        let reasons = [
            "terminated with the engine",
            "terminated from outside, together with the engine",
            "terminated with the engine while its outputs were hashed",
        ];
        for reason in reasons {
            assert_eq!(told(reason, true), expected(ASKED));
            assert_eq!(told(reason, false), expected(TERMINATED));
        }
        assert_eq!(told("its node failed", true), expected("its node failed"));
    }

    #[test]
    fn a_result_that_cannot_be_left_is_tried_again() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("attempt");
        std::fs::create_dir(&dir).unwrap();
        let control = Control::at(&dir);
        assert!(control.claim().unwrap());
        let outcome = Outcome::interrupted(1, "r".into(), None);
        // What has its name keeps it from being there.
        std::fs::create_dir(dir.join("exit.json")).unwrap();
        let mut waits = Vec::new();
        let tried = leave(&control, &outcome, |time| {
            waits.push(time.as_secs());
            if waits.len() == 8 {
                std::fs::remove_dir(dir.join("exit.json")).unwrap();
            }
        });
        tried.unwrap();
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30, 30]);
        assert!(dir.join("exit.json").is_file());
        // The attempt's end is recorded, and nobody asks for a result.
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(leave(&control, &outcome, |_| panic!("waits")).is_err());
        assert!(control.is_to_end());
        std::fs::remove_dir(root.path()).unwrap();
        assert!(!control.is_to_end(), "a share that is away says nothing");
    }
}
