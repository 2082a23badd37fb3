//! `piton run` and `piton resume`: the main job.

use std::path::{Path, PathBuf};

use piton::engine::resume::Decision;
use piton::model::{RunEnd, StudyStatus};
use piton::paths::{StudyPaths, seen_from_here};
use piton::sys::signals::die_by;
use piton::views::bundle;
use piton::{Error, Outcome, Reader, Snapshot, Study, amend_command, overrides_of, run_command, shell_word};

use super::args::{HowArgs, ResumeArgs, RunArgs, StudyArgs};
use super::look::Look;
use super::progress::{Progress, github};
use super::terminal::{command, hint, note, print_error, say};
use super::{result, summary};

/// Whether a path stands for what is open already, such as `/dev/stdin`: no directory to put anything beside it.
fn is_descriptor(path: &Path) -> bool {
    path.starts_with("/dev") || path.starts_with("/proc")
}

/// The study a study file describes, with what the command line says of it.
pub fn study_of(args: &StudyArgs) -> Result<Study, Error> {
    let no_file = || std::fs::metadata(&args.study).is_ok_and(|meta| !meta.is_file());
    if args.store.is_none() && (is_descriptor(&args.study) || no_file()) {
        let path = args.study.display();
        return Err(Error::Usage(format!(
            "`{path}` lies in no directory of its own: say with `--store` where the store is to be"
        )));
    }
    let mut study = Study::from_file(&args.study, &args.set)?;
    if let Some(store) = &args.store {
        study = study.store(store);
    }
    if let Some(artifacts) = &args.artifacts {
        study = study.artifacts(artifacts);
    }
    Ok(study)
}

/// `piton run`.
pub fn run(args: &RunArgs) -> Result<u8, Error> {
    let study = study_of(&args.study)?;
    let again = run_command(&args.study.study, args.study.store.as_deref(), &args.study.set);
    let (store, set) = (study.store_path().to_owned(), args.study.set.clone());
    go(study, &args.how, &again, Take { store, file: Some(args.study.study.clone()), set })
}

/// `piton resume`.
pub fn resume(args: &ResumeArgs) -> Result<u8, Error> {
    let again = format!("piton resume {}", shell_word(&args.store.store));
    let store = args.store.store.clone();
    go(Study::from_store(&store), &args.how, &again, Take { store: store.clone(), file: None, set: Vec::new() })
}

fn go(study: Study, how: &HowArgs, again: &str, take: Take) -> Result<u8, Error> {
    // Before any thread exists: the keeper is a fork of this process.
    let keeper = super::keeper()?;
    let store = study.store_path().to_owned();
    let mut study = study.keeper(keeper).watch_signals(true).drain_limit(how.drain_for).detach(how.detach);
    if let Ok(program) = std::env::current_exe() {
        study = study.program(program);
    }
    if let Some(workers) = how.workers {
        study = study.workers(workers);
    }
    let mut progress = Progress::start(&store, again, how.drain_for, how.ci);
    let outcome = study.run_observed(&mut progress);
    progress.finish();
    let outcome = outcome?;
    let junit = how.junit.as_deref();
    let told = [
        conclude(&store, &outcome, how.json, (again, &take)),
        junit.map_or(Ok(()), |junit| write_junit(&store, junit)),
        if how.ci { conclude_ci(&store, &outcome, again) } else { Ok(()) },
        outcome.exports_failed.as_ref().map_or(Ok(()), |why| {
            let what = "write the exports of the study: checkpoint, telemetry";
            Err(Error::System { what, cause: std::io::Error::other(why.clone()) })
        }),
    ];
    let mut code = outcome.exit_code();
    for error in told.into_iter().filter_map(Result::err).filter(|error| !super::is_closed_pipe(error)) {
        print_error(&error);
        // What was asked for and could not be written is a failure, unless the study has one of its own to tell. A store
        // that cannot be read any more decides, whatever its trials did.
        code = match (error.exit_code(), code) {
            (7, _) => 7,
            (_, 0) => 1,
            (_, own) => own,
        };
    }
    if let Some(signal) = outcome.report.and_then(|report| report.forced_by) {
        die_by(signal);
    }
    Ok(code)
}

