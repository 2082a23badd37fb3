//! The watcher over a cluster that is made up, with an engine that dies between any two steps.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::super::wire::Begun;
use super::*;
use crate::executor::{StageRuntime, StudyRuntime};
use crate::model::{Metrics, Params, StudyId};
use crate::study_file::parse;
use crate::sys::fault_injection::{Fault, plant};
use crate::sys::waiting::{CONTROL_DIR, Waiting};

const STUDY: StudyId = StudyId([3; 16]);
const SPEC: &str = "study = { name = \"s\" }\nrun = { executor = \"slurm\" }\n[[stage]]\nname = \"a\"\ncommand = \"true\"\ntrial_budget = 9\n\
                    survivor_count = 1\n[stage.sweep]\nx = { min = 1, max = 9, type = \"int\" }\n";

/// A job of the made-up cluster.
struct Made {
    key: String,
    control: Control,
    state: JobState,
    node: Option<String>,
    said: Option<String>,
    by: Option<String>,
    /// What its node has lost sight of lives on.
    lives: bool,
}

/// What happens on the cluster, whatever the engine does.
#[derive(Default)]
struct World {
    jobs: Vec<Made>,
    /// Attempts whose command ran.
    ran: Vec<String>,
    /// Attempts whose end the engine has heard of.
    over: BTreeSet<String>,
    /// It does not answer; what it was asked for may happen all the same.
    away: bool,
    /// What is submitted next is never heard of again.
    loses: bool,
    /// No node can start a job.
    starts_nothing: bool,
    refuses: Option<ClusterError>,
    /// Of each list so many jobs in a hundred are missing, whatever they are; others come twice, and in any order.
    hides: u64,
    random: u64,
    avoided: Vec<String>,
    cancelled: Vec<String>,
    /// Of how many jobs at once it was asked who cancelled them.
    asked_who: Vec<usize>,
    /// Seconds that a list takes, and that question.
    list_s: u64,
    who_s: u64,
    /// Seconds that passed.
    time_s: Arc<AtomicU64>,
}

impl World {
    fn running(&self) -> Vec<usize> {
        (0..self.jobs.len()).filter(|n| self.jobs[*n].state == JobState::Running).collect()
    }

    fn queued(&self) -> Vec<usize> {
        (0..self.jobs.len()).filter(|n| self.jobs[*n].state == JobState::Queued).collect()
    }

    /// A job starts: it runs its command only if it claims the attempt.
    fn start(&mut self, n: usize) {
        let job = &mut self.jobs[n];
        if job.control.task().unwrap().is_none() || !job.control.claim().unwrap() {
            job.state = JobState::Over(Why::Ended);
            return;
        }
        (job.state, job.said) = (JobState::Running, None);
        job.control.begin(&Begun { node: "n".into(), at_ms: 5 }).unwrap();
        let trial = AttemptKey::parse(&job.key).unwrap().trial;
        let twin = |key: &str| AttemptKey::parse(key).unwrap().trial == trial;
        assert!(!self.over.contains(&job.key), "{} is over, and begins", job.key);
        self.ran.push(job.key.clone());
        self.jobs[n].lives = true;
        let alive = self.jobs.iter().filter(|job| job.lives && twin(&job.key)).count();
        assert_eq!(alive, 1, "trial {trial} runs twice at once");
    }

    fn finish(&mut self, n: usize) {
        let job = &mut self.jobs[n];
        let key = AttemptKey::parse(&job.key).unwrap();
        let verdict = match job.control.is_cancelled() {
            true => Verdict::Interrupted { reason: "asked".into() },
            false => Verdict::Succeeded { metrics: Metrics::new(), outputs: Vec::new() },
        };
        let usage = Usage::default();
        let report = AttemptReport {
            trial: key.trial,
            attempt: key.attempt,
            ended_ms: 9,
            exit: None,
            usage,
            verdict,
            shown: Default::default(),
        };
        job.control.end(&Outcome::of(report)).unwrap();
        (job.state, job.lives) = (JobState::Over(Why::Ended), false);
    }

