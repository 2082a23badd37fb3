//! `[stage.progress]`: reports that are read from what a program prints, and all reports of a trial.
//!
//! The reports of a trial are the lines of its `progress.jsonl`, and after them what its attempts printed, in their order.
//! All of it was written by the trial: links that lead out of the case's directory, FIFOs and devices are no reports.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use regex::bytes::Regex;
use rustix::fs::FileType;
use serde::{Deserialize, Serialize};

use crate::model::artifacts::{PROGRESS_FILE, attempt_name};
use crate::model::plain::plain;
use crate::model::reports::{
    Acceptance, Extent, LineEnds, Lines, MAX_BYTES, Report, each_line, read_on, read_reports, whole,
};
use crate::model::{AttemptNo, read_measured};
use crate::sys::opened::Opened;

/// The group of an expression that is the step.
pub(super) const STEP_GROUP: &str = "step";

/// `[stage.progress]`, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressSpec {
    /// What the program prints into, relative to the attempt's directory; `None`: only `$PITON_PROGRESS_FILE` has reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Matches a report: the group `step`, and one named as each metric.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
    /// Instead: an expression for each metric, whose first group is its value. Steps are counted from 1.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, String>,
    /// Whether the last report of a metric is no value of the trial's: `final = false`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub only_watched: bool,
}

impl ProgressSpec {
    /// Whether nothing is said.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// The metrics that are read from what is printed.
    pub(crate) fn printed_metrics(&self) -> Vec<String> {
        let regex = self.regex.as_ref().and_then(|regex| Regex::new(regex).ok());
        let groups = regex.iter().flat_map(|regex| regex.capture_names().flatten());
        let named = groups.filter(|name| *name != STEP_GROUP).map(str::to_owned);
        named.chain(self.metrics.keys().cloned()).collect()
    }
}

/// How reports are read from what a program prints, compiled.
#[derive(Clone, Debug)]
pub(crate) struct Printed {
    file: String,
    how: How,
}

#[derive(Clone, Debug)]
enum How {
    /// One expression has it all.
    Lines(Regex),
    /// One a metric; steps are counted.
    Counted(Vec<(String, Regex)>),
}

impl Printed {
    /// Compiles it; `None`: nothing is read from what is printed.
    ///
    /// # Errors
    /// If an expression is not valid; the check refuses those.
    pub(crate) fn new(spec: &ProgressSpec) -> Result<Option<Self>, regex::Error> {
        let Some(file) = spec.file.clone() else { return Ok(None) };
        let how = match &spec.regex {
            Some(regex) => How::Lines(Regex::new(regex)?),
            None => {
                let metrics = spec.metrics.iter().map(|(name, regex)| Ok((name.clone(), Regex::new(regex)?)));
                How::Counted(metrics.collect::<Result<_, regex::Error>>()?)
            }
        };
        Ok(Some(Self { file, how }))
    }

    /// Where it is printed, below the attempt's directory.
    pub(crate) fn file(&self) -> &str {
        &self.file
    }

    /// Whether it can be read from the middle of a file on.
    fn says_its_step(&self) -> bool {
        matches!(self.how, How::Lines(_))
    }

    /// Reads what one attempt printed. The last line counts without an end only if nothing can follow.
    pub(crate) fn read(
        &self,
        from: impl io::Read,
        limit: u64,
        ended: bool,
        mut each: impl FnMut(Report),
    ) -> io::Result<Extent> {
        let mut counted = FIRST;
        let extent = each_line(from, limit, LineEnds::LfOrCr, |line, line_ended| {
            if line_ended || ended {
                self.line(line, &mut counted, &mut each);
            }
        })?;
        if ended && let Some(report) = counted.checked() {
            each(report);
        }
        Ok(extent)
    }

