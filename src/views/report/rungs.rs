//! How well the order of trials at each rung of a stage agrees with the order of what they came to.
//!
//! Only trials that ran to their end came to anything, and those are the ones that were good at the rungs: the numbers are too low
//! where the worst are missing. Nothing here may say more than that.

use maud::{Markup, html};

use super::gather::StageData;
use crate::views::counted;

/// With fewer trials a rank correlation says nothing.
const LEAST: usize = 4;

/// A sentence for each rung at which enough trials that ran to their end were; nothing for a stage without rungs.
pub(super) fn section(stage: &StageData) -> Markup {
    let Some(halving) = &stage.spec.halving else { return html! {} };
    let told: Vec<(u64, f64, usize)> = halving.rungs.iter().filter_map(|at| agreement(stage, *at)).collect();
    html! {
        p {
            "Halving by " code { (halving.metric) } ": "
            @if told.is_empty() { "too few trials ran to their end to compare rungs with what came of them." }
            @for (place, (at, rho, count)) in told.iter().enumerate() {
                @if place > 0 { "; " }
                "the order at step " (at) " agrees with the final one to " strong { (format!("{rho:.2}")) }
                " (" (counted(*count, "trial")) ")"
            }
            @if !told.is_empty() { "." }
        }
        @if !told.is_empty() {
            p .note {
                "Rank correlation (Spearman; 1 is the same order) with the value of the first objective. Pruned trials came to nothing and are "
                "not among these, so it is biased towards those that were good at the rungs."
            }
        }
    }
}

/// The rung's step, Spearman's rank correlation, and of how many trials.
fn agreement(stage: &StageData, at: u64) -> Option<(u64, f64, usize)> {
    let both: Vec<(f64, f64)> = stage
        .valued()
        .filter_map(|(trial, last)| {
            let rung = trial.rungs.iter().find(|rung| rung.at == at)?;
            Some((rung.value?, last))
        })
        .collect();
    if both.len() < LEAST {
        return None;
    }
    let (rungs, last) = both.iter().copied().unzip();
    Some((at, spearman(ranks(rungs), ranks(last))?, both.len()))
}

/// The rank of each value, from 0; equal ones have the mean of theirs.
fn ranks(values: Vec<f64>) -> Vec<f64> {
    let mut sorted: Vec<(usize, f64)> = values.iter().copied().enumerate().collect();
    sorted.sort_by(|(_, a), (_, b)| a.total_cmp(b));
    let mut ranks = vec![0.0; values.len()];
    let mut below = 0;
    for equal in sorted.chunk_by(|(_, a), (_, b)| a == b) {
        #[expect(clippy::cast_precision_loss, reason = "there are fewer trials than a float holds")]
        let rank = below as f64 + (equal.len() as f64 - 1.0) / 2.0;
        for (place, _) in equal {
            if let Some(of) = ranks.get_mut(*place) {
                *of = rank;
            }
        }
        below += equal.len();
    }
    ranks
}

/// Pearson's correlation of ranks; `None` where all are equal.
fn spearman(a: Vec<f64>, b: Vec<f64>) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "there are fewer trials than a float holds")]
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (mean_a, mean_b) = (mean(&a), mean(&b));
    let sum = |of: fn(f64, f64) -> f64| -> f64 { a.iter().zip(&b).map(|(a, b)| of(a - mean_a, b - mean_b)).sum() };
    let spread = (sum(|a, _| a * a) * sum(|_, b| b * b)).sqrt();
    (spread > 0.0).then(|| sum(|a, b| a * b) / spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(a: &[f64], b: &[f64]) -> Option<f64> {
        spearman(ranks(a.to_vec()), ranks(b.to_vec()))
    }

    #[test]
    fn the_same_order_is_one_and_the_other_way_round_is_minus_one() {
        assert_eq!(of(&[1.0, 5.0, 9.0, 70.0], &[0.1, 0.2, 0.3, 0.4]), Some(1.0));
        assert_eq!(of(&[1.0, 5.0, 9.0, 70.0], &[4.0, 3.0, 2.0, 1.0]), Some(-1.0));
        assert_eq!(of(&[1.0, 1.0, 1.0], &[1.0, 2.0, 3.0]), None);
    }

    /// By hand: ranks 1.5 1.5 3 4 and 1 2 3 4: covariance 4.5, spreads 4.5 and 5.
    #[test]
    fn equal_values_share_their_ranks() {
        assert_eq!(ranks(vec![2.0, 2.0, 7.0, 9.0]), [0.5, 0.5, 2.0, 3.0]);
        let rho = of(&[2.0, 2.0, 7.0, 9.0], &[1.0, 2.0, 3.0, 4.0]).unwrap();
        assert!((rho - 4.5 / (4.5_f64 * 5.0).sqrt()).abs() < 1e-12, "{rho}");
    }
}
