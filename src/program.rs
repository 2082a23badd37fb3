//! What the `piton` program, its tests, benchmarks and fuzz targets use besides the front door. No part of the interface: it
//! changes without notice.

/// How a run goes.
pub mod engine {
    pub use crate::engine::resume;
    pub use crate::engine::{Draft, EngineError, Observer};
    #[cfg(feature = "cluster")]
    pub use crate::engine::{attempt, probe};
}

/// What an attempt left.
pub mod executor {
    pub use crate::executor::AttemptReport;
    pub use crate::executor::reporting::{NotReported, append_report};
}

/// What rungs decide.
pub mod halving {
    pub use crate::model::halving::{Decided, Ladder, Rule};
}

/// Inputs as they are.
pub mod inputs_now {
    pub use crate::inputs_now::inputs_now;
}

/// The store as a file.
pub mod journal {
    pub use crate::journal::{Journal, Reader, create, create_with, replayed, verify};
}

/// Where things lie.
pub mod paths {
    pub use crate::paths::{STDERR_LOG, StudyPaths, seen_from_here};
}

/// Which trials there are.
pub mod plan {
    pub use crate::plan::{
        BestTrial, Lineage, VERSION, combinations, declared, merged, plan_trials, shares, unvaried,
    };
}

/// The study file.
pub mod study_file {
    pub use crate::study_file::{
        ExpandContext, Expanded, Goal, Proposer, Sampling, Selection, Spec, StageSpec, Values, Work, diff,
        parse_bytes, parse_study, parse_study_as, schema, tool_versions,
    };
}

/// The machine.
pub mod sys {
    pub use crate::sys::{clock, files, opened, orphans, signals, words};
}
