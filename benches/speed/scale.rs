//! Plans far larger than what is run of them.

use crate::bench::{Bench, Fallible};
use crate::measure::{Samples, run_and_read, worker};
use crate::report::{Goal, Report};

/// Measures memory while the first trials of a plan of ten millions run.
pub fn measure(bench: &Bench, report: &mut Report) -> Fallible<()> {
    let mut memory = Samples::default();
    for _ in 0..bench.scale.reps.min(3) {
        let dir = bench.dir("plan")?;
        let run = run_and_read(worker("closures")?.arg(dir.join("bench.redb")).args(["10000000", "200000"]))?;
        #[expect(clippy::cast_precision_loss, reason = "megabytes")]
        memory.push(run.peak_rss_bytes as f64 / 1e6);
    }
    report.judge("first 200,000 trials of a plan of 10,000,000: peak memory", "MB", &memory, Goal::AtMost(64.0));
    Ok(())
}
