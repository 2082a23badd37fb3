//! The one way to stdout and stderr: whatever is printed is harmless there, wherever its words come from.
//!
//! Trials, proposers, clusters and stores say what they like. A terminal obeys control characters, and GitHub's runner lines
//! that begin with `::`; so what people read passes a [`Sink`], which shows all of that as text. Callers clean what they lay
//! out (a cell's width is that of what is shown), but nothing depends on it.

use std::io::{self, Write};
use std::os::fd::AsFd;

use piton::views::{clean, steers_or_hides};
use rustix::fs::FileType;

use super::github;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Lines for people: nothing but text, our own colours, and ends of lines.
    Text,
    /// JSON, for programs: what could steer or hide is escaped, so that it is the same data.
    Json,
    /// Values for programs, as they are; on a terminal like [`Content::Text`].
    Table,
    /// What a trial printed, as it is. On a terminal colours and progress bars work, and nothing else; GitHub's runner finds
    /// no command in it, unless it goes to a file.
    Printed,
}

/// What of the text is not passed on as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Care {
    content: Content,
    /// Whether control characters are made harmless.
    controls: bool,
    colours: bool,
    /// Whether lines that GitHub's runner would obey are changed.
    commands: bool,
}

#[derive(Debug)]
pub struct Sink<W: Write> {
    out: W,
    care: Care,
    /// The beginning of a line, or of a character, whose rest decides how it is written.
    held: Vec<u8>,
    /// Whether what comes next goes on with a line.
    within: bool,
}

pub fn stdout(content: Content) -> Sink<io::StdoutLock<'static>> {
    let out = io::stdout();
    let care = Care::of(content, &out);
    Sink::new(out.lock(), care)
}

/// Standard output or standard error, for one who writes now and then and leaves it to others meanwhile.
pub fn shared(content: Content, to_stdout: bool) -> Sink<Box<dyn Write>> {
    if to_stdout {
        let out = io::stdout();
        let care = Care::of(content, &out);
        return Sink::new(Box::new(out), care);
    }
    let out = io::stderr();
    let care = Care::of(content, &out);
    Sink::new(Box::new(out), care)
}

/// Standard output's text, for one who puts it into a screenful.
pub fn shown(text: &mut Vec<u8>) -> Sink<&mut Vec<u8>> {
    Sink::new(text, Care::of(Content::Text, &io::stdout()))
}

/// Text of several lines on standard error; there is nowhere to report a failure of that.
pub fn to_stderr(text: &str) {
    let mut sink = shared(Content::Text, false);
    drop(sink.write_all(text.as_bytes()).and_then(|()| sink.flush()));
}

/// A line that is nothing but text, whatever it was made from: no control, no end of a line, no command to a runner.
pub fn line(text: &str) -> String {
    let text = clean(text);
    if github::is_there() { github::harmless(&text) } else { text }
}

/// Whether `stream` wants colour: a terminal, and neither NO_COLOR nor TERM=dumb.
pub fn colour(stream: &(impl anstream::stream::RawStream + io::IsTerminal)) -> bool {
    anstream::AutoStream::choice(stream) != anstream::ColorChoice::Never
}

impl Care {
    fn of(content: Content, stream: &(impl anstream::stream::RawStream + AsFd + io::IsTerminal)) -> Self {
        let people = content == Content::Text || io::IsTerminal::is_terminal(stream);
        let file = rustix::fs::fstat(stream)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
        let colours = match content {
            Content::Printed => true,
            _ => colour(stream),
        };
        let commands = github::is_there() && !file && content != Content::Table;
        Self { content, controls: people, colours, commands }
    }
}

/// Most bytes that are held back for the end of a line.
const HELD: usize = 64 * 1024;

impl<W: Write> Sink<W> {
    fn new(out: W, care: Care) -> Self {
        Self { out, care, held: Vec::new(), within: false }
    }

    /// Writes of what is held all that is whole: lines, and as much as is certain of one that has not ended.
    fn pass(&mut self, all: bool) -> io::Result<()> {
        let mut held = std::mem::take(&mut self.held);
        let ends = held.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let mut whole = if all { held.len() } else { ends };
        if all && !held.is_empty() && self.care.commands {
            // The beginning of what may become a command.
            let last = held.get(ends..).unwrap_or_default();
            let blank = !self.within || ends > 0;
            let undecided = last.iter().all(|byte| b" \t:".contains(byte)) && last.len() < HELD;
            let hashes = last.iter().rev().take_while(|byte| **byte == b'#').count();
            whole -= if blank && undecided { last.len() } else { hashes };
        }
        if all {
            whole -= cut_character(held.get(..whole).unwrap_or_default());
        }
        let rest = held.split_off(whole);
        self.held = rest;
        self.convey(&held)
    }

