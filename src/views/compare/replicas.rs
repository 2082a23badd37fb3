//! Comparisons of cases that ran several times: replicas of both sides in pairs, and what may be concluded from them.
//!
//! All runs of a case have to be there before anything is said of it, so both sides are held. A line is judged by how its pairs fell
//! ([`Tally`]): whatever the noise is like, if nothing changed a line is called worse or better with a probability of at most
//! [`ALPHA`], all lines together. A single number has unknown noise: where one side has no replicas the tolerance alone
//! judges, and the line says so.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;

use super::baseline::{BaselineTrial, numbers};
use super::{Comparison, Finding, Moved, Row, Totals, failure_of, params_differ};
use crate::model::{Metric, Metrics, Params, TrialState, Value};
use crate::plan::aggregated;
use crate::plan::evidence::{self, Statements, Tally, Verdict};
use crate::views::ViewError;
use crate::views::text::{clean, counted, short_number};

/// How often something is called at most that is not so.
pub(super) const ALPHA: f64 = 0.05;

/// How the replicas of a line compare.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Replicas {
    /// Pairs of replicas of one number.
    pub pairs: u32,
    /// Of those, worse by more than is allowed; without a direction: larger.
    pub worse: u32,
    /// Of those, better by more than is allowed; without a direction: smaller.
    pub better: u32,
    /// The evidence for the finding; of what is inconclusive, the larger one for a change.
    pub evidence: f64,
    /// How much is needed.
    pub needed: f64,
    /// Bounds of the median of `now - baseline` with a confidence of 0.9; `null`: too few replicas for one.
    pub median_delta: [Option<f64>; 2],
    /// So many more replicas that agree would decide, of what is inconclusive.
    pub more: Option<u32>,
}

/// The two values of a param whose trials are compared, within one study.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Between {
    /// The param.
    pub param: String,
    /// Its value on the side of the baseline, as it is printed.
    pub base: String,
    /// Its value on the other.
    pub now: String,
}

impl Between {
    /// Reads `build=base,now`.
    ///
    /// # Errors
    /// In words, when it is not so.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (param, values) =
            text.split_once('=').filter(|(param, _)| !param.is_empty()).ok_or_else(Self::expected)?;
        let (base, now) = values.split_once(',').ok_or_else(Self::expected)?;
        if base == now {
            return Err("it is compared with itself".into());
        }
        Ok(Self { param: param.to_owned(), base: base.to_owned(), now: now.to_owned() })
    }

    fn expected() -> String {
        "expected PARAM=BASE,NOW such as `build=base,now`".to_owned()
    }

    fn side(&self, params: &Params) -> Option<bool> {
        let value = params.get(&self.param)?.to_string();
        if value == self.base { Some(true) } else { (value == self.now).then_some(false) }
    }
}

/// A run of a case.
#[derive(Clone, Debug)]
struct Run {
    metrics: BTreeMap<String, f64>,
    /// Its kind, with its reason where it is known.
    failure: Option<String>,
    /// Where it stands, if it has no result.
    unfinished: Option<&'static str>,
}

/// A case with its runs.
#[derive(Clone, Debug)]
struct Case {
    name: String,
    params: Params,
    /// Whether its runs are replicas.
    replicated: bool,
    /// By the number of the replica.
    runs: BTreeMap<u32, Run>,
}

/// The cases of one side, in their order, by what they are matched by.
#[derive(Clone, Debug, Default)]
struct Side {
    cases: Vec<Case>,
    by_key: HashMap<String, usize>,
}

impl Side {
    fn add(&mut self, key: String, name: &str, params: &Params, run: Run) -> Result<(), ViewError> {
        let (case, replica) = named(name);
        let place = *self.by_key.entry(key).or_insert(self.cases.len());
        if place == self.cases.len() {
            let (name, params) = (case.to_owned(), params.clone());
            self.cases.push(Case { name, params, replicated: replica.is_some(), runs: BTreeMap::new() });
        }
        let Some(into) = self.cases.get_mut(place) else { return Ok(()) };
        if into.name != case {
            let (one, other) = (clean(&into.name), clean(case));
            let why =
                format!("`{one}` and `{other}` have the same params: nothing tells which is compared with which");
            return Err(ViewError::Request(why));
        }
        match into.runs.insert(replica.unwrap_or(0), run) {
            None => Ok(()),
            Some(_) => Err(ViewError::Request(format!("`{}` is there twice", clean(name)))),
        }
    }
}

