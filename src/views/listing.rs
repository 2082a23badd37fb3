//! `list`: many studies, a line each. What a line says of a study is what its status says, in fewer words.
//!
//! A store that cannot be read is a line as well, never an end of the list. The cost of a line must not grow with a study's trials.

use std::io::Write;

use serde::Serialize;

use super::status::Status;
use super::text::{
    Paint, Screen, bytes, clean, columns, duration, number, pad, pad_left, range_of_durations, wrapped,
};
use super::words::{micros, seconds, timestamp};
use super::{StudyView, ViewError};
use crate::journal::Snapshot;
use crate::model::{StageStatus, StudyStatus, UnixMs};
use crate::plan::BestTrial;

/// What lies at a path that looks like a store's.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Listed {
    /// Its path, below the directory that was named.
    pub store: String,
    /// How the study stands; there where it can be read.
    #[serde(flatten)]
    pub study: Option<ListedStudy>,
    /// Why it cannot be read; `null` where it can.
    pub error: Option<String>,
    /// Size of the store on disk.
    pub store_bytes: u64,
    /// With what lies in its artifacts directory; there where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
}

/// How a study of a list stands.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ListedStudy {
    /// Its name.
    pub study: String,
    /// As in a dump.
    pub status: StudyStatus,
    /// Whether the running engine starts nothing more.
    pub draining: bool,
    /// The stage that waits for a person's approval.
    pub waits_for_approval: Option<String>,
    /// The stage that is open; else the last one that was.
    pub stage: Option<String>,
    /// Trials of all stages that have a result, or were ended early.
    pub done: u64,
    /// Trials of all stages, as far as is known: a stage that waits counts with its budget.
    pub planned: u64,
    /// The best value of the last stage that has one.
    pub best: Option<BestTrial>,
    /// Time left in the open stage, seconds, from and to; `null` where nobody can know, or nothing runs.
    pub eta_s: Option<[f64; 2]>,
    /// RFC 3339 in UTC.
    pub created_at: String,
    /// When the last event was recorded.
    pub last_event_at: String,
    /// How long ago that is, seconds.
    pub age_s: f64,
}

impl Listed {
    /// A store whose study can be read.
    #[must_use]
    pub const fn readable(store: String, study: ListedStudy, store_bytes: u64) -> Self {
        Self { store, study: Some(study), error: None, store_bytes, disk_bytes: None }
    }

    /// One that cannot be read, and why.
    #[must_use]
    pub const fn unreadable(store: String, reason: String, store_bytes: u64) -> Self {
        Self { store, study: None, error: Some(reason), store_bytes, disk_bytes: None }
    }
}

impl ListedStudy {
    /// How a study stands at `now_ms` by the wall clock.
    ///
    /// # Errors
    /// [`ViewError::Journal`].
    pub fn load(view: &StudyView, snapshot: &Snapshot, now_ms: UnixMs) -> Result<Self, ViewError> {
        let begun = |stage: &&crate::model::StageRow| stage.status != StageStatus::Waiting;
        let open = view.stages.iter().find(|stage| stage.status == StageStatus::Open);
        let stage = open.or_else(|| view.stages.iter().rev().find(begun));
        // It takes the last events, and only an engine that runs has a pace.
        let eta_s = match view.liveness.alive {
            true => {
                Status::load_listing(view, snapshot, now_ms, 0)?.stages.into_iter().find_map(|stage| stage.eta_s)
            }
            false => None,
        };
        let planned = view.stages.iter().map(|stage| match stage.status {
            StageStatus::Waiting => stage.trial_budget,
            _ => stage.expected(),
        });
        let age_ms = u64::try_from(now_ms.saturating_sub(view.progress.last_event_ms)).unwrap_or(0);
        Ok(Self {
            study: view.study.name.clone(),
            status: view.status(),
            draining: view.study.draining && view.liveness.alive,
            waits_for_approval: view.waits_for_approval().map(str::to_owned),
            stage: stage.map(|stage| stage.name.clone()),
            done: view.summaries().map(|summary| summary.trials.finished()).sum(),
            planned: planned.fold(0, u64::saturating_add),
            best: view.summaries().rev().find_map(|summary| summary.best()),
            eta_s,
            created_at: timestamp(view.study.created_ms),
            last_event_at: timestamp(view.progress.last_event_ms),
            age_s: seconds(age_ms.saturating_mul(1_000)),
        })
    }

    fn state(&self) -> (String, Paint) {
        match self.status {
            _ if self.draining => ("draining".to_owned(), Paint::Busy),
            _ if self.waits_for_approval.is_some() => ("waits for approval".to_owned(), Paint::Busy),
            StudyStatus::Running | StudyStatus::Completed => (self.status.to_string(), Paint::Good),
            StudyStatus::Aborted => (self.status.to_string(), Paint::Bad),
            status => (status.to_string(), Paint::Busy),
        }
    }
}

/// Studies below a directory.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Listing {
    /// The layout's number.
    pub schema: u32,
    /// By their paths.
    pub studies: Vec<Listed>,
    /// Directories that could not be read.
    pub unreadable: Vec<String>,
}

/// What the columns are called; the path comes last.
const TITLES: [&str; 9] = ["study", "state", "stage", "done", "best", "left", "age", "size", "store"];

