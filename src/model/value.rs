//! Param and metric values.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::number::float_text;

/// A param's value. Floats are finite; the spec refuses others.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Text.
    Str(String),
    /// `true` or `false`.
    Bool(bool),
    /// A 64-bit integer.
    Int(i64),
    /// A finite float.
    Float(f64),
}

impl fmt::Display for Value {
    /// The one text of a value: in commands, tables and, but for quotes, in `params.json`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Str(text) => f.write_str(text),
            Self::Bool(flag) => flag.fmt(f),
            Self::Int(number) => number.fmt(f),
            Self::Float(number) => f.write_str(&float_text(*number)),
        }
    }
}

/// A case's params: constants, what its ancestors' sweeps chose, and its own sweep's values.
pub type Params = BTreeMap<String, Value>;

/// One metric: a finite number, or a label.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Metric {
    /// A finite number; objectives and rails read only these.
    Number(f64),
    /// Text to show beside the numbers.
    Label(String),
}

impl From<f64> for Metric {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

impl From<&str> for Metric {
    fn from(label: &str) -> Self {
        Self::Label(label.to_owned())
    }
}

impl From<String> for Metric {
    fn from(label: String) -> Self {
        Self::Label(label)
    }
}

impl Metric {
    /// The number; `None` of a label.
    #[must_use]
    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Label(_) => None,
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Label(label) => f.write_str(label),
        }
    }
}

/// A trial's metrics by name.
pub type Metrics = BTreeMap<String, Metric>;
