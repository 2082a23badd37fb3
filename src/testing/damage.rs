//! Damaged stores: whatever happened to the bytes, what is shown is right or the damage is reported.
//!
//! Each damaged store is opened, and then looked at in every way that prints something: `status`, `dump`,
//! `dump --canonical`, `dump --events`, `verify`. Each of them must say either exactly what it says of the undamaged
//! store, or that the store is damaged; a panic fails the test.
//!
//! Which pages each way reads is recorded while it looks at the undamaged store. It reads the same pages of a damaged one
//! up to the first that was changed; so where it reads no changed page it says the same, and need not be asked. A change
//! in pages that no way reads is only counted; the figures name both kinds.
//! `PITON_DAMAGE_MUTATIONS` says how many random changes are made, `PITON_DAMAGE_SEED` from which seed.

use crate::{Range, Stage, Study};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::story::{DEAD, Story, parent};
use crate::journal::{Journal, OpenError, Overlay, Reader, create, verify};
use crate::model::{
    AttemptEnd, EngineId, Event, ExecutorKind, Exit, Metric, Next, OutputHash, ProcessId, Record, RunEnd,
    StudyCreated, StudyId, TrialId, Usage, Verdict,
};
use crate::plan;
use crate::views::status::Status;
use crate::views::{StudyLocation, StudyView, ViewError, dump};

const PAGE: usize = 4096;

/// What was said, or that the store is damaged.
type Said = Result<Vec<u8>, String>;

const WAYS: [&str; 5] = ["status", "dump", "dump --canonical", "dump --events", "verify"];

fn said(result: Result<(), ViewError>, out: Vec<u8>) -> Said {
    match result {
        Ok(()) => Ok(out),
        Err(ViewError::Journal(cause)) if cause.is_damage() => Err(cause.to_string()),
        Err(ViewError::Spec(why)) => Err(why),
        Err(other) => panic!("neither an answer nor damage: {other:?}"),
    }
}

/// Looks at a store in one way.
fn look(way: usize, reader: &Reader) -> Said {
    let mut out = Vec::new();
    let result = (|| -> Result<(), ViewError> {
        let snapshot = reader.snapshot()?;
        if WAYS[way] == "verify" {
            return Ok(write!(out, "{:?}", verify(&snapshot)?)?);
        }
        let place = StudyLocation { store: "s.redb".into(), artifacts_dir: "/a".into(), study_dir: "/s".into() };
        let view = StudyView::load(&snapshot, place, DEAD)?;
        match WAYS[way] {
            "status" => Status::load(&view, &snapshot, 0)?.write_json(&mut out),
            "dump" => dump::state(&view, &snapshot, dump::Format::Json, &mut out),
            "dump --canonical" => dump::canonical(&view, &snapshot, &mut out),
            _ => dump::events(&view, &snapshot, dump::Format::Jsonl, &mut out),
        }
    })();
    said(result, out)
}

fn open(store: &Overlay) -> Result<Reader, String> {
    match Reader::over(store, Path::new("s.redb")) {
        Ok(reader) => Ok(reader),
        Err(error @ OpenError::Damaged { .. }) => Err(error.to_string()),
        Err(other) => panic!("neither opened nor damaged: {other:?}"),
    }
}

/// An undamaged store, and what is said of it.
struct Whole {
    bytes: Arc<[u8]>,
    said: [Vec<u8>; 5],
    /// Pages that each way reads.
    touched: [BTreeSet<usize>; 5],
}

impl Whole {
    fn new(bytes: Vec<u8>) -> Self {
        let bytes: Arc<[u8]> = bytes.into();
        let mut touched = [const { BTreeSet::new() }; 5];
        let said = std::array::from_fn(|way| {
            let store = Overlay::of_bytes(Arc::clone(&bytes));
            let said = look(way, &open(&store).unwrap()).unwrap();
            touched[way] = store.touched.lock().unwrap().iter().map(|page| *page as usize).collect();
            said
        });
        Self { bytes, said, touched }
    }

