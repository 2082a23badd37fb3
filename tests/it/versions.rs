//! Tools whose versions belong to a study: told once, recorded, and no other ones go on.

use crate::harness::{Sandbox, StudyFile, both};

/// Two stages with a person in between. `tool` stands beside the study file.
fn study_file() -> StudyFile {
    StudyFile::new("s")
        .with(r#"versions = { tool = ["./tool", "--version"], words = "echo $SAID" }"#)
        .with("[env]\nSAID = \"of a shell\"")
        .stage("a", ["./tool"], 2, 1)
        .stage("b", ["./tool"], 1, 1)
        .with("approve = true")
}

/// The first stage is done, with version 1.
fn begun() -> Sandbox {
    let sandbox = Sandbox::with_study(study_file());
    sandbox.script("tool", "echo $* >> asked; echo tool 1");
    sandbox.ok("run study.toml", 8);
    sandbox
}

fn refused(sandbox: &Sandbox, line: &str, code: i32, words: &[&str]) {
    let output = sandbox.run(line);
    assert_eq!(output.status.code(), Some(code), "{}", both(&output));
    for word in words {
        assert!(both(&output).contains(word), "{word} in\n{}", both(&output));
    }
}

#[test]
fn versions_are_told_once_and_recorded() {
    let sandbox = begun();
    assert_eq!(sandbox.lines("asked"), ["--version"], "before the first trial, and by no trial");
    let recorded = serde_json::json!({"tool": "tool 1", "words": "of a shell"});
    assert_eq!(sandbox.dump()["study"]["versions"], recorded);
    let canonical: serde_json::Value = serde_json::from_str(&sandbox.canonical()).unwrap();
    assert_eq!(canonical["study"]["versions"], recorded);
    let why = sandbox.ok("why study.redb s_0_0", 0);
    assert!(why.contains("tool 1"), "{why}");
    sandbox.ok("approve study.redb", 0);
    sandbox.ok("run study.toml", 0);
    // So does a study that is over: what it says is of other tools.
    sandbox.ok("run study.toml", 0);
    sandbox.script("tool", "echo $* >> asked; echo tool 2");
    for line in ["run study.toml", "resume study.redb"] {
        refused(&sandbox, line, 6, &["tool `tool` is `tool 2`, was `tool 1`", "piton amend"]);
    }
    sandbox.script("tool", "echo $* >> asked; echo tool 1");
    sandbox.ok("run study.toml", 0);
    assert!(sandbox.ok("check study.toml --versions", 0).contains("tool: tool 1"));
    let plan: serde_json::Value =
        serde_json::from_str(&sandbox.ok("check study.toml --versions --json", 0)).unwrap();
    assert_eq!(plan["versions"], recorded);
}

/// Whoever checks a file that came from elsewhere, or looks at what an amendment would do, has not agreed to anything.
#[test]
fn nothing_of_a_file_runs_before_somebody_agreed() {
    let sandbox = begun();
    let asked = sandbox.lines("asked").len();
    let quiet = |line: &str, code: i32| {
        let output = sandbox.run(line);
        assert_eq!(output.status.code(), Some(code), "{line}\n{}", both(&output));
        assert_eq!(sandbox.lines("asked").len(), asked, "`{line}` ran something\n{}", both(&output));
        both(&output)
    };
    for line in ["check study.toml", "check study.toml --json"] {
        quiet(line, 0);
    }
    assert!(quiet("check study.toml", 0).contains("tool, words: `--versions` asks them"));
    // The same file, a changed one, one whose tools are others, one that the study cannot become.
    assert!(quiet("amend study.redb study.toml", 0).contains("--yes"));
    let changed = |name: &str, from: &str, to: &str| sandbox.write(name, study_file().edit_first(from, to));
    changed("more.toml", "trial_budget = 2", "trial_budget = 2\nretries = 2");
    changed("tools.toml", "--version", "-V");
    changed("other.toml", "name = \"s\"", "name = \"t\"");
    changed("seed.toml", "name = \"s\"", "name = \"s\"\nseed = 9");
    let said = quiet("amend study.redb more.toml", 2);
    assert!(said.contains("retries") && said.contains("runs        `./tool --version`"), "{said}");
    assert!(quiet("amend study.redb tools.toml", 2).contains("runs        `./tool -V`"));
    let plan = sandbox.run("amend study.redb more.toml --json");
    let plan: serde_json::Value = serde_json::from_slice(&plan.stdout).unwrap();
    assert_eq!(plan["applied"], false);
    assert_eq!(plan["changes"].as_array().unwrap().len(), 1, "{plan}");
    quiet("amend study.redb other.toml --yes", 6);
    quiet("amend study.redb seed.toml --yes", 6);
    // A run of another file is refused, whatever the store's tools are by now.
    for file in ["more.toml", "other.toml"] {
        quiet(&format!("run {file} --store study.redb"), 6);
    }
    for line in [
        "status study.redb",
        "status study.redb --json",
        "dump study.redb --format json",
        "why study.redb s_0_0",
        "logs study.redb s_0_0",
        "verify study.redb",
        "report study.redb -o r.html",
        "export study.redb --to out",
        "compare study.redb --write-baseline b.json",
        "stop study.redb",
        "approve study.redb",
        "compact study.redb",
        "salvage study.redb -o new.redb",
    ] {
        quiet(line, 0);
    }
    // Accepted, it is asked, and what it says counts.
    sandbox.ok("amend study.redb more.toml --yes", 0);
    assert_eq!(sandbox.lines("asked").len(), asked + 1);
}

#[test]
fn another_version_does_not_go_on_unless_results_are_discarded() {
    let sandbox = begun();
    sandbox.ok("approve study.redb", 0);
    sandbox.script("tool", "echo tool 2");
    let said = ["tool `tool` is `tool 2`, was `tool 1`", "piton amend"];
    refused(&sandbox, "run study.toml", 6, &said);
    refused(&sandbox, "resume study.redb", 6, &said);
    refused(&sandbox, "amend study.redb study.toml --yes", 6, &["tool 2", "1 finished trial"]);
    let replayed = sandbox.run("replay study.redb s_0_0");
    assert!(both(&replayed).contains("tool `tool` is `tool 2`, was `tool 1`"), "{}", both(&replayed));
    sandbox.ok("amend study.redb study.toml --yes --discard-from a", 0);
    assert_eq!(sandbox.dump()["study"]["versions"]["tool"], "tool 2");
    sandbox.run("run study.toml");
    sandbox.ok("verify study.redb", 0);
}

#[test]
fn an_aborted_study_says_that_its_tool_changed() {
    let sandbox = Sandbox::with_study(study_file());
    sandbox.script("tool", "[ $# = 0 ] || { echo tool 1; exit 0; }; exit 3");
    sandbox.ok("run study.toml", 3);
    sandbox.ok("run study.toml", 3);
    sandbox.script("tool", "echo tool 2");
    refused(&sandbox, "run study.toml", 6, &["tool `tool` is `tool 2`, was `tool 1`"]);
}

#[test]
fn a_tool_that_tells_nothing_begins_no_study() {
    let sandbox = Sandbox::with_study(study_file());
    for (does, why) in [("exit 3", "exit status: 3"), ("true", "says nothing")] {
        sandbox.script("tool", does);
        refused(&sandbox, "run study.toml", 2, &["`./tool --version`, which tells the version of `tool`", why]);
        refused(&sandbox, "check study.toml --versions", 2, &[why]);
        sandbox.ok("check study.toml", 0);
    }
    assert!(!sandbox.path("study.redb").exists());
    let begun = begun();
    std::fs::remove_file(begun.path("tool")).unwrap();
    refused(&begun, "run study.toml", 6, &["cannot be run"]);
}

#[test]
fn a_bad_table_of_versions_is_refused_in_words() {
    let sandbox = Sandbox::new();
    for (versions, word) in [
        ("versions = [\"yosys\"]", "table"),
        ("versions = { a = [] }", "empty"),
        ("versions = { \"a b\" = \"true\" }", "not allowed in a name"),
        ("versions = { a = 3 }", "list"),
    ] {
        sandbox.write(
            "study.toml",
            study_file()
                .edit("versions = { tool = [\"./tool\", \"--version\"], words = \"echo $SAID\" }", versions),
        );
        refused(&sandbox, "check study.toml", 2, &[word]);
    }
}

#[test]
fn a_set_of_failure_rules_comes_after_the_studys_own() {
    let study = |failures: &str| {
        StudyFile::new("s").stage("a", "echo 'Error: out of memory.' >&2; exit 1", 1, 1).with(failures)
    };
    let kind = |failures: &str| {
        let sandbox = Sandbox::with_study(study(failures));
        sandbox.ok("run study.toml", 3);
        sandbox.dump()["trials"][0]["failure"]["kind"].as_str().unwrap().to_owned()
    };
    assert_eq!(kind("failures = \"eda\""), "out_of_memory");
    assert_eq!(kind("failures = \"eda\"\nfailure = [{ kind = \"mine\", log = \"memory\" }]"), "mine");
    let sandbox = Sandbox::with_study(study("failures = \"edda\""));
    refused(&sandbox, "check study.toml", 2, &["edda", "eda"]);
    sandbox.write("study.toml", study("failures = [{ kind = \"a\", log = \"b\" }]"));
    refused(&sandbox, "check study.toml", 2, &["[[stage.failure]]"]);
}
