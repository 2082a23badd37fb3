//! `why` for people.

use std::io::Write;

use super::Why;
use crate::model::{AttemptRow, Metric, Metrics, Origin, Params};
use crate::views::dump::{RemoteOut, accepted_words, value_text};
use crate::views::shell_quoted;
use crate::views::text::{Paint, bytes, clean, duration, number};
use crate::views::words::{exit_code, exit_signal, local_time, origin_words, remote_job, source};
use crate::views::{Screen, ViewError};

impl Why {
    /// Writes it for people.
    ///
    /// # Errors
    /// [`ViewError::Output`].
    pub fn write_text(&self, screen: Screen, out: &mut dyn Write) -> Result<(), ViewError> {
        let title = format!(
            "{}: {}{}{}, trial {} of stage {} {}",
            clean(&self.case),
            self.state.name(),
            if self.outside { ", outside" } else { "" },
            match (self.survivor, self.explorer) {
                (true, _) => ", survivor",
                (_, true) => ", explorer",
                _ => "",
            },
            self.index,
            self.stage.index,
            clean(&self.stage.name),
        );
        writeln!(out, "{}", screen.paint(Paint::Bold, &title))?;
        // Sentences and commands are read and copied whole; a terminal wraps them.
        writeln!(out, "{}", clean(&self.reason))?;
        self.excerpt(screen, out)?;
        if let Some(repeated) = &self.repeated {
            repeated.write_text(screen, out)?;
        }
        writeln!(out, "\n{}", screen.paint(Paint::Bold, "lineage"))?;
        for step in &self.lineage {
            let explorer = if step.explorer { " (an explorer, no survivor)" } else { "" };
            let mut line = format!("  {}{explorer}", clean(&step.case));
            for part in [params(&step.chose), metrics(&step.metrics)] {
                if !part.is_empty() {
                    line.push_str(&format!("  {part}"));
                }
            }
            writeln!(out, "{}", screen.line(&line))?;
        }
        writeln!(out, "  {} (base case)", clean(&self.base_case))?;
        writeln!(out, "\n{}", screen.paint(Paint::Bold, "attempts"))?;
        self.attempts(screen, out)?;
        self.nearest(screen, out)?;
        if !self.left_out.is_empty() {
            let words = self.left_out.iter().map(|(name, what)| format!("{} ({})", clean(name), clean(what)));
            writeln!(out, "left out of its metrics: {}", words.collect::<Vec<_>>().join(", "))?;
        }
        writeln!(out, "\n{} {}", screen.paint(Paint::Bold, "params"), params(&self.params))?;
        writeln!(out, "{} {}", screen.paint(Paint::Bold, "seed"), self.seed)?;
        for tool in &self.versions {
            let line =
                format!("{} {}: {}", screen.paint(Paint::Bold, "tool"), clean(&tool.tool), clean(&tool.version));
            writeln!(out, "{line}")?;
        }
        if let Some(command) = &self.command {
            let words: Vec<_> = command.iter().map(|word| clean(&shell_quoted(word))).collect();
            writeln!(out, "{} {}", screen.paint(Paint::Bold, "command"), words.join(" "))?;
        }
        Ok(())
    }

    /// What it depends on that its nearest earlier result did not.
    fn nearest(&self, screen: Screen, out: &mut dyn Write) -> Result<(), ViewError> {
        let Some(nearest) = self.nearest.as_ref().filter(|nearest| !nearest.differs.is_empty()) else {
            return Ok(());
        };
        let title = screen.paint(Paint::Bold, "differs from the nearest earlier result");
        writeln!(out, "\n{title}, {}", clean(&origin_words(&nearest.origin)))?;
        for difference in &nearest.differs {
            writeln!(out, "{}", screen.line(&format!("  {}", clean(&difference.words()))))?;
        }
        Ok(())
    }

    fn excerpt(&self, screen: Screen, out: &mut dyn Write) -> Result<(), ViewError> {
        for line in self.failure.iter().flat_map(|failure| failure.log_excerpt.lines()) {
            writeln!(out, "{}", screen.paint(Paint::Faint, &screen.line(&format!("  | {}", clean(line)))))?;
        }
        Ok(())
    }

