//! The simulated machine: a disk, a clock, and the one who takes pictures of the disk as a crash would leave it.
//!
//! Every operation that changes the disk is a moment at which the power may go. A picture is taken before it is carried
//! out; the run itself goes on undisturbed, so one run gives the images of a crash at every operation.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::{Files, Id, Loss};
use super::random::Random;
use crate::sys::simulated::{Kind, Machine, RandomAccess};

/// The input that studies name, and somebody changes.
pub(super) const INPUT: &str = "/home/ada/study/in";

/// What the disk holds after a crash, and what the dead engine had told the world by then.
#[derive(Clone, Debug)]
pub(super) struct Image {
    pub(super) files: Files,
    /// Events that had been acknowledged.
    pub(super) told: usize,
    /// The operation before which the power went.
    pub(super) op: u64,
    /// Which of the images of that moment.
    pub(super) variant: usize,
    pub(super) loss: Loss,
}

/// Who takes pictures, and of what.
#[derive(Debug)]
pub(super) enum Camera {
    Off,
    /// Of every operation, all variants; or of one alone.
    Every {
        seed: u64,
        only: Option<(u64, usize)>,
        taken: Vec<Image>,
        /// Disks that were taken, with what had been told: what follows from one of them is known.
        seen: BTreeSet<(u64, usize)>,
    },
    /// Of one moment, any; those after an fsync are likelier.
    One {
        random: Random,
        weight: u64,
        taken: Option<Box<Image>>,
    },
}

/// What a crash may do at every operation of an exhaustive run.
pub(super) const VARIANTS: [Loss; 5] = [Loss::Nothing, Loss::All, Loss::Any, Loss::After, Loss::Before];

/// An operation that fails, and whether all after it do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failure {
    pub(super) at: u64,
    pub(super) lasts: bool,
}

/// All there is of the machine.
#[derive(Debug)]
pub(super) struct State {
    pub(super) files: Files,
    pub(super) now_ms: i64,
    pub(super) random: Random,
    pub(super) ops: u64,
    after_sync: bool,
    /// Events acknowledged so far.
    pub(super) told: usize,
    pub(super) camera: Camera,
    pub(super) failure: Option<Failure>,
    /// Whether the exports cannot be written.
    pub(super) exports_fail: bool,
    /// Who changes a file behind the study's back.
    pub(super) meddler: Option<Meddler>,
}

/// Somebody who changes a file once the study runs, before an operation that chance chooses.
#[derive(Debug)]
pub(super) struct Meddler {
    pub(super) path: PathBuf,
    pub(super) random: Random,
    /// How often.
    pub(super) left: u32,
}

/// Before one operation in so many.
const MEDDLED_ONE_IN: u64 = 60;

/// The machine, as many hold it.
#[derive(Clone, Debug)]
pub(super) struct World(Arc<Mutex<State>>);

/// When every simulated study begins, Unix milliseconds.
const EPOCH_MS: i64 = 1_700_000_000_000;

