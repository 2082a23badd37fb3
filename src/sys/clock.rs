//! Clocks: the wall clock for people, a steady one for durations, and what this boot and host are called.
//!
//! Nothing may be decided by the wall clock: it jumps.

use std::fs;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The wall clock, Unix milliseconds. Negative before 1970, saturating at both ends.
#[must_use]
pub fn unix_ms() -> i64 {
    simulated!(|machine| machine.unix_ms());
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
    }
}

/// A steady clock that can be stopped: while the engine is stopped by SIGTSTP no trial's time runs.
///
/// Clones are the same clock. It starts at zero, running. Time the machine is suspended does not count either
/// (`CLOCK_MONOTONIC`).
#[derive(Clone, Debug)]
pub struct TrialClock(Arc<Mutex<ClockState>>);

#[derive(Debug)]
struct ClockState {
    /// What had run when it was last stopped.
    before: Duration,
    /// Since when it runs; `None` while stopped.
    running_since: Option<Instant>,
}

impl TrialClock {
    /// A running clock at zero.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(ClockState { before: Duration::ZERO, running_since: Some(Instant::now()) })))
    }

    /// How long it ran so far.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.with(|state| state.before + state.running_since.map_or(Duration::ZERO, |since| since.elapsed()))
    }

    /// Stops it; nothing happens if it is stopped.
    pub fn pause(&self) {
        self.with(|state| {
            if let Some(since) = state.running_since.take() {
                state.before += since.elapsed();
            }
        });
    }

    /// Lets it go on; nothing happens if it runs.
    pub fn resume(&self) {
        self.with(|state| {
            state.running_since.get_or_insert_with(Instant::now);
        });
    }

    /// Whether it is stopped.
    #[must_use]
    pub(crate) fn is_paused(&self) -> bool {
        self.with(|state| state.running_since.is_none())
    }

    fn with<T>(&self, act: impl FnOnce(&mut ClockState) -> T) -> T {
        // No step can leave the state half changed, so a poisoned lock still guards good data.
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Default for TrialClock {
    fn default() -> Self {
        Self::new()
    }
}

/// The kernel's name of this boot: pids and start times mean nothing in another one. Empty if the kernel will
/// not say; then no process of an earlier engine is taken for alive.
///
/// # Errors
/// If it cannot be read, though it is there.
pub fn boot_id() -> io::Result<String> {
    match fs::read_to_string("/proc/sys/kernel/random/boot_id") {
        Ok(id) => Ok(id.trim().to_owned()),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {
            Ok(String::new())
        }
        Err(error) => Err(error),
    }
}

/// The host's name, for people.
#[must_use]
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paused_clock_stands_still_and_goes_on_where_it_stood() {
        let clock = TrialClock::new();
        let other = clock.clone();
        clock.pause();
        let stood = clock.now();
        // Something that certainly takes time on any clock that runs.
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(2) {}
        assert_eq!(other.now(), stood);
        assert!(other.is_paused());
        other.pause();
        other.resume();
        other.resume();
        assert!(!clock.is_paused());
        while clock.now() == stood {}
        assert!(clock.now() > stood);
    }

    #[test]
    fn the_wall_clock_is_past_2020_and_the_boot_has_a_name() {
        assert!(unix_ms() > 1_577_836_800_000);
        assert_eq!(boot_id().unwrap().len(), 36);
        assert_eq!(boot_id().unwrap(), boot_id().unwrap());
        assert!(!host_name().is_empty());
    }
}
