//! What is said of the cases of small studies, against their stories.

use serde_json::{Value as Json, json};

use super::*;
use crate::model::{Event, Next};
use crate::testing::story::{ALIVE, DEAD, Story, written};
use crate::views::{Liveness, Screen};

fn why(story: &Story, case: &str, liveness: Liveness) -> Why {
    let (view, snapshot) = story.view(liveness);
    Why::load(&view, &snapshot, case).unwrap()
}

fn said(story: &Story, case: &str) -> String {
    why(story, case, ALIVE).reason
}

#[test]
fn survivors_and_others_are_ranked_against_the_last_survivor() {
    let mut story = Story::new();
    story.complete();
    assert_eq!(
        said(&story, "t_0_1"),
        "it did not survive: ranked 3 of 3 by `bytes` (minimize): 300.5; the last survivor `t_0_0` (rank 2) had 200"
    );
    assert_eq!(
        said(&story, "t_0_3"),
        "it survived: ranked 1 of 3 by `bytes` (minimize): 100; the last survivor `t_0_0` (rank 2) had 200"
    );
    assert_eq!(
        said(&story, "t_0_0"),
        "it survived: ranked 2 of 3 by `bytes` (minimize): 200; it is the last survivor"
    );
    assert_eq!(said(&story, "t_0_2"), "it failed (exit_code): exited with code 3; failed trials never survive");
}

#[test]
fn unfinished_cases_say_what_they_wait_for() {
    let mut story = Story::new();
    story.run().open_explore().start(0, 1).succeed(0, 1, 200.0).start(1, 1);
    story.start(2, 1).fail(2, 1, "no", Next::Again { due_ms: 1_500 });
    assert_eq!(said(&story, "t_0_1"), "it runs");
    assert_eq!(why(&story, "t_0_1", DEAD).reason, "it ran when the engine ended; it will run again");
    assert_eq!(
        said(&story, "t_0_2"),
        "its last attempt failed (exit_code); it will run again, not before 1970-01-01 00:00:01 +00:00"
    );
    assert_eq!(said(&story, "t_0_3"), "it waits for its first attempt");
    assert_eq!(
        said(&story, "t_0_0"),
        "survivors are chosen when the stage closes; so far: ranked 1 of 1 by `bytes` (minimize): 200; undecided: 3 \
         trials unfinished, and any of them may change it"
    );
    story.interrupt(1, 1);
    assert_eq!(said(&story, "t_0_1"), "its last attempt was interrupted, which is no failure; it will run again");
    story.event(Event::StudyAborted { reason: "a rail".into(), violating: vec![] });
    assert_eq!(said(&story, "t_0_3"), "it was cancelled, because the study was aborted: a rail");
    assert_eq!(
        said(&story, "t_0_0"),
        "the study was aborted before survivors were chosen: ranked 1 of 1 by `bytes` (minimize): 200; undecided: 3 \
         trials never finished, and any of them might have changed it"
    );
}

