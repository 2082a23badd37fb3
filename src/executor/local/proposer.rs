//! A stage's proposer as a process: lines to its standard input, lines from its standard output.
//!
//! It is a child of the keeper like every trial, so it ends with the engine, and what it starts with it. Its lines are
//! bounded, its standard error goes to a file. What the lines mean is the engine's business.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crossbeam_channel::Receiver;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Signal;

use super::command::{Command, c_string};
use super::keeper::helpers::name_of;
use super::keeper::{KeeperClient, SpawnError, SpawnRequest, TrialEvent};
use super::place::{self, Grounds};
use crate::executor::Job;
use crate::sys::words::io_words;

/// Longest line taken from a proposer, bytes. An answer of a thousand params has less.
const LINE_MAX_BYTES: u64 = 1 << 20;

/// How long its end may take to be told once its output has ended.
const LOST_WITHIN: Duration = Duration::from_secs(5);

/// What only a trial has.
const OF_TRIALS: [&str; 7] = [
    "PITON_TRIAL=",
    "PITON_CASE=",
    "PITON_PARENT_CASE=",
    "PITON_ATTEMPT=",
    "PITON_SLOT=",
    "PITON_PARAMS_FILE=",
    "PITON_METRICS_FILE=",
];

/// A running proposer. Dropping it closes its input and leaves it to the keeper; see [`ProposerProcess::end`].
#[derive(Debug)]
pub struct ProposerProcess {
    end: ProposerEnd,
    events: Receiver<TrialEvent>,
    input: File,
    output: BufReader<File>,
    log: PathBuf,
}

/// Ends a proposer from another thread.
#[derive(Clone, Debug)]
pub struct ProposerEnd {
    keeper: KeeperClient,
    id: u64,
}

impl ProposerEnd {
    /// SIGTERM to its process group.
    pub fn terminate(&self) {
        self.keeper.signal(self.id, Signal::TERM);
    }

    /// SIGKILL to its process group.
    pub fn kill(&self) {
        self.keeper.signal(self.id, Signal::KILL);
    }
}

impl ProposerProcess {
    /// Starts it in the study's directory. `job` says what and with which environment; its standard error goes to
    /// `stderr.log` in the job's directory, which is made.
    ///
    /// # Errors
    /// Why it does not run, in words.
    pub fn start(keeper: &KeeperClient, job: &Job) -> Result<Self, String> {
        let environment: Vec<(OsString, OsString)> = std::env::vars_os().collect();
        let mut command = Command::of(job, 0, &environment).map_err(|failure| failure.reason)?;
        let of_trials =
            |entry: &CString| OF_TRIALS.iter().any(|name| entry.to_bytes().starts_with(name.as_bytes()));
        command.env.retain(|entry| !of_trials(entry));
        let dir = place::make_kept_dirs(&Grounds::default(), job)
            .map_err(|error| format!("its directory cannot be made: {}", io_words(&error)))?;
        let log = job.dir.join("stderr.log");
        let pipe =
            || pipe_with(PipeFlags::CLOEXEC).map_err(|errno| format!("no pipe: {}", io_words(&errno.into())));
        let ((its_input, input), (output, its_output)) = (pipe()?, pipe()?);
        let name = |end: &OwnedFd| name_of(end.as_fd()).map_err(|error| io_words(&error));
        let path = |path: &Path| c_string(path.as_os_str().to_owned(), "a path").map_err(|failure| failure.reason);
        let started = keeper.spawn(&SpawnRequest {
            program: &command.program,
            argv: &command.argv,
            env: &command.env,
            cwd: &path(&job.stage_spec.study_dir)?,
            stdin: Some(&name(&its_input)?),
            stdout: &name(&its_output)?,
            // Absolute, so that it counts for itself: the working directory is the study's.
            stderr: &path(&dir.path_now().join("stderr.log"))?,
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
            input: input.into(),
            output: BufReader::new(output.into()),
            log,
        })
    }

    /// A way to end it while this one waits for it.
    #[must_use]
    pub fn end_handle(&self) -> ProposerEnd {
        self.end.clone()
    }

    /// Writes a line; the line's end is added.
    ///
    /// # Errors
    /// It reads no more, in words.
    pub fn say(&mut self, line: &str) -> Result<(), String> {
        let mut bytes = Vec::with_capacity(line.len() + 1);
        bytes.extend_from_slice(line.as_bytes());
        bytes.push(b'\n');
        self.input.write_all(&bytes).map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => format!("it has ended; {}", self.log_words()),
            _ => format!("it cannot be written to: {}", io_words(&error)),
        })
    }

    /// Waits for a line.
    ///
    /// # Errors
    /// There is none, or none that could be an answer, in words.
    pub fn hear(&mut self) -> Result<String, String> {
        let mut line = Vec::new();
        let read = (&mut self.output).take(LINE_MAX_BYTES).read_until(b'\n', &mut line);
        match read {
            Err(error) => Err(format!("it cannot be heard: {}", io_words(&error))),
            Ok(0) => Err(format!("it ended without an answer; {}", self.log_words())),
            Ok(_) if line.last() != Some(&b'\n') && line.len() as u64 == LINE_MAX_BYTES => {
                Err(format!("its answer is longer than {LINE_MAX_BYTES} bytes"))
            }
            Ok(_) => String::from_utf8(line).map_err(|_| "its answer is not UTF-8".to_owned()),
        }
    }

    /// Whether the keeper died, and it along: no fault of its own. For when it does not answer any more.
    #[must_use]
    pub fn was_lost(&self) -> bool {
        matches!(self.events.recv_timeout(LOST_WITHIN), Ok(TrialEvent::Lost))
    }

    fn log_words(&self) -> String {
        format!("what it said is in `{}`", self.log.display())
    }

    /// Closes its input, waits for its end as long as `patience`, and kills it then.
    pub fn end(self, patience: Duration) {
        let Self { end, events, input, output, log: _ } = self;
        drop(input);
        // Should it still write, it gets SIGPIPE rather than a full pipe.
        drop(output);
        if events.recv_timeout(patience).is_err() {
            end.kill();
            // An end that never comes is the keeper's own end, which is one as well.
            let _ = events.recv();
        }
    }
}
