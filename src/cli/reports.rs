//! `piton progress`: what a trial reports, written by the trial itself or shown to a person.

use std::io::Write;
use std::path::{Path, PathBuf};

use piton::program::executor::{NotReported, append_report};
use piton::views::progress::{Form, write_reports};
use piton::{Error, Look};

use super::args::ProgressArgs;
use super::sink::{self, Content};
use super::terminal;

/// Where a trial's reports go.
const PROGRESS_FILE_VAR: &str = "PITON_PROGRESS_FILE";

pub fn progress(args: &ProgressArgs) -> Result<u8, Error> {
    // No case has a `=` in its name.
    let reports = args.rest.iter().any(|word| word.contains('='));
    match (reports, args.rest.as_slice()) {
        (true, values) => report(&args.first, values, args.json),
        (false, [case]) => show(Path::new(&args.first), case, args.json),
        (false, _) => Err(Error::Usage(
            "either STEP METRIC=VALUE…, in a trial, or STORE CASE says which reports are meant".to_owned(),
        )),
    }
}

fn report(step: &str, values: &[String], json: bool) -> Result<u8, Error> {
    if json {
        return Err(Error::Usage("`--json` is for `piton progress STORE CASE`".to_owned()));
    }
    let file = std::env::var_os(PROGRESS_FILE_VAR).filter(|file| !file.is_empty()).map(PathBuf::from);
    let file = file.ok_or_else(|| {
        Error::Usage(format!(
            "`piton progress STEP METRIC=VALUE…` is for trials, and `{PROGRESS_FILE_VAR}` is not set"
        ))
    })?;
    append_report(&file, step, values).map_err(|error| match error {
        NotReported::Malformed(why) => Error::Usage(why),
        NotReported::File(cause) => Error::File { what: "add a report to", path: file, cause },
    })?;
    Ok(0)
}

fn show(store: &Path, case: &str, json: bool) -> Result<u8, Error> {
    let (_reader, look) = Look::at_store(store)?;
    let mut out = sink::stdout(if json { Content::Json } else { Content::Text });
    let form = if json { Form::Json } else { Form::Text(terminal::screen()) };
    let note = write_reports(&look.view, &look.snapshot, case, form, &mut out)?;
    out.flush().map_err(Error::Output)?;
    if let Some(note) = note {
        terminal::note(&note);
    }
    Ok(0)
}
