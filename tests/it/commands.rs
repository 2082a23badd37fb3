//! Every subcommand: what it prints, what it refuses, its exit codes.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use insta::assert_snapshot;
use rustix::process::Signal;

use crate::harness::{Sandbox, StudyFile, both, wait_until};

/// Four trials of which one fails; the best of the rest survives.
fn small_file() -> StudyFile {
    StudyFile::new("small")
        .with("seed = 3")
        .with(r#"inputs = ["input.txt"]"#)
        .with("[params]\nbase = 10")
        .stage("first", ["./trial.sh", "{base}", "{n}"], 4, 1)
        .with(r#"outputs = ["out.txt"]"#)
        .sweep(r#"n = { min = 1, max = 4, type = "int" }"#)
        .maximize("sum")
}

const TRIAL: &str = r#"
echo "out of $PITON_CASE"
echo "err of $PITON_CASE" >&2
[ "$2" = 3 ] && exit 7
cp params.json out.txt
echo "{\"sum\": $(( $1 + $2 ))}" > metrics.json
"#;

fn small() -> Sandbox {
    let sandbox = Sandbox::with_study(small_file());
    sandbox.write("input.txt", "as it was");
    sandbox.script("trial.sh", TRIAL);
    sandbox
}

fn finished() -> Sandbox {
    let sandbox = small();
    sandbox.ok("run study.toml -j 1", 0);
    sandbox
}

/// Without what differs from run to run.
fn stable(sandbox: &Sandbox, text: &str) -> String {
    text.replace(&sandbox.path("").display().to_string().trim_end_matches('/').to_owned(), "[DIR]")
}

#[test]
fn check_prints_the_plan_and_touches_nothing() {
    let sandbox = small();
    let plan = sandbox.ok("check study.toml", 0);
    assert_snapshot!(stable(&sandbox, &plan), @"
    study `small`, seed 3: no mistakes

    stage 0 `first`: 4 trials from `small`, 1 survives
      grid, all 4 combinations; top by largest `sum`
      small_0_0: ./trial.sh 10 1
        base=10 n=1
      small_0_1: ./trial.sh 10 2
        base=10 n=2
      small_0_2: ./trial.sh 10 3
        base=10 n=3
      … and 1 more

    inputs     1 hashed, all there
    store      [DIR]/study.redb (not made yet)
    artifacts  [DIR]/artifacts/small
    ");
    assert!(!sandbox.path("study.redb").exists() && !sandbox.path("artifacts").exists());
    let json: serde_json::Value = serde_json::from_str(&sandbox.ok("check study.toml --json", 0)).unwrap();
    assert_eq!(json["stages"][0]["trials"], 4);
}

#[test]
fn every_mistake_is_reported_at_once_and_nothing_is_created() {
    let sandbox = Sandbox::with_study(
        r#"[study]
name = "bad name"
sede = 3
[[stage]]
name = "first"
command = ["./trial.sh", "{m}"]
trial_budget = 2
survivor_count = 3
[stage.sweep]
n = { min = 4, max = 1, type = "int" }
"#,
    );
    let output = sandbox.run("run study.toml");
    assert_eq!(output.status.code(), Some(2));
    assert_snapshot!(String::from_utf8_lossy(&output.stderr), @r#"
    error: the name `bad name` has a character that names cannot have
     --> study.toml:2:12
      |
    2 | name = "bad name"
      |            ^ not allowed in a name
      |
      = help: names are 1 to 64 of the characters A-Z a-z 0-9 _ -

    error: unknown key `sede` in `[study]`
     --> study.toml:3:1
      |
    3 | sede = 3
      | ^^^^ no such key
      |
      = help: did you mean `seed`? valid keys: `name`, `base_case`, `seed`, `description`, `author`, `tags`, `inputs`, `inputs_ignore`, `versions`

    error: no param is called `m`
     --> study.toml:6:27
      |
    6 | command = ["./trial.sh", "{m}"]
      |                           ^^^ no such param
      |
      = help: did you mean `n`? placeholders: `n`, `case`, `parent_dir`, `study_dir`, `seed`, `attempt`, `slot`

    error: `survivor_count` 3 is above `trial_budget` 2
     --> study.toml:8:18
      |
    8 | survivor_count = 3
      |                  ^ expected at most 2

    error: `max` is below `min`
      --> study.toml:10:22
       |
    10 | n = { min = 4, max = 1, type = "int" }
       |                      ^ expected more than `min`

    error: the study file has 5 mistakes
    "#);
    assert!(!sandbox.path("study.redb").exists() && !sandbox.path("artifacts").exists());
}

#[test]
fn run_ends_with_a_table_and_plain_lines() {
    let sandbox = small();
    let output = sandbox.run("run study.toml -j 1");
    assert_eq!(output.status.code(), Some(0));
    assert_snapshot!(stable(&sandbox, &String::from_utf8_lossy(&output.stdout)), @"
    ────────────────────────────
     survivor    base   n   sum 
    ════════════════════════════
     small_0_3   10     4   14  
    ────────────────────────────
    1 trial failed:
      small_0_2  exit_code: exited with code 7
      (more of one: `piton why study.redb small_0_2`)
    store      study.redb
    artifacts  [DIR]/artifacts/small
    ");
    let lines = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(lines.contains("[3/4] small_0_2 failed after"), "{lines}");
    assert!(lines.contains("exited with code 7 (exit_code)"), "{lines}");
    assert!(!lines.contains('\x1b'), "no colour in a pipe");
    let again = sandbox.run("run study.toml");
    assert_eq!(again.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&again.stderr).contains("completed already"));
    assert_eq!(sandbox.dump()["accounting"]["attempts_started"], 4);
}

#[test]
fn a_trial_sees_what_the_contract_says() {
    let sandbox = Sandbox::with_study(
        StudyFile::new("seen")
            .with(r#"base_case = "b""#)
            .with("seed = 5")
            .with("[env]\nMINE = \"1\"")
            .stage(
                "one",
                [
                    "sh",
                    "-c",
                    "env | sort > env.txt; pwd -P > cwd.txt; ls > ls.txt; echo kept > $PITON_SCRATCH_DIR/x",
                ],
                1,
                1,
            )
            .with(r#"outputs = ["env.txt"]"#)
            .sweep(r#"p = ["it's"]"#)
            .stage(
                "two",
                r#"env | sort > env.txt; cp "$PITON_PARENT_DIR/cwd.txt" parent.txt
               printf %s {p} > p.txt"#,
                1,
                1,
            ),
    );
    sandbox.ok("run study.toml -j 1", 0);
    let dir = sandbox.path("artifacts/seen/0_one/b_0_0/attempt_1");
    let real = fs::canonicalize(&dir).unwrap();
    let text = |path: std::path::PathBuf| fs::read_to_string(path).unwrap();
    assert_eq!(text(dir.join("cwd.txt")).trim(), real.display().to_string());
    let env = text(dir.join("env.txt"));
    let root = sandbox.path("");
    let root = root.display().to_string().trim_end_matches('/').to_owned();
    for line in [
        "MINE=1".to_owned(),
        "PITON_ATTEMPT=1".into(),
        "PITON_CASE=b_0_0".into(),
        format!("PITON_METRICS_FILE={}/metrics.json", dir.display()),
        format!("PITON_PARAMS_FILE={}/params.json", dir.display()),
        "PITON_PARENT_CASE=b".into(),
        format!("PITON_PROGRESS_FILE={root}/artifacts/seen/0_one/b_0_0/progress.jsonl"),
        format!("PITON_SCRATCH_DIR={root}/artifacts/seen/0_one/b_0_0/scratch"),
        "PITON_SLOT=0".into(),
        "PITON_STAGE=one".into(),
        "PITON_STAGE_INDEX=0".into(),
        "PITON_STUDY=seen".into(),
        format!("PITON_STUDY_DIR={root}"),
        "PITON_TRIAL=0".into(),
    ] {
        assert!(env.lines().any(|have| have == line), "`{line}` in\n{env}");
    }
    assert!(!env.contains("PITON_PARENT_DIR="), "unset in stage 0");
    let next = sandbox.path("artifacts/seen/1_two/b_1_0/attempt_1");
    assert!(text(next.join("env.txt")).contains(&format!("PITON_PARENT_DIR={}", dir.display())));
    assert_eq!(text(next.join("parent.txt")), text(dir.join("cwd.txt")));
    assert_eq!(text(next.join("p.txt")), "it's", "quoted for the shell");
    assert_eq!(text(dir.join("ls.txt")), "cwd.txt\nenv.txt\nls.txt\nparams.json\nstderr.log\nstdout.log\n");
    assert_eq!(text(dir.join("params.json")).trim(), r#"{"p":"it's"}"#);
}

#[test]
fn another_spec_or_changed_inputs_are_refused_and_nothing_is_touched() {
    let sandbox = small();
    sandbox.script("trial.sh", "exit 1");
    sandbox.ok("run study.toml", 3);
    let sandbox = small();
    let engine = gate(&sandbox);
    engine.signal(Signal::TERM);
    assert_eq!(engine.wait().code(), Some(75));
    let before = fs::read(sandbox.path("study.redb")).unwrap();

    sandbox.write(
        "study.toml",
        small_file().edit("max = 4", "max = 5").edit("[params]", "[run]\nworkers = 1\n[params]"),
    );
    let output = sandbox.run("run study.toml");
    assert_eq!(output.status.code(), Some(6));
    assert_snapshot!(String::from_utf8_lossy(&output.stderr), @r#"
    error: the study file differs from the study in `study.redb`
    note: stage "first".sweep.n: { min = 1, max = 4, type = "int" } in the store, { min = 1, max = 5, type = "int" } now
    hint: `piton amend study.redb study.toml --yes` shows what the change costs, and makes it; or undo it; or go on with the stored study: `piton resume study.redb`; or begin a new one beside it with `--store FILE --artifacts DIR`
    "#);
    assert_eq!(fs::read(sandbox.path("study.redb")).unwrap(), before);

    sandbox.write("study.toml", small_file());
    sandbox.write("input.txt", "changed");
    let output = sandbox.run("run study.toml");
    assert_eq!(output.status.code(), Some(6));
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(words.contains("input.txt"), "{words}");
    assert_eq!(sandbox.run("resume study.redb").status.code(), Some(6));
    assert_eq!(fs::read(sandbox.path("study.redb")).unwrap(), before);

    sandbox.write("input.txt", "as it was");
    sandbox.write("gate", "");
    // Comments, and how it is run, are no part of the study.
    sandbox.write("study.toml", format!("# a comment\n{}\n[run]\nworkers = 1\n", small_file()));
    sandbox.ok("run study.toml", 0);
}

/// Starts it so that its first trials wait for `gate`.
fn gate(sandbox: &Sandbox) -> crate::harness::Engine {
    let wait = "echo $PITON_CASE >> \"$PITON_STUDY_DIR/started\"\nwhile [ ! -e \"$PITON_STUDY_DIR/gate\" ]; do sleep 0.02; done";
    sandbox.script("trial.sh", &format!("{wait}\n{TRIAL}"));
    let engine = sandbox.start("run study.toml -j 2 --drain-for 10ms");
    wait_until("trials run", || sandbox.lines("started").len() >= 2);
    engine
}

#[test]
fn looking_works_while_an_engine_runs_and_after_it_was_killed() {
    let sandbox = small();
    let engine = gate(&sandbox);
    let look = |what: &str| {
        for line in
            ["status study.redb", "dump study.redb", "why study.redb small_0_0", "dump study.redb --format csv"]
        {
            let output = sandbox.run(line);
            assert!(output.status.success(), "{what}: {line}\n{}", both(&output));
        }
        sandbox.dump()
    };
    let dump = look("running");
    assert_eq!((&dump["study"]["status"], &dump["study"]["engine"]["alive"]), (&"running".into(), &true.into()));
    wait_until("both are recorded to run", || sandbox.dump()["accounting"]["running"] == 2);
    wait_until("the log is there", || sandbox.ok("logs study.redb small_0_0", 0).is_empty());
    engine.signal(Signal::KILL);
    engine.wait();
    let dump = look("killed");
    assert_eq!(
        (&dump["study"]["status"], &dump["study"]["engine"]["alive"]),
        (&"interrupted".into(), &false.into())
    );
    sandbox.write("gate", "");
    sandbox.ok("run study.toml", 0);
    let before = fs::read(sandbox.path("study.redb")).unwrap();
    look("finished");
    sandbox.ok("verify study.redb", 0);
    assert_eq!(fs::read(sandbox.path("study.redb")).unwrap(), before, "looking changes nothing");
}

/// A store that a crash left, where it cannot be written: as root, permissions do not stop anybody, so the test uses
/// an immutable mount of the directory, read-only.
#[test]
fn looking_works_in_a_read_only_folder_after_a_crash() {
    let sandbox = small();
    let engine = gate(&sandbox);
    engine.signal(Signal::KILL);
    engine.wait();
    let before = fs::read(sandbox.path("study.redb")).unwrap();
    let dir = sandbox.path("");
    let script = format!(
        "mount --bind '{0}' '{0}' && mount -o remount,ro,bind '{0}' && cd '{0}' && \
         ! touch probe 2>/dev/null && '{1}' status study.redb && '{1}' dump study.redb --format json",
        dir.display(),
        env!("CARGO_BIN_EXE_piton")
    );
    let output = std::process::Command::new("unshare")
        .args(["--mount", "--map-root-user", "sh", "-c", &script])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", both(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains(r#""status":"interrupted""#), "{text}");
    assert_eq!(fs::read(sandbox.path("study.redb")).unwrap(), before, "not a byte was changed");
}

#[test]
fn dump_has_the_schema_and_its_formats() {
    let sandbox = finished();
    let dump = sandbox.dump();
    assert_eq!(dump["schema"], 1);
    let keys = |value: &serde_json::Value| {
        let mut keys: Vec<String> = value.as_object().unwrap().keys().cloned().collect();
        keys.sort();
        keys.join(" ")
    };
    assert_eq!(keys(&dump), "accounting events schema stages study trials");
    assert_eq!(
        keys(&dump["study"]),
        "abort_reason aborted created_at engine name runtime_s seed spec_hash status versions"
    );
    assert_eq!(
        keys(&dump["stages"][0]),
        "cancelled closed_at failed index name opened_at pending planned running status succeeded survivor_count survivors trial_budget"
    );
    assert_eq!(
        keys(&dump["trials"][0]),
        "attempts case failure id metrics outputs params parent stage state survivor"
    );
    assert_eq!(
        keys(&dump["trials"][0]["attempts"][0]),
        "cpu_s dir ended_at exit_code n outcome peak_rss_bytes signal started_at wall_s"
    );
    assert_eq!(keys(&dump["accounting"]), "attempts_started failed imported interrupted reused running succeeded");
    let failed = &dump["trials"][2];
    assert_eq!(keys(&failed["failure"]), "kind log_excerpt reason severity");
    assert_eq!(
        (&failed["failure"]["kind"], &failed["attempts"][0]["exit_code"]),
        (&"exit_code".into(), &7.into())
    );
    assert_eq!(failed["failure"]["log_excerpt"], "err of small_0_2");
    let best = &dump["trials"][3];
    assert_eq!(
        (&best["case"], &best["parent"], &best["survivor"]),
        (&"small_0_3".into(), &"small".into(), &true.into())
    );
    assert_eq!(best["params"], serde_json::json!({ "base": 10, "n": 4 }));
    assert_eq!(best["metrics"], serde_json::json!({ "sum": 14 }));
    assert!(best["attempts"][0]["peak_rss_bytes"].as_u64().unwrap() > 0, "measured");
    let out =
        blake3::hash(&fs::read(sandbox.path("artifacts/small/0_first/small_0_3/attempt_1/out.txt")).unwrap());
    assert_eq!(best["outputs"]["out.txt"]["blake3"], out.to_hex().as_str());

    let lines = sandbox.ok("dump study.redb --format jsonl", 0);
    assert!(lines.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
    assert_eq!(lines.lines().filter(|line| line.contains(r#""type":"trial""#)).count(), 4);
    let csv = sandbox.ok("dump study.redb --format csv", 0);
    assert_eq!(csv.lines().count(), 5);
    let events = sandbox.ok("dump study.redb --events --format jsonl", 0);
    assert_eq!(events.lines().count() as u64, dump["events"].as_u64().unwrap());
}

#[test]
fn at_shows_the_state_as_of_an_event() {
    let sandbox = finished();
    let events = sandbox.ok("dump study.redb --events --format jsonl", 0);
    let seq_of = |what: &str| {
        let line = events.lines().find(|line| line.contains(what)).unwrap();
        serde_json::from_str::<serde_json::Value>(line).unwrap()["seq"].as_u64().unwrap()
    };
    let at = |seq: u64| -> serde_json::Value {
        serde_json::from_str(&sandbox.ok(&format!("dump study.redb --format json --at {seq}"), 0)).unwrap()
    };
    assert_eq!(at(1)["stages"][0]["status"], "waiting");
    let before_close = at(seq_of("stage_closed") - 1);
    assert_eq!(
        (&before_close["stages"][0]["status"], &before_close["stages"][0]["succeeded"]),
        (&"open".into(), &3.into())
    );
    assert_eq!(at(seq_of("run_ended"))["study"]["status"], "completed");
    sandbox.ok("dump study.redb --at 0", 2);
    sandbox.ok("dump study.redb --at 99999", 2);
}

#[test]
fn canonical_dumps_do_not_depend_on_the_run() {
    let one = finished();
    let other = small();
    other.ok("run study.toml -j 4", 0);
    assert_eq!(one.canonical(), other.canonical());
    assert!(one.canonical().contains("small_0_3"));
}

#[test]
fn logs_and_why() {
    let sandbox = finished();
    assert_eq!(sandbox.ok("logs study.redb small_0_2", 0), "out of small_0_2\n");
    assert_eq!(sandbox.ok("logs study.redb small_0_2 --stderr", 0), "err of small_0_2\n");
    assert_eq!(sandbox.ok("logs study.redb small_0_2 --follow", 0), "out of small_0_2\n");
    let output = sandbox.run("logs study.redb small_0_9");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no case `small_0_9`"));
    let why = sandbox.ok("why study.redb small_0_1", 0);
    assert!(why.contains("small_0_3") && why.contains("sum"), "{why}");
    let failed = sandbox.ok("why study.redb small_0_2", 0);
    assert!(failed.contains("exited with code 7"), "{failed}");
    let json: serde_json::Value = serde_json::from_str(&sandbox.ok("why study.redb small_0_3 --json", 0)).unwrap();
    assert_eq!(json["case"], "small_0_3");
}

#[test]
fn follow_ends_with_the_trial() {
    let sandbox = small();
    let engine = gate(&sandbox);
    let follow = sandbox.piton(["logs", "study.redb", "small_0_0", "--follow"]);
    let mut follow = { follow }.stdout(std::process::Stdio::piped()).spawn().unwrap();
    sandbox.write("gate", "");
    assert_eq!(engine.wait().code(), Some(0));
    let mut text = String::new();
    std::io::Read::read_to_string(&mut follow.stdout.take().unwrap(), &mut text).unwrap();
    assert!(follow.wait().unwrap().success());
    assert_eq!(text, "out of small_0_0\n");
}

#[test]
fn retry_makes_failed_trials_pending_again() {
    let sandbox = Sandbox::with_study(small_file());
    sandbox.write("input.txt", "x");
    // Fails for n = 3 until `mended` is there; the last trial waits, so that the stage stays open.
    let body = r#"[ "$2" = 3 ] && [ ! -e "$PITON_STUDY_DIR/mended" ] && exit 7
[ "$2" = 4 ] && { touch "$PITON_STUDY_DIR/last"; while [ ! -e "$PITON_STUDY_DIR/gate" ]; do sleep 0.02; done; }
echo x > out.txt
echo "{\"sum\": $(( $1 + $2 ))}" > metrics.json"#;
    sandbox.script("trial.sh", body);
    let engine = sandbox.start("run study.toml -j 1 --drain-for 10ms");
    wait_until("the last trial runs", || sandbox.path("last").exists());
    engine.signal(Signal::TERM);
    assert_eq!(engine.wait().code(), Some(75));
    let output = sandbox.run("retry study.redb small_0_0 nonsense");
    assert_eq!(output.status.code(), Some(2));
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(words.contains("`small_0_0` has not failed") && words.contains("no case `nonsense`"), "{words}");
    let json = sandbox.ok("retry study.redb --failed --json", 0);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap()["pending_again"][0], "small_0_2");
    sandbox.write("mended", "");
    sandbox.write("gate", "");
    sandbox.ok("resume study.redb", 0);
    let dump = sandbox.dump();
    assert_eq!(dump["trials"][2]["state"], "succeeded");
    assert_eq!(
        dump["trials"][2]["attempts"].as_array().unwrap().len(),
        2,
        "the failed attempt stays in the record"
    );
    sandbox.ok("verify study.redb", 0);
    // Nothing is left that could run again.
    let none = sandbox.ok("retry study.redb --failed --json", 0);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&none).unwrap()["pending_again"], serde_json::json!([]));
}

#[test]
fn verify_finds_a_changed_output() {
    let sandbox = finished();
    assert!(sandbox.ok("verify study.redb", 0).contains("the store is consistent"));
    fs::write(sandbox.path("artifacts/small/0_first/small_0_1/attempt_1/out.txt"), "other").unwrap();
    fs::remove_file(sandbox.path("artifacts/small/0_first/small_0_0/attempt_1/out.txt")).unwrap();
    let found = sandbox.ok("verify study.redb", 4);
    assert!(found.contains("`small_0_0` is gone") && found.contains("`small_0_1` has"), "{found}");
    let json: serde_json::Value = serde_json::from_str(&sandbox.ok("verify study.redb --json", 4)).unwrap();
    assert_eq!((&json["ok"], &json["outputs_differing"]), (&false.into(), &2.into()));
}

#[test]
fn exports_are_there_and_have_their_shape() {
    let sandbox = finished();
    let read = |name: &str| -> serde_json::Value {
        serde_json::from_slice(&fs::read(sandbox.path("artifacts/small").join(name)).unwrap()).unwrap()
    };
    let checkpoint = read("study_checkpoint.json");
    assert_eq!(checkpoint["study_name"], "small");
    assert_eq!(checkpoint["last_completed_stage_index"], 0);
    assert_eq!(checkpoint["checkpoint_version"], "1.0");
    let stage = &checkpoint["completed_stages"][0];
    assert_eq!((&stage["stage_index"], &stage["stage_name"]), (&0.into(), &"first".into()));
    assert_eq!(stage["survivor_case_ids"], serde_json::json!(["small_0_3"]));
    assert_eq!((&stage["trials_completed"], &stage["trials_failed"]), (&3.into(), &1.into()));
    read("study_telemetry.json");
    read("stage_0_telemetry.json");
    let lines = sandbox.lines("artifacts/small/telemetry.jsonl");
    assert_eq!(lines.len() as u64, sandbox.dump()["events"].as_u64().unwrap());
}

#[test]
fn new_makes_studies_that_run() {
    for template in ["basic", "chip"] {
        let sandbox = Sandbox::new();
        sandbox.ok(&format!("new mine --template {template}"), 0);
        sandbox.ok("check mine/study.toml", 0);
        sandbox.ok("run mine/study.toml", 0);
        sandbox.ok(&format!("new mine --template {template}"), 1);
    }
    let sandbox = Sandbox::new();
    assert!(sandbox.ok("new x --template list", 0).contains("basic"));
    sandbox.ok("new x --template nothing", 2);
}

#[test]
fn set_overrides_and_belongs_to_the_study() {
    let sandbox = small();
    sandbox.ok("run study.toml --set base=100", 0);
    assert_eq!(sandbox.dump()["trials"][0]["metrics"]["sum"], 101);
    sandbox.ok("run study.toml", 6);
    sandbox.ok("check study.toml --set bsae=1", 2);
}

#[test]
fn stores_that_are_none_are_told_so() {
    let sandbox = Sandbox::new();
    for (name, bytes) in [("empty.redb", &b""[..]), ("text.redb", b"not a store"), ("zeros.redb", &[0; 9000])] {
        fs::write(sandbox.path(name), bytes).unwrap();
        for command in ["status", "dump", "verify", "resume"] {
            let output = sandbox.run(&format!("{command} {name}"));
            assert_eq!(output.status.code(), Some(7), "{command} {name}: {}", both(&output));
            let words = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(words.contains(&format!("`{name}` is damaged or no piton store")), "{words}");
        }
        assert_eq!(fs::read(sandbox.path(name)).unwrap(), bytes, "never changed");
    }
    assert_eq!(sandbox.run("status none.redb").status.code(), Some(1));
}

#[test]
fn a_missing_program_and_a_missing_output_are_named() {
    let sandbox = Sandbox::with_study(
        StudyFile::new("s")
            .stage("a", ["{program}"], 3, 1)
            .with(r#"outputs = ["out.txt"]"#)
            .sweep(r#"program = ["no-such-program", "./no-such-file.sh", "true"]"#),
    );
    sandbox.ok("run study.toml", 3);
    let dump = sandbox.dump();
    assert_eq!((&dump["study"]["status"], &dump["study"]["aborted"]), (&"aborted".into(), &true.into()));
    let kinds: Vec<_> = (0..3).map(|n| dump["trials"][n]["failure"]["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["command_not_found", "command_not_found", "missing_output"]);
    sandbox.ok("run study.toml", 3);
    // Nothing is lost: with the cause mended, the same study goes on.
    sandbox.script("no-such-file.sh", "echo x > out.txt");
    sandbox.ok("retry study.redb s_0_1", 0);
    sandbox.ok("resume study.redb", 0);
    assert_eq!(sandbox.dump()["study"]["status"], "completed");
    sandbox.ok("verify study.redb", 0);
}

#[test]
fn a_full_disk_says_what_is_safe_and_the_study_goes_on_later() {
    let sandbox = small();
    sandbox.script("trial.sh", TRIAL);
    // A file size limit (in units of 512 bytes) is the nearest thing to a full disk that needs no mount: the store
    // can be made, but not grow.
    let script = format!("ulimit -f 160; exec '{}' run study.toml", env!("CARGO_BIN_EXE_piton"));
    let mut command = std::process::Command::new("sh");
    command.arg("-c").arg(script).current_dir(sandbox.path(""));
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    let cause =
        "error: cannot record the progress of the study in `study.redb`\ncaused by: file too large\nnote: ";
    assert!(words.contains(cause) && words.contains("safe; what was running will run again"), "{words}");
    sandbox.ok("run study.toml", 0);
    assert_eq!(sandbox.dump()["study"]["status"], "completed");
}

#[test]
fn another_store_does_not_touch_the_first_ones_artifacts() {
    let sandbox = finished();
    let output = sandbox.run("run study.toml --store other.redb");
    assert_eq!(output.status.code(), Some(2));
    assert_snapshot!(stable(&sandbox, &String::from_utf8_lossy(&output.stderr)), @"
    error: the artifacts directory `[DIR]/artifacts/small` holds the outputs of another study
    note: they belong to the store `[DIR]/study.redb`
    hint: give this one a directory of its own with `--artifacts DIR`, or remove that store
    ");
    assert!(!sandbox.path("other.redb").exists());
    sandbox.ok("verify study.redb", 0);
    sandbox.ok("run study.toml --store other.redb --artifacts elsewhere", 0);
    assert_eq!(sandbox.ok("dump other.redb --canonical", 0), sandbox.canonical());
    sandbox.ok("verify study.redb", 0);
    // A store that is gone has no claim: starting afresh is as simple as removing it.
    fs::remove_file(sandbox.path("study.redb")).unwrap();
    sandbox.ok("run study.toml", 0);
    sandbox.ok("verify study.redb", 0);
}

#[test]
fn a_moved_project_goes_on() {
    let sandbox = small();
    let engine = gate(&sandbox);
    engine.signal(Signal::TERM);
    assert_eq!(engine.wait().code(), Some(75));
    sandbox.write("gate", "");
    fs::create_dir(sandbox.path("moved")).unwrap();
    for name in ["study.toml", "study.redb", "artifacts", "trial.sh", "input.txt", "gate"] {
        fs::rename(sandbox.path(name), sandbox.path("moved").join(name)).unwrap();
    }
    sandbox.ok("resume moved/study.redb", 0);
    sandbox.ok("verify moved/study.redb", 0);
    assert!(sandbox.path("moved/artifacts/small/0_first/small_0_3/attempt_1/out.txt").exists());
}

#[test]
fn the_exit_code_is_the_studys_even_if_nobody_reads_the_result() {
    let sandbox = Sandbox::with_study(StudyFile::new("s").stage("a", ["false"], 1, 1));
    let script = format!("'{}' run study.toml | true; exit ${{PIPESTATUS[0]}}", env!("CARGO_BIN_EXE_piton"));
    let mut command = std::process::Command::new("bash");
    let status = command.arg("-c").arg(script).current_dir(sandbox.path("")).status().unwrap();
    assert_eq!(status.code(), Some(3));
}

#[test]
fn exports_that_a_crash_left_stale_are_mended() {
    let sandbox = finished();
    let telemetry = sandbox.path("artifacts/small/study_telemetry.json");
    let (whole, checkpoint) =
        (fs::read(&telemetry).unwrap(), sandbox.path("artifacts/small/study_checkpoint.json"));
    fs::write(&telemetry, r#"{"events": 3}"#).unwrap();
    fs::remove_file(&checkpoint).unwrap();
    sandbox.ok("run study.toml", 0);
    assert_eq!(fs::read(&telemetry).unwrap(), whole);
    assert!(checkpoint.exists());
}

#[test]
fn a_copy_of_a_running_study_kills_nothing() {
    let sandbox = small();
    let engine = gate(&sandbox);
    wait_until("the start is recorded", || sandbox.dump()["accounting"]["running"] == 2);
    fs::copy(sandbox.path("study.redb"), sandbox.path("copy.redb")).unwrap();
    let output = sandbox.run("resume copy.redb");
    assert_eq!(output.status.code(), Some(5), "{}", both(&output));
    sandbox.write("gate", "");
    assert_eq!(engine.wait().code(), Some(0));
    assert_eq!(sandbox.dump()["accounting"]["attempts_started"], 4, "nothing was cut off");
}

#[test]
fn a_store_removed_under_the_engine_is_noticed() {
    let sandbox = small();
    let engine = gate(&sandbox);
    wait_until("the start is recorded", || sandbox.dump()["accounting"]["running"] == 2);
    fs::remove_file(sandbox.path("study.redb")).unwrap();
    sandbox.write("gate", "");
    assert_eq!(engine.wait().code(), Some(1));
    let told = sandbox.lines("engine.err").join("\n");
    assert!(told.contains("the store `study.redb` was removed or replaced"), "{told}");
}

/// Zeroed pages, one at a time: every command answers, by the truth or by exit code 7.
#[test]
fn a_damaged_store_is_told_and_never_panics() {
    let sandbox = finished();
    let whole = fs::read(sandbox.path("study.redb")).unwrap();
    let mut told = 0;
    for page in 0..whole.len() / 4096 {
        let mut damaged = whole.clone();
        damaged[page * 4096..(page + 1) * 4096].fill(0);
        fs::write(sandbox.path("damaged.redb"), &damaged).unwrap();
        for command in ["status", "dump", "verify"] {
            let output = sandbox.run(&format!("{command} damaged.redb"));
            let code = output.status.code();
            assert!(
                matches!(code, Some(0 | 7)) || code == Some(4) && command == "verify",
                "page {page}: {}",
                both(&output)
            );
            assert!(!both(&output).contains("panicked"), "page {page}: {}", both(&output));
            told += u32::from(code != Some(0));
        }
    }
    assert!(told > 0, "some pages matter");
}

#[test]
fn what_a_trial_puts_in_its_logs_place_is_not_followed() {
    let sandbox = Sandbox::with_study(StudyFile::new("s").stage(
        "a",
        "rm stdout.log; ln -s /dev/zero stdout.log; rm stderr.log; mkfifo stderr.log",
        1,
        1,
    ));
    sandbox.ok("run study.toml", 0);
    for line in ["logs study.redb s_0_0", "logs study.redb s_0_0 --stderr", "logs study.redb s_0_0 --follow"] {
        sandbox.ok(line, 1);
    }
}

#[test]
fn small_mistakes_of_usage_are_told_well() {
    let sandbox = finished();
    let says = |line: &str, code: i32, words: &str| {
        let output = sandbox.run(line);
        assert_eq!(output.status.code(), Some(code), "{line}: {}", both(&output));
        assert!(both(&output).contains(words), "{line}: {}", both(&output));
    };
    says("retry study.redb", 2, "which trials? `--failed` for all that failed");
    says("new", 2, "which directory is to be made?");
    says("status study.toml", 7, "the store of a study file is `study.redb`");
    says("run none.toml", 2, "cannot read the study file `none.toml`");
    says("run study.toml --store no/such/dir/x.redb", 1, "cannot make a store in");
    says("run study.toml --set", 2, "NAME=VALUE");
}

#[test]
fn completions_and_manual() {
    let sandbox = Sandbox::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(sandbox.ok(&format!("completions {shell}"), 0).contains("piton"));
    }
    let man = sandbox.ok("man", 0);
    assert!(man.contains(".TH piton") && man.contains("PITON RUN") && man.contains("drain"), "{man}");
}

#[test]
fn permissions_of_a_template_allow_it_to_run() {
    let sandbox = Sandbox::new();
    sandbox.ok("new mine", 0);
    let mode = fs::metadata(sandbox.path("mine/simulate.sh")).unwrap().permissions().mode();
    assert_eq!(mode & 0o111, 0o111);
}

#[test]
fn a_dump_of_many_trials_has_each_once_and_in_order() {
    // Aborted by its first failure, so that few of them run and all are shown.
    let sandbox = Sandbox::with_study(
        StudyFile::new("many")
            .stage("a", ["false"], 5000, 1)
            .sweep(r#"x = { min = 1, max = 5000, type = "int" }"#)
            .with("[stage.rails]\nmax_failure_rate = 0.5"),
    );
    sandbox.ok("run study.toml", 3);
    let lines = sandbox.ok("dump study.redb --format jsonl", 0);
    let parsed = lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let mut trials: Vec<_> = parsed.filter(|line| line["type"] == "trial").collect();
    for trial in &mut trials {
        trial.as_object_mut().unwrap().remove("type");
    }
    assert_eq!(trials.len(), 5_000);
    assert_eq!(serde_json::Value::from(trials), sandbox.dump()["trials"], "written by one thread");
    // Whoever stops reading stops the threads, too.
    let command = "\"$0\" dump study.redb --format jsonl | head -n 1";
    let mut head = std::process::Command::new("sh");
    head.args(["-c", command, env!("CARGO_BIN_EXE_piton")]).current_dir(sandbox.path("."));
    let first = head.output().unwrap();
    assert_eq!(String::from_utf8(first.stdout).unwrap().lines().next(), lines.lines().next());
    assert_eq!(first.stderr, b"");
}

/// Whatever a command is told to write: no store goes for it.
#[test]
fn no_file_that_a_command_writes_replaces_a_store() {
    let sandbox = Sandbox::with_six_trials("kept", "");
    sandbox.script("trial.sh", "printf '{\"n\": %d}' $1 > metrics.json");
    sandbox.ok("run study.toml --junit study.redb", 2);
    assert!(!crate::harness::exists(&sandbox.path("study.redb")), "nothing ran");
    sandbox.ok("run study.toml", 0);
    fs::copy(sandbox.path("study.redb"), sandbox.path("other.redb")).unwrap();
    std::os::unix::fs::symlink("other.redb", sandbox.path("link.html")).unwrap();
    fs::create_dir(sandbox.path("all")).unwrap();
    fs::copy(sandbox.path("study.redb"), sandbox.path("all/junit.xml")).unwrap();
    sandbox.ok("compare study.redb --write-baseline base.json --metric n", 0);
    for (line, code) in [
        ("report study.redb -o study.redb", 1),
        ("report study.redb -o other.redb", 1),
        ("report study.redb -o link.html", 1),
        ("compare study.redb --baseline base.json --junit study.redb", 1),
        ("compare study.redb --write-baseline other.redb", 2),
        ("run study.toml --junit other.redb", 2),
        ("export study.redb --to all", 1),
    ] {
        let output = sandbox.run(line);
        assert_eq!(output.status.code(), Some(code), "{line}: {}", both(&output));
        assert!(both(&output).contains("a store"), "{line}: {}", both(&output));
    }
    for store in ["study.redb", "other.redb", "all/junit.xml"] {
        sandbox.ok(&format!("status {store}"), 0);
    }
}
