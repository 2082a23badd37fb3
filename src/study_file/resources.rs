//! How the trials of a stage are run here: how many at once.
//!
//! Nothing of it is part of the study, no more than `[run]` is: it may change at any time, and no result may ever hang on it. So it must never
//! become part of an identity.

use serde::{Deserialize, Serialize};

/// The keys of `[[stage]]` that say how its trials are run here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StageRun {
    /// Trials of the stage at once, at least 1; `None`: as many as there are workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<u32>,
}

impl StageRun {
    /// Whether nothing is said of it.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}
