//! What can be typed.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use piton::Unmatched;
use piton::model::Named;
use piton::program::study_file::{Goal, Selection};
use piton::spec::Aggregate;
use piton::store::OUTPUTS_COLUMN;
use piton::views::compare::{Between, Tolerance};

/// Runs studies - stages of trials, the best cases surviving - that outlive kill -9 and power loss.
#[derive(Debug, Parser)]
#[command(name = "piton", version, max_term_width = 100, arg_required_else_help = true, after_help = AFTER_HELP)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const AFTER_HELP: &str = "\
Exit codes: 0 completed, 1 I/O or internal error, 2 bad usage or study file, 3 aborted, 4 difference found, \
5 another engine has the store open, 6 the study file differs from the store, 7 damaged or newer store, \
8 a stage waits for `piton approve`, 75 interrupted: run the same command again, 130 and 143 forced by a second \
SIGINT or SIGTERM.
PITON_LOG sets the log level (error, warn, info, debug); NO_COLOR turns colour off.";

/// The name of a file that is written beside what is printed: `-` is none.
fn a_file() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| match path.as_os_str() == "-" {
        true => {
            Err("it is written beside what is printed, so it needs a file of its own (`./-` is one of that name)")
        }
        false => Ok(path),
    })
}

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
    /// The winner: its params, metrics and directory, for people or for the next program
    Best(BestArgs),
    /// The whole state
    Dump(DumpArgs),
    /// A trial's output
    Logs(LogsArgs),
    /// Report a step, in a trial; or list what a trial reported
    Progress(ProgressArgs),
    /// A case's lineage, every attempt, and why it survived or did not
    Why(WhyArgs),
    /// Ask the running engine to drain, and wait for it
    Stop(StopArgs),
    /// Make failed trials of the open (or aborted) stage pending again
    Retry(RetryArgs),
    /// Change a study that has begun: show what each change costs, and apply what is accepted
    Amend(AmendArgs),
    /// Bring in results that were made elsewhere: only the other cases run
    Import(ImportArgs),
    /// Let a stage begin that waits for approval
    Approve(ApproveArgs),
    /// Replay the journal, compare it with the stored state, check outputs' hashes
    Verify(VerifyArgs),
    /// Make a new store from all that can still be read of a damaged one
    Salvage(SalvageArgs),
    /// Discard what `keep` does not keep of finished trials' directories, and say what that frees
    Gc(GcArgs),
    /// Write the store anew without its free space; no engine may have it open
    Compact(CompactArgs),
    /// Write checkpoint, telemetry, tables, lineage and a JUnit report into a directory
    Export(ExportArgs),
    /// Write one self-contained page that tells the study's story
    Report(ReportArgs),
    /// Show the same page live, with a stop button, or all studies below a directory, until ended by a signal; also `/metrics`
    Serve(ServeArgs),
    /// All studies below a directory, a line each
    List(ListArgs),
    /// Fail (exit code 4) if the study got worse than a baseline
    Compare(CompareArgs),
    /// What another choice would have kept, cost and lost; changes nothing
    WhatIf(WhatIfArgs),
    /// Run one trial again in a scratch directory and compare; nothing is recorded
    Replay(ReplayArgs),
    /// What a job of a cluster runs: one attempt of a trial
    #[command(hide = true)]
    Attempt {
        /// The attempt's control directory
        control: PathBuf,
    },
    /// Print the JSON Schema of the study file, by which editors complete and check it
    Schema,
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
    /// Run the commands of `[study] versions` as well; without it nothing of the study file is run
    #[arg(long)]
    pub versions: bool,
    /// Submit one small job to the study's cluster, which looks whether trials can run there
    #[arg(long)]
    pub probe: bool,
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
    /// When asked to stop, leave what runs on a cluster there; the next run takes it over
    #[arg(long, conflicts_with = "drain_for")]
    pub detach: bool,
    /// Print the final state as JSON
    #[arg(long)]
    pub json: bool,
    /// For CI: plain lines; on GitHub Actions also annotations, and a summary of the job
    #[arg(long)]
    pub ci: bool,
    /// Write a JUnit report at the end, however the run ended
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, value_parser = a_file())]
    pub junit: Option<PathBuf>,
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
    /// Also what the study's directory takes on the disk, which costs a look at every file
    #[arg(long, conflicts_with = "watch")]
    pub disk: bool,
    /// Print JSON
    #[arg(long, conflicts_with = "watch")]
    pub json: bool,
}

