//! piton runs *studies* that survive `kill -9` and power loss.
//!
//! A study has stages; a stage runs trials (commands, or closures) on a thread pool; the best trials' cases survive
//! and are the parents of the next stage's trials. One study is one file, and every transition is an ACID transaction
//! in it: there is no "save checkpoint" to forget, and going on means opening the file again.
//!
//! [`Study`] is the front door, with a runnable example. A study file is read by [`Study::from_file`]; one in code is
//! made by [`Study::builder`]. A [`ShutdownHandle`] stops a run from any thread, and runs callbacks when it does.
//! Whatever happened, the store tells: [`Reader`] and [`views`] look into it at any moment, also while an engine runs.
//!
//! The `piton` program is made of this library and nothing else. How it is built is told in [`architecture`].

// First: its macros `simulated!` and `planted!` are for all.
#[macro_use]
pub mod sys;

pub mod architecture;
mod builder;
mod claim;
pub mod engine;
mod error;
pub mod executor;
mod exporting;
mod fitness;
#[doc(hidden)]
pub mod fuzzing;
pub mod identity;
pub mod journal;
pub mod model;
pub mod paths;
pub mod plan;
mod salvage;
#[cfg(test)]
mod sim;
pub mod spec;
mod store;
mod study;
pub mod views;
mod way_on;

pub use builder::{Range, Stage, StudyBuilder};
pub use claim::is_of_study;
pub use engine::ShutdownHandle;
pub use error::{Error, shell_word};
pub use executor::local::closure::{IntoMetrics, TrialContext, TrialError};
pub use executor::local::keeper::Keeper;
pub use journal::{Journal, JournalError, OpenError, Reader, Salvaged, Snapshot, verify};
pub use model::{FailureKind, Metric, Metrics, Params, Value};
pub use salvage::salvage;
pub use spec::Spec;
pub use store::{Look, Retry, Store, Verified};
pub use study::{Outcome, Study};
pub use way_on::{amend_command, overrides_of, run_command};
