//! Temporary files: what a killed process left goes at the next start, what a living one is at stays, whatever their numbers;
//! and who may read what is made.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::fs::{FlockOperation, flock};

use crate::harness::{Sandbox, StudyFile, both, exists, wait_until};

fn study() -> Sandbox {
    let sandbox = Sandbox::with_study(
        StudyFile::new("left")
            .with("[env]\nSECRET = \"xyzzy\"")
            .stage("only", ["./trial.sh"], 2, 1)
            .sweep("n = [1, 2]"),
    );
    sandbox.script(
        "trial.sh",
        "[ ! -e \"$PITON_STUDY_DIR/hold\" ] || { : > \"$PITON_STUDY_DIR/held\"; sleep 1000; }",
    );
    sandbox
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().mode() & 0o777
}

fn under(sandbox: &Sandbox, umask: &str, line: &str) {
    let mut command = std::process::Command::new("sh");
    command.args(["-c", &format!("umask {umask}; exec \"$0\" {line}"), env!("CARGO_BIN_EXE_piton")]);
    command.current_dir(sandbox.path(".")).stdin(Stdio::null());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{line}: {}", both(&output));
}

const EXPORTS: [&str; 4] =
    ["study_checkpoint.json", "study_telemetry.json", "stage_0_telemetry.json", "telemetry.jsonl"];

#[test]
fn what_may_hold_the_environment_is_closed_to_others() {
    let sandbox = study();
    under(&sandbox, "000", "run study.toml");
    under(&sandbox, "000", "export study.redb --to out");
    under(&sandbox, "000", "report study.redb -o page.html");
    under(&sandbox, "000", "salvage study.redb -o salvaged.redb");
    let below =
        |dir: &str, names: &[&str]| names.iter().map(|name| sandbox.path(dir).join(name)).collect::<Vec<_>>();
    let mut closed: Vec<PathBuf> = below(".", &["study.redb", "salvaged.redb"]);
    closed.extend(below("artifacts/left", &EXPORTS));
    closed.extend(below("out", &EXPORTS));
    closed.extend(below("out", &["trials.csv", "trials.jsonl", "lineage.dot", "junit.xml"]));
    for path in &closed {
        assert_eq!(mode(path), 0o600, "{}", path.display());
    }
    assert!(fs::read_to_string(sandbox.path("artifacts/left/telemetry.jsonl")).unwrap().contains("xyzzy"));
    // What holds none is as the umask lets it.
    assert_eq!(mode(&sandbox.path("page.html")), 0o666);
    assert!(!fs::read_to_string(sandbox.path("page.html")).unwrap().contains("xyzzy"));
}

/// Whoever opens a file to others has said so once.
#[test]
fn files_that_are_rewritten_keep_the_mode_their_owner_gave_them() {
    let sandbox = study();
    sandbox.ok("run study.toml", 0);
    sandbox.ok("export study.redb --to out", 0);
    sandbox.ok("report study.redb -o page.html", 0);
    let files =
        ["study.redb", "artifacts/left/telemetry.jsonl", "out/trials.csv", "out/telemetry.jsonl", "page.html"];
    for given in [0o640, 0o644, 0o604] {
        for file in files {
            fs::set_permissions(sandbox.path(file), fs::Permissions::from_mode(given)).unwrap();
        }
        let before = sandbox.path("artifacts/left/telemetry.jsonl").metadata().unwrap().ino();
        sandbox.ok("compact study.redb", 0);
        // They are out of date, so they are written again.
        fs::remove_file(sandbox.path("artifacts/left/study_telemetry.json")).unwrap();
        sandbox.ok("run study.toml", 0);
        assert_ne!(sandbox.path("artifacts/left/telemetry.jsonl").metadata().unwrap().ino(), before);
        sandbox.ok("export study.redb --to out", 0);
        sandbox.ok("report study.redb -o page.html", 0);
        for file in files {
            assert_eq!(mode(&sandbox.path(file)), given, "{file}");
        }
    }
}

