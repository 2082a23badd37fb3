//! What a study would have kept and cost, had some of its stages been told otherwise: pure, over what its trials came to.
//!
//! The study is gone through from its first stage on with the numbers, the selection, the rungs and the rules of a study that runs.
//! A trial is the one that ran if it has the same parent and the same values of its own sweep, whatever its number. What depends on
//! a trial that never ran, or whose reports are gone, is unknown: nothing here may guess.

use std::collections::{HashMap, HashSet};

use super::{Choice, Chosen, Lineage, declared, plan_trials, shares};
use crate::model::halving::Ladder;
use crate::model::{
    AttemptNo, Metrics, Parent, Proposals, Proposing, StageIndex, StageRow, StageStatus, TrialId, Value, waiting,
};
use crate::study_file::watching::Showing;
use crate::study_file::{Selection, Spec, StageSpec};

/// What a trial of the study came to.
#[derive(Clone, Debug)]
pub(crate) struct Ran {
    pub end: End,
    /// The attempt whose directory its children see.
    pub accepted: AttemptNo,
    /// Whether any attempt of it ran.
    pub began: bool,
    /// What its attempts used; `None` where that is not known.
    pub cpu_us: Option<u64>,
    /// What of its reports counts by the new choice; `None`: they are gone, or nobody asked for them.
    pub seen: Option<Seen>,
    /// The last step that it reported.
    pub last_step: Option<u64>,
}

/// How a trial of the study ended.
#[derive(Clone, Debug)]
pub(crate) enum End {
    Succeeded(Metrics),
    Failed,
    /// By a rung or a rule of its own, at this step.
    Pruned(u64),
    /// It has not, or what it came to does not count.
    Open,
}

/// What a trial showed at the rungs, and the rule that it met.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub showing: Showing,
    /// Whether that is all: what is recorded of rungs alone may lack some.
    pub whole: bool,
}

/// What is recorded of the trials.
pub(crate) trait Record {
    /// Why it cannot be read.
    type Error;

    /// All trials of a stage, in their order; their reports only if they are asked for, by the stage's new spec.
    ///
    /// # Errors
    /// [`Record::Error`].
    fn stage(&mut self, stage: &StageRow, reports: Option<&StageSpec>) -> Result<Vec<Ran>, Self::Error>;
}

/// What becomes of a trial in the study that was not.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Standing {
    /// It survives.
    Survives,
    /// It goes on to explore, though others are better.
    Explores,
    /// It succeeds, and others are better.
    Ranked,
    /// It is ended early, at this step.
    Pruned(u64),
    /// It fails.
    Fails,
    /// It is not there: its parent does not survive.
    NotThere,
    /// That depends on what never ran.
    Unknown,
}

/// A stage of the study that was not.
#[derive(Clone, Debug, Default)]
pub(crate) struct WhatIfStage {
    pub stage: StageIndex,
    /// Its trials; `None`: who its parents are is unknown.
    pub planned: Option<u64>,
    /// Of those, the ones that never ran in the study.
    pub never_ran: u64,
    /// Of those, the ones whose end is unknown; those that never ran are among them.
    pub unknown: u64,
    /// Of those, the ones whose reports are gone.
    pub reports_gone: u64,
    /// Of those, the ones that are ended early.
    pub pruned: u64,
    /// Of those, the ones that the study never planned.
    pub added: u64,
    /// Trials of the study that there would not be.
    pub spared: u64,
    /// What they took; those are left out of which that is not known.
    pub spared_cpu_us: u64,
    /// Trials of which it is not known what they took.
    pub unmeasured: u64,
    /// What trials took after the step that would have ended them, if all of a trial's steps cost the same.
    pub cut_cpu_us: u64,
    /// Those that rank best of all whose results are known, as many as survive.
    pub best: Vec<Ranks>,
    /// Those that go on to explore, if who they are is known.
    pub explorers: Vec<TrialId>,
    /// Whether the best are the survivors, whatever is unknown.
    pub certain: bool,
    standings: HashMap<TrialId, Standing>,
}

/// One of the best.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ranks {
    pub trial: TrialId,
    pub values: Vec<f64>,
    /// Whether it survives, whatever the unknown trials come to.
    pub certain: bool,
}

impl WhatIfStage {
    /// What becomes of a trial that the study had.
    pub(crate) fn standing(&self, trial: TrialId) -> Standing {
        match (self.planned, self.standings.get(&trial)) {
            (None, _) => Standing::Unknown,
            (Some(_), None) => Standing::NotThere,
            (Some(_), Some(standing)) => *standing,
        }
    }

