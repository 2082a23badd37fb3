//! `what-if`: what another choice would have kept, cost and lost, as far as what ran tells it.
//!
//! It is worked out anew from what is recorded and from the reports that are still there; nothing is changed, and what hangs on
//! trials that never ran is called unknown.

mod text;

use std::collections::BTreeSet;

use serde::Serialize;

use super::progress::watched_reports;
use super::{StudyView, TrialSummary, ViewError};
use crate::journal::Snapshot;
use crate::model::{Kept, StageIndex, StageRow, StageStatus, TrialId, TrialState};
use crate::plan::what_if::{End, Ran, Record, Seen, Standing, WhatIf as Question, WhatIfStage};
use crate::plan::{Retention, retention, share_of};
use crate::study_file::watching::Showing;
use crate::study_file::{Choices, StageSpec, differences};

/// An answer, for people and for programs.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct WhatIf {
    /// 1.
    pub schema: u32,
    /// The study's name.
    pub study: String,
    /// What is chosen otherwise.
    pub choices: Vec<Choice>,
    /// Every stage that has begun.
    pub stages: Vec<StageOut>,
    /// What becomes of the case that won; `null` before a stage has closed.
    pub winner: Option<Winner>,
    /// Trials and CPU of all stages together.
    pub saved: Saved,
    /// How the survivors of the last stage that closed descend from those of the stages before.
    pub retention: Vec<RetentionOut>,
}

/// A key of the study file with both its values.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Choice {
    /// Such as `stage "explore".survivor_count`.
    pub key: String,
    /// In the study; `null`: it is not set.
    pub was: Option<String>,
    /// What if.
    pub now: Option<String>,
}

/// A stage of the study that was not.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct StageOut {
    /// Its position.
    pub index: StageIndex,
    /// Its name.
    pub name: String,
    /// Its trials; `null`: that depends on trials that never ran.
    pub trials: Option<u64>,
    /// Of those, the ones that the study never ran: what they cost and come to is unknown.
    pub never_ran: u64,
    /// Of those, the ones whose end is unknown; those that never ran are among them.
    pub unknown: u64,
    /// Of those that are unknown, the ones that ran and whose reports are gone.
    pub reports_gone: u64,
    /// Of its trials, the ones that are ended early.
    pub pruned: u64,
    /// What it saves.
    pub saved: Saved,
    /// As many of the best as would survive, best first.
    pub best: Vec<Case>,
    /// Whether these are the survivors, whatever is unknown.
    pub certain: bool,
    /// Cases that would go on to explore, though others are better; there where it is known who would.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub explorers: Vec<String>,
    /// Cases that survived, and would not.
    pub lost: Vec<String>,
    /// Cases that survived, of which it is unknown whether they would.
    pub doubtful: Vec<String>,
}

/// What is not spent.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Saved {
    /// Trials that ran, and would not.
    pub trials: u64,
    /// CPU time of those.
    pub cpu_s: f64,
    /// Of those, the ones whose CPU time is not known.
    pub unmeasured: u64,
    /// CPU time of trials after the step that would have ended them, if all of a trial's steps cost the same.
    pub cut_cpu_s: f64,
    /// Trials that never ran, and would: their CPU time is unknown.
    pub added_trials: u64,
    /// Whether that is all: a stage whose trials are unknown may save or add any.
    pub whole: bool,
}

/// One of the best.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Case {
    /// Its name in the study.
    pub case: String,
    /// Its objectives, in their order.
    pub values: Vec<f64>,
    /// Whether it survives, whatever is unknown.
    pub certain: bool,
    /// Whether it survived.
    pub survived: bool,
}

/// What becomes of the case that won.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Winner {
    /// The best survivor of the last stage that closed.
    pub case: String,
    /// Whether it and all its forebears survive.
    pub kept: Kind,
    /// Its forebears and itself.
    pub line: Vec<Step>,
}

/// A case of the winner's line.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Step {
    /// The stage's name.
    pub stage: String,
    /// The case.
    pub case: String,
    /// Whether it survives.
    pub kept: Kind,
    /// Its place among the best whose results are known, from 1.
    pub rank: Option<u64>,
    /// Why it is lost or unknown, or kept though others are better.
    pub why: Option<String>,
}

/// Whether something is kept.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Kind {
    /// It survives.
    Kept,
    /// It does not.
    Lost,
    /// That depends on trials that never ran.
    Unknown,
}