    /// Reads a line, or the part of one that a carriage return ends; `counted`: what the lines before it have of the next report.
    fn line(&self, line: &[u8], counted: &mut Report, each: &mut impl FnMut(Report)) {
        let line = plain(line);
        match &self.how {
            How::Lines(regex) => of_groups(regex, &line.bytes, each),
            How::Counted(metrics) => count(metrics, &line.bytes, counted, each),
        }
    }
}

/// Where steps are counted, they begin at 1.
const FIRST: Report = Report { step: 1, metrics: BTreeMap::new() };

/// The reports in a line, by named groups.
fn of_groups(regex: &Regex, line: &[u8], each: &mut impl FnMut(Report)) {
    for found in regex.captures_iter(line) {
        let text = |name| found.name(name).map(|group| String::from_utf8_lossy(group.as_bytes()));
        let Some(step) = text(STEP_GROUP).and_then(|text| whole(read_measured(text.trim()).ok()?)) else {
            continue;
        };
        let names = regex.capture_names().flatten().filter(|name| *name != STEP_GROUP);
        let values = names.filter_map(|name| Some((name.to_owned(), value(&text(name)?)?)));
        if let Some(report) = (Report { step, metrics: values.collect() }).checked() {
            each(report);
        }
    }
}

/// Takes up the values of a line. A report is whole once it has every metric, or once one comes again.
fn count(metrics: &[(String, Regex)], line: &[u8], counted: &mut Report, each: &mut impl FnMut(Report)) {
    let mut tell = |counted: &mut Report| {
        let next = counted.step.saturating_add(1);
        let whole = std::mem::replace(counted, Report { step: next, ..Report::default() });
        each(whole);
    };
    for (name, regex) in metrics {
        let found = regex.captures(line).and_then(|found| found.get(1));
        let Some(value) = found.and_then(|group| value(&String::from_utf8_lossy(group.as_bytes()))) else {
            continue;
        };
        if counted.metrics.contains_key(name) {
            tell(counted);
        }
        counted.metrics.insert(name.clone(), value);
        if counted.metrics.len() == metrics.len() {
            tell(counted);
        }
    }
}

/// What a program prints for a number. `None`: it is none; `Some(None)`: it is not finite.
pub(crate) fn value(text: &str) -> Option<Option<f64>> {
    let text = text.trim();
    let sign_off = text.strip_prefix(['-', '+']).unwrap_or(text);
    if ["nan", "inf", "infinity"].iter().any(|word| sign_off.eq_ignore_ascii_case(word)) {
        return Some(None);
    }
    read_measured(text).ok().map(Some)
}

/// Which reports of a trial are read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Which<'a> {
    /// What is read from its output.
    pub printed: Option<&'a Printed>,
    /// Its last attempt so far.
    pub attempt: AttemptNo,
    pub ended: bool,
}

/// More attempts than these are not asked for what they printed.
const MAX_ATTEMPTS: AttemptNo = 1_000;

/// Reads the accepted reports of a trial, in their order, from its case's directory. What an attempt printed last without ending the
/// line is a report of a trial's last attempt alone: another one may have been cut off inside a number.
///
/// # Errors
/// What reading fails with. That something is missing, or is no file, is no error.
pub(crate) fn each_report(case: &Opened, which: Which<'_>, mut each: impl FnMut(Report)) -> io::Result<Extent> {
    let mut acceptance = Acceptance::default();
    let mut take = |report: Report| {
        if acceptance.accepts(&report) {
            each(report);
        }
    };
    let extent = each_written(case, Part::All, &mut take)?;
    let printed = each_printed(case, which, Part::All, &mut take)?;
    Ok(if printed == Extent::Cut { printed } else { extent })
}

