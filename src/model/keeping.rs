//! What is kept of the directories that trials leave, and what was discarded of them.
//!
//! A discard is recorded before anything of it is removed, so that what is gone is told from what was lost. It changes no result. Which
//! of a directory's files a level keeps is said where they are removed.

use serde::{Deserialize, Serialize};

use super::event::Event;
use super::fold::{Fold, Rows};
use super::ids::{AttemptNo, StageIndex, TrialId};
use super::named::named;
use super::rows::{StageStatus, TrialRow};

/// How much is kept of what a trial left; a later one keeps less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kept {
    /// Everything.
    #[default]
    All,
    /// Declared outputs, metrics with the files that they are read from, and logs.
    Outputs,
    /// What it printed and reported.
    Logs,
    /// Nothing: its directory is gone.
    Nothing,
}

named!(Kept {
    All => "all",
    Outputs => "outputs",
    Logs => "logs",
    Nothing => "nothing",
});

impl Kept {
    /// What it keeps, before `kept`.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::All => "everything is",
            Self::Outputs => "outputs, metrics and logs alone are",
            Self::Logs => "logs alone are",
            Self::Nothing => "nothing is",
        }
    }

    /// Whether all is kept.
    #[must_use]
    pub(crate) fn is_all(&self) -> bool {
        *self == Self::All
    }
}

/// `keep`: how much is kept of a stage's trials.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keep {
    /// Of those that survived.
    #[serde(default, skip_serializing_if = "Kept::is_all")]
    pub survivors: Kept,
    /// Of those that neither survived nor failed.
    #[serde(default, skip_serializing_if = "Kept::is_all")]
    pub others: Kept,
    /// Of those that failed.
    #[serde(default, skip_serializing_if = "Kept::is_all")]
    pub failed: Kept,
}

impl Keep {
    /// Whether everything is kept.
    #[must_use]
    pub(crate) fn is_everything(&self) -> bool {
        *self == Self::default()
    }

    /// Its parts, by their names.
    #[must_use]
    pub const fn parts(&self) -> [(&'static str, Kept); 3] {
        [("survivors", self.survivors), ("others", self.others), ("failed", self.failed)]
    }

    /// The part of this name.
    pub(crate) fn part_mut(&mut self, name: &str) -> Option<&mut Kept> {
        match name {
            "survivors" => Some(&mut self.survivors),
            "others" => Some(&mut self.others),
            "failed" => Some(&mut self.failed),
            _ => None,
        }
    }
}

/// That of a trial's first attempts no more is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Discarded {
    /// The last attempt that it is about; 0: its result was made elsewhere.
    pub up_to: AttemptNo,
    /// What stayed.
    pub keeps: Kept,
}

/// How far a closed stage's `keep` was applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tidied {
    /// Not at all.
    #[default]
    No,
    /// To all but survivors, whose children are still to run.
    Others,
    /// To all of its trials.
    All,
}

named!(Tidied {
    No => "no",
    Others => "others",
    All => "all",
});

/// Trials one after the other of which no more than this is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiscardRun {
    /// The first of them.
    pub first: TrialId,
    /// How many.
    pub count: u64,
    /// What stays of each.
    pub keeps: Kept,
}

/// Directories of a stage's trials are discarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoriesDiscarded {
    /// Its stage's index, from 0.
    pub stage: StageIndex,
    /// How far its `keep` is applied by this.
    pub tidied: Tidied,
    /// Whose.
    pub runs: Vec<DiscardRun>,
}

impl DirectoriesDiscarded {
    /// How many trials' directories.
    #[must_use]
    pub fn trials(&self) -> u64 {
        self.runs.iter().fold(0, |sum, run| sum.saturating_add(run.count))
    }
}

impl TrialRow {
    /// How much is kept of an attempt; of a result that was made elsewhere, of attempt 0.
    #[must_use]
    pub(crate) fn kept_of(&self, attempt: AttemptNo) -> Kept {
        let about = self.discarded.iter().filter(|discarded| discarded.up_to >= attempt);
        about.map(|discarded| discarded.keeps).max().unwrap_or_default()
    }

    /// Notes that no more is kept of all its attempts.
    pub(crate) fn discard(&mut self, keeps: Kept) {
        let up_to = AttemptNo::try_from(self.attempts.len()).unwrap_or(AttemptNo::MAX);
        if self.kept_of(up_to) < keeps {
            self.discarded.retain(|earlier| earlier.keeps > keeps);
            self.discarded.push(Discarded { up_to, keeps });
        }
    }
}

impl Fold {
    /// What is kept of trials.
    pub(super) fn keeping<R: Rows>(&self, rows: &mut R, event: &Event) -> Result<(), R::Error> {
        let (index, finished) = match event {
            Event::DirectoriesDiscarded(discarded) => (discarded.stage, None),
            Event::DiscardFinished { stage, .. } => (*stage, Some(())),
            _ => return Ok(()),
        };
        let Some(mut stage) = rows.stage(index)?.filter(|stage| stage.status != StageStatus::Waiting) else {
            return Err(self.misfit(format!("stage {index} has not begun")));
        };
        if finished.is_some() {
            if !stage.discarding {
                return Err(self.misfit(format!("nothing of stage {index} is discarded")));
            }
            stage.discarding = false;
            return rows.put_stage(stage);
        }
        let Event::DirectoriesDiscarded(discarded) = event else { return Ok(()) };
        for run in &discarded.runs {
            let last = TrialId(run.first.0.saturating_add(run.count.saturating_sub(1)));
            if run.count == 0 || run.keeps.is_all() || !stage.contains(run.first) || !stage.contains(last) {
                return Err(
                    self.misfit(format!("{} trials from {} on are not discarded so", run.count, run.first))
                );
            }
            for number in run.first.0..=last.0 {
                let Some(mut row) = rows.trial(TrialId(number))?.filter(|row| row.state.is_final()) else {
                    return Err(self.misfit(format!("trial {number} is not finished")));
                };
                row.discard(run.keeps);
                rows.put_trial(row)?;
            }
        }
        stage.tidied = stage.tidied.max(discarded.tidied);
        stage.discarding |= !discarded.runs.is_empty();
        rows.put_stage(stage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::AttemptRow;

    #[test]
    fn later_attempts_are_kept_and_what_is_gone_does_not_come_back() {
        let mut row = TrialRow::new(TrialId(1), 0);
        let attempt = |row: &mut TrialRow| {
            let n = row.attempts.len() as AttemptNo + 1;
            row.attempts.push(AttemptRow::begun(n, 0, 0));
        };
        attempt(&mut row);
        row.discard(Kept::Nothing);
        attempt(&mut row);
        assert_eq!([1, 2].map(|attempt| row.kept_of(attempt)), [Kept::Nothing, Kept::All]);
        row.discard(Kept::Outputs);
        row.discard(Kept::Outputs);
        assert_eq!(
            [0, 1, 2, 3].map(|attempt| row.kept_of(attempt)),
            [Kept::Nothing, Kept::Nothing, Kept::Outputs, Kept::All]
        );
        row.discard(Kept::Logs);
        assert_eq!(row.discarded.len(), 2, "{:?}", row.discarded);
        row.discard(Kept::Nothing);
        assert_eq!(row.discarded, [Discarded { up_to: 2, keeps: Kept::Nothing }]);
        row.discard(Kept::Outputs);
        assert_eq!(row.discarded.len(), 1);
    }
}
