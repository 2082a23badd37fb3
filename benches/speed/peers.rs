//! Other programs doing the same work: each trial's end recorded as durably as that program does it, output in files
//! where it can. Each must be installed; the first that is missing is an error that says how to get it.
//!
//! Daemons (pueue, HyperQueue) are not this program's children, so their CPU time is not in the figures: these are too low.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::bench::{Bench, Fallible};
use crate::measure::{Run, Samples, await_some, piton, run};
use crate::report::{Report, say};
use crate::studies::file_of_true;

/// A program, how to get it, and how it does so many trials.
struct Peer {
    name: &'static str,
    /// What must run for it to be there.
    probe: &'static [&'static str],
    hint: &'static str,
    /// Fewer for the slow ones, so that the bench ends.
    trials: u32,
    work: fn(&Path, u32) -> Fallible<Run>,
}

const PEERS: [Peer; 8] = [
    Peer { name: "piton", probe: &["true"], hint: "", trials: 2_000, work: by_piton },
    Peer {
        name: "GNU parallel",
        probe: &["parallel", "--version"],
        hint: "apt-get install parallel",
        trials: 1_000,
        work: by_parallel,
    },
    Peer {
        name: "ninja",
        probe: &["ninja", "--version"],
        hint: "apt-get install ninja-build",
        trials: 2_000,
        work: by_ninja,
    },
    Peer {
        name: "pueue",
        probe: &["pueue", "--version"],
        hint: "cargo install pueue",
        trials: 100,
        work: by_pueue,
    },
    Peer {
        name: "HyperQueue",
        probe: &["hq", "--version"],
        hint: "put `hq` of https://github.com/It4innovations/hyperqueue/releases in PATH",
        trials: 2_000,
        work: by_hyperqueue,
    },
    Peer {
        name: "Optuna, JournalStorage (functions)",
        probe: &[PYTHON, "-c", "import optuna"],
        hint: "pip install optuna (PITON_BENCH_PYTHON names another python)",
        trials: 1_000,
        work: |dir, trials| by_python(dir, OPTUNA, &["journal", &trials.to_string()]),
    },
    Peer {
        name: "Optuna, SQLite (functions)",
        probe: &[PYTHON, "-c", "import optuna"],
        hint: "pip install optuna (PITON_BENCH_PYTHON names another python)",
        trials: 200,
        work: |dir, trials| by_python(dir, OPTUNA, &["sqlite", &trials.to_string()]),
    },
    Peer {
        name: "DBOS, SQLite (one after the other)",
        probe: &[PYTHON, "-c", "import dbos"],
        hint: "pip install dbos (PITON_BENCH_PYTHON names another python)",
        trials: 1_000,
        work: |dir, trials| by_python(dir, DBOS, &[&trials.to_string()]),
    },
];

/// Stands for the Python that is asked for.
const PYTHON: &str = "python3";
const OPTUNA: &str = include_str!("peers/optuna_trials.py");
const DBOS: &str = include_str!("peers/dbos_steps.py");

/// Measures those that are named in PITON_BENCH_PEERS (parts of names, with commas between), or all.
pub fn measure(bench: &Bench, report: &mut Report) -> Fallible<()> {
    let wanted = std::env::var("PITON_BENCH_PEERS").unwrap_or_default().to_lowercase();
    let is_wanted = |peer: &&Peer| wanted.split(',').any(|part| peer.name.to_lowercase().contains(part.trim()));
    let peers: Vec<&Peer> = PEERS.iter().filter(is_wanted).collect();
    for peer in &peers {
        if !is_there(peer) {
            return Err(format!("{} is not installed: {}", peer.name, peer.hint).into());
        }
    }
    let mut rates = vec![(Samples::default(), Samples::default()); peers.len()];
    for round in 0..bench.scale.reps.min(3) {
        for (peer, (rate, cpu)) in peers.iter().zip(&mut rates) {
            say(&format!("  round {}: {}", round + 1, peer.name))?;
            let run = (peer.work)(&bench.dir("peer")?, peer.trials)?;
            rate.push(f64::from(peer.trials) / run.wall.as_secs_f64());
            cpu.push(run.cpu.as_secs_f64() * 1e6 / f64::from(peer.trials));
        }
    }
    for (peer, (rate, cpu)) in peers.iter().zip(&rates) {
        report.add(&format!("{}: rate", peer.name), "trials/s", rate);
        report.add(&format!("{}: CPU", peer.name), "us/trial", cpu);
    }
    Ok(())
}

