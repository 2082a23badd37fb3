//! What a builder says of results that are taken instead of run again.

use super::{Stage, StudyBuilder, set, text};
use crate::study_file::SpecValue;
use crate::study_file::raw::{Kind, Node};

impl StudyBuilder {
    /// A store of another study whose results are taken, too, where a stage says so by [`Stage::reuse`]; one more each time.
    pub fn reuse_from(mut self, store: &str) -> Self {
        match self.run.iter_mut().find(|entry| entry.key == "reuse_from").map(|entry| &mut entry.node.kind) {
            Some(Kind::Array(stores)) => stores.push(text(store)),
            _ => set(&mut self.run, "reuse_from", Node::new(Kind::Array(vec![text(store)]))),
        }
        self
    }

    /// The share of trials, from 0 to 1, that are run although they could take a result, to see whether it is the same.
    pub fn reuse_check(mut self, share: f64) -> Self {
        set(&mut self.run, "reuse_check", Node::new(Kind::Float(share)));
        self
    }
}

impl Stage {
    /// A result that was found once stands for every trial of the same identity: `true`, or a text that is part of the
    /// identity. A closure needs such a text, since piton cannot see whether its code has changed: another one means other code.
    ///
    /// ```
    /// use piton::{Stage, TrialContext};
    ///
    /// let square = |trial: &TrialContext<'_>| Ok([("y", trial.float("x")?.powi(2))]);
    /// let stage = Stage::closure("square", square).reuse("1").budget(3).survivors(1).choices("x", [1, 2, 3]);
    /// ```
    pub fn reuse(self, reuse: impl Into<SpecValue>) -> Self {
        self.set("reuse", reuse)
    }

    /// All params that a trial sees; every one unless said.
    pub fn uses<S: AsRef<str>>(self, params: impl IntoIterator<Item = S>) -> Self {
        let params = params.into_iter().map(|param| text(param.as_ref())).collect();
        self.key("uses", Kind::Array(params))
    }

    /// A file or directory that results depend on from this stage on; one more each time.
    pub fn input(mut self, path: &str) -> Self {
        self.inputs.push(text(path));
        self
    }

    /// Whoever succeeds survives, instead of [`Stage::survivors`].
    pub fn all_survive(self) -> Self {
        self.set("survivor_count", "all")
    }
}
