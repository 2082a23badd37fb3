//! Signals to the engine, as messages on a channel.
//!
//! Handlers set flags and write to a pipe, nothing else: no lock, no allocation, no decision. What a signal means is
//! for the engine's loop to say. A signal that was ignored when the program started stays ignored: `nohup` and the
//! shell's background jobs rely on it.

use std::io;
use std::os::raw::c_int;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::Sender;
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGSTOP, SIGTERM, SIGTSTP, SIGUSR1, SIGUSR2};
use signal_hook::flag::{register_conditional_default, register_conditional_shutdown};
use signal_hook::iterator::{Handle, Signals};

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

/// Handlers that, once there, stay for the life of the process, and the flags that switch them.
struct Fixed {
    /// The next signal that asks to end does it at once, from the handler.
    armed: Arc<AtomicBool>,
    /// Nobody watches: signals do what they did before anybody watched.
    unwatched: Arc<AtomicBool>,
    watchers: usize,
    signals: Vec<c_int>,
}

static FIXED: Mutex<Option<Fixed>> = Mutex::new(None);

fn with_fixed<T>(act: impl FnOnce(&mut Option<Fixed>) -> T) -> T {
    act(&mut FIXED.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Fixed {
    /// The order matters: handlers run in the order they were registered, and the immediate exit must come first.
    fn register() -> io::Result<Self> {
        let armed = Arc::new(AtomicBool::new(false));
        let unwatched = Arc::new(AtomicBool::new(false));
        let mut signals = Vec::new();
        for signal in SignalEvent::ALL {
            let number = signal.number();
            let before = disposition(number)?;
            if before == libc::SIG_IGN && signal != SignalEvent::Cont {
                continue;
            }
            if signal.asks_to_end() {
                register_conditional_shutdown(number, 128 + number, Arc::clone(&armed))?;
            }
            if before == libc::SIG_DFL {
                register_conditional_default(number, Arc::clone(&unwatched))?;
            }
            signals.push(number);
        }
        Ok(Self { armed, unwatched, watchers: 0, signals })
    }
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
    /// Sends every TERM, INT, HUP, TSTP, CONT, USR1 and USR2 into `events` (wrapped by `wrap`), from a thread of its own. A full channel drops
    /// the signal: whoever is that far behind has many of them waiting. Two of a kind that come close together may
    /// arrive as one. Also makes SIGXFSZ ignored for good, so that a file size limit is an error of the write.
    ///
    /// # Errors
    /// If handlers or the thread cannot be made.
    pub fn start<T: Send + 'static>(
        events: Sender<T>,
        wrap: impl Fn(SignalEvent) -> T + Send + 'static,
    ) -> io::Result<Self> {
        ignore_file_size_signal();
        let numbers = with_fixed(|fixed| -> io::Result<Vec<c_int>> {
            if fixed.is_none() {
                *fixed = Some(Fixed::register()?);
            }
            Ok(fixed.as_ref().map(|fixed| fixed.signals.clone()).unwrap_or_default())
        })?;
        let mut signals = Signals::new(numbers)?;
        let handle = signals.handle();
        let thread = std::thread::Builder::new().name("signals".into()).spawn(move || {
            for number in signals.forever() {
                if let Some(signal) = SignalEvent::of(number)
                    && events.try_send(wrap(signal)).is_err()
                {
                    log::warn!("{} came while the engine had no room for it", signal.name());
                }
            }
        })?;
        with_fixed(|fixed| {
            if let Some(fixed) = fixed {
                fixed.watchers += 1;
                fixed.unwatched.store(false, Ordering::SeqCst);
            }
        });
        Ok(Self { handle, thread: Some(thread) })
    }

    /// From now on the next TERM, INT or HUP ends the process with `_exit(128 + n)`, straight from the handler.
    /// Nothing is flushed and no destructor runs: the trial keeper takes the trials, the journal is as of its last
    /// commit.
    pub fn arm_immediate_exit(&self) {
        with_fixed(|fixed| {
            if let Some(fixed) = fixed {
                fixed.armed.store(true, Ordering::SeqCst);
            }
        });
    }
}

impl Drop for SignalWatch {
    fn drop(&mut self) {
        with_fixed(|fixed| {
            if let Some(fixed) = fixed {
                fixed.armed.store(false, Ordering::SeqCst);
                fixed.watchers = fixed.watchers.saturating_sub(1);
                fixed.unwatched.store(fixed.watchers == 0, Ordering::SeqCst);
            }
        });
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            // A panic there was already told by the panic hook.
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

/// Asks this process to end, as whoever sends it SIGTERM.
pub fn terminate_self() {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM);
}

/// Ends this process at once with `_exit(128 + n)`, as [`SignalWatch::arm_immediate_exit`] would have.
pub fn exit_at_once(signal: SignalEvent) -> ! {
    // SAFETY: `_exit` takes any status and runs nothing of ours.
    unsafe { libc::_exit(128 + signal.number()) }
}

/// Ends this process by `signal`, so that whoever waits for it sees that. If even that fails: `_exit(128 + n)`.
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
        let test = format!("sys::signals::tests::{role}");
        Command::new("/bin/sh")
            .args(["-c", &format!("{before} exec \"$0\" --ignored --exact {test}")])
            .arg(std::env::current_exe().unwrap())
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
        raise(SIGINT);
        std::thread::park();
    }

    #[test]
    fn once_armed_the_next_signal_ends_it_from_the_handler() {
        assert_eq!(run_role("role_armed", "").code(), Some(130));
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
