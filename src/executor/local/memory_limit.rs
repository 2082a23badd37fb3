//! Holding trials to their memory limit, and telling whether one failed for want of memory.
//!
//! A cgroup of the trial's own where piton may make one: then the kernel counts what all its processes use, and says whom
//! it killed. Otherwise RLIMIT_AS, which bounds the address space of each process: an allocation beyond it fails, and only
//! the trial can say so, in its log. Never calls anything `out_of_memory` without such evidence: SIGKILL has many senders,
//! and programs run out of memory for reasons of their own. Never leaves a limit unenforced in silence.

use std::ffi::{OsStr, OsString};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};

use regex::bytes::Regex;
use rustix::io::Errno;

use super::blame::failure;
use super::cgroup::{CGROUP_VAR, NoParent, OomCounter, Parent, TrialCgroup, named_in};
use super::classify::{by_rules, with_found, with_last_lines};
use super::ended_dir::EndedAttemptDir;
use super::keeper::{KeeperClient, SpawnError, SpawnRequest, SpawnStep, Started};
use super::logs::{Found, Logs};
use crate::executor::{AttemptKey, Job};
use crate::model::FailureKind::OutOfMemory;
use crate::model::words;
use crate::model::{Exit, Failure};
use crate::sys::words::io_words;

/// What is done where cgroups cannot be had.
const INSTEAD: &str = "memory limits bound the address space of each process instead";

/// What shells exit with when a command of theirs was killed.
const SHELL_KILLED: i32 = 128 + libc::SIGKILL;

/// How programs say that an allocation failed.
const OUT_OF_MEMORY: [&str; 10] = [
    r"\bcannot allocate (memory|\d+ bytes)",     // ENOMEM, bash
    r"\bbad_alloc\b",                            // C++
    r"\bmemory allocation of \d+ bytes failed",  // Rust
    r"\bout of memory\b",                        // Go, Perl, many others
    r"MemoryError\b",                            // Python, Java, Ruby
    r"\bunable to allocate [\d.]+ [kmgt]?i?b\b", // NumPy
    r"\bmemory exhausted\b",                     // GNU
    r"\bfailed to allocate (memory|\d+ bytes)",
    r"\binsufficient memory\b",
    r"\bfailed to map segment from shared object|\bcannot map zero-fill pages", // the dynamic loader
];

static SAYS_OUT_OF_MEMORY: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(&format!("(?i-u){}", OUT_OF_MEMORY.join("|"))).ok());

/// What the workers share about memory.
pub(super) struct Memory {
    /// What the engine's environment says of cgroups.
    named: Option<OsString>,
    parent: Mutex<Cgroups>,
    counter: OomCounter,
    warned: AtomicBool,
}

/// What is known about an attempt's memory.
pub(super) struct Watch {
    held: Held,
    /// The machine's, or container's, count of kills when the attempt started; in words why it could not be read.
    kills_before: Result<Option<u64>, String>,
}

/// How the limit is enforced.
enum Held {
    No,
    ByCgroup(TrialCgroup),
    ByAddressSpace,
}

/// Where cgroups can be made.
enum Cgroups {
    /// Nobody asked yet: nothing is looked for, and no controller is passed on, before a trial is to be limited.
    NotAsked,
    Below(Parent),
    /// Nowhere, as far as is known now.
    Nowhere,
}

impl Memory {
    /// `environment` is the engine's own.
    pub(super) fn new(environment: &[(OsString, OsString)]) -> Self {
        Self {
            named: named_in(environment).map(OsStr::to_owned),
            parent: Mutex::new(Cgroups::NotAsked),
            counter: OomCounter::default(),
            warned: AtomicBool::new(false),
        }
    }

    /// Starts a trial within the limit of its stage.
    pub(super) fn spawn(
        &self,
        keeper: &KeeperClient,
        job: &Job,
        request: &SpawnRequest<'_>,
    ) -> Result<(Started, Watch), SpawnError> {
        let kills_before = self.counter.now();
        let watch = |held| move |started| (started, Watch { held, kills_before });
        let Some(limit_bytes) = job.stage_spec.memory_limit_bytes else {
            return keeper.spawn(request).map(watch(Held::No));
        };
        if let Some(cgroup) = self.cgroup(&job.key, limit_bytes)? {
            let inside = SpawnRequest { cgroup_procs: Some(cgroup.procs()), ..*request };
            match keeper.spawn(&inside) {
                Err(SpawnError::Refused { step: SpawnStep::Cgroup, errno }) if !is_exhausted(errno) => {
                    self.no_cgroups(&io_words(&errno.into()));
                }
                other => return other.map(watch(Held::ByCgroup(cgroup))),
            }
        }
        let bounded = SpawnRequest { address_space_bytes: Some(limit_bytes), ..*request };
        match keeper.spawn(&bounded) {
            Err(SpawnError::Refused { step: SpawnStep::Limits, errno }) => {
                self.warn_not_enforced(&io_words(&errno.into()));
                keeper.spawn(request).map(watch(Held::No))
            }
            other => other.map(watch(Held::ByAddressSpace)),
        }
    }

