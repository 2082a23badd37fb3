//! The operating system, as far as piton needs it: clocks, processes, signals, durable files.
//!
//! Small wrappers that say what Linux does and hide how. Nothing here knows of studies, and nothing here may decide
//! what a failure means: errors go up as they are. Of the crate it imports only the vocabulary (`ProcessId`).

/// Hands a call over to the machine that this thread simulates; compiled for the library's own tests alone.
macro_rules! simulated {
    (|$machine:ident| $answer:expr) => {
        #[cfg(test)]
        if let Some($machine) = crate::sys::simulated::machine() {
            return $answer;
        }
    };
}
/// Whether a test left this safety measure out; `false` in a program.
macro_rules! injected_fault {
    ($fault:ident) => {{
        #[cfg(test)]
        {
            crate::sys::fault_injection::is(crate::sys::fault_injection::Fault::$fault)
        }
        #[cfg(not(test))]
        {
            false
        }
    }};
}

pub(crate) mod append;
pub mod clock;
pub(crate) mod copied;
pub(crate) mod disk;
#[cfg(test)]
pub(crate) mod fault_injection;
pub mod files;
mod grant_read;
pub(crate) mod hash_cache;
pub(crate) mod helper;
mod links;
pub(crate) mod machine;
pub mod opened;
pub mod orphans;
pub(crate) mod parallel;
pub(crate) mod process;
pub(crate) mod removal;
pub(crate) mod reserve;
pub mod signals;
#[cfg(test)]
pub(crate) mod simulated;
pub(crate) mod stamp;
pub(crate) mod temporary;
pub(crate) mod tree_hash;
#[cfg_attr(not(feature = "cluster"), expect(dead_code, reason = "only clusters need all of it"))]
pub(crate) mod waiting;
pub mod words;
