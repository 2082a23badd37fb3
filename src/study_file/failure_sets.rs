//! Failure rules that come with piton: `failures = "eda"` stands for a list of `[[stage.failure]]`.
//!
//! A set is written out in the checked spec, so a study keeps the rules it began with. No set may claim what piton itself
//! knows better, such as a kill for want of memory: its rules ask for words that only the tool or its flow writes, or for an
//! exit that means one thing only.

use super::rules::{FailureMatch, FailureRule};
use crate::model::Severity::{self, High, Medium};

/// A rule on a log: kind, severity, whether a retry could help, regex.
type LogRule = (&'static str, Severity, bool, &'static str);

/// Sets by name.
#[derive(Clone, Copy, Debug)]
pub(super) enum FailureSet {
    /// Yosys, ABC and OpenSTA, and the machine's troubles in these tools' words.
    Eda,
}

/// Each set as a study file calls it.
pub(super) const FAILURE_SETS: [(&str, FailureSet); 1] = [("eda", FailureSet::Eda)];

/// Worked out by making these tools fail (yosys 0.23, its ABC, OpenSTA 2.0.17). In this order: a full disk makes ABC crash or
/// yosys see a syntax error, and want of memory looks like a library that was cut off, so what is certain comes first.
const EDA: [LogRule; 11] = [
    // "Syntax error in line n!" is yosys at the file that ABC could not finish.
    (
        "disk_full",
        High,
        true,
        r"No space left on device|Disk quota exceeded|Can't open ABC output file|Syntax error in line \d+!",
    ),
    (
        "not_writable",
        High,
        false,
        r"Read-only file system|(cannot create|Can't open|[Cc]annot open).*[Pp]ermission denied",
    ),
    ("cpu_limit", Medium, false, r"CPU time limit exceeded|processor time limit of"),
    ("library_cut_off", High, false, r"is cut off|Syntax error in liberty"),
    (
        "out_of_memory",
        High,
        false,
        r"out of memory|Cannot allocate memory|failed to map segment from shared object",
    ),
    ("stack_limit", High, false, r"stack limit of \d+ KiB|stack overflow"),
    (
        "library_missing",
        High,
        false,
        r"Can't open (liberty|input) file .*lib\b|[Cc]annot open .*\.lib\b|Error: .*read_liberty",
    ),
    (
        "unknown_cell",
        High,
        false,
        r"black box|is not part of the design|Module .* referenced in module .* in cell",
    ),
    ("netlist_broken", High, false, r"syntax error"),
    ("absurd_result", High, false, r"cannot be true|has no cells|no [a-z_0-9]+ in sta\.log"),
    ("tool_crashed", High, false, r"return code 1(34|39)\b|Segmentation fault"),
];

impl FailureSet {
    pub(super) fn rules(self) -> Vec<FailureRule> {
        let Self::Eda = self;
        let rule = |(kind, severity, retryable, log): LogRule| FailureRule {
            kind: kind.into(),
            when: FailureMatch::Log(log.to_owned()),
            severity,
            retryable,
        };
        let timed = FailureRule {
            kind: "cpu_limit".into(),
            when: FailureMatch::Signal("SIGXCPU".to_owned()),
            severity: Medium,
            retryable: false,
        };
        EDA.into_iter().map(rule).chain([timed]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study_file::rules::log_regex;

    #[test]
    fn every_rule_could_stand_in_a_study_file() {
        for (name, set) in FAILURE_SETS {
            let own: String = set
                .rules()
                .iter()
                .map(|rule| match &rule.when {
                    FailureMatch::Log(log) => format!("{{ kind = {:?}, log = '''{log}''' }},", rule.kind.name()),
                    FailureMatch::Signal(signal) => {
                        format!("{{ kind = {:?}, signal = {signal:?} }},", rule.kind.name())
                    }
                    FailureMatch::ExitCode(code) => {
                        format!("{{ kind = {:?}, exit_code = {code} }},", rule.kind.name())
                    }
                })
                .collect();
            let text = format!(
                "[study]\nname = \"s\"\n[[stage]]\nname = \"a\"\ncommand = \"true\"\ntrial_budget = 1\n\
                 survivor_count = 1\nfailure = [{own}]\n"
            );
            assert!(crate::study_file::parse("s.toml", &text, &[]).is_ok(), "{name}");
        }
    }

    #[test]
    fn what_the_tools_say_is_named() {
        let rules = FailureSet::Eda.rules();
        let kind = |log: &str| {
            let matches = |rule: &&FailureRule| match &rule.when {
                FailureMatch::Log(pattern) => log_regex(pattern).unwrap().is_match(log.as_bytes()),
                _ => false,
            };
            rules.iter().find(matches).map(|rule| rule.kind.name())
        };
        for (said, wanted) in [
            ("ERROR: Can't open ABC output file `/x/output.blif'.", Some("disk_full")),
            ("ERROR: Syntax error in line 162!", Some("disk_full")),
            ("ERROR: Syntax error in liberty file on line 1022.", Some("library_cut_off")),
            ("synth.sh: 24: cannot create synth.ys: Read-only file system", Some("not_writable")),
            ("Error: out of memory.\ntiming analysis failed", Some("out_of_memory")),
            ("Warning: Module 'NAND2_X1' not found. Creating black box for 'u'.", Some("unknown_cell")),
            ("Error: netlist.v line 3, syntax error", Some("netlist_broken")),
            // Either could be why: it is left to what piton knows of the attempt's memory.
            ("terminate called after throwing an instance of 'std::bad_alloc'", None),
        ] {
            assert_eq!(kind(said), wanted, "{said}");
        }
    }
}
