//! Cases that run several times: what their trials see, what counts, and that neither workers nor kills change it.

use rustix::process::Signal;

use crate::harness::{Sandbox, StudyFile, both, wait_until};

/// Each trial tells what it sees; the value hangs on params and seed alone.
const TRIAL: &str = r#"
echo "$PITON_CASE $PITON_REPLICA $PITON_SEED" >> "$PITON_STUDY_DIR/seen"
echo "$PITON_CASE" > out.txt
echo "{\"t\": $(( $1 * 40 + PITON_SEED % 100 ))}" > metrics.json
"#;

fn study(repeats: u32, budget: u64, workers: u32) -> StudyFile {
    StudyFile::new("again")
        .with("seed = 5")
        .run(format!("workers = {workers}"))
        .stage("noisy", ["./trial.sh", "{x}", "{replica}"], budget, 2)
        .with(format!("repeats = {repeats}\naggregate = \"median\"\noutputs = [\"out.txt\"]"))
        .sweep("x = [1, 2, 3, 4]")
        .minimize("t")
        .stage("then", ["cat", "{parent_dir}/out.txt"], 2, 1)
}

fn sandbox(repeats: u32, budget: u64, workers: u32) -> Sandbox {
    let sandbox = Sandbox::with_study(study(repeats, budget, workers));
    sandbox.script("trial.sh", TRIAL);
    sandbox
}

#[test]
fn replicas_run_in_rounds_with_seeds_of_their_own_and_count_together() {
    let sandbox = sandbox(3, 13, 1);
    sandbox.ok("run study.toml", 0);
    let seen = sandbox.lines("seen");
    let cases: Vec<&str> = seen.iter().map(|line| line.split(' ').next().unwrap()).collect();
    let round = |replica: u32, order: [u32; 4]| order.map(|case| format!("again_0_{case}.r{replica}"));
    let expected = [round(0, [0, 1, 2, 3]), round(1, [3, 2, 1, 0]), round(2, [0, 1, 2, 3])].concat();
    assert_eq!(cases, expected);
    let mut seeds: Vec<(&str, &str)> = seen
        .iter()
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            (words[1], words[2])
        })
        .collect();
    seeds.sort_unstable();
    seeds.dedup();
    assert_eq!(seeds.len(), 3, "one seed a replica: {seen:?}");

    let dump = sandbox.dump();
    let (trials, cases) = (dump["trials"].as_array().unwrap(), dump["cases"].as_array().unwrap());
    assert_eq!((trials.len(), cases.len()), (14, 4));
    for case in cases {
        let mut values: Vec<f64> = Vec::new();
        for (replica, id) in case["trials"].as_array().unwrap().iter().enumerate() {
            let trial = &trials[id.as_u64().unwrap() as usize];
            assert_eq!(trial["replica"], replica);
            assert_eq!(trial["case"], format!("{}.r{replica}", case["case"].as_str().unwrap()));
            values.push(trial["metrics"]["t"].as_f64().unwrap());
        }
        values.sort_unstable_by(f64::total_cmp);
        assert_eq!((case["metrics"]["t"].as_f64(), case["n"].as_u64()), (Some(values[1]), Some(3)));
    }
    assert_eq!(dump["stages"][0]["survivors"], serde_json::json!(["again_0_0", "again_0_1"]));
    assert_eq!(trials[12]["parent"], "again_0_0");
    // The median is a replica's value: that one's directory is what the child sees.
    let stands = &trials[cases[0]["stands_for_it"].as_u64().unwrap() as usize];
    assert_eq!(stands["metrics"], cases[0]["metrics"]);
    assert_eq!(sandbox.ok("logs study.redb again_1_0", 0).trim(), stands["case"].as_str().unwrap());

    let why = sandbox.ok("why study.redb again_0_2", 0);
    assert!(why.contains("it did not survive: ranked 3 of 4") && why.contains("3 of 3 succeeded"), "{why}");
    let which = both(&sandbox.run("logs study.redb again_0_2"));
    assert!(which.contains("`again_0_2.r0` to `again_0_2.r2`"), "{which}");
    sandbox.ok("verify study.redb", 0);
    let csv = sandbox.ok("dump study.redb --format csv", 0);
    assert_eq!(csv.lines().filter(|line| line.starts_with(',')).count(), 4, "{csv}");
}

