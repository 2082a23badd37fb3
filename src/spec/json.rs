//! The spec's JSON: what a store keeps and what a resume compares.
//!
//! Fields come in the order of their types, maps sorted, so equal specs have equal text. Reading checks the shape
//! alone: what was checked once is not checked again, or a stricter version could not open an old store.

use std::collections::BTreeMap;

use serde::Serialize;

use super::rules::Rails;
use super::types::{BaseSpec, Spec, SpecValue, StageSpec, StudySpec};

/// The text is no spec: damage, or a newer piton's.
#[derive(Debug, thiserror::Error)]
#[error("the stored spec cannot be read: {0}")]
pub struct SpecJsonError(#[from] serde_json::Error);

/// What a resume must match: everything but `[run]`, in the order of [`Spec`].
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
    stages: &'a [StageSpec],
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
    /// The text is no JSON of this shape.
    pub fn from_json(text: &str) -> Result<Self, SpecJsonError> {
        Ok(serde_json::from_str(text)?)
    }

    /// The part a resume must match: all but `[run]`.
    #[must_use]
    pub fn identity_json(&self) -> String {
        let Self { study, params, env, run: _, rails, base, stages, values: _ } = self;
        text_of(&Identity { study, params, env, rails, base, stages })
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
