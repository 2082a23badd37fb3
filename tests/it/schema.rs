//! The JSON Schema of the study file: what `piton schema` prints is what is checked in, and every study file of ours names it and
//! keeps it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::Sandbox;

/// Holds study files against a schema with a validator that others wrote.
fn validated(schema: &Path, studies: &[PathBuf]) {
    let script = "import json, sys, tomllib\n\
        from jsonschema import Draft7Validator\n\
        validator = Draft7Validator(json.load(open(sys.argv[1])))\n\
        for path in sys.argv[2:]:\n\
        \x20   for error in validator.iter_errors(tomllib.load(open(path, 'rb'))):\n\
        \x20       sys.exit(path + ': ' + error.json_path + ': ' + error.message)\n";
    let python = format!("{}/target/tools/python/bin/python", env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(python).args(["-c", script]).arg(schema).args(studies).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The schema that a study file names in its first line.
fn named(study: &Path) -> PathBuf {
    let text = fs::read_to_string(study).unwrap();
    let first = text.lines().next().unwrap();
    let path = first.strip_prefix("#:schema ").unwrap_or_else(|| panic!("{}: {first}", study.display()));
    study.parent().unwrap().join(path).canonicalize().unwrap()
}

/// Study files in the directories of a directory.
fn studies(below: &str) -> Vec<PathBuf> {
    let below = Path::new(env!("CARGO_MANIFEST_DIR")).join(below);
    let dirs = fs::read_dir(below).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    let files = dirs.flat_map(|dir| fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()));
    files.filter(|path| path.extension().is_some_and(|kind| kind == "toml")).collect()
}

#[test]
fn every_study_file_of_ours_names_the_schema_and_keeps_it() {
    let checked_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/study.schema.json");
    assert_eq!(Sandbox::new().ok("schema", 0), fs::read_to_string(&checked_in).unwrap());
    let studies: Vec<PathBuf> = studies("examples").into_iter().chain(studies("src/cli/templates")).collect();
    assert!(studies.len() >= 11, "study files are elsewhere now: {studies:?}");
    for study in &studies {
        assert_eq!(named(study), checked_in.canonicalize().unwrap(), "{}", study.display());
    }
    validated(&checked_in, &studies);
}

#[test]
fn a_new_study_has_its_schema_beside_it() {
    let sandbox = Sandbox::new();
    let list = sandbox.ok("new --template list", 0);
    let templates: BTreeSet<&str> = list.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(templates.contains("chip") && templates.len() >= 6, "{list}");
    for template in templates {
        sandbox.ok(&format!("new {template} --template {template}"), 0);
        let schema = sandbox.path(template).join("study.schema.json");
        assert_eq!(fs::read_to_string(&schema).unwrap(), sandbox.ok("schema", 0));
        let files = fs::read_dir(sandbox.path(template)).unwrap().map(|entry| entry.unwrap().path());
        let studies: Vec<PathBuf> =
            files.filter(|path| path.extension().is_some_and(|kind| kind == "toml")).collect();
        for study in &studies {
            assert_eq!(named(study), schema.canonicalize().unwrap(), "{}", study.display());
        }
        validated(&schema, &studies);
    }
}
