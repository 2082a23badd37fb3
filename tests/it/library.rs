//! The library: closures, the shutdown handle, callbacks, and that a closure study is a study like any other.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use piton::model::StudyStatus;
use piton::program::engine::resume::ResumeDecision;
use piton::{
    Consent, Error, Keeper, Limits, Metric, Metrics, Range, Reader, ReplayOptions, Retry, Spec, Stage, Stop,
    Store, Study, TrialError, verify,
};

use crate::harness::Sandbox;

fn spec() -> Spec {
    spec_with(7)
}

fn spec_with(seed: u64) -> Spec {
    Study::builder("parabola")
        .seed(seed)
        .stage(
            Stage::unbound("explore")
                .budget(9)
                .survivors(2)
                .range("x", Range::float(-2.0..=2.0).steps(9))
                .minimize("y"),
        )
        .stage(Stage::unbound("confirm").budget(2).survivors(1).minimize("y"))
        .spec()
        .unwrap()
}

/// The same with many trials, for stopping in the middle.
fn long_spec() -> Spec {
    let explore =
        Stage::unbound("explore").budget(500).survivors(2).range("x", Range::float(-2.0..=2.0).steps(500));
    let confirm = Stage::unbound("confirm").budget(2).survivors(1).minimize("y");
    Study::builder("parabola").stage(explore.minimize("y")).stage(confirm).spec().unwrap()
}

fn y(x: f64) -> Result<Metrics, TrialError> {
    Ok(Metrics::from([("y".to_owned(), Metric::Number((x - 1.0).powi(2)))]))
}

#[test]
fn closures_run_through_the_same_engine_and_journal() {
    let sandbox = Sandbox::new();
    let runs = Arc::new(AtomicU32::new(0));
    let run = || {
        let (a, b) = (Arc::clone(&runs), Arc::clone(&runs));
        Study::new(spec())
            .store(sandbox.path("study.redb"))
            .closure("explore", move |trial| {
                a.fetch_add(1, Ordering::SeqCst);
                y(trial.float("x")?)
            })
            .closure("confirm", move |trial| {
                b.fetch_add(1, Ordering::SeqCst);
                y(trial.float("x")?)
            })
            .run()
            .unwrap()
    };
    assert_eq!(run().status, StudyStatus::Completed);
    assert_eq!(runs.load(Ordering::SeqCst), 11);
    assert_eq!(run().decision, ResumeDecision::AlreadyCompleted);
    assert_eq!(runs.load(Ordering::SeqCst), 11, "nothing runs twice");

    // x = -2, -1.5, …, 2: the best are x = 1 (number 6), then 0.5 and 1.5 (numbers 5 and 7), the lower number first.
    let dump = sandbox.dump();
    assert_eq!(dump["stages"][0]["survivors"], serde_json::json!(["parabola_0_6", "parabola_0_5"]));
    assert_eq!(dump["stages"][1]["survivors"], serde_json::json!(["parabola_1_0"]));
    sandbox.ok("verify study.redb", 0);
    sandbox.ok("why study.redb parabola_0_7", 0);
    assert_eq!(sandbox.run("resume study.redb").status.code(), Some(0), "a finished study needs no closure");
}

/// The whole of it from code: stages with their closures, metrics in a line, survivors in the outcome.
#[test]
fn a_study_in_code_needs_nothing_else() {
    let sandbox = Sandbox::new();
    let explore = Stage::closure("explore", |trial| Ok([("y", (trial.float("x")? - 1.0).powi(2))]));
    let confirm = Stage::closure("confirm", |trial| {
        let x = trial.float("x")?;
        Ok([("y", Metric::from((x - 1.0).powi(2))), ("side", if x < 1.0 { "left" } else { "right" }.into())])
    });
    let explore = explore.budget(9).survivors(2).range("x", Range::float(-2.0..=2.0).steps(9)).minimize("y");
    let confirm = confirm.budget(2).survivors(1).minimize("y");
    let study = || {
        let study = Study::builder("parabola").seed(7).stage(explore.clone()).stage(confirm.clone());
        study.build().unwrap().store(sandbox.path("study.redb"))
    };
    let outcome = study().run().unwrap();
    let [winner] = &outcome.survivors[..] else { panic!("{outcome:?}") };
    assert_eq!((winner.case.as_str(), winner.params["x"].to_string().as_str()), ("parabola_1_0", "1.0"));
    assert_eq!(winner.metrics, Metrics::from([("side".into(), "right".into()), ("y".into(), 0.0.into())]));
    assert_eq!(study().run().unwrap().survivors, outcome.survivors, "also of a study that is over");
    // It is the study of the same spec.
    let same = Study::new(spec()).store(sandbox.path("study.redb")).run().unwrap();
    assert_eq!(same.decision, ResumeDecision::AlreadyCompleted);
}

