//! What a run of a study came to.

use crate::engine::RunReport;
use crate::engine::resume::ResumeDecision;
use crate::model::{RunEnd, StudyStatus};
use crate::views::Survivor;

/// How a call of [`Study::run`](crate::Study::run) ended.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Outcome {
    /// What was found and decided at the start.
    pub decision: ResumeDecision,
    /// Where the study stands now.
    pub status: StudyStatus,
    /// The survivors of the last stage that closed, best first.
    pub survivors: Vec<Survivor>,
    /// How the run ended; `None` when nothing had to run.
    pub report: Option<RunReport>,
    /// Why the exports in the artifacts directory are not those of the end, in words, if they could not be written. They are
    /// views: the store has everything all the same.
    pub exports_failed: Option<String>,
}

impl Outcome {
    /// Whether every stage is closed.
    #[must_use]
    pub fn is_completed(&self) -> bool {
        self.status == StudyStatus::Completed
    }

    /// Whether nothing is left to do before a person approves the next stage (`piton approve`).
    #[must_use]
    pub fn waits_for_approval(&self) -> bool {
        let ended = self.report.is_some_and(|report| report.how == RunEnd::Waiting);
        ended || self.decision == ResumeDecision::StillWaits
    }

    /// The exit code of the contract: 0 completed, 3 aborted, 8 waits for approval, 75 interrupted and resumable; 1
    /// completed, but the exports could not be written.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self.status {
            StudyStatus::Completed => u8::from(self.exports_failed.is_some()),
            StudyStatus::Aborted => 3,
            _ if self.waits_for_approval() => 8,
            StudyStatus::Created | StudyStatus::Running | StudyStatus::Interrupted => 75,
        }
    }
}
