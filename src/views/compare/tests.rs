//! Comparisons with answers worked out by hand from the stories in `views::fixture`.

use std::collections::BTreeMap;

use std::fs;
use std::path::PathBuf;

use super::*;
use crate::model::Next;
use crate::study_file::Goal;
use crate::testing::story::{DEAD, Story, written};
use crate::views::dump::{self, Format};

/// A story whose stage `explore` ended with these `bytes` for `t_0_0` to `t_0_3`; `None`: it failed.
fn story(label: &str, bytes: [Option<f64>; 4]) -> Story {
    let mut story = Story::told(2, label);
    story.run().open_explore();
    for (trial, bytes) in (0..).zip(bytes) {
        story.start(trial, 1);
        match bytes {
            Some(bytes) => story.succeed(trial, 1, bytes),
            None => story.fail(trial, 1, "exited with code 3", Next::Final),
        };
    }
    story
}

fn before() -> Story {
    story("plain", [Some(200.0), Some(300.5), None, Some(100.0)])
}

fn baseline_text(story: &Story) -> String {
    let (view, snapshot) = story.view(DEAD);
    written(|out| write_baseline(&view, &snapshot, None, &|_| true, out).map(drop))
}

fn file(story: &Story, text: &str) -> PathBuf {
    let path = story.dir().join("baseline.json");
    fs::write(&path, text).unwrap();
    path
}

fn line(row: &Row) -> String {
    let metric = row.metric.as_deref().unwrap_or("-");
    let number = |number: Option<f64>| number.map_or("-".into(), |number| number.to_string());
    let mark = if row.regression { "!" } else { "" };
    let detail = row.detail.as_ref().map_or_else(String::new, |detail| format!(" ({detail})"));
    let (before, now) = (number(row.baseline), number(row.now));
    format!("{mark}{} {metric} {before} {now} {}{detail}", row.case, row.finding.words())
}

/// Every line and the totals of comparing a story's `explore` with a baseline.
fn against(now: &Story, baseline: &Baseline<'_>, limits: Limits) -> Result<(Vec<String>, Totals), String> {
    let (view, snapshot) = now.view(DEAD);
    let words = |error: ViewError| error.to_string();
    let stage = stage_of(&view, Some("explore")).map_err(words)?;
    let comparison = Comparison::new(&view, &snapshot, stage, baseline, limits).map_err(words)?;
    let mut lines = Vec::new();
    let totals = comparison.run(&mut |row| {
        lines.push(line(row));
        Ok(())
    });
    totals.map(|totals| (lines, totals)).map_err(words)
}

fn against_text(now: &Story, text: &str, limits: Limits) -> Result<(Vec<String>, Totals), String> {
    let baseline = Baseline::of_file(&file(now, text)).map_err(|error| error.to_string())?;
    against(now, &baseline, limits)
}

fn totals(cases: u64, compared: u64, regressions: u64, improvements: u64, unchanged: u64) -> Totals {
    Totals { cases, compared, regressions, improvements, unchanged, ..Totals::default() }
}

