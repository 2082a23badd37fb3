//! Stores with changed bytes: whatever is said of them is right, or that they are damaged; and what is salvaged is whole.

use std::io::Write;
use std::path::Path;
use std::sync::OnceLock;

use piton::views::status::Status;
use piton::views::{Liveness, StudyLocation, StudyView, ViewError, dump};
use piton::{OpenError, Reader, Snapshot, verify};

use super::{model, scratch};

/// The bytes of an undamaged store.
pub fn whole() -> &'static [u8] {
    static WHOLE: OnceLock<Vec<u8>> = OnceLock::new();
    WHOLE.get_or_init(|| {
        let dir = scratch();
        let path = dir.path().join("s.redb");
        model::small_study(&path);
        std::fs::read(path).unwrap()
    })
}

pub fn view(snapshot: &Snapshot) -> Result<StudyView, ViewError> {
    let place = StudyLocation { store: "s.redb".into(), artifacts_dir: "/a".into(), study_dir: "/s".into() };
    StudyView::load(snapshot, place, Liveness { alive: false })
}

/// What is said of a store, in three ways; `None`: damage was told.
fn said(bytes: &[u8]) -> [Option<Vec<u8>>; 3] {
    let open = || match Reader::from_bytes(bytes.to_vec(), Path::new("s.redb")) {
        Ok(reader) => Some(reader),
        Err(OpenError::Damaged { .. }) => None,
        Err(other) => panic!("{other:?}"),
    };
    let look = |way: fn(&Snapshot, &mut dyn Write) -> Result<(), ViewError>| {
        let mut out = Vec::new();
        match way(&open()?.snapshot().ok()?, &mut out) {
            Ok(()) => Some(out),
            Err(ViewError::Journal(cause)) => {
                assert!(cause.is_damage(), "{cause:?}");
                None
            }
            Err(ViewError::Spec(_)) => None,
            Err(other) => panic!("{other:?}"),
        }
    };
    [
        look(|snapshot, out| Status::load(&view(snapshot)?, snapshot, 0)?.write_json(out)),
        look(|snapshot, out| dump::canonical(&view(snapshot)?, snapshot, out)),
        look(|snapshot, out| Ok(write!(out, "{:?}", verify(snapshot)?)?)),
    ]
}

/// Changes bytes as `data` says: a kind, two places, a length, noise; again and again.
fn damaged(data: &[u8]) -> Vec<u8> {
    let mut bytes = whole().to_vec();
    for step in data.chunks_exact(8).take(16) {
        let number = |at: usize| usize::from(u16::from_le_bytes([step[at], step[at + 1]]));
        let size = bytes.len().max(1);
        // Sixteen bits reach every byte only with a factor; the low bits of the noise fill it in.
        let at = (number(1) * 2 + usize::from(step[7] & 1)) % size;
        let (page, other) = ((number(1) * 4096) % size, (number(3) * 4096) % size);
        let end = (at + number(5) % 8192).min(bytes.len());
        match step[0] % 6 {
            0 if at < bytes.len() => bytes[at] ^= step[7],
            1 => bytes[at.min(end)..end].fill(0),
            2 => bytes[at.min(end)..end].fill(step[7]),
            3 if page.max(other) + 4096 <= bytes.len() => bytes.copy_within(page..page + 4096, other),
            4 => bytes.truncate(at),
            _ => bytes.extend_from_slice(&step[1..]),
        }
    }
    bytes
}

/// Looks at a damaged store in every way.
pub fn store(data: &[u8]) {
    static SAID: OnceLock<[Option<Vec<u8>>; 3]> = OnceLock::new();
    let undamaged = SAID.get_or_init(|| said(whole()));
    assert!(undamaged.iter().all(Option::is_some));
    for (now, before) in said(&damaged(data)).iter().zip(undamaged) {
        assert!(now.is_none() || now == before, "a wrong answer");
    }
}

/// Salvages a damaged store: what comes out is whole.
pub fn salvage(data: &[u8]) {
    let dir = scratch();
    let (old, new) = (dir.path().join("old.redb"), dir.path().join("new.redb"));
    let bytes = damaged(data);
    std::fs::write(&old, &bytes).unwrap();
    match piton::salvage(&old, &new) {
        Ok(salvaged) => {
            let reader = Reader::open(&new).unwrap();
            let found = verify(&reader.snapshot().unwrap()).unwrap();
            assert_eq!((found.differences, found.events), (vec![], salvaged.events));
            // The event that says that the others were made of rows is salvage's own.
            assert!(salvaged.events - u64::from(salvaged.rebuilt) <= salvaged.known, "{salvaged:?}");
        }
        Err(piton::Error::Open(OpenError::Nothing { .. })) => assert!(!new.exists()),
        Err(other) => panic!("{other:?}"),
    }
    assert!(std::fs::read(&old).unwrap() == bytes, "the damaged store is only read");
}
