//! Studies built in code.
//!
//! A builder writes down the same raw tree a study file gives, and the same checks judge it: what a study file
//! cannot say, code cannot say either. Closures stay with their stages until the study is built. Mistakes are named by
//! path. Nothing fails before `build`.

mod replicas;
mod reuse;
mod watching;

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::error::Error;
use crate::executor::local::closure::{ClosureFn, IntoMetrics, TrialContext, TrialError, closure_fn};
use crate::model::Keep;
use crate::study::Study;
use crate::study_file::raw::{Entry, Kind, Node};
use crate::study_file::{
    Diagnostics, ExecutorSpec, FailureMatch, FailureRule, MetricRule, Objective, Proposer, RaySpec, Retries,
    Sampling, Selection, SlurmSpec, Spec, SpecErrors, SpecValue, Values, check,
};

/// Builds a [`Study`]; see [`Study::builder`].
#[derive(Clone)]
#[must_use]
pub struct StudyBuilder {
    study: Vec<Entry>,
    tags: Vec<Node>,
    inputs: Vec<Node>,
    inputs_ignore: Vec<Node>,
    versions: Vec<Entry>,
    params: Vec<Entry>,
    env: Vec<Entry>,
    run: Vec<Entry>,
    resources: Vec<Entry>,
    rails: Vec<Entry>,
    base: Vec<Entry>,
    stages: Vec<Node>,
    closures: Vec<(String, ClosureFn)>,
}

impl Study {
    /// Starts a study in code.
    ///
    /// ```
    /// use piton::{Range, Stage, Study};
    ///
    /// let stage = Stage::argv("explore", ["./synthesise.sh", "{abc}", "{clock}"])
    ///     .budget(10)
    ///     .survivors(2)
    ///     .choices("abc", ["speed", "area"])
    ///     .range("clock", Range::float(0.4..=0.8).steps(5))
    ///     .minimize("area");
    /// let study = Study::builder("tune").seed(7).param("design", "x").stage(stage).build()?;
    /// # Ok::<(), piton::Error>(())
    /// ```
    pub fn builder(name: &str) -> StudyBuilder {
        StudyBuilder {
            study: vec![entry("name", text(name))],
            tags: Vec::new(),
            inputs: Vec::new(),
            inputs_ignore: Vec::new(),
            versions: Vec::new(),
            params: Vec::new(),
            env: Vec::new(),
            run: Vec::new(),
            resources: Vec::new(),
            rails: Vec::new(),
            base: Vec::new(),
            stages: Vec::new(),
            closures: Vec::new(),
        }
    }
}

impl std::fmt::Debug for StudyBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StudyBuilder").field("study", &self.study).finish_non_exhaustive()
    }
}

impl StudyBuilder {
    /// Cases are `<base_case>_<stage_index>_<derived_index>`; by default the study's name.
    pub fn base_case(mut self, name: &str) -> Self {
        set(&mut self.study, "base_case", text(name));
        self
    }

    /// Drives every random choice; 0 by default.
    pub fn seed(mut self, seed: u64) -> Self {
        set(&mut self.study, "seed", Node::new(Kind::Int(seed.into())));
        self
    }

    /// For people.
    pub fn description(mut self, description: &str) -> Self {
        set(&mut self.study, "description", text(description));
        self
    }

    /// For people.
    pub fn author(mut self, author: &str) -> Self {
        set(&mut self.study, "author", text(author));
        self
    }

    /// For people; one more each time.
    pub fn tag(mut self, tag: &str) -> Self {
        self.tags.push(text(tag));
        self
    }

    /// A file or directory hashed at creation; one more each time.
    pub fn input(mut self, path: &str) -> Self {
        self.inputs.push(text(path));
        self
    }

    /// A pattern of what is left out of input directories; one more each time.
    pub fn ignore_input(mut self, pattern: &str) -> Self {
        self.inputs_ignore.push(text(pattern));
        self
    }

    /// A tool whose version belongs to the study, and the program with its arguments that prints it.
    pub fn version(mut self, tool: &str, command: &[&str]) -> Self {
        let words = command.iter().map(|word| text(word)).collect();
        set(&mut self.versions, tool, Node::new(Kind::Array(words)));
        self
    }

