//! What fuzzing reaches of the codec. No part of the interface.

#![expect(clippy::panic, reason = "a panic is what the fuzzer looks for")]

use super::codec::{CodecError, Stored, checksum, decode, encode};
use super::records::Results;
use crate::model::{Record, RunningRow, StageCounters, StageRow, StudyProgress, StudyRow, TrialRow};

/// Reads bytes as a record of a kind: with the checksum they have, and with one that fits. What can be read is written
/// and read again the same.
pub fn record(kind: u8, key: u64, bytes: &[u8]) {
    match kind % 8 {
        0 => both::<Record>(key, bytes),
        1 => both::<StudyRow>(key, bytes),
        2 => both::<StudyProgress>(key, bytes),
        3 => both::<StageRow>(key, bytes),
        4 => both::<StageCounters>(key, bytes),
        5 => both::<TrialRow>(key, bytes),
        6 => both::<Results>(key, bytes),
        _ => both::<RunningRow>(key, bytes),
    }
}

fn both<T: Stored>(key: u64, bytes: &[u8]) {
    stable::<T>(key, bytes);
    let mut sealed = vec![T::TAG];
    sealed.extend_from_slice(bytes);
    sealed.extend_from_slice(&checksum(T::KIND, key, &sealed));
    stable::<T>(key, &sealed);
    // At another key it is nothing.
    let elsewhere = decode::<T>(key.wrapping_add(1), &sealed).err();
    assert_eq!(elsewhere, Some(CodecError::Checksum));
}

/// Numbers may have several encodings, and NaN equals nothing: so what is compared is what is written.
fn stable<T: Stored>(key: u64, bytes: &[u8]) {
    let Ok(value) = decode::<T>(key, bytes) else { return };
    let written = encode(key, &value).unwrap_or_else(|error| panic!("read, but not to be written: {error}"));
    let again = decode::<T>(key, &written).unwrap_or_else(|error| panic!("written, but not to be read: {error}"));
    assert!(encode(key, &again).as_ref() == Ok(&written), "what was read is written as something else");
}
