//! Whose an artifacts directory is.
//!
//! Two stores that shared `artifacts/<study>` would take each other's attempts for leftovers and remove them. So the
//! directory names the study it belongs to, and a run of another study is refused while that one's store is there.

use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::journal::{self, Reader};
use crate::model::StudyId;
use crate::paths::{self, StudyPaths};
use crate::sys::disk;
use crate::sys::files::{create_dir_all_durable, replace_atomically};
use crate::sys::temporary::{Access, remove_leftovers_in};
use crate::sys::tree_hash::open_beneath;

/// Name of the file that says so.
pub(crate) const CLAIM_FILE: &str = ".piton-study.json";
/// Most bytes of it that are looked at.
const CLAIM_MAX: u64 = 64 << 10;

#[derive(Serialize, Deserialize)]
struct Claim {
    /// The study's identity, hex.
    study_id: String,
    /// Its store, relative to the claimed directory where possible, so that a project may be moved as a whole.
    store: PathBuf,
}

/// The store of another study that owns `artifacts/<study>` and is still there; `None` when the directory is free. A
/// study whose store is gone has no claim any more.
///
/// # Errors
/// What the file system says.
pub(crate) fn other_owner(paths: &StudyPaths, study: &str, id: Option<StudyId>) -> io::Result<Option<PathBuf>> {
    let dir = paths.study_artifacts(study);
    let text = match disk::read(&dir.join(CLAIM_FILE)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // An unreadable claim names nobody.
    let Ok(claim) = serde_json::from_slice::<Claim>(&text) else { return Ok(None) };
    if id.is_some_and(|id| id.to_string() == claim.study_id) {
        return Ok(None);
    }
    let store = paths::clean(&dir.join(&claim.store));
    Ok(owns(&store, &claim.study_id).then_some(store))
}

/// Whether the store is there and is that study's. One that cannot be read is given the benefit of the doubt.
fn owns(store: &Path, study_id: &str) -> bool {
    if !disk::exists(store) {
        return false;
    }
    let study = Reader::open(store).ok().and_then(|reader| reader.snapshot().ok()?.study().ok());
    study.is_none_or(|study| study.study_id.to_string() == study_id)
}

/// Whether an open directory is the artifacts of this very study, by its own word. A store can name any directory; only
/// a run of the study leaves this in it.
#[must_use]
pub fn is_of_study(dir: BorrowedFd<'_>, id: StudyId) -> bool {
    let mut text = Vec::new();
    let read =
        open_beneath(dir, Path::new(CLAIM_FILE)).and_then(|file| file.take(CLAIM_MAX).read_to_end(&mut text));
    read.is_ok() && serde_json::from_slice::<Claim>(&text).is_ok_and(|claim| claim.study_id == id.to_string())
}

/// Whose a directory of artifacts is, by its own word.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// This very store's.
    Own,
    /// A store's that is there, and has the same study or another one: this one is a copy of it, or names a directory that it should not.
    Other(PathBuf),
    /// Nobody's.
    Nobody,
}

/// Whose `artifacts/<study>` is. What a store names may be any directory, and a store may be a copy: nothing may be removed in one that is not
/// its own.
///
/// # Errors
/// What the file system says.
pub(crate) fn owner(paths: &StudyPaths, study: &str, id: StudyId) -> io::Result<Owner> {
    let dir = paths.study_artifacts(study);
    let text = match disk::read(&dir.join(CLAIM_FILE)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Owner::Nobody),
        Err(error) => return Err(error),
    };
    let Ok(claim) = serde_json::from_slice::<Claim>(&text) else { return Ok(Owner::Nobody) };
    let store = paths::clean(&dir.join(&claim.store));
    let real = |path: &Path| std::fs::canonicalize(path).ok();
    let is_this = store == paths.store || real(&store).is_some_and(|store| real(&paths.store) == Some(store));
    match claim.study_id == id.to_string() {
        true if is_this || !owns(&store, &claim.study_id) => Ok(Owner::Own),
        false if !owns(&store, &claim.study_id) => Ok(Owner::Nobody),
        _ => Ok(Owner::Other(store)),
    }
}

/// Makes `artifacts/<study>`, durable up to the root, and writes whose it is.
///
/// # Errors
/// What the file system says.
pub(crate) fn claim(paths: &StudyPaths, study: &str, id: StudyId) -> io::Result<()> {
    let dir = paths.study_artifacts(study);
    create_dir_all_durable(&dir)?;
    // Of a claim that a crash cut off; the exports clean up, too, but may never be written.
    let _ = remove_leftovers_in(&dir);
    journal::remove_leftovers(&paths.store);
    let claim = Claim { study_id: id.to_string(), store: paths::relative(&paths.store, &dir) };
    let text = serde_json::to_vec(&claim)?;
    if disk::read(&dir.join(CLAIM_FILE)).is_ok_and(|now| now == text) {
        return Ok(());
    }
    replace_atomically(&dir.join(CLAIM_FILE), Access::Usual, |out| out.write_all(&text))
}
