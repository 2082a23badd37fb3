//! What a trial that ran in a stage that reuses depends on and the nearest earlier result does not: why it had to run.
//!
//! Earlier results are those of the study, of what was discarded too, and of the stores that it may take from. Each is taken apart with
//! what its own store recorded, and counts only if that gives the identity under which it is known: what is said here is never guessed.
//! A store that cannot be read has no results.

use std::collections::BTreeMap;

use super::{EVENTS_READ, StudyView, TrialSummary};
use crate::journal::{JournalError, Reader, Snapshot, replayed};
use crate::model::{
    AttemptNo, AttemptOutcome, Event, IdentityHash, Origin, StageIndex, StudyId, TrialId, TrialRow, UnixMs,
};
use crate::paths::clean;
use crate::plan::{IdentityPart, Lineage, PartKind, StageIdentity};
use crate::study_file::Spec;

/// Amendments of a store that are looked behind, at most: the newest.
const AMENDMENTS: usize = 8;

/// The earlier result that differs in the fewest parts.
#[derive(Debug)]
pub(super) struct Nearest {
    pub(super) origin: Origin,
    /// None: it was equal, and could not be taken or came too late.
    pub(super) differs: Vec<Difference>,
}

/// A part of an identity that is another one.
#[derive(Debug, PartialEq)]
pub(super) struct Difference {
    pub(super) kind: PartKind,
    pub(super) name: String,
    /// As the earlier result has it; `None`: it has no such part.
    pub(super) earlier: Option<String>,
    /// As this trial has it.
    pub(super) now: Option<String>,
}

/// What is looked for.
struct Wanted {
    parts: Vec<IdentityPart>,
    /// Results that came later are none.
    before_ms: UnixMs,
    /// Its own result, which may have taken less than a millisecond.
    own: (StudyId, TrialId),
}

/// The nearest of the results that there were when a trial ran. `None`: it did not run, its stage does not reuse, or there were none.
pub(super) fn nearest(
    view: &StudyView,
    snapshot: &Snapshot,
    trial: &TrialSummary<'_>,
) -> Result<Option<Nearest>, JournalError> {
    let row = trial.row.as_ref().filter(|row| row.reused_from.is_none());
    let Some(began) = row.and_then(|row| row.attempts.last()) else { return Ok(None) };
    let Some(identity) = StageIdentity::of(&view.spec, trial.stage.index, (&view.study).into()) else {
        return Ok(None);
    };
    let Some((parts, _)) = taken_apart(&view.lineage(), &identity, trial.stage.index, trial.index, snapshot)?
    else {
        return Ok(None);
    };
    let wanted = Wanted { parts, before_ms: began.started_ms, own: (view.study.study_id, trial.trial) };
    let mut best = None;
    wanted.look_behind(snapshot, &mut best)?;
    for named in &view.spec.run.reuse_from {
        let path = clean(&view.place.study_dir.join(named));
        // Whatever is wrong with it, the study says when it runs.
        let _ = Reader::open(&path).map(|other| {
            let snapshot = other.snapshot()?;
            wanted.look_behind(&snapshot, &mut best)
        });
    }
    Ok(best)
}

type Apart = (Vec<IdentityPart>, IdentityHash);

/// A trial's identity.
fn taken_apart(
    lineage: &Lineage<'_>,
    identity: &StageIdentity,
    stage: StageIndex,
    index: u64,
    snapshot: &Snapshot,
) -> Result<Option<Apart>, JournalError> {
    let Some(params) = lineage.params(stage, index) else { return Ok(None) };
    let left = match lineage.parent(stage, index) {
        Some(parent) => snapshot.trial(parent.trial)?.map_or_else(Vec::new, |row| row.outputs),
        None => Vec::new(),
    };
    let identity = identity.of_replica(lineage.replica(stage, index));
    Ok(Some((identity.parts(&params, &left), identity.trial(&params, &left).0)))
}

impl Wanted {
    /// Looks at the results of a store, and at those that its amendments discarded.
    fn look_behind(&self, snapshot: &Snapshot, best: &mut Option<Nearest>) -> Result<(), JournalError> {
        self.look(snapshot, best)?;
        let last = snapshot.progress()?.last_seq;
        if last > EVENTS_READ || !snapshot.has_results()? {
            return Ok(());
        }
        let mut discarded = Vec::new();
        for event in snapshot.events(1)? {
            let (seq, record) = event?;
            let discards = match &record.event {
                Event::SpecAmended(amended) => amended.discard_from.is_some(),
                Event::StagesDiscarded { .. } | Event::StageReplanned(_) => true,
                _ => false,
            };
            if discards {
                discarded.push(seq.saturating_sub(1));
            }
        }
        for seq in discarded.into_iter().rev().take(AMENDMENTS) {
            self.look(&replayed(snapshot, seq)?.snapshot()?, best)?;
        }
        Ok(())
    }

