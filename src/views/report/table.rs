//! The trials as data for the page's table: columns of JSON, so that ten thousand of them stay small.
//!
//! It goes into a script element that is no script; `<` is written so that no text of a trial can end that element.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::Serialize;
use serde_json::Value as Json;

use super::charts::short;
use super::gather::{Gathered, StageData, TrialData};
use crate::model::{Metric, Value};
use crate::study_file::{Spec, Work};

/// Longest text of a cell, columns: a table of many must stay small, and `dump` has all of it.
const TEXT_MAX: usize = 500;

#[derive(Serialize)]
struct Table<'a> {
    /// Where the attempts' directories are, as an address relative to the page; null: not to be linked.
    base: Option<&'a str>,
    stages: Vec<Stage<'a>>,
}

#[derive(Serialize)]
struct Stage<'a> {
    index: u32,
    name: &'a str,
    left_out: u64,
    /// Whether its attempts have logs: closures have none.
    logs: bool,
    params: &'a [String],
    metrics: &'a [String],
    /// A column each: the trials' own index, then state, survivor, attempts, wall time in ms, failure.
    i: Vec<u64>,
    state: Words<'a>,
    survivor: Vec<u8>,
    /// Who went on to explore; left out where nobody did.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    explorer: Vec<u8>,
    attempts: Vec<u32>,
    /// Of these the first so many were discarded; left out where none was.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    gone: Vec<u32>,
    ms: Vec<Option<u64>>,
    failure: Words<'a>,
    parent: Words<'a>,
    /// A column a param, then a column a metric; texts as in `Words`.
    values: Vec<Column<'a>>,
}

/// A column of texts, each said once.
#[derive(Default, Serialize)]
struct Words<'a> {
    words: Vec<Cow<'a, str>>,
    /// Places in `words`; -1: none.
    at: Vec<i64>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Column<'a> {
    Numbers(Vec<Json>),
    Words(Words<'a>),
}

impl<'a> FromIterator<Option<Cow<'a, str>>> for Words<'a> {
    fn from_iter<T: IntoIterator<Item = Option<Cow<'a, str>>>>(texts: T) -> Self {
        let mut places: HashMap<Cow<'a, str>, i64> = HashMap::new();
        let mut column = Self::default();
        for text in texts {
            let text = text.map(|text| if text.len() > TEXT_MAX { short(&text, TEXT_MAX).into() } else { text });
            column.at.push(text.map_or(-1, |text| {
                *places.entry(text).or_insert_with_key(|text| {
                    column.words.push(text.clone());
                    i64::try_from(column.words.len()).unwrap_or(0) - 1
                })
            }));
        }
        column
    }
}

/// The data, ready for a script element.
pub(super) fn data(spec: &Spec, gathered: &Gathered, base: Option<&str>) -> String {
    let table = Table { base, stages: gathered.stages.iter().map(|data| stage(spec, data)).collect() };
    let text = serde_json::to_string(&table).unwrap_or_else(|_| "null".to_owned());
    // Within JSON these can only be parts of strings.
    text.replace('<', "\\u003c").replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029")
}

/// Why it failed, and whether it counts at all.
fn failure_words(trial: &TrialData) -> Option<String> {
    let failure = trial.failure.as_ref().map(|(kind, reason)| format!("{kind}: {reason}"));
    match (trial.outside, failure) {
        (true, Some(failure)) => Some(format!("outside; {failure}")),
        (true, None) => Some("outside".to_owned()),
        (false, failure) => failure,
    }
}

fn stage<'a>(spec: &Spec, stage: &'a StageData) -> Stage<'a> {
    let trials = &stage.trials;
    let param =
        |name: &String| column(trials.iter().map(|trial| trial.params.get(name).map_or(Json::Null, param_json)));
    let metric =
        |name: &String| column(trials.iter().map(|trial| trial.metrics.get(name).map_or(Json::Null, metric_json)));
    Stage {
        index: stage.row.index,
        name: &stage.row.name,
        left_out: stage.left_out,
        logs: spec.stages.get(stage.row.index as usize).is_some_and(|declared| declared.work != Work::Closure),
        params: &stage.all_params,
        metrics: &stage.metrics,
        i: trials.iter().map(|trial| trial.index).collect(),
        state: trials.iter().map(|trial| Some(trial.state.name().into())).collect(),
        survivor: trials.iter().map(|trial| u8::from(trial.survivor)).collect(),
        explorer: match trials.iter().any(|trial| trial.explorer) {
            true => trials.iter().map(|trial| u8::from(trial.explorer)).collect(),
            false => Vec::new(),
        },
        attempts: trials.iter().map(|trial| trial.attempts).collect(),
        gone: match trials.iter().any(|trial| trial.gone > 0) {
            true => trials.iter().map(|trial| trial.gone).collect(),
            false => Vec::new(),
        },
        ms: trials.iter().map(|trial| trial.wall_us.map(|us| us / 1_000)).collect(),
        failure: trials.iter().map(|trial| failure_words(trial).map(Cow::Owned)).collect(),
        parent: trials.iter().map(|trial| Some(trial.parent.as_str().into())).collect(),
        values: stage.all_params.iter().map(param).chain(stage.metrics.iter().map(metric)).collect(),
    }
}

fn column(values: impl Iterator<Item = Json>) -> Column<'static> {
    let values: Vec<Json> = values.collect();
    if values.iter().all(|value| value.is_number() || value.is_null()) {
        return Column::Numbers(values);
    }
    let text = |value: Json| match value {
        Json::Null => None,
        Json::String(text) => Some(text.into()),
        other => Some(other.to_string().into()),
    };
    Column::Words(values.into_iter().map(text).collect())
}

fn param_json(value: &Value) -> Json {
    match value {
        Value::Str(text) => text.as_str().into(),
        Value::Bool(flag) => (*flag).into(),
        // Beyond what a script's numbers hold exactly.
        Value::Int(number) if number.unsigned_abs() > 1 << 53 => number.to_string().into(),
        Value::Int(number) => (*number).into(),
        Value::Float(number) => (*number).into(),
    }
}

fn metric_json(metric: &Metric) -> Json {
    match metric {
        Metric::Number(number) => (*number).into(),
        Metric::Label(label) => label.as_str().into(),
    }
}
