//! What a study is compared with: another store, or a file that was written by `compare --write-baseline`,
//! `dump --canonical` or `dump --format json`.
//!
//! A baseline file (one JSON document, one trial a line):
//!
//! ```json
//! {"baseline":1,
//! "study":{"name":"","seed":0,"spec_hash":""},
//! "stages":[
//! {"index":0,"name":"","survivors":["case"]}
//! ],
//! "trials":[
//! {"case":"","stage":0,"state":"succeeded|failed","params":{},"metrics":{},"failure":null}
//! ]}
//! ```
//!
//! `failure` is the kind of a failed trial. The two dumps have these keys too, and more. Trials are read one by one and
//! never all held, in whatever order the keys come. A file is what somebody hands us: anything that is no baseline is
//! said so, and nothing in it is trusted.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::replicas::named;
use crate::journal::Snapshot;
use crate::model::json::without_bom;
use crate::model::{Metric, Metrics, Params, StageIndex, TrialState, read_measured};
use crate::plan::StageSummary;
use crate::study_file::SpecValue;
use crate::sys::files;
use crate::sys::temporary::Access;
use crate::views::dump::{MetricsOut, ParamsOut};
use crate::views::telemetry::{Named, replace};
use crate::views::{StudyView, TrialSummary, ViewError};

/// Newest baseline file this program reads, and the one it writes.
const VERSION: u32 = 1;

/// Whether a file is a store rather than a baseline file; by its first bytes.
///
/// # Errors
/// [`ViewError::File`] when it cannot be read.
pub fn is_store(path: &Path) -> Result<bool, ViewError> {
    files::is_store(path).map_err(|cause| unreadable(path, cause))
}

fn unreadable(path: &Path, cause: io::Error) -> ViewError {
    ViewError::File { what: "read", path: path.into(), cause }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct BaselineTrial {
    pub(super) case: String,
    pub(super) params: Params,
    /// By name; labels are left out.
    pub(super) metrics: BTreeMap<String, f64>,
    /// The kind of its failure, if it failed.
    pub(super) failure: Option<String>,
}

/// A baseline, of which the trials are still to be read.
#[derive(Debug)]
pub struct Baseline<'a> {
    name: String,
    stages: Vec<StageHead>,
    trials: Trials<'a>,
}

#[derive(Debug)]
enum Trials<'a> {
    Store(&'a StudyView, &'a Snapshot),
    File(PathBuf),
    /// What could be read once only.
    Text(PathBuf, Vec<u8>),
}

impl<'a> Baseline<'a> {
    /// Another study, or the same at another time.
    #[must_use]
    pub fn of_store(view: &'a StudyView, snapshot: &'a Snapshot) -> Self {
        let stages = view.summaries().map(StageHead::from).collect();
        Self { name: view.study.name.clone(), stages, trials: Trials::Store(view, snapshot) }
    }

    /// A file.
    ///
    /// # Errors
    /// [`ViewError::File`], and [`ViewError::Baseline`] for a file that is none.
    pub fn of_file(path: &Path) -> Result<Self, ViewError> {
        let trials = if path.is_file() {
            Trials::File(path.into())
        } else {
            let mut text = Vec::new();
            File::open(path)
                .and_then(|mut file| file.read_to_end(&mut text))
                .map_err(|cause| unreadable(path, cause))?;
            Trials::Text(path.into(), text)
        };
        let mut baseline = Self { name: String::new(), stages: Vec::new(), trials };
        let head = baseline.read(|from| {
            let mut from = serde_json::Deserializer::from_reader(from);
            let head = Head::deserialize(&mut from)?;
            from.end().map(|()| head)
        })?;
        let known = [head.baseline, head.canonical, head.schema].into_iter().flatten().max();
        match (known, head.study, head.stages) {
            (Some(version), _, _) if version > VERSION => {
                return Err(baseline.wrong(format!("is from a newer piton (version {version})")));
            }
            (Some(_), Some(study), Some(stages)) => {
                baseline.name = study.name;
                baseline.stages = stages;
            }
            _ => return Err(baseline.wrong("is JSON, but neither a baseline nor a dump of a study".into())),
        }
        Ok(baseline)
    }

