//! `explore`, and what it asks of its stage and of the next one.

use crate::study_file::diagnostics::{Diagnostic, Location};
use crate::study_file::stage::{StageParts, Survivors};
use crate::study_file::walk::{Checker, Field};

/// Who goes on from a stage that explores.
pub(super) struct GoesOn {
    survivors: u64,
    explorers: u64,
    place: Location,
}

impl Checker<'_> {
    /// Whether a stage can explore, and whether those that come from the one `before` it have a trial each.
    pub(super) fn exploring_suits(
        &mut self,
        parts: &StageParts,
        before: Option<&GoesOn>,
        is_last: bool,
    ) -> Option<GoesOn> {
        if let Some((GoesOn { survivors, explorers, place }, cases)) = before.zip(parts.cases())
            && survivors.saturating_add(*explorers) > cases
        {
            let message = format!(
                "the next stage has {cases} cases for {survivors} survivors and {explorers} that explore: some of these would have no child"
            );
            let most = cases.saturating_sub(*survivors);
            self.report(Diagnostic::at(place, message).label(format!("at most {most} with that budget")));
        }
        let Field::Good(explorers, place) = &parts.explore else { return None };
        if !matches!(parts.race, Field::Absent) {
            let message = "`explore` does not go with a race: who left it ran less often than who survives";
            self.report(Diagnostic::at(place, message).label("remove one of both").help("use `repeats`"));
        }
        if *explorers == 0 {
            return None;
        }
        if is_last {
            let message = "`explore` has no meaning in the last stage: there is none after it to go on to";
            self.report(Diagnostic::at(place, message).label("remove it, or set it to 0"));
            return None;
        }
        match parts.survivor_count.good()? {
            Survivors::All => {
                let message = "`explore` has no meaning where all survive";
                self.report(Diagnostic::at(place, message).label("nobody is left to explore"));
                None
            }
            Survivors::AtMost(survivors) => {
                Some(GoesOn { survivors: *survivors, explorers: *explorers, place: place.clone() })
            }
        }
    }
}
