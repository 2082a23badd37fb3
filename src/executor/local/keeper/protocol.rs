//! What engine and keeper say to each other: length-prefixed frames over one stream socket.
//!
//! Both ends are the same program (a fork), so there is no version. The keeper's end must hold for a writer that died in
//! the middle of a frame; neither end may trust a length.

use std::ffi::CStr;

use crate::model::Exit;

/// No frame is longer: argv and environment together fit into what `execve` takes (a few MiB at most).
pub(super) const MAX_FRAME_BYTES: usize = 64 << 20;

/// Engine to keeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request<'a> {
    /// Start a trial.
    Spawn(Spawn<'a>),
    /// To the whole process group of a trial.
    Signal { id: u64, signo: i32 },
    /// SIGSTOP to every group, and to every one started from now on.
    StopAll,
    /// SIGCONT to every group.
    ContinueAll,
    /// SIGKILL to every group.
    KillAll,
}

/// A trial to start. All strings end in NUL and lie in the frame, ready for the system calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spawn<'a> {
    pub(super) id: u64,
    /// RLIMIT_AS in bytes; 0: as inherited.
    pub(super) address_space_bytes: u64,
    /// The `cgroup.procs` of the cgroup it starts in, absolute; empty: the keeper's.
    pub(super) cgroup_procs: &'a CStr,
    /// Absolute path.
    pub(super) program: &'a CStr,
    /// Working directory.
    pub(super) cwd: &'a CStr,
    /// Opened for reading; empty: `/dev/null`.
    pub(super) stdin: &'a CStr,
    /// Created or truncated, relative to the working directory. With a `stdin` it is there already: a pipe.
    pub(super) stdout: &'a CStr,
    /// Created or truncated, likewise; in `/proc` it is a pipe of the engine's.
    pub(super) stderr: &'a CStr,
    /// NUL-terminated strings, one after the other.
    pub(super) argv: &'a [u8],
    /// Likewise, complete.
    pub(super) env: &'a [u8],
}

/// Keeper to engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// It runs.
    Spawned { id: u64, pid: u32, start_ticks: u64 },
    /// It does not.
    SpawnFailed { id: u64, errno: i32, step: SpawnStep },
    /// It ended, and so did everything it left behind.
    Exited(Exited),
}

/// How a trial ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exited {
    /// Whose report this is.
    pub(super) id: u64,
    /// How the trial's own process ended.
    pub exit: Exit,
    /// Whether a signal asked for through the keeper was sent before it ended.
    pub signalled: bool,
    /// User time of it and the descendants it waited for, microseconds.
    pub user_us: u64,
    /// System time likewise.
    pub system_us: u64,
    /// Largest resident set of any one of them, bytes.
    pub peak_rss_bytes: u64,
}

/// Where starting a trial failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpawnStep {
    /// Opening the working directory.
    Cwd,
    /// Creating the log files.
    Logs,
    /// `clone`.
    Clone,
    /// Process group, death signal, descriptors.
    Setup,
    /// Entering its cgroup.
    Cgroup,
    /// Resource limits.
    Limits,
    /// `execve`.
    Exec,
}

impl SpawnStep {
    const ALL: [Self; 7] =
        [Self::Cwd, Self::Logs, Self::Clone, Self::Setup, Self::Exec, Self::Cgroup, Self::Limits];

    pub(super) fn number(self) -> u8 {
        match self {
            Self::Cwd => 0,
            Self::Logs => 1,
            Self::Clone => 2,
            Self::Setup => 3,
            Self::Exec => 4,
            Self::Cgroup => 5,
            Self::Limits => 6,
        }
    }

    pub(super) fn of(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|step| step.number() == number)
    }
}

