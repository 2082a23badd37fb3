//! Slurm and Ray, started for one test each on loopback, and ended with all they started.
//!
//! What belongs to a cluster is known by an entry in its environment, which jobs inherit: nothing is ended by name.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{state_of, wait_until};

/// Says which cluster a process is of.
const MARK: &str = "PITON_TEST_CLUSTER";

/// Says which node of it, where that matters.
const NODE: &str = "PITON_TEST_NODE";

/// A cluster's processes and files.
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
        self.daemon_marked(line, "")
    }

    /// The same; what it starts is known by this mark, too.
    fn daemon_marked(&self, line: &str, node: &str) -> Child {
        let log = fs::File::options().create(true).append(true).open(self.path("daemons.log")).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).args(line.split_whitespace());
        command.envs(self.env.iter().cloned()).env_remove("PITON_ATTEMPT_KEY").env(NODE, node);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        command.spawn().unwrap()
    }

    /// Its processes that have this too in their environment.
    fn processes(&self, also: Option<&str>) -> Vec<u32> {
        let mark = format!("{MARK}={}", self.dir.path().display());
        let mut found = Vec::new();
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let environ = fs::read(process.path().join("environ")).unwrap_or_default();
            let has = |entry: &str| environ.split(|byte| *byte == 0).any(|var| var == entry.as_bytes());
            if has(&mark) && also.is_none_or(has) && state_of(pid).is_some_and(|state| state != 'Z') {
                found.push(pid);
            }
        }
        found
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        wait_until("nothing of the cluster is left", || {
            let left = self.processes(None);
            left.iter().for_each(|pid| kill(*pid));
            left.is_empty()
        });
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
        let mut base = Base::new();
        let [controller_port, first, second] = free_ports();
        for name in ["state", "spool-n1", "spool-n2"] {
            fs::create_dir(base.path(name)).unwrap();
        }
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        let host = host.trim().split('.').next().unwrap();
        let dir = base.dir.path().display();
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
             MinJobAge=300\nKillWait=5\nSlurmdTimeout=8\nReturnToService=2\nMpiDefault=none\n\
             SlurmdParameters=config_overrides\n\
             NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs=4 RealMemory=4000\n\
             NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=4 RealMemory=4000\n\
             PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP\n"
        );
        fs::write(base.path("slurm.conf"), conf).unwrap();
        fs::write(base.path("key"), [7; 1024]).unwrap();
        fs::set_permissions(base.path("key"), std::os::unix::fs::PermissionsExt::from_mode(0o400)).unwrap();
        base.env.push(("SLURM_CONF".to_owned(), base.path("slurm.conf").display().to_string()));
        let munged = base.daemon(&format!(
            "munged --foreground --force --key-file={0}/key --socket={0}/munge.sock --pid-file={0}/munged.pid \
             --log-file={0}/munged.log --seed-file={0}/munged.seed",
            base.dir.path().display()
        ));
        wait_until("munged listens", || base.path("munge.sock").exists());
        let controller = base.daemon("slurmctld -D -i -c");
        let nodes = [base.daemon("slurmd -D -N n1"), base.daemon("slurmd -D -N n2")];
        let slurm = Self { base, controller, nodes, munged };
        wait_until("both nodes are idle", || slurm.ask(&["sinfo", "-h", "-N", "-o", "%T"]) == "idle\nidle\n");
        slurm
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
        "executor = \"slurm\"\n[run.slurm]\npartition = \"debug\"\ncpus = 1\nlost_after = \"3s\"\n".to_owned()
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

/// Where `tests/run` put Ray.
pub fn python_bin() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/python/bin")
}

/// A PATH with Ray in it.
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
        let mut base = Base::new();
        base.env.push(path_with_ray());
        base.env.push(("RAY_USAGE_STATS_ENABLED".to_owned(), "0".to_owned()));
        let [port, dashboard] = free_ports();
        let head = Self::start_head(&base, port, dashboard);
        let worker = Self::start_worker(&base, port);
        let ray = Self { base, port, dashboard, head, worker };
        wait_until("the head node answers", || ray.get("/api/jobs/").is_some());
        wait_until("both nodes are there", || {
            ray.get("/nodes?view=summary").is_some_and(|text| text.matches("\"ALIVE\"").count() >= 2)
        });
        ray
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
        let [agent, grpc, metrics, object, node] = free_ports::<5>();
        let line = format!(
            "ray start --block --disable-usage-stats --num-cpus=4 --address=127.0.0.2:{port} \
             --node-ip-address=127.0.0.3 --dashboard-agent-listen-port={agent} \
             --dashboard-agent-grpc-port={grpc} --metrics-export-port={metrics} \
             --object-manager-port={object} --node-manager-port={node}"
        );
        base.daemon_marked(&line, "worker")
    }

    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.dashboard)
    }

    /// What the dashboard answers.
    pub fn get(&self, path: &str) -> Option<String> {
        let script = "import sys, urllib.request as r; sys.stdout.write(r.urlopen(sys.argv[1], timeout=10).read().decode())";
        let output = Command::new(python_bin().join("python3"))
            .args(["-c", script, &format!("{}{path}", self.address())])
            .output()
            .unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    /// The worker node dies, with its jobs.
    pub fn kill_worker(&mut self) {
        end(&mut self.worker);
        wait_until("the worker node is gone", || {
            let left = self.base.processes(Some(&format!("{NODE}=worker")));
            left.iter().for_each(|pid| kill(*pid));
            left.is_empty()
        });
    }

    /// Everything of both nodes dies at once, jobs included.
    pub fn kill_all(&mut self) {
        end(&mut self.head);
        end(&mut self.worker);
        wait_until("both nodes are gone", || {
            let left = self.base.processes(Some("RAY_USAGE_STATS_ENABLED=0"));
            let ours: Vec<_> = left.into_iter().filter(|pid| !self.is_engine(*pid)).collect();
            ours.iter().for_each(|pid| kill(*pid));
            ours.is_empty()
        });
    }

    /// The engine under test has the cluster's environment, too.
    fn is_engine(&self, pid: u32) -> bool {
        let args = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        args.split(|byte| *byte == 0).any(|arg| arg == b"run")
    }

    pub fn start_again(&mut self) {
        self.head = Self::start_head(&self.base, self.port, self.dashboard);
        wait_until("the head node answers again", || self.get("/api/jobs/").is_some());
        self.worker = Self::start_worker(&self.base, self.port);
    }
}

impl Cluster for Ray {
    fn run_table(&self) -> String {
        format!("executor = \"ray\"\n[run.ray]\naddress = \"{}\"\nlost_after = \"3s\"\n", self.address())
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
