//! One attempt of a closure of the embedding program, on the worker's own thread.
//!
//! A closure cannot be killed: it is asked to stop, and believed. Its panic is the attempt's failure and nobody
//! else's.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::blame::{AttemptError, failure};
use super::ended_dir::EndedAttemptDir;
use super::process::PRUNED;
use super::results::complete;
use super::syncer::Unsynced;
use super::{Mode, Shared, attempt_dir};
use crate::executor::Job;
use crate::model::artifacts::PROGRESS_FILE;
use crate::model::reported::Reported;
use crate::model::reports::Report;
use crate::model::words;
use crate::model::{
    AttemptNo, Failure, FailureKind, Given, Metric, Metrics, Params, Severity, StageIndex, TrialId, Usage, Value,
    Verdict,
};
use crate::sys::append::{LEVELS, append_line, sync_entries};
use crate::sys::opened::Opened;
use crate::sys::words::io_words;

/// What a closure stage runs.
pub(crate) type ClosureFn = Arc<dyn Fn(&TrialContext<'_>) -> Result<Metrics, TrialError> + Send + Sync>;

/// What a closure may give as its metrics: [`Metrics`], or names with what they came to, such as `[("y", 1.5)]`.
pub trait IntoMetrics {
    /// The metrics.
    fn into_metrics(self) -> Metrics;
}

impl IntoMetrics for Metrics {
    fn into_metrics(self) -> Metrics {
        self
    }
}

impl<K: Into<String>, V: Into<Metric>, const N: usize> IntoMetrics for [(K, V); N] {
    fn into_metrics(self) -> Metrics {
        self.into_iter().map(|(name, metric)| (name.into(), metric.into())).collect()
    }
}

pub(crate) fn closure_fn<M: IntoMetrics>(
    run: impl Fn(&TrialContext<'_>) -> Result<M, TrialError> + Send + Sync + 'static,
) -> ClosureFn {
    Arc::new(move |trial| run(trial).map(M::into_metrics))
}

/// What a closure sees of its trial.
pub struct TrialContext<'a> {
    shared: &'a Shared,
    job: &'a Job,
    slot: u32,
    started_at: Duration,
    dir_made: Mutex<bool>,
    told_to_stop: AtomicBool,
    has_reports: AtomicBool,
}

impl TrialContext<'_> {
    /// The study's name.
    #[must_use]
    pub fn study(&self) -> &str {
        &self.job.stage_spec.study
    }

    /// The stage's name.
    #[must_use]
    pub fn stage(&self) -> &str {
        &self.job.stage_spec.name
    }

    /// The stage's place in the study, from 0.
    #[must_use]
    pub fn stage_index(&self) -> StageIndex {
        self.job.stage
    }

    /// The trial's number.
    #[must_use]
    pub fn trial(&self) -> TrialId {
        self.job.key.trial
    }

    /// The case.
    #[must_use]
    pub fn case(&self) -> &str {
        &self.job.case
    }

    /// The case it derives from.
    #[must_use]
    pub fn parent_case(&self) -> &str {
        &self.job.parent_case
    }

    /// The surviving parent's attempt directory; `None` in stage 0. It is there only if the parent asked for one.
    #[must_use]
    pub fn parent_dir(&self) -> Option<&Path> {
        self.job.parent_dir.as_deref()
    }

    /// The trial's seed, the same in every attempt.
    #[must_use]
    pub fn seed(&self) -> u32 {
        self.job.seed
    }

    /// Which replica of its case it is, from 0; `None` where cases are not repeated.
    #[must_use]
    pub fn replica(&self) -> Option<u32> {
        self.job.replica
    }

    /// The attempt's number, from 1.
    #[must_use]
    pub fn attempt(&self) -> AttemptNo {
        self.job.key.attempt
    }

    /// The worker's number, from 0: no two trials that run at the same time have the same.
    #[must_use]
    pub fn slot(&self) -> u32 {
        self.slot
    }

    /// How much the trial has of a pool that its stage `needs`; 0 of any other.
    #[must_use]
    pub fn amount(&self, pool: &str) -> u64 {
        self.given(pool).map_or(0, |given| given.amount)
    }

    /// Which items of a pool the trial has, such as cards: nobody else has them meanwhile. None of a pool that has no items or that its stage does not
    /// need.
    #[must_use]
    pub fn items(&self, pool: &str) -> &[String] {
        self.given(pool).map_or(&[], |given| &given.items)
    }

    fn given(&self, pool: &str) -> Option<&Given> {
        self.job.given.iter().find(|given| given.pool == pool)
    }

    /// Every param that the trial sees, by name.
    #[must_use]
    pub fn params(&self) -> &Params {
        &self.job.params
    }

    /// A number; integers are given as floats.
    ///
    /// # Errors
    /// If there is no such param, or it is no number. Not worth a retry.
    pub fn float(&self, name: &str) -> Result<f64, TrialError> {
        match self.param(name)? {
            Value::Float(number) => Ok(*number),
            #[expect(clippy::cast_precision_loss, reason = "who asks for a float gets the nearest one")]
            Value::Int(number) => Ok(*number as f64),
            Value::Str(_) | Value::Bool(_) => Err(self.mistyped(name, "a number")),
        }
    }

    /// An integer.
    ///
    /// # Errors
    /// If there is no such param, or it is no integer. Not worth a retry.
    pub fn int(&self, name: &str) -> Result<i64, TrialError> {
        match self.param(name)? {
            Value::Int(number) => Ok(*number),
            _ => Err(self.mistyped(name, "an integer")),
        }
    }

    /// A boolean.
    ///
    /// # Errors
    /// If there is no such param, or it is no boolean. Not worth a retry.
    pub fn bool(&self, name: &str) -> Result<bool, TrialError> {
        match self.param(name)? {
            Value::Bool(flag) => Ok(*flag),
            _ => Err(self.mistyped(name, "a boolean")),
        }
    }

    /// Text.
    ///
    /// # Errors
    /// If there is no such param, or it is not text. Not worth a retry.
    pub fn text(&self, name: &str) -> Result<&str, TrialError> {
        match self.param(name)? {
            Value::Str(text) => Ok(text),
            _ => Err(self.mistyped(name, "text")),
        }
    }

    fn param(&self, name: &str) -> Result<&Value, TrialError> {
        let missing =
            || TrialError::new(format!("there is no param `{name}`")).kind(FailureKind::BadParam).retryable(false);
        self.job.params.get(name).ok_or_else(missing)
    }

    fn mistyped(&self, name: &str, what: &str) -> TrialError {
        TrialError::new(format!("param `{name}` is not {what}")).kind(FailureKind::BadParam).retryable(false)
    }

    /// The attempt's own directory, empty when first asked for; made only if asked for.
    ///
    /// # Errors
    /// What making it fails with.
    pub fn dir(&self) -> io::Result<&Path> {
        let mut made = self.dir_made.lock().unwrap_or_else(PoisonError::into_inner);
        if !*made {
            attempt_dir::make_empty_dir(&self.shared.grounds, self.job)?;
            *made = true;
        }
        Ok(&self.job.dir)
    }

    /// The trial's directory that is kept across attempts, for a checkpoint of its own; made if asked for.
    ///
    /// # Errors
    /// What making it fails with.
    pub fn scratch_dir(&self) -> io::Result<&Path> {
        attempt_dir::make_scratch_dir(&self.shared.grounds, self.job)?;
        Ok(&self.job.scratch_dir)
    }

    /// Reports how far the trial is: a step that grows, such as an epoch, and what was measured. It is durable when this
    /// comes back, and is kept across attempts: report first, then write a checkpoint. A report whose step is not above that
    /// of all before counts for nothing, so who begins anew may report again. The last report of a metric is its value if the
    /// closure gives none.
    ///
    /// ```no_run
    /// # fn run(trial: &piton::TrialContext<'_>) -> Result<piton::Metrics, piton::TrialError> {
    /// for epoch in 1..=100_u32 {
    ///     let loss = 1.0 / f64::from(epoch);
    ///     if trial.report(epoch.into(), [("loss", loss)])? == piton::Heard::End {
    ///         return Err("told to end".into());
    ///     }
    /// }
    /// # Ok(piton::Metrics::new()) }
    /// ```
    ///
    /// # Errors
    /// What is no report, and what writing it fails with.
    pub fn report(&self, step: u64, metrics: impl IntoMetrics) -> io::Result<Heard> {
        let metrics = metrics.into_metrics().into_iter().map(|(name, metric)| match metric {
            Metric::Number(number) => Ok((name, Some(number).filter(|number| number.is_finite()))),
            Metric::Label(_) => {
                Err(io::Error::new(io::ErrorKind::InvalidInput, format!("`{name}` is text, not a number")))
            }
        });
        let report = Report { step, metrics: metrics.collect::<Result<_, _>>()? };
        let line = report.line().map_err(|why| io::Error::new(io::ErrorKind::InvalidInput, why))?;
        self.has_reports.store(true, Ordering::Relaxed);
        let case = attempt_dir::open_case(&self.shared.grounds, self.job)?;
        append_line(&case.path_now().join(PROGRESS_FILE), &line, 0)?;
        if let Some(watcher) = self.shared.watcher(self.job) {
            watcher.look(self.job.key.trial);
        }
        let case_dir = self.job.scratch_dir.parent().unwrap_or(&self.job.scratch_dir);
        sync_entries(case_dir, LEVELS)?;
        Ok(if self.should_stop() { Heard::End } else { Heard::GoOn })
    }

    /// Whether the closure should come back with an error soon: the engine ends, the trial is pruned, or its time is up. Look now
    /// and then; it costs next to nothing.
    #[must_use]
    pub fn should_stop(&self) -> bool {
        let stop = self.terminating() || self.out_of_time() || self.shared.is_pruned(self.job);
        self.told_to_stop.fetch_or(stop, Ordering::Relaxed);
        stop
    }

    fn terminating(&self) -> bool {
        self.shared.mode() >= Mode::Terminate
    }

    fn out_of_time(&self) -> bool {
        let ran = self.shared.clock.now().saturating_sub(self.started_at);
        self.job.stage_spec.timeout.is_some_and(|timeout| ran >= timeout)
    }
}

