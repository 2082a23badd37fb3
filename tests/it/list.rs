//! `piton list`: every store below a directory, whatever state it is in, and nothing of them changed.

use std::fs;
use std::os::unix::fs::symlink;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::Signal;
use serde_json::{Value as Json, json};

use crate::harness::{Sandbox, StudyFile, wait_until};

/// Three trials; each waits for a file.
fn gated(name: &str) -> StudyFile {
    let command = "while test ! -e {study_dir}/go; do sleep 0.02; done; echo '{{\"y\": {x}}}' > metrics.json";
    StudyFile::new(name).stage("only", command, 3, 1).sweep("x = [3, 1, 2]").minimize("y")
}

fn studies(sandbox: &Sandbox, options: &str) -> Vec<Json> {
    let all: Json = serde_json::from_str(&sandbox.ok(&format!("list --json {options}"), 0)).unwrap();
    assert_eq!((&all["schema"], &all["unreadable"]), (&json!(1), &json!([])));
    all["studies"].as_array().unwrap().clone()
}

fn names(studies: &[Json]) -> Vec<&str> {
    studies.iter().map(|study| study["store"].as_str().unwrap()).collect()
}

#[test]
fn every_store_is_a_line_whatever_state_it_is_in() {
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.ok("list", 0), "no study\n0 studies\n");
    for dir in ["done", "dead", "live", "live/.hidden", "odd"] {
        fs::create_dir(sandbox.path(dir)).unwrap();
    }
    // Its trials leave a store and a megabyte among their artifacts.
    let leaves = "cp {study_dir}/s.toml mine.redb; head -c 1048576 /dev/urandom > big; echo '{{\"y\": {x}}}' > metrics.json";
    let finished = StudyFile::new("finished").stage("first", leaves, 3, 1).sweep("x = [3, 1, 2]").minimize("y");
    sandbox.write(
        "done/s.toml",
        finished.stage("second", "echo '{{\"z\": 4.5}}' > metrics.json", 1, 1).maximize("z"),
    );
    sandbox.ok("run done/s.toml", 0);
    sandbox.write("dead/s.toml", gated("killed"));
    let engine = sandbox.start("run dead/s.toml -j 1");
    let begun = |store: &str| sandbox.run(&format!("dump {store} --format jsonl")).stdout;
    let runs = |store: &str| String::from_utf8(begun(store)).unwrap().contains("\"state\":\"running\"");
    wait_until("a trial runs", || runs("dead/s.redb"));
    engine.signal(Signal::KILL);
    engine.wait();
    sandbox.write("live/s.toml", gated("running"));
    let engine = sandbox.start("run live/s.toml -j 1");
    wait_until("a trial runs", || runs("live/s.redb"));

    // What is no store of piton's, and what is not looked at.
    let whole = fs::read(sandbox.path("done/s.redb")).unwrap();
    sandbox.write("odd/text.redb", "no store");
    sandbox.write("odd/empty.redb", "");
    fs::write(sandbox.path("odd/cut.redb"), &whole[..whole.len() / 3]).unwrap();
    let mut zeros = whole.clone();
    zeros[4_096..].fill(0);
    fs::write(sandbox.path("odd/zeros.redb"), zeros).unwrap();
    fs::write(sandbox.path("odd/\u{1b}]0;name\u{7}.redb"), &whole).unwrap();
    fs::write(sandbox.path("live/.hidden/s.redb"), &whole).unwrap();
    symlink(sandbox.path("done/s.redb"), sandbox.path("odd/link.redb")).unwrap();
    symlink(sandbox.path(""), sandbox.path("odd/around")).unwrap();
    mknodat(CWD, sandbox.path("odd/pipe.redb"), FileType::Fifo, Mode::RWXU, 0).unwrap();

    let before = fs::read(sandbox.path("dead/s.redb")).unwrap();
    let found = studies(&sandbox, "");
    let all = [
        "dead/s.redb",
        "done/s.redb",
        "live/s.redb",
        "odd/\u{1b}]0;name\u{7}.redb",
        "odd/cut.redb",
        "odd/empty.redb",
        "odd/text.redb",
        "odd/zeros.redb",
    ];
    assert_eq!(names(&found), all);
    let of = |at: usize, keys: &[&str]| Json::from_iter(keys.iter().map(|key| (*key, found[at][*key].clone())));
    let keys = ["study", "status", "stage", "done", "planned", "best", "error"];
    let best = json!({ "metric": "z", "value": 4.5, "case": "finished_1_0" });
    let done = json!({ "study": "finished", "status": "completed", "stage": "second", "done": 4, "planned": 4, "best": best, "error": null });
    assert_eq!(of(1, &keys), done);
    let open = |name: &str, status: &str| json!({ "study": name, "status": status, "stage": "only", "done": 0, "planned": 3, "best": null, "error": null });
    assert_eq!((of(0, &keys), of(2, &keys)), (open("killed", "interrupted"), open("running", "running")));
    for odd in &found[4..] {
        assert_eq!((&odd["study"], &odd["error"]), (&Json::Null, &json!("damaged, or no piton store")), "{odd}");
    }
    // What the kill left to mend is left.
    assert_eq!(fs::read(sandbox.path("dead/s.redb")).unwrap(), before);

    let plain = sandbox.piton(["list"]).env_remove("COLUMNS").output().unwrap();
    let plain = String::from_utf8(plain.stdout).unwrap();
    assert!(!plain.contains('\u{1b}') && plain.contains("odd/\\u{1b}]0;name\\u{7}.redb"), "{plain}");
    assert!(plain.lines().nth(2).unwrap().starts_with("finished  completed "), "{plain}");
    let totals = "8 studies: 1 interrupted, 2 completed, 1 running, 4 not readable";
    assert_eq!(plain.lines().last(), Some(totals));
    assert_eq!(plain.lines().count(), 1 + 8 + 1);
    let narrow = sandbox.piton(["list", "."]).env("COLUMNS", "40").output().unwrap();
    let narrow = String::from_utf8(narrow.stdout).unwrap();
    assert!(narrow.starts_with("dead/s.redb\n  killed: interrupted\n  stage only, 0/3, age "), "{narrow}");

    // A megabyte for each of three trials, once each, and only where they are the study's own.
    let with_disk = studies(&sandbox, "--disk done");
    let size = |name: &str| with_disk[0][name].as_u64().unwrap();
    assert!((3 << 20..4 << 20).contains(&(size("disk_bytes") - size("store_bytes"))), "{with_disk:?}");
    assert_eq!(studies(&sandbox, "done/")[0].get("disk_bytes"), None);

    sandbox.write("live/go", "");
    engine.wait();
    assert_eq!(studies(&sandbox, "live")[0]["status"], "completed");
    assert_eq!(sandbox.run("list nowhere").status.code(), Some(1));
}
