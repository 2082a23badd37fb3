//! What a survivor left, looked at before a child starts on it and again when it has ended.
//!
//! Whatever a child could see of its parent and is recorded is held against the record: no result counts of a child that
//! was found to have run on other bytes than those its parent was chosen for. A file that was left alone since an earlier look is not read again, and workers
//! that ask at the same time share a look.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::blame::AttemptError;
use crate::executor::Job;
use crate::executor::inherited::{Inherited, OutputDiffers, OutputFound, ParentDiffers};
use crate::model::{FailureKind, OutputHash, UnixMs, Verdict};
use crate::sys::hash_cache::Memory;
use crate::sys::opened::Opened;
use crate::sys::tree_hash::{HashWatch, is_cut_off, to_the_end};
use crate::sys::words::io_words;

/// Why a child does not start, or does not count.
#[derive(Debug)]
pub(crate) enum Amiss {
    /// Its parent's outputs are not what was recorded.
    Differs(Box<ParentDiffers>),
    /// The machine could not read them, in words.
    Machine(String),
    /// Whoever watches ended the look.
    CutOff,
}

/// What is known of the parents whose children run. One stage's survivors at a time are parents.
#[derive(Debug, Default)]
pub(crate) struct Parents(Mutex<HashMap<PathBuf, Arc<Mutex<Seen>>>>);

/// What is known of one of them.
#[derive(Debug, Default)]
struct Seen {
    memory: Memory,
    /// When the last look began that found everything as recorded.
    found_same: Option<Instant>,
    /// What was found once. No child of it counts from then on, also when it is put back: nobody knows what those read that
    /// ran meanwhile.
    differed: Option<Box<ParentDiffers>>,
}

impl Parents {
    /// Holds what the job's parent left against the record. When that last changed in any way, Unix milliseconds, if anything is
    /// recorded.
    ///
    /// # Errors
    /// [`Amiss`]; the job must not start.
    pub(crate) fn look(&self, job: &Job, watch: HashWatch<'_>) -> Result<Option<UnixMs>, Amiss> {
        if injected_fault!(ParentNotAsked) {
            return Ok(None);
        }
        let (Some(dir), Some(inherited)) = (&job.parent_dir, &job.inherited) else { return Ok(None) };
        let differs = |outputs| {
            let (case, stage) = (job.parent_case.clone(), inherited.stage.clone());
            let discarded = inherited.discarded.filter(|_| inherited.is_discarded(dir));
            Amiss::Differs(Box::new(ParentDiffers { case, stage, dir: dir.clone(), outputs, discarded }))
        };
        if inherited.outputs.is_empty() {
            // Nothing is recorded, so that nothing is known of it but where it is.
            let gone = job.stage_spec.work.names_parent_directory() && is_gone(dir)?;
            return if gone { Err(differs(Vec::new())) } else { Ok(None) };
        }
        let asked = Instant::now();
        let seen = {
            let mut parents = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(parents.entry(dir.clone()).or_default())
        };
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(differed) = &seen.differed {
            return Err(Amiss::Differs(differed.clone()));
        }
        // Somebody else looked since this was asked.
        if seen.found_same.is_some_and(|began| began > asked) {
            return Ok(Some(seen.memory.changed_ms));
        }
        let began = Instant::now();
        let outputs = differing(dir, inherited, &mut seen.memory, watch)?;
        if !outputs.is_empty() {
            let differs = differs(outputs);
            if let Amiss::Differs(parent) = &differs {
                seen.differed = Some(parent.clone());
            }
            return Err(differs);
        }
        seen.found_same = Some(began);
        Ok(Some(seen.memory.changed_ms))
    }

    /// What an attempt that ended comes to, and what is amiss: nothing counts whose parent's recorded outputs were found
    /// changed since it started.
    pub(crate) fn vouch(&self, job: &Job, verdict: Verdict, watch: HashWatch<'_>) -> (Verdict, Option<Amiss>) {
        let counts = matches!(verdict, Verdict::Succeeded { .. } | Verdict::Failed(_));
        let has_outputs = job.inherited.as_ref().is_some_and(|inherited| !inherited.outputs.is_empty());
        if !counts || !has_outputs || injected_fault!(ParentNotAskedAgain) {
            return (verdict, None);
        }
        let Err(amiss) = self.look(job, watch) else { return (verdict, None) };
        let reason = match &amiss {
            Amiss::Differs(parent) => format!("found when it had run: {parent}"),
            Amiss::Machine(why) => why.clone(),
            Amiss::CutOff => "the run ended before what its parent left had been looked at".to_owned(),
        };
        (Verdict::Interrupted { reason }, Some(amiss))
    }
}

/// How what a job's parent left differs from the record, in lines; empty: not at all.
pub(crate) fn words_of(job: &Job) -> Vec<String> {
    match Parents::default().look(job, &to_the_end) {
        Ok(_) | Err(Amiss::CutOff) => Vec::new(),
        Err(Amiss::Differs(parent)) => parent.lines(),
        Err(Amiss::Machine(why)) => vec![why],
    }
}

fn is_gone(dir: &Path) -> Result<bool, Amiss> {
    match Opened::dir(dir) {
        Ok(_) => Ok(false),
        Err(error) => {
            match AttemptError::of_left(
                FailureKind::MissingOutput,
                &format!("cannot open `{}`", dir.display()),
                &error,
            ) {
                AttemptError::Machine(why) => Err(Amiss::Machine(why)),
                AttemptError::Trial(_) | AttemptError::CutOff => Ok(true),
            }
        }
    }
}

/// Outputs that are not what was recorded. The way to the directory is followed as the child will follow it; the outputs
/// are reached in it as when they were hashed first.
fn differing(
    dir: &Path,
    inherited: &Inherited,
    memory: &mut Memory,
    watch: HashWatch<'_>,
) -> Result<Vec<OutputDiffers>, Amiss> {
    let opened = Opened::dir(dir);
    let mut differing = Vec::new();
    for OutputHash { path, blake3, .. } in &inherited.outputs {
        let hash = match &opened {
            Ok(opened) => opened.resolve(Path::new(path)).and_then(|(real, _)| {
                watch()?;
                opened.open(&real)?.hash_again(&dir.join(&real), memory, watch)
            }),
            Err(error) => Err(same_error(error)),
        };
        let found = match hash {
            Ok(hash) if hash.blake3 == *blake3 => continue,
            Ok(hash) => OutputFound::Other(hash.blake3),
            Err(error) if is_cut_off(&error) => return Err(Amiss::CutOff),
            Err(error) if is_nothing(&error) => OutputFound::Nothing,
            Err(error) => {
                let what = format!("cannot read the parent's output `{}`", dir.join(path).display());
                match AttemptError::of_left(FailureKind::MissingOutput, &what, &error) {
                    AttemptError::Machine(why) => return Err(Amiss::Machine(why)),
                    AttemptError::Trial(_) | AttemptError::CutOff => OutputFound::Unreadable(io_words(&error)),
                }
            }
        };
        differing.push(OutputDiffers { output: path.clone(), expected: *blake3, found });
    }
    Ok(differing)
}

fn is_nothing(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
}

fn same_error(error: &std::io::Error) -> std::io::Error {
    match error.raw_os_error() {
        Some(errno) => std::io::Error::from_raw_os_error(errno),
        None => std::io::Error::new(error.kind(), error.to_string()),
    }
}
