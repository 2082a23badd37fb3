//! What paired measurements say, by counting: how much evidence there is that one side wins more often than it loses, and
//! what may be concluded from it.
//!
//! Everything rests on [`evidence`]. If a win is no more likely than a loss, whatever happened before, it exceeds
//! `1 / alpha` at any time with a probability of at most `alpha` (Ville), for any distribution, drift and number of looks.
//! So a race may look after each round, and more replicas may be added to a comparison that was looked at before. Pure, of
//! `+ - * /` alone and in one order, so that every machine gives the same bits. Nothing here may look at anything but
//! counts and numbers.

/// The shares of its capital that each of four gamblers stakes on "wins", in sixteenths.
const STAKES: [u8; 4] = [4, 8, 12, 15];

/// So many pairs are counted at most, since more products would leave the range of floats.
pub(crate) const PAIRS_MAX: u32 = 1000;

/// How much so many wins and losses speak against "a win is no more likely than a loss": the mean capital of four gamblers
/// who begin with 1. Ties count as neither.
///
/// Of more than [`PAIRS_MAX`] pairs wins are left out first, so that the evidence is understated and never overstated.
pub(crate) fn evidence(wins: u32, losses: u32) -> f64 {
    let losses = losses.min(PAIRS_MAX);
    let wins = wins.min(PAIRS_MAX - losses);
    let mut total = 0.0;
    for stake in STAKES {
        let (won, lost) = (f64::from(16 + stake) / 16.0, f64::from(16 - stake) / 16.0);
        let mut capital = 1.0;
        for _ in 0..wins {
            capital *= won;
        }
        for _ in 0..losses {
            capital *= lost;
        }
        total += capital;
    }
    total / 4.0
}

/// How the pairs of a comparison fell, by how much worse each got and what it may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Worse by more than the margin.
    pub worse: u32,
    /// At most the margin away; the margin itself is within.
    pub within: u32,
    /// Better by more than the margin.
    pub better: u32,
}

/// What a comparison comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Typically worse by more than the margin.
    Worse,
    /// Typically better by more than the margin.
    Better,
    /// Typically neither.
    Equivalent,
    /// The pairs do not say.
    Inconclusive,
}

/// The evidence for each statement that a comparison can come to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Statements {
    pub worse: f64,
    pub better: f64,
    pub not_worse: f64,
    pub not_better: f64,
}

impl Tally {
    /// Of how much worse each pair got, with the same margin for all.
    #[cfg(test)]
    pub(crate) fn of(differences: &[f64], margin: f64) -> Self {
        let mut tally = Self::default();
        for difference in differences {
            match difference {
                worse if *worse > margin => tally.worse += 1,
                better if *better < -margin => tally.better += 1,
                _ => tally.within += 1,
            }
        }
        tally
    }

    /// How many pairs there are.
    pub(crate) fn pairs(self) -> u32 {
        self.worse.saturating_add(self.within).saturating_add(self.better)
    }

    pub(crate) fn statements(self) -> Statements {
        let Self { worse, within, better } = self;
        let (not_worse, not_better) = (within.saturating_add(better), worse.saturating_add(within));
        Statements {
            worse: evidence(worse, not_worse),
            better: evidence(better, not_better),
            not_worse: evidence(not_worse, worse),
            not_better: evidence(not_better, better),
        }
    }

    /// The same with one level for all.
    #[cfg(test)]
    pub(crate) fn verdict(self, level: f64) -> Verdict {
        self.verdict_at(level, level)
    }

    /// The first statement for which there is enough evidence, with a level for a change (worse, better) and another one for none.
    pub(crate) fn verdict_at(self, changed: f64, unchanged: f64) -> Verdict {
        let statements = self.statements();
        if statements.worse >= changed {
            Verdict::Worse
        } else if statements.better >= changed {
            Verdict::Better
        } else if statements.not_worse.min(statements.not_better) >= unchanged {
            Verdict::Equivalent
        } else {
            Verdict::Inconclusive
        }
    }