/// What a closure hears when it reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Heard {
    /// The trial goes on.
    GoOn,
    /// As [`TrialContext::should_stop`] says: the engine ends, the trial is pruned, or its time is up.
    End,
}

/// How a closure says that its trial failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{reason}")]
pub struct TrialError {
    kind: FailureKind,
    reason: String,
    severity: Severity,
    retryable: bool,
}

impl TrialError {
    /// A failure of kind `error`, medium severity, retryable.
    #[must_use]
    pub fn new(reason: impl Into<String>) -> Self {
        Self { kind: FailureKind::Error, reason: reason.into(), severity: Severity::Medium, retryable: true }
    }

    /// With a kind of your own.
    #[must_use]
    pub fn kind(mut self, kind: impl Into<FailureKind>) -> Self {
        self.kind = kind.into();
        self
    }

    /// With another severity.
    #[must_use]
    pub fn severity(mut self, severity: Severity) -> Self {
        self.severity = severity;
        self
    }

    /// Whether a retry could help.
    #[must_use]
    pub fn retryable(mut self, retryable: bool) -> Self {
        self.retryable = retryable;
        self
    }
}

impl From<String> for TrialError {
    fn from(reason: String) -> Self {
        Self::new(reason)
    }
}

impl From<&str> for TrialError {
    fn from(reason: &str) -> Self {
        Self::new(reason)
    }
}

