//! What engine and job write for each other, as JSON.
//!
//! Both sides are the same version of the program: the copy that the engine laid beside the artifacts. Numbers read back
//! to the same bits.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::executor::inherited::{Inherited, OutputDiffers, OutputFound, ParentDiffers};
use crate::executor::{AttemptKey, AttemptReport, Job, StageRuntime, StudyRuntime};
use crate::model::{Exit, Given, StageIndex, TrialId, UnixMs, Usage, Verdict};
use crate::study_file::watching::Showing;
use crate::study_file::{BaseSpec, Sampling, Spec, SpecValue, StageSpec};

/// What a job has to do.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Task {
    key: String,
    stage: StageIndex,
    case: String,
    parent_case: String,
    parent_dir: Option<PathBuf>,
    #[serde(default)]
    inherited: Option<Inherited>,
    params: BTreeMap<String, SpecValue>,
    seed: u32,
    #[serde(default)]
    replica: Option<u32>,
    slot: u32,
    #[serde(default)]
    given: Vec<Given>,
    dir: PathBuf,
    scratch_dir: PathBuf,
    #[serde(default)]
    opened_ms: Option<UnixMs>,
    #[serde(default)]
    last_started_ms: Option<UnixMs>,
    #[serde(default)]
    inputs_changed_ms: Option<UnixMs>,
    #[serde(default)]
    keeps_from_before_ms: Option<UnixMs>,
    study: String,
    study_dir: PathBuf,
    artifacts_dir: PathBuf,
    grace_ms: u64,
    env: Vec<(String, String)>,
    runs: Runs,
}

/// What of the spec its trial needs.
#[derive(Debug, Serialize, Deserialize)]
enum Runs {
    Base(BaseSpec),
    Stage(Box<StageSpec>),
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what} cannot be read"))
}

impl Task {
    /// `None`: the spec has no such stage.
    pub(super) fn of(job: &Job, spec: &Spec) -> Option<Self> {
        let runs = match job.key.trial {
            TrialId::BASE => Runs::Base(spec.base.clone()?),
            _ => {
                let stage = spec.stages.get(job.stage as usize)?;
                // Where its values came from is nothing to the trial, and may be large.
                Runs::Stage(Box::new(StageSpec { sampling: Sampling::Grid, sweep: Vec::new(), ..stage.clone() }))
            }
        };
        let stage = &job.stage_spec;
        Some(Self {
            key: job.key.to_string(),
            stage: job.stage,
            case: job.case.clone(),
            parent_case: job.parent_case.clone(),
            parent_dir: job.parent_dir.clone(),
            inherited: job.inherited.as_deref().cloned(),
            params: job.params.iter().map(|(name, value)| (name.clone(), SpecValue(value.clone()))).collect(),
            seed: job.seed,
            replica: job.replica,
            slot: job.slot,
            given: job.given.clone(),
            dir: job.dir.clone(),
            scratch_dir: job.scratch_dir.clone(),
            opened_ms: job.opened_ms,
            last_started_ms: job.last_started_ms,
            inputs_changed_ms: job.inputs_changed_ms,
            keeps_from_before_ms: job.keeps_from_before_ms,
            study: stage.study.clone(),
            study_dir: stage.study_dir.clone(),
            artifacts_dir: stage.artifacts_dir.clone(),
            grace_ms: u64::try_from(stage.grace.as_millis()).unwrap_or(u64::MAX),
            env: stage.env.clone(),
            runs,
        })
    }

    /// The job it was made of.
    ///
    /// # Errors
    /// If it is none.
    pub(crate) fn into_job(self) -> io::Result<Job> {
        let key = AttemptKey::parse(&self.key).ok_or_else(|| malformed("the attempt's key"))?;
        let study = StudyRuntime {
            study: self.study,
            study_dir: self.study_dir,
            artifacts_dir: self.artifacts_dir,
            grace: Duration::from_millis(self.grace_ms),
            env: self.env,
        };
        let stage_spec = match &self.runs {
            Runs::Base(base) => StageRuntime::of_base(&study, base),
            Runs::Stage(stage) => StageRuntime::new(&study, stage).map_err(io::Error::other)?,
        };
        Ok(Job {
            key,
            stage: self.stage,
            case: self.case,
            parent_case: self.parent_case,
            parent_dir: self.parent_dir,
            inherited: self.inherited.map(Arc::new),
            params: self.params.into_iter().map(|(name, value)| (name, value.0)).collect(),
            seed: self.seed,
            replica: self.replica,
            slot: self.slot,
            given: self.given,
            dir: self.dir,
            scratch_dir: self.scratch_dir,
            opened_ms: self.opened_ms,
            last_started_ms: self.last_started_ms,
            inputs_changed_ms: self.inputs_changed_ms,
            keeps_from_before_ms: self.keeps_from_before_ms,
            takes: None,
            stage_spec: Arc::new(stage_spec),
        })
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Begun {
    /// The node's name.
    pub(crate) node: String,
    /// When, by its clock.
    pub(crate) at_ms: UnixMs,
}

/// How a job ended, for its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptEnded {
    /// The trial succeeded.
    Succeeded,
    /// It failed.
    Failed,
    /// It was cut off; it will run again.
    Interrupted,
    /// The attempt is another job's, or was taken back.
    NotOurs,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    ended_ms: UnixMs,
    exit: Option<Exit>,
    #[serde(flatten)]
    usage: Usage,
    verdict: Verdict,
    /// What is wrong with the node or its disk, if that is why it did not end well.
    pub(crate) broken: Option<String>,
    /// What its parent left is not what was recorded: the outputs that differ; none: the directory is gone.
    #[serde(default)]
    differs: Option<Vec<(String, OutputFound)>>,
    /// What of its trial's reports may end trials early, where the stage is watched.
    #[serde(default, skip_serializing_if = "Showing::is_nothing")]
    shown: Showing,
}

impl Outcome {
    /// An attempt that was cut off.
    pub(crate) fn interrupted(ended_ms: UnixMs, reason: String, broken: Option<String>) -> Self {
        Self {
            ended_ms,
            exit: None,
            usage: Usage::default(),
            verdict: Verdict::Interrupted { reason },
            broken,
            differs: None,
            shown: Showing::default(),
        }
    }

