//! What follows when a stage that was opened again has closed with other survivors.
//!
//! It is a function of the spec and the stage rows alone, and nothing is discarded that nobody gave up. A stage that reuses is
//! planned as if the survivors had been these from the start: equal trials take their results. In one that does not, survivors that
//! were parents keep their places, and so the numbers, params and seeds of their children: only children of new ones run.

use crate::model::{Event, LaterStages, Parent, Proposing, StageIndex, StageReplanned, StageRow, StageStatus};
use crate::study_file::Spec;

use super::{Lineage, shares};

/// The first stage that began with other cases than have survived the one before it, where those who may decide that want it
/// planned anew. None while an earlier stage is open: what survives is not known.
#[must_use]
pub(crate) fn unsettled(stages: &[StageRow]) -> Option<StageIndex> {
    let pairs = stages.iter().zip(stages.get(1..).unwrap_or_default());
    for (before, stage) in pairs {
        if before.status != StageStatus::Closed || stage.status == StageStatus::Waiting {
            return None;
        }
        if before.later == LaterStages::Discard && !stage.began_with(&before.survivors) {
            return Some(stage.index);
        }
    }
    None
}

/// The events that settle the first stage that is [`unsettled`]; none if there is none.
#[must_use]
pub(crate) fn settling(spec: &Spec, stages: &[StageRow]) -> Vec<Event> {
    let Some(index) = unsettled(stages) else { return Vec::new() };
    let of = |index: StageIndex| stages.get(usize::try_from(index).ok()?);
    let before = index.checked_sub(1).and_then(of);
    let Some((before, stage)) = before.zip(of(index)) else { return Vec::new() };
    let said = usize::try_from(index).ok().and_then(|position| spec.stages.get(position));
    let whole = vec![Event::StagesDiscarded { from: index }];
    // Other survivors are to be approved anew, a proposer hears of them from the beginning, and what rungs decided of one trial rests on
    // all before it.
    let Some(said) = said.filter(|said| said.reuse.is_no() && !said.approve && said.halving.is_none()) else {
        return whole;
    };
    // A replica's number is said by all cases of its stage.
    if stage.proposing != Proposing::No || stage.is_replicated() {
        return whole;
    }
    let parents = in_places(&stage.parents, &before.survivors);
    let same_count = parents.len() == stage.parents.len();
    let (shares, more) = match same_count {
        true => (stage.shares.clone(), stage.more.clone()),
        false => (shares(said, parents.len()), Vec::new()),
    };
    let mut now = stages.to_vec();
    let Some(row) = now.get_mut(usize::try_from(index).unwrap_or(usize::MAX)) else { return whole };
    (row.parents, row.shares, row.more) = (parents.clone(), shares.clone(), more.clone());
    row.planned = row.room();
    let planned = row.planned;
    let (was, is) = (Lineage::new(spec, stages), Lineage::new(spec, &now));
    let stands = |place: u64| {
        let same_parent = was.parent(index, place).is_some_and(|parent| Some(parent) == is.parent(index, place));
        let same_parent = same_parent || injected_fault!(StandsByNumber);
        same_parent && (same_count || was.own_values(index, place) == is.own_values(index, place))
    };
    let anew = runs((0..planned.min(stage.planned)).filter(|place| !stands(*place)));
    let next = index.saturating_add(1);
    let later = of(next).filter(|next| next.status != StageStatus::Waiting);
    let replanned = StageReplanned { stage: index, parents, shares, more, anew };
    match later {
        None => vec![Event::StageReplanned(Box::new(replanned))],
        // Their numbers are others' from now on. They go first, while those are still theirs.
        Some(_) if planned != stage.planned => {
            vec![Event::StagesDiscarded { from: next }, Event::StageReplanned(Box::new(replanned))]
        }
        Some(_) => {
            let first = stage.first_trial.0;
            let gone =
                replanned.anew.iter().map(|(place, count)| (first.saturating_add(*place), *count)).collect();
            let mut events = vec![Event::StageReplanned(Box::new(replanned))];
            orphaned(spec, stages, next, gone, &mut events);
            events
        }
    }
}

/// Takes the children of trials that are gone out of the stages from `index` on: whatever survives, they are nobody's. `gone` are
/// numbers: the first, and how many.
fn orphaned(
    spec: &Spec,
    stages: &[StageRow],
    index: StageIndex,
    mut gone: Vec<(u64, u64)>,
    events: &mut Vec<Event>,
) {
    let from = usize::try_from(index).unwrap_or(usize::MAX);
    for stage in stages.iter().skip(from).take_while(|stage| stage.status != StageStatus::Waiting) {
        let is_gone = |parent: &Parent| {
            gone.iter()
                .any(|(first, count)| parent.trial.0.checked_sub(*first).is_some_and(|place| place < *count))
        };
        let lost: Vec<bool> = stage.parents.iter().map(is_gone).collect();
        if !lost.contains(&true) || injected_fault!(OrphansStay) {
            return;
        }
        let halves =
            usize::try_from(stage.index).ok().and_then(|at| spec.stages.get(at)?.halving.as_ref()).is_some();
        if stage.proposing != Proposing::No || stage.is_replicated() || spec.reuses(stage.index) || halves {
            events.push(Event::StagesDiscarded { from: stage.index });
            return;
        }
        let mark = |(parent, lost): (&Parent, &bool)| match lost {
            true => Parent { attempt: Parent::GONE, ..*parent },
            false => *parent,
        };
        let parents = stage.parents.iter().zip(&lost).map(mark).collect();
        let is_orphan = |place: &u64| {
            let position = stage.share_of(*place).map(|(position, _)| position);
            position.and_then(|position| lost.get(position)).copied().unwrap_or(true)
        };
        let anew = runs((0..stage.planned).filter(is_orphan));
        let first = stage.first_trial.0;
        gone = anew.iter().map(|(place, count)| (first.saturating_add(*place), *count)).collect();
        let (shares, more) = (stage.shares.clone(), stage.more.clone());
        let replanned = StageReplanned { stage: stage.index, parents, shares, more, anew };
        events.push(Event::StageReplanned(Box::new(replanned)));
    }
}

/// Places in runs: the first, and how many.
fn runs(places: impl Iterator<Item = u64>) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for place in places {
        match runs.last_mut() {
            Some((first, count)) if first.saturating_add(*count) == place => *count += 1,
            _ => runs.push((place, 1)),
        }
    }
    runs
}

/// Survivors in the places of those that were there before: who stays keeps his place, others fill what is free, best first.
fn in_places(was: &[Parent], survivors: &[Parent]) -> Vec<Parent> {
    let place_of = |parent: &Parent| was.iter().take(survivors.len()).position(|old| old == parent);
    let mut places: Vec<Option<Parent>> = vec![None; survivors.len()];
    let mut others = Vec::new();
    for survivor in survivors {
        match place_of(survivor).and_then(|place| places.get_mut(place)) {
            Some(place) => *place = Some(*survivor),
            None => others.push(*survivor),
        }
    }
    let mut others = others.into_iter();
    places.into_iter().filter_map(|place| place.or_else(|| others.next())).collect()
}
