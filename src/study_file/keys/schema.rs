//! The JSON Schema of a study file, for editors: it completes keys, shows what they do, and marks what cannot be.
//!
//! Made from the entries alone. It must never refuse what `check` takes; what only several keys together say, it cannot see.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{About, Described, Least, Preset, Takes};
use crate::study_file::check::ROOT;

/// No duration of ours is without a digit and a unit; a minus makes it negative.
const DURATION: &str = r"^[^-]*[0-9].*[A-Za-z\u00b5\u03bc:]|^\+?P[^-]*[0-9]";
/// Without a digit above 0 it is nothing.
const NOTHING: &str = "^[^1-9]*$";
/// Numbers with units of bytes.
const SIZE: &str = r"^\s*[0-9]+(\.[0-9]{1,9})?\s*(([KkMmGgTt][Ii]?)?[Bb])?\s*$";
const SIZE_LEAST: u32 = 1 << 20;

/// The JSON Schema (draft 7, which editors of TOML know) of a study file.
#[must_use]
pub fn schema() -> String {
    let mut definitions = BTreeMap::new();
    let mut root = table(&ROOT, true, &mut definitions);
    root.insert("$schema".to_owned(), json!("http://json-schema.org/draft-07/schema#"));
    root.insert("title".to_owned(), json!("A study file of piton"));
    root.insert("allOf".to_owned(), json!(said_somewhere(&ROOT)));
    root.insert("definitions".to_owned(), json!(definitions));
    let mut text = serde_json::to_string_pretty(&root).unwrap_or_default();
    text.push('\n');
    text
}

type Definitions = BTreeMap<String, Value>;

/// What a section's table can be. Of one that defaults are for, nothing is required by itself.
fn table(section: &dyn Described, required: bool, definitions: &mut Definitions) -> Map<String, Value> {
    let mut keys = Map::new();
    for about in section.keys() {
        keys.insert(about.name.to_owned(), property(about, definitions));
    }
    let must = |about: &&&About| matches!(about.preset, Preset::Required(_));
    let names: Vec<&str> = section.keys().iter().filter(must).map(|about| about.name).collect();
    let mut table = Map::new();
    table.insert("description".to_owned(), json!(section.doc()));
    table.insert("type".to_owned(), json!("object"));
    table.insert("additionalProperties".to_owned(), json!(false));
    table.insert("properties".to_owned(), json!(keys));
    if required && !names.is_empty() {
        table.insert("required".to_owned(), json!(names));
    }
    if !section.one_of().is_empty() {
        let each: Vec<Value> = section.one_of().iter().map(|name| json!({ "required": [name] })).collect();
        table.insert("oneOf".to_owned(), json!(each));
    }
    table
}

/// For tables with defaults: what is required stands in each of them, or in the defaults.
fn said_somewhere(root: &dyn Described) -> Vec<Value> {
    let keys = root.keys();
    let defaults = keys.iter().find_map(|about| match about.takes {
        Takes::Defaults(of) => Some((about.name, of)),
        _ => None,
    });
    let Some((defaults, of)) = defaults else { return Vec::new() };
    let home = keys
        .iter()
        .find(|about| matches!(about.takes, Takes::List(Takes::Table(table), _) if table.title() == of.title()));
    let Some(home) = home.map(|about| about.name) else { return Vec::new() };
    let must = |about: &&&About| matches!(about.preset, Preset::Required(_));
    let of_keys = of.keys();
    let each = of_keys.iter().filter(must).map(|about| {
        let name = about.name;
        json!({ "anyOf": [
            { "properties": { home: { "items": { "required": [name] } } } },
            { "properties": { defaults: { "required": [name] } }, "required": [defaults] },
        ] })
    });
    each.collect()
}

