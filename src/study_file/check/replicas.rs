//! `repeats` and `[stage.race]`: the keys of a race, and what replicas ask of the rest of a stage.

use crate::model::names_of;
use crate::study_file::Aggregate;
use crate::study_file::diagnostics::{Diagnostic, Location, shown};
use crate::study_file::keys::{Least, Preset, Section, Takes, key};
use crate::study_file::raw::Node;
use crate::study_file::replicas::{REPLICAS_MAX, RaceSpec};
use crate::study_file::stage::{StageParts, Survivors};
use crate::study_file::types::{Goal, Objective, Sampling, Selection};
use crate::study_file::walk::{Checker, Field};

use super::ANY_NAME;

/// `[stage.race]`.
#[rustfmt::skip] // Entry by entry: what it is, what it is for, how it is read, how it changes.
pub(in crate::study_file) static RACE: Section<RaceParts> = Section::new(
    "`[stage.race]`",
    "Cases run in rounds of a replica each; who is not among the survivors leaves. The budget is for `trial_budget` / `max` cases.",
    &[
        key("min", Takes::Integer(1, REPLICAS_MAX as i128), Preset::Words("3, or `max` if that is less"),
            "So many rounds run before anybody leaves. With `confidence = 0.95` nobody can leave before round 6.",
            |c, n, p, d| d.min.put(c.whole(n, p, 1..=i128::from(REPLICAS_MAX)), p)),
        key("max", Takes::Integer(2, REPLICAS_MAX as i128), Preset::Value("30"),
            "No more rounds than this; it may be raised later.",
            |c, n, p, d| d.max.put(c.whole(n, p, 2..=i128::from(REPLICAS_MAX)), p)),
        key("confidence", Takes::Number(Least::Zero), Preset::Value("0.95"),
            "One of the true best leaves with a probability of at most 1 less this; from 0.5 up, below 1.",
            |c, n, p, d| d.confidence.put(c.confidence(n, p), p)),
        key("metric", ANY_NAME, Preset::Words("the first objective's"),
            "What replicas are compared by. `weighted_sum` and `pareto` need it.",
            |c, n, p, d| d.metric.put(c.non_empty_text(n, p), p)),
        key("goal", Takes::Word(names_of::<Goal>), Preset::Words("the objective's of that name"),
            "Which way is better.",
            |c, n, p, d| d.goal.put(c.named(n, p), p)),
    ],
);

/// What `[stage.race]` says.
#[derive(Clone, Default)]
pub(in crate::study_file) struct RaceParts {
    min: Field<u32>,
    max: Field<u32>,
    confidence: Field<f64>,
    metric: Field<String>,
    goal: Field<Goal>,
}

impl RaceParts {
    fn max(&self) -> u32 {
        self.max.clone().or_default(RaceSpec::MAX)
    }
}

impl StageParts {
    /// How many replicas each case has at most, where that can be read.
    pub(super) fn replicas(&self) -> u64 {
        match self.race.good() {
            Some(race) => race.max().into(),
            None => self.repeats.good().copied().unwrap_or(1).max(1),
        }
    }

    /// Where it is said that cases have several.
    pub(super) fn repeated_by(&self) -> Option<&Location> {
        self.race.place().or_else(|| self.repeats.place())
    }

    /// How many cases the budget is for.
    pub(super) fn cases(&self) -> Option<u64> {
        Some(self.trial_budget.good()? / self.replicas())
    }
}

