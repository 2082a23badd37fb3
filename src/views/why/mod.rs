//! `why`: where a case comes from, every attempt at it, and why it survived or did not.
//!
//! Everything is recomputed from the spec and the recorded metrics by the plan's own functions; no explanation is
//! stored, so none can be stale.

mod nearest;
mod rank;
mod replicas;
mod text;

#[cfg(feature = "report")]
pub(super) use text::params as params_text;

use std::collections::BTreeMap;
use std::io::{Read, Write};

use serde::Serialize;

use super::dump::{
    AcceptanceOut, AttemptOut, FailureOut, MetricsOut, OriginOut, ParamsOut, TakenOut, acceptances_out,
    versions_out,
};
#[cfg(feature = "report")]
use super::shell_quoted;
use super::text::{number, reported};
use super::words::{FROM_OTHERS, doubt_words, ended_words, local_time, timestamp};
use super::{StudyView, TrialSummary, ViewError};
use crate::journal::Snapshot;
use crate::model::reported::read_metrics;
use crate::model::words::counted;
use crate::model::{
    Accepted, AttemptNo, AttemptOutcome, AttemptRow, Event, Failure, Given, Imported, Kept, Metrics, Origin,
    Params, PruneRule, RungVerdict, Seq, StageIndex, StageRow, StageStatus, ToolVersion, TrialId, TrialRow,
    TrialState, UnixMs, Verdict,
};
use crate::paths::METRICS_FILE;
use crate::plan::{self, Lineage, PartKind, StageIdentity};
use crate::study_file::{ExpandContext, Expanded};

pub use rank::{Compared, RaceSoFar, Rank};
pub(super) use rank::{leader, rank_of};
use replicas::{Repeated, RepeatedOut};

use nearest::{Difference, Nearest};

/// Everything there is to say about a case; see [`Store::why`](crate::Store::why). [`Why::write_json`] is the shape of `why --json`.
#[derive(Debug)]
#[non_exhaustive]
pub struct Why {
    /// `<base_case>_<stage_index>_<derived_index>`.
    pub case: String,
    /// Unique in the study, over all stages.
    pub trial: TrialId,
    /// From 0, within the stage.
    pub index: u64,
    /// As it is in the store.
    pub stage: StageRow,
    /// The survivor it derives from; in stage 0 the base case.
    pub parent: String,
    /// Pending trials of an aborted study are cancelled.
    pub state: TrialState,
    /// It ended, but has no part in what its study was aborted by.
    pub outside: bool,
    /// Whether it is among the survivors of its stage.
    pub survivor: bool,
    /// Whether it went on to explore, though it is not.
    pub explorer: bool,
    /// Why it stands where it stands, in one sentence. It may quote what a trial wrote: see [`clean`](crate::views::clean).
    pub reason: String,
    /// Its place among the succeeded trials of its stage, if it is one of them.
    pub rank: Option<Rank>,
    /// The same in every attempt.
    pub seed: u32,
    /// Those of the study, of its forebears and its own.
    pub params: Params,
    /// The words of what its last attempt ran, or its first will run. `None`: a closure.
    pub command: Option<Vec<String>>,
    /// Empty until it succeeded.
    pub metrics: Metrics,
    /// Why its last attempt failed, also where it runs again.
    pub failure: Option<Failure>,
    /// In order, from the first on.
    pub attempts: Vec<AttemptRow>,
    /// What is kept of their directories, in the same order.
    kept: Vec<Kept>,
    /// What each attempt has or had of what trials share, where that is recorded.
    given: BTreeMap<AttemptNo, BTreeMap<String, String>>,
    /// Why attempts were interrupted, by their number, as far as the last events say so.
    pub interruptions: BTreeMap<AttemptNo, String>,
    /// Whose result it took, if it did not make it.
    pub reused_from: Option<Origin>,
    /// Why that is doubtful, in words: an equal trial was run, and came to another result.
    pub doubt: Option<String>,
    /// Where its result comes from, if it was made elsewhere.
    pub imported: Option<Imported>,
    base_case: String,
    versions: Vec<ToolVersion>,
    /// Inputs and tools of its result that are others by now, and were taken for equal.
    accepted: Vec<Accepted>,
    stage_dir: String,
    lineage: Vec<Step>,
    left_out: BTreeMap<String, String>,
    /// Its case and all of that one's trials, where cases are repeated.
    repeated: Option<Repeated>,
    /// Results that were found for it and could not be taken, and why, as far as that is found.
    missed: Vec<(Origin, String)>,
    /// The earlier result that is most like its own, if it ran where results are reused.
    nearest: Option<Nearest>,
    /// When what it left was read again, by rules that an amendment had changed, and gave another record, as far as that is found.
    reread: Vec<ReadAgain>,
}

