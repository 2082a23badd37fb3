//! Processes that cannot be confused: a pid together with its start time.
//!
//! Nothing here may ever signal a process by pid alone: numbers are used again. Every signal goes through a pidfd
//! whose process was checked *after* the pidfd was opened, so what was checked is what is hit. And a process that cannot
//! be looked at (no descriptor left, no memory) is not dead: that is an error, and never "there is none".

use std::fs;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open, pidfd_send_signal};

use crate::model::ProcessId;

/// What `/proc/<pid>/stat` says of a process, as far as it is needed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    /// Never 0.
    pub pid: u32,
    pub parent: u32,
    pub group: u32,
    pub session: u32,
    /// Whether it is dead, waiting to be reaped.
    pub dead: bool,
    /// Whether it is stopped: by ^Z, SIGSTOP or a debugger.
    pub stopped: bool,
    /// Start time, clock ticks since boot.
    pub start_ticks: u64,
}

impl Stat {
    /// Reads it; `None` when there is no such process (any more).
    ///
    /// # Errors
    /// If it cannot be looked at.
    pub(crate) fn of(pid: u32) -> io::Result<Option<Self>> {
        let text = if_there(read_kernel_file(format!("/proc/{pid}/stat")))?;
        let Some(text) = text.filter(|text| !is_released(text)) else { return Ok(None) };
        let nonsense = || io::Error::new(io::ErrorKind::InvalidData, format!("`/proc/{pid}/stat` makes no sense"));
        Self::parse(&text).map(Some).ok_or_else(nonsense)
    }

    /// Parses the file's bytes. The second field, the program's name in parentheses, may hold anything at all,
    /// spaces and parentheses included, so fields are counted from the last `)`.
    #[must_use]
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let close = text.iter().rposition(|byte| *byte == b')')?;
        let head = std::str::from_utf8(text.get(..text.iter().position(|byte| *byte == b'(')?)?).ok()?;
        let rest = std::str::from_utf8(text.get(close + 1..)?).ok()?;
        // The first of these is field 3 of proc_pid_stat(5).
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?;
        let parent = fields.next()?.parse().ok()?;
        let group = fields.next()?.parse().ok()?;
        let session = fields.next()?.parse().ok()?;
        let threads: u64 = fields.nth(20 - 7)?.parse().ok()?;
        let start_ticks = fields.nth(22 - 21)?.parse().ok()?;
        Some(Self {
            pid: head.trim().parse().ok()?,
            parent,
            group,
            session,
            // A process whose main thread exited shows as a zombie while its other threads go on.
            dead: matches!(state, "Z" | "X" | "x") && threads <= 1,
            stopped: matches!(state, "T" | "t"),
            start_ticks,
        })
    }

    /// The process without its circumstances.
    #[must_use]
    pub(crate) fn id(&self) -> ProcessId {
        ProcessId { pid: self.pid, start_ticks: self.start_ticks }
    }
}

/// Whether `/proc/<pid>/stat` was read of a process that was being reaped just then: it has no group any more, and shows -1
/// in its place.
fn is_released(stat: &[u8]) -> bool {
    let rest = stat.rsplit(|byte| *byte == b')').next().unwrap_or_default();
    let mut fields = rest.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
    stat.is_empty() || fields.nth(2).is_some_and(|group| group == b"-1")
}

/// What was read of a process; `None` if it is gone.
fn if_there<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Ok(read) => Ok(Some(read)),
        // The second: it went between opening and reading.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Likewise, or if it is somebody else's.
fn if_ours<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match if_there(read) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM)) => Ok(None),
        read => read,
    }
}

/// Most that [`read_kernel_file`] reads, bytes.
const KERNEL_FILE_BYTES: usize = 4096;

/// Reads a file that the kernel makes up when it is read, and that is shorter than 4 KiB: such a file comes whole with one
/// read, so neither its length nor its end is asked for. Some are read for every trial.
///
/// # Errors
/// What the kernel says.
pub(crate) fn read_kernel_file(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let mut text = vec![0; KERNEL_FILE_BYTES];
    let length = fs::File::open(path)?.read(&mut text)?;
    text.truncate(length);
    Ok(text)
}

/// When the process started, in clock ticks since boot (field 22 of `/proc/<pid>/stat`); `None` if there is none, or it
/// cannot be found out.
#[must_use]
pub(crate) fn start_ticks(pid: u32) -> Option<u64> {
    Stat::of(pid).ok()?.map(|stat| stat.start_ticks)
}

/// This process. Start time 0 if `/proc` is not there.
#[must_use]
pub(crate) fn this_process() -> ProcessId {
    let pid = std::process::id();
    ProcessId { pid, start_ticks: start_ticks(pid).unwrap_or(0) }
}

