//! The rails, asked in the order of the trials' numbers, whatever the order of the results.

use crate::{Range, Stage, Study};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};

use super::*;
use crate::model::{Abort, Rail};

/// One stage with these rails.
fn railed(trials: i64, retries: u32, rails: impl FnOnce(Stage) -> Stage, most: Option<u64>) -> Spec {
    let stage = Stage::unbound("a").budget(trials.unsigned_abs()).range("n", Range::int(1..=trials));
    let stage = rails(stage.retries(retries).survivors(1).maximize("m"));
    let mut spec = Study::builder("s").stage(stage).spec().unwrap();
    spec.rails.catastrophic_failures = most;
    spec
}

fn above_10(stage: Stage) -> Stage {
    stage.abort_above("m", 10.0)
}

impl Bench {
    fn abort(&self) -> Option<(Abort, Vec<u64>)> {
        let study = self.journal.snapshot().unwrap().study().unwrap();
        let violating = study.violating.iter().map(|trial| trial.0).collect();
        study.abort.map(|abort| (abort, violating))
    }

    fn handed(&self) -> Vec<u64> {
        self.handed.iter().map(|(trial, _)| trial.0).collect()
    }
}

fn abort(rail: Rail, counted: u64) -> Abort {
    Abort { rail, stage: 0, counted }
}

#[test]
fn the_lowest_number_that_breaks_a_rail_decides_whichever_came_first() {
    let mut bench = Bench::of(railed(9, 0, above_10, None), 4);
    for trial in 0..4 {
        bench.start(trial);
    }
    bench.end(3, good(11.0));
    assert_eq!(bench.abort(), None, "an earlier one may still break it");
    assert_eq!(bench.handed(), [0, 1, 2], "nothing above it starts, what was handed out came back");
    bench.end(0, good(1.0));
    bench.end(2, good(12.0));
    assert_eq!((bench.abort(), bench.handed()), (None, vec![1]));
    bench.end(1, good(10.0));
    assert_eq!(bench.events, ["attempt_ended", "study_aborted", "run_ended"]);
    assert_eq!(bench.abort(), Some((abort(Rail::AbortIf, 3), vec![2])));
    assert_eq!(bench.finished, Some(RunEnd::Aborted));
}

#[test]
fn what_lies_below_gets_its_retries_and_runs_again_after_a_crash_and_a_drain() {
    let mut bench = Bench::of(railed(9, 1, above_10, None), 2);
    bench.start(0);
    bench.run(1, good(11.0));
    bench.end(0, bad(true));
    assert!(bench.handed().is_empty(), "the retry waits for its time, and nothing else starts");
    bench.input(drain(None));
    assert_eq!((bench.finished, bench.abort()), (Some(RunEnd::Drained), None), "certain, but its place is open");
    let mut bench = bench.crash(2);
    assert_eq!(bench.finished, None);
    assert!(bench.handed().is_empty(), "known from the store as well");
    bench.now.at_ms += 60_000;
    bench.input(Input::Tick);
    assert_eq!(bench.handed, [(TrialId(0), 2)]);
    bench.start(0);
    let mut bench = bench.crash(2);
    assert_eq!(bench.handed, [(TrialId(0), 3)]);
    bench.run(0, good(99.0));
    assert_eq!(bench.abort(), Some((abort(Rail::AbortIf, 1), vec![0])));
    assert_eq!(bench.finished, Some(RunEnd::Aborted));
}

#[test]
fn a_rate_is_asked_after_every_result_and_names_all_that_failed() {
    let mut bench = Bench::of(railed(20, 0, |stage| stage.max_failure_rate(0.5), None), 1);
    for trial in 0..3 {
        bench.run(trial, bad(false));
    }
    assert_eq!(bench.handed(), [3, 4], "three of the first five are too many already, whatever the other two do");
    bench.run(4, good(1.0));
    assert_eq!(bench.abort(), None);
    bench.run(3, good(1.0));
    assert_eq!(bench.abort(), Some((abort(Rail::MaxFailureRate, 5), vec![0, 1, 2])));
}

