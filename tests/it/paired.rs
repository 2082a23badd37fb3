//! Comparisons of cases that ran several times: their replicas in pairs, judged by evidence.

use std::fs;

use serde_json::Value as Json;

use crate::harness::{Sandbox, both};

/// Two cases, each so often; a run takes what hangs on case and replica, and what the file `more` says.
fn study(repeats: u32, sweep: &str) -> Sandbox {
    let sandbox = Sandbox::with_study(format!(
        r#"
[study]
name = "s"
[run]
workers = 2
[[stage]]
name = "time"
command = ["./run.sh", "{{n}}"]
{}
trial_budget = {}
survivor_count = 1
sweep = {{ {sweep} }}
objective = [{{ metric = "ms", goal = "minimize" }}]
"#,
        if repeats > 0 { format!("repeats = {repeats}") } else { String::new() },
        4 * repeats.max(1)
    ));
    sandbox.script(
        "run.sh",
        r#"
more=0
[ "${build:-now}" = base ] || more=$(cat "$PITON_STUDY_DIR/more")
echo "{\"ms\": $(( 100 * $1 + ${PITON_REPLICA:-0} * 7 % 5 + more )), \"size\": 12}" > metrics.json
"#,
    );
    sandbox.write("more", "0");
    sandbox
}

fn run(sandbox: &Sandbox, store: &str, more: i64) {
    sandbox.write("more", more.to_string());
    sandbox.ok(&format!("run study.toml --store {store}.redb --artifacts {store}"), 0);
}

fn json(sandbox: &Sandbox, options: &str, code: i32) -> Json {
    serde_json::from_str(&sandbox.ok(&format!("compare {options} --json"), code)).unwrap()
}

fn line<'a>(json: &'a Json, case: &str, metric: &str) -> &'a Json {
    let lines = json["comparisons"].as_array().unwrap();
    lines.iter().find(|line| line["case"] == case && line["metric"] == metric).unwrap()
}

#[test]
fn replicas_of_a_baseline_are_kept_and_judged_in_pairs() {
    let sandbox = study(12, "n = [1, 2, 3]");
    for (store, more) in [("before", 0), ("same", 0), ("slower", 3), ("faster", -4)] {
        run(&sandbox, store, more);
    }
    sandbox.ok("compare before.redb --write-baseline base.json", 0);
    let baseline = fs::read_to_string(sandbox.path("base.json")).unwrap();
    assert_eq!(baseline.matches("\"case\":").count(), 36);
    assert!(baseline.contains("\"s_0_2.r11\""), "{baseline}");

    for other in ["base.json", "before.redb"] {
        let same = sandbox.run(&format!("compare same.redb --baseline {other} --metric ms"));
        assert_eq!(same.status.code(), Some(0), "{}", both(&same));
        let said = both(&same);
        let lines = json(&sandbox, &format!("same.redb --baseline {other} --metric ms"), 0);
        let one = line(&lines, "s_0_1", "ms");
        assert_eq!((&one["finding"], &one["regression"]), (&"equivalent".into(), &false.into()));
        assert_eq!(one["detail"], "12 of 12 replicas within, evidence 942 of 60");
        assert!(said.contains("measured in other sessions") && said.contains("3 of 3 cases compared"), "{said}");
    }
    let worse = json(&sandbox, "slower.redb --baseline base.json --metric ms", 4);
    assert_eq!((&worse["regressions"], &worse["paired"], &worse["undecided"]), (&3.into(), &3.into(), &0.into()));
    let first = line(&worse, "s_0_0", "ms");
    assert_eq!((&first["finding"], &first["delta"]), (&"worse".into(), &3.0.into()));
    let replicas = &first["replicas"];
    assert_eq!((&replicas["pairs"], &replicas["worse"], &replicas["better"]), (&12.into(), &12.into(), &0.into()));
    assert_eq!(replicas["evidence"], 941.910901554105);
    // All three are called, so each needs a third of what one alone would.
    assert_eq!(replicas["needed"], 20.0);
    assert_eq!(replicas["median_delta"], serde_json::json!([3.0, 3.0]));
    // What is allowed is within.
    let within = json(&sandbox, "slower.redb --baseline base.json --tolerance ms=3 --metric ms", 0);
    assert_eq!(line(&within, "s_0_1", "ms")["finding"], "equivalent");
    let better = json(&sandbox, "faster.redb --baseline base.json --tolerance ms=1 --metric ms", 0);
    assert_eq!((&better["improvements"], &line(&better, "s_0_1", "ms")["finding"]), (&3.into(), &"better".into()));

    let junit = sandbox.path("junit.xml");
    let slower = format!("compare slower.redb --baseline base.json --junit {}", junit.display());
    sandbox.ok(&slower, 4);
    let junit = fs::read_to_string(junit).unwrap();
    assert!(
        junit.contains("tests=\"6\" failures=\"3\"") && junit.contains("worse: 12 worse, 0 better of 12"),
        "{junit}"
    );
}

