//! Selection: which cases of a closed stage survive.
//!
//! It depends on nothing but recorded metrics and case order: candidates may be offered in any order. A candidate
//! survives only with a finite number for every objective; equally good ones go by the lower derived index; without
//! an objective the index alone decides.
//!
//! - `top`, `lexicographic`: by the objectives' values in order.
//! - `weighted_sum`: each objective's values are mapped to 0 (worst offered) … 1 (best offered), an objective whose
//!   values are all equal to 0; the sum of weight times that, the larger the better.
//! - `pareto`: by non-dominated fronts, then by crowding distance (Deb et al., "A fast and elitist multiobjective
//!   genetic algorithm: NSGA-II", 2002), the larger the better. A case at a front's smallest or largest value of an
//!   objective, and every case of a front of at most two, is at infinite distance; otherwise the distance is the sum
//!   over the objectives of (next larger value - next smaller value) / (largest - smallest) in the front, neighbours among
//!   equal values by index. An objective whose values are all equal in a front adds nothing and has no ends.
//!
//! `top` and `lexicographic` hold as many candidates as may survive, the others the objectives' values of all.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::model::Metrics;
use crate::spec::{Goal, Objective, Selection, StageSpec};

/// A survivor and why it is one.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranked {
    /// Its derived index.
    pub index: u64,
    /// Its values of the objectives, in their order.
    pub values: Vec<f64>,
    /// What it was ranked by, where that is not the values themselves.
    pub score: Option<Score>,
}

/// What a candidate was ranked by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Score {
    /// The weighted sum, 0 (worst) to 1 (best).
    WeightedSum(f64),
    /// Non-dominated front, then distance within it.
    Pareto {
        /// From 0, the best.
        front: usize,
        /// Crowding distance; may be infinite.
        crowding: f64,
    },
}

/// Chooses a stage's survivors out of its succeeded trials.
#[derive(Debug)]
pub struct Selector {
    objectives: Vec<Objective>,
    selection: Selection,
    most: usize,
    /// For `top` and `lexicographic`: the best so far, the worst of them on top.
    best: BinaryHeap<Candidate>,
    /// For the others: all.
    all: Vec<Candidate>,
}

/// A candidate; the greater, the worse.
#[derive(Clone, Debug)]
struct Candidate {
    /// Of the objectives in order, turned so that smaller is better; minus zero is zero.
    costs: Vec<f64>,
    index: u64,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        let costs = self.costs.iter().zip(&other.costs).map(|(a, b)| a.total_cmp(b));
        costs.fold(Ordering::Equal, Ordering::then).then(self.index.cmp(&other.index))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}

impl Selector {
    /// For one stage.
    #[must_use]
    pub fn new(stage: &StageSpec) -> Self {
        Self {
            objectives: stage.objectives.clone(),
            selection: stage.selection,
            most: usize::try_from(stage.survivor_count).unwrap_or(usize::MAX),
            best: BinaryHeap::new(),
            all: Vec::new(),
        }
    }

    /// Offers a succeeded trial, each once, in any order. Whether it is a candidate: it has a finite number for
    /// every objective.
    pub fn offer(&mut self, derived_index: u64, metrics: &Metrics) -> bool {
        let costs: Option<Vec<f64>> = self.objectives.iter().map(|objective| cost(objective, metrics)).collect();
        let Some(costs) = costs else { return false };
        let candidate = Candidate { costs, index: derived_index };
        match self.selection {
            Selection::Top | Selection::Lexicographic => {
                self.best.push(candidate);
                if self.best.len() > self.most {
                    self.best.pop();
                }
            }
            Selection::WeightedSum | Selection::Pareto => self.all.push(candidate),
        }
        true
    }

    /// The survivors, best first.
    #[must_use]
    pub fn finish(self) -> Vec<Ranked> {
        let Self { objectives, selection, most, best, all } = self;
        let chosen: Vec<(Candidate, Option<Score>)> = match selection {
            Selection::Top | Selection::Lexicographic => {
                best.into_sorted_vec().into_iter().map(|candidate| (candidate, None)).collect()
            }
            Selection::WeightedSum => weighted(&objectives, all, most),
            Selection::Pareto => pareto(all, most),
        };
        let ranked = chosen.into_iter().map(|(candidate, score)| {
            let values = candidate.costs.iter().zip(&objectives).map(|(cost, objective)| match objective.goal {
                Goal::Maximize => 0.0 - cost,
                Goal::Minimize => *cost,
            });
            Ranked { index: candidate.index, values: values.collect(), score }
        });
        ranked.collect()
    }
}

/// An objective's value where smaller is better; `None` unless it is a finite number.
fn cost(objective: &Objective, metrics: &Metrics) -> Option<f64> {
    let value = metrics.get(&objective.metric)?.number().filter(|value| value.is_finite())?;
    // Subtracting from and adding to zero turns minus zero, which would not tie with zero, into it.
    Some(match objective.goal {
        Goal::Maximize => 0.0 - value,
        Goal::Minimize => value + 0.0,
    })
}

/// Smallest and largest.
#[derive(Clone, Copy, Debug)]
struct Span {
    min: f64,
    max: f64,
}

