//! The keeper with real processes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::*;
use crate::model::Exit;
use crate::sys::process::{self, wait_gone};

/// Far beyond anything a healthy run needs.
const LONG: Duration = Duration::from_secs(60);

fn c(text: impl Into<Vec<u8>>) -> CString {
    CString::new(text).unwrap()
}

/// A place for trials to run in, and their keeper.
struct Bench {
    keeper: Keeper,
    /// Where the next trial starts.
    slot: std::sync::atomic::AtomicU32,
    dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), slot: 0.into(), keeper: Keeper::start().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn try_start(&self, program: &str, args: &[&str], limit: Option<u64>) -> Result<Started, SpawnError> {
        self.try_start_in(program, args, limit, None)
    }

    fn try_start_in(
        &self,
        program: &str,
        args: &[&str],
        limit: Option<u64>,
        cgroup_procs: Option<&CStr>,
    ) -> Result<Started, SpawnError> {
        let name = format!("{}.{}", std::process::id(), self.keeper.client().0.next_id.load(Ordering::Relaxed));
        let env = [c("PATH=/usr/local/bin:/usr/bin:/bin"), c(format!("PITON_ATTEMPT_KEY={name}"))];
        let argv: Vec<CString> = args.iter().map(|arg| c(*arg)).collect();
        self.keeper.client().of_slot(self.slot.load(Ordering::Relaxed)).spawn(&SpawnRequest {
            program: &c(program),
            argv: &argv,
            env: &env,
            cwd: &c(self.dir.path().to_str().unwrap()),
            stdin: None,
            stdout: c"stdout.log",
            stderr: c"stderr.log",
            address_space_bytes: limit,
            cgroup_procs,
        })
    }

    fn sh(&self, script: &str) -> Started {
        self.try_start("/bin/sh", &["sh", "-c", script], None).unwrap()
    }

    /// The process whose pid a script wrote into `name`.
    fn noted(&self, name: &str) -> ProcessId {
        let path = self.path(name);
        eventually(|| fs::read_to_string(&path).is_ok_and(|text| text.ends_with('\n')));
        let pid = fs::read_to_string(&path).unwrap().trim().parse().unwrap();
        Stat::of(pid)
            .unwrap()
            .unwrap_or(Stat { pid, parent: 0, group: 0, session: 0, dead: true, stopped: false, start_ticks: 0 })
            .id()
    }
}

fn lives(process: ProcessId) -> bool {
    process::lives(process).unwrap()
}