    /// A cgroup for an attempt; none where none can be made.
    fn cgroup(&self, key: &AttemptKey, limit_bytes: u64) -> Result<Option<TrialCgroup>, SpawnError> {
        let parent = {
            let mut cgroups = self.parent.lock().unwrap_or_else(PoisonError::into_inner);
            if matches!(*cgroups, Cgroups::NotAsked) {
                *cgroups = self.look_for_cgroups().map_err(|error| SpawnError::Refused {
                    step: SpawnStep::Cgroup,
                    errno: Errno::from_io_error(&error).unwrap_or(Errno::IO),
                })?;
            }
            match &*cgroups {
                Cgroups::Below(parent) => parent.clone(),
                Cgroups::NotAsked | Cgroups::Nowhere => return Ok(None),
            }
        };
        match parent.make(key, limit_bytes) {
            Ok(cgroup) => Ok(Some(cgroup)),
            Err(error) => match Errno::from_io_error(&error) {
                Some(errno) if is_exhausted(errno) => Err(SpawnError::Refused { step: SpawnStep::Cgroup, errno }),
                _ => {
                    self.no_cgroups(&io_words(&error));
                    Ok(None)
                }
            },
        }
    }

    fn look_for_cgroups(&self) -> io::Result<Cgroups> {
        let candidates = match Parent::candidates(self.named.as_deref()) {
            Ok(candidates) => candidates,
            Err(NoParent::Machine(error)) => return Err(error),
            Err(NoParent::Named(why)) => {
                log::warn!("{why}; {INSTEAD}");
                Vec::new()
            }
        };
        for parent in candidates {
            match parent.pass_memory_on() {
                Ok(()) => return Ok(Cgroups::Below(parent)),
                Err(error) if self.named.is_some() => {
                    log::warn!(
                        "`{CGROUP_VAR}`: cannot pass the memory controller on: {}; {INSTEAD}",
                        io_words(&error)
                    );
                }
                Err(_) => {}
            }
        }
        Ok(Cgroups::Nowhere)
    }

    /// One that cannot be made or entered says that none can: once, and never tried again.
    fn no_cgroups(&self, why: &str) {
        let mut cgroups = self.parent.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(std::mem::replace(&mut *cgroups, Cgroups::Nowhere), Cgroups::Below(_)) {
            log::warn!("cannot run a trial in a cgroup: {why}; {INSTEAD}");
        }
    }

    /// Says, once, that trials run without the limit that their stage gives them.
    pub(super) fn warn_not_enforced(&self, why: &str) {
        if !self.warned.swap(true, Ordering::Relaxed) {
            log::warn!("`memory_limit` is not enforced: {why}");
        }
    }

    /// The name of a failure: the study's rules, then what is known about memory, then what it was called already.
    ///
    /// # Errors
    /// In words, if the machine cannot read what decides.
    pub(super) fn classify(
        &self,
        job: &Job,
        left: &EndedAttemptDir,
        watch: &Watch,
        exit: Exit,
        failed: Failure,
    ) -> Result<Failure, String> {
        let stage = &*job.stage_spec;
        let limit = words::limit_of_bytes(stage.memory_limit_bytes.unwrap_or_default());
        by_rules(&stage.failures, left, exit, failed, |failed| match &watch.held {
            Held::ByCgroup(cgroup) => match cgroup.oom_killed()? {
                true => {
                    let reason = format!("killed by the kernel for using more than its memory limit of {limit}");
                    with_last_lines(over_limit(reason), left)
                }
                false => self.by_counter(left, watch, exit, failed),
            },
            Held::ByAddressSpace => match says_out_of_memory(left)? {
                Some(found) => {
                    let reason = format!("{} within its memory limit of {limit}", failed.reason);
                    Ok(with_found(over_limit(reason), found))
                }
                None => self.by_counter(left, watch, exit, failed),
            },
            Held::No => self.by_counter(left, watch, exit, failed),
        })
    }

