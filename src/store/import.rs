//! Importing: results that were made elsewhere become those of cases that wait, or what a proposer hears before its first question.
//!
//! What it would do is a plan first, while nobody else can change the store. Nothing is imported in part: a row that is wrong, or
//! that matches nothing and was not said to be left, keeps all the others out. What depends on what such a result was made with is not known,
//! so no other trial may ever be given it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Look, Recorded, Store};
use crate::claim;
use crate::engine::importing::{self, Placed};
use crate::engine::{parents_proposals, told_values};
use crate::error::Error;
use crate::journal::{Journal, JournalError, Reader, Snapshot};
#[cfg(test)]
use crate::model::Params;
use crate::model::reported::{label_of, metrics_fit};
use crate::model::words::counted;
use crate::model::{
    Event, ImportSource, Metric, Metrics, Proposals, Record, ResultsTold, StageIndex, StageRow, StageStatus,
    StudyRow, ToldResult, TrialId, TrialImport, TrialState, Value, float_of_integer, names,
};
use crate::paths::StudyPaths;
use crate::plan::{self, Lineage};
use crate::preflight;
use crate::study_file::{Sampling, Spec, SpecValue, StageSpec, own_names, read_results};
use crate::sys::clock::unix_ms;
use crate::sys::opened::Below;

/// Results of one event that tells a proposer of them, at most: a record has a limit.
const TOLD_A_RECORD: usize = 1_000;

/// What begins the name of a column that is a param, or a metric, whatever the study knows; `piton dump --format csv` writes them so.
const PARAM: &str = "param.";
const METRIC: &str = "metric.";

/// The column that names each row's directory of outputs, unless another is named.
pub const OUTPUTS_COLUMN: &str = "outputs";

/// What is to be imported, and into which stage.
///
/// ```no_run
/// use piton::{Import, Store, Unmatched};
///
/// let store = Store::at("study.redb");
/// let plan = store.import(&Import::from_file("last-week.csv", "explore").by("ada"))?;
/// println!("{} results, {} rows match nothing", plan.matched().len(), plan.unmatched().len());
/// plan.apply(Unmatched::Refuse)?;
/// # Ok::<(), piton::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Import {
    source: From,
    stage: String,
    by: String,
    outputs: Option<PathBuf>,
    outputs_column: String,
    ignored: BTreeSet<String>,
}

#[derive(Clone, Debug)]
enum From {
    File(PathBuf),
    Store(PathBuf, Option<String>),
    #[cfg(test)]
    Rows(Vec<(Params, Metrics, Option<Below>)>),
}

impl Import {
    /// The rows of a CSV or JSON Lines file, for a stage.
    #[must_use]
    pub fn from_file(file: impl Into<PathBuf>, stage: impl Into<String>) -> Self {
        Self::new(From::File(file.into()), stage.into())
    }

    /// The trials of another store that succeeded, of the stage of that name or of `their_stage`, for a stage.
    #[must_use]
    pub fn from_store(store: impl Into<PathBuf>, their_stage: Option<&str>, stage: impl Into<String>) -> Self {
        Self::new(From::Store(store.into(), their_stage.map(str::to_owned)), stage.into())
    }

    #[cfg(test)]
    pub(crate) fn of_rows(rows: Vec<(Params, Metrics, Option<Below>)>, stage: &str) -> Self {
        Self::new(From::Rows(rows), stage.to_owned())
    }

    fn new(source: From, stage: String) -> Self {
        let (by, outputs_column) = (String::new(), OUTPUTS_COLUMN.to_owned());
        Self { source, stage, by, outputs: None, outputs_column, ignored: BTreeSet::new() }
    }

    /// Who imports them, as is recorded with each.
    #[must_use]
    pub fn by(mut self, by: impl Into<String>) -> Self {
        self.by = by.into();
        self
    }

    /// The directory below which each row's outputs lie: in the one that the column for it names, or where there is no such column, in one that
    /// is called by the row's number, from 1.
    #[must_use]
    pub fn outputs(mut self, dir: impl Into<PathBuf>) -> Self {
        self.outputs = Some(dir.into());
        self
    }

