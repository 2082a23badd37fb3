//! `[stage.race]`: cases leave by the evidence of their rounds, and neither workers nor kills nor a later `max` change who.

use rustix::process::Signal;

use crate::harness::{Sandbox, StudyFile, both, wait_until};

/// The value hangs on param and seed alone: 1 is the best by far, 2 and 3 are near each other, 4 is the worst. Case 5 fails in its fifth round.
const TRIAL: &str = r#"
echo "$PITON_CASE" >> "$PITON_STUDY_DIR/seen"
[ "$1$PITON_REPLICA" != 54 ] || exit 1
case $1 in 1) base=0 ;; 4) base=90 ;; *) base=30 ;; esac
echo "{\"t\": $(( base + (PITON_SEED / 7 * $1) % 20 ))}" > metrics.json
"#;

fn study(max: u32, workers: u32) -> StudyFile {
    StudyFile::new("race")
        .with("seed = 5")
        .run(format!("workers = {workers}"))
        .stage("sort", ["./trial.sh", "{x}"], u64::from(max) * 5, 2)
        .with(format!("aggregate = \"midmean\"\nrace = {{ max = {max} }}"))
        .sweep("x = [1, 2, 3, 4, 5]")
        .minimize("t")
        .stage("then", ["cat", "{parent_dir}/metrics.json"], 2, 1)
}

fn sandbox(max: u32, workers: u32) -> Sandbox {
    let sandbox = Sandbox::with_study(study(max, workers));
    sandbox.script("trial.sh", TRIAL);
    sandbox
}

/// Of each case how many rounds it ran and, if it left, by what evidence.
fn left(sandbox: &Sandbox) -> Vec<(u64, Option<f64>, bool)> {
    let dump = sandbox.dump();
    let case = |case: &serde_json::Value| {
        let left = &case["left"];
        (case["trials"].as_array().unwrap().len() as u64, left["evidence"].as_f64(), left.is_object())
    };
    dump["cases"].as_array().unwrap().iter().map(case).collect()
}

#[test]
fn cases_leave_when_it_is_known_that_they_do_not_survive() {
    let sandbox = sandbox(12, 1);
    let said = both(&sandbox.run("check study.toml"));
    assert!(said.contains("5 cases race, 3 to 12 rounds of a replica each"), "{said}");
    let said = both(&sandbox.run("run study.toml"));
    assert!(said.contains("after round 5: race_0_4 left the race, 4 in it"), "{said}");
    let left = left(&sandbox);
    assert_eq!(left[0], (12, None, false), "the best runs to the end: {left:?}");
    assert_eq!(left[4], (5, None, true), "a failure is no evidence: {left:?}");
    let (rounds, evidence, has_left) = left[3];
    // Two survive of five: at least 7 rounds, and 40 of evidence.
    assert!(
        has_left && (7..12).contains(&rounds) && evidence.is_some_and(|evidence| evidence >= 40.0),
        "{left:?}"
    );
    let trials: u64 = left.iter().map(|(rounds, ..)| rounds).sum();
    assert_eq!(sandbox.lines("seen").len() as u64, trials, "nobody runs who has left");
    assert_eq!(sandbox.dump()["stages"][0]["planned"], trials);

    let why = sandbox.ok("why study.redb race_0_3", 0);
    assert!(why.contains(&format!("left after round {rounds}: evidence")), "{why}");
    assert!(why.contains("of 40 that 2 others are better"), "{why}");
    // Who is still in it ranks among all that began.
    let why = sandbox.ok("why study.redb race_0_0", 0);
    assert!(why.contains("it survived: ranked 1 of 5 by `t` (minimize)"), "{why}");
    let gone = left.iter().filter(|(.., has_left)| *has_left).count();
    let how = match gone {
        3.. => "which was decided after round 12".to_owned(),
        _ => format!("and its last round, 12, ended it with {} in it", 5 - gone),
    };
    assert!(why.contains(&format!("{gone} of the 5 cases that began left the race, {how}")), "{why}");
    let json: serde_json::Value = serde_json::from_str(&sandbox.ok("why study.redb race_0_0 --json", 0)).unwrap();
    let race = &json["rank"]["race"];
    assert_eq!((&json["rank"]["of"], &race["left"], &race["over_after"]), (&5.into(), &gone.into(), &12.into()));
    let events = sandbox.ok("dump study.redb --events", 0);
    assert!(events.contains("left: race_0_4; 1 round more") && events.contains("the race is over"), "{events}");
    sandbox.ok("verify study.redb", 0);
    sandbox.ok("salvage study.redb -o saved.redb", 0);
    assert_eq!(sandbox.ok("dump saved.redb --format json --canonical", 0), sandbox.canonical());

    // What it has left without cannot be had back.
    let said = both(&sandbox.run("retry study.redb race_0_4"));
    assert!(said.contains("`race_0_4` has left its race"), "{said}");
    let said = both(&sandbox.run("retry study.redb race_0_4.r4"));
    assert!(said.contains("`race_0_4.r4` has left its race"), "{said}");
}

