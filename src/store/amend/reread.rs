//! What finished trials left is read again where an amendment changes the rules that read it.
//!
//! The files are read when the plan is made, so that it says what it found before anything is accepted; what was found is recorded with the
//! amendment, in its transaction. No result is lost by it that the plan does not name, and nothing runs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::engine::{EngineError, JobMaker};
use crate::error::Error;
use crate::executor::local::reread::{Found, Rereader};
use crate::journal::{JournalError, Snapshot};
use crate::model::{
    Best, Event, Kept, Next, Parent, Proposals, Reread, StageHead, StageIndex, StageRow, StageStatus, StudyRow,
    TrialId, TrialRow, TrialState, Verdict,
};
use crate::paths::StudyPaths;
use crate::plan::amend::Rereading;
use crate::plan::{self, Choice, Lineage, MadeWith, StageIdentity};
use crate::study_file::{Spec, StageSpec};

/// A stage that was read again.
#[derive(Debug)]
pub(super) struct StageRead {
    pub(super) found: Rereading,
    /// The results that are other ones.
    results: Vec<Reread>,
    best: Option<Best>,
}

/// What the reading needs.
pub(super) struct Reading<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) study: &'a StudyRow,
    pub(super) stages: &'a [StageRow],
    pub(super) old: &'a Spec,
    pub(super) new: &'a Spec,
    pub(super) paths: &'a StudyPaths,
    /// Whether successes that cannot be read again may go, and run again.
    pub(super) gives_up: bool,
}

/// Why it could not be done.
#[derive(Debug)]
pub(super) enum ReadError {
    Store(JournalError),
    Other(Error),
}

impl From<JournalError> for ReadError {
    fn from(error: JournalError) -> Self {
        Self::Store(error)
    }
}

impl From<EngineError> for ReadError {
    fn from(error: EngineError) -> Self {
        Self::Other(error.into())
    }
}

/// What of a stage changes that results are read by.
struct Changes {
    metrics: bool,
    needed: bool,
    failures: bool,
    rails: bool,
}

impl Changes {
    fn between(old: (&Spec, &StageSpec), new: (&Spec, &StageSpec)) -> Self {
        let needed = |stage: &StageSpec| stage.needed_metrics().map(str::to_owned).collect::<BTreeSet<_>>();
        Self {
            metrics: old.1.metrics != new.1.metrics || reads_other_reports(old.1, new.1),
            needed: needed(old.1) != needed(new.1),
            failures: old.1.failures != new.1.failures,
            rails: old.1.rails != new.1.rails
                || old.0.rails.catastrophic_failures != new.0.rails.catastrophic_failures,
        }
    }

    const fn any(&self) -> bool {
        self.metrics || self.needed || self.failures || self.rails
    }

    /// Whether what this trial left has to be read.
    fn concern(&self, new: &StageSpec, row: &TrialRow) -> bool {
        match row.state {
            TrialState::Succeeded => self.metrics || (self.needed && !new.is_met_by(&row.metrics)),
            _ => self.metrics || self.needed || self.failures,
        }
    }
}

/// Whether other reports are read out of what trials printed, and count for nothing but their metrics.
fn reads_other_reports(old: &StageSpec, new: &StageSpec) -> bool {
    old.progress != new.progress && old.only_measures(new)
}

/// Reads every stage that has begun and whose rules change.
pub(super) fn read(reading: &Reading<'_>) -> Result<Vec<StageRead>, ReadError> {
    let mut read: Vec<StageRead> = Vec::new();
    let Reading { old, new, stages, .. } = reading;
    let specs = old.stages.iter().zip(&new.stages);
    for (row, (was, is)) in stages.iter().zip(specs).take_while(|(row, _)| row.status != StageStatus::Waiting) {
        // Other work, or other outputs: then nothing of the results is known.
        if was.name != is.name || was.work != is.work || was.outputs != is.outputs {
            break;
        }
        let changes = Changes::between((old, was), (new, is));
        if changes.any() {
            let stage = reading.stage(row, (was, is), &changes, &read)?;
            read.push(stage);
        }
    }
    Ok(read)
}

