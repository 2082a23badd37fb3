//! `export`, `compare`, `replay`, and the templates.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::Output;

use insta::assert_snapshot;
use quick_xml::Reader;
use quick_xml::events::Event;
use rustix::process::Signal;
use serde_json::{Value as Json, json};

use crate::harness::{Edit, Engine, Sandbox, StudyFile, both, wait_until};

/// Four trials of which one fails; two survive, and are the parents of two more.
fn study_file() -> StudyFile {
    StudyFile::new("small")
        .with("seed = 3")
        .with("[params]\nbase = 10")
        .with("[env]\nMINE = \"1\"")
        .stage("first", ["./trial.sh", "{base}", "{n}"], 4, 2)
        .with(r#"outputs = ["out.txt"]"#)
        .sweep(r#"n = { min = 1, max = 4, type = "int" }"#)
        .maximize("sum")
        .stage("second", ["./trial.sh", "{base}", "{n}"], 2, 1)
        .with(r#"outputs = ["out.txt"]"#)
        .maximize("sum")
}

const TRIAL: &str = r#"
echo "out of $PITON_CASE"
echo "err of $PITON_CASE" >&2
[ "$2" = 3 ] && exit 7
env | grep -v -e '^PITON_\(METRICS_FILE\|PARAMS_FILE\|SCRATCH_DIR\|PROGRESS_FILE\|ATTEMPT_KEY\)' -e ^PWD -e ^TMPDIR -e ^_= | sort > out.txt
echo "{\"sum\": $(( $1 + $2 )), \"tool\": \"sh\"}" > metrics.json
"#;

fn study() -> Sandbox {
    let sandbox = Sandbox::with_study(study_file());
    sandbox.script("trial.sh", TRIAL);
    sandbox
}

fn finished() -> Sandbox {
    let sandbox = study();
    sandbox.ok("run study.toml -j 2", 0);
    sandbox
}

/// The first two trials wait for the file `gate`.
fn waiting() -> (Sandbox, Engine) {
    let sandbox = study();
    let wait =
        "echo >>\"$PITON_STUDY_DIR/started\"\nwhile [ ! -e \"$PITON_STUDY_DIR/gate\" ]; do sleep 0.02; done";
    sandbox.script("trial.sh", &format!("{wait}\n{TRIAL}"));
    let engine = sandbox.start("run study.toml -j 2");
    wait_until("trials run", || sandbox.lines("started").len() >= 2);
    // A start is recorded after the trial's process is there.
    wait_until("their starts are recorded", || sandbox.dump()["accounting"]["running"] == 2);
    (sandbox, engine)
}

/// Every file below a directory with its contents.
fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.insert(path.display().to_string(), Vec::new());
            found.append(&mut contents(&path));
        } else {
            found.insert(path.display().to_string(), fs::read(&path).unwrap());
        }
    }
    found
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

// ---- export ----------------------------------------------------------------------------------------------------------

/// How often each element, told by its name and the value of its `message`, comes in a well-formed XML file.
fn elements(path: &Path) -> BTreeMap<String, usize> {
    let text = fs::read_to_string(path).unwrap();
    let mut reader = Reader::from_str(&text);
    let mut counts = BTreeMap::new();
    loop {
        match reader.read_event().unwrap() {
            Event::Start(element) | Event::Empty(element) => {
                let mut name = element.name().as_ref().to_owned();
                if let Some(message) = element.try_get_attribute("message").unwrap() {
                    name += &format!(": {}", message.value);
                }
                *counts.entry(name).or_default() += 1;
            }
            Event::Eof => return counts,
            _ => {}
        }
    }
}

#[test]
fn export_writes_what_the_other_commands_show() {
    let sandbox = finished();
    let listed = sandbox.ok("export study.redb --to out/here", 0);
    let names = [
        "study_checkpoint.json",
        "stage_0_telemetry.json",
        "stage_1_telemetry.json",
        "telemetry.jsonl",
        "study_telemetry.json",
        "trials.csv",
        "trials.jsonl",
        "lineage.dot",
        "junit.xml",
    ];
    assert_eq!(listed.lines().collect::<Vec<_>>(), names.map(|name| format!("out/here/{name}")));
    let read = |name: &str| fs::read_to_string(sandbox.path("out/here").join(name)).unwrap();
    assert_eq!(read("trials.csv"), sandbox.ok("dump study.redb --format csv", 0));
    assert_eq!(read("telemetry.jsonl"), sandbox.ok("dump study.redb --events --format jsonl", 0));
    let dump = sandbox.dump();
    let trials: Vec<Json> = read("trials.jsonl")
        .lines()
        .map(|line| {
            let mut trial: Json = serde_json::from_str(line).unwrap();
            assert_eq!(trial.as_object_mut().unwrap().remove("type"), Some(json!("trial")));
            trial
        })
        .collect();
    assert_eq!(Json::Array(trials), dump["trials"]);
    let engines = fs::read_to_string(sandbox.path("artifacts/small/study_checkpoint.json")).unwrap();
    assert_eq!(read("study_checkpoint.json"), engines);
    assert_eq!(
        elements(&sandbox.path("out/here/junit.xml")),
        BTreeMap::from([
            ("testsuites".into(), 1),
            ("testsuite".into(), 2),
            ("testcase".into(), 6),
            ("failure: exited with code 7".into(), 1),
            ("system-out".into(), 6),
        ])
    );
    assert!(read("junit.xml").contains("err of small_0_2"), "the log's excerpt");
    // t_3 and t_1 survive the first stage, t_4 (of t_3) the second.
    let edges = read("lineage.dot")
        .lines()
        .filter(|line| line.contains("->"))
        .map(str::trim)
        .collect::<Vec<_>>()
        .join("\n");
    assert_snapshot!(edges, @"
    base -> t3 [style=bold];
    base -> t1;
    t3 -> t4 [style=bold];
    ");
    // Again, over itself and beside another's file.
    sandbox.write("out/here/mine.txt", "");
    let json: Json = serde_json::from_str(&sandbox.ok("export study.redb --to out/here --json", 0)).unwrap();
    assert_eq!(json, json!({ "dir": "out/here", "files": names, "events": dump["events"] }));
    assert_eq!(fs::read_dir(sandbox.path("out/here")).unwrap().count(), names.len() + 1);
    sandbox.ok("export study.redb", 2);
    sandbox.ok("export study.redb --to study.toml", 1);
}

#[test]
fn export_works_beside_an_engine_and_after_a_crash() {
    let (sandbox, engine) = waiting();
    let skipped = |what: &str, running: usize, pending: usize| {
        sandbox.ok("export study.redb --to out", 0);
        let seen = elements(&sandbox.path("out/junit.xml"));
        let count = |name: &str| seen.get(name).copied().unwrap_or(0);
        assert_eq!((count("skipped: running"), count("skipped: pending")), (running, pending), "{what}: {seen:?}");
    };
    skipped("running", 2, 2);
    engine.signal(Signal::KILL);
    engine.wait();
    skipped("killed", 2, 2);
    let telemetry: Json =
        serde_json::from_slice(&fs::read(sandbox.path("out/study_telemetry.json")).unwrap()).unwrap();
    assert_eq!(telemetry["status"], "interrupted");
    sandbox.write("gate", "");
    sandbox.ok("run study.toml", 0);
    skipped("finished", 0, 0);
}

// ---- compare ---------------------------------------------------------------------------------------------------------

/// A finished study with its baseline in `base.json`, and a later one of the same spec in `now.redb`: of its first stage,
/// `small_0_0` got worse by 1, `small_0_1` better by 2, `small_0_2` works, and `small_0_3` fails.
fn later() -> Sandbox {
    let sandbox = finished();
    sandbox.ok("compare study.redb --write-baseline base.json", 0);
    sandbox.script(
        "trial.sh",
        r#"
        touch out.txt
        case $2 in 1) sum=10 ;; 2) sum=14 ;; 3) sum=13 ;; *) exit 9 ;; esac
        echo "{\"sum\": $sum}" > metrics.json"#,
    );
    sandbox.ok("run study.toml -j 1 --store now.redb --artifacts later", 0);
    sandbox
}

