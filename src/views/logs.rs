//! `logs`: what a trial printed, byte for byte.
//!
//! Following: what is there is copied, then whatever is added, until the attempt has ended and its file is at its end.
//! Without a given attempt it follows the trial, not the attempt: when the attempt is to be repeated (a retry, or it
//! was interrupted) it goes on with the next attempt's file, until the trial has a result or no engine is left that
//! could run it. Waiting costs nothing: the kernel says when the file grows, and the store is asked only when it has
//! not grown for a second. Bytes are passed on as they are; a pipe gets what the trial wrote.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;

use super::words::{origin_words, source};
use super::{Liveness, StudyView, ViewError};
use crate::journal::{JournalError, Snapshot};
use crate::model::{AttemptNo, Kept, StudyStatus, TrialId, TrialState};
use crate::paths::{STDERR_LOG, STDOUT_LOG};
use crate::sys::opened::Below;

/// Which of a trial's two outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// `stdout.log`.
    Stdout,
    /// `stderr.log`.
    Stderr,
}

impl Stream {
    /// The file's name in the attempt's directory.
    #[must_use]
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::Stdout => STDOUT_LOG,
            Self::Stderr => STDERR_LOG,
        }
    }
}

/// The log file of a case's attempt; of its last one if none is given.
///
/// # Errors
/// [`ViewError::UnknownCase`], [`ViewError::NotStarted`], [`ViewError::RanNothing`], [`ViewError::UnknownAttempt`], [`ViewError::Journal`].
pub(crate) fn locate(
    view: &StudyView,
    snapshot: &Snapshot,
    case: &str,
    attempt: Option<AttemptNo>,
    stream: Stream,
) -> Result<Below, ViewError> {
    let trial = view.find_case(case)?;
    let row = snapshot.trial(trial)?;
    let made_by = row.as_ref().and_then(|row| {
        let reused = row.reused_from.as_ref().map(origin_words);
        reused.or_else(|| row.imported.as_ref().map(|imported| source(&imported.source)))
    });
    let kept = |attempt| row.as_ref().map_or(Kept::All, |row| row.kept_of(attempt));
    let attempts = row.as_ref().map_or(&[][..], |row| &row.attempts);
    let not_started = || match &made_by {
        Some(origin) => ViewError::RanNothing { case: case.into(), origin: origin.clone() },
        None => ViewError::NotStarted { case: case.into() },
    };
    let last = attempts.last().ok_or_else(not_started)?;
    let wanted = attempt.unwrap_or(last.n);
    if !attempts.iter().any(|attempt| attempt.n == wanted) {
        return Err(ViewError::UnknownAttempt { case: case.into(), attempt: wanted, attempts: attempts.len() });
    }
    if kept(wanted) == Kept::Nothing {
        return Err(ViewError::Discarded { case: case.into(), attempt: wanted });
    }
    place_of(view, trial, wanted, stream).ok_or_else(not_started)
}

/// The log file of an attempt, whether it is there or not; `None` when the trial is not planned.
#[must_use]
pub(crate) fn place_of(view: &StudyView, trial: TrialId, attempt: AttemptNo, stream: Stream) -> Option<Below> {
    let lineage = view.lineage();
    let (stage, index) = lineage.locate(trial)?;
    let dir = view.attempt_place(view.stage(stage)?, &lineage.case(stage, index), attempt);
    Some(dir.join(stream.file_name()))
}

/// Copies a log as it is now.
///
/// # Errors
/// [`ViewError::File`] when it cannot be read, [`ViewError::Output`] when it cannot be passed on.
pub(crate) fn copy(log: &Below, out: &mut dyn Write) -> Result<(), ViewError> {
    // A trial may have put anything in its log's place: only a regular file is read, and no link is followed.
    let mut file = log.open_file().map_err(|cause| unreadable(log, cause))?;
    copy_rest(&mut file, log, out)?;
    Ok(out.flush()?)
}

/// Copies from where the file stands to its end.
fn copy_rest(file: &mut File, log: &Below, out: &mut dyn Write) -> Result<(), ViewError> {
    let mut chunk = vec![0; 64 * 1024];
    loop {
        let read = match file.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(cause) => return Err(unreadable(log, cause)),
        };
        out.write_all(chunk.get(..read).unwrap_or_default())?;
    }
}

fn unreadable(log: &Below, cause: io::Error) -> ViewError {
    let path = log.path();
    match cause.kind() {
        io::ErrorKind::NotFound => ViewError::LogGone { path },
        _ => ViewError::File { what: "read", path, cause },
    }
}

