//! What attempts left, read again: what is recorded of it, and what its events do to the rows.
//!
//! When a study's rules change (`piton amend`), what finished trials left is judged by the new ones. The rows become what they would be had
//! the rules been there from the start; the journal keeps what was recorded before. Nothing here may touch a trial that is not finished, or
//! an attempt other than the one that counts.

use super::event::{Event, Next, Verdict};
use super::failure::Failure;
use super::fold::{Fold, Rows};
use super::ids::{AttemptNo, StageIndex, TrialId};
use super::rows::{Best, Severity, StageStatus, TrialRow, TrialState};

/// The result of a trial, by the rules that count from now on.
#[derive(Clone, Debug, PartialEq)]
pub struct Reread {
    /// The trial whose attempt was read again.
    pub trial: TrialId,
    /// The attempt that counts: its last, or [`REUSED`](super::REUSED).
    pub attempt: AttemptNo,
    /// What it counts as: a success or a failure; or, of a success that nobody can read any more, as interrupted: it runs again.
    pub verdict: Verdict,
    /// What becomes of the trial.
    pub next: Next,
}

fn is_catastrophic(failure: Option<&Failure>) -> bool {
    failure.is_some_and(|failure| failure.severity == Severity::Catastrophic)
}

impl TrialRow {
    /// Whether it has a result of which something was left. Of an imported one nobody knows what it depends on, so no reading may give it
    /// an identity, whatever attempts came before it.
    #[must_use]
    pub(crate) fn has_result(&self) -> bool {
        matches!(self.state, TrialState::Succeeded | TrialState::Failed)
            && self.imported.is_none()
            && self.accepted_is_there()
    }

    fn accepted_is_there(&self) -> bool {
        self.reused_from.is_some() || !self.attempts.is_empty()
    }

    /// The row with another result in the place of the one it has; `None` where that does not fit.
    #[must_use]
    pub(crate) fn read_again(&self, reread: &Reread) -> Option<Self> {
        if !self.has_result() || self.trial != reread.trial || self.accepted() != reread.attempt {
            return None;
        }
        let had_failed = self.state == TrialState::Failed;
        let mut row = Self { identity: None, due_ms: 0, ..self.clone() };
        match (&reread.verdict, reread.next) {
            (Verdict::Succeeded { metrics, outputs }, Next::Final) => {
                row.state = TrialState::Succeeded;
                row.failures = row.failures.saturating_sub(u32::from(had_failed));
                (row.metrics, row.outputs, row.failure) = (metrics.clone(), outputs.clone(), None);
            }
            (Verdict::Failed(failure), next) if row.reused_from.is_none() => {
                row.failures = row.failures.saturating_add(u32::from(!had_failed));
                row.metrics.clear();
                row.outputs.clear();
                row.failure = Some(failure.clone());
                row.state = match next {
                    Next::Final => TrialState::Failed,
                    Next::Again { due_ms } => {
                        row.due_ms = due_ms;
                        TrialState::Pending
                    }
                };
            }
            (Verdict::Interrupted { .. }, Next::Again { due_ms }) if !had_failed => {
                row.metrics.clear();
                row.outputs.clear();
                (row.reused_from, row.state, row.due_ms) = (None, TrialState::Pending, due_ms);
            }
            _ => return None,
        }
        if let Some(last) = row.attempts.last_mut().filter(|last| last.n == reread.attempt) {
            last.outcome = Some(reread.verdict.outcome());
        }
        Some(row)
    }
}

impl Fold {
    pub(super) fn read_again<R: Rows>(&self, rows: &mut R, event: &Event) -> Result<(), R::Error> {
        match event {
            Event::ResultReread(reread) => self.reread(rows, reread),
            Event::StageReread { stage, best, .. } => self.stage_reread(rows, *stage, *best),
            _ => self.study(rows).map(drop),
        }
    }