impl Listing {
    /// Of studies that are sorted.
    #[must_use]
    pub const fn of(studies: Vec<Listed>, unreadable: Vec<String>) -> Self {
        Self { schema: 1, studies, unreadable }
    }

    /// Writes it as one JSON value.
    ///
    /// # Errors
    /// [`ViewError::Output`].
    pub fn write_json(&self, out: &mut dyn Write) -> Result<(), ViewError> {
        serde_json::to_writer(&mut *out, self)?;
        Ok(out.write_all(b"\n")?)
    }

    /// Writes it for people: a table if it fits, else some lines for each study.
    ///
    /// # Errors
    /// [`ViewError::Output`].
    pub fn write_text(&self, screen: Screen, out: &mut dyn Write) -> Result<(), ViewError> {
        let rows: Vec<_> = self.studies.iter().map(cells).collect();
        let widths: Vec<usize> = (0..TITLES.len())
            .map(|at| {
                let cells = rows.iter().filter_map(|(row, _)| row.get(at)).map(|cell| columns(cell));
                cells.chain(TITLES.get(at).map(|title| columns(title))).max().unwrap_or(0)
            })
            .collect();
        let whole = widths.iter().sum::<usize>() + 2 * (TITLES.len() - 1);
        if rows.is_empty() {
            writeln!(out, "no study")?;
        } else if whole <= screen.columns() {
            let titles = TITLES.map(str::to_owned);
            writeln!(out, "{}", screen.paint(Paint::Faint, &line(&titles, &widths, None)))?;
            for (row, paint) in &rows {
                writeln!(out, "{}", line(row, &widths, Some((screen, *paint))))?;
            }
        } else {
            for (row, paint) in &rows {
                write_block(row, *paint, screen, out)?;
            }
        }
        writeln!(out, "{}", self.totals())?;
        Ok(())
    }

    /// How many studies there are in which state, in words.
    #[must_use]
    pub fn totals(&self) -> String {
        let mut counts: Vec<(String, usize)> = Vec::new();
        for listed in &self.studies {
            let state = listed.study.as_ref().map_or_else(|| "not readable".to_owned(), |study| study.state().0);
            match counts.iter_mut().find(|(name, _)| *name == state) {
                Some((_, count)) => *count += 1,
                None => counts.push((state, 1)),
            }
        }
        let counts: Vec<_> = counts.iter().map(|(state, count)| format!("{count} {state}")).collect();
        let studies = match self.studies.len() {
            1 => "1 study".to_owned(),
            count => format!("{count} studies"),
        };
        let unreadable = match self.unreadable.len() {
            0 => String::new(),
            1 => "; 1 directory could not be read".to_owned(),
            count => format!("; {count} directories could not be read"),
        };
        let between = if counts.is_empty() { "" } else { ": " };
        format!("{studies}{between}{}{unreadable}", counts.join(", "))
    }
}

/// In the order of the titles; one of an unreadable store has its reason in the place of what would be known.
pub(super) fn cells(listed: &Listed) -> ([String; 9], Paint) {
    let size = bytes(listed.disk_bytes.unwrap_or(listed.store_bytes));
    let store = clean(&listed.store);
    let empty = String::new;
    let Some(study) = &listed.study else {
        let why = clean(listed.error.as_deref().unwrap_or_default());
        return (["?".into(), why, empty(), empty(), empty(), empty(), empty(), size, store], Paint::Bad);
    };
    let (state, paint) = study.state();
    let best = study.best.as_ref().map(|best| format!("{} {}", clean(&best.metric), number(best.value)));
    let left = study.eta_s.map(|[from, to]| range_of_durations(micros(from), micros(to)));
    let row = [
        clean(&study.study),
        state,
        clean(study.stage.as_deref().unwrap_or_default()),
        format!("{}/{}", study.done, study.planned),
        best.unwrap_or_default(),
        left.unwrap_or_default(),
        duration(micros(study.age_s)),
        size,
        store,
    ];
    (row, paint)
}

/// Columns of numbers stand to the right.
fn line(row: &[String; 9], widths: &[usize], painted: Option<(Screen, Paint)>) -> String {
    let cells = row.iter().zip(widths).enumerate().map(|(at, (cell, width))| match at {
        1 if painted.is_some() => painted.map_or_else(String::new, |(screen, paint)| {
            format!("{}{}", screen.paint(paint, cell), " ".repeat(width.saturating_sub(columns(cell))))
        }),
        3 | 6 | 7 => pad_left(cell, *width),
        _ => pad(cell, *width),
    });
    cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
}

/// The path whole, since people copy it, and the rest below it.
fn write_block(row: &[String; 9], paint: Paint, screen: Screen, out: &mut dyn Write) -> Result<(), ViewError> {
    let [study, state, stage, done, best, left, age, size, store] = row;
    writeln!(out, "{}", screen.paint(Paint::Bold, store))?;
    writeln!(out, "  {}", screen.paint(paint, &screen.line(&format!("{study}: {state}"))))?;
    let named = [("stage ", stage), ("", done), ("best ", best), ("left: ", left), ("age ", age), ("", size)];
    let pieces = named.iter().filter(|(_, cell)| !cell.is_empty()).map(|(name, cell)| format!("{name}{cell}"));
    for line in wrapped(&pieces.collect::<Vec<_>>(), ", ", screen.columns().saturating_sub(2)) {
        writeln!(out, "  {}", screen.line(&line))?;
    }
    Ok(())
}
