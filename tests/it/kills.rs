//! `kill -9` at random moments: of the engine, of its whole process group, of the trials' keeper.

use rustix::process::{Pid, Signal, kill_process};
use std::time::Duration;

use crate::harness::{Sandbox, state_of, wait_until};

/// Two stages, 380 trials in all, each leaving a background grandchild behind.
const STUDY: &str = r#"
[study]
name = "killed"
seed = 11
[run]
workers = 4
[[stage]]
name = "wide"
command = ["./trial.sh", "{x}", "{y}"]
trial_budget = 300
survivor_count = 8
outputs = ["out.txt"]
[stage.sweep]
x = { min = 0, max = 19, type = "int" }
y = { min = -1.0, max = 1.0, steps = 15 }
[[stage.objective]]
metric = "z"
goal = "minimize"
[[stage]]
name = "deep"
command = ["./trial.sh", "{x}", "{w}"]
trial_budget = 80
survivor_count = 3
sampling = "random"
outputs = ["out.txt"]
[stage.sweep]
w = { min = 1e-3, max = 1.0, log = true }
[[stage.objective]]
metric = "z"
goal = "minimize"
"#;

/// A function of its params and seed alone; fails for some of them, and leaves two processes running.
const TRIAL: &str = r#"
echo x >> "$PITON_STUDY_DIR/begun"
sleep 1000 &
setsid sleep 1000 &
echo "$PITON_CASE $1 $2 $PITON_SEED" > out.txt
[ $(( PITON_SEED % 13 )) -eq 0 ] && exit 3
awk -v x="$1" -v y="$2" 'BEGIN { for (i = 0; i < 100000; i++) s += i * i; printf "{\"z\": %.9g}\n", (x - 7.3) * (x - 7.3) + y * y }' > metrics.json
"#;

fn study() -> Sandbox {
    let sandbox = Sandbox::with_study(STUDY);
    sandbox.script("trial.sh", TRIAL);
    sandbox
}

/// A small generator for moments; its seed is printed, so that a failure can be repeated.
struct Moments(u64);

impl Moments {
    fn new() -> Self {
        let clock =
            || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
        let seed = std::env::var("PITON_TEST_SEED").map_or_else(|_| clock(), |seed| seed.parse().unwrap());
        println!("PITON_TEST_SEED={seed}");
        Self(seed | 1)
    }

    /// xorshift64 (Marsaglia 2003).
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

fn balanced(dump: &serde_json::Value) {
    let count = |name: &str| dump["accounting"][name].as_u64().unwrap();
    let parts = count("succeeded") + count("failed") + count("interrupted") + count("running");
    assert_eq!(count("attempts_started"), parts, "{}", dump["accounting"]);
}

#[test]
fn sixty_random_kills_change_nothing() {
    let whole = study();
    whole.ok("run study.toml", 0);
    let expected = whole.canonical();

    let sandbox = study();
    let mut moments = Moments::new();
    let mut kills = 0;
    while kills < 60 {
        let mut engine = sandbox.start("run study.toml");
        // Half of them anywhere from the first instruction on, half while trials run, however fast the machine is.
        if kills % 2 == 0 {
            let begun = sandbox.lines("begun").len();
            wait_until("a trial begins", || sandbox.lines("begun").len() > begun);
        }
        std::thread::sleep(Duration::from_micros(moments.below(20_000)));
        if let Some(status) = engine.child.try_wait().unwrap() {
            panic!("the study ended ({status}) after {kills} kills only: make it longer");
        }
        if kills % 3 == 2 {
            engine.signal_group(Signal::KILL)
        } else {
            engine.signal(Signal::KILL)
        }
        engine.wait();
        kills += 1;
        if kills % 10 == 0 && sandbox.path("study.redb").exists() {
            balanced(&sandbox.dump());
            wait_until("nothing of the study runs", || sandbox.trial_processes().is_empty());
        }
    }
    sandbox.ok("run study.toml", 0);
    assert_eq!(sandbox.canonical(), expected);
    balanced(&sandbox.dump());
    sandbox.ok("verify study.redb", 0);
    assert_eq!(sandbox.trial_processes(), Vec::<u32>::new(), "no orphan is left");
    let interrupted = sandbox.dump()["accounting"]["interrupted"].as_u64().unwrap();
    println!("60 kills, {interrupted} attempts interrupted");
    assert!(interrupted > 0, "the kills hit running trials");
}

#[test]
fn a_killed_keeper_takes_the_trials_with_it_and_the_study_stops_in_good_order() {
    let sandbox = Sandbox::with_study(
        r#"
[study]
name = "kept"
[[stage]]
name = "only"
command = ["sh", "-c", "echo $PPID >> $PITON_STUDY_DIR/keeper; [ $PITON_ATTEMPT = 2 ] || sleep 1000"]
trial_budget = 1
survivor_count = 1
"#,
    );
    let engine = sandbox.start("run study.toml");
    wait_until("the trial runs", || !sandbox.lines("keeper").is_empty());
    let keeper: i32 = sandbox.lines("keeper")[0].parse().unwrap();
    kill_process(Pid::from_raw(keeper).unwrap(), Signal::KILL).unwrap();
    assert_eq!(engine.wait().code(), Some(1));
    wait_until("the trial is gone", || sandbox.trial_processes().is_empty());
    sandbox.ok("run study.toml", 0);
    let dump = sandbox.dump();
    assert_eq!(dump["trials"][0]["attempts"][0]["outcome"], "interrupted");
}

#[test]
fn the_keeper_dies_with_the_engine() {
    let sandbox = Sandbox::with_study(
        r#"
[study]
name = "kept"
[[stage]]
name = "only"
command = "echo $PPID > $PITON_STUDY_DIR/keeper; (setsid sleep 1000 &) ; sleep 1000"
trial_budget = 1
survivor_count = 1
"#,
    );
    let engine = sandbox.start("run study.toml");
    wait_until("the trial runs", || !sandbox.lines("keeper").is_empty());
    let keeper: u32 = sandbox.lines("keeper")[0].parse().unwrap();
    engine.signal(Signal::KILL);
    engine.wait();
    wait_until("the trial and its daemon are gone", || sandbox.trial_processes().is_empty());
    wait_until("the keeper is gone", || state_of(keeper).is_none_or(|state| state == 'Z'));
}
