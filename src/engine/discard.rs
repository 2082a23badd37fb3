//! Discarding what `keep` does not keep: what of it is recorded, and the removal of what was recorded.
//!
//! The record comes first, in a commit of its own. What it names is removed afterwards, again and again until that was done once to the
//! end: a crash, or a request to stop, leaves it to the next start. Nothing may be removed here that no record names. What lies in a
//! study's directories may be anything: no link is followed, and what cannot be removed is told and stays.

use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use super::EngineError;
use crate::journal::{Journal, JournalError, Snapshot};
use crate::model::artifacts::{METRICS_FILE, PROGRESS_FILE, STDERR_LOG, STDOUT_LOG, attempt_name};
use crate::model::{
    AttemptNo, DirectoriesDiscarded, DiscardRun, Event, Kept, Record, StageIndex, StageRow, Tidied, TrialId,
    TrialRow,
};
use crate::paths::{StudyPaths, stage_name};
use crate::plan::{Lineage, keep};
use crate::study_file::{Spec, StageSpec};
use crate::sys::clock;
use crate::sys::opened::Opened;
use crate::sys::removal::{Removing, Taken};
use crate::sys::words::io_words;

/// Where a study's directories are, and what they are called.
#[derive(Clone, Copy)]
pub(crate) struct Ground<'a> {
    pub(crate) spec: &'a Spec,
    pub(crate) paths: &'a StudyPaths,
    pub(crate) stages: &'a [StageRow],
}

/// What came of a removal.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) taken: Taken,
    /// What could not be removed, or was not, since a request to stop came.
    pub(crate) left: u64,
}

/// What is to be discarded now by what the study itself says, as events to record.
///
/// # Errors
/// [`JournalError`] from reading the store.
pub(crate) fn due(snapshot: &Snapshot, spec: &Spec, stages: &[StageRow]) -> Result<Vec<Event>, JournalError> {
    let needed = keep::needed(stages);
    let mut events = Vec::new();
    for (index, tidied) in keep::due(spec, stages) {
        let (Some(stage), Some(spec)) = (stages.get(index as usize), spec.stages.get(index as usize)) else {
            continue;
        };
        let rows = snapshot.trials(stage.first_trial, stage.end())?;
        let runs = keep::discards(stage, spec.keep, &needed, tidied, rows)?;
        events.push(recorded(index, tidied, runs));
    }
    Ok(events)
}

/// The stages that such events are about.
pub(crate) fn stages_of(events: &[Event]) -> Vec<StageIndex> {
    let stage = |event: &Event| match event {
        Event::DirectoriesDiscarded(discarded) => Some(discarded.stage),
        _ => None,
    };
    events.iter().filter_map(stage).collect()
}

pub(crate) fn recorded(stage: StageIndex, tidied: Tidied, runs: Vec<DiscardRun>) -> Event {
    Event::DirectoriesDiscarded(Box::new(DirectoriesDiscarded { stage, tidied, runs }))
}

/// The rows of trials that such an event names, as it leaves them.
///
/// # Errors
/// [`JournalError`] from reading the store.
pub(crate) fn named_by(snapshot: &Snapshot, event: &Event) -> Result<Vec<TrialRow>, JournalError> {
    let Event::DirectoriesDiscarded(discarded) = event else { return Ok(Vec::new()) };
    let mut rows = Vec::new();
    for run in &discarded.runs {
        for row in snapshot.trials(run.first, TrialId(run.first.0.saturating_add(run.count)))? {
            let mut row = row?;
            row.discard(run.keeps);
            rows.push(row);
        }
    }
    Ok(rows)
}

/// Finishes what an earlier engine, or `piton gc`, began to discard, if anything, and records that. Nothing of the study may run.
///
/// # Errors
/// What reading or writing the store fails with.
pub(crate) fn finish_left(
    journal: &mut Journal,
    spec: &Spec,
    paths: &StudyPaths,
    stop: &dyn Fn() -> bool,
) -> Result<Vec<Event>, EngineError> {
    let snapshot = journal.snapshot()?;
    let stages = snapshot.stages()?;
    if stages.iter().all(|stage| !stage.discarding) || injected_fault!(DiscardNotResumed) {
        return Ok(Vec::new());
    }
    log::info!("finishing to remove what was discarded before");
    let all: Vec<StageIndex> = stages.iter().map(|stage| stage.index).collect();
    let events = carry_out(&snapshot, Ground { spec, paths, stages: &stages }, &all, stop)?;
    drop(snapshot);
    let record = |event: &Event| Record { at_ms: clock::unix_ms(), run_ms: 0, event: event.clone() };
    let records: Vec<Record> = events.iter().map(record).collect();
    if !records.is_empty() {
        journal.append(&records)?;
    }
    Ok(events)
}

