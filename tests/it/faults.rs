//! A faulty world: every call of the engine on its store, artifacts and exports that can fail, fails once, and for ever;
//! disks are full, limits low, directories gone, clocks jump.
//!
//! After each fault: an exit code of the contract, an error in words people read, nothing lost or doubled, and the same
//! command goes on to the very result of a run without faults.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::harness::{Sandbox, StudyFile, both};

/// The kinds of `faults.c`, in its order.
const KINDS: [&str; 7] = ["open", "write", "sync", "mkdir", "rename", "truncate", "read"];
/// Its place among them.
const READ: usize = 6;
const FOR_EVER: u64 = u64::MAX >> 1;

fn study_file() -> StudyFile {
    StudyFile::new("faulty")
        .run("workers = 2")
        .stage("wide", ["./trial.sh", "{n}"], 4, 2)
        .with(r#"outputs = ["out.txt"]"#)
        .sweep(r#"n = { min = 1, max = 4, type = "int" }"#)
        .maximize("z")
        .stage("deep", ["./trial.sh", "{m}"], 4, 1)
        .sweep(r#"m = ["1", "2"]"#)
        .maximize("z")
}

const TRIAL: &str = r#"
echo "$PITON_CASE"
echo "out of $PITON_CASE" > out.txt
[ "$PITON_CASE" = faulty_0_0 ] && exit 3
echo "{\"z\": $1$PITON_STAGE_INDEX}" > metrics.json
"#;

fn study() -> Sandbox {
    let sandbox = Sandbox::with_study(study_file());
    sandbox.script("trial.sh", TRIAL);
    sandbox
}

/// Builds the library that fails calls. Needs a C compiler, which `./tests/run` installs.
pub fn shim() -> &'static Path {
    // In one place that stays: what a `static` holds is never dropped. Each process puts its own there, whole.
    static SHIM: std::sync::LazyLock<PathBuf> = std::sync::LazyLock::new(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let (library, mine) = (dir.join("faults.so"), dir.join(format!("faults-{}.so", std::process::id())));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/faults.c");
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]).arg(&mine).arg(source).arg("-ldl");
        let output = cc.output().unwrap_or_else(|error| panic!("a C compiler `cc` is needed: {error}"));
        assert!(output.status.success(), "{}", both(&output));
        fs::rename(mine, &library).unwrap();
        library
    });
    &SHIM
}

/// One fault: calls `first` to `last` of a kind fail so.
#[derive(Clone, Copy, Debug)]
struct Fault {
    kind: usize,
    first: u64,
    last: u64,
    errno: i32,
}

fn faulty_run(sandbox: &Sandbox, fault: Option<Fault>) -> Output {
    faulty(sandbox, &["run", "study.toml"], fault)
}

fn faulty(sandbox: &Sandbox, words: &[&str], fault: Option<Fault>) -> Output {
    let mut command = sandbox.piton(words.iter().copied());
    command.env("LD_PRELOAD", shim()).env("FAULT_DIR", sandbox.path("").to_str().unwrap().trim_end_matches('/'));
    command.env("FAULT_COUNTS", sandbox.path("engine.counts"));
    if let Some(Fault { kind, first, last, errno }) = fault {
        command.env("FAULT", format!("{kind}:{first}:{errno}:{last}"));
    }
    command.output().unwrap()
}

/// How many calls of each kind a whole run makes.
fn counts(sandbox: &Sandbox) -> Vec<u64> {
    let bytes = fs::read(sandbox.path("engine.counts")).unwrap();
    bytes.chunks_exact(8).map(|n| u64::from_ne_bytes(n.try_into().unwrap())).collect()
}

