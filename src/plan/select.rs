//! Selection: which cases of a closed stage survive.
//!
//! It depends on nothing but recorded metrics and case order: candidates may be offered in any order. A candidate
//! survives only with a finite number for every objective, and if it meets all that the stage requires; equally good ones go by the lower derived index; without
//! an objective the index alone decides.
//!
//! - `top`, `lexicographic`: by the objectives' values in order.
//! - `weighted_sum`: each objective's values are mapped to 0 (worst offered) … 1 (best offered), an objective whose
//!   values are all equal to 0; the sum of weight times that, the larger the better. Sums are compared exactly: see `exact`.
//! - `pareto`: by non-dominated fronts, then by crowding distance; of cases with equal values one counts. See `pareto`.
//!
//! `top` and `lexicographic` hold as many candidates as may survive, the others the objectives' values of all.
//!
//! Where cases go on to explore, they are drawn from the candidates that do not survive; one that has the same values as a survivor of
//! `pareto` could not have survived beside it, and is none of them.

use std::collections::{BinaryHeap, HashSet};

use num_bigint::BigInt;

use super::bounds::unmet;
use super::candidate::Candidate;
use super::exact::{Column, Scale};
use super::explore::Lots;
use super::pareto;
use crate::model::{Metrics, StageIndex};
use crate::study_file::{Goal, MetricBound, Objective, Selection, StageSpec};

/// A survivor and why it is one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ranked {
    /// Its derived index.
    pub index: u64,
    /// Its values of the objectives, in their order.
    pub values: Vec<f64>,
    /// What it was ranked by, where that is not the values themselves.
    pub score: Option<Score>,
    /// For `pareto`: cases with the same value of every objective, which do not count beside it.
    pub equals: Vec<u64>,
}

/// What a candidate was ranked by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Score {
    /// The weighted sum, 0 (worst) to 1 (best).
    WeightedSum(f64),
    /// Non-dominated front, then distance within it.
    Pareto {
        /// From 0, the best.
        front: usize,
        /// Crowding distance among those ranked before it and itself; may be infinite.
        crowding: f64,
    },
}

/// Chooses a stage's survivors out of its succeeded trials.
#[derive(Debug)]
pub(crate) struct Selector {
    objectives: Vec<Objective>,
    require: Vec<MetricBound>,
    selection: Selection,
    most: usize,
    /// For `top` and `lexicographic`: the best so far, the worst of them on top.
    best: BinaryHeap<Candidate>,
    /// For the others: all.
    all: Vec<Candidate>,
    /// Who explores, where that is asked for.
    lots: Option<Lots>,
}

impl Selector {
    #[must_use]
    pub(crate) fn new(stage: &StageSpec) -> Self {
        Self {
            objectives: stage.objectives.clone(),
            require: stage.require.clone(),
            selection: stage.selection,
            most: usize::try_from(stage.survivor_count).unwrap_or(usize::MAX),
            best: BinaryHeap::new(),
            all: Vec::new(),
            lots: None,
        }
    }

    /// Chooses so many that explore, too.
    #[must_use]
    pub(crate) fn exploring(mut self, seed: u64, stage: StageIndex, most: u64) -> Self {
        self.lots = (most > 0).then(|| Lots::new(seed, stage, most));
        self
    }

    /// Offers a succeeded trial, each once, in any order. Whether it is a candidate: it has a finite number for
    /// every objective, and meets what is required.
    pub(crate) fn offer(&mut self, derived_index: u64, metrics: &Metrics) -> bool {
        let Some(costs) = costs_of(&self.objectives, &self.require, metrics) else { return false };
        let candidate = Candidate { costs, index: derived_index };
        match self.selection {
            Selection::Top | Selection::Lexicographic => {
                self.best.push(candidate);
                let worst = if self.best.len() > self.most { self.best.pop() } else { None };
                if let Some((lots, worst)) = self.lots.as_mut().zip(worst) {
                    lots.offer(worst);
                }
            }
            Selection::WeightedSum | Selection::Pareto => self.all.push(candidate),
        }
        true
    }

