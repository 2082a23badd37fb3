//! Trials that end early: by rungs of their stage, and by rules of their own. Whatever the timing, the same ones do.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};

use piton::spec::StopIf;
use piton::{Heard, Metrics, Stage, Study};
use rustix::process::Signal;

use crate::harness::{Sandbox, wait_until};

/// A curve that falls to a value of its own, in steps of a second's hundredth; every ninth fails at its end.
const CURVE: &str = r#"
at=$1 step=0
while [ $step -lt 9 ]; do
    step=$((step + 1))
    @piton progress $step loss=$(( (at * 7919 % 101) + 100 / step + at * step % 5 )) || exit 9
done
[ $((at % 9)) != 4 ]
"#;

/// A stage of so many trials, with halving or rules; the last report is a trial's value.
fn study(trials: u64, script: &str, more: &str) -> Sandbox {
    let sandbox = Sandbox::with_study(format!(
        r#"
[study]
name = "s"
seed = 3
[run]
grace = "1s"
[[stage]]
name = "fit"
command = ["./trial.sh", "{{at}}"]
trial_budget = {trials}
survivor_count = 2
sweep = {{ at = {{ min = 0, max = 999, type = "int" }} }}
sampling = "random"
objective = [{{ metric = "loss", goal = "minimize" }}]
{more}
"#
    ));
    sandbox.script("trial.sh", &script.replace("@piton", env!("CARGO_BIN_EXE_piton")));
    sandbox
}

fn states(sandbox: &Sandbox) -> Vec<String> {
    let dump = sandbox.dump();
    let trials = dump["trials"].as_array().unwrap();
    trials.iter().map(|trial| trial["state"].as_str().unwrap().to_owned()).collect()
}

/// The whole of it: with any number of workers, and killed twenty times, a study has one result.
#[test]
fn a_study_that_halves_has_one_result() {
    let halving = "halving = { rungs = [2, 4, 6], eta = 2, keep = 3 }\nretries = { count = 1, delay = \"0s\" }";
    let mut dumps = Vec::new();
    for workers in [1, 2, 7] {
        let sandbox = study(60, CURVE, halving);
        sandbox.ok(&format!("run study.toml --workers {workers}"), 0);
        sandbox.ok("verify study.redb", 0);
        dumps.push(sandbox.canonical());
    }
    let killed = study(60, CURVE, halving);
    for _ in 0..20 {
        let begun = killed.lines("engine.err").len();
        let mut engine = killed.start("run study.toml --workers 3");
        wait_until("something was reported", || {
            killed.lines("engine.err").len() > begun + 4 || engine.child.try_wait().unwrap().is_some()
        });
        if engine.child.try_wait().unwrap().is_none() {
            engine.signal(Signal::KILL);
        }
        engine.wait();
    }
    killed.ok("run study.toml --workers 2", 0);
    killed.ok("verify study.redb", 0);
    dumps.push(killed.canonical());
    for other in &dumps[1..] {
        assert_eq!(*other, dumps[0]);
    }
    let states = states(&killed);
    let count = |state: &str| states.iter().filter(|found| *found == state).count();
    assert_eq!(states.len(), 60);
    assert!(count("pruned") >= 20 && count("succeeded") >= 3, "{states:?}");
    let status = killed.ok("status study.redb", 0);
    assert!(status.contains(&format!("{} pruned", count("pruned"))), "{status}");
}

/// A trial that is worse than enough others is ended while it runs: it would never end by itself.
#[test]
fn a_doomed_trial_is_ended_and_says_why() {
    let script = r#"
case $1 in *[05]) loss=1 ;; *) loss=9 ;; esac
@piton progress 3 loss=$loss
[ $loss = 1 ] || exec sleep 1000
"#;
    let sandbox = study(12, script, "halving = { rungs = [3], eta = 2, keep = 1 }");
    let text = fs::read_to_string(sandbox.path("study.toml")).unwrap();
    // The first that come are the good ones.
    let cases = (0..12).map(|n| if n < 6 { format!("{}", n * 5) } else { format!("{}", n * 5 + 1) });
    let cases = cases.collect::<Vec<_>>().join(", ");
    let text = text.replace("sampling = \"random\"\n", "");
    sandbox.write("study.toml", text.replace("{ min = 0, max = 999, type = \"int\" }", &format!("[{cases}]")));
    sandbox.ok("run study.toml --workers 2", 0);
    let states = states(&sandbox);
    assert_eq!(states[..6], ["succeeded"; 6]);
    assert_eq!(states[6..], ["pruned"; 6]);
    let why = sandbox.ok("why study.redb s_0_11", 0);
    assert!(why.contains("pruned at step 3 (loss 9): 7th of") && why.contains(" may go on"), "{why}");
    let dump = sandbox.dump();
    let pruned = &dump["trials"][11]["pruned"];
    assert_eq!(pruned["rule"], "halving");
    assert_eq!((pruned["step"].as_u64(), pruned["value"].as_f64()), (Some(3), Some(9.0)));
    assert_eq!(dump["trials"][11]["attempts"][0]["outcome"], "cancelled");
    // Who was ended for that is not called interrupted.
    let cut = dump["accounting"]["interrupted"].as_u64().unwrap();
    let text = sandbox.ok("dump study.redb --format text", 0);
    assert!(text.contains(&format!(", {cut} pruned")) && !text.contains("interrupted"), "{text}");
    let retry = sandbox.run("retry study.redb s_0_11");
    assert_ne!(retry.status.code(), Some(0), "what was pruned has not failed");
    sandbox.ok("verify study.redb", 0);
    let events = sandbox.ok("dump study.redb --events --format jsonl", 0);
    for name in ["rung_reached", "rung_decided"] {
        assert!(events.contains(name), "{name}");
    }
}

