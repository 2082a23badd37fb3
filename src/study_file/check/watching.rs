//! `[stage.halving]` and `[[stage.stop_if]]`: their keys, and what they ask of the rest of a stage.

use crate::model::names_of;
use crate::study_file::diagnostics::{Diagnostic, Location, shown};
use crate::study_file::keys::{Least, NONE, Preset, REQUIRED, Section, Takes, key, put};
use crate::study_file::raw::{Kind, Node};
use crate::study_file::stage::StageParts;
use crate::study_file::types::{Goal, Objective};
use crate::study_file::walk::{COUNT_MAX, Checker, Field};
use crate::study_file::watching::{HalvingSpec, StopIf, StopWhen};

use super::ANY_NAME;

/// The largest step that a report can have.
const STEP_MAX: i128 = 1 << 53;
/// More rungs tell nothing.
const RUNGS_MAX: usize = 16;

/// `[stage.halving]`.
#[rustfmt::skip] // Entry by entry: what it is, what it is for, how it is read, how it changes.
pub(in crate::study_file) static HALVING: Section<HalvingParts> = Section::new(
    "`[stage.halving]`",
    "Trials are compared at rungs with those of lower number, and the worse ones end there.",
    &[
        key("rungs", Takes::Set(&Takes::Integer(1, STEP_MAX), 1), REQUIRED,
            "The steps at which trials are compared, growing; 16 at most.",
            |c, n, p, d| d.rungs.put(c.rungs(n, p), p)),
        key("metric", ANY_NAME, Preset::Words("the only objective's"),
            "What is compared, as trials report it.",
            |c, n, p, d| d.metric.put(c.non_empty_text(n, p), p)),
        key("goal", Takes::Word(names_of::<Goal>), Preset::Words("the objective's of that name"),
            "Which way is better.",
            |c, n, p, d| d.goal.put(c.named(n, p), p)),
        key("eta", Takes::Integer(2, COUNT_MAX), Preset::Value("3"),
            "About the best of so many go on.",
            |c, n, p, d| d.eta.put(c.count(n, p, 2), p)),
        key("keep", Takes::Integer(1, COUNT_MAX), Preset::Words("the larger of `survivor_count` and `eta`"),
            "A trial among the best so many so far goes on always. Where it is not given, a stage that has begun stays with what it began with.",
            |c, n, p, d| d.keep.put(c.count(n, p, 1), p)),
    ],
);

/// `[[stage.stop_if]]`.
#[rustfmt::skip] // Entry by entry: what it is, what it is for, how it is read, how it changes.
pub(in crate::study_file) static STOP_IF: Section<StopParts> = Section::with_one_of(
    "`[[stage.stop_if]]`",
    "A trial ends by what it reports itself. What is not finite is worse than any number.",
    &["below", "above", "no_better_for"],
    &[
        key("metric", ANY_NAME, REQUIRED,
            "The metric, as trials report it.",
            |c, n, p, d| d.metric.put(c.non_empty_text(n, p), p)),
        key("below", Takes::Number(Least::Any), NONE,
            "End below this; the threshold itself is still good.",
            |c, n, p, d| put(&mut d.when, c.float(n, p).map(|least| Some(StopWhen::Below(least))))),
        key("above", Takes::Number(Least::Any), NONE,
            "End above this; the threshold itself is still good.",
            |c, n, p, d| put(&mut d.when, c.float(n, p).map(|most| Some(StopWhen::Above(most))))),
        key("after", Takes::Integer(0, STEP_MAX), Preset::Value("0"),
            "Reports of lower steps are passed over.",
            |c, n, p, d| put(&mut d.after, c.whole(n, p, 0..=STEP_MAX))),
        key("no_better_for", Takes::Integer(1, STEP_MAX), NONE,
            "End so many steps after the best report.",
            |c, n, p, d| d.steps.put(c.whole(n, p, 1..=STEP_MAX), p)),
        key("min_delta", Takes::Number(Least::Zero), Preset::Value("0.0"),
            "With `no_better_for`: a value counts as better from this much on.",
            |c, n, p, d| d.min_delta.put(c.least_gain(n, p), p)),
        key("goal", Takes::Word(names_of::<Goal>), Preset::Words("the objective's of that name"),
            "With `no_better_for`: which way is better.",
            |c, n, p, d| d.goal.put(c.named(n, p), p)),
    ],
);

