//! The exports beside a run.
//!
//! They are views of the store and nothing else needs them: no failure here may end a run, or hold one up.

use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender};

use crate::engine::hooks::Hooks;
use crate::engine::{Draft, Observer};
use crate::executor::local::strays::KilledStray;
use crate::journal::Snapshot;
use crate::model::{Record, Seq, StageIndex};
use crate::paths::StudyPaths;
use crate::sys::words;
use crate::views::{Survivor, ViewError, survivors, telemetry};

/// Brings the exports up to date beside the engine: from a thread of its own after each stage, and before `run`
/// returns. They are views: a failure ends no study; one of the last exports is reported at the end.
pub(crate) struct Exporting<'a> {
    paths: StudyPaths,
    inner: &'a mut dyn Observer,
    /// The program of `on_event`, which hears when a stage closes and the run ends.
    pub(crate) hooks: Option<Hooks>,
    sender: Option<Sender<Snapshot>>,
    /// The thread's own end, to take back a snapshot that is not the newest any more.
    waiting: Receiver<Snapshot>,
    thread: Option<JoinHandle<()>>,
    /// What the thread has not got round to yet, in a simulation.
    #[cfg(test)]
    later: Option<Snapshot>,
    /// Why the last exports could not be written.
    pub(crate) failed: Option<String>,
    /// What the study came to by the end of the run.
    pub(crate) survivors: Result<Vec<Survivor>, ViewError>,
}

impl<'a> Exporting<'a> {
    pub(crate) fn start(paths: StudyPaths, observer: &'a mut dyn Observer) -> Self {
        // Room for one: a snapshot that waits pins what it sees, and only the newest is of use.
        let (sender, waiting) = crossbeam_channel::bounded::<Snapshot>(1);
        let mut this = Self {
            paths,
            inner: observer,
            hooks: None,
            sender: Some(sender),
            waiting,
            thread: None,
            failed: None,
            survivors: Ok(Vec::new()),
            #[cfg(test)]
            later: None,
        };
        // A simulation has one thread.
        simulated!(|_machine| this);
        let (places, snapshots) = (this.paths.clone(), this.waiting.clone());
        let thread = std::thread::Builder::new().name("exports".into()).spawn(move || {
            for snapshot in snapshots {
                told(telemetry::write_sums(&snapshot, &places.artifacts), &places);
            }
        });
        this.thread = thread.map_err(|error| log::warn!("exports are written at the end only: {error}")).ok();
        this
    }

    /// In a simulation the thread gets its turn when chance will have it: of a hundred times so often.
    #[cfg(test)]
    fn turn(&mut self, percent: u8) {
        let Some(machine) = crate::sys::simulated::machine() else { return };
        let mut random = [0];
        machine.random(&mut random);
        if self.later.is_some() && random[0] % 100 < percent {
            let snapshot = self.later.take();
            let snapshot = snapshot.filter(|_| !machine.exports_fail());
            snapshot
                .into_iter()
                .for_each(|it| told(telemetry::write_sums(&it, &self.paths.artifacts), &self.paths));
        }
    }
}

/// Writes them all; why not, in words.
pub(crate) fn write_exports(snapshot: &Snapshot, paths: &StudyPaths) -> Option<String> {
    #[cfg(test)]
    if crate::sys::simulated::machine().is_some_and(|machine| machine.exports_fail()) {
        return None;
    }
    let error = telemetry::write_all(snapshot, &paths.artifacts).err()?;
    let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
    Some(causes.map(|error| words::plain(&error.to_string())).collect::<Vec<_>>().join(": "))
}

/// Exports are views: a failure is nobody's but theirs.
fn told(written: Result<(), ViewError>, paths: &StudyPaths) {
    if let Err(error) = written {
        log::warn!("cannot write the exports in `{}`: {error}", paths.artifacts.display());
    }
}

impl Observer for Exporting<'_> {
    fn committed(&mut self, seq: Seq, record: &Record, draft: &Draft) {
        self.inner.committed(seq, record, draft);
        if let Some(hooks) = &mut self.hooks {
            hooks.committed(record, draft);
        }
        #[cfg(test)]
        self.turn(20);
    }
    fn killed_strays(&mut self, strays: &[KilledStray]) {
        self.inner.killed_strays(strays);
    }
    fn draining(&mut self, running: usize) {
        self.inner.draining(running);
    }
    fn forcing(&mut self, running: usize) {
        self.inner.forcing(running);
    }
    fn stage_closed(&mut self, _: StageIndex, snapshot: Snapshot) {
        simulated!(|_machine| {
            self.later = Some(snapshot);
            self.turn(30);
        });
        if let Some(sender) = self.sender.as_ref().filter(|_| self.thread.is_some()) {
            drop(self.waiting.try_recv());
            drop(sender.try_send(snapshot));
        }
    }
    fn ended(&mut self, snapshot: &Snapshot) {
        self.sender = None;
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
        #[cfg(test)]
        self.turn(100);
        self.failed = write_exports(snapshot, &self.paths);
        self.survivors = survivors(snapshot);
        self.inner.ended(snapshot);
    }
}
