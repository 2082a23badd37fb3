//! Running a helper: a program that must not matter, within a time, whatever it does.
//!
//! It gets a message on its standard input. The end of its standard error is kept. Nothing of it is waited for
//! longer than the caller says. On a thread that has a [`Host`] it runs there, and nothing that it starts outlives it or this
//! process. On any other it is a child in a process group of its own, which dies with this process as far as the kernel
//! sees to it.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, kill_process_group};

use super::process::{hold, start_ticks};
use crate::model::ProcessId;

/// From TERM to KILL.
const GRACE: Duration = Duration::from_secs(2);

/// What is kept of its standard error, bytes.
const KEPT: usize = 4 << 10;

#[derive(Debug)]
pub(crate) struct Ended {
    /// `None`: its time was up.
    pub status: Option<ExitStatus>,
    /// The end of what it said on standard error.
    pub said: String,
}

/// A helper to start.
#[derive(Debug)]
pub struct Helper<'a> {
    /// Program, arguments, changes of the environment, working directory.
    pub command: &'a Command,
    /// What it reads, from its beginning.
    pub stdin: BorrowedFd<'a>,
    /// Where its output goes.
    pub stdout: BorrowedFd<'a>,
    pub stderr: BorrowedFd<'a>,
}

/// Where helpers run other than as children of this process.
pub trait Host: Send + Sync + std::fmt::Debug {
    /// Starts one, as the leader of a process group.
    ///
    /// # Errors
    /// If it cannot be started.
    fn start(&self, helper: &Helper<'_>) -> io::Result<Box<dyn Hosted>>;
}

/// A helper that was started.
pub trait Hosted {
    fn process(&self) -> ProcessId;
    /// Signals its process group, if it has not ended.
    fn signal(&self, signal: Signal);
    /// Kills what is left of it, and gives how it ended.
    ///
    /// # Errors
    /// If that is not known.
    fn end(self: Box<Self>) -> io::Result<ExitStatus>;
}

thread_local! {
    static HOSTS: RefCell<Vec<Arc<dyn Host>>> = const { RefCell::new(Vec::new()) };
}

/// While it lives, helpers that this thread starts run at its host.
#[derive(Debug)]
pub struct AtHost {
    /// A thread's own.
    _not_send: std::marker::PhantomData<*const ()>,
}

impl AtHost {
    /// From now on, on this thread.
    #[must_use]
    pub fn new(host: Arc<dyn Host>) -> Self {
        HOSTS.with_borrow_mut(|hosts| hosts.push(host));
        Self { _not_send: std::marker::PhantomData }
    }
}

impl Drop for AtHost {
    fn drop(&mut self) {
        HOSTS.with_borrow_mut(|hosts| drop(hosts.pop()));
    }
}

/// A time at which helpers have to have ended, which may be brought forward while they run.
#[derive(Debug)]
pub(crate) struct Deadline {
    at: Mutex<Option<Instant>>,
    changed: OwnedFd,
}

impl Deadline {
    /// None yet.
    ///
    /// # Errors
    /// If there is no descriptor left.
    pub(crate) fn new() -> io::Result<Self> {
        let changed = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { at: Mutex::new(None), changed })
    }

    /// Sets it, unless it is earlier already.
    pub(crate) fn bring_forward(&self, to: Instant) {
        {
            let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
            *at = Some(at.map_or(to, |at| at.min(to)));
        }
        // Only a count that is full already cannot be raised, and that one is seen as well.
        let _ = rustix::io::write(&self.changed, &1_u64.to_ne_bytes());
    }

    #[must_use]
    pub(crate) fn is_over(&self) -> bool {
        self.at().is_some_and(|at| at <= Instant::now())
    }

