//! A study as a JUnit report, for whatever shows test results: one suite a stage, one test case a trial. A comparison likewise:
//! one suite, one test case a line of it.
//!
//! A trial that failed is a `failure` with its kind, reason and log excerpt; one that has no result yet, or never will, is
//! `skipped`, and so is one that ended outside of what an aborted study counts. Stages that have not opened are left out: nothing of them is planned. What trials wrote may be anything, so
//! characters that XML has no form for are dropped. Trials are written as they are read.

use std::io::{self, BufWriter, Write};

use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesEnd, BytesStart, BytesText, Event};

use super::compare::{Comparison, Row};
use super::dump::value_text;
use super::text::{clean, number};
use super::words::{origin_words, seconds, source, timestamp};
use super::{StudyView, TrialSummary, ViewError};
use crate::journal::Snapshot;
use crate::model::{Metric, StageRow, TrialState};
use crate::plan::StageSummary;

type Xml<'a> = Writer<BufWriter<&'a mut dyn Write>>;

/// Writes the report.
///
/// # Errors
/// [`ViewError::Journal`], [`ViewError::Output`].
pub(crate) fn junit(view: &StudyView, snapshot: &Snapshot, out: &mut dyn Write) -> Result<(), ViewError> {
    let mut xml = begin(out)?;
    let opened: Vec<&StageRow> = view.stages.iter().filter(|stage| stage.planned() > 0).collect();
    let mut all = Counts::default();
    for stage in &opened {
        all = all.plus(Counts::of(view, snapshot, stage)?);
    }
    let mut suites = BytesStart::new("testsuites");
    suites.push_attribute(("name", legal(&clean(&view.study.name)).as_str()));
    all.write(&mut suites);
    xml.write_event(Event::Start(suites))?;
    for stage in opened {
        suite(&mut xml, view, snapshot, stage)?;
    }
    xml.write_event(Event::End(BytesEnd::new("testsuites")))?;
    end(xml)
}

/// Writes a comparison of a study with a baseline: a line that fails the gate is a `failure`.
///
/// # Errors
/// As for [`Comparison::run`], and [`ViewError::Output`].
pub(crate) fn junit_of_comparison(comparison: &Comparison<'_>, out: &mut dyn Write) -> Result<(), ViewError> {
    let totals = comparison.run(&mut |_| Ok(()))?;
    let tests = totals.regressions + totals.improvements + totals.unchanged + totals.undecided;
    let counts = Counts { tests, failures: totals.regressions, ..Counts::default() };
    let mut xml = begin(out)?;
    let (study, stage) = comparison.names();
    let class = legal(&format!("{}.{}", clean(study), clean(stage)));
    for (element, name) in [("testsuites", legal(&clean(study))), ("testsuite", class.clone())] {
        let mut suites = BytesStart::new(element);
        suites.push_attribute(("name", name.as_str()));
        counts.write(&mut suites);
        xml.write_event(Event::Start(suites))?;
    }
    comparison.run(&mut |row| Ok(compared(&mut xml, &class, row)?))?;
    for element in ["testsuite", "testsuites"] {
        xml.write_event(Event::End(BytesEnd::new(element)))?;
    }
    end(xml)
}

fn begin(out: &mut dyn Write) -> io::Result<Xml<'_>> {
    let mut xml = Writer::new_with_indent(BufWriter::new(out), b' ', 2);
    xml.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    Ok(xml)
}

fn end(xml: Xml<'_>) -> Result<(), ViewError> {
    let mut out = xml.into_inner();
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}

