//! Large stores, written through the journal as an engine would, without running that many processes.

use std::path::Path;
use std::process::{Command, Stdio};

use piton::model::{AttemptEnd, EngineId, Event, Exit, Next, ProcessId, TrialId, Usage, Verdict};
use piton::program::engine::Draft;
use piton::{Journal, Study};

use crate::bench::Fallible;
use crate::measure::{run, worker};
use crate::studies;

/// Events in one commit while a store is written.
const BATCH: u64 = 2_000;

/// A store of `budget` trials of a command, of which `finished` are done, as `kill -9` leaves it.
pub fn killed(store: &Path, finished: u64, budget: u64, command: &[&str]) -> Fallible<()> {
    let mut writer = worker("store")?;
    writer.arg(store).args([finished.to_string(), budget.to_string()]).args(command);
    let dir = store.parent().ok_or("a store lies in a directory")?;
    // It ends itself by SIGKILL, so its status tells nothing; its figures do.
    let mut child = writer.current_dir(dir).stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
    let status = child.wait()?;
    match std::os::unix::process::ExitStatusExt::signal(&status) {
        Some(libc::SIGKILL) => Ok(()),
        _ => Err(format!("the writer of a store ended with {status}").into()),
    }
}

/// The worker: writes the store and kills itself while two trials run.
pub fn write(store: &Path, finished: u64, budget: u64, command: &[String]) -> Fallible<()> {
    // Made by a run that is asked to stop before it begins.
    let study = Study::new(studies::of_commands(budget, command)?).store(store).workers(2);
    study.shutdown_handle().drain();
    study.run()?;
    let mut journal = Journal::open(store)?;
    let mut draft = Draft::load(&journal.snapshot()?)?;
    // Nobody can have this process any more: it ended in another boot.
    let process = ProcessId { pid: 4_194_304, start_ticks: 1 };
    let engine = EngineId { process, boot_id: "another boot".into(), host: "bench".into() };
    let mut at_ms = 1_700_000_000_000;
    draft.emit(at_ms, 0, Event::RunStarted { engine, workers: 2, sync_interval_ms: 0 })?;
    draft.emit(at_ms, 0, Event::StageOpened { stage: 0, parents: Vec::new(), shares: vec![budget] })?;
    for trial in 0..finished {
        at_ms += 400;
        start(&mut draft, trial, at_ms)?;
        end(&mut draft, trial, at_ms + 700)?;
        if trial % (BATCH / 2) == 0 {
            commit(&mut journal, &mut draft)?;
        }
    }
    (finished..budget.min(finished + 2)).try_for_each(|trial| start(&mut draft, trial, at_ms))?;
    commit(&mut journal, &mut draft)?;
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)?;
    Err("outlived its own SIGKILL".into())
}

fn commit(journal: &mut Journal, draft: &mut Draft) -> Fallible<()> {
    let set = draft.take();
    journal.commit(&set)?;
    draft.forget_final(&set);
    Ok(())
}

fn start(draft: &mut Draft, trial: u64, at_ms: i64) -> Fallible<()> {
    let slot = u32::try_from(trial % 2)?;
    let process = ProcessId { pid: 10_000 + u32::try_from(trial % 100_000)?, start_ticks: 5_000 + trial };
    let event = Event::AttemptStarted {
        trial: TrialId(trial),
        attempt: 1,
        slot,
        process: Some(process),
        executor: piton::model::ExecutorKind::Local,
    };
    Ok(draft.emit(at_ms, u64::try_from(at_ms - 1_700_000_000_000)?, event)?)
}

#[expect(clippy::cast_precision_loss, reason = "a number like any other")]
fn end(draft: &mut Draft, trial: u64, at_ms: i64) -> Fallible<()> {
    let usage =
        Usage { wall_us: 700_000 + trial % 1_000, cpu_us: 650_000 + trial % 999, peak_rss_bytes: 48 << 20 };
    let metrics = studies::metrics_of(trial as f64 * 1.37);
    let end = AttemptEnd {
        trial: TrialId(trial),
        attempt: 1,
        ended_ms: at_ms,
        exit: Some(Exit::Code(0)),
        usage,
        verdict: Verdict::Succeeded { metrics, outputs: Vec::new() },
        next: Next::Final,
    };
    let run_ms = u64::try_from(at_ms - 1_700_000_000_000)?;
    Ok(draft.emit(at_ms, run_ms, Event::AttemptEnded(Box::new(end)))?)
}

/// The worker that a resumed study runs as its trial: tells, once, when the first of them began.
pub fn stamp(file: &Path) -> Fallible<()> {
    let now = monotonic_ns();
    let metrics = std::env::var("PITON_METRICS_FILE")?;
    std::fs::write(metrics, "{\"area_um2\": 1.5, \"wns_ps\": 2.5}")?;
    match std::fs::File::create_new(file) {
        Ok(mut file) => Ok(std::io::Write::write_all(&mut file, now.to_string().as_bytes())?),
        Err(_) => Ok(()),
    }
}

/// The same clock in every process of this boot.
pub fn monotonic_ns() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

/// A copy of a store, so that each repetition finds it as it was: on the disk, where a commit put it, so that nobody has to
/// wait for the copy to get there.
pub fn copied(from: &Path, to: &Path) -> Fallible<()> {
    run(Command::new("cp").args(["-r", "--reflink=auto"]).arg(from).arg(to))?;
    Ok(std::fs::File::open(to)?.sync_all()?)
}