    fn at(&self) -> Option<Instant> {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seen(&self) {
        let _ = rustix::io::read(&self.changed, &mut [0_u8; 8]);
    }
}

/// Runs it, until a deadline at most. What it started is killed once it has ended.
///
/// # Errors
/// If it cannot be started or watched.
pub(crate) fn run_until(
    command: &mut Command,
    input: &[u8],
    limit: Duration,
    deadline: &Deadline,
) -> io::Result<Ended> {
    run_to(command, input, limit, Some(deadline), File::options().write(true).open("/dev/null")?)
}

/// Like [`run_until`], without a deadline; also all that it wrote on its standard output.
///
/// # Errors
/// As for [`run_until`], and if its output cannot be kept.
pub(crate) fn output(command: &mut Command, input: &[u8], limit: Duration) -> io::Result<(Ended, Vec<u8>)> {
    // A file in memory takes any amount without being read meanwhile.
    let mut kept = File::from(memfd_create("output", MemfdFlags::CLOEXEC)?);
    let ended = run_to(command, input, limit, None, kept.try_clone()?)?;
    let mut out = Vec::new();
    kept.seek(SeekFrom::Start(0))?;
    kept.read_to_end(&mut out)?;
    Ok((ended, out))
}

fn run_to(
    command: &mut Command,
    input: &[u8],
    limit: Duration,
    deadline: Option<&Deadline>,
    stdout: File,
) -> io::Result<Ended> {
    let mut stdin = File::from(memfd_create("input", MemfdFlags::CLOEXEC)?);
    stdin.write_all(input)?;
    stdin.seek(SeekFrom::Start(0))?;
    let (heard, stderr) = pipe_with(PipeFlags::CLOEXEC)?;
    let host = HOSTS.with_borrow(|hosts| hosts.last().cloned());
    let hosted = match host {
        Some(host) => {
            let (stdin, stdout) = (stdin.as_fd(), stdout.as_fd());
            host.start(&Helper { command, stdin, stdout, stderr: stderr.as_fd() })?
        }
        None => Box::new(OwnChild::start(command, stdin, stdout, stderr.try_clone()?)?),
    };
    // Its end is its own now: once it is gone, so is the other end of ours.
    drop(stderr);
    let watched = watch(&*hosted, heard, limit, deadline);
    let status = hosted.end()?;
    let (in_time, said) = watched?;
    Ok(Ended { status: in_time.then_some(status), said: String::from_utf8_lossy(&said).trim_end().to_owned() })
}

/// A child of this process.
struct OwnChild(Child);

impl OwnChild {
    fn start(command: &mut Command, stdin: File, stdout: File, stderr: OwnedFd) -> io::Result<Self> {
        command.process_group(0).stdin(stdin).stdout(stdout).stderr(stderr);
        // SAFETY: the closure runs between fork and exec, and prctl(2) is all it calls, which is async-signal-safe.
        unsafe {
            command.pre_exec(|| Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        let child = command.spawn();
        // The command would keep these open.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self(child?))
    }

    fn group(&self) -> Option<Pid> {
        i32::try_from(self.0.id()).ok().and_then(Pid::from_raw)
    }
}

impl Hosted for OwnChild {
    fn process(&self) -> ProcessId {
        let pid = self.0.id();
        ProcessId { pid, start_ticks: start_ticks(pid).unwrap_or(0) }
    }

    fn signal(&self, signal: Signal) {
        // It is not reaped, so nobody else can have this number.
        if let Some(group) = self.group() {
            let _ = kill_process_group(group, signal);
        }
    }

    fn end(mut self: Box<Self>) -> io::Result<ExitStatus> {
        self.signal(Signal::KILL);
        self.0.wait()
    }
}

/// Waits for its end; whether it came in time, and what it said.
fn watch(
    helper: &dyn Hosted,
    heard: OwnedFd,
    limit: Duration,
    deadline: Option<&Deadline>,
) -> io::Result<(bool, Vec<u8>)> {
    let begun = Instant::now();
    let ended = hold(helper.process())?;
    rustix::io::ioctl_fionbio(&heard, true)?;
    let mut stderr = Some(File::from(heard));
    let (mut said, mut killed_at) = (Vec::new(), None);
    loop {
        let now = Instant::now();
        let until = killed_at.unwrap_or_else(|| {
            let limit = begun.checked_add(limit);
            limit.into_iter().chain(deadline.and_then(Deadline::at)).min().unwrap_or(now)
        });
        let left = until.saturating_duration_since(now);
        if left.is_zero() && ended.is_some() {
            if killed_at.is_some() {
                return Ok((false, said));
            }
            killed_at = now.checked_add(GRACE);
            helper.signal(Signal::TERM);
            continue;
        }
        let mut fds = Vec::with_capacity(3);
        if let Some(ended) = &ended {
            fds.push(PollFd::new(ended, PollFlags::IN));
            fds.extend(stderr.as_ref().map(|stderr| PollFd::from_borrowed_fd(stderr.as_fd(), PollFlags::IN)));
            fds.extend(deadline.map(|deadline| PollFd::new(&deadline.changed, PollFlags::IN)));
            match poll(&mut fds, Timespec::try_from(left).ok().as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        let gone = fds.first().is_none_or(|fd| !fd.revents().is_empty());
        drop(fds);
        if let Some(deadline) = deadline {
            deadline.seen();
        }
        if stderr.as_mut().is_some_and(|stderr| !hear(stderr, &mut said)) {
            stderr = None;
        }
        if gone {
            return Ok((killed_at.is_none(), said));
        }
    }
}

/// Takes what waits; whether more may come.
fn hear(from: &mut impl Read, said: &mut Vec<u8>) -> bool {
    let mut chunk = [0; 4096];
    // A flood must not keep the time from being looked at.
    for _ in 0..16 {
        match from.read(&mut chunk) {
            Ok(0) => return false,
            Ok(read) => {
                said.extend_from_slice(chunk.get(..read).unwrap_or_default());
                let surplus = said.len().saturating_sub(KEPT);
                said.drain(..surplus);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn sh(script: &str, input: &[u8], limit: Duration) -> Ended {
        output(Command::new("sh").args(["-c", script]), input, limit).unwrap().0
    }

    #[test]
    fn it_hears_and_is_heard() {
        let ended = sh("read line; echo \"got $line\" >&2; exit 3", b"hello\n", LONG);
        assert_eq!((ended.status.unwrap().code(), ended.said.as_str()), (Some(3), "got hello"));
        let ended = sh("exit 0", &[b'x'; 10_000], LONG);
        assert!(ended.status.unwrap().success());
        let mut echo = Command::new("sh");
        let (ended, out) = output(echo.args(["-c", "cat; yes | head -c 300000"]), b"in\n", LONG).unwrap();
        assert!(ended.status.unwrap().success() && out.starts_with(b"in\ny\n") && out.len() == 300_003);
        let flood = sh("yes 123456789 | head -c 1000000 >&2; echo last >&2", b"", LONG);
        assert!(flood.said.ends_with("last") && flood.said.len() <= KEPT, "{}", flood.said.len());
    }

    #[test]
    fn its_time_ends_and_nothing_of_it_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let script = format!("trap '' TERM; sleep 1000 & echo $! > {0}; wait; wait", file.display());
        assert!(sh(&script, b"", Duration::from_millis(300)).status.is_none());
        let pid: u32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        // Only the leader of the group is waited for: the others were killed, and die in a moment.
        let lives = || matches!(crate::sys::process::Stat::of(pid), Ok(Some(stat)) if !stat.dead);
        let begun = Instant::now();
        while lives() {
            assert!(begun.elapsed() < LONG, "the sleep it started is left");
            std::thread::yield_now();
        }
        // What leaves the group keeps the pipe open; that is not waited for.
        let daemon = sh("setsid sleep 2 & exit 0", b"", LONG);
        assert!(daemon.status.unwrap().success());
    }

    #[test]
    fn what_cannot_be_started_is_an_error() {
        assert!(output(&mut Command::new("/no/such/program"), b"", LONG).is_err());
    }
}