/// A result that was read again.
#[derive(Debug)]
struct ReadAgain {
    seq: Seq,
    at_ms: UnixMs,
    outcome: AttemptOutcome,
}

/// A case on the way up to the base case.
#[derive(Debug)]
struct Step {
    #[cfg(feature = "report")]
    trial: TrialId,
    case: String,
    stage: StageIndex,
    stage_name: String,
    /// Whether it went on to explore, though it did not survive.
    explorer: bool,
    /// What its stage's sweep chose for it.
    chose: Params,
    metrics: Metrics,
}

#[derive(Serialize)]
struct ReadAgainOut {
    seq: Seq,
    at: String,
    outcome: AttemptOutcome,
}

#[derive(Serialize)]
struct WhyOut<'a> {
    case: &'a str,
    id: u64,
    stage: u32,
    stage_name: &'a str,
    stage_status: StageStatus,
    parent: &'a str,
    state: TrialState,
    /// There where it is true: it has no part in what its study was aborted by.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    outside: bool,
    survivor: bool,
    /// There where it is true: it went on to explore, though it did not survive.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    explorer: bool,
    reason: &'a str,
    rank: Option<&'a Rank>,
    failure: Option<FailureOut<'a>>,
    seed: u32,
    params: ParamsOut,
    command: Option<&'a [String]>,
    metrics: MetricsOut<'a>,
    /// What else the trial reported, and what that is: no finite number and no text. As its `metrics.json` says now.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    left_out: &'a BTreeMap<String, String>,
    attempts: &'a [AttemptOut],
    /// What each attempt has or had of what trials share, by its number and by pool; there where that is recorded.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    given: &'a BTreeMap<AttemptNo, BTreeMap<String, String>>,
    /// Why attempts were interrupted, by their number.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    interruptions: &'a BTreeMap<AttemptNo, String>,
    #[serde(flatten)]
    taken: TakenOut<'a>,
    /// When what it left was read again, since an amendment had changed the rules, and what it counts as since then; `seq`: the event.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    read_again: Vec<ReadAgainOut>,
    /// Results that were found for it and could not be taken.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_reused: Vec<MissedOut<'a>>,
    /// The earlier result that is most like its own, if it ran where results are reused, and what it differs in.
    #[serde(skip_serializing_if = "Option::is_none")]
    nearest_result: Option<NearestOut<'a>>,
    /// From the case up to stage 0.
    /// There where cases are repeated: its case, and all of that one's trials.
    #[serde(skip_serializing_if = "Option::is_none")]
    repeated: Option<RepeatedOut<'a>>,
    lineage: Vec<StepOut<'a>>,
    base_case: &'a str,
    /// What the tools of `[study] versions` said.
    versions: BTreeMap<&'a str, &'a str>,
    /// Inputs and tools that were others when its result was made, and were taken for equal.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    inputs_accepted: Vec<AcceptanceOut<'a>>,
}

#[derive(Serialize)]
struct MissedOut<'a> {
    #[serde(flatten)]
    origin: OriginOut<'a>,
    reason: &'a str,
}

#[derive(Serialize)]
struct NearestOut<'a> {
    #[serde(flatten)]
    origin: OriginOut<'a>,
    differs: Vec<DifferenceOut<'a>>,
}

#[derive(Serialize)]
struct DifferenceOut<'a> {
    part: PartKind,
    name: &'a str,
    /// `null`: there was none.
    earlier: Option<&'a str>,
    /// `null`: there is none.
    now: Option<&'a str>,
}

impl<'a> NearestOut<'a> {
    fn new(nearest: &'a Nearest) -> Self {
        let difference = |of: &'a Difference| {
            let (earlier, now) = (of.earlier.as_deref(), of.now.as_deref());
            DifferenceOut { part: of.kind, name: &of.name, earlier, now }
        };
        let differs = nearest.differs.iter().map(difference).collect();
        Self { origin: OriginOut::new(&nearest.origin), differs }
    }
}

