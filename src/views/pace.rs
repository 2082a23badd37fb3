//! How long a stage will still take, as far as anybody can know: a range, from what its attempts took so far.

use super::text::range_of_durations;
use super::words::seconds;
use crate::model::{Event, Record, StageCounters, UnixMs};

/// Time left from the mean of the ended attempts: at best what runs is half done and the workers end together; at
/// worst it has just begun, the last round is not full, and attempts take a fifth longer than they did.
fn eta_us(mean_us: u64, counters: StageCounters, pending: u64, workers: u64) -> Option<(u64, u64)> {
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
fn mean_us(counters: StageCounters) -> Option<u64> {
    counters.ended_wall_us.checked_div(counters.ended_attempts).filter(|mean_us| *mean_us > 0)
}

/// The time left in words; `None` before the first attempt ended, and when nothing is left. Trials on this machine take
/// what their commands take. Those on a cluster wait, too: `seen` is how many ended there in how many microseconds.
#[must_use]
pub fn time_left(counters: StageCounters, pending: u64, workers: u64, seen: Option<(u64, u64)>) -> Option<String> {
    let planned = pending.saturating_add(counters.running).saturating_add(counters.finished());
    let at_once = if seen.is_some() { workers.min(planned) } else { workers };
    let own = Pace::of_commands(counters, at_once)?;
    let seen = seen.and_then(|(ended, took_us)| Pace::seen(ended, took_us, counters.running, at_once));
    let (from, to) = Pace::slower(Some(own), seen)?.eta_us(counters, pending)?;
    Some(range_of_durations(from, to))
}

/// A time that is only guessed, in words.
#[must_use]
pub fn about(us: u64) -> String {
    range_of_durations(us, us)
}

/// Fewer ends say nothing about a pace.
const ENDS_LEAST: u64 = 5;

/// How fast trials end: so many at once, each of which takes so long. The two belong together: a rate is true only with
/// the number of workers by which its time was reckoned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Pace {
    mean_us: u64,
    at_once: u64,
}

impl Pace {
    /// By what the commands of a stage's ended attempts took; `None` before the first ended.
    pub(super) fn of_commands(counters: StageCounters, at_once: u64) -> Option<Self> {
        mean_us(counters).map(|mean_us| Self { mean_us, at_once: at_once.max(1) })
    }

    /// By how many attempts ended in a time; `None` for too few. A worker that had none of them and has none now was
    /// idle, and its time is nobody's.
    fn seen(ended: u64, took_us: u64, running: u64, at_once: u64) -> Option<Self> {
        let at_once = at_once.min(ended.saturating_add(running)).max(1);
        let mean_us = took_us.saturating_mul(at_once).checked_div(ended)?;
        (ended >= ENDS_LEAST && mean_us > 0).then_some(Self { mean_us, at_once })
    }

    /// The one by which fewer trials end in a time.
    pub(super) fn slower(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        let product = |time: Self, number: Self| u128::from(time.mean_us) * u128::from(number.at_once);
        one.into_iter().chain(other).max_by(|a, b| product(*a, *b).cmp(&product(*b, *a)))
    }

    /// Trials that end in a minute.
    #[expect(clippy::cast_precision_loss, reason = "workers are few")]
    pub(super) fn per_minute(self) -> f64 {
        60.0 / seconds(self.mean_us) * self.at_once as f64
    }

