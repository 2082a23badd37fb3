//! Everything people and scripts look at: status, dump, why, logs, and the exported files.
//!
//! Each view is data made from one [`Snapshot`](crate::journal::Snapshot) and a writer for it; none of them knows the
//! engine. What a view must never do: change the store, touch the terminal or the environment (width, colour, time and
//! whether an engine lives come in as parameters), hold all trials of a study in memory, or let text that a trial
//! wrote reach a terminal unescaped.

pub mod abort;
#[cfg(feature = "report")]
pub mod bundle;
pub mod compare;
mod decision;
pub mod dump;
mod error;
pub mod export;
#[cfg(feature = "report")]
pub mod junit;
pub mod lineage;
pub mod logs;
pub mod made_with;
pub mod outputs;
mod pace;
pub mod planned;
#[cfg(feature = "report")]
pub mod report;
pub mod status;
mod study;
mod survivors;
mod text;
pub mod why;
mod words;

#[cfg(test)]
mod damage;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod schemas;

pub use crate::sys::words::shell_quoted;
pub use abort::{AbortedBy, abort_words};
pub use decision::{Decision, decision};
pub use error::ViewError;
pub use pace::time_left;
pub use study::{Liveness, Place, PlannedTrial, StudyView, Trials};
pub use survivors::{Survivor, survivors, survivors_of};
pub use text::{Screen, bytes, clean, columns, counted, duration, number, short_number, steers_or_hides};
pub use words::{signal_name, timestamp};
