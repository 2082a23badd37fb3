//! Where an attempt lives: its own directory, empty but for its params at the start, and its trial's scratch directory.
//!
//! What lies above a study's artifacts is the user's: links there are followed. Below, everything is piton's and may be
//! anything that an earlier trial left: it is opened one directory after the other, never through a link, and what is
//! removed is never outside the attempt's own directory.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize as _;

use super::blame::AttemptError;
use crate::executor::Job;
use crate::model::artifacts::{BEFORE, PARAMS_FILE, PROGRESS_FILE, SCRATCH_DIR};
use crate::model::{Params, UnixMs, Value, float_text};
use crate::sys::files::create_dir_all_durable;
use crate::sys::opened::{Id, Opened};
use crate::sys::temporary::random_digits;
use crate::sys::words::io_words;

/// The directories in which attempts live, for all workers of a run.
#[derive(Debug, Default)]
pub(crate) struct Grounds {
    /// A study's artifacts, held since they were first needed.
    roots: Mutex<HashMap<PathBuf, (Arc<Opened>, Id)>>,
    /// Entries that are durable: a name in a directory, and what it led to when that directory was synced.
    durable: Mutex<HashSet<Entry>>,
}

/// A directory as an entry of the one above.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Entry {
    path: PathBuf,
    id: Id,
}

impl Entry {
    pub(super) fn of(path: &Path, opened: &Opened) -> io::Result<Self> {
        Ok(Self { path: path.to_path_buf(), id: opened.id()? })
    }
}

/// How a directory of an attempt is reached: `root` is the user's, the names below it are piton's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Way {
    pub(super) root: PathBuf,
    pub(super) names: Vec<OsString>,
    /// What lies above `root` up to here, and the entry of this one, are made durable along with it.
    pub(super) artifacts: Option<PathBuf>,
}

impl Way {
    /// The way to a directory of a job; one outside the study's artifacts (that of a replay) has nothing below its root.
    pub(super) fn to(dir: &Path, job: &Job) -> Self {
        let stage = &job.stage_spec;
        let root = stage.artifacts_dir.join(&stage.study);
        match dir.strip_prefix(&root) {
            Ok(below) if below.iter().next().is_some() => {
                let names = below.iter().map(OsStr::to_owned).collect();
                Self { root, names, artifacts: Some(stage.artifacts_dir.clone()) }
            }
            _ => {
                let root = dir.parent().unwrap_or(dir).to_path_buf();
                Self { root, names: dir.file_name().map(OsStr::to_owned).into_iter().collect(), artifacts: None }
            }
        }
    }

    /// Without the last name.
    pub(super) fn above(&self) -> Self {
        let names = self.names.iter().take(self.names.len().saturating_sub(1)).cloned().collect();
        Self { names, ..self.clone() }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.root.join(self.names.iter().collect::<PathBuf>())
    }
}

/// Something else lies where piton had a directory.
fn replaced(path: &Path) -> io::Error {
    let words = format!(
        "`{}` is a symbolic link or no directory; what lies below a study's artifacts is piton's own, and nothing there \
         may be replaced while the study is not finished",
        path.display()
    );
    io::Error::new(io::ErrorKind::Unsupported, words)
}

/// Opens a directory of piton's in the one that `path` leads to.
///
/// # Errors
/// As for [`Grounds::open`].
pub(super) fn enter_own(at: &Opened, name: &OsStr, path: &Path) -> io::Result<Arc<Opened>> {
    at.enter(name).map(Arc::new).map_err(|error| match error.kind() {
        io::ErrorKind::NotADirectory => replaced(&path.join(name)),
        _ => error,
    })
}

