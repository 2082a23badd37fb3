//! Files and processes that permission lacks for: what a trial forbids its own user is known nevertheless, and no want of
//! permission is a verdict on a trial.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown, symlink};

use serde_json::Value;

use crate::faults::as_nobody;
use crate::harness::{Sandbox, StudyFile, both, exists, wait_until};

/// Of one trial that runs this, with more of its stage; everybody may write there.
fn study(command: &str, more: &str) -> Sandbox {
    let sandbox = Sandbox::with_study(StudyFile::new("s").stage("a", command, 1, 1).with(more).sweep("x = [1]"));
    fs::set_permissions(sandbox.path(""), fs::Permissions::from_mode(0o777)).unwrap();
    sandbox
}

/// The study's attempts after a run by somebody who is not root.
fn attempts(sandbox: &Sandbox) -> Vec<Value> {
    let output = as_nobody(sandbox, "run study.toml");
    assert!(matches!(output.status.code(), Some(0 | 3)), "{}", both(&output));
    sandbox.dump()["trials"][0]["attempts"].as_array().unwrap().clone()
}

const RULE: &str = "retries = 2\n[[stage.failure]]\nkind = \"boom\"\nlog = \"boom\"\nretryable = false";

#[test]
fn a_log_that_a_trial_closed_is_read() {
    for close in ["chmod 000 stderr.log", "chmod 000 .", "chmod 300 .", "chmod 600 .", "chmod 000 stderr.log .. ."]
    {
        let sandbox = study(&format!("echo boom >&2; {close}; exit 3"), RULE);
        let attempts = attempts(&sandbox);
        assert_eq!(attempts.len(), 1, "{close}: {attempts:?}");
        assert_eq!(sandbox.dump()["trials"][0]["failure"]["kind"], "boom", "{close}");
    }
}

#[test]
fn results_that_a_trial_closed_count() {
    let rest = "outputs = [\"o\", \"d\"]\n[[stage.objective]]\nmetric = \"y\"\ngoal = \"minimize\"\n\
                [stage.metrics]\nz = { file = \"rpt\", regex = \"z=(.*)\" }";
    let leaves =
        "echo \"{{\\\"y\\\": 1}}\" > metrics.json; echo z=2 > rpt; echo o > o; mkdir -p d/e; echo f > d/e/f";
    for close in [
        "true",
        "chmod 000 metrics.json rpt",
        "chmod 000 o d/e/f",
        "chmod 000 d/e d",
        "chmod 400 d",
        "chmod 000 .",
        "chmod 000 o metrics.json .. .",
    ] {
        let sandbox = study(&format!("{leaves}; {close}"), rest);
        let attempts = attempts(&sandbox);
        assert_eq!(attempts.len(), 1, "{close}: {attempts:?}");
        let metrics = &sandbox.dump()["trials"][0];
        assert_eq!(metrics["state"], "succeeded", "{close}: {metrics}");
        sandbox.ok("verify study.redb", 0);
    }
}

#[test]
fn what_stays_closed_interrupts() {
    // A file of somebody else's, as a trial that becomes another user leaves it.
    let sandbox = study("mv \"$PITON_STUDY_DIR/theirs\" stderr.log; exit 3", RULE);
    sandbox.write("theirs", "boom");
    fs::set_permissions(sandbox.path("theirs"), fs::Permissions::from_mode(0o600)).unwrap();
    let output = as_nobody(&sandbox, "run study.toml");
    assert!(!matches!(output.status.code(), Some(0 | 3)), "{}", both(&output));
    assert!(
        both(&output).contains("cannot read `stderr.log` of an attempt: permission denied"),
        "{}",
        both(&output)
    );
    assert_eq!(sandbox.dump()["accounting"]["failed"], 0);
}

#[test]
fn a_umask_that_takes_from_the_owner_takes_nothing() {
    for umask in ["0777", "0222", "0477"] {
        let sandbox = study("echo boom >&2; echo o > o", "outputs = [\"o\"]");
        let line = format!("umask {umask}; exec \"$0\" run study.toml");
        // Makes its copy of the program.
        as_nobody(&sandbox, "--version");
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", &line]);
        let output = command.arg(sandbox.path("piton-of-all")).current_dir(sandbox.path("")).output().unwrap();
        assert!(output.status.success(), "{umask}: {}", both(&output));
        sandbox.ok("verify study.redb", 0);
    }
}

