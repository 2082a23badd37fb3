//! `piton check` of a study for a cluster: whether its jobs would be taken, and what one finds on a node.

use crate::clusters::{Cluster, Slurm};
use crate::harness::{Sandbox, StudyFile, both};

/// One stage that needs a tool, a script and an input.
fn study(run: &str) -> Sandbox {
    let sandbox = Sandbox::with_study(
        StudyFile::new("probed")
            .with(r#"inputs = ["data.txt"]"#)
            .with(r#"versions = { sed = ["sed", "--version"] }"#)
            .run(run)
            .stage("only", ["./trial.sh", "{x}"], 1, 1)
            .sweep("x = [1]"),
    );
    sandbox.write("data.txt", "1");
    sandbox.script("trial.sh", "exit 0");
    sandbox
}

fn told(slurm: &Slurm, sandbox: &Sandbox, line: &str, code: i32) -> String {
    let mut command = sandbox.piton(line.split_whitespace());
    let output = command.envs(slurm.env()).output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{}", both(&output));
    both(&output)
}

#[test]
fn a_probe_finds_on_a_node_of_slurms_what_trials_would() {
    let slurm = Slurm::start();
    let sandbox = study(&slurm.run_table());
    let asked = told(&slurm, &sandbox, "check study.toml", 0);
    assert!(asked.contains("cluster    Job ") && asked.contains(" to start at "), "{asked}");
    let good = told(&slurm, &sandbox, "check study.toml --probe", 0);
    assert!(
        good.contains("ran on `n") && good.contains("trials can run there") && good.contains("sed: "),
        "{good}"
    );
    let json: serde_json::Value = serde_json::from_slice(
        &sandbox.piton(["check", "study.toml", "--probe", "--json"]).envs(slurm.env()).output().unwrap().stdout,
    )
    .unwrap();
    assert_eq!(json["probe"]["wanting"].as_array().map(Vec::len), Some(0), "{json}");
    // What is missing is named, each with what it is.
    std::fs::set_permissions(sandbox.path("trial.sh"), std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .unwrap();
    sandbox.edit("study.toml", "[\"sed\", \"--version\"]", "[\"no_such_sed\", \"--version\"]");
    let bad = told(&slurm, &sandbox, "check study.toml --probe", 1);
    for words in ["the program `./trial.sh` is not there, or may not be run", "`sed` does not tell its version"] {
        assert!(bad.contains(words), "{words} in {bad}");
    }
    assert!(!sandbox.path("artifacts").exists(), "nothing is left: {:?}", sandbox.path("artifacts"));
    assert!(slurm.is_idle());
}

#[test]
fn a_study_for_a_cluster_is_checked_where_there_is_none() {
    let sandbox = study("executor = \"slurm\"");
    let mut command = sandbox.piton(["check", "study.toml"]);
    let output = command.env("PATH", "/nowhere").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    assert!(
        both(&output).contains("cluster    cannot be asked: `sbatch` is not installed here"),
        "{}",
        both(&output)
    );
    let here = study("executor = \"local\"").run("check study.toml --probe");
    assert_eq!(here.status.code(), Some(2), "{}", both(&here));
    assert!(both(&here).contains("there is nothing to probe"), "{}", both(&here));
}

#[test]
fn what_slurm_would_refuse_is_told_before_anything_is_submitted() {
    let slurm = Slurm::start();
    let sandbox = study("executor = \"slurm\"\n[run.slurm]\npartition = \"nowhere\"");
    for line in ["check study.toml", "check study.toml --probe"] {
        let refused = told(&slurm, &sandbox, line, 1);
        assert!(refused.contains("invalid partition specified: nowhere"), "{refused}");
    }
    assert!(!sandbox.path("artifacts").exists());
}