    /// A constant every trial sees.
    pub fn param(mut self, name: &str, value: impl Into<SpecValue>) -> Self {
        set(&mut self.params, name, value_node(value.into()));
        self
    }

    /// A variable of every trial's environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        set(&mut self.env, name, text(value));
        self
    }

    /// Trials at once; by default the number of CPUs.
    pub fn workers(mut self, workers: u32) -> Self {
        set(&mut self.run, "workers", Node::new(Kind::Int(workers.into())));
        self
    }

    /// From TERM to KILL; 10 s by default.
    pub fn grace(mut self, grace: Duration) -> Self {
        set(&mut self.run, "grace", Node::new(Kind::Millis(grace.as_millis())));
        self
    }

    /// How long finished trials may wait for the commit that keeps them, so that more share one; 0 by default. What ended
    /// in the last so long before a crash runs again.
    pub fn sync_interval(mut self, interval: Duration) -> Self {
        set(&mut self.run, "sync_interval", Node::new(Kind::Millis(interval.as_millis())));
        self
    }

    /// Trials of stages that [need](Stage::needs) it share these things, such as cards.
    pub fn items<S: AsRef<str>>(mut self, pool: &str, items: impl IntoIterator<Item = S>) -> Self {
        let items = items.into_iter().map(|item| text(item.as_ref())).collect();
        set(&mut self.resources, pool, Node::new(Kind::Array(items)));
        self
    }

    /// Trials of stages that [need](Stage::needs) it share so much of a pool, such as licences, or `cpus` and `memory` (bytes), which are the
    /// machine's unless said.
    pub fn resource(mut self, pool: &str, amount: u64) -> Self {
        set(&mut self.resources, pool, Node::new(Kind::Int(amount.into())));
        self
    }

    /// Where trials run; on this machine unless said.
    pub fn executor(mut self, executor: ExecutorSpec) -> Self {
        set(&mut self.run, "executor", text(executor.kind().name()));
        match executor {
            ExecutorSpec::Local => {}
            ExecutorSpec::Ray(ray) => set(&mut self.run, "ray", ray_node(ray)),
            ExecutorSpec::Slurm(slurm) => set(&mut self.run, "slurm", slurm_node(slurm)),
        }
        self
    }

    /// Aborts the study once its runs have lasted this long together.
    pub fn max_runtime(mut self, limit: Duration) -> Self {
        set(&mut self.rails, "max_runtime", Node::new(Kind::Millis(limit.as_millis())));
        self
    }

    /// Aborts the study at this many failed trials of [`Severity::Catastrophic`](crate::model::Severity).
    pub fn catastrophic_failures(mut self, count: u64) -> Self {
        set(&mut self.rails, "catastrophic_failures", Node::new(Kind::Int(count.into())));
        self
    }

    /// A program with arguments that must succeed once before the first stage; placeholders as in a study file.
    pub fn base_argv<S: AsRef<str>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        let words = words.into_iter().map(|word| text(word.as_ref())).collect();
        set(&mut self.base, "command", Node::new(Kind::Array(words)));
        self
    }

    /// A line for `sh -c` that must succeed once before the first stage; placeholders as in a study file.
    pub fn base_shell(mut self, line: &str) -> Self {
        set(&mut self.base, "command", text(line));
        self
    }

    /// TERM to the base command after this long; never by default.
    pub fn base_timeout(mut self, timeout: Duration) -> Self {
        set(&mut self.base, "timeout", Node::new(Kind::Millis(timeout.as_millis())));
        self
    }

    /// The next stage.
    pub fn stage(mut self, mut stage: Stage) -> Self {
        let name = stage.keys.iter().find(|entry| entry.key == "name").map(|entry| &entry.node.kind);
        if let (Some(Kind::Str(name)), Some(run)) = (name, stage.closure.take()) {
            self.closures.push((name.clone(), run));
        }
        self.stages.push(stage.node());
        self
    }

    /// Checks it all. The study's store is `<name>.redb` in the current directory unless [`Study::store`] says otherwise.
    ///
    /// # Errors
    /// [`Error::Spec`] with every mistake, named by its path.
    pub fn build(mut self) -> Result<Study, Error> {
        let closures = std::mem::take(&mut self.closures);
        let study = Study::new(self.spec().map_err(|mistakes| Error::Spec(Box::new(mistakes)))?);
        Ok(closures.into_iter().fold(study, |study, (stage, run)| study.with_closure(stage, run)))
    }

    /// What the study is, checked, without its closures: for [`Study::new`], or to look at.
    ///
    /// # Errors
    /// Every mistake, named by its path.
    pub fn spec(self) -> Result<Spec, SpecErrors> {
        let mut study = self.study;
        put_list(&mut study, "tags", self.tags);
        put_list(&mut study, "inputs", self.inputs);
        put_list(&mut study, "inputs_ignore", self.inputs_ignore);
        if !self.versions.is_empty() {
            study.push(entry("versions", table(self.versions)));
        }
        let mut root = vec![entry("study", table(study))];
        for (key, entries) in [
            ("params", self.params),
            ("env", self.env),
            ("run", self.run),
            ("resources", self.resources),
            ("rails", self.rails),
            ("base", self.base),
        ] {
            if !entries.is_empty() {
                root.push(entry(key, table(entries)));
            }
        }
        put_list(&mut root, "stage", self.stages);
        check("", &table(root), &[], (None, Values::Exact)).map_err(|found| Diagnostics::new("", "", found))
    }
}

