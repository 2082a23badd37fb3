use super::super::codec::{Stored, decode};
use super::super::pages::{Page, Tree, u64_at};
use super::*;
use crate::journal::{create, verify};
use crate::model::{Record, RunEnd, StudyProgress};

fn record(at_ms: i64, event: Event) -> Record {
    Record { at_ms, run_ms: 0, event }
}

/// A store whose fourth event is of this time; the others are always the same.
fn store(dir: &Path, fourth_ms: i64) -> Vec<u8> {
    // Larger than the smallest page.
    let created = StudyCreated { spec: "x".repeat(50_000), ..StudyCreated::of_nothing() };
    let path = dir.join(format!("{fourth_ms}.redb"));
    let mut journal = create(&path, &record(1, Event::StudyCreated(Box::new(created)))).unwrap();
    for at_ms in [2, 3, fourth_ms] {
        journal.append(&[record(at_ms, Event::RunEnded { how: RunEnd::Drained })]).unwrap();
    }
    journal.close().unwrap();
    std::fs::read(path).unwrap()
}

/// Pages with a record of this kind at one of these keys.
fn pages_with<T: Stored>(bytes: &[u8], keys: &[u64]) -> Vec<usize> {
    let holds = |page: &[u8]| {
        Page::new(page, Tree::NUMBERED).pairs().any(|(key, value)| {
            u64_at(key, 0).is_some_and(|key| keys.contains(&key) && decode::<T>(key, value).is_ok())
        })
    };
    (0..bytes.len()).step_by(4096).filter(|at| holds(&bytes[*at..*at + 4096])).collect()
}

/// Salvages bytes: the times of the events, and the report.
fn salvaged(dir: &Path, bytes: &[u8]) -> Result<(Vec<i64>, Salvaged), OpenError> {
    let (old, new) = (dir.join("old.redb"), dir.join("new.redb"));
    std::fs::write(&old, bytes).unwrap();
    drop(std::fs::remove_file(&new));
    let report = salvage(&old, &new, |_| {})?;
    let snapshot = Reader::open(&new).unwrap().snapshot().unwrap();
    assert_eq!(verify(&snapshot).unwrap().differences, []);
    Ok((snapshot.events(1).unwrap().map(|event| event.unwrap().1.at_ms).collect(), report))
}

#[test]
fn where_there_are_two_pasts_the_hash_chain_decides_or_nothing_does() {
    let dir = tempfile::tempdir().unwrap();
    let (this, other) = (store(dir.path(), 4), store(dir.path(), 40));
    // Without a header every page is looked at, and one of them is of another past.
    let ghost = pages_with::<Record>(&other, &[4]).pop().unwrap();
    let mut bytes = this.clone();
    bytes[..4096].fill(0);
    bytes.extend_from_slice(&other[ghost..ghost + 4096]);
    let (times, report) = salvaged(dir.path(), &bytes).unwrap();
    assert_eq!((times, report.events, report.known, report.stopped), (vec![1, 2, 3, 4], 4, 4, None));
    // The rows with the chain gone, nothing decides: what both pasts share is kept.
    for page in pages_with::<StudyProgress>(&bytes, &[0]) {
        bytes[page..page + 4096].fill(0);
    }
    let (times, report) = salvaged(dir.path(), &bytes).unwrap();
    assert_eq!((times, report.events, report.known, report.unconfirmed), (vec![1, 2, 3], 3, 4, 3));
    assert_eq!(report.stopped.as_deref(), Some("there are several versions of event 4"));
}

#[test]
fn an_event_of_another_past_is_not_taken_for_a_lost_one() {
    let dir = tempfile::tempdir().unwrap();
    let (mut bytes, other) = (store(dir.path(), 4), store(dir.path(), 40));
    let ghost = pages_with::<Record>(&other, &[4]).pop().unwrap();
    // Every page with the true fourth event is gone; the rows are there.
    for page in pages_with::<Record>(&bytes, &[4]) {
        bytes[page..page + 4096].fill(0);
    }
    bytes.extend_from_slice(&other[ghost..ghost + 4096]);
    let (times, report) = salvaged(dir.path(), &bytes).unwrap();
    // The first event, and the one that says that the rest was rebuilt.
    assert_eq!((times, report.known, report.rebuilt), (vec![1, 1], 4, true));
}

#[test]
fn a_place_moves_with_its_store_and_nothing_else_changes() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = store(dir.path(), 4);
    let (old, new) = (dir.path().join("old.redb"), dir.path().join("moved.redb"));
    std::fs::write(&old, &bytes).unwrap();
    salvage(&old, &new, |created| created.study_dir = "../elsewhere".into()).unwrap();
    let study = Reader::open(&new).unwrap().snapshot().unwrap().study().unwrap();
    assert_eq!((study.study_dir.as_str(), study.artifacts_dir.as_str()), ("../elsewhere", "artifacts"));
    assert_eq!(std::fs::read(&old).unwrap(), bytes);
    assert!(matches!(salvage(&old, &new, |_| {}), Err(OpenError::Exists { .. })));
}

#[test]
fn without_its_first_event_it_says_what_lacks() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = store(dir.path(), 4);
    // Of the store a page with later events is left, and no header that leads to it.
    let page = pages_with::<Record>(&bytes, &[4]).pop().unwrap();
    let mut left = vec![0; 4096];
    left.extend_from_slice(&bytes[page..page + 4096]);
    let refused = salvaged(dir.path(), &left).unwrap_err().to_string();
    assert!(refused.contains("its first event, which has the study file, cannot be read"), "{refused}");
    let refused = salvaged(dir.path(), &[0; 8192]).unwrap_err().to_string();
    assert!(refused.contains("no page of it holds a record of a study"), "{refused}");
}
