//! `/metrics`: how a study stands, as OpenMetrics text. Gathered anew at each scrape, from counters that are kept.

use std::sync::atomic::AtomicU64;

use piton::model::{Accounting, AttemptOutcome, TrialState};
use piton::views::clean;
use piton::views::status::Status;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// What a scrape accepts as OpenMetrics 1.0.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Most running trials that have values of their own: each is a time series for whoever scrapes.
pub const RUNNING_MAX: usize = 64;
/// Most values of a running trial.
const VALUES_MAX: usize = 8;

type Labels = Vec<(String, String)>;
type Gauges = Family<Labels, Gauge<f64, AtomicU64>>;

fn labels<const N: usize>(pairs: [(&str, &str); N]) -> Labels {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// All of it.
///
/// # Errors
/// None that a string can have.
#[expect(clippy::cast_precision_loss, reason = "OpenMetrics numbers are floats")]
pub fn text(status: &Status, accounting: Accounting) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix("piton");
    let study = Gauges::default();
    study.get_or_create(&labels([("study", &status.study), ("status", status.status.name())])).set(1.0);
    registry.register("study_status", "The study's name and status; always 1", study);

    let alive = Gauge::<f64, AtomicU64>::default();
    alive.set(f64::from(u8::from(status.engine.as_ref().is_some_and(|engine| engine.alive))));
    registry.register("engine_alive", "Whether an engine runs the study", alive);
    let runtime = Gauge::<f64, AtomicU64>::default();
    runtime.set(status.runtime_s);
    registry.register_with_unit("runtime", "Running time over all runs", Unit::Seconds, runtime);
    let runs = Counter::<u64>::default();
    runs.inc_by(status.runs.into());
    registry.register("runs", "Times an engine opened the study", runs);
    let events = Counter::<u64>::default();
    events.inc_by(status.events);
    registry.register("events", "Events in the journal", events);

    let attempts = Family::<Labels, Counter>::default();
    for (outcome, count) in [
        (AttemptOutcome::Succeeded, accounting.succeeded),
        (AttemptOutcome::Failed, accounting.failed),
        (AttemptOutcome::Interrupted, accounting.interrupted),
    ] {
        attempts.get_or_create(&labels([("outcome", outcome.name())])).inc_by(count);
    }
    registry.register("attempts", "Attempts that ended", attempts);

    let (trials, planned, expected) = (Gauges::default(), Gauges::default(), Gauges::default());
    let (rate, best) = (Gauges::default(), Gauges::default());
    for stage in &status.stages {
        let counts = stage.trials;
        for (state, count) in [
            (TrialState::Pending, counts.pending),
            (TrialState::Running, counts.running),
            (TrialState::Succeeded, counts.succeeded),
            (TrialState::Failed, counts.failed),
            (TrialState::Cancelled, counts.cancelled),
            (TrialState::Pruned, counts.pruned),
            (TrialState::Undecided, counts.undecided),
        ] {
            trials.get_or_create(&labels([("stage", &stage.name), ("state", state.name())])).set(count as f64);
        }
        let of_stage = labels([("stage", &stage.name)]);
        planned.get_or_create(&of_stage).set(counts.planned as f64);
        expected.get_or_create(&of_stage).set(stage.expected as f64);
        if let Some(per_minute) = stage.per_minute {
            rate.get_or_create(&of_stage).set(per_minute);
        }
        if let Some(value) = &stage.best {
            best.get_or_create(&labels([("stage", &stage.name), ("metric", &value.metric)])).set(value.value);
        }
    }
    registry.register("trials", "Trials by stage and state", trials);
    registry.register("trials_planned", "Trials planned, by stage", planned);
    let words = "Trials planned, and those that a proposer may still propose, by stage";
    registry.register("trials_expected", words, expected);
    registry.register("attempts_per_minute", "Attempts that end in a minute at the present pace", rate);
    registry.register("best", "Best value of the stage's first objective so far", best);
    let (step, value) = (Gauges::default(), Gauges::default());
    for running in &status.running {
        let Some(report) = &running.last_report else { continue };
        step.get_or_create(&labels([("case", &running.case)])).set(report.step as f64);
        for (name, measured) in report.measured().take(VALUES_MAX) {
            let of_metric = labels([("case", &running.case), ("metric", &clean(name))]);
            value.get_or_create(&of_metric).set(measured.unwrap_or(f64::NAN));
        }
    }
    registry.register("trial_step", "Step of the last report of each trial that runs", step);
    registry.register("trial_value", "Values in it; NaN: not finite", value);
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}
