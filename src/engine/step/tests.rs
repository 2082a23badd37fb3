//! The decisions, without processes: a store in a scratch directory, and inputs made by hand.

use crate::{Range, Stage, Study};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::Arc;

use super::*;
use crate::journal::{Journal, create};
use crate::model::{
    Event, Exit, Failure, FailureKind, Metric, Metrics, Parent, ProcessId, Record, Severity, StudyCreated,
    StudyId, TrialState, Verdict,
};
use crate::study_file::Pool;

/// A state over a real journal, with the loop's part done by hand: commit, then answer what needs the store.
struct Bench {
    _dir: tempfile::TempDir,
    journal: Journal,
    state: State,
    now: Now,
    /// Trials handed out and not reported, with their attempts.
    handed: Vec<(TrialId, AttemptNo)>,
    /// Names of the events of the last input.
    events: Vec<&'static str>,
    finished: Option<RunEnd>,
    terminated: bool,
}

fn spec(trials: i64, retries: u32) -> Spec {
    let stage = |name: &str| Stage::unbound(name).retries(retries).survivors(1).maximize("m");
    Study::builder("s")
        .stage(stage("a").budget(trials.unsigned_abs()).range("n", Range::int(1..=trials)))
        .stage(stage("b").budget(1))
        .spec()
        .unwrap()
}

fn created(spec: &Spec) -> Record {
    let created = StudyCreated {
        study_id: StudyId([1; 16]),
        piton_version: "0".into(),
        name: "s".into(),
        base_case: "s".into(),
        seed: 0,
        spec: spec.to_json(),
        spec_hash: spec.spec_hash(),
        inputs: Vec::new(),
        versions: Vec::new(),
        study_dir: ".".into(),
        artifacts_dir: "artifacts".into(),
        study_file: String::new(),
        plan_version: plan::VERSION,
        stages: plan::declared(spec),
    };
    Record { at_ms: 0, run_ms: 0, event: Event::StudyCreated(Box::new(created)) }
}

fn engine() -> EngineId {
    EngineId { process: ProcessId { pid: 1, start_ticks: 1 }, boot_id: "b".into(), host: "h".into() }
}

impl Bench {
    fn new(trials: i64, retries: u32, workers: u32) -> Self {
        Self::of(spec(trials, retries), workers)
    }

    fn of(spec: Spec, workers: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let journal = create(&dir.path().join("s.redb"), &created(&spec)).unwrap();
        Self::over(dir, journal, spec, workers)
    }

    fn over(dir: tempfile::TempDir, journal: Journal, spec: Spec, workers: u32) -> Self {
        let snapshot = journal.snapshot().unwrap();
        let mut draft = Draft::load(&snapshot).unwrap();
        let left = snapshot.running().unwrap();
        for row in &left {
            draft.hold(snapshot.trial(row.trial).unwrap().unwrap());
        }
        let judge = crate::engine::rails::known(&snapshot, &spec, &draft).unwrap();
        drop(snapshot);
        let pools = Pools::new(spec.run.resources.clone());
        let state = State::new(Arc::new(spec), draft, judge, workers).sharing(pools);
        let now = Now { at_ms: 1_000, run_ms: 0 };
        let mut bench = Self {
            _dir: dir,
            journal,
            state,
            now,
            handed: Vec::new(),
            events: Vec::new(),
            finished: None,
            terminated: false,
        };
        bench.state.begin(now, engine(), workers, &left).unwrap();
        let actions = bench.state.advance(now).unwrap();
        bench.settle(actions);
        bench
    }

    /// The engine dies here: only what is committed remains. Another one opens the store.
    fn crash(self, workers: u32) -> Self {
        let Self { _dir, journal, state, .. } = self;
        let (path, spec) = (journal.path().to_owned(), state.spec.as_ref().clone());
        drop((journal, state));
        Self::over(_dir, Journal::open(&path).unwrap(), spec, workers)
    }

    fn input(&mut self, input: Input) {
        self.events.clear();
        let mut actions = self.state.step(self.now, input).unwrap();
        actions.extend(self.state.advance(self.now).unwrap());
        self.settle(actions);
    }

