//! What a status says of a cluster's queue: where a trial's job is, and why it waits.

use std::collections::BTreeMap;
use std::io::Write;

use serde::Serialize;

use super::super::dump::RemoteOut;
use super::super::text::{Screen, clean, duration, wrapped};
use super::super::words::{micros, timestamp};
use super::super::{StudyView, ViewError};
use crate::model::{RunningRow, UnixMs};
use crate::sys::waiting::Waiting;

/// Why jobs wait in a cluster's queue.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ClusterQueue {
    /// When it said so, by the clock of the engine's host.
    pub seen_at: String,
    /// How many wait for which reason, in its words: `Resources`, `Priority`.
    pub reasons: BTreeMap<String, u64>,
}

impl ClusterQueue {
    pub(super) fn of(note: Waiting) -> Self {
        Self { seen_at: timestamp(note.seen_ms), reasons: note.reasons }
    }

    pub(super) fn write(&self, screen: Screen, out: &mut dyn Write) -> Result<(), ViewError> {
        let reasons = self.reasons.iter().map(|(reason, count)| format!("{count} {}", clean(reason)));
        let mut pieces: Vec<String> = reasons.collect();
        if let Some(first) = pieces.first_mut() {
            first.insert_str(0, "in the queue: ");
        }
        for line in wrapped(&pieces, ", ", screen.columns().saturating_sub(2)) {
            writeln!(out, "{}", screen.line(&format!("  {line}")))?;
        }
        Ok(())
    }
}

/// Why jobs wait, as the running engine last heard from the cluster.
pub(super) fn waiting(view: &StudyView, rows: &[RunningRow], now_ms: UnixMs) -> Option<Waiting> {
    let remote = view.liveness.alive && rows.iter().any(|row| row.executor.is_remote());
    remote.then(|| Waiting::read(&view.study_artifacts_dir(), view.study.study_id, now_ms))?
}

/// How long it has run and waited, and where it is: `  for 2.0 s on n1, slurm 12, after 400 ms in the queue`.
pub(super) fn remote_words(remote: &RemoteOut, elapsed_s: f64, reason: Option<&str>) -> String {
    let id = if remote.id.is_empty() { String::new() } else { format!(" {}", clean(&remote.id)) };
    let job = format!("{}{id}", remote.executor);
    let Some(queued_s) = remote.queued_s else {
        let why = reason.map_or_else(String::new, |reason| format!(": {}", clean(reason)));
        return format!("  queued for {}, {job}{why}", duration(micros(elapsed_s)));
    };
    let node = remote.node.as_ref().map_or_else(String::new, |node| format!(" on {}", clean(node)));
    let ran = duration(micros((elapsed_s - queued_s).max(0.0)));
    format!("  for {ran}{node}, {job}, {}", remote.queued_words().unwrap_or_default())
}
