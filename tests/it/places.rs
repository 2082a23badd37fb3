//! Where a study lies: links on the way to it, directories that may be entered only, odd names, file systems that cannot do
//! everything; and trials that put something else in the place of a directory. No trial is blamed for any of it.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output};

use rustix::process::Signal;

use crate::faults::{as_nobody, shim};
use crate::harness::{Sandbox, StudyFile, both, wait_until};

/// A study of four trials that leave an output, with this command and more of its stage.
fn study(command: &str, more: &str) -> StudyFile {
    StudyFile::new("s")
        .run("workers = 1\ngrace = \"1s\"")
        .stage("a", command, 4, 1)
        .with(more)
        .sweep("x = [1, 2, 3, 4]")
}

const LEAVES_O: &str = "echo {x} > o";
const O: &str = "outputs = [\"o\"]";

fn succeeded(sandbox: &Sandbox, store: &str) -> u64 {
    let dump = sandbox.ok(&format!("dump {store} --format json"), 0);
    serde_json::from_str::<serde_json::Value>(&dump).unwrap()["accounting"]["succeeded"].as_u64().unwrap()
}

#[test]
fn links_above_a_study_are_followed() {
    let sandbox = Sandbox::new();
    fs::create_dir_all(sandbox.path("real")).unwrap();
    fs::create_dir_all(sandbox.path("scratch/deep")).unwrap();
    sandbox.write("real/study.toml", study(LEAVES_O, O));
    symlink("real", sandbox.path("through")).unwrap();
    symlink("../scratch", sandbox.path("real/artifacts")).unwrap();
    symlink("deep", sandbox.path("scratch/s")).unwrap();
    sandbox.ok("run through/study.toml", 0);
    assert_eq!(succeeded(&sandbox, "real/study.redb"), 4);
    sandbox.ok("verify through/study.redb", 0);
    assert!(sandbox.path("scratch/deep/0_a/s_0_3/attempt_1/o").exists());
}

