//! What every section is given: how much is to be measured, and where.

use std::cell::Cell;
use std::path::PathBuf;

use tempfile::TempDir;

/// Any error, in words.
pub type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

/// How much is measured.
pub struct Scale {
    /// Counted repetitions.
    pub reps: usize,
    /// Trials of the large studies.
    pub large: u64,
    /// Trials of the largest study that is run in full.
    pub huge: Option<u64>,
}

/// Where and how much.
pub struct Bench {
    /// How much.
    pub scale: Scale,
    dir: TempDir,
    next: Cell<u32>,
}

impl Bench {
    /// Directories are made in `place`.
    pub fn new(scale: Scale, place: PathBuf) -> Fallible<Self> {
        Ok(Self { scale, dir: tempfile::tempdir_in(place)?, next: Cell::new(0) })
    }

    /// A new empty directory, gone at the end.
    pub fn dir(&self, name: &str) -> Fallible<PathBuf> {
        self.next.set(self.next.get() + 1);
        let dir = self.dir.path().join(format!("{:03}-{name}", self.next.get()));
        std::fs::create_dir(&dir)?;
        Ok(dir)
    }
}
