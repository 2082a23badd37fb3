//! What a trial that was run again did otherwise than the store says. Pure.

use std::collections::BTreeSet;

use serde::Serialize;

use super::limits::{Limits, Moved};
use crate::model::{Failure, FailureKind, Metric, Metrics, OutputHash, TrialRow, TrialState, Verdict};
use crate::views::text::{clean, counted, number};

/// Something that is not as recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What: `outcome`, or a metric or output by name.
    pub what: String,
    /// What the store has, in words.
    pub recorded: String,
    /// What came out now, in words.
    pub now: String,
}

/// How an attempt's end differs from the recorded result: its outcome, its metrics beyond their tolerances (whichever way
/// they moved), its outputs' contents. Of failures only the kind is compared: reasons quote logs. `None` when the trial
/// has no recorded result, or the attempt was cut off.
#[must_use]
pub fn differences(recorded: &TrialRow, now: &Verdict, limits: &Limits) -> Option<Vec<Difference>> {
    let no_failure = Failure::new(FailureKind::Unknown, "not recorded");
    let before = recorded.failure.as_ref().unwrap_or(&no_failure);
    let outcome = |recorded: String, now: String| vec![Difference { what: "outcome".into(), recorded, now }];
    Some(match (recorded.state, now) {
        (TrialState::Succeeded, Verdict::Succeeded { metrics, outputs }) => {
            let mut found = metrics_differ(&recorded.metrics, metrics, limits);
            found.extend(outputs_differ(&recorded.outputs, outputs));
            found
        }
        (TrialState::Succeeded, Verdict::Failed(failure)) => outcome("succeeded".into(), failed(failure)),
        (TrialState::Failed, Verdict::Succeeded { .. }) => outcome(failed(before), "succeeded".into()),
        (TrialState::Failed, Verdict::Failed(failure)) if failure.kind != before.kind => {
            outcome(failed(before), failed(failure))
        }
        (TrialState::Failed, Verdict::Failed(_)) => Vec::new(),
        (
            TrialState::Pending
            | TrialState::Running
            | TrialState::Cancelled
            | TrialState::Pruned
            | TrialState::Undecided,
            _,
        )
        | (_, Verdict::Interrupted { .. } | Verdict::Cancelled) => return None,
    })
}

fn failed(failure: &Failure) -> String {
    format!("failed: {}: {}", failure.kind, clean(&failure.reason))
}

fn metrics_differ(recorded: &Metrics, now: &Metrics, limits: &Limits) -> Vec<Difference> {
    let names: BTreeSet<&String> = recorded.keys().chain(now.keys()).collect();
    let differs = |name: &String| match (recorded.get(name), now.get(name)) {
        (Some(Metric::Number(before)), Some(Metric::Number(after))) => {
            limits.judge(name, *before, *after) != Moved::Within
        }
        (before, after) => before != after,
    };
    let text = |metric: Option<&Metric>| match metric {
        None => "none".to_owned(),
        Some(Metric::Number(value)) => number(*value),
        Some(Metric::Label(label)) => clean(label),
    };
    let different = names.into_iter().filter(|name| limits.includes(name) && differs(name));
    different
        .map(|name| Difference {
            what: format!("metric `{}`", clean(name)),
            recorded: text(recorded.get(name)),
            now: text(now.get(name)),
        })
        .collect()
}

