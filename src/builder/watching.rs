//! What a builder says of trials that end early.

use super::{Entry, Stage, entry, set, table, text};
use crate::study_file::raw::{Kind, Node};
use crate::study_file::{Goal, StopIf, StopWhen};

impl StopIf {
    /// A trial ends at the first report of a value below this.
    #[must_use]
    pub fn below(metric: &str, least: f64) -> Self {
        Self::new(metric, StopWhen::Below(least))
    }

    /// A trial ends at the first report of a value above this.
    #[must_use]
    pub fn above(metric: &str, most: f64) -> Self {
        Self::new(metric, StopWhen::Above(most))
    }

    /// A trial ends once so many steps have gone by since its best value. A value counts as better from `min_delta` on.
    #[must_use]
    pub fn no_better(metric: &str, goal: Goal, steps: u64, min_delta: f64) -> Self {
        Self::new(metric, StopWhen::NoBetter { steps, min_delta, goal })
    }

    /// Reports of lower steps are passed over.
    #[must_use]
    pub fn after(self, step: u64) -> Self {
        Self { after: step, ..self }
    }

    fn new(metric: &str, when: StopWhen) -> Self {
        Self { metric: metric.to_owned(), when, after: 0 }
    }
}

impl Stage {
    /// Compares trials at these steps of their reports with those of lower number, by the only objective: about the best third
    /// goes on, and the others end there, pruned. See [`Stage::halving_by`], [`Stage::halving_eta`] and [`Stage::halving_keep`].
    ///
    /// ```
    /// use piton::{Stage, TrialContext};
    ///
    /// let fit = |trial: &TrialContext<'_>| {
    ///     for epoch in 1..=27_u32 {
    ///         if trial.report(epoch.into(), [("loss", trial.float("rate")? / f64::from(epoch))])? == piton::Heard::End {
    ///             return Err("told to end".into());
    ///         }
    ///     }
    ///     Ok(piton::Metrics::new())
    /// };
    /// let stage = Stage::closure("fit", fit).budget(9).survivors(1).choices("rate", [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    /// let stage = stage.minimize("loss").halving([3, 9]);
    /// ```
    pub fn halving(mut self, rungs: impl IntoIterator<Item = u64>) -> Self {
        let rungs = rungs.into_iter().map(|step| Node::new(Kind::Int(step.into()))).collect();
        set(&mut self.halving, "rungs", Node::new(Kind::Array(rungs)));
        self
    }

    /// With [`Stage::halving`]: compares by this metric.
    pub fn halving_by(mut self, metric: &str, goal: Goal) -> Self {
        set(&mut self.halving, "metric", text(metric));
        set(&mut self.halving, "goal", text(goal.name()));
        self
    }

    /// With [`Stage::halving`]: about the best of so many go on; 3 unless said, at least 2.
    pub fn halving_eta(mut self, eta: u64) -> Self {
        set(&mut self.halving, "eta", Node::new(Kind::Int(eta.into())));
        self
    }

    /// With [`Stage::halving`]: a trial among the best so many so far goes on always; unless said the larger of eta and of how many
    /// survive.
    pub fn halving_keep(mut self, keep: u64) -> Self {
        set(&mut self.halving, "keep", Node::new(Kind::Int(keep.into())));
        self
    }

    /// Ends a trial by its own reports; one more each time, the first that is met counts.
    pub fn stop_if(mut self, rule: &StopIf) -> Self {
        let float = |number: f64| Node::new(Kind::Float(number));
        let whole = |number: u64| Node::new(Kind::Int(number.into()));
        let when: Vec<Entry> = match rule.when {
            StopWhen::Below(least) => vec![entry("below", float(least))],
            StopWhen::Above(most) => vec![entry("above", float(most))],
            StopWhen::NoBetter { steps, min_delta, goal } => vec![
                entry("no_better_for", whole(steps)),
                entry("min_delta", float(min_delta)),
                entry("goal", text(goal.name())),
            ],
        };
        let mut entries = vec![entry("metric", text(&rule.metric)), entry("after", whole(rule.after))];
        entries.extend(when);
        self.stop_if.push(table(entries));
        self
    }
}
