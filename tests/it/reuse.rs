//! Results that are taken instead of made: from the study itself, from others, and never a wrong one.

use std::fs;

use rustix::process::Signal;

use crate::harness::{Sandbox, StudyFile, both, wait_until};

/// Two stages whose trials note in `log` what they were asked to make. `abc` is swept first, so that adding a value of it moves every case.
fn study(name: &str, abc: &str, reuse: bool, run: &str) -> StudyFile {
    StudyFile::new(name)
        .with("seed = 7")
        .run("workers = 2")
        .with(run)
        .stage(
            "synth",
            r#"echo {abc}{n} >> $PITON_STUDY_DIR/log; echo {abc}{n}$PITON_SEED > net.v
               echo "{{\"m\": {n}}}" > metrics.json"#,
            12,
            2,
        )
        .with(format!("reuse = {reuse}"))
        .with(r#"outputs = ["net.v"]"#)
        .sweep(format!("n = [1, 2, 3]\nabc = [{abc}]"))
        .maximize("m")
        .stage(
            "place",
            r#"echo place >> $PITON_STUDY_DIR/log; cat {parent_dir}/net.v > placed
               echo "{{\"k\": {k}}}" > metrics.json"#,
            4,
            1,
        )
        .with(format!("reuse = {reuse}"))
        .with(r#"outputs = ["placed"]"#)
        .sweep("k = [1, 2]")
        .maximize("k")
}

/// What a study gives that runs everything.
fn alone(text: &StudyFile) -> String {
    let sandbox = Sandbox::finished(text, 0);
    assert_eq!(sandbox.dump()["accounting"]["reused"], 0);
    sandbox.canonical()
}

#[test]
fn a_grid_that_grows_runs_what_is_new_and_gives_what_running_everything_gives() {
    let sandbox = Sandbox::finished(study("s", "\"a\", \"c\"", true, ""), 0);
    assert_eq!(sandbox.lines("log").len(), 6 + 4);
    let grown = study("s", "\"a\", \"b\", \"c\"", true, "");
    let said = sandbox.amend(&grown, "--yes", 0);
    assert!(said.contains("stage `synth`: 9 trials: 6 reused, 3 run, ") && said.contains("replans "), "{said}");
    let out = sandbox.run("run study.toml");
    assert!(out.status.success(), "{}", both(&out));
    let mut log = sandbox.lines("log").split_off(10);
    log.retain(|line| line != "place");
    log.sort();
    assert_eq!(log, ["b1", "b2", "b3"], "{}", both(&out));
    assert_eq!(sandbox.canonical(), alone(&grown));
    let dump = sandbox.dump();
    let of_synth = |trial: &&serde_json::Value| trial["stage"] == 0 && trial.get("reused_from").is_some();
    let reused: Vec<_> = dump["trials"].as_array().unwrap().iter().filter(of_synth).collect();
    assert_eq!(reused.len(), 6);
    assert_eq!(reused[0]["reused_from"]["study"], "s");
    assert_eq!(reused[0]["attempts"], serde_json::json!([]));
    sandbox.ok("verify study.redb", 0);
}

#[test]
fn results_of_another_study_are_taken_and_may_be_gone_by_then() {
    let first = Sandbox::finished(study("last", "\"a\", \"c\"", true, ""), 0);
    let from = format!("reuse_from = [\"{}\"]", first.path("study.redb").display());
    let from = format!("{from}\non_event = \"cat >> told\"");
    let text = study("s", "\"a\", \"c\"", true, &from);
    let whole = alone(&study("s", "\"a\", \"c\"", true, ""));
    let sandbox = Sandbox::finished(&text, 0);
    assert_eq!(sandbox.lines("log"), Vec::<String>::new());
    assert_eq!(sandbox.canonical(), whole);
    assert_eq!(sandbox.dump()["accounting"]["reused"], 10);
    assert_eq!(sandbox.dump()["trials"][0]["reused_from"]["case"], "last_0_0");
    let rows = sandbox.ok("dump study.redb --format csv", 0);
    assert!(rows.lines().nth(1).unwrap().contains(",false,last/last_0_0/1,"), "{rows}");
    sandbox.ok("export study.redb --to out", 0);
    let junit = fs::read_to_string(sandbox.path("out/junit.xml")).unwrap();
    assert_eq!(junit.matches("reused: the result of case `last_").count(), 10, "{junit}");
    let told: Vec<serde_json::Value> =
        sandbox.lines("told").iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&told[0]["stage"]["reused"], &told[2]["accounting"]["reused"]), (&6.into(), &10.into()));
    // One of its outputs is another one, one is gone: those trials run, and say why.
    fs::write(first.path("artifacts/last/0_synth/last_0_0/attempt_1/net.v"), "a9").unwrap();
    fs::remove_dir_all(first.path("artifacts/last/0_synth/last_0_1/attempt_1")).unwrap();
    let again = Sandbox::finished(&text, 0);
    let mut log = again.lines("log");
    log.sort();
    assert_eq!(log, ["a1", "c1"]);
    assert_eq!(again.canonical(), whole);
    let why = again.ok("why study.redb s_0_0", 0);
    assert!(why.contains("net.v` is not what was recorded of it"), "{why}");
    let why = again.ok("why study.redb s_0_2", 0);
    assert!(why.contains("reused from study `last`, case `last_0_2`, attempt 1"), "{why}");
    again.ok("verify study.redb", 0);
}