impl From<io::Error> for TrialError {
    fn from(error: io::Error) -> Self {
        Self::new(io_words(&error)).kind(FailureKind::Io)
    }
}

/// Runs the attempt to its end and reports it.
pub(super) fn run(shared: &Shared, job: &Job, slot: u32) {
    let started_at = shared.clock.now();
    let cpu_before = thread_cpu();
    shared.tell_started(job, slot, None);
    if job.stage_spec.memory_limit_bytes.is_some() {
        shared.memory.warn_not_enforced("a closure shares the memory of its program");
    }
    let context = TrialContext {
        shared,
        job,
        slot,
        started_at,
        dir_made: Mutex::new(false),
        told_to_stop: AtomicBool::new(false),
        has_reports: AtomicBool::new(had_reports(shared, job)),
    };
    let mut unsynced = Unsynced::new(&shared.room);
    let verdict = match shared.closures.get(&job.stage_spec.name) {
        // What the closure broke by its panic is its own; piton's side of the context has no half-done states.
        Some(closure) => match catch_unwind(AssertUnwindSafe(|| closure(&context))) {
            Ok(result) => judge(shared, &context, result, &mut unsynced),
            Err(panic) => {
                Verdict::Failed(failure(FailureKind::Panic, format!("panicked: {}", panic_words(&*panic))))
            }
        },
        None => {
            let reason = format!("no closure is registered for stage `{}`", job.stage_spec.name);
            Verdict::Failed(Failure { retryable: false, ..failure(FailureKind::SpawnFailed, reason) })
        }
    };
    let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    let usage = Usage {
        wall_us: micros(shared.clock.now().saturating_sub(started_at)),
        cpu_us: micros(thread_cpu().saturating_sub(cpu_before)),
        peak_rss_bytes: 0,
    };
    shared.tell_ended(job, None, usage, verdict, unsynced);
}