#[test]
fn a_trial_ends_by_its_own_rules() {
    let script = r#"
case $1 in
0) for step in 1 2 3 4; do @piton progress $step loss=$step || exit 9; done ;;
1) @piton progress 1 loss=50; exec sleep 1000 ;;
2) @piton progress 1 loss=nan; exec sleep 1000 ;;
3) for step in 1 2 3 9; do @piton progress $step loss=3 || exit 9; done; exec sleep 1000 ;;
4) @piton progress 1 loss=7; @piton progress 2 loss=60; echo '{"loss": 1}' > metrics.json ;;
*) exit 3 ;;
esac
"#;
    let rules = r#"
stop_if = [{ metric = "loss", above = 40 }, { metric = "loss", no_better_for = 5 }]
"#;
    let sandbox = study(6, script, rules);
    let text = fs::read_to_string(sandbox.path("study.toml")).unwrap().replace("sampling = \"random\"\n", "");
    sandbox.write("study.toml", text.replace("{ min = 0, max = 999, type = \"int\" }", "[0, 1, 2, 3, 4, 5]"));
    sandbox.ok("run study.toml --workers 3", 0);
    assert_eq!(states(&sandbox), ["succeeded", "pruned", "pruned", "pruned", "pruned", "failed"]);
    let dump = sandbox.dump();
    let pruned = |trial: usize| {
        let pruned = &dump["trials"][trial]["pruned"];
        (pruned["rule"].as_str().unwrap().to_owned(), pruned["step"].as_u64().unwrap(), pruned["value"].as_f64())
    };
    assert_eq!(pruned(1), ("stop_if".to_owned(), 1, Some(50.0)));
    assert_eq!(pruned(2), ("stop_if".to_owned(), 1, None));
    assert_eq!(pruned(3), ("stop_if".to_owned(), 9, Some(3.0)));
    assert_eq!(pruned(4), ("stop_if".to_owned(), 2, Some(60.0)), "though it came to its end");
    assert_eq!(dump["trials"][4]["metrics"], serde_json::json!({}));
    let why = sandbox.ok("why study.redb s_0_3", 0);
    assert!(why.contains("pruned at step 9") && why.contains("never survive"), "{why}");
}

/// What a program prints decides as well as what it reports.
#[test]
fn what_is_printed_decides() {
    let script =
        "for step in 1 2 3; do echo \"step $step loss $(($1 * 10))\"; done; [ $1 -lt 3 ] || exec sleep 1000";
    let more = r"
progress = { file = 'stdout.log', regex = 'step (?P<step>\d+) loss (?P<loss>\S+)' }
halving = { rungs = [2], eta = 2, keep = 1 }
";
    let sandbox = study(6, script, more);
    let text = fs::read_to_string(sandbox.path("study.toml")).unwrap().replace("sampling = \"random\"\n", "");
    sandbox.write("study.toml", text.replace("{ min = 0, max = 999, type = \"int\" }", "[0, 1, 2, 3, 4, 5]"));
    sandbox.ok("run study.toml --workers 2", 0);
    assert_eq!(states(&sandbox), ["succeeded", "pruned", "pruned", "pruned", "pruned", "pruned"]);
}

/// A report that `piton progress` has acknowledged is there after a kill in the middle of a rung, and fills its slot.
#[test]
fn a_kill_loses_no_report() {
    let script = r#"
[ ! -e "$PITON_SCRATCH_DIR/said" ] || { @piton progress 9 loss=1; exit 0; }
@piton progress 1 loss=5 && @piton progress 2 loss=4 && touch "$PITON_SCRATCH_DIR/said"
exec sleep 1000
"#;
    let sandbox = study(2, script, "halving = { rungs = [2, 9] }");
    let said = ["s_0_0", "s_0_1"].map(|case| sandbox.path(&format!("artifacts/s/0_fit/{case}/scratch/said")));
    let engine = sandbox.start("run study.toml --workers 2");
    wait_until("both trials have reported", || said.iter().all(|said| said.exists()));
    engine.signal(Signal::KILL);
    engine.wait();
    sandbox.ok("run study.toml", 0);
    let dump = sandbox.dump();
    let rungs = dump["trials"][0]["rungs"].as_array().unwrap().clone();
    let shown: Vec<_> = rungs.iter().map(|rung| (rung["at"].as_u64(), rung["value"].as_f64())).collect();
    assert_eq!(shown, [(Some(2), Some(4.0)), (Some(9), Some(1.0))]);
}