/// A line of a comparison: `case metric`, and what it comes to.
fn compared(xml: &mut Xml<'_>, class: &str, row: &Row) -> io::Result<()> {
    let name = [Some(&row.case), row.metric.as_ref()].into_iter().flatten().map(|word| clean(word));
    let mut case = BytesStart::new("testcase");
    case.push_attribute(("classname", class));
    case.push_attribute(("name", legal(&name.collect::<Vec<_>>().join(" ")).as_str()));
    xml.write_event(Event::Start(case))?;
    let numbers = [("baseline", row.baseline), ("now", row.now), ("delta", row.delta), ("allowed", row.allowed)];
    let numbers = numbers.into_iter().filter_map(|(name, value)| Some(format!("{name} {}", number(value?))));
    let words: Vec<String> = row.detail.iter().map(|detail| clean(detail)).chain(numbers).collect();
    if row.regression {
        let message = legal(&format!("{}: {}", row.finding.words(), words.join(", ")));
        let attributes = [("type", "regression"), ("message", message.as_str())];
        xml.create_element("failure").with_attributes(attributes).write_empty()?;
    }
    text_element(xml, "system-out", &words.join("\n"))?;
    xml.write_event(Event::End(BytesEnd::new("testcase")))
}

/// What a suite says of its cases before the first of them.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    tests: u64,
    failures: u64,
    skipped: u64,
    wall_us: u64,
}

impl Counts {
    fn of(view: &StudyView, snapshot: &Snapshot, stage: &StageRow) -> Result<Self, ViewError> {
        let StageSummary { trials, counters, .. } = view.summary(stage);
        let (tests, finished) = (trials.planned, (trials.succeeded, trials.failed));
        // The counters have every end; what is outside is at the end of a stage, if anywhere.
        let counted = view.counted(stage).filter(|_| view.is_outside(stage.index, tests.saturating_sub(1)));
        let counted = counted.map(|counted| view.results_of_first(snapshot, stage, counted));
        let counted = counted.transpose()?.map(|(succeeded, failures, _)| (succeeded, failures));
        let (succeeded, failures) = counted.unwrap_or(finished);
        let skipped = tests.saturating_sub(succeeded + failures);
        Ok(Self { tests, failures, skipped, wall_us: counters.ended_wall_us })
    }

    fn plus(self, other: Self) -> Self {
        Self {
            tests: self.tests + other.tests,
            failures: self.failures + other.failures,
            skipped: self.skipped + other.skipped,
            wall_us: self.wall_us.saturating_add(other.wall_us),
        }
    }

    fn write(self, element: &mut BytesStart<'_>) {
        for (name, value) in
            [("tests", self.tests), ("failures", self.failures), ("errors", 0), ("skipped", self.skipped)]
        {
            element.push_attribute((name, value.to_string().as_str()));
        }
        element.push_attribute(("time", seconds(self.wall_us).to_string().as_str()));
    }
}

fn suite(xml: &mut Xml<'_>, view: &StudyView, snapshot: &Snapshot, stage: &StageRow) -> Result<(), ViewError> {
    let mut suite = BytesStart::new("testsuite");
    suite.push_attribute(("name", legal(&clean(&stage.name)).as_str()));
    suite.push_attribute(("id", stage.index.to_string().as_str()));
    Counts::of(view, snapshot, stage)?.write(&mut suite);
    if let Some(opened_ms) = stage.opened_ms {
        suite.push_attribute(("timestamp", timestamp(opened_ms).as_str()));
    }
    xml.write_event(Event::Start(suite))?;
    let class = legal(&format!("{}.{}", clean(&view.study.name), clean(&stage.name)));
    for trial in view.trials(snapshot, stage)? {
        case(xml, &class, &trial?)?;
    }
    Ok(xml.write_event(Event::End(BytesEnd::new("testsuite")))?)
}

