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
