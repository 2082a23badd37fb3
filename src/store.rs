//! A study's store as a program uses it: looked at at any moment, changed while no engine runs.
//!
//! Each change is events in the journal, in one transaction. Nothing here may change what a person did not ask for, or
//! print: `cli` says what came of it.

mod amend;
mod compare;
mod dump;
mod gc;
mod import;
mod list;
mod logs;
mod replay;
#[cfg(feature = "report")]
mod report;
mod retry;
mod stop;

pub use crate::engine::stop::StopError;
pub use crate::plan::amend::{BaseCommand, Class, Discarded, Judged, Rereading};
pub use crate::plan::forecast::{Follows, StageForecast};
pub use amend::{AmendPlan, Consent};
pub use compare::{BaselineWritten, Compare};
pub use dump::Dump;
pub use gc::{Freed, GcPlan, StageDiscard, parse_keep};
pub use import::{Import, ImportPlan, MatchedRow, OUTPUTS_COLUMN, Unmatched, UnmatchedRow};
pub use list::{Found, FoundStore, Stores, list};
pub use logs::Logs;
pub use replay::{Replay, ReplayEnd, ReplayLog, ReplayOptions};
#[cfg(feature = "report")]
pub use report::nonce;
pub use retry::RetryPlan;
pub use stop::{Stop, Stopping};

use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::journal::{self, Compacted, Journal, JournalError, Reader, Salvaged, Snapshot, Verification};
use crate::model::{Event, Record, Seq, StageRow, StageStatus, StudyRow};
use crate::salvage::salvage;
use crate::study_file::{Choices, Spec};
use crate::sys::clock::unix_ms;
use crate::views::outputs::{self, OutputsCheck};
use crate::views::status::Status;
use crate::views::what_if::WhatIf;
use crate::views::why::Why;
use crate::views::{Best, Liveness, StudyLocation, StudyView, Survivor, abort, made_with, planned, survivors};

/// What a change added to the journal.
type Recorded = Vec<(Seq, Record)>;

/// A study's store.
///
/// ```no_run
/// use piton::{Retry, Store};
///
/// let store = Store::at("study.redb");
/// for survivor in store.survivors()? {
///     println!("{} {:?}", survivor.case, survivor.metrics);
/// }
/// store.retry(Retry::Failed)?;
/// # Ok::<(), piton::Error>(())
/// ```
///
/// A study that is done gets a larger budget, and is compared with itself:
///
/// ```
/// use piton::views::dump::Format;
/// use piton::{Consent, Dump, Limits, Range, Stage, Store, Study};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let dir = tempfile::tempdir()?;
/// let path = dir.path().join("parabola.redb");
/// let study = |budget| {
///     let explore = Stage::closure("explore", |trial| Ok([("y", (trial.int("x")? as f64 - 3.0).powi(2))]))
///         .budget(budget)
///         .survivors(1)
///         .range("x", Range::int(1..=9))
///         .minimize("y");
///     Study::builder("parabola").stage(explore).build()
/// };
/// study(4)?.store(&path).run()?;
///
/// let store = Store::at(&path);
/// let larger = study(6)?;
/// let plan = store.amend(&larger)?;
/// assert_eq!(plan.added_trials(), 2);
/// plan.apply(Consent::KeepResults)?;
/// assert!(larger.store(&path).run()?.is_completed());
///
/// // What there is now is held against what is found later.
/// let baseline = dir.path().join("baseline.json");
/// store.write_baseline(&baseline, None, &Limits::default())?;
/// let compare = store.compare(&baseline, Some("explore"), Limits::default())?;
/// let totals = compare.run(&mut |line| Ok(println!("{} {}", line.case, line.finding.words())))?;
/// assert_eq!((totals.compared, totals.regressions), (6, 0));
///
/// // Why a case survived, and all trials as a table.
/// let why = store.why(&store.survivors()?[0].case)?;
/// assert!(why.survivor && why.reason.starts_with("it survived: ranked 1 of 6 by `y` (minimize)"), "{}", why.reason);
/// let mut table = Vec::new();
/// store.dump(Dump::State(Format::Csv), None, &mut table)?;
/// assert_eq!(String::from_utf8(table)?.lines().count(), 1 + 6);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Store {
    path: PathBuf,
}

