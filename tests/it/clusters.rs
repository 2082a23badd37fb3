//! Slurm and Ray, started for one test each on loopback, and ended with all they started.
//!
//! What belongs to a cluster is known by an entry in its environment, which jobs inherit, or by its working directory:
//! nothing is ended by name.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{state_of, wait_until};

/// Says which cluster a process is of.
const MARK: &str = "PITON_TEST_CLUSTER";

/// Says which node of it, where that matters.
const NODE: &str = "PITON_TEST_NODE";

struct Base {
    dir: tempfile::TempDir,
    env: Vec<(String, String)>,
}

impl Base {
    fn new() -> Self {
        // Sockets lie in it, whose paths must be short.
        let dir = tempfile::Builder::new().prefix("ptc-").tempdir_in("/tmp").unwrap();
        let env = vec![(MARK.to_owned(), dir.path().display().to_string())];
        Self { dir, env }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts a daemon in the foreground: it dies with the test's process.
    fn daemon(&self, line: &str) -> Child {
        self.daemon_of(line.split_whitespace(), "")
    }

    /// What it starts is known by this mark, too; word by word.
    fn daemon_of<'a>(&self, words: impl IntoIterator<Item = &'a str>, node: &str) -> Child {
        let log = fs::File::options().create(true).append(true).open(self.path("daemons.log")).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).args(words);
        command.envs(self.env.iter().cloned()).env_remove("PITON_ATTEMPT_KEY").env(NODE, node);
        // slurmstepd writes its title over its environment; its working directory still tells whose it is.
        command.current_dir(self.dir.path());
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        command.spawn().unwrap()
    }

    /// Its processes; those that have this too in their environment.
    fn processes(&self, also: Option<&str>) -> Vec<u32> {
        let mark = format!("{MARK}={}", self.dir.path().display());
        let mut found = Vec::new();
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let environ = fs::read(process.path().join("environ")).unwrap_or_default();
            let has = |entry: &str| environ.split(|byte| *byte == 0).any(|var| var == entry.as_bytes());
            let ours =
                has(&mark) || fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd == self.dir.path());
            if ours && also.is_none_or(has) && state_of(pid).is_some_and(|state| state != 'Z') {
                found.push(pid);
            }
        }
        found
    }
}

impl Base {
    /// Kills its processes that have this in their environment, but for the spared, until there are none.
    fn kill_all(&self, also: Option<&str>, spared: impl Fn(u32) -> bool) {
        wait_until("nothing of the cluster is left", || {
            let left: Vec<_> = self.processes(also).into_iter().filter(|pid| !spared(*pid)).collect();
            left.iter().for_each(|pid| kill(*pid));
            left.is_empty()
        });
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        self.kill_all(None, |_| false);
    }
}

fn kill(pid: u32) {
    // It may be gone already.
    let _ = kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::KILL);
}

fn end(child: &mut Child) {
    drop(child.kill());
    drop(child.wait());
}

/// So many ports that nobody uses.
fn free_ports<const N: usize>() -> [u16; N] {
    let taken: Vec<TcpListener> = (0..N).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    std::array::from_fn(|n| taken[n].local_addr().unwrap().port())
}

/// A cluster that a study can run on.
pub trait Cluster {
    /// `[run]` of a study for it.
    fn run_table(&self) -> String;
    /// What the program needs to find it.
    fn env(&self) -> Vec<(String, String)>;
}

/// One controller and two nodes of four CPUs.
pub struct Slurm {
    base: Base,
    controller: Child,
    nodes: [Child; 2],
    munged: Child,
}

impl Slurm {
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// With more lines of its configuration; the last one of a name counts.
    pub fn start_with(more: &str) -> Self {
        Self::start_of(4, more)
    }

