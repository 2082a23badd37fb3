//! Stores that earlier versions made, in `tests/data`: they open for ever, and say what they said.
//!
//! `layout-1.redb` has every kind of event of records of version 1: a base command, trials on Slurm and on this machine, retries and
//! failures, a proposer, a cluster that did not answer, a drain, an abort by a rail and one for want of survivors,
//! amendments that reopen and that discard, `retry`, `approve`, and its end. `layout-1-aborted.redb` is the same study as
//! its rail had just aborted it. `layout-1-late.redb` has the events that came after that, and `layout-1-replicas.redb` cases that run several times,
//! and `layout-1-ended.redb` a stage that ends early, `layout-1-raced.redb` cases that left a race, and
//! `layout-1-given.redb` trials that have items of a pool. Their trials' directories are not kept. How
//! they were made is in `tests/data/README.md`.

use std::collections::BTreeSet;
use std::path::Path;

use crate::harness::{Sandbox, both};

/// Each with a case of it.
const STORES: [(&str, &str); 7] = [
    ("layout-1", "case_0_2"),
    ("layout-1-aborted", "case_0_2"),
    ("layout-1-late", "late_0_2"),
    ("layout-1-replicas", "replicas_1_1"),
    ("layout-1-ended", "ended_1_0"),
    ("layout-1-raced", "raced_1_1"),
    ("layout-1-given", "given_1_2"),
];

fn data(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn old(name: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    std::fs::copy(data(&format!("{name}.redb")), sandbox.path("study.redb")).unwrap();
    // Its input.
    std::fs::copy(data("layout-1.ask.py"), sandbox.path("ask.py")).unwrap();
    sandbox
}

fn canonical(sandbox: &Sandbox, store: &str) -> String {
    sandbox.ok(&format!("dump {store} --format json --canonical"), 0)
}

#[test]
fn they_say_what_they_said() {
    for (name, case) in STORES {
        let sandbox = old(name);
        let before = std::fs::read(sandbox.path("study.redb")).unwrap();
        assert_eq!(
            canonical(&sandbox, "study.redb"),
            std::fs::read_to_string(data(&format!("{name}.canonical.json"))).unwrap(),
            "{name}"
        );
        for look in [
            "status study.redb",
            "status study.redb --json",
            &format!("why study.redb {case}"),
            "dump study.redb",
            "dump study.redb --events",
        ] {
            sandbox.ok(look, 0);
        }
        let half = sandbox.ok("dump study.redb --at 30 --format json", 0);
        assert!(half.contains("_1_0"), "{half}");
        // The directories are gone, so that outputs differ; nothing in the store does.
        let verified = sandbox.run("verify study.redb");
        assert_eq!(verified.status.code(), Some(4), "{}", both(&verified));
        let said = both(&verified);
        assert!(!said.contains("stored:") && !said.contains("cannot run"), "{said}");
        assert_eq!(std::fs::read(sandbox.path("study.redb")).unwrap(), before, "looking changes nothing");
    }
}

/// A kind of event that is in none of them has to get a store, made by the program that first writes it.
#[test]
fn every_kind_of_event_is_in_one_of_them() {
    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    let mut kinds = BTreeSet::new();
    for (name, _) in STORES {
        let events = old(name).ok("dump study.redb --events --format jsonl", 0);
        kinds.extend(events.lines().map(|line| json(line)["type"].as_str().unwrap().to_owned()));
    }
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/schema/telemetry.schema.json");
    let schema = json(&std::fs::read_to_string(schema).unwrap());
    let of = |kind: &serde_json::Value| kind["properties"]["type"]["const"].as_str().unwrap().to_owned();
    let all: BTreeSet<String> = schema["oneOf"].as_array().unwrap().iter().map(of).collect();
    assert!(all.len() > 30, "{all:?}");
    assert_eq!(kinds, all);
}

#[test]
fn they_are_compacted_and_salvaged_as_they_are() {
    for (name, _) in STORES {
        let sandbox = old(name);
        let said = canonical(&sandbox, "study.redb");
        sandbox.ok("compact study.redb", 0);
        assert_eq!(canonical(&sandbox, "study.redb"), said);
        sandbox.ok("salvage study.redb -o saved.redb", 0);
        assert_eq!(canonical(&sandbox, "saved.redb"), said);
    }
}

/// A finished one is shown again; one that was aborted goes on when its rail is loosened.
#[test]
fn they_go_on() {
    let sandbox = old("layout-1");
    sandbox.ok("resume study.redb", 0);
    let sandbox = old("layout-1-aborted");
    sandbox.ok("resume study.redb", 3);
    // Why it was aborted is asked again; the words are those of then.
    let said = both(&sandbox.run("verify study.redb"));
    assert!(!said.contains("the abort says"), "{said}");
}