impl Request<'_> {
    /// The request as one frame.
    pub(super) fn frame(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }

    /// Appends the request as one frame.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        frame(out, |out| match self {
            Self::Spawn(spawn) => {
                out.push(0);
                out.extend(spawn.id.to_le_bytes());
                out.extend(spawn.address_space_bytes.to_le_bytes());
                let texts =
                    [spawn.cgroup_procs, spawn.program, spawn.cwd, spawn.stdin, spawn.stdout, spawn.stderr];
                for text in texts {
                    put_bytes(out, text.to_bytes_with_nul());
                }
                put_bytes(out, spawn.argv);
                put_bytes(out, spawn.env);
            }
            Self::Signal { id, signo } => {
                out.push(1);
                out.extend(id.to_le_bytes());
                out.extend(signo.to_le_bytes());
            }
            Self::StopAll => out.push(2),
            Self::ContinueAll => out.push(3),
            Self::KillAll => out.push(4),
        });
    }
}

impl<'a> Request<'a> {
    /// Reads one frame's body; `None` if it is no request.
    pub(super) fn decode(body: &'a [u8]) -> Option<Self> {
        let mut from = Cursor(body);
        let request = match from.u8()? {
            0 => Self::Spawn(Spawn {
                id: from.u64()?,
                address_space_bytes: from.u64()?,
                cgroup_procs: from.c_str()?,
                program: from.c_str()?,
                cwd: from.c_str()?,
                stdin: from.c_str()?,
                stdout: from.c_str()?,
                stderr: from.c_str()?,
                argv: from.bytes()?,
                env: from.bytes()?,
            }),
            1 => Self::Signal { id: from.u64()?, signo: from.i32()? },
            2 => Self::StopAll,
            3 => Self::ContinueAll,
            4 => Self::KillAll,
            _ => return None,
        };
        from.0.is_empty().then_some(request)
    }
}

impl Report {
    /// Appends the report as one frame.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        frame(out, |out| match self {
            Self::Spawned { id, pid, start_ticks } => {
                out.push(0);
                out.extend(id.to_le_bytes());
                out.extend(pid.to_le_bytes());
                out.extend(start_ticks.to_le_bytes());
            }
            Self::SpawnFailed { id, errno, step } => {
                out.push(1);
                out.extend(id.to_le_bytes());
                out.extend(errno.to_le_bytes());
                out.push(step.number());
            }
            Self::Exited(exited) => {
                out.push(2);
                out.extend(exited.id.to_le_bytes());
                let (kind, number) = match exited.exit {
                    Exit::Code(code) => (0, code),
                    Exit::Signal(signal) => (1, signal),
                };
                out.push(kind);
                out.extend(number.to_le_bytes());
                out.push(u8::from(exited.signalled));
                out.extend(exited.user_us.to_le_bytes());
                out.extend(exited.system_us.to_le_bytes());
                out.extend(exited.peak_rss_bytes.to_le_bytes());
            }
        });
    }

    /// Reads one frame's body; `None` if it is no report.
    pub(super) fn decode(body: &[u8]) -> Option<Self> {
        let mut from = Cursor(body);
        let report = match from.u8()? {
            0 => Self::Spawned { id: from.u64()?, pid: from.u32()?, start_ticks: from.u64()? },
            1 => Self::SpawnFailed { id: from.u64()?, errno: from.i32()?, step: SpawnStep::of(from.u8()?)? },
            2 => Self::Exited(Exited {
                id: from.u64()?,
                exit: match from.u8()? {
                    0 => Exit::Code(from.i32()?),
                    1 => Exit::Signal(from.i32()?),
                    _ => return None,
                },
                signalled: from.u8()? != 0,
                user_us: from.u64()?,
                system_us: from.u64()?,
                peak_rss_bytes: from.u64()?,
            }),
            _ => return None,
        };
        from.0.is_empty().then_some(report)
    }
}

/// What the start of a buffer holds.
pub(super) enum Framed<'a> {
    /// A whole frame: its body, and how many bytes it takes with its length.
    Whole(&'a [u8], usize),
    /// Not yet a whole frame.
    Partial,
    /// A length no frame has.
    Nonsense,
}