#[test]
fn the_whole_story_of_a_case() {
    let mut story = Story::new();
    story.run().open_explore().start(3, 1).interrupt(3, 1).start(3, 2).succeed(3, 2, 100.0);
    story.start(0, 1).succeed(0, 1, 200.0).start(1, 1).succeed(1, 1, 300.5);
    story.start(2, 1).fail(2, 1, "exited with code 3\u{1b}[2J", Next::Final).close_explore().start(4, 1);
    let text = |case: &str| {
        let why = why(&story, case, ALIVE);
        // The seed is the plan's number, and tested there.
        written(|out| why.write_text(Screen { width: 80, color: false, unicode: true }, out))
            .replace(&why.seed.to_string(), "SEED")
    };
    insta::assert_snapshot!(text("t_0_3"), @r#"
    t_0_3: succeeded, survivor, trial 3 of stage 0 explore
    it survived: ranked 1 of 3 by `bytes` (minimize): 100; the last survivor `t_0_0` (rank 2) had 200

    lineage
      t_0_3  level=2.0 mode=small  bytes: 100, tool: xz
      t (base case)

    attempts
      #1  interrupted (SIGKILL)  1.5 s, 1.2 s CPU, 4.0 KiB
          began 1970-01-01 00:00:03 +00:00, /a/tiny/0_explore/t_0_3/attempt_1
          its engine ended
      #2  succeeded  1.5 s, 1.2 s CPU, 4.0 KiB
          began 1970-01-01 00:00:05 +00:00, /a/tiny/0_explore/t_0_3/attempt_2

    params label=plain level=2.0 mode=small
    seed SEED
    command ./pack.sh small
    "#);
    insta::assert_snapshot!(text("t_1_0"), @r#"
    t_1_0: running, trial 0 of stage 1 confirm
    it runs

    lineage
      t_1_0
      t_0_3  level=2.0 mode=small  bytes: 100, tool: xz
      t (base case)

    attempts
      #1  runs
          began 1970-01-01 00:00:15 +00:00, /a/tiny/1_confirm/t_1_0/attempt_1

    params label=plain level=2.0 mode=small
    seed SEED
    command ./pack.sh small
    "#);
    insta::assert_snapshot!(text("t_0_2"), @r#"
    t_0_2: failed, trial 2 of stage 0 explore
    it failed (exit_code): exited with code 3\u{1b}[2J; failed trials never survive
      | first line
      | second \u{1b}[31mline

    lineage
      t_0_2  level=1 mode=small
      t (base case)

    attempts
      #1  failed (exit code 3)  1.5 s, 1.2 s CPU, 4.0 KiB
          began 1970-01-01 00:00:11 +00:00, /a/tiny/0_explore/t_0_2/attempt_1

    params label=plain level=1 mode=small
    seed SEED
    command ./pack.sh small
    "#);
    for case in ["t_0_2", "t_1_1"] {
        assert!(!text(case).contains(|letter: char| letter.is_control() && letter != '\n'));
    }
    let json = written(|out| why(&story, "t_1_0", ALIVE).write_json(out));
    let json: Json = serde_json::from_str(&json).unwrap();
    assert_eq!(json["lineage"][1]["case"], "t_0_3");
    assert_eq!(json["lineage"][1]["params"], json!({"mode": "small", "level": 2.0}));
    assert_eq!(json["command"], json!(["./pack.sh", "small"]));
    assert_eq!(json["rank"], Json::Null);
    assert_eq!(json["attempts"][0]["outcome"], Json::Null);
}

#[test]
fn ranks_come_as_numbers_too() {
    let mut story = Story::new();
    story.complete();
    let json: Json = serde_json::from_str(&written(|out| why(&story, "t_0_1", DEAD).write_json(out))).unwrap();
    assert_eq!(
        json["rank"],
        json!({
            "rank": 3, "of": 3, "selection": "top",
            "objectives": [{"metric": "bytes", "goal": "minimize", "value": 300.5, "last_survivor": 200.0}],
            "weighted_sum": null, "front": null, "crowding": null, "equals": [], "same_as": null,
            "last_survivor": "t_0_0", "last_survivor_rank": 2, "decided": true, "unfinished": 0
        })
    );
}

#[test]
fn a_race_says_how_it_ended() {
    let said = |left, racing, over_after, decided| raced(&RaceSoFar { left, racing, over_after, decided });
    assert_eq!(
        said(3, 1, Some(14), true),
        "; 3 of the 4 cases that began left the race, which was decided after round 14"
    );
    assert_eq!(
        said(1, 3, Some(30), false),
        "; 1 of the 4 cases that began left the race, and its last round, 30, ended it with 3 in it"
    );
    assert_eq!(said(0, 4, None, false), "; 0 of the 4 cases that began left the race so far");
}

#[test]
fn an_unknown_case_gets_the_nearest_name() {
    let mut story = Story::new();
    story.run().open_explore();
    let (view, snapshot) = story.view(ALIVE);
    let error = |case: &str| Why::load(&view, &snapshot, case).unwrap_err().to_string();
    assert_eq!(error("t_0_12"), "there is no case `t_0_12`; did you mean `t_0_3`?");
    assert_eq!(error("t0_2"), "there is no case `t0_2`; did you mean `t_0_2`?");
    // Planned in a later stage only.
    assert_eq!(error("t_1_0"), "there is no case `t_1_0`; did you mean `t_0_0`?");
    assert_eq!(error("\u{1b}[2J"), "there is no case `\\u{1b}[2J`");
}

#[test]
fn a_time_that_nobody_knows_is_not_told() {
    let mut story = Story::new();
    story.run().open_explore().start(0, 1);
    let verdict = Verdict::Interrupted { reason: "its engine died".into() };
    let (trial, usage) = (TrialId(0), crate::model::Usage::default());
    let next = Next::Again { due_ms: 0 };
    let end = crate::model::AttemptEnd { trial, attempt: 1, ended_ms: 9_000, exit: None, usage, verdict, next };
    story.event(Event::AttemptEnded(Box::new(end))).start(1, 1).interrupt(1, 1);
    let text = |case| {
        written(|out| why(&story, case, DEAD).write_text(Screen { width: 0, color: false, unicode: true }, out))
    };
    assert!(text("t_0_0").contains("  #1  interrupted\n"), "{}", text("t_0_0"));
    assert!(text("t_0_1").contains("  #1  interrupted (SIGKILL)  1.5 s, 1.2 s CPU"), "{}", text("t_0_1"));
    let (view, snapshot) = story.view(DEAD);
    let table = written(|out| crate::views::dump::state(&view, &snapshot, crate::views::dump::Format::Csv, out));
    let row = table.lines().find(|line| line.contains("t_0_0")).unwrap();
    assert!(row.starts_with("0,0,explore,t_0_0,t,pending,false,1,,,,,false"), "{row}");
}