impl Grounds {
    /// A study's artifacts, as they were when they were first asked for.
    ///
    /// # Errors
    /// What the file system says; [`io::ErrorKind::Unsupported`] in words if a link took their place meanwhile.
    fn root(&self, path: &Path) -> io::Result<Arc<Opened>> {
        let opened = Opened::dir(path)?;
        let id = opened.id()?;
        let mut roots = self.roots.lock().unwrap_or_else(PoisonError::into_inner);
        match roots.get(path) {
            Some((held, held_id)) if *held_id == id => return Ok(Arc::clone(held)),
            Some(_) => {
                // Removed and made again is one thing, led elsewhere another.
                let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
                    return Err(replaced(path));
                };
                match Opened::dir(above)?.enter(name) {
                    Ok(own) if own.id()? == id => {}
                    Err(error) if error.kind() != io::ErrorKind::NotADirectory => return Err(error),
                    _ => return Err(replaced(path)),
                }
            }
            None => {}
        }
        let opened = Arc::new(opened);
        roots.insert(path.to_path_buf(), (Arc::clone(&opened), id));
        Ok(opened)
    }

    /// Opens the directory, as it is now.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when it or one on the way is gone, [`io::ErrorKind::Unsupported`] in words when
    /// something else took its place; otherwise what the file system says.
    pub(super) fn open(&self, way: &Way) -> io::Result<Arc<Opened>> {
        let mut at = self.root(&way.root)?;
        let mut path = way.root.clone();
        for name in &way.names {
            at = enter_own(&at, name, &path)?;
            path.push(name);
        }
        Ok(at)
    }

    /// Opens the directory, and makes what is missing of it.
    ///
    /// # Errors
    /// As for [`Grounds::open`].
    fn make(&self, way: &Way) -> io::Result<Arc<Opened>> {
        let mut at = match self.root(&way.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                create_dir_all_durable(&way.root)?;
                self.root(&way.root)?
            }
            other => other?,
        };
        let mut path = way.root.clone();
        for (depth, name) in way.names.iter().enumerate() {
            path.push(name);
            at = Arc::new(enter_or_make(&at, name, depth > 0).map_err(|error| match error.kind() {
                io::ErrorKind::NotADirectory => replaced(&path),
                _ => error,
            })?);
        }
        Ok(at)
    }

    /// Whether an entry was seen to be durable.
    pub(super) fn is_durable(&self, entry: &Entry) -> bool {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner).contains(entry)
    }

    /// Remembers entries whose directories were synced after they had been looked at.
    pub(super) fn remember(&self, entries: impl IntoIterator<Item = Entry>) {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner).extend(entries);
    }
}

/// How often a directory is made again that somebody removes at once.
const TRIES: u32 = 8;

/// A directory in another one, made if it is missing. If `own`, it is a case's: what else lies in its place was put there by
/// an attempt of that case, and moves aside.
fn enter_or_make(at: &Opened, name: &OsStr, own: bool) -> io::Result<Opened> {
    let mut tries = 0;
    loop {
        tries += 1;
        match at.enter(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && tries < TRIES => match at.make(name) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            },
            Err(error) if error.kind() == io::ErrorKind::NotADirectory && own && tries < TRIES => {
                at.rename(name, &aside(name)?)?;
            }
            other => return other,
        }
    }
}

/// A name for what is in the way and cannot be removed.
fn aside(name: &OsStr) -> io::Result<OsString> {
    Ok(format!(".{}.discarded-{}", name.to_string_lossy(), random_digits()?).into())
}

/// Makes a directory of a job, empty. One that is there is of an attempt whose start was never recorded: it goes, or, if it
/// cannot be removed, moves aside.
///
/// # Errors
/// As for [`Grounds::open`].
pub(super) fn make_empty_dir(grounds: &Grounds, job: &Job) -> io::Result<Arc<Opened>> {
    make_in_case(grounds, job).map(|(_, dir)| dir)
}

/// The same; the directory that it lies in comes first.
fn make_in_case(grounds: &Grounds, job: &Job) -> io::Result<(Arc<Opened>, Arc<Opened>)> {
    let way = Way::to(&job.dir, job);
    let Some(name) = way.names.last() else { return Err(io::ErrorKind::InvalidInput.into()) };
    let above = grounds.make(&way.above())?;
    match above.make(name) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            discard_old_reports(&above, job)?;
            discard_old(&above, job, OsStr::new(SCRATCH_DIR))?;
            if !keep_aside(&above, name, job)? {
                remove_or_rename(&above, name)?;
            }
            above.make(name)?;
        }
        made => made?,
    }
    let dir = above.enter(name)?;
    Ok((above, Arc::new(dir)))
}

