//! Cases listed in a file: `sampling = { file = "cases.csv" }`.
//!
//! A table with a header line (CSV) or one flat JSON object a line (JSON Lines). The file is read once, when its study
//! is made, and its cases are kept in the spec: a later change of it is a change of the spec. All its mistakes are
//! reported at once, each with its first lines. Any bytes may come in; reading must never panic, never take a row in
//! part, and never give a trial another text than the file has.

mod csv_rows;
mod json_rows;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::check::identity;
use super::diagnostics::{Diagnostic, Diagnostics, Location, names_help, shown};
use super::stage::StageSpec;
use super::template::{BUILTIN_PLACEHOLDERS, is_name};
use super::types::{CaseFile, CaseList, Part, Sampling, Spec, SpecValue, Template, Values, Work};
use crate::model::Value;
use crate::model::json::without_bom;
use crate::model::words::counted;
use crate::sys::words::io_words;

/// Largest file of cases that is read.
pub(super) const CASE_FILE_MAX_BYTES: u64 = 16 << 20;

/// All cases of a spec together take at most this in its JSON: a store keeps that in one record.
const CASES_JSON_MAX_BYTES: usize = 24 << 20;

/// More mistakes than this are not looked for.
const MISTAKES_MAX: usize = 1_000;

/// What neither a command nor the environment can hold.
const HAS_NUL: &str = "has a NUL character, which cannot be passed on";

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
    pub(super) fn of(path: &str) -> Option<Self> {
        let (_, ending) = path.rsplit_once('.')?;
        match ending.to_ascii_lowercase().as_str() {
            "csv" => Some(Self::Csv),
            "jsonl" | "ndjson" => Some(Self::JsonLines),
            _ => None,
        }
    }
}

/// What is wrong with a file of cases: each mistake once, however many lines have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CaseMistake {
    /// The first line, from 1; `None`: the file itself is at fault.
    pub line: Option<u64>,
    /// Where in that line, bytes from 1.
    pub column: Option<usize>,
    pub message: String,
    pub help: Option<String>,
    /// The next lines with the same mistake; not all of them.
    pub also: Vec<u64>,
    /// How many more there are.
    pub more: u64,
}

/// So many further lines are named of each mistake.
const ALSO_MAX: usize = 2;

impl CaseMistake {
    fn of_file(message: String) -> Self {
        Self { line: None, column: None, message, help: None, also: Vec::new(), more: 0 }
    }

    fn again(&mut self, line: u64) {
        if self.also.len() < ALSO_MAX {
            self.also.push(line);
        } else {
            self.more = self.more.saturating_add(1);
        }
    }

    /// The mistake with all lines that have it, in words.
    pub(super) fn words(&self) -> String {
        let mut lines: Vec<String> = self.also.iter().map(u64::to_string).collect();
        if self.more > 0 {
            lines.push(format!("{} more", self.more));
        }
        let lines = match lines.split_last() {
            None => return self.message.clone(),
            Some((one, [])) => format!("line {one}"),
            Some((last, others)) => format!("lines {} and {last}", others.join(", ")),
        };
        format!("{} (also in {lines})", self.message)
    }

