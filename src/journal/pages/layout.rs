//! Header, pages and links of redb's file format 3, read from bytes that may be anything.
//!
//! A redb file is a tree of pages in which every link carries the checksum of the page it leads to, up to the two
//! commit slots in the header, which carry their own. Nothing here may panic, allocate by a number it was given, or go
//! round in circles.

use twox_hash::XxHash3_128;

/// Size of the smallest page.
pub(in crate::journal) const PAGE_BYTES: u64 = 4096;
/// What a redb file begins with.
const MAGIC: [u8; 9] = *b"redb\x1A\x0A\xA9\x0D\x0A";
/// Bytes of the header that mean something.
pub(in crate::journal) const HEADER_BYTES: usize = 320;
/// The one file format known here.
const FORMAT: u8 = 3;
/// Checksum of a page that is not committed yet.
const DEFERRED: u128 = 999;
/// Pages of order 20 are 4 GiB: as large as a region.
pub(super) const MAX_ORDER: u32 = 20;

/// A link to a page: its number as stored, and the checksum of what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::journal) struct Link {
    /// redb's page number: order, region and index.
    pub page: u64,
    /// xxh3-128 of the page's used bytes.
    pub checksum: u128,
}

impl Link {
    /// Whether the page has its final checksum: one that a transaction still works on has none.
    pub(in crate::journal) fn is_final(self) -> bool {
        self.checksum != DEFERRED
    }
}

/// Where a page lies in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::journal) struct PageRange {
    pub offset: u64,
    pub len: u64,
}

/// How pages are laid out in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::journal) struct Layout {
    region_header_pages: u64,
    region_data_pages: u64,
}

impl Layout {
    pub(in crate::journal) fn place(self, page: u64) -> Option<PageRange> {
        let order = u32::try_from(page >> 59).ok().filter(|order| *order <= MAX_ORDER)?;
        let index = page & (0x000F_FFFF >> order);
        let region = (page >> 20) & 0x000F_FFFF;
        let len = PAGE_BYTES << order;
        let region_bytes = (self.region_header_pages + self.region_data_pages) * PAGE_BYTES;
        let offset = PAGE_BYTES + region * region_bytes + self.region_header_pages * PAGE_BYTES + index * len;
        Some(PageRange { offset, len })
    }
}

/// One of the two commits the header remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::journal) struct Slot {
    /// Whether its checksum fits.
    pub intact: bool,
    pub transaction: u64,
    /// Tree of the tables.
    pub user: Option<Link>,
    /// Tree of redb's own tables.
    pub system: Option<Link>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::journal) struct Header {
    pub layout: Layout,
    /// Bytes of the file at least.
    pub file_bytes: u64,
    /// Whether a writer has it open, or died.
    pub open: bool,
    /// Whether the last commit was being made durable.
    pub unflushed: bool,
    /// The commit that counts.
    pub primary: Slot,
    /// The other one: in a file in good order, the commit before.
    pub secondary: Slot,
}

impl Header {
    /// Reads a header; `None` for what is none, or of another format.
    pub(in crate::journal) fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..HEADER_BYTES)?;
        let rest = bytes.strip_prefix(&MAGIC)?;
        let flags = *rest.first()?;
        if u64::from(u32_at(bytes, 12)?) != PAGE_BYTES {
            return None;
        }
        let (region_header_pages, region_data_pages) = (u32_at(bytes, 16)?, u32_at(bytes, 20)?);
        let limit = 1 << 20;
        if region_header_pages > limit || region_data_pages == 0 || region_data_pages > limit {
            return None;
        }
        let (first, second) = (Slot::parse(bytes.get(64..192)?)?, Slot::parse(bytes.get(192..320)?)?);
        let (primary, secondary) = if flags & 1 == 0 { (first, second) } else { (second, first) };
        let (region_header_pages, region_data_pages) = (region_header_pages.into(), region_data_pages.into());
        let (full, trailing) = (u64::from(u32_at(bytes, 24)?), u64::from(u32_at(bytes, 28)?));
        let trailing = if trailing == 0 { 0 } else { region_header_pages + trailing };
        Some(Self {
            layout: Layout { region_header_pages, region_data_pages },
            file_bytes: (1 + full * (region_header_pages + region_data_pages) + trailing) * PAGE_BYTES,
            open: flags & 2 != 0,
            unflushed: flags & 8 != 0,
            primary,
            secondary,
        })
    }

    /// What contradicts itself in the header of a file that was closed in good order: then the newest commit counts, and
    /// is durable. A flag that says otherwise would quietly take the last commit back.
    pub(in crate::journal) fn contradiction(&self, file_bytes: u64) -> Option<&'static str> {
        if self.open {
            None
        } else if file_bytes < self.file_bytes {
            Some("the file is cut off")
        } else if !self.primary.intact || !self.secondary.intact {
            Some("a commit slot in its header is damaged")
        } else if self.unflushed || self.secondary.transaction > self.primary.transaction {
            Some("its header points to an older commit than its last")
        } else {
            None
        }
    }

    /// The trees of both commits.
    pub(in crate::journal) fn roots(&self) -> impl Iterator<Item = Link> + use<> {
        let slots = [self.primary, self.secondary];
        slots.into_iter().filter(|slot| slot.intact).flat_map(|slot| [slot.user, slot.system]).flatten()
    }
}

