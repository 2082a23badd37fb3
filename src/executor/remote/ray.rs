//! Ray, by its Jobs REST API. No Python of piton's own runs anywhere.
//!
//! A job's submission id is its attempt's key: Ray takes each once, so a second submission is answered with "already
//! exists", which means accepted. A cluster that was started anew takes an old id again; then it is the claim in the
//! control directory that keeps the attempt single. Jobs whose end is recorded are deleted, so that lists stay short.

mod api;
mod head;
mod token;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::json;
use ureq::http::Method;

use self::api::{Api, brief};
use self::head::Head;
pub(super) use self::head::remove_leftovers;
use super::refusals::{Meaning, RAY, meaning};
use super::{Cluster, ClusterError, JobState, Listed, Submission, Why, setup_script};
use crate::executor::AttemptKey;
use crate::executor::local::keeper::KeeperClient;
use crate::executor::local::strays::kill_attempt;
use crate::model::{AttemptNo, StudyId, TrialId};
use crate::study_file::RaySpec;
use crate::sys::parallel;
use crate::sys::words::{io_words, shell_quoted};

/// Requests under way at once: submitting takes Ray half a second, most of it waiting.
const REQUESTS: usize = 8;
/// Nobody who ever answered, at an address that a person wrote, is waited for so long.
const PATIENCE: Duration = Duration::from_secs(30);
/// A head node of the study's own is up within this, or not at all.
const HEAD_LIMIT: Duration = Duration::from_secs(120);
/// So often one is started: somebody may have taken its ports just before.
const HEAD_TRIES: u32 = 3;
/// Of what Ray says of a job, so much is kept, bytes.
const MESSAGE_MAX: usize = 2_000;

pub(super) struct Ray {
    spec: RaySpec,
    runtime_env: serde_json::Value,
    study: String,
    program: String,
    api: Api,
    head: Option<Head>,
    /// Nodes that cannot run its jobs.
    avoided: BTreeSet<String>,
}

/// The end of a job's message: after its first line, up to 20,000 characters of what it printed.
fn end_of(message: &str) -> String {
    let from = message.len().saturating_sub(MESSAGE_MAX);
    message
        .char_indices()
        .find(|(at, _)| *at >= from)
        .map_or("", |(at, _)| message.get(at..).unwrap_or_default())
        .to_owned()
}

/// One entry of the list of jobs, as far as it matters.
#[derive(Deserialize)]
struct Entry {
    submission_id: Option<String>,
    status: String,
    message: Option<String>,
    /// Why it failed, in a word; Ray before 2.10 has none.
    error_type: Option<String>,
    /// How what it ran ended, if that ended by itself.
    driver_exit_code: Option<i32>,
    driver_node_id: Option<String>,
    /// `http://<node>:<port>`
    driver_agent_http_address: Option<String>,
}