/// Likewise, but of a long file only parts, evenly spread from its beginning to its end: about so many bytes of a trial, however much
/// it says. Where steps are counted, only what stands first is read: [`Extent::Cut`] if that is not all.
///
/// # Errors
/// As for [`each_report`].
pub(crate) fn each_report_of_parts(
    case: &Opened,
    which: Which<'_>,
    most: u64,
    mut each: impl FnMut(Report),
) -> io::Result<Extent> {
    let mut acceptance = Acceptance::default();
    let mut take = |report: Report| {
        if acceptance.accepts(&report) {
            each(report);
        }
    };
    each_written(case, Part::Spread(most), &mut take)?;
    let attempts = u64::from(which.attempt.clamp(1, MAX_ATTEMPTS));
    each_printed(case, which, Part::Spread((most / attempts).max(PARTS_OF)), &mut take)
}

/// Of these reports those that decide whether a trial ends early: what is printed, where `[stage.progress]` names a file, else what is
/// written to its file of reports. Of both at once the order would depend on when they are read.
///
/// # Errors
/// As for [`each_report`].
pub(crate) fn each_watched(case: &Opened, which: Which<'_>, mut each: impl FnMut(&Report)) -> io::Result<Extent> {
    let mut acceptance = Acceptance::default();
    let mut take = |report: Report| {
        if acceptance.accepts(&report) {
            each(&report);
        }
    };
    match which.printed {
        Some(_) => each_printed(case, which, Part::All, &mut take),
        None => each_written(case, Part::All, &mut take),
    }
}

/// How much of a file is read.
#[derive(Clone, Copy, Debug)]
enum Part {
    All,
    /// So many bytes, evenly spread over it.
    Spread(u64),
}

/// How many parts of a long file are read,
const PARTS: u64 = 64;
/// and that many bytes at least for all of them.
const PARTS_OF: u64 = 64 << 10;

impl Part {
    /// What is read of a file, and how many bytes at most. Only what can be read from the middle of a file on has parts.
    fn of(self, file: &Opened, has_parts: bool) -> io::Result<(Box<dyn io::Read + '_>, u64)> {
        let Self::Spread(most) = self else { return Ok((Box::new(file.contents()?), MAX_BYTES)) };
        let length = file.bytes()?.min(MAX_BYTES);
        if length <= most || !has_parts {
            return Ok((Box::new(file.contents()?), most));
        }
        Ok((Box::new(io::Cursor::new(spread(file, length, most)?)), MAX_BYTES))
    }
}

/// The whole lines in parts of a file.
fn spread(file: &Opened, length: u64, most: u64) -> io::Result<Vec<u8>> {
    let size = most / PARTS;
    let mut from = file.contents()?;
    let (mut lines, mut part) = (Vec::new(), Vec::new());
    for number in 0..PARTS {
        let at = length.saturating_sub(size) * number / (PARTS - 1);
        from.seek(SeekFrom::Start(at))?;
        part.clear();
        from.by_ref().take(size).read_to_end(&mut part)?;
        let is_end = |byte: &u8| matches!(byte, b'\n' | b'\r');
        // The part of a line that another one begins in is passed over.
        let first = if at == 0 { Some(0) } else { part.iter().position(is_end) };
        let Some((first, last)) = first.zip(part.iter().rposition(is_end)) else { continue };
        lines.extend_from_slice(part.get(first..=last).unwrap_or_default());
    }
    Ok(lines)
}

fn each_written(case: &Opened, part: Part, take: &mut impl FnMut(Report)) -> io::Result<Extent> {
    let Some(file) = open(|| case.open(Path::new(PROGRESS_FILE)))? else { return Ok(Extent::Whole) };
    let (from, most) = part.of(&file, true)?;
    read_reports(from, most, take)
}

fn each_printed(case: &Opened, which: Which<'_>, part: Part, take: &mut impl FnMut(Report)) -> io::Result<Extent> {
    let mut extent = Extent::Whole;
    let Some(printed) = which.printed else { return Ok(extent) };
    for attempt in 1..=which.attempt.min(MAX_ATTEMPTS) {
        let path = Path::new(&attempt_name(attempt)).join(&printed.file);
        let Some(file) = open(|| case.open(&case.resolve(&path)?.0))? else { continue };
        let ended = attempt == which.attempt && which.ended;
        let (from, most) = part.of(&file, printed.says_its_step())?;
        if printed.read(from, most, ended, &mut *take)? == Extent::Cut {
            extent = Extent::Cut;
        }
    }
    Ok(extent)
}

