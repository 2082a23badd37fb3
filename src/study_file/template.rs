//! Text with placeholders: splitting it, and filling it in for one attempt.
//!
//! `{name}` is a placeholder, `{{` and `}}` are braces. In an argv list each value replaces its placeholder as it
//! is. In a line for `sh -c` each value is quoted so that it stays one word of data; see [`Template::expand_shell`].
//! No value may ever be read as shell syntax.

use std::fmt;
use std::ops::Range;

use crate::model::{Given, Params};

use super::shell::{Context, Scanner};
use super::types::{Part, Template, Work};

/// Placeholders that are no params.
pub(super) const BUILTIN_PLACEHOLDERS: [&str; 6] = ["case", "parent_dir", "study_dir", "seed", "attempt", "slot"];

/// In stages whose cases are repeated a placeholder, too; elsewhere a param may be called so.
pub(super) const REPLICA: &str = "replica";

/// What a template is filled in with: one attempt of one trial.
#[derive(Clone, Copy, Debug)]
pub struct ExpandContext<'a> {
    /// The case's params.
    pub params: &'a Params,
    /// `{case}`.
    pub case: &'a str,
    /// `{parent_dir}`; `None` in stage 0.
    pub parent_dir: Option<&'a str>,
    /// `{study_dir}`.
    pub study_dir: &'a str,
    /// `{seed}`, the trial's.
    pub seed: u32,
    /// `{replica}`, from 0, where cases are repeated.
    pub replica: Option<u32>,
    /// `{attempt}`, from 1.
    pub attempt: u32,
    /// `{slot}`, from 0.
    pub slot: u32,
    /// What the trial has: a pool's name stands for that.
    pub given: &'a [Given],
}

/// A stage's work for one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expanded {
    /// Program and arguments.
    Argv(Vec<String>),
    /// A line for `sh -c`.
    Shell(String),
    /// The embedding program's closure.
    Closure,
}

/// A placeholder without a value: the spec does not belong to the params.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the placeholder `{{{placeholder}}}` has no value here")]
pub struct ExpandError {
    /// Without its braces.
    pub placeholder: String,
}

impl Work {
    /// Whether it says where a directory is: by `{study_dir}` or `{parent_dir}`.
    #[must_use]
    pub(crate) fn names_directory(&self) -> bool {
        self.has(|part| matches!(part, Part::StudyDir | Part::ParentDir))
    }

    /// Whether it says where its parent's directory is.
    #[must_use]
    pub(crate) fn names_parent_directory(&self) -> bool {
        self.has(|part| matches!(part, Part::ParentDir))
    }

    fn has(&self, wanted: impl Fn(&Part) -> bool) -> bool {
        let has = |template: &Template| template.parts.iter().any(&wanted);
        match self {
            Self::Argv(words) => words.iter().any(has),
            Self::Shell(line) => has(line),
            Self::Closure => false,
        }
    }

    /// The concrete command of one attempt.
    ///
    /// # Errors
    /// A placeholder has no value; never for the params the plan gives to a checked spec.
    pub fn expand(&self, context: &ExpandContext<'_>) -> Result<Expanded, ExpandError> {
        match self {
            Self::Argv(words) => {
                let words: Result<_, _> = words.iter().map(|word| word.expand(context)).collect();
                words.map(Expanded::Argv)
            }
            Self::Shell(line) => line.expand_shell(context).map(Expanded::Shell),
            Self::Closure => Ok(Expanded::Closure),
        }
    }
}

