//! The studies that are measured: three params, two metrics, one objective, a grid.

use piton::{Metric, Metrics, Spec, Stage, TrialContext, TrialError};
use piton::{Range, Study};

use crate::bench::Fallible;

/// The name of their one stage.
pub const STAGE: &str = "explore";

/// A grid of exactly so many points, or of more where that does not factor.
fn sweep(stage: Stage, trials: u64) -> Stage {
    let efforts = 8;
    let clocks = trials.div_ceil(efforts * 2).max(1);
    stage
        .choices("abc", ["speed", "area"])
        .range("effort", Range::int(1..=i64::try_from(efforts).unwrap_or(1)))
        .range("clock_ns", Range::float(0.4..=0.8).steps(clocks))
        .budget(trials)
        .survivors(1)
        .minimize("area_um2")
}

/// A study of closures.
pub fn of_closures(trials: u64) -> Fallible<Spec> {
    Ok(Study::builder("bench").seed(7).stage(sweep(Stage::unbound(STAGE), trials)).spec()?)
}

/// A study of commands.
pub fn of_commands(trials: u64, argv: &[String]) -> Fallible<Spec> {
    Ok(Study::builder("bench").seed(7).stage(sweep(Stage::argv(STAGE, argv), trials)).spec()?)
}

/// A study of closures with one param, from its least value to `last` in equal steps. `how` it reuses: `no`, `metrics`, or `outputs` where there
/// is one; `from` these stores besides its own.
pub fn of_reusing(trials: u64, last: u64, how: &str, from: &[&str]) -> Fallible<Spec> {
    let first = i64::try_from(last / trials)?;
    let values = Range::int(first..=i64::try_from(last)?).steps(trials);
    let stage = Stage::unbound(STAGE).range("clock_ns", values).budget(trials).survivors(1).minimize("area_um2");
    let stage = if how == "no" { stage } else { stage.reuse("1") };
    let stage = if how == "outputs" { stage.output(OUTPUT) } else { stage };
    let study = from.iter().fold(Study::builder("bench").seed(7), |study, store| study.reuse_from(store));
    Ok(study.stage(stage).spec()?)
}

/// What a trial leaves that leaves something.
const OUTPUT: &str = "netlist.v";

/// The same as [`metrics`], with some kilobytes in a file.
pub fn metrics_and_output(trial: &TrialContext<'_>) -> Result<Metrics, TrialError> {
    let written =
        trial.dir().and_then(|dir| std::fs::write(dir.join(OUTPUT), format!("{}\n", trial.case()).repeat(300)));
    written.map_err(|error| TrialError::new(error.to_string()))?;
    metrics(trial)
}

/// What a closure trial gives: cheap, and different for every trial.
pub fn metrics(trial: &TrialContext<'_>) -> Result<Metrics, TrialError> {
    #[expect(clippy::cast_precision_loss, reason = "a number like any other")]
    let area = trial.float("clock_ns")? * 1_234.5 + trial.trial().0 as f64;
    Ok(metrics_of(area))
}

/// Two metrics.
pub fn metrics_of(area: f64) -> Metrics {
    Metrics::from([
        ("area_um2".to_owned(), Metric::Number(area)),
        ("wns_ps".to_owned(), Metric::Number(area.sin() * 100.0)),
    ])
}

/// A study file of `/bin/true`: nothing but the cost of a trial.
pub fn file_of_true(trials: u64) -> String {
    format!(
        "[study]\nname = \"bench\"\n[[stage]]\nname = \"{STAGE}\"\ncommand = [\"/bin/true\"]\n\
         trial_budget = {trials}\nsurvivor_count = 1\n[stage.sweep]\nx = {{ min = 1, max = {trials}, type = \"int\" }}\n"
    )
}
