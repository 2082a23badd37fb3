//! Who lives is told by the lock on the store, not by a number in it: from other PID namespaces, with forged numbers, and
//! with an engine that is stopped itself.

use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Edit, Engine, Sandbox, StudyFile, both, exists, state_of, wait_until};

fn study() -> Sandbox {
    let sandbox = Sandbox::with_study(
        StudyFile::new("alive")
            .run("workers = 1\ngrace = \"60s\"")
            .stage("only", ["./trial.sh", "{n}"], 3, 1)
            .sweep("n = [1, 2, 3]"),
    );
    sandbox.script(
        "trial.sh",
        r#"
echo "$PITON_CASE" >> "$PITON_STUDY_DIR/started"
while [ ! -e "$PITON_STUDY_DIR/gate" ]; do sleep 0.02; done
"#,
    );
    sandbox
}

/// A shell line in a PID namespace of its own, whose `/proc` shows nothing else.
fn apart(sandbox: &Sandbox, line: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["-fp", "--mount-proc", "--kill-child", "sh", "-c", line]).current_dir(sandbox.path("."));
    command.env("PITON", env!("CARGO_BIN_EXE_piton")).stdin(Stdio::null());
    command
}

fn running(sandbox: &Sandbox) {
    wait_until("a trial runs", || sandbox.lines("started").len() == 1);
    wait_until("its start is recorded", || sandbox.dump()["accounting"]["running"] == 1);
}

fn stopped_in_good_order(sandbox: &Sandbox) {
    let dump = sandbox.dump();
    assert_eq!(dump["study"]["status"], "interrupted");
    assert_eq!(dump["study"]["engine"]["alive"], false);
    assert_eq!(sandbox.lines("started").len(), 1, "nothing more was started");
    assert!(!exists(&sandbox.path("study.redb.stop")), "no request is left");
    sandbox.write("gate", "");
    sandbox.ok("run study.toml", 0);
}

/// Every reader knows that it runs, and `stop` finds it, though its number means nothing here.
#[test]
fn an_engine_in_a_namespace_below_is_seen_and_stopped() {
    let sandbox = study();
    let mut engine = apart(&sandbox, "exec \"$PITON\" run study.toml 2>engine.err >&2").spawn().unwrap();
    running(&sandbox);
    assert_eq!(sandbox.dump()["study"]["engine"]["alive"], true);
    assert!(sandbox.ok("status study.redb", 0).contains("alive: running"));
    assert_eq!(sandbox.run("run study.toml").status.code(), Some(5));
    let mut stop = sandbox.piton(["stop", "study.redb"]).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("it drains", || sandbox.ok("dump study.redb --events", 0).contains("drain_started"));
    assert!(stop.try_wait().unwrap().is_none(), "it waits for the trial");
    sandbox.write("gate", "");
    assert!(stop.wait().unwrap().success());
    assert_eq!(engine.wait().unwrap().code(), Some(75));
    std::fs::remove_file(sandbox.path("gate")).unwrap();
    stopped_in_good_order(&sandbox);
}

/// From where no signal reaches it, it is asked by a file.
#[test]
fn an_engine_outside_of_the_namespace_is_seen_and_stopped() {
    for now in ["", "--now"] {
        let sandbox = study();
        let engine = sandbox.start("run study.toml");
        running(&sandbox);
        let line = format!(
            "\"$PITON\" dump study.redb --format json | grep -q '\"alive\": *true' || exit 40; \
             \"$PITON\" stop study.redb {now} 2>stop.err; echo $? > stopped"
        );
        let mut stop = apart(&sandbox, &line).spawn().unwrap();
        wait_until("it drains", || sandbox.ok("dump study.redb --events", 0).contains("drain_started"));
        if now.is_empty() {
            sandbox.write("gate", "");
        }
        assert_eq!(engine.wait().code(), Some(75));
        assert!(stop.wait().unwrap().success());
        assert_eq!(sandbox.lines("stopped"), ["0"], "{:?}", sandbox.lines("stop.err"));
        assert!(sandbox.lines("stop.err")[0].contains("in another PID namespace of this machine"));
        let interrupted = u64::from(!now.is_empty());
        assert_eq!(sandbox.dump()["accounting"]["interrupted"], interrupted);
        assert!(!exists(&sandbox.path("study.redb.stop")));
    }
}