/// Form of a winner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BestFormat {
    /// For reading
    Text,
    /// One document
    Json,
    /// Assignments for a shell, all called PITON_BEST_…: `eval "$(piton best STORE --format env)"`
    Env,
    /// Its params as options, quoted for a shell: `--name=value …`
    Args,
}

/// `piton best`.
#[derive(Debug, Args)]
pub struct BestArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    /// Of which stage [default: the last that closed; before any has, the one that runs]
    #[arg(long, value_name = "NAME")]
    pub stage: Option<String>,
    /// Form of the output
    #[arg(long, value_enum, default_value = "text")]
    pub format: BestFormat,
    /// Short for --format json
    #[arg(long, conflicts_with = "format")]
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

/// `piton progress`.
#[derive(Debug, Args)]
#[command(
    override_usage = "piton progress <STEP> <METRIC=VALUE>...\n       piton progress <STORE> <CASE> [--json]"
)]
pub struct ProgressArgs {
    /// The step, a whole number that grows; or the store
    #[arg(value_name = "STEP|STORE", value_hint = ValueHint::FilePath)]
    pub first: String,
    /// What was measured, each as METRIC=VALUE; or which case
    #[arg(value_name = "METRIC=VALUE|CASE", required = true)]
    pub rest: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
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
    /// Terminate running trials instead of letting them finish; without an engine, take back what the study has on a cluster
    #[arg(long)]
    pub now: bool,
    /// Do not ask before anything is taken back from a cluster
    #[arg(long, requires = "now")]
    pub yes: bool,
}

/// `piton retry`.
#[derive(Debug, Args)]
pub struct RetryArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    /// Every failed trial of the open stage; of all stages where none is open
    #[arg(long, conflicts_with = "cases")]
    pub failed: bool,
    /// With --failed: of this stage
    #[arg(long, value_name = "NAME", requires = "failed")]
    pub stage: Option<String>,
    /// Later stages stay as they are, whatever survives now
    #[arg(long, conflicts_with = "discard_children")]
    pub keep_survivors: bool,
    /// If others survive, finished children of those that survive no more may go
    #[arg(long)]
    pub discard_children: bool,
    /// Only these
    #[arg(value_name = "CASE")]
    pub cases: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `piton amend`.
#[derive(Debug, Args)]
#[command(after_help = "\
Harmless changes and such that extend the study (more budget, more stages at its end, more retries, longer timeouts, rails) \
are applied. A change that alters results is refused with exit code 6, unless --discard-from names a stage at or before \
the first it alters.")]
pub struct AmendArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    /// The changed study file
    #[arg(value_name = "STUDY.toml", value_hint = ValueHint::FilePath)]
    pub study: PathBuf,
    /// Override a constant of [params], as at creation
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = assignment)]
    pub set: Vec<(String, String)>,
    /// Apply the changes without asking
    #[arg(long)]
    pub yes: bool,
    /// Show the changes, change nothing and run nothing
    #[arg(long, conflicts_with = "yes")]
    pub dry_run: bool,
    /// Discard the results of this stage and of all after it, and run them again
    #[arg(long, value_name = "STAGE")]
    pub discard_from: Option<String>,
    /// Discard results that changed rules cannot read, since their files are gone or changed, and run those trials again
    #[arg(long)]
    pub discard_unread: bool,
    /// Take changed inputs and tools for what results were made with; recorded for ever
    #[arg(long, requires = "note")]
    pub accept_inputs: bool,
    /// Why they make no difference
    #[arg(long, value_name = "TEXT", requires = "accept_inputs")]
    pub note: Option<String>,
    /// Who accepts them [default: $USER]
    #[arg(long, value_name = "NAME", requires = "accept_inputs")]
    pub by: Option<String>,
    /// Print the changes as JSON
    #[arg(long)]
    pub json: bool,
}

