//! The pool with real processes and closures.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crossbeam_channel::unbounded;
use tempfile::TempDir;

use super::closure::{TrialContext, TrialError};
use super::*;
use crate::executor::{AttemptKey, StageRuntime};
use crate::model::FailureKind::{
    BadMetrics, CommandNotFound, KilledKeeper, MissingMetric, MissingOutput, SpawnFailed, Timeout,
};
use crate::model::{Exit, Failure, FailureKind, Metric, Metrics, Params, StudyId, TrialId, Value};
use crate::study_file::{Part, Template};
use crate::sys::process::{Stat, lives, wait_gone};

const LONG: Duration = Duration::from_secs(60);

pub(in crate::executor::local) fn stage(root: &Path, work: Work) -> StageRuntime {
    StageRuntime {
        study: "study".into(),
        study_dir: root.to_path_buf(),
        artifacts_dir: root.join("artifacts"),
        name: "stage".into(),
        work,
        timeout: None,
        grace: LONG,
        memory_limit_bytes: None,
        outputs: Vec::new(),
        needed_metrics: Default::default(),
        rules: Vec::new(),
        printed: None,
        reports_count: true,
        lookout: None,
        failures: Vec::new(),
        env: Vec::new(),
        told: Default::default(),
    }
}

pub(in crate::executor::local) fn job(stage: StageRuntime, root: &Path) -> Job {
    Job {
        key: AttemptKey { study: StudyId([9; 16]), trial: TrialId(0), attempt: 1 },
        stage: 0,
        case: "case_0_0".into(),
        parent_case: "case".into(),
        parent_dir: None,
        inherited: None,
        params: Params::new(),
        seed: 7,
        replica: None,
        slot: 0,
        given: Vec::new(),
        dir: root.join("artifacts/study/0_stage/case_0_0/attempt_1"),
        scratch_dir: root.join("artifacts/study/0_stage/case_0_0/scratch"),
        opened_ms: None,
        last_started_ms: None,
        inputs_changed_ms: None,
        keeps_from_before_ms: None,
        takes: None,
        stage_spec: Arc::new(stage),
    }
}

struct Bench {
    dir: TempDir,
    pool: LocalExecutor,
    events: Receiver<ExecutorEvent>,
    study: StudyId,
}

impl Bench {
    fn new(workers: u32, closures: HashMap<String, ClosureFn>) -> Self {
        let (sender, events) = unbounded();
        let keeper = Keeper::start().unwrap();
        let pool = LocalExecutor::new(workers, Some(keeper), closures, TrialClock::new(), Arc::default(), sender)
            .unwrap();
        // Keys must not meet those of other tests running now.
        let dir = tempfile::tempdir().unwrap();
        let study =
            StudyId(blake3::hash(dir.path().as_os_str().as_encoded_bytes()).as_bytes()[..16].try_into().unwrap());
        Self { dir, pool, events, study }
    }

    fn shell(script: &str) -> Work {
        Work::Shell(Template { parts: vec![Part::Text(script.into())] })
    }

    fn stage(&self, script: &str) -> StageRuntime {
        stage(self.dir.path(), Self::shell(script))
    }

    fn submit(&mut self, trial: u64, stage: StageRuntime) -> Job {
        let mut job = job(stage, self.dir.path());
        job.key.trial = TrialId(trial);
        job.key.study = self.study;
        job.dir = self.dir.path().join(format!("artifacts/study/0_stage/case_0_{trial}/attempt_1"));
        self.pool.submit(job.clone()).unwrap();
        job
    }

    fn started(&self) -> Option<ProcessId> {
        match self.events.recv_timeout(LONG).unwrap() {
            ExecutorEvent::Started { process, .. } => process,
            other => panic!("{other:?}"),
        }
    }

    fn ended(&self) -> AttemptReport {
        match self.events.recv_timeout(LONG).unwrap() {
            ExecutorEvent::Ended(report) => *report,
            other => panic!("{other:?}"),
        }
    }