    /// As people see it: a line by its number, the file where it is named, which is `place`.
    pub(super) fn diagnostic(self, path: &str, place: &Location) -> Diagnostic {
        let words = self.words();
        let diagnostic = match self.line {
            Some(line) => {
                let column = self.column.map_or_else(String::new, |column| format!(":{column}"));
                Diagnostic::at(&Location { span: None, path: format!("{path}:{line}{column}") }, words)
            }
            None => Diagnostic::at(place, words).label("this file"),
        };
        diagnostic.maybe_help(self.help)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct ReadCases {
    pub list: CaseList,
    pub gaps: Gaps,
}

/// The params that some cases of a file have no value for.
pub(super) type Gaps = BTreeMap<String, Gap>;

/// Cases without a value for a param.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    /// Where the first one stands: `cases.csv:7`.
    pub place: String,
    /// How many.
    pub cases: u64,
}

impl Gap {
    /// A command asks for what a case may not have.
    pub(super) fn mistake(&self, name: &str, who: &str) -> Diagnostic {
        let place = Location { span: None, path: self.place.clone() };
        let more = match self.cases.saturating_sub(1) {
            0 => String::new(),
            more => format!(", nor in {}", counted(more, "more case")),
        };
        let message = format!("{} has no value here{more}, and {who} asks for it", shown(name));
        Diagnostic::at(&place, message).help(format!("for cases without one write `{name} = …` in `[params]`"))
    }
}

/// Reads a file of cases; what is known of it from before does not count.
pub(super) fn read_cases(
    study_dir: &Path,
    file: &CaseFile,
    values: Values,
) -> Result<ReadCases, Vec<CaseMistake>> {
    let failed = |why: String| vec![CaseMistake::of_file(format!("cannot read {}: {why}", shown(&file.path)))];
    let bytes = read_bounded(&study_dir.join(&file.path)).map_err(|error| failed(io_words(&error)))?;
    let Some(bytes) = bytes else {
        return Err(failed(format!("it has more than {} MiB", CASE_FILE_MAX_BYTES >> 20)));
    };
    let read = parse_cases(CaseFormat::of(&file.path).unwrap_or(CaseFormat::Csv), &bytes, file, values)?;
    let size = serde_json::to_string(&read.list).map_or(usize::MAX, |text| text.len());
    if size > CASES_JSON_MAX_BYTES {
        return Err(failed(format!("its cases take more than {} MiB", CASES_JSON_MAX_BYTES >> 20)));
    }
    Ok(read)
}

/// Reads bytes as a file of cases, for fuzzing: there are cases, or there is a mistake. What is read is what is written.
#[doc(hidden)]
pub fn fuzz_cases(is_json: bool, bytes: &[u8]) {
    let format = if is_json { CaseFormat::JsonLines } else { CaseFormat::Csv };
    let file = CaseFile { path: String::new(), rename: BTreeMap::new(), cases: None };
    for values in [Values::Exact, Values::Before] {
        if let Err(mistakes) = parse_cases(format, bytes, &file, values) {
            assert!(!mistakes.is_empty() && mistakes.iter().all(|mistake| !mistake.message.is_empty()));
        }
    }
}

/// A file's bytes; `None` if it is too large. Opening does not wait for a pipe's other end.
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
pub(super) fn parse_cases(
    format: CaseFormat,
    bytes: &[u8],
    file: &CaseFile,
    values: Values,
) -> Result<ReadCases, Vec<CaseMistake>> {
    let mut reading = Reading::of(file, values);
    let bytes = without_bom(bytes);
    match format {
        CaseFormat::Csv => csv_rows::read(&mut reading, bytes),
        CaseFormat::JsonLines => json_rows::read(&mut reading, bytes),
    }
    reading.finish()
}

/// Columns of a file of results, at most.
const RESULT_COLUMNS_MAX: usize = 1_000;

/// A file of results: its columns as it names them, its rows with their lines, and the blake3 of all of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ResultRows {
    /// The columns, in order.
    pub names: Vec<String>,
    /// The rows with their lines, from 1; a value that is not there is none.
    pub rows: Vec<(u64, Vec<Option<SpecValue>>)>,
    /// Of the file's bytes.
    pub blake3: [u8; 32],
}

/// Reads a file of results, as files of cases are read. `measures` says which columns are read as metrics are: a number may be written in
/// any way there.
///
/// # Errors
/// Every mistake in it.
pub(crate) fn read_results(path: &Path, measures: &dyn Fn(&str) -> bool) -> Result<ResultRows, Diagnostics> {
    let name = path.display().to_string();
    let place = Location { span: None, path: name.clone() };
    let refused = |mistakes: Vec<CaseMistake>| {
        let found = mistakes.into_iter().map(|mistake| mistake.diagnostic(&name, &place)).collect();
        Diagnostics::new("", "", found)
    };
    let failed = |why: String| refused(vec![CaseMistake::of_file(format!("cannot read {}: {why}", shown(&name)))]);
    let bytes = read_bounded(path).map_err(|error| failed(io_words(&error)))?;
    let bytes = bytes.ok_or_else(|| failed(format!("it has more than {} MiB", CASE_FILE_MAX_BYTES >> 20)))?;
    results_in(&name, &bytes, measures).map_err(refused)
}

