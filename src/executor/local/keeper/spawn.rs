//! Starting one trial, in the keeper: `clone(CLONE_VM | CLONE_VFORK)` as glibc's `posix_spawn` does it.
//!
//! The child borrows the keeper's memory until it calls `execve`, and the keeper sleeps meanwhile; so nothing is
//! copied, however large the program that embeds piton was when the keeper was forked. In exchange the child may do
//! nothing but plain system calls on prepared memory. The pitfalls that `posix_spawn` has to mind do not exist here: the keeper
//! has one thread, every signal is blocked in it for ever, and no signal has a handler.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicU8, Ordering};

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect};

use super::protocol::{Spawn, SpawnStep};

/// `prctl` reads a long.
const DEATH_SIGNAL: libc::c_ulong = 9; // SIGKILL on every architecture
const STACK_BYTES: usize = 128 * 1024;
/// At the low end, so that an overflow faults instead of writing over the keeper's memory. A multiple of any page size.
const GUARD_BYTES: usize = 64 * 1024;

/// Starts trials, one after the other, on one stack made once.
pub(super) struct Spawner {
    stack_top: *mut c_void,
    keeper: libc::pid_t,
}

/// What the child works with; it lives on the keeper's stack, which stands still meanwhile.
struct Prepared {
    keeper: libc::pid_t,
    cwd: c_int,
    /// Negative: the keeper's own, `/dev/null`.
    stdin: c_int,
    stdout: c_int,
    stderr: c_int,
    /// `cgroup.procs`, open for writing; negative: none.
    cgroup_procs: c_int,
    address_space_bytes: u64,
    program: *const c_char,
    argv: *const *const c_char,
    env: *const *const c_char,
    /// Written by the child when it fails.
    errno: AtomicI32,
    step: AtomicU8,
}

impl Spawner {
    pub(super) fn new(keeper: libc::pid_t) -> io::Result<Self> {
        let flags = MapFlags::PRIVATE | MapFlags::STACK;
        // SAFETY: a new anonymous mapping at an address the kernel chooses touches nothing that exists.
        let base =
            unsafe { mmap_anonymous(ptr::null_mut(), STACK_BYTES, ProtFlags::READ | ProtFlags::WRITE, flags)? };
        // SAFETY: the range is the low part of the mapping just made, which nobody uses yet.
        unsafe { mprotect(base, GUARD_BYTES, MprotectFlags::empty())? };
        // SAFETY: one past the end of the mapping; page aligned, so it meets every ABI's stack alignment.
        let stack_top = unsafe { base.byte_add(STACK_BYTES) };
        Ok(Self { stack_top, keeper })
    }

    /// Starts it. The process leads its own group, dies with the keeper, has `/dev/null` (or its `stdin`) and
    /// the two logs as descriptors and no others, every signal at its default and none blocked.
    pub(super) fn start(&self, spawn: &Spawn<'_>) -> Result<libc::pid_t, (SpawnStep, Errno)> {
        let dir_flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let cwd =
            rustix::fs::open(spawn.cwd, dir_flags, Mode::empty()).map_err(|errno| (SpawnStep::Cwd, errno))?;
        let log = |name: &CStr| -> Result<OwnedFd, (SpawnStep, Errno)> {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::APPEND;
            let careful = OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
            openat(&cwd, name, flags | careful, Mode::from_raw_mode(0o644))
                .map_err(|errno| (SpawnStep::Logs, errno))
        };
        // Pipes of the engine's, by the names `/proc` has for them.
        let pipe = |name: &CStr, flags: OFlags| -> Result<OwnedFd, (SpawnStep, Errno)> {
            openat(&cwd, name, flags | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())
                .map_err(|errno| (SpawnStep::Logs, errno))
        };
        let (stdin, stdout) = match spawn.stdin {
            path if path.is_empty() => (None, log(spawn.stdout)?),
            path => (Some(pipe(path, OFlags::RDONLY)?), pipe(spawn.stdout, OFlags::WRONLY)?),
        };
        let stderr = match spawn.stderr {
            path if is_descriptor(path) => pipe(path, OFlags::WRONLY)?,
            path => log(path)?,
        };
        let cgroup_procs = match spawn.cgroup_procs {
            path if path.is_empty() => None,
            path => {
                let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = rustix::fs::open(path, flags, Mode::empty());
                Some(file.map_err(|errno| (SpawnStep::Cgroup, errno))?)
            }
        };
        let argv = pointers(spawn.argv);
        let env = pointers(spawn.env);
        let prepared = Prepared {
            keeper: self.keeper,
            cwd: cwd.as_raw_fd(),
            stdin: stdin.as_ref().map_or(-1, AsRawFd::as_raw_fd),
            stdout: stdout.as_raw_fd(),
            stderr: stderr.as_raw_fd(),
            cgroup_procs: cgroup_procs.as_ref().map_or(-1, AsRawFd::as_raw_fd),
            address_space_bytes: within_hard_limit(spawn.address_space_bytes),
            program: spawn.program.as_ptr(),
            argv: argv.as_ptr(),
            env: env.as_ptr(),
            errno: AtomicI32::new(0),
            step: AtomicU8::new(SpawnStep::Exec.number()),
        };
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        let arg = (&raw const prepared).cast_mut().cast::<c_void>();
        // SAFETY: `child` gets a stack of its own that no other child uses (CLONE_VFORK: this call returns only after
        // the child has left it by `execve` or `_exit`) and a pointer that lives at least as long. It shares this
        // memory (CLONE_VM) but no descriptors, no signal state and no working directory, and restricts itself to
        // async-signal-safe calls. All signals are blocked in this single-threaded process, so no handler can run
        // in between.
        let pid = unsafe { libc::clone(child, self.stack_top, flags, arg) };
        if pid < 0 {
            return Err((SpawnStep::Clone, last_errno()));
        }
        match prepared.errno.load(Ordering::Acquire) {
            0 => Ok(pid),
            errno => {
                // It is as good as dead: reap it, so that nobody takes it for an orphan.
                // SAFETY: a null status is allowed; `pid` is our own unreaped child.
                while unsafe { libc::waitpid(pid, ptr::null_mut(), 0) } < 0 && last_errno() == Errno::INTR {}
                let step = SpawnStep::of(prepared.step.load(Ordering::Acquire));
                Err((step.unwrap_or(SpawnStep::Setup), Errno::from_raw_os_error(errno)))
            }
        }
    }
}