fn python() -> String {
    std::env::var("PITON_BENCH_PYTHON").unwrap_or_else(|_| PYTHON.into())
}

fn is_there(peer: &Peer) -> bool {
    let Some((program, args)) = peer.probe.split_first() else { return false };
    let program = if *program == PYTHON { python() } else { (*program).to_owned() };
    let mut probe = Command::new(program);
    probe.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    probe.status().is_ok_and(|status| status.success())
}

fn by_piton(dir: &Path, trials: u32) -> Fallible<Run> {
    std::fs::write(dir.join("bench.toml"), file_of_true(trials.into()))?;
    run(piton(&["run", "-j2", "bench.toml"]).current_dir(dir))
}

fn by_parallel(dir: &Path, trials: u32) -> Fallible<Run> {
    let numbers: Vec<String> = (0..trials).map(|number| number.to_string()).collect();
    std::fs::write(dir.join("list"), numbers.join("\n"))?;
    let mut command = Command::new("parallel");
    command.args(["--will-cite", "-j2", "--joblog", "log", "--results", "out", "-a", "list", "/bin/true"]);
    run(command.current_dir(dir).stderr(Stdio::null()))
}

fn by_ninja(dir: &Path, trials: u32) -> Fallible<Run> {
    let edges: String = (0..trials).map(|number| format!("build {number}.out: trial\n")).collect();
    std::fs::write(
        dir.join("build.ninja"),
        format!("rule trial\n  command = /bin/true >$out 2>$out.err\n{edges}"),
    )?;
    run(Command::new("ninja").arg("-j2").current_dir(dir))
}

fn by_python(dir: &Path, script: &str, args: &[&str]) -> Fallible<Run> {
    std::fs::write(dir.join("script.py"), script)?;
    run(Command::new(python()).arg("script.py").args(args).current_dir(dir))
}

/// A daemon that ends when it is dropped.
struct Daemon(Child);

impl Daemon {
    fn start(command: &mut Command) -> Fallible<Self> {
        Ok(Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn quiet(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

fn by_pueue(dir: &Path, trials: u32) -> Fallible<Run> {
    let config = dir.join("pueue.yml");
    let data = dir.join("data").display().to_string();
    std::fs::write(&config, format!("shared:\n  pueue_directory: {data}\n  runtime_directory: {data}\n"))?;
    let client = |args: &[&str]| {
        let mut command = Command::new("pueue");
        command.arg("-c").arg(&config).args(args);
        command
    };
    let _daemon = Daemon::start(Command::new("pueued").arg("-c").arg(&config))?;
    await_some("pueued", || quiet(&mut client(&["status"])).then_some(()))?;
    run(&mut client(&["parallel", "2"]))?;
    let add = format!(
        "for i in $(seq {trials}); do pueue -c '{0}' add /bin/true; done; pueue -c '{0}' wait",
        config.display()
    );
    run(Command::new("sh").args(["-c", &add]).stderr(Stdio::null()))
}

fn by_hyperqueue(dir: &Path, trials: u32) -> Fallible<Run> {
    let home = dir.join("server").display().to_string();
    let hq = |args: &[&str]| {
        let mut command = Command::new("hq");
        command.args(["--server-dir", &home]).args(args).current_dir(dir);
        command
    };
    let _server = Daemon::start(&mut hq(&["server", "start", "--journal", "journal"]))?;
    await_some("the server", || quiet(&mut hq(&["server", "info"])).then_some(()))?;
    let _worker = Daemon::start(&mut hq(&["worker", "start", "--cpus", "2"]))?;
    await_some("the worker", || quiet(&mut hq(&["worker", "info", "1"])).then_some(()))?;
    run(hq(&["submit", "--array", &format!("1-{trials}"), "--wait", "/bin/true"]).stderr(Stdio::null()))
}