impl Slot {
    fn parse(bytes: &[u8]) -> Option<Self> {
        if *bytes.first()? != FORMAT {
            return None;
        }
        let link = |flag: usize, at: usize| -> Option<Option<Link>> {
            let there = *bytes.get(flag)? != 0;
            let link = Link { page: u64_at(bytes, at)?, checksum: u128_at(bytes, at + 8)? };
            Some(there.then_some(link))
        };
        Some(Self {
            intact: u128_at(bytes, 112)? == XxHash3_128::oneshot(bytes.get(..112)?),
            transaction: u64_at(bytes, 104)?,
            user: link(1, 8)?,
            system: link(2, 40)?,
        })
    }
}

/// What a tree's leaves hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::journal) enum Tree {
    /// Definitions of tables, by name.
    Tables,
    /// Records, whose keys and values have these widths where they are fixed.
    Records {
        /// Bytes of every key.
        key: Option<u32>,
        /// Bytes of every value.
        value: Option<u32>,
    },
}

impl Tree {
    /// A table of records by number, as nearly all of piton's are.
    pub(in crate::journal) const NUMBERED: Self = Self::Records { key: Some(8), value: None };

    fn widths(self) -> (Option<usize>, Option<usize>) {
        let width = |width: Option<u32>| width.and_then(|bytes| usize::try_from(bytes).ok());
        match self {
            Self::Tables => (None, None),
            Self::Records { key, value } => (width(key), width(value)),
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(in crate::journal) struct Page<'a> {
    bytes: &'a [u8],
    tree: Tree,
}

impl<'a> Page<'a> {
    /// A page of this tree; what it says must be checked before it is believed.
    pub(in crate::journal) fn new(bytes: &'a [u8], tree: Tree) -> Self {
        Self { bytes, tree }
    }

    pub(in crate::journal) fn is_branch(self) -> bool {
        self.bytes.first() == Some(&2)
    }

    pub(in crate::journal) fn is_leaf(self) -> bool {
        self.bytes.first() == Some(&1)
    }

    /// Keys of a branch, or pairs of a leaf.
    fn count(self) -> usize {
        match self.bytes {
            [_, _, low, high, ..] => u16::from_le_bytes([*low, *high]).into(),
            _ => 0,
        }
    }

    /// Whether its used bytes have this checksum.
    pub(in crate::journal) fn has(self, checksum: u128) -> bool {
        let used = if self.is_branch() {
            self.branch_end()
        } else if self.is_leaf() {
            self.leaf_end()
        } else {
            None
        };
        let used = used.and_then(|end| self.bytes.get(..end));
        used.is_some_and(|used| XxHash3_128::oneshot(used) == checksum)
    }

    fn branch_end(self) -> Option<usize> {
        let keys = self.count();
        let last = keys.checked_sub(1)?;
        let after_links = 8 + 24 * (keys + 1);
        match self.tree.widths().0 {
            Some(width) => after_links.checked_add(width.checked_mul(keys)?),
            None => usize_at(self.bytes, after_links + 4 * last),
        }
    }

    fn leaf_end(self) -> Option<usize> {
        self.value_end(self.count().checked_sub(1)?)
    }

    /// Where the keys of a leaf begin: after the ends of keys and values of no fixed width.
    fn keys_start(self) -> usize {
        let (key, value) = self.tree.widths();
        4 + 4 * self.count() * (usize::from(key.is_none()) + usize::from(value.is_none()))
    }

    fn key_end(self, n: usize) -> Option<usize> {
        match self.tree.widths().0 {
            Some(width) => self.keys_start().checked_add(width.checked_mul(n + 1)?),
            None => usize_at(self.bytes, 4 + 4 * n),
        }
    }

    fn value_end(self, n: usize) -> Option<usize> {
        let (key, value) = self.tree.widths();
        match value {
            Some(width) => self.key_end(self.count().checked_sub(1)?)?.checked_add(width.checked_mul(n + 1)?),
            None => usize_at(self.bytes, 4 + 4 * n + if key.is_none() { 4 * self.count() } else { 0 }),
        }
    }

    /// Links to the children of a branch.
    pub(in crate::journal) fn children(self) -> impl Iterator<Item = Link> + use<'a> {
        let count = if self.is_branch() { self.count() + 1 } else { 0 };
        (0..count).map_while(move |n| {
            let checksum = u128_at(self.bytes, 8 + 16 * n)?;
            Some(Link { page: u64_at(self.bytes, 8 + 16 * count + 8 * n)?, checksum })
        })
    }

    /// Bytes a leaf says it uses.
    pub(in crate::journal) fn leaf_bytes(self) -> Option<u64> {
        self.leaf_end().filter(|_| self.is_leaf()).map(|end| end as u64)
    }

    /// Keys and values of a leaf, as far as they lie in it.
    pub(in crate::journal) fn pairs(self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        self.records().map(|(key, value, _)| (key, value))
    }

    /// The same, with each value's place in the page.
    pub(in crate::journal) fn records(self) -> impl Iterator<Item = (&'a [u8], &'a [u8], usize)> + use<'a> {
        let count = if self.is_leaf() { self.count() } else { 0 };
        (0..count).filter_map(move |n| {
            let key_start = if n == 0 { self.keys_start() } else { self.key_end(n - 1)? };
            let value_start = if n == 0 { self.key_end(count - 1)? } else { self.value_end(n - 1)? };
            let key = self.bytes.get(key_start..self.key_end(n)?)?;
            Some((key, self.bytes.get(value_start..self.value_end(n)?)?, value_start))
        })
    }

