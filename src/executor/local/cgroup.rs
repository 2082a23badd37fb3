//! cgroups: one for each trial with a memory limit, and what the kernel says about memory in them.
//!
//! They are made only below a cgroup that somebody handed over: one that `PITON_CGROUP` names (either version), or one
//! that systemd delegated (version 2). Whoever manages the others does not expect strangers in them. Never touches a
//! cgroup that piton did not make, but for passing the memory controller on, and moves no process but its trials.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::blame::is_of_trial;
use crate::executor::AttemptKey;
use crate::model::StudyId;
use crate::sys::process::read_kernel_file;
use crate::sys::words::io_words;

/// Names the directory of a cgroup below which piton may make others.
pub(super) const CGROUP_VAR: &str = "PITON_CGROUP";

/// What the names of piton's cgroups begin with; the attempt's key follows.
const PREFIX: &str = "piton.";

/// The two kinds there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// Why no cgroup can be named below which others could be made.
#[derive(Debug)]
pub(super) enum NoParent {
    /// The one that the environment names is none, in words.
    Named(String),
    /// The machine could not read what names the cgroup.
    Machine(io::Error),
}

impl From<io::Error> for NoParent {
    fn from(error: io::Error) -> Self {
        Self::Machine(error)
    }
}

/// A file's text; `None` where there is none, or not for this user.
fn read_if_there(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if is_of_trial(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A cgroup below which piton may make others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parent {
    dir: PathBuf,
    version: Version,
}

impl Parent {
    /// The one that the environment names, or the delegated ones that this process is in, innermost first.
    ///
    /// # Errors
    /// What is wrong with the one that is named, or what the machine cannot read.
    pub(super) fn candidates(named: Option<&OsStr>) -> Result<Vec<Self>, NoParent> {
        if let Some(name) = named.filter(|name| !name.is_empty()) {
            let dir = Path::new(name);
            let parent = if dir.is_absolute() { Self::at(dir)? } else { Err("is no absolute path") };
            let unfit = |why| NoParent::Named(format!("`{CGROUP_VAR}`: `{}` {why}", dir.display()));
            return parent.map(|parent| vec![parent]).map_err(unfit);
        }
        let Some(own) = CgroupPath::of_this_process()?.filter(|place| place.version == Version::Two) else {
            return Ok(Vec::new());
        };
        let mut found = Vec::new();
        for dir in own.dir.ancestors().take_while(|dir| dir.starts_with(&own.mount)) {
            if is_delegated(dir) {
                found.extend(Self::at(dir)?.ok());
            }
        }
        Ok(found)
    }

    /// This directory, if it is a cgroup with a memory controller; otherwise why not.
    fn at(dir: &Path) -> Result<Result<Self, &'static str>, NoParent> {
        if dir.join("memory.limit_in_bytes").exists() {
            return Ok(Ok(Self { dir: dir.to_path_buf(), version: Version::One }));
        }
        let Some(controllers) = read_if_there(&dir.join("cgroup.controllers"))? else {
            return Ok(Err("is no cgroup"));
        };
        Ok(match names_memory(&controllers) {
            true => Ok(Self { dir: dir.to_path_buf(), version: Version::Two }),
            false => Err("has no memory controller"),
        })
    }

    /// Lets those below it have memory limits.
    ///
    /// # Errors
    /// What the kernel says; "busy" if processes are right in it, which version 2 allows only at the root.
    pub(super) fn pass_memory_on(&self) -> io::Result<()> {
        let control = self.dir.join("cgroup.subtree_control");
        if self.version == Version::One || names_memory(&fs::read_to_string(&control)?) {
            return Ok(());
        }
        fs::write(control, "+memory")
    }

    /// Makes a cgroup whose processes together take at most `limit_bytes`, swap included.
    pub(super) fn make(&self, key: &AttemptKey, limit_bytes: u64) -> io::Result<TrialCgroup> {
        let dir = self.dir.join(format!("{PREFIX}{key}"));
        // An attempt of this name whose start was never recorded; everything in it is dead.
        let _ = fs::remove_dir(&dir);
        fs::create_dir(&dir)?;
        let procs = CString::new(dir.join("cgroup.procs").into_os_string().into_encoded_bytes());
        let made = TrialCgroup { procs: procs?, dir, version: self.version };
        let limit = limit_bytes.to_string();
        match self.version {
            Version::One => {
                made.set("memory.limit_in_bytes", &limit)?;
                // Not there without swap accounting.
                let _ = made.set("memory.memsw.limit_in_bytes", &limit);
            }
            Version::Two => {
                made.set("memory.max", &limit)?;
                let _ = made.set("memory.swap.max", "0");
                // All of the trial ends, not the one process that happened to be the largest. Since Linux 4.19.
                let _ = made.set("memory.oom.group", "1");
            }
        }
        Ok(made)
    }

    /// Removes what engines that crashed left of this study's; nothing runs in them any more. What cannot be removed
    /// stays: it is empty, or not piton's to empty.
    pub(super) fn remove_leftovers(&self, study: StudyId) -> io::Result<usize> {
        let ours = format!("{PREFIX}{study}.");
        let mut removed = 0;
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            if entry.file_name().as_bytes().starts_with(ours.as_bytes()) {
                removed += usize::from(fs::remove_dir(entry.path()).is_ok());
            }
        }
        Ok(removed)
    }
}

