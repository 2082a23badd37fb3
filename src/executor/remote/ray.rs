//! Ray, by its Jobs REST API. No Python of piton's own runs anywhere.
//!
//! A job's submission id is its attempt's key: Ray takes each once, so a second submission is answered with "already
//! exists", which means accepted. A cluster that was started anew takes an old id again; then it is the claim in the
//! control directory that keeps the attempt single. Jobs whose end is recorded are deleted, so that lists stay short.

use std::ffi::CString;
use std::net::TcpListener;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde::Deserialize;
use serde_json::json;

use super::{Cluster, JobState, Listed, Submission, Trouble, Why};
use crate::executor::local::keeper::{KeeperClient, SpawnError, SpawnRequest, Started};
use crate::executor::local::strays::kill_attempt;
use crate::executor::{ATTEMPT_KEY_VAR, AttemptKey};
use crate::model::{AttemptNo, StudyId, TrialId};
use crate::spec::RaySpec;
use crate::sys::parallel;
use crate::sys::words::{io_words, shell_quoted};

/// A request lasts no longer.
const LIMIT_S: u64 = 20;
/// Requests under way at once: submitting takes Ray half a second, most of it waiting.
const REQUESTS: usize = 8;
/// A head node of the study's own is up within this, or not at all.
const HEAD_LIMIT: Duration = Duration::from_secs(120);
/// From TERM to KILL of a head node.
const HEAD_GRACE: Duration = Duration::from_secs(3);
/// The variable that holds the token where Ray's own clients look for it.
const TOKEN_VAR: &str = "RAY_AUTH_TOKEN";

/// See the module.
pub(super) struct Ray {
    spec: RaySpec,
    runtime_env: serde_json::Value,
    study: String,
    program: String,
    api: Api,
    head: Option<Head>,
}

/// How to ask.
#[derive(Clone)]
struct Api {
    address: String,
    token: Option<String>,
}

/// An answer: its status, and its text.
type Answer = (i32, String);

impl Api {
    fn ask(&self, method: minreq::Method, path: &str, body: Option<String>) -> Result<Answer, Trouble> {
        let mut request = minreq::Request::new(method, format!("{}{path}", self.address))
            .with_timeout(LIMIT_S)
            .with_header("Content-Type", "application/json");
        if let Some(token) = &self.token {
            request = request.with_header("Authorization", format!("Bearer {token}"));
        }
        if let Some(body) = body {
            request = request.with_body(body);
        }
        let response = request.send().map_err(|error| Trouble::Unreachable(error.to_string()))?;
        let text = String::from_utf8_lossy(response.as_bytes()).into_owned();
        match response.status_code {
            401 | 403 => Err(Trouble::Refused(format!("it wants another token ({})", brief(&text)))),
            status => Ok((status, text)),
        }
    }
}

/// The start of what it says; some answers are pages of traceback, whose last line tells.
fn brief(text: &str) -> String {
    let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no reason given");
    line.trim().chars().take(300).collect()
}

/// One entry of the list of jobs, as far as it matters.
#[derive(Deserialize)]
struct Entry {
    submission_id: Option<String>,
    status: String,
    message: Option<String>,
}

impl Ray {
    pub(super) fn new(
        spec: &RaySpec,
        study: StudyId,
        root: &Path,
        program: &str,
        keeper: Option<KeeperClient>,
        left: &[(TrialId, AttemptNo)],
    ) -> Result<Self, String> {
        let runtime_env = serde_json::from_str(&spec.runtime_env)
            .map_err(|error| format!("`run.ray.runtime_env` cannot be read: {error}"))?;
        let token = match &spec.token_env {
            Some(name) => Some(std::env::var(name).map_err(|_| format!("the environment has no `{name}`"))?),
            None => std::env::var(TOKEN_VAR).ok().filter(|token| !token.is_empty()),
        };
        let (address, head) = match spec.address.as_str() {
            "local" => {
                let keeper = keeper.ok_or_else(|| "there is no keeper to start Ray".to_owned())?;
                // Trials of an earlier head node: that one is gone, and so must they be.
                for (trial, attempt) in left {
                    let key = AttemptKey { study, trial: *trial, attempt: *attempt };
                    kill_attempt(&key)
                        .map_err(|error| format!("cannot end trial {trial}: {}", io_words(&error)))?;
                }
                let head = Head::start(&keeper, study, root)?;
                (head.address.clone(), Some(head))
            }
            given => (given.trim_end_matches('/').to_owned(), None),
        };
        let mut ray = Self {
            spec: spec.clone(),
            runtime_env,
            study: format!("{study}."),
            program: program.to_owned(),
            api: Api { address, token },
            head,
        };
        if ray.head.is_some() {
            ray.await_head()?;
        }
        Ok(ray)
    }

