//! `kill -9` at random moments: of the engine, of its whole process group, of the trials' keeper.

use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use crate::harness::{Edit, Engine, Sandbox, StudyFile, state_of, wait_until};

/// Two stages, 380 trials in all, each leaving a background grandchild behind.
fn study_file() -> StudyFile {
    StudyFile::new("killed")
        .with("seed = 11")
        .run("workers = 4")
        .stage("wide", ["./trial.sh", "{x}", "{y}"], 300, 8)
        .with(r#"outputs = ["out.txt"]"#)
        .sweep("x = { min = 0, max = 19, type = \"int\" }\ny = { min = -1.0, max = 1.0, steps = 15 }")
        .minimize("z")
        .stage("deep", ["./trial.sh", "{x}", "{w}"], 80, 3)
        .with(r#"sampling = "random""#)
        .with(r#"outputs = ["out.txt"]"#)
        .sweep("w = { min = 1e-3, max = 1.0, log = true }")
        .minimize("z")
}

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
    let sandbox = Sandbox::with_study(study_file());
    sandbox.script("trial.sh", TRIAL);
    sandbox
}

/// A small generator for moments; its seed is printed, so that a failure can be repeated.
pub struct Moments(u64);

impl Moments {
    pub fn new() -> Self {
        let clock =
            || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
        let seed = std::env::var("PITON_TEST_SEED").map_or_else(|_| clock(), |seed| seed.parse().unwrap());
        println!("PITON_TEST_SEED={seed}");
        Self(seed | 1)
    }

    /// xorshift64 (Marsaglia 2003).
    pub fn below(&mut self, limit: u64) -> u64 {
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

#[derive(Clone, Copy, Debug, PartialEq)]
enum Prey {
    Engine,
    Group,
    Keeper,
}

/// The keeper of an engine, if it is there yet.
fn keeper_of(engine: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{engine}/task/{engine}/children")).ok()?;
    let is_keeper = |pid: &u32| {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "trial-keeper")
    };
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).find(is_keeper)
}

/// The results that count so far: case and attempt. No trial has two.
fn accepted(dump: &serde_json::Value) -> BTreeMap<String, u64> {
    balanced(dump);
    let mut accepted = BTreeMap::new();
    for trial in dump["trials"].as_array().unwrap() {
        let ended =
            |attempt: &&serde_json::Value| attempt["outcome"] == "succeeded" || attempt["outcome"] == "failed";
        let results: Vec<_> = trial["attempts"].as_array().unwrap().iter().filter(ended).collect();
        assert!(results.len() <= 1, "0 doubled: {trial}");
        for result in results {
            accepted.insert(trial["case"].as_str().unwrap().to_owned(), result["n"].as_u64().unwrap());
        }
    }
    accepted
}

/// Kills at random moments until there were so many kills, in as many studies as that takes; every one of them ends as
/// the one that was never touched.
fn hunt(kills_wanted: u32, prey: Prey) {
    let whole = study();
    whole.ok("run study.toml", 0);
    let expected = whole.canonical();
    let mut moments = Moments::new();
    let (mut kills, mut studies, mut interrupted) = (0, 0, 0);
    while kills < kills_wanted {
        let sandbox = study();
        studies += 1;
        let mut results = BTreeMap::new();
        while kills < kills_wanted {
            let Some(status) = strike(&sandbox, prey, kills, &mut moments) else {
                kills += 1;
                if kills % 15 == 0 && sandbox.path("study.redb").exists() {
                    let now = accepted(&sandbox.dump());
                    assert!(
                        results.iter().all(|(case, n)| now.get(case) == Some(n)),
                        "0 lost: {results:?} {now:?}"
                    );
                    results = now;
                    // With keeper and engine both gone, the next run ends what is left.
                    if prey != Prey::Keeper {
                        wait_until("0 orphans", || sandbox.trial_processes().is_empty());
                    }
                }
                continue;
            };
            assert_eq!(status.code(), Some(0), "a run that nobody killed in time completes the study");
            break;
        }
        sandbox.ok("run study.toml", 0);
        let dump = sandbox.dump();
        let now = accepted(&dump);
        assert!(results.iter().all(|(case, n)| now.get(case) == Some(n)), "0 lost: {results:?} {now:?}");
        assert_eq!(sandbox.canonical(), expected);
        sandbox.ok("verify study.redb", 0);
        wait_until("0 orphans", || sandbox.trial_processes().is_empty());
        interrupted += dump["accounting"]["interrupted"].as_u64().unwrap();
    }
    println!(
        "figure: {kills} kills ({prey:?}) in {studies} studies, {interrupted} attempts interrupted: 0 lost, 0 doubled, 0 orphans"
    );
    assert!(interrupted > 0, "the kills hit running trials");
}

/// One run, killed at a random moment; its own end if it was faster.
fn strike(sandbox: &Sandbox, prey: Prey, kills: u32, moments: &mut Moments) -> Option<std::process::ExitStatus> {
    let mut engine = sandbox.start("run study.toml");
    // Half of them anywhere from the first instruction on, half while trials run, however fast the machine is.
    if kills.is_multiple_of(2) {
        let begun = sandbox.lines("begun").len();
        let mut ended = false;
        wait_until("a trial begins", || {
            ended = engine.child.try_wait().unwrap().is_some();
            ended || sandbox.lines("begun").len() > begun
        });
    }
    // Some come late enough for results to gather in between.
    let within_us = if kills % 4 == 2 { 150_000 } else { 20_000 };
    std::thread::sleep(Duration::from_micros(moments.below(within_us)));
    if let Some(status) = engine.child.try_wait().unwrap() {
        return Some(status);
    }
    match prey {
        Prey::Engine => engine.signal(Signal::KILL),
        Prey::Group => engine.signal_group(Signal::KILL),
        Prey::Keeper => {
            let mut keeper = None;
            wait_until("there is a keeper, or no engine any more", || {
                keeper = keeper_of(engine.pid());
                keeper.is_some() || engine.child.try_wait().unwrap().is_some()
            });
            let Some(keeper) = keeper else { return Some(engine.wait()) };
            let killed = kill_process(Pid::from_raw(keeper as i32).unwrap(), Signal::KILL);
            // Without the engine's own end every study would see one kill only, and it goes on with another keeper.
            std::thread::sleep(Duration::from_micros(moments.below(40_000)));
            if let Some(status) = engine.child.try_wait().unwrap() {
                return Some(status);
            }
            assert!(killed.is_ok());
            engine.signal(Signal::KILL);
        }
    }
    engine.wait();
    None
}

#[test]
fn random_kills_of_the_engine_change_nothing() {
    hunt(140, Prey::Engine);
}

#[test]
fn random_kills_of_the_whole_group_change_nothing() {
    hunt(100, Prey::Group);
}

#[test]
fn random_kills_of_the_keeper_change_nothing() {
    hunt(70, Prey::Keeper);
}

/// A trial that somebody kills has failed, and its retry is as good as it would have been.
#[test]
fn killed_and_stopped_trials_change_nothing_but_attempts() {
    let patient = || {
        let sandbox = Sandbox::with_study(
            study_file()
                .edit("[run]", "[defaults]\nretries = { count = 200, delay = \"0s\", jitter = false }\n[run]"),
        );
        // Only the cases that fail by themselves do so in the end, whatever becomes of their retries.
        sandbox.script("trial.sh", &TRIAL.edit("&& exit 3", "&& { echo '{\"z\": 1e6}' > metrics.json; exit 0; }"));
        sandbox
    };
    let whole = patient();
    whole.ok("run study.toml", 0);
    let sandbox = patient();
    let mut engine = sandbox.start("run study.toml");
    let mut moments = Moments::new();
    let mut killed = 0;
    while engine.child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_micros(moments.below(20_000)));
        let trials = sandbox.trial_processes();
        let Some(pid) = trials.get(moments.below(trials.len().max(1) as u64) as usize) else { continue };
        let pid = Pid::from_raw(*pid as i32).unwrap();
        // Any of them may be gone by now; a stopped one is continued.
        match moments.below(3) {
            0 if killed < 60 => killed += u32::from(kill_process(pid, Signal::KILL).is_ok()),
            1 => {
                let _ = kill_process(pid, Signal::STOP);
                std::thread::sleep(Duration::from_micros(moments.below(2_000)));
                let _ = kill_process(pid, Signal::CONT);
            }
            _ => {
                engine.signal(Signal::STOP);
                std::thread::sleep(Duration::from_micros(moments.below(2_000)));
                engine.signal(Signal::CONT);
            }
        }
    }
    assert_eq!(engine.wait().code(), Some(0));
    println!("figure: {killed} processes of trials killed, others stopped and continued");
    assert!(killed > 0);
    assert_eq!(sandbox.canonical(), whole.canonical());
    balanced(&sandbox.dump());
    sandbox.ok("verify study.redb", 0);
    wait_until("nothing is left", || sandbox.trial_processes().is_empty());
}

