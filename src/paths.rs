//! Where a study's things lie.
//!
//! A store remembers its study's directory and its artifacts relative to itself, so that a project that is moved as
//! a whole still resumes. Nothing here touches the disk beyond resolving a path.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

pub(crate) use crate::model::artifacts::METRICS_FILE;
pub(crate) use crate::model::artifacts::PROPOSER_DIR;
pub(crate) use crate::model::artifacts::SCRATCH_DIR;
pub use crate::model::artifacts::STDERR_LOG;
pub(crate) use crate::model::artifacts::STDOUT_LOG;
pub(crate) use crate::model::artifacts::attempt_name;
pub(crate) use crate::model::artifacts::stage_name;
use crate::model::{AttemptNo, StageIndex, StudyRow};
use crate::study_file::Spec;

/// Absolute places of one study.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StudyPaths {
    /// The redb file.
    pub store: PathBuf,
    /// Where the study file lies; programs with a slash, and inputs, are relative to it.
    pub study_dir: PathBuf,
    /// The artifacts directory; the study's own folder is inside.
    pub artifacts: PathBuf,
}

/// The file of a store's requests to stop.
#[must_use]
pub(crate) fn request_path(store: &Path) -> PathBuf {
    beside(store, ".stop")
}

fn beside(store: &Path, ending: &str) -> PathBuf {
    let mut name = store.file_name().map_or_else(OsString::new, OsString::from);
    name.push(ending);
    store.with_file_name(name)
}

impl StudyPaths {
    /// The places a store's study row names.
    ///
    /// # Errors
    /// If the current directory is unknown.
    pub fn of(store: &Path, study: &StudyRow) -> std::io::Result<Self> {
        let store = std::path::absolute(store)?;
        let base = store.parent().unwrap_or(Path::new("/"));
        Ok(Self {
            study_dir: clean(&base.join(&study.study_dir)),
            artifacts: clean(&base.join(&study.artifacts_dir)),
            store,
        })
    }

    /// What is the study's own and no input of it, wherever it lies: its file, its store and what lies beside that, and all
    /// artifacts.
    #[must_use]
    pub(crate) fn own(&self, study_file: &str) -> Vec<PathBuf> {
        let beside = [beside(&self.store, ".reserve"), request_path(&self.store)];
        let mut own = vec![self.store.clone(), self.artifacts.clone()];
        own.extend(beside);
        if !study_file.is_empty() {
            own.push(clean(&self.study_dir.join(study_file)));
        }
        own
    }

    /// `artifacts/<study>`.
    #[must_use]
    pub fn study_artifacts(&self, study_name: &str) -> PathBuf {
        self.artifacts.join(study_name)
    }

    /// `artifacts/<study>/<stage_index>_<stage>`.
    #[must_use]
    pub fn stage_dir(&self, spec: &Spec, stage: StageIndex) -> PathBuf {
        let name = spec.stages.get(stage as usize).map_or("", |stage| stage.name.as_str());
        self.study_artifacts(&spec.study.name).join(stage_name(stage, name))
    }

    /// `artifacts/<study>/<stage_index>_<stage>/<case>`.
    #[must_use]
    pub(crate) fn case_dir(&self, spec: &Spec, stage: StageIndex, case: &str) -> PathBuf {
        self.stage_dir(spec, stage).join(case)
    }

    /// An attempt of the base command: `artifacts/<study>/base/attempt_<n>`.
    #[must_use]
    pub(crate) fn base_dir(&self, study_name: &str, attempt: AttemptNo) -> PathBuf {
        self.study_artifacts(study_name).join("base").join(attempt_name(attempt))
    }

    /// One attempt's directory.
    #[must_use]
    pub fn attempt_dir(&self, spec: &Spec, stage: StageIndex, case: &str, attempt: AttemptNo) -> PathBuf {
        attempt_dir_in(&self.case_dir(spec, stage, case), attempt)
    }

    /// A case's scratch directory, kept across attempts.
    #[must_use]
    pub(crate) fn scratch_dir(&self, spec: &Spec, stage: StageIndex, case: &str) -> PathBuf {
        scratch_dir_in(&self.case_dir(spec, stage, case))
    }
}

/// One attempt's directory in its case's.
#[must_use]
pub(crate) fn attempt_dir_in(case_dir: &Path, attempt: AttemptNo) -> PathBuf {
    case_dir.join(attempt_name(attempt))
}

/// The scratch directory in its case's.
#[must_use]
pub(crate) fn scratch_dir_in(case_dir: &Path) -> PathBuf {
    case_dir.join(SCRATCH_DIR)
}

/// `to` seen from the directory `from`, both absolute; `to` itself where they share no more than the root.
#[must_use]
pub(crate) fn relative(to: &Path, from: &Path) -> PathBuf {
    let (to, from) = (clean(to), clean(from));
    let shared = to.components().zip(from.components()).take_while(|(a, b)| a == b).count();
    if shared <= 1 {
        return to;
    }
    let up = from.components().skip(shared).map(|_| Component::ParentDir);
    let path: PathBuf = up.chain(to.components().skip(shared)).collect();
    if path.as_os_str().is_empty() { ".".into() } else { path }
}

/// A path as a person in the current directory would write it.
#[must_use]
pub fn seen_from_here(path: &Path) -> PathBuf {
    std::env::current_dir().map_or_else(|_| path.to_owned(), |here| relative(path, &here))
}

/// Without `.` and `x/..`, by the names alone.
#[must_use]
pub(crate) fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if matches!(out.components().next_back(), Some(Component::Normal(_))) => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moved_project_keeps_its_relative_places() {
        let relative = |to: &str, from: &str| relative(Path::new(to), Path::new(from)).display().to_string();
        assert_eq!(relative("/p/study", "/p/study"), ".");
        assert_eq!(relative("/p/study/artifacts", "/p/study"), "artifacts");
        assert_eq!(relative("/p/study", "/p/stores/x"), "../../study");
        assert_eq!(relative("/p/./a/../study", "/p"), "study");
        assert_eq!(relative("/data/art", "/home/me"), "/data/art");
    }

    #[test]
    fn what_lies_beside_a_store_of_any_name_is_the_studys_own() {
        let at = |path: &str| Path::new("/p").join(path);
        let paths = StudyPaths { store: at("x.db"), study_dir: at("s"), artifacts: at("out") };
        let own = paths.own("s.toml");
        for name in ["x.db", "x.db.reserve", "x.db.stop", "out", "s/s.toml"] {
            assert!(own.contains(&at(name)), "{name}");
        }
        assert_eq!(own.len(), 5);
    }
}
