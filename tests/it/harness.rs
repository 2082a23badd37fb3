//! A scratch study, the program run on it, and waiting for conditions.

use std::ffi::OsStr;
use std::fmt::{self, Debug, Display};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// Only a hang takes this long.
const DEADLINE: Duration = Duration::from_secs(300);

/// The text of a study file, written from its top to its end.
pub struct StudyFile(String);

impl StudyFile {
    /// `[study]` with this name.
    pub fn new(name: &str) -> Self {
        Self::fragment().with(format!("[study]\nname = {name:?}"))
    }

    /// Nothing yet: for stages that are put behind another study's.
    pub fn fragment() -> Self {
        Self(String::new())
    }

    /// These lines, which belong to the table that was begun last or begin another.
    pub fn with(mut self, lines: impl AsRef<str>) -> Self {
        self.0.push_str(lines.as_ref());
        self.0.push('\n');
        self
    }

    /// `[run]` with these lines.
    pub fn run(self, lines: impl AsRef<str>) -> Self {
        self.with("[run]").with(lines)
    }

    /// Another stage. Its command is one text for a shell, or a list of arguments; what Rust escapes in them is escaped
    /// alike in TOML.
    pub fn stage(
        self,
        name: &str,
        command: impl Debug,
        trial_budget: impl Display,
        survivor_count: impl Display,
    ) -> Self {
        self.with(format!("[[stage]]\nname = {name:?}\ncommand = {command:?}"))
            .with(format!("trial_budget = {trial_budget}\nsurvivor_count = {survivor_count}"))
    }

    /// The same with another text wherever this one stands; see [`Edit`].
    pub fn edit(&self, from: &str, to: &str) -> Self {
        Self(self.0.edit(from, to))
    }

    /// The same with another text where this one stands first.
    pub fn edit_first(&self, from: &str, to: &str) -> Self {
        Self(self.0.edit_first(from, to))
    }

    /// The last stage's params.
    pub fn sweep(self, params: impl AsRef<str>) -> Self {
        self.with("[stage.sweep]").with(params)
    }

    pub fn minimize(self, metric: &str) -> Self {
        self.with(format!("[[stage.objective]]\nmetric = {metric:?}\ngoal = \"minimize\""))
    }

    pub fn maximize(self, metric: &str) -> Self {
        self.with(format!("[[stage.objective]]\nmetric = {metric:?}\ngoal = \"maximize\""))
    }
}

impl Display for StudyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for StudyFile {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// Texts that tests make from others. What is put elsewhere must stand there: an edit that changes nothing would leave
/// its test without a case, and `str::replace` says nothing.
pub trait Edit {
    /// With another text wherever this one stands.
    fn edit(&self, from: &str, to: &str) -> String;

    /// With another text where this one stands first.
    fn edit_first(&self, from: &str, to: &str) -> String;
}

impl Edit for str {
    fn edit(&self, from: &str, to: &str) -> String {
        assert!(self.contains(from), "no {from:?} in\n{self}");
        self.replace(from, to)
    }

    fn edit_first(&self, from: &str, to: &str) -> String {
        assert!(self.contains(from), "no {from:?} in\n{self}");
        self.replacen(from, to, 1)
    }
}

/// A directory that goes away, with a study in it.
pub struct Sandbox {
    dir: tempfile::TempDir,
}

impl Sandbox {
    pub fn new() -> Self {
        Self { dir: tempfile::Builder::new().prefix("piton-").tempdir().unwrap() }
    }

    /// With this study file, `study.toml`.
    pub fn with_study(study: impl AsRef<str>) -> Self {
        let sandbox = Self::new();
        sandbox.write("study.toml", study);
        sandbox
    }

    /// With a study that was run, and ended with this exit code.
    pub fn finished(study: impl AsRef<str>, code: i32) -> Self {
        let sandbox = Self::with_study(study);
        sandbox.ok("run study.toml", code);
        sandbox
    }

    /// With six trials that run `trial.sh N` for N from 1 to 6. `more` stands before the stage.
    pub fn with_six_trials(name: &str, more: &str) -> Self {
        let study = StudyFile::new(name).with(more).stage("only", ["./trial.sh", "{n}"], 6, 1);
        Self::with_study(study.sweep("n = { min = 1, max = 6, type = \"int\" }").maximize("n"))
    }

