//! `[run] on_event`: a program that hears when a stage closes and when a run ends.
//!
//! An event is on disk before the program hears of it. A thread of its own passes events on, one after the other. The
//! engine never waits for the program, and the end of a run waits for a limited time. Its failure is a warning, and changes
//! nothing else. A request to end shortens the wait at the end of a run, and a second one ends it; the study's outcome
//! stays as it is. The program runs at the keeper, which ends it along with all that it started. It hears of an event at
//! most once: those that it had not heard of when an engine died are lost to it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select};
use serde::Serialize;

use super::draft::Draft;
use super::shutdown::{Control, ShutdownHandle};
use crate::executor::local::keeper::KeeperClient;
use crate::model::{Accounting, Event, Record, RunEnd, StageIndex, StudyStatus};
use crate::study_file::Spec;
use crate::sys::helper::{self, Deadline};
use crate::sys::signals::{SignalEvent, stop_self};
use crate::sys::words::io_words;

/// How long it may take for one event.
const LIMIT: Duration = Duration::from_secs(30);
/// How long when the run is being forced to end.
const LIMIT_FORCED: Duration = Duration::from_secs(5);
/// How long the end of a run waits for the events that are left.
const LAST: Duration = Duration::from_secs(60);
/// Events that may wait; more are left out, with a warning.
const WAITING: usize = 64;
/// Most survivors that are named.
const SURVIVORS: usize = 100;

/// A message to the program, as JSON on its standard input.
#[derive(Debug, Serialize)]
struct HookMessage {
    schema: u32,
    /// `stage_closed`, or how the run ended: `completed`, `aborted`, `interrupted`, `waiting` (for approval), `failed`.
    event: &'static str,
    study: String,
    store: PathBuf,
    /// The stage that closed; `null` at the end of a run.
    stage: Option<HookStage>,
    /// Why the study was aborted.
    reason: Option<String>,
    accounting: Accounting,
    #[serde(skip)]
    limit: Duration,
}

#[derive(Debug, Serialize)]
struct HookStage {
    index: StageIndex,
    name: String,
    planned: u64,
    succeeded: u64,
    /// Of these, how many took the result of an equal trial.
    reused: u64,
    /// Of those that succeeded, how many have a result that was made elsewhere.
    imported: u64,
    failed: u64,
    /// The survivors' cases, best first; at most a hundred.
    survivors: Vec<String>,
    survivor_count: u64,
}

#[derive(Debug)]
pub(crate) struct Hooks {
    spec: Spec,
    store: PathBuf,
    sender: Option<Sender<HookMessage>>,
    thread: Option<JoinHandle<()>>,
    /// The thread has the other end.
    done: Receiver<()>,
    /// When the last message has to be through; set once the run is over.
    deadline: Arc<Deadline>,
}

impl Hooks {
    /// `None` for a study without a hook, or if no thread can be had. The program runs at `keeper`, if there is one.
    #[must_use]
    pub(crate) fn start(
        spec: &Spec,
        store: &Path,
        study_dir: &Path,
        keeper: Option<KeeperClient>,
    ) -> Option<Self> {
        let (program, args) = spec.run.on_event.split_first()?;
        let (sender, told) = bounded(WAITING);
        let (working, done) = bounded(0);
        let program = if program.contains('/') { study_dir.join(program) } else { program.into() };
        let (args, dir) = (args.to_vec(), study_dir.to_owned());
        let started = Deadline::new().and_then(|deadline| {
            let deadline = Arc::new(deadline);
            let until = Arc::clone(&deadline);
            let work = move || {
                let _host = keeper.map(|keeper| keeper.hosts_helpers());
                work(&program, &args, &dir, &told, &until);
                drop::<Sender<()>>(working);
            };
            Ok((std::thread::Builder::new().name("on_event".into()).spawn(work)?, deadline))
        });
        let (thread, deadline) =
            started.map_err(|error| log::warn!("`on_event` is told nothing: {}", io_words(&error))).ok()?;
        let store = std::path::absolute(store).unwrap_or_else(|_| store.to_owned());
        Some(Self { spec: spec.clone(), store, sender: Some(sender), thread: Some(thread), done, deadline })
    }