fn judge(
    shared: &Shared,
    context: &TrialContext<'_>,
    result: Result<Metrics, TrialError>,
    unsynced: &mut Unsynced,
) -> Verdict {
    let error = match result {
        // Whoever came back with a result has finished, even if it was asked to stop meanwhile.
        Ok(metrics) => {
            // What lies there, if this attempt did not make it, is of one whose start was never recorded.
            let made = *context.dir_made.lock().unwrap_or_else(PoisonError::into_inner);
            let remains = if made {
                EndedAttemptDir::of(&shared.grounds, context.job)
            } else if context.has_reports.load(Ordering::Relaxed) {
                EndedAttemptDir::only_case(&shared.grounds, context.job)
            } else {
                Ok(EndedAttemptDir::none())
            };
            let remains = match remains {
                Ok(remains) => remains,
                Err(why) => return shared.machine_failed(why),
            };
            let watch = || shared.may_go_on(context.job, context.started_at);
            let mut reported = Reported { metrics, ..Reported::default() };
            let verdict = match complete(context.job, &remains, &mut reported, unsynced, &watch) {
                Ok(outputs) => Verdict::Succeeded { metrics: reported.metrics, outputs },
                Err(AttemptError::Trial(failure)) => Verdict::Failed(failure),
                Err(AttemptError::Machine(why)) => shared.machine_failed(why),
                Err(AttemptError::CutOff) => shared.cut_off(context.job),
            };
            return shared.keep_rest(context.job, verdict, &remains, unsynced);
        }
        Err(error) => error,
    };
    if context.terminating() {
        return Verdict::Interrupted { reason: "stopped with the engine".into() };
    }
    if context.told_to_stop.load(Ordering::Relaxed) && shared.is_pruned(context.job) {
        return Verdict::Interrupted { reason: PRUNED.into() };
    }
    if context.told_to_stop.load(Ordering::Relaxed) {
        let limit = words::limit(context.job.stage_spec.timeout.unwrap_or_default());
        return Verdict::Failed(failure(
            FailureKind::Timeout,
            format!("ran longer than {limit}: {}", error.reason),
        ));
    }
    let base = failure(error.kind, error.reason);
    Verdict::Failed(Failure { severity: error.severity, retryable: error.retryable, ..base })
}

/// Whether an attempt before reported something. Most closures do not, and need nothing opened.
fn had_reports(shared: &Shared, job: &Job) -> bool {
    if job.progress_file().symlink_metadata().is_err() {
        return false;
    }
    let discard = |case: Arc<Opened>| attempt_dir::discard_old_reports(&case, job);
    match attempt_dir::open_case(&shared.grounds, job).and_then(discard) {
        Ok(discarded) => !discarded,
        Err(error) => {
            log::warn!(
                "cannot tell whose reports are in `{}`: {}",
                job.progress_file().display(),
                io_words(&error)
            );
            true
        }
    }
}

fn panic_words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

fn thread_cpu() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}
