//! Looking at every attempt with what the cluster's list says, or without a list: the table of the parent module.
//!
//! It must never take the list's word alone for an attempt's end, nor its silence for a job's.

use std::collections::HashMap;

use super::{Flight, JobState, Listed, MISSING_MAX, Mode, SEVERAL, Sent, TrialId, Watcher, Why};

impl Watcher {
    /// Why a list is not to be believed: it shows none of several jobs that the cluster took.
    pub(super) fn doubt(&self, jobs: &HashMap<String, Listed>) -> Option<String> {
        let taken = |flight: &&Flight| match flight.sent {
            Sent::At(at) => self.now().saturating_duration_since(at) >= self.list_lag,
            Sent::Perhaps => flight.control.is_claimed().unwrap_or(false),
            Sent::No => false,
        };
        if self.flights.values().any(|flight| jobs.contains_key(&flight.job.key.to_string())) {
            return None;
        }
        // What left its result may be forgotten by now.
        let missing = self.flights.values().filter(taken);
        let missing = missing.filter(|flight| !flight.control.outcome().is_ok_and(|outcome| outcome.is_some()));
        let missing = missing.count();
        (missing >= SEVERAL).then(|| format!("its list shows none of {missing} jobs that it took"))
    }

    /// Goes through all attempts with what the cluster said; whether anything changed.
    pub(super) fn look(&mut self, jobs: &HashMap<String, Listed>) -> bool {
        let mut changed = false;
        let now = self.now();
        let trials: Vec<TrialId> = self.flights.keys().copied().collect();
        for trial in trials {
            let Some(flight) = self.flights.get_mut(&trial) else { continue };
            let job = jobs.get(&flight.job.key.to_string());
            match job {
                Some(job) => changed |= flight.is_listed(job, now, &self.events),
                None => flight.waits = None,
            }
            let over = match (job.map(|job| job.state), flight.sent) {
                (Some(JobState::Queued | JobState::Running), _) | (None, Sent::No) => {
                    (flight.beat, flight.ending) = (None, None);
                    continue;
                }
                // How it ended is known when it is over, unless that takes long.
                (Some(JobState::Ending), _) => {
                    let since = *flight.ending.get_or_insert(now);
                    if now.saturating_duration_since(since) >= self.list_lag {
                        changed |= self.take_result(trial, Why::Ended);
                    }
                    continue;
                }
                (None, Sent::At(at)) if now.saturating_duration_since(at) < self.list_lag => {
                    changed |= self.take_result(trial, Why::Unknown);
                    continue;
                }
                (Some(JobState::Over(why)), _) => why,
                (Some(JobState::Requeued | JobState::Held), _) => Why::Requeued,
                (None, _) => Why::Unknown,
            };
            let held = matches!(job.map(|job| job.state), Some(JobState::Held));
            changed |= self.settle(trial, over, held);
        }
        changed
    }

    /// The same without a word of the cluster's: only results count.
    pub(super) fn look_alone(&mut self) -> bool {
        let trials: Vec<TrialId> = self.flights.keys().copied().collect();
        let mut any = false;
        for trial in trials {
            any |= self.take_result(trial, Why::Unknown);
        }
        any
    }

    /// Reports an attempt's result, if it left one; whether it did.
    pub(super) fn take_result(&mut self, trial: TrialId, why: Why) -> bool {
        let Some(flight) = self.flights.get(&trial) else { return false };
        match flight.control.outcome() {
            Ok(Some(outcome)) => {
                self.ended(trial, outcome, why);
                true
            }
            Ok(None) => false,
            // A torn or foreign file is no result; one that cannot be read now may be readable later.
            Err(error) => {
                log::warn!("cannot read the result of trial {trial}: {error}");
                false
            }
        }
    }

    /// An attempt's job is over, unknown, or in the queue again: finds out what became of the attempt; whether that is
    /// known now.
    pub(super) fn settle(&mut self, trial: TrialId, why: Why, held: bool) -> bool {
        let Some(job) = self.flights.get(&trial).map(Flight::name) else { return false };
        let settled = self.take_result(trial, why) || self.settle_without_result(trial, why, held);
        // A job that waits for nothing any more must not wait for ever.
        if settled
            && why == Why::Requeued
            && let Err(trouble) = self.cluster.cancel(&[job])
        {
            log::info!("the cluster does not cancel what it put back: {}", trouble.words());
        }
        settled
    }

    fn settle_without_result(&mut self, trial: TrialId, why: Why, held: bool) -> bool {
        let now = self.now();
        let Some(flight) = self.flights.get_mut(&trial) else { return false };
        let claimed = match flight.control.is_claimed() {
            Ok(claimed) => claimed,
            Err(error) => {
                log::warn!("cannot look at trial {trial}: {error}");
                return false;
            }
        };
        if claimed {
            let silent = flight.silent_for(now) >= self.lost_after;
            // A list that does not show it is no reason to end what lives.
            if silent || !matches!(why, Why::Unknown | Why::Requeued) {
                let _ = flight.control.cancel();
            }
            if silent || (why == Why::Unknown && injected_fault!(AbsentIsOver)) {
                self.lost(trial, why);
                return true;
            }
            return false;
        }
        match why {
            Why::Unknown if self.mode == Mode::Run => {
                let first = if self.troubles.doubt.is_some() { self.lost_after } else { self.list_lag };
                let again = 2_u32.saturating_pow(flight.times.saturating_sub(1).min(16));
                let wait = first.saturating_mul(again).min(MISSING_MAX.max(first));
                let waited =
                    matches!(flight.sent, Sent::Perhaps) || now.saturating_duration_since(flight.seen) >= wait;
                if waited {
                    flight.sent = Sent::No;
                }
                return waited;
            }
            // It will start, or the person who holds it lets it go.
            Why::Requeued
                if !(held && flight.said.as_deref().is_some_and(|said| said.contains("launch failed"))) =>
            {
                return false;
            }
            _ => {}
        }
        let taken_back = if injected_fault!(StartNotTakenBack) { Ok(true) } else { flight.control.take_back() };
        match taken_back {
            Ok(true) => {
                self.never_began(trial, if why == Why::Requeued { Why::Ended } else { why });
                true
            }
            Ok(false) => false,
            Err(error) => {
                log::warn!("cannot take trial {trial} back: {error}");
                false
            }
        }
    }
}
