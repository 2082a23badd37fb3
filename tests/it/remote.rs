//! The same study on this machine, on a real Slurm and on a real Ray: one canonical dump, and each trial's command run
//! once, whatever is killed meanwhile.

use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::clusters::{Cluster, Ray, Slurm, path_with_ray};
use crate::harness::{Engine, Sandbox, StudyFile, both, wait_until};
use crate::kills::Moments;

/// Two stages, the first of so many trials. Each trial notes that its command ran, and is a function of its params, seed and
/// parent alone.
fn sized(run: &str, wide: usize) -> StudyFile {
    let survivors = wide / 7;
    StudyFile::new("far")
        .with("seed = 5")
        .with("[env]\nNAP = \"0.2\"")
        .run("workers = 8\ngrace = \"1s\"")
        .with(run)
        .stage("wide", ["./trial.sh", "{x}"], wide, survivors)
        .with(r#"outputs = ["out.txt"]"#)
        .sweep(format!(r#"x = {{ min = 1, max = {wide}, type = "int" }}"#))
        .minimize("z")
        .with("[[stage.failure]]\nkind = \"unlucky\"\nlog = \"no luck\"")
        .stage("deep", ["./trial.sh", "{y}"], 3 * survivors, 2)
        .with(r#"outputs = ["out.txt"]"#)
        .sweep("y = { min = 0.1, max = 0.9, steps = 3 }")
        .minimize("z")
}

fn study(run: &str) -> StudyFile {
    sized(run, wide(run))
}

/// Each job of Ray's costs seconds of a processor before it does anything.
fn wide(run: &str) -> usize {
    if run.contains("executor = \"ray\"") { 14 } else { 28 }
}

const TRIAL: &str = r#"
echo "$PITON_CASE $PITON_ATTEMPT" >> "$PITON_STUDY_DIR/begun"
while [ -e "$PITON_STUDY_DIR/hold" ]; do sleep 0.05; done
sleep "$NAP"
[ -z "$PITON_PARENT_DIR" ] || cat "$PITON_PARENT_DIR/out.txt" > out.txt
echo "$PITON_CASE $1 $PITON_SEED" >> out.txt
case $1 in 7|13) echo "no luck" >&2; exit 3;; esac
awk -v x="$1" 'BEGIN { printf "{\"z\": %.17g}\n", (x - 9.3) * (x - 9.3) / 3 }' > metrics.json
"#;

/// A study, and what the program needs in its environment.
pub struct Far {
    pub sandbox: Sandbox,
    pub env: Vec<(String, String)>,
    pub wide: usize,
}

impl Far {
    pub fn on(cluster: &impl Cluster) -> Self {
        Self::with(&cluster.run_table(), cluster.env())
    }

    pub fn with(run: &str, env: Vec<(String, String)>) -> Self {
        let sandbox = Sandbox::with_study(study(run));
        sandbox.script("trial.sh", TRIAL);
        Self { sandbox, env, wide: wide(run) }
    }

    /// So many trials at once.
    pub fn workers(&self, cluster: &impl Cluster, workers: u32) {
        let text = study(&cluster.run_table()).edit("workers = 8", &format!("workers = {workers}"));
        self.sandbox.write("study.toml", &text);
    }

    pub fn start(&self, line: &str) -> Engine {
        self.sandbox.start_with(line, &self.env)
    }

    pub fn command(&self, line: &str) -> Command {
        let mut command = self.sandbox.piton(line.split_whitespace());
        command.envs(self.env.iter().cloned());
        command
    }

    pub fn ok(&self, line: &str, code: i32) {
        let output = self.command(line).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "`piton {line}`\n{}", both(&output));
    }

    /// Completed, with the result of this machine; how many attempts began more than once.
    pub fn check(&self) -> Vec<String> {
        assert_eq!(self.sandbox.canonical(), self.local(), "as on this machine");
        self.sandbox.ok("verify study.redb", 0);
        let dump = self.sandbox.dump();
        let mut begun = self.sandbox.lines("begun");
        begun.sort();
        // Whatever ran for an attempt ran once; every accepted one did.
        assert!(begun.windows(2).all(|pair| pair[0] != pair[1]), "an attempt ran twice: {begun:?}");
        for trial in dump["trials"].as_array().unwrap() {
            let n = trial["attempts"].as_array().unwrap().last().unwrap()["n"].as_u64().unwrap();
            let line = format!("{} {n}", trial["case"].as_str().unwrap());
            assert!(begun.contains(&line), "{line} counts and never ran");
        }
        assert_eq!(dump["accounting"]["running"], 0);
        wait_until("no trial's process is left", || self.sandbox.trial_processes().is_empty());
        begun
    }

    /// The same, and no trial ran more than once.
    pub fn check_once(&self) {
        assert_eq!(self.check().len(), self.trials(), "each trial's command ran once");
    }

    pub fn trials(&self) -> usize {
        self.wide + 3 * (self.wide / 7)
    }

    /// The canonical dump of the study on this machine.
    fn local(&self) -> String {
        let near = Sandbox::with_study(sized("executor = \"local\"\n", self.wide));
        near.script("trial.sh", TRIAL);
        near.ok("run study.toml", 0);
        near.canonical()
    }

    pub fn running(&self) -> usize {
        if !self.sandbox.path("study.redb").exists() {
            return 0;
        }
        self.sandbox.dump()["accounting"]["running"].as_u64().unwrap() as usize
    }

    pub fn begun(&self) -> usize {
        self.sandbox.lines("begun").len()
    }

    /// Lets trials wait, and wait for so many of them.
    pub fn hold(&self, wanted: usize) -> Engine {
        self.hold_by("run study.toml", wanted)
    }

    pub fn hold_by(&self, line: &str, wanted: usize) -> Engine {
        self.sandbox.write("hold", "");
        let engine = self.start(line);
        wait_until("trials run", || self.begun() >= wanted);
        engine
    }

    /// What `why` says of the first trial whose text has these words. Which of the first trials a cluster starts is not
    /// piton's to choose.
    pub fn told(&self, words: &str) -> String {
        let dump = self.sandbox.dump();
        let cases = dump["trials"].as_array().unwrap().iter().map(|trial| trial["case"].as_str().unwrap());
        let all: Vec<_> = cases.map(|case| self.sandbox.ok(&format!("why study.redb {case}"), 0)).collect();
        all.iter()
            .find(|why| why.contains(words))
            .cloned()
            .unwrap_or_else(|| panic!("{words}:\n{}", all.join("\n")))
    }

    pub fn let_go(&self) {
        std::fs::remove_file(self.sandbox.path("hold")).unwrap();
    }

    /// Kills the engine at random moments, and lets it end then.
    fn killed(&self, kills: u32, within_ms: u64) {
        let mut moments = Moments::new();
        let mut struck = 0;
        for _ in 0..kills {
            let mut engine = self.start("run study.toml");
            std::thread::sleep(Duration::from_millis(moments.below(within_ms)));
            if let Some(status) = engine.child.try_wait().unwrap() {
                assert_eq!(status.code(), Some(0));
                break;
            }
            engine.signal(Signal::KILL);
            engine.wait();
            struck += 1;
        }
        println!("figure: {struck} kills of an engine with trials on a cluster: 0 lost, 0 doubled");
        self.ok("run study.toml", 0);
    }
}

#[test]
fn slurm_gives_the_same_results_by_jobs_and_by_arrays() {
    let slurm = Slurm::start();
    for more in ["", "array = true\n"] {
        let far = Far::with(&format!("{}{more}", slurm.run_table()), slurm.env());
        far.ok("run study.toml", 0);
        far.check_once();
        let left: Vec<_> = std::fs::read_dir(far.sandbox.path("artifacts/far/.remote")).unwrap().collect();
        let kept = |entry: &std::io::Result<std::fs::DirEntry>| {
            let name = entry.as_ref().unwrap().file_name().into_string().unwrap();
            !name.starts_with("piton-")
        };
        assert!(!left.iter().any(kept), "{left:?}");
    }
}

#[test]
fn slurm_goes_on_with_its_trials_whenever_the_engine_is_killed() {
    let slurm = Slurm::start();
    let far = Far::on(&slurm);
    far.killed(20, 700);
    far.check_once();
    let arrays = Far::with(&format!("{}array = true\n", slurm.run_table()), slurm.env());
    arrays.killed(20, 700);
    arrays.check_once();
}

#[test]
fn a_node_of_slurms_that_dies_interrupts_its_trials() {
    let mut slurm = Slurm::start();
    let far = Far::on(&slurm);
    let engine = far.hold(8);
    slurm.kill_node(1);
    far.let_go();
    assert_eq!(engine.wait().code(), Some(0));
    assert!(far.check().len() > far.trials(), "trials of the dead node ran again");
    assert!(far.sandbox.dump()["accounting"]["interrupted"].as_u64().unwrap() > 0);
}

#[test]
fn a_controller_of_slurms_that_is_away_is_waited_for() {
    let mut slurm = Slurm::start();
    let far = Far::on(&slurm);
    // So few that processors stay free: Slurm takes long to notice that jobs have ended which could not say so.
    far.workers(&slurm, 3);
    let engine = far.hold(3);
    slurm.kill_controller();
    far.let_go();
    let trouble = || {
        let status = far.sandbox.ok("status study.redb --json", 0);
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        status["cluster_trouble"].is_string()
    };
    wait_until("the trouble is told", trouble);
    assert!(far.sandbox.ok("status study.redb", 0).contains("does not answer"));
    // What runs there is recorded all the same.
    let ended = || far.sandbox.dump()["accounting"]["succeeded"].as_u64().unwrap() > 0;
    wait_until("results come without the controller", ended);
    slurm.start_controller();
    assert_eq!(engine.wait().code(), Some(0));
    far.check();
}

#[test]
fn a_second_signal_leaves_nothing_in_slurm() {
    let slurm = Slurm::start();
    forced(&Far::on(&slurm));
    wait_until("no job is left", || slurm.is_idle());
}

/// A drain waits for what runs and takes back what does not; a second signal ends it all; the next run finishes.
fn forced(far: &Far) {
    let engine = far.hold(8);
    engine.signal(Signal::TERM);
    let draining = || far.sandbox.ok("dump study.redb --events", 0).contains("drain_started");
    wait_until("it drains", draining);
    engine.signal_again(Signal::TERM);
    let status = engine.wait();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(15), "{status}");
    assert_eq!(far.running(), 0);
    wait_until("no trial's process is left", || far.sandbox.trial_processes().is_empty());
    far.let_go();
    far.ok("run study.toml", 0);
    far.check();
}

#[test]
fn a_drain_waits_for_slurms_trials_and_takes_back_those_that_wait() {
    let slurm = Slurm::start();
    let far = Far::on(&slurm);
    far.workers(&slurm, 14);
    let engine = far.hold(8);
    wait_until("others wait in the queue", || far.running() == 14);
    engine.signal(Signal::TERM);
    wait_until("those are taken back", || far.running() == 8);
    far.let_go();
    assert_eq!(engine.wait().code(), Some(75));
    assert_eq!(far.begun(), 8);
    assert!(slurm.is_idle());
    far.ok("run study.toml", 0);
    far.check_once();
}

#[test]
fn slurms_trials_can_be_left_and_taken_over() {
    let slurm = Slurm::start();
    let far = Far::on(&slurm);
    let engine = far.hold_by("run study.toml --detach", 8);
    let known = |status: &str| status.matches(" in the queue").count() == 8;
    wait_until("it is known where", || known(&far.sandbox.ok("status study.redb", 0)));
    engine.signal(Signal::TERM);
    assert_eq!(engine.wait().code(), Some(75));
    assert_eq!(far.running(), 8);
    let status = far.sandbox.ok("status study.redb", 0);
    assert!(status.contains("slurm") && status.contains(" n1"), "{status}");
    far.sandbox.ok("verify study.redb", 0);
    far.let_go();
    far.ok("run study.toml", 0);
    far.check_once();
}

#[test]
fn what_a_dead_engine_left_in_slurm_can_be_taken_back() {
    let slurm = Slurm::start();
    let far = Far::on(&slurm);
    far.hold(8).signal(Signal::KILL);
    let told = |line: &str, code: i32| {
        let output = far.command(line).stdin(std::process::Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", both(&output));
        both(&output)
    };
    // Asking changes nothing, nor does a no; a pipe is nobody who could say yes.
    wait_until("the engine is gone", || told("stop study.redb", 0).contains("may run on slurm"));
    assert!(told("stop study.redb --now", 2).contains("`--yes` takes them back"));
    assert!(!slurm.is_idle());
    let taken = told("stop study.redb --now --yes", 0);
    assert!(taken.contains("nothing of the study is left there"), "{taken}");
    assert_eq!(far.running(), 0);
    wait_until("Slurm has no job", || slurm.is_idle());
    far.sandbox.ok("verify study.redb", 0);
    assert!(told("stop study.redb --now --yes", 0).contains("no engine runs the study"));
    far.let_go();
    far.ok("run study.toml", 0);
    far.check();
}

/// Only where the setup has run there is what trials need; jobs and arrays alike.
#[test]
fn what_trials_need_is_set_up_before_them() {
    let slurm = Slurm::start();
    for array in [false, true] {
        let setup = r#"setup = [". ./env.sh # as on a login", "test \"$LIBRARY\" = there"]"#;
        let table = format!("{}exclude = [\"n2\"]\n{setup}\narray = {array}\n", slurm.run_table());
        let far = Far::with(&table, slurm.env());
        far.sandbox.write("env.sh", "export LIBRARY=there\n");
        far.sandbox.script("trial.sh", &format!("[ \"$LIBRARY\" = there ] || exit 9\n{TRIAL}"));
        // The one node that is left has four processors.
        let engine = far.hold(4);
        let comments = slurm.ask(&["squeue", "--noheader", "--format=%k %N"]);
        let mut on_n1 =
            comments.lines().filter(|line| line.starts_with("far/wide/far_0_") && line.ends_with(" n1"));
        assert!(on_n1.next().is_some() && !comments.contains("n2"), "{comments}");
        far.let_go();
        assert_eq!(engine.wait().code(), Some(0));
        let dump = far.sandbox.dump();
        assert_eq!(dump["stages"][0]["failed"], 2, "as without any setup");
        assert_eq!(dump["accounting"]["interrupted"], 0);
    }
    // No trial is to blame for a setup that fails.
    let far = Far::with(&format!("{}setup = [\"module load nothing\"]\n", slurm.run_table()), slurm.env());
    let output = far.command("run study.toml").output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    assert!(both(&output).contains("setup failed: module load nothing"), "{}", both(&output));
    let dump = far.sandbox.dump();
    assert_eq!(dump["accounting"]["failed"], 0, "{}", both(&output));
    far.told("setup failed: module load nothing");
}

#[test]
fn a_study_stays_where_its_trials_run() {
    let slurm = Slurm::start();
    let far = Far::on(&slurm);
    let engine = far.hold(8);
    engine.signal(Signal::KILL);
    engine.wait();
    far.sandbox.write("study.toml", study("executor = \"local\"\n"));
    let output = far.command("run study.toml").output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", both(&output));
    assert!(both(&output).contains("8 of its trials still run on slurm"), "{}", both(&output));
    far.let_go();
    far.sandbox.write("study.toml", study(&slurm.run_table()));
    far.ok("run study.toml", 0);
    far.check_once();
}

#[test]
fn limits_and_refusals_of_slurms_are_told() {
    let slurm = Slurm::start();
    let far = Far::with("executor = \"slurm\"\n[run.slurm]\npartition = \"nowhere\"\n", slurm.env());
    let output = far.command("run study.toml").output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    assert!(both(&output).contains("invalid partition specified"), "{}", both(&output));
    far.sandbox.write("study.toml", study(&slurm.run_table()));
    far.ok("run study.toml", 0);
    far.check_once();
    let lost = Far::with(&format!("{}program = \"/no/piton\"\n", slurm.run_table()), slurm.env());
    let output = lost.command("run study.toml").output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    assert!(
        both(&output).contains("jobs cannot start") && both(&output).contains("/no/piton"),
        "{}",
        both(&output)
    );
    let dump = lost.sandbox.dump();
    assert_eq!(dump["accounting"]["failed"], 0, "no trial is blamed");
    assert!(lost.told("could not start on n").contains("/no/piton"));
    let status = lost.sandbox.ok("status study.redb", 0);
    assert!(status.contains("when the last run ended: jobs cannot start"), "{status}");
    let events = lost.sandbox.ok("dump study.redb --events", 0);
    assert_eq!(events.matches("cluster_changed").count(), 1, "{events}");
    // Once they can, the same command goes on.
    lost.sandbox.write("study.toml", study(&slurm.run_table()));
    lost.ok("run study.toml", 0);
    lost.check();
}

#[test]
fn ray_gives_the_same_results_and_keeps_trials_whenever_the_engine_is_killed() {
    let ray = Ray::start();
    let far = Far::on(&ray);
    far.killed(20, 4_000);
    far.check_once();
    let jobs = ray.get("/api/jobs/").unwrap();
    let left = jobs.matches("\"submission_id\": \"").count();
    assert!(left <= 10, "what is recorded is deleted there, but for some of the last: {left} of {}", far.trials());
    forced(&Far::on(&ray));
}

#[test]
fn a_ray_cluster_that_dies_and_comes_back_interrupts_its_trials() {
    let mut ray = Ray::start();
    let far = Far::on(&ray);
    let engine = far.hold(8);
    ray.kill_worker();
    let interrupted = || far.sandbox.dump()["accounting"]["interrupted"].as_u64().unwrap() > 0;
    wait_until("trials of the dead node are interrupted", interrupted);
    ray.kill_all();
    far.let_go();
    ray.start_again();
    assert_eq!(engine.wait().code(), Some(0));
    assert!(far.check().len() > far.trials(), "what died ran again");
}

#[test]
fn a_ray_head_of_the_studys_own_is_gone_with_it() {
    // Ray's sockets need short paths, whatever `TMPDIR` is.
    let temp = tempfile::Builder::new().prefix("r").tempdir_in("/tmp").unwrap();
    let own_temp = ("TMPDIR".to_owned(), temp.path().display().to_string());
    let far = Far::with(
        "executor = \"ray\"\n[run.ray]\naddress = \"local\"\nnum_cpus = 0.25\n",
        vec![path_with_ray(), own_temp],
    );
    let heads = || {
        let there = std::fs::read_dir(temp.path()).unwrap().flatten().map(|entry| entry.path());
        there.collect::<Vec<_>>()
    };
    let engine = far.hold(2);
    closed_to_others(&far);
    let killed = heads();
    assert_eq!(killed.len(), 1, "what Ray's helpers leave is in it: {killed:?}");
    // Trials have the engine's directory for temporary files.
    let given = |pid: &u32| std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let own = format!("TMPDIR={}", temp.path().display());
    let has = |pid: &u32| given(pid).split(|byte| *byte == 0).any(|var| var == own.as_bytes());
    assert!(far.sandbox.trial_processes().iter().any(has));
    engine.signal(Signal::KILL);
    engine.wait();
    let of_ray = || {
        let ours = far.sandbox.path("").display().to_string();
        let of_study = |pid: &str| {
            std::fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|args| String::from_utf8_lossy(&args).contains("piton-ray-"))
                && std::fs::read_link(format!("/proc/{pid}/fd/1")).is_ok_and(|log| log.starts_with(&ours))
        };
        std::fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .any(|pid| of_study(&pid))
    };
    wait_until("the head is gone with the engine", || !of_ray() && far.sandbox.trial_processes().is_empty());
    assert_eq!(heads(), killed, "nobody could clean up");
    far.let_go();
    far.ok("run study.toml", 0);
    assert!(!of_ray());
    assert_eq!(heads(), Vec::<std::path::PathBuf>::new(), "what was left went at the next run");
    far.check();
    // One that died when its study was over.
    std::fs::create_dir(temp.path().join("piton-ray-0123456789")).unwrap();
    far.ok("run study.toml", 0);
    assert_eq!(heads(), Vec::<std::path::PathBuf>::new());
}

/// What another user of this machine gets of the head node: nothing.
fn closed_to_others(far: &Far) {
    let lines = || {
        let pids = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = pids.filter(|entry| entry.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit()));
        pids.filter_map(|entry| String::from_utf8(std::fs::read(entry.path().join("cmdline")).ok()?).ok())
    };
    let ours = far.sandbox.path("artifacts/far/.remote").canonicalize().unwrap();
    assert_eq!(mode(&ours), 0o700);
    let jobs = std::fs::read_dir(&ours).unwrap().flatten().map(|entry| entry.path().join("job.json"));
    let jobs: Vec<_> = jobs.filter(|job| job.exists()).collect();
    assert!(!jobs.is_empty() && jobs.iter().all(|job| mode(job) == 0o600), "{jobs:?}");

    // The head of this study: its trials are told where the token lies.
    let environ = far.sandbox.trial_processes().into_iter().find_map(|pid| {
        let environ = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
        let path = environ.split(|byte| *byte == 0).find_map(|var| var.strip_prefix(b"RAY_AUTH_TOKEN_PATH="))?;
        Some(String::from_utf8(path.to_vec()).unwrap())
    });
    let file = std::path::PathBuf::from(environ.unwrap());
    let token = std::fs::read_to_string(&file).unwrap();
    let dir = file.parent().unwrap();
    assert_eq!((mode(dir), mode(&file)), (0o700, 0o600));
    let head =
        lines().find(|line| line.contains("--dashboard-host=") && line.contains(dir.to_str().unwrap())).unwrap();
    let option = |name: &str| head.split(['\0', ' ']).find_map(|word| word.strip_prefix(name)).unwrap().to_owned();
    let (host, port) = (option("--dashboard-host="), option("--dashboard-port="));
    assert!(host.starts_with("127.") && !host.starts_with("127.0.0."), "{host}");
    assert!(!lines().any(|line| line.contains(&token)), "the token stands on a command line");

    let other = |script: &str, args: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3", "-c", script]);
        both(&command.args(args).current_dir("/").env_clear().output().unwrap())
    };
    let ask = "import sys, urllib.request as r\n\
        q = r.Request(sys.argv[1], method=sys.argv[2], headers=dict([sys.argv[3].split('=')]) if sys.argv[3] else {})\n\
        q.data = b'{\"entrypoint\": \"id > /tmp/piton-other\"}' if sys.argv[2] == 'POST' else None\n\
        try: print(r.urlopen(q, timeout=60).status)\n\
        except r.HTTPError as e: print(e.code)";
    let jobs = format!("http://{host}:{port}/api/jobs/");
    for method in ["GET", "POST"] {
        assert_eq!(other(ask, &[&jobs, method, ""]).trim(), "401", "{method}");
        assert_eq!(other(ask, &[&jobs, method, "Authorization=Bearer 00"]).trim(), "403", "{method}");
    }
    let agent = format!("http://{host}:{}/api/job_agent/jobs/", option("--dashboard-agent-listen-port="));
    assert_eq!(other(ask, &[&agent, "POST", ""]).trim(), "401");
    // The token opens it: what refuses is not something else.
    assert_eq!(other(ask, &[&jobs, "GET", &format!("Authorization=Bearer {token}")]).trim(), "200");
    let look = "import os, sys\n\
        try: print(os.listdir(sys.argv[1]))\n\
        except PermissionError: print('no')";
    for closed in [dir, &dir.join("r"), &ours] {
        assert_eq!(other(look, &[closed.to_str().unwrap()]).trim(), "no", "{}", closed.display());
    }
}

