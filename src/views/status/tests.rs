//! The status of small studies, on screens of every width.

use super::*;
use crate::model::{ExecutorKind, Next, RemoteJob, RunEnd, TrialId};
use crate::study_file::{ExecutorSpec, SlurmSpec};
use crate::sys::waiting::{CONTROL_DIR, Waiting};
use crate::testing::story::{ALIVE, DEAD, STUDY, Story, written};
use crate::views::text::Screen;
use crate::views::{Liveness, StudyLocation};

fn status(story: &Story, liveness: Liveness) -> Status {
    let (view, snapshot) = story.view(liveness);
    Status::load(&view, &snapshot, story.at_ms + 90_000).unwrap()
}

fn shown(status: &Status, width: u16) -> String {
    written(|out| status.write_text(Screen { width, color: false, unicode: true }, out))
}

fn busy() -> Story {
    let mut story = Story::new();
    story.run().open_explore().start(0, 1).succeed(0, 1, 200.0);
    story.start(2, 1).fail(2, 1, "exited with\u{1b}[2J code 3", Next::Final).start(3, 1);
    story
}

#[test]
fn a_running_study_on_one_screen() {
    insta::assert_snapshot!(shown(&status(&busy(), ALIVE), 80), @r#"
    tiny: running
    engine pid 4242 on here, 2 workers, ran 1 min 30 s in 1 run, 8 events,
    running since 1970-01-01 00:00:01 +00:00

    explore  open     [##########!!!!!!!!!!>>>>>>>>>>..........]  2 of 4 done
      1 succeeded, 1 failed, 1 running, 1 pending; 80 a minute; about 1–2 s left;
      best bytes 200 (t_0_0)
    confirm  waiting

    running
      t_0_3 #1  for 1 min 30 s  pid 103

    last failures
      t_0_2 #1  exit_code: exited with\u{1b}[2J code 3
        /a/tiny/0_explore/t_0_2/attempt_1/stderr.log
    "#);
    insta::assert_snapshot!(shown(&status(&busy(), ALIVE), 60), @r#"
    tiny: running
    engine pid 4242 on here, 2 workers, ran 1 min 30 s in 1 run,
    8 events, running since 1970-01-01 00:00:01 +00:00

    explore  open     [######!!!!!!>>>>>>.........]  2 of 4 done
      1 succeeded, 1 failed, 1 running, 1 pending; 80 a minute;
      about 1–2 s left; best bytes 200 (t_0_0)
    confirm  waiting

    running
      t_0_3 #1  for 1 min 30 s  pid 103

    last failures
      t_0_2 #1  exit_code: exited with\u{1b}[2J code 3
        /a/tiny/0_explore/t_0_2/attempt_1/stderr.log
    "#);
}

#[test]
fn a_dead_engine_is_said_with_the_command_that_goes_on() {
    let text = shown(&status(&busy(), DEAD), 80);
    assert!(text.starts_with("tiny: interrupted"), "{text}");
    assert!(text.contains("no engine"), "{text}");
    assert!(text.contains("they will run again\n  t_0_3 #1  pid 103\n"), "{text}");
    assert!(text.ends_with("to go on: piton resume tiny.redb\n"), "{text}");
    assert!(!text.contains("left"), "no ETA without an engine: {text}");
    let story = busy();
    let (mut view, snapshot) = story.view(DEAD);
    view.place = StudyLocation { store: "my runs/x.redb".into(), ..view.place };
    let status = Status::load(&view, &snapshot, 0).unwrap();
    assert_eq!(status.next_command.as_deref(), Some("piton resume 'my runs/x.redb'"));
}

#[test]
fn finished_studies_need_no_command() {
    let mut story = Story::new();
    story.complete();
    insta::assert_snapshot!(shown(&status(&story, DEAD), 80), @r#"
    tiny: completed
    no engine, ran 0 ms in 1 run, 20 events,
    last run 1970-01-01 00:00:01 +00:00 to 1970-01-01 00:00:19 +00:00

    explore  closed   [##############################!!!!!!!!!!]  4 of 4 done
      3 succeeded, 1 failed; best bytes 100 (t_0_3); 2 survivors
    confirm  closed   [########################################]  2 of 2 done
      2 succeeded; best bytes 90 (t_1_0); 1 survivor

    last failures
      t_0_2 #1  exit_code: exited with code 3
        /a/tiny/0_explore/t_0_2/attempt_1/stderr.log
    "#);
    let mut story = busy();
    story.event(Event::StudyAborted { reason: "too many\nfailures".into(), violating: vec![TrialId(2)] });
    let text = shown(&status(&story, DEAD), 80);
    assert!(text.starts_with("tiny: aborted: too many\\nfailures\n"), "{text}");
    assert!(!text.contains("to go on"), "{text}");
}

#[test]
fn a_new_study_says_so() {
    let text = shown(&status(&Story::new(), DEAD), 80);
    assert!(text.starts_with("tiny: not started yet\nno engine, ran 0 ms in 0 runs, 1 event\n"), "{text}");
}

#[test]
fn draining_is_said_while_the_engine_lives() {
    let mut story = busy();
    story.event(Event::DrainStarted { by: "SIGTERM".into() });
    assert!(shown(&status(&story, ALIVE), 80).starts_with("tiny: draining"));
    story.interrupt(3, 1).event(Event::RunEnded { how: RunEnd::Drained });
    assert!(shown(&status(&story, DEAD), 80).starts_with("tiny: interrupted"));
}

#[test]
fn before_anything_ended_there_is_no_eta() {
    assert_eq!(status(&Story::new(), ALIVE).stages[0].eta_s, None);
}

#[test]
fn failures_that_were_mended_since_are_not_told() {
    let told = |story: &Story| {
        let failures = status(story, ALIVE).last_failures;
        failures.into_iter().map(|failure| (failure.case, failure.attempt, failure.reason)).collect::<Vec<_>>()
    };
    let one = |case: &str, attempt, why: &str| (case.to_owned(), attempt, why.to_owned());
    let mut story = Story::new();
    story.run().open_explore();
    for (trial, attempt) in [(0, 1), (1, 1), (0, 2)] {
        let why = format!("no {attempt}");
        story.start(trial, attempt).fail(trial, attempt, &why, Next::Again { due_ms: 0 });
    }
    story.start(2, 1).fail(2, 1, "never", Next::Final);
    // The last attempt of each, and the last of them first.
    assert_eq!(told(&story), [one("t_0_2", 1, "never"), one("t_0_0", 2, "no 2"), one("t_0_1", 1, "no 1")]);
    story.start(0, 3).succeed(0, 3, 1.0).start(1, 2).interrupt(1, 2);
    assert_eq!(told(&story), [one("t_0_2", 1, "never"), one("t_0_1", 1, "no 1")]);
    story.event(Event::TrialReset { trial: TrialId(2) });
    assert_eq!(told(&story), [one("t_0_1", 1, "no 1")]);
}

#[test]
fn what_nobody_cut_off_is_not_called_interrupted() {
    let mut story = busy();
    story.succeed(3, 1, 9.0).event(Event::StudyAborted { reason: "a rail".into(), violating: vec![] });
    story.event(Event::RunEnded { how: RunEnd::Aborted }).event(Event::TrialReset { trial: TrialId(2) });
    let text = shown(&status(&story, DEAD), 80);
    assert!(text.starts_with("tiny: ready to go on; "), "{text}");
    assert!(text.ends_with("to go on: piton resume tiny.redb\n"), "{text}");
    story.run();
    assert!(shown(&status(&story, DEAD), 80).starts_with("tiny: interrupted; "));
}

#[test]
fn json_has_every_key() {
    let status = status(&busy(), ALIVE);
    let json: serde_json::Value = serde_json::from_str(&written(|out| status.write_json(out))).unwrap();
    assert_eq!(json["stages"][0]["best"], serde_json::json!({"metric":"bytes","value":200.0,"case":"t_0_0"}));
    assert_eq!(json["running"][0]["elapsed_s"], 90.0);
    assert_eq!(json["last_failures"][0]["log"], "/a/tiny/0_explore/t_0_2/attempt_1/stderr.log");
    assert_eq!(json["next_command"], serde_json::Value::Null);
}

#[test]
fn every_width_is_kept_and_nothing_hostile_passes() {
    let status = status(&busy(), ALIVE);
    for width in (0..=200).step_by(5).chain([1, 59, 61, u16::MAX]) {
        let text = shown(&status, width);
        assert!(!text.contains(|letter: char| letter.is_control() && letter != '\n'), "width {width}");
        let limit = if width == 0 { usize::MAX } else { usize::from(width).max(20) };
        let log_path = |line: &&str| !line.contains("stderr.log");
        let longest = text.lines().filter(log_path).map(|line| line.chars().count()).max().unwrap();
        assert!(longest <= limit, "width {width}: {longest}\n{text}");
    }
    let colored = written(|out| status.write_text(Screen { width: 80, color: true, unicode: true }, out));
    assert!(colored.contains("\u{1b}[32mrunning\u{1b}[0m"));
}

#[test]
fn bars_add_up_and_show_whatever_is_there() {
    let mut stage = status(&Story::new(), ALIVE).stages[0].clone();
    let mut bar = |expected, succeeded, failed, running, width| {
        stage.expected = expected;
        stage.trials = StageTrials { succeeded, failed, running, ..StageTrials::default() };
        stage.bar(width)
    };
    assert_eq!(bar(1_000, 500, 1, 2, 10), "#####!>...");
    assert_eq!(bar(3, 3, 0, 0, 7), "#######");
    assert_eq!(bar(u64::MAX, u64::MAX - 1, 1, 0, 6).len(), 6);
}

/// A trial of each kind on a cluster: it waits, and it runs.
fn on_slurm() -> Story {
    let mut story = Story::new();
    story.run().open_explore();
    for trial in [0, 1] {
        let (trial, slot, executor) = (TrialId(trial), 0, ExecutorKind::Slurm);
        story.event(Event::AttemptStarted { trial, attempt: 1, slot, process: None, executor });
        let (id, begun) = (format!("7{trial}"), trial.0 == 1);
        let (node, started_ms) = (begun.then(|| "n1".to_owned()), begun.then_some(5_000));
        story.event(Event::AttemptPlaced { trial, attempt: 1, job: RemoteJob { executor, id, node, started_ms } });
    }
    story
}

#[test]
fn why_jobs_wait_is_said_while_it_is_known() {
    let (story, artifacts) = (on_slurm(), tempfile::tempdir().unwrap());
    let control = artifacts.path().join("tiny").join(CONTROL_DIR);
    std::fs::create_dir_all(&control).unwrap();
    let now_ms = story.at_ms + 90_000;
    let note = |seen_ms| {
        let jobs = [(0, "Re\u{1b}[2Jsources"), (1, "Priority"), (9, "Priority")];
        let jobs = jobs.iter().map(|(trial, reason)| (TrialId(*trial), 1, *reason));
        Waiting::new(STUDY, seen_ms, jobs).leave(&artifacts.path().join("tiny")).unwrap();
    };
    let looked = |liveness| {
        let (mut view, snapshot) = story.view(liveness);
        view.place.artifacts_dir = artifacts.path().to_owned();
        Status::load(&view, &snapshot, now_ms).unwrap()
    };
    assert_eq!(looked(ALIVE).cluster_queue, None);
    note(now_ms - 2_000);
    let status = looked(ALIVE);
    // What runs by the journal waits for nothing.
    let reasons: Vec<_> = status.running.iter().map(|running| running.pending_reason.as_deref()).collect();
    assert_eq!(reasons, [Some("Re\u{1b}[2Jsources"), None]);
    let text = shown(&status, 80);
    let queue = text.lines().skip_while(|line| *line != "running").collect::<Vec<_>>().join("\n");
    insta::assert_snapshot!(queue, @r"
    running
      t_0_0 #1  queued for 1 min 33 s, slurm 70: Re\u{1b}[2Jsources
      t_0_1 #1  for 1 min 31 s on n1, slurm 71, after 0 ms in the queue
      in the queue: 2 Priority, 1 Re\u{1b}[2Jsources
    ");
    let json: serde_json::Value = serde_json::from_str(&written(|out| status.write_json(out))).unwrap();
    assert_eq!(json["cluster_queue"]["reasons"]["Priority"], 2);
    assert_eq!(looked(DEAD).cluster_queue, None, "nobody asks the cluster");
    note(now_ms - 301_000);
    assert_eq!(looked(ALIVE).cluster_queue, None, "it is old");
}

#[test]
fn the_pace_on_a_cluster_is_what_was_seen_of_it() {
    let mut story = Story::new();
    story.run().open_explore();
    for attempt in 1..=5 {
        story.start(0, attempt).fail(0, attempt, "no", Next::Again { due_ms: 0 });
    }
    let paced = |executor| {
        let (mut view, snapshot) = story.view(ALIVE);
        view.spec.run.executor = executor;
        let status = Status::load(&view, &snapshot, story.at_ms + 9_000).unwrap();
        (status.stages[0].per_minute.unwrap().round(), status.stages[0].eta_s.unwrap())
    };
    // Each took 1.5 s on one of two workers; five ended in 20 s.
    let (near, [_, soon]) = paced(ExecutorSpec::Local);
    let (far, [later, _]) = paced(ExecutorSpec::Slurm(SlurmSpec::default()));
    assert_eq!((near, far), (80.0, 15.0));
    assert!(later > soon, "{later} {soon}");
}

#[test]
fn workers_far_above_the_trials_do_not_stretch_the_time_left() {
    let mut story = Story::told(1_000, "plain");
    story.run().open_explore();
    for attempt in 1..=5 {
        story.start(0, attempt).fail(0, attempt, "no", Next::Again { due_ms: 0 });
    }
    story.start(1, 1).start(2, 1);
    let paced = |executor| {
        let (mut view, snapshot) = story.view(ALIVE);
        view.spec.run.executor = executor;
        let status = Status::load(&view, &snapshot, story.at_ms + 7_000).unwrap();
        (status.stages[0].per_minute.unwrap().round(), status.stages[0].eta_s.unwrap())
    };
    // Each took 1.5 s; five ended in 20 s, and no more than the four trials of the stage were ever busy.
    let (_, [_, here]) = paced(ExecutorSpec::Local);
    assert_eq!(here, 1.8);
    let there = paced(ExecutorSpec::Slurm(SlurmSpec::default()));
    assert_eq!(there, (15.0, [12.0, 19.2]));
}