/// The case that a trial's name is of, and which replica it is.
pub(super) fn named(name: &str) -> (&str, Option<u32>) {
    let replica = name.rsplit_once(".r").and_then(|(case, replica)| Some((case, replica.parse().ok()?)));
    replica.map_or((name, None), |(case, replica)| (case, Some(replica)))
}

/// Params as something to find a case by; `1` and `1.0` are the same number.
#[expect(clippy::cast_precision_loss, reason = "larger integers are told apart by their digits")]
fn params_key(params: &Params, without: Option<&str>) -> String {
    const EXACT: u64 = 1 << 53;
    let text = |value: &Value| match value {
        Value::Int(integer) if integer.unsigned_abs() < EXACT => format!("{:?}", *integer as f64),
        other => format!("{other:?}"),
    };
    let text = |value: &Value| match value {
        Value::Float(float) => format!("{float:?}"),
        other => text(other),
    };
    let kept = params.iter().filter(|(name, _)| Some(name.as_str()) != without);
    kept.map(|(name, value)| format!("{name:?}={}", text(value))).collect::<Vec<_>>().join(",")
}

/// A line that evidence judges.
struct Judged {
    /// Its place among all lines.
    line: usize,
    tally: Tally,
    /// Whether one way is worse.
    directed: bool,
    /// What each pair moved by.
    deltas: Vec<f64>,
}

/// All lines, of which some are still to be judged.
#[derive(Default)]
struct Lines {
    rows: Vec<Row>,
    judged: Vec<Judged>,
    totals: Totals,
}