    fn settle(&mut self, mut actions: Vec<Action>) {
        while !actions.is_empty() || self.state.draft.untaken_events().count() > 0 {
            let set = self.state.draft.take();
            self.events.extend(set.events.iter().map(|(_, record)| record.event.name()));
            if !set.is_empty() {
                self.journal.commit(&set).unwrap();
                self.state.draft.forget_final(&set);
            }
            let snapshot = self.journal.snapshot().unwrap();
            let mut answers = Vec::new();
            for action in actions.drain(..) {
                match action {
                    Action::LookUp(_) | Action::Identify(_) | Action::Take(_) => panic!("nothing reuses"),
                    Action::Submit { trial, attempt, .. } | Action::Adopt { trial, attempt, .. } => {
                        self.handed.push((trial, attempt))
                    }
                    Action::Select(stage) => {
                        let spec = Arc::clone(&self.state.spec);
                        let comes = crate::engine::survivors::comes_to(&snapshot, &spec, stage).unwrap();
                        answers.push(Input::Selected { stage, comes });
                    }
                    Action::Refill => {
                        let (submitted, startable) = (self.state.submitted_count(), self.state.startable());
                        answers.push(refilled(&snapshot, submitted, startable).unwrap());
                    }
                    Action::Judge(stage) => {
                        let ruled = crate::engine::rails::ruled(&snapshot, &self.state.spec, stage).unwrap();
                        answers.push(Input::Judged { stage, ruled });
                    }
                    Action::Withdraw(from) => {
                        let running = &self.state.running;
                        let back = |(trial, _): &(TrialId, _)| *trial >= from && !running.contains_key(trial);
                        let returned = self.handed.iter().filter(|handed| back(handed)).map(|(trial, _)| *trial);
                        for trial in returned.collect::<Vec<_>>() {
                            self.handed.retain(|(handed, _)| *handed != trial);
                            answers.push(Input::Executor(ExecutorEvent::Returned { trial }));
                        }
                    }
                    Action::Settle | Action::Discard => {
                        panic!("no stage was opened again, and everything is kept")
                    }
                    Action::Terminate => self.terminated = true,
                    Action::Prune(_) => panic!("nothing is watched"),
                    Action::Finish(how) => self.finished = Some(how),
                    Action::Drain | Action::Export(_) | Action::Ask { .. } => {}
                }
            }
            for answer in answers {
                actions.extend(self.state.step(self.now, answer).unwrap());
                actions.extend(self.state.advance(self.now).unwrap());
            }
            self.check();
        }
    }

    /// Promise 2, after every commit: attempts add up, and memory holds only what is needed.
    fn check(&self) {
        let snapshot = self.journal.snapshot().unwrap();
        let a = snapshot.progress().unwrap().accounting;
        assert_eq!(a.attempts_started, a.succeeded + a.failed + a.interrupted + a.running);
        let running = snapshot.running().unwrap();
        assert_eq!(running.len() as u64, a.running);
    }

    fn start(&mut self, trial: u64) {
        let at = self.handed.iter().position(|(handed, _)| handed.0 == trial).unwrap();
        let (trial, attempt) = self.handed[at];
        let event = ExecutorEvent::Started { trial, attempt, slot: 0, process: None, at_ms: 0 };
        self.input(Input::Executor(event));
    }

    fn end(&mut self, trial: u64, verdict: Verdict) {
        let at = self.handed.iter().position(|(handed, _)| handed.0 == trial).unwrap();
        let (trial, attempt) = self.handed.remove(at);
        let exit = Some(Exit::Code(0));
        let report = AttemptReport {
            trial,
            attempt,
            ended_ms: 0,
            exit,
            usage: Usage::default(),
            verdict,
            shown: Default::default(),
        };
        self.input(Input::Executor(ExecutorEvent::Ended(Box::new(report))));
    }

    fn run(&mut self, trial: u64, verdict: Verdict) {
        self.start(trial);
        self.end(trial, verdict);
    }

    fn trial(&self, trial: u64) -> TrialRow {
        self.journal.snapshot().unwrap().trial(TrialId(trial)).unwrap().unwrap()
    }
}

fn good(value: f64) -> Verdict {
    let metrics = Metrics::from([("m".to_owned(), Metric::Number(value))]);
    Verdict::Succeeded { metrics, outputs: Vec::new() }
}

fn bad(retryable: bool) -> Verdict {
    Verdict::Failed(Failure { retryable, ..Failure::new(FailureKind::ExitCode, "exited with code 1") })
}

fn cut() -> Verdict {
    Verdict::Interrupted { reason: "terminated".into() }
}

fn drain(limit_ms: Option<u64>) -> Input {
    Input::Drain { by: "SIGTERM".into(), limit_ms }
}