#[test]
fn neither_workers_nor_kills_change_it() {
    let whole = sandbox(10, 1);
    whole.ok("run study.toml", 0);
    for workers in [2, 7] {
        let other = sandbox(10, workers);
        other.ok("run study.toml", 0);
        assert_eq!(other.canonical(), whole.canonical(), "{workers} workers");
    }
    let killed = sandbox(10, 2);
    let seen = || std::fs::read_to_string(killed.path("seen")).unwrap_or_default().len();
    for _ in 0..20 {
        let before = seen();
        let mut engine = killed.start("run study.toml");
        wait_until("a trial has begun, or all have", || {
            seen() > before || engine.child.try_wait().unwrap().is_some()
        });
        if engine.child.try_wait().unwrap().is_none() {
            engine.signal(Signal::KILL);
        }
        engine.wait();
    }
    killed.ok("run study.toml", 0);
    assert_eq!(killed.canonical(), whole.canonical());
    killed.ok("verify study.redb", 0);
}

#[test]
fn a_race_may_go_on_for_longer_and_may_be_nothing_else() {
    let whole = sandbox(12, 2);
    whole.ok("run study.toml", 0);
    let sandbox = sandbox(6, 2);
    sandbox.ok("run study.toml", 0);
    assert_eq!(left(&sandbox)[0].0, 6);
    let said = sandbox.amend(study(12, 2), "--discard-from then --yes", 0);
    assert!(said.contains("the race goes on, for up to 6 rounds of 4 cases"), "{said}");
    sandbox.ok("run study.toml", 0);
    assert_eq!(left(&sandbox), left(&whole));
    assert_eq!(sandbox.dump()["stages"][1]["survivors"], whole.dump()["stages"][1]["survivors"]);
    sandbox.ok("verify study.redb", 0);
    // Each of these would have had others leave, or in other rounds.
    let said_of = |old: &str, new: &str| {
        let changed = study(12, 2).as_ref().replace(old, new);
        assert_ne!(changed, study(12, 2).as_ref(), "{old}");
        sandbox.write("study.toml", changed);
        both(&sandbox.run("amend study.redb study.toml --dry-run"))
    };
    let wrong = [
        ("max = 12", "max = 8"),
        ("max = 12", "max = 12, confidence = 0.9"),
        ("max = 12", "max = 12, min = 4"),
        ("survivor_count = 2", "survivor_count = 1"),
        ("trial_budget = 60", "trial_budget = 48"),
        ("\"minimize\"", "\"maximize\""),
    ];
    for (old, new) in wrong {
        let said = said_of(old, new);
        assert!(said.contains("alters results"), "{old} → {new}: {said}");
    }
    let said = said_of("midmean", "median");
    assert!(said.contains("finished trials from stage `then` on"), "{said}");
}

/// A race looks at whole rounds: a replica that is tried again is waited for, in whichever run.
#[test]
fn a_replica_that_is_tried_again_is_in_its_round() {
    let sandbox = sandbox(8, 2);
    let once = r#"[ "$1$PITON_REPLICA" != 11 ] || [ -e "$PITON_STUDY_DIR/tried" ] || { touch "$PITON_STUDY_DIR/tried"; exit 7; }"#;
    sandbox.script("trial.sh", &format!("{once}\n{TRIAL}"));
    sandbox.write("study.toml", study(8, 2).as_ref().replace("race =", "retries = 1\nrace ="));
    sandbox.ok("run study.toml", 0);
    assert_eq!(left(&sandbox)[0], (8, None, false));
    let dump = sandbox.dump();
    let second = dump["trials"].as_array().unwrap().iter().find(|trial| trial["case"] == "race_0_0.r1").unwrap();
    assert_eq!(second["attempts"].as_array().unwrap().len(), 2);
    sandbox.ok("verify study.redb", 0);
}