/// `piton import`.
#[derive(Debug, Args)]
#[command(after_help = IMPORT_HELP)]
pub struct ImportArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    /// CSV or JSON Lines (`.jsonl`, `.ndjson`) with a result a row: its params and its metrics
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    #[arg(required_unless_present = "from_store", conflicts_with = "from_store")]
    pub file: Option<PathBuf>,
    /// The stage that gets the results
    #[arg(long, value_name = "NAME")]
    pub stage: String,
    /// Take the results of another study's trials that succeeded, with their outputs
    #[arg(long, value_name = "STORE", value_hint = ValueHint::FilePath)]
    pub from_store: Option<PathBuf>,
    /// The other study's stage [default: the one of the same name]
    #[arg(long, value_name = "NAME", requires = "from_store")]
    pub from_stage: Option<String>,
    /// Where the outputs of each row lie: in the directory below DIR that its column names, or that is called by its number, from 1
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, conflicts_with = "from_store")]
    pub outputs: Option<PathBuf>,
    /// The column that names each row's directory
    #[arg(long, value_name = "COLUMN", requires = "outputs", default_value = OUTPUTS_COLUMN)]
    pub outputs_column: String,
    /// A column that says nothing here; may be repeated
    #[arg(long, value_name = "COLUMN")]
    pub ignore: Vec<String>,
    /// What to do if rows match no case that waits: import nothing, or leave them out
    #[arg(long, value_name = "refuse|leave", default_value = "refuse")]
    #[arg(value_parser = unmatched)]
    pub unmatched: Unmatched,
    /// The study file, to make the store if there is none
    #[arg(long, value_name = "STUDY.toml", value_hint = ValueHint::FilePath)]
    pub study: Option<PathBuf>,
    /// Override a constant of [params] when the store is made
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = assignment, requires = "study")]
    pub set: Vec<(String, String)>,
    /// Who imports them [default: $USER]
    #[arg(long, value_name = "NAME")]
    pub by: Option<String>,
    /// Import without asking
    #[arg(long)]
    pub yes: bool,
    /// Show what would be imported, and import nothing
    #[arg(long, conflicts_with = "yes")]
    pub dry_run: bool,
    /// Print what was imported, or would be, as JSON
    #[arg(long)]
    pub json: bool,
}

const IMPORT_HELP: &str = "\
A row is a result of the case that has its params; the metrics that the stage needs must be there. Columns are called as params and
metrics are; `param.NAME` and `metric.NAME` say which. Nothing is imported in part. Where a proposer chooses the trials, it
is told of the results before its first question, and no trial has them.";

/// `piton approve`.
#[derive(Debug, Args)]
pub struct ApproveArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    /// Which stage [default: the first that waits for it]
    #[arg(long, value_name = "NAME")]
    pub stage: Option<String>,
    /// Who approves [default: $USER]
    #[arg(long, value_name = "NAME")]
    pub by: Option<String>,
    /// What to record with it
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub note: String,
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

/// `piton salvage`.
#[derive(Debug, Args)]
pub struct SalvageArgs {
    /// The damaged store; it is only read
    #[arg(value_name = "DAMAGED", value_hint = ValueHint::FilePath)]
    pub damaged: PathBuf,
    /// The store to make; it must not be there
    #[arg(short, long, value_name = "NEW", value_hint = ValueHint::FilePath)]
    pub output: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `piton gc`.
#[derive(Debug, Args)]
pub struct GcArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    /// Only say what it would free
    #[arg(long)]
    pub dry_run: bool,
    /// What to keep instead of what the study says, such as survivors=all,others=outputs,failed=logs: all, outputs, logs or nothing
    #[arg(long, value_name = "KIND=LEVEL,…", value_parser = piton::store::parse_keep)]
    pub keep: Option<piton::Keep>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `piton compact`.
#[derive(Debug, Args)]
pub struct CompactArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `piton export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    /// Directory for the files; made if need be, other files in it stay
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub to: PathBuf,
    /// Print what was written as JSON
    #[arg(long)]
    pub json: bool,
}

/// `piton report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    /// The page; replaced if it is there
    #[arg(short, long, value_name = "FILE", default_value = "report.html", value_hint = ValueHint::FilePath)]
    pub output: PathBuf,
}

