//! Trials of stages that reuse: each is looked up before it may start, and takes the result of an equal one if there is any.
//!
//! What is found is the loop's to say. Equal trials that could run at once wait for the first of them: its success is theirs, and if
//! it fails the next one runs. Whoever waits is let go of as soon as the one that is waited for is final, or will not run. No result may
//! be taken for a trial that cannot matter, or once a run is being stopped.
//!
//! A part of the trials that could take a result is run all the same (`reuse_check`): which ones follows from the study's seed and what they
//! are, never from timing. What such a trial comes to is its own result, as if nothing had been found; if that is another one, that is
//! recorded with it, and from then on every trial of its stage runs.

use std::collections::{BTreeSet, HashMap, VecDeque};

use super::{Action, Now, Phase, State};
use crate::executor::AttemptReport;
use crate::model::{
    AttemptNo, Doubt, Event, FoldError, IdentityHash, Metrics, Origin, OutputHash, ResultDifference, Reused,
    StageIndex, TrialId, Verdict,
};
use crate::plan::{Lineage, StageIdentity, doubt_of, is_checked};
use crate::sys::opened::Below;

/// A result that could be taken.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Hit {
    /// What it depends on: what the trial does, or what a person accepted for that.
    pub identity: IdentityHash,
    /// Who made it.
    pub origin: Origin,
    /// All it reported.
    pub metrics: Metrics,
    /// Its declared outputs.
    pub outputs: Vec<OutputHash>,
    /// Where they lie.
    pub from: Below,
    /// Whether they were discarded: then it cannot be taken, but be made again.
    pub discarded: bool,
}

/// Trials that are looked up, or were and wait to run, at most.
const AHEAD: usize = 4_096;
/// Trials that wait for equal ones, at most: beyond it no further one is looked up.
const WAITING: usize = 65_536;

/// A trial of which it is known what it depends on.
#[derive(Debug)]
struct Known {
    identity: IdentityHash,
    /// What is left to be tried; the first is being taken.
    hits: VecDeque<Hit>,
    /// Where what could not be taken lay.
    tried: Vec<Below>,
    /// Whether it was looked up once more after that.
    again: bool,
}

#[derive(Debug, Default)]
pub(super) struct Reusing {
    /// All of the open stage that were taken up and neither run nor are handed out to run.
    in_hand: BTreeSet<TrialId>,
    /// Of these, those that are asked about.
    asked: BTreeSet<TrialId>,
    /// Of these, those whose hits are tried.
    known: HashMap<TrialId, Known>,
    /// Of those in hand, those of which nothing was found, in order.
    to_run: VecDeque<TrialId>,
    /// Of those in hand, those that wait for an equal one.
    waiting: HashMap<IdentityHash, VecDeque<TrialId>>,
    waiting_count: usize,
    /// Of those in hand, those that waited, and are to be looked up again.
    freed: VecDeque<TrialId>,
    /// What the trials depend on that run, or are about to.
    identities: HashMap<TrialId, IdentityHash>,
    /// Who makes the result that others may wait for.
    makers: HashMap<IdentityHash, TrialId>,
    /// Results that trials could have taken, and are compared with.
    checks: HashMap<TrialId, Vec<Hit>>,
}

impl Reusing {
    /// Whether another trial may be looked up.
    pub(super) fn has_room(&self) -> bool {
        self.asked.len() + self.known.len() + self.to_run.len() < AHEAD && self.waiting_count < WAITING
    }

    pub(super) fn holds(&self, trial: TrialId) -> bool {
        self.in_hand.contains(&trial)
    }

    /// How many results are being asked for or taken.
    pub(super) fn under_way(&self) -> usize {
        self.asked.len() + self.known.len()
    }

    pub(super) fn in_hand(&self) -> usize {
        self.in_hand.len()
    }

    /// The next of which nothing was found.
    pub(super) fn next_to_run(&mut self) -> Option<TrialId> {
        let trial = self.to_run.pop_front()?;
        self.in_hand.remove(&trial);
        Some(trial)
    }