    /// The survivors, best first, and after them those that explore.
    #[must_use]
    pub(crate) fn finish(self) -> Vec<Ranked> {
        let Self { objectives, selection, most, best, all, lots, .. } = self;
        let ranked = |candidate: Candidate, score, equals| {
            let values = candidate.costs.iter().zip(&objectives).map(|(cost, objective)| match objective.goal {
                Goal::Maximize => 0.0 - cost,
                Goal::Minimize => *cost,
            });
            Ranked { index: candidate.index, values: values.collect(), score, equals }
        };
        let offered = if lots.is_some() { all.clone() } else { Vec::new() };
        let mut chosen: Vec<Ranked> = match selection {
            Selection::Top | Selection::Lexicographic => {
                best.into_sorted_vec().into_iter().map(|candidate| ranked(candidate, None, Vec::new())).collect()
            }
            Selection::WeightedSum => weighted(&objectives, all, most)
                .into_iter()
                .map(|(candidate, score)| ranked(candidate, Some(score), Vec::new()))
                .collect(),
            Selection::Pareto => pareto::rank(all, most)
                .into_iter()
                .map(|placed| {
                    let score = Score::Pareto { front: placed.front, crowding: placed.crowding };
                    ranked(placed.candidate, Some(score), placed.equals)
                })
                .collect(),
        };
        let Some(mut lots) = lots else { return chosen };
        let passed: HashSet<u64> =
            chosen.iter().flat_map(|one| one.equals.iter().chain([&one.index])).copied().collect();
        offered.into_iter().filter(|one| !passed.contains(&one.index)).for_each(|one| lots.offer(one));
        chosen.extend(lots.finish().into_iter().map(|candidate| ranked(candidate, None, Vec::new())));
        chosen
    }
}

/// The values of a case's objectives in order, turned so that smaller is better; `None` if it cannot survive.
#[must_use]
pub(super) fn costs(stage: &StageSpec, metrics: &Metrics) -> Option<Vec<f64>> {
    costs_of(&stage.objectives, &stage.require, metrics)
}

fn costs_of(objectives: &[Objective], require: &[MetricBound], metrics: &Metrics) -> Option<Vec<f64>> {
    let costs = objectives.iter().map(|objective| cost(objective, metrics)).collect::<Option<Vec<f64>>>()?;
    unmet(require, metrics).is_none().then_some(costs)
}

/// An objective's value where smaller is better; `None` unless it is a finite number.
pub(super) fn cost(objective: &Objective, metrics: &Metrics) -> Option<f64> {
    let value = metrics.get(&objective.metric)?.number().filter(|value| value.is_finite())?;
    // Subtracting from and adding to zero turns minus zero, which would not tie with zero, into it.
    Some(match objective.goal {
        Goal::Maximize => 0.0 - value,
        Goal::Minimize => value + 0.0,
    })
}

fn weighted(objectives: &[Objective], all: Vec<Candidate>, most: usize) -> Vec<(Candidate, Score)> {
    let cost = |candidate: &Candidate, objective: usize| candidate.costs.get(objective).copied().unwrap_or(0.0);
    let columns: Vec<Vec<BigInt>> = (0..objectives.len())
        .map(|objective| Column::of(all.iter().map(|candidate| cost(candidate, objective))).values)
        .collect();
    let ends = |values: &Vec<BigInt>| {
        let (worst, best) = (values.iter().max().cloned(), values.iter().min().cloned());
        (worst.unwrap_or_default(), best.unwrap_or_default())
    };
    let ends: Vec<(BigInt, BigInt)> = columns.iter().map(ends).collect();
    let spans: Vec<BigInt> = ends.iter().map(|(worst, best)| worst - best).collect();
    let scale = Scale::new(objectives.iter().map(|objective| objective.weight.unwrap_or(0.0)), &spans);
    let score = |position: usize| {
        let better = |(values, (worst, _)): (&Vec<BigInt>, &(BigInt, BigInt))| {
            worst - values.get(position).cloned().unwrap_or_default()
        };
        scale.sum(columns.iter().zip(&ends).map(better))
    };
    let mut scored: Vec<(BigInt, Candidate)> =
        all.into_iter().enumerate().map(|(position, candidate)| (score(position), candidate)).collect();
    scored.sort_unstable_by(|(a, x), (b, y)| b.cmp(a).then(x.index.cmp(&y.index)));
    scored.truncate(most);
    let shown = |(score, candidate): (BigInt, Candidate)| (candidate, Score::WeightedSum(scale.shown(&score)));
    scored.into_iter().map(shown).collect()
}

#[cfg(test)]
mod tests;
