//! Whether the inputs of a study are what its store says: the one place that asks.
//!
//! It is asked before a run, by amendments and replays, and again and again while trials run. It never decides what
//! follows from a change.

use crate::model::{Identity, InputList, StageIndex, StudyRow};
use crate::paths::StudyPaths;
use crate::study_file::{self, CaseFiles, Change, Contradiction, Found, InputError, Inputs, Spec, changed_inputs};
use crate::sys::tree_hash::to_the_end;

/// The inputs of a study, as they were found.
#[derive(Clone, Debug)]
pub(crate) struct Looked {
    /// Ready to be looked at again.
    pub inputs: Inputs,
    pub found: Found,
    /// How that differs from what is recorded, in words; empty: not at all.
    pub changes: Vec<String>,
    /// The first stage whose results depend on what has changed.
    pub from: StageIndex,
}

/// What is in input directories, of all that a study ever had.
#[must_use]
pub(crate) fn lists_of(identities: Vec<Identity>) -> Vec<InputList> {
    identities.into_iter().flat_map(|identity| identity.lists).collect()
}

#[must_use]
pub(crate) fn inputs_of(spec: &Spec, paths: &StudyPaths, study_file: &str) -> Inputs {
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
pub(crate) fn look(
    (spec, case_files): (&Spec, CaseFiles),
    paths: &StudyPaths,
    row: &StudyRow,
    lists: impl FnOnce() -> Vec<InputList>,
) -> Result<Looked, InputError> {
    let mut inputs = inputs_of(spec, paths, &row.study_file);
    let found = match inputs.look(&to_the_end) {
        Ok(found) => found,
        Err(error) => match error.is_gone() {
            Some(gone) => {
                let from = spec.depends_from(&error.input);
                return Ok(Looked { inputs, found: Found::default(), changes: vec![gone], from });
            }
            None => return Err(error),
        },
    };
    let changes = match found.hashes == row.inputs {
        true => Vec::new(),
        false => changed_inputs((spec, case_files), (&row.inputs, &lists()), &found, &mut inputs),
    };
    let from = changes.iter().map(|change| spec.depends_from(&change.input)).min().unwrap_or(0);
    Ok(Looked { inputs, found, changes: changes.iter().map(ToString::to_string).collect(), from })
}

/// Inputs as a changed study file names them, and what of them contradicts results there are.
#[derive(Clone, Debug)]
pub(crate) struct Present {
    pub found: Found,
    /// Inputs that are not what they were when results were made, whether or not they are still named.
    pub conflicts: Vec<Contradiction>,
}

/// Looks at the inputs of the spec `new` that a study is to have, and at those of its spec `old`. `identities` is what its
/// inputs were from the beginning on.
///
/// # Errors
/// [`InputError`].
pub(crate) fn present(
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
        let gone = |what: &String| Change { path: what.clone(), old: None, new: None };
        conflicts
            .extend(looked.changes.iter().map(|what| Contradiction { change: gone(what), from: looked.from }));
    } else if !looked.changes.is_empty() {
        conflicts.extend(study_file::lost(old, &recorded, &looked.found));
    }
    let contradicted = |identity| study_file::contradicted(new, identity, &found, &paths.study_dir);
    let made = identities.iter().flat_map(|identity| {
        contradicted(identity).into_iter().filter(|contradiction| identity.has_results(contradiction.from))
    });
    for contradiction in made.chain(contradicted(&recorded)) {
        if conflicts.iter().all(|known| known.change.path != contradiction.change.path) {
            conflicts.push(contradiction);
        }
    }
    Ok(Present { found, conflicts })
}
