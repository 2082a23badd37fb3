//! What a trial reports while it runs: steps with metrics, as lines of bytes.
//!
//! Which reports are accepted is a pure function of the bytes, and of more bytes behind them it takes nothing back: an
//! accepted report stays one however the file grows. Whatever the bytes are, reading them takes bounded memory. Nothing
//! here may depend on when a file is read, or on who reads it.

use std::collections::BTreeMap;
use std::io::{self, Read};

use super::reported::{NAN_OR_INFINITE, Reported, read_metrics};
use super::value::Metric;

/// Of a file, so many bytes are read; what comes behind them is no report.
pub(crate) const MAX_BYTES: u64 = 256 << 20;
/// A line that is longer is passed over.
pub(crate) const MAX_LINE_BYTES: usize = 16 << 10;
/// So many metrics are known of a trial's reports, the first ones.
const MAX_METRICS: usize = 128;
/// A metric of a longer name is none.
const MAX_NAME_BYTES: usize = 128;
/// All steps up to here are floats of their own.
const MAX_STEP: u64 = 1 << 53;

/// What a trial says of itself at a step. A number that is not finite is `None`: worse than any.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Report {
    /// Epochs, iterations, whatever the trial counts by.
    pub step: u64,
    /// What it measured.
    pub metrics: BTreeMap<String, Option<f64>>,
}

impl Report {
    /// Reads a line of JSON, `{"step": 3, "loss": 0.41}`. `None`: it is no report.
    pub(crate) fn of_line(line: &[u8]) -> Option<Self> {
        let reported = read_metrics(line).ok()?;
        let Some(Metric::Number(step)) = reported.metrics.get(STEP) else { return None };
        let step = whole(*step)?;
        let odd = reported.not_finite().map(|name| (name.to_owned(), None));
        let mut metrics: BTreeMap<String, Option<f64>> = odd.collect();
        for (name, metric) in reported.metrics {
            if let (Metric::Number(number), true) = (metric, name != STEP) {
                metrics.insert(name, Some(number));
            }
        }
        Self { step, metrics }.checked()
    }

    /// It, without metrics of names that are too long; `None` if it has none.
    pub(crate) fn checked(mut self) -> Option<Self> {
        self.metrics.retain(|name, _| (1..=MAX_NAME_BYTES).contains(&name.len()));
        (!self.metrics.is_empty()).then_some(self)
    }

    /// The line that [`Report::of_line`] reads, with its end.
    ///
    /// # Errors
    /// What no reader would accept, in words.
    pub(crate) fn line(&self) -> Result<Vec<u8>, String> {
        if self.step > MAX_STEP {
            return Err(format!("a step is at most {MAX_STEP}"));
        }
        if self.metrics.is_empty() {
            return Err("a report needs a metric".to_owned());
        }
        let mut object = serde_json::Map::new();
        object.insert(STEP.to_owned(), self.step.into());
        for (name, value) in &self.metrics {
            if name == STEP {
                return Err("`step` is the step, and no metric".to_owned());
            }
            if !(1..=MAX_NAME_BYTES).contains(&name.len()) {
                return Err(format!("the name of a metric has 1 to {MAX_NAME_BYTES} bytes"));
            }
            object.insert(name.clone(), (*value).into());
        }
        let mut line = serde_json::Value::Object(object).to_string().into_bytes();
        if line.len() > MAX_LINE_BYTES {
            return Err(format!("a report has at most {MAX_LINE_BYTES} bytes"));
        }
        line.push(b'\n');
        Ok(line)
    }
}

const STEP: &str = "step";

/// A step, if that is what a number is.
pub(crate) fn whole(number: f64) -> Option<u64> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the guard leaves whole numbers of 53 bits"
    )]
    let step = (number >= 0.0 && number.fract() == 0.0 && number <= 2f64.powi(53)).then_some(number as u64);
    step
}

/// Which reports count: those whose step is above that of every one before. So a trial that goes on from a checkpoint, or
/// begins anew, may say again what it said.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Acceptance {
    last: Option<u64>,
}

impl Acceptance {
    /// Whether the next report counts.
    pub(crate) fn accepts(&mut self, report: &Report) -> bool {
        let grows = self.last.is_none_or(|last| report.step > last);
        if grows {
            self.last = Some(report.step);
        }
        grows
    }
}

