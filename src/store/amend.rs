//! Amending: a study that has begun becomes what a changed description says.
//!
//! What it would do is a plan first, to be looked at while nobody else can change the store. Nothing that the new
//! description names is run before it is asked for, and no result is discarded that the caller did not name.

use std::collections::BTreeMap;
use std::path::PathBuf;

mod reread;

use super::{Recorded, Store, retry};
use crate::engine::{self, EngineError, Library};
use crate::error::Error;
use crate::inputs_now;
use crate::journal::{Journal, JournalError, Reader, Snapshot};
use crate::model::{
    Accepted, AcceptedChange, Event, Identity, Metrics, OutputHash, Proposals, Record, Segment, StageCounters,
    StageIndex, StageRow, StageStatus, StudyRow, ToolVersion, TrialId, TrialRow,
};
use crate::paths::StudyPaths;
use crate::plan::amend::{
    Amendment, BaseCommand, Class, Discarded, Judged, Present, Rereading, StudyState, amendment, changed_tools,
    tool_path,
};
use crate::plan::forecast::{self, Forecast, StageForecast};
use crate::plan::held::{Held, Untaken, untaken};
use crate::plan::{KnownBy, Lineage, MadeWith};
use crate::study::Study;
use crate::study_file::{self, Change, Contradiction, Spec, StageSpec};
use crate::sys::clock::unix_ms;
use crate::views::Liveness;

/// What accepting an [`AmendPlan`] may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Consent {
    /// No result may go.
    KeepResults,
    /// The results that the plan names in [`AmendPlan::discarded`] and [`Rereading::given_up`] may go.
    Discard,
}

/// How the store is open.
#[derive(Debug)]
enum Access {
    /// Nobody else can change it.
    Held(Journal),
    /// Whoever has it may change it meanwhile, as an engine does that runs.
    Seen { reader: Reader, runs: bool },
}

impl Access {
    fn snapshot(&self) -> Result<Snapshot, JournalError> {
        match self {
            Self::Held(journal) => journal.snapshot(),
            Self::Seen { reader, .. } => reader.snapshot(),
        }
    }
}

/// What making a study into another description of it would do. Nobody else can change the store while this lives, unless
/// it is a preview.
#[derive(Debug)]
pub struct AmendPlan<'a> {
    store: &'a Store,
    given: &'a Study,
    access: Access,
    stands: Stands,
    new: Spec,
    discard_from: Option<StageIndex>,
    tools: Tools,
    plan: Amendment,
    replanned: Vec<StageForecast>,
}

impl Store {
    /// What it takes to make the study into `given`, as a plan: nothing is changed yet, and nothing is run.
    ///
    /// # Errors
    /// [`Error::Open`] while an engine runs, [`Error::Usage`] when `given` describes no study, and when the store or an
    /// input cannot be read.
    pub fn amend<'a>(&'a self, given: &'a Study) -> Result<AmendPlan<'a>, Error> {
        let (journal, snapshot, spec) = self.open()?;
        self.amend_plan(given, Access::Held(journal), &snapshot, spec)
    }

    /// The same plan to be looked at alone: the store is only read, also while an engine runs, and the plan is that of the
    /// moment. It cannot be applied.
    ///
    /// # Errors
    /// [`Error::Usage`] when `given` describes no study, and when the store or an input cannot be read.
    pub fn preview_amend<'a>(&'a self, given: &'a Study) -> Result<AmendPlan<'a>, Error> {
        let reader = Reader::open(&self.path)?;
        let snapshot = reader.snapshot().map_err(|cause| self.unreadable(cause))?;
        let study = snapshot.study().map_err(|cause| self.unreadable(cause))?;
        let spec = self.stored_spec(&study)?;
        let runs = Liveness::of(&self.path, &study).is_ok_and(|liveness| liveness.alive);
        self.amend_plan(given, Access::Seen { reader, runs }, &snapshot, spec)
    }

