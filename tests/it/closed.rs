//! Files and processes that permission lacks for: what a trial forbids its own user is known nevertheless, and no want of
//! permission is a verdict on a trial.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::faults::as_nobody;
use crate::harness::{Sandbox, both};

/// Of one trial that runs this, with more of its stage; everybody may write there.
fn study(command: &str, more: &str) -> Sandbox {
    let sandbox = Sandbox::with_study(&format!(
        "[study]\nname = \"s\"\n[[stage]]\nname = \"a\"\ntrial_budget = 1\nsurvivor_count = 1\n\
         command = '''{command}'''\n{more}\n[stage.sweep]\nx = [1]\n"
    ));
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