/// What the commands do to a store, a program does, too.
#[test]
fn a_store_is_approved_retried_and_verified_from_code() {
    let sandbox = Sandbox::new();
    let run = || {
        let explore = Stage::closure("explore", |trial| {
            let x = trial.int("x")?;
            if x == 3 { Err("no three")? } else { Ok([("y", x as f64)]) }
        });
        let confirm = Stage::closure("confirm", |_| Ok(Metrics::new())).budget(1).survivors(1).approve();
        let explore =
            explore.budget(3).survivors(2).range("x", Range::int(1..=3)).minimize("y").max_failure_rate(0.2);
        let built = Study::builder("kept").stage(explore).stage(confirm).build().unwrap();
        built.store(sandbox.path("study.redb")).run().unwrap()
    };
    let store = Store::at(sandbox.path("study.redb"));
    // Five trials are needed before the rate counts: nothing aborts.
    assert!(run().waits_for_approval());
    let waits = store.retry(Retry::FailedOf("confirm")).unwrap_err().to_string();
    assert!(waits.contains("stage `confirm` has not begun"), "{waits}");
    let wrong = store.approve(Some("explore"), "ada", "").unwrap_err();
    assert_eq!((wrong.to_string().as_str(), wrong.exit_code()), ("stage `explore` needs no approval", 2));
    assert_eq!(store.approve(None, "ada", "looks good").unwrap(), "confirm");
    assert!(run().is_completed());
    assert_eq!(store.verify().unwrap().differences(), 0);
    assert_eq!(store.survivors().unwrap()[0].case, "kept_1_0");
    let names = store.export(&sandbox.path("all")).unwrap();
    assert!(names.iter().all(|name| crate::harness::exists(&sandbox.path("all").join(name))), "{names:?}");
    let mut status = Vec::new();
    store.status().unwrap().write_json(&mut status).unwrap();
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&status).unwrap()["status"], "completed");
}

/// A plan says what an amendment costs, and no result goes without consent.
#[test]
fn a_study_is_amended_from_code() {
    let sandbox = Sandbox::new();
    let study = |budget: u32, power: i32| {
        let explore =
            Stage::closure("explore", move |trial| Ok([("y", (trial.int("x")? as f64 - 3.0).powi(power))]));
        let explore = explore
            .budget(budget.into())
            .survivors(1)
            .range("x", Range::int(1..=i64::from(power) + 9))
            .minimize("y");
        Study::builder("parabola").stage(explore).build().unwrap().store(sandbox.path("study.redb"))
    };
    assert!(study(4, 2).run().unwrap().is_completed());
    let store = Store::at(sandbox.path("study.redb"));
    let events = || store.status().unwrap().events;
    let before = events();
    // The same is nothing to do.
    let same = study(4, 2);
    let plan = store.amend(&same).unwrap();
    assert!(plan.is_empty() && plan.refuse().is_ok());
    plan.apply(Consent::KeepResults).unwrap();
    // Another range alters results, from the first stage on.
    let other = study(4, 4);
    let plan = store.amend(&other).unwrap();
    assert_eq!(plan.altered_from(), Some("explore"));
    // Nobody else has the store meanwhile.
    assert_eq!(store.amend(&other).unwrap_err().exit_code(), 5);
    let refused = plan.apply(Consent::Discard).unwrap_err();
    assert!(matches!(&refused, Error::AltersResults { stage, .. } if stage == "explore"), "{refused}");
    let plan = || store.amend(&other).unwrap().discarding_from("explore");
    assert!(
        store
            .amend(&other)
            .unwrap()
            .discarding_from("later")
            .unwrap_err()
            .to_string()
            .contains("no stage `later`")
    );
    assert_eq!(plan().unwrap().discarded()[0].finished, 4);
    let kept = plan().unwrap().apply(Consent::KeepResults).unwrap_err();
    assert!(kept.to_string().contains("none may go"), "{kept}");
    // A plan that is only looked at leaves the store as it was.
    drop(plan());
    assert_eq!(events(), before);
    plan().unwrap().apply(Consent::Discard).unwrap();
    assert!(events() > before);
    let outcome = study(4, 4).run().unwrap();
    assert!(outcome.is_completed(), "{outcome:?}");
    assert_eq!(store.verify().unwrap().differences(), 0);
}

