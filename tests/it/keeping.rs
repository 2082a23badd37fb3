//! What is discarded of directories, by `keep` and by `piton gc`: recorded first, told from what is lost, and finished after a kill.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Sandbox, StudyFile, both, exists, wait_until};

/// Three cases, of which the first fails and the last survives, and two children of that.
fn study_file(keep: &str) -> StudyFile {
    StudyFile::new("s")
        .with("[defaults]")
        .with(format!("keep = {keep}"))
        .stage(
            "a",
            r#"mkdir deep; echo {x} | tee deep/out big; echo '{{"m": {x}}}' > metrics.json; echo note > "$PITON_SCRATCH_DIR/note"; test {x} -gt 1"#,
            3,
            1,
        )
        .with(r#"outputs = ["deep/out"]"#)
        .sweep("x = [1, 2, 3]")
        .maximize("m")
        .stage("b", r#"cat {parent_dir}/deep/out; echo '{{"m": {y}}}' > metrics.json"#, 2, 1)
        .sweep("y = [1, 2]")
        .maximize("m")
}

/// What lies below a directory, by name.
fn below(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![dir.to_path_buf()];
    while let Some(at) = left.pop() {
        for entry in fs::read_dir(&at).into_iter().flatten().flatten() {
            if entry.file_type().unwrap().is_dir() {
                left.push(entry.path());
            } else {
                found.push(entry.path().strip_prefix(dir).unwrap().display().to_string());
            }
        }
    }
    found.sort();
    found
}

fn events(sandbox: &Sandbox, kind: &str) -> Vec<Value> {
    let lines = sandbox.ok("dump study.redb --events --format jsonl", 0);
    let events = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    events.filter(|event| event["type"] == kind).collect()
}

#[test]
fn what_is_not_kept_goes_when_no_trial_to_come_needs_it() {
    let sandbox =
        Sandbox::with_study(study_file(r#"{ survivors = "outputs", others = "logs", failed = "nothing" }"#));
    let run = sandbox.run("run study.toml");
    assert_eq!(run.status.code(), Some(0), "{}", both(&run));
    assert!(both(&run).contains("stage `a`: freed "), "{}", both(&run));
    let stage = |name: &str| sandbox.path(&format!("artifacts/s/{name}"));
    // The failed one is gone; of the other its log stays; of the winner what is declared, metrics and log.
    assert_eq!(
        below(&stage("0_a")),
        [
            "s_0_1/attempt_1/stdout.log",
            "s_0_2/attempt_1/deep/out",
            "s_0_2/attempt_1/metrics.json",
            "s_0_2/attempt_1/stdout.log",
        ]
    );
    assert!(!exists(&stage("0_a/s_0_0")) && !exists(&stage("0_a/s_0_2/scratch")));
    assert_eq!(
        below(&stage("1_b")),
        ["s_1_0/attempt_1/stdout.log", "s_1_1/attempt_1/metrics.json", "s_1_1/attempt_1/stdout.log",]
    );
    let verified = sandbox.ok("verify study.redb", 0);
    assert!(verified.contains("hashed 1 outputs") && verified.contains("discarded: 1 output"), "{verified}");
    let told: Value = serde_json::from_str(&sandbox.ok("verify study.redb --json", 0)).unwrap();
    assert_eq!((&told["outputs"], &told["outputs_discarded"]), (&1.into(), &1.into()));
    // Whoever looks is told.
    let logs = sandbox.run("logs study.redb s_0_0");
    assert!(logs.status.code() == Some(1) && both(&logs).contains("was discarded"), "{}", both(&logs));
    assert_eq!(sandbox.ok("logs study.redb s_0_1", 0), "2\n");
    let why = sandbox.ok("why study.redb s_0_1", 0);
    assert!(why.contains("attempt_1 (discarded but for logs)"), "{why}");
    assert!(sandbox.ok("why study.redb s_0_0", 0).contains("attempt_1 (discarded)"));
    assert_eq!(sandbox.dump()["trials"][0]["attempts"][0]["kept"], "nothing");
    sandbox.ok("report study.redb -o report.html", 0);
    assert!(fs::read_to_string(sandbox.path("report.html")).unwrap().contains(r#""gone":[1,0,0]"#));
    assert!(sandbox.ok("best study.redb --stage a", 0).contains("(discarded but for outputs)"));
    assert_eq!(events(&sandbox, "discard_finished").len(), 3);
    // What is lost is told from that.
    fs::remove_file(stage("0_a/s_0_2/attempt_1/deep/out")).unwrap();
    let lost = sandbox.ok("verify study.redb", 4);
    assert!(lost.contains("`deep/out` of `s_0_2` is gone"), "{lost}");
}

#[test]
fn by_hand_it_is_said_what_is_freed_and_nothing_else_is_touched() {
    let sandbox = Sandbox::finished(study_file("{}"), 0);
    let precious = sandbox.path("precious");
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("file"), "x").unwrap();
    // A trial may leave anything.
    let attempt = sandbox.path("artifacts/s/0_a/s_0_0/attempt_1");
    symlink(&precious, attempt.join("out")).unwrap();
    fs::create_dir(attempt.join("locked")).unwrap();
    fs::write(attempt.join("locked/in"), "").unwrap();
    fs::set_permissions(attempt.join("locked"), fs::Permissions::from_mode(0o500)).unwrap();
    let (before, canonical) = (below(&sandbox.path("artifacts")), sandbox.canonical());
    // The study keeps everything; so nothing goes unless that is said.
    assert_eq!(sandbox.ok("gc study.redb", 0), "nothing to discard\n");
    let dry = sandbox.ok("gc study.redb --dry-run --keep others=outputs,failed=nothing", 0);
    assert!(
        dry.contains("stage `a`: 1 failed trial, 1 other (survivors=all,others=outputs,failed=nothing)"),
        "{dry}"
    );
    assert!(dry.contains("would free ") && below(&sandbox.path("artifacts")) == before, "{dry}");
    let told: Value =
        serde_json::from_str(&sandbox.ok("gc study.redb --json --keep others=outputs,failed=nothing", 0)).unwrap();
    assert_eq!((&told["stages"][0]["failed"], &told["stages"][1]["others"]), (&1.into(), &1.into()));
    let inodes = told["inodes"].as_u64().unwrap();
    assert!(dry.contains(&format!(" in {inodes} files and directories")), "{dry}{told}");
    assert!(!exists(&attempt) && precious.join("file").exists());
    assert_eq!(sandbox.canonical(), canonical);
    sandbox.ok("verify study.redb", 0);
    assert_eq!(sandbox.ok("gc study.redb --keep others=outputs,failed=nothing", 0), "nothing to discard\n");
    for wrong in ["--keep survivors", "--keep winners=all", "--keep others=some"] {
        sandbox.ok(&format!("gc study.redb {wrong}"), 2);
    }
    // A copy of the store is not the one whose directory that is.
    fs::copy(sandbox.path("study.redb"), sandbox.path("copy.redb")).unwrap();
    let refused = sandbox.run("gc copy.redb --keep survivors=nothing");
    assert_eq!(refused.status.code(), Some(2), "{}", both(&refused));
    assert!(both(&refused).contains("study.redb`: nothing in it is discarded"), "{}", both(&refused));
    assert!(sandbox.path("artifacts/s/0_a/s_0_2/attempt_1/deep/out").exists());
}

#[test]
fn a_gc_that_is_killed_is_finished_by_the_next_start() {
    let crowd = r#"mkdir crowd; cd crowd; seq 30000 | xargs touch"#;
    let sandbox = Sandbox::finished(StudyFile::new("s").stage("a", crowd, 1, 1), 0);
    let dir = sandbox.path("artifacts/s/0_a/s_0_0/attempt_1/crowd");
    let changed = || fs::metadata(&dir).ok().map(|dir| (dir.mtime(), dir.mtime_nsec()));
    let before = changed();
    let gc = sandbox.start("gc study.redb --keep survivors=nothing");
    wait_until("it removes something", || changed() != before);
    gc.signal(Signal::KILL);
    gc.wait();
    assert!(exists(&dir), "it was killed too late to show anything");
    assert_eq!(
        (events(&sandbox, "directories_discarded").len(), events(&sandbox, "discard_finished").len()),
        (1, 0)
    );
    sandbox.ok("verify study.redb", 0);
    sandbox.ok("run study.toml", 0);
    assert!(!exists(&sandbox.path("artifacts/s/0_a/s_0_0")));
    assert_eq!(events(&sandbox, "discard_finished").len(), 1);
    assert_eq!(sandbox.ok("gc study.redb --keep survivors=nothing", 0), "nothing to discard\n");
    sandbox.ok("verify study.redb", 0);
}

/// A child that failed is to run again, and its parent's directory is gone: refused in words, with the way to have it again.
#[test]
fn a_child_of_a_discarded_parent_is_refused_until_that_is_made_again() {
    let study = StudyFile::new("s")
        .stage("a", r#"echo {x} > out; echo '{{"m": {x}}}' > metrics.json"#, 2, 1)
        .with("keep = { survivors = \"logs\" }")
        .sweep("x = [1, 2]")
        .maximize("m")
        .stage("b", r#"cat "$PITON_PARENT_DIR/out" && test {y} -eq 1 -o -e "$PITON_STUDY_DIR/mended""#, 2, 1)
        .sweep("y = [1, 2]");
    let sandbox = Sandbox::finished(study, 0);
    assert!(!exists(&sandbox.path("artifacts/s/0_a/s_0_1")));
    sandbox.write("mended", "");
    let refused = sandbox.run("retry study.redb --failed");
    let said = both(&refused);
    assert_eq!(refused.status.code(), Some(6), "{said}");
    assert!(
        said.contains("the directory of the parent `s_0_1` was discarded") && said.contains("logs alone are kept"),
        "{said}"
    );
    assert!(events(&sandbox, "trial_reset").is_empty());
    let replay = sandbox.run("replay study.redb s_1_1");
    assert!(both(&replay).contains("it derives from was discarded"), "{}", both(&replay));
    // As the hint says.
    let again = said.split('`').find(|part| part.starts_with("piton amend ")).unwrap_or_else(|| panic!("{said}"));
    sandbox.ok(again.trim_start_matches("piton "), 0);
    sandbox.ok("run study.toml", 0);
    let dump = sandbox.dump();
    assert_eq!(dump["trials"].as_array().unwrap().iter().filter(|trial| trial["state"] == "succeeded").count(), 4);
    sandbox.ok("verify study.redb", 0);
}

/// Nothing starts that there is no room for; what comes of the study hangs on nothing of it.
#[test]
fn a_study_drains_before_it_takes_more_than_its_limit() {
    let of = |limit: &str| {
        StudyFile::new("s")
            .run(format!("workers = 2\ndisk_limit = {limit:?}"))
            .stage(
                "a",
                r#"head -c 300000 /dev/zero > waste; echo {x} > out; echo '{{"m": {x}}}' > metrics.json; test {x} -ne 4"#,
                8,
                2,
            )
            .with(r#"outputs = ["out"]"#)
            .sweep(r#"x = { min = 1, max = 8, type = "int" }"#)
            .maximize("m")
            .stage("b", "head -c 300000 /dev/zero > waste", 2, 1)
    };
    let whole = Sandbox::finished(of("1GiB"), 0);
    let sandbox = Sandbox::with_study(of("1.5 MiB"));
    let drained = sandbox.run("run study.toml");
    let said = both(&drained);
    assert_eq!(drained.status.code(), Some(75), "{said}");
    assert!(said.contains("no further trial starts: disk_limit: the study's directory takes "), "{said}");
    let status: Value = serde_json::from_str(&sandbox.ok("status study.redb --disk --json", 0)).unwrap();
    let (taken, limit) =
        (status["disk"]["bytes"].as_u64().unwrap(), status["disk"]["limit_bytes"].as_u64().unwrap());
    assert!(taken > 300_000 && taken <= limit && limit == 1_572_864, "{status}");
    assert!(sandbox.ok("status study.redb --disk", 0).contains(" of 1.5 MiB, "));
    assert!(!sandbox.ok("status study.redb", 0).contains("on disk"));
    // Again: nothing starts, since there is no room for one as large as those before.
    let started = || events(&sandbox, "attempt_started").len();
    let before = started();
    assert!(before < 8, "{before}");
    sandbox.ok("run study.toml", 75);
    assert_eq!(started(), before);
    // With room it goes on, and comes to what it would have come to.
    sandbox.write("study.toml", of("1GiB"));
    sandbox.ok("run study.toml", 0);
    assert_eq!(sandbox.canonical(), whole.canonical());
    sandbox.ok("verify study.redb", 0);
}

/// A result whose outputs are gone is made again, and said to be; trials for a parent that is gone are refused when they are added.
#[test]
fn what_is_discarded_is_neither_taken_nor_derived_from() {
    let of = |x: &str, budget: u32, children: u32| {
        StudyFile::new("s")
            .stage("a", r#"echo {x} > out; echo '{{"m": {x}}}' > metrics.json"#, budget, 1)
            .with("reuse = true\noutputs = [\"out\"]\nkeep = { survivors = \"logs\", others = \"nothing\" }")
            .sweep(format!("x = {x}"))
            .maximize("m")
            .stage("b", "cat {parent_dir}/out", children, 1)
            .sweep("y = [1, 2, 3]")
    };
    let sandbox = Sandbox::finished(of("[1, 2]", 2, 2), 0);
    // Another study could have taken both results.
    sandbox.write(
        "other.toml",
        of("[1, 2]", 2, 2)
            .edit("name = \"s\"", "name = \"t\"\nrun.reuse_from = [\"study.redb\"]")
            .edit("[study]\nname = \"t\"\nrun", "study.name = \"t\"\nrun"),
    );
    sandbox.ok("run other.toml", 0);
    let why = sandbox.ok("why other.redb t_0_0", 0);
    assert!(why.contains("what it left was discarded"), "{why}");
    let refused = sandbox.amend(of("[1, 2]", 2, 3), "--yes", 6);
    assert!(refused.contains("the directory of the parent `s_0_1` was discarded"), "{refused}");
    assert!(events(&sandbox, "spec_amended").is_empty());
    let plan = sandbox.amend(of("[3, 1, 2]", 3, 2), "--yes --discard-from b", 0);
    assert!(plan.contains("3 run"), "{plan}");
    sandbox.ok("run study.toml", 0);
    assert_eq!(events(&sandbox, "reuse_missed").len(), 2);
    sandbox.ok("verify study.redb", 0);
}

/// A trial that was no survivor, and whose directory is gone, survives after an amendment: the run says so, and each way that it names works.
#[test]
fn who_survives_only_now_is_made_again_as_the_run_says() {
    let of = |survivors: u32| {
        StudyFile::new("s")
            .stage("a", r#"echo {x} > out; echo '{{"m": {x}}}' > metrics.json"#, 3, survivors)
            .with("outputs = [\"out\"]\nkeep = { others = \"nothing\" }")
            .sweep("x = [1, 2, 3]")
            .maximize("m")
            .stage("b", "cat {parent_dir}/out", 2, 1)
    };
    let whole = Sandbox::finished(of(2), 0);
    for is_put_back in [true, false] {
        let sandbox = Sandbox::finished(of(1), 0);
        let dir = sandbox.path("artifacts/s/0_a/s_0_1/attempt_1");
        assert!(!exists(&dir));
        sandbox.amend(of(2), "--yes --discard-from b", 0);
        let said = both(&sandbox.run("run study.toml"));
        assert!(said.contains("the directory of the parent `s_0_1` was discarded"), "{said}");
        let command = |begins: &str| {
            let found = said.split('`').find(|part| part.starts_with(begins)).unwrap_or_else(|| panic!("{said}"));
            found.trim_start_matches("piton ").to_owned()
        };
        if is_put_back {
            let made = both(&sandbox.run(&command("piton replay ")));
            let kept = made.split_whitespace().map(|word| word.trim_matches('`')).find(|word| {
                let out = Path::new(word).join("out");
                out.is_absolute() && exists(&out)
            });
            let kept = kept.unwrap_or_else(|| panic!("{made}"));
            fs::create_dir_all(&dir).unwrap();
            fs::copy(Path::new(kept).join("out"), dir.join("out")).unwrap();
            fs::remove_dir_all(kept).unwrap();
        } else {
            sandbox.ok(&command("piton amend "), 0);
        }
        sandbox.ok("run study.toml", 0);
        assert_eq!(sandbox.canonical(), whole.canonical(), "{is_put_back}");
        sandbox.ok("verify study.redb", 0);
    }
}
