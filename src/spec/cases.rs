//! Cases listed in a file: `sampling = { file = "cases.csv" }`.
//!
//! A table with a header line (CSV) or one flat JSON object a line (JSON Lines). The file is read once, when its study
//! is made, and its cases are kept in the spec: a later change of it is a change of the spec. All its mistakes are
//! reported at once, each with its line. Any bytes may come in; reading must never panic, and never take a row in
//! part.

mod csv_rows;
mod json_rows;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::check::identity;
use super::diagnostics::{Diagnostic, Diagnostics, Place, names_help, shown};
use super::template::{BUILTIN_PLACEHOLDERS, is_name};
use super::types::{CaseFile, CaseList, Part, Sampling, Spec, SpecValue, StageSpec, Template, Work};
use crate::sys::words::io_words;

/// Largest file of cases that is read.
pub const CASE_FILE_MAX_BYTES: u64 = 16 << 20;

/// All cases of a spec together take at most this in its JSON: a store keeps that in one record.
const CASES_JSON_MAX_BYTES: usize = 24 << 20;

/// More mistakes than this are not looked for.
const MISTAKES_MAX: usize = 1_000;

/// How a file of cases is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CaseFormat {
    /// Comma-separated values with a header line.
    Csv,
    /// One flat JSON object a line.
    JsonLines,
}

impl CaseFormat {
    /// By the file's name.
    pub fn of(path: &str) -> Option<Self> {
        let (_, ending) = path.rsplit_once('.')?;
        match ending.to_ascii_lowercase().as_str() {
            "csv" => Some(Self::Csv),
            "jsonl" | "ndjson" => Some(Self::JsonLines),
            _ => None,
        }
    }
}

/// What is wrong with a file of cases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CaseMistake {
    /// From 1; `None`: the file itself is at fault.
    pub line: Option<u64>,
    pub message: String,
    pub help: Option<String>,
}

impl CaseMistake {
    fn of_file(message: String) -> Self {
        Self { line: None, message, help: None }
    }

    /// As people see it: a line by its number, the file where it is named, which is `place`.
    pub fn diagnostic(self, path: &str, place: &Place) -> Diagnostic {
        let diagnostic = match self.line {
            Some(line) => Diagnostic::at(&Place { span: None, path: format!("{path}:{line}") }, self.message),
            None => Diagnostic::at(place, self.message).label("this file"),
        };
        diagnostic.maybe_help(self.help)
    }
}

/// Reads a file of cases.
pub(super) fn read_cases(study_dir: &Path, path: &str) -> Result<CaseList, Vec<CaseMistake>> {
    let failed = |why: String| vec![CaseMistake::of_file(format!("cannot read {}: {why}", shown(path)))];
    let bytes = read_bounded(&study_dir.join(path)).map_err(|error| failed(io_words(&error)))?;
    let Some(bytes) = bytes else {
        return Err(failed(format!("it has more than {} MiB", CASE_FILE_MAX_BYTES >> 20)));
    };
    let list = parse_cases(CaseFormat::of(path).unwrap_or(CaseFormat::Csv), &bytes)?;
    let size = serde_json::to_string(&list).map_or(usize::MAX, |text| text.len());
    if size > CASES_JSON_MAX_BYTES {
        return Err(failed(format!("its cases take more than {} MiB", CASES_JSON_MAX_BYTES >> 20)));
    }
    Ok(list)
}

/// A file's bytes; `None` if it is too large. Opening does not wait for a pipe's other end.
/// Reads bytes as a file of cases, for fuzzing: there are cases, or there is a mistake.
#[doc(hidden)]
pub fn fuzz_cases(is_json: bool, bytes: &[u8]) {
    let format = if is_json { CaseFormat::JsonLines } else { CaseFormat::Csv };
    if let Err(mistakes) = parse_cases(format, bytes) {
        assert!(!mistakes.is_empty() && mistakes.iter().all(|mistake| !mistake.message.is_empty()));
    }
}

fn read_bounded(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let not_a_file = || io::Error::new(io::ErrorKind::InvalidInput, "it is no file");
    if !fs::metadata(path)?.is_file() {
        return Err(not_a_file());
    }
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(not_a_file());
    }
    let mut bytes = Vec::new();
    file.take(CASE_FILE_MAX_BYTES + 1).read_to_end(&mut bytes)?;
    let fits = u64::try_from(bytes.len()).is_ok_and(|length| length <= CASE_FILE_MAX_BYTES);
    Ok(fits.then_some(bytes))
}

/// The cases in a file's bytes, or every mistake.
pub(super) fn parse_cases(format: CaseFormat, bytes: &[u8]) -> Result<CaseList, Vec<CaseMistake>> {
    let mut reading = Reading::default();
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    match format {
        CaseFormat::Csv => csv_rows::read(&mut reading, bytes),
        CaseFormat::JsonLines => json_rows::read(&mut reading, bytes),
    }
    reading.finish()
}

/// The cases so far, and what is wrong with them.
#[derive(Default)]
struct Reading {
    names: Vec<String>,
    /// Where each name stands among them.
    positions: HashMap<String, usize>,
    rows: Vec<Vec<SpecValue>>,
    merged: u64,
    /// Hashes of the rows so far: 128 bits, so that no two rows of any file share one by chance.
    seen: HashSet<[u8; 16]>,
    mistakes: Vec<CaseMistake>,
}