impl Comparison<'_> {
    /// Whether cases have to be gathered before they can be compared.
    pub(super) fn is_gathered(&self) -> Result<bool, ViewError> {
        let how = &self.limits;
        let here = how.match_params || how.between.is_some() || self.stage.is_replicated();
        Ok(here || self.baseline.has_replicas(&self.stage.name)?)
    }

    fn key(&self, name: &str, params: &Params) -> String {
        match &self.limits.between {
            Some(between) => params_key(params, Some(&between.param)),
            None if self.limits.match_params => params_key(params, None),
            None => named(name).0.to_owned(),
        }
    }

    /// Both sides.
    fn sides(&self) -> Result<(Side, Side), ViewError> {
        let (mut before, mut now) = (Side::default(), Side::default());
        let mut values = BTreeSet::new();
        let between = self.limits.between.as_ref();
        if between.is_none() {
            self.baseline.for_each(&self.stage.name, &mut |trial| {
                let BaselineTrial { case, params, metrics, failure } = trial;
                let run = Run { metrics, failure, unfinished: None };
                before.add(self.key(&case, &params), &case, &params, run)
            })?;
        }
        for trial in self.view.trials(self.snapshot, self.stage)? {
            let trial = trial?;
            let params = trial.params();
            let is_baseline = match between {
                None => false,
                Some(between) => {
                    values.extend(params.get(&between.param).map(|value| clean(&value.to_string())));
                    match between.side(&params) {
                        Some(side) => side,
                        None => continue,
                    }
                }
            };
            let unfinished = match trial.counted_state() {
                TrialState::Succeeded | TrialState::Failed => None,
                other => Some(other.name()),
            };
            let metrics = numbers(trial.metrics()).into_iter().map(|(name, value)| (name.to_owned(), value));
            let run = Run { metrics: metrics.collect(), failure: failure_of(&trial), unfinished };
            let side = if is_baseline { &mut before } else { &mut now };
            side.add(self.key(&trial.case(), &params), &trial.case(), &params, run)?;
        }
        if let Some(between) = between {
            for value in [&between.base, &between.now] {
                if !values.contains(&clean(value)) {
                    let there: Vec<String> = values.iter().take(12).map(|value| format!("`{value}`")).collect();
                    let there = if there.is_empty() { "none at all".into() } else { there.join(", ") };
                    let (param, value) = (clean(&between.param), clean(value));
                    let why = format!("no trial of the stage has {param} = `{value}`; there is {there}");
                    return Err(ViewError::Request(why));
                }
            }
            // What has not run yet is no baseline.
            before.cases.retain(|case| case.runs.values().any(|run| run.unfinished.is_none()));
        }
        Ok((before, now))
    }

    /// [`Comparison::run`] over cases that are gathered first.
    pub(super) fn run_gathered(
        &self,
        each: &mut dyn FnMut(&Row) -> Result<(), ViewError>,
    ) -> Result<Totals, ViewError> {
        let (before, now) = self.sides()?;
        let mut lines = Lines::default();
        let mut seen = BTreeSet::new();
        for old in &before.cases {
            lines.totals.cases += 1;
            let found = now.by_key.get(&self.key(&old.name, &old.params)).copied();
            seen.extend(found);
            self.pair(old, found.and_then(|place| now.cases.get(place)), &mut lines);
        }
        for (case, _) in now.cases.iter().zip(0..).filter(|(_, place)| !seen.contains(place)) {
            if case.runs.values().any(|run| run.unfinished.is_none()) && self.limits.between.is_none() {
                let failure = case.runs.values().find_map(|run| run.failure.clone());
                lines.rows.push(self.whole(&case.name, Finding::New, failure));
            }
        }
        let Lines { mut rows, judged, mut totals } = lines;
        judge(&mut rows, &judged, self.limits.undecided_fails);
        for row in &rows {
            totals.add(row);
        }
        self.something(&totals)?;
        rows.iter().try_for_each(each)?;
        Ok(totals)
    }

    /// What is said of one case.
    fn pair(&self, old: &Case, now: Option<&Case>, lines: &mut Lines) {
        let name = now.map_or(&old.name, |now| &now.name);
        let mut tell = |finding, detail| lines.rows.push(self.whole(name, finding, detail));
        let Some(now) = now else { return tell(Finding::Missing, None) };
        if !self.limits.match_params
            && self.limits.between.is_none()
            && let Some(detail) = params_differ(&old.params, &now.params)
        {
            return tell(Finding::OtherParams, Some(detail));
        }
        let unfinished: Vec<&str> = now.runs.values().filter_map(|run| run.unfinished).collect();
        if let Some(state) = unfinished.first() {
            let detail = match now.runs.len() {
                1 => (*state).to_owned(),
                all => format!("{} of {all} replicas: {state}", unfinished.len()),
            };
            return tell(Finding::Unfinished, Some(detail));
        }
        let failed = |case: &Case| case.runs.values().find_map(|run| run.failure.clone());
        match (failed(old), failed(now)) {
            (None, None) => self.case_metrics(old, now, lines),
            (None, Some(failure)) => tell(Finding::Failing, Some(failure)),
            (Some(failure), None) => {
                let kind = failure.split(':').next().unwrap_or_default();
                tell(Finding::Fixed, Some(format!("was {}", clean(kind))));
            }
            (Some(_), Some(failure)) => tell(Finding::StillFailing, Some(failure)),
        }
        lines.totals.compared += 1;
    }

    fn case_metrics(&self, old: &Case, now: &Case, lines: &mut Lines) {
        let names =
            |case: &Case| case.runs.values().flat_map(|run| run.metrics.keys().cloned()).collect::<Vec<_>>();
        let all: BTreeSet<String> = names(old).into_iter().chain(names(now)).collect();
        for name in all.iter().filter(|name| self.limits.includes(name)) {
            let row = if old.replicated && now.replicated {
                self.paired(old, now, name, lines)
            } else {
                self.single(old, now, name, &mut lines.totals)
            };
            lines.rows.push(row);
        }
    }

    /// A metric of which one side has a single number, or both: the tolerance judges.
    fn single(&self, old: &Case, now: &Case, name: &str, totals: &mut Totals) -> Row {
        let (before, after) = (self.value(old, name), self.value(now, name));
        let finding = match (before, after) {
            (Some(before), Some(after)) => self.limits.judge(name, before, after).into(),
            (Some(_), None) => Finding::MetricMissing,
            (None, _) => Finding::MetricNew,
        };
        let detail = match (old.replicated, now.replicated) {
            (false, true) => Some("baseline without replicas"),
            (true, false) => Some("no replicas to compare with the baseline's"),
            _ => None,
        };
        totals.without_replicas += u64::from(detail.is_some());
        self.numbers(&now.name, name, (before, after), finding, detail.map(str::to_owned))
    }

    /// A metric of a case that has replicas on both sides.
    fn paired(&self, old: &Case, now: &Case, name: &str, lines: &mut Lines) -> Row {
        let pair = |(replica, before): (&u32, &Run)| {
            let after = now.runs.get(replica)?;
            Some((*before.metrics.get(name)?, *after.metrics.get(name)?))
        };
        let pairs: Vec<(f64, f64)> = old.runs.iter().filter_map(pair).take(evidence::PAIRS_MAX as usize).collect();
        let of = |case: &Case| case.runs.values().any(|run| run.metrics.contains_key(name));
        if pairs.is_empty() {
            let finding = if of(old) { Finding::MetricMissing } else { Finding::MetricNew };
            let values = (self.value(old, name), self.value(now, name));
            return self.numbers(&now.name, name, values, finding, None);
        }
        let mut tally = Tally::default();
        for (before, after) in &pairs {
            let up = after > before;
            match self.limits.judge(name, *before, *after) {
                Moved::Within => tally.within += 1,
                Moved::Worse => tally.worse += 1,
                Moved::Better => tally.better += 1,
                // Without a direction `worse` only means one of the two ways.
                Moved::Changed if up => tally.worse += 1,
                Moved::Changed => tally.better += 1,
            }
        }
        let directed = self.limits.directions.contains_key(name);
        let deltas = pairs.iter().map(|(before, after)| after - before).collect();
        lines.judged.push(Judged { line: lines.rows.len(), tally, directed, deltas });
        lines.totals.paired += 1;
        let only = |which: fn(&(f64, f64)) -> f64| self.whole_value(name, pairs.iter().map(which));
        let values = (only(|pair| pair.0), only(|pair| pair.1));
        self.numbers(&now.name, name, values, Finding::Inconclusive, None)
    }

    fn numbers(
        &self,
        case: &str,
        name: &str,
        (before, after): (Option<f64>, Option<f64>),
        finding: Finding,
        detail: Option<String>,
    ) -> Row {
        Row {
            metric: Some(name.to_owned()),
            baseline: before,
            now: after,
            delta: before.zip(after).map(|(before, after)| after - before),
            allowed: before.map(|before| self.limits.allowed(name, before)),
            ..self.whole(case, finding, detail)
        }
    }

    /// One number for a metric of all runs of a case; `None` unless each has it.
    fn value(&self, case: &Case, name: &str) -> Option<f64> {
        let values: Option<Vec<f64>> = case.runs.values().map(|run| run.metrics.get(name).copied()).collect();
        self.whole_value(name, values?.into_iter())
    }

    /// What the stage makes of the values of its replicas.
    fn whole_value(&self, name: &str, values: impl Iterator<Item = f64>) -> Option<f64> {
        let spec = self.view.spec.stages.get(self.stage.index as usize)?;
        let metrics: Vec<Metrics> =
            values.map(|value| Metrics::from([(name.to_owned(), Metric::Number(value))])).collect();
        let metrics: Vec<&Metrics> = metrics.iter().collect();
        aggregated(spec, &metrics).metrics.get(name).and_then(Metric::number)
    }
}

