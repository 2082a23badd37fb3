//! The words views use for states, signals, times and hashes: the contract's names, each said in one place.

use jiff::Timestamp;

use super::text::reported;
use crate::model::words::counted;
use crate::model::{
    Doubt, Exit, Given, ImportSource, Origin, PruneRule, Pruned, RemoteJob, ResultDifference, ResultPart,
    RungVerdict, StageRow, UnixMs,
};
use crate::study_file::Spec;

/// Of a stage that `piton retry --keep-survivors` left as it was.
pub(super) const FROM_OTHERS: &str =
    "planned from other cases than survive the stage before it now (--keep-survivors)";

/// Where a stage ended, and why, if it ended before all its trials had: `ended early, after 41 of 100 trials: …`.
#[must_use]
pub fn ended_words(spec: &Spec, stage: &StageRow) -> Option<String> {
    let counted_trials = stage.ended_after?;
    let planned = counted(stage.planned(), "trial");
    let within = spec.stages.get(stage.index as usize).and_then(|spec| spec.rails.improve_within);
    let within = within.map_or_else(|| "the last of them".to_owned(), |within| within.to_string());
    Some(format!("ended early, after {counted_trials} of {planned}: {within} in a row brought nothing better"))
}

/// A cluster's job, as far as it is known: `slurm 123, on n1`.
pub(super) fn remote_job(job: &RemoteJob) -> String {
    let id = if job.id.is_empty() { String::new() } else { format!(" {}", job.id) };
    let node = job.node.as_ref().map_or_else(String::new, |node| format!(", on {node}"));
    format!("{}{id}{node}", job.executor)
}

/// What an attempt has of what trials share: `cpus 2; gpu 0,1`.
pub(super) fn given(given: &[Given]) -> String {
    given.iter().map(|given| format!("{} {}", given.pool, given.text())).collect::<Vec<_>>().join("; ")
}

/// Who made a result: `case `s_0_3` of study `s`, attempt 1`.
pub(super) fn origin_words(origin: &Origin) -> String {
    format!("case `{}` of study `{}`, attempt {}", origin.case, origin.study, origin.attempt)
}

/// What differs between two results that should be equal: `metric area 1.0 -> 2.0; output net.v changed`.
#[must_use]
pub(super) fn difference_words(differs: &[ResultDifference]) -> String {
    let word = |difference: &ResultDifference| {
        let ResultDifference { part, name, earlier, now } = difference;
        let what = if name.is_empty() { part.to_string() } else { format!("{part} {name}") };
        match (part, earlier, now) {
            (_, None, _) => format!("{what} is new"),
            (_, _, None) => format!("{what} is no more"),
            (ResultPart::Output, ..) => format!("{what} changed"),
            (_, Some(earlier), Some(now)) => format!("{what} {earlier} -> {now}"),
        }
    };
    let shown = differs.iter().take(DIFFERENCES_NAMED).map(word).collect::<Vec<_>>().join("; ");
    match differs.len().saturating_sub(DIFFERENCES_NAMED) {
        0 => shown,
        more => format!("{shown}; and {more} more"),
    }
}

/// Differences of a result that are named at most.
const DIFFERENCES_NAMED: usize = 5;

/// A doubt in one sentence: what was found, and what it means.
#[must_use]
pub fn doubt_words(doubt: &Doubt, stage: &str) -> String {
    let Doubt { case, attempt, origin, differs, .. } = doubt;
    format!(
        "results of stage `{stage}` depend on more than their identity: `{case}`, attempt {attempt}, was run to check the result of {}, and \
         differs: {}",
        origin_words(origin),
        difference_words(differs)
    )
}

/// How a trial was pruned: `pruned at step 9 (loss 0.4): 5th of 12, 4 may go on`.
pub(super) fn pruned_words(pruned: &Pruned) -> String {
    let value = reported(pruned.value);
    let by = match (pruned.rule, pruned.verdict) {
        (PruneRule::Halving, Some(RungVerdict { better, of, unknown, .. })) => {
            let missing = if unknown > 0 { format!(", with {unknown} still unknown") } else { String::new() };
            format!("{better} of {of} were better{missing}")
        }
        (rule, _) => format!("by {rule}"),
    };
    format!("pruned at step {} ({value}): {by}", pruned.step)
}

/// Exit code, if the process exited by itself.
pub(super) fn exit_code(exit: Option<Exit>) -> Option<i32> {
    match exit {
        Some(Exit::Code(code)) => Some(code),
        Some(Exit::Signal(_)) | None => None,
    }
}

