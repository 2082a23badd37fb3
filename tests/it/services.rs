//! The examples for CI and services do what they say: their own lines are run, with real signals.

use std::collections::HashMap;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::Value as Json;

use crate::harness::{Edit, Engine, Sandbox, StudyFile, wait_until};

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

/// Two trials that wait for `gate`.
fn study() -> Sandbox {
    let sandbox = Sandbox::with_study(
        StudyFile::new("served")
            .run(r#"grace = "1s""#)
            .stage("only", ["./trial.sh"], 2, 1)
            .sweep(r#"n = { min = 1, max = 2, type = "int" }"#),
    );
    sandbox.script(
        "trial.sh",
        "echo $PITON_CASE >> $PITON_STUDY_DIR/started\nwhile [ ! -e $PITON_STUDY_DIR/gate ]; do sleep 0.02; done",
    );
    sandbox
}

/// The same study with a second stage that needs approval.
fn waiting(sandbox: &Sandbox) -> String {
    let text = std::fs::read_to_string(sandbox.path("study.toml")).unwrap();
    text + StudyFile::fragment().stage("next", "true", 1, 1).with("approve = true").as_ref()
}

/// A YAML file as JSON, read by Python.
fn yaml(path: &Path) -> Json {
    let python = concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/python/bin/python");
    let script = "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1])), default=str))";
    let output = Command::new(python).args(["-c", script]).arg(path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A directory first in `PATH`, with the program that is tested and stand-ins for others.
fn path_with(sandbox: &Sandbox, stand_ins: &[(&str, &str)]) -> String {
    std::fs::create_dir_all(sandbox.path("bin")).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_piton"), sandbox.path("bin/piton")).unwrap();
    for (name, body) in stand_ins {
        sandbox.script(&format!("bin/{name}"), body);
    }
    format!("{}:{}", sandbox.path("bin").display(), std::env::var("PATH").unwrap())
}

#[test]
fn a_timed_out_ci_job_goes_on_in_the_next_one() {
    let workflow = yaml(&example("ci/study.yml"));
    let steps = workflow["jobs"]["study"]["steps"].as_array().unwrap();
    let step = |name: &str| steps.iter().find(|step| step["name"] == name).unwrap();
    let line = step("Run")["run"].as_str().unwrap();
    let short = line.edit(" 45m ", " 1s ").edit("--drain-for 5m", "--drain-for 100ms");
    assert_eq!(short.len(), line.len() - 1 + 3, "both limits are in it: {line}");
    let (restored, saved) = (step("Fetch what earlier jobs did"), step("Keep what was done"));
    assert_eq!(restored["with"]["key"], saved["with"]["key"]);
    assert_eq!(restored["with"]["path"], saved["with"]["path"]);
    assert_eq!(saved["if"], "always()");

    let sandbox = study();
    let path = path_with(&sandbox, &[]);
    let job = || {
        let mut bash = Command::new("bash");
        // As the runner starts it.
        bash.args(["--noprofile", "--norc", "-eo", "pipefail", "-c", &short]).current_dir(sandbox.path("."));
        bash.env("PATH", &path).env("GITHUB_OUTPUT", sandbox.path("output")).stdin(Stdio::null());
        bash.stderr(Stdio::null()).stdout(Stdio::null()).status().unwrap().code()
    };
    assert_eq!(job(), Some(0));
    assert_eq!(sandbox.lines("output"), ["code=75"]);
    assert_eq!(sandbox.dump()["study"]["status"], "interrupted");
    sandbox.write("gate", "");
    assert_eq!(job(), Some(0));
    assert_eq!(sandbox.lines("output"), ["code=75", "code=0"]);
    assert!(sandbox.path("results.xml").exists());
    // A person is waited for: the job is fine, and no other one is started.
    sandbox.write("study.toml", waiting(&sandbox));
    std::fs::remove_file(sandbox.path("study.redb")).unwrap();
    assert_eq!(job(), Some(0));
    assert_eq!(sandbox.lines("output").last().unwrap(), "code=8");
    assert_eq!(step("Go on in another job")["if"], "steps.run.outputs.code == '75'");
    // What went wrong fails the job.
    sandbox.write("study.toml", "nonsense");
    assert_eq!(job(), Some(2));
}

/// The directives of a unit, the last of each name.
fn directives(text: &str) -> HashMap<&str, &str> {
    text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('=')).collect()
}

#[test]
fn the_systemd_unit_goes_on_after_stops_and_kills() {
    let text = std::fs::read_to_string(example("service/piton@.service")).unwrap();
    let sandbox = study();
    // systemd's own opinion, of the unit with a program that is there.
    let there = text.edit("/usr/local/bin/piton", env!("CARGO_BIN_EXE_piton"));
    sandbox.write("piton@.service", &there);
    std::os::unix::fs::symlink(sandbox.path("piton@.service"), sandbox.path("piton@x.service")).unwrap();
    let verify = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(sandbox.path("piton@x.service"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&verify.stderr).into_owned();
    assert!(verify.status.success() && !said.contains("piton@"), "{said}");

    let unit = directives(&text);
    let seconds = |text: &str| text.trim_end_matches('s').parse::<u64>().unwrap();
    let drain = unit["ExecStart"].rsplit(' ').next().unwrap();
    assert!(seconds(unit["TimeoutStopSec"]) > seconds(drain) + 10, "the default grace fits as well");
    assert_eq!((unit["KillMode"], unit["Restart"]), ("mixed", "on-failure"));
    let codes = |name: &str| -> Vec<i32> { unit[name].split(' ').map(|code| code.parse().unwrap()).collect() };
    // What systemd makes of an end that `systemctl stop` did not ask for.
    let starts_again = |status: std::process::ExitStatus| match status.code() {
        Some(code) if codes("RestartForceExitStatus").contains(&code) => true,
        Some(code) if codes("RestartPreventExitStatus").contains(&code) => false,
        Some(code) => code != 0,
        None => true,
    };
    let begin = || {
        let mut words = unit["ExecStart"].split(' ');
        assert_eq!(words.next(), Some("/usr/local/bin/piton"));
        let mut command = sandbox.piton(words);
        Engine { child: command.stderr(Stdio::null()).stdout(Stdio::null()).process_group(0).spawn().unwrap() }
    };
    let started = |count: usize| wait_until("trials run", || sandbox.lines("started").len() >= count);

    let engine = begin();
    started(1);
    engine.signal(Signal::KILL);
    assert!(starts_again(engine.wait()));
    let engine = begin();
    started(2);
    wait_until("this engine's trials are recorded", || {
        let dump = sandbox.dump();
        dump["study"]["engine"]["pid"] == engine.pid() && dump["accounting"]["running"].as_u64() > Some(0)
    });
    // KillMode=mixed: the main process alone.
    engine.signal(Signal::TERM);
    wait_until("it drains", || sandbox.ok("dump study.redb --events --format jsonl", 0).contains("drain_started"));
    sandbox.write("gate", "");
    let status = engine.wait();
    // With two workers both ran and finished; with one, the second is left.
    if status.code() == Some(75) {
        assert!(starts_again(status));
        assert!(!starts_again(begin().wait()));
    } else {
        assert!(!starts_again(status), "{status}");
    }
    assert_eq!(sandbox.dump()["accounting"]["succeeded"], 2);
    sandbox.write("waits.toml", waiting(&sandbox).edit("served", "waits"));
    let waits = sandbox.run("run waits.toml").status;
    assert_eq!(waits.code(), Some(8));
    assert!(!starts_again(waits) && codes("SuccessExitStatus").contains(&8));
    sandbox.write("other.toml", "nonsense");
    assert!(!starts_again(sandbox.run("run other.toml").status));
}

#[test]
fn the_slurm_script_drains_once_and_queues_itself_again() {
    let sandbox = study();
    let path = path_with(&sandbox, &[("scontrol", "echo \"$@\" >> queued")]);
    let job = || {
        let mut bash = Command::new("bash");
        bash.arg(example("service/study.sbatch")).current_dir(sandbox.path(".")).env("PATH", &path);
        bash.env("SLURM_CPUS_ON_NODE", "1").env("SLURM_JOB_ID", "17").stdin(Stdio::null());
        bash.stderr(std::fs::File::create(sandbox.path("err")).unwrap()).stdout(Stdio::null());
        Engine { child: bash.process_group(0).spawn().unwrap() }
    };
    let batch = job();
    wait_until("a trial runs", || !sandbox.lines("started").is_empty());
    // --signal=B: the batch script alone.
    batch.signal(Signal::TERM);
    wait_until("it drains", || sandbox.lines("err").iter().any(|line| line.contains("may finish within 4 min")));
    sandbox.write("gate", "");
    assert_eq!(batch.wait().code(), Some(75));
    assert_eq!(sandbox.lines("queued"), ["requeue 17"]);
    assert_eq!(sandbox.dump()["accounting"]["succeeded"], 1);
    assert_eq!(job().wait().code(), Some(0));
    assert_eq!(sandbox.lines("queued").len(), 1);
    assert_eq!(sandbox.dump()["accounting"]["interrupted"], 0);
    sandbox.write("study.toml", waiting(&sandbox));
    std::fs::remove_file(sandbox.path("study.redb")).unwrap();
    assert_eq!(job().wait().code(), Some(8));
    assert_eq!(sandbox.lines("queued").len(), 1, "nothing to do before a person approves");
}

#[test]
fn the_kubernetes_job_leaves_time_to_drain() {
    let job = yaml(&example("service/job.yaml"));
    let pod = &job["spec"]["template"]["spec"];
    assert_eq!(pod["restartPolicy"], "Never", "a failure policy for pods wants it so");
    let command: Vec<&str> =
        pod["containers"][0]["command"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    assert_eq!(command[..4], ["piton", "run", "study.toml", "--drain-for"]);
    let drain: u64 = command[4].trim_end_matches('s').parse().unwrap();
    assert!(pod["terminationGracePeriodSeconds"].as_u64().unwrap() > drain + 10);
    let rules = job["spec"]["podFailurePolicy"]["rules"].as_array().unwrap();
    let fails = rules[1]["onExitCodes"]["values"].as_array().unwrap();
    assert!(fails.iter().any(|code| code == 8), "a person is waited for");
    assert!(!fails.iter().any(|code| [0, 1, 5, 75, 137, 143].contains(&code.as_i64().unwrap())));
}