    fn amend_plan<'a>(
        &'a self,
        given: &'a Study,
        access: Access,
        snapshot: &Snapshot,
        spec: Spec,
    ) -> Result<AmendPlan<'a>, Error> {
        let (stands, new) = Stands::load(self, given, snapshot, spec)?;
        let tools = match stands.named(&new).is_empty() {
            true => Tools::Told { versions: Vec::new(), dropped: Vec::new(), silent: None },
            false => Tools::Presumed,
        };
        let planned = stands.plan(snapshot, &new, &tools, None);
        let (plan, replanned) = planned.map_err(|cause| self.unreadable(cause))?;
        Ok(AmendPlan { store: self, given, access, stands, new, discard_from: None, tools, plan, replanned })
    }
}

impl AmendPlan<'_> {
    /// The same with the results of a stage and of all after it discarded: their trials run again.
    ///
    /// # Errors
    /// [`Error::Usage`] when there is no such stage, or when it has not begun.
    pub fn discarding_from(mut self, stage: &str) -> Result<Self, Error> {
        let found = self.stands.spec.stages.iter().zip(0..).find(|(known, _)| known.name == stage);
        let Some((_, from)) = found else {
            return Err(Error::Usage(format!("the study has no stage `{stage}`")));
        };
        self.discard_from = Some(from);
        (self.plan, self.replanned) = self.planned()?;
        let base_ran = self.stands.study.base.as_ref().is_some_and(|base| !base.attempts.is_empty()) && from == 0;
        if self.plan.discarded.is_empty() && !base_ran {
            return Err(Error::Usage(format!("stage `{stage}` has not begun: it has no results to discard")));
        }
        Ok(self)
    }

    /// The same with those results given up that the new rules cannot read, since their files are gone or changed: these trials
    /// alone run again.
    ///
    /// # Errors
    /// [`Error::Usage`] when every result can be read, and when the store cannot be read.
    pub fn discarding_unread(mut self) -> Result<Self, Error> {
        let snapshot = self.access.snapshot().map_err(|cause| self.store.unreadable(cause))?;
        self.stands.read_again(self.store, &snapshot, &self.new, true)?;
        drop(snapshot);
        (self.plan, self.replanned) = self.planned()?;
        if self.stands.rereads.iter().all(|read| read.found.given_up.is_empty()) {
            let why = "there is no finished trial that the new rules ask for and that cannot be read again";
            return Err(Error::Usage(why.into()));
        }
        Ok(self)
    }

    /// The plan as of now.
    fn planned(&self) -> Result<(Amendment, Vec<StageForecast>), Error> {
        let snapshot = self.access.snapshot().map_err(|cause| self.store.unreadable(cause))?;
        let planned = self.stands.plan(&snapshot, &self.new, &self.tools, self.discard_from);
        planned.map_err(|cause| self.store.unreadable(cause))
    }

    /// What becomes of each stage that is planned anew or gets more trials, and of those after it: how many trials take a
    /// result, and how many run. Of a study without stages that reuse nothing is said.
    #[must_use]
    pub fn replanned(&self) -> &[StageForecast] {
        &self.replanned
    }

    /// The same with changed inputs and tools taken for what results were made with: these stay, and who said so, when and why is
    /// part of the record for ever.
    ///
    /// # Errors
    /// [`Error::Usage`] without a note, and [`Error::Input`].
    pub fn accepting_inputs(mut self, by: &str, note: &str) -> Result<Self, Error> {
        if note.trim().is_empty() {
            let why =
                "a changed input is accepted with a note alone: say why it makes no difference (`--note TEXT`)";
            return Err(Error::Usage(why.into()));
        }
        self.stands.accept(&self.new, by, note)?;
        (self.plan, self.replanned) = self.planned()?;
        Ok(self)
    }

    /// Each change, and what it does to the results there are.
    #[must_use]
    pub fn changes(&self) -> &[Judged] {
        &self.plan.changes
    }

    /// The results that go.
    #[must_use]
    pub fn discarded(&self) -> &[Discarded] {
        &self.plan.discarded
    }

    /// The first stage whose results the changes would alter, so that they have to be discarded from there on.
    #[must_use]
    pub fn altered_from(&self) -> Option<&str> {
        self.plan.altered_from.as_deref()
    }

    /// How many trials are added to the stages that have begun.
    #[must_use]
    pub fn added_trials(&self) -> u64 {
        let Some(extended) = &self.plan.event.extended else { return 0 };
        let cases = extended.more.iter().map(|more| more.count).sum();
        match self.stands.stages.get(extended.stage as usize).filter(|row| row.is_replicated()) {
            None => cases,
            Some(row) => {
                let mut now = row.clone();
                now.add_cases(cases);
                now.add_rounds(self.plan.rounds, false);
                now.planned().saturating_sub(row.planned())
            }
        }
    }

    /// What becomes of a base command that has succeeded, where the first stage is planned anew.
    #[must_use]
    pub const fn base(&self) -> Option<BaseCommand> {
        self.plan.base
    }

    /// Stages that were approved, and wait for approval again: it was given for what the stages before them had come to.
    #[must_use]
    pub fn unapproved(&self) -> &[String] {
        &self.plan.unapproved
    }

    /// Stages that begin anew, whose cases lose `scratch` and what was reported in `progress.jsonl`.
    pub fn cleared(&self) -> impl Iterator<Item = &str> {
        self.begins_anew().map(|stage| stage.name.as_str())
    }

    fn begins_anew(&self) -> impl Iterator<Item = &StageRow> {
        let from = self.plan.event.discard_from.unwrap_or(StageIndex::MAX);
        let begun = self.stands.stages.iter().filter(|stage| stage.status != StageStatus::Waiting);
        begun.filter(move |stage| stage.index >= from)
    }

    /// Whether a study that was over goes on.
    #[must_use]
    pub fn reopens(&self) -> bool {
        self.plan.event.reopen
    }

    /// What came of reading again what finished trials left, of each stage whose rules change.
    pub fn rereads(&self) -> impl Iterator<Item = &Rereading> {
        let kept = |found: &&Rereading| self.plan.event.discard_from.is_none_or(|from| found.stage < from);
        self.stands.rereads.iter().map(|read| &read.found).filter(kept)
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.plan.is_empty()
    }

    /// Whether an engine runs the study meanwhile; then this is what holds at the moment. Never so of a plan that can be applied.
    #[must_use]
    pub const fn study_runs(&self) -> bool {
        matches!(self.access, Access::Seen { runs: true, .. })
    }

    /// The study's name.
    #[must_use]
    pub fn study_name(&self) -> &str {
        &self.stands.study.name
    }

    /// The commands by tool that [`AmendPlan::ask_tools`] runs, and [`AmendPlan::apply`] unless that was done. Until then
    /// the tools count as being what they were.
    #[must_use]
    pub fn tools_to_ask(&self) -> BTreeMap<String, Vec<String>> {
        match self.tools {
            Tools::Presumed => self.stands.named(&self.new),
            Tools::Told { .. } => BTreeMap::new(),
        }
    }

    /// Tables of `[run]` in the study file that count for nothing, and the executor that they are not for.
    #[must_use]
    pub fn idle_tables(&self) -> (Vec<&'static str>, &'static str) {
        let executor = self.stands.spec.run.executor.kind();
        let idle = |bytes| study_file::idle_tables(bytes, executor);
        (self.given.source_bytes().map_or_else(Vec::new, idle), executor.name())
    }

    /// Why it cannot be done as it stands.
    ///
    /// # Errors
    /// [`Error::OtherStudy`] and [`Error::AltersResults`].
    pub fn refuse(&self) -> Result<(), Error> {
        let store = self.store.path.clone();
        if let Some(judged) = self.plan.changes.iter().find(|judged| judged.class == Class::Forbidden) {
            return Err(Error::OtherStudy { store, setting: judged.change.path.clone() });
        }
        match self.plan.altered_from.clone() {
            Some(stage) => {
                let amend = Box::new(self.given.how_to_amend(&store, Some(&stage)));
                Err(Error::AltersResults { store, stage, amend })
            }
            None => Ok(()),
        }
    }

    /// Refuses trials that are added for parents whose directories were discarded.
    fn refuse_orphaned(&self) -> Result<(), Error> {
        let (stands, event) = (&self.stands, &self.plan.event);
        let added = event.extended.as_ref().filter(|extended| stands.spec.shows_parent(extended.stage));
        let row = added.and_then(|extended| stands.stages.get(extended.stage as usize));
        let (Some(added), Some(row)) = (added, row) else { return Ok(()) };
        let snapshot = self.access.snapshot().map_err(|cause| self.store.unreadable(cause))?;
        let lineage = Lineage::new(&stands.spec, &stands.stages);
        let parent = |segment: &Segment| row.parents.get(usize::try_from(segment.parent).ok()?).copied();
        let parents = added.more.iter().filter(|segment| segment.count > 0).filter_map(parent);
        retry::refuse_orphaned(self.store, &snapshot, &lineage, parents, &stands.spec)
    }

    /// Runs the commands that print the versions of the study's tools. Gives whether the plan is another one now.
    ///
    /// # Errors
    /// [`Error::Version`] when a tool that the study is to name prints no version.
    pub fn ask_tools(&mut self) -> Result<bool, Error> {
        if matches!(self.tools, Tools::Told { .. }) {
            return Ok(false);
        }
        self.tools = Tools::ask(&self.new, &self.stands)?;
        let (told, replanned) = self.planned()?;
        self.replanned = replanned;
        let presumed = std::mem::replace(&mut self.plan, told);
        Ok(presumed.changes != self.plan.changes || presumed.discarded != self.plan.discarded)
    }

    /// Does it, in one transaction: what is left of a dead engine's trials is ended, scratch directories of what is
    /// discarded are removed, and the study is what was given. Nothing is done where there is nothing to do.
    ///
    /// # Errors
    /// As [`AmendPlan::refuse`] and [`AmendPlan::ask_tools`], [`Error::Usage`] when results would go that may not.
    pub fn apply(self, consent: Consent) -> Result<(), Error> {
        self.applied(consent).map(drop)
    }

    /// [`AmendPlan::apply`], with what was recorded.
    pub(crate) fn applied(mut self, consent: Consent) -> Result<Recorded, Error> {
        if matches!(self.access, Access::Seen { .. }) {
            return Err(preview());
        }
        self.ask_tools()?;
        self.refuse()?;
        let given_up = self.rereads().any(|found| !found.given_up.is_empty());
        if (self.discard_from.is_some() || given_up) && consent == Consent::KeepResults {
            return Err(Error::Usage("nothing was changed: the plan discards results, and none may go".into()));
        }
        if self.plan.is_empty() {
            self.close()?;
            return Ok(Vec::new());
        }
        self.refuse_orphaned()?;
        let settled = match &self.access {
            Access::Held(journal) if self.plan.event.discard_from.is_some() => self.make_way(journal)?,
            _ => Vec::new(),
        };
        let late = injected_fault!(ScratchClearedLate).then(|| self.to_clear());
        let Access::Held(mut journal) = self.access else { return Err(preview()) };
        let accepts = self.plan.changes.iter().any(|judged| matches!(judged.class, Class::Accepted(_)));
        let accepted = self.stands.accepted(&self.new, &self.tools, self.discard_from).filter(|_| accepts);
        let read = std::mem::take(&mut self.stands.rereads);
        let reread = {
            let snapshot = journal.snapshot().map_err(|cause| self.store.unreadable(cause))?;
            let (stands, event) = (&self.stands, &self.plan.event);
            let everything: Vec<Accepted> = stands.study.accepted.iter().chain(&accepted).cloned().collect();
            let made_with = MadeWith { inputs: &event.inputs, versions: &event.versions, accepted: &everything };
            let of = (&stands.spec, &self.new, stands.stages.as_slice());
            let events = reread::events(read, &snapshot, of, made_with, event.discard_from);
            events.map_err(|cause| self.store.unreadable(cause))?
        };
        let accepted = accepted.map(|Accepted { by, note, inputs, tools, .. }| Event::InputsAccepted {
            by,
            note,
            inputs,
            tools,
        });
        let kept = matches!(self.plan.base, Some(BaseCommand::Stands)).then_some(Event::BaseKept);
        let extended = self.plan.event.extended.as_ref().map(|extended| extended.stage);
        let count = self.plan.rounds;
        let rounds = extended.filter(|_| count > 0).map(|stage| Event::RoundsPlanned { stage, count });
        let event = Event::SpecAmended(Box::new(self.plan.event));
        let lists = self.stands.present.found.lists;
        let listed = (!lists.is_empty()).then_some(Event::InputsListed { lists });
        let at_ms = unix_ms();
        let records = |events: Vec<Event>| events.into_iter().map(move |event| Record { at_ms, run_ms: 0, event });
        let amended = settled
            .into_iter()
            .chain(records([event].into_iter().chain(rounds).chain(kept).chain(listed).chain(accepted).collect()));
        let apart = |record: &Record| match record.event {
            Event::InputsAccepted { .. } => injected_fault!(AcceptedApart),
            Event::BaseKept => injected_fault!(BaseKeptApart),
            Event::RoundsPlanned { .. } => injected_fault!(RoundsApart),
            Event::StageReread { .. } | Event::ResultReread(_) | Event::ResultIdentified { .. } => {
                injected_fault!(RereadApart)
            }
            _ => false,
        };
        let (later, amended): (Vec<Record>, Vec<Record>) = amended.chain(records(reread)).partition(apart);
        if !later.is_empty() {
            let first = journal.last_seq() + 1;
            journal.append(&amended).map_err(|cause| self.store.unreadable(cause))?;
            let then = self.store.append_records(journal, later)?;
            return Ok((first..).zip(amended).chain(then).collect());
        }
        let recorded = self.store.append_records(journal, amended)?;
        if let Some(stages) = late {
            clear(&stages)?;
        }
        Ok(recorded)
    }

    /// Lets go of the store, which is as it was.
    ///
    /// # Errors
    /// [`Error`] when it is found to be damaged.
    pub fn close(self) -> Result<(), Error> {
        match self.access {
            Access::Held(journal) => journal.close().map_err(|cause| self.store.unreadable(cause)),
            Access::Seen { .. } => Ok(()),
        }
    }

    /// Ends what a dead engine left running, and removes the scratch directories and reports of what is discarded: a trial
    /// that runs again must not go on from another one's. Nothing of a result is touched.
    fn make_way(&self, journal: &Journal) -> Result<Vec<Record>, Error> {
        let snapshot = journal.snapshot().map_err(|cause| self.store.unreadable(cause))?;
        let left = snapshot.running().map_err(|cause| self.store.unreadable(cause))?;
        let records = engine::settled(journal)?;
        if records.len() < left.len() {
            let pid = self.stands.study.engine.as_ref().map_or(0, |engine| engine.process.pid);
            return Err(EngineError::Copied { pid }.into());
        }
        if !injected_fault!(ScratchClearedLate) {
            clear(&self.to_clear())?;
        }
        Ok(records)
    }

    /// The directories of the stages whose cases lose what they keep across attempts.
    fn to_clear(&self) -> Vec<PathBuf> {
        let Stands { paths, spec, .. } = &self.stands;
        self.begins_anew().map(|stage| paths.stage_dir(spec, stage.index)).collect()
    }
}

