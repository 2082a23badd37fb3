//! Files that a person names: what is no regular file is written to and stays what it is, a link is followed and stays.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::{Sandbox, both};

const STUDY: &str = r#"
[study]
name = "asked"
[[stage]]
name = "only"
command = 'echo "{{\"y\": {n}}}" > metrics.json'
trial_budget = 2
survivor_count = 1
[stage.sweep]
n = [1, 2]
[[stage.objective]]
metric = "y"
goal = "maximize"
"#;

/// Every command that writes a file of a name, but for the name.
const LINES: [&str; 4] = [
    "report study.redb -o ",
    "run study.toml --junit ",
    "compare study.redb --write-baseline ",
    "compare study.redb --baseline base.json --junit ",
];

fn finished() -> Sandbox {
    let sandbox = Sandbox::with_study(STUDY);
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
