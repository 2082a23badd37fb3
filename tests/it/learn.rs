//! The example that learns: halving finds what the whole finds for a part of its epochs, and a kill in the middle changes nothing.

use std::collections::BTreeSet;

use rustix::process::Signal;
use serde_json::Value as Json;

use crate::harness::{Sandbox, wait_until};

/// What a trial of it trains to its end.
const EPOCHS: u64 = 81;

/// The example with less to train on, so that an epoch takes no time.
fn small() -> Sandbox {
    let sandbox = Sandbox::of_example("learn");
    sandbox.edit("train.py", "TRAINED, TESTED = 480, 120", "TRAINED, TESTED = 16, 8");
    sandbox.edit("study.toml", "trial_budget   = 90", "trial_budget   = 24");
    sandbox.edit("study.toml", "\"243\"", "\"81\"");
    sandbox.edit("study.toml", "rungs = [9, 27, 81]", "rungs = [3, 9, 27]");
    sandbox
}

fn winner(dump: &Json) -> (Json, Json) {
    let survivor = &dump["stages"][0]["survivors"][0];
    let trials = dump["trials"].as_array().unwrap();
    let trial = trials.iter().find(|trial| trial["case"] == *survivor).unwrap();
    (survivor.clone(), trial["metrics"]["loss"].clone())
}

/// Epochs up to which a trial is needed: those after the report that decided of it are not.
fn needed(dump: &Json) -> u64 {
    let of = |trial: &Json| match trial["state"].as_str().unwrap() {
        "pruned" => trial["pruned"]["step"].as_u64().unwrap(),
        "succeeded" => EPOCHS,
        _ => 0,
    };
    dump["trials"].as_array().unwrap().iter().map(of).sum()
}

#[test]
fn halving_finds_the_same_for_less_and_a_kill_changes_nothing() {
    let full = small();
    let text = std::fs::read_to_string(full.path("study.toml")).unwrap();
    full.write("study.toml", text.split("[stage.halving]").next().unwrap());
    full.ok("run study.toml", 0);
    let full = full.dump();

    let whole = small();
    whole.ok("run study.toml", 0);
    let dump = whole.dump();
    assert_eq!(winner(&dump), winner(&full));
    let (less, all) = (needed(&dump), needed(&full));
    // Of so few trials more go on: the first three always do.
    assert!(2 * less < all, "{less} of {all} epochs");

    let killed = small();
    let resumed = |dir: &Sandbox| {
        let artifacts = dir.path("artifacts/learn/0_train");
        let cases = std::fs::read_dir(artifacts).into_iter().flatten().flatten();
        cases.filter(|case| case.path().join("scratch/checkpoint.json").exists()).count()
    };
    let (mut before, mut kills) = (0, 0);
    for _ in 0..3 {
        let mut engine = killed.start("run study.toml");
        let mut has_ended = || engine.child.try_wait().unwrap().is_some();
        wait_until("another trial has a checkpoint", || resumed(&killed) > before || has_ended());
        before = resumed(&killed);
        if !has_ended() {
            engine.signal(Signal::KILL);
            kills += 1;
        }
        engine.wait();
    }
    assert!(kills > 0, "it is killed while it runs");
    killed.ok("run study.toml", 0);
    killed.ok("verify study.redb", 0);
    assert_eq!(killed.canonical(), whole.canonical());
}

/// What a trial reports is the same whether it was trained in one go or cut off and gone on with.
#[test]
fn a_trial_that_was_cut_off_goes_on_from_its_checkpoint() {
    let sandbox = small();
    // It is cut off right after its second checkpoint, once.
    sandbox.edit(
        "train.py",
        "            os.replace(checkpoint + \".new\", checkpoint)\n",
        "            os.replace(checkpoint + \".new\", checkpoint)\n            \
         if epoch == 54 and \"cut\" in os.environ: os.kill(os.getpid(), 9)\n",
    );
    let trial = |dir: &str, cut: bool| {
        let place = sandbox.path(dir);
        std::fs::create_dir_all(&place).unwrap();
        let mut command = std::process::Command::new("python3");
        command.arg(sandbox.path("train.py")).args(["0.1", "0.5", "1e-4", "6", "4", "81"]);
        command.env("PITON_SEED", "5").env("PITON_SCRATCH_DIR", &place);
        command.env("PITON_PROGRESS_FILE", place.join("progress.jsonl"));
        if cut {
            command.env("cut", "1");
        }
        command.status().unwrap()
    };
    assert!(trial("whole", false).success());
    assert!(!trial("cut", true).success());
    let lines = sandbox.lines("cut/progress.jsonl");
    assert_eq!(lines.len(), 54);
    assert!(trial("cut", false).success());
    assert_eq!(sandbox.lines("cut/progress.jsonl"), sandbox.lines("whole/progress.jsonl"));
    let losses: BTreeSet<String> = sandbox.lines("whole/progress.jsonl").into_iter().collect();
    assert_eq!(losses.len(), 81);
}