    /// Its place among the best, from 1.
    pub(crate) fn rank(&self, trial: TrialId) -> Option<usize> {
        self.best.iter().position(|ranks| ranks.trial == trial).map(|place| place + 1)
    }
}

/// A study that has run, and the spec that it could have had. Both have the same stages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WhatIf<'a> {
    pub old: &'a Spec,
    pub new: &'a Spec,
    pub stages: &'a [StageRow],
    pub proposals: &'a Proposals,
}

/// The trials of a stage that was not: each the place of the one that ran.
struct Trials {
    row: StageRow,
    /// Which one of the study's each is; `None`: none.
    of: Vec<Option<usize>>,
}

/// How a trial ends in the study that was not.
#[derive(Clone, Debug)]
enum Fate<'a> {
    Succeeds(&'a Metrics),
    Fails,
    Pruned(u64),
    Unknown,
}

impl WhatIf<'_> {
    /// Every stage that has begun.
    ///
    /// # Errors
    /// What reading fails with.
    pub(crate) fn stages<R: Record>(&self, record: &mut R) -> Result<Vec<WhatIfStage>, R::Error> {
        let mut told = Vec::new();
        // What survives the stage before; `None`: unknown.
        let mut survivors: Option<Vec<Parent>> = Some(Vec::new());
        let mut next_trial = 0;
        for (row, before) in self.stages.iter().zip(std::iter::once(None).chain(self.stages.iter().map(Some))) {
            let index = row.index as usize;
            let specs = self.old.stages.get(index).zip(self.new.stages.get(index));
            let Some((old, new)) = specs.filter(|_| row.status != StageStatus::Waiting) else { break };
            let Some(parents) = survivors else {
                told.push(WhatIfStage { stage: row.index, ..WhatIfStage::default() });
                continue;
            };
            let cases_of =
                |parents: &[Parent]| parents.iter().map(|parent| self.case_of(parent.trial)).collect::<Vec<_>>();
            let parents_stay = before.is_none_or(|before| cases_of(&before.survivors) == cases_of(&parents));
            let same = parents_stay && old.repeats == new.repeats;
            let changed = old.halving != new.halving || old.stop_if != new.stop_if;
            // A proposer would have heard of other results.
            let asks_anew = row.proposing != Proposing::No && (!same || changed);
            if asks_anew {
                told.push(WhatIfStage { stage: row.index, ..WhatIfStage::default() });
                survivors = None;
                continue;
            }
            let reports = new.is_watched() && (changed || !same);
            let ran = record.stage(row, reports.then_some(new))?;
            let trials = match same {
                true => Trials { row: row.clone(), of: (0..ran.len()).map(Some).collect() },
                false => self.planned(row, parents, next_trial),
            };
            next_trial = trials.row.first_trial.0.saturating_add(trials.row.planned);
            let as_it_was = same && !changed;
            let (found, kept) = stage((new, self.new.study.seed), row, &trials, &ran, as_it_was);
            survivors = kept;
            told.push(found);
        }
        Ok(told)
    }

    /// What stands for a trial's case, whichever of its replicas it is.
    fn case_of(&self, trial: TrialId) -> TrialId {
        let row = self.stages.iter().find(|row| row.contains(trial));
        let first = row.and_then(|row| {
            let case = row.case_of(trial.0.saturating_sub(row.first_trial.0))?;
            Some(TrialId(row.first_trial.0.saturating_add(row.place_of(case, 0)?)))
        });
        first.unwrap_or(trial)
    }

    /// What a trial is known by: its parent's case, the values of its own, and which replica of its case it is.
    fn key(
        &self,
        lineage: &Lineage<'_>,
        row: &StageRow,
        index: u64,
    ) -> Option<(Option<TrialId>, String, Option<u32>)> {
        let parent = match row.index {
            0 => None,
            _ => Some(self.case_of(lineage.parent(row.index, index)?.trial)),
        };
        let own: Vec<(String, Value)> = lineage.own_values(row.index, index)?;
        Some((parent, format!("{own:?}"), lineage.replica(row.index, index)))
    }

    /// The trials that other parents would have had.
    fn planned(&self, row: &StageRow, parents: Vec<Parent>, first: u64) -> Trials {
        let new = self.new.stages.get(row.index as usize);
        let shares = match new {
            Some(new) if row.index == 0 || !parents.is_empty() => shares(new, parents.len()),
            _ => Vec::new(),
        };
        let decls = declared(self.new);
        let mut rows: Vec<StageRow> = self.stages.to_vec();
        let mut made = row.clone();
        if let Some(decl) = decls.get(row.index as usize) {
            made = StageRow { status: StageStatus::Open, parents, shares, ..waiting(row.index, decl) };
            made.first_trial = TrialId(first);
            if let Some(new) = new {
                plan_trials(new, &mut made);
            }
        }
        if let Some(place) = rows.get_mut(row.index as usize) {
            *place = made.clone();
        }
        let before = Lineage::new(self.old, self.stages).with_proposals(self.proposals);
        let now = Lineage::new(self.new, &rows).with_proposals(self.proposals);
        let mut ran: HashMap<(Option<TrialId>, String, Option<u32>), usize> = HashMap::new();
        for (index, place) in (0..row.planned()).zip(0_usize..) {
            if let Some(key) = self.key(&before, row, index) {
                ran.entry(key).or_insert(place);
            }
        }
        let of = (0..made.planned()).map(|index| ran.get(&self.key(&now, &made, index)?).copied()).collect();
        Trials { row: made, of }
    }
}

