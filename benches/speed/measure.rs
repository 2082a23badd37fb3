//! Running a program and the operating system's accounting of it; samples and their medians.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::bench::Fallible;

/// One finished run of a program.
#[derive(Clone, Debug)]
pub struct Run {
    /// From before its start to its end.
    pub wall: Duration,
    /// User and system time of it and all it waited for.
    pub cpu: Duration,
    /// Largest resident set of any one of these processes, bytes.
    pub peak_rss_bytes: u64,
    /// What it wrote to standard output, when that was asked for.
    pub stdout: String,
}

/// Runs a program to its end, which must be success. Its output is thrown away.
pub fn run(command: &mut Command) -> Fallible<Run> {
    finish(command.stdout(Stdio::null()))
}

/// Likewise, and keeps what it prints.
pub fn run_and_read(command: &mut Command) -> Fallible<Run> {
    finish(command.stdout(Stdio::piped()))
}

fn finish(command: &mut Command) -> Fallible<Run> {
    let shown = format!("{command:?}");
    let begun = Instant::now();
    let mut child = command.stdin(Stdio::null()).spawn().map_err(|error| format!("{shown}: {error}"))?;
    let mut stdout = String::new();
    if let Some(mut pipe) = child.stdout.take() {
        pipe.read_to_string(&mut stdout)?;
    }
    let (status, mut run) = reap(&child, begun)?;
    if status != 0 {
        return Err(format!("{shown} ended with status {status:#x}").into());
    }
    run.stdout = stdout;
    Ok(run)
}

/// Waits for a child and takes its accounting; its wait status, 0 for success.
pub fn reap(child: &Child, begun: Instant) -> Fallible<(i32, Run)> {
    let pid = i32::try_from(child.id())?;
    let mut status = 0;
    // SAFETY: an all-zero rusage is a valid value, and both pointers are valid for the writes.
    let (reaped, usage) = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        (libc::wait4(pid, &raw mut status, 0, &raw mut usage), usage)
    };
    if reaped != pid {
        return Err(std::io::Error::last_os_error().into());
    }
    let time = |time: libc::timeval| -> Fallible<Duration> {
        Ok(Duration::from_secs(u64::try_from(time.tv_sec)?) + Duration::from_micros(u64::try_from(time.tv_usec)?))
    };
    let run = Run {
        wall: begun.elapsed(),
        cpu: time(usage.ru_utime)? + time(usage.ru_stime)?,
        peak_rss_bytes: u64::try_from(usage.ru_maxrss)? * 1024,
        stdout: String::new(),
    };
    Ok((status, run))
}

/// This program again, as one of its own workers.
pub fn worker(name: &str) -> Fallible<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--worker", name]);
    Ok(command)
}

/// The program that is measured, with nothing of the environment's that changes what it prints.
pub fn piton(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_piton"));
    command.args(args).env_remove("PITON_LOG").stderr(Stdio::null());
    command
}

/// The figure called so in a worker's line of JSON.
pub fn figure(run: &Run, name: &str) -> Fallible<f64> {
    let line: serde_json::Value = serde_json::from_str(run.stdout.trim())?;
    line.get(name).and_then(serde_json::Value::as_f64).ok_or_else(|| format!("no `{name}` in {line}").into())
}

/// A figure measured several times.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    pub fn push(&mut self, sample: f64) {
        self.0.push(sample);
        self.0.sort_by(f64::total_cmp);
    }

    pub fn one(sample: f64) -> Self {
        Self(vec![sample])
    }

    pub fn median(&self) -> f64 {
        let at = |index: usize| self.0.get(index).copied().unwrap_or(f64::NAN);
        f64::midpoint(at(self.0.len().saturating_sub(1) / 2), at(self.0.len() / 2))
    }

    pub fn min(&self) -> f64 {
        self.0.first().copied().unwrap_or(f64::NAN)
    }

    pub fn max(&self) -> f64 {
        self.0.last().copied().unwrap_or(f64::NAN)
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }

    pub fn map(&self, change: impl Fn(f64) -> f64) -> Self {
        let mut changed = Self::default();
        self.0.iter().for_each(|sample| changed.push(change(*sample)));
        changed
    }
}

/// Seconds of CPU that a process has used so far, without its children.
pub fn cpu_of(pid: u32) -> Fallible<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat"))?;
    let mut total: f64 = text.split_ascii_whitespace().next().ok_or("no schedstat")?.parse()?;
    // schedstat is of one thread; the others have their own.
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?;
        if task.file_name().to_str() != Some(&pid.to_string()) {
            let text = std::fs::read_to_string(task.path().join("schedstat"))?;
            total += text.split_ascii_whitespace().next().ok_or("no schedstat")?.parse::<f64>()?;
        }
    }
    Ok(total / 1e9)
}

/// Bytes a process has sent towards the disk so far.
pub fn written_by(pid: u32) -> Fallible<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/io"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("write_bytes: ")).ok_or("no write_bytes")?;
    Ok(line.trim().parse()?)
}

/// Children of a process.
pub fn children_of(pid: u32) -> Fallible<Vec<u32>> {
    let mut children = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = std::fs::read_to_string(task?.path().join("children"))?;
        children.extend(text.split_ascii_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    Ok(children)
}

/// One line of figures, for the process that started this one.
pub fn print(figures: &serde_json::Value) -> Fallible<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{figures}")?;
    out.flush()?;
    Ok(())
}

/// Looks again and again until there is something.
pub fn await_some<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> Fallible<T> {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if begun.elapsed() > Duration::from_secs(120) {
            return Err(format!("waited in vain for {what}").into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