#[test]
fn a_directory_that_may_only_be_entered_is_enough_above_the_artifacts() {
    let sandbox = Sandbox::new();
    fs::set_permissions(sandbox.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    for dir in ["closed", "closed/artifacts", "store"] {
        fs::create_dir(sandbox.path(dir)).unwrap();
        std::os::unix::fs::chown(sandbox.path(dir), Some(65_534), Some(65_534)).unwrap();
    }
    std::os::unix::fs::chown(sandbox.path("closed"), Some(0), Some(0)).unwrap();
    fs::set_permissions(sandbox.path("closed"), fs::Permissions::from_mode(0o711)).unwrap();
    sandbox.write("store/study.toml", study(LEAVES_O, O));
    for line in [
        "check store/study.toml --artifacts closed/artifacts",
        "run store/study.toml --artifacts closed/artifacts",
    ] {
        let output = as_nobody(&sandbox, line);
        assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    }
    assert_eq!(succeeded(&sandbox, "store/study.redb"), 4);
    // Where nothing can be made, nothing begins.
    sandbox.write("store/other.toml", study(LEAVES_O, O));
    for what in ["check", "run"] {
        let output = as_nobody(&sandbox, &format!("{what} store/other.toml --artifacts closed/other"));
        assert!(both(&output).contains("permission denied"), "{}", both(&output));
        assert_eq!((output.status.code(), sandbox.path("store/other.redb").exists()), (Some(1), false));
    }
}

#[test]
fn a_name_that_is_not_utf_8_matters_to_nobody_who_does_not_use_it() {
    let sandbox = Sandbox::new();
    let odd = sandbox.path("").join(OsStr::from_bytes(b"odd \xff"));
    fs::create_dir(&odd).unwrap();
    let run = |file: &str, text: &StudyFile, what: &str| -> Output {
        fs::write(odd.join(file), text.as_ref()).unwrap();
        sandbox.piton([what, file]).current_dir(&odd).output().unwrap()
    };
    let argv = study("X", O).edit("\"X\"", "[\"sh\", \"-c\", \"echo {x} > o\"]");
    for (file, text) in [("shell.toml", study(LEAVES_O, O)), ("argv.toml", argv.edit("\"s\"\n", "\"t\"\n"))] {
        for what in ["check", "run"] {
            let output = run(file, &text, what);
            assert_eq!(output.status.code(), Some(0), "{}", both(&output));
        }
    }
    for what in ["check", "run"] {
        let output = run("used.toml", &study("cat {study_dir}/x", ""), what);
        assert_eq!(output.status.code(), Some(2), "{}", both(&output));
        assert!(both(&output).contains("PITON_STUDY_DIR"), "{}", both(&output));
    }
    assert!(!odd.join("used.redb").exists());
}

/// Runs it where some calls of the engine answer with an error.
fn with_errors(sandbox: &Sandbox, line: &str, name: &str, errno: i32) -> Output {
    let mut command = sandbox.piton(line.split_whitespace());
    command.env("LD_PRELOAD", shim()).env("FAULT_DIR", sandbox.path("").to_str().unwrap().trim_end_matches('/'));
    command.env(name, errno.to_string()).output().unwrap()
}

#[test]
fn what_a_file_system_cannot_do_is_said_before_anything_is_made() {
    let sandbox = Sandbox::with_study(study(LEAVES_O, O));
    let locks =
        [libc::ENOLCK, libc::ENOSYS, libc::EOPNOTSUPP].map(|errno| ("FAULT_FLOCK", errno, "cannot lock files"));
    let syncs = [libc::EINVAL, libc::EOPNOTSUPP].map(|errno| ("FAULT_DIRSYNC", errno, "entries durable"));
    for (call, errno, words) in locks.into_iter().chain(syncs) {
        for line in ["check study.toml", "run study.toml"] {
            let output = with_errors(&sandbox, line, call, errno);
            let said = both(&output);
            assert_eq!(output.status.code(), Some(1), "{said}");
            assert!(said.contains(words) && said.contains("local file system"), "{said}");
            assert!(!sandbox.path("study.redb").exists() && !sandbox.path("artifacts").exists(), "{said}");
        }
    }
}

#[test]
fn links_that_lead_nowhere_and_files_without_a_place_are_refused() {
    let sandbox = Sandbox::with_study(study(LEAVES_O, O));
    symlink("nowhere/s.redb", sandbox.path("s.redb")).unwrap();
    symlink("nowhere", sandbox.path("art")).unwrap();
    for what in ["check", "run"] {
        for given in ["--store s.redb", "--artifacts art"] {
            let output = sandbox.run(&format!("{what} study.toml {given}"));
            assert_eq!(output.status.code(), Some(2), "{}", both(&output));
            assert!(both(&output).contains("is a symbolic link to `nowhere"), "{}", both(&output));
        }
    }
    let mut command = sandbox.piton(["run", "/dev/stdin"]);
    let output = command.stdin(fs::File::open(sandbox.path("study.toml")).unwrap()).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", both(&output));
    assert!(both(&output).contains("--store") && !fs::exists("/dev/stdin.redb").unwrap());
    let mut command = sandbox.piton(["run", "/dev/stdin", "--store", "in.redb"]);
    let output = command.stdin(fs::File::open(sandbox.path("study.toml")).unwrap()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    assert_eq!(succeeded(&sandbox, "in.redb"), 4);
}

#[test]
fn a_stage_that_a_trial_leads_elsewhere_sends_no_other_trial_there() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("outside")).unwrap();
    let outside = sandbox.path("outside").display().to_string();
    let meddle = format!(
        "echo {{x}} > o; [ {{x}} = 2 ] || exit 0; cd ../..; until [ -d s_0_2 ]; do sleep 0.01; done; d=$(pwd); mv $d $d.moved; ln -s {outside} $d"
    );
    sandbox.write("study.toml", study(&meddle, O));
    let output = sandbox.run("run study.toml");
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    assert!(both(&output).contains("0_a` is a symbolic link or no directory"), "{}", both(&output));
    assert_eq!(fs::read_dir(sandbox.path("outside")).unwrap().count(), 0);
    // No trial is blamed for it.
    let dump = sandbox.dump();
    assert_eq!(dump["accounting"]["failed"], 0, "{dump}");
}