/// What else the commands do: compare, report, compact, run a trial again, stop.
#[test]
fn a_store_is_compared_reported_and_replayed_from_code() {
    let sandbox = Sandbox::new();
    let study = |scale: i64| {
        let line = format!(
            "echo m > said; echo printed; echo \"{{{{\\\"y\\\": $(({{n}} * {scale}))}}}}\" > metrics.json"
        );
        let only = Stage::shell("only", &line).budget(3).survivors(1).range("n", Range::int(1..=3)).minimize("y");
        Study::builder("shown").stage(only).build().unwrap()
    };
    let (old, new) = (Store::at(sandbox.path("old.redb")), Store::at(sandbox.path("new.redb")));
    assert!(study(1).store(sandbox.path("old.redb")).artifacts(sandbox.path("a")).run().unwrap().is_completed());
    assert!(study(2).store(sandbox.path("new.redb")).artifacts(sandbox.path("b")).run().unwrap().is_completed());
    let written = old.write_baseline(&sandbox.path("base.json"), None, &Limits::default()).unwrap();
    assert_eq!((written.trials, written.unfinished), (3, 0));
    // Against the file and the store alike.
    for baseline in ["base.json", "old.redb"] {
        let compare = new.compare(&sandbox.path(baseline), None, Limits::default()).unwrap();
        assert_eq!((compare.names(), compare.baseline_study().as_str()), (("shown", "only"), "shown"));
        let mut worse = Vec::new();
        let totals = compare.run(&mut |row| {
            worse.extend(row.regression.then(|| row.case.clone()));
            Ok(())
        });
        assert_eq!((totals.unwrap().regressions, worse.len()), (3, 3), "{worse:?}");
    }
    let unknown = new.compare(&sandbox.path("base.json"), Some("onlyy"), Limits::default()).unwrap_err();
    assert!(unknown.to_string().contains("did you mean `only`"), "{unknown}");
    let page = new.report_page(&sandbox.path(".")).unwrap();
    assert!(String::from_utf8(page).unwrap().contains("b/shown"));
    new.report(&sandbox.path("page.html")).unwrap();
    assert!(new.compact().unwrap().after_bytes > 0);
    // The trial runs again elsewhere, and does the same.
    let replay = new.replay("shown_0_1", ReplayOptions::default()).unwrap();
    assert!(replay.notes().is_empty(), "{:?}", replay.notes());
    let (dir, mut log) = (replay.dir().to_owned(), replay.log(piton::views::logs::Stream::Stdout));
    let end = replay.run(Keeper::start().unwrap(), &mut || {}).unwrap();
    assert_eq!((end.differences.as_deref(), end.kept_dir()), (Some(&[][..]), None));
    assert_eq!(log.read_more(), b"printed\n");
    drop(end);
    assert!(!dir.exists());
    // Nobody is there to be stopped.
    assert!(!new.stop(Stop::Drain).unwrap());
    assert_eq!(new.running_on_cluster().unwrap(), None);
}

#[test]
fn a_closure_that_no_stage_needs_is_refused() {
    let sandbox = Sandbox::new();
    let study = Study::new(spec()).closure("explore", |_| y(0.0)).closure("confirm", |_| y(0.0));
    let error = study.store(sandbox.path("study.redb")).closure("second", |_| y(0.0)).run().unwrap_err();
    assert_eq!(error.exit_code(), 2);
    let words = "the study has no stage `second` whose trials are a closure; it has explore, confirm";
    assert_eq!(error.to_string(), words);
    assert!(!crate::harness::exists(&sandbox.path("study.redb")), "nothing was made");
}

