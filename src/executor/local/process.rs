//! One attempt of a command: prepare its place, start it, watch it, and judge what it left.
//!
//! Whatever the trial does to its directory, its logs or its processes, the worker comes back with a report. A trial
//! that ended by itself counts as it ended, even if a signal was on its way.

use std::ffi::CString;
use std::fs;
use std::time::Duration;

use crossbeam_channel::{Receiver, after, never, select};
use rustix::io::Errno;
use rustix::process::Signal;

use super::blame::{AttemptError, failure, signal_name};
use super::command::{Command, c_string};
use super::ended_dir::EndedAttemptDir;
use super::gate::Pass;
use super::keeper::{Exited, KeeperClient, SpawnError, SpawnRequest, SpawnStep, Started, TrialEvent};
use super::memory_limit::Watch;
use super::syncer::Unsynced;
use super::{Made, Mode, Shared, attempt_dir, classify, results, strays};
use crate::executor::{ExecutorEvent, Job};
use crate::model::FailureKind::{CommandNotFound, KilledKeeper, OutOfMemory, SpawnFailed, Timeout};
use crate::model::artifacts::{STDERR_LOG_C, STDOUT_LOG_C};
use crate::model::words;
use crate::model::{Exit, Failure, FailureKind, Usage, Verdict};
use crate::sys::opened::Opened;
use crate::sys::words::io_words;

/// What a shell exits with when it does not find a command.
const SHELL_NOT_FOUND: i32 = 127;

/// Why an attempt was interrupted that the engine ended with itself.
const SHUT_DOWN: &str = "terminated with the engine";
/// Likewise, when its trial was pruned.
pub(super) const PRUNED: &str = "terminated, since its trial is pruned";
/// Likewise, when somebody signalled both.
const SIGNALLED: &str = "terminated from outside, together with the engine";
/// Likewise, when its command had ended.
pub(super) const SHUT_DOWN_HASHING: &str = "terminated with the engine while its outputs were hashed";
/// Reasons that name the engine.
#[cfg(feature = "cluster")]
pub(crate) const ENDED_WITH_ENGINE: [&str; 3] = [SHUT_DOWN, SIGNALLED, SHUT_DOWN_HASHING];

/// How often, and how far apart, a worker looks whether the engine is being stopped together with its trial.
const SHUTDOWN_LOOKS: u32 = 25;
const SHUTDOWN_PAUSE: Duration = Duration::from_millis(20);

/// Why the worker ended a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Timeout,
    Shutdown,
    Pruned,
}

/// What is known of an attempt that started, for when it has ended.
struct Running {
    command: Command,
    memory: Watch,
}

/// Why an attempt did not start.
enum NotStarted {
    Failed(Failure),
    /// No attempt can be started, whosever.
    Broken(String),
    /// The keeper died meanwhile: it may have run.
    Lost,
}