    fn convey(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let Care { content, controls, colours, commands } = self.care;
        if content == Content::Json {
            let text = String::from_utf8_lossy(bytes);
            return self.out.write_all(json(&text, commands).as_bytes());
        }
        if !controls && !commands {
            return self.out.write_all(bytes);
        }
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let begins = !std::mem::replace(&mut self.within, !part.ends_with(b"\n"));
            let mut shown: Vec<u8> = match controls {
                true => {
                    harmless(&String::from_utf8_lossy(part), colours, content == Content::Printed).into_bytes()
                }
                false => part.to_vec(),
            };
            if commands {
                shown = defused(&shown, begins);
            }
            self.out.write_all(&shown)?;
        }
        Ok(())
    }
}

impl<W: Write> Write for Sink<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A million lines of JSON have nothing to hide.
        let plain = |bytes: &[u8]| bytes.is_ascii() && !bytes.contains(&0x7f);
        if self.care.content == Content::Json && !self.care.commands && self.held.is_empty() && plain(bytes) {
            return self.out.write(bytes);
        }
        self.held.extend_from_slice(bytes);
        self.pass(self.care.content == Content::Json || self.held.len() > HELD)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.pass(true)?;
        self.out.flush()
    }
}

impl<W: Write> Drop for Sink<W> {
    fn drop(&mut self) {
        let held = std::mem::take(&mut self.held);
        drop(self.convey(&held).and_then(|()| self.out.flush()));
    }
}

/// How many bytes at the end are the beginning of a character.
fn cut_character(bytes: &[u8]) -> usize {
    let last = bytes.get(bytes.len().saturating_sub(4)..).unwrap_or_default();
    match std::str::from_utf8(last) {
        Ok(_) => 0,
        // What begins within a character fails at once; what ends within one only there.
        Err(_) => (1..=last.len().min(3))
            .find(|count| {
                let tail = last.get(last.len() - count..).unwrap_or_default();
                tail.first().is_some_and(|byte| *byte >= 0xc0)
                    && std::str::from_utf8(tail).is_err_and(|error| error.error_len().is_none())
            })
            .unwrap_or(0),
    }
}

/// The text with all that steers a terminal shown as text; ends of lines and tabs stay, and colours where they are wanted.
/// `printed`: so do returns to the beginning of a line.
fn harmless(text: &str, colours: bool, printed: bool) -> String {
    let mut out = String::with_capacity(text.len());
    let mut coloured = false;
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let (this, after) = rest.split_at(letter.len_utf8());
        rest = after;
        match letter {
            '\u{1b}' => match colour_code(after) {
                Some((code, after)) => {
                    rest = after;
                    if colours {
                        coloured = !matches!(code, "" | "0");
                        out.push_str(&format!("\u{1b}[{code}m"));
                    }
                }
                None => out.push_str(&clean(this)),
            },
            '\r' if printed || after.starts_with('\n') => out.push(letter),
            '\n' => {
                if std::mem::take(&mut coloured) && !printed {
                    out.push_str("\u{1b}[0m");
                }
                out.push(letter);
            }
            '\t' => out.push(letter),
            letter if steers_or_hides(letter) => out.push_str(&clean(this)),
            letter => out.push(letter),
        }
    }
    if coloured && !printed {
        out.push_str("\u{1b}[0m");
    }
    out
}

/// The code of a colour that begins behind an ESC, and what follows it. Text that blinks or cannot be seen is none.
fn colour_code(after: &str) -> Option<(&str, &str)> {
    let (code, rest) = after.strip_prefix('[')?.split_once('m')?;
    let digits = code.len() <= 24 && code.bytes().all(|byte| byte.is_ascii_digit() || byte == b';');
    let seen = !code.split(';').any(|number| matches!(number, "5" | "6" | "8"));
    (digits && seen).then_some((code, rest))
}

/// A part of a line in which GitHub's runner finds no command.
fn defused(part: &[u8], begins: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(part.len());
    let lead = part.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
    let (space, rest) = part.split_at(lead);
    out.extend_from_slice(space);
    let mut rest = match rest.strip_prefix(b"::") {
        Some(rest) if begins => {
            out.extend_from_slice(b": :");
            rest
        }
        _ => rest,
    };
    while let Some((letter, after)) = rest.split_first() {
        out.push(*letter);
        rest = after;
        if *letter == b'#' && rest.starts_with(b"#[") {
            out.extend_from_slice(b"# ");
            rest = rest.get(1..).unwrap_or_default();
        }
    }
    out
}

