//! Halving: what the decision of a rung takes at 10,000 trials, and one row of the table by which the rule was chosen, on the real
//! engine, beside the simulation of the same trials.
//!
//! The trials are of the model *power*: a curve c + a s^-b with noise, 64 steps, rungs at 3, 8 and 22, eta 3, keep 1, 3 % fail, better
//! ones are slower. Its parameters were found by hand so that a simulation gives the figures of the note of the design, whose own
//! are not known. A verdict that differs between one worker and eight is an error.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::path::Path;
use std::time::{Duration, Instant};

use piton::model::{Metric, Metrics, TrialId, TrialState};
use piton::program::halving::{Ladder, Rule};
use piton::{Heard, Range, Reader, Stage, Study, TrialContext, TrialError};
use rustix::time::{ClockId, clock_gettime};

use crate::bench::{Bench, Fallible};
use crate::measure::{Samples, figure, print, run_and_read, worker};
use crate::report::{Goal, Report};
use crate::studies::STAGE;

/// Trials of a study.
const TRIALS: u64 = 200;
/// Steps of a trial.
const STEPS: u64 = 64;
/// Its rungs.
const RUNGS: [u64; 3] = [3, 8, 22];
const RULE: Rule = Rule { rungs: 3, eta: 3, keep: 1 };
const WORKERS: usize = 8;
/// Of a step of a trial of mean speed.
const STEP: Duration = Duration::from_millis(20);
/// Studies that are simulated.
const STUDIES: u64 = 200;
/// Trials that wait for a decision.
const PENDING: u64 = 10_000;

/// Measures both.
pub fn measure(bench: &Bench, report: &mut Report) -> Fallible<()> {
    decisions(bench, report)?;
    row(bench, report)
}

fn decisions(bench: &Bench, report: &mut Report) -> Fallible<()> {
    let mut samples: [Samples; 5] = Default::default();
    for _ in 0..bench.scale.reps {
        let run = run_and_read(&mut worker("decisions")?)?;
        let names = ["in_order_us", "in_order_worst_us", "waiting_us", "waiting_worst_us", "freeing_us"];
        for (name, samples) in names.into_iter().zip(&mut samples) {
            samples.push(figure(&run, name)?);
        }
    }
    let [in_order, worst, waiting, waiting_worst, freeing] = samples;
    let under = Goal::AtMost(1_000.0);
    report.judge("10,000 trials come to a rung in order, each is decided: one", "us", &in_order, under);
    report.judge("the longest of these", "us", &worst, under);
    report.judge("trial 0 hangs, 10,000 come and wait for it: one", "us", &waiting, under);
    report.judge("the longest of these", "us", &waiting_worst, under);
    report.add("trial 0 comes and frees all 10,000 at once: all of them", "us", &freeing);
    #[expect(clippy::cast_precision_loss, reason = "a count")]
    let each = freeing.map(|us| us / PENDING as f64);
    report.judge("the same, one of the 10,000 decisions", "us", &each, under);
    Ok(())
}

/// The worker: what an arrival at a rung takes.
pub fn decide() -> Fallible<()> {
    let rule = Rule { rungs: 1, ..RULE };
    let mut random = Random(7);
    let mut ladder = Ladder::new(rule);
    let mut in_order = Timed::default();
    for place in 0..PENDING {
        let cost = random.unit();
        let decided = in_order.time(|| {
            ladder.show(place, 0, cost, true);
            ladder.settle().len()
        });
        same("decided at once", decided, 1)?;
    }
    // Each of these is better than all but so many of those before it that the one that is missing tips the scales.
    let mut order: Vec<u64> = Vec::new();
    for place in 1..=PENDING {
        let better = rule.allowed(place + 1) - 1;
        order.insert(usize::try_from(better)?, place);
    }
    let mut costs = vec![0.0; usize::try_from(PENDING)? + 1];
    for (place, cost) in order.iter().zip(1_u32..) {
        if let Some(slot) = costs.get_mut(usize::try_from(*place)?) {
            *slot = f64::from(cost);
        }
    }
    let mut ladder = Ladder::new(rule);
    let mut waiting = Timed::default();
    for (cost, place) in costs.iter().zip(0..).skip(1) {
        let decided = waiting.time(|| {
            ladder.show(place, 0, *cost, true);
            ladder.settle().len()
        });
        same("decided while trial 0 is missing", decided, 0)?;
    }
    let mut freeing = Timed::default();
    let decided = freeing.time(|| {
        ladder.show(0, 0, 0.0, true);
        ladder.settle().len()
    });
    same("decided by the last one", decided, usize::try_from(PENDING)? + 1)?;
    print(&serde_json::json!({
        "in_order_us": in_order.mean(), "in_order_worst_us": in_order.worst_us,
        "waiting_us": waiting.mean(), "waiting_worst_us": waiting.worst_us, "freeing_us": freeing.worst_us,
    }))
}