impl From<Failure> for NotStarted {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<AttemptError> for NotStarted {
    fn from(trouble: AttemptError) -> Self {
        match trouble {
            AttemptError::Trial(failure) => Self::Failed(failure),
            AttemptError::Machine(why) => Self::Broken(why),
            AttemptError::CutOff => Self::Broken("it was cut off before it began".to_owned()),
        }
    }
}

impl NotStarted {
    fn keeper_gone(why: &str) -> Self {
        Self::Broken(format!("the trial keeper is gone: no trial can be started{why}"))
    }
}

/// Runs the attempt to its end and reports it. Its place is made already if `made` says how that went; once it has
/// started, `meanwhile` is done.
pub(super) fn run(
    shared: &Shared,
    pass: &Pass<'_>,
    wake: &Receiver<()>,
    job: &Job,
    slot: u32,
    made: Option<Made>,
    meanwhile: impl FnOnce(),
) {
    let Some(keeper) = &shared.keeper else {
        return not_started(shared, pass, job, slot, NotStarted::keeper_gone(""));
    };
    let keeper = &keeper.of_slot(slot);
    let started_at = shared.clock.now();
    let made = made.unwrap_or_else(|| attempt_dir::make(&shared.grounds, job));
    match made.map_err(NotStarted::from).and_then(|dir| start(shared, keeper, job, &dir, slot)) {
        Ok((started, told)) => {
            shared.tell_started(job, slot, Some(started.process));
            meanwhile();
            let (event, cause) = watch(shared, keeper, wake, job, &started, started_at);
            let wall = shared.clock.now().saturating_sub(started_at);
            await_shutdown(shared, wake, &event);
            match event {
                TrialEvent::Ended(exited) => {
                    pass.ended();
                    report(shared, job, &told, exited, cause, (started_at, wall));
                }
                TrialEvent::Lost => lost(shared, pass, job, wall),
            }
        }
        Err(why) => not_started(shared, pass, job, slot, why),
    }
}

fn not_started(shared: &Shared, pass: &Pass<'_>, job: &Job, slot: u32, why: NotStarted) {
    match why {
        NotStarted::Lost => {
            shared.tell_started(job, slot, None);
            lost(shared, pass, job, Duration::ZERO);
        }
        NotStarted::Failed(failure) => {
            shared.tell_started(job, slot, None);
            let nothing = Unsynced::new(&shared.room);
            shared.tell_ended(job, None, Usage::default(), Verdict::Failed(failure), nothing);
        }
        NotStarted::Broken(why) => {
            shared.tell_broken(&why);
            shared.tell(ExecutorEvent::Returned { trial: job.key.trial });
        }
    }
}

/// A program that somebody writes, or whose writer has just forked, cannot be run: mostly that is over in a moment.
const BUSY_TRIES: u32 = 40;
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// Starts it in its directory, which is held meanwhile: whatever takes its name, the trial is in no other.
fn start(
    shared: &Shared,
    keeper: &KeeperClient,
    job: &Job,
    dir: &Opened,
    slot: u32,
) -> Result<(Started, Running), NotStarted> {
    let command = Command::of(job, slot, &shared.environment)?;
    let cwd: CString = c_string(dir.path_now().into_os_string(), "the attempt's directory")?;
    let request = SpawnRequest {
        program: &command.program,
        argv: &command.argv,
        env: &command.env,
        cwd: &cwd,
        stdin: None,
        stdout: STDOUT_LOG_C,
        stderr: STDERR_LOG_C,
        address_space_bytes: None,
        cgroup_procs: None,
    };
    let mut tries = 0;
    let spawned = loop {
        tries += 1;
        match shared.memory.spawn(keeper, job, &request) {
            Err(SpawnError::Refused { step: SpawnStep::Exec, errno: Errno::TXTBSY })
                if tries < BUSY_TRIES && shared.mode() < Mode::Terminate =>
            {
                std::thread::sleep(BUSY_PAUSE);
            }
            other => break other,
        }
    };
    match spawned {
        Ok((started, memory)) => Ok((started, Running { command, memory })),
        // It may have started the trial and died before it could say so.
        Err(SpawnError::KeeperDied) => Err(NotStarted::Lost),
        Err(SpawnError::KeeperGone(why)) => Err(NotStarted::keeper_gone(&format!(" ({why})"))),
        Err(SpawnError::Refused { step, errno }) => Err(refused(refusal(job, &command, step, errno), step, errno)),
    }
}

/// Who is to blame. What the engine could not make for a trial says nothing about it, whatever the number; what became of
/// its program may.
fn refused(refused: Failure, step: SpawnStep, errno: Errno) -> NotStarted {
    let of_machine = || {
        matches!(AttemptError::of(refused.kind.clone(), &refused.reason, &errno.into()), AttemptError::Machine(_))
    };
    match step {
        SpawnStep::Exec if refused.kind != SpawnFailed || !of_machine() => NotStarted::Failed(refused),
        _ => NotStarted::Broken(refused.reason),
    }
}

/// Why the kernel would not start it, in words.
fn refusal(job: &Job, command: &Command, step: SpawnStep, errno: Errno) -> Failure {
    let shown = &command.shown;
    let why = io_words(&errno.into());
    let fixed = |kind, reason: String| Failure { retryable: false, ..failure(kind, reason) };
    match (step, errno) {
        (SpawnStep::Exec, Errno::NOENT) if fs::metadata(path_of(&command.program)).is_ok() => fixed(
            CommandNotFound,
            format!("the interpreter that `{shown}` names in its first line does not exist"),
        ),
        (SpawnStep::Exec, Errno::NOENT | Errno::NOTDIR) => {
            fixed(CommandNotFound, format!("`{shown}` does not exist"))
        }
        (SpawnStep::Exec, Errno::ACCESS) => fixed(SpawnFailed, format!("`{shown}` is not executable")),
        (SpawnStep::Exec, Errno::NOEXEC) => {
            fixed(SpawnFailed, format!("`{shown}` is no program; a script needs a first line such as `#!/bin/sh`"))
        }
        (SpawnStep::Exec, Errno::TOOBIG) => {
            fixed(SpawnFailed, format!("arguments and environment of `{shown}` are too large"))
        }
        (SpawnStep::Exec, Errno::NOMEM) if job.stage_spec.memory_limit_bytes.is_some() => {
            fixed(OutOfMemory, format!("`{shown}` cannot even start within the memory limit"))
        }
        (SpawnStep::Exec, _) => failure(SpawnFailed, format!("cannot run `{shown}`: {why}")),
        (SpawnStep::Cwd, _) => failure(SpawnFailed, format!("cannot enter the attempt's directory: {why}")),
        (SpawnStep::Logs, _) => failure(SpawnFailed, format!("cannot create the log files: {why}")),
        (SpawnStep::Clone, _) => failure(SpawnFailed, format!("cannot start a process: {why}")),
        (SpawnStep::Setup | SpawnStep::Cgroup | SpawnStep::Limits, _) => {
            failure(SpawnFailed, format!("cannot set up the process: {why}"))
        }
    }
}

fn path_of(program: &CString) -> &std::path::Path {
    use std::os::unix::ffi::OsStrExt;
    std::path::Path::new(std::ffi::OsStr::from_bytes(program.to_bytes()))
}

/// Waits for the trial's end, and brings it about when its time is up or the engine says so: TERM to its group, KILL
/// after the grace. All times are on the trials' clock, which stands still while they are stopped.
fn watch(
    shared: &Shared,
    keeper: &KeeperClient,
    wake: &Receiver<()>,
    job: &Job,
    started: &Started,
    started_at: Duration,
) -> (TrialEvent, Option<Cause>) {
    let timeout_at = job.stage_spec.timeout.map(|timeout| started_at.saturating_add(timeout));
    let mut asked: Option<(Cause, Duration)> = None;
    let mut killed = false;
    loop {
        let now = shared.clock.now();
        let mode = shared.mode();
        if asked.is_none() {
            asked = match mode {
                Mode::Terminate | Mode::Kill => Some((Cause::Shutdown, now)),
                Mode::Run | Mode::Drain if shared.is_pruned(job) => Some((Cause::Pruned, now)),
                Mode::Run | Mode::Drain if timeout_at.is_some_and(|at| now >= at) => Some((Cause::Timeout, now)),
                Mode::Run | Mode::Drain => None,
            };
            if asked.is_some() && mode != Mode::Kill {
                keeper.signal(started.id, Signal::TERM);
            }
        }
        let kill_at = asked.map(|(_, at)| at.saturating_add(job.stage_spec.grace));
        if !killed && (mode == Mode::Kill || kill_at.is_some_and(|at| now >= at)) {
            keeper.signal(started.id, Signal::KILL);
            killed = true;
        }
        let next = if killed { None } else { kill_at.or(timeout_at) };
        let timer = match next {
            // A timer set while the clock runs may fire early if it was stopped meanwhile; then it is set anew.
            Some(at) if !shared.clock.is_paused() => after(at.saturating_sub(now)),
            _ => never(),
        };
        select! {
            recv(started.events) -> event => {
                return (event.unwrap_or(TrialEvent::Lost), asked.map(|(cause, _)| cause));
            }
            recv(wake) -> _ => {}
            recv(timer) -> _ => {}
        }
    }
}

/// Whoever stops every process at once may reach a trial before the engine: a trial that died of such a signal is
/// judged once the engine's own has had time to arrive. Rare, so the wait costs nothing that counts.
fn await_shutdown(shared: &Shared, wake: &Receiver<()>, event: &TrialEvent) {
    let TrialEvent::Ended(exited) = event else { return };
    if exited.signalled || !ended_by_shutdown_signal(exited.exit) {
        return;
    }
    for _ in 0..SHUTDOWN_LOOKS {
        if shared.mode() >= Mode::Drain {
            return;
        }
        // Woken or not, the mode decides.
        let _ = wake.recv_timeout(SHUTDOWN_PAUSE);
    }
}

/// The keeper died under an attempt. If it did that, it has failed; if that is not known, it is interrupted, and runs again
/// alone.
fn lost(shared: &Shared, pass: &Pass<'_>, job: &Job, wall: Duration) {
    // Whatever left the group is nobody's child of ours any more, but still says whose it is.
    let left = match strays::kill_attempt(&job.key) {
        Ok(_) => "",
        Err(_) => "; some of its processes may be left",
    };
    let did_it = pass.keeper_died() || shared.single;
    // A forced end takes the keeper along, too.
    let mut unsynced = Unsynced::new(&shared.room);
    let verdict = if did_it && shared.mode() < Mode::Terminate {
        let reason = format!("the process that keeps the trials died while this one ran alone{left}");
        let remains = EndedAttemptDir::of(&shared.grounds, job);
        let named = remains.and_then(|remains| {
            let failed = classify::with_last_lines(failure(KilledKeeper, reason), &remains)?;
            Ok((remains, failed))
        });
        match named {
            Ok((remains, failed)) => shared.keep_rest(job, Verdict::Failed(failed), &remains, &mut unsynced),
            Err(why) => shared.machine_failed(why),
        }
    } else {
        Verdict::Interrupted { reason: format!("the trial keeper died{left}") }
    };
    let usage = Usage { wall_us: u64::try_from(wall.as_micros()).unwrap_or(u64::MAX), ..Usage::default() };
    shared.tell_ended(job, None, usage, verdict, unsynced);
}

fn report(
    shared: &Shared,
    job: &Job,
    told: &Running,
    exited: Exited,
    cause: Option<Cause>,
    (started_at, wall): (Duration, Duration),
) {
    let wall_us = u64::try_from(wall.as_micros()).unwrap_or(u64::MAX);
    let usage = Usage {
        wall_us,
        cpu_us: exited.user_us.saturating_add(exited.system_us),
        peak_rss_bytes: exited.peak_rss_bytes,
    };
    // A trial that ended before the signal reached it ended by itself.
    let cause = cause.filter(|_| exited.signalled);
    let mut unsynced = Unsynced::new(&shared.room);
    let verdict = match EndedAttemptDir::of(&shared.grounds, job) {
        Ok(remains) => {
            let left = Left { remains: &remains, started_at };
            let verdict = judge(shared, job, told, &exited, cause, &left, &mut unsynced);
            shared.keep_rest(job, verdict, &remains, &mut unsynced)
        }
        // An end that the engine brought about needs no look at what was left.
        Err(_) if cause == Some(Cause::Shutdown) => Verdict::Interrupted { reason: SHUT_DOWN.into() },
        Err(_) if cause == Some(Cause::Pruned) => Verdict::Interrupted { reason: PRUNED.into() },
        Err(why) => shared.machine_failed(why),
    };
    shared.tell_ended(job, Some(exited.exit), usage, verdict, unsynced);
}

/// What an attempt left, and when it began, on the trials' clock.
struct Left<'a> {
    remains: &'a EndedAttemptDir,
    started_at: Duration,
}

