//! How an abort is described: its rail, the cases that broke it, and what counts. Also whether the results still say so.
//!
//! Nothing here may say more of an abort than its event does.

use std::fmt::Write;

use serde::Serialize;

use super::text::clean;
use super::{StudyView, ViewError};
use crate::journal::Snapshot;
use crate::model::words::counted;
use crate::model::{Rail, StageRow, StageStatus, StudyRow, StudyStatus, TrialId, TrialState};
use crate::plan::{self, Choice, Lineage, Ruled};

/// Most cases named in words; the data has them all.
const NAMED: usize = 20;

/// `aborted_by` of a study: what the abort rests on.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AbortedBy {
    /// The one that the results broke.
    pub rail: Rail,
    /// The stage that was open.
    pub stage: u32,
    /// The trials of that stage below this place count. After `max_runtime` that is 0: which had ended is a matter of time.
    pub counted: u64,
    /// All cases that broke the rail, of those that count.
    pub violating: Vec<String>,
}

impl AbortedBy {
    /// What the abort rests on; `None` when the study is not aborted, or was by a piton that did not say so.
    #[must_use]
    pub fn of(study: &StudyRow, lineage: &Lineage<'_>) -> Option<Self> {
        let abort = study.abort?;
        Some(Self {
            rail: abort.rail,
            stage: abort.stage,
            counted: abort.counted,
            violating: study.violating.iter().map(|trial| lineage.name_of(*trial)).collect(),
        })
    }
}

/// Who broke the rail, and what counts, in a sentence each; harmless to a terminal.
#[must_use]
pub fn abort_words(study: &StudyRow, stages: &[StageRow], lineage: &Lineage<'_>) -> Vec<String> {
    let (Some(abort), Some(by)) = (study.abort, AbortedBy::of(study, lineage)) else { return Vec::new() };
    let name = stages.iter().find(|stage| stage.index == abort.stage).map_or("", |stage| stage.name.as_str());
    let name = clean(name);
    let by_results = matches!(abort.rail, Rail::AbortIf | Rail::MaxFailureRate | Rail::CatastrophicFailures);
    let mut told = Vec::new();
    if by_results && !by.violating.is_empty() {
        let shown: Vec<String> = by.violating.iter().take(NAMED).map(|case| clean(case)).collect();
        let mut line = format!("broken by {}", shown.join(", "));
        if let Some(more @ 1..) = by.violating.len().checked_sub(NAMED) {
            let _ = write!(line, " and {more} more");
        }
        told.push(line);
    }
    match (abort.rail, abort.counted) {
        (Rail::MaxRuntime, _) => {
            told.push(format!("which trials of stage `{name}` had ended by then is a matter of time"));
        }
        (Rail::Base | Rail::NoSurvivors, _) => {}
        (_, 0) => told.push(format!("no trial of stage `{name}` counts; what ended is outside")),
        (_, 1) => told.push(format!("the first trial of stage `{name}` counts; what else ended is outside")),
        (_, n) => told.push(format!("the first {n} trials of stage `{name}` count; what else ended is outside")),
    }
    told
}

/// Asks the recorded results once more whether they abort the study, as its abort says. How they differ, if they do.
///
/// # Errors
/// [`ViewError::Journal`].
pub(crate) fn check(view: &StudyView, snapshot: &Snapshot) -> Result<Option<String>, ViewError> {
    let study = &view.study;
    let Some(abort) = study.abort.filter(|_| study.status == StudyStatus::Aborted) else { return Ok(None) };
    let Some(stage) = view.stage(abort.stage) else { return Ok(Some("the abort names no stage".into())) };
    let end = stage.end();
    let differs = match abort.rail {
        Rail::AbortIf | Rail::MaxFailureRate | Rail::CatastrophicFailures => {
            let rows = snapshot.trials(TrialId(0), end)?;
            let found = plan::broken(&view.spec, &view.stages, abort.stage, rows)?;
            // The words are those of the piton that wrote them.
            let same = found.as_ref().is_some_and(|found| {
                (found.rail, found.counted) == (abort.rail, abort.counted) && study.violating == found.violating
            });
            let words = || match found {
                Some(found) => {
                    format!("`{}` with {} trials: {}", found.rail.name(), found.counted, found.reason)
                }
                None => "no abort".into(),
            };
            (!same).then(words)
        }
        Rail::NoSurvivors => {
            let Some(spec) = view.spec.stages.get(stage.index as usize) else { return Ok(None) };
            let mut choice = Choice::new(spec, stage);
            for trial in view.started(snapshot, stage)? {
                let trial = trial?;
                if trial.state == TrialState::Succeeded {
                    choice.offer(trial.index, trial.metrics());
                }
            }
            (!choice.finish().is_empty()).then(|| "survivors".into())
        }
        Rail::Base => {
            let failed = study.base.as_ref().is_some_and(|base| base.failure.is_some());
            (!failed || stage.status != StageStatus::Waiting).then(|| "a base command that did not fail".into())
        }
        Rail::MaxRuntime => None,
    };
    Ok(differs.map(|found| {
        format!(
            "the abort says `{}` with {} trials, the recorded results give {found}",
            abort.rail.name(),
            abort.counted
        )
    }))
}

/// Asks the recorded results of each closed stage once more whether it ended early, and where. How they differ, if they do.
///
/// # Errors
/// [`ViewError::Journal`].
pub(crate) fn ended(view: &StudyView, snapshot: &Snapshot) -> Result<Vec<String>, ViewError> {
    let mut differs = Vec::new();
    for stage in view.stages.iter().filter(|stage| stage.status == StageStatus::Closed) {
        let asks = view.spec.stages.get(stage.index as usize).is_some_and(|of| of.rails.improve_within.is_some());
        if !asks && stage.ended_after.is_none() {
            continue;
        }
        let found =
            match plan::ruled(&view.spec, &view.stages, stage.index, snapshot.trials(TrialId(0), stage.end())?)? {
                Some(Ruled::Ended(counted)) => Some(counted),
                Some(Ruled::Broken(_)) | None => None,
            };
        if found != stage.ended_after {
            let words = |count: Option<u64>| match count {
                Some(count) => format!("the end after {}", counted(count, "trial")),
                None => "no end before all trials have finished".to_owned(),
            };
            let (told, found) = (words(stage.ended_after), words(found));
            differs.push(format!("stage `{}` tells of {told}, its recorded results give {found}", stage.name));
        }
    }
    Ok(differs)
}