impl Entry {
    fn node(&self) -> Option<String> {
        let address = self.driver_agent_http_address.as_deref()?;
        let host = address.rsplit_once("//").map_or(address, |(_, host)| host);
        Some(host.rsplit_once(':').map_or(host, |(host, _)| host).to_owned()).filter(|host| !host.is_empty())
    }
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
        let runtime_env: serde_json::Value = serde_json::from_str(&spec.runtime_env)
            .map_err(|error| format!("`run.ray.runtime_env` cannot be read: {error}"))?;
        let ray = |api: Api, head: Option<Head>| Self {
            spec: spec.clone(),
            runtime_env: runtime_env.clone(),
            study: format!("{study}."),
            program: program.to_owned(),
            api,
            head,
            avoided: BTreeSet::new(),
        };
        if spec.address != "local" {
            let token = match &spec.token_env {
                Some(name) => Some(std::env::var(name).map_err(|_| format!("the environment has no `{name}`"))?),
                None => token::of_environment(|name| std::env::var_os(name))?,
            };
            return Ok(ray(Api::of_cluster(&spec.address, token)?, None));
        }
        let keeper = keeper.ok_or_else(|| "there is no keeper to start Ray".to_owned())?;
        // Trials of an earlier head node: that one is gone, and so must they be.
        for (trial, attempt) in left {
            let key = AttemptKey { study, trial: *trial, attempt: *attempt };
            kill_attempt(&key).map_err(|error| format!("cannot end trial {trial}: {}", io_words(&error)))?;
        }
        let mut tries = 0;
        loop {
            tries += 1;
            let head = Head::start(&keeper, study, root)?;
            let mut ray = ray(Api::of_head(head.address, head.token.clone()), Some(head));
            match ray.await_head() {
                Ok(()) => return Ok(ray),
                Err((again, why)) => {
                    ray.close();
                    if !again || tries == HEAD_TRIES {
                        return Err(why);
                    }
                }
            }
        }
    }

    /// Waits until the head node of the study's own answers, and makes sure that it answers nobody else; the error says
    /// whether another one may come up, and why this one does not.
    fn await_head(&self) -> Result<(), (bool, String)> {
        let begun = Instant::now();
        let list = |api: &Api| api.ask(Method::GET, "/api/jobs/", None);
        let stranger = self.api.without_token();
        loop {
            let why = match (list(&self.api), list(&stranger)) {
                (Ok((200, _)), Err(ClusterError::Refused(_))) => return Ok(()),
                (Ok((200, _)), Ok(_)) => {
                    let why = "this Ray takes jobs from any user of this machine: `address = \"local\"` needs \
                               Ray 2.52 or later, which asks for a token";
                    return Err((false, why.to_owned()));
                }
                (Err(trouble), _) | (_, Err(trouble)) => trouble.words(),
                (Ok((status, text)), _) => format!("HTTP {status}: {}", brief(&text)),
            };
            let ended = self.head.as_ref().is_none_or(Head::has_ended);
            if ended || begun.elapsed() > HEAD_LIMIT {
                let log = self.head.as_ref().map(|head| head.log.clone()).unwrap_or_default();
                let why = format!("Ray's head node does not come up ({why}); what it said is in `{log}`");
                return Err((ended, why));
            }
            std::thread::sleep(Duration::from_millis(250));
        }
    }

    fn body(&self, job: &Submission) -> String {
        let control = job.control.to_string_lossy();
        let run = format!("exec {} attempt {}", shell_quoted(&self.program), shell_quoted(&control));
        let mut entrypoint = match self.spec.setup.is_empty() {
            true => run,
            false => {
                let script = format!("{}{run}", setup_script(&self.spec.setup, &job.study_dir));
                format!("exec bash -lc {}", shell_quoted(&script))
            }
        };
        if self.head.is_some() && self.runtime_env.pointer("/env_vars/TMPDIR").is_none() {
            entrypoint.insert_str(0, &head::own_temp_dir());
        }
        let mut body = json!({
            "submission_id": job.key,
            "entrypoint": entrypoint,
            // Without it every job would run on the head node.
            "entrypoint_num_cpus": self.spec.num_cpus,
            "runtime_env": self.runtime_env,
            "metadata": { "piton": env!("CARGO_PKG_VERSION"), "trial": job.about },
        });
        if let Some(body) = body.as_object_mut() {
            if self.spec.num_gpus > 0.0 {
                body.insert("entrypoint_num_gpus".to_owned(), json!(self.spec.num_gpus));
            }
            if let Some(bytes) = self.spec.memory_bytes {
                body.insert("entrypoint_memory".to_owned(), json!(bytes));
            }
            if !self.avoided.is_empty() {
                let nodes: Vec<&str> = self.avoided.iter().map(String::as_str).collect();
                let selector = json!({ "ray.io/node-id": format!("!in({})", nodes.join(",")) });
                body.insert("entrypoint_label_selector".to_owned(), selector);
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
        ask: impl Fn(&T) -> Result<R, ClusterError> + Sync,
    ) -> Vec<Result<R, ClusterError>> {
        let lost = || ClusterError::Unreachable("a thread failed unexpectedly".to_owned());
        let answers = parallel::each(items, REQUESTS.min(items.len()).saturating_sub(1), "ray", ask);
        answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(lost()))).collect()
    }
}