/// A stage of a [`StudyBuilder`]; `budget` and `survivors` are required.
#[derive(Clone)]
#[must_use]
pub struct Stage {
    closure: Option<ClosureFn>,
    keys: Vec<Entry>,
    inputs: Vec<Node>,
    outputs: Vec<Node>,
    sweep: Vec<Entry>,
    objectives: Vec<Node>,
    metrics: Vec<Entry>,
    abort_if: Vec<Node>,
    require: Vec<Node>,
    max_failure_rate: Option<f64>,
    improve_within: Option<u64>,
    failures: Vec<Node>,
    halving: Vec<Entry>,
    race: Vec<Entry>,
    stop_if: Vec<Node>,
    needs: Vec<Entry>,
}

impl std::fmt::Debug for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stage").field("keys", &self.keys).finish_non_exhaustive()
    }
}

impl Stage {
    fn new(name: &str, command: Node) -> Self {
        Self {
            closure: None,
            keys: vec![entry("name", text(name)), entry("command", command)],
            inputs: Vec::new(),
            outputs: Vec::new(),
            sweep: Vec::new(),
            objectives: Vec::new(),
            metrics: Vec::new(),
            abort_if: Vec::new(),
            require: Vec::new(),
            max_failure_rate: None,
            improve_within: None,
            failures: Vec::new(),
            halving: Vec::new(),
            race: Vec::new(),
            stop_if: Vec::new(),
            needs: Vec::new(),
        }
    }

