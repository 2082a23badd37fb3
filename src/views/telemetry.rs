//! Files that other programs read, in `<artifacts>/<study>/`: the compatible checkpoint and the telemetry.
//!
//! Each file is replaced atomically (write, fsync, rename, fsync of the directory), so it is old or new, never torn; a
//! crash leaves at most a temporary file, which the next export removes. The same snapshot gives the same bytes. All
//! of it is a view: the store is the truth, nothing here is ever read back, and a file that cannot be written must
//! not harm the study.
//!
//! - `study_checkpoint.json`: `study_name`, `last_completed_stage_index` (-1 if none), `completed_stages` (each
//!   `stage_index`, `stage_name`, `completed_at`, `survivor_case_ids`, `trials_completed` (succeeded),
//!   `trials_failed`, `metadata`), `checkpoint_version` `"1.0"`, `created_at` (the study's), `metadata`.
//! - `study_telemetry.json`: the study's status and run time, its attempts, and the summary of each stage.
//! - `stage_<i>_telemetry.json`, for each stage that has opened: counts, success rate, when it opened and closed,
//!   `duration_s`, and over the ended attempts whose end somebody saw `wall_s`, `cpu_s` (`total`, `mean`, `min`, `max`), `peak_rss_bytes`
//!   (`max`), the best trial so far, failures by kind. One pass over the stage's trials.
//! - `telemetry.jsonl`: one line an event, as `dump --events --format jsonl`. It takes time in proportion to all events, so
//!   the engine writes it at the end of a run, the others after each stage as well. It is not appended to: half a line at
//!   its end would be a torn file.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::dump::events_jsonl;
use super::own_files::refuse_own_file;
use super::words::{seconds, timestamp};
use super::{Liveness, StudyLocation, StudyView, ViewError};
use crate::journal::{JournalError, Snapshot};
use crate::model::{FailureKind, StageRow, StageStatus, StudyStatus};
use crate::plan::{BestTrial, StageSummary};
use crate::sys::disk;
use crate::sys::files::{create_dir_all_durable, replace_asked, replace_atomically};
use crate::sys::temporary::{Access, remove_leftovers_in};

/// Name of the compatible checkpoint.
pub(crate) const CHECKPOINT: &str = "study_checkpoint.json";
/// Name of the study's telemetry.
pub(crate) const STUDY_TELEMETRY: &str = "study_telemetry.json";
/// Name of the events.
pub(crate) const EVENTS: &str = "telemetry.jsonl";

#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Serialize)]
pub(super) struct Checkpoint<'a> {
    study_name: &'a str,
    last_completed_stage_index: i64,
    completed_stages: Vec<CompletedStage<'a>>,
    checkpoint_version: &'static str,
    created_at: String,
    metadata: CheckpointMetadata<'a>,
}

#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Serialize)]
struct CheckpointMetadata<'a> {
    status: StudyStatus,
    seed: u64,
    spec_hash: &'a str,
    events: u64,
}

#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Serialize)]
struct CompletedStage<'a> {
    stage_index: u32,
    stage_name: &'a str,
    completed_at: String,
    survivor_case_ids: Vec<String>,
    trials_completed: u64,
    trials_failed: u64,
    metadata: StageMetadata,
}

#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Serialize)]
struct StageMetadata {
    trial_budget: u64,
    survivor_count: u64,
    trials_planned: u64,
}

#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Serialize)]
pub(super) struct StudyTelemetry<'a> {
    study_name: &'a str,
    status: StudyStatus,
    abort_reason: Option<&'a str>,
    created_at: String,
    updated_at: String,
    runs: u32,
    runtime_s: f64,
    attempts_started: u64,
    attempts_succeeded: u64,
    attempts_failed: u64,
    attempts_interrupted: u64,
    attempts_running: u64,
    events: u64,
    stages: Vec<StageOut<'a>>,
}

#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Serialize)]
struct StageOut<'a> {
    stage_index: u32,
    stage_name: &'a str,
    status: StageStatus,
    opened_at: Option<String>,
    closed_at: Option<String>,
    duration_s: Option<f64>,
    trials_planned: u64,
    trials_pending: u64,
    trials_running: u64,
    trials_succeeded: u64,
    trials_failed: u64,
    /// That wait no more: the study was aborted.
    trials_cancelled: u64,
    /// Succeeded among the finished; `null` before the first.
    success_rate: Option<f64>,
    best: Option<BestTrial>,
    survivor_case_ids: Vec<String>,
}

