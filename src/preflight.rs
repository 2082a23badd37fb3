//! Whether a study can work where it is to run: asked by `piton check`, and by a run before anything is made.
//!
//! A machine's peculiarity that would fail every trial, or end the study at its first result, is refused here, in words and
//! with a way out. Nothing is written.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, accessat};

use crate::claim;
use crate::error::Error;
use crate::model::StudyId;
use crate::paths::StudyPaths;
use crate::study_file::{Spec, Work};
use crate::sys::opened::Opened;
use crate::sys::words::unlockable;

/// Refuses what cannot work. `id` is the study's, once it has one.
///
/// # Errors
/// What cannot work, and why.
pub(crate) fn refuse_unfit(spec: &Spec, paths: &StudyPaths, id: Option<StudyId>) -> Result<(), Error> {
    simulated!(|_machine| Ok(()));
    refuse_names(spec, paths)?;
    if let Some(why) = spec.beyond(&spec.shared()) {
        return Err(Error::Usage(why));
    }
    refuse_dangling("the store", &paths.store)?;
    let beside = paths.store.parent().unwrap_or(Path::new("/"));
    // A store that is there is written in its place.
    if !paths.store.exists() {
        can_hold("make a store in", beside)?;
    }
    can_lock(beside)?;
    // What is there already of the way to the artifacts.
    let artifacts = paths.study_artifacts(&spec.study.name);
    let there = artifacts.ancestors().find(|dir| dir.symlink_metadata().is_ok()).unwrap_or(Path::new("/"));
    refuse_dangling("the artifacts directory", there)?;
    can_hold("make artifacts in", there)?;
    refuse_taken(paths, &spec.study.name, id)?;
    (0..).zip(&spec.stages).try_for_each(|(index, _)| refuse_odd_stage(&paths.stage_dir(spec, index)))
}

/// Refuses an artifacts directory that another study's store still needs. Of a study without an identity that is any store
/// but its own.
pub(crate) fn refuse_taken(paths: &StudyPaths, study: &str, id: Option<StudyId>) -> Result<(), Error> {
    let dir = paths.study_artifacts(study);
    let is_own = |owner: &Path| {
        id.is_none()
            && fs::canonicalize(owner)
                .is_ok_and(|owner| fs::canonicalize(&paths.store).is_ok_and(|own| own == owner))
    };
    match claim::other_owner(paths, study, id) {
        Ok(Some(owner)) if !is_own(&owner) => Err(Error::ArtifactsTaken { dir, owner }),
        Ok(_) => Ok(()),
        Err(cause) => Err(Error::File { what: "look into the artifacts directory", path: dir, cause }),
    }
}

/// What lies below a study's artifacts is piton's own: nothing there is reached through a link.
fn refuse_odd_stage(dir: &Path) -> Result<(), Error> {
    match dir.symlink_metadata() {
        Ok(meta) if !meta.is_dir() => Err(Error::Usage(format!(
            "`{}`, where a stage's directory will be, is a symbolic link or no directory: remove it (a link may lead to the \
             directory of artifacts, or be that of the study in it)",
            dir.display()
        ))),
        _ => Ok(()),
    }
}

/// A link that leads nowhere is neither a file that is there nor a free name.
fn refuse_dangling(what: &str, path: &Path) -> Result<(), Error> {
    match (fs::read_link(path), path.metadata()) {
        (Ok(_), Err(error)) if error.raw_os_error() == Some(libc::ELOOP) => Err(Error::Usage(format!(
            "{what} `{}` is a symbolic link that leads in a circle: remove the link",
            path.display()
        ))),
        (Ok(target), Err(error)) if error.kind() == io::ErrorKind::NotFound => Err(Error::Usage(format!(
            "{what} `{}` is a symbolic link to `{}`, which is not there: remove the link, or make what it leads to",
            path.display(),
            target.display()
        ))),
        _ => Ok(()),
    }
}

/// Whether files can be made in a directory, and made durable.
fn can_hold(what: &'static str, dir: &Path) -> Result<(), Error> {
    let failed = |cause: io::Error| Error::File { what, path: dir.into(), cause };
    let opened = Opened::dir(dir).map_err(failed)?;
    accessat(CWD, dir, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)
        .map_err(|errno| failed(errno.into()))?;
    if opened.is_only_entered() { Ok(()) } else { opened.sync().map_err(failed) }
}

/// Whether files there can be locked. A directory that cannot be asked is no reason to refuse it.
fn can_lock(dir: &Path) -> Result<(), Error> {
    let Ok(file) = File::open(dir) else { return Ok(()) };
    match file.try_lock_shared() {
        Err(TryLockError::Error(error)) => match unlockable(error) {
            cause if cause.kind() == io::ErrorKind::Unsupported => {
                Err(Error::File { what: "keep a store in", path: dir.into(), cause })
            }
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

/// Names that are not UTF-8 fit into no placeholder.
fn refuse_names(spec: &Spec, paths: &StudyPaths) -> Result<(), Error> {
    let odd = [&paths.study_dir, &paths.artifacts].into_iter().find(|path| path.to_str().is_none());
    let Some(odd) = odd else { return Ok(()) };
    let base = spec.base.iter().map(|base| ("the base command", &base.work));
    let stages = spec.stages.iter().map(|stage| (stage.name.as_str(), &stage.work));
    let user = base.chain(stages).find(|(_, work): &(&str, &Work)| work.names_directory());
    match user {
        Some((name, _)) => Err(Error::Usage(format!(
            "the command of `{name}` names a directory, and `{}` is not UTF-8: rename it, or take the directory from the \
             environment (`PITON_STUDY_DIR`, `PITON_PARENT_DIR`)",
            odd.display()
        ))),
        None => Ok(()),
    }
}
