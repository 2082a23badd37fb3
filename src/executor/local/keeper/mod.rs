//! The trial keeper: a helper process that starts, watches and ends the trials, and outlives a killed engine just long
//! enough to take them along.
//!
//! [`Keeper::start`] forks it, before the store opens and, in the program, before there is any thread. It sits in its own
//! session under the name `trial-keeper`. When its socket to the engine closes or the engine dies, however, it kills
//! everything the trials started. If it is the keeper that dies, the kernel kills the trials' own processes
//! (`PR_SET_PDEATHSIG`), the engine kills their groups and whatever comes to it ([`crate::sys::orphans`]), the attempts come
//! back as [`TrialEvent::Lost`], and the next trial gets a new keeper. One that is only stopped is continued.
//!
//! What is left when engine and keeper die together is found by its attempt key at the next start; see
//! [`super::strays`].
//!
//! In a library: the fork copies the page tables of the embedding program once; the child uses no lock that another
//! thread may hold, and allocates (glibc and musl allow that after a fork).

pub(in crate::executor) mod helpers;
mod orphans;
mod process;
mod protocol;
mod spawn;
mod trial;

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, Signal, pidfd_open};

pub(crate) use protocol::{Exited, SpawnStep};

use crate::model::ProcessId;
use crate::sys::orphans::{end_adopted, forget, not_adopted};
use crate::sys::process::{Stat, signal_exactly, signal_group_exactly};
use crate::sys::words::io_words;
use protocol::{Framed, MAX_FRAME_BYTES, Report, Request, Spawn, next_frame};

#[derive(Clone, Copy, Debug)]
pub struct SpawnRequest<'a> {
    /// The program, absolute.
    pub program: &'a CStr,
    /// Its arguments, the zeroth included.
    pub argv: &'a [CString],
    /// Its whole environment, `NAME=value`.
    pub env: &'a [CString],
    /// Its working directory, absolute.
    pub cwd: &'a CStr,
    /// What its standard input reads; `None`: `/dev/null`.
    pub stdin: Option<&'a CStr>,
    /// Where its standard output goes, relative to `cwd`. With a `stdin` it has to be there already: a pipe, say.
    pub stdout: &'a CStr,
    /// Where its standard error goes, relative to `cwd`. A name in `/proc` is that of a pipe of the engine's.
    pub stderr: &'a CStr,
    /// RLIMIT_AS, bytes; a lower limit that is there already stays.
    pub address_space_bytes: Option<u64>,
    /// The `cgroup.procs` of the cgroup it starts in, absolute; `None`: the engine's own.
    pub cgroup_procs: Option<&'a CStr>,
}

/// Why a trial could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The kernel refused one step of it.
    #[error("{}", std::io::Error::from(*errno))]
    Refused { step: SpawnStep, errno: Errno },
    /// The keeper is gone, and there is no other; nothing can be started any more.
    #[error("the trial keeper is gone: {0}")]
    KeeperGone(String),
    /// The keeper died while it started the trial, which may have run.
    #[error("the trial keeper died")]
    KeeperDied,
}

/// What becomes of a started trial; exactly one of these arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrialEvent {
    /// It ended, and nothing it started is alive.
    Ended(Exited),
    /// The keeper died; the trial was killed, how it ended is not known.
    Lost,
}

#[derive(Debug)]
pub struct Started {
    /// What to call it in [`KeeperClient::signal`].
    pub id: u64,
    /// Its process, the leader of its group.
    pub process: ProcessId,
    /// Where its end arrives.
    pub events: Receiver<TrialEvent>,
}

/// The keeper, owned: dropping the last clone ends the process and every trial.
#[derive(Clone, Debug)]
pub struct Keeper(Arc<Owned>);

#[derive(Debug)]
struct Owned(KeeperClient);

/// Talks to the keeper; as many as you like.
#[derive(Clone, Debug)]
pub struct KeeperClient(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    next_id: AtomicU64,
    /// The keeper there is, or was last.
    now: Mutex<Arc<Connection>>,
    /// Every trial is stopped, and every one that a later keeper starts.
    stopped: AtomicBool,
    /// There shall be no other keeper.
    over: AtomicBool,
}

