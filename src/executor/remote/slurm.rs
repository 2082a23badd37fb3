//! Slurm, by its own commands: `sbatch`, `squeue`, `scancel`, and `sacct` where there are accounts.
//!
//! A job's name is its attempt's key, or, for a job array, the batch's, whose control directory lists the keys of its tasks.
//! Everything works without an accounting database: a job that Slurm has forgotten is judged by what it left. Jobs are
//! never requeued by Slurm, which might do so while a trial still lives.
//!
//! Where a job writes is said in its script alone: in the paths of its options `sbatch` takes `%` and backslashes for patterns.

mod cancelled;

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use self::cancelled::Cancelled;
use super::control::{BATCH_KEYS, LOG, batch_keys};
use super::refusals::of_slurm;
use super::{Cluster, ClusterError, JobState, Listed, NOT_SET_UP, Submission, Why, setup_script};
use crate::executor::AttemptKey;
use crate::model::StudyId;
use crate::study_file::SlurmSpec;
use crate::sys::files::{create_dir_all_durable, replace_atomically};
use crate::sys::helper::{self, Ended};
use crate::sys::temporary::Access;
use crate::sys::words::shell_quoted;

/// No command of Slurm's is waited for longer; they retry by themselves for some 10 s.
const LIMIT: Duration = Duration::from_secs(20);
/// Jobs cancelled by one command.
const CANCEL_AT_ONCE: usize = 200;
/// Fields of a line of `squeue`: the name comes last, since it may hold anything.
const FORMAT: &str = "JobArrayID:|,State:|,NodeList:|,exit_code:|,RestartCnt:|,Reason:|,Name:|";
const FIELDS: usize = 7;

/// What a job's script says by its exit code, where it can say nothing else.
const NOT_THERE: i32 = 91;
const NOT_WRITABLE: i32 = 92;

/// Variables of Slurm's that its commands are left: where the cluster is, who asks, and what a site wants to be said of each
/// job. Any other may change what a command does: `SQUEUE_PARTITION` hides jobs, `SBATCH_ARRAY_INX` multiplies them, and
/// an engine inside a job has that job's own.
const LEFT: [&str; 14] = [
    "SLURM_CONF",
    "SLURM_CONF_SERVER",
    "SLURM_JWT",
    "SACK_SOCKET",
    "SBATCH_ACCOUNT",
    "SBATCH_PARTITION",
    "SBATCH_QOS",
    "SBATCH_RESERVATION",
    "SBATCH_CONSTRAINT",
    "SBATCH_GRES",
    "SBATCH_GPUS",
    "SBATCH_TIMELIMIT",
    "SBATCH_WCKEY",
    "SBATCH_EXPORT",
];

/// A command of Slurm's, in an environment that changes nothing of what it means.
fn slurm_command(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(changes_meaning) {
            command.env_remove(name);
        }
    }
    command
}

fn changes_meaning(name: &str) -> bool {
    let prefixes = ["SLURM_", "SQUEUE_", "SBATCH_", "SCANCEL_", "SALLOC_", "SRUN_", "SINFO_", "SACCT_"];
    prefixes.iter().any(|prefix| name.starts_with(prefix)) && !LEFT.contains(&name)
}

/// A path where `sbatch` takes patterns; `None`: it cannot be said.
fn pattern(path: &Path) -> Option<String> {
    path.to_str().filter(|path| !path.contains('\\')).map(|path| path.replace('%', "%%"))
}

pub(super) struct Slurm {
    spec: SlurmSpec,
    study: StudyId,
    root: PathBuf,
    program: String,
    /// Keys of the tasks of batches, read once.
    batches: HashMap<String, Vec<String>>,
    /// The users whose jobs may be the study's: its own, and the one that began it.
    users: String,
    /// Nodes that cannot run its jobs.
    avoided: BTreeSet<String>,
    /// Whether it took a job of the study's.
    taken: bool,
    cancelled: Cancelled,
}

