//! The example that uses all of the study language: it runs, parks, goes on after kills, and ends the same.

use rustix::process::Signal;

use crate::harness::{Sandbox, wait_until};

fn example() -> Sandbox {
    Sandbox::of_example("everything")
}

/// Seven kills while trials of any of its stages run.
fn killed_now_and_then(sandbox: &Sandbox) {
    for _ in 0..7 {
        let begun = sandbox.lines("engine.err").len();
        let mut engine = sandbox.start("run study.toml");
        wait_until("something was reported", || {
            sandbox.lines("engine.err").len() > begun + 5 || engine.child.try_wait().unwrap().is_some()
        });
        if engine.child.try_wait().unwrap().is_none() {
            engine.signal(Signal::KILL);
        }
        engine.wait();
    }
}

#[test]
fn it_says_all_that_can_be_said_and_ends_the_same_after_kills() {
    let whole = example();
    let plan = whole.ok("check study.toml", 0);
    for words in
        ["1 repeated row left out", "sobol; pareto", "base command must succeed", "`piton approve` says so"]
    {
        assert!(plan.contains(words), "{words} in {plan}");
    }
    whole.ok("run study.toml", 8);
    whole.ok("approve study.redb --by ada", 0);
    let result = whole.ok("run study.toml", 0);
    assert!(result.contains("wheel_3_"), "{result}");
    let dump = whole.dump();
    let planned: Vec<u64> = (0..4).map(|n| dump["stages"][n]["planned"].as_u64().unwrap()).collect();
    assert_eq!(planned, [5, 32, 24, 9]);
    whole.ok("verify study.redb", 0);

    let killed = example();
    killed_now_and_then(&killed);
    killed.ok("run study.toml", 8);
    killed.ok("approve study.redb --by bob", 0);
    killed.ok("run study.toml", 0);
    assert_eq!(killed.canonical(), whole.canonical());
    killed.ok("verify study.redb", 0);
}
