//! When a failed trial is tried again.

use crate::model::Failure;
use crate::study_file::{Backoff, Retries};

use super::draw::{Draw, Uniform};

const PURPOSE: &str = "piton plan 1: jitter of a retry";

/// Whether a trial that had failed so often before is tried again after this failure.
#[must_use]
pub(crate) fn is_retried(retries: &Retries, failures_before: u32, failure: &Failure) -> bool {
    failure.retryable && failures_before < retries.count
}

/// The delay before the retry after a trial's `failure_number`th failure (from 1), in milliseconds.
///
/// Constant, growing by `delay` each time, or doubling each time; never above `max_delay`. With jitter the delay is
/// spread evenly over its upper half by the trial's seed: the same every time it is asked.
#[must_use]
pub(crate) fn delay_ms(retries: &Retries, failure_number: u32, trial_seed: u32) -> u64 {
    let number = failure_number.max(1);
    let full = match retries.backoff {
        Backoff::Constant => retries.delay_ms,
        Backoff::Linear => retries.delay_ms.saturating_mul(number.into()),
        Backoff::Exponential => {
            let doubled = 1_u64.checked_shl(number - 1).unwrap_or(u64::MAX);
            retries.delay_ms.saturating_mul(doubled)
        }
    };
    let full = full.min(retries.max_delay_ms);
    if !retries.jitter {
        return full;
    }
    let coordinates = [trial_seed.to_le_bytes(), number.to_le_bytes()].concat();
    full - Draw::new(PURPOSE, &coordinates).up_to(full / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delays(backoff: Backoff, jitter: bool) -> Vec<u64> {
        let retries = Retries { count: 9, backoff, delay_ms: 100, max_delay_ms: 1_000, jitter };
        [1, 2, 3, 4, 5, 64, 65, u32::MAX].map(|number| delay_ms(&retries, number, 7)).to_vec()
    }

    #[test]
    fn delays_grow_as_named_up_to_the_cap() {
        assert_eq!(delays(Backoff::Constant, false), [100; 8]);
        assert_eq!(delays(Backoff::Linear, false), [100, 200, 300, 400, 500, 1_000, 1_000, 1_000]);
        assert_eq!(delays(Backoff::Exponential, false), [100, 200, 400, 800, 1_000, 1_000, 1_000, 1_000]);
    }

    #[test]
    fn jitter_stays_in_the_upper_half_and_repeats() {
        let full = delays(Backoff::Exponential, false);
        let spread = delays(Backoff::Exponential, true);
        assert_eq!(spread, delays(Backoff::Exponential, true));
        assert!(full.iter().zip(&spread).all(|(full, spread)| (full / 2..=*full).contains(spread)));
        let retries = Retries { count: 1, delay_ms: 1_000, ..Retries::default() };
        let distinct: std::collections::BTreeSet<u64> = (0..50).map(|seed| delay_ms(&retries, 1, seed)).collect();
        assert!(distinct.len() > 30, "{distinct:?}");
    }

    /// Expected values from an independent program in Python: `full - w % (full // 2 + 1)` with `w` the first word of
    /// `blake3.blake3(struct.pack('<II', seed, number), derive_key_context=PURPOSE)`.
    #[test]
    fn known_jitter() {
        let retries = Retries { count: 9, delay_ms: 1_000, max_delay_ms: 60_000, ..Retries::default() };
        assert_eq!([(1, 7), (1, 8), (2, 7)].map(|(n, seed)| delay_ms(&retries, n, seed)), [610, 891, 1_842]);
    }

    #[test]
    fn extremes_do_not_overflow() {
        let retries = Retries {
            count: 1,
            backoff: Backoff::Exponential,
            delay_ms: u64::MAX,
            max_delay_ms: u64::MAX,
            jitter: false,
        };
        assert_eq!(delay_ms(&retries, 3, 0), u64::MAX);
        let none = Retries { delay_ms: 0, max_delay_ms: 0, jitter: true, ..retries };
        assert_eq!(delay_ms(&none, 0, 0), 0);
    }
}
