//! `best`: the winner of a study, for the next program: its params, metrics, rank and directory.
//!
//! Which trial that is says the same ranking that chooses survivors. Whoever reads this runs commands with it: nothing that a trial or
//! a store says may name a variable of a shell or end a word of one.

use std::io::Write;
use std::path::PathBuf;

use serde::Serialize;

use super::dump::{MetricsOut, ParamsOut};
use super::text::{Screen, clean, counted, number};
use super::why::{Rank, leader, rank_of};
use super::{StudyView, TrialSummary, ViewError, shell_quoted};
use crate::journal::Snapshot;
use crate::model::{Kept, Metric, Metrics, Params, StageRow, StageStatus, TrialState};
use crate::study_file::Goal;

/// The winner of a study, or of one of its stages; see [`Store::best`](crate::Store::best).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Best {
    /// The study's name.
    pub study: String,
    /// Its stage's name.
    pub stage: String,
    /// Its stage's position.
    pub stage_index: u32,
    /// `<base_case>_<stage_index>_<derived_index>`.
    pub case: String,
    /// Whether it has survived its stage; before that closes nobody has.
    pub survivor: bool,
    /// Whether no trial still to come can change who survives.
    pub decided: bool,
    /// Its place among the succeeded trials of its stage.
    pub rank: Option<Rank>,
    /// All its params: the study's, those of its forebears, its own.
    pub params: Params,
    /// The metrics of the attempt that counts.
    pub metrics: Metrics,
    /// The directory of that attempt, if it is there.
    pub dir: Option<PathBuf>,
    /// What is kept of it.
    pub kept: Kept,
}

/// The shape of `best --json`.
#[derive(Serialize)]
struct BestOut<'a> {
    schema: u32,
    study: &'a str,
    stage: &'a str,
    stage_index: u32,
    case: &'a str,
    survivor: bool,
    decided: bool,
    /// From 1; `null` where that is not worked out.
    rank: Option<u64>,
    /// Among so many.
    of: Option<u64>,
    objectives: Vec<ObjectiveOut<'a>>,
    params: ParamsOut,
    metrics: MetricsOut<'a>,
    dir: Option<String>,
    /// What is kept of it, if something was discarded.
    #[serde(skip_serializing_if = "Kept::is_all")]
    kept: Kept,
}

#[derive(Serialize)]
struct ObjectiveOut<'a> {
    metric: &'a str,
    goal: Goal,
    value: f64,
}

/// What the variables of [`Best::write_env`] begin with.
const PREFIX: &str = "PITON_BEST_";

impl Best {
    /// The winner of the named stage; without a name, of the last one that closed, and before any has of the one that runs.
    ///
    /// # Errors
    /// [`ViewError::Request`] when there is no such stage or nothing has succeeded in it, [`ViewError::Journal`].
    pub(crate) fn load(view: &StudyView, snapshot: &Snapshot, stage: Option<&str>) -> Result<Self, ViewError> {
        let stage = chosen(view, stage)?;
        let nothing = || match stage.status {
            StageStatus::Waiting => ViewError::Request(format!("stage `{}` has not begun yet", stage.name)),
            _ => ViewError::Request(format!(
                "no trial of stage `{}` has succeeded with every objective",
                stage.name
            )),
        };
        let trial = leader(view, snapshot, stage)?.ok_or_else(nothing)?;
        let rank = rank_of(view, snapshot, stage, trial)?;
        let trial = view.trial(snapshot, trial)?.filter(|trial| trial.counted_state() == TrialState::Succeeded);
        Ok(Self::of(view, trial.ok_or_else(nothing)?, rank))
    }

    fn of(view: &StudyView, trial: TrialSummary<'_>, rank: Option<Rank>) -> Self {
        let (case, stage) = (trial.case(), trial.stage);
        let place = view.attempt_place(stage, &case, trial.accepted());
        Self {
            study: view.study.name.clone(),
            stage: stage.name.clone(),
            stage_index: stage.index,
            survivor: trial.survived(),
            decided: rank.as_ref().is_some_and(|rank| rank.decided),
            rank,
            params: trial.params(),
            kept: trial.kept_of(trial.accepted()),
            dir: place.open().is_ok().then(|| place.path()),
            metrics: trial.row.map_or_else(Metrics::new, |row| row.metrics),
            case,
        }
    }

