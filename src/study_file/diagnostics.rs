//! Mistakes in a study file or a spec built in code, and how people see them.
//!
//! Every mistake has its place: bytes of the study file, or a path such as `stage "place".trial_budget`. Rendering
//! must never panic, whatever bytes the study file holds, and never write terminal escapes it was given.

use std::fmt;
use std::ops::Range;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use crate::model::names;

/// More mistakes than this are counted, not shown.
const SHOWN_MAX: usize = 100;

/// One mistake of a study file, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Diagnostic {
    /// Bytes of the study file it is about; `None` for a spec built in code and for `--set`.
    pub span: Option<Range<usize>>,
    /// The same place in words, such as `stage "place".trial_budget`; may be empty for a syntax error.
    pub path: String,
    /// What is wrong, in one line.
    pub message: String,
    /// What was expected, to stand beside the marked text; may be empty.
    pub label: String,
    /// What to do about it.
    pub help: Option<String>,
    /// Whether it complains of something that is not there: bogus beside a syntax error.
    pub(super) absence: bool,
}

impl Diagnostic {
    /// A mistake at a place.
    pub(super) fn at(place: &Location, message: impl Into<String>) -> Self {
        Self {
            span: place.span.clone(),
            path: place.path.clone(),
            message: message.into(),
            label: String::new(),
            help: None,
            absence: false,
        }
    }

    /// Says what was expected.
    pub(super) fn label(self, label: impl Into<String>) -> Self {
        Self { label: label.into(), ..self }
    }

    /// Says what to do.
    pub(super) fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    /// Says what to do, if there is something to say.
    pub(super) fn maybe_help(self, help: Option<String>) -> Self {
        Self { help, ..self }
    }

    /// Marks it as one that a syntax error elsewhere may have caused.
    pub(super) fn absence(self) -> Self {
        Self { absence: true, ..self }
    }
}

/// Where something stands: in the study file, and in words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Location {
    pub span: Option<Range<usize>>,
    pub path: String,
}

impl Location {
    pub(super) fn below(&self, name: &str, span: Option<Range<usize>>) -> Self {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        Self { span, path }
    }

    /// The same path, other bytes.
    pub(super) fn with_span(&self, span: Option<Range<usize>>) -> Self {
        Self { span, path: self.path.clone() }
    }
}

/// All mistakes of one spec, in the order of their places; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostics {
    source_name: String,
    source: String,
    list: Vec<Diagnostic>,
}

/// All mistakes of a spec built in code, named by path.
pub type SpecErrors = Diagnostics;

impl Diagnostics {
    /// Sorts the mistakes by place and says each only once: one in `[defaults]` is met again in every stage.
    pub(crate) fn new(source_name: &str, source: &str, found: Vec<Diagnostic>) -> Self {
        let mut list: Vec<Diagnostic> = Vec::with_capacity(found.len());
        let mut seen = std::collections::HashSet::new();
        for mistake in found {
            if mistake.span.is_none() || seen.insert((mistake.span.clone(), mistake.message.clone())) {
                list.push(mistake);
            }
        }
        list.sort_by_key(|mistake| match &mistake.span {
            Some(span) => (0, span.start, span.end),
            None => (1, 0, 0),
        });
        Self { source_name: source_name.to_owned(), source: source.to_owned(), list }
    }

    /// How many mistakes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// The mistakes, in the order of their places.
    #[must_use]
    pub fn list(&self) -> &[Diagnostic] {
        &self.list
    }

    /// Line and column, both from 1 and the column in characters, of a mistake's first byte.
    #[must_use]
    pub fn position(&self, mistake: &Diagnostic) -> Option<(usize, usize)> {
        let line = Line::at(&self.source, mistake.span.as_ref()?);
        let column = line.text.get(..line.marked.start)?.chars().count() + 1;
        Some((line.number, column))
    }

    /// The mistakes as people read them: file, line, column, the offending text marked, what to do.
    ///
    /// `width` is the terminal's, in columns.
    #[must_use]
    pub fn render(&self, color: bool, width: Option<usize>) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let renderer = renderer.decor_style(DecorStyle::Ascii).term_width(width.unwrap_or(140).max(40));
        let mut text = String::new();
        for mistake in self.list.iter().take(SHOWN_MAX) {
            text.push_str(&self.render_one(&renderer, mistake));
            text.push_str("\n\n");
        }
        if self.list.len() > SHOWN_MAX {
            text.push_str(&format!("… and {} more mistakes\n", self.list.len() - SHOWN_MAX));
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
        text
    }

    fn render_one(&self, renderer: &Renderer, mistake: &Diagnostic) -> String {
        let message = clean(&mistake.message);
        let group = match &mistake.span {
            None if mistake.path.is_empty() => Group::with_title(Level::ERROR.primary_title(message)),
            None => Group::with_title(Level::ERROR.primary_title(format!("{}: {message}", clean(&mistake.path)))),
            Some(span) => {
                // Only the marked line goes to the renderer: spans cannot lie outside it, and a large file
                // with many mistakes stays cheap.
                let line = Line::at(&self.source, span);
                let (text, marked) = line.harmless();
                let mark = AnnotationKind::Primary.span(marked);
                let mark = if mistake.label.is_empty() { mark } else { mark.label(clean(&mistake.label)) };
                let snippet =
                    Snippet::source(text).line_start(line.number).path(clean(&self.source_name)).annotation(mark);
                Group::with_title(Level::ERROR.primary_title(message)).element(snippet)
            }
        };
        let group = match &mistake.help {
            Some(help) => group.element(Level::HELP.message(clean(help))),
            None => group,
        };
        renderer.render(&[group])
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false, None))
    }
}