#[test]
fn a_regression_fails_the_gate_and_is_shown_first() {
    let sandbox = later();
    let output = sandbox.run("compare now.redb --baseline base.json --stage first");
    assert_eq!(output.status.code(), Some(4));
    assert_snapshot!(String::from_utf8_lossy(&output.stdout), @r#"
    study `small`, stage `first`, against base.json: 4 of 4 cases compared
    ─────────────────────────────────────────────────────────────────────────────────────────────────
     case        metric   baseline   now   delta         allowed   finding                           
    ═════════════════════════════════════════════════════════════════════════════════════════════════
     small_0_0   sum      11         10    -1 (-9.1%)    0         worse                             
     small_0_3                                                     fails now: exit_code: exited with 
                                                                   code 9                            
     small_0_1   sum      12         14    +2 (+16.7%)   0         better                            
     small_0_2                                                     fixed: was exit_code              
    ─────────────────────────────────────────────────────────────────────────────────────────────────
    2 regressions, 2 improvements, 0 unchanged
    "#);
    assert!(words(&output).contains("--write-baseline FILE` makes it the next baseline"), "{}", words(&output));
    // A better one is no reason to fail, a worse one within its tolerance neither.
    let lenient = "compare now.redb --baseline base.json --stage first --tolerance sum=1";
    let table = sandbox.ok(lenient, 4);
    assert!(table.contains("1 regression, 2 improvements, 1 unchanged"), "{table}");
    // The failing case is a regression however lenient.
    sandbox.ok(&format!("{lenient} --allow-missing --tolerance sum=99%"), 4);
    // Against the other way round.
    let table = sandbox.ok("compare now.redb --baseline base.json --stage first --direction sum=minimize", 4);
    assert!(table.contains("2 regressions, 2 improvements, 0 unchanged"), "{table}");
}

#[test]
fn every_kind_of_baseline_gives_the_same() {
    let sandbox = later();
    sandbox.write("canonical.json", sandbox.canonical());
    sandbox.write("dump.json", sandbox.ok("dump study.redb --json", 0));
    let compared = |baseline: &str| {
        let text = sandbox.ok(&format!("compare now.redb --baseline {baseline} --stage first --json"), 4);
        let mut json: Json = serde_json::from_str(&text).unwrap();
        assert_eq!(json.as_object_mut().unwrap().remove("baseline"), Some(json!(baseline)));
        json
    };
    let first = compared("base.json");
    assert_eq!(first["ok"], false);
    assert_eq!(
        (&first["cases"], &first["compared"], &first["regressions"], &first["improvements"], &first["unchanged"]),
        (&json!(4), &json!(4), &json!(2), &json!(2), &json!(0))
    );
    assert_eq!(
        first["comparisons"][0],
        json!({"case": "small_0_0", "metric": "sum", "baseline": 11.0, "now": 10.0, "delta": -1.0, "allowed": 0.0,
               "finding": "worse", "regression": true, "detail": null})
    );
    for other in ["study.redb", "canonical.json", "dump.json"] {
        assert_eq!(compared(other), first, "{other}");
    }
    // A pipe can be read once only.
    let piped = format!(
        "'{0}' dump study.redb --canonical | '{0}' compare now.redb --baseline /dev/stdin --stage first",
        env!("CARGO_BIN_EXE_piton")
    );
    let piped =
        std::process::Command::new("sh").args(["-c", &piped]).current_dir(sandbox.path(".")).output().unwrap();
    assert_eq!(piped.status.code(), Some(4), "{}", both(&piped));
}

#[test]
fn the_last_stage_is_the_default_and_other_survivors_are_told() {
    let sandbox = later();
    // Of other parents, the last stage's cases have other params.
    let output = sandbox.run("compare now.redb --baseline base.json");
    assert_eq!(output.status.code(), Some(4));
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(table.contains("stage `second`") && table.contains("other params: n 4 → 2"), "{table}");
    assert!(
        words(&output).contains("other cases survived stage `first` than in the baseline"),
        "{}",
        words(&output)
    );
    let same = sandbox.ok("compare study.redb --baseline base.json", 0);
    assert!(
        same.contains("2 of 2 cases compared") && same.contains("0 regressions, 0 improvements, 2 unchanged"),
        "{same}"
    );
    sandbox.ok("compare study.redb --baseline study.redb", 0);
}

#[test]
fn a_report_of_a_comparison_never_takes_the_baselines_place() {
    let sandbox = finished();
    sandbox.ok("compare study.redb --write-baseline base.json", 0);
    let before = fs::read(sandbox.path("base.json")).unwrap();
    std::os::unix::fs::symlink("base.json", sandbox.path("link.json")).unwrap();
    for junit in ["base.json", "./base.json", "link.json"] {
        let output = sandbox.run(&format!("compare study.redb --baseline base.json --junit {junit}"));
        assert_eq!(output.status.code(), Some(2), "{}", both(&output));
        assert!(both(&output).contains("names the baseline"), "{}", both(&output));
    }
    assert_eq!(fs::read(sandbox.path("base.json")).unwrap(), before);
    for line in ["--baseline base.json --junit -", "--write-baseline -"] {
        let output = sandbox.run(&format!("compare study.redb {line}"));
        assert_eq!(output.status.code(), Some(2), "{}", both(&output));
        assert!(both(&output).contains("needs a file of its own"), "{}", both(&output));
    }
    assert!(!sandbox.path("-").exists());
}

#[test]
fn an_unfinished_study_does_not_pass() {
    let sandbox = finished();
    sandbox.ok("compare study.redb --write-baseline base.json", 0);
    let (young, engine) = waiting();
    fs::copy(sandbox.path("base.json"), young.path("base.json")).unwrap();
    let table = young.ok("compare study.redb --baseline base.json --stage first", 4);
    assert!(table.contains("0 of 4 cases compared") && table.contains("no result: running"), "{table}");
    // Nor does it with everything allowed, as long as nothing was compared.
    let output = young.run("compare study.redb --baseline base.json --stage first --allow-missing");
    assert_eq!(output.status.code(), Some(2));
    assert!(words(&output).contains("none of the baseline's 4 cases can be compared"), "{}", words(&output));
    assert_eq!(young.run("compare study.redb --write-baseline new.json").status.code(), Some(2));
    assert!(!young.path("new.json").exists());
    engine.signal(Signal::KILL);
    engine.wait();
}

#[test]
fn bad_questions_are_refused_with_the_nearest_name() {
    let sandbox = finished();
    sandbox.ok("compare study.redb --write-baseline base.json", 0);
    sandbox.write("other.json", "{\"a\": 1}");
    for (line, code, says) in [
        ("--baseline base.json --metric sum1", 2, "no trial has a number called `sum1`; did you mean `sum`?"),
        ("--baseline base.json --tolerance summ=5", 2, "did you mean `sum`?"),
        ("--baseline base.json --direction sun=minimize", 2, "did you mean `sum`?"),
        ("--baseline base.json --tolerance sum=x", 2, "expected a tolerance such as `5` or `2%`"),
        ("--baseline base.json --direction sum=up", 2, "expected METRIC=minimize"),
        ("--baseline base.json --stage first1", 2, "the study has no stage `first1`; did you mean `first`?"),
        ("--baseline other.json", 2, "neither a baseline nor a dump of a study"),
        ("--baseline trial.sh", 2, "`trial.sh` is not a baseline"),
        ("--baseline nothing.json", 1, "cannot read `nothing.json`"),
        ("--write-baseline study.redb", 2, "is a store: a baseline must not replace it"),
        ("--write-baseline x.json --metric sum1", 2, "did you mean `sum`?"),
        ("--write-baseline x.json --baseline base.json", 2, "cannot be used with"),
        ("", 2, "--baseline"),
    ] {
        let output = sandbox.run(&format!("compare study.redb {line}"));
        assert_eq!(output.status.code(), Some(code), "{line}\n{}", both(&output));
        assert!(words(&output).contains(says), "{line}\n{}", words(&output));
        assert!(output.stdout.is_empty(), "{line}");
    }
    sandbox.ok("verify study.redb", 0);
    assert!(!sandbox.path("x.json").exists());
}

// ---- replay ----------------------------------------------------------------------------------------------------------

/// `piton replay` with temporary files in the sandbox.
fn replay(sandbox: &Sandbox, line: &str) -> Output {
    fs::create_dir_all(sandbox.path("tmp")).unwrap();
    let line = format!("replay study.redb {line}");
    sandbox.piton(line.split_whitespace()).env("TMPDIR", sandbox.path("tmp")).output().unwrap()
}

fn leftovers(sandbox: &Sandbox) -> usize {
    fs::read_dir(sandbox.path("tmp")).unwrap().count()
}

#[test]
fn a_replay_does_the_same_and_touches_nothing() {
    let sandbox = finished();
    let before = contents(&sandbox.path("."));
    // Output `out.txt` is the environment: seed, params' files aside, and parent are the same.
    for case in ["small_0_0", "small_1_0"] {
        let output = replay(&sandbox, case);
        assert_eq!(output.status.code(), Some(0), "{}", both(&output));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.starts_with(&format!("out of {case}\n`{case}` succeeded in ")), "{text}");
        assert!(text.ends_with(", as recorded (2 metrics, 1 output)\n"), "{text}");
        assert!(words(&output).contains(&format!("err of {case}\n")), "{}", words(&output));
    }
    let failed = replay(&sandbox, "small_0_2");
    assert_eq!(failed.status.code(), Some(3), "{}", both(&failed));
    let text = String::from_utf8_lossy(&failed.stdout).into_owned();
    assert!(text.ends_with(", as recorded\n") && text.contains("exit_code: exited with code 7"), "{text}");
    assert_eq!(leftovers(&sandbox), 0);
    fs::remove_dir(sandbox.path("tmp")).unwrap();
    assert!(before == contents(&sandbox.path(".")), "the store, the artifacts, and everything beside");
    let unknown = replay(&sandbox, "small_0_9");
    assert_eq!(unknown.status.code(), Some(2));
    assert!(words(&unknown).contains("did you mean `small_0_"), "{}", words(&unknown));
}

