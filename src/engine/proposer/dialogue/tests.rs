//! Conversations with a proposer that is a closure.

use super::*;
use crate::model::{Metrics, TrialId};
use crate::study_file::Sampling;
use crate::{Range, Stage, Study};

/// Answers a question, given its message.
struct Closure<F> {
    answer: F,
    said: Vec<Json>,
    waiting: Option<String>,
}

impl<F: FnMut(&Json) -> i64> Partner for Closure<F> {
    fn say(&mut self, line: &str) -> Result<(), String> {
        let message: Json = serde_json::from_str(line).unwrap();
        if message["type"] == "ask" {
            self.waiting = Some(format!("{{\"params\":{{\"n\":{}}}}}", (self.answer)(&message)));
        }
        self.said.push(message);
        Ok(())
    }
    fn hear(&mut self) -> Result<String, String> {
        self.waiting.take().ok_or_else(|| "nothing was asked".to_owned())
    }
}

/// Trials that tried these values, all of which are final; odd ones failed.
struct Tried(Vec<i64>);

impl Past for Tried {
    fn values(&self, index: u64) -> Result<Vec<(String, Value)>, String> {
        let number = self.0.get(usize::try_from(index).unwrap()).ok_or("not recorded")?;
        Ok(vec![("n".into(), Value::Int(*number))])
    }
    fn trial(&self, index: u64) -> Result<TrialRow, String> {
        self.values(index)?;
        let failed = index % 2 == 1;
        Ok(TrialRow {
            trial: TrialId(index),
            stage: 0,
            state: if failed { TrialState::Failed } else { TrialState::Succeeded },
            due_ms: 0,
            failures: 0,
            attempts: Vec::new(),
            metrics: Metrics::from([("m".into(), Metric::Number(0.5))]),
            failure: None,
            outputs: Vec::new(),
            identity: None,
            reused_from: None,
            imported: None,
            watched: None,
            discarded: Vec::new(),
            given: Vec::new(),
        })
    }
    fn parent(&self, _: u64) -> Result<(String, Params), String> {
        Ok(("base".into(), Params::new()))
    }
    fn case(&self, index: u64) -> String {
        format!("s_0_{index}")
    }
    fn imported(&self) -> Result<Vec<ToldResult>, String> {
        let told = |name: &str, number| ToldResult {
            values: vec![(name.into(), Value::Int(number))],
            metrics: Metrics::from([("m".into(), Metric::Number(0.25))]),
        };
        // The second and the third do not fit the sweep any more.
        Ok(vec![told("n", 5), told("n", 100), told("k", 5), told("n", 6)])
    }
}

fn talk<F: FnMut(&Json) -> i64>(parallel: u32, answer: F) -> (Dialogue, Closure<F>) {
    let stage =
        Stage::unbound("s").budget(10).survivors(1).sampling(Sampling::Random).range("n", Range::int(0..=99));
    let spec = Study::builder("t").stage(stage).spec().unwrap();
    let mut partner = Closure { answer, said: Vec::new(), waiting: None };
    let stage = spec.stages.first().unwrap();
    let opening = Opening { study: "t", stage_index: 0, seed: 1, stage, parallel, params: Params::new() };
    let dialogue = Dialogue::open(&mut partner, &opening).unwrap();
    (dialogue, partner)
}

/// `ask` and `tell` with the case, `?` and `.` for short, in order.
fn order(said: &[Json]) -> String {
    let mark = |message: &Json| match message["type"].as_str().unwrap() {
        "ask" => "?",
        _ if message["repeated"] == true => "~",
        _ => ".",
    };
    let case = |message: &Json| message["case"].as_str().unwrap().rsplit('_').next().unwrap().to_owned();
    said.iter().skip(1).map(|message| format!("{}{}", mark(message), case(message))).collect::<Vec<_>>().join(" ")
}

fn proposed(number: i64, merged: u32) -> Proposed {
    Proposed::Values(vec![("n".into(), Value::Int(number))], merged)
}

#[test]
fn one_that_was_started_anew_is_asked_and_told_all_again() {
    let (mut dialogue, mut partner) = talk(2, |ask| ask["ask"].as_i64().unwrap() * 10);
    let past = Tried(vec![0, 10, 20]);
    assert_eq!(dialogue.propose(&mut partner, &past, 3), Ok(proposed(30, 0)));
    assert_eq!(order(&partner.said), "?0 ?1 .0 ?2 .1 ?3");
    assert_eq!(partner.said[2]["recorded"], serde_json::json!({"n": 10}));
    assert_eq!((&partner.said[3]["state"], &partner.said[5]["state"]), (&"succeeded".into(), &"failed".into()));
    let past = Tried(vec![0, 10, 20, 30]);
    dialogue.tell_all(&mut partner, &past, 4).unwrap();
    assert_eq!(order(&partner.said), "?0 ?1 .0 ?2 .1 ?3 .2 .3");
}

#[test]
fn what_was_imported_is_told_as_far_as_the_sweep_allows_it() {
    let (dialogue, mut partner) = talk(1, |_| 7);
    dialogue.tell_imported(&mut partner, &Tried(vec![])).unwrap();
    let told: Vec<_> = partner.said.iter().skip(1).cloned().collect();
    let of = |number: i64| {
        serde_json::json!({
            "type": "tell", "ask": null, "case": null, "params": {"n": number}, "state": "succeeded",
            "metrics": {"m": 0.25}, "failure": null, "repeated": false, "imported": true,
        })
    };
    assert_eq!(told, [of(5), of(6)]);
}

#[test]
fn what_is_recorded_stays_when_it_answers_otherwise() {
    let (mut dialogue, mut partner) = talk(1, |ask| ask["ask"].as_i64().unwrap() + 50);
    let past = Tried(vec![1, 2]);
    assert_eq!(dialogue.propose(&mut partner, &past, 2), Ok(proposed(52, 0)));
    assert_eq!(order(&partner.said), "?0 .0 ?1 .1 ?2");
    // The result is of what was run, not of what it says now.
    assert_eq!(partner.said[2]["params"], serde_json::json!({"n": 1}));
}

#[test]
fn a_repeated_case_is_told_when_its_time_comes() {
    // Trial 0 tries 7; then 7 again twice, then 8.
    let answers = [7, 7, 7, 8];
    let (mut dialogue, mut partner) =
        talk(2, |ask| answers[usize::try_from(ask["ask"].as_i64().unwrap()).unwrap()]);
    assert_eq!(dialogue.propose(&mut partner, &Tried(vec![]), 0), Ok(proposed(7, 0)));
    assert_eq!(dialogue.propose(&mut partner, &Tried(vec![7]), 1), Ok(proposed(8, 2)));
    dialogue.tell_all(&mut partner, &Tried(vec![7, 8]), 2).unwrap();
    assert_eq!(order(&partner.said), "?0 ?1 ?1 ?1 .0 ~0 ~0 .1");
    let asks: Vec<_> = partner.said.iter().filter(|m| m["type"] == "tell").map(|m| m["ask"].clone()).collect();
    assert_eq!(asks, [0, 1, 2, 3]);
}

#[test]
fn only_repetitions_are_an_end() {
    let (mut dialogue, mut partner) = talk(1, |_| 7);
    assert_eq!(dialogue.propose(&mut partner, &Tried(vec![]), 0), Ok(proposed(7, 0)));
    let end = dialogue.propose(&mut partner, &Tried(vec![7]), 1).unwrap();
    assert_eq!(end, Proposed::NoMore("its proposer repeated earlier cases 100 times in a row".into()));
}
