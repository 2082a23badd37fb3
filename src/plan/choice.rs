//! Survivors out of a stage's trials, whether each is a case or they are replicas of cases.
//!
//! Where each trial is a case this is selection itself. Replicas are gathered first: a case is offered with what they come to together, and
//! only if all of them succeeded. It depends on recorded metrics and numbers alone, in whatever order they come.

use std::collections::BTreeMap;

use super::aggregate::{aggregated, nearest};
use super::select::{Ranked, Selector};
use crate::model::{Metrics, StageRow};
use crate::study_file::StageSpec;

/// A survivor: a case, and which of its trials stands for it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Chosen {
    /// The case, and why it is one.
    pub ranked: Ranked,
    /// The place of the trial that its children derive from.
    pub place: u64,
}

/// Chooses the survivors of a stage out of its succeeded trials.
#[derive(Debug)]
pub(crate) struct Choice<'a> {
    spec: &'a StageSpec,
    row: &'a StageRow,
    selector: Selector,
    /// How many could survive.
    candidates: u64,
    /// By case and replica, what is ranked by.
    replicas: BTreeMap<u64, BTreeMap<u32, Metrics>>,
}

impl<'a> Choice<'a> {
    #[must_use]
    pub(crate) fn new(spec: &'a StageSpec, row: &'a StageRow) -> Self {
        Self { spec, row, selector: Selector::new(spec), candidates: 0, replicas: BTreeMap::new() }
    }

    /// Chooses those that go on to explore, too, as the stage says.
    #[must_use]
    pub(crate) fn exploring(mut self, seed: u64) -> Self {
        self.selector = self.selector.exploring(seed, self.row.index, self.spec.explore);
        self
    }

    /// Offers the succeeded trial at this place, each once, in any order.
    pub(crate) fn offer(&mut self, place: u64, metrics: &Metrics) {
        // What else ended has no part in a stage that ended early.
        if self.row.is_outside(place) && !injected_fault!(OutsideSurvives) {
            return;
        }
        if !self.row.is_replicated() {
            self.candidates += u64::from(self.selector.offer(place, metrics));
            return;
        }
        let Some((case, replica)) = self.row.replica_of(place) else { return };
        let read = |name: &String| self.spec.selected_by().any(|metric| metric == name);
        let kept = metrics.iter().filter(|(name, _)| read(name)).map(|(name, is)| (name.clone(), is.clone()));
        self.replicas.entry(case).or_default().insert(replica, kept.collect());
    }

    /// The survivors, best first, and after them those that explore.
    #[must_use]
    pub(crate) fn finish(self) -> Vec<Chosen> {
        self.counted().0
    }

    /// The same, and how many cases could survive: they have a finite number for every objective.
    #[must_use]
    pub(crate) fn counted(mut self) -> (Vec<Chosen>, u64) {
        if !self.row.is_replicated() {
            let chosen = |ranked: Ranked| Chosen { place: ranked.index, ranked };
            return (self.selector.finish().into_iter().map(chosen).collect(), self.candidates);
        }
        let rounds = self.row.rounds() as usize;
        let mut stand_for = BTreeMap::new();
        for (case, replicas) in &self.replicas {
            if replicas.len() < rounds || self.row.left(*case).is_some() {
                continue;
            }
            let of_case: Vec<&Metrics> = replicas.values().collect();
            let whole = aggregated(self.spec, &of_case);
            self.candidates += u64::from(self.selector.offer(*case, &whole.metrics));
            let near = nearest(self.spec, &whole.metrics, &of_case);
            let replica = replicas.keys().nth(near).copied().unwrap_or(0);
            stand_for.insert(*case, replica);
        }
        let row = self.row;
        let chosen = |ranked: Ranked| {
            let replica = stand_for.get(&ranked.index).copied()?;
            Some(Chosen { place: row.place_of(ranked.index, replica)?, ranked })
        };
        (self.selector.finish().into_iter().filter_map(chosen).collect(), self.candidates)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Metric, StageDecl};
    use crate::{Range, Stage, Study};

    /// Two of three cases survive three replicas each; the second case was lucky once, and the third failed once.
    #[test]
    fn the_luckiest_replica_is_no_survivor() {
        let stage = Stage::unbound("s").budget(10).survivors(2).repeats(3).minimize("t");
        let stage = stage.range("n", Range::int(1..=3));
        let spec = Study::builder("t").stage(stage).spec().unwrap().stages.remove(0);
        let decl =
            StageDecl { name: "s".into(), trial_budget: 10, survivor_count: 2, objective: None, proposed: false };
        let mut row = StageRow { shares: vec![3], ..crate::model::waiting(0, &decl) };
        crate::plan::plan_trials(&spec, &mut row);
        assert_eq!((row.planned, row.cases()), (9, 3));
        let results = [[3.0, 4.0, 5.0], [1.0, 9.0, 8.0], [0.5, 0.5, f64::NAN]];
        let mut choice = Choice::new(&spec, &row);
        for (case, values) in (0..).zip(results) {
            for (replica, value) in (0..).zip(values).filter(|(_, value)| !value.is_nan()) {
                let place = row.place_of(case, replica).unwrap();
                choice.offer(place, &Metrics::from([("t".into(), Metric::Number(value))]));
            }
        }
        let chosen = choice.finish();
        let found: Vec<_> = chosen.iter().map(|chosen| (chosen.ranked.index, chosen.place)).collect();
        // Means of 4 and 6: replica 1 of the first, which runs backwards, and replica 2 of the second.
        assert_eq!(found, [(0, 5), (1, 7)]);
        assert_eq!(chosen[0].ranked.values, [4.0]);
    }
}