impl Reading<'_> {
    fn stage(
        &self,
        stage: &StageRow,
        (was, is): (&StageSpec, &StageSpec),
        changes: &Changes,
        before: &[StageRead],
    ) -> Result<StageRead, ReadError> {
        let proposals = self.snapshot.proposals(TrialId(0), TrialId(u64::MAX))?;
        let lineage = Lineage::new(self.old, self.stages).with_proposals(&proposals);
        let maker = |spec: &Spec| JobMaker::new(Arc::new(spec.clone()), self.paths.clone());
        let (by_old, by_new) = (maker(self.old)?, maker(self.new)?);
        let rereader = Rereader::new();
        let mut found = Rereading { stage: stage.index, name: stage.name.clone(), ..Rereading::default() };
        let rules = is.metrics.iter().filter(|(name, rule)| was.metrics.get(*name) != Some(rule));
        let mut fresh: BTreeSet<String> = rules.map(|(name, _)| name.clone()).collect();
        if reads_other_reports(was, is) && !is.progress.only_watched {
            fresh.extend(is.progress.printed_metrics());
        }
        found.found.extend(fresh.iter().map(|name| (name.clone(), 0)));
        let objective =
            plan::declared(self.new).into_iter().nth(position(stage.index)).and_then(|decl| decl.objective);
        let objective = objective.filter(|_| !stage.is_replicated());
        let head = StageHead { status: stage.status, first_trial: stage.first_trial, objective };
        let mut choice = Choice::new(is, stage).exploring(self.new.study.seed);
        let (mut results, mut best, mut attempts) = (Vec::new(), None, BTreeMap::new());
        for row in self.snapshot.trials(stage.first_trial, stage.end())? {
            let mut row = row?;
            // An imported result was read by no rule. It stands as long as it has what the stage needs.
            if row.imported.is_some() && !is.is_met_by(&row.metrics) {
                let why = "it was imported without a metric that the stage needs now".to_owned();
                found.unread.push((lineage.name_of(row.trial), why));
            }
            if row.has_result() && changes.concern(is, &row) {
                found.read += 1;
                let (study, trial, attempt) = (self.study.study_id, row.trial, row.accepted());
                let old = by_old.job_of(study, &lineage, trial, attempt)?;
                let new = by_new.job_of(study, &lineage, trial, attempt)?;
                let kept = row.kept_of(attempt);
                let verdict = match kept {
                    Kept::Nothing => Found::Unread(String::new()),
                    _ => rereader.read(&old, &new, &row).map_err(EngineError::Executor)?,
                };
                let why_not = |why| if kept.is_all() { why } else { DISCARDED.to_owned() };
                let verdict = match verdict {
                    Found::Unread(why) if self.gives_up && row.state == TrialState::Succeeded => {
                        found.given_up.push((new.case, why.clone()));
                        Some(Verdict::Interrupted { reason: why })
                    }
                    Found::Other(verdict) => Some(verdict),
                    // It is known by other rules from now on.
                    Found::Same if changes.metrics && !is.reuse.is_no() => same_success(&row),
                    Found::Same => None,
                    Found::Unread(why) if row.state == TrialState::Succeeded => {
                        found.unread.push((new.case, why_not(why)));
                        None
                    }
                    Found::Unread(why) => {
                        found.kept.push((new.case, why_not(why)));
                        None
                    }
                };
                if let Some(reread) = verdict.map(|verdict| reread(is, &row, verdict))
                    && let Some(again) = row.read_again(&reread)
                {
                    note(&mut found, &row, &again);
                    results.push(reread);
                    row = again;
                }
            }
            if row.state == TrialState::Succeeded {
                let number =
                    |name: &&String| row.metrics.get(*name).is_some_and(|metric| metric.number().is_some());
                for name in fresh.iter().filter(number) {
                    *found.found.entry(name.clone()).or_default() += 1;
                }
                best = head.better(best, row.trial, &row.metrics);
                let index = row.trial.0.saturating_sub(stage.first_trial.0);
                choice.offer(index, &row.metrics);
                if row.accepted() != 1 {
                    attempts.insert(row.trial, row.accepted());
                }
            }
        }
        let survivor = |index: u64| {
            let trial = TrialId(stage.first_trial.0.saturating_add(index));
            Parent { trial, attempt: attempts.get(&trial).copied().unwrap_or(1) }
        };
        let survivors: Vec<Parent> = choice.finish().into_iter().map(|chosen| survivor(chosen.place)).collect();
        found.other_survivors = stage.status == StageStatus::Closed && survivors != stage.survivors;
        found.changed = u64::try_from(results.len()).unwrap_or(u64::MAX);
        let read = StageRead { found, results, best };
        let breaks = self.breaks(stage, &lineage, before, &read)?;
        Ok(StageRead { found: Rereading { breaks, ..read.found }, ..read })
    }

    /// The rail that the results break, in words.
    fn breaks(
        &self,
        stage: &StageRow,
        lineage: &Lineage<'_>,
        before: &[StageRead],
        now: &StageRead,
    ) -> Result<Option<String>, ReadError> {
        let all = before.iter().chain([now]).flat_map(|read| &read.results);
        let again: BTreeMap<TrialId, &Reread> = all.map(|reread| (reread.trial, reread)).collect();
        let rows = self.snapshot.trials(TrialId(0), stage.end())?.map(|row| {
            row.map(|row| match again.get(&row.trial).and_then(|reread| row.read_again(reread)) {
                Some(again) => again,
                None => row,
            })
        });
        let broken = plan::broken(self.new, self.stages, stage.index, rows)?;
        Ok(broken.map(|broken| {
            let name = broken.rail.name();
            let cases: Vec<String> = broken
                .violating
                .iter()
                .take(NAMED_MAX)
                .map(|trial| format!("`{}`", lineage.name_of(*trial)))
                .collect();
            let more = if broken.violating.len() > NAMED_MAX { ", …" } else { "" };
            format!("rail `{name}` would be broken by {}{more}", cases.join(", "))
        }))
    }
}

