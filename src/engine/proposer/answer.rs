//! What a proposer's line says, held against the sweep it chooses from.
//!
//! Whatever the line is, it becomes values that the sweep allows, "no more", or words for what is wrong with it.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::model::json::RawObject;
use crate::model::{Lost, Value, read_measured};
use crate::study_file::{Domain, SpecValue, SweepParam};

/// A line, understood.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Line {
    /// In the sweep's order.
    Values(Vec<(String, Value)>),
    /// It has no more.
    Done,
}

/// Longest part of a line shown in a message, characters.
const SHOWN_CHARS: usize = 80;

/// Reads a line that answers question `ask`.
///
/// # Errors
/// What is wrong with it, in words.
pub(super) fn read(line: &str, ask: u64, sweep: &[SweepParam]) -> Result<Line, String> {
    let line = line.strip_prefix('\u{feff}').unwrap_or(line).trim();
    let shown = || shown(line);
    let Ok(object) = serde_json::from_str::<RawObject<'_>>(line) else {
        return Err(format!(
            "its answer is no JSON object: `{}` (only answers may go to its standard output)",
            shown()
        ));
    };
    // Who says which question it answers is held to that: an answer too many would answer the next one.
    let is_other =
        |answered: &&str| read_measured(answered).map(|number| number.to_string()) != Ok(ask.to_string());
    if let Some(answered) = object.get("ask").map(RawValue::get).filter(is_other) {
        return Err(format!("it answered question {} where question {ask} was asked", self::shown(answered)));
    }
    if object.get("done").map(RawValue::get) == Some("true") {
        return Ok(Line::Done);
    }
    let params = object.get("params").and_then(|params| serde_json::from_str::<RawObject<'_>>(params.get()).ok());
    let Some(params) = params else {
        return Err(format!("its answer has neither `params` nor `done`: `{}`", shown()));
    };
    let is_swept = |name: &str| sweep.iter().any(|swept| swept.name == name);
    if let Some((stranger, _)) = params.0.iter().find(|(name, _)| !is_swept(name)) {
        return Err(format!("it proposed `{}`, which the sweep does not have", self::shown(stranger)));
    }
    let value = |swept: &SweepParam| {
        let Some(given) = params.get(&swept.name).map(RawValue::get) else {
            return Err(format!("its answer has no value for `{}`: `{}`", swept.name, shown()));
        };
        let value = within(given, &swept.domain).map_err(|lost| {
            let what = lost.map_or_else(|| "the sweep does not allow".to_owned(), |lost| lost.to_string());
            format!("it proposed {} = {}, which {what}", swept.name, self::shown(given))
        })?;
        Ok((swept.name.clone(), value))
    };
    Ok(Line::Values(sweep.iter().map(value).collect::<Result<_, _>>()?))
}

/// A value as a sweep's param has it; `None`: the sweep does not allow it.
pub(super) fn allowed(value: &Value, domain: &Domain) -> Option<Value> {
    let text = serde_json::to_string(&SpecValue(value.clone())).ok()?;
    within(&text, domain).ok()
}

/// The values of a result as a sweep has them, in its order; why it has no such values, in words.
///
/// # Errors
/// Those words.
pub(crate) fn told_values(
    sweep: &[SweepParam],
    params: &BTreeMap<String, Value>,
) -> Result<Vec<(String, Value)>, String> {
    let value = |swept: &SweepParam| {
        let given = params.get(&swept.name).ok_or_else(|| format!("it has no value for `{}`", swept.name))?;
        let value = allowed(given, &swept.domain)
            .ok_or_else(|| format!("the sweep does not allow {} = {}", swept.name, shown(&given.to_string())))?;
        Ok((swept.name.clone(), value))
    };
    sweep.iter().map(value).collect()
}

/// The beginning of a line, fit for a message.
pub(super) fn shown(line: &str) -> String {
    let mut letters = line.chars().map(|letter| if letter.is_control() { ' ' } else { letter });
    let start: String = letters.by_ref().take(SHOWN_CHARS).collect();
    if letters.next().is_some() { format!("{start}…") } else { start }
}

/// The value as the sweep writes it; or what a float loses of it, or nothing: it is not allowed. JSON does not tell 2 from
/// 2.0 apart in every language, so numbers are compared as such.
fn within(given: &str, domain: &Domain) -> Result<Value, Option<Lost>> {
    match domain {
        Domain::Choices(choices) => {
            let same = choices.iter().map(|choice| &choice.0).find(|choice| same(given, choice));
            same.cloned().ok_or(None)
        }
        Domain::Float { min, max, .. } => {
            let number = read_measured(given)?;
            // A value at an end may have been rounded beyond it on its way.
            let nearly = |bound: f64| (number - bound).abs() <= (max - min) * 1e-12;
            match number {
                number if number >= *min && number <= *max => Ok(Value::Float(number)),
                number if number < *min && nearly(*min) => Ok(Value::Float(*min)),
                number if number > *max && nearly(*max) => Ok(Value::Float(*max)),
                _ => Err(None),
            }
        }
        Domain::Int { min, max, .. } => {
            integer(given).filter(|number| (min..=max).contains(&number)).map(Value::Int).ok_or(None)
        }
    }
}

