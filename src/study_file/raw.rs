//! The raw tree: what a study file or a builder says, before anything is checked.
//!
//! One shape for both, so that the checks exist once. Nodes of a study file know their bytes; nodes of a builder do
//! not. It must never judge: whatever TOML can say has a node.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::types::Values;
use crate::model::{Lost, Value, float_text, read_exactly};

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub kind: Kind,
    pub span: Option<Range<usize>>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    Str(String),
    /// Saturated far outside any integer piton takes.
    Int(i128),
    Float(f64),
    /// A decimal number that a float does not hold as it is written.
    Lost(String, Lost),
    Bool(bool),
    Datetime,
    /// A duration given in code.
    Millis(u128),
    /// The work of a stage that is a closure of the embedding program.
    Closure,
    Array(Vec<Node>),
    /// In the order of the text.
    Table(Vec<Entry>),
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub key: String,
    pub key_span: Option<Range<usize>>,
    pub node: Node,
}

impl Node {
    /// A node that comes from code.
    pub(crate) fn new(kind: Kind) -> Self {
        Self { kind, span: None }
    }

    /// What it is, in words.
    pub(crate) fn type_name(&self) -> &'static str {
        match &self.kind {
            Kind::Str(_) => "a string",
            Kind::Int(_) => "an integer",
            Kind::Float(_) | Kind::Lost(..) => "a float",
            Kind::Bool(_) => "a boolean",
            Kind::Datetime => "a date or time",
            Kind::Millis(_) => "a duration",
            Kind::Closure => "a closure",
            Kind::Array(_) => "a list",
            Kind::Table(_) => "a table",
        }
    }

    /// What `--set` says. Text in quotes, as TOML has them, is the text between them; what else a text is says
    /// [`plain_value`]. `None` for text with a NUL character.
    pub(crate) fn of_text(text: &str, values: Values) -> Option<Self> {
        let parsed = DeValue::parse(text).ok().map(|value| Self::from_toml(value.get_ref(), value.span()).kind);
        let kind = match (parsed, values) {
            _ if text.contains('\0') => return None,
            (parsed, Values::Before) => Self::before(text, parsed),
            (Some(quoted @ Kind::Str(_)), Values::Exact) => quoted,
            (_, Values::Exact) => Self::of_value(plain_value(text)).kind,
        };
        Some(Self::new(kind))
    }

    /// How text was understood at first: as any TOML integer, float, boolean or string that it might be.
    fn before(text: &str, parsed: Option<Kind>) -> Kind {
        let outside = |number: i128| i64::try_from(number).is_err();
        match parsed {
            Some(Kind::Lost(written, _)) => Kind::Float(written.parse().unwrap_or(f64::NAN)),
            Some(Kind::Int(number)) if outside(number) => Kind::Str(text.to_owned()),
            Some(kind @ (Kind::Str(_) | Kind::Int(_) | Kind::Float(_) | Kind::Bool(_))) => kind,
            _ => Kind::Str(text.to_owned()),
        }
    }

    /// A value given in code.
    pub(crate) fn of_value(value: Value) -> Self {
        Self::new(match value {
            Value::Str(text) => Kind::Str(text),
            Value::Bool(flag) => Kind::Bool(flag),
            Value::Int(number) => Kind::Int(number.into()),
            Value::Float(number) => Kind::Float(number),
        })
    }

    /// The tree of a parsed study file.
    pub(crate) fn from_toml(value: &DeValue<'_>, span: Range<usize>) -> Self {
        let kind = match value {
            DeValue::String(text) => Kind::Str(text.clone().into_owned()),
            DeValue::Integer(number) => Kind::Int(integer(number.as_str(), number.radix())),
            DeValue::Float(number) => float(number.as_str()),
            DeValue::Boolean(flag) => Kind::Bool(*flag),
            DeValue::Datetime(_) => Kind::Datetime,
            DeValue::Array(list) => {
                Kind::Array(list.iter().map(|item| Self::from_toml(item.get_ref(), item.span())).collect())
            }
            DeValue::Table(table) => Kind::Table(Self::entries(table)),
        };
        Self { kind, span: Some(span) }
    }

    /// A table's entries in the order of the text: the parser sorts them by name, sweeps are ordered.
    pub(crate) fn entries(table: &DeTable<'_>) -> Vec<Entry> {
        let mut entries: Vec<Entry> = table
            .iter()
            .map(|(key, value)| Entry {
                key: key.get_ref().clone().into_owned(),
                key_span: Some(key.span()),
                node: Self::from_toml(value.get_ref(), value.span()),
            })
            .collect();
        entries.sort_by_key(|entry| entry.key_span.as_ref().map(|span| span.start));
        entries
    }
}

fn float(text: &str) -> Kind {
    match read_exactly(text) {
        Ok(number) => Kind::Float(number),
        Err(Some(lost)) => Kind::Lost(text.to_owned(), lost),
        // `inf` and `nan`.
        Err(None) => Kind::Float(text.parse().unwrap_or(f64::NAN)),
    }
}

