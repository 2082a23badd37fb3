//! Files that a person names: what is no regular file is written to and stays what it is, a link is followed and stays.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::{Sandbox, StudyFile, both};

fn study_file() -> StudyFile {
    StudyFile::new("asked")
        .stage("only", r#"echo "{{\"y\": {n}}}" > metrics.json"#, 2, 1)
        .sweep("n = [1, 2]")
        .maximize("y")
}

/// Every command that writes a file of a name, but for the name.
const LINES: [&str; 4] = [
    "report study.redb -o ",
    "run study.toml --junit ",
    "compare study.redb --write-baseline ",
    "compare study.redb --baseline base.json --junit ",
];

fn finished() -> Sandbox {
    let sandbox = Sandbox::with_study(study_file());
    sandbox.ok("run study.toml", 0);
    sandbox.ok("compare study.redb --write-baseline base.json", 0);
    sandbox
}

#[test]
fn a_device_stays_one_and_a_failed_write_is_told() {
    let sandbox = finished();
    // Full, as /dev/full is.
    for (name, minor, code) in [("full", "7", 1), ("null", "3", 0)] {
        let made = Command::new("mknod").arg(sandbox.path(name)).args(["c", "1", minor]).status().unwrap();
        assert!(made.success(), "tests make device nodes, as root");
        for line in LINES {
            let output = sandbox.run(&format!("{line}{name}"));
            assert_eq!(output.status.code(), Some(code), "{line}{name}: {}", both(&output));
            assert!(sandbox.path(name).symlink_metadata().unwrap().file_type().is_char_device(), "{line}{name}");
        }
    }
}

#[test]
fn a_pipe_is_written_to() {
    let sandbox = finished();
    rustix::fs::mkfifoat(rustix::fs::CWD, sandbox.path("pipe"), rustix::fs::Mode::RWXU).unwrap();
    for line in LINES {
        let mut reader = Command::new("cat").arg(sandbox.path("pipe")).stdout(Stdio::piped()).spawn().unwrap();
        sandbox.ok(&format!("{line}pipe"), 0);
        assert!(sandbox.path("pipe").symlink_metadata().unwrap().file_type().is_fifo(), "{line}");
        let mut read = String::new();
        reader.stdout.take().unwrap().read_to_string(&mut read).unwrap();
        assert!(reader.wait().unwrap().success() && read.len() > 100, "{line}: {read}");
    }
    // The program's own standard output, as a shell has it for `>(…)`.
    let page = sandbox.ok("report study.redb -o /dev/fd/1", 0);
    assert!(
        page.to_lowercase().starts_with("<!doctype html>") && page.ends_with("/dev/fd/1\n"),
        "{} bytes",
        page.len()
    );
}

#[test]
fn a_link_is_followed_and_stays() {
    let sandbox = finished();
    fs::create_dir(sandbox.path("public")).unwrap();
    sandbox.write("public/there", "old");
    symlink("public/there", sandbox.path("to_there")).unwrap();
    symlink("public/new", sandbox.path("to_new")).unwrap();
    for line in LINES {
        for (link, target) in [("to_there", "public/there"), ("to_new", "public/new")] {
            sandbox.ok(&format!("{line}{link}"), 0);
            assert_eq!(fs::read_link(sandbox.path(link)).unwrap(), Path::new(target), "{line}");
            assert!(fs::read(sandbox.path(target)).unwrap().len() > 100, "{line}");
            sandbox.write(target, "old");
        }
    }
    fs::create_dir(sandbox.path("out")).unwrap();
    symlink("../public/there", sandbox.path("out/trials.csv")).unwrap();
    symlink("../public/new", sandbox.path("out/study_checkpoint.json")).unwrap();
    sandbox.ok("export study.redb --to out", 0);
    assert!(fs::read_to_string(sandbox.path("public/there")).unwrap().contains("asked_0_0"));
    assert!(fs::read_to_string(sandbox.path("public/new")).unwrap().contains("checkpoint_version"));
    assert!(sandbox.path("out/trials.csv").is_symlink());
    assert_eq!(fs::read_dir(sandbox.path("public")).unwrap().count(), 2, "nothing is left beside");
}

/// What the study is made of is not replaced by what is made of it, whatever it is called.
#[test]
fn no_file_of_the_study_itself_is_written_over() {
    let sandbox = Sandbox::new();
    let text = study_file()
        .edit("name = \"asked\"", "name = \"asked\"\ninputs = [\"rtl.v\", \"rtl\"]")
        .edit("[stage.sweep]\nn = [1, 2]\n", "");
    sandbox.write("study.toml", text.edit("trial_budget", "sampling = { file = \"trials.csv\" }\ntrial_budget"));
    sandbox.write("rtl.v", "module");
    fs::create_dir(sandbox.path("rtl")).unwrap();
    sandbox.write("rtl/top.v", "module");
    sandbox.write("trials.csv", "n\n1\n2\n");
    // Before anything runs.
    for (name, what) in
        [("study.toml", "the study file"), ("rtl.v", "an input"), ("trials.csv", "a file of cases")]
    {
        let said = both(&sandbox.run(&format!("run study.toml --junit {name}")));
        assert!(said.contains(what) && !sandbox.path("study.redb").exists(), "{name}: {said}");
    }
    sandbox.ok("run study.toml", 0);
    sandbox.ok("compare study.redb --write-baseline base.json", 0);
    symlink("rtl.v", sandbox.path("link")).unwrap();
    symlink("rtl/top.v", sandbox.path("into")).unwrap();
    let names = ["study.toml", "rtl.v", "rtl/top.v", "trials.csv"];
    let contents = || names.map(|name| fs::read_to_string(sandbox.path(name)).unwrap());
    let before = contents();
    for line in LINES {
        for (name, what) in [
            ("study.toml", "the study file"),
            ("link", "an input"),
            ("rtl/top.v", "in the input `rtl`"),
            ("into", "in the input `rtl`"),
            ("trials.csv", "a file of cases"),
        ] {
            let output = sandbox.run(&format!("{line}{name}"));
            assert_eq!(contents(), before, "{line}{name}: {}", both(&output));
            assert_ne!(output.status.code(), Some(0), "{line}{name}");
            assert!(both(&output).contains(what), "{line}{name}: {}", both(&output));
        }
    }
    let said = both(&sandbox.run("export study.redb --to ."));
    assert!(said.contains("a file of cases") && contents() == before, "{said}");
    sandbox.ok("report study.redb -o report.html", 0);
    // What is no part of the study may lie in an input directory, and is replaced.
    for _ in 0..2 {
        sandbox.ok("report study.redb -o rtl/report.html", 0);
    }
}

#[test]
fn a_report_goes_to_standard_output() {
    let sandbox = finished();
    let page = sandbox.ok("report study.redb -o -", 0);
    assert!(page.starts_with("<!DOCTYPE html>") && page.contains("artifacts/asked"), "{page}");
    assert!(!sandbox.path("-").exists());
    sandbox.ok("report study.redb -o ./-", 0);
    assert!(sandbox.path("-").exists());
}

/// A store in place of a study file is told from one.
#[test]
fn a_store_is_no_study_file() {
    let sandbox = finished();
    for command in ["run", "check", "amend study.redb"] {
        let said = both(&sandbox.run(&format!("{command} study.redb")));
        assert!(said.contains("`study.redb` is a store, not a study file"), "{said}");
        assert!(said.contains("`piton resume study.redb` goes on"), "{said}");
    }
}
