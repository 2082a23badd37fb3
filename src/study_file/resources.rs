//! What trials share, and how the trials of a stage are run here: how many at once, and what each needs.
//!
//! Nothing of it is part of the study, no more than `[run]` is: it may change at any time, and no result may ever hang on it. So it must never
//! become part of an identity.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::template::{BUILTIN_PLACEHOLDERS, REPLICA};
use super::types::Spec;
use crate::model::words::bytes;
use crate::model::{Given, StageIndex};
use crate::sys::machine::Machine;

/// The pool of processors, which is always there.
pub(crate) const CPUS: &str = "cpus";
/// The pool of memory, in bytes, which is always there.
pub(crate) const MEMORY: &str = "memory";

/// One pool of `[resources]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pool {
    /// Things with names, of which a trial is told which it has; never empty, none twice.
    Items(Vec<String>),
    /// So many of what is all alike, at least 1.
    Count(u64),
}

impl Pool {
    /// How much there is.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self {
            Self::Items(items) => items.len() as u64,
            Self::Count(count) => *count,
        }
    }
}

/// How much of each pool a trial needs, each at least 1.
pub type Needs = BTreeMap<String, u64>;

/// The keys of `[[stage]]` that say how its trials are run here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StageRun {
    /// Trials of the stage at once, at least 1; `None`: as many as there are workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<u32>,
    /// What each of them needs while it runs.
    #[serde(default, skip_serializing_if = "Needs::is_empty")]
    pub needs: Needs,
}

impl StageRun {
    /// Whether nothing is said of it.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// Variables of piton's own, without `PITON_` and in small letters, besides the placeholders: no pool is called so.
const VARIABLES: [&str; 13] = [
    "study",
    "stage",
    "stage_index",
    "trial",
    "parent_case",
    "params_file",
    "metrics_file",
    "progress_file",
    "scratch_dir",
    "attempt_key",
    "log",
    "serve_token",
    "cgroup",
];

/// What [`is_pool_name`] asks for, as a regular expression.
pub(super) const POOL_PATTERN: &str = "^[a-z][a-z0-9_]*$";

/// Whether a pool can be called so: small letters, since `PITON_` and its capitals is a variable.
pub(crate) fn is_pool_name(name: &str) -> bool {
    let word = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    let taken = name == REPLICA || BUILTIN_PLACEHOLDERS.contains(&name) || VARIABLES.contains(&name);
    word && name.starts_with(|first: char| first.is_ascii_lowercase()) && !taken
}

/// An amount of a pool, in words.
fn amount_words(pool: &str, amount: u64) -> String {
    if pool == MEMORY { bytes(amount) } else { amount.to_string() }
}

impl Spec {
    /// What there is for its trials to share. Processors and memory are this machine's, unless it says otherwise, or its trials run elsewhere:
    /// what nothing is said of there has no bound.
    #[must_use]
    pub(crate) fn shared(&self) -> BTreeMap<String, Pool> {
        let mut there = self.run.resources.clone();
        if self.run.executor.is_local() {
            let Machine { cpus, memory } = Machine::here();
            there.entry(CPUS.to_owned()).or_insert(Pool::Count(cpus));
            if let Some(bytes) = memory {
                there.entry(MEMORY.to_owned()).or_insert(Pool::Count(bytes));
            }
        }
        there
    }

    /// What a trial needs that there never is, in words.
    #[must_use]
    pub(crate) fn beyond(&self, there: &BTreeMap<String, Pool>) -> Option<String> {
        self.stages.iter().find_map(|stage| {
            let short = |(pool, need): (&String, &u64)| {
                let has = there.get(pool)?.size();
                (*need > has).then(|| {
                    let (need, has) = (amount_words(pool, *need), amount_words(pool, has));
                    let name = &stage.name;
                    format!(
                        "a trial of stage `{name}` needs {need} of `{pool}`, and there is {has}: it would wait for ever; lower its `needs`, or say \
                         in `[resources]` that there is more"
                    )
                })
            };
            stage.run.needs.iter().find_map(short)
        })
    }

    /// What a trial of a stage has where nothing else runs, to show it by: of items the first ones.
    #[must_use]
    pub fn first_given(&self, stage: StageIndex) -> Vec<Given> {
        let Some(stage) = self.stages.get(stage as usize) else { return Vec::new() };
        let given = |(pool, amount): (&String, &u64)| {
            let items = match self.run.resources.get(pool) {
                Some(Pool::Items(items)) => items.iter().zip(0..*amount).map(|(item, _)| item.clone()).collect(),
                Some(Pool::Count(_)) | None => Vec::new(),
            };
            Given { pool: pool.clone(), amount: *amount, items }
        };
        stage.run.needs.iter().map(given).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_have_names_of_their_own() {
        for good in ["gpu", "cpus", "memory", "vcs_licence", "a1"] {
            assert!(is_pool_name(good), "{good}");
        }
        for bad in ["", "GPU", "1a", "_a", "a-b", "slot", "case", "replica", "attempt_key", "stage_index", "é"] {
            assert!(!is_pool_name(bad), "{bad}");
        }
    }
}