    /// The study's name.
    #[must_use]
    pub fn study_name(&self) -> &str {
        &self.name
    }

    /// Its stages' names.
    pub(crate) fn stage_names(&self) -> impl Iterator<Item = &str> {
        self.stages.iter().map(|stage| stage.name.as_str())
    }

    /// Whoever goes on from a stage: its survivors, best first, and those that explore; none for one that it does not have.
    #[must_use]
    pub fn goes_on(&self, stage: &str) -> Vec<&String> {
        self.stage(stage).map_or_else(Vec::new, |stage| stage.survivors.iter().chain(&stage.explorers).collect())
    }

    pub(super) fn has_stage(&self, name: &str) -> bool {
        self.stage(name).is_some()
    }

    fn stage(&self, name: &str) -> Option<&StageHead> {
        self.stages.iter().find(|stage| stage.name == name)
    }

    /// Every trial of a stage that has a result, as it is read.
    pub(super) fn for_each(
        &self,
        stage: &str,
        each: &mut dyn FnMut(BaselineTrial) -> Result<(), ViewError>,
    ) -> Result<(), ViewError> {
        let Some(stage) = self.stage(stage) else { return Ok(()) };
        match &self.trials {
            Trials::Store(view, snapshot) => stored(view, snapshot, stage.index, each),
            Trials::File(_) | Trials::Text(..) => self.filed(stage.index, each),
        }
    }

    /// Whether a stage's trials are replicas of cases, by the first that has a result.
    pub(super) fn has_replicas(&self, stage: &str) -> Result<bool, ViewError> {
        let mut first = None;
        let read = self.for_each(stage, &mut |trial| {
            first = Some(named(&trial.case).1.is_some());
            Err(ViewError::Request("enough".into()))
        });
        match first {
            Some(replicated) => Ok(replicated),
            None => read.map(|()| false),
        }
    }

    fn filed(
        &self,
        stage: StageIndex,
        each: &mut dyn FnMut(BaselineTrial) -> Result<(), ViewError>,
    ) -> Result<(), ViewError> {
        let mut stopped = None;
        let mut guarded = |trial: TrialIn| {
            let trial = trial.finished().filter(|(of, _)| *of == stage).map(|(_, trial)| trial);
            let Some(trial) = trial else { return Ok(()) };
            each(trial).map_err(|error| {
                stopped = Some(error);
                "stopped"
            })
        };
        let read =
            self.read(|from| Document(&mut guarded).deserialize(&mut serde_json::Deserializer::from_reader(from)));
        match stopped {
            Some(error) => Err(error),
            None => read,
        }
    }

    fn read<T>(&self, parse: impl FnOnce(&mut dyn Read) -> serde_json::Result<T>) -> Result<T, ViewError> {
        let parsed = match &self.trials {
            Trials::File(path) => {
                let file = File::open(path).map_err(|cause| unreadable(path, cause))?;
                let mut file = BufReader::with_capacity(1 << 16, file);
                let start = file.fill_buf().map_err(|cause| unreadable(path, cause))?;
                let mark = start.len() - without_bom(start).len();
                file.consume(mark);
                parse(&mut file)
            }
            Trials::Text(_, text) => parse(&mut without_bom(text)),
            Trials::Store(..) => parse(&mut io::empty()),
        };
        parsed.map_err(|error| match error.classify() {
            serde_json::error::Category::Io => unreadable(self.path(), error.into()),
            _ => self.wrong(format!("is not a baseline: {error}")),
        })
    }

    fn path(&self) -> &Path {
        match &self.trials {
            Trials::File(path) | Trials::Text(path, _) => path,
            Trials::Store(..) => Path::new(""),
        }
    }

    pub(super) fn wrong(&self, why: String) -> ViewError {
        ViewError::Baseline { path: self.path().into(), why }
    }
}

/// The trials of a store.
fn stored(
    view: &StudyView,
    snapshot: &Snapshot,
    stage: StageIndex,
    each: &mut dyn FnMut(BaselineTrial) -> Result<(), ViewError>,
) -> Result<(), ViewError> {
    let Some(stage) = view.stage(stage) else { return Ok(()) };
    for trial in view.trials(snapshot, stage)? {
        let trial = trial?;
        if trial.has_result() {
            each(BaselineTrial::from(&trial))?;
        }
    }
    Ok(())
}