    /// A stage whose trials are a closure: it gets the trial's params and gives its metrics. A panic in it fails the
    /// trial, nothing else.
    pub fn closure<M: IntoMetrics>(
        name: &str,
        run: impl Fn(&TrialContext<'_>) -> Result<M, TrialError> + Send + Sync + 'static,
    ) -> Self {
        Self { closure: Some(closure_fn(run)), ..Self::unbound(name) }
    }

    /// A stage whose trials are a closure that [`Study::closure`] gives, for a spec without the program that runs it.
    pub fn unbound(name: &str) -> Self {
        Self::new(name, Node::new(Kind::Closure))
    }

    /// A stage whose trials are a program with arguments, no shell; placeholders as in a study file.
    pub fn argv<S: AsRef<str>>(name: &str, words: impl IntoIterator<Item = S>) -> Self {
        let words = words.into_iter().map(|word| text(word.as_ref())).collect();
        Self::new(name, Node::new(Kind::Array(words)))
    }

    /// A stage whose trials are a line for `sh -c`; placeholders as in a study file.
    pub fn shell(name: &str, line: &str) -> Self {
        Self::new(name, text(line))
    }

    /// At most this many trials; required.
    pub fn budget(self, trials: u64) -> Self {
        self.key("trial_budget", Kind::Int(trials.into()))
    }

    /// At most this many survive; required.
    pub fn survivors(self, cases: u64) -> Self {
        self.key("survivor_count", Kind::Int(cases.into()))
    }

    /// Where values come from; the grid by default. A file of cases is read later,
    /// whatever cases are given here.
    pub fn sampling(self, sampling: Sampling) -> Self {
        match sampling {
            Sampling::File(file) => self.case_file_renamed(&file.path, file.rename),
            Sampling::Ask(proposer) => self.proposer(proposer),
            plain => {
                let word = Sampling::WORDS.iter().find(|(_, named)| *named == plain).map_or("", |(word, _)| word);
                self.key("sampling", text(word).kind)
            }
        }
    }

    /// Cases come from this file, `….csv` or `….jsonl`, relative to the study's directory.
    pub fn case_file(self, path: &str) -> Self {
        self.case_file_renamed(path, [])
    }

    /// [`Stage::case_file`], some of whose columns give params of other names: pairs of column and param.
    pub fn case_file_renamed(self, path: &str, rename: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut keys = vec![entry("file", text(path))];
        let renamed: Vec<Entry> = rename.into_iter().map(|(column, param)| entry(&column, text(&param))).collect();
        if !renamed.is_empty() {
            keys.push(entry("rename", Node::new(Kind::Table(renamed))));
        }
        self.key("sampling", Kind::Table(keys))
    }

    /// Cases are proposed by a program, from the ranges and choices of the sweep.
    fn proposer(self, proposer: Proposer) -> Self {
        let words = proposer.command.iter().map(|word| text(word)).collect();
        let ask = entry("ask", Node::new(Kind::Array(words)));
        let parallel = entry("parallel", Node::new(Kind::Int(proposer.parallel.into())));
        self.key("sampling", Kind::Table(vec![ask, parallel]))
    }

    /// How survivors are chosen; `top` by default.
    pub fn selection(self, selection: Selection) -> Self {
        self.key("selection", Kind::Str(selection.name().into()))
    }

    /// TERM after this long; never by default.
    pub fn timeout(self, timeout: Duration) -> Self {
        self.key("timeout", Kind::Millis(timeout.as_millis()))
    }

    /// Further attempts after failed ones, with the usual delays.
    pub fn retries(self, count: u32) -> Self {
        self.key("retries", Kind::Int(count.into()))
    }

    /// Further attempts after failed ones.
    pub fn retry_policy(self, retries: &Retries) -> Self {
        self.key(
            "retries",
            Kind::Table(vec![
                entry("count", Node::new(Kind::Int(retries.count.into()))),
                entry("backoff", text(retries.backoff.name())),
                entry("delay", Node::new(Kind::Millis(retries.delay_ms.into()))),
                entry("max_delay", Node::new(Kind::Millis(retries.max_delay_ms.into()))),
                entry("jitter", Node::new(Kind::Bool(retries.jitter))),
            ]),
        )
    }

    /// Memory one trial may take, in bytes; no limit by default.
    pub fn memory_limit(self, bytes: u64) -> Self {
        self.key("memory_limit", Kind::Int(bytes.into()))
    }

    /// Most of its trials that run at once; as many as there are workers unless said. No result depends on it.
    pub fn workers(self, trials: u32) -> Self {
        self.key("workers", Kind::Int(trials.into()))
    }

    /// A trial starts when so much of this pool is free, and has it until it ends; one more pool each time. Of `memory` the amount is in bytes.
    pub fn needs(mut self, pool: &str, amount: u64) -> Self {
        set(&mut self.needs, pool, Node::new(Kind::Int(amount.into())));
        self
    }

    /// The study waits for `piton approve` before this stage.
    pub fn approve(self) -> Self {
        self.key("approve", Kind::Bool(true))
    }

    /// How much stays of the directories of its trials, once it has closed and no trial to come needs them: everything, unless this
    /// says less.
    pub fn keep(self, keep: Keep) -> Self {
        let parts = keep.parts().into_iter().map(|(name, kept)| entry(name, text(kept.name())));
        self.key("keep", table(parts.collect()).kind)
    }

    /// Any key of `[[stage]]`, by its name and with its value as a study file has them: `.set("timeout", "90s")`. What a
    /// setter of its own says of a list or a table replaces it.
    pub fn set(self, key: &str, value: impl Into<SpecValue>) -> Self {
        self.key(key, Node::of_value(value.into().0).kind)
    }

    /// Aborts the study when a trial's metric is below this bound; one more each time.
    pub fn abort_below(self, metric: &str, bound: f64) -> Self {
        self.abort_if(metric, "below", bound)
    }

    /// Aborts the study when a trial's metric is above this bound; one more each time.
    pub fn abort_above(self, metric: &str, bound: f64) -> Self {
        self.abort_if(metric, "above", bound)
    }

    fn abort_if(mut self, metric: &str, side: &str, bound: f64) -> Self {
        self.abort_if.push(bounded(metric, side, bound));
        self
    }

    /// So many cases that could have survived and did not go on, too, drawn by the study's seed: what selection would have lost is
    /// measured by them. They are no survivors. Not in the last stage.
    pub fn explore(self, cases: u64) -> Self {
        self.key("explore", Kind::Int(cases.into()))
    }

    /// Only cases whose metric is at least this survive; one more requirement each time.
    pub fn require_at_least(mut self, metric: &str, bound: f64) -> Self {
        self.require.push(bounded(metric, "at_least", bound));
        self
    }

    /// Only cases whose metric is at most this survive; one more requirement each time.
    pub fn require_at_most(mut self, metric: &str, bound: f64) -> Self {
        self.require.push(bounded(metric, "at_most", bound));
        self
    }

    /// Ends the stage after so many finished trials in a row, in the order of their numbers, that brought nothing better: its best survive.
    pub fn improve_within(mut self, trials: u64) -> Self {
        self.improve_within = Some(trials);
        self
    }

    /// Aborts the study when more than this share of the finished trials, in `(0, 1]`, failed.
    pub fn max_failure_rate(mut self, rate: f64) -> Self {
        self.max_failure_rate = Some(rate);
        self
    }

    /// How to name failures; one more each time, the first match counts.
    pub fn failure(mut self, rule: &FailureRule) -> Self {
        let when = match &rule.when {
            FailureMatch::Log(pattern) => entry("log", text(pattern)),
            FailureMatch::ExitCode(code) => entry("exit_code", Node::new(Kind::Int((*code).into()))),
            FailureMatch::Signal(name) => entry("signal", text(name)),
        };
        let severity = entry("severity", text(rule.severity.name()));
        let retryable = entry("retryable", Node::new(Kind::Bool(rule.retryable)));
        self.failures.push(table(vec![entry("kind", text(rule.kind.name())), when, severity, retryable]));
        self
    }

    /// The rules of a built-in set, such as `eda`, after those of [`Stage::failure`].
    pub fn failures(self, set: &str) -> Self {
        self.key("failures", text(set).kind)
    }

    /// A file that must exist after success; one more each time.
    pub fn output(mut self, path: &str) -> Self {
        self.outputs.push(text(path));
        self
    }

    /// Sweeps a param over these values, in order.
    pub fn choices<V: Into<SpecValue>>(self, name: &str, values: impl IntoIterator<Item = V>) -> Self {
        let values = values.into_iter().map(|value| value_node(value.into())).collect();
        self.swept(name, Kind::Array(values))
    }

    /// Sweeps a param over a range.
    pub fn range(self, name: &str, range: Range) -> Self {
        let Range { ends: (min, max), kind, steps, log } = range;
        let mut entries = vec![entry("min", Node::new(min)), entry("max", Node::new(max))];
        entries.push(entry("type", text(kind)));
        entries.extend(steps.map(|steps| entry("steps", Node::new(Kind::Int(steps.into())))));
        entries.push(entry("log", Node::new(Kind::Bool(log))));
        self.swept(name, Kind::Table(entries))
    }

    /// An objective: the larger, the better.
    pub fn maximize(self, metric: &str) -> Self {
        self.objective(Objective::maximize(metric))
    }

    /// An objective: the smaller, the better.
    pub fn minimize(self, metric: &str) -> Self {
        self.objective(Objective::minimize(metric))
    }

    /// An objective; one more each time.
    pub fn objective(mut self, objective: Objective) -> Self {
        let Objective { metric, goal, weight } = objective;
        let mut entries = vec![entry("metric", text(&metric)), entry("goal", text(goal.name()))];
        entries.extend(weight.map(|weight| entry("weight", Node::new(Kind::Float(weight)))));
        self.objectives.push(table(entries));
        self
    }

    /// A metric read out of a file that the trial wrote.
    pub fn metric(mut self, name: &str, rule: &MetricRule) -> Self {
        let scale = entry("scale", Node::new(Kind::Float(rule.scale)));
        let rule = table(vec![entry("file", text(&rule.file)), entry("regex", text(&rule.regex)), scale]);
        set(&mut self.metrics, name, rule);
        self
    }

    fn key(mut self, key: &str, kind: Kind) -> Self {
        set(&mut self.keys, key, Node::new(kind));
        self
    }

    fn swept(mut self, name: &str, kind: Kind) -> Self {
        set(&mut self.sweep, name, Node::new(kind));
        self
    }

    fn node(self) -> Node {
        let mut keys = self.keys;
        put_list(&mut keys, "inputs", self.inputs);
        put_list(&mut keys, "outputs", self.outputs);
        put_list(&mut keys, "objective", self.objectives);
        put_list(&mut keys, "failure", self.failures);
        put_list(&mut keys, "stop_if", self.stop_if);
        put_list(&mut keys, "require", self.require);
        let mut rails: Vec<Entry> = Vec::new();
        put_list(&mut rails, "abort_if", self.abort_if);
        rails.extend(
            self.improve_within.map(|trials| entry("improve_within", Node::new(Kind::Int(trials.into())))),
        );
        rails.extend(self.max_failure_rate.map(|rate| entry("max_failure_rate", Node::new(Kind::Float(rate)))));
        for (key, entries) in [
            ("sweep", self.sweep),
            ("metrics", self.metrics),
            ("rails", rails),
            ("halving", self.halving),
            ("race", self.race),
            ("needs", self.needs),
        ] {
            if !entries.is_empty() {
                set(&mut keys, key, table(entries));
            }
        }
        table(keys)
    }
}

/// A range of numbers that a param is swept over, both ends included.
///
/// ```
/// use piton::Range;
///
/// let nine_points = Range::float(-2.0..=2.0).steps(9);
/// let rates = Range::float(1e-5..=1e-1).log();   // to draw from; a grid of floats needs `steps`
/// let efforts = Range::int(1..=8);               // every integer
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Range {
    ends: (Kind, Kind),
    kind: &'static str,
    steps: Option<u64>,
    log: bool,
}

impl Range {
    /// Of floats; a grid needs [`Range::steps`].
    pub fn float(ends: RangeInclusive<f64>) -> Self {
        let (min, max) = ends.into_inner();
        Self { ends: (Kind::Float(min), Kind::Float(max)), kind: "float", steps: None, log: false }
    }

