//! The directory of an attempt that has ended, and the only door to what lies in it.
//!
//! The trial may have done anything to it: nothing is opened through a link that leads out.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::attempt_dir::{Grounds, Way};
use crate::executor::Job;
use crate::sys::opened::Opened;
use crate::sys::tree_hash::errno_of;
use crate::sys::words::io_words;

/// An attempt's directory after the attempt; the trial may have removed it.
pub(crate) struct EndedAttemptDir {
    dir: Result<Arc<Opened>, &'static str>,
    case: Option<Arc<Opened>>,
}

impl EndedAttemptDir {
    /// What is at the place where the attempt's directory was made.
    ///
    /// # Errors
    /// Why the place itself cannot be reached: no trial is to blame for what lies above its directory.
    pub(crate) fn of(grounds: &Grounds, job: &Job) -> Result<Self, String> {
        let way = Way::to(&job.dir, job);
        let failed = |error: io::Error| {
            format!("cannot open the attempt's directory `{}`: {}", job.dir.display(), io_words(&error))
        };
        // The last two are the case's and the attempt's own: what became of them is the trial's doing.
        let own = way.names.len().saturating_sub(1).min(2);
        let shared = Way {
            names: way.names.iter().take(way.names.len().saturating_sub(own)).cloned().collect(),
            ..way.clone()
        };
        let mut dir = match grounds.open(&shared) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::gone(None)),
            other => other.map_err(failed)?,
        };
        let mut above = None;
        for name in way.names.iter().skip(shared.names.len()) {
            let entered = dir.enter(name);
            let entered =
                entered.or_else(|error| if_let_in(error, || dir.let_owner_in_at(name), || dir.enter(name)));
            dir = match entered {
                Ok(entered) => {
                    above = Some(dir);
                    Arc::new(entered)
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::NotFound => return Ok(Self::gone(Some(dir))),
                    io::ErrorKind::NotADirectory => {
                        let why = "something else lies in the place of the attempt's directory";
                        return Ok(Self { dir: Err(why), case: Some(dir) });
                    }
                    _ => return Err(failed(error)),
                },
            };
        }
        Ok(Self { dir: Ok(dir), case: above })
    }

    /// One that is not there any more.
    fn gone(case: Option<Arc<Opened>>) -> Self {
        Self { dir: Err("the attempt's directory is gone"), case }
    }

    /// One that was made just now, and in which no trial ran.
    pub(super) const fn made(dir: Arc<Opened>) -> Self {
        Self { dir: Ok(dir), case: None }
    }

    /// A directory that was never made, in its case's, which was.
    pub(super) fn only_case(grounds: &Grounds, job: &Job) -> Result<Self, String> {
        let way = Way::to(&job.dir, job).above();
        let case = grounds.open(&way).map(Some).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::Unsupported => Ok(None),
            _ => Err(format!("cannot open the case's directory `{}`: {}", way.path().display(), io_words(&error))),
        });
        Ok(Self { case: case?, ..Self::none() })
    }

    pub(super) fn case(&self) -> Option<&Opened> {
        self.case.as_deref()
    }

    /// The same, to keep.
    pub(super) fn into_case(self) -> Option<Arc<Opened>> {
        self.case
    }

    /// A directory that was never made, or is not this attempt's.
    pub(crate) const fn none() -> Self {
        Self { dir: Err("the attempt has no directory"), case: None }
    }

    pub(super) fn dir(&self) -> Option<&Opened> {
        self.dir.as_deref().ok()
    }

    /// Opens what is in it, through links that stay in it; nothing leads out.
    pub(super) fn open(&self, name: &str) -> io::Result<Opened> {
        self.find(name).map(|(file, _)| file)
    }

    /// What a directory holds, wherever it is.
    pub(super) fn in_dir(dir: &Path) -> Self {
        Self { dir: Opened::dir(dir).map(Arc::new).map_err(|_| "the directory is gone"), case: None }
    }

    /// Opens what is in it by its path without links.
    pub(super) fn open_real(&self, path: &Path) -> io::Result<Opened> {
        self.look(|dir| dir.open(path))
    }

    /// Likewise, with the directories in it whose entries lead there, innermost first.
    pub(super) fn find(&self, name: &str) -> io::Result<(Opened, Vec<PathBuf>)> {
        let (real, way) = self.look(|dir| dir.resolve(Path::new(name)))?;
        Ok((self.open_real(&real)?, way))
    }

    /// Looks at what the attempt left. What it forbade its own user to read is read nevertheless.
    pub(super) fn look<T>(&self, look: impl Fn(&Opened) -> io::Result<T>) -> io::Result<T> {
        match &self.dir {
            Ok(dir) => look(dir).or_else(|error| if_let_in(error, || dir.let_owner_in(), || look(dir))),
            Err(why) => Err(io::Error::new(io::ErrorKind::NotFound, *why)),
        }
    }
}

/// Where permission is all that lacked, gives it and asks again.
fn if_let_in<T>(
    error: io::Error,
    let_in: impl FnOnce() -> io::Result<()>,
    again: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    match errno_of(&error) {
        // Who cannot give it says what lacked.
        Some(libc::EACCES) => let_in().or(Err(error)).and_then(|()| again()),
        _ => Err(error),
    }
}