#[test]
fn a_second_engine_is_refused_at_every_moment() {
    let whole = study();
    whole.ok("run study.toml", 0);
    let sandbox = study();
    let mut moments = Moments::new();
    // From the first instruction on, one of two runs it; which one is open.
    let first = sandbox.start("run study.toml");
    std::thread::sleep(Duration::from_micros(moments.below(20_000)));
    let second = sandbox.piton(["run", "study.toml"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut engines = [first, Engine { child: second }];
    let mut refused = 0;
    let ended = |engines: &mut [Engine; 2], refused: &mut u32| {
        let codes = engines.each_mut().map(|engine| engine.child.try_wait().unwrap().map(|status| status.code()));
        if codes.contains(&Some(Some(5))) {
            *refused = 1;
        }
        codes.iter().all(Option::is_some)
    };
    let mut others = 0;
    wait_until("a trial begins", || !sandbox.lines("begun").is_empty());
    while !ended(&mut engines, &mut refused) {
        std::thread::sleep(Duration::from_micros(moments.below(20_000)));
        match sandbox.run("run study.toml").status.code() {
            Some(5) => others += 1,
            // The study was over by then.
            Some(0) => {}
            other => panic!("{other:?}"),
        }
    }
    let codes = engines.map(|engine| engine.wait().code());
    assert!(codes == [Some(0), Some(5)] || codes == [Some(5), Some(0)], "one of two runs it: {codes:?}");
    println!("figure: {} second engines refused", others + refused);
    assert!(others > 0);
    assert_eq!(sandbox.canonical(), whole.canonical());
    assert_eq!(sandbox.dump()["accounting"]["interrupted"], 0, "nobody's trials were hurt");
    sandbox.ok("verify study.redb", 0);
}

#[test]
fn a_killed_keeper_takes_the_trials_with_it_and_the_study_goes_on() {
    let sandbox = Sandbox::with_study(StudyFile::new("kept").stage(
        "only",
        ["sh", "-c", "echo $PPID >> $PITON_STUDY_DIR/keeper; [ $PITON_ATTEMPT = 2 ] || sleep 1000"],
        1,
        1,
    ));
    let engine = sandbox.start("run study.toml");
    wait_until("the trial runs", || !sandbox.lines("keeper").is_empty());
    let keeper: i32 = sandbox.lines("keeper")[0].parse().unwrap();
    kill_process(Pid::from_raw(keeper).unwrap(), Signal::KILL).unwrap();
    assert_eq!(engine.wait().code(), Some(0));
    wait_until("the trial is gone", || sandbox.trial_processes().is_empty());
    let dump = sandbox.dump();
    assert_eq!(dump["trials"][0]["attempts"][0]["outcome"], "interrupted");
    assert_eq!(dump["trials"][0]["attempts"][1]["outcome"], "succeeded");
}

/// Six trials, of which some kill the keeper, out of what leaves its group, its session and its environment.
fn killers(killing: &str, extra: &str) -> Sandbox {
    let sandbox = Sandbox::with_six_trials("killers", extra);
    sandbox.script(
        "trial.sh",
        &format!(
            r#"
case "$1" in {killing})
    env -i setsid setsid sh -c "echo \$\$ >> '$PITON_STUDY_DIR/hidden'; exec sleep 1000" &
    while [ ! -s "$PITON_STUDY_DIR/hidden" ]; do sleep 0.01; done
    kill -9 $PPID; sleep 1000;;
esac
sleep 0.05
echo "{{\"n\": $1}}" > metrics.json
"#
        ),
    );
    sandbox
}

fn killed_keeper(sandbox: &Sandbox, expected: &[&str]) -> String {
    for pid in sandbox.lines("hidden") {
        let state = state_of(pid.parse().unwrap());
        assert!(state.is_none_or(|state| state == 'Z'), "{pid} is left");
    }
    assert_eq!(sandbox.trial_processes(), Vec::<u32>::new());
    let dump = sandbox.dump();
    let trials = dump["trials"].as_array().unwrap();
    let failed: Vec<_> = trials.iter().filter(|trial| trial["state"] == "failed").collect();
    assert!(failed.iter().all(|trial| trial["failure"]["kind"] == "killed_keeper"), "{failed:?}");
    let cases: Vec<_> = failed.iter().map(|trial| trial["case"].as_str().unwrap()).collect();
    assert_eq!(cases, expected);
    assert!(trials.iter().all(|trial| trial["state"] == "failed" || trial["state"] == "succeeded"));
    sandbox.ok("verify study.redb", 0);
    sandbox.canonical()
}

/// Whatever ran beside it, and however many: it is the one that fails.
#[test]
fn a_trial_that_kills_its_keeper_fails_and_nobody_else() {
    for (killing, expected) in [("2", &["killers_0_1"][..]), ("1|6", &["killers_0_0", "killers_0_5"])] {
        let mut seen = Vec::new();
        for workers in [1, 3, 6] {
            let sandbox = killers(killing, "");
            sandbox.ok(&format!("run study.toml -j {workers}"), 0);
            seen.push(killed_keeper(&sandbox, expected));
        }
        assert!(seen.iter().all(|canonical| *canonical == seen[0]));
    }
}

/// Trying again would kill it again.
#[test]
fn a_trial_that_kills_its_keeper_is_not_retried() {
    let sandbox = killers("3", "[defaults]\nretries = { count = 5, delay = \"0s\" }");
    sandbox.ok("run study.toml -j 2", 0);
    killed_keeper(&sandbox, &["killers_0_2"]);
    assert_eq!(sandbox.dump()["accounting"]["failed"], 1);
    let replayed = sandbox.run("replay study.redb killers_0_2");
    assert!(String::from_utf8_lossy(&replayed.stdout).contains("killed_keeper"), "{replayed:?}");
    killed_keeper(&sandbox, &["killers_0_2"]);
}

#[test]
fn the_keeper_dies_with_the_engine() {
    let sandbox = Sandbox::with_study(StudyFile::new("kept").stage(
        "only",
        "echo $PPID > $PITON_STUDY_DIR/keeper; (setsid sleep 1000 &) ; sleep 1000",
        1,
        1,
    ));
    let engine = sandbox.start("run study.toml");
    wait_until("the trial runs", || !sandbox.lines("keeper").is_empty());
    let keeper: u32 = sandbox.lines("keeper")[0].parse().unwrap();
    engine.signal(Signal::KILL);
    engine.wait();
    wait_until("the trial and its daemon are gone", || sandbox.trial_processes().is_empty());
    wait_until("the keeper is gone", || state_of(keeper).is_none_or(|state| state == 'Z'));
}