#[test]
fn catastrophes_are_counted_in_order_and_over_stages() {
    let burnt = || {
        let Verdict::Failed(failure) = bad(false) else { unreachable!() };
        Verdict::Failed(Failure { severity: Severity::Catastrophic, ..failure })
    };
    let stage = |name: &str| Stage::unbound(name).budget(3).survivors(1).maximize("m");
    let spec = Study::builder("s")
        .stage(stage("a").range("n", Range::int(1..=3)))
        .stage(stage("b").range("k", Range::int(1..=3)));
    let mut spec = spec.spec().unwrap();
    spec.rails.catastrophic_failures = Some(2);
    let mut bench = Bench::of(spec, 3);
    bench.run(0, burnt());
    bench.run(1, good(1.0));
    bench.run(2, good(2.0));
    assert_eq!(bench.handed(), [3, 4, 5]);
    bench.start(3);
    bench.start(4);
    bench.run(5, burnt());
    bench.end(4, burnt());
    assert_eq!((bench.abort(), bench.handed()), (None, vec![3]));
    bench.end(3, good(1.0));
    let counted = Abort { rail: Rail::CatastrophicFailures, stage: 1, counted: 2 };
    assert_eq!(bench.abort(), Some((counted, vec![0, 4])), "the one before it, and not the one after it");
}

#[test]
fn the_last_result_of_a_stage_is_asked_before_it_closes() {
    let mut bench = Bench::of(railed(2, 0, above_10, None), 2);
    bench.run(1, good(1.0));
    bench.run(0, good(11.0));
    assert_eq!(bench.events, ["attempt_ended", "study_aborted", "run_ended"]);
    assert_eq!(bench.abort(), Some((abort(Rail::AbortIf, 1), vec![0])));
}

/// More than fits in memory waits for its retry and cannot matter: what can is found behind it.
#[test]
fn a_certain_abort_finds_what_matters_among_what_does_not() {
    let trials = 3 * WINDOW as i64;
    let mut bench = Bench::of(railed(trials, 1, above_10, None), 1);
    // Trial 0 waits for the longest; all others were passed over and are ready at once.
    bench.start(0);
    bench.end(0, bad(true));
    let mut bench = {
        let last = TrialId(trials.unsigned_abs() - 1);
        let start = Event::AttemptStarted {
            trial: last,
            attempt: 1,
            slot: 0,
            process: None,
            executor: ExecutorKind::Local,
        };
        bench.journal.append(&[Record { at_ms: 0, run_ms: 0, event: start }]).unwrap();
        bench.crash(1)
    };
    bench.run(1, good(11.0));
    assert!(bench.handed().is_empty());
    bench.now.at_ms += 60_000;
    bench.input(Input::Tick);
    assert_eq!(bench.handed, [(TrialId(0), 2)]);
    assert!(bench.state.draft.held() < 10, "what cannot matter is not held");
    bench.run(0, good(1.0));
    assert_eq!(bench.abort(), Some((abort(Rail::AbortIf, 2), vec![1])));
}

/// What becomes of a trial: so many attempts fail first, then this.
#[derive(Clone, Copy, Debug)]
struct Fate {
    flaky: u32,
    end: End,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Good,
    Wild,
    Bad,
    Burnt,
}

fn fates() -> impl Strategy<Value = Vec<Fate>> {
    let end = prop_oneof![6 => Just(End::Good), 1 => Just(End::Wild), 3 => Just(End::Bad), 1 => Just(End::Burnt)];
    let fate = (0..2_u32, end).prop_map(|(flaky, end)| Fate { flaky, end });
    proptest::collection::vec(fate, 1..24)
}

/// The definition, by brute force over prefixes: the first that breaks a rail, and who of it does.
fn definition(
    fates: &[Fate],
    bounds: bool,
    rate: Option<f64>,
    most: Option<u64>,
) -> Option<(Rail, u64, Vec<u64>)> {
    (1..=fates.len()).find_map(|counted| {
        let prefix = &fates[..counted];
        let of = |ends: &[End]| -> Vec<u64> {
            (0..).zip(prefix).filter(|(_, fate)| ends.contains(&fate.end)).map(|(place, _)| place).collect()
        };
        let (wild, bad, burnt) = (of(&[End::Wild]), of(&[End::Bad, End::Burnt]), of(&[End::Burnt]));
        let counted = counted as u64;
        if bounds && !wild.is_empty() {
            return Some((Rail::AbortIf, counted, wild));
        }
        if rate.is_some_and(|rate| counted >= 5 && bad.len() as f64 / counted as f64 > rate) {
            return Some((Rail::MaxFailureRate, counted, bad));
        }
        let burnt_out = most.is_some_and(|most| burnt.len() as u64 >= most);
        burnt_out.then_some((Rail::CatastrophicFailures, counted, burnt))
    })
}