impl Slurm {
    pub(super) fn new(spec: &SlurmSpec, study: StudyId, root: &Path, program: &str) -> Self {
        let (spec, users) = (spec.clone(), users_of(root));
        let (root, program) = (root.to_owned(), program.to_owned());
        let (batches, avoided) = (HashMap::new(), BTreeSet::new());
        Self { spec, study, root, program, batches, users, avoided, taken: false, cancelled: Cancelled::new() }
    }

    /// `sbatch` with what all jobs share.
    /// What Slurm itself has to say of a job goes to `output`, a pattern.
    fn sbatch(&self, name: &str, output: Option<String>) -> Command {
        let mut command = slurm_command("sbatch");
        command.args(["--parsable", "--no-requeue", "--chdir=/", "--ntasks=1", "--open-mode=append"]);
        command.arg(format!("--output={}", output.as_deref().unwrap_or("/dev/null")));
        command.arg(format!("--job-name={name}"));
        let spec = &self.spec;
        let texts =
            [("partition", &spec.partition), ("account", &spec.account), ("qos", &spec.qos), ("gres", &spec.gres)];
        for (option, value) in texts {
            command.args(value.as_ref().map(|value| format!("--{option}={value}")));
        }
        // Minutes and seconds: a number alone would be minutes.
        command.args(spec.time_s.map(|time_s| format!("--time={}:{:02}", time_s / 60, time_s % 60)));
        command.args(spec.cpus.map(|cpus| format!("--cpus-per-task={cpus}")));
        command.args(spec.mem_bytes.map(|bytes| format!("--mem={}K", bytes.div_ceil(1 << 10))));
        command.args(spec.export.as_ref().map(|export| format!("--export={export}")));
        command.args(&spec.extra);
        // The last one counts.
        let named = spec.extra.iter().filter_map(|extra| extra.strip_prefix("--exclude="));
        let own = spec.exclude.iter().chain(&self.avoided).map(String::as_str);
        let nodes: Vec<&str> = named.chain(own).collect();
        if !nodes.is_empty() {
            command.arg(format!("--exclude={}", nodes.join(",")));
        }
        command
    }

    /// The start of a job's script: where the study's directory is not as it is here, the exit code says so.
    fn prelude(&self) -> String {
        let root = shell_quoted(&self.root.to_string_lossy());
        // `module` and its like are functions of a login shell.
        let shell = if self.spec.setup.is_empty() { "/bin/sh" } else { "/bin/bash -l" };
        format!("#!{shell}\n[ -d {root} ] || exit {NOT_THERE}\n")
    }

    fn submit_one(&self, job: &Submission) -> Result<Option<String>, ClusterError> {
        let control = job.control.to_string_lossy();
        let log = shell_quoted(&job.log.to_string_lossy());
        let (program, control) = (shell_quoted(&self.program), shell_quoted(&control));
        let script = format!(
            "{}(: >>{log}) 2>/dev/null || exit {NOT_WRITABLE}\nexec >>{log} 2>&1\n{}exec {program} attempt {control}\n",
            self.prelude(),
            setup_script(&self.spec.setup, &job.study_dir)
        );
        let mut command = self.sbatch(&job.key, pattern(&job.log));
        command.arg(format!("--comment={}", job.about));
        let id = self.submitted(&mut command, &script)?;
        Ok(Some(id))
    }