fn judge(
    shared: &Shared,
    job: &Job,
    told: &Running,
    exited: &Exited,
    cause: Option<Cause>,
    left: &Left<'_>,
    unsynced: &mut Unsynced,
) -> Verdict {
    let failed = match (cause, exited.exit) {
        (Some(Cause::Shutdown), _) => {
            return Verdict::Interrupted { reason: SHUT_DOWN.into() };
        }
        (Some(Cause::Pruned), _) => return Verdict::Interrupted { reason: PRUNED.into() },
        (Some(Cause::Timeout), _) => {
            let limit = words::limit(job.stage_spec.timeout.unwrap_or_default());
            let failed = failure(Timeout, format!("ran longer than {limit}"));
            // Piton's own doing: how it exits then, and what it says about it, only follows from that.
            return match classify::with_last_lines(failed, left.remains) {
                Ok(failed) => Verdict::Failed(failed),
                Err(why) => shared.machine_failed(why),
            };
        }
        // `docker stop`, `systemctl stop` and job schedulers signal every process, not the engine alone.
        (None, exit) if shared.mode() >= Mode::Drain && ended_by_shutdown_signal(exit) => {
            return Verdict::Interrupted { reason: SIGNALLED.into() };
        }
        (None, Exit::Code(0)) => {
            let watch = || shared.may_go_on(job, left.started_at);
            match results::collect(job, left.remains, unsynced, &watch) {
                Ok((metrics, outputs)) => return Verdict::Succeeded { metrics, outputs },
                Err(AttemptError::Trial(failure)) => failure,
                Err(AttemptError::Machine(why)) => return shared.machine_failed(why),
                Err(AttemptError::CutOff) => return shared.cut_off(job),
            }
        }
        (None, exit) => by_exit(exit, told.command.by_shell),
    };
    if let Some(why) = full_disk(job) {
        return shared.machine_failed(format!("{why}; a trial failed meanwhile: {}", failed.reason));
    }
    match shared.memory.classify(job, left.remains, &told.memory, exited.exit, failed) {
        Ok(failed) => Verdict::Failed(failed),
        Err(why) => shared.machine_failed(why),
    }
}

