//! The JSON Schema against what `check` says, by a validator that others wrote: it refuses nothing that `check` takes, and what
//! `check` refuses as far as a schema can.

use std::io::Write;
use std::process::{Command, Stdio};

use super::*;
use crate::study_file::schema;

/// Reads each text as TOML, as an editor does, and holds it against the schema: a line each, empty where it is as it should be.
const SCRIPT: &str = "import json, sys, tomllib
from jsonschema import Draft7Validator
schema, texts = json.load(sys.stdin)
Draft7Validator.check_schema(schema)
validator = Draft7Validator(schema)
for text in texts:
    wrong = [e.json_path + ': ' + e.message for e in validator.iter_errors(tomllib.loads(text))]
    print(json.dumps('; '.join(wrong)))
";

/// What the schema has against each text; nothing, if it takes it.
fn refusals(texts: &[String]) -> Vec<String> {
    let python = format!("{}/target/tools/python/bin/python", env!("CARGO_MANIFEST_DIR"));
    let mut child =
        Command::new(python).args(["-c", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let schema: serde_json::Value = serde_json::from_str(&schema()).unwrap();
    let asked = serde_json::to_vec(&(schema, texts)).unwrap();
    child.stdin.take().unwrap().write_all(&asked).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let lines = String::from_utf8(output.stdout).unwrap();
    let refusals: Vec<String> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(refusals.len(), texts.len());
    refusals
}

/// Mistakes of [`STAGE_RULES`] that no schema sees: how numbers, names and keys go together, what a regex or a command
/// means, and what of a value is not its form.
const BEYOND: &[&str] = &[
    "command = [\"\", \"x\"]",
    "command = \"a }\"",
    "command = \"echo ${HOME}\"",
    "command = [\"a\\u0000b\"]",
    "command = \"x `{seed}`\"",
    "survivor_count = 5",
    "sampling = { ask = [\"python3\", \"proposer.py\"] }",
    "sampling = { file = \"a.csv\" }\nsweep.x = [1]",
    "sampling = \"sobol\"\nsweep.x = { min = 1, max = 3, steps = 4 }",
    "sampling = \"sobol\"\ntrial_budget = 65537\nsweep.x = { min = 0, max = 1 }",
    "sampling = \"random\"\ntrial_budget = 65537\nsweep.x = { min = 1, max = 65537, type = \"int\", log = true }",
    "memory_limit = \"10000000000GB\"",
    "rails.abort_if = [{ metric = \"m\", below = nan }]",
    "rails.abort_if = [{ metric = \"m\", below = 1 }, { metric = \"m\", below = 2 }]",
    "failure = [{ kind = \"x\", signal = \"SEGF\" }]",
    "failure = [{ kind = \"x\", log = 'a(b' }]",
    "failure = [{ kind = \"x\", log = 'a*' }]",
    "selection = \"pareto\"",
    "timeout = \"1us\"",
    "timeout = \"9999999h\"",
    "retries = { count = 1, delay = \"2s\", max_delay = \"1s\" }",
    "outputs = [\"a/../../x\"]",
    "sweep.x = [nan]",
    "sweep.x = { min = 1, max = 2 }",
    "sweep.x = { min = 1, max = 1, steps = 2 }",
    "sweep.x = { min = 1, max = inf, steps = 2 }",
    "sweep.x = { min = 0, max = 1, steps = 2, log = true }",
    "sweep.x = { min = 1, max = 3, steps = 4, type = \"int\" }",
    "sweep.x = { min = 1.5, max = 3, type = \"int\" }",
    "sampling = \"random\"\nsweep.x = { min = 1, max = 3, steps = 4 }",
    "metrics.m = { file = \"f\", regex = 'é[0-9]+' }",
    "metrics.m = { file = \"f\", regex = 'é(x' }",
];

#[test]
fn it_refuses_what_check_refuses_as_far_as_a_schema_can() {
    let texts: Vec<String> = STAGE_RULES.iter().map(|(line, _)| stage_with(line, "")).collect();
    let taken = texts.iter().zip(refusals(&texts)).zip(STAGE_RULES).filter(|((_, why), _)| why.is_empty());
    let taken: Vec<&str> = taken.map(|(_, (line, _))| *line).collect();
    assert_eq!(taken, BEYOND);
    println!(
        "figure: the schema of the study file refuses {} of {} broken stages",
        texts.len() - taken.len(),
        texts.len()
    );
}

#[test]
fn it_takes_what_check_takes() {
    let choices = "sampling = \"random\"\nsweep.x = { min = 1, max = 9, log = true, type = \"int\" }";
    let texts = [
        EXAMPLE.to_owned(),
        stage_with("", ""),
        stage_with(choices, ""),
        stage_with("timeout = \"1 hour, 30 minutes\"\nretries = 2\nmemory_limit = 1048576", ""),
        stage_with("timeout = \"PT1H30M\"\nmemory_limit = \" 1.5 gb \"", ""),
        stage_with("timeout = \"1:30:00\"\nretries = { count = 1, delay = \"0s\" }", ""),
        stage_with("failure = [{ kind = \"x\", signal = \"segv\" }]\nfailures = \"eda\"", ""),
        stage_with("sampling = { file = \"a.csv\", rename = { \"a b\" = \"a_b\" } }", ""),
        stage_with("sweep.x = [1]\nsampling = { ask = [\"x\", \"\"], parallel = 4 }", ""),
        "study.name = \"t\"\n[defaults]\ncommand = \"x\"\ntrial_budget = 2\nsurvivor_count = 1\n[[stage]]\nname = \"a\"\n"
            .to_owned(),
    ];
    for text in &texts {
        good(text);
    }
    for (text, why) in texts.iter().zip(refusals(&texts)) {
        assert_eq!(why, "", "{text}");
    }
}

/// A study in which every table stands, and where in it a line of each table can be added.
const TABLES: &[(&str, &str)] = &[
    ("", ""),
    ("[study]", "name = \"t\""),
    ("[run]", ""),
    ("[run.ray]", ""),
    ("[run.slurm]", ""),
    ("[rails]", ""),
    ("[base]", "command = \"x\""),
    ("[defaults]", ""),
    ("[[stage]]", "name = \"s\"\ncommand = \"x\"\ntrial_budget = 2\nsurvivor_count = 1"),
    ("[stage.sampling]", "ask = [\"x\"]"),
    ("[stage.retries]", "count = 1"),
    ("[stage.sweep.x]", "min = 1\nmax = 2"),
    ("[[stage.objective]]", "metric = \"m\"\ngoal = \"maximize\""),
    ("[stage.metrics.m]", "file = \"f\"\nregex = \"(x)\""),
    ("[stage.rails]", ""),
    ("[[stage.rails.abort_if]]", "metric = \"m\"\nabove = 1"),
    ("[[stage.failure]]", "kind = \"x\"\nexit_code = 1"),
];

/// [`TABLES`] with a line more in one table; what is there of that key goes.
fn tables_with(at: &str, key: &str, value: &str) -> String {
    let mut text = String::new();
    for (header, lines) in TABLES {
        // A table of a key that is said otherwise would be there twice.
        let inner =
            header.trim_matches(['[', ']']).rsplit_once('.').unwrap_or(("", header.trim_matches(['[', ']'])));
        let outer = format!("{}.{key}", at.trim_matches(['[', ']']));
        let of_key =
            header.trim_matches(['[', ']']).starts_with(outer.trim_start_matches('.')) && !header.is_empty();
        if of_key && (inner.1 == key || header.contains(&format!("{}.", outer.trim_start_matches('.')))) {
            continue;
        }
        text.push_str(header);
        text.push('\n');
        let is_key = |line: &&str| *header == at && line.split(' ').next() == Some(key);
        lines.lines().filter(|line| !is_key(line)).for_each(|line| text.push_str(&format!("{line}\n")));
        if *header == at && !value.is_empty() {
            text.push_str(&format!("{key} = {value}\n"));
        }
    }
    text
}

#[test]
fn it_knows_every_key_of_every_table_and_no_other() {
    use crate::study_file::check::{BASE, ROOT, RUN, STUDY, cluster, rules, stage as parts, sweep};
    let sections: [&dyn Described; 17] = [
        &ROOT,
        &STUDY,
        &RUN,
        &cluster::RAY,
        &cluster::SLURM,
        &rules::RAILS,
        &BASE,
        &STAGE,
        &STAGE,
        &parts::SAMPLING,
        &parts::RETRIES,
        &sweep::RANGE,
        &parts::OBJECTIVE,
        &parts::METRIC,
        &rules::STAGE_RAILS,
        &rules::ABORT_IF,
        &rules::FAILURE,
    ];
    good(&tables_with("[study]", "seed", "1"));
    let mut texts = vec![tables_with("[study]", "seed", "1")];
    for (section, (header, _)) in sections.iter().zip(TABLES) {
        texts.push(tables_with(header, "no_such_key", "1"));
        // No key takes a date.
        texts.extend(section.names().iter().map(|name| tables_with(header, name, "1979-05-27")));
        let required = |about: &&&crate::study_file::keys::About| {
            matches!(about.preset, crate::study_file::keys::Preset::Required(_))
        };
        if *header != "[defaults]" {
            texts.extend(section.keys().iter().filter(required).map(|about| tables_with(header, about.name, "")));
        }
    }
    let refused = refusals(&texts);
    assert_eq!(refused[0], "");
    for (text, why) in texts.iter().zip(&refused).skip(1) {
        assert!(!mistakes(text, &[]).is_empty(), "{text}");
        assert!(!why.is_empty(), "{text}");
    }
    assert!(texts.len() > 120, "{}", texts.len());
    println!(
        "figure: {} study files with a key that is unknown, missing or of a wrong type are refused by the schema",
        texts.len() - 1
    );
}
