//! The trial keeper: a helper process that starts, watches and ends the trials, and outlives a killed engine just long
//! enough to take them along.
//!
//! [`Keeper::start`] forks it, before the store opens and, in the program, before there is any thread. It sits in its own
//! session under the name `trial-keeper`. When its socket to the engine closes or the engine dies, however, it kills
//! everything the trials started. If it is the keeper that dies, the kernel kills the trials' own processes
//! (`PR_SET_PDEATHSIG`), the engine kills their groups and whatever comes to it ([`crate::sys::orphans`]), the attempts come
//! back as [`TrialEvent::Lost`], and the next trial gets a new keeper. One that is only stopped is continued.
//!
//! There are several of them where several trials start at once ([`Keeper::widen`]): a keeper sleeps from the `vfork` of a trial
//! to its `exec`, and sees nothing else meanwhile. They are processes, since a thread cannot be had in a fork of a program that has
//! threads. A trial belongs to the one that started it, daemons included. Together they are one thing: when one dies all do, so
//! that it makes no difference to a trial which others had the same keeper.
//!
//! What is left when engine and keeper die together is found by its attempt key at the next start; see
//! [`super::strays`].
//!
//! In a library: each fork copies the page tables of the embedding program; the child uses no lock that another
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
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
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
pub struct KeeperClient(Arc<Shared>, usize);

/// Keepers at most. Each starts some thousand trials a second.
const MOST_KEEPERS: usize = 16;

#[derive(Debug)]
struct Shared {
    next_id: AtomicU64,
    /// The keepers there are, or were last.
    now: Mutex<Arc<Crew>>,
    /// Every trial is stopped, and every one that a later keeper starts.
    stopped: AtomicBool,
    /// There shall be no other keeper.
    over: AtomicBool,
}

/// Keepers that live and die together.
#[derive(Debug, Default)]
struct Crew {
    /// At least one. They stay here when they are gone.
    keepers: Mutex<Vec<Arc<Connection>>>,
    /// One of them is gone, so the others end.
    fallen: AtomicBool,
}

