//! `piton run` and `piton resume`: the main job.

use std::path::{Path, PathBuf};

use piton::model::{Rail, RunEnd, StudyRow, StudyStatus};
use piton::program::engine::resume::ResumeDecision;
use piton::program::paths::{StudyPaths, seen_from_here};
use piton::program::sys::signals::die_by;
use piton::views::{export, own_file};
use piton::{Error, Look, Outcome, Snapshot, Study, overrides_of, shell_word};

use super::args::{HowArgs, ResumeArgs, RunArgs, StudyArgs};
use super::commands::{amend_command, run_command};
use super::errors::{is_closed_pipe, print_error};
use super::keeper::keeper;
use super::progress::Progress;
use super::terminal::{command, hint, note, say};
use super::{github, outcome, summary};

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

pub fn run(args: &RunArgs) -> Result<u8, Error> {
    let study = study_of(&args.study)?;
    let again = run_command(&args.study.study, args.study.store.as_deref(), &args.study.set);
    let (store, set) = (study.store_path().to_owned(), args.study.set.clone());
    go(study, &args.how, &again, Take { store, file: Some(args.study.study.clone()), set })
}

pub fn resume(args: &ResumeArgs) -> Result<u8, Error> {
    let again = format!("piton resume {}", shell_word(&args.store.store));
    let store = args.store.store.clone();
    go(Study::from_store(&store), &args.how, &again, Take { store: store.clone(), file: None, set: Vec::new() })
}

fn go(study: Study, how: &HowArgs, again: &str, take: Take) -> Result<u8, Error> {
    if let Some(junit) = how.junit.as_deref()
        && (junit == study.store_path() || piton::program::sys::files::is_store(junit).unwrap_or_default())
    {
        return Err(Error::Usage(format!("`--junit {}` names a store", junit.display())));
    }
    // Now, and not when all has run.
    if let (Some(junit), Some(file), Some(spec)) = (how.junit.as_deref(), &take.file, study.spec()) {
        let is_study_file = piton::program::sys::files::is_same(junit, file);
        let dir = file.parent().unwrap_or(Path::new(""));
        let what = if is_study_file { Some("the study file") } else { own_file(spec, "", dir, junit) };
        if let Some(what) = what {
            return Err(Error::Usage(format!("`--junit {}` names {what}", junit.display())));
        }
    }
    // Before any thread exists: the keeper is a fork of this process.
    let keeper = keeper()?;
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
    for error in told.into_iter().filter_map(Result::err).filter(|error| !is_closed_pipe(error)) {
        print_error(&error);
        // What was asked for and could not be written is a failure, unless the study has one of its own to report. A store
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

/// What it takes to name the commands that lead on after an abort.
struct Take {
    store: PathBuf,
    /// The study file, if one was given.
    file: Option<PathBuf>,
    set: Vec<(String, String)>,
}

/// A study file, and the params that are set besides.
type FileAndSet = (PathBuf, Vec<(String, String)>);

impl Take {
    /// What leads on from an abort, by its rail: each as it can be done.
    fn after_abort(&self, snapshot: &Snapshot, again: &str) -> Result<Vec<String>, Error> {
        let wrong = |cause| Error::Journal { store: self.store.clone(), cause };
        let study = snapshot.study().map_err(wrong)?;
        let stages = snapshot.stages().map_err(wrong)?;
        let first = stages.first().map(|stage| stage.name.as_str());
        let file = self.file(&study)?;
        let amend = |from: Option<&str>| match &file {
            Some((file, set)) => format!("`{}`", amend_command(&self.store, file, set, from)),
            None => "`piton amend` with a study file".to_owned(),
        };
        let loosen = |rail: &str| format!("{rail} in the study file, then {} and `{again}`", amend(None));
        let first_way = match study.abort.map(|abort| (abort.rail, abort.counted)) {
            Some((Rail::Base, _)) => {
                // No trial has run, so nothing is lost by beginning anew.
                let way = amend(first);
                return Ok(vec![format!("mend what the base command needs, then {way} and `{again}`")]);
            }
            Some((Rail::AbortIf, _)) => loosen("if the bound is too tight: change `abort_if`"),
            Some((Rail::MaxRuntime, _)) => loosen("raise `max_runtime`"),
            // None of the open stage's trials broke it: there is nothing to retry.
            Some((Rail::CatastrophicFailures, 0)) => loosen("raise `catastrophic_failures`"),
            _ => {
                let store = shell_word(&self.store);
                format!("mend the cause, then `piton retry {store} --failed` and `piton resume {store}`")
            }
        };
        let mut ways = vec![first_way];
        if file.is_some() && !study.inputs.is_empty() {
            let way = amend(first);
            ways.push(format!("if what you mend is an input of the study: {way}, then `{again}`"));
        }
        Ok(ways)
    }

    /// The study's file, with the params that are set besides; `None` for a study that has none.
    fn file(&self, study: &StudyRow) -> Result<Option<FileAndSet>, Error> {
        if let Some(file) = &self.file {
            return Ok(Some((file.clone(), self.set.clone())));
        }
        if study.study_file.is_empty() {
            return Ok(None);
        }
        let paths = StudyPaths::of(&self.store, study).map_err(Error::no_current_dir)?;
        let file = seen_from_here(&paths.study_dir.join(&study.study_file));
        let set = overrides_of(study, &file);
        Ok(Some((file, set)))
    }
}

fn write_junit(store: &Path, junit: &Path) -> Result<(), Error> {
    let (_reader, look) = Look::at_store(store)?;
    Ok(export::write_junit(&look.view, &look.snapshot, junit)?)
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
    let (_reader, look) = Look::at_store(store)?;
    match outcome.decision {
        ResumeDecision::AlreadyCompleted => say("the study is completed already; nothing to run"),
        ResumeDecision::AlreadyAborted => say("the study was aborted already; nothing to run"),
        _ => {}
    }
    if json {
        super::status::print_status_json(store)?;
    } else {
        outcome::print_result(&look, store)?;
    }
    if outcome.status == StudyStatus::Aborted {
        take.after_abort(&look.snapshot, again)?.iter().for_each(|way| hint(way));
    }
    if outcome.waits_for_approval() {
        let stage = look.view.waits_for_approval().unwrap_or_default();
        note(&format!("stage `{stage}` waits for approval; everything before it is recorded"));
        hint(&format!("`piton approve {}`, then `{again}`", shell_word(store)));
    }
    if let Some(report) = outcome.report
        && matches!(report.how, RunEnd::Drained | RunEnd::Forced)
    {
        note(&outcome::what_is_safe(&look.view));
        hint(&format!("go on with `{again}`"));
    }
    Ok(())
}