    /// Its node dies, and it with it.
    fn die(&mut self, n: usize) {
        (self.jobs[n].state, self.jobs[n].lives) = (JobState::Over(Why::NodeFailed), false);
    }

    /// Time passes, and what lives says so, and ends where it is asked to.
    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            let now = self.time_s.fetch_add(1, Relaxed);
            for n in 0..self.jobs.len() {
                if self.jobs[n].lives && now.is_multiple_of(5) {
                    // Its directory may be gone with its recorded end.
                    drop(self.jobs[n].control.beat(now));
                }
                if self.jobs[n].lives && self.jobs[n].control.is_to_end() {
                    self.finish(n);
                }
            }
        }
    }

    fn below(&mut self, limit: u64) -> u64 {
        let random = &mut self.random;
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        *random % limit
    }
}

type Shared = Arc<Mutex<World>>;

struct Fake(Shared);

impl Cluster for Fake {
    fn submit(&mut self, jobs: &[Submission]) -> Vec<Result<Option<String>, ClusterError>> {
        let mut world = self.0.lock().unwrap();
        if let Some(trouble) = world.refuses.clone() {
            return jobs.iter().map(|_| Err(trouble.clone())).collect();
        }
        if !world.loses {
            for job in jobs {
                let control = Control::at(&job.control);
                let (key, state) = (job.key.clone(), JobState::Queued);
                world.jobs.push(Made { key, control, state, node: None, said: None, by: None, lives: false });
            }
        }
        let away = world.away;
        let answer = |job: &Submission| match away {
            true => Err(ClusterError::Unreachable("away".into())),
            false => Ok(Some(job.key.clone())),
        };
        jobs.iter().map(answer).collect()
    }

    fn list(&mut self) -> Result<Vec<Listed>, ClusterError> {
        let mut world = self.0.lock().unwrap();
        if world.away {
            return Err(ClusterError::Unreachable("away".into()));
        }
        world.time_s.fetch_add(world.list_s, Relaxed);
        let listed = |job: &Made| Listed {
            key: job.key.clone(),
            id: job.key.clone(),
            state: job.state,
            node: job.node.clone(),
            place: job.node.clone(),
            said: job.said.clone(),
            waits: job.state.waits().then(|| "Resources".to_owned()),
        };
        let mut jobs: Vec<Listed> = world.jobs.iter().map(listed).collect();
        if world.hides > 0 {
            let mut shown = Vec::new();
            for job in jobs {
                if world.below(100) < world.hides {
                    continue;
                }
                if world.below(4) == 0 {
                    shown.push(job.clone());
                }
                let at = world.below(shown.len() as u64 + 1) as usize;
                shown.insert(at, job);
            }
            jobs = shown;
        }
        Ok(jobs)
    }

    fn cancelled_by(&mut self, ids: &[String]) -> HashMap<String, String> {
        let mut world = self.0.lock().unwrap();
        world.asked_who.push(ids.len());
        world.time_s.fetch_add(world.who_s, Relaxed);
        let known = world.jobs.iter().filter(|job| ids.contains(&job.key));
        known.filter_map(|job| Some((job.key.clone(), job.by.clone()?))).collect()
    }

    fn avoid(&mut self, place: &str) -> bool {
        self.0.lock().unwrap().avoided.push(place.to_owned());
        true
    }

    fn cancel(&mut self, jobs: &[(String, Option<String>)]) -> Result<(), ClusterError> {
        let mut world = self.0.lock().unwrap();
        world.cancelled.extend(jobs.iter().map(|(key, _)| key.clone()));
        for made in world.jobs.iter_mut().filter(|made| jobs.iter().any(|(key, _)| *key == made.key)) {
            if matches!(made.state, JobState::Queued | JobState::Requeued | JobState::Held) {
                made.state = JobState::Over(Why::Cancelled);
            }
        }
        Ok(())
    }

    fn forget(&mut self, ids: &[String]) {
        self.0.lock().unwrap().jobs.retain(|job| !ids.contains(&job.key));
    }
}

fn spec() -> Spec {
    parse("study.toml", SPEC, &[]).unwrap()
}

