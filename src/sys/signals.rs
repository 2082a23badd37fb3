//! Signals to the engine, as messages on a channel.
//!
//! Handlers note when a request came, set flags and write to a pipe, nothing else: no lock, no allocation. What a signal
//! means is for the engine's loop to say.
//!
//! Several signals that ask to end and come within a moment ([`SAME_REQUEST`]) are one request: a closed terminal sends
//! SIGHUP by the shell and by the kernel, a wrapper forwards the ^C that the terminal sent to everybody. The handlers
//! count, by the time of arrival: a busy machine makes no two requests of one, and none of two.
//!
//! [`settle`] makes the program independent of what its parent left; a program that embeds piton keeps what it has.
//! SIGHUP that was ignored at the start stays ignored, as `nohup` wants it. SIGINT that was ignored, as in a shell's
//! background job, is heard when somebody sends it on purpose, and not when a terminal sends it for ^C.

use std::io;
use std::os::raw::c_int;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::Sender;
use rustix::time::{ClockId, clock_gettime};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGSTOP, SIGTERM, SIGTSTP, SIGUSR1, SIGUSR2};
use signal_hook::flag::register_conditional_default;
use signal_hook::iterator::{Handle, Signals};

/// Signals that ask to end and come within this time of the first one belong to the same request.
pub const SAME_REQUEST: Duration = Duration::from_millis(200);

/// A signal that reached the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SignalEvent {
    /// SIGTERM.
    Term,
    /// SIGINT.
    Int,
    /// SIGHUP.
    Hup,
    /// SIGTSTP: stop the trials, then [`stop_self`].
    Tstp,
    /// SIGCONT: go on.
    Cont,
    /// SIGUSR1: `piton stop`; any number of them is one request to drain.
    Usr1,
    /// SIGUSR2: `piton stop --now`.
    Usr2,
}

impl SignalEvent {
    const ALL: [Self; 7] = [Self::Term, Self::Int, Self::Hup, Self::Tstp, Self::Cont, Self::Usr1, Self::Usr2];

    /// The signal's number.
    #[must_use]
    pub const fn number(self) -> c_int {
        match self {
            Self::Term => SIGTERM,
            Self::Int => SIGINT,
            Self::Hup => SIGHUP,
            Self::Tstp => SIGTSTP,
            Self::Cont => SIGCONT,
            Self::Usr1 => SIGUSR1,
            Self::Usr2 => SIGUSR2,
        }
    }

    /// The signal's name, such as `SIGTERM`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Term => "SIGTERM",
            Self::Int => "SIGINT",
            Self::Hup => "SIGHUP",
            Self::Tstp => "SIGTSTP",
            Self::Cont => "SIGCONT",
            Self::Usr1 => "SIGUSR1",
            Self::Usr2 => "SIGUSR2",
        }
    }

    /// Whether it asks the engine to end.
    #[must_use]
    pub const fn asks_to_end(self) -> bool {
        matches!(self, Self::Term | Self::Int | Self::Hup)
    }

    fn of(number: c_int) -> Option<Self> {
        Self::ALL.into_iter().find(|signal| signal.number() == number)
    }
}

/// Requests to end, as the handlers count them.
struct Requests {
    /// When the last one came, nanoseconds of the monotonic clock; 0: none did.
    came_ns: AtomicU64,
    count: AtomicU32,
    /// The signals of the last ones, each at its place in turn.
    signals: [AtomicI32; Self::KEPT],
    /// This request, and every later one, ends the process from the handler.
    exit_from: AtomicU32,
}

static REQUESTS: Requests = Requests {
    came_ns: AtomicU64::new(0),
    count: AtomicU32::new(0),
    signals: [const { AtomicI32::new(0) }; Requests::KEPT],
    exit_from: AtomicU32::new(u32::MAX),
};

impl Requests {
    const KEPT: usize = 8;

    /// A signal that asks to end came. Runs in handlers.
    fn came(&self, signal: c_int) {
        let now = clock_gettime(ClockId::Monotonic);
        let now = Duration::new(now.tv_sec.cast_unsigned(), u32::try_from(now.tv_nsec).unwrap_or(0));
        self.came_at(signal, u64::try_from(now.as_nanos()).unwrap_or(u64::MAX).max(1));
    }

