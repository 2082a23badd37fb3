//! Retrying: failed trials become pending again, also of a stage that has closed.
//!
//! What it would do is a plan first, to be looked at while nobody else can change the store. Where others may survive than
//! later stages began with, what becomes of those is recorded along: the engine asks nobody. No finished trial may go that
//! nobody gave up.

use std::collections::BTreeSet;

use super::{Recorded, Retry, Store};
use crate::error::Error;
use crate::executor::{Inherited, ParentDiffers};
use crate::journal::{Journal, JournalError, Snapshot};
use crate::model::words::counted;
use crate::model::{
    Event, LaterStages, Metrics, OutputHash, Parent, Record, StageIndex, StageRow, StageStatus, TrialId, TrialRow,
    TrialState,
};
use crate::paths::StudyPaths;
use crate::plan::{KnownBy, Lineage, MadeWith, forecast, held, keep};
use crate::study::Study;
use crate::study_file::{Spec, StageSpec};
use crate::sys::clock::unix_ms;

/// What a retry would do.
#[derive(Debug)]
pub struct RetryPlan<'a> {
    store: &'a Store,
    journal: Journal,
    trials: Vec<TrialId>,
    cases: Vec<String>,
    /// Stages of these trials, each with whether it has closed and whether later ones have begun.
    stages: Vec<(StageIndex, bool, bool)>,
    at_stake: u64,
    unapproved: Vec<String>,
}

impl RetryPlan<'_> {
    /// The cases that become pending again.
    #[must_use]
    pub fn cases(&self) -> &[String] {
        &self.cases
    }

    /// How many finished trials of later stages could go, at most: if others survive, children of those that survive no more.
    /// Results of stages that reuse count only where equal trials could not take them: what was imported, or is doubted.
    #[must_use]
    pub fn at_stake(&self) -> u64 {
        self.at_stake
    }

    /// Stages that were approved, and wait for approval again: it was given for what had survived before them.
    #[must_use]
    pub fn unapproved(&self) -> &[String] {
        &self.unapproved
    }

    /// Records it, in one transaction; the cases. `later` says what becomes of the stages after one that has closed if it
    /// closes with other survivors.
    ///
    /// # Errors
    /// [`Error::Usage`] when finished trials are at stake and `later` is not said; [`Error::Journal`].
    pub fn apply(self, later: Option<LaterStages>) -> Result<Vec<String>, Error> {
        Ok(self.applied(later)?.0)
    }

    /// [`RetryPlan::apply`], with what was recorded.
    pub(crate) fn applied(self, later: Option<LaterStages>) -> Result<(Vec<String>, Recorded), Error> {
        let later = later.filter(|later| *later != LaterStages::Stand);
        if later.is_none() && self.at_stake > 0 {
            let trials = counted(self.at_stake, "finished trial");
            let why = format!(
                "if others survive, up to {trials} of later stages can go: --discard-children lets children of those \
                 that survive no more go, --keep-survivors leaves the later stages as they are"
            );
            return Err(Error::Usage(why));
        }
        let mut events = Vec::new();
        for (stage, has_closed, has_later) in &self.stages {
            let later = if *has_later { later } else { Some(LaterStages::Stand) };
            match (has_closed, later) {
                (true, later) => {
                    let later = later.unwrap_or(LaterStages::Discard);
                    events.push(Event::StageReopened { stage: *stage, later });
                }
                (false, Some(later)) if *has_later => events.push(Event::StageReopened { stage: *stage, later }),
                (false, _) => {}
            }
        }
        let mut journal = self.journal;
        let mut told = Vec::new();
        if injected_fault!(ReopenedApart) {
            let record = |event| Record { at_ms: unix_ms(), run_ms: 0, event };
            let apart: Vec<Record> = std::mem::take(&mut events).into_iter().map(record).collect();
            let first = journal.last_seq() + 1;
            journal.append(&apart).map_err(|cause| self.store.unreadable(cause))?;
            told.extend((first..).zip(apart));
        }
        events.extend(self.trials.into_iter().map(|trial| Event::TrialReset { trial }));
        told.extend(self.store.append(journal, events)?);
        Ok((self.cases, told))
    }
}

