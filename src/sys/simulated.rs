//! The machine of a simulation, in its place: what `sys` does on a thread that simulates goes here instead of to Linux.
//!
//! Compiled for the library's own tests alone. It is set for one thread and never seen by another.

use std::cell::RefCell;
use std::ffi::OsString;
use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

/// What there is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Dir,
}

/// A disk, a clock and a source of randomness.
pub(crate) trait Machine {
    /// What is there, if anything.
    fn kind(&self, path: &Path) -> Option<Kind>;
    /// All of a file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// Names in a directory.
    fn names(&self, dir: &Path) -> io::Result<Vec<OsString>>;
    /// Makes a directory in one that is there.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes an empty file, or empties one that is there unless it has to be `new`.
    fn create(&self, path: &Path, new: bool) -> io::Result<()>;
    /// Writes at the end of a file.
    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Renames within a directory, replacing what is there.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Makes a file's contents, or a directory's entries, durable.
    fn sync(&self, path: &Path) -> io::Result<()>;
    /// Opens a file for the store.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn RandomAccess>>;
    /// Which file or directory is there: another one has another number.
    fn identity(&self, path: &Path) -> io::Result<u64>;
    /// When a file that somebody else may change last changed, Unix milliseconds: long ago, or after all that was done yet.
    fn changed_ms(&self, path: &Path) -> i64;
    /// Whether the exports cannot be written.
    fn exports_fail(&self) -> bool;
    /// The wall clock, Unix milliseconds.
    fn unix_ms(&self) -> i64;
    fn random(&self, bytes: &mut [u8]);
}

/// A file that is read and written anywhere.
pub(crate) trait RandomAccess: Debug + Send + Sync {
    fn bytes(&self) -> io::Result<u64>;
    /// Fills `out` from there on.
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Cuts it, or adds zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes it durable.
    fn sync(&self) -> io::Result<()>;
}

thread_local! {
    static MACHINE: RefCell<Option<Rc<dyn Machine>>> = const { RefCell::new(None) };
}

/// The machine this thread simulates, if it does.
pub(crate) fn machine() -> Option<Rc<dyn Machine>> {
    MACHINE.with(|machine| machine.borrow().clone())
}

/// Runs `act` on a simulated machine.
pub(crate) fn on<T>(machine: Rc<dyn Machine>, act: impl FnOnce() -> T) -> T {
    struct Restore(Option<Rc<dyn Machine>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            MACHINE.with(|place| *place.borrow_mut() = self.0.take());
        }
    }
    let _restore = Restore(MACHINE.with(|place| place.borrow_mut().replace(machine)));
    act()
}
