//! What became of an attempt, once that is known: its result, or why it left none. Reports each end once.

use std::collections::HashMap;

use super::starts::FailedStart;
use super::{
    AttemptReport, Differs, ExecutorEvent, Flight, JobState, Listed, Mode, Outcome, TrialId, Usage, Verdict,
    Watcher, Why, excerpt_of, failure, unix_ms,
};
use crate::model::FailureKind;

impl Watcher {
    /// Asks who cancelled those that somebody else than piton cancelled, while their ends are not reported.
    pub(super) fn ask_who_cancelled(&mut self, jobs: &HashMap<String, Listed>) {
        let id_of = |flight: &Flight| {
            let job = jobs.get(&flight.job.key.to_string())?;
            let asks = flight.by.is_none() && !flight.asked_to_end;
            (asks && job.state == JobState::Over(Why::Cancelled)).then(|| job.id.clone())
        };
        let cancelled: Vec<(TrialId, String)> =
            self.flights.iter().filter_map(|(trial, flight)| Some((*trial, id_of(flight)?))).collect();
        if cancelled.is_empty() {
            return;
        }
        let ids: Vec<String> = cancelled.iter().map(|(_, id)| id.clone()).collect();
        let found = self.cluster.cancelled_by(&ids);
        for (trial, id) in cancelled {
            if let Some(flight) = self.flights.get_mut(&trial) {
                flight.by = found.get(&id).cloned();
            }
        }
    }

    /// A job is over that never claimed its attempt: whatever it is, it is not the trial's doing.
    pub(super) fn never_began(&mut self, trial: TrialId, why: Why) {
        let Some(flight) = self.flights.get(&trial) else { return };
        match why {
            Why::Ended | Why::TimedOut | Why::OutOfMemory => {
                let said = excerpt_of(&flight.control.said().unwrap_or_default());
                let words = match (said.trim(), &flight.said) {
                    ("", Some(said)) => said.trim().to_owned(),
                    ("", None) => format!("{}, and said nothing", why.words()),
                    (said, _) => said.to_owned(),
                };
                self.failed_start(trial, "the job could not start", &words);
            }
            other => {
                let words = words(flight, other);
                self.interrupted(trial, words);
            }
        }
    }

    /// What a node did: an interruption. The node is avoided; enough of them end the run.
    fn failed_start(&mut self, trial: TrialId, what: &str, words: &str) {
        let Some(flight) = self.flights.get(&trial) else { return };
        let (node, submitted) = (flight.told.node.clone(), flight.submitted);
        let left = flight.place.clone().is_none_or(|place| self.cluster.avoid(&place));
        let on = node.as_deref().map_or_else(String::new, |node| format!(" on {node}"));
        let reason = format!("{what}{on}: {words}");
        if self.told_starts.insert(node.clone()) {
            let avoided = if node.is_some() { "; that node is avoided from now on" } else { "" };
            log::warn!("{reason}{avoided}");
        }
        let now = self.now();
        let start = FailedStart { trial, node: node.as_deref(), why: words, submitted, now };
        let enough = self.starts.failed(&start);
        let nothing_left = || self.starts.nothing_left("each of its nodes was tried");
        if let Some(why) = enough.or_else(|| (!left).then(nothing_left).flatten()) {
            self.broken(why);
        }
        self.interrupted(trial, reason);
    }

    /// A job is over, was silent for long, and left no result.
    pub(super) fn lost(&mut self, trial: TrialId, why: Why) {
        let Some(flight) = self.flights.get(&trial) else { return };
        let why = if why == Why::Unknown { cut_off_by(flight).unwrap_or(why) } else { why };
        let verdict = by_cluster(why).unwrap_or_else(|| Verdict::Interrupted { reason: words(flight, why) });
        self.report(trial, verdict);
    }

    pub(super) fn interrupted(&mut self, trial: TrialId, reason: String) {
        self.report(trial, Verdict::Interrupted { reason });
    }