impl World {
    pub(super) fn new(files: Files, random: Random, told: usize, camera: Camera) -> Self {
        let after_sync = false;
        let (now_ms, failure, exports_fail) = (EPOCH_MS, None, false);
        let (ops, meddler) = (0, None);
        let state = State { files, now_ms, random, ops, after_sync, told, camera, failure, exports_fail, meddler };
        Self(Arc::new(Mutex::new(state)))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The machine is about to change its disk.
    fn tick(&mut self, is_sync: bool) -> io::Result<()> {
        self.picture();
        self.meddle();
        let op = self.ops;
        self.ops += 1;
        self.after_sync = is_sync;
        match self.failure {
            Some(failure) if op == failure.at || (failure.lasts && op > failure.at) => {
                Err(io::Error::from_raw_os_error(libc::EIO))
            }
            _ => Ok(()),
        }
    }

    fn meddle(&mut self) {
        let Some(meddler) = self.meddler.as_mut().filter(|meddler| meddler.left > 0 && self.told > 0) else {
            return;
        };
        if meddler.random.below(MEDDLED_ONE_IN) == 0 {
            meddler.left -= 1;
            self.files.meddle(&meddler.path);
        }
    }

    /// Takes pictures of this moment, as the camera wants them.
    pub(super) fn picture(&mut self) {
        let (op, told, files) = (self.ops, self.told, &self.files);
        match &mut self.camera {
            Camera::Off => {}
            Camera::Every { seed, only, taken, seen } => {
                // Without anything to lose all variants are the same: their number is for speed.
                let count = if files.is_durable() { 1 } else { VARIANTS.len() };
                for (variant, loss) in VARIANTS.into_iter().enumerate().take(count) {
                    if only.is_some_and(|only| only != (op, variant)) {
                        continue;
                    }
                    // A disk that works in order takes turns with one that does not.
                    let turn = if op % 2 == 0 { Loss::Before } else { Loss::After };
                    if loss == turn {
                        continue;
                    }
                    let files = files.crashed(loss, &mut Random::of(&[*seed, op, variant as u64]));
                    if only.is_some() || seen.insert((files.fingerprint(), told)) {
                        taken.push(Image { files, told, op, variant, loss });
                    }
                }
            }
            Camera::One { random, weight, taken } => {
                // Most crash bugs strike right after an fsync.
                let more = if self.after_sync { 4 } else { 1 };
                *weight += more;
                if random.below(*weight) < more {
                    let loss = VARIANTS[random.below(VARIANTS.len() as u64) as usize];
                    let files = files.crashed(loss, random);
                    *taken = Some(Box::new(Image { files, told, op, variant: 0, loss }));
                }
            }
        }
    }

    fn id(&self, path: &Path) -> io::Result<Id> {
        self.files.find(path).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync(&mut self, id: Id) -> io::Result<()> {
        // It takes its time; meanwhile trials end.
        self.now_ms += self.random.below(3) as i64;
        match self.tick(true) {
            Ok(()) => self.files.sync(id),
            // The kernel gives up on what it could not write, and calls it clean.
            Err(error) => {
                self.files.give_up(id);
                return Err(error);
            }
        }
        self.files.remember(id);
        Ok(())
    }
}

#[derive(Debug)]
struct Open {
    world: World,
    id: Id,
}

impl RandomAccess for Open {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.world.state().files.content(self.id)?.len() as u64)
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.world.state();
        let content = state.files.content(self.id)?;
        if offset as usize + out.len() > content.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        content.read(offset as usize, out);
        Ok(())
    }
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.world.state();
        state.tick(false)?;
        state.files.write(self.id, offset as usize, bytes)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.world.state();
        state.tick(false)?;
        state.files.set_len(self.id, len as usize)
    }
    fn sync(&self) -> io::Result<()> {
        let mut state = self.world.state();
        self.world_sync(&mut state)
    }
}

impl Open {
    fn world_sync(&self, state: &mut State) -> io::Result<()> {
        // The store is never replaced atomically: nothing to remember of it.
        state.now_ms += state.random.below(3) as i64;
        match state.tick(true) {
            Ok(()) => state.files.sync(self.id),
            Err(error) => {
                state.files.give_up(self.id);
                return Err(error);
            }
        }
        Ok(())
    }
}

impl Machine for World {
    fn kind(&self, path: &Path) -> Option<Kind> {
        self.state().files.kind(path)
    }
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.state().files.read(path).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
    fn names(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        self.state().files.names(dir)
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.tick(false)?;
        state.files.create_dir(path)
    }
    fn create(&self, path: &Path, new: bool) -> io::Result<()> {
        let mut state = self.state();
        state.tick(false)?;
        state.files.create(path, new).map(drop)
    }
    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        state.tick(false)?;
        let id = state.id(path)?;
        let end = state.files.content(id)?.len();
        state.files.write(id, end, bytes)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.tick(false)?;
        let id = state.id(from)?;
        state.files.remember(id);
        state.files.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.tick(false)?;
        state.files.remove(path)
    }
    fn sync(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        let id = state.id(path)?;
        state.sync(id)
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn RandomAccess>> {
        let id = self.state().id(path)?;
        Ok(Arc::new(Open { world: self.clone(), id }))
    }
    fn identity(&self, path: &Path) -> io::Result<u64> {
        Ok(self.state().id(path)? as u64)
    }
    fn changed_ms(&self, path: &Path) -> i64 {
        if self.state().files.touched.contains(path) { i64::MAX } else { i64::MIN }
    }
    fn exports_fail(&self) -> bool {
        self.state().exports_fail
    }
    fn unix_ms(&self) -> i64 {
        self.state().now_ms
    }
    fn random(&self, bytes: &mut [u8]) {
        let mut state = self.state();
        bytes.iter_mut().for_each(|byte| *byte = state.random.next() as u8);
    }
}
