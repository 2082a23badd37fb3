use crate::{Stage, Study};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::model::{Severity, Value};
use crate::study_file::keys::Described;
use crate::study_file::stage::STAGE;
use crate::study_file::{
    Backoff, Bound, Domain, ExecutorSpec, FailureMatch, FailureRule, Goal, MetricBound, Part, Pool, Rails,
    RaySpec, Retries, RunSpec, Sampling, Selection, SlurmSpec, SpecValue, StageRails, Template, Work, diff,
    run_differences,
};

mod identity;
mod reuse;
mod schema;

/// The contract's example, as far as this version goes.
const EXAMPLE: &str = r#"
[study]
name        = "gcd_timing"
base_case   = "gcd"
seed        = 7
description = "…"
tags        = ["a", "b"]
inputs      = ["rtl/gcd.v"]

[params]
design = "rtl/gcd.v"

[env]
OMP_NUM_THREADS = "1"

[run]
workers  = 2
executor = "local"
grace    = "5s"
sync_interval = "1500ms"
on_event = ["./told.sh", "x"]

[rails]
max_runtime           = "8h"
catastrophic_failures = 3

[base]
command = ["./synth.sh", "{design}", "--check"]
timeout = "1m"

[defaults]
timeout = "30m"
retries = 1

[[stage]]
name           = "explore"
command        = ["./synth.sh", "{design}", "{clock_ns}"]
trial_budget   = 24
survivor_count = 6
sampling       = "grid"
selection      = "top"
retries        = { count = 2, backoff = "linear", delay = "2s", max_delay = "1m", jitter = false }
outputs        = ["netlist.v"]
memory_limit   = "4GiB"
[stage.sweep]
abc      = ["speed", "area"]
clock_ns = { min = 0.4, max = 0.8, steps = 5 }
effort   = { min = 1, max = 8, type = "int" }
rate     = { min = 1e-5, max = 1e-1, log = true, steps = 5 }
[[stage.objective]]
metric = "wns_ps"
goal   = "maximize"
[stage.metrics]
wns_ps = { file = "sta.rpt", regex = 'wns\s+(-?[0-9.]+)', scale = 1000 }
[stage.rails]
abort_if         = [{ metric = "wns_ps", below = -5000 }]
max_failure_rate = 0.5
[[stage.failure]]
kind = "missing_cell"
log  = 'Error: .*module .* not found'
severity  = "high"
retryable = false
[[stage.failure]]
kind = "crash"
signal = "segv"

[[stage]]
name           = "refine"
command        = "./refine.sh {parent_dir} {abc} > log"
trial_budget   = 8
survivor_count = 1
sampling       = "random"
timeout        = "1h30m"
selection      = "weighted_sum"
approve        = true
[stage.sweep]
temp = { min = -1, max = 1 }
[[stage.objective]]
metric = "area"
goal   = "minimize"
weight = 0.4
[[stage.objective]]
metric = "wns_ps"
goal   = "maximize"
weight = 0.6
"#;

