//! `[stage.progress]`: its keys, and what they say together.

use std::collections::BTreeMap;

use super::{ANY_NAME, INNER_PATH};
use crate::study_file::diagnostics::{Diagnostic, Location, shown};
use crate::study_file::keys::{NONE, Preset, REQUIRED, Section, Takes, key, put};
use crate::study_file::progress::{ProgressSpec, STEP_GROUP};
use crate::study_file::raw::Node;
use crate::study_file::walk::Checker;

/// `[stage.progress]`.
#[rustfmt::skip] // Entry by entry: what it is, what it is for, how it is read, how it changes.
pub(in crate::study_file) static PROGRESS: Section<ProgressParts> = Section::new(
    "`[stage.progress]`",
    "Reports of running trials, read from what they print.",
    &[
        key("file", INNER_PATH, NONE,
            "Where they are printed, such as `stdout.log`; needs `regex` or `metrics`.",
            |c, n, p, d| put(&mut d.spec.file, c.inner_path(n, p).map(Some))),
        key("regex", Takes::Filled("regular expression"), NONE,
            "A report: the group `step`, and a group named as each metric.",
            |c, n, p, d| put(&mut d.spec.regex, c.report_regex(n, p).map(Some))),
        key("metrics", Takes::Map(&ANY_NAME, &Takes::Table(&PROGRESS_METRIC), 1), NONE,
            "Instead of `regex`: the metrics of a program that prints no steps. They are counted, from 1.",
            |c, n, p, d| put(&mut d.spec.metrics, c.report_metrics(n, p))),
        key("final", Takes::Flag, Preset::Value("true"),
            "The last report of a metric is its value, if neither `metrics.json` nor `[stage.metrics]` has one.",
            |c, n, p, d| put(&mut d.spec.only_watched, c.boolean(n, p).map(|counts| !counts))),
    ],
);

/// An entry of `metrics`.
#[rustfmt::skip] // Entry by entry: what it is, what it is for, how it is read, how it changes.
pub(in crate::study_file) static PROGRESS_METRIC: Section<Option<String>> = Section::new(
    "`[stage.progress.metrics]`",
    "A metric that a program prints again and again.",
    &[
        key("regex", Takes::Filled("regular expression"), REQUIRED,
            "The first group of a line's match is the value.",
            |c, n, p, d| put(d, c.regex(n, p).map(Some))),
    ],
);

/// What `[stage.progress]` says.
#[derive(Default)]
pub(in crate::study_file) struct ProgressParts {
    spec: ProgressSpec,
}

impl Checker<'_> {
    pub(in crate::study_file) fn progress(&mut self, node: &Node, place: &Location) -> Option<ProgressSpec> {
        let mut parts = ProgressParts::default();
        let table = self.section(&PROGRESS, node, place, &mut parts)?;
        let said = |name| table.get(name).map(|(_, place)| place);
        let mut wrong = |place: Location, words: &str, help: &str| {
            self.report(Diagnostic::at(&place, words).help(help.to_owned()));
        };
        match (said("file"), said("regex"), said("metrics")) {
            (_, Some(_), Some(place)) => {
                wrong(place, "`regex` and `metrics` both say what a report is", "leave out one of them");
            }
            (Some(place), None, None) => wrong(
                place,
                "nothing says what a report looks like",
                "add `regex` with the groups `step` and one for each metric, or `metrics`",
            ),
            (None, Some(place), None) | (None, None, Some(place)) => {
                wrong(place, "nothing says where reports are printed", "add `file = \"stdout.log\"`");
            }
            _ => return Some(parts.spec),
        }
        None
    }

    fn report_regex(&mut self, node: &Node, place: &Location) -> Option<String> {
        let text = self.non_empty_text(node, place)?;
        let regex = match regex::bytes::Regex::new(&text) {
            Ok(regex) => regex,
            Err(error) => {
                self.bad_regex(node, place, &text, &error);
                return None;
            }
        };
        let names: Vec<&str> = regex.capture_names().flatten().collect();
        if names.contains(&STEP_GROUP) && names.len() > 1 {
            return Some(text);
        }
        let mistake = match names.contains(&STEP_GROUP) {
            true => Diagnostic::at(place, "the regex has no group for a metric"),
            false => Diagnostic::at(place, "the regex has no group `step`"),
        };
        self.report(mistake.help(r"such as `step (?P<step>\d+) loss (?P<loss>\S+)`"));
        None
    }

    fn report_metrics(&mut self, node: &Node, place: &Location) -> Option<BTreeMap<String, String>> {
        let outer = self.open_table(node, place, "`[stage.progress.metrics]`")?;
        let mut metrics = BTreeMap::new();
        for entry in outer.entries {
            let key_place = outer.key_place(entry);
            if entry.key.is_empty() || entry.key == STEP_GROUP {
                let words = "a metric needs a name, and `step` is none";
                self.report(Diagnostic::at(&key_place, words));
            }
            let title = format!("the metric {}", shown(&entry.key));
            let place = key_place.with_span(entry.node.span.clone());
            let mut regex = None;
            self.titled(&PROGRESS_METRIC, &title, &entry.node, &place, &mut regex);
            metrics.extend(regex.map(|regex| (entry.key.clone(), regex)));
        }
        if metrics.is_empty() && outer.entries.is_empty() {
            self.report(Diagnostic::at(place, "no metric is named"));
            return None;
        }
        Some(metrics)
    }
}
