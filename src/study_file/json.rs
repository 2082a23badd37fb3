//! The spec's JSON: what a store keeps and what a resume compares.
//!
//! Fields come in the order of their types, maps sorted, so equal specs have equal text. Reading checks the shape, and
//! the names that become parts of paths, since a store may be forged. All else was checked once and is not checked again,
//! or a stricter version could not open an old store.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Serialize;

use super::rules::Rails;
use super::stage::StageSpec;
use super::types::{BaseSpec, Spec, SpecValue, StudySpec};
use crate::model::names::{file_name, inner_path, said};

/// The text is no spec: damage, a newer piton's, or forged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpecJsonError {
    /// It has another shape.
    #[error("the stored spec cannot be read: {0}")]
    Shape(#[from] serde_json::Error),
    /// A name in it is none that a study file could have.
    #[error("the stored spec is damaged: {0}, which no study has")]
    Name(String),
}

/// What a resume must match: everything but how it is run here, in the order of [`Spec`].
#[derive(Serialize)]
struct Identity<'a> {
    study: &'a StudySpec,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    params: &'a BTreeMap<String, SpecValue>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    env: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "rails_are_none")]
    rails: &'a Rails,
    #[serde(skip_serializing_if = "Option::is_none")]
    base: &'a Option<BaseSpec>,
    stages: Vec<Cow<'a, StageSpec>>,
}

fn rails_are_none(rails: &&Rails) -> bool {
    rails.is_none()
}

impl Spec {
    /// The whole spec in its canonical text.
    #[must_use]
    pub fn to_json(&self) -> String {
        text_of(self)
    }

    /// Reads [`Spec::to_json`]'s text back, exactly.
    ///
    /// # Errors
    /// The text is no JSON of this shape, or has names that lead elsewhere.
    pub fn from_json(text: &str) -> Result<Self, SpecJsonError> {
        let spec: Self = serde_json::from_str(text)?;
        spec.check_names().map_err(SpecJsonError::Name)?;
        Ok(spec)
    }

    /// Checks the names that become parts of paths.
    fn check_names(&self) -> Result<(), String> {
        let Self { study, stages, .. } = self;
        said("study name", &study.name, file_name(&study.name))?;
        said("base case", &study.base_case, file_name(&study.base_case))?;
        for stage in stages {
            said("stage name", &stage.name, file_name(&stage.name))?;
            stage.outputs.iter().try_for_each(|output| said("output", output, inner_path(output)))?;
            let mut files = stage.metrics.values().map(|rule| &rule.file);
            files.try_for_each(|file| said("metric file", file, inner_path(file)))?;
        }
        Ok(())
    }

    /// The part a resume must match: all but `[run]`, and what stages say of the same kind ([`StageRun`](super::StageRun)).
    #[must_use]
    pub fn identity_json(&self) -> String {
        text_of(&self.identity())
    }

    /// The same as a tree, with the keys of every table sorted.
    pub(crate) fn identity_tree(&self) -> serde_json::Result<serde_json::Value> {
        serde_json::to_value(self.identity())
    }

    fn identity(&self) -> Identity<'_> {
        let Self { study, params, env, run: _, rails, base, stages, values: _ } = self;
        let stages = stages.iter().map(StageSpec::identity).collect();
        Identity { study, params, env, rails, base, stages }
    }

    /// blake3 of [`Spec::identity_json`], in hex.
    #[must_use]
    pub fn spec_hash(&self) -> String {
        blake3::hash(self.identity_json().as_bytes()).to_hex().to_string()
    }
}

fn text_of(value: &impl Serialize) -> String {
    // Writing to memory cannot fail, and every map's keys are strings.
    serde_json::to_string(value).unwrap_or_default()
}
