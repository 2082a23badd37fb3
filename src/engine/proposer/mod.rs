//! Asking a stage's proposer, beside the engine's loop.
//!
//! A thread of its own talks to one proposer at a time: the loop asks and goes on, the answer comes as an executor's
//! event. Nothing is decided or recorded here, and nothing needs to be remembered: each question brings a snapshot of
//! the store, and a proposer that is started anew hears everything again from it.

mod answer;
mod dialogue;

pub(crate) use self::answer::told_values;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use self::dialogue::{Dialogue, Opening, Partner, Past, Proposed};
use super::draft::parents_proposals;
use crate::executor::local::keeper::KeeperClient;
use crate::executor::local::proposer::{OnWait, ProposerEnd, ProposerProcess, Waiting};
use crate::executor::{Answer, AttemptKey, ExecutorEvent, Job, Said, StageRuntime, StudyRuntime};
use crate::journal::Snapshot;
use crate::model::{Params, Proposals, StageIndex, StageRow, StudyId, ToldResult, TrialId, TrialRow, Value};
use crate::paths::{PROPOSER_DIR, SCRATCH_DIR, STDERR_LOG, StudyPaths};
use crate::plan::Lineage;
use crate::study_file::{Proposer, Sampling, Spec, StageSpec};
use crate::sys::words::{FLUSH_HINT, io_words};

/// How often a proposer is started for one question, should the keeper die under it.
const STARTS: u32 = 5;

/// Proposers of a study.
pub(super) struct Proposers {
    desk: Option<Desk>,
    grace: Duration,
    shared: Arc<Shared>,
    tasks: Option<Sender<Task>>,
    thread: Option<Thread>,
}

struct Thread {
    handle: JoinHandle<()>,
    /// Closed when the thread ends.
    done: Receiver<()>,
}

/// What the thread shares with the one that ends it.
#[derive(Default)]
struct Shared {
    /// The proposer that runs, and whether an answer of it is awaited.
    runs: Mutex<Option<ProposerEnd>>,
    awaited: AtomicBool,
    /// It is to end: one that was just starting is not asked any more.
    ending: AtomicBool,
}

enum Task {
    /// Ask for a trial.
    Ask { stage: StageIndex, index: u64, snapshot: Snapshot },
    /// Nothing more is asked of this stage.
    Close { stage: StageIndex, snapshot: Snapshot },
}

/// All the thread works with.
struct Desk {
    spec: Arc<Spec>,
    paths: StudyPaths,
    study: StudyId,
    runtime: StudyRuntime,
    keeper: Option<KeeperClient>,
    events: Sender<ExecutorEvent>,
}

impl Proposers {
    /// Starts nothing yet; a study without proposers never does.
    pub(super) fn new(
        spec: Arc<Spec>,
        paths: StudyPaths,
        study: StudyId,
        keeper: Option<KeeperClient>,
        events: Sender<ExecutorEvent>,
    ) -> Self {
        let runtime = StudyRuntime::new(&spec, &paths.study_dir, &paths.artifacts);
        let grace = runtime.grace;
        let desk = Desk { spec, paths, study, runtime, keeper, events };
        Self { desk: Some(desk), grace, shared: Arc::default(), tasks: None, thread: None }
    }

    /// Asks for a trial; the answer is an [`ExecutorEvent::Proposed`].
    ///
    /// # Errors
    /// If no thread can be started, in words.
    pub(super) fn ask(&mut self, stage: StageIndex, index: u64, snapshot: Snapshot) -> Result<(), String> {
        if let Some(desk) = self.desk.take() {
            let (tasks, waiting) = crossbeam_channel::unbounded();
            let shared = Arc::clone(&self.shared);
            let thread = std::thread::Builder::new().name("proposer".into());
            let (ends, done) = crossbeam_channel::bounded::<()>(0);
            let work = move || {
                desk.work(&waiting, &shared);
                drop(ends);
            };
            let handle = thread.spawn(work).map_err(|error| io_words(&error))?;
            (self.tasks, self.thread) = (Some(tasks), Some(Thread { handle, done }));
        }
        self.shared.awaited.store(true, Ordering::SeqCst);
        self.give(Task::Ask { stage, index, snapshot });
        Ok(())
    }

    /// A stage has closed: its proposer, if it has one, gets the remaining results and ends.
    pub(super) fn close(&mut self, stage: StageIndex, snapshot: Snapshot) {
        self.give(Task::Close { stage, snapshot });
    }

    fn give(&self, task: Task) {
        if let Some(tasks) = &self.tasks {
            // A thread that is gone has said why.
            let _ = tasks.send(task);
        }
    }

