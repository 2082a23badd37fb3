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
macro_rules! planted {
    ($fault:ident) => {{
        #[cfg(test)]
        {
            crate::sys::planted::is(crate::sys::planted::Fault::$fault)
        }
        #[cfg(not(test))]
        {
            false
        }
    }};
}

pub mod clock;
pub mod disk;
pub mod files;
mod let_in;
pub mod limited;
mod links;
pub mod opened;
pub mod orphans;
pub mod parallel;
#[cfg(test)]
pub mod planted;
pub mod process;
pub mod remembered;
pub mod reserve;
pub mod signals;
#[cfg(test)]
pub mod simulated;
pub mod temporary;
pub mod tree_hash;
pub mod waiting;
pub mod words;