    /// Writes it for people.
    ///
    /// # Errors
    /// [`ViewError::Output`].
    pub fn write_text(&self, screen: Screen, out: &mut dyn Write) -> Result<(), ViewError> {
        let place = match self.rank.as_ref().and_then(|rank| Some((rank.rank?, rank.of))) {
            Some((rank, of)) => format!(", ranked {rank} of {of}"),
            None => String::new(),
        };
        let stands = match (self.survivor, self.decided) {
            (true, _) => "survived",
            (false, true) => "the best of",
            (false, false) => "the best so far of",
        };
        let case = clean(&self.case);
        let words = format!("{case}: {stands} stage {} `{}`{place}", self.stage_index, clean(&self.stage));
        writeln!(out, "{}", screen.line(&words))?;
        // Whole, however long: people copy them.
        for objective in self.rank.iter().flat_map(|rank| &rank.objectives) {
            let goal = objective.goal;
            writeln!(out, "  {} = {} ({goal})", clean(&objective.metric), number(objective.value))?;
        }
        for (name, metric) in self.metrics.iter().filter(|(name, _)| !self.is_objective(name)) {
            writeln!(out, "  {} = {}", clean(name), clean(&metric_text(metric)))?;
        }
        writeln!(out, "{}", counted(self.params.len() as u64, "param"))?;
        for (name, value) in &self.params {
            writeln!(out, "  {} = {}", clean(name), clean(&value.to_string()))?;
        }
        match &self.dir {
            Some(dir) => {
                let less =
                    if self.kept.is_all() { String::new() } else { format!(" (discarded but for {})", self.kept) };
                writeln!(out, "directory  {}{less}", clean(&dir.display().to_string()))?;
            }
            None if !self.kept.is_all() => writeln!(out, "directory  was discarded")?,
            None => writeln!(out, "directory  is not there")?,
        }
        Ok(())
    }

    fn is_objective(&self, name: &str) -> bool {
        self.rank.iter().flat_map(|rank| &rank.objectives).any(|objective| objective.metric == name)
    }

    /// Writes it as one JSON value.
    ///
    /// # Errors
    /// [`ViewError::Output`].
    pub fn write_json(&self, out: &mut dyn Write) -> Result<(), ViewError> {
        let objectives = self.rank.iter().flat_map(|rank| &rank.objectives);
        let best = BestOut {
            schema: 1,
            study: &self.study,
            stage: &self.stage,
            stage_index: self.stage_index,
            case: &self.case,
            survivor: self.survivor,
            decided: self.decided,
            rank: self.rank.as_ref().and_then(|rank| rank.rank),
            of: self.rank.as_ref().map(|rank| rank.of),
            objectives: objectives
                .map(|compared| ObjectiveOut {
                    metric: &compared.metric,
                    goal: compared.goal,
                    value: compared.value,
                })
                .collect(),
            params: ParamsOut(self.params.clone()),
            metrics: MetricsOut(&self.metrics),
            dir: self.dir.as_ref().map(|dir| dir.display().to_string()),
            kept: self.kept,
        };
        serde_json::to_writer_pretty(&mut *out, &best)?;
        Ok(out.write_all(b"\n")?)
    }

    /// Writes it as assignments for a shell, one a line: `PITON_BEST_CASE`, `PITON_BEST_STAGE`, `PITON_BEST_DIR`, and of each param and metric
    /// `PITON_BEST_PARAM_<name>` and `PITON_BEST_METRIC_<name>`. A metric whose name no variable can have is left out.
    ///
    /// # Errors
    /// [`ViewError::Output`].
    pub fn write_env(&self, out: &mut dyn Write) -> Result<(), ViewError> {
        let dir = self.dir.as_ref().map_or_else(String::new, |dir| dir.display().to_string());
        let mut assign = |name: &str, value: &str| writeln!(out, "{PREFIX}{name}={}", shell_quoted(value));
        assign("CASE", &self.case)?;
        assign("STAGE", &self.stage)?;
        assign("DIR", &dir)?;
        for (name, value) in self.params.iter().filter(|(name, _)| names_a_variable(name)) {
            assign(&format!("PARAM_{name}"), &value.to_string())?;
        }
        for (name, metric) in self.metrics.iter().filter(|(name, _)| names_a_variable(name)) {
            assign(&format!("METRIC_{name}"), &metric_text(metric))?;
        }
        Ok(())
    }

    /// Writes its params as options in one line, `--name=value`, each a word of a shell.
    ///
    /// # Errors
    /// [`ViewError::Output`].
    pub fn write_args(&self, out: &mut dyn Write) -> Result<(), ViewError> {
        let words = self.params.iter().map(|(name, value)| shell_quoted(&format!("--{name}={value}")));
        Ok(writeln!(out, "{}", words.collect::<Vec<_>>().join(" "))?)
    }
}

/// The named stage; without a name the last one that closed, and before any has the one that runs or ran last.
fn chosen<'a>(view: &'a StudyView, name: Option<&str>) -> Result<&'a StageRow, ViewError> {
    if let Some(name) = name {
        let named = view.stages.iter().find(|stage| stage.name == name);
        return named.ok_or_else(|| ViewError::Request(format!("there is no stage `{}`", clean(name))));
    }
    let begun = view.stages.iter().rev().find(|stage| stage.status != StageStatus::Waiting);
    let chosen = view.last_closed().or(begun);
    chosen.ok_or_else(|| ViewError::Request("no trial has succeeded yet".into()))
}

fn names_a_variable(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn metric_text(metric: &Metric) -> String {
    match metric {
        Metric::Number(value) => number(*value),
        Metric::Label(text) => text.clone(),
    }
}