#[derive(Debug)]
struct Connection {
    process: ProcessId,
    socket: UnixStream,
    /// Held while a frame is written, so that frames do not mix.
    writing: Mutex<()>,
    /// `None` once the keeper is gone.
    waiting: Mutex<Option<HashMap<u64, Waiting>>>,
    reader: Mutex<Option<JoinHandle<()>>>,
}

/// Who waits for a trial.
#[derive(Debug)]
struct Waiting {
    spawned: Sender<Result<ProcessId, SpawnError>>,
    events: Sender<TrialEvent>,
    process: Option<ProcessId>,
}

impl Keeper {
    /// Forks the keeper and waits until it is ready. Call it before opening files that must not be shared and, where
    /// you can, before starting threads.
    ///
    /// # Errors
    /// What `socketpair`, `fork` or the new process's own set-up fail with.
    pub fn start() -> io::Result<Self> {
        let shared = Shared {
            next_id: AtomicU64::new(1),
            now: Mutex::new(Connection::start()?),
            stopped: AtomicBool::new(false),
            over: AtomicBool::new(false),
        };
        Ok(Self(Arc::new(Owned(KeeperClient(Arc::new(shared))))))
    }

    /// Its process, as of now.
    #[must_use]
    pub fn process(&self) -> ProcessId {
        self.0.0.0.now().process
    }

    /// A way to talk to it.
    #[must_use]
    pub fn client(&self) -> KeeperClient {
        self.0.0.clone()
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.0.over.store(true, Ordering::SeqCst);
        self.0.0.now().end();
    }
}

/// How often a keeper is made that somebody kills before it is ready.
const START_TRIES: u32 = 5;

impl Connection {
    fn start() -> io::Result<Arc<Self>> {
        let mut tries = 1;
        loop {
            match Self::start_once() {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && tries < START_TRIES => tries += 1,
                other => return other,
            }
        }
    }

    fn start_once() -> io::Result<Arc<Self>> {
        let (ours, theirs) = UnixStream::pair()?;
        let theirs = OwnedFd::from(theirs);
        let engine = pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).ok();
        let pid = not_adopted(|| fork_with_signals_blocked(&theirs, engine.as_ref()))?;
        drop((theirs, engine));
        let mut verdict = [0_u8; 4];
        let ready = (&ours).read_exact(&mut verdict).and_then(|()| match i32::from_le_bytes(verdict) {
            0 => Stat::of(pid)?.map(|stat| stat.id()).ok_or_else(|| io::Error::other("`/proc` is not there")),
            errno => Err(io::Error::from_raw_os_error(errno)),
        });
        let started = ready.and_then(|process| {
            let connection = Arc::new(Self {
                process,
                socket: ours,
                writing: Mutex::new(()),
                waiting: Mutex::new(Some(HashMap::new())),
                reader: Mutex::new(None),
            });
            let reads = Arc::clone(&connection);
            let reader = std::thread::Builder::new().name("keeper".into()).spawn(move || reads.read_reports())?;
            *connection.reader() = Some(reader);
            Ok(connection)
        });
        if started.is_err() {
            // Every copy of the socket's other end is closed by now, so the child ends.
            reap(pid);
        }
        started
    }

    fn reader(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The keeper sees the end of the stream, kills what runs, and exits; then the reader sees the end of its own.
    fn end(&self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Write);
        let reader = self.reader().take();
        if let Some(reader) = reader {
            let _ = reader.join();
        }
    }
}

/// Gives the child's pid. The child never comes back from this.
fn fork_with_signals_blocked(socket: &OwnedFd, engine: Option<&OwnedFd>) -> io::Result<u32> {
    // SAFETY: the sets are initialised by the calls before they are used. Blocking every signal around the fork means
    // that no handler of the engine's ever runs in the child, which keeps them blocked for its whole life; the
    // parent gets its own mask back. The child calls only `live`, which never returns and takes no lock that another
    // thread may have held at the fork, but for the allocator's, which the C library frees in a forked child. A panic in
    // it is caught there, after the panic hook of this process has run in the child: that of an embedding program may be
    // any safe code. It sees the memory as it was at the fork, so it may wait for a lock whose holder does not exist here.
    // Then the keeper hangs instead of ending. That is no unsoundness: it shares no memory with the engine, and whoever
    // kills it ends the trials by their parent-death signal.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        let pid = libc::fork();
        if pid == 0 {
            process::live(socket, engine);
        }
        let error = io::Error::last_os_error();
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
        u32::try_from(pid).map_err(|_| error)
    }
}