    /// Waits until the head node of the study's own answers.
    fn await_head(&mut self) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            let why = match self.list() {
                Ok(_) => return Ok(()),
                Err(trouble) => trouble.words(),
            };
            let log = self.head.as_ref().map(|head| head.log.clone()).unwrap_or_default();
            let ended = self.head.as_ref().is_some_and(|head| !head.started.events.is_empty());
            if ended || begun.elapsed() > HEAD_LIMIT {
                self.close();
                return Err(format!("Ray's head node does not come up ({why}); what it said is in `{log}`"));
            }
            std::thread::sleep(Duration::from_millis(250));
        }
    }

    fn body(&self, job: &Submission) -> String {
        let control = job.control.to_string_lossy();
        let mut body = json!({
            "submission_id": job.key,
            "entrypoint": format!("exec {} attempt {}", shell_quoted(&self.program), shell_quoted(&control)),
            // Without it every job would run on the head node.
            "entrypoint_num_cpus": self.spec.num_cpus,
            "runtime_env": self.runtime_env,
            "metadata": { "piton": env!("CARGO_PKG_VERSION") },
        });
        if let Some(body) = body.as_object_mut() {
            if self.spec.num_gpus > 0.0 {
                body.insert("entrypoint_num_gpus".to_owned(), json!(self.spec.num_gpus));
            }
            if let Some(bytes) = self.spec.memory_bytes {
                body.insert("entrypoint_memory".to_owned(), json!(bytes));
            }
            if !self.spec.resources.is_empty() {
                body.insert("entrypoint_resources".to_owned(), json!(self.spec.resources));
            }
        }
        body.to_string()
    }

    /// Asks for each of these, several at a time; the answers in their order.
    fn each<T: Sync, R: Send>(
        items: &[T],
        ask: impl Fn(&T) -> Result<R, Trouble> + Sync,
    ) -> Vec<Result<R, Trouble>> {
        let lost = || Trouble::Unreachable("a thread failed unexpectedly".to_owned());
        let answers = parallel::each(items, REQUESTS.min(items.len()).saturating_sub(1), "ray", ask);
        answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(lost()))).collect()
    }
}

/// What a submission's answer means.
fn submitted(status: i32, text: &str) -> Result<(), Trouble> {
    match status {
        200..300 => Ok(()),
        _ if text.contains("already exists") => Ok(()),
        400..500 => Err(Trouble::Refused(brief(text))),
        _ => Err(Trouble::Unreachable(brief(text))),
    }
}

/// What a status of Ray's means.
fn state_of(status: &str, message: &str) -> JobState {
    match status {
        "PENDING" => JobState::Queued,
        "STOPPED" => JobState::Over(Why::Cancelled),
        // Its supervisor or its node is gone; the trial may live on for a minute.
        "FAILED" if message.contains("died") || message.contains("node") => JobState::Over(Why::NodeFailed),
        "SUCCEEDED" | "FAILED" => JobState::Over(Why::Ended),
        _ => JobState::Running,
    }
}

impl Cluster for Ray {
    fn submit(&mut self, jobs: &[Submission]) -> Vec<Result<Option<String>, Trouble>> {
        Self::each(jobs, |job| {
            let (status, text) = self.api.ask(minreq::Method::Post, "/api/jobs/", Some(self.body(job)))?;
            submitted(status, &text).map(|()| Some(job.key.clone()))
        })
    }

    fn list(&mut self) -> Result<Vec<Listed>, Trouble> {
        let (status, text) = self.api.ask(minreq::Method::Get, "/api/jobs/", None)?;
        if status != 200 {
            return Err(Trouble::Unreachable(format!("HTTP {status}: {}", brief(&text))));
        }
        let entries: Vec<Entry> = serde_json::from_str(&text)
            .map_err(|error| Trouble::Unreachable(format!("its list of jobs cannot be read: {error}")))?;
        let ours = entries.into_iter().filter_map(|entry| {
            let key = entry.submission_id.filter(|id| id.starts_with(&self.study))?;
            let state = state_of(&entry.status, entry.message.as_deref().unwrap_or_default());
            Some(Listed { id: key.clone(), key, state, node: None })
        });
        Ok(ours.collect())
    }

    fn cancel(&mut self, jobs: &[(String, Option<String>)]) -> Result<(), Trouble> {
        let answers = Self::each(jobs, |(key, _)| {
            self.api.ask(minreq::Method::Post, &format!("/api/jobs/{key}/stop"), None)
        });
        answers.into_iter().find_map(Result::err).map_or(Ok(()), Err)
    }

    fn forget(&mut self, ids: &[String]) {
        // One that stays costs a line in a list.
        let api = &self.api;
        Self::each(ids, |id| api.ask(minreq::Method::Delete, &format!("/api/jobs/{id}"), None));
    }

    fn close(&mut self) {
        if let Some(head) = self.head.take() {
            head.end();
        }
    }
}

impl Drop for Ray {
    fn drop(&mut self) {
        self.close();
    }
}

/// A head node of the study's own, a child of the keeper: it ends with the engine, however that ends.
struct Head {
    keeper: KeeperClient,
    started: Started,
    key: AttemptKey,
    address: String,
    log: String,
    /// Ray's files; it makes sockets in it, whose paths must be short.
    dir: PathBuf,
}