    /// The column that names each row's directory of outputs; [`OUTPUTS_COLUMN`] unless given.
    #[must_use]
    pub fn outputs_column(mut self, column: impl Into<String>) -> Self {
        self.outputs_column = column.into();
        self
    }

    /// A column that says nothing here.
    #[must_use]
    pub fn ignore(mut self, column: impl Into<String>) -> Self {
        self.ignored.insert(column.into());
        self
    }
}

/// What becomes of the others when rows match no case that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmatched {
    /// Nothing is imported.
    Refuse,
    /// They are left, and the others are imported.
    Leave,
}

/// A row that is a result of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MatchedRow {
    /// Where it stands: a line, or a case of another store.
    pub row: String,
    /// The case; none for a result that a proposer is told of.
    pub case: Option<String>,
}

/// A row that is a result of no case that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnmatchedRow {
    /// Where it stands: a line, or a case of another store.
    pub row: String,
    /// Why, in words.
    pub why: String,
}

/// What an import would do. Nobody else can change the store while this lives.
#[derive(Debug)]
pub struct ImportPlan<'a> {
    store: &'a Store,
    journal: Journal,
    target: Target,
    source: ImportSource,
    found: Found,
}

/// The study, as far as it matters.
#[derive(Debug)]
struct Target {
    study: StudyRow,
    spec: Spec,
    /// As they will be: the first may be opened by the import.
    stages: Vec<StageRow>,
    index: StageIndex,
    opens: bool,
    asks: bool,
    /// Of the survivors.
    proposals: Proposals,
}

#[derive(Debug, Default)]
struct Found {
    matched: Vec<MatchedRow>,
    unmatched: Vec<UnmatchedRow>,
    problems: Vec<String>,
    trials: Vec<(TrialId, Metrics, Option<Below>)>,
    told: Vec<ToldResult>,
}

/// A row, read.
struct Row {
    place: String,
    params: BTreeMap<String, Value>,
    metrics: Metrics,
    outputs: Option<Below>,
}

/// All rows, with what names them.
struct Rows {
    file: String,
    blake3: [u8; 32],
    /// The params of which any row may have a value.
    params: BTreeSet<String>,
    rows: Vec<Row>,
    problems: Vec<String>,
}

impl Store {
    /// What it takes to import results, as a plan: nothing is changed yet. The stage is open, or it is the first and nothing stands before it; one
    /// with a proposer that was not asked yet may also wait.
    ///
    /// # Errors
    /// [`Error::Open`] while an engine runs, [`Error::Usage`] when the stage takes no results, [`Error::Results`] with every mistake in the file.
    pub fn import<'a>(&'a self, import: &Import) -> Result<ImportPlan<'a>, Error> {
        let (journal, snapshot, spec) = self.open()?;
        let target = Target::load(self, &snapshot, spec, &import.stage)?;
        let rows = match &import.source {
            From::File(path) => target.rows_of_file(path, import)?,
            From::Store(path, stage) => target.rows_of_store(path, stage.as_deref(), import)?,
            #[cfg(test)]
            From::Rows(rows) => given(rows),
        };
        let found = target.find(&snapshot, &rows).map_err(|cause| self.unreadable(cause))?;
        drop(snapshot);
        let source = ImportSource { file: rows.file, blake3: rows.blake3, by: import.by.clone() };
        Ok(ImportPlan { store: self, journal, target, source, found })
    }
}