/// Signal name, if a signal ended the process.
pub(super) fn exit_signal(exit: Option<Exit>) -> Option<String> {
    match exit {
        Some(Exit::Signal(number)) => Some(signal_name(number)),
        Some(Exit::Code(_)) | None => None,
    }
}

/// A signal's name as signal(7) has it, such as `SIGKILL`; real-time ones as `SIGRTMIN+2`, unknown ones as `SIG99`.
#[must_use]
pub fn signal_name(number: i32) -> String {
    const NAMES: [(i32, &str); 31] = [
        (libc::SIGHUP, "SIGHUP"),
        (libc::SIGINT, "SIGINT"),
        (libc::SIGQUIT, "SIGQUIT"),
        (libc::SIGILL, "SIGILL"),
        (libc::SIGTRAP, "SIGTRAP"),
        (libc::SIGABRT, "SIGABRT"),
        (libc::SIGBUS, "SIGBUS"),
        (libc::SIGFPE, "SIGFPE"),
        (libc::SIGKILL, "SIGKILL"),
        (libc::SIGUSR1, "SIGUSR1"),
        (libc::SIGSEGV, "SIGSEGV"),
        (libc::SIGUSR2, "SIGUSR2"),
        (libc::SIGPIPE, "SIGPIPE"),
        (libc::SIGALRM, "SIGALRM"),
        (libc::SIGTERM, "SIGTERM"),
        (libc::SIGSTKFLT, "SIGSTKFLT"),
        (libc::SIGCHLD, "SIGCHLD"),
        (libc::SIGCONT, "SIGCONT"),
        (libc::SIGSTOP, "SIGSTOP"),
        (libc::SIGTSTP, "SIGTSTP"),
        (libc::SIGTTIN, "SIGTTIN"),
        (libc::SIGTTOU, "SIGTTOU"),
        (libc::SIGURG, "SIGURG"),
        (libc::SIGXCPU, "SIGXCPU"),
        (libc::SIGXFSZ, "SIGXFSZ"),
        (libc::SIGVTALRM, "SIGVTALRM"),
        (libc::SIGPROF, "SIGPROF"),
        (libc::SIGWINCH, "SIGWINCH"),
        (libc::SIGIO, "SIGIO"),
        (libc::SIGPWR, "SIGPWR"),
        (libc::SIGSYS, "SIGSYS"),
    ];
    if let Some((_, name)) = NAMES.iter().find(|(known, _)| *known == number) {
        return (*name).to_owned();
    }
    // The kernel's own range; 32 and 33 are glibc's.
    match number {
        34..=64 => format!("SIGRTMIN+{}", number - 34),
        _ => format!("SIG{number}"),
    }
}

/// RFC 3339 in UTC with milliseconds, such as `2026-01-31T12:00:00.250Z`. A time out of the calendar's range is shown
/// as its nearest end.
#[must_use]
pub fn timestamp(at_ms: UnixMs) -> String {
    match u64::try_from(at_ms) {
        Ok(since_1970_ms) if since_1970_ms < END_OF_2199_MS => plain_timestamp(since_1970_ms),
        _ => {
            let end = if at_ms < 0 { Timestamp::MIN } else { Timestamp::MAX };
            format!("{:.3}", Timestamp::from_millisecond(at_ms).unwrap_or(end))
        }
    }
}

/// The same in the reader's time zone (`TZ`, or the machine's), to the second, for people: `2026-01-31 13:00:00 +01:00`.
/// Data has [`timestamp`].
#[must_use]
pub(super) fn local_time(at_ms: UnixMs) -> String {
    in_zone(at_ms, "%Y-%m-%d %H:%M:%S %:z", viewers_zone())
}

/// The same to the millisecond, for what happens many times a second.
#[must_use]
pub(super) fn local_time_to_ms(at_ms: UnixMs) -> String {
    in_zone(at_ms, "%Y-%m-%d %H:%M:%S%.3f %:z", viewers_zone())
}

fn viewers_zone() -> jiff::tz::TimeZone {
    // Where a test of this library runs is nobody's zone.
    if cfg!(test) { jiff::tz::TimeZone::UTC } else { jiff::tz::TimeZone::system() }
}

fn in_zone(at_ms: UnixMs, format: &str, zone: jiff::tz::TimeZone) -> String {
    match Timestamp::from_millisecond(at_ms) {
        Ok(at) => at.to_zoned_datetime(zone).strftime(format).to_string(),
        Err(_) => timestamp(at_ms),
    }
}