    /// The fewest further pairs that would decide if all of them fell alike, and what they would decide; of equally many
    /// the first of worse, better, equivalent. `None`: none that are still counted could.
    pub(crate) fn would_decide(self, changed: f64, unchanged: f64) -> Option<(u32, Verdict)> {
        let more = |verdict, count| {
            let mut tally = self;
            match verdict {
                Verdict::Worse => tally.worse = tally.worse.saturating_add(count),
                Verdict::Better => tally.better = tally.better.saturating_add(count),
                Verdict::Equivalent | Verdict::Inconclusive => tally.within = tally.within.saturating_add(count),
            }
            tally
        };
        let left = PAIRS_MAX.saturating_sub(self.pairs());
        let fewest = |verdict: Verdict| {
            // More pairs of a kind add to the evidence for it, so the fewest are found by halving.
            let decides = |count| more(verdict, count).verdict_at(changed, unchanged) == verdict;
            let (mut low, mut high) = (0, left);
            while low < high {
                let middle = low + (high - low) / 2;
                if decides(middle) { high = middle } else { low = middle + 1 }
            }
            decides(low).then_some((low, verdict))
        };
        let all = [Verdict::Worse, Verdict::Better, Verdict::Equivalent];
        all.into_iter().filter_map(fewest).min_by_key(|(count, _)| *count)
    }
}

/// e-Benjamini-Hochberg: which of many lines may be called, in their order, so that false ones are at most a share `alpha`
/// of those called, on average. The lines may hang together in any way. Not for evidences of which the largest so far is kept.
pub(crate) fn e_bh(evidences: &[f64], alpha: f64) -> Vec<usize> {
    let mut order: Vec<(usize, f64)> = evidences.iter().copied().enumerate().collect();
    order.sort_by(|(a, x), (b, y)| y.total_cmp(x).then(a.cmp(b)));
    let needed = as_float(evidences.len()) / alpha;
    let enough = |place: &usize| order.get(*place).is_some_and(|(_, e)| as_float(place + 1) * e >= needed);
    let called = (0..order.len()).rev().find(enough).map_or(0, |place| place + 1);
    let mut called: Vec<usize> = order.into_iter().take(called).map(|(line, _)| line).collect();
    called.sort_unstable();
    called
}

/// Bounds of the median difference, valid at any time: all margins that neither side of the sign test refutes at twice
/// `level`. `None`: there are too few differences for a bound.
pub(crate) fn interval(differences: &[f64], level: f64) -> (Option<f64>, Option<f64>) {
    let mut sorted = differences.to_vec();
    sorted.sort_by(f64::total_cmp);
    let count = u32::try_from(sorted.len()).unwrap_or(u32::MAX);
    let refuted = |losses: &u32| evidence(count - losses, *losses) >= 2.0 * level;
    // As many losses as leave too little evidence.
    let Some(last) = (0..count).take_while(refuted).last() else { return (None, None) };
    let last = last as usize;
    (sorted.get(last).copied(), sorted.len().checked_sub(last + 1).and_then(|place| sorted.get(place).copied()))
}

