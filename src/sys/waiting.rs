//! Why jobs wait in a cluster's queue: a note that the engine leaves for commands that look, beside the control directories.
//!
//! It is no record: it changes all the time, it is not synced, and nothing may be decided by it. Trials may put anything
//! in its place, and its words are a cluster's: reading takes a bounded amount, and showing cleans it.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::disk;
use super::opened::Below;
use super::temporary::{Access, Temporary};
use crate::model::{AttemptNo, StudyId, TrialId, UnixMs};

/// The directory, in the study's own, through which engine and jobs speak.
pub(crate) const CONTROL_DIR: &str = ".remote";
const NAME: &str = "waiting.json";
/// Of so many jobs, the first ones, it is said singly why they wait.
const SINGLY: usize = 64;
/// So many reasons are counted separately.
const REASONS: usize = 16;
const OTHERS: &str = "other reasons";
/// Longest reason, letters.
const LETTERS: usize = 160;
/// Largest note that is read, bytes.
const BYTES_MAX: u64 = 128 << 10;
/// An older one is not shown: a cluster that can be asked is asked more often.
const AGE_MAX_MS: u64 = 300_000;
/// One that says the same is written again after this long.
const AGAIN_MS: u64 = 60_000;

/// Why jobs of a study wait, as the cluster last said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Waiting {
    study: String,
    /// When it said so, by the clock of the engine's host.
    pub seen_ms: UnixMs,
    /// How many jobs wait for which reason.
    pub reasons: BTreeMap<String, u64>,
    /// Trial, attempt and reason of the first of them.
    singly: Vec<(u64, AttemptNo, String)>,
}

fn shortened(reason: &str) -> String {
    let line = reason.lines().next().unwrap_or_default().trim();
    line.chars().take(LETTERS).collect()
}

impl Waiting {
    /// A note of these jobs, in the order of their trials.
    pub(crate) fn new<'a>(
        study: StudyId,
        seen_ms: UnixMs,
        jobs: impl Iterator<Item = (TrialId, AttemptNo, &'a str)>,
    ) -> Self {
        let mut note = Self { study: study.to_string(), seen_ms, reasons: BTreeMap::new(), singly: Vec::new() };
        for (trial, attempt, reason) in jobs {
            let reason = shortened(reason);
            if note.singly.len() < SINGLY {
                note.singly.push((trial.0, attempt, reason.clone()));
            }
            let full = note.reasons.len() >= REASONS && !note.reasons.contains_key(&reason);
            *note.reasons.entry(if full { OTHERS.to_owned() } else { reason }).or_default() += 1;
        }
        note
    }

