//! Which replicas of which cases a stage's trials are.
//!
//! Trials are numbered in the order in which they start: round by round, each round one replica of every case that is still there.
//! Even rounds go through the cases upwards, odd ones downwards, so that no case is always the first. Nothing here may
//! need another row than the stage's own, and a stage without rounds is left as it is: there each trial is a case.

use super::StageRow;

/// What of a stage's cases its trials are. Without rounds each trial is a case.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Replicas {
    /// In the order of their trials' numbers.
    pub rounds: Vec<Rounds>,
    /// Cases that have no trial in later rounds, in the order of their derived indices.
    pub left: Vec<LeftCase>,
}

/// Rounds of the same cases, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rounds {
    /// The lowest derived index that a case of them can have.
    pub first_case: u64,
    /// How many cases have a trial in each.
    pub cases: u64,
    /// The replica that the first of them runs, from 0.
    pub first: u32,
    /// How many rounds.
    pub count: u32,
    /// Whether the replicas of one case follow each other, instead of the cases of one round: where a proposer has to hear of each case before
    /// it says the next.
    pub by_case: bool,
}

/// A case that has left a race.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LeftCase {
    /// Its derived index.
    pub case: u64,
    /// The last round that it had a trial in, from 0.
    pub round: u32,
    /// The evidence that it is not among the survivors; `None`: a replica of it failed.
    pub evidence: Option<f64>,
}

impl Rounds {
    fn trials(&self) -> u64 {
        self.cases.saturating_mul(self.count.into())
    }

    /// The replica and the position among the cases of the trial at this place of these rounds.
    fn at(&self, place: u64) -> Option<(u32, u64)> {
        if self.by_case {
            let count = u64::from(self.count);
            return Some((u32::try_from(place.checked_rem(count)?).ok()?, place.checked_div(count)?));
        }
        let (round, position) = (place.checked_div(self.cases)?, place.checked_rem(self.cases)?);
        let replica = self.first.checked_add(u32::try_from(round).ok()?)?;
        Some((replica, self.turned(replica, position)))
    }

    /// The place of a replica of the case at this position.
    fn place(&self, replica: u32, position: u64) -> Option<u64> {
        let round = replica.checked_sub(self.first).filter(|round| *round < self.count)?;
        if position >= self.cases {
            return None;
        }
        match self.by_case {
            true => position.checked_mul(self.count.into())?.checked_add(round.into()),
            false => u64::from(round).checked_mul(self.cases)?.checked_add(self.turned(replica, position)),
        }
    }

    fn turned(&self, replica: u32, position: u64) -> u64 {
        match replica % 2 {
            0 => position,
            _ => self.cases.saturating_sub(1).saturating_sub(position),
        }
    }
}

impl Replicas {
    /// The case at a position among those that have a trial in this round.
    fn case_at(&self, first_case: u64, position: u64, replica: u32) -> Option<u64> {
        let mut case = first_case.checked_add(position)?;
        for left in self.left.iter().filter(|left| left.round < replica && left.case >= first_case) {
            if left.case <= case {
                case = case.checked_add(1)?;
            }
        }
        Some(case)
    }

    fn position_of(&self, first_case: u64, case: u64, replica: u32) -> Option<u64> {
        let gone = self.left.iter().filter(|left| left.round < replica && left.case >= first_case);
        let mut below = 0;
        for left in gone.take_while(|left| left.case <= case) {
            if left.case == case {
                return None;
            }
            below += 1;
        }
        case.checked_sub(first_case)?.checked_sub(below)
    }
}

impl StageRow {
    /// Whether its trials are replicas of cases.
    #[must_use]
    pub fn is_replicated(&self) -> bool {
        !self.replicas.rounds.is_empty()
    }

    /// How many rounds are planned; 0 where each trial is a case.
    #[must_use]
    pub fn rounds(&self) -> u32 {
        self.replicas.rounds.iter().map(|rounds| rounds.first.saturating_add(rounds.count)).max().unwrap_or(0)
    }

    /// How many cases its trials are of.
    #[must_use]
    pub fn cases(&self) -> u64 {
        if !self.is_replicated() {
            return self.planned;
        }
        let of_first = self.replicas.rounds.iter().filter(|rounds| rounds.first == 0);
        of_first.fold(0, |sum, rounds| sum.saturating_add(rounds.cases))
    }

