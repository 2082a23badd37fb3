//! A study as every view needs it: the rows that seldom change, and the spec.
//!
//! Its size must not grow with the trials, but for the survivors and what proposers said; trials come one by one (`trial.rs`).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::ViewError;
use super::words::doubt_words;
use crate::journal::{self, JournalError, Snapshot};
use crate::model::{
    AttemptNo, AttemptOutcome, AttemptRow, Doubt, Parent, Proposals, Rail, StageCounters, StageIndex, StageRow,
    StageStatus, StudyProgress, StudyRow, StudyStatus, TrialId, TrialState,
};
use crate::paths::{StudyPaths, attempt_name, stage_name};
use crate::plan::{Lineage, StageSummary, doubt_of};
use crate::study_file::Spec;
use crate::sys::opened::Below;

/// Whether an engine has the store open, as the caller found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Liveness {
    /// True while the engine named in the study row lives.
    pub alive: bool,
}

impl Liveness {
    /// Whether the engine that a study names has the store open. The lock says so, wherever the engine runs. Where a file
    /// system knows no locks there is no engine.
    ///
    /// # Errors
    /// If the machine cannot ask now.
    pub fn of(store: &Path, study: &StudyRow) -> std::io::Result<Self> {
        if study.open_engine().is_none() {
            return Ok(Self { alive: false });
        }
        match journal::is_locked(store) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM)) => {
                Err(error)
            }
            asked => Ok(Self { alive: asked.unwrap_or(false) }),
        }
    }
}

/// Where a study's files are, as the caller found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StudyLocation {
    /// The store as the user named it, for commands to copy.
    pub store: String,
    /// The artifacts directory. Absolute, or directories are shown relative to the caller's.
    pub artifacts_dir: PathBuf,
    /// The study file's directory, likewise.
    pub study_dir: PathBuf,
}

impl StudyLocation {
    /// The place of a store as the user named it, with absolute directories.
    ///
    /// # Errors
    /// If the current directory is unknown.
    pub fn new(store: &Path, study: &StudyRow) -> std::io::Result<Self> {
        let paths = StudyPaths::of(store, study)?;
        Ok(Self { store: store.display().to_string(), artifacts_dir: paths.artifacts, study_dir: paths.study_dir })
    }
}

/// How a case goes on from its stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GoesOn {
    Survivor,
    Explorer,
}

/// A study, loaded once per snapshot. Its size does not grow with the trials, but for the survivors.
#[derive(Debug)]
pub struct StudyView {
    /// As it is in the store.
    pub study: StudyRow,
    /// Counters over all runs, and the number of the last event.
    pub progress: StudyProgress,
    /// All stages, in order.
    pub stages: Vec<StageRow>,
    /// Their counters, in the same order.
    pub counters: Vec<StageCounters>,
    /// What proposers said; of all their trials, since any may be looked at.
    pub proposals: Proposals,
    /// The checked spec.
    pub spec: Spec,
    /// Where its files are.
    pub place: StudyLocation,
    /// Whether its engine lives.
    pub liveness: Liveness,
    /// Of all stages; see [`StudyView::survives`].
    go_on: OnceLock<HashMap<TrialId, GoesOn>>,
}

impl StudyView {
    /// How attempts ended, in words. Those that were ended because their trials were pruned are called so, as far as their rows are there.
    ///
    /// # Errors
    /// [`JournalError`] from reading the trials of stages that are watched.
    pub(super) fn attempts_words(&self, snapshot: &Snapshot) -> Result<String, JournalError> {
        let watched = self.spec.stages.iter().zip(&self.stages).filter(|(spec, _)| spec.is_watched());
        let mut pruned = 0;
        for (_, stage) in watched {
            for row in snapshot.trials(stage.first_trial, stage.end())? {
                let ended = |attempt: &AttemptRow| attempt.outcome == Some(AttemptOutcome::Cancelled);
                pruned += u64::from(row?.attempts.last().is_some_and(ended));
            }
        }
        Ok(self.progress.accounting.words(pruned))
    }

