//! What real clusters did: lists that hide, nodes that start nothing, jobs that are put back, troubles that flip.

use super::*;
use crate::model::FailureKind;

#[test]
fn what_is_hidden_and_gives_signs_of_life_runs() {
    let mut bench = Bench::new(SILENT);
    for trial in 0..3 {
        bench.begin(trial);
        bench.world().start(trial as usize);
    }
    bench.world().hides = 100;
    for _ in 0..40 {
        bench.world().pass(3);
        bench.watcher.poll();
    }
    assert!(bench.world().jobs.iter().all(|job| job.lives && !job.control.is_cancelled()));
    let told: Vec<String> = bench
        .events
        .try_iter()
        .filter_map(|event| match event {
            ExecutorEvent::Cluster { trouble } => Some(trouble.unwrap_or_default()),
            ExecutorEvent::Ended(report) => panic!("{report:?}"),
            _ => None,
        })
        .collect();
    assert_eq!(told, ["it may not tell all: its list shows none of 3 jobs that it took"]);
    // One dies, and no list says so.
    bench.world().die(1);
    for _ in 0..6 {
        bench.world().pass(3);
        bench.watcher.poll();
    }
    assert_eq!(bench.kinds(), [(1, Why::Unknown.words().to_owned())]);
    bench.world().finish(0);
    bench.world().pass(15);
    bench.watcher.poll();
    assert_eq!(bench.kinds(), [(0, "succeeded".to_owned())]);
}

#[test]
fn what_is_hidden_and_waits_is_not_submitted_over_and_over() {
    let mut bench = Bench::new(SILENT);
    bench.begin(0);
    bench.begin(1);
    bench.world().hides = 100;
    for _ in 0..400 {
        bench.world().pass(1);
        bench.watcher.poll();
        bench.watcher.submit();
    }
    // After 15, 45, 105, 225 s.
    let made = bench.world().jobs.len();
    assert!((6..=12).contains(&made), "{made} jobs for two trials");
    bench.world().start(0);
    bench.world().start(2);
    assert!(bench.kinds().is_empty());
}

/// What a node does is no failure of a trial, and a cluster where nothing starts ends the run.
#[test]
fn jobs_that_cannot_start_are_interrupted_and_end_the_run_when_there_are_enough() {
    let mut bench = Bench::new(SILENT);
    let fail = |bench: &mut Bench, trial: u64, node: &str| {
        bench.begin(trial);
        let mut world = bench.world();
        let job = world.jobs.last_mut().unwrap();
        (job.state, job.node) = (JobState::Over(Why::Ended), Some(node.to_owned()));
        job.said = Some("exit code 126".to_owned());
        drop(world);
        bench.world().pass(1);
        bench.watcher.poll();
    };
    fail(&mut bench, 0, "n1");
    assert_eq!(bench.kinds(), [(0, "the job could not start on n1: exit code 126".to_owned())]);
    fail(&mut bench, 1, "n2");
    fail(&mut bench, 2, "n3");
    assert_eq!(bench.world().avoided, ["n1", "n2", "n3"]);
    let broken = bench.events.try_iter().filter_map(|event| match event {
        ExecutorEvent::Broken(why) => Some(why),
        _ => None,
    });
    let expected =
        "jobs cannot start: on n1: exit code 126; on n2: exit code 126; on n3: exit code 126".to_owned();
    assert_eq!(broken.collect::<Vec<_>>(), [expected]);
    assert!(!bench.watcher.may_submit());
}

#[test]
fn a_result_of_a_job_that_is_held_again_counts_at_once_and_the_job_goes() {
    let mut bench = Bench::new(SILENT);
    bench.begin(0);
    bench.begin(1);
    bench.world().start(0);
    bench.world().finish(0);
    bench.world().start(1);
    {
        let mut world = bench.world();
        (world.jobs[0].state, world.jobs[1].state) = (JobState::Held, JobState::Requeued);
        world.jobs[1].lives = false;
    }
    bench.watcher.poll();
    assert_eq!(bench.kinds(), [(0, "succeeded".to_owned())]);
    assert_eq!(bench.world().cancelled.len(), 1);
    // The other one was cut off when its job was put back.
    bench.world().pass(16);
    bench.watcher.poll();
    assert_eq!(bench.kinds(), [(1, Why::Requeued.words().to_owned())]);
    // A node that failed to start one.
    bench.begin(2);
    let job = bench.world().jobs.len() - 1;
    bench.world().jobs[job].state = JobState::Held;
    bench.watcher.poll();
    assert!(bench.kinds().is_empty(), "somebody holds it");
    bench.world().jobs[job].said = Some("Slurm says `launch failed requeued held`".to_owned());
    bench.watcher.poll();
    assert_eq!(
        bench.kinds(),
        [(2, "the job could not start: Slurm says `launch failed requeued held`".to_owned())]
    );
}

