//! Results that are taken instead of made: what is recorded of them, and what their events do to the rows.
//!
//! A result of a stage that reuses has an identity. It is found by that for as long as its store lasts, also when its trial is discarded. Nothing
//! here may count a reused trial as an attempt, or index a result that is not recorded.

use std::collections::BTreeSet;

use super::event::{Event, Verdict};
use super::fold::{Fold, Rows};
use super::ids::{AttemptNo, Seq, StageIndex, StudyId, TrialId};
use super::named::named;
use super::number::float_text;
use super::rows::{AttemptOutcome, OutputHash, TrialRow, TrialState};
use super::value::{Metric, Metrics};

/// What a result depends on, in one hash.
pub type IdentityHash = [u8; 32];

/// The number that stands for the attempt that a reused or imported trial never made: its directory is named by it.
pub const REUSED: AttemptNo = 0;

/// Who made a result that another trial has taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The name of its study.
    pub study: String,
    /// Its identity, by which one of that name is told from another.
    pub study_id: StudyId,
    /// Its case, as it was called then.
    pub case: String,
    /// Its attempt, from 1.
    pub attempt: AttemptNo,
}

/// A trial takes the result of an equal one.
#[derive(Clone, Debug, PartialEq)]
pub struct Reused {
    /// Which trial.
    pub trial: TrialId,
    /// What both depend on.
    pub identity: IdentityHash,
    /// Who made the result.
    pub origin: Origin,
    /// All it reported.
    pub metrics: Metrics,
    /// Its declared outputs, which are in place and durable.
    pub outputs: Vec<OutputHash>,
}

/// A trial was run although a result was found for it, and came to another one: equal trials of its stage are not equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// Its stage, as it stood then.
    pub stage: StageIndex,
    /// Which trial.
    pub trial: TrialId,
    /// Its case, as it was called then.
    pub case: String,
    /// Which attempt.
    pub attempt: AttemptNo,
    /// What all trials of the stage depend on: nothing that depends on it is taken any more.
    pub shared: IdentityHash,
    /// Who made the result that was found.
    pub origin: Origin,
    /// What is not the same.
    pub differs: Vec<ResultDifference>,
}

/// A part of a result that is another one than in an earlier result of the same identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResultDifference {
    /// The part of the result.
    pub part: ResultPart,
    /// Which one of its kind; may be empty.
    pub name: String,
    /// What the earlier result has: a metric as text, an output's hash in hex, or how the trial ended. `None`: nothing.
    pub earlier: Option<String>,
    /// The same of the result there is now.
    pub now: Option<String>,
}

/// What of a result differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResultPart {
    /// A metric, by its name.
    Metric,
    /// A declared output.
    Output,
    /// How the trial ended.
    State,
}

named!(ResultPart {
    Metric => "metric",
    Output => "output",
    State => "state",
});

impl ResultDifference {
    /// What differs between a result and what an equal trial has come to; nothing if that was cut off, by a limit
    /// or the machine too. Metrics are the same only bit for bit.
    #[must_use]
    pub(crate) fn between(metrics: &Metrics, outputs: &[OutputHash], verdict: &Verdict) -> Vec<Self> {
        let differs = |part, name: &str, earlier: Option<String>, now: Option<String>| {
            (earlier != now).then(|| Self { part, name: name.to_owned(), earlier, now })
        };
        match verdict {
            Verdict::Interrupted { .. } | Verdict::Cancelled => Vec::new(),
            Verdict::Failed(failure) if failure.kind.is_of_the_site() => Vec::new(),
            Verdict::Failed(failure) => {
                let now = format!("{}: {}", AttemptOutcome::Failed, failure.kind);
                let earlier = AttemptOutcome::Succeeded.to_string();
                vec![Self { part: ResultPart::State, name: String::new(), earlier: Some(earlier), now: Some(now) }]
            }
            Verdict::Succeeded { metrics: new_metrics, outputs: new_outputs } => {
                let names: BTreeSet<&String> = metrics.keys().chain(new_metrics.keys()).collect();
                let of = |metrics: &Metrics, name: &String| metrics.get(name).map(exact);
                let metrics = names.into_iter().filter_map(|name| {
                    differs(ResultPart::Metric, name, of(metrics, name), of(new_metrics, name))
                });
                let paths: BTreeSet<&String> =
                    outputs.iter().chain(new_outputs).map(|output| &output.path).collect();
                let of = |outputs: &[OutputHash], path: &String| {
                    let output = outputs.iter().find(|output| output.path == *path)?;
                    Some(blake3::Hash::from_bytes(output.blake3).to_hex().to_string())
                };
                let outputs = paths.into_iter().filter_map(|path| {
                    differs(ResultPart::Output, path, of(outputs, path), of(new_outputs, path))
                });
                metrics.chain(outputs).collect()
            }
        }
    }
}

/// Different texts for whatever differs: every number as the shortest that reads back as the same bits, a label in quotes.
fn exact(metric: &Metric) -> String {
    match metric {
        Metric::Number(number) => float_text(*number),
        Metric::Label(label) => format!("{label:?}"),
    }
}

/// Where a result is found that was recorded with its identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexedResult {
    /// What it depends on.
    pub identity: IdentityHash,
    /// The event that says so: [`Event::ResultIdentified`], or [`Event::TrialReused`].
    pub seq: Seq,
    /// Its stage, as it stood then.
    pub stage: StageIndex,
    /// That stage's name.
    pub stage_name: String,
    /// Its trial's place in the stage.
    pub index: u64,
    /// The attempt in whose directory its outputs were left.
    pub attempt: AttemptNo,
}

