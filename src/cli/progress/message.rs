//! What the engine hands to the thread that draws.

use piton::model::{StageCounters, StageIndex, TrialId};
use piton::views::progress::Glance;
use piton::views::taken_words;

/// A message to the drawing thread.
pub(super) enum Message {
    /// How many trials run at once, and whether on a cluster.
    Workers { workers: u32, remote: bool },
    /// A stage's trials run, or go on.
    Stage { index: StageIndex, name: String, planned: u64, counters: StageCounters },
    /// What was shown of a stage is not so any more: it is planned anew.
    Forget(StageIndex),
    /// An attempt ended.
    Ended {
        stage: StageIndex,
        trial: TrialId,
        counters: StageCounters,
        line: Option<String>,
        failed: Option<Failed>,
        best: Option<BestSoFar>,
    },
    /// An attempt started.
    Started { stage: StageIndex, trial: TrialId, case: String, counters: StageCounters, glance: Option<Glance> },
    /// A stage closed.
    Closed { stage: StageIndex, counters: StageCounters, line: String },
    /// A line of its own.
    Line(String),
    /// A line of its own that says why the study ended.
    Aborted(String),
}

/// A failed attempt, as CI annotations and summaries show it.
pub(super) struct Failed {
    pub(super) case: String,
    pub(super) kind: String,
    pub(super) reason: String,
    pub(super) log: String,
    pub(super) again: bool,
}

/// The best value of a stage so far.
#[derive(Clone)]
pub(super) struct BestSoFar {
    pub(super) words: String,
    pub(super) value: f64,
}

/// How many trials made no attempt, if any did not.
pub(super) fn reused_words(counters: &StageCounters) -> String {
    taken_words(counters.reused, counters.imported)
}
