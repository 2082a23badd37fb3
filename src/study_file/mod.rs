//! The checked study: what a study file, or code, says.
//!
//! TOML text goes in, a checked [`Spec`] or every mistake with its place comes out. This module must never touch the
//! file system beyond the inputs and files of cases a spec names, and never let an unchecked value through.
//!
//! A stage's own key replaces the same key of `[defaults]` whole: a stage with a `[stage.sweep]` has that sweep, not
//! the defaults' as well.

mod cases;
mod check;
mod choices;
mod cluster;
mod diagnostics;
mod diff;
mod failure_sets;
mod inputs;
mod json;
mod keys;
mod parse;
pub(crate) mod progress;
pub(crate) mod raw;
mod replicas;
mod resources;
mod rules;
mod shell;
mod size;
mod stage;
mod template;
mod types;
mod unhashed;
mod versions;
mod walk;
pub(crate) mod watching;

#[doc(hidden)]
pub use cases::fuzz_cases;
pub(crate) use cases::{own_names, read_results};
pub(crate) use check::check;
pub use choices::Choices;
pub(crate) use cluster::{BEAT_MS, LOST_AFTER_LEAST_MS};
pub use cluster::{ExecutorSpec, RaySpec, SlurmSpec};
pub use diagnostics::{Diagnostic, Diagnostics, SpecErrors};
pub(crate) use diff::distance;
pub use diff::{Change, diff};
pub(crate) use diff::{Subject, differences, run_differences};
pub use inputs::InputError;
pub(crate) use inputs::{
    CaseFiles, Contradiction, Found, Inputs, changed_inputs, contradicted, is_case_file, lost, same_path,
};
pub use json::SpecJsonError;
pub(crate) use keys::Amend;
#[cfg(test)]
pub(crate) use keys::key_names;
pub use keys::schema;
pub(crate) use parse::idle_tables;
#[cfg(test)]
pub(crate) use parse::parse;
pub use parse::{parse_bytes, parse_study, parse_study_as};
pub use progress::ProgressSpec;
pub use replicas::{Aggregate, RaceSpec};
#[cfg(test)]
pub(crate) use resources::is_pool_name;
pub(crate) use resources::{CPUS, MEMORY};
pub use resources::{Needs, Pool, StageRun};
pub(crate) use rules::signal_number;
pub use rules::{Bound, FailureMatch, FailureRule, MetricBound, Rails, StageRails};
pub(crate) use stage::Reuse;
pub use stage::StageSpec;
pub use template::{ExpandContext, Expanded};
#[cfg(test)]
pub(crate) use types::SOBOL_PARAMS_MAX;
pub use types::{
    Backoff, BaseSpec, CaseFile, CaseList, Domain, Goal, MetricRule, Objective, Part, Proposer, Retries, RunSpec,
    Sampling, Selection, Spec, SpecValue, StudySpec, SweepParam, Template, Values, Work,
};
pub(crate) use types::{RANDOM_LOG_CASES_MAX, SOBOL_CASES_MAX};
pub use versions::{VersionError, tool_versions};
pub(crate) use versions::{changed_tools, changed_versions};
pub use watching::{HalvingSpec, StopIf, StopWhen};
