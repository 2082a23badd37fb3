//! What piton costs, measured beside what the machine can do: `cargo bench`.
//!
//! Every figure comes from a process of its own, started by this small one, so that times, CPU and peak memory are the
//! operating system's accounting of just that. What is compared runs in turn (A B A B …), medians are told with minimum
//! and maximum as the noise, and the machine's own limits (process starts, fsync, redb alone) are measured in the same
//! run. Only one thing is asserted, that verdicts of rungs do not depend on the number of workers; else a table on the screen and
//! `target/bench.json` are all it gives. See `benches/README.md`.

#![expect(unreachable_pub, reason = "nothing of a program can be reached from outside")]

mod bench;
mod closures;
mod commands;
mod halving;
mod limits;
mod looking;
mod measure;
mod peers;
mod report;
mod reuse;
mod scale;
mod stores;
mod studies;
mod worker;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bench::{Bench, Fallible, Scale};
use report::Report;

/// A section measures one kind of thing.
type Section = fn(&Bench, &mut Report) -> Fallible<()>;

const SECTIONS: [(&str, Section); 8] = [
    ("limits", limits::measure),
    ("commands", commands::measure),
    ("closures", closures::measure),
    ("scale", scale::measure),
    ("reuse", reuse::measure),
    ("halving", halving::measure),
    ("looking", looking::measure),
    ("waiting", looking::waiting),
];

const USAGE: &str = "\
cargo bench                        everything but the peers; about 10 minutes on 2 cores
cargo bench -- SECTION...          only these: limits commands closures scale reuse halving looking waiting
cargo bench -- --quick             one repetition, a tenth of the size
cargo bench -- --peers             other programs doing the same work; each must be installed
PITON_BENCH_HUGE=1 cargo bench     also a study of 10,000,000 trials in full
PITON_BENCH_DIR=DIR cargo bench    on another disk, or away from where much was deleted lately";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.split_first() {
        Some((first, rest)) if first == "--worker" => worker::work(rest),
        // Test runners start every bench once and ask for its tests.
        _ if !args.iter().any(|arg| arg == "--bench") => Ok(()),
        _ => bench(args.iter().map(String::as_str).filter(|arg| *arg != "--bench").collect()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(std::io::stderr(), "error: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn bench(mut args: Vec<&str>) -> Fallible<()> {
    let mut take = |flag: &str| {
        let before = args.len();
        args.retain(|arg| *arg != flag);
        args.len() < before
    };
    let (quick, with_peers, help) = (take("--quick"), take("--peers"), take("--help"));
    let unknown = args.iter().find(|arg| !SECTIONS.iter().any(|(name, _)| name == *arg));
    if help || unknown.is_some() {
        return Err(format!("usage:\n{USAGE}").into());
    }
    let huge = std::env::var_os("PITON_BENCH_HUGE").map(|_| 10_000_000);
    let scale = match quick {
        true => Scale { reps: 1, large: 100_000, huge: None },
        false => Scale { reps: 5, large: 1_000_000, huge },
    };
    // On the disk that is built on: a temporary directory may be memory, where an fsync costs nothing.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let place = std::env::var_os("PITON_BENCH_DIR").map_or(target.to_path_buf(), PathBuf::from);
    std::fs::create_dir_all(&place)?;
    let bench = Bench::new(scale, place)?;
    let mut report = Report::new(target.parent().unwrap_or(target).join("bench.json"));
    for (name, section) in SECTIONS {
        if if args.is_empty() { !with_peers } else { args.contains(&name) } {
            report.section(name)?;
            section(&bench, &mut report)?;
        }
    }
    if with_peers {
        report.section("peers")?;
        peers::measure(&bench, &mut report)?;
    }
    report.finish()
}
