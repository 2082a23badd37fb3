//! Closure trials through the library: what the engine and its journal cost, and whether that grows.

use crate::bench::{Bench, Fallible};
use crate::limits;
use crate::measure::{Samples, figure, piton, run, run_and_read, worker};
use crate::report::{Goal, Report};

/// Measures them.
pub fn measure(bench: &Bench, report: &mut Report) -> Fallible<()> {
    rate(bench, report)?;
    growth(bench, report)
}

/// 100,000 trials, and redb alone in turn.
#[expect(clippy::cast_precision_loss, reason = "rates")]
fn rate(bench: &Bench, report: &mut Report) -> Fallible<()> {
    let trials = 100_000_u64;
    let (mut whole, mut phase, mut cpu, mut memory, mut redb, mut share) = Default::default();
    let each: [&mut Samples; 6] = [&mut whole, &mut phase, &mut cpu, &mut memory, &mut redb, &mut share];
    let [whole, phase, cpu, memory, redb, share] = each;
    for _ in 0..bench.scale.reps {
        let dir = bench.dir("closures")?;
        let alone = limits::redb_rate(&dir)?;
        let run = run_and_read(worker("closures")?.arg(dir.join("bench.redb")).args([&trials.to_string(), "0"]))?;
        let rate = trials as f64 / figure(&run, "trials_s")?;
        whole.push(trials as f64 / figure(&run, "whole_s")?);
        phase.push(rate);
        cpu.push(run.cpu.as_secs_f64() * 1e6 / trials as f64);
        memory.push(run.peak_rss_bytes as f64 / 1e6);
        redb.push(alone);
        share.push(rate * 2.0 / alone);
    }
    report.add("redb alone, in turn", "transitions/s", redb);
    report.judge("100,000 closures: first start to last result", "trials/s", phase, Goal::AtLeast(60_000.0));
    report.add("100,000 closures: with opening, exports and closing", "trials/s", whole);
    report.judge("piton's transitions / redb's alone, pair by pair", "", share, Goal::AtLeast(0.75));
    report.add("100,000 closures: CPU", "us/trial", cpu);
    report.add("100,000 closures: peak memory", "MB", memory);
    Ok(())
}

/// Time a trial, by how many there are; bytes a finished trial.
#[expect(clippy::cast_precision_loss, reason = "rates")]
fn growth(bench: &Bench, report: &mut Report) -> Fallible<()> {
    let sizes = [1_000, 10_000, 100_000, bench.scale.large];
    let mut sizes: Vec<u64> = sizes.into_iter().chain(bench.scale.huge).collect();
    sizes.dedup();
    let mut times = vec![Samples::default(); sizes.len()];
    for round in 0..bench.scale.reps {
        for (size, times) in sizes.iter().zip(&mut times) {
            // Large ones are slow, and their own length evens out the noise.
            if *size >= 1_000_000 && round >= 3 || *size >= 10_000_000 && round >= 1 {
                continue;
            }
            let dir = bench.dir("growth")?;
            let store = dir.join("bench.redb");
            let run = run_and_read(worker("closures")?.arg(&store).args([&size.to_string(), "0"]))?;
            times.push(figure(&run, "trials_s")? * 1e6 / *size as f64);
            if round == 0 {
                size_of(&store, *size, report)?;
            }
            std::fs::remove_dir_all(dir)?;
        }
    }
    let base = times.first().map_or(f64::NAN, Samples::median);
    let mut worst: f64 = 0.0;
    for (size, times) in sizes.iter().zip(&times) {
        report.add(&format!("time a trial in a study of {size}"), "us", times);
        worst = worst.max(times.median() / base);
    }
    report.judge("the slowest of these / that of 1,000", "", &Samples::one(worst), Goal::AtMost(1.2));
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "bytes a trial")]
fn size_of(store: &std::path::Path, trials: u64, report: &mut Report) -> Fallible<()> {
    let bytes = || Fallible::Ok(std::fs::metadata(store)?.len() as f64 / trials as f64);
    let before = bytes()?;
    let compacted = run(&mut piton(&["compact", &store.display().to_string()]))?;
    if trials < 100_000 {
        return Ok(());
    }
    report.add(&format!("store of {trials} trials"), "bytes/trial", &Samples::one(before));
    let what = format!("store of {trials} trials, after `piton compact`");
    report.judge(&what, "bytes/trial", &Samples::one(bytes()?), Goal::AtMost(250.0));
    report.add(&format!("`piton compact` of {trials} trials"), "s", &Samples::one(compacted.wall.as_secs_f64()));
    Ok(())
}