    /// What must hold of a damaged one, by every way that reads a changed page. Whether any of it was reported as damage;
    /// `None`: none reads one.
    fn check(&self, store: &Overlay, changed: &BTreeSet<usize>, what: &dyn std::fmt::Debug) -> Option<bool> {
        let ways: Vec<usize> = (0..5).filter(|way| !self.touched[*way].is_disjoint(changed)).collect();
        let mut reader = (!ways.is_empty()).then(|| open(store))?;
        let mut told = false;
        for way in ways {
            let said = reader.as_ref().map_err(Clone::clone).and_then(|reader| look(way, reader));
            match said {
                Ok(said) if said == self.said[way] => {}
                Ok(said) => {
                    let text = String::from_utf8_lossy(&said).into_owned();
                    panic!("`{}` answers wrongly after {what:?}: {text}", WAYS[way]);
                }
                Err(_) => {
                    told = true;
                    // A handle that met damage is not asked again: the next command has its own.
                    if reader.is_ok() {
                        reader = open(store);
                    }
                }
            }
        }
        Some(told)
    }
}

/// The store of a finished study of six trials.
fn small() -> Vec<u8> {
    let mut story = Story::new();
    story.complete();
    let dir = story.closed();
    std::fs::read(dir.path().join("tiny.redb")).unwrap()
}

/// Runs `body` for every item of a range on all processors.
fn in_parallel(range: std::ops::Range<u64>, body: impl Fn(u64) + Sync) {
    let next = AtomicU64::new(range.start);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let item = next.fetch_add(1, Ordering::Relaxed);
                    if item >= range.end {
                        break;
                    }
                    body(item);
                }
            });
        }
    });
}

#[derive(Default)]
struct Figures {
    told: AtomicU64,
    same: AtomicU64,
    unread: AtomicU64,
}

impl Figures {
    fn count(&self, told: Option<bool>) {
        let which = match told {
            Some(true) => &self.told,
            Some(false) => &self.same,
            None => &self.unread,
        };
        which.fetch_add(1, Ordering::Relaxed);
    }

    fn print(&self, what: &str) {
        let [told, same, unread] = [&self.told, &self.same, &self.unread].map(|n| n.load(Ordering::Relaxed));
        let run = told + same;
        println!(
            "figure: damage, {what}: {run} run, {told} told as damage, {same} answered as before; {unread} in pages nobody reads"
        );
    }
}

/// Flips a range of bytes. Gives whether that was reported as damage.
fn flip(whole: &Whole, figures: &Figures, range: std::ops::Range<usize>, mask: u8) -> bool {
    let changed = BTreeSet::from([range.start / PAGE]);
    let store = Overlay::of_bytes(Arc::clone(&whole.bytes));
    let flipped: Vec<u8> = whole.bytes[range.clone()].iter().map(|byte| byte ^ mask).collect();
    store.put(range.start as u64, &flipped).unwrap();
    let told = whole.check(&store, &changed, &("flip", &range, mask));
    figures.count(told);
    told == Some(true)
}

/// One byte at a time. The end of a page that nothing uses is flipped sixteen bytes at a time, until the first that reports
/// damage; with `PITON_DAMAGE_EVERY_BYTE` set, each byte there, too.
#[test]
fn every_byte_flipped() {
    const GROUP: usize = 16;
    let each = std::env::var_os("PITON_DAMAGE_EVERY_BYTE").is_some();
    let whole = Whole::new(small());
    let figures = Figures::default();
    in_parallel(0..(whole.bytes.len() / PAGE) as u64, |page| {
        let start = page as usize * PAGE;
        let mut end = start + PAGE;
        while !each && end > start && !flip(&whole, &figures, end - GROUP..end, 0x55) {
            end -= GROUP;
        }
        for at in start..end {
            // Which bit takes turns; all eight of the header's, whose bits have meanings of their own.
            let masks = if at < 320 { vec![1, 2, 4, 8, 16, 32, 64, 128, 255] } else { vec![1 << (at % 8)] };
            for mask in masks {
                flip(&whole, &figures, at..at + 1, mask);
            }
        }
    });
    figures.print("every byte flipped");
    assert!(figures.told.load(Ordering::Relaxed) > 1_000 && figures.same.load(Ordering::Relaxed) > 100);
}

#[test]
fn every_truncation() {
    let whole = Whole::new(small());
    let figures = Figures::default();
    in_parallel(0..whole.bytes.len() as u64, |len| {
        let store = Overlay::of_bytes(Arc::clone(&whole.bytes));
        store.cut(len).unwrap();
        // Whoever opens it looks at its length.
        figures.count(whole.check(&store, &BTreeSet::from([0]), &("cut", len)));
    });
    figures.print("every truncation");
    assert_eq!(figures.same.load(Ordering::Relaxed), 0, "a file that was cut off is told as damaged");
}

