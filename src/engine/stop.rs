//! Requests to stop from where no signal reaches the engine: another PID namespace, another host.
//!
//! `piton stop` leaves a file, `<store>.stop`, and the engine looks for one once a second. The file names the study and
//! the run that it means, so one that is left over stops no later run, and the engine of a later run removes it. Who may
//! make one is who may write beside the store; in a directory that others may write to as well, only one that belongs to
//! the engine's user, to the store's owner or to root counts. Nothing depends on its being durable: a request that a crash
//! takes along meant the engine that the crash ended.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use serde::{Deserialize, Serialize};

pub(crate) use crate::paths::request_path;

use super::shutdown::{Control, ShutdownHandle};
use crate::model::StudyId;
use crate::sys::files::replace_atomically;
use crate::sys::signals::SignalEvent;
use crate::sys::temporary::Access;
use crate::sys::words::io_words;

/// How often an engine looks.
const EVERY: Duration = Duration::from_secs(1);

/// No request is longer, bytes.
const MAX_BYTES: u64 = 4 << 10;

/// Why an engine does not stop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StopError {
    /// It is another user's.
    #[error("the engine is another user's (uid {uid}): they, or root, can stop it")]
    OtherUser {
        /// That user's number.
        uid: u32,
    },
    /// It is a process that is stopped itself.
    #[error("process {pid} is stopped itself (^Z or SIGSTOP): it will take the request when it is continued")]
    Suspended {
        /// Path of the store's file.
        store: PathBuf,
        /// Number of the process.
        pid: u32,
    },
    /// No signal reaches it from here, and no request can be left beside the store.
    #[error("no signal from here reaches the engine {whereabouts}, and the request to stop, `{}`, cannot be written", path.display())]
    NoRequest {
        /// Where it is.
        whereabouts: String,
        /// Path of the file.
        path: PathBuf,
        /// Why it cannot be written.
        #[source]
        cause: io::Error,
    },
    /// No signal reaches it from here, and it has not taken the request beside the store.
    #[error(
        "{engine} has the store open, no signal reaches it from here, and it has not taken the request beside the store \
         within {waited_s} s: it is stopped, hangs, or is of an older piton; {}",
        if *withdrawn { "the request is withdrawn" } else { "it has just taken it" }
    )]
    NotTaken {
        /// Which engine.
        engine: String,
        /// How long it had for that.
        waited_s: u64,
        /// Whether the request could be taken back.
        withdrawn: bool,
    },
}

/// One run of a study, among all runs of all studies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunName {
    pub study: StudyId,
    /// Its run, from 1.
    pub run: u32,
}

/// What the file says.
#[derive(Debug, Serialize, Deserialize)]
struct Request {
    schema: u32,
    /// The study's identity, hex.
    study_id: String,
    run: u32,
    /// Whether running trials are to be terminated.
    now: bool,
}

/// Asks the engine of this run to stop, as SIGUSR1 does, or, `now`, as SIGUSR2 does. The file that says so stays until it is
/// [withdrawn](withdraw) or the engine has taken it.
///
/// # Errors
/// If the file cannot be written.
pub(crate) fn request(store: &Path, run: RunName, now: bool) -> io::Result<PathBuf> {
    let request = Request { schema: 1, study_id: run.study.to_string(), run: run.run, now };
    let text = serde_json::to_vec(&request)?;
    let path = request_path(store);
    replace_atomically(&path, Access::Usual, |out| out.write_all(&text).and_then(|()| out.write_all(b"\n")))?;
    Ok(path)
}

/// Takes a request back, if it is still there; whether it was.
pub(crate) fn withdraw(store: &Path) -> bool {
    fs::remove_file(request_path(store)).is_ok()
}

/// Looks for requests while a run lasts.
#[derive(Debug)]
pub(crate) struct Watcher {
    over: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Starts looking. Without a thread for it nobody looks: then signals are the only way.
    #[must_use]
    pub(crate) fn start(store: &Path, run: RunName, shutdown: &ShutdownHandle) -> Self {
        let (over, ended) = bounded::<()>(0);
        let (store, sender) = (store.to_owned(), shutdown.sender());
        let look = move || {
            let mut complained = false;
            while ended.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                match take(&store, run) {
                    Ok(None) => {}
                    Ok(Some(now)) => {
                        let signal = if now { SignalEvent::Usr2 } else { SignalEvent::Usr1 };
                        // A full inbox has requests enough.
                        drop(sender.try_send(Control::Signal(signal)));
                    }
                    Err(error) if !complained => {
                        let path = request_path(&store);
                        log::warn!("`{}` is no request to stop: {}", path.display(), io_words(&error));
                        complained = true;
                    }
                    Err(_) => {}
                }
            }
        };
        let thread = std::thread::Builder::new().name("requests".into()).spawn(look);
        let thread = thread.inspect_err(|error| log::warn!("no request by file is heard: {}", io_words(error)));
        Self { over: Some(over), thread: thread.ok() }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.over = None;
        if let Some(thread) = self.thread.take() {
            // The panic hook has already printed a panic there.
            let _ = thread.join();
        }
    }
}

