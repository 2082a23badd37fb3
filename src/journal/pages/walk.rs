//! The pages of a file that may be damaged: along the links whose checksums hold, and every page by itself.
//!
//! What is found is handed to whoever asks; records mean nothing here. The file is only read, and however its links lie, a
//! walk visits no more pages than the file has.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::layout::{HEADER_BYTES, Header, Layout, Link, PAGE_BYTES, Page, Slot, Tree};

/// Longest page that is read: a record of the codec's largest size.
const LIMIT_BYTES: u64 = 80 << 20;

#[derive(Debug)]
pub(in crate::journal) struct Pages<'a> {
    file: &'a File,
    len: u64,
    /// Whether a link led to a damaged page.
    is_torn: bool,
    /// Whether what the disk cannot read is passed over as damage, and is no error.
    reads_on: bool,
    /// Pages left to visit: links of a damaged file may share pages, but lead to no more than there are.
    budget: u64,
}

/// One of the two commits that a file's header names.
#[derive(Clone, Copy, Debug)]
pub(in crate::journal) struct Commit {
    layout: Layout,
    slot: Slot,
}

/// A table as a commit has it.
#[derive(Clone, Debug)]
pub(in crate::journal) struct Table {
    pub(in crate::journal) name: Vec<u8>,
    layout: Layout,
    tree: Tree,
    root: Link,
}

/// Whether every page that the newest commit links to is as it was written. Decodes nothing.
pub(in crate::journal) fn is_whole(path: &Path) -> io::Result<bool> {
    let file = File::open(path)?;
    let mut pages = Pages { reads_on: false, ..Pages::new(&file)? };
    let commits = pages.commits()?;
    let Some(newest) = commits.into_iter().find(|commit| commit.slot.intact) else { return Ok(false) };
    if newest.slot.user.is_none() {
        return Ok(false);
    }
    for table in pages.tables(newest)? {
        pages.walk(&table, &mut |_, _| {})?;
    }
    Ok(!pages.is_torn)
}

impl<'a> Pages<'a> {
    /// Of a file in which what the disk cannot read counts as damaged.
    pub(in crate::journal) fn new(file: &'a File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        Ok(Self { file, len, is_torn: false, reads_on: true, budget: 2 * (len / PAGE_BYTES) + 2 })
    }

    /// Whether some link so far led to a damaged page, or nowhere.
    pub(in crate::journal) fn is_torn(&self) -> bool {
        self.is_torn
    }

    /// Bytes of the file; `None` where it is not long enough or the disk cannot read them.
    pub(in crate::journal) fn bytes(&self, offset: u64, len: u64) -> io::Result<Option<Vec<u8>>> {
        if len > LIMIT_BYTES || offset.saturating_add(len) > self.len {
            return Ok(None);
        }
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        match self.file.read_exact_at(&mut bytes, offset) {
            Ok(()) => Ok(Some(bytes)),
            // A bad sector is damage like any other: around it there may be much to read.
            Err(error) if self.reads_on && error.raw_os_error() == Some(libc::EIO) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The commits that the header names, the newer first; none where it is no header.
    pub(in crate::journal) fn commits(&mut self) -> io::Result<Vec<Commit>> {
        let header = self.bytes(0, HEADER_BYTES as u64)?.and_then(|bytes| Header::parse(&bytes));
        let Some(header) = header else {
            self.is_torn = true;
            return Ok(Vec::new());
        };
        let mut slots = [header.primary, header.secondary];
        slots.sort_by_key(|slot| std::cmp::Reverse(slot.transaction));
        Ok(slots.into_iter().map(|slot| Commit { layout: header.layout, slot }).collect())
    }

    pub(in crate::journal) fn tables(&mut self, commit: Commit) -> io::Result<Vec<Table>> {
        let Commit { layout, slot } = commit;
        let mut tables = Vec::new();
        let Some(root) = slot.user.filter(|_| slot.intact) else {
            self.is_torn = true;
            return Ok(tables);
        };
        let of_tables = Table { name: Vec::new(), layout, tree: Tree::Tables, root };
        self.walk(&of_tables, &mut |page, _| {
            let table =
                |(name, tree, root): (&[u8], Tree, Link)| Table { name: name.to_vec(), layout, tree, root };
            tables.extend(page.tables().map(table));
        })?;
        Ok(tables)
    }

    /// Visits the leaves that links with good checksums lead to, with each one's place in the file.
    pub(in crate::journal) fn walk(
        &mut self,
        table: &Table,
        visit: &mut dyn FnMut(Page<'_>, u64),
    ) -> io::Result<()> {
        let mut links = vec![table.root];
        while let Some(link) = links.pop() {
            self.budget = self.budget.saturating_sub(1);
            let place = table.layout.place(link.page).filter(|_| self.budget > 0);
            let bytes = match place {
                Some(place) => self.bytes(place.offset, place.len)?,
                None => None,
            };
            let (Some(place), Some(bytes)) = (place, bytes) else {
                self.is_torn = true;
                continue;
            };
            let page = Page::new(&bytes, table.tree);
            if !page.has(link.checksum) {
                self.is_torn = true;
                continue;
            }
            links.extend(page.children());
            visit(page, place.offset);
        }
        Ok(())
    }

    /// Visits every page as if it were a leaf of records.
    pub(in crate::journal) fn scan(&self, visit: &mut dyn FnMut(Page<'_>, u64)) -> io::Result<()> {
        for offset in (PAGE_BYTES..self.len).step_by(4096) {
            let Some(mut bytes) = self.bytes(offset, PAGE_BYTES.min(self.len - offset))? else { continue };
            let Some(needed) = Page::new(&bytes, Tree::NUMBERED).leaf_bytes() else { continue };
            if needed > bytes.len() as u64 {
                // A larger page, or nonsense. Pages lie at multiples of their size, so that noise that looks like many
                // large pages costs a few passes over the file, not one for each.
                let size = needed.min(LIMIT_BYTES).next_power_of_two();
                if !(offset - PAGE_BYTES).is_multiple_of(size) {
                    continue;
                }
                let most = needed.min(LIMIT_BYTES).min(self.len - offset);
                if let Some(more) = self.bytes(offset, most)? {
                    bytes = more;
                }
            }
            visit(Page::new(&bytes, Tree::NUMBERED), offset);
        }
        Ok(())
    }
}
