//! `/metrics`: how a study stands, or each of many, as OpenMetrics text. Gathered anew at each scrape, from counters that are kept.

use std::io;
use std::sync::atomic::AtomicU64;

use piton::model::{Accounting, AttemptOutcome, TrialState};
use piton::program::sys::clock::unix_ms;
use piton::views::clean;
use piton::views::status::Status;
use piton::{Error, Look};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// What a scrape accepts as OpenMetrics 1.0.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Most running trials of a study that have values of their own: each is a time series for whoever scrapes.
pub const RUNNING_MAX: usize = 64;
/// Most values of a running trial.
const VALUES_MAX: usize = 8;

type Labels = Vec<(String, String)>;
type Gauges = Family<Labels, Gauge<f64, AtomicU64>>;
type Counters = Family<Labels, Counter>;

fn labels<const N: usize>(pairs: [(&str, &str); N]) -> Labels {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// What a scrape takes of a study.
#[derive(Clone, Debug)]
pub struct Scraped {
    status: Status,
    accounting: Accounting,
}

impl Scraped {
    /// As it stands now.
    ///
    /// # Errors
    /// [`Error`] when the store cannot be read.
    pub fn of(look: &Look) -> Result<Self, Error> {
        let status = Status::load_listing(&look.view, &look.snapshot, unix_ms(), RUNNING_MAX)?;
        Ok(Self { status, accounting: look.view.progress.accounting })
    }

    pub fn study(&self) -> &str {
        &self.status.study
    }
}

/// A store of many: where it lies, and what was read of it, if anything could be.
pub type InStore<'a> = (&'a str, Option<&'a Scraped>);

/// All of a study that is shown alone.
///
/// # Errors
/// None that a string can have.
pub fn of_one(study: &Scraped) -> Result<String, Error> {
    text(&[(labels([]), study)], Registry::with_prefix("piton"))
}

/// All of many studies: whatever is said of one has its name and its store, by which those of the same name are told apart.
///
/// # Errors
/// None that a string can have.
pub fn of_many(stores: &[InStore<'_>]) -> Result<String, Error> {
    let mut registry = Registry::with_prefix("piton");
    let named = |store: &str, study: &str| labels([("study", &clean(study)), ("store", store)]);
    let readable = Gauges::default();
    for (store, study) in stores {
        let of_store = named(store, study.map_or("", Scraped::study));
        readable.get_or_create(&of_store).set(f64::from(u8::from(study.is_some())));
    }
    registry.register(
        "store_readable",
        "Whether the store can be read; one that cannot has no study's name",
        readable,
    );
    let read = stores.iter().filter_map(|(store, study)| study.map(|study| (named(store, study.study()), study)));
    text(&read.collect::<Vec<_>>(), registry)
}

/// Each study with the labels that all it says has.
#[expect(clippy::cast_precision_loss, reason = "OpenMetrics numbers are floats")]
fn text(studies: &[(Labels, &Scraped)], mut registry: Registry) -> Result<String, Error> {
    let (state, alive, runtime) = (Gauges::default(), Gauges::default(), Gauges::default());
    let (runs, events, attempts) = (Counters::default(), Counters::default(), Counters::default());
    let (trials, planned, expected) = (Gauges::default(), Gauges::default(), Gauges::default());
    let (rate, best, step, value) = (Gauges::default(), Gauges::default(), Gauges::default(), Gauges::default());
    for (own, Scraped { status, accounting }) in studies {
        let with = |pairs: &[(&str, &str)]| -> Labels {
            let pairs = pairs.iter().filter(|(name, _)| !own.iter().any(|(known, _)| known == name));
            own.iter().cloned().chain(pairs.map(|(name, value)| ((*name).into(), (*value).into()))).collect()
        };
        state.get_or_create(&with(&[("study", &status.study), ("status", status.status.name())])).set(1.0);
        let lives = status.engine.as_ref().is_some_and(|engine| engine.alive);
        alive.get_or_create(own).set(f64::from(u8::from(lives)));
        runtime.get_or_create(own).set(status.runtime_s);
        runs.get_or_create(own).inc_by(status.runs.into());
        events.get_or_create(own).inc_by(status.events);
        for (outcome, count) in [
            (AttemptOutcome::Succeeded, accounting.succeeded),
            (AttemptOutcome::Failed, accounting.failed),
            (AttemptOutcome::Interrupted, accounting.interrupted),
        ] {
            attempts.get_or_create(&with(&[("outcome", outcome.name())])).inc_by(count);
        }
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
                let of_state = with(&[("stage", &stage.name), ("state", state.name())]);
                trials.get_or_create(&of_state).set(count as f64);
            }
            let of_stage = with(&[("stage", &stage.name)]);
            planned.get_or_create(&of_stage).set(counts.planned as f64);
            expected.get_or_create(&of_stage).set(stage.expected as f64);
            if let Some(per_minute) = stage.per_minute {
                rate.get_or_create(&of_stage).set(per_minute);
            }
            if let Some(value) = &stage.best {
                best.get_or_create(&with(&[("stage", &stage.name), ("metric", &value.metric)])).set(value.value);
            }
        }
        for running in &status.running {
            let Some(report) = &running.last_report else { continue };
            step.get_or_create(&with(&[("case", &running.case)])).set(report.step as f64);
            for (name, measured) in report.measured().take(VALUES_MAX) {
                let of_metric = with(&[("case", &running.case), ("metric", &clean(name))]);
                value.get_or_create(&of_metric).set(measured.unwrap_or(f64::NAN));
            }
        }
    }
    registry.register("study_status", "The study's name and status; always 1", state);
    registry.register("engine_alive", "Whether an engine runs the study", alive);
    registry.register_with_unit("runtime", "Running time over all runs", Unit::Seconds, runtime);
    registry.register("runs", "Times an engine opened the study", runs);
    registry.register("events", "Events in the journal", events);
    registry.register("attempts", "Attempts that ended", attempts);
    registry.register("trials", "Trials by stage and state", trials);
    registry.register("trials_planned", "Trials planned, by stage", planned);
    let words = "Trials planned, and those that a proposer may still propose, by stage";
    registry.register("trials_expected", words, expected);
    registry.register("attempts_per_minute", "Attempts that end in a minute at the present pace", rate);
    registry.register("best", "Best value of the stage's first objective so far", best);
    registry.register("trial_step", "Step of the last report of each trial that runs", step);
    registry.register("trial_value", "Values in it; NaN: not finite", value);
    let mut text = String::new();
    encode(&mut text, &registry)
        .map_err(|cause| Error::System { what: "write the metrics", cause: io::Error::other(cause) })?;
    Ok(text)
}