#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Serialize)]
pub(super) struct StageTelemetry<'a> {
    study_name: &'a str,
    #[serde(flatten)]
    summary: StageOut<'a>,
    attempts_ended: u64,
    wall_s: Option<Spread>,
    cpu_s: Option<Spread>,
    peak_rss_bytes: Option<u64>,
    failures_by_kind: BTreeMap<FailureKind, u64>,
}

/// Over the ended attempts, seconds.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Serialize)]
struct Spread {
    total: f64,
    mean: f64,
    min: f64,
    max: f64,
}

#[derive(Default)]
struct Sum {
    count: u64,
    total_us: u64,
    min_us: Option<u64>,
    max_us: u64,
}

impl Sum {
    fn add(&mut self, us: u64) {
        self.count += 1;
        self.total_us = self.total_us.saturating_add(us);
        self.min_us = Some(self.min_us.map_or(us, |min_us| min_us.min(us)));
        self.max_us = self.max_us.max(us);
    }

    fn spread(&self) -> Option<Spread> {
        let mean_us = self.total_us.checked_div(self.count)?;
        Some(Spread {
            total: seconds(self.total_us),
            mean: seconds(mean_us),
            min: seconds(self.min_us.unwrap_or(0)),
            max: seconds(self.max_us),
        })
    }
}

/// Writes all files of a study into its directory in `artifacts_dir`, for the engine: it is taken to live unless it
/// said goodbye. Leftovers of crashed exports are removed. It passes over all trials and events, so it belongs on a
/// thread of its own.
///
/// # Errors
/// [`ViewError::File`] with the first file that cannot be written, [`ViewError::Journal`], [`ViewError::Spec`]. Files
/// written before stay, each whole.
pub(crate) fn write_all(snapshot: &Snapshot, artifacts_dir: &Path) -> Result<(), ViewError> {
    let view = engines_view(snapshot, artifacts_dir)?;
    write_files(&view, snapshot, &view.study_artifacts_dir(), Named::ByPiton, true).map(drop)
}

/// The same without the events, whose number has no bound: for the end of a stage.
///
/// # Errors
/// As for [`write_all`].
pub(crate) fn write_sums(snapshot: &Snapshot, artifacts_dir: &Path) -> Result<(), ViewError> {
    let view = engines_view(snapshot, artifacts_dir)?;
    write_files(&view, snapshot, &view.study_artifacts_dir(), Named::ByPiton, false).map(drop)
}

/// A study as its engine sees it, which names no files.
pub(super) fn engines_view(snapshot: &Snapshot, artifacts_dir: &Path) -> Result<StudyView, ViewError> {
    let liveness = Liveness { alive: !snapshot.study()?.engine_closed };
    // No file here names the store or the study's directory.
    let place =
        StudyLocation { store: String::new(), artifacts_dir: artifacts_dir.into(), study_dir: PathBuf::new() };
    StudyView::load(snapshot, place, liveness)
}

/// Whether the exports there are of this state of the study; cheap, whatever the study's size.
///
/// # Errors
/// [`JournalError`].
pub(crate) fn is_current(snapshot: &Snapshot, artifacts_dir: &Path) -> Result<bool, JournalError> {
    #[derive(serde::Deserialize)]
    struct Events {
        events: u64,
    }
    let dir = artifacts_dir.join(snapshot.study()?.name);
    let last = snapshot.progress()?.last_seq;
    // The study's telemetry is written last.
    let telemetry = disk::read(&dir.join(STUDY_TELEMETRY)).ok();
    let events = telemetry.and_then(|text| serde_json::from_slice::<Events>(&text).ok());
    Ok(disk::exists(&dir.join(CHECKPOINT)) && events.is_some_and(|found| found.events == last))
}

/// Writes all files of a study that is loaded already into a directory that a person named, which is made if need be. The names of the
/// files written, in that order.
///
/// # Errors
/// As for [`write_all`].
#[cfg(any(test, feature = "report"))]
pub(crate) fn write_into(view: &StudyView, snapshot: &Snapshot, dir: &Path) -> Result<Vec<String>, ViewError> {
    write_files(view, snapshot, dir, Named::ByPerson(view, snapshot), true)
}