    /// The next that waited for another.
    pub(super) fn next_freed(&mut self) -> Option<TrialId> {
        self.freed.pop_front()
    }

    /// A trial is taken up: it is to be looked up, unless it is known that it has to run.
    pub(super) fn take_up(&mut self, trial: TrialId, actions: &mut Vec<Action>) {
        self.in_hand.insert(trial);
        if self.identities.contains_key(&trial) {
            self.to_run.push_back(trial);
            return;
        }
        self.asked.insert(trial);
        actions.push(Action::LookUp(trial));
    }

    /// What a trial depends on that runs, or ran just now.
    pub(super) fn identity(&self, trial: TrialId) -> Option<IdentityHash> {
        self.identities.get(&trial).copied()
    }

    /// A trial is no longer in hand, and nobody waits for it.
    pub(super) fn let_go(&mut self, trial: TrialId) {
        self.in_hand.remove(&trial);
        self.asked.remove(&trial);
        self.known.remove(&trial);
        self.release(trial);
    }

    /// Whoever waits for a trial waits no longer.
    pub(super) fn release(&mut self, trial: TrialId) {
        self.checks.remove(&trial);
        let Some(identity) = self.identities.remove(&trial) else { return };
        if self.makers.get(&identity) == Some(&trial) {
            self.makers.remove(&identity);
            let waited = self.waiting.remove(&identity).unwrap_or_default();
            self.waiting_count = self.waiting_count.saturating_sub(waited.len());
            self.freed.extend(waited);
        }
    }

    /// Whoever waits runs: there is no result to wait for.
    fn release_all(&mut self) {
        for (_, waited) in std::mem::take(&mut self.waiting) {
            self.freed.extend(waited);
        }
        self.waiting_count = 0;
    }

    /// A trial runs, and nobody waits for it.
    fn runs(&mut self, trial: TrialId, identity: IdentityHash) {
        self.identities.insert(trial, identity);
        self.to_run.push_back(trial);
    }

    /// A trial makes its result itself; `false`: another one makes it, and this one waits.
    fn makes(&mut self, trial: TrialId, identity: IdentityHash) -> bool {
        let maker = *self.makers.entry(identity).or_insert(trial);
        if maker == trial {
            self.identities.insert(trial, identity);
            return true;
        }
        self.waiting.entry(identity).or_default().push_back(trial);
        self.waiting_count += 1;
        false
    }

    /// Lets go of the trials from `limit` on, but for those that `run`; which they were.
    pub(super) fn withdraw(&mut self, limit: TrialId, run: impl Fn(TrialId) -> bool) -> Vec<TrialId> {
        let gone: Vec<TrialId> = self.in_hand.range(limit..).copied().collect();
        self.to_run.retain(|trial| *trial < limit);
        self.freed.retain(|trial| *trial < limit);
        for waiting in self.waiting.values_mut() {
            waiting.retain(|trial| *trial < limit);
        }
        self.waiting.retain(|_, waiting| !waiting.is_empty());
        self.waiting_count = self.waiting.values().map(VecDeque::len).sum();
        gone.iter().for_each(|trial| self.let_go(*trial));
        let makers: Vec<TrialId> = self.makers.values().copied().filter(|maker| *maker >= limit).collect();
        makers.into_iter().filter(|maker| !run(*maker)).for_each(|maker| self.release(maker));
        gone
    }
}

impl State {
    /// Whether trials of the open stage are looked up.
    pub(super) fn stage_reuses(&self) -> bool {
        self.draft.open_stage().is_some_and(|(stage, _)| self.spec.reuses(stage.index))
    }

    /// An attempt of an earlier run goes on: equal trials wait for it.
    pub(super) fn identified(&mut self, trial: TrialId, identity: Option<IdentityHash>, hits: Vec<Hit>) {
        if let Some(identity) = identity.filter(|_| self.running.contains_key(&trial)) {
            if self.is_checked(trial, &identity, &hits) {
                self.reusing.checks.insert(trial, hits);
            }
            self.reusing.identities.insert(trial, identity);
            self.reusing.makers.entry(identity).or_insert(trial);
        }
    }

