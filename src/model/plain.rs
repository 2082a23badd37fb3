//! What a program wrote, as what it shows: the one place where colour codes and the like are taken off. Failure rules and
//! metric rules search this text, and excerpts show it, so that what a person reads is what an expression sees.

use std::borrow::Cow;

/// The text without escape sequences and control characters; ends of lines and tabs stay.
#[derive(Debug)]
pub(crate) struct Plain<'a> {
    /// A return to the beginning of a line is an end of one: what a progress bar overwrites may be the line that matters.
    pub(crate) bytes: Cow<'a, [u8]>,
    /// Where such returns are: ends of lines that are none in the file.
    returns: Vec<usize>,
}

impl Plain<'_> {
    /// The line of the file that has what is at this place of the text, from 1.
    pub(crate) fn line_at(&self, at: usize) -> usize {
        let before = self.bytes.get(..at).unwrap_or(&self.bytes);
        let ends = before.iter().filter(|byte| **byte == b'\n').count();
        ends - self.returns.partition_point(|place| *place < at).min(ends) + 1
    }
}

impl Plain<'_> {
    /// The same behind another text, which is plain.
    pub(crate) fn behind(self, before: Vec<u8>) -> Plain<'static> {
        let returns = self.returns.iter().map(|place| place + before.len()).collect();
        let mut bytes = before;
        bytes.extend_from_slice(&self.bytes);
        Plain { bytes: Cow::Owned(bytes), returns }
    }
}

const ESC: u8 = 0x1b;

/// Makes it. Most texts are plain already, and cost one look.
pub(crate) fn plain(bytes: &[u8]) -> Plain<'_> {
    let steers = |byte: &u8| (*byte < b' ' && !matches!(byte, b'\n' | b'\t')) || matches!(byte, 0x7f | 0xc2);
    let Some(first) = bytes.iter().position(steers) else {
        return Plain { bytes: Cow::Borrowed(bytes), returns: Vec::new() };
    };
    let (kept, mut rest) = bytes.split_at(first);
    let mut out = Vec::with_capacity(bytes.len());
    out.extend_from_slice(kept);
    let mut returns = Vec::new();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'\n' | b'\t' => out.push(*byte),
            b'\r' => {
                let more = after.iter().take_while(|byte| **byte == b'\r').count();
                rest = after.get(more..).unwrap_or_default();
                if rest.first().is_some_and(|next| *next != b'\n') {
                    returns.push(out.len());
                    out.push(b'\n');
                }
            }
            &ESC => rest = behind_escape(after),
            // The same as one character, in UTF-8.
            0xc2 if after.first() == Some(&0x9b) => rest = behind_sequence(after.get(1..).unwrap_or_default()),
            0xc2 if after.first().is_some_and(|next| (0x80..0xa0).contains(next)) => {
                rest = after.get(1..).unwrap_or_default();
            }
            0..b' ' | 0x7f => {}
            _ => out.push(*byte),
        }
    }
    Plain { bytes: Cow::Owned(out), returns }
}

/// After ESC: `[…letter`, `]…BEL` or `]…ESC \` and their like, `(B`, or one character. None goes beyond its line.
fn behind_escape(text: &[u8]) -> &[u8] {
    match text.split_first() {
        Some((b'[', rest)) => behind_sequence(rest),
        Some((b']' | b'P' | b'X' | b'^' | b'_', rest)) => {
            let end = |byte: &u8| matches!(byte, 0x7 | &ESC | 0x9c | b'\n' | b'\r');
            let at = rest.iter().position(end).unwrap_or(rest.len());
            match rest.get(at..).unwrap_or_default() {
                [0x7, rest @ ..] | [0x9c, rest @ ..] | [ESC, b'\\', rest @ ..] => rest,
                rest => rest,
            }
        }
        Some((b' '..=b'/', rest)) => {
            let more = rest.iter().take_while(|byte| (b' '..=b'/').contains(*byte)).count();
            let rest = rest.get(more..).unwrap_or_default();
            rest.get(usize::from(rest.first().is_some_and(|byte| (b'0'..=b'~').contains(byte)))..)
                .unwrap_or_default()
        }
        Some((b' '..=b'~', rest)) => rest,
        _ => text,
    }
}

/// After `ESC [`: parameters, and the letter that ends them.
fn behind_sequence(text: &[u8]) -> &[u8] {
    let more = text.iter().take_while(|byte| (b' '..=b'?').contains(*byte)).count();
    let rest = text.get(more..).unwrap_or_default();
    rest.get(usize::from(rest.first().is_some_and(|byte| (b'@'..=b'~').contains(byte)))..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        String::from_utf8(plain(text.as_bytes()).bytes.into_owned()).unwrap()
    }

    #[test]
    fn what_a_terminal_obeys_is_taken_off() {
        assert_eq!(shown("\x1b[31mERR: boom\x1b[0m\r\n"), "ERR: boom\n");
        assert_eq!(shown("\x1b[1;38;5;9mERR\x1b(B\x1b[m:\tx\x1b]8;;http://x\x1b\\y\x1b]0;t\x07z"), "ERR:\txyz");
        assert_eq!(shown("a\u{9b}31mb\u{85}c\x07\x08d\x7f ä\u{a0}"), "abcd ä\u{a0}");
        assert_eq!(shown("10%\r50%\r\r100%\r\r\nnext"), "10%\n50%\n100%\nnext");
        assert_eq!(shown("\x1b[31\nx\x1b]open\ny\x1b"), "\nx\ny", "no sequence hides the next line");
        assert_eq!(plain(b"\xff\xfe\x1b[0m\xc2").bytes.as_ref(), b"\xff\xfe\xc2", "other bytes are not judged");
        assert!(matches!(plain("plain\n\tö".as_bytes()).bytes, Cow::Borrowed(_)));
    }

    #[test]
    fn lines_are_those_of_the_file() {
        let text = plain(b"a\r1\r2\nb\r\nc");
        assert_eq!(text.bytes.as_ref(), b"a\n1\n2\nb\nc");
        let lines: Vec<usize> = [0, 2, 4, 6, 8].map(|at| text.line_at(at)).into();
        assert_eq!(lines, [1, 1, 1, 2, 3]);
    }
}
