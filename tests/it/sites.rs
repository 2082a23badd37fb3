//! Clusters as their sites have them: hidden partitions, nodes that lack something, limits, wrong names. Always the real
//! Slurm and the real Ray, whose words count.

use std::process::Command;

use rustix::process::Signal;

use crate::clusters::{Cluster, Ray, Slurm, path_with_ray};
use crate::harness::{Edit, both, wait_until};
use crate::remote::Far;

const NOBODY: u32 = 65_534;

fn events(far: &Far) -> String {
    far.sandbox.ok("dump study.redb --events --format jsonl", 0)
}

fn count(far: &Far, what: &str) -> u64 {
    far.sandbox.dump()["accounting"][what].as_u64().unwrap()
}

/// Ends by a refusal: exit code 1, these words, once in the journal, and nobody blamed.
pub fn refused(far: &Far, words: &[&str]) {
    let output = far.command("run study.toml").output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    for words in words {
        assert!(both(&output).contains(words), "{words}:\n{}", both(&output));
    }
    assert_eq!(count(far, "failed"), 0);
    let events = events(far);
    let told = events.matches("cluster_changed").count();
    // What it may have waited for before it gave up, and why it did.
    assert!((1..=2).contains(&told), "{told} times:\n{events}");
    let status: serde_json::Value = serde_json::from_str(&far.sandbox.ok("status study.redb --json", 0)).unwrap();
    assert!(status["cluster_trouble"].as_str().is_some_and(|trouble| trouble.contains(words[0])), "{status}");
    assert!(far.sandbox.ok("status study.redb", 0).contains("the cluster, when the last run ended: "));
}

#[test]
fn an_ordinary_user_on_a_hidden_partition_of_slurms() {
    let slurm = Slurm::start_with("PartitionName=hid Nodes=ALL Hidden=YES MaxTime=INFINITE State=UP\n");
    slurm.open_to_others();
    let table = slurm.run_table().edit("\"debug\"", "\"hid\"");
    let far = Far::with(&table, slurm.env());
    let own = |path: &std::path::Path| std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    for path in ["", "study.toml", "trial.sh"] {
        own(&far.sandbox.path(path));
    }
    let piton = far.sandbox.path("piton");
    std::fs::copy(env!("CARGO_BIN_EXE_piton"), &piton).unwrap();
    own(&piton);
    let run = |line: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&piton);
        command.args(line.split_whitespace()).current_dir(far.sandbox.path("")).envs(slurm.env());
        // Whatever this user exported for other jobs.
        command.envs([("SQUEUE_PARTITION", "debug"), ("SQUEUE_STATES", "PD"), ("SQUEUE_FORMAT", "%i")]);
        command.envs([("SBATCH_ARRAY_INX", "0-3"), ("SCANCEL_STATE", "PD"), ("SLURM_JOB_ID", "7")]);
        command.env("HOME", far.sandbox.path(""));
        command
    };
    far.sandbox.write("hold", "");
    let mut engine = run("run study.toml").spawn().unwrap();
    wait_until("trials run", || far.begun() >= 8);
    engine.kill().unwrap();
    engine.wait().unwrap();
    // Another user goes on, to whom those jobs are not their own, for longer than jobs may be silent.
    let adopting = far.start("run study.toml");
    let adopted = || events(&far).matches("run_started").count() == 2;
    wait_until("it is taken over", adopted);
    let lost_after = std::time::Instant::now() + std::time::Duration::from_secs(20);
    wait_until("as long as silent jobs are waited for", || std::time::Instant::now() > lost_after);
    assert_eq!((count(&far, "running"), far.begun()), (8, 8), "{}", events(&far));
    assert!(!events(&far).contains("cluster_changed"), "{}", events(&far));
    far.let_go();
    assert_eq!(adopting.wait().code(), Some(0));
    far.check_once();
}

/// What is wrong with a node's view of a directory, and what is said of it.
const SPOILED: [(&str, &str, &str); 3] = [
    ("noexec", "mount --bind DIR DIR && mount -o remount,bind,noexec DIR", "ermission denied"),
    ("read-only", "mount --bind DIR DIR && mount -o remount,bind,ro DIR", ""),
    ("not there", "mount -t tmpfs none DIR", ""),
];