#[derive(Serialize)]
struct StepOut<'a> {
    case: &'a str,
    stage: u32,
    stage_name: &'a str,
    /// There where it is true: it went on to explore, though it did not survive.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    explorer: bool,
    params: ParamsOut,
    metrics: MetricsOut<'a>,
}

/// Reasons of interruptions are looked for in so many of the last events: a trial's row has none.
const EVENTS_READ: u64 = 200_000;

const fn first_read(last: Seq) -> Seq {
    last.saturating_sub(EVENTS_READ).saturating_add(1)
}

/// Why a trial's attempts were interrupted.
fn interruptions(
    snapshot: &Snapshot,
    trial: TrialId,
    attempts: &[AttemptRow],
    last_seq: u64,
) -> Result<BTreeMap<AttemptNo, String>, ViewError> {
    let mut found = BTreeMap::new();
    if !attempts.iter().any(|attempt| attempt.outcome == Some(AttemptOutcome::Interrupted)) {
        return Ok(found);
    }
    for event in snapshot.events(first_read(last_seq))? {
        match event?.1.event {
            Event::AttemptEnded(end) if end.trial == trial => {
                if let Verdict::Interrupted { reason } = end.verdict {
                    found.insert(end.attempt, reason);
                }
            }
            // Numbers are given anew where a discarded stage's are.
            Event::TrialReset { trial: reset, .. } if reset == trial => found.clear(),
            _ => {}
        }
    }
    found.retain(|n, _| attempts.iter().any(|attempt| attempt.n == *n));
    Ok(found)
}

/// What the last events say of a trial: results that were found for it and could not be taken, and when what it left was read again.
type SaidOf = (Vec<(Origin, String)>, Vec<ReadAgain>);

fn said_of(view: &StudyView, snapshot: &Snapshot, trial: &TrialSummary<'_>) -> Result<SaidOf, ViewError> {
    let (mut missed, mut reread) = (Vec::new(), Vec::new());
    let reuses = view.spec.reuses(trial.stage.index);
    if !reuses && trial.attempts().is_empty() {
        return Ok((missed, reread));
    }
    for event in snapshot.events(first_read(view.progress.last_seq))? {
        let (seq, record) = event?;
        match record.event {
            Event::ReuseMissed { trial: of, origin, reason } if reuses && of == trial.trial => {
                missed.push((origin, reason));
            }
            Event::ResultReread(again) if again.trial == trial.trial => {
                reread.push(ReadAgain { seq, at_ms: record.at_ms, outcome: again.verdict.outcome() });
            }
            // Numbers are given anew where a discarded stage's are.
            Event::SpecAmended(amended) if amended.discard_from.is_some_and(|from| from <= trial.stage.index) => {
                missed.clear();
                reread.clear();
            }
            Event::StagesDiscarded { from } if from <= trial.stage.index => {
                missed.clear();
                reread.clear();
            }
            _ => {}
        }
    }
    Ok((missed, reread))
}

impl ReadAgainOut {
    fn new(again: &ReadAgain) -> Self {
        Self { seq: again.seq, at: timestamp(again.at_ms), outcome: again.outcome }
    }
}

/// What a person accepted after a trial's result was made, of what it depends on. A result that was taken over is known by its
/// identity, one that was made here by when it ended.
fn accepted(view: &StudyView, trial: &TrialSummary<'_>) -> Vec<Accepted> {
    let (study, stage) = (&view.study, trial.stage.index);
    let made_here = |row: &&TrialRow| row.state == TrialState::Succeeded && row.imported.is_none();
    let Some(row) = trial.row.as_ref().filter(made_here) else { return Vec::new() };
    let ended_ms = row.attempts.last().and_then(|attempt| attempt.ended_ms);
    let concerns = |accepted: &&Accepted| {
        let inputs = accepted.inputs.iter().any(|change| view.spec.depends_from(&change.name) <= stage);
        let before = ended_ms.is_none_or(|ended_ms| ended_ms <= accepted.at_ms);
        (inputs || !accepted.tools.is_empty()) && before
    };
    let is_its_own = row.reused_from.is_some()
        && StageIdentity::of(&view.spec, stage, study.into()).is_none_or(|identity| !identity.has_accepted());
    if is_its_own { Vec::new() } else { study.accepted.iter().filter(concerns).cloned().collect() }
}