#[test]
fn a_study_runs_to_its_end() {
    let mut bench = Bench::new(3, 0, 2);
    assert_eq!(bench.events, ["run_started", "stage_opened"]);
    assert_eq!(bench.handed, [(TrialId(0), 1), (TrialId(1), 1), (TrialId(2), 1)]);
    bench.run(0, good(1.0));
    bench.run(2, good(9.0));
    bench.run(1, bad(true));
    assert_eq!(bench.events, ["attempt_ended", "stage_closed", "stage_opened"]);
    let stages = bench.journal.snapshot().unwrap().stages().unwrap();
    assert_eq!(stages[0].survivors, [Parent { trial: TrialId(2), attempt: 1 }]);
    bench.run(3, good(0.0));
    assert_eq!(bench.events, ["attempt_ended", "stage_closed", "study_completed", "run_ended"]);
    assert_eq!(bench.finished, Some(RunEnd::Completed));
    assert_eq!(bench.state.draft.held(), 0, "no finished trial stays in memory");
}

/// Every phase × every input: what is recorded, what the phase is after it, and where trial 0 stands. Two workers,
/// six trials; trial 0 runs and trial 1 is handed out when the input comes.
#[test]
fn table_of_phases_and_inputs() {
    type Row = (&'static str, &'static str, &'static [&'static str], &'static str, TrialState);
    use TrialState::{Failed, Pending, Running, Succeeded};
    let ended: &[&str] = &["attempt_ended"];
    let last: &[&str] = &["attempt_ended", "run_ended"];
    let rows: &[Row] = &[
        ("running", "started 1", &["attempt_started"], "running", Running),
        ("running", "good", ended, "running", Succeeded),
        ("running", "bad", ended, "running", Failed),
        ("running", "bad, retryable", ended, "running", Pending),
        ("running", "cut", ended, "running", Pending),
        ("running", "never started", &["attempt_started", "attempt_ended"], "running", Running),
        ("running", "returned 1", &[], "running", Running),
        ("running", "drain", &["drain_started"], "draining", Running),
        ("running", "force", &["drain_started"], "terminating", Running),
        ("running", "broken", &["drain_started"], "terminating", Running),
        ("running", "tick", &[], "running", Running),
        ("draining", "started 1", &["attempt_started"], "draining", Running),
        ("draining", "good", last, "over", Succeeded),
        ("draining", "bad", last, "over", Failed),
        ("draining", "bad, retryable", last, "over", Pending),
        ("draining", "cut", last, "over", Pending),
        ("draining", "drain", &[], "draining", Running),
        ("draining", "force", &[], "terminating", Running),
        ("draining", "broken", &[], "draining", Running),
        ("draining", "tick", &[], "draining", Running),
        ("terminating", "good", last, "over", Succeeded),
        ("terminating", "bad", last, "over", Failed),
        ("terminating", "cut", last, "over", Pending),
        ("terminating", "drain", &[], "terminating", Running),
        ("terminating", "force", &[], "terminating", Running),
        ("terminating", "tick", &[], "terminating", Running),
        ("terminating", "late tick", last, "over", Pending),
    ];
    for (phase, input, events, after, trial) in rows {
        let what = format!("{phase} × {input}");
        let mut bench = Bench::new(6, 1, 2);
        bench.start(0);
        if *phase != "running" {
            bench.input(drain(None));
            if *input != "started 1" {
                // The executor gives back what it had not started.
                for (handed, _) in bench.handed.clone().into_iter().filter(|(handed, _)| handed.0 != 0) {
                    bench.input(Input::Executor(ExecutorEvent::Returned { trial: handed }));
                }
            }
        }
        if *phase == "terminating" {
            bench.input(Input::Force { by: "SIGINT".into() });
        }
        match *input {
            "started 1" => bench.start(1),
            "good" => bench.end(0, good(1.0)),
            "bad" => bench.end(0, bad(false)),
            "bad, retryable" => bench.end(0, bad(true)),
            "cut" => bench.end(0, cut()),
            "never started" => bench.end(1, bad(false)),
            "returned 1" => bench.input(Input::Executor(ExecutorEvent::Returned { trial: TrialId(1) })),
            "drain" => bench.input(drain(None)),
            "force" => bench.input(Input::Force { by: "SIGINT".into() }),
            "broken" => bench.input(Input::Executor(ExecutorEvent::Broken("gone".into()))),
            "tick" => bench.input(Input::Tick),
            "late tick" => {
                bench.now.run_ms = 10_000 + GIVE_UP_AFTER_GRACE_MS;
                bench.input(Input::Tick);
            }
            other => unreachable!("{other}"),
        }
        assert_eq!(bench.events, *events, "{what}");
        let phase = match bench.state.phase() {
            Phase::Running => "running",
            Phase::Draining { .. } => "draining",
            Phase::Terminating { .. } => "terminating",
            Phase::Over => "over",
        };
        assert_eq!(phase, *after, "{what}");
        assert_eq!(bench.trial(0).state, *trial, "{what}");
        assert_eq!(bench.finished.is_some(), *after == "over", "{what}");
    }
}