/// A request that a crash left over means the run that died, and no later one.
#[test]
fn a_request_that_is_left_over_stops_no_later_run() {
    let sandbox = study();
    let engine = sandbox.start("run study.toml");
    running(&sandbox);
    engine.signal(Signal::STOP);
    wait_until("it is stopped", || state_of(engine.pid()) == Some('T'));
    let mut stop = apart(&sandbox, "exec \"$PITON\" stop study.redb 2>stop.err").spawn().unwrap();
    wait_until("it is asked", || exists(&sandbox.path("study.redb.stop")));
    engine.signal(Signal::KILL);
    engine.wait();
    assert!(stop.wait().unwrap().success(), "the engine is gone");
    // As if `stop` had died as well.
    let request = r#"{"schema":1,"study_id":"ID","run":1,"now":true}"#;
    let claim: serde_json::Value =
        serde_json::from_slice(&std::fs::read(sandbox.path("artifacts/alive/.piton-study.json")).unwrap())
            .unwrap();
    sandbox.write("study.redb.stop", request.edit("ID", claim["study_id"].as_str().unwrap()));
    let engine = sandbox.start("run study.toml");
    wait_until("a trial runs again", || sandbox.lines("started").len() == 2);
    wait_until("the request is seen", || !exists(&sandbox.path("study.redb.stop")));
    sandbox.write("gate", "");
    assert_eq!(engine.wait().code(), Some(0));
    assert!(!sandbox.ok("dump study.redb --events", 0).contains("drain_started"));
}

/// A store names a process that lives, in every detail, but that one does not have this store open.
#[test]
fn a_process_that_does_not_hold_the_store_is_never_signalled() {
    let sandbox = study();
    let engine = sandbox.start("run study.toml");
    running(&sandbox);
    std::fs::copy(sandbox.path("study.redb"), sandbox.path("copy.redb")).unwrap();
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&sandbox.ok("dump copy.redb --format json", 0)).unwrap()["study"]
            ["engine"]["alive"],
        false,
        "nobody has the copy open"
    );
    for stop in ["stop copy.redb", "stop copy.redb --now"] {
        let output = sandbox.run(stop);
        assert!(output.status.success() && both(&output).contains("no engine runs"), "{}", both(&output));
    }
    // The copy's own run would be a second one of the same trials.
    let second = sandbox.run("resume copy.redb");
    assert!(both(&second).contains("this is a copy of its store"), "{}", both(&second));
    assert_eq!(state_of(engine.pid()).map(|state| state == 'Z'), Some(false));
    sandbox.write("gate", "");
    assert_eq!(engine.wait().code(), Some(0), "it was not asked to stop");
    assert!(!sandbox.ok("dump study.redb --events", 0).contains("drain_started"));
}

/// A copy of a store that was interrupted must not take the trials of the original for strays.
#[test]
fn a_copy_does_not_kill_the_trials_of_its_original() {
    let sandbox = study();
    let engine = sandbox.start("run study.toml");
    running(&sandbox);
    sandbox.run("stop study.redb --now");
    assert_eq!(engine.wait().code(), Some(75));
    std::fs::copy(sandbox.path("study.redb"), sandbox.path("copy.redb")).unwrap();
    let engine = sandbox.start("run study.toml");
    wait_until("a trial runs again", || sandbox.lines("started").len() == 2);
    let second = sandbox.run("resume copy.redb");
    assert_eq!(second.status.code(), Some(5), "{}", both(&second));
    assert!(both(&second).contains("this is a copy of its store"), "{}", both(&second));
    sandbox.write("gate", "");
    assert_eq!(engine.wait().code(), Some(0));
    assert_eq!(sandbox.dump()["accounting"]["interrupted"], 1, "of the first run alone");
}

fn stop_it(engine: &Engine, sandbox: &Sandbox, signal: Signal) {
    engine.signal(signal);
    wait_until("it is stopped", || state_of(engine.pid()) == Some('T'));
    assert_eq!(sandbox.dump()["study"]["engine"]["alive"], true);
}

#[test]
fn stop_tells_of_an_engine_that_is_stopped_itself() {
    for signal in [Signal::STOP, Signal::TSTP] {
        let sandbox = study();
        let engine = sandbox.start("run study.toml");
        running(&sandbox);
        stop_it(&engine, &sandbox, signal);
        let output = sandbox.run("stop study.redb");
        assert_eq!(output.status.code(), Some(1), "{}", both(&output));
        let words = both(&output);
        assert!(words.contains("is stopped itself") && words.contains("kill -CONT"), "{words}");
        // Once it goes on it takes the request.
        kill_process(Pid::from_raw(engine.pid() as i32).unwrap(), Signal::CONT).unwrap();
        wait_until("it drains", || sandbox.ok("dump study.redb --events", 0).contains("drain_started"));
        sandbox.write("gate", "");
        assert_eq!(engine.wait().code(), Some(75));
    }
}

#[test]
fn stop_now_continues_an_engine_that_is_stopped() {
    for signal in [Signal::STOP, Signal::TSTP] {
        let sandbox = study();
        let engine = sandbox.start("run study.toml");
        running(&sandbox);
        stop_it(&engine, &sandbox, signal);
        let output = sandbox.run("stop study.redb --now");
        assert!(output.status.success(), "{}", both(&output));
        assert_eq!(engine.wait().code(), Some(75));
        assert_eq!(sandbox.dump()["accounting"]["interrupted"], 1);
    }
}