/// Whether exactly this process, noted during the boot called `boot_id`, is alive. A zombie is not.
///
/// # Errors
/// If it cannot be looked at; so for all here.
pub(crate) fn is_alive(process: &ProcessId, boot_id: &str) -> io::Result<bool> {
    Ok(!boot_id.is_empty() && boot_id == super::clock::boot_id()? && lives(*process)?)
}

/// Whether exactly this process of this boot is alive. A zombie is not.
///
/// # Errors
/// As for [`is_alive`].
pub(crate) fn lives(process: ProcessId) -> io::Result<bool> {
    Ok(Stat::of(process.pid)?.is_some_and(|stat| stat.start_ticks == process.start_ticks && !stat.dead))
}

/// Sends `signal` to exactly this process. `false` if it is gone, or its number belongs to another by now.
///
/// # Errors
/// What the kernel says: not permitted, mostly.
pub(crate) fn signal_exactly(process: ProcessId, signal: Signal) -> io::Result<bool> {
    let sent = match open_exactly(process)? {
        Opened::Gone => return Ok(false),
        Opened::Held(pidfd) => pidfd_send_signal(&pidfd, signal),
        Opened::NoPidfd(pid) => kill_process(pid, signal),
    };
    match sent {
        Ok(()) => Ok(true),
        Err(Errno::SRCH) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Sends `signal` to the process group that exactly this process leads. `false` if the process is gone.
///
/// # Errors
/// What the kernel says: not permitted, mostly.
pub(crate) fn signal_group_exactly(leader: ProcessId, signal: Signal) -> io::Result<bool> {
    // The pidfd pins nothing but itself: the number could be used again between the check and the signal if the
    // leader died and was reaped just then *and* its group was empty. Whoever calls this is the one who reaps, or
    // looks at a process of another engine, whose number then is a moment old: the kernel hands out pids in a ring.
    match open_exactly(leader)? {
        Opened::Gone => Ok(false),
        Opened::Held(_) | Opened::NoPidfd(_) => {
            let leads = Stat::of(leader.pid)?
                .is_some_and(|stat| stat.start_ticks == leader.start_ticks && stat.group == leader.pid);
            let Some(pid) = as_pid(leader.pid).filter(|_| leads) else { return Ok(false) };
            match kill_process_group(pid, signal) {
                Ok(()) => Ok(true),
                Err(Errno::SRCH) => Ok(false),
                Err(errno) => Err(errno.into()),
            }
        }
    }
}

/// Waits until exactly this process is dead (a zombie counts as dead), at most `limit` if there is one. Whether it is.
///
/// # Errors
/// What the kernel says.
pub(crate) fn wait_gone(process: ProcessId, limit: Option<Duration>) -> io::Result<bool> {
    let start = Instant::now();
    let left = || limit.map(|limit| limit.saturating_sub(start.elapsed()));
    loop {
        let step = match open_exactly(process)? {
            Opened::Gone => return Ok(true),
            Opened::Held(pidfd) => poll_readable(&pidfd, left()),
            // Kernels before 5.3: look again now and then.
            Opened::NoPidfd(_) => {
                std::thread::sleep(Duration::from_millis(10));
                Ok(false)
            }
        };
        match step {
            Ok(true) => return Ok(true),
            Ok(false) | Err(Errno::INTR) if left().is_some_and(|left| left.is_zero()) => {
                return Ok(!lives(process)?);
            }
            Ok(false) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// A descriptor that becomes readable once exactly this process is dead; `None` if it is.
///
/// # Errors
/// The kernel's error, also where it has no pidfds.
pub(crate) fn hold(process: ProcessId) -> io::Result<Option<OwnedFd>> {
    match open_exactly(process)? {
        Opened::Held(pidfd) => Ok(Some(pidfd)),
        Opened::Gone => Ok(None),
        Opened::NoPidfd(_) => Err(io::ErrorKind::Unsupported.into()),
    }
}

enum Opened {
    Held(OwnedFd),
    Gone,
    /// The kernel has no pidfds (or a sandbox hides them); the process was checked a moment ago.
    NoPidfd(Pid),
}

fn open_exactly(process: ProcessId) -> io::Result<Opened> {
    let Some(pid) = as_pid(process.pid) else { return Ok(Opened::Gone) };
    let opened = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => Opened::Held(pidfd),
        Err(Errno::NOSYS | Errno::PERM) => Opened::NoPidfd(pid),
        // INVAL and NOENT: the number now belongs to a thread.
        Err(Errno::SRCH | Errno::INVAL | Errno::NOENT) => return Ok(Opened::Gone),
        Err(errno) => return Err(errno.into()),
    };
    // After opening: now the number cannot come to mean another process behind our back.
    Ok(if lives(process)? { opened } else { Opened::Gone })
}

/// The number as a pid; never 0, which would mean "my own group", and never beyond what the kernel knows.
fn as_pid(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

fn poll_readable(fd: &OwnedFd, limit: Option<Duration>) -> Result<bool, Errno> {
    let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    poll(&mut fds, limit.as_ref()).map(|ready| ready > 0)
}

/// Every process there is, read from `/proc`. Those that vanish while looking are left out, and those that the system
/// hides from this user.
///
/// # Errors
/// If `/proc` cannot be listed, or one of them cannot be looked at.
pub(crate) fn all_processes() -> io::Result<Vec<Stat>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        found.extend(if_ours(Stat::of(pid))?.flatten());
    }
    Ok(found)
}

/// The files that a process holds an exclusive lock on, of the kind that belongs to an open file: by the names that
/// `/proc` has for its descriptors. None for a process that is gone or not ours to look into.
///
/// # Errors
/// As for [`is_alive`].
pub(crate) fn write_locked_files(pid: u32) -> io::Result<Vec<PathBuf>> {
    let Some(descriptors) = if_ours(fs::read_dir(format!("/proc/{pid}/fdinfo")))? else { return Ok(Vec::new()) };
    let locked = |info: &[u8]| {
        let mut lines = info.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"lock:"));
        lines.any(|line| has_word(line, b"OFDLCK") && has_word(line, b"WRITE"))
    };
    let mut found = Vec::new();
    for entry in descriptors {
        let Some(entry) = if_ours(entry)? else { break };
        if if_ours(read_kernel_file(entry.path()))?.is_some_and(|info| locked(&info)) {
            found.push(Path::new("/proc").join(pid.to_string()).join("fd").join(entry.file_name()));
        }
    }
    Ok(found)
}

fn has_word(line: &[u8], word: &[u8]) -> bool {
    line.split(u8::is_ascii_whitespace).any(|found| found == word)
}

/// Whether exactly this process has a handler for a signal: any other would die of it, or not notice.
///
/// # Errors
/// As for [`is_alive`].
pub(crate) fn handles(process: ProcessId, signal: Signal) -> io::Result<bool> {
    let status = read_kernel_file(format!("/proc/{}/status", process.pid));
    let Some(status) = if_there(status)? else { return Ok(false) };
    let status = String::from_utf8_lossy(&status);
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    let bit = u32::try_from(signal.as_raw() - 1).unwrap_or(u32::MAX);
    Ok(lives(process)? && caught.checked_shr(bit).is_some_and(|caught| caught & 1 == 1))
}

/// Whose a process is: its effective user; `None` if it is gone.
///
/// # Errors
/// As for [`is_alive`].
pub(crate) fn user_of(pid: u32) -> io::Result<Option<u32>> {
    let Some(status) = if_there(read_kernel_file(format!("/proc/{pid}/status")))? else { return Ok(None) };
    let status = String::from_utf8_lossy(&status);
    let users = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    Ok(users.and_then(|users| users.split_ascii_whitespace().nth(1)?.parse().ok()))
}

/// Another process's environment as it was at its `execve`.
#[derive(Clone, Debug)]
pub(crate) struct Environ(Vec<u8>);

impl Environ {
    /// Reads it; `None` if the process is gone or not ours to look at.
    ///
    /// # Errors
    /// As for [`is_alive`].
    pub(crate) fn of(pid: u32) -> io::Result<Option<Self>> {
        Ok(if_ours(fs::read(format!("/proc/{pid}/environ")))?.map(Self))
    }

    /// Whether there is nothing in it: a kernel thread, a zombie, a process that was given none, or one in the middle
    /// of its `execve`, which will have one in a moment.
    #[must_use]
    pub(crate) fn is_bare(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of a variable.
    #[must_use]
    pub(crate) fn value(&self, name: &str) -> Option<&[u8]> {
        self.0.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn names_with_spaces_and_parentheses_do_not_shift_the_fields() {
        let text =
            b"42 (a) R 1 (b c)) S 7 9 9 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 3 0 98765 100 200 18446744073709551615";
        let expected =
            Stat { pid: 42, parent: 7, group: 9, session: 9, dead: false, stopped: false, start_ticks: 98_765 };
        assert_eq!(Stat::parse(text), Some(expected));
    }

    #[test]
    fn a_zombie_is_dead_unless_other_threads_go_on() {
        let zombie = |threads| format!("5 (x) Z 1 5 5 0 -1 0 0 0 0 0 0 0 0 0 20 0 {threads} 0 77 0 0");
        assert!(Stat::parse(zombie(1).as_bytes()).unwrap().dead);
        assert!(!Stat::parse(zombie(2).as_bytes()).unwrap().dead);
    }

    #[test]
    fn one_that_is_just_reaped_is_gone() {
        assert!(
            is_released(b"24400 (a) b) X 0 -1 -1 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 0 0 98765 0 0")
                && is_released(b"")
        );
        assert!(!is_released(b"42 (a) S 7 9 9 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 3 0 98765 100 200"));
        assert!(!is_released(b"42 (-1 -1 -1) S 7 0 0 0 -1 4194560"));
    }

    #[test]
    fn damaged_lines_are_refused() {
        for text in
            [&b""[..], b"1", b"1 (a", b"1 (a) S 1", b")(", b"x (a) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 7"]
        {
            assert_eq!(Stat::parse(text), None, "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn this_process_is_alive_in_this_boot_only() {
        let me = this_process();
        let boot = crate::sys::clock::boot_id().unwrap();
        let is_alive = |process: &ProcessId, boot: &str| is_alive(process, boot).unwrap();
        assert!(is_alive(&me, &boot));
        assert!(!is_alive(&me, "another boot"));
        assert!(!is_alive(&me, ""));
        assert!(!is_alive(&ProcessId { start_ticks: me.start_ticks + 1, ..me }, &boot));
    }

    #[test]
    fn a_number_used_again_is_never_hit() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let real = Stat::of(child.id()).unwrap().unwrap().id();
        let earlier = ProcessId { start_ticks: real.start_ticks - 1, ..real };
        assert!(!signal_exactly(earlier, Signal::KILL).unwrap());
        assert!(!signal_group_exactly(earlier, Signal::KILL).unwrap());
        // It leads no group, so its group (the test runner's) must not be hit for it.
        assert!(!signal_group_exactly(real, Signal::KILL).unwrap());
        assert!(wait_gone(earlier, None).unwrap());
        assert!(!wait_gone(real, Some(Duration::ZERO)).unwrap());
        assert!(lives(real).unwrap());
        assert!(signal_exactly(real, Signal::KILL).unwrap());
        assert!(wait_gone(real, None).unwrap());
        assert!(!lives(real).unwrap(), "a zombie counts as gone");
        assert!(!signal_exactly(real, Signal::KILL).unwrap());
        child.wait().unwrap();
    }

    #[test]
    fn another_process_tells_its_environment() {
        let mut child = Command::new("cat")
            .env("PITON_TEST_KEY", "a=b")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // Bare until the kernel is done with its execve.
        let environ = loop {
            match Environ::of(child.id()).unwrap().unwrap() {
                environ if environ.is_bare() => std::thread::yield_now(),
                environ => break environ,
            }
        };
        assert_eq!(environ.value("PITON_TEST_KEY"), Some(&b"a=b"[..]));
        assert_eq!(environ.value("PITON_TEST"), None);
        assert!(all_processes().unwrap().iter().any(|stat| stat.pid == child.id()));
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    /// Runs this where no descriptor is left, on a thread whose descriptors are its own.
    fn without_descriptors<T: Send>(look: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let looked = scope.spawn(|| {
                // SAFETY: a plain system call; from here on this thread has a table of descriptors of its own.
                assert_eq!(unsafe { libc::unshare(libc::CLONE_FILES) }, 0, "{}", io::Error::last_os_error());
                let any = fs::File::open("/dev/null").unwrap();
                let mut taken = Vec::new();
                while let Ok(another) = any.try_clone() {
                    taken.push(another);
                }
                let answer = look();
                drop(taken);
                answer
            });
            looked.join().unwrap()
        })
    }

    #[test]
    fn who_cannot_be_looked_at_is_not_dead() {
        let me = this_process();
        let boot = crate::sys::clock::boot_id().unwrap();
        let emfile = |error: io::Error| assert_eq!(error.raw_os_error(), Some(libc::EMFILE), "{error}");
        without_descriptors(|| {
            emfile(Stat::of(me.pid).unwrap_err());
            emfile(lives(me).unwrap_err());
            emfile(is_alive(&me, &boot).unwrap_err());
            emfile(all_processes().unwrap_err());
            emfile(Environ::of(me.pid).unwrap_err());
            emfile(write_locked_files(me.pid).unwrap_err());
            emfile(handles(me, Signal::TERM).unwrap_err());
            emfile(signal_exactly(me, Signal::CONT).unwrap_err());
            emfile(signal_group_exactly(me, Signal::CONT).unwrap_err());
            emfile(wait_gone(me, Some(Duration::ZERO)).unwrap_err());
            emfile(hold(me).map(drop).unwrap_err());
        });
        assert!(lives(me).unwrap());
        // The number after the largest one that can be.
        let nobody = ProcessId { pid: 4_194_305, start_ticks: 1 };
        assert!(!lives(nobody).unwrap() && Environ::of(nobody.pid).unwrap().is_none());
        assert!(write_locked_files(nobody.pid).unwrap().is_empty() && !handles(nobody, Signal::TERM).unwrap());
    }
}