#[test]
fn what_slurm_wrote_when_it_ended_a_job_counts_when_it_has_forgotten_the_job() {
    for (line, kind) in [
        (
            "slurmstepd-n1: error: *** JOB 7 ON n1 CANCELLED AT 2026-12-01T00:00:00 DUE TO TIME LIMIT ***",
            "timeout",
        ),
        (
            "slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 2026-12-01T00:00:00 DUE TO PREEMPTION ***",
            "its job was preempted",
        ),
        ("slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 2026-12-01T00:00:00 ***", "its job was cancelled"),
        ("DUE TO TIME LIMIT", "asked"),
    ] {
        let mut bench = Bench::new(SILENT);
        bench.begin(0);
        bench.world().start(0);
        let control = bench.world().jobs[0].control.clone();
        std::fs::write(control.log(), format!("{line}\n")).unwrap();
        control.cancel().unwrap();
        bench.world().finish(0);
        bench.world().jobs.clear();
        bench.watcher.poll();
        assert_eq!(bench.kinds(), [(0, kind.to_owned())], "{line}");
    }
}

#[test]
fn a_child_that_slurm_killed_for_its_memory_is_no_exit_code() {
    for (state, kind) in [(Why::OutOfMemory, "out_of_memory"), (Why::Ended, "exit_code")] {
        let mut bench = Bench::new(SILENT);
        bench.begin(0);
        bench.world().start(0);
        let verdict = Verdict::Failed(failure(FailureKind::ExitCode, "exit code 137"));
        let (usage, ended_ms, attempt) = (Usage::default(), 9, 1);
        let report = AttemptReport {
            trial: TrialId(0),
            attempt,
            ended_ms,
            exit: None,
            usage,
            verdict,
            shown: Default::default(),
        };
        bench.world().jobs[0].control.end(&Outcome::of(report)).unwrap();
        bench.world().jobs[0].state = JobState::Over(state);
        bench.watcher.poll();
        assert_eq!(bench.kinds(), [(0, kind.to_owned())]);
    }
}

/// Slurm answers whoever asks for the list, and takes no jobs: that is one trouble, not one an attempt.
#[test]
fn a_trouble_that_comes_and_goes_is_told_once() {
    let mut bench = Bench::new(SILENT);
    bench.world().refuses = Some(ClusterError::Unreachable("QOSMaxSubmitJobPerUserLimit".to_owned()));
    bench.begin(0);
    for _ in 0..60 {
        bench.world().pass(1);
        bench.watcher.poll();
        if bench.watcher.may_submit() {
            bench.watcher.submit();
        }
    }
    let told = |bench: &Bench| {
        let told = bench.events.try_iter().filter_map(|event| match event {
            ExecutorEvent::Cluster { trouble } => Some(trouble),
            _ => None,
        });
        told.collect::<Vec<_>>()
    };
    assert_eq!(told(&bench), [Some("it takes no jobs now: QOSMaxSubmitJobPerUserLimit".to_owned())]);
    bench.world().refuses = None;
    bench.world().pass(30);
    bench.watcher.poll();
    bench.watcher.submit();
    assert_eq!(told(&bench), [None]);
    assert_eq!(bench.world().queued().len(), 1);
}

#[test]
fn nobody_who_never_answered_is_waited_for_without_an_end() {
    for (known, broken) in [(false, true), (true, false)] {
        let mut bench = Bench::new(SILENT);
        bench.watcher.known = known;
        bench.watcher.not_listed(ClusterError::Stranger("nobody".to_owned(), SILENT));
        assert!(!bench.watcher.told_broken);
        bench.world().pass(20);
        bench.watcher.not_listed(ClusterError::Stranger("nobody".to_owned(), SILENT));
        assert_eq!(bench.watcher.told_broken, broken);
    }
}

#[test]
fn a_note_says_why_jobs_wait_and_goes_with_the_watcher() {
    let mut bench = Bench::new(LONG);
    let artifacts = bench.root.path().to_owned();
    let read = || Waiting::read(&artifacts, STUDY, unix_ms());
    // Of an engine that was killed.
    let old = Waiting::new(STUDY, unix_ms(), [(TrialId(7), 1, "Dependency")].into_iter());
    old.leave(&artifacts).unwrap();
    for trial in 0..3 {
        bench.begin(trial);
    }
    bench.world().start(1);
    bench.watcher.poll();
    let note = read().unwrap();
    let reasons: Vec<_> = [0, 1, 2, 7].map(|trial| note.reason(TrialId(trial), 1).map(str::to_owned)).into();
    let waits = || Some("Resources".to_owned());
    assert_eq!(reasons, [waits(), None, waits(), None]);
    assert_eq!(note.reasons, BTreeMap::from([("Resources".to_owned(), 2)]));
    for trial in [0, 2] {
        bench.world().start(trial);
    }
    bench.watcher.poll();
    assert_eq!(read(), None, "nothing waits");
    bench.begin(3);
    bench.watcher.poll();
    assert!(read().is_some());
    bench.tell(Command::Drain);
    bench.watcher.take_note_away();
    assert_eq!(read(), None);
}