/// The file that [`each_watched`] reads last, followed while it grows.
#[derive(Debug)]
pub(crate) struct Tail {
    path: PathBuf,
    printed: Option<Printed>,
    lines: Lines,
    counted: Report,
    acceptance: Acceptance,
    read: u64,
    over: bool,
}

impl Tail {
    /// Before the first byte of what this attempt writes. `each` gets what earlier ones printed.
    ///
    /// # Errors
    /// As for [`each_report`].
    pub(crate) fn new(
        case: &Opened,
        printed: Option<&Printed>,
        attempt: AttemptNo,
        mut each: impl FnMut(&Report),
    ) -> io::Result<Self> {
        let mut acceptance = Acceptance::default();
        let before = Which { printed, attempt: attempt.saturating_sub(1), ended: false };
        each_printed(case, before, Part::All, &mut |report: Report| {
            if acceptance.accepts(&report) {
                each(&report);
            }
        })?;
        let path = match printed {
            Some(printed) => Path::new(&attempt_name(attempt)).join(&printed.file),
            None => PathBuf::from(PROGRESS_FILE),
        };
        let ends = if printed.is_some() { LineEnds::LfOrCr } else { LineEnds::Lf };
        let (lines, printed) = (Lines::new(ends), printed.cloned());
        Ok(Self { path, printed, lines, counted: FIRST, acceptance, read: 0, over: attempt > MAX_ATTEMPTS })
    }

    /// Where it is, below the case's directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads what has been written since, at most so many bytes; whether there is more.
    ///
    /// # Errors
    /// As for [`each_report`].
    pub(crate) fn read_on(&mut self, case: &Opened, most: u64, mut each: impl FnMut(&Report)) -> io::Result<bool> {
        let most = most.min(MAX_BYTES - self.read);
        if self.over || most == 0 {
            return Ok(false);
        }
        let Some(file) = open(|| case.open(&case.resolve(&self.path)?.0))? else { return Ok(false) };
        let length = file.bytes()?;
        if length < self.read {
            // Nothing that was said is taken back, and what takes its place was not said behind it.
            self.over = true;
            return Ok(false);
        }
        let mut from = file.contents()?;
        from.seek(SeekFrom::Start(self.read))?;
        let Self { printed, lines, counted, acceptance, .. } = self;
        let mut take = |report: Report| {
            if acceptance.accepts(&report) {
                each(&report);
            }
        };
        let (read, more) = read_on(from, most, lines, |line| match printed {
            Some(printed) => printed.line(line, counted, &mut take),
            None => Report::of_line(line).into_iter().for_each(&mut take),
        })?;
        self.read += read;
        Ok(more)
    }
}

/// Of a file that is longer, this much of its end tells what its trial said last.
const LOOK_BYTES: u64 = 1 << 20;

/// What a running trial said last: of long files as far as their ends tell. It costs the same however much there is.
///
/// # Errors
/// As for [`each_report`].
pub(crate) fn last_report(case: &Opened, which: Which<'_>) -> io::Result<Option<Report>> {
    let mut last: Option<Report> = None;
    let mut take = |report: Report| {
        if last.as_ref().is_none_or(|last| report.step > last.step) {
            last = Some(report);
        }
    };
    if let Some(file) = open(|| case.open(Path::new(PROGRESS_FILE)))? {
        read_reports(end_of(&file)?, LOOK_BYTES, &mut take)?;
    }
    if let Some(printed) = which.printed {
        let path = Path::new(&attempt_name(which.attempt)).join(&printed.file);
        if let Some(file) = open(|| case.open(&case.resolve(&path)?.0))?
            && (printed.says_its_step() || file.bytes()? <= LOOK_BYTES)
        {
            printed.read(end_of(&file)?, LOOK_BYTES, which.ended, &mut take)?;
        }
    }
    Ok(last)
}