#[test]
fn what_differs_is_named() {
    let sandbox = finished();
    sandbox.script(
        "trial.sh",
        "[ $2 = 2 ] && kill -9 $$\necho changed > out.txt\necho '{\"sum\": 12.5, \"more\": 1}' > metrics.json",
    );
    let output = replay(&sandbox, "small_0_0 --json");
    assert_eq!(output.status.code(), Some(4), "{}", both(&output));
    let json: Json = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&json["outcome"], &json["recorded"], &json["same"]),
        (&json!("succeeded"), &json!("succeeded"), &json!(false))
    );
    let what: Vec<&str> =
        json["differences"].as_array().unwrap().iter().map(|d| d["what"].as_str().unwrap()).collect();
    assert_eq!(what, ["metric `more`", "metric `sum`", "metric `tool`", "output `out.txt`"]);
    assert_eq!(
        (&json["differences"][1]["recorded"], &json["differences"][1]["now"]),
        (&json!("11"), &json!("12.5"))
    );
    let output = replay(&sandbox, "small_0_0 --metric sum --tolerance sum=20%");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("output `out.txt`") && !text.contains("metric `"), "{text}");
    let output = replay(&sandbox, "small_0_1");
    assert_eq!(output.status.code(), Some(4), "{}", both(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("outcome: recorded succeeded, now failed: signal: killed by SIGKILL"), "{text}");
    let output = replay(&sandbox, "small_0_2");
    assert_eq!(output.status.code(), Some(4), "a failure that is gone: {}", both(&output));
    assert_eq!(replay(&sandbox, "small_0_0 --metric sumo").status.code(), Some(2));
}

