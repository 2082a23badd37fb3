//! Versions of the tools a study uses, as the tools print them.
//!
//! Each command of `[study] versions` is run here, where the engine is, within a time. It must never hang or be believed
//! when it fails: a tool that is missing has no version.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::types::Spec;
use crate::model::ToolVersion;
use crate::sys::helper;
use crate::sys::words::io_words;

/// How long a tool may take to print its version.
const LIMIT: Duration = Duration::from_secs(60);

/// Of what it says, so much is kept, bytes.
const KEPT_BYTES: usize = 1 << 10;

/// A tool that did not print its version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{command}`, which tells the version of `{tool}`, {why}")]
#[non_exhaustive]
pub struct VersionError {
    /// As the spec names it.
    pub tool: String,
    /// The words that were run, joined by blanks.
    pub command: String,
    /// How that failed, in words.
    pub why: String,
}

/// Asks every tool that the spec names, in the order of their names, in the study's directory and environment.
///
/// # Errors
/// The first tool that cannot be run, fails, takes too long, or says nothing.
pub fn tool_versions(study_dir: &Path, spec: &Spec) -> Result<Vec<ToolVersion>, VersionError> {
    let ask = |(tool, command): (&String, &Vec<String>)| {
        let version = version_of(study_dir, &spec.env, command).map_err(|why| VersionError {
            tool: tool.clone(),
            command: command.join(" "),
            why,
        })?;
        Ok(ToolVersion { tool: tool.clone(), version })
    };
    spec.study.versions.iter().map(ask).collect()
}

fn version_of(study_dir: &Path, env: &BTreeMap<String, String>, words: &[String]) -> Result<String, String> {
    let Some((program, args)) = words.split_first() else { return Err("is empty".to_owned()) };
    // As in a stage's command: with a slash it is a path from the study file.
    let program = if program.contains('/') { study_dir.join(program) } else { program.into() };
    let mut command = Command::new(program);
    command.args(args).current_dir(study_dir).envs(env);
    let (ended, out) = helper::output(&mut command, &[], LIMIT)
        .map_err(|error| format!("cannot be run: {}", io_words(&error)))?;
    match ended.status {
        None => return Err(format!("did not end within {} s", LIMIT.as_secs())),
        Some(status) if !status.success() => return Err(format!("ended with {status}")),
        Some(_) => {}
    }
    // Some tools print it on standard error.
    let out = String::from_utf8_lossy(&out);
    let said = if out.trim().is_empty() { ended.said.as_str() } else { &out };
    // One line, for it is shown in tables and sentences.
    let said = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    let end = said.floor_char_boundary(KEPT_BYTES);
    match said.get(..end) {
        Some(version) if !version.is_empty() => Ok(version.to_owned()),
        _ => Err("says nothing".to_owned()),
    }
}

/// Tools whose versions differ from what is recorded: each as it was and as it is now.
pub(crate) fn changed_versions<'a>(
    recorded: &'a [ToolVersion],
    now: &'a [ToolVersion],
) -> impl Iterator<Item = (&'a ToolVersion, &'a ToolVersion)> {
    recorded.iter().filter_map(move |old| {
        let new = now.iter().find(|new| new.tool == old.tool && new.version != old.version)?;
        Some((old, new))
    })
}

/// How the tools of a study differ from what is recorded of them, in words; empty: not at all.
#[must_use]
pub(crate) fn changed_tools(study_dir: &Path, spec: &Spec, versions: &[ToolVersion]) -> Vec<String> {
    match tool_versions(study_dir, spec) {
        Ok(now) => changed_versions(versions, &now)
            .map(|(old, new)| format!("tool `{}` is `{}`, was `{}`", old.tool, new.version, old.version))
            .collect(),
        Err(error) => vec![error.to_string()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(command: &[&str]) -> Result<String, String> {
        let words: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
        let env = BTreeMap::from([("TOOL".to_owned(), "3.1".to_owned())]);
        version_of(Path::new("/"), &env, &words)
    }

    #[test]
    fn a_tool_tells_it_on_either_output_in_the_studys_environment() {
        assert_eq!(version(&["sh", "-c", "echo; echo tool $TOOL"]).unwrap(), "tool 3.1");
        assert_eq!(version(&["sh", "-c", "echo tool 4 >&2"]).unwrap(), "tool 4");
        assert_eq!(version(&["printf", "tool 5\n\n  library 6\n"]).unwrap(), "tool 5; library 6");
    }

    #[test]
    fn what_fails_has_no_version() {
        assert_eq!(version(&["true"]).unwrap_err(), "says nothing");
        assert_eq!(version(&["sh", "-c", "echo 1; exit 3"]).unwrap_err(), "ended with exit status: 3");
        assert!(version(&["no-such-tool"]).unwrap_err().starts_with("cannot be run"));
    }

    #[test]
    fn only_a_tool_that_is_named_in_both_can_have_changed() {
        let tool = |tool: &str, version: &str| ToolVersion { tool: tool.into(), version: version.into() };
        let (recorded, now) = ([tool("a", "1"), tool("b", "1")], [tool("a", "2"), tool("c", "1")]);
        let changed: Vec<_> = changed_versions(&recorded, &now).collect();
        assert_eq!(changed, [(&tool("a", "1"), &tool("a", "2"))]);
    }
}