fn same(what: &str, is: usize, due: usize) -> Fallible<()> {
    if is == due { Ok(()) } else { Err(format!("{what}: {is}, not {due}").into()) }
}

/// Processor time, so that what else runs on the machine does not count.
fn thread_cpu() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

#[derive(Default)]
struct Timed {
    all_us: f64,
    count: f64,
    worst_us: f64,
}

impl Timed {
    fn time<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let begun = thread_cpu();
        let made = work();
        let took = thread_cpu().saturating_sub(begun).as_secs_f64() * 1e6;
        self.all_us += took;
        self.count += 1.0;
        self.worst_us = self.worst_us.max(took);
        made
    }

    fn mean(&self) -> f64 {
        self.all_us / self.count
    }
}

/// The row `N = 200, W = 8, lognormal` of the model *power*.
fn row(bench: &Bench, report: &mut Report) -> Fallible<()> {
    simulated_row(report);
    let mut figures: [Samples; 7] = Default::default();
    let (mut differ, mut winners_lost) = (0.0, Samples::new());
    for seed in 1..=bench.scale.reps.min(3) as u64 {
        let studies = |workers: usize, step: Duration, how: &str| -> Fallible<_> {
            let dir = bench.dir("halving")?;
            let mut command = worker("rungs")?;
            command.arg(dir.join("bench.redb"));
            command.args([seed.to_string(), workers.to_string(), step.as_micros().to_string(), how.to_owned()]);
            let run = run_and_read(&mut command)?;
            let line: serde_json::Value = serde_json::from_str(run.stdout.trim())?;
            Ok((run, line.get("verdicts").cloned().ok_or("no verdicts")?))
        };
        let (full, _) = studies(WORKERS, STEP, "full")?;
        let (halved, verdicts) = studies(WORKERS, STEP, "halving")?;
        let (alone, by_one) = studies(1, Duration::ZERO, "halving")?;
        let verdicts = [&verdicts, &by_one].map(|all| all.as_array().cloned().unwrap_or_default());
        let [eight, one] = &verdicts;
        same("trials with verdicts", eight.len(), usize::try_from(TRIALS)?)?;
        differ += eight.iter().zip(one).map(|(a, b)| f64::from(u8::from(a != b))).sum::<f64>();
        let ratio = |name: &str| Fallible::Ok(figure(&halved, name)? / figure(&full, name)?);
        let trials = power(seed);
        let none = simulated(&trials, WORKERS, &mut Nobody);
        let ladder = simulated(&trials, WORKERS, &mut InOrder(Ladder::new(RULE)));
        let asha = simulated(&trials, WORKERS, &mut Asha::default());
        let each = [
            ratio("busy_s")?,
            ladder.busy / none.busy,
            asha.busy / none.busy,
            ratio("makespan_s")?,
            ladder.makespan / none.makespan,
            asha.makespan / none.makespan,
            ratio("busy_s")? / (ladder.busy / none.busy),
        ];
        figures.iter_mut().zip(each).for_each(|(samples, figure)| samples.push(figure));
        let [with, without, by_one] =
            [&halved, &full, &alone].map(|run| figure(run, "regret").unwrap_or(f64::NAN));
        if with.total_cmp(&by_one).is_ne() {
            return Err(format!("another winner with 1 worker: regret {by_one}, not {with}").into());
        }
        winners_lost.push(with - without);
    }
    let [busy, busy_simulated, busy_asha, makespan, makespan_simulated, makespan_asha, beyond] = figures;
    report.add("real engine, 8 workers: busy / that without stopping (the note: .195)", "", &busy);
    report.add("the same trials, simulated with piton's ladder", "", &busy_simulated);
    report.add("the same trials, simulated with ASHA (the note: .206)", "", &busy_asha);
    report.add("real engine / simulated with piton's ladder, busy, study by study", "", &beyond);
    report.add("real engine: makespan / that without stopping (the note: .226)", "", &makespan);
    report.add("the same trials, simulated with piton's ladder", "", &makespan_simulated);
    report.add("the same trials, simulated with ASHA (the note: .239)", "", &makespan_asha);
    report.add("real engine: regret with halving - that without, in sd of all (the note: 0)", "", &winners_lost);
    report.judge(
        "trials whose verdicts differ between 1 and 8 workers",
        "",
        &Samples::one(differ),
        Goal::AtMost(0.0),
    );
    if differ > 0.0 { Err(format!("{differ} trials have other verdicts with 8 workers").into()) } else { Ok(()) }
}

