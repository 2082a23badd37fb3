//! Workflow commands of GitHub Actions: groups, and annotations for what failed.
//!
//! The runner takes any line that begins with `::`, and `##[` anywhere, for a command. Whatever a trial or a study file
//! says is escaped in ours and defused in all other lines: see [`harmless`].
//! <https://docs.github.com/actions/reference/workflows-and-actions/workflow-commands>

use piton::views::clean;

/// Annotations of one kind that are shown for a step; the rest are in the log only.
const SHOWN: u32 = 10;

/// Whether a workflow of GitHub, or of a server that does the same, runs this.
pub fn is_there() -> bool {
    std::env::var("GITHUB_ACTIONS").is_ok_and(|value| value == "true")
}

/// A line that is no command to the runner, whatever it holds.
pub fn harmless(line: &str) -> String {
    let line = line.replace("##[", "## [");
    // The runner looks behind leading white space as well.
    if line.trim_start().starts_with("::") { line.replacen("::", ": :", 1) } else { line }
}

fn data(text: &str) -> String {
    // Ends of lines get a form of their own.
    let text: Vec<String> = text
        .split_inclusive(['\r', '\n'])
        .map(|line| {
            let end = line.trim_end_matches(['\r', '\n']).len();
            let (said, end) = line.split_at(end);
            clean(said) + end
        })
        .collect();
    text.concat().replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A").replace("##[", "## [")
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

/// An annotation of a whole step.
pub fn annotation(level: &str, title: &str, text: &str) -> String {
    format!("::{level} title={}::{}", property(title), data(text))
}

/// What was said so far.
#[derive(Debug, Default)]
pub struct Github {
    in_group: bool,
    errors: u32,
    warnings: u32,
}

impl Github {
    pub fn begin(&mut self, title: &str) -> Vec<String> {
        let mut lines = self.end();
        self.in_group = true;
        lines.push(format!("::group::{}", data(title)));
        lines
    }

    /// It ended, or everything did.
    pub fn end(&mut self) -> Vec<String> {
        if std::mem::take(&mut self.in_group) { vec!["::endgroup::".into()] } else { Vec::new() }
    }

    /// A trial failed for good, or will be tried again.
    pub fn failed(&mut self, case: &str, kind: &str, reason: &str, log: &str, again: bool) -> Vec<String> {
        let (level, said) = if again { ("warning", &mut self.warnings) } else { ("error", &mut self.errors) };
        *said += 1;
        if *said > SHOWN {
            return Vec::new();
        }
        let then = if again { "; it will be tried again" } else { "" };
        vec![annotation(level, &format!("{case} failed: {kind}"), format!("{reason}{then}\n{log}").trim_end())]
    }

    pub fn aborted(&mut self, reason: &str) -> Vec<String> {
        let mut lines = self.end();
        lines.push(annotation("error", "the study was aborted", reason));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_a_trial_says_is_a_command() {
        assert_eq!(harmless("::error::x"), ": :error::x");
        assert_eq!(harmless("  ::add-mask::x"), "  : :add-mask::x");
        assert_eq!(harmless("a ##[error]x"), "a ## [error]x");
        assert_eq!(harmless("[1/2] case a::b"), "[1/2] case a::b");
        let mut github = Github::default();
        let lines = github.failed("c,a::b", "k", "100%\n::stop-commands::x\r##[group]", "log", false);
        assert_eq!(
            lines,
            ["::error title=c%2Ca%3A%3Ab failed%3A k::100%25%0A::stop-commands::x%0D## [group]%0Alog"]
        );
    }

    #[test]
    fn groups_are_closed_and_annotations_counted() {
        let mut github = Github::default();
        assert_eq!(github.begin("a"), ["::group::a"]);
        assert_eq!(github.begin("b"), ["::endgroup::", "::group::b"]);
        assert_eq!(github.aborted("why"), ["::endgroup::", "::error title=the study was aborted::why"]);
        assert!(github.end().is_empty());
        let told = (0..25).filter(|_| !github.failed("c", "k", "r", "l", true).is_empty()).count();
        assert_eq!(told, 10);
        assert_eq!(github.failed("c", "k", "r", "l", false).len(), 1);
    }
}
