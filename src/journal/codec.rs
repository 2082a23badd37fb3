//! Bytes of the records: the only place that knows bincode.
//!
//! A value is one tag byte (the record's version), the bincode of that version's disk struct, and four bytes of
//! blake3 over table, key and all before them, so that neither a flipped bit nor a value moved to another key is
//! taken for the truth. Reading has a limit, wants every byte consumed, and refuses unknown tags; it must never
//! panic, whatever the bytes.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::disk::{self, Disk};
use crate::model::{Record, RunningRow, StageCounters, StageRow, StudyProgress, StudyRow, TrialRow};

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
}

/// A model type the store keeps.
pub(super) trait Stored: Sized {
    /// Its name in the checksum; never changes.
    const KIND: &'static str;
    /// Latest disk form.
    type Latest: Disk<Model = Self> + Serialize + DeserializeOwned;
    /// Tag of the latest form.
    const TAG: u8 = 1;
    /// Reads the bytes of an older tag.
    fn older(tag: u8, _bytes: &[u8]) -> Result<Self, CodecError> {
        Err(CodecError::Newer(tag))
    }
}

macro_rules! stored {
    ($($model:ty: $kind:literal, $latest:ident;)*) => {$(
        impl Stored for $model {
            const KIND: &'static str = $kind;
            type Latest = disk::$latest;
        }
    )*};
}
stored! {
    Record: "event", RecordV1;
    StudyRow: "study", StudyRowV1;
    StudyProgress: "progress", StudyProgressV1;
    StageRow: "stage", StageRowV1;
    StageCounters: "counters", StageCountersV1;
    TrialRow: "trial", TrialRowV1;
    RunningRow: "running", RunningRowV1;
    disk::Proposal: "proposal", ProposalV1;
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<LIMIT_BYTES>()
}

pub(super) fn checksum(kind: &str, key: u64, bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(kind.as_bytes()).update(&key.to_le_bytes()).update(bytes);
    let mut sum = [0; CHECKSUM_BYTES];
    sum.iter_mut().zip(hasher.finalize().as_bytes()).for_each(|(to, from)| *to = *from);
    sum
}

/// The bytes of a value at its key.
///
/// # Errors
/// [`CodecError::Malformed`] when bincode refuses, which no model value makes it do.
pub(super) fn encode<T: Stored>(key: u64, value: &T) -> Result<Vec<u8>, CodecError> {
    let mut bytes = Vec::with_capacity(128);
    bytes.push(T::TAG);
    bincode::serde::encode_into_std_write(T::Latest::of(value), &mut bytes, config())
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
    match body.split_first() {
        Some((tag, payload)) if *tag == T::TAG => Ok(unpack::<T::Latest>(payload)?.into_model()),
        Some((tag, payload)) => T::older(*tag, payload),
        None => Err(CodecError::Checksum),
    }
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
    use crate::model::{Event, RunEnd, TrialId};

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
        let row = RunningRow { trial: TrialId(1), attempt: 1, process: None };
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
