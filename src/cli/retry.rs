//! `piton retry`: failed trials of the open stage, or of the one a study was aborted in, become pending again.
//!
//! A change of the study like any other: events in the journal, in one transaction, while no engine runs.

use piton::model::{Event, Record, StageRow, StageStatus, TrialId, TrialState};
use piton::plan::Lineage;
use piton::spec::Spec;
use piton::sys::clock::unix_ms;
use piton::{Error, Journal, JournalError, Snapshot, shell_word};

use super::args::RetryArgs;
use super::terminal::{hint, say};

/// Makes failed trials pending.
pub fn retry(args: &RetryArgs) -> Result<u8, Error> {
    if !args.failed && args.cases.is_empty() {
        return Err(Error::Usage("which trials? `--failed` for all that failed, or their cases".into()));
    }
    let store = &args.store.store;
    let journal_error = |cause: JournalError| Error::Journal { store: store.clone(), cause };
    let mut journal = Journal::open(store)?;
    let snapshot = journal.snapshot().map_err(journal_error)?;
    let study = snapshot.study().map_err(journal_error)?;
    let stages = snapshot.stages().map_err(journal_error)?;
    let retryable = |stage: &&StageRow| matches!(stage.status, StageStatus::Open | StageStatus::Aborted);
    let Some(open) = stages.iter().find(retryable) else {
        return Err(Error::Usage("no stage is open: only failed trials of an open stage can be retried".into()));
    };
    let spec = Spec::from_json(&study.spec)
        .map_err(|error| Error::StoredSpec { store: store.clone(), why: error.to_string() })?;
    let lineage = Lineage::new(&spec, &stages);
    let trials = if args.failed {
        failed(&snapshot, open).map_err(journal_error)?
    } else {
        named(&snapshot, open, &lineage, &args.cases, &journal_error)?
    };
    drop(snapshot);
    let records: Vec<Record> = trials
        .iter()
        .map(|trial| Record { at_ms: unix_ms(), run_ms: 0, event: Event::TrialReset { trial: *trial } })
        .collect();
    if !records.is_empty() {
        journal.append(&records).map_err(journal_error)?;
    }
    journal.close().map_err(journal_error)?;
    report(args, &lineage, &trials)
}

fn report(args: &RetryArgs, lineage: &Lineage<'_>, trials: &[TrialId]) -> Result<u8, Error> {
    let cases: Vec<String> = trials
        .iter()
        .filter_map(|trial| lineage.locate(*trial))
        .map(|(stage, i)| lineage.case(stage, i))
        .collect();
    if args.json {
        super::result::print_json(&serde_json::json!({ "pending_again": cases }))?;
        return Ok(0);
    }
    match cases.as_slice() {
        [] => say("no trial of the open stage has failed"),
        [case] => say(&format!("`{case}` is pending again")),
        cases => say(&format!("{} trials are pending again", cases.len())),
    }
    if !cases.is_empty() {
        hint(&format!("`piton resume {}` runs them", shell_word(&args.store.store)));
    }
    Ok(0)
}

fn failed(snapshot: &Snapshot, open: &StageRow) -> Result<Vec<TrialId>, JournalError> {
    let end = TrialId(open.first_trial.0 + open.planned());
    snapshot
        .trials(open.first_trial, end)?
        .filter_map(|row| match row {
            Ok(row) => (row.state == TrialState::Failed).then_some(Ok(row.trial)),
            Err(error) => Some(Err(error)),
        })
        .collect()
}

/// All named cases, or every reason why not.
fn named(
    snapshot: &Snapshot,
    open: &StageRow,
    lineage: &Lineage<'_>,
    cases: &[String],
    journal_error: &impl Fn(JournalError) -> Error,
) -> Result<Vec<TrialId>, Error> {
    let mut trials = Vec::new();
    let mut wrong = Vec::new();
    for case in cases {
        let Some(trial) = lineage.find_case(case) else {
            wrong.push(format!("there is no case `{case}`"));
            continue;
        };
        let row = snapshot.trial(trial).map_err(journal_error)?;
        if !open.contains(trial) {
            wrong.push(format!("`{case}` belongs to a stage that is closed"));
        } else if row.is_none_or(|row| row.state != TrialState::Failed) {
            wrong.push(format!("`{case}` has not failed"));
        } else if !trials.contains(&trial) {
            trials.push(trial);
        }
    }
    if wrong.is_empty() { Ok(trials) } else { Err(Error::Usage(wrong.join("; "))) }
}