fn same(given: &str, choice: &Value) -> bool {
    match choice {
        Value::Str(text) => serde_json::from_str::<String>(given).is_ok_and(|given| given == *text),
        Value::Bool(flag) => given == flag.to_string(),
        Value::Int(number) => integer(given) == Some(*number),
        Value::Float(number) => read_measured(given).is_ok_and(|given| given.to_bits() == number.to_bits()),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the guard leaves floats that are integers within 53 bits")]
fn integer(given: &str) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let whole = |number: &f64| number.fract() == 0.0 && number.abs() <= EXACT;
    let float = || read_measured(given).ok().filter(whole).map(|number| number as i64);
    given.parse().ok().or_else(float)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sweep() -> Vec<SweepParam> {
        let swept = |name: &str, domain| SweepParam { name: name.into(), domain };
        vec![
            swept("x", Domain::Float { min: -1.0, max: 2.5, steps: None, log: false }),
            swept("n", Domain::Int { min: 1, max: 8, steps: None, log: false }),
            swept("kind", Domain::Choices(vec!["a".into(), 3.into(), true.into(), 0.5.into()])),
        ]
    }

    fn words(line: &str) -> String {
        match read(line, 7, &sweep()) {
            Ok(Line::Values(values)) => {
                values.iter().map(|(name, value)| format!("{name}={value:?}")).collect::<Vec<_>>().join(" ")
            }
            Ok(Line::Done) => "done".into(),
            Err(why) => why,
        }
    }

    #[test]
    fn values_come_in_the_sweeps_order_and_types() {
        assert_eq!(words(r#"{"params":{"kind":"a","n":2,"x":1}}"#), r#"x=Float(1.0) n=Int(2) kind=Str("a")"#);
        assert_eq!(words(r#"{"params":{"kind":3.0,"n":8.0,"x":2.5}}"#), "x=Float(2.5) n=Int(8) kind=Int(3)");
        assert_eq!(
            words(r#"{"params":{"kind":true,"n":1,"x":-1.0000000000000002}}"#),
            "x=Float(-1.0) n=Int(1) kind=Bool(true)"
        );
        assert_eq!(words(r#"{"done":true}"#), "done");
        assert_eq!(words("\u{feff}{\"done\":true}\r\n"), "done");
        // Inside the range nothing is moved, however near an end it is.
        let near = r#"{"ask":7.0,"params":{"kind":0.5,"n":8,"x":-0.9999999999999999}}"#;
        assert_eq!(words(near), "x=Float(-0.9999999999999999) n=Int(8) kind=Float(0.5)");
    }

    #[test]
    fn what_the_sweep_does_not_allow_is_told() {
        let allowed = |params: &str| words(&format!(r#"{{"params":{params}}}"#));
        assert_eq!(allowed(r#"{"x":3,"n":1,"kind":"a"}"#), "it proposed x = 3, which the sweep does not allow");
        assert_eq!(allowed(r#"{"x":1,"n":0,"kind":"a"}"#), "it proposed n = 0, which the sweep does not allow");
        assert_eq!(
            allowed(r#"{"x":1,"n":1.5,"kind":"a"}"#),
            "it proposed n = 1.5, which the sweep does not allow"
        );
        assert_eq!(
            allowed(r#"{"x":1,"n":1,"kind":"b"}"#),
            "it proposed kind = \"b\", which the sweep does not allow"
        );
        assert_eq!(
            allowed(r#"{"x":"1","n":1,"kind":"a"}"#),
            "it proposed x = \"1\", which the sweep does not allow"
        );
        assert_eq!(
            allowed(r#"{"x":null,"n":1,"kind":"a"}"#),
            "it proposed x = null, which the sweep does not allow"
        );
        assert_eq!(allowed(r#"{"x":1,"n":1,"kind":"a","y":1}"#), "it proposed `y`, which the sweep does not have");
        assert_eq!(
            allowed(r#"{"x":1e-400,"n":1,"kind":"a"}"#),
            "it proposed x = 1e-400, which is too small for a 64-bit float: it would become 0"
        );
        assert_eq!(
            allowed(r#"{"x":1,"n":9007199254740993.0,"kind":"a"}"#),
            "it proposed n = 9007199254740993.0, which the sweep does not allow"
        );
        let large = [SweepParam {
            name: "x".into(),
            domain: Domain::Float { min: 0.0, max: 1e17, steps: None, log: false },
        }];
        assert_eq!(
            read(r#"{"params":{"x":9007199254740993}}"#, 0, &large).unwrap_err(),
            "it proposed x = 9007199254740993, which cannot be held exactly by a 64-bit float"
        );
        assert_eq!(
            words(r#"{"ask":6,"params":{"x":1,"n":1,"kind":"a"}}"#),
            "it answered question 6 where question 7 was asked"
        );
        assert!(allowed(r#"{"x":1,"kind":"a"}"#).starts_with("its answer has no value for `n`"));
    }

    #[test]
    fn what_is_no_answer_is_told() {
        for line in ["", "hello", "[1]", "{", "{\"params\":{}", "\u{0}", "NaN", &"[".repeat(100_000)] {
            assert!(words(line).starts_with("its answer is no JSON object"), "{line:.20}");
        }
        for line in ["{}", r#"{"done":false}"#, r#"{"done":1}"#, r#"{"params":[1]}"#, r#"{"params":null}"#] {
            assert!(words(line).starts_with("its answer has neither"), "{line}");
        }
        assert!(words(&format!("x{}", "é".repeat(1000))).len() < 400);
    }
}
