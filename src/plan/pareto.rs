//! Pareto selection: of equal points one, by fronts, then thinned by crowding.
//!
//! - Of candidates with the same value of every objective the one of lowest index counts; the others are no candidates.
//! - The rest goes by non-dominated fronts, the best first.
//! - Within a front the most crowded one goes last, is left out, and all distances are taken anew, until none is left (Kukkonen
//!   and Deb, "Improved pruning of non-dominated solutions based on crowding distance for bi-objective optimization
//!   problems", 2006). Of equally crowded ones the one of higher index is left out first.
//! - The crowding distance is that of Deb et al. ("A fast and elitist multiobjective genetic algorithm: NSGA-II",
//!   2002): a case at the smallest or largest value of an objective, and every case of at most two, is at infinite distance;
//!   otherwise it is the sum over the objectives of (next larger value - next smaller value) / (largest - smallest),
//!   neighbours among equal values by index. An objective whose values are all equal adds nothing and has no ends.
//!
//! So the cases that survive are spread over a front however many do, and fewer survivors are always the first of more.
//! Distances are compared exactly. It must depend on nothing but values and indices.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use num_bigint::BigInt;

use super::candidate::Candidate;
use super::exact::{Column, Scale};

/// A candidate of a front.
#[derive(Debug)]
pub(super) struct Placed {
    pub candidate: Candidate,
    /// Indices of those with the same values, ascending.
    pub equals: Vec<u64>,
    /// From 0, the best.
    pub front: usize,
    /// Its distance when only those before it are left.
    pub crowding: f64,
}

/// The candidates, best first, `most` at most.
pub(super) fn rank(all: Vec<Candidate>, most: usize) -> Vec<Placed> {
    let mut ranked = Vec::new();
    for (front, mut members) in fronts(distinct(all), most).into_iter().enumerate() {
        let order = thinned(&members.iter().map(|member| &member.candidate).collect::<Vec<_>>());
        let mut places: Vec<Option<Distinct>> = members.drain(..).map(Some).collect();
        ranked.extend(order.into_iter().filter_map(|(position, crowding)| {
            let Distinct { candidate, equals } = places.get_mut(position)?.take()?;
            Some(Placed { candidate, equals, front, crowding })
        }));
    }
    ranked.truncate(most);
    ranked
}

#[derive(Debug)]
struct Distinct {
    candidate: Candidate,
    equals: Vec<u64>,
}

/// One of those with equal values, in lexicographic order.
fn distinct(mut all: Vec<Candidate>) -> Vec<Distinct> {
    all.sort_unstable();
    let mut kept: Vec<Distinct> = Vec::new();
    for candidate in all {
        match kept.last_mut() {
            Some(last) if last.candidate.costs == candidate.costs => last.equals.push(candidate.index),
            _ => kept.push(Distinct { candidate, equals: Vec::new() }),
        }
    }
    kept
}

