//! Cases out of comma-separated values (RFC 4180): a header line with the params' names, then a case a line.
//!
//! A field is what stands between the commas, blanks included. A field in quotes is text; any other is a boolean or a
//! number if exactly that text comes back of it, and text otherwise. A field with nothing in it, not even quotes, is no
//! value: the case has no such param. Names of columns go without blanks around them.

use csv::{ByteRecord, ReaderBuilder, Trim};

use crate::model::words::counted;
use crate::model::{Value, read_measured};
use crate::study_file::diagnostics::shown;
use crate::study_file::raw::{Kind, Node, plain_value};
use crate::study_file::types::{SpecValue, Values};

use super::{HAS_NUL, Reading};

pub(super) fn read(reading: &mut Reading<'_>, bytes: &[u8]) {
    let trim = if reading.values == Values::Before { Trim::All } else { Trim::None };
    let mut reader = ReaderBuilder::new().has_headers(false).flexible(true).trim(trim).from_reader(bytes);
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
        match fields(reading, line, &record, raw) {
            Some(fields) if first => {
                let columns: Vec<String> = fields.iter().map(|field| field.text.trim().to_owned()).collect();
                reading.header(line, &columns);
            }
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

struct Field<'r> {
    text: &'r str,
    quoted: bool,
}

fn fields<'r>(reading: &mut Reading<'_>, line: u64, record: &'r ByteRecord, raw: &[u8]) -> Option<Vec<Field<'r>>> {
    const HELP: &str = "a field with quotes is quoted whole, with each quote inside doubled: \"6\"\" pipe\"";
    // Quotes inside a quoted field are doubled, so there are always as many that open as that close.
    if raw.iter().filter(|byte| **byte == b'"').count() % 2 == 1 {
        reading.mistake_with(line, "a quote is never closed".to_owned(), Some(HELP));
        return None;
    }
    let texts: Result<Vec<&str>, _> = record.iter().map(std::str::from_utf8).collect();
    let Ok(texts) = texts else {
        reading.mistake(line, "the line is not UTF-8".to_owned());
        return None;
    };
    if reading.values == Values::Before {
        return Some(texts.into_iter().map(|text| Field { text, quoted: false }).collect());
    }
    match quoted(raw) {
        Some(quoted) if quoted.len() == texts.len() => {
            Some(texts.into_iter().zip(quoted).map(|(text, quoted)| Field { text, quoted }).collect())
        }
        _ => {
            let message = "a quoted field has something before or after its quotes".to_owned();
            reading.mistake_with(line, message, Some(HELP));
            None
        }
    }
}

/// Which fields of a record are quoted; `None` where quotes do not enclose a field whole, blanks included.
fn quoted(raw: &[u8]) -> Option<Vec<bool>> {
    let ends = |byte: Option<&u8>| matches!(byte, None | Some(b',' | b'\r' | b'\n'));
    let blank = raw.iter().take_while(|byte| matches!(byte, b'\n' | b'\r')).count();
    let mut rest = raw.get(blank..)?;
    let mut found = Vec::new();
    loop {
        let is_quoted = rest.first() == Some(&b'"');
        let mut length = 0;
        if is_quoted {
            length = 1;
            // To the first quote that is not followed by another.
            loop {
                length += 1 + rest.get(length..)?.iter().position(|byte| *byte == b'"')?;
                if rest.get(length) != Some(&b'"') {
                    break;
                }
                length += 1;
            }
            if !ends(rest.get(length)) {
                return None;
            }
        } else {
            length += rest.iter().take_while(|byte| !ends(Some(byte))).count();
            if rest.get(..length)?.trim_ascii_start().starts_with(b"\"") {
                return None;
            }
        }
        found.push(is_quoted);
        match rest.get(length) {
            Some(b',') => rest = rest.get(length + 1..)?,
            _ => return Some(found),
        }
    }
}

fn row(reading: &mut Reading<'_>, line: u64, fields: &[Field<'_>]) {
    let expected = reading.names.len();
    if fields.len() != expected && expected > 0 {
        reading.mistake(line, format!("{}, but the header names {expected}", counted(fields.len(), "value")));
        return;
    }
    let mut values = Vec::with_capacity(expected);
    for (position, field) in fields.iter().enumerate() {
        let value = match reading.values {
            Values::Exact if reading.measures(position) => measured(field),
            Values::Exact => typed(field),
            Values::Before => typed_before(field.text).map(Some),
        };
        match value {
            Ok(value) => values.push(value),
            Err(what) => {
                let name = reading.names.get(position).map(|name| shown(name)).unwrap_or_default();
                reading.mistake(line, format!("{name} {what}"));
            }
        }
    }
    if values.len() == expected && expected > 0 {
        reading.row(line, values);
    }
}

/// `None`: the case has no such param.
fn typed(field: &Field<'_>) -> Result<Option<SpecValue>, &'static str> {
    if field.text.contains('\0') {
        return Err(HAS_NUL);
    }
    Ok(match (field.quoted, field.text) {
        (true, text) => Some(text.into()),
        (false, "") => None,
        (false, text) => Some(SpecValue(plain_value(text))),
    })
}

/// What a metric's field says, as `metrics.json` would: a number in any way of writing it, or a label.
fn measured(field: &Field<'_>) -> Result<Option<SpecValue>, &'static str> {
    let text = field.text.trim();
    if field.quoted || text.is_empty() {
        return typed(field);
    }
    let word = text.trim_start_matches(['+', '-']);
    if ["nan", "inf", "infinity"].iter().any(|known| word.eq_ignore_ascii_case(known)) {
        return Err("is no finite number");
    }
    match read_measured(text) {
        Ok(number) if number.is_finite() => Ok(Some(SpecValue(Value::Float(number)))),
        Ok(_) => Err("is no finite number"),
        Err(Some(_)) => Err("cannot be held exactly by a 64-bit float"),
        Err(None) => typed(field),
    }
}

/// How fields were understood at first.
fn typed_before(field: &str) -> Result<SpecValue, &'static str> {
    if field.is_empty() {
        return Err("has no value");
    }
    let value = match Node::of_text(field, Values::Before).map(|node| node.kind) {
        Some(Kind::Str(text)) if !text.contains('\0') => Value::Str(text),
        Some(Kind::Bool(flag)) => Value::Bool(flag),
        Some(Kind::Int(number)) => Value::Int(i64::try_from(number).map_err(|_| "is out of range")?),
        Some(Kind::Float(number)) if number.is_finite() => Value::Float(number),
        Some(Kind::Float(_)) => return Err("must be a finite number"),
        _ => return Err(HAS_NUL),
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