    /// Without a cgroup of its own: the trial was killed, and meanwhile the kernel did kill for want of memory here.
    fn by_counter(
        &self,
        left: &EndedAttemptDir,
        watch: &Watch,
        exit: Exit,
        failed: Failure,
    ) -> Result<Failure, String> {
        let failed = match exit {
            Exit::Signal(libc::SIGKILL) | Exit::Code(SHELL_KILLED) => {
                match (watch.kills_before.clone()?, self.counter.now()?) {
                    (Some(before), Some(after)) if after > before => {
                        failure(OutOfMemory, format!("{}: the kernel ran out of memory", failed.reason))
                    }
                    _ => failed,
                }
            }
            _ => failed,
        };
        with_last_lines(failed, left)
    }
}

/// Whether the machine, or what this process may take of it, is at its end: that says nothing of whether cgroups can be had,
/// and how a trial is held must not hang on it.
fn is_exhausted(errno: Errno) -> bool {
    matches!(errno, Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::IO)
}

/// The limit will be the same the next time: no retry.
fn over_limit(reason: String) -> Failure {
    Failure { retryable: false, ..failure(OutOfMemory, reason) }
}

/// What a program says last, if that is it.
fn says_out_of_memory(left: &EndedAttemptDir) -> Result<Option<Found>, String> {
    let logs = Logs::read_ends(left)?;
    Ok(SAYS_OUT_OF_MEMORY.as_ref().and_then(|regex| logs.find(regex)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::executor::local::keeper::{Keeper, TrialEvent};
    use crate::executor::local::tests::{job, stage};
    use crate::model::FailureKind::Signal;
    use crate::model::Severity;
    use crate::model::artifacts::{STDERR_LOG_C, STDOUT_LOG_C};
    use crate::study_file::Work;

    /// What a failed attempt is called that was held so and left this log.
    fn named(held: Held, log: &str, exit: Exit, kills: (u64, u64)) -> Failure {
        let root = tempfile::tempdir().unwrap();
        let count = root.path().join("memory.events");
        fs::write(&count, format!("oom 9\noom_kill {}\n", kills.0)).unwrap();
        let memory = Memory { counter: OomCounter::at(count.clone()), ..Memory::new(&[]) };
        let watch = Watch { held, kills_before: memory.counter.now() };
        fs::write(count, format!("oom 9\noom_kill {}\n", kills.1)).unwrap();
        let mut stage = stage(root.path(), Work::Closure);
        stage.memory_limit_bytes = Some(64 << 20);
        let job = job(stage, root.path());
        fs::create_dir_all(&job.dir).unwrap();
        fs::write(job.dir.join("stderr.log"), log).unwrap();
        memory
            .classify(&job, &EndedAttemptDir::in_dir(&job.dir), &watch, exit, failure(Signal, "killed by SIGKILL"))
            .unwrap()
    }

    const KILLED: Exit = Exit::Signal(libc::SIGKILL);
    const BAD_ALLOC: &str =
        "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc\n";

    #[test]
    fn only_evidence_makes_it_out_of_memory() {
        // A kill alone is no evidence, nor is what a program says that has no limit.
        assert_eq!(named(Held::No, BAD_ALLOC, KILLED, (3, 3)).kind, Signal);
        assert_eq!(named(Held::ByAddressSpace, "cpu time limit exceeded\n", KILLED, (0, 0)).kind, Signal);
        let said = named(Held::ByAddressSpace, BAD_ALLOC, Exit::Signal(libc::SIGABRT), (0, 0));
        assert_eq!((said.kind, said.severity, said.retryable), (OutOfMemory, Severity::High, false));
        let reason = "killed by SIGKILL within its memory limit of 64 MiB: \
            terminate called after throwing an instance of 'std::bad_alloc'";
        assert_eq!(said.reason, reason);
        // The kernel killed something meanwhile; this was killed.
        let counted = named(Held::No, "", KILLED, (3, 4));
        assert_eq!((counted.kind, counted.retryable), (OutOfMemory, true));
        assert_eq!(counted.reason, "killed by SIGKILL: the kernel ran out of memory");
        assert_eq!(named(Held::No, "", Exit::Code(137), (3, 4)).kind, OutOfMemory);
        assert_eq!(named(Held::No, "", Exit::Code(1), (3, 4)).kind, Signal);
        assert_eq!(named(Held::No, "", Exit::Signal(libc::SIGSEGV), (3, 4)).kind, Signal);
    }

    #[test]
    fn evidence_that_cannot_be_read_is_no_verdict() {
        let root = tempfile::tempdir().unwrap();
        let mut stage = stage(root.path(), Work::Closure);
        stage.memory_limit_bytes = Some(64 << 20);
        let job = job(stage, root.path());
        fs::create_dir_all(&job.dir).unwrap();
        // Nothing is mapped at 0: reading there is EIO.
        let broken = || OomCounter::at("/proc/self/mem".into());
        let why = broken().now().unwrap_err();
        assert_eq!(why, "cannot read `/proc/self/mem`: input/output error");
        let named = |counter, held, kills_before, exit| {
            let memory = Memory { counter, ..Memory::new(&[]) };
            memory.classify(
                &job,
                &EndedAttemptDir::in_dir(&job.dir),
                &Watch { held, kills_before },
                exit,
                failure(Signal, "killed"),
            )
        };
        assert!(named(broken(), Held::No, Ok(Some(0)), KILLED).is_err());
        assert!(named(OomCounter::default(), Held::No, Err(why), KILLED).is_err());
        assert!(named(broken(), Held::No, Ok(Some(0)), Exit::Code(1)).is_ok(), "nobody needs it");
        let at = root.path().join("own");
        fs::create_dir(&at).unwrap();
        std::os::unix::fs::symlink("/proc/self/mem", at.join("memory.events")).unwrap();
        assert!(named(OomCounter::default(), Held::ByCgroup(TrialCgroup::at(at)), Ok(None), KILLED).is_err());
        crate::sys::tree_hash::faults::close(job.dir.join("stderr.log"), Errno::MFILE);
        let said = named(OomCounter::default(), Held::ByAddressSpace, Ok(None), Exit::Code(1));
        assert!(said.unwrap_err().contains("`stderr.log`"));
    }

    #[test]
    fn what_programs_say_is_understood() {
        for says in [
            "fork: Cannot allocate memory",
            "bash: xrealloc: cannot allocate 18446744071562067968 bytes (4096 bytes allocated)",
            "memory allocation of 1073741824 bytes failed",
            "runtime: out of memory: cannot map pages in arena address space",
            "numpy.core._exceptions._ArrayMemoryError: Unable to allocate 7.45 GiB for an array",
            "Exception in thread main java.lang.OutOfMemoryError: Java heap space",
            "dd: memory exhausted by input buffer of size 1073741824 bytes (1.0 GiB)",
            "virtual memory exhausted",
            "MemoryError",
            "true: error while loading shared libraries: libc.so.6: failed to map segment from shared object",
        ] {
            assert_eq!(named(Held::ByAddressSpace, says, Exit::Code(1), (0, 0)).kind, OutOfMemory, "{says}");
        }
        for says in ["", "memory.v: no such module", "outofmemory", "no licence: cannot allocate a seat"] {
            assert_eq!(named(Held::ByAddressSpace, says, Exit::Code(1), (0, 0)).kind, Signal, "{says}");
        }
    }

    #[test]
    fn a_cgroup_that_cannot_be_entered_gives_way_to_a_limit_of_address_space() {
        let root = tempfile::tempdir().unwrap();
        let mut stage = stage(root.path(), Work::Closure);
        stage.memory_limit_bytes = Some(512 << 20);
        let job = job(stage, root.path());
        fs::write(root.path().join("cgroup.controllers"), "memory\n").unwrap();
        fs::write(root.path().join("cgroup.subtree_control"), "memory\n").unwrap();
        let memory = Memory::new(&[(CGROUP_VAR.into(), root.path().into())]);
        let keeper = Keeper::start().unwrap();
        let cwd = std::ffi::CString::new(root.path().to_str().unwrap()).unwrap();
        let request = SpawnRequest {
            program: c"/bin/sh",
            argv: &[c"sh".into(), c"-c".into(), c"ulimit -v".into()],
            env: &[],
            cwd: &cwd,
            stdin: None,
            stdout: STDOUT_LOG_C,
            stderr: STDERR_LOG_C,
            address_space_bytes: None,
            cgroup_procs: None,
        };
        for _ in 0..2 {
            let (started, watch) = memory.spawn(&keeper.client(), &job, &request).unwrap();
            assert!(
                matches!(started.events.recv().unwrap(), TrialEvent::Ended(exited) if exited.exit == Exit::Code(0))
            );
            assert!(matches!(watch.held, Held::ByAddressSpace));
            assert_eq!(fs::read_to_string(root.path().join("stdout.log")).unwrap(), "524288\n");
        }
        assert!(matches!(*memory.parent.lock().unwrap(), Cgroups::Nowhere));
    }
}
