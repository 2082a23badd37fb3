//! Storage under redb that lets no damaged page through: each page read is held against the checksum in the link that
//! leads to it, before redb sees a byte of it.
//!
//! So whatever redb answers is what was committed, at a price that grows with what is read and not with the store; a
//! damaged page is an error of the read that needs it. redb itself checks pages only in a full pass over the file,
//! and otherwise believes them: it would panic, loop, or answer wrongly, and a writer would give the damage a good
//! checksum. A page that no link leads to (redb reads none such) passes as it is. It must never refuse a page of a healthy
//! file, also while another process writes it: a link is known from a page of a snapshot that is being read, and
//! pages of such a snapshot do not change.

use std::collections::HashMap;
use std::io;
use std::num::NonZeroU8;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::{BackendError, StorageBackend};
use twox_hash::XxHash3_64;

use super::layout::{HEADER_BYTES, Header, Layout, Link, PAGE_BYTES, Page, PageRange, Tree};

#[derive(Debug)]
pub(in crate::journal) struct Checked<B> {
    inner: B,
    known: Mutex<Known>,
    /// How long the file is that nobody else may write. redb believes that it knows, and panics where it does not.
    length: Option<Mutex<u64>>,
}

/// What links say of the pages they lead to.
#[derive(Debug, Default)]
struct Known {
    layout: Option<Layout>,
    /// The trees of the commits in the header as it was read or written last.
    roots: Vec<(PageRange, Link)>,
    pages: ByPlace<Expected>,
    /// Pages that were written through this, with a hash of each: links say nothing of them before they are committed, and somebody
    /// else may write the file meanwhile.
    own: ByPlace<u64>,
    /// The kinds of trees met, by index.
    trees: Vec<Tree>,
}

#[derive(Clone, Copy, Debug)]
struct Expected {
    /// Low half first: in one piece it would take twice its room.
    checksum: [u64; 2],
    tree: u16,
}

impl Expected {
    fn checksum(self) -> u128 {
        let [low, high] = self.checksum.map(u128::from);
        high << 64 | low
    }
}

fn halves(checksum: u128) -> [u64; 2] {
    [checksum, checksum >> 64].map(|half| u64::try_from(half & u128::from(u64::MAX)).unwrap_or(0))
}

/// Something for each page: a link to a page of another length at the same place means that the one before is gone. A branch
/// has links to a hundred pages of which a look-up reads one, so this has to be cheap: no hash and no moving, for as many pages as honest
/// stores have. What a link says may be anything; beyond these it is kept by itself.
#[derive(Debug)]
struct ByPlace<T> {
    chunks: Vec<Option<Box<Chunk<T>>>>,
    far: HashMap<u64, (Order, T)>,
}

/// The length of a page, by its logarithm.
type Order = NonZeroU8;

type Chunk<T> = [Option<(Order, T)>; CHUNK];

/// Pages a chunk.
const CHUNK: usize = 256;
/// Pages that are in chunks: those of 16 GiB.
const NEAR: u64 = 4 << 20;

impl<T> Default for ByPlace<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), far: HashMap::new() }
    }
}

impl<T: Copy> ByPlace<T> {
    fn order(place: PageRange) -> Order {
        u8::try_from(place.len.trailing_zeros()).ok().and_then(Order::new).unwrap_or(Order::MAX)
    }

    /// Chunk and place in it.
    fn near(page: u64) -> Option<(usize, usize)> {
        let page = usize::try_from(page).ok().filter(|_| page < NEAR)?;
        Some((page / CHUNK, page % CHUNK))
    }

    fn get(&self, place: PageRange) -> Option<T> {
        let page = place.offset / PAGE_BYTES;
        let found = match Self::near(page) {
            Some((chunk, at)) => self.chunks.get(chunk)?.as_ref()?.get(at).copied().flatten(),
            None => self.far.get(&page).copied(),
        };
        found.filter(|(order, _)| *order == Self::order(place)).map(|(_, value)| value)
    }