fn job(root: &Path, trial: u64, attempt: AttemptNo) -> Box<Job> {
    let spec = spec();
    let study = StudyRuntime::new(&spec, root, &root.join("artifacts"));
    Box::new(Job {
        key: AttemptKey { study: STUDY, trial: TrialId(trial), attempt },
        stage: 0,
        case: format!("s_0_{trial}"),
        parent_case: "s".into(),
        parent_dir: None,
        inherited: None,
        params: Params::new(),
        seed: 1,
        replica: None,
        slot: 0,
        given: Vec::new(),
        dir: root.join("artifacts/a"),
        scratch_dir: root.join("artifacts/b"),
        opened_ms: None,
        last_started_ms: None,
        inputs_changed_ms: None,
        keeps_from_before_ms: None,
        takes: None,
        stage_spec: Arc::new(StageRuntime::new(&study, &spec.stages[0]).unwrap()),
    })
}

/// A watcher, driven by hand.
struct Bench {
    root: tempfile::TempDir,
    world: Shared,
    watcher: Watcher,
    events: Receiver<ExecutorEvent>,
}

impl Bench {
    fn new(lost_after: Duration) -> Self {
        let (root, world) = (tempfile::tempdir().unwrap(), Shared::default());
        world.lock().unwrap().random = 1;
        let (watcher, events) = Self::watcher(root.path(), &world, lost_after);
        Self { root, world, watcher, events }
    }

    fn watcher(root: &Path, world: &Shared, lost_after: Duration) -> (Watcher, Receiver<ExecutorEvent>) {
        let control = root.join(CONTROL_DIR);
        std::fs::create_dir_all(&control).unwrap();
        let spec = Arc::new(spec());
        let (_, inbox) = crossbeam_channel::unbounded();
        let (sender, events) = crossbeam_channel::unbounded();
        let fake = Box::new(Fake(Arc::clone(world)));
        let mut watcher = Watcher::new(fake, spec, control, STUDY, lost_after, inbox, sender);
        watcher.list_lag = Duration::ZERO;
        let (begun, time_s) = (Instant::now(), Arc::clone(&world.lock().unwrap().time_s));
        watcher.clock = Box::new(move || begun + Duration::from_secs(time_s.load(Relaxed)));
        (watcher, events)
    }

    fn begin(&mut self, trial: u64) {
        let job = job(self.root.path(), trial, 1);
        self.tell(Command::Submit(job));
        self.watcher.submit();
    }

    fn tell(&mut self, command: Command) {
        let mut over = Vec::new();
        self.watcher.obey(command, &mut over);
        self.watcher.cluster.forget(&over);
    }

    fn world(&self) -> std::sync::MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// The verdicts since last asked, and whether the run is to end.
    fn heard(&self) -> (Vec<(u64, Verdict)>, bool) {
        let (mut ends, mut broken) = (Vec::new(), false);
        for event in self.events.try_iter() {
            match event {
                ExecutorEvent::Ended(report) => {
                    let key =
                        AttemptKey { study: STUDY, trial: report.trial, attempt: report.attempt }.to_string();
                    self.world().over.insert(key);
                    ends.push((report.trial.0, report.verdict));
                }
                ExecutorEvent::Broken(_) => broken = true,
                _ => {}
            }
        }
        (ends, broken)
    }

    /// The verdicts reported since last asked, by trial.
    fn verdicts(&self) -> Vec<(u64, Verdict)> {
        self.heard().0
    }

    fn kinds(&self) -> Vec<(u64, String)> {
        let kind = |verdict| match verdict {
            Verdict::Succeeded { .. } => "succeeded".to_owned(),
            Verdict::Failed(failure) => failure.kind.to_string(),
            Verdict::Interrupted { reason } => reason,
            Verdict::Cancelled => "cancelled".to_owned(),
        };
        self.verdicts().into_iter().map(|(trial, verdict)| (trial, kind(verdict))).collect()
    }
}

const LONG: Duration = Duration::from_secs(3_600);

