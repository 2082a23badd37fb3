//! Rules that read what finished trials left: what reading it again means for a study.
//!
//! Pure: what was found is given. Results that could be read again are kept, as what the new rules make of them; a success that could not is
//! altered like any other, unless it was given up: then it alone runs again. Later stages stand only if the stage before gives them the same survivors.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{Class, Judge, Judged, index_of};
use crate::model::words::counted;
use crate::model::{StageIndex, StageStatus};
use crate::study_file::Change;

/// What came of reading again what the finished trials of a stage left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rereading {
    /// The stage.
    pub stage: StageIndex,
    /// Its name.
    pub name: String,
    /// Finished trials whose files were read.
    pub read: u64,
    /// Trials whose result is another one, be it only what it is known by.
    pub changed: u64,
    /// In how many successes each metric was found whose rule is new.
    pub found: BTreeMap<String, u64>,
    /// Successes that become failures, by their kind.
    pub failed: BTreeMap<String, u64>,
    /// Failures that become successes.
    pub succeeded: u64,
    /// Failures that get another kind, by that.
    pub renamed: BTreeMap<String, u64>,
    /// Trials that run again, since their failures are worth a retry that they have left.
    pub again: u64,
    /// Successes that cannot be read again: case, and why.
    pub unread: Vec<(String, String)>,
    /// Such successes that were given up, and run again: case, and why.
    pub given_up: Vec<(String, String)>,
    /// Failures that cannot be read again, and stay as they are.
    pub kept: Vec<(String, String)>,
    /// Whether other cases survive than those that the later stages began with.
    pub other_survivors: bool,
    /// The rail that the results break, in words.
    pub breaks: Option<String>,
}

/// So many cases are named.
const NAMED_MAX: usize = 3;

impl Rereading {
    /// Whether the stage, if it is closed, has to open again.
    #[must_use]
    pub(crate) fn opens(&self) -> bool {
        self.again > 0 || !self.given_up.is_empty() || self.other_survivors || self.breaks.is_some()
    }

    fn run_again(&self) -> u64 {
        self.again.saturating_add(u64::try_from(self.given_up.len()).unwrap_or(u64::MAX))
    }

    /// What was found, in one line.
    #[must_use]
    pub fn words(&self) -> String {
        let mut words = match self.read {
            0 => "asked of all results of the stage".to_owned(),
            read => format!("re-reads {}", counted(read, "finished trial")),
        };
        let mut parts = Vec::new();
        parts.extend(self.found.iter().map(|(metric, count)| format!("metric `{metric}` found in {count}")));
        let get = |count: u64| if count == 1 { "trial becomes" } else { "trials become" };
        parts.extend(self.failed.iter().map(|(kind, count)| format!("{count} {} failed ({kind})", get(*count))));
        if self.succeeded > 0 {
            parts.push(format!("{} {} succeeded", self.succeeded, get(self.succeeded)));
        }
        parts.extend(
            self.renamed.iter().map(|(kind, count)| format!("{} called {kind}", counted(*count, "failed trial"))),
        );
        if self.again > 0 {
            let run = if self.again == 1 { "runs" } else { "run" };
            parts.push(format!("{} {run} again", counted(self.again, "failed trial")));
        }
        if !self.given_up.is_empty() {
            let count = u64::try_from(self.given_up.len()).unwrap_or(u64::MAX);
            let runs = if count == 1 { "is discarded and runs again" } else { "are discarded and run again" };
            let trials = counted(count, "finished trial");
            parts.push(format!("{trials} that cannot be read again {runs}: {}", cases(&self.given_up)));
        }
        if !self.kept.is_empty() {
            let count = u64::try_from(self.kept.len()).unwrap_or(u64::MAX);
            let stays = if count == 1 { "stays as it is" } else { "stay as they are" };
            let failed = counted(count, "failed trial");
            parts.push(format!("{failed} cannot be read again and {stays}: {}", cases(&self.kept)));
        }
        if parts.is_empty() && self.read > 0 {
            parts.push("no result changes".to_owned());
        }
        if self.other_survivors {
            parts.push("the survivors are chosen anew".to_owned());
        }
        if let Some(breaks) = &self.breaks {
            parts.push(format!("{breaks}: the study aborts"));
        }
        if !parts.is_empty() {
            let _ = write!(words, ": {}", parts.join("; "));
        }
        words
    }

    /// Why later stages cannot stand.
    fn why_not(&self) -> String {
        match &self.breaks {
            Some(breaks) => breaks.clone(),
            None if self.run_again() > 0 => format!("{} would run again", counted(self.run_again(), "trial")),
            None => "other cases would survive".to_owned(),
        }
    }
}

/// The first of them, with why.
fn cases(of: &[(String, String)]) -> String {
    let named: Vec<String> = of.iter().take(NAMED_MAX).map(|(case, why)| format!("`{case}` ({why})")).collect();
    let more = if of.len() > NAMED_MAX { ", …" } else { "" };
    format!("{}{more}", named.join(", "))
}

impl Judge<'_> {
    /// What was read again of a stage that is kept.
    pub(super) fn reread(&self, place: usize) -> Option<&Rereading> {
        self.rereads.iter().find(|found| found.stage == index_of(place)).filter(|_| place < self.kept)
    }

    /// A change of what is read, named or asked of results.
    pub(super) fn rereads(&self, change: Change, place: usize, found: &Rereading) -> Judged {
        if !found.unread.is_empty() {
            let judged = self.alters(change, place);
            let count = u64::try_from(found.unread.len()).unwrap_or(u64::MAX);
            let trials = counted(count, "finished trial");
            let alone = "`--discard-unread` discards these alone";
            let cost =
                format!("{}: {trials} cannot be read again: {}; {alone}", judged.cost, cases(&found.unread));
            return Judged { cost, ..judged };
        }
        if place.saturating_add(1) < self.kept && found.opens() {
            let judged = self.alters(change, place.saturating_add(1));
            let cost = format!("{} ({}; {})", judged.cost, found.words(), found.why_not());
            return Judged { cost, ..judged };
        }
        Judged { change, class: Class::Rereads, cost: found.words() }
    }

    /// A limit of the whole study, which is asked of what there is.
    pub(super) fn study_rails(&self, change: Change) -> Judged {
        let broken = self.rereads.iter().find(|found| found.breaks.is_some());
        let place = broken.and_then(|found| usize::try_from(found.stage).ok()).filter(|place| *place < self.kept);
        match broken.zip(place) {
            Some((found, place)) => self.rereads(change, place, found),
            None => super::extends(change, "asked from now on"),
        }
    }

    /// Whether a stage that is closed opens again for what was read.
    pub(super) fn opens_by_reading(&self, place: usize) -> bool {
        let closed = self.standing.stages.get(place).is_some_and(|row| row.status == StageStatus::Closed);
        closed && self.reread(place).is_some_and(Rereading::opens)
    }

    /// Whether an aborted study may be another one by what was read.
    pub(super) fn reads_otherwise(&self) -> bool {
        (0..self.kept).any(|place| self.reread(place).is_some_and(|found| found.changed > 0))
    }
}