    fn reread<R: Rows>(&self, rows: &mut R, reread: &Reread) -> Result<(), R::Error> {
        let trial = reread.trial;
        let before = rows.trial(trial)?;
        let Some((before, row)) = before.and_then(|before| before.read_again(reread).map(|row| (before, row)))
        else {
            return Err(self.misfit(format!("attempt {} of trial {trial} is no such result", reread.attempt)));
        };
        let mut counters = rows.counters(row.stage)?;
        let mut progress = rows.progress()?;
        let accounting = &mut progress.accounting;
        match before.state {
            TrialState::Succeeded => {
                counters.succeeded = counters.succeeded.saturating_sub(1);
                let taken = before.reused_from.is_some() && row.reused_from.is_none();
                counters.reused = counters.reused.saturating_sub(u64::from(taken));
            }
            _ => {
                counters.failed = counters.failed.saturating_sub(1);
                let undone = u64::from(is_catastrophic(before.failure.as_ref()));
                progress.catastrophic = progress.catastrophic.saturating_sub(undone);
            }
        }
        if before.reused_from.is_none() {
            match before.state {
                TrialState::Succeeded => accounting.succeeded = accounting.succeeded.saturating_sub(1),
                _ => accounting.failed = accounting.failed.saturating_sub(1),
            }
            match &reread.verdict {
                Verdict::Succeeded { .. } => accounting.succeeded += 1,
                Verdict::Interrupted { .. } => {
                    accounting.interrupted += 1;
                    let wall_us = before.attempts.last().map_or(0, |last| last.usage.wall_us);
                    counters.ended_attempts = counters.ended_attempts.saturating_sub(1);
                    counters.ended_wall_us = counters.ended_wall_us.saturating_sub(wall_us);
                }
                _ => accounting.failed += 1,
            }
        }
        match row.state {
            TrialState::Succeeded => counters.succeeded += 1,
            TrialState::Failed => {
                counters.failed += 1;
                progress.catastrophic += u64::from(is_catastrophic(row.failure.as_ref()));
            }
            _ => {
                let runs = |status| matches!(status, StageStatus::Open | StageStatus::Aborted);
                if !rows.stage_head(row.stage)?.is_some_and(|stage| runs(stage.status)) {
                    return Err(self.misfit(format!("stage {} is not open", row.stage)));
                }
                rows.add_ready((row.due_ms, trial))?;
            }
        }
        rows.put_progress(progress)?;
        rows.put_counters(row.stage, counters)?;
        rows.put_trial(row)
    }

