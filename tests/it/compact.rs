//! `piton compact`: nothing is lost, no engine is disturbed, and a crash leaves the old store or the new one.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{Sandbox, StudyFile, both, exists, wait_until};

/// Two stages; the first has failures and labels.
fn study_file() -> StudyFile {
    StudyFile::new("packed")
        .with("seed = 3")
        .run("workers = 2")
        .stage(
            "wide",
            r#"test {x} -ne 5 || exit 3; echo '{{"y": {x}, "kind": "label"}}' > metrics.json
               echo {x} > out.txt"#,
            30,
            3,
        )
        .with(r#"outputs = ["out.txt"]"#)
        .sweep(r#"x = { min = 0, max = 29, type = "int" }"#)
        .maximize("y")
        .stage("deep", r#"test ! -e "$PITON_STUDY_DIR/gate" || sleep 1000"#, 3, 1)
}

fn finished() -> Sandbox {
    let sandbox = Sandbox::with_study(study_file());
    sandbox.ok("run study.toml", 0);
    sandbox
}

/// All that can be read of a store, but for the engine that last had it open.
fn everything(sandbox: &Sandbox) -> [String; 3] {
    [
        sandbox.canonical(),
        sandbox.ok("dump study.redb --format jsonl", 0),
        sandbox.ok("dump study.redb --events --format jsonl", 0),
    ]
}

fn size(sandbox: &Sandbox) -> u64 {
    fs::metadata(sandbox.path("study.redb")).unwrap().len()
}

#[test]
fn nothing_is_lost_but_free_space() {
    let sandbox = finished();
    let store = sandbox.path("study.redb");
    fs::set_permissions(&store, fs::Permissions::from_mode(0o640)).unwrap();
    let (before, all) = (size(&sandbox), everything(&sandbox));
    // What a killed compaction left.
    sandbox.write("study.redb.compact.new", "half");
    let told: serde_json::Value = serde_json::from_str(&sandbox.ok("compact study.redb --json", 0)).unwrap();
    assert_eq!(told, serde_json::json!({ "schema": 1, "before_bytes": before, "after_bytes": size(&sandbox) }));
    assert!(size(&sandbox) < before, "{told}");
    assert_eq!(everything(&sandbox), all);
    sandbox.ok("verify study.redb", 0);
    assert!(!exists(&sandbox.path("study.redb.compact.new")));
    assert_eq!(fs::metadata(&store).unwrap().permissions().mode() & 0o777, 0o640);
    // Again: there is nothing left to give back, and it says so in words.
    let words = sandbox.ok("compact study.redb", 0);
    assert!(words.starts_with("`study.redb`: ") && words.trim_end().ends_with(" now"), "{words}");
    assert_eq!(everything(&sandbox), all);
}

#[test]
fn a_link_to_a_store_stays_a_link() {
    let sandbox = finished();
    fs::create_dir(sandbox.path("real")).unwrap();
    fs::rename(sandbox.path("study.redb"), sandbox.path("real/it.redb")).unwrap();
    symlink("real/it.redb", sandbox.path("study.redb")).unwrap();
    let canonical = sandbox.canonical();
    sandbox.ok("compact study.redb", 0);
    assert!(fs::symlink_metadata(sandbox.path("study.redb")).unwrap().is_symlink());
    assert_eq!(sandbox.canonical(), canonical);
}

#[test]
fn a_running_engine_keeps_its_store_and_a_killed_one_goes_on_after_it() {
    let sandbox = Sandbox::with_study(study_file());
    sandbox.write("gate", "");
    let engine = sandbox.start("run study.toml");
    let running = || sandbox.dump()["stages"][1]["running"].as_u64().unwrap() == 2;
    wait_until("two trials of the second stage run", || exists(&sandbox.path("study.redb")) && running());
    let refused = sandbox.run("compact study.redb");
    assert_eq!(refused.status.code(), Some(5), "{}", both(&refused));
    assert!(running(), "the engine goes on");
    engine.signal(Signal::KILL);
    assert_eq!(engine.wait().code(), None);
    let events = sandbox.ok("dump study.redb --events --format jsonl", 0);
    sandbox.ok("compact study.redb", 0);
    assert_eq!(sandbox.ok("dump study.redb --events --format jsonl", 0), events);
    fs::remove_file(sandbox.path("gate")).unwrap();
    sandbox.ok("resume study.redb", 0);
    sandbox.ok("verify study.redb", 0);
    assert_eq!(sandbox.canonical(), finished().canonical());
}

#[test]
fn killed_at_any_moment_it_leaves_a_whole_store() {
    let sandbox = finished();
    let all = everything(&sandbox);
    for round in 0..60 {
        let mut compaction = sandbox.piton(["compact", "study.redb"]).spawn().unwrap();
        // The whole of it takes some milliseconds: from the first system calls to beyond the end.
        std::thread::sleep(Duration::from_micros(400 * round));
        drop(compaction.kill());
        compaction.wait().unwrap();
        sandbox.ok("verify study.redb", 0);
    }
    assert_eq!(everything(&sandbox), all);
    sandbox.ok("compact study.redb", 0);
    assert!(!exists(&sandbox.path("study.redb.compact.new")));
}

#[test]
fn what_cannot_be_written_or_read_changes_nothing() {
    let sandbox = finished();
    let before = fs::read(sandbox.path("study.redb")).unwrap();
    let mut full = std::process::Command::new("sh");
    full.args(["-c", "ulimit -f 16; exec \"$0\" compact study.redb", env!("CARGO_BIN_EXE_piton")]);
    let full = full.current_dir(sandbox.path(".")).output().unwrap();
    assert_eq!(full.status.code(), Some(1), "{}", both(&full));
    let words = both(&full);
    assert!(words.contains("cannot write the compacted store") && words.contains("as it was"), "{words}");
    assert!(!exists(&sandbox.path("study.redb.compact.new")));
    assert_eq!(fs::read(sandbox.path("study.redb")).unwrap().len(), before.len());
    sandbox.ok("verify study.redb", 0);
    sandbox.ok("compact nowhere.redb", 1);
    sandbox.write("text.redb", "no store at all, but long enough to be looked at");
    sandbox.ok("compact text.redb", 7);
}
