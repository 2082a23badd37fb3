//! Of a case that runs several times: what its replicas come to, each and together.

use std::collections::BTreeMap;
use std::io::Write;

use serde::Serialize;

use super::text::metrics;
use crate::journal::Snapshot;
use crate::model::words::counted;
use crate::model::{LeftCase, Metric, Metrics, TrialId, TrialState};
use crate::plan::Aggregated;
use crate::study_file::StageSpec;
use crate::views::dump::{LeftRaceOut, MetricsOut};
use crate::views::text::{Paint, clean, number};
use crate::views::{CaseSummary, Screen, StudyView, TrialSummary, ViewError};

/// A case that runs several times.
#[derive(Debug)]
pub(super) struct Repeated {
    /// Its name.
    pub case: String,
    /// Where it stands, by all its replicas.
    pub state: TrialState,
    survived: bool,
    explores: bool,
    left: Option<LeftCase>,
    whole: Aggregated,
    replicas: Vec<Replica>,
}

#[derive(Debug)]
struct Replica {
    case: String,
    trial: TrialId,
    state: TrialState,
    metrics: Metrics,
    stands_for_it: bool,
}

#[derive(Serialize)]
pub(super) struct RepeatedOut<'a> {
    case: &'a str,
    state: TrialState,
    /// How many replicas its metrics are of.
    n: u32,
    metrics: MetricsOut<'a>,
    spread: &'a BTreeMap<String, f64>,
    /// How it left its stage's race.
    #[serde(skip_serializing_if = "Option::is_none")]
    left: Option<LeftRaceOut>,
    trials: Vec<ReplicaOut<'a>>,
}

#[derive(Serialize)]
struct ReplicaOut<'a> {
    case: &'a str,
    id: u64,
    state: TrialState,
    metrics: MetricsOut<'a>,
    stands_for_it: bool,
}

impl Replica {
    fn out(&self) -> ReplicaOut<'_> {
        let Self { case, trial, state, metrics, stands_for_it } = self;
        ReplicaOut {
            case,
            id: trial.0,
            state: *state,
            metrics: MetricsOut(metrics),
            stands_for_it: *stands_for_it,
        }
    }
}

impl Repeated {
    /// The case of a trial; `None` where each trial is a case.
    pub(super) fn of(
        view: &StudyView,
        snapshot: &Snapshot,
        trial: &TrialSummary<'_>,
    ) -> Result<Option<Self>, ViewError> {
        let Some((case, _)) = trial.stage.replica_of(trial.index) else { return Ok(None) };
        let found = view.whole_case(snapshot, trial.stage, case)?;
        Ok(found.map(|case| Self::new(&case)))
    }

    fn new(case: &CaseSummary<'_>) -> Self {
        let replica = |trial: &TrialSummary<'_>| Replica {
            case: trial.case(),
            trial: trial.trial,
            state: trial.counted_state(),
            metrics: trial.metrics().clone(),
            stands_for_it: trial.survived() || trial.explores(),
        };
        Self {
            case: case.name(),
            state: case.state(),
            survived: case.survived(),
            explores: case.explores(),
            left: case.left().copied(),
            whole: case.whole.clone(),
            replicas: case.replicas.iter().map(replica).collect(),
        }
    }

    /// The one that a case is told by: that which stands for it, or else the first that has not succeeded, or the first.
    pub(super) fn told_by(case: &CaseSummary<'_>) -> Option<TrialId> {
        let stands = case.stands_for_it().map(|replica| replica.trial);
        let open = || case.replicas.iter().find(|replica| replica.counted_state() == case.state());
        stands.or_else(|| open().map(|replica| replica.trial))
    }

    pub(super) fn out(&self) -> RepeatedOut<'_> {
        RepeatedOut {
            case: &self.case,
            state: self.state,
            n: self.whole.n,
            metrics: MetricsOut(&self.whole.metrics),
            spread: &self.whole.spread,
            left: self.left.as_ref().map(LeftRaceOut::from),
            trials: self.replicas.iter().map(Replica::out).collect(),
        }
    }

    /// Why it is in its stage's race no more, if so: `left after round 14: evidence 187 of 160 that four others are better`.
    pub(super) fn left(&self, spec: &StageSpec) -> Option<String> {
        let (left, race) = (self.left?, spec.race.as_ref()?);
        let after = left.round.saturating_add(1);
        let Some(evidence) = left.evidence else {
            return Some(format!("it left its race after round {after}, since a replica of it failed"));
        };
        let better = match spec.survivor_count {
            1 => "another is better".to_owned(),
            count => format!("{} are better", counted(count, "other")),
        };
        let level = race.level(spec.survivor_count);
        let (evidence, level) = (number(evidence.floor()), number(level.round()));
        Some(format!("left after round {after}: evidence {evidence} of {level} that {better}"))
    }

    /// What its replicas come to together.
    pub(super) fn metrics(&self) -> &Metrics {
        &self.whole.metrics
    }

    /// Whether it survived its stage, and whether it went on to explore.
    pub(super) fn went_on(&self) -> (bool, bool) {
        (self.survived, self.explores)
    }

    pub(super) fn write_text(&self, screen: Screen, out: &mut dyn Write) -> Result<(), ViewError> {
        let (of, n) = (self.replicas.len(), self.whole.n);
        let title = format!("replicas of {}", clean(&self.case));
        writeln!(out, "\n{}, {n} of {of} succeeded", screen.paint(Paint::Bold, &title))?;
        for replica in &self.replicas {
            let stands = if replica.stands_for_it { "  its directory is what its children get" } else { "" };
            let mut line = format!("  {}  {}", clean(&replica.case), replica.state.name());
            if !replica.metrics.is_empty() {
                line.push_str(&format!("  {}", metrics(&replica.metrics)));
            }
            writeln!(out, "{}", screen.line(&format!("{line}{stands}")))?;
        }
        let together = self.whole.metrics.iter().map(|(name, metric)| match metric {
            Metric::Number(value) => match self.whole.spread.get(name) {
                Some(spread) => format!("{}: {} ± {}", clean(name), number(*value), number(*spread)),
                None => format!("{}: {}", clean(name), number(*value)),
            },
            Metric::Label(text) => format!("{}: {}", clean(name), clean(text)),
        });
        let together = together.collect::<Vec<_>>().join(", ");
        if !together.is_empty() {
            writeln!(out, "{}", screen.line(&format!("  together  {together}")))?;
        }
        Ok(())
    }
}