impl From<&TrialSummary<'_>> for BaselineTrial {
    fn from(trial: &TrialSummary<'_>) -> Self {
        let metrics = trial.metrics().iter();
        let failed = trial.state == TrialState::Failed;
        let kind = || trial.failure().map_or_else(String::new, |failure| failure.kind.to_string());
        Self {
            case: trial.case(),
            params: trial.params(),
            metrics: metrics.filter_map(|(name, metric)| Some((name.clone(), metric.number()?))).collect(),
            failure: failed.then(kind),
        }
    }
}

/// All of a file but its trials.
#[derive(Deserialize)]
struct Head {
    baseline: Option<u32>,
    canonical: Option<u32>,
    schema: Option<u32>,
    study: Option<StudyHead>,
    stages: Option<Vec<StageHead>>,
}

#[derive(Deserialize)]
struct StudyHead {
    name: String,
}

#[derive(Debug, Deserialize, Serialize)]
struct StageHead {
    index: StageIndex,
    name: String,
    #[serde(default)]
    survivors: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    explorers: Vec<String>,
}

impl From<StageSummary<'_>> for StageHead {
    fn from(summary: StageSummary<'_>) -> Self {
        let (index, name) = (summary.row.index, summary.row.name.clone());
        Self { index, name, survivors: summary.survivors().collect(), explorers: summary.explorers().collect() }
    }
}

/// One of a file's trials.
#[derive(Deserialize)]
struct TrialIn {
    case: String,
    stage: StageIndex,
    state: String,
    #[serde(default)]
    params: BTreeMap<String, SpecValue>,
    #[serde(default)]
    metrics: BTreeMap<String, MetricIn>,
    #[serde(default)]
    failure: Option<FailureIn>,
}

/// A kind, as a baseline and a canonical dump have it; or all of it, as a dump has it.
#[derive(Deserialize)]
#[serde(untagged)]
enum FailureIn {
    Kind(String),
    Full { kind: String },
}

/// A number; or a label, `null`, or whatever else is not compared.
struct MetricIn(Option<f64>);

impl<'de> Deserialize<'de> for MetricIn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Box::<RawValue>::deserialize(deserializer)?;
        match read_measured(value.get()) {
            Ok(number) => Ok(Self(Some(number))),
            Err(Some(lost)) => Err(serde::de::Error::custom(format!("the metric {value} {lost}"))),
            Err(None) => Ok(Self(None)),
        }
    }
}

impl TrialIn {
    /// With its stage, if it has a result.
    fn finished(self) -> Option<(StageIndex, BaselineTrial)> {
        let failure = match self.state.as_str() {
            "succeeded" => None,
            "failed" => Some(match self.failure {
                Some(FailureIn::Kind(kind) | FailureIn::Full { kind }) => kind,
                None => String::new(),
            }),
            _ => return None,
        };
        let metrics = self.metrics.into_iter().filter_map(|(name, metric)| Some((name, metric.0?)));
        let params = self.params.into_iter().map(|(name, value)| (name, value.0));
        let trial =
            BaselineTrial { case: self.case, params: params.collect(), metrics: metrics.collect(), failure };
        Some((self.stage, trial))
    }
}

type Each<'a> = dyn FnMut(TrialIn) -> Result<(), &'static str> + 'a;

/// A whole file, of which only the trials matter now.
struct Document<'a, 'b>(&'a mut Each<'b>);

impl<'de> DeserializeSeed<'de> for Document<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Document<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a baseline")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "trials" => map.next_value_seed(List(self.0))?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// The list of trials.
struct List<'a, 'b>(&'a mut Each<'b>);

impl<'de> DeserializeSeed<'de> for List<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for List<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of trials")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(trial) = list.next_element()? {
            (self.0)(trial).map_err(serde::de::Error::custom)?;
        }
        Ok(())
    }
}

/// A trial as a baseline file has it.
#[derive(Serialize)]
struct TrialOut<'a> {
    case: String,
    stage: StageIndex,
    state: &'static str,
    params: ParamsOut,
    metrics: MetricsOut<'a>,
    failure: Option<&'a str>,
}

