//! The conversation with a proposer: JSON lines, always the same ones in the same order.
//!
//! Before the question for trial `n` it has the results of the trials before `n - parallel + 1`, in their order, and no
//! others. A proposer that was started anew hears all questions and results again, from the first trial on: the journal
//! is its memory. If it then answers otherwise than it did, the journal is right, and every `tell` says what was really
//! run. A question is repeated when its answer is a case that the stage has already. Each question gets one `tell` at
//! some time, also a repeated one.

use std::collections::HashMap;

use serde::Serialize;
use serde_json::Value as Json;

use super::answer::{self, Line};
use crate::model::{Metric, Metrics, Params, Pruned, RungRow, ToldResult, TrialRow, TrialState, Value};
use crate::study_file::{Domain, Goal, SpecValue, StageSpec, SweepParam};

/// A proposer that repeats itself so often in a row has nothing new to say.
pub(super) const REPEATS_MAX: u32 = 100;

/// Whom to talk to.
pub(super) trait Partner {
    /// Writes a line.
    fn say(&mut self, line: &str) -> Result<(), String>;
    /// Waits for a line.
    fn hear(&mut self) -> Result<String, String>;
}

/// What is recorded of the stage's trials.
pub(super) trait Past {
    /// What was proposed for a trial.
    fn values(&self, index: u64) -> Result<Vec<(String, Value)>, String>;
    /// A final trial.
    fn trial(&self, index: u64) -> Result<TrialRow, String>;
    /// The case it derives from and that case's params.
    fn parent(&self, index: u64) -> Result<(String, Params), String>;
    fn case(&self, index: u64) -> String;
    /// What was imported to be told before the first question, in order.
    fn imported(&self) -> Result<Vec<ToldResult>, String>;
}

/// The first message to a proposer.
pub(super) struct Opening<'a> {
    pub(super) study: &'a str,
    pub(super) stage_index: u32,
    pub(super) seed: u32,
    pub(super) stage: &'a StageSpec,
    pub(super) parallel: u32,
    pub(super) params: Params,
}

/// What came of a question for a new trial.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Proposed {
    /// These values, after so many that repeated earlier cases.
    Values(Vec<(String, Value)>, u32),
    /// It has no more, in words.
    NoMore(String),
}

/// How far a conversation has come.
#[derive(Debug)]
pub(super) struct Dialogue {
    sweep: Vec<SweepParam>,
    parallel: u64,
    /// Trials it was asked for, and answered.
    asked: u64,
    /// Trials whose results it has.
    told: u64,
    /// Questions so far, repeated ones included.
    questions: u64,
    /// Which questions wait for the result of which trial.
    open: HashMap<u64, Vec<u64>>,
    /// Which trial has which values.
    known: HashMap<String, u64>,
    /// It did not repeat what it had said, and a warning said so.
    strays: bool,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Message<'a> {
    Start {
        protocol: u32,
        study: &'a str,
        stage: &'a str,
        stage_index: u32,
        seed: u32,
        trial_budget: u64,
        parallel: u32,
        params: Json,
        space: Json,
        objectives: Vec<Json>,
    },
    Ask {
        ask: u64,
        case: String,
        parent: String,
        parent_params: Json,
        #[serde(skip_serializing_if = "Option::is_none")]
        recorded: Option<Json>,
    },
    Tell {
        /// The question it answers; of an imported result there was none.
        ask: Option<u64>,
        case: Option<String>,
        params: Json,
        state: &'static str,
        metrics: Json,
        failure: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pruned: Option<Json>,
        /// What it showed at the rungs of its stage.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        rungs: Vec<Json>,
        repeated: bool,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        imported: bool,
    },
}

impl Dialogue {
    /// Opens the conversation.
    ///
    /// # Errors
    /// The partner cannot be written to, in words.
    pub(super) fn open(partner: &mut dyn Partner, opening: &Opening<'_>) -> Result<Self, String> {
        let stage = opening.stage;
        let objective = |metric: &str, goal: Goal| serde_json::json!({ "metric": metric, "goal": goal.name() });
        say(
            partner,
            &Message::Start {
                protocol: 1,
                study: opening.study,
                stage: &stage.name,
                stage_index: opening.stage_index,
                seed: opening.seed,
                trial_budget: stage.trial_budget,
                parallel: opening.parallel,
                params: object(opening.params.iter()),
                space: Json::Object(stage.sweep.iter().map(|s| (s.name.clone(), space(&s.domain))).collect()),
                objectives: stage.objectives.iter().map(|o| objective(&o.metric, o.goal)).collect(),
            },
        )?;
        Ok(Self {
            sweep: stage.sweep.clone(),
            parallel: opening.parallel.into(),
            asked: 0,
            told: 0,
            questions: 0,
            open: HashMap::new(),
            known: HashMap::new(),
            strays: false,
        })
    }

