//! The store's file below redb: everything here that knows how redb lays out its pages, and nothing else does.
//!
//! redb writes a checksum into every link to a page but does not look at it when it reads. So piton reads the format
//! itself: [`Checked`] lies between redb and the file and refuses a damaged page before redb sees it; [`Pages`] walks the
//! same tree around what is damaged, for `salvage`, and says for the writer whether all of it is whole. [`Overlay`] and
//! the locks stand in for a file. The rest of the journal takes what this file exports and knows no offset.
//!
//! # When redb changes its layout
//!
//! This is made for redb `REDB_VERSION`, file format 3; `Cargo.toml` asks for exactly that version, and a test holds
//! `Cargo.lock` against it. The source is redb's `docs/design.md` and its `src/tree_store/`. Before another version is
//! taken:
//!
//! 1. compare those two between the versions. What `layout.rs` takes from them: the magic number, the flags and the two
//!    commit slots of the header and what their checksums cover; how a page number names region, order and index; the
//!    heads of leaf and branch pages; the definition of a table; which hash a checksum is;
//! 2. in `locks.rs`, the bytes that a writer locks; in `checked.rs`, in which order redb reads and writes pages, that it reads
//!    each page whole, and that pages of a snapshot never change;
//! 3. a new format number gets a reader of its own beside the old: stores that were made before are opened for ever,
//!    and a file of a format unknown here passes unchecked and salvages nothing;
//! 4. run `journal`'s tests, `testing::damage`, the salvage tests and those on old stores; only then set `REDB_VERSION`.

mod checked;
mod layout;
mod locks;
mod overlay;
mod walk;

pub(super) use checked::Checked;
#[cfg(test)]
pub(super) use layout::Tree;
pub(super) use layout::{HEADER_BYTES, Header, Page, u64_at};
pub(super) use locks::WRITERS_BYTES;
#[cfg(test)]
pub(super) use locks::locks_are_free;
pub(crate) use overlay::Overlay;
pub(super) use walk::{Commit, Pages, is_whole};

/// The version of redb whose files are read here.
#[cfg(test)]
const REDB_VERSION: &str = "4.6.0";

#[cfg(test)]
mod tests {
    use super::REDB_VERSION;

    #[test]
    fn redb_is_the_version_whose_files_are_read_here() {
        let read = |name: &str| {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
            std::fs::read_to_string(path).unwrap().parse::<toml::Table>().unwrap()
        };
        let asked = read("Cargo.toml")["dependencies"]["redb"].clone();
        let asked = asked.get("version").unwrap_or(&asked).as_str().unwrap().to_owned();
        assert_eq!(
            asked,
            format!("={REDB_VERSION}"),
            "only this version may be taken: see the opening of `pages`"
        );
        let lock = read("Cargo.lock");
        let locked =
            lock["package"].as_array().unwrap().iter().filter(|package| package["name"].as_str() == Some("redb"));
        let locked: Vec<_> = locked.map(|package| package["version"].as_str().unwrap()).collect();
        assert_eq!(locked, [REDB_VERSION], "what has to be looked at stands in the opening of `pages`");
    }
}
