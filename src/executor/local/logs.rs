//! A trial's logs, read for the reason of its failure.
//!
//! Logs are the trial's: of any size, in any bytes, even no files at all. Only the end of each is ever read, in the
//! directory that is held, never through a link; and nothing of them that could control a terminal gets through.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use regex::bytes::Regex;
use rustix::fs::FileType;

use super::blame::{is_of_trial, printable, shorten};
use super::ended_dir::EndedAttemptDir;
use crate::model::artifacts::{STDERR_LOG, STDOUT_LOG};
use crate::model::plain::{Plain, plain};
use crate::sys::words::io_words;

/// Of the end of a log, so much is looked at for an excerpt.
const TAIL_BYTES: u64 = 16 * 1024;
/// Of the end of a log, so much is searched.
const SEARCHED_BYTES: u64 = 4 << 20;
const MAX_EXCERPT_LINES: usize = 10;
const MAX_EXCERPT_BYTES: usize = 2 * 1024;
/// Lines shown before, and after, the one that matches.
const LINES_AROUND: usize = 3;
/// At most so much is shown of the matching line before the match.
const MAX_BYTES_BEFORE: usize = 512;

/// Standard error first: what it says counts more.
const NAMES: [&str; 2] = [STDERR_LOG, STDOUT_LOG];

/// The ends of both logs.
pub(super) struct Logs([Log; 2]);

struct Log {
    name: &'static str,
    /// Whether the log begins where `text` does.
    whole: bool,
    /// If the log is longer, with the byte before the part that counts, so that `^` knows what it follows.
    text: Plain<'static>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) line: String,
    /// The line with a few around it, and which log they are from.
    pub(super) excerpt: String,
}

impl Logs {
    /// Reads them. One that the trial removed, or put something else in the place of, is as good as empty.
    ///
    /// # Errors
    /// In words, if the machine cannot read one: what is not known is not taken for nothing.
    pub(super) fn read(left: &EndedAttemptDir) -> Result<Self, String> {
        Self::read_last(left, SEARCHED_BYTES)
    }

    /// Likewise, but only what a program says last.
    ///
    /// # Errors
    /// As for [`Logs::read`].
    pub(super) fn read_ends(left: &EndedAttemptDir) -> Result<Self, String> {
        Self::read_last(left, TAIL_BYTES)
    }

    fn read_last(left: &EndedAttemptDir, limit: u64) -> Result<Self, String> {
        let [first, second] = NAMES.map(|name| {
            let read = tail(left, name, limit + 1);
            read.map(|(bytes, whole)| Log { name, whole, text: searched(&bytes, whole) })
        });
        Ok(Self([first?, second?]))
    }

    /// The first match, in standard error if there is one.
    pub(super) fn find(&self, regex: &Regex) -> Option<Found> {
        self.0.iter().find_map(|log| {
            let found = regex.find_at(&log.text.bytes, usize::from(!log.whole))?;
            Some(log.found(found.start()))
        })
    }
}

impl Log {
    fn found(&self, at: usize) -> Found {
        let (all_before, after) = self.text.bytes.split_at_checked(at).unwrap_or((&self.text.bytes, &[]));
        let before = all_before.get(at.saturating_sub(MAX_BYTES_BEFORE)..).unwrap_or_default();
        let after = after.get(..after.len().min(MAX_EXCERPT_BYTES)).unwrap_or_default();
        let mut above: Vec<String> = lines(before);
        let mut below: Vec<String> = lines(after);
        // The matching line is the last one above and the first one below together.
        let mut line = above.pop().unwrap_or_default();
        line.push_str(&below.first().cloned().unwrap_or_default());
        let line = shorten(clean(&line), MAX_EXCERPT_BYTES / 2);
        below = below.split_off(below.len().min(1));
        let place = match self.whole {
            true => format!(", line {}", self.text.line_at(at)),
            false => String::new(),
        };
        let mut excerpt = format!("{}{place}:", self.name);
        let shown = |text: &String| Some(clean(text)).filter(|line| !line.is_empty());
        let above: Vec<String> = above.iter().rev().filter_map(shown).take(LINES_AROUND).collect();
        let below = below.iter().filter_map(shown).take(LINES_AROUND);
        for line in above.into_iter().rev().chain([line.clone()]).chain(below) {
            excerpt.push('\n');
            excerpt.push_str(&line);
        }
        Found { line, excerpt: shorten(excerpt, MAX_EXCERPT_BYTES) }
    }
}

