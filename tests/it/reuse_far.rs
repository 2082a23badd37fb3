//! Results that are taken where trials are proposed, and where they run on a cluster: the same as everywhere.

use rustix::process::Signal;

use crate::clusters::{Cluster, Ray, Slurm};
use crate::harness::{Sandbox, StudyFile, both, wait_until};

/// Two stages with outputs. Of the first each trial is equal to another one.
fn study(x: &str, run: &str) -> StudyFile {
    StudyFile::new("s")
        .with("seed = 7")
        .run("workers = 4\nreuse_check = 0.2")
        .with(run)
        .stage(
            "synth",
            r#"echo $PITON_CASE.$PITON_ATTEMPT >> $PITON_STUDY_DIR/log
               while test -e $PITON_STUDY_DIR/hold; do sleep 0.05; done; mkdir -p d
               echo {x} $PITON_SEED > d/net.v; echo "{{\"m\": {x}}}" > metrics.json"#,
            40,
            2,
        )
        .with("reuse = true")
        .with(r#"uses = ["x"]"#)
        .with(r#"outputs = ["d/net.v"]"#)
        .sweep(format!("other = [1, 2]\nx = [{x}]"))
        .maximize("m")
        .stage(
            "place",
            r#"echo $PITON_CASE.$PITON_ATTEMPT >> $PITON_STUDY_DIR/log
               cat {parent_dir}/d/net.v > placed; echo "{{\"k\": {k}}}" > metrics.json"#,
            6,
            1,
        )
        .with("reuse = true")
        .with(r#"outputs = ["placed"]"#)
        .sweep("k = [1, 2, 3]")
        .maximize("k")
}

fn reused(sandbox: &Sandbox) -> u64 {
    sandbox.dump()["accounting"]["reused"].as_u64().unwrap()
}

/// A study of a cluster whose grid grows, and whose engine is killed while the rest runs: it gives what this machine gives that
/// runs everything.
fn grows_on(cluster: &impl Cluster) {
    let alone = Sandbox::with_study(study("1, 2, 3, 4, 5", "").edit("reuse_check = 0.2", "reuse_check = 1"));
    alone.ok("run study.toml", 0);
    let (run, env) = (cluster.run_table(), cluster.env());
    let sandbox = Sandbox::with_study(study("1, 2, 3", &run));
    let ok = |line: &str| {
        let output = sandbox.piton(line.split_whitespace()).envs(env.iter().cloned()).output().unwrap();
        assert!(output.status.success(), "`piton {line}`\n{}", both(&output));
    };
    ok("run study.toml");
    let first = reused(&sandbox);
    assert!((1..=3).contains(&first), "{first}: each is equal to another, and some are checked");
    sandbox.write("study.toml", study("1, 2, 3, 4, 5", &run));
    ok("amend study.redb study.toml --yes --discard-from synth");
    sandbox.write("hold", "");
    let begun = sandbox.lines("log").len();
    let engine = sandbox.start_with("run study.toml", &env);
    wait_until("something runs", || sandbox.lines("log").len() >= begun + 2);
    wait_until("something was taken", || reused(&sandbox) > first);
    engine.signal(Signal::KILL);
    engine.wait();
    std::fs::remove_file(sandbox.path("hold")).unwrap();
    ok("run study.toml");
    let dump = sandbox.dump();
    let taken: Vec<_> =
        dump["trials"].as_array().unwrap().iter().filter(|t| t.get("reused_from").is_some()).collect();
    // For six there was an equal one before; one of these is run to check it.
    assert!(taken.len() >= 5, "{dump}");
    assert!(taken.iter().all(|trial| trial["attempts"] == serde_json::json!([])), "{dump}");
    assert_eq!(dump["study"].get("doubts"), None);
    sandbox.ok("verify study.redb", 0);
    assert_eq!(sandbox.canonical(), alone.canonical());
    // Numbers are given anew by the amendment.
    let mut log = sandbox.lines("log").split_off(begun);
    log.sort();
    assert!(log.windows(2).all(|pair| pair[0] != pair[1]), "an attempt ran twice: {log:?}");
}

#[test]
fn a_grid_grows_on_slurm() {
    grows_on(&Slurm::start());
}

#[test]
fn a_grid_grows_on_ray() {
    grows_on(&Ray::start());
}

/// Proposes what follows from the results that it was told, and says what it was told.
const SEEKER: &str = r#"
import json, sys
told = []
for line in sys.stdin:
    message = json.loads(line)
    with open("heard", "a") as heard:
        heard.write(line)
    if message["type"] == "tell" and message["state"] == "succeeded":
        told.append((message["metrics"]["m"], message["params"]["x"]))
    elif message["type"] == "ask":
        best = min(told)[1] if told else 50
        step = (message["ask"] * 7 + len(told) * 13) % 41 - 20
        print(json.dumps({"params": {"x": max(0, min(100, best + step))}}), flush=True)
"#;

fn proposed(name: &str, budget: u64, run: &str) -> StudyFile {
    StudyFile::new(name)
        .run("workers = 3")
        .with(run)
        .stage(
            "seek",
            r#"echo {x} >> $PITON_STUDY_DIR/log; echo {x} > x
               echo "{{\"m\": $(( ({x} - 37) * ({x} - 37) ))}}" > metrics.json"#,
            budget,
            2,
        )
        .with("reuse = true")
        .with(r#"outputs = ["x"]"#)
        .with(r#"sampling = { ask = ["python3", "seek.py"], parallel = 3 }"#)
        .sweep(r#"x = { min = 0, max = 100, type = "int" }"#)
        .minimize("m")
}

fn seeks(text: &StudyFile) -> Sandbox {
    let sandbox = Sandbox::with_study(text);
    sandbox.write("seek.py", SEEKER);
    sandbox.ok("run study.toml", 0);
    sandbox
}

/// What the proposer was told, but for how often it was asked.
fn heard(sandbox: &Sandbox) -> Vec<String> {
    let told = sandbox.lines("heard");
    told.into_iter().filter(|line| line.contains("\"tell\"")).map(|line| line.replace("last_", "s_")).collect()
}

#[test]
fn what_a_proposer_asks_for_is_taken_and_told_as_if_it_had_run() {
    let last = seeks(&proposed("last", 12, ""));
    let whole = seeks(&proposed("s", 16, ""));
    let from = format!("reuse_from = [\"{}\"]", last.path("study.redb").display());
    let sandbox = seeks(&proposed("s", 16, &from));
    assert_eq!(reused(&sandbox), 12);
    assert_eq!((last.lines("log").len(), sandbox.lines("log").len(), whole.lines("log").len()), (12, 4, 16));
    assert_eq!(sandbox.canonical(), whole.canonical());
    assert_eq!(heard(&sandbox), heard(&whole));
    sandbox.ok("verify study.redb", 0);
    // One whose results are all checked hears the same.
    let checked = seeks(&proposed("s", 16, &format!("{from}\nreuse_check = 1")));
    assert_eq!((reused(&checked), checked.canonical()), (0, whole.canonical()));
    // Of its own, once they are discarded.
    let grown = seeks(&proposed("s", 12, ""));
    grown.write("study.toml", proposed("s", 16, ""));
    grown.ok("amend study.redb study.toml --yes --discard-from seek", 0);
    grown.ok("run study.toml", 0);
    assert_eq!((reused(&grown), grown.canonical()), (12, whole.canonical()));
}
