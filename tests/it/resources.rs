//! What trials share: never more at once than there is of it, and nothing of the result hangs on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use piton::{Metrics, Stage, Study};
use rustix::process::Signal;

use crate::harness::{Sandbox, StudyFile, both, wait_until};

/// A tool that can run as often at once as the file `most` says, and fails if it is started once more: each that runs holds one of so many
/// locks, which the kernel takes back however it ends.
const CROWDED: &str = "free=no; for place in $(seq $(cat {study_dir}/most)); do exec 9>{study_dir}/place_$place; \
     flock -n 9 && free=yes && break; done; test $free = yes || exit 9; sleep 0.02; \
     echo '{{\"m\": {x}}}' > metrics.json";

fn study_file(keys: &str) -> StudyFile {
    StudyFile::new("s")
        .run("workers = 6")
        .stage("a", CROWDED, 12, 4)
        .with(keys)
        .sweep(r#"x = { min = 1, max = 12, type = "int" }"#)
        .maximize("m")
        .stage("b", "test {x} -gt 0", 8, 1)
        .sweep("y = [1, 2]")
}

#[test]
fn no_more_trials_of_a_stage_run_at_once_than_it_says_and_nothing_hangs_on_it() {
    let of = |most: u32, keys: &str| {
        let sandbox = Sandbox::with_study(study_file(keys));
        sandbox.write("most", most.to_string());
        sandbox
    };
    let finished = |sandbox: &Sandbox| {
        let run = sandbox.run("run study.toml");
        assert_eq!(run.status.code(), Some(0), "{}", both(&run));
        assert_eq!(sandbox.dump()["accounting"]["failed"], 0);
        sandbox.ok("verify study.redb", 0);
        sandbox.canonical()
    };
    let one = of(1, "workers = 1");
    assert!(one.ok("check study.toml", 0).contains("  1 trial at once at most\n"));
    let canonical = finished(&one);
    assert_eq!(finished(&of(3, "workers = 3")), canonical);
    assert_eq!(finished(&of(6, "")), canonical);
    // It may change whenever nothing runs, and only the file needs to say so.
    let cut = of(1, "workers = 1");
    let engine = cut.start("run study.toml");
    wait_until("a trial has ended", || {
        let dump = cut.run("dump study.redb --format json");
        serde_json::from_slice::<serde_json::Value>(&dump.stdout)
            .is_ok_and(|dump| dump["accounting"]["succeeded"] != 0)
    });
    engine.signal(Signal::KILL);
    engine.wait();
    cut.write("study.toml", study_file(""));
    let check = cut.ok("check study.toml", 0);
    assert!(check.contains("`piton run` goes on with it") && !check.contains("at once"), "{check}");
    let amended = cut.amend(study_file("workers = 2"), "--yes", 0);
    assert!(amended.contains("stage \"a\".workers"), "{amended}");
    assert!(amended.contains("counts from the next run on"), "{amended}");
    cut.write("study.toml", study_file("workers = 1"));
    assert_eq!(finished(&cut), canonical);
    let refused = Sandbox::with_study(study_file("workers = 0")).run("check study.toml");
    assert_eq!(refused.status.code(), Some(2));
    assert!(both(&refused).contains("`workers` is too small"), "{}", both(&refused));
}

/// Closures count what runs beside them.
#[test]
fn a_stage_of_closures_has_workers_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (running, peak) = (Arc::clone(&now), Arc::clone(&most));
    let stage = Stage::closure("a", move |_| {
        peak.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        std::thread::yield_now();
        running.fetch_sub(1, Ordering::SeqCst);
        Ok(Metrics::new())
    });
    let stage = stage.budget(60).survivors(1).choices("x", 0..60).workers(2);
    let study = Study::builder("s").workers(8).stage(stage).build().unwrap().store(dir.path().join("s.redb"));
    study.run().unwrap();
    assert!((1..=2).contains(&most.load(Ordering::SeqCst)), "{most:?}");
    assert_eq!(now.load(Ordering::SeqCst), 0);
}

/// Two cards, two licences and four processors, of which a trial takes what it needs, and fails if somebody has its card.
const CARDS: &str = "exec 9>{study_dir}/card_{card}; flock -n 9 || exit 9; sleep 0.02; \
     echo \"$PITON_CARD $PITON_LICENCE $PITON_CPUS $OMP_NUM_THREADS {attempt} $PITON_MEMORY\" >> {study_dir}/had; \
     test {x} != 2 || test {attempt} != 1 || exit 3; echo '{{\"m\": {x}}}' > metrics.json";