/// Removes what has this name, or moves it aside: a directory without write permission in it, for instance.
fn remove_or_rename(above: &Opened, name: &OsStr) -> io::Result<()> {
    above.remove(name).or_else(|_| above.rename(name, &aside(name)?))
}

/// Discards what a trial keeps across its attempts, its reports and its scratch directory, if inputs, or its parent's outputs, changed
/// since its last attempt started: what that wrote may come of others than are recorded, be it that they were put back since, and
/// nobody vouched for it. Durably, before the next attempt starts.
///
/// # Errors
/// What cannot be discarded, and why.
pub(crate) fn discard_doubtful(
    grounds: &Grounds,
    job: &Job,
    parent_changed_ms: Option<UnixMs>,
) -> Result<(), String> {
    let parent_changed_ms = parent_changed_ms.filter(|_| !injected_fault!(DoubtfulHeirsKept));
    // An attempt whose start was never recorded may have run since the stage opened.
    let Some(since_ms) = job.last_started_ms.or(job.opened_ms) else { return Ok(()) };
    let changed = job.inputs_changed_ms.max(parent_changed_ms).is_some_and(|changed_ms| changed_ms > since_ms);
    if !changed || injected_fault!(DoubtfulKept) {
        return Ok(());
    }
    let discard = || {
        let case = open_case(grounds, job)?;
        let is_there = |name: &&OsStr| case.open(Path::new(name)).is_ok();
        let kept = [PROGRESS_FILE, SCRATCH_DIR].map(OsStr::new);
        let found: Vec<_> = kept.into_iter().filter(is_there).collect();
        if found.is_empty() {
            return Ok(());
        }
        let had_scratch = found.contains(&OsStr::new(SCRATCH_DIR));
        log::log!(
            if job.key.attempt > 1 { log::Level::Warn } else { log::Level::Debug },
            "an input or the parent of `{}` changed since it last started: what it kept is discarded",
            job.case
        );
        found.iter().try_for_each(|name| remove_or_rename(&case, name))?;
        case.sync()?;
        if had_scratch { make_scratch_dir(grounds, job) } else { Ok(()) }
    };
    discard().map_err(|error: io::Error| {
        format!("cannot discard what `{}` kept from an earlier attempt: {}", job.case, io_words(&error))
    })
}

/// Clocks of file systems are behind by so much at most, milliseconds.
const TICK_MS: i64 = 20;

/// Removes what was reported at this trial's place before its stage opened, durably: another store's trial left it, and a first
/// attempt has none but its own. Whether it did.
///
/// # Errors
/// What removing it fails with.
pub(super) fn discard_old_reports(case: &Opened, job: &Job) -> io::Result<bool> {
    discard_old(case, job, OsStr::new(PROGRESS_FILE))
}

/// The same of what else a trial keeps across its attempts.
fn discard_old(case: &Opened, job: &Job, name: &OsStr) -> io::Result<bool> {
    let (1, Some(opened_ms)) = (job.key.attempt, job.opened_ms) else { return Ok(false) };
    let is_older = |file: Opened| file.modified_ms().is_ok_and(|ms| ms < opened_ms.saturating_sub(TICK_MS));
    if !case.open(Path::new(name)).is_ok_and(is_older) {
        return Ok(false);
    }
    case.remove(name)?;
    case.sync()?;
    Ok(true)
}

/// Moves the directory of an attempt aside that was made before the job's stage opened: of a result that was discarded, and may
/// be taken by an equal trial. Once for each time that the stage opened. Durably: else another directory could get the name, and be
/// durable, before this one has its new name.
///
/// # Errors
/// What syncing fails with.
fn keep_aside(above: &Opened, name: &OsStr, job: &Job) -> io::Result<bool> {
    let Some(opened_ms) = job.keeps_from_before_ms else { return Ok(false) };
    let is_older = above.enter(name).and_then(|dir| dir.modified_ms()).is_ok_and(|ms| ms < opened_ms);
    let aside = format!("{}{BEFORE}{opened_ms}", name.to_string_lossy());
    let is_free = || above.enter(OsStr::new(&aside)).is_err();
    let moved = is_older && is_free() && above.rename(name, OsStr::new(&aside)).is_ok();
    if moved && !injected_fault!(AsideNotSynced) {
        above.sync()?;
    }
    Ok(moved)
}

