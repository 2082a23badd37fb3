//! Rules of names that become parts of paths, for those that write them (study files) and those that read them (stores).
//!
//! What keeps a rule cannot lead out of the directory that it is put below. Only a rule's words for people are elsewhere.

use std::fmt::{self, Write as _};

use super::{Event, OutputHash, Record, StageDecl, StudyCreated, Verdict};

/// Longest name, bytes.
pub(crate) const NAME_MAX: usize = 64;

/// What is wrong with a name or a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NameFault {
    /// There is none.
    Empty,
    /// It is longer than [`NAME_MAX`].
    Long(usize),
    /// A character that names cannot have, and where.
    Character(char, usize),
    Nul(usize),
    /// It leads out of the directory that it is relative to.
    Escapes,
    /// It names that directory itself.
    Itself,
}

impl fmt::Display for NameFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("is empty"),
            Self::Long(length) => write!(f, "has {length} characters, {NAME_MAX} at most"),
            Self::Character(..) => f.write_str("has a character that names cannot have"),
            Self::Nul(_) => f.write_str("has a NUL character"),
            Self::Escapes => f.write_str("leads out of the attempt's directory"),
            Self::Itself => f.write_str("names the attempt's directory itself"),
        }
    }
}

/// A name that can be part of a file's: `[A-Za-z0-9_-]{1,64}`.
///
/// # Errors
/// The first fault.
pub(crate) fn file_name(name: &str) -> Result<(), NameFault> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    match name.char_indices().find(|(_, c)| !plain(*c)) {
        Some((at, c)) => Err(NameFault::Character(c, at)),
        None if name.is_empty() => Err(NameFault::Empty),
        None if name.len() > NAME_MAX => Err(NameFault::Long(name.len())),
        None => Ok(()),
    }
}

/// A text that can be passed on: one without NUL, which neither argv nor environment nor a path can hold.
///
/// # Errors
/// Where it is.
pub(crate) fn no_nul(text: &str) -> Result<(), NameFault> {
    text.find('\0').map_or(Ok(()), |at| Err(NameFault::Nul(at)))
}

/// A path below the attempt's directory.
///
/// # Errors
/// The first fault.
pub(crate) fn inner_path(path: &str) -> Result<(), NameFault> {
    no_nul(path)?;
    if path.is_empty() {
        return Err(NameFault::Empty);
    }
    let mut depth = 0_i64;
    let mut escapes = path.starts_with('/');
    for component in path.split('/') {
        match component {
            "" | "." => {}
            ".." => depth -= 1,
            _ => depth += 1,
        }
        escapes |= depth < 0;
    }
    match (escapes, depth) {
        (true, _) => Err(NameFault::Escapes),
        (false, 0) => Err(NameFault::Itself),
        (false, _) => Ok(()),
    }
}

/// The text with everything escaped that could steer a terminal or hide text: control characters (ANSI sequences
/// begin with one), line breaks, bidirectional overrides, invisible characters.
#[must_use]
pub fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            letter if steers_or_hides(letter) => {
                // Writing to a string cannot fail.
                let _ = write!(out, "\\u{{{:x}}}", u32::from(letter));
            }
            letter => out.push(letter),
        }
    }
    out
}

/// Whether a terminal would obey the letter, or show it as nothing: control characters, bidirectional overrides, invisible ones.
#[must_use]
pub fn steers_or_hides(letter: char) -> bool {
    letter.is_control()
        || matches!(u32::from(letter),
        0xad | 0x61c | 0x180e | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0xfeff | 0xfff9..=0xfffb
        | 0xe0000..=0xe007f)
}

/// Says in words what is wrong with a name of this kind.
///
/// # Errors
/// Those words.
pub(crate) fn said(what: &str, name: &str, checked: Result<(), NameFault>) -> Result<(), String> {
    checked.map_err(|fault| format!("the {what} {name:?} {fault}"))
}

/// The names of a study, as its row and its first event have them.
pub(crate) fn study(
    name: &str,
    base_case: &str,
    [study_dir, artifacts_dir, study_file]: [&str; 3],
) -> Result<(), String> {
    said("study name", name, file_name(name))?;
    said("base case", base_case, file_name(base_case))?;
    said("study's directory", study_dir, no_nul(study_dir))?;
    said("artifacts directory", artifacts_dir, no_nul(artifacts_dir))?;
    said("study file", study_file, no_nul(study_file))
}

pub(crate) fn stage(name: &str) -> Result<(), String> {
    said("stage name", name, file_name(name))
}

/// The recorded outputs of an attempt.
pub(crate) fn outputs(outputs: &[OutputHash]) -> Result<(), String> {
    outputs.iter().try_for_each(|output| said("output", &output.path, inner_path(&output.path)))
}

pub(crate) fn event(record: &Record) -> Result<(), String> {
    let stages = |stages: &[StageDecl]| stages.iter().try_for_each(|declared| stage(&declared.name));
    match &record.event {
        Event::StudyCreated(created) => {
            let StudyCreated { name, base_case, study_dir, artifacts_dir, study_file, .. } = &**created;
            study(name, base_case, [study_dir, artifacts_dir, study_file])?;
            stages(&created.stages)
        }
        Event::SpecAmended(amended) => stages(&amended.stages),
        Event::AttemptEnded(end) | Event::BaseEnded(end) => match &end.verdict {
            Verdict::Succeeded { outputs: found, .. } => outputs(found),
            _ => Ok(()),
        },
        Event::TrialReused(reused) => outputs(&reused.outputs),
        Event::ResultReread(reread) => match &reread.verdict {
            Verdict::Succeeded { outputs: found, .. } => outputs(found),
            _ => Ok(()),
        },
        Event::TrialImported(import) => outputs(&import.outputs),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_leads_anywhere() {
        for good in ["a", "A-Z_09", &"x".repeat(64)] {
            assert_eq!(file_name(good), Ok(()), "{good}");
        }
        for bad in ["", ".", "..", "../x", "/etc", "a/b", "a\0", "\u{1b}[2J", "a b", "é", &"x".repeat(65)] {
            assert!(file_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_path_of_an_output_stays_below_the_attempt() {
        for good in ["a", "a/b", "./a", "a/../b", "a//b"] {
            assert_eq!(inner_path(good), Ok(()), "{good}");
        }
        for bad in ["", ".", "..", "../x", "/etc", "a/..", "a/../../b", "a\0b", "./"] {
            assert!(inner_path(bad).is_err(), "{bad:?}");
        }
    }
}