    /// The case and the replica of the trial at this place; `None` where each trial is a case, and for a place that is not planned.
    #[must_use]
    pub fn replica_of(&self, index: u64) -> Option<(u64, u32)> {
        let mut left = index;
        for rounds in &self.replicas.rounds {
            if left < rounds.trials() {
                let (replica, position) = rounds.at(left)?;
                return Some((self.replicas.case_at(rounds.first_case, position, replica)?, replica));
            }
            left -= rounds.trials();
        }
        None
    }

    /// The place of a replica of a case: in a stage whose trials are cases, that of replica 0 is the case's.
    #[must_use]
    pub fn place_of(&self, case: u64, replica: u32) -> Option<u64> {
        if !self.is_replicated() {
            return (replica == 0 && case < self.planned).then_some(case);
        }
        let mut before: u64 = 0;
        for rounds in &self.replicas.rounds {
            let position = self.replicas.position_of(rounds.first_case, case, replica);
            if let Some(place) = position.and_then(|position| rounds.place(replica, position)) {
                return before.checked_add(place);
            }
            before = before.saturating_add(rounds.trials());
        }
        None
    }

    /// The case of the trial at this place.
    #[must_use]
    pub fn case_of(&self, index: u64) -> Option<u64> {
        match self.is_replicated() {
            true => self.replica_of(index).map(|(case, _)| case),
            false => (index < self.planned).then_some(index),
        }
    }