fn outputs_differ(recorded: &[OutputHash], now: &[OutputHash]) -> Vec<Difference> {
    let names: BTreeSet<&str> = recorded.iter().chain(now).map(|output| output.path.as_str()).collect();
    let of = |outputs: &[OutputHash], name: &str| outputs.iter().find(|output| output.path == name).cloned();
    let text = |output: Option<OutputHash>| match output {
        None => "none".to_owned(),
        Some(output) => {
            let hash = crate::views::words::hex(&output.blake3);
            format!("{}, blake3 {}…", counted(output.bytes, "byte"), hash.get(..12).unwrap_or(&hash))
        }
    };
    names
        .into_iter()
        .map(|name| (name, of(recorded, name), of(now, name)))
        .filter(|(_, before, after)| before != after)
        .map(|(name, before, after)| Difference {
            what: format!("output `{}`", clean(name)),
            recorded: text(before),
            now: text(after),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::TrialId;
    use crate::views::compare::Tolerance;

    fn output(path: &str, byte: u8) -> OutputHash {
        OutputHash { path: path.into(), bytes: 1, blake3: [byte; 32] }
    }

    fn row(state: TrialState) -> TrialRow {
        TrialRow {
            trial: TrialId(0),
            stage: 0,
            state,
            due_ms: 0,
            failures: 0,
            attempts: Vec::new(),
            metrics: metrics(1.0, "fast"),
            failure: (state == TrialState::Failed)
                .then(|| Failure::new(FailureKind::Timeout, "ran longer than 1 s")),
            outputs: vec![output("a", 1), output("b", 2)],
            identity: None,
            reused_from: None,
            imported: None,
            watched: None,
            discarded: Vec::new(),
            given: Vec::new(),
        }
    }

    fn metrics(time_s: f64, label: &str) -> Metrics {
        Metrics::from([("time_s".into(), Metric::Number(time_s)), ("tool".into(), Metric::Label(label.into()))])
    }

    fn succeeded(metrics: Metrics, outputs: Vec<OutputHash>) -> Verdict {
        Verdict::Succeeded { metrics, outputs }
    }

    fn found(state: TrialState, now: &Verdict, limits: &Limits) -> Vec<String> {
        let found = differences(&row(state), now, limits).unwrap();
        found.into_iter().map(|d| format!("{}: {} | {}", d.what, d.recorded, d.now)).collect()
    }

    #[test]
    fn metrics_labels_and_outputs_are_compared() {
        let any = Limits::default();
        let same = succeeded(metrics(1.0, "fast"), vec![output("b", 2), output("a", 1)]);
        assert_eq!(found(TrialState::Succeeded, &same, &any), [""; 0]);
        let mut other = metrics(1.25, "slow");
        other.insert("more".into(), Metric::Number(3.0));
        let other = succeeded(other, vec![output("a", 9)]);
        assert_eq!(
            found(TrialState::Succeeded, &other, &any),
            [
                "metric `more`: none | 3",
                "metric `time_s`: 1 | 1.25",
                "metric `tool`: fast | slow",
                "output `a`: 1 byte, blake3 010101010101… | 1 byte, blake3 090909090909…",
                "output `b`: 1 byte, blake3 020202020202… | none",
            ]
        );
        let limits = Limits {
            tolerances: BTreeMap::from([("time_s".into(), Tolerance::parse("25%").unwrap())]),
            only: BTreeSet::from(["time_s".into()]),
            ..Limits::default()
        };
        assert_eq!(found(TrialState::Succeeded, &other, &limits).len(), 2, "the outputs alone");
    }

    #[test]
    fn outcomes_are_compared_by_kind() {
        let any = Limits::default();
        let late = Verdict::Failed(Failure::new(FailureKind::Timeout, "ran longer than 2 s"));
        assert_eq!(found(TrialState::Failed, &late, &any), [""; 0]);
        assert_eq!(
            found(TrialState::Succeeded, &late, &any),
            ["outcome: succeeded | failed: timeout: ran longer than 2 s"]
        );
        let killed = Verdict::Failed(Failure::new(FailureKind::Signal, "killed by SIGKILL"));
        assert_eq!(
            found(TrialState::Failed, &killed, &any),
            ["outcome: failed: timeout: ran longer than 1 s | failed: signal: killed by SIGKILL"]
        );
        assert_eq!(found(TrialState::Failed, &succeeded(Metrics::new(), vec![]), &any).len(), 1);
        assert_eq!(differences(&row(TrialState::Pending), &late, &any), None);
        let cut = Verdict::Interrupted { reason: "by hand".into() };
        assert_eq!(differences(&row(TrialState::Succeeded), &cut, &any), None);
    }
}
