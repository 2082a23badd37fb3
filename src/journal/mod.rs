//! The journal: one redb file that holds every event of a study and the rows they fold to.
//!
//! Events and rows change in the same durable transaction, always; what a commit returned is on disk. The one writer
//! is [`Journal`]; everyone else reads a [`Snapshot`], which never changes a healthy file and never slows the writer.
//! This module must never guess: bytes it does not understand are reported, never skipped or reset.

mod codec;
mod compact;
mod create;
mod error;
#[doc(hidden)]
pub(crate) mod fuzz;
mod guard;
mod lock;
mod pages;
mod read;
mod records;
mod replay;
mod rows;
mod salvage;
#[cfg(test)]
mod simulated;
mod storage;
mod tables;
mod write;
mod write_set;

pub(crate) use compact::CompactError;
pub use compact::Compacted;
pub(crate) use compact::compact;
pub(crate) use create::remove_leftovers;
pub use create::{create, create_with};
pub use error::{JournalError, OpenError};
pub(crate) use lock::is_locked;
pub(crate) use lock::writers;
pub(crate) use lock::written_by;
pub use read::{Reader, Snapshot};
pub use replay::{Verification, replayed, verify};
pub use salvage::Salvaged;
pub(crate) use salvage::salvage;
pub use write::Journal;
pub(crate) use write_set::WriteSet;

#[cfg(test)]
pub(crate) use pages::Overlay;