    fn insert(&mut self, place: PageRange, value: T) {
        let (page, entry) = (place.offset / PAGE_BYTES, (Self::order(place), value));
        let Some((chunk, at)) = Self::near(page) else {
            self.far.insert(page, entry);
            return;
        };
        if self.chunks.len() <= chunk {
            self.chunks.resize_with(chunk + 1, || None);
        }
        if let Some(chunk) = self.chunks.get_mut(chunk) {
            let chunk = chunk.get_or_insert_with(|| Box::new([None; CHUNK]));
            chunk.get_mut(at).into_iter().for_each(|place| *place = Some(entry));
        }
    }

    /// Forgets the page that begins here, whatever its length.
    fn remove(&mut self, offset: u64) {
        let page = offset / PAGE_BYTES;
        match Self::near(page) {
            Some((chunk, at)) => {
                let chunk = self.chunks.get_mut(chunk).and_then(Option::as_mut);
                chunk.and_then(|chunk| chunk.get_mut(at)).into_iter().for_each(|place| *place = None);
            }
            None => drop(self.far.remove(&page)),
        }
    }
}

impl Known {
    fn header(&mut self, bytes: &[u8]) {
        let Some(header) = Header::parse(bytes) else { return };
        self.layout = Some(header.layout);
        self.roots.clear();
        self.roots.extend(header.roots().filter_map(|link| Some((header.layout.place(link.page)?, link))));
    }

    fn expect(&mut self, link: Link, tree: Tree) {
        let Some(place) = self.layout.and_then(|layout| layout.place(link.page)) else { return };
        if !link.is_final() {
            self.pages.remove(place.offset);
            return;
        }
        let known = self.trees.iter().position(|known| *known == tree);
        let index = known.unwrap_or_else(|| {
            self.trees.push(tree);
            self.trees.len() - 1
        });
        let Ok(tree) = u16::try_from(index) else { return };
        self.pages.insert(place, Expected { checksum: halves(link.checksum), tree });
    }

    /// Checks a page that was read, and learns the links in it. `false`: it is not what was written.
    fn page(&mut self, place: PageRange, bytes: &[u8]) -> bool {
        if self.own.get(place).is_some_and(|written| written != XxHash3_64::oneshot(bytes)) {
            return false;
        }
        let expected = self.pages.get(place);
        let by_link = expected.and_then(|expected| {
            let tree = *self.trees.get(usize::from(expected.tree))?;
            Some((tree, expected.checksum()))
        });
        let roots = self.roots.iter().filter(|(root, _)| *root == place);
        let candidates = roots.map(|(_, link)| (Tree::Tables, link.checksum)).chain(by_link);
        let mut expected_any = false;
        let mut tree = None;
        for (candidate, checksum) in candidates {
            expected_any = true;
            if Page::new(bytes, candidate).has(checksum) {
                tree = Some(candidate);
                break;
            }
        }
        let Some(tree) = tree else { return !expected_any };
        let page = Page::new(bytes, tree);
        for link in page.children() {
            self.expect(link, tree);
        }
        for (_, table, link) in page.tables() {
            self.expect(link, table);
        }
        true
    }

    /// Pages in this range are being written: what links said of them is past.
    fn written(&mut self, offset: u64, bytes: &[u8]) {
        let len = bytes.len() as u64;
        // What begins in the range is looked up, not searched for.
        let mut at = offset;
        while at < offset.saturating_add(len) {
            self.pages.remove(at);
            self.own.remove(at);
            at += PAGE_BYTES;
        }
        self.own.insert(PageRange { offset, len }, XxHash3_64::oneshot(bytes));
    }
}

impl<B: StorageBackend> Checked<B> {
    /// Over other storage.
    pub(in crate::journal) fn over(inner: B) -> Self {
        Self { inner, known: Mutex::default(), length: None }
    }

