//! Running a program that must not matter: within a time, in a process group of its own, whatever it does.
//!
//! It is told something on its standard input, the end of its standard error is kept, and nothing of it is waited for
//! longer than was said. It dies with this process, as far as the kernel sees to it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

/// From TERM to KILL.
const GRACE: Duration = Duration::from_secs(2);

/// What is kept of its standard error, bytes.
const KEPT: usize = 4 << 10;

/// How it ended.
#[derive(Debug)]
pub struct Ended {
    /// `None`: its time was up.
    pub status: Option<ExitStatus>,
    /// The end of what it said on standard error.
    pub said: String,
}

/// Runs it. Its group is killed once it has ended, so that nothing of it is left.
///
/// # Errors
/// If it cannot be started or watched.
pub fn run(command: &mut Command, input: &[u8], limit: Duration) -> io::Result<Ended> {
    run_to(command, input, limit, Stdio::null())
}

/// The same; also all that it wrote on its standard output.
///
/// # Errors
/// As for [`run`], and if its output cannot be kept.
pub fn output(command: &mut Command, input: &[u8], limit: Duration) -> io::Result<(Ended, Vec<u8>)> {
    // A file in memory takes any amount without being read meanwhile.
    let mut kept = File::from(memfd_create("output", MemfdFlags::CLOEXEC)?);
    let ended = run_to(command, input, limit, kept.try_clone()?.into())?;
    let mut out = Vec::new();
    kept.seek(SeekFrom::Start(0))?;
    kept.read_to_end(&mut out)?;
    Ok((ended, out))
}

fn run_to(command: &mut Command, input: &[u8], limit: Duration, stdout: Stdio) -> io::Result<Ended> {
    command.process_group(0).stdin(Stdio::piped()).stdout(stdout).stderr(Stdio::piped());
    // SAFETY: the closure runs between fork and exec, and prctl(2) is all it calls, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?));
    }
    let mut child = command.spawn()?;
    let watched = watch(&mut child, input, limit);
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(group) = group {
        // Before it is reaped: until then nobody else can have this number.
        let _ = kill_process_group(group, Signal::KILL);
    }
    let status = child.wait()?;
    let (in_time, said) = watched?;
    Ok(Ended { status: in_time.then_some(status), said: String::from_utf8_lossy(&said).trim_end().to_owned() })
}

/// Waits for its end; whether it came in time, and what it said.
fn watch(child: &mut Child, input: &[u8], limit: Duration) -> io::Result<(bool, Vec<u8>)> {
    let begun = Instant::now();
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    let ended = pidfd_open(pid, PidfdFlags::empty())?;
    // A pipe takes this much at once, and a program that does not read is no error.
    if let Some(mut stdin) = child.stdin.take() {
        rustix::io::ioctl_fionbio(&stdin, true)?;
        let _ = stdin.write_all(input);
    }
    let mut stderr = child.stderr.take();
    if let Some(stderr) = &stderr {
        rustix::io::ioctl_fionbio(stderr, true)?;
    }
    let (mut said, mut term_at) = (Vec::new(), None);
    loop {
        let until = term_at.map_or(limit, |at: Duration| at.saturating_add(GRACE));
        let left = until.saturating_sub(begun.elapsed());
        if left.is_zero() {
            if term_at.is_some() {
                return Ok((false, said));
            }
            term_at = Some(begun.elapsed());
            let _ = kill_process_group(pid, Signal::TERM);
            continue;
        }
        let mut fds = vec![PollFd::new(&ended, PollFlags::IN)];
        fds.extend(stderr.as_ref().map(|stderr| PollFd::from_borrowed_fd(stderr.as_fd(), PollFlags::IN)));
        match poll(&mut fds, Timespec::try_from(left).ok().as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let gone = fds.first().is_some_and(|fd| !fd.revents().is_empty());
        drop(fds);
        if stderr.as_mut().is_some_and(|stderr| !hear(stderr, &mut said)) {
            stderr = None;
        }
        if gone {
            return Ok((term_at.is_none(), said));
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
        run(Command::new("sh").args(["-c", script]), input, limit).unwrap()
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
        let gone = crate::sys::process::Stat::of(pid).is_none_or(|stat| !crate::sys::process::lives(stat.id()));
        assert!(gone, "the sleep it started is gone");
        // What leaves the group keeps the pipe open; that is not waited for.
        let daemon = sh("setsid sleep 2 & exit 0", b"", LONG);
        assert!(daemon.status.unwrap().success());
    }

    #[test]
    fn what_cannot_be_started_is_an_error() {
        assert!(run(&mut Command::new("/no/such/program"), b"", LONG).is_err());
    }
}
