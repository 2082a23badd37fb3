//! Results that are taken instead of made again: looking one up among few and among many, a study that takes all of its results, what
//! a trial costs that is looked up in vain, and what it costs to say of an amendment that no result is lost.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use piton::model::{Event, Seq};
use piton::{Reader, Store, Study};

use crate::bench::{Bench, Fallible};
use crate::measure::{Run, Samples, figure, print, run, run_and_read, worker};
use crate::report::{Goal, Report};

/// Trials of the studies that take all of their results.
const TAKEN: u64 = 10_000;
/// Trials that take theirs from a small study and from a large one.
const FEW: u64 = 1_000;
/// Times that a worker looks up, so that a small store's start does not weigh more than a large one's.
const LOOK_UPS: u64 = 100_000;

/// Measures them.
pub fn measure(bench: &Bench, report: &mut Report) -> Fallible<()> {
    look_up(bench, report)?;
    without_outputs(bench, report)?;
    with_outputs(bench, report)?;
    in_vain(bench, report)
}

/// A study in a directory of its own, run to its end.
struct Made {
    dir: PathBuf,
    run: Run,
}

/// What a study of the worker `reusing` is to be.
struct Asked<'a> {
    /// Trials.
    trials: u64,
    /// Their one param goes up to this.
    last: u64,
    /// `no`, `metrics` or `outputs`: whether results are reused, and what there is of them.
    how: &'a str,
    /// Where they are taken from.
    from: Option<&'a Made>,
}

impl Asked<'_> {
    fn made(&self, bench: &Bench, name: &str) -> Fallible<Made> {
        let dir = bench.dir(name)?;
        let mut command = worker("reusing")?;
        command.arg(dir.join("bench.redb")).args([self.trials.to_string(), self.last.to_string()]).arg(self.how);
        command.args(self.from.map(|from| from.dir.join("bench.redb")));
        Ok(Made { run: run_and_read(&mut command)?, dir })
    }
}

impl Made {
    /// Seconds from the stage's opening to its last result.
    fn trials_s(&self) -> Fallible<f64> {
        figure(&self.run, "trials_s")
    }

    /// That many results were taken, and none was made.
    fn all_taken(&self, trials: u64) -> Fallible<()> {
        #[expect(clippy::cast_precision_loss, reason = "a count")]
        match figure(&self.run, "reused")? {
            reused if reused == trials as f64 => Ok(()),
            reused => Err(format!("{reused} results of {trials} were taken").into()),
        }
    }

    fn remove(&self) -> Fallible<()> {
        Ok(std::fs::remove_dir_all(&self.dir)?)
    }
}

/// Looking up one of a thousand results, and one of a million: reads alone, and in a study that takes a thousand.
#[expect(clippy::cast_precision_loss, reason = "times")]
fn look_up(bench: &Bench, report: &mut Report) -> Fallible<()> {
    let large = bench.scale.large;
    let made = |last| Asked { trials: last, last, how: "metrics", from: None }.made(bench, "results");
    let among = [made(FEW)?, made(large)?];
    let [_, many] = &among;
    compared(bench, report, large, many)?;
    let (mut reads, mut trials) = ([Samples::new(), Samples::new()], [Samples::new(), Samples::new()]);
    let (mut reads_ratio, mut trials_ratio) = (Samples::new(), Samples::new());
    for _ in 0..bench.scale.reps {
        let (mut read_us, mut trial_us) = (Vec::new(), Vec::new());
        for (of, last) in among.iter().zip([FEW, large]) {
            let run = run_and_read(worker("look-ups")?.arg(of.dir.join("bench.redb")).arg(LOOK_UPS.to_string()))?;
            read_us.push(figure(&run, "us")?);
            let taken = Asked { trials: FEW, last, how: "metrics", from: Some(of) }.made(bench, "taken")?;
            taken.all_taken(FEW)?;
            trial_us.push(taken.trials_s()? * 1e6 / FEW as f64);
            taken.remove()?;
        }
        add(&mut reads, &mut reads_ratio, &read_us);
        add(&mut trials, &mut trials_ratio, &trial_us);
    }
    for (n, count) in [FEW, large].into_iter().enumerate() {
        let (Some(reads), Some(trials)) = (reads.get(n), trials.get(n)) else { continue };
        report.add(&format!("reading one of {count} results"), "us", reads);
        report.add(&format!("a trial that takes one of {count}"), "us", trials);
    }
    report.add("reading, among many / among few, pair by pair", "", &reads_ratio);
    report.judge("a trial, among many / among few, pair by pair", "", &trials_ratio, Goal::AtMost(1.2));
    Ok(())
}