    fn look(&self, snapshot: &Snapshot, best: &mut Option<Nearest>) -> Result<(), JournalError> {
        let study = snapshot.study()?;
        let Ok(spec) = Spec::from_json(&study.spec) else { return Ok(()) };
        let (stages, proposals) = (snapshot.stages()?, snapshot.proposals(TrialId(0), TrialId(u64::MAX))?);
        let lineage = Lineage::new(&spec, &stages).with_proposals(&proposals);
        for stage in &stages {
            let Some(identity) = StageIdentity::of(&spec, stage.index, (&study).into()) else { continue };
            let end = stage.end();
            for row in snapshot.trials(stage.first_trial, end)? {
                let row = row?;
                let Some((known, attempt, ended_ms)) = result_of(&row) else { continue };
                let began_ms = row.attempts.last().map(|last| last.started_ms);
                let is_own = (study.study_id, row.trial) == self.own && began_ms == Some(self.before_ms);
                // Of one study the trial of the higher number began later, where clocks do not tell.
                let ties = study.study_id == self.own.0 && ended_ms == self.before_ms && row.trial >= self.own.1;
                if ended_ms > self.before_ms || ties || is_own {
                    continue;
                }
                let index = row.trial.0.saturating_sub(stage.first_trial.0);
                let found = taken_apart(&lineage, &identity, stage.index, index, snapshot)?;
                let Some((parts, _)) = found.filter(|(_, identity)| *identity == known) else { continue };
                let differs = differences(&parts, &self.parts);
                let nearer = |best: &Nearest| rank(&differs) < rank(&best.differs);
                if best.as_ref().is_none_or(nearer) {
                    let (study, study_id) = (study.name.clone(), study.study_id);
                    let origin = Origin { study, study_id, case: lineage.case(stage.index, index), attempt };
                    *best = Some(Nearest { origin, differs });
                }
            }
        }
        Ok(())
    }
}

/// A result that a trial made itself: its identity, attempt and end.
fn result_of(row: &TrialRow) -> Option<(IdentityHash, AttemptNo, UnixMs)> {
    let last = row.attempts.last().filter(|last| last.outcome == Some(AttemptOutcome::Succeeded))?;
    Some((row.identity?, last.n, last.ended_ms?))
}

/// The least is the nearest. Of two that are as near the one with the same params tells more: the same was made of other things. Of two
/// that are as near in this as well the one that is found first is taken: by the order of stores and trials, not by when they ended.
fn rank(differs: &[Difference]) -> (usize, usize) {
    let params = differs.iter().filter(|difference| difference.kind == PartKind::Param).count();
    (differs.len(), params)
}

/// The parts that are not the same.
fn differences(earlier: &[IdentityPart], now: &[IdentityPart]) -> Vec<Difference> {
    let mut both: BTreeMap<_, [Option<&str>; 2]> = BTreeMap::new();
    for (side, parts) in [earlier, now].into_iter().enumerate() {
        for part in parts {
            let values = both.entry((part.kind, part.name.as_str())).or_default();
            values.iter_mut().skip(side).take(1).for_each(|value| *value = Some(&part.value));
        }
    }
    let differing = both.into_iter().filter(|(_, [earlier, now])| earlier != now);
    let owned = |value: Option<&str>| value.map(str::to_owned);
    let difference = |((kind, name), [earlier, now]): (_, [Option<&str>; 2])| {
        let name: &str = name;
        Difference { kind, name: name.to_owned(), earlier: owned(earlier), now: owned(now) }
    };
    differing.map(difference).collect()
}

impl Difference {
    /// `input flow/synth.sh changed`, `param fanout 8 -> 16`, `yosys 0.23 -> 0.33`.
    pub(super) fn words(&self) -> String {
        let name = self.name.as_str();
        let what = match self.kind {
            PartKind::Tool => name.to_owned(),
            PartKind::Parent => format!("output {name} of the parent"),
            PartKind::Replica => "the replica".into(),
            PartKind::Version => "reuse".into(),
            PartKind::Base => "base command".into(),
            PartKind::Seed | PartKind::Command => self.kind.to_string(),
            kind => format!("{kind} {name}"),
        };
        let shown = matches!(
            self.kind,
            PartKind::Seed
                | PartKind::Version
                | PartKind::BaseParam
                | PartKind::Env
                | PartKind::Tool
                | PartKind::Param
        );
        match (&self.earlier, &self.now) {
            (Some(earlier), Some(now)) if shown => {
                format!("{what} {} -> {}", self.value(earlier), self.value(now))
            }
            (Some(_), None) => format!("{what} is no more"),
            (None, Some(now)) if shown => format!("{what} {} is new", self.value(now)),
            (None, Some(_)) => format!("{what} is new"),
            _ => format!("{what} changed"),
        }
    }

    /// What a tool said is no literal of a study file.
    fn value(&self, text: &str) -> String {
        match self.kind {
            PartKind::Tool => serde_json::from_str(text).unwrap_or_else(|_| text.to_owned()),
            _ => text.to_owned(),
        }
    }
}
