//! The fuzz targets, as functions of bytes: the fuzzer calls them with whatever it invents, and an ordinary test with every
//! input that ever failed (`fuzz/regressions/<target>/`) and with the seeds (`fuzz/seeds/<target>/`).
//!
//! Each panics if piton does what it must never do: panic, hang, take memory without bound, or answer wrongly.

mod model;
mod stores;

use std::path::Path;

use piton::program::study_file;
use piton::views::compare::{Baseline, Comparison, Limits};
use piton::{Reader, fuzzing};

pub use model::operations;
pub use stores::{salvage, store};

/// A study file: there is a spec that survives its JSON, or there are mistakes that can be shown.
pub fn study(data: &[u8]) {
    match study_file::parse_bytes("study.toml", data, &[]) {
        Ok(spec) => {
            let json = spec.to_json();
            let again = study_file::Spec::from_json(&json).unwrap_or_else(|error| panic!("{error}: {json}"));
            assert_eq!(again.to_json(), json);
            assert_eq!(again.spec_hash(), spec.spec_hash());
        }
        Err(mistakes) => {
            assert!(mistakes.len() > 0);
            for width in [None, Some(20), Some(80)] {
                let plain = mistakes.render(false, width);
                assert!(!plain.is_empty());
                assert!(!plain.contains(|c: char| c.is_control() && c != '\n'), "{plain:?}");
                assert!(!mistakes.render(true, width).is_empty());
            }
        }
    }
}

/// A record of the journal: its kind, its key, its bytes.
pub fn record(data: &[u8]) {
    if let [kind, key, bytes @ ..] = data {
        fuzzing::record(*kind, u64::from(*key), bytes);
    }
}

/// What a trial wrote: metrics, a file that `[stage.metrics]` searches, logs that a failure rule searches.
pub fn results(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    let (pattern, text) = match rest.iter().position(|byte| *byte == 0) {
        Some(end) => (&rest[..end], &rest[end + 1..]),
        None => (rest, rest),
    };
    let pattern = String::from_utf8_lossy(pattern);
    match kind % 4 {
        0 => {
            fuzzing::metrics(rest);
            fuzzing::reports(rest);
        }
        1 => {
            fuzzing::rule(&pattern, text);
            fuzzing::printed(&pattern, text);
        }
        2 => {
            let dir = scratch();
            std::fs::write(dir.path().join("stderr.log"), text).unwrap();
            fuzzing::log_rule(&pattern, dir.path());
        }
        _ => {
            // The same rules as a study file gives them.
            let quoted = serde_json::to_string(&pattern).unwrap();
            study(
                format!(
                    "[study]\nname='x'\n[[stage]]\nname='a'\ncommand='true'\ntrial_budget=1\nsurvivor_count=1\n\
                [stage.sweep]\nx=[1]\n[[stage.failure]]\nkind='k'\nlog={quoted}\n[stage.metrics]\n\
                m={{file='f',regex={quoted}}}\n"
                )
                .as_bytes(),
            );
        }
    }
}

/// Files that come from elsewhere: a baseline to compare with, and files of cases.
pub fn tables(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    match kind % 3 {
        0 => fuzzing::cases(false, bytes),
        1 => fuzzing::cases(true, bytes),
        _ => baseline(bytes),
    }
}

fn baseline(bytes: &[u8]) {
    let dir = scratch();
    let path = dir.path().join("baseline.json");
    std::fs::write(&path, bytes).unwrap();
    let Ok(baseline) = Baseline::of_file(&path) else { return };
    let reader = Reader::from_bytes(stores::whole().to_vec(), Path::new("s.redb")).unwrap();
    let snapshot = reader.snapshot().unwrap();
    let view = stores::view(&snapshot).unwrap();
    for stage in &view.stages {
        if let Ok(comparison) = Comparison::new(&view, &snapshot, stage, &baseline, Limits::default()) {
            drop(comparison.run(&mut |_| Ok(())));
        }
    }
}

/// A directory in memory where there is one.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("piton-fuzz-").tempdir_in(place).unwrap()
}