    fn came_at(&self, signal: c_int, now_ns: u64) {
        let last_ns = self.came_ns.load(Ordering::SeqCst);
        let same = last_ns != 0 && u128::from(now_ns.saturating_sub(last_ns)) < SAME_REQUEST.as_nanos();
        // Another thread's handler may be here as well: then both are of this moment, and one of them counts.
        if same || self.came_ns.compare_exchange(last_ns, now_ns, Ordering::SeqCst, Ordering::SeqCst).is_err() {
            return;
        }
        let count = self.count.load(Ordering::SeqCst).saturating_add(1);
        if let Some(place) = self.place(count) {
            place.store(signal, Ordering::SeqCst);
        }
        self.count.store(count, Ordering::SeqCst);
        if count >= self.exit_from.load(Ordering::SeqCst) {
            // SAFETY: `_exit` takes any status, runs nothing of ours, and may be called in a handler.
            unsafe { libc::_exit(128 + signal) }
        }
    }

    fn place(&self, nth: u32) -> Option<&AtomicI32> {
        self.signals.get(nth as usize % Self::KEPT)
    }

    /// The signal of the next request after so many that were passed on, if there is one.
    fn after(&self, told: u32) -> Option<SignalEvent> {
        if self.count.load(Ordering::SeqCst) <= told {
            return None;
        }
        self.place(told.saturating_add(1)).and_then(|place| SignalEvent::of(place.load(Ordering::SeqCst)))
    }

    fn forget(&self) {
        self.exit_from.store(u32::MAX, Ordering::SeqCst);
        self.count.store(0, Ordering::SeqCst);
        self.came_ns.store(0, Ordering::SeqCst);
    }
}

/// Whether [`settle`] was called: the process is piton's own.
static SETTLED: AtomicBool = AtomicBool::new(false);

/// Gives this process the dispositions and the signal mask that it counts on, whatever its parent left. For programs,
/// before they start a thread.
///
/// No signal is blocked. SIGTERM, SIGUSR1, SIGUSR2, SIGCHLD and the signals of timers do what they do by default until
/// they are watched; SIGPIPE and SIGXFSZ are errors of the write; SIGTTOU is ignored, so that a line from the background
/// does not stop the engine while its trials go on. SIGHUP, SIGINT, SIGQUIT, SIGTSTP and SIGTTIN stay ignored if they were.
pub fn settle() {
    const DEFAULT: [c_int; 9] = [
        SIGTERM,
        SIGUSR1,
        SIGUSR2,
        libc::SIGCHLD,
        SIGCONT,
        libc::SIGALRM,
        libc::SIGVTALRM,
        libc::SIGPROF,
        libc::SIGXCPU,
    ];
    SETTLED.store(true, Ordering::SeqCst);
    // SAFETY: defaults and ignoring install no code.
    unsafe {
        for signal in DEFAULT {
            libc::signal(signal, libc::SIG_DFL);
        }
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        libc::signal(libc::SIGTTOU, libc::SIG_IGN);
    }
    unblock_all();
    ignore_file_size_signal();
}

/// Handlers that, once there, stay for the life of the process, and the flags that switch them.
struct InstalledHandlers {
    /// Nobody watches: signals do what they did before anybody watched.
    unwatched: Arc<AtomicBool>,
    watchers: usize,
    signals: Vec<c_int>,
}

static HANDLERS: Mutex<Option<InstalledHandlers>> = Mutex::new(None);

fn with_handlers<T>(act: impl FnOnce(&mut Option<InstalledHandlers>) -> T) -> T {
    act(&mut HANDLERS.lock().unwrap_or_else(PoisonError::into_inner))
}

impl InstalledHandlers {
    /// The order matters: handlers run in the order they were registered, and a request is counted first of all.
    fn register() -> io::Result<Self> {
        let unwatched = Arc::new(AtomicBool::new(false));
        let mut signals = Vec::new();
        for signal in SignalEvent::ALL {
            let number = signal.number();
            let before = disposition(number)?;
            let ignored = before == libc::SIG_IGN;
            if ignored && !matches!(signal, SignalEvent::Cont | SignalEvent::Int) {
                continue;
            }
            if signal.asks_to_end() {
                count_requests(number, ignored)?;
            }
            if before == libc::SIG_DFL {
                register_conditional_default(number, Arc::clone(&unwatched))?;
            }
            signals.push(number);
        }
        Ok(Self { unwatched, watchers: 0, signals })
    }
}

