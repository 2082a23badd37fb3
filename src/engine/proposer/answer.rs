//! What a proposer's line says, held against the sweep it chooses from.
//!
//! Whatever the line is, it becomes values that the sweep allows, "no more", or words for what is wrong with it.

use serde_json::Value as Json;

use crate::model::Value;
use crate::spec::{Domain, SweepParam};

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

/// Reads a line.
///
/// # Errors
/// What is wrong with it, in words.
pub(super) fn read(line: &str, sweep: &[SweepParam]) -> Result<Line, String> {
    let shown = || shown(line.trim());
    let Ok(Json::Object(object)) = serde_json::from_str(line) else {
        return Err(format!(
            "its answer is no JSON object: `{}` (only answers may go to its standard output)",
            shown()
        ));
    };
    if object.get("done") == Some(&Json::Bool(true)) {
        return Ok(Line::Done);
    }
    let Some(Json::Object(params)) = object.get("params") else {
        return Err(format!("its answer has neither `params` nor `done`: `{}`", shown()));
    };
    if let Some(stranger) = params.keys().find(|name| !sweep.iter().any(|swept| swept.name == **name)) {
        return Err(format!("it proposed `{stranger}`, which the sweep does not have"));
    }
    let value = |swept: &SweepParam| {
        let Some(given) = params.get(&swept.name) else {
            return Err(format!("its answer has no value for `{}`: `{}`", swept.name, shown()));
        };
        let value = within(given, &swept.domain)
            .ok_or_else(|| format!("it proposed {} = {given}, which the sweep does not allow", swept.name))?;
        Ok((swept.name.clone(), value))
    };
    Ok(Line::Values(sweep.iter().map(value).collect::<Result<_, _>>()?))
}

/// The beginning of a line, fit for a message.
fn shown(line: &str) -> String {
    let mut letters = line.chars().map(|letter| if letter.is_control() { ' ' } else { letter });
    let start: String = letters.by_ref().take(SHOWN_CHARS).collect();
    if letters.next().is_some() { format!("{start}…") } else { start }
}

/// The value as the sweep writes it. JSON does not tell 2 from 2.0 apart in every language, so numbers are compared as
/// such.
fn within(given: &Json, domain: &Domain) -> Option<Value> {
    match domain {
        Domain::Choices(choices) => {
            choices.iter().map(|choice| &choice.0).find(|choice| same(given, choice)).cloned()
        }
        Domain::Float { min, max, .. } => {
            let number = given.as_f64()?;
            // A value at an end may have been rounded beyond it on its way.
            let nearly = |bound: f64| (number - bound).abs() <= (max - min) * 1e-12;
            let number = if nearly(*min) {
                *min
            } else if nearly(*max) {
                *max
            } else {
                number
            };
            (number >= *min && number <= *max).then_some(Value::Float(number))
        }
        Domain::Int { min, max, .. } => {
            integer(given).filter(|number| (min..=max).contains(&number)).map(Value::Int)
        }
    }
}

fn same(given: &Json, choice: &Value) -> bool {
    match choice {
        Value::Str(text) => given.as_str() == Some(text),
        Value::Bool(flag) => given.as_bool() == Some(*flag),
        Value::Int(number) => integer(given) == Some(*number),
        Value::Float(number) => given.as_f64().is_some_and(|given| given.to_bits() == number.to_bits()),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the guard leaves floats that are integers within 53 bits")]
fn integer(given: &Json) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let whole = |number: &f64| number.fract() == 0.0 && number.abs() <= EXACT;
    given.as_i64().or_else(|| given.as_f64().filter(whole).map(|number| number as i64))
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
        match read(line, &sweep()) {
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
