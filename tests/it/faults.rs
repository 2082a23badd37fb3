//! A faulty world: every call of the engine on its store, artifacts and exports that can fail, fails once, and for ever;
//! disks are full, limits low, directories gone, clocks jump.
//!
//! After each fault: an exit code of the contract, an error in words people read, nothing lost or doubled, and the same
//! command goes on to the very result of a run without faults.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::harness::{Sandbox, both};

/// The kinds of `faults.c`, in its order.
const KINDS: [&str; 7] = ["open", "write", "sync", "mkdir", "rename", "truncate", "read"];
const FOR_EVER: u64 = u64::MAX >> 1;

const STUDY: &str = r#"
[study]
name = "faulty"
[run]
workers = 2
[[stage]]
name = "wide"
command = ["./trial.sh", "{n}"]
trial_budget = 4
survivor_count = 2
outputs = ["out.txt"]
[stage.sweep]
n = { min = 1, max = 4, type = "int" }
[[stage.objective]]
metric = "z"
goal = "maximize"
[[stage]]
name = "deep"
command = ["./trial.sh", "{m}"]
trial_budget = 4
survivor_count = 1
[stage.sweep]
m = ["1", "2"]
[[stage.objective]]
metric = "z"
goal = "maximize"
"#;

const TRIAL: &str = r#"
echo "$PITON_CASE"
echo "out of $PITON_CASE" > out.txt
[ "$PITON_CASE" = faulty_0_0 ] && exit 3
echo "{\"z\": $1$PITON_STAGE_INDEX}" > metrics.json
"#;

fn study() -> Sandbox {
    let sandbox = Sandbox::with_study(STUDY);
    sandbox.script("trial.sh", TRIAL);
    sandbox
}

/// Builds the library that fails calls. Needs a C compiler, which `./tests/run` installs.
fn shim() -> &'static Path {
    static SHIM: std::sync::LazyLock<(tempfile::TempDir, PathBuf)> = std::sync::LazyLock::new(|| {
        let dir = tempfile::tempdir().unwrap();
        let library = dir.path().join("faults.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/faults.c");
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]).arg(&library).arg(source).arg("-ldl");
        let output = cc.output().unwrap_or_else(|error| panic!("a C compiler `cc` is needed: {error}"));
        assert!(output.status.success(), "{}", both(&output));
        (dir, library)
    });
    &SHIM.1
}

/// One fault: calls `first` to `last` of a kind fail so.
#[derive(Clone, Copy, Debug)]
struct Fault {
    kind: usize,
    first: u64,
    last: u64,
    errno: i32,
}

fn faulty_run(sandbox: &Sandbox, fault: Option<Fault>) -> Output {
    let mut command = sandbox.piton(["run", "study.toml"]);
    command
        .env("LD_PRELOAD", shim())
        .env("FAULT_DIR", sandbox.path("").parent().unwrap().join(sandbox.path("").file_name().unwrap()));
    command.env("FAULT_COUNTS", sandbox.path("engine.counts"));
    if let Some(Fault { kind, first, last, errno }) = fault {
        command.env("FAULT", format!("{kind}:{first}:{errno}:{last}"));
    }
    command.output().unwrap()
}

/// How many calls of each kind a whole run makes.
fn counts(sandbox: &Sandbox) -> Vec<u64> {
    let bytes = fs::read(sandbox.path("engine.counts")).unwrap();
    bytes.chunks_exact(8).map(|n| u64::from_ne_bytes(n.try_into().unwrap())).collect()
}

/// The attempt by which each trial that succeeded did so; every attempt is accounted for.
fn accepted(sandbox: &Sandbox) -> BTreeMap<String, u64> {
    let dump = sandbox.dump();
    let count = |name: &str| dump["accounting"][name].as_u64().unwrap();
    let parts = count("succeeded") + count("failed") + count("interrupted") + count("running");
    assert_eq!(count("attempts_started"), parts, "{}", dump["accounting"]);
    let mut accepted = BTreeMap::new();
    for trial in dump["trials"].as_array().unwrap() {
        let attempts = trial["attempts"].as_array().unwrap();
        let counted =
            |attempt: &&serde_json::Value| attempt["outcome"] == "succeeded" || attempt["outcome"] == "failed";
        let ended: Vec<_> = attempts.iter().filter(counted).collect();
        assert!(ended.len() <= 1, "a trial has one result: {trial}");
        if let Some(attempt) = ended.first() {
            accepted.insert(trial["case"].as_str().unwrap().to_owned(), attempt["n"].as_u64().unwrap());
        }
    }
    accepted
}