#[test]
fn a_retry_waits_for_its_time_and_is_counted() {
    let mut bench = Bench::new(1, 2, 1);
    bench.run(0, bad(true));
    let due_ms = bench.trial(0).due_ms;
    assert!((1_500..=2_000).contains(&due_ms), "a delay of 1 s, spread over its upper half: {due_ms}");
    assert!(bench.handed.is_empty());
    assert_eq!(bench.state.wake_in_ms(bench.now), Some(u64::try_from(due_ms - 1_000).unwrap()));
    bench.now.at_ms = due_ms;
    bench.input(Input::Tick);
    assert_eq!(bench.handed, [(TrialId(0), 2)]);
    bench.run(0, cut());
    assert_eq!(bench.handed, [(TrialId(0), 3)], "an interrupted attempt takes no retry and waits for nothing");
    bench.run(0, bad(true));
    bench.now.at_ms += 60_000;
    bench.input(Input::Tick);
    assert_eq!(bench.handed, [(TrialId(0), 4)], "the second and last retry");
    bench.run(0, bad(true));
    assert_eq!(bench.trial(0).state, TrialState::Failed);
    assert_eq!(bench.finished, Some(RunEnd::Aborted), "no survivors");
}

#[test]
fn no_survivors_abort_the_study() {
    let mut bench = Bench::new(2, 0, 2);
    bench.run(0, bad(false));
    bench.run(1, bad(false));
    assert_eq!(bench.events, ["attempt_ended", "study_aborted", "run_ended"]);
    let study = bench.journal.snapshot().unwrap().study().unwrap();
    assert_eq!(study.status, StudyStatus::Aborted);
    assert!(study.abort_reason.unwrap().contains("stage `a` has no survivors"));
    // Taken back by a retry: the same study goes on.
    let reset = Record { at_ms: 0, run_ms: 0, event: Event::TrialReset { trial: TrialId(1) } };
    bench.journal.append(&[reset]).unwrap();
    let mut bench = bench.crash(1);
    assert_eq!(bench.handed, [(TrialId(1), 2)]);
    bench.run(1, good(1.0));
    assert_eq!(bench.events, ["attempt_ended", "stage_closed", "stage_opened"]);
}

#[test]
fn a_crash_loses_nothing_and_doubles_nothing() {
    let mut bench = Bench::new(6, 0, 2);
    bench.run(0, good(1.0));
    bench.start(3);
    bench.start(1);
    let mut bench = bench.crash(2);
    assert_eq!(bench.events[..3], ["run_started", "attempt_ended", "attempt_ended"], "both are settled first");
    let mut handed = bench.handed.clone();
    handed.sort();
    let expected = [(1, 2), (2, 1), (3, 2), (4, 1), (5, 1)].map(|(trial, attempt)| (TrialId(trial), attempt));
    assert_eq!(handed, expected, "passed-over trials too, each once, and not the finished one");
    for (trial, _) in handed {
        bench.run(trial.0, good(trial.0 as f64));
    }
    let snapshot = bench.journal.snapshot().unwrap();
    assert_eq!(snapshot.stages().unwrap()[0].survivors, [Parent { trial: TrialId(5), attempt: 1 }]);
    assert_eq!(crate::journal::verify(&snapshot).unwrap().differences, []);
}