impl Bench {
    /// Plays a study to its end: who starts, who ends and what is cut off is drawn from `seed`.
    fn play(mut self, fates: &[Fate], workers: u32, mut seed: u64) -> Option<(Rail, u64, Vec<u64>)> {
        let mut draw = |below: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed % below.max(1) as u64) as usize
        };
        for _ in 0..10_000 {
            if let Some(how) = self.finished {
                if !matches!(how, RunEnd::Drained) {
                    return self
                        .abort()
                        .filter(|(abort, _)| abort.rail != Rail::NoSurvivors)
                        .map(|(abort, violating)| (abort.rail, abort.counted, violating));
                }
                self = self.crash(workers);
                continue;
            }
            match draw(40) {
                0 => {
                    self = self.crash(workers);
                    continue;
                }
                1 => self.input(drain(None)),
                _ => {}
            }
            let limit = self.state.limit();
            let running: Vec<TrialId> = self.state.running.keys().copied().collect();
            let waiting: Vec<TrialId> = self.handed.iter().map(|(trial, _)| *trial).collect();
            let waiting: Vec<TrialId> = waiting.into_iter().filter(|trial| !running.contains(trial)).collect();
            assert!(waiting.iter().all(|trial| limit.is_none_or(|limit| *trial < limit)), "it cannot matter");
            let may_start = running.len() < workers as usize && !waiting.is_empty();
            if may_start && (running.is_empty() || draw(2) == 0) {
                // A worker starts the first, but the second may be the first to say so.
                let trial = waiting[draw(2).min(waiting.len() - 1)];
                if *self.state.phase() == Phase::Running {
                    self.start(trial.0);
                } else {
                    self.handed.retain(|(handed, _)| *handed != trial);
                    self.input(Input::Executor(ExecutorEvent::Returned { trial }));
                }
                continue;
            }
            let Some(trial) = running.get(draw(running.len())).copied() else {
                self.now.at_ms += 60_000;
                self.input(Input::Tick);
                continue;
            };
            let fate = fates[trial.0 as usize];
            let failures = self.state.draft.trial_row(trial).unwrap().failures;
            let verdict = match fate.end {
                _ if draw(12) == 0 => cut(),
                _ if failures < fate.flaky => bad(true),
                End::Good => good(1.0),
                End::Wild => good(11.0),
                End::Bad => bad(false),
                End::Burnt => match bad(false) {
                    Verdict::Failed(failure) => {
                        Verdict::Failed(Failure { severity: Severity::Catastrophic, ..failure })
                    }
                    other => other,
                },
            };
            self.end(trial.0, verdict);
        }
        panic!("it does not end");
    }
}

proptest! {
    #![proptest_config(Config { cases: 40, rng_seed: RngSeed::Fixed(5), ..Config::default() })]

    /// Any results, in any order, with any number of workers, retries, interruptions, drains and crashes.
    #[test]
    fn the_engine_aborts_by_definition(
        fates in fates(),
        bounds in any::<bool>(),
        rate in proptest::option::of(prop_oneof![Just(0.2), Just(0.3), Just(0.5)]),
        most in proptest::option::of(1..4_u64),
        workers in 1..6_u32,
        seed in 1..u64::MAX,
    ) {
        let rails = |stage: Stage| {
            let stage = if bounds { above_10(stage) } else { stage };
            match rate {
                Some(rate) => stage.max_failure_rate(rate),
                None => stage,
            }
        };
        let spec = railed(fates.len() as i64, 1, rails, most);
        let expected = definition(&fates, bounds, rate, most);
        prop_assert_eq!(Bench::of(spec, workers).play(&fates, workers, seed), expected);
    }
}
