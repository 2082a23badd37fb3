//! `[run.ray]` and `[run.slurm]`. Both are checked whichever is used, so that `executor` alone decides.

use std::collections::BTreeMap;

use super::super::diagnostics::{Diagnostic, Place};
use super::super::template::is_name;
use super::super::walk::{Checker, Keys, Table};
use crate::model::ExecutorKind;
use crate::spec::raw::{Entry, Kind, Node};
use crate::spec::{BEAT_MS, ExecutorSpec, LOST_AFTER_LEAST_MS, RaySpec, SlurmSpec};

const RAY_KEYS: Keys = &[
    "address",
    "runtime_env",
    "num_cpus",
    "num_gpus",
    "memory",
    "resources",
    "token",
    "setup",
    "program",
    "lost_after",
];
const SLURM_KEYS: Keys = &[
    "partition",
    "account",
    "qos",
    "time",
    "cpus",
    "mem",
    "gres",
    "array",
    "exclude",
    "export",
    "setup",
    "extra",
    "program",
    "lost_after",
];

impl Checker<'_> {
    /// The executor that `[run]` names, with its settings.
    pub(super) fn executor(&mut self, run: &Table<'_>) -> ExecutorSpec {
        let named = self.field(run, "executor", |c, n, p| c.named(n, p));
        let ray = self.field(run, "ray", Self::ray).or_default(RaySpec::default());
        let slurm = self.field(run, "slurm", Self::slurm).or_default(SlurmSpec::default());
        match named.or_default(ExecutorKind::Local) {
            ExecutorKind::Local => ExecutorSpec::Local,
            ExecutorKind::Ray => ExecutorSpec::Ray(ray),
            ExecutorKind::Slurm => ExecutorSpec::Slurm(slurm),
        }
    }

    fn ray(&mut self, node: &Node, place: &Place) -> Option<RaySpec> {
        let table = self.table(node, place, "`[run.ray]`", RAY_KEYS)?;
        let default = RaySpec::default();
        let address = self.field(&table, "address", Self::address);
        let runtime_env = self.field(&table, "runtime_env", Self::json_object);
        let num_cpus = self.field(&table, "num_cpus", Self::amount);
        let num_gpus = self.field(&table, "num_gpus", Self::amount);
        let memory = self.field(&table, "memory", |c, n, p| c.memory_limit(n, p));
        let resources = self.field(&table, "resources", Self::resources);
        let token = self.field(&table, "token", Self::token);
        let setup = self.field(&table, "setup", Self::setup);
        let program = self.field(&table, "program", |c, n, p| c.non_empty_text(n, p));
        let lost_after = self.field(&table, "lost_after", Self::lost_after);
        Some(RaySpec {
            address: address.or_default(default.address),
            runtime_env: runtime_env.or_default(default.runtime_env),
            num_cpus: num_cpus.or_default(default.num_cpus),
            num_gpus: num_gpus.or_default(default.num_gpus),
            memory_bytes: memory.into_good(),
            resources: resources.or_default(default.resources),
            token_env: token.into_good(),
            setup: setup.or_default(default.setup),
            program: program.into_good(),
            lost_after_ms: lost_after.or_default(default.lost_after_ms),
        })
    }

    fn slurm(&mut self, node: &Node, place: &Place) -> Option<SlurmSpec> {
        let table = self.table(node, place, "`[run.slurm]`", SLURM_KEYS)?;
        let default = SlurmSpec::default();
        let [partition, account, qos, gres, export] = ["partition", "account", "qos", "gres", "export"]
            .map(|key| self.field(&table, key, Self::option).into_good());
        let time = self.field(&table, "time", |c, n, p| c.duration(n, p, false));
        let cpus = self.field(&table, "cpus", |c, n, p| c.integer(n, p, 1..=super::WORKERS_MAX));
        let mem = self.field(&table, "mem", |c, n, p| c.memory_limit(n, p));
        let array = self.field(&table, "array", |c, n, p| c.boolean(n, p));
        let exclude = self.field(&table, "exclude", |c, n, p| c.texts(n, p, Self::option));
        let setup = self.field(&table, "setup", Self::setup);
        let extra = self.field(&table, "extra", |c, n, p| c.texts(n, p, |c, n, p| c.non_empty_text(n, p)));
        let program = self.field(&table, "program", |c, n, p| c.non_empty_text(n, p));
        let lost_after = self.field(&table, "lost_after", Self::lost_after);
        Some(SlurmSpec {
            partition,
            account,
            qos,
            gres,
            time_s: time.into_good().map(|ms| ms.div_ceil(1_000)),
            cpus: cpus.into_good().and_then(|cpus| u32::try_from(cpus).ok()),
            mem_bytes: mem.into_good(),
            array: array.or_default(default.array),
            exclude: exclude.or_default(default.exclude),
            export,
            setup: setup.or_default(default.setup),
            extra: extra.or_default(default.extra),
            program: program.into_good(),
            lost_after_ms: lost_after.or_default(default.lost_after_ms),
        })
    }

    /// Lines of shell.
    fn setup(&mut self, node: &Node, place: &Place) -> Option<Vec<String>> {
        self.texts(node, place, |checker, node, place| checker.non_empty_text(node, place))
    }

    /// A job that lives must not count as lost between two of its signs of life.
    fn lost_after(&mut self, node: &Node, place: &Place) -> Option<u64> {
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

    fn address(&mut self, node: &Node, place: &Place) -> Option<String> {
        let address = self.non_empty_text(node, place)?;
        if address == "local" || address.starts_with("http://") {
            return Some(address);
        }
        let help = match address.starts_with("https://") {
            true => "piton speaks plain HTTP: put a proxy or a tunnel in between",
            false => "such as \"http://127.0.0.1:8265\", or \"local\" for a head node of the study's own",
        };
        self.report(Diagnostic::at(place, "not an address of Ray's").label("no `http://` here").help(help));
        None
    }

    /// A token by the variable that holds it.
    fn token(&mut self, node: &Node, place: &Place) -> Option<String> {
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

    fn json_object(&mut self, node: &Node, place: &Place) -> Option<String> {
        self.open_table(node, place, "`runtime_env`")?;
        json_of(self, node, place).map(|json| json.to_string())
    }

    /// How much of something a trial takes.
    fn amount(&mut self, node: &Node, place: &Place) -> Option<f64> {
        let amount = self.float(node, place)?;
        if amount >= 0.0 {
            return Some(amount);
        }
        self.report(Diagnostic::at(place, "less than nothing").label("must be 0 or more"));
        None
    }

    fn resources(&mut self, node: &Node, place: &Place) -> Option<BTreeMap<String, f64>> {
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
    fn option(&mut self, node: &Node, place: &Place) -> Option<String> {
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
fn json_of(checker: &mut Checker<'_>, node: &Node, place: &Place) -> Option<serde_json::Value> {
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
