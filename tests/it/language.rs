//! What a study file can say: where the cases of a stage come from.

use std::collections::BTreeSet;

use super::harness::{Sandbox, both};

/// Two stages: cases listed in a file, then Sobol' points of a finite sweep for each survivor.
const STUDY: &str = r#"
[study]
name = "listed"
seed = 5

[[stage]]
name           = "first"
command        = ["./trial.sh", "{a}", "{word}"]
trial_budget   = 3
survivor_count = 2
sampling       = { file = "cases.csv" }
[[stage.objective]]
metric = "m"
goal   = "maximize"

[[stage]]
name           = "second"
command        = ["./trial.sh", "{b}", "{word}"]
trial_budget   = 10
survivor_count = 1
sampling       = "sobol"
[stage.sweep]
b = { min = 1, max = 3, type = "int" }
c = [true, false]
"#;

fn listed() -> Sandbox {
    let sandbox = Sandbox::with_study(STUDY);
    sandbox.script("trial.sh", "echo \"{\\\"m\\\": $1}\" > \"$PITON_METRICS_FILE\"");
    sandbox.write("cases.csv", "a,word\n3,x y\n1,z\n3.0, x y\n2,\"u,v\"\n4,late\n");
    sandbox
}

#[test]
fn cases_come_from_a_file_and_from_a_sequence_and_none_comes_twice() {
    let sandbox = listed();
    let plan = sandbox.ok("check study.toml", 0);
    assert!(
        plan.contains("file `cases.csv`, 3 of 4 cases (cut by the budget), 1 repeated row left out;"),
        "{plan}"
    );
    assert!(plan.contains("sobol, 10 of 12 combinations (cut by the budget);"), "{plan}");
    assert!(!plan.contains("at the first value"), "{plan}");
    let cut = STUDY.replace("\"sobol\"", "\"grid\"").replace("= 10", "= 4");
    sandbox.write("cut.toml", &cut);
    let plan = sandbox.ok("check cut.toml", 0);
    assert!(plan.contains("the budget leaves `b` at the first value"), "{plan}");
    sandbox.ok("run study.toml", 0);
    let dump = sandbox.dump();
    let of_stage = |stage: u64| -> Vec<String> {
        let trials = dump["trials"].as_array().unwrap().iter().filter(|trial| trial["stage"] == stage);
        trials.map(|trial| format!("{} {}", trial["parent"], trial["params"])).collect()
    };
    assert_eq!(
        of_stage(0),
        [r#""listed" {"a":3,"word":"x y"}"#, r#""listed" {"a":1,"word":"z"}"#, r#""listed" {"a":2,"word":"u,v"}"#,]
    );
    let second = of_stage(1);
    assert_eq!(second.iter().collect::<BTreeSet<_>>().len(), 10, "{second:#?}");
    assert_eq!(second.iter().filter(|case| case.starts_with("\"listed_0_0\"")).count(), 5);
}

#[test]
fn the_store_keeps_the_cases_and_a_changed_file_is_a_changed_study() {
    let sandbox = listed();
    sandbox.ok("run study.toml", 0);
    let before = sandbox.canonical();
    sandbox.write("cases.csv", "a,word\n9,other\n");
    let output = sandbox.run("run study.toml");
    assert_eq!(output.status.code(), Some(6), "{}", both(&output));
    assert!(both(&output).contains("stage \"first\".cases: 4 cases of `a`, `word` (blake3 "), "{}", both(&output));
    std::fs::remove_file(sandbox.path("cases.csv")).unwrap();
    sandbox.ok("resume study.redb", 0);
    assert_eq!(sandbox.canonical(), before);
    let missing = sandbox.run("run study.toml");
    assert_eq!(missing.status.code(), Some(2), "{}", both(&missing));
    assert!(both(&missing).contains("study.toml:11:27"), "{}", both(&missing));
}

#[test]
fn every_mistake_in_a_file_of_cases_is_said_with_its_line() {
    let sandbox = listed();
    sandbox.write("cases.csv", "a,word\n1\n2,\n3,x\n");
    let output = sandbox.run("run study.toml");
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("error: cases.csv:2: 1 value, but the header names 2\n"), "{text}");
    assert!(text.contains("error: cases.csv:3: `word` has no value\n"), "{text}");
    assert!(!sandbox.path("study.redb").exists());
}