fn with_cards(resources: &str, needs: &str) -> StudyFile {
    StudyFile::new("s")
        .run("workers = 6")
        .with(format!("[resources]\n{resources}"))
        .stage("a", CARDS, 12, 2)
        .with(format!("needs = {needs}\nretries = {{ count = 1, delay = \"0s\" }}"))
        .sweep(r#"x = { min = 1, max = 12, type = "int" }"#)
        .maximize("m")
        .stage("b", "test -z \"$PITON_CARD\"", 2, 1)
}

#[test]
fn no_item_is_given_to_two_and_which_ones_a_trial_had_is_known() {
    let spare = with_cards(
        "card = [\"a\", \"b\"]\nlicence = 2\ncpus = 4",
        "{ card = 1, licence = 1, cpus = 2, memory = \"32MiB\" }",
    );
    let whole = Sandbox::with_study(&spare);
    let run = whole.run_without("run study.toml", "OMP_NUM_THREADS");
    assert_eq!(run.status.code(), Some(0), "{}", both(&run));
    let had = whole.lines("had");
    assert_eq!(had.len(), 13, "{had:?}");
    assert!(had.iter().all(|line| line.ends_with(" 33554432")), "{had:?}");
    assert!(had.iter().all(|line| line.starts_with("a 1 2 2 ") || line.starts_with("b 1 2 2 ")), "{had:?}");
    let dump = whole.dump();
    assert_eq!(dump["accounting"]["failed"], 1, "the one that fails by itself");
    let why: serde_json::Value = serde_json::from_str(&whole.ok("why study.redb s_0_1 --json", 0)).unwrap();
    assert_eq!(why["given"]["2"]["cpus"], "2", "{why}");
    assert!(["a", "b"].contains(&why["given"]["1"]["card"].as_str().unwrap()), "{why}");
    assert!(why["command"][2].as_str().unwrap().contains("card_"), "{why}");
    assert!(
        whole.ok("why study.redb s_0_1", 0).contains("      with card "),
        "{}",
        whole.ok("why study.redb s_0_1", 0)
    );
    assert!(!whole.ok("why study.redb s_1_0", 0).contains("      with "));
    let events = whole.ok("dump study.redb --events --format jsonl", 0);
    assert_eq!(events.matches("\"resources_given\"").count(), 13);
    whole.ok("verify study.redb", 0);
    let canonical = whole.canonical();
    // Other cards, any number of them, killed at any moment: the same study.
    let other =
        with_cards("card = [\"0\", \"1\", \"2\"]\nlicence = 5\ncpus = 9\nmemory = \"1GiB\"", "{ card = 1 }");
    let killed = Sandbox::with_study(&spare);
    for turn in 0..8 {
        let begun = if killed.path("had").exists() { killed.lines("had").len() } else { 0 };
        let mut engine = killed.start("run study.toml");
        wait_until("a trial had its card", || {
            killed.path("had").exists() && killed.lines("had").len() > begun
                || engine.child.try_wait().unwrap().is_some()
        });
        if engine.child.try_wait().unwrap().is_none() {
            engine.signal(Signal::KILL);
        }
        engine.wait();
        killed.write("study.toml", if turn % 2 == 0 { &other } else { &spare });
    }
    let run = killed.run("run study.toml");
    assert_eq!(run.status.code(), Some(0), "{}", both(&run));
    assert!(killed.dump()["accounting"]["failed"].as_u64().unwrap() <= 1, "{}", killed.dump());
    assert_eq!(killed.canonical(), canonical);
    killed.ok("verify study.redb", 0);
    killed.ok("salvage study.redb -o saved.redb", 0);
    assert_eq!(killed.ok("dump saved.redb --format json --canonical", 0), canonical);
}

/// What would wait for ever is refused before anything is made.
#[test]
fn more_than_there_ever_is_is_refused() {
    let sandbox = Sandbox::with_study(
        StudyFile::new("s").stage("a", "true", 1, 1).with("needs = { cpus = 70000, memory = \"1GiB\" }"),
    );
    for line in ["check study.toml", "run study.toml"] {
        let refused = sandbox.run(line);
        assert_eq!(refused.status.code(), Some(2), "{}", both(&refused));
        assert!(both(&refused).contains("needs 70000 of `cpus`, and there is "), "{}", both(&refused));
    }
    assert!(!sandbox.path("study.redb").exists());
    // Whoever says that there is more means it.
    sandbox.edit("study.toml", "[[stage]]", "[resources]\ncpus = 80000\n[[stage]]");
    sandbox.ok("run study.toml", 0);
}

/// A closure is told what it has; no two have the same.
#[test]
fn closures_share_items() {
    let dir = tempfile::tempdir().unwrap();
    let used = Arc::new([const { AtomicUsize::new(0) }; 3]);
    let cards = Arc::clone(&used);
    let stage = Stage::closure("a", move |trial| {
        let [card] = trial.items("card") else { return Err("not one card".into()) };
        let card: usize = card.parse().map_err(|_| "no number")?;
        let alone = cards[card].fetch_add(1, Ordering::SeqCst) == 0;
        std::thread::yield_now();
        cards[card].fetch_sub(1, Ordering::SeqCst);
        let told = (trial.amount("licence"), trial.amount("cpus"), trial.items("licence").len());
        if alone && told == (2, 0, 0) { Ok(Metrics::new()) } else { Err(format!("{alone} {told:?}").into()) }
    });
    let stage = stage.budget(60).survivors(60).choices("x", 0..60).needs("card", 1).needs("licence", 2);
    let study = Study::builder("s").workers(8).items("card", ["0", "1", "2"]).resource("licence", 5);
    let outcome = study.stage(stage).build().unwrap().store(dir.path().join("s.redb")).run().unwrap();
    assert_eq!(outcome.survivors.len(), 60);
}