fn eventually(mut what: impl FnMut() -> bool) {
    let start = Instant::now();
    while !what() {
        assert!(start.elapsed() < LONG, "it never came to be");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn end(started: &Started) -> Exited {
    match started.events.recv_timeout(LONG).unwrap() {
        TrialEvent::Ended(exited) => exited,
        TrialEvent::Lost => panic!("lost"),
    }
}

/// Waits for ever, without a child.
const HANG: &str = "mkfifo never.$$; exec 3<>never.$$; read line <&3";

#[test]
fn a_trial_ends_with_its_code_and_its_use() {
    let bench = Bench::new();
    let started = bench.sh("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo out; echo err >&2; exit 3");
    let exited = end(&started);
    assert_eq!((exited.exit, exited.signalled), (Exit::Code(3), false));
    assert!(exited.user_us + exited.system_us > 0);
    assert!(exited.peak_rss_bytes > 100_000, "{}", exited.peak_rss_bytes);
    assert_eq!(fs::read_to_string(bench.path("stdout.log")).unwrap(), "out\n");
    assert_eq!(fs::read_to_string(bench.path("stderr.log")).unwrap(), "err\n");
    assert!(!lives(started.process));
}

#[test]
fn a_trial_killed_by_a_signal_says_so() {
    let bench = Bench::new();
    let exited = end(&bench.sh("kill -SEGV $$"));
    assert_eq!((exited.exit, exited.signalled), (Exit::Signal(libc::SIGSEGV), false));
}

#[test]
fn a_trial_starts_clean() {
    let bench = Bench::new();
    end(&bench
        .sh("ls -l /proc/self/fd; grep Sig /proc/self/status; pwd; env; cat; cut -d' ' -f5-6 /proc/self/stat"));
    let out = fs::read_to_string(bench.path("stdout.log")).unwrap();
    let fds: Vec<&str> = out.lines().filter(|line| line.contains(" -> ")).collect();
    // `ls` itself has the directory open.
    assert_eq!(fds.len(), 4, "{out}");
    assert!(fds[0].ends_with("0 -> /dev/null") && fds[3].contains("3 -> /proc/"), "{out}");
    assert!(out.contains("SigBlk:\t0000000000000000") && out.contains("SigIgn:\t0000000000000000"), "{out}");
    assert!(out.contains(&format!("\n{}\n", bench.dir.path().canonicalize().unwrap().display())), "{out}");
    let variables = out.lines().filter(|line| line.split_once('=').is_some_and(|(name, _)| name != "PWD"));
    assert!(
        variables
            .clone()
            .all(|line| ["PATH=", "PITON_", "_=", "OLDPWD", "SHLVL"].iter().any(|known| line.starts_with(known))),
        "{out}"
    );
    assert_eq!(fs::read_to_string(bench.path("stderr.log")).unwrap(), "");
}

#[test]
fn the_keeper_holds_nothing_of_the_engine() {
    let (mut reader, writer) = io::pipe().unwrap();
    let bench = Bench::new();
    drop(writer);
    // The end of the pipe is seen although the keeper lives: `piton run | cat` comes to an end.
    assert_eq!(reader.read(&mut [0; 1]).unwrap(), 0);
    let process = bench.keeper.process();
    let mut targets: Vec<String> = fs::read_dir(format!("/proc/{}/fd", process.pid))
        .unwrap()
        .map(|entry| {
            fs::read_link(entry.unwrap().path()).unwrap().to_string_lossy().split(':').next().unwrap().to_owned()
        })
        .collect();
    targets.sort();
    assert_eq!(targets, ["/dev/null", "/dev/null", "/dev/null", "anon_inode", "anon_inode", "socket"]);
    let named = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", process.pid)).unwrap();
    assert_eq!(named("comm"), "trial-keeper\n");
    assert_eq!(named("cmdline").trim_end_matches('\0'), "trial-keeper");
    assert_eq!(fs::read_link(format!("/proc/{}/cwd", process.pid)).unwrap(), Path::new("/"));
    assert_eq!(Stat::of(process.pid).unwrap().unwrap().group, process.pid);
}

#[test]
fn what_a_trial_left_in_the_background_is_dead_when_it_ends() {
    let bench = Bench::new();
    let started = bench.sh("sleep 1000 & echo $! > one; (sleep 1000 & echo $! > two) ; exit 0");
    assert_eq!(end(&started).exit, Exit::Code(0));
    let left: Vec<u32> =
        ["one", "two"].map(|name| fs::read_to_string(bench.path(name)).unwrap().trim().parse().unwrap()).to_vec();
    assert!(left.iter().all(|pid| Stat::of(*pid).unwrap().is_none_or(|stat| stat.dead)), "{left:?}");
}

const DAEMON: &str = "setsid sh -c 'sleep 1000 & echo $$ > daemon.tmp; mv daemon.tmp daemon; wait' & \
     while [ ! -e daemon ]; do :; done;";

#[test]
fn a_daemon_is_dead_when_its_trial_ends() {
    let bench = Bench::new();
    let started = bench.sh(&format!("{DAEMON} mkfifo go; read line < go"));
    let daemon = bench.noted("daemon");
    let below: Vec<ProcessId> = eventually_children(daemon.pid);
    assert!(lives(daemon) && Stat::of(daemon.pid).unwrap().unwrap().group == daemon.pid);
    fs::write(bench.path("go"), "\n").unwrap();
    assert_eq!(end(&started).exit, Exit::Code(0));
    assert!(!lives(daemon) && !below.iter().any(|child| lives(*child)));
}

fn eventually_children(of: u32) -> Vec<ProcessId> {
    let mut found = Vec::new();
    eventually(|| {
        let all = process::all_processes().unwrap();
        found = all.iter().filter(|stat| stat.parent == of).map(Stat::id).collect();
        !found.is_empty()
    });
    found
}

#[test]
fn a_daemon_that_hides_lives_no_longer_than_the_trials_it_may_belong_to() {
    let bench = Bench::new();
    let other = bench.sh(HANG);
    let started = bench.sh(&format!("exec 2>&-; {} exit 0", DAEMON.replace("setsid", "env -i /usr/bin/setsid")));
    assert_eq!(end(&started).exit, Exit::Code(0));
    let daemon = bench.noted("daemon");
    assert!(lives(daemon), "it may be the other's");
    bench.keeper.client().signal(other.id, Signal::KILL);
    end(&other);
    assert!(wait_gone(daemon, Some(LONG)).unwrap());
}

#[test]
fn a_daemon_of_a_running_trial_is_left_alone() {
    let bench = Bench::new();
    let owner = bench.sh(&format!("({DAEMON}) ; {HANG}"));
    let daemon = bench.noted("daemon");
    eventually(|| Stat::of(daemon.pid).unwrap().unwrap().parent == bench.keeper.process().pid);
    for _ in 0..3 {
        end(&bench.sh("(true); sleep 1000 & exit 0"));
    }
    assert!(lives(daemon));
    bench.keeper.client().signal(owner.id, Signal::TERM);
    let exited = end(&owner);
    assert_eq!((exited.exit, exited.signalled), (Exit::Signal(libc::SIGTERM), true));
    assert!(!lives(daemon));
}

#[test]
fn a_trial_deaf_to_term_hears_kill_and_its_children_with_it() {
    let bench = Bench::new();
    let started = bench.sh(&format!("trap '' TERM; sleep 1000 & echo $! > child; {HANG}"));
    let child = bench.noted("child");
    bench.keeper.client().signal(started.id, Signal::TERM);
    bench.keeper.client().signal(started.id, Signal::KILL);
    let exited = end(&started);
    assert_eq!((exited.exit, exited.signalled), (Exit::Signal(libc::SIGKILL), true));
    assert!(!lives(child));
}

#[test]
fn stopped_trials_stand_still_until_continued() {
    let bench = Bench::new();
    let state = |process: ProcessId| fs::read_to_string(format!("/proc/{}/stat", process.pid)).unwrap();
    let stopped = |process: ProcessId| state(process).contains(") T ");
    // Without children: a shell that waits in vfork for a stopped child shows as sleeping.
    let busy = "while :; do :; done";
    let before = bench.sh(busy);
    bench.keeper.client().stop_all();
    let after = bench.sh(busy);
    eventually(|| stopped(before.process) && stopped(after.process));
    bench.keeper.client().continue_all();
    eventually(|| !stopped(before.process) && !stopped(after.process));
    bench.keeper.client().stop_all();
    eventually(|| stopped(before.process));
    bench.keeper.client().signal(before.id, Signal::TERM);
    assert_eq!(end(&before).exit, Exit::Signal(libc::SIGTERM));
    bench.keeper.client().kill_all();
    assert_eq!(end(&after).exit, Exit::Signal(libc::SIGKILL));
}

#[test]
fn what_cannot_start_says_where_and_why() {
    let bench = Bench::new();
    let refused = |result: Result<Started, SpawnError>| match result.unwrap_err() {
        SpawnError::Refused { step, errno } => (step, errno),
        gone => panic!("{gone}"),
    };
    fs::write(bench.path("script"), "no interpreter line").unwrap();
    fs::set_permissions(bench.path("script"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let script = bench.path("script");
    assert_eq!(refused(bench.try_start("/no/such", &["x"], None)), (SpawnStep::Exec, Errno::NOENT));
    assert_eq!(refused(bench.try_start("/etc/passwd", &["x"], None)), (SpawnStep::Exec, Errno::ACCESS));
    assert_eq!(refused(bench.try_start(script.to_str().unwrap(), &["x"], None)), (SpawnStep::Exec, Errno::NOEXEC));
    std::os::unix::fs::symlink("/etc/passwd", bench.path("stdout.log.link")).unwrap();
    fs::remove_file(bench.path("stdout.log")).unwrap();
    fs::rename(bench.path("stdout.log.link"), bench.path("stdout.log")).unwrap();
    assert_eq!(refused(bench.try_start("/bin/true", &["x"], None)), (SpawnStep::Logs, Errno::LOOP));
    fs::remove_dir_all(bench.dir.path()).unwrap();
    assert_eq!(refused(bench.try_start("/bin/true", &["x"], None)), (SpawnStep::Cwd, Errno::NOENT));
    fs::create_dir(bench.dir.path()).unwrap();
    assert_eq!(end(&bench.sh("exit 0")).exit, Exit::Code(0), "and none of it does harm");
}

#[test]
fn a_trial_enters_its_cgroup_before_it_is_one() {
    let bench = Bench::new();
    // A plain file in the place of `cgroup.procs` keeps what is written to it.
    fs::write(bench.path("cgroup.procs"), "").unwrap();
    let procs = c(bench.path("cgroup.procs").to_str().unwrap());
    let started = bench.try_start_in("/bin/sh", &["sh", "-c", "cat cgroup.procs"], None, Some(&procs)).unwrap();
    assert_eq!(end(&started).exit, Exit::Code(0));
    assert_eq!(fs::read_to_string(bench.path("stdout.log")).unwrap(), "0");
    for (procs, expected) in [("/nowhere/cgroup.procs", Errno::NOENT), ("/dev/full", Errno::NOSPC)] {
        let refused = bench.try_start_in("/bin/true", &["true"], None, Some(&c(procs))).unwrap_err();
        let SpawnError::Refused { step: SpawnStep::Cgroup, errno } = refused else { panic!("{refused:?}") };
        assert_eq!(errno, expected);
    }
}

#[test]
fn memory_can_be_limited() {
    let bench = Bench::new();
    let started = bench.try_start("/bin/sh", &["sh", "-c", "ulimit -v"], Some(512 << 20)).unwrap();
    assert_eq!(end(&started).exit, Exit::Code(0));
    assert_eq!(fs::read_to_string(bench.path("stdout.log")).unwrap(), "524288\n");
}

#[test]
fn when_the_keeper_is_killed_trials_are_lost_and_dead() {
    let bench = Bench::new();
    let started = bench.sh(&format!("trap '' TERM; sleep 1000 & echo $! > child; {HANG}"));
    let child = bench.noted("child");
    assert!(signal_exactly(bench.keeper.process(), Signal::KILL).unwrap());
    assert_eq!(started.events.recv_timeout(LONG).unwrap(), TrialEvent::Lost);
    assert!(wait_gone(started.process, Some(LONG)).unwrap());
    // It has no leader any more whose number could be trusted; `strays` finds it by its key.
    signal_exactly(child, Signal::KILL).unwrap();
    assert!(!bench.keeper.client().is_alive());
    let first = bench.keeper.process();
    assert_eq!(end(&bench.sh("exit 7")).exit, Exit::Code(7), "the next one gets a keeper of its own");
    assert!(!lives(first) && lives(bench.keeper.process()));
}

#[test]
fn several_keepers_start_trials_and_die_as_one() {
    let bench = Bench::new();
    bench.keeper.widen_to(3);
    let parent = |started: &Started| Stat::of(started.process.pid).unwrap().unwrap().parent;
    let at = |slot: u32, script: &str| {
        bench.slot.store(slot, Ordering::Relaxed);
        bench.sh(script)
    };
    let lives_on = at(0, HANG);
    let owner = at(4, &format!("({DAEMON}) ; {HANG}"));
    let daemon = bench.noted("daemon");
    eventually(|| Stat::of(daemon.pid).unwrap().unwrap().parent == parent(&owner));
    let busy = at(2, "while :; do :; done");
    let keepers = [parent(&lives_on), parent(&owner), parent(&busy)];
    assert_eq!(keepers[0], bench.keeper.process().pid);
    assert_eq!(std::collections::BTreeSet::from(keepers).len(), 3);
    // Each hears of what is its own, and all of what is for all.
    let stopped = |started: &Started| Stat::of(started.process.pid).unwrap().unwrap().stopped;
    bench.keeper.client().stop_all();
    eventually(|| stopped(&busy) && stopped(&lives_on));
    bench.keeper.client().continue_all();
    eventually(|| !stopped(&busy));
    bench.keeper.client().signal(busy.id, Signal::TERM);
    assert_eq!((end(&busy).exit, lives(owner.process)), (Exit::Signal(libc::SIGTERM), true));
    assert_eq!(end(&at(2, "exit 3")).exit, Exit::Code(3));
    // The third has no trial; a trial of the first is lost all the same.
    let third = Stat::of(keepers[2]).unwrap().unwrap().id();
    assert!(signal_exactly(third, Signal::KILL).unwrap());
    for started in [&lives_on, &owner] {
        assert_eq!(started.events.recv_timeout(LONG).unwrap(), TrialEvent::Lost);
        assert!(!lives(started.process));
    }
    assert!(!lives(daemon) && !bench.keeper.client().is_alive());
    let anew = at(1, HANG);
    assert!(!keepers.contains(&parent(&anew)));
    assert_eq!(end(&at(2, "exit 4")).exit, Exit::Code(4));
    assert_eq!(bench.keeper.client().0.now().keepers().len(), 3);
}

/// Nobody else would start trials, or see how they end.
#[test]
fn a_keeper_that_is_stopped_goes_on() {
    let bench = Bench::new();
    let started = bench.sh("exit 3");
    assert!(signal_exactly(bench.keeper.process(), Signal::STOP).unwrap());
    assert_eq!(end(&started).exit, Exit::Code(3));
    assert_eq!(end(&bench.sh("exit 4")).exit, Exit::Code(4));
}

#[test]
#[ignore = "a role of the test that starts it"]
fn role_adopts() {
    crate::sys::orphans::adopt().unwrap();
    let bench = Bench::new();
    let mut others = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let script = format!(
        "env -i setsid setsid sh -c 'echo $$ > hidden; exec sleep 1000' & sleep 1000 & echo $! > child; {HANG}"
    );
    let started = bench.sh(&script);
    let left = [bench.noted("hidden"), bench.noted("child")];
    assert!(signal_exactly(bench.keeper.process(), Signal::KILL).unwrap());
    assert_eq!(started.events.recv_timeout(LONG).unwrap(), TrialEvent::Lost);
    assert!(!left.into_iter().any(lives), "when it is told, nothing is left");
    assert_eq!(end(&bench.sh("exit 7")).exit, Exit::Code(7));
    assert!(others.try_wait().unwrap().is_none(), "what the program started is its own");
    others.kill().unwrap();
    others.wait().unwrap();
}

/// In a process of its own: it is an attribute of the process.
#[test]
fn what_a_killed_keeper_leaves_comes_to_the_program_and_ends() {
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "executor::local::keeper::tests::role_adopts"])
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn dropping_the_keeper_ends_everything() {
    let bench = Bench::new();
    let started = bench.sh(&format!("{} {HANG}", DAEMON.replace("setsid", "env -i /usr/bin/setsid")));
    let daemon = bench.noted("daemon");
    let keeper = bench.keeper.process();
    drop(bench.keeper);
    assert!(![started.process, daemon, keeper].into_iter().any(lives));
    assert_eq!(started.events.try_recv(), Ok(TrialEvent::Lost));
}

#[test]
fn many_at_once_all_end() {
    let bench = Bench::new();
    bench.keeper.widen_to(2);
    let bench = &bench;
    std::thread::scope(|scope| {
        for slot in 0..4 {
            scope.spawn(move || {
                for round in 0..50 {
                    bench.slot.store(slot, Ordering::Relaxed);
                    let exited = end(&bench.sh(&format!("(exit 0); exit {round}")));
                    assert_eq!(exited.exit, Exit::Code(round));
                }
            });
        }
    });
    let keepers = bench.keeper.client().0.now().keepers().clone();
    assert!(keepers.iter().all(|keeper| keeper.waiting().as_ref().unwrap().is_empty()));
}

#[test]
#[ignore = "a role of the test that starts it"]
fn role_engine() {
    let bench = Bench::new();
    let target = std::env::var("PITON_TEST_DIR").unwrap();
    let hidden = DAEMON.replace("setsid", "env -i /usr/bin/setsid");
    let script = format!("trap '' TERM HUP INT; cd {target}; {hidden} sleep 1000 & echo $$ > leader; {HANG}");
    let _started = bench.sh(&script);
    fs::write(format!("{target}/keeper"), format!("{}\n", bench.keeper.process().pid)).unwrap();
    std::thread::park();
}

#[test]
fn killing_the_engine_and_its_group_leaves_nothing() {
    use std::os::unix::process::CommandExt;
    let bench = Bench::new();
    let mut engine = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "executor::local::keeper::tests::role_engine"])
        .env("PITON_TEST_DIR", bench.dir.path())
        .stdout(std::process::Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    let left = ["leader", "daemon", "keeper"].map(|name| bench.noted(name));
    let below = eventually_children(left[1].pid);
    assert!(left.into_iter().all(lives));
    let group = rustix::process::Pid::from_raw(engine.id().cast_signed()).unwrap();
    rustix::process::kill_process_group(group, Signal::KILL).unwrap();
    engine.wait().unwrap();
    for process in left.into_iter().chain(below) {
        assert!(wait_gone(process, Some(LONG)).unwrap(), "{process:?}");
    }
}
