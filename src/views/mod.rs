//! Everything people and scripts look at: status, dump, why, logs, and the exported files.
//!
//! Each view is data made from one [`Snapshot`](crate::journal::Snapshot) and a writer for it; none of them knows the
//! engine. What a view must never do: change the store, touch the terminal or the environment (width, colour, time and
//! whether an engine lives come in as parameters), hold all trials of a study in memory, or let text that a trial
//! wrote reach a terminal unescaped.

pub(crate) mod abort;
mod best;
mod case;
pub mod compare;
mod curve;
mod decided;
pub mod dump;
mod error;
#[cfg(feature = "report")]
pub mod export;
#[cfg(feature = "report")]
pub(crate) mod junit;
#[cfg(feature = "report")]
pub(crate) mod lineage;
mod listing;
pub mod logs;
pub(crate) mod made_with;
pub(crate) mod outputs;
mod own_files;
mod pace;
pub(crate) mod planned;
pub mod progress;
#[cfg(feature = "report")]
pub mod report;
mod sparkline;
pub mod status;
mod study;
mod survivors;
pub(crate) mod telemetry;
mod text;
mod trial;
pub mod what_if;
pub mod why;
mod words;

#[cfg(test)]
mod schemas;

pub use crate::sys::words::shell_quoted;
pub use abort::{AbortedBy, abort_words};
pub use best::Best;
pub use case::CaseSummary;
pub use decided::{SurvivorsDecided, decision};
pub use error::ViewError;
pub use listing::{Listed, ListedStudy, Listing};
pub use outputs::OutputsCheck;
pub use own_files::{own_file, refuse_own_file};
pub use pace::{about, time_left};
pub use sparkline::Sparkline;
pub use study::{Liveness, StudyLocation, StudyView};
pub use survivors::{Survivor, survivors, survivors_of};
pub use text::{
    Screen, bytes, clean, columns, counted, duration, freed, number, reported, short_number, steers_or_hides,
};
pub use trial::{TrialSummary, Trials};
pub use words::{doubt_words, ended_words, signal_name, taken_words, timestamp};
