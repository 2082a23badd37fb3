//! The files and directories a study says it depends on: what they are, and how they differ from what is recorded.
//!
//! An input is what its contents and names are, without what tools and piton itself leave in a directory. It must never
//! count as the same when a trial could see the difference.

mod differ;
mod leave;
mod walk;

use std::io;
use std::path::{Component, Path, PathBuf};

use super::types::{Sampling, Spec};
use crate::model::names::clean;
use crate::model::{InputHash, InputList, StageIndex, UnixMs};
use crate::sys::disk;
use crate::sys::hash_cache::{Memory, is_not_a_file};
use crate::sys::tree_hash::{HashWatch, is_cut_off, to_the_end};
use crate::sys::words::io_words;
use leave::Leave;
use walk::Walk;

pub(crate) use differ::{CaseFiles, Contradiction, changed_inputs, contradicted, lost};
pub(crate) use leave::pattern_mistake;

/// An input that cannot be hashed.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the input `{input}`{}", within.as_ref().map(|path| format!(" (at `{}`)", clean(&path.to_string_lossy()))).unwrap_or_default())]
#[non_exhaustive]
pub struct InputError {
    /// As the spec names it.
    pub input: String,
    /// Where inside it, if it is a directory.
    pub within: Option<PathBuf>,
    /// Why.
    pub source: io::Error,
}

impl InputError {
    /// Whether its watcher ended it.
    #[must_use]
    pub(crate) fn is_cut_off(&self) -> bool {
        is_cut_off(&self.source)
    }

    /// Whether the input is not there, or something in its place that cannot be one, which is a change like another, in
    /// words; otherwise the machine failed.
    #[must_use]
    pub(crate) fn is_gone(&self) -> Option<String> {
        let what = match self.source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => "is gone",
            _ if is_not_a_file(&self.source) => "is no file or directory any more",
            _ if self.source.raw_os_error() == Some(libc::ELOOP) => "is a link that leads to itself",
            _ => return None,
        };
        self.within.is_none().then(|| format!("input `{}` {what}", clean(&self.input)))
    }

    /// All of it in one line.
    #[must_use]
    pub fn words(&self) -> String {
        format!("{self}: {}", io_words(&self.source))
    }
}

/// What inputs are now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Of each, in the order of the spec.
    pub hashes: Vec<InputHash>,
    /// What is in those that are directories.
    pub lists: Vec<InputList>,
}

/// Largest list of a directory that is recorded, entries: a larger one is known by its hash alone.
const LISTED_MAX: usize = 200_000;

/// How often a directory is walked again in which something vanished meanwhile.
const TRIES: u32 = 5;

/// How directories are hashed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Now,
    /// As by pitons for which a directory counted in which nothing does.
    WithEmptyDirectories,
    /// As by those that left nothing out.
    WithEverything,
}

/// The inputs of a study, ready to be looked at.
#[derive(Clone, Debug)]
pub struct Inputs {
    study_dir: PathBuf,
    named: Vec<String>,
    leave: Leave,
    memory: Memory,
}

impl Inputs {
    /// Those that the spec names; relative paths are taken from `study_dir`, which is absolute. `own` are the study's file,
    /// its store and what lies beside it, and its artifacts, absolute: with the files of cases they are left out of directories.
    #[must_use]
    pub fn of(spec: &Spec, study_dir: &Path, own: &[PathBuf]) -> Self {
        let mut own = own.to_vec();
        own.extend(case_files(spec).map(|path| plainly(&study_dir.join(path))));
        Self {
            study_dir: study_dir.to_owned(),
            named: spec.all_inputs().into_iter().map(str::to_owned).collect(),
            leave: Leave::new(&spec.study.inputs_ignore, own),
            memory: Memory::default(),
        }
    }