    /// Of integers; a grid has every one of them unless [`Range::steps`] says how many.
    pub fn int(ends: RangeInclusive<i64>) -> Self {
        let (min, max) = ends.into_inner();
        Self { ends: (Kind::Int(min.into()), Kind::Int(max.into())), kind: "int", steps: None, log: false }
    }

    /// So many values on a grid, evenly spread.
    pub fn steps(self, steps: u64) -> Self {
        Self { steps: Some(steps), ..self }
    }

    /// Evenly spread on a log scale; the ends are above zero.
    pub fn log(self) -> Self {
        Self { log: true, ..self }
    }
}

fn entry(key: &str, node: Node) -> Entry {
    Entry { key: key.to_owned(), key_span: None, node }
}

/// Adds a key, or replaces its value.
fn set(entries: &mut Vec<Entry>, key: &str, node: Node) {
    match entries.iter_mut().find(|entry| entry.key == key) {
        Some(entry) => entry.node = node,
        None => entries.push(entry(key, node)),
    }
}

fn put_list(entries: &mut Vec<Entry>, key: &str, list: Vec<Node>) {
    if !list.is_empty() {
        set(entries, key, Node::new(Kind::Array(list)));
    }
}

/// A metric and its bound on this side.
fn bounded(metric: &str, side: &str, bound: f64) -> Node {
    table(vec![entry("metric", text(metric)), entry(side, Node::new(Kind::Float(bound)))])
}

fn table(entries: Vec<Entry>) -> Node {
    Node::new(Kind::Table(entries))
}

fn text(text: &str) -> Node {
    Node::new(Kind::Str(text.to_owned()))
}

fn ray_node(ray: RaySpec) -> Node {
    let number = |number: f64| Node::new(Kind::Float(number));
    let resources = ray.resources.iter().map(|(name, quantity)| entry(name, number(*quantity))).collect();
    let runtime_env = serde_json::from_str(&ray.runtime_env).ok().and_then(json_node);
    let mut keys = vec![
        entry("address", text(&ray.address)),
        // What is no JSON is refused as the text it is.
        entry("runtime_env", runtime_env.unwrap_or_else(|| text(&ray.runtime_env))),
        entry("num_cpus", number(ray.num_cpus)),
        entry("num_gpus", number(ray.num_gpus)),
        entry("resources", table(resources)),
        entry("lost_after", Node::new(Kind::Millis(ray.lost_after_ms.into()))),
    ];
    keys.extend(ray.memory_bytes.map(|bytes| entry("memory", Node::new(Kind::Int(bytes.into())))));
    put_list(&mut keys, "setup", ray.setup.iter().map(|line| text(line)).collect());
    keys.extend(ray.token_env.map(|name| entry("token", text(&format!("${name}")))));
    keys.extend(ray.program.map(|program| entry("program", text(&program))));
    table(keys)
}

fn slurm_node(slurm: SlurmSpec) -> Node {
    let SlurmSpec { partition, account, qos, time_s, cpus, mem_bytes, gres, array, .. } = slurm;
    let SlurmSpec { exclude, export, setup, extra, program, lost_after_ms, .. } = slurm;
    let texts = [
        ("partition", partition),
        ("account", account),
        ("qos", qos),
        ("gres", gres),
        ("export", export),
        ("program", program),
    ];
    let mut keys = vec![
        entry("array", Node::new(Kind::Bool(array))),
        entry("lost_after", Node::new(Kind::Millis(lost_after_ms.into()))),
    ];
    keys.extend(texts.into_iter().filter_map(|(key, value)| Some(entry(key, text(&value?)))));
    keys.extend(time_s.map(|seconds| entry("time", Node::new(Kind::Millis(u128::from(seconds) * 1_000)))));
    keys.extend(cpus.map(|cpus| entry("cpus", Node::new(Kind::Int(cpus.into())))));
    keys.extend(mem_bytes.map(|bytes| entry("mem", Node::new(Kind::Int(bytes.into())))));
    put_list(&mut keys, "exclude", exclude.iter().map(|node| text(node)).collect());
    put_list(&mut keys, "setup", setup.iter().map(|line| text(line)).collect());
    put_list(&mut keys, "extra", extra.iter().map(|argument| text(argument)).collect());
    table(keys)
}

/// The node of a JSON value; `None` for one with a `null`, which a study file cannot say.
fn json_node(value: serde_json::Value) -> Option<Node> {
    use serde_json::Value as Json;
    Some(Node::new(match value {
        Json::Null => return None,
        Json::Bool(flag) => Kind::Bool(flag),
        Json::Number(number) => match number.as_i128() {
            Some(integer) => Kind::Int(integer),
            None => Kind::Float(number.as_f64()?),
        },
        Json::String(text) => Kind::Str(text),
        Json::Array(values) => Kind::Array(values.into_iter().map(json_node).collect::<Option<_>>()?),
        Json::Object(values) => {
            let entries = values.into_iter().map(|(key, value)| Some(entry(&key, json_node(value)?)));
            Kind::Table(entries.collect::<Option<_>>()?)
        }
    }))
}

fn value_node(value: SpecValue) -> Node {
    Node::of_value(value.0)
}
