//! What else a stage could have been told of who survives and who ends early: for `piton what-if`.
//!
//! A choice means what the key of the study file means that has its name. Nothing here may change a stage that stands.

use toml::de::DeTable;

use super::check::check_choice;
use super::diagnostics::Diagnostics;
use super::raw::{Kind, Node};
use super::replicas::{Aggregate, REPLICAS_MAX};
use super::stage::StageSpec;
use super::types::{Selection, Spec};
use super::watching::{HalvingSpec, StopIf};

/// More rungs tell nothing; see `[stage.halving]`.
const RUNGS_MAX: usize = 16;

/// Other values for keys of a stage; what is `None` or empty stays as it is.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Choices {
    /// `survivor_count`; more than there are trials: all.
    pub survivors: Option<u64>,
    /// `selection`.
    pub selection: Option<Selection>,
    /// `aggregate`, where cases repeat.
    pub aggregate: Option<Aggregate>,
    /// `repeats`, where cases repeat: of the same cases.
    pub repeats: Option<u32>,
    /// `rungs` of `[stage.halving]`; without its own `[stage.halving]` a stage compares its only objective.
    pub rungs: Vec<u64>,
    /// `eta` of `[stage.halving]`.
    pub eta: Option<u64>,
    /// Each a `[[stage.stop_if]]` as an inline table, such as `metric = "loss", above = 3, after = 5`. They take the place of the
    /// stage's own.
    pub stop_if: Vec<String>,
}

impl Choices {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether any says which trials end early.
    pub(crate) fn ends_early(&self) -> bool {
        !self.rungs.is_empty() || self.eta.is_some() || !self.stop_if.is_empty()
    }

    /// Whether any is about replicas.
    pub(crate) fn repeats_cases(&self) -> bool {
        self.aggregate.is_some() || self.repeats.is_some()
    }

    /// The spec with these choices in the stages that `touches` says.
    ///
    /// # Errors
    /// In words: what does not fit, and why.
    pub(crate) fn applied(&self, spec: &Spec, touches: impl Fn(&StageSpec) -> bool) -> Result<Spec, String> {
        let mut changed = spec.clone();
        for stage in changed.stages.iter_mut().filter(|stage| touches(stage)) {
            self.apply(stage).map_err(|why| format!("stage `{}`: {why}", stage.name))?;
        }
        Ok(changed)
    }

    fn apply(&self, stage: &mut StageSpec) -> Result<(), String> {
        let survivors = stage.survivor_count;
        if let Some(count) = self.survivors {
            if count == 0 {
                return Err("at least one case must survive".into());
            }
            (stage.survivor_count, stage.all_survive) = (count, false);
        }
        if let Some(selection) = self.selection {
            fits(selection, stage)?;
            stage.selection = selection;
        }
        if self.repeats_cases() && stage.replicas().is_none() {
            return Err("its cases do not repeat".into());
        }
        if self.repeats.is_some() && stage.race.is_some() {
            return Err("its race says how often a case runs".into());
        }
        if let Some(aggregate) = self.aggregate {
            stage.aggregate = aggregate;
        }
        if let Some(repeats) = self.repeats {
            if !(1..=REPLICAS_MAX).contains(&repeats) {
                return Err(format!("`repeats` is 1 to {REPLICAS_MAX}"));
            }
            let cases = stage.case_budget();
            (stage.trial_budget, stage.repeats) = (cases.saturating_mul(repeats.into()), Some(repeats));
        }
        if !self.rungs.is_empty() || self.eta.is_some() {
            stage.halving = Some(self.halving(stage, survivors)?);
        }
        if !self.stop_if.is_empty() {
            stage.stop_if = rules(&self.stop_if, stage)?;
        }
        Ok(())
    }

    fn halving(&self, stage: &StageSpec, survivors: u64) -> Result<HalvingSpec, String> {
        let own = stage.halving.as_ref();
        let rungs = match own {
            _ if !self.rungs.is_empty() => self.rungs.clone(),
            Some(own) => own.rungs.clone(),
            None => return Err("it does not halve: give it rungs".into()),
        };
        let grow = rungs.windows(2).all(|pair| pair.first() < pair.last());
        if rungs.len() > RUNGS_MAX || !grow || rungs.first() == Some(&0) {
            return Err(format!("rungs are steps from 1 on that grow, {RUNGS_MAX} at most"));
        }
        let (metric, goal) = match (own, stage.objectives.as_slice()) {
            (Some(own), _) => (own.metric.clone(), own.goal),
            (None, [only]) => (only.metric.clone(), only.goal),
            (None, objectives) => {
                return Err(format!(
                    "it has {} objectives, and nothing says by which it halves",
                    objectives.len()
                ));
            }
        };
        let before = own.map_or(HalvingSpec::ETA, |own| own.eta);
        let eta = self.eta.unwrap_or(before);
        if eta < 2 {
            return Err("`eta` is at least 2".into());
        }
        // A `keep` that is what it would be if it were not given follows what it is made of.
        let preset = HalvingSpec::preset_keep(survivors, before);
        let (keep, keep_is_preset) = match own.filter(|own| own.keep != preset) {
            Some(own) => (own.keep, false),
            None => (HalvingSpec::preset_keep(stage.survivor_count, eta), true),
        };
        Ok(HalvingSpec { rungs, metric, goal, eta, keep, keep_is_preset })
    }
}