#[test]
fn too_few_replicas_say_how_many_more_would_decide() {
    let sandbox = study(5, "n = [1]");
    run(&sandbox, "before", 0);
    run(&sandbox, "slower", 9);
    let options = "slower.redb --baseline before.redb --metric ms";
    let found = json(&sandbox, options, 0);
    assert_eq!((&found["undecided"], &found["ok"]), (&1.into(), &true.into()));
    let only = line(&found, "s_0_0", "ms");
    assert_eq!((&only["finding"], &only["replicas"]["more"]), (&"inconclusive".into(), &1.into()));
    let said = sandbox.ok(&format!("compare {options}"), 0);
    assert!(said.ends_with("0 regressions, 0 improvements, 0 unchanged, 1 inconclusive\n"), "{said}");
    let detail = only["detail"].as_str().unwrap();
    assert_eq!(detail, "5 worse, 0 within, 0 better of 5 replicas; 1 more that is worse would decide");
    let strict = json(&sandbox, &format!("{options} --undecided fail"), 4);
    assert_eq!((&strict["regressions"], &strict["undecided"]), (&1.into(), &0.into()));

    let output = sandbox
        .piton(format!("compare {options} --ci --undecided fail").split(' '))
        .env("GITHUB_ACTIONS", "true")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("::error title=s_0_0 ms%3A inconclusive::5 worse"), "{said}");
}

#[test]
fn a_single_number_is_judged_by_the_tolerance_alone() {
    let sandbox = study(0, "n = [1, 2]");
    run(&sandbox, "single", 0);
    sandbox.edit("study.toml", "trial_budget = 4", "trial_budget = 16\nrepeats = 8");
    run(&sandbox, "many", 2);
    let found = json(&sandbox, "many.redb --baseline single.redb --metric ms", 4);
    assert_eq!(
        (&found["regressions"], &found["without_replicas"], &found["paired"]),
        (&2.into(), &2.into(), &0.into())
    );
    let one = line(&found, "s_0_0", "ms");
    assert_eq!((&one["finding"], &one["detail"]), (&"worse".into(), &"baseline without replicas".into()));
    // The mean of what hangs on the replica is 2.
    assert_eq!((&one["now"], one.get("replicas")), (&104.0.into(), None));
    let said = both(&sandbox.run("compare many.redb --baseline single.redb --metric ms --tolerance ms=5"));
    assert!(said.contains("the tolerance alone judges them") && said.contains("0 regressions"), "{said}");
}

#[test]
fn two_values_of_a_param_are_compared_within_one_study() {
    let sandbox = study(12, r#"build = ["base", "now"], n = [1, 2]"#);
    sandbox.edit("study.toml", r#"["./run.sh", "{n}"]"#, r#"'build={build} "$PITON_STUDY_DIR"/run.sh {n}'"#);
    run(&sandbox, "slower", 6);
    let found = json(&sandbox, "slower.redb --between build=base,now --metric ms", 4);
    assert_eq!((&found["cases"], &found["compared"], &found["regressions"]), (&2.into(), &2.into(), &2.into()));
    assert_eq!(found["baseline"], "build = base");
    // Called as the case that may be worse.
    assert_eq!(line(&found, "s_0_2", "ms")["delta"], 6.0);
    let said = both(&sandbox.run("compare slower.redb --between build=base,now"));
    assert!(!said.contains("other sessions") && !said.contains("--write-baseline"), "{said}");
    assert!(said.contains("against build = base: 2 of 2 cases compared"), "{said}");
    let other_way = json(&sandbox, "slower.redb --between build=now,base --metric ms", 0);
    assert_eq!(other_way["improvements"], 2);
    for (options, word) in [
        ("--between build=base,new", "no trial of the stage has build = `new`; there is `base`, `now`"),
        ("--between bild=base,now", "no trial of the stage has bild = `base`; there is none at all"),
        ("--between build=base", "expected PARAM=BASE,NOW"),
        ("--between build=now,now", "it is compared with itself"),
        ("--between build=base,now --baseline x.json", "cannot be used with"),
    ] {
        let output = sandbox.run(&format!("compare slower.redb {options}"));
        assert!(output.status.code() == Some(2) && both(&output).contains(word), "{options}: {}", both(&output));
    }
}

#[test]
fn cases_are_found_by_their_params_where_names_mean_something_else() {
    let sandbox = study(12, "n = [1, 2, 3]");
    run(&sandbox, "before", 0);
    sandbox.edit("study.toml", "n = [1, 2, 3]", "n = [3, 2, 1]");
    run(&sandbox, "slower", 3);
    let by_name = json(&sandbox, "slower.redb --baseline before.redb --metric ms", 4);
    assert_eq!(line_of(&by_name, "s_0_0")["finding"], "other_params");
    let found = json(&sandbox, "slower.redb --baseline before.redb --metric ms --match params", 4);
    assert_eq!((&found["compared"], &found["regressions"]), (&3.into(), &3.into()));
    assert_eq!(
        line(&found, "s_0_0", "ms")["baseline"],
        line(&found, "s_0_0", "ms")["now"].as_f64().unwrap() - 3.0
    );
    // A case without its like is missing, and one that has none is new.
    sandbox.edit("study.toml", "n = [3, 2, 1]", "n = [3, 4]");
    run(&sandbox, "other", 0);
    let found = json(&sandbox, "other.redb --baseline before.redb --metric ms --match params", 4);
    let findings: Vec<&str> =
        found["comparisons"].as_array().unwrap().iter().map(|line| line["finding"].as_str().unwrap()).collect();
    assert_eq!(findings, ["missing", "missing", "equivalent", "new"]);
}

fn line_of<'a>(json: &'a Json, case: &str) -> &'a Json {
    json["comparisons"].as_array().unwrap().iter().find(|line| line["case"] == case).unwrap()
}