#[test]
fn closures_hear_that_they_are_to_end() {
    let dir = tempfile::tempdir().unwrap();
    let ended = std::sync::Arc::new(AtomicU64::new(0));
    let heard = std::sync::Arc::clone(&ended);
    let climb = move |trial: &piton::TrialContext<'_>| {
        let x = trial.float("x")?;
        let mut step = 0;
        loop {
            step += 1;
            if trial.report(step, [("y", x)])? == Heard::End {
                heard.fetch_add(1, Ordering::SeqCst);
                return Err("told to end".into());
            }
            // Who is good enough comes to an end; the others would go on for ever.
            if step >= 4 && x < 1.0 {
                return Ok(Metrics::new());
            }
        }
    };
    let stage = Stage::closure("climb", climb).budget(8).survivors(1).minimize("y");
    let stage = stage.choices(
        "x",
        [0, 0, 0, 0, 5, 6, 7, 8].map(f64::from).into_iter().enumerate().map(|(n, x)| x + n as f64 / 100.0),
    );
    let stage = stage.halving([2]).halving_eta(2).halving_keep(4).stop_if(&StopIf::above("y", 7.0));
    let store = dir.path().join("s.redb");
    let outcome = Study::builder("s").stage(stage).build().unwrap().store(&store).workers(2).run().unwrap();
    assert_eq!(outcome.status, piton::StudyStatus::Completed);
    assert_eq!(ended.load(Ordering::SeqCst), 4);
}

#[test]
fn what_cannot_be_is_refused_with_its_place() {
    for (more, words) in [
        ("halving = { rungs = [3, 3] }", "the rung 3 is not above 3"),
        ("halving = { rungs = [] }", "`rungs` has 0 steps"),
        ("halving = { rungs = [1], metric = \"other\" }", "no objective is called `other`"),
        ("halving = { rungs = [1], goal = \"maximize\" }", "the objective `loss` says otherwise"),
        ("halving = { rungs = [1], eta = 1 }", "eta"),
        ("halving = { rungs = [1] }\nreuse = true", "trials that may end early and `reuse` do not go together"),
        ("halving = { eta = 2 }", "missing key `rungs`"),
        ("stop_if = [{ metric = \"loss\" }]", "one of `below`, `above`, `no_better_for` is missing"),
        ("stop_if = [{ metric = \"loss\", above = 1, below = 0 }]", "only one of"),
        ("stop_if = [{ metric = \"other\", no_better_for = 3 }]", "no objective is called `other`"),
        (
            "stop_if = [{ metric = \"loss\", above = 1, min_delta = 1 }]",
            "`min_delta` means nothing to a threshold",
        ),
        ("stop_if = { metric = \"loss\", above = 1 }", "two brackets"),
    ] {
        let sandbox = study(4, "true", more);
        let refused = sandbox.run("check study.toml");
        let said = crate::harness::both(&refused);
        assert_eq!(refused.status.code(), Some(2), "{more}\n{said}");
        assert!(said.contains(words), "{words} in {said}");
    }
}

/// How many survive can change: what was decided rests on the `keep` that the stage began with, and so does what is still to come.
#[test]
fn a_keep_that_is_not_given_stays_when_more_are_to_survive() {
    let sandbox = study(24, CURVE, "halving = { rungs = [2, 4, 6], eta = 2 }");
    let first = fs::read_to_string(sandbox.path("study.toml")).unwrap();
    let write = |survivors: u64, keep: &str| {
        let next = first.split_once("[[stage]]").unwrap().1.replace("\"fit\"", "\"more\"").replace("24", "4");
        let text = format!("{first}\n[[stage]]\n{next}approve = true\n");
        let text = text.replace("survivor_count = 2", &format!("survivor_count = {survivors}"));
        sandbox.write("study.toml", text.replace("eta = 2", &format!("eta = 2{keep}")));
    };
    let fates = || states(&sandbox).into_iter().take(24).collect::<Vec<_>>();
    write(2, "");
    sandbox.ok("run study.toml --workers 2", 8);
    let before = fates();
    assert!(before.iter().any(|state| state == "pruned"), "{before:?}");
    // The stage that has not begun takes what follows from the file.
    write(4, "");
    let plan = sandbox.ok("amend study.redb study.toml --yes", 0);
    assert!(!plan.contains("stage \"fit\".halving") && !plan.contains("invalidates"), "{plan}");
    assert!(plan.contains("stage \"more\".halving.keep: 2 in the store, 4 now"), "{plan}");
    sandbox.ok("run study.toml --workers 2", 8);
    sandbox.ok("approve study.redb --by ada", 0);
    sandbox.ok("run study.toml --workers 2", 0);
    assert_eq!(fates(), before);
    sandbox.ok("verify study.redb", 0);
    // What is given is another rule.
    write(4, ", keep = 4");
    let words = sandbox.run("amend study.redb study.toml --dry-run");
    let words = String::from_utf8_lossy(&words.stdout).into_owned();
    assert!(words.contains("invalidates stage \"fit\".halving.keep: 2 in the store, 4 now"), "{words}");
}
