//! What leads on after a refusal, as it has to be said: which study file amends the study, and with which params.
//!
//! Which params were set when a study was made is not stored as such, so it is found by laying the stored ones beside the
//! file's. Nothing here may lead to another study.

use std::path::{Path, PathBuf};

use crate::model::{StudyRow, Value};
use crate::study_file::{self, Spec};

/// How a study is amended to what its file says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HowToAmend {
    /// Path of the store's file.
    pub store: PathBuf,
    /// The study file.
    pub study_file: PathBuf,
    /// Params to be set besides, by name.
    pub overrides: Vec<(String, String)>,
    /// The first stage whose results have to be discarded.
    pub discard_from: Option<String>,
}

/// What `--set` has to say so that a study file gives the params that the store has; nothing, where the file cannot be
/// read.
#[must_use]
pub fn overrides_of(study: &StudyRow, file: &Path) -> Vec<(String, String)> {
    let (Ok(stored), Ok(bytes)) = (Spec::from_json(&study.spec), std::fs::read(file)) else { return Vec::new() };
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let read = |overrides: &[(String, String)]| {
        study_file::parse_study_as("", &bytes, overrides, dir, stored.values).map(|spec| spec.params)
    };
    let Ok(plain) = read(&[]) else { return Vec::new() };
    let mut overrides = Vec::new();
    for (name, value) in &stored.params {
        if plain.get(name).is_none_or(|in_file| in_file == value) {
            continue;
        }
        let text = value.0.to_string();
        // A text that looks like a number is one unless it is quoted.
        let quoted = match &value.0 {
            Value::Str(text) => Some(format!("{text:?}")),
            _ => None,
        };
        let gives = |text: &String| {
            read(&[(name.clone(), text.clone())]).is_ok_and(|params| params.get(name) == Some(value))
        };
        overrides.extend([Some(text), quoted].into_iter().flatten().find(gives).map(|text| (name.clone(), text)));
    }
    overrides
}