/// Counts requests that this signal makes; `only_sent`: only those that a process made, not those of a terminal.
fn count_requests(number: c_int, only_sent: bool) -> io::Result<()> {
    let act = move |info: &libc::siginfo_t| {
        // What the kernel itself sends has a positive code, what `kill` and its like send has none.
        if !only_sent || info.si_code <= 0 {
            REQUESTS.came(number);
        }
    };
    // SAFETY: the handler reads a clock, uses atomics, and may call `_exit`: all of that is async-signal-safe, and none
    // of it panics.
    unsafe { signal_hook_registry::register_sigaction(number, act) }.map(drop)
}

/// What a signal does now: `SIG_DFL`, `SIG_IGN` or a handler.
fn disposition(signal: c_int) -> io::Result<libc::sighandler_t> {
    // SAFETY: an all-zero sigaction is a valid value of this plain C struct.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: a null new action only asks; `action` is valid for the write.
    if unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(action.sa_sigaction)
}

/// Watches signals until it is dropped; after that they do again what they did before.
#[derive(Debug)]
pub struct SignalWatch {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl SignalWatch {
    /// Sends every request by TERM, INT or HUP, and every TSTP, CONT, USR1 and USR2, into `events` (wrapped by `wrap`),
    /// from a thread of its own. A full channel drops the signal: a reader that is that far behind has many of them waiting.
    /// Requests to end that come within [`SAME_REQUEST`] are one. Also makes SIGXFSZ ignored for good, so that a file size
    /// limit is an error of the write.
    ///
    /// # Errors
    /// If handlers or the thread cannot be made.
    pub fn start<T: Send + 'static>(
        events: Sender<T>,
        wrap: impl Fn(SignalEvent) -> T + Send + 'static,
    ) -> io::Result<Self> {
        ignore_file_size_signal();
        let numbers = with_handlers(|fixed| -> io::Result<Vec<c_int>> {
            if fixed.is_none() {
                *fixed = Some(InstalledHandlers::register()?);
            }
            Ok(fixed.as_ref().map(|fixed| fixed.signals.clone()).unwrap_or_default())
        })?;
        let mut signals = Signals::new(numbers)?;
        let handle = signals.handle();
        with_handlers(|fixed| {
            if let Some(fixed) = fixed {
                if fixed.watchers == 0 {
                    REQUESTS.forget();
                }
                fixed.watchers += 1;
                fixed.unwatched.store(false, Ordering::SeqCst);
            }
        });
        let watch = move || {
            unblock_all();
            let tell = |signal: SignalEvent| {
                if events.try_send(wrap(signal)).is_err() {
                    log::warn!("{} came while the engine had no room for it", signal.name());
                }
            };
            let mut told = 0;
            for number in signals.forever() {
                while let Some(request) = REQUESTS.after(told) {
                    told += 1;
                    tell(request);
                }
                SignalEvent::of(number).filter(|signal| !signal.asks_to_end()).into_iter().for_each(tell);
            }
        };
        let thread = std::thread::Builder::new().name("signals".into()).spawn(watch).inspect_err(|_| unwatch())?;
        Ok(Self { handle, thread: Some(thread) })
    }

    /// From now on the next request by TERM, INT or HUP ends the process with `_exit(128 + n)`, straight from the handler.
    /// Nothing is flushed and no destructor runs: the trial keeper takes the trials, the journal is as of its last
    /// commit.
    pub fn arm_immediate_exit(&self) {
        REQUESTS.exit_from.store(0, Ordering::SeqCst);
    }
}