    /// An attempt that did not start on what its parent left, or that does not count for it.
    pub(crate) fn refused(ended_ms: UnixMs, parent: ParentDiffers) -> Self {
        let reason = parent.to_string();
        let differs = parent.outputs.into_iter().map(|output| (output.output, output.found)).collect();
        Self { differs: Some(differs), ..Self::interrupted(ended_ms, reason, None) }
    }

    /// What it found of its parent that is not what was recorded. Only what differs is taken from what the job says.
    pub(super) fn parent_differs(&self, job: &Job) -> Option<ParentDiffers> {
        let (found, inherited) = (self.differs.as_ref()?, job.inherited.as_ref()?);
        let outputs: Vec<OutputDiffers> = inherited
            .outputs
            .iter()
            .filter_map(|output| {
                let (_, found) = found.iter().find(|(path, _)| *path == output.path)?;
                Some(OutputDiffers { output: output.path.clone(), expected: output.blake3, found: found.clone() })
            })
            .collect();
        Some(ParentDiffers {
            case: job.parent_case.clone(),
            stage: inherited.stage.clone(),
            dir: job.parent_dir.clone()?,
            outputs,
            discarded: inherited.discarded,
        })
    }

    pub(crate) fn of(report: AttemptReport) -> Self {
        let AttemptReport { ended_ms, exit, usage, verdict, shown, .. } = report;
        let verdict = match verdict {
            Verdict::Cancelled => Verdict::Interrupted { reason: "cancelled".into() },
            verdict => verdict,
        };
        Self { ended_ms, exit, usage, verdict, broken: None, differs: None, shown }
    }

    /// What it counts as.
    pub(crate) fn ended(&self) -> AttemptEnded {
        match self.verdict {
            Verdict::Succeeded { .. } => AttemptEnded::Succeeded,
            Verdict::Failed(_) => AttemptEnded::Failed,
            Verdict::Interrupted { .. } | Verdict::Cancelled => AttemptEnded::Interrupted,
        }
    }

    /// The report it was made of, of this attempt.
    pub(super) fn into_report(self, key: &AttemptKey) -> AttemptReport {
        AttemptReport {
            trial: key.trial,
            attempt: key.attempt,
            ended_ms: self.ended_ms,
            exit: self.exit,
            usage: self.usage,
            verdict: self.verdict,
            shown: self.shown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Failure, Metric, Metrics, OutputHash, Severity, StudyId};

    #[test]
    fn a_report_reads_back_as_it_was() {
        let key = AttemptKey { study: StudyId([7; 16]), trial: TrialId(3), attempt: 2 };
        let metrics = Metrics::from([
            ("a".into(), Metric::Number(0.1 + 0.2)),
            ("b".into(), Metric::Number(5e-324)),
            ("c".into(), Metric::Label("é\"".into())),
        ]);
        let outputs = vec![OutputHash { path: "o".into(), bytes: 9, blake3: [200; 32] }];
        let failure = Failure {
            kind: "k".into(),
            severity: Severity::Catastrophic,
            retryable: true,
            reason: "r".into(),
            log_excerpt: "l\n".into(),
        };
        let verdicts = [
            Verdict::Succeeded { metrics, outputs },
            Verdict::Failed(failure),
            Verdict::Interrupted { reason: "i".into() },
        ];
        for verdict in verdicts {
            let usage = Usage { wall_us: 1, cpu_us: 2, peak_rss_bytes: u64::MAX };
            let exit = Some(Exit::Signal(9));
            let shown = Showing::default();
            let report =
                AttemptReport { trial: TrialId(3), attempt: 2, ended_ms: -5, exit, usage, verdict, shown };
            let verdict = match &report.verdict {
                Verdict::Failed(_) => {
                    r#"{"Failed":{"kind":"k","severity":"Catastrophic","retryable":true,"reason":"r","log_excerpt":"l\n"}}"#.into()
                }
                Verdict::Interrupted { .. } => r#"{"Interrupted":{"reason":"i"}}"#.into(),
                _ => format!(
                    r#"{{"Succeeded":{{"metrics":{{"a":{{"Number":0.30000000000000004}},"b":{{"Number":5e-324}},"c":{{"Label":"é\""}}}},"outputs":[["o",9,[{}]]]}}}}"#,
                    ["200"; 32].join(",")
                ),
            };
            // As it has always been: a job may have been begun by an older piton.
            let expected = format!(
                r#"{{"ended_ms":-5,"exit":{{"Signal":9}},"wall_us":1,"cpu_us":2,"peak_rss_bytes":18446744073709551615,"verdict":{verdict},"broken":null,"differs":null}}"#
            );
            let text = serde_json::to_string(&Outcome::of(report.clone())).unwrap();
            assert_eq!(text, expected);
            let back: Outcome = serde_json::from_str(&text).unwrap();
            assert_eq!(back.into_report(&key), report);
            let forged = text.replace(&verdict, "\"Cancelled\"");
            assert!(
                forged != text && serde_json::from_str::<Outcome>(&forged).is_err(),
                "that only piton can say"
            );
        }
    }
}
