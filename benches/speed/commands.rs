//! Command trials: `/bin/true` two thousand times, two at a time.

use std::process::{Command, Stdio};

use crate::measure::{Run, Samples, piton, run, worker};
use crate::report::{Goal, Report};
use crate::studies::file_of_true;
use crate::{Bench, Fallible};

/// One way to do the work: wall and CPU time of each run.
struct Way {
    wall_s: Samples,
    cpu_us: Samples,
}

impl Way {
    const fn new() -> Self {
        Self { wall_s: Samples::new(), cpu_us: Samples::new() }
    }

    fn add(&mut self, run: &Run, count: u32) {
        self.wall_s.push(run.wall.as_secs_f64());
        self.cpu_us.push(run.cpu.as_secs_f64() * 1e6 / f64::from(count));
    }
}

/// Measures it beside xargs and a loop of `posix_spawn`.
pub fn measure(bench: &Bench, report: &mut Report) -> Fallible<()> {
    let count = 2_000;
    let [mut mine, mut xargs, mut bare, mut floor] = [const { Way::new() }; 4];
    let [mut wall_ratio, mut cpu_ratio, mut bare_wall, mut bare_cpu] = [const { Samples::new() }; 4];
    // The first round warms up and is not counted.
    for round in 0..=bench.scale.reps {
        let floor_run = run(worker("spawn")?.arg(count.to_string()).arg(bench.dir("floor")?))?;
        let bare_run = run(&mut xargs_command(count, &["/bin/true"], bench)?)?;
        let line = "exec /bin/true >out.$0 2>err.$0";
        let xargs_run = run(&mut xargs_command(count, &["sh", "-c", line], bench)?)?;
        let my_run = my_run(bench, count)?;
        if round == 0 && bench.scale.reps > 1 {
            continue;
        }
        let ratio = |a: std::time::Duration, b: std::time::Duration| a.as_secs_f64() / b.as_secs_f64();
        wall_ratio.push(ratio(my_run.wall, xargs_run.wall));
        cpu_ratio.push(ratio(my_run.cpu, xargs_run.cpu));
        bare_wall.push(ratio(my_run.wall, bare_run.wall));
        bare_cpu.push(ratio(my_run.cpu, bare_run.cpu));
        mine.add(&my_run, count);
        xargs.add(&xargs_run, count);
        bare.add(&bare_run, count);
        floor.add(&floor_run, count);
    }
    for (name, way) in [
        ("posix_spawn loop, output in files (the floor)", &floor),
        ("xargs -P2 /bin/true, no shell, no files", &bare),
        ("xargs -P2 sh -c, output in files", &xargs),
        ("piton, all of it recorded", &mine),
    ] {
        report.add(&format!("{name}: rate"), "trials/s", &way.wall_s.map(|wall| f64::from(count) / wall));
        report.add(&format!("{name}: CPU"), "us/trial", &way.cpu_us);
    }
    report.judge("piton / xargs with files, wall, pair by pair", "", &wall_ratio, Goal::AtMost(1.2));
    report.judge("piton / xargs with files, CPU, pair by pair", "", &cpu_ratio, Goal::AtMost(1.25));
    report.add("piton / bare xargs, wall", "", &bare_wall);
    report.add("piton / bare xargs, CPU", "", &bare_cpu);
    Ok(())
}

fn my_run(bench: &Bench, count: u32) -> Fallible<Run> {
    let dir = bench.dir("piton")?;
    std::fs::write(dir.join("bench.toml"), file_of_true(count.into()))?;
    run(piton(&["run", "-j2", "bench.toml"]).current_dir(dir))
}

fn xargs_command(count: u32, argv: &[&str], bench: &Bench) -> Fallible<Command> {
    let dir = bench.dir("xargs")?;
    let numbers: Vec<String> = (0..count).map(|number| number.to_string()).collect();
    std::fs::write(dir.join("list"), numbers.join("\n"))?;
    let mut command = Command::new("xargs");
    command.args(["-a", "list", "-P2", "-n1"]).args(argv).current_dir(dir).stderr(Stdio::null());
    Ok(command)
}
