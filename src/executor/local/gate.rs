//! Who may run beside whom: a trial that is suspected of killing the keeper runs alone.
//!
//! When a keeper dies, nothing shows which of its trials did that, if any did. So each of them is a suspect from then on,
//! and runs again while nothing else does: if the keeper dies once more, it was that one, which is a failure of its own
//! kind, and nobody else is suspected any more. So what becomes of a trial does not depend on what ran beside it.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::model::TrialId;

/// How often a worker that waits looks whether it still has to.
const LOOK: Duration = Duration::from_millis(50);

#[derive(Debug, Default)]
pub(super) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    suspects: BTreeSet<TrialId>,
    running: u32,
    alone: bool,
    /// Suspects that wait for all others to end; nobody else begins meanwhile.
    waiting: u32,
    /// Who is to be woken when something changes: mostly nobody, and to wake nobody is a system call, too.
    asleep: u32,
}

/// An attempt that may run, as long as this lives.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    gate: &'a Gate,
    trial: TrialId,
    alone: bool,
}

impl Gate {
    /// Waits until the trial may run. `None` once `given_up`.
    pub(super) fn enter(&self, trial: TrialId, given_up: impl Fn() -> bool) -> Option<Pass<'_>> {
        let mut state = self.state();
        let mut counted = false;
        let pass = loop {
            let alone = state.suspects.contains(&trial);
            if counted != alone {
                state.waiting =
                    if alone { state.waiting.saturating_add(1) } else { state.waiting.saturating_sub(1) };
                counted = alone;
            }
            let free = if alone { state.running == 0 } else { !state.alone && state.waiting == 0 };
            if free {
                state.running = state.running.saturating_add(1);
                state.alone = alone;
                break Some(Pass { gate: self, trial, alone });
            }
            if given_up() {
                break None;
            }
            state.asleep = state.asleep.saturating_add(1);
            state = self.changed.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner).0;
            state.asleep = state.asleep.saturating_sub(1);
        };
        if counted {
            state.waiting = state.waiting.saturating_sub(1);
        }
        self.wake(state);
        pass
    }

    fn wake(&self, state: MutexGuard<'_, State>) {
        let asleep = state.asleep > 0;
        drop(state);
        if asleep {
            self.changed.notify_all();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass<'_> {
    /// The keeper died under it. Whether it did that: it ran alone.
    pub(super) fn keeper_died(&self) -> bool {
        let mut state = self.gate.state();
        if self.alone {
            state.suspects.clear();
        } else {
            state.suspects.insert(self.trial);
        }
        self.alone
    }

    /// It ended by itself, with the keeper alive: it does no such thing.
    pub(super) fn ended(&self) {
        self.gate.state().suspects.remove(&self.trial);
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let mut state = self.gate.state();
        state.running = state.running.saturating_sub(1);
        state.alone = false;
        self.gate.wake(state);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn a_suspect_runs_alone_and_is_to_blame_the_second_time() {
        let gate = Gate::default();
        let enter = |trial| gate.enter(TrialId(trial), || true);
        let (one, two) = (enter(1).unwrap(), enter(2).unwrap());
        assert!(!one.keeper_died() && !two.keeper_died(), "it may have been either");
        drop(one);
        assert!(enter(1).is_none(), "the other still runs");
        drop(two);
        let one = enter(1).unwrap();
        assert!(enter(2).is_none() && enter(3).is_none(), "nothing runs beside a suspect");
        one.ended();
        drop(one);
        let (three, one) = (enter(3).unwrap(), enter(1).unwrap());
        assert!(enter(2).is_none());
        drop((three, one));
        let two = enter(2).unwrap();
        assert!(two.keeper_died());
        drop(two);
        let (two, three) = (enter(2).unwrap(), enter(3).unwrap());
        assert!(!two.keeper_died() && !three.keeper_died(), "nobody is suspected any more");
    }

    #[test]
    fn whoever_waits_gets_in() {
        let gate = Gate::default();
        let (running, most_beside) = (AtomicU32::new(0), AtomicU32::new(0));
        gate.state().suspects.extend((0..4).map(TrialId));
        std::thread::scope(|scope| {
            for trial in 0..16 {
                let (gate, running, most_beside) = (&gate, &running, &most_beside);
                scope.spawn(move || {
                    let pass = gate.enter(TrialId(trial), || false).unwrap();
                    let beside = running.fetch_add(1, Ordering::SeqCst);
                    std::thread::yield_now();
                    if pass.alone {
                        most_beside.fetch_max(beside, Ordering::SeqCst);
                    }
                    running.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        assert_eq!(most_beside.load(Ordering::SeqCst), 0);
    }
}
