//! Outputs of an earlier result, put in the place of an attempt that is not made.
//!
//! They are copied, held against the hashes that were recorded of them, and made durable as an attempt's own are: by the same
//! code, in the same rounds. The copy is what is hashed, so that whoever writes the source meanwhile is found out. What is not
//! as it was recorded is no result, and no trial's fault.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::FileType;

use super::attempt_dir::{self, Grounds};
use super::blame::{AttemptError, failure};
use super::ended_dir::EndedAttemptDir;
use super::results::keep_outputs;
use super::syncer::Unsynced;
use super::{Mode, Shared};
use crate::executor::{Job, Takes};
use crate::model::artifacts::BEFORE;
use crate::model::{FailureKind, Metrics, OutputHash, Usage, Verdict};
use crate::sys::copied::CopyError;
use crate::sys::opened::{Below, Opened};
use crate::sys::tree_hash::{CutOff, HashWatch, is_cut_off};
use crate::sys::words::io_words;

/// Of what is taken over, the directory and `params.json`.
const OWN_FILES: usize = 2;

/// Takes over what the job names, and reports it.
pub(super) fn run(shared: &Shared, job: &Job, takes: &Takes) {
    let watch = || match shared.mode() {
        Mode::Run | Mode::Drain => Ok(()),
        Mode::Terminate | Mode::Kill => Err(io::Error::other(CutOff)),
    };
    // Its few files are synced along with many, or each would take its time.
    let _ = shared.room.wait_for(takes.outputs.len().saturating_add(OWN_FILES), &|| watch().is_err());
    let mut unsynced = Unsynced::new(&shared.room);
    let verdict = match take(&shared.grounds, job, takes, &mut unsynced, &watch) {
        Ok(()) => Verdict::Succeeded { metrics: Metrics::new(), outputs: takes.outputs.clone() },
        Err(trouble) => {
            unsynced = Unsynced::new(&shared.room);
            match trouble {
                AttemptError::Trial(failure) => Verdict::Failed(failure),
                AttemptError::Machine(why) => shared.machine_failed(why),
                AttemptError::CutOff => {
                    Verdict::Interrupted { reason: "the run ended before a result was taken over".into() }
                }
            }
        }
    };
    shared.tell_ended(job, None, Usage::default(), verdict, unsynced);
}

/// Takes over what the job names. What is not durable yet is noted.
///
/// # Errors
/// [`AttemptError::Trial`]: it is not there as it was recorded, in words; [`AttemptError::Machine`]: the place of the copy fails.
pub(crate) fn take(
    grounds: &Grounds,
    job: &Job,
    takes: &Takes,
    unsynced: &mut Unsynced,
    watch: HashWatch<'_>,
) -> Result<(), AttemptError> {
    // What lies there now says most.
    let first = match take_from(grounds, job, takes, &takes.from, unsynced, watch) {
        Err(AttemptError::Trial(why)) => why,
        other => return other,
    };
    // What moved aside may still be it.
    for from in moved_aside(&takes.from) {
        match take_from(grounds, job, takes, &from, unsynced, watch) {
            Err(AttemptError::Trial(_)) => {}
            other => return other,
        }
    }
    attempt_dir::unmake_taken(grounds, job);
    Err(first.into())
}

/// What the directory of an attempt was moved aside to, the newest first.
fn moved_aside(from: &Below) -> Vec<Below> {
    let path = from.path();
    let Some(name) = path.file_name().map(OsStr::to_os_string) else { return Vec::new() };
    let above = from.above();
    let mut names: Vec<OsString> = above.open().and_then(|dir| dir.names()).unwrap_or_default();
    names.retain(|other| {
        let rest = other.as_encoded_bytes().strip_prefix(name.as_encoded_bytes());
        rest.is_some_and(|rest| rest.starts_with(BEFORE.as_bytes()))
    });
    names.sort_unstable();
    names.into_iter().rev().map(|name| above.join(name)).collect()
}

fn take_from(
    grounds: &Grounds,
    job: &Job,
    takes: &Takes,
    from: &Below,
    unsynced: &mut Unsynced,
    watch: HashWatch<'_>,
) -> Result<(), AttemptError> {
    let missing = |name: &str, why: String| AttemptError::from(missing(from, name, why));
    let source = from.open().map_err(|error| missing("", read_words(&error)))?;
    // What is not as long as it was needs no copy to be told.
    let mut found = Vec::new();
    for output in &takes.outputs {
        let opened = source.resolve(Path::new(&output.path)).and_then(|(real, _)| source.open(&real));
        let opened = opened.map_err(|error| missing(&output.path, read_words(&error)))?;
        let is_file = opened.kind().is_ok_and(|kind| kind == FileType::RegularFile);
        if is_file && opened.bytes().ok() != Some(output.bytes) && !injected_fault!(TakenUnchecked) {
            return Err(missing(&output.path, "is not what was recorded of it".into()));
        }
        found.push((output, opened));
    }
    let found: Vec<_> = found.iter().map(|(output, opened)| (output.path.as_str(), opened)).collect();
    let (remains, kept) = copy_all(grounds, job, from, &found, unsynced, watch)?;
    if let Some(output) = differing(&kept, &takes.outputs)
        && !injected_fault!(TakenUnchecked)
    {
        return Err(missing(&output.path, "is not what was recorded of it".into()));
    }
    keep_rest(job, &remains, unsynced)?;
    if injected_fault!(TakenNotSynced) {
        unsynced.forget();
    }
    Ok(())
}

