//! What people do with results that are taken: grow a halving, change one script of a flow, look at what was taken, ask why the rest ran.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use piton::{Stage, Study};
use rustix::process::Signal;

use crate::harness::{Sandbox, StudyFile, both, exists, wait_until};
use crate::kills::Moments;

/// A flow of two scripts, which note in `log` what they were asked for. Where `synth.sh` is another one, its outputs are the same.
fn flow(name: &str, fanout: &str, run: &str) -> StudyFile {
    StudyFile::new(name)
        .with("seed = 7")
        .with(r#"inputs = ["flow/lib.sh"]"#)
        .with("[study.versions]\nyosys = \"cat yosys\"")
        .run("workers = 2")
        .with(run)
        .stage("synth", ["sh", "{study_dir}/flow/synth.sh", "{fanout}", "{eff}"], 8, 2)
        .with("reuse = true")
        .with(r#"inputs = ["flow/synth.sh"]"#)
        .with(r#"outputs = ["net.v"]"#)
        .sweep(format!("eff = [1, 2]\nfanout = [{fanout}]"))
        .maximize("m")
        .stage("place", ["sh", "{study_dir}/flow/place.sh", "{parent_dir}", "{k}"], 4, 1)
        .with("reuse = true")
        .with(r#"inputs = ["flow/place.sh"]"#)
        .with(r#"outputs = ["placed"]"#)
        .sweep("k = [1, 2]")
        .maximize("k")
}

fn flow_sandbox(text: &StudyFile) -> Sandbox {
    let sandbox = Sandbox::with_study(text);
    fs::create_dir(sandbox.path("flow")).unwrap();
    sandbox.write("flow/lib.sh", "");
    sandbox.write("yosys", "0.23\n");
    sandbox.write(
        "flow/synth.sh",
        "echo synth >> $PITON_STUDY_DIR/log; echo \"net $1 $2\" > net.v; echo \"{\\\"m\\\": $1$2}\" > metrics.json\n",
    );
    sandbox.write(
        "flow/place.sh",
        "echo place >> $PITON_STUDY_DIR/log; cat $1/net.v > placed; echo \"{\\\"k\\\": $2}\" > metrics.json\n",
    );
    sandbox
}

fn append(sandbox: &Sandbox, file: &str, text: &str) {
    let before = fs::read_to_string(sandbox.path(file)).unwrap();
    sandbox.write(file, format!("{before}{text}"));
}

fn ran(sandbox: &Sandbox, from: usize) -> (usize, usize) {
    let log = sandbox.lines("log").split_off(from);
    let count = |what: &str| log.iter().filter(|line| *line == what).count();
    (count("synth"), count("place"))
}

#[test]
fn a_changed_script_runs_its_stage_and_what_it_changes_after_it() {
    let sandbox = flow_sandbox(&flow("s", "8, 12", ""));
    sandbox.ok("run study.toml", 0);
    assert_eq!(ran(&sandbox, 0), (4, 4));

    // The last script of the flow: what was synthesised stands.
    append(&sandbox, "flow/place.sh", "# another one\n");
    sandbox.ok("run study.toml", 6);
    sandbox.ok("amend study.redb study.toml --yes --discard-from place", 0);
    sandbox.ok("run study.toml", 0);
    assert_eq!(ran(&sandbox, 8), (0, 4));
    let why = sandbox.ok("why study.redb s_1_0", 0);
    let differs = why.split("differs from the nearest earlier result").nth(1).unwrap_or_else(|| panic!("{why}"));
    assert!(
        differs.contains("case `s_1_0` of study `s`") && differs.contains("  input flow/place.sh changed\n"),
        "{why}"
    );

    // The first one, whose outputs stay the same: nothing after it runs.
    append(&sandbox, "flow/synth.sh", "# another one\n");
    sandbox.ok("amend study.redb study.toml --yes --discard-from synth", 0);
    sandbox.ok("run study.toml", 0);
    assert_eq!(ran(&sandbox, 12), (4, 0));
    assert_eq!(sandbox.dump()["accounting"]["reused"], 4);
    sandbox.ok("verify study.redb", 0);

    // With other outputs all of it runs.
    append(&sandbox, "flow/synth.sh", "echo more >> net.v\n");
    sandbox.ok("amend study.redb study.toml --yes --discard-from synth", 0);
    sandbox.ok("run study.toml", 0);
    assert_eq!(ran(&sandbox, 16), (4, 4));
    let why = sandbox.ok("why study.redb s_1_0", 0);
    assert!(why.contains("  output net.v of the parent changed\n"), "{why}");

    let alone = flow_sandbox(&flow("s", "8, 12", ""));
    for script in ["flow/synth.sh", "flow/place.sh"] {
        fs::copy(sandbox.path(script), alone.path(script)).unwrap();
    }
    alone.ok("run study.toml", 0);
    assert_eq!(alone.dump()["accounting"]["reused"], 0);
    assert_eq!(sandbox.canonical(), alone.canonical());
}

#[test]
fn why_a_trial_ran_names_what_its_nearest_earlier_result_did_not_have() {
    let first = flow_sandbox(&flow("last", "8", ""));
    first.ok("run study.toml", 0);
    let from = format!("reuse_from = [\"{}\"]", first.path("study.redb").display());
    let differs = |sandbox: &Sandbox, case: &str| {
        let why: serde_json::Value =
            serde_json::from_str(&sandbox.ok(&format!("why study.redb {case} --json"), 0)).unwrap();
        (why["nearest_result"].clone(), sandbox.ok(&format!("why study.redb {case}"), 0))
    };

    let sandbox = flow_sandbox(&flow("s", "8, 16", &from));
    sandbox.ok("run study.toml", 0);
    assert_eq!(ran(&sandbox, 0), (2, 4));
    let (nearest, why) = differs(&sandbox, "s_0_1");
    assert_eq!(nearest["study"], "last");
    let param = serde_json::json!({"part": "param", "name": "fanout", "earlier": "8", "now": "16"});
    assert_eq!(nearest["differs"], serde_json::json!([param]));
    assert!(why.contains("  param fanout 8 -> 16\n"), "{why}");
    // One that took its result did not run.
    let (nearest, why) = differs(&sandbox, "s_0_0");
    assert!(nearest.is_null() && !why.contains("nearest"), "{why}");

    // A tool is another one, and a variable is new.
    let text = flow("s", "8", &from).with("[env]\nPDK = \"sky130\"");
    let sandbox = flow_sandbox(&text);
    sandbox.write("yosys", "0.33\n");
    sandbox.ok("run study.toml", 0);
    let (nearest, why) = differs(&sandbox, "s_0_0");
    assert_eq!(nearest["case"], "last_0_0");
    assert!(why.contains("  env PDK \"sky130\" is new\n  yosys 0.23 -> 0.33\n"), "{why}");
    // Of the first trials of all there is nothing earlier; a store that is gone has no results.
    fs::remove_file(first.path("study.redb")).unwrap();
    let (nearest, _) = differs(&sandbox, "s_0_0");
    assert!(nearest.is_null(), "{nearest}");
}

#[test]
fn what_was_taken_is_looked_at_as_what_ran() {
    let first = flow_sandbox(&flow("last", "8, 12", ""));
    first.ok("run study.toml", 0);
    let sandbox =
        flow_sandbox(&flow("s", "8, 12", &format!("reuse_from = [\"{}\"]", first.path("study.redb").display())));
    sandbox.ok("run study.toml", 0);
    assert_eq!(ran(&sandbox, 0), (0, 0));
    let whole = sandbox.canonical();
    sandbox.ok("verify study.redb", 0);
    assert!(sandbox.ok("status study.redb", 0).contains("4 succeeded (4 reused)"));
    let logs = sandbox.run("logs study.redb s_1_0");
    assert_eq!(logs.status.code(), Some(2));
    assert!(
        both(&logs).contains("it ran nothing, and took the result of case `last_1_0` of study `last`"),
        "{}",
        both(&logs)
    );
    // Made again it is what was taken.
    sandbox.ok("replay study.redb s_0_1", 0);
    sandbox.ok("replay study.redb s_1_0", 0);
    sandbox.ok("export study.redb --to exported", 0);
    assert!(fs::read_to_string(sandbox.path("exported/trials.jsonl")).unwrap().contains("\"reused_from\""));
    sandbox.ok("compact study.redb", 0);
    assert_eq!(sandbox.canonical(), whole);
    sandbox.ok("salvage study.redb -o salvaged.redb", 0);
    assert_eq!(sandbox.ok("dump salvaged.redb --format json --canonical", 0), whole);
    // Whoever takes from it has it from where it lies now.
    let from = format!("reuse_from = [\"{}\"]", sandbox.path("study.redb").display());
    fs::remove_dir_all(first.path("artifacts")).unwrap();
    let third = flow_sandbox(&flow("third", "8, 12", &from));
    third.ok("run study.toml", 0);
    assert_eq!(ran(&third, 0), (0, 0));
    // One of its files is gone, one is another one: `verify` says so.
    fs::remove_file(third.path("artifacts/third/1_place/third_1_0/attempt_0/placed")).unwrap();
    let verify = third.ok("verify study.redb", 4);
    assert!(verify.contains("third_1_0"), "{verify}");
}

/// Candidates of a first rung, the better of which go on.
fn halving(candidates: u64) -> StudyFile {
    let rung = |file: StudyFile, name: &str, budget: u64, survivors: u64, sweep: &str| {
        let command = format!(
            r#"echo {name} >> $PITON_STUDY_DIR/log; echo $PITON_SEED > out; echo "{{{{\"m\": {{x}}}}}}" > metrics.json"#
        );
        file.stage(name, command, budget, survivors)
            .with("reuse = true\noutputs = [\"out\"]")
            .with(sweep)
            .maximize("m")
    };
    let file = StudyFile::new("s").with("seed = 3").run("workers = 2");
    let file =
        rung(file, "one", candidates, 4, "sampling = \"random\"\n[stage.sweep]\nx = { min = 0.0, max = 1.0 }");
    let file = rung(file, "two", 4, 2, "[stage.sweep]\nbudget = [10]");
    rung(file, "three", 2, 1, "[stage.sweep]\nbudget = [100]")
}

#[test]
fn a_halving_that_grows_runs_what_is_new() {
    let sandbox = Sandbox::with_study(halving(8));
    sandbox.ok("run study.toml", 0);
    assert_eq!(sandbox.lines("log").len(), 8 + 4 + 2);
    sandbox.write("study.toml", halving(10));
    sandbox.ok("amend study.redb study.toml --yes", 0);
    sandbox.ok("run study.toml", 0);
    let alone = Sandbox::with_study(halving(10));
    alone.ok("run study.toml", 0);
    assert_eq!(sandbox.canonical(), alone.canonical());
    // Two candidates are new; of what follows, only what descends from new survivors.
    let log = sandbox.lines("log").split_off(14);
    let count = |what: &str| log.iter().filter(|line| *line == what).count();
    assert_eq!(count("one"), 2, "{log:?}");
    // The candidates that there were stay as they are.
    assert_eq!(log.len() as u64 + sandbox.dump()["accounting"]["reused"].as_u64().unwrap(), 2 + 4 + 2);
    sandbox.ok("verify study.redb", 0);
}

#[test]
fn a_run_that_takes_results_and_is_killed_again_and_again_takes_each_of_them_once() {
    let text = |name: &str, run: &str| {
        StudyFile::new(name)
            .run("workers = 4")
            .with(run)
            .stage(
                "a",
                r#"echo {n} >> $PITON_STUDY_DIR/log; head -c 20000 /dev/zero > big; echo {n} > sub
               echo "{{\"m\": {n}}}" > metrics.json"#,
                200,
                3,
            )
            .with("reuse = true")
            .with(r#"outputs = ["big", "sub"]"#)
            .sweep(r#"n = { min = 1, max = 200, type = "int" }"#)
            .maximize("m")
    };
    let first = Sandbox::with_study(text("last", ""));
    first.ok("run study.toml", 0);
    let from = format!("reuse_from = [\"{}\"]", first.path("study.redb").display());
    let sandbox = Sandbox::with_study(text("s", &from));
    let mut moments = Moments::new();
    let stage = sandbox.path("artifacts/s/0_a");
    let begun = || fs::read_dir(&stage).map_or(0, |cases| cases.count() as u64);
    let mut kills = 0;
    while kills < 20 {
        let engine = sandbox.start("run study.toml");
        let enough = (begun() + moments.below(12)).min(195);
        wait_until("it takes results", || begun() >= enough && exists(&sandbox.path("study.redb")));
        engine.signal(Signal::KILL);
        engine.wait();
        kills += 1;
    }
    sandbox.ok("run study.toml", 0);
    assert_eq!(sandbox.lines("log"), Vec::<String>::new());
    let dump = sandbox.dump();
    assert_eq!(dump["accounting"]["reused"], 200);
    assert_eq!(dump["accounting"]["attempts_started"], 0);
    let told = sandbox.ok("dump study.redb --events --format json", 0);
    assert_eq!(told.matches("\"trial_reused\"").count(), 200);
    let alone = Sandbox::with_study(text("s", ""));
    alone.ok("run study.toml", 0);
    assert_eq!(sandbox.canonical(), alone.canonical());
    sandbox.ok("verify study.redb", 0);
}

#[test]
fn what_is_no_store_is_passed_over_and_what_lies_in_an_outputs_place_is_never_taken() {
    let first = flow_sandbox(&flow("last", "8, 12", ""));
    first.ok("run study.toml", 0);
    let alone = flow_sandbox(&flow("s", "8, 12", ""));
    alone.ok("run study.toml", 0);
    assert!(Command::new("mkfifo").arg(first.path("pipe")).status().unwrap().success());
    std::os::unix::fs::symlink("loop", first.path("loop")).unwrap();
    first.write("empty", "");
    for strange in ["pipe", "loop", "empty", "flow", "nothing"] {
        let from = format!("reuse_from = [\"{}\"]", first.path(strange).display());
        let sandbox = flow_sandbox(&flow("s", "8, 12", &from));
        let out = sandbox.run("run study.toml");
        assert!(out.status.success(), "{strange}: {}", both(&out));
        assert!(both(&out).contains("no result is taken from"), "{strange}: {}", both(&out));
        assert_eq!(ran(&sandbox, 0), (4, 4), "{strange}");
        assert_eq!(sandbox.canonical(), alone.canonical(), "{strange}");
    }
    let net = first.path("artifacts/last/0_synth/last_0_0/attempt_1/net.v");
    let kept = fs::read(&net).unwrap();
    first.write("elsewhere", std::str::from_utf8(&kept).unwrap());
    type Put = fn(&Path);
    let strange: [(&str, Put); 4] = [
        ("is gone", |_| {}),
        ("is not what was recorded of it", |net| fs::create_dir(net).unwrap()),
        ("is a symbolic link out of", |net| {
            std::os::unix::fs::symlink("../../../../../elsewhere", net).unwrap();
        }),
        ("is neither a file nor a directory", |net| {
            assert!(Command::new("mkfifo").arg(net).status().unwrap().success());
        }),
    ];
    for (reason, put) in strange {
        let _ = fs::remove_file(&net).or_else(|_| fs::remove_dir(&net));
        put(&net);
        let from = format!("reuse_from = [\"{}\"]", first.path("study.redb").display());
        let sandbox = flow_sandbox(&flow("s", "8, 12", &from));
        sandbox.ok("run study.toml", 0);
        assert_eq!(ran(&sandbox, 0), (1, 0), "{reason}");
        let why = sandbox.ok("why study.redb s_0_0", 0);
        assert!(why.contains(reason), "{why}");
        assert_eq!(sandbox.canonical(), alone.canonical(), "{reason}");
    }
}

#[test]
fn a_closures_results_are_taken_while_its_text_stays_the_same() {
    let runs = Arc::new(AtomicU32::new(0));
    let first = Sandbox::new();
    let run = |sandbox: &Sandbox, text: &str, xs: &[i64]| {
        let before = runs.load(Ordering::SeqCst);
        let counted = Arc::clone(&runs);
        let stage = Stage::closure("square", move |trial| {
            counted.fetch_add(1, Ordering::SeqCst);
            Ok([("y", trial.float("x")?.powi(2))])
        });
        let stage = stage.reuse(text).budget(8).survivors(1).choices("x", xs.iter().copied()).minimize("y");
        let from = first.path("study.redb").display().to_string();
        let study = Study::builder("s").stage(stage).reuse_from(&from).build().unwrap();
        assert!(study.store(sandbox.path("study.redb")).run().unwrap().is_completed());
        runs.load(Ordering::SeqCst) - before
    };
    assert_eq!(run(&first, "1", &[1, 2, 3]), 3);
    assert_eq!(run(&Sandbox::new(), "1", &[1, 2, 3, 4]), 1);
    let other = Sandbox::new();
    assert_eq!(run(&other, "2", &[1, 2, 3]), 3);
    let why = other.ok("why study.redb s_0_0", 0);
    assert!(why.contains("  reuse \"1\" -> \"2\"\n"), "{why}");
}

#[test]
fn a_changed_script_that_is_accepted_costs_nothing_and_is_shown_for_ever() {
    let sandbox = flow_sandbox(&flow("s", "8, 12", ""));
    sandbox.ok("run study.toml", 0);
    append(&sandbox, "flow/synth.sh", "# only words\n");
    sandbox.write("yosys", "0.24\n");
    sandbox.ok("amend study.redb study.toml --yes --accept-inputs", 2);
    sandbox.ok("amend study.redb study.toml --yes --accept-inputs --note=", 2);
    sandbox.ok("amend study.redb study.toml --yes", 6);
    let before = sandbox.canonical();
    let accept =
        ["amend", "study.redb", "study.toml", "--yes", "--accept-inputs", "--by", "ada", "--note", "a comment"];
    let said = sandbox.piton(accept).output().unwrap();
    assert!(said.status.success(), "{}", both(&said));
    let said = both(&said);
    assert!(
        said.contains("accepted    input \"flow/synth.sh\"") && said.contains("accepted    tool \"yosys\""),
        "{said}"
    );
    assert!(!said.contains("harmless") && !said.contains("discards"), "{said}");
    sandbox.ok("run study.toml", 0);
    assert_eq!(ran(&sandbox, 8), (0, 0));

    // A grid that grows takes what was made with the old script; what is new is made with the new one.
    sandbox.write("study.toml", flow("s", "8, 12, 16", ""));
    let said = sandbox.ok("amend study.redb study.toml --yes", 0);
    assert!(said.contains("stage `synth`: 6 trials: 4 reused, 2 run"), "{said}");
    sandbox.ok("run study.toml", 0);
    assert_eq!(ran(&sandbox, 8).0, 2);

    // Whoever looks is told.
    let why = sandbox.ok("why study.redb s_0_0", 0);
    assert!(why.contains("ada takes for equal: flow/synth.sh ") && why.contains(": a comment"), "{why}");
    assert!(sandbox.ok("verify study.redb", 0).contains("accepted: "));
    assert!(sandbox.ok("dump study.redb --events", 0).contains("inputs_accepted"));
    let event = sandbox.ok("dump study.redb --events --format json", 0);
    assert!(event.contains("\"note\":\"a comment\"") || event.contains("\"note\": \"a comment\""), "{event}");
    assert_eq!(sandbox.dump()["study"]["inputs_accepted"][0]["by"], "ada");
    assert!(sandbox.canonical().contains("inputs_accepted") && !before.contains("inputs_accepted"));
    sandbox.ok("compact study.redb", 0);
    sandbox.ok("salvage study.redb -o salvaged.redb", 0);
    assert!(sandbox.ok("verify salvaged.redb", 0).contains("ada takes for equal"));

    // Another study has not accepted it: it takes what was made with the script as it is, and nothing else.
    let from = format!("reuse_from = [\"{}\"]", sandbox.path("study.redb").display());
    let other = flow_sandbox(&flow("other", "8, 12, 16", &from));
    for file in ["flow/synth.sh", "yosys"] {
        fs::copy(sandbox.path(file), other.path(file)).unwrap();
    }
    other.ok("run study.toml", 0);
    assert_eq!(ran(&other, 0).0, 4);
}