impl Why {
    /// Finds out about a case.
    ///
    /// # Errors
    /// [`ViewError::UnknownCase`] with the nearest name, [`ViewError::Journal`].
    pub(crate) fn load(view: &StudyView, snapshot: &Snapshot, case: &str) -> Result<Self, ViewError> {
        let unknown = || ViewError::UnknownCase { case: case.to_owned(), nearest: None };
        let whole = view.lineage().find_replicated(case);
        let id = match whole.and_then(|(stage, case)| Some((view.stage(stage)?, case))) {
            Some((stage, case)) => {
                let whole = view.whole_case(snapshot, stage, case)?;
                whole.as_ref().and_then(Repeated::told_by).ok_or_else(unknown)?
            }
            None => view.find_case(case)?,
        };
        let trial = view.trial(snapshot, id)?.ok_or_else(unknown)?;
        let (stage, lineage, params) = (trial.stage, view.lineage(), trial.params());
        let seen = lineage.seen_params(stage.index, trial.index).unwrap_or_default();
        let rank = match trial.counted_state() {
            TrialState::Succeeded => rank_of(view, snapshot, stage, id)?,
            _ => None,
        };
        let (missed, reread) = said_of(view, snapshot, &trial)?;
        let repeated = Repeated::of(view, snapshot, &trial)?;
        let texts = |given: &[Given]| given.iter().map(|given| (given.pool.clone(), given.text())).collect();
        let of_attempts = trial.row.iter().flat_map(|row| &row.given);
        let given = of_attempts.map(|(attempt, given)| (*attempt, texts(given))).collect();
        Ok(Self {
            given,
            case: trial.case(),
            trial: id,
            index: trial.index,
            parent: trial.parent(),
            state: trial.state,
            outside: trial.ended_outside(),
            survivor: trial.survived(),
            explorer: trial.explores(),
            seed: lineage.trial_seed(stage.index, trial.index, &seen),
            command: command(view, &trial, &seen),
            metrics: trial.metrics().clone(),
            failure: trial.last_failure().cloned(),
            kept: trial.attempts().iter().map(|attempt| trial.kept_of(attempt.n)).collect(),
            attempts: trial.attempts().to_vec(),
            interruptions: interruptions(snapshot, id, trial.attempts(), view.progress.last_seq)?,
            reused_from: trial.reused_from().cloned(),
            doubt: trial
                .reused_from()
                .and_then(|_| view.doubt(stage.index))
                .map(|doubt| doubt_words(doubt, &stage.name)),
            imported: trial.imported().cloned(),
            base_case: view.study.base_case.clone(),
            versions: view.study.versions.clone(),
            accepted: accepted(view, &trial),
            stage_dir: view.stage_dir(stage).display().to_string(),
            missed,
            nearest: nearest::nearest(view, snapshot, &trial)?,
            reread,
            lineage: steps(view, snapshot, &lineage, id)?,
            reason: told_with_parents(view, stage, reason(view, &trial, rank.as_ref(), repeated.as_ref())),
            left_out: left_out(view, &trial.case(), &trial),
            repeated,
            stage: stage.clone(),
            rank,
            params,
        })
    }

    /// An attempt as it is shown.
    fn attempt_out(&self, attempt: &AttemptRow) -> AttemptOut {
        let kept = self.attempts.iter().zip(&self.kept).find(|(of, _)| of.n == attempt.n);
        AttemptOut::new(&self.stage_dir, &self.case, attempt, kept.map_or(Kept::All, |(_, kept)| *kept))
    }