    /// Likewise, over storage that nobody but this writes.
    pub(in crate::journal) fn alone_over(inner: B) -> io::Result<Self> {
        let length = Some(Mutex::new(inner.len()?));
        Ok(Self { inner, known: Mutex::default(), length })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn damaged(offset: u64) -> io::Error {
    let page = offset / PAGE_BYTES;
    io::Error::new(io::ErrorKind::InvalidData, format!("page {page} of the file is not what was written"))
}

impl<B: StorageBackend> StorageBackend for Checked<B> {
    fn len(&self) -> io::Result<u64> {
        let now = self.inner.len()?;
        match &self.length {
            Some(length) if *length.lock().unwrap_or_else(PoisonError::into_inner) != now => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "another process changed the length of the file"))
            }
            _ => Ok(now),
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)?;
        if offset == 0 {
            if out.len() >= HEADER_BYTES {
                self.known().header(out);
            }
            return Ok(());
        }
        let place = PageRange { offset, len: out.len() as u64 };
        if self.known().page(place, out) { Ok(()) } else { Err(damaged(offset)) }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)?;
        if let Some(length) = &self.length {
            *length.lock().unwrap_or_else(PoisonError::into_inner) = len;
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if offset == 0 {
            self.known().header(data);
        } else {
            self.known().written(offset, data);
        }
        self.inner.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }
    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }
    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }
    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }
    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }
    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use redb::{Builder, ReadableDatabase, ReadableTable, TableDefinition};

    use super::*;
    use crate::journal::pages::Overlay;

    const TABLE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("t");

    #[test]
    fn what_is_known_of_a_page_goes_with_another_that_begins_there() {
        let place = |page: u64, order: u32| PageRange { offset: page * PAGE_BYTES, len: PAGE_BYTES << order };
        for page in [1, CHUNK as u64, NEAR - 1, NEAR, u64::MAX / PAGE_BYTES] {
            let mut known = ByPlace::default();
            assert_eq!(known.get(place(page, 0)), None);
            known.insert(place(page, 0), 7);
            assert_eq!((known.get(place(page, 0)), known.get(place(page, 1))), (Some(7), None));
            known.insert(place(page, 1), 8);
            assert_eq!((known.get(place(page, 0)), known.get(place(page, 1))), (None, Some(8)));
            known.remove(place(page, 0).offset);
            assert_eq!(known.get(place(page, 1)), None);
        }
        let checksum = 0x0123_4567_89ab_cdef_0f1e_2d3c_4b5a_6978;
        assert_eq!(Expected { checksum: halves(checksum), tree: 0 }.checksum(), checksum);
        assert_eq!(size_of::<Option<(Order, Expected)>>(), 32);
    }

    /// Of a database with branch pages, small and large leaves: every page that redb reads is known by a link.
    #[test]
    fn every_page_that_is_read_is_checked() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let db = Builder::new().create(file.path()).unwrap();
        let tx = db.begin_write().unwrap();
        {
            let mut table = tx.open_table(TABLE).unwrap();
            for key in 0..2_000 {
                let len = if key % 500 == 0 { 20_000 } else { 100 };
                table.insert(key, vec![7; len].as_slice()).unwrap();
            }
        }
        tx.commit().unwrap();
        db.close().unwrap();
        let bytes: Arc<[u8]> = std::fs::read(file.path()).unwrap().into();
        let whole = Overlay::of_bytes(Arc::clone(&bytes));
        let read_all = |store: Overlay| -> Result<usize, redb::Error> {
            let db = Builder::new().create_with_backend(Checked::over(store))?;
            let table = db.begin_read()?.open_table(TABLE)?;
            table.iter()?.map(|entry| entry.map(|_| 1).map_err(Into::into)).sum()
        };
        assert_eq!(read_all(whole.copy()).unwrap(), 2_000);
        let touched: Vec<u64> = whole.touched.lock().unwrap().iter().copied().filter(|page| *page > 0).collect();
        assert!(touched.len() > 60, "{}", touched.len());
        let mut told = 0;
        for page in touched {
            // The first byte of a page says what it is; of a page within a larger one it is any byte.
            let store = whole.copy();
            let at = page * 4096;
            store.put(at, &[bytes[at as usize] ^ 0x10]).unwrap();
            match read_all(store) {
                Err(redb::Error::Io(error)) => {
                    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
                    told += 1;
                }
                // Past the used part of a page.
                Ok(entries) => assert_eq!(entries, 2_000),
                Err(other) => panic!("{other:?}"),
            }
        }
        assert!(told > 60, "{told}");
    }
}
