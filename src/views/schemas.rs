//! The JSON Schemas in `docs/schema`, made from the types that are written. Only tests make them, so that the program does
//! without; `PITON_UPDATE_DOCS=1` writes them anew.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value as Json, json};

use super::compare::Compared;
use super::dump::schemas::{Dump, Event};
use super::dump::{MetricsOut, OutputsOut, ParamsOut, ProposedOut};
use super::status::Status;
use super::telemetry::{Checkpoint, StageTelemetry, StudyTelemetry};
use super::what_if::WhatIf;

/// The executors whose attempts are jobs.
#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case")]
#[expect(dead_code, reason = "only its schema is of use")]
pub(super) enum Cluster {
    Ray,
    Slurm,
}

/// Gives a type that writes itself the schema of another.
macro_rules! written_as {
    ($($type:ty = $schema:tt;)+) => {$(
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).split('<').next().unwrap_or_default().trim_end_matches("Out").into()
            }

            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                let _ = &generator;
                schemars::json_schema!($schema)
            }
        }
    )+};
}
written_as! {
    ParamsOut = { "type": "object", "additionalProperties": { "type": ["string", "boolean", "number"] } };
    ProposedOut<'_> = { "type": "object", "additionalProperties": { "type": ["string", "boolean", "number"] } };
    MetricsOut<'_> = { "type": "object", "additionalProperties": { "type": ["number", "string"] } };
}

impl JsonSchema for OutputsOut<'_> {
    fn schema_name() -> Cow<'static, str> {
        "Outputs".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        BTreeMap::<String, super::dump::schemas::Output>::json_schema(generator)
    }
}

/// Makes a schema as strict as what is written: no other keys, `null` only where it is written, times as they are
/// written, no negative durations. `whole` is false for what is only a part of an object.
fn strict(schema: &mut Json, whole: bool) {
    let Json::Object(schema) = schema else { return };
    let required: Vec<Json> = schema.get("required").and_then(Json::as_array).cloned().unwrap_or_default();
    if let Some(Json::Object(properties)) = schema.get_mut("properties") {
        for (name, value) in properties {
            if !required.contains(&json!(name)) {
                never_null(value);
            }
            let Json::Object(of_value) = value else { continue };
            if name == "at" || name.ends_with("_at") {
                of_value.insert("pattern".into(), json!(r"^[0-9]{4,}-[0-9]{2}-[0-9]{2}T[0-9:]{8}\.[0-9]{3}Z$"));
            }
            if name.ends_with("_s") && of_value.contains_key("format") {
                of_value.insert("minimum".into(), json!(0));
            }
            strict(value, true);
        }
    }
    for key in ["items", "additionalProperties"] {
        schema.get_mut(key).into_iter().for_each(|value| strict(value, true));
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        let parts = schema.get_mut(key).and_then(Json::as_array_mut);
        parts.into_iter().flatten().for_each(|value| strict(value, false));
    }
    for (_, value) in schema.get_mut("$defs").and_then(Json::as_object_mut).into_iter().flatten() {
        strict(value, false);
    }
    let composed = ["$ref", "properties", "allOf", "anyOf", "oneOf"].iter().any(|key| schema.contains_key(*key));
    if whole && composed {
        schema.insert("unevaluatedProperties".into(), json!(false));
    }
    // Names of Rust's own integers say nothing to others.
    schema.remove("format");
}

fn never_null(schema: &mut Json) {
    let Json::Object(map) = schema else { return };
    if let Some(Json::Array(types)) = map.get_mut("type") {
        types.retain(|name| name != "null");
    }
    if let Some(Json::Array(parts)) = map.get_mut("anyOf") {
        parts.retain(|part| *part != json!({ "type": "null" }));
    }
}

fn schema_of<T: JsonSchema>(title: &str, description: &str) -> String {
    let generator = SchemaSettings::draft2020_12().for_serialize().into_generator();
    let mut schema = generator.into_root_schema_for::<T>().to_value();
    strict(&mut schema, true);
    let mut head = Map::new();
    if let Json::Object(made) = schema {
        head = made;
    }
    head.insert("title".into(), title.into());
    head.insert("description".into(), description.into());
    serde_json::to_string_pretty(&head).unwrap() + "\n"
}

#[test]
fn the_schemas_are_those_of_what_is_written() {
    let line = "One line of telemetry.jsonl, and of `piton dump --events --format jsonl`: an event of the journal. `seq` counts from 1 \
        without gaps; `at` is when, by the wall clock; `run_s` is how long that run of the engine had lasted, in seconds.";
    for (name, made) in [
        ("dump", schema_of::<Dump<'_>>("piton dump", "What `piton dump --format json` writes.")),
        ("status", schema_of::<Status>("piton status", "What `piton status --json` writes.")),
        ("compare", schema_of::<Compared<'_>>("piton compare", "What `piton compare --json` writes.")),
        ("what_if", schema_of::<WhatIf>("piton what-if", "What `piton what-if --json` writes.")),
        ("telemetry", schema_of::<Event<'_>>("piton telemetry", line)),
        ("study_telemetry", schema_of::<StudyTelemetry<'_>>("study_telemetry.json", "A study in numbers.")),
        ("stage_telemetry", schema_of::<StageTelemetry<'_>>("stage_<i>_telemetry.json", "A stage in numbers.")),
        ("checkpoint", schema_of::<Checkpoint<'_>>("study_checkpoint.json", "The stages that are closed.")),
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("docs/schema/{name}.schema.json"));
        if std::env::var_os("PITON_UPDATE_DOCS").is_some() {
            std::fs::write(&path, &made).unwrap();
        }
        let there = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            there == made,
            "docs/schema/{name}.schema.json is not what is written: run this test with PITON_UPDATE_DOCS=1"
        );
    }
}
