//! What becomes of a run whose store, or whose reports, somebody destroys or makes impossible meanwhile: the exit code tells.

use std::fs;

use crate::harness::{Sandbox, StudyFile, both};

fn study_file() -> StudyFile {
    StudyFile::new("small")
        .run("workers = 1")
        .stage("only", ["./work.sh", "{n}"], 4, 1)
        .sweep(r#"n = { min = 1, max = 4, type = "int" }"#)
        .maximize("m")
}

fn small() -> Sandbox {
    let sandbox = Sandbox::with_study(study_file());
    sandbox.script("work.sh", "echo \"{\\\"m\\\": $1}\" > metrics.json");
    sandbox
}

fn finished() -> Sandbox {
    let sandbox = small();
    sandbox.ok("run study.toml", 0);
    sandbox
}

/// A study of four trials whose last one does this to the store, and succeeds.
fn destructive(does: &str) -> Sandbox {
    let sandbox = small();
    sandbox.write("there.sh", does);
    sandbox
        .script("work.sh", "[ \"$1\" = 3 ] && . ../../../../../there.sh; echo \"{\\\"m\\\": $1}\" > metrics.json");
    sandbox
}

/// The store decides: what its trials came to is told by nothing else.
#[test]
fn a_store_destroyed_under_the_engine_is_damage() {
    let ways = [
        ": > \"$PITON_STUDY_DIR/study.redb\"",
        "truncate -s 8192 \"$PITON_STUDY_DIR/study.redb\"",
        "dd if=/dev/zero of=\"$PITON_STUDY_DIR/study.redb\" bs=4096 seek=1 count=400 conv=notrunc 2>/dev/null",
        "echo noise > \"$PITON_STUDY_DIR/noise\"; mv \"$PITON_STUDY_DIR/noise\" \"$PITON_STUDY_DIR/study.redb\"",
    ];
    for way in ways {
        let sandbox = destructive(way);
        let output = sandbox.run("run study.toml");
        let told = both(&output);
        assert_eq!(output.status.code(), Some(7), "{way}\n{told}");
        assert!(told.contains("piton salvage study.redb"), "{way}\n{told}");
        for reassuring in ["safe", "nothing finished is lost", "as of its last commit"] {
            assert!(!told.contains(reassuring), "{way}\n{told}");
        }
    }
}

/// The header is written anew with each commit: one that was zeroed is found out, or mended by the next commit.
#[test]
fn a_header_zeroed_under_the_engine_is_damage_or_mended() {
    let sandbox =
        destructive("dd if=/dev/zero of=\"$PITON_STUDY_DIR/study.redb\" bs=4096 count=1 conv=notrunc 2>/dev/null");
    let output = sandbox.run("run study.toml");
    match output.status.code() {
        Some(0) => drop(sandbox.ok("verify study.redb", 0)),
        code => assert_eq!(code, Some(7), "{}", both(&output)),
    }
}

/// A touched, copied or well replaced store is none of that; one that is gone is missing, as for every command.
#[test]
fn a_store_that_was_only_touched_is_as_good_as_before() {
    let sandbox = destructive(
        "touch \"$PITON_STUDY_DIR/study.redb\"; cp \"$PITON_STUDY_DIR/study.redb\" \"$PITON_STUDY_DIR/copy.redb\"",
    );
    sandbox.ok("run study.toml", 0);
    sandbox.ok("verify study.redb", 0);
    let removed = destructive("rm \"$PITON_STUDY_DIR/study.redb\"");
    let output = removed.run("run study.toml");
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    assert!(both(&output).contains("was removed or replaced"), "{}", both(&output));
}

/// Whatever was asked for and cannot be written is a failure, unless the study has one of its own.
#[test]
fn a_report_that_cannot_be_written_is_a_failure() {
    let sandbox = finished();
    sandbox.write("file", "");
    for line in [
        "run study.toml --junit file/x.xml",
        "resume study.redb --junit nowhere/x.xml",
        "report study.redb -o file/report.html",
        "export study.redb --to file/out",
        "compare study.redb --baseline study.redb --junit file/x.xml",
    ] {
        let output = sandbox.run(line);
        assert_eq!(output.status.code(), Some(1), "{line}\n{}", both(&output));
        assert!(both(&output).contains("error: cannot"), "{line}\n{}", both(&output));
    }
    let mut summary = sandbox.piton(["run", "study.toml", "--ci"]);
    let output = summary.env("GITHUB_STEP_SUMMARY", sandbox.path("file/summary")).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    assert!(both(&output).contains("cannot write the job summary"), "{}", both(&output));
    let full = std::process::Stdio::from(fs::File::options().write(true).open("/dev/full").unwrap());
    let output = sandbox.piton(["run", "study.toml"]).stdout(full).spawn().unwrap().wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    // Exports that something lies in the way of: a store that has all of it, and a failure.
    let blocked = small();
    fs::create_dir_all(blocked.path("artifacts/small/study_checkpoint.json/in")).unwrap();
    let output = blocked.run("run study.toml");
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    assert!(both(&output).contains("cannot write the exports"), "{}", both(&output));
    blocked.ok("verify study.redb", 0);
    // A code of the study's own stays, and the trouble is told.
    let aborted = small();
    aborted.script("work.sh", "exit 1");
    let output = aborted.run("run study.toml --junit nowhere/x.xml");
    assert_eq!(output.status.code(), Some(3), "{}", both(&output));
    assert!(both(&output).contains("nowhere/x.xml"), "{}", both(&output));
}