/// Copies what was found of an earlier result into the place of an attempt that is not made; hashes of what is there then.
fn copy_all(
    grounds: &Grounds,
    job: &Job,
    from: &Below,
    found: &[(&str, &Opened)],
    unsynced: &mut Unsynced,
    watch: HashWatch<'_>,
) -> Result<(EndedAttemptDir, Vec<OutputHash>), AttemptError> {
    let dir = attempt_dir::make_taken(grounds, job)?;
    for (path, opened) in found {
        let (at, name) = into_dir(&dir, path)
            .map_err(|error| machine(&format!("cannot make `{}`", job.dir.join(path).display()), &error))?;
        match opened.copy_into(at.as_deref().unwrap_or(&dir), &name, watch) {
            Ok(()) => {}
            Err(CopyError::Source(error)) if is_cut_off(&error) => return Err(AttemptError::CutOff),
            Err(CopyError::Source(error)) => return Err(missing(from, path, read_words(&error)).into()),
            Err(CopyError::Target(error)) => {
                let what = format!("cannot copy an output to `{}`", job.dir.join(path).display());
                return Err(machine(&what, &error));
            }
        }
    }
    let remains = EndedAttemptDir::made(dir);
    match keep_outputs(&job.stage_spec, &remains, unsynced, watch) {
        Ok(kept) => Ok((remains, kept)),
        // It was just written.
        Err(AttemptError::Trial(why)) => Err(AttemptError::Machine(why.reason)),
        Err(other) => Err(other),
    }
}

fn keep_rest(job: &Job, remains: &EndedAttemptDir, unsynced: &mut Unsynced) -> Result<(), AttemptError> {
    unsynced.keep_params(job, remains).map_err(|(what, error)| {
        AttemptError::Machine(format!("cannot make {what} durable: {}", io_words(&error)))
    })
}

/// The declared outputs of a stage in a directory that a person named, open.
///
/// # Errors
/// Which one is not there, in words.
pub(crate) fn outputs_in<'n>(names: &'n [String], from: &Below) -> Result<Vec<(&'n str, Opened)>, String> {
    let source = from.open().map_err(|error| missing(from, "", read_words(&error)).reason)?;
    let open = |name: &'n String| {
        let opened = source.resolve(Path::new(name)).and_then(|(real, _)| source.open(&real));
        let opened = opened.map_err(|error| missing(from, name, read_words(&error)).reason)?;
        let is_one = matches!(opened.kind(), Ok(FileType::RegularFile | FileType::Directory));
        if is_one {
            Ok((name.as_str(), opened))
        } else {
            Err(missing(from, name, "is no file or directory".into()).reason)
        }
    };
    names.iter().map(open).collect()
}

/// Makes the place of a result that was made elsewhere, with its outputs in it, and hashes them. What is not durable yet is noted.
///
/// # Errors
/// As for [`take`].
pub(crate) fn bring(
    grounds: &Grounds,
    job: &Job,
    from: Option<&Below>,
    unsynced: &mut Unsynced,
    watch: HashWatch<'_>,
) -> Result<Vec<OutputHash>, AttemptError> {
    let nowhere = Below::root(job.dir.clone());
    let from = from.unwrap_or(&nowhere);
    let found = match job.stage_spec.outputs.is_empty() {
        true => Vec::new(),
        false => {
            outputs_in(&job.stage_spec.outputs, from).map_err(|why| failure(FailureKind::MissingOutput, why))?
        }
    };
    let found: Vec<_> = found.iter().map(|(name, opened)| (*name, opened)).collect();
    let (remains, kept) = copy_all(grounds, job, from, &found, unsynced, watch)?;
    // Its directory alone matters to whoever derives from it.
    unsynced.kept_elsewhere();
    keep_rest(job, &remains, unsynced)?;
    if injected_fault!(ImportedNotSynced) {
        unsynced.forget();
    }
    Ok(kept)
}

/// Takes back what [`bring`] made.
pub(crate) fn take_back(grounds: &Grounds, job: &Job) {
    attempt_dir::unmake_taken(grounds, job);
}

fn missing(from: &Below, name: &str, why: String) -> crate::model::Failure {
    failure(FailureKind::MissingOutput, format!("`{}` {why}", from.path().join(name).display()))
}

/// The first output that is not what was recorded.
fn differing<'a>(kept: &[OutputHash], recorded: &'a [OutputHash]) -> Option<&'a OutputHash> {
    recorded.iter().find(|output| !kept.contains(output))
}

/// The directory in `dir` that an output goes into, made, and its name there.
fn into_dir(dir: &Arc<Opened>, path: &str) -> io::Result<(Option<Arc<Opened>>, OsString)> {
    let mut names: Vec<&OsStr> = Vec::new();
    for part in Path::new(path).components() {
        match part {
            std::path::Component::Normal(name) => names.push(name),
            std::path::Component::ParentDir => drop(names.pop()),
            _ => {}
        }
    }
    let last = names.pop().ok_or(io::ErrorKind::InvalidInput)?;
    let mut at = None;
    for name in names {
        let above = at.as_ref().unwrap_or(dir);
        match above.make(name) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        at = Some(Arc::new(above.enter(name)?));
    }
    Ok((at, last.to_os_string()))
}

fn machine(what: &str, error: &io::Error) -> AttemptError {
    AttemptError::Machine(format!("{what}: {}", io_words(error)))
}

fn read_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => "is gone".into(),
        _ => format!("cannot be read: {}", io_words(error)),
    }
}