#[test]
fn the_table_row_by_row() {
    let mut bench = Bench::new(Duration::ZERO);
    for trial in 0..5 {
        bench.begin(trial);
    }
    {
        let mut world = bench.world();
        world.start(0);
        world.finish(0);
        // Ended by the cluster before it claimed anything; with a word of why in its log.
        world.jobs[1].state = JobState::Over(Why::Ended);
        std::fs::write(world.jobs[1].control.log(), "exec: not found\n").unwrap();
        world.jobs[1].node = Some("n3".into());
        world.start(2);
        world.jobs[2].state = JobState::Over(Why::TimedOut);
        world.start(3);
        world.jobs[3].state = JobState::Over(Why::OutOfMemory);
        world.jobs[4].state = JobState::Over(Why::Preempted);
    }
    bench.watcher.poll();
    let expected = [
        (0, "succeeded"),
        (1, "the job could not start on n3: exec: not found"),
        (2, "timeout"),
        (3, "out_of_memory"),
        (4, "its job was preempted"),
    ];
    let found = bench.kinds();
    assert_eq!(found.iter().map(|(trial, kind)| (*trial, &**kind)).collect::<Vec<_>>(), expected);
    // What was never claimed by its job is claimed now: it can never run.
    assert!(!bench.world().jobs[4].control.claim().unwrap());
    assert_eq!(bench.world().avoided, ["n3"]);
}

#[test]
fn a_silent_job_is_waited_for_and_a_result_that_comes_late_counts() {
    let mut bench = Bench::new(LONG);
    bench.begin(0);
    bench.world().start(0);
    bench.world().die(0);
    bench.watcher.poll();
    assert!(bench.kinds().is_empty(), "it may live on");
    assert!(bench.world().jobs[0].control.is_cancelled(), "then it is to end");
    let gone = bench.world().jobs.pop().unwrap();
    bench.watcher.poll();
    assert!(bench.kinds().is_empty());
    bench.world().jobs.push(gone);
    bench.world().finish(0);
    bench.watcher.poll();
    assert_eq!(bench.kinds(), [(0, "asked".to_owned())]);
}

#[test]
fn an_unreachable_cluster_is_a_pause() {
    let mut bench = Bench::new(Duration::ZERO);
    bench.begin(0);
    bench.begin(1);
    bench.world().start(0);
    bench.world().start(1);
    bench.world().away = true;
    bench.watcher.poll();
    let told = |bench: &Bench| {
        bench.events.try_iter().find_map(|event| match event {
            ExecutorEvent::Cluster { trouble } => Some(trouble),
            ExecutorEvent::Ended(report) => panic!("{report:?}"),
            _ => None,
        })
    };
    assert!(told(&bench).unwrap().unwrap().ends_with(": away"));
    // Submitted into the void: whether it got there is seen later.
    bench.watcher.take(job(bench.root.path(), 2, 1), Sent::No);
    bench.watcher.submit();
    bench.world().finish(0);
    bench.watcher.poll();
    assert_eq!(bench.kinds(), [(0, "succeeded".to_owned())], "a result needs no answer of the cluster's");
    bench.world().away = false;
    bench.watcher.poll();
    assert_eq!(told(&bench), Some(None));
    let queued = bench.world().queued();
    assert_eq!(queued.len(), 1, "it got there, and was not submitted again");
}

#[test]
fn what_the_cluster_lost_is_submitted_again_under_its_key() {
    let mut bench = Bench::new(Duration::ZERO);
    bench.world().loses = true;
    bench.begin(0);
    bench.world().loses = false;
    bench.watcher.poll();
    bench.watcher.submit();
    assert_eq!(bench.world().queued(), [0]);
    assert!(bench.kinds().is_empty());
}

#[test]
fn a_refusal_ends_the_run_and_nothing_runs_for_it_later() {
    let mut bench = Bench::new(Duration::ZERO);
    bench.world().refuses = Some(ClusterError::Refused("no".into()));
    bench.begin(0);
    let events: Vec<_> = bench.events.try_iter().collect();
    assert!(
        matches!(&events[..], [ExecutorEvent::Cluster { .. }, ExecutorEvent::Broken(why), ExecutorEvent::Ended(report)]
            if why == "slurm refuses the job: no" && matches!(report.verdict, Verdict::Interrupted { .. })),
        "{events:?}"
    );
}