    /// Whether nothing waits.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.reasons.is_empty()
    }

    /// Why this one waits, if that is known.
    #[must_use]
    pub(crate) fn reason(&self, trial: TrialId, attempt: AttemptNo) -> Option<&str> {
        let one = self.singly.iter().find(|(of, n, _)| *of == trial.0 && *n == attempt);
        one.map(|(.., reason)| reason.as_str())
    }

    /// Whether a newer one needs not be written, since this one still says it all.
    #[must_use]
    pub(crate) fn does_for(&self, newer: &Self) -> bool {
        let same = self.reasons == newer.reasons && self.singly == newer.singly;
        same && newer.seen_ms.abs_diff(self.seen_ms) < AGAIN_MS
    }

    /// Leaves it in the directory of a study's artifacts, old or new and never torn.
    ///
    /// # Errors
    /// What the file system says; a link in the control directory's place is refused.
    pub(crate) fn leave(&self, artifacts: &Path) -> io::Result<()> {
        drop(Below::root(artifacts.into()).join(CONTROL_DIR).open()?);
        let note = Temporary::beside(&artifacts.join(CONTROL_DIR).join(NAME), Access::Own)?;
        note.write(false, |file| Ok(serde_json::to_writer(file, self)?))?;
        note.replace()
    }

    /// Takes it away. One that cannot be removed grows old.
    pub(crate) fn remove(artifacts: &Path) {
        let there = Below::root(artifacts.into()).join(CONTROL_DIR);
        if there.open().is_ok() {
            let _ = disk::remove_file(&there.path().join(NAME));
        }
    }

    /// The one that was left there for this study, unless it is old, or no note.
    #[must_use]
    pub(crate) fn read(artifacts: &Path, study: StudyId, now_ms: UnixMs) -> Option<Self> {
        let file = Below::root(artifacts.into()).join(CONTROL_DIR).join(NAME).open_file().ok()?;
        let mut text = Vec::new();
        file.take(BYTES_MAX + 1).read_to_end(&mut text).ok()?;
        if text.len() as u64 > BYTES_MAX {
            return None;
        }
        let mut note: Self = serde_json::from_slice(&text).ok()?;
        // Whoever looks may be on another host, whose clock is a little behind.
        let fresh = now_ms.abs_diff(note.seen_ms) <= AGE_MAX_MS;
        if !fresh || note.study != study.to_string() {
            return None;
        }
        note.singly.truncate(SINGLY);
        for (.., reason) in &mut note.singly {
            *reason = shortened(reason);
        }
        let reasons = std::mem::take(&mut note.reasons).into_iter().take(REASONS + 1);
        note.reasons = reasons.map(|(reason, count)| (shortened(&reason), count)).collect();
        Some(note)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const STUDY: StudyId = StudyId([3; 16]);

    fn note(reason: &str) -> Waiting {
        Waiting::new(STUDY, 1_000, [(TrialId(4), 2, reason)].into_iter())
    }

    #[test]
    fn what_was_left_is_read_until_it_is_old() {
        let dir = tempfile::tempdir().unwrap();
        let there = dir.path().join(CONTROL_DIR);
        assert!(note("x").leave(dir.path()).is_err(), "there is no such directory");
        std::fs::create_dir(&there).unwrap();
        note("Resources").leave(dir.path()).unwrap();
        let read = |study, now_ms| Waiting::read(dir.path(), study, now_ms);
        let found = read(STUDY, 2_000).unwrap();
        assert_eq!(found, note("Resources"));
        assert_eq!((found.reason(TrialId(4), 2), found.reason(TrialId(4), 1)), (Some("Resources"), None));
        assert!(read(STUDY, -5_000).is_some(), "a clock that is behind");
        assert_eq!(read(STUDY, 1_000 + 300_001), None);
        assert_eq!(read(STUDY, i64::MIN), None);
        assert_eq!(read(StudyId([4; 16]), 2_000), None, "another study's");
        assert_eq!(std::fs::read_dir(&there).unwrap().count(), 1);
        let at = |seen_ms, reason| Waiting { seen_ms, ..note(reason) };
        assert!(found.does_for(&at(60_999, "Resources")));
        assert!(!found.does_for(&at(61_000, "Resources")) && !found.does_for(&at(1_001, "Priority")));
        Waiting::remove(dir.path());
        assert_eq!((read(STUDY, 2_000), std::fs::read_dir(&there).unwrap().count()), (None, 0));
    }

    #[test]
    fn many_jobs_and_many_reasons_make_a_short_note() {
        let reasons: Vec<String> = (0..40).map(|n| format!("r{n}{}\nmore", "\u{1b}".repeat(500))).collect();
        let jobs = (0..10_000_u64).map(|n| (TrialId(n), 1, reasons[n as usize % 40].as_str()));
        let many = Waiting::new(STUDY, 1_000, jobs);
        assert_eq!(many.reasons.values().sum::<u64>(), 10_000);
        assert_eq!((many.reasons.len(), many.reasons[OTHERS]), (REASONS + 1, 6_000));
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(CONTROL_DIR)).unwrap();
        many.leave(dir.path()).unwrap();
        assert_eq!(Waiting::read(dir.path(), STUDY, 1_000), Some(many));
    }

    /// None of this may block, follow, or take memory without an end; a test that hangs has failed.
    #[test]
    fn whatever_a_trial_puts_there_is_no_note() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::create_dir(outside.path().join(CONTROL_DIR)).unwrap();
        note("x").leave(outside.path()).unwrap();
        let real = outside.path().join(CONTROL_DIR).join(NAME);
        type Put<'a> = &'a dyn Fn(&Path);
        let puts: [(&str, Put<'_>); 6] = [
            ("a FIFO", &|at| rustix::fs::mkfifoat(rustix::fs::CWD, at, rustix::fs::Mode::RUSR).unwrap()),
            ("a link to a note", &|at| symlink(&real, at).unwrap()),
            ("a link to no end", &|at| symlink("/dev/zero", at).unwrap()),
            ("a directory", &|at| std::fs::create_dir(at).unwrap()),
            ("a terabyte", &|at| std::fs::File::create(at).unwrap().set_len(1 << 40).unwrap()),
            ("nonsense", &|at| std::fs::write(at, "[".repeat(100_000)).unwrap()),
        ];
        for (what, put) in puts {
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir(dir.path().join(CONTROL_DIR)).unwrap();
            put(&dir.path().join(CONTROL_DIR).join(NAME));
            assert_eq!(Waiting::read(dir.path(), STUDY, 1_000), None, "{what}");
        }
        // Nor is a link in the place of the directory followed.
        let dir = tempfile::tempdir().unwrap();
        symlink(outside.path().join(CONTROL_DIR), dir.path().join(CONTROL_DIR)).unwrap();
        assert_eq!(Waiting::read(dir.path(), STUDY, 1_000), None);
        assert!(note("y").leave(dir.path()).is_err());
        Waiting::remove(dir.path());
        assert!(real.exists());
        // What a forger makes of it is short.
        let forged = format!(
            "{{\"study\":\"{STUDY}\",\"seen_ms\":1000,\"reasons\":{{}},\"singly\":[[1,1,\"{}\\n\\u001b[2J\"]]}}",
            "x".repeat(9_000)
        );
        std::fs::write(&real, forged).unwrap();
        let found = Waiting::read(outside.path(), STUDY, 1_000).unwrap();
        assert_eq!(found.reason(TrialId(1), 1).unwrap().len(), LETTERS);
    }
}
