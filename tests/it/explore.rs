//! `explore`: cases that could have survived and did not go on, too. They are marked everywhere, and counted as survivors nowhere.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value as Json, json};

use crate::harness::{Sandbox, StudyFile, both};

/// Eight cases, of which the smallest survive a first look that is wrong: the larger, the better their children.
fn study(explore: u64, workers: u32) -> StudyFile {
    StudyFile::new("look")
        .with("seed = 3")
        .run(format!("workers = {workers}"))
        .stage("place", "echo '{{\"m\": {x}}}' > metrics.json; echo {x} > out.txt", 8, 2)
        .with(format!("explore = {explore}\noutputs = [\"out.txt\"]"))
        .sweep("x = [1, 2, 3, 4, 5, 6, 7, 8]")
        .minimize("m")
        .stage(
            "route",
            "grep -qx {x} {parent_dir}/out.txt && echo '{{\"m\": '$(( {y} - {x} * 10 ))'}}' > metrics.json",
            8,
            2,
        )
        .sweep("y = [1, 2]")
        .minimize("m")
}

fn names(value: &Json) -> Vec<String> {
    value.as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

#[test]
fn those_that_explore_go_on_and_are_marked() {
    let sandbox = Sandbox::with_study(study(2, 2));
    let plan = sandbox.ok("check study.toml", 0);
    assert!(plan.contains("2 more cases may go on to explore"), "{plan}");
    assert!(plan.contains("at most 8 trials from 4 cases"), "{plan}");
    let output = sandbox.piton(["run", "study.toml"]).output().unwrap();
    let said = both(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let dump = sandbox.dump();
    let place = &dump["stages"][0];
    assert_eq!(place["survivors"], json!(["look_0_0", "look_0_1"]));
    let explorers = names(&place["explorers"]);
    assert_eq!(explorers.len(), 2, "{explorers:?}");
    assert!(said.contains(&format!("survivors: look_0_0, look_0_1; explore: {}", explorers.join(", "))), "{said}");
    assert!(explorers.iter().all(|case| !place["survivors"].as_array().unwrap().contains(&json!(case))));
    for trial in dump["trials"].as_array().unwrap().iter().filter(|trial| trial["stage"] == 0) {
        let case = trial["case"].as_str().unwrap().to_owned();
        assert_eq!(trial["explorer"] == json!(true), explorers.contains(&case), "{trial}");
        assert_eq!(trial["survivor"], json!(["look_0_0", "look_0_1"].contains(&case.as_str())));
    }
    // Each of the four has two children.
    let parents: Vec<String> = dump["trials"].as_array().unwrap()[8..]
        .iter()
        .map(|trial| trial["parent"].as_str().unwrap().into())
        .collect();
    let expected: Vec<String> = ["look_0_0", "look_0_1"]
        .into_iter()
        .chain(explorers.iter().map(String::as_str))
        .flat_map(|case| [case.to_owned(), case.to_owned()])
        .collect();
    assert_eq!(parents, expected);

    // The larger of the two wins in the end, and that it was no survivor is said wherever it is told where the winner comes from.
    let winner = &explorers[1];
    let status: Json = serde_json::from_str(&sandbox.ok("status study.redb --json", 0)).unwrap();
    assert_eq!((&status["stages"][0]["survivors"], &status["stages"][0]["explorers"]), (&json!(2), &json!(2)));
    assert!(sandbox.ok("status study.redb", 0).contains("2 survivors; 2 explorers"));
    let why = sandbox.ok(&format!("why study.redb {winner}"), 0);
    assert!(why.contains("it goes on to explore: it was not among the survivors: ranked"), "{why}");
    let best = sandbox.ok("best study.redb", 0);
    assert!(best.starts_with("look_1_6: survived stage 1"), "{best}");
    let why = sandbox.ok("why study.redb look_1_6", 0);
    assert!(why.contains(&format!("{winner} (an explorer, no survivor)")), "{why}");
    let why: Json = serde_json::from_str(&sandbox.ok("why study.redb look_1_6 --json", 0)).unwrap();
    assert_eq!((&why["lineage"][1]["explorer"], &why["lineage"][0]["explorer"]), (&json!(true), &Json::Null));
    sandbox.ok("export study.redb --to out", 0);
    let drawn = fs::read_to_string(sandbox.path("out/lineage.dot")).unwrap();
    assert!(
        drawn.contains("2 of 8 trials survive, 2 explore") && drawn.contains(&format!("{winner} (explores)")),
        "{drawn}"
    );
    assert_eq!(drawn.matches("style=\"rounded,bold,dashed\"").count(), 1, "{drawn}");
    let csv = fs::read_to_string(sandbox.path("out/trials.csv")).unwrap();
    let mut rows = csv::Reader::from_reader(csv.as_bytes());
    let column = rows.headers().unwrap().iter().position(|name| name == "explorer").unwrap();
    let marked = rows.records().filter(|row| &row.as_ref().unwrap()[column] == "true").count();
    assert_eq!(marked, 2);
    sandbox.ok("report study.redb -o report.html", 0);
    let page = fs::read_to_string(sandbox.path("report.html")).unwrap();
    assert!(page.contains("2 survived, 2 went on to explore") && page.contains("(an explorer, no survivor)"));
    let share = "Of 2 explorers drawn from those that did not survive";
    assert!(page.contains(share), "the report tells of retention");
    assert!(sandbox.ok("dump study.redb --events", 0).contains("survivors look_0_0 look_0_1; explore "));
    let told = sandbox.lines("artifacts/look/telemetry.jsonl");
    let told: Json =
        serde_json::from_str(told.iter().find(|line| line.contains("stage_closed")).unwrap()).unwrap();
    let cases =
        |key: &str| told[key].as_array().unwrap().iter().map(|one| one["case"].clone()).collect::<Vec<_>>();
    assert_eq!(cases("survivors"), ["look_0_0", "look_0_1"]);
    assert_eq!(cases("explorers"), *explorers);
    sandbox.ok("verify study.redb", 0);
}

#[test]
fn workers_change_nothing_and_another_seed_draws_others() {
    let canonical = |workers: u32| Sandbox::finished(study(2, workers), 0).canonical();
    let one = canonical(1);
    assert!(one.contains("\"explorers\""));
    assert_eq!([canonical(2), canonical(7)], [one.clone(), one]);
    let drawn: BTreeSet<Vec<String>> = (0..4)
        .map(|seed| {
            let sandbox = Sandbox::finished(study(1, 2).edit("seed = 3", &format!("seed = {seed}")), 0);
            names(&sandbox.dump()["stages"][0]["explorers"])
        })
        .collect();
    assert!(drawn.len() > 1, "{drawn:?}");
}

/// What is known of all that did not survive, with those that explored and without.
#[test]
fn retention_has_an_interval_where_cases_explore() {
    let ask = |explore: u64| -> Json {
        let sandbox = Sandbox::finished(study(explore, 2), 0);
        serde_json::from_str(&sandbox.ok("what-if study.redb --survivors 1 --stage place --json", 0)).unwrap()
    };
    let with = ask(2);
    let retention = &with["retention"][0];
    // Both of the best are children of the one that is best in the end: one of two has a descendant among them.
    assert_eq!(
        (&retention["biased"], &retention["retained"], &retention["needed"]),
        (&json!(false), &json!(0), &Json::Null)
    );
    assert_eq!((&retention["explored"]["explorers"], &retention["explored"]["found"]), (&json!(2), &json!(1)));
    let share = |at: usize| retention["explored"]["share"][at].as_f64().unwrap();
    // Clopper and Pearson, 1 of 2: 1 - 0.975^(1/2), and the rest.
    assert!((share(0) - 0.012_579).abs() < 1e-5 && (share(1) - 0.987_421).abs() < 1e-5, "{retention}");
    let without = ask(0);
    assert_eq!(
        (&without["retention"][0]["biased"], &without["retention"][0]["explored"]),
        (&json!(true), &Json::Null)
    );
    assert_eq!(without["stages"][0]["best"].as_array().unwrap().len(), 1);
}

/// What would have been with fewer survivors is what a study of those does, explorers and all.
#[test]
fn what_if_draws_as_the_study_would() {
    let sandbox = Sandbox::finished(study(2, 2), 0);
    let fewer: Json =
        serde_json::from_str(&sandbox.ok("what-if study.redb --survivors 1 --stage place --json", 0)).unwrap();
    let told = fs::read_to_string(sandbox.path("study.toml")).unwrap().replacen(
        "survivor_count = 2",
        "survivor_count = 1",
        1,
    );
    let other = Sandbox::new();
    other.write("study.toml", told);
    other.ok("run study.toml", 0);
    let place = &other.dump()["stages"][0];
    assert_eq!((&fewer["stages"][0]["explorers"], names(&place["explorers"]).len()), (&place["explorers"], 2));
    assert_eq!(fewer["stages"][0]["best"][0]["case"], place["survivors"][0]);
}

#[test]
fn amending_it_draws_anew_and_ends_as_if_it_had_begun_so() {
    let sandbox = Sandbox::finished(study(0, 2), 0);
    assert_eq!(sandbox.dump()["stages"][0]["explorers"], Json::Null);
    sandbox.write("study.toml", study(2, 2));
    sandbox.ok("run study.toml", 6);
    sandbox.ok("amend study.redb study.toml --yes", 6);
    let cost = sandbox.ok("amend study.redb study.toml --yes --discard-from route", 0);
    assert!(cost.contains("explore"), "{cost}");
    sandbox.ok("run study.toml", 0);
    assert_eq!(sandbox.dump()["stages"], {
        let mut stages = Sandbox::finished(study(2, 2), 0).dump()["stages"].clone();
        for (stage, is) in
            stages.as_array_mut().unwrap().iter_mut().zip(sandbox.dump()["stages"].as_array().unwrap())
        {
            for time in ["opened_at", "closed_at"] {
                stage[time] = is[time].clone();
            }
        }
        stages
    });
    sandbox.ok("verify study.redb", 0);
}

/// Of replicas whole cases explore; who fails, or does not meet what is required, never does; there may be fewer.
#[test]
fn only_cases_that_could_have_survived_explore() {
    let file = StudyFile::new("noisy")
        .stage("time", "test {x} != 4 && echo '{{\"m\": '$(( {x} + PITON_REPLICA ))'}}' > metrics.json", 12, 2)
        .with("repeats = 2\nexplore = 3\nrequire = [{ metric = \"m\", at_most = 5 }]")
        .sweep("x = [1, 2, 3, 4, 5, 6]")
        .minimize("m")
        .stage("then", "true", 5, 1);
    let sandbox = Sandbox::finished(file, 0);
    let dump = sandbox.dump();
    // Means of 1.5, 2.5, 3.5, a failed one, 5.5 and 6.5.
    assert_eq!(dump["stages"][0]["survivors"], json!(["noisy_0_0", "noisy_0_1"]));
    assert_eq!(dump["stages"][0]["explorers"], json!(["noisy_0_2"]));
    let marked: Vec<&Json> =
        dump["cases"].as_array().unwrap().iter().filter(|case| case["explorer"] == json!(true)).collect();
    assert_eq!(marked.len(), 1);
    assert_eq!((&marked[0]["case"], &marked[0]["survivor"]), (&json!("noisy_0_2"), &json!(false)));
    assert!(marked[0]["stands_for_it"].is_u64(), "its children have a parent");
    assert_eq!(dump["stages"][1]["planned"], 3);
    let why = sandbox.ok("why study.redb noisy_0_2", 0);
    assert!(why.contains("it goes on to explore: it was not among the survivors"), "{why}");
    sandbox.ok("verify study.redb", 0);

    // Where fewer survive than could, nobody is left to explore.
    let file = StudyFile::new("few")
        .stage("time", "test {x} = 1 && echo '{{\"m\": 1}}' > metrics.json", 3, 2)
        .with("explore = 1")
        .sweep("x = [1, 2, 3]")
        .minimize("m")
        .stage("then", "true", 3, 1);
    let dump = Sandbox::finished(file, 0).dump();
    assert_eq!(
        (&dump["stages"][0]["survivors"], &dump["stages"][0]["explorers"]),
        (&json!(["few_0_0"]), &Json::Null)
    );
}

#[test]
fn what_cannot_be_explored_is_refused() {
    let last = StudyFile::new("last").stage("a", "true", 3, 1).with("explore = 1");
    let all = StudyFile::new("all").stage("a", "true", 3, 1).stage("b", "true", 3, 1);
    let text = all.to_string().replacen("survivor_count = 1", "survivor_count = \"all\"\nexplore = 1", 1);
    let short = StudyFile::new("short").stage("a", "true", 3, 2).with("explore = 2").stage("b", "true", 3, 1);
    for (text, words) in [
        (last.to_string(), "`explore` has no meaning in the last stage"),
        (text, "`explore` has no meaning where all survive"),
        (short.to_string(), "3 cases for 2 survivors and 2 that explore"),
    ] {
        let sandbox = Sandbox::new();
        sandbox.write("study.toml", text);
        let said = both(&sandbox.piton(["check", "study.toml"]).output().unwrap());
        assert!(said.contains(words), "{said}");
    }
}