/// What the accepted reports of a trial come to.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Latest {
    pub count: u64,
    pub last: Option<Report>,
    /// The last value of each metric, the first [`MAX_METRICS`] of them.
    pub values: BTreeMap<String, Option<f64>>,
}

impl Latest {
    /// Takes up the next accepted report.
    pub(crate) fn take(&mut self, report: Report) {
        self.count += 1;
        for (name, value) in &report.metrics {
            if let Some(known) = self.values.get_mut(name) {
                *known = *value;
            } else if self.values.len() < MAX_METRICS {
                self.values.insert(name.clone(), *value);
            }
        }
        self.last = Some(report);
    }

    /// Gives the metrics that have no value yet their last one.
    pub(crate) fn complete(self, reported: &mut Reported) {
        for (name, value) in self.values {
            if reported.metrics.contains_key(&name) || reported.left_out.contains_key(&name) {
                continue;
            }
            match value {
                Some(number) => drop(reported.metrics.insert(name, Metric::Number(number))),
                None => drop(reported.left_out.insert(name, NAN_OR_INFINITE.to_owned())),
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LineEnds {
    Lf,
    /// Also with CR: a progress bar writes many lines over each other.
    LfOrCr,
}

/// How far the bytes were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// To their end.
    Whole,
    /// There are more of them than are read.
    Cut,
}

/// Reads lines, without their ends, from at most `limit` bytes. The last one may have none: `each` is told whether the
/// line has ended. Lines that are too long are passed over.
///
/// # Errors
/// What reading fails with.
pub(crate) fn each_line(
    mut from: impl Read,
    limit: u64,
    ends: LineEnds,
    mut each: impl FnMut(&[u8], bool),
) -> io::Result<Extent> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut lines = Lines::new(ends);
    let mut left = limit;
    loop {
        let room = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
        // One byte more tells whether there is one.
        let read = match from.read(chunk.get_mut(..room.max(1)).unwrap_or_default()) {
            Ok(0) => break,
            Ok(_) if left == 0 => return Ok(Extent::Cut),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        left = left.saturating_sub(read as u64);
        lines.take(chunk.get(..read).unwrap_or_default(), |line| each(line, true));
    }
    if !lines.too_long && !lines.line.is_empty() {
        each(&lines.line, false);
    }
    Ok(Extent::Whole)
}

/// So much is read at once.
const CHUNK_BYTES: usize = 64 << 10;

/// Bytes on their way to being lines.
#[derive(Clone, Debug)]
pub(crate) struct Lines {
    ends: LineEnds,
    /// The line that has not ended yet.
    line: Vec<u8>,
    /// It is longer than any that counts.
    too_long: bool,
}

impl Lines {
    /// Before the first byte.
    pub(crate) fn new(ends: LineEnds) -> Self {
        Self { ends, line: Vec::new(), too_long: false }
    }

    /// Takes up the next bytes: `each` gets the lines that end in them, without their ends, unless they are too long.
    pub(crate) fn take(&mut self, bytes: &[u8], mut each: impl FnMut(&[u8])) {
        let mut rest = bytes;
        let ends = self.ends;
        let is_end = |byte: &u8| *byte == b'\n' || (*byte == b'\r' && ends == LineEnds::LfOrCr);
        while let Some(at) = rest.iter().position(is_end) {
            let (head, tail) = rest.split_at(at);
            rest = tail.get(1..).unwrap_or_default();
            if !self.too_long && self.line.len() + head.len() <= MAX_LINE_BYTES {
                if self.line.is_empty() {
                    each(head);
                } else {
                    self.line.extend_from_slice(head);
                    each(&self.line);
                }
            }
            self.line.clear();
            self.too_long = false;
        }
        self.too_long |= self.line.len() + rest.len() > MAX_LINE_BYTES;
        if self.too_long {
            self.line.clear();
        } else {
            self.line.extend_from_slice(rest);
        }
    }
}

/// Reads on in a file that grows: `from` stands where the last reading ended. At most so many bytes; whether there were more.
///
/// # Errors
/// What reading fails with.
pub(crate) fn read_on(
    mut from: impl Read,
    most: u64,
    lines: &mut Lines,
    mut each: impl FnMut(&[u8]),
) -> io::Result<(u64, bool)> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut read = 0;
    while read < most {
        let room = usize::try_from(most - read).unwrap_or(usize::MAX).min(chunk.len());
        match from.read(chunk.get_mut(..room).unwrap_or_default()) {
            Ok(0) => return Ok((read, false)),
            Ok(count) => {
                read += count as u64;
                lines.take(chunk.get(..count).unwrap_or_default(), &mut each);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok((read, true))
}

/// Reads a trial's file of reports. A line counts once it has ended.
///
/// # Errors
/// What reading fails with.
pub(crate) fn read_reports(from: impl Read, limit: u64, mut each: impl FnMut(Report)) -> io::Result<Extent> {
    each_line(from, limit, LineEnds::Lf, |line, ended| {
        if let (true, Some(report)) = (ended, Report::of_line(line)) {
            each(report);
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn accepted(bytes: &[u8]) -> Vec<Report> {
        let (mut acceptance, mut reports) = (Acceptance::default(), Vec::new());
        let extent = read_reports(bytes, MAX_BYTES, |report| {
            if acceptance.accepts(&report) {
                reports.push(report);
            }
        });
        assert_eq!(extent.unwrap(), Extent::Whole);
        reports
    }

    fn report(step: u64, metrics: &[(&str, Option<f64>)]) -> Report {
        let metrics = metrics.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        Report { step, metrics }
    }

    #[test]
    fn lines_whose_step_grows_are_reports_and_nothing_else_is() {
        let text = b"{\"step\": 1, \"loss\": 0.5}\r\n\n\
            {\"step\": 3.0, \"loss\": NaN, \"acc\": null, \"name\": \"x\", \"on\": true, \"wns\": -12}\n\
            {\"step\": 3, \"loss\": 9}\n{\"step\": 2, \"loss\": 9}\n\
            garbage\n[4]\n{\"step\": \"4\", \"loss\": 1}\n{\"loss\": 1}\n{\"step\": 4}\n{\"step\": 4, \"name\": \"x\"}\n\
            {\"step\": -4, \"loss\": 1}\n{\"step\": 4.5, \"loss\": 1}\n{\"step\": 1e300, \"loss\": 1}\n{\"step\": NaN, \"loss\": 1}\n\
            {\"step\": 9007199254740993, \"loss\": 1}\n\xff\n{\"step\": 4, \"loss\": 1e400}\n{\"step\": 4, \"\": 1}\n\
            {\"step\": 4, \"loss\": 0.25}\n{\"step\": 5, \"loss\": 0.1}";
        let expected = [
            report(1, &[("loss", Some(0.5))]),
            report(3, &[("acc", None), ("loss", None), ("wns", Some(-12.0))]),
            report(4, &[("loss", Some(0.25))]),
        ];
        assert_eq!(accepted(text), expected, "the last line has not ended");
    }

    #[test]
    fn a_report_too_long_is_passed_over_and_the_next_one_is_not() {
        let long = format!("{{\"step\": 1, \"a\": 1, \"b\": \"{}\"}}\n", "x".repeat(MAX_LINE_BYTES));
        let name = "n".repeat(MAX_NAME_BYTES + 1);
        let named = format!("{{\"step\": 1, \"{name}\": 1}}\n");
        let text = format!("{long}{named}{}\n{{\"step\": 2, \"a\": 2}}\n", "y".repeat(1 << 20));
        assert_eq!(accepted(text.as_bytes()), [report(2, &[("a", Some(2.0))])]);
    }

    #[test]
    fn what_is_behind_the_limit_is_not_read() {
        let text = b"{\"step\": 1, \"a\": 1}\n{\"step\": 2, \"a\": 2}\n";
        let first = 20;
        let mut steps = Vec::new();
        for limit in [0, first - 1, first, first + 1, text.len() as u64] {
            let mut seen = 0;
            let extent = read_reports(&text[..], limit, |_| seen += 1).unwrap();
            steps.push((seen, extent));
        }
        let cut = Extent::Cut;
        assert_eq!(steps, [(0, cut), (0, cut), (1, cut), (1, cut), (2, Extent::Whole)]);
    }

    #[test]
    fn the_last_value_of_a_metric_is_its_own_if_it_has_none() {
        let mut latest = Latest::default();
        for line in [
            "{\"step\":1,\"a\":1,\"b\":1,\"c\":1}",
            "{\"step\":2,\"b\":2,\"d\":3,\"e\":4}",
            "{\"step\":3,\"c\":nan}",
        ] {
            latest.take(Report::of_line(line.as_bytes()).unwrap());
        }
        assert_eq!((latest.count, latest.last.as_ref().unwrap().step), (3, 3));
        let mut reported = read_metrics(b"{\"d\": 7, \"e\": null}").unwrap();
        latest.complete(&mut reported);
        let numbers: Vec<(&str, f64)> =
            reported.metrics.iter().map(|(name, metric)| (&**name, metric.number().unwrap())).collect();
        assert_eq!(numbers, [("a", 1.0), ("b", 2.0), ("d", 7.0)]);
        let odd: Vec<(&str, &str)> = reported.left_out.iter().map(|(name, what)| (&**name, &**what)).collect();
        assert_eq!(odd, [("c", NAN_OR_INFINITE), ("e", "null")]);
    }

    #[test]
    fn a_flood_of_names_is_bounded() {
        let mut latest = Latest::default();
        for step in 0..10_000 {
            latest.take(report(step, &[(&format!("m{step}"), Some(1.0)), ("first", Some(2.0))]));
        }
        assert_eq!((latest.values.len(), latest.values.get("first")), (MAX_METRICS, Some(&Some(2.0))));
    }

    #[test]
    fn what_no_reader_accepts_is_not_written() {
        for (bad, why) in [
            (report(MAX_STEP + 1, &[("a", None)]), "a step is at most"),
            (report(1, &[]), "a report needs a metric"),
            (report(1, &[("step", Some(1.0))]), "`step` is the step"),
            (report(1, &[("", Some(1.0))]), "the name of a metric"),
        ] {
            assert!(bad.line().unwrap_err().starts_with(why), "{bad:?}");
        }
        let many = (0..2_000).map(|n| (format!("metric{n}"), Some(1.0))).collect();
        assert!(Report { step: 1, metrics: many }.line().unwrap_err().starts_with("a report has at most"));
    }

    proptest! {
        /// Whatever the bytes are, and wherever a reader was when they grew: what was accepted stays accepted.
        #[test]
        fn more_bytes_take_nothing_back(
            lines in prop::collection::vec(prop_oneof![
                "\\{\"step\": [0-9]{1,2}, \"[ab]\": (-?[0-9]|NaN|null|\"x\")\\}\n?",
                "(\\{|\\}|\"step\"|:|,|[0-9]|\n|é|\r){0,12}",
            ], 0..20),
            noise in prop::collection::vec(any::<u8>(), 0..8),
            at in any::<prop::sample::Index>(),
        ) {
            let mut bytes = lines.concat().into_bytes();
            let place = at.index(bytes.len() + 1);
            bytes.splice(place..place, noise);
            let all = accepted(&bytes);
            prop_assert!(all.windows(2).all(|two| two[0].step < two[1].step));
            prop_assert!(all.iter().all(|report| !report.metrics.is_empty()));
            for cut in 0..=bytes.len() {
                let some = accepted(&bytes[..cut]);
                prop_assert_eq!(&some[..], &all[..some.len()]);
            }
        }

        /// However the bytes arrive, the lines are the same.
        #[test]
        fn the_size_of_a_read_changes_nothing(bytes in "(a|b|\n|\r){0,60}", size in 1_usize..7) {
            struct Slow<'a>(&'a [u8], usize);
            impl Read for Slow<'_> {
                fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                    let size = self.1.min(into.len());
                    self.0.read(&mut into[..size])
                }
            }
            for ends in [LineEnds::Lf, LineEnds::LfOrCr] {
                let lines = |from: &mut dyn Read| {
                    let mut lines = Vec::new();
                    each_line(from, MAX_BYTES, ends, |line, ended| lines.push((line.to_vec(), ended))).unwrap();
                    lines
                };
                prop_assert_eq!(lines(&mut bytes.as_bytes()), lines(&mut Slow(bytes.as_bytes(), size)));
            }
        }

        /// What piton writes is what it reads.
        #[test]
        fn a_written_line_reads_back(step in 0..=MAX_STEP, value in any::<f64>(), name in "[^\\x00]{1,20}") {
            prop_assume!(name != STEP);
            let value = Some(value).filter(|value| value.is_finite());
            let report = report(step, &[(&name, value)]);
            let mut line = report.line().unwrap();
            prop_assert_eq!(line.pop(), Some(b'\n'));
            prop_assert!(!line.contains(&b'\n'));
            prop_assert_eq!(Report::of_line(&line), Some(report));
        }
    }
}