#[test]
fn a_node_of_slurms_that_cannot_start_piton_is_avoided() {
    let mut slurm = Slurm::start();
    for (what, how, words) in SPOILED {
        for more in ["", "array = true\n"] {
            let far = Far::with(&format!("{}{more}", slurm.run_table()), slurm.env());
            let dir = far.sandbox.path("").canonicalize().unwrap();
            slurm.spoil_node(1, &how.replace("DIR", dir.to_str().unwrap().trim_end_matches('/')));
            let output = far.command("run study.toml").output().unwrap();
            assert_eq!(output.status.code(), Some(0), "{what}: {}", both(&output));
            far.check_once();
            let interrupted = count(&far, "interrupted");
            assert!((1..=16).contains(&interrupted), "{what}: {interrupted} jobs went to the node");
            let events = events(&far);
            assert!(events.contains("could not start on n1: "), "{what}:\n{events}");
            assert!(!events.contains("could not start on n2"), "{what}:\n{events}");
            let line = events.lines().find(|line| line.contains("could not start on n1: ")).unwrap();
            let told = line.split_once("on n1: ").unwrap().1;
            assert!(told.contains(words) && told.len() > 8, "{what}: {told}");
            println!("{what}: {told}");
        }
    }
    // Neither node can.
    let far = Far::on(&slurm);
    let dir = far.sandbox.path("").canonicalize().unwrap();
    for n in [1, 2] {
        slurm.spoil_node(n, &SPOILED[0].1.replace("DIR", dir.to_str().unwrap().trim_end_matches('/')));
    }
    refused(&far, &["jobs cannot start", "on n1: ", "ermission denied"]);
}

#[test]
fn what_slurm_refuses_for_good_ends_the_run_with_its_words() {
    let slurm = Slurm::start_with(
        "EnforcePartLimits=ALL\nPartitionName=short Nodes=ALL MaxTime=1 State=UP\n\
         PartitionName=idle Nodes=ALL State=INACTIVE\nPartitionName=theirs Nodes=ALL AllowAccounts=foo State=UP\n",
    );
    let partition = |name: &str| slurm.run_table().edit("\"debug\"", &format!("{name:?}"));
    let refusals = [
        (
            format!("{}time = \"10m\"\n", partition("short")),
            "Requested time limit is invalid (missing or exceeds some limit)",
        ),
        (partition("idle"), "Required partition not available (inactive or drain)"),
        (partition("theirs"), "Invalid account or account/partition combination specified"),
        (format!("{}gres = \"gpu:1\"\n", slurm.run_table()), "Invalid generic resource (gres) specification"),
        (format!("{}mem = \"4TiB\"\n", slurm.run_table()), "Requested node configuration is not available"),
        (format!("{}extra = [\"--constraint=x\"]\n", slurm.run_table()), "Invalid feature specification"),
        (format!("{}extra = [\"--licenses=x:3\"]\n", slurm.run_table()), "Invalid license specification"),
        (format!("{}extra = [\"--no-such\"]\n", slurm.run_table()), "unrecognized option '--no-such'"),
        (slurm.run_table().edit("cpus = 1", "cpus = 400"), "More processors requested than permitted"),
    ];
    for (table, words) in refusals {
        refused(&Far::with(&table, slurm.env()), &[words]);
    }
    // No Slurm at all.
    let far = Far::with(&slurm.run_table(), slurm.env());
    std::fs::create_dir(far.sandbox.path("bin")).unwrap();
    let path = ("PATH".to_owned(), far.sandbox.path("bin").display().to_string());
    refused(&Far { env: vec![path], ..far }, &["`squeue` is not installed here, or not in `PATH`"]);
    let far = Far::with(&slurm.run_table(), slurm.env());
    let nowhere = ("SLURM_CONF".to_owned(), far.sandbox.path("none").display().to_string());
    refused(&Far { env: vec![nowhere], ..far }, &["cannot stat file"]);
}

#[test]
fn what_is_no_ray_is_not_waited_for() {
    let far = |address: &str| {
        Far::with(&format!("executor = \"ray\"\n[run.ray]\naddress = \"{address}\"\n"), vec![path_with_ray()])
    };
    refused(&far("http://no.such.host.invalid:8265"), &["no ray answers", "failed to lookup address information"]);
    // Something else listens there.
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in server.incoming() {
            let mut stream = stream.unwrap();
            let _ = std::io::Read::read(&mut stream, &mut [0; 4096]);
            let _ = std::io::Write::write_all(
                &mut stream,
                b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            );
        }
    });
    refused(&far(&format!("http://127.0.0.1:{port}")), &["is not Ray's dashboard", "HTTP 404"]);
    // Nothing does: that may be a cluster that starts, for a while.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    refused(&far(&format!("http://127.0.0.1:{nobody}")), &["no ray answers", "Connection refused"]);
}