/// The same row without the engine, many studies.
#[expect(clippy::cast_precision_loss, reason = "means")]
fn simulated_row(report: &mut Report) {
    let mut sums = [0.0; 8];
    for seed in 1..=STUDIES {
        let trials = power(seed);
        let [none, ladder, asha] = [
            simulated(&trials, WORKERS, &mut Nobody),
            simulated(&trials, WORKERS, &mut InOrder(Ladder::new(RULE))),
            simulated(&trials, WORKERS, &mut Asha::default()),
        ];
        let lost = |of: &Simulated| f64::from(u8::from(regret(&trials, of.winner) > regret(&trials, none.winner)));
        let each = [
            ladder.busy / none.busy,
            asha.busy / none.busy,
            ladder.makespan / none.makespan,
            asha.makespan / none.makespan,
            lost(&ladder),
            lost(&asha),
            regret(&trials, ladder.winner) - regret(&trials, none.winner),
            regret(&trials, asha.winner) - regret(&trials, none.winner),
        ];
        sums.iter_mut().zip(each).for_each(|(sum, figure)| *sum += figure / STUDIES as f64);
    }
    let names = [
        "busy, piton's ladder (the note: .195)",
        "busy, ASHA (the note: .206)",
        "makespan, piton's ladder (the note: .226)",
        "makespan, ASHA (the note: .239)",
        "best stopped, piton's ladder (the note: .025)",
        "best stopped, ASHA (the note: .025)",
        "regret - that without stopping, piton's ladder (the note: 0)",
        "regret - that without stopping, ASHA (the note: .001)",
    ];
    for (name, sum) in names.into_iter().zip(sums) {
        report.add(&format!("{STUDIES} studies simulated: {name}"), "", &Samples::one(sum));
    }
}

/// A trial of the model.
struct Trial {
    /// What it shows at each rung.
    shown: [f64; 3],
    /// What it comes to.
    end: f64,
    /// The step at which it fails.
    fails: Option<u64>,
    /// The length of a step; 1 on average over the study.
    step: f64,
}

impl Trial {
    fn last(&self) -> u64 {
        self.fails.unwrap_or(STEPS)
    }
}

/// A study of the model.
#[expect(clippy::cast_precision_loss, reason = "steps and counts")]
fn power(seed: u64) -> Vec<Trial> {
    let mut random = Random(Random(seed).next());
    let curves: Vec<[f64; 4]> = (0..TRIALS)
        .map(|_| {
            let (level, height) = (random.normal(), 2.0 * random.normal().exp());
            let power = 0.4 + 0.6 * random.unit();
            [RUNGS[0], RUNGS[1], RUNGS[2], STEPS]
                .map(|step| level + height * (step as f64).powf(-power) + 0.05 * random.normal())
        })
        .collect();
    let ends = || curves.iter().map(|[.., end]| *end);
    let (mean, deviation) = spread(ends());
    // Better ones are slower.
    let mut steps: Vec<f64> = ends()
        .map(|end| (0.47 * (0.75_f64.sqrt() * random.normal() - 0.5 * (end - mean) / deviation)).exp())
        .collect();
    let average = steps.iter().sum::<f64>() / TRIALS as f64;
    steps.iter_mut().for_each(|step| *step /= average);
    curves
        .into_iter()
        .zip(steps)
        .map(|([a, b, c, end], step)| {
            let fails = (random.unit() < 0.03).then(|| 1 + random.next() % (STEPS - 1));
            Trial { shown: [a, b, c], end, fails, step }
        })
        .collect()
}

/// Mean and standard deviation.
#[expect(clippy::cast_precision_loss, reason = "counts")]
fn spread(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let count = values.clone().count() as f64;
    let mean = values.clone().sum::<f64>() / count;
    (mean, (values.map(|value| (value - mean).powi(2)).sum::<f64>() / count).sqrt())
}

/// How far the end of a trial is from the best there is, failed ones among them, in standard deviations of all.
fn regret(trials: &[Trial], winner: Option<usize>) -> f64 {
    let ends = || trials.iter().map(|trial| trial.end);
    let best = ends().fold(f64::INFINITY, f64::min);
    winner.and_then(|winner| trials.get(winner)).map_or(f64::NAN, |won| (won.end - best) / spread(ends()).1)
}

