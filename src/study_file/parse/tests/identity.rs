//! Specs from code, their JSON, what their identity is and how differences read.

use super::*;
use crate::{Range, Stage, Study, StudyBuilder};

fn in_code() -> StudyBuilder {
    let (when, severity) = (FailureMatch::ExitCode(3), Severity::Low);
    let crash = FailureRule { kind: "crash".into(), when, severity, retryable: false };
    let explore = Stage::unbound("explore")
        .memory_limit(1 << 30)
        .abort_below("area", 1.0)
        .max_failure_rate(0.5)
        .failure(&crash)
        .approve()
        .budget(24)
        .survivors(6)
        .choices("abc", ["speed", "area"])
        .range("clock", Range::float(0.4..=0.8).steps(5))
        .minimize("area");
    let builder = Study::builder("tune").seed(7).param("design", "x").stage(explore);
    builder.max_runtime(Duration::from_secs(60)).catastrophic_failures(2).base_shell("check {design}")
}

#[test]
fn code_and_text_give_the_same_spec() {
    let built = in_code().spec().unwrap();
    let text = "study = { name = \"tune\", seed = 7 }\nparams.design = \"x\"\n".to_owned()
        + "[[stage]]\nname = \"explore\"\ncommand = [\"x\"]\ntrial_budget = 24\nsurvivor_count = 6\n"
        + "sweep.abc = [\"speed\", \"area\"]\nsweep.clock = { min = 0.4, max = 0.8, steps = 5 }\n"
        + "objective = [{ metric = \"area\", goal = \"minimize\" }]\n"
        + "memory_limit = \"1GiB\"\nrails = { abort_if = [{ metric = \"area\", below = 1 }], max_failure_rate = 0.5 }\n"
        + "failure = [{ kind = \"crash\", exit_code = 3, severity = \"low\", retryable = false }]\napprove = true\n"
        + "[rails]\nmax_runtime = \"1m\"\ncatastrophic_failures = 2\n[base]\ncommand = \"check {design}\"\n";
    let mut parsed = good(&text);
    parsed.stages[0].work = Work::Closure;
    assert_eq!(built, parsed);
}

#[test]
fn mistakes_in_code_are_named_by_path() {
    let stage = Stage::argv("explore", ["run", "{nope}"]).budget(2).survivors(3).choices("x", [f64::NAN]);
    let errors = Study::builder("a b").stage(stage).spec().unwrap_err();
    let paths: Vec<&str> = errors.list().iter().map(|mistake| mistake.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "study.name",
            "stage \"explore\".sweep.x[0]",
            "stage \"explore\".command[1]",
            "stage \"explore\".survivor_count",
        ]
    );
    assert!(errors.to_string().starts_with("error: study.name: the name `a b`"), "{errors}");
}

#[test]
fn any_key_of_a_stage_can_be_said_in_code_by_its_name() {
    let stage = || Stage::argv("a", ["x"]).budget(2).survivors(1);
    let spec = |stage: Stage| Study::builder("t").stage(stage).spec();
    let by_name = stage().set("timeout", "90s").set("approve", true).set("retries", 2).set("memory_limit", "1GiB");
    let by_setter = stage().timeout(Duration::from_secs(90)).approve().retries(2).memory_limit(1 << 30);
    assert_eq!(spec(by_name).unwrap(), spec(by_setter).unwrap());
    let errors = spec(stage().set("aprove", true).set("timeout", 3)).unwrap_err();
    let told: Vec<(&str, bool)> = errors
        .list()
        .iter()
        .map(|mistake| {
            let nearest = mistake.help.as_ref().is_some_and(|help| help.starts_with("did you mean `approve`?"));
            (mistake.path.as_str(), nearest)
        })
        .collect();
    assert_eq!(told, [("stage \"a\".aprove", true), ("stage \"a\".timeout", false)]);
}

#[test]
fn json_reads_back_exactly() {
    let mut spec = good(EXAMPLE);
    let values = [1.0, -0.0, 1e300, 5e-324, 0.1, 9_007_199_254_740_993.0].map(SpecValue::from);
    let integers = [i64::MIN, i64::MAX, 0].map(SpecValue::from);
    for (index, value) in values.into_iter().chain(integers).chain([true.into(), "1.0".into()]).enumerate() {
        spec.params.insert(format!("p{index}"), value);
    }
    spec.study.seed = u64::MAX;
    let text = spec.to_json();
    let read = Spec::from_json(&text).unwrap();
    assert_eq!(read, spec);
    assert_eq!(read.to_json(), text);
    let kinds = |spec: &Spec| format!("{:?}", spec.params);
    assert_eq!(kinds(&read), kinds(&spec), "a float stays a float, minus zero stays minus zero");
    assert!(Spec::from_json("{}").is_err());
}

