//! `[run.ray]` and `[run.slurm]`: the entries of their keys, and how they are read.

use std::collections::BTreeMap;

use super::super::diagnostics::{Diagnostic, Location};
use super::super::template::is_name;
use super::super::walk::Checker;
use crate::study_file::keys::{Least, NONE, Preset, Section, Takes, key, put};
use crate::study_file::raw::{Entry, Kind, Node};
use crate::study_file::{BEAT_MS, LOST_AFTER_LEAST_MS, RaySpec, SlurmSpec};

/// An amount of something.
const AMOUNT: Takes = Takes::Number(Least::Zero);
const ADDRESS: Takes =
    Takes::Form("^(local$|https?://)", "address, such as `\"http://head:8265\"`, or `\"local\"`");
/// A value of an option of `sbatch`.
const OPTION: Takes = Takes::Form(r"^[^-\s]\S*$", "name of Slurm's");
const LINES: Takes = Takes::Set(&Takes::Filled("line of shell"), 0);

/// `[run.ray]`.
#[rustfmt::skip] // Entry by entry: what it is, what it is for, how it is read, how it changes.
pub(in crate::study_file) static RAY: Section<RaySpec> = Section::new(
    "`[run.ray]`",
    "For `executor = \"ray\"`: each trial is a job of Ray's.",
    &[
        key("address", ADDRESS, Preset::Value("\"http://127.0.0.1:8265\""),
            "Ray's dashboard; `local` starts a head node for the study.",
            |c, n, p, d| put(&mut d.address, c.address(n, p))),
        key("runtime_env", Takes::Anything, NONE,
            "The jobs' runtime environment.",
            |c, n, p, d| put(&mut d.runtime_env, c.json_object(n, p))),
        key("num_cpus", AMOUNT, Preset::Value("1.0"),
            "CPUs that a trial takes.",
            |c, n, p, d| put(&mut d.num_cpus, c.amount(n, p))),
        key("num_gpus", AMOUNT, Preset::Value("0.0"),
            "GPUs that a trial takes.",
            |c, n, p, d| put(&mut d.num_gpus, c.amount(n, p))),
        key("memory", Takes::Size, NONE,
            "Memory that a trial reserves.",
            |c, n, p, d| put(&mut d.memory_bytes, c.memory_limit(n, p).map(Some))),
        key("resources", Takes::Map(&Takes::Text, &AMOUNT, 0), NONE,
            "Ray's custom resources that a trial takes.",
            |c, n, p, d| put(&mut d.resources, c.resources(n, p))),
        key("token", Takes::Form(r"^\$[A-Za-z_][A-Za-z0-9_]*$", "variable, such as `\"$RAY_AUTH_TOKEN\"`"), NONE,
            "The environment variable that holds the token.",
            |c, n, p, d| put(&mut d.token_env, c.token(n, p).map(Some))),
        key("setup", LINES, Preset::Value("[]"),
            SETUP,
            |c, n, p, d| put(&mut d.setup, c.setup(n, p))),
        key("program", Takes::Filled("path"), Preset::Words(COPY),
            PROGRAM,
            |c, n, p, d| put(&mut d.program, c.non_empty_text(n, p).map(Some))),
        key("lost_after", Takes::Duration, Preset::Value("\"90s\""),
            LOST_AFTER,
            |c, n, p, d| put(&mut d.lost_after_ms, c.lost_after(n, p))),
    ],
);

const SETUP: &str = "Lines of shell before each trial: what makes its tools be there.";
const PROGRAM: &str = "Where the nodes find piton.";
const COPY: &str = "a copy beside the artifacts";
const LOST_AFTER: &str =
    "A job that its cluster calls over counts as lost after so long without a sign of life; at least `\"15s\"`.";

/// `[run.slurm]`.
#[rustfmt::skip] // Entry by entry: what it is, what it is for, how it is read, how it changes.
pub(in crate::study_file) static SLURM: Section<SlurmSpec> = Section::new(
    "`[run.slurm]`",
    "For `executor = \"slurm\"`: each trial is a job of Slurm's, or a task of an array.",
    &[
        key("partition", OPTION, Preset::Words("Slurm's"),
            "`--partition`.",
            |c, n, p, d| put(&mut d.partition, c.option(n, p).map(Some))),
        key("account", OPTION, Preset::Words("Slurm's"),
            "`--account`.",
            |c, n, p, d| put(&mut d.account, c.option(n, p).map(Some))),
        key("qos", OPTION, Preset::Words("Slurm's"),
            "`--qos`.",
            |c, n, p, d| put(&mut d.qos, c.option(n, p).map(Some))),
        key("time", Takes::Duration, Preset::Words("Slurm's"),
            "`--time` of a trial.",
            |c, n, p, d| put(&mut d.time_s, c.duration(n, p, false).map(|ms| Some(ms.div_ceil(1_000))))),
        key("cpus", Takes::Integer(1, super::WORKERS_MAX), Preset::Words("Slurm's"),
            "`--cpus-per-task`.",
            |c, n, p, d| put(&mut d.cpus, c.whole(n, p, 1..=super::WORKERS_MAX).map(Some))),
        key("mem", Takes::Size, Preset::Words("Slurm's"),
            "`--mem` of a trial.",
            |c, n, p, d| put(&mut d.mem_bytes, c.memory_limit(n, p).map(Some))),
        key("gres", OPTION, NONE,
            "`--gres`.",
            |c, n, p, d| put(&mut d.gres, c.option(n, p).map(Some))),
        key("array", Takes::Flag, Preset::Value("false"),
            "Trials that are submitted together are one job array.",
            |c, n, p, d| put(&mut d.array, c.boolean(n, p))),
        key("exclude", Takes::Set(&OPTION, 0), Preset::Value("[]"),
            "Nodes that are not used: `--exclude`.",
            |c, n, p, d| put(&mut d.exclude, c.texts(n, p, Checker::option))),
        key("export", OPTION, Preset::Words("Slurm's"),
            "`--export`: what of this environment reaches the jobs.",
            |c, n, p, d| put(&mut d.export, c.option(n, p).map(Some))),
        key("setup", LINES, Preset::Value("[]"),
            SETUP,
            |c, n, p, d| put(&mut d.setup, c.setup(n, p))),
        key("extra", Takes::Set(&Takes::Filled("argument"), 0), Preset::Value("[]"),
            "Further arguments of `sbatch`.",
            |c, n, p, d| put(&mut d.extra, c.texts(n, p, |c, n, p| c.non_empty_text(n, p)))),
        key("program", Takes::Filled("path"), Preset::Words(COPY),
            PROGRAM,
            |c, n, p, d| put(&mut d.program, c.non_empty_text(n, p).map(Some))),
        key("lost_after", Takes::Duration, Preset::Value("\"90s\""),
            LOST_AFTER,
            |c, n, p, d| put(&mut d.lost_after_ms, c.lost_after(n, p))),
    ],
);

