use proptest::prelude::*;

use super::*;
use crate::model::Metric;
use crate::study_file::{key_names, parse};
use crate::{Stage, Study};

/// Stage `synth`, whose trials leave two files, and stage `place`, which uses two of three params.
const STUDY: &str = r##"
study.name = "t"
study.seed = 7
study.inputs = ["flow", "./lib/a.lib"]
study.versions.yosys = ["yosys", "-V"]
#study
params.design = "d\"é"
params.idle = 1
env.LANG = "C"
#root
run.workers = 2
#run
base.command = "make {design}"
#base

[[stage]]
name = "synth"
command = ["./synth.sh", "{study_dir}/x", "{fanout}", "{{lit}}"]
trial_budget = 4
survivor_count = "all"
reuse = true
outputs = ["net.v", "sdf/a.sdf"]
sweep = { fanout = [8, 8.5, "8"], flat = [true, false] }
metrics.area = { file = "stdout.log", regex = 'area (\d+)', scale = 0.5 }
#synth

[[stage]]
name = "place"
command = "place.sh {parent_dir} {seed} {density}"
trial_budget = 4
survivor_count = 1
reuse = "2"
uses = ["density", "flat"]
inputs = ["place.tcl"]
sweep = { density = [0.5, 1.0] }
#place
"##;

fn spec(text: &str) -> Spec {
    parse("t.toml", text, &[]).unwrap_or_else(|mistakes| panic!("{mistakes}\n{text}"))
}

fn hash(path: &str, of: &str) -> InputHash {
    InputHash { path: path.into(), bytes: 1, blake3: blake3::hash(of.as_bytes()).to_hex().to_string() }
}

fn left(path: &str, of: &str) -> OutputHash {
    OutputHash { path: path.into(), bytes: 1, blake3: *blake3::hash(of.as_bytes()).as_bytes() }
}

/// Where a study was made: each input that it names says its own name, each tool tells `1`.
fn made_with(spec: &Spec) -> (Vec<InputHash>, Vec<ToolVersion>) {
    let tool = |tool: &String| ToolVersion { tool: tool.clone(), version: "1".into() };
    let plain = |path: &str| path.trim_start_matches("./").to_owned();
    let inputs = spec.all_inputs().into_iter().map(|path| hash(path, &plain(path))).collect();
    (inputs, spec.study.versions.keys().map(tool).collect())
}