    /// An event is on disk.
    pub(crate) fn committed(&mut self, record: &Record, draft: &Draft) {
        let (event, stage) = match &record.event {
            Event::StageClosed { stage, .. } => ("stage_closed", self.stage(*stage, draft)),
            Event::RunEnded { how } => (word(*how), None),
            _ => return,
        };
        let study = draft.study_row();
        let forced = matches!(record.event, Event::RunEnded { how: RunEnd::Forced });
        let told = HookMessage {
            schema: 1,
            event,
            study: study.name.clone(),
            store: self.store.clone(),
            stage,
            reason: study.abort_reason.clone(),
            accounting: draft.progress_row().accounting,
            limit: if forced { LIMIT_FORCED } else { LIMIT },
        };
        if self.sender.as_ref().is_some_and(|sender| sender.try_send(told).is_err()) {
            log::warn!("`on_event` is too slow: `{event}` is left out");
        }
    }

    fn stage(&self, index: StageIndex, draft: &Draft) -> Option<HookStage> {
        let summary = draft.summary(&self.spec, index)?;
        Some(HookStage {
            index,
            name: summary.row.name.clone(),
            planned: summary.trials.planned,
            succeeded: summary.trials.succeeded,
            reused: summary.counters.reused,
            imported: summary.counters.imported,
            failed: summary.trials.failed,
            survivors: summary.survivors().take(SURVIVORS).collect(),
            survivor_count: summary.survived(),
        })
    }

    /// Waits until the last message is through, or its time is up. Requests to end come by `shutdown`.
    pub(crate) fn finish(mut self, shutdown: &ShutdownHandle) {
        self.sender = None;
        self.deadline.bring_forward(Instant::now() + LAST);
        let mut patience = LIMIT_FORCED;
        loop {
            select! {
                recv(self.done) -> _ => break,
                recv(shutdown.receiver()) -> asked => match asked {
                    Ok(Control::Signal(SignalEvent::Tstp)) => {
                        if let Err(error) = stop_self() {
                            log::warn!("cannot stop: {error}");
                        }
                    }
                    Ok(Control::Signal(signal)) if !signal.asks_to_end() => {}
                    Ok(_) => {
                        self.deadline.bring_forward(Instant::now() + patience);
                        patience = Duration::ZERO;
                    }
                    // Cannot be: the handle has a sender of its own.
                    Err(_) => break,
                },
            }
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::warn!("the thread of `on_event` failed unexpectedly");
        }
    }
}

const fn word(how: RunEnd) -> &'static str {
    match how {
        // How hard the run was asked to end is no concern of the program's.
        RunEnd::Drained | RunEnd::Forced => StudyStatus::Interrupted.name(),
        RunEnd::Completed | RunEnd::Aborted | RunEnd::Waiting | RunEnd::Failed => how.name(),
    }
}

fn work(program: &Path, args: &[String], dir: &Path, told: &Receiver<HookMessage>, deadline: &Deadline) {
    for told in told {
        if deadline.is_over() {
            log::warn!("`on_event` took too long: `{}` is left out", told.event);
            continue;
        }
        if let Err(why) = tell(program, args, dir, &told, deadline) {
            log::warn!("`on_event` for `{}`: {why}", told.event);
        }
    }
}

fn tell(
    program: &Path,
    args: &[String],
    dir: &Path,
    told: &HookMessage,
    deadline: &Deadline,
) -> Result<(), String> {
    let mut json = serde_json::to_vec(told).map_err(|error| error.to_string())?;
    // A line, as `read` and `jq` take it.
    json.push(b'\n');
    let mut command = Command::new(program);
    command.args(args).current_dir(dir);
    command.env("PITON_EVENT", told.event).env("PITON_STUDY", &told.study).env("PITON_STORE", &told.store);
    let ended = helper::run_until(&mut command, &json, told.limit, deadline)
        .map_err(|error| format!("`{}` cannot be run: {}", program.display(), io_words(&error)))?;
    let said = if ended.said.is_empty() { String::new() } else { format!("; it said: {}", ended.said) };
    match ended.status {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(format!("it ended with {status}{said}")),
        None if deadline.is_over() => Err(format!("it was ended with the run{said}")),
        None => Err(format!("it was ended after {} s{said}", told.limit.as_secs())),
    }
}
