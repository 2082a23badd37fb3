//! piton runs *studies* that survive `kill -9` and power loss.
//!
//! A study has stages; a stage runs trials (commands, or closures) on a thread pool; the best trials' cases survive
//! and are the parents of the next stage's trials. One study is one file, and every transition is an ACID transaction
//! in it: there is no "save checkpoint" to forget, and going on means opening the file again.
//!
//! [`Study`] is the front door, with a runnable example. A study file is read by [`Study::from_file`]; one in code is
//! made by [`Study::builder`]. A [`ShutdownHandle`] stops a run from any thread, and runs callbacks when it does.
//! Whatever happened, the store has it: [`Store`], and [`Reader`] with [`views`], look into it at any moment, also while an
//! engine runs.
//!
//! The `piton` program is made of this library and nothing else. `src/architecture.md` says how it is built.

// First: its macros `simulated!` and `injected_fault!` are for all.
#[macro_use]
mod sys;

mod architecture;
mod builder;
mod claim;
mod engine;
mod error;
mod executor;
mod exporting;
#[doc(hidden)]
pub mod fuzzing;
mod inputs_now;
mod journal;
pub mod model;
mod next_command;
mod paths;
mod plan;
mod preflight;
#[doc(hidden)]
pub mod program;
mod salvage;
#[cfg(test)]
mod sim;
pub mod store;
mod study;
mod study_file;
#[cfg(test)]
mod testing;
pub mod views;

/// What a study file says, as types: for [`Study::builder`], and to read what a store was made of.
pub mod spec {
    pub use crate::study_file::{
        Aggregate, Backoff, BaseSpec, Bound, CaseFile, CaseList, Change, Diagnostic, Diagnostics, Domain,
        ExecutorSpec, FailureMatch, FailureRule, Goal, HalvingSpec, InputError, MetricBound, MetricRule, Needs,
        Objective, Part, Pool, ProgressSpec, Proposer, RaceSpec, Rails, RaySpec, Retries, RunSpec, Sampling,
        Selection, SlurmSpec, Spec, SpecErrors, SpecJsonError, SpecValue, StageRails, StageRun, StageSpec, StopIf,
        StopWhen, StudySpec, SweepParam, Template, Values, VersionError, Work,
    };
}

pub use builder::{Range, Stage, StudyBuilder};
#[doc(hidden)]
pub use claim::is_of_study;
pub use engine::resume::ResumeDecision;
pub use engine::{CommitError, Draft, EngineError, Observer, RunReport, ShutdownHandle};
pub use error::Error;
#[doc(hidden)]
pub use error::shell_word;
pub use executor::local::closure::{Heard, IntoMetrics, TrialContext, TrialError};
pub use executor::local::keeper::Keeper;
pub use executor::local::strays::KilledStray;
pub use executor::{AttemptReport, ParentDiffers};
#[doc(hidden)]
pub use journal::verify;
pub use journal::{Compacted, Journal, JournalError, OpenError, Reader, Salvaged, Snapshot, Verification};
pub use model::{FailureKind, Keep, Kept, LaterStages, Metric, Metrics, Params, StudyStatus, Value};
pub use next_command::HowToAmend;
#[doc(hidden)]
pub use next_command::overrides_of;
#[doc(hidden)]
pub use salvage::salvage;
#[doc(hidden)]
pub use store::Look;
pub use store::{
    AmendPlan, Compare, Consent, Dump, Import, ImportPlan, Logs, Replay, ReplayOptions, Retry, RetryPlan, Stop,
    Store, Unmatched, Verified,
};
pub use study::{Outcome, Study};
pub use study_file::{Choices, Spec};
pub use sys::signals::SignalEvent;
pub use views::compare::{Limits, Tolerance};
pub use views::{Survivor, ViewError};
