//! What `piton run` and `piton resume` do with what they find: a table, and nothing but the table.
//!
//! | # | store | study file | inputs | status | what happens | exit |
//! | --- | --- | --- | --- | --- | --- | --- |
//! | 1 | none | given | – | – | the store is made, the study runs | |
//! | 2 | none | not given | – | – | refused: there is no store | 1 |
//! | 3 | there | differs from the store's spec | any | any | refused, nothing touched | 6 |
//! | 4 | there | same or not given | same | completed | nothing to do; the result is shown again | 0 |
//! | 5 | there | same or not given | same | aborted | nothing to do; the reason is shown again | 3 |
//! | 6 | there | same or not given | changed | any | refused, nothing touched | 6 |
//! | 7 | there | same or not given | same | interrupted, and nothing has changed since a run ended waiting for a person's approval | nothing to do; the run says so again, and records nothing | 8 |
//! | 8 | there | same or not given | same | created or interrupted | the study goes on | |
//! | 9 | there | same or not given | same | running | its engine died (the lock is ours): what it left running is killed, recorded as interrupted, and runs again | |
//!
//! Another engine that holds the store's lock is met when the store is opened for writing: exit 5, whatever row 6 to
//! 9 would say.

use crate::model::StudyStatus;

/// How the given study file compares with the store's spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecMatch {
    /// No study file was given.
    NotGiven,
    /// The same study.
    Same,
    /// Another one.
    Differs,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The study's status in the store; `None`: there is no store.
    pub status: Option<StudyStatus>,
    /// The study file.
    pub spec: SpecMatch,
    /// Whether the inputs are what they were at creation.
    pub inputs_same: bool,
    /// Whether the newest event says that a run ended since a stage waits for approval.
    pub told_to_wait: bool,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResumeDecision {
    /// Row 1.
    Create,
    /// Row 2.
    NoStore,
    /// Row 3.
    SpecDiffers,
    /// Row 4.
    AlreadyCompleted,
    /// Row 5.
    AlreadyAborted,
    /// Row 6.
    InputsChanged,
    /// Row 7.
    StillWaits,
    /// Row 8.
    GoOn,
    /// Row 9.
    GoOnAfterCrash,
}

/// The table.
#[must_use]
pub fn decide(found: Found) -> ResumeDecision {
    match (found.status, found.spec, found.inputs_same) {
        (None, SpecMatch::Same | SpecMatch::Differs, _) => ResumeDecision::Create, // 1
        (None, SpecMatch::NotGiven, _) => ResumeDecision::NoStore,                 // 2
        (Some(_), SpecMatch::Differs, _) => ResumeDecision::SpecDiffers,           // 3
        (Some(_), _, false) => ResumeDecision::InputsChanged,                      // 6
        (Some(StudyStatus::Completed), _, true) => ResumeDecision::AlreadyCompleted, // 4
        (Some(StudyStatus::Aborted), _, true) => ResumeDecision::AlreadyAborted,   // 5
        (Some(StudyStatus::Interrupted), _, true) if found.told_to_wait => ResumeDecision::StillWaits, // 7
        (Some(StudyStatus::Created | StudyStatus::Interrupted), _, true) => ResumeDecision::GoOn, // 8
        (Some(StudyStatus::Running), _, true) => ResumeDecision::GoOnAfterCrash,   // 9
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every combination, against the table written out as data: row number and what it matches.
    #[test]
    fn truth_table() {
        use StudyStatus::{Aborted, Completed, Created, Interrupted, Running};
        let mut rows_met = [0; 10];
        for status in [None, Some(Created), Some(Running), Some(Interrupted), Some(Completed), Some(Aborted)] {
            for spec in [SpecMatch::NotGiven, SpecMatch::Same, SpecMatch::Differs] {
                for (inputs_same, told_to_wait) in [(true, true), (true, false), (false, true), (false, false)] {
                    let row = if status.is_none() {
                        if spec == SpecMatch::NotGiven { 2 } else { 1 }
                    } else if spec == SpecMatch::Differs {
                        3
                    } else if !inputs_same {
                        6
                    } else if status == Some(Completed) {
                        4
                    } else if status == Some(Aborted) {
                        5
                    } else if status == Some(Interrupted) && told_to_wait {
                        7
                    } else if status == Some(Running) {
                        9
                    } else {
                        8
                    };
                    let expected = match row {
                        1 => ResumeDecision::Create,
                        2 => ResumeDecision::NoStore,
                        3 => ResumeDecision::SpecDiffers,
                        4 => ResumeDecision::AlreadyCompleted,
                        5 => ResumeDecision::AlreadyAborted,
                        6 => ResumeDecision::InputsChanged,
                        7 => ResumeDecision::StillWaits,
                        8 => ResumeDecision::GoOn,
                        _ => ResumeDecision::GoOnAfterCrash,
                    };
                    rows_met[row] += 1;
                    assert_eq!(decide(Found { status, spec, inputs_same, told_to_wait }), expected, "row {row}");
                }
            }
        }
        assert_eq!(rows_met, [0, 8, 4, 20, 4, 4, 20, 2, 6, 4], "every row is met as often as it matches");
    }
}
