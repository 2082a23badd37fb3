//! What a study is made of is not written over by what is made of the study.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::{StudyView, ViewError, clean};
use crate::journal::{JournalError, Snapshot};
use crate::model::InputList;
use crate::study_file::{Sampling, Spec};
use crate::sys::files::is_same;

/// Refuses a file to be written that is the study file, or one that the study reads: an input, what is recorded of an input
/// directory, or a file of cases.
///
/// # Errors
/// [`ViewError::Request`], which says what it is; [`ViewError::Journal`].
pub fn refuse_own_file(view: &StudyView, snapshot: &Snapshot, path: &Path) -> Result<(), ViewError> {
    let refused = |what: &str| {
        let shown = clean(&path.display().to_string());
        Err(ViewError::Request(format!("`{shown}` is {what}: nothing may be written over it")))
    };
    if let Some(what) = own_file(&view.spec, &view.study.study_file, &view.place.study_dir, path) {
        return refused(what);
    }
    match input_around(view, snapshot, path)? {
        Some(input) => refused(&format!("in the input `{}` of the study", clean(&input))),
        None => Ok(()),
    }
}

/// What a path is to a study, if it is the study file, or a file that the study names as one that it reads; all relative to `dir`.
#[must_use]
pub fn own_file(spec: &Spec, study_file: &str, dir: &Path, path: &Path) -> Option<&'static str> {
    let inputs = spec.study.inputs.iter().map(|input| (input.as_str(), "an input of the study"));
    let cases = spec.stages.iter().filter_map(|stage| match &stage.sampling {
        Sampling::File(file) => Some((file.path.as_str(), "a file of cases of the study")),
        Sampling::Grid | Sampling::Random | Sampling::Sobol | Sampling::Ask(_) => None,
    });
    let study_file = Some((study_file, "the study file")).filter(|(name, _)| !name.is_empty());
    let mut all = study_file.into_iter().chain(cases).chain(inputs);
    all.find(|(name, _)| is_same(&dir.join(name), path)).map(|(_, what)| what)
}

/// The input directory that a file lies in, if it is one that counted when the study was made, or last amended. Another file,
/// such as an earlier report, is no part of the study.
fn input_around(view: &StudyView, snapshot: &Snapshot, path: &Path) -> Result<Option<String>, JournalError> {
    let Ok(file) = fs::canonicalize(path) else { return Ok(None) };
    let dir_of = |input: &str| fs::canonicalize(view.place.study_dir.join(input)).ok().filter(|dir| dir.is_dir());
    // The lists are looked for only where there is something to find: that reads all events.
    if !view.study.inputs.iter().filter_map(|input| dir_of(&input.path)).any(|dir| file.starts_with(dir)) {
        return Ok(None);
    }
    let holds = |list: &&InputList| {
        let Some(dir) = dir_of(&list.input) else { return false };
        let mut entries = list.entries.iter().map(|entry| dir.join(OsStr::from_bytes(&entry.path)));
        entries.any(|entry| is_same(&entry, &file))
    };
    let identities = snapshot.identities()?;
    let lists = identities.last().map_or(&[][..], |identity| &identity.lists);
    Ok(lists.iter().find(holds).map(|list| list.input.clone()))
}
