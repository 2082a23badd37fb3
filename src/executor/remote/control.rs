//! The control directory of one attempt on a cluster: how engine and job speak with each other, whatever happens to
//! either of them or to the cluster.
//!
//! It lies beside the artifacts, on a file system that the cluster's nodes share. Whoever makes `claim` first owns the
//! attempt: a job that finds it runs nothing, and the engine makes it itself to be sure that no job ever will. The last
//! thing a job does is to leave `exit.json`, whole and durable. Nothing here may be decided by what a cluster says of a
//! job, and an attempt's key is never used again.
//!
//! Only the study's user may look into it, for a job's file holds the study's environment. Trials are that user, too, so
//! whatever lies there may be theirs: a link, a FIFO, a file without an end. It is opened as an attempt's results are.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, fchmod, fstat, openat};
use serde::de::DeserializeOwned;

use super::wire::{Begun, Outcome, Task};
use crate::executor::AttemptKey;
use crate::model::{AttemptNo, StudyId, TrialId};
use crate::sys::files::{create_dir_all_durable, replace_atomically, sync_entry};
use crate::sys::opened::Below;
use crate::sys::temporary::Access;
use crate::sys::tree_hash::{kind_of, open_beneath, open_dir};

const TASK: &str = "job.json";
const CLAIM: &str = "claim";
const BEGUN: &str = "started.json";
const BEAT: &str = "beat";
const CANCEL: &str = "cancel";
const EXIT: &str = "exit.json";
/// What the job itself prints; next to nothing, unless it cannot start.
pub(super) const LOG: &str = "job.log";
/// In a batch's directory: the keys of its tasks, a line each.
pub(super) const BATCH_KEYS: &str = "keys";

/// Largest file that is read, bytes: a job's holds a stage of the spec and the trial's params, a result all it found.
const JSON_MAX: u64 = 64 << 20;
/// Largest list of a batch's keys, bytes; there are some hundred of some fifty bytes.
const KEYS_MAX: u64 = 1 << 20;
/// Largest sign of life, bytes.
const BEAT_MAX: u64 = 64;
/// Of what a job prints itself, so much of the end is read, bytes.
const LOG_END: u64 = 64 << 10;

/// Makes the directory of all of a study's control directories, closed to other users.
///
/// # Errors
/// What the file system says; a link in its place is refused.
pub(super) fn make_root(root: &Path) -> io::Result<()> {
    create_dir_all_durable(root)?;
    let dir = open_dir(root)?;
    if fstat(&dir)?.st_mode & 0o077 != 0 {
        fchmod(&dir, Mode::RWXU)?;
    }
    Ok(())
}

/// Opens a directory so many names below the study's artifacts, none of them through a link: trials may have put anything
/// there.
fn enter(dir: &Path, below: usize) -> io::Result<File> {
    let Some(study) = dir.ancestors().nth(below) else { return Err(ErrorKind::InvalidInput.into()) };
    let names = dir.strip_prefix(study).unwrap_or(dir);
    Below::root(study.into()).join(names).open()?.file()?.try_clone()
}

/// A control directory, or a batch's.
const OF_ATTEMPT: usize = 2;
/// The directory of them all.
const OF_ALL: usize = 1;

/// Opens a regular file in such a directory. `None`: there is none of this name.
fn open(dir: &Path, below: usize, name: &str) -> io::Result<Option<File>> {
    let file = match enter(dir, below).and_then(|dir| open_beneath(dir.as_fd(), Path::new(name))) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    match kind_of(&file)? {
        FileType::RegularFile => Ok(Some(file)),
        _ => Err(io::Error::new(ErrorKind::InvalidData, "is not a regular file")),
    }
}

/// All of it, if that is not more than `most` bytes.
fn read(dir: &Path, below: usize, name: &str, most: u64) -> io::Result<Option<Vec<u8>>> {
    let Some(file) = open(dir, below, name)? else { return Ok(None) };
    let mut bytes = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > most {
        true => Err(io::Error::new(ErrorKind::InvalidData, "is too large")),
        false => Ok(Some(bytes)),
    }
}