#[test]
fn who_cancelled_a_job_is_said_where_the_cluster_tells() {
    for (by, words) in
        [(None, "its job was cancelled"), (Some("ada (7)"), "its job was cancelled by user ada (7)")]
    {
        let mut bench = Bench::new(SILENT);
        for trial in 0..3 {
            bench.begin(trial);
        }
        // It waited, it was asked to end and said so, and it died at once.
        bench.world().start(1);
        bench.world().jobs[1].control.cancel().unwrap();
        bench.world().finish(1);
        bench.world().start(2);
        for job in &mut bench.world().jobs {
            (job.state, job.lives, job.by) = (JobState::Over(Why::Cancelled), false, by.map(str::to_owned));
        }
        bench.watcher.poll();
        bench.world().pass(16);
        bench.watcher.poll();
        let expected = [0, 1, 2].map(|trial| (trial, words.to_owned()));
        assert_eq!(bench.kinds(), expected);
    }
}

#[test]
fn nobody_is_blamed_for_what_piton_cancelled() {
    let cancelled = "its job was cancelled".to_owned();
    let over = |bench: &Bench| {
        for job in &mut bench.world().jobs {
            (job.state, job.lives, job.by) = (JobState::Over(Why::Cancelled), false, Some("ada (7)".into()));
        }
    };
    // Asked in this run; whether the cluster told before makes no difference.
    for told_before in [false, true] {
        let mut bench = Bench::new(SILENT);
        bench.begin(0);
        bench.world().start(0);
        if told_before {
            over(&bench);
            bench.watcher.poll();
        }
        bench.tell(Command::Terminate);
        over(&bench);
        bench.watcher.poll();
        bench.world().pass(16);
        bench.watcher.poll();
        assert_eq!(bench.kinds(), [(0, cancelled.clone())]);
        assert_eq!(bench.world().asked_who, vec![1; usize::from(told_before)]);
    }
    // Asked in a run before: one that ran, and one that never began.
    let mut bench = Bench::new(SILENT);
    for trial in 0..2 {
        bench.begin(trial);
    }
    bench.world().start(0);
    for job in &bench.world().jobs {
        job.control.cancel().unwrap();
    }
    over(&bench);
    (bench.watcher, bench.events) = Bench::watcher(bench.root.path(), &bench.world, SILENT);
    for trial in 0..2 {
        let job = job(bench.root.path(), trial, 1);
        bench.tell(Command::Adopt(job));
    }
    bench.watcher.poll();
    bench.world().pass(16);
    bench.watcher.poll();
    let mut heard = bench.kinds();
    heard.sort();
    assert_eq!(heard, [(0, cancelled.clone()), (1, cancelled)]);
    assert!(bench.world().asked_who.is_empty());
}

#[test]
fn who_cancelled_is_asked_only_of_attempts_whose_end_is_not_reported() {
    let mut bench = Bench::new(SILENT);
    for trial in 0..3 {
        bench.begin(trial);
    }
    bench.world().start(2);
    for job in &mut bench.world().jobs[..2] {
        (job.state, job.by) = (JobState::Over(Why::Cancelled), Some("ada (7)".into()));
    }
    for _ in 0..3 {
        bench.watcher.poll();
    }
    assert_eq!(bench.kinds().len(), 2);
    assert_eq!(bench.world().asked_who, [2]);
}

#[test]
fn asking_who_cancelled_does_not_count_as_the_lists_time() {
    for (list_s, who_s, rest_s) in [(0, 100, 1), (2, 0, 20), (2, 100, 20)] {
        let mut bench = Bench::new(SILENT);
        bench.begin(0);
        {
            let mut world = bench.world();
            (world.list_s, world.who_s) = (list_s, who_s);
            world.jobs[0].state = JobState::Over(Why::Cancelled);
        }
        bench.watcher.poll();
        assert_eq!(bench.world().asked_who, [1]);
        assert_eq!(bench.watcher.poll_at - bench.watcher.now(), Duration::from_secs(rest_s));
    }
}