#[test]
fn the_directory_can_be_kept_or_chosen() {
    let sandbox = finished();
    let output = replay(&sandbox, "small_0_0 --keep --json");
    let json: Json = serde_json::from_slice(&output.stdout).unwrap();
    let dir = Path::new(json["dir"].as_str().unwrap());
    assert!(dir.starts_with(sandbox.path("tmp")) && dir.join("metrics.json").exists(), "{}", dir.display());
    assert_eq!(leftovers(&sandbox), 1);
    for chosen in ["new/dir", "new/dir2"] {
        let output = replay(&sandbox, &format!("small_0_0 --attempt-dir {chosen}"));
        assert_eq!(output.status.code(), Some(0), "{}", both(&output));
        assert!(sandbox.path(chosen).join("out.txt").exists());
    }
    assert_eq!(leftovers(&sandbox), 1);
    // What is there is never replaced.
    let before = contents(&sandbox.path("."));
    for taken in ["new/dir", ".", "artifacts/small"] {
        let output = replay(&sandbox, &format!("small_0_0 --attempt-dir {taken}"));
        assert_eq!(output.status.code(), Some(2), "{}", both(&output));
        assert!(words(&output).contains("is not empty"), "{}", words(&output));
    }
    assert_eq!(replay(&sandbox, "small_0_0 --attempt-dir study.toml").status.code(), Some(1));
    assert!(before == contents(&sandbox.path(".")));
}

