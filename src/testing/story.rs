//! Small studies for tests, written event by event. Expected values are worked out by hand from the story.
//!
//! The study `tiny`: base case `t`; stage 0 `explore` sweeps `mode` (`fast`, `small`) and `level` (1, 2.5): cases
//! `t_0_0` to `t_0_3`, two survive by the smallest `bytes`; stage 1 `confirm` is one trial for each survivor, one
//! survives. Time starts at the epoch and every event comes a second after the one before.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::journal::{Journal, Snapshot, create};
use crate::model::{
    AttemptEnd, EngineId, Event, ExecutorKind, Exit, Failure, FailureKind, FirstObjective, Metric, Next,
    OutputHash, Parent, ProcessId, Record, RunEnd, Severity, StageDecl, StudyCreated, StudyId, TrialId, Usage,
    Value, Verdict,
};
use crate::study_file::{
    Domain, Goal, Objective, Part, Rails, RunSpec, Spec, SpecValue, StageSpec, StudySpec, SweepParam, Template,
    Work,
};
use crate::views::{Liveness, StudyLocation, StudyView};

pub(crate) struct Story {
    dir: tempfile::TempDir,
    journal: Journal,
    pub(crate) at_ms: i64,
    workers: u32,
}

pub(crate) const STUDY: StudyId = StudyId([0xab; 16]);
pub(crate) const ALIVE: Liveness = Liveness { alive: true };
pub(crate) const DEAD: Liveness = Liveness { alive: false };

fn text(text: &str) -> Template {
    Template { parts: vec![Part::Text(text.into())] }
}

fn stage(name: &str, budget: u64, survivors: u64, sweep: Vec<SweepParam>) -> StageSpec {
    StageSpec {
        name: name.into(),
        work: Work::Argv(vec![text("./pack.sh"), Template { parts: vec![Part::Param("mode".into())] }]),
        trial_budget: budget,
        survivor_count: survivors,
        outputs: vec!["packed".into()],
        sweep,
        objectives: vec![Objective { metric: "bytes".into(), goal: Goal::Minimize, weight: None }],
        ..StageSpec::default()
    }
}

pub(crate) fn spec(workers: u32, label: &str) -> Spec {
    let choices = |name: &str, values: Vec<Value>| SweepParam {
        name: name.into(),
        domain: Domain::Choices(values.into_iter().map(SpecValue).collect()),
    };
    let sweep = vec![
        choices("mode", vec![Value::Str("fast".into()), Value::Str("small".into())]),
        choices("level", vec![Value::Int(1), Value::Float(2.0)]),
    ];
    Spec {
        study: StudySpec {
            name: "tiny".into(),
            base_case: "t".into(),
            seed: 7,
            description: None,
            author: None,
            tags: Vec::new(),
            inputs: Vec::new(),
            inputs_ignore: Vec::new(),
            versions: Default::default(),
        },
        params: BTreeMap::from([("label".into(), SpecValue(Value::Str(label.into())))]),
        env: BTreeMap::new(),
        run: RunSpec { workers: Some(workers), ..RunSpec::default() },
        rails: Rails::default(),
        base: None,
        stages: vec![stage("explore", 4, 2, sweep), stage("confirm", 2, 1, Vec::new())],
        values: Default::default(),
    }
}

impl Story {
    pub(crate) fn new() -> Self {
        Self::told(2, "plain")
    }

    pub(crate) fn told(workers: u32, label: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let spec = spec(workers, label);
        let decl = |stage: &StageSpec| StageDecl {
            name: stage.name.clone(),
            trial_budget: stage.trial_budget,
            survivor_count: stage.survivor_count,
            objective: Some(FirstObjective { metric: "bytes".into(), maximize: false }),
            proposed: false,
        };
        let created = StudyCreated {
            study_id: STUDY,
            name: "tiny".into(),
            base_case: "t".into(),
            seed: 7,
            spec: serde_json::to_string(&spec).unwrap(),
            spec_hash: "5bec".into(),
            study_file: "tiny.toml".into(),
            stages: spec.stages.iter().map(decl).collect(),
            ..StudyCreated::of_nothing()
        };
        let first = Record { at_ms: 0, run_ms: 0, event: Event::StudyCreated(Box::new(created)) };
        let journal = create(&dir.path().join("tiny.redb"), &first).unwrap();
        Self { dir, journal, at_ms: 0, workers }
    }