    /// Writes it as one JSON value.
    ///
    /// # Errors
    /// [`ViewError::Output`].
    pub fn write_json(&self, out: &mut dyn Write) -> Result<(), ViewError> {
        let attempts: Vec<_> = self.attempts.iter().map(|attempt| self.attempt_out(attempt)).collect();
        let steps = self.lineage.iter().map(|step| StepOut {
            case: &step.case,
            stage: step.stage,
            stage_name: &step.stage_name,
            explorer: step.explorer,
            params: ParamsOut(step.chose.clone()),
            metrics: MetricsOut(&step.metrics),
        });
        let why = WhyOut {
            case: &self.case,
            id: self.trial.0,
            stage: self.stage.index,
            stage_name: &self.stage.name,
            stage_status: self.stage.status,
            parent: &self.parent,
            state: self.state,
            outside: self.outside,
            survivor: self.survivor,
            explorer: self.explorer,
            reason: &self.reason,
            rank: self.rank.as_ref(),
            failure: self.failure.as_ref().map(FailureOut::from),
            seed: self.seed,
            params: ParamsOut(self.params.clone()),
            command: self.command.as_deref(),
            metrics: MetricsOut(&self.metrics),
            left_out: &self.left_out,
            given: &self.given,
            attempts: &attempts,
            interruptions: &self.interruptions,
            taken: TakenOut::new(self.reused_from.as_ref(), self.doubt.is_some(), self.imported.as_ref()),
            read_again: self.reread.iter().map(ReadAgainOut::new).collect(),
            not_reused: self
                .missed
                .iter()
                .map(|(origin, reason)| MissedOut { origin: OriginOut::new(origin), reason })
                .collect(),
            nearest_result: self.nearest.as_ref().map(NearestOut::new),
            repeated: self.repeated.as_ref().map(Repeated::out),
            lineage: steps.collect(),
            base_case: &self.base_case,
            versions: versions_out(&self.versions),
            inputs_accepted: acceptances_out(&self.accepted),
        };
        serde_json::to_writer(&mut *out, &why)?;
        Ok(out.write_all(b"\n")?)
    }
}

/// What a succeeded trial reported that is no metric; its file may be gone or be another one by now.
fn left_out(view: &StudyView, case: &str, trial: &TrialSummary<'_>) -> BTreeMap<String, String> {
    let last = trial.attempts().last().filter(|_| trial.state == TrialState::Succeeded);
    let Some(attempt) = last else { return BTreeMap::new() };
    let text = view.attempt_place(trial.stage, case, attempt.n).join(METRICS_FILE).open_file().and_then(|file| {
        let mut text = Vec::new();
        file.take(METRICS_MAX_BYTES).read_to_end(&mut text).map(|_| text)
    });
    let reported = text.ok().and_then(|text| read_metrics(&text).ok()).unwrap_or_default();
    let mut left_out = reported.left_out;
    left_out.retain(|name, _| !trial.metrics().contains_key(name));
    for name in reported.repeated {
        left_out.entry(name).or_insert_with(|| "earlier values: the last of several counts".to_owned());
    }
    left_out
}

/// No larger file was taken.
const METRICS_MAX_BYTES: u64 = 1 << 20;

/// A case on the way up to the base case, in words.
#[cfg(feature = "report")]
#[derive(Debug)]
pub(super) struct StoryStep {
    pub(super) case: String,
    /// Whether it went on to explore, though it did not survive.
    pub(super) explorer: bool,
    /// What its stage's sweep chose for it.
    pub(super) chose: String,
    pub(super) metrics: String,
    /// What it ran, to be copied; `None` for a closure.
    pub(super) command: Option<String>,
}

/// What led to a trial: the case and its ancestors, up to stage 0.
///
/// # Errors
/// [`ViewError::Journal`].
#[cfg(feature = "report")]
pub(super) fn story(
    view: &StudyView,
    snapshot: &Snapshot,
    lineage: &Lineage<'_>,
    trial: TrialId,
) -> Result<Vec<StoryStep>, ViewError> {
    let mut story = Vec::new();
    for step in steps(view, snapshot, lineage, trial)? {
        let words = view.trial(snapshot, step.trial)?.and_then(|trial| {
            let seen = lineage.seen_params(trial.stage.index, trial.index).unwrap_or_default();
            command(view, &trial, &seen)
        });
        story.push(StoryStep {
            case: step.case,
            explorer: step.explorer,
            chose: text::params(&step.chose),
            metrics: text::metrics(&step.metrics),
            command: words.map(|words| words.iter().map(|word| shell_quoted(word)).collect::<Vec<_>>().join(" ")),
        });
    }
    Ok(story)
}