    /// What was found of a trial that was asked about.
    pub(super) fn looked_up(
        &mut self,
        now: Now,
        trial: TrialId,
        identity: Option<IdentityHash>,
        hits: Vec<Hit>,
    ) -> Result<Vec<Action>, FoldError> {
        if !self.reusing.asked.remove(&trial) {
            return Ok(Vec::new());
        }
        if !self.may_take(trial) {
            self.reusing.let_go(trial);
            return Ok(Vec::new());
        }
        let Some(identity) = identity.filter(|_| !injected_fault!(EverythingRuns)) else {
            // Nothing can be known of it.
            self.reusing.to_run.push_back(trial);
            return Ok(Vec::new());
        };
        if self.is_doubted() {
            self.reusing.known.remove(&trial);
            self.reusing.runs(trial, identity);
            return Ok(Vec::new());
        }
        if !self.reusing.known.contains_key(&trial) && self.is_checked(trial, &identity, &hits) {
            self.reusing.checks.insert(trial, hits);
            self.reusing.runs(trial, identity);
            return Ok(Vec::new());
        }
        let (tried, again) = match self.reusing.known.remove(&trial) {
            Some(known) => (known.tried, true),
            None => (Vec::new(), false),
        };
        let hits = hits.into_iter().filter(|hit| !tried.contains(&hit.from)).collect();
        self.reusing.known.insert(trial, Known { identity, hits, tried, again });
        self.try_next(now, trial)
    }

    /// Whether results of the open stage were found to differ that should be equal: then none is taken.
    fn is_doubted(&self) -> bool {
        let open = self.draft.open_stage().map(|(stage, _)| stage.index);
        let doubt = open.and_then(|stage| doubt_of(self.draft.study_row(), &self.spec, stage));
        doubt.is_some() && !injected_fault!(DoubtForgotten)
    }

    /// Whether a trial is run although something was found.
    fn is_checked(&self, trial: TrialId, identity: &IdentityHash, hits: &[Hit]) -> bool {
        let share = self.spec.run.reuse_check;
        !hits.is_empty() && is_checked(self.draft.study_row().seed, share, identity, trial)
    }

    /// What the end of a checked trial differs in from what it could have taken; from the first of these that is another result.
    pub(super) fn doubt(&self, trial: TrialId, attempt: AttemptNo, verdict: &Verdict) -> Option<Doubt> {
        let hits = self.reusing.checks.get(&trial)?;
        let (hit, differs) = hits.iter().find_map(|hit| {
            let differs = ResultDifference::between(&hit.metrics, &hit.outputs, verdict);
            (!differs.is_empty()).then_some((hit, differs))
        })?;
        let lineage = Lineage::new(&self.spec, self.draft.stages());
        let (stage, index) = lineage.locate(trial)?;
        let shared = self.shared(stage)?;
        let (case, origin) = (lineage.case(stage, index), hit.origin.clone());
        Some(Doubt { stage, trial, case, attempt, shared, origin, differs })
            .filter(|_| !injected_fault!(DoubtUntold))
    }

    /// That a checked trial could not be compared, and with what: a limit or the machine ended it, which says nothing of its results.
    pub(super) fn unchecked(&self, trial: TrialId, verdict: &Verdict) -> Option<Event> {
        let Verdict::Failed(failure) = verdict else { return None };
        let hit = self.reusing.checks.get(&trial)?.first().filter(|_| failure.kind.is_of_the_site())?;
        let reason = format!("it was to be compared with it, and failed: {}: nothing was compared", failure.kind);
        Some(Event::ReuseMissed { trial, origin: hit.origin.clone(), reason })
    }

    fn shared(&self, stage: StageIndex) -> Option<IdentityHash> {
        Some(StageIdentity::of(&self.spec, stage, self.draft.study_row().into())?.shared())
    }

    /// Records it. From here on everything of the stage runs.
    pub(super) fn doubted(&mut self, now: Now, doubt: Doubt) -> Result<(), FoldError> {
        self.reusing.release_all();
        self.emit(now, Event::ReuseDiffered(Box::new(doubt)))
    }

