//! Asking a running engine to stop, and what runs when it does.
//!
//! A request is a message into the engine's inbox; nothing here stops anything by itself. Callbacks run once, after
//! the last commit of a run that was asked to stop, each isolated from the panics of the others.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::sys::signals::SignalEvent;

/// Messages to the engine from outside its trials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Control {
    /// A signal to the process.
    Signal(SignalEvent),
    /// Stop dequeuing and let running trials finish.
    Drain {
        /// Who asks, for the journal.
        by: String,
        /// Terminate them after this long.
        limit: Option<Duration>,
    },
    /// Terminate running trials.
    Terminate {
        /// Who asks, for the journal.
        by: String,
    },
}

/// A callback that runs on shutdown.
type Callback = Box<dyn FnOnce() + Send>;

/// Asks a study's engine to stop, from any thread; clones are the same handle.
///
/// It works before, during and after a run: a request made before the run starts is the first thing the run sees.
#[derive(Clone)]
pub struct ShutdownHandle {
    inner: Arc<Inner>,
}

struct Inner {
    sender: Sender<Control>,
    receiver: Receiver<Control>,
    requested: AtomicBool,
    callbacks: Mutex<Vec<(String, Callback)>>,
}

impl std::fmt::Debug for ShutdownHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShutdownHandle").field("requested", &self.is_requested()).finish()
    }
}

/// Requests that can wait for the engine; more than a person or a supervisor ever sends.
const INBOX: usize = 64;

impl ShutdownHandle {
    /// A handle nobody has used yet.
    #[must_use]
    pub fn new() -> Self {
        let (sender, receiver) = bounded(INBOX);
        Self {
            inner: Arc::new(Inner {
                sender,
                receiver,
                requested: AtomicBool::new(false),
                callbacks: Mutex::new(Vec::new()),
            }),
        }
    }

    /// Asks to stop dequeuing and let running trials finish, as a first SIGTERM does.
    pub fn drain(&self) {
        self.request(Control::Drain { by: "library".into(), limit: None });
    }

    /// The same, but running trials are terminated after `limit` and count as interrupted.
    pub fn drain_for(&self, limit: Duration) {
        self.request(Control::Drain { by: "library".into(), limit: Some(limit) });
    }

    /// Asks to terminate running trials now, as a second SIGTERM does; they count as interrupted.
    pub fn terminate(&self) {
        self.request(Control::Terminate { by: "library".into() });
    }

    fn request(&self, control: Control) {
        self.inner.requested.store(true, Ordering::SeqCst);
        if self.inner.sender.try_send(control).is_err() {
            log::warn!("the engine has many requests to stop waiting; one more is dropped");
        }
    }

    /// Whether anybody asked through this handle.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.inner.requested.load(Ordering::SeqCst)
    }

    /// Registers a callback that runs once when a run ends because it was asked to: after running trials ended and
    /// everything is committed, before `run` returns, in order of registration. `name` is for the log.
    pub fn on_shutdown(&self, name: impl Into<String>, callback: impl FnOnce() + Send + 'static) {
        self.callbacks().push((name.into(), Box::new(callback)));
    }

    /// Forgets all callbacks registered so far.
    pub fn clear_callbacks(&self) {
        self.callbacks().clear();
    }

    /// Runs the callbacks, once each. A panic in one is logged and the rest still run. Returns how many panicked.
    pub(crate) fn run_callbacks(&self) -> usize {
        // Taken out first: one that registers another, or panics, finds the list unlocked.
        let callbacks = std::mem::take(&mut *self.callbacks());
        let mut panicked = 0;
        for (name, callback) in callbacks {
            if catch_unwind(AssertUnwindSafe(callback)).is_err() {
                log::error!("the shutdown callback `{name}` panicked; the others still run");
                panicked += 1;
            }
        }
        panicked
    }

    fn callbacks(&self) -> std::sync::MutexGuard<'_, Vec<(String, Callback)>> {
        self.inner.callbacks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn sender(&self) -> Sender<Control> {
        self.inner.sender.clone()
    }

    pub(crate) fn receiver(&self) -> &Receiver<Control> {
        &self.inner.receiver
    }
}

impl Default for ShutdownHandle {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[test]
    fn callbacks_are_isolated_ordered_cleared_and_run_once() {
        let handle = ShutdownHandle::new();
        let order = Arc::new(Mutex::new(Vec::new()));
        let note = |what: &'static str| {
            let order = Arc::clone(&order);
            move || order.lock().unwrap().push(what)
        };
        handle.on_shutdown("gone", note("gone"));
        handle.clear_callbacks();
        handle.on_shutdown("first", note("first"));
        handle.on_shutdown("bad", || panic!("on purpose"));
        handle.on_shutdown("last", note("last"));
        assert_eq!(handle.run_callbacks(), 1);
        assert_eq!(handle.run_callbacks(), 0);
        assert_eq!(*order.lock().unwrap(), ["first", "last"]);
    }

    #[test]
    fn a_callback_may_register_another() {
        let handle = ShutdownHandle::new();
        let runs = Arc::new(AtomicU32::new(0));
        let (again, count) = (handle.clone(), Arc::clone(&runs));
        handle.on_shutdown("one", move || {
            again.on_shutdown("two", move || {
                count.fetch_add(1, Ordering::SeqCst);
            });
        });
        handle.run_callbacks();
        assert_eq!(runs.load(Ordering::SeqCst), 0, "it waits for the next shutdown");
        handle.run_callbacks();
        assert_eq!(runs.load(Ordering::SeqCst), 1);
    }
}
