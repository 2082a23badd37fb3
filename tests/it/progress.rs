//! What trials report while they run: by `piton progress`, by lines of their own, by what they print, and from closures.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Stdio;

use piton::{Heard, Stage, Study};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::harness::{Edit, Sandbox, StudyFile, both, wait_until};

/// One trial of this script, whose `loss` is asked for; `more` is the stage's.
fn one(script: &str, more: &str) -> Sandbox {
    let sandbox = Sandbox::with_study(
        StudyFile::new("s")
            .stage("train", ["./trial.sh"], 1, 1)
            .with(r#"objective = [{ metric = "loss", goal = "minimize" }]"#)
            .with(more),
    );
    sandbox.script("trial.sh", &script.replace("@piton", env!("CARGO_BIN_EXE_piton")));
    sandbox
}

fn case(sandbox: &Sandbox) -> std::path::PathBuf {
    sandbox.path("artifacts/s/0_train/s_0_0")
}

fn reports(sandbox: &Sandbox) -> serde_json::Value {
    serde_json::from_str(&sandbox.ok("progress study.redb s_0_0 --json", 0)).unwrap()
}

fn metrics(sandbox: &Sandbox) -> serde_json::Value {
    let dump = sandbox.dump();
    let lines = sandbox.ok("dump study.redb --format jsonl", 0);
    let trial = lines
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .find(|line| line["case"] == "s_0_0");
    trial.unwrap_or(dump)["metrics"].clone()
}

#[test]
fn the_last_report_of_a_metric_is_its_value() {
    let sandbox = one(
        "@piton progress 1 loss=0.5 wns=-3 && @piton progress 3 loss=nan area=7 && @piton progress 2 loss=9 &&
         @piton progress 4 loss=0.25 && echo '{\"area\": 8}' > metrics.json",
        "",
    );
    sandbox.ok("run study.toml", 0);
    assert_eq!(metrics(&sandbox), serde_json::json!({"area": 8, "loss": 0.25, "wns": -3}));
    let expected = serde_json::json!({"case": "s_0_0", "whole": true, "reports": [
        {"step": 1, "metrics": {"loss": 0.5, "wns": -3.0}},
        {"step": 3, "metrics": {"area": 7.0, "loss": null}},
        {"step": 4, "metrics": {"loss": 0.25}},
    ]});
    assert_eq!(reports(&sandbox), expected);
    assert_eq!(
        sandbox.ok("progress study.redb s_0_0", 0),
        "step 1  loss 0.5  wns -3\nstep 3  area 7  loss not finite\nstep 4  loss 0.25\n"
    );
}

#[test]
fn final_false_and_a_last_report_that_is_not_finite_leave_a_metric_missing() {
    let sandbox = one("@piton progress 1 loss=0.5", "progress = { final = false }");
    sandbox.ok("run study.toml", 3);
    assert!(sandbox.ok("why study.redb s_0_0", 0).contains("the trial did not report `loss`"));
    let sandbox = one("@piton progress 1 loss=0.5 && @piton progress 2 loss=inf", "");
    sandbox.ok("run study.toml", 3);
    let why = sandbox.ok("why study.redb s_0_0", 0);
    assert!(why.contains("`loss` is NaN or infinite: it must be a finite number"), "{why}");
}

#[test]
fn what_a_program_prints_is_read() {
    let print = "printf 'step 1 loss 0.5\\rstep 2 \\033[1mloss 0.4\\033[0m\\nother\\nstep 3 loss 0.1'";
    let sandbox =
        one(print, r"progress = { file = 'stdout.log', regex = 'step (?P<step>\d+) loss (?P<loss>\S+)' }");
    sandbox.ok("run study.toml", 0);
    assert_eq!(metrics(&sandbox), serde_json::json!({"loss": 0.1}));
    let shown = "step 1  loss 0.5\nstep 2  loss 0.4\nstep 3  loss 0.1\n";
    assert_eq!(sandbox.ok("progress study.redb s_0_0", 0), shown);
    let counted = one(print, r"progress = { file = 'stdout.log', metrics.loss.regex = 'loss (\S+)' }");
    counted.ok("run study.toml", 0);
    assert_eq!(counted.ok("progress study.redb s_0_0", 0), shown);
}

#[test]
fn reports_are_kept_across_attempts_and_count_once() {
    let sandbox = one(
        "@piton progress 1 loss=$PITON_ATTEMPT && @piton progress $((PITON_ATTEMPT + 1)) loss=0.$PITON_ATTEMPT
         [ $PITON_ATTEMPT = 3 ]",
        "retries = { count = 2, delay = \"0s\" }",
    );
    sandbox.ok("run study.toml", 0);
    let shown = "step 1  loss 1\nstep 2  loss 0.1\nstep 3  loss 0.2\nstep 4  loss 0.3\n";
    assert_eq!(sandbox.ok("progress study.redb s_0_0", 0), shown);
    // A trial that begins anew has none of its predecessor's.
    let study = fs::read_to_string(sandbox.path("study.toml")).unwrap();
    sandbox.write("study.toml", study.edit("[\"./trial.sh\"]", "[\"./trial.sh\", \"again\"]"));
    sandbox.script("trial.sh", &format!("{} progress 1 loss=7", env!("CARGO_BIN_EXE_piton")));
    sandbox.ok("amend study.redb study.toml --discard-from train --yes", 0);
    assert!(!case(&sandbox).join("progress.jsonl").exists());
    sandbox.ok("run study.toml", 0);
    assert_eq!(sandbox.ok("progress study.redb s_0_0", 0), "step 1  loss 7\n");
    assert_eq!(metrics(&sandbox), serde_json::json!({"loss": 7}));
}

#[test]
fn whatever_lies_in_its_place_hurts_nobody() {
    for trick in [
        "mkfifo $F",
        "ln -s /dev/zero $F",
        "ln -s /etc/passwd $F",
        "mkdir $F",
        "head -c 3000000 /dev/urandom > $F",
        "yes '{\"step\": 1, \"loss\": 9}' | head -n 1000000 > $F; echo >> $F",
        "truncate -s 1T $F",
        "yes '[[[[[[[[' | tr -d '\\n' | head -c 30000000 > $F",
    ] {
        let sandbox =
            one(&format!("F=\"$PITON_PROGRESS_FILE\"; {trick}; echo '{{\"loss\": 1}}' > metrics.json"), "");
        let output = sandbox.run("run study.toml");
        assert_eq!(output.status.code(), Some(0), "{trick}\n{}", both(&output));
        assert_eq!(metrics(&sandbox), serde_json::json!({"loss": 1}), "{trick}");
        let count = reports(&sandbox)["reports"].as_array().unwrap().len();
        assert_eq!(count, usize::from(trick.starts_with("yes '{")), "{trick}");
    }
}

#[test]
fn status_shows_what_runs_and_obeys_nothing_that_it_says() {
    let sandbox = one(
        "@piton progress 1 loss=0.5 && printf '{\"step\": 2, \"lo\\\\u001b[31mss\": 4}\\n' >> ../progress.jsonl && mkfifo wait && cat wait
         echo '{\"loss\": 1}' > metrics.json",
        "",
    );
    let engine = sandbox.start("run study.toml");
    let fifo = case(&sandbox).join("attempt_1/wait");
    wait_until("the trial waits", || {
        fifo.exists() && fs::read_to_string(case(&sandbox).join("progress.jsonl")).unwrap().lines().count() == 2
    });
    let running = || -> serde_json::Value {
        let status: serde_json::Value = serde_json::from_str(&sandbox.ok("status study.redb --json", 0)).unwrap();
        status["running"][0].clone()
    };
    wait_until("its start is recorded", || !running().is_null());
    let last = &running()["last_report"];
    assert_eq!((&last["step"], &last["metrics"]["lo\u{1b}[31mss"]), (&2.into(), &4.0.into()));
    let text = sandbox.ok("status study.redb", 0);
    let line = text.lines().find(|line| line.contains("s_0_0 #1")).unwrap();
    assert!(line.contains("step 2") && !text.contains('\u{1b}'), "{text}");
    let listed = sandbox.ok("progress study.redb s_0_0", 0);
    assert!(listed.starts_with("step 1  loss 0.5\nstep 2  ") && !listed.contains('\u{1b}'), "{listed}");
    fs::write(&fifo, "").unwrap();
    assert_eq!(engine.wait().code(), Some(0));
}

#[test]
fn what_is_no_report_is_said() {
    let sandbox = Sandbox::new();
    let file = sandbox.path("p.jsonl");
    let said = |line: &str, set: bool| {
        let mut command = sandbox.piton(line.split_whitespace());
        command.env_remove("PITON_PROGRESS_FILE");
        if set {
            command.env("PITON_PROGRESS_FILE", &file);
        }
        let output = command.output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, why) = said("progress 1 loss=1", false);
    assert!(code == 2 && why.contains("`PITON_PROGRESS_FILE` is not set"), "{code} {why}");
    for (line, words) in [
        ("progress 1.5 loss=1", "the step is a whole number from 0 on"),
        ("progress x loss=1", "the step is a whole number from 0 on"),
        ("progress 1 loss=low", "`low` in `loss=low` is not a number"),
        ("progress 1 loss=1 acc", "`acc` is not METRIC=VALUE"),
        ("progress 1 =1", "the name of a metric"),
        ("progress 1 step=1", "`step` is the step"),
        ("progress 1 loss=1 --json", "`--json` is for"),
        ("progress 1 2 3", "STORE CASE"),
    ] {
        let (code, why) = said(line, true);
        assert!(code == 2 && why.contains(words), "{line}: {code} {why}");
    }
    assert!(!file.exists());
    fs::create_dir(&file).unwrap();
    let (code, why) = said("progress 1 loss=1", true);
    assert!(code == 1 && why.contains("cannot add a report to"), "{code} {why}");
    let one = one("true", "");
    one.ok("run study.toml", 3);
    let output = one.run("progress study.redb s_0_0");
    assert!(output.stdout.is_empty() && both(&output).contains("`s_0_0` has reported nothing"));
    assert_eq!(one.run("progress study.redb s_0_1").status.code(), Some(2));
}

#[test]
fn another_stores_reports_are_nobodys() {
    let sandbox = one("@piton progress ${1:-1} loss=0.5", "");
    sandbox.ok("run study.toml", 0);
    fs::remove_file(sandbox.path("study.redb")).unwrap();
    sandbox.script("trial.sh", &format!("{} progress 1 loss=7", env!("CARGO_BIN_EXE_piton")));
    sandbox.ok("run study.toml", 0);
    assert_eq!(metrics(&sandbox), serde_json::json!({"loss": 7}));
    let closure = |loss: f64| {
        let _ = fs::remove_file(sandbox.path("c.redb"));
        let stage = Stage::closure("train", move |trial| {
            trial.report(1, [("loss", loss)])?;
            Ok(piton::Metrics::new())
        });
        let study = Study::builder("c").stage(stage.budget(1).survivors(1).minimize("loss")).build().unwrap();
        study.store(sandbox.path("c.redb")).run().unwrap();
        let why = sandbox.ok("why c.redb c_0_0 --json", 0);
        assert!(why.contains(&format!("{loss}")), "{why}");
        sandbox.ok("progress c.redb c_0_0", 0)
    };
    assert_eq!((closure(0.5), closure(0.75)), ("step 1  loss 0.5\n".into(), "step 1  loss 0.75\n".into()));
}

/// Killed with all that it runs, again and again, in the middle of reports.
#[test]
fn no_report_that_was_acknowledged_is_lost_by_kills() {
    let sandbox = one(
        "n=$(tail -n 1 ../acknowledged 2>/dev/null); n=${n:-0}
         while [ $n -lt 40 ]; do n=$((n + 1)); @piton progress $n loss=0.$n && echo $n >> ../acknowledged; done",
        "",
    );
    let acknowledged = || sandbox.lines("artifacts/s/0_train/s_0_0/acknowledged");
    for round in 1..=6 {
        let mut engine = sandbox.start("run study.toml -j 1");
        wait_until("more is acknowledged", || {
            acknowledged().len() >= round * 4 || engine.child.try_wait().unwrap().is_some()
        });
        engine.signal_group(Signal::KILL);
        engine.wait();
        wait_until("its trials are gone", || sandbox.trial_processes().is_empty());
        let listed = fs::read_to_string(case(&sandbox).join("progress.jsonl")).unwrap_or_default();
        for step in acknowledged() {
            let step: u64 = step.parse().unwrap();
            let is_it = |line: &str| {
                serde_json::from_str::<serde_json::Value>(line).is_ok_and(|line| line["step"] == step)
            };
            assert!(listed.lines().any(is_it), "{step} of\n{listed}");
        }
    }
    sandbox.ok("run study.toml -j 1", 0);
    let all = reports(&sandbox);
    let steps: Vec<u64> =
        all["reports"].as_array().unwrap().iter().map(|report| report["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, (1..=40).collect::<Vec<u64>>());
    assert_eq!(metrics(&sandbox), serde_json::json!({"loss": 0.4}));
}

/// Many at once, some of which are killed at any moment: every line is whole, or was never acknowledged.
#[test]
fn writers_that_are_killed_spoil_no_other_line() {
    let sandbox = Sandbox::new();
    let file = sandbox.path("p.jsonl");
    let start = |step: usize| {
        let mut command = sandbox.piton(["progress", &step.to_string(), "loss=1", &format!("of={step}")]);
        command.env("PITON_PROGRESS_FILE", &file).process_group(0).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    };
    let mut acknowledged = Vec::new();
    for round in 0..10 {
        let children: Vec<_> = (0..6).map(|n| (round * 6 + n, start(round * 6 + n))).collect();
        for (step, mut child) in children {
            if step % 3 == 0 {
                let _ = kill_process_group(Pid::from_raw(child.id().cast_signed()).unwrap(), Signal::KILL);
            }
            if child.wait().unwrap().success() {
                acknowledged.push(step);
            }
        }
    }
    let text = fs::read_to_string(&file).unwrap();
    let whole: Vec<serde_json::Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert!(acknowledged.len() >= 40, "{acknowledged:?}");
    for step in acknowledged {
        assert!(whole.iter().any(|line| line["step"] == step && line["of"] == step as f64), "{step} in\n{text}");
    }
}

#[test]
fn closures_report_and_their_last_reports_count() {
    let sandbox = Sandbox::new();
    let stage = Stage::closure("train", |trial| {
        for step in 1..=3_u32 {
            let loss = 1.0 / f64::from(step);
            assert_eq!(trial.report(step.into(), [("loss", loss), ("twice", 2.0 * loss)])?, Heard::GoOn);
        }
        assert!(trial.report(4, [("loss", "text")]).is_err());
        Ok([("twice", 0.5)])
    });
    let study = Study::builder("s").stage(stage.budget(1).survivors(1).minimize("loss")).build().unwrap();
    study.store(sandbox.path("study.redb")).run().unwrap();
    assert_eq!(metrics(&sandbox), serde_json::json!({"loss": 1.0 / 3.0, "twice": 0.5}));
    assert_eq!(reports(&sandbox)["reports"].as_array().unwrap().len(), 3);
}
