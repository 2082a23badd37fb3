//! What ends a study early, or makes it wait: rails, the base command, approval.

use rustix::process::Signal;

use crate::harness::{Sandbox, both, wait_until};

/// Ten trials, one at a time, `n` from 1; the trial is a line of shell.
fn study(top: &str, stage: &str, line: &str) -> Sandbox {
    Sandbox::with_study(&format!(
        r#"
[study]
name = "s"
{top}
[run]
workers = 1
[[stage]]
name = "a"
command = '{line}'
trial_budget = 10
survivor_count = 1
[stage.sweep]
n = {{ min = 1, max = 10, type = "int" }}
[[stage.objective]]
metric = "m"
goal = "maximize"
{stage}
"#
    ))
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
    assert_eq!(sandbox.lines("log"), ["base"]);
    sandbox.ok("verify study.redb", 0);
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
    let sandbox = study(
        "",
        "[[stage]]\nname = \"b\"\napprove = true\ncommand = \"true\"\ntrial_budget = 1\nsurvivor_count = 1",
        REPORT,
    );
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

#[test]
fn an_abort_survives_a_crash_while_it_drains() {
    // n = 2 breaks the rail while n = 1 still runs.
    let line = "[ {n} = 1 ] && { touch $PITON_STUDY_DIR/one; while :; do sleep 0.02; done; }; \
                while [ ! -e $PITON_STUDY_DIR/one ]; do sleep 0.02; done; echo {{\\\"m\\\": {n}}} > metrics.json";
    let line = line.replace("{ touch", "{{ touch").replace("done; };", "done; }};");
    let rails = "[stage.rails]\nabort_if = [{ metric = \"m\", above = 1 }]";
    let sandbox = study("", rails, &line);
    let engine = sandbox.start("run study.toml -j 2");
    wait_until("the rail broke", || {
        sandbox.path("study.redb").exists()
            && sandbox.ok("dump study.redb --events --format jsonl", 0).contains("study_aborted")
    });
    engine.signal(Signal::KILL);
    engine.wait();
    let dump = aborted(&sandbox, "`s_0_1`");
    // The first trial for certain; whatever the free worker had begun meanwhile as well.
    assert!(dump["accounting"]["interrupted"].as_u64().unwrap() >= 1);
    assert_eq!(dump["trials"][0]["state"], "cancelled");
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
    by_order.write("study.toml", &(text.replace(objective, "") + rail));
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