pub(super) fn plan<'a>(store: &'a Store, which: Retry<'_>) -> Result<RetryPlan<'a>, Error> {
    let (journal, snapshot, spec) = store.open()?;
    let unreadable = |cause| store.unreadable(cause);
    let stages = snapshot.stages().map_err(unreadable)?;
    let lineage = Lineage::new(&spec, &stages);
    let trials = match which {
        Retry::Failed => {
            let mut found = Vec::new();
            for stage in of_failed(&stages) {
                found.extend(failed(&snapshot, stage).map_err(unreadable)?);
            }
            found
        }
        Retry::FailedOf(name) => failed(&snapshot, begun(&stages, name)?).map_err(unreadable)?,
        Retry::Cases(cases) => named(store, &snapshot, &lineage, cases)?,
    };
    let places: Vec<_> = trials.iter().filter_map(|trial| lineage.locate(*trial)).collect();
    let parents = places.iter().filter(|(stage, _)| spec.shows_parent(*stage));
    let parents = parents.filter_map(|(stage, index)| lineage.parent(*stage, *index));
    refuse_orphaned(store, &snapshot, &lineage, parents, &spec)?;
    let cases = places.iter().map(|(stage, index)| lineage.case(*stage, *index)).collect();
    let touched: BTreeSet<StageIndex> = places.iter().map(|(stage, _)| *stage).collect();
    let has_begun = |stage: &&StageRow| stage.status != StageStatus::Waiting;
    let later_than = |index: StageIndex| stages.iter().filter(has_begun).filter(move |stage| stage.index > index);
    let has_closed = |index: &StageIndex| {
        let row = stages.iter().find(|stage| stage.index == *index);
        row.is_some_and(|stage| stage.status == StageStatus::Closed)
    };
    let mut at_stake = 0;
    if let Some(first) = touched.iter().copied().find(has_closed) {
        for stage in later_than(first) {
            at_stake += lost(&snapshot, &spec, &stages, stage).map_err(unreadable)?;
        }
    }
    let is_approved = |stage: &&StageRow| stage.status == StageStatus::Waiting && stage.approval.is_some();
    let next_of = |index: &StageIndex| stages.iter().find(|stage| stage.index.checked_sub(1) == Some(*index));
    let unapproved = touched.iter().filter(|index| has_closed(index)).filter_map(next_of).filter(is_approved);
    let unapproved = unapproved.map(|stage| stage.name.clone()).collect();
    let facts = |index: StageIndex| (index, has_closed(&index), later_than(index).next().is_some());
    let touched = touched.into_iter().map(facts).collect();
    drop(snapshot);
    Ok(RetryPlan { store, journal, trials, cases, stages: touched, at_stake, unapproved })
}

/// Refuses trials of these parents, which could not run: what was discarded of one is not there.
pub(super) fn refuse_orphaned(
    store: &Store,
    snapshot: &Snapshot,
    lineage: &Lineage<'_>,
    parents: impl Iterator<Item = Parent>,
    spec: &Spec,
) -> Result<(), Error> {
    let study = snapshot.study().map_err(|cause| store.unreadable(cause))?;
    let paths = StudyPaths::of(&store.path, &study).map_err(Error::no_current_dir)?;
    let mut looked = BTreeSet::new();
    for parent in parents {
        if !looked.insert(parent.trial) {
            continue;
        }
        let row = snapshot.trial(parent.trial).map_err(|cause| store.unreadable(cause))?;
        let (Some(row), Some((before, place))) = (row, lineage.locate(parent.trial)) else { continue };
        let case = lineage.case(before, place);
        let dir = paths.attempt_dir(spec, before, &case, parent.attempt);
        let of = spec.stages.get(before as usize).map_or_else(String::new, |stage| stage.name.clone());
        let discarded = keep::lacks(&row, parent.attempt);
        let left = Inherited { stage: of.clone(), outputs: row.outputs, discarded };
        if left.is_discarded(&dir) {
            let differs = ParentDiffers { case, stage: of.clone(), dir, outputs: Vec::new(), discarded };
            let again = Study::from_store(&store.path).way_on_from(&study, Some(&of));
            return Err(Error::ParentChanged { store: store.path.clone(), parent: Box::new(differs), again });
        }
    }
    Ok(())
}

/// How many results of a stage are gone for good if it is planned anew: in one that reuses, none, as long as equal trials can take them.
fn lost(snapshot: &Snapshot, spec: &Spec, stages: &[StageRow], stage: &StageRow) -> Result<u64, JournalError> {
    let counters = snapshot.counters(stage.index)?;
    // What a cluster still runs may come to an end before it is known who survives.
    let far = snapshot.running()?.into_iter().filter(|row| row.executor.is_remote() && stage.contains(row.trial));
    let all = counters.finished().saturating_add(far.count() as u64);
    if !spec.reuses(stage.index) {
        return Ok(all);
    }
    let study = snapshot.study()?;
    let end = stage.end();
    let proposals = snapshot.proposals(TrialId(0), end)?;
    let made_with = MadeWith::from(&study);
    let (recorded, known) = (Known(snapshot), (stages, study.doubts.as_slice()));
    let held = held::untaken(&recorded, (spec, made_with), known, &proposals, stage.index, (spec, made_with))?;
    Ok(if held.untaken.is_some() || counters.imported > 0 { all } else { 0 })
}