    /// The time left by this pace; see [`eta_us`].
    pub(super) fn eta_us(self, counters: StageCounters, pending: u64) -> Option<(u64, u64)> {
        eta_us(self.mean_us, counters, pending, self.at_once)
    }
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
            Event::RunStarted { .. } | Event::BaseEnded(_) => self.begin(record.at_ms),
            // Trials of an earlier stage say nothing about this one's.
            Event::StageOpened { .. } if self.ended > 0 => self.begin(record.at_ms),
            Event::AttemptEnded(_) => self.ended += 1,
            _ => {}
        }
        self.since_ms.get_or_insert(record.at_ms);
    }

    fn begin(&mut self, at_ms: UnixMs) {
        *self = Self { since_ms: Some(at_ms), ended: 0 };
    }

    /// The pace until now, while so many run, of at most so many at once; `None` while too few have ended.
    pub(super) fn pace(&self, now_ms: UnixMs, running: u64, at_once: u64) -> Option<Pace> {
        let took_ms = u64::try_from(now_ms.saturating_sub(self.since_ms?)).ok()?;
        Pace::seen(self.ended, took_ms.saturating_mul(1_000), running, at_once)
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
        assert_eq!(time_left(running, 10, 2, Some((0, 0))), None);
        let ended = StageCounters { ended_attempts: 4, ended_wall_us: 240_000_000, ..running };
        assert_eq!(time_left(ended, 10, 2, None).unwrap(), "about 5–8 min");
        assert_eq!(time_left(ended, 10, 2, Some((4, 1_000_000_000))).unwrap(), "about 5–8 min");
        // They wait much longer than they run.
        assert_eq!(time_left(ended, 10, 2, Some((10, 3_000_000_000))).unwrap(), "about 55–72 min");
    }

    #[test]
    fn what_was_seen_of_a_pace_begins_with_the_run() {
        let mut lately = Lately::default();
        let note_at = |lately: &mut Lately, at_ms, event| lately.note(&Record { at_ms, run_ms: 0, event });
        let mut note = |at_ms, event| note_at(&mut lately, at_ms, event);
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
        assert_eq!(lately.pace(110_000, 0, 4), None);
        lately.note(&Record { at_ms: 105_000, run_ms: 0, event: end() });
        // 5 in 10 s by 4 workers.
        assert_eq!(lately.pace(110_000, 0, 4), Some(Pace { mean_us: 8_000_000, at_once: 4 }));
        assert_eq!(lately.pace(90_000, 0, 4), None, "a clock that was set back");
        // The next stage's own trials show its pace.
        note_at(&mut lately, 120_000, Event::StageOpened { stage: 1, parents: vec![], shares: vec![8] });
        assert_eq!(lately.pace(200_000, 0, 4), None);
        (0..5).for_each(|_| note_at(&mut lately, 125_000, end()));
        assert_eq!(lately.pace(130_000, 3, 1_000), Some(Pace { mean_us: 16_000_000, at_once: 8 }));
    }

    #[test]
    fn workers_without_work_do_not_count() {
        // Six of a second each have ended, the last one of seven runs.
        let last = StageCounters {
            running: 1,
            succeeded: 6,
            ended_attempts: 6,
            ended_wall_us: 6_000_000,
            ..Default::default()
        };
        // On this machine that one's own time is all that counts, whatever the workers and the time that went by.
        assert_eq!(time_left(last, 0, 64, None).unwrap(), time_left(last, 0, 7, None).unwrap());
        let here = Pace::of_commands(last, 64).unwrap().eta_us(last, 0);
        assert_eq!(here, Some((7_812, 1_200_000)));
        // On a cluster no more than the trials planned were busy.
        let seen = |workers| time_left(last, 0, workers, Some((6, 10_000_000))).unwrap();
        assert_eq!(seen(1_000), seen(7));
        let pace = Pace::seen(6, 10_000_000, 1, 1_000).unwrap();
        assert_eq!(pace, Pace { mean_us: 11_666_666, at_once: 7 });
        assert_eq!(pace.per_minute().round(), 36.0, "six in ten seconds");
        // With more to do than workers the number of these counts, and the rate is what was seen in either case.
        let full = Pace::seen(60, 60_000_000, 8, 8).unwrap();
        assert_eq!((full.at_once, full.per_minute()), (8, 60.0));
        assert_eq!(Pace::seen(0, u64::MAX, 0, 0), None);
    }

    #[test]
    fn the_slower_pace_is_that_by_which_fewer_end() {
        let (few, many) = (Pace { mean_us: 10, at_once: 1 }, Pace { mean_us: 30, at_once: 6 });
        assert_eq!(Pace::slower(Some(few), Some(many)), Some(few));
        assert_eq!(Pace::slower(Some(many), Some(few)), Some(few));
        assert_eq!(Pace::slower(None, Some(many)), Some(many));
        assert_eq!(Pace::slower(None, None), None);
    }
}
