//! Cases out of comma-separated values (RFC 4180): a header line with the params' names, then a case a line.
//!
//! White space around a field counts for nothing. A field is typed as `--set` types its values: a TOML integer, float,
//! boolean or quoted string is that, anything else is text.

use csv::{ByteRecord, ReaderBuilder, Trim};

use crate::model::Value;
use crate::spec::diagnostics::shown;
use crate::spec::raw::{Kind, Node};
use crate::spec::types::SpecValue;

use super::Reading;

/// Reads all of a file's bytes.
pub(super) fn read(reading: &mut Reading, bytes: &[u8]) {
    let mut reader = ReaderBuilder::new().has_headers(false).flexible(true).trim(Trim::All).from_reader(bytes);
    let mut record = ByteRecord::new();
    let mut first = true;
    let mut lines = Lines { bytes, at: 0, line: 1 };
    // Reading from memory cannot fail, and records of any length are taken.
    while let Ok(true) = reader.read_byte_record(&mut record) {
        let start = record.position().map_or(0, |position| position.byte());
        let (line, raw) = lines.record(start, reader.position().byte());
        let blank = record.len() == 1 && record.get(0).is_some_and(<[u8]>::is_empty);
        if blank && !raw.contains(&b'"') {
            continue;
        }
        let fields = texts(reading, line, &record, raw);
        match fields {
            Some(fields) if first => reading.header(line, fields),
            Some(fields) => row(reading, line, &fields),
            None => {}
        }
        first = false;
        if reading.full() {
            return;
        }
    }
    if first {
        reading.mistake(1, "the header line with the params' names is missing".to_owned());
    }
}

/// A record's fields as text.
fn texts(reading: &mut Reading, line: u64, record: &ByteRecord, raw: &[u8]) -> Option<Vec<String>> {
    // Quotes inside a quoted field are doubled, so there are always as many that open as that close.
    if raw.iter().filter(|byte| **byte == b'"').count() % 2 == 1 {
        let help = Some("a field with quotes is quoted whole, with each quote inside doubled: \"6\"\" pipe\"");
        reading.mistake_with(line, "a quote is never closed".to_owned(), help);
        return None;
    }
    let texts: Result<Vec<String>, _> =
        record.iter().map(|field| std::str::from_utf8(field).map(str::to_owned)).collect();
    if texts.is_err() {
        reading.mistake(line, "the line is not UTF-8".to_owned());
    }
    texts.ok()
}

fn row(reading: &mut Reading, line: u64, fields: &[String]) {
    let expected = reading.names.len();
    if fields.len() != expected && expected > 0 {
        reading.mistake(line, format!("{}, but the header names {expected}", counted(fields.len())));
        return;
    }
    let mut values = Vec::with_capacity(expected);
    for (position, field) in fields.iter().enumerate() {
        match typed(field) {
            Ok(value) => values.push(value),
            Err(Untyped { what, help }) => {
                let name = reading.names.get(position).map(|name| shown(name)).unwrap_or_default();
                reading.mistake_with(line, format!("{name} {what}"), help);
            }
        }
    }
    if values.len() == expected && expected > 0 {
        reading.row(values);
    }
}

fn counted(fields: usize) -> String {
    if fields == 1 { "1 value".to_owned() } else { format!("{fields} values") }
}

struct Untyped {
    what: &'static str,
    help: Option<&'static str>,
}

fn typed(field: &str) -> Result<SpecValue, Untyped> {
    let bad = |what, help| Err(Untyped { what, help });
    if field.is_empty() {
        return bad("has no value", Some("for the empty text write \"\"\"\"\"\": TOML's \"\", quoted for CSV"));
    }
    let node = Node::of_text(field);
    let value = match node.map(|node| node.kind) {
        Some(Kind::Str(text)) if !text.contains('\0') => Value::Str(text),
        Some(Kind::Bool(flag)) => Value::Bool(flag),
        Some(Kind::Int(number)) => match i64::try_from(number) {
            Ok(number) => Value::Int(number),
            Err(_) => return bad("is out of range", None),
        },
        Some(Kind::Float(number)) if number.is_finite() => Value::Float(number),
        Some(Kind::Float(_)) => return bad("must be a finite number", None),
        _ => return bad("has a NUL character, which cannot be passed on", None),
    };
    Ok(SpecValue(value))
}

/// Counts the lines of a file up to its records, which come in order.
struct Lines<'b> {
    bytes: &'b [u8],
    /// Lines end before this byte…
    at: usize,
    /// … so many, and one more.
    line: u64,
}

impl<'b> Lines<'b> {
    /// The bytes of the record between two positions, and the line it begins in, from 1: blank lines before it are
    /// skipped.
    fn record(&mut self, start: u64, end: u64) -> (u64, &'b [u8]) {
        let range = usize::try_from(start).ok().zip(usize::try_from(end).ok());
        let record = range.and_then(|(start, end)| self.bytes.get(start..end)).unwrap_or_default();
        let blank = record.iter().take_while(|byte| matches!(byte, b'\n' | b'\r')).count();
        let begin = range.map_or(self.at, |(start, _)| start + blank);
        let passed = self.bytes.get(self.at..begin).unwrap_or_default();
        let ends = passed.iter().filter(|byte| **byte == b'\n').count();
        self.line = self.line.saturating_add(u64::try_from(ends).unwrap_or(u64::MAX));
        self.at = self.at.max(begin);
        (self.line, record)
    }
}