/// Leftovers of this version and of earlier ones; a number of a process that lives says nothing.
#[test]
fn leftovers_of_the_dead_go_at_the_next_start_and_those_of_the_living_stay() {
    let sandbox = study();
    sandbox.write("hold", "");
    let engine = sandbox.start("run study.toml");
    wait_until("a trial runs", || exists(&sandbox.path("held")));
    engine.signal(rustix::process::Signal::KILL);
    engine.wait();
    fs::remove_file(sandbox.path("hold")).unwrap();
    let alive = std::process::id();
    let dead = [
        ".study.redb.0123456789.piton-tmp".to_owned(),
        ".study.redb.stop.0123456789.piton-tmp".to_owned(),
        "study.redb.0123456789abcdef.new".to_owned(),
        "study.redb.compact.new".to_owned(),
        "artifacts/left/.telemetry.jsonl.0123456789.piton-tmp".to_owned(),
        format!("artifacts/left/.telemetry.jsonl.{alive}-0.piton-tmp"),
        "artifacts/left/.study_checkpoint.json.1-0.piton-tmp".to_owned(),
    ];
    let living = [
        ".study.redb.abcdefabcd.piton-tmp",
        "study.redb.abcdefabcdefabcd.new",
        "artifacts/left/.telemetry.jsonl.abcdefabcd.piton-tmp",
        // The number of none, but somebody is at it.
        "artifacts/left/.study_checkpoint.json.4194305-0.piton-tmp",
    ];
    // Whatever somebody else calls so, or nearly so.
    let others =
        [".piton-tmp", "mine.piton-tmp", "other.redb.0123456789abcdef.new", ".other.0123456789.piton-tmp"];
    for name in dead.iter().map(String::as_str).chain(others) {
        sandbox.write(name, "half");
    }
    let held: Vec<File> = living.iter().map(|name| File::create_new(sandbox.path(name)).unwrap()).collect();
    for file in &held {
        flock(file, FlockOperation::LockShared).unwrap();
    }
    sandbox.ok("run study.toml", 0);
    for name in &dead {
        assert!(!exists(&sandbox.path(name)), "{name}");
    }
    for name in living.iter().chain(&others) {
        assert!(exists(&sandbox.path(name)), "{name}");
    }
    drop(held);
    sandbox.ok("run study.toml", 0);
    assert!(!exists(&sandbox.path(living[2])), "now its maker is gone");
}

fn names_in(dir: &Path) -> Vec<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_killed_replay_leaves_nothing_for_long_and_a_kept_one_stays() {
    let sandbox = study();
    sandbox.ok("run study.toml", 0);
    let temp = tempfile::tempdir().unwrap();
    let replay = |args: &[&str]| {
        let mut command = sandbox.piton([&["replay", "study.redb", "left_0_0"], args].concat());
        command.env("TMPDIR", temp.path()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    assert!(replay(&["--keep"]).status().unwrap().success());
    let kept = names_in(temp.path());
    assert_eq!(kept.len(), 1);
    let root = temp.path().join(&kept[0]);
    assert!(root.join("attempt/stdout.log").exists());
    assert_eq!(mode(&root), 0o700);
    sandbox.write("hold", "");
    drop(fs::remove_file(sandbox.path("held")));
    let mut killed = replay(&[]).spawn().unwrap();
    wait_until("it runs", || exists(&sandbox.path("held")));
    assert_eq!(names_in(temp.path()).len(), 2);
    fs::remove_file(sandbox.path("hold")).unwrap();
    // Another one beside it leaves it alone.
    assert!(replay(&[]).status().unwrap().success());
    assert_eq!(names_in(temp.path()).len(), 2);
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert_eq!(names_in(temp.path()).len(), 2, "nobody could clean up");
    assert!(replay(&[]).status().unwrap().success());
    assert_eq!(names_in(temp.path()), kept);
}
