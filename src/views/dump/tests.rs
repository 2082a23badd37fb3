//! Dumps of small studies against what their stories say.

use serde_json::{Value as Json, json};

use super::*;
use crate::model::{Abort, Event, Next, Rail, RunEnd, TrialId};
use crate::testing::story::{ALIVE, DEAD, Story, parent, written};
use crate::views::{Liveness, Screen};

fn dumped(story: &Story, liveness: Liveness, format: Format) -> String {
    let (view, snapshot) = story.view(liveness);
    written(|out| state(&view, &snapshot, format, out))
}

fn canonically(story: &Story) -> String {
    let (view, snapshot) = story.view(ALIVE);
    written(|out| canonical(&view, &snapshot, out))
}

fn event_dump(story: &Story, format: Format) -> String {
    let (view, snapshot) = story.view(DEAD);
    written(|out| events(&view, &snapshot, format, out))
}

#[test]
fn json_is_schema_1_to_the_letter() {
    let mut story = Story::new();
    story.run().open_explore().start(0, 1).succeed(0, 1, 200.0).start(1, 1).interrupt(1, 1).start(1, 2);
    story.start(2, 1).fail(2, 1, "exited with code 3", Next::Final);
    // Time: event n is at n - 1 seconds.
    insta::assert_snapshot!(dumped(&story, ALIVE, Format::Json), @r#"
    {"schema":1,
    "study":{"name":"tiny","status":"running","aborted":false,"abort_reason":null,"seed":7,"spec_hash":"5bec","created_at":"1970-01-01T00:00:00.000Z","runtime_s":0.0,"engine":{"pid":4242,"alive":true},"versions":{}},
    "stages":[
    {"index":0,"name":"explore","status":"open","trial_budget":4,"survivor_count":2,"planned":4,"pending":1,"running":1,"succeeded":1,"failed":1,"cancelled":0,"survivors":[],"opened_at":"1970-01-01T00:00:02.000Z","closed_at":null},
    {"index":1,"name":"confirm","status":"waiting","trial_budget":2,"survivor_count":1,"planned":0,"pending":0,"running":0,"succeeded":0,"failed":0,"cancelled":0,"survivors":[],"opened_at":null,"closed_at":null}
    ],
    "trials":[
    {"id":0,"stage":0,"case":"t_0_0","parent":"t","params":{"label":"plain","level":1,"mode":"fast"},"state":"succeeded","metrics":{"bytes":200,"tool":"xz"},"failure":null,"survivor":false,"attempts":[{"n":1,"outcome":"succeeded","exit_code":0,"signal":null,"started_at":"1970-01-01T00:00:03.000Z","ended_at":"1970-01-01T00:00:04.000Z","wall_s":1.5,"cpu_s":1.25,"peak_rss_bytes":4096,"dir":"/a/tiny/0_explore/t_0_0/attempt_1"}],"outputs":{"packed":{"bytes":3,"blake3":"1111111111111111111111111111111111111111111111111111111111111111"}}},
    {"id":1,"stage":0,"case":"t_0_1","parent":"t","params":{"label":"plain","level":2.0,"mode":"fast"},"state":"running","metrics":{},"failure":null,"survivor":false,"attempts":[{"n":1,"outcome":"interrupted","exit_code":null,"signal":"SIGKILL","started_at":"1970-01-01T00:00:05.000Z","ended_at":"1970-01-01T00:00:06.000Z","wall_s":1.5,"cpu_s":1.25,"peak_rss_bytes":4096,"dir":"/a/tiny/0_explore/t_0_1/attempt_1"},{"n":2,"outcome":null,"exit_code":null,"signal":null,"started_at":"1970-01-01T00:00:07.000Z","ended_at":null,"wall_s":0.0,"cpu_s":0.0,"peak_rss_bytes":0,"dir":"/a/tiny/0_explore/t_0_1/attempt_2"}],"outputs":{}},
    {"id":2,"stage":0,"case":"t_0_2","parent":"t","params":{"label":"plain","level":1,"mode":"small"},"state":"failed","metrics":{},"failure":{"kind":"exit_code","severity":"medium","reason":"exited with code 3","log_excerpt":"first line\nsecond \u001b[31mline"},"survivor":false,"attempts":[{"n":1,"outcome":"failed","exit_code":3,"signal":null,"started_at":"1970-01-01T00:00:08.000Z","ended_at":"1970-01-01T00:00:09.000Z","wall_s":1.5,"cpu_s":1.25,"peak_rss_bytes":4096,"dir":"/a/tiny/0_explore/t_0_2/attempt_1"}],"outputs":{}},
    {"id":3,"stage":0,"case":"t_0_3","parent":"t","params":{"label":"plain","level":2.0,"mode":"small"},"state":"pending","metrics":{},"failure":null,"survivor":false,"attempts":[],"outputs":{}}
    ],
    "accounting":{"attempts_started":4,"succeeded":1,"failed":1,"interrupted":1,"running":1,"reused":0,"imported":0},
    "events":10}
    "#);
}

#[test]
fn a_dead_engine_means_interrupted_and_the_accounting_still_holds() {
    let mut story = Story::new();
    story.run().open_explore().start(0, 1);
    let dump: Json = serde_json::from_str(&dumped(&story, DEAD, Format::Json)).unwrap();
    assert_eq!(dump["study"]["status"], "interrupted");
    assert_eq!(dump["study"]["engine"], json!({"pid": 4242, "alive": false}));
    assert_eq!(
        dump["accounting"],
        json!({"attempts_started": 1, "succeeded": 0, "failed": 0, "interrupted": 0, "running": 1, "reused": 0, "imported": 0})
    );
    assert_eq!(dump["trials"][0]["attempts"][0]["outcome"], Json::Null);
}

#[test]
fn an_aborted_study_shows_what_waited_as_cancelled() {
    let mut story = Story::new();
    story.run().open_explore().start(1, 1).fail(1, 1, "no", Next::Again { due_ms: 99_000 });
    story.event(Event::StudyAborted { reason: "rail".into(), violating: vec![TrialId(1)] });
    let dump: Json = serde_json::from_str(&dumped(&story, ALIVE, Format::Json)).unwrap();
    assert_eq!(dump["study"]["aborted"], true);
    assert_eq!(dump["study"]["abort_reason"], "rail");
    let states: Vec<_> = dump["trials"].as_array().unwrap().iter().map(|trial| &trial["state"]).collect();
    assert_eq!(states, ["cancelled"; 4]);
    assert_eq!(dump["stages"][0]["pending"], 0);
    assert_eq!(dump["trials"][1]["failure"], Json::Null, "not failed for good");
    let text = dumped(&story, ALIVE, Format::Text(Screen::PLAIN));
    assert!(text.contains("     failed  cancelled  survivors\n"), "{text}");
    assert!(text.contains("          4          0\n"), "{text}");
}

/// Two results before the one that aborts, one after it: the canonical dump knows the first two alone.
#[test]
fn what_is_outside_is_kept_shown_and_no_part_of_the_canonical_dump() {
    let abort = |rail, counted| Event::StudyAbortedBy {
        abort: Abort { rail, stage: 0, counted },
        reason: "rail".into(),
        violating: vec![TrialId(1)],
    };
    let told = |outside: bool, rail, counted| {
        let mut story = Story::new();
        story.run().open_explore();
        if outside {
            story.start(3, 1).succeed(3, 1, 7.0);
        }
        story.start(0, 1).succeed(0, 1, 9.0).start(1, 1).fail(1, 1, "no", Next::Final);
        story.event(abort(rail, counted));
        story
    };
    let (with, without) = (told(true, Rail::AbortIf, 2), told(false, Rail::AbortIf, 2));
    assert_eq!(canonically(&with), canonically(&without));
    let dump: Json = serde_json::from_str(&dumped(&with, DEAD, Format::Json)).unwrap();
    let by = serde_json::json!({"rail": "abort_if", "stage": 0, "counted": 2, "violating": ["t_0_1"]});
    assert_eq!(dump["study"]["aborted_by"], by);
    let trial = &dump["trials"][3];
    assert_eq!((&trial["state"], &trial["outside"]), (&"succeeded".into(), &true.into()));
    assert!(dump["trials"][0]["outside"].is_null() && dump["trials"][2]["outside"].is_null());
    let text = dumped(&with, DEAD, Format::Text(Screen::PLAIN));
    assert!(
        text.contains("broken by t_0_1\nthe first 2 trials of stage `explore` count; what else ended is outside")
    );
    assert!(text.lines().any(|line| line.contains("t_0_3") && line.contains("outside")), "{text}");
    let table = dumped(&with, DEAD, Format::Csv);
    let outside = table.lines().next().unwrap().split(',').position(|name| name == "outside").unwrap();
    let cells: Vec<_> = table.lines().skip(1).map(|line| line.split(',').nth(outside).unwrap()).collect();
    assert_eq!(cells[..4], ["false", "false", "false", "true"], "{table}");
    let suites = |story: &Story| {
        let (view, snapshot) = story.view(DEAD);
        written(|out| crate::views::junit::junit(&view, &snapshot, out))
    };
    let head = |story: &Story| suites(story).lines().find(|line| line.contains("<testsuites")).unwrap().to_owned();
    let counted = |line: &str| line.split(" time=").next().unwrap().to_owned();
    assert_eq!(counted(&head(&with)), counted(&head(&without)));
    assert!(suites(&with).contains("skipped message=\"outside, succeeded\""), "{}", suites(&with));
    // What the recorded results give is another matter: this study has no rail at all.
    let checked = |story: &Story| {
        let (view, snapshot) = story.view(DEAD);
        crate::views::abort::check(&view, &snapshot).unwrap()
    };
    assert!(checked(&with).unwrap().contains("the recorded results give no abort"));
    assert!(checked(&told(true, Rail::NoSurvivors, 4)).unwrap().contains("give survivors"));
    // After `max_runtime` which had ended is chance, and none is outside.
    let (with, without) = (told(true, Rail::MaxRuntime, 0), told(false, Rail::MaxRuntime, 0));
    assert_eq!(canonically(&with), canonically(&without));
    assert_eq!(checked(&with), None);
    assert!(!dumped(&with, DEAD, Format::Json).contains("outside"));
}

#[test]
fn jsonl_has_a_line_for_the_study_each_stage_and_each_trial() {
    let mut story = Story::new();
    story.complete();
    let text = dumped(&story, DEAD, Format::Jsonl);
    let lines: Vec<Json> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<_> = lines.iter().map(|line| line["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["study", "stage", "stage", "trial", "trial", "trial", "trial", "trial", "trial"]);
    assert!(text.starts_with(r#"{"type":"study","schema":1,"name":"tiny","status":"completed""#));
    assert_eq!(lines[0]["events"], 20);
    assert_eq!(lines[1]["survivors"], json!(["t_0_3", "t_0_0"]));
    assert_eq!(lines[7]["parent"], "t_0_3");
    assert_eq!(lines[7]["survivor"], true);
}

#[test]
fn csv_has_a_row_for_each_trial_and_a_column_for_each_name() {
    let mut story = Story::told(2, "a,\"b\"\nc");
    story.run().open_explore().start(0, 1).succeed(0, 1, 200.0).start(2, 1).fail(2, 1, "no", Next::Final);
    assert_eq!(
        dumped(&story, ALIVE, Format::Csv),
        "id,stage,stage_name,case,parent,state,survivor,attempts,wall_s,cpu_s,peak_rss_bytes,failure_kind,outside,reused_from,\
         imported,param.label,param.level,param.mode,metric.bytes,metric.tool\n\
         0,0,explore,t_0_0,t,succeeded,false,1,1.5,1.25,4096,,false,,,\"a,\"\"b\"\"\nc\",1,fast,200.0,xz\n\
         1,0,explore,t_0_1,t,pending,false,0,,,,,false,,,\"a,\"\"b\"\"\nc\",2.0,fast,,\n\
         2,0,explore,t_0_2,t,failed,false,1,1.5,1.25,4096,exit_code,false,,,\"a,\"\"b\"\"\nc\",1,small,,\n\
         3,0,explore,t_0_3,t,pending,false,0,,,,,false,,,\"a,\"\"b\"\"\nc\",2.0,small,,\n"
    );
}

#[test]
fn text_shows_every_trial_and_lets_nothing_hostile_through() {
    let mut story = Story::told(2, "x\u{1b}]0;owned\u{7}\ny");
    story.run().open_explore().start(0, 1).succeed(0, 1, 200.0);
    story.start(2, 1).fail(2, 1, "bad\u{1b}[2J\r\nthing", Next::Final);
    insta::assert_snapshot!(dumped(&story, ALIVE, Format::Text(Screen::PLAIN)), @r#"
    study tiny: running
    seed 7, created 1970-01-01 00:00:00 +00:00, ran 0 ms in 1 run, 7 events
    attempts: 2 started, 1 succeeded, 1 failed
    spec 5bec

    stage    status     planned    pending    running  succeeded     failed  survivors
    explore  open             4          2          0          1          1          0
    confirm  waiting          0          0          0          0          0          0

    stage 0 explore
      t_0_0  succeeded      1.5 s bytes=200 tool=xz | label=x\u{1b}]0;owned\u{7}\ny level=1 mode=fast
      t_0_1  pending    | label=x\u{1b}]0;owned\u{7}\ny level=2.0 mode=fast
      t_0_2  failed         1.5 s exit_code: bad\u{1b}[2J\r\nthing | label=x\u{1b}]0;owned\u{7}\ny level=1 mode=small
      t_0_3  pending    | label=x\u{1b}]0;owned\u{7}\ny level=2.0 mode=small
    "#);
    for width in [1, 20, 60, 80, 200, u16::MAX] {
        for color in [false, true] {
            let text = dumped(&story, ALIVE, Format::Text(Screen { width, color, unicode: true }));
            assert!(text.lines().filter(|line| line.contains("t_0_")).count() >= 4, "width {width}");
            let plain = text.replace("\u{1b}[", "");
            assert!(!plain.contains(|letter: char| letter.is_control() && letter != '\n'), "width {width}");
            if !color {
                let longest = text.lines().map(|line| line.chars().count()).max().unwrap();
                assert!(longest <= usize::from(width).max(20), "width {width}: {longest}");
            }
        }
    }
}

#[test]
fn events_come_in_every_format_with_the_same_order() {
    let mut story = Story::new();
    story.run().open_explore().start(1, 1).fail(1, 1, "bad\nthing", Next::Again { due_ms: 99_000 });
    story.event(Event::DrainStarted { by: "SIGTERM".into() }).event(Event::RunEnded { how: RunEnd::Drained });
    let text = event_dump(&story, Format::Jsonl);
    let lines: Vec<Json> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.iter().map(|line| line["seq"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7]);
    assert!(lines[0]["spec"]["stages"].is_array());
    assert_eq!(
        text.lines().nth(3).unwrap(),
        r#"{"seq":4,"at":"1970-01-01T00:00:03.000Z","type":"attempt_started","trial":1,"case":"t_0_1","attempt":1,"slot":0,"pid":101,"run_s":0.0}"#
    );
    assert_eq!(
        text.lines().nth(4).unwrap(),
        r#"{"seq":5,"at":"1970-01-01T00:00:04.000Z","type":"attempt_ended","trial":1,"case":"t_0_1","attempt":1,"outcome":"failed","ended_at":"1970-01-01T00:00:04.000Z","exit_code":3,"signal":null,"wall_s":1.5,"cpu_s":1.25,"peak_rss_bytes":4096,"metrics":null,"outputs":null,"failure":{"kind":"exit_code","severity":"medium","reason":"bad\nthing","log_excerpt":"first line\nsecond \u001b[31mline"},"reason":null,"next":"again","due_at":"1970-01-01T00:01:39.000Z","run_s":0.0}"#
    );
    let array: Vec<Json> = serde_json::from_str(&event_dump(&story, Format::Json)).unwrap();
    assert_eq!(array, lines);
    insta::assert_snapshot!(event_dump(&story, Format::Text(Screen::PLAIN)), @r#"
    1  1970-01-01 00:00:00.000 +00:00  study_created    tiny by piton 0.1.0
    2  1970-01-01 00:00:01.000 +00:00  run_started      pid 4242 on here, 2 workers
    3  1970-01-01 00:00:02.000 +00:00  stage_opened     explore: 4 trials
    4  1970-01-01 00:00:03.000 +00:00  attempt_started  t_0_1 #1: slot 0, pid 101
    5  1970-01-01 00:00:04.000 +00:00  attempt_ended    t_0_1 #1: failed after 1.5 s: exit_code: bad\nthing, runs again
    6  1970-01-01 00:00:05.000 +00:00  drain_started    by SIGTERM
    7  1970-01-01 00:00:06.000 +00:00  run_ended        drained
    "#);
    insta::assert_snapshot!(event_dump(&story, Format::Csv), @r#"
    seq,at,type,trial,case,attempt,detail
    1,1970-01-01T00:00:00.000Z,study_created,,,,tiny by piton 0.1.0
    2,1970-01-01T00:00:01.000Z,run_started,,,,"pid 4242 on here, 2 workers"
    3,1970-01-01T00:00:02.000Z,stage_opened,,,,explore: 4 trials
    4,1970-01-01T00:00:03.000Z,attempt_started,1,t_0_1,1,"slot 0, pid 101"
    5,1970-01-01T00:00:04.000Z,attempt_ended,1,t_0_1,1,"failed after 1.5 s: exit_code: bad
    thing, runs again"
    6,1970-01-01T00:00:05.000Z,drain_started,,,,by SIGTERM
    7,1970-01-01T00:00:06.000Z,run_ended,,,,drained
    "#);
}

#[test]
fn at_an_earlier_event_the_dump_shows_that_moment() {
    let mut story = Story::new();
    story.complete();
    let (view, snapshot) = story.view(DEAD);
    let reader = crate::journal::replayed(&snapshot, 4).unwrap();
    let earlier = reader.snapshot().unwrap();
    let view = StudyView::load(&earlier, view.place, DEAD).unwrap();
    let dump: Json = serde_json::from_str(&written(|out| state(&view, &earlier, Format::Json, out))).unwrap();
    assert_eq!(dump["events"], 4);
    assert_eq!(dump["trials"][0]["state"], "running");
    assert_eq!(dump["stages"][1]["status"], "waiting");
}

#[test]
fn the_canonical_dump_does_not_see_interruptions_workers_or_time() {
    let mut through = Story::new();
    through.complete();
    // The same study, cut off again and again, out of order, on five workers.
    let mut cut = Story::told(5, "plain");
    cut.at_ms = 1_700_000_000_000;
    cut.run().open_explore();
    cut.start(3, 1).start(0, 1).interrupt(3, 1).interrupt(0, 1);
    cut.event(Event::DrainStarted { by: "SIGTERM".into() }).event(Event::RunEnded { how: RunEnd::Drained });
    cut.run().start(2, 1).fail(2, 1, "exited with code 3", Next::Again { due_ms: 0 });
    cut.run().start(2, 2).interrupt(2, 2).start(2, 3).fail(2, 3, "it took 3.2 s, then exited", Next::Final);
    cut.start(3, 2).succeed(3, 2, 100.0).start(1, 1).start(0, 2).interrupt(0, 2).succeed(1, 1, 300.5);
    cut.start(0, 3).succeed(0, 3, 200.0).close_explore();
    cut.start(5, 1).succeed(5, 1, 190.0).start(4, 1).interrupt(4, 1).run().start(4, 2).succeed(4, 2, 90.0);
    cut.event(Event::StageClosed { stage: 1, survivors: vec![parent(4, 2)] });
    cut.event(Event::StudyCompleted).event(Event::RunEnded { how: RunEnd::Completed });
    assert_eq!(canonically(&through), canonically(&cut));
    assert_ne!(dumped(&through, DEAD, Format::Json), dumped(&cut, DEAD, Format::Json));
    insta::assert_snapshot!(canonically(&through), @r#"
    {"canonical":1,
    "spec":{"params":{"label":"plain"},"stages":[{"name":"explore","objectives":[{"goal":"minimize","metric":"bytes"}],"outputs":["packed"],"sampling":"grid","selection":"top","survivor_count":2,"sweep":[{"domain":{"choices":["fast","small"]},"name":"mode"},{"domain":{"choices":[1,2.0]},"name":"level"}],"trial_budget":4,"work":{"argv":[{"parts":[{"text":"./pack.sh"}]},{"parts":[{"param":"mode"}]}]}},{"name":"confirm","objectives":[{"goal":"minimize","metric":"bytes"}],"outputs":["packed"],"sampling":"grid","selection":"top","survivor_count":1,"trial_budget":2,"work":{"argv":[{"parts":[{"text":"./pack.sh"}]},{"parts":[{"param":"mode"}]}]}}],"study":{"base_case":"t","name":"tiny","seed":7}},
    "stages":[
    {"cancelled":0,"failed":1,"index":0,"name":"explore","planned":4,"status":"closed","succeeded":3,"survivor_count":2,"survivors":["t_0_3","t_0_0"],"trial_budget":4},
    {"cancelled":0,"failed":0,"index":1,"name":"confirm","planned":2,"status":"closed","succeeded":2,"survivor_count":1,"survivors":["t_1_0"],"trial_budget":2}
    ],
    "study":{"abort_reason":null,"aborted":false,"inputs":[],"name":"tiny","seed":7,"spec_hash":"5bec","status":"completed","versions":{},"violating":[]},
    "trials":[
    {"case":"t_0_0","failure":null,"id":0,"metrics":{"bytes":200,"tool":"xz"},"outputs":{"packed":{"blake3":"1111111111111111111111111111111111111111111111111111111111111111","bytes":3}},"params":{"label":"plain","level":1,"mode":"fast"},"parent":"t","stage":0,"state":"succeeded","survivor":true},
    {"case":"t_0_1","failure":null,"id":1,"metrics":{"bytes":300.5,"tool":"xz"},"outputs":{"packed":{"blake3":"1111111111111111111111111111111111111111111111111111111111111111","bytes":3}},"params":{"label":"plain","level":2.0,"mode":"fast"},"parent":"t","stage":0,"state":"succeeded","survivor":false},
    {"case":"t_0_2","failure":"exit_code","id":2,"metrics":{},"outputs":{},"params":{"label":"plain","level":1,"mode":"small"},"parent":"t","stage":0,"state":"failed","survivor":false},
    {"case":"t_0_3","failure":null,"id":3,"metrics":{"bytes":100,"tool":"xz"},"outputs":{"packed":{"blake3":"1111111111111111111111111111111111111111111111111111111111111111","bytes":3}},"params":{"label":"plain","level":2.0,"mode":"small"},"parent":"t","stage":0,"state":"succeeded","survivor":true},
    {"case":"t_1_0","failure":null,"id":4,"metrics":{"bytes":90,"tool":"xz"},"outputs":{"packed":{"blake3":"1111111111111111111111111111111111111111111111111111111111111111","bytes":3}},"params":{"label":"plain","level":2.0,"mode":"small"},"parent":"t_0_3","stage":1,"state":"succeeded","survivor":true},
    {"case":"t_1_1","failure":null,"id":5,"metrics":{"bytes":190,"tool":"xz"},"outputs":{"packed":{"blake3":"1111111111111111111111111111111111111111111111111111111111111111","bytes":3}},"params":{"label":"plain","level":1,"mode":"fast"},"parent":"t_0_0","stage":1,"state":"succeeded","survivor":false}
    ]}
    "#);
}

#[test]
fn the_canonical_dump_sees_what_differs() {
    let mut one = Story::new();
    one.complete();
    let mut other = Story::told(2, "changed");
    other.complete();
    assert_ne!(canonically(&one), canonically(&other), "a param");
    let mut fewer = Story::new();
    fewer.run().open_explore().start(0, 1);
    let mut none = Story::new();
    none.run().open_explore();
    assert_eq!(canonically(&fewer), canonically(&none), "what runs is as what waits");
    fewer.succeed(0, 1, 200.0);
    assert_ne!(canonically(&fewer), canonically(&none), "a result");
}
