//! Outputs of results that were made elsewhere, put where those of an attempt would lie.
//!
//! All of them are in place, hashed and durable before anything is recorded, by the code that takes results over. No engine runs meanwhile: whoever
//! calls this holds the store. What could not be brought whole is taken back.

use std::sync::Arc;

use super::EngineError;
use super::jobs::JobMaker;
use crate::executor::Job;
use crate::executor::local::placing::{
    AttemptError, Grounds, Room, Unsynced, bring, outputs_in, sync_all, take_back,
};
use crate::model::{OutputHash, REUSED, StudyId, TrialId};
use crate::paths::StudyPaths;
use crate::plan::Lineage;
use crate::study_file::Spec;
use crate::sys::opened::Below;
use crate::sys::tree_hash::to_the_end;

/// Why the declared outputs cannot be brought from a directory, if they cannot.
pub(crate) fn lacking(names: &[String], from: &Below) -> Option<String> {
    outputs_in(names, from).err()
}

/// What was put in place.
pub(crate) struct Placed {
    grounds: Grounds,
    jobs: Vec<Job>,
    /// The outputs of each trial, in the order they were asked for.
    pub(crate) outputs: Vec<Vec<OutputHash>>,
}

impl Placed {
    /// Nothing: what has no outputs and is shown to nobody needs no place.
    pub(crate) fn nothing() -> Self {
        Self { grounds: Grounds::default(), jobs: Vec::new(), outputs: Vec::new() }
    }

    /// Removes all of it.
    pub(crate) fn take_back(&self) {
        self.jobs.iter().for_each(|job| take_back(&self.grounds, job));
    }
}

/// Puts the outputs of these trials in place, from the directories that are named with them.
///
/// # Errors
/// [`EngineError::Executor`]: what could not be brought or made durable, in words. Nothing stays then.
pub(crate) fn place(
    spec: &Arc<Spec>,
    paths: &StudyPaths,
    study: StudyId,
    lineage: &Lineage<'_>,
    trials: &[(TrialId, Option<Below>)],
) -> Result<Placed, EngineError> {
    let maker = JobMaker::new(Arc::clone(spec), paths.clone())?;
    let mut placed = Placed::nothing();
    let brought = bring_all(&maker, study, lineage, trials, &mut placed);
    match brought {
        Ok(()) => Ok(placed),
        Err(why) => {
            placed.take_back();
            Err(why)
        }
    }
}

fn bring_all(
    maker: &JobMaker,
    study: StudyId,
    lineage: &Lineage<'_>,
    trials: &[(TrialId, Option<Below>)],
    placed: &mut Placed,
) -> Result<(), EngineError> {
    let room = Room::of_process();
    let mut kept = Vec::new();
    for (trial, from) in trials {
        let job = maker.job_of(study, lineage, *trial, REUSED)?;
        let mut unsynced = Unsynced::new(&room);
        let outputs = bring(&placed.grounds, &job, from.as_ref(), &mut unsynced, &to_the_end);
        placed.jobs.push(job);
        placed.outputs.push(outputs.map_err(|error| {
            EngineError::Executor(match error {
                AttemptError::Trial(failure) => failure.reason,
                AttemptError::Machine(why) => why,
                AttemptError::CutOff => "it was cut off".into(),
            })
        })?);
        kept.push(((), unsynced));
        if kept.len() >= ROUND {
            sync_all(&kept, &placed.grounds).map_err(EngineError::Executor)?;
            kept.clear();
        }
    }
    sync_all(&kept, &placed.grounds).map_err(EngineError::Executor)
}

/// Results that are made durable at once.
const ROUND: usize = 128;