/// Whether a file in this directory holds these very bytes, and may be run.
pub(super) fn holds(dir: &Path, path: &Path, bytes: &[u8]) -> bool {
    let Some(name) = path.file_name().and_then(std::ffi::OsStr::to_str) else { return false };
    let runs = path.symlink_metadata().is_ok_and(|meta| meta.permissions().mode() & 0o500 == 0o500);
    runs && read(dir, OF_ALL, name, bytes.len() as u64).is_ok_and(|found| found.as_deref() == Some(bytes))
}

/// The keys that a batch's directory lists; `None`: it is none.
pub(super) fn batch_keys(dir: &Path) -> Option<Vec<String>> {
    let text = String::from_utf8(read(dir, OF_ATTEMPT, BATCH_KEYS, KEYS_MAX).ok()??).ok()?;
    Some(text.lines().map(str::to_owned).collect())
}

#[derive(Clone, Debug)]
pub(crate) struct Control {
    dir: PathBuf,
}

impl Control {
    /// An attempt's, below the study's directory for them.
    pub(super) fn of(root: &Path, key: &AttemptKey) -> Self {
        Self { dir: root.join(key.to_string()) }
    }

    /// The directory whose path a job was given.
    pub(crate) fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn log(&self) -> PathBuf {
        self.dir.join(LOG)
    }

    /// The end of what the job printed itself.
    pub(super) fn said(&self) -> io::Result<Vec<u8>> {
        let mut log = open(&self.dir, OF_ATTEMPT, LOG)?.ok_or(ErrorKind::NotFound)?;
        let end = log.metadata()?.len();
        log.seek(SeekFrom::Start(end.saturating_sub(LOG_END)))?;
        let mut said = Vec::new();
        log.take(LOG_END).read_to_end(&mut said)?;
        Ok(said)
    }

    /// Makes it, with what the job has to do. What is there already stays: a job may have begun.
    pub(super) fn prepare(&self, task: &Task) -> io::Result<()> {
        if open(&self.dir, OF_ATTEMPT, TASK).is_ok_and(|file| file.is_some()) {
            return Ok(());
        }
        create_dir_all_durable(&self.dir)?;
        // A link in its place would lead elsewhere.
        drop(enter(&self.dir, OF_ATTEMPT)?);
        self.write(TASK, task)
    }

    /// What the job has to do.
    pub(crate) fn task(&self) -> io::Result<Option<Task>> {
        self.read(TASK)
    }

