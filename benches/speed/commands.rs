//! Command trials: `/bin/true` two thousand times, two at a time.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::bench::{Bench, Fallible};
use crate::measure::{Run, Samples, piton, run, worker};
use crate::report::{Goal, Report};
use crate::studies::file_of_true;

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
    let [mut inodes, mut kib] = [const { Samples::new() }; 2];
    // The first round warms up and is not counted.
    for round in 0..=bench.scale.reps {
        let floor_run = run(worker("spawn")?.arg(count.to_string()).arg(bench.dir("floor")?))?;
        let bare_run = run(&mut xargs_command(count, &["/bin/true"], bench)?)?;
        let line = "exec /bin/true >out.$0 2>err.$0";
        let xargs_run = run(&mut xargs_command(count, &["sh", "-c", line], bench)?)?;
        let (my_run, place) = my_run(bench, count)?;
        if round == 0 && bench.scale.reps > 1 {
            continue;
        }
        let ratio = |a: std::time::Duration, b: std::time::Duration| a.as_secs_f64() / b.as_secs_f64();
        wall_ratio.push(ratio(my_run.wall, xargs_run.wall));
        cpu_ratio.push(ratio(my_run.cpu, xargs_run.cpu));
        bare_wall.push(ratio(my_run.wall, bare_run.wall));
        bare_cpu.push(ratio(my_run.cpu, bare_run.cpu));
        let (entries, bytes) = taken(&place.join("artifacts"))?;
        inodes.push(entries / f64::from(count));
        kib.push(bytes / 1024.0 / f64::from(count));
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
    // On a disk; in memory the goal is 1.0 for both.
    report.judge("piton / bare xargs, wall", "", &bare_wall, Goal::AtMost(1.1));
    report.judge("piton / bare xargs, CPU", "", &bare_cpu, Goal::AtMost(1.15));
    report.judge("inodes that a trial leaves", "", &inodes, Goal::AtMost(3.0));
    report.judge("what a trial takes on the disk", "KiB", &kib, Goal::AtMost(8.0));
    Ok(())
}

/// How many entries there are below a directory, and how many bytes they take on the disk.
fn taken(dir: &Path) -> Fallible<(f64, f64)> {
    let (mut entries, mut bytes) = (0.0, 0.0);
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let meta = std::fs::symlink_metadata(entry.path())?;
        entries += 1.0;
        #[expect(clippy::cast_precision_loss, reason = "some megabytes")]
        let blocks = meta.blocks() as f64;
        bytes += blocks * 512.0;
        if meta.is_dir() {
            let below = taken(&entry.path())?;
            entries += below.0;
            bytes += below.1;
        }
    }
    Ok((entries, bytes))
}

/// The run, and where it was.
fn my_run(bench: &Bench, count: u32) -> Fallible<(Run, PathBuf)> {
    let dir = bench.dir("piton")?;
    std::fs::write(dir.join("bench.toml"), file_of_true(count.into()))?;
    Ok((run(piton(&["run", "-j2", "bench.toml"]).current_dir(&dir))?, dir))
}

fn xargs_command(count: u32, argv: &[&str], bench: &Bench) -> Fallible<Command> {
    let dir = bench.dir("xargs")?;
    let numbers: Vec<String> = (0..count).map(|number| number.to_string()).collect();
    std::fs::write(dir.join("list"), numbers.join("\n"))?;
    let mut command = Command::new("xargs");
    command.args(["-a", "list", "-P2", "-n1"]).args(argv).current_dir(dir).stderr(Stdio::null());
    Ok(command)
}