    fn returned(&self) -> TrialId {
        match self.events.recv_timeout(LONG).unwrap() {
            ExecutorEvent::Returned { trial } => trial,
            other => panic!("{other:?}"),
        }
    }

    /// Submits one and gives how it ended.
    fn run(&mut self, stage: StageRuntime) -> AttemptReport {
        self.submit(0, stage);
        self.started();
        self.ended()
    }

    fn fail(&mut self, script: &str) -> Failure {
        let stage = self.stage(script);
        failure_of(self.run(stage))
    }

    fn file(&self, name: &str) -> ProcessId {
        let path = self.dir.path().join(name);
        let start = Instant::now();
        loop {
            match fs::read_to_string(&path) {
                Ok(text) if text.ends_with('\n') => {
                    return Stat::of(text.trim().parse().unwrap()).unwrap().unwrap().id();
                }
                _ => assert!(start.elapsed() < LONG, "`{name}` never came"),
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn failure_of(report: AttemptReport) -> Failure {
    match report.verdict {
        Verdict::Failed(failure) => failure,
        other => panic!("{other:?}"),
    }
}

fn interrupted(report: &AttemptReport) -> bool {
    matches!(report.verdict, Verdict::Interrupted { .. })
}

const HANG: &str = "mkfifo never; exec 3<>never; read line <&3";

#[test]
fn a_trial_succeeds_with_metrics_and_outputs() {
    let mut bench = Bench::new(1, HashMap::new());
    let script = "test $(pwd) = $(dirname $PITON_PARAMS_FILE) && cat params.json && ls $PITON_SCRATCH_DIR && \
        mkdir out && echo v > out/v && echo '{\"wns\": -5, \"note\": \"x\"}' > $PITON_METRICS_FILE";
    let mut stage = bench.stage(script);
    stage.outputs = vec!["out".into()];
    stage.needed_metrics = ["wns".to_owned()].into();
    let report = bench.run(stage);
    let Verdict::Succeeded { metrics, outputs } = report.verdict else { panic!("{report:?}") };
    let expected: Metrics =
        [("wns".into(), Metric::Number(-5.0)), ("note".into(), Metric::Label("x".into()))].into();
    assert_eq!(metrics, expected);
    assert_eq!((outputs[0].path.as_str(), outputs[0].bytes), ("out", 2));
    assert_eq!(report.exit, Some(Exit::Code(0)));
    assert!(report.usage.wall_us > 0 && report.usage.peak_rss_bytes > 0);
}

#[test]
fn failures_have_kinds_and_excerpts() {
    let mut bench = Bench::new(1, HashMap::new());
    let failure = bench.fail("echo 'Error: no cell' >&2; exit 3");
    assert_eq!(
        (failure.kind, &*failure.reason, failure.retryable),
        (FailureKind::ExitCode, "exited with code 3", true)
    );
    assert_eq!(failure.log_excerpt, "Error: no cell");
    let failure = bench.fail("kill -SEGV $$");
    assert_eq!((failure.kind, &*failure.reason), (FailureKind::Signal, "killed by SIGSEGV"));
    let failure = bench.fail("no_such_command_here");
    assert_eq!((failure.kind, failure.retryable), (CommandNotFound, false));
    assert!(failure.log_excerpt.contains("no_such_command_here"));
    let failure = bench.fail("mkfifo metrics.json");
    assert_eq!((failure.kind, &*failure.reason), (BadMetrics, "`metrics.json` is not a regular file"));
    let failure = bench.fail("ln -s /etc/passwd metrics.json");
    assert_eq!(
        failure.reason,
        "cannot open `metrics.json`: is a symbolic link out of the attempt's directory, to `/etc/passwd`"
    );
    let mut stage = bench.stage("rm -rf $PWD");
    stage.needed_metrics = ["m".to_owned()].into();
    assert_eq!(failure_of(bench.run(stage)).kind, MissingMetric);
    let mut stage = bench.stage("true");
    stage.outputs = vec!["o".into()];
    assert_eq!(failure_of(bench.run(stage)).kind, MissingOutput);
}

/// A trial that fails with a word in both logs, or succeeds with a metric of each kind and an output of each.
fn telling(bench: &Bench, script: &str) -> StageRuntime {
    use crate::executor::{CompiledFailure, CompiledRule};
    use crate::study_file::{FailureMatch, FailureRule, MetricRule};
    let rule = FailureRule {
        kind: "boom".into(),
        when: FailureMatch::Log("^boom$".into()),
        severity: crate::model::Severity::Catastrophic,
        retryable: false,
    };
    let metric = MetricRule { file: "sta.rpt".into(), regex: "z (.*)".into(), scale: 1.0 };
    StageRuntime {
        failures: vec![CompiledFailure::new(&rule).unwrap()],
        rules: vec![CompiledRule::new("z", &metric).unwrap()],
        outputs: vec!["out".into(), "tree".into()],
        ..bench.stage(script)
    }
}

const SUCCEEDS: &str = "echo 1 > out; mkdir -p tree/sub; echo 2 > tree/sub/deep; echo z 3 > sta.rpt; echo x; echo y >&2; \
    echo '{\"y\": 4}' > metrics.json";
const FAILS: &str = "echo out; echo boom >&2; exit 3";

/// The machine's fault interrupts, and ends the run; it names no failure, hides no metric and loses no output.
#[test]
fn what_the_machine_cannot_open_of_an_attempt_is_no_verdict() {
    use rustix::io::Errno;
    let cases: [(&str, &[&str]); 2] = [
        (SUCCEEDS, &["", "metrics.json", "sta.rpt", "out", "tree", "tree/sub", "tree/sub/deep", "stdout.log"]),
        (FAILS, &["", "stdout.log", "stderr.log"]),
    ];
    for (script, files) in cases {
        for (n, file) in files.iter().enumerate() {
            let errno = [Errno::IO, Errno::MFILE, Errno::NOMEM, Errno::NFILE, Errno::STALE][n % 5];
            let mut bench = Bench::new(1, HashMap::new());
            let dir = bench.dir.path().join("artifacts/study/0_stage/case_0_0/attempt_1");
            let path = if file.is_empty() { dir } else { dir.join(file) };
            crate::sys::tree_hash::faults::close(path, errno);
            let stage = telling(&bench, script);
            bench.submit(0, stage);
            bench.started();
            match bench.events.recv_timeout(LONG).unwrap() {
                ExecutorEvent::Broken(why) => assert!(why.contains("cannot"), "`{file}`: {why}"),
                other => panic!("`{file}`, {errno}: {other:?}"),
            }
            let report = bench.ended();
            assert!(interrupted(&report), "`{file}`, {errno}: {:?}", report.verdict);
        }
    }
}

/// What the trial itself did to its files is its own, as before.
#[test]
fn what_a_trial_makes_unreadable_is_its_own_doing() {
    let mut bench = Bench::new(1, HashMap::new());
    for script in [
        "rm stderr.log; mkdir stderr.log; exit 3",
        "rm -r \"$PWD\"; exit 3",
        "rm stderr.log; ln -s / stderr.log; exit 3",
    ] {
        let stage = telling(&bench, script);
        assert_eq!(failure_of(bench.run(stage)).kind, FailureKind::ExitCode, "{script}");
    }
    let spoilt = [
        "rm out; mkfifo out",
        "rm sta.rpt metrics.json; mkdir metrics.json",
        "rm tree/sub/deep; mkfifo tree/sub/deep",
        "rm -r tree; ln -s / tree",
    ];
    for spoil in spoilt {
        let stage = telling(&bench, &format!("{SUCCEEDS}; {spoil}"));
        let kind = failure_of(bench.run(stage)).kind;
        assert!(matches!(kind, MissingOutput | BadMetrics), "{spoil}: {kind}");
    }
}

#[test]
fn programs_that_cannot_start_say_why() {
    use std::os::unix::fs::PermissionsExt;
    let mut bench = Bench::new(1, HashMap::new());
    for (name, text, mode) in [
        ("plain", "x", 0o644),
        ("bare", "exit 0", 0o755),
        ("lost", "#!/no/such/sh\n", 0o755),
        ("good", "#!/bin/sh\necho $0", 0o755),
    ] {
        fs::write(bench.dir.path().join(name), text).unwrap();
        fs::set_permissions(bench.dir.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let argv = |name: &str| Work::Argv(vec![Template { parts: vec![Part::Text(name.into())] }]);
    let root = bench.dir.path().to_path_buf();
    let mut why = |name: &str| {
        let report = bench.run(stage(&root, argv(name)));
        assert_eq!(report.exit, None);
        let failure = failure_of(report);
        assert!(!failure.retryable);
        (failure.kind, failure.reason)
    };
    assert_eq!(why("./missing"), (CommandNotFound, "`./missing` does not exist".into()));
    assert_eq!(why("./plain"), (SpawnFailed, "`./plain` is not executable".into()));
    assert_eq!(why("./bare").0, SpawnFailed);
    assert_eq!(why("./lost").0, CommandNotFound);
    assert_eq!(why("no_such_command_here"), (CommandNotFound, "`no_such_command_here` is not in PATH".into()));
    assert_eq!(bench.run(stage(&root, argv("./good"))).exit, Some(Exit::Code(0)));
}

#[test]
fn a_timeout_terminates_and_then_kills() {
    let mut bench = Bench::new(1, HashMap::new());
    let mut stage = bench.stage(HANG);
    stage.timeout = Some(Duration::from_millis(50));
    let report = bench.run(stage);
    assert_eq!(report.exit, Some(Exit::Signal(libc::SIGTERM)));
    let failure = failure_of(report);
    assert_eq!((failure.kind, &*failure.reason, failure.retryable), (Timeout, "ran longer than 50 ms", true));
    let mut stage = bench.stage(
        &format!("trap '' TERM; sleep 1000 & echo $! > {{}}; {HANG}").replace("{}", "$PITON_STUDY_DIR/child"),
    );
    stage.timeout = Some(Duration::from_millis(500));
    stage.grace = Duration::from_millis(10);
    bench.submit(1, stage);
    bench.started();
    let child = bench.file("child");
    let report = bench.ended();
    assert_eq!(report.exit, Some(Exit::Signal(libc::SIGKILL)));
    assert_eq!(failure_of(report).kind, Timeout);
    assert!(!lives(child).unwrap());
}

#[test]
fn a_stopped_clock_does_not_time_out() {
    let mut bench = Bench::new(1, HashMap::new());
    let mut stage = bench.stage(&format!("echo $$ > $PITON_STUDY_DIR/pid; {HANG}"));
    stage.timeout = Some(Duration::from_secs(3_600));
    bench.submit(0, stage);
    bench.started();
    let process = bench.file("pid");
    let is_stopped = || fs::read_to_string(format!("/proc/{}/stat", process.pid)).unwrap().contains(") T ");
    let wait_for = |state: bool| {
        let start = Instant::now();
        while is_stopped() != state {
            assert!(start.elapsed() < LONG);
            std::thread::sleep(Duration::from_millis(2));
        }
    };
    // From here on it runs no program of its own, whose vfork would hide the state.
    while !bench.dir.path().join("artifacts/study/0_stage/case_0_0/attempt_1/never").exists() {
        std::thread::sleep(Duration::from_millis(2));
    }
    bench.pool.pause();
    wait_for(true);
    let stood = bench.pool.shared.clock.now();
    assert!(bench.pool.shared.clock.is_paused());
    bench.pool.resume();
    wait_for(false);
    assert!(bench.pool.shared.clock.now() >= stood);
    bench.pool.pause();
    // Terminated while stopped: it must still hear TERM.
    bench.pool.terminate();
    let report = bench.ended();
    assert_eq!(report.exit, Some(Exit::Signal(libc::SIGTERM)));
    assert!(interrupted(&report));
}

#[test]
fn draining_returns_what_waits_and_lets_finish_what_runs() {
    let mut bench = Bench::new(1, HashMap::new());
    let stage_of = bench.stage("mkfifo $PITON_STUDY_DIR/go; read line < $PITON_STUDY_DIR/go");
    bench.submit(0, stage_of);
    bench.started();
    for trial in 1..4 {
        let stage = bench.stage("true");
        bench.submit(trial, stage);
    }
    bench.pool.drain();
    let returned: BTreeSet<TrialId> = (1..4).map(|_| bench.returned()).collect();
    assert_eq!(returned, (1..4).map(TrialId).collect());
    let refused = job(bench.stage("true"), bench.dir.path());
    assert_eq!(bench.pool.submit(refused), Err(ExecutorError::Closed));
    while !bench.dir.path().join("go").exists() {
        std::thread::sleep(Duration::from_millis(2));
    }
    fs::write(bench.dir.path().join("go"), "\n").unwrap();
    assert!(matches!(bench.ended().verdict, Verdict::Succeeded { .. }));
    bench.pool.shutdown();
}

#[test]
fn what_is_withdrawn_comes_back_and_the_rest_runs_in_order() {
    let mut bench = Bench::new(1, HashMap::new());
    let stage_of = bench.stage("mkfifo $PITON_STUDY_DIR/go; read line < $PITON_STUDY_DIR/go");
    bench.submit(0, stage_of);
    bench.started();
    for trial in [9, 1, 7, 2, 8] {
        let stage = bench.stage("echo $PITON_TRIAL >> $PITON_STUDY_DIR/ran");
        bench.submit(trial, stage);
    }
    bench.pool.withdraw(TrialId(3));
    while !bench.dir.path().join("go").exists() {
        std::thread::sleep(Duration::from_millis(2));
    }
    fs::write(bench.dir.path().join("go"), "\n").unwrap();
    let (mut returned, mut ended) = (BTreeSet::new(), Vec::new());
    while returned.len() < 3 || ended.len() < 3 {
        match bench.events.recv_timeout(LONG).unwrap() {
            ExecutorEvent::Returned { trial } => drop(returned.insert(trial.0)),
            ExecutorEvent::Ended(report) => ended.push(report.trial.0),
            _ => {}
        }
    }
    // The first of those that waited may have been prepared by then.
    assert_eq!((returned, ended), (BTreeSet::from([7, 8, 9]), vec![0, 1, 2]));
    bench.pool.shutdown();
}

/// Submits a trial that waits for its own gate.
fn gated(bench: &mut Bench, trial: u64) -> Job {
    let gate = bench.stage("while [ ! -e $PITON_STUDY_DIR/gate_$PITON_TRIAL ]; do sleep 0.01; done");
    bench.submit(trial, gate)
}

fn open_gate(bench: &Bench, trial: u64) {
    fs::write(bench.dir.path().join(format!("gate_{trial}")), "").unwrap();
}

fn await_dir(dir: &Path) {
    let start = Instant::now();
    while !dir.join("params.json").exists() {
        assert!(start.elapsed() < LONG, "`{}` never came", dir.display());
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn what_was_prepared_and_does_not_start_leaves_nothing() {
    let mut bench = Bench::new(1, HashMap::new());
    gated(&mut bench, 0);
    bench.started();
    // Both wait in the queue while trial 0 runs: whoever starts trial 1 then prepares trial 2.
    gated(&mut bench, 1);
    let next = gated(&mut bench, 2);
    open_gate(&bench, 0);
    bench.ended();
    bench.started();
    await_dir(&next.dir);
    bench.pool.drain();
    assert_eq!(bench.returned(), TrialId(2));
    assert!(!next.dir.parent().unwrap().exists());
    open_gate(&bench, 1);
    assert_eq!(bench.ended().trial, TrialId(1));
}

#[test]
fn what_one_worker_prepared_another_starts() {
    let mut bench = Bench::new(2, HashMap::new());
    for trial in [0, 1] {
        gated(&mut bench, trial);
        bench.started();
    }
    gated(&mut bench, 2);
    let next = gated(&mut bench, 3);
    open_gate(&bench, 3);
    open_gate(&bench, 0);
    bench.ended();
    bench.started();
    await_dir(&next.dir);
    // The worker that prepared trial 3 is busy with trial 2.
    open_gate(&bench, 1);
    bench.ended();
    bench.started();
    assert_eq!(bench.ended().trial, TrialId(3));
    open_gate(&bench, 2);
    assert_eq!(bench.ended().trial, TrialId(2));
}

#[test]
fn a_trial_signalled_from_outside_while_draining_is_interrupted() {
    let mut bench = Bench::new(1, HashMap::new());
    let stage = bench.stage(HANG);
    bench.submit(0, stage);
    let process = bench.started().unwrap();
    bench.pool.drain();
    assert!(crate::sys::process::signal_exactly(process, rustix::process::Signal::TERM).unwrap());
    assert!(interrupted(&bench.ended()));
}

#[cfg(feature = "cluster")]
#[test]
fn what_terminate_cuts_off_while_hashing_ended_with_the_engine() {
    let mut bench = Bench::new(1, HashMap::new());
    bench.pool.terminate();
    let Verdict::Interrupted { reason } = bench.pool.shared.cut_off(&job(bench.stage("true"), bench.dir.path()))
    else {
        panic!("it counts");
    };
    assert!(ENDED_WITH_ENGINE.contains(&reason.as_str()), "{reason}");
}

#[test]
fn terminate_waits_for_the_grace_and_kill_does_not() {
    let mut bench = Bench::new(2, HashMap::new());
    let deaf = format!("trap '' TERM; echo $$ > $PITON_STUDY_DIR/deaf; {HANG}");
    let stage = bench.stage(&deaf);
    bench.submit(0, stage);
    bench.started();
    bench.file("deaf");
    // In a loop: a shell that is about to block in `read` when the signal comes would run its trap only after that.
    let kind = "trap 'exit 0' TERM; echo $$ > $PITON_STUDY_DIR/kind; while :; do sleep 0.02; done";
    let stage = bench.stage(kind);
    bench.submit(1, stage);
    bench.started();
    bench.file("kind");
    bench.pool.terminate();
    let report = bench.ended();
    assert_eq!((report.trial, report.exit, interrupted(&report)), (TrialId(1), Some(Exit::Code(0)), true));
    // The grace is a minute; this does not wait for it.
    bench.pool.kill();
    let report = bench.ended();
    assert_eq!((report.exit, interrupted(&report)), (Some(Exit::Signal(libc::SIGKILL)), true));
}

/// Kills the keeper the first so many times.
fn killed_keeper(times: u32) -> Bench {
    let mut bench = Bench::new(2, HashMap::new());
    let daemon = format!("setsid sh -c 'echo $$ > $PITON_STUDY_DIR/daemon; exec sleep 1000' & {HANG}");
    for time in 0..times {
        let stage = bench.stage(&daemon);
        bench.submit(0, stage);
        let process = bench.started().unwrap();
        let daemon = bench.file("daemon");
        let keeper = bench.pool._keeper.as_ref().unwrap().process();
        assert!(crate::sys::process::signal_exactly(keeper, rustix::process::Signal::KILL).unwrap());
        let report = bench.ended();
        assert!(!lives(daemon).unwrap() && wait_gone(process, Some(LONG)).unwrap());
        fs::remove_file(bench.dir.path().join("daemon")).unwrap();
        match (time, &report.verdict) {
            (0, Verdict::Interrupted { .. }) => {}
            // It ran alone.
            (1, Verdict::Failed(failure)) => {
                assert_eq!((&failure.kind, failure.retryable), (&KilledKeeper, false))
            }
            (_, other) => panic!("{time}: {other:?}"),
        }
    }
    bench
}

#[test]
fn a_dead_keeper_leaves_nothing_and_the_next_trial_has_another() {
    for times in [1, 2] {
        let mut bench = killed_keeper(times);
        let stage = bench.stage("true");
        bench.submit(1, stage);
        bench.started();
        let report = bench.ended();
        assert_eq!((report.trial, report.exit), (TrialId(1), Some(Exit::Code(0))));
    }
}

fn closures(
    closure: impl Fn(&TrialContext<'_>) -> Result<Metrics, TrialError> + Send + Sync + 'static,
) -> HashMap<String, ClosureFn> {
    HashMap::from([("stage".to_owned(), Arc::new(closure) as ClosureFn)])
}

#[test]
fn closures_see_their_trial_and_report() {
    let mut bench = Bench::new(
        1,
        closures(|trial| {
            assert_eq!((trial.case(), trial.seed(), trial.attempt(), trial.slot()), ("case_0_0", 7, 1, 0));
            fs::write(trial.dir()?.join("out"), trial.text("s")?)?;
            assert!(trial.scratch_dir()?.is_dir() && trial.parent_dir().is_none() && !trial.should_stop());
            Ok(Metrics::from([("m".into(), Metric::Number(trial.float("i")? + trial.float("f")?))]))
        }),
    );
    let mut stage = stage(bench.dir.path(), Work::Closure);
    stage.outputs = vec!["out".into()];
    stage.needed_metrics = ["m".to_owned()].into();
    let mut job = job(stage, bench.dir.path());
    job.params =
        [("s".into(), Value::Str("xy".into())), ("i".into(), Value::Int(2)), ("f".into(), Value::Float(0.5))]
            .into();
    bench.pool.submit(job).unwrap();
    assert_eq!(bench.started(), None);
    let report = bench.ended();
    let Verdict::Succeeded { metrics, outputs } = report.verdict else { panic!("{report:?}") };
    assert_eq!((metrics.get("m"), outputs[0].bytes), (Some(&Metric::Number(2.5)), 2));
}

#[test]
fn closures_fail_in_every_way_and_hurt_nobody() {
    let mut bench = Bench::new(
        1,
        closures(|trial| match trial.trial().0 {
            0 => Ok(Metrics::from([("m".into(), Metric::Number(f64::NAN))])),
            1 => Ok(Metrics::new()),
            2 => Err(TrialError::from("bad luck")
                .kind("luck")
                .severity(crate::model::Severity::Low)
                .retryable(false)),
            3 => panic!("at the {}", "disco"),
            4 => Err(io::Error::from_raw_os_error(libc::ENOSPC).into()),
            5 => trial.int("none").map(|_| Metrics::new()),
            _ => {
                while !trial.should_stop() {
                    std::thread::yield_now();
                }
                Err("stopped".into())
            }
        }),
    );
    let mut expect = |trial, kind: FailureKind, reason: &str| {
        let mut stage = stage(bench.dir.path(), Work::Closure);
        stage.needed_metrics = ["m".to_owned()].into();
        stage.timeout = Some(Duration::from_millis(if trial == 6 { 20 } else { 3_600_000 }));
        bench.submit(trial, stage);
        bench.started();
        let failure = failure_of(bench.ended());
        assert_eq!((&failure.kind, &*failure.reason), (&kind, reason));
        failure
    };
    expect(0, BadMetrics, "`m` is NaN or infinite: it must be a finite number");
    expect(1, MissingMetric, "the trial did not report `m`");
    let failure = expect(2, "luck".into(), "bad luck");
    assert_eq!((failure.severity, failure.retryable), (crate::model::Severity::Low, false));
    expect(3, FailureKind::Panic, "panicked: at the disco");
    expect(4, FailureKind::Io, "no space left on device");
    expect(5, FailureKind::BadParam, "there is no param `none`");
    expect(6, Timeout, "ran longer than 20 ms: stopped");
    let stage = stage(bench.dir.path(), Work::Closure);
    bench.submit(7, stage);
    bench.started();
    bench.pool.terminate();
    assert!(interrupted(&bench.ended()));
}
