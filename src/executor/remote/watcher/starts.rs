//! Jobs that could not start, or could not go on for want of something that their node lacks: the machine's doing, never
//! the trial's. Says which places to avoid from now on, and when enough is known to stop trying.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use crate::model::TrialId;

/// So often in a row jobs fail that were submitted after it was known that the ones before had failed.
const ROUNDS: u32 = 3;
/// So often one trial's job fails.
const OF_ONE_TRIAL: u32 = 6;
/// Nodes that are named when the study stops for them.
const NAMED: usize = 3;

#[derive(Debug, Default)]
pub(super) struct Starts {
    /// What went wrong where, by the node's name.
    bad: BTreeMap<String, String>,
    rounds: u32,
    /// When the last one failed that counts as a round.
    last: Option<Instant>,
    of_trials: HashMap<TrialId, u32>,
}

/// A job that failed so.
#[derive(Debug)]
pub(super) struct FailedStart<'a> {
    pub(super) trial: TrialId,
    pub(super) node: Option<&'a str>,
    pub(super) why: &'a str,
    pub(super) submitted: Instant,
    pub(super) now: Instant,
}

impl Starts {
    /// Notes one; why no more are to be submitted, if that is so.
    pub(super) fn failed(&mut self, start: &FailedStart<'_>) -> Option<String> {
        if let Some(node) = start.node {
            self.bad.entry(node.to_owned()).or_insert_with(|| start.why.to_owned());
        }
        // Many may have been on their way to the same node before anybody knew.
        if self.last.is_none_or(|last| start.submitted >= last) {
            self.rounds += 1;
            self.last = Some(start.now);
        }
        let of_trial = self.of_trials.entry(start.trial).or_default();
        *of_trial += 1;
        (self.rounds >= ROUNDS || *of_trial >= OF_ONE_TRIAL)
            .then(|| format!("jobs cannot start: {}", self.words(start.why)))
    }

    /// A job ran to a result: the cluster is not to blame for all.
    pub(super) fn went_well(&mut self, trial: TrialId) {
        self.rounds = 0;
        self.of_trials.remove(&trial);
    }

    /// Why no place may be left, if places are avoided.
    pub(super) fn nothing_left(&self, refusal: &str) -> Option<String> {
        let why = self.bad.values().next()?;
        Some(format!("jobs cannot start: {}; no other node takes them ({refusal})", self.words(why)))
    }

    fn words(&self, last: &str) -> String {
        let mut pieces: Vec<String> =
            self.bad.iter().take(NAMED).map(|(node, why)| format!("on {node}: {why}")).collect();
        if self.bad.is_empty() {
            pieces.push(last.to_owned());
        }
        let more = self.bad.len().saturating_sub(NAMED);
        if more > 0 {
            pieces.push(format!("and on {more} more"));
        }
        pieces.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_on_one_node_is_one_round() {
        let (mut starts, begun) = (Starts::default(), Instant::now());
        let at = |s: u64| begun + Duration::from_secs(s);
        let fail = |starts: &mut Starts, trial: u64, node, submitted, now| {
            let (trial, submitted, now) = (TrialId(trial), at(submitted), at(now));
            starts.failed(&FailedStart { trial, node: Some(node), why: "no share", submitted, now })
        };
        for trial in 0..50 {
            assert_eq!(fail(&mut starts, trial, "n1", 1, 2), None);
        }
        assert_eq!(fail(&mut starts, 50, "n2", 3, 4), None);
        assert!(starts.nothing_left("no").is_some_and(|why| why.contains("on n1: no share; on n2: no share")));
        starts.went_well(TrialId(3));
        assert_eq!(fail(&mut starts, 51, "n3", 5, 6), None);
        assert_eq!(fail(&mut starts, 52, "n4", 7, 8), None);
        let why = fail(&mut starts, 53, "n5", 9, 10).unwrap();
        assert!(why.contains("on n1: no share") && why.ends_with("and on 2 more"), "{why}");
        // One that nothing else is known of.
        let mut starts = Starts::default();
        for _ in 1..OF_ONE_TRIAL {
            starts.went_well(TrialId(1));
            let _ = fail(&mut starts, 2, "n1", 1, 1);
        }
        starts.went_well(TrialId(1));
        assert!(fail(&mut starts, 2, "n1", 1, 1).is_some());
    }
}