/// One watch less. After the last one signals do again what they did before; but a program that has [settled](settle)
/// still has to report how its study went: there one more request changes nothing, and the one after it ends it at once.
fn unwatch() {
    with_handlers(|fixed| {
        let Some(fixed) = fixed else { return };
        fixed.watchers = fixed.watchers.saturating_sub(1);
        if fixed.watchers > 0 {
            return;
        }
        if SETTLED.load(Ordering::SeqCst) {
            let count = REQUESTS.count.load(Ordering::SeqCst);
            REQUESTS.exit_from.fetch_min(count.saturating_add(2), Ordering::SeqCst);
        } else {
            REQUESTS.forget();
            fixed.unwatched.store(true, Ordering::SeqCst);
        }
    });
}

/// Lets this thread take signals, so that somebody does: the threads of a program that embeds piton may block them.
fn unblock_all() {
    // SAFETY: the set is initialised by sigemptyset before it is used.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

impl Drop for SignalWatch {
    fn drop(&mut self) {
        unwatch();
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            // The panic hook has already printed a panic there.
            let _ = thread.join();
        }
    }
}

/// Ignores SIGXFSZ, which kills by default: a write beyond the limit then fails with an error that names what failed.
pub fn ignore_file_size_signal() {
    // SAFETY: ignoring a signal installs no code.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// Stops this process as SIGTSTP would have; returns once it is continued.
///
/// # Errors
/// What the kernel says.
pub fn stop_self() -> io::Result<()> {
    // Aimed at this very thread (it stops the whole process all the same): a signal to the process may take effect
    // only after this call has returned.
    signal_hook::low_level::raise(SIGSTOP)
}

/// Asks this process to end, as SIGTERM from outside does.
pub fn terminate_self() {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM);
}

/// Ends this process at once with `_exit(128 + n)`, as [`SignalWatch::arm_immediate_exit`] would have.
pub fn exit_at_once(signal: SignalEvent) -> ! {
    // SAFETY: `_exit` takes any status and runs nothing of ours.
    unsafe { libc::_exit(128 + signal.number()) }
}