/// What `[stage.halving]` says.
#[derive(Clone, Default)]
pub(in crate::study_file) struct HalvingParts {
    rungs: Field<Vec<u64>>,
    metric: Field<String>,
    goal: Field<Goal>,
    eta: Field<u64>,
    keep: Field<u64>,
}

/// What a `[[stage.stop_if]]` says.
#[derive(Clone, Default)]
pub(in crate::study_file) struct StopParts {
    metric: Field<String>,
    when: Option<StopWhen>,
    after: u64,
    steps: Field<u64>,
    min_delta: Field<f64>,
    goal: Field<Goal>,
    place: Location,
}

impl Checker<'_> {
    /// `[stage.halving]`.
    pub(in crate::study_file) fn halving(&mut self, node: &Node, place: &Location) -> Option<HalvingParts> {
        let mut parts = HalvingParts::default();
        self.section(&HALVING, node, place, &mut parts)?;
        Some(parts)
    }

    /// `[[stage.stop_if]]`.
    pub(in crate::study_file) fn stop_rules(&mut self, node: &Node, place: &Location) -> Option<Vec<StopParts>> {
        if matches!(node.kind, Kind::Table(_)) {
            let help = "write `[[stage.stop_if]]`, with two brackets";
            self.wrong_type(node, place, "a list of tables", Some(help.into()));
            return None;
        }
        let mut rules = Vec::new();
        for (node, place) in self.items(node, place, "tables")? {
            let mut parts = StopParts { place: place.clone(), ..StopParts::default() };
            let Some(table) = self.section(&STOP_IF, node, &place, &mut parts) else { continue };
            self.exactly_one(&table, STOP_IF.one_of, "write two rules");
            for only in ["min_delta", "goal"] {
                if let (None, Some((_, place))) = (table.get("no_better_for"), table.get(only)) {
                    let message = format!("`{only}` means nothing to a threshold");
                    self.report(Diagnostic::at(&place, message).label("not used"));
                }
            }
            rules.push(parts);
        }
        Some(rules)
    }

    fn rungs(&mut self, node: &Node, place: &Location) -> Option<Vec<u64>> {
        let items = self.items(node, place, "steps")?;
        let count = items.len();
        if !(1..=RUNGS_MAX).contains(&count) {
            let message = format!("`rungs` has {count} steps");
            self.report(Diagnostic::at(place, message).label(format!("expected 1 to {RUNGS_MAX}")));
            return None;
        }
        let mut rungs: Vec<u64> = Vec::with_capacity(count);
        for (node, place) in items {
            let Some(step) = self.whole(node, &place, 1..=STEP_MAX) else { continue };
            if let Some(last) = rungs.last().filter(|last| **last >= step) {
                let message = format!("the rung {step} is not above {last}");
                self.report(Diagnostic::at(&place, message).label("expected a larger step"));
                return None;
            }
            rungs.push(step);
        }
        (rungs.len() == count).then_some(rungs)
    }

    fn least_gain(&mut self, node: &Node, place: &Location) -> Option<f64> {
        let gain = self.float(node, place)?;
        if gain < 0.0 {
            self.report(Diagnostic::at(place, "`min_delta` is negative").label("expected 0 or more"));
            return None;
        }
        Some(gain)
    }

    /// What halving says together with the rest of its stage: `Some(None)` where there is none.
    pub(super) fn halving_suits(
        &mut self,
        parts: &StageParts,
        objectives: Option<&[Objective]>,
        survivors: Option<u64>,
    ) -> Option<Option<HalvingSpec>> {
        let (halving, place) = match &parts.halving {
            Field::Absent => return Some(None),
            Field::Bad => return None,
            Field::Good(halving, place) => (halving, place),
        };
        self.watched_suits(parts, place);
        let objectives = objectives?;
        let metric = match (&halving.metric, objectives) {
            (Field::Bad, _) => return None,
            (Field::Good(metric, _), _) => metric.clone(),
            (Field::Absent, [only]) => only.metric.clone(),
            (Field::Absent, _) => {
                let words = match objectives.len() {
                    0 => "there is no objective".to_owned(),
                    many => format!("there are {many} objectives"),
                };
                let message = format!("missing key `metric` in `[stage.halving]`: {words}");
                self.report(Diagnostic::at(place, message).label("say what is compared").absence());
                return None;
            }
        };
        let goal = self.goal_of(&halving.goal, &metric, objectives, place)?;
        let eta = halving.eta.clone().or_default(HalvingSpec::ETA);
        let (keep, keep_is_preset) = match &halving.keep {
            Field::Good(keep, _) => (*keep, false),
            Field::Absent => (HalvingSpec::preset_keep(survivors?, eta), true),
            Field::Bad => return None,
        };
        let rungs = halving.rungs.good()?.clone();
        Some(Some(HalvingSpec { rungs, metric, goal, eta, keep, keep_is_preset }))
    }

    /// Likewise of a stage's own rules.
    pub(super) fn stop_rules_suit(
        &mut self,
        parts: &StageParts,
        objectives: Option<&[Objective]>,
    ) -> Option<Vec<StopIf>> {
        let (rules, place) = match &parts.stop_if {
            Field::Absent => return Some(Vec::new()),
            Field::Bad => return None,
            Field::Good(rules, place) => (rules, place),
        };
        if !rules.is_empty() {
            self.watched_suits(parts, place);
        }
        let mut checked = Vec::with_capacity(rules.len());
        for rule in rules {
            let metric = rule.metric.good()?.clone();
            let when = match (&rule.when, &rule.steps) {
                (Some(when), _) => when.clone(),
                (None, Field::Good(steps, _)) => {
                    let goal = self.goal_of(&rule.goal, &metric, objectives?, &rule.place)?;
                    let min_delta = rule.min_delta.clone().or_default(0.0);
                    StopWhen::NoBetter { steps: *steps, min_delta, goal }
                }
                (None, _) => return None,
            };
            checked.push(StopIf { metric, when, after: rule.after });
        }
        Some(checked)
    }

    /// Which way is better, where that is said.
    pub(super) fn goal_of(
        &mut self,
        said: &Field<Goal>,
        metric: &str,
        objectives: &[Objective],
        place: &Location,
    ) -> Option<Goal> {
        let known = objectives.iter().find(|objective| objective.metric == metric).map(|objective| objective.goal);
        match (said, known) {
            (Field::Bad, _) => None,
            (Field::Good(goal, place), Some(known)) if *goal != known => {
                let message = format!("the objective {} says otherwise", shown(metric));
                self.report(Diagnostic::at(place, message).label("the other way round"));
                None
            }
            (Field::Good(goal, _), _) => Some(*goal),
            (Field::Absent, Some(known)) => Some(known),
            (Field::Absent, None) => {
                let message = format!("missing key `goal`: no objective is called {}", shown(metric));
                let mistake = Diagnostic::at(place, message).label("say which way is better");
                self.report(mistake.help("\"maximize\" or \"minimize\"").absence());
                None
            }
        }
    }

    /// A result that is taken over has no reports, so a stage that took it could not end as one that ran everything.
    fn watched_suits(&mut self, parts: &StageParts, place: &Location) {
        if parts.reuse.good().is_some_and(|reuse| !reuse.is_no()) {
            let message = "trials that may end early and `reuse` do not go together";
            let help = "a result that is taken over has no reports to judge by; remove one of the two";
            self.report(Diagnostic::at(place, message).label("not where results are reused").help(help));
        }
    }
}
