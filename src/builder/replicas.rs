//! What a builder says of stages whose cases run several times.

use super::{Stage, text};
use crate::study_file::Aggregate;
use crate::study_file::raw::Kind;

impl Stage {
    /// Runs each case so often, as replicas 0, 1 and so on, each with another seed ([`TrialContext::replica`](crate::TrialContext::replica)). The
    /// budget counts trials: it is for so many cases fewer.
    pub fn repeats(self, replicas: u32) -> Self {
        self.key("repeats", Kind::Int(replicas.into()))
    }

    /// What the replicas of a case come to together; their mean unless said.
    pub fn aggregate(self, aggregate: Aggregate) -> Self {
        self.key("aggregate", text(aggregate.name()).kind)
    }
}