    /// Closes the store in good order; the directory stays until the story goes.
    pub(crate) fn closed(self) -> tempfile::TempDir {
        self.journal.close().unwrap();
        self.dir
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn event(&mut self, event: Event) -> &mut Self {
        self.at_ms += 1_000;
        let record = Record { at_ms: self.at_ms, run_ms: 0, event };
        self.journal.append(&[record]).unwrap();
        self
    }

    pub(crate) fn run(&mut self) -> &mut Self {
        let process = ProcessId { pid: 4242, start_ticks: 1 };
        let engine = EngineId { process, boot_id: "boot".into(), host: "here".into() };
        let workers = self.workers;
        self.event(Event::RunStarted { engine, workers, sync_interval_ms: 0 })
    }

    pub(crate) fn open_explore(&mut self) -> &mut Self {
        self.event(Event::StageOpened { stage: 0, parents: vec![], shares: vec![4] })
    }

    pub(crate) fn start(&mut self, trial: u64, attempt: u32) -> &mut Self {
        let process = Some(ProcessId { pid: 100 + u32::try_from(trial).unwrap(), start_ticks: 9 });
        self.event(Event::AttemptStarted {
            trial: TrialId(trial),
            attempt,
            slot: 0,
            process,
            executor: ExecutorKind::Local,
        })
    }

    fn end(&mut self, trial: u64, attempt: u32, exit: Option<Exit>, verdict: Verdict, next: Next) -> &mut Self {
        let usage = Usage { wall_us: 1_500_000, cpu_us: 1_250_000, peak_rss_bytes: 4096 };
        let ended_ms = self.at_ms + 1_000;
        let trial = TrialId(trial);
        self.event(Event::AttemptEnded(Box::new(AttemptEnd {
            trial,
            attempt,
            ended_ms,
            exit,
            usage,
            verdict,
            next,
        })))
    }

    pub(crate) fn succeed(&mut self, trial: u64, attempt: u32, bytes: f64) -> &mut Self {
        let metrics = BTreeMap::from([
            ("bytes".to_owned(), Metric::Number(bytes)),
            ("tool".to_owned(), Metric::Label("xz".to_owned())),
        ]);
        let outputs = vec![OutputHash { path: "packed".into(), bytes: 3, blake3: [0x11; 32] }];
        let verdict = Verdict::Succeeded { metrics, outputs };
        self.end(trial, attempt, Some(Exit::Code(0)), verdict, Next::Final)
    }

    pub(crate) fn fail(&mut self, trial: u64, attempt: u32, reason: &str, next: Next) -> &mut Self {
        let failure = Failure {
            kind: FailureKind::ExitCode,
            severity: Severity::Medium,
            retryable: true,
            reason: reason.into(),
            log_excerpt: "first line\nsecond \u{1b}[31mline".into(),
        };
        self.end(trial, attempt, Some(Exit::Code(3)), Verdict::Failed(failure), next)
    }

    pub(crate) fn interrupt(&mut self, trial: u64, attempt: u32) -> &mut Self {
        let verdict = Verdict::Interrupted { reason: "its engine ended".into() };
        self.end(trial, attempt, Some(Exit::Signal(9)), verdict, Next::Again { due_ms: 0 })
    }

    pub(crate) fn close_explore(&mut self) -> &mut Self {
        // By `bytes`: t_0_3 (100), then t_0_0 (200).
        let survivors = vec![parent(3, self.attempts(3)), parent(0, self.attempts(0))];
        self.event(Event::StageClosed { stage: 0, survivors: survivors.clone() });
        self.event(Event::StageOpened { stage: 1, parents: survivors, shares: vec![1, 1] })
    }

    fn attempts(&self, trial: u64) -> u32 {
        let row = self.snapshot().trial(TrialId(trial)).unwrap().unwrap();
        u32::try_from(row.attempts.len()).unwrap()
    }

    /// The whole course without any trouble but one failed trial: 20 events.
    pub(crate) fn complete(&mut self) -> &mut Self {
        self.run().open_explore();
        self.start(0, 1).succeed(0, 1, 200.0).start(1, 1).succeed(1, 1, 300.5);
        self.start(2, 1).fail(2, 1, "exited with code 3", Next::Final).start(3, 1).succeed(3, 1, 100.0);
        self.close_explore();
        self.start(4, 1).succeed(4, 1, 90.0).start(5, 1).succeed(5, 1, 190.0);
        self.event(Event::StageClosed { stage: 1, survivors: vec![parent(4, 1)] });
        self.event(Event::StudyCompleted).event(Event::RunEnded { how: RunEnd::Completed })
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        self.journal.snapshot().unwrap()
    }

    pub(crate) fn view(&self, liveness: Liveness) -> (StudyView, Snapshot) {
        let snapshot = self.snapshot();
        let place = StudyLocation {
            store: "tiny.redb".into(),
            artifacts_dir: PathBuf::from("/a"),
            study_dir: PathBuf::from("/s"),
        };
        (StudyView::load(&snapshot, place, liveness).unwrap(), snapshot)
    }

    /// A view whose artifacts are in the story's own directory.
    pub(crate) fn view_here(&self, liveness: Liveness) -> (StudyView, Snapshot) {
        let (mut view, snapshot) = self.view(liveness);
        view.place.artifacts_dir = self.dir().join("artifacts");
        (view, snapshot)
    }
}

pub(crate) fn parent(trial: u64, attempt: u32) -> Parent {
    Parent { trial: TrialId(trial), attempt }
}

/// What a view writes, as text.
pub(crate) fn written(
    write: impl FnOnce(&mut dyn std::io::Write) -> Result<(), crate::views::ViewError>,
) -> String {
    let mut out = Vec::new();
    write(&mut out).unwrap();
    String::from_utf8(out).unwrap()
}