    /// Reads a study from a snapshot.
    ///
    /// # Errors
    /// [`ViewError::Journal`] and [`ViewError::Spec`].
    pub fn load(snapshot: &Snapshot, place: StudyLocation, liveness: Liveness) -> Result<Self, ViewError> {
        let study = snapshot.study()?;
        let spec = Spec::from_json(&study.spec).map_err(|error| ViewError::Spec(error.to_string()))?;
        let stages = snapshot.stages()?;
        let counters =
            stages.iter().map(|stage| snapshot.counters(stage.index)).collect::<Result<_, JournalError>>()?;
        let proposals = snapshot.proposals(TrialId(0), TrialId(u64::MAX))?;
        let (progress, go_on) = (snapshot.progress()?, OnceLock::new());
        Ok(Self { study, progress, stages, counters, proposals, spec, place, liveness, go_on })
    }

    /// The status for people: a study whose engine is gone is interrupted, whatever its row still says.
    #[must_use]
    pub fn status(&self) -> StudyStatus {
        match self.study.status {
            StudyStatus::Running if !self.liveness.alive => StudyStatus::Interrupted,
            status => status,
        }
    }

    /// The stage that cannot begin before a person approves it, when nothing else is left to do before it.
    #[must_use]
    pub fn waits_for_approval(&self) -> Option<&str> {
        let next = self.stages.iter().find(|stage| stage.status != StageStatus::Closed)?;
        let spec = self.spec.stages.get(next.index as usize)?;
        let waits = spec.approve && next.approval.is_none() && next.status == StageStatus::Waiting;
        let base = self.study.base.as_ref().is_some_and(|base| base.state == TrialState::Succeeded);
        if next.index == 0 && self.spec.base.is_some() && !base {
            return None;
        }
        let over = matches!(self.study.status, StudyStatus::Completed | StudyStatus::Aborted);
        (waits && !over && !self.liveness.alive).then_some(next.name.as_str())
    }