impl Span {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let empty = Self { min: f64::INFINITY, max: f64::NEG_INFINITY };
        values.fold(empty, |span, value| Self { min: span.min.min(value), max: span.max.max(value) })
    }

    /// `(high - low)` as a fraction of the span; 0 if the span is a point. Halved first, so that it cannot overflow.
    fn fraction(self, low: f64, high: f64) -> f64 {
        if self.min >= self.max {
            return 0.0;
        }
        let whole = self.max - self.min;
        if whole.is_finite() {
            (high - low) / whole
        } else {
            (high / 2.0 - low / 2.0) / (self.max / 2.0 - self.min / 2.0)
        }
    }
}

fn cost_at(candidate: &Candidate, objective: usize) -> f64 {
    candidate.costs.get(objective).copied().unwrap_or(0.0)
}

fn weighted(objectives: &[Objective], all: Vec<Candidate>, most: usize) -> Vec<(Candidate, Option<Score>)> {
    let spans: Vec<Span> =
        (0..objectives.len()).map(|at| Span::of(all.iter().map(|candidate| cost_at(candidate, at)))).collect();
    let score = |candidate: &Candidate| {
        let parts = objectives.iter().zip(&spans).zip(&candidate.costs);
        parts
            .map(|((objective, span), cost)| objective.weight.unwrap_or(0.0) * span.fraction(*cost, span.max))
            .sum()
    };
    let mut scored: Vec<(f64, Candidate)> =
        all.into_iter().map(|candidate| (score(&candidate), candidate)).collect();
    scored.sort_unstable_by(|(a, x), (b, y)| b.total_cmp(a).then(x.index.cmp(&y.index)));
    scored.truncate(most);
    scored.into_iter().map(|(score, candidate)| (candidate, Some(Score::WeightedSum(score)))).collect()
}

fn pareto(all: Vec<Candidate>, most: usize) -> Vec<(Candidate, Option<Score>)> {
    let mut chosen = Vec::new();
    for (front, members) in fronts(all, most).into_iter().enumerate() {
        let mut measured: Vec<(f64, Candidate)> = crowding(&members).into_iter().zip(members).collect();
        measured.sort_unstable_by(|(a, x), (b, y)| b.total_cmp(a).then(x.index.cmp(&y.index)));
        let score = |crowding| Some(Score::Pareto { front, crowding });
        chosen.extend(measured.into_iter().map(|(crowding, candidate)| (candidate, score(crowding))));
    }
    chosen.truncate(most);
    chosen
}

/// Non-dominated fronts, best first, as far as `most` survivors need them.
///
/// "Efficient non-dominated sort, sequential search" (Zhang et al., 2015): in lexicographic order nothing is
/// dominated by what comes later, so each candidate goes to the first front of which no member dominates it. O(n log n)
/// for two objectives and few fronts, O(n^2) at worst.
fn fronts(mut all: Vec<Candidate>, most: usize) -> Vec<Vec<Candidate>> {
    all.sort_unstable();
    let mut fronts: Vec<Vec<Candidate>> = Vec::new();
    for candidate in all {
        let mut ahead = 0;
        let mut home = None;
        for (position, front) in fronts.iter().enumerate() {
            // As many as may survive are in better fronts already: neither it nor its front matters any more.
            if ahead >= most {
                break;
            }
            if !dominated(&candidate, front) {
                home = Some(position);
                break;
            }
            ahead += front.len();
        }
        match home.and_then(|position| fronts.get_mut(position)) {
            Some(front) => front.push(candidate),
            None if ahead < most => fronts.push(vec![candidate]),
            None => {}
        }
    }
    // Fronts only grew: some may have become needless since.
    let mut ahead = 0;
    fronts.retain(|front| {
        let needed = ahead < most;
        ahead += front.len();
        needed
    });
    fronts
}

/// Whether a member of a front, filled in lexicographic order, dominates a later candidate.
fn dominated(candidate: &Candidate, front: &[Candidate]) -> bool {
    if candidate.costs.len() <= 2 {
        // The last member has the front's smallest second cost.
        return front.last().is_some_and(|last| dominates(last, candidate));
    }
    front.iter().rev().any(|member| dominates(member, candidate))
}

/// Nowhere worse and somewhere better.
fn dominates(a: &Candidate, b: &Candidate) -> bool {
    let mut pairs = a.costs.iter().zip(&b.costs);
    pairs.clone().all(|(a, b)| a <= b) && pairs.any(|(a, b)| a < b)
}

/// The crowding distance of each member of a front.
fn crowding(members: &[Candidate]) -> Vec<f64> {
    let mut distances = vec![0.0; members.len()];
    if members.len() <= 2 {
        distances.fill(f64::INFINITY);
        return distances;
    }
    for objective in 0..members.first().map_or(0, |member| member.costs.len()) {
        let mut order: Vec<(f64, u64, usize)> = members
            .iter()
            .enumerate()
            .map(|(position, member)| (cost_at(member, objective), member.index, position))
            .collect();
        order.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let span = Span::of(order.iter().map(|(cost, ..)| *cost));
        if span.min >= span.max {
            continue;
        }
        for (place, (cost, _, position)) in order.iter().enumerate() {
            let neighbour = |at: Option<usize>| at.and_then(|at| order.get(at)).map(|(cost, ..)| *cost);
            let added = match (neighbour(place.checked_sub(1)), neighbour(Some(place + 1))) {
                (Some(low), Some(high)) if *cost > span.min && *cost < span.max => span.fraction(low, high),
                _ => f64::INFINITY,
            };
            if let Some(distance) = distances.get_mut(*position) {
                *distance += added;
            }
        }
    }
    distances
}

#[cfg(test)]
mod tests;