    /// The places of all replicas of a case, in the order of the replicas.
    pub fn places_of(&self, case: u64) -> impl Iterator<Item = u64> + use<'_> {
        let rounds = if self.is_replicated() { self.rounds() } else { 1 };
        (0..rounds).filter_map(move |replica| self.place_of(case, replica))
    }

    /// How a case left its race, if it did.
    #[must_use]
    pub fn left(&self, case: u64) -> Option<&LeftCase> {
        let place = self.replicas.left.binary_search_by_key(&case, |left| left.case).ok()?;
        self.replicas.left.get(place)
    }

    /// How many cases have not left their race.
    #[must_use]
    pub fn racing(&self) -> u64 {
        self.cases().saturating_sub(self.replicas.left.len() as u64)
    }

    /// Notes who has left after the last round that is planned. Whether each was still there, and had a trial in it.
    pub(crate) fn leave(&mut self, left: &[LeftCase]) -> bool {
        let Some(last) = self.rounds().checked_sub(1) else { return false };
        for case in left {
            let place = self.replicas.left.binary_search_by_key(&case.case, |left| left.case);
            match place {
                Err(place) if case.case < self.cases() && case.round == last => {
                    self.replicas.left.insert(place, *case)
                }
                _ => return false,
            }
        }
        true
    }

    /// Adds rounds of the cases that are still there. Whether they could be.
    pub(crate) fn add_rounds(&mut self, count: u32, by_case: bool) -> bool {
        let (first, cases) = match self.is_replicated() {
            true => (self.rounds(), self.racing()),
            false => (0, self.planned),
        };
        let proposed = by_case && first == 0;
        if count == 0 || (cases == 0 && !proposed) || (by_case && first > 0) {
            return false;
        }
        if first == 0 {
            self.planned = 0;
        }
        let added = Rounds { first_case: 0, cases, first, count, by_case };
        let Some(planned) = cases.checked_mul(count.into()).and_then(|trials| trials.checked_add(self.planned))
        else {
            return false;
        };
        self.planned = planned;
        match self.replicas.rounds.last_mut() {
            // Nobody left since: the rounds before just go on.
            Some(last) if last.cases == cases && last.first_case == 0 && !last.by_case => {
                last.count = last.count.saturating_add(count);
            }
            _ => self.replicas.rounds.push(added),
        }
        true
    }

    /// Adds cases, each with the replicas that the others have; where each trial is a case, that many trials.
    pub(crate) fn add_cases(&mut self, count: u64) {
        if !self.is_replicated() {
            self.planned = self.planned.saturating_add(count);
            return;
        }
        let (first_case, rounds) = (self.cases(), self.rounds());
        match self.replicas.rounds.last_mut() {
            Some(last) if last.by_case => last.cases = last.cases.saturating_add(count),
            _ => {
                let added = Rounds { first_case, cases: count, first: 0, count: rounds, by_case: false };
                self.replicas.rounds.push(added);
            }
        }
        self.planned = self.planned.saturating_add(count.saturating_mul(rounds.into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::StageDecl;

    fn stage(planned: u64) -> StageRow {
        let decl =
            StageDecl { name: "s".into(), trial_budget: 100, survivor_count: 1, objective: None, proposed: false };
        StageRow { planned, ..crate::model::waiting(0, &decl) }
    }

    fn all(stage: &StageRow) -> Vec<(u64, u32)> {
        (0..stage.planned).map(|place| stage.replica_of(place).unwrap()).collect()
    }

    fn both_ways(stage: &StageRow) {
        for (place, (case, replica)) in (0..).zip(all(stage)) {
            assert_eq!(stage.place_of(case, replica), Some(place), "{case} {replica}");
        }
        assert_eq!(stage.replica_of(stage.planned), None);
        let places: u64 = (0..stage.cases()).map(|case| stage.places_of(case).count() as u64).sum();
        assert_eq!(places, stage.planned);
    }

    #[test]
    fn rounds_alternate_and_are_found_both_ways() {
        let mut stage = stage(3);
        assert!(stage.add_rounds(3, false));
        let expected = [(0, 0), (1, 0), (2, 0), (2, 1), (1, 1), (0, 1), (0, 2), (1, 2), (2, 2)];
        assert_eq!(all(&stage), expected);
        both_ways(&stage);
        assert_eq!((stage.cases(), stage.rounds(), stage.planned), (3, 3, 9));
    }

    #[test]
    fn what_is_added_has_the_numbers_after() {
        let mut stage = stage(2);
        assert!(stage.add_rounds(2, false));
        let before = all(&stage);
        stage.add_cases(1);
        assert_eq!(all(&stage)[4..], [(2, 0), (2, 1)]);
        assert!(stage.add_rounds(1, false));
        assert_eq!(all(&stage)[6..], [(0, 2), (1, 2), (2, 2)]);
        assert_eq!(all(&stage)[..4], before);
        both_ways(&stage);
        assert_eq!((stage.cases(), stage.rounds(), stage.planned), (3, 3, 9));
        assert!(!stage.add_rounds(0, false));
    }

    #[test]
    fn a_case_that_left_has_no_trial_in_later_rounds() {
        let mut stage = stage(4);
        assert!(stage.add_rounds(1, false));
        assert!(stage.leave(&[LeftCase { case: 1, round: 0, evidence: None }]));
        assert!(stage.add_rounds(1, false));
        for wrong in [(1, 1), (4, 1), (0, 0)] {
            assert!(!stage.leave(&[LeftCase { case: wrong.0, round: wrong.1, evidence: None }]), "{wrong:?}");
        }
        assert!(stage.leave(&[LeftCase { case: 0, round: 1, evidence: Some(20.5) }]));
        assert!(stage.add_rounds(1, false));
        assert!(stage.add_rounds(1, false));
        let expected = [(0, 0), (1, 0), (2, 0), (3, 0), (3, 1), (2, 1), (0, 1), (2, 2), (3, 2), (3, 3), (2, 3)];
        assert_eq!(all(&stage), expected);
        both_ways(&stage);
        assert_eq!((stage.cases(), stage.replicas.rounds.len()), (4, 3));
        assert_eq!(stage.place_of(1, 1), None);
    }

    #[test]
    fn what_a_proposer_says_has_its_replicas_in_a_row() {
        let mut stage = stage(0);
        assert!(stage.add_rounds(2, true));
        assert_eq!((stage.planned, stage.cases()), (0, 0));
        stage.add_cases(1);
        stage.add_cases(1);
        assert_eq!(all(&stage), [(0, 0), (0, 1), (1, 0), (1, 1)]);
        both_ways(&stage);
        assert!(!stage.add_rounds(1, true));
    }

    #[test]
    fn without_rounds_a_trial_is_a_case() {
        let stage = stage(2);
        assert_eq!((stage.replica_of(0), stage.case_of(1), stage.case_of(2)), (None, Some(1), None));
        assert_eq!((stage.place_of(1, 0), stage.place_of(1, 1), stage.cases()), (Some(1), None, 2));
        assert_eq!(stage.places_of(1).collect::<Vec<_>>(), [1]);
    }
}
