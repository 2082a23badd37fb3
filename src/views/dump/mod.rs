//! `dump`: the whole state of a study, or all its events, for people and for programs.
//!
//! Trials and events are written as they are read, so that a million of them need no more memory than one. What is
//! dumped is one snapshot: consistent in itself, whatever the engine does meanwhile. `--at SEQ` is the caller's to do:
//! it passes a replayed snapshot.

mod canonical;
mod cases;
mod events;
mod schema;
mod table;
#[cfg(test)]
mod tests;
mod text;

use std::io::{self, BufWriter, Write};

use serde::Serialize;

use super::{Screen, StudyView, ViewError};
use crate::journal::Snapshot;
use crate::model::{Accounting, StageRow};

pub use canonical::canonical;
use cases::CaseOut;
pub(in crate::views) use cases::LeftRaceOut;
pub(super) use events::jsonl as events_jsonl;
pub use schema::RemoteOut;
pub(super) use schema::{
    AcceptanceOut, AttemptOut, FailureOut, MetricsOut, OriginOut, ParamsOut, TakenOut, acceptances_out,
    accepted_words, versions_out,
};
#[cfg(test)]
pub(super) use schema::{OutputsOut, ProposedOut};
use schema::{StageOut, StudyOut, TrialOut};

/// What a dump is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// For people.
    Text(Screen),
    /// One JSON value, schema 1; one trial a line.
    Json,
    /// One JSON value a line: the study, the stages, the trials, each with its `type`.
    Jsonl,
    /// One row a trial.
    Csv,
}

/// Writes the state.
///
/// # Errors
/// [`ViewError::Journal`], [`ViewError::Output`].
pub fn state(view: &StudyView, snapshot: &Snapshot, format: Format, out: &mut dyn Write) -> Result<(), ViewError> {
    let mut out = BufWriter::new(out);
    match format {
        Format::Text(screen) => text::state(view, snapshot, screen, &mut out)?,
        Format::Json => json(view, snapshot, &mut out)?,
        Format::Jsonl => jsonl(view, snapshot, &mut out)?,
        Format::Csv => table::trials(view, snapshot, &mut out)?,
    }
    Ok(out.flush()?)
}

/// Writes all events.
///
/// # Errors
/// As for [`state`].
pub fn events(
    view: &StudyView,
    snapshot: &Snapshot,
    format: Format,
    out: &mut dyn Write,
) -> Result<(), ViewError> {
    let mut out = BufWriter::new(out);
    match format {
        Format::Text(screen) => events::text(view, snapshot, screen, &mut out)?,
        Format::Json => events::json(view, snapshot, &mut out)?,
        Format::Jsonl => events::jsonl(view, snapshot, &mut out)?,
        Format::Csv => events::csv(view, snapshot, &mut out)?,
    }
    Ok(out.flush()?)
}

fn json(view: &StudyView, snapshot: &Snapshot, out: &mut dyn Write) -> Result<(), ViewError> {
    out.write_all(b"{\"schema\":1,\n\"study\":")?;
    serde_json::to_writer(&mut *out, &StudyOut::new(view))?;
    out.write_all(b",\n\"stages\":[")?;
    let mut list = List::default();
    for summary in view.summaries() {
        list.item(out, &StageOut::from(summary))?;
    }
    list.end(out)?;
    out.write_all(b",\n\"trials\":[")?;
    let mut list = List::default();
    for stage in &view.stages {
        let dir = shown_dir(view, stage);
        for trial in view.trials(snapshot, stage)? {
            list.item(out, &TrialOut::new(&dir, &trial?))?;
        }
    }
    list.end(out)?;
    if view.has_replicas() {
        out.write_all(b",\n\"cases\":[")?;
        let mut list = List::default();
        for stage in &view.stages {
            for case in view.whole_cases(snapshot, stage) {
                list.item(out, &CaseOut::new(&case?))?;
            }
        }
        list.end(out)?;
    }
    out.write_all(b",\n\"accounting\":")?;
    serde_json::to_writer(&mut *out, &view.progress.accounting)?;
    writeln!(out, ",\n\"events\":{}}}", view.progress.last_seq)?;
    Ok(())
}

/// The items of a JSON array, one a line, as they come.
#[derive(Default)]
struct List {
    begun: bool,
}

impl List {
    fn item(&mut self, out: &mut dyn Write, item: &impl Serialize) -> Result<(), ViewError> {
        out.write_all(if self.begun { b",\n" } else { b"\n" })?;
        self.begun = true;
        Ok(serde_json::to_writer(out, item)?)
    }

    fn end(self, out: &mut dyn Write) -> Result<(), ViewError> {
        Ok(out.write_all(if self.begun { b"\n]" } else { b"]" })?)
    }
}