#[test]
fn a_drain_takes_back_what_waits_and_leaves_what_runs() {
    let mut bench = Bench::new(Duration::ZERO);
    for trial in 0..3 {
        bench.begin(trial);
    }
    bench.world().start(1);
    bench.tell(Command::Drain);
    let stopped = || "it was stopped before it began".to_owned();
    assert_eq!(bench.kinds(), [(0, stopped()), (2, stopped())]);
    bench.tell(Command::Terminate);
    assert!(bench.world().jobs[1].control.is_cancelled());
    bench.world().finish(1);
    bench.watcher.poll();
    assert_eq!(bench.kinds(), [(1, "asked".to_owned())]);
}

#[test]
fn what_is_withdrawn_and_has_not_begun_is_taken_back() {
    let mut bench = Bench::new(Duration::ZERO);
    for trial in 0..4 {
        bench.begin(trial);
    }
    bench.world().start(3);
    bench.tell(Command::Withdraw(TrialId(2)));
    assert_eq!(bench.kinds(), [(2, "it was stopped before it began".to_owned())]);
    // Those below go on, and others may begin.
    bench.begin(4);
    bench.world().start(0);
    bench.world().finish(0);
    bench.watcher.poll();
    assert_eq!(bench.kinds().len(), 1);
}

/// Three signs of life.
const SILENT: Duration = Duration::from_secs(15);

#[test]
fn what_a_node_found_of_a_parent_ends_the_run_and_is_no_trials_fault() {
    use crate::executor::inherited::{Inherited, OutputDiffers, OutputFound, ParentDiffers};
    let mut bench = Bench::new(LONG);
    let output = |path: &str| crate::model::OutputHash { path: path.into(), bytes: 1, blake3: [1; 32] };
    let inherited = Inherited { stage: "first".into(), outputs: vec![output("o"), output("p")], discarded: None };
    let parent_dir = bench.root.path().join("parent");
    let child = job(bench.root.path(), 0, 1);
    let child =
        Job { parent_dir: Some(parent_dir.clone()), inherited: Some(Arc::new(inherited.clone())), ..*child };
    bench.tell(Command::Submit(Box::new(child.clone())));
    bench.watcher.submit();
    let found = |output: &str, found| OutputDiffers { output: output.into(), expected: [1; 32], found };
    {
        let mut world = bench.world();
        world.start(0);
        // The node knows what was recorded.
        let told = world.jobs[0].control.task().unwrap().unwrap().into_job().unwrap();
        assert_eq!((told.inherited.as_deref(), told.parent_dir.as_ref()), (Some(&inherited), Some(&parent_dir)));
        // What the job says of names is not believed: it lies where trials could write it.
        let said = ParentDiffers {
            case: "; rm -r".into(),
            stage: "; rm -r".into(),
            dir: "/".into(),
            outputs: vec![found("p", OutputFound::Nothing), found("other", OutputFound::Nothing)],
            discarded: None,
        };
        world.jobs[0].control.end(&Outcome::refused(9, said)).unwrap();
        world.jobs[0].state = JobState::Over(Why::Ended);
    }
    bench.watcher.poll();
    let events: Vec<_> = bench.events.try_iter().collect();
    let told = events.iter().find_map(|event| match event {
        ExecutorEvent::Differs(Differs::Parent(parent)) => Some((**parent).clone()),
        _ => None,
    });
    let expected = ParentDiffers {
        case: child.parent_case,
        stage: "first".into(),
        dir: parent_dir,
        outputs: vec![found("p", OutputFound::Nothing)],
        discarded: None,
    };
    assert_eq!(told, Some(expected));
    let is_interrupted = |event: &ExecutorEvent| matches!(event, ExecutorEvent::Ended(report) if matches!(report.verdict, Verdict::Interrupted { .. }));
    assert!(events.iter().any(is_interrupted), "{events:?}");
    assert!(!events.iter().any(|event| matches!(event, ExecutorEvent::Broken(_))), "{events:?}");
}

mod cases;
mod simulation;