/// Results of one identity that are remembered at most: the newest.
const REMEMBERED_MAX: usize = 16;

impl IndexedResult {
    /// The number by which results are found: of more than one identity only by a chance that never comes.
    #[must_use]
    pub(crate) const fn key_of(identity: &IdentityHash) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = *identity;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }

    /// Adds it to those of its key. One that lay in the same place is gone.
    pub fn add_to(self, results: &mut Vec<Self>) {
        let place = |result: &Self| (result.stage, result.index, result.attempt);
        results.retain(|known| place(known) != place(&self) || known.stage_name != self.stage_name);
        results.push(self);
        let more = results.len().saturating_sub(REMEMBERED_MAX);
        results.drain(..more);
    }
}

impl TrialRow {
    /// The attempt whose result is the trial's, or whose directory is the one to look into: the last, or [`REUSED`].
    #[must_use]
    pub fn accepted(&self) -> AttemptNo {
        match self.reused_from.is_some() || self.imported.is_some() {
            true => REUSED,
            false => self.attempts.last().map_or(0, |attempt| attempt.n),
        }
    }
}

impl Fold {
    pub(super) fn reuse<R: Rows>(&self, rows: &mut R, event: &Event) -> Result<(), R::Error> {
        match event {
            Event::ResultIdentified { trial, attempt, identity } => {
                self.identified(rows, *trial, *attempt, *identity)
            }
            Event::TrialReused(reused) => self.reused(rows, reused),
            Event::ReuseDiffered(doubt) => self.differed(rows, doubt),
            // For whoever asks why it ran: no row needs it.
            _ => self.study(rows).map(drop),
        }
    }

    /// The first difference of what has this in common is kept for ever: amending the study does not mend it.
    fn differed<R: Rows>(&self, rows: &mut R, doubt: &Doubt) -> Result<(), R::Error> {
        let mut study = self.study(rows)?;
        if doubt.differs.is_empty() {
            return Err(self.misfit("nothing differs".into()));
        }
        if study.doubts.iter().any(|known| known.shared == doubt.shared) {
            return Ok(());
        }
        study.doubts.push(doubt.clone());
        rows.put_study(study)
    }

    /// Says what the result that was recorded just before depends on.
    fn identified<R: Rows>(
        &self,
        rows: &mut R,
        trial: TrialId,
        attempt: AttemptNo,
        identity: IdentityHash,
    ) -> Result<(), R::Error> {
        let row = rows.trial(trial)?;
        let is_its = |row: &TrialRow| {
            // One that was taken over has made no attempt, and gets another identity where it was read again.
            let made = row
                .attempts
                .last()
                .is_some_and(|last| last.n == attempt && last.outcome == Some(AttemptOutcome::Succeeded));
            let taken = row.reused_from.is_some() && attempt == REUSED;
            row.state == TrialState::Succeeded && row.identity.is_none() && (made || taken)
        };
        let Some(mut row) = row.filter(is_its) else {
            return Err(self.misfit(format!("attempt {attempt} of trial {trial} has no result without identity")));
        };
        row.identity = Some(identity);
        let stage = row.stage;
        rows.put_trial(row)?;
        self.index(rows, stage, trial, attempt, identity)
    }

    fn reused<R: Rows>(&self, rows: &mut R, reused: &Reused) -> Result<(), R::Error> {
        let result = (&reused.metrics, reused.outputs.as_slice());
        let index = self.give_result(rows, reused.trial, result, |row, counters, accounting| {
            row.identity = Some(reused.identity);
            row.reused_from = Some(reused.origin.clone());
            counters.reused += 1;
            accounting.reused += 1;
        })?;
        self.index(rows, index, reused.trial, REUSED, reused.identity)
    }

    fn index<R: Rows>(
        &self,
        rows: &mut R,
        stage: StageIndex,
        trial: TrialId,
        attempt: AttemptNo,
        identity: IdentityHash,
    ) -> Result<(), R::Error> {
        let first = rows.stage_head(stage)?.map_or(0, |head| head.first_trial.0);
        let stage_name = rows.stage_name(stage)?;
        let index = trial.0.saturating_sub(first);
        rows.put_result(IndexedResult { identity, seq: self.seq, stage, stage_name, index, attempt })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(seq: Seq, stage_name: &str, index: u64, attempt: AttemptNo) -> IndexedResult {
        IndexedResult { identity: [7; 32], seq, stage: 0, stage_name: stage_name.into(), index, attempt }
    }

    #[test]
    fn a_result_takes_the_place_of_what_lay_there_and_the_newest_are_remembered() {
        let mut results = Vec::new();
        for (seq, name, index, attempt) in [(1, "a", 0, 1), (2, "a", 1, 1), (3, "b", 0, 1), (4, "a", 0, 1)] {
            result(seq, name, index, attempt).add_to(&mut results);
        }
        let seqs = |results: &[IndexedResult]| results.iter().map(|result| result.seq).collect::<Vec<_>>();
        assert_eq!(seqs(&results), [2, 3, 4]);
        (5..40).for_each(|seq| result(seq, "a", seq, 1).add_to(&mut results));
        assert_eq!(seqs(&results), (24..40).collect::<Vec<_>>());
    }
}
