//! The report: one page that shows a whole study, and needs no network, no other file and, but for its table, no script.
//!
//! Whatever a trial or a spec says is text in it and nothing else: the template escapes every value, the trials' data
//! cannot end the element it is in, and a content security policy lets only the page's own style and script count.

mod axis;
mod charts;
mod curves;
mod effects;
mod gather;
mod page;
mod rungs;
mod saved;
mod studies;
mod table;
mod timeline;

use std::io::Write;

use self::gather::{Gathered, gather};
pub use self::studies::{StudiesPage, study_row, unreadable_dirs};
use super::why::StoryStep;
use super::{StudyView, ViewError};
use crate::journal::Snapshot;
use crate::model::UnixMs;

/// How the page is to be made.
#[derive(Clone, Debug)]
pub struct Options {
    /// Address of the study's artifacts directory relative to the page, percent-encoded; `None`: logs are not linked.
    pub artifacts_link: Option<String>,
    /// Marks the page's own script and style for the browser; must not be foreseeable.
    pub nonce: String,
    /// When it was made.
    pub now_ms: UnixMs,
    /// Whether a server shows it, which keeps it up to date: see `live.js`.
    pub live: bool,
    /// Address of the page of all studies, where there is one.
    pub studies_link: Option<String>,
}

/// A study, ready to be shown.
#[derive(Debug)]
pub struct Report<'a> {
    view: &'a StudyView,
    gathered: Gathered,
    /// The final survivors' ancestry, best first.
    winners: Vec<Winner>,
}

/// A survivor of the last closed stage.
#[derive(Debug)]
struct Winner {
    case: String,
    params: String,
    /// From the first stage to its own.
    steps: Vec<StoryStep>,
}

/// Most winners whose ancestry is shown.
const WINNERS_MAX: usize = 8;

impl<'a> Report<'a> {
    /// Reads a study once, from the first trial and the first event to the last.
    ///
    /// # Errors
    /// [`ViewError::Journal`].
    pub fn load(view: &'a StudyView, snapshot: &Snapshot) -> Result<Self, ViewError> {
        Ok(Self { view, gathered: gather(view, snapshot)?, winners: winners(view, snapshot)? })
    }

    /// Writes the page.
    ///
    /// # Errors
    /// [`ViewError::Output`].
    pub fn write_html(&self, options: &Options, out: &mut dyn Write) -> Result<(), ViewError> {
        Ok(out.write_all(page::page(self, options).into_string().as_bytes())?)
    }
}

fn winners(view: &StudyView, snapshot: &Snapshot) -> Result<Vec<Winner>, ViewError> {
    let Some(stage) = view.stages.iter().rev().find(|stage| !stage.survivors.is_empty()) else {
        return Ok(Vec::new());
    };
    let lineage = view.lineage();
    let mut winners = Vec::new();
    for survivor in stage.winners().iter().take(WINNERS_MAX) {
        let mut steps = super::why::story(view, snapshot, &lineage, survivor.trial)?;
        steps.reverse();
        let place = lineage.locate(survivor.trial);
        let params = place.and_then(|(stage, index)| lineage.params(stage, index)).unwrap_or_default();
        winners.push(Winner {
            params: super::why::params_text(&params),
            case: lineage.whole_case_of(survivor.trial),
            steps,
        });
    }
    Ok(winners)
}

#[cfg(test)]
mod tests;
