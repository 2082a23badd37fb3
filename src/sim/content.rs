//! What a file holds: pages shared between the many images of one disk, and copied when they change.

use std::sync::Arc;

const PAGE: usize = 4096;

type Page = Arc<[u8; PAGE]>;

/// Bytes of a file. A page that is not there is all zeros.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    len: usize,
    pages: Vec<Option<Page>>,
}

impl Content {
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) fn read(&self, mut offset: usize, mut out: &mut [u8]) {
        while !out.is_empty() {
            let (number, within) = (offset / PAGE, offset % PAGE);
            let count = (PAGE - within).min(out.len());
            let (now, rest) = out.split_at_mut(count);
            match self.pages.get(number) {
                Some(Some(page)) => now.copy_from_slice(&page[within..within + count]),
                _ => now.fill(0),
            }
            (out, offset) = (rest, offset + count);
        }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len];
        self.read(0, &mut bytes);
        bytes
    }

    /// Writes there, and makes the file longer if need be.
    pub(super) fn write(&mut self, mut offset: usize, mut bytes: &[u8]) {
        self.len = self.len.max(offset + bytes.len());
        self.pages.resize(self.len.div_ceil(PAGE), None);
        while !bytes.is_empty() {
            let (number, within) = (offset / PAGE, offset % PAGE);
            let count = (PAGE - within).min(bytes.len());
            let page = self.pages[number].get_or_insert_with(|| Arc::new([0; PAGE]));
            Arc::make_mut(page)[within..within + count].copy_from_slice(&bytes[..count]);
            (bytes, offset) = (&bytes[count..], offset + count);
        }
    }

    /// Cuts it, or adds zeros.
    pub(super) fn set_len(&mut self, len: usize) {
        self.pages.resize(len.div_ceil(PAGE), None);
        if len < self.len
            && !len.is_multiple_of(PAGE)
            && let Some(Some(page)) = self.pages.last_mut()
        {
            Arc::make_mut(page)[len % PAGE..].fill(0);
        }
        self.len = len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_what_was_written_and_zeros_elsewhere() {
        let mut content = Content::default();
        content.write(4_000, &[7; 5_000]);
        assert_eq!(content.len(), 9_000);
        let copy = content.clone();
        content.write(4_095, &[1, 2]);
        content.set_len(4_096);
        content.set_len(4_200);
        let bytes = content.bytes();
        assert_eq!((bytes[3_999], bytes[4_000], bytes[4_094], bytes[4_095], bytes[4_096]), (0, 7, 7, 1, 0));
        assert_eq!(bytes.len(), 4_200);
        assert_eq!(copy.bytes()[4_095..4_097], [7, 7], "the copy is as it was");
    }
}
