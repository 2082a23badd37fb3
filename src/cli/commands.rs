//! Commands that lead on, as they are printed: each must work as it stands.
//!
//! Nothing here may print a command that makes another study of one.

use std::path::Path;

use piton::views::shell_quoted;
use piton::{HowToAmend, shell_word};

use super::terminal::can_ask;

/// The command that amends a study as an error says.
pub fn amend_as(how: &HowToAmend) -> String {
    let HowToAmend { store, study_file, overrides, discard_from, .. } = how;
    amend_command(store, study_file, overrides, discard_from.as_deref())
}

/// The command that amends a study to what its file says, with the results from a stage on discarded. Where nobody can
/// be asked it says yes.
pub fn amend_command(store: &Path, study: &Path, overrides: &[(String, String)], from: Option<&str>) -> String {
    let study = study.strip_prefix(".").unwrap_or(study);
    let mut command = format!("piton amend {} {}", shell_word(store), shell_word(study));
    push_overrides(&mut command, overrides);
    if let Some(from) = from {
        command.push_str(&format!(" --discard-from {}", shell_quoted(from)));
    }
    if !can_ask() {
        command.push_str(" --yes");
    }
    command
}

/// The command that runs a study, or goes on with it. `store` is named where it is not the one beside the file.
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