#[test]
fn equal_trials_wait_for_one_result_and_failures_are_nobodys() {
    let text = |command: &str| {
        StudyFile::new("s")
            .run("workers = 4")
            .stage("a", command, 8, 1)
            .with("reuse = true")
            .with(r#"uses = ["n"]"#)
            .with("retries = 0")
            .sweep("n = [1, 2]\nother = [1, 2, 3, 4]")
            .maximize("m")
    };
    let good = r#"echo {n} >> $PITON_STUDY_DIR/log; echo "{{\"m\": {n}}}" > metrics.json"#;
    let sandbox = Sandbox::finished(text(good), 0);
    let mut log = sandbox.lines("log");
    log.sort();
    assert_eq!(log, ["1", "2"]);
    assert_eq!(sandbox.dump()["accounting"]["reused"], 6);
    // What fails is run by each of them.
    let bad = r#"echo {n} >> $PITON_STUDY_DIR/log; test {n} = 1 && exit 3; echo "{{\"m\": {n}}}" > metrics.json"#;
    let sandbox = Sandbox::finished(text(bad), 0);
    let mut log = sandbox.lines("log");
    log.sort();
    assert_eq!(log, ["1", "1", "1", "1", "2"]);
}

#[test]
fn a_damaged_or_strange_store_is_a_miss() {
    let first = Sandbox::finished(study("last", "\"a\", \"c\"", true, ""), 0);
    let whole = alone(&study("s", "\"a\", \"c\"", true, ""));
    let good = fs::read(first.path("study.redb")).unwrap();
    let bytes = good.len();
    for damage in 0..6 {
        let other = first.path("other.redb");
        let mut damaged = good.clone();
        match damage {
            0 => damaged.truncate(bytes / 2),
            1 => damaged = b"no store".to_vec(),
            // Every page but the header, in turn.
            n => (4096 * (n - 1)..bytes).step_by(4096 * 4).for_each(|at| damaged[at + 100] ^= 1),
        }
        fs::write(&other, damaged).unwrap();
        let from = format!("reuse_from = [\"{}\", \"nowhere.redb\"]", other.display());
        let sandbox = Sandbox::with_study(study("s", "\"a\", \"c\"", true, &from));
        let out = sandbox.run("run study.toml");
        assert!(matches!(out.status.code(), Some(0 | 7)), "{damage}: {}", both(&out));
        if out.status.success() {
            assert_eq!(sandbox.canonical(), whole, "{damage}");
        }
    }
}

/// A study whose trials of `n = 3` wait until there is `go`.
fn slow(name: &str, run: &str) -> StudyFile {
    study(name, "\"a\", \"c\"", true, run).edit(
        "command = \"echo {abc}",
        "command = \"while ! test -e $PITON_STUDY_DIR/go && test {n} = 3; do sleep 0.05; done; echo {abc}",
    )
}

/// The same study beside it makes only what the first one has not: four results are there.
fn takes_the_four_of(first: &Sandbox) {
    let from = format!("reuse_from = [\"{}\"]", first.path("study.redb").display());
    let sandbox = Sandbox::with_study(slow("s", &from));
    sandbox.write("go", "");
    sandbox.ok("run study.toml", 0);
    let mut log = sandbox.lines("log");
    log.sort();
    assert_eq!(log, ["a3", "c3", "place", "place", "place", "place"]);
}

#[test]
fn a_store_in_use_can_be_taken_from_and_an_interrupted_run_goes_on() {
    let first = Sandbox::with_study(slow("last", ""));
    let engine = first.start("run study.toml");
    wait_until("four results", || first.lines("log").len() >= 4);
    wait_until("they are recorded", || first.dump()["accounting"]["succeeded"].as_u64() >= Some(4));
    takes_the_four_of(&first);
    first.write("go", "");
    assert!(engine.wait().success());
}

#[test]
fn a_store_that_a_crash_left_is_taken_from_as_it_lies() {
    let first = Sandbox::with_study(slow("last", ""));
    let engine = first.start("run study.toml");
    wait_until("they are recorded", || {
        first.path("study.redb").exists() && first.dump()["accounting"]["succeeded"].as_u64() >= Some(4)
    });
    engine.signal(Signal::KILL);
    engine.wait();
    let left = fs::read(first.path("study.redb")).unwrap();
    takes_the_four_of(&first);
    assert!(fs::read(first.path("study.redb")).unwrap() == left, "what is only read is not mended");
    // It was in need of that: whoever owns it mends it.
    first.dump();
    assert!(fs::read(first.path("study.redb")).unwrap() != left);
    first.write("go", "");
    first.ok("resume study.redb", 0);
}

/// A trial goes on from its own scratch directory alone, whatever lies there when a store begins.
#[test]
fn another_stores_scratch_is_nobodys() {
    let sandbox = Sandbox::with_six_trials("s", "");
    let leaves = "ls \"$PITON_SCRATCH_DIR\" >> \"$PITON_STUDY_DIR/found\"; mkdir -p \"$PITON_SCRATCH_DIR/deep\"; \
                  touch \"$PITON_SCRATCH_DIR/deep/er\"; echo \"{\\\"n\\\": $1}\" > metrics.json";
    sandbox.script("trial.sh", &format!("{leaves}; [ $PITON_ATTEMPT -gt 1 ]"));
    sandbox.ok("run study.toml", 3);
    sandbox.ok("retry study.redb --failed", 0);
    sandbox.ok("resume study.redb", 0);
    // A trial's own is kept for its next attempt.
    assert_eq!(sandbox.lines("found"), ["deep"; 6]);
    fs::remove_file(sandbox.path("study.redb")).unwrap();
    fs::remove_file(sandbox.path("found")).unwrap();
    sandbox.script("trial.sh", leaves);
    sandbox.ok("run study.toml", 0);
    assert_eq!(sandbox.lines("found"), Vec::<String>::new());
}