/// The case and its ancestors, up to stage 0.
fn steps(
    view: &StudyView,
    snapshot: &Snapshot,
    lineage: &Lineage<'_>,
    trial: TrialId,
) -> Result<Vec<Step>, ViewError> {
    let mut steps = Vec::new();
    let mut next = Some(trial);
    // Each step up is one stage earlier; rows that say otherwise must not make this a loop.
    while let Some(trial) = next.filter(|_| steps.len() < view.stages.len()) {
        let Some((stage, index)) = lineage.locate(trial) else { break };
        steps.push(Step {
            #[cfg(feature = "report")]
            trial,
            case: lineage.case(stage, index),
            stage,
            stage_name: view.stage(stage).map_or_else(String::new, |stage| stage.name.clone()),
            explorer: view.explores(trial),
            chose: lineage.own_values(stage, index).unwrap_or_default().into_iter().collect(),
            metrics: snapshot.trial(trial)?.map_or_else(Metrics::new, |row| row.metrics),
        });
        next = lineage.parent(stage, index).map(|parent| parent.trial);
    }
    Ok(steps)
}

/// What the last attempt ran, or the first will run, which sees these params: the words of a command, or a line for `sh -c`.
/// `None` for a closure.
fn command(view: &StudyView, trial: &TrialSummary<'_>, params: &Params) -> Option<Vec<String>> {
    let (lineage, stage) = (view.lineage(), trial.stage.index);
    let work = &view.spec.stages.get(stage as usize)?.work;
    let parent_dir = lineage.parent(stage, trial.index).and_then(|parent| {
        let (stage, index) = lineage.locate(parent.trial)?;
        let dir = view.attempt_dir(view.stage(stage)?, &lineage.case(stage, index), parent.attempt);
        Some(dir.display().to_string())
    });
    let last = trial.attempts().last();
    let given = match last.map_or(&[][..], |last| trial.given(last.n)) {
        [] => view.spec.first_given(stage),
        given => given.to_vec(),
    };
    let expanded = work.expand(&ExpandContext {
        params,
        case: &trial.case(),
        parent_dir: parent_dir.as_deref(),
        study_dir: &view.place.study_dir.display().to_string(),
        seed: lineage.trial_seed(stage, trial.index, params),
        replica: lineage.replica(stage, trial.index),
        attempt: last.map_or(1, |attempt| attempt.n),
        slot: last.map_or(0, |attempt| attempt.slot),
        given: &given,
    });
    match expanded.ok()? {
        Expanded::Argv(words) => Some(words),
        Expanded::Shell(line) => Some(vec!["sh".into(), "-c".into(), line]),
        Expanded::Closure => None,
    }
}

/// A reason, and that its stage was planned from other cases than survive now, if so.
fn told_with_parents(view: &StudyView, stage: &StageRow, reason: String) -> String {
    match view.summary(stage).is_kept() {
        true => format!("{reason}; its stage was {FROM_OTHERS}"),
        false => reason,
    }
}

/// Why the case stands where it stands, in one sentence.
fn reason(view: &StudyView, trial: &TrialSummary<'_>, rank: Option<&Rank>, repeated: Option<&Repeated>) -> String {
    if trial.ended_outside() {
        let became = match trial.state {
            TrialState::Succeeded => "it succeeded",
            TrialState::Failed => "it failed",
            _ => "it ran",
        };
        if let Some(words) = ended_words(&view.spec, trial.stage).filter(|_| trial.stage.is_outside(trial.index)) {
            return format!("{became}, but is outside: its stage {words}");
        }
        let why = view.study.abort_reason.as_deref().unwrap_or("no reason is recorded");
        return format!("{became}, but is outside: trials of lower number aborted the study without it: {why}");
    }
    match trial.state {
        TrialState::Pending => waiting(trial.row.as_ref()),
        TrialState::Running if view.liveness.alive => "it runs".into(),
        TrialState::Running => "it ran when the engine ended; it will run again".into(),
        TrialState::Pruned => pruned(view, trial),
        TrialState::Undecided => {
            let at =
                trial.rungs().iter().find(|rung| rung.judged && rung.verdict.is_none()).map_or(0, |rung| rung.at);
            format!(
                "it has ended; whether that counts is decided at step {at}, once trials of lower number have come so far"
            )
        }
        TrialState::Cancelled if trial.stage.is_outside(trial.index) => {
            let why = ended_words(&view.spec, trial.stage).unwrap_or_default();
            format!("it was cancelled, because its stage {why}")
        }
        TrialState::Cancelled => {
            let why = view.study.abort_reason.as_deref().unwrap_or("no reason is recorded");
            format!("it was cancelled, because the study was aborted: {why}")
        }
        TrialState::Failed => match trial.failure() {
            Some(failure) => {
                format!("it failed ({}): {}; failed trials never survive", failure.kind, failure.reason)
            }
            None => "it failed; failed trials never survive".into(),
        },
        TrialState::Succeeded => match rank {
            _ if let Some(why) = left(view, trial, repeated) => why,
            _ if let Some(why) = unmet(view, trial, repeated) => {
                format!("it succeeded, but does not meet what `require` asks ({why}), so it is not ranked")
            }
            Some(rank) => {
                let went_on = repeated.map_or_else(|| (trial.survived(), trial.explores()), Repeated::went_on);
                ranked(trial.stage, rank, went_on)
            }
            None if let Some(case) = repeated.filter(|case| case.state != TrialState::Succeeded) => {
                format!(
                    "it succeeded; `{}` is {}: a case counts once all its replicas have succeeded",
                    case.case, case.state
                )
            }
            None => "it succeeded, but has no finite number for every objective, so it is not ranked".into(),
        },
    }
}

