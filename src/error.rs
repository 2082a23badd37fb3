//! Every way a command or a run can fail, with what is good to know beside the message: causes, and what is safe. Which
//! command helps is the business of `cli`.
//!
//! Errors keep their causes as values until they are printed, in one place, by `cli`. Exit codes are the contract's.

use std::path::{Path, PathBuf};

use crate::engine::stop::StopError;
use crate::engine::{CommitError, EngineError, ParentDiffers};
use crate::journal::{CompactError, JournalError, OpenError};
use crate::next_command::HowToAmend;
use crate::study_file::{Change, Diagnostics};
use crate::views::{ViewError, shell_quoted};

/// Why a study cannot be made, opened, run or shown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The study file has mistakes.
    #[error("the study file has {}", mistakes(.0.len()))]
    Spec(Box<Diagnostics>),
    /// A file of results has mistakes.
    #[error("the file of results cannot be read as it is: nothing was imported")]
    Results(Box<Diagnostics>),
    /// A command was used wrongly.
    #[error("{0}")]
    Usage(String),
    /// The study file cannot be read.
    #[error("cannot read the study file `{}`", path.display())]
    StudyFile {
        /// Path of the file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
    /// A store was given in place of a study file.
    #[error("`{}` is a store, not a study file", path.display())]
    StoreForStudyFile {
        /// Path of the file.
        path: PathBuf,
    },
    /// A store's compacted copy cannot be written.
    #[error("cannot write the compacted store `{}`", path.display())]
    NotCompacted {
        /// Path of the file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
    /// A file that is not the store.
    #[error("cannot {what} `{}`", path.display())]
    File {
        /// What was to be done with it.
        what: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
    /// An input that the study names.
    #[error("an input of the study cannot be read")]
    Input(#[source] crate::study_file::InputError),
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store cannot be read.
    #[error("cannot read the store `{}`", store.display())]
    Journal {
        /// Path of the store's file.
        store: PathBuf,
        /// What of it cannot be read.
        #[source]
        cause: JournalError,
    },
    /// The study file says something else than the store.
    #[error("the study file differs from the study in `{}`", store.display())]
    SpecDiffers {
        /// Path of the store's file.
        store: PathBuf,
        /// One for each key that differs.
        changes: Vec<Change>,
        /// What shows what they cost, and makes them.
        amend: Box<HowToAmend>,
    },
    /// A tool does not print its version.
    #[error("the version of a tool of the study cannot be told")]
    Version(#[source] crate::study_file::VersionError),
    /// An amendment that would make another study.
    #[error("`{setting}` of the study in `{}` cannot change", store.display())]
    OtherStudy {
        /// Path of the store's file.
        store: PathBuf,
        /// The key with its table, such as `study.seed`.
        setting: String,
    },
    /// An amendment that would alter results.
    #[error("the changes would alter results of the study in `{}`, from stage `{stage}` on", store.display())]
    AltersResults {
        /// Path of the store's file.
        store: PathBuf,
        /// Name of the first stage with results that would not hold.
        stage: String,
        /// What discards them.
        amend: Box<HowToAmend>,
    },
    /// An input or a tool is not what it was.
    #[error("{} of the study in `{}` have changed {}", if *meanwhile { "inputs" } else { "the inputs or tools" }, store.display(), if *meanwhile { "while its trials ran" } else { "since they were recorded" })]
    InputsChanged {
        /// Path of the store's file.
        store: PathBuf,
        /// A line for each that has changed: its name, and how.
        changes: Vec<String>,
        /// What takes them as they are now, where the study has a file.
        way_on: Option<Box<HowToAmend>>,
        /// Whether trials ran when that was noticed.
        meanwhile: bool,
    },
    /// What a survivor left is not what its children were to begin with.
    #[error("{parent}")]
    ParentChanged {
        /// Path of the store's file.
        store: PathBuf,
        /// Which outputs of which survivor.
        parent: Box<ParentDiffers>,
        /// What discards the results from its stage on, where the study has a file.
        again: Option<Box<HowToAmend>>,
    },
    /// The artifacts directory belongs to another study.
    #[error("the artifacts directory `{}` holds the outputs of another study", dir.display())]
    ArtifactsTaken {
        /// Path of the directory.
        dir: PathBuf,
        /// The other study's store.
        owner: PathBuf,
    },
    /// A running engine cannot be stopped from here.
    #[error("cannot stop the engine")]
    Stop(#[from] StopError),
    /// The run could not go on.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The stored spec cannot be read back.
    #[error("the spec in the store `{}` cannot be read: {why}", store.display())]
    StoredSpec {
        /// Path of the store's file.
        store: PathBuf,
        /// What does not fit, in words.
        why: String,
    },
    /// A stage's closure is missing.
    #[error("stage `{0}` runs a closure of the program that made the study")]
    NoClosure(String),
    /// A closure was given for a stage that has none.
    #[error("the study has no stage `{given}` whose trials are a closure; it has {}", closure_stages(stages))]
    NoClosureStage {
        /// The stage it was given for.
        given: String,
        /// The stages whose trials are closures.
        stages: Vec<String>,
    },
    /// A view cannot be shown.
    #[error(transparent)]
    View(ViewError),
    /// The store's own structures are broken.
    #[error("the store is damaged: {0}")]
    DamagedStore(String),
    /// A mistake of piton's.
    #[error("an internal error at {place}: {words}")]
    Bug {
        /// Where in the code.
        place: String,
        /// The message of its panic, or what was found to be impossible.
        words: String,
    },
    /// Output could not be written.
    #[error("cannot write the output")]
    Output(#[source] std::io::Error),
    /// Anything else the system refused.
    #[error("cannot {what}")]
    System {
        /// What was to be done.
        what: &'static str,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
}

impl Error {
    /// Why this store was not compacted.
    #[must_use]
    pub fn not_compacted(store: &Path, error: CompactError) -> Self {
        match error {
            CompactError::Open(error) => Self::Open(error),
            CompactError::Store(cause) => Self::Journal { store: store.into(), cause },
            CompactError::Copy { path, cause } => Self::NotCompacted { path, cause },
        }
    }
}

impl From<ViewError> for Error {
    fn from(error: ViewError) -> Self {
        match error {
            ViewError::Output(cause) => Self::Output(cause),
            other => Self::View(other),
        }
    }
}

fn closure_stages(stages: &[String]) -> String {
    if stages.is_empty() { "no such stage".into() } else { stages.join(", ") }
}

fn mistakes(count: usize) -> String {
    if count == 1 { "a mistake".into() } else { format!("{count} mistakes") }
}

impl Error {
    /// A relative path that cannot be made absolute.
    #[must_use]
    pub fn no_current_dir(cause: std::io::Error) -> Self {
        Self::System { what: "tell the current directory", cause }
    }

    /// The exit code of the contract.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Spec(_)
            | Self::Results(_)
            | Self::Usage(_)
            | Self::NoClosure(_)
            | Self::NoClosureStage { .. }
            | Self::ArtifactsTaken { .. }
            | Self::Version(_) => 2,
            Self::View(
                ViewError::UnknownCase { .. }
                | ViewError::UnknownAttempt { .. }
                | ViewError::NotStarted { .. }
                | ViewError::RanNothing { .. }
                | ViewError::Request(_)
                | ViewError::Baseline { .. },
            ) => 2,
            Self::StudyFile { .. } | Self::StoreForStudyFile { .. } => 2,
            Self::View(ViewError::Spec(_)) => 7,
            Self::View(ViewError::Journal(cause)) if cause.is_damage() => 7,
            Self::Engine(EngineError::Elsewhere { .. }) => 2,
            Self::Open(OpenError::Locked { .. } | OpenError::Withheld { .. })
            | Self::Engine(EngineError::Copied { .. }) => 5,
            Self::SpecDiffers { .. }
            | Self::InputsChanged { .. }
            | Self::ParentChanged { .. }
            | Self::Engine(EngineError::InputsChanged(_) | EngineError::ParentChanged(_))
            | Self::OtherStudy { .. }
            | Self::AltersResults { .. } => 6,
            Self::Open(OpenError::Damaged { .. } | OpenError::Nothing { .. } | OpenError::Newer { .. })
            | Self::StoredSpec { .. }
            | Self::DamagedStore(_) => 7,
            Self::Journal { cause, .. } if cause.is_damage() => 7,
            Self::Engine(error) if is_damage(error) => 7,
            _ => 1,
        }
    }

    /// What is safe, or what else is good to know; one line each.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        match self {
            Self::Engine(EngineError::Commit(failed)) => what_is_safe(failed).into_iter().collect(),
            // What is damaged is as of nothing.
            Self::Engine(error) if is_damage(error) => Vec::new(),
            Self::Bug { .. } => vec!["please report it; the store is as of its last commit".into()],
            Self::Engine(EngineError::Copied { .. }) | Self::OtherStudy { .. } | Self::AltersResults { .. } => {
                vec!["nothing was changed".into()]
            }
            Self::Engine(EngineError::Elsewhere { executor, .. }) => vec![format!(
                "go on with `executor = \"{0}\"`; a drain without `--detach` waits until nothing runs there",
                executor.name()
            )],
            Self::Engine(EngineError::StoreGone { .. }) => vec![
                "what was recorded lies in the removed file; put a copy of it back, or the study begins anew"
                    .into(),
            ],
            Self::Engine(EngineError::NotTaken(_)) => vec!["nothing was submitted".into()],
            Self::Engine(_) => vec!["the store is as of its last commit".into()],
            Self::SpecDiffers { changes, .. } => changes.iter().map(ToString::to_string).collect(),
            Self::InputsChanged { changes, meanwhile, .. } => {
                let safe = "what is recorded was made with the recorded inputs; what ran when they changed, or ended \
                            since, does not count and will run again";
                changes.iter().cloned().chain(meanwhile.then(|| safe.to_owned())).collect()
            }
            Self::ParentChanged { parent, .. } => {
                let blame = "no trial was started on it, and none counts as failed for it".to_owned();
                parent.lines().into_iter().chain(std::iter::once(blame)).collect()
            }
            Self::ArtifactsTaken { owner, .. } => vec![format!("they belong to the store `{}`", owner.display())],
            Self::Open(OpenError::Newer { .. } | OpenError::Nothing { .. }) => vec!["nothing was changed".into()],
            Self::NotCompacted { .. } => vec!["the store is as it was".into()],
            _ => Vec::new(),
        }
    }
}

/// Only what a fresh look at the store has shown is called safe.
fn what_is_safe(failed: &CommitError) -> Option<String> {
    match failed.safe.map(|safe| safe.succeeded + safe.failed) {
        _ if failed.cause.is_damage() => None,
        Some(1) => Some("1 result is safe; what was running will run again".into()),
        Some(results) => Some(format!("{results} results are safe; what was running will run again")),
        None => Some("the store could not be read again: `piton verify` tells what is in it".into()),
    }
}

fn is_damage(error: &EngineError) -> bool {
    match error {
        EngineError::Journal(cause) => cause.is_damage(),
        EngineError::Commit(failed) => failed.cause.is_damage(),
        EngineError::Fold(_) | EngineError::Inconsistent(_) => true,
        EngineError::Executor(_)
        | EngineError::Elsewhere { .. }
        | EngineError::System { .. }
        | EngineError::Copied { .. }
        | EngineError::StoreGone { .. }
        | EngineError::InputsChanged(_)
        | EngineError::NotTaken(_)
        | EngineError::ParentChanged(_) => false,
    }
}

/// A path as a person would type it into a shell.
#[must_use]
pub fn shell_word(path: &Path) -> String {
    shell_quoted(&path.display().to_string())
}