fn write_files(
    view: &StudyView,
    snapshot: &Snapshot,
    dir: &Path,
    named: Named<'_>,
    with_events: bool,
) -> Result<Vec<String>, ViewError> {
    let failed = |cause| ViewError::File { what: "write", path: dir.into(), cause };
    create_dir_all_durable(dir).map_err(failed)?;
    remove_leftovers_in(dir).map_err(failed)?;
    replace_json(&dir.join(CHECKPOINT), named, &checkpoint(view))?;
    let mut names = vec![CHECKPOINT.to_owned()];
    for stage in view.stages.iter().filter(|stage| stage.status != StageStatus::Waiting) {
        let name = format!("stage_{}_telemetry.json", stage.index);
        let path = dir.join(&name);
        // Nothing of a closed stage changes any more, and summing it up reads all its trials.
        if stage.status != StageStatus::Closed || !is_told(&path, &StageOut::new(view, view.summary(stage))) {
            replace_json(&path, named, &stage_telemetry(view, snapshot, stage)?)?;
        }
        names.push(name);
    }
    if with_events {
        replace(&dir.join(EVENTS), named, Access::Own, |out| events_jsonl(view, snapshot, out))?;
        names.push(EVENTS.to_owned());
    }
    // Last: where it is current, the others are.
    replace_json(&dir.join(STUDY_TELEMETRY), named, &study_telemetry(view))?;
    names.push(STUDY_TELEMETRY.to_owned());
    Ok(names)
}

/// Whether the file was written for this very summary.
fn is_told(path: &Path, summary: &StageOut<'_>) -> bool {
    let told = disk::read(path).ok().and_then(|text| serde_json::from_slice::<serde_json::Value>(&text).ok());
    let (Some(told), Ok(serde_json::Value::Object(now))) = (told, serde_json::to_value(summary)) else {
        return false;
    };
    // The last key that is written, besides the summary's.
    told.get("failures_by_kind").is_some() && now.iter().all(|(key, value)| told.get(key) == Some(value))
}

fn replace_json(path: &Path, named: Named<'_>, value: &impl Serialize) -> Result<(), ViewError> {
    replace(path, named, Access::Own, |out| {
        serde_json::to_writer_pretty(&mut *out, value)?;
        Ok(out.write_all(b"\n")?)
    })
}

/// Who named a file.
#[derive(Clone, Copy, Debug)]
pub(super) enum Named<'a> {
    /// Piton: what lies in its place is replaced.
    ByPiton,
    /// A person, who may have something else in its place; see [`replace_asked`]. It must be none of this study's own files.
    ByPerson(&'a StudyView, &'a Snapshot),
}

/// Replaces a file. Errors of the store and errors of the file are kept apart.
pub(super) fn replace(
    path: &Path,
    named: Named<'_>,
    access: Access,
    write: impl FnOnce(&mut dyn Write) -> Result<(), ViewError>,
) -> Result<(), ViewError> {
    if let Named::ByPerson(view, snapshot) = named {
        refuse_own_file(view, snapshot, path)?;
    }
    let mut other = None;
    let put = |out: &mut dyn Write| {
        write(out).map_err(|error| match error {
            ViewError::Output(error) => error,
            error => {
                let stopped = io::Error::other(error.to_string());
                other = Some(error);
                stopped
            }
        })
    };
    let done = match named {
        Named::ByPiton => replace_atomically(path, access, put),
        Named::ByPerson(..) => replace_asked(path, access, put),
    };
    match (done, other) {
        (_, Some(error)) => Err(error),
        (done, None) => done.map_err(|cause| ViewError::File { what: "write", path: path.into(), cause }),
    }
}

fn checkpoint(view: &StudyView) -> Checkpoint<'_> {
    let closed = view.summaries().filter(|summary| summary.row.status == StageStatus::Closed);
    let completed = closed.map(|summary| CompletedStage {
        stage_index: summary.row.index,
        stage_name: &summary.row.name,
        completed_at: timestamp(summary.row.closed_ms.unwrap_or(0)),
        survivor_case_ids: summary.survivors().collect(),
        trials_completed: summary.trials.succeeded,
        trials_failed: summary.trials.failed,
        metadata: StageMetadata {
            trial_budget: summary.row.trial_budget,
            survivor_count: summary.row.survivor_count,
            trials_planned: summary.trials.planned,
        },
    });
    let completed: Vec<_> = completed.collect();
    Checkpoint {
        study_name: &view.study.name,
        last_completed_stage_index: completed.last().map_or(-1, |stage| stage.stage_index.into()),
        completed_stages: completed,
        checkpoint_version: "1.0",
        created_at: timestamp(view.study.created_ms),
        metadata: CheckpointMetadata {
            status: view.status(),
            seed: view.study.seed,
            spec_hash: &view.study.spec_hash,
            events: view.progress.last_seq,
        },
    }
}