/// A `ray` that only answers HTTP, as this script of Python says.
fn with_made_up_ray(body: &str) -> Far {
    let far = Far::with("executor = \"ray\"\n[run.ray]\naddress = \"local\"\n", Vec::new());
    std::fs::create_dir(far.sandbox.path("bin")).unwrap();
    let python = format!(
        r#"import http.server, os, sys, threading, time
options = dict(a[2:].split('=', 1) for a in sys.argv if a.startswith('--') and '=' in a)
here = {here:?}
open(here + '/starts', 'a').write('x\n')
class Dashboard(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        told = self.headers.get('Authorization')
        open(here + '/told', 'a').write(str(told) + '\n')
        status = answer(told)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(b'[]')
    def log_message(self, *args): pass
def serve(seconds):
    at = (options['dashboard-host'], int(options['dashboard-port']))
    server = http.server.ThreadingHTTPServer(at, Dashboard)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    time.sleep(seconds)
{body}"#,
        here = far.sandbox.path(""),
    );
    far.sandbox.write("bin/ray.py", &python);
    far.sandbox
        .script("bin/ray", &format!("exec /usr/bin/python3 {} \"$@\"", far.sandbox.path("bin/ray.py").display()));
    let path = format!("{}:{}", far.sandbox.path("bin").display(), std::env::var("PATH").unwrap());
    Far { env: vec![("PATH".to_owned(), path)], ..far }
}

#[test]
fn a_ray_that_takes_jobs_from_anybody_is_refused() {
    let far = with_made_up_ray("def answer(told): return 200\nserve(1000)\n");
    let output = far.command("run study.toml").output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    assert!(both(&output).contains("Ray 2.52 or later"), "{}", both(&output));
    assert_eq!(far.sandbox.lines("starts").len(), 1, "it would be no better the next time");
}

#[test]
fn whoever_else_answers_in_the_place_of_ray_is_not_told_the_token() {
    let far = with_made_up_ray("def answer(told): return 200\nos.setuid(65534)\nserve(3)\n");
    for file in ["starts", "told"] {
        far.sandbox.write(file, "");
        std::os::unix::fs::chown(far.sandbox.path(file), Some(65534), None).unwrap();
    }
    std::fs::set_permissions(far.sandbox.path(""), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let output = far.command("run study.toml").output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    assert!(both(&output).contains("nothing of this user's listens there"), "{}", both(&output));
    assert_eq!(far.sandbox.lines("starts").len(), 3, "another one is started");
    assert_eq!(far.sandbox.lines("told"), Vec::<String>::new(), "nobody was asked anything");
}

fn mode(path: &std::path::Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// `sbatch` has patterns of its own for what a path may hold.
#[test]
fn slurm_takes_paths_as_they_are() {
    let slurm = Slurm::start();
    for (name, more) in [("j%j_%%a_%", ""), ("b\\x%u", ""), ("é_ü%a'q", ""), ("arr%A\\é'", "array = true\n")] {
        let far = Far::with(&format!("{}{more}", slurm.run_table()), slurm.env());
        std::fs::create_dir(far.sandbox.path(name)).unwrap();
        let text = study(&format!("{}{more}", slurm.run_table()))
            .edit("trial_budget = 28", "trial_budget = 3")
            .edit("survivor_count = 4", "survivor_count = 1");
        far.sandbox.write(&format!("{name}/study.toml"), &text);
        far.sandbox.script(&format!("{name}/trial.sh"), &format!("echo said by a job\n{TRIAL}"));
        far.ok(&format!("run {name}/study.toml"), 0);
        let dump = far.sandbox.ok(&format!("dump {name}/study.redb --format json"), 0);
        let dump: serde_json::Value = serde_json::from_str(&dump).unwrap();
        assert_eq!(dump["accounting"]["attempts_started"], dump["accounting"]["succeeded"], "{name}");
        // What the job itself says is where it is looked for.
        let lost = Far::with("", slurm.env());
        std::fs::create_dir(lost.sandbox.path(name)).unwrap();
        let table = format!("{}program = \"/no/piton\"\n{more}", slurm.run_table());
        lost.sandbox.write(&format!("{name}/study.toml"), study(&table));
        let output = lost.command(&format!("run {name}/study.toml")).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", both(&output));
        assert!(both(&output).contains("/no/piton"), "{}", both(&output));
    }
}

#[test]
fn what_an_aborted_study_left_in_slurm_is_ended_by_the_next_run() {
    let slurm = Slurm::start();
    let text = StudyFile::new("far")
        .run("workers = 4\ngrace = \"1s\"")
        .with(slurm.run_table())
        .stage(
            "a",
            r#"echo "{{\"m\": {n}}}" > metrics.json; echo {n} >> $PITON_STUDY_DIR/begun
               [ {n} != 1 ] || while [ $(wc -l < $PITON_STUDY_DIR/begun) -lt 4 ]; do sleep 0.05; done
               [ {n} = 1 ] || sleep 1000"#,
            4,
            1,
        )
        .with("rails = { abort_if = [{ metric = \"m\", below = 2 }] }")
        .sweep("n = [1, 2, 3, 4]")
        .maximize("m");
    let far = Far::on(&slurm);
    far.sandbox.write("study.toml", &text);
    let engine = far.start("run study.toml");
    let aborted = || {
        let there = far.sandbox.path("study.redb").exists();
        there && far.sandbox.ok("dump study.redb --events", 0).contains("study_aborted")
    };
    wait_until("it is aborted", aborted);
    engine.signal(Signal::KILL);
    engine.wait();
    assert_eq!(far.running(), 3);
    far.ok("run study.toml", 3);
    assert_eq!(far.running(), 0);
    far.sandbox.ok("verify study.redb", 0);
    wait_until("nothing of it is left", || slurm.is_idle() && far.sandbox.trial_processes().is_empty());
}
