//! Cases, parents, params and seeds of any trial, found from its index.
//!
//! It reads the spec and the stage rows alone: the rows say who survived and how the budget was cut. Rows that do not
//! fit the spec give `None`, never a wrong answer or a loop: each step up the lineage is one stage earlier.

use crate::model::{
    LaterStages, Params, Parent, Proposals, Proposing, StageIndex, StageRow, StageStatus, TrialId, UnixMs, Value,
};
use crate::study_file::{Sampling, Spec, StageSpec};

use super::distinct::Share;
use super::draw::Draw;
use super::{grid, identity, listed};

const PROPOSER_SEED_PURPOSE: &str = "piton plan 1: seed of a proposer";
const REPLICA_SEED_PURPOSE: &str = "piton plan 2: seed of a replica";
const SEED_PURPOSE: &str = "piton plan 1: seed of a trial";

/// The trials of a study as far as its stages are open.
#[derive(Clone, Copy, Debug)]
pub struct Lineage<'a> {
    spec: &'a Spec,
    stages: &'a [StageRow],
    proposals: Option<&'a Proposals>,
}

impl<'a> Lineage<'a> {
    /// The trials of `spec`; `stages` are its rows, in order, as many as there are yet.
    #[must_use]
    pub fn new(spec: &'a Spec, stages: &'a [StageRow]) -> Self {
        Self { spec, stages, proposals: None }
    }

    /// The same, knowing what proposers said; without that, a proposed trial has no params.
    #[must_use]
    pub(crate) fn with_proposals(self, proposals: &'a Proposals) -> Self {
        Self { proposals: Some(proposals), ..self }
    }

    /// The name of the trial at a place of a stage: `<base_case>_<stage_index>_<derived_index>`, where that is its case; of a replica its
    /// case's name with `.r<replica>`.
    #[must_use]
    pub fn case(&self, stage: StageIndex, index: u64) -> String {
        match self.row(stage) {
            Some(row) => trial_name(&self.spec.study.base_case, row, index),
            None => self.case_name(stage, index),
        }
    }

    /// The name of the case of a derived index.
    #[must_use]
    pub fn case_name(&self, stage: StageIndex, case: u64) -> String {
        case_name(&self.spec.study.base_case, stage, case)
    }

    /// The name of the case that a trial is of: its own, unless it is a replica. Of the base command that of the base case.
    #[must_use]
    pub fn whole_case_of(&self, trial: TrialId) -> String {
        let replica = self.locate(trial).and_then(|(stage, index)| {
            let (case, _) = self.row(stage)?.replica_of(index)?;
            Some(self.case_name(stage, case))
        });
        replica.unwrap_or_else(|| self.name_of(trial))
    }

    /// The derived index of the case that the trial at a place of a stage is of; `None` where that is not planned.
    pub(crate) fn case_index(&self, stage: StageIndex, index: u64) -> Option<u64> {
        self.row(stage)?.case_of(index)
    }

    /// Whether a case has left its race.
    pub(crate) fn has_left(&self, stage: StageIndex, case: u64) -> bool {
        self.row(stage).is_some_and(|row| row.left(case).is_some())
    }

    /// Which replica of its case a trial is; `None` where each trial is a case.
    #[must_use]
    pub fn replica(&self, stage: StageIndex, index: u64) -> Option<u32> {
        self.row(stage)?.replica_of(index).map(|(_, replica)| replica)
    }

    /// The name of a trial's case; `None` if it is not planned.
    #[must_use]
    pub fn case_of(&self, trial: TrialId) -> Option<String> {
        self.locate(trial).map(|(stage, index)| self.case(stage, index))
    }

    /// A trial's case, that of the base command included; its number where the plan does not know it.
    #[must_use]
    pub fn name_of(&self, trial: TrialId) -> String {
        match trial {
            TrialId::BASE => self.spec.study.base_case.clone(),
            _ => self.case_of(trial).unwrap_or_else(|| format!("#{trial}")),
        }
    }

    /// The survivor a case derives from; `None` in stage 0 and for a case that is not planned.
    #[must_use]
    pub fn parent(&self, stage: StageIndex, index: u64) -> Option<Parent> {
        let (row, _) = self.planned(stage)?;
        let (position, _) = row.share_of(index)?;
        row.parents.get(position).copied()
    }

    /// The name of the case a case derives from: the base case in stage 0. `None` for a case that is not planned.
    #[must_use]
    pub(crate) fn parent_case(&self, stage: StageIndex, index: u64) -> Option<String> {
        let (row, _) = self.planned(stage)?;
        row.share_of(index)?;
        match stage {
            0 => Some(self.spec.study.base_case.clone()),
            _ => self.parent(stage, index).map(|parent| self.whole_case_of(parent.trial)),
        }
    }