fn preview() -> Error {
    Error::Usage("a preview cannot be applied: `Store::amend` makes a plan that can".into())
}

/// What is to be amended.
#[derive(Debug)]
struct Stands {
    study: StudyRow,
    spec: Spec,
    stages: Vec<StageRow>,
    counters: Vec<StageCounters>,
    /// What its tools were, from the beginning on.
    identities: Vec<Identity>,
    /// Its inputs as they are now, and what of them contradicts results.
    present: inputs_now::Present,
    /// What finished trials left, read by the rules that are to be.
    rereads: Vec<reread::StageRead>,
    /// Who takes changed ones for what they were, and what of them then still contradicts.
    accepting: Option<Accepting>,
    paths: StudyPaths,
}

/// Changed inputs that are taken for what they were.
#[derive(Debug)]
struct Accepting {
    by: String,
    note: String,
    inputs: Vec<AcceptedChange>,
    conflicts: Vec<Contradiction>,
}

impl Stands {
    /// With the spec that is to be.
    fn load(store: &Store, given: &Study, snapshot: &Snapshot, spec: Spec) -> Result<(Self, Spec), Error> {
        let unreadable = |cause| store.unreadable(cause);
        let study = snapshot.study().map_err(unreadable)?;
        let stages = snapshot.stages().map_err(unreadable)?;
        let counters = stages.iter().map(|stage| snapshot.counters(stage.index)).collect::<Result<Vec<_>, _>>();
        let counters = counters.map_err(unreadable)?;
        let paths = StudyPaths::of(&store.path, &study).map_err(Error::no_current_dir)?;
        let identities = snapshot.identities().map_err(unreadable)?;
        let waits = |name: &str| stages.iter().any(|row| row.name == name && row.status == StageStatus::Waiting);
        let Some(new) = given.whole_spec_beside(&spec, |name| !waits(name))? else {
            return Err(Error::Usage("there is nothing to amend the study to: no study file was given".into()));
        };
        let present = inputs_now::present((&spec, &new), &paths, &study, &identities).map_err(Error::Input)?;
        let (rereads, accepting) = (Vec::new(), None);
        let mut stands = Self { study, spec, stages, counters, identities, present, rereads, accepting, paths };
        stands.read_again(store, snapshot, &new, false)?;
        Ok((stands, new))
    }