/// `piton serve`.
#[derive(Debug, Args)]
#[command(after_help = SERVE_HELP)]
pub struct ServeArgs {
    /// The store, or a directory: all studies whose stores lie below it, as `piton list` finds them
    #[arg(value_name = "STORE|DIR", value_hint = ValueHint::AnyPath)]
    pub what: PathBuf,
    /// Address to listen at; port 0: any free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// Another name by which browsers may reach this machine
    #[arg(long, value_name = "NAME")]
    pub allow_host: Vec<String>,
}

const SERVE_HELP: &str = "\
Prints the page's address. It holds a random token, and nothing is shown without it; PITON_SERVE_TOKEN sets it, for a
service. /metrics (OpenMetrics) takes the token as `Authorization: Bearer` as well.";

/// `piton list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Where to look for stores, files that end in `.redb`; links, hidden directories and artifacts are left out
    #[arg(value_name = "DIR", default_value = ".", value_hint = ValueHint::DirPath)]
    pub dir: PathBuf,
    /// Count what lies in each study's artifacts directory, too: a look at every file
    #[arg(long)]
    pub disk: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// How cases of two studies are matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MatchBy {
    /// The same name
    Names,
    /// The same params
    Params,
}

/// What becomes of what is inconclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Undecided {
    /// It passes, and is counted
    Pass,
    /// It fails
    Fail,
}

/// `piton compare`.
#[derive(Debug, Args)]
pub struct CompareArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    /// What to compare with: another store, or a file from --write-baseline, `dump --canonical` or `dump --json`
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, required_unless_present_any = ["write_baseline", "between"])]
    pub baseline: Option<PathBuf>,
    /// Write this study's results to FILE, to compare others with; compares nothing
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, value_parser = a_file())]
    #[arg(conflicts_with_all = ["baseline", "between", "tolerance", "direction", "allow_missing"])]
    pub write_baseline: Option<PathBuf>,
    /// Which stage [default: the last; for --write-baseline: all]
    #[arg(long, value_name = "NAME")]
    pub stage: Option<String>,
    /// Only this metric [default: all that are numbers]; may be repeated
    #[arg(long = "metric", value_name = "METRIC")]
    pub metric: Vec<String>,
    /// How far a metric may move for the worse: in its own unit (`wns_ps=5`), or of the baseline (`area=2%`); may be
    /// repeated, both for one metric too: then the more generous counts [default: 0]
    #[arg(long = "tolerance", value_name = "METRIC=ABS|REL%", value_parser = tolerance)]
    pub tolerance: Vec<(String, Tolerance)>,
    /// Which way is better; may be repeated [default: by the stage's objectives; other metrics may not change]
    #[arg(long = "direction", value_name = "METRIC=minimize|maximize", value_parser = direction)]
    pub direction: Vec<(String, Goal)>,
    /// Let cases and metrics pass that are gone, have no result, or have other params
    #[arg(long)]
    pub allow_missing: bool,
    /// Instead of a baseline: compare the trials of this study that have two values of a param, such as `build=base,now`
    #[arg(long, value_name = "PARAM=BASE,NOW", value_parser = Between::parse, conflicts_with = "baseline")]
    pub between: Option<Between>,
    /// How cases are found: by their names, or by their params where names mean something else
    #[arg(long = "match", value_name = "BY", value_enum, default_value = "names")]
    pub match_by: MatchBy,
    /// Whether lines pass of which the replicas say too little
    #[arg(long, value_name = "HOW", value_enum, default_value = "pass")]
    pub undecided: Undecided,
    /// For CI: on GitHub Actions also annotations
    #[arg(long)]
    pub ci: bool,
    /// Write the comparison as JUnit XML to FILE, a test case a line
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, value_parser = a_file())]
    #[arg(conflicts_with = "write_baseline")]
    pub junit: Option<PathBuf>,
    /// Print JSON, with every line of the comparison
    #[arg(long)]
    pub json: bool,
}

