//! `keep`: how much stays of what trials left.

use crate::model::{Keep, Kept, names_of};
use crate::study_file::diagnostics::Location;
use crate::study_file::keys::{Preset, Section, Takes, key, put};
use crate::study_file::raw::Node;
use crate::study_file::walk::Checker;

const KEPT: Takes = Takes::Word(names_of::<Kept>);
const ALL: Preset = Preset::Value("\"all\"");

/// `keep`.
#[rustfmt::skip] // Entry by entry: what it is, what it is for, how it is read, how it changes.
pub(in crate::study_file) static KEEP: Section<Keep> = Section::new(
    "`keep`",
    "How much stays of trials' directories once their stage has closed and no trial to come needs them: `all`, `outputs` (declared outputs, metrics and logs), `logs`, or `nothing`.",
    &[
        key("survivors", KEPT, ALL,
            "Of those that survive; once the stage after has closed, too.",
            |c, n, p, d| put(&mut d.survivors, c.named(n, p))),
        key("others", KEPT, ALL,
            "Of those that neither survive nor fail.",
            |c, n, p, d| put(&mut d.others, c.named(n, p))),
        key("failed", KEPT, ALL,
            "Of those that fail.",
            |c, n, p, d| put(&mut d.failed, c.named(n, p))),
    ],
);

impl Checker<'_> {
    /// `keep`.
    pub(in crate::study_file) fn keep(&mut self, node: &Node, place: &Location) -> Option<Keep> {
        let mut keep = Keep::default();
        self.section(&KEEP, node, place, &mut keep)?;
        Some(keep)
    }
}