impl Checker<'_> {
    fn setup(&mut self, node: &Node, place: &Location) -> Option<Vec<String>> {
        self.texts(node, place, |checker, node, place| checker.non_empty_text(node, place))
    }

    /// A job that lives must not count as lost between two of its signs of life.
    fn lost_after(&mut self, node: &Node, place: &Location) -> Option<u64> {
        let ms = self.duration(node, place, false)?;
        if ms >= LOST_AFTER_LEAST_MS {
            return Some(ms);
        }
        let (beat_s, least_s) = (BEAT_MS / 1_000, LOST_AFTER_LEAST_MS / 1_000);
        let mistake = Diagnostic::at(place, "`lost_after` is too short");
        let label = format!("must be \"{least_s}s\" or more");
        let help = format!(
            "a job gives a sign of life every {beat_s} s: one that misses three may be lost, one that misses fewer may \
             still run, and its trial would run twice"
        );
        self.report(mistake.label(label).help(help));
        None
    }

    fn address(&mut self, node: &Node, place: &Location) -> Option<String> {
        let address = self.non_empty_text(node, place)?;
        if address == "local" || ["http://", "https://"].iter().any(|scheme| address.starts_with(scheme)) {
            return Some(address);
        }
        let mistake = Diagnostic::at(place, "not an address of Ray's").label("no `http://` or `https://` here");
        let help = "such as \"http://127.0.0.1:8265\", or \"local\" for a head node of the study's own";
        self.report(mistake.help(help));
        None
    }

    /// A token by the variable that holds it.
    fn token(&mut self, node: &Node, place: &Location) -> Option<String> {
        let text = self.non_empty_text(node, place)?;
        match text.strip_prefix('$').filter(|name| is_name(name)) {
            Some(name) => Some(name.to_owned()),
            None => {
                let mistake = Diagnostic::at(place, "a study file is no place for a secret");
                let help = "name the environment variable that holds it, such as \"$RAY_AUTH_TOKEN\"";
                self.report(mistake.label("stores keep what it says, and commands show it").help(help));
                None
            }
        }
    }

    fn json_object(&mut self, node: &Node, place: &Location) -> Option<String> {
        self.open_table(node, place, "`runtime_env`")?;
        json_of(self, node, place).map(|json| json.to_string())
    }

    /// How much of something a trial takes.
    fn amount(&mut self, node: &Node, place: &Location) -> Option<f64> {
        let amount = self.float(node, place)?;
        if amount >= 0.0 {
            return Some(amount);
        }
        self.report(Diagnostic::at(place, "less than nothing").label("must be 0 or more"));
        None
    }

    fn resources(&mut self, node: &Node, place: &Location) -> Option<BTreeMap<String, f64>> {
        let table = self.open_table(node, place, "`resources`")?;
        let mut resources = BTreeMap::new();
        for entry in table.entries {
            let place = table.place.below(&entry.key, entry.node.span.clone());
            if let Some(amount) = self.amount(&entry.node, &place) {
                resources.insert(entry.key.clone(), amount);
            }
        }
        Some(resources)
    }

    /// A value of an option of `sbatch`.
    fn option(&mut self, node: &Node, place: &Location) -> Option<String> {
        let text = self.non_empty_text(node, place)?;
        if text.starts_with('-') || text.chars().any(|char| char.is_whitespace() || char.is_control()) {
            let mistake = Diagnostic::at(place, "not a name of Slurm's").label("no name looks like this");
            self.report(mistake.help("further arguments for `sbatch` go to `extra`"));
            return None;
        }
        Some(text)
    }
}

/// A value as JSON, which has no dates.
fn json_of(checker: &mut Checker<'_>, node: &Node, place: &Location) -> Option<serde_json::Value> {
    Some(match &node.kind {
        Kind::Array(items) => {
            let items = items.iter().map(|item| json_of(checker, item, &place.with_span(item.span.clone())));
            items.collect::<Option<_>>()?
        }
        Kind::Table(entries) => {
            let of = |entry: &Entry| {
                let place = place.below(&entry.key, entry.node.span.clone());
                Some((entry.key.clone(), json_of(checker, &entry.node, &place)?))
            };
            entries.iter().map(of).collect::<Option<_>>()?
        }
        Kind::Datetime | Kind::Millis(_) | Kind::Closure => serde_json::Value::Null,
        _ => serde_json::to_value(checker.value(node, place)?).ok()?,
    })
}