impl ImportPlan<'_> {
    /// The rows that are results, in their order.
    #[must_use]
    pub fn matched(&self) -> &[MatchedRow] {
        &self.found.matched
    }

    /// The rows that match no case that waits, in their order.
    #[must_use]
    pub fn unmatched(&self) -> &[UnmatchedRow] {
        &self.found.unmatched
    }

    /// All that is wrong, each with its row.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        &self.found.problems
    }

    /// Whether a proposer is told of the results; otherwise trials have them.
    #[must_use]
    pub fn tells_proposer(&self) -> bool {
        self.target.asks
    }

    /// The file, and the blake3 of what was read of it.
    #[must_use]
    pub fn source(&self) -> &ImportSource {
        &self.source
    }

    /// Why it cannot be done.
    ///
    /// # Errors
    /// [`Error::Usage`]: something is wrong, or rows match nothing that may not be left.
    pub fn refuse(&self, unmatched: Unmatched) -> Result<(), Error> {
        let (wrong, left) = (self.found.problems.len(), self.found.unmatched.len());
        if let Some(first) = self.found.problems.first() {
            let more = if wrong > 1 { format!(", and {} more", wrong - 1) } else { String::new() };
            return Err(Error::Usage(format!("nothing was imported: {first}{more}")));
        }
        match (self.found.unmatched.first(), unmatched) {
            (Some(first), Unmatched::Refuse) => Err(Error::Usage(format!(
                "nothing was imported: {} of {} match no case that waits ({}: {})",
                left,
                counted(left + self.found.matched.len(), "row"),
                first.row,
                first.why
            ))),
            _ => Ok(()),
        }
    }

    /// Imports all of it in one transaction; outputs are in place and durable before that. Where there is nothing to import nothing is done.
    ///
    /// # Errors
    /// As [`ImportPlan::refuse`], and what fails on the way: then nothing was imported.
    pub fn apply(self, unmatched: Unmatched) -> Result<(), Error> {
        self.applied(unmatched).map(drop)
    }

    /// [`ImportPlan::apply`], with what was recorded.
    pub(crate) fn applied(self, unmatched: Unmatched) -> Result<Recorded, Error> {
        self.refuse(unmatched)?;
        let Self { store, journal, target, source, found } = self;
        if found.matched.is_empty() {
            journal.close().map_err(|cause| store.unreadable(cause))?;
            return Ok(Vec::new());
        }
        let placed = target.place(store, &found.trials)?;
        let mut events = Vec::new();
        if target.opens
            && let Some(stage) = target.stages.first()
        {
            let (parents, shares) = (stage.parents.clone(), stage.shares.clone());
            events.push(Event::StageOpened { stage: stage.index, parents, shares });
            let rounds = target.stage().and_then(StageSpec::first_rounds);
            events.extend(rounds.map(|count| Event::RoundsPlanned { stage: stage.index, count }));
        }
        let first = found.trials.first().map(|(trial, ..)| *trial);
        let mut outputs = placed.outputs.clone().into_iter();
        events.extend(found.trials.into_iter().map(|(trial, metrics, _)| {
            let (source, outputs) = (source.clone(), outputs.next().unwrap_or_default());
            Event::TrialImported(Box::new(TrialImport { trial, source, metrics, outputs }))
        }));
        let stage = target.index;
        events.extend(found.told.chunks(TOLD_A_RECORD).map(|results| {
            let (source, results) = (source.clone(), results.to_vec());
            Event::ResultsTold(Box::new(ResultsTold { stage, source, results }))
        }));
        let at_ms = unix_ms();
        let records: Vec<_> = events.into_iter().map(|event| Record { at_ms, run_ms: 0, event }).collect();
        let mut journal = journal;
        if injected_fault!(ImportedInPart) {
            for record in &records {
                journal.append(std::slice::from_ref(record)).map_err(|cause| store.unreadable(cause))?;
            }
            return store.append_records(journal, Vec::new());
        }
        let recorded = store.append_records(journal, records);
        // What could not be recorded is not left in place. Whether a commit is there that failed, the store says.
        if recorded.is_err() && first.is_some_and(|trial| store.has_no_import(trial)) {
            placed.take_back();
        }
        recorded
    }

    /// Lets go of the store, which is as it was.
    ///
    /// # Errors
    /// [`Error`] when it is found to be damaged.
    pub fn close(self) -> Result<(), Error> {
        self.journal.close().map_err(|cause| self.store.unreadable(cause))
    }
}

impl Store {
    /// Whether it is known that a trial's result was not imported.
    fn has_no_import(&self, trial: TrialId) -> bool {
        let row = Reader::open(&self.path).ok().and_then(|reader| reader.snapshot().ok()?.trial(trial).ok());
        row.is_some_and(|row| row.is_none_or(|row| row.imported.is_none()))
    }
}

