//! The signal table of the contract, row by row, with real processes.
//!
//! Trials say in a log that they started and then wait for a gate file, so that a test decides when they end.

use std::os::unix::process::{CommandExt, ExitStatusExt};

use rustix::process::Signal;

use crate::harness::{Edit, Engine, Sandbox, exists, state_of, wait_until};

/// Six trials, two at a time, that each wait for `gate`.
fn gated(extra_run: &str, body: &str) -> Sandbox {
    let sandbox = Sandbox::with_six_trials("gated", &format!("[run]\nworkers = 2\n{extra_run}"));
    sandbox.script("trial.sh", body);
    sandbox
}

const WAIT_FOR_GATE: &str = r#"
echo "$PITON_CASE.$PITON_ATTEMPT" >> "$PITON_STUDY_DIR/started"
while [ ! -e "$PITON_STUDY_DIR/gate" ]; do sleep 0.02; done
echo "{\"n\": $1}" > metrics.json
echo "$PITON_CASE.$PITON_ATTEMPT" >> "$PITON_STUDY_DIR/finished"
"#;

fn started(sandbox: &Sandbox, count: usize) {
    wait_until("trials have started", || sandbox.lines("started").len() >= count);
}

fn says(sandbox: &Sandbox, words: &str) {
    wait_until(words, || sandbox.lines("engine.err").iter().any(|line| line.contains(words)));
}

fn begin(sandbox: &Sandbox, args: &str) -> Engine {
    let engine = sandbox.start(&format!("run study.toml {args}"));
    started(sandbox, 2);
    // On a busy machine a trial may be well under way before its start is recorded.
    wait_until("both starts are recorded", || sandbox.dump()["accounting"]["running"] == 2);
    engine
}

/// After a drain: what started has finished and is recorded; the same command finishes the rest, none twice.
fn drained_then_completes(sandbox: &Sandbox, engine: Engine) {
    sandbox.write("gate", "");
    assert_eq!(engine.wait().code(), Some(75));
    let finished = sandbox.lines("finished").len();
    assert_eq!(sandbox.lines("started").len(), finished, "what started was let finish");
    assert!(finished < 6, "nothing more was started");
    let dump = sandbox.dump();
    assert_eq!(dump["study"]["status"], "interrupted");
    assert_eq!(dump["accounting"]["succeeded"], finished);
    assert_eq!(dump["accounting"]["interrupted"], 0);
    says(sandbox, "go on with `piton run study.toml`");
    sandbox.ok("run study.toml", 0);
    let mut all = sandbox.lines("started");
    all.sort();
    assert_eq!(all, (0..6).map(|n| format!("gated_0_{n}.1")).collect::<Vec<_>>(), "each ran once");
}

#[test]
fn first_sigterm_drains() {
    let sandbox = gated("", WAIT_FOR_GATE);
    let engine = begin(&sandbox, "");
    engine.signal(Signal::TERM);
    says(&sandbox, "2 trials still run and may finish");
    drained_then_completes(&sandbox, engine);
}

#[test]
fn first_sigint_drains() {
    let sandbox = gated("", WAIT_FOR_GATE);
    let engine = begin(&sandbox, "");
    engine.signal(Signal::INT);
    says(&sandbox, "may finish");
    drained_then_completes(&sandbox, engine);
}

#[test]
fn first_sighup_drains() {
    let sandbox = gated("", WAIT_FOR_GATE);
    let engine = begin(&sandbox, "");
    engine.signal(Signal::HUP);
    says(&sandbox, "may finish");
    drained_then_completes(&sandbox, engine);
}

/// A closed terminal (SIGHUP by shell and kernel), a wrapper that forwards what everybody got, a supervisor that sends two
/// kinds: within a moment that is one request.
#[test]
fn what_comes_within_a_moment_is_one_request() {
    for pair in [[Signal::HUP, Signal::HUP], [Signal::INT, Signal::INT], [Signal::TERM, Signal::HUP]] {
        let sandbox = gated("", WAIT_FOR_GATE);
        let engine = begin(&sandbox, "");
        pair.into_iter().for_each(|signal| engine.signal(signal));
        says(&sandbox, "may finish");
        drained_then_completes(&sandbox, engine);
    }
}

