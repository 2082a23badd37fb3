//! Cases out of JSON Lines: a flat object of strings, booleans and numbers a line, each with the same names.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use crate::model::Value;
use crate::spec::diagnostics::shown;
use crate::spec::types::SpecValue;

use super::Reading;

/// Reads all of a file's bytes.
pub(super) fn read(reading: &mut Reading, bytes: &[u8]) {
    for (number, line) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
        if line.trim_ascii().is_empty() {
            continue;
        }
        match serde_json::from_slice::<Object>(line) {
            Ok(Object(entries)) => object(reading, number, entries),
            Err(error) => reading.mistake(number, words(&error)),
        }
        if reading.full() {
            return;
        }
    }
}

fn object(reading: &mut Reading, line: u64, entries: Vec<(String, serde_json::Value)>) {
    let before = reading.mistakes.len();
    if reading.names.is_empty() {
        reading.header(line, entries.iter().map(|(name, _)| name.clone()).collect());
        if reading.names.is_empty() {
            reading.mistake(line, "the object is empty".to_owned());
            return;
        }
    }
    let header_is_good = reading.mistakes.len() == before;
    let mut row: Vec<Option<SpecValue>> = vec![None; reading.names.len()];
    for (name, value) in entries {
        let place = reading.positions.get(&name).and_then(|position| row.get_mut(*position));
        match (place, scalar(value)) {
            (Some(place), Ok(value)) => {
                if place.replace(value).is_some() && header_is_good {
                    reading.mistake(line, format!("the param {} is there twice", shown(&name)));
                }
            }
            (Some(_), Err(what)) => reading.mistake(line, format!("{} {what}", shown(&name))),
            (None, _) => {
                let message = format!("{} is not in the first case", shown(&name));
                reading.mistake_with(line, message, Some("every case has the same names"));
            }
        }
    }
    if reading.mistakes.len() > before {
        return;
    }
    let missing: Vec<String> =
        reading.names.iter().zip(&row).filter(|(_, value)| value.is_none()).map(|(name, _)| shown(name)).collect();
    for name in missing {
        reading.mistake(line, format!("{name} has no value"));
    }
    if let Some(row) = row.into_iter().collect() {
        reading.row(row);
    }
}

fn scalar(value: serde_json::Value) -> Result<SpecValue, &'static str> {
    let value = match value {
        serde_json::Value::String(text) if text.contains('\0') => {
            return Err("has a NUL character, which cannot be passed on");
        }
        serde_json::Value::String(text) => Value::Str(text),
        serde_json::Value::Number(number) if number.is_u64() && !number.is_i64() => return Err("is out of range"),
        serde_json::Value::Bool(flag) => Value::Bool(flag),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(number), _) => Value::Int(number),
            (None, Some(number)) if number.is_finite() => Value::Float(number),
            _ => return Err("must be a finite number"),
        },
        serde_json::Value::Null => return Err("has no value"),
        serde_json::Value::Array(_) | serde_json::Value::Object(_) => {
            return Err("must be a string, boolean or number");
        }
    };
    Ok(SpecValue(value))
}

/// serde_json's words for a line of its own, without the place: that is the file's line.
fn words(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let text = text.split(" at line ").next().unwrap_or(&text);
    let column = if error.column() > 0 { format!(" (column {})", error.column()) } else { String::new() };
    format!("no flat JSON object: {text}{column}")
}

/// An object's entries in the order of the text.
struct Object(Vec<(String, serde_json::Value)>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Object(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}