/// Makes the place of outputs that are taken over: a directory with `params.json`, as an attempt has one.
///
/// # Errors
/// As for [`make`].
pub(super) fn make_taken(grounds: &Grounds, job: &Job) -> Result<Arc<Opened>, AttemptError> {
    make_own(grounds, job).map(|(_, dir)| dir)
}

/// Takes back what [`make_taken`] made; what cannot be removed goes when the place is made again.
pub(super) fn unmake_taken(grounds: &Grounds, job: &Job) {
    let way = Way::to(&job.dir, job);
    if let (Some(name), Ok(above)) = (way.names.last(), grounds.open(&way.above())) {
        let _ = above.remove(name);
    }
}

/// Makes a trial's scratch directory, or leaves it as it is.
///
/// # Errors
/// As for [`Grounds::open`].
pub(super) fn make_scratch_dir(grounds: &Grounds, job: &Job) -> io::Result<()> {
    grounds.make(&Way::to(&job.scratch_dir, job)).map(drop)
}

/// Opens a trial's case's directory; makes it if it is missing.
///
/// # Errors
/// As for [`Grounds::open`].
pub(super) fn open_case(grounds: &Grounds, job: &Job) -> io::Result<Arc<Opened>> {
    grounds.make(&Way::to(&job.scratch_dir, job).above())
}

/// Makes a job's directory and its scratch directory, or leaves them as they are; the first of them.
///
/// # Errors
/// As for [`Grounds::open`].
pub(super) fn make_kept_dirs(grounds: &Grounds, job: &Job) -> io::Result<Arc<Opened>> {
    make_scratch_dir(grounds, job)?;
    grounds.make(&Way::to(&job.dir, job))
}

/// Makes all that an attempt finds: its own directory with `params.json`, and its trial's scratch directory. What cannot be
/// made is the machine's fault, or that of somebody who changes the artifacts: no trial is to blame for its place.
///
/// # Errors
/// What could not be made, and why.
pub(crate) fn make(grounds: &Grounds, job: &Job) -> Result<Arc<Opened>, AttemptError> {
    let (case, dir) = make_own(grounds, job)?;
    let made = match scratch_beside(job) {
        Some(name) => make_scratch_in(&case, name),
        None => make_scratch_dir(grounds, job),
    };
    made.map_err(|error| cannot(&format!("the scratch directory `{}`", job.scratch_dir.display()), &error))?;
    Ok(dir)
}

/// The name of a trial's scratch directory in its case's, where its attempts lie: everywhere but in a replay.
fn scratch_beside(job: &Job) -> Option<&OsStr> {
    job.scratch_dir.file_name().filter(|_| job.scratch_dir.parent() == job.dir.parent())
}

fn make_scratch_in(case: &Opened, name: &OsStr) -> io::Result<()> {
    match case.make(name) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => enter_or_make(case, name, true).map(drop),
        made => made,
    }
}

fn cannot(what: &str, error: &io::Error) -> AttemptError {
    AttemptError::Machine(format!("cannot make {what}: {}", io_words(error)))
}

/// Makes its own directory, with `params.json`.
fn make_own(grounds: &Grounds, job: &Job) -> Result<(Arc<Opened>, Arc<Opened>), AttemptError> {
    let (case, dir) = make_in_case(grounds, job)
        .map_err(|error| cannot(&format!("the attempt's directory `{}`", job.dir.display()), &error))?;
    dir.write_new(OsStr::new(PARAMS_FILE), &params_text(&job.params))
        .map_err(|error| cannot(&format!("`{}`", job.dir.join(PARAMS_FILE).display()), &error))?;
    Ok((case, dir))
}

/// Takes back what [`make`] made for an attempt that does not start, as far as nothing else is in it.
pub(super) fn unmake(grounds: &Grounds, job: &Job) {
    let way = Way::to(&job.dir, job);
    // What stays is removed when the attempt is made again.
    if let Ok(dir) = grounds.open(&way) {
        let _ = dir.remove(OsStr::new(PARAMS_FILE));
    }
    for way in [way.clone(), Way::to(&job.scratch_dir, job), way.above()] {
        if let (Some(name), Ok(above)) = (way.names.last(), grounds.open(&way.above())) {
            let _ = above.remove_empty(name);
        }
    }
}