fn record(event: Event) -> Record {
    Record { at_ms: 1_000, run_ms: 0, event }
}

/// A study of `trials` trials in one stage, which has just begun.
fn begun(path: &Path, trials: u64) -> Journal {
    let stage = Stage::unbound("explore").budget(trials).survivors(2).range("x", Range::int(1..=trials as i64));
    let spec = Study::builder("large").seed(7).stage(stage.minimize("y")).spec().unwrap();
    let created = StudyCreated {
        study_id: StudyId([7; 16]),
        name: "large".into(),
        base_case: "large".into(),
        seed: 7,
        spec: spec.to_json(),
        spec_hash: spec.spec_hash(),
        plan_version: plan::VERSION,
        stages: plan::declared(&spec),
        ..StudyCreated::of_nothing()
    };
    let mut journal = create(path, &record(Event::StudyCreated(Box::new(created)))).unwrap();
    let process = ProcessId { pid: 4242, start_ticks: 1 };
    let engine = EngineId { process, boot_id: "boot".into(), host: "here".into() };
    let opened = Event::StageOpened { stage: 0, parents: vec![], shares: vec![trials] };
    journal
        .append(&[record(Event::RunStarted { engine, workers: 4, sync_interval_ms: 0 }), record(opened)])
        .unwrap();
    journal
}

/// Records eight results, as an engine does: in one commit.
fn eight_results(journal: &mut Journal, first: u64) {
    let started = |trial| Event::AttemptStarted {
        trial: TrialId(trial),
        attempt: 1,
        slot: 0,
        process: None,
        executor: ExecutorKind::Local,
    };
    let events = (first..first + 8).flat_map(|trial| [started(trial), succeeded(trial)]);
    journal.append(&events.map(record).collect::<Vec<_>>()).unwrap();
}

/// A finished study of so many trials; its bytes, and what they were halfway.
fn large(trials: u64) -> (Vec<u8>, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.redb");
    let mut journal = begun(&path, trials);
    let mut halfway = Vec::new();
    for first in (0..trials).step_by(8) {
        eight_results(&mut journal, first);
        if first * 2 >= trials && halfway.is_empty() {
            halfway = std::fs::read(&path).unwrap();
        }
    }
    let survivors = vec![parent(0, 1), parent(1, 1)];
    let end = [
        Event::StageClosed { stage: 0, survivors },
        Event::StudyCompleted,
        Event::RunEnded { how: RunEnd::Completed },
    ];
    journal.append(&end.map(record)).unwrap();
    journal.close().unwrap();
    (std::fs::read(path).unwrap(), halfway)
}