/// Exact up to 2^53, which no list reaches.
#[expect(clippy::cast_precision_loss, reason = "a list's length is below 2^53")]
pub(super) const fn as_float(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn r1_known_evidence_to_the_bit() {
        let known = [
            (0, 0, 1.0),
            (1, 0, 1.609375),
            (0, 1, 0.390625),
            (5, 0, 13.590369939804077),
            (6, 0, 24.20689107477665),
            (9, 1, 21.835127494363178),
            (12, 2, 25.778966673563225),
            (12, 0, 941.910901554105),
            (20, 5, 48.97422292561407),
            (15, 15, 0.09829499616965594),
        ];
        for (wins, losses, expected) in known {
            let found: f64 = evidence(wins, losses);
            assert_eq!(found.to_bits(), f64::to_bits(expected), "E({wins}, {losses}) = {found}");
        }
    }

    #[test]
    fn r2_wins_that_reach_a_level() {
        let table = [
            (10.0, [5, 8, 11]),
            (20.0, [6, 9, 12]),
            (40.0, [7, 11, 13]),
            (80.0, [9, 12, 15]),
            (200.0, [10, 13, 16]),
            (320.0, [11, 14, 17]),
            (1280.0, [13, 17, 20]),
        ];
        for (level, expected) in table {
            let first = |losses| (0..99).find(|wins| evidence(*wins, losses) >= level).unwrap();
            assert_eq!([first(0), first(1), first(2)], expected, "level {level}");
        }
    }

    #[test]
    fn c_verdicts_over_rises() {
        use Verdict::{Better, Equivalent, Inconclusive, Worse};
        let cases: [(&[f64], f64, Verdict); 8] = [
            (&[5.1, 4.8, 5.3, 4.9, 5.6, 5.0], 0.0, Worse),
            (&[5.1, 4.8, 5.3, 4.9, 5.6], 0.0, Inconclusive),
            (&[5.1, 4.8, 5.3, -0.2, 4.9, 5.6, 5.0, 4.4, 6.1], 2.0, Inconclusive),
            (&[0.3, -0.4, 0.1, 0.0, -0.2, 0.5], 2.0, Equivalent),
            (&[-3.0, -2.5, -2.8, -3.3, -2.1, -2.6, -2.9], 2.0, Better),
            (&[2.0; 7], 2.0, Equivalent),
            (&[0.0; 8], 0.0, Equivalent),
            (&[1.5, 2.5, 1.0, 3.0, 2.2, 0.4, 2.8, 1.9], 2.0, Inconclusive),
        ];
        for (name, (rises, margin, expected)) in (1..).zip(cases) {
            let rises: Vec<f64> = rises.iter().map(|rise| rise / 100.0).collect();
            assert_eq!(Tally::of(&rises, margin / 100.0).verdict(20.0), expected, "C{name}");
        }
        let statements = |rises: &[f64], margin| Tally::of(rises, margin).statements();
        let near = |found: f64, expected: f64| assert!((found - expected).abs() < 0.005, "{found} for {expected}");
        near(statements(cases[0].0, 0.0).worse, 24.21);
        near(statements(cases[1].0, 0.0).worse, 13.59);
        near(statements(cases[2].0, 2.0).worse, 12.92);
        near(statements(cases[4].0, 2.0).better, 43.65);
        near(statements(cases[6].0, 0.0).not_worse, 79.53);
    }

    #[test]
    fn e_bh_calls_as_many_as_the_evidence_carries() {
        let none: [usize; 0] = [];
        assert_eq!(e_bh(&[70.0, 30.0, 1.0, 0.2], 0.05), none);
        assert_eq!(e_bh(&[45.0, 41.0, 1.0, 0.2], 0.05), [0, 1]);
        assert_eq!(e_bh(&[27.0, 27.0, 28.0, 0.1], 0.05), [0, 1, 2]);
        assert_eq!(e_bh(&[19.0; 4], 0.05), none);
        assert_eq!(e_bh(&[20.0; 4], 0.05), [0, 1, 2, 3]);
        assert_eq!(e_bh(&[79.0, 30.0, 1.0, 0.2], 0.05), none);
        assert_eq!(e_bh(&[], 0.05), none);
    }

    #[test]
    fn an_interval_is_of_order_statistics() {
        // As the reference gives them: seven are the fewest for a bound at 20.
        assert_eq!(interval(&[5.1, 4.8, 5.3, 4.9, 5.6, 5.0], 20.0), (None, None));
        let seven = [-3.0, -2.5, -2.8, -3.3, -2.1, -2.6, -2.9];
        assert_eq!(interval(&seven, 20.0), (Some(-3.3), Some(-2.1)));
        let eleven = [9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 11.0, 12.0];
        assert_eq!(interval(&eleven, 20.0), (Some(2.0), Some(11.0)));
        assert_eq!(interval(&[], 20.0), (None, None));
    }

    #[test]
    fn how_many_more_would_decide() {
        let tally = |worse, within, better| Tally { worse, within, better };
        assert_eq!(tally(0, 0, 0).would_decide(20.0, 20.0), Some((6, Verdict::Worse)));
        assert_eq!(tally(5, 0, 0).would_decide(20.0, 20.0), Some((1, Verdict::Worse)));
        assert_eq!(tally(0, 0, 4).would_decide(20.0, 20.0), Some((2, Verdict::Better)));
        assert_eq!(tally(1, 5, 0).would_decide(20.0, 20.0), Some((4, Verdict::Equivalent)));
        assert_eq!(tally(6, 0, 0).would_decide(20.0, 20.0), Some((0, Verdict::Worse)), "it is decided");
        // Ten lines take ten replicas that agree, 64 take 13.
        assert_eq!(tally(0, 0, 0).would_decide(200.0, 200.0), Some((10, Verdict::Worse)));
        assert_eq!(tally(0, 0, 0).would_decide(1280.0, 1280.0), Some((13, Verdict::Worse)));
        assert_eq!(tally(500, 0, 500).would_decide(20.0, 20.0), None, "no more are counted");
    }

    #[test]
    fn more_pairs_than_are_counted_understate() {
        assert!(evidence(1000, 0).is_finite());
        assert_eq!(evidence(u32::MAX, 0).to_bits(), evidence(1000, 0).to_bits());
        assert_eq!(evidence(u32::MAX, 400).to_bits(), evidence(600, 400).to_bits());
        assert!(evidence(u32::MAX, u32::MAX) < 1.0);
        assert_eq!(Tally { worse: u32::MAX, within: 3, better: 1 }.verdict(20.0), Verdict::Worse);
    }

    proptest! {
        /// A fair bet: half of what a win makes and a loss leaves is what there was. Wins add to it, losses take away.
        #[test]
        fn evidence_is_a_fair_bet(wins in 0_u32..400, losses in 0_u32..400) {
            let (now, won, lost) = (evidence(wins, losses), evidence(wins + 1, losses), evidence(wins, losses + 1));
            let rounding = f64::from(wins + losses + 8) * f64::EPSILON * now;
            prop_assert!((f64::midpoint(won, lost) - now).abs() <= rounding);
            prop_assert!(lost < now && now < won);
        }

        /// At the usual level no two statements that exclude each other are ever both made.
        #[test]
        fn no_contradiction(worse in 0_u32..300, within in 0_u32..300, better in 0_u32..300) {
            let said = Tally { worse, within, better }.statements();
            prop_assert!(said.worse.min(said.better) < 20.0);
            prop_assert!(said.worse.min(said.not_worse) < 20.0);
            prop_assert!(said.better.min(said.not_better) < 20.0);
        }

        /// What would decide does decide, and one fewer does not.
        #[test]
        fn the_fewest_that_decide(worse in 0_u32..40, within in 0_u32..40, better in 0_u32..40) {
            let tally = Tally { worse, within, better };
            let after = |count, verdict| match verdict {
                Verdict::Worse => Tally { worse: worse + count, ..tally },
                Verdict::Better => Tally { better: better + count, ..tally },
                _ => Tally { within: within + count, ..tally },
            };
            let (count, verdict) = tally.would_decide(40.0, 20.0).unwrap();
            prop_assert_eq!(after(count, verdict).verdict_at(40.0, 20.0), verdict);
            for kind in [Verdict::Worse, Verdict::Better, Verdict::Equivalent] {
                for fewer in 0..count {
                    prop_assert!(after(fewer, kind).verdict_at(40.0, 20.0) != kind);
                }
            }
        }
    }
}
