//! What `piton check` asks of a study's cluster: whether it would take the study's jobs, and, with `--probe`, what one finds there.

use std::path::PathBuf;

use piton::model::UnixMs;
use piton::program::engine::probe::{self, ProbeEvent, Probed};
use piton::program::paths::StudyPaths;
use piton::program::study_file::Spec;
use piton::program::sys::signals::SignalWatch;
use piton::views::{clean, duration};
use piton::{Error, Keeper};

use crate::cli::outcome::print_line;
use crate::cli::terminal::say;

/// Submits a probe and waits for it; `None` if it was taken back.
pub(super) fn run(spec: &Spec, paths: &StudyPaths, keeper: &Keeper) -> Result<Option<Probed>, Error> {
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("piton"));
    let (sender, signals) = crossbeam_channel::bounded(16);
    let watch = SignalWatch::start(sender, |signal| signal);
    let _watch = watch.map_err(|cause| Error::System { what: "watch signals", cause })?;
    say("a probe was submitted and waits for a node; Ctrl-C takes it back");
    let mut shown = None;
    let mut tell = |event| match event {
        ProbeEvent::Placed(job) => {
            let words = match &job.node {
                Some(node) => format!("job {} on `{}`", clean(&job.id), clean(node)),
                None => format!("job {}", clean(&job.id)),
            };
            if shown.as_ref() != Some(&words) {
                say(&words);
                shown = Some(words);
            }
        }
        ProbeEvent::Trouble(Some(why)) => say(&format!("the cluster does not answer: {}", clean(&why))),
        ProbeEvent::Trouble(None) => say("the cluster answers again"),
    };
    let setup = (program, keeper.client());
    Ok(probe::run(spec, paths, setup, &signals, &mut tell)?)
}

/// Longest that clocks may be apart without a word, milliseconds.
const CLOCK_OFF_MS: UnixMs = 2_000;

/// What it found, as lines beside the plan.
pub(super) fn print(probed: &Probed) -> Result<(), Error> {
    let job = probed.job.as_ref();
    let node = job.and_then(|job| job.node.as_deref()).unwrap_or("a node that did not say its name");
    let waited_us = u64::try_from(probed.waited_ms).unwrap_or(0).saturating_mul(1_000);
    let id = job.map(|job| job.id.as_str()).unwrap_or_default();
    print_line(&format!(
        "probe      job {} ran on `{}`, {} after it was submitted",
        clean(id),
        clean(node),
        duration(waited_us)
    ))?;
    for version in &probed.versions {
        print_line(&format!("           {}", clean(version)))?;
    }
    if probed.clock_off_ms.abs() > CLOCK_OFF_MS {
        let off_us = probed.clock_off_ms.unsigned_abs().saturating_mul(1_000);
        let which = if probed.clock_off_ms > 0 { "ahead of" } else { "behind" };
        print_line(&format!(
            "           its clock is at least {} {which} this one; nothing depends on it but times that are shown",
            duration(off_us)
        ))?;
    }
    for wanting in &probed.wanting {
        print_line(&format!("           wanting: {}", clean(wanting)))?;
    }
    if probed.wanting.is_empty() {
        print_line(
            "           trials can run there: the directories, the program, the inputs and the commands are there",
        )?;
    }
    Ok(())
}

/// The same as data.
pub(super) fn json(probed: &Probed) -> serde_json::Value {
    let job = probed.job.as_ref();
    serde_json::json!({
        "job": job.map(|job| &job.id), "node": job.and_then(|job| job.node.as_ref()), "waited_ms": probed.waited_ms,
        "clock_off_ms": probed.clock_off_ms, "wanting": probed.wanting, "versions": probed.versions,
    })
}