/// Removes all that is recorded as discarded of these stages and is not known to be gone; the events that say of which it is now. `stop` is
/// asked before each trial.
///
/// # Errors
/// [`JournalError`] from reading the store.
pub(crate) fn carry_out(
    snapshot: &Snapshot,
    ground: Ground<'_>,
    of: &[StageIndex],
    stop: &dyn Fn() -> bool,
) -> Result<Vec<Event>, JournalError> {
    let mut events = Vec::new();
    for stage in ground.stages.iter().filter(|stage| stage.discarding && of.contains(&stage.index)) {
        let rows = snapshot.trials(stage.first_trial, stage.end())?;
        let Outcome { taken, left } = remove(ground, stage, rows, Removing::Really, stop)?;
        if left == 0 {
            let Taken { bytes, inodes } = taken;
            events.push(Event::DiscardFinished { stage: stage.index, bytes, inodes });
        }
    }
    Ok(events)
}

/// Removes, durably, what these rows of a stage's trials say is discarded; or counts it.
///
/// # Errors
/// What `rows` fails with.
pub(crate) fn remove(
    ground: Ground<'_>,
    stage: &StageRow,
    rows: impl Iterator<Item = Result<TrialRow, JournalError>>,
    how: Removing,
    stop: &dyn Fn() -> bool,
) -> Result<Outcome, JournalError> {
    let mut outcome = Outcome::default();
    let name = stage_name(stage.index, &stage.name);
    let root = ground.paths.study_artifacts(&ground.spec.study.name);
    let opened = Opened::dir(&root).and_then(|root| enter(&root, OsStr::new(&name)));
    let dir = match opened {
        Err(error) if is_nothing(&error) => return Ok(outcome),
        Err(error) => {
            log::warn!("cannot discard anything in `{}`: {}", root.join(&name).display(), io_words(&error));
            outcome.left += 1;
            return Ok(outcome);
        }
        Ok(dir) => dir,
    };
    let lineage = Lineage::new(ground.spec, ground.stages);
    let Some(spec) = ground.spec.stages.get(stage.index as usize) else { return Ok(outcome) };
    let thinned = RefCell::default();
    for row in rows {
        let row = row?;
        if row.discarded.is_empty() {
            continue;
        }
        if stop() {
            outcome.left += 1;
            break;
        }
        let case = Case { spec, row: &row, how, thinned: &thinned };
        let name = lineage.case(stage.index, row.trial.0.saturating_sub(stage.first_trial.0));
        match case.discard(&dir, OsStr::new(&name), &mut outcome.taken) {
            Err(error) if !is_nothing(&error) => {
                outcome.left += 1;
                log::warn!("cannot discard all of `{name}`: {}", io_words(&error));
            }
            _ => {}
        }
    }
    if how == Removing::Really
        && !injected_fault!(DiscardNotSynced)
        && let Err(error) = thinned.into_inner().sync(&dir)
    {
        outcome.left += 1;
        log::warn!(
            "cannot make durable that `{}` was tidied up: {}",
            root.join(&name).display(),
            io_words(&error)
        );
    }
    Ok(outcome)
}

fn is_nothing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Directories of a stage that stay, and that something was removed from: by their paths in it.
#[derive(Debug, Default)]
struct Thinned {
    dirs: Vec<PathBuf>,
    /// There are more of them than are held.
    more: bool,
}

/// Most directories that are synced each by itself.
const THINNED_MAX: usize = 100;

impl Thinned {
    fn add(&mut self, dir: &Path) {
        match self.dirs.len() < THINNED_MAX {
            true => self.dirs.push(dir.to_path_buf()),
            false => self.more = true,
        }
    }

    /// Makes durable what was removed from them, and from the stage's directory. All of the file system is synced only where they are many, or
    /// one cannot be synced: that waits for whatever anybody has written there.
    fn sync(&self, stage: &Opened) -> io::Result<()> {
        let each = || {
            stage.sync()?;
            for path in &self.dirs {
                let mut names = names_of(path).into_iter();
                let Some(first) = names.next() else { continue };
                names.try_fold(enter(stage, &first)?, |dir, name| enter(&dir, &name))?.sync()?;
            }
            Ok(())
        };
        match self.more {
            true => stage.sync_file_system(),
            false => each().or_else(|error: io::Error| {
                log::debug!("a directory cannot be synced by itself: {}", io_words(&error));
                stage.sync_file_system()
            }),
        }
    }
}

/// Opens a directory that a trial may have closed to its owner.
fn enter(above: &Opened, name: &OsStr) -> io::Result<Opened> {
    match above.enter(name) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            above.let_owner_in_at(name)?;
            above.enter(name)
        }
        other => other,
    }
}

/// The directory of one trial's case.
struct Case<'a> {
    spec: &'a StageSpec,
    row: &'a TrialRow,
    how: Removing,
    thinned: &'a RefCell<Thinned>,
}