fn study_telemetry(view: &StudyView) -> StudyTelemetry<'_> {
    let attempts = view.progress.accounting;
    StudyTelemetry {
        study_name: &view.study.name,
        status: view.status(),
        abort_reason: view.study.abort_reason.as_deref(),
        created_at: timestamp(view.study.created_ms),
        updated_at: timestamp(view.progress.last_event_ms),
        runs: view.study.runs,
        runtime_s: seconds(view.runtime_us()),
        attempts_started: attempts.attempts_started,
        attempts_succeeded: attempts.succeeded,
        attempts_failed: attempts.failed,
        attempts_interrupted: attempts.interrupted,
        attempts_running: attempts.running,
        events: view.progress.last_seq,
        stages: view.summaries().map(|summary| StageOut::new(view, summary)).collect(),
    }
}

impl<'a> StageOut<'a> {
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    fn new(view: &StudyView, summary: StageSummary<'a>) -> Self {
        let (stage, trials) = (summary.row, summary.trials);
        let until_ms = stage.closed_ms.unwrap_or(view.progress.last_event_ms);
        let lasted_ms = |opened_ms| u64::try_from(until_ms.saturating_sub(opened_ms)).unwrap_or(0);
        let results = trials.succeeded + trials.failed;
        Self {
            stage_index: stage.index,
            stage_name: &stage.name,
            status: stage.status,
            opened_at: stage.opened_ms.map(timestamp),
            closed_at: stage.closed_ms.map(timestamp),
            duration_s: stage.opened_ms.map(|opened_ms| seconds(lasted_ms(opened_ms).saturating_mul(1_000))),
            trials_planned: trials.planned,
            trials_pending: trials.pending,
            trials_running: trials.running,
            trials_succeeded: trials.succeeded,
            trials_failed: trials.failed,
            trials_cancelled: trials.cancelled,
            success_rate: (results > 0).then(|| trials.succeeded as f64 / results as f64),
            best: summary.best(),
            survivor_case_ids: summary.survivors().collect(),
        }
    }
}