#[test]
fn neither_workers_nor_kills_change_it() {
    let whole = sandbox(4, 16, 1);
    whole.ok("run study.toml", 0);
    let expected = whole.canonical();
    for workers in [2, 7] {
        let other = sandbox(4, 16, workers);
        other.ok("run study.toml", 0);
        assert_eq!(other.canonical(), expected, "{workers} workers");
    }
    let killed = sandbox(4, 16, 2);
    for _ in 0..20 {
        let seen = std::fs::read_to_string(killed.path("seen")).unwrap_or_default().len();
        let mut engine = killed.start("run study.toml");
        wait_until("a trial has begun, or all have", || {
            let now = std::fs::read_to_string(killed.path("seen")).unwrap_or_default().len();
            now > seen || engine.child.try_wait().unwrap().is_some()
        });
        if engine.child.try_wait().unwrap().is_none() {
            engine.signal(Signal::KILL);
        }
        engine.wait();
    }
    killed.ok("run study.toml", 0);
    assert_eq!(killed.canonical(), expected);
}

#[test]
fn more_replicas_are_added_to_those_there_are() {
    let sandbox = sandbox(2, 8, 2);
    sandbox.ok("run study.toml", 0);
    let before = sandbox.lines("seen").len();
    let said = sandbox.amend(study(3, 12, 2), "--discard-from then --yes", 0);
    assert!(said.contains("each case gets 1 further replica"), "{said}");
    sandbox.ok("run study.toml", 0);
    assert_eq!(sandbox.lines("seen").len(), before + 4);
    let whole = self::sandbox(3, 12, 2);
    whole.ok("run study.toml", 0);
    let cases = |sandbox: &Sandbox| sandbox.dump()["cases"].clone();
    assert_eq!(cases(&sandbox), cases(&whole));
    sandbox.ok("verify study.redb", 0);
    sandbox.ok("salvage study.redb -o saved.redb", 0);
    let saved = sandbox.ok("dump saved.redb --format json --canonical", 0);
    assert_eq!(saved, sandbox.canonical());
    // With the same budget fewer cases would have run.
    sandbox.write("study.toml", study(5, 12, 2));
    let said = both(&sandbox.run("amend study.redb study.toml --dry-run"));
    assert!(said.contains("alters results: 14 finished trials from stage `noisy` on"), "{said}");
}

#[test]
fn a_failed_replica_fails_its_case_until_it_is_tried_again() {
    let sandbox = sandbox(2, 8, 2);
    sandbox.script(
        "trial.sh",
        &format!("[ \"$PITON_CASE\" != again_0_0.r1 ] || [ -e \"$PITON_STUDY_DIR/mended\" ] || exit 3\n{TRIAL}"),
    );
    sandbox.ok("run study.toml", 0);
    let case = |sandbox: &Sandbox| sandbox.dump()["cases"][0].clone();
    assert_eq!((&case(&sandbox)["state"], &case(&sandbox)["n"]), (&"failed".into(), &1.into()));
    let why = sandbox.ok("why study.redb again_0_0", 0);
    assert!(why.contains("again_0_0.r1: failed"), "{why}");
    sandbox.write("mended", "");
    sandbox.ok("retry study.redb again_0_0 --discard-children", 0);
    sandbox.ok("run study.toml", 0);
    assert_eq!((&case(&sandbox)["state"], &case(&sandbox)["survivor"]), (&"succeeded".into(), &true.into()));
    sandbox.ok("verify study.redb", 0);
}