/// A plan that leaves out every second trial of a study: each recorded identity is held against the new spec.
#[expect(clippy::cast_precision_loss, reason = "bytes")]
fn compared(bench: &Bench, report: &mut Report, all: u64, of: &Made) -> Fallible<()> {
    let (mut whole, mut cpu, mut memory) = (Samples::new(), Samples::new(), Samples::new());
    for _ in 0..bench.scale.reps {
        let of = of.dir.join("bench.redb");
        let run = run_and_read(worker("amending")?.arg(of).args([all.div_euclid(2), all].map(|n| n.to_string())))?;
        whole.push(figure(&run, "plan_s")?);
        cpu.push(run.cpu.as_secs_f64());
        memory.push(run.peak_rss_bytes as f64 / 1e6);
    }
    report.add(&format!("the plan of an amendment, {all} results"), "s", &whole);
    report.add(&format!("the plan of an amendment, {all} results: CPU"), "s", &cpu);
    report.add(&format!("the plan of an amendment, {all} results: memory"), "MB", &memory);
    Ok(())
}

/// The worker: what becomes of a study's results if it is another one, without changing it.
pub fn amending(store: &Path, to: &Study) -> Fallible<()> {
    let begun = Instant::now();
    let store = Store::at(store);
    let plan = store.preview_amend(to)?;
    match plan.altered_from() {
        None if !plan.replanned().is_empty() => {
            print(&serde_json::json!({ "plan_s": begun.elapsed().as_secs_f64() }))
        }
        _ => Err("results would be lost".into()),
    }
}

fn add(samples: &mut [Samples; 2], ratio: &mut Samples, pair: &[f64]) {
    for (samples, sample) in samples.iter_mut().zip(pair) {
        samples.push(*sample);
    }
    if let [few, many] = pair {
        ratio.push(many / few);
    }
}

/// A study that takes all of its results, which have nothing but metrics.
#[expect(clippy::cast_precision_loss, reason = "rates")]
fn without_outputs(bench: &Bench, report: &mut Report) -> Fallible<()> {
    let asked = Asked { trials: TAKEN, last: TAKEN, how: "metrics", from: None };
    let from = asked.made(bench, "results")?;
    let (mut rate, mut whole, mut cpu) = (Samples::new(), Samples::new(), Samples::new());
    for _ in 0..bench.scale.reps {
        let taken = Asked { from: Some(&from), ..asked }.made(bench, "taken")?;
        taken.all_taken(TAKEN)?;
        rate.push(TAKEN as f64 / taken.trials_s()?);
        whole.push(TAKEN as f64 / figure(&taken.run, "whole_s")?);
        cpu.push(taken.run.cpu.as_secs_f64() * 1e6 / TAKEN as f64);
    }
    let what = format!("{TAKEN} results taken, without outputs");
    report.judge(&what, "trials/s", &rate, Goal::AtLeast(20_000.0));
    report.add(&format!("{what}: with opening, exports and closing"), "trials/s", &whole);
    report.add(&format!("{what}: CPU"), "us/trial", &cpu);
    Ok(())
}

/// The same with an output of each, beside `cp` of the same tree that is durable, too.
#[expect(clippy::cast_precision_loss, reason = "rates")]
fn with_outputs(bench: &Bench, report: &mut Report) -> Fallible<()> {
    let trials = if bench.scale.reps == 1 { TAKEN / 10 } else { TAKEN };
    let asked = Asked { trials, last: trials, how: "outputs", from: None };
    let from = asked.made(bench, "results")?;
    let (mut rate, mut mine, mut ratio, mut cpu) =
        (Samples::new(), Samples::new(), Samples::new(), Samples::new());
    let (mut copied_s, mut cp_cpu) = (Samples::new(), Samples::new());
    for _ in 0..bench.scale.reps {
        let (wall_s, cp_us) = copied(&from.dir, &bench.dir("cp")?, trials)?;
        let taken = Asked { from: Some(&from), ..asked }.made(bench, "taken")?;
        taken.all_taken(trials)?;
        rate.push(trials as f64 / taken.trials_s()?);
        mine.push(taken.run.wall.as_secs_f64());
        cpu.push(taken.run.cpu.as_secs_f64() * 1e6 / trials as f64);
        ratio.push(taken.run.wall.as_secs_f64() / wall_s);
        copied_s.push(wall_s);
        cp_cpu.push(cp_us);
    }
    let what = format!("{trials} results taken, with an output of each");
    report.add(&what, "trials/s", &rate);
    report.add(&format!("{what}: with opening, exports and closing"), "s", &mine);
    report.add("`cp -r --reflink=auto` of the artifacts, then `sync -f`", "s", &copied_s);
    report.judge("all of the first / the second, wall, pair by pair", "", &ratio, Goal::AtMost(1.3));
    report.add(&format!("{what}: CPU"), "us/trial", &cpu);
    report.add("`cp`: CPU", "us/trial", &cp_cpu);
    Ok(())
}

