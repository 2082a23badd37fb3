//! Where trials run: on this machine, or as jobs of a cluster that exists already. Part of `[run]`, and so no part of a
//! study's identity. It must never hold a secret: stores keep it, and commands show it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::ExecutorKind;

/// A job gives a sign of life this often, milliseconds.
pub(crate) const BEAT_MS: u64 = 5_000;

/// The least that a job must be silent before it counts as lost, milliseconds: three signs of life did not come.
pub(crate) const LOST_AFTER_LEAST_MS: u64 = 3 * BEAT_MS;

/// After so long without a sign of life a job that its cluster calls over counts as lost, milliseconds.
const LOST_AFTER_MS: u64 = 90_000;

/// `[run] executor`, with the table of the same name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ExecutorSpec {
    /// On this machine.
    #[default]
    Local,
    /// `[run.ray]`.
    Ray(RaySpec),
    /// `[run.slurm]`.
    Slurm(SlurmSpec),
}

impl ExecutorSpec {
    /// Which one it is.
    #[must_use]
    pub const fn kind(&self) -> ExecutorKind {
        match self {
            Self::Local => ExecutorKind::Local,
            Self::Ray(_) => ExecutorKind::Ray,
            Self::Slurm(_) => ExecutorKind::Slurm,
        }
    }

    /// Whether trials run on this machine.
    #[must_use]
    pub(crate) const fn is_local(&self) -> bool {
        matches!(self, Self::Local)
    }

    /// How long a job may be silent before it counts as lost, milliseconds; `None` on this machine.
    #[must_use]
    pub const fn lost_after_ms(&self) -> Option<u64> {
        match self {
            Self::Local => None,
            Self::Ray(ray) => Some(ray.lost_after_ms),
            Self::Slurm(slurm) => Some(slurm.lost_after_ms),
        }
    }

    /// Whether trials can go on without the engine.
    ///
    /// # Errors
    /// Why not, in words.
    pub(crate) fn can_be_left(&self) -> Result<(), &'static str> {
        match self {
            Self::Local => {
                Err("trials on this machine end with the engine: only those on a cluster can be left there")
            }
            Self::Ray(ray) if ray.address == "local" => {
                Err("the head node that piton starts ends with the engine: nothing can be left there")
            }
            Self::Ray(_) | Self::Slurm(_) => Ok(()),
        }
    }

    /// Where the nodes find piton, if not in the copy beside the artifacts.
    #[must_use]
    pub fn program(&self) -> Option<&str> {
        match self {
            Self::Local => None,
            Self::Ray(ray) => ray.program.as_deref(),
            Self::Slurm(slurm) => slurm.program.as_deref(),
        }
    }
}

/// `[run.ray]`: each trial is a job of Ray's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RaySpec {
    /// `http://host:port` of Ray's dashboard, or `local`: a head node is started for the study.
    pub address: String,
    /// The jobs' runtime environment, as a JSON object.
    pub runtime_env: String,
    /// CPUs a trial takes.
    pub num_cpus: f64,
    /// GPUs a trial takes.
    pub num_gpus: f64,
    /// Memory a trial reserves, bytes.
    pub memory_bytes: Option<u64>,
    /// Ray's custom resources a trial takes.
    pub resources: BTreeMap<String, f64>,
    /// The environment variable that holds the token.
    pub token_env: Option<String>,
    /// Lines of shell before each trial, from the study's directory: what makes its tools be there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub setup: Vec<String>,
    /// See [`ExecutorSpec::program`].
    pub program: Option<String>,
    /// See [`ExecutorSpec::lost_after_ms`].
    pub lost_after_ms: u64,
}

impl Default for RaySpec {
    fn default() -> Self {
        Self {
            address: "http://127.0.0.1:8265".into(),
            runtime_env: "{}".into(),
            num_cpus: 1.0,
            num_gpus: 0.0,
            memory_bytes: None,
            resources: BTreeMap::new(),
            token_env: None,
            setup: Vec::new(),
            program: None,
            lost_after_ms: LOST_AFTER_MS,
        }
    }
}

/// `[run.slurm]`: each trial is a job of Slurm's, or a task of an array.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SlurmSpec {
    /// `--partition`.
    pub partition: Option<String>,
    /// `--account`.
    pub account: Option<String>,
    /// `--qos`.
    pub qos: Option<String>,
    /// `--time` a trial, seconds.
    pub time_s: Option<u64>,
    /// `--cpus-per-task`.
    pub cpus: Option<u32>,
    /// `--mem` a trial, bytes.
    pub mem_bytes: Option<u64>,
    /// `--gres`.
    pub gres: Option<String>,
    /// Whether trials that are submitted together are one job array.
    pub array: bool,
    /// Nodes that are not to be used, as `--exclude` has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// `--export`: what of this environment reaches the jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub export: Option<String>,
    /// Lines of shell before each trial, from the study's directory: what makes its tools be there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub setup: Vec<String>,
    /// Further arguments of `sbatch`.
    pub extra: Vec<String>,
    /// See [`ExecutorSpec::program`].
    pub program: Option<String>,
    /// See [`ExecutorSpec::lost_after_ms`].
    pub lost_after_ms: u64,
}

impl Default for SlurmSpec {
    fn default() -> Self {
        Self {
            partition: None,
            account: None,
            qos: None,
            time_s: None,
            cpus: None,
            mem_bytes: None,
            gres: None,
            array: false,
            exclude: Vec::new(),
            export: None,
            setup: Vec::new(),
            extra: Vec::new(),
            program: None,
            lost_after_ms: LOST_AFTER_MS,
        }
    }
}
