//! What the kernel says of a file, by which one that was left alone is told from one that was written.
//!
//! A write within one tick of a file system's clock leaves no trace here: nobody may trust a stamp that has not settled.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::model::UnixMs;

/// A file is trusted to be as it was read only if it had been left alone for so long before: within one tick of a file
/// system's clock, a second write leaves no trace in its times. Milliseconds.
pub(crate) const SETTLED_AFTER_MS: UnixMs = 10_000;

/// What the kernel says of a file; every write changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    dev: u64,
    ino: u64,
    bytes: u64,
    modified: (i64, i64),
    /// No program can set this one.
    changed: (i64, i64),
}

impl Stamp {
    pub(crate) fn of(meta: &fs::Metadata) -> Self {
        Self {
            dev: meta.dev(),
            ino: meta.ino(),
            bytes: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    pub(crate) fn changed_ms(&self) -> UnixMs {
        in_ms(self.changed)
    }

    pub(crate) fn modified_ms(&self) -> UnixMs {
        in_ms(self.modified)
    }
}

fn in_ms((seconds, nanoseconds): (i64, i64)) -> UnixMs {
    seconds.saturating_mul(1_000).saturating_add(nanoseconds / 1_000_000)
}