/// The attempt by which each trial that succeeded did so; every attempt is accounted for.
fn accepted(sandbox: &Sandbox) -> BTreeMap<String, u64> {
    let dump = sandbox.dump();
    let count = |name: &str| dump["accounting"][name].as_u64().unwrap();
    let parts = count("succeeded") + count("failed") + count("interrupted") + count("running");
    assert_eq!(count("attempts_started"), parts, "{}", dump["accounting"]);
    let mut accepted = BTreeMap::new();
    for trial in dump["trials"].as_array().unwrap() {
        let attempts = trial["attempts"].as_array().unwrap();
        let counted =
            |attempt: &&serde_json::Value| attempt["outcome"] == "succeeded" || attempt["outcome"] == "failed";
        let ended: Vec<_> = attempts.iter().filter(counted).collect();
        assert!(ended.len() <= 1, "a trial has one result: {trial}");
        if let Some(attempt) = ended.first() {
            accepted.insert(trial["case"].as_str().unwrap().to_owned(), attempt["n"].as_u64().unwrap());
        }
    }
    accepted
}

/// Exit 1 with an error people can read, or 0.
fn said_well(output: &Output, what: &dyn std::fmt::Debug) -> bool {
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.code() {
        Some(0) => return true,
        Some(1) => {}
        other => panic!("{what:?}: exit {other:?}, signal {:?}\n{words}", output.status),
    }
    assert!(words.contains("error: "), "{what:?}\n{words}");
    for bad in ["os error", "panicked", "Error", "PreviousIo", "internal error"] {
        assert!(!words.contains(bad), "{what:?} says `{bad}`\n{words}");
    }
    false
}

/// With the cause gone: nothing accepted is lost or doubled, and the same command completes the study.
fn goes_on(sandbox: &Sandbox, expected: &str, what: &dyn std::fmt::Debug) {
    let before = if sandbox.path("study.redb").exists() { accepted(sandbox) } else { BTreeMap::new() };
    let output = sandbox.run("run study.toml");
    assert_eq!(output.status.code(), Some(0), "{what:?}: it does not go on\n{}", both(&output));
    let after = accepted(sandbox);
    assert_eq!(after.len(), 8, "{what:?}");
    for (case, attempt) in &before {
        assert_eq!(after.get(case), Some(attempt), "{what:?}: the result of `{case}` is another one now");
    }
    assert_eq!(sandbox.canonical(), expected, "{what:?}");
    sandbox.ok("verify study.redb", 0);
    assert!(leftovers(sandbox).is_empty(), "{what:?}: {:?}", leftovers(sandbox));
}

/// Temporary files that a run should have cleaned up.
fn leftovers(sandbox: &Sandbox) -> Vec<PathBuf> {
    let of = |dir: PathBuf| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let all = of(sandbox.path("")).chain(of(sandbox.path("artifacts/faulty")));
    all.filter(|path| path.to_string_lossy().ends_with(".new") || path.to_string_lossy().ends_with(".piton-tmp"))
        .collect()
}

/// Every n-th call of a kind fails, once and from then on, in each of these ways; of many calls, `most` are chosen evenly.
fn every_call(kind: &str, errnos: &[i32], most: u64) {
    let kind = KINDS.iter().position(|name| *name == kind).unwrap();
    let whole = study();
    let output = faulty_run(&whole, None);
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    let expected = whole.canonical();
    let calls = counts(&whole)[kind];
    assert!(calls >= 2, "the library sees the engine's calls: {:?}", counts(&whole));
    let (mut injected, mut failed, mut in_order) = (0, 0, 0);
    for (way, errno) in errnos.iter().enumerate() {
        for last_of in [|n| n, |_| FOR_EVER] {
            let chosen: std::collections::BTreeSet<u64> = (0..calls.min(most))
                .map(|n| 1 + n * calls / calls.min(most) + (way as u64) % (calls / calls.min(most)))
                .collect();
            for first in chosen {
                let fault = Fault { kind, first, last: last_of(first), errno: *errno };
                let sandbox = study();
                let output = faulty_run(&sandbox, Some(fault));
                injected += u64::from(counts(&sandbox)[kind] >= first);
                if !said_well(&output, &fault) {
                    failed += 1;
                    in_order += u64::from(sandbox.path("study.redb").exists() && stopped_well(&sandbox));
                }
                goes_on(&sandbox, &expected, &fault);
            }
        }
    }
    println!(
        "figure: {}: {calls} calls in a run, {injected} faults injected, {failed} runs ended by them, {in_order} of these in order",
        KINDS[kind]
    );
    // A disk that is full for a moment lets the study record its end, by the reserve.
    assert!(KINDS[kind] != "write" || in_order > 0, "the reserve was of use");
    assert!(injected >= calls.min(most) * errnos.len() as u64, "the faults were met");
}

