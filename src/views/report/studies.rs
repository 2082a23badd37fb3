//! The page of many studies: a row each, with the words of `list`, which a server keeps up to date.
//!
//! A row is made here alone, whether it comes with the page or after it; escaping is the template's. What changes as time goes by and nothing
//! else happens is no part of a row, or all of them would be sent again and again.

use maud::{PreEscaped, html};

use super::page::{LIVE_COMMON, document, made, stop_dialog};
use crate::model::{StudyStatus, UnixMs};
use crate::views::listing::cells;
use crate::views::text::clean;
use crate::views::{Listed, ListedStudy};

const SCRIPT: &str = include_str!("studies.js");

/// The page of the studies below a directory.
#[derive(Clone, Debug)]
pub struct StudiesPage<'a> {
    /// The directory.
    pub dir: &'a str,
    /// How many studies there are in which state.
    pub totals: &'a str,
    /// Each made by [`study_row`].
    pub rows: Vec<&'a str>,
    /// Made by [`unreadable_dirs`].
    pub unreadable: &'a str,
    /// Marks the page's own script and style for the browser; must not be foreseeable.
    pub nonce: &'a str,
    /// When it was made.
    pub now_ms: UnixMs,
}

/// What the columns are called.
const TITLES: [&str; 9] = ["study", "state", "stage", "done", "best", "left", "age", "size", "stop"];

impl StudiesPage<'_> {
    /// The page.
    #[must_use]
    pub fn html(&self) -> String {
        let dir = clean(self.dir);
        let body = html! {
            a .skip href="#main" { "to the studies" }
            header { h1 { "Studies below " code { (dir) } } }
            main #main data-now=(self.now_ms) {
                p #totals .lead { (self.totals) }
                p #said .note role="status" aria-live="polite" {}
                noscript { p .note { "The page is kept up to date by JavaScript; without it, load it again." } }
                div #tools .controls hidden {
                    label { "containing" input #filter type="search" placeholder="words, e.g. running"; }
                    p #shown .note {}
                }
                div .scroll tabindex="0" role="region" aria-label="Studies" {
                    table #studies role="table" {
                        thead role="rowgroup" { tr role="row" { @for title in TITLES { th scope="col" role="columnheader" class=[numbers(title)] { (title) } } } }
                        tbody role="rowgroup" { @for row in &self.rows { (PreEscaped(row)) } }
                    }
                }
                (PreEscaped(self.unreadable))
            }
            (stop_dialog())
            footer { (made(self.now_ms)) }
        };
        document(&format!("studies below {dir}"), self.nonce, true, &body, &[LIVE_COMMON, SCRIPT]).into_string()
    }
}

fn numbers(title: &str) -> Option<&'static str> {
    matches!(title, "done" | "age" | "size").then_some("n")
}

/// Most directories that are named.
const UNREADABLE_MAX: usize = 20;

/// The directories that could not be read, as the page shows them.
#[must_use]
pub fn unreadable_dirs(dirs: &[String]) -> String {
    html! {
        div #unreadable {
            @if !dirs.is_empty() {
                h2 { "Directories that could not be read" }
                ul {
                    @for dir in dirs.iter().take(UNREADABLE_MAX) { li { code { (clean(dir)) } } }
                    @if dirs.len() > UNREADABLE_MAX { li { "and " (dirs.len() - UNREADABLE_MAX) " more" } }
                }
            }
        }
    }
    .into_string()
}

/// The row of a study, whose own page lies at `study/<key>/` below the page of all.
#[must_use]
pub fn study_row(listed: &Listed, key: &str) -> String {
    let ([name, state, stage, done, best, left, _, size, store], _) = cells(listed);
    let study = listed.study.as_ref();
    let cell =
        |title: &str, text: &str| html! { td role="cell" data-title=(title) class=[numbers(title)] { (text) } };
    html! {
        tr role="row" id={ "study-" (key) } data-key=(key) {
            th scope="row" role="rowheader" {
                @if study.is_some() { a href={ "study/" (key) "/" } { (name) } br; }
                span .note { (store) }
            }
            td role="cell" data-title="state" { span class={ "status " (class(study)) } { (state) } }
            (cell("stage", &stage))
            td role="cell" data-title="done" .n {
                @if let Some(study) = study {
                    (done)
                    progress max=(study.planned.max(1)) value=(study.done.min(study.planned)) aria-label={ (done) " trials done" } {}
                }
            }
            (cell("best", &best))
            (cell("left", &left))
            td role="cell" data-title="age" .n { @if let Some(study) = study { time datetime=(study.last_event_at) { (study.last_event_at) } } }
            (cell("size", if study.is_none() && listed.store_bytes == 0 { "" } else { &size }))
            td role="cell" data-title="stop" {
                @if study.is_some_and(|study| study.status == StudyStatus::Running && !study.draining) {
                    button type="button" .stop data-name=(name) aria-label={ "Stop " (name) " in " (store) } { "Stop…" }
                }
            }
        }
    }
    .into_string()
}

/// The colour of its state.
fn class(study: Option<&ListedStudy>) -> &'static str {
    match study {
        None => StudyStatus::Aborted.name(),
        Some(study) if study.draining || study.waits_for_approval.is_some() => StudyStatus::Interrupted.name(),
        Some(study) => study.status.name(),
    }
}