/// Who stops trials in a simulation.
trait Judge {
    /// A trial shows something at a rung; trials that are stopped by that.
    fn shown(&mut self, place: u64, rung: u32, value: f64) -> Vec<u64>;
    /// A trial has come to its own end; trials that are stopped by that.
    fn ended(&mut self, place: u64) -> Vec<u64>;
}

struct Nobody;

impl Judge for Nobody {
    fn shown(&mut self, _: u64, _: u32, _: f64) -> Vec<u64> {
        Vec::new()
    }

    fn ended(&mut self, _: u64) -> Vec<u64> {
        Vec::new()
    }
}

/// In-order halving, as the engine has it.
struct InOrder(Ladder);

impl InOrder {
    fn stopped(&mut self) -> Vec<u64> {
        self.0.settle().iter().filter(|decided| !decided.keep).map(|decided| decided.place).collect()
    }
}

impl Judge for InOrder {
    fn shown(&mut self, place: u64, rung: u32, value: f64) -> Vec<u64> {
        self.0.show(place, rung, value, true);
        self.stopped()
    }

    fn ended(&mut self, place: u64) -> Vec<u64> {
        self.0.end(place);
        self.stopped()
    }
}

/// ASHA that stops: a trial is compared with all that came to its rung before it.
#[derive(Default)]
struct Asha([Vec<f64>; 3]);

impl Judge for Asha {
    fn shown(&mut self, place: u64, rung: u32, value: f64) -> Vec<u64> {
        let Some(column) = self.0.get_mut(rung as usize) else { return Vec::new() };
        let better = column.iter().filter(|other| **other < value).count() as u64;
        column.push(value);
        if better >= RULE.allowed(column.len() as u64) { vec![place] } else { Vec::new() }
    }

    fn ended(&mut self, _: u64) -> Vec<u64> {
        Vec::new()
    }
}

/// What a simulation came to; times in steps of mean length.
struct Simulated {
    busy: f64,
    makespan: f64,
    winner: Option<usize>,
}

/// An instant of a trial: when, which, and the rung; 3: its end.
type Instants = BinaryHeap<Reverse<(ordered::Time, u64, u32)>>;

/// So many workers take the trials in order; who is stopped ends at once.
#[expect(clippy::cast_precision_loss, reason = "steps")]
fn simulated(trials: &[Trial], workers: usize, judge: &mut dyn Judge) -> Simulated {
    let mut waiting = (0_u64..).zip(trials);
    let mut running: Vec<Option<f64>> = vec![None; trials.len()];
    let mut stopped = vec![false; trials.len()];
    let mut instants = Instants::new();
    let (mut busy, mut makespan): (f64, f64) = (0.0, 0.0);
    let mut start = |now: f64, running: &mut Vec<Option<f64>>, instants: &mut Instants| {
        let Some((place, trial)) = waiting.next() else { return };
        if let Some(begun) = running.get_mut(usize::try_from(place).unwrap_or(usize::MAX)) {
            *begun = Some(now);
        }
        let at = |step: u64| ordered::Time(now + step as f64 * trial.step);
        let reached = RUNGS.into_iter().zip(0..).filter(|(step, _)| *step < trial.last());
        instants.extend(reached.map(|(step, rung)| Reverse((at(step), place, rung))));
        instants.push(Reverse((at(trial.last()), place, 3)));
    };
    (0..workers).for_each(|_| start(0.0, &mut running, &mut instants));
    while let Some(Reverse((ordered::Time(now), place, rung))) = instants.pop() {
        let index = usize::try_from(place).unwrap_or(usize::MAX);
        let runs = running.get(index).copied().flatten();
        let (Some(_), Some(trial)) = (runs, trials.get(index)) else { continue };
        let mut over = Vec::new();
        let ended = match trial.shown.get(rung as usize) {
            Some(value) => judge.shown(place, rung, *value),
            None => {
                over.push(place);
                judge.ended(place)
            }
        };
        for place in ended.iter().filter_map(|place| usize::try_from(*place).ok()) {
            stopped.get_mut(place).into_iter().for_each(|is| *is = true);
        }
        over.extend(ended);
        for place in over.into_iter().filter_map(|place| usize::try_from(place).ok()) {
            if let Some(begun) = running.get_mut(place).and_then(Option::take) {
                busy += now - begun;
                makespan = makespan.max(now);
                start(now, &mut running, &mut instants);
            }
        }
    }
    let left = trials.iter().zip(&stopped).enumerate().filter(|(_, (trial, is))| trial.fails.is_none() && !**is);
    let winner = left.min_by(|(_, (a, _)), (_, (b, _))| a.end.total_cmp(&b.end)).map(|(place, _)| place);
    Simulated { busy, makespan, winner }
}