#[test]
fn a_panic_fails_its_trial_only() {
    let sandbox = Sandbox::new();
    let outcome = Study::new(spec())
        .store(sandbox.path("study.redb"))
        .closure("explore", |trial| {
            let x = trial.float("x")?;
            assert!(x > -2.0, "no such x");
            y(x)
        })
        .closure("confirm", |trial| y(trial.float("x")?))
        .run()
        .unwrap();
    assert!(outcome.is_completed());
    let dump = sandbox.dump();
    assert_eq!(dump["trials"][0]["state"], "failed");
    assert_eq!(dump["trials"][0]["failure"]["kind"], "panic");
    assert!(dump["trials"][0]["failure"]["reason"].as_str().unwrap().contains("no such x"));
}

#[test]
fn the_handle_drains_from_inside_and_callbacks_run_once() {
    let sandbox = Sandbox::new();
    let store = sandbox.path("study.redb");
    let notes = Arc::new(Mutex::new(Vec::new()));
    let study = Study::new(long_spec()).store(&store).workers(1);
    let handle = study.shutdown_handle();
    for name in ["first", "second"] {
        let notes = Arc::clone(&notes);
        handle.on_shutdown(name, move || notes.lock().unwrap().push(name));
    }
    let stopper = handle.clone();
    // Enough trials that the queue ahead of the worker holds only a small part of them.
    let outcome = study
        .closure("explore", move |trial| {
            if trial.case() == "parabola_0_3" {
                stopper.drain();
            }
            y(trial.float("x")?)
        })
        .closure("confirm", |trial| y(trial.float("x")?))
        .run()
        .unwrap();
    assert_eq!((outcome.status, outcome.exit_code()), (StudyStatus::Interrupted, 75));
    assert_eq!(*notes.lock().unwrap(), ["first", "second"]);
    let accounting = Reader::open(&store).unwrap().snapshot().unwrap().progress().unwrap().accounting;
    assert!(accounting.succeeded >= 4 && accounting.succeeded < 500, "{accounting:?}");
    assert_eq!(accounting.attempts_started, accounting.succeeded, "what started has finished");

    let outcome = Study::new(long_spec())
        .store(&store)
        .closure("explore", |trial| y(trial.float("x")?))
        .closure("confirm", |trial| y(trial.float("x")?))
        .run()
        .unwrap();
    assert_eq!(outcome.decision, ResumeDecision::GoOn);
    assert!(outcome.is_completed());
    assert_eq!(notes.lock().unwrap().len(), 2, "callbacks of the first run are gone");
    let reader = Reader::open(&store).unwrap();
    let verification = verify(&reader.snapshot().unwrap()).unwrap();
    assert_eq!(verification.differences, Vec::new());
}

#[test]
fn a_forced_end_interrupts_closures_that_listen() {
    let sandbox = Sandbox::new();
    let study = Study::new(spec()).store(sandbox.path("study.redb")).workers(1);
    let handle = study.shutdown_handle();
    let outcome = study
        .closure("explore", move |trial| {
            handle.terminate();
            while !trial.should_stop() {
                std::thread::yield_now();
            }
            Err::<Metrics, _>(TrialError::from("told to stop"))
        })
        .closure("confirm", |trial| y(trial.float("x")?))
        .run()
        .unwrap();
    assert_eq!(outcome.status, StudyStatus::Interrupted);
    let accounting = sandbox.dump()["accounting"].clone();
    assert_eq!((&accounting["interrupted"], &accounting["failed"]), (&1.into(), &0.into()));
}