/// How the survivors of a stage descend from those of an earlier one.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct RetentionOut {
    /// The earlier stage.
    pub earlier: String,
    /// The last stage that closed.
    pub later: String,
    /// How many survived the later one.
    pub best: u64,
    /// How many survived the earlier one.
    pub survivors: u64,
    /// So many of the earlier survivors are asked for: as many as would survive, or as did.
    pub first: u64,
    /// Of the best, so many descend from those.
    pub retained: u64,
    /// The fewest of the earlier survivors from which all the best descend; `null` where some descend from none.
    pub needed: Option<u64>,
    /// Whether cases that did not survive had no children, so that nothing is known of those that they would have had.
    pub biased: bool,
    /// Cases that went on from the earlier stage to explore: drawn from those that could have survived and did not. There where any did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explored: Option<ExploredOut>,
}

/// What those that explored tell of all that did not survive.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ExploredOut {
    /// How many went on.
    pub explorers: u64,
    /// Of those, the ones with a descendant among the best.
    pub found: u64,
    /// Of all that could have survived and did not, the share that would have one: from and to, 95 %, by Clopper and Pearson.
    pub share: [f64; 2],
}

impl WhatIf {
    /// What `choices` would have made of a study, in the stages of these names (none: in all that they mean something to).
    ///
    /// # Errors
    /// [`ViewError::Request`] for what does not fit, [`ViewError::Journal`].
    pub(crate) fn load(
        view: &StudyView,
        snapshot: &Snapshot,
        choices: &Choices,
        stages: &[String],
    ) -> Result<Self, ViewError> {
        let request = ViewError::Request;
        if let Some(unknown) = stages.iter().find(|name| view.spec.stages.iter().all(|stage| stage.name != **name))
        {
            return Err(request(format!("there is no stage `{}`", super::clean(unknown))));
        }
        if choices.is_empty() {
            return Err(request("nothing is chosen otherwise: say what, such as `--survivors 3`".into()));
        }
        let named = |stage: &StageSpec| stages.is_empty() || stages.contains(&stage.name);
        let mut record = Recorded { view, snapshot };
        let mut touched: BTreeSet<&str> = BTreeSet::new();
        for (stage, row) in view.spec.stages.iter().zip(&view.stages).filter(|(stage, _)| named(stage)) {
            let means = !choices.ends_early() || stage.is_watched() || record.reported(row, stage)?;
            if choices.repeats_cases() && stage.repeats.is_none() {
                if stages.contains(&stage.name) {
                    return Err(request(format!(
                        "the cases of stage `{}` do not repeat",
                        super::clean(&stage.name)
                    )));
                }
            } else if means {
                touched.insert(&stage.name);
            } else if stages.contains(&stage.name) {
                let name = super::clean(&stage.name);
                return Err(request(format!("no report of a trial of stage `{name}` is there to judge by")));
            }
        }
        if touched.is_empty() {
            let why = if choices.repeats_cases() {
                "no stage repeats its cases"
            } else {
                "no report of any trial is there to judge by"
            };
            return Err(request(why.into()));
        }
        let new = choices.applied(&view.spec, |stage| touched.contains(stage.name.as_str())).map_err(request)?;
        let question = Question { old: &view.spec, new: &new, stages: &view.stages, proposals: &view.proposals };
        let found = question.stages(&mut record)?;
        let changes = differences(&view.spec, &new).into_iter().map(|(change, _)| change);
        let choices =
            changes.map(|change| Choice { key: change.path, was: change.old, now: change.new }).collect();
        let stages: Vec<StageOut> = found.iter().filter_map(|found| StageOut::of(view, found)).collect();
        let retention = retention(&view.spec, &view.stages);
        let first = |earlier: StageIndex| new.stages.get(earlier as usize).map(|stage| stage.survivor_count);
        Ok(Self {
            schema: 1,
            study: view.study.name.clone(),
            choices,
            saved: stages
                .iter()
                .fold(Saved { whole: true, ..Saved::default() }, |sum, stage| sum.and(stage.saved)),
            winner: winner(view, &found),
            retention: retention.iter().map(|found| RetentionOut::of(view, found, first(found.earlier))).collect(),
            stages,
        })
    }
}

impl Saved {
    fn and(self, other: Self) -> Self {
        Self {
            trials: self.trials + other.trials,
            cpu_s: self.cpu_s + other.cpu_s,
            unmeasured: self.unmeasured + other.unmeasured,
            cut_cpu_s: self.cut_cpu_s + other.cut_cpu_s,
            added_trials: self.added_trials + other.added_trials,
            whole: self.whole && other.whole,
        }
    }
}