const END_OF_2199_MS: u64 = 7_258_118_400_000;

/// The same for the times there are: a dump of a million trials shows millions of them.
fn plain_timestamp(since_1970_ms: u64) -> String {
    let (days, ms) = (since_1970_ms / 86_400_000, since_1970_ms % 86_400_000);
    // Howard Hinnant, "chrono-compatible low-level date algorithms", civil_from_days: years begin with March.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let mut text = String::with_capacity(24);
    let mut put = |number: u64, digits: u32, after: char| {
        for power in (0..digits).rev() {
            text.push(char::from(b'0' + (number / 10_u64.pow(power) % 10) as u8));
        }
        text.push(after);
    };
    put(year, 4, '-');
    put(month, 2, '-');
    put(day, 2, 'T');
    put(ms / 3_600_000, 2, ':');
    put(ms / 60_000 % 60, 2, ':');
    put(ms / 1_000 % 60, 2, '.');
    put(ms % 1_000, 3, 'Z');
    text
}

/// Seconds, from microseconds.
#[expect(clippy::cast_precision_loss, reason = "exact up to 285 years")]
pub(super) fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

/// The other way round.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
pub(super) fn micros(seconds: f64) -> u64 {
    (seconds * 1e6).round() as u64
}

/// Lower-case hex of a blake3 hash.
pub(super) fn hex(hash: &[u8; 32]) -> String {
    blake3::Hash::from_bytes(*hash).to_hex().to_string()
}

/// Of the trials that succeeded, how many made no attempt: ` (3 reused, 2 imported)`; nothing where there are none.
#[must_use]
pub fn taken_words(reused: u64, imported: u64) -> String {
    let counts = [(reused, "reused"), (imported, "imported")].into_iter().filter(|(count, _)| *count > 0);
    let counts: Vec<String> = counts.map(|(count, word)| format!("{count} {word}")).collect();
    if counts.is_empty() { String::new() } else { format!(" ({})", counts.join(", ")) }
}

/// Where imported results come from: `` `last.csv` by ada (blake3 ab…) ``.
pub(super) fn source(source: &ImportSource) -> String {
    format!("`{}` by {} (blake3 {})", source.file, source.by, hex(&source.blake3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names() {
        assert_eq!(signal_name(9), "SIGKILL");
        assert_eq!(signal_name(11), "SIGSEGV");
        assert_eq!(signal_name(36), "SIGRTMIN+2");
        assert_eq!(signal_name(99), "SIG99");
        assert_eq!(signal_name(i32::MIN), "SIG-2147483648");
    }

    proptest::proptest! {
        #[test]
        fn a_plain_time_is_what_the_calendar_says(ms in 0..END_OF_2199_MS) {
            let calendar = format!("{:.3}", Timestamp::from_millisecond(i64::try_from(ms).unwrap()).unwrap());
            proptest::prop_assert_eq!(plain_timestamp(ms), calendar);
        }
    }

    #[test]
    fn people_see_their_own_time() {
        let at = |zone: &str| {
            in_zone(1_769_860_800_250, "%Y-%m-%d %H:%M:%S %:z", jiff::tz::TimeZone::posix(zone).unwrap())
        };
        assert_eq!(at("CET-1"), "2026-01-31 13:00:00 +01:00");
        assert_eq!(at("UTC0"), "2026-01-31 12:00:00 +00:00");
        assert_eq!(local_time_to_ms(1_769_860_800_250), "2026-01-31 12:00:00.250 +00:00");
        assert_eq!(at("XST3:30"), "2026-01-31 08:30:00 -03:30");
        assert!(in_zone(i64::MAX, "%Y", jiff::tz::TimeZone::UTC).starts_with("9999-12-30"));
    }

    #[test]
    fn times_are_utc_with_milliseconds_whatever_the_number() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(timestamp(1_769_860_800_250), "2026-01-31T12:00:00.250Z");
        assert_eq!(timestamp(951_782_400_000 - 1), "2000-02-28T23:59:59.999Z");
        assert_eq!(timestamp(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(timestamp(4_107_542_400_000), "2100-03-01T00:00:00.000Z");
        assert_eq!(timestamp(7_258_118_399_999), "2199-12-31T23:59:59.999Z");
        assert_eq!(timestamp(7_258_118_400_000), "2200-01-01T00:00:00.000Z");
        assert!(timestamp(i64::MAX).starts_with("9999-12-30"));
        assert!(timestamp(i64::MIN).starts_with("-009999-01-02"));
    }
}
