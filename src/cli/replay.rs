//! `piton replay`: one trial run again, nothing recorded, and whether it does the same.

use std::io::{self, Write};

use piton::model::{AttemptOutcome, Exit, Metric, Metrics, TrialState, Verdict};
use piton::program::executor::AttemptReport;
use piton::program::sys::signals::die_by;
use piton::store::{ReplayEnd, ReplayLog, ReplayOptions};
use piton::views::compare::Limits;
use piton::views::logs::Stream;
use piton::views::{clean, counted, duration, number, signal_name};
use piton::{Error, Store, shell_word};

use super::args::ReplayArgs;
use super::compare::tolerances;
use super::keeper::keeper;
use super::outcome::{print_json, print_line};
use super::sink::{self, Sink};
use super::terminal::{hint, note, say};

/// Exit codes, besides 0: as the contract has 3 for a study that did not work out, and 4 for a difference.
const FAILED: u8 = 3;
const DIFFERS: u8 = 4;

pub fn replay(args: &ReplayArgs) -> Result<u8, Error> {
    // Before any thread or file: the keeper is a fork of this process.
    let keeper = keeper()?;
    let mut options = ReplayOptions::default();
    options.limits.tolerances = tolerances(&args.tolerance);
    options.limits.only = args.metric.iter().cloned().collect();
    options.dir = args.attempt_dir.clone();
    options.keep = args.keep;
    let replay = {
        let _host = keeper.client().hosts_helpers();
        Store::at(&args.store.store).replay(&args.case, options)?
    };
    replay.notes().iter().for_each(|line| note(line));
    say(&format!("running `{}` (attempt {}) in `{}`", args.case, replay.attempt(), replay.dir().display()));
    let mut tails =
        [Tail::of(replay.log(Stream::Stdout), !args.json), Tail::of(replay.log(Stream::Stderr), false)];
    let end = replay.run(keeper, &mut || {
        for tail in &mut tails {
            tail.pass_on();
        }
    })?;
    // Nobody writes any more.
    tails.iter_mut().for_each(|tail| while tail.pass_on() {});
    let code = tell(args, &end)?;
    let kept = end.kept_dir().map(|dir| format!("its directory stays: {}", shell_word(dir)));
    let interrupted_by = end.interrupted_by;
    // Its directory goes before this process may die of the signal.
    drop(end);
    kept.iter().for_each(|line| note(line));
    if let Some(signal) = interrupted_by {
        say(&format!("{} ended it; there is nothing to compare", signal.name()));
        die_by(signal)
    }
    tails.into_iter().find_map(|tail| tail.failed).map_or(Ok(code), |error| Err(Error::Output(error)))
}

/// One of the trial's logs, passed on as it grows.
struct Tail {
    log: ReplayLog,
    out: Sink<Box<dyn Write>>,
    failed: Option<io::Error>,
}

impl Tail {
    fn of(log: ReplayLog, to_stdout: bool) -> Self {
        Self { log, out: sink::shared(sink::Content::Printed, to_stdout), failed: None }
    }

    /// Whether there was something.
    fn pass_on(&mut self) -> bool {
        if self.failed.is_some() {
            return false;
        }
        let text = self.log.read_more();
        self.failed = self.out.write_all(&text).and_then(|()| self.out.flush()).err();
        !text.is_empty()
    }
}

/// Prints how it ended; the exit code.
fn tell(args: &ReplayArgs, end: &ReplayEnd) -> Result<u8, Error> {
    let Some(report) = &end.report else { return Ok(0) };
    let code = match (&end.differences, &report.verdict) {
        (Some(differences), _) if !differences.is_empty() => DIFFERS,
        (_, Verdict::Succeeded { .. }) => 0,
        _ => FAILED,
    };
    if args.json {
        print_json(&json(end, report))?;
    } else {
        text(end, report)?;
    }
    if code != 0 && end.kept_dir().is_none() {
        hint("`--keep` keeps the directory it ran in");
    }
    Ok(code)
}

