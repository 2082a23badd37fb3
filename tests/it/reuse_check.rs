//! Results that are checked: a part of the trials that could take one is run all the same, and whoever breaks the promise of `reuse` is told.

use std::fs;

use serde_json::{Value as Json, json};

use crate::harness::{Sandbox, StudyFile, both};

/// Twelve trials of which each is equal to three others, and whose metric is `hidden` besides: what no identity holds.
fn study(name: &str, reuse: &str, values: &str, run: &str) -> StudyFile {
    StudyFile::new(name)
.with("seed = 7")
.run("workers = 2")
.with(run)
.stage("a", r#"echo {x} >> $PITON_STUDY_DIR/log; echo {x} > out
               sh -c "exit $(cat $PITON_STUDY_DIR/exit)" && echo "{{\"m\": {x}$(cat $PITON_STUDY_DIR/hidden)}}" > metrics.json"#, 40, 1)
.with(format!("reuse = {reuse}"))
.with(r#"outputs = ["out"]"#)
.sweep(format!("x = [{values}]"))
.minimize("m")
}

const TEN: &str = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10";
const TWELVE: &str = "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11";

/// The study, finished with ten trials, then grown to twelve, of which ten could be taken. What is hidden is another thing then.
fn grown(run: &str, hidden: &str, exit: &str) -> (Sandbox, String) {
    let sandbox = Sandbox::with_study(study("s", "true", TEN, run));
    sandbox.write("hidden", "");
    sandbox.write("exit", "0");
    sandbox.ok("run study.toml", 0);
    fs::remove_file(sandbox.path("log")).unwrap();
    sandbox.write("hidden", hidden);
    sandbox.write("exit", exit);
    grow(&sandbox, &study("s", "true", TWELVE, run));
    let out = sandbox.run("run study.toml");
    assert!(out.status.success(), "{}", both(&out));
    (sandbox, both(&out))
}

fn grow(sandbox: &Sandbox, text: &StudyFile) {
    sandbox.write("study.toml", text);
    sandbox.ok("amend study.redb study.toml --yes --discard-from a", 0);
}

fn reused(sandbox: &Sandbox) -> u64 {
    sandbox.dump()["trials"].as_array().unwrap().iter().filter(|trial| trial.get("reused_from").is_some()).count()
        as u64
}

#[test]
fn who_keeps_the_promise_is_checked_and_does_not_see_it() {
    let (whole, said) = grown("", "", "0");
    assert_eq!((reused(&whole), whole.lines("log").len()), (10, 2), "{said}");
    let (all, said) = grown("reuse_check = 1", "", "0");
    assert_eq!((reused(&all), all.lines("log").len()), (0, 12), "{said}");
    let (some, said) = grown("reuse_check = 0.5", "", "0");
    let (taken, mut ran) = (reused(&some), some.lines("log"));
    assert!((1..10).contains(&taken) && ran.len() as u64 == 12 - taken, "{said}");
    // Which ones is always the same, however many run at once.
    let (again, _) = grown("reuse_check = 0.5", "", "0");
    let mut ran_again = again.lines("log");
    ran.sort();
    ran_again.sort();
    assert_eq!(ran, ran_again);
    for sandbox in [&all, &some] {
        assert_eq!(sandbox.canonical(), whole.canonical());
        sandbox.ok("verify study.redb", 0);
        assert_eq!(sandbox.dump()["study"].get("doubts"), None);
    }
}

#[test]
fn who_breaks_it_is_told_and_nothing_is_taken_any_more() {
    let (sandbox, said) = grown("reuse_check = 0.5", "0", "0");
    let told = said.lines().find(|line| line.contains("WARNING")).unwrap_or_else(|| panic!("{said}"));
    assert!(told.contains("results of stage `a` depend on more than their identity: `s_0_"), "{said}");
    assert!(told.contains("and differs: metric m "), "{said}");
    let (taken, dump) = (reused(&sandbox), sandbox.dump());
    assert!((1..10).contains(&taken), "{said}");
    let [doubt] = &dump["study"]["doubts"].as_array().unwrap()[..] else { panic!("{dump}") };
    let x = |text: &Json| text.as_str().unwrap().parse::<f64>().unwrap();
    let [differs] = &doubt["differs"].as_array().unwrap()[..] else { panic!("{doubt}") };
    assert_eq!((&differs["part"], &differs["name"]), (&json!("metric"), &json!("m")));
    assert_eq!(x(&differs["now"]), 10.0 * x(&differs["earlier"]), "{doubt}");
    // Its own result is what it came to.
    let trials = dump["trials"].as_array().unwrap();
    let own = trials.iter().find(|trial| trial["case"] == doubt["case"]).unwrap();
    assert_eq!(own["metrics"]["m"].as_f64(), Some(x(&differs["now"])));
    let doubtful: Vec<&Json> = trials.iter().filter(|trial| trial["doubtful"] == true).collect();
    assert_eq!(doubtful.len() as u64, taken);
    // Everybody shows it.
    let case = doubtful[0]["case"].as_str().unwrap();
    let why = sandbox.ok(&format!("why study.redb {case}"), 0);
    assert!(why.contains("doubtful: results of stage `a` depend on more"), "{why}");
    for (command, code) in
        [("status study.redb", 0), ("dump study.redb --format text", 0), ("verify study.redb", 4)]
    {
        let shown = sandbox.ok(command, code);
        assert!(shown.contains("depend on more than their identity"), "{command}: {shown}");
        assert!(shown.contains(&format!("the {taken} that it had taken are doubtful")) || taken == 1, "{shown}");
    }
    let events = sandbox.ok("dump study.redb --events --format jsonl", 0);
    assert!(events.lines().any(|line| line.contains("\"type\":\"reuse_differed\"")), "{events}");
    sandbox.ok("report study.redb -o report.html", 0);
    assert!(fs::read_to_string(sandbox.path("report.html")).unwrap().contains("Doubtful: results of stage"));

    // No amendment says that no result is lost where none would be taken: it is asked about.
    let text = study("s", "true", "1, 2", "");
    sandbox.write("study.toml", &text);
    let out = sandbox.run("amend study.redb study.toml --yes");
    assert_eq!(out.status.code(), Some(6), "{}", both(&out));
    assert!(
        both(&out).contains("depend on more than their identity, and are not taken any more"),
        "{}",
        both(&out)
    );

    // Neither a new engine nor an amendment forgets it.
    fs::remove_file(sandbox.path("log")).unwrap();
    grow(&sandbox, &text);
    let out = sandbox.ok("run study.toml", 0);
    assert_eq!((reused(&sandbox), sandbox.lines("log").len()), (0, 2), "{out}");
    sandbox.ok("verify study.redb", 0);
    // Nor does another study take what is known to differ.
    let from = format!("reuse_from = [\"{}\"]", sandbox.path("study.redb").display());
    let other = Sandbox::with_study(study("other", "true", TEN, &from));
    other.write("hidden", "0");
    other.write("exit", "0");
    let out = other.run("run study.toml");
    assert_eq!(reused(&other), 0, "{}", both(&out));
    assert!(both(&out).contains("there, equal trials came to different ones"), "{}", both(&out));
    // Once what was hidden is part of the identity, results are taken again.
    grow(&sandbox, &study("s", "\"hidden 0\"", "1, 2", ""));
    sandbox.ok("run study.toml", 0);
    grow(&sandbox, &study("s", "\"hidden 0\"", "1, 2, 3", ""));
    sandbox.ok("run study.toml", 0);
    assert_eq!(reused(&sandbox), 2);
}

#[test]
fn a_checked_trial_that_fails_for_good_differs_and_one_that_is_cut_off_does_not() {
    let (sandbox, said) = grown("reuse_check = 0.5", "", "3");
    assert!(said.contains("differs: state succeeded -> failed: exit_code"), "{said}");
    let doubt = &sandbox.dump()["study"]["doubts"][0];
    assert_eq!(
        doubt["differs"],
        json!([
            { "part": "state", "name": "", "earlier": "succeeded", "now": "failed: exit_code" }
        ])
    );
}

/// What a doubt is about counts as equal to what was accepted for it, and so does the doubt.
/// A limit, or whoever kills what runs, says nothing of a result: the check is left undone, which is said.
#[test]
fn a_checked_trial_that_the_site_ends_is_no_doubt() {
    let (sandbox, _) = grown("reuse_check = 0.6", "", "0 & kill -9 $PPID");
    assert!(sandbox.dump()["study"].get("doubts").is_none_or(|doubts| doubts.as_array().unwrap().is_empty()));
    let events = sandbox.ok("dump study.redb --events", 0);
    let undone = "it was to be compared with it, and failed: signal: nothing was compared";
    let count = events.lines().filter(|line| line.contains("reuse_missed")).count() as u64;
    assert!(count > 0 && count + reused(&sandbox) == 10, "{count}, {}: {events}", reused(&sandbox));
    let case = events.lines().find(|line| line.contains("reuse_missed")).unwrap();
    let case = case.split_whitespace().find(|word| word.starts_with("s_0_")).unwrap().trim_end_matches(':');
    let why = sandbox.ok(&format!("why study.redb {case}"), 0);
    assert!(why.contains(undone), "{why}");
    sandbox.ok("verify study.redb", 0);
}

#[test]
fn a_doubt_outlives_an_input_that_is_accepted() {
    let with_input = |values: &str| {
        study("s", "true", values, "reuse_check = 0.5").edit("seed = 7", "seed = 7\ninputs = [\"in\"]")
    };
    let sandbox = Sandbox::with_study(with_input(TEN));
    for (file, text) in [("hidden", ""), ("exit", "0"), ("in", "1")] {
        sandbox.write(file, text);
    }
    sandbox.ok("run study.toml", 0);
    sandbox.write("hidden", "0");
    grow(&sandbox, &with_input(TWELVE));
    sandbox.ok("run study.toml", 0);
    sandbox.ok("verify study.redb", 4);
    let taken = reused(&sandbox);
    assert!((1..10).contains(&taken));
    sandbox.write("in", "2");
    sandbox.ok("amend study.redb study.toml --yes --accept-inputs --note equal", 0);
    let verified = sandbox.ok("verify study.redb", 4);
    assert!(verified.contains("doubtful: ") && verified.contains("accepted: "), "{verified}");
    fs::remove_file(sandbox.path("log")).unwrap();
    grow(&sandbox, &with_input("1, 2"));
    sandbox.ok("run study.toml", 0);
    assert_eq!((reused(&sandbox), sandbox.lines("log").len()), (0, 2));
}
