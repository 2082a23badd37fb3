//! What failures are called, which are tried again, and that nothing a trial writes can hurt the engine.

use serde_json::Value;

use crate::harness::{Sandbox, StudyFile};

/// Runs one trial for each script; the scripts are cases of a shell's `case`. The dumped trials, in their order.
fn outcomes(stage: &str, scripts: &[(&str, &str)]) -> Vec<Value> {
    let names: Vec<String> = scripts.iter().map(|(name, _)| format!("{name:?}")).collect();
    let count = scripts.len();
    let sandbox = Sandbox::with_study(
        StudyFile::new("failures")
            .stage("only", ["./trial.sh", "{what}"], count, 1)
            .with(r#"retries = { count = 2, delay = "1ms", jitter = false }"#)
            .with(format!("sweep.what = [{}]", names.join(", ")))
            .with(r#"objective = [{ metric = "m", goal = "minimize" }]"#)
            .with(stage),
    );
    let cases: String = scripts.iter().map(|(name, script)| format!("{name})\n{script}\n;;\n")).collect();
    sandbox.script("trial.sh", &format!("case $1 in\n{cases}esac"));
    sandbox.ok("run study.toml", 0);
    assert_eq!(sandbox.run("verify study.redb").status.code(), Some(0));
    let dump = sandbox.dump();
    assert_eq!(dump["trials"].as_array().unwrap().len(), count);
    dump["trials"].as_array().unwrap().clone()
}

/// State, kind, severity, and how many attempts.
fn told(trial: &Value) -> (&str, &str, &str, usize) {
    let failure = &trial["failure"];
    let attempts = trial["attempts"].as_array().unwrap().len();
    (text(&trial["state"]), text(&failure["kind"]), text(&failure["severity"]), attempts)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

const RULES: &str = r#"
[[stage.failure]]
kind = "missing_cell"
log = '^Error: module .* not found$'
severity = "high"
retryable = false
[[stage.failure]]
kind = "licence"
exit_code = 4
severity = "low"
[[stage.failure]]
kind = "crash"
signal = "SEGV"
severity = "catastrophic"
retryable = false
[[stage.failure]]
kind = "never"
log = "stopped before"
"#;

#[test]
fn a_studys_own_rules_name_its_failures() {
    let ok = "echo '{\"m\": 1}' > metrics.json";
    let trials = outcomes(
        RULES,
        &[
            ("cell", "printf 'one\\nError: module nand2 not found\\nstopped before\\n'; exit 4"),
            ("code", "exit 4"),
            ("segv", "kill -SEGV $$"),
            ("shell", "sh -c 'kill -SEGV $$'; exit $?"),
            ("silent", "echo 'Error: module nor2 not found' >&2; exit 0"),
            ("fine", &format!("echo 'Error: module xor2 not found' >&2; {ok}")),
            ("other", "echo 'a Error: module b not found'; exit 5"),
        ],
    );
    let expected = [
        ("failed", "missing_cell", "high", 1),
        ("failed", "licence", "low", 3),
        ("failed", "crash", "catastrophic", 1),
        ("failed", "crash", "catastrophic", 1),
        ("failed", "missing_cell", "high", 1),
        ("succeeded", "", "", 1),
        ("failed", "exit_code", "medium", 3),
    ];
    assert_eq!(trials.iter().map(told).collect::<Vec<_>>(), expected);
    let failure = &trials[0]["failure"];
    assert_eq!(failure["reason"], "exited with code 4: Error: module nand2 not found");
    assert_eq!(failure["log_excerpt"], "stdout.log, line 2:\none\nError: module nand2 not found\nstopped before");
    assert_eq!(trials[4]["failure"]["reason"], "the trial did not report `m`: Error: module nor2 not found");
    assert_eq!(trials[6]["failure"]["log_excerpt"], "a Error: module b not found");
}

#[test]
fn a_timeout_stays_one_whatever_the_log_says() {
    let rules = "timeout = \"200ms\"\n[[stage.failure]]\nkind = \"own\"\nlog = \"waiting\"\n\
         [[stage.failure]]\nkind = \"term\"\nsignal = \"TERM\"\n";
    let stage = format!("{rules}retryable = false\n");
    let hang = "echo waiting >&2; mkfifo never; exec 3<>never; read line <&3";
    let trials = outcomes(&stage, &[("hang", hang), ("fine", "echo '{\"m\": 1}' > metrics.json")]);
    assert_eq!(told(&trials[0]), ("failed", "timeout", "medium", 3));
    assert_eq!(trials[0]["failure"]["log_excerpt"], "waiting");
}

#[test]
fn nothing_a_trial_writes_hurts_the_engine() {
    let rules = "[[stage.failure]]\nkind = \"slow\"\nlog = '(x+x+)+(x+x+)+y'\n\
         [[stage.failure]]\nkind = \"found\"\nlog = 'root:|needle'\nretryable = false\n";
    let ten_mb = "head -c 10000000 /dev/zero | tr '\\0' 1 | sed 's/^/{\"m\": /; s/$/}/' > metrics.json";
    let deep = "{ printf '{\"m\": '; head -c 10000 /dev/zero | tr '\\0' '['; \
         head -c 10000 /dev/zero | tr '\\0' ']'; printf '}'; } > metrics.json";
    let long_line = "head -c 67108864 /dev/zero | tr '\\0' x >&2; echo needle >&2; exit 1";
    let cases: [(&str, &str, &str); 20] = [
        ("nan", "echo '{\"m\": NaN}' > metrics.json", "bad_metrics"),
        ("huge", "echo '{\"m\": 1e999}' > metrics.json", "bad_metrics"),
        ("ten_mb", ten_mb, "bad_metrics"),
        ("deep", deep, "bad_metrics"),
        ("latin", "printf '{\"m\": \"\\377\"}' > metrics.json", "bad_metrics"),
        ("name", "printf '{\"\\377\": 1}' > metrics.json", "bad_metrics"),
        ("nul", "head -c 1000 /dev/zero > metrics.json", "bad_metrics"),
        ("fifo", "mkfifo metrics.json", "bad_metrics"),
        ("link", "ln -s /dev/zero metrics.json", "bad_metrics"),
        ("dir", "mkdir metrics.json", "bad_metrics"),
        ("twice", "echo '{\"m\": 1} {\"m\": 2}' > metrics.json", "bad_metrics"),
        ("gone", "rm -rf \"$PWD\"", "missing_metric"),
        ("swapped", "d=$PWD; cd /; rm -rf \"$d\"; ln -s /etc \"$d\"; exit 1", "exit_code"),
        ("no_logs", "rm stdout.log stderr.log; exit 1", "exit_code"),
        ("fifo_logs", "rm -f std*.log; mkfifo stdout.log stderr.log; exit 1", "exit_code"),
        (
            "link_logs",
            "rm std*.log; ln -s /etc/passwd stderr.log; ln -s /dev/zero stdout.log; exit 1",
            "exit_code",
        ),
        ("dir_logs", "rm std*.log; mkdir stdout.log stderr.log; exit 1", "exit_code"),
        ("long_line", long_line, "found"),
        ("sparse", "truncate -s 1T stderr.log; exit 1", "exit_code"),
        ("control", "printf '\\033]0;title\\007\\033[2J\\377 needle\\r\\000' >&2; exit 1", "found"),
    ];
    let mut scripts: Vec<(&str, &str)> = cases.iter().map(|(name, script, _)| (*name, *script)).collect();
    scripts.push(("fine", "echo '{\"m\": 1}' > metrics.json"));
    let trials = outcomes(rules, &scripts);
    let found: Vec<(&str, &str)> =
        cases.iter().zip(&trials).map(|((name, _, _), trial)| (*name, told(trial).1)).collect();
    assert_eq!(found, cases.map(|(name, _, kind)| (name, kind)));
    assert_eq!(told(&trials[cases.len()]).0, "succeeded");
    for trial in &trials {
        let excerpt = trial["failure"]["log_excerpt"].as_str().unwrap_or_default();
        assert!(excerpt.len() <= 2_048, "{excerpt}");
        assert!(!excerpt.contains(|c: char| c.is_control() && c != '\n'), "{excerpt:?}");
    }
}

const LIMIT: &str = "memory_limit = \"256MiB\"\n";
const BAD_ALLOC: &str = "echo \"what():  std::bad_alloc\" >&2; kill -ABRT $$";
const FINE: &str = "echo '{\"m\": 1}' > metrics.json";

#[test]
fn out_of_memory_needs_evidence() {
    let trials = outcomes(
        LIMIT,
        &[
            ("hog", "exec dd if=/dev/zero of=/dev/null bs=1G count=1"),
            ("killed", "kill -KILL $$"),
            ("cpu_limit", "ulimit -t 1; while :; do :; done"),
            ("code", "exit 137"),
            ("fine", FINE),
        ],
    );
    let expected = [
        // The limit is the same the next time.
        ("failed", "out_of_memory", "high", 1),
        ("failed", "signal", "medium", 3),
        ("failed", "signal", "medium", 3),
        ("failed", "exit_code", "medium", 3),
        ("succeeded", "", "", 1),
    ];
    assert_eq!(trials.iter().map(told).collect::<Vec<_>>(), expected);
    assert!(trials[0]["failure"]["reason"].as_str().unwrap().contains("memory limit of 256 MiB"));
    // A damaged input makes a program ask for too much, too: no limit, no evidence.
    let trials = outcomes("", &[("damaged", BAD_ALLOC), ("fine", FINE)]);
    assert_eq!(told(&trials[0]), ("failed", "signal", "medium", 3));
}

#[test]
fn a_rule_of_the_studys_own_comes_before_out_of_memory() {
    let rule = "[[stage.failure]]\nkind = \"too_large\"\nlog = \"memory exhausted\"\n[[stage.failure]]\n\
         kind = \"too_large\"\nsignal = \"KILL\"\n";
    let hog = "exec dd if=/dev/zero of=/dev/null bs=1G count=1";
    let trials = outcomes(&format!("{LIMIT}{rule}"), &[("hog", hog), ("fine", FINE)]);
    assert_eq!(told(&trials[0]), ("failed", "too_large", "medium", 3));
}
