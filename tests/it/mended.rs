//! Stages that had closed, and are opened again by `piton retry`.

use std::collections::BTreeSet;

use crate::harness::Sandbox;

/// Three of the first stage's trials; the best one fails until `mended` is there. Two survive, each has two children, and these one more.
const STUDY: &str = r#"
[study]
name = "m"

[[stage]]
name = "a"
command = ["./trial.sh", "{x}", "0", "0"]
trial_budget = 4
survivor_count = 2
[stage.sweep]
x = [1, 2, 3, 4]
[[stage.objective]]
metric = "m"
goal = "minimize"

[[stage]]
name = "b"
command = ["./trial.sh", "{x}", "{y}", "0"]
trial_budget = 4
survivor_count = 2
[stage.sweep]
y = [10, 20]
[[stage.objective]]
metric = "m"
goal = "minimize"

[[stage]]
name = "c"
command = ["./trial.sh", "{x}", "{y}", "{z}"]
trial_budget = 2
survivor_count = 1
[stage.sweep]
z = [100]
[[stage.objective]]
metric = "m"
goal = "minimize"
"#;

/// The value is the sum; x = `failing` fails until the file is there. Every run of the program leaves a line.
fn study(text: &str, failing: u32) -> Sandbox {
    let sandbox = Sandbox::with_study(text);
    let body = format!(
        r#"echo "$PITON_CASE $1 $2 $3" >> "$PITON_STUDY_DIR/ran"
[ "$1 $2" = "{failing} 0" ] && [ ! -e "$PITON_STUDY_DIR/mended" ] && exit 7
echo "{{\"m\": $(( $1 + $2 + $3 ))}}" > metrics.json"#
    );
    sandbox.script("trial.sh", &body);
    sandbox.ok("run study.toml", 0);
    sandbox
}

/// What ran since the last time it was asked, by what it was given.
fn ran(sandbox: &Sandbox) -> BTreeSet<String> {
    let lines = sandbox.lines("ran");
    std::fs::remove_file(sandbox.path("ran")).unwrap();
    lines.into_iter().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
}

fn set(of: &[&str]) -> BTreeSet<String> {
    of.iter().map(ToString::to_string).collect()
}

#[test]
fn the_same_survivors_let_later_stages_stand() {
    let sandbox = study(STUDY, 4);
    ran(&sandbox);
    sandbox.write("mended", "");
    let refused = sandbox.run("retry study.redb --failed");
    assert_eq!(refused.status.code(), Some(2));
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(words.contains("up to 6 finished trials") && words.contains("--keep-survivors"), "{words}");
    let before = sandbox.dump();
    sandbox.ok("retry study.redb --failed --discard-children", 0);
    assert!(sandbox.ok("status study.redb", 0).contains("ready to go on"));
    sandbox.ok("verify study.redb", 0);
    sandbox.ok("resume study.redb", 0);
    assert_eq!(ran(&sandbox), set(&["4 0 0"]));
    let after = sandbox.dump();
    assert_eq!((&after["study"]["status"], &after["stages"][0]["failed"]), (&"completed".into(), &0.into()));
    for stage in 1..3 {
        assert_eq!(before["stages"][stage], after["stages"][stage]);
    }
    sandbox.ok("verify study.redb", 0);
}

#[test]
fn only_children_of_new_survivors_run() {
    let sandbox = study(STUDY, 1);
    assert_eq!(sandbox.dump()["stages"][0]["survivors"], serde_json::json!(["m_0_1", "m_0_2"]));
    ran(&sandbox);
    sandbox.write("mended", "");
    sandbox.ok("retry study.redb m_0_0 --discard-children", 0);
    sandbox.ok("resume study.redb", 0);
    // 2 survives as before and keeps its place; 1 has that of 3. The two best of `b` are 1 10 and 2 10.
    assert_eq!(ran(&sandbox), set(&["1 0 0", "1 10 0", "1 20 0", "1 10 100"]));
    let after = sandbox.dump();
    assert_eq!(after["stages"][0]["survivors"], serde_json::json!(["m_0_0", "m_0_1"]));
    assert_eq!(after["study"]["status"], "completed");
    sandbox.ok("verify study.redb", 0);
    let events = sandbox.ok("dump study.redb --events", 0);
    assert!(events.contains("stage_reopened") && events.contains("b from m_0_1 m_0_0: 2 trials anew"), "{events}");
}

#[test]
fn survivors_that_are_kept_are_told() {
    let sandbox = study(STUDY, 1);
    ran(&sandbox);
    sandbox.write("mended", "");
    sandbox.ok("retry study.redb --failed --stage a --keep-survivors", 0);
    sandbox.ok("resume study.redb", 0);
    assert_eq!(ran(&sandbox), set(&["1 0 0"]));
    let dump = sandbox.dump();
    assert_eq!(dump["stages"][1]["from_other_survivors"], true);
    assert_eq!(dump["stages"][2].get("from_other_survivors"), None);
    for command in
        ["status study.redb", "why study.redb m_1_0", "verify study.redb", "dump study.redb --format text"]
    {
        let said = sandbox.ok(command, 0);
        let said: Vec<_> = said.split_whitespace().collect();
        assert!(said.join(" ").contains("planned from other cases than survive"), "{command}: {said:?}");
    }
}

#[test]
fn where_results_are_reused_the_study_is_as_if_nothing_had_failed() {
    let text = STUDY.replace("trial_budget", "reuse = true\ntrial_budget");
    let sandbox = study(&text, 1);
    ran(&sandbox);
    sandbox.write("mended", "");
    // Nothing is at stake: nobody is asked.
    sandbox.ok("retry study.redb --failed", 0);
    sandbox.ok("resume study.redb", 0);
    assert_eq!(ran(&sandbox), set(&["1 0 0", "1 10 0", "1 20 0", "1 10 100"]));
    let said = sandbox.ok("dump study.redb --canonical", 0);
    sandbox.ok("verify study.redb", 0);
    sandbox.ok("run study.toml --store other.redb --artifacts other", 0);
    assert_eq!(said, sandbox.ok("dump other.redb --canonical", 0));
}