    /// Ends the proposer that runs, if one does: at once when the study is being forced to end or an answer is still
    /// awaited (it would not notice the end of its input), else when it has seen that nothing is asked any more.
    pub(super) fn end(&mut self, at_once: bool) {
        self.tasks = None;
        self.shared.ending.store(true, Ordering::SeqCst);
        let Some(thread) = self.thread.take() else { return };
        let runs = self.shared.runs.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(end) = runs {
            if at_once {
                end.kill();
            } else if self.shared.awaited.load(Ordering::SeqCst) {
                end.terminate();
                // Nothing is ever sent: the channel closes when the thread ends.
                if thread.done.recv_timeout(self.grace) == Err(RecvTimeoutError::Timeout) {
                    end.kill();
                }
            }
        }
        if thread.handle.join().is_err() {
            log::warn!("the proposer's thread failed unexpectedly");
        }
    }
}

impl Desk {
    fn work(&self, tasks: &Receiver<Task>, shared: &Shared) {
        let mut talk: Option<(StageIndex, Talk)> = None;
        for task in tasks {
            match task {
                Task::Ask { stage, index, snapshot } => {
                    if talk.as_ref().is_none_or(|(of, _)| *of != stage)
                        && let Some((_, ended)) = talk.take()
                    {
                        ended.end(shared, self.runtime.grace);
                    }
                    let said = self.ask(&mut talk, shared, stage, index, &snapshot);
                    drop(snapshot);
                    shared.awaited.store(false, Ordering::SeqCst);
                    let said = said.unwrap_or_else(Said::Failed);
                    // If the loop is gone nobody wants to know.
                    let _ = self.events.send(ExecutorEvent::Proposed(Box::new(Answer { stage, index, said })));
                }
                Task::Close { stage, snapshot } => {
                    if let Some((_, mut talk)) = talk.take_if(|(of, _)| *of == stage) {
                        if let Err(why) = self.tell_all(&mut talk, stage, &snapshot) {
                            log::warn!("the proposer of a stage that has closed was not told everything: {why}");
                        }
                        drop(snapshot);
                        talk.end(shared, self.runtime.grace);
                    }
                }
            }
        }
        if let Some((_, talk)) = talk {
            talk.end(shared, self.runtime.grace);
        }
    }

    fn ask(
        &self,
        talk: &mut Option<(StageIndex, Talk)>,
        shared: &Shared,
        stage: StageIndex,
        index: u64,
        snapshot: &Snapshot,
    ) -> Result<Said, String> {
        let record = Record::load(&self.spec, snapshot, stage)?;
        let named = |why: String| format!("the proposer of stage `{}`: {why}", record.stage.name);
        let mut starts = 0;
        let proposed = loop {
            let one = match talk {
                Some((_, talk)) => talk,
                None => {
                    starts += 1;
                    &mut talk.insert((stage, self.start(&record, shared).map_err(named)?)).1
                }
            };
            match one.dialogue.propose(&mut one.process, &record, index) {
                Ok(proposed) => break proposed,
                // A trial that killed the keeper killed it along: one that starts anew hears all of it again.
                Err(_) if starts < STARTS && one.process.was_lost() => *talk = None,
                Err(why) => return Err(named(why)),
            }
        };
        Ok(match proposed {
            Proposed::Values(values, merged) => Said::Values { values, merged },
            Proposed::NoMore(why) => Said::NoMore(why),
        })
    }

    fn tell_all(&self, talk: &mut Talk, stage: StageIndex, snapshot: &Snapshot) -> Result<(), String> {
        let record = Record::load(&self.spec, snapshot, stage)?;
        talk.dialogue.tell_all(&mut talk.process, &record, record.row()?.planned())
    }

    fn start(&self, record: &Record<'_>, shared: &Shared) -> Result<Talk, String> {
        let Some(keeper) = &self.keeper else { return Err("no command can be run here".into()) };
        let lineage = record.lineage();
        let seed = lineage.proposer_seed(record.index);
        let dir = self.dir(record);
        let study = &self.spec.study;
        let params = self.spec.constants();
        let job = Job {
            key: AttemptKey { study: self.study, trial: TrialId::PROPOSER, attempt: 1 },
            slot: 0,
            given: Vec::new(),
            stage: record.index,
            case: study.base_case.clone(),
            parent_case: study.base_case.clone(),
            parent_dir: None,
            inherited: None,
            params: params.clone(),
            seed,
            replica: None,
            scratch_dir: dir.join(SCRATCH_DIR),
            opened_ms: None,
            last_started_ms: None,
            inputs_changed_ms: None,
            keeps_from_before_ms: None,
            takes: None,
            dir,
            stage_spec: Arc::new(StageRuntime::of_proposer(&self.runtime, &record.stage.name, record.proposer)),
        };
        let log = job.dir.join(STDERR_LOG);
        let mut process = ProposerProcess::start(keeper, &job, told_of(record.stage.name.clone(), log))?;
        *shared.runs.lock().unwrap_or_else(PoisonError::into_inner) = Some(process.end_handle());
        if shared.ending.load(Ordering::SeqCst) {
            process.end_handle().kill();
        }
        let opening = Opening {
            study: &study.name,
            stage_index: record.index,
            seed,
            stage: record.stage,
            parallel: record.proposer.parallel,
            params,
        };
        let dialogue = Dialogue::open(&mut process, &opening)?;
        dialogue.tell_imported(&mut process, record)?;
        Ok(Talk { process, dialogue })
    }