    /// A case's params: the constants, then what its ancestors' sweeps chose from the first stage on, then its own
    /// sweep's values. `None` for a case that is not planned.
    #[must_use]
    pub fn params(&self, stage: StageIndex, index: u64) -> Option<Params> {
        let mut generations = vec![self.own_values(stage, index)?];
        let (mut stage, mut index) = (stage, index);
        while let Some(before) = stage.checked_sub(1) {
            let parent = self.parent(stage, index)?;
            let (parent_stage, parent_index) = self.locate(parent.trial)?;
            if parent_stage != before {
                return None;
            }
            (stage, index) = (parent_stage, parent_index);
            generations.push(self.own_values(stage, index)?);
        }
        let mut params = self.spec.constants();
        params.extend(generations.into_iter().rev().flatten());
        Some(params)
    }

    /// Of a case's params those that its trial sees. `None` for a case that is not planned.
    #[must_use]
    pub fn seen_params(&self, stage: StageIndex, index: u64) -> Option<Params> {
        let (_, spec) = self.planned(stage)?;
        self.params(stage, index).map(|params| spec.seen(params))
    }

    /// What the stage's own sweep or its proposer chose for a case, in the sweep's order. `None` for a case that is not
    /// planned.
    #[must_use]
    pub(crate) fn own_values(&self, stage: StageIndex, index: u64) -> Option<Vec<(String, Value)>> {
        let (row, spec) = self.planned(stage)?;
        let (parent, place) = row.share_of(index)?;
        let case = row.case_of(index)?;
        match &spec.sampling {
            Sampling::Grid => grid::values(&spec.sweep, place),
            Sampling::File(file) => listed::values(file, place),
            Sampling::Random => self.share(row, parent)?.random(&spec.sweep, place, case),
            Sampling::Sobol => self.share(row, parent)?.sobol(&spec.sweep, place),
            Sampling::Ask(_) => {
                let first = row.place_of(case, 0)?;
                self.proposals?.get(&TrialId(row.first_trial.0.saturating_add(first))).cloned()
            }
        }
    }

    /// The first planned case of a stage that has no params: its row and the spec do not fit. An engine could not run it.
    ///
    /// Only the last case of each parent's trials is looked at (a share that has a place has all places before it), and
    /// each case of a proposer's stage.
    #[must_use]
    pub(crate) fn unmade(&self, stage: StageIndex) -> Option<u64> {
        let row = self.stages.get(usize::try_from(stage).ok()?).filter(|row| row.index == stage)?;
        if self.planned(stage).is_none() {
            return Some(0);
        }
        let makes = |index: u64| self.params(stage, index).is_some() && self.parent_case(stage, index).is_some();
        if row.is_replicated() {
            return self.unmade_replica(row, makes);
        }
        if row.proposing != Proposing::No {
            return (0..row.planned()).find(|index| !makes(*index));
        }
        let counts = row.shares.iter().copied().chain(row.more.iter().map(|segment| segment.count));
        let mut end = 0_u64;
        for count in counts.filter(|count| *count > 0) {
            end = end.saturating_add(count);
            let last = end.min(row.planned()).saturating_sub(1);
            if !makes(last) {
                return Some(last);
            }
        }
        (end < row.planned()).then_some(end)
    }

    /// [`Lineage::unmade`] where trials are replicas: of each case one is looked at, and that each case has as many places as there are trials.
    fn unmade_replica(&self, row: &StageRow, makes: impl Fn(u64) -> bool) -> Option<u64> {
        let cases = row.cases();
        let firsts = row.replicas.rounds.iter().filter(|rounds| rounds.first == 0).map(|rounds| rounds.cases);
        let cases_fit = firsts.fold(0_u64, u64::saturating_add) == cases && cases <= row.room();
        let each = row.replicas.rounds.iter();
        let trials =
            each.fold(0_u64, |sum, rounds| sum.saturating_add(rounds.cases.saturating_mul(rounds.count.into())));
        if !cases_fit || trials != row.planned() {
            return Some(0);
        }
        // The last case of each parent's, as where each trial is one; all where a proposer said them.
        let counts = row.shares.iter().copied().chain(row.more.iter().map(|segment| segment.count));
        let mut end = 0_u64;
        let lasts: Vec<u64> = match row.proposing {
            Proposing::No => counts
                .filter(|count| *count > 0)
                .map(|count| {
                    end = end.saturating_add(count);
                    end.min(cases).saturating_sub(1)
                })
                .collect(),
            Proposing::Open | Proposing::Ended => (0..cases).collect(),
        };
        lasts.into_iter().find_map(|case| match row.place_of(case, 0) {
            Some(place) if makes(place) => None,
            place => Some(place.unwrap_or(0)),
        })
    }

