//! Files that a command names and piton does not look at: a result that is reused would be as old as they were.
//!
//! Only what the study file itself says is found, by its looks; what a script reads is for its author to know.

use std::path::Path;

use super::inputs::lies_in;
use super::types::{Part, Spec, Template, Work};
use crate::model::StageIndex;

/// Where a path ends in a command.
const ENDS: [char; 16] = [' ', '\t', '\n', '"', '\'', '`', ';', '|', '&', '<', '>', '(', ')', '{', '}', '$'];

impl Spec {
    /// Files beside the study file that a stage's command names, and that are none of its inputs nor lie in one.
    #[must_use]
    pub fn unhashed(&self, stage: StageIndex) -> Vec<String> {
        let Some(stage) = self.stages.get(stage as usize) else { return Vec::new() };
        let named = match &stage.work {
            Work::Argv(words) => {
                words.iter().flat_map(below_study_dir).chain(words.first().and_then(program)).collect()
            }
            Work::Shell(line) => below_study_dir(line),
            Work::Closure => Vec::new(),
        };
        let mut unhashed: Vec<String> = Vec::new();
        for path in named {
            let is_input = |input: &String| lies_in(&path, input);
            if !self.study.inputs.iter().chain(&stage.inputs).any(is_input) && !unhashed.contains(&path) {
                unhashed.push(path);
            }
        }
        unhashed
    }
}

/// A program that is named by its path from the study file.
fn program(word: &Template) -> Option<String> {
    match word.parts.as_slice() {
        [Part::Text(text)] if text.contains('/') && Path::new(text).is_relative() => Some(text.clone()),
        _ => None,
    }
}

/// What follows `{study_dir}/`, or the variable of that meaning.
fn below_study_dir(template: &Template) -> Vec<String> {
    let mut found = Vec::new();
    let mut add = |rest: &str| {
        let path = rest.split(ENDS).next().unwrap_or_default();
        if !path.is_empty() {
            found.push(path.to_owned());
        }
    };
    let mut after_dir = false;
    for part in &template.parts {
        if let Part::Text(text) = part {
            if let Some(rest) = text.strip_prefix('/').filter(|_| after_dir) {
                add(rest);
            }
            for variable in ["$PITON_STUDY_DIR/", "${PITON_STUDY_DIR}/"] {
                text.split(variable).skip(1).for_each(&mut add);
            }
        }
        after_dir = *part == Part::StudyDir;
    }
    found
}

#[cfg(test)]
mod tests {
    use crate::{Stage, Study};

    #[test]
    fn files_beside_the_study_file_are_found_unless_they_are_inputs() {
        let unhashed = |stage: Stage| {
            let stage = stage.budget(1).survivors(1).input("lib");
            Study::builder("s").input("./flow").param("p", 1).stage(stage).spec().unwrap().unhashed(0)
        };
        for (words, expected) in [
            (&["./run.sh", "{p}"][..], &["./run.sh"][..]),
            (&["sh", "{study_dir}/run.sh", "--lib={study_dir}/lib/a.lib"], &["run.sh"]),
            (&["flow/run.sh", "./b"], &[]),
            (&["/opt/tool/bin/run"], &[]),
            (&["{study_dir}/flow2/{p}.sh"], &["flow2/"]),
        ] {
            assert_eq!(unhashed(Stage::argv("a", words)), expected, "{words:?}");
        }
        let line = "cp {study_dir}/a.v . && sh \"$PITON_STUDY_DIR/b.sh\" <${{PITON_STUDY_DIR}}/lib/x; ./c {study_dir}/a.v";
        assert_eq!(unhashed(Stage::shell("a", line)), ["a.v", "b.sh"]);
        assert_eq!(unhashed(Stage::closure("a", |_| Ok([("y", 1.0)])).reuse("1")), [""; 0]);
    }
}