/// Waits until the keeper is dead.
fn reap(pid: u32) {
    // SAFETY: a null status is allowed. If the embedding program reaped it already, this fails, which is fine.
    while unsafe { libc::waitpid(pid.cast_signed(), std::ptr::null_mut(), 0) } < 0
        && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
    {}
    forget(pid);
}

impl KeeperClient {
    /// Starts a trial; returns once it runs (its program is loaded) or could not be started.
    ///
    /// # Errors
    /// [`SpawnError`].
    pub fn spawn(&self, request: &SpawnRequest<'_>) -> Result<Started, SpawnError> {
        let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        let mut frame = Vec::new();
        Request::Spawn(Spawn {
            id,
            address_space_bytes: request.address_space_bytes.unwrap_or(0),
            cgroup_procs: request.cgroup_procs.unwrap_or(c""),
            program: request.program,
            cwd: request.cwd,
            stdin: request.stdin.unwrap_or(c""),
            stdout: request.stdout,
            stderr: request.stderr,
            argv: &block(request.argv),
            env: &block(request.env),
        })
        .encode(&mut frame);
        if frame.len() > MAX_FRAME_BYTES {
            return Err(SpawnError::Refused { step: SpawnStep::Exec, errno: Errno::TOOBIG });
        }
        let (spawned, spawn_result) = crossbeam_channel::bounded(1);
        let (sender, events) = crossbeam_channel::bounded(1);
        let mut waits = Some(Waiting { spawned, events: sender, process: None });
        let connection = loop {
            let connection = self.0.living()?;
            // One that has just died takes nobody; the next one may live.
            if let Some(all) = &mut *connection.waiting()
                && let Some(waits) = waits.take()
            {
                all.insert(id, waits);
            }
            if waits.is_none() {
                break connection;
            }
        };
        // If it cannot be sent the keeper is gone, and the reader reports that to all who wait.
        let _ = connection.send(&frame);
        match spawn_result.recv() {
            Ok(Ok(process)) => Ok(Started { id, process, events }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(SpawnError::KeeperDied),
        }
    }

    /// Sends a signal to a trial's process group; nothing happens if it ended. A stopped trial is continued, so that
    /// it sees the signal.
    pub fn signal(&self, id: u64, signal: Signal) {
        self.ask(&Request::Signal { id, signo: signal.as_raw() });
    }

    /// Stops every trial (SIGSTOP), and every one started until [`Self::continue_all`]. Processes that left their
    /// trial's group go on.
    pub fn stop_all(&self) {
        self.0.stopped.store(true, Ordering::SeqCst);
        self.ask(&Request::StopAll);
    }

    /// Lets stopped trials go on.
    pub fn continue_all(&self) {
        self.0.stopped.store(false, Ordering::SeqCst);
        self.ask(&Request::ContinueAll);
    }

    /// SIGKILL to every trial's group.
    pub fn kill_all(&self) {
        self.ask(&Request::KillAll);
    }

    /// Whether the keeper is there, as far as is known. The next trial gets another one.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.0.now().waiting().is_some()
    }

    fn ask(&self, request: &Request<'_>) {
        let mut frame = Vec::new();
        request.encode(&mut frame);
        // If the keeper is gone so are the trials, and all who wait for them hear of it.
        let _ = self.0.now().send(&frame);
    }
}