/// Whether the objectives of a stage are what a selection needs.
fn fits(selection: Selection, stage: &StageSpec) -> Result<(), String> {
    let (name, count) = (selection.name(), stage.objectives.len());
    match selection {
        Selection::Top if count > 1 => Err(format!("`{name}` ranks by one objective, here are {count}")),
        Selection::Top => Ok(()),
        _ if count == 0 => Err(format!("`{name}` needs an objective")),
        Selection::WeightedSum if stage.objectives.iter().any(|objective| objective.weight.is_none()) => {
            Err(format!("`{name}` needs a `weight` in each `[[stage.objective]]`"))
        }
        _ => Ok(()),
    }
}

/// The rules, read as those of a study file are.
fn rules(given: &[String], stage: &StageSpec) -> Result<Vec<StopIf>, String> {
    let braced = |rule: &String| if rule.trim().starts_with('{') { rule.clone() } else { format!("{{ {rule} }}") };
    let text = format!("stop_if = [{}]", given.iter().map(braced).collect::<Vec<_>>().join(", "));
    let (table, errors) = DeTable::parse_recoverable(&text);
    if let Some(error) = errors.first() {
        return Err(format!("`{}` is no rule: {}", given.join(", "), error.message()));
    }
    let root = Node { kind: Kind::Table(Node::entries(table.get_ref())), span: Some(0..0) };
    check_choice(&text, &root, stage).map_err(|found| Diagnostics::new("--stop-if", &text, found).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study_file::StopWhen;
    use crate::{Stage, Study};

    fn spec() -> Spec {
        let stage =
            |name: &str| Stage::unbound(name).budget(9).survivors(2).choices("n", [1, 2, 3]).minimize("loss");
        Study::builder("t").stage(stage("a")).stage(stage("b")).spec().unwrap()
    }

    fn applied(choices: &Choices) -> Result<StageSpec, String> {
        choices.applied(&spec(), |stage| stage.name == "a").map(|mut spec| spec.stages.remove(0))
    }

    #[test]
    fn only_what_is_chosen_changes_and_only_where_it_is_said() {
        let choices = Choices { survivors: Some(5), selection: Some(Selection::Pareto), ..Choices::default() };
        let changed = choices.applied(&spec(), |stage| stage.name == "a").unwrap();
        assert_eq!((changed.stages[0].survivor_count, changed.stages[0].selection), (5, Selection::Pareto));
        assert_eq!(changed.stages[1], spec().stages[1]);
        assert_eq!(Choices::default().applied(&spec(), |_| true).unwrap(), spec());
    }

    #[test]
    fn rungs_are_those_of_a_study_file() {
        let halving = |rungs: &[u64], eta| {
            applied(&Choices { rungs: rungs.to_vec(), eta, ..Choices::default() })
                .map(|stage| stage.halving.unwrap())
        };
        let made = halving(&[3, 9], None).unwrap();
        assert_eq!((made.rungs, made.metric.as_str(), made.eta, made.keep), (vec![3, 9], "loss", 3, 3));
        assert_eq!(halving(&[1], Some(7)).unwrap().keep, 7);
        for (rungs, eta) in [(&[9, 3][..], None), (&[0], None), (&[1], Some(1)), (&[], Some(4)), (&[1; 17], None)]
        {
            assert!(halving(rungs, eta).is_err(), "{rungs:?} {eta:?}");
        }
    }

    #[test]
    fn rules_are_those_of_a_study_file() {
        let rules = |text: &str| {
            applied(&Choices { stop_if: vec![text.into()], ..Choices::default() }).map(|stage| stage.stop_if)
        };
        let made = rules(r#"metric = "loss", above = 3, after = 5"#).unwrap();
        assert_eq!(made, [StopIf { metric: "loss".into(), when: StopWhen::Above(3.0), after: 5 }]);
        assert_eq!(rules(r#"{ metric = "loss", above = 3, after = 5 }"#).unwrap(), made);
        let plateau = rules(r#"metric = "loss", no_better_for = 4"#).unwrap();
        assert!(matches!(plateau[0].when, StopWhen::NoBetter { steps: 4, .. }), "the goal is the objective's");
        assert!(rules(r#"metric = "loss""#).unwrap_err().contains("below"));
        assert!(rules(r#"metric = "loss", abowe = 3"#).unwrap_err().contains("above"));
        assert!(rules(r#"metric = "loss" above"#).is_err() && rules("] [").is_err());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let weighted = Choices { selection: Some(Selection::WeightedSum), ..Choices::default() };
        assert_eq!(
            applied(&weighted).unwrap_err(),
            "stage `a`: `weighted_sum` needs a `weight` in each `[[stage.objective]]`"
        );
        assert!(applied(&Choices { survivors: Some(0), ..Choices::default() }).is_err());
    }
}
