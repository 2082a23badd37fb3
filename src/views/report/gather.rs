//! What the report shows, read in one pass over the trials.
//!
//! All trials count in the sums; of more than `DETAILED_MAX` only every n-th is kept as a row, and the best survivors. So
//! the page and the memory it takes are bounded, whatever the study's size, and the time by what has happened: trials
//! that are only planned are passed over.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::curves::{self, Curves};
use super::saved::Saved;
use crate::journal::Snapshot;
use crate::model::{
    AttemptOutcome, Event, FailureKind, Kept, Metric, Params, RunEnd, RungRow, StageIndex, StageRow, TrialId,
    TrialState, UnixMs, Value,
};
use crate::study_file::{Goal, Objective, StageSpec};
use crate::views::{StudyView, TrialSummary, ViewError};

/// Most trials kept as rows, and as many survivors again.
const DETAILED_MAX: u64 = 10_000;

/// Most cells of them, about: studies of many params keep fewer trials.
const CELLS_MAX: u64 = 100_000;

/// Most attempts drawn one by one on the timeline.
pub(super) const ATTEMPTS_MAX: usize = 3_000;

/// Most params and metrics that are looked at.
pub(super) const COLUMNS_MAX: usize = 12;

/// A stage with trials.
#[derive(Debug)]
pub(super) struct StageData {
    pub(super) row: StageRow,
    pub(super) spec: StageSpec,
    /// Params that differ between its trials, by name.
    pub(super) params: Vec<String>,
    /// Every param that any of its trials has, by name.
    pub(super) all_params: Vec<String>,
    /// Objectives first.
    pub(super) metrics: Vec<String>,
    /// In derived order.
    pub(super) trials: Vec<TrialData>,
    /// Trials left out of `trials`.
    pub(super) left_out: u64,
    /// Failures for good, by kind.
    pub(super) failures: BTreeMap<FailureKind, u64>,
    /// What its trials reported while they ran.
    pub(super) curves: Curves,
}

impl StageData {
    /// The first objective.
    pub(super) fn objective(&self) -> Option<&Objective> {
        self.spec.objectives.first()
    }

    /// Trials that have a value of the first objective, with it, in the order they ended.
    pub(super) fn by_end(&self) -> Vec<(&TrialData, f64)> {
        let mut found: Vec<_> = self.valued().collect();
        found.sort_by_key(|(trial, _)| (trial.ended_ms, trial.index));
        found
    }

    /// Trials that have a value of the first objective, with it.
    pub(super) fn valued(&self) -> impl Iterator<Item = (&TrialData, f64)> {
        let metric = self.objective().map(|objective| objective.metric.as_str());
        self.trials.iter().filter_map(move |trial| Some((trial, trial.number(metric?)?)))
    }

    /// Notes what each trial is above its parent, a survivor of the stage before.
    fn compare_with(&mut self, before: &Self) {
        let went_on = before.trials.iter().filter(|trial| trial.survivor || trial.explorer);
        let parents: HashMap<&str, &TrialData> = went_on.map(|trial| (trial.case.as_str(), trial)).collect();
        for trial in &mut self.trials {
            let parent = parents.get(trial.parent.as_str());
            let above = |metric: &str| Some(trial.number(metric)? - parent?.number(metric)?);
            trial.above_parent = self.spec.objectives.iter().map(|objective| above(&objective.metric)).collect();
        }
    }

    /// Whether the first value is better than the second.
    pub(super) fn better(&self, a: f64, b: f64) -> bool {
        match self.objective().map(|objective| objective.goal) {
            Some(Goal::Maximize) => a > b,
            _ => a < b,
        }
    }
}

/// A trial as a row.
#[derive(Clone, Debug)]
pub(super) struct TrialData {
    pub(super) index: u64,
    pub(super) case: String,
    pub(super) parent: String,
    pub(super) state: TrialState,
    /// It has no part in what its study was aborted by.
    pub(super) outside: bool,
    pub(super) survivor: bool,
    /// It went on to explore, though it did not survive.
    pub(super) explorer: bool,
    pub(super) params: Params,
    pub(super) metrics: BTreeMap<String, Metric>,
    pub(super) attempts: u32,
    /// Of the first of them so many were discarded, with their logs.
    pub(super) gone: u32,
    /// Of the last attempt, where it is known.
    pub(super) wall_us: Option<u64>,
    pub(super) ended_ms: UnixMs,
    /// By how much each of its objectives is above its parent's value of the same metric, where both have one.
    pub(super) above_parent: Vec<Option<f64>>,
    /// What it showed at rungs.
    pub(super) rungs: Vec<RungRow>,
    /// The step of the last report that counts, of one that was pruned.
    pub(super) counts_until: Option<u64>,
    /// Kind and reason.
    pub(super) failure: Option<(FailureKind, String)>,
}

