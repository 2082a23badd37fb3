//! Bytes of the records: the only place that knows bincode.
//!
//! A value is one tag byte (the record's version), the bincode of that version's disk struct, and four bytes of
//! xxh3 over table, key and all before them, so that neither a flipped bit nor a value moved to another key is
//! taken for the truth. That is against accidents; against intent there is the hash chain. Reading has a limit, wants
//! every byte consumed, and refuses unknown tags; it must never panic, whatever the bytes.

use serde::de::DeserializeOwned;
use twox_hash::XxHash3_64;

use super::records::{self, As, Disk};
use crate::model::{
    Record, RunningRow, StageCounters, StageRow, StudyProgress, StudyRow, TrialId, TrialRow, names,
};

/// Largest value read: a spec of that size is beyond reason, and a damaged length must not take all memory.
const LIMIT_BYTES: usize = 64 << 20;

const CHECKSUM_BYTES: usize = 4;

/// Bytes that are no record of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The checksum does not fit the bytes.
    #[error("its checksum does not fit")]
    Checksum,
    /// Written by a newer piton.
    #[error("it has version {0}, which only a newer piton knows")]
    Newer(u8),
    /// The checksum fits, the bytes do not.
    #[error("it cannot be decoded: {0}")]
    Malformed(String),
    /// A name in it is none that a study could have: it is damaged, or forged to lead elsewhere.
    #[error("{0}, which no study has")]
    Name(String),
}

/// A model type the store keeps.
pub(super) trait Stored: Sized {
    /// Its name in the checksum; never changes.
    const KIND: &'static str;
    /// Latest disk form.
    type Latest: Disk<Model = Self> + DeserializeOwned;
    /// Tag of the latest form.
    const TAG: u8 = 1;
    /// Puts back what its key says.
    fn at_key(self, _key: u64) -> Self {
        self
    }
    /// Checks the names in it that become parts of paths, by the rules that study files are held to.
    fn names(&self) -> Result<(), String> {
        Ok(())
    }
    fn older(tag: u8, _bytes: &[u8]) -> Result<Self, CodecError> {
        Err(CodecError::Newer(tag))
    }
}

macro_rules! stored {
    ($($model:ty: $kind:literal, $latest:ident;)*) => {$(
        impl Stored for $model {
            const KIND: &'static str = $kind;
            type Latest = records::$latest;
        }
    )*};
}
stored! {
    RunningRow: "running", RunningRowV1;
    records::Proposal: "proposal", ProposalV1;
}

/// [`Stored::older`]: of each older tag the form that it has, and those that followed it up to the latest.
macro_rules! older {
    ($($tag:literal: $first:ident $(=> $later:ident)*;)*) => {
        fn older(tag: u8, bytes: &[u8]) -> Result<Self, CodecError> {
            match tag {
                $($tag => {
                    let form = unpack::<records::$first>(bytes)?;
                    $(let form = records::$later::from(form);)*
                    Ok(form.into_model())
                })*
                newer => Err(CodecError::Newer(newer)),
            }
        }
    };
}

impl Stored for StudyProgress {
    const KIND: &'static str = "progress";
    type Latest = records::StudyProgressV3;
    const TAG: u8 = 3;
    older! {
        1: StudyProgressV1 => StudyProgressV2 => StudyProgressV3;
        2: StudyProgressV2 => StudyProgressV3;
    }
}

impl Stored for StageCounters {
    const KIND: &'static str = "counters";
    type Latest = records::StageCountersV4;
    const TAG: u8 = 4;
    older! {
        1: StageCountersV1 => StageCountersV2 => StageCountersV3 => StageCountersV4;
        2: StageCountersV2 => StageCountersV3 => StageCountersV4;
        3: StageCountersV3 => StageCountersV4;
    }
}

impl Stored for records::Results {
    const KIND: &'static str = "results";
    type Latest = records::ResultsV1;
    fn names(&self) -> Result<(), String> {
        self.0.iter().try_for_each(|result| names::stage(&result.stage_name))
    }
}

impl Stored for Record {
    const KIND: &'static str = "event";
    type Latest = records::RecordV1;
    fn names(&self) -> Result<(), String> {
        names::event(self)
    }
}

impl Stored for StageRow {
    const KIND: &'static str = "stage";
    type Latest = records::StageRowV5;
    const TAG: u8 = 5;
    older! {
        1: StageRowV1 => StageRowV2 => StageRowV3 => StageRowV4 => StageRowV5;
        2: StageRowV2 => StageRowV3 => StageRowV4 => StageRowV5;
        3: StageRowV3 => StageRowV4 => StageRowV5;
        4: StageRowV4 => StageRowV5;
    }
    fn names(&self) -> Result<(), String> {
        names::stage(&self.name)
    }
}

impl Stored for StudyRow {
    const KIND: &'static str = "study";
    type Latest = records::StudyRowV4;
    const TAG: u8 = 4;
    fn names(&self) -> Result<(), String> {
        names::study(&self.name, &self.base_case, [&self.study_dir, &self.artifacts_dir, &self.study_file])
    }
    older! {
        1: StudyRowV1 => StudyRowV2 => StudyRowV3 => StudyRowV4;
        2: StudyRowV2 => StudyRowV3 => StudyRowV4;
        3: StudyRowV3 => StudyRowV4;
    }
}

impl Stored for TrialRow {
    const KIND: &'static str = "trial";
    type Latest = records::TrialRowV6;
    const TAG: u8 = 6;
    older! {
        1: TrialRowV1 => TrialRowV2 => TrialRowV3 => TrialRowV4 => TrialRowV5 => TrialRowV6;
        2: TrialRowV2 => TrialRowV3 => TrialRowV4 => TrialRowV5 => TrialRowV6;
        3: TrialRowV3 => TrialRowV4 => TrialRowV5 => TrialRowV6;
        4: TrialRowV4 => TrialRowV5 => TrialRowV6;
        5: TrialRowV5 => TrialRowV6;
    }
    fn names(&self) -> Result<(), String> {
        names::outputs(&self.outputs)
    }
    fn at_key(self, key: u64) -> Self {
        Self { trial: TrialId(key), ..self }
    }
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<LIMIT_BYTES>()
}

