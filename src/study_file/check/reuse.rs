//! `reuse`, `uses` and what they ask of the rest of a stage: nothing in a trial's command may tell apart trials that are to
//! be equal, and nothing that it reads may be unknown.

use std::collections::BTreeSet;

use crate::study_file::cases::KnownParams;
use crate::study_file::diagnostics::{Diagnostic, Location, names_help, shown};
use crate::study_file::raw::{Kind, Node};
use crate::study_file::stage::{Reuse, StageParts, Survivors};
use crate::study_file::types::{Part, Work};
use crate::study_file::walk::{Checker, Field};

use super::stage::Hole;

/// What a later stage has to know of the one before it.
pub(super) struct Before {
    name: String,
    reuses: bool,
    /// It declares no outputs.
    leaves_nothing: bool,
}

impl Before {
    pub(super) fn of(parts: &StageParts) -> Self {
        Self {
            name: parts.name.good().cloned().unwrap_or_default(),
            reuses: reuses(parts),
            leaves_nothing: parts.spec.outputs.is_empty(),
        }
    }
}

pub(super) fn reuses(parts: &StageParts) -> bool {
    parts.reuse.good().is_some_and(|reuse| !reuse.is_no())
}

impl Checker<'_> {
    /// `survivor_count`: a number, or all.
    pub(in crate::study_file) fn survivors(&mut self, node: &Node, place: &Location) -> Option<Survivors> {
        match &node.kind {
            Kind::Str(_) => self.one_of(node, place, &[("all", Survivors::All)]),
            _ => self.count(node, place, 1).map(Survivors::AtMost),
        }
    }

    pub(super) fn share(&mut self, node: &Node, place: &Location) -> Option<f64> {
        let share = self.float(node, place)?;
        if (0.0..=1.0).contains(&share) {
            return Some(share.abs());
        }
        let mistake =
            Diagnostic::at(place, "`reuse_check` must be from 0 to 1").label("expected a share, such as 0.02");
        self.report(mistake.help("it is the share of trials that are run although they could take a result"));
        None
    }

    pub(in crate::study_file) fn reuse(&mut self, node: &Node, place: &Location) -> Option<Reuse> {
        match &node.kind {
            Kind::Bool(true) => Some(Reuse::Yes),
            Kind::Bool(false) => Some(Reuse::No),
            Kind::Str(_) => self.non_empty_text(node, place).map(Reuse::Version),
            _ => {
                self.wrong_type(node, place, "`true`, `false` or a string", None);
                None
            }
        }
    }

    /// `uses`: params, each with its place.
    pub(in crate::study_file) fn uses(
        &mut self,
        node: &Node,
        place: &Location,
    ) -> Option<Vec<(String, Location)>> {
        let mut uses = Vec::new();
        self.texts(node, place, |checker, node, place| {
            let name = checker.text(node, place)?;
            uses.push((name.clone(), place.clone()));
            Some(name)
        })?;
        Some(uses)
    }

    /// What `reuse` and `uses` ask of a stage's command and of the stage `before` it; `known` are the params that it can have.
    pub(super) fn reuse_suits(
        &mut self,
        parts: &StageParts,
        before: Option<&Before>,
        known: &KnownParams,
        every_sweep_known: bool,
    ) {
        if let Field::Good(uses, _) = &parts.uses
            && every_sweep_known
        {
            for (name, place) in uses.iter().filter(|(name, _)| !known.has(name)) {
                let names: Vec<&str> = known.names().collect();
                let mistake = Diagnostic::at(place, format!("no param is called {}", shown(name)));
                self.report(
                    mistake.label("no such param").maybe_help(names_help("params", name, &names)).absence(),
                );
            }
        }
        let Some(work) = parts.work.good() else { return };
        if let (Field::Good(Reuse::Yes, place), Some(Work::Closure)) = (&parts.reuse, &work.work) {
            let mistake = Diagnostic::at(place, "piton cannot see whether a closure's code has changed");
            let help = "say which version it is, `reuse = \"1\"`, and another one whenever its results may differ";
            self.report(mistake.label("nothing to reuse by").help(help));
        }
        let uses: Option<BTreeSet<&str>> =
            parts.uses.good().map(|uses| uses.iter().map(|(name, _)| name.as_str()).collect());
        for hole in &work.holes {
            self.hole_suits(hole, parts, before, uses.as_ref());
        }
    }

    fn hole_suits(
        &mut self,
        hole: &Hole,
        parts: &StageParts,
        before: Option<&Before>,
        uses: Option<&BTreeSet<&str>>,
    ) {
        let at = |message: String| Diagnostic::at(&hole.place, message);
        match &hole.part {
            Part::Param(name) if parts.needs_pool(name) => {}
            Part::Param(name) if uses.is_some_and(|uses| !uses.contains(name.as_str())) => {
                let help = format!("add \"{name}\" to `uses`, or do without it");
                self.report(
                    at(format!("{} is none of the params that the stage `uses`", shown(name)))
                        .label("not seen here")
                        .help(help),
                );
            }
            Part::Case | Part::Attempt | Part::Slot if reuses(parts) => {
                let name = match hole.part {
                    Part::Case => "{case}",
                    Part::Attempt => "{attempt}",
                    _ => "{slot}",
                };
                let message = format!("`{name}` differs between trials that are to have one result");
                let help = "do without it: a trial runs in a directory of its own; or remove `reuse`";
                self.report(at(message).label("not where results are reused").help(help));
            }
            Part::ParentDir => {
                let Some(before) = before.filter(|before| before.leaves_nothing) else { return };
                let (why, own) = match (reuses(parts), before.reuses) {
                    (false, false) => return,
                    (true, _) => ("what it reads there is unknown", true),
                    (false, true) => ("a result that is reused has no other files than its outputs", false),
                };
                let name = shown(&before.name);
                let whose = if own { "results are reused" } else { "that stage says `reuse`" };
                let message =
                    format!("stage {name}, whose directory `{{parent_dir}}` is, declares no outputs, and {whose}");
                let help = format!("declare what is read as `outputs` of stage {name}");
                self.report(at(message).label(why).help(help));
            }
            _ => {}
        }
    }
}
