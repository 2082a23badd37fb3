//! What ends a study early, or makes it wait: rails, the base command, approval.

use rustix::process::Signal;

use crate::harness::{Edit, Sandbox, StudyFile, both, wait_until};

/// Ten trials, one at a time, `n` from 1; the trial is a line of shell.
fn study(top: &str, stage: impl AsRef<str>, line: &str) -> Sandbox {
    Sandbox::with_study(
        StudyFile::new("s")
            .with(top)
            .run("workers = 1")
            .stage("a", line, 10, 1)
            .sweep(r#"n = { min = 1, max = 10, type = "int" }"#)
            .maximize("m")
            .with(stage),
    )
}

const REPORT: &str = "echo \"{{\\\"m\\\": {n}}}\" > metrics.json";

/// Trials after number `last` wait for the gate, so that they cannot outrun the engine's decision.
fn gated_after(last: u32, line: &str) -> String {
    format!("[ {{n}} -le {last} ] || while [ ! -e $PITON_STUDY_DIR/gate ]; do sleep 0.02; done; {line}")
}

fn aborted(sandbox: &Sandbox, reason: &str) -> serde_json::Value {
    let engine = sandbox.start("run study.toml");
    wait_until("the rail broke", || {
        sandbox.path("study.redb").exists()
            && sandbox.ok("dump study.redb --events --format jsonl", 0).contains("study_aborted")
    });
    sandbox.write("gate", "");
    assert_eq!(engine.wait().code(), Some(3));
    let dump = sandbox.dump();
    assert_eq!((&dump["study"]["status"], &dump["study"]["aborted"]), (&"aborted".into(), &true.into()));
    let told = dump["study"]["abort_reason"].as_str().unwrap();
    assert!(told.contains(reason), "{told}");
    assert_eq!(dump["stages"][0]["status"], "aborted");
    assert_eq!(dump["accounting"]["running"], 0);
    sandbox.ok("verify study.redb", 0);
    // It stays so.
    sandbox.ok("run study.toml", 3);
    assert_eq!(sandbox.dump()["events"], dump["events"]);
    dump
}

#[test]
fn abort_if_ends_the_study_at_the_first_trial_beyond_the_bound() {
    let rails = "[stage.rails]\nabort_if = [{ metric = \"m\", above = 3 }]";
    let sandbox = study("", rails, &gated_after(4, REPORT));
    let dump = aborted(&sandbox, "`s_0_3`");
    assert_eq!(dump["trials"][3]["state"], "succeeded", "its result counts");
    assert_eq!(dump["trials"][9]["state"], "cancelled", "what had not begun never does");
    assert_eq!(dump["stages"][0]["pending"], 0);
    let events = sandbox.ok("dump study.redb --events --format jsonl", 0);
    let abort = events.lines().find(|line| line.contains("study_aborted")).unwrap();
    assert!(abort.contains(r#""violating":["s_0_3"]"#), "{abort}");
}

#[test]
fn a_metric_that_a_rail_reads_must_be_there() {
    let rails = "[stage.rails]\nabort_if = [{ metric = \"other\", above = 3 }]";
    let sandbox = study("", rails, REPORT);
    sandbox.ok("run study.toml", 3);
    assert_eq!(sandbox.dump()["trials"][0]["failure"]["kind"], "missing_metric");
}

#[test]
fn the_failure_rate_is_asked_from_five_finished_trials_on() {
    // Fails for n = 1, 2, 6, 7: 2 of 5 is within a half, 4 of 7 is not.
    let line = gated_after(7, &format!("case {{n}} in 1|2|6|7) exit 1;; esac; {REPORT}"));
    let sandbox = study("", "[stage.rails]\nmax_failure_rate = 0.5", &line);
    let dump = aborted(&sandbox, "4 of 7 finished trials failed");
    assert_eq!(dump["stages"][0]["failed"], 4);
}

#[test]
fn catastrophic_failures_are_counted_over_the_study() {
    let rule =
        "[[stage.failure]]\nkind = \"burnt\"\nexit_code = 9\nseverity = \"catastrophic\"\nretryable = false";
    let line = gated_after(5, &format!("case {{n}} in 2|5) exit 9;; 3) exit 1;; esac; {REPORT}"));
    let sandbox = study("[rails]\ncatastrophic_failures = 2", rule, &line);
    let dump = aborted(&sandbox, "2 catastrophic failures");
    assert_eq!(dump["trials"][4]["failure"]["kind"], "burnt");
    assert_eq!(dump["trials"][9]["state"], "cancelled");
}

/// What is to be mended and tried again counts no more: otherwise the next failure, of whatever kind, would abort again.
#[test]
fn a_catastrophic_failure_that_is_retried_is_forgiven() {
    let rule = "[[stage.failure]]\nkind = \"burnt\"\nexit_code = 9\nseverity = \"catastrophic\"";
    let line =
        format!("[ {{n}} != 2 ] || [ -e $PITON_STUDY_DIR/mended ] || exit 9; [ {{n}} != 4 ] || exit 1; {REPORT}");
    let sandbox = study("[rails]\ncatastrophic_failures = 1", rule, &line);
    aborted(&sandbox, "1 catastrophic failure,");
    sandbox.write("mended", "");
    sandbox.ok("retry study.redb --failed", 0);
    sandbox.ok("run study.toml", 0);
    sandbox.ok("verify study.redb", 0);
}

#[test]
fn max_runtime_counts_over_all_runs() {
    let sandbox = study("[rails]\nmax_runtime = \"300ms\"", "", "sleep 0.1; false");
    let dump = aborted(&sandbox, "as long as `max_runtime` allows");
    let runtime = dump["study"]["runtime_s"].as_f64().unwrap();
    assert!(runtime >= 0.3, "{runtime}");
}

#[test]
fn a_failed_base_command_ends_the_study_before_any_trial() {
    let base = "[params]\nwhat = \"base\"\n[base]\ncommand = \"echo {what} >> $PITON_STUDY_DIR/log; exit 4\"";
    let sandbox = study(base, "", REPORT);
    sandbox.ok("run study.toml", 3);
    let dump = sandbox.dump();
    assert!(
        dump["study"]["abort_reason"].as_str().unwrap().contains("the base command failed: exited with code 4")
    );
    assert_eq!(dump["accounting"]["attempts_started"], 0);
    assert_eq!(dump["study"]["aborted_by"]["violating"], serde_json::json!(["s"]));
    let canonical = sandbox.ok("dump study.redb --canonical", 0);
    assert!(canonical.contains(r#""violating":["s"]"#), "{canonical}");
    assert_eq!(sandbox.lines("log"), ["base"]);
    sandbox.ok("verify study.redb", 0);
}

/// Mends the study file, follows the hint that begins so, and goes on as it says. `said` is what ended with the abort.
fn leads_on(sandbox: &Sandbox, said: &str, mend: (&str, &str), first: &str) {
    sandbox.edit("study.toml", mend.0, mend.1);
    sandbox.write("mended", "");
    let hint = said.lines().find(|line| line.starts_with("hint: ") && line.contains("piton")).unwrap();
    let commands: Vec<&str> = hint.split('`').filter_map(|part| part.strip_prefix("piton ")).collect();
    assert!(commands.len() == 2 && commands[0].starts_with(first), "{said}");
    sandbox.ok(commands[0], 0);
    sandbox.ok("verify study.redb", 0);
    sandbox.ok(commands[1], 0);
    sandbox.ok("verify study.redb", 0);
    assert_eq!(sandbox.dump()["stages"][0]["succeeded"], 10);
}

#[test]
fn the_hint_after_an_abort_leads_on_whatever_the_rail() {
    let aborted = |sandbox: &Sandbox, command: &str| {
        let output = sandbox.run(command);
        assert_eq!(output.status.code(), Some(3), "{}", both(&output));
        both(&output)
    };
    let mended = "[ -e $PITON_STUDY_DIR/mended ] || exit 1";
    // What failed may lie outside of the study file, and be named as an input or not.
    for inputs in ["", "inputs = [\"b.sh\"]\n"] {
        let base = format!("{inputs}[base]\ncommand = \"sh {{study_dir}}/b.sh\"");
        let sandbox = study(&base, "", REPORT);
        for command in ["run study.toml", "resume study.redb"] {
            sandbox.write("b.sh", "exit 4");
            let said = aborted(&sandbox, command);
            sandbox.write("b.sh", "exit 0");
            if command.starts_with("resume") {
                leads_on(&sandbox, &said, ("", ""), "amend");
            }
        }
    }
    let bound = study("", "[stage.rails]\nabort_if = [{ metric = \"m\", above = 3 }]", REPORT);
    leads_on(&bound, &aborted(&bound, "run study.toml"), ("above = 3", "above = 30"), "amend");
    let time = study("[rails]\nmax_runtime = \"300ms\"", "", &format!("sleep 0.1; {REPORT}"));
    leads_on(&time, &aborted(&time, "run study.toml"), ("300ms", "300s"), "amend");
    let rate = study("", "[stage.rails]\nmax_failure_rate = 0.5", &format!("{mended}; {REPORT}"));
    leads_on(&rate, &aborted(&rate, "run study.toml"), ("", ""), "retry");
    let none = study("", "", &format!("{mended}; {REPORT}"));
    leads_on(&none, &aborted(&none, "run study.toml"), ("", ""), "retry");
}

#[test]
fn the_base_command_runs_once_and_again_only_if_it_was_cut_off() {
    let base = "[base]\ncommand = \"echo $PITON_ATTEMPT >> $PITON_STUDY_DIR/log; \
                while [ ! -e $PITON_STUDY_DIR/gate ]; do sleep 0.02; done\"";
    let sandbox = study(base, "", REPORT);
    let engine = sandbox.start("run study.toml");
    wait_until("the base command runs", || !sandbox.lines("log").is_empty());
    wait_until("its start is recorded", || {
        sandbox.ok("dump study.redb --events --format jsonl", 0).contains("base_started")
    });
    let screen = sandbox.ok("status study.redb", 0);
    assert!(screen.contains("running\n  s #1  for "), "{screen}");
    engine.signal(Signal::KILL);
    engine.wait();
    wait_until("nothing of it runs", || sandbox.trial_processes().is_empty());
    sandbox.write("gate", "");
    sandbox.ok("run study.toml", 0);
    assert_eq!(sandbox.lines("log"), ["1", "2"]);
    sandbox.ok("verify study.redb", 0);
}

#[test]
fn a_stage_that_needs_approval_parks_the_study() {
    let sandbox = study("", StudyFile::fragment().stage("b", "true", 1, 1).with("approve = true"), REPORT);
    let output = sandbox.run("run study.toml");
    assert_eq!(output.status.code(), Some(8));
    assert!(both(&output).contains("stage `b` waits for approval"), "{}", both(&output));
    let status = sandbox.ok("status study.redb", 0);
    assert!(
        status.contains("stage `b` waits for approval") && status.contains("piton approve study.redb"),
        "{status}"
    );
    let events = |sandbox: &Sandbox| sandbox.dump()["events"].as_u64().unwrap();
    let before = events(&sandbox);
    for line in ["run study.toml", "resume study.redb", "run study.toml -j 1 --json"] {
        let again = sandbox.run(line);
        assert_eq!(again.status.code(), Some(8));
        assert!(both(&again).contains("stage `b` waits for approval"), "{}", both(&again));
    }
    assert_eq!(events(&sandbox), before, "asking again records nothing");
    sandbox.ok("approve study.redb --stage a", 2);
    sandbox.ok("approve study.redb --by ada --note looks-good", 0);
    sandbox.ok("approve study.redb", 2);
    sandbox.ok("resume study.redb", 0);
    let events = sandbox.ok("dump study.redb --events --format jsonl", 0);
    let approved = events.lines().find(|line| line.contains("stage_approved")).unwrap();
    assert!(approved.contains(r#""by":"ada","note":"looks-good""#), "{approved}");
    sandbox.ok("verify study.redb", 0);
}

/// A stage that an amendment opened again has other survivors by the time it closes: what was there is not approved.
#[test]
fn a_stage_after_one_that_is_open_again_does_not_wait_for_approval() {
    let sandbox = study("", StudyFile::fragment().stage("b", "true", 1, 1).with("approve = true"), REPORT);
    let text = std::fs::read_to_string(sandbox.path("study.toml")).unwrap();
    sandbox.write("study.toml", text.edit_first("trial_budget = 10", "trial_budget = 8"));
    sandbox.ok("run study.toml", 8);
    sandbox.write("study.toml", &text);
    let said = sandbox.ok("amend study.redb study.toml --yes", 0);
    assert!(said.contains("extends"), "{said}");
    let output = sandbox.run("approve study.redb");
    assert_eq!(output.status.code(), Some(2), "{}", both(&output));
    assert!(both(&output).contains("`b` will once stage `a` is closed"), "{}", both(&output));
    sandbox.ok("run study.toml", 8);
    sandbox.ok("approve study.redb", 0);
    sandbox.ok("resume study.redb", 0);
}

/// n = 1 waits for the gate, n = 2 breaks the rail as soon as n = 1 has begun, all others wait for the gate.
fn second_breaks() -> Sandbox {
    let line = "echo $PITON_CASE >> $PITON_STUDY_DIR/begun; if [ {n} = 2 ]; then \
                while ! grep -q s_0_0 $PITON_STUDY_DIR/begun; do sleep 0.02; done; \
                elif [ {n} = 1 ]; then while [ ! -e $PITON_STUDY_DIR/gate ]; do sleep 0.02; done; fi; \
                echo \"{{\\\"m\\\": {n}}}\" > metrics.json";
    study("", "[stage.rails]\nabort_if = [{ metric = \"m\", above = 1 }]", line)
}

fn certain(sandbox: &Sandbox) {
    wait_until("an abort is certain", || {
        let events = |sandbox: &Sandbox| sandbox.ok("dump study.redb --events --format jsonl", 0);
        let ended = |line: &str| line.contains("attempt_ended") && line.contains("s_0_1");
        sandbox.path("study.redb").exists() && events(sandbox).lines().any(ended)
    });
}

#[test]
fn a_certain_abort_whose_place_is_open_survives_a_crash() {
    let sandbox = second_breaks();
    let engine = sandbox.start("run study.toml -j 2");
    certain(&sandbox);
    engine.signal(Signal::KILL);
    engine.wait();
    let dump = sandbox.dump();
    assert_eq!((&dump["study"]["status"], &dump["study"]["aborted"]), (&"interrupted".into(), &false.into()));
    sandbox.write("gate", "");
    sandbox.ok("run study.toml -j 2", 3);
    let dump = sandbox.dump();
    assert_eq!(dump["study"]["aborted_by"]["violating"], serde_json::json!(["s_0_1"]));
    assert_eq!(dump["trials"][0]["state"], "succeeded", "what lies below gets its result");
    assert_eq!(dump["trials"][0]["attempts"].as_array().unwrap().len(), 2);
    sandbox.ok("verify study.redb", 0);
}

#[test]
fn a_stop_while_the_place_of_an_abort_is_open_can_be_resumed() {
    let sandbox = second_breaks();
    let engine = sandbox.start("run study.toml -j 2 --drain-for 100ms");
    certain(&sandbox);
    engine.signal(Signal::TERM);
    assert_eq!(engine.wait().code(), Some(75));
    sandbox.write("gate", "");
    sandbox.ok("resume study.redb", 3);
    assert_eq!(sandbox.dump()["study"]["aborted_by"]["counted"], 2);
    // Of what was handed out in advance workers may have taken some; nothing else began, least of all since.
    let begun: std::collections::BTreeSet<String> = sandbox.lines("begun").into_iter().collect();
    assert!(begun.len() <= 10 && begun.contains("s_0_0"), "{begun:?}");
}

/// Of 40 trials that end in another order than they began every third fails, every sixth catastrophically, and some at first.
fn mixed(top: &str, stage: &str) -> StudyFile {
    StudyFile::new("s")
        .with(top)
        .stage(
            "a",
            r#"echo $PITON_CASE >> $PITON_STUDY_DIR/begun; sleep 0.0$(( {n} * 7 % 9 ))
               [ $(( {n} % 6 )) != 0 ] || exit 9; [ $(( {n} % 3 )) != 0 ] || exit 1
               [ $(( {n} % 4 )) != 1 ] || [ $PITON_ATTEMPT != 1 ] || exit 5
               echo "{{\"m\": {n}}}" > metrics.json"#,
            40,
            1,
        )
        .with(r#"retries = { count = 1, delay = "20ms", jitter = false }"#)
        .sweep(r#"n = { min = 1, max = 40, type = "int" }"#)
        .maximize("m")
        .with("[[stage.failure]]\nkind = \"burnt\"\nexit_code = 9\nseverity = \"catastrophic\"\nretryable = false")
        .with(stage)
}

fn canonical(sandbox: &Sandbox, workers: u32) -> String {
    sandbox.ok(&format!("verify {workers}.redb"), 0);
    sandbox.ok(&format!("dump {workers}.redb --format json --canonical"), 0)
}

/// Runs the study with one worker, with several, and killed now and then: one canonical dump.
fn the_same_whatever_happens(study: &StudyFile, code: i32) -> serde_json::Value {
    let sandbox = Sandbox::with_study(study);
    let mut seen = std::collections::BTreeSet::new();
    for workers in [1, 2, 4, 7] {
        let line = format!("run study.toml -j {workers} --store {workers}.redb --artifacts a{workers}");
        sandbox.ok(&line, code);
        seen.insert(canonical(&sandbox, workers));
    }
    let line = "run study.toml -j 4 --store 9.redb --artifacts a9";
    for begun in [2, 7, 12] {
        let mut engine = sandbox.start(line);
        let before = sandbox.lines("begun").len();
        wait_until("some have begun, or it is over", || {
            sandbox.lines("begun").len() >= before + begun || engine.child.try_wait().unwrap().is_some()
        });
        drop(engine.child.kill());
        engine.wait();
    }
    sandbox.ok(line, code);
    seen.insert(canonical(&sandbox, 9));
    assert_eq!(seen.len(), 1, "{seen:#?}");
    serde_json::from_str(seen.first().unwrap()).unwrap()
}

#[test]
fn abort_if_depends_on_results_alone() {
    let dump =
        the_same_whatever_happens(&mixed("", "[stage.rails]\nabort_if = [{ metric = \"m\", above = 13.5 }]"), 3);
    assert_eq!(dump["study"]["violating"], serde_json::json!(["s_0_13"]));
    let stage = &dump["stages"][0];
    assert_eq!((&stage["succeeded"], &stage["failed"], &stage["cancelled"]), (&10.into(), &4.into(), &26.into()));
}

#[test]
fn a_failure_rate_depends_on_results_alone() {
    let dump = the_same_whatever_happens(&mixed("", "[stage.rails]\nmax_failure_rate = 0.32"), 3);
    assert_eq!(dump["study"]["violating"], serde_json::json!(["s_0_2", "s_0_5"]), "all that failed are named");
    assert_eq!(
        dump["study"]["abort_reason"],
        "stage `a`: 2 of 6 finished trials failed, more than the rate of 0.32 allows"
    );
    assert_eq!(dump["trials"][20]["state"], "cancelled");
}

#[test]
fn catastrophes_depend_on_results_alone() {
    let rails = "[stage.rails]\nmax_failure_rate = 0.9\nabort_if = [{ metric = \"m\", above = 18.5 }]";
    let dump = the_same_whatever_happens(&mixed("[rails]\ncatastrophic_failures = 3", rails), 3);
    assert_eq!(dump["study"]["violating"], serde_json::json!(["s_0_5", "s_0_11", "s_0_17"]), "before `s_0_18`");
}

#[test]
fn a_rail_that_holds_depends_on_results_alone() {
    let dump = the_same_whatever_happens(&mixed("", "[stage.rails]\nmax_failure_rate = 0.34"), 0);
    assert_eq!((&dump["study"]["status"], &dump["stages"][0]["failed"]), (&"completed".into(), &13.into()));
}

#[test]
fn rails_over_proposals_depend_on_results_alone() {
    let ask = "trial_budget = 40\nsampling = { ask = [\"python3\", \"ask.py\"], parallel = 5 }";
    let rails = "[stage.rails]\nabort_if = [{ metric = \"m\", above = 9.5 }]\nmax_failure_rate = 0.4";
    let study = mixed("", rails).edit("trial_budget = 40", ask);
    let sandbox_study = study.edit("python3\", \"ask.py\"]", "python3\", \"-c\", \"import sys, json\\nfor l in sys.stdin:\\n  m = json.loads(l)\\n  if m['type'] == 'ask': print(json.dumps({'params': {'n': m['ask'] + 1}}), flush=True)\"]");
    let dump = the_same_whatever_happens(&sandbox_study, 3);
    assert_eq!(dump["study"]["violating"], serde_json::json!(["s_0_9"]));
    assert_eq!(dump["trials"].as_array().unwrap().len(), 10, "how far it was asked beyond is chance");
}

#[test]
fn what_max_runtime_ends_pretends_nothing() {
    let study = mixed("[rails]\nmax_runtime = \"300ms\"", "").edit("sleep 0.0", "sleep 0.1");
    let dump = the_same_whatever_happens(&study, 3);
    assert_eq!(dump["study"]["abort_reason"], "the study has run as long as `max_runtime` allows: 300ms");
    assert_eq!(dump["stages"][0]["cancelled"], 40, "which had ended is a matter of time");
}

#[test]
fn what_ended_outside_is_kept_and_counts_when_the_abort_is_taken_back() {
    let rails = |rate: &str| mixed("", &format!("[stage.rails]\nmax_failure_rate = {rate}"));
    let sandbox = Sandbox::with_study(rails("0.32"));
    let mut seen = std::collections::BTreeSet::new();
    for workers in [1, 5] {
        sandbox.write("study.toml", rails("0.32"));
        let run = format!("run study.toml -j {workers} --store {workers}.redb --artifacts a{workers}");
        sandbox.ok(&run, 3);
        let dump = sandbox.ok(&format!("dump {workers}.redb --format json"), 0);
        let dump: serde_json::Value = serde_json::from_str(&dump).unwrap();
        let by = serde_json::json!({"rail": "max_failure_rate", "stage": 0, "counted": 6, "violating": ["s_0_2", "s_0_5"]});
        assert_eq!(dump["study"]["aborted_by"], by);
        let status = sandbox.ok(&format!("status {workers}.redb"), 0);
        assert!(status.contains("broken by s_0_2, s_0_5\nthe first 6 trials of stage `a` count"), "{status}");
        let trials = dump["trials"].as_array().unwrap();
        for trial in trials.iter().filter(|trial| trial["outside"] == true) {
            assert!(trial["id"].as_u64().unwrap() >= 6);
            let case = trial["case"].as_str().unwrap();
            let why = sandbox.ok(&format!("why {workers}.redb {case}"), 0);
            assert!(why.contains(", outside") && why.contains("without it: stage `a`: 2 of 6"), "{why}");
        }
        sandbox.write("study.toml", rails("0.5"));
        sandbox.ok(&format!("amend {workers}.redb study.toml --yes"), 0);
        sandbox.ok(&run, 0);
        let after = sandbox.ok(&format!("dump {workers}.redb --format json"), 0);
        let after: serde_json::Value = serde_json::from_str(&after).unwrap();
        for trial in trials.iter().filter(|trial| trial["state"] == "succeeded") {
            let now = &after["trials"][trial["id"].as_u64().unwrap() as usize];
            assert_eq!(now["attempts"], trial["attempts"], "what had ended does not run again");
        }
        seen.insert(canonical(&sandbox, workers));
        // Rails that are tightened are asked of all results; nothing runs for that.
        if workers == 1 {
            let events = after["events"].as_u64().unwrap();
            assert!(events > 0 && after["study"]["aborted_by"].is_null());
        }
    }
    assert_eq!(seen.len(), 1, "{seen:#?}");
}

#[test]
fn a_retry_forgives_failures_and_no_bound() {
    let line = format!("[ {{n}} != 2 ] || [ -e $PITON_STUDY_DIR/mended ] || exit 1; {REPORT}");
    let sandbox = study("", "[stage.rails]\nabort_if = [{ metric = \"m\", above = 3 }]", &line);
    aborted(&sandbox, "`s_0_3`");
    sandbox.write("mended", "");
    sandbox.ok("retry study.redb --failed", 0);
    sandbox.ok("run study.toml", 3);
    let dump = sandbox.dump();
    assert_eq!(dump["trials"][1]["state"], "succeeded");
    assert_eq!(dump["study"]["aborted_by"]["violating"], serde_json::json!(["s_0_3"]));
    sandbox.ok("verify study.redb", 0);
}

#[test]
fn what_no_further_trial_can_change_is_called_decided() {
    // Without an objective the first that succeed survive: one did before the rail broke.
    let gated = gated_after(3, REPORT);
    let rail = "[stage.rails]\nabort_if = [{ metric = \"m\", above = 2.5 }]";
    let by_order = study("", "", &gated);
    let text = std::fs::read_to_string(by_order.path("study.toml")).unwrap();
    let objective = "[[stage.objective]]\nmetric = \"m\"\ngoal = \"maximize\"\n";
    assert!(text.contains(objective));
    by_order.write("study.toml", &(text.edit(objective, "") + rail));
    aborted(&by_order, "is above 2.5");
    let status = by_order.ok("status study.redb", 0);
    assert!(status.contains("survivors decided: no pending trial can change them"), "{status}");
    let why = by_order.ok("why study.redb s_0_0", 0);
    assert!(why.contains("; that is decided: ") && why.contains("and none can change it"), "{why}");

    // With one, any of those that never ran might have been the best.
    let by_value = study("", rail, &gated);
    aborted(&by_value, "is above 2.5");
    let status = by_value.ok("status study.redb", 0);
    assert!(!status.contains("decided"), "{status}");
    let why = by_value.ok("why study.redb s_0_2", 0);
    assert!(why.contains("; undecided: ") && why.contains("any of them might have changed it"), "{why}");
}
