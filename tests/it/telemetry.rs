//! `telemetry.jsonl` says what its published schema says, whatever a study went through.

use std::collections::BTreeSet;
use std::process::Command;

use rustix::process::Signal;

use crate::harness::{Sandbox, wait_until};

/// Checks each line of a study's telemetry with a validator that others wrote; the kinds of events in it.
pub fn checked(sandbox: &Sandbox, study: &str) -> BTreeSet<String> {
    let script = "import json, sys\n\
        from jsonschema import Draft202012Validator\n\
        schema = json.load(open(sys.argv[1]))\n\
        Draft202012Validator.check_schema(schema)\n\
        validator = Draft202012Validator(schema)\n\
        kinds = set()\n\
        for line in open(sys.argv[2]):\n\
        \x20   event = json.loads(line)\n\
        \x20   kinds.add(event['type'])\n\
        \x20   wrong = [e for e in validator.iter_errors(event)]\n\
        \x20   for error in wrong:\n\
        \x20       of_kind = [c for c in error.context if c.schema_path[0] == [s['properties']['type']['const'] for s in schema['oneOf']].index(event['type'])]\n\
        \x20       sys.exit(line + str([c.message for c in of_kind] or error.message))\n\
        print(' '.join(sorted(kinds)))";
    let root = env!("CARGO_MANIFEST_DIR");
    let output = Command::new(format!("{root}/target/tools/python/bin/python"))
        .args(["-c", script, &format!("{root}/docs/telemetry.schema.json")])
        .arg(sandbox.path(&format!("artifacts/{study}/telemetry.jsonl")))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().split_whitespace().map(str::to_owned).collect()
}

#[test]
fn every_line_is_as_the_schema_says() {
    let everything = Sandbox::of_example("everything");
    everything.ok("run study.toml", 8);
    everything.ok("approve study.redb --by ada", 0);
    everything.ok("run study.toml", 0);
    let mut kinds = checked(&everything, "everything");

    let text = |budget: u32| {
        format!(
            r#"
[study]
name = "odd"
[run]
workers = 1
[rails]
catastrophic_failures = 1
[[stage]]
name = "only"
command = ["./trial.sh", "{{n}}"]
trial_budget = {budget}
survivor_count = 1
outputs = ["out"]
retries = 1
[stage.sweep]
n = {{ min = 1, max = 9, type = "int" }}
[[stage.failure]]
kind = "bad"
exit_code = 3
severity = "catastrophic"
"#
        )
    };
    let sandbox = Sandbox::with_study(&text(4));
    sandbox.script(
        "trial.sh",
        r#"
echo "$1" >> "$PITON_STUDY_DIR/started"
[ "$1" != 2 ] || [ -e "$PITON_STUDY_DIR/mended" ] || exit 3
[ "$1" != 3 ] || kill -SEGV $$
[ "$1" != 5 ] || while [ -e "$PITON_STUDY_DIR/gate" ]; do sleep 0.02; done
echo '{"a": 1.5, "b": "label"}' > metrics.json
echo > out
"#,
    );
    sandbox.ok("run study.toml", 3);
    kinds.extend(checked(&sandbox, "odd"));
    sandbox.write("mended", "");
    sandbox.ok("retry study.redb --failed", 0);
    sandbox.ok("run study.toml", 0);
    sandbox.write("study.toml", &text(5));
    sandbox.ok("amend study.redb study.toml --yes", 0);
    sandbox.write("gate", "");
    let engine = sandbox.start("run study.toml");
    wait_until("the last trial runs", || sandbox.lines("started").last().is_some_and(|line| line == "5"));
    engine.signal(Signal::KILL);
    engine.wait();
    let engine = sandbox.start("run study.toml --drain-for 1ms");
    wait_until("the last trial runs again", || {
        sandbox.lines("started").iter().filter(|line| *line == "5").count() == 2
    });
    engine.signal(Signal::TERM);
    assert_eq!(engine.wait().code(), Some(75));
    std::fs::remove_file(sandbox.path("gate")).unwrap();
    sandbox.ok("run study.toml", 0);
    kinds.extend(checked(&sandbox, "odd"));

    let expected = "attempt_ended attempt_started base_ended base_started drain_started run_ended run_started \
        spec_amended stage_approved stage_closed stage_opened study_aborted study_completed study_created trial_reset";
    assert_eq!(kinds.into_iter().collect::<Vec<_>>().join(" "), expected);
}
