//! Stages that had closed, and are opened again by `piton retry`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use piton::{LaterStages, Retry, Stage, Store, Study};
use serde_json::Value as Json;

use crate::clusters::{Cluster, Slurm};
use crate::harness::{Edit, Sandbox, both};
use crate::replans::Chance;

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
    script(&sandbox, failing);
    sandbox.ok("run study.toml", 0);
    sandbox
}

fn script(sandbox: &Sandbox, failing: u32) {
    let body = format!(
        r#"echo "$PITON_CASE $1 $2 $3" >> "$PITON_STUDY_DIR/ran"
[ "$1 $2" = "{failing} 0" ] && [ ! -e "$PITON_STUDY_DIR/mended" ] && exit 7
echo "{{\"m\": $(( $1 + $2 + $3 ))}}" > metrics.json"#
    );
    sandbox.script("trial.sh", &body);
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

#[test]
fn what_was_recorded_before_stays_readable() {
    let sandbox = study(STUDY, 1);
    let before = sandbox.ok("dump study.redb --format csv", 0);
    let seq = sandbox.dump()["events"].as_u64().unwrap();
    sandbox.write("mended", "");
    sandbox.ok("retry study.redb --failed --discard-children", 0);
    sandbox.ok("resume study.redb", 0);
    assert_ne!(sandbox.ok("dump study.redb --format csv", 0), before);
    assert_eq!(sandbox.ok(&format!("dump study.redb --format csv --at {seq}"), 0), before);
    // As of the moment in which the first stage is open, and others have yet to be planned anew.
    let events = sandbox.ok("dump study.redb --events --format jsonl", 0);
    let closed = events.lines().filter(|line| line.contains(r#""type":"stage_closed""#)).nth(3).unwrap();
    let closed: Json = serde_json::from_str(closed).unwrap();
    let open =
        sandbox.ok(&format!("dump study.redb --format json --at {}", closed["seq"].as_u64().unwrap() - 1), 0);
    let open: Json = serde_json::from_str(&open).unwrap();
    let statuses: Vec<_> = open["stages"].as_array().unwrap().iter().map(|stage| &stage["status"]).collect();
    assert_eq!(statuses, ["open", "closed", "closed"]);
}

#[test]
fn a_stage_that_is_to_be_approved_is_to_be_approved_again() {
    let text = STUDY.replace("name = \"b\"", "name = \"b\"\napprove = true");
    let sandbox = Sandbox::with_study(&text);
    script(&sandbox, 1);
    sandbox.ok("run study.toml", 8);
    // Approved, and not begun: who approved had seen other survivors.
    sandbox.ok("approve study.redb --by ada", 0);
    sandbox.write("mended", "");
    let output = sandbox.run("retry study.redb --failed");
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    assert!(both(&output).contains("stage `b` waits for approval again"), "{}", both(&output));
    sandbox.ok("verify study.redb", 0);
    sandbox.ok("resume study.redb", 8);
    sandbox.ok("approve study.redb --by ada", 0);
    sandbox.ok("resume study.redb", 0);
    let never = sandbox.canonical();
    // Begun: it waits again, and nothing of it is left.
    let sandbox = Sandbox::with_study(&text);
    script(&sandbox, 1);
    sandbox.ok("run study.toml", 8);
    sandbox.ok("approve study.redb --by ada", 0);
    sandbox.ok("resume study.redb", 0);
    sandbox.write("mended", "");
    sandbox.ok("retry study.redb --failed --discard-children", 0);
    sandbox.ok("resume study.redb", 8);
    let status = sandbox.ok("status study.redb", 0);
    assert!(status.contains("stage `b` waits for approval"), "{status}");
    sandbox.ok("approve study.redb --by ada", 0);
    sandbox.ok("resume study.redb", 0);
    assert_eq!(sandbox.canonical(), never);
    sandbox.ok("verify study.redb", 0);
}

/// Proposes 1, 2, 3 …; what it hears is in a file.
const COUNTER: &str = r#"
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    with open("heard-" + sys.argv[1], "a") as heard:
        heard.write(line)
    if message["type"] == "ask":
        print(json.dumps({"params": {sys.argv[1]: message["ask"] + 1}}), flush=True)
"#;

#[test]
fn what_a_program_proposed_stands_and_one_of_a_later_stage_begins_anew() {
    let asks = |text: &str, name: &str, sweep: &str| {
        let asked = format!(
            "sampling = {{ ask = [\"python3\", \"count.py\", \"{name}\"] }}\n[stage.sweep]\n{name} = {{ min = 1, max = 9, type = \"int\" }}"
        );
        text.replace(&format!("[stage.sweep]\n{name} = {sweep}"), &asked)
    };
    let text = asks(&asks(STUDY, "x", "[1, 2, 3, 4]"), "y", "[10, 20]");
    assert_eq!(text.matches("count.py").count(), 2);
    let sandbox = Sandbox::with_study(&text);
    sandbox.write("count.py", COUNTER);
    script(&sandbox, 1);
    sandbox.ok("run study.toml", 0);
    ran(&sandbox);
    let heard = sandbox.lines("heard-x");
    sandbox.write("mended", "");
    sandbox.ok("retry study.redb m_0_0 --discard-children", 0);
    sandbox.ok("resume study.redb", 0);
    // The case that was proposed runs again, and no other is asked for.
    let first: Vec<_> = ran(&sandbox).into_iter().filter(|given| given.ends_with(" 0 0")).collect();
    assert_eq!(first, ["1 0 0"]);
    let asked = |lines: &[String]| lines.iter().filter(|line| line.contains(r#""type":"ask""#)).count();
    assert_eq!(asked(&sandbox.lines("heard-x")), asked(&heard));
    let dump = sandbox.dump();
    assert_eq!(dump["stages"][0]["survivors"], serde_json::json!(["m_0_0", "m_0_1"]));
    let starts = sandbox.lines("heard-y").iter().filter(|line| line.contains(r#""type":"start""#)).count();
    assert_eq!(starts, 2, "the proposer of the second stage began twice");
    assert_eq!(dump["stages"][1]["succeeded"], 4);
    sandbox.ok("verify study.redb", 0);
    // All is as if nothing had failed.
    let never = Sandbox::with_study(&text);
    never.write("count.py", COUNTER);
    script(&never, 1);
    never.write("mended", "");
    never.ok("run study.toml", 0);
    assert_eq!(sandbox.canonical(), never.canonical());
}

#[test]
fn failures_of_all_stages_are_mended_at_once() {
    let sandbox = Sandbox::with_study(STUDY);
    // x = 1 fails, and so does every trial whose y is 10.
    let body = r#"[ -e "$PITON_STUDY_DIR/mended" ] || { [ "$1 $2" != "1 0" ] && [ "$2 $3" != "10 0" ]; } || exit 7
echo "{\"m\": $(( $1 + $2 + $3 ))}" > metrics.json"#;
    sandbox.script("trial.sh", body);
    sandbox.ok("run study.toml", 0);
    assert_eq!(sandbox.dump()["stages"][1]["failed"], 2);
    sandbox.write("mended", "");
    let said = sandbox.ok("retry study.redb --failed --discard-children --json", 0);
    let said: Json = serde_json::from_str(&said).unwrap();
    assert_eq!(said["pending_again"], serde_json::json!(["m_0_0", "m_1_0", "m_1_2"]));
    let status = sandbox.ok("status study.redb", 0);
    assert_eq!(status.matches(" open ").count(), 2, "{status}");
    sandbox.ok("verify study.redb", 0);
    sandbox.ok("run study.toml", 0);
    let dump = sandbox.dump();
    let failed: Vec<_> = dump["stages"].as_array().unwrap().iter().map(|stage| &stage["failed"]).collect();
    assert_eq!(failed, [0, 0, 0]);
    assert_eq!(dump["stages"][2]["survivors"].as_array().unwrap().len(), 1);
    sandbox.ok("verify study.redb", 0);
}

#[test]
fn results_that_equal_trials_could_not_take_are_at_stake() {
    // Imported ones are nobody's but their trial's.
    let text = STUDY.replace("trial_budget", "reuse = true\ntrial_budget");
    let sandbox = Sandbox::with_study(text.replace("name = \"b\"", "name = \"b\"\napprove = true"));
    script(&sandbox, 4);
    sandbox.ok("run study.toml", 8);
    sandbox.ok("approve study.redb", 0);
    sandbox.script("trial.sh", "exit 9");
    sandbox.ok("resume study.redb", 3);
    sandbox.write("b.csv", "x,y,m\n1,10,11\n2,10,12\n");
    sandbox.ok("retry study.redb --failed", 0);
    sandbox.ok("import study.redb b.csv --stage b --yes", 0);
    script(&sandbox, 4);
    sandbox.ok("resume study.redb", 0);
    sandbox.write("mended", "");
    let refused = sandbox.run("retry study.redb --failed");
    assert_eq!(refused.status.code(), Some(2), "{}", both(&refused));
    assert!(both(&refused).contains("up to 4 finished trials"), "{}", both(&refused));
    sandbox.ok("retry study.redb --failed --keep-survivors", 0);
    sandbox.ok("resume study.redb", 0);
    assert_eq!(sandbox.dump()["accounting"]["imported"], 2);
    sandbox.ok("verify study.redb", 0);
}

/// Results of a stage that is doubted are taken by nobody, so they are at stake; who agrees lets all of the stage run anew.
#[test]
fn results_that_are_doubted_are_at_stake() {
    // The second stage comes to something else where its values are looked at again, which no identity holds.
    let with = |y: &str| {
        let text =
            STUDY.edit("name = \"b\"", "name = \"b\"\nreuse = true").edit("y = [10, 20]", &format!("y = {y}"));
        text.edit("[[stage]]\nname = \"a\"", "[run]\nreuse_check = 1\n[[stage]]\nname = \"a\"")
    };
    let doubted = || {
        let sandbox = study(&with("[10, 20]"), 1);
        let body = std::fs::read_to_string(sandbox.path("trial.sh")).unwrap();
        std::fs::write(sandbox.path("trial.sh"), body.edit("{\\\"m\\\": $((", "{\\\"m\\\": $(( $2 * 7 +"))
            .unwrap();
        sandbox.write("study.toml", with("[20, 10]"));
        sandbox.ok("amend study.redb study.toml --yes --discard-from c", 0);
        sandbox.ok("run study.toml", 0);
        assert_eq!(sandbox.dump()["study"]["doubts"].as_array().unwrap().len(), 1);
        ran(&sandbox);
        sandbox.write("mended", "");
        sandbox
    };
    let sandbox = doubted();
    let before = sandbox.dump();
    let refused = sandbox.run("retry study.redb --failed");
    assert_eq!(refused.status.code(), Some(2), "{}", both(&refused));
    assert!(both(&refused).contains("up to 6 finished trials of later stages can go"), "{}", both(&refused));
    assert_eq!(sandbox.dump(), before, "nothing was recorded");
    sandbox.ok("retry study.redb --failed --discard-children", 0);
    sandbox.ok("resume study.redb", 0);
    // 2 survives as before: what its children came to is taken no more than what any others did.
    let children = ["1 10 0", "1 20 0", "2 10 0", "2 20 0"];
    let (ran_now, all) = (ran(&sandbox), set(&children));
    assert!(ran_now.is_superset(&all) && ran_now.contains("1 0 0"), "{ran_now:?}");
    let dump = sandbox.dump();
    assert_eq!(dump["trials"].as_array().unwrap().iter().filter(|t| t.get("reused_from").is_some()).count(), 0);
    assert_eq!(dump["study"]["doubts"], before["study"]["doubts"], "the doubt stands");
    sandbox.ok("verify study.redb", 0);
    // Who keeps them runs the mended trial alone.
    let sandbox = doubted();
    sandbox.ok("retry study.redb --failed --keep-survivors", 0);
    sandbox.ok("resume study.redb", 0);
    assert_eq!(ran(&sandbox), set(&["1 0 0"]));
}

#[test]
fn on_a_cluster_a_stage_is_mended_as_well() {
    let slurm = Slurm::start();
    let text = STUDY.replace(
        "[[stage]]\nname = \"a\"",
        &format!("[run]\nworkers = 2\n{}\n[[stage]]\nname = \"a\"", slurm.run_table()),
    );
    let sandbox = Sandbox::with_study(&text);
    script(&sandbox, 1);
    let ok = |line: &str| {
        let mut command = sandbox.piton(line.split_whitespace());
        let output = command.envs(slurm.env()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    };
    ok("run study.toml");
    ran(&sandbox);
    sandbox.write("mended", "");
    ok("retry study.redb --failed --discard-children");
    ok("resume study.redb");
    assert_eq!(ran(&sandbox), set(&["1 0 0", "1 10 0", "1 20 0", "1 10 100"]));
    let near = study(STUDY, 1);
    near.write("mended", "");
    near.ok("retry study.redb --failed --discard-children", 0);
    near.ok("resume study.redb", 0);
    assert_eq!(sandbox.dump()["stages"][2]["survivors"], near.dump()["stages"][2]["survivors"]);
    sandbox.ok("verify study.redb", 0);
}

/// Stages by chance, whose trials fail by chance until they are mended.
struct Shape {
    stages: Vec<(bool, u64, Vec<i64>)>,
    percent: u64,
}

impl Shape {
    /// `reuses`: of a hundred later stages so many do.
    fn of(seed: u64, reuses: u64) -> Self {
        let mut chance = Chance(seed);
        let stage = |chance: &mut Chance, first: bool| {
            let reuse = !first && chance.below(100) < reuses;
            let values = (0..2 + chance.below(if first { 5 } else { 2 }) as i64).collect();
            (reuse, 1 + chance.below(3), values)
        };
        let count = 2 + chance.below(2);
        let stages = (0..count).map(|index| stage(&mut chance, index == 0)).collect();
        Self { stages, percent: 15 + chance.below(40) }
    }

    /// `ran` counts the trials that ran.
    fn study(&self, mended: &Arc<AtomicBool>, ran: &Arc<AtomicU64>) -> Study {
        let mut study = Study::builder("s").seed(7);
        for ((reuse, survivors, values), name) in self.stages.iter().zip(["a", "b", "c"]) {
            let (percent, mended, ran) = (self.percent, Arc::clone(mended), Arc::clone(ran));
            let stage = Stage::closure(name, move |trial| {
                ran.fetch_add(1, Ordering::SeqCst);
                let hash = blake3::hash(format!("{name} {:?}", trial.params()).as_bytes());
                let number = u64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap());
                if number % 100 < percent && !mended.load(Ordering::SeqCst) {
                    return Err("not yet".into());
                }
                Ok([("m", (number >> 16) as f64)])
            });
            // Whatever the number of parents, each has all its children.
            let stage = stage.budget(1_000).survivors(*survivors).minimize("m");
            let stage = stage.choices(&format!("x{name}"), values.iter().copied());
            study = study.stage(if *reuse { stage.reuse("1") } else { stage });
        }
        study.build().unwrap()
    }
}

/// A study by chance that was run while its trials failed by chance.
struct Failing {
    sandbox: Sandbox,
    shape: Shape,
    mended: Arc<AtomicBool>,
    ran: Arc<AtomicU64>,
}

impl Failing {
    fn of(seed: u64, reuses: u64) -> Self {
        let (sandbox, shape) = (Sandbox::new(), Shape::of(seed, reuses));
        let failing = Self { sandbox, shape, mended: Arc::default(), ran: Arc::default() };
        failing.run();
        failing
    }

    fn run(&self) {
        let path = self.sandbox.path("study.redb");
        drop(self.shape.study(&self.mended, &self.ran).store(path).run().unwrap());
    }

    fn store(&self) -> Store {
        Store::at(self.sandbox.path("study.redb"))
    }

    /// Retries whatever fails until nothing does; how often it was, and whether anything was at stake.
    fn mend(&self, later: LaterStages) -> (u32, bool) {
        self.mended.store(true, Ordering::SeqCst);
        let (mut rounds, mut staked) = (0, false);
        loop {
            let store = self.store();
            let plan = store.plan_retry(Retry::Failed).unwrap();
            staked |= plan.at_stake() > 0;
            if plan.cases().is_empty() {
                return (rounds, staked);
            }
            let consent = (plan.at_stake() > 0).then_some(later);
            plan.apply(consent).unwrap();
            self.run();
            rounds += 1;
            assert!(rounds < 8, "it does not end");
        }
    }

    /// The study in which nothing ever failed.
    fn never_failed(&self) -> Sandbox {
        let sandbox = Sandbox::new();
        let study = self.shape.study(&Arc::new(AtomicBool::new(true)), &Arc::default());
        study.store(sandbox.path("study.redb")).run().unwrap();
        sandbox
    }
}

/// By stage: what each trial was given, with what came of it.
fn results(dump: &Json) -> BTreeSet<(u64, String, String)> {
    let trials = dump["trials"].as_array().unwrap().iter();
    trials.map(|t| (t["stage"].as_u64().unwrap(), t["params"].to_string(), t["metrics"].to_string())).collect()
}

#[test]
fn where_later_stages_reuse_a_study_that_was_mended_is_one_in_which_nothing_failed() {
    let (mut mended, mut staked) = (0, 0);
    for seed in 0..24 {
        let failing = Failing::of(seed, 100);
        let (rounds, at_stake) = failing.mend(LaterStages::Discard);
        mended += u32::from(rounds > 0);
        staked += u32::from(at_stake);
        let (is, was) = (failing.sandbox.canonical(), failing.never_failed().canonical());
        assert_eq!(is, was, "{seed}");
        assert_eq!(failing.store().verify().unwrap().differences(), 0, "{seed}");
        // What was taken was not run again: every result was made once.
        let made: BTreeSet<_> = results(&failing.sandbox.dump()).into_iter().collect();
        assert!(failing.sandbox.dump()["accounting"]["succeeded"].as_u64().unwrap() >= made.len() as u64);
    }
    assert!(mended > 12, "{mended} of 24 had anything to mend");
    assert_eq!(staked, 0, "nothing is lost where equal trials take results");
}

#[test]
fn a_study_that_was_mended_has_the_trials_of_one_in_which_nothing_failed_and_ran_no_more_than_those() {
    let (mut replanned, mut stood) = (0, 0);
    for seed in 0..24 {
        let failing = Failing::of(seed, if seed % 2 == 0 { 0 } else { 50 });
        let before = results(&failing.sandbox.dump());
        let ran = failing.ran.load(Ordering::SeqCst);
        failing.mend(LaterStages::Discard);
        let dump = failing.sandbox.dump();
        let (after, never) = (results(&dump), results(&failing.never_failed().dump()));
        assert_eq!(after, never, "{seed}");
        assert_eq!(dump["study"]["status"], "completed");
        // Parents are those that survive, and no others.
        for index in 1..dump["stages"].as_array().unwrap().len() {
            let survivors = dump["stages"][index - 1]["survivors"].as_array().unwrap().iter();
            let survivors: BTreeSet<_> = survivors.map(|case| case.as_str().unwrap()).collect();
            let of_stage = dump["trials"].as_array().unwrap().iter().filter(|t| t["stage"] == index);
            let parents: BTreeSet<_> = of_stage.map(|trial| trial["parent"].as_str().unwrap()).collect();
            assert_eq!(parents, survivors, "{seed}: stage {index}");
        }
        assert_eq!(failing.store().verify().unwrap().differences(), 0, "{seed}");
        let new = after.difference(&before).count() as u64;
        let ran = failing.ran.load(Ordering::SeqCst) - ran;
        replanned += u32::from(before.difference(&after).next().is_some());
        // What survived in between, and does no more, may have run besides.
        stood += u32::from(ran == new);
        assert!(ran >= new, "{seed}: {ran} ran for {new} results");
    }
    assert!(
        replanned > 5 && stood > 12,
        "{replanned} lost trials that failed or were nobody's, {stood} ran what is new"
    );
}

#[test]
fn later_stages_that_are_kept_are_as_they_were_and_nothing_goes_without_consent() {
    let (mut kept, mut others) = (0, 0);
    for seed in 0..40 {
        let failing = Failing::of(seed, 30);
        let before = failing.sandbox.dump();
        if before["study"]["status"] != "completed" || before["stages"][0]["failed"] == 0 {
            continue;
        }
        failing.mended.store(true, Ordering::SeqCst);
        let store = failing.store();
        let plan = store.plan_retry(Retry::FailedOf("a")).unwrap();
        if plan.at_stake() > 0 {
            let refused = plan.apply(None).unwrap_err();
            assert_eq!(refused.exit_code(), 2, "{refused}");
            assert_eq!(failing.sandbox.dump(), before, "{seed}: nothing was recorded");
        } else {
            drop(plan);
        }
        store.plan_retry(Retry::FailedOf("a")).unwrap().apply(Some(LaterStages::Keep)).unwrap();
        failing.run();
        let after = failing.sandbox.dump();
        let later = |dump: &Json| -> Vec<Json> {
            let trials = dump["trials"].as_array().unwrap().iter().filter(|trial| trial["stage"] != 0);
            trials.cloned().collect()
        };
        assert_eq!(later(&before), later(&after), "{seed}");
        assert_eq!((&after["study"]["status"], &after["stages"][0]["failed"]), (&"completed".into(), &0.into()));
        assert_eq!(store.verify().unwrap().differences(), 0, "{seed}");
        kept += 1;
        others += u32::from(after["stages"][1]["from_other_survivors"] == true);
    }
    assert!(kept > 6 && others > 2, "{kept} were kept, {others} with other survivors");
}