impl Target {
    fn load(store: &Store, snapshot: &Snapshot, spec: Spec, name: &str) -> Result<Self, Error> {
        let unreadable = |cause| store.unreadable(cause);
        let (study, mut stages) = (snapshot.study().map_err(unreadable)?, snapshot.stages().map_err(unreadable)?);
        if let Some(why) = plan::other_version(&study) {
            return Err(Error::StoredSpec { store: store.path.clone(), why });
        }
        let refused = |why: String| Err(Error::Usage(why));
        let Some(position) = stages.iter().position(|stage| stage.name == name) else {
            let names: Vec<_> = stages.iter().map(|stage| format!("`{}`", stage.name)).collect();
            return refused(format!("the study has no stage `{name}`; it has {}", names.join(", ")));
        };
        let (Some(of_spec), Some(row)) = (spec.stages.get(position), stages.get_mut(position)) else {
            return refused(format!("the study has no stage `{name}`"));
        };
        let index = row.index;
        let asks = matches!(of_spec.sampling, Sampling::Ask(_));
        let mut opens = false;
        match row.status {
            StageStatus::Closed => {
                return refused(format!(
                    "stage `{name}` is closed: its survivors are chosen, and no result can change that"
                ));
            }
            StageStatus::Aborted => return refused(format!("the study was aborted in stage `{name}`")),
            _ if asks && row.planned() > 0 => {
                return refused(format!(
                    "the proposer of stage `{name}` was asked already: what it hears before its first question can no longer change"
                ));
            }
            StageStatus::Waiting if !asks => {
                let base = study.base.as_ref().is_some_and(|base| base.state == TrialState::Succeeded);
                let before = if index > 0 {
                    Some("which cases it has follows from the survivors of the stage before it")
                } else if spec.base.is_some() && !base {
                    Some("the base command has to succeed first")
                } else if of_spec.approve && row.approval.is_none() {
                    Some("it waits for `piton approve`")
                } else {
                    None
                };
                if let Some(before) = before {
                    return refused(format!("stage `{name}` has not begun: {before}"));
                }
                row.status = StageStatus::Open;
                row.shares = plan::shares(of_spec, 0);
                plan::plan_trials(of_spec, row);
                opens = true;
            }
            StageStatus::Waiting | StageStatus::Open => {}
        }
        let proposals = parents_proposals(snapshot, &stages).map_err(unreadable)?;
        Ok(Self { study, spec, stages, index, opens, asks, proposals })
    }

