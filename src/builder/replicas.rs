//! What a builder says of stages whose cases run several times.

use super::{Stage, set, text};
use crate::study_file::raw::{Kind, Node};
use crate::study_file::{Aggregate, Goal};

impl Stage {
    /// Runs each case so often, as replicas 0, 1 and so on, each with another seed ([`TrialContext::replica`](crate::TrialContext::replica)). The
    /// budget counts trials: it is for so many cases fewer.
    pub fn repeats(self, replicas: u32) -> Self {
        self.key("repeats", Kind::Int(replicas.into()))
    }

    /// Runs the cases in rounds of a replica each, instead of [`Stage::repeats`]: at least `min` and at most `max`. Who is not among the
    /// survivors leaves, as far as the first objective says so beyond doubt; with the preset confidence nobody can before round 6. The budget
    /// is for so many cases fewer, by `max`.
    pub fn race(mut self, min: u32, max: u32) -> Self {
        set(&mut self.race, "min", Node::new(Kind::Int(min.into())));
        set(&mut self.race, "max", Node::new(Kind::Int(max.into())));
        self
    }

    /// With [`Stage::race`]: one of the true best leaves with a probability of at most 1 less this. 0.95 unless said.
    pub fn race_confidence(mut self, confidence: f64) -> Self {
        set(&mut self.race, "confidence", Node::new(Kind::Float(confidence)));
        self
    }

    /// With [`Stage::race`]: what replicas are compared by, instead of the first objective.
    pub fn race_by(mut self, metric: &str, goal: Goal) -> Self {
        set(&mut self.race, "metric", text(metric));
        set(&mut self.race, "goal", text(goal.name()));
        self
    }

    /// What the replicas of a case come to together; their mean unless said.
    pub fn aggregate(self, aggregate: Aggregate) -> Self {
        self.key("aggregate", text(aggregate.name()).kind)
    }
}