#[test]
fn a_baseline_is_the_trials_with_a_result_one_a_line() {
    let mut story = before();
    story.close_explore().start(4, 1);
    insta::assert_snapshot!(baseline_text(&story), @r#"
    {"baseline":1,
    "study":{"name":"tiny","seed":7,"spec_hash":"5bec"},
    "stages":[
    {"index":0,"name":"explore","survivors":["t_0_3","t_0_0"]},
    {"index":1,"name":"confirm","survivors":[]}
    ],
    "trials":[
    {"case":"t_0_0","stage":0,"state":"succeeded","params":{"label":"plain","level":1,"mode":"fast"},"metrics":{"bytes":200,"tool":"xz"},"failure":null},
    {"case":"t_0_1","stage":0,"state":"succeeded","params":{"label":"plain","level":2.0,"mode":"fast"},"metrics":{"bytes":300.5,"tool":"xz"},"failure":null},
    {"case":"t_0_2","stage":0,"state":"failed","params":{"label":"plain","level":1,"mode":"small"},"metrics":{},"failure":"exit_code"},
    {"case":"t_0_3","stage":0,"state":"succeeded","params":{"label":"plain","level":2.0,"mode":"small"},"metrics":{"bytes":100,"tool":"xz"},"failure":null}
    ]}
    "#);
    let (view, snapshot) = story.view(DEAD);
    let one = written(|out| write_baseline(&view, &snapshot, Some(1), &|name| name != "tool", out).map(drop));
    assert!(one.contains("confirm") && !one.contains("explore") && one.ends_with("\"trials\":[\n]}\n"), "{one}");
}

#[test]
fn a_study_compared_with_itself_is_the_same() {
    let story = before();
    let (lines, found) = against_text(&story, &baseline_text(&story), Limits::default()).unwrap();
    assert_eq!(
        lines,
        [
            "t_0_0 bytes 200 200 same",
            "t_0_1 bytes 300.5 300.5 same",
            "t_0_2 - - - still fails (exit_code: exited with code 3)",
            "t_0_3 bytes 100 100 same"
        ]
    );
    assert_eq!(found, totals(4, 4, 0, 0, 4));
}

#[test]
fn worse_better_failing_and_fixed() {
    let now = story("plain", [Some(210.0), Some(290.0), Some(400.0), None]);
    let expected = [
        "!t_0_0 bytes 200 210 worse",
        "t_0_1 bytes 300.5 290 better",
        "t_0_2 - - - fixed (was exit_code)",
        "!t_0_3 - - - fails now (exit_code: exited with code 3)",
    ];
    let before = before();
    let (view, snapshot) = before.view(DEAD);
    let store = Baseline::of_store(&view, &snapshot);
    assert_eq!(
        against(&now, &store, Limits::default()).unwrap(),
        (expected.map(str::to_owned).to_vec(), totals(4, 4, 2, 2, 0))
    );
    // Every form of a baseline says the same.
    let canonical = written(|out| dump::canonical(&view, &snapshot, out));
    let json = written(|out| dump::state(&view, &snapshot, Format::Json, out));
    for text in [baseline_text(&before), canonical, json] {
        assert_eq!(against_text(&now, &text, Limits::default()).unwrap().0, expected, "{text}");
    }
    let limits = Limits {
        tolerances: BTreeMap::from([("bytes".into(), Tolerance::parse("5%").unwrap())]),
        ..Limits::default()
    };
    let (lines, found) = against(&now, &store, limits).unwrap();
    assert_eq!(lines[0], "t_0_0 bytes 200 210 same");
    assert_eq!(lines[1], "t_0_1 bytes 300.5 290 same");
    assert_eq!((found.regressions, found.improvements, found.unchanged), (1, 1, 2));
    let other_way = Limits { directions: BTreeMap::from([("bytes".into(), Goal::Maximize)]), ..Limits::default() };
    let (lines, _) = against(&now, &store, other_way).unwrap();
    assert_eq!(lines[0], "t_0_0 bytes 200 210 better");
    assert_eq!(lines[1], "!t_0_1 bytes 300.5 290 worse");
}

#[test]
fn what_is_gone_or_unfinished_fails_unless_it_may() {
    let mut now = Story::new();
    now.run().open_explore().start(0, 1).succeed(0, 1, 200.0).start(1, 1);
    let text = baseline_text(&before()).replace("t_0_3", "t_0_33");
    let (lines, found) = against_text(&now, &text, Limits::default()).unwrap();
    assert_eq!(
        lines,
        [
            "t_0_0 bytes 200 200 same",
            "!t_0_1 - - - no result (running)",
            "!t_0_2 - - - no result (pending)",
            "!t_0_33 - - - missing"
        ]
    );
    assert_eq!(found, totals(4, 1, 3, 0, 1));
    let lenient = Limits { allow_missing: true, ..Limits::default() };
    assert_eq!(against_text(&now, &text, lenient.clone()).unwrap().1, totals(4, 1, 0, 0, 4));
    // If nothing at all can be compared, nothing passes.
    let mut idle = Story::new();
    idle.run().open_explore();
    assert_eq!(against_text(&idle, &text, lenient).unwrap_err(), "none of the baseline's 4 cases can be compared");
    let none = baseline_text(&idle);
    assert_eq!(
        against_text(&now, &none, Limits::default()).unwrap_err(),
        "the baseline has no result of stage `explore`"
    );
}

#[test]
fn other_params_cannot_be_compared_and_new_cases_pass() {
    let now = story("other", [Some(200.0), Some(300.5), None, Some(100.0)]);
    let (lines, found) = against_text(&now, &baseline_text(&before()), Limits::default()).unwrap();
    assert_eq!(lines[0], "!t_0_0 - - - other params (label plain → other)");
    assert_eq!(found, totals(4, 0, 4, 0, 0));
    // The same number written otherwise is the same.
    let text = baseline_text(&before()).replace("\"level\":2.0", "\"level\":2");
    assert_eq!(against_text(&before(), &text, Limits::default()).unwrap().1.regressions, 0);
    let fewer: String = text.lines().filter(|line| !line.contains("t_0_1")).collect();
    let (lines, found) = against_text(&before(), &fewer, Limits::default()).unwrap();
    assert_eq!(lines.last().unwrap(), "t_0_1 - - - new case");
    assert_eq!(found, totals(3, 3, 0, 0, 4));
}

#[test]
fn metrics_that_come_and_go() {
    let text = baseline_text(&before()).replacen("\"bytes\":200", "\"bytes\":null,\"old\":3,\"odd\":[1]", 1);
    let (lines, _) = against_text(&before(), &text, Limits::default()).unwrap();
    assert_eq!(lines[0], "t_0_0 bytes - 200 new metric");
    assert_eq!(lines[1], "!t_0_0 old 3 - metric missing");
    assert_eq!(lines[2], "t_0_1 bytes 300.5 300.5 same");
    let only = |name: &str| Limits { only: BTreeSet::from([name.to_owned()]), ..Limits::default() };
    let (lines, _) = against_text(&before(), &text, only("old")).unwrap();
    assert_eq!(lines[0], "!t_0_0 old 3 - metric missing");
    assert_eq!(
        against_text(&before(), &text, only("byte")).unwrap_err(),
        "no trial has a number called `byte`; did you mean `bytes`?"
    );
    assert_eq!(
        against_text(&before(), &text, only("tool")).unwrap_err(),
        "no trial has a number called `tool`; there is `bytes`, `old`"
    );
    let bare = baseline_text(&before()).replace("\"bytes\"", "\"octets\"");
    assert_eq!(
        against_text(&before(), &bare, only("bytes")).unwrap_err(),
        "no trial of the baseline has a number called `bytes`; there is `octets`"
    );
}

#[test]
fn a_file_that_is_no_baseline_is_told_so() {
    let story = before();
    let good = baseline_text(&story);
    let told = |text: &str| against_text(&story, text, Limits::default()).unwrap_err();
    assert!(told("").contains("is not a baseline: EOF while parsing"), "{}", told(""));
    assert!(told("[1, 2]").contains("baseline.json` is "), "{}", told("[1, 2]"));
    assert!(told("{}").contains("neither a baseline nor a dump"));
    assert!(told("{\"study\":{\"name\":\"x\"},\"stages\":[],\"trials\":[]}").contains("neither"));
    assert!(told(&good.replace("\"baseline\":1", "\"baseline\":2")).contains("newer piton (version 2)"));
    assert!(told(&format!("{good}x")).contains("trailing characters"));
    assert!(told(&good[..good.len() - 5]).contains("EOF"));
    assert!(told(&good.replace(":300.5", ":1e999")).contains("the metric 1e999 is too large for a 64-bit float"));
    let rounded = told(&good.replace(":300.5", ":9007199254740993"));
    assert!(rounded.contains("the metric 9007199254740993 cannot be held exactly"), "{rounded}");
    assert!(against_text(&story, &format!("\u{feff}{good}"), Limits::default()).is_ok());
    let deep = format!(":{}{}", "[".repeat(10_000), "]".repeat(10_000));
    // However deep, it is no number, and not compared.
    assert!(against_text(&story, &good.replace(":300.5", &deep), Limits::default()).is_ok());
    assert!(told(&good.replace("\"stage\":0", "\"stage\":-1")).contains("invalid value"));
    assert!(told(&good.replace("t_0_1", "t_0_0")).contains("has the case `t_0_0` twice"));
    assert_eq!(
        told(&good.replace("\"explore\"", "\"exploer\"")),
        "the baseline has no stage `explore`; did you mean `exploer`?"
    );
    let gone = Baseline::of_file(&story.dir().join("gone.json")).unwrap_err();
    assert!(matches!(gone, ViewError::File { what: "read", .. }), "{gone}");
}

#[test]
fn keys_may_come_in_any_order() {
    let story = before();
    let text = baseline_text(&story);
    let (head, trials) = text.split_once(",\n\"trials\":").unwrap();
    let turned = format!(
        "{{\"trials\":{},\n\"also\":{{\"a\":[1]}},{}}}",
        trials.trim_end().trim_end_matches('}'),
        &head[1..]
    );
    assert_eq!(against_text(&story, &turned, Limits::default()).unwrap().1, totals(4, 4, 0, 0, 4));
}

#[test]
fn a_store_is_told_from_a_file_by_its_first_bytes() {
    let story = before();
    assert!(is_store(&story.dir().join("tiny.redb")).unwrap());
    assert!(!is_store(&file(&story, "red")).unwrap());
    assert!(!is_store(&file(&story, "")).unwrap());
}

#[test]
fn stages_are_found_by_name_and_the_last_is_the_default() {
    let story = before();
    let (view, _) = story.view(DEAD);
    assert_eq!(stage_of(&view, None).unwrap().name, "confirm");
    let error = stage_of(&view, Some("explor")).unwrap_err();
    assert_eq!(error.to_string(), "the study has no stage `explor`; did you mean `explore`?");
}

#[test]
fn a_baseline_never_replaces_a_store_nor_comes_of_nothing() {
    let mut story = Story::new();
    story.run().open_explore();
    let (view, snapshot) = story.view(DEAD);
    let path = file(&story, "as it was");
    let error = save_baseline(&view, &snapshot, None, &|_| true, &path).unwrap_err();
    assert!(error.to_string().starts_with("no trial has a result yet"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "as it was");
    story.start(0, 1).succeed(0, 1, 1.0);
    let (view, snapshot) = story.view(DEAD);
    let store = story.dir().join("tiny.redb");
    let error = save_baseline(&view, &snapshot, None, &|_| true, &store).unwrap_err();
    assert!(error.to_string().ends_with("is a store: a baseline must not replace it"), "{error}");
    assert_eq!(save_baseline(&view, &snapshot, None, &|_| true, &path).unwrap(), 1);
    assert_eq!(Baseline::of_file(&path).unwrap().study_name(), "tiny");
}

#[test]
fn json_has_the_totals_first_and_every_line() {
    let now = story("plain", [Some(210.0), Some(300.5), Some(400.0), Some(100.0)]);
    let baseline = Baseline::of_file(&file(&now, &baseline_text(&before()))).unwrap();
    let (view, snapshot) = now.view(DEAD);
    let stage = stage_of(&view, Some("explore")).unwrap();
    let comparison = Comparison::new(&view, &snapshot, stage, &baseline, Limits::default()).unwrap();
    insta::assert_snapshot!(written(|out| comparison.write_json("b.json", out).map(drop)), @r#"
    {"schema":1,"study":"tiny","stage":"explore","baseline":"b.json","ok":false,"cases":4,"compared":4,"regressions":1,"improvements":1,"unchanged":2,"undecided":0,"paired":0,"without_replicas":0,
    "comparisons":[
    {"case":"t_0_0","metric":"bytes","baseline":200.0,"now":210.0,"delta":10.0,"allowed":0.0,"finding":"worse","regression":true,"detail":null},
    {"case":"t_0_1","metric":"bytes","baseline":300.5,"now":300.5,"delta":0.0,"allowed":0.0,"finding":"same","regression":false,"detail":null},
    {"case":"t_0_2","metric":null,"baseline":null,"now":null,"delta":null,"allowed":null,"finding":"fixed","regression":false,"detail":"was exit_code"},
    {"case":"t_0_3","metric":"bytes","baseline":100.0,"now":100.0,"delta":0.0,"allowed":0.0,"finding":"same","regression":false,"detail":null}
    ]}
    "#);
}