#[test]
fn identity_is_all_but_run() {
    let spec = good(EXAMPLE);
    let other = Spec { run: RunSpec::default(), ..spec.clone() };
    assert_eq!(spec.spec_hash(), other.spec_hash());
    assert_eq!(diff(&spec, &other), []);
    assert_eq!(spec.spec_hash().len(), 64);
    assert!(!spec.identity_json().contains("grace"));
}

#[test]
fn differences_are_readable() {
    let old = good(EXAMPLE);
    let text = EXAMPLE
        .replace("trial_budget   = 24", "trial_budget   = 30")
        .replace("name           = \"refine\"", "name           = \"polish\"")
        .replace("design = \"rtl/gcd.v\"", "design = 1")
        .replace("\"speed\", \"area\"", "\"speed\"")
        .replace("timeout = \"30m\"\n", "");
    let changes: Vec<String> = diff(&old, &good(&text))
        .into_iter()
        .map(|change| format!("{}: {:?} -> {:?}", change.path, change.old, change.new))
        .collect();
    assert_eq!(
        changes,
        [
            r#"params.design: Some("\"rtl/gcd.v\"") -> Some("1")"#,
            r#"stages: Some("[\"explore\", \"refine\"]") -> Some("[\"explore\", \"polish\"]")"#,
            r#"stage "explore".trial_budget: Some("24") -> Some("30")"#,
            r#"stage "explore".timeout: Some("\"30m\"") -> None"#,
            r#"stage "explore".sweep.abc: Some("[\"speed\", \"area\"]") -> Some("[\"speed\"]")"#,
            r#"stage "refine": Some("8 trials, 1 survive, \"./refine.sh {parent_dir} {abc} > log\"") -> None"#,
            r#"stage "polish": None -> Some("8 trials, 1 survive, \"./refine.sh {parent_dir} {abc} > log\"")"#,
        ]
    );
}

#[test]
fn every_rail_and_rule_is_part_of_the_identity_and_named_when_it_differs() {
    let old = good(EXAMPLE);
    let without = |part: &str| {
        assert!(EXAMPLE.contains(part), "{part}");
        let changes = diff(&old, &good(&EXAMPLE.replacen(part, "", 1)));
        changes.into_iter().map(|change| change.to_string()).collect::<Vec<_>>()
    };
    for (part, expected) in [
        ("max_runtime           = \"8h\"\n", "rails.max_runtime: \"8h\" in the store, not set now"),
        ("catastrophic_failures = 3\n", "rails.catastrophic_failures: 3 in the store, not set now"),
        (
            ", \"--check\"",
            "base.command: [\"./synth.sh\", \"{design}\", \"--check\"] in the store, [\"./synth.sh\", \"{design}\"] now",
        ),
        ("timeout = \"1m\"\n", "base.timeout: \"1m\" in the store, not set now"),
        ("memory_limit   = \"4GiB\"\n", "stage \"explore\".memory_limit: 4294967296 in the store, not set now"),
        ("approve        = true\n", "stage \"refine\".approve: true in the store, not set now"),
        ("max_failure_rate = 0.5\n", "stage \"explore\".rails.max_failure_rate: 0.5 in the store, not set now"),
        (
            "abort_if         = [{ metric = \"wns_ps\", below = -5000 }]\n",
            "stage \"explore\".rails.abort_if: [{ metric = \"wns_ps\", below = -5000.0 }] in the store, not set now",
        ),
        (
            "[[stage.failure]]\nkind = \"crash\"\nsignal = \"segv\"\n",
            "stage \"explore\".failure: [{ kind = \"missing_cell\", log = \"Error: .*module .* not found\", severity = \"high\", retryable = false }, { kind = \"crash\", signal = \"SIGSEGV\", severity = \"medium\", retryable = true }] in the store, [{ kind = \"missing_cell\", log = \"Error: .*module .* not found\", severity = \"high\", retryable = false }] now",
        ),
    ] {
        assert_eq!(without(part), [expected]);
    }
}

#[test]
fn the_order_of_a_sweep_is_part_of_the_identity() {
    let old = good(&stage_with("sweep.a = [1, 2]\nsweep.b = [1, 2]", ""));
    let new = good(&stage_with("sweep.b = [1, 2]\nsweep.a = [1, 2]", ""));
    assert_ne!(old.spec_hash(), new.spec_hash());
    assert_eq!(diff(&old, &new).len(), 1);
}