/// The same JSON with what steers or hides, which can only be in a string, escaped.
fn json(text: &str, commands: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        // Pretty JSON has ends of lines; in strings they are escaped already.
        if letter == '\n' || !steers_or_hides(letter) {
            out.push(letter);
        } else {
            let mut units = [0; 2];
            letter.encode_utf16(&mut units).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
        }
    }
    // Two signs beside each other are in a string as well.
    if commands { out.replace("##[", "#\\u0023[") } else { out }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(content: Content, controls: bool, colours: bool, commands: bool, parts: &[&[u8]]) -> String {
        let mut out = Vec::new();
        let mut sink = Sink::new(&mut out, Care { content, controls, colours, commands });
        for part in parts {
            sink.write_all(part).unwrap();
            sink.flush().unwrap();
        }
        drop(sink);
        String::from_utf8(out).unwrap()
    }

    fn text(parts: &[&[u8]]) -> String {
        written(Content::Text, true, false, true, parts)
    }

    #[test]
    fn text_neither_steers_nor_hides() {
        assert_eq!(text(&[b"\x1b]0;PWN\x07 a\n"]), "\\u{1b}]0;PWN\\u{7} a\n");
        assert_eq!(text(&["\u{9b}2J\u{202e}x\u{feff}\r\n".as_bytes()]), "\\u{9b}2J\\u{202e}x\\u{feff}\r\n");
        assert_eq!(text(&[b"a\rb\x08\xffc"]), "a\\rb\\u{8}\u{fffd}c");
        assert_eq!(text(&["größer ".as_bytes(), &[0xe5, 0xa5], &[0xbd, b'\n']]), "größer 好\n");
    }

    #[test]
    fn our_colours_stay_where_they_are_wanted_and_end_with_the_line() {
        let red = b"\x1b[31mred\n\x1b[1mx\x1b[0m\n";
        assert_eq!(written(Content::Text, true, true, false, &[red]), "\x1b[31mred\x1b[0m\n\x1b[1mx\x1b[0m\n");
        assert_eq!(written(Content::Text, true, false, false, &[red]), "red\nx\n");
        let hostile = b"\x1b[8mhidden\x1b[2J\x1b[31;99999999999999999999999999m";
        assert!(!written(Content::Text, true, true, false, &[hostile]).contains('\x1b'));
    }

    #[test]
    fn no_line_is_a_command_however_it_comes() {
        assert_eq!(text(&[b"::error::x\n  ::add-mask::y\nz::w"]), ": :error::x\n  : :add-mask::y\nz::w");
        assert_eq!(text(&[b":", b":error::x\n"]), ": :error::x\n");
        assert_eq!(text(&[b"a\n ", b" ", b"::x"]), "a\n  : :x");
        assert_eq!(text(&[b"a#", b"#[group]b\n"]), "a## [group]b\n");
        assert_eq!(text(&[b"a", b"::b\n"]), "a::b\n");
        assert_eq!(text(&[b": done"]), ": done");
    }

    #[test]
    fn json_is_the_same_data() {
        let value = serde_json::json!({"a\u{202e}": "\u{9b}2J\u{1b}[m\u{7f}\u{feff}\u{e0041} ##[x] ö"});
        let plain = serde_json::to_string_pretty(&value).unwrap();
        let out = written(Content::Json, false, false, true, &[plain.as_bytes()]);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&out).unwrap(), value);
        assert!(!out.chars().any(|letter| letter != '\n' && steers_or_hides(letter)) && !out.contains("##["));
        assert!(out.contains("\\udb40\\udc41") && out.contains('ö'));
    }

    #[test]
    fn what_a_trial_printed_is_as_it_was_unless_someone_would_obey_it() {
        let printed = b"10%\r\x1b[31mred\n::error::x\xff\n";
        let mut out = Vec::new();
        let care = Care { content: Content::Printed, controls: false, colours: true, commands: false };
        Sink::new(&mut out, care).write_all(printed).unwrap();
        assert_eq!(out, printed);
        let on_terminal = written(Content::Printed, true, true, false, &[b"10%\r\x1b[31mred\x1b]0;t\x07\n"]);
        assert_eq!(on_terminal, "10%\r\x1b[31mred\\u{1b}]0;t\\u{7}\n");
        assert_eq!(written(Content::Printed, false, true, true, &[b"a\n::x\n"]), "a\n: :x\n");
    }
}