#[derive(Debug)]
struct Connection {
    crew: Weak<Crew>,
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
            now: Mutex::new(Crew::start(1, false)?),
            stopped: AtomicBool::new(false),
            over: AtomicBool::new(false),
        };
        Ok(Self(Arc::new(Owned(KeeperClient(Arc::new(shared), 0)))))
    }

    /// Makes it as many processes as are worth having for so many trials at once. Fewer do as well, so that it is no error if one
    /// cannot be had.
    pub(in crate::executor) fn widen(&self, trials: usize) {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        self.widen_to(trials.min(processors));
    }

    fn widen_to(&self, count: usize) {
        let shared = &self.0.0.0;
        let now = shared.now.lock().unwrap_or_else(PoisonError::into_inner);
        now.grow(count.min(MOST_KEEPERS), shared.stopped.load(Ordering::SeqCst));
    }

    /// Its process, as of now; of several the first.
    #[must_use]
    pub fn process(&self) -> ProcessId {
        let first = self.0.0.0.now().keepers().first().map(|keeper| keeper.process);
        first.unwrap_or(ProcessId { pid: 0, start_ticks: 0 })
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

impl Crew {
    fn start(count: usize, stopped: bool) -> io::Result<Arc<Self>> {
        let crew = Arc::new(Self::default());
        crew.add(stopped)?;
        crew.grow(count, stopped);
        Ok(crew)
    }

    fn keepers(&self) -> MutexGuard<'_, Vec<Arc<Connection>>> {
        self.keepers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_fallen(&self) -> bool {
        self.fallen.load(Ordering::SeqCst)
    }

    fn grow(self: &Arc<Self>, count: usize, stopped: bool) {
        while self.keepers().len() < count && !self.has_fallen() {
            if let Err(error) = self.add(stopped) {
                log::debug!("there is no further keeper: {}", io_words(&error));
                return;
            }
        }
    }

    fn add(self: &Arc<Self>, stopped: bool) -> io::Result<()> {
        let keeper = Connection::start(self)?;
        if stopped {
            let _ = keeper.ask(&Request::StopAll);
        }
        self.keepers().push(Arc::clone(&keeper));
        // The others fell before they could see this one.
        if self.has_fallen() {
            keeper.tell_to_end();
        }
        Ok(())
    }

    /// One is gone.
    fn fall(&self) {
        let others = self.keepers();
        if !self.fallen.swap(true, Ordering::SeqCst) {
            others.iter().for_each(|keeper| keeper.tell_to_end());
        }
    }

    /// Ends all of them; when it returns they are gone, with all that they started.
    fn end(&self) {
        let all = self.keepers().clone();
        all.iter().for_each(|keeper| keeper.tell_to_end());
        all.iter().for_each(|keeper| keeper.await_end());
    }

    fn ask_all(&self, request: &Request<'_>) {
        let all = self.keepers().clone();
        for keeper in all {
            // If it is gone so are the trials, and all who wait for them hear of it.
            let _ = keeper.ask(request);
        }
    }
}

impl Connection {
    fn start(crew: &Arc<Crew>) -> io::Result<Arc<Self>> {
        let mut tries = 1;
        loop {
            match Self::start_once(crew) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && tries < START_TRIES => tries += 1,
                other => return other,
            }
        }
    }

    fn start_once(crew: &Arc<Crew>) -> io::Result<Arc<Self>> {
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
                crew: Arc::downgrade(crew),
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
    fn tell_to_end(&self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Write);
    }

    fn await_end(&self) {
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
        let number = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        let (argv, env) = (block(request.argv), block(request.env));
        let frame_of = |id| {
            Request::Spawn(Spawn {
                id,
                address_space_bytes: request.address_space_bytes.unwrap_or(0),
                cgroup_procs: request.cgroup_procs.unwrap_or(c""),
                program: request.program,
                cwd: request.cwd,
                stdin: request.stdin.unwrap_or(c""),
                stdout: request.stdout,
                stderr: request.stderr,
                argv: &argv,
                env: &env,
            })
            .frame()
        };
        let (spawned, spawn_result) = crossbeam_channel::bounded(1);
        let (sender, events) = crossbeam_channel::bounded(1);
        let mut waits = Some(Waiting { spawned, events: sender, process: None });
        let (id, frame, connection) = loop {
            let (place, connection) = self.0.living(self.1)?;
            let id = id_at(number, place);
            let frame = frame_of(id);
            if frame.len() > MAX_FRAME_BYTES {
                return Err(SpawnError::Refused { step: SpawnStep::Exec, errno: Errno::TOOBIG });
            }
            // One that has just died takes nobody; the next one may live.
            if let Some(all) = &mut *connection.waiting()
                && let Some(waits) = waits.take()
            {
                all.insert(id, waits);
            }
            if waits.is_none() {
                break (id, frame, connection);
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
        let keeper = self.0.now().keepers().get(place_of(id)).map(Arc::clone);
        if let Some(keeper) = keeper {
            let _ = keeper.ask(&Request::Signal { id, signo: signal.as_raw() });
        }
    }

    /// Stops every trial (SIGSTOP), and every one started until [`Self::continue_all`]. Processes that left their
    /// trial's group go on.
    pub fn stop_all(&self) {
        self.0.stopped.store(true, Ordering::SeqCst);
        self.0.now().ask_all(&Request::StopAll);
    }

    /// Lets stopped trials go on.
    pub fn continue_all(&self) {
        self.0.stopped.store(false, Ordering::SeqCst);
        self.0.now().ask_all(&Request::ContinueAll);
    }

    /// SIGKILL to every trial's group.
    pub fn kill_all(&self) {
        self.0.now().ask_all(&Request::KillAll);
    }

    /// Whether the keeper is there, as far as is known. The next trial gets another one.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !self.0.now().has_fallen()
    }

    /// The same, starting what it starts at the keeper of this worker slot.
    pub(in crate::executor) fn of_slot(&self, slot: u32) -> Self {
        Self(Arc::clone(&self.0), usize::try_from(slot).unwrap_or(0))
    }
}

/// A trial's id says which keeper has it.
const fn id_at(number: u64, place: usize) -> u64 {
    number * MOST_KEEPERS as u64 + place as u64
}

fn place_of(id: u64) -> usize {
    usize::try_from(id % MOST_KEEPERS as u64).unwrap_or(0)
}

impl Shared {
    fn now(&self) -> Arc<Crew> {
        Arc::clone(&self.now.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The keeper of a slot and its place, or another one in its place if it died.
    fn living(&self, slot: usize) -> Result<(usize, Arc<Connection>), SpawnError> {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let of_slot = |crew: &Crew| {
            let keepers = crew.keepers();
            let place = slot.checked_rem(keepers.len())?;
            Some((place, Arc::clone(keepers.get(place)?)))
        };
        let gone = || SpawnError::KeeperGone("there is none".into());
        if !now.has_fallen() {
            return of_slot(&now).ok_or_else(gone);
        }
        if self.over.load(Ordering::SeqCst) {
            return Err(SpawnError::KeeperGone("it was told to end".into()));
        }
        // What it left is dead before anything else starts.
        now.end();
        let count = now.keepers().len();
        let next = Crew::start(count, self.stopped.load(Ordering::SeqCst));
        *now = next.map_err(|error| SpawnError::KeeperGone(io_words(&error)))?;
        of_slot(&now).ok_or_else(gone)
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

    fn ask(&self, request: &Request<'_>) -> io::Result<()> {
        self.send(&request.frame())
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
        if let Some(crew) = self.crew.upgrade() {
            crew.fall();
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