/// Seconds that copying the artifacts takes until they are on the disk; microseconds of CPU a trial.
#[expect(clippy::cast_precision_loss, reason = "times")]
fn copied(from: &Path, to: &Path, trials: u64) -> Fallible<(f64, f64)> {
    let copy = run(Command::new("cp").args(["-r", "--reflink=auto"]).arg(from.join("artifacts")).arg(to))?;
    let sync = run(Command::new("sync").arg("-f").arg(to))?;
    let cpu = copy.cpu + sync.cpu;
    Ok(((copy.wall + sync.wall).as_secs_f64(), cpu.as_secs_f64() * 1e6 / trials as f64))
}

/// Trials that run, of a stage that does not reuse, and of one that does and finds nothing.
#[expect(clippy::cast_precision_loss, reason = "rates")]
fn in_vain(bench: &Bench, report: &mut Report) -> Fallible<()> {
    let trials = bench.scale.large / 10;
    let (mut rates, mut cpus) = ([Samples::new(), Samples::new()], [Samples::new(), Samples::new()]);
    let (mut ratio, mut cpu_ratio) = (Samples::new(), Samples::new());
    for _ in 0..bench.scale.reps {
        let (mut rate, mut cpu) = (Vec::new(), Vec::new());
        for how in ["no", "metrics"] {
            let made = Asked { trials, last: trials, how, from: None }.made(bench, "in-vain")?;
            made.all_taken(0)?;
            rate.push(trials as f64 / made.trials_s()?);
            cpu.push(made.run.cpu.as_secs_f64() * 1e6 / trials as f64);
            made.remove()?;
        }
        add(&mut rates, &mut ratio, &rate);
        add(&mut cpus, &mut cpu_ratio, &cpu);
    }
    for (what, (rate, cpu)) in
        ["that does not reuse", "that does, all in vain"].iter().zip(rates.iter().zip(&cpus))
    {
        report.add(&format!("{trials} closures of a stage {what}"), "trials/s", rate);
        report.add(&format!("{trials} closures of a stage {what}: CPU"), "us/trial", cpu);
    }
    report.add("the second / the first, rate, pair by pair", "", &ratio);
    report.add("the second / the first, CPU, pair by pair", "", &cpu_ratio);
    Ok(())
}

/// The worker: reads results by their identities, in no order, as a trial is looked up; microseconds of one.
pub fn look_ups(store: &Path, count: u64) -> Fallible<()> {
    let snapshot = Reader::open(store)?.snapshot()?;
    let mut identities = Vec::new();
    for event in snapshot.events(1)? {
        if let Event::ResultIdentified { identity, .. } = event?.1.event {
            identities.push(identity);
        }
    }
    // What an identity begins with is as good as chance.
    identities.sort_unstable();
    let begun = Instant::now();
    let mut found = 0_u64;
    for identity in identities.iter().cycle().step_by(step(identities.len())).take(usize::try_from(count)?) {
        for result in snapshot.results(identity)? {
            let seqs: [Seq; 2] = [result.seq, result.seq - 1];
            found += u64::from(seqs.into_iter().all(|seq| matches!(snapshot.event(seq), Ok(Some(_)))));
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "microseconds")]
    match found == count {
        true => print(&serde_json::json!({ "us": begun.elapsed().as_secs_f64() * 1e6 / count as f64 })),
        false => Err(format!("{found} of {count} were found").into()),
    }
}

/// Steps that lead past all of so many before one comes twice, far from each other.
fn step(count: usize) -> usize {
    let divides = |step: usize| count.is_multiple_of(step);
    [7_919, 104_729, 1].into_iter().find(|step| *step == 1 || !divides(*step)).unwrap_or(1)
}