impl Template {
    /// The text with each placeholder replaced by its value as it is.
    ///
    /// # Errors
    /// A placeholder has no value.
    pub fn expand(&self, context: &ExpandContext<'_>) -> Result<String, ExpandError> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(piece) => text.push_str(piece),
                other => text.push_str(&value_of(other, context)?),
            }
        }
        Ok(text)
    }

    /// The text as a line for `sh -c`, each value quoted for the place it stands in.
    ///
    /// Outside quotes a value made of `A-Z a-z 0-9 _ @ % + : , . / -` alone stays as it is, any other is put in
    /// single quotes, so it is always one word. Inside `'…'`, `"…"` and `$((…))` what would end the quotes or
    /// start an expansion is escaped. The check refuses placeholders where no quoting is safe: in backticks, here-documents,
    /// comments and `${…}`, and right after `$` or a backslash.
    ///
    /// # Errors
    /// A placeholder has no value.
    pub fn expand_shell(&self, context: &ExpandContext<'_>) -> Result<String, ExpandError> {
        let mut line = String::new();
        let mut scanner = Scanner::default();
        let mut parts = self.parts.iter().peekable();
        while let Some(part) = parts.next() {
            if let Part::Text(piece) = part {
                scanner.feed(piece);
                line.push_str(piece);
                continue;
            }
            let value = value_of(part, context)?;
            // `2>file` redirects stream 2, `'2'>file` writes the word 2.
            let redirected = matches!(parts.peek(), Some(Part::Text(next)) if next.starts_with(['<', '>']));
            line.push_str(&quoted(&value, &scanner.context(), redirected));
            scanner.value();
        }
        Ok(line)
    }

    /// Positions in `parts` of placeholders that no quoting makes safe in a line for `sh -c`, with the reason.
    pub(super) fn shell_hazards(&self) -> Vec<(usize, &'static str)> {
        let mut scanner = Scanner::default();
        let mut hazards = Vec::new();
        for (position, part) in self.parts.iter().enumerate() {
            if let Part::Text(piece) = part {
                scanner.feed(piece);
                continue;
            }
            if let Context::Unsafe(why) = scanner.context() {
                hazards.push((position, why));
            }
            scanner.value();
        }
        hazards
    }
}

fn quoted(value: &str, context: &Context, redirected: bool) -> String {
    match context {
        Context::Bare if is_plain_word(value) && !redirected => value.to_owned(),
        Context::Bare | Context::Unsafe(_) => format!("'{}'", value.replace('\'', r"'\''")),
        Context::Single => value.replace('\'', r"'\''"),
        Context::Double => {
            let mut escaped = String::with_capacity(value.len());
            for character in value.chars() {
                if matches!(character, '"' | '$' | '`' | '\\') {
                    escaped.push('\\');
                }
                escaped.push(character);
            }
            escaped
        }
    }
}

fn is_plain_word(value: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_@%+:,./-".contains(&byte);
    !value.is_empty() && value.bytes().all(plain)
}

fn value_of(part: &Part, context: &ExpandContext<'_>) -> Result<String, ExpandError> {
    let missing = |name: &str| ExpandError { placeholder: name.to_owned() };
    match part {
        Part::Text(text) => Ok(text.clone()),
        Part::Param(name) => {
            let replica = || context.replica.filter(|_| name == REPLICA).map(|replica| replica.to_string());
            let value = context.params.get(name).map(ToString::to_string);
            let given = || context.given.iter().find(|given| given.pool == *name).map(Given::text);
            value.or_else(replica).or_else(given).ok_or_else(|| missing(name))
        }
        Part::Case => Ok(context.case.to_owned()),
        Part::ParentDir => context.parent_dir.map(str::to_owned).ok_or_else(|| missing("parent_dir")),
        Part::StudyDir => Ok(context.study_dir.to_owned()),
        Part::Seed => Ok(context.seed.to_string()),
        Part::Attempt => Ok(context.attempt.to_string()),
        Part::Slot => Ok(context.slot.to_string()),
    }
}

impl fmt::Display for Template {
    /// The text as a study file writes it, braces doubled again.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts.iter().try_for_each(|part| match part {
            Part::Text(text) => f.write_str(&text.replace('{', "{{").replace('}', "}}")),
            Part::Param(name) => write!(f, "{{{name}}}"),
            Part::Case => f.write_str("{case}"),
            Part::ParentDir => f.write_str("{parent_dir}"),
            Part::StudyDir => f.write_str("{study_dir}"),
            Part::Seed => f.write_str("{seed}"),
            Part::Attempt => f.write_str("{attempt}"),
            Part::Slot => f.write_str("{slot}"),
        })
    }
}