fn names_memory(controllers: &str) -> bool {
    controllers.split_ascii_whitespace().any(|controller| controller == "memory")
}

/// The cgroup of one attempt. It goes when this is dropped; nothing runs in it by then.
#[derive(Debug)]
pub(super) struct TrialCgroup {
    dir: PathBuf,
    procs: CString,
    version: Version,
}

impl TrialCgroup {
    #[cfg(test)]
    pub(super) fn at(dir: PathBuf) -> Self {
        Self { dir, procs: CString::default(), version: Version::Two }
    }

    /// Where a process writes itself to enter.
    pub(super) fn procs(&self) -> &CStr {
        &self.procs
    }

    /// Whether the kernel killed anything in it for want of memory.
    ///
    /// # Errors
    /// In words, if that cannot be read.
    pub(super) fn oom_killed(&self) -> Result<bool, String> {
        Ok(oom_kills(&self.dir.join(oom_file(self.version)))?.is_some_and(|kills| kills > 0))
    }

    fn set(&self, file: &str, value: &str) -> io::Result<()> {
        fs::write(self.dir.join(file), value)
    }
}

impl Drop for TrialCgroup {
    fn drop(&mut self) {
        // What is left when this fails is empty, and goes at the next start of an engine.
        let _ = fs::remove_dir(&self.dir);
    }
}

/// How often the kernel killed something for want of memory in the cgroup that this process is in.
///
/// Where that is counted is found out once, when it can be.
#[derive(Debug, Default)]
pub(super) struct OomCounter(OnceLock<Option<PathBuf>>);

impl OomCounter {
    #[cfg(test)]
    pub(super) fn at(path: PathBuf) -> Self {
        Self(OnceLock::from(Some(path)))
    }

    /// `None` if the kernel does not say.
    ///
    /// # Errors
    /// In words, if it cannot be asked now.
    pub(super) fn now(&self) -> Result<Option<u64>, String> {
        let file = match self.0.get() {
            Some(file) => file,
            None => {
                let place = CgroupPath::of_this_process();
                let place = place.map_err(|error| format!("cannot read `/proc/self`: {}", io_words(&error)))?;
                self.0.get_or_init(|| place.map(|place| place.dir.join(oom_file(place.version))))
            }
        };
        file.as_deref().map_or(Ok(None), oom_kills)
    }
}

/// The file that counts them.
const fn oom_file(version: Version) -> &'static str {
    match version {
        Version::One => "memory.oom_control",
        Version::Two => "memory.events",
    }
}

/// `None` where the kernel keeps no such count, or not for this user.
fn oom_kills(file: &Path) -> Result<Option<u64>, String> {
    let text = match read_kernel_file(file) {
        Ok(text) => text,
        Err(error) if is_of_trial(&error) => return Ok(None),
        Err(error) => return Err(format!("cannot read `{}`: {}", file.display(), io_words(&error))),
    };
    let text = String::from_utf8_lossy(&text);
    Ok(text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()))
}