impl Shared {
    fn now(&self) -> Arc<Connection> {
        Arc::clone(&self.now.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The keeper, or another one in its place if it died.
    fn living(&self) -> Result<Arc<Connection>, SpawnError> {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        if now.waiting().is_some() {
            return Ok(Arc::clone(&now));
        }
        if self.over.load(Ordering::SeqCst) {
            return Err(SpawnError::KeeperGone("it was told to end".into()));
        }
        // What it left is dead before anything else starts.
        now.end();
        let next = Connection::start().map_err(|error| SpawnError::KeeperGone(io_words(&error)))?;
        if self.stopped.load(Ordering::SeqCst) {
            let mut frame = Vec::new();
            Request::StopAll.encode(&mut frame);
            let _ = next.send(&frame);
        }
        *now = Arc::clone(&next);
        Ok(next)
    }
}

impl Connection {
    fn waiting(&self) -> MutexGuard<'_, Option<HashMap<u64, Waiting>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, frame: &[u8]) -> io::Result<()> {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        // The keeper always reads, so this waits for it but never for ever.
        send_all(&self.socket, frame)
    }

    /// Passes reports on until the keeper is gone.
    fn read_reports(&self) {
        let mut inbox: Vec<u8> = Vec::new();
        let mut buffer = vec![0_u8; 16 * 1024];
        'connected: loop {
            self.wait_for_report();
            match (&self.socket).read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => inbox.extend(buffer.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            }
            let mut taken_bytes = 0;
            loop {
                match next_frame(inbox.get(taken_bytes..).unwrap_or_default()) {
                    Framed::Partial => break,
                    Framed::Nonsense => break 'connected,
                    Framed::Whole(body, taken) => {
                        let Some(report) = Report::decode(body) else { break 'connected };
                        self.pass_on(report);
                        taken_bytes += taken;
                    }
                }
            }
            inbox.drain(..taken_bytes);
        }
        self.keeper_gone();
    }

    fn pass_on(&self, report: Report) {
        let mut waiting = self.waiting();
        let Some(waiting) = &mut *waiting else { return };
        // Receivers may be gone; then nobody wants to know.
        match report {
            Report::Spawned { id, pid, start_ticks } => {
                if let Some(trial) = waiting.get_mut(&id) {
                    let process = ProcessId { pid, start_ticks };
                    trial.process = Some(process);
                    let _ = trial.spawned.send(Ok(process));
                }
            }
            Report::SpawnFailed { id, errno, step } => {
                if let Some(trial) = waiting.remove(&id) {
                    let errno = Errno::from_raw_os_error(errno);
                    let _ = trial.spawned.send(Err(SpawnError::Refused { step, errno }));
                }
            }
            Report::Exited(exited) => {
                if let Some(trial) = waiting.remove(&exited.id) {
                    let _ = trial.events.send(TrialEvent::Ended(exited));
                }
            }
        }
    }

    /// Waits until there is something to read. A keeper that somebody stopped meanwhile is continued: nobody but it would
    /// start trials, or notice their end.
    fn wait_for_report(&self) {
        loop {
            let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
            if poll(&mut fds, Some(&Timespec { tv_sec: 1, tv_nsec: 0 })) != Ok(0) {
                return;
            }
            if matches!(Stat::of(self.process.pid), Ok(Some(stat)) if stat.stopped) {
                log::warn!("the trial keeper was stopped; it is continued");
                let _ = signal_exactly(self.process, Signal::CONT);
            }
        }
    }

    fn keeper_gone(&self) {
        // A keeper that talks nonsense or nothing at all must end, too.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        let _ = signal_exactly(self.process, Signal::CONT);
        reap(self.process.pid);
        let groups: Vec<ProcessId> =
            self.waiting().iter().flat_map(HashMap::values).filter_map(|trial| trial.process).collect();
        for process in groups {
            // The kernel killed the leader when the keeper died; its group may still be there.
            let _ = signal_group_exactly(process, Signal::KILL);
        }
        // Before the report: a trial that is reported as ended has ended.
        if let Err(error) = end_adopted() {
            log::warn!("some processes of trials may be left: {}", io_words(&error));
        }
        let Some(waiting) = self.waiting().take() else { return };
        for (_, trial) in waiting {
            let _ = trial.events.send(TrialEvent::Lost);
        }
    }
}

/// Like `write_all`, but a closed socket is an error and no SIGPIPE, whatever the embedding program set.
fn send_all(socket: &UnixStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::net::send(socket, bytes, rustix::net::SendFlags::NOSIGNAL) {
            Ok(sent) => bytes = bytes.get(sent..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn block(strings: &[CString]) -> Vec<u8> {
    strings.iter().flat_map(|text| text.as_bytes_with_nul()).copied().collect()
}

#[cfg(test)]
mod tests;