    /// All jobs as one array.
    fn submit_array(&mut self, jobs: &[Submission]) -> Result<Vec<Option<String>>, ClusterError> {
        let refused = |error: &std::io::Error| ClusterError::Refused(format!("cannot list the tasks: {error}"));
        let random = crate::sys::disk::random::<8>().map_err(|error| refused(&error))?;
        let name = format!("{}.batch-{:016x}", self.study, u64::from_le_bytes(random));
        let dir = self.root.join(&name);
        let keys: Vec<String> = jobs.iter().map(|job| job.key.clone()).collect();
        create_dir_all_durable(&dir)
            .and_then(|()| {
                replace_atomically(&dir.join(BATCH_KEYS), Access::Own, |file| {
                    keys.iter().try_for_each(|key| writeln!(file, "{key}"))
                })
            })
            .map_err(|error| refused(&error))?;
        let (program, root) = (shell_quoted(&self.program), shell_quoted(&self.root.to_string_lossy()));
        let list = shell_quoted(&dir.join(BATCH_KEYS).to_string_lossy());
        // What Slurm itself says of a task is to be found where the task's own words are.
        let batch = shell_quoted(&dir.to_string_lossy());
        let script = format!(
            "{}key=$(sed -n \"$((SLURM_ARRAY_TASK_ID + 1))p\" {list}) || exit {NOT_THERE}\n\
             ln {batch}/\"$SLURM_ARRAY_TASK_ID.log\" {root}/\"$key\"/{LOG} 2>/dev/null\n\
             (: >>{root}/\"$key\"/{LOG}) 2>/dev/null || exit {NOT_WRITABLE}\n\
             exec >>{root}/\"$key\"/{LOG} 2>&1\n{}exec {program} attempt {root}/\"$key\"\n",
            self.prelude(),
            setup_script(&self.spec.setup, jobs.first().map_or(Path::new("/"), |job| &job.study_dir))
        );
        let mut command = self.sbatch(&name, pattern(&dir).map(|dir| format!("{dir}/%a.log")));
        command.arg(format!("--array=0-{}", keys.len().saturating_sub(1)));
        command.args(jobs.first().map(|job| format!("--comment={}", job.about)));
        let id = self.submitted(&mut command, &script)?;
        let ids = (0..keys.len()).map(|task| Some(format!("{id}_{task}"))).collect();
        self.batches.insert(name, keys);
        Ok(ids)
    }

    /// The attempt a line's job is for; `None`: none of this study's.
    fn key_of(&mut self, name: &str, id: &str) -> Option<String> {
        if let Some(key) = AttemptKey::parse(name) {
            return (key.study == self.study).then(|| name.to_owned());
        }
        let (study, batch) = name.split_once('.')?;
        if study != self.study.to_string() || !batch.starts_with("batch-") {
            return None;
        }
        let task: usize = id.split_once('_')?.1.parse().ok()?;
        if !self.batches.contains_key(name) {
            self.batches.insert(name.to_owned(), batch_keys(&self.root.join(name))?);
        }
        self.batches.get(name)?.get(task).cloned()
    }

    fn parse(&mut self, out: &str) -> Vec<Listed> {
        let mut listed = Vec::new();
        for line in out.lines() {
            let fields: Vec<&str> = line.splitn(FIELDS, '|').map(str::trim).collect();
            let [id, state, node, status, restarts, reason, name] = fields[..] else { continue };
            let name = name.strip_suffix('|').unwrap_or(name);
            let Some(key) = self.key_of(name, id) else { continue };
            let node = Some(node.to_owned()).filter(|node| !node.is_empty());
            let state = state_of(state, restarts, reason);
            let reason = Some(reason).filter(|reason| !matches!(*reason, "" | "None" | "(null)"));
            let said = self.words_of(state, status, reason);
            let waits = reason.filter(|_| state.waits()).map(str::to_owned);
            listed.push(Listed { key, id: id.to_owned(), state, place: node.clone(), node, said, waits });
        }
        listed
    }

    /// What Slurm says of a job that did not get far.
    fn words_of(&self, state: JobState, status: &str, reason: Option<&str>) -> Option<String> {
        match state {
            JobState::Over(Why::Cancelled) => None,
            JobState::Over(_) => {
                let code =
                    status.parse::<i32>().ok().filter(|status| status & 0x7f == 0).map(|status| status >> 8);
                let root = self.root.display();
                Some(match code.filter(|code| (1..=255).contains(code)) {
                    Some(NOT_THERE) => format!("`{root}` is not there: nodes and this machine have to share it"),
                    Some(NOT_WRITABLE) => format!("cannot write in `{root}`"),
                    Some(NOT_SET_UP) => "a line of `setup` failed".to_owned(),
                    Some(126) => format!("`{}` cannot be run", self.program),
                    Some(127) => format!("`{}` is not there, or a library of its", self.program),
                    Some(code) => format!("exit code {code}"),
                    // It could not even open the file that its output goes to.
                    None if reason == Some("JobLaunchFailure") => {
                        format!("Slurm says JobLaunchFailure; `{root}` may not be there, or not open to you")
                    }
                    None => format!("Slurm says {}", reason?),
                })
            }
            JobState::Held | JobState::Requeued => Some(format!("Slurm says `{}`", reason?)),
            JobState::Queued | JobState::Running | JobState::Ending => None,
        }
    }