/// systemd marks what it hands over: `user.delegate`, or `trusted.delegate` before version 251.
fn is_delegated(dir: &Path) -> bool {
    ["user.delegate", "trusted.delegate"].iter().any(|name| {
        let mut value = [0_u8; 4];
        let read = rustix::fs::getxattr(dir, *name, value.as_mut_slice());
        read.is_ok_and(|length| value.get(..length) == Some(b"1"))
    })
}

/// Where a process is in the hierarchy that has the memory controller.
#[derive(Debug, PartialEq, Eq)]
struct CgroupPath {
    mount: PathBuf,
    dir: PathBuf,
    version: Version,
}

impl CgroupPath {
    fn of_this_process() -> io::Result<Option<Self>> {
        let cgroups = read_if_there(Path::new("/proc/self/cgroup"))?;
        let mounts = read_if_there(Path::new("/proc/self/mountinfo"))?;
        Ok(cgroups.zip(mounts).and_then(|(cgroups, mounts)| Self::parse(&cgroups, &mounts)))
    }

    /// cgroups(7) and proc_pid_mountinfo(5).
    fn parse(cgroups: &str, mounts: &str) -> Option<Self> {
        // Version 1 if the memory controller is bound to it: then version 2 has none.
        let entry = |wanted: &dyn Fn(&str) -> bool| {
            cgroups.lines().find_map(|line| {
                let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
                wanted(controllers).then_some(path)
            })
        };
        let is_memory = |controllers: &str| controllers.split(',').any(|controller| controller == "memory");
        let (version, path) = match entry(&is_memory) {
            Some(path) => (Version::One, path),
            None => (Version::Two, entry(&|controllers: &str| controllers.is_empty())?),
        };
        let mount_of = |line: &str| -> Option<PathBuf> {
            let (before, after) = line.split_once(" - ")?;
            let mut fields = before.split(' ');
            let (root, mount) = (fields.nth(3)?, fields.next()?);
            let mut after = after.split(' ');
            let (kind, options) = (after.next()?, after.nth(1)?);
            let right = match version {
                Version::One => kind == "cgroup" && is_memory(options),
                Version::Two => kind == "cgroup2",
            };
            // Only where the whole hierarchy that this process may see is mounted do paths mean what they say.
            (right && root == "/").then(|| PathBuf::from(mount))
        };
        let mount = mounts.lines().find_map(mount_of)?;
        let inside = path.strip_prefix('/')?;
        // `/..` is where a cgroup namespace ends.
        if inside.split('/').any(|part| part == "..") {
            return None;
        }
        let dir = if inside.is_empty() { mount.clone() } else { mount.join(inside) };
        Some(Self { mount, dir, version })
    }
}

