//! `improve_within`: a stage ends when nothing gets better, where the results in the order of their numbers say so.

use serde_json::{Value as Json, json};

use crate::harness::{Sandbox, StudyFile, both};

/// Twenty cases. The fifth is the best but for the fifteenth, which is beyond the end where four in a row are in vain. While there is a file
/// `wait`, the first ends after the fifteenth has.
const TRIAL: &str = r#"
cd "$PITON_STUDY_DIR" || exit 1
if [ "$1" = 1 ] && [ -e wait ]; then
    while [ ! -e go ]; do sleep 0.01; done
fi
m=$(( $1 > 5 ? $1 - 5 : 5 - $1 ))
[ "$1" = 15 ] && m=-1
echo "{\"m\": $m}" > "$OLDPWD/metrics.json"
[ "$1" = 15 ] && touch go
[ "$1" = 12 ] && [ -e fail ] && exit 3
exit 0
"#;

fn stage(rails: &str, workers: u32) -> StudyFile {
    let cases: Vec<String> = (1..=20).map(|x| x.to_string()).collect();
    StudyFile::new("vain")
        .run(format!("workers = {workers}"))
        .stage("look", ["./trial.sh", "{x}"], 20, 2)
        .with(rails)
        .sweep(format!("x = [{}]", cases.join(", ")))
        .minimize("m")
}

fn within(count: u64, workers: u32) -> StudyFile {
    stage(&format!("[stage.rails]\nimprove_within = {count}"), workers).stage("then", "true", 2, 1)
}

fn sandbox(study: StudyFile) -> Sandbox {
    let sandbox = Sandbox::with_study(study);
    sandbox.script("trial.sh", TRIAL);
    sandbox
}

fn finished(study: StudyFile) -> Sandbox {
    let sandbox = sandbox(study);
    sandbox.ok("run study.toml", 0);
    sandbox
}