fn results_in(name: &str, bytes: &[u8], measures: &dyn Fn(&str) -> bool) -> Result<ResultRows, Vec<CaseMistake>> {
    let file = CaseFile { path: name.to_owned(), rename: BTreeMap::new(), cases: None };
    let mut reading = Reading { results: Some(measures), ..Reading::of(&file, Values::Exact) };
    let text = without_bom(bytes);
    match CaseFormat::of(name).unwrap_or(CaseFormat::Csv) {
        CaseFormat::Csv => csv_rows::read(&mut reading, text),
        CaseFormat::JsonLines => json_rows::read(&mut reading, text),
    }
    if !reading.mistakes.is_empty() {
        return Err(reading.mistakes);
    }
    let rows = reading.lines.into_iter().zip(reading.rows).collect();
    Ok(ResultRows { names: reading.names, rows, blake3: *blake3::hash(bytes).as_bytes() })
}

/// The cases so far, and what is wrong with them.
struct Reading<'f> {
    /// Where the file has results in place of cases: which of its columns are measured.
    results: Option<&'f dyn Fn(&str) -> bool>,
    /// Of results: the line of each row.
    lines: Vec<u64>,
    file: &'f CaseFile,
    values: Values,
    names: Vec<String>,
    /// Where each column's values stand among them; columns go by their names in the file.
    positions: HashMap<String, usize>,
    rows: Vec<Vec<Option<SpecValue>>>,
    gaps: Gaps,
    merged: u64,
    /// Hashes of the rows so far: 128 bits, so that no two rows of any file share one by chance.
    seen: HashSet<[u8; 16]>,
    mistakes: Vec<CaseMistake>,
    /// Where each mistake stands among them, by its message.
    known: HashMap<String, usize>,
}

impl<'f> Reading<'f> {
    fn of(file: &'f CaseFile, values: Values) -> Self {
        Self {
            results: None,
            lines: Vec::new(),
            file,
            values,
            names: Vec::new(),
            positions: HashMap::new(),
            rows: Vec::new(),
            gaps: Gaps::new(),
            merged: 0,
            seen: HashSet::new(),
            mistakes: Vec::new(),
            known: HashMap::new(),
        }
    }

    fn mistake(&mut self, line: u64, message: String) {
        self.mistake_with(line, message, None);
    }

    fn mistake_with(&mut self, line: u64, message: String, help: Option<&str>) {
        self.mistake_at((line, None), message, help);
    }

    fn mistake_at(&mut self, (line, column): (u64, Option<usize>), message: String, help: Option<&str>) {
        let known = self.known.get(&message).and_then(|place| self.mistakes.get_mut(*place));
        if let Some(known) = known {
            known.again(line);
        } else if !self.full() {
            self.known.insert(message.clone(), self.mistakes.len());
            let help = help.map(str::to_owned);
            self.mistakes.push(CaseMistake { line: Some(line), column, help, ..CaseMistake::of_file(message) });
        }
    }

    /// Whether to look for no more mistakes.
    fn full(&self) -> bool {
        self.mistakes.len() >= MISTAKES_MAX
    }

    /// The columns, in the order of the file.
    fn header(&mut self, line: u64, columns: &[String]) {
        if self.results.is_some() {
            return self.header_of_results(line, columns);
        }
        let file = self.file;
        let names: Vec<String> =
            columns.iter().map(|column| file.rename.get(column).unwrap_or(column).clone()).collect();
        for column in file.rename.keys().filter(|column| !columns.contains(column)) {
            let valid: Vec<&str> = columns.iter().map(String::as_str).collect();
            let help = names_help("columns", column, &valid);
            self.mistake_with(
                line,
                format!("no column is called {}, which `rename` names", shown(column)),
                help.as_deref(),
            );
        }
        let unfit = |name: &String| BUILTIN_PLACEHOLDERS.contains(&name.as_str()) || !is_name(name);
        let mut renaming = names.iter().any(unfit).then(|| self.renaming(columns, unfit));
        let mut seen = BTreeSet::new();
        for name in &names {
            let message = if name.is_empty() {
                "a param without a name".to_owned()
            } else if BUILTIN_PLACEHOLDERS.contains(&name.as_str()) {
                format!("a param cannot be called {}, which is piton's own placeholder", shown(name))
            } else if !is_name(name) {
                format!("{} is no name for a param", shown(name))
            } else if seen.insert(name) {
                continue;
            } else {
                self.mistake(line, format!("the param {} is there twice", shown(name)));
                continue;
            };
            self.mistake_with(line, message, renaming.take().as_deref());
        }
        self.positions = columns.iter().cloned().zip(0..).collect();
        self.names = names;
    }

