//! Safety measures that a test can turn off, one at a time, to see whether the simulation notices.
//!
//! Compiled for the library's own tests alone: in a program [`injected_fault!`] is `false`, and what depends on it is gone.

use std::cell::Cell;

/// A measure that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The loop acts on a decision before it is committed.
    ActBeforeCommit,
    /// The observer hears of events before they are committed.
    TellBeforeCommit,
    /// The store's fsync does nothing.
    CommitNotSynced,
    /// Events and the rows they fold to are committed apart.
    RowsApart,
    /// A failed commit counts as done.
    CommitErrorIgnored,
    /// A trial that starts stays in the ready queue.
    ReadyKept,
    /// Cases that were passed over are not put into the ready queue.
    PassedOverForgotten,
    /// A report of an attempt that runs no more is taken for the running one's.
    LateReportAccepted,
    /// Declared outputs are not synced.
    OutputsNotSynced,
    /// The directories on the way to declared outputs are not synced.
    OutputsWayNotSynced,
    /// Of the directories above the stages', only the first new entry is made durable.
    NewEntryNotSynced,
    /// The store's directory is not synced.
    DirectoryNotSynced,
    /// The store is made under its own name.
    CreatedInPlace,
    /// Exports are written over what is there.
    ExportInPlace,
    /// Exports are renamed before their contents are synced.
    ExportNotSynced,
    /// Interrupted attempts are not counted.
    InterruptedUncounted,
    /// An interrupted attempt takes a retry.
    InterruptedTakesRetry,
    /// An interrupted attempt gives all retries back.
    InterruptedForgetsFailures,
    /// A stage closes while trials wait for their retry.
    ClosedEarly,
    /// A stage closes without its survivors.
    SurvivorsNotStored,
    /// Going on passes over one case.
    CursorOffByOne,
    /// What a dead engine left running is not settled.
    LeftRunning,
    /// The exports of a study that is over are not brought up to date.
    ExportsNotMended,
    /// Directories that are made are not durable.
    DirectoriesNotDurable,
    /// Rails are asked of results as they come, not in the order of their numbers.
    RailsByArrival,
    /// What ended beyond the end of a stage that ended early can survive.
    OutsideSurvives,
    /// Results count whatever became of the inputs meanwhile.
    InputsNotAsked,
    /// A child starts whatever became of its parent's outputs.
    ParentNotAsked,
    /// A child's result counts whatever became of its parent's outputs while it ran.
    ParentNotAskedAgain,
    /// A result can be found before it is recorded.
    IndexBeforeResult,
    /// What is taken over is not held against its hash.
    TakenUnchecked,
    /// What is taken over is not synced.
    TakenNotSynced,
    /// A stage whose results were found to differ takes results all the same.
    DoubtForgotten,
    /// A result that differs from the one it is held against is not recorded as such.
    DoubtUntold,
    /// An amendment and what was read again for it are recorded apart.
    RereadApart,
    /// An amendment and what a person accepted by it are recorded apart.
    AcceptedApart,
    /// An amendment and that the base command need not run again are recorded apart.
    BaseKeptApart,
    /// An amendment and the rounds that it adds are recorded apart.
    RoundsApart,
    /// Who leaves a race is decided while trials of the round are to run again.
    RoundNotWhole,
    /// What attempts have that an earlier engine left running counts as free.
    AdoptedHaveNothing,
    /// Scratch directories of what is discarded are removed, and that is not synced.
    ScratchNotSynced,
    /// Scratch directories are removed once the amendment is recorded.
    ScratchClearedLate,
    /// A directory that moves aside is not synced under its new name.
    AsideNotSynced,
    /// What a trial kept is found by its next attempt, whatever inputs it came of.
    DoubtfulKept,
    /// The same of what its parent left.
    DoubtfulHeirsKept,
    /// What is imported is not synced.
    ImportedNotSynced,
    /// Each result of an import is a commit of its own.
    ImportedInPart,
    /// A trial that ends before its rungs have decided counts at once.
    UndecidedCounts,
    /// A rung decides by what is known, as if what is missing were never to come.
    DecidedByArrival,
    /// An engine that goes on does not know what trials have shown at rungs.
    RungsForgotten,
    /// What an attempt shows that is over counts.
    LateShownAccepted,
    /// A trial that is pruned is ended before what a rung, or a rule of its own, has decided is committed.
    PrunedBeforeCommit,
    /// Directories are removed before it is recorded that they are discarded.
    UnlinkedBeforeRecorded,
    /// Directories of parents are discarded while children of theirs are still to run.
    DiscardedWhileNeeded,
    /// What was to be removed when an engine died stays.
    DiscardNotResumed,
    /// That directories are gone is recorded before that is durable.
    DiscardNotSynced,
    /// No measure is left out: nothing is reused, so that both can be compared.
    EverythingRuns,
    /// Survivors are held against the parents of the next stage without the attempt that each was accepted by.
    SurvivorsByTrial,
    /// A stage that is planned anew keeps whatever has the same number, whosever child it was.
    StandsByNumber,
    /// Children of trials that were taken out of their stage stay until that has closed.
    OrphansStay,
    /// That a stage is open again, and which of its trials wait again, is recorded apart.
    ReopenedApart,
    /// What follows when a stage that was opened again has closed is recorded event by event.
    SettledInPart,
    /// Scratch directories of trials that are planned anew stay.
    SettledScratchKept,
    /// Trials of later stages start while a stage is open again.
    LaterStagesGoOn,
    /// What a cluster's list does not show counts as over.
    AbsentIsOver,
    /// A job that could not start is reported without making sure that it never will.
    StartNotTakenBack,
}