/// Looks for a frame at the start of `buffer`.
pub(super) fn next_frame(buffer: &[u8]) -> Framed<'_> {
    let Some((prefix, rest)) = buffer.split_first_chunk::<4>() else { return Framed::Partial };
    let length = u32::from_le_bytes(*prefix) as usize;
    if length == 0 || length > MAX_FRAME_BYTES {
        return Framed::Nonsense;
    }
    rest.get(..length).map_or(Framed::Partial, |body| Framed::Whole(body, length + 4))
}

fn frame(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend([0; 4]);
    body(out);
    let length = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
    if let Some(prefix) = out.get_mut(start..start + 4) {
        prefix.copy_from_slice(&length.to_le_bytes());
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend(bytes);
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()? as usize;
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }

    fn c_str(&mut self) -> Option<&'a CStr> {
        CStr::from_bytes_with_nul(self.bytes()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::artifacts::{STDERR_LOG_C, STDOUT_LOG_C};

    fn requests() -> Vec<Request<'static>> {
        vec![
            Request::Spawn(Spawn {
                id: 7,
                address_space_bytes: 1 << 40,
                cgroup_procs: c"/sys/fs/cgroup/x/cgroup.procs",
                program: c"/bin/true",
                cwd: c"/",
                stdin: c"/proc/1/fd/5",
                stdout: STDOUT_LOG_C,
                stderr: STDERR_LOG_C,
                argv: b"true\0-x\0",
                env: b"A=1\0",
            }),
            Request::Signal { id: u64::MAX, signo: 15 },
            Request::StopAll,
            Request::ContinueAll,
            Request::KillAll,
        ]
    }

    #[test]
    fn every_request_comes_back_from_its_bytes_and_from_no_part_of_them() {
        for request in requests() {
            let mut bytes = Vec::new();
            request.encode(&mut bytes);
            let Framed::Whole(body, taken) = next_frame(&bytes) else { panic!("{request:?}") };
            assert_eq!((Request::decode(body), taken), (Some(request), bytes.len()));
            for cut in 0..bytes.len() {
                assert!(matches!(next_frame(&bytes[..cut]), Framed::Partial));
            }
            for cut in 0..body.len() {
                assert_eq!(Request::decode(&body[..cut]), None, "{request:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn every_report_comes_back_from_its_bytes() {
        let exited = Exited {
            id: 3,
            exit: Exit::Signal(11),
            signalled: true,
            user_us: 1,
            system_us: 2,
            peak_rss_bytes: 1 << 33,
        };
        let mut reports = vec![
            Report::Spawned { id: 1, pid: 2, start_ticks: 3 },
            Report::Exited(exited),
            Report::Exited(Exited { exit: Exit::Code(-1), signalled: false, ..exited }),
        ];
        reports.extend(SpawnStep::ALL.map(|step| Report::SpawnFailed { id: 9, errno: 2, step }));
        let mut bytes = Vec::new();
        reports.iter().for_each(|report| report.encode(&mut bytes));
        let mut rest = bytes.as_slice();
        for report in reports {
            let Framed::Whole(body, taken) = next_frame(rest) else { panic!("{report:?}") };
            assert_eq!(Report::decode(body), Some(report));
            assert!(Report::decode(&body[..body.len() - 1]).is_none());
            rest = &rest[taken..];
        }
        assert!(rest.is_empty());
    }

    #[test]
    fn lengths_are_not_believed() {
        assert!(matches!(next_frame(&[0xff; 8]), Framed::Nonsense));
        assert!(matches!(next_frame(&[0; 8]), Framed::Nonsense));
        // A string that says it is longer than the frame.
        let mut body = vec![0_u8; 17];
        body.extend(u32::MAX.to_le_bytes());
        assert_eq!(Request::decode(&body), None);
    }
}