    /// The columns of a file of results: what each is its reader decides.
    fn header_of_results(&mut self, line: u64, columns: &[String]) {
        if columns.len() > RESULT_COLUMNS_MAX {
            return self.mistake(line, format!("{} columns: more than {RESULT_COLUMNS_MAX}", columns.len()));
        }
        let mut seen = BTreeSet::new();
        for column in columns {
            if column.is_empty() {
                self.mistake(line, "a column without a name".to_owned());
            } else if !seen.insert(column) {
                self.mistake(line, format!("the column {} is there twice", shown(column)));
            }
        }
        self.positions = columns.iter().cloned().zip(0..).collect();
        self.names = columns.to_vec();
    }

    /// Whether the values of a column are measured, and so read as metrics are.
    fn measures(&self, position: usize) -> bool {
        self.results.zip(self.names.get(position)).is_some_and(|(measures, name)| measures(name))
    }

    /// What to write so that every column is a param.
    fn renaming(&self, columns: &[String], unfit: impl Fn(&String) -> bool) -> String {
        let mut rename = self.file.rename.clone();
        let mut taken: BTreeSet<String> = columns.iter().filter(|column| !unfit(column)).cloned().collect();
        for (column, number) in columns.iter().zip(1_u64..) {
            if !unfit(rename.get(column).unwrap_or(column)) {
                continue;
            }
            let mut name = name_for(column, number);
            while !taken.insert(name.clone()) {
                name.push('_');
            }
            rename.insert(column.clone(), name);
        }
        let quoted = |text: &str| serde_json::to_string(text).unwrap_or_default();
        let pairs: Vec<String> =
            rename.iter().map(|(column, name)| format!("{} = {}", quoted(column), quoted(name))).collect();
        let path = quoted(&self.file.path);
        format!(
            "a name is a letter or `_`, then letters, digits or `_`: change the file, or write sampling = {{ file = {path}, rename = {{ {} }} }}",
            pairs.join(", ")
        )
    }

    /// A row's values, in the order of the names.
    fn row(&mut self, line: u64, values: Vec<Option<SpecValue>>) {
        if self.results.is_some() {
            self.rows.push(values);
            return self.lines.push(line);
        }
        let mut hasher = blake3::Hasher::new();
        for value in &values {
            let (kind, text) = self.identity(value.as_ref());
            hasher.update(&[kind]).update(&text.len().to_le_bytes()).update(text.as_bytes());
        }
        let mut key = [0; 16];
        hasher.finalize_xof().fill(&mut key);
        if !self.seen.insert(key) {
            self.merged += 1;
            return;
        }
        for (name, _) in self.names.iter().zip(&values).filter(|(_, value)| value.is_none()) {
            let place = || Gap { place: format!("{}:{line}", self.file.path), cases: 0 };
            self.gaps.entry(name.clone()).or_insert_with(place).cases += 1;
        }
        self.rows.push(values);
    }

    /// Equal for values that are the same to a trial.
    fn identity(&self, value: Option<&SpecValue>) -> (u8, String) {
        match (value, self.values) {
            (None, _) => (u8::MAX, String::new()),
            (Some(value), Values::Before) => identity(&value.0),
            (Some(SpecValue(value)), Values::Exact) => {
                let kind = match value {
                    Value::Str(_) => 0,
                    Value::Bool(_) => 1,
                    Value::Int(_) | Value::Float(_) => 2,
                };
                (kind, value.to_string())
            }
        }
    }

    fn finish(mut self) -> Result<ReadCases, Vec<CaseMistake>> {
        if self.mistakes.is_empty() && self.rows.is_empty() {
            self.mistakes.push(CaseMistake::of_file("the file lists no case".to_owned()));
        }
        if self.mistakes.is_empty() {
            let list = CaseList { names: self.names, rows: self.rows, merged: self.merged };
            Ok(ReadCases { list, gaps: self.gaps })
        } else {
            Err(self.mistakes)
        }
    }
}

/// A name that looks like a column's: `temp (K)` gives `temp_K`. `number` is the column's, from 1.
fn name_for(column: &str, number: u64) -> String {
    let words = column.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let name = words.collect::<Vec<_>>().join("_");
    if name.is_empty() {
        format!("column_{number}")
    } else if is_name(&name) && !BUILTIN_PLACEHOLDERS.contains(&name.as_str()) {
        name
    } else {
        format!("_{name}")
    }
}