    /// The same with so many CPUs in each node.
    pub fn start_of(cpus: u32, more: &str) -> Self {
        let mut base = Base::new();
        let [controller_port, first, second] = free_ports();
        for name in ["state", "spool-n1", "spool-n2"] {
            fs::create_dir(base.path(name)).unwrap();
        }
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        let host = host.trim().split('.').next().unwrap();
        let dir = base.dir.path().display();
        let age = if more.contains("MinJobAge") { "" } else { "MinJobAge=300\n" };
        let conf = format!(
            "ClusterName=test\nSlurmctldHost={host}(127.0.0.1)\nSlurmUser=root\nSlurmdUser=root\n\
             AuthType=auth/munge\nAuthInfo=socket={dir}/munge.sock\nCredType=cred/munge\n\
             SlurmctldPort={controller_port}\nSlurmctldPidFile={dir}/slurmctld.pid\n\
             SlurmdPidFile={dir}/slurmd-%n.pid\nStateSaveLocation={dir}/state\nSlurmdSpoolDir={dir}/spool-%n\n\
             CommunicationParameters=NoInAddrAny,NoCtldInAddrAny\nProctrackType=proctrack/linuxproc\n\
             TaskPlugin=task/none\nJobAcctGatherType=jobacct_gather/none\n\
             AccountingStorageType=accounting_storage/none\nJobCompType=jobcomp/none\n\
             SelectType=select/cons_tres\nSelectTypeParameters=CR_Core\n\
             SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=1000,default_queue_depth=1000\n\
             {age}KillWait=5\nSlurmdTimeout=8\nReturnToService=2\nMpiDefault=none\n\
             SlurmdParameters=config_overrides\n\
             NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs={cpus} RealMemory=4000\n\
             NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs={cpus} RealMemory=4000\n\
             PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP\n{more}"
        );
        fs::write(base.path("slurm.conf"), conf).unwrap();
        fs::write(base.path("key"), [7; 1024]).unwrap();
        fs::set_permissions(base.path("key"), std::os::unix::fs::PermissionsExt::from_mode(0o400)).unwrap();
        base.env.push(("SLURM_CONF".to_owned(), base.path("slurm.conf").display().to_string()));
        // A login shell reads its profile there: what is in this machine's may wait for a lock for minutes.
        base.env.push(("HOME".to_owned(), base.dir.path().display().to_string()));
        let munged = base.daemon(&format!(
            "munged --foreground --force --key-file={0}/key --socket={0}/munge.sock --pid-file={0}/munged.pid \
             --log-file={0}/munged.log --seed-file={0}/munged.seed",
            base.dir.path().display()
        ));
        wait_until("munged listens", || base.path("munge.sock").exists());
        let controller = base.daemon("slurmctld -D -i -c");
        let nodes = [base.daemon("slurmd -D -N n1"), base.daemon("slurmd -D -N n2")];
        let slurm = Self { base, controller, nodes, munged };
        wait_until("both nodes are idle", || slurm.are_idle());
        slurm
    }

    /// Whether both nodes are there, with nothing on them.
    pub fn are_idle(&self) -> bool {
        self.ask(&["sinfo", "-h", "-p", "debug", "-N", "-o", "%T"]) == "idle\nidle\n"
    }

    /// What a command of Slurm's prints.
    pub fn ask(&self, args: &[&str]) -> String {
        let output = Command::new(args[0]).args(&args[1..]).envs(self.env()).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// Whether no job waits or runs.
    pub fn is_idle(&self) -> bool {
        self.ask(&["squeue", "-h"]).is_empty()
    }

    pub fn kill_controller(&mut self) {
        end(&mut self.controller);
    }

    /// With what it had saved.
    pub fn start_controller(&mut self) {
        self.controller = self.base.daemon("slurmctld -D -i");
    }

    /// A node comes back, without what ran on it.
    pub fn start_node(&mut self, n: usize) {
        self.nodes[n - 1] = self.base.daemon(&format!("slurmd -D -N n{n}"));
    }

    /// On this node the study's directory is another from now on: what `sh` has to do for that, before the node starts.
    pub fn spoil_node(&mut self, n: usize, how: &str) {
        let idle = |slurm: &Self, state: &str| {
            slurm.ask(&["sinfo", "-h", "-p", "debug", "-N", "-n", &format!("n{n}"), "-o", "%T"]).starts_with(state)
        };
        end(&mut self.nodes[n - 1]);
        self.ask(&["scontrol", "update", &format!("NodeName=n{n}"), "State=DOWN", "Reason=test"]);
        let script = format!("{how} && exec slurmd -D -N n{n}");
        self.nodes[n - 1] = self.base.daemon_of(["unshare", "--mount", "sh", "-c", &script], "");
        self.ask(&["scontrol", "update", &format!("NodeName=n{n}"), "State=RESUME"]);
        wait_until("it is idle again", || idle(self, "idle\n"));
    }

    /// A node's daemon dies, and its jobs live on.
    pub fn kill_daemon(&mut self, n: usize) {
        end(&mut self.nodes[n - 1]);
    }

    /// Lets other users reach its files.
    pub fn open_to_others(&self) {
        fs::set_permissions(self.base.dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }

    pub fn scancel_all(&self) {
        self.ask(&["scancel", "-u", "root"]);
    }

    /// All of a node dies at once: its daemon, its jobs and those who watch them.
    pub fn kill_node(&mut self, n: usize) {
        let jobs = self.base.processes(Some(&format!("SLURMD_NODENAME=n{n}")));
        let parents = jobs.iter().filter_map(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()?;
            let name = fs::read_to_string(format!("/proc/{parent}/comm")).ok()?;
            name.starts_with("slurmstepd").then_some(parent)
        });
        parents.collect::<Vec<u32>>().into_iter().for_each(kill);
        end(&mut self.nodes[n - 1]);
        jobs.into_iter().for_each(kill);
    }
}

impl Cluster for Slurm {
    fn run_table(&self) -> String {
        "executor = \"slurm\"\n[run.slurm]\npartition = \"debug\"\ncpus = 1\nlost_after = \"15s\"\n".to_owned()
    }