/// What of a log's end is searched. The byte before it stays one byte.
fn searched(bytes: &[u8], whole: bool) -> Plain<'static> {
    let (before, counts) = bytes.split_at_checked(usize::from(!whole)).unwrap_or_default();
    let before = before.iter().map(|byte| if *byte == b'\n' { b'\n' } else { b'.' });
    plain(counts).behind(before.collect())
}

fn lines(bytes: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(bytes).split('\n').map(str::to_owned).collect()
}

fn clean(line: &str) -> String {
    // A character that the cut went through.
    printable(line.trim_matches('\u{fffd}'))
}

/// The last lines of the attempt's standard error, or of its output if it wrote no error.
///
/// # Errors
/// As for [`Logs::read`].
pub(super) fn last_lines(left: &EndedAttemptDir) -> Result<String, String> {
    for name in NAMES {
        let (bytes, _) = tail(left, name, TAIL_BYTES)?;
        let excerpt = excerpt_of(&bytes);
        if !excerpt.is_empty() {
            return Ok(excerpt);
        }
    }
    Ok(String::new())
}

/// The last `limit` bytes of a log, and whether that is all of it; nothing of what the trial made unreadable.
fn tail(left: &EndedAttemptDir, name: &str, limit: u64) -> Result<(Vec<u8>, bool), String> {
    match read_tail(left, name, limit) {
        Err(error) if is_of_trial(&error) => Ok((Vec::new(), true)),
        read => read.map_err(|error| format!("cannot read `{name}` of an attempt: {}", io_words(&error))),
    }
}

fn read_tail(left: &EndedAttemptDir, name: &str, limit: u64) -> io::Result<(Vec<u8>, bool)> {
    let opened = left.open_real(Path::new(name))?;
    if opened.kind()? != FileType::RegularFile {
        return Ok((Vec::new(), true));
    }
    let mut file = opened.contents()?;
    let length = file.seek(SeekFrom::End(0))?;
    let start = length.saturating_sub(limit);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok((bytes, start == 0))
}

