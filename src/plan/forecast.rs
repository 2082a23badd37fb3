//! What a study will do once it is another one: how many trials each stage has, which take a result that there is, which run.
//!
//! Pure over what is recorded: the numbers of [`Lineage`], the identities and the selection are those that the engine goes by, so what
//! is forecast is what then happens, as long as no result's files are gone. Where a trial has to run, nobody knows who survives: from
//! there on there are bounds alone. It must never look at more trials than [`LOOKED_AT_MAX`], whatever a study plans.

use std::collections::{HashMap, HashSet};

use super::{Choice, KnownBy, Lineage, MadeWith, StageIdentity, declared, plan_trials, shares};
use crate::model::words::counted;
use crate::model::{
    AttemptOutcome, Extension, IdentityHash, Metrics, OutputHash, Parent, Proposals, Proposing, REUSED,
    StageIndex, StageRow, StageStatus, TrialId, TrialRow, TrialState, waiting,
};
use crate::study_file::{Spec, StageSpec};

/// Trials that are looked at, of all stages together.
pub(crate) const LOOKED_AT_MAX: u64 = 100_000;
/// Trials of a stage whose durations are looked at.
const DURATIONS_MAX: u64 = 1_000;
/// No more parents than this are counted with while they are only guessed.
const MANY_PARENTS: u64 = 1_000_000;

/// What is recorded, as of one commit.
pub(crate) trait Recorded {
    /// Why it cannot be read.
    type Error;

    /// A trial's row, if it ever started.
    ///
    /// # Errors
    /// [`Recorded::Error`].
    fn trial(&self, trial: TrialId) -> Result<Option<TrialRow>, Self::Error>;

    /// The first result that is known by any of these, and that a trial of the stage may take.
    ///
    /// # Errors
    /// [`Recorded::Error`].
    fn result(
        &mut self,
        known_by: &[KnownBy],
        stage: &StageSpec,
    ) -> Result<Option<(Metrics, Vec<OutputHash>)>, Self::Error>;
}

/// What becomes of the trials of a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Follows {
    /// Each is accounted for.
    Counted {
        /// Trials that are finished and stay as they are.
        kept: u64,
        /// Trials that take a result that there is, or that of an equal trial before them.
        reused: u64,
        /// Trials that run.
        runs: u64,
        /// Of these, trials that could take a result, and run all the same to be compared with it (`reuse_check`).
        checked: u64,
    },
    /// There are at most so many: they descend from the survivors of this stage, of which some trial has yet to run.
    Survivors(String),
    /// There are at most so many, as a proposer says.
    Proposer,
    /// There are at most so many, and so many at least, as a race goes.
    Race {
        /// How many run before any case leaves.
        first: u64,
    },
    /// They are too many to be looked at, one by one.
    TooMany {
        /// How many were looked at.
        looked_at: u64,
        /// How many of these run.
        runs: u64,
    },
    /// None: no case of this stage survives.
    NoParents(String),
}

/// What becomes of a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageForecast {
    /// Which stage of the new spec.
    pub stage: StageIndex,
    /// Its name.
    pub name: String,
    /// Its trials, or the most that it can have.
    pub trials: u64,
    /// What becomes of them.
    pub follows: Follows,
    /// What the trials that run take together, microseconds, by the median of what the stage's attempts took so far; `None`
    /// where that is not known.
    pub work_us: Option<u64>,
}

impl StageForecast {
    /// In words, but for the time.
    #[must_use]
    pub fn words(&self) -> String {
        let trials = counted(self.trials, "trial");
        match &self.follows {
            Follows::Counted { kept, reused, runs, checked } => {
                let kept = if *kept > 0 { format!("{kept} kept, ") } else { String::new() };
                let run = if *runs == 1 { "runs" } else { "run" };
                let checked = if *checked > 0 { format!(" ({checked} as a check)") } else { String::new() };
                format!("{trials}: {kept}{reused} reused, {runs} {run}{checked}")
            }
            Follows::Survivors(stage) => format!("up to {trials}, depends on what survives `{stage}`"),
            Follows::Proposer => format!("up to {trials}, as its proposer says"),
            Follows::Race { first } => format!("{first} to {trials}, as its race goes"),
            Follows::TooMany { looked_at, runs } => {
                format!("{trials}, too many to look at each: of the first {looked_at}, {runs} would run")
            }
            Follows::NoParents(stage) => format!("no trial: nothing survives `{stage}`"),
        }
    }
}

