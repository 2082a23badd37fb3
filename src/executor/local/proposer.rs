//! A stage's proposer as a process: lines to its standard input, lines from its standard output.
//!
//! It is a child of the keeper like every trial, so it ends with the engine, and what it starts with it. Its lines are
//! bounded, its standard error goes to a file. What the lines mean is the engine's business.

use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Select};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Signal;

use super::attempt_dir::{self, Grounds};
use super::command::{Command, c_string};
use super::keeper::helpers::name_of;
use super::keeper::{KeeperClient, SpawnError, SpawnRequest, TrialEvent};
use crate::executor::Job;
use crate::model::artifacts::STDERR_LOG;
use crate::sys::words::io_words;

/// Longest line taken from a proposer, bytes. An answer of a thousand params has less.
const LINE_MAX_BYTES: usize = 1 << 20;

/// How long the report of its end may take once its output has ended.
const LOST_WITHIN: Duration = Duration::from_secs(5);

const OF_TRIALS: [&str; 8] = [
    "PITON_TRIAL=",
    "PITON_CASE=",
    "PITON_PARENT_CASE=",
    "PITON_ATTEMPT=",
    "PITON_SLOT=",
    "PITON_PARAMS_FILE=",
    "PITON_METRICS_FILE=",
    "PITON_PROGRESS_FILE=",
];

/// An answer that takes longer than this, and much longer than those before, is reported.
const PATIENCE: Duration = Duration::from_secs(5);
/// So much longer than the longest so far.
const PATIENCE_FACTOR: u32 = 4;
/// One that has closed its standard output has so long to end.
const ENDING: Duration = Duration::from_secs(1);

/// What a proposer makes piton wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// It has said nothing.
    Silent,
    /// It has not ended its line, which begins so.
    Unended(String),
    /// It does not read its messages.
    Deaf,
    /// It does not end, though nothing more is asked; it is killed after so long.
    Lingering(Duration),
}

/// Called when a proposer has kept piton waiting, with how long.
pub(crate) type OnWait = Box<dyn Fn(&Waiting, Duration) + Send>;

/// A running proposer. Dropping it closes its input and leaves it to the keeper; see [`ProposerProcess::end`].
pub(crate) struct ProposerProcess {
    end: ProposerEnd,
    events: Receiver<TrialEvent>,
    /// Neither end of a pipe blocks here: each read and write waits explicitly.
    input: OwnedFd,
    output: OwnedFd,
    /// What it said after the last whole line.
    said: Vec<u8>,
    /// The longest wait so far.
    longest: Duration,
    on_wait: OnWait,
    log: PathBuf,
}

/// Ends a proposer from another thread.
#[derive(Clone, Debug)]
pub(crate) struct ProposerEnd {
    keeper: KeeperClient,
    id: u64,
}

impl ProposerEnd {
    /// SIGTERM to its process group.
    pub(crate) fn terminate(&self) {
        self.keeper.signal(self.id, Signal::TERM);
    }

    /// SIGKILL to its process group.
    pub(crate) fn kill(&self) {
        self.keeper.signal(self.id, Signal::KILL);
    }
}

impl ProposerProcess {
    /// Starts it in the study's directory. `job` says what and with which environment; its standard error goes to
    /// `stderr.log` in the job's directory, which is made. `on_wait` is called when it keeps piton waiting.
    ///
    /// # Errors
    /// Why it does not run, in words.
    pub(crate) fn start(keeper: &KeeperClient, job: &Job, on_wait: OnWait) -> Result<Self, String> {
        let environment: Vec<(OsString, OsString)> = std::env::vars_os().collect();
        let mut command = Command::of(job, 0, &environment).map_err(|failure| failure.reason)?;
        let of_trials =
            |entry: &CString| OF_TRIALS.iter().any(|name| entry.to_bytes().starts_with(name.as_bytes()));
        command.env.retain(|entry| !of_trials(entry));
        let dir = attempt_dir::make_kept_dirs(&Grounds::default(), job)
            .map_err(|error| format!("its directory cannot be made: {}", io_words(&error)))?;
        let log = job.dir.join(STDERR_LOG);
        let pipe =
            || pipe_with(PipeFlags::CLOEXEC).map_err(|errno| format!("no pipe: {}", io_words(&errno.into())));
        let ((its_input, input), (output, its_output)) = (pipe()?, pipe()?);
        let name = |end: &OwnedFd| name_of(end.as_fd()).map_err(|error| io_words(&error));
        // The other ends are opened anew by their names, and block.
        for end in [&input, &output] {
            let unblocked = fcntl_setfl(end, OFlags::NONBLOCK);
            unblocked.map_err(|errno| format!("no pipe: {}", io_words(&errno.into())))?;
        }
        let path = |path: &Path| c_string(path.as_os_str().to_owned(), "a path").map_err(|failure| failure.reason);
        let started = keeper.spawn(&SpawnRequest {
            program: &command.program,
            argv: &command.argv,
            env: &command.env,
            cwd: &path(&job.stage_spec.study_dir)?,
            stdin: Some(&name(&its_input)?),
            stdout: &name(&its_output)?,
            // Absolute, so that it counts for itself: the working directory is the study's.
            stderr: &path(&dir.path_now().join(STDERR_LOG))?,
            address_space_bytes: None,
            cgroup_procs: None,
        });
        let started = started.map_err(|error| match error {
            gone @ (SpawnError::KeeperGone(_) | SpawnError::KeeperDied) => gone.to_string(),
            SpawnError::Refused { errno, .. } => {
                format!("`{}` cannot be started: {}", command.shown, io_words(&errno.into()))
            }
        })?;
        // Its ends are its own now: once it is gone, so is the other end of ours.
        drop((its_input, its_output));
        Ok(Self {
            end: ProposerEnd { keeper: keeper.clone(), id: started.id },
            events: started.events,
            input,
            output,
            said: Vec::new(),
            longest: Duration::ZERO,
            on_wait,
            log,
        })
    }

