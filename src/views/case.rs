//! A case as it is shown whose trials are replicas: where it stands, and what they come to together.
//!
//! Dumps, `why` and the results of a run are made of it, and none of them works out anything of a case itself. Only of stages that repeat
//! their cases; elsewhere a trial is its case. Cases come one by one, each with its replicas.

use super::{StudyView, TrialSummary};
use crate::journal::{JournalError, Snapshot};
use crate::model::{LeftCase, Metrics, Params, StageRow, TrialId, TrialState};
use crate::plan::{Aggregated, aggregated};

/// A case that runs several times.
#[derive(Clone, Debug)]
pub struct CaseSummary<'a> {
    view: &'a StudyView,
    /// Its stage.
    pub stage: &'a StageRow,
    /// Its derived index.
    pub case: u64,
    /// Its trials, in the order of the replicas.
    pub replicas: Vec<TrialSummary<'a>>,
    /// What those that succeeded come to together.
    pub(crate) whole: Aggregated,
}

impl CaseSummary<'_> {
    /// `<base_case>_<stage_index>_<derived_index>`.
    #[must_use]
    pub fn name(&self) -> String {
        self.view.lineage().case_name(self.stage.index, self.case)
    }

    /// The case it derives from.
    #[must_use]
    pub fn parent(&self) -> String {
        self.replicas.first().map_or_else(String::new, TrialSummary::parent)
    }

    /// All its params: the study's, those of its forebears, its own.
    #[must_use]
    pub fn params(&self) -> Params {
        self.replicas.first().map_or_else(Params::new, TrialSummary::params)
    }

    /// Where it stands: it has failed if a replica has, and succeeded when all have.
    #[must_use]
    pub fn state(&self) -> TrialState {
        let any = |state| self.replicas.iter().any(|replica| replica.counted_state() == state);
        let first = [
            TrialState::Failed,
            TrialState::Pruned,
            TrialState::Cancelled,
            TrialState::Running,
            TrialState::Undecided,
            TrialState::Pending,
        ];
        first.into_iter().find(|state| any(*state)).unwrap_or(TrialState::Succeeded)
    }

    /// How it left its stage's race, if it did.
    #[must_use]
    pub fn left(&self) -> Option<&LeftCase> {
        self.stage.left(self.case)
    }

    /// The replica whose directory its children get, if it survived or went on to explore.
    #[must_use]
    pub fn stands_for_it(&self) -> Option<&TrialSummary<'_>> {
        self.replicas.iter().find(|replica| replica.survived() || replica.explores())
    }

    /// Whether it survived its stage.
    #[must_use]
    pub fn survived(&self) -> bool {
        self.replicas.iter().any(TrialSummary::survived)
    }

    /// Whether it went on to explore, though it did not survive its stage.
    #[must_use]
    pub fn explores(&self) -> bool {
        self.replicas.iter().any(TrialSummary::explores)
    }
}

impl StudyView {
    /// A case of a stage that repeats its cases; `None` when it is not planned.
    ///
    /// # Errors
    /// [`JournalError`].
    pub(crate) fn whole_case<'a>(
        &'a self,
        snapshot: &Snapshot,
        stage: &'a StageRow,
        case: u64,
    ) -> Result<Option<CaseSummary<'a>>, JournalError> {
        let Some(spec) = self.spec.stages.get(stage.index as usize).filter(|_| stage.is_replicated()) else {
            return Ok(None);
        };
        let trial = |place: u64| self.trial(snapshot, TrialId(stage.first_trial.0.saturating_add(place)));
        let replicas = stage.places_of(case).map(trial).filter_map(Result::transpose);
        let replicas: Vec<TrialSummary<'a>> = replicas.collect::<Result<_, _>>()?;
        if replicas.is_empty() {
            return Ok(None);
        }
        let succeeded = replicas.iter().filter(|replica| replica.counted_state() == TrialState::Succeeded);
        let metrics: Vec<&Metrics> = succeeded.map(TrialSummary::metrics).collect();
        let whole = aggregated(spec, &metrics);
        Ok(Some(CaseSummary { view: self, stage, case, replicas, whole }))
    }

    /// The cases of a stage that repeats them, in the order of their derived indices; none of another one.
    pub(crate) fn whole_cases<'a>(
        &'a self,
        snapshot: &'a Snapshot,
        stage: &'a StageRow,
    ) -> impl Iterator<Item = Result<CaseSummary<'a>, JournalError>> {
        let cases = if stage.is_replicated() { stage.cases() } else { 0 };
        (0..cases).filter_map(|case| self.whole_case(snapshot, stage, case).transpose())
    }

    /// Whether any stage repeats its cases.
    #[must_use]
    pub(crate) fn has_replicas(&self) -> bool {
        self.stages.iter().any(StageRow::is_replicated)
    }
}
