//! How long a stage will still take, as far as anybody can know: a range, from what its attempts took so far.

use super::text::range_of_durations;
use crate::model::{Event, Record, StageCounters, UnixMs};

/// Time left from the mean of the ended attempts: at best what runs is half done and the workers end together; at
/// worst it has just begun, the last round is not full, and attempts take a fifth longer than they did.
pub(super) fn eta_us(mean_us: u64, counters: StageCounters, pending: u64, workers: u64) -> Option<(u64, u64)> {
    let left = pending.saturating_add(counters.running);
    if left == 0 {
        return None;
    }
    let halves = pending.saturating_mul(2).saturating_add(counters.running);
    let from = mean_us.saturating_mul(halves) / workers / 2;
    let to = mean_us.saturating_mul(left.div_ceil(workers));
    Some((from, to.saturating_add(to / 5)))
}

/// What an ended attempt took, microseconds; `None` before the first ended.
pub(super) fn mean_us(counters: StageCounters) -> Option<u64> {
    counters.ended_wall_us.checked_div(counters.ended_attempts).filter(|mean_us| *mean_us > 0)
}

/// The time left in words; `None` before the first attempt ended, and when nothing is left. `ended` attempts ended in the
/// last `took_us`: they may have waited, too, for a cluster or a disk.
#[must_use]
pub fn time_left(
    counters: StageCounters,
    pending: u64,
    workers: u64,
    (ended, took_us): (u64, u64),
) -> Option<String> {
    let workers = workers.max(1);
    let mean_us = mean_us(counters)?.max(of_a_worker(took_us, workers, ended).unwrap_or(0));
    let (from, to) = eta_us(mean_us, counters, pending, workers)?;
    Some(range_of_durations(from, to))
}

/// Fewer ends tell nothing of a pace.
const ENDS_LEAST: u64 = 5;

/// How much of a worker's time each of so many attempts took; `None` for too few.
fn of_a_worker(took_us: u64, workers: u64, ended: u64) -> Option<u64> {
    took_us.saturating_mul(workers).checked_div(ended).filter(|_| ended >= ENDS_LEAST)
}

/// How fast attempts of a run ended lately. On a cluster they take longer than their commands: they wait in its queue.
#[derive(Debug, Default)]
pub(super) struct Lately {
    since_ms: Option<UnixMs>,
    ended: u64,
}

impl Lately {
    /// Takes note of an event, in their order.
    pub(super) fn note(&mut self, record: &Record) {
        match &record.event {
            Event::RunStarted { .. } => *self = Self { since_ms: Some(record.at_ms), ended: 0 },
            Event::AttemptEnded(_) => self.ended += 1,
            _ => {}
        }
        self.since_ms.get_or_insert(record.at_ms);
    }

    /// How much of a worker's time an attempt took until now, microseconds; `None` while too few have ended.
    pub(super) fn mean_us(&self, now_ms: UnixMs, workers: u64) -> Option<u64> {
        let took_ms = u64::try_from(now_ms.saturating_sub(self.since_ms?)).ok()?;
        of_a_worker(took_ms.saturating_mul(1_000), workers, self.ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_holds_whatever_the_numbers() {
        let running = StageCounters { running: 2, ..Default::default() };
        assert_eq!(eta_us(60_000_000, running, 10, 2), Some((330_000_000, 432_000_000)));
        assert_eq!(eta_us(60_000_000, StageCounters::default(), 0, 2), None);
        assert!(eta_us(u64::MAX, running, u64::MAX, 1).is_some());
        assert_eq!(time_left(running, 10, 2, (0, 0)), None);
        let ended = StageCounters { ended_attempts: 4, ended_wall_us: 240_000_000, ..running };
        assert_eq!(time_left(ended, 10, 2, (4, 1_000_000_000)).unwrap(), "about 5–8 min");
        // They wait much longer than they run.
        assert_eq!(time_left(ended, 10, 2, (10, 3_000_000_000)).unwrap(), "about 55–72 min");
    }

    #[test]
    fn what_was_seen_of_a_pace_begins_with_the_run() {
        let mut lately = Lately::default();
        let mut note = |at_ms: i64, event| lately.note(&Record { at_ms, run_ms: 0, event });
        let end = || {
            let verdict = crate::model::Verdict::Interrupted { reason: String::new() };
            let (trial, next) = (crate::model::TrialId(0), crate::model::Next::Final);
            let end = crate::model::AttemptEnd {
                trial,
                attempt: 1,
                ended_ms: 0,
                exit: None,
                usage: Default::default(),
                verdict,
                next,
            };
            Event::AttemptEnded(Box::new(end))
        };
        (0..50).for_each(|n| note(n, end()));
        let process = crate::model::ProcessId { pid: 1, start_ticks: 1 };
        let engine = crate::model::EngineId { process, boot_id: String::new(), host: String::new() };
        note(100_000, Event::RunStarted { engine, workers: 4, sync_interval_ms: 0 });
        (0..4).for_each(|n| note(101_000 + n, end()));
        assert_eq!(lately.mean_us(110_000, 4), None);
        lately.note(&Record { at_ms: 105_000, run_ms: 0, event: end() });
        // 5 in 10 s by 4 workers.
        assert_eq!(lately.mean_us(110_000, 4), Some(8_000_000));
        assert_eq!(lately.mean_us(90_000, 4), None, "a clock that was set back");
    }
}
