//! What can be typed.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};

/// Runs studies - stages of trials, the best cases surviving - that outlive kill -9 and power loss.
#[derive(Debug, Parser)]
#[command(name = "piton", version, max_term_width = 100, arg_required_else_help = true, after_help = AFTER_HELP)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const AFTER_HELP: &str = "\
Exit codes: 0 completed, 1 I/O or internal error, 2 bad usage or study file, 3 aborted, 4 difference found,
5 another engine has the store open, 6 the study file differs from the store, 7 damaged or newer store,
75 interrupted: run the same command again, 130 and 143 forced by a second SIGINT or SIGTERM.
PITON_LOG sets the log level (error, warn, info, debug); NO_COLOR turns colour off.";

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a runnable study from a template
    New(NewArgs),
    /// Validate a study file and print its plan; runs nothing
    Check(CheckArgs),
    /// Start the study, or go on with it if its store exists
    Run(RunArgs),
    /// Go on without the study file: the spec is in the store
    Resume(ResumeArgs),
    /// One screen: stages, progress, best so far, running trials, last failures
    Status(StatusArgs),
    /// The whole state
    Dump(DumpArgs),
    /// A trial's output
    Logs(LogsArgs),
    /// A case's lineage, every attempt, and why it survived or did not
    Why(WhyArgs),
    /// Ask the running engine to drain, and wait for it
    Stop(StopArgs),
    /// Make failed trials of the open (or aborted) stage pending again
    Retry(RetryArgs),
    /// Replay the journal, compare it with the stored state, check outputs' hashes
    Verify(VerifyArgs),
    /// Print shell completions
    Completions(CompletionsArgs),
    /// Print the manual page
    Man,
}

/// `piton new`.
#[derive(Debug, Args)]
pub struct NewArgs {
    /// Directory to make; if it is there it must be empty
    #[arg(value_hint = ValueHint::DirPath)]
    pub dir: Option<PathBuf>,
    /// Which template; `--template list` lists them
    #[arg(long, default_value = "basic")]
    pub template: String,
}

/// Which study, and where its things lie.
#[derive(Debug, Args)]
pub struct StudyArgs {
    /// The study file
    #[arg(value_name = "STUDY.toml", value_hint = ValueHint::FilePath)]
    pub study: PathBuf,
    /// The store [default: the study file's stem with .redb, beside it]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub store: Option<PathBuf>,
    /// Where trials' directories go [default: artifacts, beside the store]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub artifacts: Option<PathBuf>,
    /// Override a constant of [params] at creation
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = assignment)]
    pub set: Vec<(String, String)>,
}

/// `piton check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    pub study: StudyArgs,
    /// Print the plan as JSON
    #[arg(long)]
    pub json: bool,
}

/// How to run.
#[derive(Debug, Args)]
pub struct HowArgs {
    /// Trials at once [default: run.workers, or the number of CPUs]
    #[arg(long, short = 'j', value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub workers: Option<u32>,
    /// After a first signal, wait at most this long for running trials, then terminate them
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub drain_for: Option<Duration>,
    /// Print the final state as JSON
    #[arg(long)]
    pub json: bool,
}

/// `piton run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub study: StudyArgs,
    #[command(flatten)]
    pub how: HowArgs,
}

/// `piton resume`.
#[derive(Debug, Args)]
pub struct ResumeArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub how: HowArgs,
}

/// Which store.
#[derive(Debug, Args)]
pub struct StoreArgs {
    /// The store
    #[arg(value_name = "STORE", value_hint = ValueHint::FilePath)]
    pub store: PathBuf,
}

/// `piton status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    /// Keep it on the screen and up to date until the study is over
    #[arg(long)]
    pub watch: bool,
    /// Print JSON
    #[arg(long, conflicts_with = "watch")]
    pub json: bool,
}

/// Form of a dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DumpFormat {
    /// For reading
    Text,
    /// One document, schema 1
    Json,
    /// One line an object
    Jsonl,
    /// One row a trial (or an event)
    Csv,
}

/// `piton dump`.
#[derive(Debug, Args)]
pub struct DumpArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    /// Form of the output
    #[arg(long, value_enum, default_value = "text")]
    pub format: DumpFormat,
    /// Short for --format json
    #[arg(long, conflicts_with = "format")]
    pub json: bool,
    /// The journal's events instead of the state
    #[arg(long)]
    pub events: bool,
    /// The state as of this event
    #[arg(long, value_name = "SEQ")]
    pub at: Option<u64>,
    /// Only what must not depend on timing, crashes or worker count
    #[arg(long, conflicts_with = "events")]
    pub canonical: bool,
}

/// `piton logs`.
#[derive(Debug, Args)]
pub struct LogsArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    /// Which case
    #[arg(value_name = "CASE")]
    pub case: String,
    /// Standard error instead of standard output
    #[arg(long)]
    pub stderr: bool,
    /// Which attempt [default: the last]
    #[arg(long, value_name = "N")]
    pub attempt: Option<u32>,
    /// Go on as the trial writes, until it ends
    #[arg(long, short = 'f')]
    pub follow: bool,
}

/// `piton why`.
#[derive(Debug, Args)]
pub struct WhyArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    /// Which case
    #[arg(value_name = "CASE")]
    pub case: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `piton stop`.
#[derive(Debug, Args)]
pub struct StopArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    /// Terminate running trials instead of letting them finish
    #[arg(long)]
    pub now: bool,
}

/// `piton retry`.
#[derive(Debug, Args)]
pub struct RetryArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    /// Every failed trial of that stage
    #[arg(long, conflicts_with = "cases")]
    pub failed: bool,
    /// Only these
    #[arg(value_name = "CASE")]
    pub cases: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `piton verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `piton completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// For which shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let span: jiff::SignedDuration =
        text.parse().map_err(|_| "expected a time such as `25s`, `10m` or `1h30m`".to_owned())?;
    Duration::try_from(span).map_err(|_| "expected a time that is not negative".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_and_assignments() {
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5_400)));
        assert!(duration("-1s").is_err() && duration("soon").is_err());
        assert_eq!(assignment("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(assignment("=x").is_err() && assignment("x").is_err());
    }
}
