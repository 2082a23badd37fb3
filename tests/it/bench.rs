//! The example that measures: builds race, and a gate finds 5 % more work and nothing where there is nothing. By counts, which hang on no
//! noise.

use crate::harness::{Sandbox, both};

/// Runs it with the meter that counts the same on every machine.
fn counted(sandbox: &Sandbox, line: &str) -> String {
    let output = sandbox.piton(line.split_whitespace()).env("METER", "blocks").output().unwrap();
    assert!(output.status.success(), "{line}: {}", both(&output));
    both(&output)
}

/// What the gate says of the example, with this seed and so many passes now for 100 before: its exit code, and its sums.
fn gate(seed: u32, passes: u32) -> (Option<i32>, String) {
    let sandbox = Sandbox::of_example("bench");
    sandbox.edit("gate.toml", "[study]", &format!("[study]\nseed = {seed}"));
    std::fs::copy(sandbox.path("work.c"), sandbox.path("base.c")).unwrap();
    sandbox.edit("work.c", "PASSES = 100", &format!("PASSES = {passes}"));
    sandbox.edit("gate.toml", "[20000, 50000]", "[100]");
    counted(&sandbox, "run gate.toml");
    let output = sandbox.run("compare gate.redb --between build=base,now --tolerance cost=1%");
    let said = both(&output);
    let sums = said.lines().find(|line| line.contains("regression") && line.contains("unchanged"));
    (output.status.code(), sums.unwrap_or_default().to_owned())
}

#[test]
fn twenty_gates_of_one_program_pass_and_more_work_is_found() {
    let same: Vec<_> = (0..20).map(|seed| gate(seed, 100)).collect();
    let passed = same.iter().filter(|(code, _)| *code == Some(0)).count();
    println!("figure: gate of a benchmark: {passed} of {} runs of one program pass", same.len());
    assert_eq!(passed, same.len(), "{same:?}");
    for seed in 0..3 {
        assert_eq!(gate(seed, 105), (Some(4), "1 regression, 0 improvements, 0 unchanged".into()));
        assert_eq!(gate(seed, 95), (Some(0), "0 regressions, 1 improvement, 0 unchanged".into()));
    }
}

#[test]
fn a_build_that_is_worse_leaves_the_race() {
    let sandbox = Sandbox::of_example("bench");
    let said = counted(&sandbox, "run study.toml --set size=500");
    assert!(said.contains("after round 6: work_1_0"), "{said}");
    let why = sandbox.ok("why study.redb work_1_0", 0);
    assert!(why.contains("left after round 6: evidence") && why.contains("that another is better"), "{why}");
    let dump = sandbox.dump();
    let cost = |case: &serde_json::Value| case["metrics"]["cost"].as_f64().unwrap();
    let cases: Vec<_> = dump["cases"].as_array().unwrap().iter().collect();
    let best = cases.iter().map(|case| cost(case)).fold(f64::INFINITY, f64::min);
    let survivor = cases.iter().find(|case| case["survivor"] == true).unwrap();
    assert!(cost(survivor) <= best * 1.000_001, "{cases:?}");
    sandbox.ok("verify study.redb", 0);
}

/// As it is, with the meter of this machine, which may tell no builds apart of so little work.
#[test]
fn the_template_runs() {
    let sandbox = Sandbox::new();
    sandbox.ok("new mine --template benchmark", 0);
    sandbox.ok("run mine/study.toml --set size=100", 0);
    let said = sandbox.ok("best mine/study.redb", 0);
    assert!(said.contains("cpu_ms") || said.contains("instructions"), "{said}");
    sandbox.ok("check mine/gate.toml", 0);
    sandbox.ok("new mine --template benchmark", 1);
}