    fn env(&self) -> Vec<(String, String)> {
        self.base.env.clone()
    }
}

impl Drop for Slurm {
    fn drop(&mut self) {
        for child in [&mut self.controller, &mut self.munged].into_iter().chain(&mut self.nodes) {
            end(child);
        }
    }
}

/// The engine under test has the cluster's environment, too.
fn is_engine(pid: u32) -> bool {
    let args = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    args.split(|byte| *byte == 0).any(|arg| arg == b"run")
}

/// Where `tests/run` put Ray.
pub fn python_bin() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/python/bin")
}

pub fn path_with_ray() -> (String, String) {
    let python = python_bin();
    assert!(python.join("ray").exists(), "run `tests/run`, which installs Ray into `{}`", python.display());
    ("PATH".to_owned(), format!("{}:{}", python.display(), std::env::var("PATH").unwrap()))
}

/// A head node and a worker node, on loopback addresses of their own.
pub struct Ray {
    base: Base,
    port: u16,
    dashboard: u16,
    head: Child,
    worker: Child,
}

impl Ray {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// With this in its environment, too. A port that was free may be taken by the time that Ray gets round to it, and a
    /// node then never comes: it is all started anew.
    pub fn start_with(env: &[(&str, &str)]) -> Self {
        (0..4).find_map(|_| Self::try_start(env)).unwrap_or_else(|| panic!("Ray does not start"))
    }