/// A program's parent may ignore or block what it likes; trials get none of that either.
#[test]
fn what_the_parent_ignored_or_blocked_does_not_matter() {
    let sandbox = gated(
        "on_event = \"echo told >> told\"",
        &format!("grep -E '^Sig(Blk|Ign)' /proc/self/status >> \"$PITON_STUDY_DIR/trial\"\n{WAIT_FOR_GATE}"),
    );
    let versions = "[study]\nversions = { sh = \"echo 1\" }";
    let study = std::fs::read_to_string(sandbox.path("study.toml")).unwrap().edit_first("[study]", versions);
    sandbox.write("study.toml", &study);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "trap '' CHLD TERM USR1 PIPE; exec env --block-signal \"$0\" run study.toml 2> engine.err"]);
    shell.arg(env!("CARGO_BIN_EXE_piton")).current_dir(sandbox.path(".")).process_group(0);
    let engine = Engine { child: shell.stdout(std::process::Stdio::null()).spawn().unwrap() };
    started(&sandbox, 2);
    engine.signal(Signal::TERM);
    says(&sandbox, "may finish");
    drained_then_completes(&sandbox, engine);
    assert_eq!(sandbox.lines("told").len(), 3, "an interruption, a stage, the end");
    let clean = |line: &String| line.ends_with(":\t0000000000000000");
    assert!(sandbox.lines("trial").iter().all(clean), "{:?}", sandbox.lines("trial"));
}

/// A terminal sends ^C to the whole foreground group: trials are in groups of their own and do not feel it.
#[test]
fn an_interrupt_of_the_terminal_does_not_reach_trials() {
    let sandbox = gated("", WAIT_FOR_GATE);
    let engine = begin(&sandbox, "");
    engine.signal_group(Signal::INT);
    says(&sandbox, "may finish");
    drained_then_completes(&sandbox, engine);
}

#[test]
fn nohup_stays_in_force() {
    let sandbox = gated("", WAIT_FOR_GATE);
    let mut nohup = std::process::Command::new("nohup");
    nohup.arg(env!("CARGO_BIN_EXE_piton")).args(["run", "study.toml"]).current_dir(sandbox.path("."));
    nohup.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
    nohup.stderr(std::process::Stdio::null()).process_group(0);
    let engine = Engine { child: nohup.spawn().unwrap() };
    started(&sandbox, 2);
    engine.signal(Signal::HUP);
    sandbox.write("gate", "");
    assert_eq!(engine.wait().code(), Some(0), "a hangup that was ignored at the start is ignored");
}

#[test]
fn drain_for_bounds_the_wait() {
    let sandbox = gated("grace = \"60s\"", WAIT_FOR_GATE);
    let engine = begin(&sandbox, "--drain-for 50ms");
    engine.signal(Signal::TERM);
    // The gate stays shut: only the limit ends this.
    assert_eq!(engine.wait().code(), Some(75));
    let dump = sandbox.dump();
    assert_eq!(dump["accounting"]["interrupted"], 2);
    assert_eq!(dump["accounting"]["failed"], 0);
    assert_eq!(sandbox.trial_processes(), Vec::<u32>::new());
    sandbox.write("gate", "");
    sandbox.ok("run study.toml", 0);
    let dump = sandbox.dump();
    assert_eq!(dump["accounting"]["attempts_started"], 8, "the two interrupted ones ran again");
}

const TRAPS_TERM: &str = r#"
trap 'echo "$PITON_CASE" >> "$PITON_STUDY_DIR/termed"; exit 0' TERM
echo "$PITON_CASE" >> "$PITON_STUDY_DIR/started"
while [ ! -e "$PITON_STUDY_DIR/gate" ]; do sleep 0.02; done
echo "{\"n\": $1}" > metrics.json
"#;

#[test]
fn second_signal_terminates_and_dies_by_it() {
    for (signal, number) in [(Signal::TERM, 15), (Signal::INT, 2)] {
        let sandbox = gated("grace = \"60s\"", TRAPS_TERM);
        let engine = begin(&sandbox, "");
        engine.signal(Signal::TERM);
        says(&sandbox, "may finish");
        engine.signal_again(signal);
        let status = engine.wait();
        assert_eq!(status.signal(), Some(number), "it dies by the second signal");
        assert_eq!(sandbox.lines("termed").len(), 2, "both trials got TERM");
        let dump = sandbox.dump();
        assert_eq!(dump["accounting"]["interrupted"], 2, "recorded before it died");
        assert_eq!(dump["study"]["status"], "interrupted");
        sandbox.write("gate", "");
        sandbox.ok("run study.toml", 0);
    }
}

const IGNORES_TERM: &str = r#"
trap '' TERM
echo "$PITON_CASE" >> "$PITON_STUDY_DIR/started"
while [ ! -e "$PITON_STUDY_DIR/gate" ]; do sleep 0.02; done
echo "{\"n\": $1}" > metrics.json
"#;

#[test]
fn after_the_grace_comes_kill() {
    let sandbox = gated("grace = \"100ms\"", IGNORES_TERM);
    let engine = begin(&sandbox, "");
    engine.signal(Signal::TERM);
    says(&sandbox, "may finish");
    engine.signal_again(Signal::TERM);
    assert_eq!(engine.wait().signal(), Some(15));
    assert_eq!(sandbox.trial_processes(), Vec::<u32>::new());
    let dump = sandbox.dump();
    let attempt = &dump["trials"][0]["attempts"][0];
    assert_eq!((&attempt["outcome"], &attempt["signal"]), (&"interrupted".into(), &"SIGKILL".into()));
}