impl Head {
    fn start(keeper: &KeeperClient, study: StudyId, root: &Path) -> Result<Self, String> {
        let cannot = |what: &str, error: &std::io::Error| format!("cannot {what}: {}", io_words(error));
        let dir = crate::sys::disk::random::<8>().and_then(|random| {
            let name = format!("piton-ray-{:016x}", u64::from_le_bytes(random));
            let dir = std::env::temp_dir().join(name);
            std::fs::create_dir(&dir).map(|()| dir)
        });
        let dir = dir.map_err(|error| cannot("make a directory for Ray", &error))?;
        // All bound at once, so that they differ.
        let taken: Vec<TcpListener> = (0..8)
            .map(|_| TcpListener::bind("127.0.0.1:0"))
            .collect::<Result<_, _>>()
            .map_err(|error| cannot("find a port for Ray", &error))?;
        let mut ports = Vec::new();
        for port in &taken {
            ports.push(port.local_addr().map_err(|error| cannot("find a port for Ray", &error))?.port());
        }
        let [gcs, dashboard, agent, grpc, client, metrics, object, node] = ports[..] else {
            return Err("cannot find ports for Ray".to_owned());
        };
        let log = root.join("ray.log");
        let line = format!(
            "exec ray start --head --block --disable-usage-stats --include-dashboard=true \
             --node-ip-address=127.0.0.2 --dashboard-host=127.0.0.1 --port={gcs} --dashboard-port={dashboard} \
             --dashboard-agent-listen-port={agent} --dashboard-agent-grpc-port={grpc} \
             --ray-client-server-port={client} --metrics-export-port={metrics} --object-manager-port={object} \
             --node-manager-port={node} --temp-dir={}",
            shell_quoted(&dir.to_string_lossy())
        );
        let key = AttemptKey { study, trial: TrialId::CLUSTER, attempt: 1 };
        // What an earlier engine's head left behind would hold its jobs.
        kill_attempt(&key).map_err(|error| cannot("end an earlier head node of Ray's", &error))?;
        let text = |text: std::ffi::OsString| {
            CString::new(text.into_vec()).map_err(|_| "the environment holds a NUL byte".to_owned())
        };
        let mut env = Vec::new();
        for (name, value) in std::env::vars_os() {
            let mut entry = name;
            entry.push("=");
            entry.push(value);
            env.push(text(entry)?);
        }
        env.push(text(format!("{ATTEMPT_KEY_VAR}={key}").into())?);
        env.push(c"RAY_USAGE_STATS_ENABLED=0".to_owned());
        drop(taken);
        let log_path = text(log.clone().into_os_string())?;
        let started = keeper.spawn(&SpawnRequest {
            program: c"/bin/sh",
            argv: &[c"sh".to_owned(), c"-c".to_owned(), text(line.into())?],
            env: &env,
            cwd: c"/",
            stdin: None,
            stdout: &log_path,
            stderr: &log_path,
            address_space_bytes: None,
            cgroup_procs: None,
        });
        let started = started.map_err(|error| match error {
            SpawnError::KeeperGone => "the keeper is gone".to_owned(),
            SpawnError::Refused { errno, .. } => cannot("start Ray", &errno.into()),
        })?;
        let (address, log) = (format!("http://127.0.0.1:{dashboard}"), log.to_string_lossy().into_owned());
        Ok(Self { keeper: keeper.clone(), started, key, address, log, dir })
    }

    /// Shuts it down: TERM, and KILL after a while; nothing of it is left.
    fn end(self) {
        self.keeper.signal(self.started.id, Signal::TERM);
        if self.started.events.recv_timeout(HEAD_GRACE).is_err() {
            self.keeper.signal(self.started.id, Signal::KILL);
            let _ = self.started.events.recv();
        }
        if let Err(error) = kill_attempt(&self.key) {
            log::warn!("some processes of Ray's may be left: {}", io_words(&error));
        }
        if let Err(error) = std::fs::remove_dir_all(&self.dir) {
            log::warn!("cannot remove Ray's files: {}", io_words(&error));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_and_states_mean_what_ray_means() {
        assert_eq!(submitted(200, "{}"), Ok(()));
        let twice = "Traceback\nRuntimeError: Request failed: Job with submission_id x already exists.";
        assert_eq!(submitted(500, twice), Ok(()));
        assert!(matches!(submitted(500, "oops"), Err(Trouble::Unreachable(why)) if why == "oops"));
        assert!(matches!(submitted(400, "bad\nkey"), Err(Trouble::Refused(why)) if why == "key"));
        assert_eq!(state_of("PENDING", ""), JobState::Queued);
        assert_eq!(state_of("RUNNING", ""), JobState::Running);
        assert_eq!(state_of("STOPPED", ""), JobState::Over(Why::Cancelled));
        assert_eq!(state_of("FAILED", "exit code 1"), JobState::Over(Why::Ended));
        assert_eq!(state_of("FAILED", "the job supervisor actor died"), JobState::Over(Why::NodeFailed));
    }
}