    /// Whether there is nothing to look at.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.named.is_empty()
    }

    /// When any of their files last changed in any way, as of the last look, Unix milliseconds.
    #[must_use]
    pub fn changed_ms(&self) -> UnixMs {
        self.memory.changed_ms
    }

    /// Files that were found written since an earlier look, and to say what they said.
    pub fn take_rewritten(&mut self) -> Vec<PathBuf> {
        std::mem::take(&mut self.memory.rewritten)
    }

    /// Hashes them, in order. A file that was left alone since an earlier look is not read again. `watch` is
    /// asked now and then.
    ///
    /// A directory's hash covers the sorted relative paths and the contents of everything below it that is not left out; a
    /// directory in which there is nothing of that counts for nothing.
    /// Symbolic links are followed; a directory met a second time counts as a reference to the first. Pipes, sockets and
    /// devices inside a directory count by name alone, as do links that lead nowhere.
    ///
    /// # Errors
    /// An input is missing, cannot be read, or is neither file nor directory; what `watch` says.
    pub fn look(&mut self, watch: HashWatch<'_>) -> Result<Found, InputError> {
        let mut found = Found::default();
        self.memory.changed_ms = UnixMs::MIN;
        for input in self.named.clone() {
            let (hash, list) = self.one(&input, How::Now, watch)?;
            found.hashes.push(hash);
            found.lists.extend(list);
        }
        Ok(found)
    }

    /// Whether one input is what an older piton recorded of it.
    fn is_as_recorded_before(&mut self, recorded: &InputHash) -> bool {
        let mut is =
            |how| self.one(&recorded.path, how, &to_the_end).is_ok_and(|(hash, _)| hash.blake3 == recorded.blake3);
        is(How::WithEmptyDirectories) || is(How::WithEverything)
    }

    fn one(
        &mut self,
        input: &str,
        how: How,
        watch: HashWatch<'_>,
    ) -> Result<(InputHash, Option<InputList>), InputError> {
        let path = plainly(&self.study_dir.join(input));
        let failed = |source| InputError { input: input.to_owned(), within: None, source };
        let hash = |bytes, blake3: blake3::Hash| InputHash {
            path: input.to_owned(),
            bytes,
            blake3: blake3.to_hex().to_string(),
        };
        if !disk::is_dir(&path) {
            let (bytes, blake3) = self.memory.hash_file(&path, watch).map_err(failed)?;
            return Ok((hash(bytes, blake3), None));
        }
        let shown = plainly(Path::new(input));
        let below = (how != How::WithEverything).then(|| self.leave.below(&shown, &path, &self.study_dir));
        let mut tries = 0;
        let walked = loop {
            let walked = Walk::through((&path, &shown), how != How::Now, below.as_ref(), &mut self.memory, watch);
            match walked {
                // Something was removed between its directory's look and its own: what is there now is asked again.
                Err((_, error)) if error.kind() == io::ErrorKind::NotFound && tries < TRIES && path.exists() => {
                    tries += 1;
                }
                other => break other,
            }
        };
        let walked = walked.map_err(|(within, source)| {
            let within = (!within.as_os_str().is_empty()).then_some(within);
            InputError { input: input.to_owned(), within, source }
        })?;
        let hash = hash(walked.bytes, walked.hash);
        let entries = if walked.entries.len() > LISTED_MAX { Vec::new() } else { walked.entries };
        let list = InputList { input: input.to_owned(), blake3: hash.blake3.clone(), entries };
        Ok((hash, Some(list)))
    }
}

impl Spec {
    /// The inputs of the study, then those that only stages name; each once, as it is named first.
    #[must_use]
    pub(crate) fn all_inputs(&self) -> Vec<&str> {
        let mut all: Vec<&str> = Vec::new();
        for input in self.study.inputs.iter().chain(self.stages.iter().flat_map(|stage| &stage.inputs)) {
            if !all.iter().any(|known| same_path(known, input)) {
                all.push(input);
            }
        }
        all
    }

    /// The first stage whose results depend on an input, or on what lies in one; the first of all, where nothing says less.
    #[must_use]
    pub(crate) fn depends_from(&self, input: &str) -> StageIndex {
        let covers = |inputs: &[String]| inputs.iter().any(|named| lies_in(input, named));
        let stages = || (0..).zip(&self.stages).find(|(_, stage)| covers(&stage.inputs)).map(|(index, _)| index);
        if covers(&self.study.inputs) { 0 } else { stages().unwrap_or(0) }
    }
}

/// The files of cases that the spec names, relative to the study file. What they say is part of the spec, so directories
/// are hashed without them.
fn case_files(spec: &Spec) -> impl Iterator<Item = &str> {
    spec.stages.iter().filter_map(|stage| match &stage.sampling {
        Sampling::File(file) => Some(file.path.as_str()),
        _ => None,
    })
}

#[must_use]
pub(crate) fn is_case_file(spec: &Spec, input: &str) -> bool {
    case_files(spec).any(|path| same_path(path, input))
}

/// Whether two paths of a study file are the same but for how they are spelt.
#[must_use]
pub(crate) fn same_path(a: &str, b: &str) -> bool {
    plainly(Path::new(a)) == plainly(Path::new(b))
}

/// Whether a path of a study file is another one, or lies below it.
pub(super) fn lies_in(path: &str, input: &str) -> bool {
    plainly(Path::new(path)).starts_with(plainly(Path::new(input)))
}

/// Without `.`; `x/..` stays, since `x` may be a link.
fn plainly(path: &Path) -> PathBuf {
    path.components().filter(|part| !matches!(part, Component::CurDir)).collect()
}

#[cfg(test)]
mod tests;