#[test]
fn third_signal_kills_at_once() {
    let sandbox = gated("grace = \"1h\"", IGNORES_TERM);
    let engine = begin(&sandbox, "");
    engine.signal(Signal::TERM);
    says(&sandbox, "may finish");
    engine.signal_again(Signal::TERM);
    says(&sandbox, "terminating 2 trials");
    engine.signal_again(Signal::TERM);
    let status = engine.wait();
    assert_eq!(status.code().or(status.signal().map(|signal| 128 + signal)), Some(143));
    wait_until("the trials are gone", || sandbox.trial_processes().is_empty());
    sandbox.write("gate", "");
    sandbox.ok("run study.toml", 0);
    assert_eq!(sandbox.dump()["accounting"]["interrupted"], 2);
}

#[test]
fn stop_and_continue_reach_the_trials_and_their_clocks() {
    let sandbox = gated("", &format!("echo $$ >> \"$PITON_STUDY_DIR/pids\"\n{WAIT_FOR_GATE}"));
    let engine = begin(&sandbox, "");
    engine.signal(Signal::TSTP);
    let pids: Vec<u32> = sandbox.lines("pids").iter().map(|line| line.parse().unwrap()).collect();
    wait_until("the engine stops", || state_of(engine.pid()) == Some('T'));
    wait_until("the trials stop", || pids.iter().all(|pid| state_of(*pid) == Some('T')));
    engine.signal(Signal::CONT);
    wait_until("the trials go on", || pids.iter().all(|pid| state_of(*pid) != Some('T')));
    sandbox.write("gate", "");
    assert_eq!(engine.wait().code(), Some(0));
}

#[test]
fn stop_drains_and_waits() {
    let sandbox = gated("", WAIT_FOR_GATE);
    let engine = begin(&sandbox, "");
    let mut stop = sandbox.piton(["stop", "study.redb"]).spawn().unwrap();
    says(&sandbox, "may finish");
    assert!(stop.try_wait().unwrap().is_none(), "it waits for the engine");
    drained_then_completes(&sandbox, engine);
    assert!(stop.wait().unwrap().success());
}

#[test]
fn asking_to_stop_twice_is_asking_once() {
    let sandbox = gated("", WAIT_FOR_GATE);
    let engine = begin(&sandbox, "");
    let first = sandbox.piton(["stop", "study.redb"]).spawn().unwrap();
    says(&sandbox, "may finish");
    let second = sandbox.piton(["stop", "study.redb"]).spawn().unwrap();
    drained_then_completes(&sandbox, engine);
    for mut stop in [first, second] {
        assert!(stop.wait().unwrap().success());
    }
}

/// As `systemctl stop`, `docker stop` and job schedulers do: every process gets the signal, trials first.
#[test]
fn a_stop_of_every_process_interrupts_trials_and_fails_none() {
    let sandbox = gated("", &format!("echo $$ >> \"$PITON_STUDY_DIR/pids\"\n{WAIT_FOR_GATE}"));
    let engine = begin(&sandbox, "");
    for pid in sandbox.lines("pids") {
        let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
        rustix::process::kill_process_group(pid, Signal::TERM).unwrap();
    }
    engine.signal(Signal::TERM);
    assert_eq!(engine.wait().code(), Some(75));
    let accounting = sandbox.dump()["accounting"].clone();
    assert_eq!((&accounting["interrupted"], &accounting["failed"]), (&2.into(), &0.into()));
}

#[test]
fn stop_now_terminates_and_stays_resumable() {
    let sandbox = gated("grace = \"60s\"", TRAPS_TERM);
    let engine = begin(&sandbox, "");
    // The engine is this test's child: until it is waited for, its zombie is there, but no longer running.
    let output = sandbox.run("stop study.redb --now");
    assert!(output.status.success());
    assert_eq!(engine.wait().code(), Some(75));
    assert_eq!(sandbox.lines("termed").len(), 2);
    sandbox.write("gate", "");
    sandbox.ok("resume study.redb", 0);
    let again = sandbox.run("stop study.redb");
    assert!(again.status.success() && String::from_utf8_lossy(&again.stderr).contains("no engine runs"));
}

#[test]
fn a_second_engine_is_refused_and_harms_nothing() {
    let sandbox = gated("", WAIT_FOR_GATE);
    let engine = begin(&sandbox, "");
    let second = sandbox.run("run study.toml");
    assert_eq!(second.status.code(), Some(5));
    let words = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(words.contains("another engine has the store `study.redb` open"), "{words}");
    assert_eq!(sandbox.run("resume study.redb").status.code(), Some(5));
    assert_eq!(sandbox.run("retry study.redb --failed").status.code(), Some(5));
    sandbox.write("gate", "");
    assert_eq!(engine.wait().code(), Some(0));
    assert!(exists(&sandbox.path("study.redb")));
}