    /// Reads what finished trials left by the rules of the new spec.
    fn read_again(&mut self, store: &Store, snapshot: &Snapshot, new: &Spec, gives_up: bool) -> Result<(), Error> {
        let Self { study, spec: old, stages, paths, .. } = &*self;
        let read = reread::read(&reread::Reading { snapshot, study, stages, old, new, paths, gives_up });
        self.rereads = read.map_err(|error| match error {
            reread::ReadError::Store(cause) => store.unreadable(cause),
            reread::ReadError::Other(error) => error,
        })?;
        Ok(())
    }

    /// Takes changed inputs for what they were.
    fn accept(&mut self, new: &Spec, by: &str, note: &str) -> Result<(), Error> {
        let found = &self.present.found;
        let mut inputs: Vec<AcceptedChange> = Vec::new();
        let current = Identity::new(self.study.inputs.clone(), Vec::new());
        let used = self.identities.iter().filter(|identity| identity.has_results(0));
        for was in used.chain([&current]).flat_map(|identity| &identity.inputs) {
            let is = found.hashes.iter().find(|is| is.path == was.path && is.blake3 != was.blake3);
            if let Some(is) = is.filter(|_| !study_file::is_case_file(new, &was.path)) {
                let (name, old, new) = (was.path.clone(), was.blake3.clone(), is.blake3.clone());
                let change = AcceptedChange { name, old, new };
                if !inputs.contains(&change) {
                    inputs.push(change);
                }
            }
        }
        let mut identities = self.identities.clone();
        identities.iter_mut().for_each(|identity| identity.accept(&inputs, &[], &found.lists));
        let mut row = self.study.clone();
        for input in &mut row.inputs {
            if let Some(is) =
                found.hashes.iter().find(|is| inputs.iter().any(|c| c.name == is.path) && is.path == input.path)
            {
                input.clone_from(is);
            }
        }
        let left = inputs_now::present((&self.spec, new), &self.paths, &row, &identities).map_err(Error::Input)?;
        if left.found.hashes != found.hashes {
            return Err(Error::Usage("inputs change meanwhile: nothing was accepted".into()));
        }
        let (by, note) = (by.to_owned(), note.to_owned());
        self.accepting = Some(Accepting { by, note, inputs, conflicts: left.conflicts });
        Ok(())
    }

