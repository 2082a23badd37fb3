//! What this machine has for trials, or the container or cgroup that piton runs in.
//!
//! It is looked at once, when it is asked: nothing follows a limit that changes.

use std::fs;
use std::num::NonZero;
use std::path::Path;
use std::thread::available_parallelism;

/// Processors and memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    /// Those that this process may use, at least 1.
    pub cpus: u64,
    /// Bytes; `None`: nobody says.
    pub memory: Option<u64>,
}

impl Machine {
    /// What there is here.
    #[must_use]
    pub(crate) fn here() -> Self {
        simulated!(|_machine| Self { cpus: 4, memory: Some(1 << 33) });
        let cpus = available_parallelism().map_or(1, NonZero::get);
        let memory = [total(), limited()].into_iter().flatten().min();
        Self { cpus: u64::try_from(cpus).unwrap_or(u64::MAX), memory }
    }
}

/// All that the kernel has.
fn total() -> Option<u64> {
    kib_in(&fs::read_to_string("/proc/meminfo").ok()?)
}

fn kib_in(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1_024)
}

/// The narrowest limit of the cgroups that this process is in.
fn limited() -> Option<u64> {
    let cgroup = fs::read_to_string("/proc/self/cgroup").ok()?;
    let of = |root: &str, file: &str, path: &str| {
        let root = Path::new(root);
        let own = root.join(path.trim_start_matches('/'));
        let limits = own.ancestors().take_while(|dir| dir.starts_with(root)).map(|dir| dir.join(file));
        limits.filter_map(|path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok()).min()
    };
    let lines = cgroup.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        match rest.split_once(':')? {
            ("", path) => of("/sys/fs/cgroup", "memory.max", path),
            ("memory", path) => of("/sys/fs/cgroup/memory", "memory.limit_in_bytes", path),
            _ => None,
        }
    });
    lines.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_something() {
        let here = Machine::here();
        assert!(here.cpus > 0 && here.memory.is_some_and(|bytes| bytes > 1 << 20), "{here:?}");
        assert_eq!(kib_in("MemFree: 3 kB\nMemTotal:   16 kB\n"), Some(16_384));
        assert_eq!(kib_in("MemTotal: much"), None);
    }
}