impl TrialData {
    pub(super) fn number(&self, metric: &str) -> Option<f64> {
        self.metrics.get(metric).and_then(Metric::number).filter(|number| number.is_finite())
    }
}

/// An attempt on the timeline.
#[derive(Clone, Debug)]
pub(super) struct Bar {
    pub(super) slot: u32,
    pub(super) from_ms: UnixMs,
    pub(super) to_ms: UnixMs,
    pub(super) outcome: Option<AttemptOutcome>,
    pub(super) case: String,
    pub(super) n: u32,
}

/// A run of the engine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) from_ms: UnixMs,
    /// Its last event.
    pub(super) to_ms: UnixMs,
    /// `None`: it was killed, or still runs.
    pub(super) how: Option<RunEnd>,
}

/// Everything the page shows.
#[derive(Debug)]
pub(super) struct Gathered {
    pub(super) stages: Vec<StageData>,
    pub(super) bars: Vec<Bar>,
    /// Attempts left out of `bars`.
    pub(super) bars_left_out: u64,
    pub(super) runs: Vec<Run>,
    /// How its attempts ended, in words.
    pub(super) attempts: String,
    pub(super) saved: Saved,
    /// Stages of which what finished trials left was read again: when, which, how many trials.
    pub(super) reread: Vec<ReadAgain>,
}

/// When what finished trials of a stage left was read again, and of how many.
pub(super) type ReadAgain = (UnixMs, StageIndex, u64);

/// Reads a study.
///
/// # Errors
/// [`ViewError::Journal`].
pub(super) fn gather(view: &StudyView, snapshot: &Snapshot) -> Result<Gathered, ViewError> {
    let total: u64 = view.stages.iter().map(StageRow::planned).fold(0, u64::saturating_add);
    let started = view.progress.accounting.attempts_started;
    let swept: u64 =
        view.spec.stages.iter().map(|stage| (stage.sweep.len() + stage.objectives.len()) as u64).sum();
    let rows_max = DETAILED_MAX.min(CELLS_MAX / (swept + 3)).max(100);
    let strides = (total.div_ceil(rows_max).max(1), started.div_ceil(ATTEMPTS_MAX as u64).max(1));
    let (runs, reread) = runs(snapshot)?;
    let attempts = view.attempts_words(snapshot)?;
    let mut found = Gathered {
        stages: Vec::new(),
        bars: Vec::new(),
        bars_left_out: 0,
        runs,
        attempts,
        saved: Saved::default(),
        reread,
    };
    let mut attempt_number = 0_u64;
    let begun = view.stages.iter().filter(|row| row.planned() > 0).count() as u64;
    for row in view.stages.iter().filter(|row| row.planned() > 0) {
        let Some(spec) = view.spec.stages.get(row.index as usize) else { continue };
        let mut stage = StageData {
            row: row.clone(),
            spec: spec.clone(),
            params: Vec::new(),
            all_params: Vec::new(),
            metrics: Vec::new(),
            trials: Vec::new(),
            left_out: 0,
            failures: BTreeMap::new(),
            curves: Curves::default(),
        };
        // Best first.
        let best = usize::try_from(rows_max / begun.max(1)).unwrap_or(usize::MAX).max(100);
        let went_on = row.winners().iter().take(best).chain(row.explorers().iter().take(best));
        let kept: HashSet<TrialId> = went_on.map(|parent| parent.trial).collect();
        let mut spread = Spread::default();
        let mut saved = Saved::default();
        for trial in view.trials_thinned(snapshot, row, strides.0)? {
            let trial = trial?;
            saved.note(&trial);
            for attempt in trial.attempts() {
                if attempt_number.is_multiple_of(strides.1) {
                    found.bars.push(Bar {
                        slot: attempt.slot,
                        from_ms: attempt.started_ms,
                        to_ms: attempt.ended_ms.unwrap_or(view.progress.last_event_ms).max(attempt.started_ms),
                        outcome: attempt.outcome,
                        case: trial.case(),
                        n: attempt.n,
                    });
                } else {
                    found.bars_left_out += 1;
                }
                attempt_number += 1;
            }
            if let Some(failure) = trial.failure() {
                *stage.failures.entry(failure.kind.clone()).or_default() += 1;
            }
            if !trial.index.is_multiple_of(strides.0) && !kept.contains(&trial.trial) {
                continue;
            }
            let data = TrialData::from(&trial);
            spread.note(&data);
            stage.trials.push(data);
        }
        found.saved = std::mem::take(&mut found.saved).and(saved);
        stage.left_out = row.planned().saturating_sub(stage.trials.len() as u64);
        stage.params = spread.params();
        stage.all_params = spread.first.keys().cloned().collect::<BTreeSet<_>>().into_iter().collect();
        stage.metrics = spread.metrics(spec);
        if let Some(parents) = found.stages.last() {
            stage.compare_with(parents);
        }
        stage.curves = curves::read(view, &stage, usize::try_from(begun).unwrap_or(usize::MAX));
        found.stages.push(stage);
    }
    Ok(found)
}

