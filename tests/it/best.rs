//! `piton best`: the winner, as a shell and other programs take it.

use std::process::Command;

use crate::harness::{Sandbox, StudyFile, both};

/// What a shell could take for more than a word.
const HOSTILE: &str = "it's $(touch pwned) `touch pwned`; \"q\" *\n#";

fn study() -> Sandbox {
    let study = StudyFile::new("won")
        .with(format!("[params]\nword = {HOSTILE:?}"))
        .stage("first", r#"echo '{{"y": {x}, "top-1": 3}}' > metrics.json"#, 4, 2)
        .sweep("x = [-3, 5, 2, 9]")
        .maximize("y")
        .stage("second", r#"test {z} != 2 && echo '{{"y": {x}.5, "label": "a b"}}' > metrics.json"#, 4, 1)
        .sweep("z = [1, 2]")
        .minimize("y");
    Sandbox::finished(study, 0)
}

fn shell(sandbox: &Sandbox, script: &str) -> String {
    let program = env!("CARGO_BIN_EXE_piton");
    let script = format!("set -eu; piton() {{ {program:?} \"$@\"; }}; {script}");
    let output = Command::new("sh").args(["-c", &script]).current_dir(sandbox.path("")).output().unwrap();
    assert!(output.status.success(), "{}", both(&output));
    assert!(!sandbox.path("pwned").exists());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_winner_is_the_survivor_with_all_that_a_next_program_needs() {
    let sandbox = study();
    let best: serde_json::Value = serde_json::from_str(&sandbox.ok("best study.redb --json", 0)).unwrap();
    // The smaller of two survivors' children wins, by its own stage's goal.
    let case = best["case"].as_str().unwrap();
    assert_eq!(best["params"], serde_json::json!({ "word": HOSTILE, "x": 5, "z": 1 }));
    assert_eq!(best["metrics"], serde_json::json!({ "y": 5.5, "label": "a b" }));
    assert_eq!(best["objectives"], serde_json::json!([{ "metric": "y", "goal": "minimize", "value": 5.5 }]));
    assert_eq!((&best["rank"], &best["of"]), (&1.into(), &2.into()), "{best}");
    assert_eq!((&best["survivor"], &best["decided"]), (&true.into(), &true.into()));
    let dump = sandbox.dump();
    assert_eq!(dump["stages"][1]["survivors"], serde_json::json!([case]));
    let dir = best["dir"].as_str().unwrap();
    assert!(dir.ends_with(&format!("/artifacts/won/1_second/{case}/attempt_1")), "{dir}");

    let first: serde_json::Value =
        serde_json::from_str(&sandbox.ok("best study.redb --stage first --format json", 0)).unwrap();
    assert_eq!((&first["case"], &first["params"]["x"]), (&dump["stages"][0]["survivors"][0], &9.into()));
    let text = sandbox.ok("best study.redb", 0);
    assert!(text.starts_with(&format!("{case}: survived stage 1 `second`, ranked 1 of 2\n")), "{text}");
    assert!(text.contains("  y = 5.5 (minimize)\n  label = a b\n3 params\n"), "{text}");
    assert!(text.ends_with(&format!("directory  {dir}\n")), "{text}");

    // What is gone is not named.
    std::fs::remove_dir_all(dir).unwrap();
    let best: serde_json::Value = serde_json::from_str(&sandbox.ok("best study.redb --json", 0)).unwrap();
    assert!(best["dir"].is_null());
    let refused = sandbox.run("best study.redb --stage third");
    assert_eq!(refused.status.code(), Some(2), "{}", both(&refused));
}

#[test]
fn a_shell_takes_every_value_for_one_word() {
    let sandbox = study();
    let dir = shell(&sandbox, r#"eval "$(piton best study.redb --format env)"; ls "$PITON_BEST_DIR" | wc -l"#);
    assert!(dir.trim().parse::<u32>().unwrap() >= 4, "{dir}");
    let word = r#"eval "$(piton best study.redb --format env)"; printf %s "$PITON_BEST_PARAM_word""#;
    assert_eq!(shell(&sandbox, word), HOSTILE);
    let metrics = r#"eval "$(piton best study.redb --stage first --format env)"; set | grep -c ^PITON_BEST_METRIC_; printf %s "$PITON_BEST_METRIC_y""#;
    // `top-1` can be no variable.
    assert_eq!(shell(&sandbox, metrics), "1\n9");
    let args = r#"eval "printf '[%s]' $(piton best study.redb --stage first --format args)""#;
    assert_eq!(shell(&sandbox, args), format!("[--word={HOSTILE}][--x=9]"));
}

#[test]
fn before_a_stage_closes_the_best_so_far_is_shown_and_before_any_success_none() {
    let study =
        StudyFile::new("early").stage("only", ["./trial.sh", "{n}"], 3, 1).sweep("n = [4, 2, 7]").maximize("n");
    let sandbox = Sandbox::with_study(study.edit("\"./trial.sh\"", "\"./fail.sh\""));
    sandbox.script("fail.sh", "exit 1");
    sandbox.ok("run study.toml -j 1", 3);
    let refused = sandbox.run("best study.redb");
    assert_eq!(refused.status.code(), Some(2), "{}", both(&refused));
    assert!(both(&refused).contains("no trial of stage `only` has succeeded"), "{}", both(&refused));

    let sandbox = Sandbox::with_study(study);
    // The third trial ends the run that it is part of, once a result is recorded.
    let script = "echo \"{\\\"n\\\": $1}\" > metrics.json; test $1 = 7 || exit 0\nuntil @piton best \"$PITON_STUDY_DIR/study.redb\"; do :; done\nwhile kill -KILL $(cat \"$PITON_STUDY_DIR/pid\"); do :; done";
    sandbox.script("trial.sh", &script.replace("@piton", env!("CARGO_BIN_EXE_piton")));
    let script = "echo $$ > pid; exec \"$0\" run study.toml -j 1";
    let killed = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_piton")])
        .current_dir(sandbox.path(""))
        .output()
        .unwrap();
    assert_eq!(killed.status.code(), None, "{}", both(&killed));
    let best: serde_json::Value = serde_json::from_str(&sandbox.ok("best study.redb --json", 0)).unwrap();
    assert_eq!((&best["case"], &best["params"]["n"]), (&"early_0_0".into(), &4.into()));
    assert_eq!((&best["survivor"], &best["decided"]), (&false.into(), &false.into()));
    let text = sandbox.ok("best study.redb", 0);
    assert!(text.starts_with("early_0_0: the best so far of stage 0 `only`, ranked 1 of "), "{text}");
}