    /// Tells what was imported: before the first question, and whenever a proposer starts anew. What the sweep does not have is
    /// left out: it may have been amended since.
    ///
    /// # Errors
    /// As for [`Dialogue::open`]; the record cannot be read.
    pub(super) fn tell_imported(&self, partner: &mut dyn Partner, past: &dyn Past) -> Result<(), String> {
        for ToldResult { values, metrics } in past.imported()? {
            if !fits(&self.sweep, &values) {
                continue;
            }
            let message = Message::Tell {
                ask: None,
                case: None,
                params: object(values.iter().map(|(name, value)| (name, value))),
                state: TrialState::Succeeded.name(),
                metrics: metrics_json(&metrics),
                failure: None,
                pruned: None,
                rungs: Vec::new(),
                repeated: false,
                imported: true,
            };
            say(partner, &message)?;
        }
        Ok(())
    }

    /// Asks for a trial that is not recorded yet, after everything that came before it.
    ///
    /// # Errors
    /// The partner does not answer as it should, or the past cannot be read, in words.
    pub(super) fn propose(
        &mut self,
        partner: &mut dyn Partner,
        past: &dyn Past,
        index: u64,
    ) -> Result<Proposed, String> {
        while self.asked < index {
            self.repeat(partner, past)?;
        }
        let before = self.tell_before(partner, past, index)?;
        let mut merged = 0;
        loop {
            match self.question(partner, past, index, None)? {
                Line::Done => return Ok(Proposed::NoMore("its proposer has no more".into())),
                Line::Values(values) => match self.known.get(&key_of(&values)) {
                    None => {
                        self.answered(index, &values);
                        return Ok(Proposed::Values(values, merged));
                    }
                    Some(_) if merged >= REPEATS_MAX => {
                        return Ok(Proposed::NoMore(format!(
                            "its proposer repeated earlier cases {REPEATS_MAX} times in a row"
                        )));
                    }
                    Some(earlier) => {
                        merged += 1;
                        self.repeated(partner, past, *earlier, before)?;
                    }
                },
            }
        }
    }

    /// Tells of all trials up to `planned`, all of which are final.
    ///
    /// # Errors
    /// As for [`Dialogue::propose`].
    pub(super) fn tell_all(
        &mut self,
        partner: &mut dyn Partner,
        past: &dyn Past,
        planned: u64,
    ) -> Result<(), String> {
        while self.asked < planned {
            self.repeat(partner, past)?;
        }
        self.tell_until(partner, past, planned)
    }

    /// Asks again for a trial that is recorded, as often as it was asked for then.
    fn repeat(&mut self, partner: &mut dyn Partner, past: &dyn Past) -> Result<(), String> {
        let index = self.asked;
        let before = self.tell_before(partner, past, index)?;
        let recorded = past.values(index)?;
        let mut merged = 0;
        loop {
            let said = self.question(partner, past, index, Some(&recorded))?;
            match said {
                Line::Values(values) if values != recorded => {
                    if let Some(earlier) = self.known.get(&key_of(&values)).copied()
                        && merged < REPEATS_MAX
                    {
                        merged += 1;
                        self.repeated(partner, past, earlier, before)?;
                        continue;
                    }
                    self.stray(&past.case(index));
                }
                Line::Values(_) => {}
                Line::Done => self.stray(&past.case(index)),
            }
            self.answered(index, &recorded);
            return Ok(());
        }
    }

    fn stray(&mut self, case: &str) {
        if !std::mem::replace(&mut self.strays, true) {
            log::warn!(
                "the proposer does not repeat what it proposed for `{case}`: what is recorded stays, and it is told so"
            );
        }
    }

    /// Sends the results that come before the question for a trial; gives how many trials that are.
    fn tell_before(&mut self, partner: &mut dyn Partner, past: &dyn Past, index: u64) -> Result<u64, String> {
        let before = (index + 1).saturating_sub(self.parallel);
        self.tell_until(partner, past, before)?;
        Ok(before)
    }

    fn tell_until(&mut self, partner: &mut dyn Partner, past: &dyn Past, end: u64) -> Result<(), String> {
        while self.told < end {
            let index = self.told;
            for (place, question) in self.open.remove(&index).unwrap_or_default().into_iter().enumerate() {
                tell(partner, past, index, question, place > 0)?;
            }
            self.told += 1;
        }
        Ok(())
    }