#[test]
fn every_write_fails() {
    every_call("write", &[libc::ENOSPC, libc::EIO], 20);
}

#[test]
fn every_sync_fails() {
    every_call("sync", &[libc::EIO, libc::ENOSPC], 20);
}

#[test]
fn every_open_fails() {
    every_call("open", &[libc::EMFILE, libc::EDQUOT], 12);
}

#[test]
fn every_growth_fails() {
    every_call("truncate", &[libc::ENOSPC, libc::EDQUOT], 12);
}

#[test]
fn every_rename_and_mkdir_fails() {
    every_call("rename", &[libc::EIO, libc::ENOSPC], 8);
    every_call("mkdir", &[libc::EDQUOT, libc::EIO], 8);
}

#[test]
fn every_read_fails() {
    every_call("read", &[libc::EIO], 24);
}

/// Each file that an attempt left, when a read of it fails: the machine's fault interrupts, whatever the file would have told.
#[test]
fn every_read_of_what_attempts_left_fails() {
    let told = &StudyFile::new("told")
.run("workers = 1")
.stage("only", ["./trial.sh", "{n}"], 2, 1)
.with(r#"retries = { count = 1, delay = "0s", jitter = false }"#)
.with(r#"outputs = ["out.txt", "tree"]"#)
.sweep(r#"n = { min = 1, max = 2, type = "int" }"#)
.with("[stage.metrics]\nz = { file = \"sta.rpt\", regex = 'z (\\d+)' }")
.with("[[stage.failure]]\nkind = \"meltdown\"\nlog = '^melted$'\nseverity = \"catastrophic\"\nretryable = false");
    let script = r#"
echo out; [ "$1" = 2 ] && { echo melted >&2; exit 3; }
mkdir -p tree/sub; echo 1 > out.txt; echo 2 > tree/sub/deep; echo z 3 > sta.rpt; echo '{"y": 4}' > metrics.json
"#;
    let sandbox = || {
        let sandbox = Sandbox::with_study(told);
        sandbox.script("trial.sh", script);
        sandbox
    };
    let whole = sandbox();
    whole.ok("run study.toml", 0);
    let expected = whole.canonical();
    assert!(expected.contains("meltdown"), "{expected}");
    let files = ["/stderr.log", "/stdout.log", "/metrics.json", "/sta.rpt", "/out.txt", "/deep"];
    let mut injected = 0;
    for file in files {
        for (errno, first) in [(libc::EIO, 1), (libc::ENOMEM, 1), (libc::EIO, 2)] {
            let faulty = sandbox();
            let mut command = faulty.piton(["run", "study.toml"]);
            command.env("LD_PRELOAD", shim()).env("FAULT_COUNTS", faulty.path("engine.counts"));
            command.env("FAULT_DIR", faulty.path("").to_str().unwrap().trim_end_matches('/'));
            command.env("FAULT_FILE", file).env("FAULT", format!("{READ}:{first}:{errno}:{first}"));
            let output = command.output().unwrap();
            let what = (file, errno, first);
            if counts(&faulty)[READ] >= first {
                injected += 1;
                assert!(!said_well(&output, &what), "{what:?}: the fault ends the run\n{}", both(&output));
                let accounting = faulty.dump()["accounting"].clone();
                // What the next trial was at by then is chance.
                assert!(accounting["interrupted"].as_u64() > Some(0), "{what:?}: {accounting}");
                assert_eq!(accounting["running"], 0, "{what:?}");
                faulty.ok("run study.toml", 0);
            }
            assert_eq!(faulty.canonical(), expected, "{what:?}");
            faulty.ok("verify study.redb", 0);
        }
    }
    println!("figure: {injected} reads of what attempts left failed, none of them a trial's fault");
    assert!(injected >= 2 * files.len(), "the faults were met");
}

/// How often what attempts left is synced: counted by `faults.c` beyond the kinds that fail.
const SYNCS_OF_ATTEMPTS: usize = KINDS.len();

#[test]
fn what_attempts_leave_is_synced_once_and_nothing_costs_nothing() {
    let synced = |command: &dyn std::fmt::Debug, outputs: &str| {
        let sandbox = Sandbox::with_study(
            StudyFile::new("synced")
                .stage("only", command, 10, 1)
                .with(format!("outputs = [{outputs}]"))
                .sweep(r#"n = { min = 1, max = 10, type = "int" }"#),
        );
        let output = faulty_run(&sandbox, None);
        assert_eq!(output.status.code(), Some(0), "{}", both(&output));
        counts(&sandbox)[SYNCS_OF_ATTEMPTS]
    };
    assert_eq!(synced(&["/bin/true"], ""), 0, "no log, no metrics: nothing to keep");
    // The log, `params.json`, the attempt's directory.
    assert_eq!(synced(&"echo x", ""), 30);
    assert_eq!(synced(&"echo x; echo x >&2; echo '{{}}' > metrics.json", ""), 50);
    // An output that is a log already is kept once; one in a directory takes that along, as it does large ones.
    assert_eq!(synced(&"echo x", r#""stdout.log""#), 30);
    assert_eq!(synced(&"mkdir d; echo x > d/o", r#""d/o""#), 40);
    assert_eq!(synced(&"head -c 2000000 /dev/zero > o", r#""o""#), 30);
    assert_eq!(synced(&"mkdir d; echo x > d/o", r#""d""#), 40);
}

/// A study on a disk of its own, which goes with this.
struct Disk {
    sandbox: Sandbox,
    image: Option<tempfile::NamedTempFile>,
}

fn succeed(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "the tests of full disks mount one, as root: {command:?}\n{}", both(&output));
}

impl Disk {
    /// In memory, of so many KiB.
    fn tmpfs(kib: u64) -> Self {
        let sandbox = Sandbox::new();
        let size = format!("size={kib}k,mode=0755");
        succeed(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "piton-test"]).arg(sandbox.path("")));
        Self { sandbox, image: None }.prepared()
    }

    /// An ext4 of 8 MiB in a file.
    fn ext4() -> Self {
        let sandbox = Sandbox::new();
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(8 << 20).unwrap();
        succeed(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(image.path()));
        succeed(Command::new("mount").args(["-o", "loop"]).arg(image.path()).arg(sandbox.path("")));
        Self { sandbox, image: Some(image) }.prepared()
    }

    fn prepared(self) -> Self {
        self.sandbox.write("study.toml", study_file());
        self.sandbox.script("trial.sh", &format!("set -e\n{TRIAL}"));
        self
    }

    /// Fills it, but for so many KiB.
    fn fill_but(&self, left_kib: u64) {
        let disk = rustix::fs::statvfs(self.sandbox.path("")).unwrap();
        let mut bytes = (disk.f_bfree * disk.f_frsize).saturating_sub(left_kib << 10);
        let file = fs::File::create(self.sandbox.path("engine.filler")).unwrap();
        // File systems keep some of what is free to themselves.
        while bytes > 0 && rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes).is_err() {
            bytes = bytes.saturating_sub(16 << 10);
        }
    }

    fn free(&self) {
        fs::remove_file(self.sandbox.path("engine.filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(self.sandbox.path("")).status());
        drop(self.image.take());
    }
}

fn expected() -> String {
    let whole = study();
    whole.ok("run study.toml", 0);
    whole.canonical()
}

/// A study that stopped in good order: nothing counts as running, and the status says so.
fn stopped_well(sandbox: &Sandbox) -> bool {
    let dump = sandbox.dump();
    dump["study"]["status"] == "interrupted" && dump["accounting"]["running"] == 0
}

#[test]
fn disks_of_every_size_are_full() {
    let expected = expected();
    let (mut full, mut in_order) = (0, 0);
    let mut tried = |disk: Disk, left_kib: u64| {
        disk.fill_but(left_kib);
        let what = format!("{} KiB left", left_kib);
        let output = disk.sandbox.run("run study.toml");
        if !said_well(&output, &what) {
            full += 1;
            let words = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(words.contains("no space left"), "{what}: {words}");
            if disk.sandbox.path("study.redb").exists() {
                in_order += u32::from(stopped_well(&disk.sandbox));
            }
        }
        disk.free();
        goes_on(&disk.sandbox, &expected, &what);
    };
    for left_kib in [0, 4, 40, 100, 140, 200, 260, 300, 340, 400, 480, 600] {
        tried(Disk::tmpfs(16 << 10), left_kib);
        tried(Disk::ext4(), left_kib);
    }
    println!("figure: {full} runs met a full disk, {in_order} of them stopped in good order");
    assert!(full >= 8, "the disks were full");
}

/// The disk fills while trials run: with the reserve the study stops in good order, and what had ended is recorded.
#[test]
fn a_disk_that_fills_meanwhile_still_lets_the_study_stop() {
    let disk = Disk::tmpfs(16 << 10);
    let sandbox = &disk.sandbox;
    sandbox.write(
        "study.toml",
        study_file()
            .edit("n = { min = 1, max = 4", "n = { min = 1, max = 400")
            .edit("trial_budget = 4\nsurvivor_count = 2", "trial_budget = 400\nsurvivor_count = 2"),
    );
    // The first trial that finds the gate open leaves nothing free but what the reserve holds; no other writes.
    sandbox.script(
        "trial.sh",
        r#"
[ "$1" = 20 ] && { dd if=/dev/zero of=../../../../../engine.filler bs=4k 2>/dev/null || true; }
echo "{\"z\": $1}" > metrics.json
echo "out" > out.txt
exit 0
"#,
    );
    let output = sandbox.run("run study.toml");
    assert_eq!(output.status.code(), Some(1), "{}", both(&output));
    assert!(stopped_well(sandbox), "{}\n{}", sandbox.dump()["accounting"], both(&output));
    assert!(!sandbox.path("study.redb.reserve").exists(), "the reserve was given back");
    let before = sandbox.dump()["accounting"]["succeeded"].as_u64().unwrap();
    disk.free();
    sandbox.script("trial.sh", "echo \"{\\\"z\\\": $1}\" > metrics.json; echo out > out.txt");
    sandbox.ok("run study.toml", 0);
    let dump = sandbox.dump();
    assert!(dump["accounting"]["succeeded"].as_u64().unwrap() > before);
    assert!(!sandbox.path("study.redb.reserve").exists());
    sandbox.ok("verify study.redb", 0);
}

#[test]
fn few_open_files_are_allowed() {
    let expected = expected();
    let mut failed = 0;
    for limit in (8..=44).step_by(2) {
        let sandbox = study();
        let script = format!("ulimit -n {limit}; exec '{}' run study.toml", env!("CARGO_BIN_EXE_piton"));
        let output = Command::new("sh").arg("-c").arg(script).current_dir(sandbox.path("")).output().unwrap();
        failed += u32::from(!said_well(&output, &limit));
        goes_on(&sandbox, &expected, &limit);
    }
    println!("figure: of 19 limits on open files, {failed} were too low");
    assert!(failed > 0, "the limits were felt");
}

fn three_stages() -> StudyFile {
    StudyFile::new("deep")
        .run("workers = 2")
        .stage("a", "mkdir sub; echo out > sub/out.txt", 3, 1)
        .with(r#"outputs = ["sub/out.txt"]"#)
        .sweep("n = [1, 2, 3]")
        .stage("b", "echo out > out.txt", 1, 1)
        .with(r#"outputs = ["out.txt"]"#)
        .stage("c", "mkdir tree; echo out > tree/out.txt", 1, 1)
        .with(r#"outputs = ["tree"]"#)
}

/// Runs it with a trace; the lines of it that are about what lies below the sandbox, without that.
fn traced(sandbox: &Sandbox, code: i32) -> Vec<String> {
    let mut command = sandbox.piton(["run", "study.toml"]);
    let dir = sandbox.path("").to_str().unwrap().trim_end_matches('/').to_owned();
    command.env("LD_PRELOAD", shim()).env("FAULT_DIR", &dir).env("FAULT_TRACE", sandbox.path("trace"));
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{}", both(&output));
    sandbox.lines("trace").iter().map(|line| line.replace(&dir, "")).collect()
}

/// The directories on the way to a stage's outputs are durable, each after it was made, before anything of the next stage
/// begins: the study goes on to it by results that are committed. The last stage's are before the end.
fn assert_ways_are_durable(trace: &[String]) {
    let stages = ["/artifacts/deep/0_a", "/artifacts/deep/1_b", "/artifacts/deep/2_c"];
    for (n, stage) in stages.iter().enumerate() {
        let of_next = |line: &String| stages.get(n + 1).is_some_and(|next| line.contains(next));
        let end = trace.iter().position(of_next).unwrap_or(trace.len());
        let made: Vec<(usize, &str)> = (0..end)
            .filter_map(|at| Some((at, trace[at].strip_prefix("mkdir ")?)))
            .filter(|(_, path)| path.starts_with(stage) || stage.starts_with(path))
            .collect();
        assert!(made.iter().any(|(_, path)| path == stage), "{stage} was made: {trace:#?}");
        for (at, path) in made {
            let above = Path::new(path).parent().unwrap().to_str().unwrap().trim_end_matches('/');
            let synced = trace[at..end].iter().any(|line| line.strip_prefix("sync ") == Some(above));
            assert!(synced, "the entry `{path}` is not durable when `{stage}` is over: {trace:#?}");
        }
    }
}

#[test]
fn a_result_counts_once_every_directory_on_the_way_to_its_outputs_is_durable() {
    let sandbox = Sandbox::with_study(three_stages());
    assert_ways_are_durable(&traced(&sandbox, 0));
    // Nobody else makes them durable by the way: the exports cannot be written.
    let sandbox = Sandbox::with_study(three_stages());
    for export in ["study_checkpoint.json", "study_telemetry.json", "telemetry.jsonl"] {
        fs::create_dir_all(sandbox.path("artifacts/deep").join(export).join("in the way")).unwrap();
    }
    let trace = traced(&sandbox, 1);
    assert_ways_are_durable(&trace);
    // Made by somebody else: new to this run.
    for above in ["sync /artifacts/deep", "sync /artifacts", "sync "] {
        assert!(trace.iter().any(|line| line == above), "`{above}`: {trace:#?}");
    }
}

/// The program as a user without rights, in a directory of root's.
pub fn as_nobody(sandbox: &Sandbox, line: &str) -> Output {
    let program = sandbox.path("piton-of-all");
    if !program.exists() {
        fs::copy(env!("CARGO_BIN_EXE_piton"), &program).unwrap();
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program);
    command.args(line.split_whitespace()).current_dir(sandbox.path("")).env("NO_COLOR", "1");
    command.output().unwrap_or_else(|error| panic!("`setpriv` is needed: {error}"))
}

#[test]
fn without_permission_nothing_is_changed() {
    use std::os::unix::fs::PermissionsExt;
    let sandbox = study();
    fs::set_permissions(sandbox.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let output = as_nobody(&sandbox, "run study.toml");
    assert!(!said_well(&output, &"no store"), "{}", both(&output));
    assert!(both(&output).contains("permission denied"), "{}", both(&output));
    assert!(!sandbox.path("study.redb").exists() && !sandbox.path("artifacts").exists());
    // A study of somebody else's is closed. Once its owner opens it everybody may look, and only its owner changes it.
    sandbox.ok("run study.toml", 0);
    let closed = as_nobody(&sandbox, "status study.redb");
    assert!(closed.status.code() == Some(1) && both(&closed).contains("permission denied"), "{}", both(&closed));
    fs::set_permissions(sandbox.path("study.redb"), fs::Permissions::from_mode(0o644)).unwrap();
    let before = fs::read(sandbox.path("study.redb")).unwrap();
    let looked = as_nobody(&sandbox, "status study.redb");
    assert_eq!(looked.status.code(), Some(0), "{}", both(&looked));
    let refused = as_nobody(&sandbox, "retry study.redb --failed");
    assert!(!said_well(&refused, &"retry"), "{}", both(&refused));
    assert_eq!(fs::read(sandbox.path("study.redb")).unwrap(), before);
}

#[test]
fn artifacts_that_vanish_end_no_study_in_disorder() {
    let sandbox = study();
    sandbox.script(
        "trial.sh",
        &format!("[ -e ../../../../../gone ] || {{ touch ../../../../../gone; rm -rf ../../../../../artifacts; exit 0; }}\n{TRIAL}"),
    );
    let output = sandbox.run("run study.toml");
    // Gone can be what a survivor left, too, if it ended before: no trial is started on that.
    let code = output.status.code();
    assert!(matches!(code, Some(0 | 1 | 3 | 6)), "{}", both(&output));
    assert_eq!(code == Some(6), both(&output).contains("no trial was started on it"), "{}", both(&output));
    accepted(&sandbox);
    // What lost its outputs failed for that; told so, it runs again.
    sandbox.run("retry study.redb --failed");
    sandbox.run("run study.toml");
    let dump = sandbox.dump();
    assert_eq!(dump["accounting"]["running"], 0);
}

#[test]
fn a_clock_that_jumps_changes_nothing() {
    let expected = expected();
    for step_s in [3_600_i64 * 24 * 400, -3_600 * 24 * 400, 7, -7] {
        for every in [1, 5, 20] {
            let sandbox = study();
            let mut command = sandbox.piton(["run", "study.toml"]);
            command
                .env("LD_PRELOAD", shim())
                .env("FAULT_DIR", sandbox.path("").to_str().unwrap().trim_end_matches('/'));
            let output = command.env("FAULT_CLOCK", format!("{step_s}:{every}")).output().unwrap();
            assert_eq!(output.status.code(), Some(0), "{step_s} {every}\n{}", both(&output));
            assert_eq!(sandbox.canonical(), expected, "{step_s} {every}");
            assert_eq!(accepted(&sandbox).len(), 8);
            sandbox.ok("verify study.redb", 0);
        }
    }
}

/// All of it is recorded, with its outputs in place, or nothing is and no output stays.
#[test]
fn an_import_that_fails_leaves_nothing_behind() {
    let ready = || {
        let sandbox = study();
        sandbox.write("last.csv", "n,z,outputs\n4,41,four\n3,31,three\n");
        for name in ["four", "three"] {
            fs::create_dir_all(sandbox.path("theirs").join(name)).unwrap();
            sandbox.write(&format!("theirs/{name}/out.txt"), name);
        }
        sandbox
    };
    let line = "import study.redb last.csv --stage wide --study study.toml --by ada --outputs theirs --yes";
    let words: Vec<&str> = line.split(' ').collect();
    let outputs = |sandbox: &Sandbox| {
        let there =
            |case: &&&str| sandbox.path(&format!("artifacts/faulty/0_wide/{case}/attempt_0/out.txt")).exists();
        ["faulty_0_2", "faulty_0_3"].iter().filter(there).count()
    };
    let whole = ready();
    let output = faulty(&whole, &words, None);
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    let calls = counts(&whole);
    let (mut none, mut all) = (0, 0);
    for kind in ["open", "write", "sync", "mkdir"] {
        let kind = KINDS.iter().position(|name| *name == kind).unwrap();
        for first in 1..=calls[kind] {
            let sandbox = ready();
            let fault = Fault { kind, first, last: first, errno: libc::EIO };
            let output = faulty(&sandbox, &words, Some(fault));
            said_well(&output, &fault);
            let imported = match sandbox.path("study.redb").exists() {
                true => sandbox.dump()["accounting"]["imported"].as_u64().unwrap(),
                false => 0,
            };
            assert_eq!(outputs(&sandbox) as u64, imported, "{fault:?}: {}", both(&output));
            assert!(imported == 0 || imported == 2, "{fault:?}");
            if imported == 0 {
                none += 1;
                sandbox.ok(line, 0);
            } else {
                all += 1;
            }
            assert_eq!(outputs(&sandbox), 2);
        }
    }
    assert!(none > 10 && all > 0, "{none} {all}");
}
