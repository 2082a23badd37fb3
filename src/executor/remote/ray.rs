//! Ray, by its Jobs REST API. No Python of piton's own runs anywhere.
//!
//! A job's submission id is its attempt's key: Ray takes each once, so a second submission is answered with "already
//! exists", which means accepted. A cluster that was started anew takes an old id again; then it is the claim in the
//! control directory that keeps the attempt single. Jobs whose end is recorded are deleted, so that lists stay short.

mod head;

use std::net::SocketAddrV4;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::json;

use self::head::{Head, is_ours};
use super::{Cluster, JobState, Listed, Submission, Trouble, Why};
use crate::executor::AttemptKey;
use crate::executor::local::keeper::KeeperClient;
use crate::executor::local::strays::kill_attempt;
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
/// So often one is started: somebody may have taken its ports just before.
const HEAD_TRIES: u32 = 3;
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
    /// Of a head node of the study's own: who answers there must be this user's, before it is told the token.
    own: Option<SocketAddrV4>,
}

/// An answer: its status, and its text.
type Answer = (i32, String);

impl Api {
    fn ask(&self, method: minreq::Method, path: &str, body: Option<String>) -> Result<Answer, Trouble> {
        if self.own.is_some_and(|address| !is_ours(address)) {
            return Err(Trouble::Unreachable("nothing of this user's listens there".to_owned()));
        }
        let mut request = minreq::Request::new(method, format!("{}{path}", self.address))
            .with_timeout(LIMIT_S)
            // The token is for the place that was named, and for no other.
            .with_follow_redirects(false)
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
            300..=399 => Err(Trouble::Refused(format!(
                "it sends to another address (HTTP {}), which gets no token: name the one where Ray's dashboard itself is",
                response.status_code
            ))),
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
        let mut ray = Self {
            spec: spec.clone(),
            runtime_env,
            study: format!("{study}."),
            program: program.to_owned(),
            api: Api { address: spec.address.trim_end_matches('/').to_owned(), token: None, own: None },
            head: None,
        };
        if spec.address != "local" {
            ray.api.token = match &spec.token_env {
                Some(name) => Some(std::env::var(name).map_err(|_| format!("the environment has no `{name}`"))?),
                None => std::env::var(TOKEN_VAR).ok().filter(|token| !token.is_empty()),
            };
            return Ok(ray);
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
            ray.api = Api {
                address: format!("http://{}", head.address),
                token: Some(head.token.clone()),
                own: Some(head.address),
            };
            ray.head = Some(head);
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
        let list = |api: &Api| api.ask(minreq::Method::Get, "/api/jobs/", None);
        let stranger = Api { token: None, ..self.api.clone() };
        loop {
            let why = match (list(&self.api), list(&stranger)) {
                (Ok((200, _)), Err(Trouble::Refused(_))) => return Ok(()),
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

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    /// Answers one request with this status, and somewhere else to go.
    fn sends_elsewhere(status: u16, elsewhere: &str) -> std::net::SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let answer = format!(
            "HTTP/1.1 {status} Moved\r\nLocation: {elsewhere}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                head.extend(byte);
            }
            stream.write_all(answer.as_bytes()).unwrap();
        });
        address
    }

    #[test]
    fn the_token_goes_nowhere_but_where_it_was_named() {
        let elsewhere = TcpListener::bind("127.0.0.2:0").unwrap();
        elsewhere.set_nonblocking(true).unwrap();
        let there = elsewhere.local_addr().unwrap();
        for status in [301, 302, 303, 307, 308] {
            let target = format!("http://{there}/api/jobs/");
            let address = format!("http://{}", sends_elsewhere(status, &target));
            let api = Api { address, token: Some("secret".into()), own: None };
            let answer = api.ask(minreq::Method::Get, "/api/jobs/", None);
            let Err(Trouble::Refused(why)) = answer else { panic!("{status}: {answer:?}") };
            assert!(why.contains(&status.to_string()), "{why}");
            assert!(!why.contains("secret") && !why.contains(&target), "{why}");
            assert_eq!(elsewhere.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "{status}");
        }
    }

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