#[test]
fn another_users_engine_is_named_at_once() {
    let sandbox = study(": > \"$PITON_STUDY_DIR/begun\"; sleep 1000", "");
    let engine = sandbox.start("run study.toml");
    wait_until("the trial runs", || exists(&sandbox.path("begun")));
    fs::set_permissions(sandbox.path("study.redb"), fs::Permissions::from_mode(0o666)).unwrap();
    let output = as_nobody(&sandbox, "stop study.redb");
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    let why = "the engine is another user's (uid 0): they, or root, can stop it";
    assert!(both(&output).contains(why) && !both(&output).contains("namespace"), "{}", both(&output));
    assert!(!exists(&sandbox.path("study.redb.stop")));
    // Nor does junk in its place stay.
    sandbox.write("study.redb.stop", "junk");
    wait_until("the engine removes it", || !exists(&sandbox.path("study.redb.stop")));
    sandbox.ok("stop study.redb --now", 0);
    engine.wait();
}

#[test]
fn a_store_that_a_stranger_locked_is_said_to_be() {
    let sandbox = study("true", "");
    sandbox.ok("run study.toml", 0);
    let stranger = File::open(sandbox.path("study.redb")).unwrap();
    rustix::fs::flock(&stranger, rustix::fs::FlockOperation::LockExclusive).unwrap();
    for line in
        ["status study.redb", "stop study.redb", "run study.toml", "resume study.redb", "verify study.redb"]
    {
        let output = sandbox.run(line);
        assert_eq!(output.status.code(), Some(5), "{line}: {}", both(&output));
        let said = both(&output);
        assert!(said.contains("no engine of piton's has locked") && said.contains("fuser -v"), "{line}: {said}");
        assert!(!said.contains("piton status") && !said.contains("piton stop"), "{line}: {said}");
    }
    drop(stranger);
    sandbox.ok("status study.redb", 0);
}

#[test]
fn a_store_that_is_there_goes_on_where_none_could_be_made() {
    let sandbox = study(": > begun; [ -e \"$PITON_STUDY_DIR/go\" ] || sleep 1000", "");
    let engine = sandbox.start("run study.toml");
    wait_until("the trial runs", || exists(&sandbox.path("artifacts/s/0_a/s_0_0/attempt_1/begun")));
    sandbox.ok("stop study.redb --now", 0);
    engine.wait();
    sandbox.write("go", "");
    for path in ["study.redb", "artifacts", "artifacts/s", "artifacts/s/0_a", "artifacts/s/0_a/s_0_0"] {
        chown(sandbox.path(path), Some(65_534), Some(65_534)).unwrap();
    }
    as_nobody(&sandbox, "--version");
    fs::set_permissions(sandbox.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    for line in ["check study.toml", "run study.toml"] {
        let output = as_nobody(&sandbox, line);
        assert_eq!(output.status.code(), Some(0), "{line}: {}", both(&output));
    }
    assert_eq!(sandbox.dump()["accounting"]["succeeded"], 1);
    // Where there is none, none can be made.
    let output = as_nobody(&sandbox, "check study.toml --store other.redb");
    assert!(output.status.code() == Some(1) && both(&output).contains("permission denied"), "{}", both(&output));
}

#[test]
fn check_refuses_what_run_refuses() {
    let sandbox = study("true", "");
    let both_refuse = |line: &str, why: &str| {
        for command in ["check", "run"] {
            let output = sandbox.run(&format!("{command} {line}"));
            assert_eq!(output.status.code(), Some(2), "{command} {line}: {}", both(&output));
            assert!(both(&output).contains(why), "{command} {line}: {}", both(&output));
        }
    };
    // Artifacts of another study; its own are no other's.
    sandbox.ok("run study.toml --artifacts taken", 0);
    sandbox.ok("check study.toml --artifacts taken", 0);
    both_refuse("study.toml --store other.redb --artifacts taken", "study.redb");
    assert!(!exists(&sandbox.path("other.redb")));
    // A circle.
    symlink("one", sandbox.path("two")).unwrap();
    symlink("two", sandbox.path("one")).unwrap();
    both_refuse("study.toml --store one", "leads in a circle");
    both_refuse("study.toml --store new.redb --artifacts one", "leads in a circle");
    // What lies where a stage's directory will be.
    fs::create_dir_all(sandbox.path("odd/s")).unwrap();
    symlink(sandbox.path("taken"), sandbox.path("odd/s/0_a")).unwrap();
    both_refuse("study.toml --store new.redb --artifacts odd", "where a stage's directory will be");
    fs::remove_file(sandbox.path("odd/s/0_a")).unwrap();
    sandbox.write("odd/s/0_a", "");
    both_refuse("study.toml --store new.redb --artifacts odd", "where a stage's directory will be");
    assert!(!exists(&sandbox.path("new.redb")));
}