impl Case<'_> {
    fn discard(&self, stage: &Opened, name: &OsStr, taken: &mut Taken) -> io::Result<()> {
        // What belongs to no attempt: later attempts, if there are any, have what is there by now.
        let last = AttemptNo::try_from(self.row.attempts.len()).unwrap_or(AttemptNo::MAX);
        let rest = self.row.kept_of(last);
        let (case, at) = (enter(stage, name)?, Path::new(name));
        if rest == Kept::Nothing {
            drop(case);
            return stage.remove_counted(name, self.how, taken);
        }
        let is_left = self.sift(&case, taken, &mut |name, taken| match attempt_of(name, last) {
            Some(attempt) => match self.row.kept_of(attempt) {
                Kept::All => Ok(true),
                Kept::Nothing => self.remove(&case, name, taken),
                kept => self.attempt(&case, name, kept, &at.join(name), taken),
            },
            None if rest.is_all() || name == PROGRESS_FILE => Ok(true),
            None => self.remove(&case, name, taken),
        })?;
        match is_left {
            true => self.thinned.borrow_mut().add(at),
            false => stage.remove_counted(name, self.how, taken)?,
        }
        Ok(())
    }

    /// Of an attempt's directory; whether anything is left.
    fn attempt(&self, case: &Opened, name: &OsStr, kept: Kept, at: &Path, taken: &mut Taken) -> io::Result<bool> {
        let dir = match enter(case, name) {
            // Something else has its place.
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => return self.remove(case, name, taken),
            other => other?,
        };
        let mut files: Vec<PathBuf> = vec![STDOUT_LOG.into(), STDERR_LOG.into()];
        if kept == Kept::Outputs {
            let read = self.spec.metrics.values().map(|rule| &rule.file).chain(&self.spec.progress.file);
            files.extend([METRICS_FILE].map(PathBuf::from).into_iter().chain(read.map(PathBuf::from)));
            for output in &self.spec.outputs {
                // A link is kept with all that it may lead to.
                if dir.resolve(Path::new(output)).is_ok_and(|(real, _)| !is_same(&real, Path::new(output))) {
                    return Ok(true);
                }
                files.push(output.into());
            }
        }
        let files: Vec<Vec<OsString>> = files.iter().map(|path| names_of(path)).collect();
        let files: Vec<&[OsString]> = files.iter().map(Vec::as_slice).collect();
        if self.only(&dir, &files, (at, true), taken)? {
            return Ok(true);
        }
        drop(dir);
        self.remove(case, name, taken)
    }

    /// Removes all but these files, each by the names that lead to it; whether anything is left.
    fn only(
        &self,
        dir: &Opened,
        files: &[&[OsString]],
        (at, is_top): (&Path, bool),
        taken: &mut Taken,
    ) -> io::Result<bool> {
        let is_left = self.sift(dir, taken, &mut |name, taken| {
            let below: Vec<&[OsString]> = files
                .iter()
                .filter_map(|file| file.split_first())
                .filter(|(first, _)| *first == name)
                .map(|(_, rest)| rest)
                .collect();
            if below.is_empty() {
                return self.remove(dir, name, taken);
            }
            if below.iter().any(|rest| rest.is_empty()) {
                // A log that is missing is an empty one.
                let is_log = is_top && (name == STDOUT_LOG || name == STDERR_LOG);
                let is_empty =
                    is_log && name.to_str().is_some_and(|name| matches!(dir.length_of(name), Ok(Some(0))));
                return if is_empty { self.remove(dir, name, taken) } else { Ok(true) };
            }
            match enter(dir, name) {
                Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(true),
                Err(error) => Err(error),
                Ok(inner) => {
                    if self.only(&inner, &below, (&at.join(name), false), taken)? {
                        return Ok(true);
                    }
                    drop(inner);
                    self.remove(dir, name, taken)
                }
            }
        })?;
        if is_left {
            self.thinned.borrow_mut().add(at);
        }
        Ok(is_left)
    }

    fn remove(&self, dir: &Opened, name: &OsStr, taken: &mut Taken) -> io::Result<bool> {
        dir.remove_counted(name, self.how, taken).map(|()| false)
    }

    /// Asks of each name in a directory whether it stays, which removes what does not; whether any does. All are asked, whatever fails.
    fn sift(
        &self,
        dir: &Opened,
        taken: &mut Taken,
        stays: &mut dyn FnMut(&OsStr, &mut Taken) -> io::Result<bool>,
    ) -> io::Result<bool> {
        loop {
            let (mut is_left, mut gone, mut failed) = (false, 0_u64, None);
            dir.each_name(&mut |name| {
                match stays(name, taken) {
                    Ok(true) => is_left = true,
                    Ok(false) => gone += 1,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => drop(failed.get_or_insert(error)),
                }
                Ok(())
            })?;
            match failed {
                Some(error) => return Err(error),
                // A file system may pass over names while others go.
                None if gone == 0 || self.how == Removing::OnlyCounted => return Ok(is_left),
                None => {}
            }
        }
    }
}

/// The attempt whose directory has this name, of those up to the last one; 0: what was taken over.
fn attempt_of(name: &OsStr, last: AttemptNo) -> Option<AttemptNo> {
    let number = name.to_str()?.strip_prefix(attempt_name(0).trim_end_matches('0'))?;
    number.parse().ok().filter(|attempt| *attempt <= last && OsStr::new(&attempt_name(*attempt)) == name)
}

fn names_of(path: &Path) -> Vec<OsString> {
    let normal = |part| match part {
        std::path::Component::Normal(name) => Some(name.to_owned()),
        _ => None,
    };
    path.components().filter_map(normal).collect()
}

fn is_same(a: &Path, b: &Path) -> bool {
    names_of(a) == names_of(b)
}