impl Fault {
    /// All of them that a simulated study can show; `AbsentIsOver` and `StartNotTakenBack` are tried beside their code.
    pub(crate) const ALL: [Self; 63] = [
        Self::ActBeforeCommit,
        Self::TellBeforeCommit,
        Self::CommitNotSynced,
        Self::RowsApart,
        Self::CommitErrorIgnored,
        Self::ReadyKept,
        Self::PassedOverForgotten,
        Self::LateReportAccepted,
        Self::OutputsNotSynced,
        Self::OutputsWayNotSynced,
        Self::NewEntryNotSynced,
        Self::DirectoryNotSynced,
        Self::CreatedInPlace,
        Self::ExportInPlace,
        Self::ExportNotSynced,
        Self::InterruptedUncounted,
        Self::InterruptedTakesRetry,
        Self::InterruptedForgetsFailures,
        Self::ClosedEarly,
        Self::SurvivorsNotStored,
        Self::CursorOffByOne,
        Self::LeftRunning,
        Self::ExportsNotMended,
        Self::DirectoriesNotDurable,
        Self::RailsByArrival,
        Self::OutsideSurvives,
        Self::InputsNotAsked,
        Self::ParentNotAsked,
        Self::ParentNotAskedAgain,
        Self::IndexBeforeResult,
        Self::TakenUnchecked,
        Self::TakenNotSynced,
        Self::DoubtForgotten,
        Self::DoubtUntold,
        Self::RereadApart,
        Self::AcceptedApart,
        Self::BaseKeptApart,
        Self::RoundsApart,
        Self::RoundNotWhole,
        Self::AdoptedHaveNothing,
        Self::ScratchNotSynced,
        Self::ScratchClearedLate,
        Self::AsideNotSynced,
        Self::DoubtfulKept,
        Self::DoubtfulHeirsKept,
        Self::ImportedNotSynced,
        Self::ImportedInPart,
        Self::SurvivorsByTrial,
        Self::StandsByNumber,
        Self::OrphansStay,
        Self::ReopenedApart,
        Self::SettledInPart,
        Self::SettledScratchKept,
        Self::LaterStagesGoOn,
        Self::UndecidedCounts,
        Self::DecidedByArrival,
        Self::RungsForgotten,
        Self::LateShownAccepted,
        Self::PrunedBeforeCommit,
        Self::UnlinkedBeforeRecorded,
        Self::DiscardedWhileNeeded,
        Self::DiscardNotResumed,
        Self::DiscardNotSynced,
    ];
}

thread_local! {
    static PLANTED: Cell<Option<Fault>> = const { Cell::new(None) };
}

/// Whether this measure is left out on this thread.
pub(crate) fn is(fault: Fault) -> bool {
    PLANTED.get() == Some(fault)
}

/// Leaves a measure out from now on, or none.
pub(crate) fn plant(fault: Option<Fault>) {
    PLANTED.set(fault);
}
