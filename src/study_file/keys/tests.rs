//! What is made from the entries is what is checked in, and what they say of a key is true.

use std::path::Path;

use super::reference::reference;
use super::*;
use crate::study_file::check::{BASE, ROOT, RUN, STUDY};
use crate::study_file::stage::STAGE;
use crate::study_file::{Spec, parse};

/// Holds a file made from the entries against what is checked in.
fn held(path: &str, made: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("PITON_UPDATE_DOCS").is_some() {
        std::fs::write(&path, made).unwrap();
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(there == made, "{} is not what the entries say: run this with PITON_UPDATE_DOCS=1", path.display());
}

#[test]
fn the_reference_page_is_what_the_entries_say() {
    held("docs/reference/study-file.md", &reference());
}

#[test]
fn the_schema_is_what_the_entries_say() {
    held("docs/study.schema.json", &schema());
}

/// A study with a line in one of its tables, and in its only stage's.
fn study(table: &str, line: &str, stage: &str) -> Spec {
    let mut lines = vec!["study.name = \"t\"", "base.command = \"x\""];
    let line = format!("{table}.{line}");
    if !table.is_empty() {
        lines.push(&line);
    }
    let text = format!(
        "{}\n[[stage]]\nname = \"s\"\ncommand = \"x\"\ntrial_budget = 2\nsurvivor_count = 1\n{stage}\n",
        lines.join("\n")
    );
    parse("s.toml", &text, &[]).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

#[test]
fn a_default_that_is_named_is_what_a_key_is_without_being_said() {
    let mut count = 0;
    let mut values = |section: &dyn Described| {
        let named = |about: &'static About| match about.preset {
            Preset::Value(value) => Some((about.name, value)),
            _ => None,
        };
        let found: Vec<_> = section.keys().into_iter().filter_map(named).collect();
        count += found.len();
        found
    };
    for (table, section) in [("study", &STUDY as &dyn Described), ("run", &RUN), ("base", &BASE)] {
        for (name, value) in values(section) {
            assert_eq!(study(table, &format!("{name} = {value}"), ""), study("", "", ""), "{table}.{name}");
        }
    }
    for (name, value) in values(&STAGE) {
        assert_eq!(study("", "", &format!("{name} = {value}")), study("", "", ""), "{name}");
    }
    // Within a table of a stage: beside what must be there.
    use crate::study_file::check::{rules, stage, sweep};
    let tables: [(&dyn Described, &str); 6] = [
        (&rules::STAGE_RAILS, "rails = { max_failure_rate = 0.5 }"),
        (&rules::FAILURE, "failure = [{ kind = \"x\", exit_code = 3 }]"),
        (&stage::RETRIES, "retries = { count = 1 }"),
        (&stage::METRIC, "metrics.m = { file = \"f\", regex = \"(x)\" }"),
        (&stage::SAMPLING, "sweep.x = [1]\nsampling = { ask = [\"x\"] }"),
        (&sweep::RANGE, "sampling = \"random\"\nsweep.x = { min = 1, max = 4 }"),
    ];
    for (section, bare) in tables {
        for (name, value) in values(section) {
            let at = bare.rfind(" }").unwrap();
            let (before, after) = bare.split_at(at);
            let said = format!("{before}, {name} = {value}{after}");
            assert_eq!(study("", "", &said), study("", "", bare), "{said}");
        }
    }
    let executors = [
        (&crate::study_file::check::cluster::RAY as &dyn Described, "ray"),
        (&crate::study_file::check::cluster::SLURM, "slurm"),
    ];
    for (section, kind) in executors {
        let bare = format!("executor = \"{kind}\"");
        for (name, value) in values(section) {
            let said = format!("{bare}\nrun.{kind}.{name} = {value}");
            assert_eq!(study("run", &said, ""), study("run", &bare, ""), "{said}");
        }
    }
    assert!(count > 25, "{count}");
}

#[test]
fn every_key_shows_in_a_difference_or_within_another() {
    let shows =
        |show: bool, name: &str, elsewhere: &[&str]| assert!(show != elsewhere.contains(&name), "`{name}`");
    for key in STAGE.keys {
        // Stages are matched by their names; the rules of a set are those of `failure`.
        shows(!matches!(key.show, Show::Never), key.about.name, &["name", "failures"]);
    }
    for key in STUDY.keys {
        shows(!matches!(key.show, Show::Never), key.about.name, &[]);
    }
    for key in RUN.keys {
        // The settings of the executor in use are told one by one.
        shows(!matches!(key.show, Show::Never), key.about.name, &["ray", "slurm"]);
    }
    for key in BASE.keys {
        shows(!matches!(key.show, Show::Never), key.about.name, &[]);
    }
    for key in ROOT.keys {
        shows(
            !matches!(key.show, Show::Never),
            key.about.name,
            &["study", "run", "rails", "base", "defaults", "stage"],
        );
    }
}

/// Non-test sources below a folder, each with its text.
fn sources(below: &Path, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(below).unwrap().map(|entry| entry.unwrap().path()) {
        let name = entry.display().to_string();
        if entry.is_dir() && !name.ends_with("/tests") {
            sources(&entry, found);
        } else if name.ends_with(".rs") && !name.ends_with("/tests.rs") {
            let text = std::fs::read_to_string(&entry).unwrap();
            let text = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap().to_owned();
            found.push((name, text));
        }
    }
}

#[test]
fn a_key_of_a_stage_is_said_by_its_entry_and_by_its_setter_in_code_and_nowhere_else() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = vec![("builder".to_owned(), std::fs::read_to_string(root.join("builder.rs")).unwrap())];
    for room in ["study_file", "plan/amend", "engine"] {
        sources(&root.join(room), &mut files);
    }
    files.push(("amend".to_owned(), std::fs::read_to_string(root.join("plan/amend.rs")).unwrap()));
    // Words of other sections, or of failures.
    // Words of other sections, or of failures.
    let shared = ["name", "command", "timeout", "rails", "inputs", "metrics", "keep", "workers"];
    let mut count = 0;
    for name in STAGE.names().into_iter().filter(|name| !shared.contains(name)) {
        let word = format!("\"{name}\"");
        let said = files.iter().filter(|(_, text)| text.contains(&word));
        let said: Vec<(&str, usize)> =
            said.map(|(file, text)| (file.rsplit('/').next().unwrap(), text.matches(&word).count())).collect();
        let (entry, others): (Vec<_>, Vec<_>) = said.into_iter().partition(|(file, _)| *file == "stage.rs");
        assert_eq!(entry, [("stage.rs", 1)], "`{name}`");
        assert!(others.iter().all(|(file, _)| *file == "builder"), "`{name}`: {others:?}");
        count += 1;
    }
    println!(
        "figure: each of {count} keys of a stage is said once in src/study_file and src/plan, and by the builder's setter"
    );
}