impl StageOut {
    fn of(view: &StudyView, found: &WhatIfStage) -> Option<Self> {
        let row = view.stage(found.stage)?;
        let name = |trial: TrialId| view.lineage().name_of(trial);
        let standing = |standing: &[Standing]| {
            let of = row.winners().iter().map(|parent| parent.trial);
            of.filter(|trial| standing.contains(&found.standing(*trial))).map(name).collect()
        };
        let lost = [Standing::Explores, Standing::Ranked, Standing::Fails, Standing::NotThere];
        let pruned = row.winners().iter().map(|parent| parent.trial);
        let pruned = pruned.filter(|trial| matches!(found.standing(*trial), Standing::Pruned(_))).map(name);
        let mut lost: Vec<String> = standing(&lost);
        lost.extend(pruned);
        Some(Self {
            index: found.stage,
            name: row.name.clone(),
            trials: found.planned,
            never_ran: found.never_ran,
            unknown: found.unknown,
            reports_gone: found.reports_gone,
            pruned: found.pruned,
            saved: Saved {
                trials: found.spared,
                cpu_s: seconds(found.spared_cpu_us),
                unmeasured: found.unmeasured,
                cut_cpu_s: seconds(found.cut_cpu_us),
                added_trials: found.added,
                whole: found.planned.is_some(),
            },
            best: found
                .best
                .iter()
                .map(|ranks| Case {
                    case: name(ranks.trial),
                    values: ranks.values.clone(),
                    certain: ranks.certain,
                    survived: view.survives(ranks.trial),
                })
                .collect(),
            certain: found.certain,
            explorers: found.explorers.iter().map(|trial| name(*trial)).collect(),
            lost,
            doubtful: standing(&[Standing::Unknown]),
        })
    }
}

impl RetentionOut {
    /// As the study was told.
    #[cfg(feature = "report")]
    pub(super) fn all(view: &StudyView) -> Vec<Self> {
        retention(&view.spec, &view.stages).iter().map(|found| Self::of(view, found, None)).collect()
    }

    fn of(view: &StudyView, found: &Retention, first: Option<u64>) -> Self {
        let name = |stage: StageIndex| view.stage(stage).map_or_else(String::new, |stage| stage.name.clone());
        let first = first.unwrap_or(found.survivors).min(found.survivors);
        Self {
            earlier: name(found.earlier),
            later: name(found.later),
            best: found.places.len() as u64,
            survivors: found.survivors,
            first,
            retained: found.within(first),
            needed: found.needed(),
            biased: found.explorers == 0,
            explored: share_of(found.found, found.explorers).map(|share| ExploredOut {
                explorers: found.explorers,
                found: found.found,
                share,
            }),
        }
    }
}

/// Seconds with a place for each microsecond.
#[expect(clippy::cast_precision_loss, reason = "no study takes 2^53 microseconds")]
fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

/// What becomes of the line that won.
fn winner(view: &StudyView, found: &[WhatIfStage]) -> Option<Winner> {
    let last = view.last_closed()?;
    let lineage = view.lineage();
    let mut line = vec![last.survivors.first()?.trial];
    while let Some(parent) = line.last().and_then(|trial| lineage.locate(*trial)) {
        let Some(parent) = lineage.parent(parent.0, parent.1) else { break };
        line.push(parent.trial);
    }
    line.reverse();
    let mut kept = Kind::Kept;
    let mut steps = Vec::new();
    for trial in line {
        let (stage, _) = lineage.locate(trial)?;
        let of = found.iter().find(|found| found.stage == stage)?;
        let (own, why) = match of.standing(trial) {
            Standing::Survives => (Kind::Kept, None),
            Standing::Explores => (Kind::Kept, Some("it goes on to explore, though others are better".to_owned())),
            Standing::Ranked => (Kind::Lost, Some("others are better".to_owned())),
            Standing::Pruned(step) => (Kind::Lost, Some(format!("ended early at step {step}"))),
            Standing::Fails => (Kind::Lost, Some("it fails".to_owned())),
            Standing::NotThere => (Kind::Lost, Some("its parent does not survive".to_owned())),
            Standing::Unknown => (Kind::Unknown, Some(unknown_words(of))),
        };
        kept = match (kept, own) {
            (Kind::Lost, _) | (_, Kind::Lost) => Kind::Lost,
            (Kind::Unknown, _) | (_, Kind::Unknown) => Kind::Unknown,
            _ => Kind::Kept,
        };
        let rank = of.rank(trial).map(|rank| rank as u64);
        let stage = view.stage(stage).map_or_else(String::new, |stage| stage.name.clone());
        steps.push(Step { stage, case: lineage.name_of(trial), kept: own, rank, why });
    }
    let case = steps.last().map(|step| step.case.clone())?;
    Some(Winner { case, kept, line: steps })
}