/// A study that stands, and what it is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Forecast<'a> {
    pub stages: &'a [StageRow],
    /// What proposers said.
    pub proposals: &'a Proposals,
    pub new: &'a Spec,
    pub made_with: MadeWith<'a>,
    /// How many stages stay.
    pub kept: usize,
    /// What the last of them gets.
    pub extended: Option<&'a Extension>,
    /// How many more rounds of replicas that has.
    pub rounds: u32,
}

/// The parents of a stage, as far as they are known.
enum Parents {
    Known(Vec<Parent>),
    /// Those of the stage before, of which some trial runs.
    Survivors {
        of: String,
        most: u64,
    },
}

/// What is known of one stage's trials.
struct Looked {
    follows: Follows,
    /// Of all that have a result.
    survivors: Option<Vec<Parent>>,
}

impl Forecast<'_> {
    /// What becomes of each stage from the last that is kept on, if that gets more trials, or from the first that is not.
    ///
    /// # Errors
    /// What reading fails with.
    pub(crate) fn stages<R: Recorded>(&self, recorded: &mut R) -> Result<Vec<StageForecast>, R::Error> {
        let mut rows: Vec<StageRow> = self.stages.iter().take(self.kept).cloned().collect();
        let mut told = Vec::new();
        let mut looking = Looking { left: LOOKED_AT_MAX, ..Looking::default() };
        let mut parents = Parents::Known(Vec::new());
        if let (Some(extension), Some(last)) = (self.extended, rows.last_mut()) {
            last.more.extend(extension.more.iter().copied());
            let more = extension.more.iter().fold(0_u64, |sum, segment| sum.saturating_add(segment.count));
            let proposed = last.proposing != Proposing::No;
            let row = last.clone();
            if let Some(spec) = self.new.stages.get(row.index as usize) {
                if let Some(last) = rows.last_mut().filter(|_| !proposed) {
                    last.add_cases(more);
                    last.add_rounds(self.rounds, false);
                }
                let now = rows.last().map_or(0, StageRow::planned);
                let looked = match proposed && more > 0 {
                    true => Looked { follows: Follows::Proposer, survivors: None },
                    false => self.look(recorded, &mut looking, &rows, (row.index, row.planned))?,
                };
                let trials = if proposed { row.room() } else { now };
                told.push(self.told(recorded, row.index, trials, looked.follows)?);
                parents = Self::after(looked.survivors, spec, trials);
            }
        } else if let Some(last) = rows.last() {
            parents = Parents::Known(last.survivors.clone());
        }
        for (decl, index) in declared(self.new).iter().zip(0_u32..).skip(self.kept) {
            let Some(spec) = self.new.stages.get(index as usize) else { break };
            let cut = |count: usize| shares(spec, count);
            let sum = |shares: &[u64]| shares.iter().fold(0_u64, |sum, share| sum.saturating_add(*share));
            let (trials, looked) = match parents {
                Parents::Known(known) if known.is_empty() && index > 0 => {
                    let of = self.new.stages.get(index.saturating_sub(1) as usize);
                    let of = of.map_or_else(String::new, |stage| stage.name.clone());
                    (0, Looked { follows: Follows::NoParents(of), survivors: Some(Vec::new()) })
                }
                Parents::Known(known) => {
                    let shares = cut(known.len());
                    let first = rows.last().map_or(0, |row| row.first_trial.0.saturating_add(row.planned));
                    let first_trial = TrialId(first);
                    let status = StageStatus::Open;
                    let mut row = StageRow { status, first_trial, parents: known, shares, ..waiting(index, decl) };
                    plan_trials(spec, &mut row);
                    let trials = match &spec.race {
                        Some(race) => row.cases().saturating_mul(race.max.into()),
                        None if decl.proposed => row.room(),
                        None => row.planned,
                    };
                    rows.push(row);
                    let looked = match decl.proposed {
                        true => Looked { follows: Follows::Proposer, survivors: None },
                        false => self.look(recorded, &mut looking, &rows, (index, 0))?,
                    };
                    (trials, looked)
                }
                Parents::Survivors { of, most } => {
                    let most = usize::try_from(most.min(MANY_PARENTS)).unwrap_or(usize::MAX);
                    let each = u64::from(spec.replicas().unwrap_or(1));
                    (
                        sum(&cut(most)).saturating_mul(each),
                        Looked { follows: Follows::Survivors(of), survivors: None },
                    )
                }
            };
            told.push(self.told(recorded, index, trials, looked.follows)?);
            parents = Self::after(looked.survivors, spec, trials);
        }
        Ok(told)
    }

    fn after(survivors: Option<Vec<Parent>>, stage: &StageSpec, trials: u64) -> Parents {
        match survivors {
            Some(survivors) => Parents::Known(survivors),
            None => Parents::Survivors { of: stage.name.clone(), most: stage.survivor_count.min(trials) },
        }
    }

    fn told<R: Recorded>(
        &self,
        recorded: &R,
        stage: StageIndex,
        trials: u64,
        follows: Follows,
    ) -> Result<StageForecast, R::Error> {
        let name = self.new.stages.get(stage as usize).map_or_else(String::new, |stage| stage.name.clone());
        let runs = match &follows {
            Follows::Counted { runs, .. } => *runs,
            _ => 0,
        };
        let row = self.stages.iter().find(|row| row.name == name && row.status != StageStatus::Waiting);
        let work_us = match row {
            Some(row) if runs > 0 => median_us(recorded, row)?.map(|median| median.saturating_mul(runs)),
            _ => None,
        };
        Ok(StageForecast { stage, name, trials, follows, work_us })
    }

    /// Looks at each trial of a stage. Of the first `stay` those that are finished keep what they have: further numbers were those of trials that go.
    fn look<R: Recorded>(
        &self,
        recorded: &mut R,
        looking: &mut Looking,
        rows: &[StageRow],
        (stage, stay): (StageIndex, u64),
    ) -> Result<Looked, R::Error> {
        let (Some(row), Some(spec)) = (rows.get(stage as usize), self.new.stages.get(stage as usize)) else {
            return Ok(Looked { follows: Follows::Proposer, survivors: None });
        };
        if spec.race.is_some() {
            return Ok(Looked { follows: Follows::Race { first: row.planned }, survivors: None });
        }
        let identity = StageIdentity::of(self.new, stage, self.made_with);
        if identity.is_none() && stay == 0 {
            let follows = Follows::Counted { kept: 0, reused: 0, runs: row.planned, checked: 0 };
            return Ok(Looked { follows, survivors: None });
        }
        let lineage = Lineage::new(self.new, rows).with_proposals(self.proposals);
        // A trial's parent is found by a walk over them.
        let price = 1 + row.parents.len() as u64 / 1_000;
        let (mut kept, mut reused, mut runs, mut checked) = (0, 0, 0, 0);
        let mut waits = false;
        let mut choice = Choice::new(spec, row).exploring(self.new.study.seed);
        let mut outputs: HashMap<TrialId, Vec<OutputHash>> = HashMap::new();
        for index in 0..row.planned {
            let Some(left) = looking.left.checked_sub(price) else {
                let follows = Follows::TooMany { looked_at: index, runs };
                return Ok(Looked { follows, survivors: None });
            };
            looking.left = left;
            let trial = TrialId(row.first_trial.0.saturating_add(index));
            let known = if index < stay { recorded.trial(trial)?.filter(is_finished) } else { None };
            if let Some(known) = known {
                kept += 1;
                if known.state == TrialState::Succeeded {
                    choice.offer(index, &known.metrics);
                    outputs.insert(trial, known.outputs);
                }
                continue;
            }
            let taken_by = match (&identity, lineage.params(stage, index)) {
                (Some(identity), Some(params)) => {
                    let parent = lineage.parent(stage, index).map(|parent| parent.trial);
                    let left = match parent {
                        Some(parent) => looking.left_by(recorded, parent)?,
                        None => Vec::new(),
                    };
                    identity.of_replica(lineage.replica(stage, index)).taken_by(&params, &left)
                }
                _ => Vec::new(),
            };
            let Some(KnownBy { identity: own, .. }) = taken_by.first().copied() else {
                runs += 1;
                continue;
            };
            match recorded.result(&taken_by, spec)? {
                Some((metrics, left)) => {
                    choice.offer(index, &metrics);
                    outputs.insert(trial, left);
                }
                None if !looking.run.insert(own) => waits = true,
                None => {
                    runs += 1;
                    continue;
                }
            }
            // What is checked comes to what it could take, or it would be no result to take.
            match super::is_checked(self.new.study.seed, self.new.run.reuse_check, &own, trial) {
                true => checked += 1,
                false => reused += 1,
            }
        }
        // Who waits for an equal one has its result only then.
        let all_known = runs == 0 && !waits;
        runs += checked;
        let survivors = all_known.then(|| {
            let chosen = choice.finish().into_iter();
            let parent =
                |index: u64| Parent { trial: TrialId(row.first_trial.0.saturating_add(index)), attempt: REUSED };
            chosen.map(|chosen| parent(chosen.place)).collect::<Vec<_>>()
        });
        if let Some(survivors) = &survivors {
            looking.left_by = survivors
                .iter()
                .map(|parent| (parent.trial, outputs.remove(&parent.trial).unwrap_or_default()))
                .collect();
        }
        Ok(Looked { follows: Follows::Counted { kept, reused, runs, checked }, survivors })
    }
}

