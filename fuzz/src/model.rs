//! Operations on a journal, against a model of its rows in ordinary maps.

use piton::{Range, Study};
use std::path::Path;

use piton::fuzzing::Memory;
use piton::model::{
    AttemptEnd, EngineId, Event, ExecutorKind, Exit, Extension, Failure, Metric, Metrics, Next, OutputHash,
    Parent, ProcessId, Record, RunEnd, Segment, Severity, SpecAmended, StageDecl, StageIndex, StudyCreated,
    StudyId, StudyProgress, TrialId, Usage, Verdict, fold,
};
use piton::program::journal::{create, verify};
use piton::{Journal, Spec, Stage, Value};

use super::scratch;

fn spec() -> Spec {
    let stage = |name: &str, trials| Stage::unbound(name).budget(trials).survivors(2).minimize("y");
    let explore = stage("explore", 6).range("x", Range::int(1..=6));
    Study::builder("fuzzed")
        .seed(7)
        .stage(explore)
        .stage(stage("confirm", 4).range("z", Range::int(1..=2)))
        .spec()
        .unwrap()
}

fn created() -> Record {
    let spec = spec();
    let event = StudyCreated {
        study_id: StudyId([7; 16]),
        piton_version: "0.1.0".into(),
        name: "fuzzed".into(),
        base_case: "fuzzed".into(),
        seed: 7,
        spec: spec.to_json(),
        spec_hash: spec.spec_hash(),
        inputs: Vec::new(),
        versions: Vec::new(),
        study_dir: ".".into(),
        artifacts_dir: "artifacts".into(),
        study_file: String::new(),
        plan_version: piton::program::plan::VERSION,
        stages: piton::program::plan::declared(&spec),
    };
    record(Event::StudyCreated(Box::new(event)))
}

fn record(event: Event) -> Record {
    Record { at_ms: 1_000, run_ms: 5, event }
}

fn parent(trial: u64) -> Parent {
    Parent { trial: TrialId(trial), attempt: 1 }
}

fn ended(trial: u64, attempt: u32, verdict: Verdict, next: Next) -> Event {
    let usage = Usage { wall_us: 10, cpu_us: 9, peak_rss_bytes: 8 };
    let exit = Some(Exit::Code(0));
    let trial = TrialId(trial);
    Event::AttemptEnded(Box::new(AttemptEnd { trial, attempt, ended_ms: 2_000, exit, usage, verdict, next }))
}

fn succeeded(y: u8) -> Verdict {
    let metrics = Metrics::from([("y".to_owned(), Metric::Number(f64::from(y)))]);
    let outputs = vec![OutputHash { path: "out".into(), bytes: 1, blake3: [y; 32] }];
    Verdict::Succeeded { metrics, outputs }
}

fn failed(severity: Severity) -> Verdict {
    let (reason, log_excerpt) = ("exited with code 1".into(), "a\nb".into());
    Verdict::Failed(Failure { kind: "exit_code".into(), severity, retryable: true, reason, log_excerpt })
}

fn engine() -> EngineId {
    EngineId { process: ProcessId { pid: 4242, start_ticks: 1 }, boot_id: "boot".into(), host: "here".into() }
}

/// An event made of three bytes; few trials and stages, so that many fit.
fn event([kind, a, b]: [u8; 3]) -> Event {
    let (trial, attempt) = (u64::from(a % 16), u32::from(b % 4));
    let stage = StageIndex::from(a % 3);
    let severity = [Severity::Low, Severity::Catastrophic][usize::from(b / 128)];
    match kind % 20 {
        0 => Event::RunStarted { engine: engine(), workers: b.into(), sync_interval_ms: b.into() },
        1 => Event::RunEnded { how: [RunEnd::Drained, RunEnd::Completed][usize::from(a % 2)] },
        2 | 3 => Event::StageOpened { stage: 0, parents: vec![], shares: vec![6] },
        4 if b >= 200 => Event::StageOpened { stage: 2, parents: vec![parent(a.into())], shares: vec![3] },
        4 => {
            Event::StageOpened { stage: 1, parents: vec![parent(a.into()), parent(b.into())], shares: vec![2, 2] }
        }
        5..=8 => Event::AttemptStarted {
            trial: TrialId(trial),
            attempt,
            slot: 0,
            process: None,
            executor: ExecutorKind::Local,
        },
        9..=11 => ended(trial, attempt, succeeded(b), Next::Final),
        12 => ended(trial, attempt, failed(severity), Next::Final),
        13 => ended(trial, attempt, failed(severity), Next::Again { due_ms: b.into() }),
        14 => ended(trial, attempt, Verdict::Interrupted { reason: "x".into() }, Next::Again { due_ms: 0 }),
        15 => Event::StageClosed { stage, survivors: vec![parent(b.into())] },
        16 => Event::TrialReset { trial: TrialId(trial) },
        17 => Event::StudyAborted { reason: "a rail".into(), violating: vec![TrialId(trial)] },
        18 => amended(a, b),
        _ => match b % 8 {
            0 => Event::StudyCompleted,
            1 => Event::StageApproved { stage, by: "me".into(), note: String::new() },
            4..=6 => {
                let values = vec![("x".into(), Value::Int(a.into()))];
                Event::TrialProposed { trial: TrialId(trial), values, merged: u32::from(b % 3) }
            }
            7 => Event::ProposalsEnded { stage, reason: "no more".into() },
            2 => Event::BaseStarted { attempt, slot: 0, process: None, executor: ExecutorKind::Local },
            _ => Event::StudyCreated(Box::new(match created().event {
                Event::StudyCreated(created) => *created,
                other => unreachable!("{other:?}"),
            })),
        },
    }
}

