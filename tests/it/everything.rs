//! The example that uses all of the study language: it runs, parks, goes on after kills, and ends the same.

use std::fs;
use std::path::Path;

use rustix::process::Signal;

use crate::harness::{Sandbox, wait_until};

fn example() -> Sandbox {
    Sandbox::of_example("everything")
}

/// Seven kills while trials of any of its stages run.
fn killed_now_and_then(sandbox: &Sandbox) {
    for _ in 0..7 {
        let begun = sandbox.lines("engine.err").len();
        let mut engine = sandbox.start("run study.toml");
        wait_until("something was reported", || {
            sandbox.lines("engine.err").len() > begun + 5 || engine.child.try_wait().unwrap().is_some()
        });
        if engine.child.try_wait().unwrap().is_none() {
            engine.signal(Signal::KILL);
        }
        engine.wait();
    }
}

/// Keys that the example leaves to others, as its opening says; what is in their tables goes with them.
const ELSEWHERE: [&str; 24] = [
    "executor",
    "ray",
    "slurm",
    "ask",
    "parallel",
    "versions",
    "failures",
    "reuse",
    "uses",
    "reuse_from",
    "reuse_check",
    "halving",
    "rungs",
    "eta",
    "keep",
    "stop_if",
    "after",
    "no_better_for",
    "min_delta",
    "repeats",
    "race",
    "confidence",
    "aggregate",
    "improve_within",
];

#[test]
fn it_has_every_key_but_those_it_names() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("examples/everything/study.toml")).unwrap();
    let opening = text.split("[study]").next().unwrap();
    let schema = fs::read_to_string(root.join("docs/study.schema.json")).unwrap();
    let schema: serde_json::Value = serde_json::from_str(&schema).unwrap();
    let tables = schema["definitions"].as_object().unwrap();
    let left_out = |name: &str| name.strip_prefix("run.").is_some_and(|name| ELSEWHERE.contains(&name));
    let tables = tables.iter().filter(|(name, _)| !left_out(name)).map(|(_, table)| table).chain([&schema]);
    let mut count = 0;
    for found in tables.flat_map(|table| table["properties"].as_object().unwrap().keys()) {
        count += 1;
        let used = regex::Regex::new(&format!(r"(?m)(^|[\s{{.\[,]){found}\s*(=|\.|\])")).unwrap();
        let named = ELSEWHERE.contains(&found.as_str());
        assert!(used.is_match(&text) || named, "`{found}` is nowhere in the example");
    }
    assert!(count > 60, "the keys are elsewhere now: {count}");
    for named in ELSEWHERE.iter().filter(|name| !["ray", "slurm"].contains(name)) {
        assert!(opening.contains(named), "`{named}`");
    }
}

#[test]
fn it_says_all_that_can_be_said_and_ends_the_same_after_kills() {
    let whole = example();
    let plan = whole.ok("check study.toml", 0);
    for words in
        ["1 repeated row left out", "sobol; pareto", "base command must succeed", "`piton approve` says so"]
    {
        assert!(plan.contains(words), "{words} in {plan}");
    }
    whole.ok("run study.toml", 8);
    whole.ok("approve study.redb --by ada", 0);
    let result = whole.ok("run study.toml", 0);
    assert!(result.contains("wheel_3_"), "{result}");
    let dump = whole.dump();
    let planned: Vec<u64> = (0..4).map(|n| dump["stages"][n]["planned"].as_u64().unwrap()).collect();
    assert_eq!(planned, [5, 32, 24, 9]);
    whole.ok("verify study.redb", 0);

    let killed = example();
    killed_now_and_then(&killed);
    killed.ok("run study.toml", 8);
    killed.ok("approve study.redb --by bob", 0);
    killed.ok("run study.toml", 0);
    assert_eq!(killed.canonical(), whole.canonical());
    killed.ok("verify study.redb", 0);
}
