//! Everything a study has for other programs, in one directory: `export`.
//!
//! The compatible checkpoint, the telemetry and the events as the engine writes them (see `views/telemetry.rs`), and
//!
//! - `trials.csv`: one row a trial, as `dump --format csv`;
//! - `trials.jsonl`: one line a trial, as in `dump --format jsonl`;
//! - `lineage.dot`: the survivors and what they descend from, for Graphviz;
//! - `junit.xml`: one suite a stage, one test case a trial.
//!
//! All of it is one snapshot: the files agree with one another. Each is replaced atomically and written as the store is
//! read, so a million trials need no more memory than one.

use std::path::Path;

use super::compare::Comparison;
use super::dump::{self, Format};
use super::junit::{junit, junit_of_comparison};
use super::lineage::dot;
use super::telemetry::{Named, replace, write_into};
use super::{StudyView, ViewError};
use crate::journal::Snapshot;
use crate::sys::temporary::Access;

/// Writes all files into a directory, which is made if need be; what else lies in it stays. The files' names.
///
/// # Errors
/// [`ViewError::File`] with the first file that cannot be written, [`ViewError::Journal`]. Files written before stay, each
/// whole.
pub fn write(view: &StudyView, snapshot: &Snapshot, dir: &Path) -> Result<Vec<String>, ViewError> {
    let mut names = write_into(view, snapshot, dir)?;
    let mut file = |name: &str, write: &mut dyn FnMut(&mut dyn std::io::Write) -> Result<(), ViewError>| {
        names.push(name.to_owned());
        replace(&dir.join(name), Named::ByPerson(view, snapshot), Access::Own, write)
    };
    file("trials.csv", &mut |out| dump::state(view, snapshot, Format::Csv, out))?;
    file("trials.jsonl", &mut |out| dump::trials_jsonl(view, snapshot, out))?;
    file("lineage.dot", &mut |out| dot(view, snapshot, out))?;
    file("junit.xml", &mut |out| junit(view, snapshot, out))?;
    Ok(names)
}

/// Writes the JUnit report alone, whole or not at all.
///
/// # Errors
/// [`ViewError::File`], [`ViewError::Journal`].
pub fn write_junit(view: &StudyView, snapshot: &Snapshot, path: &Path) -> Result<(), ViewError> {
    replace(path, Named::ByPerson(view, snapshot), Access::Usual, |out| junit(view, snapshot, out))
}

/// Writes a comparison as a JUnit report, whole or not at all.
///
/// # Errors
/// [`ViewError::File`], and as for [`Comparison::run`].
pub fn write_junit_of_comparison(comparison: &Comparison<'_>, path: &Path) -> Result<(), ViewError> {
    let named = Named::ByPerson(comparison.view(), comparison.snapshot());
    replace(path, named, Access::Usual, |out| junit_of_comparison(comparison, out))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::sys::disk::names_in;
    use crate::testing::story::{ALIVE, DEAD, Story};

    #[test]
    fn every_file_is_there_and_what_was_there_stays() {
        let mut story = Story::new();
        story.complete();
        let (view, snapshot) = story.view(DEAD);
        let dir = story.dir().join("a/b");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("mine.txt"), "mine").unwrap();
        fs::write(dir.join("trials.csv"), "old").unwrap();
        let names = write(&view, &snapshot, &dir).unwrap();
        let expected = [
            "study_checkpoint.json",
            "stage_0_telemetry.json",
            "stage_1_telemetry.json",
            "telemetry.jsonl",
            "study_telemetry.json",
            "trials.csv",
            "trials.jsonl",
            "lineage.dot",
            "junit.xml",
        ];
        assert_eq!(names, expected);
        let mut wanted: Vec<&str> = expected.into_iter().chain(["mine.txt"]).collect();
        wanted.sort_unstable();
        assert_eq!(names_in(&dir), wanted);
        let csv = fs::read_to_string(dir.join("trials.csv")).unwrap();
        assert_eq!(csv.lines().count(), 7, "a header and six trials");
        let jsonl = fs::read_to_string(dir.join("trials.jsonl")).unwrap();
        let cases: Vec<String> = jsonl
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["case"].as_str().unwrap().into())
            .collect();
        assert_eq!(cases, ["t_0_0", "t_0_1", "t_0_2", "t_0_3", "t_1_0", "t_1_1"]);
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let mut story = Story::new();
        story.run();
        let (view, snapshot) = story.view(ALIVE);
        let file = story.dir().join("file");
        fs::write(&file, "").unwrap();
        let error = write(&view, &snapshot, &file.join("x")).unwrap_err();
        assert!(matches!(error, ViewError::File { what: "write", path, .. } if path == file.join("x")));
    }
}
