//! Changing a study that has begun: what is kept, what runs again, and what is refused.

use rustix::process::Signal;

use crate::harness::{Edit, Engine, Sandbox, StudyFile, both, wait_until};

/// One stage of shell trials that note their case in `log` and report `m`, the value of `n`.
fn study(budget: u64, more: impl AsRef<str>) -> StudyFile {
    StudyFile::new("s")
        .run("workers = 1")
        .stage("a", r#"echo $PITON_CASE >> $PITON_STUDY_DIR/log; echo "{{\"m\": {n}}}" > metrics.json"#, budget, 2)
        .sweep(r#"n = { min = 1, max = 10, type = "int" }"#)
        .maximize("m")
        .with(more)
}

/// A second stage, the children of the two best of the first.
fn second(budget: u64) -> StudyFile {
    StudyFile::fragment()
        .stage(
            "b",
            r#"echo $PITON_CASE n={n} k={k} >> $PITON_STUDY_DIR/log; echo "{{\"m\": {k}}}" > metrics.json"#,
            budget,
            1,
        )
        .sweep(r#"k = { min = 1, max = 9, type = "int" }"#)
        .maximize("m")
}

fn verified(sandbox: &Sandbox) -> serde_json::Value {
    sandbox.ok("verify study.redb", 0);
    sandbox.dump()
}

fn last_seq(sandbox: &Sandbox) -> usize {
    sandbox.ok("dump study.redb --events --format jsonl", 0).lines().count()
}

/// A study that was cut off in its third trial, which waits for `gate`.
fn interrupted(text: &StudyFile) -> Sandbox {
    let sandbox = Sandbox::with_study(text);
    waiting(&sandbox, "s_0_2").wait_killed();
    sandbox.write("gate", "");
    sandbox
}

/// Starts it, until this case, which waits for `gate`, is known to run.
fn waiting(sandbox: &Sandbox, case: &str) -> Engine {
    let engine = sandbox.start("run study.toml");
    wait_until("the trial runs", || sandbox.lines("log").iter().any(|line| line == case));
    // A start may be recorded before the result of the trial that made room for it.
    let before = sandbox.lines("log").len() - 1;
    let recorded = || {
        let dump = sandbox.dump();
        let trials = dump["trials"].as_array().unwrap();
        let state = |state: &str| trials.iter().filter(|trial| trial["state"] == state).count();
        let runs = trials.iter().any(|trial| trial["case"] == case && trial["state"] == "running");
        runs && state("succeeded") == before
    };
    wait_until("its start is recorded", || sandbox.path("study.redb").exists() && recorded());
    engine
}

trait Killed {
    fn wait_killed(self);
}

impl Killed for Engine {
    fn wait_killed(self) {
        self.signal(Signal::KILL);
        self.wait();
    }
}

fn gated(text: &StudyFile) -> StudyFile {
    text.edit("; echo ", "; [ {n} != 3 ] || while [ ! -e $PITON_STUDY_DIR/gate ]; do sleep 0.02; done; echo ")
}

#[test]
fn a_larger_budget_on_an_interrupted_study_runs_the_new_trials_and_no_old_one_twice() {
    let sandbox = interrupted(&gated(&study(4, "")));
    let words = sandbox.amend(gated(&study(7, "")), "--yes", 0);
    assert!(words.contains("adds 3 trials: `s_0_4` to `s_0_6`"), "{words}");
    verified(&sandbox);
    sandbox.ok("run study.toml", 0);
    let expected = ["s_0_0", "s_0_1", "s_0_2", "s_0_2", "s_0_3", "s_0_4", "s_0_5", "s_0_6"];
    assert_eq!(sandbox.lines("log"), expected, "only what was cut off runs again");
    let dump = verified(&sandbox);
    assert_eq!(dump["stages"][0]["survivors"], serde_json::json!(["s_0_6", "s_0_5"]));
    assert_eq!(dump["stages"][0]["trial_budget"], 7);
}

#[test]
fn a_finished_study_can_be_extended_twice() {
    let sandbox = Sandbox::finished(study(3, ""), 0);
    let words = sandbox.amend(study(4, ""), "--yes", 0);
    assert!(words.contains("adds 1 trial: `s_0_3`") && words.contains("goes on"), "{words}");
    let dump = verified(&sandbox);
    assert_eq!((&dump["study"]["status"], &dump["stages"][0]["status"]), (&"interrupted".into(), &"open".into()));
    assert_eq!(dump["stages"][0]["survivors"], serde_json::json!([]));
    sandbox.amend(study(6, ""), "--yes", 0);
    sandbox.ok("resume study.redb", 0);
    assert_eq!(sandbox.lines("log"), ["s_0_0", "s_0_1", "s_0_2", "s_0_3", "s_0_4", "s_0_5"]);
    let dump = verified(&sandbox);
    assert_eq!(dump["study"]["status"], "completed");
    assert_eq!(dump["stages"][0]["survivors"], serde_json::json!(["s_0_5", "s_0_4"]));
    sandbox.ok("run study.toml", 0);
    assert_eq!(sandbox.lines("log").len(), 6);
}

#[test]
fn a_budget_over_several_parents_keeps_the_numbers_of_old_trials() {
    let sandbox = Sandbox::finished(study(3, second(3)), 0);
    // The best, n = 3, has two children, the other, n = 2, has one.
    let before = sandbox.lines("log");
    assert_eq!(before[3..], ["s_1_0 n=3 k=1", "s_1_1 n=3 k=2", "s_1_2 n=2 k=1"]);
    sandbox.amend(study(3, second(6)), "--yes", 0);
    sandbox.ok("run study.toml", 0);
    let log = sandbox.lines("log");
    assert_eq!(log[..6], before);
    assert_eq!(log[6..], ["s_1_3 n=3 k=3", "s_1_4 n=2 k=2", "s_1_5 n=2 k=3"]);
    let dump = verified(&sandbox);
    assert_eq!(dump["stages"][1]["survivors"], serde_json::json!(["s_1_3"]));
    assert!(sandbox.ok("why study.redb s_1_4", 0).contains("s_0_1"));
    assert_eq!(sandbox.canonical(), sandbox.canonical());
}

#[test]
fn a_stage_can_be_appended_to_a_finished_study() {
    let sandbox = Sandbox::finished(study(3, ""), 0);
    let words = sandbox.amend(study(3, second(4)), "--yes", 0);
    assert!(words.contains("adds 4 trials: `s_1_0` to `s_1_3`"), "{words}");
    assert_eq!(verified(&sandbox)["study"]["status"], "interrupted");
    sandbox.ok("run study.toml", 0);
    assert_eq!(sandbox.lines("log").len(), 7, "the first stage did not run again");
    let dump = verified(&sandbox);
    assert_eq!(dump["stages"][1]["survivors"], serde_json::json!(["s_1_1"]));
}

#[test]
fn harmless_changes_run_nothing_and_no_change_records_nothing() {
    let sandbox = Sandbox::finished(study(3, ""), 0);
    let before = last_seq(&sandbox);
    assert!(sandbox.amend(study(3, ""), "--yes", 0).contains("nothing to amend"));
    assert_eq!(last_seq(&sandbox), before);
    // A table for an executor that is not used is checked, and counts for nothing.
    let idle = study(3, "").edit("workers = 1", "workers = 1\n[run.slurm]\npartition = \"x\"");
    let words = sandbox.amend(&idle, "--yes", 0);
    assert!(words.contains("`[run.slurm]` counts for nothing while `executor` is `local`"), "{words}");
    assert!(!words.contains("run.ray"), "{words}");
    assert_eq!(last_seq(&sandbox), before);
    let described = study(3, "").edit("name = \"s\"", "name = \"s\"\ndescription = \"d\"");
    let words = sandbox.amend(&described, "", 2);
    assert!(words.contains("harmless") && words.contains("--yes"), "{words}");
    assert_eq!(last_seq(&sandbox), before, "not without `--yes`");
    let json = sandbox.amend(&described, "--yes --json", 0);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["changes"][0]["class"], "harmless");
    assert_eq!((&json["applied"], &json["reopens"]), (&true.into(), &false.into()));
    assert_eq!(verified(&sandbox)["study"]["status"], "completed");
    sandbox.ok("run study.toml", 0);
    assert_eq!(sandbox.lines("log").len(), 3);
}

#[test]
fn what_alters_results_is_refused_until_they_are_discarded() {
    let sandbox = Sandbox::finished(study(3, second(2)), 0);
    let before = last_seq(&sandbox);
    let other = study(3, second(2)).edit("k = { min = 1", "k = { min = 5");
    let scratch = |case: &str| sandbox.path(&format!("artifacts/s/{case}/scratch/checkpoint"));
    for case in ["0_a/s_0_0", "1_b/s_1_0"] {
        std::fs::write(scratch(case), "of a run").unwrap();
    }
    let words = sandbox.amend(&other, "--yes", 6);
    assert!(scratch("1_b/s_1_0").exists());
    assert!(words.contains("2 finished trials from stage `b`") && words.contains("--discard-from b"), "{words}");
    assert_eq!(last_seq(&sandbox), before);

    let words = sandbox.amend(&other, "--yes --discard-from b", 0);
    assert!(words.contains("stage `b`: 2 finished trials"), "{words}");
    assert!(scratch("0_a/s_0_0").exists() && !scratch("1_b/s_1_0").exists(), "no checkpoint outlives its results");
    let dump = verified(&sandbox);
    assert_eq!((&dump["stages"][1]["status"], &dump["stages"][1]["planned"]), (&"waiting".into(), &0.into()));
    assert_eq!(dump["accounting"]["succeeded"], 5, "what ran has run");
    sandbox.ok("run study.toml", 0);
    let log = sandbox.lines("log");
    assert_eq!(log[5..], ["s_1_0 n=3 k=5", "s_1_1 n=2 k=5"], "the first stage keeps its results");
    assert_eq!(verified(&sandbox)["trials"][3]["metrics"]["m"], 5.0);
    let old = sandbox.ok(&format!("dump study.redb --format json --at {before}"), 0);
    let old: serde_json::Value = serde_json::from_str(&old).unwrap();
    assert_eq!(old["trials"][3]["metrics"]["m"], 1.0);
    assert_eq!(old["study"]["status"], "completed");
}

#[test]
fn a_later_stage_that_is_not_enough_is_refused_too() {
    let sandbox = Sandbox::finished(study(3, second(2)), 0);
    let other = study(3, second(2)).edit("n = { min = 1", "n = { min = 2");
    let words = sandbox.amend(&other, "--yes --discard-from b", 6);
    assert!(words.contains("from stage `a`"), "{words}");
    sandbox.amend(&other, "--yes --discard-from nonsense", 2);
    sandbox.amend(&other, "--yes --discard-from a", 0);
    sandbox.ok("run study.toml", 0);
    let dump = verified(&sandbox);
    assert_eq!(dump["trials"][0]["metrics"]["m"], 2.0);
    assert_eq!(sandbox.lines("log").len(), 10);
    let renamed = other.edit("name = \"s\"", "name = \"t\"");
    assert!(sandbox.amend(&renamed, "--yes", 6).contains("study.name"));
}

#[test]
fn more_trials_in_an_earlier_stage_cost_the_later_one() {
    let sandbox = Sandbox::finished(study(3, second(2)), 0);
    let words = sandbox.amend(study(4, second(2)), "--yes", 6);
    assert!(words.contains("from stage `b`"), "{words}");
    sandbox.amend(study(4, second(2)), "--yes --discard-from b", 0);
    sandbox.ok("run study.toml", 0);
    let log = sandbox.lines("log");
    assert_eq!(log[5..], ["s_0_3", "s_1_0 n=4 k=1", "s_1_1 n=3 k=1"]);
    verified(&sandbox);
    // Trial 3 was `s_1_0` once, and is `s_0_3` now: each event says what it was.
    let events = sandbox.ok("dump study.redb --events --format jsonl", 0);
    let started = |case: &str| {
        let case = format!(r#""type":"attempt_started","trial":3,"case":"{case}""#);
        events.lines().filter(|line| line.contains(&case)).count()
    };
    assert_eq!((started("s_1_0"), started("s_0_3")), (1, 1), "{events}");
}

#[test]
fn other_survivors_are_chosen_without_running_anything_again() {
    let sandbox = Sandbox::finished(study(3, ""), 0);
    let words = sandbox.amend(study(3, "").edit("survivor_count = 2", "survivor_count = 3"), "--yes", 0);
    assert!(words.contains("survivors are chosen anew"), "{words}");
    sandbox.ok("run study.toml", 0);
    assert_eq!(verified(&sandbox)["stages"][0]["survivors"], serde_json::json!(["s_0_2", "s_0_1", "s_0_0"]));
    assert_eq!(sandbox.lines("log").len(), 3);
}

#[test]
fn an_aborted_study_goes_on_under_other_rails() {
    let rails = "[stage.rails]\nabort_if = [{ metric = \"m\", above = 2 }]";
    let sandbox = Sandbox::with_study(study(5, rails));
    sandbox.ok("run study.toml", 3);
    let words = sandbox.amend(study(5, rails.edit("above = 2", "above = 99")), "--yes", 0);
    assert!(words.contains("goes on"), "{words}");
    verified(&sandbox);
    sandbox.ok("run study.toml", 0);
    assert_eq!(sandbox.lines("log").len(), 5);
    let dump = verified(&sandbox);
    assert_eq!((&dump["study"]["aborted"], &dump["study"]["abort_reason"]), (&false.into(), &().into()));
}

#[test]
fn changed_inputs_are_taken_only_with_their_results_discarded() {
    let text = study(3, "").edit("name = \"s\"", "name = \"s\"\ninputs = [\"input.txt\"]");
    let sandbox = Sandbox::with_study(&text);
    sandbox.write("input.txt", "one");
    sandbox.ok("run study.toml", 0);
    sandbox.write("input.txt", "other");
    assert!(sandbox.amend(&text, "--yes", 6).contains("input.txt"));
    sandbox.amend(&text, "--yes --discard-from a", 0);
    sandbox.ok("run study.toml", 0);
    assert_eq!(sandbox.lines("log").len(), 6);
    verified(&sandbox);
}

#[test]
fn nothing_is_amended_while_an_engine_runs() {
    let sandbox = Sandbox::with_study(gated(&study(4, "")));
    let engine = waiting(&sandbox, "s_0_2");
    sandbox.amend(gated(&study(7, "")), "--yes", 5);
    sandbox.write("gate", "");
    assert_eq!(engine.wait().code(), Some(0));
    assert_eq!(sandbox.lines("log").len(), 4);
}

#[test]
fn kills_before_and_after_an_amendment_change_nothing() {
    let sandbox = interrupted(&gated(&study(4, second(2))));
    // The attempt that was cut off is settled and discarded with its stage.
    sandbox.amend(
        gated(&study(5, second(3))).edit("min = 1, max = 10", "min = 3, max = 10"),
        "--yes --discard-from a",
        0,
    );
    let dump = verified(&sandbox);
    assert_eq!((&dump["accounting"]["running"], &dump["accounting"]["interrupted"]), (&0.into(), &1.into()));
    std::fs::remove_file(sandbox.path("gate")).unwrap();
    std::fs::remove_file(sandbox.path("log")).unwrap();
    waiting(&sandbox, "s_0_0").wait_killed();
    verified(&sandbox);
    sandbox.write("gate", "");
    sandbox.ok("resume study.redb", 0);
    assert_eq!(sandbox.lines("log")[..7], ["s_0_0", "s_0_0", "s_0_1", "s_0_2", "s_0_3", "s_0_4", "s_1_0 n=7 k=1"]);
    let dump = verified(&sandbox);
    assert_eq!(dump["study"]["status"], "completed");
    assert_eq!(dump["stages"][0]["survivors"], serde_json::json!(["s_0_4", "s_0_3"]));
}

/// The command on a terminal of its own, where this is typed.
fn typed(sandbox: &Sandbox, command: &str, keys: &str) -> (Option<i32>, String) {
    use std::io::Write;
    let line = format!("{} {command}", env!("CARGO_BIN_EXE_piton"));
    let mut terminal = std::process::Command::new("script");
    terminal.args(["-qec", &line, "/dev/null"]).current_dir(sandbox.path(".")).env("NO_COLOR", "1");
    terminal.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = terminal.spawn().unwrap();
    child.stdin.take().unwrap().write_all(keys.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.code(), both(&output))
}

#[test]
fn on_a_terminal_it_asks_first() {
    let sandbox = Sandbox::finished(study(3, ""), 0);
    sandbox.write("study.toml", study(4, ""));
    for keys in ["n\n", "\n", "yeah\n", "\u{4}"] {
        let before = sandbox.dump()["events"].clone();
        let (code, said) = typed(&sandbox, "amend study.redb study.toml", keys);
        assert!(said.contains("accept these changes? [y/N]"), "{said}");
        assert_ne!(code, Some(0), "{keys:?}: {said}");
        assert_eq!(sandbox.dump()["events"], before, "{keys:?}");
    }
    let (code, said) = typed(&sandbox, "amend study.redb study.toml", "y\n");
    assert_eq!(code, Some(0), "{said}");
    sandbox.ok("run study.toml", 0);
    assert_eq!(sandbox.lines("log").len(), 4);
}

/// Without a terminal, too: what would happen is shown, and nothing does.
#[test]
fn a_dry_run_shows_the_plan_and_changes_nothing() {
    let sandbox = Sandbox::finished(study(3, ""), 0);
    let before = sandbox.dump();
    let said = sandbox.amend(study(5, ""), "--dry-run", 0);
    assert!(said.contains("adds 2 trials") && said.contains("nothing was changed"), "{said}");
    let json: serde_json::Value =
        serde_json::from_str(&sandbox.ok("amend study.redb study.toml --dry-run --json", 0)).unwrap();
    assert_eq!((&json["added_trials"], &json["applied"]), (&2.into(), &false.into()));
    // What would be refused is, and what would be discarded is said.
    let other = study(3, "").edit("min = 1", "min = 2");
    assert!(sandbox.amend(&other, "--dry-run", 6).contains("--discard-from a"));
    let said = sandbox.amend(&other, "--dry-run --discard-from a", 0);
    assert!(said.contains("discards    stage `a`: 3 finished trials"), "{said}");
    sandbox.amend(study(5, ""), "--dry-run --yes", 2);
    // No tool is asked either.
    let tools = study(3, "").edit("name = \"s\"", "name = \"s\"\nversions = { t = [\"./asked.sh\"] }");
    sandbox.script("asked.sh", "touch asked; echo 1");
    let said = sandbox.amend(&tools, "--dry-run", 0);
    assert!(said.contains("runs        `./asked.sh`") && !sandbox.path("asked").exists(), "{said}");
    assert_eq!(sandbox.dump(), before);
    // Nobody can be asked here.
    let said = sandbox.amend(study(5, ""), "", 2);
    assert!(said.contains("`--yes` accepts the changes, `--dry-run` only shows them"), "{said}");
}

#[test]
fn a_base_command_that_failed_can_be_mended_and_one_that_succeeded_counts() {
    let base = |command: &str| study(2, "").with(format!("[base]\ncommand = \"{command}\""));
    let sandbox = Sandbox::with_study(base("echo base >> $PITON_STUDY_DIR/log; exit 3"));
    sandbox.ok("run study.toml", 3);
    let said = sandbox.amend(base("echo again >> $PITON_STUDY_DIR/log"), "--yes", 0);
    assert!(said.contains("it runs before the first stage"), "{said}");
    sandbox.ok("run study.toml", 0);
    assert_eq!(sandbox.lines("log"), ["base", "again", "s_0_0", "s_0_1"]);
    // Results came after it: another command would be another study's.
    let said = sandbox.amend(base("echo third >> $PITON_STUDY_DIR/log"), "--yes", 6);
    assert!(said.contains("alters results"), "{said}");
    // Its time limit changes nothing that is finished.
    let said = sandbox.amend(base("echo again >> $PITON_STUDY_DIR/log\"\ntimeout = \"5s"), "--yes", 0);
    assert!(said.contains("it has succeeded already"), "{said}");
    sandbox.ok("verify study.redb", 0);
}

/// Samplings whose cases are listed to be known: each is cut to two of its cases, then gets two more.
#[test]
fn a_larger_budget_goes_on_with_more_cases_whatever_the_sampling() {
    for (sampling, sweep) in [
        ("sobol", "x = [1, 2, 3, 4, 5]"),
        ("sobol", "x = { min = 1, max = 9, type = \"int\" }"),
        ("random", "x = { min = 1, max = 40, type = \"int\", log = true }"),
        ("random", "x = { min = 1, max = 4, type = \"int\", log = true }\ny = [true, false]"),
        ("random", "x = { min = 0.0, max = 1.0 }"),
        ("sobol", "x = { min = 0.0, max = 1.0 }"),
    ] {
        let text = |budget: u64| {
            StudyFile::new("s")
                .stage("a", ["true"], budget, 1)
                .with(format!(r#"sampling = "{sampling}""#))
                .sweep(sweep)
        };
        let params = |sandbox: &Sandbox| -> Vec<serde_json::Value> {
            sandbox.dump()["trials"].as_array().unwrap().iter().map(|trial| trial["params"].clone()).collect()
        };
        let sandbox = Sandbox::finished(text(2), 0);
        let before = params(&sandbox);
        sandbox.amend(text(4), "--yes", 0);
        sandbox.ok("verify study.redb", 0);
        sandbox.ok("run study.toml", 0);
        sandbox.ok("verify study.redb", 0);
        let grown = params(&sandbox);
        assert_eq!((grown.len(), &grown[..2]), (4, &before[..]), "{sampling} {sweep}");
        assert_eq!(grown, params(&Sandbox::finished(text(4), 0)), "{sampling} {sweep}");
    }
}

/// Rows at the end of a file of cases are more trials, with a budget that has room for them or gets it now; whatever the
/// file is called. Rows elsewhere are other trials.
#[test]
fn rows_at_the_end_of_a_file_of_cases_extend_a_finished_study() {
    for (file, inputs) in [("cases.csv", ""), ("c\u{ad}s.csv", "inputs = [\"c\u{ad}s.csv\"]")] {
        let study = |budget: u32| {
            StudyFile::new("rows")
                .with(inputs)
                .stage("a", ["./trial.sh", "{n}"], budget, 1)
                .with(format!(r#"sampling = {{ file = "{file}" }}"#))
        };
        let sandbox = Sandbox::with_study(study(3));
        sandbox.script("trial.sh", "echo $1 >> \"$PITON_STUDY_DIR/ran\"");
        sandbox.write(file, "n\n1\n2\n");
        sandbox.ok("run study.toml", 0);
        sandbox.write(file, "n\n1\n2\n3\n");
        let said = sandbox.ok("amend study.redb study.toml --yes", 0);
        assert!(
            said.contains("extends     stage \"a\".cases") && said.contains("adds 1 trial: `rows_0_2`"),
            "{said}"
        );
        sandbox.ok("run study.toml", 0);
        sandbox.write(file, "n\n1\n2\n3\n4\n5\n");
        sandbox.write("study.toml", study(5));
        let said = sandbox.ok("amend study.redb study.toml --yes", 0);
        assert!(said.contains("adds 2 trials: `rows_0_3` to `rows_0_4`"), "{said}");
        sandbox.ok("run study.toml", 0);
        assert_eq!(sandbox.lines("ran").len(), 5, "nothing ran twice");
        sandbox.ok("verify study.redb", 0);
        sandbox.write(file, "n\n0\n1\n2\n3\n4\n");
        let said = sandbox.ok("amend study.redb study.toml --yes", 6);
        assert!(said.contains("invalidates stage \"a\".cases"), "{said}");
    }
}

/// What a stage that has not begun is to try may be said otherwise, with more trials or without.
#[test]
fn a_waiting_stage_changes_its_sampling_for_nothing() {
    let study = |budget: u64, more: &str| {
        StudyFile::new("later")
            .stage("a", "true", 1, 1)
            .stage("b", "true", budget, 1)
            .with("approve = true")
            .with(more)
            .sweep(r#"n = { min = 1, max = 9, type = "int" }"#)
    };
    let sandbox = Sandbox::with_study(study(4, ""));
    sandbox.ok("run study.toml", 8);
    sandbox.write("study.toml", study(6, "sampling = \"random\""));
    let said = sandbox.ok("amend study.redb study.toml --yes", 0);
    assert!(said.contains("extends     stage \"b\".trial_budget"), "{said}");
    assert!(said.contains("harmless    stage \"b\".sampling"), "{said}");
}

/// Nothing is written and nothing is locked: what stands at the moment is shown.
#[test]
fn a_dry_run_looks_on_while_an_engine_runs() {
    let sandbox = Sandbox::with_six_trials("s", "[run]\nworkers = 1\n");
    sandbox.script("trial.sh", "touch $PITON_STUDY_DIR/began; while [ ! -e $PITON_STUDY_DIR/gate ]; do sleep 0.02; done\necho \"{\\\"n\\\": $1}\" > metrics.json");
    let engine = sandbox.start("run study.toml");
    wait_until("a trial runs", || sandbox.path("began").exists() && sandbox.dump()["accounting"]["running"] == 1);
    sandbox.edit("study.toml", "[run]", "[run]\ngrace = \"9s\"");
    let json: serde_json::Value =
        serde_json::from_str(&sandbox.ok("amend study.redb study.toml --dry-run --json", 0)).unwrap();
    assert_eq!((&json["study_runs"], &json["changes"][0]["class"]), (&true.into(), &"harmless".into()));
    let output = sandbox.run("amend study.redb study.toml --dry-run");
    assert!(both(&output).contains("the study runs: this is what holds at the moment"), "{}", both(&output));
    sandbox.ok("amend study.redb study.toml --yes", 5);
    // Also to what would be discarded.
    sandbox.ok("amend study.redb study.toml --dry-run --discard-from only", 0);
    sandbox.write("gate", "");
    assert_eq!(engine.wait().code(), Some(0));
    let json = sandbox.ok("amend study.redb study.toml --dry-run --json", 0);
    assert!(json.contains("\"study_runs\": false") || json.contains("\"study_runs\":false"), "{json}");
}

#[test]
fn an_approval_ahead_of_time_is_said_to_be_one() {
    let sandbox = Sandbox::finished(study(3, second(2)), 0);
    let gated = study(5, second(2).edit("name = \"b\"", "name = \"b\"\napprove = true"));
    sandbox.amend(&gated, "--yes --discard-from b", 0);
    let said = both(&sandbox.run("approve study.redb --stage b"));
    assert!(said.contains("ahead of time: stage `a` is not closed"), "{said}");
    sandbox.ok("run study.toml", 0);
}