/// A template split into parts, with the bytes each placeholder had.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Split {
    pub template: Template,
    /// By position in the template's parts.
    pub holes: Vec<(usize, Range<usize>)>,
    pub errors: Vec<(Range<usize>, BraceError)>,
}

/// What is wrong with a brace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum BraceError {
    /// `{` without its `}`.
    Unclosed,
    /// `}` without its `{`.
    Unopened,
    /// `{…}` around what is no name; `true` right after a `$`.
    NoName(bool),
}

/// Splits a text at its placeholders; what is wrong stays text.
pub(super) fn split(text: &str) -> Split {
    let mut result = Split { template: Template { parts: Vec::new() }, holes: Vec::new(), errors: Vec::new() };
    let mut piece = String::new();
    let mut at = 0;
    while let Some(character) = text.get(at..).and_then(|rest| rest.chars().next()) {
        let rest = text.get(at..).unwrap_or_default();
        let inside = rest.strip_prefix('{').and_then(|inside| inside.split_once('}'));
        let after = match (character, inside) {
            _ if rest.starts_with("{{") || rest.starts_with("}}") => {
                piece.push(character);
                at + 2
            }
            ('{', Some((name, _))) if is_name(name) => {
                if !piece.is_empty() {
                    result.template.parts.push(Part::Text(std::mem::take(&mut piece)));
                }
                let after = at + name.len() + 2;
                result.holes.push((result.template.parts.len(), at..after));
                result.template.parts.push(placeholder(name));
                after
            }
            ('{', Some((name, _))) if !name.contains(['{', '\n']) => {
                let after = at + name.len() + 2;
                result.errors.push((at..after, BraceError::NoName(piece.ends_with('$'))));
                after
            }
            ('{', _) => {
                result.errors.push((at..at + 1, BraceError::Unclosed));
                at + 1
            }
            ('}', _) => {
                result.errors.push((at..at + 1, BraceError::Unopened));
                at + 1
            }
            _ => {
                piece.push(character);
                at + character.len_utf8()
            }
        };
        at = after;
    }
    if !piece.is_empty() {
        result.template.parts.push(Part::Text(piece));
    }
    result
}

fn placeholder(name: &str) -> Part {
    match name {
        "case" => Part::Case,
        "parent_dir" => Part::ParentDir,
        "study_dir" => Part::StudyDir,
        "seed" => Part::Seed,
        "attempt" => Part::Attempt,
        "slot" => Part::Slot,
        param => Part::Param(param.to_owned()),
    }
}

/// What [`is_name`] asks for, as a regular expression.
pub(super) const PARAM_PATTERN: &str = "^[A-Za-z_][A-Za-z0-9_]*$";

