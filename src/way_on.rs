//! Commands that lead on, as they are printed: each must work as it stands.
//!
//! Which params were set when a study was made is not stored as such, so it is found by laying the stored ones beside the
//! file's. Nothing here may print a command that makes another study of it.

use std::io::IsTerminal;
use std::path::Path;

use crate::error::shell_word;
use crate::model::{StudyRow, Value};
use crate::spec::{self, Spec};
use crate::views::shell_quoted;

/// The command that amends a study to what its file says, with the results from a stage on discarded. Where nobody can
/// be asked it says yes.
#[must_use]
pub fn amend_command(store: &Path, study: &Path, overrides: &[(String, String)], from: Option<&str>) -> String {
    let study = study.strip_prefix(".").unwrap_or(study);
    let mut command = format!("piton amend {} {}", shell_word(store), shell_word(study));
    push_overrides(&mut command, overrides);
    if let Some(from) = from {
        command.push_str(&format!(" --discard-from {}", shell_quoted(from)));
    }
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        command.push_str(" --yes");
    }
    command
}

/// The command that runs a study, or goes on with it. `store` is named where it is not the one beside the file.
#[must_use]
pub fn run_command(study: &Path, store: Option<&Path>, overrides: &[(String, String)]) -> String {
    let mut command = format!("piton run {}", shell_word(study));
    if let Some(store) = store.filter(|store| **store != study.with_extension("redb")) {
        command.push_str(&format!(" --store {}", shell_word(store)));
    }
    push_overrides(&mut command, overrides);
    command
}

fn push_overrides(command: &mut String, overrides: &[(String, String)]) {
    for (name, value) in overrides {
        command.push_str(&format!(" --set {}", shell_quoted(&format!("{name}={value}"))));
    }
}

/// What `--set` has to say so that a study file gives the params that the store has; nothing, where the file cannot be
/// read.
#[must_use]
pub fn overrides_of(study: &StudyRow, file: &Path) -> Vec<(String, String)> {
    let (Ok(stored), Ok(bytes)) = (Spec::from_json(&study.spec), std::fs::read(file)) else { return Vec::new() };
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let read = |overrides: &[(String, String)]| {
        spec::parse_study_as("", &bytes, overrides, dir, stored.values).map(|spec| spec.params)
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