proptest! {
    /// Whatever starts, ends, fails, is cut off and crashes in whatever order: no more are under way than the stage has workers, as many
    /// as may be, and the study comes to its end.
    #[test]
    fn no_more_trials_of_a_stage_are_under_way_than_it_has_workers(
        most in 1_u32..4, by_need: bool, workers in 1_u32..4, turns in proptest::collection::vec((0_usize..9, 0_u8..9), 0..40),
    ) {
        let mut spec = spec(7, 2);
        // Bounded by itself, or by what its trials share.
        if by_need {
            spec.run.resources = [("card".to_owned(), Pool::Items((0..most).map(|card| card.to_string()).collect()))].into();
            spec.stages[0].run.needs = [("card".to_owned(), 1)].into();
        } else {
            spec.stages[0].run.workers = Some(most);
        }
        let mut bench = Bench::of(spec, workers);
        let of_first = |bench: &Bench| bench.state.draft.open_stage().is_some_and(|(stage, _)| stage.index == 0);
        for (at, turn) in turns.into_iter().chain(std::iter::repeat_n((0, 0), 40)) {
            if bench.finished.is_some() {
                break;
            }
            if of_first(&bench) {
                prop_assert!(bench.handed.len() <= most as usize, "{:?}", bench.handed);
                let cards = bench.handed.iter().flat_map(|(trial, _)| bench.state.given(*trial));
                let cards: BTreeSet<&String> = cards.flat_map(|given| &given.items).collect();
                prop_assert_eq!(cards.len(), if by_need { bench.handed.len() } else { 0 });
                let left = bench.state.draft.open_stage().map_or(0, |(row, of)| of.pending(row.planned()));
                let waits = bench.state.wake_in_ms(bench.now).is_some();
                prop_assert!(bench.handed.len() == most as usize || left <= bench.handed.len() as u64 || waits);
            }
            bench.now.at_ms += 60_000;
            if turn == 8 {
                bench = bench.crash(workers);
                continue;
            }
            let Some((trial, _)) = bench.handed.get(at % bench.handed.len().max(1)).copied() else {
                bench.input(Input::Tick);
                continue;
            };
            match turn {
                0 | 1 => bench.run(trial.0, good(trial.0 as f64)),
                2 => bench.run(trial.0, bad(true)),
                3 => bench.run(trial.0, bad(false)),
                4 => bench.run(trial.0, cut()),
                5 => bench.end(trial.0, bad(false)),
                6 => bench.input(Input::Tick),
                _ => {
                    bench.handed.retain(|(handed, _)| *handed != trial);
                    bench.input(Input::Executor(ExecutorEvent::Returned { trial }));
                    // What was given back is handed out by a later run alone.
                    bench = bench.crash(workers);
                }
            }
        }
        prop_assert!(bench.finished.is_some());
    }
}

#[test]
fn the_drain_limit_terminates_and_still_counts_as_drained() {
    let mut bench = Bench::new(2, 0, 1);
    bench.start(0);
    bench.input(drain(Some(500)));
    bench.input(Input::Executor(ExecutorEvent::Returned { trial: TrialId(1) }));
    assert_eq!(bench.state.wake_in_ms(bench.now), Some(500));
    bench.now.run_ms = 500;
    bench.input(Input::Tick);
    assert!(bench.terminated);
    bench.end(0, cut());
    assert_eq!(bench.finished, Some(RunEnd::Drained));
    assert_eq!(bench.trial(0).state, TrialState::Pending);
}

#[test]
fn a_broken_executor_ends_the_run_as_failed() {
    let mut bench = Bench::new(1, 0, 1);
    bench.start(0);
    bench.input(Input::Executor(ExecutorEvent::Broken("the keeper is gone".into())));
    bench.end(0, cut());
    assert_eq!(bench.finished, Some(RunEnd::Failed));
    assert_eq!(bench.state.broken(), Some("the keeper is gone"));
}

#[test]
fn a_drain_that_finds_everything_finished_completes() {
    let mut bench = Bench::new(1, 0, 1);
    bench.run(0, good(1.0));
    bench.start(1);
    bench.input(drain(None));
    bench.end(1, good(1.0));
    assert_eq!(bench.finished, Some(RunEnd::Completed));
}

#[test]
fn a_drain_between_stages_opens_no_further_stage() {
    let mut bench = Bench::new(1, 0, 1);
    bench.start(0);
    bench.input(drain(None));
    bench.end(0, good(1.0));
    assert_eq!(bench.events, ["attempt_ended", "stage_closed", "run_ended"]);
    assert_eq!(bench.finished, Some(RunEnd::Drained));
    let bench = bench.crash(1);
    assert_eq!(bench.events, ["run_started", "stage_opened"]);
    assert_eq!(bench.handed, [(TrialId(1), 1)]);
}

mod rails;