/// Exit 1 with an error people can read, or 0.
fn said_well(output: &Output, what: &dyn std::fmt::Debug) -> bool {
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.code() {
        Some(0) => return true,
        Some(1) => {}
        other => panic!("{what:?}: exit {other:?}, signal {:?}\n{words}", output.status),
    }
    assert!(words.contains("error: "), "{what:?}\n{words}");
    for bad in ["os error", "panicked", "Error", "PreviousIo", "internal error"] {
        assert!(!words.contains(bad), "{what:?} says `{bad}`\n{words}");
    }
    false
}

/// With the cause gone: nothing accepted is lost or doubled, and the same command completes the study.
fn goes_on(sandbox: &Sandbox, expected: &str, what: &dyn std::fmt::Debug) {
    let before = if sandbox.path("study.redb").exists() { accepted(sandbox) } else { BTreeMap::new() };
    let output = sandbox.run("run study.toml");
    assert_eq!(output.status.code(), Some(0), "{what:?}: it does not go on\n{}", both(&output));
    let after = accepted(sandbox);
    assert_eq!(after.len(), 8, "{what:?}");
    for (case, attempt) in &before {
        assert_eq!(after.get(case), Some(attempt), "{what:?}: the result of `{case}` is another one now");
    }
    assert_eq!(sandbox.canonical(), expected, "{what:?}");
    sandbox.ok("verify study.redb", 0);
    assert!(leftovers(sandbox).is_empty(), "{what:?}: {:?}", leftovers(sandbox));
}

/// Temporary files that a run should have cleaned up.
fn leftovers(sandbox: &Sandbox) -> Vec<PathBuf> {
    let of = |dir: PathBuf| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let all = of(sandbox.path("")).chain(of(sandbox.path("artifacts/faulty")));
    all.filter(|path| path.to_string_lossy().ends_with(".new") || path.to_string_lossy().ends_with(".piton-tmp"))
        .collect()
}

/// Every n-th call of a kind fails, once and from then on, in each of these ways; of many calls, `most` are chosen evenly.
fn every_call(kind: &str, errnos: &[i32], most: u64) {
    let kind = KINDS.iter().position(|name| *name == kind).unwrap();
    let whole = study();
    let output = faulty_run(&whole, None);
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    let expected = whole.canonical();
    let calls = counts(&whole)[kind];
    assert!(calls >= 4, "the library sees the engine's calls: {:?}", counts(&whole));
    let (mut injected, mut failed) = (0, 0);
    for (way, errno) in errnos.iter().enumerate() {
        for last_of in [|n| n, |_| FOR_EVER] {
            let chosen: std::collections::BTreeSet<u64> = (0..calls.min(most))
                .map(|n| 1 + n * calls / calls.min(most) + (way as u64) % (calls / calls.min(most)))
                .collect();
            for first in chosen {
                let fault = Fault { kind, first, last: last_of(first), errno: *errno };
                let sandbox = study();
                let output = faulty_run(&sandbox, Some(fault));
                injected += u64::from(counts(&sandbox)[kind] >= first);
                failed += u64::from(!said_well(&output, &fault));
                goes_on(&sandbox, &expected, &fault);
            }
        }
    }
    println!("{}: {calls} calls in a run, {injected} faults injected, {failed} runs ended by them", KINDS[kind]);
    assert!(injected >= calls.min(most) * errnos.len() as u64, "the faults were met");
}

#[test]
fn every_write_fails() {
    every_call("write", &[libc::ENOSPC, libc::EIO], 20);
}

#[test]
fn every_sync_fails() {
    every_call("sync", &[libc::EIO, libc::ENOSPC], 20);
}

#[test]
fn every_open_fails() {
    every_call("open", &[libc::EMFILE, libc::EDQUOT], 12);
}

#[test]
fn every_growth_fails() {
    every_call("truncate", &[libc::ENOSPC, libc::EDQUOT], 12);
}

#[test]
fn every_rename_and_mkdir_fails() {
    every_call("rename", &[libc::EIO, libc::ENOSPC], 8);
    every_call("mkdir", &[libc::EDQUOT, libc::EIO], 8);
}

#[test]
fn every_read_fails() {
    every_call("read", &[libc::EIO], 24);
}
