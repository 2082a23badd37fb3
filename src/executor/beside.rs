//! Results that are taken over on the engine's own machine, beside trials that run elsewhere: no job copies files.

use super::local::LocalExecutor;
use super::{Executor, ExecutorError, Job};
use crate::model::{AttemptNo, TrialId};

/// An executor for trials, and one that takes results over. It never gives a trial to the second.
pub(crate) struct Beside {
    pub(crate) trials: Box<dyn Executor>,
    /// What takes results over.
    pub(crate) taking: LocalExecutor,
}

impl Executor for Beside {
    fn submit(&mut self, job: Job) -> Result<(), ExecutorError> {
        if job.takes.is_some() { self.taking.submit(job) } else { self.trials.submit(job) }
    }
    fn adopt(&mut self, job: Job) -> Result<(), ExecutorError> {
        self.trials.adopt(job)
    }
    fn forget(&mut self, trial: TrialId, attempt: AttemptNo) {
        self.trials.forget(trial, attempt);
    }
    fn withdraw(&mut self, from: TrialId) {
        self.trials.withdraw(from);
        self.taking.withdraw(from);
    }
    fn prune(&mut self, trial: TrialId) {
        self.trials.prune(trial);
    }
    fn drain(&mut self) {
        self.trials.drain();
        self.taking.drain();
    }
    fn terminate(&mut self) {
        self.trials.terminate();
        self.taking.terminate();
    }
    fn kill(&mut self) {
        self.trials.kill();
        self.taking.kill();
    }
    fn pause(&mut self) {
        self.trials.pause();
        self.taking.pause();
    }
    fn resume(&mut self) {
        self.trials.resume();
        self.taking.resume();
    }
    fn shutdown(&mut self) {
        self.trials.shutdown();
        self.taking.shutdown();
    }
}
