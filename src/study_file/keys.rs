//! What a study file can say: one entry for each key of each section.
//!
//! An entry is the one place that says a key: its name, what it takes, its default, what it is for, how it is read, how it shows in a
//! difference, and what amending it means. Valid names and the nearest one, missing keys, `[defaults]`, `diff`, `amend`, the
//! reference page and the JSON Schema follow from the entries. None of these may name a key by itself.

#[cfg(test)]
mod reference;
mod schema;

pub use schema::schema;

use super::diagnostics::Location;
use super::raw::Node;
use super::stage::StageSpec;
use super::walk::{Checker, Table};

/// A table of the study file: `D` is what it is read into, `S` the checked spec that differences are about.
pub(super) struct Section<D: 'static, S: 'static = ()> {
    /// As the study file writes it, or as messages call it.
    pub title: &'static str,
    /// What it is for, in a sentence.
    pub doc: &'static str,
    pub keys: &'static [Key<D, S>],
    /// Keys of which exactly one must be there.
    pub one_of: &'static [&'static str],
}

pub(super) struct Key<D: 'static, S: 'static = ()> {
    pub about: About,
    pub read: Read<D>,
    pub show: Show<S>,
    pub amend: Amend,
}

/// What people and editors see of a key.
pub(super) struct About {
    pub name: &'static str,
    pub takes: Takes,
    pub preset: Preset,
    pub doc: &'static str,
}

/// Reads a key's value into the section's; `None`: its mistake is reported.
type Read<D> = fn(&mut Checker<'_>, &Node, &Location, &mut D) -> Option<()>;

/// How a key shows in a difference.
pub(super) enum Show<S: 'static> {
    /// It does not: it is part of another key's, or no part of the study's identity.
    Never,
    /// Under its name, unless it is not set.
    Value(fn(&S) -> Option<String>),
    /// As settings below its name.
    Below(fn(&S) -> Settings),
    /// As settings of other names, each with what amending it means.
    Parts(fn(&S) -> Vec<(String, String, Amend)>),
}

/// Settings, each with its value as a study file would write it.
pub(super) type Settings = Vec<(String, String)>;