/// Why the case that it is a replica of is in its race no more, if so.
fn left(view: &StudyView, trial: &TrialSummary<'_>, repeated: Option<&Repeated>) -> Option<String> {
    repeated?.left(view.spec.stages.get(trial.stage.index as usize)?)
}

/// What its stage requires and it, or the case that it is a replica of, does not meet.
fn unmet(view: &StudyView, trial: &TrialSummary<'_>, repeated: Option<&Repeated>) -> Option<String> {
    let spec = view.spec.stages.get(trial.stage.index as usize)?;
    plan::unmet(&spec.require, repeated.map_or_else(|| trial.metrics(), Repeated::metrics))
}

/// Why a trial was ended early: `it was pruned at step 9 (loss 0.4): 5th of 12, 4 may go on`.
fn pruned(view: &StudyView, trial: &TrialSummary<'_>) -> String {
    let Some(pruned) = trial.pruned() else { return "it was pruned".into() };
    let spec = view.spec.stages.get(trial.stage.index as usize);
    let halving = spec.and_then(|spec| spec.halving.as_ref());
    let metric = match (pruned.rule, halving) {
        (PruneRule::Halving, Some(halving)) => Some(halving.metric.as_str()),
        _ => trial
            .row
            .as_ref()
            .and_then(|row| row.watched.as_ref()?.stop_if.as_ref())
            .map(|met| met.metric.as_str()),
    };
    let value = reported(pruned.value);
    let shown = metric.map_or_else(|| value.clone(), |metric| format!("{metric} {value}"));
    let by = match (pruned.verdict, halving) {
        (Some(RungVerdict { better, of, unknown, .. }), Some(halving)) => {
            let (place, allowed) =
                (ordinal(better.saturating_add(1)), halving.allowed(of.saturating_add(unknown)));
            let missing = match unknown {
                0 => String::new(),
                more => {
                    format!("; {} had not come so far, and could not change it", counted(more, "earlier trial"))
                }
            };
            format!("{place} of {of}, {allowed} may go on{missing}")
        }
        _ => "by a rule of its own".to_owned(),
    };
    let step = pruned.step;
    format!("it was pruned at step {step} ({shown}): {by}; pruned trials are no failures, and never survive")
}