/// Why nothing of a result can be read again, though it could be made again.
const DISCARDED: &str = "what it left was discarded";

/// So many cases are named.
const NAMED_MAX: usize = 3;

fn position(index: StageIndex) -> usize {
    usize::try_from(index).unwrap_or(usize::MAX)
}

fn same_success(row: &TrialRow) -> Option<Verdict> {
    let succeeded = || Verdict::Succeeded { metrics: row.metrics.clone(), outputs: row.outputs.clone() };
    (row.state == TrialState::Succeeded).then(succeeded)
}

/// The event of another result. A failure that is worth a retry has one, as when an attempt ends.
fn reread(stage: &StageSpec, row: &TrialRow, verdict: Verdict) -> Reread {
    let failures = row.failures.saturating_sub(u32::from(row.state == TrialState::Failed));
    let next = match &verdict {
        Verdict::Failed(failure) if plan::is_retried(&stage.retries, failures, failure) => {
            Next::Again { due_ms: 0 }
        }
        Verdict::Interrupted { .. } => Next::Again { due_ms: 0 },
        _ => Next::Final,
    };
    Reread { trial: row.trial, attempt: row.accepted(), verdict, next }
}

fn note(found: &mut Rereading, before: &TrialRow, after: &TrialRow) {
    let kind =
        |row: &TrialRow| row.failure.as_ref().map_or_else(String::new, |failure| failure.kind.name().to_owned());
    // A success that was given up is no failure.
    if after.state == TrialState::Pending && after.failure.is_none() {
        return;
    }
    found.again += u64::from(after.state == TrialState::Pending);
    match (before.state, after.state) {
        (TrialState::Succeeded, TrialState::Failed | TrialState::Pending) => {
            *found.failed.entry(kind(after)).or_default() += 1;
        }
        (TrialState::Failed, TrialState::Succeeded) => found.succeeded += 1,
        (TrialState::Failed, _) if kind(before) != kind(after) => {
            *found.renamed.entry(kind(after)).or_default() += 1;
        }
        _ => {}
    }
}

/// What is recorded of it, after the amendment. What a result was made with stays what it was: one that was made before a change was
/// accepted is known by what there was then.
pub(super) fn events(
    read: Vec<StageRead>,
    snapshot: &Snapshot,
    (old, new, stages): (&Spec, &Spec, &[StageRow]),
    made_with: MadeWith<'_>,
    discard_from: Option<StageIndex>,
) -> Result<Vec<Event>, JournalError> {
    let proposals: Proposals = snapshot.proposals(TrialId(0), TrialId(u64::MAX))?;
    let lineage = Lineage::new(new, stages).with_proposals(&proposals);
    let before = made_with.before();
    let times: Vec<MadeWith<'_>> = [MadeWith { accepted: &[], ..made_with }]
        .into_iter()
        .chain(before.iter().map(|(inputs, versions)| MadeWith { inputs, versions, accepted: &[] }))
        .collect();
    let mut events = Vec::new();
    let kept = |read: &StageRead| discard_from.is_none_or(|from| read.found.stage < from);
    for StageRead { found, results, best } in read.into_iter().filter(kept) {
        if found.read == 0 && results.is_empty() {
            continue;
        }
        events.push(Event::StageReread { stage: found.stage, read: found.read, best });
        let identities = |spec: &Spec| -> Vec<Option<StageIdentity>> {
            times.iter().map(|made_with| StageIdentity::of(spec, found.stage, *made_with)).collect()
        };
        let (was, is) = (identities(old), identities(new));
        for reread in results {
            let (trial, attempt) = (reread.trial, reread.attempt);
            let is_success = matches!(reread.verdict, Verdict::Succeeded { .. });
            events.push(Event::ResultReread(Box::new(reread)));
            let Some((stage, index)) = lineage.locate(trial).filter(|_| is_success) else { continue };
            let Some(params) = lineage.params(stage, index) else { continue };
            let left = match lineage.parent(stage, index) {
                Some(parent) => snapshot.trial(parent.trial)?.map_or_else(Vec::new, |row| row.outputs),
                None => Vec::new(),
            };
            let replica = lineage.replica(stage, index);
            let known = snapshot.trial(trial)?.and_then(|row| row.identity);
            let is_known = |was: &Option<StageIdentity>| {
                was.as_ref().is_some_and(|was| Some(was.of_replica(replica).trial(&params, &left).0) == known)
            };
            // Where something was accepted, and it had no result, nobody knows before or after which: it is none that is taken.
            let time = if before.is_empty() { Some(0) } else { was.iter().position(is_known) };
            if let Some(Some(identity)) = time.and_then(|time| is.get(time)) {
                let identity = identity.of_replica(replica).trial(&params, &left).0;
                events.push(Event::ResultIdentified { trial, attempt, identity });
            }
        }
    }
    Ok(events)
}