fn text(end: &ReplayEnd, report: &AttemptReport) -> Result<(), Error> {
    let (case, took) = (&end.case, duration(report.usage.wall_us));
    let outcome = match &report.verdict {
        Verdict::Failed(failure) => format!("failed after {took}: {}: {}", failure.kind, clean(&failure.reason)),
        _ => format!("succeeded in {took}"),
    };
    match (&end.differences, &report.verdict) {
        (None, Verdict::Succeeded { metrics, .. }) => {
            print_line(&format!("`{case}` {outcome}; no result of it is recorded to compare with"))?;
            metrics.iter().try_for_each(|(name, metric)| print_line(&format!("  {}", metric_text(name, metric))))
        }
        (None, _) => print_line(&format!("`{case}` {outcome}; no result of it is recorded to compare with")),
        (Some(differences), verdict) if differences.is_empty() => {
            print_line(&format!("`{case}` {outcome}, as recorded{}", what_is_the_same(&end.limits, verdict)))
        }
        (Some(differences), _) => {
            print_line(&format!("`{case}` {outcome}, but not as recorded:"))?;
            differences
                .iter()
                .try_for_each(|d| print_line(&format!("  {}: recorded {}, now {}", d.what, d.recorded, d.now)))
        }
    }
}

/// ` (2 metrics, 1 output)`
fn what_is_the_same(limits: &Limits, verdict: &Verdict) -> String {
    let Verdict::Succeeded { metrics, outputs } = verdict else { return String::new() };
    let metrics = metrics.keys().filter(|name| limits.includes(name)).count();
    let found = [(metrics, "metric"), (outputs.len(), "output")].into_iter().filter(|(count, _)| *count > 0);
    let words: Vec<String> = found.map(|(count, noun)| counted(count, noun)).collect();
    if words.is_empty() { String::new() } else { format!(" ({})", words.join(", ")) }
}

fn json(end: &ReplayEnd, report: &AttemptReport) -> serde_json::Value {
    let no_metrics = Metrics::new();
    let (outcome, metrics, failure) = match &report.verdict {
        Verdict::Failed(failure) => (AttemptOutcome::Failed.name(), &no_metrics, Some(failure)),
        Verdict::Succeeded { metrics, .. } => (AttemptOutcome::Succeeded.name(), metrics, None),
        Verdict::Interrupted { .. } | Verdict::Cancelled => {
            (AttemptOutcome::Interrupted.name(), &no_metrics, None)
        }
    };
    let recorded = end.recorded.as_ref().and_then(|row| match row.state {
        TrialState::Succeeded | TrialState::Failed => Some(row.state.name()),
        _ => None,
    });
    let metrics: serde_json::Map<String, serde_json::Value> =
        metrics.iter().map(|(name, metric)| (name.clone(), metric_json(metric))).collect();
    let (exit_code, signal) = match report.exit {
        Some(Exit::Code(code)) => (Some(code), None),
        Some(Exit::Signal(number)) => (None, Some(signal_name(number))),
        None => (None, None),
    };
    let usage = report.usage;
    serde_json::json!({
        "schema": 1,
        "case": end.case,
        "attempt": end.attempt,
        "outcome": outcome,
        "recorded": recorded,
        "same": end.differences.as_ref().map(Vec::is_empty),
        "differences": end.differences.as_deref().unwrap_or_default(),
        "metrics": metrics,
        "failure": failure.map(|f| serde_json::json!({ "kind": f.kind, "reason": f.reason, "log_excerpt": f.log_excerpt })),
        "exit_code": exit_code,
        "signal": signal,
        "wall_s": usage.wall_us as f64 / 1e6,
        "cpu_s": usage.cpu_us as f64 / 1e6,
        "peak_rss_bytes": usage.peak_rss_bytes,
        "dir": end.kept_dir().map(|dir| dir.display().to_string()),
    })
}

fn metric_text(name: &str, metric: &Metric) -> String {
    match metric {
        Metric::Number(value) => format!("{} {}", clean(name), number(*value)),
        Metric::Label(label) => format!("{} {}", clean(name), clean(label)),
    }
}

fn metric_json(metric: &Metric) -> serde_json::Value {
    match metric {
        Metric::Number(value) => (*value).into(),
        Metric::Label(label) => label.as_str().into(),
    }
}
