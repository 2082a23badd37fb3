//! What a study file can say: where the cases of a stage come from.

use std::collections::BTreeSet;

use super::harness::{Sandbox, StudyFile, both};

/// Two stages: cases listed in a file, then Sobol' points of a finite sweep for each survivor.
fn study_file() -> StudyFile {
    StudyFile::new("listed")
        .with("seed = 5")
        .stage("first", ["./trial.sh", "{a}", "{word}"], 3, 2)
        .with(r#"sampling = { file = "cases.csv" }"#)
        .maximize("m")
        .stage("second", ["./trial.sh", "{b}", "{word}"], 10, 1)
        .with(r#"sampling = "sobol""#)
        .sweep("b = { min = 1, max = 3, type = \"int\" }\nc = [true, false]")
}

fn listed() -> Sandbox {
    let sandbox = Sandbox::with_study(study_file());
    sandbox.script("trial.sh", "echo \"{\\\"m\\\": $1}\" > \"$PITON_METRICS_FILE\"");
    sandbox.write("cases.csv", "a,word\n3,x y\n1,z\n3,\"x y\"\n2,\"u,v\"\n4,late\n");
    sandbox
}

fn only(sampling: &str, sweep: &str) -> StudyFile {
    StudyFile::new("s").stage("a", "echo {n}", 1, 1).with(sampling).with(sweep)
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
    let cut = study_file().edit("\"sobol\"", "\"grid\"").edit("= 10", "= 4");
    sandbox.write("cut.toml", &cut);
    let plan = sandbox.ok("check cut.toml", 0);
    assert!(plan.contains("the budget leaves `b` at the first value"), "{plan}");
    let one = Sandbox::with_study(only("sampling = { file = \"one.csv\" }", ""));
    one.write("one.csv", "n\n1\n");
    let plan = one.ok("check study.toml", 0);
    assert!(plan.contains("file `one.csv`, the only case;"), "{plan}");
    one.write("study.toml", only("", "[stage.sweep]\nn = [1]"));
    let plan = one.ok("check study.toml", 0);
    assert!(plan.contains("grid, the only combination;"), "{plan}");
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
    assert!(both(&missing).contains("study.toml:9:21"), "{}", both(&missing));
}

#[test]
fn every_mistake_in_a_file_of_cases_is_said_with_its_line() {
    let sandbox = listed();
    sandbox.write("cases.csv", "a,word\n1\n2,\n3,x\n4\n5,\n");
    let output = sandbox.run("run study.toml");
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("error: cases.csv:2: 1 value, but the header names 2 (also in line 5)\n"), "{text}");
    assert!(!sandbox.path("study.redb").exists());
    // What no case may lack is what a command asks for.
    sandbox.write("cases.csv", "a,word\n1,x\n2,\n3,x\n5,\n");
    let text = both(&sandbox.run("run study.toml"));
    let lacks =
        "error: cases.csv:3: `word` has no value here, nor in 1 more case, and the command of stage `first` asks";
    assert!(text.contains(lacks), "{text}");
    assert!(!sandbox.path("study.redb").exists());
}

/// Ten cases on a front, each twice, since the second param changes nothing: no survivor is another's equal, both ends
/// survive, and `why` tells who counts for whom.
#[test]
fn of_equal_cases_one_counts_and_the_ends_of_a_front_survive() {
    let sandbox = Sandbox::with_study(
        StudyFile::new("s")
            .stage("a", r#"echo '{{"a": '$(({x}*{x}))', "b": '$(((9-{x})*(9-{x})))'}}' > metrics.json"#, 20, 4)
            .with(r#"selection = "pareto""#)
            .sweep("x = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]\nnoop = [0, 1]")
            .minimize("a")
            .minimize("b"),
    );
    sandbox.ok("run study.toml", 0);
    let dump = sandbox.dump();
    let survivors: Vec<_> =
        dump["trials"].as_array().unwrap().iter().filter(|trial| trial["survivor"] == true).collect();
    let x: BTreeSet<_> = survivors.iter().map(|trial| trial["params"]["x"].as_i64().unwrap()).collect();
    assert!(x.len() == 4 && x.contains(&0) && x.contains(&9), "{x:?}");
    assert!(survivors.iter().all(|trial| trial["params"]["noop"] == 0), "{survivors:?}");
    let why = sandbox.ok("why study.redb s_0_0", 0);
    assert!(why.contains("of equal cases the first alone counts: this one, not `s_0_1`"), "{why}");
    let why = sandbox.ok("why study.redb s_0_1", 0);
    assert!(why.contains("it did not survive: not ranked among the 20"), "{why}");
    assert!(why.contains("`s_0_0` has the same values, and of equal cases the first alone counts"), "{why}");
}

/// 0.3 of a fifth and 0.7 of two fifths are as much as 0.3 of nine tenths and 0.7 of one: the lower case number decides.
#[test]
fn weighted_sums_of_the_same_worth_go_by_case_number() {
    let study = |rows: &str| {
        let sandbox = Sandbox::with_study(
            StudyFile::new("s")
                .stage("a", r#"echo '{{"a": {a}, "b": {b}}}' > metrics.json"#, 9, 2)
                .with(r#"selection = "weighted_sum""#)
                .with(r#"sampling = { file = "cases.csv" }"#)
                .with("[[stage.objective]]\nmetric = \"a\"\ngoal = \"maximize\"\nweight = 0.3")
                .with("[[stage.objective]]\nmetric = \"b\"\ngoal = \"maximize\"\nweight = 0.7"),
        );
        sandbox.write("cases.csv", rows);
        sandbox.ok("run study.toml", 0);
        sandbox.dump()["stages"][0]["survivors"].clone()
    };
    assert_eq!(study("a,b\n0,10\n10,0\n2,4\n9,1\n"), serde_json::json!(["s_0_0", "s_0_2"]));
    assert_eq!(study("a,b\n0,10\n10,0\n9,1\n2,4\n"), serde_json::json!(["s_0_0", "s_0_2"]));
}

#[test]
fn a_stages_name_is_no_default() {
    let sandbox = Sandbox::with_six_trials("s", "[defaults]\nname = \"only\"\n");
    let said = both(&sandbox.run("check study.toml"));
    assert!(
        said.contains("`name` cannot stand in `[defaults]`") && said.contains("give each `[[stage]]` its own"),
        "{said}"
    );
    sandbox.ok("run study.toml", 2);
}

/// The last value counts, as most readers of JSON have it; nobody has to guess that.
#[test]
fn a_metric_that_is_reported_twice_is_said_to_be() {
    let sandbox = Sandbox::with_six_trials("s", "");
    sandbox.script("trial.sh", "echo \"{\\\"n\\\": 7, \\\"n\\\": $1, \\\"k\\\": 1}\" > metrics.json");
    sandbox.ok("run study.toml", 0);
    let why = sandbox.ok("why study.redb s_0_1", 0);
    assert!(why.contains("n (earlier values: the last of several counts)") && !why.contains("k ("), "{why}");
}
