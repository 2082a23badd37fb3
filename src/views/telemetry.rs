//! `telemetry.jsonl` in a study's own directory: every event as a line, appended to as the study goes on.
//!
//! Writing all of it anew after each stage would take time in proportion to all events so far. So a small file beside it
//! says how far it is complete: bytes, last event, and what names need to be known to go on. It is replaced (atomically)
//! only when the lines it speaks of are on disk; what a crash left beyond is cut off, and whatever does not fit together
//! is written anew. A view like the others: never read back for anything but this.

use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::dump::{EventNames, events_jsonl};
use super::export::{EVENTS, replace, written};
use super::{StudyView, ViewError};
use crate::journal::Snapshot;
use crate::model::Seq;
use crate::sys::disk;

/// Says how far the events are written.
const PROGRESS: &str = ".telemetry.jsonl.progress";

/// How far back the last line is looked at.
const LAST_LINE_BYTES: u64 = 256 << 10;

#[derive(Serialize, Deserialize)]
struct Progress {
    /// Whose events, hex.
    study_id: String,
    /// The last one that is written.
    seq: Seq,
    /// How long the file is with it.
    bytes: u64,
    /// blake3 of its last line, hex: the file is the one that is meant.
    last_line: String,
    names: EventNames,
}

/// Brings the file up to date.
///
/// # Errors
/// [`ViewError::File`], [`ViewError::Journal`].
pub(super) fn append(view: &StudyView, snapshot: &Snapshot, dir: &Path) -> Result<(), ViewError> {
    let path = dir.join(EVENTS);
    let mut names = EventNames::default();
    match resumable(view, dir, &path) {
        Some(progress) if progress.seq == view.progress.last_seq => return Ok(()),
        Some(progress) => {
            let extend = |write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>| {
                disk::extend(&path, progress.bytes, |out| write(out))
            };
            written(&path, extend, |out| {
                names = events_jsonl(view, snapshot, progress.seq + 1, progress.names.clone(), out)?;
                Ok(())
            })?;
        }
        None => replace(&path, |out| {
            names = events_jsonl(view, snapshot, 1, EventNames::default(), out)?;
            Ok(())
        })?,
    }
    let progress =
        told(view, &path, names).map_err(|cause| ViewError::File { what: "write", path: path.clone(), cause })?;
    replace(&dir.join(PROGRESS), |out| Ok(serde_json::to_writer(out, &progress)?))
}

/// How far the file is, if it holds what the progress says, and nothing newer than the snapshot.
fn resumable(view: &StudyView, dir: &Path, path: &Path) -> Option<Progress> {
    let progress: Progress = serde_json::from_slice(&disk::read(&dir.join(PROGRESS)).ok()?).ok()?;
    if progress.study_id != view.study.study_id.to_string() || progress.seq > view.progress.last_seq {
        return None;
    }
    let fits = disk::bytes(path).ok()? >= progress.bytes;
    let same = fits && last_line(path, progress.bytes).ok()? == progress.last_line;
    same.then_some(progress)
}

/// What is written, once all of it is.
fn told(view: &StudyView, path: &Path, names: EventNames) -> io::Result<Progress> {
    let bytes = disk::bytes(path)?;
    let (study_id, seq) = (view.study.study_id.to_string(), view.progress.last_seq);
    Ok(Progress { study_id, seq, bytes, last_line: last_line(path, bytes)?, names })
}

/// The hash of the last line of so many bytes (or of its end, if it is very long).
fn last_line(path: &Path, bytes: u64) -> io::Result<String> {
    let looked_at = bytes.min(LAST_LINE_BYTES);
    let end = disk::read_at(path, bytes - looked_at, looked_at)?;
    let lines = end.strip_suffix(b"\n").unwrap_or(&end);
    let line = lines.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    // With its end, so that half of a line is none.
    let whole = end.get(lines.len() - line.len()..).unwrap_or_default();
    Ok(blake3::hash(whole).to_hex().to_string())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::views::dump::{self, Format};
    use crate::views::fixture::{self, DEAD, Story};

    /// What it must be: the events as `dump` writes them.
    fn wanted(story: &Story) -> String {
        let (view, snapshot) = story.view_here(DEAD);
        fixture::written(|out| dump::events(&view, &snapshot, Format::Jsonl, out))
    }

    fn brought_up_to_date(story: &Story, dir: &Path) -> String {
        let (view, snapshot) = story.view_here(DEAD);
        append(&view, &snapshot, dir).unwrap();
        fs::read_to_string(dir.join(EVENTS)).unwrap()
    }

    #[test]
    fn it_grows_at_its_end_and_is_always_what_a_dump_says() {
        let dir = tempfile::tempdir().unwrap();
        let mut story = Story::new();
        story.run().open_explore().start(0, 1);
        assert_eq!(brought_up_to_date(&story, dir.path()), wanted(&story));
        let inode = fs::metadata(dir.path().join(EVENTS)).unwrap().ino();
        let before = fs::read_to_string(dir.path().join(EVENTS)).unwrap();
        story.succeed(0, 1, 1.0).start(1, 1);
        let after = brought_up_to_date(&story, dir.path());
        assert_eq!(after, wanted(&story));
        assert!(after.starts_with(&before) && after.len() > before.len());
        assert_eq!(brought_up_to_date(&story, dir.path()), after);
        assert_eq!(fs::metadata(dir.path().join(EVENTS)).unwrap().ino(), inode, "never replaced");
    }

    #[test]
    fn what_a_crash_left_is_mended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(EVENTS);
        let mut story = Story::new();
        story.run().open_explore().start(0, 1);
        let older = brought_up_to_date(&story, dir.path());
        let progress = fs::read(dir.path().join(PROGRESS)).unwrap();
        story.succeed(0, 1, 1.0);
        let wanted = wanted(&story);
        // Cut at every byte of what was being appended, before the progress was written.
        for cut in older.len()..=wanted.len() {
            fs::write(&path, &wanted[..cut]).unwrap();
            fs::write(dir.path().join(PROGRESS), &progress).unwrap();
            assert_eq!(brought_up_to_date(&story, dir.path()), wanted, "cut at {cut}");
        }
        // Anything else that does not fit: shorter, other lines, another study's, no progress at all, one from the future.
        let broken: [&dyn Fn(); 6] = [
            &|| fs::write(&path, &wanted[..older.len() - 1]).unwrap(),
            &|| fs::write(&path, "x".repeat(wanted.len())).unwrap(),
            &|| fs::write(&path, format!("{}{{\"seq\":3}}\n", &wanted[..wanted.len() - 10])).unwrap(),
            &|| fs::remove_file(&path).unwrap(),
            &|| fs::write(dir.path().join(PROGRESS), "{").unwrap(),
            &|| {
                let progress = fs::read_to_string(dir.path().join(PROGRESS)).unwrap();
                fs::write(dir.path().join(PROGRESS), progress.replace("\"seq\":", "\"seq\":9")).unwrap();
            },
        ];
        for (number, damage) in broken.iter().enumerate() {
            damage();
            assert_eq!(brought_up_to_date(&story, dir.path()), wanted, "damage {number}");
        }
    }
}