    /// Who descends from whom.
    #[must_use]
    pub fn lineage(&self) -> Lineage<'_> {
        Lineage::new(&self.spec, &self.stages).with_proposals(&self.proposals)
    }

    /// Running time over all runs, microseconds.
    #[must_use]
    pub fn runtime_us(&self) -> u64 {
        (self.progress.earlier_runs_ms.saturating_add(self.progress.this_run_ms)).saturating_mul(1_000)
    }

    /// A stage by its index.
    #[must_use]
    pub fn stage(&self, index: StageIndex) -> Option<&StageRow> {
        self.stages.get(index as usize)
    }

    /// A stage summed up.
    #[must_use]
    pub fn summary<'a>(&'a self, stage: &'a StageRow) -> StageSummary<'a> {
        let counters = self.counters.get(stage.index as usize).copied().unwrap_or_default();
        StageSummary::new(self.lineage(), stage, counters)
    }

    /// All stages summed up, in order.
    pub fn summaries(&self) -> impl DoubleEndedIterator<Item = StageSummary<'_>> {
        self.stages.iter().map(|stage| self.summary(stage))
    }

    /// The last stage that closed: its survivors are what the study has come to.
    #[must_use]
    pub fn last_closed(&self) -> Option<&StageRow> {
        self.stages.iter().rev().find(|stage| stage.status == StageStatus::Closed)
    }

    /// The directory of a study's artifacts: `<artifacts>/<study>`.
    #[must_use]
    pub fn study_artifacts_dir(&self) -> PathBuf {
        self.place.artifacts_dir.join(&self.study.name)
    }

    /// The directory of a stage's cases: `<artifacts>/<study>/<stage_index>_<stage>`.
    #[must_use]
    pub fn stage_dir(&self, stage: &StageRow) -> PathBuf {
        self.study_artifacts_dir().join(stage_name(stage.index, &stage.name))
    }

    /// The directory of an attempt: `<artifacts>/<study>/<stage_index>_<stage>/<case>/attempt_<n>`.
    #[must_use]
    pub fn attempt_dir(&self, stage: &StageRow, case: &str, attempt: AttemptNo) -> PathBuf {
        self.attempt_place(stage, case, attempt).path()
    }

    /// It, to be opened: trials may have put anything there.
    #[must_use]
    pub(crate) fn attempt_place(&self, stage: &StageRow, case: &str, attempt: AttemptNo) -> Below {
        let stage_dir = stage_name(stage.index, &stage.name);
        Below::root(self.study_artifacts_dir()).join(stage_dir).join(case).join(attempt_name(attempt))
    }

    /// What was found to differ in a stage as it is now, between trials that should be equal.
    #[must_use]
    pub fn doubt(&self, stage: StageIndex) -> Option<&Doubt> {
        doubt_of(&self.study, &self.spec, stage)
    }

    /// The same of all stages, and what it means, a sentence each; before it, how many results the stage has taken.
    pub fn doubts(&self) -> impl Iterator<Item = (u64, String)> {
        let words = |(stage, counters): (&StageRow, &StageCounters)| {
            let found = doubt_words(self.doubt(stage.index)?, &stage.name);
            let taken = match counters.reused {
                0 => String::new(),
                1 => "; the one that it had taken is doubtful".to_owned(),
                taken => format!("; the {taken} that it had taken are doubtful"),
            };
            Some((counters.reused, format!("{found}; it takes none any more{taken}")))
        };
        self.stages.iter().zip(&self.counters).filter_map(words)
    }

    /// Looks a trial up by its name, `<base_case>_<stage_index>_<derived_index>`, of a replica with `.r<replica>`.
    ///
    /// # Errors
    /// [`ViewError::UnknownCase`] with the nearest name there is; [`ViewError::Replicas`] for a case that runs several times.
    pub fn find_case(&self, case: &str) -> Result<TrialId, ViewError> {
        let lineage = self.lineage();
        if let Some(trial) = lineage.find_case(case) {
            return Ok(trial);
        }
        let repeated = lineage.find_replicated(case).and_then(|(stage, _)| self.stage(stage));
        Err(match repeated {
            Some(stage) => ViewError::Replicas { case: case.to_owned(), replicas: stage.rounds() },
            None => ViewError::UnknownCase { case: case.to_owned(), nearest: self.nearest_case(case) },
        })
    }

    /// The most similar case, without trying them all: what reads as two numbers at the end is kept as far as it
    /// is in range.
    fn nearest_case(&self, case: &str) -> Option<String> {
        let last = case.rsplit('_').next().map(|last| last.split(".r").next().unwrap_or(last));
        let index: u64 = last.and_then(|digits| digits.parse().ok()).unwrap_or(0);
        let opened = self.stages.iter().filter(|stage| stage.planned() > 0);
        opened
            .map(|stage| {
                let index = index.min(stage.cases().saturating_sub(1));
                let name = self.lineage().case_name(stage.index, index);
                (strsim::normalized_damerau_levenshtein(case, &name), name)
            })
            .max_by(|(a, _), (b, _)| a.total_cmp(b))
            .filter(|(similarity, _)| *similarity > 0.4)
            .map(|(_, name)| name)
    }

    /// Whether a trial has no part in what the study was aborted by, or in its stage, which ended early, given its stage and its place there. What had ended when
    /// `max_runtime` struck is as good as any: only which trials that were is chance.
    #[must_use]
    pub(crate) fn is_outside(&self, stage: StageIndex, place: u64) -> bool {
        if self.stage(stage).is_some_and(|stage| stage.is_outside(place)) {
            return true;
        }
        let abort = self.study.abort.filter(|abort| abort.rail != Rail::MaxRuntime);
        abort.is_some_and(|abort| self.study.status == StudyStatus::Aborted && !abort.counts(stage, place))
    }

    /// How many trials of a stage count, where not all of them do.
    #[must_use]
    pub(crate) fn counted(&self, stage: &StageRow) -> Option<u64> {
        let abort = self.study.abort.filter(|abort| abort.stage == stage.index);
        stage.ended_after.or_else(|| abort.map(|abort| abort.counted))
    }

    /// Whether a trial survived its stage.
    #[must_use]
    pub fn survives(&self, trial: TrialId) -> bool {
        self.goes_on(trial) == Some(GoesOn::Survivor)
    }

    /// Whether a trial went on to explore, though it did not survive its stage.
    #[must_use]
    pub fn explores(&self, trial: TrialId) -> bool {
        self.goes_on(trial) == Some(GoesOn::Explorer)
    }

    fn goes_on(&self, trial: TrialId) -> Option<GoesOn> {
        fn told(parents: &[Parent], how: GoesOn) -> impl Iterator<Item = (TrialId, GoesOn)> + use<'_> {
            parents.iter().map(move |parent| (parent.trial, how))
        }
        let of = |stage: &StageRow| -> Vec<(TrialId, GoesOn)> {
            told(stage.winners(), GoesOn::Survivor).chain(told(stage.explorers(), GoesOn::Explorer)).collect()
        };
        let all = || self.stages.iter().flat_map(of).collect();
        self.go_on.get_or_init(all).get(&trial).copied()
    }
}