fn property(about: &About, definitions: &mut Definitions) -> Value {
    let value = takes(&about.takes, definitions);
    let mut property = match value {
        // Of what stands beside a reference nothing counts.
        Value::Object(reference) if reference.contains_key("$ref") => {
            Map::from_iter([("allOf".to_owned(), json!([reference]))])
        }
        Value::Object(property) => property,
        _ => Map::new(),
    };
    let preset = match about.preset {
        Preset::Words(words) => format!(" Default: {words}."),
        Preset::Value(value) => format!(" Default: {value}."),
        Preset::Required(_) => String::new(),
    };
    property.insert("description".to_owned(), json!(format!("{}{preset}", about.doc)));
    if let Preset::Value(value) = about.preset
        && let Ok(value) = serde_json::from_str::<Value>(value)
    {
        property.insert("default".to_owned(), value);
    }
    Value::Object(property)
}

fn takes(what: &Takes, definitions: &mut Definitions) -> Value {
    match what {
        Takes::Text => json!({ "type": "string" }),
        Takes::Filled(what) => json!({ "title": what, "type": "string", "minLength": 1 }),
        Takes::Form(pattern, what) => json!({ "title": what, "type": "string", "pattern": pattern }),
        Takes::But(form, taken) => json!({ "allOf": [takes(form, definitions)], "not": { "enum": taken() } }),
        Takes::Integer(least, most) => {
            let mut integer = Map::from_iter([("type".to_owned(), json!("integer"))]);
            let number = |number: i128| serde_json::Number::from_i128(number);
            integer.extend(number(*least).map(|least| ("minimum".to_owned(), json!(least))));
            integer.extend(number(*most).map(|most| ("maximum".to_owned(), json!(most))));
            Value::Object(integer)
        }
        Takes::Number(Least::Any) => json!({ "type": "number" }),
        Takes::Number(Least::Zero) => json!({ "type": "number", "minimum": 0 }),
        Takes::Number(Least::Above) => json!({ "type": "number", "exclusiveMinimum": 0 }),
        Takes::Number(Least::ShareOrZero) => json!({ "type": "number", "minimum": 0, "maximum": 1 }),
        Takes::Number(Least::Share) => json!({ "type": "number", "exclusiveMinimum": 0, "maximum": 1 }),
        Takes::Flag => json!({ "type": "boolean" }),
        Takes::Duration => json!({ "type": "string", "pattern": DURATION, "not": { "pattern": NOTHING } }),
        Takes::DurationOrZero => json!({ "type": "string", "pattern": DURATION }),
        Takes::Size => json!({ "anyOf": [
            { "type": "string", "pattern": SIZE },
            { "type": "integer", "minimum": SIZE_LEAST },
        ] }),
        Takes::Word(words) => json!({ "enum": words() }),
        Takes::Value => json!({ "type": ["string", "boolean", "integer", "number"] }),
        Takes::List(of, least) => json!({ "type": "array", "items": takes(of, definitions), "minItems": least }),
        Takes::Set(of, least) => json!({
            "type": "array",
            "items": takes(of, definitions),
            "uniqueItems": true,
            "minItems": least,
        }),
        Takes::Map(names, of, least) => json!({
            "type": "object",
            "propertyNames": takes(names, definitions),
            "additionalProperties": takes(of, definitions),
            "minProperties": least,
        }),
        Takes::Table(section) => reference(*section, true, definitions),
        Takes::Defaults(section) => reference(*section, false, definitions),
        Takes::Either(each) => {
            let each: Vec<Value> = each.iter().map(|one| takes(one, definitions)).collect();
            json!({ "anyOf": each })
        }
        Takes::Anything => json!({ "type": "object" }),
    }
}

/// A section's table is described once, wherever it stands.
fn reference(section: &'static dyn Described, required: bool, definitions: &mut Definitions) -> Value {
    let letter = |c: &char| c.is_ascii_alphanumeric() || ['_', '.'].contains(c);
    let name: String = section.title().replace(' ', "_").chars().filter(letter).collect();
    // What defaults are for is described without what is required; that stands at the root.
    let has_defaults = ROOT
        .keys
        .iter()
        .any(|key| matches!(key.about.takes, Takes::Defaults(of) if of.title() == section.title()));
    if !definitions.contains_key(&name) {
        definitions.insert(name.clone(), Value::Null);
        let table = table(section, required && !has_defaults, definitions);
        definitions.insert(name.clone(), Value::Object(table));
    }
    json!({ "$ref": format!("#/definitions/{name}") })
}
