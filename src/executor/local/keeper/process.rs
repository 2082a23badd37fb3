//! The keeper process: parent and subreaper of all trials, so that nothing outlives the engine, however it died.
//!
//! It is a fork of the engine without `exec` (an embedding program has no piton to execute), possibly of a program
//! with many threads. So it must never take a lock another thread may have held: no `std::env`, no printing, no
//! logging, no thread. Allocation is fine: glibc and musl make malloc usable in a forked child. It must never return
//! into the engine's frames, never panic into them, and never act on a pid it has not just seen as its own child's.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::orphans::{Ending, Orphans};
use super::protocol::{Exited, Framed, Report, Request, Spawn, next_frame};
use super::spawn::{Spawner, last_errno};
use super::trial::Trial;
use crate::executor::ATTEMPT_KEY_VAR;
use crate::model::Exit;
use crate::sys::process::{Stat, all_processes, signal_exactly, start_ticks};

/// How long a dead engine's processes may resist SIGKILL (in an uninterruptible system call) before the keeper
/// leaves them to the kernel: they never run a line of their own code again.
const BURY_LIMIT: Duration = Duration::from_secs(30);

/// The keeper's whole life, in the forked child. Reports its start on `socket` (an errno, 0 for success).
pub(super) fn live(socket: &OwnedFd, engine: Option<&OwnedFd>) -> ! {
    // A panic must not unwind into the engine's frames; dying by itself takes the trials along (PR_SET_PDEATHSIG).
    let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| match settle_in(socket, engine) {
        Ok(mut keeper) => {
            keeper.outbox.extend(0_i32.to_le_bytes());
            keeper.serve();
            keeper.bury();
            0
        }
        Err(errno) => {
            let _ = send(socket, &errno.raw_os_error().to_le_bytes(), SendFlags::NOSIGNAL);
            1
        }
    }))
    .unwrap_or(2);
    // SAFETY: ends the process without running the engine's exit handlers a second time.
    unsafe { libc::_exit(code) }
}

/// Becomes a process of its own: session, name, descriptors.
fn settle_in(socket: &OwnedFd, engine: Option<&OwnedFd>) -> Result<Process, Errno> {
    // Its own session: neither `kill -9 -<group of the engine>` nor a terminal's hangup reaches it.
    rustix::process::setsid()?;
    // Every signal is blocked since before the fork, for ever; defaults, so that trials inherit nothing ignored and
    // SIGCHLD keeps its zombies.
    for signal in 1..=64 {
        // By the bare system call: the C library refuses its two internal signals, which may come ignored as well.
        let default = [0_usize; 16];
        // SAFETY: an all-zero kernel sigaction (no larger than this array anywhere) is the default disposition, which
        // installs no code; 8 is the size of the kernel's signal set. Numbers that cannot be set are refused.
        unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), ptr::null_mut::<usize>(), 8_usize)
        };
    }
    // `pkill piton` must not hit engine and keeper alike.
    let _ = rustix::thread::set_name(c"trial-keeper");
    overwrite_command_line();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    rustix::process::chdir(c"/")?;
    let (socket, engine) = keep_only(socket, engine)?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    let me = rustix::process::getpid().as_raw_nonzero().get();
    Ok(Process {
        children: child_signals()?,
        spawner: Spawner::new(me).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::NOMEM))?,
        orphans: Orphans::new(me.cast_unsigned()),
        socket,
        engine,
        me: me.cast_unsigned(),
        inbox: Vec::new(),
        outbox: Vec::new(),
        trials: BTreeMap::new(),
        by_id: BTreeMap::new(),
        stopped: false,
    })
}

