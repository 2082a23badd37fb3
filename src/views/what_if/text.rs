//! `what-if` for people.

use std::io::Write;

use super::{ExploredOut, Kind, RetentionOut, Saved, StageOut, WhatIf, Winner};
use crate::views::text::{Paint, clean, counted, duration, number};
use crate::views::{Screen, ViewError};

/// Most cases that are named one by one; JSON has them all.
const NAMED: usize = 12;

impl WhatIf {
    /// Writes it for people.
    ///
    /// # Errors
    /// [`ViewError::Output`].
    pub fn write_text(&self, screen: Screen, out: &mut dyn Write) -> Result<(), ViewError> {
        let title = format!("study {}, had it been told otherwise; nothing is changed", clean(&self.study));
        writeln!(out, "{}", screen.paint(Paint::Bold, &title))?;
        for choice in &self.choices {
            let value = |value: &Option<String>| value.as_deref().map_or_else(|| "not set".into(), clean);
            writeln!(out, "  {}: {} instead of {}", clean(&choice.key), value(&choice.now), value(&choice.was))?;
        }
        for stage in &self.stages {
            writeln!(out)?;
            stage.write(screen, out)?;
        }
        writeln!(out)?;
        if let Some(winner) = &self.winner {
            winner.write(screen, out)?;
        }
        writeln!(out, "{} {}", screen.paint(Paint::Bold, "in all"), self.saved.words())?;
        for retention in &self.retention {
            writeln!(out, "{} {}", screen.paint(Paint::Bold, "retention"), retention.words())?;
        }
        Ok(())
    }

    /// Writes it as one JSON value.
    ///
    /// # Errors
    /// [`ViewError::Output`].
    pub fn write_json(&self, out: &mut dyn Write) -> Result<(), ViewError> {
        serde_json::to_writer_pretty(&mut *out, self)?;
        Ok(out.write_all(b"\n")?)
    }
}

/// Some names, and how many more there are.
fn listed<'a>(names: impl ExactSizeIterator<Item = &'a String>) -> String {
    let more = names.len().saturating_sub(NAMED);
    let shown: Vec<String> = names.take(NAMED).map(|name| clean(name)).collect();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", shown.join(", "))
}

impl StageOut {
    fn write(&self, screen: Screen, out: &mut dyn Write) -> Result<(), ViewError> {
        let title = screen.paint(Paint::Bold, &format!("stage {} {}", self.index, clean(&self.name)));
        let Some(trials) = self.trials else {
            writeln!(out, "{title}: unknown, since its trials depend on what never ran")?;
            return Ok(());
        };
        let mut parts = vec![counted(trials, "trial")];
        let gone = match self.reports_gone {
            0 => String::new(),
            gone => format!(" (the reports of {gone} are gone)"),
        };
        for (count, words) in [
            (self.never_ran, "never ran"),
            (self.unknown.saturating_sub(self.never_ran), "unknown"),
            (self.pruned, "ended early"),
        ] {
            if count > 0 {
                let gone = if words == "unknown" { gone.as_str() } else { "" };
                parts.push(format!("{count} {words}{gone}"));
            }
        }
        writeln!(out, "{title}: {}", parts.join(", "))?;
        let survivors = if self.certain { "survivors" } else { "the best of what ran" };
        let best = self.best.iter().map(|case| {
            let doubt = if self.certain || !case.certain { "" } else { " (survives for certain)" };
            let values: Vec<String> = case.values.iter().map(|value| number(*value)).collect();
            let values = if values.is_empty() { String::new() } else { format!(" = {}", values.join(", ")) };
            format!("{}{values}{doubt}", clean(&case.case))
        });
        let best: Vec<String> = best.collect();
        let none = if self.certain { "none: the study would have been aborted" } else { "none" };
        let best = if best.is_empty() { none.into() } else { listed(best.iter()) };
        writeln!(out, "  {survivors}: {best}")?;
        if !self.explorers.is_empty() {
            writeln!(out, "  go on to explore: {}", listed(self.explorers.iter()))?;
        }
        for (names, words) in [(&self.lost, "survived, and would not"), (&self.doubtful, "survived, and may not")]
        {
            if !names.is_empty() {
                writeln!(out, "  {words}: {}", listed(names.iter()))?;
            }
        }
        if self.saved != (Saved { whole: true, ..Saved::default() }) {
            writeln!(out, "  {}", self.saved.words())?;
        }
        Ok(())
    }
}

impl Saved {
    fn words(&self) -> String {
        let mut parts = Vec::new();
        if self.trials > 0 {
            let unmeasured = match self.unmeasured {
                0 => String::new(),
                unmeasured => format!(", without {unmeasured} that nobody measured"),
            };
            let (trials, cpu) = (counted(self.trials, "trial"), duration(micros(self.cpu_s)));
            parts.push(format!("{trials} fewer ({cpu} of CPU{unmeasured})"));
        }
        if self.cut_cpu_s > 0.0 {
            let cpu = duration(micros(self.cut_cpu_s));
            parts.push(format!("about {cpu} of CPU less by ending early, if a trial's steps cost the same"));
        }
        if self.added_trials > 0 {
            parts.push(format!("{} more, whose CPU is unknown", counted(self.added_trials, "trial")));
        }
        if !self.whole {
            parts.push("what later stages save or add is unknown".into());
        }
        if parts.is_empty() { "nothing saved, nothing added".into() } else { parts.join("; ") }
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a duration that is shown")]
fn micros(seconds: f64) -> u64 {
    (seconds * 1e6) as u64
}

impl Winner {
    fn write(&self, screen: Screen, out: &mut dyn Write) -> Result<(), ViewError> {
        let kept = match self.kept {
            Kind::Kept => "its line would have been kept",
            Kind::Lost => "its line would have been lost",
            Kind::Unknown => "whether its line would have been kept is unknown",
        };
        let title = screen.paint(Paint::Bold, &format!("winner {}", clean(&self.case)));
        writeln!(out, "{title}: {kept}")?;
        for step in &self.line {
            let kept = match step.kept {
                Kind::Kept => "kept",
                Kind::Lost => "lost",
                Kind::Unknown => "unknown",
            };
            let rank = step.rank.map_or_else(String::new, |rank| format!(", ranked {rank} of what is known"));
            let why = step.why.as_ref().map_or_else(String::new, |why| format!(": {why}"));
            writeln!(out, "  {} in {}: {kept}{rank}{why}", clean(&step.case), clean(&step.stage))?;
        }
        Ok(())
    }
}

impl RetentionOut {
    /// In words.
    pub(in crate::views) fn words(&self) -> String {
        let are = if self.retained == 1 { "is" } else { "are" };
        let needed = match self.needed {
            Some(needed) => format!("; all are from the first {needed}"),
            None => String::new(),
        };
        let bias = match self.explored {
            None => ". Cases that did not survive had no children, so nothing is known of theirs: this is biased"
                .to_owned(),
            Some(ExploredOut { explorers, found, share: [low, high] }) => {
                let (have, percent) =
                    (if found == 1 { "has" } else { "have" }, |share: f64| (share * 100.0).round());
                format!(
                    ". Of {} drawn from those that did not survive {found} {have} a descendant among them, so of all of those {} to {} % would (95 %)",
                    counted(explorers, "explorer"),
                    percent(low),
                    percent(high)
                )
            }
        };
        format!(
            "of the best {} of {} {} {are} from the first {} of the {} that survived {}{needed}{bias}",
            self.best,
            clean(&self.later),
            self.retained,
            self.first,
            self.survivors,
            clean(&self.earlier)
        )
    }
}
