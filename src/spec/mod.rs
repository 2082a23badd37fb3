//! The checked study: what a study file, or code, says.
//!
//! TOML text goes in, a checked [`Spec`] or every mistake with its place comes out. This module must never touch the
//! file system beyond the study file and the inputs it names, and never let an unchecked value through.

mod types;

pub use types::{
    Backoff, Domain, Goal, MetricRule, Objective, Part, Retries, RunSpec, Sampling, Selection, Spec, SpecValue,
    StageSpec, StudySpec, SweepParam, Template, Work,
};