/// A line of `--format jsonl`.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Line<'a> {
    Study {
        schema: u32,
        #[serde(flatten)]
        study: StudyOut<'a>,
        accounting: Accounting,
        events: u64,
    },
    Stage(StageOut<'a>),
    Trial(TrialOut<'a>),
    Case(CaseOut<'a>),
}

fn jsonl(view: &StudyView, snapshot: &Snapshot, out: &mut dyn Write) -> Result<(), ViewError> {
    line(
        out,
        &Line::Study {
            schema: 1,
            study: StudyOut::new(view),
            accounting: view.progress.accounting,
            events: view.progress.last_seq,
        },
    )?;
    for summary in view.summaries() {
        line(out, &Line::Stage(summary.into()))?;
    }
    trial_lines(view, snapshot, out)?;
    for stage in &view.stages {
        for case in view.whole_cases(snapshot, stage) {
            line(out, &Line::Case(CaseOut::new(&case?)))?;
        }
    }
    Ok(())
}

/// Writes the trials of `--format jsonl` alone: every line the same kind of object.
///
/// # Errors
/// As for [`state`].
pub fn trials_jsonl(view: &StudyView, snapshot: &Snapshot, out: &mut dyn Write) -> Result<(), ViewError> {
    trial_lines(view, snapshot, out)?;
    Ok(out.flush()?)
}

/// Trials that one thread makes into text at a time: some hundreds of kilobytes.
const CHUNK: u64 = 1_024;

/// At most so many threads make text; more than the disk and the reader can take are of no use.
const MAX_THREADS: u64 = 8;

/// The directory of a stage's cases, as it is shown.
fn shown_dir(view: &StudyView, stage: &StageRow) -> String {
    view.stage_dir(stage).display().to_string()
}

/// What makes the text of one chunk of a stage's trials.
type MakeText<'a> = &'a (dyn Fn(u64) -> Result<Vec<u8>, ViewError> + Sync);

fn trial_lines(view: &StudyView, snapshot: &Snapshot, out: &mut dyn Write) -> Result<(), ViewError> {
    let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64).min(MAX_THREADS);
    for stage in &view.stages {
        let dir = shown_dir(view, stage);
        let text_of = |chunk: u64| {
            let mut text = Vec::with_capacity(600 * CHUNK as usize);
            for trial in view.trials_from(snapshot, stage, chunk * CHUNK, CHUNK)? {
                line(&mut text, &Line::Trial(TrialOut::new(&dir, &trial?)))?;
            }
            Ok(text)
        };
        let chunks = stage.planned().div_ceil(CHUNK);
        if cpus == 1 || chunks <= 2 {
            for chunk in 0..chunks {
                out.write_all(&text_of(chunk)?)?;
            }
        } else {
            in_parallel(&text_of, chunks, cpus.min(chunks), out)?;
        }
    }
    Ok(())
}

/// Of `n` threads each makes every `n`th chunk, and never more than two ahead of what is written.
fn in_parallel(text_of: MakeText<'_>, chunks: u64, threads: u64, out: &mut dyn Write) -> Result<(), ViewError> {
    std::thread::scope(|running| {
        let (texts, handles): (Vec<_>, Vec<_>) = (0..threads)
            .map(|thread| {
                let (sender, texts) = crossbeam_channel::bounded(1);
                let handle = running.spawn(move || {
                    let mut mine = (thread..chunks).step_by(usize::try_from(threads).unwrap_or(usize::MAX));
                    // Nobody takes it any more once one could not be made or written.
                    let _ = mine.try_for_each(|chunk| sender.send(text_of(chunk)));
                });
                (texts, handle)
            })
            .unzip();
        let done = (0..chunks).zip(texts.iter().cycle()).try_for_each(|(_, texts)| {
            let text = texts.recv().map_err(|_| io::Error::other("a thread that makes text failed"))?;
            Ok(out.write_all(&text?)?)
        });
        drop(texts);
        for handle in handles {
            // redb panics on some damage: the caller that reports it should see it as if it had happened here.
            handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        done
    })
}

fn line<W: Write + ?Sized>(out: &mut W, item: &impl Serialize) -> Result<(), ViewError> {
    serde_json::to_writer(&mut *out, item)?;
    Ok(out.write_all(b"\n")?)
}

/// A param's value for people, as the trial gets it; not yet harmless.
pub(super) fn value_text(value: &crate::model::Value) -> String {
    value.to_string()
}

/// Shapes that are written in parts, for their schemas.
#[cfg(test)]
pub(super) mod schemas {
    use schemars::JsonSchema;

    use super::cases::CaseOut;
    use super::schema::{OutputOut, StageOut, StudyOut, TrialOut};
    use crate::model::Accounting;

    pub(in crate::views) type Event<'a> = super::events::EventOut<'a>;
    pub(in crate::views) type Output = OutputOut;

    #[derive(JsonSchema)]
    #[expect(dead_code, reason = "only its schema is of use")]
    pub(in crate::views) struct Dump<'a> {
        #[schemars(extend("const" = 1))]
        schema: u32,
        study: StudyOut<'a>,
        stages: Vec<StageOut<'a>>,
        trials: Vec<TrialOut<'a>>,
        /// Cases of stages that repeat them, with what their replicas come to together; there where any stage does.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        cases: Vec<CaseOut<'a>>,
        accounting: Accounting,
        events: u64,
    }
}