fn case(xml: &mut Xml<'_>, class: &str, trial: &TrialSummary<'_>) -> Result<(), ViewError> {
    let wall_us = trial.usage().map_or(0, |usage| usage.wall_us);
    let mut case = BytesStart::new("testcase");
    case.push_attribute(("classname", class));
    case.push_attribute(("name", legal(&clean(&trial.case())).as_str()));
    case.push_attribute(("time", seconds(wall_us).to_string().as_str()));
    xml.write_event(Event::Start(case))?;
    match trial.state {
        state if trial.ended_outside() => {
            let message = format!("outside, {}", state.name());
            xml.create_element("skipped").with_attribute(("message", message.as_str())).write_empty()?;
        }
        TrialState::Succeeded => {}
        TrialState::Failed => failure(xml, trial)?,
        TrialState::Pending
        | TrialState::Running
        | TrialState::Cancelled
        | TrialState::Pruned
        | TrialState::Undecided => {
            let message = ("message", trial.state.name());
            xml.create_element("skipped").with_attribute(message).write_empty()?;
        }
    }
    text_element(xml, "system-out", &about(trial))?;
    Ok(xml.write_event(Event::End(BytesEnd::new("testcase")))?)
}

fn failure(xml: &mut Xml<'_>, trial: &TrialSummary<'_>) -> io::Result<()> {
    let Some(failure) = trial.failure() else {
        return xml.create_element("failure").write_empty().map(drop);
    };
    let (kind, reason) = (legal(failure.kind.name()), legal(&clean(&failure.reason)));
    let excerpt = legal(&failure.log_excerpt);
    let element = xml.create_element("failure");
    let element = element.with_attributes([("type", kind.as_str()), ("message", reason.as_str())]);
    element.write_text_content(BytesText::new(&excerpt)).map(drop)
}

fn text_element(xml: &mut Xml<'_>, name: &str, text: &str) -> io::Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    xml.create_element(name).write_text_content(BytesText::new(&legal(text))).map(drop)
}

/// Whose result it took, and its params and metrics, one a line: what a result viewer shows beside a case.
fn about(trial: &TrialSummary<'_>) -> String {
    let params = trial.params();
    let params =
        params.iter().map(|(name, value)| format!("param {}: {}", clean(name), clean(&value_text(value))));
    let metrics = trial.metrics().iter().map(|(name, metric)| match metric {
        Metric::Number(value) => format!("metric {}: {}", clean(name), number(*value)),
        Metric::Label(label) => format!("metric {}: {}", clean(name), clean(label)),
    });
    let reused =
        trial.reused_from().map(|origin| format!("reused: the result of {}", clean(&origin_words(origin))));
    let imported = trial.imported().map(|imported| format!("imported from {}", clean(&source(&imported.source))));
    reused.into_iter().chain(imported).chain(params).chain(metrics).collect::<Vec<_>>().join("\n")
}

/// Without what XML 1.0 cannot hold, escaped or not, and without the control characters it only discourages.
fn legal(text: &str) -> String {
    let legal = |letter: &char| match u32::from(*letter) {
        0x9 | 0xa => true,
        0xfffe | 0xffff => false,
        _ => !letter.is_control(),
    };
    text.chars().filter(legal).collect()
}

#[cfg(test)]
mod tests {
    use quick_xml::Reader;

    use super::*;
    use crate::model::{self, Next};
    use crate::testing::story::{DEAD, Story, written};

    fn report(story: &Story) -> String {
        let (view, snapshot) = story.view(DEAD);
        written(|out| junit(&view, &snapshot, out))
    }

    /// Reads all of it as XML: names and attributes of the elements, and their text.
    fn parsed(text: &str) -> Vec<String> {
        let mut reader = Reader::from_str(text);
        reader.config_mut().check_end_names = true;
        let mut seen = Vec::new();
        loop {
            match reader.read_event().unwrap() {
                Event::Start(element) | Event::Empty(element) => {
                    let mut line = element.name().as_ref().to_owned();
                    for attribute in element.attributes() {
                        let attribute = attribute.unwrap();
                        let value = quick_xml::escape::unescape(&attribute.value).unwrap();
                        line += &format!(" {}={value}", attribute.key.as_ref());
                    }
                    seen.push(line);
                }
                Event::Eof => return seen,
                _ => {}
            }
        }
    }