    fn stage_reread<R: Rows>(&self, rows: &mut R, stage: StageIndex, best: Option<Best>) -> Result<(), R::Error> {
        let begun = rows.stage_head(stage)?.is_some_and(|stage| stage.status != StageStatus::Waiting);
        if !begun {
            return Err(self.misfit(format!("stage {stage} has not begun")));
        }
        let counters = rows.counters(stage)?;
        rows.put_counters(stage, super::rows::StageCounters { best, ..counters })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::rows_in_memory::Memory;
    use crate::model::{
        AttemptEnd, EngineId, ExecutorKind, FirstObjective, FoldError, ImportSource, Imported, Metric, Metrics,
        ProcessId, Record, StageDecl, StudyCreated, Usage, fold,
    };

    fn apply(rows: &mut Memory, event: Event) -> Result<(), FoldError> {
        let seq = rows.progress.last_seq + 1;
        fold(rows, seq, &Record { at_ms: 7, run_ms: 0, event })
    }

    fn succeeded(value: f64) -> Verdict {
        Verdict::Succeeded { metrics: Metrics::from([("m".into(), Metric::Number(value))]), outputs: Vec::new() }
    }

    fn failed(severity: Severity) -> Verdict {
        Verdict::Failed(Failure { severity, ..Failure::new("own".into(), "") })
    }

    /// Trials that end so, with what becomes of each.
    fn ended(verdicts: &[(Verdict, Next)]) -> Memory {
        let mut rows = Memory::default();
        let objective = Some(FirstObjective { metric: "m".into(), maximize: true });
        let stage = StageDecl { name: "a".into(), trial_budget: 5, survivor_count: 1, objective, proposed: false };
        let created = StudyCreated { stages: vec![stage], ..StudyCreated::of_nothing() };
        apply(&mut rows, Event::StudyCreated(Box::new(created))).unwrap();
        let process = ProcessId { pid: 1, start_ticks: 1 };
        let engine = EngineId { process, boot_id: String::new(), host: String::new() };
        apply(&mut rows, Event::RunStarted { engine, workers: 1, sync_interval_ms: 0 }).unwrap();
        apply(&mut rows, Event::StageOpened { stage: 0, parents: Vec::new(), shares: vec![5] }).unwrap();
        for (trial, (verdict, next)) in (0..).map(TrialId).zip(verdicts) {
            let (attempt, slot, process, executor) = (1, 0, None, ExecutorKind::Local);
            apply(&mut rows, Event::AttemptStarted { trial, attempt, slot, process, executor }).unwrap();
            let (usage, verdict) = (Usage::default(), verdict.clone());
            let end = AttemptEnd { trial, attempt: 1, ended_ms: 7, exit: None, usage, verdict, next: *next };
            apply(&mut rows, Event::AttemptEnded(Box::new(end))).unwrap();
        }
        rows
    }

    #[test]
    fn rows_are_what_they_would_be_had_the_attempts_ended_so() {
        let again = Next::Again { due_ms: 0 };
        let before = [
            (succeeded(9.0), Next::Final),
            (failed(Severity::Catastrophic), Next::Final),
            (succeeded(5.0), Next::Final),
            (failed(Severity::Low), Next::Final),
            (succeeded(8.0), Next::Final),
        ];
        let after = [
            (failed(Severity::Catastrophic), Next::Final),
            (succeeded(7.0), Next::Final),
            (failed(Severity::Medium), again),
            (failed(Severity::Catastrophic), Next::Final),
            (Verdict::Interrupted { reason: "its files are gone".into() }, again),
        ];
        let (mut rows, expected) = (ended(&before), ended(&after));
        let best = expected.counters[&0].best;
        apply(&mut rows, Event::StageReread { stage: 0, read: 5, best }).unwrap();
        for (trial, (verdict, next)) in (0..).map(TrialId).zip(after) {
            apply(&mut rows, Event::ResultReread(Box::new(Reread { trial, attempt: 1, verdict, next }))).unwrap();
        }
        let last_seq = rows.progress.last_seq;
        assert_eq!(
            rows,
            Memory { progress: super::super::StudyProgress { last_seq, ..expected.progress }, ..expected }
        );
    }

    #[test]
    fn what_has_no_such_result_is_not_read_again() {
        let rows = ended(&[(succeeded(1.0), Next::Final), (failed(Severity::Low), Next::Again { due_ms: 5 })]);
        let reread =
            |trial, attempt, verdict| Reread { trial: TrialId(trial), attempt, verdict, next: Next::Final };
        let interrupted = Verdict::Interrupted { reason: String::new() };
        let again = Reread { next: Next::Again { due_ms: 0 }, ..reread(1, 1, interrupted.clone()) };
        assert!(rows.trials[&TrialId(1)].read_again(&again).is_none(), "it has no result");
        for wrong in [
            reread(0, 2, succeeded(1.0)),
            reread(1, 1, succeeded(1.0)),
            reread(2, 1, succeeded(1.0)),
            reread(0, 1, interrupted),
        ] {
            assert!(apply(&mut rows.clone(), Event::ResultReread(Box::new(wrong.clone()))).is_err(), "{wrong:?}");
        }
        assert!(apply(&mut rows.clone(), Event::StageReread { stage: 1, read: 0, best: None }).is_err());
        // An imported result stays what it is, also after attempts of its own.
        let source = ImportSource { file: "f".into(), blake3: [5; 32], by: String::new() };
        let mut row = rows.trials[&TrialId(0)].clone();
        row.imported = Some(Imported { source, at_ms: 7 });
        assert_eq!(row.read_again(&reread(0, row.accepted(), succeeded(1.0))), None);
        // A trial that is to run again needs a stage that is open.
        let mut closed = rows;
        closed.stages.get_mut(&0).unwrap().status = StageStatus::Closed;
        let again = Reread { next: Next::Again { due_ms: 0 }, ..reread(0, 1, failed(Severity::Low)) };
        assert!(apply(&mut closed, Event::ResultReread(Box::new(again))).is_err());
    }
}