    /// Submits; the job's id.
    fn submitted(&self, command: &mut Command, script: &str) -> Result<String, ClusterError> {
        let (ended, out) = asked(command, script)?;
        if ended.status.is_some_and(|status| status.success()) {
            // `id` or `id;cluster`
            let id = out.trim().split(';').next().unwrap_or_default();
            return Ok(id.to_owned());
        }
        Err(of_slurm(&ended.said, true, self.taken))
    }
}

/// Who owns what lies in the directory of the control directories, and this user: numbers, with commas in between.
fn users_of(root: &Path) -> String {
    let mut users = BTreeSet::from([rustix::process::geteuid().as_raw()]);
    for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
        users.extend(entry.metadata().map(|meta| std::os::unix::fs::MetadataExt::uid(&meta)));
    }
    users.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

/// What a state of Slurm's means.
fn state_of(state: &str, restarts: &str, reason: &str) -> JobState {
    match state {
        // A node failed to start it, and Slurm waits for somebody to let it go.
        "PENDING" if reason.contains("requeued held") => JobState::Held,
        "REQUEUE_HOLD" | "SPECIAL_EXIT" => JobState::Held,
        "PENDING" if restarts.parse().is_ok_and(|restarts: u32| restarts > 0) => match reason {
            "JobHeldUser" | "JobHeldAdmin" | "JobHoldMaxRequeue" => JobState::Held,
            _ => JobState::Requeued,
        },
        "REQUEUED" | "REQUEUE_FED" => JobState::Requeued,
        "PENDING" | "CONFIGURING" => JobState::Queued,
        "TIMEOUT" | "DEADLINE" => JobState::Over(Why::TimedOut),
        "OUT_OF_MEMORY" => JobState::Over(Why::OutOfMemory),
        "NODE_FAIL" | "BOOT_FAIL" => JobState::Over(Why::NodeFailed),
        "PREEMPTED" => JobState::Over(Why::Preempted),
        "CANCELLED" | "REVOKED" => JobState::Over(Why::Cancelled),
        "COMPLETED" | "FAILED" => JobState::Over(Why::Ended),
        "COMPLETING" => JobState::Ending,
        // Also STOPPED, SUSPENDED, SIGNALING, STAGE_OUT, RESIZING, and what a later Slurm may say.
        _ => JobState::Running,
    }
}

