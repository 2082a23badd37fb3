//! Cases out of JSON Lines: a flat object of strings, booleans and numbers a line. The first one has every name;
//! `null`, or no entry, is no value.

use serde_json::value::RawValue;

use crate::model::json::RawObject;
use crate::model::{Value, read_exactly};
use crate::study_file::diagnostics::shown;
use crate::study_file::types::SpecValue;

use super::{HAS_NUL, Reading};

pub(super) fn read(reading: &mut Reading<'_>, bytes: &[u8]) {
    for (number, line) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
        if line.trim_ascii().is_empty() {
            continue;
        }
        match std::str::from_utf8(line).map(serde_json::from_str::<RawObject<'_>>) {
            Ok(Ok(RawObject(entries))) => object(reading, (number, line), entries),
            Ok(Err(error)) => reading.mistake(number, words(&error)),
            Err(_) => reading.mistake(number, "the line is not UTF-8".to_owned()),
        }
        if reading.full() {
            return;
        }
    }
}

fn object(reading: &mut Reading<'_>, (number, line): (u64, &[u8]), entries: Vec<(String, &RawValue)>) {
    let before = reading.mistakes.len();
    if reading.names.is_empty() {
        let columns: Vec<String> = entries.iter().map(|(name, _)| name.clone()).collect();
        reading.header(number, &columns);
        if reading.names.is_empty() {
            reading.mistake(number, "the object is empty".to_owned());
            return;
        }
    }
    let mut good = true;
    let header_is_good = reading.mistakes.len() == before;
    let mut row: Vec<Option<SpecValue>> = vec![None; reading.names.len()];
    let mut given = vec![false; reading.names.len()];
    for (name, raw) in entries {
        let Some(position) = reading.positions.get(&name).copied() else {
            let message = format!("{} is not in the first case", shown(&name));
            let help = "the first case has every name; where a case has no such param, its value is null";
            reading.mistake_with(number, message, Some(help));
            good = false;
            continue;
        };
        match (scalar(raw), row.get_mut(position), given.get_mut(position)) {
            (Ok(value), Some(place), Some(given)) => {
                *place = value;
                if std::mem::replace(given, true) && header_is_good {
                    reading.mistake(number, format!("the param {} is there twice", shown(&name)));
                    good = false;
                }
            }
            (Err((what, help)), ..) => {
                let column = raw.get().as_ptr().addr().checked_sub(line.as_ptr().addr()).map(|at| at + 1);
                reading.mistake_at((number, column), format!("{} {what}", shown(&name)), help.as_deref());
                good = false;
            }
            _ => {}
        }
    }
    if good && header_is_good {
        reading.row(number, row);
    }
}

/// What is wrong with a value, and what to do.
type Wrong = (String, Option<String>);

/// `None`: the case has no such param.
fn scalar(raw: &RawValue) -> Result<Option<SpecValue>, Wrong> {
    let wrong = |what: &str| Err((what.to_owned(), None));
    let value = match raw.get() {
        "null" => return Ok(None),
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        text if text.starts_with('"') => match serde_json::from_str::<String>(text) {
            Ok(text) if text.contains('\0') => return wrong(HAS_NUL),
            Ok(text) => Value::Str(text),
            Err(_) => return wrong("is no text"),
        },
        text if text.starts_with(['[', '{']) => return wrong("must be a string, boolean or number"),
        number => number_of(number)?,
    };
    Ok(Some(SpecValue(value)))
}

fn number_of(text: &str) -> Result<Value, Wrong> {
    let is_integer = !text.contains(['.', 'e', 'E']) && text != "-0";
    match (text.parse(), read_exactly(text)) {
        (Ok(integer), _) if is_integer => Ok(Value::Int(integer)),
        _ if is_integer => {
            let help = "in quotes it is passed on as text".to_owned();
            Err(("is an integer of more than 64 bits".to_owned(), Some(help)))
        }
        (_, Ok(number)) => Ok(Value::Float(number)),
        (_, Err(Some(lost))) => Err((lost.to_string(), Some(lost.instead()))),
        (_, Err(None)) => Err(("is no number".to_owned(), None)),
    }
}

/// serde_json's words for a line of its own, without the place: that is the file's line.
fn words(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let text = text.split(" at line ").next().unwrap_or(&text);
    let column = if error.column() > 0 { format!(" (column {})", error.column()) } else { String::new() };
    format!("no flat JSON object: {text}{column}")
}