impl Checker<'_> {
    /// `[stage.race]`.
    pub(in crate::study_file) fn race(&mut self, node: &Node, place: &Location) -> Option<RaceParts> {
        let mut parts = RaceParts::default();
        self.section(&RACE, node, place, &mut parts)?;
        if let Field::Good(min, place) = &parts.min
            && *min > parts.max()
        {
            let max = parts.max();
            let message = format!("`min` {min} is above `max` {max}");
            self.report(Diagnostic::at(place, message).label(format!("expected at most {max}")));
            return None;
        }
        Some(parts)
    }

    fn confidence(&mut self, node: &Node, place: &Location) -> Option<f64> {
        let confidence = self.float(node, place)?;
        if !(0.5..1.0).contains(&confidence) {
            let message = format!("a confidence of {confidence:?} means nothing");
            self.report(Diagnostic::at(place, message).label("expected 0.5 or more, and less than 1"));
            return None;
        }
        Some(confidence)
    }

    /// Whether the budget is enough for as many cases as are to survive, each with all its replicas.
    pub(super) fn budget(&mut self, parts: &StageParts) {
        let (Field::Good(budget, budget_place), replicas) = (&parts.trial_budget, parts.replicas()) else {
            return;
        };
        let cases = budget / replicas;
        let each = match (replicas, parts.race.good()) {
            (1, _) => String::new(),
            (_, Some(_)) => format!(", at up to {replicas} trials a case"),
            (_, None) => format!(", at {replicas} trials a case"),
        };
        if cases == 0 {
            let message = format!("`trial_budget` {budget} is not enough for one case{each}");
            self.report(Diagnostic::at(budget_place, message).label(format!("expected at least {replicas}")));
            return;
        }
        if let Field::Good(Survivors::AtMost(survivors), place) = &parts.survivor_count
            && *survivors > cases
        {
            let message = match replicas {
                1 => format!("`survivor_count` {survivors} is above `trial_budget` {budget}"),
                _ => format!(
                    "`survivor_count` {survivors} is above the {cases} cases of `trial_budget` {budget}{each}"
                ),
            };
            self.report(Diagnostic::at(place, message).label(format!("expected at most {cases}")));
        }
    }

    /// What replicas do not go with.
    pub(super) fn replicas_suit(&mut self, parts: &StageParts) {
        let name = match (&parts.race, &parts.repeats) {
            (Field::Absent, Field::Good(..)) if parts.replicas() > 1 => "`repeats`",
            (Field::Good(..), _) => "`race`",
            _ => return,
        };
        let Some(place) = parts.repeated_by() else { return };
        if !matches!(parts.halving, Field::Absent) {
            let message = format!(
                "{name} does not go with `halving`: a rung compares trials, and here they are replicas of cases"
            );
            self.report(Diagnostic::at(place, message).label("remove one of both"));
        }
        if matches!(parts.sampling.good(), Some(Sampling::Ask(_))) {
            let message = format!("{name} does not go with a proposer yet");
            let help = "repeat the measurement within the trial, or choose another `sampling`";
            self.report(Diagnostic::at(place, message).label("not with `ask`").help(help));
        }
    }

    /// What a race says together with the rest of its stage: `Some(None)` where there is none.
    pub(super) fn race_suits(
        &mut self,
        parts: &StageParts,
        objectives: Option<&[Objective]>,
    ) -> Option<Option<RaceSpec>> {
        let (race, place) = match &parts.race {
            Field::Absent => return Some(None),
            Field::Bad => return None,
            Field::Good(race, place) => (race, place.clone()),
        };
        if let Field::Good(_, place) = &parts.repeats {
            let message = "`repeats` and `race` both say how often a case runs";
            self.report(Diagnostic::at(place, message).label("remove one of both"));
        }
        if let Field::Good(Survivors::All, place) = &parts.survivor_count {
            let message = "a race drops cases, and here all survive";
            self.report(
                Diagnostic::at(place, message)
                    .label("say how many")
                    .help("use `repeats` to run each case as often"),
            );
        }
        if parts.spec.aggregate == Aggregate::Worst {
            let message =
                "`aggregate = \"worst\"` does not go with a race: the worst of few says nothing of the next";
            self.report(Diagnostic::at(&place, message).label("not with `worst`").help("use `repeats`"));
        }
        if let (Some(cases), Field::Good(_, budget)) = (parts.cases(), &parts.trial_budget)
            && cases > RaceSpec::CASES_MAX as u64
        {
            let message = format!("a race has at most {} cases, the budget is for {cases}", RaceSpec::CASES_MAX);
            let help = "let a stage before choose who races";
            self.report(Diagnostic::at(budget, message).label("too many").help(help));
        }
        let objectives = objectives?;
        let selection = parts.selection.good().copied().unwrap_or(Selection::Top);
        let by_first = matches!(selection, Selection::Top | Selection::Lexicographic);
        let metric = match (&race.metric, objectives.first()) {
            (Field::Bad, _) => return None,
            (Field::Good(metric, _), _) => metric.clone(),
            (Field::Absent, Some(first)) if by_first => first.metric.clone(),
            (Field::Absent, first) => {
                let why = match first {
                    None => "there is no objective".to_owned(),
                    Some(_) => format!("{} has no single objective", shown(selection.name())),
                };
                let message = format!("missing key `metric` in `[stage.race]`: {why}");
                self.report(Diagnostic::at(&place, message).label("say what is compared").absence());
                return None;
            }
        };
        let goal = self.goal_of(&race.goal, &metric, objectives, &place)?;
        let max = race.max();
        Some(Some(RaceSpec {
            min: race.min.clone().or_default(RaceSpec::MIN.min(max)),
            max,
            confidence: race.confidence.clone().or_default(RaceSpec::CONFIDENCE),
            objective: Objective { metric, goal, weight: None },
        }))
    }
}
