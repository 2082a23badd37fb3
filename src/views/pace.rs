//! How long a stage will still take, as far as anybody can know: a range, from what its attempts took so far.

use super::text::range_of_durations;
use crate::model::StageCounters;

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

/// The time left in words; `None` before the first attempt ended, and when nothing is left.
#[must_use]
pub fn time_left(counters: StageCounters, pending: u64, workers: u64) -> Option<String> {
    let (from, to) = eta_us(mean_us(counters)?, counters, pending, workers.max(1))?;
    Some(range_of_durations(from, to))
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
        assert_eq!(time_left(running, 10, 2), None);
        let ended = StageCounters { ended_attempts: 4, ended_wall_us: 240_000_000, ..running };
        assert_eq!(time_left(ended, 10, 2).unwrap(), "about 5–8 min");
    }
}