/// The value that a plain text says: a boolean, integer or float if exactly this text is what a trial gets of it, else
/// the text itself.
pub(super) fn plain_value(text: &str) -> Value {
    let number = || {
        let integer = text.parse().ok().filter(|number: &i64| number.to_string() == text).map(Value::Int);
        let float = || read_exactly(text).ok().filter(|number| float_text(*number) == text).map(Value::Float);
        integer.or_else(float)
    };
    match text {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        _ => number().unwrap_or_else(|| Value::Str(text.to_owned())),
    }
}

fn integer(text: &str, radix: u32) -> i128 {
    let outside = if text.starts_with('-') { i128::MIN } else { i128::MAX };
    i128::from_str_radix(text, radix).unwrap_or(outside)
}

/// The bytes of a study file that a range of a decoded string came from.
///
/// `token` is the string's bytes in `source`, quotes included. When they are not known exactly (a spelling this
/// function does not know), the whole token is the answer.
pub(super) fn locate(source: &str, token: &Range<usize>, decoded: &str, range: Range<usize>) -> Range<usize> {
    let exact = source.get(token.clone()).and_then(|text| {
        let quote = ["\"\"\"", "'''", "\"", "'"].into_iter().find(|quote| text.starts_with(quote))?;
        let literal = quote.starts_with('\'');
        let (mut at, mut from, mut seen) = (quote.len(), None, 0);
        if quote.len() == 3 {
            at += text.get(at..).map_or(0, first_newline);
        }
        for character in decoded.chars() {
            if seen >= range.end {
                break;
            }
            if !literal {
                at += text.get(at..).map_or(0, line_continuation);
            }
            if seen == range.start {
                from = Some(at);
            }
            at += spelling(text.get(at..)?, character, literal)?;
            seen += character.len_utf8();
        }
        let from = from.or((range.start == seen).then_some(at))?;
        Some(token.start + from..token.start + at)
    });
    exact.unwrap_or_else(|| token.clone())
}

/// How many bytes at the start of `text` spell `character`; `None` if they do not.
fn spelling(text: &str, character: char, literal: bool) -> Option<usize> {
    if character == '\n' && text.starts_with("\r\n") {
        return Some(2);
    }
    match text.strip_prefix('\\') {
        Some(escape) if !literal => match escape.chars().next()? {
            'u' => Some(6),
            'U' => Some(10),
            'x' => Some(4),
            _ => Some(2),
        },
        _ => text.starts_with(character).then_some(character.len_utf8()),
    }
}

fn first_newline(text: &str) -> usize {
    if text.starts_with("\r\n") { 2 } else { usize::from(text.starts_with('\n')) }
}

/// The length of a backslash at a line's end with the white space after it, which spell nothing.
fn line_continuation(text: &str) -> usize {
    let Some(rest) = text.strip_prefix('\\') else { return 0 };
    let blank = rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n']).len();
    match rest.get(..blank) {
        Some(space) if space.contains('\n') => 1 + blank,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn located(token: &str, decoded: &str, part: &str) -> String {
        let start = decoded.find(part).unwrap();
        let source = format!("key = {token} # end");
        let range = locate(&source, &(6..6 + token.len()), decoded, start..start + part.len());
        source[range].to_owned()
    }

    #[test]
    fn a_part_of_a_string_is_found_however_it_is_spelt() {
        assert_eq!(located(r#""a {b} c""#, "a {b} c", "{b}"), "{b}");
        assert_eq!(located(r"'\d {b}'", r"\d {b}", "{b}"), "{b}");
        assert_eq!(located(r"'\\ {b}'", r"\\ {b}", "{b}"), "{b}");
        assert_eq!(located(r#""\\ \u00e9\t{b}""#, "\\ é\t{b}", "{b}"), "{b}");
        assert_eq!(located("\"\"\"\nx \\\n   {b}\"\"\"", "x {b}", "{b}"), "{b}");
        assert_eq!(located("'''\r\nx\r\n{b}'''", "x\n{b}", "{b}"), "{b}");
        assert_eq!(located(r#""\u007bb}""#, "{b}", "{b}"), r"\u007bb}");
    }

    #[test]
    fn an_unknown_spelling_gives_the_whole_token() {
        assert_eq!(located("bare {b}", "x {b}", "{b}"), "bare {b}");
    }

    #[test]
    fn entries_come_in_the_order_of_the_text() {
        let text = "z = 1\na = 2\n[m]\ny = 1\nb = 2\n";
        let (table, errors) = DeTable::parse_recoverable(text);
        assert!(errors.is_empty());
        let entries = Node::entries(table.get_ref());
        let keys: Vec<&str> = entries.iter().map(|entry| entry.key.as_str()).collect();
        assert_eq!(keys, ["z", "a", "m"]);
        let Kind::Table(inner) = &entries[2].node.kind else { panic!("not a table") };
        assert_eq!(inner.iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>(), ["y", "b"]);
    }
}