    /// A way to end it while this one waits for it.
    #[must_use]
    pub(crate) fn end_handle(&self) -> ProposerEnd {
        self.end.clone()
    }

    /// Writes a line; the line's end is added.
    ///
    /// # Errors
    /// It reads no more, in words.
    pub(crate) fn say(&mut self, line: &str) -> Result<(), String> {
        let mut bytes = Vec::with_capacity(line.len() + 1);
        bytes.extend_from_slice(line.as_bytes());
        bytes.push(b'\n');
        let mut wait = Wait::new(self.longest);
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            match rustix::io::write(&self.input, rest) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let on_wait = &self.on_wait;
                    wait.until(&self.input, PollFlags::OUT, |waited| on_wait(&Waiting::Deaf, waited))?;
                }
                Err(Errno::PIPE) => return Err(format!("it has ended; {}", self.log_words())),
                Err(errno) => return Err(format!("it cannot be written to: {}", io_words(&errno.into()))),
            }
        }
        Ok(())
    }

    /// Waits for a line.
    ///
    /// # Errors
    /// There is none, or none that could be an answer, in words.
    pub(crate) fn hear(&mut self) -> Result<String, String> {
        let mut wait = Wait::new(self.longest);
        let mut chunk = [0_u8; 1 << 14];
        loop {
            if let Some(end) = self.said.iter().position(|byte| *byte == b'\n') {
                self.longest = self.longest.max(wait.since.elapsed());
                let rest = self.said.split_off(end + 1);
                return of_line(std::mem::replace(&mut self.said, rest));
            }
            if self.said.len() >= LINE_MAX_BYTES {
                return Err(format!("its answer is longer than {LINE_MAX_BYTES} bytes"));
            }
            match rustix::io::read(&self.output, &mut chunk[..]) {
                Ok(0) if self.said.is_empty() => return Err(self.no_more()),
                Ok(0) => return of_line(std::mem::take(&mut self.said)),
                Ok(read) => self.said.extend_from_slice(chunk.get(..read).unwrap_or_default()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let (said, on_wait) = (&self.said, &self.on_wait);
                    wait.until(&self.output, PollFlags::IN, |waited| {
                        let waiting = match &said[..] {
                            [] => Waiting::Silent,
                            said => Waiting::Unended(String::from_utf8_lossy(said).into_owned()),
                        };
                        on_wait(&waiting, waited);
                    })?;
                }
                Err(errno) => return Err(format!("it cannot be heard: {}", io_words(&errno.into()))),
            }
        }
    }

    /// Whether the keeper died, and it along: no fault of its own. For when it does not answer any more.
    #[must_use]
    pub(crate) fn was_lost(&self) -> bool {
        matches!(self.events.recv_timeout(LOST_WITHIN), Ok(TrialEvent::Lost))
    }

    /// Its standard output has ended, and nothing was said.
    fn no_more(&self) -> String {
        // How it ended is for the next caller.
        let mut end = Select::new();
        end.recv(&self.events);
        let lives = end.ready_timeout(ENDING).is_err();
        let what = if lives { "it closed its standard output, but lives" } else { "it ended" };
        format!("{what} without an answer; {}", self.log_words())
    }

    fn log_words(&self) -> String {
        format!("what it said is in `{}`", self.log.display())
    }

    /// Closes its input, waits for its end as long as `patience`, and kills it then.
    pub(crate) fn end(self, patience: Duration) {
        let Self { end, events, input, output, on_wait, .. } = self;
        drop(input);
        // Should it still write, it gets SIGPIPE rather than a full pipe.
        drop(output);
        let first = patience.min(PATIENCE);
        let mut ended = events.recv_timeout(first);
        if ended == Err(RecvTimeoutError::Timeout) && first < patience {
            let left = patience.saturating_sub(first);
            on_wait(&Waiting::Lingering(left), first);
            ended = events.recv_timeout(left);
        }
        if ended.is_err() {
            end.kill();
            // An end that never comes is the keeper's own end, which is one as well.
            let _ = events.recv();
        }
    }
}

fn of_line(line: Vec<u8>) -> Result<String, String> {
    String::from_utf8(line).map_err(|_| "its answer is not UTF-8".to_owned())
}

/// A wait for one line.
struct Wait {
    since: Instant,
    /// A wait this long is reported, once.
    patience: Option<Duration>,
}

impl Wait {
    fn new(longest: Duration) -> Self {
        Self { since: Instant::now(), patience: Some(PATIENCE.max(longest.saturating_mul(PATIENCE_FACTOR))) }
    }

    /// Waits for an end of a pipe. A wait beyond its patience is reported while it lasts.
    fn until(&mut self, end: &OwnedFd, events: PollFlags, tell: impl Fn(Duration)) -> Result<(), String> {
        loop {
            let waited = self.since.elapsed();
            let left = self.patience.map(|patience| patience.saturating_sub(waited));
            if left == Some(Duration::ZERO) {
                self.patience = None;
                tell(waited);
                continue;
            }
            let limit = left.and_then(|left| Timespec::try_from(left).ok());
            match poll(&mut [PollFd::new(end, events)], limit.as_ref()) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => return Err(format!("it cannot be waited for: {}", io_words(&errno.into()))),
            }
        }
    }
}