/// Standard descriptors to `/dev/null`, the socket, the engine's pidfd; everything else is closed: a pipe kept open
/// here would make `piton run | cat` hang, a file would keep a disk mounted.
fn keep_only(socket: &OwnedFd, engine: Option<&OwnedFd>) -> Result<(OwnedFd, Option<OwnedFd>), Errno> {
    let high = |fd: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, 10);
    let null = high(&rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?)?;
    let (socket, engine) = (high(socket)?, engine.map(high).transpose()?);
    for standard in 0..=2 {
        dup_to(&null, standard, 0)?;
    }
    dup_to(&socket, 3, libc::O_CLOEXEC)?;
    if let Some(engine) = &engine {
        dup_to(engine, 4, libc::O_CLOEXEC)?;
    }
    let first_closed = if engine.is_some() { 5 } else { 4 };
    // These are closed below with all others; their owners must not close a number that means something else by then.
    std::mem::forget((null, socket));
    let had_engine = engine.map(std::mem::forget).is_some();
    // SAFETY: closes descriptors of the engine's that nothing in this process will use: it never returns to the
    // engine's code, and all it keeps lies below `first_closed`.
    if unsafe { libc::syscall(libc::SYS_close_range, first_closed, c_int::MAX, 0) } != 0 {
        // Kernels before 5.9.
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(1 << 16);
        for fd in first_closed..c_int::try_from(limit).unwrap_or(1 << 16).min(1 << 20) {
            // SAFETY: as above; closing what is not open does nothing.
            unsafe { libc::close(fd) };
        }
    }
    // SAFETY: 3 and 4 were made above by dup3 and belong to nobody else.
    Ok(unsafe { (OwnedFd::from_raw_fd(3), had_engine.then(|| OwnedFd::from_raw_fd(4))) })
}

fn dup_to(fd: &OwnedFd, number: c_int, flags: c_int) -> Result<(), Errno> {
    // SAFETY: replaces a descriptor whose earlier owner (the engine's code) never runs in this process again.
    if unsafe { libc::dup3(fd.as_raw_fd(), number, flags) } < 0 { Err(last_errno()) } else { Ok(()) }
}

/// A descriptor that is readable while a SIGCHLD is pending.
fn child_signals() -> Result<OwnedFd, Errno> {
    // SAFETY: the set is initialised by sigemptyset before it is used; the new descriptor has no other owner.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        match libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
            fd if fd >= 0 => Ok(OwnedFd::from_raw_fd(fd)),
            _ => Err(last_errno()),
        }
    }
}

/// `pkill -f piton` looks at the command line, which a fork shares with the engine.
fn overwrite_command_line() {
    let Ok(text) = std::fs::read_to_string("/proc/self/stat") else { return };
    let Some((_, rest)) = text.rsplit_once(')') else { return };
    // Fields 48 and 49 of proc_pid_stat(5); the first after the name is field 3.
    let mut fields = rest.split_ascii_whitespace().skip(48 - 3).map(str::parse::<usize>);
    let (Some(Ok(start)), Some(Ok(end))) = (fields.next(), fields.next()) else { return };
    let length = end.saturating_sub(start);
    if start == 0 || length == 0 || length > 1 << 20 {
        return;
    }
    let mut name = b"trial-keeper".to_vec();
    name.resize(length, 0);
    let local = libc::iovec { iov_base: name.as_mut_ptr().cast(), iov_len: length };
    let remote = libc::iovec { iov_base: ptr::without_provenance_mut(start), iov_len: length };
    // SAFETY: the kernel copies into this process's own private copy of the argument strings, which nothing here
    // reads; if the range is not writable it says so instead of faulting. A failure costs only the disguise.
    unsafe { libc::process_vm_writev(libc::getpid(), &raw const local, 1, &raw const remote, 1, 0) };
}

struct Process {
    me: u32,
    socket: OwnedFd,
    engine: Option<OwnedFd>,
    children: OwnedFd,
    spawner: Spawner,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    /// By pid: processes that are not reaped, so their numbers are theirs.
    trials: BTreeMap<u32, Trial>,
    by_id: BTreeMap<u64, u32>,
    orphans: Orphans,
    /// Every group is stopped.
    stopped: bool,
}

impl Process {
    /// Until the engine is gone.
    fn serve(&mut self) {
        loop {
            self.reap();
            for exited in self.orphans.settle(&self.trials) {
                Report::Exited(exited).encode(&mut self.outbox);
            }
            if !self.flush() {
                return;
            }
            match self.wait() {
                Some(true) if self.receive() => {}
                Some(false) => {}
                _ => return,
            }
        }
    }

