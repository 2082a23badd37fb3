//! Slurm, by its own commands: `sbatch`, `squeue`, `scancel`.
//!
//! A job's name is its attempt's key, or, for a job array, the batch's, whose control directory lists the keys of its tasks.
//! Everything works without an accounting database: a job that Slurm has forgotten is told by what it left. Jobs are
//! never requeued by Slurm, which might do so while a trial still lives.
//!
//! Where a job writes is said in its script alone: in the paths of its options `sbatch` takes `%` and backslashes for patterns.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::control::{BATCH_KEYS, LOG, batch_keys};
use super::{Cluster, JobState, Listed, Submission, Trouble, Why};
use crate::executor::AttemptKey;
use crate::model::StudyId;
use crate::spec::SlurmSpec;
use crate::sys::files::{create_dir_all_durable, replace_atomically};
use crate::sys::limited::{self, Ended};
use crate::sys::words::shell_quoted;

/// No command of Slurm's is waited for longer; they retry by themselves for some 10 s.
const LIMIT: Duration = Duration::from_secs(20);
/// Jobs cancelled by one command.
const CANCEL_AT_ONCE: usize = 200;
/// Fields of a line of `squeue`: the name comes last.
const FORMAT: &str = "%i|%T|%N|%j";

/// What `sbatch` says when asking again can help.
const PASSING: [&str; 9] = [
    "contact slurm controller",
    "timed out",
    "connection",
    "temporarily",
    "socket",
    "limit", // of jobs in the queue, by account or partition
    "zero bytes",
    "standby",
    "try again",
];

/// See the module.
pub(super) struct Slurm {
    spec: SlurmSpec,
    study: StudyId,
    root: PathBuf,
    program: String,
    /// Keys of the tasks of batches, read once.
    batches: HashMap<String, Vec<String>>,
}

impl Slurm {
    pub(super) fn new(spec: &SlurmSpec, study: StudyId, root: &Path, program: &str) -> Self {
        let (root, program) = (root.to_owned(), program.to_owned());
        Self { spec: spec.clone(), study, root, program, batches: HashMap::new() }
    }

    /// `sbatch` with what all jobs share.
    fn sbatch(&self, name: &str) -> Command {
        let mut command = Command::new("sbatch");
        command.args(["--parsable", "--no-requeue", "--chdir=/", "--ntasks=1", "--output=/dev/null"]);
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
        command.args(&spec.extra);
        command
    }

    fn submit_one(&self, job: &Submission) -> Result<Option<String>, Trouble> {
        let control = job.control.to_string_lossy();
        let log = shell_quoted(&job.log.to_string_lossy());
        let (program, control) = (shell_quoted(&self.program), shell_quoted(&control));
        let script = format!("#!/bin/sh\nexec >>{log} 2>&1\nexec {program} attempt {control}\n");
        let id = submitted(&mut self.sbatch(&job.key), &script)?;
        Ok(Some(id))
    }

    /// All jobs as one array.
    fn submit_array(&mut self, jobs: &[Submission]) -> Result<Vec<Option<String>>, Trouble> {
        let refused = |error: &std::io::Error| Trouble::Refused(format!("cannot list the tasks: {error}"));
        let random = crate::sys::disk::random::<8>().map_err(|error| refused(&error))?;
        let name = format!("{}.batch-{:016x}", self.study, u64::from_le_bytes(random));
        let dir = self.root.join(&name);
        let keys: Vec<String> = jobs.iter().map(|job| job.key.clone()).collect();
        create_dir_all_durable(&dir)
            .and_then(|()| {
                replace_atomically(&dir.join(BATCH_KEYS), |file| {
                    keys.iter().try_for_each(|key| writeln!(file, "{key}"))
                })
            })
            .map_err(|error| refused(&error))?;
        let (program, root) = (shell_quoted(&self.program), shell_quoted(&self.root.to_string_lossy()));
        let list = shell_quoted(&dir.join(BATCH_KEYS).to_string_lossy());
        let script = format!(
            "#!/bin/sh\nkey=$(sed -n \"$((SLURM_ARRAY_TASK_ID + 1))p\" {list}) || exit 1\n\
             exec >>{root}/\"$key\"/{LOG} 2>&1\nexec {program} attempt {root}/\"$key\"\n"
        );
        let mut command = self.sbatch(&name);
        command.arg(format!("--array=0-{}", keys.len().saturating_sub(1)));
        let id = submitted(&mut command, &script)?;
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
            let mut fields = line.splitn(4, '|').map(str::trim);
            let (Some(id), Some(state), Some(node), Some(name)) =
                (fields.next(), fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            let Some(key) = self.key_of(name, id) else { continue };
            let node = Some(node.to_owned()).filter(|node| !node.is_empty());
            listed.push(Listed { key, id: id.to_owned(), state: state_of(state), node });
        }
        listed
    }
}

