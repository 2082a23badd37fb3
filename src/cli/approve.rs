//! `piton approve`: a person lets a stage begin that waits for it.
//!
//! A change of the study like any other: an event in the journal, with who and why, while no engine runs.

use piton::model::{Event, Record, StageRow, StageStatus};
use piton::spec::Spec;
use piton::sys::clock::unix_ms;
use piton::{Error, Journal, JournalError, shell_word};

use super::args::ApproveArgs;
use super::terminal::{hint, say};

/// Approves the stage the study waits for, or a named one ahead of time.
pub fn approve(args: &ApproveArgs) -> Result<u8, Error> {
    let store = &args.store.store;
    let journal_error = |cause: JournalError| Error::Journal { store: store.clone(), cause };
    let mut journal = Journal::open(store)?;
    let snapshot = journal.snapshot().map_err(journal_error)?;
    let study = snapshot.study().map_err(journal_error)?;
    let spec = Spec::from_json(&study.spec)
        .map_err(|error| Error::StoredSpec { store: store.clone(), why: error.to_string() })?;
    let stages = snapshot.stages().map_err(journal_error)?;
    drop(snapshot);
    let stage = chosen(&spec, &stages, args.stage.as_deref())?;
    let by = args.by.clone().or_else(|| std::env::var("USER").ok()).unwrap_or_else(|| "someone".into());
    let event = Event::StageApproved { stage: stage.index, by: by.clone(), note: args.note.clone() };
    journal.append(&[Record { at_ms: unix_ms(), run_ms: 0, event }]).map_err(journal_error)?;
    journal.close().map_err(journal_error)?;
    say(&format!("stage `{}` is approved by {by}", stage.name));
    hint(&format!("`piton resume {}` goes on", shell_word(store)));
    Ok(0)
}

/// The named stage, or the first that waits for approval; it must need one and have none.
fn chosen<'a>(spec: &Spec, stages: &'a [StageRow], name: Option<&str>) -> Result<&'a StageRow, Error> {
    let needs = |stage: &&StageRow| spec.stages.get(stage.index as usize).is_some_and(|spec| spec.approve);
    let open_question = |stage: &&StageRow| stage.status == StageStatus::Waiting && stage.approval.is_none();
    let Some(name) = name else {
        let waiting = stages.iter().filter(needs).find(open_question);
        return waiting.ok_or_else(|| Error::Usage("no stage waits for approval".into()));
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