    /// Sleeps until something happened; whether there is something to receive. `None` once the engine is dead.
    fn wait(&self) -> Option<bool> {
        let limit = self.orphans.look_again_in().and_then(|limit| Timespec::try_from(limit).ok());
        let out = if self.outbox.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        let mut fds =
            vec![PollFd::new(&self.socket, PollFlags::IN | out), PollFd::new(&self.children, PollFlags::IN)];
        // Besides the socket: another fork of the engine's program may hold a copy of the socket's other end.
        fds.extend(self.engine.as_ref().map(|engine| PollFd::new(engine, PollFlags::IN)));
        let _ = poll(&mut fds, limit.as_ref());
        let came = |place: usize| fds.get(place).map_or(PollFlags::empty(), PollFd::revents);
        if came(2).contains(PollFlags::IN) {
            return None;
        }
        if came(1).contains(PollFlags::IN) {
            let mut signal = [0_u8; 128 * 16];
            let _ = rustix::io::read(&self.children, &mut signal);
        }
        Some(came(0).intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR))
    }

    /// Sends what can be sent without waiting. `false` once the engine is gone.
    fn flush(&mut self) -> bool {
        while !self.outbox.is_empty() {
            match send(&self.socket, &self.outbox, SendFlags::NOSIGNAL) {
                Ok(sent) => drop(self.outbox.drain(..sent.min(self.outbox.len()))),
                Err(Errno::AGAIN) => return true,
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// Takes in and carries out what is there. `false` once the engine is gone or talks nonsense.
    fn receive(&mut self) -> bool {
        let mut buffer = vec![0_u8; 64 * 1024];
        match recv(&self.socket, &mut *buffer, RecvFlags::empty()) {
            Ok((0, _)) => return false,
            Ok((count, _)) => self.inbox.extend(buffer.get(..count).unwrap_or_default()),
            Err(Errno::AGAIN | Errno::INTR) => return true,
            Err(_) => return false,
        }
        let inbox = std::mem::take(&mut self.inbox);
        let mut rest = inbox.as_slice();
        let sane = loop {
            match next_frame(rest) {
                Framed::Partial => break true,
                Framed::Nonsense => break false,
                Framed::Whole(body, taken) => {
                    let Some(request) = Request::decode(body) else { break false };
                    self.carry_out(&request);
                    rest = rest.get(taken..).unwrap_or_default();
                }
            }
        };
        self.inbox = rest.to_vec();
        sane
    }

    fn carry_out(&mut self, request: &Request<'_>) {
        match request {
            Request::Spawn(spawn) => self.spawn(spawn),
            Request::Signal { id, signo } => {
                if let Some(pid) = self.by_id.get(id) {
                    self.signal(*pid, *signo);
                }
            }
            Request::StopAll => {
                self.stopped = true;
                self.signal_groups(libc::SIGSTOP);
            }
            Request::ContinueAll => {
                self.stopped = false;
                self.signal_groups(libc::SIGCONT);
            }
            Request::KillAll => {
                let pids: Vec<u32> = self.trials.keys().copied().collect();
                pids.into_iter().for_each(|pid| self.signal(pid, libc::SIGKILL));
            }
        }
    }

    fn spawn(&mut self, spawn: &Spawn<'_>) {
        let id = spawn.id;
        let spawned = Instant::now();
        let report = match self.spawner.start(spawn) {
            Ok(pid) => {
                let pid = pid.cast_unsigned();
                let start_ticks = start_ticks(pid).unwrap_or(0);
                let key = attempt_key(spawn.env).to_vec();
                self.trials.insert(pid, Trial { id, key, start_ticks, spawned, signalled: false });
                self.by_id.insert(id, pid);
                if self.stopped {
                    kill_group(pid, libc::SIGSTOP);
                }
                Report::Spawned { id, pid, start_ticks }
            }
            Err((step, errno)) => Report::SpawnFailed { id, errno: errno.raw_os_error(), step },
        };
        report.encode(&mut self.outbox);
    }

    /// To a trial's group, unless the trial has ended already: then its end is its own.
    fn signal(&mut self, pid: u32, signo: i32) {
        let Some(trial) = self.trials.get_mut(&pid) else { return };
        if ended(libc::P_PID, pid) == Some(pid) {
            return;
        }
        trial.signalled = true;
        kill_group(pid, signo);
        if signo != libc::SIGKILL && signo != libc::SIGSTOP {
            // A stopped process would not see it.
            kill_group(pid, libc::SIGCONT);
        }
    }

    fn signal_groups(&self, signo: i32) {
        self.trials.keys().for_each(|pid| kill_group(*pid, signo));
    }

    /// Takes in every child that ended: trials, and what was orphaned to us.
    fn reap(&mut self) {
        while let Some(pid) = ended(libc::P_ALL, 0) {
            if self.trials.contains_key(&pid) {
                // While the zombie is not reaped its number, and so the group's, cannot be used again; and no member
                // can escape by forking: the kernel refuses a fork to whom SIGKILL is pending.
                kill_group(pid, libc::SIGKILL);
            }
            let Some((exit, usage)) = reap_one(pid) else { return };
            let Some(trial) = self.trials.remove(&pid) else { continue };
            self.by_id.remove(&trial.id);
            let exited = Exited {
                id: trial.id,
                exit,
                signalled: trial.signalled,
                user_us: micros(usage.ru_utime),
                system_us: micros(usage.ru_stime),
                peak_rss_bytes: u64::try_from(usage.ru_maxrss).unwrap_or(0).saturating_mul(1024),
            };
            self.orphans.trial_ended(Ending::new(pid, trial, exited));
        }
    }

    /// The engine is gone: so shall be everything it started.
    fn bury(&mut self) {
        self.signal_groups(libc::SIGKILL);
        let start = Instant::now();
        while start.elapsed() < BURY_LIMIT {
            while let Some(pid) = ended(libc::P_ALL, 0) {
                reap_one(pid);
            }
            if no_children() {
                return;
            }
            // Whoever's ancestors lead here; killing one makes us the parent of its children, so look again.
            let processes = all_processes().unwrap_or_default();
            let parents = processes.iter().map(|stat| (stat.pid, stat.parent)).collect();
            let mut resisting = 0;
            for stat in processes.iter().filter(|stat| !stat.dead && descends_from(stat, self.me, &parents)) {
                resisting += usize::from(signal_exactly(stat.id(), rustix::process::Signal::KILL).is_ok());
            }
            let zombies = processes.iter().any(|stat| stat.dead && stat.parent == self.me);
            if resisting == 0 && !zombies && processes.iter().any(|stat| stat.pid == self.me) {
                // All that is left belongs to others (a set-user-id program): not ours to kill.
                return;
            }
            let mut fds = [PollFd::new(&self.children, PollFlags::IN)];
            let _ = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 20_000_000 }));
            let mut signal = [0_u8; 128 * 16];
            let _ = rustix::io::read(&self.children, &mut signal);
        }
    }
}