#[test]
fn another_spec_is_refused_and_a_missing_closure_is_named() {
    let sandbox = Sandbox::new();
    let store = sandbox.path("study.redb");
    let error = Study::new(spec()).store(&store).closure("explore", |_| y(0.0)).run().unwrap_err();
    assert!(matches!(&error, Error::NoClosure(stage) if stage == "confirm"), "{error}");
    let study = Study::new(spec()).store(&store);
    study.shutdown_handle().drain();
    let study = study.closure("explore", |_| y(0.0)).closure("confirm", |_| y(0.0));
    assert_eq!(study.run().unwrap().exit_code(), 75, "a request made before the run is the first thing it sees");
    assert_eq!(sandbox.dump()["accounting"]["attempts_started"], 0);

    let error = Study::new(spec_with(8)).store(&store).run().unwrap_err();
    assert_eq!(error.exit_code(), 6);
    assert!(error.notes().iter().any(|note| note.contains("seed") && note.contains('7') && note.contains('8')));
}

#[test]
fn a_store_of_the_first_piton_goes_on_with_the_values_it_has() {
    use piton::program::study_file::{Values, parse_study, parse_study_as};

    let dir = tempfile::tempdir().unwrap();
    let study = "study.name = \"t\"\r\nparams.p = 1\r\n[[stage]]\r\nname = \"s\"\r\ncommand = '''\r\necho {v}\r\n'''\r\ntrial_budget = 9\r\nsurvivor_count = 1\r\nsampling = { file = \"c.csv\" }\r\n";
    let file = dir.path().join("study.toml");
    let set = [("p".to_owned(), "7e9".to_owned())];
    let write = |cells: &str| std::fs::write(dir.path().join("c.csv"), cells).unwrap();
    std::fs::write(&file, study).unwrap();
    write("v\n 1.20\n0x1F\n");
    let stored = parse_study_as("s", study.as_bytes(), &set, dir.path(), Values::Before).unwrap();
    let stored = Spec::from_json(&stored.to_json()).unwrap();
    let beside = |stored: &Spec| {
        let study = Study::from_file(&file, &set).unwrap();
        study.spec_beside(stored).unwrap().into_owned()
    };
    assert_eq!(beside(&stored), stored, "nothing has changed");
    // What changed is told from what was read otherwise.
    write("v\n 1.20\n0x20\n");
    let changes: Vec<String> = piton::program::study_file::diff(&stored, &beside(&stored))
        .into_iter()
        .map(|change| change.path)
        .collect();
    assert_eq!(changes, ["stage \"s\".cases"]);
    // More rows are read as those before.
    write("v\n 1.20\n0x1F\n1e1\n");
    assert_eq!(beside(&stored).values, Values::Before);
    // A store that is not of the first piton is never read so.
    write("v\n1.2\n");
    let exact = parse_study("s", study.as_bytes(), &set, dir.path()).unwrap();
    write("v\n 1.2\n");
    assert_ne!(beside(&exact).identity_json(), exact.identity_json());
}

#[test]
fn a_closure_does_not_start_on_what_its_parent_did_not_leave() {
    let sandbox = Sandbox::new();
    let run = || {
        let first = Stage::unbound("first").budget(1).survivors(1).output("o");
        let second = Stage::unbound("second").budget(1).survivors(1);
        let spec = Study::builder("heirs").stage(first).stage(second.approve()).spec().unwrap();
        let study = Study::new(spec).store(sandbox.path("study.redb")).closure("first", |trial| {
            std::fs::write(trial.dir()?.join("o"), "1")?;
            Ok(Metrics::new())
        });
        let read = |trial: &piton::TrialContext<'_>| {
            let text = std::fs::read_to_string(trial.parent_dir().unwrap().join("o"))?;
            if text == "1" { Ok(Metrics::new()) } else { Err(TrialError::new(text)) }
        };
        study.closure("second", read).run()
    };
    assert!(run().unwrap().waits_for_approval());
    sandbox.ok("approve study.redb", 0);
    let left = sandbox.path("artifacts/heirs/0_first/heirs_0_0/attempt_1/o");
    std::fs::write(&left, "2").unwrap();
    let error = run().unwrap_err();
    assert_eq!(error.exit_code(), 6, "{error}");
    assert!(matches!(&error, Error::ParentChanged { again: None, .. }), "{error:?}");
    assert_eq!(sandbox.dump()["accounting"]["failed"], 0);
    std::fs::write(&left, "1").unwrap();
    assert!(run().unwrap().is_completed());
}