    /// With an example's files, but nothing of whoever ran it there before.
    pub fn of_example(name: &str) -> Self {
        let sandbox = Self::new();
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name);
        for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
            let file = entry.file_name().into_string().unwrap();
            let left = file == "artifacts" || file.contains(".redb");
            if !left {
                let copied = Command::new("cp").arg("-r").arg(entry.path()).arg(sandbox.path(&file)).status();
                assert!(copied.unwrap().success(), "{file}");
            }
        }
        sandbox
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, text: impl AsRef<str>) {
        fs::write(self.path(name), text.as_ref()).unwrap();
    }

    /// A file that is there already, with another text wherever this one stands.
    pub fn edit(&self, name: &str, from: &str, to: &str) {
        self.write(name, fs::read_to_string(self.path(name)).unwrap().edit(from, to));
    }

    pub fn script(&self, name: &str, body: &str) {
        self.write(name, format!("#!/bin/sh\n{body}\n"));
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// The lines of a file so far; none if it is not there.
    pub fn lines(&self, name: &str) -> Vec<String> {
        fs::read_to_string(self.path(name)).map_or_else(|_| Vec::new(), |t| t.lines().map(str::to_owned).collect())
    }

    /// The program, in the sandbox.
    pub fn piton<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_piton"));
        command.args(args).current_dir(self.dir.path()).env_remove("PITON_LOG").env("NO_COLOR", "1");
        command.env("COLUMNS", "100").stdin(Stdio::null());
        command
    }

    pub fn run(&self, line: &str) -> Output {
        self.piton(line.split_whitespace()).output().unwrap()
    }

    /// The same without a variable of the environment.
    pub fn run_without(&self, line: &str, variable: &str) -> Output {
        self.piton(line.split_whitespace()).env_remove(variable).output().unwrap()
    }

    /// Runs it to its end, which must be this exit code; what it printed to stdout.
    pub fn ok(&self, line: &str, code: i32) -> String {
        let output = self.run(line);
        assert_eq!(output.status.code(), Some(code), "`piton {line}`\n{}", both(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Writes another study file and has the study amended to it; all that was said.
    pub fn amend(&self, study: impl AsRef<str>, options: &str, code: i32) -> String {
        self.write("study.toml", study);
        let output = self.run(&format!("amend study.redb study.toml {options}"));
        assert_eq!(output.status.code(), Some(code), "{}", both(&output));
        both(&output)
    }

    /// Starts it in a process group of its own, its output in files.
    pub fn start(&self, line: &str) -> Engine {
        self.start_with(line, &[])
    }

    /// The same with more in its environment.
    pub fn start_with(&self, line: &str, env: &[(String, String)]) -> Engine {
        use std::os::unix::process::CommandExt;
        let out = fs::File::create(self.path("engine.out")).unwrap();
        let err = fs::File::options().create(true).append(true).open(self.path("engine.err")).unwrap();
        let mut command = self.piton(line.split_whitespace());
        command.stdout(out).stderr(err).process_group(0).envs(env.iter().cloned());
        Engine { child: command.spawn().unwrap() }
    }

    /// `piton dump --format json`, parsed.
    pub fn dump(&self) -> serde_json::Value {
        serde_json::from_str(&self.ok("dump study.redb --format json", 0)).unwrap()
    }

    pub fn canonical(&self) -> String {
        self.ok("dump study.redb --format json --canonical", 0)
    }

    /// Processes whose environment says they belong to this sandbox's study.
    pub fn trial_processes(&self) -> Vec<u32> {
        let needle = format!("PITON_STUDY_DIR={}", self.dir.path().display());
        processes_with(&needle)
    }
}

/// What its engines said goes with the folder: a test that fails shows it.
impl Drop for Sandbox {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Ok(said) = fs::read_to_string(self.path("engine.err"))
        {
            println!("the engines in {} said:\n{said}", self.path("").display());
        }
    }
}

/// Both streams of a finished command, for messages.
pub fn both(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Processes, zombies left out, that have this entry in their environment.
fn processes_with(entry: &str) -> Vec<u32> {
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let environ = fs::read(process.path().join("environ")).unwrap_or_default();
        let has = environ.split(|byte| *byte == 0).any(|var| var == entry.as_bytes());
        if has && state_of(pid).is_some_and(|state| state != 'Z') {
            found.push(pid);
        }
    }
    found
}

/// The process state letter of `/proc/<pid>/stat`.
pub fn state_of(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

pub struct Engine {
    pub child: Child,
}

impl Engine {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.child.id() as i32).unwrap(), signal).unwrap();
    }

    /// Signals it once more, late enough for a second request: signals within 0.2 s of the first are the same one.
    pub fn signal_again(&self, signal: Signal) {
        std::thread::sleep(Duration::from_millis(250));
        self.signal(signal);
    }

    /// Signals its whole process group.
    pub fn signal_group(&self, signal: Signal) {
        kill_process_group(Pid::from_raw(self.child.id() as i32).unwrap(), signal).unwrap();
    }

    pub fn wait(mut self) -> std::process::ExitStatus {
        wait_until("the engine ends", || self.child.try_wait().unwrap().is_some());
        self.child.wait().unwrap()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// Looks again and again until the condition holds.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < DEADLINE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}