pub(super) fn checksum(kind: &str, key: u64, bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let place = XxHash3_64::oneshot_with_seed(key, kind.as_bytes());
    let [a, b, c, d, ..] = XxHash3_64::oneshot_with_seed(place, bytes).to_le_bytes();
    [a, b, c, d]
}

/// The bytes of a value at its key.
///
/// # Errors
/// [`CodecError::Malformed`] when bincode refuses, which no model value makes it do.
pub(super) fn encode<T: Stored>(key: u64, value: &T) -> Result<Vec<u8>, CodecError> {
    let mut bytes = Vec::with_capacity(128);
    bytes.push(T::TAG);
    bincode::serde::encode_into_std_write(As::<T::Latest>(value), &mut bytes, config())
        .map_err(|error| CodecError::Malformed(error.to_string()))?;
    let sum = checksum(T::KIND, key, &bytes);
    bytes.extend_from_slice(&sum);
    Ok(bytes)
}

/// The value at a key.
///
/// # Errors
/// [`CodecError`], for bytes that are not what was written there.
pub(super) fn decode<T: Stored>(key: u64, bytes: &[u8]) -> Result<T, CodecError> {
    let (body, sum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(CodecError::Checksum)?;
    if checksum(T::KIND, key, body) != *sum {
        return Err(CodecError::Checksum);
    }
    let value = match body.split_first() {
        Some((tag, payload)) if *tag == T::TAG => unpack::<T::Latest>(payload)?.into_model().at_key(key),
        Some((tag, payload)) => T::older(*tag, payload)?.at_key(key),
        None => return Err(CodecError::Checksum),
    };
    value.names().map_err(CodecError::Name)?;
    Ok(value)
}

fn unpack<T: DeserializeOwned>(payload: &[u8]) -> Result<T, CodecError> {
    let (value, used) = bincode::serde::decode_from_slice(payload, config())
        .map_err(|error| CodecError::Malformed(error.to_string()))?;
    if used == payload.len() { Ok(value) } else { Err(CodecError::Malformed("bytes are left over".into())) }
}

/// The hash chain after one more event: `blake3(chain before || event's bytes)`.
pub(super) fn chain_after(chain: &[u8; 32], event_bytes: &[u8]) -> [u8; 32] {
    *blake3::Hasher::new().update(chain).update(event_bytes).finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ExecutorKind;
    use crate::model::{
        Abort, Accepted, AcceptedChange, AttemptEnd, AttemptOutcome, AttemptRow, Best, DirectoriesDiscarded,
        DiscardRun, Discarded, Doubt, Event, Exit, Failure, FailureKind, Given, ImportSource, Imported,
        IndexedResult, InputEntry, InputList, Kept, LaterStages, LeftCase, Metric, Metrics, Next, Origin, Parent,
        Proposing, Rail, Replicas, Reread, ResultDifference, ResultPart, ResultsTold, Reused, Rounds, RunEnd,
        RungRow, RungVerdict, Segment, StageReplanned, StageStatus, StopIfMet, StudyId, StudyStatus, Tidied,
        ToldResult, TrialImport, TrialState, Usage, Value, Verdict, Watched,
    };

    fn record() -> Record {
        Record { at_ms: 1_000, run_ms: 5, event: Event::RunEnded { how: RunEnd::Drained } }
    }

    /// The bytes of version 1 never change: tag, zigzag 1000 (251, little-endian 2000), 5, variant 10, variant 2.
    #[test]
    fn golden_bytes() {
        let bytes = encode(7, &record()).unwrap();
        assert_eq!(bytes[..bytes.len() - 4], [1, 251, 0xd0, 0x07, 5, 10, 2]);
        assert_eq!(decode::<Record>(7, &bytes).unwrap(), record());
    }

    /// The newest event: at 1000, run 5, variant 21, one list: `d`, hash `ab`, one entry: `a`, a file, 32 bytes.
    #[test]
    fn golden_bytes_of_a_list_of_inputs() {
        let entry = InputEntry { path: b"a".to_vec(), kind: b'f', content: [7; 32] };
        let list = InputList { input: "d".into(), blake3: "ab".into(), entries: vec![entry] };
        let record = Record { event: Event::InputsListed { lists: vec![list] }, ..record() };
        let bytes = encode(7, &record).unwrap();
        let mut expected = vec![1, 251, 0xd0, 0x07, 5, 21, 1, 1, b'd', 2, b'a', b'b', 1, 1, b'a', b'f'];
        expected.extend([7; 32]);
        assert_eq!(bytes[..bytes.len() - 4], expected);
        assert_eq!(decode::<Record>(7, &bytes).unwrap(), record);
    }

    /// Variant 20, how many events there were and how many were lost.
    #[test]
    fn golden_bytes_of_what_salvage_says_of_itself() {
        let record = Record { event: Event::Rebuilt { known: 300, lost: 7 }, ..record() };
        let bytes = encode(2, &record).unwrap();
        assert_eq!(bytes[..bytes.len() - 4], [1, 251, 0xd0, 0x07, 5, 20, 251, 0x2c, 0x01, 7]);
        assert_eq!(decode::<Record>(2, &bytes).unwrap(), record);
    }

    fn usage() -> Usage {
        Usage { wall_us: 7, cpu_us: 6, peak_rss_bytes: 300 }
    }

    fn metrics() -> Metrics {
        Metrics::from([("a".into(), Metric::Number(1.5)), ("b".into(), Metric::Label("x".into()))])
    }

    /// Written out by hand: bincode's variable integers (zigzag for signed ones), lengths before text and lists, 1 or 0
    /// before what may be missing, the number of a variant before it.
    #[test]
    fn golden_bytes_of_what_every_trial_writes() {
        let end = AttemptEnd {
            trial: TrialId(9),
            attempt: 1,
            ended_ms: 1_000,
            exit: Some(Exit::Code(0)),
            usage: usage(),
            verdict: Verdict::Succeeded { metrics: metrics(), outputs: Vec::new() },
            next: Next::Final,
        };
        let record = Record { at_ms: 1_002, run_ms: 5, event: Event::AttemptEnded(Box::new(end)) };
        let bytes = encode(7, &record).unwrap();
        // at 1002, run 5, variant 5, trial 9, attempt 1, ended 2 ms before, exit code 0, usage.
        let mut expected = vec![1, 251, 0xd4, 0x07, 5, 5, 9, 1, 4, 1, 0, 0, 7, 6, 251, 0x2c, 0x01];
        // Succeeded, two metrics: a = 1.5, b = "x"; no outputs; final.
        expected.extend([0, 2, 1, b'a', 0, 0, 0, 0, 0, 0, 0, 0xf8, 0x3f, 1, b'b', 1, 1, b'x', 0, 0]);
        assert_eq!(bytes[..bytes.len() - 4], expected);
        assert_eq!(decode::<Record>(7, &bytes).unwrap(), record);

        let attempt = AttemptRow {
            n: 1,
            outcome: Some(AttemptOutcome::Succeeded),
            slot: 3,
            started_ms: 1_000,
            ended_ms: Some(1_040),
            exit: Some(Exit::Signal(9)),
            usage: usage(),
            remote: None,
        };
        let row = TrialRow {
            trial: TrialId(9),
            stage: 2,
            state: TrialState::Succeeded,
            due_ms: 0,
            failures: 4,
            attempts: vec![attempt],
            metrics: metrics(),
            failure: None,
            outputs: Vec::new(),
            identity: None,
            reused_from: None,
            imported: None,
            watched: None,
            discarded: Vec::new(),
            given: Vec::new(),
        };
        let bytes = encode(9, &row).unwrap();
        // stage 2, succeeded, due 0, 4 failures, one attempt: 1, succeeded, slot 3, at 1000, for 40 ms, signal 9, usage.
        let mut expected =
            vec![6, 2, 2, 0, 4, 1, 1, 1, 0, 3, 251, 0xd0, 0x07, 1, 80, 1, 1, 18, 7, 6, 251, 0x2c, 0x01, 0];
        expected.extend([2, 1, b'a', 0, 0, 0, 0, 0, 0, 0, 0xf8, 0x3f, 1, b'b', 1, 1, b'x', 0, 0]);
        // As it was written before there were identities, and since: without one, made by itself.
        let before = sealed("trial", 9, [&[1], &expected[1..]].concat());
        assert_eq!(decode::<TrialRow>(9, &before).unwrap(), row);
        expected.extend([0, 0]);
        let before = sealed("trial", 9, [&[2], &expected[1..]].concat());
        assert_eq!(decode::<TrialRow>(9, &before).unwrap(), row);
        // Not imported.
        expected.push(0);
        let before = sealed("trial", 9, [&[3], &expected[1..]].concat());
        assert_eq!(decode::<TrialRow>(9, &before).unwrap(), row);
        // Not watched.
        expected.push(0);
        let before = sealed("trial", 9, [&[4], &expected[1..]].concat());
        assert_eq!(decode::<TrialRow>(9, &before).unwrap(), row);
        // Nothing of it discarded.
        expected.push(0);
        let before = sealed("trial", 9, [&[5], &expected[1..]].concat());
        assert_eq!(decode::<TrialRow>(9, &before).unwrap(), row);
        // Nothing given to it.
        expected.push(0);
        assert_eq!(bytes[..bytes.len() - 4], expected);
        assert_eq!(decode::<TrialRow>(9, &bytes).unwrap(), row);
        assert_eq!(decode::<TrialRow>(8, &bytes), Err(CodecError::Checksum));
    }

    fn sealed(kind: &str, key: u64, mut bytes: Vec<u8>) -> Vec<u8> {
        let sum = checksum(kind, key, &bytes);
        bytes.extend_from_slice(&sum);
        bytes
    }

    /// By hand: what a stage that is opened again says, and that rows from before read as ones of which nobody was asked.
    #[test]
    fn golden_bytes_of_what_is_mended() {
        let event = |event| Record { at_ms: 1, run_ms: 5, event };
        let parents = vec![Parent { trial: TrialId(3), attempt: 2 }];
        let more = vec![Segment { parent: 0, offset: 2, count: 1 }];
        let replanned =
            StageReplanned { stage: 1, parents: parents.clone(), shares: vec![2], more, anew: vec![(0, 300)] };
        let reopened = Event::StageReopened { stage: 1, later: LaterStages::Discard };
        for (record, expected) in [
            (event(reopened), vec![1, 2, 5, 32, 1, 2]),
            (event(Event::StagesDiscarded { from: 2 }), vec![1, 2, 5, 33, 2]),
            (
                event(Event::StageReplanned(Box::new(replanned))),
                vec![1, 2, 5, 34, 1, 1, 3, 2, 1, 2, 1, 0, 2, 1, 1, 0, 251, 0x2c, 0x01],
            ),
        ] {
            let bytes = encode(7, &record).unwrap();
            assert_eq!(bytes[..bytes.len() - 4], expected);
            assert_eq!(decode::<Record>(7, &bytes).unwrap(), record);
        }
        let stage = StageRow {
            index: 1,
            name: "b".into(),
            trial_budget: 4,
            survivor_count: 2,
            objective: None,
            status: StageStatus::Closed,
            first_trial: TrialId(9),
            parents,
            shares: vec![2],
            more: Vec::new(),
            planned: 2,
            proposing: Proposing::No,
            survivors: Vec::new(),
            approval: None,
            opened_ms: Some(1),
            closed_ms: None,
            later: LaterStages::Keep,
            tidied: Tidied::Others,
            discarding: true,
            replicas: Default::default(),
            ended_after: None,
        };
        let bytes = encode(1, &stage).unwrap();
        // As it was written before cases were repeated, and since: without rounds, nobody left.
        let expected = [3, 1, 1, b'b', 4, 2, 0, 2, 9, 1, 3, 2, 1, 2, 0, 2, 0, 0, 0, 1, 2, 0, 1, 1, 1];
        assert_eq!(bytes[..bytes.len() - 4], [&[5], &expected[1..], &[0, 0, 0]].concat());
        assert_eq!(decode::<StageRow>(1, &bytes).unwrap(), stage);
        let before = sealed("stage", 1, expected.to_vec());
        assert_eq!(decode::<StageRow>(1, &before).unwrap(), stage);
        let rounds = vec![Rounds { first_case: 0, cases: 2, first: 0, count: 300, by_case: true }];
        let left = vec![LeftCase { case: 1, round: 4, evidence: Some(1.5) }];
        let repeated = StageRow { replicas: Replicas { rounds, left }, ..stage.clone() };
        let bytes = encode(1, &repeated).unwrap();
        let mut whole = [&[5], &expected[1..], &[1, 0, 2, 0, 251, 0x2c, 0x01, 1, 1, 1, 4, 1]].concat();
        whole.extend([0, 0, 0, 0, 0, 0, 0xf8, 0x3f, 0]);
        assert_eq!(bytes[..bytes.len() - 4], whole);
        assert_eq!(decode::<StageRow>(1, &bytes).unwrap(), repeated);
        // Before a stage could end early, and since.
        let before = sealed("stage", 1, [&[4], &whole[1..whole.len() - 1]].concat());
        assert_eq!(decode::<StageRow>(1, &before).unwrap(), repeated);
        let ended = StageRow { ended_after: Some(300), ..stage.clone() };
        let bytes = encode(1, &ended).unwrap();
        assert_eq!(bytes[..bytes.len() - 4], [&[5], &expected[1..], &[0, 0, 1, 251, 0x2c, 0x01]].concat());
        assert_eq!(decode::<StageRow>(1, &bytes).unwrap(), ended);
        let bytes = encode(7, &event(Event::StageEndedEarly { stage: 1, counted: 300 })).unwrap();
        assert_eq!(bytes[..bytes.len() - 4], [1, 2, 5, 41, 1, 251, 0x2c, 0x01]);
        let planned = event(Event::RoundsPlanned { stage: 1, count: 300 });
        let bytes = encode(7, &planned).unwrap();
        assert_eq!(bytes[..bytes.len() - 4], [1, 2, 5, 40, 1, 251, 0x2c, 0x01]);
        let untouched = StageRow { tidied: Tidied::No, discarding: false, ..stage };
        let before = sealed("stage", 1, [&[2], &expected[1..expected.len() - 2]].concat());
        assert_eq!(decode::<StageRow>(1, &before).unwrap(), untouched);
        let before = sealed("stage", 1, [&[1], &expected[1..expected.len() - 3]].concat());
        let stood = StageRow { later: LaterStages::Stand, ..untouched };
        assert_eq!(decode::<StageRow>(1, &before).unwrap(), stood);
    }

    /// By hand: what reusing adds to rows and events, and that rows without it are read as before.
    #[test]
    fn golden_bytes_of_what_is_reused() {
        let origin = Origin { study: "s".into(), study_id: StudyId([7; 16]), case: "c".into(), attempt: 2 };
        let (identity, outputs) = ([5; 32], Vec::new());
        let told = [&[1, b's'][..], &[7; 16], &[1, b'c', 2]].concat();
        let event = |event| Record { at_ms: 1, run_ms: 5, event };
        let identified = event(Event::ResultIdentified { trial: TrialId(3), attempt: 1, identity });
        let reused = Reused { trial: TrialId(3), identity, origin: origin.clone(), metrics: metrics(), outputs };
        let of_metrics = [2, 1, b'a', 0, 0, 0, 0, 0, 0, 0, 0xf8, 0x3f, 1, b'b', 1, 1, b'x'];
        let missed = Event::ReuseMissed { trial: TrialId(3), origin: origin.clone(), reason: "r".into() };
        for (record, expected) in [
            (identified, [&[1, 2, 5, 22, 3, 1][..], &[5; 32]].concat()),
            (
                event(Event::TrialReused(Box::new(reused))),
                [&[1, 2, 5, 23, 3][..], &[5; 32], &told, &of_metrics, &[0]].concat(),
            ),
            (event(missed), [&[1, 2, 5, 24, 3][..], &told, &[1, b'r']].concat()),
        ] {
            let bytes = encode(7, &record).unwrap();
            assert_eq!(bytes[..bytes.len() - 4], expected);
            assert_eq!(decode::<Record>(7, &bytes).unwrap(), record);
        }
        let row = TrialRow { identity: Some(identity), reused_from: Some(origin), ..TrialRow::new(TrialId(9), 0) };
        let bytes = encode(9, &row).unwrap();
        let expected = [&[6, 0, 0, 0, 0, 0, 0, 0, 0, 1][..], &[5; 32], &[1], &told, &[0, 0, 0, 0]].concat();
        assert_eq!(bytes[..bytes.len() - 4], expected);
        let before = sealed("trial", 9, [&[2], &expected[1..expected.len() - 4]].concat());
        assert_eq!(decode::<TrialRow>(9, &before).unwrap(), row);
        assert_eq!(decode::<TrialRow>(9, &bytes).unwrap(), row);
        let counters = StageCounters { next_index: 4, succeeded: 3, reused: 2, ..StageCounters::default() };
        let bytes = encode(0, &counters).unwrap();
        assert_eq!(bytes[..bytes.len() - 4], [4, 4, 0, 3, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0]);
        let before = sealed("counters", 0, vec![2, 4, 0, 3, 0, 0, 0, 0, 0, 2]);
        assert_eq!(decode::<StageCounters>(0, &before).unwrap(), counters);
        let before = sealed("counters", 0, vec![1, 4, 0, 3, 0, 0, 0, 0, 0]);
        assert_eq!(decode::<StageCounters>(0, &before).unwrap(), StageCounters { reused: 0, ..counters });
        let mut progress = StudyProgress { last_seq: 8, ..StudyProgress::default() };
        progress.accounting.reused = 2;
        let bytes = encode(0, &progress).unwrap();
        assert_eq!(bytes[..12], [3, 8, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
        let before = sealed("progress", 0, [&[2, 8, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0][..], &[0; 32]].concat());
        assert_eq!(decode::<StudyProgress>(0, &before).unwrap(), progress);
        let before = sealed("progress", 0, [&[1, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &[0; 32]].concat());
        progress.accounting.reused = 0;
        assert_eq!(decode::<StudyProgress>(0, &before).unwrap(), progress);
        let result = IndexedResult { identity, seq: 6, stage: 1, stage_name: "a".into(), index: 2, attempt: 1 };
        let bytes = encode(1, &records::Results(vec![result])).unwrap();
        let expected = [&[1, 1][..], &[5; 32], &[6, 1, 1, b'a', 2, 1]].concat();
        assert_eq!(bytes[..bytes.len() - 4], expected);
    }

    /// By hand: what was read again.
    #[test]
    fn golden_bytes_of_what_is_read_again() {
        let event = |event| Record { at_ms: 1, run_ms: 5, event };
        let best = Some(Best { value: 1.5, trial: TrialId(2) });
        let of_metrics = [2, 1, b'a', 0, 0, 0, 0, 0, 0, 0, 0xf8, 0x3f, 1, b'b', 1, 1, b'x'];
        let verdict = Verdict::Succeeded { metrics: metrics(), outputs: Vec::new() };
        let reread = Reread { trial: TrialId(3), attempt: 1, verdict, next: Next::Final };
        for (record, expected) in [
            (
                event(Event::StageReread { stage: 1, read: 4, best }),
                [&[1, 2, 5, 26, 1, 4, 1][..], &1.5_f64.to_le_bytes(), &[2]].concat(),
            ),
            (
                event(Event::ResultReread(Box::new(reread))),
                [&[1, 2, 5, 27, 3, 1, 0][..], &of_metrics, &[0, 0]].concat(),
            ),
        ] {
            let bytes = encode(7, &record).unwrap();
            assert_eq!(bytes[..bytes.len() - 4], expected);
            assert_eq!(decode::<Record>(7, &bytes).unwrap(), record);
        }
    }

    /// By hand: what importing adds.
    #[test]
    fn golden_bytes_of_what_is_imported() {
        let source = ImportSource { file: "f".into(), blake3: [5; 32], by: "ada".into() };
        let from = [&[1, b'f'][..], &[5; 32], &[3, b'a', b'd', b'a']].concat();
        let of_metrics = [2, 1, b'a', 0, 0, 0, 0, 0, 0, 0, 0xf8, 0x3f, 1, b'b', 1, 1, b'x'];
        let trial =
            TrialImport { trial: TrialId(3), source: source.clone(), metrics: metrics(), outputs: Vec::new() };
        let told = ToldResult { values: vec![("x".into(), Value::Int(2))], metrics: metrics() };
        let told = ResultsTold { stage: 1, source: source.clone(), results: vec![told] };
        let event = |event| Record { at_ms: 1, run_ms: 5, event };
        for (record, expected) in [
            (
                event(Event::TrialImported(Box::new(trial))),
                [&[1, 2, 5, 28, 3][..], &from, &of_metrics, &[0]].concat(),
            ),
            (
                event(Event::ResultsTold(Box::new(told))),
                [&[1, 2, 5, 29, 1][..], &from, &[1, 1, 1, b'x', 1, 4], &of_metrics].concat(),
            ),
        ] {
            let bytes = encode(7, &record).unwrap();
            assert_eq!(bytes[..bytes.len() - 4], expected);
            assert_eq!(decode::<Record>(7, &bytes).unwrap(), record);
        }
        let imported = Some(Imported { source, at_ms: 4 });
        let row = TrialRow { imported, ..TrialRow::new(TrialId(9), 0) };
        let bytes = encode(9, &row).unwrap();
        let expected = [&[6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1][..], &from, &[8, 0, 0, 0]].concat();
        assert_eq!(bytes[..bytes.len() - 4], expected);
        assert_eq!(decode::<TrialRow>(9, &bytes).unwrap(), row);
        let counters = StageCounters { imported: 4, told: 5, told_from: 6, ..StageCounters::default() };
        let bytes = encode(0, &counters).unwrap();
        assert_eq!(bytes[..bytes.len() - 4], [4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 5, 6, 0, 0]);
        assert_eq!(decode::<StageCounters>(0, &bytes).unwrap(), counters);
    }

    /// By hand: what watching adds.
    #[test]
    fn golden_bytes_of_what_is_watched() {
        let (trial, attempt, value) = (TrialId(3), 2, Some(1.5));
        let event = |event| Record { at_ms: 1, run_ms: 5, event };
        let verdict = RungVerdict { keep: false, better: 4, of: 6, unknown: 1 };
        let met = StopIfMet { rule: 1, metric: "m".into(), step: 7, value: None };
        let float = 1.5_f64.to_le_bytes();
        for (record, expected) in [
            (
                event(Event::RungReached { trial, attempt, rung: 1, at: 9, step: 8, value, judged: true }),
                [&[1, 2, 5, 35, 3, 2, 1, 9, 8, 1][..], &float, &[1]].concat(),
            ),
            (event(Event::RungDecided { trial, rung: 1, verdict }), vec![1, 2, 5, 36, 3, 1, 0, 4, 6, 1]),
            (
                event(Event::StopIfMet { trial, attempt, met: met.clone() }),
                vec![1, 2, 5, 37, 3, 2, 1, 1, b'm', 7, 0],
            ),
        ] {
            let bytes = encode(7, &record).unwrap();
            assert_eq!(bytes[..bytes.len() - 4], expected);
            assert_eq!(decode::<Record>(7, &bytes).unwrap(), record);
        }
        let rung = RungRow { at: 9, step: 8, value, judged: true, verdict: Some(verdict) };
        let watched = Some(Box::new(Watched { rungs: vec![rung], stop_if: Some(met) }));
        let row = TrialRow { state: TrialState::Undecided, watched, ..TrialRow::new(TrialId(9), 0) };
        let bytes = encode(9, &row).unwrap();
        let head = [6, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        let expected = [&head[..], &[1, 9, 8, 1], &float, &[1, 1, 0, 4, 6, 1, 1, 1, 1, b'm', 7, 0, 0, 0]].concat();
        assert_eq!(bytes[..bytes.len() - 4], expected);
        assert_eq!(decode::<TrialRow>(9, &bytes).unwrap(), row);
        let counters = StageCounters { pruned: 3, undecided: 2, ..StageCounters::default() };
        let bytes = encode(0, &counters).unwrap();
        assert_eq!(bytes[..bytes.len() - 4], [4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 2]);
        let before = sealed("counters", 0, vec![3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(decode::<StageCounters>(0, &before).unwrap(), StageCounters::default());
        assert_eq!(decode::<StageCounters>(0, &bytes).unwrap(), counters);
    }

    /// By hand: what discarding adds.
    #[test]
    fn golden_bytes_of_what_is_discarded() {
        let event = |event| Record { at_ms: 1, run_ms: 5, event };
        let runs = vec![DiscardRun { first: TrialId(3), count: 300, keeps: Kept::Logs }];
        let discarded = DirectoriesDiscarded { stage: 1, tidied: Tidied::Others, runs };
        for (record, expected) in [
            (
                event(Event::DirectoriesDiscarded(Box::new(discarded))),
                vec![1, 2, 5, 38, 1, 1, 1, 3, 251, 0x2c, 0x01, 2],
            ),
            (event(Event::DiscardFinished { stage: 1, bytes: 4, inodes: 2 }), vec![1, 2, 5, 39, 1, 4, 2]),
        ] {
            let bytes = encode(7, &record).unwrap();
            assert_eq!(bytes[..bytes.len() - 4], expected);
            assert_eq!(decode::<Record>(7, &bytes).unwrap(), record);
        }
        let discarded = vec![Discarded { up_to: 2, keeps: Kept::Nothing }];
        let row = TrialRow { discarded, ..TrialRow::new(TrialId(9), 0) };
        let bytes = encode(9, &row).unwrap();
        assert_eq!(bytes[..bytes.len() - 4], [6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 0]);
        assert_eq!(decode::<TrialRow>(9, &bytes).unwrap(), row);
    }

    /// By hand: two attempts, of which the second has a card and 300 of what has no items.
    #[test]
    fn golden_bytes_of_what_is_given() {
        let card = Given { pool: "g".into(), amount: 1, items: vec!["0".into()] };
        let much = Given { pool: "m".into(), amount: 300, items: Vec::new() };
        let (given, told) = (vec![card, much], [2, 1, b'g', 1, 1, 1, b'0', 1, b'm', 251, 0x2c, 0x01, 0]);
        let event = Event::ResourcesGiven { trial: TrialId(3), attempt: 2, given: given.clone() };
        let record = Record { at_ms: 1, run_ms: 5, event };
        let bytes = encode(7, &record).unwrap();
        assert_eq!(bytes[..bytes.len() - 4], [&[1, 2, 5, 43, 3, 2][..], &told].concat());
        assert_eq!(decode::<Record>(7, &bytes).unwrap(), record);
        let row = TrialRow { given: vec![(2, given)], ..TrialRow::new(TrialId(9), 0) };
        let bytes = encode(9, &row).unwrap();
        let expected = [&[6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2][..], &told].concat();
        assert_eq!(bytes[..bytes.len() - 4], expected);
        assert_eq!(decode::<TrialRow>(9, &bytes).unwrap(), row);
    }

    #[test]
    fn times_that_make_no_sense_read_back_as_they_were() {
        for (started_ms, ended_ms) in [(i64::MIN, i64::MAX), (i64::MAX, i64::MIN), (0, -1)] {
            let attempt = AttemptRow {
                n: 1,
                outcome: None,
                slot: 0,
                started_ms,
                ended_ms: Some(ended_ms),
                exit: None,
                usage: Usage::default(),
                remote: None,
            };
            let bytes = bincode::serde::encode_to_vec(As::<records::AttemptRowV1>(&attempt), config()).unwrap();
            assert_eq!(unpack::<records::AttemptRowV1>(&bytes).unwrap().into_model(), attempt);
            let end = AttemptEnd {
                trial: TrialId::BASE,
                attempt: 1,
                ended_ms,
                exit: None,
                usage: Usage::default(),
                verdict: Verdict::Cancelled,
                next: Next::Again { due_ms: i64::MIN },
            };
            for event in [Event::AttemptEnded(Box::new(end.clone())), Event::BaseEnded(Box::new(end))] {
                let record = Record { at_ms: started_ms, run_ms: u64::MAX, event };
                let bytes = encode(1, &record).unwrap();
                assert_eq!(decode::<Record>(1, &bytes).unwrap(), record);
            }
        }
    }

    fn study() -> StudyRow {
        StudyRow {
            study_id: StudyId([7; 16]),
            name: "s".into(),
            base_case: "b".into(),
            seed: 1,
            spec: "{}".into(),
            spec_hash: "h".into(),
            inputs: Vec::new(),
            versions: Vec::new(),
            study_dir: ".".into(),
            artifacts_dir: "a".into(),
            study_file: "f".into(),
            plan_version: 2,
            stage_count: 1,
            created_ms: 5,
            status: StudyStatus::Aborted,
            abort_reason: Some("r".into()),
            violating: vec![TrialId(3)],
            abort: None,
            engine: None,
            engine_closed: true,
            runs: 1,
            workers: 4,
            sync_interval_ms: 0,
            draining: false,
            cluster_trouble: None,
            base: None,
            doubts: Vec::new(),
            accepted: Vec::new(),
        }
    }

    /// By hand, as above: id, names, seed 1, spec, hash, no inputs, no versions, directories, file, plan 2, one stage, made at 5,
    /// aborted (4) for "r" by trial 3; then what counts, which version 1 does not have; no engine, closed, 1 run, 4 workers.
    #[test]
    fn golden_bytes_of_a_study_with_and_without_what_counts() {
        let mut head = vec![7; 16];
        head.extend([1, b's', 1, b'b', 1, 2, b'{', b'}', 1, b'h', 0, 0, 1, b'.', 1, b'a', 1, b'f', 2, 1, 10]);
        head.extend([4, 1, 1, b'r', 1, 3]);
        let tail = [0, 1, 1, 4, 0, 0, 0, 0];
        let sealed = |tag: u8, middle: &[u8]| {
            // Since version 3 doubts follow, since version 4 what was accepted.
            let after: &[u8] = match tag {
                3 => &[0],
                4 => &[0, 0],
                _ => &[],
            };
            let mut bytes = [&[tag], &head[..], middle, &tail[..], after].concat();
            let sum = checksum("study", 0, &bytes);
            bytes.extend_from_slice(&sum);
            bytes
        };
        assert_eq!(decode::<StudyRow>(0, &sealed(1, &[])).unwrap(), study(), "as it was written before");
        let abort = Abort { rail: Rail::CatastrophicFailures, stage: 1, counted: 9 };
        let counted = StudyRow { abort: Some(abort), ..study() };
        assert_eq!(encode(0, &counted).unwrap(), sealed(4, &[1, 3, 1, 9]));
        assert_eq!(decode::<StudyRow>(0, &sealed(4, &[1, 3, 1, 9])).unwrap(), counted);
        assert_eq!(decode::<StudyRow>(0, &sealed(3, &[1, 3, 1, 9])).unwrap(), counted);
        assert_eq!(decode::<StudyRow>(0, &sealed(2, &[1, 3, 1, 9])).unwrap(), counted);
        assert_eq!(decode::<StudyRow>(0, &sealed(5, &[0])), Err(CodecError::Newer(5)));
        // Variant 19, the abort, its reason, its trials.
        let event = Event::StudyAbortedBy { abort, reason: "r".into(), violating: vec![TrialId(3)] };
        let bytes = encode(7, &Record { at_ms: 1, run_ms: 5, event }).unwrap();
        assert_eq!(bytes[..bytes.len() - 4], [1, 2, 5, 19, 3, 1, 9, 1, b'r', 1, 3]);
    }

    /// By hand, in the row and as an event, variant 25: stage 1, trial 3, case, attempt 1, what is shared, whose result, and one
    /// metric that was 1.0 and is no more.
    #[test]
    fn golden_bytes_of_a_doubt() {
        let differs = ResultDifference {
            part: ResultPart::Metric,
            name: "m".into(),
            earlier: Some("1.0".into()),
            now: None,
        };
        let doubt = Doubt {
            stage: 1,
            trial: TrialId(3),
            case: "b_1_3".into(),
            attempt: 1,
            shared: [5; 32],
            origin: Origin { study: "s".into(), study_id: StudyId([7; 16]), case: "c".into(), attempt: 2 },
            differs: vec![differs],
        };
        let told = [
            &[1, 3, 5][..],
            b"b_1_3",
            &[1],
            &[5; 32],
            &[1, b's'],
            &[7; 16],
            &[1, b'c', 2],
            &[1, 0, 1, b'm', 1, 3, b'1', b'.', b'0', 0],
        ]
        .concat();
        let record = Record { at_ms: 1, run_ms: 5, event: Event::ReuseDiffered(Box::new(doubt.clone())) };
        let bytes = encode(7, &record).unwrap();
        assert_eq!(bytes[..bytes.len() - 4], [&[1, 2, 5, 25][..], &told].concat());
        assert_eq!(decode::<Record>(7, &bytes).unwrap(), record);
        let row = StudyRow { doubts: vec![doubt], ..study() };
        let bytes = encode(0, &row).unwrap();
        assert!(bytes[..bytes.len() - 4].ends_with(&[&[1][..], &told, &[0]].concat()), "{bytes:?}");
        assert_eq!(decode::<StudyRow>(0, &bytes).unwrap(), row);
        // Version 3 has it at its end.
        let mut third = bytes[..bytes.len() - 5].to_vec();
        third[0] = 3;
        let sum = checksum("study", 0, &third);
        third.extend_from_slice(&sum);
        assert_eq!(decode::<StudyRow>(0, &third).unwrap(), row, "as it was written before");
    }

    /// By hand, in the row (by, note, when, one input from old to new, no tool) and as an event, variant 30.
    #[test]
    fn golden_bytes_of_accepted_inputs() {
        let change = AcceptedChange { name: "i".into(), old: "o".into(), new: "n".into() };
        let (inputs, tools) = (vec![change], Vec::new());
        let (by, note) = ("ada".to_owned(), "w".to_owned());
        let of_change = [1, 1, b'i', 1, b'o', 1, b'n', 0];
        let accepted =
            Accepted { by: by.clone(), note: note.clone(), at_ms: 5, inputs: inputs.clone(), tools: Vec::new() };
        let row = StudyRow { accepted: vec![accepted], ..study() };
        let bytes = encode(0, &row).unwrap();
        let of_row = [&[0, 1, 3, b'a', b'd', b'a', 1, b'w', 10][..], &of_change].concat();
        assert!(bytes[..bytes.len() - 4].ends_with(&of_row), "{bytes:?}");
        assert_eq!(decode::<StudyRow>(0, &bytes).unwrap(), row);
        let record = Record { at_ms: 1, run_ms: 5, event: Event::InputsAccepted { by, note, inputs, tools } };
        let bytes = encode(7, &record).unwrap();
        let told = [&[1, 2, 5, 30, 3, b'a', b'd', b'a', 1, b'w'][..], &of_change].concat();
        assert_eq!(bytes[..bytes.len() - 4], told);
        assert_eq!(decode::<Record>(7, &bytes).unwrap(), record);
    }

    #[test]
    fn golden_bytes_of_a_base_that_is_kept() {
        let record = Record { at_ms: 1, run_ms: 5, event: Event::BaseKept };
        let bytes = encode(7, &record).unwrap();
        assert_eq!(bytes[..bytes.len() - 4], [1, 2, 5, 31]);
        assert_eq!(decode::<Record>(7, &bytes).unwrap(), record);
    }

    /// By hand: what kinds are called is on disk, and nothing else of them.
    #[test]
    fn golden_bytes_of_kinds_of_failures() {
        let ended = |kind: &str| {
            let (usage, verdict) = (
                Usage::default(),
                Verdict::Failed(Failure { kind: kind.into(), ..Failure::new(FailureKind::Unknown, "r") }),
            );
            let end = AttemptEnd {
                trial: TrialId(4),
                attempt: 1,
                ended_ms: 0,
                exit: None,
                usage,
                verdict,
                next: Next::Final,
            };
            Record { at_ms: 1, run_ms: 5, event: Event::AttemptEnded(Box::new(end)) }
        };
        let failure = |name: &str| {
            [&[1, u8::try_from(name.len()).unwrap()], name.as_bytes(), &[1, 1, 1, b'r', 0, 0]].concat()
        };
        for name in FailureKind::ALL.iter().map(FailureKind::name).chain(["licence"]) {
            let bytes = encode(7, &ended(name)).unwrap();
            assert!(bytes[..bytes.len() - 4].ends_with(&failure(name)), "{name}");
            assert_eq!(decode::<Record>(7, &bytes).unwrap(), ended(name));
        }
        // What no piton wrote is cleaned where it is read.
        let mut forged = encode(7, &ended("xxxxxx")).unwrap();
        forged.truncate(forged.len() - CHECKSUM_BYTES);
        let at = forged.windows(6).position(|six| six == b"xxxxxx").unwrap();
        forged[at..at + 6].copy_from_slice(b"\x1b[2J\ny");
        let sum = checksum("event", 7, &forged);
        forged.extend_from_slice(&sum);
        assert_eq!(decode::<Record>(7, &forged).unwrap(), ended("\\u{1b}[2J\\ny"));
    }

    #[test]
    fn every_flip_and_cut_is_noticed() {
        let bytes = encode(7, &record()).unwrap();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                assert_eq!(decode::<Record>(7, &damaged), Err(CodecError::Checksum), "byte {at} bit {bit}");
            }
            assert!(decode::<Record>(7, &bytes[..at]).is_err(), "cut at {at}");
        }
        assert_eq!(decode::<Record>(8, &bytes), Err(CodecError::Checksum), "moved to another key");
        assert_eq!(decode::<StageCounters>(7, &bytes), Err(CodecError::Checksum), "read as another kind");
    }

    #[test]
    fn a_newer_version_is_told_apart_from_damage() {
        let mut body = encode(7, &record()).unwrap();
        body.truncate(body.len() - CHECKSUM_BYTES);
        body[0] = 2;
        let sum = checksum("event", 7, &body);
        body.extend_from_slice(&sum);
        assert_eq!(decode::<Record>(7, &body), Err(CodecError::Newer(2)));
    }

    #[test]
    fn trailing_bytes_and_wild_lengths_are_refused() {
        let row = RunningRow { trial: TrialId(1), attempt: 1, process: None, executor: ExecutorKind::Slurm };
        let mut body = encode(1, &row).unwrap();
        body.truncate(body.len() - CHECKSUM_BYTES);
        body.push(0);
        let sum = checksum("running", 1, &body);
        body.extend_from_slice(&sum);
        assert!(matches!(decode::<RunningRow>(1, &body), Err(CodecError::Malformed(_))));
        // A drain event whose text claims 2^40 bytes.
        let mut wild = vec![1, 0, 0, 2, 253];
        wild.extend_from_slice(&(1u64 << 40).to_le_bytes());
        let sum = checksum("event", 1, &wild);
        wild.extend_from_slice(&sum);
        assert!(matches!(decode::<Record>(1, &wild), Err(CodecError::Malformed(_))));
    }
}