    fn question(
        &mut self,
        partner: &mut dyn Partner,
        past: &dyn Past,
        index: u64,
        recorded: Option<&[(String, Value)]>,
    ) -> Result<Line, String> {
        let (parent, parent_params) = past.parent(index)?;
        let message = Message::Ask {
            ask: self.questions,
            case: past.case(index),
            parent,
            parent_params: object(parent_params.iter()),
            recorded: recorded.map(|values| object(values.iter().map(|(name, value)| (name, value)))),
        };
        say(partner, &message)?;
        let number = self.questions;
        self.questions += 1;
        answer::read(&partner.hear()?, number, &self.sweep)
    }

    fn answered(&mut self, index: u64, values: &[(String, Value)]) {
        self.known.insert(key_of(values), index);
        self.open.entry(index).or_default().insert(0, self.questions - 1);
        self.asked = index + 1;
    }

    /// The last answer is a case that the stage has already. The proposer gets that one's result, now or when its turn comes.
    fn repeated(
        &mut self,
        partner: &mut dyn Partner,
        past: &dyn Past,
        earlier: u64,
        told: u64,
    ) -> Result<(), String> {
        let question = self.questions - 1;
        if earlier < told {
            return tell(partner, past, earlier, question, true);
        }
        self.open.entry(earlier).or_default().push(question);
        Ok(())
    }
}

fn tell(
    partner: &mut dyn Partner,
    past: &dyn Past,
    index: u64,
    question: u64,
    repeated: bool,
) -> Result<(), String> {
    let (row, values) = (past.trial(index)?, past.values(index)?);
    let message = Message::Tell {
        ask: Some(question),
        case: Some(past.case(index)),
        params: object(values.iter().map(|(name, value)| (name, value))),
        state: match row.state {
            state @ (TrialState::Succeeded | TrialState::Failed | TrialState::Pruned) => state.name(),
            _ => return Err(format!("`{}` is not final", past.case(index))),
        },
        metrics: metrics_json(&row.metrics),
        failure: row.failure.as_ref().map(|failure| failure.kind.name()),
        pruned: row.pruned().map(|Pruned { rule, step, value, .. }| {
            serde_json::json!({ "rule": rule.name(), "step": step, "value": value })
        }),
        rungs: row.rungs().iter().map(rung_json).collect(),
        repeated,
        imported: false,
    };
    say(partner, &message)
}

fn rung_json(rung: &RungRow) -> Json {
    serde_json::json!({ "rung": rung.at, "step": rung.step, "value": rung.value })
}

/// Whether the sweep still allows what was imported.
fn fits(sweep: &[SweepParam], values: &[(String, Value)]) -> bool {
    sweep.len() == values.len()
        && sweep.iter().zip(values).all(|(swept, (name, value))| {
            swept.name == *name && answer::allowed(value, &swept.domain).as_ref() == Some(value)
        })
}

fn metrics_json(metrics: &Metrics) -> Json {
    let metric = |(name, metric): (&String, &Metric)| {
        let metric = match metric {
            Metric::Number(number) => Json::from(*number),
            Metric::Label(label) => Json::from(label.as_str()),
        };
        (name.clone(), metric)
    };
    Json::Object(metrics.iter().map(metric).collect())
}

fn say(partner: &mut dyn Partner, message: &Message<'_>) -> Result<(), String> {
    let line = serde_json::to_string(message).map_err(|error| format!("no line can be made for it: {error}"))?;
    partner.say(&line)
}

fn json_of(value: &Value) -> Json {
    serde_json::to_value(SpecValue(value.clone())).unwrap_or(Json::Null)
}

fn object<'v>(values: impl Iterator<Item = (&'v String, &'v Value)>) -> Json {
    Json::Object(values.map(|(name, value)| (name.clone(), json_of(value))).collect())
}

/// Two cases are the same if all their values are, to the bit.
fn key_of(values: &[(String, Value)]) -> String {
    values.iter().map(|(_, value)| format!("{value:?}\n")).collect()
}

/// The values a param can take, as the proposer reads them.
fn space(domain: &Domain) -> Json {
    match domain {
        Domain::Choices(choices) => {
            serde_json::json!({ "type": "choice", "values": choices.iter().map(|c| json_of(&c.0)).collect::<Vec<_>>() })
        }
        Domain::Float { min, max, log, .. } => {
            serde_json::json!({ "type": "float", "min": min, "max": max, "log": log })
        }
        Domain::Int { min, max, log, .. } => {
            serde_json::json!({ "type": "int", "min": min, "max": max, "log": log })
        }
    }
}

#[cfg(test)]
mod tests;