#[test]
fn a_replay_runs_beside_an_engine_without_disturbing_it() {
    let (sandbox, engine) = waiting();
    sandbox.script("trial.sh", TRIAL);
    // Running, and not started: there is nothing to compare with.
    for case in ["small_0_0", "small_0_3"] {
        let output = replay(&sandbox, case);
        assert_eq!(output.status.code(), Some(0), "{}", both(&output));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("no result of it is recorded to compare with\n  sum 1"), "{text}");
    }
    assert_eq!(replay(&sandbox, "small_0_2").status.code(), Some(3));
    assert_eq!(replay(&sandbox, "small_1_0").status.code(), Some(2), "its stage has not opened");
    sandbox.write("gate", "");
    assert_eq!(engine.wait().code(), Some(0));
    let accounting = &sandbox.dump()["accounting"];
    assert_eq!((&accounting["attempts_started"], &accounting["interrupted"]), (&json!(6), &json!(0)));
    sandbox.ok("verify study.redb", 0);
}

#[test]
fn changed_inputs_and_a_lost_parent_are_told() {
    let sandbox = study();
    sandbox.write("study.toml", study_file().edit("seed = 3", "seed = 3\ninputs = [\"trial.sh\"]"));
    sandbox.ok("run study.toml", 0);
    sandbox.script("trial.sh", &format!("{TRIAL}\n# changed"));
    fs::remove_dir_all(sandbox.path("artifacts/small/0_first/small_0_3")).unwrap();
    let output = replay(&sandbox, "small_1_0");
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    assert!(words(&output).contains("not everything is what it was"), "{}", words(&output));
    assert!(words(&output).contains("the directory of the case it derives from is gone"), "{}", words(&output));
}

