//! `[run] sync_interval`: finished trials may wait for their commit, are not told of before it, and run again after a
//! crash. Nothing else waits.

use rustix::process::Signal;

use crate::harness::{Sandbox, StudyFile, wait_until};

/// One trial at a time; the first ends at once, the second waits for `gate`. `{extra}` goes into `[run]`.
fn study(extra: &str, failing: bool) -> Sandbox {
    let sandbox = Sandbox::with_study(
        StudyFile::new("window")
            .run("workers = 1")
            .with(extra)
            .stage("only", ["./trial.sh", "{n}"], 4, 1)
            .sweep(r#"n = { min = 0, max = 3, type = "int" }"#)
            .maximize("n"),
    );
    let fail = if failing { "if [ $1 = 0 ]; then exit 9; fi" } else { "" };
    sandbox.script(
        "trial.sh",
        &format!(
            r#"
echo "$PITON_CASE" >> "$PITON_STUDY_DIR/started"
{fail}
while [ $1 != 0 ] && [ ! -e "$PITON_STUDY_DIR/gate" ]; do sleep 0.02; done
echo "{{\"n\": $1}}" > metrics.json
"#
        ),
    );
    sandbox
}

fn started(sandbox: &Sandbox) {
    wait_until("the second trial has started", || sandbox.lines("started").len() >= 2);
}

const LONG: &str = "sync_interval = \"1h\"";

#[test]
fn what_waits_for_its_commit_runs_again_after_a_crash() {
    let sandbox = study(LONG, false);
    let engine = sandbox.start("run study.toml");
    started(&sandbox);
    assert_eq!(sandbox.dump()["accounting"]["attempts_started"], 0, "nothing is told of that is not recorded");
    let status = sandbox.ok("status study.redb", 0);
    assert!(status.contains("a crash repeats what ended in the last 1 h"), "{status}");
    let json: serde_json::Value = serde_json::from_str(&sandbox.ok("status study.redb --json", 0)).unwrap();
    assert_eq!(json["engine"]["sync_interval_s"], 3600.0);
    engine.signal(Signal::KILL);
    engine.wait();

    sandbox.write("gate", "");
    sandbox.ok("run study.toml", 0);
    let dump = sandbox.dump();
    assert_eq!(dump["accounting"]["attempts_started"], 4, "{dump}");
    assert_eq!(dump["accounting"]["succeeded"], 4);
    let started = sandbox.lines("started");
    assert_eq!(started.iter().filter(|case| *case == "window_0_0").count(), 2, "{started:?}");
    sandbox.ok("verify study.redb", 0);
}

#[test]
fn a_drain_does_not_wait() {
    let sandbox = study(LONG, false);
    let engine = sandbox.start("run study.toml");
    started(&sandbox);
    engine.signal(Signal::TERM);
    wait_until("the first trial is recorded", || sandbox.dump()["accounting"]["succeeded"] == 1);
    sandbox.write("gate", "");
    assert_eq!(engine.wait().code(), Some(75));
    assert_eq!(sandbox.dump()["accounting"]["succeeded"], 2);
}

#[test]
fn a_failure_does_not_wait() {
    let sandbox = study(LONG, true);
    let engine = sandbox.start("run study.toml");
    started(&sandbox);
    wait_until("the failure is recorded", || sandbox.dump()["accounting"]["failed"] == 1);
    sandbox.write("gate", "");
    assert_eq!(engine.wait().code(), Some(0));
}

#[test]
fn the_interval_ends_the_wait() {
    let sandbox = study("sync_interval = \"50ms\"", false);
    let engine = sandbox.start("run study.toml");
    started(&sandbox);
    wait_until("the first trial is recorded", || sandbox.dump()["accounting"]["succeeded"] == 1);
    sandbox.write("gate", "");
    assert_eq!(engine.wait().code(), Some(0));
}
