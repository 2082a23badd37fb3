//! Whether the plan in a store can be run: the part of `verify` that asks what an engine would ask.
//!
//! The journal may hold a sound record of a plan that no engine can make trials of, since rows and spec are only laid side by
//! side when a trial starts. It only reads, and goes on after a difference.

use super::StudyView;
use super::words::FROM_OTHERS;
use crate::model::{LaterStages, StageRow, StageStatus};
use crate::plan;

/// What keeps an engine from running the study, in words; empty when nothing does.
#[must_use]
pub(crate) fn check(view: &StudyView) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(why) = plan::other_version(&view.study) {
        found.push(why);
    }
    let stored: Vec<&str> = view.stages.iter().map(|stage| stage.name.as_str()).collect();
    let said: Vec<&str> = view.spec.stages.iter().map(|stage| stage.name.as_str()).collect();
    if stored != said {
        found.push(format!("the spec has the stages {}, the store {}", said.join(", "), stored.join(", ")));
    }
    let lineage = view.lineage();
    for (stage, before) in view.stages.iter().zip(std::iter::once(None).chain(view.stages.iter().map(Some))) {
        if let Some(index) = lineage.unmade(stage.index) {
            let case = lineage.case(stage.index, index);
            found.push(format!("stage `{}` plans `{case}`, for which the spec has no params", stage.name));
        }
        // One that was opened again has none yet, or the engine has not come to what follows.
        let began = stage.status != StageStatus::Waiting;
        let differs = |before: &&StageRow| match before.later {
            LaterStages::Stand => before.status == StageStatus::Closed && before.survivors != stage.parents,
            LaterStages::Keep | LaterStages::Discard => false,
        };
        if let Some(before) = before.filter(|before| began && differs(before)) {
            found.push(format!("stage `{}` began with other cases than survived `{}`", stage.name, before.name));
        }
    }
    found
}

/// Stages that a retry left as they were, in words.
#[must_use]
pub(crate) fn kept(view: &StudyView) -> Vec<String> {
    let kept = view.summaries().filter(|summary| summary.is_kept());
    kept.map(|summary| format!("stage `{}` is {FROM_OTHERS}", summary.row.name)).collect()
}