#[test]
fn an_interrupt_ends_the_trial_and_cleans_up() {
    for (signal, twice) in [(Signal::INT, false), (Signal::TERM, true)] {
        let sandbox = finished();
        let trap = if twice { "trap 'echo >\"$PITON_STUDY_DIR/asked\"' TERM" } else { ":" };
        let hang = format!("{trap}\nsleep 1000 &\necho >\"$PITON_STUDY_DIR/hangs\"\nwhile :; do sleep 0.02; done");
        sandbox.script("trial.sh", &hang);
        fs::create_dir(sandbox.path("tmp")).unwrap();
        let mut command = sandbox.piton(["replay", "study.redb", "small_0_0"]);
        command.env("TMPDIR", sandbox.path("tmp")).process_group(0);
        command.stdout(std::process::Stdio::null()).stderr(fs::File::create(sandbox.path("engine.err")).unwrap());
        let engine = Engine { child: command.spawn().unwrap() };
        wait_until("the trial runs", || sandbox.path("hangs").exists());
        engine.signal(signal);
        if twice {
            wait_until("the trial was asked to end", || sandbox.path("asked").exists());
            engine.signal(signal);
        }
        assert_eq!(engine.wait().signal(), Some(signal.as_raw()));
        wait_until("nothing of it is left", || sandbox.trial_processes().is_empty());
        assert_eq!(leftovers(&sandbox), 0);
        let said = sandbox.lines("engine.err").join("\n");
        assert!(said.contains("ended it; there is nothing to compare"), "{said}");
        sandbox.ok("verify study.redb", 0);
    }
}

