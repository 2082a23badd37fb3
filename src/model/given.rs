//! What an attempt has of what trials share.

use serde::{Deserialize, Serialize};

use super::fold::{Fold, Rows};
use super::ids::{AttemptNo, TrialId};
use super::rows::TrialRow;

/// What an attempt has of one pool while it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// The pool's name.
    pub pool: String,
    /// How much of it.
    pub amount: u64,
    /// Which of its items, so many, in the order in which the study file names them; empty for a pool that has none.
    pub items: Vec<String>,
}

impl Given {
    /// As its trial gets it: the items, joined by commas, or how much.
    #[must_use]
    pub fn text(&self) -> String {
        if self.items.is_empty() { self.amount.to_string() } else { self.items.join(",") }
    }
}

impl TrialRow {
    /// What an attempt has or had, where its stage's trials are given items.
    #[must_use]
    pub fn given(&self, attempt: AttemptNo) -> &[Given] {
        let of = self.given.iter().find(|(of, _)| *of == attempt);
        of.map_or(&[], |(_, given)| given.as_slice())
    }
}

impl Fold {
    /// An attempt that has just begun has this.
    pub(super) fn given<R: Rows>(
        &self,
        rows: &mut R,
        (trial, attempt): (TrialId, AttemptNo),
        given: &[Given],
    ) -> Result<(), R::Error> {
        let runs =
            |row: &TrialRow| row.attempts.last().is_some_and(|last| last.n == attempt && last.outcome.is_none());
        let Some(mut row) = rows.trial(trial)?.filter(|row| runs(row) && row.given(attempt).is_empty()) else {
            return Err(self.misfit(format!("attempt {attempt} of trial {trial} has not just begun")));
        };
        row.given.push((attempt, given.to_vec()));
        rows.put_trial(row)
    }
}