    /// What is accepted, of inputs and tools that results depend on which stay.
    fn accepted(&self, new: &Spec, tools: &Tools, discard_from: Option<StageIndex>) -> Option<Accepted> {
        let Accepting { by, note, inputs, .. } = self.accepting.as_ref()?;
        let first = discard_from.unwrap_or(StageIndex::MAX);
        let inputs = inputs.iter().filter(|change| new.depends_from(&change.name) < first).cloned().collect();
        let tools = if first == 0 { Vec::new() } else { tools.changed(&self.study, &self.identities) };
        Some(Accepted { by: by.clone(), note: note.clone(), at_ms: unix_ms(), inputs, tools })
    }

    /// The commands that print the versions of all tools that the study names or is to name.
    fn named(&self, new: &Spec) -> BTreeMap<String, Vec<String>> {
        let mut both = new.study.versions.clone();
        for (tool, command) in &self.spec.study.versions {
            both.entry(tool.clone()).or_insert_with(|| command.clone());
        }
        both
    }

    /// The amendment, and what follows from it.
    fn plan(
        &self,
        snapshot: &Snapshot,
        new: &Spec,
        tools: &Tools,
        discard_from: Option<StageIndex>,
    ) -> Result<(Amendment, Vec<StageForecast>), JournalError> {
        let Self { study, spec, stages, counters, .. } = self;
        let used = self.identities.iter().filter(|identity| identity.has_results(0));
        let made_with = used.map(|identity| &identity.versions).chain([&study.versions]);
        let mut conflicts = self.present.conflicts.clone();
        conflicts.extend(tools.conflicts(study, made_with));
        let accepting = self.accepted(new, tools, discard_from);
        let mut accepted_conflicts = Vec::new();
        if let (Some(accepting), Some(accepted)) = (&self.accepting, &accepting) {
            let of_tool = |change: &Change| accepted.tools.iter().any(|tool| change.path == tool_path(&tool.name));
            let is_left = |conflict: &Contradiction| {
                accepting.conflicts.iter().any(|left| left.change.path == conflict.change.path)
            };
            let is_input = |conflict: &Contradiction| self.present.conflicts.contains(conflict);
            (accepted_conflicts, conflicts) = conflicts
                .into_iter()
                .partition(|conflict| of_tool(&conflict.change) || (is_input(conflict) && !is_left(conflict)));
        }
        let everything_accepted: Vec<Accepted> = study.accepted.iter().cloned().chain(accepting).collect();
        let named = |tool: &&ToolVersion| new.study.versions.contains_key(&tool.tool);
        let versions = tools.versions(study).iter().filter(named).cloned().collect();
        let rereads = self.rereads.iter().map(|read| read.found.clone()).collect();
        let (inputs, accepted) = (self.present.found.hashes.clone(), accepted_conflicts);
        let present = Present { inputs, versions, conflicts, accepted, rereads };
        let reuses = |spec: &Spec| spec.stages.iter().any(|stage| !stage.reuse.is_no());
        let mut recorded = Found { snapshot, library: None };
        let mut proposals = Proposals::new();
        let mut held: Vec<Held> = Vec::new();
        if reuses(new) || reuses(spec) {
            recorded.library = Some(Library::open(new, &self.paths, study));
            let end = stages.iter().map(|stage| stage.first_trial.0.saturating_add(stage.planned())).max();
            proposals = snapshot.proposals(TrialId(0), TrialId(end.unwrap_or(0)))?;
            let accepted = everything_accepted.as_slice();
            let made_with = MadeWith { inputs: &present.inputs, versions: &present.versions, accepted };
            for stage in stages.iter().take_while(|stage| stage.status != StageStatus::Waiting) {
                let (old, new) = ((spec, MadeWith::from(study)), (new, made_with));
                let imported = counters.get(stage.index as usize).is_some_and(|counters| counters.imported > 0);
                let known = (stages.as_slice(), study.doubts.as_slice());
                held.push(match imported {
                    true => Untaken::Imported.into(),
                    false => untaken(&recorded, old, known, &proposals, stage.index, new)?,
                });
            }
        }
        let standing = StudyState { study, spec, stages, counters, held: &held };
        let plan = amendment(standing, new, present, discard_from);
        let event = &plan.event;
        let replans = event.discard_from.is_some() || event.extended.is_some();
        if recorded.library.is_none() || !replans {
            return Ok((plan, Vec::new()));
        }
        let begun = stages.iter().take_while(|stage| stage.status != StageStatus::Waiting).count();
        let kept = event.discard_from.map_or(begun, |from| begun.min(from as usize));
        let accepted = everything_accepted.as_slice();
        let made_with = MadeWith { inputs: &event.inputs, versions: &event.versions, accepted };
        let extended = event.extended.as_ref();
        let rounds = plan.rounds;
        let replanned = Forecast { stages, proposals: &proposals, new, made_with, kept, extended, rounds };
        let replanned = replanned.stages(&mut recorded)?;
        Ok((plan, replanned))
    }
}

