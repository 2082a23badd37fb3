//! Time as the loop sees it: what it is, and waiting for something to happen.
//!
//! Behind a trait, so that a simulation can let hours pass in no time. Nothing here may decide anything.

use std::time::Duration;

use crossbeam_channel::{Receiver, Select};

use super::shutdown::Control;
use super::step::Now;
use crate::executor::ExecutorEvent;
use crate::sys::clock::{TrialClock, unix_ms};

/// A clock and a waiting room.
pub(crate) trait Timing {
    /// What time it is.
    fn now(&self) -> Now;
    /// Returns when an event or a request waits, or after `limit`.
    fn wait(&mut self, events: &Receiver<ExecutorEvent>, requests: &Receiver<Control>, limit: Option<Duration>);
    /// Returns when a request waits, or after `limit`.
    fn linger(&mut self, requests: &Receiver<Control>, limit: Duration);
    /// Stops the running time; nothing happens if it is stopped.
    fn pause(&mut self);
    /// Lets it go on.
    fn resume(&mut self);
}

/// The real thing.
#[derive(Debug)]
pub(super) struct RealTime(pub(super) TrialClock);

impl Timing for RealTime {
    fn now(&self) -> Now {
        let run_ms = u64::try_from(self.0.now().as_millis()).unwrap_or(u64::MAX);
        Now { at_ms: unix_ms(), run_ms }
    }

    fn wait(&mut self, events: &Receiver<ExecutorEvent>, requests: &Receiver<Control>, limit: Option<Duration>) {
        let mut select = Select::new();
        select.recv(events);
        select.recv(requests);
        match limit {
            Some(limit) => drop(select.ready_timeout(limit)),
            None => drop(select.ready()),
        }
    }

    fn linger(&mut self, requests: &Receiver<Control>, limit: Duration) {
        let mut select = Select::new();
        select.recv(requests);
        let _ = select.ready_timeout(limit);
    }

    fn pause(&mut self) {
        self.0.pause();
    }

    fn resume(&mut self) {
        self.0.resume();
    }
}