fn good(text: &str) -> Spec {
    parse("study.toml", text, &[]).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

/// `line:column marked text: message` of each mistake.
fn mistakes(text: &str, overrides: &[(&str, &str)]) -> Vec<String> {
    let overrides: Vec<_> = overrides.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let Err(found) = parse("study.toml", text, &overrides) else { return Vec::new() };
    assert!(!found.render(true, Some(80)).is_empty());
    let described = found.list().iter().map(|mistake| match (&mistake.span, found.position(mistake)) {
        (Some(span), Some((line, column))) => {
            format!("{line}:{column} {} | {}", &text[span.clone()], mistake.message)
        }
        _ => format!("{} | {}", mistake.path, mistake.message),
    });
    described.collect()
}

/// A small study with `lines` in its only stage's table, from line 3 on, and `after` behind that.
fn stage_with(lines: &str, after: &str) -> String {
    let defaults = [
        ("name", "name = \"s\""),
        ("command", "command = [\"x\"]"),
        ("trial_budget", "trial_budget = 4"),
        ("survivor_count", "survivor_count = 2"),
    ];
    let given = |key: &str| lines.lines().any(|line| line.split('=').next().unwrap_or_default().trim() == key);
    let rest: Vec<&str> = defaults.iter().filter(|(key, _)| !given(key)).map(|(_, line)| *line).collect();
    format!("study.name = \"t\"\n[[stage]]\n{lines}\n{}\n{after}", rest.join("\n"))
}

#[test]
fn the_example_says_what_it_says() {
    let spec = good(EXAMPLE);
    assert_eq!(
        (spec.study.name.as_str(), spec.study.base_case.as_str(), spec.study.seed),
        ("gcd_timing", "gcd", 7)
    );
    assert_eq!(
        spec.run,
        RunSpec {
            workers: Some(2),
            grace_ms: 5_000,
            sync_interval_ms: 1_500,
            on_event: vec!["./told.sh".into(), "x".into()],
            executor: ExecutorSpec::Local,
            reuse_from: Vec::new(),
            reuse_check: 0.0,
            disk_limit_bytes: None,
            resources: Default::default(),
        }
    );
    assert_eq!(spec.params["design"], SpecValue::from("rtl/gcd.v"));
    let [explore, refine] = spec.stages.as_slice() else { panic!("not two stages") };
    let param = |name: &str| Template { parts: vec![Part::Param(name.into())] };
    let program = Template { parts: vec![Part::Text("./synth.sh".into())] };
    assert_eq!(explore.work, Work::Argv(vec![program, param("design"), param("clock_ns")]));
    assert_eq!((explore.trial_budget, explore.survivor_count), (24, 6));
    assert_eq!(spec.rails, Rails { max_runtime_ms: Some(28_800_000), catastrophic_failures: Some(3) });
    assert_eq!((explore.timeout_ms, refine.timeout_ms), (Some(1_800_000), Some(5_400_000)));
    let retries =
        Retries { count: 2, backoff: Backoff::Linear, delay_ms: 2_000, max_delay_ms: 60_000, jitter: false };
    assert_eq!(explore.retries, retries);
    assert_eq!(refine.retries, Retries { count: 1, ..Retries::default() });
    let names: Vec<&str> = explore.sweep.iter().map(|swept| swept.name.as_str()).collect();
    assert_eq!(names, ["abc", "clock_ns", "effort", "rate"], "in the order of the text");
    assert_eq!(explore.sweep[0].domain, Domain::Choices(vec!["speed".into(), "area".into()]));
    assert_eq!(explore.sweep[1].domain, Domain::Float { min: 0.4, max: 0.8, steps: Some(5), log: false });
    assert_eq!(explore.sweep[2].domain, Domain::Int { min: 1, max: 8, steps: None, log: false });
    assert_eq!(explore.sweep[3].domain, Domain::Float { min: 1e-5, max: 1e-1, steps: Some(5), log: true });
    assert_eq!(explore.metrics["wns_ps"].scale, 1000.0);
    assert_eq!((explore.memory_limit_bytes, refine.memory_limit_bytes), (Some(4_294_967_296), None));
    assert_eq!((explore.approve, refine.approve), (false, true));
    let abort_if = vec![MetricBound { metric: "wns_ps".into(), bound: Bound::Below(-5_000.0) }];
    assert_eq!(explore.rails, StageRails { abort_if, max_failure_rate: Some(0.5), improve_within: None });
    let log = FailureMatch::Log("Error: .*module .* not found".into());
    let rules = [
        ("missing_cell", log, Severity::High, false),
        ("crash", FailureMatch::Signal("SIGSEGV".into()), Severity::Medium, true),
    ];
    let rules = rules.map(|(kind, when, severity, retryable)| FailureRule {
        kind: kind.into(),
        when,
        severity,
        retryable,
    });
    assert_eq!(explore.failures, rules);
    let base = spec.base.clone().unwrap();
    assert_eq!(
        (base.timeout_ms, matches!(base.work, Work::Argv(words) if words.len() == 3)),
        (Some(60_000), true)
    );
    assert_eq!((&refine.sampling, refine.selection), (&Sampling::Random, Selection::WeightedSum));
    assert_eq!(refine.sweep[0].domain, Domain::Float { min: -1.0, max: 1.0, steps: None, log: false });
    let weights: Vec<_> = refine.objectives.iter().map(|o| (o.goal, o.weight)).collect();
    assert_eq!(weights, [(Goal::Minimize, Some(0.4)), (Goal::Maximize, Some(0.6))]);
    assert!(explore.metrics["wns_ps"].compile().is_ok());
}

#[test]
fn a_minimal_study_gets_the_defaults() {
    let spec = good(&stage_with("", ""));
    assert_eq!((spec.study.base_case.as_str(), spec.study.seed), ("t", 0));
    assert_eq!(spec.run, RunSpec::default());
    let stage = &spec.stages[0];
    assert_eq!((&stage.sampling, stage.selection), (&Sampling::Grid, Selection::Top));
    assert!(stage.retries.is_none() && stage.timeout_ms.is_none() && stage.sweep.is_empty());
}

#[test]
fn every_mistake_is_reported_at_its_place() {
    let text = r#"[study]
nmae = "x"
seed = -1
[params]
case = 1
"bad name" = 2
[env]
PITON_SEED = "1"
N = 1
[run]
workers = 0
grace = "1d"
trial_budget = 3
[[stage]]
name = "a b"
command = ["run", "{clokc}", "é{parent_dir}", "{"]
trial_budget = 2
survivor_count = 3
sampling = "grdi"
[stage.sweep]
clock = { min = 2.0, max = 1.0, steps = 1 }
"#;
    let expected = [
        "1:1 [study] | missing key `name` in `[study]`",
        "2:1 nmae | unknown key `nmae` in `[study]`",
        "3:8 -1 | `seed` is too small",
        "5:1 case | a param cannot be called `case`",
        "6:1 \"bad name\" | `bad name` is no name for a param",
        "8:1 PITON_SEED | `PITON_SEED`: variables that begin with `PITON_` are set by piton",
        "9:5 1 | `N` must be a string, not an integer",
        "11:11 0 | `workers` is too small",
        "12:9 \"1d\" | `grace`: `1d` is no duration",
        "13:1 trial_budget | unknown key `trial_budget` in `[run]`",
        "16:20 {clokc} | no param is called `clokc`",
        "16:32 {parent_dir} | `{parent_dir}` has no meaning in the first stage",
    ];
    let found = mistakes(text, &[]);
    for line in expected {
        assert!(found.iter().any(|mistake| *mistake == line), "{line}\nnot in {found:#?}");
    }
    for part in ["15:10   |", "16:48 { | `{` without", "18:18 3 |", "19:12 \"grdi\" |", "21:28 1.0 |", "21:41 1 |"]
    {
        assert!(found.iter().any(|mistake| mistake.starts_with(part)), "{part}\nnot in {found:#?}");
    }
    assert_eq!(found.len(), 18, "{found:#?}");
}

/// Lines of a stage, each with its one mistake.
const STAGE_RULES: &[(&str, &str)] = &[
    ("command = []", "3:11 [] | the command is empty"),
    ("command = \" \"", "3:11 \" \" | the command is empty"),
    ("command = [\"\", \"x\"]", "3:12 \"\" | the program's name is empty"),
    ("command = 3", "3:11 3 | `command` must be a list of strings or a string, not an integer"),
    ("command = \"a }\"", "3:14 } | `}` without its `{`"),
    ("command = \"echo ${HOME}\"", "3:18 {HOME} | a placeholder cannot be quoted safely right after `$`"),
    ("command = [\"a\\u0000b\"]", "3:14 \\u0000 | a NUL character cannot be passed on"),
    (
        "command = \"x `{seed}`\"",
        "3:15 {seed} | a placeholder cannot be quoted safely inside backticks; `$(…)` can be quoted",
    ),
    ("trial_budget = 0", "3:16 0 | `trial_budget` is too small"),
    ("survivor_count = 0", "3:18 0 | `survivor_count` is too small"),
    ("survivor_count = 5", "3:18 5 | `survivor_count` 5 is above `trial_budget` 4"),
    (
        "sampling = { ask = [\"python3\", \"proposer.py\"] }",
        "3:12 { ask = [\"python3\", \"proposer.py\"] } | a proposer needs a sweep to choose values from",
    ),
    ("sampling = {}", "3:12 {} | missing key `file` in `sampling`"),
    ("sampling = 1", "3:12 1 | `sampling` must be a string or a table, not an integer"),
    ("sampling = { file = \"a.txt\" }", "3:21 \"a.txt\" | `a.txt` is no file of cases"),
    (
        "sampling = { file = \"a.csv\" }\nsweep.x = [1]",
        "4:1 sweep | a sweep means nothing where a file lists the cases",
    ),
    (
        "sampling = \"sobol\"\nsweep.x = { min = 1, max = 3, steps = 4 }",
        "4:39 4 | `steps` means nothing to sobol sampling",
    ),
    (
        "sampling = \"sobol\"\ntrial_budget = 65537\nsweep.x = { min = 0, max = 1 }",
        "4:16 65537 | `sobol` gives at most 65536 cases",
    ),
    (
        "sampling = \"random\"\ntrial_budget = 65537\nsweep.x = { min = 1, max = 65537, type = \"int\", log = true }",
        "4:16 65537 | at most 65536 different cases can be drawn from integers on a log scale",
    ),
    ("approve = 1", "3:11 1 | `approve` must be `true` or `false`, not an integer"),
    ("memory_limit = \"4G\"", "3:16 \"4G\" | `memory_limit` is no size"),
    ("memory_limit = 4", "3:16 4 | `memory_limit` is too small for any program"),
    ("memory_limit = \"10000000000GB\"", "3:16 \"10000000000GB\" | `memory_limit` is too large"),
    ("memory_limit = 4.5", "3:16 4.5 | `memory_limit` must be a size in quotes, not a float"),
    ("rails.max_failure_rate = 0", "3:26 0 | `max_failure_rate` must be above 0 and at most 1"),
    ("rails.max_failure_rate = 1.01", "3:26 1.01 | `max_failure_rate` must be above 0 and at most 1"),
    ("rails.max_runtime = \"1h\"", "3:7 max_runtime | unknown key `max_runtime` in `[stage.rails]`"),
    ("rails.abort_if = [{ below = 1 }]", "3:19 { below = 1 } | missing key `metric` in `abort_if`"),
    (
        "rails.abort_if = [{ metric = \"m\" }]",
        "3:19 { metric = \"m\" } | one of `below`, `above` is missing in `abort_if`",
    ),
    (
        "rails.abort_if = [{ metric = \"m\", below = 1, above = 2 }]",
        "3:46 above | only one of `below`, `above` can stand in `abort_if`",
    ),
    ("rails.abort_if = [{ metric = \"m\", below = nan }]", "3:43 nan | `below` must be a finite number"),
    (
        "rails.abort_if = [{ metric = \"m\", below = 1 }, { metric = \"m\", below = 2 }]",
        "3:48 { metric = \"m\", below = 2 } | `m` has its `below` already",
    ),
    ("failure = {}", "3:11 {} | `failure` must be a list of tables, not a table"),
    (
        "failure = [{ kind = \"x\" }]",
        "3:12 { kind = \"x\" } | one of `log`, `exit_code`, `signal` is missing in `[[stage.failure]]`",
    ),
    (
        "failure = [{ kind = \"x\", log = \"a\", signal = \"SEGV\" }]",
        "3:37 signal | only one of `log`, `exit_code`, `signal` can stand in `[[stage.failure]]`",
    ),
    ("failure = [{ exit_code = 3 }]", "3:12 { exit_code = 3 } | missing key `kind` in `[[stage.failure]]`"),
    ("failure = [{ kind = \"X\", exit_code = 3 }]", "3:21 \"X\" | `X` is no kind of failure"),
    (
        "failure = [{ kind = \"missing_metric\", exit_code = 3 }]",
        "3:21 \"missing_metric\" | `missing_metric` is a kind of piton's own",
    ),
    ("failure = [{ kind = \"x\", exit_code = 0 }]", "3:38 0 | `exit_code` is too small"),
    ("failure = [{ kind = \"x\", exit_code = 256 }]", "3:38 256 | `exit_code` is too large"),
    ("failure = [{ kind = \"x\", signal = \"SEGF\" }]", "3:35 \"SEGF\" | `SEGF` is no signal that ends a process"),
    ("failure = [{ kind = \"x\", log = 'a(b' }]", "3:34 ( | bad regex: unclosed group"),
    ("failure = [{ kind = \"x\", log = 'a*' }]", "3:32 'a*' | the regex matches every log"),
    (
        "failure = [{ kind = \"x\", log = 'a', severity = \"fatal\" }]",
        "3:48 \"fatal\" | `fatal` is no valid `severity`",
    ),
    ("selection = \"pareto\"", "3:13 \"pareto\" | `pareto` needs an objective"),
    ("timeout = 30", "3:11 30 | `timeout` must be a duration in quotes, not an integer"),
    ("timeout = \"0s\"", "3:11 \"0s\" | `timeout` `0s` must be longer than zero"),
    ("timeout = \"-1s\"", "3:11 \"-1s\" | `timeout` `-1s` is negative"),
    ("timeout = \"1us\"", "3:11 \"1us\" | `timeout` `1us` is shorter than a millisecond"),
    ("timeout = \"9999999h\"", "3:11 \"9999999h\" | `timeout` `9999999h` is longer than a hundred years"),
    ("retries = -1", "3:11 -1 | `retries` is too small"),
    ("retries = \"2\"", "3:11 \"2\" | `retries` must be an integer or a table, not a string"),
    ("retries = { delay = \"1s\" }", "3:11 { delay = \"1s\" } | missing key `count` in `retries`"),
    (
        "retries = { count = 1, delay = \"2s\", max_delay = \"1s\" }",
        "3:50 \"1s\" | `max_delay` is shorter than `delay`",
    ),
    ("outputs = [\"/etc/x\"]", "3:12 \"/etc/x\" | `/etc/x` is not inside the attempt's directory"),
    ("outputs = [\"a/../../x\"]", "3:12 \"a/../../x\" | `a/../../x` is not inside the attempt's directory"),
    ("outputs = [\".\"]", "3:12 \".\" | `.` is not inside the attempt's directory"),
    ("outputs = [\"a\", \"a\"]", "3:17 \"a\" | `a` is named twice"),
    ("sweep = {}", "3:9 {} | the sweep is empty"),
    ("sweep.x = []", "3:11 [] | no choices"),
    ("sweep.x = [1, 2, 1.0]", "3:18 1.0 | the choice `1.0` is there twice"),
    ("sweep.x = [nan]", "3:12 nan | `x[0]` must be a finite number"),
    ("sweep.x = 5", "3:11 5 | `x` must be a list of choices or a range, not an integer"),
    ("sweep.seed = [1]", "3:7 seed | a param cannot be called `seed`"),
    ("sweep.x = { min = 1 }", "3:11 { min = 1 } | missing key `max` in a range"),
    ("sweep.x = { min = 1, max = 2 }", "3:11 { min = 1, max = 2 } | the range of `x` needs `steps` on a grid"),
    ("sweep.x = { min = 1, max = 1, steps = 2 }", "3:28 1 | `min` and `max` are equal"),
    ("sweep.x = { min = 1, max = inf, steps = 2 }", "3:28 inf | `max` must be a finite number"),
    ("sweep.x = { min = 0, max = 1, steps = 2, log = true }", "3:19 0 | a log range needs a `min` above 0"),
    (
        "sweep.x = { min = 1, max = 3, steps = 4, type = \"int\" }",
        "3:39 4 | 4 steps, but the range has only 3 integers",
    ),
    ("sweep.x = { min = 1.5, max = 3, type = \"int\" }", "3:19 1.5 | `min` must be an integer, not a float"),
    (
        "sampling = \"random\"\nsweep.x = { min = 1, max = 3, steps = 4 }",
        "4:39 4 | `steps` means nothing to random sampling",
    ),
    ("metrics.m = { file = \"f\", regex = 'é[0-9]+' }", "3:35 'é[0-9]+' | the regex has no capture group"),
    ("metrics.m = { file = \"f\", regex = 'é(x' }", "3:37 ( | bad regex: unclosed group"),
    (
        "metrics.m = { file = \"../f\", regex = '(x)' }",
        "3:22 \"../f\" | `../f` is not inside the attempt's directory",
    ),
];

#[test]
fn each_rule_of_a_stage_is_checked() {
    for (line, expected) in STAGE_RULES {
        assert_eq!(mistakes(&stage_with(line, ""), &[]), [*expected], "{line}");
    }
}

#[test]
fn limits_of_sampling_do_not_bind_where_there_are_few_cases() {
    for (sampling, sweep) in [
        ("sobol", "[1, 2]"),
        ("random", "{ min = 1, max = 65536, type = \"int\", log = true }"),
        ("random", "{ min = 1, max = 65537, type = \"int\" }"),
        ("random", "{ min = 1.0, max = 9.0, log = true }"),
    ] {
        good(&stage_with(&format!("sampling = \"{sampling}\"\ntrial_budget = 65537\nsweep.x = {sweep}"), ""));
    }
    let sweep: Vec<String> = (0..257).map(|n| format!("sweep.x{n} = [1, 2]")).collect();
    let text = stage_with(&format!("sampling = \"sobol\"\n{}", sweep.join("\n")), "");
    let found = mistakes(&text, &[]);
    assert_eq!(found.len(), 1);
    assert!(found[0].ends_with("257 swept params, but `sobol` has 256 dimensions"), "{found:?}");
}

#[test]
fn objectives_must_suit_the_selection() {
    let objective = |metric: &str, more: &str| {
        format!("[[stage.objective]]\nmetric = \"{metric}\"\ngoal = \"maximize\"\n{more}\n")
    };
    let two = |more_a: &str, more_b: &str| objective("a", more_a) + &objective("b", more_b);
    let check =
        |selection: &str, after: &str| mistakes(&stage_with(&format!("selection = \"{selection}\""), after), &[]);
    assert_eq!(
        check("top", &two("", "")),
        ["12:1 [[stage.objective]] | `top` ranks by one objective, here are 2"]
    );
    assert_eq!(check("lexicographic", &two("", "")), [""; 0]);
    assert_eq!(check("pareto", &objective("a", "weight = 1")), ["11:10 1 | `weight` means nothing to `pareto`"]);
    assert_eq!(
        check("weighted_sum", &two("weight = 0.1", "weight = 0.2")),
        ["15:10 0.2 | the weights sum to 0.3, not to 1"]
    );
    assert_eq!(
        check("weighted_sum", &two("weight = 0.5", "")),
        ["12:1 [[stage.objective]] | missing key `weight` in `[[stage.objective]]`"]
    );
    assert_eq!(check("weighted_sum", &two("weight = 0.7", "weight = 0.3")), [""; 0]);
    let twice = objective("a", "") + &objective("a", "");
    assert_eq!(check("pareto", &twice), ["13:10 \"a\" | `a` is an objective already"]);
}

#[test]
fn defaults_apply_and_their_mistakes_are_said_once() {
    let stages = "[[stage]]\nname = \"a\"\nsurvivor_count = 1\n[[stage]]\nname = \"b\"\nsurvivor_count = 9\n";
    let text = |defaults: &str| format!("study.name = \"t\"\n[defaults]\n{defaults}\n{stages}");
    let spec = good(&text("command = [\"x\"]\ntrial_budget = 9"));
    assert_eq!(spec.stages.iter().map(|stage| stage.trial_budget).collect::<Vec<_>>(), [9, 9]);
    assert_eq!(
        mistakes(&text("command = [\"{y}\"]\ntrial_budget = 9\ntimeout = 1\nnope = 1"), &[]),
        [
            "3:13 {y} | no param is called `y`",
            "5:11 1 | `timeout` must be a duration in quotes, not an integer",
            "6:1 nope | unknown key `nope` in `[defaults]`",
        ]
    );
}

#[test]
fn names_must_be_unique_and_params_known_to_the_lineage() {
    let stage = |name: &str, command: &str, more: &str| {
        format!(
            "[[stage]]\nname = \"{name}\"\ncommand = [\"{command}\"]\ntrial_budget = 1\nsurvivor_count = 1\n{more}\n"
        )
    };
    let head = "study.name = \"t\"\nparams.p = 1\n".to_owned();
    let text = head.clone() + &stage("a", "{p}", "sweep.x = [1]") + &stage("b", "{x}{parent_dir}{p}", "");
    good(&text);
    let text = head.clone() + &stage("a", "{x}", "") + &stage("b", "b", "sweep.x = [1]");
    assert_eq!(mistakes(&text, &[]), ["5:13 {x} | no param is called `x`"]);
    let text = head + &stage("a", "a", "") + &stage("a", "b", "");
    assert_eq!(mistakes(&text, &[]), ["10:8 \"a\" | there is another stage `a`"]);
}

#[test]
fn set_replaces_or_provides_constants() {
    let text = "study.name = \"t\"\nparams.p = 1\n[[stage]]\nname = \"a\"\ncommand = [\"{p}{q}\"]\ntrial_budget = 1\nsurvivor_count = 1\nsweep.s = [1]\n";
    let with = |set: &[(&str, &str)]| {
        let set: Vec<_> = set.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        parse("study.toml", text, &set).map(|spec| (spec.params["p"].0.clone(), spec.params["q"].0.clone()))
    };
    for (given, expected) in [
        ("7", Value::Int(7)),
        ("-0.5", Value::Float(-0.5)),
        ("true", Value::Bool(true)),
        ("\"7\"", Value::Str("7".into())),
        ("rtl/gcd.v", Value::Str("rtl/gcd.v".into())),
        ("", Value::Str(String::new())),
        ("2024-01-01", Value::Str("2024-01-01".into())),
        ("'a b'", Value::Str("a b".into())),
        ("1.20", Value::Str("1.20".into())),
        ("7e9", Value::Str("7e9".into())),
        ("0x1F", Value::Str("0x1F".into())),
        ("007", Value::Str("007".into())),
        (" 7", Value::Str(" 7".into())),
        ("nan", Value::Str("nan".into())),
        ("9223372036854775808", Value::Str("9223372036854775808".into())),
        ("1e-300", Value::Float(1e-300)),
        ("2.0", Value::Float(2.0)),
        ("[1]", Value::Str("[1]".into())),
        ("a\nb = 2", Value::Str("a\nb = 2".into())),
    ] {
        assert_eq!(with(&[("q", given)]).unwrap(), (Value::Int(1), expected), "{given:?}");
    }
    assert_eq!(with(&[("q", "1"), ("p", "2"), ("p", "3")]).unwrap().0, Value::Int(3));
    let found = mistakes(text, &[("q", "1"), ("pp", "1"), ("s", "2"), ("seed", "3")]);
    assert_eq!(
        found,
        [
            "--set pp | there is no param `pp`",
            "--set s | `s` is swept: its values come from `[stage.sweep]`",
            "--set seed | there is no param `seed`",
        ]
    );
    let before = |set: &str| {
        let set = [("q".to_owned(), set.to_owned())];
        let dir = Path::new(".");
        parse_study_as("s", text.as_bytes(), &set, dir, Values::Before).map(|spec| spec.params["q"].0.clone())
    };
    assert_eq!(before("1.20").unwrap(), Value::Float(1.2), "as in the first stores");
    assert_eq!(before("0x1F").unwrap(), Value::Int(31));
    assert!(before("nan").is_err());
}

#[test]
fn numbers_that_are_not_kept_are_refused_where_they_stand() {
    let text = "study.name = \"t\"\nparams = { a = 1e-400, b = 0.1234567890123456789, c = 1e400, d = 9223372036854775808 }\n[[stage]]\nname = \"a\"\ncommand = [\"x\"]\ntrial_budget = 9\nsurvivor_count = 1\nsweep = { e = [1.5, 3.14159265358979323846], f = { min = 0, max = 9007199254740993, steps = 2 }, g = { min = 1e-400, max = 1, steps = 2 } }\n";
    assert_eq!(
        mistakes(text, &[]),
        [
            "2:16 1e-400 | `a` is too small for a 64-bit float: it would become 0",
            "2:28 0.1234567890123456789 | `b` cannot be held exactly by a 64-bit float",
            "2:55 1e400 | `c` is too large for a 64-bit float",
            "2:66 9223372036854775808 | `d` is too large",
            "8:21 3.14159265358979323846 | `e[1]` cannot be held exactly by a 64-bit float",
            "8:67 9007199254740993 | `max` cannot be held exactly by a 64-bit float",
            "8:110 1e-400 | `min` is too small for a 64-bit float: it would become 0",
        ]
    );
    // A limit need not be kept to the last digit, only be one.
    let rail =
        |bound: &str| stage_with("", &format!("rails.abort_if = [{{ metric = \"m\", below = {bound} }}]\n"));
    good(&rail("0.3333333333333333333"));
    assert_eq!(mistakes(&rail("1e400"), &[]).len(), 1);
    let kept = "0.1, 1.20, 1e5, 1_0.5, -0.0, 0.30000000000000004, 1e-300, 2.5e20";
    let spec = good(&stage_with(&format!("sweep.x = [{kept}]"), ""));
    let Domain::Choices(choices) = &spec.stages[0].sweep[0].domain else { panic!("no choices") };
    let texts: Vec<String> = choices.iter().map(|choice| choice.0.to_string()).collect();
    assert_eq!(texts, ["0.1", "1.2", "100000.0", "10.5", "-0.0", "0.30000000000000004", "1e-300", "2.5e20"]);
}

#[test]
fn lines_of_a_string_end_alike_whatever_editor_wrote_them() {
    let unix = "study.name = \"t\"\nstudy.description = \"\"\"a\nb\\r\\n\"\"\"\n[[stage]]\nname = \"a\"\ncommand = '''\necho 1\necho {{2}\n'''\ntrial_budget = 1\nsurvivor_count = 1\n";
    let dos = unix.replace('\n', "\r\n");
    let place = |text: &str| {
        let found = parse("s", text, &[]).unwrap_err();
        found.list().iter().map(|mistake| (found.position(mistake), mistake.message.clone())).collect::<Vec<_>>()
    };
    assert_eq!(place(&dos), place(unix), "a mistake is where it was");
    let (unix, dos) = (unix.replace("{{2}", "2"), dos.replace("{{2}", "2"));
    let spec = good(&dos);
    assert_eq!(spec, good(&unix));
    assert_eq!(spec.study.description.as_deref(), Some("a\nb\r\n"), "what is escaped is meant");
    let before = parse_study_as("s", dos.as_bytes(), &[], Path::new("."), Values::Before).unwrap();
    assert_ne!(before.identity_json(), spec.identity_json());
}

#[test]
fn the_base_command_knows_the_constants_alone() {
    let text =
        |command: &str| format!("base.command = {command}\nparams.p = 1\n{}", stage_with("sweep.x = [1]", ""));
    good(&text("[\"./check\", \"{p}\", \"{case}\", \"{study_dir}\"]"));
    assert_eq!(
        mistakes(&text("\"check {x} {parent_dir}\""), &[]),
        [
            "1:23 {x} | no param is called `x`",
            "1:27 {parent_dir} | `{parent_dir}` has no meaning before the first stage",
        ]
    );
    let spec = parse("study.toml", &text("\"check {q}\""), &[("q".into(), "2".into())]).unwrap();
    assert_eq!(spec.params["q"], SpecValue::from(2));
    let base =
        |keys: &str| format!("[base]\n{keys}\n") + &stage_with("", "").replace("study.name", "[study]\nname");
    assert_eq!(mistakes(&base("timeout = \"1s\""), &[]), ["1:1 [base] | missing key `command` in `[base]`"]);
    let outputs = mistakes(&base("command = \"x\"\noutputs = []"), &[]);
    assert_eq!(outputs, ["3:1 outputs | unknown key `outputs` in `[base]`"]);
}

#[test]
fn whole_study_rails_are_checked() {
    let rails = |keys: &str| mistakes(&format!("rails = {{ {keys} }}\n{}", stage_with("", "")), &[]);
    assert_eq!(rails("max_runtime = \"8h\""), [""; 0]);
    assert_eq!(rails("max_runtime = \"0s\""), ["1:25 \"0s\" | `max_runtime` `0s` must be longer than zero"]);
    assert_eq!(rails("catastrophic_failures = 0"), ["1:35 0 | `catastrophic_failures` is too small"]);
    assert_eq!(
        rails("max_failure_rate = 1"),
        ["1:11 max_failure_rate | unknown key `max_failure_rate` in `[rails]`"]
    );
}

#[test]
fn what_trials_share_and_need_is_checked() {
    let study = |resources: &str, stage: &str| format!("resources = {{ {resources} }}\n{}", stage_with(stage, ""));
    let spec = good(&study(
        "gpu = [\"0\", \"GPU-1\"], licence = 3, cpus = 16, memory = \"4GiB\"",
        "needs = { gpu = 2, licence = 1, memory = \"1GiB\" }\ncommand = [\"x\", \"{gpu}\"]",
    ));
    assert_eq!(spec.run.resources["gpu"], Pool::Items(vec!["0".into(), "GPU-1".into()]));
    assert_eq!((spec.run.resources["licence"].size(), spec.run.resources["memory"].size()), (3, 4 << 30));
    assert_eq!(spec.stages[0].run.needs["memory"], 1 << 30);
    assert_eq!(spec.first_given(0)[0].text(), "0,GPU-1");
    // None of it is part of the study.
    let bare = good(&study("gpu = [\"a\"]", "needs = { gpu = 1 }\ncommand = [\"x\", \"{gpu}\"]"));
    assert_eq!((spec.spec_hash(), diff(&spec, &bare)), (bare.spec_hash(), Vec::new()));
    let changes: Vec<String> = run_differences(&spec, &bare).iter().map(ToString::to_string).collect();
    assert!(changes.contains(&"stage \"s\".needs.gpu: 2 in the store, 1 now".to_owned()), "{changes:?}");
    assert!(changes.contains(&"resources.licence: 3 in the store, not set now".to_owned()), "{changes:?}");
    assert_eq!(Spec::from_json(&spec.to_json()).unwrap(), spec);
    let found = |resources: &str, stage: &str| {
        let found = mistakes(&study(resources, stage), &[]);
        found.into_iter().map(|mistake| mistake.split_once(' ').unwrap().1.to_owned()).collect::<Vec<_>>()
    };
    let none: [&str; 0] = [];
    assert_eq!(found("gpu = [\"0\"]", "needs = { cpus = 900, memory = 4000000 }"), none, "asked where it runs");
    for (resources, stage, mistake) in [
        ("Gpu = 1", "", "Gpu | `Gpu` is no name for a pool"),
        ("slot = 1", "", "slot | `slot` is no name for a pool"),
        ("gpu = []", "", "[] | `gpu` has no items"),
        ("gpu = [\"0,1\"]", "", "\"0,1\" | `0,1` is no name for an item"),
        ("gpu = [\"0\", \"0\"]", "", "\"0\" | `0` is named twice"),
        ("gpu = 0", "", "0 | `gpu` is too small"),
        ("memory = \"1b\"", "", "\"1b\" | `memory` is too small for any program"),
        ("cpus = 2", "needs = { cpus = 3 }", "3 | a trial needs more of `cpus` than there ever is"),
        ("gpu = [\"0\"]", "needs = { gpu = 2 }", "2 | a trial needs more of `gpu` than there ever is"),
        ("gpu = [\"0\"]", "needs = { gpus = 1 }", "1 | no pool is called `gpus`"),
        ("gpu = 1", "needs = { gpu = 0 }", "0 | `gpu` is too small"),
        ("gpu = 1", "command = \"x {gpu}\"", "{gpu} | no param is called `gpu`"),
        (
            "gpu = 1",
            "command = \"x {gpu}\"\nneeds = { gpu = 1 }\nsweep.gpu = [1]",
            "{gpu} | `gpu` is a param and a pool that the stage needs",
        ),
        (
            "gpu = 1",
            "command = \"x {gpu}\"\nneeds = { gpu = 1 }\nreuse = true",
            "{gpu} | `{gpu}` differs between trials that are to have one result",
        ),
    ] {
        assert_eq!(found(resources, stage), [mistake], "{resources} {stage}");
    }
    let (many, there) = (study("", "needs = { cpus = 9, memory = \"2GiB\" }"), |cpus| {
        [("cpus".to_owned(), Pool::Count(cpus)), ("memory".to_owned(), Pool::Count(2 << 30))].into()
    });
    assert_eq!(good(&many).beyond(&there(9)), None);
    let short = good(&many).beyond(&there(8)).unwrap();
    assert!(short.starts_with("a trial of stage `s` needs 9 of `cpus`, and there is 8: "), "{short}");
}

#[test]
fn old_specs_keep_their_hash() {
    // The canonical text of the version before rails, base, failure rules and files of cases.
    let text = r#"{"study":{"name":"t","base_case":"t","seed":0},"run":{"grace_ms":10000},"stages":[{"name":"s","work":{"argv":[{"parts":[{"text":"x"}]}]},"trial_budget":4,"survivor_count":2,"sampling":"grid","selection":"top"}]}"#;
    let old = Spec::from_json(text).unwrap();
    assert_eq!((old.to_json().as_str(), old.values), (text, Values::Before));
    let spec = good(&stage_with("", ""));
    assert_eq!(Spec { values: Values::Before, ..spec.clone() }, old);
    assert_eq!(spec.identity_json(), text.replace(r#""run":{"grace_ms":10000},"#, ""));
}

#[test]
fn clusters_are_named_and_described() {
    let tables = "[run.slurm]\npartition = \"debug\"\ntime = \"90m\"\ncpus = 4\nmem = \"2GiB\"\narray = true\n\
                  extra = [\"--constraint=avx\"]\nlost_after = \"20s\"\n\
                  [run.ray]\naddress = \"http://head:8265\"\nnum_cpus = 0.5\ntoken = \"$RAY_TOKEN\"\n\
                  resources = { licence = 1 }\nruntime_env = { env_vars = { A = \"b\" }, pip = [\"x\"] }\n";
    let with = |executor: &str| {
        good(&format!("{}\n[run]\nexecutor = \"{executor}\"\n{tables}", stage_with("", ""))).run.executor
    };
    assert_eq!(with("local"), ExecutorSpec::Local);
    let slurm = SlurmSpec {
        partition: Some("debug".into()),
        time_s: Some(5_400),
        cpus: Some(4),
        mem_bytes: Some(2 << 30),
        array: true,
        extra: vec!["--constraint=avx".into()],
        lost_after_ms: 20_000,
        ..SlurmSpec::default()
    };
    assert_eq!(with("slurm"), ExecutorSpec::Slurm(slurm));
    let ray = RaySpec {
        address: "http://head:8265".into(),
        runtime_env: r#"{"env_vars":{"A":"b"},"pip":["x"]}"#.into(),
        num_cpus: 0.5,
        resources: [("licence".to_owned(), 1.0)].into(),
        token_env: Some("RAY_TOKEN".into()),
        ..RaySpec::default()
    };
    assert_eq!(with("ray"), ExecutorSpec::Ray(ray));
    let spec = good(&format!("{}\n[run]\nexecutor = \"ray\"\n{tables}", stage_with("", "")));
    assert_eq!(Spec::from_json(&spec.to_json()).unwrap(), spec);
    // What code says comes out as what a study file says.
    let built = |executor: ExecutorSpec| {
        let stage = Stage::argv("a", ["true"]).budget(1).survivors(1);
        Study::builder("s").executor(executor).stage(stage).spec().unwrap().run.executor
    };
    for executor in ["local", "ray", "slurm"] {
        assert_eq!(built(with(executor)), with(executor));
    }
    assert_eq!(spec.spec_hash(), good(&stage_with("", "")).spec_hash(), "where it runs is no part of a study");
}

#[test]
fn mistakes_about_clusters_are_all_told() {
    let text = stage_with("", "")
        + "\n[run]\nexecutor = \"slurm\"\n[run.slurm]\npartition = \"-x\"\nmem = \"a\"\ncpu = 1\nlost_after = \"14s\"\n\
           [run.ray]\naddress = \"ftp://a\"\ntoken = \"s3cret\"\nnum_cpus = -1\n";
    let mut found: Vec<String> =
        mistakes(&text, &[]).iter().map(|mistake| mistake.split_once(' ').unwrap().1.to_owned()).collect();
    found.sort();
    let expected = [
        "\"-x\" | not a name of Slurm's",
        "\"14s\" | `lost_after` is too short",
        "\"a\" | `mem` is no size",
        "\"ftp://a\" | not an address of Ray's",
        "\"s3cret\" | a study file is no place for a secret",
        "-1 | less than nothing",
        "cpu | unknown key `cpu` in `[run.slurm]`",
    ];
    assert_eq!(found, expected);
}

#[test]
fn syntax_errors_stand_beside_other_mistakes() {
    let text = stage_with("timeout = = 3\ntrial_budget = 0\ncommand = \"x", "");
    assert_eq!(
        mistakes(&text, &[]),
        ["3:11 = | extra `=`", "4:16 0 | `trial_budget` is too small", "5:13  | invalid basic string",]
    );
    let unclosed = stage_with("outputs = [\"a\"", "");
    assert_eq!(mistakes(&unclosed, &[]), ["3:11 [ | unclosed array"]);
    let swallowed = "[study]\nname = \"a\nseed = 1\ninputs = [\"x\",\n[[stage]]\nname = \"b\"\n";
    assert_eq!(mistakes(swallowed, &[]), ["2:10  | invalid basic string", "4:10 [ | unclosed array"]);
    let twice = stage_with("timeout = \"1s\"\ntimeout = \"1s\"", "");
    assert_eq!(mistakes(&twice, &[]), ["4:1 timeout | duplicate key"]);
}

#[test]
fn mistakes_look_like_a_compilers() {
    let text = stage_with("survivors = 3", "");
    let found = parse("gcd.toml", &text, &[]).unwrap_err();
    assert_eq!(found.len(), 1);
    let valid: Vec<String> = STAGE.names().iter().map(|name| format!("`{name}`")).collect();
    assert_eq!(
        found.to_string(),
        format!(
            "\
error: unknown key `survivors` in `[[stage]]`
 --> gcd.toml:3:1
  |
3 | survivors = 3
  | ^^^^^^^^^ no such key
  |
  = help: did you mean `survivor_count`? valid keys: {}
",
            valid.join(", ")
        )
    );
    assert!(found.render(true, None).contains("\u{1b}["));
    assert!(!found.render(false, None).contains('\u{1b}'));
}

#[test]
fn terminal_escapes_do_not_get_through() {
    let text = "\"\u{1b}[31m\\u001b[0m\" = 1\n";
    let found = parse("\u{1b}[1m.toml", text, &[]).unwrap_err();
    assert!(!found.to_string().contains('\u{1b}'), "{found}");
    // Nor those beyond ASCII, before, in and after what is marked; the mark stays under the same letters.
    let text = "# \n\"\u{9b}a\u{9b}\u{202e}b\" = 1 # \u{9b}\u{feff}\n";
    let shown = parse("x.toml", text, &[]).unwrap_err().to_string();
    assert!(
        !shown.contains(|letter: char| letter != '\n' && crate::model::names::steers_or_hides(letter)),
        "{shown:?}"
    );
    assert!(shown.contains("\"\u{fffd}a\u{fffd}\u{fffd}b\" = 1 # \u{fffd}\u{fffd}\n  | ^^^^^^^"), "{shown}");
}

#[test]
fn bytes_that_are_no_text_are_refused_where_they_are() {
    let found = parse_bytes("x.toml", b"a = 1\nb = \"\xff\"\n", &[]).unwrap_err();
    assert_eq!(found.position(&found.list()[0]), Some((2, 6)));
    assert!(found.to_string().contains("not UTF-8"));
}

fn survives(text: &str) {
    if let Err(found) = parse("study.toml", text, &[("design".to_owned(), "x".to_owned())]) {
        assert!(found.len() > 0);
        assert!(!found.render(true, Some(60)).is_empty());
    }
}

#[test]
fn every_truncation_is_survived() {
    for (at, _) in EXAMPLE.char_indices() {
        survives(&EXAMPLE[..at]);
    }
}

#[test]
fn deep_nesting_is_survived() {
    for (open, close) in [("[", "]"), ("{a=", "}")] {
        survives(&format!("x = {}{}", open.repeat(20_000), close.repeat(20_000)));
    }
    survives(&format!("[{}a]\n", "a.".repeat(20_000)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn random_edits_are_survived(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3_u8), 1..6)) {
        let mut bytes = EXAMPLE.as_bytes().to_vec();
        for (at, byte, how) in edits {
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, b"[]{}\"'=,.\n#\\-"[usize::from(byte) % 13]),
                _ => { bytes.remove(at); }
            }
        }
        survives(&String::from_utf8_lossy(&bytes));
        drop(parse_bytes("study.toml", &bytes, &[]).map_err(|found| found.render(false, None)));
    }

    #[test]
    fn any_text_is_survived(text in "\\PC{0,40}(\n|=|\\[|\\{|\"|'){0,4}\\PC{0,40}") {
        survives(&text);
        survives(&stage_with(&format!("command = {text:?}"), ""));
    }

    #[test]
    fn equal_specs_and_no_others_have_no_differences(budget in 2..4_u64, value in prop::sample::select(vec!["1", "1.0", "\"1\""]), choices in 1..3_i64) {
        let text = |budget: u64, value: &str, choices: i64| stage_with(
            &format!("trial_budget = {budget}\nsweep.x = {:?}", (0..choices).collect::<Vec<_>>()),
            &format!("[params]\np = {value}\n"),
        );
        let (old, new) = (good(&text(2, "1", 1)), good(&text(budget, value, choices)));
        let same = budget == 2 && value == "1" && choices == 1;
        prop_assert_eq!(diff(&old, &new).is_empty(), same);
        prop_assert_eq!(old.spec_hash() == new.spec_hash(), same);
    }
}