/// What a key is without being said.
#[derive(Clone, Copy)]
pub(super) enum Preset {
    /// It must be there; the help for who left it out.
    Required(Option<&'static str>),
    Words(&'static str),
    /// This value, as TOML and JSON both write it.
    Value(&'static str),
}

pub(super) const REQUIRED: Preset = Preset::Required(None);
/// Without it there is none.
pub(super) const NONE: Preset = Preset::Words("none");

/// What amending a key means for the results that there are.
#[derive(Clone, Copy)]
pub(crate) enum Amend {
    /// They would be others.
    Results,
    /// It makes another study.
    Identity,
    /// Nothing: it is for people.
    People,
    /// They depend on other files.
    Inputs,
    /// They depend on other files of a directory.
    Ignored,
    /// They depend on other tools.
    Tools,
    /// A limit of the whole study.
    StudyRails,
    /// What runs before the first stage.
    BaseCommand,
    /// How that runs.
    Base,
    /// How many trials a stage has.
    Budget,
    /// How often each case runs.
    Repeats,
    /// Which trials a stage has.
    Trials,
    /// Which cases survive.
    Survivors,
    /// Which cases survive, unless trials lack the metrics.
    Objectives,
    /// A limit of a trial, which may become wider and not tighter; none is the widest.
    Limit(fn(&StageSpec) -> Option<u64>),
    /// When a stage aborts the study.
    StageRails,
    /// What follows a failure.
    Failures,
    /// How failures are named.
    FailureRules,
    /// Which numbers are read out of what trials leave.
    Metrics,
    /// Which reports are read out of what trials print.
    Reports,
    /// Whether a stage waits for a person.
    Approval,
    /// What stays of trials' directories.
    Keep,
    /// How trials are run here: no part of the study.
    Run,
}

#[derive(Clone, Copy)]
pub(super) enum Takes {
    Text,
    /// Text that is not empty.
    Filled(&'static str),
    /// Text of this pattern, and what that is.
    Form(&'static str, &'static str),
    /// An integer of this range.
    Integer(i128, i128),
    /// A finite number.
    Number(Least),
    Flag,
    /// A duration longer than 0.
    Duration,
    /// A duration, also 0.
    DurationOrZero,
    Size,
    /// One of these words.
    Word(fn() -> Vec<&'static str>),
    /// A param's value.
    Value,
    /// A list of at least so many.
    List(&'static Takes, usize),
    /// The same, without repetitions.
    Set(&'static Takes, usize),
    /// The same but for these words, which are taken.
    But(&'static Takes, fn() -> Vec<&'static str>),
    /// A table of at least so many free keys: what the keys are, and their values.
    Map(&'static Takes, &'static Takes, usize),
    /// A table with the keys of a section.
    Table(&'static dyn Described),
    /// The same, none of which must be there.
    Defaults(&'static dyn Described),
    Either(&'static [Takes]),
    /// A table of anything.
    Anything,
}

/// The least that a number can be.
#[derive(Clone, Copy)]
pub(super) enum Least {
    Any,
    /// 0.
    Zero,
    /// More than 0.
    Above,
    /// More than 0, at most 1.
    Share,
    /// From 0 to 1.
    ShareOrZero,
}

/// Whatever section, as it is described.
pub(super) trait Described: Sync {
    fn title(&self) -> &'static str;
    fn doc(&self) -> &'static str;
    fn keys(&self) -> Vec<&'static About>;
    fn one_of(&self) -> &'static [&'static str];

    fn names(&self) -> Vec<&'static str> {
        self.keys().iter().map(|about| about.name).collect()
    }
}

impl<D, S> Described for Section<D, S> {
    fn title(&self) -> &'static str {
        self.title
    }

    fn doc(&self) -> &'static str {
        self.doc
    }

    fn keys(&self) -> Vec<&'static About> {
        self.keys.iter().map(|key| &key.about).collect()
    }

    fn one_of(&self) -> &'static [&'static str] {
        self.one_of
    }
}

impl<D, S> Section<D, S> {
    pub(super) const fn new(title: &'static str, doc: &'static str, keys: &'static [Key<D, S>]) -> Self {
        Self { title, doc, keys, one_of: &[] }
    }

    /// A section of whose keys `one_of` exactly one must be there.
    pub(super) const fn with_one_of(
        title: &'static str,
        doc: &'static str,
        one_of: &'static [&'static str],
        keys: &'static [Key<D, S>],
    ) -> Self {
        Self { title, doc, keys, one_of }
    }

    /// All settings of a checked spec, each with what amending it means.
    pub(super) fn settings(&self, of: &S) -> Vec<(String, String, Amend)> {
        let mut settings = Vec::new();
        for key in self.keys {
            match &key.show {
                Show::Never => {}
                Show::Value(value) => {
                    settings.extend(value(of).map(|value| (key.about.name.to_owned(), value, key.amend)));
                }
                Show::Below(parts) => {
                    let below = |name| format!("{}.{name}", key.about.name);
                    settings.extend(parts(of).into_iter().map(|(name, value)| (below(name), value, key.amend)));
                }
                Show::Parts(parts) => settings.extend(parts(of)),
            }
        }
        settings
    }
}

/// An entry of a table that shows in differences as one, if at all.
pub(super) const fn key<D>(
    name: &'static str,
    takes: Takes,
    preset: Preset,
    doc: &'static str,
    read: Read<D>,
) -> Key<D> {
    Key::new(name, takes, preset, doc, read)
}

impl<D, S> Key<D, S> {
    /// An entry. Unless more is said it shows in no difference, and amending it alters results.
    pub(super) const fn new(
        name: &'static str,
        takes: Takes,
        preset: Preset,
        doc: &'static str,
        read: Read<D>,
    ) -> Self {
        Self { about: About { name, takes, preset, doc }, read, show: Show::Never, amend: Amend::Results }
    }

    /// It shows in differences under its name.
    pub(super) const fn shown(mut self, value: fn(&S) -> Option<String>) -> Self {
        self.show = Show::Value(value);
        self
    }

    /// It shows in differences as these settings below its name.
    pub(super) const fn below(mut self, parts: fn(&S) -> Settings) -> Self {
        self.show = Show::Below(parts);
        self
    }

    /// It shows in differences as these settings, each with what amending it means.
    pub(super) const fn parts(mut self, parts: fn(&S) -> Vec<(String, String, Amend)>) -> Self {
        self.show = Show::Parts(parts);
        self
    }

    pub(super) const fn amended(mut self, amend: Amend) -> Self {
        self.amend = amend;
        self
    }
}

/// Takes a value over, if it is good.
pub(super) fn put<T>(slot: &mut T, value: Option<T>) -> Option<()> {
    *slot = value?;
    Some(())
}

impl Checker<'_> {
    /// Reads a section's table, key by key, and reports what is unknown or missing. `None`: it is no table.
    pub(super) fn section<'n, D, S>(
        &mut self,
        section: &'static Section<D, S>,
        node: &'n Node,
        place: &Location,
        into: &mut D,
    ) -> Option<Table<'n>> {
        self.titled(section, section.title, node, place, into)
    }

    /// [`Checker::section`] for a table that messages call otherwise.
    pub(super) fn titled<'n, D, S>(
        &mut self,
        section: &'static Section<D, S>,
        title: &str,
        node: &'n Node,
        place: &Location,
        into: &mut D,
    ) -> Option<Table<'n>> {
        let table = self.table(node, place, title, section)?;
        let said = self.keys(section, &table, into);
        self.required(section, &table, &said);
        Some(table)
    }

    /// Reads the keys that are there; their names.
    pub(super) fn keys<D, S>(
        &mut self,
        section: &'static Section<D, S>,
        table: &Table<'_>,
        into: &mut D,
    ) -> Vec<&'static str> {
        let mut said = Vec::new();
        for key in section.keys {
            if let Some((node, place)) = table.get(key.about.name) {
                said.push(key.about.name);
                self.incomplete |= (key.read)(self, node, &place, into).is_none();
            }
        }
        said
    }

    /// Reports the keys that must be there and are not.
    pub(super) fn required<D, S>(&mut self, section: &'static Section<D, S>, table: &Table<'_>, said: &[&str]) {
        for About { name, preset, .. } in section.keys.iter().map(|key| &key.about) {
            if let Preset::Required(help) = preset
                && !said.contains(name)
            {
                self.missing(table, name, help.map(str::to_owned));
            }
        }
    }
}

/// The keys of the study file's own sections, such as `stage.name`.
#[cfg(test)]
pub(crate) fn key_names() -> Vec<String> {
    use super::check::{BASE, ROOT, RUN, STUDY};
    let below = |title: &str, section: &dyn Described| {
        section.names().into_iter().map(|name| format!("{title}.{name}")).collect::<Vec<_>>()
    };
    let root = ROOT.names().into_iter().map(str::to_owned);
    let sections: [(&str, &dyn Described); 4] =
        [("study", &STUDY), ("run", &RUN), ("base", &BASE), ("stage", &super::stage::STAGE)];
    root.chain(sections.into_iter().flat_map(|(title, section)| below(title, section))).collect()
}

#[cfg(test)]
mod tests;
