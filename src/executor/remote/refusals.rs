//! What a cluster's own tools say when something cannot be done, word for word, and what follows: whether asking again can
//! help.
//!
//! A passing trouble that is taken for a refusal ends a run that could have gone on; a refusal that is taken for a passing
//! trouble is waited for without an end. What stands in no table is a refusal of what was to be submitted, and otherwise a
//! trouble that passes once the cluster has answered.

mod http;

use std::time::Duration;

pub(super) use self::http::{of_client, of_page};
use super::ClusterError;

/// What some words mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// It goes by itself.
    Passing,
    /// It goes by itself if jobs were taken before; otherwise it is what was asked for that is wrong.
    PassingOnceTaken,
    /// A refusal, unless there was an answer before.
    Stranger,
    /// Asking again changes nothing.
    Refusal,
}

use Meaning::{Passing, PassingOnceTaken, Refusal, Stranger};

/// The words of Slurm's commands; the first that are there count. Those that mention a limit of the *number* of jobs pass,
/// those about the size of one do not.
pub(super) const SLURM: [(&str, Meaning); 38] = [
    ("Unable to contact slurm controller", Passing),
    ("Slurm temporarily unable to accept job", Passing),
    ("Job creation temporarily disabled", Passing),
    ("Resource temporarily unavailable", Passing),
    ("Unable to create job record, try again", Passing),
    ("Socket timed out on send/recv operation", Passing),
    ("Zero Bytes were transmitted or received", Passing),
    ("Slurm backup controller in standby mode", Passing),
    ("Controller is in standby mode, try a different controller", Passing),
    ("Communication connection failure", Passing),
    ("Communication shutdown failure", Passing),
    ("Unexpected missing socket error", Passing),
    ("Failed to connect to authentication agent", Passing),
    ("Connection refused", Passing),
    ("Connection reset by peer", Passing),
    ("Connection timed out", Passing),
    ("Transport endpoint is not connected", Passing),
    ("No route to host", Passing),
    ("Required node not available (down, drained or reserved)", Passing),
    ("Slurm internal error, contact system administrator", Passing),
    // The reason that a limit of the number of jobs is named by: `QOSMaxSubmitJobPerUserLimit`, `AssocGrpSubmitJobsLimit`.
    ("SubmitJob", Passing),
    ("cannot stat file", Stranger),
    ("Could not establish a configuration source", Stranger),
    ("Invalid partition name specified", Refusal),
    ("Requested time limit is invalid (missing or exceeds some limit)", Refusal),
    ("Time limit specification required, but not provided", Refusal),
    ("Invalid account or account/partition combination specified", Refusal),
    ("Invalid qos specification", Refusal),
    ("Requested node configuration is not available", Refusal),
    ("More processors requested than permitted", Refusal),
    ("Memory required by task is not available", Refusal),
    ("Invalid generic resource (gres) specification", Refusal),
    ("Invalid feature specification", Refusal),
    ("Invalid node name specified", Refusal),
    ("Required partition not available (inactive or drain)", Refusal),
    ("User's group not permitted to use this partition", Refusal),
    ("Requested reservation is invalid", Refusal),
    ("Job violates accounting/QOS policy", PassingOnceTaken),
];

/// The words of Ray's answers.
pub(super) const RAY: [(&str, Meaning); 2] =
    [("No available agent to submit job", Passing), ("got an unexpected keyword argument", Refusal)];

/// What these words mean, by a table.
pub(super) fn meaning(table: &[(&str, Meaning)], said: &str) -> Option<Meaning> {
    table.iter().find(|(words, _)| said.contains(words)).map(|(_, meaning)| *meaning)
}

/// The trouble that Slurm's words are about. `taken`: whether it has taken jobs before.
pub(super) fn of_slurm(said: &str, submitting: bool, taken: bool) -> ClusterError {
    let meaning = meaning(&SLURM, said).unwrap_or(if submitting { Refusal } else { Stranger });
    // What it says in several lines is one reason.
    let lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
    let said = lines.collect::<Vec<_>>().join("; ");
    match meaning {
        Passing => ClusterError::Unreachable(said),
        PassingOnceTaken if taken => ClusterError::Unreachable(said),
        Stranger => ClusterError::Stranger(said, Duration::ZERO),
        PassingOnceTaken | Refusal => ClusterError::Refused(said),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_told_from_what_does_not() {
        let failed = |why: &str| format!("sbatch: error: Batch job submission failed: {why}");
        let of = |why: &str, taken| of_slurm(&failed(why), true, taken);
        let passes = |trouble| matches!(trouble, ClusterError::Unreachable(_));
        let refused = |trouble| matches!(trouble, ClusterError::Refused(_));
        assert!(passes(of("Unable to contact slurm controller (connect failure)", false)));
        assert!(passes(of("Socket timed out on send/recv operation", true)));
        // "limit" is in both.
        let time = "Requested time limit is invalid (missing or exceeds some limit)";
        assert!(refused(of(time, false)) && refused(of(time, true)));
        let policy = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)";
        assert!(passes(of_slurm(
            &format!("sbatch: error: QOSMaxSubmitJobPerUserLimit\n{}", failed(policy)),
            true,
            false
        )));
        assert!(refused(of_slurm(
            &format!("sbatch: error: QOSMaxWallDurationPerJobLimit\n{}", failed(policy)),
            true,
            false
        )));
        assert!(refused(of(policy, false)) && passes(of(policy, true)));
        // What a site's own plugin says.
        assert!(refused(of("Please name an account by --account", true)));
        let list = "slurm_load_jobs error: something new";
        assert!(matches!(of_slurm(list, false, true), ClusterError::Stranger(..)));
    }

    /// The table has Slurm's words, not somebody's memory of them.
    #[test]
    fn the_words_are_those_of_slurm_itself() {
        let library = "/usr/lib/x86_64-linux-gnu/slurm-wlm/libslurmfull.so";
        let programs = ["/usr/bin/sbatch", "/usr/bin/squeue", "/lib/x86_64-linux-gnu/libc.so.6", library];
        let read = |path: &&str| std::fs::read(path).unwrap_or_else(|error| panic!("`{path}`, of Slurm: {error}"));
        let texts: Vec<_> = programs.iter().map(read).collect();
        let has = |words: &str| texts.iter().any(|text| holds(text, words.as_bytes()));
        let lacking: Vec<&str> = SLURM.iter().map(|(words, _)| *words).filter(|words| !has(words)).collect();
        assert!(lacking.is_empty(), "{lacking:?}");
    }

    fn holds(text: &[u8], words: &[u8]) -> bool {
        text.windows(words.len()).any(|window| window == words)
    }
}