/// What a submission's answer means.
fn submitted(status: u16, text: &str) -> Result<(), ClusterError> {
    match status {
        200..300 => Ok(()),
        _ if text.contains("already exists") => Ok(()),
        _ if meaning(&RAY, text) == Some(Meaning::Passing) => Err(ClusterError::Unreachable(brief(text))),
        _ if meaning(&RAY, text) == Some(Meaning::Refusal) => Err(ClusterError::Refused(brief(text))),
        400..500 => Err(ClusterError::Refused(brief(text))),
        _ => Err(ClusterError::Unreachable(brief(text))),
    }
}

/// What an entry of Ray's list means. Its message may hold what the job printed, so no word of it decides anything.
fn state_of(entry: &Entry) -> JobState {
    match (entry.status.as_str(), entry.error_type.as_deref()) {
        ("PENDING", _) => JobState::Queued,
        ("STOPPED", _) => JobState::Over(Why::Cancelled),
        ("SUCCEEDED", _) => JobState::Over(Why::Ended),
        // It waited in the queue for longer than Ray lets jobs wait.
        ("FAILED", Some("JOB_SUPERVISOR_ACTOR_START_TIMEOUT")) => JobState::Over(Why::NotPlaced),
        // Its supervisor or its node is gone; the trial may live on for a minute.
        ("FAILED", Some("JOB_SUPERVISOR_ACTOR_DIED" | "JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE")) => {
            JobState::Over(Why::NodeFailed)
        }
        ("FAILED", Some(_)) => JobState::Over(Why::Ended),
        // An older Ray: what ended by itself has an exit code, or at least the message that begins so.
        ("FAILED", None) => {
            let message = entry.message.as_deref().unwrap_or_default();
            let ended = entry.driver_exit_code.is_some() || message.starts_with("Job entrypoint command failed");
            let died = ["Job supervisor actor died", "Unexpected error occurred"];
            match !ended && died.iter().any(|died| message.starts_with(died)) {
                true => JobState::Over(Why::NodeFailed),
                false => JobState::Over(Why::Ended),
            }
        }
        _ => JobState::Running,
    }
}

impl Cluster for Ray {
    fn submit(&mut self, jobs: &[Submission]) -> Vec<Result<Option<String>, ClusterError>> {
        Self::each(jobs, |job| {
            let (status, text) = self.api.ask(Method::POST, "/api/jobs/", Some(self.body(job)))?;
            submitted(status, &text).map(|()| Some(job.key.clone()))
        })
    }

    /// Ray itself would let a job wait that has no place.
    fn avoid(&mut self, place: &str) -> bool {
        self.avoided.insert(place.to_owned());
        let Ok((200, text)) = self.api.ask(Method::GET, "/nodes?view=summary", None) else { return true };
        let nodes: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let Some(nodes) = nodes.pointer("/data/summary").and_then(serde_json::Value::as_array) else {
            return true;
        };
        let text = |node: &serde_json::Value, what: &str| {
            node.pointer(what).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
        };
        let alive = nodes.iter().filter(|node| text(node, "/raylet/state") == "ALIVE");
        alive.map(|node| text(node, "/raylet/nodeId")).any(|id| !self.avoided.contains(&id))
    }

    fn list(&mut self) -> Result<Vec<Listed>, ClusterError> {
        if let Some(head) = self.head.as_ref().filter(|head| head.has_ended()) {
            return Err(ClusterError::Gone(format!(
                "Ray's head node has ended; what it said is in `{}`",
                head.log
            )));
        }
        let (status, text) = self.api.ask(Method::GET, "/api/jobs/", None)?;
        let address = &self.api.address;
        match status {
            200 => {}
            400..500 => {
                let why = format!(
                    "`{address}` is not Ray's dashboard, or an old one: HTTP {status} for its list of jobs"
                );
                return Err(ClusterError::Stranger(why, Duration::ZERO));
            }
            _ => {
                let why = format!("`{address}`: HTTP {status}: {}", brief(&text));
                return Err(ClusterError::Stranger(why, PATIENCE));
            }
        }
        let entries: Vec<Entry> = serde_json::from_str(&text).map_err(|error| {
            ClusterError::Stranger(
                format!("`{address}` is not Ray's dashboard: no list of jobs ({error})"),
                Duration::ZERO,
            )
        })?;
        let ours = entries.into_iter().filter_map(|entry| {
            let (state, node) = (state_of(&entry), entry.node());
            let key = entry.submission_id.filter(|id| id.starts_with(&self.study))?;
            let waits = entry.message.clone().filter(|_| state.waits());
            let said = entry.message.filter(|_| matches!(state, JobState::Over(_)));
            let said = said.map(|said| end_of(&said));
            Some(Listed { id: key.clone(), key, state, node, place: entry.driver_node_id, said, waits })
        });
        Ok(ours.collect())
    }

