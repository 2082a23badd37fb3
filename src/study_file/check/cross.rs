//! What several keys say together, once `[defaults]` is applied: budgets, selection and objectives, sampling and
//! sweeps, placeholders and params.

use std::collections::{BTreeMap, BTreeSet};

use crate::study_file::cases::{Gaps, KnownParams};
use crate::study_file::diagnostics::{Diagnostic, Location, shown};
use crate::study_file::resources::StageRun;
use crate::study_file::stage::{Reuse, STAGE, StageParts, StageSpec, Survivors};
use crate::study_file::template::REPLICA;
use crate::study_file::types::{
    CaseFile, Domain, Objective, Part, RANDOM_LOG_CASES_MAX, SOBOL_CASES_MAX, SOBOL_PARAMS_MAX, Sampling,
    Selection, SweepParam,
};
use crate::study_file::walk::{Checker, Field, Table};

use super::resources::Pools;
use super::reuse::Before;
use super::stage::{Hole, ObjectiveParts, SweepParts};

/// Weights sum to 1 within this: decimal fractions seldom do exactly.
const WEIGHT_TOLERANCE: f64 = 1e-9;

impl Checker<'_> {
    /// All stages; `known` are the constants.
    pub(super) fn stages(
        &mut self,
        parts: Vec<StageParts>,
        known: KnownParams,
        pools: &Pools,
    ) -> Option<Vec<StageSpec>> {
        let mut known = known;
        let mut names: BTreeMap<String, Location> = BTreeMap::new();
        let mut every_sweep_known = true;
        let mut stages = Vec::with_capacity(parts.len());
        let count = parts.len();
        let mut before = None;
        let mut goes_on = None;
        for (index, parts) in parts.into_iter().enumerate() {
            every_sweep_known &= !matches!(parts.sweep, Field::Bad) && parts.names_known();
            known.add(parts.swept(), self.gaps_of(&parts));
            if let Field::Good(name, place) = &parts.name
                && names.insert(name.clone(), place.clone()).is_some()
            {
                let message = format!("there is another stage {}", shown(name));
                self.report(Diagnostic::at(place, message).label("named before"));
            }
            if let Some(work) = parts.work.good() {
                for hole in &work.holes {
                    let place = if index == 0 { "in the first stage" } else { "" };
                    let name = parts.name.good().map_or("", String::as_str);
                    let replica =
                        matches!(&hole.part, Part::Param(name) if name == REPLICA) && parts.replicas() > 1;
                    if !replica && !self.pool_placeholder(hole, &parts, &known) {
                        self.placeholder(hole, place, &known, (name, every_sweep_known));
                    }
                }
            }
            if let Some(place) = parts.repeated_by()
                && parts.replicas() > 1
                && known.unknown(REPLICA, place, "").is_none()
            {
                let message = "a param is called `replica`, as the replica's number is where cases are repeated";
                self.report(Diagnostic::at(place, message).label("not with this param").help("rename the param"));
            }
            self.reuse_suits(&parts, before.as_ref(), &known, every_sweep_known);
            before = Some(Before::of(&parts));
            goes_on = self.exploring_suits(&parts, goes_on.as_ref(), index.saturating_add(1) == count);
            stages.extend(self.stage(parts, pools));
        }
        (stages.len() == count && count > 0).then_some(stages)
    }

    /// What some of a stage's cases have no value for.
    fn gaps_of(&self, parts: &StageParts) -> &Gaps {
        static NONE: Gaps = Gaps::new();
        match parts.sampling.good() {
            Some(Sampling::File(CaseFile { path, rename, .. })) => {
                self.gaps.get(&(path.clone(), rename.clone())).unwrap_or(&NONE)
            }
            _ => &NONE,
        }
    }

    /// A placeholder of a stage's command. `orphan` says where there is no parent, if there is none.
    pub(super) fn placeholder(
        &mut self,
        hole: &Hole,
        orphan: &str,
        known: &KnownParams,
        (stage, every_sweep_known): (&str, bool),
    ) {
        match &hole.part {
            Part::ParentDir if !orphan.is_empty() => {
                let message = format!("`{{parent_dir}}` has no meaning {orphan}");
                let label = "no parent here";
                self.report(Diagnostic::at(&hole.place, message).label(label));
            }
            // A sweep that could not be read may well define it.
            Part::Param(name) if every_sweep_known => {
                if let Some(mistake) = known.unknown(name, &hole.place, stage) {
                    self.report(mistake);
                }
            }
            _ => {}
        }
    }

    fn stage(&mut self, parts: StageParts, pools: &Pools) -> Option<StageSpec> {
        let table = Table { entries: &[], place: parts.place.clone(), title: STAGE.title.to_owned() };
        self.required(&STAGE, &table, &parts.said);
        self.budget(&parts);
        self.replicas_suit(&parts);
        self.improving_suits(&parts);
        let objectives = self.selection(&parts);
        let sweep = self.sampling(&parts);
        let cases = parts.cases();
        let survivors = match (parts.survivor_count.good(), cases.as_ref()) {
            (Some(Survivors::AtMost(count)), _) => Some(*count),
            (Some(Survivors::All), Some(budget)) => Some(*budget),
            _ => None,
        };
        let race = self.race_suits(&parts, objectives.as_deref());
        let halving = self.halving_suits(&parts, objectives.as_deref(), survivors);
        let stop_if = self.stop_rules_suit(&parts, objectives.as_deref());
        let needs = self.needs_suit(&parts, pools);
        let trial_budget = parts.trial_budget.into_good()?;
        let (survivor_count, all_survive) = match parts.survivor_count.into_good()? {
            Survivors::All => (cases.unwrap_or(trial_budget), true),
            Survivors::AtMost(count) => (count, false),
        };
        let uses = match parts.uses {
            Field::Bad => return None,
            Field::Absent => None,
            Field::Good(uses, _) => Some(uses.into_iter().map(|(name, _)| name).collect()),
        };
        Some(StageSpec {
            name: parts.name.into_good()?,
            work: parts.work.into_good().and_then(|work| work.work)?,
            trial_budget,
            survivor_count,
            all_survive,
            reuse: parts.reuse.or_default(Reuse::No),
            uses,
            sampling: parts.sampling.or_default(Sampling::Grid),
            selection: parts.selection.or_default(Selection::Top),
            sweep: sweep?,
            objectives: objectives?,
            run: StageRun { needs: needs?, ..parts.spec.run },
            halving: halving?,
            race: race?,
            stop_if: stop_if?,
            repeats: match parts.repeats {
                Field::Bad => return None,
                Field::Good(repeats, _) if repeats > 1 => Some(u32::try_from(repeats).ok()?),
                Field::Good(..) | Field::Absent => None,
            },
            explore: match parts.explore {
                Field::Bad => return None,
                Field::Good(explore, _) => explore,
                Field::Absent => 0,
            },
            // The study's own rules first: they know it better.
            failures: parts.spec.failures.into_iter().chain(parts.failure_sets).collect(),
            ..parts.spec
        })
    }

    /// Objectives, and whether they suit the selection.
    fn selection(&mut self, parts: &StageParts) -> Option<Vec<Objective>> {
        let objectives = match &parts.objectives {
            Field::Bad => return None,
            Field::Absent => &[],
            Field::Good(objectives, _) => objectives.as_slice(),
        };
        let mut seen = BTreeSet::new();
        for objective in objectives {
            if let Field::Good(metric, place) = &objective.metric
                && !seen.insert(metric)
            {
                let message = format!("{} is an objective already", shown(metric));
                self.report(Diagnostic::at(place, message).label("named before"));
            }
        }
        if !matches!(parts.selection, Field::Bad) {
            let selection = parts.selection.good().copied().unwrap_or(Selection::Top);
            let place = parts.selection.place().unwrap_or(&parts.place);
            self.selection_suits(selection, place, objectives);
        }
        let checked = objectives.iter().map(|objective| {
            Some(Objective {
                metric: objective.metric.good()?.clone(),
                goal: objective.goal?,
                weight: objective.weight.good().copied(),
            })
        });
        checked.collect()
    }

    fn selection_suits(&mut self, selection: Selection, place: &Location, objectives: &[ObjectiveParts]) {
        let name = selection.name();
        if selection == Selection::Top
            && let Some(second) = objectives.get(1)
        {
            let message = format!("`top` ranks by one objective, here are {}", objectives.len());
            let help = "choose selection = \"lexicographic\", \"weighted_sum\" or \"pareto\"";
            self.report(Diagnostic::at(&second.place, message).label("one too many").help(help));
        }
        if selection != Selection::Top && objectives.is_empty() {
            let message = format!("`{name}` needs an objective");
            let mistake = Diagnostic::at(place, message).label("without objectives");
            self.report(mistake.help("add `[[stage.objective]]`").absence());
        }
        if selection == Selection::WeightedSum {
            self.weights(objectives);
            return;
        }
        for objective in objectives {
            if let Field::Good(_, place) = &objective.weight {
                let message = format!("`weight` means nothing to `{name}`");
                let help = "weights are for selection = \"weighted_sum\"";
                self.report(Diagnostic::at(place, message).label("not used").help(help));
            }
        }
    }

    fn weights(&mut self, objectives: &[ObjectiveParts]) {
        let mut sum = 0.0;
        for objective in objectives {
            match &objective.weight {
                Field::Good(weight, _) => sum += weight,
                Field::Bad => return,
                Field::Absent => {
                    let message = "missing key `weight` in `[[stage.objective]]`";
                    let mistake = Diagnostic::at(&objective.place, message).label("`weighted_sum` requires it");
                    self.report(mistake.absence());
                    sum = f64::NAN;
                }
            }
        }
        let place = objectives.last().and_then(|objective| objective.weight.place());
        if let Some(place) = place
            && (sum - 1.0).abs() > WEIGHT_TOLERANCE
        {
            // Rounded: people wrote decimals, not what adding them leaves over.
            let shown = format!("{sum:.9}");
            let shown = shown.trim_end_matches('0').trim_end_matches('.');
            let message = format!("the weights sum to {shown}, not to 1");
            self.report(Diagnostic::at(place, message).label("the last of them"));
        }
    }

    /// The sweep, and whether it suits the sampling.
    fn sampling(&mut self, parts: &StageParts) -> Option<Vec<SweepParam>> {
        let sweep = match &parts.sweep {
            Field::Bad => return None,
            Field::Absent => &[],
            Field::Good(sweep, _) => sweep.as_slice(),
        };
        if !matches!(parts.sampling, Field::Bad) {
            let sampling = parts.sampling.good().unwrap_or(&Sampling::Grid);
            for swept in sweep {
                self.sampling_suits(sampling, swept);
            }
            self.sequence_suits(parts, sampling, sweep);
        }
        let checked =
            sweep.iter().map(|swept| Some(SweepParam { name: swept.name.clone(), domain: swept.domain.clone()? }));
        checked.collect()
    }

    fn sampling_suits(&mut self, sampling: &Sampling, swept: &SweepParts) {
        match (sampling, &swept.domain, &swept.steps) {
            (Sampling::Random | Sampling::Sobol | Sampling::Ask(_), _, Some(place)) => {
                let name = match sampling {
                    Sampling::Sobol => "sobol sampling",
                    Sampling::Ask(_) => "a proposer",
                    _ => "random sampling",
                };
                let message = format!("`steps` means nothing to {name}");
                let mistake = Diagnostic::at(place, message).label("not used");
                self.report(mistake.help("remove it, or choose sampling = \"grid\""));
            }
            (Sampling::Grid, Some(Domain::Float { min, max, .. }), None) => {
                let message = format!("the range of {} needs `steps` on a grid", shown(&swept.name));
                let whole = min.fract() == 0.0 && max.fract() == 0.0;
                let more = if whole { ", or type = \"int\" for every integer" } else { "" };
                let help = format!("add steps = 5{more}, or choose sampling = \"random\"");
                self.report(Diagnostic::at(&swept.place, message).label("without `steps`").help(help));
            }
            _ => {}
        }
    }

    /// What a file of cases, a proposer and a Sobol' sequence cannot do.
    fn sequence_suits(&mut self, parts: &StageParts, sampling: &Sampling, sweep: &[SweepParts]) {
        let replicas = parts.replicas();
        match (sampling, &parts.sweep, &parts.trial_budget) {
            (Sampling::File(_), Field::Good(_, place), _) => {
                let message = "a sweep means nothing where a file lists the cases";
                let mistake = Diagnostic::at(place, message).label("not used");
                self.report(mistake.help("remove it, or choose another `sampling`"));
            }
            (Sampling::Ask(_), Field::Absent, _) => {
                let place = parts.sampling.place().unwrap_or(&parts.place);
                let mistake = Diagnostic::at(place, "a proposer needs a sweep to choose values from");
                let help = "add [stage.sweep] with the params it proposes and their ranges";
                self.report(mistake.label("without `sweep`").help(help));
            }
            (Sampling::Sobol, Field::Good(_, place), _) if sweep.len() > SOBOL_PARAMS_MAX => {
                let message =
                    format!("{} swept params, but `sobol` has {SOBOL_PARAMS_MAX} dimensions", sweep.len());
                let mistake = Diagnostic::at(place, message).label("too many");
                self.report(mistake.help("choose sampling = \"random\""));
            }
            (Sampling::Sobol, Field::Good(..), Field::Good(budget, place))
                if budget / replicas > SOBOL_CASES_MAX
                    && combinations(sweep).is_none_or(|all| all > SOBOL_CASES_MAX) =>
            {
                let message = format!("`sobol` gives at most {SOBOL_CASES_MAX} cases");
                let mistake = Diagnostic::at(place, message).label("more than it has");
                self.report(mistake.help("choose sampling = \"random\", or a smaller budget"));
            }
            (Sampling::Random, Field::Good(..), Field::Good(budget, place))
                if budget / replicas > RANDOM_LOG_CASES_MAX
                    && sweep.iter().any(|swept| matches!(swept.domain, Some(Domain::Int { log: true, .. })))
                    && combinations(sweep).is_some_and(|all| all > RANDOM_LOG_CASES_MAX) =>
            {
                let message = format!(
                    "at most {RANDOM_LOG_CASES_MAX} different cases can be drawn from integers on a log scale"
                );
                let mistake = Diagnostic::at(place, message).label("more than that");
                self.report(mistake.help("choose sampling = \"grid\", a linear scale, or a smaller budget"));
            }
            _ => {}
        }
    }
}

/// How many combinations a sweep has, `u64::MAX` at most; `None` where a range of floats has no number of them.
fn combinations(sweep: &[SweepParts]) -> Option<u64> {
    sweep.iter().try_fold(1_u64, |product, swept| {
        let count = match &swept.domain {
            Some(Domain::Choices(values)) => u64::try_from(values.len()).unwrap_or(u64::MAX),
            Some(Domain::Int { min, max, .. }) => max.abs_diff(*min).saturating_add(1),
            Some(Domain::Float { .. }) | None => return None,
        };
        Some(product.saturating_mul(count))
    })
}
