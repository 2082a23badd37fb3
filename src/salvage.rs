//! `piton salvage` as a program uses it: a new store from what can be read of a damaged one, in any directory.
//!
//! The events are the journal's business ([`journal::salvage`]); here they get the place of the study's files, seen from
//! the new store. The artifacts stay where they are, and belong to the same study as before. Nothing here may touch
//! the damaged store.

use std::path::Path;

use crate::error::Error;
use crate::journal::{self, OpenError, Salvaged};
use crate::model::StudyCreated;
use crate::paths;

/// Builds the store `new` from what can be read of `damaged`.
///
/// # Errors
/// [`Error::Open`]: nothing can be recovered, `new` is there already, an engine writes the store, or the disk refuses.
pub fn salvage(damaged: &Path, new: &Path) -> Result<Salvaged, Error> {
    if let Some(dir) = new.parent().filter(|dir| !dir.as_os_str().is_empty())
        && let Err(cause) = std::fs::metadata(dir)
    {
        return Err(Error::File { what: "make a store in", path: dir.into(), cause });
    }
    let absolute = |path: &Path| std::path::absolute(path).map_err(Error::no_current_dir);
    let (from, to) = (absolute(damaged)?, absolute(new)?);
    let root = Path::new("/");
    let (from, to) = (from.parent().unwrap_or(root), to.parent().unwrap_or(root));
    let moved = |created: &mut StudyCreated| {
        if from == to {
            return;
        }
        for place in [&mut created.study_dir, &mut created.artifacts_dir] {
            let seen = paths::relative(&from.join(&*place), to);
            // Places in a store are UTF-8; a directory of another name cannot be pointed at, and a resume says so.
            if let Some(seen) = seen.to_str() {
                *place = seen.to_owned();
            }
        }
    };
    journal::salvage(damaged, new, moved).map_err(|error: OpenError| error.into())
}