/// Rows, for what is asked of recorded identities.
struct Known<'a>(&'a Snapshot);

impl forecast::Recorded for Known<'_> {
    type Error = JournalError;

    fn trial(&self, trial: TrialId) -> Result<Option<TrialRow>, JournalError> {
        self.0.trial(trial)
    }

    fn result(
        &mut self,
        _: &[KnownBy],
        _: &StageSpec,
    ) -> Result<Option<(Metrics, Vec<OutputHash>)>, JournalError> {
        // Of recorded identities alone.
        Ok(None)
    }
}

/// The stages that are meant where none is named.
fn of_failed(stages: &[StageRow]) -> Vec<&StageRow> {
    let goes_on = |stage: &&StageRow| matches!(stage.status, StageStatus::Open | StageStatus::Aborted);
    match stages.iter().find(goes_on) {
        Some(open) => vec![open],
        None => stages.iter().filter(|stage| stage.status != StageStatus::Waiting).collect(),
    }
}

fn begun<'s>(stages: &'s [StageRow], name: &str) -> Result<&'s StageRow, Error> {
    match stages.iter().find(|stage| stage.name == name) {
        None => Err(Error::Usage(format!("there is no stage `{name}`"))),
        Some(stage) if stage.status == StageStatus::Waiting => {
            Err(Error::Usage(format!("stage `{name}` has not begun")))
        }
        Some(stage) => Ok(stage),
    }
}

/// All named cases, or every reason why not.
fn named(
    store: &Store,
    snapshot: &Snapshot,
    lineage: &Lineage<'_>,
    cases: &[String],
) -> Result<Vec<TrialId>, Error> {
    let (mut trials, mut wrong) = (Vec::new(), Vec::new());
    for case in cases {
        if let Some((stage, of)) = lineage.find_replicated(case) {
            let found = replicas(snapshot, lineage, stage, of).map_err(|cause| store.unreadable(cause))?;
            match found.is_empty() {
                true => wrong.push(format!("no replica of `{case}` has failed")),
                false if lineage.has_left(stage, of) => wrong.push(has_left(case)),
                false => {
                    trials.extend(found.into_iter().filter(|trial| !trials.contains(trial)).collect::<Vec<_>>())
                }
            }
            continue;
        }
        let Some(trial) = lineage.find_case(case) else {
            wrong.push(format!("there is no case `{case}`"));
            continue;
        };
        let row = snapshot.trial(trial).map_err(|cause| store.unreadable(cause))?;
        if row.is_none_or(|row| row.state != TrialState::Failed) {
            wrong.push(format!("`{case}` has not failed"));
        } else if in_no_race_any_more(lineage, trial) {
            wrong.push(has_left(case));
        } else if !trials.contains(&trial) {
            trials.push(trial);
        }
    }
    if wrong.is_empty() { Ok(trials) } else { Err(Error::Usage(wrong.join("; "))) }
}

fn has_left(case: &str) -> String {
    format!("`{case}` has left its race: what came after ran without it")
}

/// Whether the case of a trial has left its race.
fn in_no_race_any_more(lineage: &Lineage<'_>, trial: TrialId) -> bool {
    let place = lineage.locate(trial);
    place.is_some_and(|(stage, index)| {
        lineage.case_index(stage, index).is_some_and(|case| lineage.has_left(stage, case))
    })
}

/// The replicas of a case that have failed.
fn replicas(
    snapshot: &Snapshot,
    lineage: &Lineage<'_>,
    stage: StageIndex,
    case: u64,
) -> Result<Vec<TrialId>, JournalError> {
    let mut found = Vec::new();
    for trial in lineage.replicas_of(stage, case) {
        let row = snapshot.trial(trial)?;
        found.extend(row.filter(|row| row.state == TrialState::Failed).map(|row| row.trial));
    }
    Ok(found)
}

/// The failed trials of a stage, without those of cases that have left its race.
fn failed(snapshot: &Snapshot, stage: &StageRow) -> Result<Vec<TrialId>, JournalError> {
    let end = stage.end();
    let counts = |row: &TrialRow| {
        let case = stage.case_of(row.trial.0.saturating_sub(stage.first_trial.0));
        row.state == TrialState::Failed && case.is_none_or(|case| stage.left(case).is_none())
    };
    let rows = snapshot.trials(stage.first_trial, end)?.filter_map(|row| match row {
        Ok(row) => counts(&row).then_some(Ok(row.trial)),
        Err(error) => Some(Err(error)),
    });
    rows.collect()
}
