//! What is written as JSON is what its published schema says, whatever a study went through.

use std::collections::BTreeSet;
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Sandbox, StudyFile, wait_until};

/// Holds each document against a schema, with a validator that others wrote. Each must be refused once it says more, says less, or
/// says a time in another way.
fn validated(schema: &str, documents: &[Value]) {
    const SCRIPT: &str = "
import copy, json, sys
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
schema = json.load(open(sys.argv[1]))
Draft202012Validator.check_schema(schema)
validator = Draft202012Validator(schema)
optional = set(sys.argv[2].split())
words = ('type', 'status', 'state', 'outcome', 'finding')
def shape(document, path):
    where = ['*' if isinstance(key, int) else key for key in path]
    there = at(document, path)
    return repr((document.get('type'), where, sorted(there), [there.get(word) for word in words]))
seen = set()
def objects(value, path=()):
    if isinstance(value, dict):
        yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        # Their keys are those of the study.
        if key not in ('spec', 'params', 'metrics', 'outputs', 'versions', 'failures_by_kind'):
            yield from objects(inner, path + (key,))
def at(value, path):
    for key in path:
        value = value[key]
    return value
for line in sys.stdin:
    document = json.loads(line)
    wrong = best_match(validator.iter_errors(document))
    if wrong:
        sys.exit(f'{wrong.json_path}: {wrong.message}: {line}')
    for path in objects(document):
        # Every object is validated; of those of one shape one is spoilt.
        if shape(document, path) in seen:
            continue
        seen.add(shape(document, path))
        more = copy.deepcopy(document)
        at(more, path)['no_such_key'] = 1
        assert not validator.is_valid(more), f'more at {path}'
        for key, value in at(document, path).items():
            less = copy.deepcopy(document)
            del at(less, path)[key]
            assert key in optional or not validator.is_valid(less), f'less at {path}: {key}'
            if key in ('at', *words) or key.endswith('_at') and value:
                other = copy.deepcopy(document)
                at(other, path)[key] = 'soon'
                assert not validator.is_valid(other), f'other at {path}: {key}'
";
    let root = env!("CARGO_MANIFEST_DIR");
    let optional = "aborted_by cluster_trouble executor lost_events outside rail remote stage counted kept explorer explorers";
    let mut child = Command::new(format!("{root}/target/tools/python/bin/python"))
        .args(["-c", SCRIPT, &format!("{root}/docs/schema/{schema}.schema.json"), optional])
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines: String = documents.iter().map(|document| format!("{document}\n")).collect();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), lines.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{schema}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Checks what a study's telemetry, dump and status say; the kinds of events in it.
pub fn checked(sandbox: &Sandbox, study: &str) -> BTreeSet<String> {
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let events: Vec<Value> =
        sandbox.lines(&format!("artifacts/{study}/telemetry.jsonl")).iter().map(|l| json(l)).collect();
    validated("telemetry", &events);
    validated("dump", &[json(&sandbox.ok("dump study.redb --format json", 0))]);
    let file =
        |name: &str| json(&std::fs::read_to_string(sandbox.path(&format!("artifacts/{study}/{name}"))).unwrap());
    validated("study_telemetry", &[file("study_telemetry.json")]);
    validated("stage_telemetry", &[file("stage_0_telemetry.json")]);
    validated("checkpoint", &[file("study_checkpoint.json")]);
    validated("status", &[json(&sandbox.ok("status study.redb --json", 0))]);
    events.iter().map(|event| event["type"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn every_line_is_as_the_schema_says() {
    let everything = Sandbox::of_example("everything");
    everything.ok("run study.toml", 8);
    everything.ok("approve study.redb --by ada", 0);
    everything.ok("run study.toml", 0);
    let mut kinds = checked(&everything, "everything");
    everything.ok("compare study.redb --write-baseline baseline.json", 0);
    let compared = everything.ok("compare study.redb --baseline baseline.json --json", 0);
    validated("compare", &[serde_json::from_str(&compared).unwrap()]);

    let text = |budget: u32| {
        StudyFile::new("odd")
            .run("workers = 1")
            .with("[rails]\ncatastrophic_failures = 1")
            .stage("only", ["./trial.sh", "{n}"], budget, 1)
            .with(r#"outputs = ["out"]"#)
            .with("retries = 1")
            .sweep(r#"n = { min = 1, max = 9, type = "int" }"#)
            .with("[[stage.failure]]\nkind = \"bad\"\nexit_code = 3\nseverity = \"catastrophic\"")
    };
    let sandbox = Sandbox::with_study(text(4));
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
    sandbox.write("study.toml", text(5));
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

    let expected = "attempt_ended attempt_started base_ended base_started directories_discarded discard_finished \
        drain_started run_ended run_started spec_amended stage_approved stage_closed stage_opened study_aborted study_completed study_created trial_reset";
    assert_eq!(kinds.into_iter().collect::<Vec<_>>().join(" "), expected);
}