fn stage_telemetry<'a>(
    view: &'a StudyView,
    snapshot: &Snapshot,
    stage: &'a StageRow,
) -> Result<StageTelemetry<'a>, ViewError> {
    let (mut ended, mut wall, mut cpu) = (0, Sum::default(), Sum::default());
    let (mut peak, mut kinds) = (None, BTreeMap::new());
    // What never started says nothing, however much is planned.
    for trial in view.started(snapshot, stage)? {
        let trial = trial?;
        for attempt in trial.attempts().iter().filter(|attempt| attempt.outcome.is_some()) {
            ended += 1;
            if let Some(usage) = attempt.measured() {
                wall.add(usage.wall_us);
                cpu.add(usage.cpu_us);
                peak = peak.max(Some(usage.peak_rss_bytes));
            }
        }
        if let Some(failure) = trial.failure() {
            *kinds.entry(failure.kind.clone()).or_insert(0) += 1;
        }
    }
    Ok(StageTelemetry {
        study_name: &view.study.name,
        summary: StageOut::new(view, view.summary(stage)),
        attempts_ended: ended,
        wall_s: wall.spread(),
        cpu_s: cpu.spread(),
        peak_rss_bytes: peak,
        failures_by_kind: kinds,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::{Value as Json, json};

    use super::*;
    use crate::testing::story::{ALIVE, DEAD, Story, written};
    use crate::views::dump::{self, Format};

    fn read(dir: &Path, name: &str) -> Json {
        serde_json::from_slice(&fs::read(dir.join(name)).unwrap()).unwrap()
    }

    #[test]
    fn the_checkpoint_has_exactly_the_compatible_shape() {
        let mut story = Story::new();
        story.complete();
        let (view, snapshot) = story.view_here(DEAD);
        write_all(&snapshot, &view.place.artifacts_dir).unwrap();
        assert_eq!(
            read(&view.study_artifacts_dir(), CHECKPOINT),
            json!({
                "study_name": "tiny",
                "last_completed_stage_index": 1,
                "completed_stages": [
                    {
                        "stage_index": 0, "stage_name": "explore", "completed_at": "1970-01-01T00:00:11.000Z",
                        "survivor_case_ids": ["t_0_3", "t_0_0"], "trials_completed": 3, "trials_failed": 1,
                        "metadata": {"trial_budget": 4, "survivor_count": 2, "trials_planned": 4}
                    },
                    {
                        "stage_index": 1, "stage_name": "confirm", "completed_at": "1970-01-01T00:00:17.000Z",
                        "survivor_case_ids": ["t_1_0"], "trials_completed": 2, "trials_failed": 0,
                        "metadata": {"trial_budget": 2, "survivor_count": 1, "trials_planned": 2}
                    }
                ],
                "checkpoint_version": "1.0",
                "created_at": "1970-01-01T00:00:00.000Z",
                "metadata": {"status": "completed", "seed": 7, "spec_hash": "5bec", "events": 20}
            })
        );
    }

    #[test]
    fn before_the_first_stage_is_complete_the_index_is_minus_one() {
        let mut story = Story::new();
        story.run().open_explore();
        let (view, snapshot) = story.view_here(ALIVE);
        let dir = view.study_artifacts_dir();
        write_into(&view, &snapshot, &dir).unwrap();
        let checkpoint = read(&dir, CHECKPOINT);
        assert_eq!(checkpoint["last_completed_stage_index"], -1);
        assert_eq!(checkpoint["completed_stages"], json!([]));
    }

    #[test]
    fn telemetry_sums_up_each_stage() {
        let mut story = Story::new();
        story.complete();
        let (view, snapshot) = story.view_here(DEAD);
        write_all(&snapshot, &view.place.artifacts_dir).unwrap();
        let dir = view.study_artifacts_dir();
        let stage = read(&dir, "stage_0_telemetry.json");
        assert_eq!(stage["stage_name"], "explore");
        assert_eq!(stage["duration_s"], 9.0);
        assert_eq!(stage["success_rate"], 0.75);
        assert_eq!(stage["attempts_ended"], 4);
        assert_eq!(stage["wall_s"], json!({"total": 6.0, "mean": 1.5, "min": 1.5, "max": 1.5}));
        assert_eq!(stage["peak_rss_bytes"], 4096);
        assert_eq!(stage["best"], json!({"case": "t_0_3", "metric": "bytes", "value": 100.0}));
        assert_eq!(stage["failures_by_kind"], json!({"exit_code": 1}));
        let study = read(&dir, STUDY_TELEMETRY);
        assert_eq!(study["attempts_started"], 6);
        assert_eq!(study["stages"][1]["survivor_case_ids"], json!(["t_1_0"]));
        let events = fs::read_to_string(dir.join(EVENTS)).unwrap();
        assert_eq!(events, written(|out| dump::events(&view, &snapshot, Format::Jsonl, out)));
        assert_eq!(events.lines().count(), 20);
    }

    #[test]
    fn exporting_again_gives_the_same_bytes_and_leaves_nothing_beside() {
        let mut story = Story::new();
        story.run().open_explore().start(0, 1).succeed(0, 1, 1.0);
        let (view, snapshot) = story.view_here(DEAD);
        let contents = || {
            let entries = fs::read_dir(view.study_artifacts_dir()).unwrap();
            let contents = |entry: io::Result<fs::DirEntry>| {
                let path = entry.unwrap().path();
                (path.file_name().unwrap().to_owned(), fs::read(&path).unwrap())
            };
            entries.map(contents).collect::<BTreeMap<_, _>>()
        };
        write_all(&snapshot, &view.place.artifacts_dir).unwrap();
        let first = contents();
        assert_eq!(first.len(), 4, "no telemetry of the stage that waits");
        fs::write(view.study_artifacts_dir().join(".study_checkpoint.json.4194305-0.piton-tmp"), b"half").unwrap();
        write_all(&snapshot, &view.place.artifacts_dir).unwrap();
        assert_eq!(contents(), first);
    }

    #[test]
    fn a_file_that_cannot_be_written_is_named() {
        let story = Story::new();
        let (view, snapshot) = story.view_here(DEAD);
        fs::create_dir_all(view.study_artifacts_dir().join(STUDY_TELEMETRY)).unwrap();
        let error = write_all(&snapshot, &view.place.artifacts_dir).unwrap_err().to_string();
        assert!(error.starts_with("cannot write `/") && error.ends_with("/study_telemetry.json`"), "{error}");
    }
}
