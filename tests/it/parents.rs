//! What survivors left is looked at before their children start on it, and nobody is blamed for what became of it.

use std::fs;
use std::os::unix::fs::symlink;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::clusters::{Cluster, Slurm};
use crate::harness::{Edit, Sandbox, StudyFile, both, wait_until};

/// Two survivors leave a file, a link to it and a directory; their children read all of that once a person let them.
fn study_file() -> StudyFile {
    StudyFile::new("s")
        .run("workers = 1\ngrace = \"1s\"")
        .stage(
            "a",
            ["sh", "-c", "echo $0 > o; ln -s o l; mkdir d; echo deep > d/f; echo note > undeclared", "{x}"],
            3,
            2,
        )
        .with(r#"outputs = ["o", "l", "d"]"#)
        .sweep("x = [1, 2, 3]")
        .stage("b", ["sh", "{study_dir}/b.sh", "{parent_dir}"], 4, 1)
        .with("approve = true")
        .with("retries = 3")
        .with(r#"outputs = ["sum"]"#)
        .sweep("y = [1, 2]")
}

const CHILD: &str = r#"echo $PITON_CASE >> "$PITON_STUDY_DIR/started"
cat "$1/o" "$1/l" "$1/d/f" > sum || exit 1
"#;

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::with_study(study_file());
    sandbox.write("b.sh", CHILD);
    sandbox.ok("run study.toml", 8);
    sandbox.ok("approve study.redb", 0);
    sandbox
}

const FIRST: &str = "artifacts/s/0_a/s_0_0/attempt_1";

/// Runs it: refused in these words, and nobody is to blame.
fn refused(sandbox: &Sandbox, words: &[&str]) -> String {
    let output = sandbox.run("run study.toml");
    let said = both(&output);
    assert_eq!(output.status.code(), Some(6), "{said}");
    for word in words.iter().chain(&["none counts as failed", "--discard-from a", "piton replay"]) {
        assert!(said.contains(word), "{word} in\n{said}");
    }
    let accounting = &sandbox.dump()["accounting"];
    assert_eq!((&accounting["failed"], &accounting["interrupted"]), (&json!(0), &json!(0)), "{accounting}");
    said
}

fn hinted(said: &str, begins: &str) -> String {
    let found = said.split('`').find(|part| part.starts_with(begins));
    found.unwrap_or_else(|| panic!("no hint `{begins}…` in\n{said}")).trim_start_matches("piton ").to_owned()
}

fn finished(sandbox: &Sandbox) -> Value {
    sandbox.ok("run study.toml", 0);
    sandbox.ok("verify study.redb", 0);
    sandbox.dump()
}

#[test]
fn a_child_does_not_start_on_what_was_changed_or_purged() {
    let sandbox = sandbox();
    let at = |name: &str| sandbox.path(&format!("{FIRST}/{name}"));
    let away = sandbox.path("away");
    // Each is undone again; with the same bytes, and other times and inodes, it is what it was.
    fs::write(at("o"), "9\n").unwrap();
    refused(&sandbox, &["2 outputs of the parent `s_0_0`", &format!("{FIRST}/o`"), "/l`"]);
    fs::write(at("o"), "1\n").unwrap();
    fs::remove_file(at("l")).unwrap();
    refused(&sandbox, &["the output `l` of the parent `s_0_0`", "is gone"]);
    fs::write(at("l"), "1\n").unwrap();
    fs::write(at("d/more"), "").unwrap();
    refused(&sandbox, &["the output `d` of the parent `s_0_0`", "is not what was recorded"]);
    fs::remove_file(at("d/more")).unwrap();
    fs::rename(at("o"), &away).unwrap();
    symlink(&away, at("o")).unwrap();
    refused(&sandbox, &["the output `o` of the parent `s_0_0`", "link out of the attempt"]);
    fs::remove_file(at("o")).unwrap();
    fs::copy(&away, at("o")).unwrap();
    fs::rename(sandbox.path(FIRST), sandbox.path("away_too")).unwrap();
    refused(&sandbox, &["3 outputs of the parent `s_0_0`", "are gone"]);
    fs::rename(sandbox.path("away_too"), sandbox.path(FIRST)).unwrap();
    assert!(!sandbox.path("started").exists());
    // What nothing was recorded of is nobody's business.
    fs::write(at("undeclared"), "other").unwrap();
    let dump = finished(&sandbox);
    assert_eq!(dump["accounting"]["attempts_started"], 7);
}

#[test]
fn what_is_lost_is_made_again_by_the_command_that_is_named() {
    let sandbox = sandbox();
    fs::remove_dir_all(sandbox.path(FIRST)).unwrap();
    let said = refused(&sandbox, &["3 outputs of the parent `s_0_0`"]);
    // A replay brings it back.
    let replayed = both(&sandbox.run(&hinted(&said, "piton replay")));
    let dir = replayed.split("its directory stays: ").nth(1).unwrap().trim().to_owned();
    fs::create_dir_all(sandbox.path("artifacts/s/0_a/s_0_0")).unwrap();
    fs::rename(&dir, sandbox.path(FIRST)).or_else(|_| copy_dir(&dir, &sandbox.path(FIRST))).unwrap();
    sandbox.ok("replay study.redb s_1_0", 0);
    fs::remove_dir_all(sandbox.path(FIRST).join("d")).unwrap();
    // A replay records nothing: it says so, and runs.
    let said = both(&sandbox.run("replay study.redb s_1_0"));
    assert!(said.contains("not everything is what it was") && said.contains("attempt_1/d`: recorded"), "{said}");
    let said = refused(&sandbox, &["the output `d`"]);
    sandbox.ok(&hinted(&said, "piton amend"), 0);
    sandbox.ok(&hinted(&said, "piton resume"), 8);
    sandbox.ok("approve study.redb", 0);
    let dump = finished(&sandbox);
    assert_eq!(dump["stages"][1]["succeeded"], 4);
}

fn copy_dir(from: &str, to: &std::path::Path) -> std::io::Result<()> {
    let copied = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    if copied.success() { Ok(()) } else { Err(std::io::Error::other("cp failed")) }
}

#[test]
fn what_ran_while_its_parents_output_was_changed_does_not_count() {
    let sandbox = Sandbox::with_study(study_file());
    let gate = "while [ ! -e \"$PITON_STUDY_DIR/go\" ]; do sleep 0.02; done\n";
    sandbox.write("b.sh", format!("echo $PITON_CASE >> \"$PITON_STUDY_DIR/started\"\necho > sum\n{gate}"));
    sandbox.ok("run study.toml", 8);
    sandbox.ok("approve study.redb", 0);
    let engine = sandbox.start("run study.toml");
    wait_until("the first child runs", || sandbox.path("started").exists());
    fs::write(sandbox.path(&format!("{FIRST}/o")), "9\n").unwrap();
    sandbox.write("go", "");
    assert_eq!(engine.wait().code(), Some(6));
    let dump = sandbox.dump();
    let of = |what: &str| dump["accounting"][what].clone();
    assert_eq!(dump["stages"][1]["succeeded"], 0, "{dump}");
    assert_eq!((of("failed"), of("interrupted")), (json!(0), json!(1)));
    assert_eq!(sandbox.lines("started"), ["s_1_0"]);
    fs::write(sandbox.path(&format!("{FIRST}/o")), "1\n").unwrap();
    assert_eq!(finished(&sandbox)["stages"][1]["succeeded"], 4);
    assert_eq!(sandbox.lines("started").iter().filter(|case| *case == "s_1_0").count(), 2);
}

#[test]
fn what_is_put_back_before_a_child_ends_is_not_forgotten_and_another_parents_children_count() {
    let sandbox = Sandbox::with_study(study_file().edit("workers = 1", "workers = 3"));
    let gate = "while [ ! -e \"$PITON_STUDY_DIR/go_$PITON_CASE\" ]; do sleep 0.02; done\n";
    // One of them even fails.
    let fails = "[ $PITON_CASE != s_1_0 ] || [ -e \"$PITON_STUDY_DIR/again\" ] || exit 1\n";
    let begins = "echo $PITON_CASE >> \"$PITON_STUDY_DIR/started\"\necho > sum\n";
    sandbox.write("b.sh", format!("{begins}{gate}{fails}"));
    sandbox.ok("run study.toml", 8);
    sandbox.ok("approve study.redb", 0);
    let children: Vec<String> = (0..4).map(|n| format!("s_1_{n}")).collect();
    let engine = sandbox.start("run study.toml");
    wait_until("three children run", || sandbox.path("started").exists() && sandbox.lines("started").len() == 3);
    let trials = sandbox.dump()["trials"].clone();
    let parent_of = |case: &str| {
        let row = trials.as_array().unwrap().iter().find(|row| row["case"] == case);
        row.map(|row| row["parent"].clone()).unwrap_or_else(|| panic!("no {case} in {trials}"))
    };
    let (mut one, mut other): (Vec<_>, Vec<_>) =
        sandbox.lines("started").into_iter().partition(|case| parent_of(case) == parent_of("s_1_0"));
    one.sort();
    assert_eq!((one.len(), other.len()), (2, 1), "{children:?}");
    fs::write(sandbox.path(&format!("{FIRST}/o")), "9\n").unwrap();
    sandbox.write(&format!("go_{}", one[1]), "");
    wait_until("it is found", || sandbox.dump()["accounting"]["interrupted"] == 1);
    fs::write(sandbox.path(&format!("{FIRST}/o")), "1\n").unwrap();
    sandbox.write(&format!("go_{}", one[0]), "");
    sandbox.write(&format!("go_{}", other.remove(0)), "");
    assert_eq!(engine.wait().code(), Some(6));
    let dump = sandbox.dump();
    let of = |what: &str| dump["accounting"][what].clone();
    assert_eq!((of("failed"), of("interrupted")), (json!(0), json!(2)), "{dump}");
    assert_eq!(dump["stages"][1]["succeeded"], 1);
    children.iter().for_each(|case| sandbox.write(&format!("go_{case}"), ""));
    sandbox.write("again", "");
    assert_eq!(finished(&sandbox)["stages"][1]["succeeded"], 4);
}

#[test]
fn a_directory_that_a_command_names_must_be_there_and_one_that_nobody_names_need_not() {
    for (command, code) in [(&["ls", "{parent_dir}"][..], 6), (&["true"], 0)] {
        let text = StudyFile::new("s").stage("a", ["true"], 1, 1).stage("b", command, 1, 1).with("approve = true");
        let sandbox = Sandbox::with_study(&text);
        sandbox.ok("run study.toml", 8);
        sandbox.ok("approve study.redb", 0);
        fs::remove_dir_all(sandbox.path(FIRST)).unwrap();
        let output = sandbox.run("run study.toml");
        assert_eq!(output.status.code(), Some(code), "{}", both(&output));
        if code == 6 {
            assert!(both(&output).contains("the directory of the parent `s_0_0` is gone"));
            fs::create_dir_all(sandbox.path(FIRST)).unwrap();
            sandbox.ok("run study.toml", 0);
        }
    }
}

#[test]
fn a_large_output_that_is_looked_at_holds_up_no_stop() {
    let text = study_file().edit("echo note > undeclared", "truncate -s 200M o");
    let sandbox = Sandbox::with_study(&text);
    // Should it ever start, it must not fill the disk.
    sandbox.write("b.sh", format!("ulimit -f 100000\n{CHILD}"));
    sandbox.ok("run study.toml", 8);
    sandbox.ok("approve study.redb", 0);
    // Longer than anybody waits to be hashed; a signal ends the look.
    fs::File::options().write(true).open(sandbox.path(&format!("{FIRST}/o"))).unwrap().set_len(15 << 40).unwrap();
    let engine = sandbox.start("run study.toml");
    wait_until("the run began", || sandbox.dump()["study"]["status"] == "running");
    engine.signal(Signal::TERM);
    assert_eq!(engine.wait().code(), Some(75));
    let dump = sandbox.dump();
    assert_eq!((&dump["accounting"]["attempts_started"], &dump["accounting"]["failed"]), (&json!(3), &json!(0)));
}

/// On a cluster each job looks on its node, before its trial starts and after it has ended.
#[test]
fn on_slurm_no_child_starts_on_what_was_changed_nor_counts_if_it_changed_meanwhile() {
    let slurm = Slurm::start();
    let table = format!("workers = 1\n{}", slurm.run_table().edit("[run.slurm]", "grace = \"1s\"\n[run.slurm]"));
    for more in ["", "array = true\n"] {
        let sandbox =
            Sandbox::with_study(study_file().edit("workers = 1\ngrace = \"1s\"\n", &format!("{table}{more}")));
        sandbox.write("b.sh", CHILD);
        let run = |line: &str, code: i32| {
            let output = sandbox.piton(line.split_whitespace()).envs(slurm.env()).output().unwrap();
            assert_eq!(output.status.code(), Some(code), "{}", both(&output));
            both(&output)
        };
        run("run study.toml", 8);
        sandbox.ok("approve study.redb", 0);
        let output = sandbox.path(&format!("{FIRST}/o"));
        let kept = fs::read(&output).unwrap();
        fs::write(&output, "9\n").unwrap();
        let said = run("run study.toml", 6);
        for words in ["attempt_1/o`", "none counts as failed", "--discard-from a"] {
            assert!(said.contains(words), "{words} in\n{said}");
        }
        assert_eq!(sandbox.lines("started"), Vec::<String>::new(), "its job saw it first");
        // It changes while a child runs, which the child does not notice.
        fs::write(&output, &kept).unwrap();
        sandbox.write("b.sh", format!("{CHILD}while [ ! -e \"$PITON_STUDY_DIR/go\" ]; do sleep 0.05; done\n"));
        let engine = sandbox.start_with("run study.toml", &slurm.env());
        wait_until("a child runs", || !sandbox.lines("started").is_empty());
        fs::write(&output, "9\n").unwrap();
        sandbox.write("go", "");
        assert_eq!(engine.wait().code(), Some(6));
        let accounting = &sandbox.dump()["accounting"];
        assert_eq!((&accounting["failed"], &accounting["succeeded"]), (&json!(0), &json!(3)), "{accounting}");
        // Put back, all goes on.
        fs::write(&output, &kept).unwrap();
        run("run study.toml", 0);
        sandbox.ok("verify study.redb", 0);
    }
}