/// The last lines of a text, as far as they are worth keeping.
pub(in crate::executor) fn excerpt_of(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<String> = text
        .lines()
        .map(printable)
        .filter(|line| !line.is_empty())
        .map(|line| shorten(line, MAX_EXCERPT_BYTES))
        .collect();
    let mut kept: Vec<&str> = Vec::new();
    let mut room = MAX_EXCERPT_BYTES;
    for line in lines.iter().rev().take(MAX_EXCERPT_LINES) {
        let Some(left) = room.checked_sub(line.len() + usize::from(!kept.is_empty())) else { break };
        room = left;
        kept.push(line);
    }
    kept.reverse();
    kept.join("\n")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn excerpts_show_the_last_lines_and_control_nothing() {
        let log = b"one\n\x1b[31mred\x1b[0m \x07bell\n10%\r50%\r100%\n\x1b]0;title\x07after\n\xff\xfe\ta\n\n";
        assert_eq!(excerpt_of(log), "one\nred bell\n100%\nafter\n\u{fffd}\u{fffd}\ta");
        let many: String = (0..100).map(|n| format!("line {n}\r\n")).collect();
        assert_eq!(excerpt_of(many.as_bytes()).lines().count(), 10);
        assert!(excerpt_of(many.as_bytes()).ends_with("line 98\nline 99"));
        assert_eq!(excerpt_of(&vec![b'x'; 10_000]).len(), MAX_EXCERPT_BYTES);
        assert!(excerpt_of("ä\n".repeat(9_000).as_bytes()).starts_with('ä'));
    }

    #[test]
    fn only_the_tail_of_a_log_is_read_and_output_stands_in_for_error() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(last_lines(&EndedAttemptDir::in_dir(dir.path())).unwrap(), "");
        fs::write(dir.path().join("stdout.log"), "from stdout\n").unwrap();
        fs::write(dir.path().join("stderr.log"), "\n").unwrap();
        assert_eq!(last_lines(&EndedAttemptDir::in_dir(dir.path())).unwrap(), "from stdout");
        // Sparse: 1 TiB that cannot be read whole.
        let log = fs::File::create(dir.path().join("stderr.log")).unwrap();
        log.set_len(1 << 40).unwrap();
        assert_eq!(last_lines(&EndedAttemptDir::in_dir(dir.path())).unwrap(), "from stdout");
        fs::remove_file(dir.path().join("stderr.log")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("stderr.log")).unwrap();
        assert_eq!(last_lines(&EndedAttemptDir::in_dir(dir.path())).unwrap(), "from stdout");
    }

    fn find(stderr: &[u8], stdout: &[u8], regex: &str) -> Option<Found> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("stderr.log"), stderr).unwrap();
        fs::write(dir.path().join("stdout.log"), stdout).unwrap();
        let regex = regex::bytes::RegexBuilder::new(regex).multi_line(true).build().unwrap();
        Logs::read(&EndedAttemptDir::in_dir(dir.path())).unwrap().find(&regex)
    }

    fn excerpt(stderr: &[u8], stdout: &[u8], regex: &str) -> String {
        find(stderr, stdout, regex).unwrap().excerpt
    }

    #[test]
    fn the_excerpt_is_the_match_with_three_lines_around_it_and_names_the_log() {
        let log = b"1\n2\n3\n\n4\nsome Error: here\n6\n7\n8\n9\n";
        assert_eq!(excerpt(log, b"Error", "Error: "), "stderr.log, line 6:\n2\n3\n4\nsome Error: here\n6\n7\n8");
        assert_eq!(excerpt(b"fine\n", b"Error: a\r\nb", "Error"), "stdout.log, line 1:\nError: a\nb");
        assert_eq!(find(b"a", b"b", "c"), None);
        assert_eq!(find(b"Error x", b"", "x$").unwrap().line, "Error x");
        // The first of several: the others mostly follow from it.
        assert_eq!(find(b"Error 1\nError 2\n", b"", "^Error").unwrap().line, "Error 1");
    }

    #[test]
    fn what_a_terminal_would_obey_or_hide_is_shown_as_text() {
        let log = b"10%\r\x1b[31mError: \xff\x1b[0m\x07 bad\r100%\ndone\n";
        assert_eq!(excerpt(log, b"", "Error"), "stderr.log, line 1:\n10%\nError: \u{fffd} bad\n100%\ndone");
    }

    #[test]
    fn a_rule_sees_what_is_shown() {
        let log = b"x\r\n\x1b[1;31mERR: boom\x1b[0m\r\nrest\r\n";
        assert_eq!(excerpt(log, b"", "^ERR: boom$"), "stderr.log, line 2:\nx\nERR: boom\nrest");
        assert_eq!(excerpt(b"", b"7%\r\x1b[KFATAL\tx\r", "^FATAL\tx$"), "stdout.log, line 1:\n7%\nFATAL\tx");
        // Also at the beginning of the part that is searched.
        let mut log = b".\n\x1b[31mERR\r\n".to_vec();
        log.extend(vec![b'.'; SEARCHED_BYTES as usize - log.len() + 2]);
        assert!(find(&log, b"", "^ERR$").is_some());
    }

    #[test]
    fn a_match_in_a_line_of_megabytes_is_shown_in_its_middle() {
        let mut log = vec![b'.'; 3 << 20];
        log.extend(b"Error: deep inside");
        log.extend(vec![b'.'; 1 << 20]);
        let excerpt = excerpt(&log, b"", "Error: deep inside");
        assert!(excerpt.contains("..Error: deep inside.."), "{excerpt}");
        assert!(excerpt.len() <= MAX_EXCERPT_BYTES);
        let wide = "ä".repeat(1 << 20);
        let found = find(format!("{wide}Error{wide}").as_bytes(), b"", "Error").unwrap();
        assert!(found.line.contains("äErrorä") && !found.line.contains('\u{fffd}'));
    }

    #[test]
    fn only_the_last_part_is_searched_and_lines_begin_where_they_begin() {
        let mut log = b"Error: too early\n".to_vec();
        log.resize(SEARCHED_BYTES as usize + 100, b'.');
        assert_eq!(find(&log, b"", "Error"), None);
        // The part that is searched begins in the middle of a line.
        assert_eq!(find(&log, b"", r"^\."), None);
        log.extend(b"\nError: late\n");
        assert_eq!(excerpt(&log, b"", "^Error: late$").lines().next(), Some("stderr.log:"));
    }

    #[test]
    fn logs_that_are_no_files_are_empty() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stderr.log");
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            dir.path().join("stdout.log"),
            FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        assert_eq!(
            Logs::read(&EndedAttemptDir::in_dir(dir.path())).unwrap().find(&Regex::new("root|.").unwrap()),
            None
        );
        assert_eq!(
            Logs::read(&EndedAttemptDir::in_dir(&dir.path().join("gone")))
                .unwrap()
                .find(&Regex::new(".").unwrap()),
            None
        );
    }
}