/// What it takes to name the command that takes inputs as they are.
struct Take {
    store: PathBuf,
    /// The study file, if one was given.
    file: Option<PathBuf>,
    set: Vec<(String, String)>,
}

impl Take {
    /// The command, for a study that has inputs and a file.
    fn command(&self, snapshot: &Snapshot) -> Result<Option<String>, Error> {
        let wrong = |cause| Error::Journal { store: self.store.clone(), cause };
        let study = snapshot.study().map_err(wrong)?;
        let stages = snapshot.stages().map_err(wrong)?;
        let paths = StudyPaths::of(&self.store, &study).map_err(Error::no_current_dir)?;
        let stored =
            (!study.study_file.is_empty()).then(|| seen_from_here(&paths.study_dir.join(&study.study_file)));
        let file = self.file.clone().or(stored).filter(|_| !study.inputs.is_empty());
        let first = stages.first().map(|stage| stage.name.as_str());
        Ok(file.map(|file| {
            let set = if self.file.is_some() { self.set.clone() } else { overrides_of(&study, &file) };
            amend_command(&self.store, &file, &set, first)
        }))
    }
}

fn write_junit(store: &Path, junit: &Path) -> Result<(), Error> {
    let (_reader, look) = Look::at_store(store)?;
    Ok(bundle::write_junit(&look.view, &look.snapshot, junit)?)
}

/// What a CI system shows beside the log.
fn conclude_ci(store: &Path, outcome: &Outcome, again: &str) -> Result<(), Error> {
    if github::is_there() {
        let early = outcome.report.is_some_and(|report| matches!(report.how, RunEnd::Drained | RunEnd::Forced));
        if early {
            command(&github::annotation("warning", "the study was interrupted", &format!("go on with `{again}`")));
        } else if outcome.waits_for_approval() {
            let way = format!("`piton approve {}`, then `{again}`", shell_word(store));
            command(&github::annotation("warning", "the study waits for approval", &way));
        }
    }
    summary::append(store, again)
}

/// What there is to show at the end: the result on stdout, the rest on stderr.
fn conclude(store: &Path, outcome: &Outcome, json: bool, (again, take): (&str, &Take)) -> Result<(), Error> {
    let reader = Reader::open(store)?;
    let snapshot = reader.snapshot().map_err(|cause| Error::Journal { store: store.into(), cause })?;
    match outcome.decision {
        Decision::AlreadyCompleted => say("the study is completed already; nothing to run"),
        Decision::AlreadyAborted => say("the study was aborted already; nothing to run"),
        _ => {}
    }
    if json {
        super::look::print_status_json(store)?;
    } else {
        result::print_result(&snapshot, store)?;
    }
    if outcome.status == StudyStatus::Aborted {
        let word = shell_word(store);
        let store = word.as_str();
        hint(&format!("mend the cause, then `piton retry {store} --failed` and `piton resume {store}`"));
        if let Some(command) = take.command(&snapshot)? {
            hint(&format!("if what you mend is an input of the study: `{command}`, then `{again}`"));
        }
    }
    if outcome.waits_for_approval() {
        let (_, look) = Look::at_store(store)?;
        let stage = look.view.waits_for_approval().unwrap_or_default();
        note(&format!("stage `{stage}` waits for approval; everything before it is recorded"));
        hint(&format!("`piton approve {}`, then `{again}`", shell_word(store)));
    }
    if let Some(report) = outcome.report
        && matches!(report.how, RunEnd::Drained | RunEnd::Forced)
    {
        note(&result::what_is_safe(&snapshot, store)?);
        hint(&format!("go on with `{again}`"));
    }
    Ok(())
}