/// Where a trial stands, as far as following it asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    /// Its last attempt; 0: none yet.
    pub(crate) attempt: AttemptNo,
    /// Whether that attempt runs, by what the store says.
    pub(crate) running: bool,
    /// Whether another attempt may follow.
    pub(crate) goes_on: bool,
}

impl Position {
    /// Reads it. A trial whose engine is gone neither runs nor goes on, whatever its row says.
    ///
    /// # Errors
    /// [`JournalError`].
    pub(crate) fn of(snapshot: &Snapshot, trial: TrialId, liveness: Liveness) -> Result<Self, JournalError> {
        let row = snapshot.trial(trial)?;
        let state = row.as_ref().map_or(TrialState::Pending, |row| row.state);
        let over = matches!(snapshot.study()?.status, StudyStatus::Aborted | StudyStatus::Completed);
        let running = state == TrialState::Running && liveness.alive;
        Ok(Self {
            attempt: row.and_then(|row| row.attempts.last().map(|attempt| attempt.n)).unwrap_or(0),
            running,
            goes_on: running || (liveness.alive && !over && state == TrialState::Pending),
        })
    }
}

impl Position {
    fn over(self, attempt: AttemptNo) -> bool {
        self.attempt > attempt || !self.running
    }

    fn goes_on_after(self, attempt: AttemptNo) -> bool {
        self.attempt > attempt || self.goes_on
    }
}

/// Why following ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Followed {
    /// The trial, or the attempt that was asked for, has ended.
    Ended,
    /// It waits, and no engine runs that would start it.
    NoEngine,
}

/// What following needs to know, from a caller that takes a fresh snapshot for each answer (one that is kept makes the
/// store grow).
pub(crate) trait Followable {
    /// Where the trial stands now.
    ///
    /// # Errors
    /// Whatever reading the store fails with.
    fn position(&mut self) -> Result<Position, ViewError>;

    /// The log file of an attempt.
    ///
    /// # Errors
    /// [`ViewError::NotStarted`]
    fn log(&mut self, attempt: AttemptNo) -> Result<Below, ViewError>;

    /// Tells people which attempt's output comes next (not on the output itself).
    fn attempt_begins(&mut self, attempt: AttemptNo);

    /// Waits until the file has changed, a second at most; the kernel says so.
    ///
    /// # Errors
    /// Whatever waiting fails with.
    fn wait(&mut self, watch: &Watch) -> Result<bool, ViewError> {
        Ok(watch.changed()?)
    }
}

/// Follows a trial from its last attempt on, or one given attempt; see the module for what that means.
///
/// # Errors
/// [`ViewError::Output`], [`ViewError::File`], and whatever `trial` fails with.
pub(crate) fn follow(
    trial: &mut dyn Followable,
    only: Option<AttemptNo>,
    out: &mut dyn Write,
) -> Result<Followed, ViewError> {
    let mut done = 0;
    loop {
        let position = trial.position()?;
        let next = match only {
            Some(_) if done > 0 => return Ok(Followed::Ended),
            Some(attempt) if attempt <= position.attempt => Some(attempt),
            // From the last attempt on; none that began meanwhile is left out.
            None if done == 0 => Some(position.attempt).filter(|attempt| *attempt > 0),
            None => Some(done + 1).filter(|attempt| *attempt <= position.attempt),
            Some(_) => None,
        };
        if let Some(attempt) = next {
            trial.attempt_begins(attempt);
            follow_attempt(trial, attempt, out)?;
            done = attempt;
        } else if position.goes_on {
            // Its directory may not be there yet: only waiting shows.
            trial.wait(&Watch::nothing())?;
        } else {
            return Ok(if done > 0 { Followed::Ended } else { Followed::NoEngine });
        }
    }
}

fn follow_attempt(trial: &mut dyn Followable, attempt: AttemptNo, out: &mut dyn Write) -> Result<(), ViewError> {
    let log = trial.log(attempt)?;
    let Some(mut file) = opened(trial, attempt, &log)? else { return Ok(()) };
    // The one that is read, whatever has its name by now.
    let watch = Watch::file(&Path::new("/proc/self/fd").join(file.as_raw_fd().to_string()));
    loop {
        // First the state, then the bytes: what was written before the end is all there after it.
        let position = trial.position()?;
        loop {
            copy_rest(&mut file, &log, out)?;
            out.flush()?;
            if position.over(attempt) {
                return Ok(());
            }
            if !trial.wait(&watch)? {
                break;
            }
        }
    }
}