mod ordered {
    /// An instant.
    #[derive(Clone, Copy, PartialEq)]
    pub struct Time(pub f64);

    impl Eq for Time {}

    impl PartialOrd for Time {
        fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
            Some(self.cmp(other))
        }
    }

    impl Ord for Time {
        fn cmp(&self, other: &Self) -> std::cmp::Ordering {
            self.0.total_cmp(&other.0)
        }
    }
}

/// The worker: a study of the model on the real engine, with halving or `full`.
pub fn study(store: &Path, seed: u64, workers: u32, step_us: u64, how: &str) -> Fallible<()> {
    let trials = power(seed);
    let last = i64::try_from(TRIALS)? - 1;
    let stage =
        Stage::unbound(STAGE).range("n", Range::int(0..=last)).budget(TRIALS).survivors(1).minimize("loss");
    let stage = if how == "full" { stage } else { stage.halving(RUNGS).halving_keep(1) };
    let spec = Study::builder("bench").seed(1).stage(stage).spec()?;
    let model = power(seed);
    let work = move |context: &TrialContext<'_>| {
        let place = usize::try_from(context.trial().0).unwrap_or(usize::MAX);
        let trial = model.get(place).ok_or("no such trial")?;
        pretend(context, trial, Duration::from_micros(step_us))
    };
    Study::new(spec).store(store).workers(workers).closure(STAGE, work).run()?;
    let (mut busy_us, mut first, mut until) = (0, i64::MAX, i64::MIN);
    let (mut verdicts, mut winner) = (Vec::new(), None::<usize>);
    for (row, place) in Reader::open(store)?.snapshot()?.trials(TrialId(0), TrialId(TRIALS))?.zip(0..) {
        let row = row?;
        for attempt in &row.attempts {
            busy_us += attempt.usage.wall_us;
            first = first.min(attempt.started_ms);
            until = until.max(attempt.ended_ms.ok_or("an attempt without an end")?);
        }
        let keep = row.rungs().iter().map(|rung| rung.verdict.map(|verdict| verdict.keep));
        verdicts.push(serde_json::json!({ "state": row.state.name(), "keep": keep.collect::<Vec<_>>() }));
        let end = |place: usize| trials.get(place).map_or(f64::NAN, |trial| trial.end);
        if row.state == TrialState::Succeeded && winner.is_none_or(|best| end(place) < end(best)) {
            winner = Some(place);
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "seconds")]
    print(&serde_json::json!({
        "busy_s": busy_us as f64 / 1e6,
        "makespan_s": (until - first) as f64 / 1e3,
        "regret": regret(&trials, winner),
        "verdicts": verdicts,
    }))
}

/// Does nothing for as long as the trial would take; reports at rungs only.
fn pretend(context: &TrialContext<'_>, trial: &Trial, step: Duration) -> Result<Metrics, TrialError> {
    let begun = Instant::now();
    let told_to_end = || TrialError::new("told to end");
    for number in 1..=trial.last() {
        #[expect(clippy::cast_precision_loss, reason = "a step")]
        let due = begun + step.mul_f64(number as f64 * trial.step);
        while let Some(left) = due.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            if context.should_stop() {
                return Err(told_to_end());
            }
            std::thread::sleep(left.min(step / 8));
        }
        if Some(number) == trial.fails {
            return Err(TrialError::new("it fails").retryable(false));
        }
        let rung = RUNGS.iter().zip(&trial.shown).find(|(at, _)| **at == number);
        if let Some((_, value)) = rung
            && context.report(number, [("loss", *value)])? == Heard::End
        {
            return Err(told_to_end());
        }
    }
    Ok(Metrics::from([("loss".to_owned(), Metric::Number(trial.end))]))
}

/// SplitMix64: small, and good enough for a model.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 up to 1, without either.
    #[expect(clippy::cast_precision_loss, reason = "53 bits")]
    fn unit(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) / 2_f64.powi(53)
    }

    /// Of mean 0 and deviation 1 (Box and Muller).
    fn normal(&mut self) -> f64 {
        (-2.0 * self.unit().ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos()
    }
}
