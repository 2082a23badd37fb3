//! Helpers at the keeper: `on_event` and the commands that print versions end like trials, with all that they started.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::process::Signal;

use super::super::command::find_program;
use super::{KeeperClient, SpawnError, SpawnRequest, Started, TrialEvent};
use crate::executor::ATTEMPT_KEY_VAR;
use crate::model::{Exit, ProcessId};
use crate::sys::helper::{AtHost, Helper, Host, Hosted};

impl KeeperClient {
    /// While the answer lives, helpers that this thread starts are the keeper's children.
    #[must_use]
    pub fn hosts_helpers(&self) -> AtHost {
        AtHost::new(Arc::new(self.clone()))
    }
}

impl Host for KeeperClient {
    fn start(&self, helper: &Helper<'_>) -> io::Result<Box<dyn Hosted>> {
        let here = std::env::current_dir()?;
        let cwd = helper.command.get_current_dir().map_or_else(|| here.clone(), |dir| here.join(dir));
        let mut env: std::collections::BTreeMap<OsString, OsString> = std::env::vars_os().collect();
        for (name, value) in helper.command.get_envs() {
            match value {
                Some(value) => drop(env.insert(name.into(), value.into())),
                None => drop(env.remove(name)),
            }
        }
        // No attempt's key: who looks for an attempt's processes never finds these.
        let name = format!("helper.{}.{}", std::process::id(), self.0.next_id.load(Ordering::Relaxed));
        env.insert(ATTEMPT_KEY_VAR.into(), name.into());
        let called = helper.command.get_program();
        let program = find_program(called, &cwd, env.get(OsStr::new("PATH")))
            .ok_or_else(|| io::Error::from(rustix::io::Errno::NOENT))?;
        let args = helper.command.get_args().map(OsStr::to_owned);
        let argv: Vec<CString> =
            std::iter::once(called.to_owned()).chain(args).map(c_string).collect::<Result<_, _>>()?;
        let entry = |(mut entry, value): (OsString, OsString)| {
            entry.push("=");
            entry.push(value);
            c_string(entry)
        };
        let started = self.spawn(&SpawnRequest {
            program: &c_string(program.into_os_string())?,
            argv: &argv,
            env: &env.into_iter().map(entry).collect::<Result<Vec<_>, _>>()?,
            cwd: &c_string(cwd.into_os_string())?,
            stdin: Some(&name_of(helper.stdin)?),
            stdout: &name_of(helper.stdout)?,
            stderr: &name_of(helper.stderr)?,
            address_space_bytes: None,
            cgroup_procs: None,
        });
        match started {
            Ok(started) => Ok(Box::new(AtKeeper { keeper: self.clone(), started })),
            Err(SpawnError::Refused { errno, .. }) => Err(errno.into()),
            Err(error) => Err(io::Error::other(error.to_string())),
        }
    }
}

struct AtKeeper {
    keeper: KeeperClient,
    started: Started,
}

impl Hosted for AtKeeper {
    fn process(&self) -> ProcessId {
        self.started.process
    }

    fn signal(&self, signal: Signal) {
        self.keeper.signal(self.started.id, signal);
    }

    fn end(self: Box<Self>) -> io::Result<ExitStatus> {
        self.signal(Signal::KILL);
        match self.started.events.recv() {
            Ok(TrialEvent::Ended(exited)) => Ok(match exited.exit {
                Exit::Code(code) => ExitStatus::from_raw((code & 0xff) << 8),
                Exit::Signal(signal) => ExitStatus::from_raw(signal & 0x7f),
            }),
            Ok(TrialEvent::Lost) | Err(_) => Err(io::Error::other("the trial keeper died")),
        }
    }
}

/// How the keeper opens a descriptor of this process.
pub(in crate::executor::local) fn name_of(fd: BorrowedFd<'_>) -> io::Result<CString> {
    c_string(Path::new("/proc").join(format!("{}/fd/{}", std::process::id(), fd.as_raw_fd())).into_os_string())
}

fn c_string(text: OsString) -> io::Result<CString> {
    CString::new(text.into_vec()).map_err(|_| io::ErrorKind::InvalidInput.into())
}
