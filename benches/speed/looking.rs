//! Looking at large studies, going on with them, and studies whose trials take long.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::bench::{Bench, Fallible};
use crate::measure::{Samples, await_some, children_of, cpu_of, piton, reap, run, written_by};
use crate::report::{Goal, Report};
use crate::stores::{copied, killed, monotonic_ns};
use crate::studies::file_of_true;

/// Trials that are left to run in a large study.
const PENDING: u64 = 1_000;

/// Measures `dump`, `status` and going on after a kill.
pub fn measure(bench: &Bench, report: &mut Report) -> Fallible<()> {
    small(bench, report)?;
    let large = bench.scale.large;
    let home = bench.dir("killed")?;
    let stamp = home.join("first");
    let me = std::env::current_exe()?.display().to_string();
    killed(
        &home.join("bench.redb"),
        large,
        large + PENDING,
        &[&me, "--worker", "stamp", &stamp.display().to_string()],
    )?;
    dump(bench, &home.join("bench.redb"), report)?;
    resume(bench, &home, report)
}

/// A look at a small store is mostly the start of the program.
fn small(bench: &Bench, report: &mut Report) -> Fallible<()> {
    let dir = bench.dir("small")?;
    std::fs::write(dir.join("bench.toml"), file_of_true(20))?;
    run(piton(&["run", "-j2", "bench.toml"]).current_dir(&dir))?;
    for look in [&["status"][..], &["dump"], &["dump", "--format", "jsonl"]] {
        let mut wall = Samples::default();
        for _ in 0..50 {
            let run = run(piton(look).arg("bench.redb").current_dir(&dir))?;
            wall.push(run.wall.as_secs_f64() * 1e3);
        }
        let what = format!("{} of 20 trials, with the start of the program", look.join(" "));
        report.judge(&what, "ms", &wall, Goal::AtMost(5.0));
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "rates")]
fn dump(bench: &Bench, store: &Path, report: &mut Report) -> Fallible<()> {
    let rows = (bench.scale.large + PENDING) as f64;
    let (mut rate, mut memory) = (Samples::default(), Samples::default());
    for _ in 0..bench.scale.reps {
        let run = run(&mut piton(&["dump", &store.display().to_string(), "--format", "jsonl"]))?;
        rate.push(rows / run.wall.as_secs_f64());
        memory.push(run.peak_rss_bytes as f64 / 1e6);
    }
    report.judge(&format!("dump --format jsonl of {rows} trials"), "rows/s", &rate, Goal::AtLeast(500_000.0));
    report.judge("the same: peak memory", "MB", &memory, Goal::AtMost(64.0));
    Ok(())
}

/// After `kill -9`: how long until the first trial runs, and what the rest takes.
fn resume(bench: &Bench, home: &Path, report: &mut Report) -> Fallible<()> {
    let (mut first, mut memory, mut whole) = (Samples::default(), Samples::default(), Samples::default());
    let pristine = bench.dir("pristine")?.join("bench.redb");
    copied(&home.join("bench.redb"), &pristine)?;
    for _ in 0..bench.scale.reps {
        let (store, stamp) = (home.join("bench.redb"), home.join("first"));
        std::fs::remove_dir_all(home.join("artifacts")).or_else(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })?;
        drop(std::fs::remove_file(&stamp));
        copied(&pristine, &store)?;
        let begun_ns = monotonic_ns();
        let run = run(piton(&["resume", "-j2", "bench.redb"]).current_dir(home))?;
        let first_ns: i64 = std::fs::read_to_string(stamp)?.parse()?;
        #[expect(clippy::cast_precision_loss, reason = "milliseconds")]
        first.push((first_ns - begun_ns) as f64 / 1e6);
        #[expect(clippy::cast_precision_loss, reason = "megabytes")]
        memory.push(run.peak_rss_bytes as f64 / 1e6);
        whole.push(run.wall.as_secs_f64());
    }
    let what = format!("resume after kill -9 with {} finished: first trial runs after", bench.scale.large);
    report.judge(&what, "ms", &first, Goal::AtMost(50.0));
    report.judge("the same, to its end: peak memory", "MB", &memory, Goal::AtMost(64.0));
    report.add("the same, to its end: exports and all", "s", &whole);
    Ok(())
}

/// Measures studies whose trials take long: an idle engine, and what durability costs.
pub fn waiting(bench: &Bench, report: &mut Report) -> Fallible<()> {
    idle(bench, report)?;
    durability(bench, report)
}

/// An engine that runs, on a store with many finished trials. Killed when dropped.
struct Engine {
    child: Child,
    store: PathBuf,
}