/// Which trials become pending again.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Retry<'a> {
    /// All that failed of the open stage, or of the one that the study was aborted in; of every stage where there is none.
    Failed,
    /// All of the stage of this name that failed.
    FailedOf(&'a str),
    /// These cases, each of which failed.
    Cases(&'a [String]),
}

/// A store, opened for looking.
#[derive(Debug)]
pub struct Look {
    /// The state at a commit.
    pub snapshot: Snapshot,
    /// What every view needs of it.
    pub view: StudyView,
}

impl Look {
    /// At the last commit.
    ///
    /// # Errors
    /// [`Error`] when the store cannot be read.
    pub fn at_store(store: &Path) -> Result<(Reader, Self), Error> {
        let reader = Reader::open(store)?;
        let look = Self::again(&reader, store)?;
        Ok((reader, look))
    }

    /// At the last commit, through an open reader.
    ///
    /// # Errors
    /// [`Error`] when the store cannot be read.
    pub fn again(reader: &Reader, store: &Path) -> Result<Self, Error> {
        let journal_error = |cause| Error::Journal { store: store.into(), cause };
        let (snapshot, liveness) = Self::at_rest(reader, store).map_err(journal_error)?;
        let study = snapshot.study().map_err(journal_error)?;
        let place = StudyLocation::new(store, &study).map_err(Error::no_current_dir)?;
        let view = StudyView::load(&snapshot, place, liveness)?;
        Ok(Self { snapshot, view })
    }

    /// The last commit, and whether its engine lives.
    ///
    /// # Errors
    /// [`JournalError`] when the store cannot be read.
    pub(crate) fn at_rest(reader: &Reader, store: &Path) -> Result<(Snapshot, Liveness), JournalError> {
        let mut snapshot = reader.snapshot()?;
        let mut study = snapshot.study()?;
        let mut liveness = Liveness::of(store, &study)?;
        if study.open_engine().is_some() && !liveness.alive {
            // It may have said goodbye between the two looks: now that it is gone, what it said last is there.
            snapshot = reader.snapshot()?;
            study = snapshot.study()?;
            liveness = Liveness::of(store, &study)?;
        }
        Ok((snapshot, liveness))
    }
}

/// What holding a store against itself and its files found.
#[derive(Debug)]
#[non_exhaustive]
pub struct Verified {
    /// The journal against the stored state.
    pub replay: Verification,
    /// Stages that could not run as they are stored.
    pub plan: Vec<String>,
    /// Stages that a retry left as they were, planned from other cases than survive now: no difference.
    pub kept: Vec<String>,
    /// The outputs against their recorded hashes.
    pub outputs: OutputsCheck,
    /// How the recorded abort is not the one that the results demand.
    pub aborted: Option<String>,
    /// Stages that ended early, or did not, otherwise than their results demand.
    pub ended: Vec<String>,
    /// Decisions of rungs that are not those that the recorded values give.
    pub rungs: Vec<String>,
    /// Rounds of races after which not those left that the recorded metrics say.
    pub races: Vec<String>,
    /// Results that were made with other inputs or tools than the study has now.
    pub made_with: Vec<String>,
    /// Stages of which it was found that equal trials come to different results, and that have taken some.
    pub doubts: Vec<String>,
    /// Changed inputs and tools that a person took for what results were made with, in words: no difference, and nothing that is known to
    /// make none.
    pub accepted: Vec<String>,
}

impl Verified {
    /// How many differences there are.
    #[must_use]
    pub fn differences(&self) -> u64 {
        let counted =
            [&self.plan, &self.ended, &self.rungs, &self.races, &self.made_with, &self.doubts].map(Vec::len);
        let counted = counted.into_iter().chain([self.replay.differences.len()]);
        counted.sum::<usize>() as u64 + u64::from(self.aborted.is_some()) + self.outputs.differing
    }
}

impl Store {
    /// The store at a path; nothing is opened yet.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// How the study stands.
    ///
    /// # Errors
    /// [`Error`] when the store cannot be read; likewise for all that look.
    pub fn status(&self) -> Result<Status, Error> {
        let (_reader, look) = Look::at_store(&self.path)?;
        Ok(Status::load(&look.view, &look.snapshot, unix_ms())?.with_courses(&look.view))
    }

    /// The same with what the study's directory takes on the disk, for which every file is looked at.
    ///
    /// # Errors
    /// As [`Store::status`].
    pub fn status_with_disk(&self) -> Result<Status, Error> {
        let (_reader, look) = Look::at_store(&self.path)?;
        let status = Status::load(&look.view, &look.snapshot, unix_ms())?;
        Ok(status.with_courses(&look.view).with_disk(&look.view))
    }

    /// Where a case comes from, every attempt at it, and why it survived or did not.
    ///
    /// # Errors
    /// [`Error::View`] when there is no such case, and as [`Store::status`].
    pub fn why(&self, case: &str) -> Result<Why, Error> {
        let (_reader, look) = Look::at_store(&self.path)?;
        Ok(Why::load(&look.view, &look.snapshot, case)?)
    }

    /// What other choices would have made of the study, in the stages of these names (none: in all that they mean something to).
    /// Nothing is changed, and what depends on trials that never ran is unknown.
    ///
    /// # Errors
    /// [`Error::View`] for a choice that does not fit, and as [`Store::status`].
    pub fn what_if(&self, choices: &Choices, stages: &[String]) -> Result<WhatIf, Error> {
        let (_reader, look) = Look::at_store(&self.path)?;
        Ok(WhatIf::load(&look.view, &look.snapshot, choices, stages)?)
    }

    /// The winner of the named stage; without a name, of the last one that closed, and before any has of the one that runs.
    ///
    /// # Errors
    /// [`Error::View`] when no trial has succeeded there, and as [`Store::status`].
    pub fn best(&self, stage: Option<&str>) -> Result<Best, Error> {
        let (_reader, look) = Look::at_store(&self.path)?;
        Ok(Best::load(&look.view, &look.snapshot, stage)?)
    }

    /// The survivors of the last stage that closed, best first.
    ///
    /// # Errors
    /// As [`Store::status`].
    pub fn survivors(&self) -> Result<Vec<Survivor>, Error> {
        let snapshot = Reader::open(&self.path)?.snapshot().map_err(|cause| self.unreadable(cause))?;
        Ok(survivors(&snapshot)?)
    }

    /// Replays the journal against the stored state, hashes the outputs, and asks whether all results belong to the study.
    ///
    /// # Errors
    /// As [`Store::status`].
    pub fn verify(&self) -> Result<Verified, Error> {
        let (_reader, Look { snapshot, view }) = Look::at_store(&self.path)?;
        let (mut rungs, mut races) = (Vec::new(), Vec::new());
        for stage in view.stages.iter().filter(|stage| stage.status != StageStatus::Waiting) {
            let differs = crate::engine::rungs_differ(&snapshot, &view.spec, &view.stages, stage);
            rungs.extend(differs.map_err(|cause| self.unreadable(cause))?);
            let differs = crate::engine::race_differs(&snapshot, &view.spec, stage);
            races.extend(differs.map_err(|cause| self.unreadable(cause))?);
        }
        Ok(Verified {
            rungs,
            races,
            replay: journal::verify(&snapshot).map_err(|cause| self.unreadable(cause))?,
            plan: planned::check(&view),
            kept: planned::kept(&view),
            outputs: outputs::check(&view, &snapshot)?,
            aborted: abort::check(&view, &snapshot)?,
            ended: abort::ended(&view, &snapshot)?,
            made_with: made_with::check(&view, &snapshot)?,
            doubts: view.doubts().filter(|(taken, _)| *taken > 0).map(|(_, words)| words).collect(),
            accepted: made_with::accepted(&view),
        })
    }

    /// Writes what other programs read into a directory; the names of the files.
    ///
    /// # Errors
    /// [`Error`] when the store cannot be read or a file not be written.
    #[cfg(feature = "report")]
    pub fn export(&self, dir: &Path) -> Result<Vec<String>, Error> {
        let (_reader, look) = Look::at_store(&self.path)?;
        Ok(crate::views::export::write(&look.view, &look.snapshot, dir)?)
    }

    /// Makes the store as small as it can be; what it says stays the same.
    ///
    /// # Errors
    /// [`Error::Open`] while somebody else has it open, [`Error::NotCompacted`], and when it cannot be read.
    pub fn compact(&self) -> Result<Compacted, Error> {
        journal::compact(&self.path).map_err(|error| Error::not_compacted(&self.path, error))
    }

    /// Makes a new store of what can be read of this one, which stays as it is.
    ///
    /// # Errors
    /// As [`salvage`].
    pub fn salvage(&self, new: &Path) -> Result<Salvaged, Error> {
        salvage(&self.path, new)
    }

    /// Lets a stage begin that waits for a person: the named one, or the first that waits. Its name.
    ///
    /// # Errors
    /// [`Error::Usage`] when no such stage waits, [`Error::Open`] while an engine runs.
    pub fn approve(&self, stage: Option<&str>, by: &str, note: &str) -> Result<String, Error> {
        Ok(self.approved(stage, by, note)?.0)
    }

    /// The stage that has yet to close before the stage of this name can begin, if any: an approval of that is given ahead, whatever
    /// survives.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn stands_before(&self, stage: &str) -> Result<Option<String>, Error> {
        let snapshot = Reader::open(&self.path)?.snapshot().map_err(|cause| self.unreadable(cause))?;
        let stages = snapshot.stages().map_err(|cause| self.unreadable(cause))?;
        let before = stages.iter().take_while(|before| before.name != stage);
        let open = before.into_iter().find(|before| before.status != StageStatus::Closed);
        Ok(open.map(|open| open.name.clone()))
    }

    /// [`Store::approve`], with what was recorded.
    pub(crate) fn approved(&self, stage: Option<&str>, by: &str, note: &str) -> Result<(String, Recorded), Error> {
        let (journal, snapshot, spec) = self.open()?;
        let stages = snapshot.stages().map_err(|cause| self.unreadable(cause))?;
        drop(snapshot);
        let chosen = waiting_for_approval(&spec, &stages, stage)?;
        let event = Event::StageApproved { stage: chosen.index, by: by.to_owned(), note: note.to_owned() };
        Ok((chosen.name.clone(), self.append(journal, vec![event])?))
    }

    /// Makes failed trials pending again. Their cases.
    ///
    /// A stage that has closed opens again. That is refused where finished trials of later stages could go; see
    /// [`Store::plan_retry`].
    ///
    /// # Errors
    /// [`Error::Usage`] with every reason why a named case cannot run again, [`Error::Open`] while an engine runs.
    pub fn retry(&self, which: Retry<'_>) -> Result<Vec<String>, Error> {
        self.plan_retry(which)?.apply(None)
    }

    /// What a retry would do. While the plan is there nobody else can change the store.
    ///
    /// # Errors
    /// As for [`Store::retry`], but for what it may cost.
    pub fn plan_retry(&self, which: Retry<'_>) -> Result<RetryPlan<'_>, Error> {
        retry::plan(self, which)
    }

    /// For changing it: nobody else may meanwhile.
    fn open(&self) -> Result<(Journal, Snapshot, Spec), Error> {
        let journal = Journal::open_unread(&self.path)?;
        let snapshot = journal.snapshot().map_err(|cause| self.unreadable(cause))?;
        let study = snapshot.study().map_err(|cause| self.unreadable(cause))?;
        let spec = self.stored_spec(&study)?;
        Ok((journal, snapshot, spec))
    }

    fn stored_spec(&self, study: &StudyRow) -> Result<Spec, Error> {
        Spec::from_json(&study.spec)
            .map_err(|error| Error::StoredSpec { store: self.path.clone(), why: error.to_string() })
    }

    /// In one transaction; the store is closed then.
    fn append(&self, journal: Journal, events: Vec<Event>) -> Result<Recorded, Error> {
        let at_ms = unix_ms();
        let records = events.into_iter().map(|event| Record { at_ms, run_ms: 0, event }).collect();
        self.append_records(journal, records)
    }

    fn append_records(&self, mut journal: Journal, records: Vec<Record>) -> Result<Recorded, Error> {
        let first = journal.last_seq() + 1;
        if !records.is_empty() {
            journal.append(&records).map_err(|cause| self.unreadable(cause))?;
        }
        journal.close().map_err(|cause| self.unreadable(cause))?;
        Ok((first..).zip(records).collect())
    }

    fn unreadable(&self, cause: JournalError) -> Error {
        Error::Journal { store: self.path.clone(), cause }
    }
}

/// The named stage, or the first that waits for approval; it must need one and have none.
fn waiting_for_approval<'a>(
    spec: &Spec,
    stages: &'a [StageRow],
    name: Option<&str>,
) -> Result<&'a StageRow, Error> {
    let needs = |stage: &&StageRow| spec.stages.get(stage.index as usize).is_some_and(|spec| spec.approve);
    let open_question = |stage: &&StageRow| stage.status == StageStatus::Waiting && stage.approval.is_none();
    let Some(name) = name else {
        // Before the stages ahead of it are closed nobody knows what would be approved: they may not have ended yet, or an
        // amendment opened one again, whose survivors are chosen anew.
        let next = stages.iter().find(|stage| stage.status != StageStatus::Closed);
        return match (next, stages.iter().filter(needs).find(open_question)) {
            (Some(next), Some(stage)) if next.index == stage.index => Ok(stage),
            (Some(next), Some(stage)) => Err(Error::Usage(format!(
                "no stage waits for approval yet: `{}` will once stage `{}` is closed; named, it is approved ahead of that",
                stage.name, next.name
            ))),
            _ => Err(Error::Usage("no stage waits for approval".into())),
        };
    };
    match stages.iter().find(|stage| stage.name == name) {
        None => Err(Error::Usage(format!("there is no stage `{name}`"))),
        Some(stage) if !needs(&stage) => Err(Error::Usage(format!("stage `{name}` needs no approval"))),
        Some(stage) if !open_question(&stage) => {
            Err(Error::Usage(format!("stage `{name}` is approved or has begun already")))
        }
        Some(stage) => Ok(stage),
    }
}