/// What was found so far.
#[derive(Default)]
struct Looking {
    /// How many trials may still be looked at.
    left: u64,
    /// What the trials depend on that run.
    run: HashSet<IdentityHash>,
    /// What the survivors of the stage before leave.
    left_by: HashMap<TrialId, Vec<OutputHash>>,
}

impl Looking {
    fn left_by<R: Recorded>(&mut self, recorded: &R, parent: TrialId) -> Result<Vec<OutputHash>, R::Error> {
        if let Some(known) = self.left_by.get(&parent) {
            return Ok(known.clone());
        }
        let outputs = recorded.trial(parent)?.map_or_else(Vec::new, |row| row.outputs);
        self.left_by.insert(parent, outputs.clone());
        Ok(outputs)
    }
}

fn is_finished(row: &TrialRow) -> bool {
    matches!(row.state, TrialState::Succeeded | TrialState::Failed)
}

/// Places of so many, evenly spread over all, the first and the last among them.
pub(super) fn spread(count: u64, most: u64) -> impl Iterator<Item = u64> {
    let taken = count.min(most);
    let last = u128::from(taken.saturating_sub(1).max(1));
    (0..taken).map(move |n| {
        let place = u128::from(n) * u128::from(count.saturating_sub(1)) / last;
        u64::try_from(place).unwrap_or(u64::MAX)
    })
}

/// What attempts of a stage took: the median of some that are evenly spread over it.
fn median_us<R: Recorded>(recorded: &R, row: &StageRow) -> Result<Option<u64>, R::Error> {
    let mut took = Vec::new();
    for place in spread(row.planned, DURATIONS_MAX) {
        let Some(trial) = recorded.trial(TrialId(row.first_trial.0.saturating_add(place)))? else { continue };
        let last = trial.attempts.last().filter(|attempt| attempt.outcome == Some(AttemptOutcome::Succeeded));
        took.extend(last.map(|attempt| attempt.usage.wall_us));
    }
    took.sort_unstable();
    Ok(took.get(took.len() / 2).copied())
}