/// What the store has, and the stores from which its study takes results.
struct Found<'a> {
    snapshot: &'a Snapshot,
    library: Option<Library>,
}

impl forecast::Recorded for Found<'_> {
    type Error = JournalError;

    fn trial(&self, trial: TrialId) -> Result<Option<TrialRow>, JournalError> {
        self.snapshot.trial(trial)
    }

    fn result(
        &mut self,
        known_by: &[KnownBy],
        stage: &StageSpec,
    ) -> Result<Option<(Metrics, Vec<OutputHash>)>, JournalError> {
        let Some(library) = &mut self.library else { return Ok(None) };
        let hits = library.find(self.snapshot, known_by, stage)?;
        Ok(hits.into_iter().find(|hit| !hit.discarded).map(|hit| (hit.metrics, hit.outputs)))
    }
}

/// Versions of tools.
#[derive(Debug)]
enum Tools {
    /// Not asked yet: they count as what is recorded.
    Presumed,
    Told {
        /// Of those that the study is to name.
        versions: Vec<ToolVersion>,
        /// Of those that it names no more.
        dropped: Vec<ToolVersion>,
        /// Why one of these printed none.
        silent: Option<String>,
    },
}

impl Tools {
    fn ask(new: &Spec, stands: &Stands) -> Result<Self, Error> {
        let dir = &stands.paths.study_dir;
        let versions = study_file::tool_versions(dir, new).map_err(Error::Version)?;
        let mut old = stands.spec.clone();
        old.study.versions.retain(|tool, _| !new.study.versions.contains_key(tool));
        Ok(match study_file::tool_versions(dir, &old) {
            Ok(dropped) => Self::Told { versions, dropped, silent: None },
            Err(error) => Self::Told { versions, dropped: Vec::new(), silent: Some(error.to_string()) },
        })
    }

