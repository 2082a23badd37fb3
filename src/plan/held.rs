//! What a stage has, held against another spec: whether its results could be taken by the trials of that one, and if not, why.
//!
//! Pure over what is recorded. What is not known to be taken counts as lost.

use super::forecast::{Recorded, spread};
use super::{Lineage, MadeWith, StageIdentity};
use crate::model::{Doubt, OutputHash, Proposals, StageIndex, StageRow, TrialId, TrialState};
use crate::study_file::Spec;

/// What holding the recorded identities of a stage against the new spec may cost, in trials whose forebears are found at once: up to
/// here each is held against it.
const HELD_MAX: u64 = 20_000_000;

/// Why the results that a stage has are none for the trials of another spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Untaken {
    /// The other spec has no such stage.
    Gone,
    /// The stage reuses in neither.
    Runs,
    /// The stage begins to reuse.
    NowReuses,
    /// It reuses no more.
    RunsNow,
    /// It has other values of these parts of their identities; empty: it is not known which.
    Differ(Vec<String>),
    /// They lack this metric, which objectives or rails need.
    Lack(String),
    /// Some were imported: nothing is known of what they depend on.
    Imported,
    /// A check has found that equal trials of it come to other results: none is taken any more.
    Doubted,
}

impl Untaken {
    /// The rest of a sentence about the stage.
    pub(super) fn words(&self) -> String {
        match self {
            Self::Gone => "the stage is gone".into(),
            Self::Runs => "it does not reuse".into(),
            Self::NowReuses => {
                "they were made without `reuse`, with seeds by their places, and have no identity: they cannot be taken".into()
            }
            Self::RunsNow => "it reuses no more, and its trials have seeds by their places again".into(),
            Self::Differ(parts) if parts.is_empty() => "what they depend on is not what is recorded".into(),
            Self::Differ(parts) => format!("their identity is another one: {}", parts.join(", ")),
            Self::Imported => "some of them were imported, and no trial can take those".into(),
            Self::Lack(metric) => format!("they lack the metric `{metric}`"),
            Self::Doubted => "they depend on more than their identity, and are not taken any more".into(),
        }
    }
}

/// What became of holding a stage's results against another spec.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// Why they are none for its trials; `None`: each that was held against it could be taken.
    pub untaken: Option<Untaken>,
    /// How many trials were looked at, evenly spread over the stage, where they are too many to look at each.
    pub only: Option<u64>,
}

impl From<Untaken> for Held {
    fn from(untaken: Untaken) -> Self {
        Self { untaken: Some(untaken), only: None }
    }
}

/// Why the results of a stage that has begun, under `old`, are none for the trials of `new`. Each is held against its recorded identity,
/// as long as that costs no more than [`HELD_MAX`].
///
/// # Errors
/// What reading fails with.
pub(crate) fn untaken<R: Recorded>(
    recorded: &R,
    (old, was_made_with): (&Spec, MadeWith<'_>),
    (stages, doubts): (&[StageRow], &[Doubt]),
    proposals: &Proposals,
    stage: StageIndex,
    (new, made_with): (&Spec, MadeWith<'_>),
) -> Result<Held, R::Error> {
    let (Some(row), Some(before)) = (stages.get(stage as usize), old.stages.get(stage as usize)) else {
        return Ok(Untaken::Gone.into());
    };
    let Some(place) = new.stages.iter().position(|stage| stage.name == before.name) else {
        return Ok(Untaken::Gone.into());
    };
    let Some(now) = new.stages.get(place) else { return Ok(Untaken::Gone.into()) };
    match (before.reuse.is_no(), now.reuse.is_no()) {
        (true, true) => return Ok(Untaken::Runs.into()),
        (true, false) => return Ok(Untaken::NowReuses.into()),
        (false, true) => return Ok(Untaken::RunsNow.into()),
        (false, false) => {}
    }
    let differ = || Held::from(Untaken::Differ(Vec::new()));
    let place = StageIndex::try_from(place).unwrap_or(StageIndex::MAX);
    let Some(identity) = StageIdentity::of(new, place, made_with) else { return Ok(differ()) };
    if identity.doubt_among(doubts).is_some() {
        return Ok(Untaken::Doubted.into());
    }
    // Values of the trials' ancestors are the old ones, constants are the new ones.
    let with_new_constants = Spec { params: new.params.clone(), ..old.clone() };
    let lineage = Lineage::new(&with_new_constants, stages).with_proposals(proposals);
    // A trial's parent is found by a walk over all of its stage's.
    let price =
        stages.iter().take(stage as usize + 1).map(|row| 1 + row.parents.len() as u64 / 1_000).sum::<u64>();
    let most = HELD_MAX / price.max(1);
    let only = (row.planned > most).then_some(most);
    // Children of one parent come one after the other.
    let mut left_by: Option<(TrialId, Vec<OutputHash>)> = None;
    for index in spread(row.planned, most) {
        let trial = TrialId(row.first_trial.0.saturating_add(index));
        let Some(known) = recorded.trial(trial)?.filter(|known| known.state == TrialState::Succeeded) else {
            continue;
        };
        if let Some(lacking) =
            now.needed_metrics().find(|name| known.metrics.get(*name).is_none_or(|m| m.number().is_none()))
        {
            return Ok(Untaken::Lack(lacking.to_owned()).into());
        }
        let Some(params) = lineage.params(stage, index) else { return Ok(differ()) };
        let left = match lineage.parent(stage, index).map(|parent| parent.trial) {
            Some(parent) => match &left_by {
                Some((known, left)) if *known == parent => left.clone(),
                _ => {
                    let left = recorded.trial(parent)?.map_or_else(Vec::new, |row| row.outputs);
                    left_by = Some((parent, left.clone()));
                    left
                }
            },
            None => Vec::new(),
        };
        let identity = identity.of_replica(lineage.replica(stage, index));
        if !identity.taken_by(&params, &left).iter().any(|taken| known.identity == Some(taken.identity)) {
            let was = StageIdentity::of(old, stage, was_made_with);
            let differing = was.map_or_else(Vec::new, |was| {
                let was = was.of_replica(lineage.replica(stage, index));
                let (was, is) = (was.parts(&params, &left), identity.parts(&params, &left));
                let differs = was.iter().chain(&is).filter(|part| was.contains(part) != is.contains(part));
                let mut words: Vec<String> = differs
                    .map(|part| format!("{} {}", part.kind.name(), part.name).trim_end().to_owned())
                    .collect();
                words.sort();
                words.dedup();
                words
            });
            return Ok(Untaken::Differ(differing).into());
        }
    }
    Ok(Held { untaken: None, only })
}