#[derive(Serialize)]
struct StudyOut<'a> {
    name: &'a str,
    seed: u64,
    spec_hash: &'a str,
}

/// Writes a baseline: the trials that have a result, of one stage or of all, with the metrics that `includes` says.
/// How many trials.
///
/// # Errors
/// [`ViewError::Journal`], [`ViewError::Output`].
pub fn write_baseline(
    view: &StudyView,
    snapshot: &Snapshot,
    stage: Option<StageIndex>,
    includes: &dyn Fn(&str) -> bool,
    out: &mut dyn Write,
) -> Result<u64, ViewError> {
    let (study, mut written) = (&view.study, 0);
    write!(out, "{{\"baseline\":{VERSION},\n\"study\":")?;
    serde_json::to_writer(
        &mut *out,
        &StudyOut { name: &study.name, seed: study.seed, spec_hash: &study.spec_hash },
    )?;
    let chosen = || view.stages.iter().filter(|row| stage.is_none_or(|stage| stage == row.index));
    out.write_all(b",\n\"stages\":[")?;
    for (place, row) in chosen().enumerate() {
        out.write_all(if place == 0 { b"\n" } else { b",\n" })?;
        serde_json::to_writer(&mut *out, &StageHead::from(view.summary(row)))?;
    }
    out.write_all(b"\n],\n\"trials\":[")?;
    for row in chosen() {
        for trial in view.trials(snapshot, row)? {
            let trial = trial?;
            if !trial.has_result() {
                continue;
            }
            out.write_all(if written == 0 { b"\n" } else { b",\n" })?;
            let metrics = trial.metrics().iter().filter(|(name, _)| includes(name));
            let metrics = metrics.map(|(name, metric)| (name.clone(), metric.clone())).collect();
            let trial = TrialOut {
                case: trial.case(),
                stage: trial.stage.index,
                state: trial.state.name(),
                params: ParamsOut(trial.params()),
                metrics: MetricsOut(&metrics),
                failure: trial.failure().map(|failure| failure.kind.name()),
            };
            serde_json::to_writer(&mut *out, &trial)?;
            written += 1;
        }
    }
    out.write_all(b"\n]}\n")?;
    Ok(written)
}

/// Replaces a file by a baseline, atomically; see [`write_baseline`].
///
/// # Errors
/// [`ViewError::Request`] when there is no result to write or the file is a store, [`ViewError::File`],
/// [`ViewError::Journal`]. The file is then as it was.
pub fn save_baseline(
    view: &StudyView,
    snapshot: &Snapshot,
    stage: Option<StageIndex>,
    includes: &dyn Fn(&str) -> bool,
    path: &Path,
) -> Result<u64, ViewError> {
    if is_store(path)? {
        let shown = path.display();
        return Err(ViewError::Request(format!("`{shown}` is a store: a baseline must not replace it")));
    }
    let chosen = view.stages.iter().filter(|row| stage.is_none_or(|stage| stage == row.index));
    if chosen.map(|row| view.summary(row).trials.finished()).sum::<u64>() == 0 {
        return Err(ViewError::Request(
            "no trial has a result yet: there is nothing to make a baseline of".into(),
        ));
    }
    let mut written = 0;
    replace(path, Named::ByPerson(view, snapshot), Access::Usual, |out| {
        written = write_baseline(view, snapshot, stage, includes, out)?;
        Ok(())
    })?;
    Ok(written)
}

/// Every metric of a baseline's stage that is a number.
pub(super) fn metric_names(
    baseline: &Baseline<'_>,
    stage: &str,
    names: &mut BTreeSet<String>,
) -> Result<(), ViewError> {
    baseline.for_each(stage, &mut |trial| {
        names.extend(trial.metrics.into_keys());
        Ok(())
    })
}

/// The numbers among a trial's metrics.
pub(super) fn numbers(metrics: &Metrics) -> BTreeMap<&str, f64> {
    let finite = |metric: &Metric| metric.number().filter(|number| number.is_finite());
    metrics.iter().filter_map(|(name, metric)| Some((name.as_str(), finite(metric)?))).collect()
}