    /// Makes the attempt the caller's; whether that came first.
    pub(crate) fn claim(&self) -> io::Result<bool> {
        drop(enter(&self.dir, OF_ATTEMPT)?);
        let claim = self.dir.join(CLAIM);
        match std::fs::create_dir(&claim) {
            Ok(()) => {
                sync_entry(&claim)?;
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes sure that no job will ever run the attempt; whether none does. Where nothing was prepared there is nothing
    /// that one could run.
    pub(super) fn take_back(&self) -> io::Result<bool> {
        match self.claim() {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
            other => other,
        }
    }

    pub(super) fn is_claimed(&self) -> io::Result<bool> {
        is_there(&self.dir.join(CLAIM))
    }

    /// Says that the job runs, and where.
    pub(crate) fn begin(&self, begun: &Begun) -> io::Result<()> {
        self.write(BEGUN, begun)
    }

    pub(super) fn begun(&self) -> Option<Begun> {
        self.read(BEGUN).ok().flatten()
    }

    /// A sign of life, another one each time.
    pub(crate) fn beat(&self, count: u64) -> io::Result<()> {
        self.write_over(BEAT, count.to_string().as_bytes())
    }

    /// The last sign of life.
    pub(super) fn last_beat(&self) -> Option<Vec<u8>> {
        read(&self.dir, OF_ATTEMPT, BEAT, BEAT_MAX).ok().flatten()
    }

    /// Asks the job to end its trial as a signal would.
    pub(super) fn cancel(&self) -> io::Result<()> {
        match self.write_over(CANCEL, b"") {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            // Whatever has the name says it, too.
            Err(_) if self.is_cancelled() => Ok(()),
            other => other,
        }
    }

    pub(super) fn is_cancelled(&self) -> bool {
        is_there(&self.dir.join(CANCEL)).unwrap_or(false)
    }

    /// Whether the job is to end its trial: it is asked to, or its attempt's end is recorded already.
    pub(crate) fn is_to_end(&self) -> bool {
        self.is_cancelled() || self.is_gone()
    }

    /// Whether it was removed, and not only the file system is away that it lies on.
    pub(crate) fn is_gone(&self) -> bool {
        let root_is_there = self.dir.parent().is_some_and(|root| is_there(root).unwrap_or(false));
        root_is_there && matches!(is_there(&self.dir.join(CLAIM)), Ok(false))
    }

    /// The job's last word.
    pub(crate) fn end(&self, outcome: &Outcome) -> io::Result<()> {
        self.write(EXIT, outcome)
    }

    /// It, if it was spoken.
    pub(super) fn outcome(&self) -> io::Result<Option<Outcome>> {
        self.read(EXIT)
    }

    /// Removes all of it: the attempt's end is recorded. What cannot be removed is harmless.
    pub(super) fn remove(&self) {
        if let Err(error) = std::fs::remove_dir_all(&self.dir)
            && error.kind() != ErrorKind::NotFound
        {
            log::warn!("cannot remove `{}`: {error}", self.dir.display());
        }
    }

    fn write(&self, name: &str, what: &impl serde::Serialize) -> io::Result<()> {
        drop(enter(&self.dir, OF_ATTEMPT)?);
        replace_atomically(&self.dir.join(name), Access::Own, |file| Ok(serde_json::to_writer(file, what)?))
    }

    /// Writes a small file as it comes: it is no record.
    fn write_over(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let how = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
        let safely = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let mut file =
            File::from(openat(enter(&self.dir, OF_ATTEMPT)?, name, how | safely, Mode::RUSR | Mode::WUSR)?);
        file.write_all(bytes)
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> io::Result<Option<T>> {
        read(&self.dir, OF_ATTEMPT, name, JSON_MAX)?.map(|text| Ok(serde_json::from_slice(&text)?)).transpose()
    }
}

/// Whether something has this name, also a link that leads nowhere.
fn is_there(path: &Path) -> io::Result<bool> {
    match path.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes the control directories of attempts that do not run any more, and of batches of such: their ends are recorded.
pub(super) fn remove_others(root: &Path, study: StudyId, left: &[(TrialId, AttemptNo)]) {
    let Ok(entries) = std::fs::read_dir(root) else { return };
    let left: HashSet<(TrialId, AttemptNo)> = left.iter().copied().collect();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let over = |key: AttemptKey| key.study == study && !left.contains(&(key.trial, key.attempt));
        let keys = match name.to_str().and_then(AttemptKey::parse) {
            Some(key) => vec![Some(key)],
            // Of a batch, all its tasks count.
            None => match batch_keys(&entry.path()) {
                Some(keys) => keys.iter().map(|key| AttemptKey::parse(key)).collect(),
                None => continue,
            },
        };
        if keys.into_iter().all(|key| key.is_some_and(over)) {
            Control::at(&entry.path()).remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::symlink;

    use super::*;

    fn control(dir: &Path) -> Control {
        let control = Control { dir: dir.join("attempt") };
        std::fs::create_dir(control.dir()).unwrap();
        control
    }

    fn fifo(path: &Path) {
        rustix::fs::mkfifoat(rustix::fs::CWD, path, Mode::RUSR | Mode::WUSR).unwrap();
    }

    fn begun() -> Begun {
        Begun { node: "n".into(), at_ms: 5 }
    }

    /// None of this may block, follow, or take memory without an end; a test that hangs has failed.
    #[test]
    fn whatever_a_trial_puts_there_is_no_word_of_a_job() {
        let outside = tempfile::tempdir().unwrap();
        let real = outside.path().join("real");
        std::fs::write(&real, serde_json::to_vec(&begun()).unwrap()).unwrap();
        type Put = fn(&Path, &Path);
        let puts: [(&str, Put); 6] = [
            ("a FIFO", |at, _| fifo(at)),
            ("a link to a file", |at, real| symlink(real, at).unwrap()),
            ("a link to no end", |at, _| symlink("/dev/zero", at).unwrap()),
            ("a link to nowhere", |at, _| symlink("/no/where", at).unwrap()),
            ("a directory", |at, _| std::fs::create_dir(at).unwrap()),
            ("a terabyte", |at, _| File::create(at).unwrap().set_len(1 << 40).unwrap()),
        ];
        for (what, put) in puts {
            let dir = tempfile::tempdir().unwrap();
            let control = control(dir.path());
            for name in [TASK, BEGUN, BEAT, EXIT, LOG, BATCH_KEYS, CANCEL, CLAIM] {
                put(&control.dir().join(name), &real);
            }
            assert!(control.task().is_err(), "{what}");
            assert!(control.begun().is_none(), "{what}");
            assert!(control.outcome().is_err(), "{what}");
            assert_eq!(control.last_beat(), None, "{what}");
            assert_eq!(batch_keys(control.dir()), None, "{what}");
            assert!(control.said().map_or(0, |said| said.len() as u64) <= LOG_END, "{what}");
            // What is asked for is there, by whatever has the name, and nothing outside was touched.
            assert!(control.is_claimed().unwrap() && !control.claim().unwrap(), "{what}");
            control.cancel().unwrap();
            assert!(control.is_cancelled(), "{what}");
            drop(control.beat(7));
            assert_eq!(std::fs::read(&real).unwrap(), serde_json::to_vec(&begun()).unwrap(), "{what}");
            // What a job says replaces it.
            if what != "a directory" {
                control.begin(&begun()).unwrap();
                assert_eq!(control.begun().unwrap().node, "n", "{what}");
            }
            control.remove();
            assert!(!control.dir().exists() && real.exists(), "{what}");
        }
    }

    #[test]
    fn a_link_in_the_place_of_a_control_directory_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = dir.path().join("elsewhere");
        std::fs::create_dir(&elsewhere).unwrap();
        symlink(&elsewhere, dir.path().join("attempt")).unwrap();
        let control = Control { dir: dir.path().join("attempt") };
        assert!(control.beat(1).is_err() && control.task().is_err());
        assert!(std::fs::read_dir(&elsewhere).unwrap().next().is_none());
        symlink(&elsewhere, dir.path().join("root")).unwrap();
        // Nor one in the place of the directory of all of them.
        std::fs::create_dir(elsewhere.join("attempt")).unwrap();
        let below = Control { dir: dir.path().join("root/attempt") };
        assert!(
            below.beat(1).is_err() && below.task().is_err() && below.said().is_err() && below.cancel().is_err()
        );
        assert!(below.claim().is_err() && below.begin(&begun()).is_err());
        assert!(std::fs::read_dir(elsewhere.join("attempt")).unwrap().next().is_none());
        std::fs::set_permissions(&elsewhere, Permissions::from_mode(0o755)).unwrap();
        assert!(make_root(&dir.path().join("root")).is_err());
        assert_eq!(std::fs::metadata(&elsewhere).unwrap().permissions().mode() & 0o777, 0o755);
    }

    #[test]
    fn nobody_else_may_look_into_it() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let root = dir.path().join("new");
        make_root(&root).unwrap();
        assert_eq!(mode(&root), 0o700);
        // One of an earlier piton.
        let old = dir.path().join("old");
        std::fs::create_dir(&old).unwrap();
        std::fs::set_permissions(&old, Permissions::from_mode(0o755)).unwrap();
        make_root(&old).unwrap();
        assert_eq!(mode(&old), 0o700);
        let control = control(&root);
        control.beat(1).unwrap();
        control.cancel().unwrap();
        assert_eq!((mode(&control.dir().join(BEAT)), mode(&control.dir().join(CANCEL))), (0o600, 0o600));
    }
}
