//! What is ranked when a stage closes: a case's objective values and its place.
//!
//! The order is total and the same everywhere; whatever else a selection method goes by is its own.

use std::cmp::Ordering;

/// A candidate; the greater, the worse.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    /// Of the objectives in order, turned so that smaller is better; minus zero is zero.
    pub costs: Vec<f64>,
    pub index: u64,
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
