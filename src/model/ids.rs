//! Identifiers and units. Newtypes where two numbers could be confused, aliases where the name says the unit.

use std::fmt;

/// Sequence number of an event: gap-free from 1. Order in a study comes from this, never from a timestamp.
pub type Seq = u64;

/// Milliseconds since the Unix epoch, UTC.
pub type UnixMs = i64;

/// Microseconds of duration.
pub type Micros = u64;

/// Number of an attempt of one trial, from 1.
pub type AttemptNo = u32;

/// Position of a stage in its study, from 0.
pub type StageIndex = u32;

/// A trial's number within its study, from 0, in the order stages opened and cases were derived.
///
/// The trials of one stage are contiguous: `stage.first_trial + derived_index`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrialId(pub u64);

impl TrialId {
    /// The base command's number: no trial, but an attempt like theirs.
    pub const BASE: Self = Self(u64::MAX - 1);
    /// A stage's proposer, which is no trial either; it only names its processes.
    pub const PROPOSER: Self = Self(u64::MAX - 2);
    /// A cluster node that a study starts for itself; likewise never in the journal.
    pub const CLUSTER: Self = Self(u64::MAX - 3);
}

impl fmt::Display for TrialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A study's random identity, made once at creation; remote jobs and stray processes are recognised by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StudyId(pub [u8; 16]);

impl fmt::Display for StudyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Place in the ready queue: the time a trial may run again (`0`: at once), then its number.
pub type ReadyKey = (UnixMs, TrialId);