/// Whether `ancestor` is among the ancestors.
fn descends_from(stat: &Stat, ancestor: u32, parents: &BTreeMap<u32, u32>) -> bool {
    let mut seen = BTreeSet::new();
    let mut parent = stat.parent;
    while parent != ancestor {
        // A number seen twice: the table was read while processes came and went.
        let Some(next) = parents.get(&parent).filter(|_| seen.insert(parent)) else { return false };
        parent = *next;
    }
    true
}

/// The key in an environment block.
fn attempt_key(env: &[u8]) -> &[u8] {
    env.split(|byte| *byte == 0)
        .find_map(|entry| entry.strip_prefix(ATTEMPT_KEY_VAR.as_bytes())?.strip_prefix(b"="))
        .unwrap_or_default()
}

fn kill_group(pid: u32, signo: c_int) {
    if let Ok(pid) = libc::pid_t::try_from(pid)
        && pid > 1
    {
        // SAFETY: a plain system call. `pid` is an unreaped child that leads its group, so the group is its own.
        unsafe { libc::kill(-pid, signo) };
    }
}

/// A child that ended and is not reaped: any one (`P_ALL`), or this one (`P_PID`).
fn ended(which: libc::idtype_t, pid: u32) -> Option<u32> {
    // SAFETY: an all-zero siginfo is a valid value; it is written only by the kernel, and si_pid is set (or left 0)
    // by waitid.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        if libc::waitid(which, pid, &raw mut info, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT) != 0 {
            return None;
        }
        u32::try_from(info.si_pid()).ok().filter(|pid| *pid != 0)
    }
}

fn reap_one(pid: u32) -> Option<(Exit, libc::rusage)> {
    let mut status = 0;
    // SAFETY: an all-zero rusage is a valid value; both pointers are valid for the writes.
    let (reaped, usage) = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        (libc::wait4(pid.cast_signed(), &raw mut status, libc::WNOHANG, &raw mut usage), usage)
    };
    let exit = if libc::WIFEXITED(status) {
        Exit::Code(libc::WEXITSTATUS(status))
    } else {
        Exit::Signal(libc::WTERMSIG(status))
    };
    (reaped == pid.cast_signed()).then_some((exit, usage))
}

fn no_children() -> bool {
    // SAFETY: a null info is allowed by Linux; nothing is reaped (WNOWAIT).
    let rc =
        unsafe { libc::waitid(libc::P_ALL, 0, ptr::null_mut(), libc::WEXITED | libc::WNOHANG | libc::WNOWAIT) };
    rc != 0 && io::Error::last_os_error().raw_os_error() == Some(libc::ECHILD)
}

fn micros(time: libc::timeval) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000).saturating_add(u64::try_from(time.tv_usec).unwrap_or(0))
}
