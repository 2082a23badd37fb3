//! Results that were made elsewhere and that a person brought in: what is recorded of them, and what their events do to the rows.
//!
//! Nobody knows what such a result depends on. So it has no identity, and nothing here may let it be found for another trial.

use super::event::Event;
use super::fold::{Fold, Rows};
use super::ids::{StageIndex, TrialId, UnixMs};
use super::rows::{OutputHash, StageStatus};
use super::value::{Metrics, Value};

/// Where imported results come from, as it is recorded with each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportSource {
    /// The file as it was named, or the store.
    pub file: String,
    /// blake3 of its contents; of a store, of the results that were taken from it.
    pub blake3: [u8; 32],
    /// Who imported it, as they say.
    pub by: String,
}

/// How a trial came to a result that it did not make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The file or store it was taken from.
    pub source: ImportSource,
    /// When it was imported.
    pub at_ms: UnixMs,
}

/// A trial has a result that was made elsewhere, and makes no attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct TrialImport {
    /// The trial that has it.
    pub trial: TrialId,
    /// The file or store it was taken from.
    pub source: ImportSource,
    /// All that is known of its metrics.
    pub metrics: Metrics,
    /// Its declared outputs, which are in place and durable.
    pub outputs: Vec<OutputHash>,
}

/// A result that is no trial's: a proposer hears of it.
#[derive(Clone, Debug, PartialEq)]
pub struct ToldResult {
    /// The values of the stage's own sweep, in the sweep's order.
    pub values: Vec<(String, Value)>,
    /// Its metrics, as they are told.
    pub metrics: Metrics,
}

/// A stage's proposer is to be told of results before its first question.
#[derive(Clone, Debug, PartialEq)]
pub struct ResultsTold {
    /// Its stage's index, from 0.
    pub stage: StageIndex,
    /// The file or store it was taken from.
    pub source: ImportSource,
    /// The results, in the order in which they are told.
    pub results: Vec<ToldResult>,
}

impl Fold {
    pub(super) fn import<R: Rows>(&self, rows: &mut R, event: &Event) -> Result<(), R::Error> {
        match event {
            Event::TrialImported(import) => self.imported(rows, import),
            Event::ResultsTold(told) => self.told(rows, told),
            _ => Err(self.misfit("no event of an import".into())),
        }
    }

    fn imported<R: Rows>(&self, rows: &mut R, import: &TrialImport) -> Result<(), R::Error> {
        let result = (&import.metrics, import.outputs.as_slice());
        self.give_result(rows, import.trial, result, |row, counters, accounting| {
            row.imported = Some(Imported { source: import.source.clone(), at_ms: self.at_ms });
            counters.imported += 1;
            accounting.imported += 1;
        })
        .map(drop)
    }

    /// What its proposer has heard by its first question cannot be changed once it was asked.
    fn told<R: Rows>(&self, rows: &mut R, told: &ResultsTold) -> Result<(), R::Error> {
        let index = told.stage;
        let Some(stage) = rows.stage(index)? else {
            return Err(self.misfit(format!("there is no stage {index}")));
        };
        let asked = stage.planned > 0 || !matches!(stage.status, StageStatus::Waiting | StageStatus::Open);
        if !stage.hears_results() || asked {
            return Err(self.misfit(format!("stage {index} has no proposer that was not asked yet")));
        }
        let mut counters = rows.counters(index)?;
        counters.told_from = if counters.told == 0 { self.seq } else { counters.told_from };
        counters.told += told.results.len() as u64;
        rows.put_counters(index, counters)
    }
}