/// Takes the request that is there, if one is: whether it says `now`. One that means another run is removed, and so is what
/// is none.
fn take(store: &Path, run: RunName) -> io::Result<Option<bool>> {
    let path = request_path(store);
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let opened = match OpenOptions::new().read(true).custom_flags(flags).open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened,
    };
    let request = opened.and_then(|file| read(file, store));
    let request = request.inspect_err(|error| {
        // What cannot be removed is harmless, too.
        if is_junk(error) && fs::remove_file(&path).is_ok() {
            log::debug!("`{}` is removed", path.display());
        }
    })?;
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    Ok((request.study_id == run.study.to_string() && request.run == run.run).then_some(request.now))
}

/// Whether there is no request, as opposed to one that could not be read just now. What another user asks, who may not, is
/// for that user to take back: who waits for the engine sees by it that the engine did not take the request.
fn is_junk(error: &io::Error) -> bool {
    match error.raw_os_error() {
        Some(errno) => matches!(errno, libc::ELOOP | libc::EACCES | libc::ENXIO),
        None => error.kind() != io::ErrorKind::PermissionDenied,
    }
}

fn read(file: File, store: &Path) -> io::Result<Request> {
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let trusted = [0, rustix::process::geteuid().as_raw(), fs::metadata(store)?.uid()];
    if !trusted.contains(&meta.uid()) {
        let words = format!("it belongs to user {}", meta.uid());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, words));
    }
    let mut text = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(study: u8, run: u32) -> RunName {
        RunName { study: StudyId([study; 16]), run }
    }

    #[test]
    fn a_request_reaches_the_run_it_means_once_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("study.redb");
        fs::write(&store, b"").unwrap();
        assert_eq!(take(&store, run(1, 3)).unwrap(), None);
        for now in [false, true] {
            let path = request(&store, run(1, 3), now).unwrap();
            assert_eq!(path, dir.path().join("study.redb.stop"));
            assert_eq!(take(&store, run(1, 3)).unwrap(), Some(now));
            assert_eq!(take(&store, run(1, 3)).unwrap(), None, "it is taken");
        }
        for other in [run(1, 4), run(2, 3)] {
            request(&store, run(1, 3), false).unwrap();
            assert_eq!(take(&store, other).unwrap(), None);
            assert!(!request_path(&store).exists(), "what is left over is removed");
        }
        request(&store, run(1, 3), false).unwrap();
        assert!(withdraw(&store) && !withdraw(&store));
    }

    #[test]
    fn what_is_no_request_is_told_and_stops_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("study.redb");
        fs::write(&store, b"").unwrap();
        let path = request_path(&store);
        for text in [&b""[..], b"stop", b"{}", b"{\"schema\":1,\"study_id\":1}", &[b' '; 1 << 20]] {
            fs::write(&path, text).unwrap();
            assert!(take(&store, run(1, 1)).is_err());
            assert_eq!(take(&store, run(1, 1)).unwrap(), None, "it is removed");
        }
        let real = dir.path().join("real");
        request(&real, run(1, 1), false).unwrap();
        std::os::unix::fs::symlink(request_path(&real), &path).unwrap();
        assert!(take(&store, run(1, 1)).is_err(), "a link is not followed");
        assert!(path.symlink_metadata().is_err() && request_path(&real).exists());
        fs::create_dir(&path).unwrap();
        assert!(take(&store, run(1, 1)).is_err());
        fs::remove_dir(&path).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
        assert!(take(&store, run(1, 1)).is_err(), "and a pipe is not waited for");
        assert!(path.symlink_metadata().is_err());
        if rustix::process::geteuid().is_root() {
            request(&store, run(1, 1), false).unwrap();
            std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
            assert!(take(&store, run(1, 1)).unwrap_err().to_string().contains("user 65534"));
            assert!(path.exists(), "who waits sees that it is not taken");
        }
    }

    #[test]
    fn a_watcher_passes_it_on_and_ends_with_the_run() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("study.redb");
        fs::write(&store, b"").unwrap();
        let shutdown = ShutdownHandle::new();
        let watcher = Watcher::start(&store, run(1, 1), &shutdown);
        request(&store, run(1, 1), true).unwrap();
        let heard = shutdown.receiver().recv_timeout(Duration::from_secs(60)).unwrap();
        assert_eq!(heard, Control::Signal(SignalEvent::Usr2));
        drop(watcher);
        request(&store, run(1, 1), true).unwrap();
        assert!(request_path(&store).exists());
    }
}