    fn cancel(&mut self, jobs: &[(String, Option<String>)]) -> Result<(), ClusterError> {
        let answers =
            Self::each(jobs, |(key, _)| self.api.ask(Method::POST, &format!("/api/jobs/{key}/stop"), None));
        answers.into_iter().find_map(Result::err).map_or(Ok(()), Err)
    }

    fn forget(&mut self, ids: &[String]) {
        // One that stays costs a line in a list.
        let api = &self.api;
        Self::each(ids, |id| api.ask(Method::DELETE, &format!("/api/jobs/{id}"), None));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_and_states_mean_what_ray_means() {
        assert_eq!(submitted(200, "{}"), Ok(()));
        let twice = "Traceback\nRuntimeError: Request failed: Job with submission_id x already exists.";
        assert_eq!(submitted(500, twice), Ok(()));
        assert!(matches!(submitted(500, "oops"), Err(ClusterError::Unreachable(why)) if why == "oops"));
        assert!(matches!(submitted(400, "bad\nkey"), Err(ClusterError::Refused(why)) if why == "key"));
    }

    #[test]
    fn what_a_job_printed_is_no_word_of_rays() {
        let entry = |status: &str, error_type: Option<&str>, message: &str, code: Option<i32>| Entry {
            submission_id: None,
            status: status.to_owned(),
            message: Some(message.to_owned()),
            error_type: error_type.map(str::to_owned),
            driver_exit_code: code,
            driver_node_id: None,
            driver_agent_http_address: Some("http://10.0.0.7:52365".to_owned()),
        };
        let state = |status: &str, error_type, message: &str| state_of(&entry(status, error_type, message, None));
        assert_eq!(state("PENDING", None, "a node died"), JobState::Queued);
        assert_eq!(state("RUNNING", None, ""), JobState::Running);
        assert_eq!(state("STOPPED", None, ""), JobState::Over(Why::Cancelled));
        let printed = "Job entrypoint command failed with exit code 1, last available logs (truncated to 20,000 \
                       chars):\nerror: node 7 of the netlist died";
        let ended = JobState::Over(Why::Ended);
        assert_eq!(state("FAILED", Some("JOB_ENTRYPOINT_COMMAND_ERROR"), printed), ended);
        assert_eq!(state("FAILED", None, printed), ended);
        assert_eq!(state_of(&entry("FAILED", None, "Job supervisor actor died: x", Some(1))), ended);
        assert_eq!(state("FAILED", Some("RUNTIME_ENV_SETUP_FAILURE"), "no such node package"), ended);
        let gone = JobState::Over(Why::NodeFailed);
        assert_eq!(state("FAILED", Some("JOB_SUPERVISOR_ACTOR_DIED"), ""), gone);
        assert_eq!(state("FAILED", None, "Job supervisor actor died: the node is gone"), gone);
        let waited = Some("JOB_SUPERVISOR_ACTOR_START_TIMEOUT");
        assert_eq!(
            state("FAILED", waited, "Job supervisor actor failed to start"),
            JobState::Over(Why::NotPlaced)
        );
        assert_eq!(entry("FAILED", None, "", None).node().as_deref(), Some("10.0.0.7"));
        assert_eq!(end_of(&"é".repeat(3_000)).len(), MESSAGE_MAX);
    }
}
