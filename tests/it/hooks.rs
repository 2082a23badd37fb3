//! `[run] on_event`: told after it is on disk, and of no consequence whatever it does.

use rustix::process::Signal;
use serde_json::Value as Json;

use crate::harness::{Edit, Sandbox, StudyFile, exists, state_of, wait_until};

fn study(on_event: &str) -> Sandbox {
    let sandbox = Sandbox::with_study(
        StudyFile::new("told")
            .run(format!("workers = 1\non_event = {on_event}"))
            .stage("first", ["./trial.sh", "{n}"], 3, 2)
            .sweep(r#"n = { min = 1, max = 3, type = "int" }"#)
            .minimize("cost")
            .stage("second", ["./trial.sh", "{n}"], 2, 1)
            .sweep("m = [1]")
            .minimize("cost"),
    );
    sandbox.script(
        "trial.sh",
        r#"
echo "$PITON_CASE" >> "$PITON_STUDY_DIR/started"
[ "$1" != 3 ] || exit 1
while [ -e "$PITON_STUDY_DIR/closed" ]; do sleep 0.02; done
echo "{\"cost\": $1}" > metrics.json
"#,
    );
    // What it is told, a line each, and how many events the store had then.
    sandbox.script(
        "hook.sh",
        &format!(
            r#"
cat >> told.jsonl
echo "$PITON_EVENT $PITON_STUDY $({} status "$PITON_STORE" --json | tr ',' '\n' | grep -c '"events"')" >> environment
"#,
            env!("CARGO_BIN_EXE_piton")
        ),
    );
    sandbox
}

fn told(sandbox: &Sandbox) -> Vec<Json> {
    sandbox.lines("told.jsonl").iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn it_is_told_of_stages_and_ends() {
    let sandbox = study("[\"./hook.sh\"]");
    sandbox.ok("run study.toml", 0);
    let told = told(&sandbox);
    let events: Vec<&str> = told.iter().map(|told| told["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["stage_closed", "stage_closed", "completed"]);
    let first = &told[0];
    assert_eq!(first["schema"], 1);
    assert_eq!(first["study"], "told");
    assert_eq!(first["store"], sandbox.path("study.redb").display().to_string());
    assert_eq!(
        first["stage"],
        serde_json::json!({
            "index": 0, "name": "first", "planned": 3, "succeeded": 2, "reused": 0, "imported": 0, "failed": 1,
            "survivors": ["told_0_0", "told_0_1"], "survivor_count": 2,
        })
    );
    assert_eq!(told[2]["stage"], Json::Null);
    assert_eq!(told[2]["accounting"], sandbox.dump()["accounting"]);
    assert_eq!(sandbox.lines("environment"), ["stage_closed told 1", "stage_closed told 1", "completed told 1"]);
}

#[test]
fn it_is_told_of_an_interruption() {
    let sandbox = study("\"cat >> told.jsonl\"");
    sandbox.write("closed", "");
    let engine = sandbox.start("run study.toml");
    wait_until("a trial runs", || !sandbox.lines("started").is_empty());
    engine.signal(Signal::TERM);
    wait_until("it stops", || sandbox.lines("engine.err").iter().any(|line| line.contains("stopping")));
    std::fs::remove_file(sandbox.path("closed")).unwrap();
    assert_eq!(engine.wait().code(), Some(75));
    let told = told(&sandbox);
    assert_eq!(told.len(), 1);
    assert_eq!(told[0]["event"], "interrupted");
}

#[test]
fn it_is_told_once_that_a_person_is_waited_for() {
    let sandbox = study("\"cat >> told.jsonl\"");
    sandbox.edit("study.toml", "name = \"second\"", "name = \"second\"\napprove = true");
    let events = || -> Vec<String> {
        let word = |told: &Json| told["event"].as_str().unwrap().to_owned();
        told(&sandbox).iter().map(word).collect()
    };
    for line in ["run study.toml", "run study.toml", "resume study.redb"] {
        sandbox.ok(line, 8);
        assert_eq!(events(), ["stage_closed", "waiting"], "{line}");
    }
    sandbox.ok("approve study.redb", 0);
    sandbox.ok("resume study.redb", 0);
    assert_eq!(events(), ["stage_closed", "waiting", "stage_closed", "completed"]);
}

/// A drain that leaves nothing to do but to wait for a person ends as that: a scheduler must not start it again.
#[test]
fn a_drain_before_an_approval_waits_for_it() {
    let sandbox = study("\"cat >> told.jsonl\"");
    let text = std::fs::read_to_string(sandbox.path("study.toml")).unwrap();
    let gated = text.edit("name = \"second\"", "name = \"second\"\napprove = true");
    sandbox.write("study.toml", gated.edit("workers = 1", "workers = 3"));
    sandbox.write("closed", "");
    let engine = sandbox.start("run study.toml");
    wait_until("all trials run", || sandbox.lines("started").len() == 3);
    engine.signal(Signal::TERM);
    wait_until("it stops", || sandbox.lines("engine.err").iter().any(|line| line.contains("stopping")));
    std::fs::remove_file(sandbox.path("closed")).unwrap();
    assert_eq!(engine.wait().code(), Some(8));
    assert_eq!(told(&sandbox).last().unwrap()["event"], "waiting");
    let before = sandbox.dump()["events"].clone();
    sandbox.ok("run study.toml", 8);
    assert_eq!(sandbox.dump()["events"], before);
}

#[test]
fn whatever_it_does_the_study_is_the_same() {
    let plain = study("[\"true\"]");
    plain.ok("run study.toml", 0);
    for hook in [
        "[\"./no_such_program\"]",
        "[\"/no/such/program\"]",
        "\"exit 9\"",
        "\"yes | head -c 3000000 >&2; kill -9 $$\"",
        "\"exec 0<&-; exit 1\"",
    ] {
        let sandbox = study(hook);
        let output = sandbox.run("run study.toml");
        assert_eq!(output.status.code(), Some(0), "{hook}");
        let warned = String::from_utf8_lossy(&output.stderr).matches("`on_event` for").count();
        assert_eq!(warned, 3, "{hook}: {}", String::from_utf8_lossy(&output.stderr));
        // Nothing of the spec that counts is different either.
        assert_eq!(sandbox.canonical(), plain.canonical(), "{hook}");
    }
}

/// `kill -9` of the engine ends the hook that runs.
#[test]
fn it_dies_with_the_engine() {
    let sandbox = study("\"echo $$ > hook.pid; exec sleep 1000\"");
    let engine = sandbox.start("run study.toml");
    wait_until("the hook runs", || sandbox.lines("hook.pid").len() == 1);
    let pid: u32 = sandbox.lines("hook.pid")[0].parse().unwrap();
    engine.signal(Signal::KILL);
    engine.wait();
    wait_until("the hook is gone", || state_of(pid).is_none_or(|state| state == 'Z'));
}

/// Whatever asks the engine to end meanwhile: what the study came to is told as if nobody had.
#[test]
fn a_request_while_the_end_is_told_shortens_the_wait_and_loses_nothing() {
    let sandbox = study("\"[ $PITON_EVENT != completed ] || { echo > telling; exec sleep 1000; }\"");
    let engine = sandbox.start("run study.toml --junit report.xml");
    wait_until("the end is told", || exists(&sandbox.path("telling")));
    engine.signal(Signal::TERM);
    engine.signal_again(Signal::HUP);
    assert_eq!(engine.wait().code(), Some(0));
    assert!(sandbox.lines("report.xml").iter().any(|line| line.contains("<testsuite")));
}

/// What a helper started ends with it: in its group, out of it, and out of sight.
#[test]
fn nothing_that_a_helper_started_outlives_it() {
    let leave = |file: &str| {
        format!(
            "sleep 1000 & echo $! >> {file}; setsid sleep 1000 & echo $! >> {file}; \
             env -i setsid setsid sh -c 'echo $$ >> {file}; : > {file}.$0; exec sleep 1000' $$ & \
             while [ ! -e {file}.$$ ]; do sleep 0.02; done; echo 1"
        )
    };
    let sandbox = study(&format!("\"{}\"", leave("hook")));
    let asked = format!("[study]\nversions = {{ tool = \"{}\" }}", leave("tool"));
    let text = std::fs::read_to_string(sandbox.path("study.toml")).unwrap().edit_first("[study]", &asked);
    sandbox.write("study.toml", &text);
    sandbox.ok("run study.toml", 0);
    for (file, least) in [("hook", 9), ("tool", 3)] {
        let pids = sandbox.lines(file);
        assert!(pids.len() >= least, "{file}: {pids:?}");
        for pid in pids {
            let state = state_of(pid.parse().unwrap());
            assert!(state.is_none_or(|state| state == 'Z'), "{file}: {pid} is left");
        }
    }
}
