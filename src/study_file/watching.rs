//! `[stage.halving]` and `[[stage.stop_if]]`: which trials end early, and what of a trial's reports decides it.
//!
//! A [`Lookout`] takes a trial's reports in their order and says what counts of them. It is a function of the reports alone: nothing
//! here may ask when one came, or what other trials do.

use serde::{Deserialize, Serialize};

use super::stage::StageSpec;
use super::types::Goal;
use crate::model::StopIfMet;
use crate::model::halving::{Climb, Rule, Shown};
use crate::model::json::is_zero;
use crate::model::reports::Report;

/// `[stage.halving]`: trials are compared at rungs, and about one in `eta` goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HalvingSpec {
    /// Steps, growing; 1 to 16 of them.
    pub rungs: Vec<u64>,
    /// The metric that is compared.
    pub metric: String,
    /// Which way is better.
    pub goal: Goal,
    /// About the best of so many go on; at least 2.
    pub eta: u64,
    /// A trial among the best so many so far goes on always.
    pub keep: u64,
    /// Whether `keep` was not given; no part of the study's identity.
    #[serde(skip)]
    pub(crate) keep_is_preset: bool,
}

impl HalvingSpec {
    /// `eta` where it is not given.
    pub(crate) const ETA: u64 = 3;

    /// What decides at a rung.
    pub(crate) fn rule(&self) -> Rule {
        Rule { rungs: u32::try_from(self.rungs.len()).unwrap_or(u32::MAX), eta: self.eta, keep: self.keep }
    }

    /// Of so many trials at a rung, so many may go on.
    #[must_use]
    pub fn allowed(&self, of: u64) -> u64 {
        self.rule().allowed(of)
    }

    /// `keep` where it is not given.
    pub(crate) fn preset_keep(survivor_count: u64, eta: u64) -> u64 {
        survivor_count.max(eta)
    }

    /// A value as something of which less is better.
    pub(crate) fn cost(&self, value: Option<f64>) -> f64 {
        crate::model::halving::cost(value, self.goal == Goal::Maximize)
    }
}

impl StageSpec {
    /// What looks at a trial's reports; `None`: nothing of the stage is watched.
    pub(crate) fn lookout(&self) -> Option<Lookout> {
        Lookout::new(self)
    }

    /// The metrics that say most of how its trials go, each once: its objectives, then what it halves by and what its rules look at.
    pub(crate) fn telling_metrics(&self) -> Vec<&str> {
        let objectives = self.objectives.iter().map(|objective| &objective.metric);
        let halving = self.halving.iter().map(|halving| &halving.metric);
        let rules = self.stop_if.iter().map(|rule| &rule.metric);
        let mut metrics: Vec<&str> = Vec::new();
        for metric in objectives.chain(halving).chain(rules) {
            if !metrics.contains(&metric.as_str()) {
                metrics.push(metric);
            }
        }
        metrics
    }

    /// Which way a metric is better, where the stage says that.
    #[cfg(feature = "report")]
    pub(crate) fn goal_of(&self, metric: &str) -> Option<Goal> {
        let objective = self.objectives.iter().find(|objective| objective.metric == metric);
        let halving = || self.halving.as_ref().filter(|halving| halving.metric == metric);
        objective.map(|objective| objective.goal).or_else(|| Some(halving()?.goal))
    }
}

/// `[[stage.stop_if]]`: a trial ends by its own reports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StopIf {
    /// The metric.
    pub metric: String,
    /// When.
    pub when: StopWhen,
    /// Reports of lower steps are passed over.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub after: u64,
}

/// What a report has to say for a trial to end. What is not finite is worse than any number: it is beyond every threshold, and no
/// better than anything.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StopWhen {
    /// A value below this.
    Below(f64),
    /// A value above this.
    Above(f64),
    /// The last report that was better than all before came so many steps ago.
    NoBetter {
        /// How many steps.
        steps: u64,
        /// A value counts as better from this much on, and if it is better at all.
        min_delta: f64,
        /// Which way is better.
        goal: Goal,
    },
}