    fn try_start(env: &[(&str, &str)]) -> Option<Self> {
        let mut base = Base::new();
        base.env.extend(env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        base.env.push(path_with_ray());
        base.env.push(("RAY_USAGE_STATS_ENABLED".to_owned(), "0".to_owned()));
        let [port, dashboard] = free_ports();
        let head = Self::start_head(&base, port, dashboard);
        let worker = Self::start_worker(&base, port);
        let mut ray = Self { base, port, dashboard, head, worker };
        let (started, mut came) = (Instant::now(), false);
        wait_until("both nodes are there, or will never be", || {
            came = ray.get("/api/jobs/").is_some()
                && ray.get("/nodes?view=summary").is_some_and(|text| text.matches("\"ALIVE\"").count() >= 2);
            let ended =
                [&mut ray.head, &mut ray.worker].into_iter().any(|node| node.try_wait().unwrap().is_some());
            came || ended || started.elapsed() > Duration::from_secs(100)
        });
        came.then_some(ray)
    }

    fn start_head(base: &Base, port: u16, dashboard: u16) -> Child {
        let [agent, grpc, client, metrics, object, node] = free_ports::<6>();
        base.daemon(&format!(
            "ray start --head --block --disable-usage-stats --num-cpus=4 --node-ip-address=127.0.0.2 \
             --dashboard-host=127.0.0.1 --port={port} --dashboard-port={dashboard} \
             --dashboard-agent-listen-port={agent} --dashboard-agent-grpc-port={grpc} \
             --ray-client-server-port={client} --metrics-export-port={metrics} --object-manager-port={object} \
             --node-manager-port={node} --temp-dir={}",
            base.dir.path().display()
        ))
    }

    fn start_worker(base: &Base, port: u16) -> Child {
        Self::start_worker_after(base, port, "true")
    }

    /// The same, after what `sh` has to do for it.
    fn start_worker_after(base: &Base, port: u16, how: &str) -> Child {
        let [agent, grpc, metrics, object, node] = free_ports::<5>();
        let line = format!(
            "ray start --block --disable-usage-stats --num-cpus=4 --address=127.0.0.2:{port} \
             --node-ip-address=127.0.0.3 --dashboard-agent-listen-port={agent} \
             --dashboard-agent-grpc-port={grpc} --metrics-export-port={metrics} \
             --object-manager-port={object} --node-manager-port={node}"
        );
        let script = format!("{how} && exec {line}");
        base.daemon_of(["unshare", "--mount", "sh", "-c", &script], "worker")
    }

    /// On the worker node the study's directory is another from now on.
    pub fn spoil_worker(&mut self, how: &str) {
        let alive =
            |ray: &Self| ray.get("/nodes?view=summary").map_or(0, |text| text.matches("\"ALIVE\"").count());
        self.kill_worker();
        wait_until("the worker is gone", || alive(self) == 1);
        self.worker = Self::start_worker_after(&self.base, self.port, how);
        wait_until("another one is there", || alive(self) == 2);
    }

    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.dashboard)
    }

    pub fn get(&self, path: &str) -> Option<String> {
        let script = "import os, sys, urllib.request as r\n\
            q = r.Request(sys.argv[1], headers={'Authorization': 'Bearer ' + os.environ.get('RAY_AUTH_TOKEN', '')})\n\
            sys.stdout.write(r.urlopen(q, timeout=10).read().decode())";
        let output = Command::new(python_bin().join("python3"))
            .args(["-c", script, &format!("{}{path}", self.address())])
            .envs(self.env())
            .output()
            .unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    /// The worker node dies, with its jobs.
    pub fn kill_worker(&mut self) {
        end(&mut self.worker);
        self.base.kill_all(Some(&format!("{NODE}=worker")), |_| false);
    }

    /// The control store alone dies; jobs live on for a while.
    pub fn kill_head(&self) {
        let store =
            |pid: &u32| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ends_with("gcs_server"));
        let stores: Vec<u32> = self.base.processes(None).into_iter().filter(store).collect();
        assert!(!stores.is_empty(), "there is a control store to kill");
        stores.into_iter().for_each(kill);
    }

    /// Everything of both nodes dies at once, jobs included.
    pub fn kill_all(&mut self) {
        end(&mut self.head);
        end(&mut self.worker);
        self.base.kill_all(None, is_engine);
    }

    pub fn start_again(&mut self) {
        self.head = Self::start_head(&self.base, self.port, self.dashboard);
        wait_until("the head node answers again", || self.get("/api/jobs/").is_some());
        self.worker = Self::start_worker(&self.base, self.port);
    }
}

impl Cluster for Ray {
    fn run_table(&self) -> String {
        format!("executor = \"ray\"\n[run.ray]\naddress = \"{}\"\nlost_after = \"15s\"\n", self.address())
    }

    fn env(&self) -> Vec<(String, String)> {
        self.base.env.clone()
    }
}

impl Drop for Ray {
    fn drop(&mut self) {
        end(&mut self.worker);
        end(&mut self.head);
    }
}

/// Jobs and those who watch them, as the jobs themselves tell: `$$` and `$PPID`, one line for each job.
fn told(file: &Path) -> Vec<u32> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn gone(pids: &[u32]) -> bool {
    pids.iter().all(|pid| state_of(*pid).is_none_or(|state| state == 'Z'))
}

