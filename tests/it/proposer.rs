//! Stages whose trials a program proposes: what it is told, that it is told the same after every crash, and what becomes
//! of it when it misbehaves.

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use serde_json::{Value as Json, json};

use crate::harness::{Edit, Sandbox, StudyFile, both, wait_until};

/// Looks for the least `m` near the best so far; it says what it was told in `heard`.
const SEEKER: &str = r#"
import json, sys
results, told, asked = {}, [], 0
for line in sys.stdin:
    message = json.loads(line)
    with open("heard", "a") as heard:
        heard.write(line)
    if message["type"] == "tell" and message["state"] == "succeeded":
        told.append((message["metrics"]["m"], message["params"]["x"]))
    elif message["type"] == "ask":
        low, high = 0, 100
        best = min(told)[1] if told else 50
        step = (message["ask"] * 7 + len(told) * 13) % 41 - 20
        print(json.dumps({"params": {"x": max(low, min(high, best + step))}}), flush=True)
"#;

/// `more` are further keys of the stage.
fn study(parallel: u32, budget: u64, more: &str) -> StudyFile {
    StudyFile::new("s")
        .run(r#"grace = "2s""#)
        .stage(
            "seek",
            r#"echo $PITON_CASE >> $PITON_STUDY_DIR/begun
               echo "{{\"m\": $(( ({x} - 37) * ({x} - 37) ))}}" > metrics.json"#,
            budget,
            2,
        )
        .with(format!(r#"sampling = {{ ask = ["python3", "seek.py"], parallel = {parallel} }}"#))
        .with(more)
        .sweep(r#"x = { min = 0, max = 100, type = "int" }"#)
        .minimize("m")
}

fn with(study: &StudyFile, proposer: &str) -> Sandbox {
    let sandbox = Sandbox::with_study(study);
    sandbox.write("seek.py", proposer);
    sandbox
}

/// What the proposer heard, message by message.
fn heard(sandbox: &Sandbox) -> Vec<Json> {
    sandbox.lines("heard").iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The conversations: each begins with a `start`. What only tells that a question is an old one is left out.
fn conversations(sandbox: &Sandbox) -> Vec<Vec<Json>> {
    let mut all: Vec<Vec<Json>> = Vec::new();
    for mut message in heard(sandbox) {
        message.as_object_mut().unwrap().remove("recorded");
        match all.last_mut() {
            Some(last) if message["type"] != "start" => last.push(message),
            _ => all.push(vec![message]),
        }
    }
    all
}

fn xs(dump: &Json) -> Vec<i64> {
    dump["trials"].as_array().unwrap().iter().map(|trial| trial["params"]["x"].as_i64().unwrap()).collect()
}

#[test]
fn each_question_comes_after_exactly_the_results_it_may_know() {
    let sandbox = with(&study(3, 12, ""), SEEKER);
    sandbox.ok("run study.toml --workers 3", 0);
    let messages = heard(&sandbox);
    let start = &messages[0];
    assert_eq!((&start["type"], &start["protocol"], &start["parallel"]), (&"start".into(), &1.into(), &3.into()));
    assert_eq!(start["space"], serde_json::json!({"x": {"type": "int", "min": 0, "max": 100, "log": false}}));
    assert_eq!(start["objectives"], serde_json::json!([{"metric": "m", "goal": "minimize"}]));
    let mut told = Vec::new();
    let mut asked = Vec::new();
    for message in &messages[1..] {
        let case = message["case"].as_str().unwrap().to_owned();
        match message["type"].as_str().unwrap() {
            "ask" if asked.last() == Some(&case) => assert!(message["recorded"].is_null()),
            "ask" => {
                // Trial n is asked for once all but two of those before it are told.
                assert_eq!(case, format!("s_0_{}", asked.len()));
                assert_eq!(told.len(), asked.len().saturating_sub(2), "before {case}");
                asked.push(case);
            }
            _ if message["repeated"] == true => {}
            _ => {
                assert_eq!(case, format!("s_0_{}", told.len()));
                told.push(case);
            }
        }
    }
    // In the end it has heard of all of them.
    assert_eq!((asked.len(), told.len()), (12, 12));
    let dump = sandbox.dump();
    assert_eq!(dump["stages"][0]["planned"], 12);
    let mut xs = xs(&dump);
    xs.sort_unstable();
    xs.dedup();
    assert_eq!(xs.len(), 12, "no case twice");
    sandbox.ok("verify study.redb", 0);
}

#[test]
fn workers_and_kills_change_nothing() {
    // Trials of different lengths end in another order than they begin.
    let slow = study(3, 14, "").edit("command = \"", "command = \"sleep 0.0$(( {x} % 7 )); ");
    let whole = with(&slow, SEEKER);
    whole.ok("run study.toml --workers 1", 0);
    let killed = with(&slow, SEEKER);
    for _ in 0..10 {
        let before = killed.lines("heard").len();
        let mut engine = killed.start("run study.toml --workers 3");
        wait_until("something new was said", || {
            killed.lines("heard").len() > before + 9 || engine.child.try_wait().unwrap().is_some()
        });
        if engine.child.try_wait().unwrap().is_none() {
            engine.signal(Signal::KILL);
        }
        engine.wait();
    }
    killed.ok("run study.toml --workers 3", 0);
    assert_eq!(killed.canonical(), whole.canonical());
    killed.ok("verify study.redb", 0);
    // Each proposer heard the beginning of the same conversation.
    let full = &conversations(&whole)[0];
    for conversation in conversations(&killed) {
        assert_eq!(conversation, full[..conversation.len()]);
    }
    assert!(killed.trial_processes().is_empty());
}

#[test]
fn a_repeated_case_is_not_run_again_but_told() {
    // Every second answer repeats the first.
    let repeats = SEEKER.edit("best + step", "5 if message[\"ask\"] % 2 else message[\"ask\"]");
    let sandbox = with(&study(2, 5, ""), &repeats);
    let output = sandbox.run("run study.toml");
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    assert!(both(&output).contains("repeated earlier cases once: they are not run again"), "{}", both(&output));
    let dump = sandbox.dump();
    assert_eq!(xs(&dump), [0, 5, 2, 4, 6]);
    assert_eq!(sandbox.lines("begun").len(), 5);
    let messages = heard(&sandbox);
    let of = |kind: &str| messages.iter().filter(|message| message["type"] == kind).collect::<Vec<_>>();
    let mut told: Vec<u64> = of("tell").iter().map(|message| message["ask"].as_u64().unwrap()).collect();
    told.sort_unstable();
    // Each question is told of once; the repeated ones of trial 1.
    assert_eq!(told, (0..of("ask").len() as u64).collect::<Vec<_>>());
    let repeated: Vec<_> = of("tell").into_iter().filter(|message| message["repeated"] == true).collect();
    assert!(!repeated.is_empty() && repeated.iter().all(|message| message["params"]["x"] == 5));
    let events = sandbox.ok("dump study.redb --events", 0);
    assert!(events.contains("x=4 (after 1 repetition)"), "{events}");
}

#[test]
fn a_proposer_that_has_no_more_ends_its_stage_and_is_asked_again_for_a_larger_budget() {
    let short = SEEKER.edit("        low, high", "        if len({x for _, x in told}) == 4:\n            print('{\"done\": true}', flush=True)\n            continue\n        low, high");
    let sandbox = with(&study(1, 10, ""), &short);
    let output = sandbox.run("run study.toml");
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    assert!(both(&output).contains("no further trials: its proposer has no more"), "{}", both(&output));
    let dump = sandbox.dump();
    assert_eq!((&dump["stages"][0]["planned"], &dump["stages"][0]["succeeded"]), (&4.into(), &4.into()));
    // Four of ten were used; the rest may be, now that there is more to say.
    sandbox.write("seek.py", SEEKER);
    sandbox.write("study.toml", study(1, 12, ""));
    let amended = sandbox.ok("amend study.redb study.toml --yes", 0);
    assert!(amended.contains("adds up to 2 trials, as its proposer says"), "{amended}");
    sandbox.ok("run study.toml", 0);
    let after = sandbox.dump();
    assert_eq!(after["stages"][0]["planned"], 12);
    assert_eq!(xs(&after)[..4], xs(&dump)[..]);
    sandbox.ok("verify study.redb", 0);
}

#[test]
fn a_proposer_always_repeating_itself_has_no_more() {
    let same = SEEKER.edit("best + step", "9");
    let sandbox = with(&study(1, 10, ""), &same);
    let output = sandbox.run("run study.toml");
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    assert!(both(&output).contains("repeated earlier cases 100 times in a row"), "{}", both(&output));
    assert_eq!(xs(&sandbox.dump()), [9]);
}

#[test]
fn what_is_no_answer_stops_the_run_and_the_next_one_goes_on() {
    let bad = |answer: &str| {
        SEEKER.edit(
            "        low, high",
            &format!("        if len({{x for _, x in told}}) == 3:\n            {answer}\n        low, high"),
        )
    };
    let cases = [
        ("print('hello', flush=True)", "its answer is no JSON object: `hello`"),
        ("print('{\"params\": {\"x\": 101}}', flush=True)", "it proposed x = 101, which the sweep does not allow"),
        ("sys.exit(1)", "it ended without an answer; what it said is in `"),
        ("print('x' * 3000000, flush=True)", "its answer is longer than 1048576 bytes"),
    ];
    let whole = with(&study(1, 6, ""), SEEKER);
    whole.ok("run study.toml", 0);
    for (answer, words) in cases {
        let sandbox = with(&study(1, 6, ""), &bad(answer));
        let output = sandbox.run("run study.toml");
        assert_eq!(output.status.code(), Some(1), "{answer}: {}", both(&output));
        let said = both(&output);
        assert!(said.contains("the proposer of stage `seek`") && said.contains(words), "{answer}: {said}");
        assert_eq!(sandbox.dump()["accounting"]["succeeded"], 3, "{answer}");
        sandbox.write("seek.py", SEEKER);
        sandbox.ok("run study.toml", 0);
        assert_eq!(sandbox.canonical(), whole.canonical(), "{answer}");
    }
    // One that is not there at all.
    let sandbox = Sandbox::with_study(study(1, 6, "").edit("\"python3\", \"seek.py\"", "\"./no-such-proposer\""));
    let output = sandbox.run("run study.toml");
    assert_eq!(output.status.code(), Some(1));
    assert!(both(&output).contains("`./no-such-proposer` cannot be started"), "{}", both(&output));
}

#[test]
fn a_proposer_that_hangs_does_not_hold_up_the_end() {
    let hangs = SEEKER.edit("        low, high", "        if message[\"ask\"] == 2:\n            import time\n            time.sleep(1000)\n        low, high");
    for signals in [1, 2] {
        let sandbox = with(&study(1, 6, ""), &hangs);
        let engine = sandbox.start("run study.toml");
        wait_until("it hangs", || heard(&sandbox).iter().any(|m| m["type"] == "ask" && m["ask"] == 2));
        engine.signal(Signal::TERM);
        if signals == 2 {
            wait_until("the drain is recorded", || {
                sandbox.ok("dump study.redb --events", 0).contains("drain_started")
            });
            engine.signal_again(Signal::TERM);
        }
        let status = engine.wait();
        assert!(status.code() == Some(75) || signals == 2, "{status:?}");
        assert!(sandbox.trial_processes().is_empty());
        if signals == 1 {
            // What is still to be proposed is left as well.
            let left = 6 - xs(&sandbox.dump()).len();
            let said = std::fs::read_to_string(sandbox.path("engine.err")).unwrap();
            assert!(said.contains(&format!("{left} trials of the open stage are left")), "{said}");
        }
        sandbox.write("seek.py", SEEKER);
        sandbox.ok("run study.toml", 0);
        assert_eq!(xs(&sandbox.dump()).len(), 6);
    }
}

#[test]
fn a_proposer_of_a_later_stage_knows_whose_children_it_proposes() {
    let study = study(1, 6, "")
        .stage("refine", r#"echo "{{\"m\": $(( ({x} - 37) * {y} ))}}" > metrics.json"#, 5, 1)
        .with(r#"sampling = { ask = ["python3", "refine.py"] }"#)
        .sweep(r#"y = { min = 1, max = 9, type = "int" }"#)
        .minimize("m");
    let sandbox = with(&study, SEEKER);
    sandbox.write(
        "refine.py",
        SEEKER
            .edit("\"heard\"", "\"heard_later\"")
            .edit("[\"x\"]", "[\"y\"]")
            .edit("\"x\": max(low, min(high, best + step))", "\"y\": message[\"ask\"] + 1"),
    );
    sandbox.ok("run study.toml", 0);
    let dump = sandbox.dump();
    let survivors = &dump["stages"][0]["survivors"];
    let asks: Vec<Json> =
        sandbox.lines("heard_later").iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let parents: Vec<&Json> = asks.iter().filter(|m| m["type"] == "ask").map(|m| &m["parent"]).collect();
    assert_eq!(parents, [&survivors[0], &survivors[0], &survivors[0], &survivors[1], &survivors[1]]);
    let trials = dump["trials"].as_array().unwrap();
    let best = trials.iter().find(|trial| trial["case"] == survivors[0]).unwrap();
    let child = trials.iter().find(|trial| trial["case"] == "s_1_0").unwrap();
    assert_eq!((&child["params"]["x"], &child["params"]["y"]), (&best["params"]["x"], &1.into()));
    assert_eq!(asks[1]["parent_params"]["x"], best["params"]["x"]);
    // Whoever looks at one trial sees the same, also who runs it again.
    let why = sandbox.ok("why study.redb s_1_0", 0);
    assert!(why.contains(survivors[0].as_str().unwrap()), "{why}");
    sandbox.ok("replay study.redb s_1_0", 0);
    sandbox.ok("verify study.redb", 0);
}

#[test]
fn the_study_file_says_what_may_be_proposed() {
    let refused = |from: &str, to: &str, words: &str| {
        let sandbox = with(&study(2, 6, "").edit(from, to), SEEKER);
        let output = sandbox.run("check study.toml");
        assert_eq!(output.status.code(), Some(2), "{}", both(&output));
        assert!(both(&output).contains(words), "{words} in {}", both(&output));
    };
    refused("[stage.sweep]\nx = { min = 0, max = 100, type = \"int\" }", "", "a proposer needs a sweep");
    refused("max = 100,", "max = 100, steps = 3,", "`steps` means nothing to a proposer");
    refused(
        "{ ask = [\"python3\", \"seek.py\"], parallel = 2 }",
        "{ ask = [] }",
        "the proposer's command is empty",
    );
    refused("{ ask = [\"python3\", \"seek.py\"], parallel = 2 }", "{ parallel = 2 }", "missing key `ask`");
    refused("parallel = 2", "file = \"c.csv\"", "a file of cases has no proposer");
    refused("parallel = 2", "parallels = 2", "`parallel`");
    let plan = with(&study(2, 6, ""), SEEKER).ok("check study.toml", 0);
    assert!(plan.contains("proposed by `python3 seek.py`, at most 2 at a time"), "{plan}");
}

/// The python3 that `tests/run` made with Optuna in it.
fn python_with_optuna() -> PathBuf {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/python/bin");
    assert!(python.join("python3").exists(), "run `tests/run`, which installs Optuna into `{}`", python.display());
    python
}

/// Runs a study file of `examples/optuna` to its end.
fn run_with_optuna(sandbox: &Sandbox, study: &str) {
    let path = format!("{}:{}", python_with_optuna().display(), std::env::var("PATH").unwrap());
    let output = sandbox.piton(["run", study]).env("PATH", &path).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));
}

/// Trials of both kinds of end are told of: Optuna proposes the same again, and takes up what pruned ones showed.
#[test]
fn optuna_killed_ten_times_ends_in_the_same_trials() {
    let path = format!("{}:{}", python_with_optuna().display(), std::env::var("PATH").unwrap());
    let example = || {
        let sandbox = Sandbox::of_example("optuna");
        std::fs::rename(sandbox.path("descent.toml"), sandbox.path("study.toml")).unwrap();
        // It says what Optuna made of a pruned trial.
        let tell = "study.tell(trial, state=optuna.trial.TrialState.PRUNED)";
        let kept = "kept = study.trials[trial.number]; print(kept.state.name, len(kept.intermediate_values), file=open(\"kept\", \"a\"))";
        sandbox.edit("proposer.py", tell, &format!("{tell}; {kept}"));
        sandbox
    };
    let whole = example();
    run_with_optuna(&whole, "study.toml");
    let dump = whole.dump();
    let of =
        |state: &str| dump["trials"].as_array().unwrap().iter().filter(|trial| trial["state"] == state).count();
    let pruned = of("pruned");
    assert!(pruned >= 10 && of("succeeded") >= 3 && pruned + of("succeeded") == 40, "{pruned} pruned");
    let kept = whole.lines("kept");
    assert_eq!(kept.len(), pruned);
    assert!(kept.iter().all(|line| ["PRUNED 1", "PRUNED 2", "PRUNED 3"].contains(&line.as_str())), "{kept:?}");
    // The least that there is, certified by NIST: 0.12455138894.
    let best = dump["trials"].as_array().unwrap().iter().filter(|trial| trial["state"] == "succeeded");
    let best = best.map(|trial| trial["metrics"]["squares"].as_f64().unwrap()).fold(f64::INFINITY, f64::min);
    assert!((0.124_551_388..0.124_551_39).contains(&best), "{best}");

    let killed = example();
    for round in 1..=10 {
        let finished = |sandbox: &Sandbox| {
            let output = sandbox.run("status study.redb --json");
            let status: Json = serde_json::from_slice(&output.stdout).unwrap_or_default();
            let count = |word: &str| status["stages"][0][word].as_u64().unwrap_or(0);
            count("succeeded") + count("pruned")
        };
        let mut engine = Command::new(env!("CARGO_BIN_EXE_piton"));
        let engine = engine.args(["run", "study.toml"]).current_dir(killed.path(".")).env("PATH", &path);
        let mut engine =
            engine.stderr(std::process::Stdio::null()).stdout(std::process::Stdio::null()).spawn().unwrap();
        wait_until("some more trials are finished", || finished(&killed) >= 3 * round);
        assert!(engine.try_wait().unwrap().is_none(), "it is killed while it runs");
        engine.kill().unwrap();
        engine.wait().unwrap();
    }
    run_with_optuna(&killed, "study.toml");
    assert_eq!(killed.canonical(), whole.canonical());
    killed.ok("verify study.redb", 0);
}

/// What is imported is told before the first question, each time the proposer starts, and is no trial.
#[test]
fn imported_results_are_told_before_the_first_question() {
    let sandbox = with(&study(1, 3, ""), SEEKER);
    sandbox.write("last.csv", "x,m\n36,1\n12.5,4\n38.0,1\n");
    let import = "import study.redb last.csv --stage seek --study study.toml --by ada --yes";
    let said = sandbox.run(import);
    assert_eq!(said.status.code(), Some(2));
    assert!(both(&said).contains("no match    line 3: the sweep does not allow x = 12.5"), "{}", both(&said));
    let said = sandbox.ok(&format!("{import} --unmatched leave"), 0);
    assert!(said.contains("tells       line 2"), "{said}");
    let status = sandbox.ok("status study.redb", 0);
    assert!(status.contains("its proposer is told of 2 imported results"), "{status}");
    sandbox.ok("run study.toml", 0);
    let heard = heard(&sandbox);
    let kinds: Vec<_> = heard.iter().map(|message| message["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["start", "tell", "tell", "ask", "tell", "ask", "tell", "ask", "tell"]);
    assert_eq!((&heard[1]["imported"], &heard[1]["ask"]), (&Json::Bool(true), &Json::Null));
    assert_eq!((&heard[1]["params"], &heard[2]["params"]), (&json!({"x": 36}), &json!({"x": 38})));
    assert_eq!(heard[4].get("imported"), None);
    // They are no trials: the budget is the stage's own.
    let dump = sandbox.dump();
    assert_eq!((dump["trials"].as_array().unwrap().len(), &dump["accounting"]["imported"]), (3, &json!(0)));
    assert_eq!(dump["stages"][0]["told"], 2);
    let events = sandbox.ok("dump study.redb --events", 0);
    assert!(events.contains("seek: 2 results imported from `last.csv` by"), "{events}");
    let canonical: Json = serde_json::from_str(&sandbox.canonical()).unwrap();
    assert_eq!(canonical["stages"][0]["told"][0]["results"], 2);
    sandbox.ok("verify study.redb", 0);
    // Once it was asked, it cannot hear otherwise.
    let larger = study(1, 4, "");
    sandbox.write("study.toml", &larger);
    sandbox.ok("amend study.redb study.toml --yes", 0);
    let late = sandbox.run("import study.redb last.csv --stage seek --unmatched leave --yes");
    assert!(both(&late).contains("was asked already"), "{}", both(&late));
    // One that starts anew hears all of it again.
    std::fs::remove_file(sandbox.path("heard")).unwrap();
    sandbox.ok("run study.toml", 0);
    let again = self::heard(&sandbox);
    assert_eq!(again[1..3], heard[1..3]);
    assert_eq!(again[3]["recorded"], heard[4]["params"]);
}

/// What was imported for a proposer is about its stage, wherever amendments move that, and no result of the study: it outlasts those that go.
#[test]
fn imported_results_stay_with_their_stage() {
    let alone = study(1, 3, "");
    let sandbox = with(&alone, SEEKER);
    sandbox.write("last.csv", "x,m\n36,1\n38,1\n");
    sandbox.ok("import study.redb last.csv --stage seek --study study.toml --yes", 0);
    let warm = |exit: &str| {
        let stage = StudyFile::fragment().stage("warm", exit, 1, 1);
        alone.edit_first("[[stage]]", stage.with("[[stage]]").as_ref())
    };
    let hears = || {
        sandbox.ok("run study.toml", 0);
        let tells = heard(&sandbox).into_iter().filter(|message| message["imported"] == true).count();
        std::fs::remove_file(sandbox.path("heard")).unwrap();
        tells
    };
    sandbox.write("study.toml", warm("true"));
    sandbox.ok("amend study.redb study.toml --yes", 0);
    assert_eq!(sandbox.dump()["stages"][1]["told"], 2);
    assert_eq!(hears(), 2);
    sandbox.write("study.toml", warm("exit 0"));
    sandbox.ok("amend study.redb study.toml --discard-from warm --yes", 0);
    assert_eq!((hears(), &sandbox.dump()["stages"][1]["told"]), (2, &json!(2)));
    sandbox.ok("verify study.redb", 0);
}

/// From the results of an earlier study Optuna knows at its first question where to look.
#[test]
fn optuna_starts_warm_with_the_results_of_another_store() {
    let run = |sandbox: &Sandbox| {
        run_with_optuna(sandbox, "study.toml");
        let dump = sandbox.dump();
        let value = |trial: &Json| trial["metrics"]["value"].as_f64().unwrap();
        dump["trials"].as_array().unwrap().iter().map(value).collect::<Vec<f64>>()
    };
    let cold = Sandbox::of_example("optuna");
    let cold_values = run(&cold);
    // The least value there is, found by others: 0.397887.
    let best = cold_values.iter().copied().fold(f64::INFINITY, f64::min);
    assert!((0.397_887..5.0).contains(&best), "{best}");
    let warm = || {
        let sandbox = Sandbox::of_example("optuna");
        let other = cold.path("study.redb");
        let line =
            format!("import study.redb --from-store {} --stage search --study study.toml --yes", other.display());
        sandbox.ok(&line, 0);
        sandbox
    };
    let first = warm();
    let warm_values = run(&first);
    let mean = |values: &[f64]| values.iter().take(10).sum::<f64>() / 10.0;
    let (cold_mean, warm_mean) = (mean(&cold_values), mean(&warm_values));
    assert!(warm_mean < cold_mean, "the first ten: {cold_mean} cold, {warm_mean} warm");
    let second = warm();
    assert_eq!(run(&second), warm_values, "the same results give the same trials");
}
