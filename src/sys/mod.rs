//! The operating system, as far as piton needs it: clocks, processes, signals, durable files.
//!
//! Small wrappers that say what Linux does and hide how. Nothing here knows of studies, and nothing here may decide
//! what a failure means: errors go up as they are. Of the crate it imports only the vocabulary (`ProcessId`).

pub mod clock;
pub mod files;
pub mod process;
pub mod reserve;
pub mod signals;
pub mod tree_hash;
pub mod words;