/// Whether it is `[A-Za-z_][A-Za-z0-9_]*`.
pub(super) fn is_name(text: &str) -> bool {
    let word = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    word && !text.is_empty() && !text.starts_with(|first: char| first.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Value;

    fn params() -> Params {
        let value = |text: &str| Value::Str(text.into());
        Params::from([
            ("plain".into(), value("rtl/gcd.v")),
            ("evil".into(), value("a b'; touch \"$HOME\" `x` \\ $(y)\nz")),
            ("empty".into(), value("")),
            ("n".into(), Value::Int(-2)),
            ("two".into(), Value::Int(2)),
            ("x".into(), Value::Float(0.6)),
        ])
    }

    fn context(params: &Params) -> ExpandContext<'_> {
        ExpandContext {
            params,
            case: "gcd_1_7",
            parent_dir: Some("/a/parent dir"),
            study_dir: "/s",
            seed: 99,
            replica: Some(4),
            attempt: 2,
            slot: 0,
            given: &[],
        }
    }

    fn shell(text: &str) -> String {
        let params = params();
        let split = split(text);
        assert_eq!(split.errors, []);
        assert_eq!(split.template.shell_hazards(), []);
        split.template.expand_shell(&context(&params)).unwrap()
    }

    #[test]
    fn argv_words_take_values_as_they_are() {
        let params = params();
        let words = ["{plain}", "--x={x},{n}", "{{{case}}}", "{parent_dir}{study_dir}{seed}{attempt}{slot}"];
        let work = Work::Argv(words.map(|word| split(word).template).to_vec());
        let Expanded::Argv(argv) = work.expand(&context(&params)).unwrap() else { panic!("not argv") };
        assert_eq!(argv, ["rtl/gcd.v", "--x=0.6,-2", "{gcd_1_7}", "/a/parent dir/s9920"]);
    }

    #[test]
    fn shell_values_are_quoted_only_where_needed() {
        assert_eq!(shell("run {plain} {n} {empty}"), "run rtl/gcd.v -2 ''");
        assert_eq!(shell("cd {parent_dir}/x"), "cd '/a/parent dir'/x");
        assert_eq!(shell("echo \"<{plain}>\" '{plain}'"), "echo \"<rtl/gcd.v>\" 'rtl/gcd.v'");
        assert_eq!(shell("echo {two}>out"), "echo '2'>out");
        assert_eq!(shell("echo $(( {two} * 3 )) ${{HOME}}"), "echo $(( 2 * 3 )) ${HOME}");
    }

    /// The real judge: whatever the quoting context, `sh` must see the very bytes of the value as one word.
    #[test]
    fn a_shell_reads_every_value_back() {
        let params = params();
        let Some(Value::Str(evil)) = params.get("evil") else { panic!("no value") };
        for line in [
            "printf %s {evil}",
            "printf %s \"{evil}\"",
            "printf %s '{evil}'",
            "printf %s \"$(printf %s {evil})\"",
            "printf %s \"$(printf %s \"{evil}\")\"",
            "x=$(printf %s '{evil}'); printf %s \"$x\"",
            "# it's a comment\nprintf %s {evil} # and \"another",
            "printf %s {evil}\\\n",
        ] {
            let output = std::process::Command::new("sh").arg("-c").arg(shell(line)).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout), evil.as_str(), "{line}");
        }
    }

    #[test]
    fn places_no_quoting_helps_are_known() {
        for (line, hazard) in [
            ("echo `cat {plain}`", true),
            ("cat <<E\n{plain}\nE\n", true),
            ("echo $((1<<2))\n echo {plain}", false),
            ("echo hi # {plain}", true),
            ("echo a#b {plain}", false),
            ("echo ${plain}", true),
            ("echo \\{plain}", true),
            ("echo \\\\{plain}", false),
            ("echo \"${{X:-{plain}}}\"", true),
            ("echo ${{X}} {plain}", false),
            ("echo $'it\\'s' {plain}", true),
            ("echo \"$(case x in x) echo {plain};; esac)\"", true),
            ("cat <<< {plain}", false),
        ] {
            assert_eq!(!split(line).template.shell_hazards().is_empty(), hazard, "{line}");
        }
    }

    #[test]
    fn wrong_braces_are_found_where_they_are() {
        let errors = |text: &str| split(text).errors;
        assert_eq!(errors("a {b"), [(2..3, BraceError::Unclosed)]);
        assert_eq!(errors("a } b"), [(2..3, BraceError::Unopened)]);
        assert_eq!(errors("é{}"), [(2..4, BraceError::NoName(false))]);
        assert_eq!(errors("{a b} ${1}"), [(0..5, BraceError::NoName(false)), (7..10, BraceError::NoName(true))]);
        assert_eq!(errors("{a {b}"), [(0..1, BraceError::Unclosed)]);
        assert_eq!(errors("{{a}} {b}"), []);
    }

    #[test]
    fn a_template_prints_as_it_was_written() {
        for text in ["{a}-{case}{{x}}", "{{{parent_dir}}} {seed}"] {
            assert_eq!(split(text).template.to_string(), text);
        }
    }

    #[test]
    fn a_missing_value_is_named() {
        let params = Params::new();
        let error = split("{gone}").template.expand(&context(&params)).unwrap_err();
        assert_eq!(error.to_string(), "the placeholder `{gone}` has no value here");
    }
}