#[test]
fn a_wrong_token_is_refused_by_ray_and_a_node_that_cannot_start_jobs_is_avoided() {
    let ray = Ray::start_with(&[("RAY_AUTH_MODE", "token"), ("RAY_AUTH_TOKEN", "right-0123456789abcdef")]);
    let far = Far::on(&ray);
    let mut env = far.env.clone();
    env.push(("RAY_AUTH_TOKEN".to_owned(), "wrong-0123456789abcdef".to_owned()));
    refused(&Far { env, ..far }, &["it wants another token"]);
    // Ray's own clients find theirs in a file.
    let far = Far::on(&ray);
    let text = std::fs::read_to_string(far.sandbox.path("study.toml")).unwrap();
    let fewer =
        text.edit("trial_budget = 14", "trial_budget = 3").edit("survivor_count = 2", "survivor_count = 1");
    far.sandbox.write("study.toml", &fewer);
    far.sandbox.write("token", "right-0123456789abcdef\n");
    let mut env = far.env.clone();
    env.retain(|(name, _)| name != "RAY_AUTH_TOKEN");
    let path = far.sandbox.path("token").display().to_string();
    env.push(("RAY_AUTH_TOKEN_PATH".to_owned(), path));
    Far { env, ..far }.ok("run study.toml", 0);
    // Nowhere can it start: Ray's words say why.
    let far = Far::with(&format!("{}program = \"/no/piton\"\n", ray.run_table()), ray.env());
    refused(&far, &["jobs cannot start", "/no/piton"]);
    far.told("/no/piton");
}

#[test]
fn a_time_limit_of_slurms_that_was_reached_with_nobody_there_is_a_timeout() {
    let slurm = Slurm::start_with("MinJobAge=2\n");
    let far = Far::with(&format!("{}time = \"1m\"\n", slurm.run_table()), slurm.env());
    far.sandbox.edit("study.toml", "workers = 8", "workers = 2");
    let engine = far.hold(2);
    engine.signal(Signal::KILL);
    engine.wait();
    let forgotten = || slurm.ask(&["squeue", "-h", "-a", "-t", "all"]).is_empty();
    wait_until("Slurm has ended and forgotten them", forgotten);
    far.let_go();
    far.ok("run study.toml", 0);
    let dump = far.sandbox.dump();
    let kinds: Vec<_> =
        dump["trials"].as_array().unwrap().iter().map(|trial| trial["failure"]["kind"].as_str()).collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == Some("timeout")).count(), 2, "{kinds:?}");
}

#[test]
fn a_ray_head_of_the_studys_own_that_dies_is_noticed() {
    let table = "executor = \"ray\"\n[run.ray]\naddress = \"local\"\nnum_cpus = 0.25\n";
    let far = Far::with(table, vec![path_with_ray()]);
    let engine = far.hold(2);
    // The head is the process that the keeper started for it.
    let heads = || {
        let pids =
            std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let of_head = |pid: &String| {
            let read = |file: &str| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let line = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
            let ours = far.sandbox.path("").display().to_string();
            let log = std::fs::read_link(format!("/proc/{pid}/fd/1"));
            line.contains("start --head --block") && log.is_ok_and(|log| log.starts_with(&ours))
        };
        pids.filter(of_head).filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>()
    };
    let found = heads();
    assert!(!found.is_empty());
    for pid in found {
        let _ = rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), Signal::KILL);
    }
    assert_eq!(engine.wait().code(), Some(1));
    assert_eq!((count(&far, "running"), count(&far, "failed")), (0, 0));
    assert!(events(&far).contains("Ray's head node has ended"), "{}", events(&far));
    wait_until("nothing of it is left", || far.sandbox.trial_processes().is_empty());
    far.let_go();
    far.ok("run study.toml", 0);
    far.check();
}

#[test]
fn a_node_of_rays_that_cannot_start_piton_is_avoided() {
    let mut ray = Ray::start();
    let far = Far::on(&ray);
    let dir = far.sandbox.path("").canonicalize().unwrap();
    ray.spoil_worker(&SPOILED[0].1.replace("DIR", dir.to_str().unwrap().trim_end_matches('/')));
    far.ok("run study.toml", 0);
    far.check_once();
    assert!((1..=16).contains(&count(&far, "interrupted")), "{}", events(&far));
    assert!(events(&far).contains("could not start on 127.0.0.3: "), "{}", events(&far));
}