    fn lineage(&self) -> Lineage<'_> {
        Lineage::new(&self.spec, &self.stages).with_proposals(&self.proposals)
    }

    fn stage(&self) -> Option<&StageSpec> {
        self.spec.stages.get(self.index as usize)
    }

    /// The params by which cases differ.
    fn varying(&self) -> BTreeSet<String> {
        let last = self.index as usize;
        let stages = self.spec.stages.iter().enumerate();
        let own = stages.filter(|(position, _)| if self.asks { *position == last } else { *position <= last });
        own.flat_map(|(_, stage)| own_names(stage)).map(str::to_owned).collect()
    }

    /// The metrics that the stage names.
    fn measured(&self) -> BTreeSet<String> {
        let Some(stage) = self.stage() else { return BTreeSet::new() };
        stage.needed_metrics().map(str::to_owned).chain(stage.metrics.keys().cloned()).collect()
    }

    fn rows_of_file(&self, path: &Path, import: &Import) -> Result<Rows, Error> {
        let columns = Columns::new(self, import);
        let read = read_results(path, &|name| matches!(columns.kind(name), Column::Metric(_)));
        let read = read.map_err(|diagnostics| Error::Results(Box::new(diagnostics)))?;
        let (kinds, mut problems) = columns.of(&read.names);
        let params: BTreeSet<String> = kinds.iter().filter_map(Column::param).map(str::to_owned).collect();
        if !problems.is_empty() {
            let file = path.display().to_string();
            return Ok(Rows { file, blake3: read.blake3, params: BTreeSet::new(), rows: Vec::new(), problems });
        }
        let has_column = kinds.iter().any(|kind| matches!(kind, Column::Outputs));
        let mut rows = Vec::new();
        for ((line, cells), number) in read.rows.into_iter().zip(1_u64..) {
            let place = format!("line {line}");
            let mut row = Row { place, params: BTreeMap::new(), metrics: Metrics::new(), outputs: None };
            let mut dir = (!has_column).then(|| number.to_string());
            for (kind, cell) in kinds.iter().zip(cells) {
                let Some(SpecValue(value)) = cell else { continue };
                match kind {
                    Column::Param(name) => drop(row.params.insert(name.clone(), value)),
                    Column::Metric(name) => match metric_of(&value) {
                        Ok(metric) => drop(row.metrics.insert(name.clone(), metric)),
                        Err(why) => problems.push(format!("{}: `{name}` {why}", row.place)),
                    },
                    Column::Outputs => dir = Some(value.to_string()),
                    Column::Ignored | Column::Unknown => {}
                }
            }
            if let Some(root) = import.outputs.as_ref() {
                match dir {
                    None => problems.push(format!("{}: it names no directory of outputs", row.place)),
                    Some(dir) => match names::inner_path(&dir) {
                        Ok(()) => row.outputs = Some(Below::root(root.clone()).join(&dir)),
                        Err(fault) => {
                            problems.push(format!("{}: the directory of outputs {dir:?} {fault}", row.place))
                        }
                    },
                }
            }
            rows.push(row);
        }
        Ok(Rows { file: path.display().to_string(), blake3: read.blake3, params, rows, problems })
    }

    fn rows_of_store(&self, path: &Path, stage: Option<&str>, import: &Import) -> Result<Rows, Error> {
        if import.outputs.is_some() {
            return Err(Error::Usage("outputs come from the other study: no directory can be named".into()));
        }
        let (_reader, Look { snapshot, view }) = Look::at_store(path)?;
        let name = stage.unwrap_or(&import.stage);
        let Some(theirs) = view.stages.iter().find(|stage| stage.name == name) else {
            return Err(Error::Usage(format!("the study in `{}` has no stage `{name}`", path.display())));
        };
        let columns = Columns::new(self, import);
        let wants_outputs = !self.asks && self.stage().is_some_and(|stage| !stage.outputs.is_empty());
        let (mut rows, mut given) = (Vec::new(), BTreeSet::new());
        let mut hasher = blake3::Hasher::new();
        let failed = |cause| Error::Journal { store: path.into(), cause };
        for trial in view.started(&snapshot, theirs).map_err(failed)? {
            let trial = trial.map_err(failed)?;
            if trial.counted_state() != TrialState::Succeeded {
                continue;
            }
            let case = trial.case();
            let params: BTreeMap<String, Value> =
                trial.params().into_iter().filter(|(name, _)| !columns.ignores(name)).collect();
            let metrics = trial.metrics().clone();
            hasher.update(format!("{case}\n{params:?}\n{metrics:?}\n").as_bytes());
            given.extend(params.keys().cloned());
            let outputs = wants_outputs.then(|| view.attempt_place(theirs, &case, trial.accepted()));
            rows.push(Row { place: format!("case {case}"), params, metrics, outputs });
        }
        let names: Vec<String> = given.iter().map(|name| format!("{PARAM}{name}")).collect();
        let (_, problems) = columns.of(&names);
        let problems = if rows.is_empty() { Vec::new() } else { problems };
        if !problems.is_empty() {
            rows.clear();
        }
        let (file, blake3) = (path.display().to_string(), *hasher.finalize().as_bytes());
        Ok(Rows { file, blake3, params: given, rows, problems })
    }

    /// Which row is whose.
    fn find(&self, snapshot: &Snapshot, rows: &Rows) -> Result<Found, JournalError> {
        let mut found = Found { problems: rows.problems.clone(), ..Found::default() };
        // Where the columns are wrong, no row is looked at.
        let Some(stage) = self.stage().filter(|_| !rows.rows.is_empty()) else { return Ok(found) };
        if !self.asks && !stage.outputs.is_empty() && rows.rows.iter().all(|row| row.outputs.is_none()) {
            found.problems.push(format!(
                "stage `{}` declares outputs, and no directory is given that has them: `--outputs DIR`",
                stage.name
            ));
        }
        if rows.rows.iter().any(|row| row.outputs.is_some()) && (self.asks || stage.outputs.is_empty()) {
            found.problems.push(format!("stage `{}` takes no outputs", stage.name));
        }
        for row in &rows.rows {
            found.problems.extend(lacking(stage, &row.metrics).map(|why| format!("{}: {why}", row.place)));
        }
        match self.asks {
            true => self.tell(stage, rows, &mut found),
            false => self.match_cases(snapshot, stage, rows, &mut found)?,
        }
        Ok(found)
    }

    fn tell(&self, stage: &StageSpec, rows: &Rows, found: &mut Found) {
        let constants = self.spec.constants();
        for row in &rows.rows {
            let other = row.params.iter().find(|(name, value)| {
                !stage.sweep.iter().any(|swept| swept.name == **name)
                    && constants.get(*name).is_none_or(|constant| key_of(Some(constant)) != key_of(Some(value)))
            });
            let told = match other {
                Some((name, value)) => Err(format!("the study has another `{name}` than {value}")),
                None => told_values(&stage.sweep, &row.params),
            };
            match told {
                Ok(values) => {
                    found.told.push(ToldResult { values, metrics: row.metrics.clone() });
                    found.matched.push(MatchedRow { row: row.place.clone(), case: None });
                }
                Err(why) => found.unmatched.push(UnmatchedRow { row: row.place.clone(), why }),
            }
        }
    }

    fn match_cases(
        &self,
        snapshot: &Snapshot,
        stage: &StageSpec,
        rows: &Rows,
        found: &mut Found,
    ) -> Result<(), JournalError> {
        let key = |params: &BTreeMap<String, Value>| {
            let mut key = String::new();
            rows.params.iter().for_each(|name| key.push_str(&key_of(params.get(name))));
            key
        };
        let mut wanted: HashMap<String, Vec<TrialId>> =
            rows.rows.iter().map(|row| (key(&row.params), Vec::new())).collect();
        let lineage = self.lineage();
        let Some(of_stage) = self.stages.get(self.index as usize) else { return Ok(()) };
        for place in 0..of_stage.planned() {
            let Some(params) = lineage.params(self.index, place) else { continue };
            if let Some(trials) = wanted.get_mut(&key(&params)) {
                trials.push(TrialId(of_stage.first_trial.0.saturating_add(place)));
            }
        }
        let exactly = |row: &Row, trial: TrialId| {
            let params = lineage.locate(trial).and_then(|(stage, place)| lineage.params(stage, place));
            params.is_some_and(|params| row.params.iter().all(|(name, value)| params.get(name) == Some(value)))
        };
        let mut taken: HashMap<TrialId, &str> = HashMap::new();
        for row in &rows.rows {
            let mut trials = wanted.get(&key(&row.params)).cloned().unwrap_or_default();
            if trials.len() > 1 && trials.iter().any(|trial| exactly(row, *trial)) {
                trials.retain(|trial| exactly(row, *trial));
            }
            let left = |why: String| UnmatchedRow { row: row.place.clone(), why };
            let trial = match trials.as_slice() {
                [trial] => *trial,
                [] => {
                    found.unmatched.push(left("no case has these params".into()));
                    continue;
                }
                [first, more @ ..] => {
                    let name = lineage.name_of(*first);
                    found.problems.push(format!(
                        "{}: it fits `{name}` and {}: a param is missing that tells them apart",
                        row.place,
                        counted(more.len(), "more case")
                    ));
                    continue;
                }
            };
            let case = lineage.name_of(trial);
            if let Some(other) = taken.insert(trial, &row.place) {
                found.problems.push(format!("{}: `{case}` has its result from {other} already", row.place));
                continue;
            }
            let why = match snapshot.trial(trial)?.map(|row| row.state) {
                None | Some(TrialState::Pending) => None,
                Some(TrialState::Running) => Some("runs, or ran when its engine died: run the study first"),
                Some(TrialState::Succeeded) => Some("has a result already"),
                Some(TrialState::Failed) => Some("has failed: `piton retry` makes it wait again"),
                Some(TrialState::Cancelled) => Some("was cancelled"),
                Some(TrialState::Pruned) => Some("was pruned"),
                Some(TrialState::Undecided) => {
                    Some("has ended, and a rung has still to decide whether that counts")
                }
            };
            if let Some(why) = why {
                found.unmatched.push(left(format!("`{case}` {why}")));
                continue;
            }
            if let Some(from) = &row.outputs
                && let Some(why) = importing::lacking(&stage.outputs, from)
            {
                found.problems.push(format!("{}: {why}", row.place));
            }
            found.trials.push((trial, row.metrics.clone(), row.outputs.clone()));
            found.matched.push(MatchedRow { row: row.place.clone(), case: Some(case) });
        }
        Ok(())
    }

    /// Puts what the trials leave in place. Whoever derives from them may look into their directories.
    fn place(&self, store: &Store, trials: &[(TrialId, Metrics, Option<Below>)]) -> Result<Placed, Error> {
        let has_outputs = self.stage().is_some_and(|stage| !stage.outputs.is_empty());
        if trials.is_empty() || !(has_outputs || self.spec.shows_parent(self.index.saturating_add(1))) {
            return Ok(Placed::nothing());
        }
        let name = &self.spec.study.name;
        let paths = StudyPaths::of(&store.path, &self.study).map_err(Error::no_current_dir)?;
        preflight::refuse_taken(&paths, name, Some(self.study.study_id))?;
        claim::claim(&paths, name, self.study.study_id).map_err(|cause| Error::File {
            what: "make the artifacts directory",
            path: paths.study_artifacts(name),
            cause,
        })?;
        let lineage = self.lineage();
        let from: Vec<_> = trials.iter().map(|(trial, _, from)| (*trial, from.clone())).collect();
        let spec = Arc::new(self.spec.clone());
        Ok(importing::place(&spec, &paths, self.study.study_id, &lineage, &from)?)
    }
}