/// One stage, and its survivors where they are known.
fn stage(
    (spec, seed): (&StageSpec, u64),
    row: &StageRow,
    trials: &Trials,
    ran: &[Ran],
    as_it_was: bool,
) -> (WhatIfStage, Option<Vec<Parent>>) {
    let id = |place: usize| TrialId(row.first_trial.0.saturating_add(place as u64));
    let fates = match as_it_was {
        true => ran.iter().map(as_ended).collect(),
        false => fates(spec, trials, ran),
    };
    let planned = trials.of.len() as u64;
    let mut found = WhatIfStage { stage: row.index, planned: Some(planned), ..WhatIfStage::default() };
    let most = usize::try_from(spec.survivor_count).unwrap_or(usize::MAX);
    let mut choice = Choice::new(spec, &trials.row).exploring(seed);
    for ((fate, of), index) in fates.iter().zip(&trials.of).zip(0_u64..) {
        let one = of.and_then(|place| ran.get(place));
        found.never_ran += u64::from(one.is_none_or(|one| !one.began && matches!(one.end, End::Open)));
        found.added += u64::from(one.is_none());
        let standing = match fate {
            Fate::Succeeds(metrics) => {
                choice.offer(index, metrics);
                Standing::Ranked
            }
            Fate::Fails => Standing::Fails,
            Fate::Pruned(step) => {
                found.pruned += 1;
                found.cut_cpu_us += one.map_or(0, |one| cut(one, *step));
                Standing::Pruned(*step)
            }
            Fate::Unknown => {
                found.unknown += 1;
                let gone =
                    spec.is_watched() && !as_it_was && one.is_some_and(|one| one.began && one.seen.is_none());
                found.reports_gone += u64::from(gone);
                Standing::Unknown
            }
        };
        if let Some(place) = of {
            found.standings.insert(id(*place), standing);
        }
    }
    let there: HashSet<usize> = trials.of.iter().copied().flatten().collect();
    for (one, place) in ran.iter().zip(0_usize..) {
        if one.began && !there.contains(&place) {
            found.spared += 1;
            match one.cpu_us {
                Some(cpu) => found.spared_cpu_us += cpu,
                None => found.unmeasured += 1,
            }
        }
    }
    let chosen = choice.finish();
    let by_order = matches!(spec.selection, Selection::Top | Selection::Lexicographic);
    let unknown = usize::try_from(found.unknown).unwrap_or(usize::MAX);
    for (Chosen { ranked, place: index }, place) in chosen.into_iter().zip(0_usize..) {
        // Further results move it down by one each at most; where all values count, they may move it anywhere.
        let certain = unknown == 0 || (by_order && place.saturating_add(unknown) < most);
        let explores = place >= most;
        if explores && !certain {
            break;
        }
        let of = usize::try_from(index).ok().and_then(|index| trials.of.get(index).copied().flatten());
        if let Some(trial) = of.map(id) {
            let standing = match certain {
                true if explores => Standing::Explores,
                true => Standing::Survives,
                false => Standing::Unknown,
            };
            // The case survives, whichever of its replicas stood for it.
            let case = row.case_of(trial.0.saturating_sub(row.first_trial.0));
            let places = case.into_iter().flat_map(|case| row.places_of(case));
            let replicas = places.map(|place| TrialId(row.first_trial.0.saturating_add(place)));
            found.standings.extend(replicas.filter(|_| row.is_replicated()).map(|replica| (replica, standing)));
            found.standings.insert(trial, standing);
            match explores {
                true => found.explorers.push(trial),
                false => found.best.push(Ranks { trial, values: ranked.values, certain }),
            }
        }
    }
    if unknown > 0 && !by_order {
        let open = found.standings.values_mut().filter(|standing| **standing == Standing::Ranked);
        open.for_each(|standing| *standing = Standing::Unknown);
    }
    found.certain = found.best.iter().all(|ranks| ranks.certain) && (unknown == 0 || found.best.len() >= most);
    // Who explores is drawn from all that did not survive.
    let is_over = unknown == 0 || (row.status == StageStatus::Closed && spec.explore == 0);
    let parent = |trial: TrialId| {
        let place = usize::try_from(trial.0.saturating_sub(row.first_trial.0)).ok();
        let attempt = place.and_then(|place| ran.get(place)).map_or(0, |one| one.accepted);
        Parent { trial, attempt }
    };
    let go_on = found.best.iter().map(|ranks| ranks.trial).chain(found.explorers.iter().copied());
    let survivors = (found.certain && is_over).then(|| go_on.map(parent).collect());
    (found, survivors)
}