#[test]
fn slurm_runs_jobs_on_both_nodes_and_leaves_nothing() {
    let files = tempfile::tempdir().unwrap();
    let slurm = Slurm::start();
    for node in ["n1", "n2"] {
        let file = files.path().join(node);
        let line = format!("echo $SLURMD_NODENAME > {0}.part && mv {0}.part {0}", file.display());
        slurm.ask(&["sbatch", "--parsable", "-w", node, "-o", "/dev/null", "--wrap", &line]);
    }
    let names = || ["n1", "n2"].map(|node| fs::read_to_string(files.path().join(node)).unwrap_or_default());
    wait_until("both jobs have told their node", || names() == ["n1\n", "n2\n"]);
    wait_until("both have ended", || slurm.is_idle());
    // Jobs that run when the cluster ends go with it, and so do those who watch them.
    let pids = files.path().join("pids");
    let line = format!("echo $$ $PPID >> {}; sleep 1000", pids.display());
    for node in ["n1", "n2"] {
        slurm.ask(&["sbatch", "--parsable", "-w", node, "-o", "/dev/null", "--wrap", &line]);
    }
    wait_until("both jobs run", || told(&pids).len() == 4);
    let mut all = told(&pids);
    all.extend([slurm.controller.id(), slurm.munged.id(), slurm.nodes[0].id(), slurm.nodes[1].id()]);
    assert!(!gone(&all));
    drop(slurm);
    wait_until("nothing is left", || gone(&all));
}

#[test]
fn a_node_of_slurms_that_died_comes_back() {
    let files = tempfile::tempdir().unwrap();
    let pids = files.path().join("pids");
    let mut slurm = Slurm::start();
    let line = format!("echo $$ $PPID >> {}; sleep 1000", pids.display());
    let batch = |slurm: &Slurm, node: &str| {
        let id =
            slurm.ask(&["sbatch", "--parsable", "--no-requeue", "-w", node, "-o", "/dev/null", "--wrap", &line]);
        id.trim().to_owned()
    };
    let state = |slurm: &Slurm, id: &str| slurm.ask(&["squeue", "-h", "-t", "all", "-j", id, "-o", "%T"]);
    let dead = batch(&slurm, "n1");
    wait_until("a job runs on n1", || told(&pids).len() == 2);
    let of_dead = told(&pids);
    let alive = batch(&slurm, "n2");
    wait_until("a job runs on n2", || told(&pids).len() == 4);
    slurm.kill_node(1);
    wait_until("its processes are dead", || gone(&of_dead));
    wait_until("Slurm says so", || state(&slurm, &dead) == "NODE_FAIL\n");
    assert_eq!(state(&slurm, &alive), "RUNNING\n");
    slurm.start_node(1);
    wait_until("n1 is idle again", || slurm.ask(&["sinfo", "-h", "-N", "-n", "n1", "-o", "%T"]) == "idle\n");
    slurm.scancel_all();
    wait_until("the other job is cancelled", || state(&slurm, &alive) == "CANCELLED\n");
    wait_until("nothing of it is left", || gone(&told(&pids)));
}

/// What Ray's jobs need of its REST API, with the Python that has it.
fn submit(ray: &Ray, id: &str, entrypoint: &str) {
    let script = "import json, sys, urllib.request as r; \
                  body = json.dumps({'submission_id': sys.argv[2], 'entrypoint': sys.argv[3]}).encode(); \
                  r.urlopen(r.Request(sys.argv[1] + '/api/jobs/', body, {'Content-Type': 'application/json'}), timeout=60)";
    let output = Command::new(python_bin().join("python3"))
        .args(["-c", script, &ray.address(), id, entrypoint])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn ray_runs_a_job_and_leaves_nothing() {
    let files = tempfile::tempdir().unwrap();
    let pids = files.path().join("pids");
    let ray = Ray::start();
    submit(&ray, "one.two", "true");
    let succeeded = || ray.get("/api/jobs/one.two").is_some_and(|job| job.contains("\"status\": \"SUCCEEDED\""));
    wait_until("the job has succeeded", succeeded);
    // A job that runs when the cluster ends, and outlives the death of the control store.
    submit(&ray, "held", &format!("echo $$ $PPID >> {}; sleep 1000", pids.display()));
    wait_until("another runs", || told(&pids).len() == 2);
    ray.kill_head();
    wait_until("the control store is dead", || ray.get("/api/jobs/").is_none());
    let mut all = told(&pids);
    all.extend([ray.head.id(), ray.worker.id()]);
    drop(ray);
    wait_until("nothing is left", || gone(&all));
}