#[test]
fn it_ends_where_the_numbers_say_and_what_is_beyond_counts_for_nothing() {
    let sandbox = sandbox(within(4, 2));
    sandbox.write("wait", "");
    let output = sandbox.piton(["run", "study.toml"]).output().unwrap();
    let said = both(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let words = "ended early, after 9 of 20 trials: 4 in a row brought nothing better";
    assert!(said.contains(&format!("survivors: vain_0_4, vain_0_3; {words}")), "{said}");
    let dump = sandbox.dump();
    let look = &dump["stages"][0];
    assert_eq!((&look["survivors"], &look["ended_after"]), (&json!(["vain_0_4", "vain_0_3"]), &json!(9)));
    let trials = dump["trials"].as_array().unwrap();
    // It ended, and is better; nobody may count it.
    assert_eq!((&trials[14]["state"], &trials[14]["outside"]), (&json!("succeeded"), &json!(true)));
    assert!(trials[..9].iter().all(|trial| trial["state"] == "succeeded" && trial["outside"] == Json::Null));
    assert_eq!(trials.len(), 22);
    assert!(trials[9..20].iter().all(|trial| trial["state"] != "pending" && trial["state"] != "running"));
    let why = sandbox.ok("why study.redb vain_0_14", 0);
    assert!(why.contains(&format!("it succeeded, but is outside: its stage {words}")), "{why}");
    let status: Json = serde_json::from_str(&sandbox.ok("status study.redb --json", 0)).unwrap();
    assert_eq!(status["stages"][0]["ended_after"], 9);
    assert!(sandbox.ok("status study.redb", 0).contains("ended early: the first 9 trials count"));
    assert!(sandbox.ok("dump study.redb --events", 0).contains("look: nothing got better; the first 9 trials"));
    assert!(sandbox.ok("best study.redb --stage look", 0).contains("vain_0_4: survived"));
    sandbox.ok("report study.redb -o page.html", 0);
    assert!(std::fs::read_to_string(sandbox.path("page.html")).unwrap().contains(words));
    sandbox.ok("export study.redb --to out", 0);
    sandbox.ok("verify study.redb", 0);
    let what_if: Json = serde_json::from_str(&sandbox.ok("what-if study.redb --survivors 1 --json", 0)).unwrap();
    assert_eq!((&what_if["stages"][0]["trials"], &what_if["stages"][0]["unknown"]), (&json!(9), &json!(0)));

    let one = finished(within(4, 1));
    assert_eq!([sandbox.canonical(), finished(within(4, 7)).canonical()], [one.canonical(), one.canonical()]);
}

#[test]
fn what_waits_beyond_its_end_never_runs_again() {
    let study = stage("retries = { count = 1, delay = \"1h\" }\n[stage.rails]\nimprove_within = 4", 2);
    let sandbox = sandbox(study.stage("then", "true", 2, 1));
    sandbox.write("wait", "");
    sandbox.write("fail", "");
    sandbox.ok("run study.toml", 0);
    let dump = sandbox.dump();
    assert_eq!((&dump["trials"][11]["state"], &dump["trials"][11]["outside"]), (&json!("cancelled"), &Json::Null));
    assert_eq!(dump["trials"][11]["attempts"].as_array().unwrap().len(), 1);
    assert_eq!(dump["stages"][1]["succeeded"], 2);
    sandbox.ok("verify study.redb", 0);
    let why = sandbox.ok("why study.redb vain_0_11", 0);
    assert!(why.contains("it was cancelled, because its stage ended early, after 9 of 20 trials"), "{why}");
    sandbox.ok("salvage study.redb --output saved.redb", 0);
    assert_eq!(sandbox.ok("dump saved.redb --format json --canonical", 0), sandbox.canonical());
}

/// Whatever it is amended to, and whatever ended beyond: the study is what it would be had it begun so.
#[test]
fn amended_it_ends_as_if_it_had_begun_so() {
    // Alone: survivors of the last stage may be chosen anew.
    for (from, to) in [
        ("improve_within = 4", "improve_within = 12"),
        ("improve_within = 12", "improve_within = 4"),
        ("", "improve_within = 4"),
        ("improve_within = 4", "improve_within = 7"),
    ] {
        let rails = |rails: &str| stage(&format!("[stage.rails]\n{rails}"), 3);
        let sandbox = finished(rails(from));
        sandbox.write("study.toml", rails(to));
        sandbox.ok("run study.toml", 6);
        let cost = sandbox.ok("amend study.redb study.toml --yes", 0);
        assert!(cost.contains("improve_within"), "{cost}");
        sandbox.ok("run study.toml", 0);
        assert_eq!(sandbox.canonical(), finished(rails(to)).canonical(), "{from} to {to}");
        sandbox.ok("verify study.redb", 0);
    }
    // What others descend from is given up first.
    let sandbox = finished(within(4, 3));
    sandbox.write("study.toml", within(12, 3));
    sandbox.ok("amend study.redb study.toml --yes", 6);
    sandbox.ok("amend study.redb study.toml --yes --discard-from then", 0);
    sandbox.ok("run study.toml", 0);
    assert_eq!(sandbox.dump()["stages"][0]["survivors"], json!(["vain_0_14", "vain_0_4"]));
    assert_eq!(sandbox.canonical(), finished(within(12, 3)).canonical());
    sandbox.ok("verify study.redb", 0);
}

#[test]
fn it_must_mean_one_thing() {
    let refused = |text: String, words: &str| {
        let sandbox = sandbox(StudyFile::new("x"));
        sandbox.write("study.toml", text);
        let said = both(&sandbox.piton(["check", "study.toml"]).output().unwrap());
        assert!(said.contains(words), "{said}");
    };
    let of = |more: &str| {
        let keys = format!("rails = {{ improve_within = 2 }}\n{more}");
        StudyFile::new("x").stage("a", "true", 4, 1).with(keys).sweep("x = [1, 2]")
    };
    refused(of("").to_string(), "`improve_within` needs an objective");
    for (more, words) in [
        ("selection = \"pareto\"", "goes with `top` and `lexicographic` selection"),
        ("repeats = 2", "does not go with `repeats`"),
        ("halving = { rungs = [1] }", "does not go with `halving`"),
    ] {
        refused(of(more).minimize("m").to_string(), words);
    }
}
