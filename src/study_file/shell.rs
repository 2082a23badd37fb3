//! Which quoting a place in a shell line is in.
//!
//! A small reader of POSIX shell syntax: as much of it as decides how a value must be quoted. Where it is not sure
//! it must say so, for the check then refuses the placeholder: never guess.

/// What quoting a place needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Context {
    /// Outside quotes.
    Bare,
    /// In `'…'`.
    Single,
    /// In `"…"` or `$((…))`.
    Double,
    /// No quoting is safe there; in words.
    Unsafe(&'static str),
}

/// Reads a line piece by piece.
#[derive(Clone, Debug, Default)]
pub(super) struct Scanner {
    /// Open constructs, innermost last; empty: outside all.
    open: Vec<Open>,
    /// The last character was an unescaped backslash.
    escaped: bool,
    /// The last character was an unescaped `$`.
    dollar: bool,
    /// Letters of the word so far, outside quotes.
    word: String,
    /// The word so far has characters that no reserved word has.
    in_word: bool,
    /// A here-document begins at the next newline.
    here_document: bool,
    /// Set for good once the reader lost its way.
    lost: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    Single,
    Double,
    Backtick,
    Comment,
    /// `(…)`.
    Paren,
    /// `$(…)`.
    Substitution,
    /// `$((…))`, with this many parentheses open inside.
    Arithmetic(u32),
    /// `${…}`.
    Brace,
}

impl Scanner {
    /// Where the reader stands.
    pub(super) fn context(&self) -> Context {
        if let Some(why) = self.lost {
            return Context::Unsafe(why);
        }
        if self.escaped {
            return Context::Unsafe("right after a backslash");
        }
        if self.dollar {
            return Context::Unsafe("right after `$`");
        }
        for open in &self.open {
            match open {
                Open::Backtick => return Context::Unsafe("inside backticks; `$(…)` can be quoted"),
                Open::Brace => return Context::Unsafe("inside `${…}`"),
                _ => {}
            }
        }
        match self.open.last() {
            None | Some(Open::Paren | Open::Substitution) => Context::Bare,
            Some(Open::Single) => Context::Single,
            Some(Open::Double | Open::Arithmetic(_)) => Context::Double,
            Some(Open::Comment) => Context::Unsafe("inside a comment"),
            Some(Open::Backtick | Open::Brace) => Context::Unsafe("here"),
        }
    }

    /// A value stands here: part of a word, never syntax.
    pub(super) fn value(&mut self) {
        self.escaped = false;
        self.dollar = false;
        self.in_word = true;
    }

    /// Reads text of the study file's own.
    pub(super) fn feed(&mut self, text: &str) {
        let mut rest = text;
        while let Some(character) = rest.chars().next() {
            let length = self.step(character, rest);
            rest = rest.get(length..).unwrap_or_default();
        }
    }

    /// Reads one token of at least one character; how many bytes it took.
    fn step(&mut self, character: char, rest: &str) -> usize {
        let one = character.len_utf8();
        if std::mem::take(&mut self.escaped) {
            // A backslash before a newline joins lines; before anything else it makes it part of a word.
            self.in_word |= character != '\n';
            return one;
        }
        let dollar = std::mem::take(&mut self.dollar);
        match self.open.last().copied() {
            Some(Open::Single) => self.pop_at(character, '\''),
            Some(Open::Comment) => {
                if character == '\n' {
                    self.open.pop();
                    self.newline();
                }
            }
            Some(Open::Double) if character == '"' => {
                self.open.pop();
            }
            Some(Open::Backtick) if character == '`' => {
                self.open.pop();
            }
            Some(Open::Brace) if character == '}' => {
                self.open.pop();
            }
            inside => return self.expandable(inside, character, rest, dollar),
        }
        one
    }

    fn pop_at(&mut self, character: char, end: char) {
        if character == end {
            self.open.pop();
        }
    }

    /// A character where expansions happen.
    fn expandable(&mut self, inside: Option<Open>, character: char, rest: &str, dollar: bool) -> usize {
        match character {
            '\\' => self.escaped = true,
            '$' if rest.starts_with("$((") => {
                self.open.push(Open::Arithmetic(0));
                return 3;
            }
            '$' if rest.starts_with("$(") => {
                self.start_command(Open::Substitution);
                return 2;
            }
            '$' if rest.starts_with("${") => {
                self.open.push(Open::Brace);
                return 2;
            }
            '$' => self.dollar = true,
            '`' => self.open.push(Open::Backtick),
            _ => match inside {
                Some(Open::Arithmetic(depth)) => return self.arithmetic(depth, character, rest),
                Some(Open::Double) => {}
                _ => return self.bare(inside, character, rest, dollar),
            },
        }
        self.in_word = true;
        character.len_utf8()
    }

    fn start_command(&mut self, how: Open) {
        self.open.push(how);
        self.end_word();
    }

    fn arithmetic(&mut self, depth: u32, character: char, rest: &str) -> usize {
        self.open.pop();
        match character {
            ')' if depth == 0 && rest.starts_with("))") => return 2,
            ')' if depth == 0 => self.lost = Some("after `$((` that `))` does not close"),
            ')' => self.open.push(Open::Arithmetic(depth - 1)),
            '(' => self.open.push(Open::Arithmetic(depth + 1)),
            _ => self.open.push(Open::Arithmetic(depth)),
        }
        character.len_utf8()
    }

    /// A character outside quotes.
    fn bare(&mut self, inside: Option<Open>, character: char, rest: &str, dollar: bool) -> usize {
        match character {
            '\'' | '"' if dollar => self.lost = Some("after `$'` or `$\"`, which not every shell reads alike"),
            '\'' if inside == Some(Open::Brace) => self.lost = Some("after a quote inside `${…}`"),
            '\'' => self.open.push(Open::Single),
            '"' => self.open.push(Open::Double),
            '#' if !self.in_word && self.word.is_empty() && inside != Some(Open::Brace) => {
                self.open.push(Open::Comment);
                return 1;
            }
            '<' if rest.starts_with("<<<") => {
                self.end_word();
                return 3;
            }
            '<' if rest.starts_with("<<") => {
                self.here_document = true;
                self.end_word();
                return 2;
            }
            '(' => {
                self.start_command(Open::Paren);
                return 1;
            }
            ')' => {
                self.end_word();
                let closed = self.open.pop_if(|open| matches!(open, Open::Paren | Open::Substitution));
                // What follows a substitution still belongs to its word.
                self.in_word = closed == Some(Open::Substitution);
                return 1;
            }
            '\n' => {
                self.newline();
                return 1;
            }
            ' ' | '\t' | ';' | '&' | '|' | '<' | '>' => {
                self.end_word();
                return 1;
            }
            letter if letter.is_ascii_lowercase() && !self.in_word => {
                self.word.push(letter);
                return 1;
            }
            _ => {}
        }
        self.in_word = true;
        character.len_utf8()
    }

    fn newline(&mut self) {
        self.end_word();
        if self.here_document {
            self.lost = Some("in or after a here-document");
        }
    }

    fn end_word(&mut self) {
        if self.word == "case" && !self.in_word && self.open.contains(&Open::Substitution) {
            // The `)` of a pattern looks like the end of the substitution.
            self.lost = Some("after `case` inside `$(…)`");
        }
        self.word.clear();
        self.in_word = false;
    }
}