/// Non-dominated fronts, best first, as far as `most` survivors need them.
///
/// "Efficient non-dominated sort, sequential search" (Zhang et al., 2015): in lexicographic order nothing is
/// dominated by what comes later, so each candidate goes to the first front of which no member dominates it. O(n log n)
/// for two objectives and few fronts, O(n^2) at worst.
fn fronts(sorted: Vec<Distinct>, most: usize) -> Vec<Vec<Distinct>> {
    let mut fronts: Vec<Vec<Distinct>> = Vec::new();
    for member in sorted {
        let mut ahead = 0;
        let mut home = None;
        for (position, front) in fronts.iter().enumerate() {
            // As many as may survive are in better fronts already: neither it nor its front matters any more.
            if ahead >= most {
                break;
            }
            if !dominated(&member.candidate, front) {
                home = Some(position);
                break;
            }
            ahead += front.len();
        }
        match home.and_then(|position| fronts.get_mut(position)) {
            Some(front) => front.push(member),
            None if ahead < most => fronts.push(vec![member]),
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
fn dominated(candidate: &Candidate, front: &[Distinct]) -> bool {
    let beaten = |member: &Distinct| dominates(&member.candidate, candidate);
    if candidate.costs.len() <= 2 {
        // The last member has the front's smallest second cost.
        return front.last().is_some_and(beaten);
    }
    front.iter().rev().any(beaten)
}

/// Nowhere worse and somewhere better.
fn dominates(a: &Candidate, b: &Candidate) -> bool {
    let mut pairs = a.costs.iter().zip(&b.costs);
    pairs.clone().all(|(a, b)| a <= b) && pairs.any(|(a, b)| a < b)
}

/// How far a member is from its neighbours; the infinite is the largest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Distance {
    Finite(BigInt),
    Infinite,
}

/// Positions of a front's members, best first, each with its crowding distance when those after it are gone.
///
/// O(n log n): who leaves at a finite distance is no end, so the ends stay; and of members that are all ends none is
/// measured again until an objective has a single value left.
fn thinned(members: &[&Candidate]) -> Vec<(usize, f64)> {
    let mut crowd = Crowd::new(members);
    let mut order = Vec::with_capacity(members.len());
    while let Some((position, distance)) = crowd.leave() {
        order.push((position, distance));
    }
    order.reverse();
    order
}

/// One objective's members that are left, as a list in order of value, then index.
struct Chain {
    values: Vec<BigInt>,
    /// Neighbours of each member; `None` at an end.
    links: Vec<(Option<usize>, Option<usize>)>,
    first: usize,
    last: usize,
}

impl Chain {
    fn new(members: &[&Candidate], objective: usize) -> Self {
        let cost = |member: &&Candidate| member.costs.get(objective).copied().unwrap_or(0.0);
        let values = Column::of(members.iter().map(cost)).values;
        let mut order: Vec<(&BigInt, u64, usize)> =
            values.iter().zip(members).zip(0..).map(|((value, member), at)| (value, member.index, at)).collect();
        order.sort_unstable();
        let mut links = vec![(None, None); members.len()];
        for (before, after) in order.iter().zip(order.iter().skip(1)) {
            if let Some(link) = links.get_mut(before.2) {
                link.1 = Some(after.2);
            }
            if let Some(link) = links.get_mut(after.2) {
                link.0 = Some(before.2);
            }
        }
        let end = |end: Option<&(&BigInt, u64, usize)>| end.map_or(0, |end| end.2);
        Self { first: end(order.first()), last: end(order.last()), links, values }
    }

    /// Whether its values differ: only then has it ends.
    fn has_ends(&self) -> bool {
        self.values.get(self.first) != self.values.get(self.last)
    }

    fn value(&self, position: usize) -> BigInt {
        self.values.get(position).cloned().unwrap_or_default()
    }

    fn span(&self) -> BigInt {
        self.value(self.last) - self.value(self.first)
    }

    /// Takes a member out; its neighbours.
    fn unlink(&mut self, position: usize) -> (Option<usize>, Option<usize>) {
        let (before, after) = self.links.get(position).copied().unwrap_or_default();
        match before.and_then(|before| self.links.get_mut(before)) {
            Some(link) => link.1 = after,
            None => self.first = after.unwrap_or(self.first),
        }
        match after.and_then(|after| self.links.get_mut(after)) {
            Some(link) => link.0 = before,
            None => self.last = before.unwrap_or(self.last),
        }
        (before, after)
    }
}

/// The members of a front that are left.
struct Crowd {
    indices: Vec<u64>,
    chains: Vec<Chain>,
    scale: Scale,
    /// `None` for who left.
    distances: Vec<Option<Distance>>,
    /// The next to leave on top; entries that no longer fit their member's distance are passed over.
    queue: BinaryHeap<Reverse<(Distance, Reverse<u64>, usize)>>,
    left: usize,
    /// Distances that were taken: what the whole costs.
    #[cfg(test)]
    measured: usize,
}

impl Crowd {
    fn new(members: &[&Candidate]) -> Self {
        let objectives = members.first().map_or(0, |member| member.costs.len());
        let mut crowd = Self {
            indices: members.iter().map(|member| member.index).collect(),
            chains: (0..objectives).map(|objective| Chain::new(members, objective)).collect(),
            scale: Scale::new(std::iter::empty(), &[]),
            distances: vec![Some(Distance::Infinite); members.len()],
            queue: BinaryHeap::new(),
            left: members.len(),
            #[cfg(test)]
            measured: 0,
        };
        crowd.measure_all();
        crowd
    }

    /// Takes the most crowded one out: its position and its distance.
    fn leave(&mut self) -> Option<(usize, f64)> {
        let (position, distance) = loop {
            let Reverse((distance, _, position)) = self.queue.pop()?;
            if self.distances.get(position).is_some_and(|now| now.as_ref() == Some(&distance)) {
                break (position, distance);
            }
        };
        let shown = match &distance {
            Distance::Finite(sum) => self.scale.shown(sum),
            Distance::Infinite => f64::INFINITY,
        };
        if let Some(gone) = self.distances.get_mut(position) {
            *gone = None;
        }
        self.left -= 1;
        // The finite leave first. A case that is an end stays one, whichever other case leaves, as long as the objective has ends.
        let all_infinite = distance == Distance::Infinite;
        let mut anew = self.left == 2 && !all_infinite;
        let mut touched = Vec::new();
        for chain in &mut self.chains {
            let had_ends = chain.has_ends();
            let (before, after) = chain.unlink(position);
            touched.extend([before, after].into_iter().flatten());
            anew |= had_ends && !chain.has_ends();
        }
        if anew {
            self.measure_all();
        } else if !all_infinite {
            for position in touched {
                self.measure(position);
            }
        }
        Some((position, shown))
    }

    fn measure_all(&mut self) {
        let spans: Vec<BigInt> = self.chains.iter().map(Chain::span).collect();
        self.scale = Scale::new(spans.iter().map(|_| 1.0), &spans);
        self.queue.clear();
        for position in 0..self.distances.len() {
            if self.distances.get(position).is_some_and(Option::is_some) {
                self.measure(position);
            }
        }
    }

    fn measure(&mut self, position: usize) {
        #[cfg(test)]
        {
            self.measured += 1;
        }
        let distance = self.distance(position);
        let index = self.indices.get(position).copied().unwrap_or(0);
        self.queue.push(Reverse((distance.clone(), Reverse(index), position)));
        if let Some(place) = self.distances.get_mut(position) {
            *place = Some(distance);
        }
    }

    fn distance(&self, position: usize) -> Distance {
        let mut gaps = Vec::with_capacity(self.chains.len());
        for chain in &self.chains {
            let value = chain.value(position);
            let (min, max) = (chain.value(chain.first), chain.value(chain.last));
            let gap = match chain.links.get(position) {
                _ if min == max => BigInt::ZERO,
                Some((Some(before), Some(after))) if value > min && value < max => {
                    chain.value(*after) - chain.value(*before)
                }
                _ => return Distance::Infinite,
            };
            gaps.push(gap);
        }
        match self.left {
            0..=2 => Distance::Infinite,
            _ => Distance::Finite(self.scale.sum(gaps.into_iter())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many distances are taken until all members are gone.
    fn measured(members: &[Vec<f64>]) -> usize {
        let members: Vec<Candidate> =
            (0..).zip(members).map(|(index, costs)| Candidate { index, costs: costs.clone() }).collect();
        let mut crowd = Crowd::new(&members.iter().collect::<Vec<_>>());
        while crowd.leave().is_some() {}
        crowd.measured
    }

    /// One of two values in an objective makes every member an end.
    #[test]
    fn members_that_are_all_ends_are_not_measured_again_at_each_that_leaves() {
        let count = 400;
        let front = |third: fn(i32) -> f64| {
            let member = |number: i32| vec![f64::from(number), f64::from(-number), third(number)];
            (0..count).map(member).collect::<Vec<_>>()
        };
        let two_valued = front(|number| f64::from(number % 2));
        let lopsided = front(|number| f64::from(u8::from(number == 200)));
        let spread = front(|number| f64::from(number * 7 % 400));
        for members in [&two_valued, &lopsided, &spread] {
            // At first, once for each objective that loses its ends, and the neighbours of each that leaves.
            let most = members.len() * (2 + 3 + 2 * 3);
            let measured = measured(members);
            assert!(measured <= most, "{measured} of at most {most}");
        }
    }
}