impl From<&TrialSummary<'_>> for TrialData {
    fn from(trial: &TrialSummary<'_>) -> Self {
        let last = trial.attempts().last();
        Self {
            index: trial.index,
            case: trial.case(),
            parent: trial.parent(),
            state: trial.state,
            outside: trial.ended_outside(),
            survivor: trial.survived(),
            explorer: trial.explores(),
            params: trial.params(),
            metrics: trial.metrics().clone(),
            attempts: last.map_or(0, |attempt| attempt.n),
            gone: trial
                .attempts()
                .iter()
                .filter(|attempt| trial.kept_of(attempt.n) == Kept::Nothing)
                .map(|attempt| attempt.n)
                .max()
                .unwrap_or(0),
            wall_us: trial.usage().map(|usage| usage.wall_us),
            ended_ms: last.and_then(|attempt| attempt.ended_ms).unwrap_or(0),
            above_parent: Vec::new(),
            rungs: trial.rungs().to_vec(),
            counts_until: trial
                .pruned()
                .map(|pruned| trial.rungs().last().map_or(pruned.step, |rung| rung.step.max(pruned.step))),
            failure: trial.failure().map(|failure| (failure.kind.clone(), failure.reason.clone())),
        }
    }
}

/// The engine's runs, from the events that begin and end them.
fn runs(snapshot: &Snapshot) -> Result<(Vec<Run>, Vec<ReadAgain>), ViewError> {
    let mut runs: Vec<Run> = Vec::new();
    let mut reread: Vec<ReadAgain> = Vec::new();
    for event in snapshot.events(1)? {
        let (_, record) = event?;
        match record.event {
            Event::RunStarted { .. } => {
                runs.push(Run { from_ms: record.at_ms, to_ms: record.at_ms, how: None });
                continue;
            }
            Event::RunEnded { how } => {
                if let Some(run) = runs.last_mut() {
                    run.how = Some(how);
                }
            }
            Event::StageReread { stage, read, .. } if read > 0 => reread.push((record.at_ms, stage, read)),
            Event::SpecAmended(amended) => {
                reread.retain(|(_, stage, _)| amended.discard_from.is_none_or(|from| *stage < from));
            }
            _ => {}
        }
        // What a person records between two runs is no part of either.
        if let Some(run) = runs.last_mut()
            && record.run_ms > 0
        {
            run.to_ms = run.to_ms.max(record.at_ms);
        }
    }
    Ok((runs, reread))
}

/// Which params differ, and which metrics there are.
#[derive(Debug, Default)]
struct Spread {
    first: HashMap<String, Value>,
    differ: BTreeSet<String>,
    metrics: BTreeSet<String>,
}

impl Spread {
    fn note(&mut self, trial: &TrialData) {
        for (name, value) in &trial.params {
            match self.first.get(name) {
                None => drop(self.first.insert(name.clone(), value.clone())),
                Some(first) if first != value => drop(self.differ.insert(name.clone())),
                Some(_) => {}
            }
        }
        for (name, metric) in &trial.metrics {
            if metric.number().is_some() && !self.metrics.contains(name) {
                self.metrics.insert(name.clone());
            }
        }
    }

    fn params(&self) -> Vec<String> {
        self.differ.iter().take(COLUMNS_MAX).cloned().collect()
    }

    fn metrics(&self, spec: &StageSpec) -> Vec<String> {
        let mut names: Vec<String> = spec.objectives.iter().map(|objective| objective.metric.clone()).collect();
        let others = self.metrics.iter().filter(|name| !names.contains(name)).cloned().collect::<Vec<_>>();
        names.extend(others);
        names.truncate(COLUMNS_MAX);
        names
    }
}

pub(super) fn anchor(stage: StageIndex) -> String {
    format!("stage-{stage}")
}