/// What a column is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Column {
    Param(String),
    Metric(String),
    Outputs,
    Ignored,
    Unknown,
}

impl Column {
    fn param(&self) -> Option<&str> {
        match self {
            Self::Param(name) => Some(name),
            _ => None,
        }
    }

    fn metric(&self) -> Option<&str> {
        match self {
            Self::Metric(name) => Some(name),
            _ => None,
        }
    }
}

/// What the columns of a file can be.
struct Columns<'a> {
    import: &'a Import,
    varying: BTreeSet<String>,
    /// Of these, those that a trial sees: without them no case is known.
    needed: BTreeSet<String>,
    constants: BTreeSet<String>,
    metrics: BTreeSet<String>,
    /// Whether the stage declares outputs.
    has_outputs: bool,
}

impl<'a> Columns<'a> {
    fn new(target: &Target, import: &'a Import) -> Self {
        let varying = target.varying();
        let uses = target.stage().and_then(|stage| stage.uses.as_ref()).filter(|_| !target.asks);
        let seen = |name: &&String| uses.is_none_or(|uses| uses.contains(name.as_str()));
        let needed = varying.iter().filter(seen).cloned().collect();
        let constants = target.spec.params.keys().filter(|name| !varying.contains(*name)).cloned().collect();
        let has_outputs = target.stage().is_some_and(|stage| !stage.outputs.is_empty());
        Self { import, varying, needed, constants, metrics: target.measured(), has_outputs }
    }