    /// Tables whose definitions are in this leaf: name, tree and root.
    pub(in crate::journal) fn tables(self) -> impl Iterator<Item = (&'a [u8], Tree, Link)> + use<'a> {
        let pairs = matches!(self.tree, Tree::Tables).then(|| self.pairs());
        pairs.into_iter().flatten().filter_map(|(name, definition)| {
            let (tree, link) = table_root(definition)?;
            Some((name, tree, link))
        })
    }
}

/// Tree and root of a table by its definition; `None` for an empty one, and for a multimap, whose values are trees.
fn table_root(definition: &[u8]) -> Option<(Tree, Link)> {
    const PLAIN: u8 = 3;
    if *definition.first()? != PLAIN || *definition.get(9)? == 0 {
        return None;
    }
    let link = Link { page: u64_at(definition, 10)?, checksum: u128_at(definition, 18)? };
    let width = |at: usize| -> Option<Option<u32>> {
        let fixed = *definition.get(at)? != 0;
        Some(if fixed { Some(u32_at(definition, at + 1)?) } else { None })
    };
    Some((Tree::Records { key: width(42)?, value: width(47)? }, link))
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.first_chunk().copied()
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array_at(bytes, at).map(u32::from_le_bytes)
}

fn usize_at(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u32_at(bytes, at)?).ok()
}

pub(in crate::journal) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array_at(bytes, at).map(u64::from_le_bytes)
}

fn u128_at(bytes: &[u8], at: usize) -> Option<u128> {
    array_at(bytes, at).map(u128::from_le_bytes)
}
