//! The vocabulary: identifiers, states, events and the rows they fold to.
//!
//! Everything here is plain data and pure functions. This module imports no other module of the crate, does no
//! I/O, reads no clock and knows no byte format (the journal has its own disk structs). `fold` is the one place
//! that says what an event does to the state; the engine, `verify`, `dump --at` and the simulation all use it.

mod amend;
pub(crate) mod artifacts;
mod event;
mod failure;
mod fold;
mod given;
pub(crate) mod halving;
mod ids;
mod imported;
pub(crate) mod json;
mod keeping;
mod mend;
mod named;
pub(crate) mod names;
mod number;
pub(crate) mod plain;
pub(crate) mod reported;
pub(crate) mod reports;
mod reread;
mod reuse;
mod rounds;
mod rows;
#[doc(hidden)]
pub(crate) mod rows_in_memory;
mod value;
mod watched;
pub(crate) mod words;

pub use event::{
    AttemptEnd, Event, Extension, Next, Record, RunEnd, SpecAmended, StageDecl, StageReplanned, StudyCreated,
    Verdict,
};
pub use failure::{Failure, FailureKind};
pub(crate) use fold::waiting;
pub use fold::{FoldError, Rows, fold};
pub use given::Given;
pub use ids::{AttemptNo, Micros, ReadyKey, Seq, StageIndex, StudyId, TrialId, UnixMs};
pub use imported::{ImportSource, Imported, ResultsTold, ToldResult, TrialImport};
pub use keeping::{DirectoriesDiscarded, DiscardRun, Discarded, Keep, Kept, Tidied};
pub use named::Named;
pub(crate) use named::{named, names_of, unknown_name};
pub use number::{Lost, float_of_integer, float_text, read_exactly, read_measured};
pub use reread::Reread;
pub use reuse::{Doubt, IdentityHash, IndexedResult, Origin, REUSED, ResultDifference, ResultPart, Reused};
pub(crate) use rows::cut;
pub use rows::{
    Abort, Accepted, AcceptedChange, Accounting, Approval, AttemptOutcome, AttemptRow, BaseRow, Best, EngineId,
    ExecutorKind, Exit, FirstObjective, Identity, InputEntry, InputHash, InputList, LaterStages, LeftCase,
    OutputHash, Parent, ProcessId, Proposals, Proposing, Rail, RemoteJob, Replicas, Rounds, RunningRow, Segment,
    Severity, StageCounters, StageHead, StageRow, StageStatus, StudyProgress, StudyRow, StudyStatus, ToolVersion,
    TrialRow, TrialState, Usage,
};
pub use value::{Metric, Metrics, Params, Value};
pub use watched::{PruneRule, Pruned, RungRow, RungVerdict, StopIfMet, Watched};