#[test]
fn a_timeout_holds_in_a_replay_too() {
    let sandbox = study();
    let hang = "[ -e \"$PITON_STUDY_DIR/go\" ] && { trap 'exit 0' TERM; while :; do sleep 0.02; done; }";
    sandbox.script("trial.sh", &format!("{hang}\n{TRIAL}"));
    sandbox.write("study.toml", study_file().edit("outputs", "timeout = \"2s\"\noutputs"));
    sandbox.ok("run study.toml", 0);
    sandbox.write("go", "");
    let output = replay(&sandbox, "small_0_0");
    assert_eq!(output.status.code(), Some(4), "{}", both(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("now failed: timeout: ran longer than 2 s"), "{text}");
}

// ---- templates -------------------------------------------------------------------------------------------------------

fn made(template: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.ok(&format!("new . --template {template}"), 0);
    sandbox.ok("check study.toml", 0);
    sandbox
}

#[test]
fn the_grid_sweep_finds_the_front() {
    let sandbox = made("grid-sweep");
    sandbox.ok("run study.toml", 0);
    let dump = sandbox.dump();
    assert_eq!(dump["stages"][0]["succeeded"], 20);
    // Of order four at four evaluations a step, nothing is more exact than the finest Runge-Kutta; nothing is cheaper than
    // one evaluation a step, and of those Euler's is the worst.
    let survivors = dump["stages"][0]["survivors"].as_array().unwrap();
    assert!(survivors.contains(&json!("orbit_0_19")), "{survivors:?}");
    let euler = |case: &Json| (0..5).any(|index| *case == format!("orbit_0_{index}"));
    assert!(!survivors.iter().any(euler), "{survivors:?}");
}

#[test]
fn successive_halving_goes_on_from_what_the_parents_learned() {
    let sandbox = made("successive-halving");
    sandbox.ok("run study.toml", 0);
    let dump = sandbox.dump();
    let counts: Vec<u64> = (0..4).map(|stage| dump["stages"][stage]["planned"].as_u64().unwrap()).collect();
    assert_eq!(counts, [27, 9, 3, 1]);
    let trials = dump["trials"].as_array().unwrap();
    let kinds = trials.iter().filter_map(|trial| trial["failure"]["kind"].as_str());
    assert!(
        kinds.clone().count() > 0 && kinds.clone().all(|kind| kind == "diverged"),
        "{:?}",
        kinds.collect::<Vec<_>>()
    );
    let winner = dump["trials"].as_array().unwrap().last().unwrap();
    assert_eq!(winner["metrics"]["epochs"], 10 + 20 + 60 + 180);
    assert!(winner["metrics"]["loss"].as_f64().unwrap() < 1e-3, "{winner}");
    // Trained further, each did better than its parent.
    let loss = |case: &str| {
        let trial = dump["trials"].as_array().unwrap().iter().find(|trial| trial["case"] == case).unwrap();
        (trial["parent"].as_str().unwrap().to_owned(), trial["metrics"]["loss"].as_f64().unwrap())
    };
    let (mut case, mut losses) = ("net_3_0".to_owned(), Vec::new());
    while case != "net" {
        let (parent, loss) = loss(&case);
        losses.push(loss);
        case = parent;
    }
    assert!(losses.len() == 4 && losses.is_sorted(), "{losses:?}");
}

#[test]
fn the_gate_of_the_template_passes_and_catches_a_worse_program() {
    let sandbox = made("ci-regression");
    let gate = |args: &[&str]| {
        let mut command = std::process::Command::new(sandbox.path("gate.sh"));
        command.args(args).env("PITON", env!("CARGO_BIN_EXE_piton")).env("NO_COLOR", "1").env_remove("PITON_LOG");
        command.output().unwrap()
    };
    let output = gate(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    assert!(sandbox.path("report/junit.xml").exists());
    // Without the shortcut for what is in order already, it takes more comparisons.
    let program = fs::read_to_string(sandbox.path("sort.awk")).unwrap();
    let worse = program.edit("if (!less(middle, middle + 1)) return", "");
    assert_ne!(program, worse);
    sandbox.write("sort.awk", &worse);
    let output = gate(&[]);
    assert_eq!(output.status.code(), Some(4), "{}", both(&output));
    assert!(both(&output).contains("worse"), "{}", both(&output));
    let output = gate(&["--accept"]);
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    assert_eq!(gate(&[]).status.code(), Some(0));
    // A wrong answer is a failed case, whatever it costs.
    sandbox.write("sort.awk", "{ print } END { print \"comparisons: 1\" > \"/dev/stderr\" }");
    let output = gate(&[]);
    assert_eq!(output.status.code(), Some(4), "{}", both(&output));
    assert!(both(&output).contains("fails now"), "{}", both(&output));
}