/// `1st`, `2nd`, `11th`.
fn ordinal(number: u64) -> String {
    let end = match (number % 10, number % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{number}{end}")
}

fn waiting(row: Option<&TrialRow>) -> String {
    let Some(row) = row else { return "it waits for its first attempt".into() };
    let due = if row.due_ms > 0 { format!(", not before {}", local_time(row.due_ms)) } else { String::new() };
    match row.attempts.last().and_then(|attempt| attempt.outcome) {
        Some(AttemptOutcome::Failed) if row.failures > 0 => {
            let kind = row.failure.as_ref().map_or("", |failure| failure.kind.name());
            format!("its last attempt failed ({kind}); it will run again{due}")
        }
        Some(AttemptOutcome::Interrupted) => {
            format!("its last attempt was interrupted, which is no failure; it will run again{due}")
        }
        _ => format!("it waits for its next attempt{due}"),
    }
}

/// Whether that may still change.
fn yet(stage: &StageRow, rank: &Rank) -> String {
    let trials = counted(rank.unfinished, "trial");
    let of_those = if rank.unfinished == 1 { "it" } else { "any of them" };
    match (rank.decided, stage.status) {
        (true, _) if rank.unfinished == 0 => "; every trial of the stage has finished".to_owned(),
        (true, _) => format!("; that is decided: {trials} unfinished, and none can change it"),
        (false, StageStatus::Aborted) => {
            format!("; undecided: {trials} never finished, and {of_those} might have changed it")
        }
        (false, _) => format!("; undecided: {trials} unfinished, and {of_those} may change it"),
    }
}

/// How the race went that it is ranked in: `; 3 of the 4 cases that began left the race, which was decided after round 14`.
fn raced(race: &RaceSoFar) -> String {
    let began = counted(race.left.saturating_add(race.racing), "case");
    let left = format!("; {} of the {began} that began left the race", race.left);
    match race.over_after {
        Some(round) if race.decided => format!("{left}, which was decided after round {round}"),
        Some(round) => format!("{left}, and its last round, {round}, ended it with {} in it", race.racing),
        None => format!("{left} so far"),
    }
}

fn ranked(stage: &StageRow, rank: &Rank, (survivor, explorer): (bool, bool)) -> String {
    let fate = match (stage.status, survivor) {
        (StageStatus::Closed, true) => "it survived",
        (StageStatus::Closed, false) if explorer => "it goes on to explore: it was not among the survivors",
        (StageStatus::Closed, false) => "it did not survive",
        (StageStatus::Aborted, _) => "the study was aborted before survivors were chosen",
        (StageStatus::Open | StageStatus::Waiting, _) => "survivors are chosen when the stage closes; so far",
    };
    let place = match rank.rank {
        Some(place) => format!("ranked {place} of {}", rank.of),
        None if rank.same_as.is_some() => format!("not ranked among the {}", rank.of),
        None => format!("ranked below the first {} of {}", rank.last_survivor_rank, rank.of),
    };
    let mut text = format!("{fate}: {place}");
    match rank.objectives.as_slice() {
        [] => text.push_str(" by case order (the stage has no objective)"),
        objectives => {
            let by = |compared: &Compared| format!("`{}` ({})", compared.metric, compared.goal);
            text.push_str(&format!(" by {}", objectives.iter().map(by).collect::<Vec<_>>().join(", ")));
            let mine = objectives.iter().map(|compared| number(compared.value)).collect::<Vec<_>>();
            text.push_str(&format!(": {}", mine.join(", ")));
        }
    }
    match (rank.weighted_sum, rank.front, rank.crowding) {
        (Some(sum), ..) => text.push_str(&format!("; weighted sum {}", number(sum))),
        (_, Some(front), Some(crowding)) => {
            text.push_str(&format!("; front {front}, crowding distance {}", number(crowding)));
        }
        (_, Some(front), None) => text.push_str(&format!("; front {front}, at its edge")),
        _ => {}
    }
    if let Some(race) = &rank.race {
        text.push_str(&raced(race));
    }
    let names = |cases: &[String]| cases.iter().map(|case| format!("`{case}`")).collect::<Vec<_>>().join(", ");
    if let Some(first) = &rank.same_as {
        text.push_str(&format!("; `{first}` has the same values, and of equal cases the first alone counts"));
    } else if !rank.equals.is_empty() {
        text.push_str(&format!("; of equal cases the first alone counts: this one, not {}", names(&rank.equals)));
    }
    if let Some(last) = &rank.last_survivor {
        let theirs: Vec<_> =
            rank.objectives.iter().filter_map(|compared| compared.last_survivor.map(number)).collect();
        let word =
            if stage.status == StageStatus::Closed { "the last survivor" } else { "the last that would survive" };
        text.push_str(&format!("; {word} `{last}` (rank {})", rank.last_survivor_rank));
        if !theirs.is_empty() {
            text.push_str(&format!(" had {}", theirs.join(", ")));
        }
    } else if stage.status == StageStatus::Closed && survivor {
        text.push_str("; it is the last survivor");
    }
    if stage.status != StageStatus::Closed {
        text.push_str(&yet(stage, rank));
    }
    text
}

#[cfg(test)]
mod tests;