    fn ignores(&self, name: &str) -> bool {
        self.import.ignored.contains(name)
    }

    fn kind(&self, column: &str) -> Column {
        let is_param = |name: &str| self.varying.contains(name) || self.constants.contains(name);
        if self.ignores(column) {
            return Column::Ignored;
        }
        if let Some(name) = column.strip_prefix(PARAM).filter(|name| is_param(name)) {
            return Column::Param(name.to_owned());
        }
        if let Some(name) = column.strip_prefix(METRIC).filter(|name| !name.is_empty()) {
            return Column::Metric(name.to_owned());
        }
        // Also where no directory is given: what is missing then is that.
        if column == self.import.outputs_column && (self.has_outputs || self.import.outputs.is_some()) {
            return Column::Outputs;
        }
        match (is_param(column), self.metrics.contains(column)) {
            (true, false) => Column::Param(column.to_owned()),
            (false, true) => Column::Metric(column.to_owned()),
            _ => Column::Unknown,
        }
    }

    /// What each column is, and what is wrong with all of them.
    fn of(&self, names: &[String]) -> (Vec<Column>, Vec<String>) {
        let kinds: Vec<Column> = names.iter().map(|name| self.kind(name)).collect();
        let mut problems = Vec::new();
        for (name, _) in names.iter().zip(&kinds).filter(|(_, kind)| **kind == Column::Unknown) {
            problems.push(match self.varying.contains(name) || self.constants.contains(name) {
                true => format!("the column {name:?} may be a param or a metric: `param.{name}` or `metric.{name}` says which"),
                false => format!(
                    "the column {name:?} is no param of the stage and no metric that it names: `metric.NAME` makes it one, `--ignore` leaves it out"
                ),
            });
        }
        for of in [Column::param, Column::metric] {
            let mut seen = BTreeSet::new();
            let twice = kinds.iter().filter_map(of).find(|name| !seen.insert(*name));
            problems.extend(twice.map(|name| format!("two columns are called `{name}`")));
        }
        let given: BTreeSet<&str> = kinds.iter().filter_map(Column::param).collect();
        for name in self.needed.iter().filter(|name| !given.contains(name.as_str())) {
            problems.push(format!("there is no column for the param `{name}`"));
        }
        (kinds, problems)
    }
}