    fn versions<'a>(&'a self, study: &'a StudyRow) -> &'a [ToolVersion] {
        match self {
            Self::Presumed => &study.versions,
            Self::Told { versions, .. } => versions,
        }
    }

    /// Versions that differ from those that results were made with.
    fn changed(&self, study: &StudyRow, identities: &[Identity]) -> Vec<AcceptedChange> {
        let used = identities.iter().filter(|identity| identity.has_results(0)).map(|identity| &identity.versions);
        let mut changed = Vec::new();
        for was in used.chain([&study.versions]).flatten() {
            let is = self.versions(study).iter().find(|is| is.tool == was.tool && is.version != was.version);
            if let Some(is) = is {
                let (name, old, new) = (was.tool.clone(), was.version.clone(), is.version.clone());
                let change = AcceptedChange { name, old, new };
                if !changed.contains(&change) {
                    changed.push(change);
                }
            }
        }
        changed
    }

    /// What contradicts results that were made with these versions.
    fn conflicts<'a>(
        &self,
        study: &StudyRow,
        made_with: impl Iterator<Item = &'a Vec<ToolVersion>>,
    ) -> Vec<Contradiction> {
        let (dropped, silent) = match self {
            Self::Presumed => (&[][..], None),
            Self::Told { dropped, silent, .. } => (dropped.as_slice(), silent.as_ref()),
        };
        let silent = silent.map(|why| Change { path: why.clone(), old: None, new: None });
        let mut conflicts: Vec<Change> = silent.into_iter().collect();
        let now: Vec<ToolVersion> = self.versions(study).iter().chain(dropped).cloned().collect();
        for versions in made_with {
            for change in changed_tools(versions, &now) {
                if conflicts.iter().all(|known| known.path != change.path) {
                    conflicts.push(change);
                }
            }
        }
        conflicts.into_iter().map(Contradiction::of_all).collect()
    }
}

fn clear(stages: &[PathBuf]) -> Result<(), Error> {
    stages.iter().try_for_each(|stage| {
        let file = |cause| Error::File { what: "remove the scratch directories in", path: stage.clone(), cause };
        engine::clear_scratch(stage, &|_| true).map_err(file)
    })
}