/// Pages are written anew all the time while an engine runs: none of them may be taken for damage.
#[test]
fn readers_beside_a_writer_meet_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.redb");
    let mut journal = begun(&path, 1_600);
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let looks = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let readers = [true, false].map(|keeps_open| {
            let (path, is_over, looks) = (&path, &is_over, &looks);
            scope.spawn(move || {
                let mut reader = Reader::open(path).unwrap();
                let mut seen = 0;
                while !is_over.load(Ordering::Relaxed) {
                    if !keeps_open {
                        reader = Reader::open(path).unwrap();
                    }
                    let found = verify(&reader.snapshot().unwrap()).unwrap();
                    assert_eq!(found.differences, []);
                    assert!(found.events >= seen, "time goes one way");
                    seen = found.events;
                    looks.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        for first in (0..1_600).step_by(8) {
            eight_results(&mut journal, first);
        }
        // However slow they are, each looks at least once.
        while looks.load(Ordering::Relaxed) < 4 && !readers.iter().any(|reader| reader.is_finished()) {
            std::thread::yield_now();
        }
        is_over.store(true, Ordering::Relaxed);
    });
    println!("{} looks", looks.into_inner());
}

fn succeeded(trial: u64) -> Event {
    let metrics = BTreeMap::from([("y".to_owned(), Metric::Number(trial as f64))]);
    let outputs = vec![OutputHash { path: "out.txt".into(), bytes: 3, blake3: [trial as u8; 32] }];
    Event::AttemptEnded(Box::new(AttemptEnd {
        trial: TrialId(trial),
        attempt: 1,
        ended_ms: 2_000,
        exit: Some(Exit::Code(0)),
        usage: Usage { wall_us: 1_000 + trial, cpu_us: 900, peak_rss_bytes: 4096 },
        verdict: Verdict::Succeeded { metrics, outputs },
        next: Next::Final,
    }))
}

/// A generator of random numbers: the seed's blake3, read on and on.
struct Random(blake3::OutputReader);

impl Random {
    fn new(seed: u64) -> Self {
        Self(blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof())
    }

    fn below(&mut self, end: usize) -> usize {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        (u64::from_le_bytes(bytes) % end.max(1) as u64) as usize
    }
}

/// One random damage: its kind and the byte ranges it changes. Bytes are taken from the store, or from an older one.
#[derive(Debug)]
enum Damage {
    Put(Vec<(usize, Vec<u8>)>),
    Cut(usize),
}

fn damage(random: &mut Random, whole: &[u8], older: &[u8]) -> Damage {
    let page = |number: usize| number * PAGE..(number + 1) * PAGE;
    let pages = whole.len() / PAGE;
    let older_pages = (older.len() / PAGE).min(pages);
    match random.below(16) {
        // One to three flipped bits, in places that lie near each other or anywhere.
        0..=6 => {
            let near = random.below(whole.len());
            let flips = 1 + random.below(3);
            let flipped = (0..flips).map(|_| {
                let far = random.below(4) == 0;
                let at = if far { random.below(whole.len()) } else { (near + random.below(64)) % whole.len() };
                (at, vec![whole[at] ^ (1 << random.below(8))])
            });
            Damage::Put(flipped.collect())
        }
        // A run of zeroes, or of noise, from a byte to two pages long.
        7 | 8 => {
            let start = random.below(whole.len());
            let limit = 1 << (1 + random.below(13));
            let len = (1 + random.below(limit)).min(whole.len() - start);
            let noise = random.below(2) == 0;
            let bytes = (0..len).map(|_| if noise { random.below(256) as u8 } else { 0 }).collect();
            Damage::Put(vec![(start, bytes)])
        }
        // A page in another's place, or two that changed places.
        9..=11 => {
            let (a, b) = (random.below(pages), random.below(pages));
            let mut puts = vec![(page(a).start, whole[page(b)].to_vec())];
            if random.below(2) == 0 {
                puts.push((page(b).start, whole[page(a)].to_vec()));
            }
            Damage::Put(puts)
        }
        // Pages as they were before, one or several side by side.
        12..=14 => {
            let first = random.below(older_pages);
            let count = (1 + random.below(3)).min(older_pages - first);
            let range = first * PAGE..(first + count) * PAGE;
            Damage::Put(vec![(range.start, older[range].to_vec())])
        }
        _ => Damage::Cut(random.below(whole.len())),
    }
}

#[test]
fn random_damage() {
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let seed = number("PITON_DAMAGE_SEED", 1);
    let count = number("PITON_DAMAGE_MUTATIONS", 5_000);
    let (bytes, older) = large(200);
    let whole = Whole::new(bytes);
    let figures = Figures::default();
    println!("seeds {seed} to {}", seed + count - 1);
    in_parallel(seed..seed + count, |seed| {
        let damage = damage(&mut Random::new(seed), &whole.bytes, &older);
        let store = Overlay::of_bytes(Arc::clone(&whole.bytes));
        let mut changed = BTreeSet::new();
        match &damage {
            Damage::Cut(len) => {
                store.cut(*len as u64).unwrap();
                changed.insert(0);
            }
            Damage::Put(puts) => {
                for (at, bytes) in puts {
                    let pages = at / PAGE..=(at + bytes.len() - 1) / PAGE;
                    let differs = |page: &usize| {
                        let part = (page * PAGE).max(*at)..((page + 1) * PAGE).min(at + bytes.len());
                        whole.bytes[part.clone()] != bytes[part.start - at..part.end - at]
                    };
                    changed.extend(pages.filter(differs));
                    store.put(*at as u64, bytes).unwrap();
                }
            }
        }
        let kind = format!("PITON_DAMAGE_SEED={seed} PITON_DAMAGE_MUTATIONS=1");
        figures.count(whole.check(&store, &changed, &kind));
    });
    figures.print("random damage");
    assert!(count < 1_000 || figures.told.load(Ordering::Relaxed) > count / 10);
}