/// How a trial ended.
fn as_ended(one: &Ran) -> Fate<'_> {
    match &one.end {
        End::Succeeded(metrics) => Fate::Succeeds(metrics),
        End::Failed => Fate::Fails,
        End::Pruned(step) => Fate::Pruned(*step),
        End::Open => Fate::Unknown,
    }
}

/// How the trials of a stage end, by the rungs and rules of its new spec.
fn fates<'a>(spec: &StageSpec, trials: &Trials, ran: &'a [Ran]) -> Vec<Fate<'a>> {
    let one = |of: &Option<usize>| of.and_then(|place| ran.get(place));
    let mut ladder = spec.halving.as_ref().map(|halving| (Ladder::new(halving.rule()), halving));
    for (of, place) in trials.of.iter().zip(0_u64..) {
        let (Some((ladder, halving)), Some(one)) = (&mut ladder, one(of)) else { continue };
        let Some(seen) = &one.seen else { continue };
        for (shown, rung) in seen.showing.rungs.iter().zip(0..) {
            ladder.show(place, rung, halving.cost(shown.value), shown.judged);
        }
        let ended = matches!(one.end, End::Succeeded(_) | End::Failed);
        if seen.showing.met.is_some() || (ended && seen.whole) {
            ladder.end(place);
        }
    }
    let mut decided: HashMap<(u64, u32), bool> = HashMap::new();
    if let Some((ladder, _)) = &mut ladder {
        decided.extend(ladder.settle().into_iter().map(|decided| ((decided.place, decided.rung), decided.keep)));
    }
    let fate = |(of, place): (&Option<usize>, u64)| {
        let Some(one) = one(of) else { return Fate::Unknown };
        if !spec.is_watched() {
            // What ended early says nothing of how it would have gone on.
            return if matches!(one.end, End::Pruned(_)) { Fate::Unknown } else { as_ended(one) };
        }
        let Some(seen) = &one.seen else { return Fate::Unknown };
        for (shown, rung) in seen.showing.rungs.iter().zip(0..) {
            match decided.get(&(place, rung)) {
                Some(false) => return Fate::Pruned(shown.at),
                Some(true) => {}
                None if shown.judged => return Fate::Unknown,
                None => {}
            }
        }
        match (&seen.showing.met, &one.end) {
            (Some(met), _) => Fate::Pruned(met.step),
            (None, End::Pruned(_)) => Fate::Unknown,
            (None, _) if !seen.whole => Fate::Unknown,
            (None, _) => as_ended(one),
        }
    };
    trials.of.iter().zip(0_u64..).map(fate).collect()
}

/// What a trial took after a step, if all its steps cost the same.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an estimate"
)]
fn cut(one: &Ran, step: u64) -> u64 {
    match (one.cpu_us, one.last_step) {
        (Some(cpu), Some(last)) if last > step => ((cpu as f64) * ((last - step) as f64 / last as f64)) as u64,
        _ => 0,
    }
}