#[test]
fn a_trial_that_leads_its_own_directories_elsewhere_harms_itself_alone() {
    for up in [".", ".."] {
        let sandbox = Sandbox::new();
        fs::create_dir_all(sandbox.path("outside/attempt_1")).unwrap();
        fs::write(sandbox.path("outside/attempt_1/o"), "theirs").unwrap();
        let outside = sandbox.path("outside").display().to_string();
        let meddle = format!(
            "echo {{x}} > o; [ {{x}} = 2 ] || exit 0; cd {up}; d=$(pwd); mv $d $d.moved; ln -s {outside} $d"
        );
        sandbox.write("study.toml", study(&meddle, &format!("{O}\nretries = {{ count = 1, delay = \"1ms\" }}")));
        let output = sandbox.run("run study.toml");
        assert!(matches!(output.status.code(), Some(0 | 1)), "{}", both(&output));
        assert!(succeeded(&sandbox, "study.redb") >= 1);
        assert_eq!(fs::read(sandbox.path("outside/attempt_1/o")).unwrap(), b"theirs");
        assert_eq!(fs::read_dir(sandbox.path("outside")).unwrap().count(), 1, "nothing was made there");
    }
}

#[test]
fn an_output_may_be_a_link_within_its_attempt() {
    let links = "mkdir -p ck/3; echo {x} > ck/3/w; ln -s ck/3 last; ln -s last/w newest; ln -s $PWD/newest o";
    let sandbox = Sandbox::with_study(study(links, "outputs = [\"o\", \"last\", \"newest\"]"));
    sandbox.ok("run study.toml", 0);
    sandbox.ok("verify study.redb", 0);
    let replayed = sandbox.run("replay study.redb s_0_1");
    assert_eq!(replayed.status.code(), Some(0), "{}", both(&replayed));
    let dump = sandbox.dump();
    let outputs = &dump["trials"][1]["outputs"];
    assert_eq!(outputs["o"]["blake3"], outputs["newest"]["blake3"]);
    assert_eq!(outputs["o"]["bytes"], 2);
    fs::write(sandbox.path("artifacts/s/0_a/s_0_1/attempt_1/ck/3/w"), "x\n").unwrap();
    assert!(sandbox.ok("verify study.redb", 4).contains("s_0_1"));
    for out in ["/etc/passwd", "../../../../../study.toml", "../o", "o"] {
        let sandbox = Sandbox::with_study(study(&format!("ln -s {out} o"), O));
        sandbox.ok("run study.toml", 3);
        let failure = &sandbox.dump()["trials"][0]["failure"];
        assert_eq!(failure["kind"], "missing_output", "{failure}");
        assert!(failure["reason"].as_str().unwrap().contains("symbolic link"), "{failure}");
    }
}

#[test]
fn hashing_what_a_trial_left_ends_with_its_time_and_with_the_engine() {
    let sparse = "truncate -s 15T o; touch $PITON_STUDY_DIR/left";
    let sandbox =
        Sandbox::with_study(study(sparse, &format!("{O}\ntimeout = \"1s\"")).edit("budget = 4", "budget = 1"));
    sandbox.ok("run study.toml", 3);
    let failure = &sandbox.dump()["trials"][0]["failure"];
    assert_eq!(failure["kind"], "timeout", "{failure}");
    let sandbox = Sandbox::with_study(study(sparse, O));
    let engine = sandbox.start("run study.toml");
    wait_until("the trial has left its output", || sandbox.path("left").exists());
    engine.signal(Signal::TERM);
    wait_until("it drains", || {
        fs::read_to_string(sandbox.path("engine.err")).is_ok_and(|said| said.contains("a second signal"))
    });
    // The same signal again at once would be the same request.
    std::thread::sleep(std::time::Duration::from_millis(300));
    engine.signal(Signal::TERM);
    assert_eq!(engine.wait().code(), None, "it dies by the signal");
    assert_eq!(sandbox.dump()["accounting"]["interrupted"], 1);
}