/// Runs a command of Slurm's; what it printed.
fn asked(command: &mut Command, input: &str) -> Result<(Ended, String), ClusterError> {
    let program = command.get_program().to_string_lossy().into_owned();
    match helper::output(command, input.as_bytes(), LIMIT) {
        Ok((ended, _)) if ended.status.is_none() && ended.said.is_empty() => {
            Err(ClusterError::Unreachable(format!("`{program}` does not answer")))
        }
        Ok((ended, _)) if ended.status.is_none() => Err(of_slurm(&ended.said, false, false)),
        Ok((ended, out)) => Ok((ended, String::from_utf8_lossy(&out).into_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(ClusterError::Refused(format!("`{program}` is not installed here, or not in `PATH`")))
        }
        Err(error) => Err(ClusterError::Unreachable(format!("cannot run `{program}`: {error}"))),
    }
}

impl Cluster for Slurm {
    fn submit(&mut self, jobs: &[Submission]) -> Vec<Result<Option<String>, ClusterError>> {
        if self.spec.array {
            let answers: Vec<Result<Option<String>, ClusterError>> = match self.submit_array(jobs) {
                Ok(ids) => ids.into_iter().map(Ok).collect(),
                Err(trouble) => jobs.iter().map(|_| Err(trouble.clone())).collect(),
            };
            self.taken |= answers.iter().any(Result::is_ok);
            return answers;
        }
        let mut answers: Vec<Result<Option<String>, ClusterError>> = Vec::with_capacity(jobs.len());
        for job in jobs {
            let answer = match answers.last() {
                // Whoever did not answer once is not asked hundreds of times.
                Some(Err(trouble)) => Err(trouble.clone()),
                _ => self.submit_one(job),
            };
            self.taken |= answer.is_ok();
            answers.push(answer);
        }
        answers
    }

    fn list(&mut self) -> Result<Vec<Listed>, ClusterError> {
        let mut squeue = slurm_command("squeue");
        // Also of partitions that are hidden from this user.
        squeue.args(["--noheader", "--all", "--array", "--states=all", "--user", &self.users, "--Format", FORMAT]);
        let (ended, out) = asked(&mut squeue, "")?;
        if ended.status.is_some_and(|status| status.success()) {
            let listed = self.parse(&out);
            self.taken |= !listed.is_empty();
            return Ok(listed);
        }
        Err(of_slurm(&ended.said, false, self.taken))
    }

    fn cancelled_by(&mut self, ids: &[String]) -> HashMap<String, String> {
        self.cancelled.by(ids)
    }

    fn avoid(&mut self, place: &str) -> bool {
        self.avoided.insert(place.to_owned());
        // Where none is left, `sbatch` says so.
        true
    }

    fn asked_about(&mut self) -> Result<Option<String>, ClusterError> {
        let mut command = self.sbatch("piton-check", None);
        command.arg("--test-only");
        let (ended, out) = match asked(&mut command, "#!/bin/sh\nexit 0\n") {
            // A study may be written where there is no Slurm.
            Err(ClusterError::Refused(why)) => return Ok(Some(format!("cannot be asked: {why}"))),
            other => other?,
        };
        if !ended.status.is_some_and(|status| status.success()) {
            return Err(of_slurm(&ended.said, true, false));
        }
        // It says so on standard error, as `sbatch: Job 7 to start at …`.
        let said = if ended.said.trim().is_empty() { out } else { ended.said };
        let words = said.trim().trim_start_matches("sbatch: ").to_owned();
        Ok(Some(words).filter(|words| !words.is_empty()))
    }

    fn cancel(&mut self, jobs: &[(String, Option<String>)]) -> Result<(), ClusterError> {
        let mut failed = Ok(());
        for jobs in jobs.chunks(CANCEL_AT_ONCE) {
            let (known, unknown): (Vec<_>, Vec<_>) = jobs.iter().partition(|(_, id)| id.is_some());
            let ids: Vec<&str> = known.iter().filter_map(|(_, id)| id.as_deref()).collect();
            let names: Vec<&str> = unknown.iter().map(|(name, _)| name.as_str()).collect();
            let mut commands = Vec::new();
            if !ids.is_empty() {
                let mut command = slurm_command("scancel");
                command.args(["--quiet", "--full"]).args(ids);
                commands.push(command);
            }
            if !names.is_empty() {
                let mut command = slurm_command("scancel");
                command.args(["--quiet", "--full", "--jobname"]).arg(names.join(","));
                commands.push(command);
            }
            for mut command in commands {
                let said = asked(&mut command, "").map(|(ended, _)| ended);
                failed = match said {
                    Ok(ended) if ended.status.is_some_and(|status| status.success()) => continue,
                    Ok(ended) => Err(ClusterError::Unreachable(ended.said)),
                    Err(trouble) => Err(trouble),
                };
            }
        }
        failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slurm(root: &Path) -> Slurm {
        let spec = SlurmSpec { array: true, ..SlurmSpec::default() };
        Slurm::new(&spec, StudyId([0xab; 16]), root, "/shared/piton")
    }

    #[test]
    fn lines_are_read_and_other_jobs_are_not_ours() {
        let root = tempfile::tempdir().unwrap();
        let study = "ab".repeat(16);
        let batch = format!("{study}.batch-00ff");
        std::fs::create_dir(root.path().join(&batch)).unwrap();
        std::fs::write(root.path().join(&batch).join(BATCH_KEYS), format!("{study}.7.1\n{study}.8.2\n")).unwrap();
        let other = "cd".repeat(16);
        let out = format!(
            "12|RUNNING|n1|0|0|None|{study}.0.1|\n13|PENDING||0|0|Priority|{study}.1.1|\n\
             14_1|NODE_FAIL|n2|1|0|NodeDown|{batch}|\n14_9|RUNNING|n2|0|0|None|{batch}|\n\
             15|RUNNING|n1|0|0|None|{other}.0.1|\n16|RUNNING|n1|0|0|None|my|job|\nnonsense\n\
             17|OUT_OF_MEMORY|n1|9|0|OutOfMemory|{study}.2.3|\n18|PENDING||0|1|BeginTime|{study}.3.1|\n\
             19|PENDING||0|0|launch failed requeued held|{study}.4.1|\n20|PENDING||0|0|JobHeldUser|{study}.5.1|\n\
             21|PENDING||0|1|JobHeldUser|{study}.6.1|\n22|FAILED|n1|23296|0|NonZeroExitCode|{study}.7.9|\n"
        );
        let listed = slurm(root.path()).parse(&out);
        let seen: Vec<_> = listed
            .iter()
            .map(|job| (job.key.get(33..).unwrap(), &*job.id, job.state, job.node.as_deref()))
            .collect();
        let expected = [
            ("0.1", "12", JobState::Running, Some("n1")),
            ("1.1", "13", JobState::Queued, None),
            ("8.2", "14_1", JobState::Over(Why::NodeFailed), Some("n2")),
            ("2.3", "17", JobState::Over(Why::OutOfMemory), Some("n1")),
            ("3.1", "18", JobState::Requeued, None),
            ("4.1", "19", JobState::Held, None),
            ("5.1", "20", JobState::Queued, None),
            ("6.1", "21", JobState::Held, None),
            ("7.9", "22", JobState::Over(Why::Ended), Some("n1")),
        ];
        assert_eq!(seen, expected);
        let said = |n: usize| listed[n].said.as_deref().unwrap_or_default();
        assert!(said(5).contains("launch failed requeued held") && said(8).contains("is not there"), "{listed:?}");
        let waits: Vec<_> = listed.iter().filter_map(|job| job.waits.as_deref()).collect();
        let held = "launch failed requeued held";
        assert_eq!(waits, ["Priority", "BeginTime", held, "JobHeldUser", "JobHeldUser"]);
    }

    #[test]
    fn variables_that_change_what_a_command_does_are_left_out() {
        for name in ["SQUEUE_PARTITION", "SBATCH_ARRAY_INX", "SCANCEL_STATE", "SLURM_CLUSTERS", "SLURM_JOB_ID"] {
            assert!(changes_meaning(name), "{name}");
        }
        for name in ["SLURM_CONF", "SLURM_JWT", "SBATCH_ACCOUNT", "PATH", "HOME", "MUNGE_SOCKET"] {
            assert!(!changes_meaning(name), "{name}");
        }
    }

    #[test]
    fn options_are_what_the_study_says() {
        let spec = SlurmSpec {
            partition: Some("debug".into()),
            time_s: Some(3_661),
            cpus: Some(4),
            mem_bytes: Some((4 << 30) + 1),
            extra: vec!["--constraint=avx".into(), "--exclude=n7".into()],
            ..SlurmSpec::default()
        };
        let mut slurm = Slurm::new(&spec, StudyId([0; 16]), Path::new("/r"), "/p");
        slurm.avoid("n2");
        slurm.avoid("n1");
        let command = slurm.sbatch("key", pattern(Path::new("/a%b")));
        let args: Vec<_> = command.get_args().map(|arg| arg.to_str().unwrap()).collect();
        for expected in [
            "--no-requeue",
            "--job-name=key",
            "--output=/a%%b",
            "--exclude=n7,n1,n2",
            "--partition=debug",
            "--time=61:01",
            "--cpus-per-task=4",
            "--mem=4194305K",
            "--constraint=avx",
        ] {
            assert!(args.contains(&expected), "{expected} in {args:?}");
        }
    }
}