/// The value of [`CGROUP_VAR`] in an environment.
pub(super) fn named_in(environment: &[(OsString, OsString)]) -> Option<&OsStr> {
    environment.iter().find(|(name, _)| name == CGROUP_VAR).map(|(_, value)| value.as_os_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TrialId;

    const HYBRID_MOUNTS: &str = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
         41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
    const UNIFIED_MOUNTS: &str = "24 23 0:22 / /proc rw shared:5 - proc proc rw\n\
         30 23 0:27 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";

    fn place(cgroups: &str, mounts: &str) -> Option<(String, Version)> {
        let place = CgroupPath::parse(cgroups, mounts)?;
        Some((place.dir.to_str().unwrap().to_owned(), place.version))
    }

    #[test]
    fn a_process_is_where_the_memory_controller_has_it() {
        let hybrid = "4:memory,hugetlb:/a/b\n1:name=systemd:/c\n0::/d\n";
        assert_eq!(place(hybrid, HYBRID_MOUNTS), Some(("/sys/fs/cgroup/memory/a/b".into(), Version::One)));
        let unified = "0::/user.slice/run-1.scope\n";
        let expected = ("/sys/fs/cgroup/user.slice/run-1.scope".into(), Version::Two);
        assert_eq!(place(unified, UNIFIED_MOUNTS), Some(expected));
        assert_eq!(place("0::/\n", UNIFIED_MOUNTS), Some(("/sys/fs/cgroup".into(), Version::Two)));
        assert_eq!(place("0::/../other\n", UNIFIED_MOUNTS), None, "outside of what may be seen");
        assert_eq!(place(unified, &UNIFIED_MOUNTS.replace("0:27 / ", "0:27 /part ")), None);
        assert_eq!(place("", UNIFIED_MOUNTS), None);
        assert_eq!(place(hybrid, ""), None);
    }

    fn key(study: u8) -> AttemptKey {
        AttemptKey { study: StudyId([study; 16]), trial: TrialId(3), attempt: 2 }
    }

    /// A directory that looks like a cgroup of version 2.
    fn parent() -> (tempfile::TempDir, Parent) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.controllers"), "cpu memory pids\n").unwrap();
        fs::write(dir.path().join("cgroup.subtree_control"), "cpu\n").unwrap();
        let parent = Parent::candidates(Some(dir.path().as_os_str())).unwrap().remove(0);
        (dir, parent)
    }

    #[test]
    fn a_named_cgroup_passes_memory_limits_on_or_is_refused_in_words() {
        let (dir, parent) = parent();
        assert_eq!(parent.version, Version::Two);
        parent.pass_memory_on().unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("cgroup.subtree_control")).unwrap(), "+memory");
        fs::write(dir.path().join("cgroup.controllers"), "cpu\n").unwrap();
        let find = |dir: &str| match Parent::candidates(Some(OsStr::new(dir))) {
            Err(NoParent::Machine(error)) => panic!("{error}"),
            Err(NoParent::Named(why)) => Err(why),
            Ok(found) => Ok(found),
        };
        let shown = dir.path().to_str().unwrap();
        assert_eq!(find(shown), Err(format!("`PITON_CGROUP`: `{shown}` has no memory controller")));
        assert_eq!(find("/proc"), Err("`PITON_CGROUP`: `/proc` is no cgroup".into()));
        assert_eq!(find("x"), Err("`PITON_CGROUP`: `x` is no absolute path".into()));
        fs::write(dir.path().join("memory.limit_in_bytes"), "").unwrap();
        assert_eq!(find(shown).unwrap()[0].version, Version::One);
    }

    #[test]
    fn a_trial_gets_its_own_with_the_limit() {
        let (dir, parent) = parent();
        let made = parent.make(&key(1), 1 << 20).unwrap();
        let at = dir.path().join(format!("piton.{}", key(1)));
        let file = |name: &str| fs::read_to_string(at.join(name)).unwrap();
        assert_eq!(
            (&*file("memory.max"), &*file("memory.swap.max"), &*file("memory.oom.group")),
            ("1048576", "0", "1")
        );
        assert_eq!(made.procs().to_str().unwrap(), at.join("cgroup.procs").to_str().unwrap());
        assert!(!made.oom_killed().unwrap());
        fs::write(at.join("memory.events"), "low 0\nmax 7\noom 1\noom_kill 0\noom_group_kill 0\n").unwrap();
        assert!(!made.oom_killed().unwrap());
        fs::write(at.join("memory.events"), "low 0\nmax 7\noom 1\noom_kill 2\noom_group_kill 1\n").unwrap();
        assert!(made.oom_killed().unwrap());
        drop(made);
        let one = Parent { version: Version::One, ..parent };
        fs::remove_dir_all(&at).unwrap();
        let made = one.make(&key(1), 4_096).unwrap();
        assert_eq!((&*file("memory.limit_in_bytes"), &*file("memory.memsw.limit_in_bytes")), ("4096", "4096"));
        fs::write(at.join("memory.oom_control"), "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n").unwrap();
        assert!(made.oom_killed().unwrap());
    }

    #[test]
    fn a_dropped_one_goes_and_leftovers_of_this_study_only() {
        let (dir, parent) = parent();
        let names = || {
            let mut names: Vec<_> = fs::read_dir(dir.path())
                .unwrap()
                .flatten()
                .filter(|entry| entry.path().is_dir())
                .map(|entry| entry.file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        let at = dir.path().join(format!("piton.{}", key(1)));
        fs::create_dir(&at).unwrap();
        drop(TrialCgroup { procs: CString::default(), dir: at.clone(), version: Version::Two });
        assert_eq!(names(), [""; 0]);
        for name in [format!("piton.{}", key(1)), format!("piton.{}", key(2)), "other".into()] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        assert_eq!(parent.remove_leftovers(StudyId([1; 16])).unwrap(), 1);
        assert_eq!(names(), ["other".to_owned(), format!("piton.{}", key(2))]);
    }
}