fn amended(a: u8, b: u8) -> Event {
    let decl = |name: &str| StageDecl {
        name: name.into(),
        trial_budget: 9,
        survivor_count: 1,
        objective: None,
        proposed: name == "last",
    };
    let more = vec![Segment { parent: 0, offset: 6, count: u64::from(b / 16) }];
    Event::SpecAmended(Box::new(SpecAmended {
        spec: spec().to_json(),
        spec_hash: "other".into(),
        seed: a.into(),
        inputs: Vec::new(),
        versions: Vec::new(),
        stages: vec![decl("explore"), decl("confirm"), decl("last")],
        discard_from: (b & 1 == 1).then_some(StageIndex::from(a % 3)),
        extended: (b & 2 == 2).then_some(Extension { stage: StageIndex::from(b % 2), more }),
        reopen: b & 4 == 4,
    }))
}

/// Does what `data` says with a journal and with the model: both accept the same events and hold the same rows, also after
/// the journal was opened again.
pub fn operations(data: &[u8]) {
    let dir = scratch();
    let path = dir.path().join("s.redb");
    let first = created();
    let mut model = Memory::default();
    fold(&mut model, 1, &first).unwrap();
    let mut journal = create(&path, &first).unwrap();
    for step in data.chunks(8).take(32) {
        // A batch of one or two events, or the journal is opened again.
        let events: Vec<_> = step.chunks_exact(3).map(|bytes| event([bytes[0], bytes[1], bytes[2]])).collect();
        if step[0] >= 240 {
            if step[0] % 2 == 0 {
                journal.close().unwrap()
            } else {
                drop(journal)
            }
            journal = Journal::open(&path).unwrap();
            compare(&model, &journal);
            continue;
        }
        let records: Vec<_> = events.into_iter().map(record).collect();
        let mut next = model.clone();
        let folded = records.iter().try_for_each(|record| {
            let seq = next.progress.last_seq + 1;
            fold(&mut next, seq, record)
        });
        let appended = journal.append(&records);
        assert_eq!(folded.is_ok(), appended.is_ok(), "{records:?}: {folded:?}, {appended:?}");
        if folded.is_ok() {
            model = next;
        }
        assert_eq!(journal.last_seq(), model.progress.last_seq);
    }
    compare(&model, &journal);
}

fn compare(model: &Memory, journal: &Journal) {
    let snapshot = journal.snapshot().unwrap();
    let numbered = |trial: u64| TrialId(trial);
    let stored = Memory {
        study: Some(snapshot.study().unwrap()),
        // The chain is the journal's own.
        progress: StudyProgress { chain: model.progress.chain, ..snapshot.progress().unwrap() },
        stages: snapshot.stages().unwrap().into_iter().map(|row| (row.index, row)).collect(),
        counters: model.counters.keys().map(|index| (*index, snapshot.counters(*index).unwrap())).collect(),
        trials: snapshot
            .trials(numbered(0), numbered(u64::MAX))
            .unwrap()
            .map(|row| row.map(|row| (row.trial, row)).unwrap())
            .collect(),
        proposals: snapshot.proposals(numbered(0), numbered(u64::MAX)).unwrap(),
        ready: snapshot.ready(None, usize::MAX).unwrap().into_iter().collect(),
        running: snapshot.running().unwrap().into_iter().map(|row| (row.trial, row)).collect(),
        // Held against a replay below.
        results: model.results.clone(),
    };
    assert_eq!(&stored, model);
    let found = verify(&snapshot).unwrap();
    assert_eq!((found.differences, found.events), (vec![], model.progress.last_seq));
}

/// A finished study of eight trials, closed in good order.
pub fn small_study(path: &Path) {
    let mut journal = create(path, &created()).unwrap();
    let run = |trial| {
        let started = Event::AttemptStarted {
            trial: TrialId(trial),
            attempt: 1,
            slot: 0,
            process: None,
            executor: ExecutorKind::Local,
        };
        let verdict = if trial == 2 { failed(Severity::Medium) } else { succeeded(trial as u8) };
        [started, ended(trial, 1, verdict, Next::Final)]
    };
    let mut events = vec![
        Event::RunStarted { engine: engine(), workers: 2, sync_interval_ms: 0 },
        Event::StageOpened { stage: 0, parents: vec![], shares: vec![6] },
    ];
    events.extend((0..6).flat_map(run));
    let survivors = vec![parent(0), parent(1)];
    events.push(Event::StageClosed { stage: 0, survivors: survivors.clone() });
    events.push(Event::StageOpened { stage: 1, parents: survivors, shares: vec![2, 2] });
    events.extend((6..10).flat_map(run));
    events.push(Event::StageClosed { stage: 1, survivors: vec![parent(6), parent(7)] });
    events.extend([Event::StudyCompleted, Event::RunEnded { how: RunEnd::Completed }]);
    for batch in events.chunks(4) {
        let records: Vec<_> = batch.iter().cloned().map(record).collect();
        journal.append(&records).unwrap();
    }
    journal.close().unwrap();
}