    /// A job left its result.
    pub(super) fn ended(&mut self, trial: TrialId, outcome: Outcome, why: Why) {
        let Some(flight) = self.flights.get(&trial) else { return };
        if let Some(parent) = outcome.parent_differs(&flight.job) {
            let _ = self.events.send(ExecutorEvent::Differs(Differs::Parent(Box::new(parent))));
        }
        if let Some(broken) = outcome.broken.clone() {
            return self.failed_start(trial, "it could not run", &broken);
        }
        let mut report = outcome.into_report(&flight.job.key);
        match &report.verdict {
            // What cut it off was the cluster, if the study did not.
            Verdict::Interrupted { .. } if self.mode < Mode::Terminate => {
                let told = match why {
                    Why::Ended | Why::Unknown | Why::Requeued => cut_off_by(flight).unwrap_or(why),
                    told => told,
                };
                report.verdict = match told {
                    Why::Ended | Why::Unknown => report.verdict,
                    told => {
                        by_cluster(told).unwrap_or_else(|| Verdict::Interrupted { reason: words(flight, told) })
                    }
                };
            }
            // A process of the trial's was killed for its memory, and the trial made of it what it could.
            Verdict::Failed(found)
                if matches!(found.kind, FailureKind::ExitCode | FailureKind::Signal)
                    && (why == Why::OutOfMemory || cut_off_by(flight) == Some(Why::OutOfMemory)) =>
            {
                let killed = failure(FailureKind::OutOfMemory, Why::OutOfMemory.words());
                let log_excerpt = found.log_excerpt.clone();
                report.verdict = Verdict::Failed(crate::model::Failure { log_excerpt, ..killed });
            }
            _ => {}
        }
        if !matches!(report.verdict, Verdict::Interrupted { .. }) {
            self.starts.went_well(trial);
        }
        self.pass_on(trial, report);
    }

    fn report(&mut self, trial: TrialId, verdict: Verdict) {
        let Some(flight) = self.flights.get(&trial) else { return };
        let (attempt, usage) = (flight.job.key.attempt, Usage::default());
        let shown = Default::default();
        self.pass_on(
            trial,
            AttemptReport { trial, attempt, ended_ms: unix_ms(), exit: None, usage, verdict, shown },
        );
    }

    /// Reports an end, after all that is known of the job.
    fn pass_on(&mut self, trial: TrialId, report: AttemptReport) {
        let Some(mut flight) = self.flights.remove(&trial) else { return };
        let mut told = flight.told.clone();
        if let Some(begun) = flight.control.begun() {
            (told.node, told.started_ms) = (Some(begun.node), Some(begun.at_ms));
        }
        flight.tell(told, &self.events);
        self.reported.insert((trial, report.attempt), (flight.control, flight.told.id));
        let _ = self.events.send(ExecutorEvent::Ended(Box::new(report)));
    }
}

/// Why a job ended early, and who did it, where that is known and was not piton.
fn words(flight: &Flight, why: Why) -> String {
    match &flight.by {
        Some(by) if why == Why::Cancelled && !flight.asked_to_end => format!("{} by user {by}", why.words()),
        _ => why.words().to_owned(),
    }
}

/// What Slurm wrote into a job's output when it ended the job: that stays when Slurm has forgotten it.
fn cut_off_by(flight: &Flight) -> Option<Why> {
    let said = String::from_utf8_lossy(&flight.control.said().ok()?).into_owned();
    // `slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 2026-01-01T00:00:00 DUE TO TIME LIMIT ***`
    let of_slurm = said.lines().filter(|line| line.starts_with("slurmstepd"));
    let marks = [
        ("DUE TO TIME LIMIT", Why::TimedOut),
        ("oom-kill event", Why::OutOfMemory),
        ("oom_kill event", Why::OutOfMemory),
        ("DUE TO PREEMPTION", Why::Preempted),
        ("DUE TO NODE FAILURE", Why::NodeFailed),
        ("DUE TO JOB REQUEUE", Why::Requeued),
        ("CANCELLED AT", Why::Cancelled),
    ];
    of_slurm
        .filter_map(|line| marks.iter().find(|(mark, _)| line.contains(mark)).map(|(_, why)| *why))
        .max_by_key(|why| matches!(why, Why::TimedOut | Why::OutOfMemory))
}

/// The verdict on an attempt that a limit of the cluster's cut off: its own fault, as a limit of the study's would be.
fn by_cluster(why: Why) -> Option<Verdict> {
    let kind = match why {
        Why::TimedOut => FailureKind::Timeout,
        Why::OutOfMemory => FailureKind::OutOfMemory,
        _ => return None,
    };
    Some(Verdict::Failed(failure(kind, why.words())))
}