/// The file from where its last [`LOOK_BYTES`] begin, and the line there is cut.
fn end_of(file: &Opened) -> io::Result<impl io::Read> {
    let mut file = file.contents()?;
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(length.saturating_sub(LOOK_BYTES)))?;
    Ok(file)
}

/// A regular file; `None` for anything else, whoever put it there.
fn open(open: impl Fn() -> io::Result<Opened>) -> io::Result<Option<Opened>> {
    match open() {
        Ok(file) if file.kind()? == FileType::RegularFile => Ok(Some(file)),
        Ok(_) => Ok(None),
        Err(error) => match error.raw_os_error() {
            // The machine's fault, and not the trial's.
            Some(libc::EIO | libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ESTALE) => Err(error),
            _ => Ok(None),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn spec(regex: Option<&str>, metrics: &[(&str, &str)]) -> ProgressSpec {
        let metrics = metrics.iter().map(|(name, regex)| ((*name).to_owned(), (*regex).to_owned())).collect();
        ProgressSpec {
            file: Some("stdout.log".into()),
            regex: regex.map(str::to_owned),
            metrics,
            only_watched: false,
        }
    }

    fn read(spec: &ProgressSpec, text: &str, ended: bool) -> Vec<(u64, String)> {
        let mut reports = Vec::new();
        let printed = Printed::new(spec).unwrap().unwrap();
        let extent = printed.read(text.as_bytes(), MAX_BYTES, ended, |report| {
            let shown = report.metrics.iter().map(|(name, value)| format!("{name}={value:?}")).collect::<Vec<_>>();
            reports.push((report.step, shown.join(" ")));
        });
        assert_eq!(extent.unwrap(), Extent::Whole);
        reports
    }

    #[test]
    fn groups_are_read_by_name_as_a_person_sees_the_line() {
        let spec = spec(Some(r"step (?P<step>\S+) loss (?P<loss>\S+)(?: acc (?P<acc>\S+))?"), &[]);
        let text = "step 1 loss \x1b[31m0.5\x1b[0m\rstep 2 loss nan acc 0.1\nstep x loss 1\nstep 2.5 loss 1\n\
            step 3 loss none\nstep 3 loss 1 step 4 loss 2\nstep 5 loss 0.1";
        let seen =
            [(1, "loss=Some(0.5)"), (2, "acc=Some(0.1) loss=None"), (3, "loss=Some(1.0)"), (4, "loss=Some(2.0)")];
        let mut expected: Vec<(u64, String)> = seen.map(|(step, shown)| (step, shown.to_owned())).into();
        assert_eq!(read(&spec, text, false), expected, "what follows may change the last number");
        expected.push((5, "loss=Some(0.1)".to_owned()));
        assert_eq!(read(&spec, text, true), expected);
    }

    #[test]
    fn steps_are_counted_where_none_is_printed() {
        let one = spec(None, &[("loss", r"loss: (\S+)")]);
        let expected =
            [(1, "loss=Some(3.0)".to_owned()), (2, "loss=None".to_owned()), (3, "loss=Some(1.0)".to_owned())];
        assert_eq!(read(&one, "loss: 3\nloss: odd\nloss: -inf\nacc: 1\nloss: 1\n", false), expected);
        let two = spec(None, &[("acc", r"acc (\S+)"), ("loss", r"loss (\S+)")]);
        let text = "loss 3\nacc 1\nloss 2\nloss 1\nacc 2\nacc 3\n";
        let mut expected: Vec<(u64, String)> = vec![
            (1, "acc=Some(1.0) loss=Some(3.0)".into()),
            (2, "loss=Some(2.0)".into()),
            (3, "acc=Some(2.0) loss=Some(1.0)".into()),
        ];
        assert_eq!(read(&two, text, false), expected);
        expected.push((4, "acc=Some(3.0)".into()));
        assert_eq!(read(&two, text, true), expected);
    }

    #[test]
    fn a_trials_reports_are_its_files_and_then_what_its_attempts_printed() {
        let root = tempfile::tempdir().unwrap();
        let case = root.path();
        for (attempt, text) in [(1, "1 5\n2 4\n3 9"), (2, "2 7\n4 2\n5 1"), (3, "9 0\n")] {
            fs::create_dir(case.join(format!("attempt_{attempt}"))).unwrap();
            fs::write(case.join(format!("attempt_{attempt}/stdout.log")), text).unwrap();
        }
        fs::write(case.join(PROGRESS_FILE), "{\"step\":1,\"y\":7}\n").unwrap();
        let spec = ProgressSpec { regex: Some(r"(?P<step>\d+) (?P<y>\d+)".into()), ..spec(None, &[]) };
        let printed = Printed::new(&spec).unwrap();
        let case = Opened::dir(case).unwrap();
        let steps = |attempt, ended| {
            let mut steps = Vec::new();
            let which = Which { printed: printed.as_ref(), attempt, ended };
            each_report(&case, which, |report| steps.push((report.step, report.metrics["y"].unwrap()))).unwrap();
            let last = last_report(&case, which).unwrap().map(|report| report.step);
            (steps, last)
        };
        let first = vec![(1, 7.0), (2, 4.0)];
        assert_eq!(steps(1, false), (first.clone(), Some(2)));
        let both = [first, vec![(4, 2.0)]].concat();
        assert_eq!(
            steps(2, false),
            (both.clone(), Some(4)),
            "a first attempt may have been cut inside its last number"
        );
        assert_eq!(steps(2, true), ([both, vec![(5, 1.0)]].concat(), Some(5)));
    }

    /// However a file grows, and however it is read: what was followed is what is read in the end.
    #[test]
    fn a_file_that_grows_is_read_as_one_that_has_grown() {
        let text = "1 5\n2 4\r2 9\ngarbage\n3 7\n\n10 1\n4 0\n11 3";
        let lines =
            "{\"step\":1,\"y\":5}\n{\"step\":1,\"y\":6}\n{\"st\n{\"step\":4,\"y\":null}\n{\"step\":9,\"y\":1}";
        let spec = ProgressSpec { regex: Some(r"^(?P<step>\d+) (?P<y>\d+)".into()), ..spec(None, &[]) };
        for (printed, text) in [(Printed::new(&spec).unwrap(), text), (None, lines)] {
            for piece in [1, 2, 3, 7, 100] {
                let root = tempfile::tempdir().unwrap();
                fs::create_dir(root.path().join("attempt_1")).unwrap();
                let case = Opened::dir(root.path()).unwrap();
                let mut seen = Vec::new();
                let mut tail = Tail::new(&case, printed.as_ref(), 1, |_| panic!("there is nothing yet")).unwrap();
                assert!(!tail.read_on(&case, 1, |_| panic!("there is no file yet")).unwrap());
                for end in (piece..text.len() + piece).step_by(piece) {
                    fs::write(root.path().join(tail.path()), &text[..end.min(text.len())]).unwrap();
                    while tail.read_on(&case, 2, |report| seen.push(report.clone())).unwrap() {}
                }
                let mut whole = Vec::new();
                let which = Which { printed: printed.as_ref(), attempt: 1, ended: false };
                each_watched(&case, which, |report| whole.push(report.clone())).unwrap();
                assert_eq!(seen, whole);
                assert!(whole.len() >= 2, "{whole:?}");
                // Cut, it is followed no more.
                fs::write(root.path().join(tail.path()), "").unwrap();
                assert!(!tail.read_on(&case, 99, |_| panic!("nothing follows")).unwrap());
            }
        }
    }

    #[test]
    fn what_is_no_file_is_no_report() {
        let root = tempfile::tempdir().unwrap();
        let which = Which { printed: None, attempt: 1, ended: true };
        let file = root.path().join(PROGRESS_FILE);
        let look = || {
            let case = Opened::dir(root.path()).unwrap();
            let mut count = 0;
            let extent = each_report(&case, which, |_| count += 1).unwrap();
            (extent, count, last_report(&case, which).unwrap())
        };
        let nothing = (Extent::Whole, 0, None);
        assert_eq!(look(), nothing);
        rustix::fs::mkfifoat(rustix::fs::CWD, &file, rustix::fs::Mode::RUSR).unwrap();
        assert_eq!(look(), nothing);
        for target in ["/dev/zero", "/etc/passwd", "progress.jsonl"] {
            fs::remove_file(&file).unwrap();
            std::os::unix::fs::symlink(target, &file).unwrap();
            assert_eq!(look(), nothing, "{target}");
        }
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        assert_eq!(look(), nothing);
    }

    /// Of a million reports, the first ones, the last ones, and some from everywhere between; none of a line that was cut.
    #[test]
    fn of_a_long_file_parts_are_read() {
        let root = tempfile::tempdir().unwrap();
        let most = 256 << 10;
        let case = Opened::dir(root.path()).unwrap();
        let steps = |which| {
            let mut steps = Vec::new();
            each_report_of_parts(&case, which, most, |report| {
                assert_eq!(report.metrics.get("y"), Some(&Some(7.0 + report.step as f64)), "{report:?}");
                steps.push(report.step);
            })
            .unwrap();
            steps
        };
        let evenly = |steps: &[u64]| {
            assert_eq!((steps.first(), steps.last()), (Some(&1), Some(&299_999)));
            let widest = steps.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
            assert!(widest < 6_000 && steps.len() < 20_000, "{widest} {}", steps.len());
        };
        let lines = |line: fn(u64) -> String| (1..300_000).map(line).collect::<String>();
        fs::write(root.path().join(PROGRESS_FILE), lines(|n| format!("{{\"step\": {n}, \"y\": {}}}\n", 7 + n)))
            .unwrap();
        evenly(&steps(Which { printed: None, attempt: 1, ended: true }));

        fs::remove_file(root.path().join(PROGRESS_FILE)).unwrap();
        fs::create_dir(root.path().join("attempt_1")).unwrap();
        let log = root.path().join("attempt_1/stdout.log");
        fs::write(&log, lines(|n| format!("step {n} y {}\r", 7 + n))).unwrap();
        let printed = Printed::new(&spec(Some(r"step (?P<step>\d+) y (?P<y>\d+)"), &[])).unwrap();
        evenly(&steps(Which { printed: printed.as_ref(), attempt: 1, ended: true }));

        // Counted steps cannot be counted from the middle.
        fs::write(&log, lines(|n| format!("y {}\n", 7 + n))).unwrap();
        let counted = Printed::new(&spec(None, &[("y", r"y (\d+)")])).unwrap();
        let steps = steps(Which { printed: counted.as_ref(), attempt: 1, ended: true });
        assert!(steps.is_sorted() && (1_000..100_000).contains(steps.last().unwrap()), "{:?}", steps.last());
    }

    #[test]
    fn of_a_long_file_the_end_tells_what_was_said_last() {
        let root = tempfile::tempdir().unwrap();
        let lines: String = (0..100_000).map(|step| format!("{{\"step\": {step}, \"y\": 1}}\n")).collect();
        assert!(lines.len() as u64 > LOOK_BYTES);
        fs::write(root.path().join(PROGRESS_FILE), lines + "garbage").unwrap();
        let case = Opened::dir(root.path()).unwrap();
        let which = Which { printed: None, attempt: 1, ended: false };
        assert_eq!(last_report(&case, which).unwrap().unwrap().step, 99_999);
    }
}