/// What of a stage is unknown, in words.
fn unknown_words(stage: &WhatIfStage) -> String {
    match (stage.planned, stage.never_ran, stage.reports_gone) {
        (None, _, _) => "its trials depend on what never ran".into(),
        (Some(_), 0, 0) => "it depends on how trials that were ended early would have gone on".into(),
        (Some(_), never, 0) => format!("{never} of its trials never ran"),
        (Some(_), 0, gone) => format!("the reports of {gone} of its trials are gone"),
        (Some(_), never, gone) => format!("{never} of its trials never ran, the reports of {gone} are gone"),
    }
}

/// The study's own trials.
struct Recorded<'a> {
    view: &'a StudyView,
    snapshot: &'a Snapshot,
}

impl Recorded<'_> {
    /// Whether any trial of a stage has reports, or is recorded to have shown something.
    fn reported(&self, row: &StageRow, spec: &StageSpec) -> Result<bool, ViewError> {
        if row.status == StageStatus::Waiting {
            return Ok(false);
        }
        for trial in self.view.started(self.snapshot, row)? {
            if watched_reports(self.view, &trial?, spec, |_| {}).is_some_and(|count| count > 0) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn ran(&self, trial: &TrialSummary<'_>, reports: Option<&StageSpec>) -> Ran {
        let end = match trial.counted_state() {
            TrialState::Succeeded => End::Succeeded(trial.metrics().clone()),
            TrialState::Failed => End::Failed,
            TrialState::Pruned => End::Pruned(trial.pruned().map_or(0, |pruned| pruned.step)),
            TrialState::Pending | TrialState::Running | TrialState::Cancelled | TrialState::Undecided => End::Open,
        };
        let cpu = trial.attempts().iter().map(|attempt| attempt.measured().map(|usage| usage.cpu_us));
        let mut last_step = None;
        let seen = reports.and_then(|spec| self.seen(trial, spec, &end, &mut last_step));
        Ran {
            began: !trial.attempts().is_empty(),
            accepted: trial.accepted(),
            cpu_us: cpu.sum(),
            end,
            seen,
            last_step,
        }
    }

    /// What of a trial's reports counts by another spec of its stage.
    fn seen(&self, trial: &TrialSummary<'_>, spec: &StageSpec, end: &End, last: &mut Option<u64>) -> Option<Seen> {
        let mut lookout = spec.lookout()?;
        let read = watched_reports(self.view, trial, spec, |report| {
            *last = Some(report.step);
            lookout.take(report);
        });
        let kept = trial.attempts().last().map_or(Kept::Nothing, |attempt| trial.kept_of(attempt.n));
        match read {
            // Without reports: it said nothing, if nothing is gone.
            Some(count) if count > 0 || kept == Kept::All => {
                let showing = lookout.finish(matches!(end, End::Succeeded(_)));
                Some(Seen { showing, whole: true })
            }
            _ => recorded_rungs(self.view, trial, spec),
        }
    }
}

/// What the store alone tells of the rungs, where these are some of those that the stage had.
fn recorded_rungs(view: &StudyView, trial: &TrialSummary<'_>, spec: &StageSpec) -> Option<Seen> {
    let old = view.spec.stages.get(trial.stage.index as usize)?;
    let (before, now) = old.halving.as_ref().zip(spec.halving.as_ref())?;
    if before.metric != now.metric || old.stop_if != spec.stop_if {
        return None;
    }
    let met = trial.row.as_ref()?.watched.as_ref().and_then(|watched| watched.stop_if.clone());
    let mut rungs = Vec::new();
    for (at, rung) in now.rungs.iter().zip(0..) {
        let Some(known) = trial.rungs().iter().find(|known| known.at == *at) else { break };
        let (step, value, judged) = (known.step, known.value, known.judged);
        rungs.push(crate::model::halving::Shown { rung, at: *at, step, value, judged });
    }
    let whole = rungs.len() == now.rungs.len() || met.is_some();
    (whole || !rungs.is_empty()).then_some(Seen { showing: Showing { rungs, met }, whole })
}

impl Record for Recorded<'_> {
    type Error = ViewError;

    fn stage(&mut self, stage: &StageRow, reports: Option<&StageSpec>) -> Result<Vec<Ran>, ViewError> {
        let mut all = Vec::new();
        // What is outside of a stage that ended early came to nothing.
        for trial in self.view.trials_from(self.snapshot, stage, 0, stage.ended_after.unwrap_or(u64::MAX))? {
            all.push(self.ran(&trial?, reports));
        }
        Ok(all)
    }
}