impl Reading {
    fn mistake(&mut self, line: u64, message: String) {
        self.mistake_with(line, message, None);
    }

    fn mistake_with(&mut self, line: u64, message: String, help: Option<&str>) {
        if !self.full() {
            self.mistakes.push(CaseMistake { line: Some(line), message, help: help.map(str::to_owned) });
        }
    }

    /// Whether to look for no more mistakes.
    fn full(&self) -> bool {
        self.mistakes.len() >= MISTAKES_MAX
    }

    /// The params' names, in the order of the file.
    fn header(&mut self, line: u64, names: Vec<String>) {
        let mut seen = BTreeSet::new();
        for name in &names {
            if name.is_empty() {
                self.mistake(line, "a param without a name".to_owned());
            } else if BUILTIN_PLACEHOLDERS.contains(&name.as_str()) {
                let help = Some("it is piton's own placeholder; choose another name");
                self.mistake_with(line, format!("a param cannot be called {}", shown(name)), help);
            } else if !is_name(name) {
                let help = Some("a letter or `_`, then letters, digits or `_`");
                self.mistake_with(line, format!("{} is no name for a param", shown(name)), help);
            } else if !seen.insert(name) {
                self.mistake(line, format!("the param {} is there twice", shown(name)));
            }
        }
        self.positions = names.iter().cloned().zip(0..).collect();
        self.names = names;
    }

    /// A row's values, in the order of the names.
    fn row(&mut self, values: Vec<SpecValue>) {
        let mut hasher = blake3::Hasher::new();
        for value in &values {
            let (kind, text) = identity(&value.0);
            hasher.update(&[kind]).update(&text.len().to_le_bytes()).update(text.as_bytes());
        }
        let mut key = [0; 16];
        hasher.finalize_xof().fill(&mut key);
        if self.seen.insert(key) {
            self.rows.push(values);
        } else {
            self.merged += 1;
        }
    }

    fn finish(mut self) -> Result<CaseList, Vec<CaseMistake>> {
        if self.mistakes.is_empty() && self.rows.is_empty() {
            self.mistakes.push(CaseMistake::of_file("the file lists no case".to_owned()));
        }
        if self.mistakes.is_empty() {
            Ok(CaseList { names: self.names, rows: self.rows, merged: self.merged })
        } else {
            Err(self.mistakes)
        }
    }
}

impl Spec {
    /// Reads the files of cases that are not read yet, relative to `study_dir`, and checks what could not be checked
    /// before: whether every placeholder has a param. [`parse_study`](super::parse_study) has done all of it.
    ///
    /// # Errors
    /// Every mistake; the spec is as it was then.
    pub fn load_cases(&mut self, study_dir: &Path) -> Result<(), Diagnostics> {
        let unread = |stage: &StageSpec| matches!(stage.sampling, Sampling::File(CaseFile { cases: None, .. }));
        if !self.stages.iter().any(unread) {
            return Ok(());
        }
        let mut found = Vec::new();
        let mut loaded = self.clone();
        for stage in &mut loaded.stages {
            let place = Place { span: None, path: format!("stage {:?}.sampling", stage.name) };
            let Sampling::File(file @ CaseFile { cases: None, .. }) = &mut stage.sampling else { continue };
            match read_cases(study_dir, &file.path) {
                Ok(cases) => file.cases = Some(cases),
                Err(mistakes) => found.extend(mistakes.into_iter().map(|m| m.diagnostic(&file.path, &place))),
            }
        }
        if found.is_empty() {
            found = loaded.unknown_placeholders();
        }
        if !found.is_empty() {
            return Err(Diagnostics::new("", "", found));
        }
        *self = loaded;
        Ok(())
    }

    fn unknown_placeholders(&self) -> Vec<Diagnostic> {
        let mut known: BTreeSet<&str> = self.params.keys().map(String::as_str).collect();
        let mut found = Vec::new();
        for stage in &self.stages {
            known.extend(swept_names(stage));
            for name in templates(&stage.work).iter().flat_map(|template| &template.parts) {
                let Part::Param(name) = name else { continue };
                if !known.contains(name.as_str()) {
                    let place = Place { span: None, path: format!("stage {:?}.command", stage.name) };
                    let valid: Vec<&str> = known.iter().copied().chain(BUILTIN_PLACEHOLDERS).collect();
                    let mistake = Diagnostic::at(&place, format!("no param is called {}", shown(name)));
                    found.push(mistake.maybe_help(names_help("placeholders", name, &valid)));
                }
            }
        }
        found
    }
}

fn templates(work: &Work) -> &[Template] {
    match work {
        Work::Argv(words) => words,
        Work::Shell(line) => std::slice::from_ref(line),
        Work::Closure => &[],
    }
}

fn swept_names(stage: &StageSpec) -> Vec<&str> {
    match &stage.sampling {
        Sampling::File(CaseFile { cases: Some(cases), .. }) => cases.names.iter().map(String::as_str).collect(),
        _ => stage.sweep.iter().map(|swept| swept.name.as_str()).collect(),
    }
}

#[cfg(test)]
mod tests;
