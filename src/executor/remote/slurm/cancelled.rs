//! Who cancelled a job: where a site keeps accounts, `sacct` knows; `squeue` and `scontrol` do not.
//!
//! Nothing depends on the answer but words. Whoever cannot be asked, or takes long, is not asked again in this run.

use std::collections::HashMap;
use std::process::Command;
use std::time::{Duration, Instant};

use super::slurm_command;
use crate::sys::helper;

/// The accounts, and the names of users, are waited for so long in a run, all questions together.
const BUDGET: Duration = Duration::from_secs(5);
/// Jobs that are asked about at once.
const AT_ONCE: usize = 200;
/// So often one is asked about: its end may come to the accounts a little later than to the list.
const TRIES: u32 = 3;

/// Runs a program for so long at most: what it printed, if it went well, and how long that took.
type Ask = Box<dyn FnMut(&mut Command, Duration) -> (Option<String>, Duration) + Send>;

pub(super) struct Cancelled {
    /// By a job's id, how often it was asked about, and who cancelled it.
    jobs: HashMap<String, (u32, Option<String>)>,
    users: HashMap<u32, String>,
    /// How long may still be waited in this run; nothing where there is nobody to ask.
    left: Duration,
    ask: Ask,
}

impl Cancelled {
    pub(super) fn new() -> Self {
        Self::asking(Box::new(said_by))
    }

    fn asking(ask: Ask) -> Self {
        Self { jobs: HashMap::new(), users: HashMap::new(), left: BUDGET, ask }
    }

    /// Says of those that were cancelled by whom, as far as that is known.
    pub(super) fn by(&mut self, ids: &[String]) -> HashMap<String, String> {
        let unknown = |id: &&String| match self.jobs.get(*id) {
            Some((tries, by)) => by.is_none() && *tries < TRIES,
            None => true,
        };
        let asked: Vec<String> = ids.iter().filter(unknown).take(AT_ONCE).cloned().collect();
        if !asked.is_empty() {
            self.ask_about(&asked);
        }
        ids.iter().filter_map(|id| Some((id.clone(), self.jobs.get(id)?.1.clone()?))).collect()
    }

    fn ask_about(&mut self, ids: &[String]) {
        let mut sacct = slurm_command("sacct");
        sacct.args(["--noheader", "--parsable2", "--allocations", "--format=JobID,State", "--jobs"]);
        sacct.arg(ids.join(","));
        let Some(out) = self.said_by(&mut sacct) else {
            self.left = Duration::ZERO;
            return;
        };
        for id in ids {
            let user = user_of(&out, id).map(|uid| self.name(uid));
            let (tries, by) = self.jobs.entry(id.clone()).or_default();
            *tries += 1;
            *by = user;
        }
    }

    /// A user as people know it: `ada (1003)`, or the number alone.
    fn name(&mut self, uid: u32) -> String {
        if let Some(known) = self.users.get(&uid) {
            return known.clone();
        }
        let passwd = self.said_by(slurm_command("getent").args(["passwd", &uid.to_string()]));
        let name = passwd.as_deref().and_then(|line| line.split(':').next()).unwrap_or_default();
        let name = if name.is_empty() { uid.to_string() } else { format!("{name} ({uid})") };
        self.users.insert(uid, name.clone());
        name
    }

    /// What a program printed, if it went well and there is time to ask.
    fn said_by(&mut self, command: &mut Command) -> Option<String> {
        if self.left.is_zero() {
            return None;
        }
        let (said, took) = (self.ask)(command, self.left);
        self.left = self.left.saturating_sub(took);
        said
    }
}

/// See [`Ask`].
fn said_by(command: &mut Command, limit: Duration) -> (Option<String>, Duration) {
    let asked = Instant::now();
    let said = helper::output(command, &[], limit).ok().and_then(|(ended, out)| {
        let well = ended.status.is_some_and(|status| status.success());
        well.then(|| String::from_utf8_lossy(&out).into_owned())
    });
    (said, asked.elapsed())
}

/// Who cancelled a job, by the lines of `sacct`: `7|CANCELLED by 1003`.
fn user_of(out: &str, id: &str) -> Option<u32> {
    let state = out.lines().find_map(|line| line.strip_prefix(id)?.strip_prefix('|'))?;
    state.strip_prefix("CANCELLED by ")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn a_job_is_not_taken_for_another_one() {
        let out =
            "7|CANCELLED by 1003\n70|CANCELLED by 0\n8_1|CANCELLED by 65534\n9|CANCELLED\n10|CANCELLED by you\n";
        let found: Vec<_> = ["7", "70", "8_1", "8", "9", "10", "11"].iter().map(|id| user_of(out, id)).collect();
        assert_eq!(found, [Some(1003), Some(0), Some(65_534), None, None, None, None]);
    }

    /// One whose answers take so many seconds each, and what it was asked: how many jobs, or a user.
    fn slow(seconds: u64, answers: bool) -> (Cancelled, Arc<Mutex<Vec<String>>>) {
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let log = Arc::clone(&asked);
        let ask = move |command: &mut Command, limit: Duration| {
            let program = command.get_program().to_str().unwrap().to_owned();
            let last = command.get_args().last().unwrap().to_str().unwrap().to_owned();
            let said = match program.as_str() {
                "sacct" => last.split(',').map(|id| format!("{id}|CANCELLED by 1003\n")).collect(),
                _ => "ada:x:1003:\n".to_owned(),
            };
            log.lock().unwrap().push(format!("{program} {}", last.split(',').count()));
            (answers.then_some(said), Duration::from_secs(seconds).min(limit))
        };
        (Cancelled::asking(Box::new(ask)), asked)
    }

    fn ids(from: u32, to: u32) -> Vec<String> {
        (from..to).map(|id| id.to_string()).collect()
    }

    #[test]
    fn one_chunk_is_asked_about_at_a_time_and_none_twice_that_is_known() {
        let (mut cancelled, asked) = slow(0, true);
        let all = ids(0, 300);
        assert_eq!(cancelled.by(&all).len(), 200);
        assert_eq!(*asked.lock().unwrap(), ["sacct 200", "getent 1"]);
        let known = cancelled.by(&all);
        assert_eq!((known.len(), known["299"].as_str()), (300, "ada (1003)"));
        assert_eq!(cancelled.by(&all).len(), 300);
        assert_eq!(*asked.lock().unwrap(), ["sacct 200", "getent 1", "sacct 100"]);
    }

    #[test]
    fn nobody_is_asked_once_the_time_of_a_run_is_used_up() {
        // Whoever answers slowly is asked until the time is over, the name of a user among it.
        let (mut cancelled, asked) = slow(2, true);
        for n in 0..5 {
            cancelled.by(&ids(n, n + 1));
        }
        assert_eq!(*asked.lock().unwrap(), ["sacct 1", "getent 1", "sacct 1"]);
        assert_eq!(cancelled.by(&ids(0, 5)).len(), 2, "what is known stays known");
        // The number stands where no time is left for the name.
        let (mut cancelled, asked) = slow(9, true);
        assert_eq!(cancelled.by(&ids(0, 1))["0"], "1003");
        // Whoever does not answer is asked once, however long that took.
        for seconds in [0, 9] {
            let (mut cancelled, asked) = slow(seconds, false);
            assert!((0..4).all(|n| cancelled.by(&ids(n, n + 1)).is_empty()));
            assert_eq!(*asked.lock().unwrap(), ["sacct 1"]);
        }
        assert_eq!(*asked.lock().unwrap(), ["sacct 1"]);
    }
}