    fn dir(&self, record: &Record<'_>) -> PathBuf {
        self.paths.case_dir(&self.spec, record.index, PROPOSER_DIR)
    }
}

/// Says what a proposer keeps the study waiting for.
fn told_of(stage: String, log: PathBuf) -> OnWait {
    Box::new(move |waiting, waited| {
        let seconds = waited.as_secs();
        let log = log.display();
        match waiting {
            Waiting::Silent => log::warn!(
                "the proposer of stage `{stage}` has not answered for {seconds} s. {FLUSH_HINT}; what it says beside that is in `{log}`"
            ),
            Waiting::Unended(line) => log::warn!(
                "the proposer of stage `{stage}` has not ended its line for {seconds} s: `{}`. An answer is a whole line",
                answer::shown(line)
            ),
            Waiting::Lingering(left) => log::warn!(
                "the proposer of stage `{stage}` does not end, though its input has for {seconds} s; it is killed in {} s",
                left.as_secs()
            ),
            Waiting::Deaf => log::warn!(
                "the proposer of stage `{stage}` has not read what it is told for {seconds} s: it must read its standard input line by line"
            ),
        }
    })
}

/// A proposer that runs, and how far the conversation with it has come.
struct Talk {
    process: ProposerProcess,
    dialogue: Dialogue,
}

impl Talk {
    fn end(self, shared: &Shared, patience: Duration) {
        self.process.end(patience);
        *shared.runs.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Partner for ProposerProcess {
    fn say(&mut self, line: &str) -> Result<(), String> {
        self.say(line)
    }
    fn hear(&mut self) -> Result<String, String> {
        self.hear()
    }
}

/// A stage as its store has it.
struct Record<'a> {
    spec: &'a Spec,
    snapshot: &'a Snapshot,
    index: StageIndex,
    stage: &'a StageSpec,
    proposer: &'a Proposer,
    stages: Vec<StageRow>,
    /// Of the survivors.
    proposals: Proposals,
}

impl<'a> Record<'a> {
    fn load(spec: &'a Spec, snapshot: &'a Snapshot, index: StageIndex) -> Result<Self, String> {
        let stage = spec.stages.get(index as usize).ok_or_else(|| format!("there is no stage {index}"))?;
        let Sampling::Ask(proposer) = &stage.sampling else {
            return Err(format!("stage `{}` has no proposer", stage.name));
        };
        let stages = snapshot.stages().map_err(unread)?;
        let proposals = parents_proposals(snapshot, &stages).map_err(unread)?;
        Ok(Self { spec, snapshot, index, stage, proposer, stages, proposals })
    }

    fn lineage(&self) -> Lineage<'_> {
        Lineage::new(self.spec, &self.stages).with_proposals(&self.proposals)
    }

    fn row(&self) -> Result<&StageRow, String> {
        self.stages.get(self.index as usize).ok_or_else(|| format!("there is no stage {}", self.index))
    }

    fn number(&self, index: u64) -> Result<TrialId, String> {
        Ok(TrialId(self.row()?.first_trial.0.saturating_add(index)))
    }
}

impl Past for Record<'_> {
    fn values(&self, index: u64) -> Result<Vec<(String, Value)>, String> {
        let values = self.snapshot.proposal(self.number(index)?).map_err(unread)?;
        values.ok_or_else(|| format!("it is not recorded what was proposed for `{}`", self.case(index)))
    }

    fn trial(&self, index: u64) -> Result<TrialRow, String> {
        let row = self.snapshot.trial(self.number(index)?).map_err(unread)?;
        row.ok_or_else(|| format!("`{}` has not run", self.case(index)))
    }

    fn parent(&self, index: u64) -> Result<(String, Params), String> {
        let lineage = self.lineage();
        let position = self.row()?.share_of(index).map(|(position, _)| position);
        let parent =
            position.and_then(|position| self.row().ok()?.parents.get(position)).map(|parent| parent.trial);
        let found = match parent {
            None => Some((self.spec.study.base_case.clone(), self.spec.constants())),
            Some(trial) => lineage
                .locate(trial)
                .and_then(|(stage, place)| Some((lineage.case(stage, place), lineage.params(stage, place)?))),
        };
        found.ok_or_else(|| format!("the parent of `{}` is not known", self.case(index)))
    }

    fn case(&self, index: u64) -> String {
        self.lineage().case(self.index, index)
    }

    fn imported(&self) -> Result<Vec<ToldResult>, String> {
        let told = self.snapshot.told(self.index).map_err(unread)?;
        Ok(told.into_iter().flat_map(|told| told.results).collect())
    }
}

fn unread(error: crate::journal::JournalError) -> String {
    format!("the store cannot be read: {error}")
}