    fn row(&self, stage: StageIndex) -> Option<&'a StageRow> {
        self.stages.get(usize::try_from(stage).ok()?).filter(|row| row.index == stage)
    }

    /// A trial's own seed, the same in every attempt; `seen` are the params that it sees. Where results are reused it follows
    /// from those and the command, so that equal trials have the same one; elsewhere from the trial's place.
    #[must_use]
    pub fn trial_seed(&self, stage: StageIndex, index: u64, seen: &Params) -> u32 {
        match usize::try_from(stage).ok().and_then(|position| self.spec.stages.get(position)) {
            Some(spec) if !spec.reuse.is_no() => {
                identity::seed(self.spec.study.seed, spec, seen, self.replica(stage, index))
            }
            _ => match self.replica(stage, index) {
                Some(replica) => self.replica_seed(stage, replica),
                None => self.place_seed(stage, index),
            },
        }
    }

    /// The seed of all trials of one round: cases are compared under equal chance.
    fn replica_seed(&self, stage: StageIndex, replica: u32) -> u32 {
        let fields =
            [&self.spec.study.seed.to_le_bytes()[..], &stage.to_le_bytes(), &replica.to_le_bytes()].concat();
        Draw::new(REPLICA_SEED_PURPOSE, &fields).half_word()
    }

    /// A number for what is drawn for a trial and never seen by it, the same in every attempt.
    #[must_use]
    pub(crate) fn place_seed(&self, stage: StageIndex, index: u64) -> u32 {
        let fields =
            [&self.spec.study.seed.to_le_bytes()[..], &stage.to_le_bytes(), &index.to_le_bytes()].concat();
        Draw::new(SEED_PURPOSE, &fields).half_word()
    }

    /// Whether a stage began with other cases than survive the one before it now, and was to stay as it is.
    #[must_use]
    pub fn is_kept(&self, stage: StageIndex) -> bool {
        let of = |index: StageIndex| self.stages.get(usize::try_from(index).ok()?);
        let before = stage.checked_sub(1).and_then(of);
        before.zip(of(stage)).is_some_and(|(before, stage)| {
            before.status == StageStatus::Closed
                && before.later == LaterStages::Keep
                && stage.status != StageStatus::Waiting
                && !stage.began_with(&before.survivors)
        })
    }

    /// When a stage opened, Unix milliseconds.
    #[must_use]
    pub(crate) fn opened_ms(&self, stage: StageIndex) -> Option<UnixMs> {
        self.stages.get(usize::try_from(stage).ok()?).filter(|row| row.index == stage)?.opened_ms
    }

    /// The seed a stage's proposer is given, the same in every run.
    #[must_use]
    pub(crate) fn proposer_seed(&self, stage: StageIndex) -> u32 {
        let fields = [&self.spec.study.seed.to_le_bytes()[..], &stage.to_le_bytes()].concat();
        Draw::new(PROPOSER_SEED_PURPOSE, &fields).half_word()
    }

    /// A trial's stage and derived index; `None` if it is not planned.
    #[must_use]
    pub fn locate(&self, trial: TrialId) -> Option<(StageIndex, u64)> {
        let row = self.stages.iter().find(|row| row.contains(trial))?;
        Some((row.index, trial.0 - row.first_trial.0))
    }

    /// The trial of a name, written exactly as [`Lineage::case`] does; `None` if it is not planned.
    #[must_use]
    pub(crate) fn find_case(&self, name: &str) -> Option<TrialId> {
        let (stage, case, replica) = self.parsed(name)?;
        let (row, _) = self.planned(stage)?;
        let place =
            row.place_of(case, replica.unwrap_or(0)).filter(|_| row.is_replicated() == replica.is_some())?;
        let trial = TrialId(row.first_trial.0.saturating_add(place));
        (self.case(stage, place) == name).then_some(trial)
    }

    /// The stage and the derived index of a case of that name whose trials are replicas; `None` if there is none.
    #[must_use]
    pub(crate) fn find_replicated(&self, name: &str) -> Option<(StageIndex, u64)> {
        let (stage, case, replica) = self.parsed(name)?;
        let (row, _) = self.planned(stage)?;
        let is_one = row.is_replicated() && replica.is_none() && case < row.cases();
        (is_one && self.case_name(stage, case) == name).then_some((stage, case))
    }

    /// The trials of a case, in the order of the replicas.
    pub(crate) fn replicas_of(&self, stage: StageIndex, case: u64) -> impl Iterator<Item = TrialId> + use<'a> {
        let of = move |row: &'a StageRow| {
            row.places_of(case).map(|place| TrialId(row.first_trial.0.saturating_add(place)))
        };
        self.row(stage).into_iter().flat_map(of)
    }

    fn parsed(&self, name: &str) -> Option<(StageIndex, u64, Option<u32>)> {
        let numbers = name.strip_prefix(self.spec.study.base_case.as_str())?.strip_prefix('_')?;
        let (stage, index) = numbers.split_once('_')?;
        let (case, replica) = match index.split_once(".r") {
            Some((case, replica)) => (case, Some(replica.parse().ok()?)),
            None => (index, None),
        };
        Some((stage.parse().ok()?, case.parse().ok()?, replica))
    }

    fn share(&self, row: &StageRow, parent: usize) -> Option<Share> {
        // What it has by now: a share that an amendment made longer begins with the cases it had.
        let size = row.share_at(parent);
        let parent = u64::try_from(parent).ok()?;
        Some(Share { seed: self.spec.study.seed, stage: row.index, parent, size })
    }

    fn planned(&self, stage: StageIndex) -> Option<(&'a StageRow, &'a StageSpec)> {
        let position = usize::try_from(stage).ok()?;
        let row = self.stages.get(position).filter(|row| row.index == stage)?;
        Some((row, self.spec.stages.get(position)?))
    }
}