fn params(spec: &Spec, own: &[(&str, Value)]) -> Params {
    let mut params = spec.constants();
    params.extend(own.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    params
}

fn identity(spec: &Spec, stage: StageIndex) -> StageIdentity {
    let (inputs, versions) = made_with(spec);
    StageIdentity::of(spec, stage, MadeWith { inputs: &inputs, versions: &versions, accepted: &[] }).unwrap()
}

/// The identities of a trial of each stage.
fn results(spec: &Spec) -> [ResultId; 2] {
    let own = [("fanout", Value::Int(8)), ("flat", Value::Bool(true))];
    let placed = [own.as_slice(), &[("density", Value::Float(0.5))]].concat();
    let parent = [left("sdf/a.sdf", "a"), left("net.v", "n")];
    [identity(spec, 0).trial(&params(spec, &own), &[]), identity(spec, 1).trial(&params(spec, &placed), &parent)]
}

/// `vectors.py` beside this file makes them in another language.
#[test]
fn known_identities() {
    let ids = results(&spec(STUDY)).map(|id| id.to_string());
    assert_eq!(
        ids,
        [
            "6a3d1731936bfc5d619b67ba4f261c6b4c14c92146def93935fae45f2a916530",
            "5bf6efde10c5c09d583b809c48f5c5933e6a9a9a02c306f85264fa8e8fbf4d0a"
        ]
    );
    let closure = Stage::closure("f", |_| Ok([("y", 1.0)])).budget(1).survivors(1).reuse("v\n1");
    let spec = Study::builder("s").seed(u64::MAX).stage(closure).spec().unwrap();
    let values = [
        ("a", Value::Int(1)),
        ("b", Value::Float(1.0)),
        ("c", Value::Str("1".into())),
        ("d", Value::Bool(false)),
        ("e", Value::Float(-0.0)),
        ("f", Value::Float(2.5e20)),
        ("g", Value::Float(1e-300)),
        ("h", Value::Str("\u{1}é\"\\".into())),
        ("i", Value::Float(1e16)),
        ("j", Value::Int(i64::MIN)),
    ];
    assert_eq!(
        identity(&spec, 0).trial(&params(&spec, &values), &[]).to_string(),
        "dc70fccdac02269e547cc2d352d63547816a943a6da6d847df47c222eed62ca8"
    );
}

#[test]
fn known_seeds() {
    let spec = spec(STUDY);
    let seen =
        |density| Params::from([("density".into(), Value::Float(density)), ("flat".into(), Value::Bool(true))]);
    let of = |density| seed(7, &spec.stages[1], &seen(density), None);
    assert_eq!((of(0.5), of(1.0)), (3_152_261_350, 4_208_589_432));
}

/// What is said otherwise by `to` instead of `from`: the key, and whether that makes other results of `synth` and of `place`.
type Said = (&'static str, &'static str, &'static str, [bool; 2]);

const BOTH: [bool; 2] = [true, true];
const NEITHER: [bool; 2] = [false, false];
const SYNTH: [bool; 2] = [true, false];
const PLACE: [bool; 2] = [false, true];

#[rustfmt::skip]
const SAID: &[Said] = &[
    ("study.name", "name = \"t\"", "name = \"u\"", NEITHER),
    ("study.base_case", "#study", "study.base_case = \"x\"", NEITHER),
    ("study.description", "#study", "study.description = \"x\"", NEITHER),
    ("study.author", "#study", "study.author = \"x\"", NEITHER),
    ("study.tags", "#study", "study.tags = [\"x\"]", NEITHER),
    ("study.seed", "seed = 7", "seed = 8", BOTH),
    ("study.inputs", "[\"flow\", ", "[\"flow\", \"more\", ", BOTH),
    ("study.inputs", "[\"flow\", ", "[", BOTH),
    // As it is spelled, but for what spells nothing; in whatever order.
    ("study.inputs", "[\"flow\", \"./lib/a.lib\"]", "[\"lib/a.lib\", \"flow\"]", NEITHER),
    ("study.inputs", "\"./lib/a.lib\"", "\"lib/../lib/a.lib\"", BOTH),
    // What is in them is told by their hashes.
    ("study.inputs_ignore", "#study", "study.inputs_ignore = [\"*.log\"]", NEITHER),
    ("study.versions", "#study", "study.versions.sta = [\"sta\"]", BOTH),
    ("study.versions", "\"-V\"", "\"--version\"", NEITHER),
    ("params", "params.idle = 1", "params.idle = 2", BOTH),
    ("params", "params.idle = 1", "params.idle = 1.0", BOTH),
    ("params", "params.idle = 1", "params.idle = \"1\"", BOTH),
    ("params", "params.idle = 1", "params.idlf = 1", BOTH),
    ("env", "LANG = \"C\"", "LANG = \"de\"", BOTH),
    ("env", "LANG = \"C\"", "LONG = \"C\"", BOTH),
    ("env", "#root", "env.A = \"\"", BOTH),
    ("rails", "#root", "rails.max_runtime = \"1h\"", NEITHER),
    ("run.workers", "workers = 2", "workers = 9", NEITHER),
    ("run.executor", "#run", "run.executor = \"slurm\"", NEITHER),
    ("run.grace", "#run", "run.grace = \"1s\"", NEITHER),
    ("run.sync_interval", "#run", "run.sync_interval = \"1s\"", NEITHER),
    ("run.on_event", "#run", "run.on_event = \"x\"", NEITHER),
    ("run.reuse_from", "#run", "run.reuse_from = [\"../x.redb\"]", NEITHER),
    ("run.reuse_check", "#run", "run.reuse_check = 0.5", NEITHER),
    ("run.disk_limit", "#run", "run.disk_limit = \"1GiB\"", NEITHER),
    ("run.ray", "#run", "run.ray.num_cpus = 2", NEITHER),
    ("run.slurm", "#run", "run.slurm.cpus = 2", NEITHER),
    ("base.command", "\"make {design}\"", "\"make  {design}\"", BOTH),
    ("base.command", "\"make {design}\"", "[\"make {design}\"]", BOTH),
    ("base.timeout", "#base", "base.timeout = \"1s\"", NEITHER),
    ("stage.name", "name = \"synth\"", "name = \"other\"", NEITHER),
    ("stage.command", "{study_dir}/x", "{study_dir}/y", SYNTH),
    ("stage.command", "\"{{lit}}\"]", "\"{{lit\", \"}}\"]", SYNTH),
    ("stage.command", "{seed} {density}", "{seed} {flat}", PLACE),
    ("stage.command", "\"place.sh {parent_dir} {seed} {density}\"", "[\"place.sh {parent_dir} {seed} {density}\"]", PLACE),
    ("stage.trial_budget", "trial_budget = 4", "trial_budget = 5", NEITHER),
    ("stage.survivor_count", "\"all\"", "2", NEITHER),
    ("stage.explore", "survivor_count = \"all\"", "survivor_count = 1\nexplore = 1", NEITHER),
    ("stage.sampling", "#synth", "sampling = \"random\"", NEITHER),
    ("stage.selection", "#synth", "selection = \"pareto\"\nobjective = [{ metric = \"area\", goal = \"minimize\" }]", NEITHER),
    ("stage.timeout", "#synth", "timeout = \"1s\"", NEITHER),
    ("stage.retries", "#synth", "retries = 3", NEITHER),
    ("stage.outputs", "\"net.v\", ", "", SYNTH),
    ("stage.outputs", "\"net.v\", \"sdf/a.sdf\"", "\"sdf/a.sdf\", \"net.v\"", SYNTH),
    ("stage.sweep", "[8, 8.5", "[8, 16, 8.5", NEITHER),
    ("stage.require", "#synth", "objective = [{ metric = \"area\", goal = \"minimize\" }]\nrequire = [{ metric = \"area\", at_most = 1 }]", NEITHER),
    ("stage.objective", "#synth", "objective = [{ metric = \"area\", goal = \"minimize\" }]", NEITHER),
    ("stage.metrics", "scale = 0.5", "scale = 0.25", SYNTH),
    ("stage.metrics", "stdout.log", "stderr.log", SYNTH),
    ("stage.metrics", "area (", "AREA (", SYNTH),
    ("stage.metrics", "metrics.area", "metrics.space", SYNTH),
    ("stage.progress", "#synth", "progress.final = false", SYNTH),
    ("stage.progress", "#synth", "progress = { file = \"stdout.log\", regex = '(?P<step>.) (?P<y>.)' }", SYNTH),
    ("stage.progress", "#synth", "progress = { file = \"stdout.log\", metrics.y = { regex = '(.)' } }", SYNTH),
    ("stage.memory_limit", "#synth", "memory_limit = \"1GiB\"", NEITHER),
    ("stage.rails", "#synth", "rails.max_failure_rate = 0.5", NEITHER),
    ("stage.failure", "#synth", "failure = [{ kind = \"x\", exit_code = 3 }]", NEITHER),
    ("stage.failures", "#synth", "failures = \"eda\"", NEITHER),
    ("stage.approve", "#place", "approve = true", NEITHER),
    ("stage.keep", "#synth", "keep = { survivors = \"outputs\", others = \"logs\", failed = \"nothing\" }", NEITHER),
    // A replica is part of a result, and how often there is another one is not.
    ("stage.repeats", "trial_budget = 4", "trial_budget = 12\nrepeats = 3", NEITHER),
    ("stage.race", "survivor_count = 1", "survivor_count = 1\nrace = { max = 2, metric = \"t\", goal = \"minimize\" }", NEITHER),
    ("resources", "#root", "resources.licence = 1", NEITHER),
    ("stage.needs", "#synth", "needs = { cpus = 2, memory = \"1GiB\" }", NEITHER),
    ("stage.workers", "#synth", "workers = 1", NEITHER),
    ("stage.aggregate", "#synth", "aggregate = \"median\"", NEITHER),
    ("stage.reuse", "reuse = \"2\"", "reuse = \"3\"", PLACE),
    ("stage.reuse", "reuse = \"2\"", "reuse = true", PLACE),
    ("stage.uses", "[\"density\", \"flat\"]", "[\"density\"]", PLACE),
    ("stage.uses", "[\"density\", \"flat\"]", "[\"flat\", \"density\"]", NEITHER),
    ("stage.inputs", "[\"place.tcl\"]", "[\"place.tcl\", \"more\"]", PLACE),
    ("stage.inputs", "[\"place.tcl\"]", "[\"place.tcl\", \"flow\"]", NEITHER),
];

#[test]
fn names_and_limits_make_no_other_result_and_all_else_does() {
    let before = results(&spec(STUDY));
    for (key, from, to, others) in SAID {
        let text = STUDY.replace(from, to);
        assert_ne!(text, STUDY, "{key}: {from}");
        let now = results(&spec(&text));
        let differ = [now[0] != before[0], now[1] != before[1]];
        // A constant that a stage does not use is seen by the base command.
        assert_eq!(differ, *others, "{key}: {to}");
    }
    let tables = ["study", "run", "base", "stage", "defaults"];
    // A stage that says one of these cannot reuse.
    let refused = ["stage.halving", "stage.stop_if"];
    for key in key_names().iter().filter(|key| !tables.contains(&key.as_str()) && !refused.contains(&key.as_str()))
    {
        assert!(
            SAID.iter().any(|(said, ..)| said == key),
            "whether `{key}` makes other results is to be said here"
        );
    }
}

#[test]
fn a_param_that_is_not_used_matters_only_to_the_base_command() {
    let text = STUDY.replace("base.command", "#");
    let with = |idle: &str| results(&spec(&text.replace("params.idle = 1", idle)));
    let (one, two) = (with("params.idle = 1"), with("params.idle = 2"));
    assert!(one[0] != two[0] && one[1] == two[1]);
    let spec = spec(&text);
    let place = |fanout: Value| {
        let own = [("fanout", fanout), ("flat", Value::Bool(true)), ("density", Value::Float(0.5))];
        identity(&spec, 1).trial(&params(&spec, &own), &[left("net.v", "n")])
    };
    assert_eq!(place(Value::Int(8)), place(Value::Str("8".into())));
}

#[test]
fn what_the_parent_left_matters_and_not_who_it_was() {
    let spec = spec(STUDY);
    let (identity, params) = (identity(&spec, 1), params(&spec, &[("density", Value::Float(0.5))]));
    let of = |outputs: &[OutputHash]| identity.trial(&params, outputs);
    let as_it_is = of(&[left("net.v", "n"), left("sdf/a.sdf", "a")]);
    assert_eq!(as_it_is, of(&[left("sdf/a.sdf", "a"), left("net.v", "n")]));
    for other in [
        &[left("net.v", "m"), left("sdf/a.sdf", "a")][..],
        &[left("net.v", "a"), left("sdf/a.sdf", "n")],
        &[left("net.w", "n"), left("sdf/a.sdf", "a")],
        &[left("net.v", "n")],
        &[],
    ] {
        assert_ne!(as_it_is, of(other), "{other:?}");
    }
}

#[test]
fn inputs_and_tools_are_what_is_recorded_or_there_is_no_identity() {
    let spec = spec(STUDY);
    let (inputs, versions) = made_with(&spec);
    let of = |stage, inputs: &[InputHash], versions: &[ToolVersion]| {
        StageIdentity::of(&spec, stage, MadeWith { inputs, versions, accepted: &[] })
            .map(|id| id.trial(&Params::new(), &[]))
    };
    let (synth, place) = (of(0, &inputs, &versions), of(1, &inputs, &versions));
    assert!(synth.is_some() && place.is_some());
    let changed = |path: &str| {
        let change = |input: &InputHash| if input.path == path { hash(path, "new") } else { input.clone() };
        inputs.iter().map(change).collect::<Vec<_>>()
    };
    for (path, others) in [("flow", BOTH), ("./lib/a.lib", BOTH), ("place.tcl", PLACE)] {
        let now = changed(path);
        assert_eq!([of(0, &now, &versions) != synth, of(1, &now, &versions) != place], others, "{path}");
    }
    let newer = [ToolVersion { tool: "yosys".into(), version: "2".into() }];
    assert!(of(0, &inputs, &newer).is_some_and(|newer| Some(newer) != synth));
    assert_eq!((of(0, &inputs, &[]), of(0, &inputs[1..], &versions)), (None, None));
    // What only another stage names is nothing to this one.
    assert_eq!(of(0, &inputs[..2], &versions), synth);
    assert_eq!(of(2, &inputs, &versions), None);
}

#[test]
fn a_closure_goes_by_its_stage_and_its_version() {
    let of = |name: &str, version: &str| {
        let stage = Stage::unbound(name).budget(1).survivors(1).reuse(version);
        identity(&Study::builder("s").stage(stage).spec().unwrap(), 0).trial(&Params::new(), &[])
    };
    assert_ne!(of("a", "1"), of("b", "1"));
    assert_ne!(of("a", "1"), of("a", "2"));
    assert_eq!(of("a", "1"), of("a", "1"));
    let plain = Study::builder("s").stage(Stage::unbound("a").budget(1).survivors(1)).spec().unwrap();
    assert!(StageIdentity::of(&plain, 0, MadeWith { inputs: &[], versions: &[], accepted: &[] }).is_none());
}

#[test]
fn a_file_of_cases_is_no_input_of_a_result() {
    let stage = || Stage::argv("a", ["x"]).budget(1).survivors(1).reuse(true).case_file("cases.csv");
    let with = Study::builder("s").input("cases.csv").input("x").stage(stage()).spec().unwrap();
    let without = Study::builder("s").input("x").stage(stage()).spec().unwrap();
    let of = |spec: &Spec| identity(spec, 0).trial(&Params::new(), &[]);
    assert_eq!(of(&with), of(&without));
}

#[test]
fn a_result_without_what_objectives_and_rails_read_is_none() {
    let stage = Stage::argv("a", ["x"]).budget(1).survivors(1).minimize("m").abort_above("r", 1.0);
    let spec = Study::builder("s").stage(stage).spec().unwrap();
    let met = |metrics: &[(&str, Metric)]| {
        let metrics = metrics.iter().map(|(name, metric)| ((*name).to_owned(), metric.clone())).collect();
        spec.stages[0].is_met_by(&metrics)
    };
    assert!(met(&[("m", 1.0.into()), ("r", 2.0.into()), ("x", "y".into())]));
    assert!(!met(&[("m", 1.0.into())]) && !met(&[("m", 1.0.into()), ("r", "2".into())]));
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<i64>().prop_map(Value::Int),
        any::<bool>().prop_map(Value::Bool),
        any::<f64>().prop_filter("finite", |number| number.is_finite()).prop_map(Value::Float),
        (-3_i64..3).prop_map(Value::Int),
        (-3_i8..3).prop_map(|number| Value::Float(number.into())),
        "(-?[0-3](\\.0)?|true|false|.{0,4})".prop_map(Value::Str),
    ]
}

fn some_params() -> impl Strategy<Value = Params> {
    proptest::collection::btree_map("[ab]{1,2}", value(), 0..3)
}

fn some_outputs() -> impl Strategy<Value = Vec<OutputHash>> {
    let output = ("[ab]{1,2}", 0_u8..3).prop_map(|(path, of)| left(&path, &of.to_string()));
    proptest::collection::vec(output, 0..3).prop_map(|mut outputs| {
        outputs.sort_by(|a, b| a.path.cmp(&b.path));
        outputs.dedup_by(|a, b| a.path == b.path);
        outputs
    })
}

proptest! {
    /// Two results have one identity exactly when all that their trials see is the same; and then equal seeds.
    #[test]
    fn identities_are_equal_exactly_when_their_parts_are(
        (a, b) in (some_params(), some_params()), (left_a, left_b) in (some_outputs(), some_outputs()), narrow: bool,
    ) {
        let stage = |uses: Option<&str>| {
            let stage = Stage::argv("a", ["x"]).budget(1).survivors(1).reuse(true);
            uses.map_or(stage.clone(), |name| stage.uses([name]))
        };
        let spec = Study::builder("s").param("a", 1).stage(stage(narrow.then_some("a"))).spec().unwrap();
        let identity = identity(&spec, 0);
        let sees = |params: &Params| spec.stages[0].seen(params.clone());
        let bits = |params: &Params| {
            let typed = |value: Value| match value {
                Value::Float(number) => format!("float {}", number.to_bits()),
                other => format!("{other:?}"),
            };
            sees(params).into_iter().map(|(name, value)| (name, typed(value))).collect::<Vec<_>>()
        };
        let same = bits(&a) == bits(&b) && left_a == left_b;
        prop_assert_eq!(identity.trial(&a, &left_a) == identity.trial(&b, &left_b), same);
        prop_assert_eq!(identity.parts(&a, &left_a) == identity.parts(&b, &left_b), same);
        // What is not seen may be given or not.
        prop_assert_eq!(identity.trial(&a, &left_a), identity.trial(&sees(&a), &left_a));
        if same {
            let of = |params: &Params| seed(7, &spec.stages[0], &sees(params), None);
            prop_assert_eq!(of(&a), of(&b));
        }
    }
}