/// Who reads what a trial left is led nowhere else, whichever directory on the way is a link by now.
#[test]
fn no_reader_follows_a_link_below_the_artifacts() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("real")).unwrap();
    symlink("real", sandbox.path("artifacts")).unwrap();
    sandbox.write("study.toml", study("echo true; echo {x} > o", O));
    sandbox.ok("run study.toml", 0);
    let readers = ["logs study.redb s_0_0", "logs study.redb s_0_0 --follow"];
    for line in readers {
        assert_eq!(sandbox.ok(line, 0), "true\n");
    }
    sandbox.ok("verify study.redb", 0);
    for swapped in ["0_a", "0_a/s_0_0", "0_a/s_0_0/attempt_1", "0_a/s_0_0/attempt_1/stdout.log"] {
        let (place, elsewhere) = (sandbox.path("artifacts/s").join(swapped), sandbox.path("elsewhere"));
        fs::rename(&place, &elsewhere).unwrap();
        // The same things but for the log: whoever followed the link would not notice.
        let log = match Path::new("0_a/s_0_0/attempt_1/stdout.log").strip_prefix(swapped) {
            Ok(below) if elsewhere.is_dir() => elsewhere.join(below),
            _ => elsewhere.clone(),
        };
        fs::write(&log, "secret\n").unwrap();
        symlink(&elsewhere, &place).unwrap();
        for line in readers {
            let output = sandbox.run(line);
            assert_eq!(output.status.code(), Some(1), "{swapped}: {line}: {}", both(&output));
            assert!(!both(&output).contains("secret"), "{swapped}: {line}: {}", both(&output));
        }
        if elsewhere.is_dir() {
            let told = sandbox.ok("verify study.redb", 4);
            assert!(told.contains("cannot be read"), "{swapped}: {told}");
        }
        sandbox.ok("why study.redb s_0_0", 0);
        fs::remove_file(&place).unwrap();
        fs::rename(&elsewhere, &place).unwrap();
        sandbox.ok("verify study.redb", 0);
    }
    // In the place of a file of piton's own: nobody waits for a FIFO, and what is a link is replaced.
    for own in [".piton-study.json", "study_telemetry.json", "study_checkpoint.json"] {
        let place = sandbox.path("artifacts/s").join(own);
        fs::remove_file(&place).unwrap();
        assert!(Command::new("mkfifo").arg(&place).status().unwrap().success());
        // A test that hangs has failed.
        sandbox.run("run study.toml");
        drop(fs::remove_file(&place));
        symlink(sandbox.path("study.toml"), &place).unwrap();
        sandbox.run("run study.toml");
        drop(fs::remove_file(&place));
    }
    assert!(fs::read_to_string(sandbox.path("study.toml")).unwrap().starts_with("[study]"));
    sandbox.ok("run study.toml", 0);
}

/// A trial that puts a link in the place of its own directory leads what is quoted of its logs nowhere, in a replay neither.
#[test]
fn a_failure_quotes_nothing_from_elsewhere() {
    for at in ["$d", "${d%/*}"] {
        let text = study("sh {study_dir}/swap.sh {x}", "").edit("trial_budget = 4", "trial_budget = 1");
        let sandbox = Sandbox::with_study(&text);
        sandbox.write(
            "swap.sh",
            format!(
                "e=$PITON_STUDY_DIR/e; mkdir -p $e/attempt_1 $e/attempt\n\
                 for to in $e $e/attempt_1 $e/attempt; do echo secret | tee $to/stdout.log > $to/stderr.log; done\n\
                 d=$PWD; cd /; mv \"{at}\" \"{at}.away\"; ln -s $e \"{at}\"; exit 3\n"
            ),
        );
        let output = sandbox.run("run study.toml");
        let dump = sandbox.ok("dump study.redb", 0) + &sandbox.ok("why study.redb s_0_0", 0);
        assert!(!dump.contains("secret") && !both(&output).contains("secret"), "{at}: {dump}{}", both(&output));
        let temp = tempfile::tempdir().unwrap();
        let replayed =
            sandbox.piton(["replay", "study.redb", "s_0_0"]).env("TMPDIR", temp.path()).output().unwrap();
        assert!(!both(&replayed).contains("secret"), "{at}: {}", both(&replayed));
    }
}

/// A program that somebody is writing: the machine's moment, and no failure of the trial.
#[test]
fn a_program_that_is_being_written_fails_no_trial() {
    let sandbox = Sandbox::with_study(study("X", "").edit("\"X\"", "[\"./prog\", \"{x}\"]"));
    fs::copy("/bin/true", sandbox.path("prog")).unwrap();
    let writing = fs::OpenOptions::new().append(true).open(sandbox.path("prog")).unwrap();
    let output = sandbox.run("run study.toml");
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    assert!(both(&output).to_lowercase().contains("text file busy"), "{}", both(&output));
    let dump = sandbox.dump();
    assert_eq!((&dump["accounting"]["failed"], &dump["study"]["status"]), (&0.into(), &"interrupted".into()));
    drop(writing);
    sandbox.ok("run study.toml", 0);
    assert_eq!(succeeded(&sandbox, "study.redb"), 4);
}