/// The log, as soon as it is there; `None` if the attempt ended without one (it could not be started).
fn opened(trial: &mut dyn Followable, attempt: AttemptNo, log: &Below) -> Result<Option<File>, ViewError> {
    loop {
        let position = trial.position()?;
        match log.open_file() {
            Ok(file) => return Ok(Some(file)),
            // Another attempt follows one that could not even be started.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    && position.over(attempt)
                    && position.goes_on_after(attempt) =>
            {
                return Ok(None);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && !position.over(attempt) => {
                trial.wait(&Watch::nothing())?;
            }
            Err(cause) => return Err(unreadable(log, cause)),
        }
    }
}

/// Tells when a file grows. Where the kernel refuses (too many watches), it is only a clock that ticks each second.
#[derive(Debug)]
pub struct Watch {
    inotify: Option<OwnedFd>,
}

const WAIT: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

impl Watch {
    /// A watch on one file.
    #[must_use]
    pub fn file(path: &Path) -> Self {
        let watched = || -> io::Result<OwnedFd> {
            let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
            let fd = inotify::init(flags)?;
            inotify::add_watch(&fd, path, inotify::WatchFlags::MODIFY | inotify::WatchFlags::CLOSE_WRITE)?;
            Ok(fd)
        };
        match watched() {
            Ok(fd) => Self { inotify: Some(fd) },
            Err(error) => {
                log::debug!("cannot watch `{}`: {error}", path.display());
                Self::nothing()
            }
        }
    }

    /// A watch on nothing: each wait takes its second.
    #[must_use]
    pub const fn nothing() -> Self {
        Self { inotify: None }
    }

    /// Waits for a change, a second at most. Whether there was one.
    ///
    /// # Errors
    /// Whatever poll(2) says, but for an interruption by a signal, which counts as no change.
    pub fn changed(&self) -> io::Result<bool> {
        let mut fds = Vec::new();
        if let Some(fd) = &self.inotify {
            fds.push(PollFd::new(fd, PollFlags::IN));
        }
        match poll(&mut fds, Some(&WAIT)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(false),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let Some(fd) = &self.inotify else { return Ok(false) };
        let mut events = [0; 4096];
        // Emptied, so that the next wait waits. What the events are does not matter: the file is read anyway.
        loop {
            match rustix::io::read(fd, &mut events) {
                Ok(0) | Err(rustix::io::Errno::AGAIN) => return Ok(true),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::fs;
    use std::path::PathBuf;

    use super::*;
    use crate::model::Next;
    use crate::testing::story::{ALIVE, DEAD, Story};

    #[test]
    fn the_last_attempt_unless_another_is_asked_for() {
        let mut story = Story::new();
        story.run().open_explore().start(1, 1).fail(1, 1, "no", Next::Again { due_ms: 0 }).start(1, 2);
        let (view, snapshot) = story.view(ALIVE);
        let locate =
            |case: &str, attempt| locate(&view, &snapshot, case, attempt, Stream::Stderr).map(|log| log.path());
        let path = |n: u32| PathBuf::from(format!("/a/tiny/0_explore/t_0_1/attempt_{n}/stderr.log"));
        assert_eq!(locate("t_0_1", None).unwrap(), path(2));
        assert_eq!(locate("t_0_1", Some(1)).unwrap(), path(1));
        let error = |case: &str, attempt| locate(case, attempt).unwrap_err().to_string();
        assert_eq!(error("t_0_1", Some(3)), "case `t_0_1` has no attempt 3; it has 2");
        assert_eq!(error("t_0_2", None), "case `t_0_2` has not started yet");
        assert_eq!(error("t_0_9", None), "there is no case `t_0_9`; did you mean `t_0_3`?");
        assert_eq!(error("something else", None), "there is no case `something else`");
    }

    #[test]
    fn bytes_are_copied_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..200_000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let root = Below::root(dir.path().into());
        fs::write(dir.path().join("stdout.log"), &bytes).unwrap();
        let mut out = Vec::new();
        copy(&root.join("stdout.log"), &mut out).unwrap();
        assert!(out == bytes);
        let gone = copy(&root.join("none"), &mut out).unwrap_err();
        assert!(matches!(gone, ViewError::LogGone { path } if path.ends_with("none")));
        let error = copy(&root, &mut out).unwrap_err();
        assert!(error.to_string().starts_with("cannot read `/"), "{error}");
    }

    #[test]
    fn where_a_trial_stands() {
        let mut story = Story::new();
        story.run().open_explore().start(0, 1).start(1, 1).fail(1, 1, "no", Next::Final);
        let of = |trial, liveness| Position::of(&story.snapshot(), TrialId(trial), liveness).unwrap();
        assert_eq!(of(0, ALIVE), Position { attempt: 1, running: true, goes_on: true });
        assert_eq!(of(0, DEAD), Position { attempt: 1, running: false, goes_on: false });
        assert_eq!(of(1, ALIVE), Position { attempt: 1, running: false, goes_on: false });
        assert_eq!(of(2, ALIVE), Position { attempt: 0, running: false, goes_on: true });
        assert_eq!(of(2, DEAD), Position { attempt: 0, running: false, goes_on: false });
    }

    /// Plays the trial: each `position` or `wait` first does the next thing of the script.
    struct Script {
        dir: tempfile::TempDir,
        positions: VecDeque<Position>,
        /// Written to the log of the attempt while it is waited for; `None`: nothing happened for a second.
        waits: VecDeque<Option<(u32, &'static str)>>,
        begun: Vec<u32>,
    }

    impl Script {
        fn new(positions: &[(u32, bool, bool)], waits: &[Option<(u32, &'static str)>]) -> Self {
            let position = |(attempt, running, goes_on): &(u32, bool, bool)| Position {
                attempt: *attempt,
                running: *running,
                goes_on: *goes_on,
            };
            Self {
                dir: tempfile::tempdir().unwrap(),
                positions: positions.iter().map(position).collect(),
                waits: waits.iter().copied().collect(),
                begun: Vec::new(),
            }
        }

        fn append(&mut self, attempt: u32, text: &str) {
            let path = self.log(attempt).unwrap().path();
            let mut file = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }

        fn follow(&mut self, only: Option<u32>) -> (Followed, String) {
            let mut out = Vec::new();
            let followed = follow(self, only, &mut out).unwrap();
            assert!(self.positions.is_empty() && self.waits.is_empty(), "the script was played to its end");
            (followed, String::from_utf8(out).unwrap())
        }
    }

    impl Followable for Script {
        fn position(&mut self) -> Result<Position, ViewError> {
            Ok(self.positions.pop_front().expect("asked no further than the script goes"))
        }
        fn log(&mut self, attempt: AttemptNo) -> Result<Below, ViewError> {
            Ok(Below::root(self.dir.path().into()).join(attempt.to_string()))
        }
        fn attempt_begins(&mut self, attempt: AttemptNo) {
            self.begun.push(attempt);
        }
        fn wait(&mut self, _: &Watch) -> Result<bool, ViewError> {
            let happened = self.waits.pop_front().expect("waited no longer than the script goes");
            if let Some((attempt, text)) = happened {
                self.append(attempt, text);
            }
            Ok(happened.is_some())
        }
    }

    #[test]
    fn follows_to_the_end_of_the_attempt_and_into_the_next() {
        let mut script = Script::new(
            // Where to begin, the log opened, while it runs, it ended; it waits for a retry; then the same for that.
            &[
                (1, true, true),
                (1, true, true),
                (1, true, true),
                (1, false, true),
                (1, false, true),
                (2, true, true),
                (2, true, true),
                (2, true, true),
                (2, false, false),
                (2, false, false),
            ],
            &[Some((1, "b")), Some((1, "c")), None, Some((2, "d")), Some((2, "e")), None],
        );
        script.append(1, "a");
        assert_eq!(script.follow(None), (Followed::Ended, "abcde".into()));
        assert_eq!(script.begun, [1, 2]);
    }

    #[test]
    fn one_attempt_is_followed_to_its_end_only() {
        let mut script = Script::new(
            &[(1, true, true), (1, true, true), (1, true, true), (2, true, true), (2, true, true)],
            &[Some((1, "b")), None],
        );
        script.append(1, "a");
        assert_eq!(script.follow(Some(1)), (Followed::Ended, "ab".into()));
    }

    #[test]
    fn an_attempt_without_a_log_is_waited_for_while_it_runs() {
        let mut script = Script::new(
            &[(1, true, true), (1, true, true), (1, true, true), (1, false, false), (1, false, false)],
            &[Some((1, "late"))],
        );
        assert_eq!(script.follow(None), (Followed::Ended, "late".into()));
        let mut script = Script::new(&[(1, false, false), (1, false, false), (1, false, false)], &[]);
        let gone = follow(&mut script, None, &mut Vec::new()).unwrap_err();
        assert!(matches!(gone, ViewError::LogGone { .. }));
    }

    #[test]
    fn what_waits_without_an_engine_is_not_waited_for() {
        let mut script = Script::new(&[(0, false, false)], &[]);
        assert_eq!(script.follow(None), (Followed::NoEngine, String::new()));
    }

    #[test]
    fn the_kernel_says_when_a_file_grows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut file = File::create(&path).unwrap();
        let watch = Watch::file(&path);
        assert!(watch.inotify.is_some());
        file.write_all(b"more").unwrap();
        assert!(watch.changed().unwrap());
    }
}
