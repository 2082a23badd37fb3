//! What is left out of an input directory: what tools leave behind, what piton itself writes, and what the study says.
//!
//! Nothing is ever left out that the study names by itself. It must never leave out what a trial could be meant to read.

use std::collections::HashSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use globset::{GlobBuilder, GlobMatcher, GlobSet, GlobSetBuilder};

/// Names that are left out wherever they lie below an input directory, unless the study names them.
pub(super) const LEAVINGS: &[&str] = &[
    // Caches of interpreters and their tools.
    "__pycache__",
    "*.pyc",
    "*.pyo",
    ".pytest_cache",
    ".mypy_cache",
    ".ruff_cache",
    ".ipynb_checkpoints",
    // What version control keeps about the files.
    ".git",
    ".hg",
    ".svn",
    // Backups, swap and lock files of editors; of file managers; of file systems.
    "*~",
    ".*.sw[a-p]",
    ".#*",
    "#*#",
    ".~lock.*#",
    ".DS_Store",
    "Thumbs.db",
    ".nfs*",
    ".fuse_hidden*",
    // Stores of any study, what lies beside them, and unfinished exports.
    "*.redb",
    "*.redb.reserve",
    "*.redb.stop",
    "*.redb.*.new",
    ".*.piton-tmp",
];

/// [`LEAVINGS`], made ready to match once: that costs more than a look at a study without inputs.
static IS_LEAVING: LazyLock<GlobSet> = LazyLock::new(|| {
    let globs = LEAVINGS.iter().filter_map(|name| GlobBuilder::new(name).literal_separator(true).build().ok());
    globs.fold(&mut GlobSetBuilder::new(), GlobSetBuilder::add).build().unwrap_or_default()
});

/// The file by which an artifacts directory of any study is known.
const CLAIM_FILE: &str = ".piton-study.json";

/// A pattern of `inputs_ignore`, ready to match.
///
/// Without a slash it matches names at any depth. With one it matches paths from the study file's directory, as `inputs`
/// are written, or absolute ones. With a slash at its end it matches directories alone. Whatever lies in a directory that
/// matches is left out along.
#[derive(Clone, Debug)]
struct Pattern {
    matcher: GlobMatcher,
    of_names: bool,
    of_directories: bool,
}

impl Pattern {
    fn new(text: &str) -> Result<Self, globset::Error> {
        let (body, of_directories) = match text.strip_suffix('/') {
            Some(body) => (body, true),
            None => (text, false),
        };
        let mut body = body;
        while let Some(rest) = body.strip_prefix("./") {
            body = rest;
        }
        let matcher = GlobBuilder::new(body).literal_separator(true).build()?.compile_matcher();
        Ok(Self { matcher, of_names: !body.contains('/'), of_directories })
    }

    fn matches(&self, entry: &Entry<'_>) -> bool {
        if self.of_directories && !entry.is_dir {
            return false;
        }
        match self.of_names {
            true => entry.shown.file_name().is_some_and(|name| self.matcher.is_match(name)),
            false => self.matcher.is_match(entry.shown) || self.matcher.is_match(entry.path),
        }
    }
}

/// Why a text is no pattern; `None`: it is one.
#[must_use]
pub(crate) fn pattern_mistake(text: &str) -> Option<String> {
    if text.starts_with('!') {
        return Some("what is left out cannot be taken back in: name it in `inputs`".to_owned());
    }
    Pattern::new(text).err().map(|error| error.kind().to_string())
}

/// Something met below an input directory.
pub(super) struct Entry<'a> {
    /// As the study would name it.
    pub(super) shown: &'a Path,
    pub(super) path: &'a Path,
    pub(super) is_dir: bool,
    /// Its device and inode.
    pub(super) key: (u64, u64),
}

/// What is left out of a study's input directories.
#[derive(Clone, Debug)]
pub(super) struct Leave {
    patterns: Vec<Pattern>,
    /// Files and directories of the study itself.
    own: Vec<PathBuf>,
}

impl Leave {
    pub(super) fn new(patterns: &[String], own: Vec<PathBuf>) -> Self {
        // Those that are none are refused when the study file is checked.
        Self { patterns: patterns.iter().filter_map(|text| Pattern::new(text).ok()).collect(), own }
    }

    /// For the input named `shown`, which is at `path`: one that is itself a leaving, or lies in one, counts with all that
    /// is in it; one that is an artifacts directory, or lies in one, with all such directories in it.
    pub(super) fn below(&self, shown: &Path, path: &Path, study_dir: &Path) -> LeaveBelow<'_> {
        let is_leaving = shown.iter().any(|part| IS_LEAVING.is_match(part));
        let key = |path: &PathBuf| fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
        let own: HashSet<_> = self.own.iter().filter_map(key).collect();
        let is_own = key(&path.to_owned()).is_some_and(|key| own.contains(&key));
        let names_artifacts = !is_own && lies_in_artifacts(path, study_dir);
        LeaveBelow {
            leave: self,
            with_leavings: !is_leaving,
            with_artifacts: !is_leaving && !names_artifacts,
            own,
        }
    }
}

/// What is left out of one input directory.
pub(super) struct LeaveBelow<'a> {
    leave: &'a Leave,
    /// Whether leavings are left out.
    with_leavings: bool,
    /// Whether artifacts of any study are.
    with_artifacts: bool,
    /// The study's own things, whatever path leads there.
    own: HashSet<(u64, u64)>,
}

impl LeaveBelow<'_> {
    pub(super) fn leaves(&self, entry: &Entry<'_>) -> bool {
        self.leave.patterns.iter().any(|pattern| pattern.matches(entry))
            || self.own.contains(&entry.key)
            || self.leave.own.iter().any(|own| own == entry.path)
            || (self.with_leavings && self.is_leaving(entry))
            || (self.with_artifacts && entry.is_dir && is_artifacts(entry.path))
    }

    fn is_leaving(&self, entry: &Entry<'_>) -> bool {
        entry.shown.file_name().is_some_and(|name| IS_LEAVING.is_match(Path::new(name)))
    }
}

/// Whether a path, links followed, is an artifacts directory of some study or in one. A study may lie in one itself, as those
/// do that a trial makes; then what is around it says nothing.
fn lies_in_artifacts(path: &Path, study_dir: &Path) -> bool {
    let Ok(real) = fs::canonicalize(path) else { return false };
    let around = fs::canonicalize(study_dir).unwrap_or_else(|_| study_dir.to_owned());
    real.ancestors().take_while(|dir| !around.starts_with(dir)).any(is_artifacts)
}

/// Whether a directory holds what trials of some study left: it is claimed by a study, or is an `artifacts` that has
/// directories which are.
fn is_artifacts(dir: &Path) -> bool {
    if dir.join(CLAIM_FILE).is_file() {
        return true;
    }
    dir.file_name().is_some_and(|name| name.as_bytes() == b"artifacts")
        && fs::read_dir(dir).is_ok_and(|entries| {
            entries.filter_map(Result::ok).any(|entry| entry.path().join(CLAIM_FILE).is_file())
        })
}