impl Judged {
    /// The evidence that something changed: for the worse where one way is, else either way.
    fn changed(&self, statements: Statements) -> f64 {
        match self.directed {
            true => statements.worse,
            // Two bets with half of the capital each.
            false => f64::midpoint(statements.worse, statements.better),
        }
    }
}

/// Says what each line that evidence judges comes to.
fn judge(rows: &mut [Row], judged: &[Judged], undecided_fails: bool) {
    let said: Vec<Statements> = judged.iter().map(|line| line.tally.statements()).collect();
    let worse: Vec<f64> = judged.iter().zip(&said).map(|(line, said)| line.changed(*said)).collect();
    let better: Vec<f64> =
        judged.iter().zip(&said).map(|(line, said)| if line.directed { said.better } else { 0.0 }).collect();
    let level = as_float(judged.len()) / ALPHA;
    let called = [evidence::e_bh(&worse, ALPHA), evidence::e_bh(&better, ALPHA)];
    for (place, line) in judged.iter().enumerate() {
        let Some((row, said)) = rows.get_mut(line.line).zip(said.get(place)) else { continue };
        // With as many called as are, and with one more.
        let needed = |called: &Vec<usize>| level / as_float(called.len().max(1));
        let one_more = |called: &Vec<usize>| level / as_float(called.len() + 1);
        let [worse_called, better_called] = &called;
        let is_in = |called: &Vec<usize>| called.binary_search(&place).is_ok();
        let unchanged = said.not_worse.min(said.not_better);
        let (finding, evidence, needed) = if is_in(worse_called) {
            let finding = if line.directed { Finding::Worse } else { Finding::Changed };
            (finding, line.changed(*said), needed(worse_called))
        } else if is_in(better_called) {
            (Finding::Better, said.better, needed(better_called))
        } else if unchanged >= level {
            (Finding::Equivalent, unchanged, level)
        } else {
            let most = line.changed(*said).max(if line.directed { said.better } else { 0.0 });
            (Finding::Inconclusive, most, one_more(worse_called))
        };
        let undirected = if line.directed { 1.0 } else { 2.0 };
        let changed = undirected * one_more(worse_called).max(one_more(better_called));
        let more = (finding == Finding::Inconclusive).then(|| line.tally.would_decide(changed, level)).flatten();
        let (low, high) = evidence::interval(&line.deltas, 1.0 / ALPHA / 2.0);
        row.finding = finding;
        row.regression = finding.is_regression(false) || (finding == Finding::Inconclusive && undecided_fails);
        row.detail = Some(words(line, finding, (evidence, needed), more));
        row.replicas = Some(Replicas {
            pairs: line.tally.pairs(),
            worse: line.tally.worse,
            better: line.tally.better,
            evidence,
            needed,
            median_delta: [low, high],
            more: more.map(|(count, _)| count),
        });
    }
}

