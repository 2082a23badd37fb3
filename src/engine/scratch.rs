//! Scratch directories of trials that are taken out of a study: another case's trial may get their numbers, and must not go on
//! from their checkpoints. Nothing of a result is touched.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use crate::model::artifacts::PROGRESS_FILE;
use crate::model::{Event, StageRow, StageStatus};
use crate::paths::{SCRATCH_DIR, StudyPaths};
use crate::study_file::Spec;
use crate::sys::opened::Opened;

/// Removes `<case>/scratch` and `<case>/progress.jsonl` of the cases that are meant in a stage's directory, durably; links are not followed.
pub(crate) fn clear_scratch(stage_dir: &Path, is_meant: &dyn Fn(&str) -> bool) -> io::Result<()> {
    let skipped =
        |error: &io::Error| matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
    let (above, name) = (stage_dir.parent().unwrap_or(stage_dir), stage_dir.file_name().unwrap_or_default());
    let stage = match Opened::dir(above).and_then(|above| above.enter(name)) {
        Err(error) if skipped(&error) => return Ok(()),
        other => other?,
    };
    for name in stage.names()? {
        if !name.to_str().is_some_and(is_meant) {
            continue;
        }
        let case = match stage.enter(&name) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                // A trial may have forbidden it.
                stage.let_owner_in_at(&name)?;
                stage.enter(&name)?
            }
            Err(error) if skipped(&error) => continue,
            other => other?,
        };
        for kept in [SCRATCH_DIR, PROGRESS_FILE] {
            match case.remove(OsStr::new(kept)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    if injected_fault!(ScratchNotSynced) {
        return Ok(());
    }
    stage.sync_file_system()
}

/// Clears those of trials that such events take out of stages; the directory that could not be.
///
/// # Errors
/// Why not.
pub(super) fn clear_of(
    events: &[Event],
    stages: &[StageRow],
    spec: &Spec,
    paths: &StudyPaths,
) -> Result<(), (PathBuf, io::Error)> {
    let clear = |stage: u32, is_meant: &dyn Fn(&str) -> bool| {
        let dir = paths.stage_dir(spec, stage);
        clear_scratch(&dir, is_meant).map_err(|cause| (dir, cause))
    };
    for event in events {
        match event {
            Event::StagesDiscarded { from } => {
                let begun = |stage: &&StageRow| stage.index >= *from && stage.status != StageStatus::Waiting;
                stages.iter().filter(begun).try_for_each(|stage| clear(stage.index, &|_| true))?;
            }
            Event::StageReplanned(replanned) => {
                let prefix = format!("{}_{}_", spec.study.base_case, replanned.stage);
                clear(replanned.stage, &|case| {
                    let place = case.strip_prefix(&prefix).and_then(|number| number.parse::<u64>().ok());
                    let is_in = |(first, count): &(u64, u64)| {
                        place.and_then(|place| place.checked_sub(*first)).is_some_and(|place| place < *count)
                    };
                    replanned.anew.iter().any(is_in)
                })?;
            }
            _ => {}
        }
    }
    Ok(())
}