fn interruptions(far: &Far) -> Vec<String> {
    let events = events(far);
    let events = events.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    events
        .filter(|event| event["outcome"] == "interrupted" || event["verdict"] == "interrupted")
        .map(|event| event["reason"].as_str().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn what_slurm_did_to_a_job_is_said_in_its_words() {
    let mut slurm = Slurm::start_with(
        "PreemptType=preempt/partition_prio\nPreemptMode=CANCEL\n\
         PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=9\n",
    );
    let far = Far::on(&slurm);
    far.workers(&slurm, 4);
    let engine = far.hold(4);
    let any = |words: &str| interruptions(&far).iter().any(|reason| reason == words);
    let first = slurm.ask(&["squeue", "-h", "-t", "R", "-o", "%i"]).lines().next().unwrap().to_owned();
    slurm.ask(&["scancel", &first]);
    // This Slurm keeps no accounts, and nobody knows who did it.
    wait_until("one was cancelled", || any("its job was cancelled"));
    wait_until("it runs again", || far.begun() == 5);
    slurm.ask(&[
        "sbatch",
        "-p",
        "urgent",
        "-N2",
        "--exclusive",
        "--chdir=/",
        "--output=/dev/null",
        "--wrap",
        "sleep 1",
    ]);
    wait_until("others were preempted", || any("its job was preempted"));
    wait_until("they run again", || {
        far.running() == 4 && slurm.ask(&["squeue", "-h", "-t", "R"]).lines().count() == 4
    });
    wait_until("on both nodes", || far.begun() >= 9);
    for n in [1, 2] {
        slurm.kill_node(n);
    }
    wait_until("nodes failed", || any("its node failed"));
    for n in [1, 2] {
        slurm.start_node(n);
    }
    far.let_go();
    assert_eq!(engine.wait().code(), Some(0));
    far.check();
    let all = interruptions(&far);
    assert!(!all.iter().any(|reason| reason.contains("with the engine")), "{all:?}");
}

/// What the real `sacct` of a Slurm with accounts printed; this machine has none.
#[test]
fn who_cancelled_a_job_is_told_where_slurm_keeps_accounts() {
    let slurm = Slurm::start();
    let far = Far::on(&slurm);
    far.workers(&slurm, 2);
    std::fs::create_dir(far.sandbox.path("bin")).unwrap();
    far.sandbox.script(
        "bin/sacct",
        "for ids; do :; done\nIFS=,\nfor id in $ids; do echo \"$id|CANCELLED by 65534\"; done\n",
    );
    let path = format!("{}:{}", far.sandbox.path("bin").display(), std::env::var("PATH").unwrap());
    let mut env = far.env.clone();
    env.push(("PATH".to_owned(), path));
    let far = Far { env, ..far };
    let engine = far.hold(2);
    slurm.ask(&["scancel", slurm.ask(&["squeue", "-h", "-t", "R", "-o", "%i"]).lines().next().unwrap()]);
    let told = "its job was cancelled by user nobody (65534)";
    wait_until("it is told who did it", || interruptions(&far).iter().any(|reason| reason == told));
    far.let_go();
    assert_eq!(engine.wait().code(), Some(0));
    far.check();
}

/// A share in memory, with room for the program.
struct Share(std::path::PathBuf);

impl Share {
    fn at(path: std::path::PathBuf) -> Self {
        std::fs::create_dir(&path).unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=512m", "none"]).arg(&path).output().unwrap();
        assert!(mounted.status.success(), "a share is mounted as root: {}", both(&mounted));
        Self(path)
    }

    fn fill(&self) {
        let mut file = std::fs::File::create(self.0.join("filler")).unwrap();
        std::io::copy(&mut std::io::repeat(7), &mut file).unwrap_err();
    }

    fn free(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

/// The share is full when jobs want to leave what they came to: they wait, and no success runs again.
#[test]
fn results_of_slurms_jobs_wait_for_a_share_that_is_full() {
    let slurm = Slurm::start();
    let far = Far::on(&slurm);
    let share = Share::at(far.sandbox.path("artifacts"));
    // All of a trial's own work is done before the disk is full.
    let trial = std::fs::read_to_string(far.sandbox.path("trial.sh")).unwrap();
    let hold = "while [ -e \"$PITON_STUDY_DIR/hold\" ]; do sleep 0.05; done\n";
    let (begin, work) = trial.split_once(hold).unwrap();
    let (begin, work) =
        (begin.edit("$PITON_STUDY_DIR/begun", "$PITON_STUDY_DIR/ready"), work.edit("exit 3", "code=3"));
    let told = "echo \"$PITON_CASE $PITON_ATTEMPT\" >> \"$PITON_STUDY_DIR/begun\"\n";
    far.sandbox.script("trial.sh", &format!("code=0\n{begin}{work}{told}{hold}exit $code\n"));
    let engine = far.hold(8);
    share.fill();
    far.let_go();
    wait_until("the trials have ended", || far.sandbox.trial_processes().is_empty());
    assert_eq!(slurm.ask(&["squeue", "-h", "-t", "running"]).lines().count(), 8, "their jobs wait");
    share.free();
    assert_eq!(engine.wait().code(), Some(0));
    // All that had succeeded counts. The one that failed may have failed for the disk, and ran again.
    assert_eq!(far.check().len(), 41);
    assert_eq!(count(&far, "interrupted"), 1);
}