/// The failure of an attempt that ended so by itself, before a rule names it.
pub(super) fn by_exit(exit: Exit, by_shell: bool) -> Failure {
    match exit {
        Exit::Code(SHELL_NOT_FOUND) if by_shell => failure(
            CommandNotFound,
            format!("exited with code {SHELL_NOT_FOUND}: the shell did not find a command"),
        ),
        Exit::Code(code) => failure(FailureKind::ExitCode, format!("exited with code {code}")),
        Exit::Signal(signal) => failure(FailureKind::Signal, format!("killed by {}", signal_name(signal))),
    }
}

/// Less than this, and what a trial writes may not have fitted, bytes: more than the engine's reserve, which may have been
/// given back since the trial found the disk full.
const FULL_BYTES: u64 = 2 << 20;

/// Whether the disk of the attempt's directory is full: then a failure says nothing about the trial, and all that
/// follow would fail alike.
fn full_disk(job: &Job) -> Option<String> {
    let artifacts = &job.stage_spec.artifacts_dir;
    let disk = match rustix::fs::statvfs(&job.dir).or_else(|_| rustix::fs::statvfs(artifacts)) {
        Ok(disk) => disk,
        // Artifacts that somebody took away say nothing about the disk.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS | Errno::LOOP | Errno::NOSYS) => return None,
        Err(errno) => {
            let why = io_words(&errno.into());
            return Some(format!("cannot tell whether the disk of `{}` is full: {why}", artifacts.display()));
        }
    };
    let blocks = if rustix::process::geteuid().is_root() { disk.f_bfree } else { disk.f_bavail };
    // File systems without a fixed number of files, or of no size at all, say 0 of 0.
    let no_files = disk.f_files > 0 && disk.f_ffree == 0;
    let no_space = disk.f_blocks > 0 && blocks.saturating_mul(disk.f_frsize) < FULL_BYTES;
    (no_files || no_space).then(|| format!("no space left on the disk of `{}`", artifacts.display()))
}