#[cfg(test)]
fn given(rows: &[(Params, Metrics, Option<Below>)]) -> Rows {
    let params = rows.iter().flat_map(|(params, ..)| params.keys().cloned()).collect();
    let row = |((params, metrics, outputs), number): (&(Params, Metrics, Option<Below>), u64)| Row {
        place: format!("line {number}"),
        params: params.clone(),
        metrics: metrics.clone(),
        outputs: outputs.clone(),
    };
    let rows = rows.iter().zip(1..).map(row).collect();
    Rows { file: "rows".into(), blake3: [0; 32], params, rows, problems: Vec::new() }
}

/// Equal for values that are the same: `1` and `1.0` are, as an optimiser or a spreadsheet may write either.
fn key_of(value: Option<&Value>) -> String {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let text = match value {
        None => "-".to_owned(),
        Some(Value::Str(text)) => format!("s{text}"),
        Some(Value::Bool(flag)) => format!("b{flag}"),
        Some(Value::Int(number)) => format!("n{number}"),
        Some(Value::Float(number)) if number.fract() == 0.0 && number.abs() <= EXACT => {
            #[expect(clippy::cast_possible_truncation, reason = "it is an integer within 53 bits")]
            let whole = *number as i64;
            format!("n{whole}")
        }
        Some(Value::Float(number)) => format!("f{:016x}", number.to_bits()),
    };
    format!("{}:{text}", text.len())
}

fn metric_of(value: &Value) -> Result<Metric, String> {
    match value {
        Value::Int(number) => float_of_integer(i128::from(*number))
            .map(Metric::Number)
            .map_err(|lost| format!("is {number}, which {lost}")),
        Value::Float(number) if number.is_finite() => Ok(Metric::Number(*number)),
        Value::Float(_) => Err("is no finite number".into()),
        Value::Bool(_) => Err("is a boolean, not a number".into()),
        Value::Str(text) => Ok(Metric::Label(label_of(text.clone()))),
    }
}

/// What a result lacks that the stage needs.
fn lacking(stage: &StageSpec, metrics: &Metrics) -> Option<String> {
    let needed: BTreeSet<&str> = stage.needed_metrics().collect();
    for name in needed {
        match metrics.get(name) {
            Some(Metric::Number(number)) if number.is_finite() => {}
            Some(_) => return Some(format!("`{name}` is not a finite number")),
            None => return Some(format!("it has no `{name}`, which the stage needs")),
        }
    }
    (!metrics_fit(metrics)).then(|| format!("{} metrics are more than a trial may report", metrics.len()))
}