impl Drop for Engine {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn idle(bench: &Bench, report: &mut Report) -> Fallible<()> {
    let dir = bench.dir("idle")?;
    let store = dir.join("bench.redb");
    killed(&store, bench.scale.large, bench.scale.large + PENDING, &["/bin/sleep", "100000"])?;
    let child = piton(&["resume", "-j2", "bench.redb"]).current_dir(&dir).stdout(Stdio::null()).spawn()?;
    let engine = Engine { child, store };
    let pid = engine.child.id();
    let keeper = await_some("two trials that run", || {
        let keeper = *children_of(pid).ok()?.first()?;
        (children_of(keeper).ok()?.len() == 2).then_some(keeper)
    })?;
    // What its start still has to do is over soon.
    std::thread::sleep(Duration::from_secs(1));
    let used = || Fallible::Ok(cpu_of(pid)? + cpu_of(keeper)?);
    let (before, begun) = (used()?, Instant::now());
    std::thread::sleep(Duration::from_secs(10));
    let share = (used()? - before) / begun.elapsed().as_secs_f64();
    report.judge(
        "CPU of an engine and its keeper while two trials sleep",
        "%",
        &Samples::one(share * 100.0),
        Goal::AtMost(0.1),
    );
    let mut status = Samples::default();
    for _ in 0..bench.scale.reps * 4 {
        let run = run(&mut piton(&["status", &engine.store.display().to_string()]))?;
        status.push(run.wall.as_secs_f64() * 1e3);
    }
    let what = format!("status of a running study, {} trials finished", bench.scale.large);
    report.judge(&what, "ms", &status, Goal::AtMost(20.0));
    Ok(())
}

/// Commits and bytes of trials of one second: the difference between a longer and a shorter study.
#[expect(clippy::cast_precision_loss, reason = "bytes")]
fn durability(bench: &Bench, report: &mut Report) -> Fallible<()> {
    let (short, long) = (4, 14);
    let of = |trials| syncs(&study_of_sleepers(bench, trials, "1", "")?);
    let (few, many) = (of(short)?, of(long)?);
    let batches = (long - short) as f64 / 2.0;
    // A commit of two phases syncs twice.
    let commits = (many - few) as f64 / 2.0 / batches;
    report.judge("commits for two trials of 1 s that run together", "", &Samples::one(commits), Goal::AtMost(2.0));
    for interval in ["0s", "1s"] {
        let trials = 500;
        let dir = study_of_sleepers(bench, trials, "0.01", &format!("sync_interval = \"{interval}\"\n"))?;
        let what = format!("syncs a trial of 10 ms, sync_interval = {interval}");
        report.add(&what, "", &Samples::one(syncs(&dir)? as f64 / trials as f64));
    }
    let (few, many) = (bytes(bench, short)?, bytes(bench, long)?);
    report.add(
        "bytes written a transition, trials of 1 s",
        "bytes",
        &Samples::one((many - few) as f64 / (2 * (long - short)) as f64),
    );
    let dir = bench.dir("bytes")?;
    let mut child = crate::measure::worker("closures")?
        .arg(dir.join("bench.redb"))
        .args(["100000", "0"])
        .stdout(Stdio::null())
        .spawn()?;
    let written = watch_bytes(&mut child)?;
    report.add("bytes written a transition, 100,000 closures", "bytes", &Samples::one(written as f64 / 200_000.0));
    Ok(())
}

/// A study of trials that sleep so many seconds.
fn study_of_sleepers(bench: &Bench, trials: u64, seconds: &str, run: &str) -> Fallible<PathBuf> {
    let dir = bench.dir("sleepers")?;
    let sleep = format!("[\"/bin/sleep\", \"{seconds}\"]");
    let text = file_of_true(trials).replace("[\"/bin/true\"]", &sleep) + "[run]\n" + run;
    std::fs::write(dir.join("bench.toml"), text)?;
    Ok(dir)
}

/// Syncs of the store, as strace counts them.
fn syncs(dir: &Path) -> Fallible<i64> {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o", "trace", "-y", "-e", "trace=fdatasync,fsync"]);
    strace.arg(env!("CARGO_BIN_EXE_piton")).args(["run", "-j2", "bench.toml"]);
    run(strace.current_dir(dir).stderr(Stdio::null()))
        .map_err(|error| format!("{error} (`apt-get install strace`?)"))?;
    let trace = std::fs::read_to_string(dir.join("trace"))?;
    Ok(i64::try_from(trace.lines().filter(|line| line.contains("bench.redb")).count())?)
}

fn bytes(bench: &Bench, trials: u64) -> Fallible<i64> {
    let dir = study_of_sleepers(bench, trials, "1", "")?;
    let mut child = piton(&["run", "-j2", "bench.toml"]).current_dir(dir).stdout(Stdio::null()).spawn()?;
    Ok(i64::try_from(watch_bytes(&mut child)?)?)
}

/// What a process wrote until its end, as far as could be seen.
fn watch_bytes(child: &mut Child) -> Fallible<u64> {
    let begun = Instant::now();
    let mut written = 0;
    loop {
        // A zombie has no figures any more.
        match written_by(child.id()) {
            Ok(now) if now >= written => written = now,
            _ => break,
        }
        if std::fs::read_to_string(format!("/proc/{}/stat", child.id()))?.contains(") Z ") {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let (status, _) = reap(child, begun)?;
    if status == 0 { Ok(written) } else { Err(format!("it ended with status {status:#x}").into()) }
}
