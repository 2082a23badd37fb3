//! Whether the inputs of a study are what its store says: the one place that asks.
//!
//! It is asked before a run, by whoever amends or replays, and again and again while trials run. It never decides what
//! follows from a change.

use crate::model::{Identity, InputList, StudyRow};
use crate::paths::StudyPaths;
use crate::spec::{self, CaseFiles, Change, Found, InputError, Inputs, Spec, changed_inputs};
use crate::sys::tree_hash::to_the_end;

/// The inputs of a study, as they were found.
#[derive(Clone, Debug)]
pub struct Looked {
    /// Ready to be looked at again.
    pub inputs: Inputs,
    /// What they were.
    pub found: Found,
    /// How that differs from what is recorded, in words; empty: not at all.
    pub changes: Vec<String>,
}

/// What is in input directories, of all that a study ever had.
#[must_use]
pub fn lists_of(identities: Vec<Identity>) -> Vec<InputList> {
    identities.into_iter().flat_map(|identity| identity.lists).collect()
}

/// The inputs of a study.
#[must_use]
pub fn inputs_of(spec: &Spec, paths: &StudyPaths, study_file: &str) -> Inputs {
    Inputs::of(spec, &paths.study_dir, &paths.own(study_file))
}

/// Looks at the inputs as they are now.
///
/// # Errors
/// [`InputError`].
pub fn inputs_now(spec: &Spec, paths: &StudyPaths, study_file: &str) -> Result<(Inputs, Found), InputError> {
    let mut inputs = inputs_of(spec, paths, study_file);
    let found = inputs.look(&to_the_end)?;
    Ok((inputs, found))
}

/// Looks at the inputs and compares them with the record; `lists` are asked only when something differs.
///
/// # Errors
/// [`InputError`] when the machine fails; an input that is gone is a change.
pub fn look(
    (spec, case_files): (&Spec, CaseFiles),
    paths: &StudyPaths,
    row: &StudyRow,
    lists: impl FnOnce() -> Vec<InputList>,
) -> Result<Looked, InputError> {
    let mut inputs = inputs_of(spec, paths, &row.study_file);
    let found = match inputs.look(&to_the_end) {
        Ok(found) => found,
        Err(error) => match error.is_gone() {
            Some(gone) => return Ok(Looked { inputs, found: Found::default(), changes: vec![gone] }),
            None => return Err(error),
        },
    };
    let changes = match found.hashes == row.inputs {
        true => Vec::new(),
        false => changed_inputs((spec, case_files), (&row.inputs, &lists()), &found, &mut inputs),
    };
    Ok(Looked { inputs, found, changes: changes.iter().map(ToString::to_string).collect() })
}

/// Inputs as a changed study file names them, and what of them contradicts results there are.
#[derive(Clone, Debug)]
pub struct Present {
    /// What they are now.
    pub found: Found,
    /// Inputs that are not what they were when results were made, whether or not they are still named.
    pub conflicts: Vec<Change>,
}

/// Looks at the inputs of the spec `new` that a study is to have, and at those of its spec `old`. `identities` is what its
/// inputs were from the beginning on.
///
/// # Errors
/// [`InputError`].
pub fn present(
    (old, new): (&Spec, &Spec),
    paths: &StudyPaths,
    row: &StudyRow,
    identities: &[Identity],
) -> Result<Present, InputError> {
    let (_, found) = inputs_now(new, paths, &row.study_file)?;
    let mut conflicts = Vec::new();
    let lists = || lists_of(identities.to_vec());
    let looked = look((old, CaseFiles::JustRead), paths, row, lists)?;
    let recorded = Identity { lists: lists(), ..Identity::new(row.inputs.clone(), Vec::new()) };
    if looked.found.hashes.is_empty() {
        conflicts.extend(looked.changes.iter().map(|what| Change { path: what.clone(), old: None, new: None }));
    } else if !looked.changes.is_empty() {
        conflicts.extend(spec::lost(old, &recorded, &looked.found));
    }
    let used = identities.iter().filter(|identity| identity.results > 0);
    for identity in used.chain([&recorded]) {
        for change in spec::contradicted(new, identity, &found, &paths.study_dir) {
            if conflicts.iter().all(|known| known.path != change.path) {
                conflicts.push(change);
            }
        }
    }
    Ok(Present { found, conflicts })
}