/// Ends this process by `signal`, so that its parent sees that. If even that fails: `_exit(128 + n)`.
pub fn die_by(signal: SignalEvent) -> ! {
    let number = signal.number();
    // SAFETY: plain system calls; the signal set is initialised by sigemptyset before it is used, and `_exit` takes
    // any status. Restoring the default disposition installs no code.
    unsafe {
        libc::signal(number, libc::SIG_DFL);
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, number);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
        libc::raise(number);
        libc::_exit(128 + number)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use super::*;

    /// Runs the ignored test `role` of this module in a process of its own; signals are process-wide.
    fn run_role(role: &str, before: &str) -> std::process::ExitStatus {
        run_role_by(role, before, "")
    }

    /// The same, started by another program.
    fn run_role_by(role: &str, before: &str, by: &str) -> std::process::ExitStatus {
        let test = format!("sys::signals::tests::{role}");
        Command::new("/bin/sh")
            .args(["-c", &format!("{before} exec $1 \"$0\" --ignored --exact {test}")])
            .args([std::env::current_exe().unwrap().into_os_string(), by.into()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap()
    }

    fn raise(number: c_int) {
        rustix::process::kill_process(
            rustix::process::getpid(),
            rustix::process::Signal::from_named_raw(number).unwrap(),
        )
        .unwrap();
    }

    #[test]
    #[ignore = "a role of the test that starts it"]
    fn role_watches_twice() {
        for _ in 0..2 {
            let (sender, receiver) = crossbeam_channel::bounded(8);
            let watch = SignalWatch::start(sender, |signal| signal).unwrap();
            for signal in SignalEvent::ALL {
                REQUESTS.came_ns.store(0, Ordering::SeqCst);
                raise(signal.number());
                assert_eq!(receiver.recv_timeout(Duration::from_secs(20)).unwrap(), signal);
            }
            drop(watch);
            assert!(receiver.recv().is_err(), "the sender is gone");
        }
        // Nobody watches: it kills again.
        raise(SIGHUP);
        std::thread::park();
    }

    #[test]
    fn signals_arrive_and_after_the_watch_do_what_they_did() {
        assert_eq!(run_role("role_watches_twice", "").signal(), Some(SIGHUP));
    }

    #[test]
    #[ignore = "a role of the test that starts it"]
    fn role_armed() {
        let (sender, receiver) = crossbeam_channel::bounded(8);
        let watch = SignalWatch::start(sender, |signal| signal).unwrap();
        raise(SIGTERM);
        assert_eq!(receiver.recv_timeout(Duration::from_secs(20)).unwrap(), SignalEvent::Term);
        watch.arm_immediate_exit();
        // Of the same request, even now; on a busy machine its moment would be over.
        REQUESTS.came_ns.store(u64::MAX, Ordering::SeqCst);
        // At this thread: it has taken effect when the call returns.
        signal_hook::low_level::raise(SIGTERM).unwrap();
        REQUESTS.came_ns.store(0, Ordering::SeqCst);
        raise(SIGINT);
        std::thread::park();
    }

    #[test]
    fn once_armed_the_next_signal_ends_it_from_the_handler() {
        assert_eq!(run_role("role_armed", "").code(), Some(130));
    }

    #[test]
    fn what_comes_within_a_moment_is_one_request() {
        let requests = Requests {
            came_ns: AtomicU64::new(0),
            count: AtomicU32::new(0),
            signals: [const { AtomicI32::new(0) }; Requests::KEPT],
            exit_from: AtomicU32::new(u32::MAX),
        };
        let ms = |ms: u64| ms * 1_000_000;
        for (signal, at_ms) in [
            (SIGHUP, 1_000),
            (SIGHUP, 1_020),
            (SIGTERM, 1_199),
            // From the first of a request, not from the last.
            (SIGINT, 1_200),
            (SIGINT, 1_399),
            (SIGTERM, 9_000),
        ] {
            requests.came_at(signal, ms(at_ms));
        }
        let told: Vec<_> = (0..4).map(|told| requests.after(told)).collect();
        assert_eq!(told, [Some(SignalEvent::Hup), Some(SignalEvent::Int), Some(SignalEvent::Term), None]);
    }

    #[test]
    #[ignore = "a role of the test that starts it"]
    fn role_settles() {
        settle();
        for signal in [libc::SIGCHLD, SIGTERM, SIGUSR1] {
            assert_eq!(disposition(signal).unwrap(), libc::SIG_DFL);
        }
        assert_eq!(disposition(SIGHUP).unwrap(), libc::SIG_IGN);
        let (sender, receiver) = crossbeam_channel::bounded(8);
        let watch = SignalWatch::start(sender, |signal| signal).unwrap();
        raise(SIGHUP);
        raise(SIGINT);
        assert_eq!(receiver.recv_timeout(Duration::from_secs(20)).unwrap(), SignalEvent::Int);
        drop(watch);
        // One more while it reports how things went, and then the next.
        for _ in 0..2 {
            REQUESTS.came_ns.store(0, Ordering::SeqCst);
            signal_hook::low_level::raise(SIGTERM).unwrap();
        }
    }

    #[test]
    fn a_program_is_independent_of_what_its_parent_left() {
        let ignored = "trap '' CHLD TERM INT HUP USR1;";
        assert_eq!(run_role_by("role_settles", ignored, "env --block-signal").code(), Some(143));
    }

    #[test]
    #[ignore = "a role of the test that starts it"]
    fn role_nohup() {
        let (sender, receiver) = crossbeam_channel::bounded(8);
        let _watch = SignalWatch::start(sender, |signal| signal).unwrap();
        raise(SIGHUP);
        raise(SIGUSR2);
        assert_eq!(receiver.recv_timeout(Duration::from_secs(20)).unwrap(), SignalEvent::Usr2);
        assert!(receiver.try_recv().is_err());
        die_by(SignalEvent::Term);
    }

    #[test]
    fn an_ignored_signal_stays_ignored_and_die_by_dies_by_it() {
        assert_eq!(run_role("role_nohup", "trap '' HUP;").signal(), Some(SIGTERM));
    }

    #[test]
    #[ignore = "a role of the test that starts it"]
    fn role_writes_too_much() {
        ignore_file_size_signal();
        let mut file = tempfile::tempfile().unwrap();
        let error = io::Write::write_all(&mut file, &vec![0_u8; 1 << 20]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        die_by(SignalEvent::Usr2);
    }

    #[test]
    fn a_file_size_limit_is_an_error_not_a_death() {
        assert_eq!(run_role("role_writes_too_much", "ulimit -f 8;").signal(), Some(SIGUSR2));
    }
}