/// `piton what-if`.
#[derive(Debug, Args)]
#[command(after_help = WHAT_IF_HELP)]
pub struct WhatIfArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    /// In which stage [default: in every one that the choice means something to]; may be repeated
    #[arg(long, value_name = "NAME")]
    pub stage: Vec<String>,
    /// As if so many survived
    #[arg(long, value_name = "N")]
    pub survivors: Option<u64>,
    /// As if they were chosen so: top, lexicographic, weighted_sum or pareto
    #[arg(long, value_name = "SELECTION", value_parser = selection)]
    pub selection: Option<Selection>,
    /// As if replicas came to this together: mean, median, midmean or worst
    #[arg(long, value_name = "AGGREGATE", value_parser = aggregate)]
    pub aggregate: Option<Aggregate>,
    /// As if each case had run so often
    #[arg(long, value_name = "N")]
    pub repeats: Option<u32>,
    /// As if trials were compared at these steps, as `[stage.halving]` does: `--rungs 3,9,27`
    #[arg(long, value_name = "STEPS", value_delimiter = ',')]
    pub rungs: Vec<u64>,
    /// As if about one in so many went on at a rung
    #[arg(long, value_name = "N")]
    pub eta: Option<u64>,
    /// As if the stage had this rule, instead of its own; the keys of `[[stage.stop_if]]`:
    /// `--stop-if 'metric = "loss", above = 3, after = 5'`; may be repeated
    #[arg(long, value_name = "RULE")]
    pub stop_if: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

const WHAT_IF_HELP: &str = "\
A trial is the one that ran if it has the same parent and the same values. What depends on a trial that never ran, or whose reports \
are gone, is unknown.";

/// `piton replay`.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 0 succeeded, 3 failed, both as recorded (or nothing is recorded); 4 other than recorded; 130 or 143 ended by a \
signal. Params, seed, attempt, slot and the parent's directory are the recorded ones; the scratch directory is empty, \
and there is no retry.")]
pub struct ReplayArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    /// Which case
    #[arg(value_name = "CASE")]
    pub case: String,
    /// Run it in this directory, which must be empty or not exist, and stays
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub attempt_dir: Option<PathBuf>,
    /// Keep the temporary directory it ran in
    #[arg(long, conflicts_with = "attempt_dir")]
    pub keep: bool,
    /// Compare only this metric [default: all]; may be repeated
    #[arg(long = "metric", value_name = "METRIC")]
    pub metric: Vec<String>,
    /// How far a metric may differ from the recorded one, either way: `time_s=20%`, `area=5`; may be repeated [default: 0]
    #[arg(long = "tolerance", value_name = "METRIC=ABS|REL%", value_parser = tolerance)]
    pub tolerance: Vec<(String, Tolerance)>,
    /// Print the result as JSON; the trial's standard output goes to standard error then
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

fn unmatched(text: &str) -> Result<Unmatched, String> {
    match text {
        "refuse" => Ok(Unmatched::Refuse),
        "leave" => Ok(Unmatched::Leave),
        _ => Err("expected `refuse` or `leave`".to_owned()),
    }
}

fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

fn tolerance(text: &str) -> Result<(String, Tolerance), String> {
    match text.rsplit_once('=') {
        Some((metric, value)) if !metric.is_empty() => Ok((metric.to_owned(), Tolerance::parse(value)?)),
        _ => Err("expected METRIC=5 or METRIC=2%".to_owned()),
    }
}

fn selection(text: &str) -> Result<Selection, String> {
    word(text)
}

fn aggregate(text: &str) -> Result<Aggregate, String> {
    word(text)
}

fn word<W: Named>(text: &str) -> Result<W, String> {
    let names: Vec<&str> = W::ALL.iter().map(|word| word.name()).collect();
    W::by_name(text).ok_or_else(|| format!("expected one of {}", names.join(", ")))
}

fn direction(text: &str) -> Result<(String, Goal), String> {
    let named = text.rsplit_once('=').filter(|(metric, _)| !metric.is_empty());
    let named = named.and_then(|(metric, goal)| Some((metric.to_owned(), Goal::by_name(goal)?)));
    named.ok_or_else(|| "expected METRIC=minimize or METRIC=maximize".to_owned())
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

    #[test]
    fn tolerances_and_directions() {
        let five = Tolerance { absolute: 5.0, relative: 0.0 };
        assert_eq!(tolerance("a=b=5"), Ok(("a=b".into(), five)));
        assert!(tolerance("=5").is_err() && tolerance("a").is_err() && tolerance("a=-5").is_err());
        assert_eq!(direction("a=maximize"), Ok(("a".into(), Goal::Maximize)));
        assert!(direction("a=max").is_err() && direction("=minimize").is_err() && direction("a").is_err());
    }
}