    #[test]
    fn a_suite_a_stage_and_a_case_a_trial() {
        let mut story = Story::new();
        story.complete();
        insta::assert_snapshot!(report(&story), @r#"
        <?xml version="1.0" encoding="UTF-8"?>
        <testsuites name="tiny" tests="6" failures="1" errors="0" skipped="0" time="9">
          <testsuite name="explore" id="0" tests="4" failures="1" errors="0" skipped="0" time="6" timestamp="1970-01-01T00:00:02.000Z">
            <testcase classname="tiny.explore" name="t_0_0" time="1.5">
              <system-out>param label: plain
        param level: 1
        param mode: fast
        metric bytes: 200
        metric tool: xz</system-out>
            </testcase>
            <testcase classname="tiny.explore" name="t_0_1" time="1.5">
              <system-out>param label: plain
        param level: 2.0
        param mode: fast
        metric bytes: 300.5
        metric tool: xz</system-out>
            </testcase>
            <testcase classname="tiny.explore" name="t_0_2" time="1.5">
              <failure type="exit_code" message="exited with code 3">first line
        second [31mline</failure>
              <system-out>param label: plain
        param level: 1
        param mode: small</system-out>
            </testcase>
            <testcase classname="tiny.explore" name="t_0_3" time="1.5">
              <system-out>param label: plain
        param level: 2.0
        param mode: small
        metric bytes: 100
        metric tool: xz</system-out>
            </testcase>
          </testsuite>
          <testsuite name="confirm" id="1" tests="2" failures="0" errors="0" skipped="0" time="3" timestamp="1970-01-01T00:00:12.000Z">
            <testcase classname="tiny.confirm" name="t_1_0" time="1.5">
              <system-out>param label: plain
        param level: 2.0
        param mode: small
        metric bytes: 90
        metric tool: xz</system-out>
            </testcase>
            <testcase classname="tiny.confirm" name="t_1_1" time="1.5">
              <system-out>param label: plain
        param level: 1
        param mode: fast
        metric bytes: 190
        metric tool: xz</system-out>
            </testcase>
          </testsuite>
        </testsuites>
        "#);
    }

    #[test]
    fn what_has_no_result_is_skipped_and_the_counts_say_so() {
        let mut story = Story::new();
        story.run().open_explore().start(0, 1).succeed(0, 1, 200.0).start(1, 1);
        let seen = parsed(&report(&story));
        assert_eq!(seen[0], "testsuites name=tiny tests=4 failures=0 errors=0 skipped=3 time=1.5");
        let skipped: Vec<&str> =
            seen.iter().filter(|line| line.starts_with("skipped")).map(String::as_str).collect();
        assert_eq!(skipped, ["skipped message=running", "skipped message=pending", "skipped message=pending"]);
        assert!(!seen.iter().any(|line| line.contains("confirm")), "{seen:?}");
        story.succeed(1, 1, 1.0);
        story.event(model::Event::StudyAborted { reason: "a rail".into(), violating: Vec::new() });
        let seen = parsed(&report(&story));
        assert_eq!(seen.iter().filter(|line| *line == "skipped message=cancelled").count(), 2);
    }

    #[test]
    fn nothing_a_trial_says_breaks_the_xml() {
        let hostile = "</failure>\"'&<![CDATA[ ]]> \u{0}\u{1b}[31m \u{fffe}\u{ffff} \u{85}end\r\n\u{202e}x";
        let mut story = Story::told(2, hostile);
        story.run().open_explore().start(0, 1).fail(0, 1, hostile, Next::Final);
        let text = report(&story);
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text}");
        assert!(!text.contains(['\u{fffe}', '\u{ffff}']));
        let seen = parsed(&text);
        let failure = seen.iter().find(|line| line.starts_with("failure")).unwrap();
        assert!(failure.starts_with("failure type=exit_code message=</failure>\"'&<![CDATA[ ]]>"), "{failure}");
        assert_eq!(seen.iter().filter(|line| line.starts_with("testcase")).count(), 4);
    }
}