    /// Takes the first of the results that are left to be tried, or says that it is to be copied.
    fn try_next(&mut self, now: Now, trial: TrialId) -> Result<Vec<Action>, FoldError> {
        self.pass_over_discarded(now, trial)?;
        let Some(known) = self.reusing.known.get_mut(&trial) else { return Ok(Vec::new()) };
        match known.hits.front() {
            Some(hit) if hit.outputs.is_empty() => {
                self.reuse(now, trial)?;
                Ok(Vec::new())
            }
            Some(_) => Ok(vec![Action::Take(trial)]),
            // Another one may have come meanwhile.
            None if !known.tried.is_empty() && !known.again => {
                self.reusing.asked.insert(trial);
                Ok(vec![Action::LookUp(trial)])
            }
            None => {
                let identity = known.identity;
                self.reusing.known.remove(&trial);
                if self.reusing.makes(trial, identity) {
                    self.reusing.to_run.push_back(trial);
                }
                Ok(Vec::new())
            }
        }
    }

    /// Says of results whose outputs were discarded that they cannot be taken, up to the first that can.
    fn pass_over_discarded(&mut self, now: Now, trial: TrialId) -> Result<(), FoldError> {
        while let Some(known) = self.reusing.known.get_mut(&trial)
            && let Some(hit) = known.hits.pop_front_if(|hit| hit.discarded)
        {
            known.tried.push(hit.from);
            let reason = "what it left was discarded".to_owned();
            self.emit(now, Event::ReuseMissed { trial, origin: hit.origin, reason })?;
        }
        Ok(())
    }

    /// The result that a trial is to have now, and is to be copied.
    #[must_use]
    pub(crate) fn hit(&self, trial: TrialId) -> Option<&Hit> {
        self.reusing.known.get(&trial)?.hits.front()
    }

    /// Records that a trial takes the first of what was found for it.
    fn reuse(&mut self, now: Now, trial: TrialId) -> Result<(), FoldError> {
        let known = self.reusing.known.remove(&trial);
        self.reusing.let_go(trial);
        let Some(hit) = known.and_then(|mut known| known.hits.pop_front()) else { return Ok(()) };
        let Hit { identity, origin, metrics, outputs, .. } = hit;
        self.emit(now, Event::TrialReused(Box::new(Reused { trial, identity, origin, metrics, outputs })))?;
        self.note_result(trial);
        Ok(())
    }

    /// A result was copied, or could not be.
    pub(super) fn taken(&mut self, now: Now, report: AttemptReport) -> Result<Vec<Action>, FoldError> {
        let trial = report.trial;
        let (matters, doubted) = (!self.cannot_matter(trial), self.is_doubted());
        let Some(known) = self.reusing.known.get_mut(&trial) else { return Ok(Vec::new()) };
        match report.verdict {
            _ if !self.draft.open_stage().is_some_and(|(stage, _)| stage.contains(trial)) => {
                self.reusing.let_go(trial);
            }
            // What was found meanwhile is found by it, too: it runs.
            _ if doubted && self.phase == Phase::Running && matters => {
                let identity = known.identity;
                self.reusing.known.remove(&trial);
                self.reusing.runs(trial, identity);
            }
            _ if doubted => self.reusing.let_go(trial),
            // It is in place and durable, whatever is asked for meanwhile.
            Verdict::Succeeded { .. } if matters => self.reuse(now, trial)?,
            Verdict::Failed(failure) => {
                if let Some(Hit { origin, from, .. }) = known.hits.pop_front() {
                    known.tried.push(from);
                    self.emit(now, Event::ReuseMissed { trial, origin, reason: failure.reason })?;
                }
                if self.may_take(trial) {
                    return self.try_next(now, trial);
                }
                self.reusing.let_go(trial);
            }
            _ => self.reusing.let_go(trial),
        }
        Ok(Vec::new())
    }

    fn may_take(&self, trial: TrialId) -> bool {
        self.phase == Phase::Running && !self.cannot_matter(trial)
    }
}
