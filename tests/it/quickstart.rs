//! The example of the README, whole, and killed in the middle.

use rustix::process::Signal;

use crate::harness::{Sandbox, wait_until};

fn quickstart() -> Sandbox {
    Sandbox::of_example("quickstart")
}

#[test]
fn it_completes_and_a_killed_one_ends_the_same() {
    let whole = quickstart();
    let plan = whole.ok("check study.toml", 0);
    assert!(plan.contains("64 trials") && plan.contains("table_0_0: ./pack.sh"), "{plan}");
    let result = whole.ok("run study.toml", 0);
    assert!(result.contains("table_1_0"), "{result}");
    let dump = whole.dump();
    assert_eq!(dump["study"]["status"], "completed");
    // Both ends of the table tie at 128548 bytes; the memory decides.
    assert_eq!(dump["stages"][1]["survivors"], serde_json::json!(["table_1_0"]));

    let killed = quickstart();
    let engine = killed.start("run study.toml");
    wait_until("a few trials have ended", || killed.lines("engine.err").len() > 12);
    engine.signal(Signal::KILL);
    engine.wait();
    let status = killed.ok("status study.redb", 0);
    assert!(status.contains("interrupted"), "{status}");
    killed.ok("run study.toml", 0);
    assert_eq!(killed.canonical(), whole.canonical());
    killed.ok("verify study.redb", 0);
}