/// The text of `params.json`: a flat object, with the text of every number that a command gets.
fn params_text(params: &Params) -> Vec<u8> {
    let object: serde_json::Map<String, serde_json::Value> =
        params.iter().map(|(name, value)| (name.clone(), to_json(value))).collect();
    let mut text = Vec::new();
    // Writing to memory cannot fail, and every key is a string.
    let _ = object.serialize(&mut serde_json::Serializer::with_formatter(&mut text, FloatText));
    text.push(b'\n');
    text
}

/// Writes floats as commands get them.
struct FloatText;

impl serde_json::ser::Formatter for FloatText {
    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        writer.write_all(float_text(value).as_bytes())
    }
}

fn to_json(value: &Value) -> serde_json::Value {
    match value {
        Value::Str(text) => text.as_str().into(),
        Value::Bool(flag) => (*flag).into(),
        Value::Int(number) => (*number).into(),
        Value::Float(number) => (*number).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::executor::local::tests::{job, stage};
    use crate::study_file::Work;

    /// A job below `root`, and its grounds.
    fn ground(root: &Path) -> (Grounds, Job) {
        (Grounds::default(), job(stage(root, Work::Closure), root))
    }

    #[test]
    fn what_was_there_is_gone_and_links_are_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let (grounds, job) = ground(root.path());
        let precious = root.path().join("precious");
        fs::create_dir(&precious).unwrap();
        fs::write(precious.join("file"), b"").unwrap();
        make(&grounds, &job).unwrap();
        fs::create_dir(job.dir.join("sub")).unwrap();
        symlink(&precious, job.dir.join("sub/link")).unwrap();
        make_empty_dir(&grounds, &job).unwrap();
        assert_eq!(fs::read_dir(&job.dir).unwrap().count(), 0);
        fs::remove_dir(&job.dir).unwrap();
        symlink(&precious, &job.dir).unwrap();
        make_empty_dir(&grounds, &job).unwrap();
        assert!(fs::symlink_metadata(&job.dir).unwrap().is_dir());
        // Of the case's directory the link goes, too, and the trial goes on in one of its own.
        let case = job.dir.parent().unwrap();
        fs::remove_dir_all(case).unwrap();
        symlink(&precious, case).unwrap();
        make(&grounds, &job).unwrap();
        assert!(fs::symlink_metadata(case).unwrap().is_dir() && job.dir.join(PARAMS_FILE).exists());
        assert_eq!(fs::read_dir(&precious).unwrap().count(), 1, "nothing was made or removed there");
    }

    #[test]
    fn a_stage_that_leads_elsewhere_is_refused_and_above_the_study_links_are_followed() {
        let root = tempfile::tempdir().unwrap();
        let (grounds, job) = ground(root.path());
        let (scratch, precious) = (root.path().join("scratch"), root.path().join("precious"));
        fs::create_dir(&scratch).unwrap();
        fs::create_dir_all(precious.join("case_0_0/attempt_1")).unwrap();
        fs::write(precious.join("case_0_0/attempt_1").join(PARAMS_FILE), b"theirs").unwrap();
        symlink("scratch", root.path().join("artifacts")).unwrap();
        make(&grounds, &job).unwrap();
        assert!(scratch.join("study/0_stage/case_0_0/attempt_1").join(PARAMS_FILE).exists());
        let stage = root.path().join("artifacts/study/0_stage");
        for meddle in ["link", "file", "study"] {
            match meddle {
                "study" => {
                    fs::remove_file(&stage).unwrap();
                    fs::rename(scratch.join("study"), scratch.join("moved")).unwrap();
                    symlink(&precious, scratch.join("study")).unwrap();
                }
                "link" => {
                    fs::remove_dir_all(&stage).unwrap();
                    symlink(&precious, &stage).unwrap();
                }
                _ => {
                    fs::remove_file(&stage).unwrap();
                    fs::write(&stage, b"").unwrap();
                }
            }
            let Err(AttemptError::Machine(why)) = make(&grounds, &job) else { panic!("{meddle}") };
            assert!(why.contains("is a symbolic link or no directory"), "{why}");
            unmake(&grounds, &job);
            assert!(grounds.open(&Way::to(&job.dir, &job)).is_err());
        }
        let left: Vec<_> = fs::read_dir(&precious).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["case_0_0"]);
        assert_eq!(fs::read(precious.join("case_0_0/attempt_1").join(PARAMS_FILE)).unwrap(), b"theirs");
    }

    #[test]
    fn what_is_taken_back_leaves_nothing_of_its_own_and_all_else() {
        let root = tempfile::tempdir().unwrap();
        let (grounds, job) = ground(root.path());
        make(&grounds, &job).unwrap();
        unmake(&grounds, &job);
        assert!(!job.dir.parent().unwrap().exists());
        make(&grounds, &job).unwrap();
        fs::write(job.scratch_dir.join("checkpoint"), b"").unwrap();
        unmake(&grounds, &job);
        assert!(!job.dir.exists() && job.scratch_dir.join("checkpoint").exists());
    }

    #[test]
    fn even_a_locked_directory_makes_way() {
        let root = tempfile::tempdir().unwrap();
        let (grounds, job) = ground(root.path());
        fs::create_dir_all(job.dir.join("locked/in")).unwrap();
        fs::set_permissions(job.dir.join("locked"), fs::Permissions::from_mode(0o500)).unwrap();
        make_empty_dir(&grounds, &job).unwrap();
        assert_eq!(fs::read_dir(&job.dir).unwrap().count(), 0);
        for entry in fs::read_dir(job.dir.parent().unwrap()).unwrap() {
            let locked = entry.unwrap().path().join("locked");
            let _ = fs::set_permissions(locked, fs::Permissions::from_mode(0o700));
        }
    }

    proptest::proptest! {
        /// What `--set` says is what a command and `params.json` get.
        #[test]
        fn what_is_written_is_what_a_trial_gets(text in "-?[0-9]{0,3}(\\.[0-9]{0,4})?(e-?[0-9]{1,3})?|[ a-z0-9_+'\"\\r\\n]{0,6}|\\PC{0,6}") {
            let quoted = |text: &str| text.starts_with(['"', '\'']);
            proptest::prop_assume!(!quoted(text.trim_start()));
            let study = "study.name = \"t\"\n[[stage]]\nname = \"a\"\ncommand = [\"x\", \"{p}\"]\ntrial_budget = 1\nsurvivor_count = 1\n";
            let spec = crate::study_file::parse("s", study, &[("p".to_owned(), text.clone())]).unwrap();
            let params = spec.constants();
            let context = crate::study_file::ExpandContext {
                params: &params, case: "c", parent_dir: None, study_dir: "/s", seed: 0, replica: None, attempt: 1, slot: 0, given: &[],
            };
            let expanded = spec.stages[0].work.expand(&context).unwrap();
            proptest::prop_assert_eq!(expanded, crate::study_file::Expanded::Argv(vec!["x".to_owned(), text.clone()]));
            let written = String::from_utf8(params_text(&params)).unwrap();
            let in_quotes = format!("{{\"p\":{}}}\n", serde_json::to_string(&text).unwrap());
            proptest::prop_assert!(written == format!("{{\"p\":{text}}}\n") || written == in_quotes, "{}", written);
            // The store keeps it so.
            let kept = crate::study_file::Spec::from_json(&spec.to_json()).unwrap();
            proptest::prop_assert_eq!(kept.constants()["p"].to_string(), text);
        }
    }

    #[test]
    fn params_are_a_flat_object() {
        let params = Params::from([
            ("b".into(), Value::Bool(true)),
            ("f".into(), Value::Float(0.1)),
            ("g".into(), Value::Float(2.0)),
            ("h".into(), Value::Float(2.5e20)),
            ("i".into(), Value::Int(-3)),
            ("j".into(), Value::Float(1e-300)),
            ("s".into(), Value::Str("a\"b".into())),
        ]);
        let text = String::from_utf8(params_text(&params)).unwrap();
        assert_eq!(text, "{\"b\":true,\"f\":0.1,\"g\":2.0,\"h\":2.5e20,\"i\":-3,\"j\":1e-300,\"s\":\"a\\\"b\"}\n");
    }
}