/// Runs in the new process, on memory it shares with the keeper.
extern "C" fn child(arg: *mut c_void) -> c_int {
    // SAFETY: the pointer `start` passed; the keeper sleeps until this process is done with it.
    let prepared = unsafe { &*arg.cast_const().cast::<Prepared>() };
    // SAFETY: called once, in the child.
    let step = unsafe { become_trial(prepared) };
    // SAFETY: errno is this thread's (the sleeping keeper's, which shares it) and always readable.
    let errno = unsafe { *libc::__errno_location() };
    prepared.step.store(step.number(), Ordering::Release);
    prepared.errno.store(if errno == 0 { libc::EINVAL } else { errno }, Ordering::Release);
    127 // `clone` makes it the argument of `_exit`.
}

/// Returns only if it failed, with errno set.
///
/// # Safety
/// Must run in the child of `clone`, with everything `prepared` points to valid.
unsafe fn become_trial(prepared: &Prepared) -> SpawnStep {
    // SAFETY: plain system calls on valid arguments; none allocates, locks or unwinds. The signal set is initialised
    // by sigemptyset before it is used.
    unsafe {
        if libc::setpgid(0, 0) != 0 || libc::prctl(libc::PR_SET_PDEATHSIG, DEATH_SIGNAL) != 0 {
            return SpawnStep::Setup;
        }
        // The keeper may have died before the line above; then nobody would ever send that signal.
        if libc::getppid() != prepared.keeper {
            libc::_exit(127);
        }
        // First of all that takes memory. "0" is the writer, in both versions of cgroups.
        if prepared.cgroup_procs >= 0 && libc::write(prepared.cgroup_procs, c"0".as_ptr().cast(), 1) != 1 {
            return SpawnStep::Cgroup;
        }
        if prepared.stdin >= 0 && libc::dup2(prepared.stdin, 0) < 0 {
            return SpawnStep::Setup;
        }
        if libc::fchdir(prepared.cwd) != 0
            || libc::dup2(prepared.stdout, 1) < 0
            || libc::dup2(prepared.stderr, 2) < 0
        {
            return SpawnStep::Setup;
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        if libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut()) != 0 {
            return SpawnStep::Setup;
        }
        if prepared.address_space_bytes > 0 {
            let bytes = prepared.address_space_bytes;
            let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
            if libc::setrlimit(libc::RLIMIT_AS, &raw const limit) != 0 {
                return SpawnStep::Limits;
            }
        }
        libc::execve(prepared.program, prepared.argv, prepared.env);
    }
    SpawnStep::Exec
}

/// Whether a name is that of an open descriptor: `/proc/<pid>/fd/<number>`, and nothing below it.
fn is_descriptor(name: &CStr) -> bool {
    let mut parts = name.to_bytes().split(|byte| *byte == b'/');
    let is_number = |part: Option<&[u8]>| part.is_some_and(|part| part.iter().all(u8::is_ascii_digit));
    parts.next() == Some(b"")
        && parts.next() == Some(b"proc")
        && is_number(parts.next())
        && parts.next() == Some(b"fd")
        && is_number(parts.next())
        && parts.next().is_none()
}

/// No more than the limit that this process has itself: a privileged process could raise it, any other could not.
fn within_hard_limit(bytes: u64) -> u64 {
    let inherited = rustix::process::getrlimit(rustix::process::Resource::As).maximum;
    inherited.map_or(bytes, |inherited| bytes.min(inherited))
}

/// Pointers to the NUL-terminated strings in `block`, with a null at the end. A last string without a NUL is left out.
fn pointers(block: &[u8]) -> Vec<*const c_char> {
    let mut found: Vec<*const c_char> = block
        .split_inclusive(|byte| *byte == 0)
        .filter_map(|text| CStr::from_bytes_with_nul(text).ok())
        .map(CStr::as_ptr)
        .collect();
    found.push(ptr::null());
    found
}

pub(super) fn last_errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL)
}