/// Died of TERM, INT or HUP, or is a shell that exits with that signal's code.
fn ended_by_shutdown_signal(exit: Exit) -> bool {
    let signals = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];
    match exit {
        Exit::Signal(signal) => signals.contains(&signal),
        Exit::Code(code) => signals.contains(&(code - 128)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_engine_cannot_make_is_no_verdict_on_a_trial() {
        let is_broken = |kind, step, errno| match refused(failure(kind, "why"), step, errno) {
            NotStarted::Broken(why) => why == "why",
            _ => false,
        };
        use SpawnStep::{Cgroup, Clone, Cwd, Exec, Limits, Logs, Setup};
        for step in [Cwd, Logs, Clone, Setup, Cgroup, Limits] {
            for errno in [Errno::ACCESS, Errno::PERM, Errno::LOOP, Errno::NOENT, Errno::INVAL, Errno::NOSPC] {
                assert!(is_broken(SpawnFailed, step, errno), "{step:?} {errno}");
            }
        }
        // Its program's are its own, but for what passes or is the machine's.
        for (kind, errno, broken) in [
            (SpawnFailed, Errno::ACCESS, false),
            (SpawnFailed, Errno::NOEXEC, false),
            (CommandNotFound, Errno::NOENT, false),
            (OutOfMemory, Errno::NOMEM, false),
            (SpawnFailed, Errno::NOMEM, true),
            (SpawnFailed, Errno::TXTBSY, true),
        ] {
            assert_eq!(is_broken(kind, Exec, errno), broken, "{errno}");
        }
    }
}