/// The name of the trial at a place of a stage.
#[must_use]
pub(crate) fn trial_name(base_case: &str, row: &StageRow, index: u64) -> String {
    match row.replica_of(index) {
        Some((case, replica)) => format!("{}.r{replica}", case_name(base_case, row.index, case)),
        None => case_name(base_case, row.index, index),
    }
}

/// The name of the case of a derived index.
#[must_use]
pub(crate) fn case_name(base_case: &str, stage: StageIndex, case: u64) -> String {
    format!("{base_case}_{stage}_{case}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Segment, StageStatus};
    use crate::plan::shares;
    use crate::{Range, Stage, Study};

    fn spec() -> Spec {
        let explore = Stage::unbound("explore").budget(6).survivors(2);
        let explore = explore.choices("abc", ["speed", "area"]).range("effort", Range::int(1..=3));
        let refine = Stage::unbound("refine").budget(5).survivors(1).choices("effort", [7, 8, 9]);
        let repeat = Stage::unbound("repeat").budget(1).survivors(1);
        let builder = Study::builder("tune").base_case("gcd_x").seed(7).param("design", "d").param("effort", 0);
        builder.stage(explore).stage(refine).stage(repeat).spec().unwrap()
    }

    fn row(index: StageIndex, first: u64, parents: &[u64], spec: &Spec) -> StageRow {
        let stage = &spec.stages[usize::try_from(index).unwrap()];
        StageRow {
            index,
            name: stage.name.clone(),
            trial_budget: stage.trial_budget,
            survivor_count: stage.survivor_count,
            objective: None,
            status: StageStatus::Open,
            first_trial: TrialId(first),
            parents: parents.iter().map(|trial| Parent { trial: TrialId(*trial), attempt: 1 }).collect(),
            shares: shares(stage, parents.len()),
            more: Vec::new(),
            planned: shares(stage, parents.len()).iter().sum(),
            proposing: Proposing::No,
            survivors: Vec::new(),
            approval: None,
            opened_ms: None,
            closed_ms: None,
            later: Default::default(),
            tidied: Default::default(),
            discarding: false,
            replicas: Default::default(),
            ended_after: None,
        }
    }

    /// Explore has trials 0 to 5, of which 4 and 1 survive; refine has 6 to 10 (three of 4's, two of 1's), of
    /// which 9 survives; repeat has 11.
    fn rows(spec: &Spec) -> Vec<StageRow> {
        vec![row(0, 0, &[], spec), row(1, 6, &[4, 1], spec), row(2, 11, &[9], spec)]
    }

    fn text(params: &Params) -> String {
        params.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn params_are_constants_then_ancestors_then_the_own_sweep() {
        let spec = spec();
        let rows = rows(&spec);
        let lineage = Lineage::new(&spec, &rows);
        let params = |stage, index| text(&lineage.params(stage, index).unwrap());
        assert_eq!(params(0, 1), "abc=speed design=d effort=2");
        assert_eq!(params(0, 4), "abc=area design=d effort=2");
        assert_eq!(params(1, 2), "abc=area design=d effort=9");
        assert_eq!(params(1, 3), "abc=speed design=d effort=7");
        assert_eq!(params(2, 0), "abc=speed design=d effort=7");
        assert_eq!(lineage.own_values(1, 3), Some(vec![("effort".into(), Value::Int(7))]));
        assert_eq!(lineage.own_values(2, 0), Some(Vec::new()));
        assert_eq!(lineage.params(1, 5), None);
        assert_eq!(lineage.params(3, 0), None);
    }

    #[test]
    fn cases_parents_and_trials_are_found_both_ways() {
        let spec = spec();
        let rows = rows(&spec);
        let lineage = Lineage::new(&spec, &rows);
        assert_eq!(lineage.case(1, 3), "gcd_x_1_3");
        assert_eq!(lineage.locate(TrialId(9)), Some((1, 3)));
        assert_eq!(lineage.find_case("gcd_x_1_3"), Some(TrialId(9)));
        assert_eq!(lineage.parent(1, 3).map(|parent| parent.trial), Some(TrialId(1)));
        assert_eq!(lineage.parent_case(1, 3).as_deref(), Some("gcd_x_0_1"));
        assert_eq!(lineage.parent_case(0, 3).as_deref(), Some("gcd_x"));
        assert_eq!((lineage.parent(0, 3), lineage.parent_case(0, 6)), (None, None));
        assert_eq!((lineage.locate(TrialId(12)), lineage.case_of(TrialId(12))), (None, None));
        let names = [TrialId(9), TrialId::BASE, TrialId(12)].map(|trial| lineage.name_of(trial));
        assert_eq!(names, ["gcd_x_1_3", "gcd_x", "#12"]);
        for name in ["gcd_x_1_5", "gcd_x_3_0", "gcd_x_1_03", "gcd_x_+1_3", "gcd_x_1", "gcd_x", "gcd_1_3", "x", ""]
        {
            assert_eq!(lineage.find_case(name), None, "{name}");
        }
    }

    #[test]
    fn rows_that_make_no_sense_give_nothing() {
        let spec = spec();
        // A stage whose parent is one of its own trials.
        let ring = [row(0, 0, &[], &spec), row(1, 6, &[6], &spec)];
        assert_eq!(Lineage::new(&spec, &ring).params(1, 0), None);
        let swapped = [row(1, 6, &[1], &spec)];
        assert_eq!(Lineage::new(&spec, &swapped).params(1, 0), None);
        assert_eq!(Lineage::new(&spec, &[]).find_case("gcd_x_0_0"), None);
    }

    #[test]
    fn a_row_that_plans_more_than_the_spec_has_is_found() {
        let spec = spec();
        let lineage =
            |rows: &[StageRow]| (0..3).map(|stage| Lineage::new(&spec, rows).unmade(stage)).collect::<Vec<_>>();
        let sound = rows(&spec);
        assert_eq!(lineage(&sound), [None, None, None]);
        // The grid of the first stage has six cases.
        let mut longer = sound.clone();
        longer[0].more = vec![Segment { parent: 0, offset: 6, count: 1 }];
        longer[0].planned = 7;
        assert_eq!(lineage(&longer)[0], Some(6));
        // More planned than there are places.
        let mut wide = sound.clone();
        wide[1].planned = 6;
        assert_eq!(lineage(&wide)[1], Some(5));
        // A parent that is no trial of the stage before.
        let mut orphan = sound.clone();
        orphan[2].parents[0].trial = TrialId(5);
        assert_eq!(lineage(&orphan)[2], Some(0));
        let mut unknown = sound;
        unknown.push(row(2, 12, &[11], &spec));
        unknown[3].index = 3;
        assert_eq!(Lineage::new(&spec, &unknown).unmade(3), Some(0));
    }

    /// Expected values from an independent program in Python: the upper half of the first word of
    /// `blake3.blake3(struct.pack('<QIQ', seed, stage, index), derive_key_context=SEED_PURPOSE)`.
    #[test]
    fn known_trial_seeds() {
        let mut spec = spec();
        let seed = |spec: &Spec, stage, index| Lineage::new(spec, &[]).trial_seed(stage, index, &Params::new());
        assert_eq!(seed(&spec, 0, 0), 3_405_929_576);
        assert_eq!(seed(&spec, 1, 3), 40_863_831);
        spec.study.seed = u64::MAX;
        assert_eq!(seed(&spec, 2, 1_000_000_000_000), 1_230_648_806);
    }
}
