//! A store on a medium that cannot be written, or must not be: reads come from the file, writes stay in memory.
//!
//! A store left by a crash needs a repair before it can be read. Where the file cannot be written (a read-only
//! folder, another user's file), the repair is done on this copy-on-write view instead of on a copy of gigabytes.
//! The file itself is never written. A store that is only bytes in memory is read the same way.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use redb::StorageBackend;

use super::layout::PAGE_BYTES;

#[derive(Debug)]
pub(crate) struct Overlay {
    base: Base,
    state: Mutex<State>,
    /// Numbers of the pages that were read, for tests that ask which matter.
    #[cfg(test)]
    pub(crate) touched: Arc<Mutex<std::collections::BTreeSet<u64>>>,
}

/// What lies under the changes.
#[derive(Clone, Debug)]
enum Base {
    File(Arc<File>),
    Bytes(Arc<[u8]>),
}

impl Base {
    fn read(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Self::File(file) => file.read_exact_at(out, offset),
            Self::Bytes(bytes) => {
                let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
                let from = bytes.get(start..start.saturating_add(out.len()));
                out.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
        }
    }
}

#[derive(Clone, Debug)]
struct State {
    /// Length as the database sees it.
    len: u64,
    /// Bytes of the file below this are still visible; a truncation hides the rest for good.
    file_len: u64,
    /// Changed pages by number.
    pages: BTreeMap<u64, Vec<u8>>,
}

impl Overlay {
    /// Over a file opened for reading.
    pub(in crate::journal) fn new(file: File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        Ok(Self::over(Base::File(Arc::new(file)), State { len, file_len: len, pages: BTreeMap::new() }))
    }

    /// Over bytes in memory, which are shared.
    pub(crate) fn of_bytes(bytes: Arc<[u8]>) -> Self {
        let len = bytes.len() as u64;
        Self::over(Base::Bytes(bytes), State { len, file_len: len, pages: BTreeMap::new() })
    }

    fn over(base: Base, state: State) -> Self {
        Self {
            base,
            state: Mutex::new(state),
            #[cfg(test)]
            touched: Arc::default(),
        }
    }

    /// The same view again, to be changed on its own.
    pub(crate) fn copy(&self) -> Self {
        Self {
            #[cfg(test)]
            touched: Arc::clone(&self.touched),
            ..Self::over(self.base.clone(), self.locked().clone())
        }
    }

    /// Changes bytes, as damage does.
    #[cfg(test)]
    pub(crate) fn put(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write(offset, bytes)
    }

    /// Cuts the view off.
    #[cfg(test)]
    pub(crate) fn cut(&self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }

    /// One page as the database sees it.
    fn page(&self, state: &State, number: u64) -> io::Result<Vec<u8>> {
        if let Some(page) = state.pages.get(&number) {
            return Ok(page.clone());
        }
        let mut page = vec![0; PAGE_BYTES as usize];
        let start = number * PAGE_BYTES;
        let there = usize::try_from(state.file_len.saturating_sub(start).min(PAGE_BYTES)).unwrap_or(0);
        if let Some(part) = page.get_mut(..there) {
            self.base.read(part, start)?;
        }
        Ok(page)
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pieces of a byte range by page: (page number, offset in the page, length).
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let end = offset.saturating_add(len as u64);
    let mut at = offset;
    std::iter::from_fn(move || {
        (at < end).then(|| {
            let within = at % PAGE_BYTES;
            let length = (PAGE_BYTES - within).min(end - at);
            let piece = (at / PAGE_BYTES, within as usize, length as usize);
            at += length;
            piece
        })
    })
}

impl StorageBackend for Overlay {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.locked().len)
    }

    fn read(&self, offset: u64, mut out: &mut [u8]) -> Result<(), io::Error> {
        let state = self.locked();
        if offset.saturating_add(out.len() as u64) > state.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        #[cfg(test)]
        if let Ok(mut touched) = self.touched.lock() {
            touched.extend(pieces(offset, out.len()).map(|(number, _, _)| number));
        }
        for (number, within, length) in pieces(offset, out.len()) {
            let page = self.page(&state, number)?;
            let (Some((to, rest)), Some(from)) =
                (out.split_at_mut_checked(length), page.get(within..within + length))
            else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            to.copy_from_slice(from);
            out = rest;
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        let mut state = self.locked();
        if len < state.len {
            let whole = len / PAGE_BYTES;
            if !len.is_multiple_of(PAGE_BYTES) {
                let mut page = self.page(&state, whole)?;
                page.iter_mut().skip((len % PAGE_BYTES) as usize).for_each(|byte| *byte = 0);
                state.pages.insert(whole, page);
            }
            state.pages.retain(|number, _| number * PAGE_BYTES < len);
            state.file_len = state.file_len.min(len);
        }
        state.len = len;
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        Ok(())
    }

    fn write(&self, offset: u64, mut data: &[u8]) -> Result<(), io::Error> {
        let mut state = self.locked();
        state.len = state.len.max(offset.saturating_add(data.len() as u64));
        for (number, within, length) in pieces(offset, data.len()) {
            let mut page = self.page(&state, number)?;
            let (Some((from, rest)), Some(to)) =
                (data.split_at_checked(length), page.get_mut(within..within + length))
            else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            to.copy_from_slice(from);
            data = rest;
            state.pages.insert(number, page);
        }
        Ok(())
    }

    super::locks::locks_are_free!();
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn writes_and_truncations_stay_in_memory() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[7; 10_000]).unwrap();
        let overlay = Overlay::new(File::open(file.path()).unwrap()).unwrap();
        overlay.write(4_000, &[1; 200]).unwrap();
        let mut out = [0; 300];
        overlay.read(3_950, &mut out).unwrap();
        assert_eq!((out[49], out[50], out[249], out[250]), (7, 1, 1, 7));
        overlay.set_len(4_100).unwrap();
        overlay.set_len(12_000).unwrap();
        let mut out = [9; 12_000];
        overlay.read(0, &mut out).unwrap();
        assert_eq!((out[3_999], out[4_099], out[4_100], out[9_000], out[11_999]), (7, 1, 0, 0, 0));
        assert!(overlay.read(11_999, &mut [0; 2]).is_err(), "past the end");
        assert_eq!(std::fs::read(file.path()).unwrap(), vec![7; 10_000]);
    }
}
