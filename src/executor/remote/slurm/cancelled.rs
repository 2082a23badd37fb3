//! Who cancelled a job: where a site keeps accounts, `sacct` tells; `squeue` and `scontrol` do not.
//!
//! Nothing depends on the answer but words. Whoever cannot be asked, or takes long, is not asked again.

use std::collections::HashMap;
use std::time::Duration;

use super::super::{JobState, Listed, Why};
use super::slurm_command;
use crate::sys::limited;

/// The accounts are waited for so long.
const LIMIT: Duration = Duration::from_secs(5);
/// Jobs that are asked about at once.
const AT_ONCE: usize = 200;
/// So often one is asked about: its end may come to the accounts a little later than to the list.
const TRIES: u32 = 3;

/// See the module.
#[derive(Debug)]
pub(super) struct Cancelled {
    /// By a job's id, how often it was asked about, and who cancelled it.
    jobs: HashMap<String, (u32, Option<String>)>,
    /// Users by their numbers.
    users: HashMap<u32, String>,
    /// Whether there is anybody to ask.
    asks: bool,
}

impl Cancelled {
    pub(super) fn new() -> Self {
        Self { jobs: HashMap::new(), users: HashMap::new(), asks: true }
    }

    /// Says of those that were cancelled by whom, as far as that is known.
    pub(super) fn tell(&mut self, listed: &mut [Listed]) {
        let mut cancelled: Vec<&mut Listed> =
            listed.iter_mut().filter(|job| job.state == JobState::Over(Why::Cancelled)).collect();
        let unknown = |job: &&&mut Listed| match self.jobs.get(&job.id) {
            Some((tries, by)) => by.is_none() && *tries < TRIES,
            None => true,
        };
        let asked: Vec<String> = cancelled.iter().filter(unknown).map(|job| job.id.clone()).collect();
        for ids in asked.chunks(AT_ONCE) {
            self.ask(ids);
        }
        for job in &mut cancelled {
            job.by = self.jobs.get(&job.id).and_then(|(_, by)| by.clone());
        }
    }

    fn ask(&mut self, ids: &[String]) {
        if !self.asks {
            return;
        }
        let mut sacct = slurm_command("sacct");
        sacct.args(["--noheader", "--parsable2", "--allocations", "--format=JobID,State", "--jobs"]);
        sacct.arg(ids.join(","));
        let Some(out) = said_by(&mut sacct) else {
            self.asks = false;
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
        let ask = || {
            let passwd = said_by(slurm_command("getent").args(["passwd", &uid.to_string()]));
            let name = passwd.as_deref().and_then(|line| line.split(':').next()).unwrap_or_default().to_owned();
            if name.is_empty() { uid.to_string() } else { format!("{name} ({uid})") }
        };
        self.users.entry(uid).or_insert_with(ask).clone()
    }
}

/// What a program printed, if it went well.
fn said_by(command: &mut std::process::Command) -> Option<String> {
    let (ended, out) = limited::output(command, &[], LIMIT).ok()?;
    let well = ended.status.is_some_and(|status| status.success());
    well.then(|| String::from_utf8_lossy(&out).into_owned())
}

/// Who cancelled a job, by the lines of `sacct`: `7|CANCELLED by 1003`.
fn user_of(out: &str, id: &str) -> Option<u32> {
    let state = out.lines().find_map(|line| line.strip_prefix(id)?.strip_prefix('|'))?;
    state.strip_prefix("CANCELLED by ")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_not_taken_for_another_one() {
        let out =
            "7|CANCELLED by 1003\n70|CANCELLED by 0\n8_1|CANCELLED by 65534\n9|CANCELLED\n10|CANCELLED by you\n";
        let found: Vec<_> = ["7", "70", "8_1", "8", "9", "10", "11"].iter().map(|id| user_of(out, id)).collect();
        assert_eq!(found, [Some(1003), Some(0), Some(65_534), None, None, None, None]);
    }
}
