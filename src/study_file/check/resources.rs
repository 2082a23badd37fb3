//! `[resources]` and `needs`: what there is, and that no trial needs what there never is.

use std::collections::BTreeMap;

use crate::study_file::cases::KnownParams;
use crate::study_file::diagnostics::{Diagnostic, Location, names_help, shown};
use crate::study_file::raw::{Kind, Node};
use crate::study_file::resources::{CPUS, MEMORY, Needs, Pool, is_pool_name};
use crate::study_file::stage::StageParts;
use crate::study_file::types::Part;
use crate::study_file::walk::{Checker, Field};

use super::reuse::reuses;
use super::stage::Hole;

/// `[resources]`; `None` for a pool that is said badly: it exists all the same.
pub(super) type Pools = BTreeMap<String, Option<Pool>>;

impl StageParts {
    /// Whether its trials need something of this pool.
    pub(super) fn needs_pool(&self, name: &str) -> bool {
        self.needs.good().is_some_and(|needs| needs.iter().any(|(pool, ..)| pool == name))
    }
}

impl Checker<'_> {
    pub(super) fn shared_resources(&mut self, node: &Node, place: &Location) -> Option<Pools> {
        let table = self.open_table(node, place, "`[resources]`")?;
        let mut pools = Pools::new();
        for entry in table.entries {
            let key_place = table.key_place(entry);
            let named = is_pool_name(&entry.key);
            if !named {
                let message = format!("{} is no name for a pool", shown(&entry.key));
                let help =
                    "a small letter, then small letters, digits or `_`; no placeholder or variable of piton's own";
                self.report(Diagnostic::at(&key_place, message).label("not a name").help(help));
            }
            let place = table.place.below(&entry.key, entry.node.span.clone());
            let pool = self.pool(&entry.key, &entry.node, &place).filter(|_| named);
            pools.insert(entry.key.clone(), pool);
        }
        Some(pools)
    }

    fn pool(&mut self, name: &str, node: &Node, place: &Location) -> Option<Pool> {
        match (name, &node.kind) {
            (CPUS, _) => self.count(node, place, 1).map(Pool::Count),
            (MEMORY, _) => self.memory_limit(node, place).map(Pool::Count),
            (_, Kind::Int(_)) => self.count(node, place, 1).map(Pool::Count),
            (_, Kind::Array(items)) if items.is_empty() => {
                let mistake = Diagnostic::at(place, format!("{} has no items", shown(name)));
                self.report(
                    mistake
                        .label("nothing to share")
                        .help("name them, such as [\"0\", \"1\"], or say how many there are"),
                );
                None
            }
            (_, Kind::Array(_)) => self.texts(node, place, Self::item).map(Pool::Items),
            _ => {
                let help = "name them, such as [\"0\", \"1\"], or say how many there are".to_owned();
                self.wrong_type(node, place, "a list of items or an integer", Some(help));
                None
            }
        }
    }

    fn item(&mut self, node: &Node, place: &Location) -> Option<String> {
        let item = self.non_empty_text(node, place)?;
        if item.contains(|c: char| c == ',' || c.is_control()) {
            let mistake = Diagnostic::at(place, format!("{} is no name for an item", shown(&item)));
            self.report(mistake.label("not allowed here").help("a trial gets its items joined by commas"));
            return None;
        }
        Some(item)
    }

    /// `needs`: how much of each pool, each with its place.
    pub(in crate::study_file) fn needs(
        &mut self,
        node: &Node,
        place: &Location,
    ) -> Option<Vec<(String, u64, Location)>> {
        let table = self.open_table(node, place, "`needs`")?;
        let mut needs = Vec::new();
        let mut bad = false;
        for entry in table.entries {
            let place = table.place.below(&entry.key, entry.node.span.clone());
            let amount = match entry.key.as_str() {
                MEMORY => self.memory_limit(&entry.node, &place),
                _ => self.count(&entry.node, &place, 1),
            };
            bad |= amount.is_none();
            needs.extend(amount.map(|amount| (entry.key.clone(), amount, place)));
        }
        (!bad).then_some(needs)
    }

    /// Whether there is what the trials of a stage need; how much of each. `None`: that is not known.
    pub(super) fn needs_suit(&mut self, parts: &StageParts, pools: &Pools) -> Option<Needs> {
        let needs = match &parts.needs {
            Field::Bad => return None,
            Field::Absent => return Some(Needs::new()),
            Field::Good(needs, _) => needs,
        };
        for (name, amount, place) in needs {
            match pools.get(name) {
                Some(Some(pool)) if *amount > pool.size() => {
                    let message = format!("a trial needs more of {} than there ever is", shown(name));
                    let label = format!("`[resources]` has {}", pool.size());
                    self.report(Diagnostic::at(place, message).label(label));
                }
                None if ![CPUS, MEMORY].contains(&name.as_str()) => {
                    let valid: Vec<&str> = pools.keys().map(String::as_str).chain([CPUS, MEMORY]).collect();
                    let mistake = Diagnostic::at(place, format!("no pool is called {}", shown(name)));
                    let help = names_help("pools", name, &valid);
                    self.report(mistake.label("not in `[resources]`").maybe_help(help).absence());
                }
                _ => {}
            }
        }
        Some(needs.iter().map(|(name, amount, _)| (name.clone(), *amount)).collect())
    }

    /// A placeholder that stands for what the trial has of a pool; whether it does.
    pub(super) fn pool_placeholder(&mut self, hole: &Hole, parts: &StageParts, known: &KnownParams) -> bool {
        let Part::Param(name) = &hole.part else { return false };
        if !parts.needs_pool(name) {
            return false;
        }
        let mistake = |message, label, help| Diagnostic::at(&hole.place, message).label(label).help(help);
        if known.has(name) {
            let message = format!("{} is a param and a pool that the stage needs", shown(name));
            self.report(mistake(message, "one or the other", "rename the param or the pool"));
        } else if reuses(parts) {
            let message = format!("`{{{name}}}` differs between trials that are to have one result");
            let help = "take it from the environment, `PITON_` and the pool's name; or remove `reuse`";
            self.report(mistake(message, "not where results are reused", help));
        }
        true
    }
}