impl Spec {
    /// Reads the files of cases that are not read yet, relative to `study_dir`, and checks what could not be checked
    /// before: whether every placeholder has a param. [`parse_study`](super::parse_study) has done all of it.
    ///
    /// # Errors
    /// Every mistake; the spec is as it was then.
    pub(crate) fn load_cases(&mut self, study_dir: &Path) -> Result<(), Diagnostics> {
        let unread = |stage: &StageSpec| matches!(stage.sampling, Sampling::File(CaseFile { cases: None, .. }));
        if !self.stages.iter().any(unread) {
            return Ok(());
        }
        let mut found = Vec::new();
        let mut loaded = self.clone();
        let mut gaps = Vec::with_capacity(loaded.stages.len());
        for stage in &mut loaded.stages {
            let place = Location { span: None, path: format!("stage {:?}.sampling", stage.name) };
            let Sampling::File(file @ CaseFile { cases: None, .. }) = &mut stage.sampling else {
                gaps.push(Gaps::new());
                continue;
            };
            match read_cases(study_dir, file, self.values) {
                Ok(read) => {
                    file.cases = Some(read.list);
                    gaps.push(read.gaps);
                }
                Err(mistakes) => found.extend(mistakes.into_iter().map(|m| m.diagnostic(&file.path, &place))),
            }
        }
        if found.is_empty() {
            found = loaded.unknown_placeholders(gaps);
        }
        if !found.is_empty() {
            return Err(Diagnostics::new("", "", found));
        }
        *self = loaded;
        Ok(())
    }

    fn unknown_placeholders(&self, gaps: Vec<Gaps>) -> Vec<Diagnostic> {
        let mut known = KnownParams::new(self.params.keys().cloned());
        let mut found = Vec::new();
        for (stage, gaps) in self.stages.iter().zip(gaps) {
            known.add(own_names(stage), &gaps);
            for name in templates(&stage.work).iter().flat_map(|template| &template.parts) {
                let Part::Param(name) = name else { continue };
                let place = Location { span: None, path: format!("stage {:?}.command", stage.name) };
                found.extend(known.unknown(name, &place, &stage.name));
            }
        }
        found
    }
}

/// Which params the cases of a stage have.
pub(super) struct KnownParams {
    /// Every case has them.
    all: BTreeSet<String>,
    /// Some cases of a file have no value for them.
    some: Gaps,
}

impl KnownParams {
    pub(super) fn new(constants: impl IntoIterator<Item = String>) -> Self {
        Self { all: constants.into_iter().collect(), some: Gaps::new() }
    }

    /// The next stage sweeps these.
    pub(super) fn add<'a>(&mut self, swept: impl IntoIterator<Item = &'a str>, gaps: &Gaps) {
        for name in swept {
            match gaps.get(name) {
                Some(_) if self.all.contains(name) => {}
                Some(gap) => drop(self.some.insert(name.to_owned(), gap.clone())),
                None => {
                    self.some.remove(name);
                    self.all.insert(name.to_owned());
                }
            }
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.all.contains(name) || self.some.contains_key(name)
    }

    /// Those that any case has.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.all.iter().chain(self.some.keys()).map(String::as_str)
    }

    /// What is wrong with a command that asks for a param.
    pub(super) fn unknown(&self, name: &str, place: &Location, stage: &str) -> Option<Diagnostic> {
        if self.all.contains(name) {
            return None;
        }
        if let Some(gap) = self.some.get(name) {
            return Some(gap.mistake(name, &format!("the command of stage {}", shown(stage))));
        }
        let valid: Vec<&str> = self.names().chain(BUILTIN_PLACEHOLDERS).collect();
        let mistake = Diagnostic::at(place, format!("no param is called {}", shown(name))).label("no such param");
        Some(mistake.maybe_help(names_help("placeholders", name, &valid)).absence())
    }
}

fn templates(work: &Work) -> &[Template] {
    match work {
        Work::Argv(words) => words,
        Work::Shell(line) => std::slice::from_ref(line),
        Work::Closure => &[],
    }
}

/// The params that a stage itself gives its cases: those of its sweep, or of its file of cases.
#[must_use]
pub(crate) fn own_names(stage: &StageSpec) -> Vec<&str> {
    match &stage.sampling {
        Sampling::File(CaseFile { cases: Some(cases), .. }) => cases.names.iter().map(String::as_str).collect(),
        _ => stage.sweep.iter().map(|swept| swept.name.as_str()).collect(),
    }
}

#[cfg(test)]
mod tests;