    fn attempts(&self, screen: Screen, out: &mut dyn Write) -> Result<(), ViewError> {
        if let Some(origin) = &self.reused_from {
            writeln!(out, "  {}", clean(&reused_words(origin)))?;
            if let Some(doubt) = &self.doubt {
                writeln!(out, "  {}", screen.paint(Paint::Bad, &clean(&format!("doubtful: {doubt}"))))?;
            }
        } else if let Some(imported) = &self.imported {
            let (from, at) = (source(&imported.source), local_time(imported.at_ms));
            writeln!(out, "  {}", clean(&format!("none: imported from {from}, {at}")))?;
        } else if self.attempts.is_empty() {
            writeln!(out, "  none yet")?;
        }
        for (origin, reason) in &self.missed {
            writeln!(out, "  the result of {} was not taken: {}", clean(&origin_words(origin)), clean(reason))?;
        }
        for accepted in &self.accepted {
            let changes = accepted.inputs.iter().chain(&accepted.tools);
            let words = accepted_words(&accepted.by, &accepted.note, changes);
            writeln!(
                out,
                "  made with what is another one now; {}, {}",
                local_time(accepted.at_ms),
                clean(&words)
            )?;
        }
        for again in &self.reread {
            let at = local_time(again.at_ms);
            writeln!(out, "  read again by rules that an amendment changed, {at}: {}", again.outcome)?;
        }
        for attempt in &self.attempts {
            let shown = self.attempt_out(attempt);
            writeln!(out, "{}", screen.line(&format!("  #{}  {}", attempt.n, attempt_words(attempt))))?;
            writeln!(out, "      began {}, {}", local_time(attempt.started_ms), clean(&shown.dir_words()))?;
            if let Some(job) = &attempt.remote {
                let queued = shown.remote().and_then(RemoteOut::queued_words);
                let queued = queued.map_or_else(String::new, |words| format!(", {words}"));
                let line = format!("      {}{queued}", clean(&remote_job(job)));
                writeln!(out, "{}", screen.line(&line))?;
            }
            if let Some(given) = self.given.get(&attempt.n) {
                let words: Vec<_> = given.iter().map(|(pool, had)| format!("{pool} {had}")).collect();
                writeln!(out, "{}", screen.line(&format!("      with {}", clean(&words.join("; ")))))?;
            }
            // A sentence, and what a job said itself: whole.
            for line in self.interruptions.get(&attempt.n).iter().flat_map(|reason| reason.lines()) {
                writeln!(out, "      {}", clean(line))?;
            }
        }
        Ok(())
    }
}

/// `reused from study `s`, case `s_0_3`, attempt 1 (ab…)`.
fn reused_words(origin: &Origin) -> String {
    let Origin { study, study_id, case, attempt } = origin;
    format!("none: reused from study `{study}`, case `{case}`, attempt {attempt} (study {study_id})")
}

fn attempt_words(attempt: &AttemptRow) -> String {
    let Some(ended) = attempt.outcome else {
        return "runs".to_owned();
    };
    let mut words = ended.name().to_owned();
    if let Some(code) = exit_code(attempt.exit).filter(|code| *code != 0) {
        words.push_str(&format!(" (exit code {code})"));
    }
    if let Some(signal) = exit_signal(attempt.exit) {
        words.push_str(&format!(" ({signal})"));
    }
    if let Some(usage) = attempt.measured() {
        let (wall, cpu) = (duration(usage.wall_us), duration(usage.cpu_us));
        words.push_str(&format!("  {wall}, {cpu} CPU, {}", bytes(usage.peak_rss_bytes)));
    }
    words
}

pub(in crate::views) fn params(params: &Params) -> String {
    let words = params.iter().map(|(name, value)| format!("{}={}", clean(name), clean(&value_text(value))));
    words.collect::<Vec<_>>().join(" ")
}

pub(super) fn metrics(metrics: &Metrics) -> String {
    let words = metrics.iter().map(|(name, metric)| match metric {
        Metric::Number(value) => format!("{}: {}", clean(name), number(*value)),
        Metric::Label(text) => format!("{}: {}", clean(name), clean(text)),
    });
    words.collect::<Vec<_>>().join(", ")
}