/// What of a trial's reports counts, by now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Showing {
    /// What it showed at its stage's rungs, from the lowest on.
    pub rungs: Vec<Shown>,
    /// The rule of its own that it met; nothing after that counts.
    pub met: Option<StopIfMet>,
}

impl Showing {
    pub(crate) fn is_nothing(&self) -> bool {
        self.rungs.is_empty() && self.met.is_none()
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Lookout {
    halving: Option<(String, Climb)>,
    rules: Vec<Stop>,
    seen: Showing,
}

/// A rule and how far it has come.
#[derive(Clone, Debug)]
struct Stop {
    rule: StopIf,
    best: Option<f64>,
    /// The step of the best, or the first one.
    since: Option<u64>,
}

impl Lookout {
    /// Before a trial's first report. `None`: nothing of its stage is watched.
    pub(crate) fn new(stage: &StageSpec) -> Option<Self> {
        stage.is_watched().then(|| Self {
            halving: stage.halving.as_ref().map(|halving| (halving.metric.clone(), Climb::new(&halving.rungs))),
            rules: stage.stop_if.iter().map(|rule| Stop { rule: rule.clone(), best: None, since: None }).collect(),
            seen: Showing::default(),
        })
    }

    /// Takes up the next accepted report: rungs first, then the rules in their order.
    pub(crate) fn take(&mut self, report: &Report) {
        if self.seen.met.is_some() {
            return;
        }
        if let Some((metric, climb)) = &mut self.halving
            && let Some(value) = report.metrics.get(metric)
        {
            self.seen.rungs.extend(climb.take(report.step, *value));
        }
        for (stop, place) in self.rules.iter_mut().zip(0..) {
            let Some(value) = report.metrics.get(&stop.rule.metric) else { continue };
            if stop.is_met(report.step, *value) {
                let metric = stop.rule.metric.clone();
                self.seen.met = Some(StopIfMet { rule: place, metric, step: report.step, value: *value });
                return;
            }
        }
    }

    /// What counts so far.
    pub(crate) fn seen(&self) -> &Showing {
        &self.seen
    }

    /// Whether nothing that follows can count.
    pub(crate) fn is_over(&self) -> bool {
        let climbs = self.halving.as_ref().is_some_and(|(_, climb)| !climb.is_over());
        self.seen.met.is_some() || (self.rules.is_empty() && !climbs)
    }

    /// What counts in all, of a trial whose attempt has ended. One that succeeded shows its last value at the rungs that it did not
    /// reach.
    pub(crate) fn finish(mut self, succeeded: bool) -> Showing {
        if let Some((_, climb)) = self.halving.as_mut().filter(|_| succeeded && self.seen.met.is_none()) {
            self.seen.rungs.extend(climb.rest());
        }
        self.seen
    }
}

impl Stop {
    fn is_met(&mut self, step: u64, value: Option<f64>) -> bool {
        if step < self.rule.after {
            return false;
        }
        match self.rule.when {
            StopWhen::Below(least) => value.is_none_or(|value| value < least),
            StopWhen::Above(most) => value.is_none_or(|value| value > most),
            StopWhen::NoBetter { steps, min_delta, goal } => {
                let gain =
                    |value: f64, best: f64| if goal == Goal::Maximize { value - best } else { best - value };
                let is_better = |value: &f64| {
                    self.best.is_none_or(|best| gain(*value, best) > 0.0 && gain(*value, best) >= min_delta)
                };
                if let Some(value) = value.filter(is_better) {
                    (self.best, self.since) = (Some(value), Some(step));
                    return false;
                }
                step - *self.since.get_or_insert(step) >= steps
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(step: u64, values: &[(&str, Option<f64>)]) -> Report {
        Report { step, metrics: values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect() }
    }

    /// Rungs with the steps that count there; the rule that was met, and at which step.
    type Seen = (Vec<(u64, u64)>, Option<(u32, u64)>);

    fn seen(stage: &StageSpec, values: &[(u64, Option<f64>)]) -> Seen {
        let mut lookout = Lookout::new(stage).unwrap();
        values.iter().for_each(|(step, value)| lookout.take(&report(*step, &[("y", *value)])));
        let seen = lookout.finish(true);
        let rungs = seen.rungs.iter().map(|shown| (shown.at, shown.step)).collect();
        (rungs, seen.met.map(|met| (met.rule, met.step)))
    }

    fn stop(when: StopWhen, after: u64) -> StageSpec {
        let rule = |metric: &str| StopIf { metric: metric.into(), when: when.clone(), after };
        StageSpec { stop_if: vec![rule("other"), rule("y")], ..StageSpec::default() }
    }

    #[test]
    fn a_threshold_is_met_beyond_it_and_from_its_step_on() {
        let above = stop(StopWhen::Above(1.0), 3);
        assert_eq!(seen(&above, &[(1, Some(9.0)), (3, Some(1.0)), (4, Some(1.5))]).1, Some((1, 4)));
        assert_eq!(seen(&above, &[(1, Some(9.0)), (2, None), (5, Some(-9.0))]).1, None);
        assert_eq!(seen(&above, &[(3, None)]).1, Some((1, 3)), "what is not finite is worse than any");
        let below = stop(StopWhen::Below(-1.0), 0);
        assert_eq!(seen(&below, &[(0, Some(-1.0)), (7, Some(-1.5))]).1, Some((1, 7)));
        assert_eq!(seen(&below, &[]).1, None);
    }

    #[test]
    fn a_plateau_is_as_long_as_nothing_gets_better() {
        let plateau = |min_delta, goal| stop(StopWhen::NoBetter { steps: 3, min_delta, goal }, 0);
        let falls = plateau(0.0, Goal::Minimize);
        assert_eq!(seen(&falls, &[(1, Some(5.0)), (3, Some(5.0)), (4, Some(5.0))]).1, Some((1, 4)));
        assert_eq!(seen(&falls, &[(1, Some(5.0)), (3, Some(4.9)), (5, Some(5.0))]).1, None);
        assert_eq!(seen(&falls, &[(1, Some(5.0)), (3, Some(4.9)), (9, Some(5.0))]).1, Some((1, 9)));
        let rises = plateau(0.5, Goal::Maximize);
        assert_eq!(seen(&rises, &[(1, Some(1.0)), (2, Some(1.4)), (3, Some(1.5)), (5, Some(1.6))]).1, None);
        assert_eq!(seen(&rises, &[(1, Some(1.0)), (2, Some(1.4)), (4, Some(1.4))]).1, Some((1, 4)));
        assert_eq!(
            seen(&falls, &[(2, None), (4, None), (5, Some(1.0)), (7, None)]).1,
            None,
            "better than nothing"
        );
        assert_eq!(seen(&falls, &[(2, None), (5, None)]).1, Some((1, 5)));
    }

    #[test]
    fn at_one_report_rungs_come_first_and_nothing_comes_after_a_rule() {
        let goal = Goal::Minimize;
        let halving =
            HalvingSpec { rungs: vec![2, 4, 8], metric: "y".into(), goal, eta: 2, keep: 1, keep_is_preset: false };
        let stage = StageSpec { halving: Some(halving), ..stop(StopWhen::Above(1.0), 0) };
        assert_eq!(
            seen(&stage, &[(1, Some(0.0)), (5, Some(2.0)), (9, Some(0.0))]),
            (vec![(2, 1), (4, 1)], Some((1, 5)))
        );
        assert_eq!(seen(&stage, &[(1, Some(0.0)), (5, Some(0.5))]), (vec![(2, 1), (4, 1), (8, 5)], None));
    }

    #[test]
    fn reports_without_the_metric_say_nothing() {
        let stage = stop(StopWhen::Above(1.0), 0);
        let mut lookout = Lookout::new(&stage).unwrap();
        lookout.take(&report(1, &[("z", Some(9.0))]));
        assert_eq!(lookout.finish(true), Showing::default());
        assert!(Lookout::new(&StageSpec::default()).is_none());
    }
}