/// What a state of Slurm's means.
fn state_of(state: &str) -> JobState {
    match state {
        "PENDING" | "REQUEUED" | "REQUEUE_HOLD" | "REQUEUE_FED" | "SPECIAL_EXIT" | "CONFIGURING" => {
            JobState::Queued
        }
        "TIMEOUT" | "DEADLINE" => JobState::Over(Why::TimedOut),
        "OUT_OF_MEMORY" => JobState::Over(Why::OutOfMemory),
        "NODE_FAIL" | "BOOT_FAIL" => JobState::Over(Why::NodeFailed),
        "PREEMPTED" => JobState::Over(Why::Preempted),
        "CANCELLED" | "REVOKED" => JobState::Over(Why::Cancelled),
        "COMPLETED" | "FAILED" => JobState::Over(Why::Ended),
        // Also COMPLETING, STOPPED, SUSPENDED, SIGNALING, STAGE_OUT, RESIZING, and what a later Slurm may say.
        _ => JobState::Running,
    }
}

/// Runs a command of Slurm's; what it printed.
fn asked(command: &mut Command, input: &str) -> Result<(Ended, String), Trouble> {
    let program = command.get_program().to_string_lossy().into_owned();
    match limited::output(command, input.as_bytes(), LIMIT) {
        Ok((ended, _)) if ended.status.is_none() => {
            Err(Trouble::Unreachable(format!("`{program}` does not answer")))
        }
        Ok((ended, out)) => Ok((ended, String::from_utf8_lossy(&out).into_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(Trouble::Refused(format!("`{program}` is not installed here")))
        }
        Err(error) => Err(Trouble::Unreachable(format!("cannot run `{program}`: {error}"))),
    }
}

/// Submits; the job's id.
fn submitted(command: &mut Command, script: &str) -> Result<String, Trouble> {
    let (ended, out) = asked(command, script)?;
    if ended.status.is_some_and(|status| status.success()) {
        // `id` or `id;cluster`
        let id = out.trim().split(';').next().unwrap_or_default();
        return Ok(id.to_owned());
    }
    Err(trouble(&ended.said))
}

fn trouble(said: &str) -> Trouble {
    let lower = said.to_lowercase();
    match PASSING.iter().any(|passing| lower.contains(passing)) {
        true => Trouble::Unreachable(said.to_owned()),
        false => Trouble::Refused(said.to_owned()),
    }
}

impl Cluster for Slurm {
    fn submit(&mut self, jobs: &[Submission]) -> Vec<Result<Option<String>, Trouble>> {
        if self.spec.array {
            return match self.submit_array(jobs) {
                Ok(ids) => ids.into_iter().map(Ok).collect(),
                Err(trouble) => jobs.iter().map(|_| Err(trouble.clone())).collect(),
            };
        }
        let mut answers: Vec<Result<Option<String>, Trouble>> = Vec::with_capacity(jobs.len());
        for job in jobs {
            let answer = match answers.last() {
                // Whoever did not answer once is not asked hundreds of times.
                Some(Err(trouble)) => Err(trouble.clone()),
                _ => self.submit_one(job),
            };
            answers.push(answer);
        }
        answers
    }

    fn list(&mut self) -> Result<Vec<Listed>, Trouble> {
        let mut squeue = Command::new("squeue");
        squeue.args(["--noheader", "--array", "--states=all", "--me", "--format", FORMAT]);
        let (ended, out) = asked(&mut squeue, "")?;
        if ended.status.is_some_and(|status| status.success()) {
            return Ok(self.parse(&out));
        }
        Err(Trouble::Unreachable(ended.said))
    }

    fn asked_about(&mut self) -> Result<Option<String>, Trouble> {
        let mut command = self.sbatch("piton-check");
        command.arg("--test-only");
        let (ended, out) = match asked(&mut command, "#!/bin/sh\nexit 0\n") {
            // A study may be written where there is no Slurm.
            Err(Trouble::Refused(why)) => return Ok(Some(format!("cannot be asked: {why}"))),
            other => other?,
        };
        if !ended.status.is_some_and(|status| status.success()) {
            return Err(trouble(&ended.said));
        }
        // It tells on standard error, as `sbatch: Job 7 to start at …`.
        let said = if ended.said.trim().is_empty() { out } else { ended.said };
        let words = said.trim().trim_start_matches("sbatch: ").to_owned();
        Ok(Some(words).filter(|words| !words.is_empty()))
    }

    fn cancel(&mut self, jobs: &[(String, Option<String>)]) -> Result<(), Trouble> {
        let mut failed = Ok(());
        for jobs in jobs.chunks(CANCEL_AT_ONCE) {
            let (known, unknown): (Vec<_>, Vec<_>) = jobs.iter().partition(|(_, id)| id.is_some());
            let ids: Vec<&str> = known.iter().filter_map(|(_, id)| id.as_deref()).collect();
            let names: Vec<&str> = unknown.iter().map(|(name, _)| name.as_str()).collect();
            let mut commands = Vec::new();
            if !ids.is_empty() {
                let mut command = Command::new("scancel");
                command.args(["--quiet", "--full"]).args(ids);
                commands.push(command);
            }
            if !names.is_empty() {
                let mut command = Command::new("scancel");
                command.args(["--quiet", "--full", "--me", "--jobname"]).arg(names.join(","));
                commands.push(command);
            }
            for mut command in commands {
                let said = asked(&mut command, "").map(|(ended, _)| ended);
                failed = match said {
                    Ok(ended) if ended.status.is_some_and(|status| status.success()) => continue,
                    Ok(ended) => Err(Trouble::Unreachable(ended.said)),
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
            "12|RUNNING|n1|{study}.0.1\n13|PENDING||{study}.1.1\n14_1|NODE_FAIL|n2|{batch}\n14_9|RUNNING|n2|{batch}\n\
             15|RUNNING|n1|{other}.0.1\n16|RUNNING|n1|my|job\nnonsense\n17|OUT_OF_MEMORY|n1|{study}.2.3\n"
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
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn what_passes_is_told_from_what_does_not() {
        let busy =
            "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)";
        assert!(matches!(trouble(busy), Trouble::Unreachable(_)));
        let full = "sbatch: error: QOSMaxSubmitJobPerUserLimit";
        assert!(matches!(trouble(full), Trouble::Unreachable(_)));
        let wrong = "sbatch: error: invalid partition specified: nowhere";
        assert!(matches!(trouble(wrong), Trouble::Refused(_)));
    }

    #[test]
    fn options_are_what_the_study_says() {
        let spec = SlurmSpec {
            partition: Some("debug".into()),
            time_s: Some(3_661),
            cpus: Some(4),
            mem_bytes: Some((4 << 30) + 1),
            extra: vec!["--constraint=avx".into()],
            ..SlurmSpec::default()
        };
        let slurm = Slurm::new(&spec, StudyId([0; 16]), Path::new("/r"), "/p");
        let command = slurm.sbatch("key");
        let args: Vec<_> = command.get_args().map(|arg| arg.to_str().unwrap()).collect();
        for expected in [
            "--no-requeue",
            "--job-name=key",
            "--output=/dev/null",
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