fn words(line: &Judged, finding: Finding, (evidence, needed): (f64, f64), more: Option<(u32, Verdict)>) -> String {
    let Tally { worse, within, better } = line.tally;
    let replicas = counted(line.tally.pairs(), "replica");
    let enough = format!("evidence {} of {}", short_number(rounded(evidence)), short_number(rounded(needed)));
    let (up, down) = if line.directed { ("worse", "better") } else { ("larger", "smaller") };
    match finding {
        Finding::Equivalent => format!("{within} of {replicas} within, {enough}"),
        Finding::Inconclusive => {
            let more = match more {
                Some((count, verdict)) => {
                    let verdict = match verdict {
                        Verdict::Worse => up,
                        Verdict::Better => down,
                        Verdict::Equivalent | Verdict::Inconclusive => "within",
                    };
                    format!("{count} more that {} {verdict} would decide", if count == 1 { "is" } else { "are" })
                }
                None => "more would not decide".into(),
            };
            format!("{worse} {up}, {within} within, {better} {down} of {replicas}; {more}")
        }
        _ => format!("{worse} {up}, {better} {down} of {replicas}, {enough}"),
    }
}

/// To three digits or so: nobody compares the rest.
fn rounded(value: f64) -> f64 {
    if value < 100.0 { (value * 10.0).round() / 10.0 } else { value.round() }
}

#[expect(clippy::cast_precision_loss, reason = "a list's length is below 2^53")]
const fn as_float(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests;