impl std::error::Error for Diagnostics {}

/// The line of a span's start, and the part of the span that lies in it.
struct Line<'s> {
    text: &'s str,
    number: usize,
    marked: Range<usize>,
}

impl<'s> Line<'s> {
    fn at(source: &'s str, span: &Range<usize>) -> Self {
        let start = floor_boundary(source, span.start);
        let before = source.get(..start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let rest = source.get(line_start..).unwrap_or_default();
        let text = rest.split('\n').next().unwrap_or_default();
        let text = text.strip_suffix('\r').unwrap_or(text);
        let from = (start - line_start).min(text.len());
        let to = floor_boundary(text, span.end.saturating_sub(line_start)).max(from);
        // The byte order mark is no character people see.
        let (text, cut) = match text.strip_prefix('\u{feff}') {
            Some(text) if line_start == 0 => (text, '\u{feff}'.len_utf8()),
            _ => (text, 0),
        };
        Self {
            text,
            number: before.matches('\n').count() + 1,
            marked: from.saturating_sub(cut)..to.saturating_sub(cut),
        }
    }

    /// The text and the marked part of it without what a terminal obeys or hides. The renderer sees to that for ASCII alone.
    fn harmless(&self) -> (String, Range<usize>) {
        let harmless = |letter: char| match letter {
            letter if !letter.is_ascii() && names::steers_or_hides(letter) => char::REPLACEMENT_CHARACTER,
            letter => letter,
        };
        let part = |range: Range<usize>| self.text.get(range).unwrap_or_default().chars().map(harmless);
        let Range { start, end } = self.marked;
        let mut text: String = part(0..start).collect();
        let from = text.len();
        text.extend(part(start..end));
        let marked = from..text.len();
        text.extend(part(end..self.text.len()));
        (text, marked)
    }
}

/// The nearest character boundary at or before `at`, at most the text's end.
fn floor_boundary(text: &str, at: usize) -> usize {
    text.floor_char_boundary(at.min(text.len()))
}

/// Text of the user's that cannot move the cursor or change colours.
fn clean(text: &str) -> String {
    text.split('\n').map(names::clean).collect::<Vec<_>>().join("\n")
}

/// Something the user wrote, in backticks, on one line and not too long.
pub(super) fn shown(text: &str) -> String {
    const LONGEST: usize = 60;
    let mut cut: String = text.chars().take(LONGEST).flat_map(one_line).collect();
    if text.chars().nth(LONGEST).is_some() {
        cut.push('…');
    }
    format!("`{cut}`")
}

fn one_line(character: char) -> Vec<char> {
    if character.is_control() { character.escape_default().collect() } else { vec![character] }
}

/// The valid name nearest to a misspelt one, if any is near: few letters differ, or one contains the other.
pub(super) fn nearest<'c>(name: &str, valid: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    const LONGEST: usize = 64;
    if name.is_empty() || name.len() > LONGEST {
        return None;
    }
    let name = name.to_lowercase();
    let limit = (name.chars().count() / 3).max(1);
    let score = |candidate: &str| {
        let candidate = candidate.to_lowercase();
        let distance = strsim::damerau_levenshtein(&name, &candidate);
        if distance <= limit {
            Some(distance)
        } else if alike(&name, &candidate) {
            Some(limit + distance)
        } else {
            None
        }
    };
    let scored = valid.into_iter().filter(|candidate| candidate.len() <= LONGEST);
    scored.filter_map(|candidate| score(candidate).map(|points| (points, candidate))).min().map(|(_, best)| best)
}

/// Whether two names share most of their letters in one piece: one within the other, or a long common beginning.
fn alike(name: &str, candidate: &str) -> bool {
    let common = name.chars().zip(candidate.chars()).take_while(|(a, b)| a == b).count();
    let within = candidate.contains(name) || name.contains(candidate);
    name.len() >= 4 && candidate.len() >= 4 && (within || common >= 4.max(name.len() / 2))
}

/// `did you mean …?`, and the valid names.
pub(super) fn names_help(what: &str, name: &str, valid: &[&str]) -> Option<String> {
    const LISTED: usize = 40;
    if valid.is_empty() {
        return None;
    }
    let list: Vec<String> = valid.iter().take(LISTED).map(|name| shown(name)).collect();
    let more = if valid.len() > LISTED { ", …" } else { "" };
    let list = format!("{what}: {}{more}", list.join(", "));
    Some(match nearest(name, valid.iter().copied()) {
        Some(best) => format!("did you mean {}? {list}", shown(best)),
        None => list,
    })
}
